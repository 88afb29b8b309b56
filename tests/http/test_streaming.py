"""Bytes go through as they come, both ways, with back-pressure; a broken transfer is broken for the caller too; a caller who
leaves takes the upstream call along."""
import hashlib
import random
import socket
import threading
import time

import pytest

from harness import (CLOSE, LAST_CHUNK, RESET, base_config, chunk, chunked_reply, connect, get,
                     reply, request, rss_kb_allowed, sanitized, wait_until)

MB = 1 << 20
RSS_GROWTH_KB = rss_kb_allowed(12)
GONE_S = 1.0 * (4 if sanitized() else 2)                # the contract says 1 s; the rest is for a noisy machine
LONG = {"body": "60s", "write": "60s", "idle": "60s"}


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


# answers

@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_each_event_is_at_the_caller_before_the_next_is_sent(start_upstream, start_weir, framing):
    events = [b"data: {\"n\": %d}\n\n" % i for i in range(30)]
    taken = threading.Semaphore(0)

    def handler(peer):
        head = {"chunked": [("Transfer-Encoding", "chunked")], "close": [], "length": [("Content-Length", sum(map(len, events)))]}
        peer.send(reply(200, b"", [("Content-Type", "text/event-stream"), *head[framing]], length=False))
        for event in events:
            peer.send(chunk(event) if framing == "chunked" else event)
            assert taken.acquire(timeout=30), "the caller did not get the event before the next one"
        if framing == "chunked":
            peer.send(LAST_CHUNK)
        if framing == "close":
            peer.close()

    up = start_upstream(handler)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/events"))
        assert c.read_head().status == 200
        for event in events:
            c.recv_until(event)
            taken.release()
        if framing != "length":
            c.recv_until(b"0\r\n\r\n")


def test_the_answers_head_comes_before_any_of_its_body(start_upstream, start_weir):
    seen = threading.Event()
    up = start_upstream(script=[reply(200, b"", [("Content-Length", "2")], length=False), seen, b"ok"])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/"))
        assert c.read_head().status == 200
        seen.set()
        assert c.recv_until(b"ok") == b"ok"


# uploads

@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_upload_reaches_the_upstream_piece_by_piece(start_upstream, start_weir, chunked):
    up = start_upstream(lambda p: (p.read_body(), reply())[1], early=True)
    w = start_weir(base_config(up.port))
    pieces = [b"piece %02d." % i for i in range(20)]
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(sum(map(len, pieces))))
    with connect(w.port) as c:
        c.send(request("POST", "/", [framing]))
        up.wait_heads(1)
        for i, piece in enumerate(pieces):
            c.send(chunk(piece) if chunked else piece)
            up.wait(lambda u: u.requests[0].body == b"".join(pieces[:i + 1]), f"piece {i} at the upstream")
        assert chunked is False or not up.requests[0].complete
        c.send(LAST_CHUNK if chunked else b"")
        assert c.read_response().status == 200
    assert up.requests[0].complete


def test_both_ways_at_once(start_upstream, start_weir):
    """The upstream answers while the request is still coming, piece against piece."""
    def echo(peer):
        peer.send(reply(200, b"", [("Transfer-Encoding", "chunked")], length=False))
        while piece := peer.next_piece():
            peer.send(chunk(piece))
        peer.send(LAST_CHUNK)

    up = start_upstream(echo, early=True)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Transfer-Encoding", "chunked")]))
        assert c.read_head().status == 200
        for i in range(30):
            c.send(chunk(b"ping %02d" % i))
            c.recv_until(b"ping %02d" % i)
        c.send(LAST_CHUNK)
        c.recv_until(b"0\r\n\r\n")


# byte for byte

SIZES = [0, 1, 2, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, MB, 3 * MB + 17]


def echo(peer):
    body = peer.request.body
    if "chunks" in peer.request.target:
        rng = random.Random(len(body))
        pieces = []
        while body:
            n = rng.choice([1, 7, 100, 4096, 65536])
            pieces.append(body[:n])
            body = body[n:]
        return chunked_reply(pieces)
    if "close" in peer.request.target:
        peer.run([reply(200, body, length=False), CLOSE])
    return reply(200, body)


