"""Dedup while the first one runs: its answer is shared as it comes, nobody's pace is another's, whoever leaves leaves alone - and
one request goes up, whatever happens to the one that sent it."""
import contextlib
import json
import os
import random
import re
import signal
import threading
import time

import pytest

import harness
from faults import MIDDLE, OK, error, status
from harness import CLOSE, LAST_CHUNK, RESET, WAIT_GONE, Gone, NoResponse, chunk, connect, problem, reply, request, wait_until
from llm import FORMS, Gate, Llm, Usage
from support import Numbered, dedup_results, deduped, in_parallel, is_gone, keyed

ROUNDS = int(os.environ.get("WEIR_DEDUP_ROUNDS", "20"))
CALLERS = 100
LEAVE = {"close": lambda c: c.close(), "reset": lambda c: c.reset(), "half_close": lambda c: c.half_close()}
SSE = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]


def event(n):
    return b"data: %d\n\n" % n


def raw(key="k1", body=b"{}", method="POST", target="/", headers=(), **kw):
    return request(method, target, [*(keyed(key) if key is not None else []), *headers], body, **kw)


class Staged:
    """An upstream handler that sends its head, `count` pieces and the end each when the test says so: step() lets it go on by
    one. Every request is a stage of its own. Who closes on it is noticed at once: of `most`, the most at once, he is none."""

    def __init__(self, count=3, piece=event, fields=SSE, code=200):
        self.count, self.piece, self.fields, self.code = count, piece, fields, code
        self.cond, self.allowed, self.free = threading.Condition(), 0, False
        self.peers = set()  # of those that are running
        self.most = self.dropped = self.turn = 0

    @property
    def running(self):
        return len(self.peers)

    def step(self, count=1):
        with self.cond:
            self.allowed += count
            self.cond.notify_all()

    def finish(self):
        with self.cond:
            self.free = True
            self.cond.notify_all()

    def _wait(self, peer):
        end = time.monotonic() + 2 * harness.DEADLINE
        while True:
            with self.cond:
                if self.free:
                    return
                if self.allowed:
                    self.allowed -= 1
                    return
            if is_gone(peer, 5):
                self.dropped += 1
                raise Gone("the caller is gone")
            assert time.monotonic() < end, "the test never let it go on"

    def __call__(self, peer):
        with self.cond:
            self.turn += 1
            self.most = max(self.most, 1 + sum(not is_gone(other, 0) for other in self.peers))
            self.peers.add(peer)
        try:
            self._wait(peer)
            peer.send(reply(self.code, b"", self.fields, length=False))
            for n in range(self.count):
                self._wait(peer)
                peer.send(chunk(self.piece(n)))
            self._wait(peer)
            peer.send(LAST_CHUNK)
        finally:
            with self.cond:
                self.peers.remove(peer)

    def body(self):
        return b"".join(self.piece(n) for n in range(self.count))


@pytest.fixture
def world(start_upstream, start_weir, connect):
    """world(dedup, handler) -> (w, up, send): `send` opens a connection with one request on it."""
    def make(dedup=None, handler=None, **more):
        up = start_upstream(handler or Staged())
        w = start_weir(deduped(up, dedup, **more))

        def send(key="k1", headers=(), rcvbuf=None, **kw):
            c = connect(w.port, rcvbuf=rcvbuf)
            c.send(raw(key, headers=headers, **kw))
            return c

        return w, up, send

    return make


def joined(w, up, send, waiters, **kw):
    """The connection of one that runs, and of those that wait for its answer."""
    leader = send(**kw)
    up.wait_complete(1)
    conns = [send(**kw) for _ in range(waiters)]
    w.wait_metric("weir_in_flight", 1 + waiters)
    return leader, conns


def read(c):
    return c.read_response("POST")


def whole(r, body, code=200):
    assert r.status == code and r.clean and r.body == body, r
    return r


# --------------------------------------------------------------------------------------------------- a hundred at once


@pytest.mark.parametrize("kind", ["whole", "stream", "at once", "large"])
def test_a_hundred_at_once(start_upstream, start_weir, kind):
    """Each round a new key: one call, and a hundred answers that are the same to the byte."""
    rng = random.Random(kind)
    pauses = {"whole": 0.005, "stream": 0.002, "at once": 0, "large": 0.005}

    def handler(peer):
        n = peer.request.header("Idempotency-Key").encode()
        time.sleep(rng.random() * pauses[kind])
        if kind == "large":
            return reply(200, n * 10000)
        if kind != "stream":
            return reply(200, b"answer to " + n)
        peer.send(reply(200, b"", SSE, length=False))
        for i in range(5):
            peer.send(chunk(b"data: %b %d\n\n" % (n, i)))
            time.sleep(rng.random() * pauses[kind])
        peer.send(LAST_CHUNK)

    up = start_upstream(handler)
    w = start_weir(deduped(up, server={"workers": 4}))
    rounds = ROUNDS if kind != "large" else min(ROUNDS, 50)
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(CALLERS)]
        for n in range(rounds):
            one = raw(f"round-{n}")
            for c in conns:
                c.send(one)
            answers = [read(c) for c in conns]
            assert up.heads == n + 1, f"round {n}: {up.heads - n} ran"
            assert {(r.status, r.body, r.clean) for r in answers} == {(200, answers[0].body, True)}, f"round {n}"
            assert f"round-{n}".encode() in answers[0].body
            assert len({r.header("X-Correlation-ID") for r in answers}) == CALLERS
    found = dedup_results(w)
    assert found.pop("first") == rounds and sum(found.values()) == rounds * (CALLERS - 1), found
    assert set(found) <= {"shared", "replayed"}, found
    w.wait_metric("weir_in_flight", 0)


