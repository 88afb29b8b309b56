"""What a review found, each with the way in which it showed."""
import contextlib
import signal
import socket
import threading
import time

import pytest

from faults import error
from harness import base_config, connect, exchange, free_port, problem, reply, request, rss_kb_allowed, wait_until
from test_slow import many, refusals

FILLED_WHEN_FREED = {"MALLOC_PERTURB_": "90", "ASAN_OPTIONS": "detect_leaks=1:max_free_fill_size=65536:free_fill_byte=90"}


def test_callers_that_leave_mid_answer_leave_nothing_behind(start_upstream, start_weir):
    """The library looked at the exchange's generator after that was freed."""
    up = start_upstream(script=[reply(200, b"", [("Content-Length", "100")], length=False) + b"x", 60])
    w = start_weir(base_config(up.port, agent={"connections": {"max": 1000}}), env=FILLED_WHEN_FREED)
    callers = [connect(w.port) for _ in range(150)]
    for c in callers:
        c.send(request("GET", "/"))
    for c in callers:
        assert c.read_head().status == 200
    for c in callers:
        c.close()
    w.wait_metric("weir_in_flight", 0)


def test_a_100_continue_that_does_not_fit(start_upstream, start_weir, tmp_path):
    """Its rest was left with the loop without anyone to be told; the next write met it there, and weir aborted."""
    path = f"{tmp_path}/s"
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"address": f"unix://{path}", "routes": [{"path": "/some", "upstream": "agent"}]}))
    with connect(path) as c: # how many answers fit while nobody reads
        for _ in range(10):
            c.send(request("GET", "/nobody") * 50)
        fit = wait_until(lambda: (a := len(w.log)) and time.sleep(0.2) is None and a == len(w.log) and a, "a full buffer")
    assert fit < 500
    wait_until(lambda: len(w.log) > fit, "the end of what was under way")
    before = len(w.log)
    with connect(path) as c:
        c.send(request("GET", "/nobody") * fit)
        wait_until(lambda: len(w.log) == before + fit, "all answers")
        c.send(request("POST", "/some", [("Expect", "100-continue"), ("Content-Length", "5")]))
        up.wait(lambda u: u.connections or not w.alive() or len(w.log) > before + fit)
        c.send(b"hello")
        wait_until(lambda: len(w.log) > before + fit or not w.alive(), "the end of the request")
    assert w.alive()


@pytest.mark.parametrize("how", ["half-closes", "stalls"])
def test_a_close_delimited_answer_that_weir_cuts_off_is_a_reset(start_upstream, start_weir, how):
    up = start_upstream(script=[reply(200, b"", [("Transfer-Encoding", "chunked")], length=False) + b"5\r\nhello\r\n", 30], early=True)
    w = start_weir(base_config(up.port, server={"timeouts": {"body": "1s"}}))
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Content-Length", "10")] if how == "stalls" else [("Content-Length", "0")], version="1.0"))
        assert c.read_head().status == 200
        assert c.recv_until(b"hello")
        if how == "half-closes":
            c.half_close()
        assert c.recv_to_end() == (b"", "reset")
    line = w.wait_log(status=200)
    print(line)


def test_all_connection_fields_are_heeded(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"", [*[("Connection", f"x-{i}") for i in range(9)], *[(f"X-{i}", "1") for i in range(9)]])])
    w = start_weir(base_config(up.port))
    r = exchange(w.port, request("GET", "/", [*[("Connection", f"x-{i}") for i in range(9)], *[(f"X-{i}", "1") for i in range(9)]]))
    assert [n for n, _ in r.headers if n.lower().startswith("x-") and len(n) == 3] == []
    assert [n for n, _ in up.requests[0].headers if n.lower().startswith("x-") and len(n) == 3] == []


def test_a_head_request_has_no_bytes_out(start_upstream, start_weir):
    w = start_weir(base_config(start_upstream().port, listener={"routes": [{"path": "/some", "upstream": "agent"}]}))
    assert exchange(w.port, request("HEAD", "/none"), "HEAD").status == 404
    assert w.wait_log(status=404)["bytes_out"] == 0


