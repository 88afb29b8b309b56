"""Limits: what is admitted, what is refused, and what the answer says about it.

Where a test counts, the window is an hour and the rate is one an hour or less: no noise of the machine adds a token.
"""
import random
import time

import pytest

from harness import NoResponse, base_config, connect, exchange, free_port, get, reply, request, sanitized, wait_until
from support import (Caller, families, in_parallel, limit_refusal, parse_limit_field, problem, rate_limit, routes,
                     two_limits)

TENANT = "X-Tenant-ID"
KINDS = {
    "bucket": lambda n: {"algorithm": "token_bucket", "rate": "1/h", "burst": n},
    "window": lambda n: {"algorithm": "sliding_window", "limit": n, "window": "1h"},
}


def limited(up, limit, **more):
    """The smallest configuration with one limit, named `only`."""
    return base_config(up.port, limits={"only": limit}, route={"limits": ["only"]}, **more)


def admitted(where, tries, headers=(), target="/"):
    """How many of that many requests got through; the refused ones are checked."""
    count = 0
    with Caller(where) as caller:
        for _ in range(tries):
            r = caller.get(target, headers)
            if r.status == 200:
                count += 1
            else:
                limit_refusal(r)
    return count


def as_tenant(name):
    return [(TENANT, name)]


# ------------------------------------------------------------------------------------------------ what the answers say


@pytest.mark.parametrize("limit,q,w", [
    ({"rate": "50/s", "burst": 100}, 100, 2), ({"rate": "50/s"}, 50, 1), ({"rate": "600/m"}, 10, 1),
    ({"rate": "7/m", "burst": 3}, 3, 26),
    ({"rate": "10000/h", "burst": 1}, 1, 1), ({"rate": "1/d", "burst": 1}, 1, 86400),
    ({"algorithm": "sliding_window", "limit": 100, "window": "1m"}, 100, 60),
    ({"algorithm": "sliding_window", "limit": 1, "window": "24h"}, 1, 86400),
    ({"algorithm": "sliding_window", "limit": 5, "window": "1500ms"}, 5, (1, 2)),
])
def test_policy(start_weir, start_upstream, limit, q, w):
    up = start_upstream()
    r = get(start_weir(limited(up, limit)).port)
    state = rate_limit(r)["only"]
    assert state["q"] == q and (state["w"] in w if isinstance(w, tuple) else state["w"] == w)
    assert state["r"] == q - 1
    assert r.header("RateLimit-Policy") == f'"only";q={q};w={state["w"]}'
    assert "Retry-After" not in r.headers and "retry-after-ms" not in r.headers and r.weir_reason is None


@pytest.mark.parametrize("kind", KINDS)
def test_remaining_counts_down_to_the_refusal(start_weir, start_upstream, kind):
    up = start_upstream()
    w = start_weir(limited(up, KINDS[kind](5)))
    with Caller(w.port) as caller:
        seen = [caller.get() for _ in range(8)]
    assert [r.status for r in seen] == [200] * 5 + [429] * 3
    assert [rate_limit(r)["only"]["r"] for r in seen] == [4, 3, 2, 1, 0, 0, 0, 0]
    for r in seen[5:]:
        seconds, _ = limit_refusal(r)
        assert rate_limit(r)["only"]["t"] >= seconds - 1, "t promises more than a retry then finds"
    assert up.heads == 5


def test_the_refusal_in_full(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, KINDS["window"](1)))
    assert get(w.port).status == 200
    r = get(w.port, "/", [("X-Correlation-ID", "refused-1")])
    seconds, _ = limit_refusal(r)
    assert 3500 <= seconds <= 3600 + 60
    body = problem(r, 429, "limit", request_id="refused-1")
    assert isinstance(body["violated-policies"], list)
    assert any("only" in str(policy) for policy in body["violated-policies"])
    assert r.header("X-Correlation-ID") == "refused-1"
    assert (r.header("Connection") or "").lower() != "close", "a refusal does not cost the connection"
    line = w.wait_log(status=429)
    assert line["reason"] == "limit" and line["limit"] == "only"


