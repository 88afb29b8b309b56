"""What an operator can ask of the limits: which way a request would go and what each limit would say, who is closest to
a limit, and how a tenant gets a fresh start."""
import json
import random
import threading

import pytest

from harness import base_config, connect, exchange, free_port, get, post, reply, request, wait_until
from support import routes

TOKEN = "canary-explain-7"
ACME = ("X-Tenant-ID", "acme")


def window(limit, **more):
    return {"algorithm": "sliding_window", "limit": limit, "window": "1h", **more}


def limited(up, limit, **more):
    return base_config(up.port, limits={"only": limit}, route={"limits": ["only"]}, **more)


def explain(w, path="/", listener="in", method="GET", **more):
    query = "&".join(f"{k}={v}" for k, v in {"listener": listener, "path": path, "method": method, **more}.items())
    r = w.ask_admin(f"/explain?{query}")
    assert r.status == 200, r
    assert r.header("Content-Type").startswith("application/json")
    return r.json()


def says(answer, name="only"):
    [one] = [x for x in answer["limits"] if x["name"] == name]
    return one


def use(w, count, *, target="/", headers=(ACME,), body=b""):
    return [post(w.port, target, body, list(headers)).status for _ in range(count)]


def state_of(w, name="only"):
    """That limit's entry on /status, however they are kept there."""
    limits = w.status()["limits"]
    return limits[name] if isinstance(limits, dict) else next(x for x in limits if x["name"] == name)


# ------------------------------------------------------------------------------------------------------------------ explain


def test_which_way_a_request_would_go(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port, limits={"a": window(3), "b": {"rate": "5/s", "burst": 9, "key": []}})
    config["upstreams"]["other"] = {"url": up.url}
    config["listeners"]["in"]["routes"] = routes(("/", {}), ("/v1", {"limits": ["a", "b"]}),
                                                 ("/v1/x", {"upstream": "other", "methods": ["POST"]}))
    w = start_weir(config)
    answer = explain(w, "/v1/chat", tenant="acme")
    assert answer["route"]["path"] == "/v1" and answer["upstream"]["name"] == "agent"
    assert [x["name"] for x in answer["limits"]] == ["a", "b"]
    assert (says(answer, "a")["algorithm"], says(answer, "b")["algorithm"]) == ("sliding_window", "token_bucket")
    assert {says(answer, n)["would"] for n in "ab"} == {"admit"} and {says(answer, n)["unit"] for n in "ab"} == {"requests"}
    assert (says(answer, "a")["quota"], says(answer, "a")["remaining"]) == (3, 3)
    assert (says(answer, "b")["quota"], says(answer, "b")["remaining"]) == (9, 9)
    assert explain(w, "/v1/x/y", method="POST")["upstream"]["name"] == "other"
    assert explain(w, "/v1/x/y", method="POST")["limits"] == []
    assert explain(w, "/else")["route"]["path"] == "/"
    assert up.heads == 0


def test_it_consumes_nothing(start_weir, start_upstream):
    """Asked a hundred times, of tenants who were never here, too."""
    up = start_upstream()
    limits = {"bucket": {"rate": "1/h", "burst": 3}, "window": window(3), "exact": window(3, precision="exact"),
              "slots": {"algorithm": "concurrency", "limit": 3}, "bytes": {"unit": "request_bytes", "rate": "1/h", "burst": 3},
              "tokens": {"unit": "llm_tokens", "rate": "1/h", "burst": 3}}
    w = start_weir(base_config(up.port, limits=limits, route={"limits": list(limits)}))
    before = {k: v for k, v in w.metrics().items() if k[0].startswith("weir_limit") or k[0] == "weir_requests_total"}
    for n in range(100):
        answer = explain(w, tenant="acme" if n % 2 else f"t{n}")
        assert [says(answer, name)["would"] for name in limits] == ["admit"] * 6, answer
        assert all(says(answer, name)["remaining"] == 3 for name in limits), answer
    assert {k: v for k, v in w.metrics().items() if k in before} == before and up.heads == 0
    assert use(w, 1, body=b"xyz") == [200]


