"""One limit for a whole fleet: whatever sidecar is asked, what is admitted in all is the limit, and nobody is refused before."""
import contextlib
import itertools
import random
import threading
import time

import pytest

from fleet import Answered, admitted, burst_of, get_raw, limited, only
from harness import Deadline, connect, exchange, get, reply, request, wait_until
from llm import FORMS, Llm, Usage
from support import Caller, in_parallel, limit_refusal, rate_limit, routes

SIDECARS = 8
FOREVER = {"rate": "1/h"}
ALGORITHMS = {
    "token bucket": lambda limit: {**FOREVER, "burst": limit},
    "slots": lambda limit: {"algorithm": "sliding_window", "limit": limit, "window": "1h"},
    "exact": lambda limit: {"algorithm": "sliding_window", "limit": limit, "window": "1h", "precision": "exact"},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_exactly_the_limit_is_admitted_in_all(redis, start_upstream, start_fleet, name):
    """Three tenants at random: one asks for more than it has, one for just that, one for less."""
    up, rng = start_upstream(), random.Random(name)
    fleet = start_fleet(SIDECARS, limited(up, redis, {"l": {**ALGORITHMS[name](150), "on_failure": "closed"}}))
    asked = ["over"] * 300 + ["just"] * 150 + ["less"] * 100
    rng.shuffle(asked)
    threads = 3 * SIDECARS
    answers = burst_of(fleet, 3, -(-len(asked) // threads),
                       lambda n, i: (get_raw("/", t := (asked[n::threads] + ["spare"] * 9)[i]), t))
    only(answers, 200, 429)
    for tenant, wanted in (("over", 150), ("just", 150), ("less", 100)):
        assert len([a for a in admitted(answers) if a.tag == tenant]) == wanted, tenant
    for a in answers:
        if a.status == 429:
            seconds, _ = limit_refusal(a.r)
            assert seconds <= 3600 * 61 / 60
    left = [rate_limit(get(w.port, "/", [("X-Tenant-ID", "less")]))["l"]["r"] for w in fleet]
    assert left == list(range(49, 49 - SIDECARS, -1)), "each sidecar sees what the others took"
    assert fleet.metric("weir_limit_decisions_total", tenant="over", decision="admitted") == 150
    assert fleet.metric("weir_store_degraded") == 0
    assert redis.calls("evalsha", "eval") >= len(answers), "every request was redis's to decide"


@pytest.mark.parametrize("name", ["slots", "exact"])
def test_no_window_holds_more_than_the_limit(redis, start_upstream, start_fleet, name):
    """A second's window: the requests that certainly fall into one are never more, and nearly as many do get in."""
    limit, precision = 40, name
    fleet = start_fleet(4, limited(start_upstream(), redis, {"l": {
        "algorithm": "sliding_window", "limit": limit, "window": "1s", "precision": precision, "on_failure": "closed"}}))
    end = time.monotonic() + 2.4
    answers = only(sum(in_parallel(8, lambda n: _until(fleet[n % 4], end, n)), []), 200, 429)
    got = admitted(answers)
    for a in got:
        inside = sum(b.sent >= a.sent and b.got < a.sent + 1 for b in got)
        assert inside <= limit, f"{inside} within a second"
    seconds = max(a.got for a in answers) - min(a.sent for a in answers)
    assert len(got) >= limit * int(seconds / (62 / 60)), (len(got), seconds)


def _until(w, end, n):
    rng, seen = random.Random(n), []
    with Caller(w.port) as c:
        while (sent := time.monotonic()) < end:
            seen.append(Answered(n, sent, 0, c.ask(get_raw()), None))
            seen[-1].got = time.monotonic()
            time.sleep(rng.random() * 0.02)
    return seen


def test_a_bucket_refills_for_all_of_them_at_its_rate(redis, start_upstream, start_fleet):
    fleet = start_fleet(4, limited(start_upstream(), redis, {"l": {"rate": "50/s", "burst": 50, "on_failure": "closed"}}))
    end = time.monotonic() + 2
    answers = only(sum(in_parallel(8, lambda n: _until(fleet[n % 4], end, n)), []), 200, 429)
    got = admitted(answers)
    most = 50 + 50 * (max(a.got for a in answers) - min(a.sent for a in answers))
    least = 50 + 50 * (max(a.sent for a in answers) - min(a.got for a in answers))
    assert least - 5 <= len(got) <= most, (least, len(got), most)


@pytest.mark.parametrize("name", ["token bucket", "slots", "exact"])
def test_who_comes_at_retry_after_is_admitted_at_another(redis, start_upstream, start_fleet, name):
    limit = {"token bucket": {"rate": "2/s", "burst": 2}, "slots": {"algorithm": "sliding_window", "limit": 2, "window": "1s"},
             "exact": {"algorithm": "sliding_window", "limit": 2, "window": "1s", "precision": "exact"}}[name]
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**limit, "on_failure": "closed"}}))
    for turn in range(3):
        r = wait_until(lambda: (r := get(fleet[0].port)).status == 429 and r, "a refusal")
        time.sleep(limit_refusal(r)[1] / 1000)
        assert get(fleet[(turn + 1) % 2].port).status == 200


