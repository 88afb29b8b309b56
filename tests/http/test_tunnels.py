"""WebSocket tunnels: who gets one, that bytes go both ways unchanged and at once, how they end, and what is seen of them."""
import contextlib
import random
import signal
import socket
import ssl
import threading
import time

import pytest

import faults
import harness
from certificates import Authority, Handshakes, client_context, server_context
from faults import breaking, chain, outcomes, retrying, wait_state
from harness import (RESET, WAIT_GONE, Conn, Gone, Incomplete, Refuser, SocketSource, base_config, connect, get, merge,
                     problem, reply, request, rss_kb_allowed, wait_until)
from support import in_parallel, rate_limit, refuses

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
KEY = [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13"),
       ("Sec-WebSocket-Protocol", "chat, superchat"), ("Sec-WebSocket-Extensions", "permessage-deflate")]
ACCEPT = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
ASK = request("GET", "/chat", [*UPGRADE, *KEY])
MB = 1 << 20


def switch(*more, upgrade=UPGRADE):
    return reply(101, b"", [*upgrade, ACCEPT, *more], reason="Switching Protocols")


SWITCH = switch()


def echo(peer):
    """Says it all again, to the end of it."""
    peer.sock.settimeout(harness.DEADLINE)
    try:
        while True:
            peer.send(peer.src.take(len(peer.src.buf)))
            peer.src.fill()
    except Incomplete:
        peer._note_end()
    peer.sock.close()
    raise Gone("echoed to the end")


def tunnel(run=echo, head=SWITCH):
    def handler(peer):
        peer.send(head)
        run(peer)
        raise Gone("the tunnel is over")
    return handler


def switching(peer):
    """A tunnel for who asks for one; `ok` for others."""
    if "Upgrade" not in peer.request.headers:
        return reply(200, b"ok")
    return tunnel()(peer)


def begin(c, ask=ASK):
    c.send(ask)
    r = c.read_head()
    assert r.status == 101, r
    return r


def say(c, text):
    """Through the echo and back."""
    c.send(text)
    assert c.src.take(len(text)) == text


def ended(w, **fields):
    line = w.wait_log(status=101, **fields)
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_tunnels", 0)
    w.wait_metric("weir_upstream_connections", 0, state="active")
    return line


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


# --- the good way


def test_a_tunnel(start_upstream, start_weir):
    up = start_upstream(tunnel(head=switch(("X-Own", "a"), ("Sec-WebSocket-Protocol", "chat"), ("Keep-Alive", "timeout=5"))))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        r = begin(c, request("GET", "/chat?room=1", [*UPGRADE, *KEY, ("X-Correlation-ID", "abc"), ("Origin", "http://a")]))
        assert r.header("Connection") == "Upgrade" and r.header("Upgrade") == "websocket", r
        assert r.header("Sec-WebSocket-Accept") == ACCEPT[1] and r.header("Sec-WebSocket-Protocol") == "chat", r
        assert r.header("X-Own") == "a" and r.header("X-Correlation-ID") == "abc" and "Keep-Alive" not in r.headers, r
        assert not {"Content-Length", "Transfer-Encoding"} & set(r.headers.names()), r
        for n in range(20):
            say(c, b"message %d" % n)
        w.wait_metric("weir_in_flight", 1, listener="in")
        w.wait_metric("weir_tunnels", 1, listener="in")
        w.wait_metric("weir_upstream_connections", 1, upstream="agent", state="active")
        assert w.metric("weir_connections", listener="in") == 1 and not w.log
        say(c, noise(5000))
        c.half_close()
        assert c.wait_closed() == "fin"
    got = up.requests[0]
    assert (got.method, got.target) == ("GET", "/chat?room=1")
    assert got.header("Connection") == "Upgrade" and got.header("Upgrade") == "websocket", got
    assert all(got.header(name) == value for name, value in KEY) and got.header("Origin") == "http://a", got
    line = ended(w)
    size = sum(len(b"message %d" % n) for n in range(20)) + 5000
    assert (line["bytes_in"], line["bytes_out"]) == (size, size) and "reason" not in line, line
    assert line["upstream"] == "agent" and line["attempts"] == 1 and line["correlation_id"] == "abc", line
    assert outcomes(w) == {"ok": 1}
    assert w.metric("weir_requests_total", status="101") == 1
    assert w.metric("weir_request_duration_seconds_count") == 1
    assert up.connections == 1