@pytest.mark.parametrize("limit", [{"rate": "1/h", "burst": 2}, window(2), window(2, precision="exact"),
                                   {"unit": "request_bytes", "rate": "1/h", "burst": 2}, window(2, unit="request_bytes")])
def test_what_each_would_say_now(start_weir, start_upstream, limit):
    w = start_weir(limited(start_upstream(), limit))
    assert use(w, 1, body=b"x") == [200]
    assert (says(explain(w, tenant="acme"))["remaining"], says(explain(w, tenant="acme"))["would"]) == (1, "admit")
    assert use(w, 2, body=b"x") == [200, 429]
    one = says(explain(w, tenant="acme"))
    assert one["remaining"] == 0 and one["quota"] == 2 and one["key"] == "tenant=acme"
    if limit.get("unit") != "request_bytes":
        assert one["would"] == "refuse" and 3400 <= one["retry_after_seconds"] <= 3660
    other = says(explain(w, tenant="other"))
    assert (other["remaining"], other["would"]) == (2, "admit")


def test_slots_in_use(start_weir, start_upstream):
    go = threading.Event()
    up = start_upstream(script=[go, reply()])
    w = start_weir(limited(up, {"algorithm": "concurrency", "limit": 1}))
    with connect(w.port) as c:
        c.send(request("GET", "/", [ACME]))
        up.wait_heads()
        one = says(explain(w, tenant="acme"))
        assert (one["algorithm"], one["quota"], one["remaining"], one["would"]) == ("concurrency", 1, 0, "refuse")
        assert says(explain(w, tenant="other"))["would"] == "admit"
        go.set()
        assert c.read_response().status == 200
    wait_until(lambda: says(explain(w, tenant="acme"))["would"] == "admit", "the slot to be free")


def test_tokens_reserved_and_used(start_weir, start_upstream):
    go = threading.Event()
    answer = json.dumps({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}}).encode()
    up = start_upstream(script=[go, reply(200, answer, [("Content-Type", "application/json")])])
    w = start_weir(limited(up, {"unit": "llm_tokens", "rate": "1/h", "burst": 1000}, agent={"dialect": "openai"}))
    with connect(w.port) as c:
        c.send(request("POST", "/v1/chat/completions", [ACME], json.dumps({"max_tokens": 900}).encode()))
        up.wait_heads()
        one = says(explain(w, "/v1/chat/completions", method="POST", tenant="acme"))
        assert one["unit"] == "llm_tokens" and 0 < one["remaining"] < 100
        go.set()
        assert c.read_response("POST").status == 200
    wait_until(lambda: says(explain(w, tenant="acme"))["remaining"] == 850, "the settled charge")


def test_rate_zero(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {"rate": "5/s", "tenants": {"acme": {"rate": "0/s"}}}))
    one = says(explain(w, tenant="acme"))
    assert one["would"] == "refuse" and one["retry_after_seconds"] == 3600
    assert says(explain(w, tenant="other"))["would"] == "admit"


def test_every_part_of_a_key_can_be_given(start_weir, start_upstream):
    config = limited(start_upstream(), window(1, key=["tenant", "route", "model", "client_ip", "correlation"]))
    config["listeners"]["in"]["routes"] = routes(("/v1", {"limits": ["only"]}))
    w = start_weir(config)
    headers = [ACME, ("X-Correlation-ID", "job-1"), ("Content-Type", "application/json")]
    assert post(w.port, "/v1/x", b'{"model": "gpt-5"}', headers).status == 200
    parts = {"tenant": "acme", "model": "gpt-5", "client_ip": "127.0.0.1", "correlation": "job-1"}
    one = says(explain(w, "/v1/y", method="POST", **parts))
    assert one["would"] == "refuse"
    assert one["key"] == "tenant=acme route=/v1 model=gpt-5 client_ip=127.0.0.1 correlation=job-1"
    for name in parts:
        assert says(explain(w, "/v1/y", **{**parts, name: "127.0.0.7"}))["would"] == "admit", name


