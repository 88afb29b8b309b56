"""What operators ask while limits and keys are in Redis: the pages tell what it tells, whichever sidecar is asked, and what nobody knows
when it is gone - soon, and without keeping any other page waiting."""
import time

import pytest

from fleet import limited
from harness import base_config, connect, get, post, request, sanitized, wait_until
from support import keyed, routes

KINDS = {
    "bucket": {"rate": "1/h", "burst": 5},
    "slots": {"algorithm": "sliding_window", "limit": 5, "window": "1h"},
    "log": {"algorithm": "sliding_window", "limit": 5, "window": "1h", "precision": "exact"},
}
OWN = {"algorithm": "concurrency", "limit": 5, "scope": "local"}
PAGE = request("GET", "/explain?listener=in&path=/&method=GET", host="localhost")
SOON = 5 * (4 if sanitized() else 1)


def explain(w, **more):
    query = "&".join(f"{k}={v}" for k, v in {"listener": "in", "path": "/", "method": "GET", **more}.items())
    r = w.ask_admin(f"/explain?{query}")
    assert r.status == 200, r
    return r.json()


def limits_of(w, **more):
    return {limit["name"]: limit for limit in explain(w, **more)["limits"]}


def delete(w, target):
    return w.ask_admin(target, method="DELETE")


@pytest.fixture
def fleet(start_fleet, start_upstream, redis):
    up = start_upstream()
    config = limited(up, redis, {**KINDS, "own": OWN}, dedup={"once": {}},
                     listener={"routes": routes(("/", {"limits": [*KINDS, "own"]}), ("/keyed", {"dedup": "once"}))})
    return start_fleet(2, config)


# -------------------------------------------------------------------------------------------------------------- /explain


def test_explain_tells_what_the_fleet_used(fleet):
    for w in fleet:
        assert get(w.port).status == 200
    for w in fleet:
        told = limits_of(w)
        assert {name: told[name]["remaining"] for name in KINDS} == dict.fromkeys(KINDS, 3), told
        assert all(limit["would"] == "admit" and "state" not in limit for limit in told.values()), told
        assert told["own"]["remaining"] == 5
    assert {name: limit["remaining"] for name, limit in limits_of(fleet[0]).items() if name in KINDS} == dict.fromkeys(KINDS, 3)


def test_explain_tells_that_another_sidecar_used_it_up(fleet):
    for _ in range(5):
        assert get(fleet[0].port).status == 200
    answer = explain(fleet[1])
    assert (answer["would"], answer["reason"]) == ("refuse", "limit")
    for limit in answer["limits"]:
        if limit["name"] in KINDS:
            assert limit["would"] == "refuse" and limit["remaining"] == 0 and limit["retry_after_seconds"] >= 1, limit
    other = explain(fleet[1], tenant="somebody")
    assert other["would"] == "pass"


def test_explain_tells_of_a_key(fleet, start_upstream):
    def would(key):
        return [explain(w, path="/keyed", method="POST", key=key)["dedup"]["would"] for w in fleet]
    assert would("k1") == ["run", "run"]
    assert post(fleet[0].port, "/keyed", b"x", keyed("k1")).status == 200
    wait_until(lambda: would("k1") == ["replay", "replay"], "the answer to be there")
    assert would("k2") == ["run", "run"]


# --------------------------------------------------------------------------------------------------- what is forgotten


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_start_is_one_for_the_fleet(fleet, kind):
    for _ in range(5):
        assert get(fleet[0].port).status == 200
    r = delete(fleet[1], f"/limits/{kind}?tenant=anonymous")
    assert r.status == 200 and r.json() == {"limit": kind, "key": "tenant=anonymous"}
    assert limits_of(fleet[0])[kind]["remaining"] == 5
    assert [limits_of(fleet[0])[other]["remaining"] for other in KINDS if other != kind] == [0, 0]


def test_a_key_is_forgotten_for_the_fleet(fleet):
    assert post(fleet[0].port, "/keyed", b"x", keyed("k1")).status == 200
    wait_until(lambda: explain(fleet[1], path="/keyed", method="POST", key="k1")["dedup"]["would"] == "replay", "the key")
    r = delete(fleet[1], "/dedup/once?key=k1")
    assert r.status == 200 and r.json() == {"dedup": "once", "forgotten": 1}
    r = delete(fleet[0], "/dedup/once?key=k1")
    assert r.status == 404 and "nothing was to be forgotten" in r.body.decode()
    r = post(fleet[0].port, "/keyed", b"x", keyed("k1"))
    assert r.status == 200 and r.header("Idempotent-Replayed") is None


# ---------------------------------------------------------------------------------------------------- Redis is not there


def world(start_weir, up, server):
    return start_weir(limited(up, server, {**KINDS, "own": OWN}, store={"timeout": "100ms"}, dedup={"once": {}},
                              listener={"routes": routes(("/", {"limits": [*KINDS, "own"]}), ("/keyed", {"dedup": "once"}))}))