@pytest.mark.parametrize("down", ["length", "chunks", "close"])
@pytest.mark.parametrize("chunked_up", [False, True], ids=["length up", "chunked up"])
def test_bodies_are_the_same_on_both_sides(start_upstream, start_weir, chunked_up, down):
    up = start_upstream(echo)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for size in SIZES:
            body = noise(size, size)
            cut = random.Random(size)
            pieces = [body]
            if chunked_up:
                at = sorted(cut.randrange(size + 1) for _ in range(7)) if size else []
                pieces = [body[a:b] for a, b in zip([0, *at], [*at, size])]
            raw = request("POST", f"/{down}", body=pieces if chunked_up else body, chunked=chunked_up)
            sender = threading.Thread(target=c.send, args=(raw,))
            sender.start()
            r = c.read_response()
            sender.join()
            assert r.status == 200 and r.clean, (size, r)
            assert up.requests[-1].body == body, size
            assert r.body == body, size


def test_a_head_request_and_a_large_body_after_it_stay_in_step(start_upstream, start_weir):
    body = noise(300_000)
    up = start_upstream(lambda p: reply(200, b"" if p.request.method == "HEAD" else body, length=p.request.method != "HEAD"))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send((request("HEAD", "/") + request("GET", "/")) * 10)
        for _ in range(10):
            assert c.read_response("HEAD").status == 200
            assert c.read_response().body == body


# back-pressure

class Pump:
    """Sends `size` bytes of noise from a peer or a caller and counts what has been taken."""

    def __init__(self, size):
        self.size, self.sent, self.digest = size, 0, hashlib.sha256()
        self.block = noise(256 * 1024)

    def run(self, send):
        while self.sent < self.size:
            piece = self.block[: min(len(self.block), self.size - self.sent)]
            send(piece)
            self.digest.update(piece)
            self.sent += len(piece)

    def wait_stalled(self, quiet_s=1.0):
        """Waits until nothing has been taken for a while."""
        last, since = self.sent, time.monotonic()

        def stalled():
            nonlocal last, since
            if self.sent != last:
                last, since = self.sent, time.monotonic()
            return self.sent and time.monotonic() - since > quiet_s

        wait_until(stalled, "a stall")
        assert self.sent < self.size, "everything was taken: there is no back-pressure"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_slow_reader_of_200_mb_costs_no_memory(start_upstream, start_weir, framing):
    pump = Pump(200 * MB)

    def handler(peer):
        if peer.request.target == "/warm":
            return reply()
        head = {"length": [("Content-Length", pump.size)], "chunked": [("Transfer-Encoding", "chunked")], "close": []}[framing]
        peer.send(reply(200, b"", head, length=False))
        pump.run((lambda piece: peer.send(chunk(piece))) if framing == "chunked" else peer.send)
        if framing == "chunked":
            peer.send(LAST_CHUNK)
        if framing == "close":
            peer.close()

    up = start_upstream(handler, sndbuf=64 * 1024)
    w = start_weir(base_config(up.port, server={"timeouts": LONG}))
    get(w.port, "/warm")
    before = w.rss_kb()
    with connect(w.port, rcvbuf=64 * 1024) as c:
        c.send(request("GET", "/large"))
        pump.wait_stalled()
        assert w.rss_kb() - before < RSS_GROWTH_KB, "while nothing is read"
        head = c.read_head()
        assert head.status == 200
        digest, got, worst = hashlib.sha256(), 0, 0
        decode = Dechunk() if framing != "length" else None
        while got < pump.size:
            if not c.src.buf:
                c.src.fill()
            piece = c.src.take(len(c.src.buf))
            if decode:
                piece = decode.feed(piece)
            digest.update(piece)
            got += len(piece)
            if got % (8 * MB) < 65536:
                worst = max(worst, w.rss_kb())
                time.sleep(0.02)
        assert got == pump.size and digest.digest() == pump.digest.digest()
    assert worst - before < RSS_GROWTH_KB, "while it is read"


