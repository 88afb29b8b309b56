"""What limits count by: the model in a JSON body, the correlation id, parts of several kinds; windows that are exact; and
limits in bytes of requests."""
import contextlib
import gzip
import itertools
import json
import random
import time

import pytest

from harness import (LAST_CHUNK, NoResponse, SharedWeir, base_config, chunk, connect, exchange, get, post, request,
                     wait_until)
from support import Caller, in_parallel, limit_refusal, parse_limit_field, problem, rate_limit, routes

JSON = ("Content-Type", "application/json")
ACME = ("X-Tenant-ID", "acme")


def by(*key, limit=2, **more):
    return {"algorithm": "sliding_window", "limit": limit, "window": "1h", "key": list(key), **more}


def limited(up, limit, **more):
    return base_config(up.port, limits={"only": limit}, route={"limits": ["only"]}, **more)


def admitted(w, count, *args, **kw):
    """How many of so many POSTs get through; the others are refused by the limit."""
    through = 0
    for _ in range(count):
        r = post(w.port, *args, **kw)
        if r.status == 200:
            through += 1
        else:
            limit_refusal(r)
    return through


def asking(model, **more):
    return json.dumps({"model": model, "messages": [], **more}).encode()


# -------------------------------------------------------------------------------------------------------------------- model


BYTES = {"bucket": {"unit": "request_bytes", "rate": "1/h", "burst": 1000},
         "window": {"unit": "request_bytes", "algorithm": "sliding_window", "limit": 1000, "window": "1h"},
         "exact": {"unit": "request_bytes", "algorithm": "sliding_window", "limit": 1000, "window": "1h", "precision": "exact"}}
_tenants = itertools.count()


class View:
    """A weir that many tests use, through a tenant that nobody used before."""

    def __init__(self, w, up, target="/"):
        self.w, self.up, self.target = w, up, target
        self.tenant = ("X-Tenant-ID", f"tenant-{next(_tenants)}")

    def __getattr__(self, name):
        return getattr(self.w, name)

    def raw(self, method="POST", headers=(), body=None, **kw):
        return request(method, self.target, [self.tenant, JSON, *headers], body, **kw)

    def post(self, body, headers=()):
        return exchange(self.port, self.raw("POST", headers, body))

    def admitted(self, count, body):
        """How many of so many get through; the others are refused by the limit."""
        answers = [self.post(body) for _ in range(count)]
        for r in answers:
            assert r.status == 200 or limit_refusal(r)
        return [r.status for r in answers].count(200)


@pytest.fixture(scope="module")
def kept(shared_upstream):
    limits = {"model": by("tenant", "model"), **BYTES}
    config = base_config(shared_upstream.port, limits=limits)
    config["listeners"]["in"]["routes"] = routes(*((f"/{name}", {"limits": [name]}) for name in limits))
    with SharedWeir(config) as shared:
        yield shared


@pytest.fixture
def by_model(kept, shared_upstream):
    shared_upstream.clear()
    with kept.borrowed() as w:
        yield View(w, shared_upstream, "/model")


def test_each_model_has_its_own(by_model):
    for model in ("gpt-5", "gpt-5-mini", "GPT-5", "gpt-5 ", "modèle", "x" * 200):
        assert by_model.admitted(4, asking(model)) == 2, model


SAME = [b'{"model":"gpt-5"}', b'  {\r\n"model" \t:\n"gpt-5"\r\n}\n', b'{"model":"gpt\\u002d5"}', b'{"\\u006dodel":"gpt-5"}',
        b'{"metadata":{"model":"other"},"model":"gpt-5"}', b'{"a":[{"model":"other"}],"model":"gpt-5","b":{"model":"x"}}',
        b'{"a":"\\"model\\":\\"other\\"","model":"gpt-5"}', b'{"a":"\\\\","model":"gpt-5"}', b'{"a":1e5,"b":null,"model":"gpt-5"}',
        b'{"models":"other","mode":"other","mode l":"other","model":"gpt-5"}', b'{"a":"\xc3\xb6\xf0\x9f\x98\x80","model":"gpt-5"}']