def test_a_slow_but_steady_reader_is_not_cut_off(start_upstream, start_weir):
    """What left the kernel's buffer was taken for nothing when as much had come into it meanwhile."""
    up = start_upstream(script=[reply(200, bytes(400_000))])
    w = start_weir(base_config(up.port, server={"timeouts": {"write": "1s"}}))
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        s.connect(("127.0.0.1", w.port))
        s.sendall(request("GET", "/"))
        got = 0
        while got < 200_000:
            piece = s.recv(1024)
            assert piece, got
            got += len(piece)
            time.sleep(0.05)


def test_every_parked_connection_can_be_had_by_who_waits(start_upstream, start_weir):
    """Two callers waited on one worker; both asked the same other one for its only parked connection."""
    def handler(peer):
        peer.upstream.gate.wait(10)
        return reply()

    up = start_upstream(handler)
    w = start_weir(base_config(up.port, server={"workers": 3},
                               agent={"connections": {"max": 2}, "timeouts": {"connect": "500ms"}}))
    for _ in range(100):
        up.gate, before = threading.Event(), up.heads
        with connect(w.port) as a, connect(w.port) as b:
            a.send(request("GET", "/a"))
            b.send(request("GET", "/b"))
            up.wait_heads(before + 2, timeout=5)
            up.gate.set()
            assert a.read_response().status == b.read_response().status == 200


def test_heads_of_running_requests_are_bounded_by_max_buffered(start_upstream, start_weir):
    go = threading.Event()
    up = start_upstream(lambda peer: go.wait(20) and None or reply())
    w = start_weir(base_config(up.port, server={"max_buffered": "1MiB"}, agent={"connections": {"max": 1000}}))
    with many(w, 200, request("GET", "/", [("X-A", "b" * 30_000)])) as callers:
        up.wait_heads(10)
        time.sleep(0.3)
        refused = refusals(callers)
        assert 150 < refused < 195
        go.set()
        assert sum(c.readable(5) for c in callers) == 200
    w.wait_metric("weir_in_flight", 0)
    go.set()
    assert exchange(w.port, request("GET", "/", [("X-A", "b" * 30_000)])).status == 200


def test_pipelined_bytes_are_bounded_by_max_buffered(start_upstream, start_weir):
    """What came behind a running request was kept, counted or not."""
    go = threading.Event()
    up = start_upstream(lambda peer: go.wait(20) and None or reply())
    w = start_weir(base_config(up.port, server={"max_buffered": "1MiB"}, agent={"connections": {"max": 1000}}))
    with many(w, 500, request("GET", "/")) as callers:
        up.wait_heads(500)
        before = w.rss_kb()
        for c in callers:
            c.send(request("GET", "/next", [("X-A", "b" * 10_000)]) * 6)
        time.sleep(0.5)
        grown = w.rss_kb() - before
        go.set()
        assert sum(c.read_response().status == 200 for c in callers) == 500
        assert grown < rss_kb_allowed(5), f"{grown} kB for 30 MB of pipelined requests"


def test_a_fresh_connection_keeps_its_time_for_a_head_in_a_drain(start_upstream, start_weir):
    w = start_weir(base_config(start_upstream().port))
    raw = request("GET", "/")
    with connect(w.port) as c:
        w.wait_metric("weir_connections", 1, listener="in")
        w.signal(signal.SIGTERM)
        time.sleep(0.5)
        c.send(raw[:10])
        time.sleep(1)
        c.send(raw[10:])
        assert c.read_response().status == 200


def test_a_body_that_weir_does_not_read_is_not_late(start_upstream, start_weir):
    gates = {"/a": threading.Event(), "/b": threading.Event()}

    def handler(peer):
        if peer.request.target in gates:
            gates[peer.request.target].wait(10)
        return reply()

    up = start_upstream(handler)
    w = start_weir(base_config(up.port, server={"timeouts": {"body": "1s"}},
                               agent={"connections": {"max": 1}, "timeouts": {"connect": "5s"}}))
    with connect(w.port) as one, connect(w.port) as other:
        one.send(request("GET", "/a"))
        up.wait_heads(1)
        other.send(request("GET", "/b"))
        w.wait_metric("weir_in_flight", 2)
        one.send(request("POST", "/c", body=bytes(200_000)))
        gates["/a"].set()
        assert one.read_response().status == 200
        up.wait_heads(2)
        time.sleep(1.5)
        gates["/b"].set()
        assert one.read_response().status == 200