class Dechunk:
    """Takes a chunked body apart as it comes, without keeping it."""

    def __init__(self):
        self.buf, self.left = b"", 0

    def feed(self, data):
        out = []
        self.buf += data
        while self.buf:
            if self.left > 2:
                piece = self.buf[: self.left - 2]
                out.append(piece)
                self.left -= len(piece)
                self.buf = self.buf[len(piece):]
            elif self.left:
                if len(self.buf) < self.left:
                    break
                self.buf, self.left = self.buf[self.left:], 0
            else:
                line, crlf, rest = self.buf.partition(b"\r\n")
                if not crlf:
                    break
                size = int(line, 16)
                if size == 0:
                    break
                self.buf, self.left = rest, size + 2
        return b"".join(out)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_upstream_that_does_not_read_stops_the_caller(start_upstream, start_weir, chunked):
    go, digest = threading.Event(), hashlib.sha256()

    def handler(peer):
        if peer.request.target == "/warm":
            return reply()
        assert go.wait(60)
        while True:   # the body is not kept: 200 MB
            peer.request.body = b""
            piece = peer.next_piece()
            digest.update(piece)
            if not piece:
                return reply()

    up = start_upstream(handler, early=True, rcvbuf=64 * 1024)
    w = start_weir(base_config(up.port, server={"timeouts": LONG, "max_body": "1GiB"}))
    get(w.port, "/warm")
    before = w.rss_kb()
    pump = Pump(200 * MB)
    with connect(w.port, timeout=60) as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        c.send(request("POST", "/large", [("Transfer-Encoding", "chunked") if chunked else ("Content-Length", pump.size)]))
        sender = threading.Thread(target=pump.run, args=((lambda piece: c.send(chunk(piece))) if chunked else c.send,))
        sender.start()
        try:
            pump.wait_stalled()
            assert w.rss_kb() - before < RSS_GROWTH_KB
        finally:
            go.set()
            sender.join()
        c.send(LAST_CHUNK if chunked else b"")
        assert c.read_response(timeout=60).status == 200
    assert digest.digest() == pump.digest.digest()
    assert w.rss_kb() - before < RSS_GROWTH_KB


def test_a_stalled_reader_does_not_hold_up_another_caller(start_upstream, start_weir):
    pump = Pump(50 * MB)

    def handler(peer):
        if peer.request.target != "/large":
            return reply()
        peer.send(reply(200, b"", [("Content-Length", pump.size)], length=False))
        pump.run(peer.send)

    up = start_upstream(handler, sndbuf=64 * 1024)
    w = start_weir(base_config(up.port, server={"timeouts": LONG}))
    with connect(w.port, rcvbuf=64 * 1024) as c:
        c.send(request("GET", "/large"))
        pump.wait_stalled(0.3)
        for _ in range(50):
            assert get(w.port).body == b"ok"


# a broken transfer is never a clean end

def broken(start_upstream, start_weir, head, part, end, version="1.1"):
    """The caller has the head and the first part when the upstream breaks off; how the transfer ends for the caller."""
    arrived = threading.Event()
    up = start_upstream(script=[head + part, arrived, end])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/x", version=version))
        r = c.read_head()
        assert r.status == 200
        early = c.recv_until(b"some bytes")
        arrived.set()
        rest, how = c.recv_to_end()
        line = w.wait_log(path="/x")
    return r, early + rest, how, line, w


