"""What `cmake --install` installs and cpack packs: files, man pages, the Debian package, and weir as a service.

Both are made from the build directory that WEIR_BIN stands in; they build nothing themselves.
"""
import contextlib
import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import harness
from harness import BIN, DEADLINE, ROOT, base_config, exchange, free_port, request, wait_until

BUILD = BIN.parent
PACKAGES = {  # of Debian, that the tools are in
    "cmake": "cmake", "cpack": "cmake", "dpkg-shlibdeps": "dpkg-dev", "file": "file", "groff": "groff-base", "mandoc": "mandoc",
    "readelf": "binutils", "systemd-analyze": "systemd", "systemd-sysusers": "systemd", "dpkg": "dpkg", "dpkg-deb": "dpkg",
}
UNIT = "usr/lib/systemd/system/weir.service"
PAGES = {"weir.8": "usr/share/man/man8/weir.8.gz", "weir.yaml.5": "usr/share/man/man5/weir.yaml.5.gz"}
EXAMPLES = sorted(str(p.relative_to(ROOT / "conf")) for p in (ROOT / "conf/examples").rglob("*") if p.is_file())
FILES = {  # below the root, with their modes
    "etc/weir/weir.yaml": 0o644,
    "usr/bin/weir": 0o755,
    UNIT: 0o644,
    "usr/lib/sysusers.d/weir.conf": 0o644,
    "usr/share/doc/weir/README.md": 0o644,
    "usr/share/doc/weir/copyright": 0o644,
    "usr/share/weir/schema.json": 0o644,
    **{page: 0o644 for page in PAGES.values()},
    **{f"usr/share/doc/weir/{name}": 0o644 for name in EXAMPLES},
}


def run(*argv, env=None, fine=(0,), **kw):
    """Runs a tool to its end; one that is missing, or fails, is named."""
    for tool in (argv[0], *(("file", "dpkg-shlibdeps") if argv[0] == "cpack" else ())):
        assert shutil.which(tool), f"{tool} is missing; it is in Debian's package {PACKAGES.get(tool, tool)}"
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
                          env={**os.environ, **(env or {})}, **kw)
    assert done.returncode in fine, f"{' '.join(map(str, argv))}: {done.returncode}\n{(done.stdout + done.stderr)[-6000:]}"
    return done


def install(into, prefix="/usr"):
    assert (BUILD / "CMakeCache.txt").exists(), f"{BUILD} is no build directory: WEIR_BIN must stand in one"
    return run("cmake", "--install", BUILD, "--prefix", prefix, env={"DESTDIR": str(into)}, umask=0o022).stdout


def pack(into, epoch="1700000000"):
    assert (BUILD / "CPackConfig.cmake").exists(), f"{BUILD} is no build directory: WEIR_BIN must stand in one"
    run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", into, env={"SOURCE_DATE_EPOCH": epoch}, umask=0o022, cwd=into)
    (deb,) = into.glob("*.deb")
    return deb


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A root into which weir was installed."""
    root = tmp_path_factory.mktemp("tree")
    install(root)
    return root


@pytest.fixture(scope="module")
def deb(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def unpacked(deb, tmp_path_factory):
    """The package's files, and what controls it in DEBIAN/."""
    root = tmp_path_factory.mktemp("unpacked") / "root"
    run("dpkg-deb", "-R", deb, root)
    return root


def modes(root):
    return {str(p.relative_to(root)): p.lstat().st_mode & 0o7777 for p in sorted(root.rglob("*")) if not p.is_dir()}


# -- the installation --------------------------------------------------------------------------------------------------

def test_an_installation_is_exactly_these_files(tree):
    assert modes(tree) == FILES
    folders = {str(p.relative_to(tree)): p.stat().st_mode & 0o7777 for p in tree.rglob("*") if p.is_dir()}
    assert set(folders.values()) == {0o755}, folders
    assert EXAMPLES


