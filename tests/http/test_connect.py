"""Connections to upstreams: several addresses within one time, names that change, connections that are opened ahead."""
import concurrent.futures
import os
import shlex
import socket
import ssl
import subprocess
import threading
import time

import pytest

import harness
from certificates import Authority, Handshakes, server_context
from harness import Blackhole, Peer, base_config, get, post, problem, reply, wait_until
from support import in_parallel


def may_mount():
    with open("/etc/hosts", "rb"):
        return subprocess.run(["unshare", "--mount", "mount", "--bind", "/dev/null", "/etc/hosts"],
                              capture_output=True).returncode == 0


NAME_SERVER = ("127.0.0.77", 53)


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """hosts(text) is what /etc/hosts is for every weir of the test; NAME_SERVER is who is asked for other names."""
    if not may_mount():
        pytest.skip("cannot mount")
    file, servers, wrapper = tmp_path / "hosts", tmp_path / "resolv.conf", tmp_path / "weir"
    file.write_text("127.0.0.1 localhost\n")
    servers.write_text(f"nameserver {NAME_SERVER[0]}\n")
    inner = (f'mount --bind {shlex.quote(str(file))} /etc/hosts && '
             f'{{ [ ! -e /etc/resolv.conf ] || mount --bind {shlex.quote(str(servers))} /etc/resolv.conf; }} && '
             f'exec {shlex.quote(str(harness.BIN))} "$@"')
    wrapper.write_text(f"#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(inner)} sh \"$@\"\n")
    wrapper.chmod(0o755)
    harness.sanitized()
    monkeypatch.setattr(harness, "BIN", wrapper)
    return lambda *lines: file.write_text("".join(line + "\n" for line in ("127.0.0.1 localhost", *lines)))


@pytest.fixture
def listen():
    """listen(up, host): the Upstream is at the same port of another address, too."""
    sockets = []

    def accept(up, sock):
        while True:
            try:
                got, _ = sock.accept()
            except OSError:
                return
            got.settimeout(60)
            with up._lock:
                up.connections += 1
                peer = Peer(up, got, up.connections)
                up.peers.append(peer)
            threading.Thread(target=up._serve, args=(peer,), daemon=True).start()

    def start(up, host):
        sock = socket.create_server((host, up.port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        sockets.append(sock)
        threading.Thread(target=accept, args=(up, sock), daemon=True).start()

    yield start
    for sock in sockets:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def at(peer):
    return peer.sock.getsockname()[0]


def named(up, **agent):
    return base_config(f"http://many.test:{up.port}", agent=agent, server={"workers": 1})


class Concurrent:
    """work(n) in `count` threads, while something else is looked at."""

    def __init__(self, work, count):
        self.pool = concurrent.futures.ThreadPoolExecutor(count)
        self.futures = [self.pool.submit(work, n) for n in range(count)]

    def results(self):
        return [future.result(harness.DEADLINE) for future in self.futures]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown()


class Silence:
    """An address where a connect neither succeeds nor fails."""

    def __init__(self, host, port):
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, port))
        self.sock.listen(0)
        self.fillers = []
        for _ in range(8):
            filler = socket.socket(self.sock.family)
            filler.setblocking(False)
            filler.connect_ex((host, port))
            self.fillers.append(filler)
        time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in (*self.fillers, self.sock):
            sock.close()


# -- several addresses -------------------------------------------------------------------------------------------------


def test_the_next_address_when_one_refuses(start_upstream, start_weir, hosts):
    up = start_upstream()
    hosts("::1 many.test", "127.0.0.3 many.test", "127.0.0.2 many.test", "127.0.0.1 many.test")
    w = start_weir(named(up, retry=False))
    assert get(w.port, "/x").body == b"ok"
    assert w.wait_log(path="/x")["attempts"] == 1


def test_all_refuse(start_upstream, start_weir, hosts):
    up = start_upstream()
    hosts("::1 many.test", "127.0.0.2 many.test")
    problem(get(start_weir(named(up, retry=False)).port), 502, "connect_failed")
    assert up.connections == 0


def test_one_time_for_all_addresses(start_upstream, start_weir, hosts):
    up = start_upstream()
    hosts("::1 many.test", "127.0.0.2 many.test", "127.0.0.3 many.test")
    w = start_weir(named(up, retry=False, timeouts={"connect": "900ms"}))
    with Silence("::1", up.port), Silence("127.0.0.2", up.port), Silence("127.0.0.3", up.port):
        began = time.monotonic()
        problem(get(w.port), 504, "timeout_connect")
        assert 0.8 < time.monotonic() - began < 1.4