LENGTH_HEAD = reply(200, b"", [("Content-Length", "1000")], length=False)
CHUNKED_HEAD = reply(200, b"", [("Transfer-Encoding", "chunked")], length=False)
PLAIN_HEAD = reply(200, b"", length=False)
BREAKS = [
    ("length-fin", LENGTH_HEAD, b"some bytes", CLOSE),
    ("length-reset", LENGTH_HEAD, b"some bytes", RESET),
    ("between-chunks-fin", CHUNKED_HEAD, chunk(b"some bytes"), CLOSE),
    ("between-chunks-reset", CHUNKED_HEAD, chunk(b"some bytes"), RESET),
    ("in-chunk-fin", CHUNKED_HEAD, b"100\r\nsome bytes", CLOSE),
    ("in-chunk-reset", CHUNKED_HEAD, b"100\r\nsome bytes", RESET),
    ("in-chunk-size-fin", CHUNKED_HEAD, chunk(b"some bytes") + b"1", CLOSE),
    ("behind-chunk-size-fin", CHUNKED_HEAD, chunk(b"some bytes") + b"10\r\n", CLOSE),
    ("before-chunk-crlf-fin", CHUNKED_HEAD, b"a\r\nsome bytes", CLOSE),
    ("in-last-chunk-fin", CHUNKED_HEAD, chunk(b"some bytes") + b"0\r\n", CLOSE),
    ("in-trailers-fin", CHUNKED_HEAD, chunk(b"some bytes") + b"0\r\nX-A: b\r\n", CLOSE),
    ("no-length-reset", PLAIN_HEAD, b"some bytes", RESET),
]


@pytest.mark.parametrize("head, part, end", [pytest.param(*b[1:], id=b[0]) for b in BREAKS])
def test_a_broken_answer_is_broken_for_the_caller(start_upstream, start_weir, head, part, end):
    r, got, how, line, w = broken(start_upstream, start_weir, head, part, end)
    if "Content-Length" in r.headers:
        assert r.header("Content-Length") == "1000" and len(got) < 1000
    else:
        assert r.header("Transfer-Encoding") == "chunked" and not got.endswith(b"0\r\n\r\n"), got
    assert line["reason"] == ("reset" if end is RESET else "truncated"), line
    w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome=line["reason"])


@pytest.mark.parametrize("head, part, end", [pytest.param(*b[1:], id=b[0]) for b in BREAKS])
def test_a_broken_answer_is_a_reset_for_an_http_1_0_caller(start_upstream, start_weir, head, part, end):
    r, got, how, line, _ = broken(start_upstream, start_weir, head, part, end, version="1.0")
    assert "Transfer-Encoding" not in r.headers
    if "Content-Length" in r.headers:
        assert len(got) < 1000
    else:
        assert how == "reset"


def test_a_malformed_chunk_in_an_answer_breaks_it(start_upstream, start_weir):
    for bad in (b"0x5\r\nhello\r\n", b"zz\r\n", b"5\nhello\r\n", b"5\r\nhelloXX0\r\n\r\n", b"10000000000000000000\r\n"):
        r, got, how, line, _ = broken(start_upstream, start_weir, CHUNKED_HEAD, chunk(b"some bytes"), lambda p: p.run([bad, LAST_CHUNK, 0.2]))
        assert not got.endswith(b"0\r\n\r\n") and line["reason"] == "bad_response", (bad, got, line)


def test_a_whole_answer_before_a_reset_is_whole(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"whole"), 0.05, RESET])
    w = start_weir(base_config(up.port))
    for _ in range(5):
        r = get(w.port)
        assert (r.status, r.body, r.clean) == (200, b"whole", True)


# the caller leaves

LEAVE = {"close": lambda c: c.close(), "reset": lambda c: c.reset(), "half-close": lambda c: c.half_close()}


def leaves(up, w, c, how, path="/x"):
    """The caller leaves; the upstream connection must go, and the log say why."""
    up.wait(lambda u: any(q.target == path for q in u.requests))
    number = next(q.conn for q in up.requests if q.target == path)
    peer = next(p for p in up.peers if p.number == number)
    left_at = time.monotonic()
    LEAVE[how](c)
    up.wait(lambda u: peer.ended is not None, "the end of the upstream connection", timeout=10)
    assert peer.ended in ("fin", "reset"), peer.ended
    assert peer.ended_at - left_at < GONE_S, f"{peer.ended_at - left_at:.2f} s after the caller left"
    line = w.wait_log(path=path)
    assert line["reason"] == "client_gone", line
    w.wait_metric("weir_in_flight", 0)
    assert get(w.port, "/after").status == 200
    return line


