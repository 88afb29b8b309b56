"""store.redis.sync: lease - slices of a limit taken ahead: still never over it, and under load few requests need redis."""
import time

import pytest

from fleet import Answered, Steady, admitted, burst_of, get_raw, limited, only
from harness import exchange, get, request, wait_until
from llm import FORMS, Llm, Usage
from redis_proxy import limits
from support import Caller, in_parallel, routes

LEASE = {"sync": "lease"}
FOREVER = {"rate": "1/h"}


@pytest.mark.parametrize("lease", ["10%", "1%", "50%"])
@pytest.mark.parametrize("name", ["token bucket", "slots"])
def test_never_over_and_all_of_it(redis, start_upstream, start_fleet, name, lease):
    """Four sidecars ask for far more than there is. What idle ones hold comes back, so in the end all of it was given."""
    limit = {"token bucket": {**FOREVER, "burst": 200}, "slots": {"algorithm": "sliding_window", "limit": 200, "window": "1h"}}[name]
    fleet = start_fleet(4, limited(start_upstream(), redis, {"l": {**limit, "on_failure": "closed"}}, store={**LEASE, "lease": lease}))
    answers = only(burst_of(fleet, 3, 25, lambda n, i: get_raw()), 200, 429)
    got = len(admitted(answers))
    assert got <= 200
    end = time.monotonic() + 6
    while got < 200 and time.monotonic() < end:
        for w in fleet:
            r = get(w.port)
            got += r.status == 200
        time.sleep(0.02)
    assert got <= 200
    if name == "token bucket":
        assert got == 200, "what was not used came back"
    else:
        assert got >= 150, got
    only(burst_of(fleet, 2, 5, lambda n, i: get_raw()), 429)


def test_a_rate_over_the_fleet(redis, start_upstream, start_fleet):
    fleet = start_fleet(4, limited(start_upstream(), redis, {"l": {"rate": "200/s", "burst": 100, "on_failure": "closed"}}, store=LEASE))

    def work(n):
        seen, end = [], time.monotonic() + 2.5
        with Caller(fleet[n % 4].port) as c:
            while (sent := time.monotonic()) < end:
                r = c.ask(get_raw())
                seen.append(Answered(n % 4, sent, time.monotonic(), r, None))
                time.sleep(0.002)
        return seen

    answers = only(sum(in_parallel(8, work), []), 200, 429)
    got = admitted(answers)
    most = 100 + 200 * (max(a.got for a in answers) - min(a.sent for a in answers))
    least = 200 * (max(a.sent for a in answers) - min(a.got for a in answers))
    assert 0.7 * least <= len(got) <= most, (least, len(got), most)


def test_no_window_holds_more(redis, start_upstream, start_fleet):
    fleet = start_fleet(3, limited(start_upstream(), redis, {"l": {"algorithm": "sliding_window", "limit": 60, "window": "1s",
                                                                    "on_failure": "closed"}}, store=LEASE))
    with Steady(fleet, threads=2, pause=0.003) as load:
        load.go_on(2.5)
    got = admitted(only(load.none_lost(), 200, 429))
    for a in got:
        inside = sum(b.sent >= a.sent and b.got < a.sent + 1 for b in got)
        assert inside <= 60, f"{inside} within a second"
    assert len(got) >= 60


def test_most_requests_do_not_need_redis(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), proxy, {"l": {"rate": "1/s", "burst": 100_000}}, store=LEASE))
    only(burst_of(fleet, 2, 5, lambda n, i: get_raw()), 200)
    proxy.forget()
    answers = only(burst_of(fleet, 4, 100, lambda n, i: get_raw()), 200)
    asked = len(proxy.seen(limits))
    assert asked <= len(answers) / 10, f"{asked} asks for {len(answers)} requests"


def test_strict_needs_it_each_time(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(1, limited(start_upstream(), proxy, {"l": {"rate": "1/s", "burst": 100_000}}))
    get(fleet[0].port)
    proxy.forget()
    only(burst_of(fleet, 2, 20, lambda n, i: get_raw()), 200)
    assert len(proxy.seen(limits)) == 40


def test_an_idle_lease_comes_back(redis, start_upstream, start_fleet):
    """One sidecar takes slices and rests; the other gets all the rest within seconds."""
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 100, "on_failure": "closed"}},
                                   store={**LEASE, "lease": "50%"}))
    assert get(fleet[0].port).status == 200
    got, end = 1, time.monotonic() + 6
    while got < 100 and time.monotonic() < end:
        got += get(fleet[1].port).status == 200
        time.sleep(0.01)
    assert got == 100
    assert get(fleet[1].port).status == 429 and get(fleet[0].port).status == 429