@pytest.mark.parametrize("fields", [
    [("connection", "keep-alive, UPGRADE"), ("upgrade", "WebSocket")],
    [("Connection", "keep-alive"), ("Connection", "upgrade"), ("Upgrade", "WEBSOCKET")],
    [*UPGRADE, ("Content-Length", "0")],
], ids=["a browser's", "two fields", "an empty body"])
def test_ways_to_ask(start_upstream, start_weir, fields):
    up = start_upstream(tunnel(head=switch(upgrade=[("connection", "foo, upgrade"), ("UPGRADE", "WebSocket")])))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        begin(c, request("GET", "/", fields))
        say(c, b"hello")
    assert up.requests[0].header("Upgrade") == "websocket" and up.requests[0].header("Connection") == "Upgrade"
    ended(w)


def test_what_comes_early_from_the_caller(start_upstream, start_weir):
    """Behind the head and before the 101, also where it looks like a request."""
    go = threading.Event()

    def handler(peer):
        assert go.wait(harness.DEADLINE)
        tunnel()(peer)

    up = start_upstream(handler)
    w = start_weir(base_config(up.port))
    next_one = request("GET", "/second")
    for later in (b"", next_one, noise(300_000)):
        go.clear()
        with connect(w.port) as c:
            seen = up.heads
            c.send(ASK + next_one)
            sender = threading.Thread(target=c.send, args=(later,))
            up.wait_heads(seen + (not later))
            sender.start()
            if len(later) < 100_000:
                sender.join()
            go.set()
            assert c.read_head().status == 101
            assert c.src.take(len(next_one + later)) == next_one + later
            sender.join()
            say(c, b"and on")
            c.half_close()
            assert c.wait_closed() == "fin"
    assert {r.target for r in up.requests} == {"/chat"}
    assert [line["status"] for line in wait_until(lambda: len(w.log) == 3 and w.log, "three lines")] == [101] * 3


@pytest.mark.parametrize("at_once", [True, False])
def test_no_room_for_what_comes_early(start_upstream, start_weir, at_once):
    """It cannot be thrown away, as a request could that waits its turn."""
    up = start_upstream(lambda peer: peer.wait_gone())
    w = start_weir(base_config(up.port, server={"max_buffered": "64KiB", "max_body": "10KiB", "max_head": "10KiB"}))
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connect(w.port)) for _ in range(5)]
        for n, c in enumerate(callers):
            c.send(ASK + b"x" * 17_000 if at_once else ASK)
            if not at_once:
                up.wait_heads(n + 1)
                c.send(b"x" * 17_000)
        refused = wait_until(lambda: [c for c in callers if c.readable(0)], "one who is refused")
        problem(refused[0].read_response(), 503, "overloaded")
        assert len(refused) < 5
    w.wait_log(status=503)


def test_what_comes_with_the_upstreams_head(start_upstream, start_weir):
    up = start_upstream(tunnel(head=SWITCH + b"first words"))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        begin(c)
        assert c.src.take(11) == b"first words"
        say(c, b"hello")
    assert ended(w)["bytes_out"] == 16


def test_a_head_in_pieces(start_upstream, start_weir):
    pieces = [SWITCH[:10], SWITCH[10:-1], SWITCH[-1:] + b"words"]
    up = start_upstream(lambda peer: (peer.run([p for piece in pieces for p in (piece, 0.05)]), echo(peer)))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        begin(c)
        assert c.src.take(5) == b"words"
        say(c, b"hello")


