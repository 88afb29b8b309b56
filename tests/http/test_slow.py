"""Slow, silent, greedy and many callers: every one has its bound, and a good caller does not notice them."""
import contextlib
import os
import resource
import selectors
import threading
import time

import pytest

from harness import (NoResponse, SharedWeir, Upstream, base_config, chunk, connect, exchange, get, post, problem, reply,
                     request, rss_kb_allowed, wait_until)

SHORT_S = 1.0
SHORT = {"head": "1s", "body": "1s", "idle": "1s", "write": "1s"}
EARLY_S = 0.8 * SHORT_S     # nothing may end before this: timers may be coarse, but not by much
LATE_S = 15.0               # and well before this


@pytest.fixture(scope="module")
def impatient():
    """A weir with timeouts of a second."""
    with Upstream() as up, SharedWeir(base_config(up.port, server={"timeouts": SHORT})) as one:
        yield one, up


@pytest.fixture
def w(impatient):
    one, up = impatient
    up.clear()
    with one.borrowed() as w:
        w.up = up
        yield w
    assert up.errors == []


def closed_after(c, start):
    """Waits for the end, which is a close or a 408 and then a close, and checks that it came neither early nor late."""
    with contextlib.suppress(NoResponse):
        problem(c.read_response(timeout=LATE_S), 408, "timeout_client")
        c.wait_closed()
    took = time.monotonic() - start
    assert EARLY_S <= took <= LATE_S, f"ended after {took:.2f} s"


class Drip:
    """Sends bytes one by one, forever, until the peer ends the connection or stop() is called."""

    def __init__(self, c, data, every=0.2):
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(c, data, every), daemon=True)
        self._thread.start()

    def _run(self, c, data, every):
        for i in range(len(data)):
            if self._over.wait(every) or not c.send(data[i:i + 1]):
                return

    def stop(self):
        self._over.set()
        self._thread.join()


# heads

@pytest.mark.parametrize("start", [b"", b"GET /x HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\nHost: weir.test\r\n"], ids=["first byte", "fields", "after Host"])
def test_a_dripping_head_is_closed_however_steady_it_drips(w, start):
    rest = request("GET", "/x", [("X-A", "b" * 200)])
    with connect(w.port) as c:
        began = time.monotonic()
        c.send(start)
        drip = Drip(c, b"X" * 200 if start else rest)
        try:
            closed_after(c, began)
        finally:
            drip.stop()
    assert w.up.heads == 0


def test_a_silent_fresh_connection_is_closed(w):
    with connect(w.port) as c:
        closed_after(c, time.monotonic())


def test_half_a_head_and_then_silence_is_closed(w):
    with connect(w.port) as c:
        began = time.monotonic()
        c.send(b"GET /x HTTP/1.1\r\nHost: we")
        closed_after(c, began)
    assert w.up.heads == 0


def test_a_second_head_that_drips_is_closed_too(w):
    with connect(w.port) as c:
        c.send(request("GET", "/a"))
        assert c.read_response().status == 200
        began = time.monotonic()
        drip = Drip(c, request("GET", "/x", [("X-A", "b" * 200)]))
        try:
            closed_after(c, began)
        finally:
            drip.stop()
    assert [q.target for q in w.up.requests] == ["/a"]


def test_empty_lines_do_not_keep_a_connection(w):
    """RFC 9112 2.2 lets a server skip empty lines; it must not wait for ever between them."""
    with connect(w.port) as c:
        began = time.monotonic()
        drip = Drip(c, b"\r\n" * 100, every=0.1)
        try:
            with contextlib.suppress(NoResponse):
                r = c.read_response(timeout=LATE_S)
                assert r.status in (400, 408), r
        finally:
            drip.stop()
        assert time.monotonic() - began < LATE_S


# idle

def test_an_idle_connection_is_closed_without_a_word(w):
    with connect(w.port) as c:
        c.send(request("GET", "/"))
        assert c.read_response().status == 200
        began = time.monotonic()
        assert c.wait_closed(timeout=LATE_S) == "fin"
        assert time.monotonic() - began >= EARLY_S


def test_idle_time_starts_again_with_each_request(w):
    with connect(w.port) as c:
        for _ in range(6):
            c.send(request("GET", "/"))
            assert c.read_response().status == 200
            time.sleep(0.4)


def test_waiting_for_the_upstream_is_not_idle(start_upstream, start_weir):
    up = start_upstream(script=[2.5, reply()])
    w = start_weir(base_config(up.port, server={"timeouts": SHORT}))
    assert post(w.port, "/", b"hello").status == 200


