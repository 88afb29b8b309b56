"""What a reading of dedup's proxy side found: each of these was wrong once."""
import contextlib
import os
import tempfile
import threading
import time

import pytest

import harness
from harness import CLOSE, LAST_CHUNK, NoResponse, connect, problem, reply, request, wait_until
from support import dedup_results, deduped, keyed
from test_dedup_streams import Staged, event, joined, pattern, raw, read, whole, world  # noqa: F401
from test_tunnels import KEY, UPGRADE, say, tunnel

MIB = 1 << 20
STEP = 128 << 10   # half of the least that one may be behind


# ------------------------------------------------------------------------------------------- each one's own end, once


@pytest.mark.parametrize("abandoned", ["finish", "cancel"])
def test_a_first_caller_that_is_cut_takes_nothing_from_the_others(world, abandoned):
    """It is too slow for the others, and is cut off while its call still runs: that goes on for those who share it."""
    body = pattern(24 * MIB)
    go, rest, got, came = threading.Event(), threading.Event(), {}, [0, 0]

    def handler(peer):
        """No more than what cuts nobody off before the others have the piece before, be their threads as late as they like."""
        assert go.wait(harness.DEADLINE)
        peer.send(reply(200, body)[:-len(body)])
        for at in range(0, len(body), STEP):
            if at == len(body) - 4 * MIB:
                assert rest.wait(harness.DEADLINE)
            wait_until(lambda: min(came) >= at, "the others to have what came", every=0.001)
            peer.send(body[at:at + STEP])

    w, up, send = world({"max_response": "64KiB", "abandoned": abandoned}, handler)
    leader = send(rcvbuf=4096)
    up.wait_complete(1)
    others = [send() for _ in range(2)]
    w.wait_metric("weir_in_flight", 3)
    go.set()

    def take(n, c):
        c.read_head()
        sofar = bytearray()
        while len(sofar) < len(body) and c.src.end is None:
            with contextlib.suppress(harness.Incomplete):
                c.src.fill()
            sofar += c.src.take(len(c.src.buf))
            came[n] = len(sofar)
        got[n] = bytes(sofar)

    threads = [threading.Thread(target=take, args=(n, c), daemon=True) for n, c in enumerate(others)]
    for t in threads:
        t.start()
    wait_until(lambda: min(came) >= 20 * MIB, "the others to have what came")
    with contextlib.suppress(NoResponse):
        r = read(leader)
        assert not r.clean and r.body == body[:len(r.body)]
    rest.set()
    for t in threads:
        t.join(2 * harness.DEADLINE)
    assert [got[n] == body for n in range(2)] == [True, True], came
    w.wait_metric("weir_in_flight", 0)
    assert up.heads == 1


def test_a_waiter_whose_body_fails_is_answered_once(start_upstream, start_weir):
    """Its answer cannot leave at once when that of the first one comes. Sizes: one of them leaves no room on the socket."""
    sizes = range(90_000, 330_000, 6_000)
    go = threading.Event()

    def handler(peer):
        if peer.request.method == "GET":
            return reply(200, b"x" * int(peer.request.target[1:]))
        assert go.wait(harness.DEADLINE)
        return reply(200, b"shared")

    up = start_upstream(handler)
    with tempfile.TemporaryDirectory() as where, contextlib.ExitStack() as stack:
        address = where + "/s"
        w = start_weir(deduped(up, {"mismatch": "ignore"}, listener={"address": f"unix://{address}"}))

        def conn():
            return stack.enter_context(connect(address))

        firsts, waiters = [], []
        for size in sizes:
            c = conn()
            c.send(raw(f"k{size}"))
            firsts.append(c)
        up.wait_complete(len(sizes))
        for size in sizes:
            c = conn()
            c.send(request("GET", f"/{size}") + request("POST", "/", [*keyed(f"k{size}"), ("Transfer-Encoding", "chunked")]))
            waiters.append(c)
        wait_until(lambda: up.heads == 2 * len(sizes), "the large answers to be asked for")
        w.wait_metric("weir_in_flight", lambda v: v >= len(sizes) + 1)
        time.sleep(0.3)
        for c in waiters:
            c.send(b"no chunk\r\n")
        time.sleep(0.3)
        go.set()
        for c in firsts:
            whole(read(c), b"shared")
        for size, c in zip(sizes, waiters):
            r = c.read_response("GET")
            assert r.clean and len(r.body) == size
            r = read(c)
            assert (r.status, r.weir_reason) == (400, "malformed") or r.body == b"shared", r
        w.wait_metric("weir_in_flight", 0)