def check_unknown(w):
    begun = time.monotonic()
    answer = explain(w, key="k1")
    assert answer["would"] == "unknown" and answer["reason"] is None
    for limit in answer["limits"]:
        if limit["name"] in KINDS:
            assert (limit["state"], limit["would"], limit["remaining"]) == ("unknown", None, None), limit
            assert limit["quota"] == 5 and limit["retry_after_seconds"] is None and limit["reset_seconds"] is None
        else:
            assert limit["would"] == "admit" and limit["remaining"] == 5
    told = explain(w, path="/keyed", method="POST", key="k1")["dedup"]
    assert (told["would"], told["state"]) == (None, "unknown")
    for target in ("/limits/bucket?tenant=anonymous", "/dedup/once?key=k1"):
        r = delete(w, target)
        assert r.status == 503 and r.weir_reason == "store_down" and "Redis" in r.json()["detail"], r
    assert time.monotonic() - begun < SOON, "4 of at most five timeouts each"


def test_while_redis_is_gone(start_weir, start_upstream, redis):
    w = world(start_weir, start_upstream(), redis)
    w.wait_metric("weir_store_up", 1)
    redis.kill()
    w.wait_metric("weir_store_up", 0)
    check_unknown(w)
    assert delete(w, "/limits/own?tenant=anonymous").status == 409
    redis.start()
    w.wait_metric("weir_store_up", 1)
    wait_until(lambda: explain(w)["would"] == "pass", "the page to know again")


def test_while_redis_hangs(start_weir, start_upstream, redis):
    """The first page waits; no other one does for it."""
    w = world(start_weir, start_upstream(), redis)
    w.wait_metric("weir_store_up", 1)
    redis.pause()
    begun = time.monotonic()
    with connect(w.admin) as waiting:
        waiting.send(PAGE)
        assert w.ask_admin("/healthz").status == 200 and w.status()["store"]["kind"] == "redis"
        assert waiting.read_response().json()["would"] == "unknown"
    assert time.monotonic() - begun < SOON
    check_unknown(w)
    redis.resume()
    wait_until(lambda: explain(w)["would"] == "pass", "the page to know again")


def test_who_asks_leaves(start_weir, start_upstream, redis):
    w = world(start_weir, start_upstream(), redis)
    w.wait_metric("weir_store_up", 1)
    redis.pause()
    for _ in range(20):
        with connect(w.admin) as c:
            c.send(PAGE)
    redis.resume()
    wait_until(lambda: explain(w)["would"] == "pass", "the page to know again")
    assert delete(w, "/limits/bucket?tenant=anonymous").status == 200


def test_weir_ends_while_a_page_waits(start_weir, start_upstream, redis):
    w = world(start_weir, start_upstream(), redis)
    w.wait_metric("weir_store_up", 1)
    redis.pause()
    with connect(w.admin) as c:
        c.send(PAGE)
        assert w.stop() == 0


# -------------------------------------------------------------------------------------------------------------- /status


def test_status_tells_of_the_store(start_weir, start_upstream, start_redis):
    server = start_redis(password="canary-status-9")
    w = start_weir(limited(start_upstream(), server, KINDS, store={"password": "canary-status-9"}))
    w.wait_metric("weir_store_up", 1)
    assert w.metric("weir_store_degraded") == 0
    assert get(w.port).status == 200
    store = w.status()["store"]
    assert (store["kind"], store["up"], store["degraded"], store["mode"], store["address"], store["why"], store["sidecars"]) == (
        "redis", True, False, "single", server.address, None, 1)
    assert store["since"].endswith("Z") and store["commands"]["ok"] >= 1
    server.kill()
    w.wait_metric("weir_store_up", 0)
    store = w.status()["store"]
    assert (store["up"], store["degraded"]) == (False, True) and store["why"]
    assert w.metric("weir_store_degraded") == 1
    for page in ("/status", "/config", "/metrics", "/explain?listener=in&path=/&method=GET"):
        assert "canary" not in w.ask_admin(page).body.decode(), page
    assert w.metric("weir_store_commands_total", result="ok") >= 1
    assert "canary" not in w.stderr


def test_status_tells_of_the_memory(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    assert w.status()["store"] == {"kind": "memory", "up": True, "degraded": False}
    assert w.metric("weir_store_up") == 1 and w.metric("weir_store_degraded") == 0
    assert "weir_store_commands_total{" not in w.ask("/metrics").body.decode()


def test_status_names_the_keys_that_are_closest_to_a_limit_of_the_fleet(fleet):
    """As they were told to this sidecar last."""
    for i in range(6):
        get(fleet[i % 2].port, headers=[("X-Tenant-ID", "busy")])
    get(fleet[1].port, headers=[("X-Tenant-ID", "calm")])
    for w in fleet:
        told = {limit["name"]: limit["closest"] for limit in w.status()["limits"]}
        for kind in KINDS:
            assert [(key["key"], key["remaining"]) for key in told[kind]] in ([("tenant=busy", 0)], [("tenant=busy", 1)]), told[kind]
            assert told[kind][0]["reset_seconds"] > 0
