"""Nothing twice: where a key is found, what it counts within, and what a duplicate of a finished request gets - for as long as
the configuration says, and not a moment of work upstream for it. What happens while the first one runs: test_dedup_streams.py."""
import email.utils
import json
import os
import random
import re
import threading
import time

import pytest

import harness
from faults import OK, error, retrying, status
from harness import (CLOSE, RESET, Refuser, base_config, chunked_reply, connect, exchange, get, post, problem, reply,
                     request, wait_until)
from llm import FORMS, Llm, Usage
from support import Caller, Numbered, dedup_results, deduped, families, in_parallel, keyed, routes

# With a lease no longer than the window.
TWO_SECONDS = {"window": "2s", "lease": "2s"}
FRESH_KEYS = int(os.environ.get("WEIR_DEDUP_KEYS", "20000" if not harness.sanitized() else "6000"))
OWN_FIELDS = ("date", "x-correlation-id", "idempotent-replayed", "connection", "keep-alive", "content-length",
              "transfer-encoding")


def ask(w, key="k1", body=b"{}", target="/", headers=(), method="POST", **kw):
    """One request with this key (none where it is None)."""
    pairs = [*(keyed(key) if key is not None else []), *headers]
    return exchange(w.port, request(method, target, pairs, body, **kw), method)


def ran(r, n=None):
    assert r.status == 200 and "Idempotent-Replayed" not in r.headers and r.weir_reason is None and r.clean, r
    if n is not None:
        assert r.body.startswith(b"answer %d " % n), r
    return r


def replayed(r, n=None, status=200):
    assert r.status == status and r.header("Idempotent-Replayed") == "true" and r.weir_reason is None and r.clean, r
    if n is not None:
        assert r.body.startswith(b"answer %d " % n), r
    return r


def duplicate(r):
    return problem(r, 409, "duplicate")


def seen_fields(r):
    """The fields of an answer that are the upstream's."""
    return [(n.lower(), v) for n, v in r.headers if n.lower() not in OWN_FIELDS]


@pytest.fixture
def once(start_upstream, start_weir):
    """once(dedup fields, handler=..., ...) -> (w, up): a weir with that dedup before an upstream that numbers its answers."""
    def make(dedup=None, handler=None, **more):
        up = start_upstream(handler or Numbered())
        return start_weir(deduped(up, dedup, **more)), up

    return make


# ---------------------------------------------------------------------------------------------------- keys: a header


@pytest.mark.parametrize("first, second", [
    ("abc", "abc"), ("abc", '"abc"'), ('"abc"', "abc"), ('"abc"', '"abc"'), ("  abc\t", '\t"abc"  '),
    ("a b", '"a b"'), ('a"b', '"a\\"b"'), ("a\\b", '"a\\\\b"'), ("8e03978e-40d5-43dd-bc93-6894a57f9324",) * 2,
    ("a,b", '"a,b"'), ("k;p=1", '"k;p=1"')])
def test_the_same_key(once, first, second):
    w, up = once()
    ran(ask(w, first), 1)
    replayed(ask(w, second), 1)
    assert up.heads == 1
    assert dedup_results(w) == {"first": 1, "replayed": 1}


@pytest.mark.parametrize("first, second", [("abc", "ABC"), ("abc", "abcd"), ("a b", "ab"), ("abc", "'abc'"), ("a", "a%20"),
                                           ("1", "01"), ("x" * 255, "x" * 254), ("\xe9", "\xe8")])
def test_two_keys(once, first, second):
    w, up = once()
    ran(ask(w, first), 1)
    ran(ask(w, second), 2)


def test_the_names_of_headers_have_no_case(once):
    w, up = once()
    ran(ask(w, None, headers=[("idempotency-key", "a")]), 1)
    replayed(ask(w, None, headers=[("IDEMPOTENCY-KEY", "a")]), 1)


@pytest.mark.parametrize("headers", [
    [("Idempotency-Key", "")], [("Idempotency-Key", '""')], [("Idempotency-Key", " \t ")],
    keyed("a") * 2, [*keyed("a"), *keyed("b")], [*keyed("a"), ("idempotency-KEY", '"a"')],
    keyed("x" * 256), keyed('"' + "x" * 256 + '"'), keyed("x" * 8000), keyed("a\tb"), keyed('"a\tb"')])
def test_a_bad_key_is_refused(once, headers):
    w, up = once()
    problem(ask(w, None, headers=headers), 400, "key_invalid")
    assert up.heads == 0
    ran(ask(w, "good"), 1)
    assert w.wait_log(status=400)["reason"] == "key_invalid"


def test_a_bad_key_leaves_the_connection_usable(once):
    """Unlike what is malformed: the request was read well."""
    w, up = once()
    with connect(w.port) as c:
        c.send(request("POST", "/", keyed(""), b"body"))
        r = c.read_response("POST")
        problem(r, 400, "key_invalid")
        if (r.header("Connection") or "").lower() != "close":
            c.send(request("POST", "/", keyed("a"), b"body"))
            ran(c.read_response("POST"), 1)


@pytest.mark.parametrize("bad", ["a\x01b", "a\x7fb", "a\x1fb"])
def test_control_bytes_in_a_key(once, bad):
    w, up = once()
    r = ask(w, bad)
    assert r.status == 400 and r.weir_reason in ("key_invalid", "malformed"), r
    assert up.heads == 0


@pytest.mark.parametrize("good", ["x", "x" * 255, '"' + "x" * 255 + '"', '"' + '\\"' * 255 + '"', "\x80\xff", "{}", "a=b;c"])
def test_keys_up_to_the_bound(once, good):
    w, up = once()
    ran(ask(w, good), 1)
    replayed(ask(w, good), 1)


def test_without_a_key_everything_runs(once):
    w, up = once()
    for n in (1, 2, 3):
        ran(ask(w, None), n)
    assert dedup_results(w) == {}
    assert "dedup" not in w.wait_log(count=3) or w.wait_log(count=3)["dedup"] is None


def test_a_key_can_be_required(once):
    w, up = once({"required": True})
    problem(ask(w, None), 400, "key_missing")
    assert up.heads == 0 and w.wait_log(status=400)["reason"] == "key_missing"
    ran(ask(w, "a"), 1)
    ran(get(w.port), 2)                              # not one of its methods


def test_the_key_goes_up_as_it_came(once):
    w, up = once()
    ask(w, '"a b"')
    assert up.requests[0].headers.all("Idempotency-Key") == ['"a b"']


def test_connection_cannot_drop_the_key(once):
    w, up = once()
    drop = [("Connection", "Idempotency-Key")]
    ran(ask(w, "a", headers=drop), 1)
    assert up.requests[0].header("Idempotency-Key") == "a"
    replayed(ask(w, "a", headers=drop), 1)
    assert up.heads == 1


def test_another_header_by_configuration(once):
    w, up = once({"key": [{"header": "X-Job"}]})
    ran(ask(w, "same", headers=[("X-Job", "1")]), 1)
    replayed(ask(w, "other", headers=[("X-Job", "1")]), 1)
    ran(ask(w, "same"), 2)
    ran(ask(w, "same"), 3)


def test_the_first_that_is_present_wins(once):
    w, up = once({"key": [{"header": "A"}, {"header": "B"}]})
    ran(ask(w, None, headers=[("A", "1"), ("B", "2")]), 1)
    ran(ask(w, None, headers=[("B", "2")]), 2)
    replayed(ask(w, None, headers=[("A", "1"), ("B", "3")]), 1)
    replayed(ask(w, None, headers=[("B", "2")]), 2)
    problem(ask(w, None, headers=[("A", ""), ("B", "2")]), 400, "key_invalid")


# ------------------------------------------------------------------------------------------------- keys: CloudEvents


def binary(event_id, source="/orders", *more):
    return [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-id", event_id), ("ce-source", source),
            ("Content-Type", "application/json"), *more]


def structured(event_id="1", source="/orders", **more):
    return json.dumps({"specversion": "1.0", "type": "t", "id": event_id, "source": source, **more}).encode()


STRUCTURED = [("Content-Type", "application/cloudevents+json; charset=utf-8")]