def test_only_limited_routes_speak_of_limits(start_weir, start_upstream):
    config = limited(start_upstream(), KINDS["window"](9))
    config["listeners"]["in"]["routes"] = routes(("/", {}), ("/l", {"limits": ["only"]}))
    w = start_weir(config)
    r = get(w.port, "/")
    assert "RateLimit" not in r.headers and "RateLimit-Policy" not in r.headers
    assert rate_limit(get(w.port, "/l"))["only"]["q"] == 9


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
def test_every_answer_of_a_limited_route_has_the_fields(start_weir, start_upstream, status):
    up = start_upstream(script=[reply(status, b"" if status in (204, 304) else b"body", length=status != 304)])
    w = start_weir(limited(up, KINDS["window"](9)))
    r = get(w.port)
    assert r.status == status and rate_limit(r)["only"]["r"] == 8


def test_weirs_own_errors_behind_a_limit_have_them_too(start_weir, start_upstream):
    config = limited(start_upstream(), KINDS["window"](9))
    config["upstreams"]["agent"]["url"] = "unix:///nonexistent/agent.sock"
    r = get(start_weir(config).port)
    problem(r, 502, "connect_failed")
    assert rate_limit(r)["only"]["r"] == 8


def test_the_upstreams_own_fields_do_not_mix_in(start_weir, start_upstream):
    """One List: a second field of that name would be read as its continuation."""
    up = start_upstream(script=[reply(200, b"ok", [("RateLimit", '"theirs";r=1;t=1'),
                                                   ("RateLimit-Policy", '"theirs";q=1;w=1')])])
    r = get(start_weir(limited(up, KINDS["window"](9))).port)
    names = [n for value in r.headers.all("RateLimit-Policy") for n, _ in parse_limit_field(value)]
    assert names.count("only") == 1


def test_tightest_first(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port, **two_limits(wide=KINDS["window"](100), mid=KINDS["bucket"](10),
                                               tight=KINDS["window"](4)))
    w = start_weir(config)
    first = rate_limit(get(w.port))
    assert list(first) == ["tight", "mid", "wide"]
    assert [(v["q"], v["r"]) for v in first.values()] == [(4, 3), (10, 9), (100, 99)]


# ------------------------------------------------------------------------------------------------ several, all or none


@pytest.mark.parametrize("order", [("shut", "a", "b"), ("a", "shut", "b"), ("a", "b", "shut")])
def test_a_refused_request_consumes_nothing_anywhere(start_weir, start_upstream, order):
    up = start_upstream()
    limits = {"a": KINDS["bucket"](10), "b": KINDS["window"](10), "shut": KINDS["window"](2)}
    config = base_config(up.port, limits=limits)
    config["listeners"]["in"]["routes"] = routes(("/all", {"limits": list(order)}), ("/see", {"limits": ["a", "b"]}))
    w = start_weir(config)
    assert admitted(w.port, 30, target="/all") == 2
    assert {n: v["r"] for n, v in rate_limit(get(w.port, "/see")).items()} == {"a": 7, "b": 7}
    assert up.heads == 3


def test_the_longest_wait_counts(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port, **two_limits(short={"algorithm": "sliding_window", "limit": 1, "window": "100s"},
                                               long={"algorithm": "sliding_window", "limit": 1, "window": "1000s"}))
    w = start_weir(config)
    assert get(w.port).status == 200
    r = get(w.port)
    seconds, _ = limit_refusal(r)
    assert 900 < seconds <= 1017, "a retry before the longer one ends would be refused again"
    assert len(r.json()["violated-policies"]) == 2


def test_eight_limits_on_a_route(start_weir, start_upstream):
    up = start_upstream()
    limits = {f"l{n}": KINDS["bucket" if n % 2 else "window"](20 + n) for n in range(7)}
    limits["tight"] = KINDS["window"](3)
    w = start_weir(base_config(up.port, **two_limits(**limits)))
    assert admitted(w.port, 10) == 3
    r = get(w.port)
    limit_refusal(r)
    assert {n: v["r"] for n, v in rate_limit(r).items()} == {**{f"l{n}": 17 + n for n in range(7)}, "tight": 0}


# --------------------------------------------------------------------------------------------------------------- retry


@pytest.mark.parametrize("limit", [{"rate": "2/s", "burst": 1}, {"rate": "100/m", "burst": 2},
                                   {"algorithm": "sliding_window", "limit": 2, "window": "1s"}],
                         ids=["bucket", "bucket2", "window"])