def test_one_that_is_run_again_beside_it_breaks_off(world):
    """Forgotten by hand while it answers, and run again: the first call ends, and its caller learns it, though none shares."""
    staged = Staged(count=4)
    w, up, send = world({"on_duplicate": "reject", "in_flight": "reject", "lease": "300ms"}, staged)
    first = send()
    staged.step(2)
    first.recv_until(event(0))
    assert w.ask_admin("/dedup/once?key=k1", method="DELETE").status in (200, 204)
    second = send()
    up.wait_complete(2)
    rest, end = first.recv_to_end()
    assert LAST_CHUNK not in rest, (rest, end)
    staged.finish()
    whole(read(second), staged.body())
    w.wait_metric("weir_in_flight", 0)
    w.wait_log(reason="store_down")


def test_one_that_is_run_again_beside_it_breaks_off_for_all(world):
    staged = Staged(count=4)
    w, up, send = world({"lease": "300ms"}, staged)
    first, waiters = joined(w, up, send, 2)
    staged.step(2)
    for c in [first, *waiters]:
        c.recv_until(event(0))
    assert w.ask_admin("/dedup/once?key=k1", method="DELETE").status in (200, 204)
    second = send()
    up.wait_complete(2)
    for c in [first, *waiters]:
        rest, end = c.recv_to_end()
        assert LAST_CHUNK not in rest, (rest, end)
    staged.finish()
    whole(read(second), staged.body())
    w.wait_metric("weir_in_flight", 0)


def test_who_stays_is_not_told_that_he_left(world):
    """abandoned: cancel, in the middle of an answer: whoever shared it did not leave."""
    staged = Staged()
    w, up, send = world({"abandoned": "cancel"}, staged, agent={"dialect": "openai"})
    leader, waiters = joined(w, up, send, 2)
    staged.step(2)
    for c in [leader, *waiters]:
        c.recv_until(event(0))
    leader.close()
    for c in waiters:
        rest, _ = c.recv_to_end()
        assert b"error" in rest and b"client_gone" not in rest and LAST_CHUNK not in rest, rest
    w.wait_metric("weir_in_flight", 0)
    w.wait_log(dedup="shared", reason="reset", count=2)