def both_ways(c, size=MB):
    """Sends noise and reads it again at once."""
    sent = noise(size)
    sender = threading.Thread(target=c.send, args=(sent,))
    sender.start()
    got = c.src.take(size)
    sender.join()
    assert got == sent


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_megabyte_both_ways_at_once(start_upstream, start_weir, unix):
    up = start_upstream(tunnel(), unix=unix)
    w = start_weir(base_config(up.url))
    callers = [connect(w.port) for _ in range(4)]
    try:
        for c in callers:
            begin(c)
        threads = [threading.Thread(target=both_ways, args=(c,)) for c in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for c in callers:
            say(c, b"still here")
    finally:
        for c in callers:
            c.close()
    line = ended(w)
    assert (line["bytes_in"], line["bytes_out"]) == (MB + 10, MB + 10)


# --- back-pressure


def push(sock, limit=64 * MB, quiet_s=1.0):
    """Sends until nobody takes any more for a while. Returns how much went out."""
    block, sent = noise(64 * 1024), 0
    sock.settimeout(quiet_s)
    while sent < limit:
        try:
            sent += sock.send(block)
        except socket.timeout:
            break
    sock.settimeout(harness.DEADLINE)
    return sent


def drop(src, size):
    while size:
        if not src.buf:
            src.fill()
        size -= len(src.take(min(size, len(src.buf))))


@pytest.mark.parametrize("who", ["caller", "upstream"])
def test_who_does_not_read_is_waited_for(start_upstream, start_weir, who):
    peers, done = [], threading.Event()
    up = start_upstream(tunnel(lambda peer: (peers.append(peer), up._changed(), done.wait(120))), rcvbuf=65536, sndbuf=65536)
    w = start_weir(base_config(up.port))
    with connect(w.port, rcvbuf=65536) as c:
        begin(c)
        peer = up.wait(lambda _: peers and peers[0], "the tunnel")
        before = w.rss_kb()
        source, sink = (c.sock, peer.src) if who == "upstream" else (peer.sock, c.src)
        sent = push(source)
        assert sent < 40 * MB
        assert w.rss_kb() - before < rss_kb_allowed(6)
        # the other way is free all the while
        other, there = (peer, c.src) if who == "upstream" else (c, peer.src)
        other.send(b"hello")
        assert there.take(5) == b"hello"
        drop(sink, sent)
        source.sendall(b"and on")
        assert sink.take(6) == b"and on"
        done.set()
    ended(w)


# --- who gets none


@pytest.mark.parametrize("raw", [
    request("GET", "/", [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQ")]),
    request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "websocket, h2c")]),
    request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "websocket/13")]),
    request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Upgrade", "websocket")]),
    request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "")]),
    request("GET", "/", [("Upgrade", "websocket")]),
    request("GET", "/", UPGRADE, b"body"),
    request("GET", "/", UPGRADE, b"body", chunked=True),
    request("POST", "/", UPGRADE),
    request("POST", "/", UPGRADE, b"body"),
    request("GET", "/", [*UPGRADE, ("Connection", "close")]),
    request("GET", "/", UPGRADE, version="1.0"),
], ids=["h2c", "list", "version", "twice", "empty", "not named", "body", "chunked", "POST", "POST with body", "close", "1.0"])
def test_an_upgrade_that_is_an_ordinary_request(start_upstream, start_weir, raw):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(raw)
        r = c.read_response()
        assert (r.status, r.body) == (200, b"ok"), r
        if b"close" not in raw and b"HTTP/1.0" not in raw:
            c.send(request("GET", "/next"))
            assert c.read_response().status == 200
    seen = up.requests[0]
    assert not {"upgrade", "connection"} & {name.lower() for name in seen.headers.names()}, seen
    assert w.metric("weir_tunnels") == 0


