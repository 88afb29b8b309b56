"""Who asks: the correlation id, the trace, the tenant - and whose word is taken for them."""
import hashlib
import time

import pytest

from harness import base_config, connect, exchange, free_port, get, reply, request, wait_until, weir
from support import TRACEPARENT, Caller, in_parallel, problem, routes, uuid7_ms

ID, ALSO, TENANT = "X-Correlation-ID", "X-Request-ID", "X-Tenant-ID"
KEY, KEY2 = "canary-key-acme-71", "canary-key-globex-72"
SHA, SHA2 = (hashlib.sha256(k.encode()).hexdigest() for k in (KEY, KEY2))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KEYED = {"from": [{"api_key": "Authorization"}, {"api_key": "x-api-key"}], "api_keys": {SHA: "acme", SHA2: "globex"}}
UNTRUSTED = {"trusted": ["10.0.0.0/8"]}


@pytest.fixture(scope="module")
def plain(shared_upstream):
    """A weir with nothing set, and its upstream, for all the tests that only ask."""
    with weir(base_config(shared_upstream.port)) as w:
        yield w, shared_upstream


@pytest.fixture(scope="module")
def keyed(shared_upstream):
    with weir(base_config(shared_upstream.port, tenant=KEYED)) as w:
        yield w, shared_upstream


def call(w, up, headers=(), target="/"):
    """One GET: the answer, and the request as the upstream got it."""
    before = len(up.requests)
    r = get(w.port, target, headers)
    assert r.status == 200 and len(up.requests) == before + 1, r
    return r, up.requests[-1]


def refused(w, up, headers, status, reason):
    before = up.heads
    problem(get(w.port, "/", headers), status, reason)
    assert up.heads == before


def logged(w, r):
    return w.wait_log(correlation_id=r.header(ID))


def one_named(r, seen, names=(ID, ALSO)):
    """The id that the upstream got under every name, exactly once each, and the caller under the first."""
    values = {seen.header(name) for name in names} | {r.header(names[0])}
    assert len(values) == 1 and None not in values, (r, seen)
    return values.pop()


# ----------------------------------------------------------------------------------------------------- correlation ids


@pytest.mark.parametrize("given", ["a", "0", "a" * 128, "AZaz09._:/+=@-", "urn:uuid/1+2=3@x.y_z-"])
def test_a_valid_id_is_kept(plain, given):
    w, up = plain
    assert one_named(*call(w, up, [(ID, given)])) == given
    assert w.wait_log(correlation_id=given)


@pytest.mark.parametrize("given", ["", "a" * 129, "a" * 10_000, "a b", "a%0d%0aX-Evil: 1", "a\x80b", "a\"b", "a,b",
                                   "<b>", "a\tb", "{id}", "a;b", "a\\b", "a~b", "\u00e9"])
def test_an_invalid_id_is_replaced(plain, given):
    w, up = plain
    uuid7_ms(one_named(*call(w, up, [(ID, given)])))


def test_the_first_valid_name_wins(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, correlation={"header": "X-A", "also": ["X-B", "X-C"]}))
    for headers, wanted in [
        ([("X-A", "a"), ("X-B", "b"), ("X-C", "c")], "a"),
        ([("X-C", "c"), ("X-B", "b"), ("X-A", "a")], "a"),
        ([("X-B", "b"), ("X-C", "c")], "b"),
        ([("X-C", "c")], "c"),
        ([("x-c", "c"), ("x-b", "not valid")], "c"),
        ([("X-A", "a"), ("X-A", "a"), ("X-B", "b")], "b"),
        ([("X-A", "a"), ("X-A", "other"), ("X-B", "b"), ("X-B", "b"), ("X-C", "c")], "c"),
    ]:
        assert one_named(*call(w, up, headers), names=("X-A", "X-B", "X-C")) == wanted, headers


@pytest.mark.parametrize("headers", [[], [(ID, "a"), (ID, "a")], [(ID, "a"), (ID, "b"), (ALSO, "")],
                                     [("X-Other", "a")]])
def test_without_a_valid_name_there_is_a_new_one(plain, headers):
    w, up = plain
    uuid7_ms(one_named(*call(w, up, headers)))


def test_accept_false_always_makes_a_new_one(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, correlation={"accept": False}))
    uuid7_ms(one_named(*call(w, up, [(ID, "mine"), (ALSO, "mine")])))