@pytest.mark.parametrize("body", SAME)
def test_the_same_model_however_it_is_written(by_model, body):
    assert by_model.admitted(2, b'{"model": "gpt-5"}') == 2
    assert by_model.admitted(1, body) == 0
    assert by_model.admitted(1, b'{"model": "other"}') == 1


@pytest.mark.parametrize("one,two", [(b'"a\\/b"', b'"a/b"'), (b'"\\u00e9"', '"é"'.encode()),
                                     (b'"\\ud83d\\ude00"', '"😀"'.encode()),
                                     (b'"a\\nb"', b'"a\\u000ab"'), (b'"a\\"b"', b'"a\\u0022b"')])
def test_escapes_in_the_name(by_model, one, two):
    for body in (one, two):
        assert by_model.post(b'{"model": ' + body + b"}").status == 200
    assert by_model.admitted(2, b'{"model": ' + two + b"}") == 0


@pytest.mark.parametrize("body", [None, b"", b"not json", b"[]", b'["model", "gpt-5"]', b'"gpt-5"', b"{}", b'{"a": 1}',
                                  b'{"a": {"model": "gpt-5"}}', b"\xff\xfe\x00", b"{" * 5000, b"[" * 100_000,
                                  gzip.compress(b'{"model":"gpt-5"}')], ids=lambda body: (body or b"")[:20])
def test_without_a_model_all_are_one(by_model, body):
    """No body, another kind of body, and a model anywhere but in its place: none is the key of a model."""
    assert by_model.admitted(2, b'{"model": "gpt-5"}') == 2
    if body is None:
        assert [exchange(by_model.port, by_model.raw("GET")).status for _ in range(3)] == [200, 200, 429]
    else:
        assert by_model.admitted(3, body) == 2
        assert by_model.up.requests[-1].body == body


@pytest.mark.parametrize("value", [b"null", b"5", b"-1.5e3", b"true", b"{}", b'{"model": "x"}', b'["gpt-5"]', b'""', b'"\\ud800"',
                                   b'"\\u0000"', b'"' + b"x" * 100_000 + b'"'], ids=lambda value: value[:20])
def test_a_model_that_is_no_name(by_model, value):
    """Whatever it counts as: answered, bounded, and passed on as it was."""
    body = b'{"model": ' + value + b', "a": 1}'
    statuses = [by_model.post(body).status for _ in range(3)]
    assert statuses in ([200, 200, 429], [400] * 3), statuses
    assert all(q.body == body for q in by_model.up.requests)
    assert by_model.admitted(1, asking("gpt-5")) == 1


@pytest.mark.parametrize("how", ["byte by byte", "chunked", "chunks of one byte", "in the head's packet"])
def test_a_model_in_pieces(by_model, how):
    body = asking("gpt-\u00e95")

    def ask():
        with connect(by_model.port) as c:
            if how == "byte by byte":
                raw = by_model.raw("POST", [], body)
                for at in range(len(raw)):
                    c.send(raw[at:at + 1])
            elif how == "chunked":
                c.send(by_model.raw("POST", [], [body[:13], body[13:20], body[20:]], chunked=True))
            elif how == "chunks of one byte":
                c.send(by_model.raw("POST", [("Transfer-Encoding", "chunked")]))
                for at in range(len(body)):
                    c.send(chunk(body[at:at + 1]))
                c.send(LAST_CHUNK)
            else:
                c.send(by_model.raw("POST", [], body))
            return c.read_response("POST").status

    assert [ask() for _ in range(3)] == [200, 200, 429]
    assert all(q.body == body and q.complete for q in by_model.up.requests)
    assert by_model.admitted(1, asking("other")) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_megabyte_before_the_model(by_model, chunked):
    def body(model):
        return json.dumps({"messages": [{"content": 'x{"model":"no"}' * 70_000}], "model": model}).encode()

    for model, through in (("a", [200, 200, 429]), ("b", [200, 200, 429])):
        data = body(model)
        assert len(data) > 1 << 20
        pieces = [data[at:at + 30_000] for at in range(0, len(data), 30_000)] if chunked else data
        raw = by_model.raw("POST", [], pieces, chunked=chunked)
        assert [exchange(by_model.port, raw).status for _ in range(3)] == through
        assert by_model.up.requests[-1].body == data