def test_an_address_that_is_silent_costs_its_share_once(start_upstream, start_weir, hosts):
    up = start_upstream(lambda peer: peer.send(reply(200, b"ok", [("Connection", "close")])))
    hosts("::1 many.test", "127.0.0.1 many.test")
    w = start_weir(named(up, retry=False, timeouts={"connect": "1600ms"}))
    with Silence("::1", up.port):
        began = time.monotonic()
        assert get(w.port).body == b"ok"
        assert 0.6 < time.monotonic() - began < 1.4
        began = time.monotonic()
        for _ in range(3):
            assert get(w.port).body == b"ok"
        assert time.monotonic() - began < 0.6


def test_families_take_turns(start_upstream, start_weir, hosts, listen):
    """Several that refuse of one family do not stand before the other."""
    up = start_upstream(lambda peer: peer.send(reply(200, at(peer).encode(), [("Connection", "close")])))
    hosts("::1 many.test", "127.0.0.1 many.test", "127.0.0.2 many.test")
    listen(up, "::1")
    listen(up, "127.0.0.2")
    w = start_weir(named(up))
    assert get(w.port).body == b"::1"


def test_another_address_for_another_try(start_upstream, start_weir, hosts, listen):
    seen = []

    def handler(peer):
        seen.append(at(peer))
        peer.send(reply(503 if at(peer) == "::1" else 200, at(peer).encode()))
    up = start_upstream(handler)
    hosts("::1 many.test", "127.0.0.1 many.test")
    listen(up, "::1")
    w = start_weir(named(up, retry={"attempts": 2, "backoff": {"base": "1ms", "max": "2ms"}}, breaker=False))
    r = get(w.port)
    assert (r.status, r.body, seen) == (200, b"127.0.0.1", ["::1", "127.0.0.1"])


def test_the_next_address_when_one_cannot_be_trusted(start_upstream, start_weir, hosts, listen, tmp_path):
    ca, other = Authority(tmp_path), Authority(tmp_path)
    right = Handshakes(server_context(ca.issue("many", ["DNS:many.test"])))
    wrong = Handshakes(server_context(other.issue("many", ["DNS:many.test"])))
    up = start_upstream(on_connect=lambda peer: (wrong if at(peer) == "::1" else right)(peer))
    hosts("::1 many.test", "127.0.0.1 many.test")
    listen(up, "::1")

    def ask():
        agent = {"retry": False, "tls": {"ca": ca.file}}
        return get(start_weir(base_config(f"https://many.test:{up.port}", agent=agent)).port)

    assert ask().body == b"ok"
    assert (len(wrong.failed), len(right.done)) == (1, 1)
    hosts("::1 many.test", "127.0.0.2 many.test")  # where nobody is
    detail = problem(ask(), 502, "tls_failed")["detail"]
    assert "unable to get local issuer" in detail, "what was wrong first tells more than what failed last"


def test_a_name_that_changes(start_upstream, start_weir, hosts, listen):
    up = start_upstream(lambda peer: peer.send(reply(200, at(peer).encode(), [("Connection", "close")])))
    listen(up, "127.0.0.2")
    hosts("127.0.0.1 many.test")
    w = start_weir(named(up, dns={"refresh": "200ms"}))
    assert get(w.port).body == b"127.0.0.1"
    hosts("127.0.0.2 many.test")
    wait_until(lambda: get(w.port).body == b"127.0.0.2", timeout=3)
    hosts()
    time.sleep(0.5)
    assert get(w.port).body == b"127.0.0.2", "a look-up that fails keeps what was found before"


@pytest.fixture
def silent_name_server():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(NAME_SERVER)
        except OSError as e:
            pytest.skip(f"no name server: {e}")
        yield sock


def test_names_that_are_not_answered_hold_up_no_other(start_upstream, start_weir, hosts, silent_name_server):
    up = start_upstream()
    hosts("127.0.0.1 many.test")
    config = named(up, timeouts={"connect": "3s"})
    for n in range(8):
        config["upstreams"][f"silent-{n}"] = {"url": f"http://silent{n}.test:1", "timeouts": {"connect": "3s"},
                                              "retry": False, "breaker": False}
        config["listeners"]["in"]["routes"].append({"path": f"/{n}", "upstream": f"silent-{n}"})
    w = start_weir(config)
    with Concurrent(lambda n: get(w.port, f"/{n}"), 8) as silent:
        w.wait_metric("weir_in_flight", 8, listener="in")
        began = time.monotonic()
        assert get(w.port, "/x").body == b"ok"
        assert time.monotonic() - began < 2
        for r in silent.results():
            problem(r, 504, "timeout_connect")
    began = time.monotonic()
    assert w.stop() == 0, "nobody waits for a look-up"
    assert time.monotonic() - began < 4


