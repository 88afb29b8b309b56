"""Nothing twice over several sidecars: one run, whatever sidecar the duplicate comes to, and whatever becomes of the first."""
import contextlib
import random
import select
import threading
import time

import pytest

from fleet import Fleet, with_redis
from faults import status as failed
from harness import LAST_CHUNK, Gone, chunk, connect, exchange, free_port, get, post, reply, request, wait_until
from redis_proxy import claims
from support import Numbered, dedup_results, deduped, in_parallel, keyed

KEY = "the-key"


def fleet_of(start_fleet, up, redis, dedup=None, n=2, store=None, **more):
    return start_fleet(n, with_redis(deduped(up, dedup, **more), redis, **(store or {})))


def ask(w, key=KEY, body=b"x", headers=(), target="/", timeout=None):
    return exchange(w.port, request("POST", target, keyed(key, *headers), body), timeout=timeout)


def content(r):
    """What has to be the same of two answers to one call."""
    changing = ("date", "x-correlation-id", "idempotent-replayed", "transfer-encoding", "content-length", "connection")
    return r.status, [(n, v) for n, v in r.headers if n.lower() not in changing], r.body


def replayed(r):
    return r.header("Idempotent-Replayed") == "true"


def claim_keys(redis):
    return [k for k in redis.keys() if ":d:once" in k]


class Holding:
    """An upstream handler: the first calls wait until they are let go, or given up; each answer names its number."""

    def __init__(self, first=1, **kw):
        self.go, self.first, self.answer = threading.Event(), first, Numbered(**kw)

    @property
    def count(self):
        return self.answer.count

    def __call__(self, peer):
        answer = self.answer(peer)
        if self.answer.count <= self.first:
            while not self.go.wait(0.005):
                if select.select([peer.sock], [], [], 0)[0]:
                    peer.wait_gone()
                    return None
        return answer


def in_background(work, *args, **kw):
    box = []

    def run():
        try:
            box.append(work(*args, **kw))
        except BaseException as e:
            box.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result(timeout=30):
        thread.join(timeout)
        assert box, "no answer yet"
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]

    result.ready = lambda: bool(box)
    return result


# --------------------------------------------------------------------------------------------------------------- together


@pytest.mark.parametrize("workers", [1, 3])
def test_100_at_once_over_two_sidecars_are_one_run(redis, start_upstream, start_fleet, workers):
    handler = Holding(pad=5000, headers=[("X-Made", "once")])
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis, server={"workers": workers})
    answers = in_background(in_parallel, 100, lambda n: ask(fleet[n % 2]))
    up.wait_heads(1)
    wait_until(lambda: fleet.metric("weir_in_flight") == 100, "all of them to wait")
    handler.go.set()
    answers = answers()
    assert len(up.requests) == 1 and handler.count == 1
    assert len({str(content(r)) for r in answers}) == 1 and answers[0].status == 200
    assert not any(replayed(r) for r in answers), "who waited is not told that it is a replay"
    assert len({r.header("X-Correlation-ID") for r in answers}) == 100
    assert sum(dedup_results(w).get("first", 0) for w in fleet) == 1


def test_100_at_once_with_reject(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis, {"in_flight": "reject"})
    answers = in_background(in_parallel, 60, lambda n: ask(fleet[n % 2]))
    wait_until(lambda: fleet.metric("weir_refused_total", reason="in_flight") == 59, "the refusals")
    handler.go.set()
    answers = answers()
    assert sorted(r.status for r in answers) == [200] + [409] * 59 and len(up.requests) == 1
    assert all(int(r.header("Retry-After")) >= 1 for r in answers if r.status == 409)


def test_many_keys_at_random_run_once_each(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, n=4)
    answers = in_parallel(16, lambda n: [(i, ask(fleet[(n + i) % 4], f"key-{i}")) for i in range(n % 4, 40, 2)])
    bodies = {}
    for i, r in sum(answers, []):
        assert r.status == 200
        bodies.setdefault(i, set()).add(r.body)
    assert all(len(b) == 1 for b in bodies.values()), bodies
    assert len(up.requests) == len(bodies) == 40
    assert sorted(q.header("Idempotency-Key") for q in up.requests) == sorted(f"key-{i}" for i in range(40))