def waiting(path):
    """A handler that never answers `path` and serves all others."""
    return lambda p: p.wait_gone() and None if p.request.target == path else reply()


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("behind", [b"", request("GET", "/behind"), request("GET", "/behind") * 50 + b"GET /half HT"],
                         ids=["", "pipelined", "many pipelined"])
def test_a_caller_gone_before_the_answer_ends_the_upstream_call(start_upstream, start_weir, how, behind):
    up = start_upstream(waiting("/x"))
    w = start_weir(base_config(up.port))
    c = connect(w.port)
    c.send(request("GET", "/x") + behind)
    leaves(up, w, c, how)
    c.close()
    assert [q.target for q in up.requests] == ["/x", "/after"], "what stood behind it must not run"


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("behind", [b"", request("GET", "/behind")], ids=["", "pipelined"])
def test_a_caller_gone_in_the_middle_of_an_answer_ends_the_upstream_call(start_upstream, start_weir, how, behind):
    def handler(peer):
        if peer.request.target != "/x":
            return reply()
        peer.send(CHUNKED_HEAD + chunk(b"some bytes"))
        peer.wait_gone()

    up = start_upstream(handler)
    w = start_weir(base_config(up.port))
    c = connect(w.port)
    c.send(request("GET", "/x") + behind)
    c.recv_until(b"some bytes")
    leaves(up, w, c, how)
    c.close()
    assert [q.target for q in up.requests] == ["/x", "/after"]


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_caller_gone_in_the_middle_of_an_upload_ends_the_upstream_call(start_upstream, start_weir, how, chunked):
    def handler(peer):
        if peer.request.target != "/x":
            return reply()
        while peer.next_piece():
            pass

    up = start_upstream(handler, early=True)
    w = start_weir(base_config(up.port))
    c = connect(w.port)
    c.send(request("POST", "/x", [("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000")])
           + (chunk(b"half") if chunked else b"half"))
    up.wait(lambda u: u.requests and u.requests[0].body == b"half")
    leaves(up, w, c, how)
    c.close()
    assert not up.requests[0].complete, "a broken upload must not look whole"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_caller_gone_while_not_reading_ends_the_upstream_call(start_upstream, start_weir, how):
    pump = Pump(100 * MB)

    def handler(peer):
        if peer.request.target != "/x":
            return reply()
        peer.send(reply(200, b"", [("Content-Length", pump.size)], length=False))
        pump.run(peer.send)

    up = start_upstream(handler, sndbuf=64 * 1024)
    w = start_weir(base_config(up.port, server={"timeouts": LONG}))
    c = connect(w.port, rcvbuf=64 * 1024)
    c.send(request("GET", "/x"))
    pump.wait_stalled(0.3)
    LEAVE[how](c)
    assert w.wait_log(path="/x")["reason"] == "client_gone"
    up.wait_gone(1)
    w.wait_metric("weir_in_flight", 0)
    assert get(w.port, "/after").status == 200


def test_a_caller_that_half_closes_after_the_answer_ends_cleanly(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/x"))
        assert c.read_response().status == 200
        c.half_close()
        assert c.wait_closed() == "fin"
    assert not w.wait_log(path="/x").get("reason")


def test_a_thousand_callers_who_leave_leave_nothing_behind(start_upstream, start_weir):
    up = start_upstream(lambda p: p.wait_gone() and None if p.request.target == "/x" else reply())
    w = start_weir(base_config(up.port, agent={"connections": {"max": 2000}}))
    fds = w.fd_count()
    for turn in range(10):
        callers = [connect(w.port) for _ in range(100)]
        for c in callers:
            c.send(request("GET", "/x"))
        up.wait_heads(100 * (turn + 1))
        for i, c in enumerate(callers):
            LEAVE[["close", "reset", "half-close"][i % 3]](c)
        w.wait_metric("weir_in_flight", 0)
        for c in callers:
            c.close()
    wait_until(lambda: up.open_connections == 0, "the end of every upstream connection")
    wait_until(lambda: w.fd_count() <= fds + 4, "the return of every descriptor")
    w.wait_metric("weir_upstream_connections", 0, state="active")
    assert get(w.port, "/after").status == 200