def test_new_ids_are_ordered_in_time(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    begin = time.time() * 1000
    with Caller(w.port) as caller:
        ids = [caller.get().header(ID) for _ in range(100)]
    end = time.time() * 1000
    times = [uuid7_ms(i) for i in ids]
    assert times == sorted(times)
    assert begin - 2 <= times[0] and times[-1] <= end + 2
    assert len(set(ids)) == 100


def test_new_ids_are_unique_over_workers(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, server={"workers": 4}))

    def work(_):
        with Caller(w.port) as caller:
            return [caller.get().header(ID) for _ in range(50)]

    ids = [i for some in in_parallel(8, work) for i in some]
    assert len(set(ids)) == len(ids) == 400
    tails = {i[19:] for i in ids}
    assert len(tails) == 400, "what follows the time is not random"


def test_the_upstreams_own_id_is_replaced(start_weir, start_upstream):
    up = start_upstream(script=[reply(200, b"ok", [(ID, "theirs"), ("x-correlation-id", "again"),
                                                   (ALSO, "their-request")])])
    r, _ = call(start_weir(base_config(up.port)), up, [(ID, "mine")])
    assert r.headers.all(ID) == ["mine"]
    assert r.headers.all(ALSO) == ["their-request"], "`also` names of the answer are left as they are"


def test_answers_without_a_body_are_named_too(start_weir, start_upstream):
    up = start_upstream(scripts=[[reply(204, b"")], [reply(304, b"", length=False)],
                                 [reply(200, b"", [("X-Head", "1")])]])
    w = start_weir(base_config(up.port))
    for method, status in (("GET", 204), ("GET", 304), ("HEAD", 200)):
        r = exchange(w.port, request(method, "/", [(ID, "n-" + method)]))
        assert (r.status, r.header(ID)) == (status, "n-" + method)


def test_every_error_of_weir_carries_the_id(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port, limits={"shut": {"rate": "0/s"}}, server={"max_body": "1KiB"})
    config["upstreams"]["dead"] = {"url": "unix:///nonexistent/agent.sock"}
    config["listeners"]["in"]["routes"] = routes(("/ok", {"methods": ["GET"]}), ("/shut", {"limits": ["shut"]}),
                                                 ("/dead", {"upstream": "dead"}), ("/open", {}))
    w = start_weir(config)
    for n, (method, target, more, body, status, reason) in enumerate([
        ("GET", "/none", [], None, 404, "no_route"), ("POST", "/ok", [], b"", 405, "method"),
        ("GET", "/shut", [], None, 429, "limit"), ("GET", "/dead", [], None, 502, "connect_failed"),
        ("GET", "/ok", [(TENANT, "a b")], None, 400, "tenant_invalid"),
        ("POST", "/open", [], b"x" * 2000, 413, "body_too_large"),
    ]):
        r = exchange(w.port, request(method, target, [(ID, f"e-{n}"), *more], body))
        assert r.header(ID) == f"e-{n}"
        problem(r, status, reason, request_id=f"e-{n}")
    assert up.heads == 0


def test_an_error_before_the_head_was_read_is_named_as_well(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    r = exchange(w.port, b"GET / HTTP/1.1\r\nHost: a\r\nBad Field: 1\r\n\r\n", method="GET")
    uuid7_ms(problem(r, 400, "malformed")["request_id"])


@pytest.mark.parametrize("forward", [["correlation", "traceparent", "tenant"], ["correlation"], ["traceparent"],
                                     ["tenant"], []])
def test_forward_says_what_goes_up(start_weir, start_upstream, forward):
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"forward": forward}))
    r, seen = call(w, up, [(ID, "mine"), (ALSO, "mine-too"), ("traceparent", TRACE), ("tracestate", "a=1"),
                           (TENANT, "acme")])
    assert r.header(ID) == "mine", "the caller is told in any case"
    for names, values, word in (((ID, ALSO), ["mine", "mine"], "correlation"), ((TENANT,), ["acme"], "tenant"),
                                (("traceparent", "tracestate"), [TRACE, "a=1"], "traceparent")):
        assert [seen.header(n) for n in names] == (values if word in forward else [None] * len(names)), word


# ------------------------------------------------------------------------------------------------------- trace context


@pytest.mark.parametrize("given", [
    TRACE, TRACE[:-2] + "00", TRACE[:-2] + "ff", "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    "cc" + TRACE[2:], "cc" + TRACE[2:] + "-what-the-future-will-be-like", "01" + TRACE[2:] + "-",
])
def test_a_valid_traceparent_is_passed_on(plain, given):
    """Versions to come are read as far as version 00 goes, and passed on as they are (Trace Context, 3.2.4)."""
    state = "rojo=00f067aa0ba902b7,congo=t61"
    _, seen = call(*plain, [("traceparent", given), ("tracestate", state)])
    assert seen.headers.all("traceparent") == [given]
    assert seen.headers.all("tracestate") == [state]