@pytest.mark.parametrize("raw", [
    request("GET", "/"),
    request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "h2c")]),
    request("POST", "/", UPGRADE, b"body"),
], ids=["plain", "h2c", "POST"])
def test_a_101_that_was_not_asked_for(start_upstream, start_weir, raw):
    up = start_upstream(tunnel(lambda peer: peer.wait_gone()))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(raw)
        problem(c.read_response(raw.split(b" ")[0].decode()), 502, "bad_response")
    up.wait_gone()
    assert outcomes(w) == {"bad_response": 1}


@pytest.mark.parametrize("upgrade", [
    [("Connection", "Upgrade")],
    [("Upgrade", "websocket")],
    [("Connection", "Upgrade"), ("Upgrade", "h2c")],
    [("Connection", "Upgrade"), ("Upgrade", "websocket, h2c")],
    [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c")],
    [("Connection", "close"), ("Upgrade", "websocket")],
], ids=["no Upgrade", "not named", "h2c", "list", "two", "close"])
def test_a_101_to_something_else(start_upstream, start_weir, upgrade):
    up = start_upstream(tunnel(lambda peer: peer.wait_gone(), switch(upgrade=upgrade)))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(ASK)
        problem(c.read_response(), 502, "bad_response")
    up.wait_gone()
    assert w.wait_log(status=502)["reason"] == "bad_response"


@pytest.mark.parametrize("code", [200, 401, 426, 503])
def test_another_answer_is_an_ordinary_one(start_upstream, start_weir, code):
    up = start_upstream(lambda peer: reply(code, b"no", [("Upgrade", "websocket"), ("Connection", "Upgrade")]))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for _ in range(3):
            c.send(ASK)
            r = c.read_response()
            assert (r.status, r.body, r.end) == (code, b"no", "length") and "Upgrade" not in r.headers, r
    assert up.heads == 3 and up.connections == 1


def test_a_stream_in_place_of_a_tunnel(start_upstream, start_weir):
    up = start_upstream(script=[harness.chunked_reply([b"one", b"two"])])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(ASK + request("GET", "/next"))  # behind another answer it is a request
        assert c.read_response().body == b"onetwo"
        assert c.read_response().body == b"onetwo"
    assert [r.target for r in up.requests] == ["/chat", "/next"]


def test_the_chain_refuses_before_anything_is_sent(start_upstream, start_weir):
    up = start_upstream(switching)
    w = start_weir(base_config(up.port, route={"limits": ["few"]}, limits={
        "few": {"algorithm": "token_bucket", "rate": "1/h", "burst": 1, "key": []}}))
    with connect(w.port) as c, connect(w.port) as other:
        assert rate_limit(begin(c))["few"]["r"] == 0
        say(c, b"hello")
        other.send(ASK)
        assert other.read_response().weir_reason == "limit"
    assert up.heads == 1


# --- what holds while it lives


def test_a_slot_is_held_to_the_end(start_upstream, start_weir):
    up = start_upstream(switching)
    w = start_weir(base_config(up.port, route={"limits": ["one"]},
                               limits={"one": {"algorithm": "concurrency", "limit": 1, "key": []}}))
    for _ in range(2):
        with connect(w.port) as c:
            begin(c)
            say(c, b"hello")
            assert get(w.port).weir_reason == "limit"
            say(c, b"hello")
        wait_until(lambda: get(w.port).status == 200, "the slot")


def test_a_connection_is_held_to_the_end_and_never_used_again(start_upstream, start_weir):
    up = start_upstream(switching)
    w = start_weir(base_config(up.port, agent={"connections": {"max": 1}, "timeouts": {"connect": "200ms"}}))
    assert get(w.port).status == 200
    with connect(w.port) as c:
        begin(c)  # on the parked one
        problem(get(w.port), 503, "overloaded")
        say(c, b"hello")
        c.half_close()
        assert c.wait_closed() == "fin"
    assert get(w.port).status == 200
    assert [r.conn for r in up.requests] == [1, 1, 2]


def test_time_does_not_bind_it(start_upstream, start_weir):
    up = start_upstream(tunnel())
    times = {"total": "700ms", "first_byte": "600ms", "idle": "10s"}
    w = start_weir(base_config(up.port, agent={"timeouts": times}, route={"timeout": "700ms"},
                               server={"timeouts": {"head": "700ms", "body": "700ms", "idle": "700ms", "write": "700ms"}}))
    with connect(w.port) as c:
        begin(c)
        for _ in range(3):
            time.sleep(0.75)
            say(c, b"hello")
        c.half_close()
        assert c.wait_closed() == "fin"
    line = ended(w)
    assert "reason" not in line and line["duration_ms"] > 2200, line


def test_the_101_is_waited_for_as_any_answer(start_upstream, start_weir):
    up = start_upstream(lambda peer: peer.wait_gone())
    w = start_weir(base_config(up.port, agent={"timeouts": {"first_byte": "300ms"}}))
    with connect(w.port) as c:
        c.send(ASK)
        problem(c.read_response(), 504, "timeout_first_byte")


def test_idle_in_both_directions_ends_it(start_upstream, start_weir):
    up = start_upstream(tunnel())
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "700ms"}}))
    with connect(w.port) as c:
        begin(c)
        for _ in range(4):
            time.sleep(0.3)
            say(c, b"hello")
        begun = time.monotonic()
        assert c.wait_closed() == "fin"
        assert time.monotonic() - begun > 0.5
        up.wait_gone()
    line = ended(w, reason="timeout_idle")
    assert line["duration_ms"] >= 1800, line
    assert outcomes(w) == {"timeout_idle": 1}