def test_a_header_of_a_key_can_be_given(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(1, key=[{"header": "X-Plan"}])))
    assert use(w, 2, headers=[("X-Plan", "pro")]) == [200, 429]
    assert says(explain(w, **{"header.X-Plan": "pro"}))["would"] == "refuse"
    assert says(explain(w, **{"header.X-Plan": "free"}))["would"] == "admit"
    assert fresh(w, "header.X-Plan=pro").status == 200
    assert use(w, 2, headers=[("X-Plan", "pro")]) == [200, 429]


def test_names_that_need_escapes(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(1)))
    assert use(w, 1, headers=[("X-Tenant-ID", "team/a@b:c")]) == [200]
    assert says(explain(w, "%2Fx%2520y", tenant="team%2Fa%40b%3Ac"))["would"] == "refuse"
    assert says(explain(w, "/x", tenant="team/a@b:c"))["would"] == "refuse"
    assert says(explain(w, "/x", tenant="team"))["would"] == "admit"


def test_no_route(start_weir, start_upstream):
    config = base_config(start_upstream().port)
    config["listeners"]["in"]["routes"] = routes(("/v1", {"methods": ["GET"]}))
    w = start_weir(config)
    for target in ("/explain?listener=in&path=/none&method=GET", "/explain?listener=in&path=/v1&method=POST"):
        r = w.ask_admin(target)
        assert r.status == 404 or r.status == 200 and r.json()["route"] is None, r


def test_two_listeners(start_weir, start_upstream):
    up = start_upstream()
    config = limited(up, window(5))
    config["upstreams"]["other"] = {"url": up.url}
    config["listeners"]["out"] = {"address": f"127.0.0.1:{free_port()}", "routes": routes(("/", {"upstream": "other"}))}
    w = start_weir(config)
    assert explain(w, listener="in")["upstream"]["name"] == "agent"
    assert explain(w, listener="out")["upstream"]["name"] == "other" and explain(w, listener="out")["limits"] == []


def test_questions_that_make_no_sense(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(5)))
    for query in ("listener=none&path=/&method=GET", "listener=in%00&path=/", "listener=&path=/", "listener=in&path=nothing",
                  "listener=in&path=/../x", "listener=in&path=/%2525%", "listener=in&path=/&tenant=a%20b", "listener=%zz",
                  "listener=in&path=/&nonsense=1"):
        r = w.ask_admin(f"/explain?{query}")
        assert r.status in (400, 404) or r.status == 200 and r.json()["route"] is None, (query, r)


def test_it_is_for_the_admin_alone(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, window(5), admin={"token": TOKEN}))
    assert w.ask_admin("/explain?listener=in&path=/").status in (401, 403)
    r = w.ask_admin("/explain?listener=in&path=/", headers=[("Authorization", f"Bearer {TOKEN}")])
    assert r.status == 200
    assert w.ask("/explain?listener=in&path=/").status == 404, "the metrics address does not know it"
    assert w.ask_admin("/explain?listener=in&path=/", method="POST", body=b"",
                       headers=[("Authorization", f"Bearer {TOKEN}")]).status == 405
    assert get(w.port, "/explain?listener=in&path=/").body == b"ok" and up.heads == 1, "on a data listener a path as any other"


# -------------------------------------------------------------------------------------------------------------- fresh start


def fresh(w, query="tenant=acme", name="only", **kw):
    return w.ask_admin(f"/limits/{name}{'?' + query if query else ''}", method="DELETE", **kw)


@pytest.mark.parametrize("limit", [{"rate": "1/h", "burst": 2}, window(2), window(2, precision="exact"),
                                   {"unit": "request_bytes", "rate": "1/h", "burst": 2}])