def test_the_lease_of_a_killed_sidecar_comes_back(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 100, "on_failure": "closed"}},
                                   store={**LEASE, "lease": "50%"}))
    assert get(fleet[0].port).status == 200
    fleet.kill(0)
    got, end = 1, time.monotonic() + 9
    while got < 100 and time.monotonic() < end:
        got += get(fleet[1].port).status == 200
        time.sleep(0.02)
    assert 50 <= got <= 100, got


def test_a_stop_gives_the_lease_back(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 100, "on_failure": "closed"}},
                                   store={**LEASE, "lease": "50%"}))
    assert get(fleet[0].port).status == 200
    fleet[0].exit_code = fleet[0].stop()
    assert fleet[0].exit_code == 0
    got, end = 1, time.monotonic() + 6
    while got < 100 and time.monotonic() < end:
        got += get(fleet[1].port).status == 200
        time.sleep(0.01)
    assert got == 100


def test_several_limits(redis, start_upstream, start_fleet):
    """A refusal by one charges no other, slices or not; what cannot be leased stays strict."""
    limits_of = {"wide": {**FOREVER, "burst": 100}, "narrow": {**FOREVER, "burst": 30, "key": []},
                 "log": {"algorithm": "sliding_window", "limit": 60, "window": "1h", "precision": "exact"}}
    for limit in limits_of.values():
        limit["on_failure"] = "closed"
    paths = routes(("/", {"limits": list(limits_of)}), *((f"/{name}", {"limits": [name]}) for name in limits_of))
    fleet = start_fleet(3, limited(start_upstream(), redis, limits_of, listener={"routes": paths}, store=LEASE))

    def drain(target, most):
        """Asks until nothing was admitted for longer than an idle slice is kept."""
        got, last = 0, time.monotonic()
        while time.monotonic() < last + 1.6 and got < most:
            more = sum(get(w.port, target, [("X-Tenant-ID", "a")]).status == 200 for w in fleet)
            got, last = got + more, time.monotonic() if more else last
            time.sleep(0.01)
        return got

    assert drain("/", 30) == 30
    only(burst_of(fleet, 2, 5, lambda n, i: get_raw("/", "a")), 429)
    assert drain("/log", 31) == 30
    assert drain("/wide", 71) == 70


def test_an_outage(redis, start_upstream, start_fleet):
    """At most a share each on top, and nobody is lost."""
    fleet = start_fleet(3, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 90}}, store={**LEASE, "timeout": "150ms"}))
    fleet.know_each_other()
    with Steady(fleet, threads=2) as load:
        wait_until(lambda: any(a.status == 429 for a in load.answers), "nothing left")
        redis.pause()
        load.go_on(1.5)
        redis.resume()
        fleet.wait_up(1, timeout=5)
        load.go_on(1.5)
    only(load.none_lost(), 200, 429)
    assert len(admitted(load.answers)) <= 180, len(admitted(load.answers))


def test_many_keys(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 4, "on_failure": "closed"}}, store=LEASE))
    answers = only(burst_of(fleet, 2, 150, lambda n, i: (get_raw("/", f"t{i % 50}"), i % 50)), 200, 429)
    for k in range(50):
        assert sum(a.tag == k for a in admitted(answers)) <= 4
    assert len(admitted(answers)) >= 50 * 2


def test_flushall(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {**FOREVER, "burst": 50, "on_failure": "closed"}}, store=LEASE))
    with Steady(fleet, threads=2) as load:
        wait_until(lambda: any(a.status == 429 for a in load.answers), "nothing left")
        redis.ask("FLUSHALL")
        load.go_on(1.5)
    only(load.none_lost(), 200, 429)
    assert len(admitted(load.answers)) <= 100, "one more burst at most"


def test_llm_tokens(redis, start_upstream, start_fleet):
    up = start_upstream(Llm(Usage(input=100, output=20)))
    fleet = start_fleet(3, limited(up, redis, {"t": {"unit": "llm_tokens", **FOREVER, "burst": 5000, "on_failure": "closed"}}, store=LEASE,
                                   agent={"dialect": "openai"}))
    form = FORMS["chat"]
    raw = request("POST", form.path, [("Content-Type", "application/json"), ("X-Tenant-ID", "acme")], form.ask(max_tokens=200))
    answers = only(burst_of(fleet, 3, 6, lambda n, i: raw), 200, 429)
    got, end = len(admitted(answers)), time.monotonic() + 2.5
    while time.monotonic() < end:
        for w in fleet:
            got += exchange(w.port, raw).status == 200
        time.sleep(0.02)
    assert 5000 - 227 - 227 < 120 * got <= 5000, got