@pytest.mark.parametrize("body", [b'{"model":"a","model":"b"}', b'{"model":"a","x":1,"model":"a"}',
                                  b'{"model":"a","\\u006dodel":"b"}',
                                  b'{"model":null,"model":"b"}', b'{"model":{"model":1},"model":"b"}'])
def test_a_body_with_model_twice_is_refused(by_model, body):
    """Two readers could take two models from it."""
    for raw in (by_model.raw("POST", [], body), by_model.raw("POST", [], [body[:3], body[3:]], chunked=True)):
        with connect(by_model.port) as c:
            c.send(raw)
            problem(c.read_response("POST"), 400, "malformed")
            assert c.wait_closed() in ("fin", "reset")
    assert by_model.up.heads == 0
    assert by_model.admitted(3, asking("a")) == 2, "what is malformed takes nothing"


def test_a_body_with_model_in_two_spellings(by_model):
    """Some readers do not mind the case of a name: it is refused, or `model` itself is what counts."""
    assert by_model.admitted(2, b'{"model": "gpt-5"}') == 2
    for body in (b'{"Model":"other","model":"gpt-5"}', b'{"model":"gpt-5","MODEL":"other"}'):
        r = by_model.post(body)
        assert (r.status, r.weir_reason) in ((400, "malformed"), (429, "limit")), r


def test_tenant_and_model(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), by("tenant", "model", limit=1)))
    for tenant, model in [("a", "b:c"), ("a:b", "c"), ("a", "b"), ("b", "a"), ("ab", "c"), ("a", "bc")]:
        assert admitted(w, 2, "/", asking(model), [JSON, ("X-Tenant-ID", tenant)]) == 1, (tenant, model)


def test_a_body_over_the_limit_is_told_so(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, by("model"), server={"max_body": "10KiB"}))
    for raw in (request("POST", "/", [JSON], b"x" * 10_241),
                request("POST", "/", [JSON], [b"x" * 5000] * 3, chunked=True)):
        with connect(w.port) as c:
            c.send(raw)
            problem(c.read_response("POST"), 413, "body_too_large")
    assert up.complete == 0
    exact = asking("a", pad="")
    exact = asking("a", pad="x" * (10_240 - len(exact)))
    assert admitted(w, 3, "/", exact, [JSON]) == 2


def test_only_routes_that_need_the_body_wait_for_it(start_weir, start_upstream):
    config = limited(start_upstream(early=True, handler=lambda p: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), by("model"))
    config["listeners"]["in"]["routes"] = routes(("/m", {"limits": ["only"]}), ("/", {}))
    w = start_weir(config)
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Content-Length", "10")]) + b"part")
        assert c.read_head().status == 200
    with connect(w.port) as c:
        c.send(request("POST", "/m", [JSON, ("Content-Length", "14")]) + b'{"model":')
        assert not c.readable(0.1)
        c.send(b'"a"} ')
        assert c.read_response("POST").status == 200


def test_requests_that_are_pipelined_have_each_their_model(by_model):
    with connect(by_model.port) as c:
        for turn in range(3):
            c.send(b"".join(by_model.raw("POST", [], asking(m)) for m in ("a", "b", "c")) + by_model.raw("GET"))
            assert [c.read_response("POST").status for _ in range(4)] == [200 if turn < 2 else 429] * 4