def test_a_retry_when_told_is_admitted_and_never_before_it_may(start_weir, start_upstream, limit):
    """By retry-after-ms, the finer of the two: waiting that long is enough each time, and the bound holds over all."""
    up = start_upstream()
    w = start_weir(limited(up, limit))
    times, waits = [], 0
    with Caller(w.port) as caller:
        for _ in range(200):
            if waits == 4:
                break
            r = caller.get()
            at = time.monotonic()
            if r.status == 200:
                times.append(at)
                continue
            _, millis = limit_refusal(r)
            waits += 1
            time.sleep(millis / 1000)
            retry = caller.get()
            assert retry.status == 200, "refused although it waited as it was told"
            times.append(time.monotonic())
    assert waits == 4, "never refused"
    if "rate" in limit:
        count, _, unit = limit["rate"].partition("/")
        per_second, burst = int(count) / {"s": 1, "m": 60}[unit], limit["burst"]
        # An answer is seen a little after its admission: what was admitted in w seconds was seen in w + 1.
        for i in range(len(times)):
            for j in range(i, len(times)):
                assert j - i + 1 <= burst + per_second * (times[j] - times[i] + 1)


def test_a_retry_after_whole_seconds_is_admitted(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {"rate": "90/m", "burst": 1}))
    with Caller(w.port) as caller:
        assert caller.get().status == 200
        r = caller.get()
        seconds, _ = limit_refusal(r)
        assert seconds == 1
        time.sleep(seconds)
        assert caller.get().status == 200


@pytest.mark.parametrize("window,should", [("50s", None), ("10m", "false")])
def test_x_should_retry(start_weir, start_upstream, window, should):
    w = start_weir(limited(start_upstream(), {"algorithm": "sliding_window", "limit": 1, "window": window}))
    assert get(w.port).status == 200
    r = get(w.port)
    limit_refusal(r)
    assert (r.header("x-should-retry") == "false") is (should == "false")


def test_rate_zero_refuses_all(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, {"rate": "5/s", "tenants": {"acme": {"rate": "0/s"}}}))
    for _ in range(3):
        r = get(w.port, "/", as_tenant("acme"))
        assert limit_refusal(r)[0] == 3600 and r.header("x-should-retry") == "false"
        [(name, state)] = parse_limit_field(r.header("RateLimit"))
        assert name == "only" and state["r"] == 0
    assert up.heads == 0
    assert get(w.port, "/", as_tenant("globex")).status == 200


# ---------------------------------------------------------------------------------------------------------------- keys


def test_each_tenant_has_its_own(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), KINDS["bucket"](2)))
    for tenant in ([], as_tenant("acme"), as_tenant("globex"), as_tenant("ACME")):
        assert admitted(w.port, 4, tenant) == 2
    assert get(w.port, "/", as_tenant("anonymous")).status == 429, "the default is a tenant like any other"


def test_key_empty_is_one_for_all(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {**KINDS["window"](5), "key": []}))
    assert sum(admitted(w.port, 2, as_tenant(t)) for t in "abcde") == 5


def test_key_route(start_weir, start_upstream):
    config = limited(start_upstream(), {**KINDS["window"](2), "key": ["route"]})
    config["listeners"]["in"]["routes"] = routes(("/a", {"limits": ["only"]}), ("/b", {"limits": ["only"]}))
    w = start_weir(config)
    assert admitted(w.port, 3, as_tenant("x"), "/a/1") + admitted(w.port, 3, as_tenant("y"), "/a/2") == 2
    assert admitted(w.port, 3, target="/b") == 2


def test_key_header(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {**KINDS["window"](2), "key": [{"header": "X-Plan"}]}))
    for headers in ([("X-Plan", "a")], [("x-plan", "b")], [("X-Plan", "A")], []):
        assert admitted(w.port, 3, headers) == 2
    assert get(w.port, "/", [("X-Plan", "a"), (TENANT, "other")]).status == 429