def test_what_is_installed_is_what_is_in_the_tree(tree):
    for at, source in (("etc/weir/weir.yaml", "proxy/service/weir.yaml"), ("usr/share/weir/schema.json", "conf/schema.json"),
                       ("usr/share/doc/weir/copyright", "proxy/service/copyright"), ("usr/share/doc/weir/README.md", "README.md")):
        assert (tree / at).read_bytes() == (ROOT / source).read_bytes(), at


def test_installing_again_keeps_an_edited_configuration(tmp_path):
    install(tmp_path)
    (tmp_path / "etc/weir/weir.yaml").write_text("version: 1 # mine\n")
    (tmp_path / UNIT).write_text("old")
    os.utime(tmp_path / UNIT, (0, 0))
    assert "Kept: " in install(tmp_path)
    assert (tmp_path / "etc/weir/weir.yaml").read_text() == "version: 1 # mine\n"
    assert "ExecStart=" in (tmp_path / UNIT).read_text()


@pytest.mark.parametrize("prefix, etc", [("/usr/local", "/etc"), ("/opt/weir", "/opt/weir/etc")])
def test_the_unit_follows_the_prefix(tmp_path, prefix, etc):
    install(tmp_path, prefix)
    unit = (tmp_path / prefix[1:] / "lib/systemd/system/weir.service").read_text()
    assert f"\nExecStart={prefix}/bin/weir -c {etc}/weir/weir.yaml\n" in unit
    assert (tmp_path / prefix[1:] / "bin/weir").exists() and (tmp_path / etc[1:] / "weir/weir.yaml").exists()
    assert "@" not in unit.replace("@system-service", "").replace("@privileged", "").replace("@resources", "")


# -- the package -------------------------------------------------------------------------------------------------------

def fields_of(deb):
    text = run("dpkg-deb", "-f", deb).stdout
    return dict(re.findall(r"^(\S+): ((?:.*)(?:\n .*)*)", text, re.M))


def test_control_fields(deb):
    fields = fields_of(deb)
    version = re.fullmatch(r"weir (\S+)\n", run(BIN, "--version").stdout).group(1)
    assert fields["Package"] == "weir" and fields["Version"] == f"{version}-1"
    assert fields["Architecture"] == run("dpkg", "--print-architecture").stdout.strip()
    assert deb.name == f"weir_{fields['Version']}_{fields['Architecture']}.deb"
    assert fields["Section"] == "net" and fields["Priority"] == "optional"
    assert re.fullmatch(r".+ <\S+@\S+>", fields["Maintainer"])
    summary, _, description = fields["Description"].partition("\n")
    assert 10 < len(summary) < 80 and "Installing it starts nothing" in description
    depends = set(re.findall(r"(?:^|, )([\w.+|-]+(?: \| [\w.+-]+)*)", fields["Depends"]))
    needed = {re.sub(r".*\[(.*)\]", r"\1", line) for line in run("readelf", "-d", BIN).stdout.split("\n") if "(NEEDED)" in line}
    owners = {"libh2o": "libh2o-evloop", "libbloom": "libbloom", "libssl": "libssl", "libcrypto": "libssl", "libfyaml": "libfyaml",
              "libxxhash": "libxxhash", "libhiredis": "libhiredis", "libc.": "libc6", "libm.": "libc6", "ld-linux": "libc6"}
    for library in needed:
        owner = next((package for name, package in owners.items() if library.startswith(name)), library)
        assert any(package.startswith(owner) for package in depends), f"{library} is in none of {depends}"
    assert "systemd | systemd-standalone-sysusers | systemd-sysusers" in fields["Depends"]


def test_the_package_holds_what_is_installed(unpacked, tree):
    inside = {name: mode for name, mode in modes(unpacked).items() if not name.startswith("DEBIAN/")}
    assert inside == FILES
    for name in set(FILES) - {"usr/bin/weir"}:
        assert (unpacked / name).read_bytes() == (tree / name).read_bytes(), name


