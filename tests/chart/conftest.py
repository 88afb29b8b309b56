import os
import shutil
import subprocess

import pytest

import rendering


def run(*command, cwd=rendering.HERE, seconds=300, **environment):
    """A tool that is missing or fails is a failure, which names it."""
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not installed", pytrace=False)
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, text=True, timeout=seconds,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}", pytrace=False)


@pytest.fixture(scope="session")
def renderer(tmp_path_factory):
    """Built once, from Debian's Go packages alone."""
    directory = tmp_path_factory.mktemp("render")
    binary = directory / "render"
    run("go", "build", "-p", "2", "-o", str(binary), "render.go", GO111MODULE="off", GOFLAGS="",
        GOPATH=f"{directory}/go:/usr/share/gocode", GOCACHE=str(directory / "cache"))
    rendering.renderer = str(binary)
    return rendering.render


@pytest.fixture(scope="session")
def node_modules():
    installed = rendering.HERE / "node_modules" / ".package-lock.json"
    lock = rendering.HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
