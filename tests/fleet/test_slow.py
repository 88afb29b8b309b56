"""A redis that answers steadily, but later than limits wait for it: they wait once, not again and again, and what has more time
goes on."""
from fleet import Steady, burst_of, get_raw, limited, only, overheads, store_lines, with_redis
from harness import WORKERS, base_config, request, wait_until
from redis_proxy import limits
from support import keyed, routes

TIMEOUT_MS = 150
BIG = {"rate": "1/s", "burst": 1_000_000}


def slow_config(up, server, **store):
    config = base_config(up.url, limits={"big": BIG}, dedup={"once": {}},
                         listener={"routes": routes(("/", {"limits": ["big"]}), ("/keyed", {"dedup": "once"}))})
    return with_redis(config, server, **{"timeout": f"{TIMEOUT_MS}ms", "claim_timeout": "5s", **store})


def test_waits_once_for_what_is_always_late(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(2, slow_config(start_upstream(), proxy))
    with Steady(fleet, lambda n, i: (get_raw(), "limited"), threads=3) as load:
        proxy.delay = 0.2
        fleet.wait_up(0)
        load.go_on(3)
        load.more()
    only(load.none_lost(), 200)
    waited = overheads(fleet, TIMEOUT_MS * 0.9)
    assert len(waited) <= 2 * len(load.threads), f"{len(waited)} of {len(load.answers)} waited"
    for w in fleet:
        assert len(store_lines(w)) == 1, store_lines(w)
        assert w.metric("weir_store_degraded") == 1


def test_claims_have_more_time(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(1, slow_config(start_upstream(), proxy))
    proxy.delay = 0.2
    only(burst_of(fleet, 1, 3, lambda n, i: get_raw()), 200)
    wait_until(lambda: "takes" in str(fleet[0].status()["store"]), "the state")
    for i in range(5):
        only(burst_of(fleet, 1, 1, lambda n, _: request("POST", "/keyed", keyed(f"k{n}-{i}"), b"x")), 200)


def finds_out(fleet):
    """A worker has waited, and waits no more: each finds out for itself."""
    only(burst_of(fleet, 1, 2, lambda n, i: get_raw()), 200)
    return len(overheads(fleet, TIMEOUT_MS * 0.9)) >= int(WORKERS)


def test_comes_back_when_it_is_in_time(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(1, limited(start_upstream(), proxy, {"l": {"rate": "1/h", "burst": 5000}}, store={"timeout": f"{TIMEOUT_MS}ms"}))
    proxy.delay = 0.2
    wait_until(lambda: finds_out(fleet), "every worker to know")
    wait_until(lambda: "takes" in str(fleet[0].status()["store"]), "the state")
    proxy.forget()
    only(burst_of(fleet, 1, 10, lambda n, i: get_raw()), 200)
    assert not proxy.seen(limits), "it was asked"
    proxy.heal()
    fleet.wait_up(1)
    only(burst_of(fleet, 1, 5, lambda n, i: get_raw()), 200)
    assert proxy.seen(limits)