def test_who_leaves_before_the_last_bytes_is_client_gone(start_upstream, start_weir, tmp_path):
    """The log told of a whole answer where its end was still waiting for the caller to read."""
    path = f"{tmp_path}/s"
    size = [0]
    up = start_upstream(lambda peer: reply(200, bytes(size[0])))
    w = start_weir(base_config(up.port, listener={"address": f"unix://{path}"}))
    for n in range(1, 20):
        size[0] = 150_000 + n * 10_000
        with connect(path) as c:
            c.send(request("GET", "/"))
            up.wait_complete(n)
            time.sleep(0.1)
        w.wait_log(count=n)
    ended = w.metric("weir_upstream_requests_total", outcome="ok")
    assert sum(line.get("reason") is None for line in w.log) < ended


@pytest.mark.parametrize("raw, status", [(request("TRACE", "/x?q", [("X-Correlation-ID", "mine")]), 405),
                                         (request("HEAD", "/x?q", [("X-Correlation-ID", "mine"), ("Expect", "more")]), 417)])
def test_a_refused_head_is_logged_and_answered_as_what_it_is(start_upstream, start_weir, raw, status):
    w = start_weir(base_config(start_upstream().port))
    method = raw.split(b" ")[0].decode()
    r = exchange(w.port, raw, method)
    assert r.status == status and r.rest == b"" and r.header("X-Correlation-ID") == "mine"
    line = w.wait_log(status=status)
    assert (line["method"], line["path"], line["correlation_id"]) == (method, "/x", "mine")


def test_a_malformed_request_is_logged_with_what_was_read(start_upstream, start_weir):
    w = start_weir(base_config(start_upstream().port))
    r = exchange(w.port, b"HEAD /x HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", "HEAD")
    assert r.status == 400 and r.rest == b""
    line = w.wait_log(status=400)
    assert (line["method"], line["path"]) == ("HEAD", "/x")


def test_connection_names_no_more_than_there_can_be_fields(start_upstream, start_weir):
    """Each of 28000 empty names was compared with each of 90 fields: 12 ms for one request."""
    fields = [(f"X-{i}", "1") for i in range(90)]
    up = start_upstream(scripts=[[reply()], [reply(200, b"ok", [("Connection", "," * 28_000), *fields])]])
    w = start_weir(base_config(up.port))
    assert exchange(w.port, request("GET", "/", [("Connection", "," * 99), *fields])).status == 200
    problem(exchange(w.port, request("GET", "/", [("Connection", "," * 28_000), *fields])), 400, "malformed")
    problem(exchange(w.port, request("GET", "/")), 502, "bad_response")


def test_allow_names_the_methods_of_its_host_only(start_upstream, start_weir):
    routes = [{"path": "/", "host": "a.test", "methods": ["GET"], "upstream": "agent"},
              {"path": "/", "host": "b.test", "methods": ["POST"], "upstream": "agent"},
              {"path": "/", "methods": ["PUT"], "upstream": "agent"}]
    w = start_weir(base_config(start_upstream().port, listener={"routes": routes}))
    for host, allow in (("a.test", "GET, PUT"), ("B.test", "POST, PUT"), ("c.test", "PUT")):
        r = exchange(w.port, request("DELETE", "/", host=host))
        assert (r.status, r.header("Allow")) == (405, allow)


def test_a_body_that_did_not_wait_for_its_100_continue_costs_no_connection(start_upstream, start_weir):
    """The upstream was still being waited for when the body came: the answer said Connection: close."""
    go = threading.Event()
    up = start_upstream(lambda peer: go.wait(10) and None or reply())
    w = start_weir(base_config(up.port, agent={"connections": {"max": 1}, "timeouts": {"connect": "5s"}}))
    with connect(w.port) as one, connect(w.port) as other:
        other.send(request("GET", "/"))
        up.wait_heads(1)
        one.send(request("POST", "/", [("Expect", "100-continue"), ("Content-Length", "5")]))
        w.wait_metric("weir_in_flight", 2)
        one.send(b"hello")
        time.sleep(0.2)
        go.set()
        for _ in range(2):
            r = one.read_response()
            assert r.status == 200 and r.interim == [] and "Connection" not in r.headers
            one.send(request("GET", "/"))


