"""helm/Dockerfile: what is in the image, and weir running in it as in a pod: user 65532, nothing to write to, no
capability, its configuration in a mounted ConfigMap."""
import contextlib
import json
import pathlib
import re
import signal
import socket
import stat
import struct
import threading

import pytest

import harness
from certificates import Authority, Handshakes, server_context
from harness import ROOT, base_config, connect, get, merge, post, request, wait_until
from image import UID, Contained
from support import Load, error_lines, problem, uuid7_ms

MEGABYTES_ALLOWED = 20


@pytest.fixture
def start_contained(image):
    with contextlib.ExitStack() as stack:
        yield lambda config, **kw: stack.enter_context(Contained(config, image=image, **kw))


# -------------------------------------------------------------------------------------------------------- what is in it


def test_image_is_small(image):
    largest = sorted(((info.st_size, path) for path, info in image.files.items()), reverse=True)[:12]
    print(f"image: {image.bytes() / 1e6:.1f} MB", *(f"{size / 1e6:7.2f} MB  {path}" for size, path in largest), sep="\n")
    assert image.bytes() < MEGABYTES_ALLOWED * 1e6


def test_image_holds_no_shell_and_no_package_manager(image):
    programs = {path for path, info in image.files.items() if stat.S_ISREG(info.st_mode) and info.st_mode & 0o111
                and not re.search(r"\.so[.\d]*$", path)}
    assert programs == {"/usr/bin/weir"}


def test_nothing_in_it_is_for_a_chosen_user_or_written_by_one(image):
    """Whatever user a pod is made to run as can read all of it and change none of it."""
    for path, info in image.files.items():
        if stat.S_ISLNK(info.st_mode):
            continue
        assert info.st_uid == info.st_gid == 0, path
        assert info.st_mode & 0o004 and not info.st_mode & 0o7022, f"{path}: {stat.filemode(info.st_mode)}"
        assert not stat.S_ISDIR(info.st_mode) or info.st_mode & 0o001, path


def test_image_says_how_it_runs(image):
    config = image.config["config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["/usr/bin/weir"] and not config.get("Cmd")
    assert config["StopSignal"] == "SIGTERM"
    assert "Healthcheck" not in config
    labels = config["Labels"]
    assert image.run("--version").stdout == f"weir {labels['org.opencontainers.image.version']}\n"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"] == "weir"


def test_image_names_the_packages_its_libraries_are_from(image):
    """Scanners look there."""
    listed = {path.rpartition("/")[2] for path in image.files if path.startswith("/var/lib/dpkg/status.d/")}
    assert {"libc6", "libssl3", "libh2o-evloop0.13", "libfyaml0", "ca-certificates"} <= listed
    for name in listed:
        text = (image.rootfs / "var/lib/dpkg/status.d" / name).read_text()
        assert re.search(rf"(?m)^Package: {re.escape(name)}$", text) and re.search(r"(?m)^Version: \S", text)
        assert f"/usr/share/doc/{name}/copyright" in image.files
    assert (image.rootfs / "usr/share/doc/weir/copyright").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_default_configuration_passes_its_check(image):
    done = image.run("--check")
    assert done.returncode == 0 and "in all" in done.stdout and not done.stderr, done
    assert (image.rootfs / "etc/weir/weir.yaml").read_bytes() == (ROOT / "conf" / "weir.yaml").read_bytes()


def test_wrong_configuration_ends_with_2(image, tmp_path):
    (tmp_path / "weir.yaml").write_text("version: 1\nlisteners: {}\nserver: {workers: 50/parsec}\n")
    for args in ([], ["--check"]):
        done = image.run(*args, binds=[(tmp_path, "/etc/weir")])
        assert done.returncode == 2 and error_lines("weir.yaml", done.stderr), done


# ----------------------------------------------------------------------------------------------------- weir running in it


def test_forwards_with_correlation_and_logs_to_stdout(start_contained, start_upstream):
    up = start_upstream()
    w = start_contained(base_config(up.port))
    r = get(w.port, "/hello", [("X-Tenant-ID", "acme")])
    assert (r.status, r.body) == (200, b"ok")
    uuid7_ms(r.header("X-Correlation-ID"))
    assert up.requests[0].header("X-Correlation-ID") == r.header("X-Correlation-ID")
    assert up.requests[0].header("X-Tenant-ID") == "acme"
    assert w.wait_log(path="/hello")["correlation_id"] == r.header("X-Correlation-ID")
    assert w.metric("weir_requests_total", status="200") == 1
    print(f"idle in the image: VmRSS {w.rss_kb()} kB")


def test_runs_with_nothing_to_write_to(start_contained, start_upstream):
    w = start_contained(base_config(start_upstream().port))
    proc = pathlib.Path(f"/proc/{w.pid}")
    for line in (proc / "mountinfo").read_text().splitlines():
        _, _, _, _, where, options, *_, kind, _, _ = line.split()
        assert "ro" in options.split(",") or kind == "proc", line
    text = (proc / "status").read_text()
    for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"(?m)^{which}:\s+0+$", text), f"{which} in\n{text}"
    assert re.search(r"(?m)^NoNewPrivs:\s+1$", text)
    assert get(w.port).status == 200