def test_binary_events(once):
    w, up = once()
    ran(ask(w, None, headers=binary("1")), 1)
    replayed(ask(w, None, headers=binary("1")), 1)
    ran(ask(w, None, headers=binary("2")), 2)
    ran(ask(w, None, headers=binary("1", "/other")), 3)


def test_structured_events(once):
    w, up = once()
    ran(ask(w, None, structured("1"), headers=STRUCTURED), 1)
    replayed(ask(w, None, structured("1"), headers=STRUCTURED), 1)
    ran(ask(w, None, structured("2"), headers=STRUCTURED), 2)
    ran(ask(w, None, structured("1", "/other"), headers=STRUCTURED), 3)


@pytest.mark.parametrize("kind", ["application/cloudevents+json", "Application/CloudEvents+JSON; Charset=UTF-8",
                                  "application/cloudevents+json;charset=utf-8"])
def test_how_a_structured_event_is_told(once, kind):
    w, up = once()
    ran(ask(w, None, headers=binary("1")), 1)
    replayed(ask(w, None, structured("1"), headers=[("Content-Type", kind)]), 1)


@pytest.mark.parametrize("event_id, source, in_binary", [
    ("1", "/orders", ("1", "/orders")), ("a b", "/x y", ("a%20b", "/x%20y")), ("a b", "/x", ("a b", "/x")),
    ("\u00e9\u20ac", "urn:\U0001f600", ("%C3%A9%E2%82%AC", "urn:%F0%9F%98%80")),
    ("50%", "/", ("50%25", "/")), ('say "x"', "/", ("say%20%22x%22", "/"))])
def test_both_forms_are_one_event(once, event_id, source, in_binary):
    w, up = once()
    ran(ask(w, None, b'{"n": 1}', headers=binary(*in_binary)), 1)
    replayed(ask(w, None, structured(event_id, source, data={"n": 1}), headers=STRUCTURED), 1)
    assert up.heads == 1


def test_json_escapes_in_a_structured_event(once):
    w, up = once()
    body = b'{"specversion":"1.0","type":"t","\\u0069d":"\\u0061b","source":"\\/orders"}'
    ran(ask(w, None, headers=binary("ab")), 1)
    replayed(ask(w, None, body, headers=STRUCTURED), 1)


def test_quoted_values_of_a_binary_event(once):
    """CloudEvents HTTP binding, 3.1.3.2: a receiver unquotes, then decodes."""
    w, up = once()
    ran(ask(w, None, headers=binary("a b")), 1)
    replayed(ask(w, None, headers=binary('"a b"')), 1)


def test_events_are_not_compared_by_fingerprint(once):
    w, up = once()
    ran(ask(w, None, b"one", headers=binary("1")), 1)
    replayed(ask(w, None, b"two", headers=binary("1")), 1)
    replayed(ask(w, None, b"two", headers=binary("1"), target="/?x=1"), 1)
    replayed(ask(w, None, structured("1", data="three", time="2026-01-01T00:00:00Z"), headers=STRUCTURED), 1)
    assert dedup_results(w) == {"first": 1, "replayed": 3}


def test_id_and_source_do_not_run_together(once):
    w, up = once()
    for n, (event_id, source) in enumerate([("ab", "c"), ("a", "bc"), ("c", "ab"), ("b%20c", "a"), ("c", "a%20b")], 1):
        ran(ask(w, None, headers=binary(event_id, source)), n)
    for n, key in enumerate(["ab c", "c ab", "cab", "abc"], 6):
        ran(ask(w, key), n)                          # a header's value is no event


def test_half_an_event_is_none(once):
    w, up = once()
    only_id = [h for h in binary("1") if h[0] != "ce-source"]
    only_source = [h for h in binary("1") if h[0] != "ce-id"]
    assert [ask(w, None, headers=h).status for h in (only_id, only_id, only_source, only_source)] == [200] * 4
    assert up.heads == 4


def test_a_batch_has_no_key(once):
    w, up = once()
    kind = [("Content-Type", "application/cloudevents-batch+json")]
    for n in (1, 2):
        ran(ask(w, None, b"[" + structured("1") + b"]", headers=kind), n)
    assert dedup_results(w) == {}


@pytest.mark.parametrize("headers", [binary("1", "/o", ("ce-id", "1")), binary("1", "/o", ("ce-source", "/o")), binary(""),
                                     binary("x" * 256), binary("%00"), binary("a%0Ab")])
def test_bad_events(once, headers):
    w, up = once()
    problem(ask(w, None, headers=headers), 400, "key_invalid")
    assert up.heads == 0


@pytest.mark.parametrize("body", [structured(""), structured("x" * 256), structured("a\nb"),
                                  structured("1").replace(b'"type"', b'"id": "2", "type"')])
def test_bad_structured_events(once, body):
    w, up = once()
    problem(ask(w, None, body, headers=STRUCTURED), 400, "key_invalid")
    assert up.heads == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nonsense", b"\xff\xfe", b'{"id": "1"}'])
def test_what_is_no_structured_event(once, body):
    """Not weir's to judge, unless it has to have a key - but never a hang or a crash."""
    w, up = once()
    assert ask(w, None, body, headers=STRUCTURED).status in (200, 400)
    assert ask(w, "fine").status == 200


def test_the_header_comes_before_the_event(once):
    w, up = once()
    ran(ask(w, "k", headers=binary("1")), 1)
    ran(ask(w, None, headers=binary("1")), 2)
    replayed(ask(w, "k", headers=binary("2")), 1)


# ------------------------------------------------------------------------------------- keys: the body, and all of it


def job(value, **more):
    return json.dumps({"job_id": value, **more}).encode()


JSON = [("Content-Type", "application/json")]
BY_JOB = {"key": [{"json": "/job_id"}]}


@pytest.mark.parametrize("value", ["a", "", "\u00e9", "a/b~c", 7, 0, -3, 1.5, 12345678901234567890])
def test_a_member_of_the_body(once, value):
    w, up = once(BY_JOB)
    if value == "":
        problem(ask(w, None, job(value), headers=JSON), 400, "key_invalid")
        return
    ran(ask(w, None, job(value), headers=JSON), 1)
    replayed(ask(w, None, job(value), headers=JSON), 1)
    ran(ask(w, None, job("another"), headers=JSON), 2)


def test_the_rest_of_the_body_is_its_fingerprint(once):
    w, up = once(BY_JOB)
    ran(ask(w, None, job(1, a=1), headers=JSON), 1)
    problem(ask(w, None, job(1, a=2), headers=JSON), 422, "key_mismatch")


@pytest.mark.parametrize("pointer, body", [
    ("/a/b", b'{"a": {"b": "key", "job": 1}}'), ("/a~1b", b'{"a/b": "key"}'), ("/a~0b", b'{"a~b": "key"}'),
    ("/list/1/id", b'{"list": [{"id": "no"}, {"id": "key"}]}'), ("/0", b'["key"]'), ("/ ", b'{" ": "key"}'),
    ("/a/b", b'{"x": {"b": "no"}, "a": {"x": [[{"b": "no"}]], "b": "key"}}'), ("/a", b' \r\n\t{ "\\u0061" : "k\\u0065y" } ')])
def test_pointers(once, pointer, body):
    w, up = once({"key": [{"json": pointer}]})
    ran(ask(w, None, body, headers=JSON), 1)
    replayed(ask(w, None, body, headers=JSON), 1)
    ran(ask(w, None, body.replace(b"key", b"yek").replace(b"k\\u0065y", b"q"), headers=JSON), 2)


@pytest.mark.parametrize("body", [b"{}", b'{"job": 1}', b"[1]", b'"job_id"', b"", b"not json", b'{"x": {"job_id": 1}}',
                                  b'{"a": "\\"job_id\\": 1"}'])
def test_an_absent_member_is_no_key(once, body):
    w, up = once(BY_JOB)
    r = ask(w, None, body, headers=JSON)
    ran(r, 1)
    ran(ask(w, None, body, headers=JSON), 2)