def test_a_hundred_of_ten_keys_over_new_connections(start_upstream, start_weir):
    up = start_upstream(lambda peer: (time.sleep(0.01), reply(200, peer.request.header("Idempotency-Key").encode()))[1])
    w = start_weir(deduped(up, server={"workers": 4}))
    for n in range(max(3, ROUNDS // 4)):
        conns = [connect(w.port) for _ in range(CALLERS)]
        for i, c in enumerate(conns):
            c.send(raw(f"{n}-{i % 10}"))
        for i, c in enumerate(conns):
            with c:
                whole(read(c), f"{n}-{i % 10}".encode())
        assert up.heads == 10 * (n + 1)


def test_a_hundred_of_a_call_that_fails(start_upstream, start_weir):
    """503, a reset before the head, or in the body: whatever it is, never two of a key at once, and every caller is answered."""
    rng, now, most, lock = random.Random(7), {}, {}, threading.Lock()

    def handler(peer):
        key = peer.request.header("Idempotency-Key")
        with lock:
            now[key] = now.get(key, 0) + 1
            most[key] = max(most.get(key, 0), now[key])
            what = rng.choice(["ok", "503", "reset", "cut"])
        time.sleep(0.003)
        with lock:
            now[key] -= 1
        if what == "reset":
            peer.reset()
        if what == "cut":
            peer.send(reply(200, b"", SSE, length=False) + chunk(b"data: 0\n\n"))
            peer.close()
        return reply(503 if what == "503" else 200, what.encode())

    up = start_upstream(handler)
    w = start_weir(deduped(up, server={"workers": 4}))
    for n in range(ROUNDS):
        conns = [connect(w.port) for _ in range(30)]
        for c in conns:
            c.send(raw(f"{n}"))
        for c in conns:
            with c:
                with contextlib.suppress(NoResponse):
                    r = read(c)
                    assert r.status in (200, 502, 503), r
    assert set(most.values()) == {1}, f"two of a key at once: {most}"
    w.wait_metric("weir_in_flight", 0)
    keys = w.metric("weir_dedup_keys", dedup="once")
    assert keys <= 2 * ROUNDS


# ------------------------------------------------------------------------------------------------------ shared as it comes


@pytest.mark.parametrize("workers", [1, 4])
def test_a_stream_is_shared_as_it_comes(world, workers):
    staged = Staged(3)
    w, up, send = world(handler=staged, server={"workers": workers})
    leader, waiters = joined(w, up, send, 8)
    staged.step()
    everyone = [leader, *waiters]
    heads = [c.read_head() for c in everyone]
    assert all(r.status == 200 and r.header("Content-Type") == "text/event-stream" for r in heads)
    assert not any("Idempotent-Replayed" in r.headers for r in heads)
    assert len({r.header("X-Correlation-ID") for r in heads}) == 9
    for n in range(3):
        staged.step()
        for c in everyone:
            c.recv_until(event(n))
    late = send()
    assert late.read_head().status == 200
    late.recv_until(event(2))
    staged.step()
    for c in [*everyone, late]:
        c.recv_until(LAST_CHUNK)
    assert up.heads == 1
    assert dedup_results(w) == {"first": 1, "shared": 9}
    w.wait_metric("weir_in_flight", 0)
    replay = send()
    r = whole(read(replay), staged.body())
    assert r.header("Idempotent-Replayed") == "true" and r.header("Content-Type") == "text/event-stream"


def test_waiters_log_what_they_are(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 2)
    staged.finish()
    for c in [leader, *waiters]:
        whole(read(c), staged.body())
    assert w.wait_log(dedup="first")["attempts"] == 1
    line = w.wait_log(dedup="shared", count=2)
    assert line["status"] == 200 and line.get("attempts") in (None, 0) and line["bytes_out"] == len(staged.body()), line


def test_explain_and_status_while_it_runs(world):
    staged = Staged()
    w, up, send = world({"in_flight": "reject"}, staged)
    c = send()
    up.wait_heads()
    assert w.ask_admin("/explain?listener=in&path=/&method=POST&key=k1").json()["dedup"]["would"] != "run"
    assert w.metric("weir_dedup_keys", dedup="once") == 1
    staged.finish()
    whole(read(c), staged.body())


@pytest.mark.parametrize("code", [200, 404, 429, 500, 503])
def test_whatever_whole_answer_it_is_is_shared(world, code):
    staged = Staged(1, code=code)
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 4)
    staged.finish()
    for c in [leader, *waiters]:
        r = whole(read(c), staged.body(), code)
        assert "Idempotent-Replayed" not in r.headers
    assert up.heads == 1
    assert read(send()).status == code
    assert up.heads == (1 if code == 200 else 2)


def test_waiters_of_another_request_do_not_share(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    leader = send()
    up.wait_complete(1)
    problem(read(send(body=b"other")), 422, "key_mismatch")
    problem(read(send(target="/other")), 422, "key_mismatch")
    staged.finish()
    whole(read(leader), staged.body())


def test_other_tenants_and_keys_do_not_share(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    conns = [send(), send(headers=[("X-Tenant-ID", "a")]), send("other"), send(method="PUT")]
    up.wait_complete(4)
    staged.finish()
    for c in conns:
        whole(read(c), staged.body())


@pytest.mark.parametrize("on_duplicate", ["acknowledge", "reject"])
def test_waiting_goes_with_every_on_duplicate(world, on_duplicate):
    staged = Staged()
    w, up, send = world({"on_duplicate": on_duplicate}, staged)
    leader, waiters = joined(w, up, send, 3)
    staged.finish()
    for c in [leader, *waiters]:
        whole(read(c), staged.body())
    r = read(send())
    assert r.status == (204 if on_duplicate == "acknowledge" else 409) and r.weir_reason == "duplicate"
    assert up.heads == 1
    w.wait_metric("weir_dedup_memory_bytes", 0, dedup="once")


@pytest.mark.parametrize("dialect", ["plain", "openai", "anthropic"])
def test_in_flight_reject(world, dialect):
    staged = Staged()
    w, up, send = world({"in_flight": "reject"}, staged, agent={"dialect": dialect})
    leader = send()
    up.wait_complete(1)
    for _ in range(3):
        r = read(send())
        error(r, 409, "in_flight", dialect)
        assert re.fullmatch(r"[1-9]\d*", r.header("Retry-After")), r
    if dialect == "plain":
        problem(read(send(body=b"x")), 422, "key_mismatch")
    staged.finish()
    whole(read(leader), staged.body())
    assert whole(read(send()), staged.body()).header("Idempotent-Replayed") == "true"
    assert dedup_results(w)["rejected"] == 3 and up.heads == 1
    assert w.wait_log(reason="in_flight")["status"] == 409


def test_callers_of_two_versions_share(world):
    """A stream without length: HTTP/1.0 reads it to the end of the connection."""
    staged = Staged()
    w, up, send = world(handler=staged)
    conns = [send(version="1.0"), send(version="1.1")]
    up.wait_complete(1)
    conns += [send(version="1.0"), send(version="1.1"), send(version="1.0", headers=[("Connection", "keep-alive")])]
    w.wait_metric("weir_in_flight", 5)
    staged.finish()
    for c in conns:
        whole(read(c), staged.body())
    assert up.heads == 1


def test_a_broken_stream_is_a_reset_for_http_1_0(world, start_upstream):
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([reply(200, b"", SSE, length=False) + chunk(event(0)), go, CLOSE]))
    leader = send(version="1.0")
    up.wait_complete(1)
    waiters = [send(version="1.0"), send(version="1.1")]
    for c in [leader, *waiters]:
        c.recv_until(event(0))
    go.set()
    assert [c.recv_to_end()[1] for c in (leader, waiters[0])] == ["reset", "reset"]
    assert LAST_CHUNK not in waiters[1].recv_to_end()[0]


def test_kept_connections_after_a_share(world):
    """Ten rounds on the same connections, each of them the first one in turn; between them a request of its own kind."""
    numbered = Numbered(before=lambda n: time.sleep(0.02))
    w, up, _ = world(handler=numbered)
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(6)]
        for n in range(10):
            for c in conns[n % 6:] + conns[:n % 6]:
                c.send(raw(f"r{n}"))
            assert len({read(c).body for c in conns}) == 1
            for c in conns:
                c.send(request("GET", f"/{n}"))
            assert len({c.read_response("GET").body for c in conns}) == 6
    assert up.heads == 70


def test_requests_behind_a_waiter_in_a_pipeline(world):
    """The one behind a waiter is answered after it, the first one's as well; two of a key in one pipeline do not hang."""
    staged = Staged()
    w, up, send = world(handler=staged)
    leader = send()
    up.wait_complete(1)
    with connect(w.port) as c:
        c.send(raw() + raw() + raw("second") + raw("second") + request("GET", "/last"))
        leader.send(raw())
        w.wait_metric("weir_in_flight", lambda v: v >= 2)
        staged.finish()
        answers = [read(c) for _ in range(4)] + [c.read_response("GET")]
    assert all(r.body == staged.body() for r in answers)
    assert ["Idempotent-Replayed" in r.headers for r in answers] == [False, True, False, True, False]
    assert "Idempotent-Replayed" not in read(leader).headers and read(leader).header("Idempotent-Replayed") == "true"
    assert up.heads == 3


def test_a_waiter_with_expect(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    leader = send()
    up.wait_complete(1)
    with connect(w.port) as c:
        c.send(request("POST", "/", [*keyed("k1"), ("Expect", "100-continue"), ("Content-Length", "2")]))
        assert c.read_head().status == 100
        c.send(b"{}")
        staged.finish()
        whole(read(c), staged.body())
    whole(read(leader), staged.body())
    assert up.heads == 1


def test_a_waiter_whose_body_comes_in_single_bytes(world):
    """The key is taken when the body is there: who is slow neither holds it nor loses it."""
    staged = Staged()
    w, up, send = world(handler=staged)
    slow = connect(w.port)
    with slow:
        whole_one = raw()
        slow.send_slowly([whole_one[i:i + 1] for i in range(len(whole_one) - 1)], 0)
        leader = send()
        up.wait_complete(1)
        slow.send(whole_one[-1:])
        staged.finish()
        whole(read(slow), staged.body())
    whole(read(leader), staged.body())
    assert up.heads == 1


def test_upgrades_and_other_methods_are_not_concerned(world):
    w, up, send = world(handler=Numbered())
    for n in range(1, 4):
        with connect(w.port) as c:
            c.send(request("GET", "/", [*keyed("k1"), ("Upgrade", "websocket"), ("Connection", "Upgrade"),
                                        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")]))
            assert c.read_response("GET").body.startswith(b"answer %d " % n)
    assert dedup_results(w) == {}


# ------------------------------------------------------------------------------------------------ each at its own pace


MIB = 1 << 20


def pattern(size, seed=0):
    return random.Random(seed).randbytes(size)


def test_one_slow_caller_alone_gets_all_of_it(world):
    """Nobody waits beside it: an answer far larger than max_response is neither cut nor held in memory."""
    body = pattern(24 * MIB)
    w, up, send = world({"max_response": "64KiB", "memory": "1MiB"}, lambda peer: reply(200, body))
    c = send(rcvbuf=4096)
    c.read_head()
    up.wait_heads()
    got = bytearray()
    before = w.rss_kb()
    time.sleep(1.5)
    assert w.rss_kb() - before < harness.rss_kb_allowed(8)
    while len(got) < len(body):
        c.src.fill()
        got += c.src.take(len(c.src.buf))
    assert bytes(got) == body
    problem(read(send()), 409, "duplicate")
    assert up.heads == 1


def test_a_slow_waiter_does_not_slow_the_others(world):
    """It reads nothing at all; the answer fits into max_response, so that it gets everything later."""
    body = pattern(900 * 1024)
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([go, reply(200, body)]))
    leader = send()
    up.wait_complete(1)
    slow, fast = [send(rcvbuf=4096) for _ in range(3)], [send() for _ in range(3)]
    w.wait_metric("weir_in_flight", 7)
    go.set()
    for c in [leader, *fast]:
        whole(read(c), body)
    for c in slow:
        whole(read(c), body)
    assert up.heads == 1


def test_a_slow_first_caller_does_not_slow_the_others(world):
    body = pattern(900 * 1024)
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([go, reply(200, body)]))
    leader = send(rcvbuf=4096)
    up.wait_complete(1)
    fast = [send() for _ in range(3)]
    w.wait_metric("weir_in_flight", 4)
    go.set()
    for c in fast:
        whole(read(c), body)
    whole(read(leader), body)
    assert up.heads == 1


def test_the_first_ones_caller_is_waited_for_while_he_takes_anything(world):
    """Little at a time, and for longer than one who takes nothing is waited for; a faster one does not cost him his answer."""
    body = pattern(MIB)
    go = threading.Event()
    w, up, send = world({"max_response": "64KiB"}, lambda peer: peer.run([go, reply(200, body)]))
    leader = send(rcvbuf=4096)
    up.wait_complete(1)
    fast, got = send(), {}
    w.wait_metric("weir_in_flight", 2)
    reader = threading.Thread(target=lambda: got.update(fast=read(fast)), daemon=True)
    reader.start()
    go.set()
    leader.read_head()
    for n in range(40):
        leader.src.take(3000)
        time.sleep(0.1)
    assert leader.src.take(MIB - 40 * 3000) == body[40 * 3000:]
    reader.join(2 * harness.DEADLINE)
    whole(got["fast"], body)
    assert w.wait_log(dedup="first")["bytes_out"] == MIB and up.heads == 1


def test_a_waiter_that_is_too_far_behind_is_cut(world):
    """The first one's caller reads on and gets all; the one that does not read at all loses its answer, and can see that."""
    body = pattern(24 * MIB)
    go = threading.Event()
    w, up, send = world({"max_response": "64KiB"}, lambda peer: peer.run([go, reply(200, body)]))
    leader = send()
    up.wait_complete(1)
    slow, fast = send(rcvbuf=4096), send()
    w.wait_metric("weir_in_flight", 3)
    go.set()
    results = {}
    readers = [threading.Thread(target=lambda n=n, c=c: results.update({n: read(c)}), daemon=True)
               for n, c in (("leader", leader), ("fast", fast))]
    for t in readers:
        t.start()
    for t in readers:
        t.join(2 * harness.DEADLINE)
    whole(results["leader"], body)
    fast_one = results["fast"]
    assert fast_one.body == body[:len(fast_one.body)] and (not fast_one.clean or fast_one.body == body)
    with contextlib.suppress(NoResponse):
        r = read(slow)
        assert not r.clean and r.body == body[:len(r.body)], f"{len(r.body)} of {len(body)} and a clean end"
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_dedup_memory_bytes", lambda v: v < 1024, dedup="once")
    problem(read(send()), 409, "duplicate")
    assert up.heads == 1


def test_a_slow_first_caller_of_a_large_answer(world):
    """Its waiter is quick, itself it reads nothing, the answer is beyond max_response: both come to an end, and no end looks
    clean that is not whole."""
    body = pattern(24 * MIB)
    go = threading.Event()
    w, up, send = world({"max_response": "64KiB"}, lambda peer: peer.run([go, reply(200, body)]))
    leader = send(rcvbuf=4096)
    up.wait_complete(1)
    fast = send()
    w.wait_metric("weir_in_flight", 2)
    go.set()
    results = {}
    t = threading.Thread(target=lambda: results.update(fast=read(fast)), daemon=True)
    t.start()
    t.join(3)
    with contextlib.suppress(NoResponse):
        r = read(leader)
        assert r.body == body[:len(r.body)] and (not r.clean or r.body == body), len(r.body)
    t.join(harness.DEADLINE)
    r = results["fast"]
    assert r.body == body[:len(r.body)] and (not r.clean or r.body == body), len(r.body)
    w.wait_metric("weir_in_flight", 0)
    assert up.heads == 1


def test_a_late_duplicate_of_a_large_answer(world):
    """The beginning is gone when it comes: 409, and no second run."""
    body = pattern(24 * MIB)
    go = threading.Event()
    w, up, send = world({"max_response": "64KiB"}, lambda peer: peer.run([reply(200, body)[:-100], go, body[-100:]]))
    leader = send()
    leader.read_head()
    got = bytearray()
    while len(got) < 23 * MIB:
        leader.src.fill()
        got += leader.src.take(len(leader.src.buf))
    r = read(send())
    assert r.status == 409 and r.weir_reason in ("duplicate", "in_flight"), r
    go.set()
    while len(got) < len(body):
        leader.src.fill()
        got += leader.src.take(len(leader.src.buf))
    assert bytes(got) == body and up.heads == 1


def test_memory_is_bounded_while_answers_are_shared(world):
    """Fifty streams of 200 KB at once with memory for five: each caller gets its own answer whole."""
    body = pattern(200 * 1024)
    go = threading.Event()
    w, up, send = world({"memory": "1MiB", "max_response": "1MiB"}, lambda peer: peer.run([go, reply(200, body)]))
    conns = [send(f"k{n}") for n in range(50)]
    up.wait_complete(50)
    go.set()
    for c in conns:
        whole(read(c), body)
    w.wait_metric("weir_in_flight", 0)
    assert w.metric("weir_dedup_memory_bytes", dedup="once") <= MIB
    for n in range(50):
        r = read(send(f"k{n}"))
        assert r.status in (200, 409) and (r.status == 409 or r.body == body)
    assert up.heads == 50


# --------------------------------------------------------------------------------------------------------- who leaves


@pytest.mark.parametrize("how", LEAVE)
def test_a_waiter_leaves(world, how):
    staged = Staged()
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 4)
    staged.step(2)
    for c in [leader, *waiters]:
        c.recv_until(event(0))
    LEAVE[how](waiters[0])
    LEAVE[how](waiters[1])
    w.wait_metric("weir_in_flight", 3)
    staged.finish()
    for c in [leader, *waiters[2:]]:
        c.recv_until(LAST_CHUNK)
    assert (up.heads, staged.dropped) == (1, 0)
    assert whole(read(send()), staged.body()).header("Idempotent-Replayed") == "true"


@pytest.mark.parametrize("when", ["before the head", "behind the head", "in the body"])
@pytest.mark.parametrize("how", LEAVE)
def test_the_first_caller_leaves_and_its_call_goes_on(world, how, when):
    """abandoned: finish. Its retry joins the same call, or finds its answer."""
    staged = Staged()
    w, up, send = world(handler=staged)
    leader = send()
    up.wait_complete(1)
    if when != "before the head":
        staged.step(1 if when == "behind the head" else 2)
        leader.read_head()
    LEAVE[how](leader)
    time.sleep(0.2)
    assert staged.dropped == 0 and staged.running == 1, "the call was cancelled"
    retry = send()
    if when != "before the head":
        retry.recv_until(b"\r\n\r\n")
    staged.finish()
    if when == "before the head":
        whole(read(retry), staged.body())
    else:
        retry.recv_until(LAST_CHUNK)
    r = whole(read(send()), staged.body())
    assert r.header("Idempotent-Replayed") == "true"
    assert (up.heads, staged.dropped) == (1, 0)
    w.wait_metric("weir_in_flight", 0)


def test_a_caller_that_times_out_gets_the_whole_stream_at_its_retry(world):
    """An SDK: it gives up in the middle of a stream and asks again, from the beginning."""
    def handler(peer):
        peer.send(reply(200, b"", SSE, length=False))
        for n in range(20):
            peer.send(chunk(event(n)))
            time.sleep(0.05)
        peer.send(LAST_CHUNK)

    w, up, send = world(handler=handler)
    first = send()
    first.read_head()
    first.recv_until(event(3))
    first.close()
    whole(read(send()), b"".join(map(event, range(20))))
    assert up.heads == 1


def test_everyone_leaves_and_the_call_goes_on(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 5)
    staged.step(2)
    for c in [leader, *waiters]:
        c.recv_until(event(0))
        c.close()
    time.sleep(0.2)
    staged.finish()
    wait_until(lambda: staged.running == 0, "the call to end")
    assert whole(read(send()), staged.body()).header("Idempotent-Replayed") == "true"
    assert (up.heads, staged.dropped) == (1, 0)


def test_an_abandoned_call_with_a_large_answer_does_not_stall(world):
    """Nobody reads it any more, and it is beyond max_response: it goes on to its end, and the key is known."""
    body = pattern(8 * MIB)
    go = threading.Event()
    w, up, send = world({"max_response": "64KiB"}, lambda peer: peer.run([go, reply(200, body)]))
    c = send()
    up.wait_complete(1)
    c.close()
    time.sleep(0.1)
    go.set()
    wait_until(lambda: w.metric("weir_upstream_requests_total", outcome="ok") == 1, "the call to end")
    wait_until(lambda: read(send()).weir_reason == "duplicate", "its key to be done")
    assert up.heads == 1


def test_an_abandoned_call_that_fails_is_forgotten(world):
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([go, status(500)] if up.heads == 1 else [OK]))
    c = send()
    up.wait_complete(1)
    c.close()
    time.sleep(0.1)
    go.set()
    wait_until(lambda: dedup_results(w).get("forgotten") == 1, "the failure to be forgotten")
    assert read(send()).status == 200 and up.heads == 2


def test_an_abandoned_call_in_flight_is_rejected_to_its_retry(world):
    staged = Staged()
    w, up, send = world({"in_flight": "reject"}, staged)
    c = send()
    up.wait_complete(1)
    c.close()
    problem(read(send()), 409, "in_flight")
    staged.finish()
    r = wait_until(lambda: (r := read(send())).status == 200 and r, "the answer")
    whole(r, staged.body())
    assert up.heads == 1


@pytest.mark.parametrize("how", LEAVE)
def test_the_first_caller_leaves_and_cancels(world, how):
    """abandoned: cancel, before an answer: forgotten, the next runs."""
    staged = Staged()
    w, up, send = world({"abandoned": "cancel", "on_unknown": "reject"}, staged)
    c = send()
    up.wait_complete(1)
    LEAVE[how](c)
    wait_until(lambda: staged.dropped == 1, "the call to be cancelled")
    w.wait_metric("weir_in_flight", 0)
    staged.finish()
    r = whole(read(send()), staged.body())
    assert "Idempotent-Replayed" not in r.headers and up.heads == 2
    assert staged.most == 1


@pytest.mark.parametrize("on_unknown", ["run", "reject"])
def test_cancelled_in_the_middle_of_the_answer(world, on_unknown):
    """The request was sent, and no whole answer came: unknown."""
    staged = Staged()
    w, up, send = world({"abandoned": "cancel", "on_unknown": on_unknown}, staged)
    c = send()
    staged.step(2)
    c.recv_until(event(0))
    c.close()
    wait_until(lambda: staged.dropped == 1, "the call to be cancelled")
    w.wait_metric("weir_in_flight", 0)
    staged.finish()
    r = read(send())
    if on_unknown == "run":
        whole(r, staged.body())
        assert up.heads == 2
    else:
        problem(r, 409, "unknown_outcome")
        assert up.heads == 1


def test_a_waiter_takes_the_lead_of_a_cancelled_call(world):
    staged = Staged()
    w, up, send = world({"abandoned": "cancel"}, staged)
    leader, waiters = joined(w, up, send, 3)
    leader.close()
    up.wait_complete(2)
    staged.finish()
    for c in waiters:
        whole(read(c), staged.body())
    assert up.heads == 2 and staged.most == 1, "two at once"


def test_without_a_key_a_caller_who_leaves_cancels(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    send(None).close()
    up.wait_heads()
    wait_until(lambda: staged.dropped == 1 or up.wait_gone(1), "the call to be cancelled")


def test_a_first_caller_that_leaves_in_its_body(world):
    """Its key needs no body, so that it may be taken; what was not sent whole can not be finished."""
    w, up, send = world({"mismatch": "ignore"}, Numbered())
    up.lenient = True
    half = connect(w.port)
    half.send(request("POST", "/", [*keyed("k1"), ("Content-Length", "100")]) + b"half")
    time.sleep(0.2)
    waiter = send()
    time.sleep(0.1)
    half.close()
    r = read(waiter)
    assert r.status == 200 and r.clean, r
    assert up.complete == 1


def test_callers_come_and_go(world):
    """Whoever leaves when: never two at once, and those who stay are answered."""
    rng = random.Random(11)
    staged = Staged(2)
    w, up, send = world(handler=staged, server={"workers": 4})
    for n in range(max(10, ROUNDS // 2)):
        staged.free, staged.allowed, staged.most = False, 0, 0
        conns = [send(f"k{n}") for _ in range(12)]
        leaving = [c for c in conns if rng.random() < 0.5]
        for c in leaving:
            if rng.random() < 0.3:
                staged.step()
            LEAVE[rng.choice(sorted(LEAVE))](c)
        staged.finish()
        for c in conns:
            if c not in leaving:
                whole(read(c), staged.body())
        wait_until(lambda: staged.running == 0, "the call to end")
        assert staged.most == 1
    w.wait_metric("weir_in_flight", 0)
    assert up.heads == n + 1


def test_nothing_is_left_behind(world):
    """Connections, descriptors and memory of all who waited, left and were cut."""
    numbered = Numbered(before=lambda n: time.sleep(0.005))
    w, up, _ = world(handler=numbered)

    def one_round(n):
        conns = [connect(w.port) for _ in range(20)]
        for c in conns:
            c.send(raw(f"{n}"))
        for i, c in enumerate(conns):
            if i % 3:
                read(c)
            c.close()

    for n in range(10):
        one_round(n)
    w.wait_metric("weir_in_flight", 0)
    fds = wait_until(lambda: w.metric("weir_connections", listener="in") == 0 and w.fd_count(), "connections to close")
    for n in range(10, 60):
        one_round(n)
    w.wait_metric("weir_in_flight", 0)
    wait_until(lambda: w.metric("weir_connections", listener="in") == 0, "connections to close")
    wait_until(lambda: w.fd_count() <= fds + 4, "descriptors to come back")


# -------------------------------------------------------------------------------------------------- no answer comes


def test_a_waiter_takes_the_lead(world):
    """The connection is lost before an answer: its caller has the error, the others have the next one's answer."""
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([go, RESET] if up.heads == 1 else [0.1, reply(200, b"second")]))
    leader, waiters = joined(w, up, send, 5)
    go.set()
    problem(read(leader), 502, "reset")
    for c in waiters:
        whole(read(c), b"second")
    assert up.heads == 2
    assert read(send()).header("Idempotent-Replayed") == "true"


def test_after_two_losses_the_rest_share_the_error(world):
    gates = [threading.Event() for _ in range(8)]
    w, up, send = world(handler=lambda peer: peer.run([gates[up.heads - 1], RESET]))
    leader, waiters = joined(w, up, send, 5)
    gates[0].set()
    problem(read(leader), 502, "reset")
    up.wait_complete(2)
    for g in gates:
        g.set()
    for c in waiters:
        problem(read(c), 502, "reset")
    assert up.heads == 2
    w.wait_metric("weir_in_flight", 0)


def test_losses_of_four_workers(world):
    """The same with as many as there come: every caller is answered, and never two are at it at once."""
    now, most, lock = [0], [0], threading.Lock()

    def handler(peer):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        peer.reset()

    w, up, send = world(handler=handler, server={"workers": 4})
    for n in range(5):
        conns = [send(f"k{n}") for _ in range(40)]
        for c in conns:
            problem(read(c), 502, "reset")
    assert most[0] == 1
    w.wait_metric("weir_in_flight", 0)


LOST = {"reset": ([RESET], 502, "reset"), "closed": ([CLOSE], 502, "reset"), "silent": ([WAIT_GONE], 504, "timeout_first_byte"),
        "garbage": ([b"\x00garbage\r\n\r\n"], 502, "bad_response")}


@pytest.mark.parametrize("how", LOST)
def test_unknown_and_rejected(world, how):
    """on_unknown: reject. It may have run: waiters and all who come later are told so, and nothing runs again."""
    go = threading.Event()
    script, code, reason = LOST[how]
    w, up, send = world({"on_unknown": "reject"}, lambda peer: peer.run([go, *script]),
                        agent={"timeouts": {"first_byte": "2s"}})
    leader, waiters = joined(w, up, send, 3)
    go.set()
    problem(read(leader), code, reason)
    for c in waiters:
        problem(read(c), 409, "unknown_outcome")
    for _ in range(3):
        problem(read(send()), 409, "unknown_outcome")
    assert up.heads == 1
    assert w.wait_log(reason="unknown_outcome")["status"] == 409


@pytest.mark.parametrize("how", LOST)
def test_unknown_and_run_again(world, how):
    script, code, reason = LOST[how]
    w, up, send = world(handler=lambda peer: peer.run(script if up.heads == 1 else [OK]),
                        agent={"timeouts": {"first_byte": "500ms"}})
    problem(read(send()), code, reason)
    assert read(send()).status == 200
    assert read(send()).header("Idempotent-Replayed") == "true"
    assert up.heads == 2


def test_an_unknown_outcome_ends_with_its_window(world):
    w, up, send = world({"on_unknown": "reject", "window": "2s", "lease": "2s"},
                        lambda peer: peer.run([RESET] if up.heads == 1 else [OK]))
    begin = time.monotonic()
    problem(read(send()), 502, "reset")
    problem(read(send()), 409, "unknown_outcome")
    wait_until(lambda: read(send()).status == 200, "its window to end", 10, every=0.05)
    assert 1.7 <= time.monotonic() - begin <= 6
    assert up.heads == 2


def test_an_unknown_outcome_is_forgotten_by_hand(world):
    w, up, send = world({"on_unknown": "reject"}, lambda peer: peer.run([RESET] if up.heads == 1 else [OK]))
    problem(read(send()), 502, "reset")
    problem(read(send()), 409, "unknown_outcome")
    assert w.ask_admin("/dedup/once?key=k1", method="DELETE").status in (200, 204)
    assert read(send()).status == 200


@pytest.mark.parametrize("on_unknown", ["run", "reject"])
@pytest.mark.parametrize("how", MIDDLE)
def test_an_answer_that_breaks_off(world, how, on_unknown):
    """All who share it see it break, none sees a clean end; then on_unknown says."""
    script, _ = MIDDLE[how]
    go = threading.Event()
    w, up, send = world({"on_unknown": on_unknown}, lambda peer: peer.run([go, *script] if up.heads == 1 else [OK]),
                        agent={"timeouts": {"idle": "500ms"}})
    leader, waiters = joined(w, up, send, 3)
    go.set()
    for c in [leader, *waiters]:
        r = read(c)
        assert r.status == 200 and not r.clean, r
    w.wait_metric("weir_in_flight", 0)
    r = read(send())
    if on_unknown == "run":
        assert r.status == 200 and r.body == b"ok" and "Idempotent-Replayed" not in r.headers
        assert up.heads == 2
    else:
        problem(r, 409, "unknown_outcome")
        assert up.heads == 1


def test_a_broken_sse_answer_tells_everyone(world):
    """In a dialect an error event goes first."""
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([reply(200, b"", SSE, length=False) + chunk(event(0)), go, CLOSE]),
                        agent={"dialect": "openai"})
    leader, waiters = joined(w, up, send, 2)
    for c in [leader, *waiters]:
        c.recv_until(event(0))
    go.set()
    for c in [leader, *waiters]:
        rest, _ = c.recv_to_end()
        assert b"error" in rest and LAST_CHUNK not in rest, rest


def test_deleted_while_it_runs(world):
    """DELETE while in flight: whatever it answers, all who wait are answered, and nothing hangs."""
    staged = Staged()
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 2)
    w.ask_admin("/dedup/once?key=k1", method="DELETE")
    staged.finish()
    for c in [leader, *waiters]:
        whole(read(c), staged.body())
    assert read(send()).status == 200
    w.wait_metric("weir_in_flight", 0)


# ------------------------------------------------------------------------------------------------ long, early, by hand


@pytest.mark.parametrize("times", [{"lease": "200ms"}, {"lease": "200ms", "window": "500ms"}, {"lease": "100ms", "window": "100ms"}])
def test_a_call_longer_than_its_lease_and_window(world, times):
    """It is renewed: whoever asks while it runs shares it, also when the filters have turned twice since it began."""
    staged = Staged()
    w, up, send = world(times, staged)
    conns = [send()]
    up.wait_complete(1)
    staged.step()
    conns[0].recv_until(b"\r\n\r\n")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        conns.append(send())
        conns[-1].read_head()
        time.sleep(0.1)
    assert up.heads == 1, "a second call beside the first"
    staged.finish()
    for c in conns:
        c.recv_until(LAST_CHUNK)
    assert dedup_results(w) == {"first": 1, "shared": len(conns) - 1}


def test_the_window_begins_at_the_answer(world):
    staged = Staged()
    w, up, send = world({"lease": "500ms", "window": "1500ms"}, staged)
    c = send()
    up.wait_complete(1)
    time.sleep(1.6)
    staged.finish()
    whole(read(c), staged.body())
    done = time.monotonic()
    r = read(send())
    if time.monotonic() - done < 1.2:
        assert r.header("Idempotent-Replayed") == "true" and up.heads == 1


def test_more_calls_in_flight_than_keys_fit(world):
    """What runs is not forgotten for what is new: that gets 503, or room; and no key runs twice."""
    staged = Staged()
    w, up, send = world({"max_keys": 10}, staged)
    conns = {f"k{n}": send(f"k{n}") for n in range(40)}
    wait_until(lambda: up.heads + sum(c.readable(0) for c in conns.values()) == 40, "all to run or to be refused")
    refused = [k for k, c in conns.items() if c.readable(0)]
    for k in refused:
        problem(read(conns.pop(k)), 503, "overloaded")
    assert 10 <= up.heads == len(conns)
    assert len({q.header("Idempotency-Key") for q in up.requests}) == up.heads
    again = {k: send(k) for k in conns}
    w.wait_metric("weir_in_flight", 2 * len(conns))
    staged.finish()
    for c in [*conns.values(), *again.values()]:
        whole(read(c), staged.body())
    assert up.heads == len(conns)
    w.wait_metric("weir_in_flight", 0)
    assert read(send("fresh")).status == 200, "room when they are done"


def test_deleted_and_asked_again_while_it_runs(world):
    """An operator's word: the next may run beside it; each caller has the answer of its own call, and one of the two is kept."""
    numbered = Numbered(before=lambda n: go.wait(harness.DEADLINE))
    go = threading.Event()
    w, up, send = world(handler=numbered)
    first = send()
    up.wait_complete(1)
    gone = w.ask_admin("/dedup/once?key=k1", method="DELETE").status
    assert gone in (200, 204, 404, 409)
    second = send()
    w.wait_metric("weir_in_flight", 2)
    go.set()
    answers = {read(first).body.strip(), read(second).body.strip()}
    assert len(answers) == up.heads <= 2
    r = read(send())
    assert r.header("Idempotent-Replayed") == "true" and r.body.strip() in answers
    w.wait_metric("weir_in_flight", 0)


def test_a_waiter_still_sending_its_body(world):
    """No body is needed to know its key; its answer is there before it is done. Then the rest is read, or the connection closed."""
    staged = Staged()
    w, up, send = world({"mismatch": "ignore"}, staged)
    leader = send()
    up.wait_complete(1)
    with connect(w.port) as c:
        c.send(request("POST", "/", [*keyed("k1"), ("Content-Length", "10")]) + b"half.")
        time.sleep(0.1)
        staged.finish()
        whole(read(leader), staged.body())
        if c.readable(2):
            r = whole(read(c), staged.body())
            if (r.header("Connection") or "").lower() != "close":
                assert c.send(b"half." + raw("other"))
                whole(read(c), staged.body())
        else:
            c.send(b"half.")
            whole(read(c), staged.body())
    assert up.heads <= 2


def test_an_answer_before_the_request_was_sent_whole(start_upstream, start_weir, connect):
    """The upstream refuses a body it has not read; its answer is whole, and everybody's."""
    up = start_upstream(lambda peer: peer.send(reply(422, b"no")), early=True)
    w = start_weir(deduped(up, {"mismatch": "ignore"}))
    first = connect(w.port)
    first.send(request("POST", "/", [*keyed("k1"), ("Content-Length", "100000")]) + b"x" * 10)
    r = read(first)
    assert (r.status, r.body) == (422, b"no")
    first.close()
    w.wait_metric("weir_in_flight", 0)
    c = connect(w.port)
    c.send(raw(body=b"x"))
    assert read(c).status == 422
    assert up.heads <= 2


def test_interim_answers_do_not_end_it(world):
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run(
        [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", go, b"HTTP/1.1 103 Early Hints\r\n\r\n", reply(200, b"final")]))
    leader, waiters = joined(w, up, send, 3)
    go.set()
    for c in [leader, *waiters]:
        whole(read(c), b"final")
    r = whole(read(send()), b"final")
    assert r.header("Idempotent-Replayed") == "true" and not r.interim
    assert up.heads == 1


def test_a_caller_who_does_not_read_its_replay(world):
    """Others have theirs; it is closed by timeouts.write, and what it held comes back."""
    body = pattern(8 * MIB)
    w, up, send = world({"max_response": "16MiB", "memory": "64MiB"}, lambda peer: reply(200, body),
                        server={"timeouts": {"write": "2s"}})
    whole(read(send()), body)
    stuck = [send(rcvbuf=4096) for _ in range(3)]
    for _ in range(2):
        assert whole(read(send()), body).header("Idempotent-Replayed") == "true"
    w.wait_metric("weir_in_flight", 0)
    for c in stuck:
        assert not read(c).clean
    assert up.heads == 1


def test_each_request_has_one_line_in_the_log(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 3)
    leader.close()
    waiters[0].close()
    staged.finish()
    for c in waiters[1:]:
        whole(read(c), staged.body())
    whole(read(send()), staged.body())
    w.wait_metric("weir_in_flight", 0)
    wait_until(lambda: len(w.log) >= 5, "five lines")
    time.sleep(0.2)
    found = sorted((line.get("dedup") or "", line.get("reason") or "") for line in w.log)
    assert [d for d, _ in found] == ["first", "replayed", "shared", "shared", "shared"], found
    assert sum(r == "client_gone" for _, r in found) == 2, found
    assert w.metric("weir_requests_total") == 5


def test_counters_balance(start_upstream, start_weir):
    """A mix of everything for a few seconds: each request with a key is counted once, and nothing is left."""
    rng = random.Random(85)

    def handler(peer):
        time.sleep(rng.random() * 0.01)
        n = rng.random()
        return reply(200, b"x" * 3000) if n < 0.7 else reply(500, b"no") if n < 0.85 else peer.reset()

    up = start_upstream(handler)
    w = start_weir(deduped(up, {"memory": "64KiB", "max_keys": 50}, server={"workers": 4}))
    asked, lock = [0], threading.Lock()

    def work(part):
        mine = random.Random(part)
        for _ in range(60):
            with connect(w.port) as c, contextlib.suppress(NoResponse):
                c.send(raw(f"k{mine.randrange(40)}", body=mine.choice([b"a"] * 9 + [b"b"])))
                with lock:
                    asked[0] += 1
                if mine.random() < 0.8:
                    assert read(c).status in (200, 409, 422, 500, 502, 503)
        return True

    in_parallel(12, work)
    w.wait_metric("weir_in_flight", 0)
    wait_until(lambda: w.metric("weir_requests_total") >= asked[0] - 5, "all to be counted")
    found = dedup_results(w)
    found.pop("forgotten", None)
    refused_full = w.metric("weir_refused_total", reason="overloaded")
    assert abs(sum(found.values()) + refused_full - asked[0]) <= 5, (found, refused_full, asked)
    assert w.metric("weir_dedup_memory_bytes", dedup="once") <= 64 * 1024
    assert w.metric("weir_dedup_keys", dedup="once") <= 100


@pytest.mark.parametrize("how", LEAVE)
def test_a_pipeline_that_is_left(world, how):
    """Two of a key and one more behind; the caller leaves while the first runs, which goes on."""
    staged = Staged()
    w, up, send = world(handler=staged)
    c = send()
    c.send(raw() + raw("other"))
    up.wait_complete(1)
    staged.step(2)
    c.recv_until(event(0))
    LEAVE[how](c)
    time.sleep(0.1)
    staged.finish()
    wait_until(lambda: staged.running == 0, "the call to end")
    w.wait_metric("weir_in_flight", 0)
    assert whole(read(send()), staged.body()).header("Idempotent-Replayed") == "true"
    assert up.heads <= 2 and staged.dropped == 0


@pytest.mark.parametrize("on_unknown", ["run", "reject"])
def test_an_abandoned_call_ends_at_its_timeout(world, on_unknown):
    staged = Staged()
    w, up, send = world({"on_unknown": on_unknown}, staged, route={"timeout": "1s"})
    send().close()
    up.wait_complete(1)
    wait_until(lambda: staged.dropped == 1, "the call to end by its timeout", 10)
    staged.finish()
    r = wait_until(lambda: (r := read(send())).weir_reason != "timeout_total" and r, "the next", 5)
    if on_unknown == "run":
        whole(r, staged.body())
        assert up.heads == 2
    else:
        problem(r, 409, "unknown_outcome")
        assert up.heads == 1


def test_a_duplicate_in_a_queue(world):
    """One slot and a queue before it: the duplicate comes to dedup when the first one is done, and runs nothing."""
    staged = Staged()
    w, up, send = world(handler=staged, route={"limits": ["slots"]}, limits={"slots": {
        "algorithm": "concurrency", "limit": 1, "scope": "local", "queue": {"size": 8, "wait": "60s", "per_tenant": "100%"}}})
    conns = [send()]
    up.wait_complete(1)
    conns += [send() for _ in range(3)]
    w.wait_metric("weir_queue_depth", 3)
    staged.finish()
    answers = [whole(read(c), staged.body()) for c in conns]
    assert ["Idempotent-Replayed" in r.headers for r in answers] == [False, True, True, True] and up.heads == 1


# --------------------------------------------------------------------------------------------- limits, retries, fallback


def test_slots_of_those_who_wait_come_back(world):
    staged = Staged()
    w, up, send = world(handler=staged, limits={"slots": {"algorithm": "concurrency", "limit": 4}},
                        route={"limits": ["slots"]})
    for n in range(3):
        staged.free, staged.allowed = False, 0
        leader = send(f"k{n}")
        up.wait_complete(n + 1)
        waiters = [send(f"k{n}") for _ in range(3)]
        w.wait_metric("weir_in_flight", 4)
        r = read(send(f"k{n}"))
        assert r.status == 429 and r.weir_reason == "limit"
        waiters.pop().close()
        w.wait_metric("weir_in_flight", 3)
        staged.finish()
        for c in [leader, *waiters]:
            whole(read(c), staged.body())
        w.wait_metric("weir_in_flight", 0)
    assert up.heads == 3


def test_the_slot_of_an_abandoned_call_comes_back(world):
    staged = Staged()
    w, up, send = world(handler=staged, limits={"slots": {"algorithm": "concurrency", "limit": 1}},
                        route={"limits": ["slots"]})
    send().close()
    up.wait_complete(1)
    staged.finish()
    wait_until(lambda: staged.running == 0, "the call to end")
    r = wait_until(lambda: (r := read(send())).status == 200 and r, "the slot to come back", 10)
    assert r.body == staged.body() and up.heads == 1


@pytest.mark.parametrize("form", ["chat stream", "messages stream", "responses stream", "chat"])
def test_an_inference_is_paid_once(world, form):
    """Waiters, retries and replays cost no tokens; an injected usage chunk is in nobody's answer."""
    form = FORMS[form]
    gate = Gate()
    w, up, _ = world(handler=Llm(Usage(input=100, output=20), before=gate),
                     agent={"dialect": form.dialect, "usage": {"inject": form.dialect == "openai"}},
                     limits={"tokens": {"unit": "llm_tokens", "rate": "1/h", "burst": 10000}}, route={"limits": ["tokens"]})
    text = form.ask(stream_options=None) if form.name == "chat" else form.ask()
    one = request("POST", form.path, [*keyed("k1"), ("Content-Type", "application/json")], text)
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(5)]
        conns[0].send(one)
        up.wait_complete(1)
        for c in conns[1:]:
            c.send(one)
        w.wait_metric("weir_in_flight", 5)
        gate.open_all()
        answers = [read(c) for c in conns]
        conns[0].send(one)
        answers.append(read(conns[0]))
    assert answers[-1].header("Idempotent-Replayed") == "true"
    assert {(r.status, r.body, r.clean) for r in answers} == {(200, answers[0].body, True)}
    if form.stream and form.name == "chat":
        assert b'"prompt_tokens": 100' not in answers[0].body and b"[DONE]" in answers[0].body
    w.wait_metric("weir_llm_tokens_total", 120)
    time.sleep(0.1)
    assert w.metric("weir_llm_tokens_total") == 120 and up.heads == 1


def test_an_abandoned_inference_is_paid_and_found_again(world):
    form = FORMS["chat stream"]
    gate = Gate()
    w, up, _ = world(handler=Llm(Usage(input=100, output=20), before=gate), agent={"dialect": "openai"})
    one = request("POST", form.path, [*keyed("k1"), ("Content-Type", "application/json")], form.ask())
    with connect(w.port) as c:
        c.send(one)
        gate.open(2)
        c.read_head()
    gate.open_all()
    with connect(w.port) as c:
        c.send(one)
        r = read(c)
        assert r.status == 200 and r.clean and b"[DONE]" in r.body
    w.wait_metric("weir_llm_tokens_total", 120)
    assert up.heads == 1


def test_a_retry_is_the_same_call(start_faulty, start_weir):
    """The first try is reset, the second answers: waiters of the first share the second's answer."""
    go = threading.Event()
    up = start_faulty([go, RESET], reply(200, b"second"))
    w = start_weir(deduped(up, agent={"retry": {"budget": "100%", "backoff": {"base": "20ms", "max": "40ms"}}}))
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(4)]
        conns[0].send(raw())
        up.wait_complete(1)
        for c in conns[1:]:
            c.send(raw())
        w.wait_metric("weir_in_flight", 4)
        go.set()
        for c in conns:
            whole(read(c), b"second")
    assert up.heads == 2
    assert dedup_results(w) == {"first": 1, "shared": 3}


def test_a_fallbacks_answer_is_shared(start_faulty, start_weir):
    go = threading.Event()
    up, other = start_faulty([go, status(503)]), start_faulty(reply(200, b"other"))
    config = deduped(up, route={"fallback": ["b"]})
    config["upstreams"]["b"] = {"url": other.url, "retry": False, "breaker": False}
    w = start_weir(config)
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(4)]
        conns[0].send(raw())
        up.wait_complete(1)
        for c in conns[1:]:
            c.send(raw())
        w.wait_metric("weir_in_flight", 4)
        go.set()
        for c in conns:
            whole(read(c), b"other")
    assert (up.heads, other.heads) == (1, 1)