def test_one_direction_keeps_it_from_being_idle(start_upstream, start_weir):
    up = start_upstream(tunnel(lambda peer: peer.run([b"tick", 0.3] * 5 + [WAIT_GONE])))
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "900ms"}}))
    with connect(w.port) as c:
        begin(c)
        assert c.src.take(20) == b"tick" * 5
        c.half_close()


def test_bytes_that_nobody_takes_are_idle(start_upstream, start_weir):
    up = start_upstream(tunnel(lambda peer: peer.upstream.stopping.wait(60)), rcvbuf=65536)
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "500ms"}}))
    with connect(w.port) as c:
        begin(c)
        push(c.sock, quiet_s=0.3)
        ended(w, reason="timeout_idle")
        assert c.recv_to_end()[0] == b""


def test_a_slow_reader_is_not_idle(start_upstream, start_weir):
    """What it is sent lies ready all the while, and it takes some of it now and then."""
    size = 3 * MB
    up = start_upstream(tunnel(lambda peer: (peer.send(noise(size)), peer.wait_gone())), sndbuf=65536)
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "700ms"}}))
    with connect(w.port, rcvbuf=65536) as c:
        begin(c)
        got = b""
        while len(got) < size:
            got += c.src.take(min(300_000, size - len(got)))
            time.sleep(0.25)
        assert got == noise(size)
        c.half_close()


# --- how it ends


def test_the_caller_closes_his_half(start_upstream, start_weir):
    def run(peer):
        assert peer.wait_gone() == "fin"
        peer.send(b"one more thing")
        peer.close()

    up = start_upstream(tunnel(run))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        begin(c)
        c.send(b"all I had")
        c.half_close()
        assert c.recv_to_end() == (b"one more thing", "fin")
    line = ended(w)
    assert (line["bytes_in"], line["bytes_out"], line.get("reason", "")) == (9, 14, ""), line
    assert outcomes(w) == {"ok": 1}


def test_the_upstream_closes_its_half(start_upstream, start_weir):
    heard = []

    def run(peer):
        peer.send(noise(200_000))
        peer.half_close()
        try:
            while True:
                peer.src.fill()
        except Incomplete:
            heard.append(bytes(peer.src.buf))

    up = start_upstream(tunnel(run))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        begin(c)
        assert c.recv_to_end() == (noise(200_000), "fin")
        c.send(b"I heard you")
    wait_until(lambda: heard, "what the caller said last")
    assert heard == [b"I heard you"]
    line = ended(w)
    assert (line["bytes_in"], line["bytes_out"], line.get("reason", "")) == (11, 200_000, ""), line
    assert outcomes(w) == {"ok": 1}