def test_everything_in_the_package_is_roots(deb):
    lines = run("dpkg-deb", "-c", deb).stdout.splitlines()
    assert len(lines) > len(FILES)
    assert {line.split()[1] for line in lines} == {"root/root"}
    assert {line.split()[0] for line in lines if line.startswith("d")} == {"drwxr-xr-x"}


def test_the_configuration_is_a_conffile(unpacked):
    assert (unpacked / "DEBIAN/conffiles").read_text() == "/etc/weir/weir.yaml\n"


def test_the_packed_program_is_stripped(unpacked):
    sections = run("readelf", "-SW", unpacked / "usr/bin/weir").stdout
    assert ".dynsym" in sections and ".symtab" not in sections and ".debug_info" not in sections


def test_two_packages_of_a_build_are_the_same_bytes(deb, tmp_path):
    assert pack(tmp_path).read_bytes() == deb.read_bytes()


def test_maintainer_scripts_are_sound(unpacked):
    scripts = {"postinst", "prerm", "postrm"}
    assert {p.name for p in (unpacked / "DEBIAN").iterdir()} == scripts | {"control", "conffiles", "md5sums"}
    for name in scripts:
        path = unpacked / "DEBIAN" / name
        assert path.stat().st_mode & 0o7777 == 0o755
        assert re.match(r"#!/bin/sh\n(#.*\n)*set -e\n", path.read_text())
        run("sh", "-n", path)


# dpkg in a root of its own; the scripts are run with DPKG_ROOT, as chroot would need a whole system there.

@pytest.fixture
def system(tmp_path):
    """A root with dpkg's files and nothing else. system(*arguments) runs dpkg on it."""
    root = tmp_path / "system"
    for folder in ("etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):
        (root / folder).mkdir(parents=True)
    for empty in ("var/lib/dpkg/status", "var/lib/dpkg/available"):
        (root / empty).write_text("")

    def dpkg(*arguments):
        return run("dpkg", f"--root={root}", "--force-depends", "--force-script-chrootless", f"--log={tmp_path}/log", *arguments)

    dpkg.root = root
    return dpkg


def newer(unpacked, folder, configuration=None):
    """The same package, a revision later."""
    shutil.copytree(unpacked, folder / "newer")
    control = folder / "newer/DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)-1$", r"\1-2", control.read_text(), flags=re.M))
    if configuration is not None:
        (folder / "newer/etc/weir/weir.yaml").write_text(configuration)
    run("dpkg-deb", "--root-owner-group", "-b", folder / "newer", folder / "newer.deb")
    return folder / "newer.deb"


def user_lines(root):
    with contextlib.suppress(FileNotFoundError):
        return [line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("weir:")]
    return []


def test_dpkg_installs_it_makes_the_user_and_enables_nothing(system, deb):
    system("-i", deb)
    assert "Status: install ok installed" in system("-s", "weir").stdout
    (user,) = user_lines(system.root)
    _, _, uid, gid, _, home, shell = user.split(":")
    assert 0 < int(uid) < 1000 and int(gid) < 1000 and home == "/var/lib/weir" and shell.endswith("nologin")
    assert not list(system.root.glob("etc/systemd/system/**/weir.service"))
    assert (system.root / "usr/bin/weir").exists()


def test_an_upgrade_keeps_an_edited_configuration(system, deb, unpacked, tmp_path):
    system("-i", deb)
    before = user_lines(system.root)
    (system.root / "etc/weir/weir.yaml").write_text("version: 1 # mine\n")
    system("-i", newer(unpacked, tmp_path))
    assert re.search(r"^Version: .*-2$", system("-s", "weir").stdout, re.M)
    assert (system.root / "etc/weir/weir.yaml").read_text() == "version: 1 # mine\n"
    assert user_lines(system.root) == before