def test_a_timeout_of_the_whole_is_shared(world):
    """The answer's `total` ends it in the middle: broken for everyone."""
    staged = Staged()
    w, up, send = world(handler=staged, route={"timeout": "2s"})
    leader, waiters = joined(w, up, send, 2)
    staged.step(2)
    for c in [leader, *waiters]:
        r = read(c)
        assert r.status == 200 and not r.clean and r.body == event(0), r
    w.wait_metric("weir_in_flight", 0)


# ------------------------------------------------------------------------------------------------------ reload and drain


def test_a_share_over_a_reload(world):
    """Waiters before and after it, the dedup's numbers changed or the dedup gone."""
    staged = Staged()
    w, up, send = world(handler=staged)
    leader, waiters = joined(w, up, send, 2)
    config = json.loads(w.config_path.read_text())
    config["dedup"]["once"]["window"] = "1h"
    w.reload(config)
    waiters.append(send())
    w.wait_metric("weir_in_flight", 4)
    del config["dedup"], config["listeners"]["in"]["routes"][0]["dedup"]
    w.reload(config)
    staged.finish()
    for c in [leader, *waiters]:
        whole(read(c), staged.body())
    assert up.heads == 1


def test_an_abandoned_call_over_a_reload(world):
    staged = Staged()
    w, up, send = world(handler=staged)
    send().close()
    up.wait_complete(1)
    config = json.loads(w.config_path.read_text())
    config["log"] = {"level": "debug"}
    w.reload(config)
    retry = send()
    staged.finish()
    whole(read(retry), staged.body())
    assert up.heads == 1