def test_a_fresh_start(start_weir, start_upstream, limit):
    w = start_weir(limited(start_upstream(), limit))
    other = [("X-Tenant-ID", "other")]
    for headers in ([ACME], other):
        assert use(w, 3, headers=headers, body=b"x") == [200, 200, 429]
    assert fresh(w).status == 200
    assert use(w, 3, headers=other, body=b"x") == [429] * 3, "another tenant's stays"
    assert use(w, 3, body=b"x") == [200, 200, 429]
    for _ in range(3):
        assert fresh(w).status == 200
    assert use(w, 3, body=b"x") == [200, 200, 429], "fresh, and not more than fresh"


def test_a_fresh_start_from_debt(start_weir, start_upstream):
    answer = b'{"usage": {"prompt_tokens": 5000, "completion_tokens": 0}}'
    up = start_upstream(script=[reply(200, answer, [("Content-Type", "application/json")])])
    w = start_weir(limited(up, {"unit": "llm_tokens", "rate": "1/h", "burst": 1000}, agent={"dialect": "openai"}))
    for _ in range(2):
        assert use(w, 1, body=b"{}") == [200]
        w.wait_metric("weir_in_flight", 0)
        assert use(w, 1, body=b"{}") == [429]
        assert fresh(w).status == 200
        assert says(explain(w, tenant="acme"))["remaining"] == 1000


def test_one_who_was_never_here(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(2)))
    assert fresh(w, "tenant=nobody").status in (200, 404)
    assert w.metric("weir_limit_keys", limit="only") == 0


def test_a_fresh_start_while_slots_are_held(start_weir, start_upstream):
    """However it takes that: when all have ended there are exactly as many slots as before."""
    go = threading.Event()

    def handler(peer):
        assert go.wait(30)
        return reply()

    up = start_upstream(handler)
    w = start_weir(limited(up, {"algorithm": "concurrency", "limit": 2}))
    conns = [connect(w.port) for _ in range(2)]
    for c in conns:
        c.send(request("GET", "/", [ACME]))
    up.wait_heads(2)
    assert fresh(w).status in (200, 409)
    go.set()
    assert [c.read_response().status for c in conns] == [200] * 2
    w.wait_metric("weir_in_flight", 0)
    go.clear()
    up.clear()
    conns += [connect(w.port) for _ in range(2)]
    for c in conns[2:]:
        c.send(request("GET", "/", [ACME]))
    up.wait_heads(2)
    assert get(w.port, "/", [ACME]).status == 429
    assert says(explain(w, tenant="acme"))["remaining"] == 0
    go.set()
    for c in conns:
        c.close()


def test_a_fresh_start_while_some_wait(start_weir, start_upstream):
    """Nobody who waits is forgotten, and when all have ended there are as many slots as before."""
    go = threading.Event()

    def handler(peer):
        assert go.wait(30)
        return reply()

    up = start_upstream(handler)
    limit = {"algorithm": "concurrency", "limit": 1, "scope": "local", "queue": {"size": 9, "wait": "60s", "per_tenant": "100%"}}
    w = start_weir(limited(up, limit))
    conns = [connect(w.port) for _ in range(5)]
    for n, c in enumerate(conns):
        c.send(request("GET", "/", [ACME]))
        w.wait_metric("weir_queue_depth", n) if n else up.wait_heads()
    assert fresh(w).status in (200, 409)
    go.set()
    assert [c.read_response().status for c in conns] == [200] * 5
    w.wait_metric("weir_queue_depth", 0)
    w.wait_metric("weir_in_flight", 0)
    assert says(explain(w, tenant="acme"))["remaining"] == 1
    for c in conns:
        c.close()


def test_a_fresh_start_while_tokens_are_reserved(start_weir, start_upstream):
    go = threading.Event()
    answer = json.dumps({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}}).encode()
    up = start_upstream(script=[go, reply(200, answer, [("Content-Type", "application/json")])])
    w = start_weir(limited(up, {"unit": "llm_tokens", "rate": "1/h", "burst": 1000}, agent={"dialect": "openai"}))
    with connect(w.port) as c:
        c.send(request("POST", "/v1/chat/completions", [ACME], json.dumps({"max_tokens": 900}).encode()))
        up.wait_heads()
        assert fresh(w).status == 200
        go.set()
        assert c.read_response("POST").status == 200
    w.wait_metric("weir_in_flight", 0)
    assert says(explain(w, tenant="acme"))["remaining"] in (850, 1000)