# ------------------------------------------------------------------------------------------------------------ concurrency


class Held:
    """An upstream handler that holds every request until it is let go, and remembers the most it held."""

    def __init__(self, seconds=None):
        self.go, self.lock, self.now, self.most, self.seconds = threading.Event(), threading.Lock(), 0, 0, seconds

    def __call__(self, peer):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        if self.seconds is None:
            self.go.wait(30)
        else:
            time.sleep(random.random() * self.seconds)
        with self.lock:
            self.now -= 1
        return reply()


CONCURRENCY = {"algorithm": "concurrency", "limit": 10, "on_failure": "closed"}


def test_concurrency_is_held_by_the_whole_fleet(redis, start_upstream, start_fleet):
    held = Held()
    up = start_upstream(held)
    fleet = start_fleet(SIDECARS, limited(up, redis, {"l": CONCURRENCY}))
    for turn in range(2):
        done = []
        caller = threading.Thread(target=lambda: done.extend(burst_of(fleet, 4, 1, lambda n, i: get_raw())), daemon=True)
        caller.start()
        wait_until(lambda: fleet.metric("weir_limit_decisions_total") == 33 * turn + 32, "all to be decided")
        up.wait_heads(10 * (turn + 1))
        assert held.now == 10
        assert get(fleet[turn].port).status == 429
        keys = held_slots(redis)
        assert len(keys) == 1 and redis.ask("ZCARD", keys[0]) == 10, keys
        held.go.set()
        caller.join(30)
        assert sorted(a.status for a in done) == [200] * 10 + [429] * 22
        wait_until(lambda: not held_slots(redis), "the slots to be given back")
        held.go.clear()


def held_slots(redis):
    return [k for k in redis.keys() if ":l:l:" in k]


def test_concurrency_under_random_load(redis, start_upstream, start_fleet):
    held = Held(0.03)
    up = start_upstream(held)
    fleet = start_fleet(4, limited(up, redis, {"l": {**CONCURRENCY, "limit": 5}}))
    answers = only(burst_of(fleet, 3, 25, lambda n, i: get_raw()), 200, 429)
    assert held.most <= 5 and {a.status for a in answers} == {200, 429}
    assert len(admitted(answers)) == len(up.requests)
    wait_until(lambda: not held_slots(redis), "every slot to be given back")


@pytest.mark.parametrize("end", ["the caller leaves", "the upstream resets"])
def test_a_slot_comes_back_whatever_the_end(redis, start_upstream, start_fleet, end):
    gate = threading.Event()
    up = start_upstream(lambda peer: (gate.wait(30), peer.reset()) if peer.request.target == "/hold" else reply(), lenient=True)
    fleet = start_fleet(2, limited(up, redis, {"l": {**CONCURRENCY, "limit": 1}}))
    with connect(fleet[0].port) as c:
        c.send(request("GET", "/hold"))
        up.wait_heads(1)
        assert get(fleet[1].port).status == 429
        if end == "the caller leaves":
            c.close()
        else:
            gate.set()
            assert c.read_response().status == 502
        wait_until(lambda: get(fleet[1].port).status == 200, "the slot")
    gate.set()


def test_the_slots_of_a_killed_sidecar_end_with_their_lease(redis, start_upstream, start_fleet):
    """Thirty seconds is too long to wait here: that its lease ends, and when, stands in redis."""
    held = Held()
    up = start_upstream(held, lenient=True)
    fleet = start_fleet(2, limited(up, redis, {"l": {**CONCURRENCY, "limit": 2}}))
    with connect(fleet[0].port) as c:
        c.send(request("GET", "/"))
        up.wait_heads(1)
        fleet.kill(0)
    held.go.set()
    assert get(fleet[1].port).status == 200
    [key] = held_slots(redis)
    wait_until(lambda: redis.ask("ZCARD", key) == 1, "the other's to be given back")
    now = int(redis.ask("TIME")[0])
    [member, until] = redis.ask("ZRANGE", key, 0, -1, "WITHSCORES")
    assert now - 1 <= float(until) / 1e6 <= now + 31, (until, now)
    assert 0 < redis.ask("PTTL", key) <= 61_000


# ------------------------------------------------------------------------------------------------------------ llm tokens


def tokens_left(w, tenant="acme"):
    """The call that asks reserves one, and gets it back."""
    return 1 + int(get(w.port, "/free", [("X-Tenant-ID", tenant)]).header("x-ratelimit-remaining-tokens"))