def test_swapped_configmap_is_in_force(start_contained, start_upstream):
    """..data is moved in one step, the folder it led to is gone, and nobody sends a signal."""
    old, new = start_upstream(lambda peer: harness.reply(200, b"old")), start_upstream(lambda peer: harness.reply(200, b"new"))
    config = base_config(old.port)
    w = start_contained(config)
    with Load(lambda: w.port, keeping=2, opening=1) as load:
        for up, body in ((new, b"new"), (old, b"old"), (new, b"new")):
            w.swap(merge(json.loads(json.dumps(config)), {"upstreams": {"agent": {"url": up.url}}}))
            assert get(w.port).body == body
    load.assert_none_failed()


def test_wrong_configmap_changes_nothing(start_contained, start_upstream):
    config = base_config(start_upstream().port)
    w = start_contained(config)
    w.swap(merge(json.loads(json.dumps(config)), {"server": {"max_boddy": "1KiB"}}), result="error")
    assert get(w.port).body == b"ok"
    wait_until(lambda: "max_boddy" in w.stderr, "the error in the log")
    assert "max_body" in w.stderr
    w.swap(merge(json.loads(json.dumps(config)), {"server": {"max_body": "1KiB"}}))
    problem(post(w.port, "/", b"x" * 2000), 413, "body_too_large")


def test_sigterm_drains_and_loses_nothing(start_contained, start_upstream):
    held, finish = threading.Event(), threading.Event()

    def handler(peer):
        if peer.request.target == "/slow":
            held.set()
            finish.wait(harness.DEADLINE)
        return harness.reply(200, peer.request.target.encode())

    up = start_upstream(handler)
    w = start_contained(base_config(up.port, server={"drain": {"timeout": "20s"}}))
    with connect(w.port) as slow, Load(lambda: w.port, until_refused=True) as load:
        slow.send(request("GET", "/slow"))
        assert held.wait(harness.DEADLINE)
        load.wait_for(200)
        w.signal(signal.SIGTERM)
        load.wait_ended()
        assert w.alive()
        finish.set()
        r = slow.read_response()
        assert (r.status, r.body) == (200, b"/slow") and r.clean
    assert w.wait_exit() == 0
    load.assert_none_failed()
    assert sum(r.target == "/load" for r in up.requests) == load.done


# -------------------------------------------------------------------------------------------------- names and authorities


class NameServer(threading.Thread):
    """Answers for one name, on port 53 of a loopback address that is nobody else's."""

    def __init__(self, name, address):
        super().__init__(daemon=True)
        self.name_asked, self.address, self.asked = name, address, []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for third in range(1, 255):
            self.host = f"127.53.{third}.1"
            with contextlib.suppress(OSError):
                self.sock.bind((self.host, 53))
                break
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                query, whom = self.sock.recvfrom(512)
                if not query:
                    return
                self.sock.sendto(self._answer(query), whom)

    def _answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind, = struct.unpack(">H", query[at + 1:at + 3])
        question, name = query[12:at + 5], ".".join(labels)
        self.asked.append((name, kind))
        known = name == self.name_asked
        has = known and kind == 1
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(self.address) if has else b""
        return query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, len(answer) > 0, 0, 0) + question + answer

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.sendto(b"", self.sock.getsockname())
        self.join(5)
        self.sock.close()


def test_names_come_from_hosts_and_from_dns(start_contained, start_upstream, tmp_path):
    up, hosts, resolv = start_upstream(), tmp_path / "hosts", tmp_path / "resolv.conf"
    server = NameServer("agent.dns.test", "127.0.0.1")
    try:
        hosts.write_text("127.0.0.1 agent.hosts.test\n")
        resolv.write_text(f"nameserver {server.host}\noptions timeout:1 attempts:2\n")
        binds = [(hosts, "/etc/hosts"), (resolv, "/etc/resolv.conf")]
        for name, status in (("agent.hosts.test", 200), ("agent.dns.test", 200), ("agent.no.test", 502)):
            w = start_contained(base_config(f"http://{name}:{up.port}"), binds=binds)
            r = get(w.port)
            assert r.status == status, (name, r)
            if status == 502:
                problem(r, 502, "dns_failed")
        assert {name for name, _ in server.asked} == {"agent.dns.test", "agent.no.test"}
    finally:
        server.close()


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


def test_tls_trusts_the_images_authorities_and_no_others(start_contained, start_upstream, ca, image):
    """`ca: system` leads to the image's file, which another may be mounted over; a file of one's own goes with it."""
    tls = server_context(ca.issue("agent", ["IP:127.0.0.1"]))
    up = start_upstream(on_connect=Handshakes(tls))
    url = f"https://127.0.0.1:{up.port}"
    system = "/etc/ssl/certs/ca-certificates.crt"
    assert (image.rootfs / system[1:]).read_text().count("BEGIN CERTIFICATE") > 100
    problem(get(start_contained(base_config(url)).port), 502, "tls_failed")
    assert get(start_contained(base_config(url), binds=[(ca.file, system)]).port).body == b"ok"
    own = start_contained(base_config(url, agent={"tls": {"ca": "/etc/weir/own.pem"}}),
                          files={"own.pem": pathlib.Path(ca.file).read_text()})
    assert get(own.port).body == b"ok"