def test_the_last_bytes_come_before_the_end(start_upstream, start_weir):
    """To a reader that is slow, behind a side that has closed all of it."""
    up = start_upstream(tunnel(lambda peer: peer.run([noise(2 * MB), harness.CLOSE])))
    w = start_weir(base_config(up.port))
    with connect(w.port, rcvbuf=65536) as c:
        begin(c)
        up.wait(lambda u: u.peers[0].ended, "the upstream to have sent it")
        got, end = c.recv_to_end()
        assert (got == noise(2 * MB), end) == (True, "fin")
    assert "reason" not in ended(w)


@pytest.mark.parametrize("unread", [False, True], ids=["all read", "bytes on their way"])
def test_the_caller_breaks_it(start_upstream, start_weir, unread):
    peers, done = [], threading.Event()

    def run(peer):
        peers.append(peer)
        if unread:
            done.wait(60)
        peer.wait_gone()

    up = start_upstream(tunnel(run), rcvbuf=65536)
    w = start_weir(base_config(up.port))
    c = connect(w.port)
    begin(c)
    up.wait(lambda _: peers, "the tunnel")
    if unread:
        push(c.sock)
    c.reset()
    line = ended(w, reason="client_gone")
    done.set()
    up.wait_gone()
    assert up.peers[0].ended == "reset"
    assert line["status"] == 101 and outcomes(w) == {"client_gone": 1}


@pytest.mark.parametrize("unread", [False, True], ids=["all read", "bytes on their way"])
def test_the_upstream_breaks_it(start_upstream, start_weir, unread):
    up = start_upstream(tunnel(lambda peer: (push(peer.sock) if unread else peer.src.fill(), peer.reset())))
    w = start_weir(base_config(up.port))
    with connect(w.port, rcvbuf=65536) as c:
        begin(c)
        if not unread:
            c.send(b"go")
        ended(w, reason="reset")
        assert c.recv_to_end()[1] == "reset"
    assert outcomes(w) == {"reset": 1}
    assert w.metric("weir_refused_total", reason="reset") == 1


def test_a_caller_who_closes_at_once(start_upstream, start_weir):
    """As a browser does when a tab is closed: nothing more is read."""
    up = start_upstream(tunnel(lambda peer: peer.run([b"tick", 0.02] * 5000)))
    w = start_weir(base_config(up.port))
    c = connect(w.port)
    begin(c)
    c.src.take(4)
    c.close()
    up.wait_gone()
    ended(w)


# --- tries


def test_what_was_sent_is_not_sent_again(start_faulty, start_weir):
    up = start_faulty(RESET, [SWITCH, WAIT_GONE])
    w = start_weir(retrying(up, {"attempts": 3, "when": ["connect", "reset", "timeout", 502]}))
    with connect(w.port) as c:
        c.send(ASK)
        problem(c.read_response(), 502, "reset")
    assert up.heads == 1 and w.metric("weir_retries_total") == 0


@pytest.mark.parametrize("first", ["refused", "503"])
def test_another_upstream_takes_it(start_faulty, start_weir, first):
    b = start_faulty([SWITCH, echo])
    with Refuser() as refuser:
        a = refuser if first == "refused" else start_faulty(faults.status(503))
        w = start_weir(chain(a, b))
        with connect(w.port) as c:
            begin(c)
            say(c, b"hello")
        line = ended(w)
        assert line["upstream"] == "b" and line["attempts"] == 2, line