def test_a_caller_who_waits_to_be_asked(by_model):
    body = asking("a")
    with connect(by_model.port) as c:
        c.send(by_model.raw("POST", [("Expect", "100-continue"), ("Content-Length", str(len(body)))]))
        assert c.read_head().status == 100
        c.send(body)
        assert c.read_response("POST").status == 200
    assert by_model.up.requests[0].body == body


def test_callers_who_leave_in_their_body(by_model):
    for _ in range(20):
        with connect(by_model.port) as c:
            c.send(by_model.raw("POST", [("Content-Length", "100")]) + b'{"model":"a",')
            random.choice([c.close, c.reset, c.half_close])()
    by_model.wait_metric("weir_in_flight", 0)
    assert by_model.up.heads == 0
    assert by_model.admitted(3, asking("a")) == 2


# -------------------------------------------------------------------------------------------------------------- correlation


def test_one_correlation_id_may_cause_so_many_calls(start_weir, start_upstream):
    """The guard against an agent that runs away: whoever calls, on whatever route."""
    config = limited(start_upstream(), by("correlation", limit=3))
    config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["only"]}), ("/v1", {"limits": ["only"]}))
    w = start_weir(config)
    for name in ("task-1", "task-2"):
        statuses = [get(w.port, target, [("X-Correlation-ID", name), ("X-Tenant-ID", tenant)]).status
                    for target, tenant in (("/", "a"), ("/v1", "a"), ("/", "b"), ("/v1", "b"), ("/", "a"))]
        assert statuses == [200] * 3 + [429] * 2
    assert [get(w.port, "/", [("X-Request-ID", name)]).status for name in ("task-1", "task-3")] == [429, 200]
    assert [get(w.port).status for _ in range(6)] == [200] * 6, "a new id each"


def test_an_invalid_correlation_id_counts_as_none(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), by("correlation", limit=1)))
    for bad in ("a b", "x" * 129, ""):
        assert [get(w.port, "/", [("X-Correlation-ID", bad)]).status for _ in range(3)] == [200] * 3
    twice = [("X-Correlation-ID", "a"), ("X-Correlation-ID", "a")]
    assert [get(w.port, "/", twice).status for _ in range(3)] == [200] * 3
    assert [get(w.port, "/", [*twice, ("X-Request-ID", "b")]).status for _ in range(2)] == [200, 429]


def test_an_untrusted_peers_correlation_id_is_not_counted_by(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), by("correlation", limit=1), tenant={"trusted": []}))
    assert [get(w.port, "/", [("X-Correlation-ID", "same")]).status for _ in range(3)] == [200] * 3


def test_many_correlation_ids_are_bounded(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), by("correlation", limit=2, max_keys=64)))
    with Caller(w.port) as caller:
        for n in range(500):
            assert caller.get("/", [("X-Correlation-ID", f"c{n}")]).status in (200, 429)
    assert w.metric("weir_limit_keys", limit="only") <= 129
    assert w.metric("weir_limit_overflow_total", limit="only") > 0


# ------------------------------------------------------------------------------------------------------------ other parts


