"""What limits decide before a body is there and after, what a call is thought to cost, and what names and refusals say."""
import json
import threading
import time

import pytest

from faults import error
from harness import LAST_CHUNK, base_config, chunk, connect, get, post, reply, request
from support import in_parallel, limit_refusal, parse_limit_field, problem, routes

ACME = ("X-Tenant-ID", "acme")
JSON = ("Content-Type", "application/json")
SLOW_S = 8  # far beyond what weir needs, and far below what it would wait


def limited(up, limits, *, agent=None, **more):
    return base_config(up.port, agent=agent, limits=limits, route={"limits": list(limits), **more})


def window(limit, **more):
    return {"algorithm": "sliding_window", "limit": limit, "window": "1h", **more}


def tokens(burst=1000, **more):
    return {"unit": "llm_tokens", "rate": "1/h", "burst": burst, **more}


def slots(limit, **more):
    return {"algorithm": "concurrency", "limit": limit, **more}


def asking(size=0, **more):
    return json.dumps({"model": "gpt-5", "pad": "x" * size, **more}).encode()


def head_of(length, *more):
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", length)
    return request("POST", "/", [ACME, JSON, framing, *more])


def kept():
    """An upstream's handler that keeps requests until the event is set."""
    go = threading.Event()

    def handler(peer):
        assert go.wait(30)
        return reply()

    return go, handler


# ------------------------------------------------------------------------------------------------- what is reserved


@pytest.mark.parametrize("max_tokens,left", [(10, 851), (100, 401), (1 << 53, 0), (10 ** 30, 0)])
def test_a_reservation_is_weighed(start_weir, start_upstream, max_tokens, left):
    """As the settlement will be: of 1001, 400 bytes are a hundred tokens, and output counts five times."""
    go, handler = kept()
    up = start_upstream(handler)
    w = start_weir(limited(up, {"tokens": tokens(1001)}, agent={"usage": {"weights": {"output": 5}}}))
    body = asking(400 - len(asking(max_tokens=max_tokens)), max_tokens=max_tokens)
    try:
        with connect(w.port) as c:
            c.send(request("POST", "/", [ACME, JSON], body))
            up.wait_heads()
            r = w.ask_admin("/explain?listener=in&path=/&tenant=acme")
            assert json.loads(r.body)["limits"][0]["remaining"] == left
    finally:
        go.set()


# ---------------------------------------------------------------------------------------------- before the body is read


def refused_at_its_head(w, *more, length=8_000_000):
    """The answer to a head whose body is never sent."""
    begin = time.monotonic()
    with connect(w.port) as c:
        c.send(head_of(length, *more))
        r = c.read_response("POST")
    assert time.monotonic() - begin < SLOW_S
    return r


@pytest.mark.parametrize("agent", [{}, {"dialect": "openai"}])
@pytest.mark.parametrize("length", [8_000_000, None])
def test_whoever_is_over_his_limit_sends_no_body(start_weir, start_upstream, agent, length):
    up = start_upstream()
    w = start_weir(limited(up, {"tokens": tokens(), "calls": window(1), "shadow": window(1, mode="shadow")}, agent=agent))
    assert post(w.port, "/", asking(), [ACME, JSON]).status == 200
    w.wait_metric("weir_in_flight", 0)
    r = refused_at_its_head(w, length=length)
    limit_refusal(r)
    error(r, 429, "limit", agent.get("dialect", "plain"))
    assert b"This request of tenant acme is refused by limit calls" in r.body
    [(name, state)] = parse_limit_field(r.header("RateLimit"))
    assert (name, state["r"]) == ("calls", 0)
    w.wait_metric("weir_limit_decisions_total", 1, limit="calls", decision="refused")
    assert w.metric("weir_limit_decisions_total", limit="tokens", decision="refused") == 0
    assert w.wait_log(status=429)["limit"] == "calls"
    assert up.heads == 1


def test_no_slot_without_a_queue_no_body(start_weir, start_upstream):
    go, handler = kept()
    up = start_upstream(handler)
    w = start_weir(limited(up, {"slots": slots(1), "tokens": tokens()}))
    try:
        with connect(w.port) as c:
            c.send(request("GET", "/", [ACME]))
            up.wait_heads()
            limit_refusal(refused_at_its_head(w))
    finally:
        go.set()


def test_no_slot_is_held_while_a_body_trickles_in(start_weir, start_upstream):
    """Where a model answers, its body is read before the limit is asked."""
    up = start_upstream()
    w = start_weir(limited(up, {"slots": slots(1)}, agent={"dialect": "openai"}))
    body = asking(100)
    with connect(w.port) as c:
        c.send(head_of(len(body)) + body[:50])
        w.wait_metric("weir_in_flight", 1)
        assert [post(w.port, "/", asking(), [ACME, JSON]).status for _ in range(3)] == [200] * 3
        c.send(body[50:])
        assert c.read_response("POST").status == 200


# ------------------------------------------------------------------------------------------------------ bytes of requests


def test_a_body_without_a_length_is_decided_by_its_size(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, {"bytes": window(1000, unit="request_bytes")}))

    def upload(size):
        with connect(w.port) as c:
            c.send(head_of(None) + chunk(b"x" * size) + LAST_CHUNK)
            return c.read_response("POST")

    assert limit_refusal(upload(1001))[0] == 3600
    assert up.heads == 0, "it was passed on before anybody knew how much it is"
    assert upload(600).status == 200
    limit_refusal(upload(401))
    assert upload(400).status == 200
    limit_refusal(upload(1))
    assert [len(q.body) for q in up.requests] == [600, 400]


# ------------------------------------------------------------------------------------------------------------------ queues


