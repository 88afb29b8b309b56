"""What holds of every example: it is right, it says what it needs, and a test takes it through what it is for."""
import pathlib
import re

import pytest

from examples import FOLDER, files, is_configuration, plain, settings, variables
from harness import ROOT, run_weir

HERE = pathlib.Path(__file__).resolve().parent
CONFIGURATIONS = [path.name for path in files() if is_configuration(path)]


def run(name, *args, env):
    return run_weir("-c", str(FOLDER / name), *args, env=env)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for path in files():
        for name in re.findall(r"\$\{(\w+)", path.read_text()):
            monkeypatch.delenv(name, raising=False)


def test_there_are_examples():
    assert len(CONFIGURATIONS) >= 7


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_each_is_tested(path):
    """test_NAME.py takes it through; what is no configuration of its own is used by one that is."""
    if is_configuration(path):
        test = HERE / f"test_{path.stem.replace('-', '_')}.py"
        assert test.exists() and f'"{path.name}"' in test.read_text(), f"{path.name} has no test; write {test.name}"
    else:
        assert any(f"file: {path.name}" in plain(other.read_text()) for other in files()), f"no example uses {path.name}"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_it_is_right(name):
    done = run(name, "--check", env=settings((FOLDER / name).read_text()))
    assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_without_its_variables_it_says_which(name):
    """Each of them, by itself; and its head names them, so that nobody has to find out so."""
    text = (FOLDER / name).read_text()
    head = text.partition("\nversion:")[0]
    said = re.search(r"(?m)^# Set: ([^\n]*)|No variable has to be set", head)
    assert said, "the head says nothing about variables"
    assert sorted(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", re.sub(r"\. .*", "", said[1] or ""))) == variables(text)
    for missing in variables(text):
        env = {k: v for k, v in settings(text).items() if k != missing}
        done = run(name, "--check", env=env)
        assert done.returncode == 2 and re.search(rf"{re.escape(name)}:\d+:\d+: .*\b{missing}\b", done.stderr), done


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_in_force_it_is_the_same_again(name):
    """--print-config of its own output; and shows no secret."""
    env = settings((FOLDER / name).read_text())
    once = run(name, "--print-config", env=env).stdout
    files_of = {path.name: path.read_text() for path in files() if not is_configuration(path)}
    assert once and run_weir("--print-config", config=once, files=files_of).stdout == once
    assert "canary-" not in once


@pytest.mark.parametrize("page", ["README.md", "conf/weir.yaml"])
def test_what_is_named_is_there(page):
    for name in re.findall(r"conf/examples/([a-z-]+\.yaml)", (ROOT / page).read_text()):
        assert (FOLDER / name).exists(), f"{page} names {name}"


def test_one_that_names_another_names_one_that_is_there():
    names = {path.name for path in files()} | {"weir.yaml"}
    for path in files():
        assert set(re.findall(r"\b[a-z][a-z-]*\.yaml\b", path.read_text())) <= names, path.name