@pytest.mark.parametrize("key,same,other", [
    (["route"], ("/a/1", [], None), ("/b", [], None)),
    ([{"header": "X-Plan"}], ("/a", [("x-plan", "pro")], None), ("/a", [("X-Plan", "free")], None)),
    (["client_ip"], ("/a", [], None), ("/a", [], "127.0.0.9")),
    (["route", "client_ip", {"header": "X-Plan"}, "tenant", "model", "correlation"],
     ("/a", [("X-Plan", "p"), ("X-Correlation-ID", "c")], None), ("/a", [("X-Plan", "p"), ("X-Correlation-ID", "d")], None)),
])
@pytest.mark.parametrize("kind", ["bucket", "exact", "bytes"])
def test_every_part_with_every_kind(start_weir, start_upstream, key, same, other, kind):
    limit = {"bucket": {"rate": "1/h", "burst": 2, "key": key}, "exact": by(*key, precision="exact"),
             "bytes": by(*key, limit=14, unit="request_bytes")}[kind]
    config = limited(start_upstream(), limit)
    config["listeners"]["in"]["routes"] = routes(("/a", {"limits": ["only"]}), ("/b", {"limits": ["only"]}))
    w = start_weir(config)

    def ask(target, headers, source):
        with connect(w.port, source=(source, 0) if source else None) as c:
            c.send(request("POST", target, headers, b"7 bytes"))
            return c.read_response("POST").status

    assert [ask(*same) for _ in range(3)] == [200, 200, 429]
    assert [ask(*other) for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("kind", ["exact", "bytes", "tokens"])
def test_the_empty_key_is_one_for_all(start_weir, start_upstream, kind):
    limit = {"exact": by(precision="exact"), "bytes": by(limit=14, unit="request_bytes"),
             "tokens": by(limit=2, unit="llm_tokens")}[kind]
    up = start_upstream(lambda p: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    w = start_weir(limited(up, limit, agent={"usage": {"estimate": 7}}))
    statuses = []
    for n in range(3):
        statuses.append(post(w.port, "/", b"7 bytes", [("X-Tenant-ID", f"t{n}")]).status)
        w.wait_metric("weir_in_flight", 0)
    assert statuses == [200, 200, 429]


def test_a_header_twice(start_weir, start_upstream):
    """Never a way to a key of its own for each order or count of values that is answered with another one's quota."""
    w = start_weir(limited(start_upstream(), by({"header": "X-Plan"}, limit=1)))
    for _ in range(2):
        statuses = [get(w.port, "/", [("X-Plan", "a"), ("X-Plan", "b")]).status for _ in range(2)]
    assert 429 in statuses or 400 in statuses


# ------------------------------------------------------------------------------------------------------------ exact windows


def exact(limit, window="1h", **more):
    return {"algorithm": "sliding_window", "precision": "exact", "limit": limit, "window": window, **more}


def test_an_exact_window_counts_down(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), exact(5)))
    with Caller(w.port) as caller:
        seen = [caller.get() for _ in range(8)]
    assert [r.status for r in seen] == [200] * 5 + [429] * 3
    assert [rate_limit(r)["only"]["r"] for r in seen] == [4, 3, 2, 1, 0, 0, 0, 0]
    assert rate_limit(seen[0])["only"]["q"] == 5 and rate_limit(seen[0])["only"]["w"] == 3600
    for r in seen[5:]:
        assert 3590 <= limit_refusal(r)[0] <= 3600, "exactly when the oldest leaves, not a slot later"


def test_an_exact_window_against_the_exact_model(start_weir, start_upstream):
    """Never one over; and each refused one had `limit` others before it in its window. What is known of a decision is that
    it fell between sending and answer."""
    sizes = [(1, 0.3, 0.1), (3, 0.5, 0.12), (8, 0.4, 0.04)]
    config = base_config(start_upstream().port, limits={f"of-{n}": exact(n, f"{int(w * 1000)}ms") for n, w, _ in sizes})
    config["listeners"]["in"]["routes"] = routes(*((f"/{n}", {"limits": [f"of-{n}"]}) for n, _, _ in sizes))
    w = start_weir(config)

    def work(number):
        limit, window, pause = sizes[number]
        dice, passed = random.Random(limit), []
        with Caller(w.port) as caller:
            for _ in range(120):
                before = time.monotonic()
                if passed and before - passed[0][0] > 2.5:
                    break
                r = caller.get(f"/{limit}")
                after = time.monotonic()
                if r.status == 200:
                    passed.append((before, after))
                else:
                    _, millis = limit_refusal(r)
                    inside = [p for p in passed if p[1] > before - window]
                    assert len(inside) >= limit, "refused without cause"
                    assert millis <= (inside[-limit][1] - before + window) * 1000 + 2, "a longer wait than the model's"
                time.sleep(dice.random() * pause)
        assert len(passed) > 2 * limit
        for i in range(len(passed) - limit):
            assert passed[i + limit][1] - passed[i][0] > window, "one over"

    in_parallel(len(sizes), work)