@pytest.mark.parametrize("where", ["route", "upstream"])
def test_waiting_ends_with_the_routes_timeout(start_weir, start_upstream, where):
    go, handler = kept()
    up = start_upstream(handler)
    config = limited(up, {"slots": slots(1, scope="local", queue={"size": 9, "wait": "25s"})})
    if where == "route":
        config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["slots"]}), ("/short", {"limits": ["slots"], "timeout": "300ms"}))
    else:
        config["upstreams"]["brief"] = {"url": up.url, "timeouts": {"total": "300ms", "first_byte": "300ms", "idle": "300ms"}}
        config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["slots"]}), ("/short", {"limits": ["slots"], "upstream": "brief"}))
    w = start_weir(config)
    try:
        with connect(w.port) as c:
            c.send(request("GET", "/", [ACME]))
            up.wait_heads()
            begin = time.monotonic()
            r = get(w.port, "/short", [ACME])
            assert 0.29 < time.monotonic() - begin < SLOW_S
        assert (r.status, r.weir_reason, r.header("Retry-After")) == (429, "queue_timeout", "1"), r
        assert parse_limit_field(r.header("RateLimit")) == [("slots", {"r": 0})]
        w.wait_metric("weir_limit_decisions_total", 1, limit="slots", decision="refused")
    finally:
        go.set()


def test_two_routes_name_their_slots_in_two_orders(start_weir, start_upstream):
    up = start_upstream()
    queue = {"size": 100, "wait": "20s", "per_tenant": "100%"}
    config = limited(up, {"a": slots(1, scope="local", queue=queue), "b": slots(1, scope="local", queue=queue)})
    config["listeners"]["in"]["routes"] = routes(("/ab", {"limits": ["a", "b"]}), ("/ba", {"limits": ["b", "a"]}))
    w = start_weir(config)
    answers = in_parallel(16, lambda n: [get(w.port, ("/ab", "/ba")[(n + i) % 2], [ACME]).status for i in range(10)])
    assert answers == [[200] * 10] * 16


# ---------------------------------------------------------------------------------------------------------- keys and names


def test_requests_without_an_id_fill_no_table(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {"chain": window(2, key=["correlation"], max_keys=64)}))
    for _ in range(100):
        assert get(w.port, "/", [ACME]).status == 200
    assert w.metric("weir_limit_keys", limit="chain") == 0
    assert w.metric("weir_limit_overflow_total", limit="chain") == 0
    named = [ACME, ("X-Correlation-ID", "job-1")]
    assert [get(w.port, "/", named).status for _ in range(3)] == [200, 200, 429]
    for given, would in (({}, "admit"), ({"correlation": "job-1"}, "refuse"), ({"correlation": "job-2"}, "admit")):
        query = "&".join(f"{k}={v}" for k, v in {"listener": "in", "path": "/", "tenant": "acme", **given}.items())
        [one] = json.loads(w.ask_admin(f"/explain?{query}").body)["limits"]
        assert one["would"] == would


@pytest.mark.parametrize("header", ["X-Auth-Token", "Client-SECRET", "X-Session", "Ocp-Apim-Subscription-Key"])
def test_no_page_and_no_log_shows_a_secret(start_weir, start_upstream, header):
    w = start_weir(limited(start_upstream(), {"only": window(2, key=[{"header": header}])}))
    for _ in range(3):
        get(w.port, "/", [ACME, (header, "canary-77")])
    asked = w.ask_admin(f"/explain?listener=in&path=/&tenant=acme&header.{header}=canary-77").body.decode()
    status = w.ask_admin("/status").body.decode()
    [one] = json.loads(asked)["limits"]
    assert one["key"].startswith(f"header:{header.lower()}=#") and one["would"] == "refuse"
    assert one["key"] in status, "the key that is close to its limit is told under the same name"
    assert "canary-77" not in asked + status + w.stderr + w.stdout


UNREADABLE = [b"not json", b'{"model": "gpt-5"', b'{"model": "gpt-5", "x": NaN}', b'{"model": "gpt-5"} {"model": "b"}']


@pytest.mark.parametrize("body", UNREADABLE)
def test_what_cannot_be_read_is_a_model_of_its_own(start_weir, start_upstream, body):
    w = start_weir(limited(start_upstream(), {"only": window(1, key=["model"])}))
    for other in (b"{}", b'{"model": "gpt-5"}', b'{"model": "' + b"x" * 1000 + b'"}'):
        assert post(w.port, "/", other, [ACME, JSON]).status == 200
    assert post(w.port, "/", body, [ACME, JSON]).status == 200
    limit_refusal(post(w.port, "/", body, [ACME, JSON]))
    limit_refusal(post(w.port, "/", b"(neither)", [ACME, JSON]))
    assert "model=?" in w.ask_admin("/status").body.decode()


# ------------------------------------------------------------------------------------------------- what can never be


def test_a_request_that_never_fits_is_told_so(start_weir, start_upstream):
    limits = {"bytes": {"unit": "request_bytes", "rate": "10/s", "burst": 100},
              "calls": {"rate": "5/s", "burst": 100, "tenants": {"out": {"rate": "0/s"}}}}
    w = start_weir(limited(start_upstream(), limits))
    r = post(w.port, "/", b"x" * 101, [ACME])
    assert problem(r, 429, "limit")["detail"] == "This request of tenant acme needs more than limit bytes ever has"
    assert limit_refusal(r)[0] == 3600
    r = get(w.port, "/", [("X-Tenant-ID", "out")])
    assert problem(r, 429, "limit")["detail"] == "This request of tenant out needs more than limit calls ever has"
    assert post(w.port, "/", b"x" * 100, [ACME]).status == 200
    r = post(w.port, "/", b"x" * 100, [ACME])
    assert problem(r, 429, "limit")["detail"] == "This request of tenant acme is refused by limit bytes"