# ----------------------------------------------------------------------------------------------------------------- after


@pytest.mark.parametrize("status", [200, 201, 204, 400, 422])
def test_replayed_byte_for_byte_at_the_other(redis, start_upstream, start_fleet, status):
    body = b"" if status == 204 else bytes(range(256)) * 100
    fields = [("Content-Type", "application/x-odd"), ("X-Twice", "1"), ("X-Twice", "2"), ("X-Odd", "\xe9 ;,\"")]
    up = start_upstream(lambda peer: reply(status, body, fields))
    fleet = fleet_of(start_fleet, up, redis)
    first = ask(fleet[0])
    assert first.status == status and not replayed(first)
    wait_until(lambda: replayed(ask(fleet[1])), "the answer to be kept")
    for w in (fleet[1], fleet[0], fleet[1]):
        again = ask(w)
        assert replayed(again) and content(again) == content(first), again
        assert again.body == body and again.header("X-Correlation-ID") != first.header("X-Correlation-ID")
    assert len(up.requests) == 1


@pytest.mark.parametrize("store", [{"prefix": "other:"}, {"database": 1}])
def test_prefix_and_database(redis, start_upstream, start_fleet, store):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, store=store)
    assert not replayed(ask(fleet[0]))
    wait_until(lambda: replayed(ask(fleet[1])), "the replay")
    assert all(k.startswith(store.get("prefix", "weir:")) for k in redis.keys(store.get("database", 0)))
    assert redis.keys(store.get("database", 0)) and ("database" not in store or not redis.keys(0))