@pytest.mark.parametrize("algorithm", ["token bucket", "slots"])
def test_tokens_are_reserved_and_settled_over_the_fleet(redis, start_upstream, start_fleet, algorithm):
    """Each call reserves more than it spends, so what is spent never passes the limit, and all of the rest comes back."""
    up = start_upstream(Llm(Usage(input=100, output=20)))
    limit = {"token bucket": {**FOREVER, "burst": 5000},
             "slots": {"algorithm": "sliding_window", "limit": 5000, "window": "1h"}}[algorithm]
    fleet = start_fleet(SIDECARS, limited(up, redis, {"t": {"unit": "llm_tokens", **limit, "on_failure": "closed"}},
                                          agent={"dialect": "openai", "usage": {"estimate": 4}}))
    form = FORMS["chat"]
    raw = request("POST", form.path, [("Content-Type", "application/json"), ("X-Tenant-ID", "acme")], form.ask(max_tokens=200))
    answers = only(burst_of(fleet, 3, 4, lambda n, i: raw), 200, 429)
    spent = 120 * len(admitted(answers))
    assert spent <= 5000 and len(admitted(answers)) >= 10, len(admitted(answers))
    everywhere(fleet, 5000 - spent)
    while get_status(fleet, raw) == 200:
        spent += 120
    assert 5000 - 200 - 100 < spent <= 5000, "refused only when the reservation does not fit"
    everywhere(fleet, 5000 - spent)


def everywhere(fleet, tokens):
    last = []
    with contextlib.suppress(Deadline):
        wait_until(lambda: last.append([tokens_left(w) for w in fleet]) or set(last[-1]) == {tokens}, timeout=5)
        return
    raise AssertionError(f"{last[-1]} left, not {tokens}")


def get_status(fleet, raw, turns=itertools.count()):
    with Caller(fleet[next(turns) % len(fleet)].port) as c:
        return only([c.ask(raw)], 200, 429)[0].status


def test_a_debt_is_the_fleets(redis, start_upstream, start_fleet):
    up = start_upstream(Llm(Usage(input=1000, output=4000)))
    fleet = start_fleet(2, limited(up, redis, {"t": {"unit": "llm_tokens", "rate": "3600/h", "burst": 1000, "on_failure": "closed"}},
                                   agent={"dialect": "openai"}))
    form = FORMS["chat"]
    raw = request("POST", form.path, [("Content-Type", "application/json"), ("X-Tenant-ID", "acme")], form.ask())
    ask = lambda w: exchange(w.port, raw)
    assert ask(fleet[0]).status == 200
    wait_until(lambda: get(fleet[1].port, "/free", [("X-Tenant-ID", "acme")]).status == 429, "the debt to be charged")
    r = ask(fleet[1])
    assert 3900 <= int(r.header("Retry-After")) <= 4100, r


# ----------------------------------------------------------------------------------------------------------- several limits


def test_a_refusal_by_one_charges_no_other(redis, start_upstream, start_fleet):
    """The narrow one refuses most; then exactly what the wide ones have left is admitted where they stand alone."""
    limits = {"wide": {**FOREVER, "burst": 100}, "window": {"algorithm": "sliding_window", "limit": 90, "window": "1h"},
              "log": {"algorithm": "sliding_window", "limit": 80, "window": "1h", "precision": "exact"},
              "narrow": {**FOREVER, "burst": 30, "key": []}}
    for limit in limits.values():
        limit["on_failure"] = "closed"
    paths = routes(("/", {"limits": list(limits)}), *((f"/{name}", {"limits": [name]}) for name in limits))
    fleet = start_fleet(SIDECARS, limited(start_upstream(), redis, limits, listener={"routes": paths}))
    answers = only(burst_of(fleet, 2, 10, lambda n, i: get_raw("/", "acme")), 200, 429)
    assert len(admitted(answers)) == 30
    for name, left in (("wide", 70), ("window", 60), ("log", 50), ("narrow", 0)):
        answers = only(burst_of(fleet, 2, 6, lambda n, i: get_raw(f"/{name}", "acme")), 200, 429)
        assert len(admitted(answers)) == left, name