def test_those_who_share_an_error_are_told_what_it_was(world):
    go = threading.Event()
    w, up, send = world(handler=lambda peer: peer.run([go, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", CLOSE]))
    conns = [send() for _ in range(5)]
    w.wait_metric("weir_in_flight", 5)
    go.set()
    answers = [problem(read(c), 502, "bad_response") for c in conns]
    assert len({a["detail"] for a in answers}) == 1 and "bad_response" not in answers[0]["detail"], answers
    assert up.heads >= 2


def test_tunnels_are_not_shared(start_upstream, start_weir):
    """A GET may be deduped; a WebSocket is everybody's own."""
    up = start_upstream(tunnel())
    w = start_weir(deduped(up, {"methods": ["GET"]}))
    ask = request("GET", "/chat", [*UPGRADE, *KEY, *keyed("k1")])
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(3)]
        for n, c in enumerate(conns):
            c.send(ask)
            assert c.readable(5), "no answer"
            r = c.read_head()
            assert r.status == 101, r
            say(c, b"hello %d" % n)
        assert up.heads == 3
        for n, c in enumerate(conns):
            say(c, b"again %d" % n)
    w.wait_metric("weir_in_flight", 0)
    assert dedup_results(w) == {}


def test_one_that_was_left_ends_when_another_runs(world):
    """Left, forgotten by hand, and run again: the call that nobody waits for ends, and is counted as what it was."""
    staged = Staged(count=4)
    w, up, send = world({"lease": "300ms"}, staged)
    first = send()
    staged.step(2)
    first.recv_until(event(0))
    first.close()
    w.wait_metric("weir_connections", 0, listener="in")
    w.wait_metric("weir_in_flight", 1)
    assert w.ask_admin("/dedup/once?key=k1", method="DELETE").status in (200, 204)
    second = send()
    up.wait_complete(2)
    wait_until(lambda: staged.dropped == 1, "the first call to end")
    w.wait_metric("weir_in_flight", 1)
    staged.finish()
    whole(read(second), staged.body())
    w.wait_log(reason="client_gone", status=200)


def test_who_left_takes_no_connection(world):
    """A retry finds its call also where all connections that there may be were left."""
    staged = Staged()
    w, up, send = world(handler=staged, server={"max_connections": 2})
    for key in ("k1", "k2"):
        c = send(key)
        up.wait_complete(1 if key == "k1" else 2)
        c.close()
        w.wait_metric("weir_connections", 0, listener="in")
    assert w.metric("weir_in_flight") == 2
    conns = [send(key) for key in ("k1", "k2")]
    w.wait_metric("weir_in_flight", 4)
    staged.finish()
    for c in conns:
        whole(read(c), staged.body())
    assert up.heads == 2
    for c in conns:
        c.close()
    w.wait_metric("weir_connections", 0, listener="in")
    w.wait_metric("weir_in_flight", 0)


def test_who_reads_has_the_time_to(start_upstream, start_weir):
    """All read, on several workers, and the answer is beyond max_response and comes at once: it waits a moment for those whose
    turn has not come. That some are cut is no wonder on a busy machine; that many are is one."""
    body = pattern(MIB)
    go, rounds, callers = threading.Event(), 10, 8
    up = start_upstream(lambda peer: peer.run([go, reply(200, body)]))
    w = start_weir(deduped(up, {"max_response": "64KiB"}, server={"workers": 4}))
    wholes = 0
    for n in range(rounds):
        go.clear()
        with contextlib.ExitStack() as stack:
            conns = [stack.enter_context(connect(w.port)) for _ in range(callers)]
            for i, c in enumerate(conns):
                c.send(raw(f"k{n}"))
                if i == 0:
                    up.wait_complete(n + 1)
            w.wait_metric("weir_in_flight", callers)
            go.set()
            got = {}
            threads = [threading.Thread(target=lambda i=i, c=c: got.update({i: read(c)}), daemon=True) for i, c in enumerate(conns)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(harness.DEADLINE)
            whole(got[0], body)
            wholes += sum(r.status == 200 and r.clean and r.body == body for r in got.values())
            assert all(r.body == body[:len(r.body)] or r.weir_reason == "overloaded" for r in got.values())
    assert wholes >= rounds * callers * 3 // 4, wholes


# ------------------------------------------------------------------------------------------------------ nothing looks whole


def test_a_stream_with_a_length_that_lacks_its_end_never_looks_whole(start_upstream, start_weir):
    """All bytes of its Content-Length came, but its dialect's last event did not: whoever shares it, on any worker, sees it
    broken."""
    events = b"".join(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % n for n in range(20))
    fields = [("Content-Type", "text/event-stream"), ("Content-Length", str(len(events)))]

    def handler(peer):
        peer.send(reply(200, b"", fields, length=False))
        time.sleep(0.01)
        peer.send(events[:100])
        time.sleep(0.01)
        peer.send(events[100:])

    up = start_upstream(handler)
    w = start_weir(deduped(up, agent={"dialect": "openai"}, server={"workers": 4}))
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(12)]
        for n in range(int(os.environ.get("WEIR_DEDUP_ROUNDS", "20"))):
            for c in conns:
                c.send(raw(f"k{n}", target="/v1/chat/completions", body=b'{"model":"m","stream":true}'))
            for c in conns:
                r = read(c)
                assert r.status == 200 and not r.clean, r
                c.close()
            conns = [stack.enter_context(connect(w.port)) for _ in range(12)]
    w.wait_metric("weir_in_flight", 0)