def test_a_retry_when_an_exact_window_says(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), exact(2, "700ms")))
    with Caller(w.port) as caller:
        for _ in range(2):
            while (r := caller.get()).status == 200:
                pass
            time.sleep(limit_refusal(r)[1] / 1000)
            assert caller.get().status == 200


def test_an_exact_window_under_sixteen_callers(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), exact(53), server={"workers": 4}))

    def work(number):
        with Caller(w.port) as caller:
            return [caller.get("/", [("X-Tenant-ID", "ab"[n % 2])]).status for n in range(20)]

    statuses = sum(in_parallel(16, work), [])
    assert statuses.count(200) == 2 * 53


def test_an_exact_windows_tenants_and_reloads(start_weir, start_upstream):
    config = limited(start_upstream(), exact(4, tenants={"acme": {"limit": 6}}))
    w = start_weir(config)
    assert admitted(w, 9, headers=[ACME]) == 6 and admitted(w, 3) == 3
    config["limits"]["only"].update(limit=5, tenants={"acme": {"limit": 5}})
    w.reload(config)
    assert admitted(w, 9, headers=[ACME]) == 0 and admitted(w, 9) == 2
    config["limits"]["only"].update(limit=2)
    w.reload(config)
    assert admitted(w, 3) == 0


@pytest.mark.parametrize("cost", [1, 7])
def test_an_exact_window_of_many(start_weir, start_upstream, cost):
    """A large limit and its log: all of it can be used, and not one more."""
    limit = exact(1000 * cost, unit="request_bytes") if cost > 1 else exact(1000)
    w = start_weir(limited(start_upstream(), limit))
    with Caller(w.port) as caller:
        statuses = [caller.ask(request("POST", "/", body=b"x" * cost)).status for _ in range(1010)]
    assert statuses == [200] * 1000 + [429] * 10


def test_slots_and_exact_are_two_words(start_weir, start_upstream):
    """With slots, too, never one over; only forgetting may be late."""
    for precision in ("slots", "exact"):
        w = start_weir(limited(start_upstream(), {**exact(3), "precision": precision}))
        assert admitted(w, 6) == 3


# ------------------------------------------------------------------------------------------------------------------- bytes


@pytest.fixture(params=BYTES)
def by_bytes(kept, shared_upstream, request):
    shared_upstream.clear()
    with kept.borrowed() as w:
        yield View(w, shared_upstream, f"/{request.param}")


def upload(w, size, headers=()):
    return exchange(w.port, raw_of(w)("POST", headers, b"x" * size))


def raw_of(w):
    return w.raw if isinstance(w, View) else lambda method, *args: request(method, "/", *args)


def upload_in_chunks(w, size, pause=0):
    """No length says how many bytes it will be."""
    with connect(w.port) as c:
        c.send(raw_of(w)("POST", [("Transfer-Encoding", "chunked")]))
        c.readable(pause)
        for at in range(0, size, 100):
            c.send(chunk(b"x" * min(100, size - at)))
        c.send(LAST_CHUNK)
        r = c.read_response("POST")
    w.wait_metric("weir_in_flight", 0)
    return r


def test_bytes_that_are_declared(by_bytes):
    w = by_bytes
    assert [upload(w, n).status for n in (400, 400, 300, 201, 200, 1)] == [200, 200, 429, 429, 200, 429]
    r = upload(w, 1)
    limit_refusal(r)
    assert "RateLimit" not in r.headers, "only limits in requests stand there"
    assert w.up.heads == 3
    assert w.wait_log(status=429, tenant=w.tenant[1])["limit"] == w.target[1:]


def test_requests_without_a_body_cost_no_bytes(by_bytes):
    w = by_bytes
    assert upload(w, 1000).status == 200
    assert upload(w, 1).status == 429
    for _ in range(5):
        assert exchange(w.port, w.raw("GET")).status == 200
        assert upload(w, 0).status == 200
        assert exchange(w.port, w.raw("DELETE")).status == 200