def test_a_probe_is_settled_by_the_101(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(breaking(up))
    for _ in range(3):
        get(w.port)
    wait_state(w, "open")
    up.answers([SWITCH, echo])
    callers = []

    def probe():
        c = connect(w.port)
        c.send(ASK)
        r = c.read_head()
        (callers.append if r.status == 101 else Conn.close)(c)
        return len(callers) == 2

    try:
        wait_until(probe, "two tunnels for probes")
        wait_state(w, "closed")
        for c in callers:
            say(c, b"hello")
        c = callers[0]
        c.reset()  # no failure of the upstream's, and it was told already
        w.wait_log(reason="client_gone")
        assert faults.breaker_state(w) == "closed"
    finally:
        for c in callers:
            c.close()


# --- the process


def test_a_drain_waits_for_it(start_upstream, start_weir):
    up = start_upstream(tunnel())
    w = start_weir(base_config(up.port, server={"drain": {"timeout": "10m"}}))
    with connect(w.port) as c:
        begin(c)
        w.signal(signal.SIGTERM)
        wait_until(lambda: refuses(w.port), "new connections to be refused")
        for _ in range(3):
            time.sleep(0.1)
            say(c, b"hello")
        assert w.alive()
        c.half_close()
        assert c.wait_closed() == "fin"
    assert w.wait_exit() == 0
    assert [(line["status"], line.get("reason", "")) for line in w.log] == [(101, "")]


def test_a_drain_that_is_over_cuts_it(start_upstream, start_weir):
    up = start_upstream(tunnel())
    w = start_weir(base_config(up.port, server={"drain": {"timeout": "500ms"}}))
    with connect(w.port) as c:
        begin(c)
        say(c, b"hello")
        w.signal(signal.SIGTERM)
        assert c.wait_closed() == "reset"
        up.wait_gone()
    assert w.wait_exit() == 0
    assert [(line["status"], line["reason"]) for line in w.log] == [(101, "draining")]


def test_a_reload_leaves_it_alone(start_upstream, start_weir):
    old, new = start_upstream(tunnel()), start_upstream()
    config = base_config(old.port, agent={"timeouts": {"idle": "60s"}})
    w = start_weir(config)
    with connect(w.port) as c:
        begin(c)
        say(c, b"hello")
        merge(config["upstreams"], {"agent": {"url": f"http://127.0.0.1:{new.port}", "timeouts": {"idle": "100ms"}}})
        w.reload(config)
        assert get(w.port).body == b"ok"
        time.sleep(0.3)
        say(c, b"hello")
        config["listeners"]["in"]["address"] = f"127.0.0.1:{harness.free_port()}"
        w.reload(config)
        say(c, b"hello")
        c.half_close()
        assert c.wait_closed() == "fin"
    ended(w)
    assert new.heads == 1


@pytest.mark.parametrize("seed", range(3))
def test_whatever_both_sides_do(start_upstream, start_weir, seed):
    """Random bytes and random ends of both sides at random times: nothing is left behind."""
    def act(rng, sock, src):
        """One side's part, up to its end."""
        for _ in range(rng.randrange(6)):
            way = rng.random()
            if way < 0.5:
                sock.sendall(noise(rng.choice([1, 100, 5_000, 70_000]), seed))
            elif way < 0.8:
                sock.settimeout(0.05)
                try:
                    src.fill()
                except harness.Deadline:
                    pass
                src.buf.clear()
                sock.settimeout(2)
            else:
                time.sleep(rng.random() * 0.03)
        way = rng.random()
        if way < 0.3:
            harness.reset(sock)
        elif way < 0.6:
            sock.shutdown(socket.SHUT_WR)
            SocketSource.fill(src)
        elif way < 0.7:
            time.sleep(0.4)
        sock.close()

    def handler(peer):
        rng = random.Random(f"{seed} {peer.number}")
        peer.sock.settimeout(2)
        peer.send(SWITCH[:40] if rng.random() < 0.05 else SWITCH + noise(rng.choice([0, 0, 10, 100_000])))
        act(rng, peer.sock, peer.src)
        raise Gone("done")

    up = start_upstream(handler, lenient=True)
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "150ms", "first_byte": "500ms"}, "connections": {"max": 8}}))

    def caller(n):
        rng = random.Random(f"{seed} caller {n}")
        for _ in range(20):
            with connect(w.port, timeout=2) as c, contextlib.suppress(OSError, Incomplete, AssertionError):
                c.send(ASK + noise(rng.choice([0, 0, 0, 10, 30_000])))
                if rng.random() < 0.9:
                    c.read_head()
                act(rng, c.sock, c.src)

    in_parallel(10, caller)
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_tunnels", 0)
    w.wait_metric("weir_upstream_connections", 0, state="active")
    w.wait_metric("weir_connections", 0, listener="in")
    lines = wait_until(lambda: len(found := [line for line in w.log if line.get("path") == "/chat"]) == 200 and found,
                       "a line for each")
    ends = {line.get("reason", "") for line in lines if line["status"] == 101}
    assert ends <= {"", "timeout_idle", "reset", "client_gone"} and len(ends) >= 3, ends