def test_key_parts_do_not_run_together(start_weir, start_upstream):
    """Tenants a with b:c, and a:b with c, are two keys; so is every other cut of one text."""
    w = start_weir(limited(start_upstream(), {**KINDS["window"](1), "key": ["tenant", {"header": "X-Part"}]}))
    for tenant, part in [("a", "b:c"), ("a:b", "c"), ("a:b:c", ""), ("a", "b"), ("a/b", "c"), ("a", "b/c"), ("ab", "c"),
                         ("a", "bc")]:
        assert admitted(w.port, 2, [(TENANT, tenant), ("X-Part", part)]) == 1, (tenant, part)


def test_key_client_ip(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {**KINDS["window"](2), "key": ["client_ip"]}))
    for source in ("127.0.0.1", "127.0.0.2"):
        statuses = []
        for n in range(3):
            with connect(w.port, source=(source, 0)) as c:
                c.send(request("GET", "/", [("X-Forwarded-For", f"10.0.0.{n}")]))
                statuses.append(c.read_response().status)
        assert statuses == [200, 200, 429], "without server.client_ip nobody's header is believed"


def test_client_ip_from_a_header_counted_from_the_right(start_weir, start_upstream):
    """trusted_hops: 1 is one proxy before weir: the last entry is what that one saw."""
    w = start_weir(limited(start_upstream(), {**KINDS["window"](2), "key": ["client_ip"]},
                           server={"client_ip": {"header": "X-Forwarded-For", "trusted_hops": 1}}))

    def forwarded(*values):
        return get(w.port, "/", [("X-Forwarded-For", v) for v in values]).status

    assert [forwarded("203.0.113.9"), forwarded("198.51.100.1, 203.0.113.9"),
            forwarded("1.1.1.1", "203.0.113.9")] == [200, 200, 429]
    assert [forwarded("203.0.113.9, 198.51.100.1"), forwarded("2001:db8::1"),
            forwarded("203.0.113.9")] == [200, 200, 429]


def test_one_client_on_two_kinds_of_address_is_one(start_weir, start_upstream):
    config = limited(start_upstream(), {**KINDS["window"](3), "key": ["client_ip"]})
    config["listeners"]["dual"] = {"address": f"*:{free_port()}", "routes": routes(("/", {"limits": ["only"]}))}
    w = start_weir(config)
    assert admitted(w.port, 2) + admitted(w.ports["dual"], 9) == 3


def test_one_limit_on_two_listeners_is_one(start_weir, start_upstream):
    config = limited(start_upstream(), KINDS["bucket"](5))
    config["listeners"]["two"] = {"address": f"127.0.0.1:{free_port()}", "routes": routes(("/", {"limits": ["only"]}))}
    w = start_weir(config)
    assert admitted(w.port, 3) + admitted(w.ports["two"], 7) == 5


def test_tenants_overrides(start_weir, start_upstream):
    limit = {**KINDS["bucket"](2), "tenants": {"big": {"rate": "500/h", "burst": 6}, "wide": {"burst": 4}}}
    w = start_weir(limited(start_upstream(), limit))
    for tenant, n in (("big", 6), ("wide", 4), ("small", 2)):
        state = rate_limit(get(w.port, "/", as_tenant(tenant)))["only"]
        assert (state["q"], state["r"]) == (n, n - 1)
        assert admitted(w.port, 10, as_tenant(tenant)) == n - 1


def test_tenants_overrides_of_a_window(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {**KINDS["window"](2), "tenants": {"big": {"limit": 5}}}))
    assert admitted(w.port, 9, as_tenant("big")) == 5 and admitted(w.port, 9, as_tenant("small")) == 2


def test_overrides_from_the_tenants_file(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), KINDS["window"](2), tenant={"file": "tenants.yaml"}),
                   files={"tenants.yaml": "limits:\n  only:\n    acme: {limit: 4}\n"})
    assert admitted(w.port, 9, as_tenant("acme")) == 4 and admitted(w.port, 9, as_tenant("small")) == 2


# ----------------------------------------------------------------------------------------------------- modes and words


def test_shadow_counts_and_admits(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, {**KINDS["window"](2), "mode": "shadow"}))
    with Caller(w.port) as caller:
        answers = [caller.get("/", as_tenant("acme")) for _ in range(5)]
    assert [r.status for r in answers] == [200] * 5 and up.heads == 5
    assert all("Retry-After" not in r.headers and r.weir_reason is None for r in answers)
    for decision, n in (("admitted", 2), ("shadow_refused", 3), ("refused", 0)):
        w.wait_metric("weir_limit_decisions_total", n, limit="only", tenant="acme", decision=decision)
    assert w.metric("weir_refused_total") == 0