def test_an_absent_member_where_a_key_is_required(once):
    w, up = once({**BY_JOB, "required": True})
    for body in (b"{}", b"", b"not json"):
        r = ask(w, None, body, headers=JSON)
        assert r.status == 400 and r.weir_reason in ("key_missing", "key_invalid"), r
    assert up.heads == 0


@pytest.mark.parametrize("body", [b'{"job_id": {"a": 1}}', b'{"job_id": ["a"]}', b'{"job_id": {}}', b'{"job_id": "a\\nb"}',
                                  b'{"job_id": "\\u0000"}', b'{"job_id": "%s"}' % (b"x" * 256),
                                  b'{"job_id": "a", "job_id": "a"}', b'{"job_id": "a", "x": 1, "job_i\\u0064": "b"}'])
def test_a_bad_member(once, body):
    w, up = once(BY_JOB)
    problem(ask(w, None, body, headers=JSON), 400, "key_invalid")
    assert up.heads == 0


def test_a_fingerprint_for_a_key(once):
    w, up = once({"key": ["fingerprint"]})
    ran(ask(w, None, b"body", "/a?x=1"), 1)
    replayed(ask(w, None, b"body", "/a?x=1", headers=[("X-Stainless-Retry-Count", "1"), ("User-Agent", "z")]), 1)
    for n, (body, target) in enumerate([(b"body2", "/a?x=1"), (b"body", "/b?x=1"), (b"body", "/a?x=2"), (b"body", "/a"),
                                        (b"", "/a?x=1")], 2):
        ran(ask(w, None, body, target), n)
    ran(ask(w, None, b"body", "/a?x=1", method="PUT"), 7)
    ran(ask(w, None, b"body", "/a?x=1", headers=[("X-Tenant-ID", "acme")]), 8)


# -------------------------------------------------------------------------------------------------- what it counts within


def test_another_tenant_runs(once):
    w, up = once()
    for n, tenant in enumerate(["a", "b", "c"], 1):
        ran(ask(w, headers=[("X-Tenant-ID", tenant)]), n)
    for n, tenant in enumerate(["a", "b", "c"], 1):
        replayed(ask(w, headers=[("X-Tenant-ID", tenant)]), n)


def test_tenant_and_key_do_not_run_together(once):
    w, up = once()
    for n, (tenant, key) in enumerate([("a", "b:c"), ("a:b", "c"), ("a:b:c", "x"), ("ab", "c"), ("a", "bc")], 1):
        ran(ask(w, key, headers=[("X-Tenant-ID", tenant)]), n)


def test_another_method_runs(once):
    w, up = once()
    for n, method in enumerate(["POST", "PUT", "PATCH", "DELETE"], 1):
        ran(ask(w, method=method), n)
        replayed(ask(w, method=method), n)


def test_another_route_runs(start_upstream, start_weir):
    up = start_upstream(Numbered())
    config = deduped(up)
    config["listeners"]["in"]["routes"] = routes(("/", {"dedup": "once"}), ("/a", {"dedup": "once"}), ("/free", {}))
    w = start_weir(config)
    ran(ask(w, target="/x"), 1)
    ran(ask(w, target="/a/x"), 2)
    problem(ask(w, target="/a/y"), 422, "key_mismatch")
    replayed(ask(w, target="/x"), 1)
    for n in (3, 4):
        ran(ask(w, target="/free"), n)


def test_only_its_methods(once):
    w, up = once()
    for n, method in enumerate(["GET", "GET", "HEAD", "OPTIONS", "OPTIONS", "PROPFIND"], 1):
        assert ask(w, method=method, body=None).status == 200
        assert up.heads == n
    assert dedup_results(w) == {}


def test_methods_by_configuration(once):
    w, up = once({"methods": ["GET", "HEAD"]})
    ran(get(w.port, "/x", keyed("a")), 1)
    replayed(get(w.port, "/x", keyed("a")), 1)
    for n in (2, 3):
        ran(ask(w, "a"), n)


def test_a_bad_key_of_another_method_is_nobodys_business(once):
    w, up = once()
    for headers in (keyed(""), keyed("a") * 2, keyed("x" * 300)):
        assert get(w.port, "/", headers).status == 200


# ------------------------------------------------------------------------------------------------------- another request


@pytest.mark.parametrize("other", [{"body": b"[]"}, {"body": b""}, {"body": b"{} "}, {"target": "/b"}, {"target": "/?x"},
                                   {"target": "/?"}])
def test_another_request_with_the_key(once, other):
    w, up = once()
    ran(ask(w), 1)
    problem(ask(w, **other), 422, "key_mismatch")
    assert up.heads == 1
    replayed(ask(w), 1)
    assert dedup_results(w) == {"first": 1, "mismatch": 1, "replayed": 1}
    assert w.wait_log(status=422)["reason"] == "key_mismatch"


def test_mismatch_ignored(once):
    w, up = once({"mismatch": "ignore"})
    ran(ask(w), 1)
    replayed(ask(w, body=b"[1]"), 1)
    replayed(ask(w, target="/else?x"), 1)
    assert up.heads == 1


def test_no_header_belongs_to_a_request(once):
    w, up = once()
    ran(ask(w), 1)
    for headers in ([("X-Stainless-Retry-Count", "1")], [("Authorization", "other")], [("User-Agent", "x")], JSON,
                    [("Accept", "x")], [("Cookie", "a=b")]):
        replayed(ask(w, headers=headers), 1)
    replayed(ask(w, host="other.test"), 1)


def test_the_framing_of_the_body_does_not_matter(once):
    w, up = once()
    ran(ask(w, body=b"hello world"), 1)
    replayed(ask(w, body=b"hello world", chunked=True), 1)
    replayed(ask(w, body=[b"h", b"ello", b" world"], chunked=True), 1)
    problem(ask(w, body=b"hello_world", chunked=True), 422, "key_mismatch")


def test_bodies_in_single_bytes(once):
    w, up = once()
    for n, raw in enumerate([request("POST", "/", keyed("a"), b"slow body"),
                             request("POST", "/", keyed("a"), [b"s", b"low ", b"body"], chunked=True)]):
        with connect(w.port) as c:
            c.send_slowly([raw[i:i + 1] for i in range(len(raw))], 0)
            (replayed if n else ran)(c.read_response("POST"), 1)
    assert up.heads == 1 and up.requests[0].body == b"slow body"


def test_a_large_body_is_compared_to_its_last_byte(once):
    w, up = once()
    body = bytes(range(256)) * 8192
    ran(ask(w, body=body), 1)
    assert up.requests[0].body == body
    problem(ask(w, body=body[:-1] + b"x"), 422, "key_mismatch")
    problem(ask(w, body=b"x" + body[1:]), 422, "key_mismatch")
    replayed(ask(w, body=body), 1)


@pytest.mark.parametrize("key", ["idempotency", "fingerprint"])
def test_a_body_over_the_bound_takes_no_key(once, key):
    w, up = once(None if key == "idempotency" else {"key": ["fingerprint"]}, server={"max_body": "1KiB"})
    r = ask(w, body=b"x" * 2000)
    problem(r, 413, "body_too_large")
    r = ask(w, body=[b"x" * 600] * 3, chunked=True)
    problem(r, 413, "body_too_large")
    ran(ask(w))
    replayed(ask(w))


def test_a_broken_body_takes_no_key(once):
    w, up = once()
    with connect(w.port) as c:
        c.send(request("POST", "/", [*keyed("k1"), ("Content-Length", "100")]) + b"half")
    with connect(w.port) as c:
        c.send(request("POST", "/", [*keyed("k1"), ("Transfer-Encoding", "chunked")]) + b"zz\r\n")
        assert c.read_response("POST").status == 400
    wait_until(lambda: w.metric("weir_in_flight") == 0, "the broken ones to end")
    assert ask(w).status == 200
    assert ask(w).header("Idempotent-Replayed") == "true"


def test_expect_100_continue(once):
    w, up = once()
    for n in range(3):
        with connect(w.port) as c:
            c.send(request("POST", "/", [*keyed("a"), ("Expect", "100-continue"), ("Content-Length", "4")]))
            assert c.read_head().status == 100
            c.send(b"body")
            r = c.read_response("POST")
            (replayed if n else ran)(r, 1)
    assert up.heads == 1