def test_a_name_that_changed_while_nobody_asked(start_upstream, start_weir, hosts, listen):
    """What was found longer ago than `refresh` is not what the next connection goes by."""
    up = start_upstream(lambda peer: peer.send(reply(200, at(peer).encode(), [("Connection", "close")])))
    listen(up, "127.0.0.2")
    hosts("127.0.0.1 many.test")
    w = start_weir(named(up, dns={"refresh": "500ms"}))
    assert get(w.port).body == b"127.0.0.1"
    hosts("127.0.0.2 many.test")
    time.sleep(0.7)
    assert get(w.port).body == b"127.0.0.2"


# -- connections that are opened ahead ---------------------------------------------------------------------------------


def warm(up, count, scheme="http", **agent):
    connections = {"warm": count, **agent.pop("connections", {})}
    return base_config(f"{scheme}://127.0.0.1:{up.port}", agent={"connections": connections, **agent},
                       server={"workers": 1})


def idle(w):
    return w.metric("weir_upstream_connections", upstream="agent", state="idle")


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_are_there_before_a_request(start_upstream, start_weir, workers):
    up = start_upstream()
    config = warm(up, 3)
    config["server"] = {"workers": workers}
    w = start_weir(config)
    w.wait_metric("weir_upstream_connections", 3, upstream="agent", state="idle")
    up.wait(lambda u: u.connections == 3, "three connections")
    assert up.heads == 0
    assert get(w.port).body == b"ok"
    assert up.requests[0].conn <= 3


def test_a_handshake_is_made_ahead(start_upstream, start_weir, tmp_path):
    ca = Authority(tmp_path)
    tls = Handshakes(server_context(ca.issue("localhost", ["IP:127.0.0.1"])))
    up = start_upstream(on_connect=tls)
    config = warm(up, 2, "https", tls={"ca": ca.file}, connections={"idle_timeout": "30s"})
    w = start_weir(config)
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    wait_until(lambda: len(tls.done) == 2)
    assert up.heads == 0
    time.sleep(0.7)  # the tickets that came behind the handshakes have ended nothing
    assert get(w.port).body == b"ok"
    assert len(tls.done) == 2