def test_a_shadow_beside_an_enforced_limit(start_weir, start_upstream):
    config = base_config(start_upstream().port, **two_limits(real=KINDS["window"](4),
                                                             ghost={**KINDS["window"](1), "mode": "shadow"}))
    w = start_weir(config)
    assert admitted(w.port, 9) == 4
    w.wait_metric("weir_limit_decisions_total", 5, limit="real", decision="refused")
    w.wait_metric("weir_limit_decisions_total", 0, limit="ghost", decision="refused")


def test_on_limit(start_weir, start_upstream):
    config = limited(start_upstream(), KINDS["window"](1))
    config["listeners"]["in"]["routes"] = routes(
        ("/", {"limits": ["only"]}), ("/busy", {"limits": ["only"], "on_limit": {"status": 503}}),
        ("/said", {"limits": ["only"], "on_limit": {"status": 420, "body": "slow down, it costs $$5"}}))
    w = start_weir(config)
    assert get(w.port).status == 200
    problem(get(w.port), 429, "limit")
    r = get(w.port, "/busy")
    limit_refusal(r, 503)
    problem(r, 503, "limit")
    r = get(w.port, "/said")
    limit_refusal(r, 420)
    assert r.body == b"slow down, it costs $5"
    assert exchange(w.port, request("HEAD", "/said")).status == 420


def test_decisions_are_counted(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), KINDS["window"](3)))
    admitted(w.port, 5, as_tenant("acme"))
    w.wait_metric("weir_limit_decisions_total", 3, limit="only", tenant="acme", decision="admitted")
    w.wait_metric("weir_limit_decisions_total", 2, limit="only", tenant="acme", decision="refused")
    w.wait_metric("weir_refused_total", 2, listener="in", reason="limit")
    w.wait_metric("weir_limit_keys", 1, limit="only")