def test_an_upgrade_replaces_a_configuration_that_nobody_edited(system, deb, unpacked, tmp_path):
    system("-i", deb)
    system("-i", newer(unpacked, tmp_path, "version: 1 # new\n"))
    assert (system.root / "etc/weir/weir.yaml").read_text() == "version: 1 # new\n"


def test_removal_keeps_the_configuration_and_purge_removes_it_all(system, deb):
    system("-i", deb)
    for folder in ("var/lib/weir", "var/log/weir"):
        (system.root / folder).mkdir(parents=True)
        (system.root / folder / "some").write_text("")
    enabled = system.root / "etc/systemd/system/multi-user.target.wants/weir.service"
    enabled.parent.mkdir(parents=True)
    enabled.symlink_to("/lib/systemd/system/weir.service")
    system("-r", "weir")
    assert not (system.root / "usr/bin/weir").exists()
    assert (system.root / "etc/weir/weir.yaml").exists() and (system.root / "var/lib/weir/some").exists()
    system("-P", "weir")
    left = [p for p in system.root.rglob("*") if "weir" in p.name]
    assert not left and user_lines(system.root)


# -- the packed weir runs ----------------------------------------------------------------------------------------------

def test_the_packed_weir_runs_with_its_configuration(start_upstream, start_weir, unpacked, monkeypatch):
    monkeypatch.setattr(harness, "BIN", unpacked / "usr/bin/weir")
    file = unpacked / "etc/weir/weir.yaml"
    assert "in all" in run(unpacked / "usr/bin/weir", "-c", file, "--check").stdout
    up = start_upstream()
    text, ports = file.read_text(), {"inbound": free_port()}
    for old, new in (("8080", ports["inbound"]), ("9000", up.port), ("9465", free_port()), ("9466", free_port())):
        text, count = re.subn(rf"(127\.0\.0\.1):{old}\b", rf"\1:{new}", text)
        assert count == 1, old
    w = start_weir(text + "server: {drain: {timeout: 5s}}\n", ports=ports)
    answer = exchange(w.ports["inbound"], request("GET", "/", [("X-Tenant-ID", "acme")]))
    assert answer.status == 200 and answer.header("RateLimit") is not None
    assert w.status()["limits"], "no limit"


def test_the_examples_it_points_to_are_installed(tree):
    for text in ((tree / "etc/weir/weir.yaml").read_text(), *(page_text(tree, page) for page in PAGES)):
        for path in re.findall(r"/usr/[\w./-]*[\w-]", text):
            assert (tree / path[1:]).exists(), path


# -- the unit ----------------------------------------------------------------------------------------------------------

def unit_fields(tree):
    return re.findall(r"^(\w+)=(.*)$", (tree / UNIT).read_text(), re.M)


def test_systemd_finds_nothing_wrong_with_the_unit(tree, tmp_path):
    text = (tree / UNIT).read_text().replace("=/usr/bin/weir", f"={tree}/usr/bin/weir")
    (tmp_path / "weir.service").write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / "weir.service")
    assert done.stdout + done.stderr == ""


def test_the_unit_leaves_little_open(tree):
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=17", "--no-pager", tree / UNIT)
    (level,) = re.findall(r"Overall exposure level for weir.service: ([\d.]+)", done.stdout)
    assert float(level) <= 1.7


def test_the_unit_runs_what_is_installed_as_its_user(tree):
    fields = unit_fields(tree)
    values = dict(fields)
    assert values["Type"] == "notify"
    assert values["User"] == values["Group"] == "weir"
    assert re.match(r"u weir ", (tree / "usr/lib/sysusers.d/weir.conf").read_text())
    assert values["ExecStart"] == "/usr/bin/weir -c /etc/weir/weir.yaml"
    assert [value for name, value in fields if name == "ExecReload"] == [
        "/usr/bin/weir -c /etc/weir/weir.yaml --check", "/bin/kill -HUP $MAINPID"]
    assert values["Restart"] == "on-failure" and values["RestartPreventExitStatus"] == "2"
    assert not {"ExecStartPre", "DynamicUser"} & set(values)