def test_several_tracestates_stay_in_order(plain):
    _, seen = call(*plain, [("traceparent", TRACE), ("tracestate", "a=1"),
                                                          ("tracestate", "b=2")])
    assert ",".join(seen.headers.all("tracestate")).replace(" ", "") == "a=1,b=2"


@pytest.mark.parametrize("given", [
    "", "x", TRACE.upper(), TRACE[:-1], TRACE + "0", TRACE + "-00", "ff" + TRACE[2:], "0" + TRACE, TRACE[1:],
    "0g" + TRACE[2:], f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", TRACE.replace("-", "_"),
    TRACE[:-2] + "0x",
    f"00-{'a' * 31}-{'b' * 16}-01", "cc" + TRACE[2:] + "x", TRACE + "," + TRACE,
])
def test_a_malformed_traceparent_is_replaced(plain, given):
    _, seen = call(*plain, [("traceparent", given), ("tracestate", "a=1")])
    assert TRACEPARENT.fullmatch(seen.header("traceparent")), seen
    assert seen.header("traceparent")[3:35] != TRACE[3:35]
    assert "tracestate" not in seen.headers


def test_traceparent_twice_is_replaced(plain):
    _, seen = call(*plain, [("traceparent", TRACE), ("traceparent", TRACE),
                                                          ("tracestate", "a=1")])
    assert TRACEPARENT.fullmatch(seen.header("traceparent")) and seen.header("traceparent") != TRACE
    assert "tracestate" not in seen.headers


def test_without_a_traceparent_there_is_a_new_one_each_time(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    found = set()
    for headers in ([], [], [("tracestate", "a=1")]):
        _, seen = call(w, up, headers)
        m = TRACEPARENT.fullmatch(seen.header("traceparent"))
        assert m and "tracestate" not in seen.headers
        assert w.wait_log(trace_id=m.group(1))
        found |= set(m.groups()[:2])
    assert len(found) == 6


def test_the_log_has_the_callers_trace(plain):
    r, _ = call(*plain, [("traceparent", TRACE)])
    assert logged(plain[0], r)["trace_id"] == TRACE[3:35]


def test_traceparent_false_makes_none(start_weir, start_upstream):
    up = start_upstream()
    _, seen = call(start_weir(base_config(up.port, correlation={"traceparent": False})), up)
    assert "traceparent" not in seen.headers


# ----------------------------------------------------------------------------------------------------- untrusted peers

ALL = [(ID, "mine"), (ALSO, "mine-too"), ("traceparent", TRACE), ("tracestate", "a=1"), (TENANT, "acme")]


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"], ["::1/128"], ["127.0.0.2/32"]])
def test_an_untrusted_peer_is_not_believed(start_weir, start_upstream, trusted):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"trusted": trusted}))
    for _ in range(20):
        r, seen = call(w, up, ALL)
        uuid7_ms(one_named(r, seen))
        assert TRACEPARENT.fullmatch(seen.header("traceparent")) and seen.header("traceparent")[3:35] != TRACE[3:35]
        assert "tracestate" not in seen.headers and TENANT not in seen.headers
    assert w.wait_log(status=200)["tenant"] == "anonymous"
    warnings = wait_until(lambda: [l for l in w.stderr.splitlines() if "tenant.trusted" in l], "the warning")
    assert len(warnings) == 1, "one warning, not one a request"


def test_no_warning_where_nothing_was_dropped(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"trusted": []}))
    call(w, up, [("X-Other", "1")])
    w.wait_log(status=200)
    assert "tenant.trusted" not in w.stderr


def test_trust_is_by_the_peers_address(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"trusted": ["127.0.0.2/32"]}))
    for source, believed in (("127.0.0.1", False), ("127.0.0.2", True), ("127.0.0.3", False)):
        with connect(w.port, source=(source, 0)) as c:
            c.send(request("GET", "/", [*ALL, ("X-Forwarded-For", "127.0.0.2")]))
            assert (c.read_response().header(ID) == "mine") is believed
        assert up.requests[-1].header(TENANT) == ("acme" if believed else None)


def test_ipv6_loopback_is_trusted_by_default(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"address": f"[::1]:{free_port('::1')}"}))
    r = get(("::1", w.port), "/", ALL)
    assert r.header(ID) == "mine" and up.requests[-1].header(TENANT) == "acme"