def test_those_that_go_are_replaced(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(warm(up, 2))
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    up.drop_connections()
    up.wait(lambda u: u.connections == 4, "two more connections", timeout=5)
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    assert get(w.port).body == b"ok"


def test_those_that_grow_old_are_replaced_ahead(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(warm(up, 2, connections={"idle_timeout": "2s"}))
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert idle(w) >= 2
        time.sleep(0.05)
    assert 4 <= up.connections <= 10


def test_an_upstream_that_hangs_up_at_once_is_not_pestered(start_upstream, start_weir):
    up = start_upstream(on_connect=lambda peer: peer.close())
    start_weir(warm(up, 1))
    time.sleep(2)
    assert 1 <= up.connections <= 6


def test_an_upstream_that_cannot_be_trusted_is_tried_ever_more_seldom(start_upstream, start_weir, tmp_path):
    ca, other = Authority(tmp_path), Authority(tmp_path)
    tls = Handshakes(server_context(other.issue("localhost", ["IP:127.0.0.1"])))
    up = start_upstream(on_connect=tls)
    w = start_weir(warm(up, 4, "https", tls={"ca": ca.file}))
    time.sleep(4)
    assert 1 <= up.connections <= 4
    assert w.metric("weir_upstream_connections", upstream="agent") == 0
    problem(get(w.port), 502, "tls_failed")


def test_a_silent_upstream_holds_nothing_up(start_weir):
    with Blackhole() as hole:
        w = start_weir(warm(hole, 2, timeouts={"connect": "300ms"}, connections={"max": 2}, retry=False))
        time.sleep(0.5)
        problem(get(w.port), 504, "timeout_connect")


def test_they_count_as_connections(start_upstream, start_weir, connect):
    """Where all permits are out for connections that wait, a request takes one of those."""
    up = start_upstream()
    w = start_weir(warm(up, 2, connections={"max": 2}))
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    for _ in range(20):
        assert get(w.port).body == b"ok"
    assert up.connections == 2


def test_a_reload_changes_how_many(start_upstream, start_weir):
    up = start_upstream()
    config = warm(up, 0, connections={"idle_timeout": "1s"})
    w = start_weir(config)
    time.sleep(0.7)
    assert up.connections == 0
    config["upstreams"]["agent"]["connections"]["warm"] = 3
    w.reload(config)
    w.wait_metric("weir_upstream_connections", 3, upstream="agent", state="idle")
    config["upstreams"]["agent"]["connections"]["warm"] = 0
    w.reload(config)
    w.wait_metric("weir_upstream_connections", 0, upstream="agent", state="idle")
    opened = up.connections
    time.sleep(0.7)
    assert up.connections == opened


def test_reloads_while_they_are_opened(start_upstream, start_weir):
    up = start_upstream(on_connect=lambda peer: time.sleep(0.05))
    config = warm(up, 3, connections={"max": 8})
    w = start_weir(config)
    for n in range(10):
        config["upstreams"]["agent"]["connections"]["warm"] = n % 4
        w.reload(config)
    config["upstreams"]["agent"]["connections"]["warm"] = 3
    w.reload(config)
    wait_until(lambda: idle(w) >= 3)
    for _ in range(8):
        assert get(w.port).body == b"ok"


def test_a_drain_closes_them(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(warm(up, 3))
    w.wait_metric("weir_upstream_connections", 3, upstream="agent", state="idle")
    assert w.stop() == 0
    up.wait_gone(3)
    assert up.connections == 3


# -- several workers ---------------------------------------------------------------------------------------------------


def shared_out(up, count, workers=4, scheme="http", **agent):
    config = warm(up, count, scheme, **agent)
    config["server"] = {"workers": workers}
    return config


@pytest.mark.parametrize("count, workers", [(2, 4), (5, 4), (1, 2)])
def test_a_connection_goes_to_the_worker_that_has_none(start_upstream, start_weir, count, workers):
    """Where all there may be are open, each request gets one of them, whoever holds it."""
    up = start_upstream()
    w = start_weir(shared_out(up, count, workers, connections={"max": count, "idle_timeout": "60s"}))
    w.wait_metric("weir_upstream_connections", count, upstream="agent", state="idle")
    for n in range(60):
        assert (get if n % 2 else post)(w.port).body == b"ok"
    assert up.connections == count
    w.wait_metric("weir_upstream_connections", count, upstream="agent", state="idle")
    assert w.metric("weir_upstream_connections", upstream="agent", state="active") == 0


def test_connections_are_handed_on_under_load(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(shared_out(up, 3, connections={"max": 3, "idle_timeout": "60s"}, timeouts={"connect": "20s"}))
    w.wait_metric("weir_upstream_connections", 3, upstream="agent", state="idle")
    assert all(in_parallel(12, lambda n: [get(w.port).body for _ in range(20)] == [b"ok"] * 20))
    assert up.connections == 3
    w.wait_metric("weir_upstream_connections", 3, upstream="agent", state="idle")
    assert w.metric("weir_upstream_connections", upstream="agent", state="active") == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_that_speaks_tls_goes_to_another_worker(start_upstream, start_weir, tmp_path, version):
    ca = Authority(tmp_path)
    tls = Handshakes(server_context(ca.issue("localhost", ["IP:127.0.0.1"]), maximum=version))
    up = start_upstream(on_connect=tls)
    w = start_weir(shared_out(up, 2, scheme="https", tls={"ca": ca.file}, timeouts={"connect": "20s"},
                              connections={"max": 2, "idle_timeout": "60s"}))
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    body = os.urandom(300_000)
    for _ in range(10):
        assert post(w.port, body=body).body == b"ok"
    assert all(in_parallel(8, lambda n: [post(w.port, body=body).body for _ in range(10)] == [b"ok"] * 10))
    assert len(tls.done) == 2
    assert all(r.body == body for r in up.requests)


def test_what_cannot_be_parked_is_not_opened_ahead(start_upstream, start_weir):
    """Some workers hold more than their share of what may be idle, after a burst: the others wait for that to pass."""
    def handler(peer):
        up.wait(lambda u: u.heads >= 12, "all of them")
        return reply()
    up = start_upstream(handler)
    w = start_weir(shared_out(up, 4, connections={"max": 16, "idle": 4, "idle_timeout": "60s"}))
    w.wait_metric("weir_upstream_connections", 4, upstream="agent", state="idle")
    assert all(in_parallel(12, lambda n: get(w.port).body == b"ok"))
    w.wait_metric("weir_upstream_connections", 0, upstream="agent", state="active")
    time.sleep(0.6)
    opened = up.connections
    time.sleep(2.5)
    assert up.connections == opened


def test_a_cap_below_what_is_open(start_upstream, start_weir):
    """A request on a worker that has none waits no longer than it takes to close the others' down to the cap."""
    up = start_upstream()
    config = shared_out(up, 4, 8)
    connections = config["upstreams"]["agent"]["connections"]
    w = start_weir(config)
    for _ in range(5):
        connections.update(warm=4, max=4, idle_timeout="60s")
        w.reload(config)
        w.wait_metric("weir_upstream_connections", 4, upstream="agent", state="idle")
        connections.update(warm=0, max=1)
        w.reload(config)
        assert get(w.port).status == 200