# -- man pages ---------------------------------------------------------------------------------------------------------

def page_source(tree, page):
    return gzip.decompress((tree / PAGES[page]).read_bytes()).decode("ascii")


def page_text(tree, page):
    """As it reads, a paragraph a line."""
    with tempfile.NamedTemporaryFile("w", suffix=page) as file:
        file.write(page_source(tree, page))
        file.flush()
        return re.sub(".\b", "", run("mandoc", "-Tascii", "-Owidth=1000", file.name).stdout)


@pytest.mark.parametrize("page", PAGES)
def test_man_pages_are_clean(tree, tmp_path, page):
    (tmp_path / page).write_text(page_source(tree, page))
    done = run("mandoc", "-Tlint", "-Wwarning", tmp_path / page, fine=(0, 1, 2, 3))
    assert done.stdout + done.stderr == ""
    done = run("groff", "-man", "-Tutf8", "-wall", "-z", tmp_path / page)
    assert done.stdout + done.stderr == ""
    longest = max(map(len, re.sub(".\b", "", run("groff", "-man", "-Tascii", "-P-c", tmp_path / page).stdout).split("\n")))
    assert longest <= 80


def bare(text):
    """Without Markdown's marks."""
    return re.sub(r"[`*\\]", "", text).strip()


def chapters(text):
    """{chapter: its lines} of a rendered page."""
    found, current = {}, None
    for line in text.split("\n"):
        heading = re.match(r" {0,3}(\S.*)", line)
        if heading:
            current = found.setdefault(heading.group(1), [])
        elif current is not None and line.strip():
            current.append(line.strip())
    return found


def test_weir_yaml_5_has_every_field_of_the_reference(tree):
    page = chapters(page_text(tree, "weir.yaml.5"))
    fields, chapter = 0, None
    for line in run(BIN, "--print-reference").stdout.split("\n"):
        if line.startswith("## "):
            chapter = page[line[3:]]
        elif line.startswith("| `"):
            name, takes, default, bounds, text = map(bare, re.split(r"(?<!\\)\|", line)[1:-1])
            at = chapter.index(name)
            facts = [bare(fact) for fact in chapter[at + 1].split("; ")]
            rest = bare(chapter[at + 1])
            assert rest.startswith(takes), (name, rest)
            assert re.search(rf"(^|; |default ){re.escape(default)}(;|$)", rest), (name, default, rest)
            assert not bounds or facts[-1] == bounds, (name, bounds, rest)
            assert bare(chapter[at + 2]) == text, name
            fields += 1
        elif line.startswith("- "):
            assert any(bare(line[2:]) in bare(one) for one in page["DESCRIPTION"]), line
        elif chapter is not None and line and not line.startswith("|"):
            assert bare(line) == bare(chapter[0])
    assert fields > 150


def test_weir_8_has_every_option_signal_and_exit_code_of_the_help(tree):
    page = chapters(page_text(tree, "weir.8"))
    help_text = run(BIN, "--help").stdout
    usage = re.match(r"usage: (.*)\n", help_text).group(1)
    assert page["SYNOPSIS"] == [usage]
    options = re.findall(r"^  (-\S.*?)  +(.*)$", help_text, re.M)
    assert len(options) == len(re.findall(r"\[", usage))
    entries = " ".join(page["OPTIONS"]).lower()
    for option, what in options:
        assert f"{option} {what}.".lower() in re.sub(" +", " ", entries), option
    for name, what in (("SIGHUP", "Loads the configuration again."), ("SIGTERM and SIGINT", "Drain and end."),
                       ("SIGUSR1", "Opens log files again.")):
        assert f"{name} {what}" in re.sub(" +", " ", " ".join(page["SIGNALS"]))
    assert [re.sub(" +", " ", line) for line in page["EXIT STATUS"]] == [
        "0 Fine.", "1 Could not start or run.", "2 The configuration or the arguments are wrong."]