def test_it_survives_every_sidecar(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    config = with_redis(deduped(up), redis)
    with Fleet(1, config) as fleet:
        first = ask(fleet[0])
    with Fleet(1, config) as fleet:
        again = ask(fleet[0])
        assert replayed(again) and content(again) == content(first)


EVENTS = [b"data: %d\n\n" % n for n in range(20)] + [b"event: end\ndata: [DONE]\n\n"]


def streaming(gate=None, pause=0):
    def handle(peer):
        peer.send(reply(200, b"", [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")], length=False))
        for n, event in enumerate(EVENTS):
            if n == 3 and gate:
                gate.wait(30)
            peer.send(chunk(event))
            time.sleep(pause)
        peer.send(LAST_CHUNK)
    return handle


def test_a_stream_is_replayed_at_the_other(redis, start_upstream, start_fleet):
    up = start_upstream(streaming())
    fleet = fleet_of(start_fleet, up, redis)
    first = ask(fleet[0])
    again = wait_until(lambda: (r := ask(fleet[1])) and replayed(r) and r, "the replay")
    assert again.body == first.body == b"".join(EVENTS) and again.header("Content-Type") == "text/event-stream"
    assert content(again) == content(first) and len(up.requests) == 1


def test_who_waits_at_the_other_gets_the_stream_whole(redis, start_upstream, start_fleet):
    """And who waits at the same sidecar sees it as it comes."""
    gate = threading.Event()
    up = start_upstream(streaming(gate))
    fleet = fleet_of(start_fleet, up, redis)
    first = in_background(ask, fleet[0])
    up.wait_heads(1)
    other = in_background(ask, fleet[1])
    with connect(fleet[0].port) as c:
        c.send(request("POST", "/", keyed(KEY), b"x"))
        assert c.recv_until(EVENTS[2])
        assert not other.ready() and not first.ready()
        gate.set()
        assert c.recv_until(b"[DONE]")
    assert first().body == other().body == b"".join(EVENTS)
    assert not replayed(other()) and len(up.requests) == 1


@pytest.mark.parametrize("where", [0, 1])
def test_too_large_to_keep(redis, start_upstream, start_fleet, where):
    up = start_upstream(lambda peer: reply(200, b"z" * 5000))
    fleet = fleet_of(start_fleet, up, redis, {"max_response": "4KiB"})
    assert ask(fleet[0]).body == b"z" * 5000
    r = wait_until(lambda: (r := ask(fleet[where])).status == 409 and r, "the end to be known")
    assert r.weir_reason == "duplicate" and len(up.requests) == 1


def test_the_answer_is_kept_for_a_while_and_the_key_longer(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, {"keep_responses": "1s", "window": "1m"})
    ask(fleet[0])
    wait_until(lambda: replayed(ask(fleet[1])), "the replay")
    r = wait_until(lambda: (r := ask(fleet[1])).status == 409 and r, "the answer to go", timeout=5, every=0.05)
    assert r.weir_reason == "duplicate" and len(up.requests) == 1


def test_the_window_ends(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, {"window": "1s", "keep_responses": "1s"})
    ask(fleet[0])
    wait_until(lambda: ask(fleet[1]) and len(up.requests) == 2, "the end of the window", timeout=5, every=0.05)
    assert 0.9 < up.requests[1].started - up.requests[0].started < 2.5


def test_another_body_is_another_request(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis)
    ask(fleet[0], body=b"one")
    r = wait_until(lambda: (r := ask(fleet[1], body=b"two")).status == 422 and r, "the mismatch")
    assert r.weir_reason == "key_mismatch" and ask(fleet[0], body=b"two").status == 422
    assert ask(fleet[1], body=b"one", headers=[("X-Tenant-ID", "else")]).body == b"answer 2 "
    assert replayed(ask(fleet[1], body=b"one")) and len(up.requests) == 2


def test_another_body_in_flight(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis)
    first = in_background(ask, fleet[0], body=b"one")
    up.wait_heads(1)
    assert ask(fleet[1], body=b"two").status == 422
    handler.go.set()
    assert first().status == 200 and len(up.requests) == 1


@pytest.mark.parametrize("way, status", [("acknowledge", 204), ("reject", 409)])
def test_other_ways_with_duplicates(redis, start_upstream, start_fleet, way, status):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, {"on_duplicate": way, "in_flight": "reject"})
    assert ask(fleet[0]).status == 200
    r = wait_until(lambda: (r := ask(fleet[1])).weir_reason == "duplicate" and r, way)
    assert r.status == status and (way == "reject" or r.body == b"")
    assert len(up.requests) == 1 and not [k for k in redis.keys() if ":a:once" in k], "no answer is kept for nobody"


# -------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("failure", ["500", "429", "refused"])
def test_a_failure_is_forgotten_and_the_retry_runs(redis, start_faulty, start_fleet, where, failure):
    up = start_faulty(*([failed(int(failure))] if failure != "refused" else []), reply(200, b"well"))
    port = free_port() if failure == "refused" else up.port
    fleet = fleet_of(start_fleet, f"http://127.0.0.1:{port}", redis)
    assert ask(fleet[0]).status == (502 if failure == "refused" else int(failure))
    if failure == "refused":
        for _ in range(3):
            assert ask(fleet[where]).status == 502, "it is not held up by the first"
        assert not claim_keys(redis) or wait_until(lambda: not claim_keys(redis), "nothing to be remembered")
        return
    assert ask(fleet[where]).body == b"well" and len(up.requests) == 2


@pytest.mark.parametrize("unknown, status", [("run", 200), ("reject", 409)])
def test_an_answer_that_was_lost(redis, start_upstream, start_fleet, unknown, status):
    turns = []

    def handle(peer):
        turns.append(1)
        return peer.reset() if len(turns) == 1 else reply(200, b"second")

    up = start_upstream(handle)
    fleet = fleet_of(start_fleet, up, redis, {"on_unknown": unknown})
    assert ask(fleet[0]).status == 502
    r = ask(fleet[1])
    assert r.status == status and len(up.requests) == (2 if unknown == "run" else 1), r
    assert unknown == "run" or r.weir_reason == "unknown_outcome"


def test_waiters_elsewhere_take_the_lead_when_the_first_fails(redis, start_upstream, start_fleet):
    """on_unknown: run, and the first one's answer is lost while others wait at both sidecars: one of them runs it."""
    handler, turns = threading.Event(), []

    def handle(peer):
        turns.append(1)
        if len(turns) == 1:
            handler.wait(30)
            peer.reset()
        time.sleep(0.05)
        return reply(200, b"second")

    up = start_upstream(handle)
    fleet = fleet_of(start_fleet, up, redis)
    first = in_background(ask, fleet[0])
    up.wait_heads(1)
    others = in_background(in_parallel, 10, lambda n: ask(fleet[1]))
    wait_until(lambda: fleet.metric("weir_in_flight") == 11, "all to wait")
    handler.set()
    assert {r.body for r in others()} == {b"second"} and len(up.requests) == 2
    first()


# ------------------------------------------------------------------------------------------------------------ an owner ends

LEASE = 1.5


def own_and_die(fleet, up, how="kill"):
    """The first sidecar runs the key and dies in the call; when that was."""
    with connect(fleet[0].port) as c:
        c.send(request("POST", "/", keyed(KEY), b"x"))
        up.wait_complete(1)
        wait_until(lambda: fleet.metric("weir_in_flight") == 1, "the call")
        time.sleep(LEASE * 0.6)      # it has been renewed
        fleet.kill(0)
    return time.monotonic()


def test_waiters_run_once_when_the_lease_of_a_killed_owner_ends(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler, lenient=True)
    fleet = fleet_of(start_fleet, up, redis, {"lease": "1500ms"}, n=3)
    died = own_and_die(fleet, up)
    answers = in_background(in_parallel, 20, lambda n: ask(fleet[1 + n % 2]))
    answers = answers()
    seconds = up.requests[1].started - died
    handler.go.set()
    assert {(r.status, r.body) for r in answers} == {(200, b"answer 2 ")} and len(up.requests) == 2
    assert LEASE * 0.5 < seconds < LEASE + 1.5, seconds


def test_409_until_the_lease_of_a_killed_owner_ends(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler, lenient=True)
    fleet = fleet_of(start_fleet, up, redis, {"lease": "1500ms", "in_flight": "reject"})
    died = own_and_die(fleet, up)
    answers = []
    wait_until(lambda: answers.append(ask(fleet[1])) or answers[-1].status == 200, "the lease's end", timeout=8, every=0.03)
    handler.go.set()
    assert len(answers) > 3 and {r.status for r in answers[:-1]} == {409}
    assert {r.weir_reason for r in answers[:-1]} == {"in_flight"} and len(up.requests) == 2
    assert LEASE * 0.5 < up.requests[1].started - died < LEASE + 1.5


@pytest.mark.parametrize("outage", ["hole", "refused"])
def test_an_owner_cut_off_cancels_before_its_lease_ends(redis, proxy, start_upstream, start_fleet, outage):
    """So never two at once, though the other sidecar, which does reach redis, runs it when the lease is over."""
    handler = Holding()
    up = start_upstream(handler, lenient=True)
    dedup = {"lease": "2s"}
    fleet = start_fleet(2, lambda i: with_redis(deduped(up, dedup), (proxy, redis)[i], claim_timeout="250ms"))
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    time.sleep(1)
    began = time.monotonic()
    if outage == "hole":
        proxy.hole("both")
    else:
        proxy.refuse()
        proxy.drop()
    second = in_background(ask, fleet[1])
    up.wait_gone(1, timeout=6)
    cancelled = time.monotonic()
    assert second().body == b"answer 2 "
    assert cancelled < up.requests[1].started, "the owner ran on when its lease was over"
    assert 0.5 < cancelled - began < 2.1, cancelled - began
    r = first()
    assert r.status >= 500, r
    handler.go.set()
    assert len(up.requests) == 2


def test_an_owner_is_not_disturbed_by_a_short_cut(redis, proxy, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = start_fleet(2, lambda i: with_redis(deduped(up, {"lease": "2s"}), (proxy, redis)[i]))
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    for _ in range(4):
        proxy.drop(hard=True)
        time.sleep(0.7)
    second = in_background(ask, fleet[1])
    time.sleep(0.1)
    assert not second.ready() and not first.ready()
    handler.go.set()
    assert first().body == second().body == b"answer 1 " and len(up.requests) == 1


def test_a_clean_stop_waits_to_tell_what_was_done(redis, proxy, start_upstream, start_fleet):
    """Redis cannot be reached when the call ends, nor when weir is told to end; within the drain it can."""
    handler = Holding()
    up = start_upstream(handler)
    fleet = start_fleet(2, lambda i: with_redis(deduped(up, {"on_duplicate": "replay"}), (proxy, redis)[i]))
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    proxy.refuse()
    proxy.drop()
    handler.go.set()
    assert first().body == b"answer 1 "
    stopped = in_background(fleet[0].stop)
    time.sleep(1)
    assert not stopped.ready(), "it went without a word"
    proxy.accept()
    assert stopped() == 0
    assert replayed(ask(fleet[1])) and len(up.requests) == 1


def test_a_long_call_keeps_its_lease(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis, {"lease": "1s"})
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    time.sleep(3)
    second = in_background(ask, fleet[1])
    time.sleep(0.3)
    assert len(up.requests) == 1
    handler.go.set()
    assert first().body == second().body == b"answer 1 "


def test_who_leaves_and_retries_elsewhere_joins_its_own_call(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis)
    with connect(fleet[0].port) as c:
        c.send(request("POST", "/", keyed(KEY), b"x"))
        up.wait_complete(1)
    again = in_background(ask, fleet[1])
    wait_until(lambda: fleet[1].metric("weir_in_flight") == 1, "the retry")
    time.sleep(0.2)
    assert len(up.requests) == 1 and not again.ready()
    handler.go.set()
    assert again().body == b"answer 1 " and len(up.requests) == 1


def test_who_leaves_with_abandoned_cancel(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler, lenient=True)
    fleet = fleet_of(start_fleet, up, redis, {"abandoned": "cancel"})
    with connect(fleet[0].port) as c:
        c.send(request("POST", "/", keyed(KEY), b"x"))
        up.wait_complete(1)
    up.wait_gone(1)
    assert ask(fleet[1]).body == b"answer 2 "
    handler.go.set()
    assert len(up.requests) == 2


def test_a_drain_ends_the_call_and_its_answer_is_the_fleets(redis, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis)
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    second = in_background(ask, fleet[1])
    fleet[0].signal(15)
    time.sleep(0.2)
    handler.go.set()
    assert first().body == second().body == b"answer 1 "
    fleet[0].exit_code = fleet[0].wait_exit()
    assert fleet[0].exit_code == 0 and replayed(ask(fleet[1])) and len(up.requests) == 1


# --------------------------------------------------------------------------------------------------- redis loses something


def test_the_reply_to_a_claim_is_lost(redis, proxy, start_upstream, start_fleet):
    """The claim was made, nobody knows: this one gets its answer or a 503, and the retry is not locked out for a lease."""
    up = start_upstream(Numbered())
    fleet = start_fleet(1, with_redis(deduped(up, {"lease": "20s"}), proxy, claim_timeout="1s"))
    proxy.once("cut", claims)
    r = ask(fleet[0])
    assert r.status in (200, 503), r
    assert r.status == 200 or r.weir_reason == "store_down" and int(r.header("Retry-After")) >= 1
    began = time.monotonic()
    wait_until(lambda: ask(fleet[0]).status == 200, "the retry to run", timeout=10, every=0.05)
    assert time.monotonic() - began < 5 and len(up.requests) == 1


def test_the_reply_to_an_end_is_lost(redis, proxy, start_upstream, start_fleet):
    """The caller has its answer; it is replayed all the same, here and elsewhere."""
    handler = Holding(pad=100)
    up = start_upstream(handler)
    fleet = start_fleet(2, lambda i: with_redis(deduped(up), (proxy, redis)[i]))
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    proxy.once("cut", claims)
    handler.go.set()
    first = first()
    assert first.status == 200
    wait_until(lambda: proxy.fired, "the end to be told")
    again = wait_until(lambda: (r := ask(fleet[1])) and replayed(r) and r, "the replay")
    assert content(again) == content(first) and len(up.requests) == 1
    wait_until(lambda: replayed(ask(fleet[0])), "the replay at the first")


def test_the_end_comes_late_when_redis_was_away(redis, proxy, start_upstream, start_fleet):
    """Redis goes in the middle of the call and is back before the lease ends: the answer is kept after all."""
    handler = Holding(pad=100)
    up = start_upstream(handler)
    fleet = start_fleet(2, lambda i: with_redis(deduped(up, {"lease": "20s"}), (proxy, redis)[i], claim_timeout="250ms"))
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    proxy.refuse()
    proxy.drop()
    handler.go.set()
    assert first().status == 200
    proxy.accept()
    wait_until(lambda: (r := ask(fleet[1], timeout=20)) and replayed(r), "the replay", timeout=10)
    assert len(up.requests) == 1


@pytest.mark.parametrize("on_failure, status", [("closed", 503), ("open", 200)])
def test_down(redis, start_upstream, start_fleet, on_failure, status):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, {"on_failure": on_failure})
    redis.kill()
    fleet.wait_up(0)
    for key in ("a", "a", "b"):
        r = ask(fleet[0], key)
        assert r.status == status, r
        if status == 503:
            assert r.weir_reason == "store_down" and int(r.header("Retry-After")) >= 1
    assert get(fleet[0].port).status == 200, "who sends no key is not concerned"
    assert post(fleet[0].port).status == 200
    redis.start()
    fleet.wait_up(1, timeout=3)
    assert ask(fleet[0], "c").status == 200
    wait_until(lambda: replayed(ask(fleet[1], "c")), "the replay")


def test_flushall_forgets_the_keys(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis)
    ask(fleet[0])
    wait_until(lambda: replayed(ask(fleet[1])), "the replay")
    redis.ask("FLUSHALL")
    r = ask(fleet[1])
    assert r.status == 200 and not replayed(r) and len(up.requests) == 2


def test_flushall_in_a_call(redis, start_upstream, start_fleet):
    """The owner takes its claim again at the next renewal, and its answer is remembered."""
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis, {"lease": "1s"})
    first = in_background(ask, fleet[0])
    up.wait_complete(1)
    redis.ask("FLUSHALL")
    wait_until(lambda: claim_keys(redis), "the claim to be back")
    handler.go.set()
    assert first().status == 200
    wait_until(lambda: replayed(ask(fleet[1])), "the replay")
    assert len(up.requests) == 1


# ------------------------------------------------------------------------------------------------------------------ sundry


def test_dropped_by_hand_for_all(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis)
    ask(fleet[0], headers=[("X-Tenant-ID", "acme")])
    wait_until(lambda: replayed(ask(fleet[1], headers=[("X-Tenant-ID", "acme")])), "the replay")
    r = fleet[1].ask_admin(f"/dedup/once?key={KEY}&tenant=acme", method="DELETE")
    assert r.status in (200, 202, 204), r
    wait_until(lambda: not replayed(ask(fleet[0], headers=[("X-Tenant-ID", "acme")])), "a new run")
    assert len(up.requests) == 2


def test_dropped_by_hand_in_flight(redis, start_upstream, start_fleet):
    """It goes on beside the next one, over many leases, and is not remembered."""
    handler = Holding()
    up = start_upstream(handler)
    fleet = fleet_of(start_fleet, up, redis, {"lease": "600ms"})
    who = [("X-Tenant-ID", "acme")]
    first = in_background(ask, fleet[0], headers=who)
    up.wait_complete(1)
    assert fleet[1].ask_admin(f"/dedup/once?key={KEY}&tenant=acme", method="DELETE").status == 200
    assert ask(fleet[1], headers=who).body == b"answer 2 "
    time.sleep(1.5)
    assert not first.ready(), first()
    handler.go.set()
    assert first().body == b"answer 1 " and len(up.requests) == 2
    for w in fleet:
        again = wait_until(lambda: (r := ask(w, headers=who)) and replayed(r) and r, "the replay")
        assert again.body == b"answer 2 "


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_answer_that_broke_off_is_over_for_redis_though_its_caller_is_slow(redis, proxy, start_upstream, start_fleet, framing):
    """Nothing of it is renewed any more, and that it could not be is nobody's end."""
    def handle(peer):
        length = [("Transfer-Encoding", "chunked")] if framing == "chunked" else [("Content-Length", "100000000")]
        peer.send(reply(200, b"", length, length=False))
        with contextlib.suppress(Gone):
            for _ in range(400):
                peer.send(chunk(b"x" * 16000) if framing == "chunked" else b"x" * 16000)
        peer.wait_gone()

    up = start_upstream(handle, lenient=True)
    dedup = {"on_duplicate": "acknowledge", "in_flight": "reject", "lease": "600ms"}
    config = deduped(up, dedup, agent={"timeouts": {"total": "1s"}})
    fleet = start_fleet(1, with_redis(config, proxy, timeout="100ms", claim_timeout="200ms"))
    with connect(fleet[0].port, rcvbuf=4096) as c:
        c.send(request("POST", "/", keyed(KEY), b"x"))
        up.wait_gone(1, timeout=10)
        wait_until(lambda: not claim_keys(redis), "the key to be free")
        proxy.hole()
        time.sleep(1)
        came, _ = c.recv_to_end()
        assert len(came) < 100000000 and b"store_down" not in came and not came.endswith(b"0\r\n\r\n")
        proxy.heal()


def test_time_that_redis_takes_is_overhead_and_time_that_another_one_takes_is_not(redis, proxy, start_upstream, start_fleet):
    handler = Holding()
    up = start_upstream(handler)
    fleet = start_fleet(2, lambda i: with_redis(deduped(up), (redis, proxy)[i]))
    proxy.delay = 0.2
    first = in_background(ask, fleet[0])
    up.wait_heads(1)
    second = in_background(ask, fleet[1])
    time.sleep(3)
    handler.go.set()
    assert first().body == second().body
    line = wait_until(lambda: fleet[1].log and fleet[1].log[-1], "the line")
    assert 190 <= line["overhead_ms"] < 1500 and line["duration_ms"] > 2500, line


def test_bloom_alone(redis, start_upstream, start_fleet):
    """exact: false: every duplicate is found wherever it comes to; a million-to-one error apart, what is new runs."""
    up = start_upstream(Numbered())
    fleet = fleet_of(start_fleet, up, redis, {"exact": False, "on_duplicate": "acknowledge", "in_flight": "reject",
                                              "bloom": {"expected": 10_000, "false_positives": 1e-6}}, n=3)
    answers = in_parallel(9, lambda n: [(i, ask(fleet[n % 3], f"key-{i}").status) for i in range(30)])
    runs = [i for i, status in sum(answers, []) if status == 200]
    assert sorted(runs) == list(range(30)) and {s for _, s in sum(answers, [])} == {200, 204}
    assert len(up.requests) == 30
    assert [k for k in redis.keys() if "bloom:once" in k]
    assert sum(redis.ask("MEMORY", "USAGE", k) for k in redis.keys() if "bloom" in k) < 200_000


def test_with_limits_a_duplicate_is_charged_and_a_refused_one_claims_nothing(redis, start_upstream, start_fleet):
    up = start_upstream(Numbered())
    limit = {"rate": "1/h", "burst": 5, "on_failure": "closed"}
    config = with_redis(deduped(up, route={"limits": ["l"]}, limits={"l": limit}), redis)
    fleet = start_fleet(2, config)
    statuses = [ask(fleet[i % 2], f"k{i // 2}").status for i in range(6)]
    assert statuses == [200] * 5 + [429] and len(up.requests) == 3
    assert ask(fleet[0], "new").status == 429
    assert len([k for k in redis.keys() if ":d:once" in k]) == 3


# ------------------------------------------------------------------------------------------------------------ while it is asked


def test_who_leaves_before_redis_has_answered(redis, proxy, start_upstream, start_fleet):
    """The claim is nobody's then: the retry is not held up by it."""
    up = start_upstream(Numbered())
    fleet = start_fleet(2, lambda i: with_redis(deduped(up), (proxy, redis)[i]))
    proxy.delay = 0.4
    with connect(fleet[0].port) as c:
        c.send(request("POST", "/", keyed(KEY), b"x"))
        wait_until(lambda: proxy.seen(claims), "the claim to be asked")
    began = time.monotonic()
    assert ask(fleet[1]).status == 200
    assert time.monotonic() - began < 3 and len(up.requests) <= 2
    proxy.heal()
    assert replayed(wait_until(lambda: (r := ask(fleet[0])) and replayed(r) and r, "the replay"))


class OneAtATime:
    """An upstream handler that fails every call, so that each key runs again and again; `twice` names the keys of which a call
    came while the one before was still on its way."""

    def __init__(self):
        self.lock, self.running, self.twice, self.runs = threading.Lock(), {}, [], 0

    def __call__(self, peer):
        key = peer.request.header("Idempotency-Key")
        with self.lock:
            self.runs += 1
            before = self.running.get(key)
            if before is not None and not select.select([before.sock], [], [], 0)[0]:
                self.twice.append(key)
            self.running[key] = peer
        end = time.monotonic() + random.choice((0.01, 0.1, 0.4, 1.5))
        gone = False
        while time.monotonic() < end and not gone:
            gone = bool(select.select([peer.sock], [], [], 0.005)[0])
        with self.lock:
            if self.running.get(key) is peer:
                del self.running[key]
        if gone:
            peer.wait_gone()
            return None
        return reply(500, b"again")


def test_never_two_at_once_whatever_breaks(redis, start_redis_proxy, start_upstream, start_fleet):
    """Each sidecar has a way to redis of its own, which fails at random; callers leave, too."""
    handler, rng = OneAtATime(), random.Random(7)
    up = start_upstream(handler, lenient=True)
    proxies = [start_redis_proxy(redis) for _ in range(3)]
    fleet = start_fleet(3, lambda i: with_redis(deduped(up, {"lease": "1s"}), proxies[i], timeout="100ms", claim_timeout="200ms"))
    stop, statuses = threading.Event(), set()

    def call(n):
        own = random.Random(n)
        while not stop.is_set():
            w, key = own.choice(list(fleet)), f"key-{own.randrange(4)}"
            with connect(w.port, timeout=20) as c:
                c.send(request("POST", "/", keyed(key), b"x"))
                if own.random() < 0.2:
                    stop.wait(own.random() * 0.2)
                    continue
                statuses.add(c.read_response("POST").status)

    callers = in_background(in_parallel, 12, call)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        p = rng.choice(proxies)
        rng.choice((lambda: p.hole("both"), lambda: p.hole("down"), lambda: p.drop(True), lambda: p.once("cut"), lambda: p.once("half"),
                    lambda: setattr(p, "delay", 0.15)))()
        time.sleep(rng.choice((0.02, 0.2, 0.9)))
        p.heal()
        time.sleep(0.1)
    stop.set()
    callers(60)
    assert not handler.twice, handler.twice
    assert handler.runs > 20 and statuses <= {500, 502, 503}, (handler.runs, statuses)