def test_unix_peers_are_trusted(start_weir, start_upstream, tmp_path):
    up = start_upstream()
    sock = str(tmp_path / "in.sock")
    config = base_config(up.port, tenant={"trusted": []})
    config["listeners"]["local"] = {"address": f"unix://{sock}", "routes": routes(("/", {}))}
    start_weir(config)
    r = get(sock, "/", ALL)
    assert r.header(ID) == "mine"
    assert up.requests[-1].header(TENANT) == "acme" and up.requests[-1].header("traceparent") == TRACE


def test_an_untrusted_peers_tenant_is_a_missing_one(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={**UNTRUSTED, "default": "refuse"}))
    problem(get(w.port, "/", [(TENANT, "acme")]), 401, "tenant_missing")
    assert up.heads == 0


# -------------------------------------------------------------------------------------------------------------- tenant


@pytest.mark.parametrize("name", ["a", "acme", "A.b_c:d@e/f-9", "x" * 128, "refuse"])
def test_a_tenant_by_header(plain, name):
    r, seen = call(*plain, [(TENANT, name)])
    assert seen.header(TENANT) == name
    assert logged(plain[0], r)["tenant"] == name


@pytest.mark.parametrize("headers", [
    [(TENANT, "")], [(TENANT, "x" * 129)], [(TENANT, "a b")], [(TENANT, "a,b")], [(TENANT, "\xe9")], [(TENANT, "a\tb")],
    [(TENANT, "a+b")], [(TENANT, "a=b")], [(TENANT, "%61")], [(TENANT, "a"), (TENANT, "a")],
    [(TENANT, "a"), ("x-tenant-id", "b")],
])
def test_a_bad_tenant_is_refused(plain, headers):
    refused(*plain, headers, 400, "tenant_invalid")


@pytest.mark.parametrize("default", ["anonymous", "house"])
def test_the_default_is_logged_but_not_sent(start_weir, start_upstream, default):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"default": default}))
    _, seen = call(w, up)
    assert TENANT not in seen.headers
    assert w.wait_log(status=200)["tenant"] == default


def test_default_refuse(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"default": "refuse"}))
    problem(get(w.port), 401, "tenant_missing")
    assert up.heads == 0
    assert call(w, up, [(TENANT, "acme")])[1].header(TENANT) == "acme"


def test_the_first_source_present_wins(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"from": [{"header": "X-Org"}, {"header": "X-Team"},
                                                         {"api_key": "x-api-key"}],
                                                "api_keys": {SHA: "keyed"}}))
    for headers, wanted in [([("X-Team", "t"), ("X-Org", "o")], "o"), ([("X-Team", "t")], "t"),
                            ([("x-api-key", KEY), ("X-Team", "t")], "t"), ([("x-api-key", KEY)], "keyed")]:
        _, seen = call(w, up, headers)
        assert seen.headers.all("X-Org") == [wanted], "it goes up under the first header of `from`"
    problem(get(w.port, "/", [("X-Org", ""), ("X-Team", "t")]), 400, "tenant_invalid")



@pytest.mark.parametrize("name,value,tenant", [
    ("Authorization", f"Bearer {KEY}", "acme"), ("authorization", f"bearer {KEY}", "acme"),
    ("x-api-key", KEY2, "globex"),
    ("X-API-Key", KEY, "acme"),
])
def test_a_tenant_by_key(keyed, name, value, tenant):
    r, seen = call(*keyed, [(name, value)])
    assert seen.headers.all(TENANT) == [tenant]
    assert name not in seen.headers, "the credential that named the tenant stays here"
    assert KEY not in repr(seen) and KEY2 not in repr(seen)
    assert logged(keyed[0], r)["tenant"] == tenant


@pytest.mark.parametrize("name,value", [("Authorization", "Bearer nobodys"), ("x-api-key", "nobodys"),
                                        ("x-api-key", SHA),
                                        ("x-api-key", KEY + "x"), ("x-api-key", KEY[:-1]),
                                        ("Authorization", f"Bearer {SHA}")])
def test_an_unknown_key(keyed, name, value):
    refused(*keyed, [(name, value)], 401, "api_key_unknown")