def test_a_body_larger_than_the_limit_itself(by_bytes):
    """It can never fit: refused, also to one that has used nothing, and nothing is taken for it."""
    w = by_bytes
    for _ in range(3):
        r = upload(w, 1001)
        assert (r.status, r.weir_reason) == (429, "limit")
        assert int(r.header("Retry-After")) >= 1 and r.header("x-should-retry") == "false"
    assert w.up.heads == 0
    assert upload(w, 1000).status == 200


def test_chunks_sum_up_to_exactly_what_they_were(by_bytes):
    w = by_bytes
    for n in range(5):
        assert upload_in_chunks(w, 123, n * 0.01).status == 200
    left = 1000 - 5 * 123
    assert upload(w, left + 1).status == 429 and upload(w, left).status == 200
    assert upload_in_chunks(w, 1).status == upload(w, 1).status == 429
    assert exchange(w.port, w.raw("GET")).status == 200


@pytest.mark.parametrize("pause", [0, 0.03])
def test_bytes_in_chunks_are_bounded(by_bytes, pause):
    """Known before they are let through, or a debt afterwards: at most one body is over the limit."""
    w = by_bytes
    statuses = [upload_in_chunks(w, 300, pause).status for _ in range(8)]
    assert set(statuses) == {200, 429} and 3 <= statuses.count(200) <= 4
    assert statuses == sorted(statuses) and sum(len(q.body) for q in w.up.requests) <= 1200


def test_each_tenant_has_its_own_bytes(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {**BYTES["bucket"], "tenants": {"big": {"burst": 5000}}}))
    assert [upload(w, 800, headers=[("X-Tenant-ID", t)]).status for t in ("a", "b", "big", "big", "a")] == [200] * 4 + [429]


def test_bytes_beside_requests(start_weir, start_upstream):
    """All or nothing."""
    config = limited(start_upstream(), BYTES["bucket"])
    config["limits"]["calls"] = {"rate": "1/h", "burst": 4}
    config["listeners"]["in"]["routes"][0]["limits"] = ["calls", "only"]
    w = start_weir(config)
    assert upload(w, 900).status == 200
    for _ in range(10):
        r = upload(w, 101)
        limit_refusal(r)
    [(name, state)] = parse_limit_field(r.header("RateLimit"))
    assert name == "calls" and state["r"] == 3
    assert [upload(w, 1).status for _ in range(3)] == [200] * 3
    limit_refusal(upload(w, 1))
    assert [upload(w, 0).status, get(w.port).status] == [429] * 2


def test_a_length_no_counter_holds(by_bytes):
    """Larger than max_body, than the limit, than 2^63: an answer, and nothing is charged."""
    w = by_bytes
    for length in ("2000", str(1 << 40), str((1 << 63) - 1)):
        with connect(w.port) as c, contextlib.suppress(NoResponse):
            c.send(w.raw("POST", [("Content-Length", length)]))
            assert c.read_response("POST").status in (413, 429)
    assert upload(w, 1000).status == 200


def test_sixteen_callers_share_bytes(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(limited(up, {**BYTES["window"], "limit": 10_000}, server={"workers": 4}))

    def work(number):
        dice, sent = random.Random(number), 0
        for _ in range(10):
            size = dice.randrange(1, 300)
            if upload(w, size).status == 200:
                sent += size
        return sent

    in_all = sum(in_parallel(16, work))
    assert 9700 < in_all <= 10_000 and in_all == sum(len(q.body) for q in up.requests)
    left = 10_000 - in_all
    if left:
        assert upload(w, left).status == 200
    assert upload(w, 1).status == 429


def test_rate_zero_refuses_all(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), {**BYTES["bucket"], "tenants": {"acme": {"rate": "0/s"}}}))
    for size in (0, 1):
        r = upload(w, size, headers=[ACME])
        assert limit_refusal(r)[0] == 3600
    wait_until(lambda: upload(w, 10).status == 200)