@pytest.mark.parametrize("key,query", [
    ([], ""), (["tenant", "model"], "tenant=acme&model=gpt-5"), (["route"], "path=/v1/x"), (["client_ip"], "client_ip=127.0.0.1"),
    (["correlation"], "correlation=job-1")])
def test_keys_of_other_parts(start_weir, start_upstream, key, query):
    config = limited(start_upstream(), window(1, key=key))
    config["listeners"]["in"]["routes"] = routes(("/v1", {"limits": ["only"]}))
    w = start_weir(config)
    headers = [ACME, ("X-Correlation-ID", "job-1"), ("Content-Type", "application/json")]
    body = b'{"model": "gpt-5"}'
    assert use(w, 2, target="/v1", headers=headers, body=body) == [200, 429]
    assert fresh(w, query).status == 200
    assert use(w, 2, target="/v1", headers=headers, body=body) == [200, 429]


def test_a_part_that_is_missing_is_named(start_weir, start_upstream):
    limits = {"one": window(1), "two": window(1, key=["tenant", "model"]), "three": window(1, key=["model", "route"]),
              "four": window(1, key=["client_ip"])}
    w = start_weir(base_config(start_upstream().port, limits=limits, route={"limits": list(limits)}))
    for name, query, missing in (("one", "", "tenant"), ("one", "tenant=", "tenant"), ("two", "tenant=acme", "model"),
                                 ("three", "model=x", "path"), ("four", "tenant=a", "client_ip")):
        r = fresh(w, query, name)
        assert r.status == 400 and missing in r.body.decode(), (name, query, r)


def test_a_limit_that_is_not_there(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(1)))
    for name in ("none", "", "only/x", "%00", "onlyx"):
        assert fresh(w, name=name).status in (400, 404), name
    assert fresh(w, name="none").status == 404


def test_only_delete_does_it(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(1)))
    use(w, 1)
    for method in ("GET", "POST", "PUT", "PATCH"):
        r = w.ask_admin("/limits/only?tenant=acme", method=method, body=None if method == "GET" else b"")
        assert r.status == 405 and "DELETE" in r.header("Allow")
    assert use(w, 1) == [429]


def test_it_needs_the_token(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, window(1), admin={"token": TOKEN}))
    use(w, 1)
    for headers in ([], [("Authorization", "Bearer wrong")], [("Authorization", f"Basic {TOKEN}")]):
        assert fresh(w, headers=headers).status in (401, 403)
    assert use(w, 1) == [429]
    assert fresh(w, headers=[("Authorization", f"Bearer {TOKEN}")]).status == 200
    assert use(w, 1) == [200]
    assert w.ask("/limits/only?tenant=acme", method="DELETE").status in (404, 405), "not on the metrics address"
    assert exchange(w.port, request("DELETE", "/limits/only?tenant=acme", [("X-Tenant-ID", "x")])).body == b"ok"
    assert use(w, 1) == [429]


def test_fresh_starts_under_load(start_weir, start_upstream):
    """Many of them beside traffic on other loops: weir lives, and the bound of each start holds."""
    w = start_weir(limited(start_upstream(), window(5), server={"workers": 4}))
    stop, through = threading.Event(), []

    def load():
        while not stop.is_set() and len(through) < 3000:
            through.append(get(w.port, "/", [ACME]).status == 200)

    threads = [threading.Thread(target=load, daemon=True) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        for _ in range(30):
            assert fresh(w).status == 200
            explain(w, tenant="acme")
            w.status()
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert 0 < sum(through) <= 31 * 5


# ------------------------------------------------------------------------------------------------------------------- status


def test_status_says_who_is_closest(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(10)))
    for tenant, count in (("hot", 14), ("warm", 9), ("cold", 1)):
        use(w, count, headers=[("X-Tenant-ID", tenant)])
    closest = state_of(w)["closest"]
    assert [x["key"] for x in closest[:2]] == ["tenant=hot", "tenant=warm"], closest
    assert [(x["quota"], x["remaining"]) for x in closest[:2]] == [(10, 0), (10, 1)]
    assert "canary" not in json.dumps(closest)