def test_the_drain_waits_for_an_abandoned_call(world):
    staged = Staged()
    w, up, send = world(handler=staged, server={"drain": {"timeout": "10m"}})
    send().close()
    up.wait_complete(1)
    time.sleep(0.1)
    w.signal(signal.SIGTERM)
    wait_until(lambda: not is_ready(w), "the drain to begin")
    time.sleep(0.3)
    assert w.alive() and staged.running == 1 and staged.dropped == 0, "it did not wait"
    staged.finish()
    assert w.wait_exit() == 0
    assert staged.dropped == 0


def is_ready(w):
    with contextlib.suppress(OSError, AssertionError):
        return w.ask("/readyz", timeout=2).status == 200
    return False


def test_the_drain_lets_shared_streams_end(world):
    staged = Staged()
    w, up, send = world(handler=staged, server={"drain": {"timeout": "10m"}})
    leader, waiters = joined(w, up, send, 4)
    staged.step(2)
    for c in [leader, *waiters]:
        c.recv_until(event(0))
    w.signal(signal.SIGTERM)
    wait_until(lambda: not is_ready(w), "the drain to begin")
    staged.finish()
    for c in [leader, *waiters]:
        c.recv_until(LAST_CHUNK)
    assert w.wait_exit() == 0


def test_the_drains_timeout_ends_an_abandoned_call(world):
    staged = Staged()
    w, up, send = world(handler=staged, server={"drain": {"timeout": "1s"}})
    send().close()
    up.wait_complete(1)
    leader = send("second")
    up.wait_complete(2)
    waiter = send("second")
    w.wait_metric("weir_in_flight", lambda v: v >= 2)
    w.signal(signal.SIGTERM)
    assert w.wait_exit(20) == 0
    for c in (leader, waiter):
        with contextlib.suppress(NoResponse):
            assert not read(c).clean or read(c).status >= 500