# bodies

@pytest.mark.parametrize("framing, part", [
    (("Content-Length", "100"), b""), (("Content-Length", "100"), b"half"), (("Transfer-Encoding", "chunked"), b""),
    (("Transfer-Encoding", "chunked"), chunk(b"half")), (("Transfer-Encoding", "chunked"), b"10"), (("Transfer-Encoding", "chunked"), b"10\r\nhalf"),
    (("Transfer-Encoding", "chunked"), chunk(b"half") + b"0\r\n")],
    ids=["length, none", "length, half", "chunked, none", "chunked, one", "in a size", "in a chunk", "before the last line"])
def test_a_body_without_progress_is_408(w, framing, part):
    with connect(w.port) as c:
        began = time.monotonic()
        c.send(request("POST", "/x", [framing]) + part)
        problem(c.read_response(timeout=LATE_S), 408, "timeout_client")
        assert EARLY_S <= time.monotonic() - began
        c.wait_closed()
    w.up.wait(lambda u: all(p.ended for p in u.peers if any(q.conn == p.number and not q.complete for q in u.requests)))
    assert w.up.complete == 0
    assert w.wait_log(path="/x", reason="timeout_client")["status"] == 408


def test_a_body_that_never_comes_behind_100_continue_is_408(w):
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Expect", "100-continue"), ("Content-Length", "100")]))
        assert c.read_head().status == 100
        problem(c.read_response(timeout=LATE_S), 408, "timeout_client")


def test_an_upload_held_up_by_the_upstream_is_not_the_callers_fault(start_upstream, start_weir):
    """`body` is the caller's time, and does not run while weir itself does not read."""
    def handler(peer):
        time.sleep(2.5)
        peer.read_body()
        return reply()

    up = start_upstream(handler, early=True, rcvbuf=64 * 1024)
    w = start_weir(base_config(up.port, server={"timeouts": SHORT, "max_body": "64MiB"}))
    with connect(w.port) as c:
        c.send(request("POST", "/x", body=bytes(32 << 20)))
        assert c.read_response().status == 200


# writes

def large(size):
    return lambda p: reply(200, bytes(size)) if p.request.target == "/large" else reply()


def test_a_caller_who_does_not_read_is_cut_off(start_upstream, start_weir):
    up = start_upstream(large(64 << 20))
    w = start_weir(base_config(up.port, server={"timeouts": SHORT}))
    with connect(w.port, rcvbuf=16 * 1024) as c:
        began = time.monotonic()
        c.send(request("GET", "/large"))
        line = w.wait_log(path="/large", timeout=LATE_S)
        assert line["reason"] in ("timeout_client", "client_gone"), line
        assert time.monotonic() - began >= EARLY_S
        up.wait_gone(1)
        r = c.read_response()
        assert not r.clean
    w.wait_metric("weir_in_flight", 0)
    assert get(w.port).status == 200


def test_a_caller_who_reads_slowly_but_steadily_is_not_cut_off(start_upstream, start_weir):
    size = 4 << 20
    up = start_upstream(large(size), sndbuf=64 * 1024)
    w = start_weir(base_config(up.port, server={"timeouts": SHORT}))
    with connect(w.port, rcvbuf=256 * 1024) as c:
        c.send(request("GET", "/large"))
        assert c.read_head().status == 200
        got = len(c.src.take(len(c.src.buf)))
        while got < size:
            time.sleep(0.1)
            piece = c.sock.recv(128 * 1024)
            assert piece, f"cut off after {got} bytes"
            got += len(piece)
        assert got == size


# too large, and still readable

def send_much(c, data):
    """Keeps sending as a caller does that has not looked for an answer yet."""
    view = memoryview(data)
    for at in range(0, len(view), 65536):
        if not c.send(view[at:at + 65536]):
            return


@pytest.mark.parametrize("sent", [0, 10_000, 1 << 20, 4 << 20])
def test_413_by_content_length_is_readable_however_much_was_sent(start_upstream, start_weir, sent):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_body": "64KiB"}))
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Content-Length", 100 << 20)]))
        send_much(c, bytes(sent))
        problem(c.read_response(), 413, "body_too_large")
    assert up.heads == 0
    assert w.wait_log(path="/x")["status"] == 413