@pytest.mark.parametrize("limit", [{"rate": "1/h", "burst": 2}, window(2, precision="exact"),
                                   {"unit": "request_bytes", "rate": "1/h", "burst": 2}])
def test_whoever_is_refused_is_named(start_weir, start_upstream, limit):
    w = start_weir(limited(start_upstream(), limit))
    assert state_of(w)["closest"] == []
    use(w, 1, headers=[("X-Tenant-ID", "fine")], body=b"x")
    use(w, 3, body=b"x")
    [first, *_] = state_of(w)["closest"]
    assert (first["key"], first["quota"], first["remaining"]) == ("tenant=acme", 2, 0)
    assert fresh(w).status == 200
    assert not any(x["key"] == "tenant=acme" and x["remaining"] == 0 for x in state_of(w)["closest"])


def test_slots_on_the_status_page(start_weir, start_upstream):
    go = threading.Event()
    up = start_upstream(script=[go, reply()])
    w = start_weir(limited(up, {"algorithm": "concurrency", "limit": 1}))
    with connect(w.port) as c:
        c.send(request("GET", "/", [ACME]))
        up.wait_heads()
        assert get(w.port, "/", [ACME]).status == 429
        assert "tenant=acme" in [x["key"] for x in state_of(w)["closest"]]
        go.set()
        assert c.read_response().status == 200


def test_at_most_twenty_and_the_closest_of_all(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(30, max_keys=1000)))
    used = {f"t{n}": n + 1 for n in range(30)}
    for tenant, count in sorted(used.items(), key=lambda _: random.random()):
        use(w, count, headers=[("X-Tenant-ID", tenant)])
    closest = state_of(w)["closest"]
    assert len(closest) <= 20
    left = [x["remaining"] for x in closest]
    assert left == sorted(left)
    assert [x["key"] for x in closest[:5]] == [f"tenant=t{n}" for n in range(29, 24, -1)]


def test_a_key_of_several_parts_is_readable(start_weir, start_upstream):
    config = limited(start_upstream(), window(1, key=["route", "tenant", {"header": "X-Plan"}, "model"]))
    w = start_weir(config)
    headers = [ACME, ("X-Plan", 'a"b\\c'), ("Content-Type", "application/json")]
    use(w, 2, headers=headers, body=b'{"model": "gpt\\u0007\\n5"}')
    r = w.ask_admin("/status")
    [one] = state_of(w)["closest"]
    assert one["key"].startswith("route=/ tenant=acme header:x-plan=") and "model=gpt" in one["key"], one
    assert not any(ord(ch) < 32 for ch in one["key"]) or "\\u0007" in r.body.decode()


def test_the_gone_are_not_shown(start_weir, start_upstream):
    """A window that has passed, and a limit that is no more."""
    config = limited(start_upstream(), {"algorithm": "sliding_window", "limit": 1, "window": "300ms"})
    w = start_weir(config)
    use(w, 2)
    wait_until(lambda: not any(x["remaining"] == 0 for x in state_of(w)["closest"]), "the window to pass", timeout=10)
    config["listeners"]["in"]["routes"][0]["limits"] = []
    config["limits"] = {}
    w.reload(config)
    assert "tenant=acme" not in w.ask_admin("/status").body.decode()


def test_the_page_for_people_still_comes(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(1)))
    use(w, 2, headers=[("X-Tenant-ID", "acme")])
    assert w.ask_admin("/").status in (200, 404)
    assert w.ask_admin("/status").status == 200