def test_a_refused_upload_leaves_the_connection_in_step(start_weir, start_upstream):
    """Read to its end or closed: what follows the body is never taken for part of it, nor the other way round."""
    up = start_upstream()
    w = start_weir(limited(up, {"rate": "5/s", "tenants": {"anonymous": {"rate": "0/s"}}}))
    with connect(w.port) as c:
        c.send(request("POST", "/", body=b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" * 3000))
        limit_refusal(c.read_response())
        c.send(request("GET", "/", [("X-Correlation-ID", "the-next")]))
        try:
            r = c.read_response("GET")
            limit_refusal(r)
            assert r.header("X-Correlation-ID") == "the-next"
        except NoResponse:
            pass
    assert up.heads == 0


# ------------------------------------------------------------------------------------------------------------ max_keys


def test_a_full_table_shares_one_overflow_bucket(start_weir, start_upstream):
    """All of the first keys are in debt, so none may be forgotten: whoever comes then shares one bucket."""
    w = start_weir(limited(start_upstream(), {**KINDS["window"](2), "max_keys": 16}))
    with Caller(w.port) as caller:
        statuses = [[caller.get("/", as_tenant(f"t{n}")).status for _ in range(2)] for n in range(200)]
    through = sum(s.count(200) for s in statuses)
    assert 2 * 16 <= through <= 2 * (32 + 1), "own buckets for 16 keys, at most twice that, and one for all the rest"
    assert w.wait_metric("weir_limit_overflow_total", lambda v: v > 0, limit="only")
    assert 16 <= w.metric("weir_limit_keys", limit="only") <= 33
    assert get(w.port, "/", as_tenant("t0")).status == 429, "the first one's debt is not forgiven"


def test_a_full_table_forgets_what_is_full_again(start_weir, start_upstream):
    """Buckets that have refilled carry no information: their place goes to new keys, and nobody is refused."""
    w = start_weir(limited(start_upstream(), {"rate": "2000/s", "burst": 1, "max_keys": 256}))
    with Caller(w.port) as caller:
        for n in range(1000):
            assert caller.get("/", as_tenant(f"k{n}")).status == 200
    assert w.metric("weir_limit_overflow_total", limit="only") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_thousand_tenants(start_weir, start_upstream, kind):
    """Invented names cost no memory beyond max_keys, and do not refill one that is at its limit."""
    tenants = 50_000
    up = start_upstream()
    limit = {**KINDS[kind](2), "max_keys": 4096}
    config = limited(up, limit, log={"access": "none"}, server={"workers": 2})
    w = start_weir(config)
    assert admitted(w.port, 5, as_tenant("hot")) == 2
    pipelined = 50

    def invent(first, last, word="t"):
        with connect(w.port) as c:
            for start in range(first, last, pipelined):
                left = min(last, start + pipelined) - start
                c.send(b"".join(request("GET", "/", as_tenant(f"{word}{n}")) for n in range(start, start + left)))
                for _ in range(left):
                    assert c.recv_until(b"HTTP/1.1 ") and c.src.take(3) in (b"200", b"429")

    invent(0, 6000, "warm")
    full = w.rss_kb()
    each = tenants // 4
    in_parallel(4, lambda n: invent(n * each, (n + 1) * each))
    grown = w.rss_kb() - full
    assert grown < (40_000 if sanitized() else 4_000), f"{grown} KB for names that were not to be kept"
    assert admitted(w.port, 5, as_tenant("hot")) == 0
    assert w.metric("weir_limit_keys", limit="only") <= 2 * 4096 + 1
    w.wait_metric("weir_limit_overflow_total", lambda v: v > 40_000, limit="only")


# ----------------------------------------------------------------------------------------------------- the exact model


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_callers_get_exactly_the_limit(start_weir, start_upstream, kind):
    """16 threads, 4 workers, random arrivals, several tenants: each gets its limit, not one more and not one less."""
    bound, callers, tries = 53, 16, 60
    up = start_upstream()
    w = start_weir(limited(up, KINDS[kind](bound), server={"workers": 4}))
    tenants = ["a", "b", "c"]

    def work(number):
        dice = random.Random(number)
        got = {t: [0, 0] for t in tenants}
        with Caller(w.port) as caller:
            for _ in range(tries):
                tenant = dice.choice(tenants)
                r = caller.get("/", as_tenant(tenant))
                assert r.status in (200, 429)
                got[tenant][r.status == 200] += 1
                if r.status == 429:
                    assert rate_limit(r)["only"]["r"] == 0, "refused without cause"
                time.sleep(dice.random() * 0.002)
        return got

    results = in_parallel(callers, work)
    for tenant in tenants:
        assert sum(sum(got[tenant]) for got in results) > bound
        assert sum(got[tenant][True] for got in results) == bound
    assert up.complete == bound * len(tenants)


def test_two_limits_under_sixteen_callers(start_weir, start_upstream):
    """A shared limit over three tenants' own: what the shared one refuses must come back to the tenants' own."""
    up = start_upstream()
    limits = {"own": KINDS["bucket"](40), "shared": {**KINDS["window"](90), "key": []}}
    config = base_config(up.port, limits=limits, server={"workers": 4})
    config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["own", "shared"]}), ("/own", {"limits": ["own"]}))
    w = start_weir(config)

    def work(number):
        tenant, got = as_tenant("abc"[number % 3]), 0
        with Caller(w.port) as caller:
            for _ in range(40):
                got += caller.get("/", tenant).status == 200
        return got

    in_all = in_parallel(16, work)
    assert sum(in_all) == 90
    left = sum(admitted(w.port, 45, as_tenant(t), "/own") for t in "abc")
    assert left == 3 * 40 - 90, "a refused request consumed something"


def random_arrivals(w, seconds, callers=8):
    """[(before, after)] of every admitted request, by the time it was sent."""
    stop = time.monotonic() + seconds

    def work(number):
        seen, dice = [], random.Random(number)
        with Caller(w.port) as caller:
            while time.monotonic() < stop:
                before = time.monotonic()
                if caller.get().status == 200:
                    seen.append((before, time.monotonic()))
                time.sleep(dice.random() * 0.02)
        return seen

    return sorted(s for some in in_parallel(callers, work) for s in some)


def longest(seen, i, j):
    """The longest time in which requests i to j can all have been admitted."""
    return max(after for _, after in seen[i:j + 1]) - seen[i][0]