@pytest.mark.parametrize("size", [1, 1000, 65536, 1 << 20], ids=["by bytes", "by kB", "by 64 KiB", "at once"])
def test_413_by_chunks_comes_when_the_limit_is_passed(start_upstream, start_weir, size):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_body": "8KiB" if size == 1 else "64KiB"}))
    total = 20_000 if size == 1 else 1 << 20
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Transfer-Encoding", "chunked")]))
        send_much(c, chunk(bytes(size)) * (total // size))
        problem(c.read_response(), 413, "body_too_large")
    assert up.complete == 0
    assert get(w.port).status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_exactly_max_body_passes_and_one_byte_more_does_not(start_upstream, start_weir, chunked):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_body": "64KiB"}))
    body = bytes(65536)
    assert exchange(w.port, request("POST", "/", body=body, chunked=chunked)).status == 200
    assert up.requests[0].body == body
    problem(exchange(w.port, request("POST", "/", body=body + b"x", chunked=chunked)), 413, "body_too_large")
    assert up.complete == 1


@pytest.mark.parametrize("size", [40_000, 1 << 20, 4 << 20])
@pytest.mark.parametrize("where", ["value", "target", "fields", "never ending"])
def test_431_is_readable_however_much_was_sent(start_upstream, start_weir, size, where):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    raw = {"value": lambda: request("GET", "/x", [("X-A", "b" * size)]), "target": lambda: request("GET", "/" + "x" * size),
           "fields": lambda: request("GET", "/x", [("X-A", "b" * 90)] * (size // 97)),
           "never ending": lambda: b"GET /x HTTP/1.1\r\nX-A: " + b"b" * size}[where]()
    with connect(w.port) as c:
        send_much(c, raw)
        problem(c.read_response(), 431, "head_too_large")
    assert up.heads == 0
    assert get(w.port).status == 200


def test_a_caller_who_never_stops_sending_after_a_refusal_is_left(start_upstream, start_weir):
    """The lingering close has an end."""
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_body": "64KiB", "timeouts": SHORT}))
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Content-Length", 100 << 20)]))
        block, until = bytes(1000), time.monotonic() + 60
        while c.send(block):
            assert time.monotonic() < until, "the connection is kept for ever"
            time.sleep(0.02)
    wait_until(lambda: w.metric("weir_connections", listener="in") == 0, "the end of the connection")


def test_a_refused_caller_who_never_closes_is_left(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"timeouts": SHORT}))
    with connect(w.port) as c:
        c.send(b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n")
        problem(c.read_response(), 400, "malformed")
        assert c.wait_closed() == "fin"
        w.wait_metric("weir_connections", 0, listener="in")


# many

def test_thousands_of_dripping_connections_do_not_harm_a_good_caller(start_upstream, start_weir):
    count = min(int(os.environ.get("WEIR_DRIPPERS", "5000")), resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_connections": 20_000, "timeouts": {"head": "60s"}}))
    drippers = [connect(w.port) for _ in range(count)]
    try:
        _drip_and_serve(w, drippers, count)
    finally:
        for c in drippers:
            c.close()
    w.wait_metric("weir_connections", 0, listener="in")
    assert {q.target for q in up.requests} == {"/good"}


def _drip_and_serve(w, drippers, count):
    text = b"GET /x HTTP/1.1\r\nHost: weir.test\r\nX-A: bbbbbbbbbbbbbbbbbbbbbbbbbbb"
    over = threading.Event()

    def drip():
        for i in range(len(text)):
            for c in drippers:
                if over.is_set():
                    return
                assert c.send(text[i:i + 1])

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        w.wait_metric("weir_connections", lambda n: n >= count, listener="in")
        with connect(w.port) as kept:
            for _ in range(100):
                kept.send(request("GET", "/good"))
                assert kept.read_response().body == b"ok"
                assert get(w.port, "/good").body == b"ok"
    finally:
        over.set()
        dripping.join()


def test_dripping_connections_are_all_closed_in_time(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"timeouts": {"head": "10s"}}))
    callers = [connect(w.port) for _ in range(500)]
    for c in callers:
        c.send(b"GET /x HT")
    w.wait_metric("weir_connections", lambda n: n >= 500, listener="in")
    for c in callers:
        c.recv_to_end()
        c.close()
    w.wait_metric("weir_connections", 0, listener="in")


def test_max_connections_pauses_accepting_and_goes_on(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_connections": 8}))
    held = [connect(w.port) for _ in range(8)]
    for c in held:
        c.send(request("GET", "/held"))
        assert c.read_response().status == 200
    waiting = [connect(w.port) for _ in range(4)]
    for c in waiting:
        c.send(request("GET", "/waiting"))
    assert not any([c.readable(0.15) for c in waiting]), "served over max_connections, or refused"
    assert up.complete == 8
    for c in held[:4]:
        c.close()
    for c in waiting:
        assert c.read_response().status == 200
    for c in (*held, *waiting):
        c.close()
    assert get(w.port).status == 200


def test_waiting_for_max_connections_does_not_spin(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_connections": 4}))
    held = [connect(w.port) for _ in range(4)]
    for c in held:
        c.send(request("GET", "/"))
        assert c.read_response().status == 200
    waiting = connect(w.port)
    waiting.send(request("GET", "/"))
    before = w.cpu_seconds()
    time.sleep(1)
    assert w.cpu_seconds() - before < 0.5
    for c in (*held, waiting):
        c.close()


def test_short_of_descriptors_accepting_pauses_and_goes_on(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port), rlimits={resource.RLIMIT_NOFILE: 64})
    callers = [connect(w.port) for _ in range(100)]
    before = w.cpu_seconds()
    time.sleep(1)
    assert w.cpu_seconds() - before < 0.5, "it spins"
    for c in callers:
        c.close()
    wait_until(lambda: get(w.port).status == 200, "service again")


def test_connections_that_come_and_go_leave_nothing_behind(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    assert get(w.port).status == 200
    fds = w.fd_count()
    for i in range(1000):
        c = connect(w.port)
        if i % 4 == 0:
            c.send(b"GET /x HT")
        if i % 4 == 1:
            c.send(b"bad\r\n\r\n")
        c.reset() if i % 2 else c.close()
    w.wait_metric("weir_connections", 0, listener="in")
    wait_until(lambda: w.fd_count() <= fds + 4, "the return of every descriptor")
    assert get(w.port).status == 200


# max_buffered

@contextlib.contextmanager
def many(w, count, raw):
    """`count` callers that have all sent `raw`, as far as weir takes it, without reading."""
    callers = []
    try:
        for _ in range(count):
            callers.append(connect(w.port))
        unsent = {c: memoryview(raw) for c in callers}
        with selectors.DefaultSelector() as selector:
            for c in callers:
                c.sock.setblocking(False)
                selector.register(c.sock, selectors.EVENT_WRITE, c)
            while unsent:
                ready = selector.select(0.5)
                if not ready:
                    break
                for key, _ in ready:
                    c = key.data
                    try:
                        unsent[c] = unsent[c][c.sock.send(unsent[c]):]
                    except BlockingIOError:
                        continue
                    except ConnectionError:
                        unsent[c] = b""
                    if not unsent[c]:
                        selector.unregister(c.sock)
                        del unsent[c]
        for c in callers:
            c.sock.settimeout(10)
        yield callers
    finally:
        for c in callers:
            c.close()


def refusals(callers):
    """How many got a 503 `overloaded`; the rest have nothing to read yet."""
    count = 0
    for c in callers:
        if c.readable(0):
            with contextlib.suppress(NoResponse):
                problem(c.read_response(), 503, "overloaded")
                count += 1
    return count


def test_heads_held_at_once_are_bounded_by_max_buffered(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"max_buffered": "1MiB"}))
    assert get(w.port).status == 200
    before = w.rss_kb()
    with many(w, 1000, b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: " + b"b" * 30_000) as callers:
        wait_until(lambda: any(c.readable(0) for c in callers), "a refusal")
        time.sleep(0.3)
        got = refusals(callers)
        assert 0 < got < 1000
        grown = w.rss_kb() - before
        assert grown < rss_kb_allowed(16), f"{grown} kB; the heads are 30 MB"
    w.wait_metric("weir_connections", 0, listener="in")
    assert get(w.port).status == 200
    w.wait_metric("weir_refused_total", lambda n: n >= got, reason="overloaded")


def test_bodies_held_at_once_are_bounded(start_upstream, start_weir):
    """500 bodies of a megabyte before an upstream that reads none of them."""
    go = threading.Event()

    def handler(peer):
        if peer.request.target == "/x":
            go.wait(30)
            return None
        return reply()

    up = start_upstream(handler, early=True, rcvbuf=4096)
    w = start_weir(base_config(up.port, server={"max_buffered": "4MiB"}, agent={"connections": {"max": 1000}}))
    assert get(w.port, "/warm").status == 200
    before = w.rss_kb()
    body = bytes(1 << 20)
    with many(w, 500, request("POST", "/x", body=body)) as callers:
        grown = w.rss_kb() - before
        assert grown < rss_kb_allowed(4 + 12), f"{grown} kB for 500 uploads"
        refusals(callers)
        assert get(w.port, "/other").status in (200, 503)
    go.set()
    w.wait_metric("weir_in_flight", 0)
    assert get(w.port, "/after").status == 200