# --- TLS


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def good(ca):
    return ca.issue("localhost", ["DNS:localhost", "IP:127.0.0.1"])


def tls_caller(w, ca):
    c = connect(w.port)
    c.sock = client_context(ca.file).wrap_socket(c.sock, server_hostname="localhost", suppress_ragged_eofs=False)
    c.src = SocketSource(c.sock)
    return c


def tls_weir(start_upstream, start_weir, ca, good, run=echo, **more):
    up = start_upstream(tunnel(run), on_connect=Handshakes(server_context(good)))
    config = base_config(f"https://127.0.0.1:{up.port}", agent={"tls": {"ca": ca.file}, **more}, listener={"tls": good.pair})
    return up, start_weir(config)


def half_megabyte_in_turns(c):
    for n in range(32):  # Python's TLS sockets are not for two threads at once
        say(c, noise(16 * 1024, n))


def test_tls_on_both_sides(start_upstream, start_weir, ca, good):
    ends = []

    def run(peer):
        while not (last := peer.src.buf.endswith(b"the end")):
            peer.send(peer.src.take(len(peer.src.buf)))
            peer.src.fill()
        peer.send(peer.src.take(len(peer.src.buf)))
        peer.sock.unwrap()
        ends.append(last)

    _, w = tls_weir(start_upstream, start_weir, ca, good, run)
    with tls_caller(w, ca) as c:
        c.send(ASK + b"early")
        assert c.read_head().status == 101
        assert c.src.take(5) == b"early"
        half_megabyte_in_turns(c)
        say(c, b"the end")
        assert c.sock.recv(10) == b""  # after close_notify
        c.sock.unwrap()
    wait_until(lambda: ends, "the upstream to have heard the caller's end")
    line = ended(w)
    assert "reason" not in line and line["bytes_in"] == line["bytes_out"] == 32 * 16 * 1024 + 12, line


def test_tls_that_ends_without_saying_so(start_upstream, start_weir, ca, good):
    """Is no end: bytes may be missing."""
    up, w = tls_weir(start_upstream, start_weir, ca, good,
                     lambda peer: (peer.src.fill(), socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)))
    with tls_caller(w, ca) as c:
        begin(c)
        c.send(b"go")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            c.sock.recv(10)
    ended(w, reason="reset")
    with tls_caller(w, ca) as c:
        begin(c)
    ended(w, reason="client_gone")


def test_tls_back_pressure(start_upstream, start_weir, ca, good):
    """A megabyte to a reader who sleeps at first."""
    def run(peer):
        for n in range(64):
            peer.send(noise(16 * 1024, n))
        peer.wait_gone()

    _, w = tls_weir(start_upstream, start_weir, ca, good, run)
    with tls_caller(w, ca) as c:
        begin(c)
        time.sleep(0.3)
        assert c.src.take(MB) == b"".join(noise(16 * 1024, n) for n in range(64))