# ----------------------------------------------------------------------------------------------------------- replay


def test_a_replay_is_the_answer_byte_for_byte(once):
    old = "Sun, 06 Nov 1994 08:49:37 GMT"
    fields = [("Content-Type", "text/plain; charset=utf-8"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Empty", ""),
              ("ETag", '"abc"'), ("X-Request-ID", "theirs"), ("X-Latin", "\xe9\xff"), ("Date", old), ("Server", "stub/1"),
              ("X-Correlation-ID", "upstreams-own"), ("Cache-Control", "no-store")]
    w, up = once(handler=lambda peer: reply(201, bytes(range(256)) * 4, fields, reason="Made Up"))
    first = ask(w, headers=[("X-Correlation-ID", "one")])
    assert first.status == 201 and "Idempotent-Replayed" not in first.headers
    for n in range(3):
        r = ask(w, headers=[("X-Correlation-ID", f"again-{n}")])
        replayed(r, status=201)
        assert seen_fields(r) == seen_fields(first) and r.body == first.body and r.reason == first.reason
        assert r.header("X-Correlation-ID") == f"again-{n}"
        age = time.time() - email.utils.parsedate_to_datetime(r.header("Date")).timestamp()
        assert -2 < age < 30, r.header("Date")
    assert up.heads == 1


@pytest.mark.parametrize("code", [200, 201, 202, 204, 206, 299, 400, 405, 410, 415, 422])
def test_these_are_kept(once, code):
    w, up = once(handler=Numbered(code))
    first = ask(w)
    assert first.status == code and "Idempotent-Replayed" not in first.headers
    r = replayed(ask(w), status=code)
    assert r.body == first.body and r.end == first.end
    assert up.heads == 1


@pytest.mark.parametrize("code", [300, 302, 304, 307, 401, 403, 404, 408, 409, 418, 425, 429, 451, 500, 502, 503, 504, 529])
def test_these_are_forgotten(once, code):
    handler = Numbered(code)
    w, up = once(handler=handler)
    assert ask(w).status == code
    handler.status = 200
    ran(ask(w), 2)
    replayed(ask(w), 2)
    assert dedup_results(w) == {"first": 2, "forgotten": 1, "replayed": 1}


def test_statuses_by_configuration(once):
    handler = Numbered(404)
    w, up = once({"keep_statuses": [404, "5xx"]}, handler)
    for code in (404, 500, 503):
        handler.status = code
        assert ask(w, f"k{code}").status == code
        replayed(ask(w, f"k{code}"), status=code)
    handler.status = 200
    runs = up.heads
    assert [ask(w, "k200").status, ask(w, "k200").status] == [200, 200]
    assert up.heads == runs + 2


def test_no_status_is_kept(once):
    """Only those at the same time share, then."""
    w, up = once({"keep_statuses": []})
    for n in (1, 2, 3):
        ran(ask(w), n)


def test_another_body_may_use_a_forgotten_key(once):
    handler = Numbered(500)
    w, up = once(handler=handler)
    assert ask(w, body=b"one").status == 500
    handler.status = 200
    ran(ask(w, body=b"two"), 2)
    problem(ask(w, body=b"one"), 422, "key_mismatch")


def test_a_call_that_was_never_made_is_forgotten(start_weir, start_upstream):
    with Refuser() as refuser:
        config = deduped(refuser.port, {"on_unknown": "reject"})
        w = start_weir(config)
        for _ in range(3):
            problem(ask(w), 502, "connect_failed")
        up = start_upstream(Numbered())
        config["upstreams"]["agent"]["url"] = up.url
        w.reload(config)
    ran(ask(w), 1)
    assert dedup_results(w) == {"first": 4, "forgotten": 3}


def test_an_open_breaker_is_forgotten(start_faulty, start_weir):
    up = start_faulty(status(500))
    w = start_weir(deduped(up, {"on_unknown": "reject"}, agent={"breaker": {
        "consecutive_failures": 2, "min_requests": 100, "failures": ["connect", "reset", "5xx"],
        "open": {"base": "500ms", "max": "500ms", "jitter": "0%"}, "probes": 1}}))
    assert [ask(w, "a").status, ask(w, "a").status] == [500, 500]
    problem(ask(w, "b"), 503, "breaker_open")
    up.answers(OK)
    wait_until(lambda: ask(w, "b").status == 200, "the breaker to close")
    heads = up.heads
    replayed(ask(w, "b"))
    assert up.heads == heads


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 65536, 1000 * 1024])
def test_bodies_up_to_max_response_are_kept(once, framing, size):
    body = random.Random(size).randbytes(size)
    answers = {"length": [reply(200, body)], "close": [reply(200, body, [("Connection", "close")], length=False), CLOSE],
               "chunked": [chunked_reply([body[i:i + 9000] for i in range(0, size, 9000)])]}
    w, up = once(handler=lambda peer: peer.run(answers[framing]))
    first = ask(w)
    assert first.body == body and first.clean
    for _ in range(2):
        r = replayed(ask(w))
        assert r.body == body and seen_fields(r) == seen_fields(first)
    assert up.heads == 1


def test_a_replay_to_head(once):
    w, up = once({"methods": ["HEAD"]}, lambda peer: reply(200, b"", [("Content-Length", "1234"), ("X-A", "b")], length=False))
    first = ask(w, method="HEAD", body=None)
    r = replayed(ask(w, method="HEAD", body=None))
    assert (first.header("Content-Length"), r.header("Content-Length"), r.header("X-A"), r.body) == ("1234", "1234", "b", b"")
    assert up.heads == 1


@pytest.mark.parametrize("code", [204, 200])
def test_an_empty_answer(once, code):
    w, up = once(handler=lambda peer: reply(code, b""))
    first, r = ask(w), ask(w)
    assert (first.status, first.body, first.end) == (r.status, r.body, r.end)
    replayed(r, status=code)