def test_a_lower_cap_of_connections_holds_for_those_that_wait(start_upstream, start_weir):
    gates = {f"/{n}": threading.Event() for n in "abc"}

    def handler(peer):
        gates[peer.request.target].wait(10)
        return reply()

    up = start_upstream(handler)
    config = base_config(up.port, agent={"connections": {"max": 2}, "timeouts": {"connect": "10s"}})
    w = start_weir(config)
    with connect(w.port) as a, connect(w.port) as b, connect(w.port) as c:
        a.send(request("GET", "/a"))
        b.send(request("GET", "/b"))
        up.wait_heads(2)
        c.send(request("GET", "/c"))
        w.wait_metric("weir_in_flight", 3)
        config["upstreams"]["agent"]["connections"]["max"] = 1
        w.reload(config)
        gates["/a"].set()
        assert a.read_response().status == 200
        time.sleep(0.3)
        assert up.heads == 2
        gates["/b"].set()
        gates["/c"].set()
        assert b.read_response().status == c.read_response().status == 200


def test_a_request_that_the_upstream_failed_is_charged(start_weir):
    """It ran, as far as a limit is concerned: only what weir refused itself is given back."""
    limits = {"few": {"algorithm": "sliding_window", "limit": 2, "window": "10m"}}
    w = start_weir(base_config(free_port(), route={"limits": ["few"]}, limits=limits))
    for _ in range(2):
        problem(exchange(w.port, request("GET", "/")), 502, "connect_failed")
    problem(exchange(w.port, request("GET", "/")), 429, "limit")


def test_an_ipv4_caller_is_one_on_a_socket_for_both_families(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"address": f"*:{free_port()}"}))
    assert exchange(w.port, request("GET", "/")).status == 200
    assert w.wait_log(status=200)["peer"] == "127.0.0.1"
    assert up.requests[0].header("X-Forwarded-For") == "127.0.0.1"


def test_a_dropped_field_moves_no_name(start_upstream, start_weir):
    """Where the upstream's own correlation field was taken out, the fields behind it moved down, and the names of those
    that weir adds stood where theirs were: `Date: <id>`."""
    up = start_upstream(script=[b"HTTP/1.1 200 OK\r\nX-Correlation-ID: theirs\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok"])
    w = start_weir(base_config(up.port))
    r = exchange(w.port, request("GET", "/", [("X-Correlation-ID", "mine")]))
    assert r.headers.all("X-Correlation-ID") == ["mine"] and r.headers.all("X-A") == ["1"]
    assert len(r.headers.all("Date")) == 1 and r.header("Date").endswith("GMT")


def test_a_body_that_comes_too_late(start_upstream, start_weir):
    """While a filter waits for the whole body, the route's timeout runs; what comes after it harms nobody."""
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"dialect": "openai"}, route={"timeout": "300ms"}))
    with connect(w.port) as c:
        c.send(request("POST", "/v1/chat/completions", [("Content-Length", "100000")], None) + b'{"model": "')
        error(c.read_response("POST"), 408, "timeout_client", "openai")
        for _ in range(5):
            with contextlib.suppress(OSError):
                c.send(b"x" * 1000)
            time.sleep(0.02)
    assert exchange(w.port, request("GET", "/")).status == 200
    assert len(up.requests) == 1


def test_the_next_request_finds_the_slot_free(start_upstream, start_weir):
    """A slot was given back after the answer's last byte had left: of callers in strict turn, on two workers, one in some
    two hundred was refused for the one before him. Bare sockets, as it takes a caller that is quick."""
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"workers": 4}, route={"limits": ["one"]},
                               limits={"one": {"algorithm": "concurrency", "limit": 1}}))
    raw, refused = request("GET", "/"), 0
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(("127.0.0.1", w.port), timeout=30)) for _ in range(4)]
        for turn in range(6000):
            c = callers[turn % len(callers)]
            c.sendall(raw)
            refused += b" 200 " not in c.recv(4096)[:16]
    assert refused == 0