def test_pages_carry_the_version(tree):
    version = run(BIN, "--version").stdout.strip()
    for page in PAGES:
        assert f'"{version}"' in page_source(tree, page).split("\n")[0]


# -- the service manager is told ---------------------------------------------------------------------------------------

class Manager:
    """A socket as systemd's."""

    def __init__(self, name):
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(DEADLINE)

    def next(self):
        return self.socket.recv(4096).decode()

    def has_more(self):
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(4096, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(DEADLINE)


@pytest.fixture
def start_manager():
    with contextlib.ExitStack() as stack:
        def start(name):
            manager = Manager(str(name))
            stack.callback(manager.socket.close)
            return manager
        yield start


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_start_reload_and_end_are_told(start_manager, start_weir, tmp_path, kind):
    name = tmp_path / "notify" if kind == "path" else f"@weir-test-{os.getpid()}-{free_port()}"
    manager = start_manager(name)
    w = start_weir(base_config(1, server={"drain": {"delay": "100ms", "timeout": "4s"}}), env={"NOTIFY_SOCKET": str(name)},
                   wait_ready=False)
    assert manager.next() == "READY=1"
    assert w.ready(), "told before it is"
    assert not manager.has_more()
    w.signal(signal.SIGHUP)
    told = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.next())
    assert told and 0 < int(told.group(1)) / 1e6 <= time.monotonic()
    assert manager.next() == "READY=1"
    w.wait_metric("weir_config_reloads_total", 1, result="ok")
    w.signal(signal.SIGTERM)
    told = re.fullmatch(r"STOPPING=1\nEXTEND_TIMEOUT_USEC=(\d+)", manager.next())
    assert told and 4_100_000 <= int(told.group(1)) <= 14_100_000
    assert w.wait_exit() == 0
    assert not manager.has_more()


def test_ready_is_told_again_when_a_reload_fails(start_manager, start_weir, tmp_path):
    manager = start_manager(tmp_path / "notify")
    w = start_weir(base_config(1), env={"NOTIFY_SOCKET": manager.name})
    assert manager.next() == "READY=1"
    w.config_path.write_text("version: 2\n")
    w.signal(signal.SIGHUP)
    assert manager.next().startswith("RELOADING=1\n")
    assert manager.next() == "READY=1"
    w.wait_metric("weir_config_reloads_total", lambda n: n >= 1, result="error")
    assert w.ready()


def test_ready_is_not_told_where_weir_cannot_start(start_manager, tmp_path):
    manager = start_manager(tmp_path / "notify")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = base_config(1, admin=False, metrics={"address": f"127.0.0.1:{free_port()}"})
        config["listeners"]["in"]["address"] = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "weir.yaml").write_text(json.dumps(config))
        run(BIN, "-c", tmp_path / "weir.yaml", env={"NOTIFY_SOCKET": manager.name}, fine=(1,))
    assert not manager.has_more()


@pytest.mark.parametrize("name, warns", [(None, False), ("", False), ("relative", True), ("/" + "x" * 200, True),
                                         ("/nobody/listens/here", True)])
def test_without_a_manager_weir_runs_as_ever(start_weir, monkeypatch, name, warns):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    w = start_weir(base_config(1), env={} if name is None else {"NOTIFY_SOCKET": name})
    assert w.ready()
    told = [line for line in w.stderr.split("\n") if "NOTIFY_SOCKET" in line or "service manager" in line]
    assert len(told) == (1 if warns else 0)


def test_a_manager_that_does_not_listen_delays_weir_no_more_than_a_second_each_time(start_manager, start_weir, tmp_path):
    manager = start_manager(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        other.setblocking(False)
        for _ in range(100_000):
            other.sendto(b"x", manager.name)
    w = start_weir(base_config(1), env={"NOTIFY_SOCKET": manager.name})
    wait_until(lambda: "the service manager could not be told" in w.stderr, "the warning")
    assert w.ready()