def test_what_belongs_to_the_first_ones_connection_is_not_replayed(once):
    handler = Numbered(headers=[("Connection", "X-Hop, keep-alive"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5")])
    w, up = once(handler=handler)
    closing = ask(w, headers=[("Connection", "close")])
    assert closing.header("Connection").lower() == "close"
    with connect(w.port) as c:
        for _ in range(3):
            c.send(request("POST", "/", keyed("k1"), b"{}"))
            r = replayed(c.read_response("POST"), 1)
            assert (r.header("Connection") or "keep-alive").lower() != "close" and "X-Hop" not in r.headers, r
    r = replayed(ask(w, headers=[("Connection", "close")]), 1)
    assert r.header("Connection").lower() == "close"


def test_a_large_head_is_replayed(once):
    fields = [(f"X-Field-{n}", f"{n}-" + "v" * 300) for n in range(80)]
    w, up = once(handler=lambda peer: reply(200, b"body", fields))
    first = ask(w)
    assert len(seen_fields(first)) >= 80
    assert seen_fields(replayed(ask(w))) == seen_fields(first)


def test_callers_of_two_versions(once):
    """A chunked answer, first to HTTP/1.0, then replayed to both."""
    w, up = once(handler=lambda peer: chunked_reply([b"one ", b"two ", b"three"]))
    first = ask(w, version="1.0")
    assert first.body == b"one two three" and first.end in ("close", "length")
    for version in ("1.1", "1.0", "1.1"):
        r = replayed(ask(w, version=version))
        assert r.body == first.body and (version == "1.1" or r.end in ("close", "length")), r


def test_a_kept_connection_and_a_pipeline(once):
    w, up = once()
    with connect(w.port) as c:
        c.send(b"".join(request("POST", "/", keyed(k), b"{}") for k in ("a", "a", "b", "a", "b", "a")) + request("GET", "/"))
        answers = [c.read_response("POST") for _ in range(6)]
        last = c.read_response("GET")
    assert [r.body[:8] for r in answers] == [b"answer 1", b"answer 1", b"answer 2", b"answer 1", b"answer 2", b"answer 1"]
    assert ["Idempotent-Replayed" in r.headers for r in answers] == [False, True, False, True, True, True]
    assert last.body.startswith(b"answer 3") and up.heads == 3


def test_many_connections_replay_at_once(once):
    w, up = once(handler=Numbered(pad=30000))
    first = ran(ask(w), 1)

    def work(_):
        with Caller(w.port) as caller:
            return [caller.ask(request("POST", "/", keyed("k1"), b"{}")) for _ in range(20)]

    for answers in in_parallel(16, work):
        for r in answers:
            assert replayed(r).body == first.body
    assert up.heads == 1
    assert dedup_results(w) == {"first": 1, "replayed": 320}


# ------------------------------------------------------------------------------------------------- acknowledge and reject


def test_acknowledge(once):
    w, up = once({"on_duplicate": "acknowledge"})
    ran(ask(w), 1)
    for _ in range(2):
        r = ask(w, headers=[("X-Correlation-ID", "mine")])
        assert (r.status, r.body, r.weir_reason, r.header("X-Correlation-ID")) == (204, b"", "duplicate", "mine"), r
        assert "Idempotent-Replayed" not in r.headers and "Content-Type" not in r.headers
    assert up.heads == 1
    assert dedup_results(w) == {"first": 1, "acknowledged": 2}
    assert w.wait_log(status=204)["dedup"] == "acknowledged"


def test_acknowledge_with_another_answer(once):
    w, up = once({"on_duplicate": "acknowledge", "acknowledge": {"status": 208, "body": '{"seen": true}'}})
    ran(ask(w), 1)
    r = ask(w)
    assert (r.status, r.body, r.weir_reason) == (208, b'{"seen": true}', "duplicate"), r
    assert up.heads == 1


def test_acknowledge_leaves_the_connection_usable(once):
    w, up = once({"on_duplicate": "acknowledge"})
    with connect(w.port) as c:
        for n in range(4):
            c.send(request("POST", "/", keyed("a"), b"body"))
            assert c.read_response("POST").status == (204 if n else 200)
        c.send(request("POST", "/", keyed("b"), b"body"))
        ran(c.read_response("POST"), 2)


def test_reject(once):
    w, up = once({"on_duplicate": "reject"})
    ran(ask(w), 1)
    for _ in range(2):
        duplicate(ask(w))
    assert up.heads == 1
    assert dedup_results(w) == {"first": 1, "rejected": 2}
    assert w.wait_log(status=409)["reason"] == "duplicate"
    assert w.metric("weir_refused_total", reason="duplicate") == 2


@pytest.mark.parametrize("on_duplicate", ["acknowledge", "reject"])
def test_mismatch_without_replay(once, on_duplicate):
    w, up = once({"on_duplicate": on_duplicate})
    ran(ask(w), 1)
    problem(ask(w, body=b"other"), 422, "key_mismatch")


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_refusals_in_a_dialect(start_upstream, start_weir, dialect):
    up = start_upstream(Numbered())
    w = start_weir(deduped(up, {"on_duplicate": "reject", "required": True}, agent={"dialect": dialect}))
    ran(ask(w, body=b"{}"), 1)
    error(ask(w, body=b"{}"), 409, "duplicate", dialect)
    error(ask(w, body=b"[]"), 422, "key_mismatch", dialect)
    error(ask(w, ""), 400, "key_invalid", dialect)
    error(ask(w, None), 400, "key_missing", dialect)


# --------------------------------------------------------------------------------------------------- how long, how much


@pytest.mark.parametrize("on_duplicate", ["replay", "acknowledge", "reject"])
def test_a_key_is_known_for_its_window(once, on_duplicate):
    """Asked often until it runs again: not a second before the window's end, not a second after it. Being asked for does not
    prolong it."""
    w, up = once({**TWO_SECONDS, "on_duplicate": on_duplicate})
    before = time.monotonic()
    ran(ask(w), 1)
    after = time.monotonic()
    last_known = after
    while up.heads == 1:
        asked = time.monotonic()
        ask(w)
        if up.heads == 1:
            last_known = asked
        assert asked - before < 10, "it never ran again"
        time.sleep(0.02)
    assert asked + 0.3 - before >= 1.8, f"it ran again {asked - before} s after the first"
    assert last_known - after <= 3.2, f"still known {last_known - after} s after the first"


def test_duplicates_at_random_ages_never_run(once):
    """Over several rotations of the filters: a key that is younger than the window is known."""
    w, up = once({"window": "4s", "lease": "4s", "bloom": {"expected": 1000}})
    rng = random.Random(63)
    begin, wrong, finished, made = time.monotonic(), [], {}, 0
    with Caller(w.port) as caller:
        due = []
        while (now := time.monotonic() - begin) < 10:
            made += 1
            ran(caller.ask(request("POST", "/", keyed(f"k{made}"), b"{}")))
            finished[made] = time.monotonic()
            due.append((now + rng.uniform(0, 3.3), made))
            due.sort()
            while due and due[0][0] < time.monotonic() - begin:
                _, key = due.pop(0)
                r = caller.ask(request("POST", "/", keyed(f"k{key}"), b"{}"))
                age = time.monotonic() - finished[key]
                if age < 3.9 and "Idempotent-Replayed" not in r.headers:
                    wrong.append((key, age))
            time.sleep(0.01)
    assert made > 50 and not wrong, f"{len(wrong)} of {made} ran again at ages {wrong[:5]}"


def test_keep_responses(once):
    w, up = once({"keep_responses": "1s"})
    begin = time.monotonic()
    ran(ask(w), 1)
    r = ask(w)
    if time.monotonic() - begin < 0.8:
        replayed(r, 1)
    wait_until(lambda: ask(w).status == 409, "the answer to go", 10)
    assert time.monotonic() - begin >= 0.9
    duplicate(ask(w))
    assert up.heads == 1
    wait_until(lambda: w.metric("weir_dedup_memory_bytes", dedup="once") == 0, "its memory to come back", 10)
    assert w.metric("weir_dedup_keys", dedup="once") == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_over_max_response(once, framing):
    body = random.Random(5).randbytes(300 * 1024)
    answer = reply(200, body) if framing == "length" else chunked_reply([body[i:i + 7000] for i in range(0, len(body), 7000)])
    w, up = once({"max_response": "64KiB"}, lambda peer: answer)
    assert ran(ask(w)).body == body
    for _ in range(3):
        duplicate(ask(w))
    assert up.heads == 1
    problem(ask(w, body=b"other"), 422, "key_mismatch")
    w.wait_metric("weir_dedup_memory_bytes", lambda v: v < 1024, dedup="once")


def test_an_answer_at_max_response(once):
    """60 KiB fit into 64 KiB, with a head; a byte over does not."""
    w, up = once({"max_response": "64KiB"}, lambda peer: reply(200, b"x" * int(peer.request.target[1:])))
    sizes = {"/61440": 200, "/65537": 409}
    for n, (target, again) in enumerate(sizes.items(), 1):
        assert ask(w, target, target=target).status == 200
        assert ask(w, target, target=target).status == again, target
        assert up.heads == n


def test_answers_beyond_memory_go_and_their_keys_stay(once):
    w, up = once({"memory": "256KiB", "max_response": "64KiB"}, Numbered(pad=20000))
    for n in range(1, 41):
        ran(ask(w, f"k{n}"), n)
    assert w.metric("weir_dedup_memory_bytes", dedup="once") <= 256 * 1024
    statuses = [ask(w, f"k{n}").status for n in range(1, 41)]
    assert up.heads == 40, "a second run"
    assert set(statuses) == {200, 409} and statuses[0] == 409 and statuses[-1] == 200
    assert sum(s == 200 for s in statuses) >= 6, statuses
    assert statuses == sorted(statuses, reverse=True), "not the oldest went first"
    assert w.metric("weir_dedup_keys", dedup="once") == 40


def test_the_least_recently_used_answer_goes_first(once):
    w, up = once({"memory": "256KiB", "max_response": "64KiB"}, Numbered(pad=20000))
    ran(ask(w, "used"), 1)
    for n in range(2, 42):
        ran(ask(w, f"k{n}"), n)
        replayed(ask(w, "used"), 1)
    duplicate(ask(w, "k2"))


def test_memory_smaller_than_one_answer(once):
    w, up = once({"memory": "4KiB"}, Numbered(pad=20000))
    for n in range(1, 4):
        ran(ask(w, f"k{n}"), n)
        duplicate(ask(w, f"k{n}"))
    assert up.heads == 3


def test_a_full_table_forgets_the_oldest(once):
    w, up = once({"max_keys": 100})
    with Caller(w.port) as caller:
        for n in range(1, 1001):
            ran(caller.ask(request("POST", "/", keyed(f"k{n}"), b"{}")), n)
        kept = w.metric("weir_dedup_keys", dedup="once")
        assert 100 <= kept <= 200
        assert w.metric("weir_dedup_forgotten_full_total", dedup="once") == 1000 - kept
        for n in range(991, 1001):
            replayed(caller.ask(request("POST", "/", keyed(f"k{n}"), b"{}")), n)
        ran(caller.ask(request("POST", "/", keyed("k1"), b"{}")), 1001)


def test_a_full_table_can_reject(once):
    w, up = once({"max_keys": 100, "on_full": "reject", **TWO_SECONDS})
    begin, full, ok = time.monotonic(), None, 0
    with Caller(w.port) as caller:
        for n in range(1, 1001):
            r = caller.ask(request("POST", "/", keyed(f"k{n}"), b"{}"))
            if r.status == 503:
                full = full or r
            elif full is None:
                ok += 1
        if full is None and time.monotonic() - begin > 1.5:
            pytest.skip("the machine was too slow to fill the table within one window")
    problem(full, 503, "overloaded")
    assert re.fullmatch(r"[1-9]\d*", full.header("Retry-After"))
    assert 100 <= ok <= 400 and w.metric("weir_dedup_forgotten_full_total", dedup="once") == 0
    assert w.wait_log(status=503)["reason"] == "overloaded"
    assert ask(w, None).status == 200                # without a key
    wait_until(lambda: ask(w, "later").status == 200, "room, a window later", 15, every=0.2)


def test_a_full_table_rejects_new_keys_only(once):
    w, up = once({"max_keys": 100, "on_full": "reject"})
    with Caller(w.port) as caller:
        for n in range(1, 1001):
            caller.ask(request("POST", "/", keyed(f"k{n}"), b"{}"))
        heads = up.heads
        assert 100 <= heads <= 200
        for n in range(1, 101):
            r = caller.ask(request("POST", "/", keyed(f"k{n}"), b"{}"))
            assert r.status == 503 or r.header("Idempotent-Replayed") == "true", r
    replayed(ask(w, "k1"), 1)


# ----------------------------------------------------------------------------------------------------------------- bypass


def test_bypass(once):
    w, up = once({"bypass": {"header": "X-Replay"}})
    ran(ask(w), 1)
    replayed(ask(w), 1)
    drill = [("X-Replay", "replay-drill")]
    for n in (2, 3):
        ran(ask(w, headers=drill), n)
    for other in ("Replay-Drill", "true", "", "replay-drill2"):
        replayed(ask(w, headers=[("X-Replay", other)]), 1)
    replayed(ask(w), 1)
    assert dedup_results(w)["bypassed"] == 2
    wait_until(lambda: [line["dedup"] for line in w.log].count("bypassed") == 2, "two lines that say so")
    ran(ask(w, "new", headers=drill), 4)
    ran(ask(w, "new"), 5)                            # what was not looked at is not known
    ran(ask(w, "", headers=drill), 6)


def test_bypass_from_an_untrusted_peer(once):
    w, up = once({"bypass": {"header": "X-Replay"}}, tenant={"trusted": ["10.0.0.0/8"]})
    ran(ask(w), 1)
    replayed(ask(w, headers=[("X-Replay", "replay-drill")]), 1)
    assert dedup_results(w) == {"first": 1, "replayed": 1}


def test_without_bypass_no_header_skips(once):
    w, up = once()
    ran(ask(w), 1)
    replayed(ask(w, headers=[("X-Replay", "replay-drill"), ("bypass", "replay-drill")]), 1)


# --------------------------------------------------------------------------------------------------- limits and tokens


def test_a_duplicate_consumes_its_request_limits(once):
    limits = {"hour": {"algorithm": "sliding_window", "limit": 4, "window": "1h"}}
    w, up = once(limits=limits, route={"limits": ["hour"]})
    left = []
    for n in range(4):
        r = ask(w)
        (replayed if n else ran)(r, 1)
        left.append(r.header("RateLimit"))
    assert [int(re.search(r"r=(\d+)", x).group(1)) for x in left] == [3, 2, 1, 0], left
    r = ask(w)
    assert r.status == 429 and r.weir_reason == "limit"
    assert up.heads == 1


LLM = Usage(input=100, output=20)


def spending(up, dedup=None, burst=10000, **more):
    return deduped(up, dedup, limits={"tokens": {"unit": "llm_tokens", "rate": "1/h", "burst": burst}},
                   route={"limits": ["tokens"]}, agent={"dialect": "openai"}, **more)


def chat(w, key, text="hi"):
    form = FORMS["chat"]
    return post(w.port, form.path, form.ask(text), [*keyed(key), ("Content-Type", "application/json")])


def test_a_duplicate_consumes_no_tokens(start_upstream, start_weir):
    up = start_upstream(Llm(LLM))
    w = start_weir(spending(up))
    assert chat(w, "a").status == 200
    w.wait_metric("weir_llm_tokens_total", 120)
    left = chat(w, "a").header("x-ratelimit-remaining-tokens")
    for _ in range(20):
        r = replayed(chat(w, "a"))
        assert r.header("x-ratelimit-remaining-tokens") == left
    assert w.metric("weir_llm_tokens_total") == 120 and up.heads == 1
    answer = w.ask_admin("/explain?listener=in&path=/v1/chat/completions&method=POST").json()
    assert 9870 <= answer["limits"][0]["remaining"] <= 9885, answer["limits"]


def test_a_duplicate_of_a_tenant_in_debt(start_upstream, start_weir):
    """It costs nothing, so it is not refused; a new key is, and is not remembered for that."""
    up = start_upstream(Llm(LLM))
    w = start_weir(spending(up, burst=60))
    assert chat(w, "a").status == 200
    w.wait_metric("weir_llm_tokens_total", 120)
    replayed(chat(w, "a"))
    for _ in range(2):
        r = chat(w, "b")
        assert r.status == 429 and r.weir_reason == "limit", r
    assert up.heads == 1
    assert w.ask_admin("/limits/tokens?tenant=anonymous", method="DELETE").status in (200, 204)
    r = chat(w, "b")
    assert r.status == 200 and "Idempotent-Replayed" not in r.headers and up.heads == 2
    replayed(chat(w, "b"))


def test_slots_come_back_on_every_end(once):
    """concurrency 1: whatever became of the last one, the next is admitted."""
    handler = Numbered()
    w, up = once({"max_response": "8KiB"}, handler, limits={"slots": {"algorithm": "concurrency", "limit": 1}},
                 route={"limits": ["slots"]})
    with Caller(w.port) as caller:
        def one(key, wanted, body=b"{}"):
            r = caller.ask(request("POST", "/", keyed(key), body))
            assert r.status == wanted, r
        for n in range(20):
            handler.pad, handler.status = 0, 200
            one(f"{n}", 200)
            one(f"{n}", 200)
            one(f"{n}", 422, b"other")
            one("", 400)
            handler.status = 500
            one(f"{n}f", 500)
            handler.status, handler.pad = 200, 20000
            one(f"{n}big", 200)
            one(f"{n}big", 409)
    w.wait_metric("weir_in_flight", 0)


# ----------------------------------------------------------------------------------------------------------------- retries


def protected(up, **more):
    return retrying(up, route={"dedup": "once"}, dedup={"once": {}}, **more)


def test_a_key_protects_a_retry(start_faulty, start_weir):
    up = start_faulty(RESET, reply(200, b"second"))
    w = start_weir(protected(up))
    r = ask(w)
    assert (r.status, r.body) == (200, b"second")
    assert len(up.requests) == 2 and [q.header("Idempotency-Key") for q in up.requests] == ["k1", "k1"]
    assert w.wait_log(status=200)["attempts"] == 2
    assert replayed(ask(w)).body == b"second" and len(up.requests) == 2


def test_without_a_key_a_post_is_not_tried_again(start_faulty, start_weir):
    up = start_faulty(RESET, OK)
    w = start_weir(protected(up))
    problem(ask(w, None), 502, "reset")
    assert len(up.requests) == 1


@pytest.mark.parametrize("code", [502, 503, 504])
def test_a_key_protects_a_retry_after_a_status(start_faulty, start_weir, code):
    up = start_faulty(status(code), OK)
    w = start_weir(protected(up))
    ran(ask(w))
    assert len(up.requests) == 2
    replayed(ask(w))


def test_a_header_that_is_no_key_protects_nothing(start_faulty, start_weir):
    """The route has no dedup: an Idempotency-Key there is only a header."""
    up = start_faulty(RESET, OK)
    w = start_weir(retrying(up, dedup={"once": {}}))
    problem(ask(w), 502, "reset")
    assert len(up.requests) == 1


# -------------------------------------------------------------------------------------------------------------------- Bloom


INEXACT = {"exact": False, "in_flight": "reject"}


@pytest.mark.parametrize("on_duplicate", ["acknowledge", "reject"])
def test_inexact_suppresses_the_second(once, on_duplicate):
    w, up = once({**INEXACT, "on_duplicate": on_duplicate})
    for n in range(1, 51):
        ran(ask(w, f"k{n}"), n)
        r = ask(w, f"k{n}")
        assert r.status == (204 if on_duplicate == "acknowledge" else 409) and r.weir_reason == "duplicate", r
    assert up.heads == 50
    word = "acknowledged" if on_duplicate == "acknowledge" else "rejected"
    assert dedup_results(w) == {"first": 50, word: 50}
    assert w.metric("weir_dedup_bloom_fill_ratio", dedup="once") > 0
    assert w.ask_admin("/dedup/once?key=k1", method="DELETE").status == 409


def test_inexact_forgets_after_its_window(once):
    """Two generations: known for one window to two."""
    w, up = once({**INEXACT, "on_duplicate": "acknowledge", **TWO_SECONDS})
    begin = time.monotonic()
    ran(ask(w), 1)
    while up.heads == 1:
        asked = time.monotonic()
        ask(w)
        assert asked - begin < 12, "it never ran again"
        time.sleep(0.05)
    assert 1.8 <= asked + 0.3 - begin and asked - begin <= 5.5, asked - begin


def fresh_keys(w, first, last, connections=4, deep=50):
    """Posts a run of keys, pipelined over several connections; how many answers there were of each kind."""
    def work(part):
        kinds = {}
        keys = range(first + part, last, connections)
        with connect(w.port) as c:
            for at in range(0, len(keys), deep):
                some = keys[at:at + deep]
                c.send(b"".join(request("POST", "/", keyed(f"key-{k}"), b"") for k in some))
                for _ in some:
                    r = c.read_response("POST")
                    kind = (r.status, r.weir_reason, r.header("Idempotent-Replayed"))
                    kinds[kind] = kinds.get(kind, 0) + 1
        return kinds

    total = {}
    for kinds in in_parallel(connections, work):
        for kind, n in kinds.items():
            total[kind] = total.get(kind, 0) + n
    return total


def test_fresh_keys_past_the_filters_size_all_run(once):
    w, up = once({"bloom": {"expected": 1000}, "on_duplicate": "reject", "max_keys": 2 * FRESH_KEYS},
                 handler=lambda peer: OK)
    assert fresh_keys(w, 0, FRESH_KEYS) == {(200, None, None): FRESH_KEYS}
    assert up.heads == FRESH_KEYS
    assert dedup_results(w) == {"first": FRESH_KEYS}
    bloom = w.status()["dedup"][0]["bloom"]
    assert bloom["past_its_size"] is True
    assert w.metric("weir_dedup_bloom_fill_ratio", dedup="once") > 0.9
    assert w.metric("weir_dedup_bloom_false_positives_total", dedup="once") > 0
    wait_until(lambda: "once" in w.stderr and re.search(r"(?i)bloom|filter", w.stderr), "a warning that it is past its size")
    assert fresh_keys(w, 0, 500) == {(409, "duplicate", None): 500}
    assert up.heads == FRESH_KEYS


def test_false_positives_at_capacity(once):
    """1e-2 at 1000 keys: of the next few, at most about twice as many are taken for seen ones; none is suppressed."""
    w, up = once({"bloom": {"expected": 2000, "false_positives": "1e-2"}}, handler=lambda peer: OK)
    assert fresh_keys(w, 0, 2000) == {(200, None, None): 2000}
    assert w.metric("weir_dedup_bloom_false_positives_total", dedup="once") <= 40


def test_exact_lookups_of_fresh_keys(once):
    """At the default size next to none of them touches the table."""
    w, up = once(handler=lambda peer: OK)
    assert fresh_keys(w, 0, 3000) == {(200, None, None): 3000}
    assert w.metric("weir_dedup_bloom_false_positives_total", dedup="once") <= 1
    assert w.status()["dedup"][0]["bloom"]["lookups"] <= 1


def test_inexact_at_capacity(once):
    w, up = once({**INEXACT, "on_duplicate": "acknowledge", "bloom": {"expected": 3000, "false_positives": "1e-2"}},
                 handler=lambda peer: OK)
    kinds = fresh_keys(w, 0, 3000)
    suppressed = kinds.get((204, "duplicate", None), 0)
    assert suppressed <= 60, kinds
    assert up.heads == 3000 - suppressed


# ------------------------------------------------------------------------------------------------------------------- reload


def test_keys_survive_a_reload(once):
    w, up = once()
    ran(ask(w), 1)
    for level in ("debug", "info"):
        config = json.loads(w.config_path.read_text())
        config["log"] = {"level": level}
        w.reload(config)
        replayed(ask(w), 1)
    problem(ask(w, body=b"x"), 422, "key_mismatch")


def test_changed_numbers_are_in_force(once):
    w, up = once()
    ran(ask(w), 1)
    config = json.loads(w.config_path.read_text())

    def now(**fields):
        config["dedup"]["once"].update(fields)
        w.reload(config)

    now(on_duplicate="reject")
    duplicate(ask(w))
    now(on_duplicate="acknowledge", acknowledge={"status": 202})
    assert ask(w).status == 202
    now(mismatch="ignore")
    assert ask(w, body=b"x").status == 202
    now(required=True)
    problem(ask(w, None), 400, "key_missing")
    now(methods=["PUT"], on_duplicate="replay", acknowledge=None)
    ran(ask(w), 2)
    now(methods=["POST"], window="1s", lease="1s")
    ran(ask(w, "short"), 3)
    wait_until(lambda: (ask(w, "short"), up.heads)[1] >= 4, "the new window to end", 6, every=0.1)


def test_bloom_and_max_keys_change_live(once):
    """Whatever becomes of the filters, no key that is known may run again, and no new one be suppressed."""
    w, up = once({"on_duplicate": "reject"}, handler=lambda peer: OK)
    config = json.loads(w.config_path.read_text())
    assert fresh_keys(w, 0, 300) == {(200, None, None): 300}
    for n, fields in enumerate([{"bloom": {"expected": 5000}}, {"bloom": {"expected": 1000, "false_positives": "1e-3"}},
                                {"max_keys": 5000}, {"max_keys": 100000}, {"memory": "1MiB"}], 1):
        config["dedup"]["once"].update(fields)
        w.reload(config)
        assert fresh_keys(w, 0, 300) == {(409, "duplicate", None): 300}, fields
        assert fresh_keys(w, 300 * n, 300 * (n + 1)) == {(200, None, None): 300}, fields
        assert fresh_keys(w, 300 * n, 300 * (n + 1)) == {(409, "duplicate", None): 300}, fields


def test_a_dedup_is_added_and_removed(once):
    w, up = once()
    ran(ask(w), 1)
    with_it = json.loads(w.config_path.read_text())
    without = json.loads(w.config_path.read_text())
    del without["dedup"], without["listeners"]["in"]["routes"][0]["dedup"]
    w.reload(without)
    for n in (2, 3):
        ran(ask(w), n)
    assert w.status()["dedup"] == []
    w.reload(with_it)
    assert ask(w).status == 200
    replayed(ask(w))
    with_it["dedup"]["second"] = {"on_duplicate": "reject"}
    with_it["listeners"]["in"]["routes"].append({"path": "/second", "upstream": "agent", "dedup": "second"})
    w.reload(with_it)
    ran(ask(w, target="/second"))
    duplicate(ask(w, target="/second"))
    replayed(ask(w))


def test_keys_belong_to_their_route_wherever_it_stands(once):
    """A reload that puts other routes and dedups before it does not give its keys to another."""
    w, up = once()
    ran(ask(w), 1)
    config = json.loads(w.config_path.read_text())
    config["dedup"] = {"another": {"on_duplicate": "reject"}, **config["dedup"]}
    listener = config["listeners"]["in"]
    listener["routes"] = [{"path": "/a", "upstream": "agent", "dedup": "another"}, {"path": "/b", "upstream": "agent"},
                          *listener["routes"]]
    w.reload(config)
    replayed(ask(w), 1)
    ran(ask(w, target="/a"), 2)
    duplicate(ask(w, target="/a"))


def test_a_window_changed_live(once):
    """What is known stays known; a longer window is in force for what comes, at least."""
    w, up = once()
    ran(ask(w), 1)
    config = json.loads(w.config_path.read_text())
    for window in ("12h", "1h", "48h"):
        config["dedup"]["once"]["window"] = window
        w.reload(config)
        replayed(ask(w), 1)


def test_reloads_under_load(once):
    """Nothing runs twice while the configuration changes under it."""
    w, up = once({"window": "10m"}, handler=Numbered())
    config = json.loads(w.config_path.read_text())
    stop, asked = threading.Event(), []

    def work(part):
        with Caller(w.port) as caller:
            n = 0
            while not stop.is_set() and n < 2000:
                n += 1
                raw = request("POST", "/", keyed(f"{part}-{n}"), b"{}")
                first, again = caller.ask(raw), caller.ask(raw)
                ran(first)
                assert replayed(again).body == first.body
            asked.append(n)

    thread = threading.Thread(target=lambda: failures.extend(catch(lambda: in_parallel(4, work))), daemon=True)
    failures = []
    thread.start()
    for n in range(10):
        config["dedup"]["once"]["memory"] = f"{16 + n % 2}MiB"
        config["log"] = {"level": "info" if n % 2 else "warn"}
        w.reload(config)
    stop.set()
    thread.join(60)
    assert not failures, failures
    assert up.heads == sum(asked) > 4


def catch(work):
    try:
        work()
        return []
    except BaseException as e:
        return [e]


# -------------------------------------------------------------------------------------------------- what can be seen of it


def test_families_are_there_from_the_start(start_upstream, start_weir):
    w = start_weir(base_config(start_upstream().port))
    seen = families(w)
    for name, kind in (("weir_dedup_total", "counter"), ("weir_dedup_keys", "gauge"),
                       ("weir_dedup_forgotten_full_total", "counter"), ("weir_dedup_bloom_fill_ratio", "gauge"),
                       ("weir_dedup_bloom_false_positives_total", "counter"), ("weir_dedup_memory_bytes", "gauge")):
        assert seen.type.get(name) == kind and seen.help[name], name
    assert w.status()["dedup"] == []


def test_the_log_says_what_became_of_it(once):
    handler = Numbered()
    w, up = once({"bypass": {"header": "X-Replay"}}, handler)
    secret = "canary-key-5512"
    ask(w, secret)
    ask(w, secret)
    ask(w, secret, body=b"x")
    ask(w, secret, headers=[("X-Replay", "replay-drill")])
    line = w.wait_log(dedup="first")
    assert (line["status"], line["attempts"], line["upstream"]) == (200, 1, "agent")
    line = w.wait_log(dedup="replayed")
    assert line["status"] == 200 and line.get("attempts") in (None, 0) and line.get("tokens_in") in (None, 0), line
    assert w.wait_log(dedup="mismatch")["status"] == 422
    w.wait_log(dedup="bypassed")
    assert secret not in w.stdout + w.stderr
    assert secret not in json.dumps(w.status()) and secret not in w.ask("/metrics").body.decode()


def test_counts_and_memory(once):
    w, up = once(handler=Numbered(pad=5000))
    for n in range(10):
        ask(w, f"k{n}")
    w.wait_metric("weir_dedup_keys", 10, dedup="once")
    assert 50000 <= w.metric("weir_dedup_memory_bytes", dedup="once") <= 200000
    [state] = w.status()["dedup"]
    assert (state["name"], state["keys"]) == ("once", 10)


def test_explain_says_what_a_key_would_meet(once):
    w, up = once({"on_duplicate": "reject"})
    ask(w, "old")

    def would(key=None, **more):
        query = "".join(f"&{k}={v}" for k, v in {**({"key": key} if key else {}), **more}.items())
        return w.ask_admin("/explain?listener=in&path=/&method=POST" + query).json()["dedup"]

    assert would()["name"] == "once"
    assert would("old") != would("new")
    assert would("old", tenant="acme")["would"] == would("new")["would"]
    for _ in range(3):
        assert would("new")["would"] == "run"
    ran(ask(w, "new"), 2)
    assert dedup_results(w) == {"first": 2}


def test_explain_consumes_nothing(once):
    w, up = once({**INEXACT, "on_duplicate": "acknowledge"})
    for _ in range(5):
        w.ask_admin("/explain?listener=in&path=/&method=POST&key=k1")
    ran(ask(w), 1)


def test_a_key_is_forgotten_by_hand(once):
    w, up = once()
    for tenant in ("a", "b"):
        ask(w, headers=[("X-Tenant-ID", tenant)])
    ask(w)
    ask(w, method="PUT")
    assert up.heads == 4

    def forget(query, where="once"):
        return w.ask_admin(f"/dedup/{where}?{query}", method="DELETE").status

    assert forget("key=k1&tenant=a") in (200, 204)
    assert forget("key=k1&tenant=a") == 404
    ran(ask(w, headers=[("X-Tenant-ID", "a")]), 5)
    replayed(ask(w, headers=[("X-Tenant-ID", "b")]), 2)
    replayed(ask(w), 3)
    assert forget("key=unknown&tenant=b") == 404
    assert forget("key=k1&tenant=b", "nosuch") == 404
    assert forget("") == 400
    assert forget("tenant=b") == 400
    replayed(ask(w, headers=[("X-Tenant-ID", "b")]), 2)
    assert forget("key=k1") in (200, 204)            # of the default tenant, whatever the method
    ran(ask(w), 6)
    ran(ask(w, method="PUT"), 7)


def test_forgetting_by_hand_takes_a_quoted_and_an_encoded_key(once):
    w, up = once()
    ran(ask(w, '"a b"'), 1)
    assert w.ask_admin("/dedup/once?key=a%20b", method="DELETE").status in (200, 204)
    ran(ask(w, '"a b"'), 2)


@pytest.mark.parametrize("value, key", [("a", "a"), (7, "7")])
def test_forgetting_a_member_of_the_body_by_hand(once, value, key):
    w, up = once(BY_JOB)
    ran(ask(w, None, job(value), headers=JSON), 1)
    assert w.ask_admin(f"/dedup/once?key={key}", method="DELETE").status in (200, 204)
    ran(ask(w, None, job(value), headers=JSON), 2)


def test_only_the_admin_address_forgets(once):
    w, up = once()
    ask(w)
    assert w.ask("/dedup/once?key=k1", method="DELETE").status in (404, 405)
    assert w.ask_admin("/dedup/once?key=k1").status in (404, 405)
    replayed(ask(w), 1)