def test_a_refilling_bucket_stays_under_its_bound(start_weir, start_upstream):
    """In any interval of length w at most burst + rate * w, as far as it can be seen from outside."""
    rate, burst = 60, 10
    w = start_weir(limited(start_upstream(), {"rate": f"{rate}/s", "burst": burst}, server={"workers": 4}))
    seen = random_arrivals(w, 2.5)
    assert len(seen) > burst
    for i in range(len(seen)):
        for j in {i + burst, i + 2 * burst, i + rate, len(seen) - 1}:
            if i < j < len(seen):
                assert j - i + 1 <= burst + rate * longest(seen, i, j) + 1e-6


def test_no_window_has_more_than_its_limit(start_weir, start_upstream):
    """Also not one that lies across a boundary of slots: limit + 1 admissions always span more than the window."""
    bound, window = 30, 0.6
    w = start_weir(limited(start_upstream(), {"algorithm": "sliding_window", "limit": bound, "window": "600ms"},
                           server={"workers": 4}))
    seen = random_arrivals(w, 2.5)
    assert len(seen) > bound
    for i in range(len(seen) - bound):
        assert longest(seen, i, i + bound) > window


# ---------------------------------------------------------------------------------------------------------- a live cut


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_in_force_and_gives_no_fresh_burst(start_weir, start_upstream, kind):
    up = start_upstream()
    config = limited(up, KINDS[kind](20))
    w = start_weir(config)
    assert admitted(w.port, 6, as_tenant("some")) == 6
    assert admitted(w.port, 30, as_tenant("all")) == 20
    config["limits"]["only"] = KINDS[kind](10)
    w.reload(config)
    assert rate_limit(get(w.port, "/", as_tenant("fresh")))["only"]["q"] == 10
    assert admitted(w.port, 30, as_tenant("some")) == 4, "what was used counts against the new limit"
    assert admitted(w.port, 30, as_tenant("all")) == 0
    assert admitted(w.port, 30, as_tenant("fresh")) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_below_what_was_used(start_weir, start_upstream, kind):
    config = limited(start_upstream(), KINDS[kind](20))
    w = start_weir(config)
    assert admitted(w.port, 15) == 15
    config["limits"]["only"] = KINDS[kind](5)
    w.reload(config)
    assert admitted(w.port, 10) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_raise_keeps_what_was_used(start_weir, start_upstream, kind):
    config = limited(start_upstream(), KINDS[kind](5))
    w = start_weir(config)
    assert admitted(w.port, 9) == 5
    config["limits"]["only"] = KINDS[kind](8)
    w.reload(config)
    assert admitted(w.port, 9) <= 3, "no fresh burst on a raise either"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reload_that_does_not_touch_a_limit_keeps_its_state(start_weir, start_upstream, kind):
    config = limited(start_upstream(), KINDS[kind](5))
    w = start_weir(config)
    assert admitted(w.port, 3) == 3
    for n in range(3):
        config["limits"][f"other{n}"] = KINDS[kind](5 + n)
        config["server"] = {"max_body": f"{n + 1}MiB"}
        w.reload(config)
    assert admitted(w.port, 9) == 2


def test_a_cut_is_in_force_within_a_second(start_weir, start_upstream):
    """A reload that was counted is in force; the room of five seconds is the machine's, not weir's."""
    config = limited(start_upstream(), {"algorithm": "sliding_window", "limit": 100_000, "window": "1h"})
    w = start_weir(config)
    config["limits"]["only"]["limit"] = 1
    with Caller(w.port) as caller:
        assert caller.get().status == 200
        w.reload(config)
        wait_until(lambda: caller.get().status == 429, "the new limit", timeout=5)


def test_an_override_that_changes_is_in_force(start_weir, start_upstream):
    config = limited(start_upstream(), {**KINDS["window"](20), "tenants": {"acme": {"limit": 6}}})
    w = start_weir(config)
    assert admitted(w.port, 9, as_tenant("acme")) == 6
    config["limits"]["only"]["tenants"]["acme"]["limit"] = 8
    w.reload(config)
    assert admitted(w.port, 9, as_tenant("acme")) <= 2
    assert families(w).sum("weir_limit_decisions_total", tenant="acme", decision="admitted") <= 8