def test_limits_of_the_fleet_and_of_a_sidecar_on_one_route(redis, start_upstream, start_fleet):
    """Neither is charged when the other refuses."""
    limits = {"here": {**FOREVER, "burst": 50, "scope": "local"}, "all": {**FOREVER, "burst": 40, "on_failure": "closed"}}
    paths = routes(("/", {"limits": ["here", "all"]}), ("/here", {"limits": ["here"]}), ("/all", {"limits": ["all"]}))
    fleet = start_fleet(2, limited(start_upstream(), redis, limits, listener={"routes": paths}))
    answers = only(burst_of(fleet, 4, 20, lambda n, i: get_raw("/", "a")), 200, 429)
    assert len(admitted(answers)) == 40
    answers = only(burst_of(fleet, 4, 25, lambda n, i: get_raw("/here", "a")), 200, 429)
    assert len(admitted(answers)) == 60, "50 of each sidecar, less the 40"
    assert len(admitted(burst_of(fleet, 4, 20, lambda n, i: get_raw("/here", "b")))) == 100
    only(burst_of(fleet, 4, 5, lambda n, i: get_raw("/", "b")), 429)
    answers = only(burst_of(fleet, 4, 15, lambda n, i: get_raw("/all", "b")), 200, 429)
    assert len(admitted(answers)) == 40, "the refusals of the local one charged nothing in redis"


def test_a_local_limit_is_each_sidecars_own(redis, start_upstream, start_fleet):
    fleet = start_fleet(3, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 20, "scope": "local"}}))
    answers = only(burst_of(fleet, 2, 15, lambda n, i: get_raw()), 200, 429)
    assert [sum(a.sidecar == n for a in admitted(answers)) for n in range(3)] == [20] * 3
    assert not [k for k in redis.keys() if ":l:" in k]


def test_a_shadow_limit_counts_over_the_fleet_and_refuses_nobody(redis, start_upstream, start_fleet):
    fleet = start_fleet(4, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 30, "mode": "shadow"}}))
    only(burst_of(fleet, 2, 10, lambda n, i: get_raw()), 200)
    wait_until(lambda: fleet.metric("weir_limit_decisions_total", decision="shadow_refused") == 50, "50 shadow refusals")
    assert fleet.metric("weir_limit_decisions_total", decision="admitted") == 30


def test_tenants_have_their_own_and_keys_do_not_mix(redis, start_upstream, start_fleet):
    limit = {**FOREVER, "burst": 10, "key": ["tenant", {"header": "X-Part"}], "tenants": {"big": {"burst": 25}, "none": {"rate": "0/s"}},
             "on_failure": "closed"}
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": limit}))
    for tenant, part, wanted in (("a", "b:c", 10), ("a:b", "c", 10), ("big", "x", 25), ("none", "x", 0)):
        answers = only(burst_of(fleet, 2, 8, lambda n, i: get_raw("/", tenant, X_Part=part)), 200, 429)
        assert len(admitted(answers)) == wanted, (tenant, part)
    r = get(fleet[0].port, "/", [("X-Tenant-ID", "none"), ("X-Part", "x")])
    assert (r.header("Retry-After"), r.header("x-should-retry")) == ("3600", "false"), r


# ---------------------------------------------------------------------------------------------------------------- by hand


def test_a_fresh_start_by_hand_is_the_fleets(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 5, "on_failure": "closed"}}))
    assert len(admitted(burst_of(fleet, 2, 5, lambda n, i: get_raw("/", "acme")))) == 5
    assert fleet[0].ask_admin("/limits/l?tenant=acme", method="DELETE").status in (200, 204)
    wait_until(lambda: get(fleet[1].port, "/", [("X-Tenant-ID", "acme")]).status == 200, "the fresh start")


def test_explain_says_what_redis_knows_and_takes_nothing(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 5, "on_failure": "closed"}}))
    for _ in range(20):
        assert fleet[1].ask_admin("/explain?listener=in&path=/&method=GET&tenant=acme").status == 200
    assert len(admitted(burst_of(fleet, 1, 2, lambda n, i: get_raw("/", "acme")))) == 4
    r = get(fleet[0].port, "/", [("X-Tenant-ID", "acme")])
    assert rate_limit(r)["l"]["r"] == 0
    assert get(fleet[1].port, "/", [("X-Tenant-ID", "acme")]).status == 429


def test_a_cut_burst_counts_what_was_used(redis, start_upstream, start_fleet):
    make = lambda burst: limited(up, redis, {"l": {**FOREVER, "burst": burst, "on_failure": "closed"}})
    up = start_upstream()
    fleet = start_fleet(2, make(100))
    assert len(admitted(burst_of(fleet, 2, 10, lambda n, i: get_raw()))) == 40
    for w in fleet:
        config = make(50)
        config["listeners"]["in"]["address"] = f"127.0.0.1:{w.port}"
        w.reload(config)
    answers = only(burst_of(fleet, 2, 20, lambda n, i: get_raw()), 200, 429)
    assert len(admitted(answers)) <= 50, "no fresh burst"


@pytest.mark.parametrize("workers", [3])
def test_with_several_workers_each(redis, start_upstream, start_fleet, workers):
    fleet = start_fleet(3, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 200, "on_failure": "closed"}},
                                   server={"workers": workers}))
    answers = only(burst_of(fleet, 6, 20, lambda n, i: get_raw()), 200, 429)
    assert len(admitted(answers)) == 200