@pytest.mark.parametrize("headers", [[("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
                                     [("x-api-key", KEY), ("x-api-key", KEY2)]])
def test_a_key_twice_names_nobody(keyed, headers):
    w, up = keyed
    before = up.heads
    assert get(w.port, "/", headers).status in (400, 401)
    assert up.heads == before


def test_a_key_is_believed_from_any_peer(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={**KEYED, "trusted": []}))
    _, seen = call(w, up, [("x-api-key", KEY), (TENANT, "globex")])
    assert seen.headers.all(TENANT) == ["acme"]


def test_a_credential_that_named_nobody_is_passed_on(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={"from": [{"header": TENANT}, {"api_key": "x-api-key"}],
                                                "api_keys": {SHA: "acme"}}))
    _, seen = call(w, up, [(TENANT, "globex"), ("x-api-key", KEY), ("Authorization", "Bearer upstreams-own")])
    assert seen.headers.all(TENANT) == ["globex"]
    assert seen.header("x-api-key") == KEY and seen.header("Authorization") == "Bearer upstreams-own"


def test_a_callers_field_of_that_name_is_dropped(keyed):
    """With keys alone the tenant goes up under X-Tenant-ID: a caller must not fill that in herself."""
    w, up = keyed
    assert call(w, up, [("x-api-key", KEY), (TENANT, "evil"),
                        ("x-tenant-id", "evil2")])[1].headers.all(TENANT) == ["acme"]
    assert call(w, up, [(TENANT, "evil")])[1].headers.all(TENANT) == []


def test_a_listener_may_have_a_tenant_section_of_its_own(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port, tenant={"default": "house"})
    config["listeners"]["keyed"] = {"address": f"127.0.0.1:{free_port()}", "tenant": {**KEYED, "default": "refuse"},
                                    "routes": routes(("/", {}))}
    w = start_weir(config)
    keyed = w.ports["keyed"]
    assert get(w.port, "/", [(TENANT, "acme")]).status == 200 and up.requests[-1].header(TENANT) == "acme"
    problem(get(keyed, "/", [(TENANT, "acme")]), 401, "tenant_missing")
    assert get(keyed, "/", [("x-api-key", KEY)]).status == 200 and up.requests[-1].header(TENANT) == "acme"
    assert get(w.port, "/", [("x-api-key", KEY)]).status == 200 and TENANT not in up.requests[-1].headers


def test_keys_from_the_tenants_file(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={**KEYED, "api_keys": {SHA: "acme"}, "file": "tenants.yaml"}),
                   files={"tenants.yaml": f"api_keys:\n  {SHA2}: globex\n"})
    assert call(w, up, [("x-api-key", KEY)])[1].header(TENANT) == "acme"
    assert call(w, up, [("x-api-key", KEY2)])[1].header(TENANT) == "globex"


# ------------------------------------------------------------------------------------------------ hop by hop, trailers


def test_connection_cannot_name_away_who_asks(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    names = f"close, {TENANT}, {ID}, {ALSO}, traceparent, X-Hop"
    _, seen = call(w, up, [("Connection", names), *ALL, ("X-Hop", "1"), ("X-End", "2")])
    assert seen.header(TENANT) == "acme" and one_named(*call(w, up, ALL)) == "mine"
    assert (seen.header(ID), seen.header(ALSO), seen.header("traceparent")) == ("mine", "mine", TRACE)
    assert "X-Hop" not in seen.headers and seen.header("X-End") == "2"


def test_connection_cannot_name_away_a_key(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port, tenant={**KEYED, "default": "refuse"}))
    for name, value in (("Authorization", f"Bearer {KEY}"), ("x-api-key", KEY)):
        _, seen = call(w, up, [("Connection", name), (name, value)])
        assert seen.header(TENANT) == "acme"
    problem(get(w.port, "/", [("Connection", "x-api-key"), ("x-api-key", "nobodys")]), 401, "api_key_unknown")


def test_a_trailer_is_never_a_tenant(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    raw = request("POST", "/", [("Trailer", TENANT), ("Transfer-Encoding", "chunked")])
    r = exchange(w.port, raw + f"2\r\nhi\r\n0\r\n{TENANT}: evil\r\n{ID}: evil\r\n\r\n".encode())
    assert r.status == 200 and r.header(ID) != "evil"
    assert up.requests[0].body == b"hi"
    assert TENANT not in up.requests[0].headers and not up.requests[0].trailers
    assert w.wait_log(status=200)["tenant"] == "anonymous"


def test_names_are_the_same_in_any_case(plain):
    r, seen = call(*plain, [("x-CORRELATION-id", "mine"), ("x-TENANT-id", "acme"), ("TraceParent", TRACE)])
    assert r.header(ID) == "mine"
    assert (seen.header(ID), seen.header(TENANT), seen.header("traceparent")) == ("mine", "acme", TRACE)
