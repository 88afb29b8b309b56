"""Fallback: after what, in which order, and that each upstream gets its own - and nothing of another's."""
import json
import random
import time

import pytest

from faults import (CHUNKED, DIALECTS, MIDDLE, OK, ask_of, breaker_state, chain, error, outcomes, refused, status,
                    transitions)
from harness import (CLOSE, RESET, WAIT_GONE, Blackhole, Refuser, chunk, connect, exchange, get, problem, reply, request,
                     run_weir, wait_until)
from llm import FORMS, Llm, Usage
from support import in_parallel

LAST = reply(200, b"ok", [("Connection", "close")])
SHORT = {"timeouts": {"first_byte": "600ms", "connect": "600ms"}}
BREAKER = {"breaker": {"consecutive_failures": 1, "open": {"base": "60s", "max": "60s"}}}
BYTES = random.Random(44).randbytes(3 << 20)


def ask(w, method="POST", path="/x", body=b"hello", headers=(), **kw):
    if method in ("GET", "HEAD", "DELETE"):
        body = None
    return exchange(w.port, request(method, path, headers, body, **kw))


def chat(w, model="gpt-5", headers=(), path="/v1/chat/completions", **more):
    return ask(w, path=path, body=ask_of(model, **more), headers=[("Content-Type", "application/json"), *headers])


def fell(w, path, upstream, attempts, *pairs):
    """What the log and the metrics say of one request that fell back along these pairs."""
    line = w.wait_log(path=path)
    assert (line.get("upstream"), line.get("attempts", 0)) == (upstream, attempts), line
    found = {(d["from"], d["to"]): v for (name, have), v in w.metrics().items()
             if name == "weir_fallbacks_total" and v for d in [dict(have)]}
    assert found == {pair: 1 for pair in pairs}, found
    return line


# ------------------------------------------------------------------------------------------------------------ after what


STATUSES = (429, 500, 502, 503, 504, 529)


@pytest.mark.parametrize("method, dialect", [("GET", "plain"), ("POST", "plain"), ("POST", "openai"), ("POST", "anthropic")])
def test_a_status_that_means_another_might_do(start_faulty, start_weir, method, dialect):
    """A status that came is an outcome, whatever the method."""
    a, b = start_faulty(), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": dialect, "breaker": {"throttle": False}}))
    for n, code in enumerate(STATUSES, 1):
        a.answers(status(code))
        r = ask(w, method, f"/{n}")
        assert (r.status, r.body) == (200, b"ok"), (code, r)
        line = w.wait_log(path=f"/{n}")
        assert (line["upstream"], line["attempts"], line["status"], line.get("reason")) == ("b", 2, 200, None), line
        w.wait_metric("weir_fallbacks_total", n, **{"from": "agent", "to": "b"})
    assert len(a.requests) == len(b.requests) == len(STATUSES)
    assert w.metric("weir_retries_total") == 0


@pytest.mark.parametrize("dialect", ["plain", "openai"])
def test_a_status_that_means_the_request_is_passed_on(start_faulty, start_weir, dialect):
    a, b = start_faulty(), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": dialect}))
    for code in (200, 204, 301, 400, 401, 403, 404, 408, 409, 422, 501, 505):
        a.answers(status(code) if code != 204 else reply(204, b""))
        r = ask(w)
        assert r.status == code and r.weir_reason is None, r
    assert not b.requests and w.metric("weir_fallbacks_total") == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection(start_faulty, start_weir, method):
    b = start_faulty(OK)
    with Refuser() as nobody:
        w = start_weir(chain(nobody, b))
        assert ask(w, method).body == b"ok"
        assert b.requests[0].body == (b"hello" if method == "POST" else b"")
        fell(w, "/x", "b", 2, ("agent", "b"))
        assert (outcomes(w), outcomes(w, "b")) == ({"connect_failed": 1}, {"ok": 1})


def test_a_name_that_does_not_exist(start_faulty, start_weir):
    b = start_faulty(OK)
    w = start_weir(chain("http://does-not-exist.invalid:80", b, each={"timeouts": {"connect": "20s"}}))
    assert ask(w).body == b"ok"
    assert outcomes(w) == {"dns_failed": 1}


def test_a_connection_that_does_not_open(start_faulty, start_weir):
    b = start_faulty(OK)
    with Blackhole() as hole:
        w = start_weir(chain(hole, b, each=SHORT))
        assert ask(w).body == b"ok"
        assert outcomes(w) == {"timeout_connect": 1}


def test_a_lost_answer_falls_back_only_where_it_may_be_sent_again(start_faulty, start_weir):
    a, b = start_faulty(), start_faulty(LAST)
    w = start_weir(chain(a, b))
    for end in (RESET, CLOSE, b"\0garbage\r\n\r\n", [b"HTTP/1.1 200 O", 0.05, RESET]):
        b.clear()
        a.answers(end)
        for method in ("GET", "PUT"):
            assert ask(w, method).status == 200, end
        assert len(b.requests) == 2
        for method in ("POST", "PATCH"):
            problem(ask(w, method, "/lost"), 502, ("reset", "bad_response", "truncated"))
        assert len(b.requests) == 2
        line = w.wait_log(path="/lost")
        assert (line["upstream"], line["attempts"]) == ("agent", 1), line


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_lost_answer_of_a_provider_is_not_asked_for_elsewhere(start_faulty, start_weir, dialect):
    a, b = start_faulty(RESET), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": dialect}))
    error(ask(w), 502, "reset", dialect)
    assert not b.requests


def test_a_lost_answer_falls_back_where_the_method_is_configured(start_faulty, start_weir):
    a, b = start_faulty(RESET), start_faulty(OK)
    w = start_weir(chain(a, b, fields=[{"retry": {"methods": ["POST"]}}]))
    assert ask(w).body == b"ok"
    problem(ask(w, "PUT"), 502, "reset")


def test_a_timeout_falls_back_only_when_it_is_a_cause(start_faulty, start_weir):
    a, b = start_faulty(WAIT_GONE), start_faulty(OK)
    w = start_weir(chain(a, b, each=SHORT))
    problem(ask(w, "GET"), 504, "timeout_first_byte")
    assert not b.requests
    w = start_weir(chain(a, b, each=SHORT, fields=[{"retry": {"when": ["timeout"]}}]))
    assert ask(w, "GET").body == b"ok"
    problem(ask(w, "POST"), 504, "timeout_first_byte")
    assert len(b.requests) == 1
    w = start_weir(chain(a, b, each=SHORT, fields=[{"retry": {"when": ["timeout"], "methods": ["POST"]}}]))
    assert ask(w, "POST").body == b"ok"


def test_these_statuses_fall_back_whatever_the_causes(start_faulty, start_weir):
    a, b = start_faulty(), start_faulty(OK)
    w = start_weir(chain(a, b, fields=[{"retry": {"when": []}}]))
    for code, falls in ((429, True), (500, True), (529, True), (502, False), (503, False), (504, False)):
        a.answers(status(code))
        assert ask(w).status == (200 if falls else code), code


def test_without_retries_too(start_faulty, start_weir):
    a, b = start_faulty(), start_faulty(OK)
    w = start_weir(chain(a, b, fields=[{"retry": False}]))
    for code in (429, 500, 529):
        a.answers(status(code))
        assert ask(w).status == 200, code
    assert len(a.requests) == len(b.requests) == 3


def test_not_once_the_answer_began(start_faulty, start_weir):
    a, b = start_faulty(), start_faulty(OK)
    w = start_weir(chain(a, b, each={"timeouts": {"idle": "150ms"}}))
    for n, (name, (answer, _)) in enumerate(MIDDLE.items()):
        a.answers(answer)
        r = ask(w, "PUT", f"/{n}")
        assert r.status == 200 and not r.clean, (name, r)
        fell(w, f"/{n}", "agent", 1)
    assert not b.requests


def test_first_its_own_tries(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(status(503), OK)
    quick = {"attempts": 2, "backoff": {"base": "1ms", "max": "1ms"}}
    w = start_weir(chain(a, b, each={"retry": quick}))
    assert ask(w, "PUT").status == 200
    assert (len(a.requests), len(b.requests)) == (2, 2)
    fell(w, "/x", "b", 4, ("agent", "b"))
    assert (w.metric("weir_retries_total", upstream="agent"), w.metric("weir_retries_total", upstream="b")) == (1, 1)


def test_a_long_retry_after_does_not_hold_up_the_fallback(start_faulty, start_weir):
    a, b = start_faulty(status(429, retry_after=600)), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": "openai"}))
    assert chat(w).status == 200


def test_a_pause_that_a_try_began_is_not_waited_for(start_faulty, start_weir):
    """It is paused from then on: that falls back, although another try was due."""
    a, b = start_faulty(status(429, retry_after=2), OK), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": "openai", "breaker": {}}, fields=[{"retry": {"attempts": 2, "when": ["429"]}}]))
    assert chat(w).status == 200
    assert (len(a.requests), len(b.requests)) == (1, 1)


def test_a_spent_budget_falls_back(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(OK)
    w = start_weir(chain(a, b, fields=[{"retry": {"attempts": 2, "budget": "0%", "backoff": {"base": "1ms", "max": "1ms"}}}]))
    began = time.monotonic()
    assert [ask(w, "PUT").status for _ in range(8)] == [200] * 8
    seconds = time.monotonic() - began
    assert len(b.requests) == 8 and 8 + 3 <= len(a.requests) <= 8 + 3 * (seconds + 1)   # 3 a second are always granted


# -------------------------------------------------------------------------------------------------------------- the order


def test_they_are_asked_in_order(start_faulty, start_weir):
    ups = [start_faulty(status(code)) for code in (503, 500, 429)] + [start_faulty(OK)]
    w = start_weir(chain(*ups))
    assert ask(w).status == 200
    assert [len(up.requests) for up in ups] == [1, 1, 1, 1]
    began = [up.requests[0].started for up in ups]
    assert began == sorted(began)
    fell(w, "/x", "d", 4, ("agent", "b"), ("b", "c"), ("c", "d"))


def test_the_first_that_answers_ends_it(start_faulty, start_weir):
    ups = [start_faulty(status(503)), start_faulty(status(404)), start_faulty(OK)]
    w = start_weir(chain(*ups))
    assert ask(w).status == 404
    assert not ups[2].requests
    fell(w, "/x", "b", 2, ("agent", "b"))


def test_all_fail_and_the_last_outcome_is_the_answer(start_faulty, start_weir):
    a, b = start_faulty(status(503, b"of a", headers=[("X-Of", "a"), ("Connection", "close")])), start_faulty(status(500, b"of b", retry_after=7))
    w = start_weir(chain(a, b))
    r = ask(w, path="/1")
    assert (r.status, r.body, r.weir_reason, r.header("Retry-After")) == (500, b"of b", None, "7"), r
    assert "X-Of" not in r.headers
    b.answers(RESET)
    problem(ask(w, path="/2"), 502, "reset")
    a.answers(RESET)
    b.answers(status(529, b"of b"))
    r = ask(w, "GET", "/3")
    assert (r.status, r.body) == (529, b"of b"), r
    line = w.wait_log(path="/3")
    assert (line["upstream"], line["attempts"], line["status"]) == ("b", 2, 529), line


def test_all_refuse(start_weir):
    with Refuser() as one, Refuser() as two:
        w = start_weir(chain(one, two))
        problem(ask(w), 502, "connect_failed")
        fell(w, "/x", "b", 2, ("agent", "b"))


def test_one_upstream_may_be_the_fallback_of_many_routes(start_faulty, start_weir):
    a, b, c = start_faulty(status(500)), start_faulty(status(500)), start_faulty(OK)
    config = chain(a, b, c)
    config["listeners"]["in"]["routes"] = [{"path": "/a", "upstream": "agent", "fallback": ["c"]},
                                           {"path": "/b", "upstream": "b", "fallback": ["c"]},
                                           {"path": "/none", "upstream": "agent"}]
    w = start_weir(config)
    assert [ask(w, path=p).status for p in ("/a", "/b", "/none")] == [200, 200, 500]
    assert (len(a.requests), len(b.requests), len(c.requests)) == (2, 1, 2)


# -------------------------------------------------------------------------------------------------------- breaker, pauses


def test_an_open_breaker_falls_back_without_a_call(start_faulty, start_weir):
    a, b = start_faulty(RESET), start_faulty(OK)
    w = start_weir(chain(a, b, fields=[BREAKER]))
    problem(ask(w, path="/1"), 502, "reset")
    assert breaker_state(w) == "open"
    for n in range(3):
        assert ask(w, path="/2").body == b"ok"
    assert (len(a.requests), len(b.requests)) == (1, 3)
    line = w.wait_log(path="/2")
    assert (line["upstream"], line["attempts"], line.get("reason")) == ("b", 1, None), line
    w.wait_metric("weir_fallbacks_total", 3, **{"from": "agent", "to": "b"})


def test_an_open_breaker_of_a_fallback_is_passed_over(start_faulty, start_weir):
    a, b, c = start_faulty(RESET), start_faulty(RESET), start_faulty(OK)
    w = start_weir(chain(a, b, c, each=BREAKER))
    assert ask(w, "GET").status == 200
    assert [breaker_state(w, name) for name in ("agent", "b", "c")] == ["open", "open", "closed"]
    assert ask(w, "POST", "/2").status == 200
    assert (len(a.requests), len(b.requests), len(c.requests)) == (1, 1, 2)
    line = w.wait_log(path="/2")
    assert (line["upstream"], line["attempts"]) == ("c", 1), line


@pytest.mark.parametrize("dialect", ["plain", "anthropic"])
def test_all_open_is_answered_at_once(start_faulty, start_weir, dialect):
    a, b = start_faulty(RESET), start_faulty(RESET)
    w = start_weir(chain(a, b, each={"dialect": dialect}, fields=[BREAKER, BREAKER]))
    error(ask(w, "GET"), 502, "reset", dialect)
    assert 40 <= refused(ask(w, path="/2"), "breaker_open", dialect) <= 60
    assert (len(a.requests), len(b.requests)) == (1, 1)


def test_a_failure_and_then_an_open_breaker_leave_the_failure(start_faulty, start_weir):
    """The last outcome there was is that of the one that was asked."""
    a, b = start_faulty(status(500, b"of a")), start_faulty(RESET)
    config = chain(a, b, fields=[{}, BREAKER])
    config["listeners"]["in"]["routes"].append({"path": "/b", "upstream": "b"})
    w = start_weir(config)
    problem(ask(w, path="/b"), 502, "reset")
    r = ask(w)
    assert (r.status, r.body) == (500, b"of a"), r
    assert len(b.requests) == 1


def test_a_pause_falls_back_without_a_call(start_faulty, start_weir):
    a, b = start_faulty(status(429, retry_after=60)), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": "openai", "breaker": {}}))
    for n in range(4):
        assert chat(w).status == 200
    assert (len(a.requests), len(b.requests)) == (1, 4)
    assert breaker_state(w) == "paused"


def test_a_pause_of_both_is_answered_with_the_first_that_ends(start_faulty, start_weir):
    a, b = start_faulty(status(429, retry_after=500)), start_faulty(status(529, retry_after=50))
    w = start_weir(chain(a, b, each={"dialect": "openai", "breaker": {}}))
    r = chat(w)
    assert (r.status, r.weir_reason) == (529, None), r
    assert 1 <= refused(chat(w), "throttled", "openai") <= 500
    assert (len(a.requests), len(b.requests)) == (1, 1)


def test_each_upstream_has_its_own_breaker(start_faulty, start_weir):
    a, b = start_faulty(RESET), start_faulty(OK)
    w = start_weir(chain(a, b, fields=[BREAKER, BREAKER]))
    assert [ask(w, "GET").status for _ in range(5)] == [200] * 5
    assert (breaker_state(w), breaker_state(w, "b")) == ("open", "closed")
    assert (transitions(w, "open"), transitions(w, "open", "b")) == (1, 0)


QUICK = {"attempts": 2, "backoff": {"base": "1ms", "max": "1ms"}}


def fallbacks(w):
    return {(d["from"], d["to"]): v for (name, have), v in w.metrics().items()
            if name == "weir_fallbacks_total" and v for d in [dict(have)]}


def test_the_soonest_of_all_is_when_to_come_again(start_faulty, start_weir):
    """Whatever they refuse for: the reason is of the one that was asked first, the time of the first that ends."""
    ups = [start_faulty(RESET), start_faulty(status(429, retry_after=3)), start_faulty(status(429, retry_after=600))]
    w = start_weir(chain(*ups, each={"breaker": {"throttle": {}}}, fields=[BREAKER]))
    assert ask(w, "GET").status == 429
    assert 1 <= refused(ask(w, path="/all"), "breaker_open") <= 3
    line = w.wait_log(path="/all")
    assert (line["upstream"], line["reason"]) == ("agent", "breaker_open") and "attempts" not in line, line
    assert fallbacks(w) == {("agent", "b"): 1, ("b", "c"): 1}, "nobody was asked in place of another"
    ups[1].answers(OK)
    r = wait_until(lambda: (r := ask(w)).status == 200 and r, "the pause of b to end", every=0.05)
    assert r.body == b"ok"


def test_a_fallback_has_a_budget_of_its_own_requests(start_faulty, start_weir):
    """Twenty that came to b by falling back earn it four retries; those that never reached it earn none."""
    a, b = start_faulty(status(500)), start_faulty(status(503))
    w = start_weir(chain(a, b, fields=[{}, {"retry": {**QUICK, "budget": "100%"}}]))
    for n in range(20):
        assert ask(w, "PUT", f"/{n}").status == 503
    assert len(b.requests) == 40 and w.metric("weir_retries_total", upstream="b") == 20


def test_a_request_that_an_open_breaker_refused_earns_no_retry(start_faulty, start_weir):
    a = start_faulty(status(503))
    w = start_weir(chain(a, each={"retry": {**QUICK, "budget": "50%"}, "breaker": {}}))
    assert w.ask_admin("/upstreams/agent/breaker?state=open", method="POST").status == 200
    in_parallel(4, lambda n: [ask(w, "PUT", "/refused") for _ in range(50)])
    assert not a.requests
    assert w.ask_admin("/upstreams/agent/breaker?state=closed", method="POST").status == 200
    began = time.monotonic()
    in_parallel(5, lambda n: [ask(w, "PUT", "/asked") for _ in range(8)])
    retries = w.metric("weir_retries_total", upstream="agent")
    assert len(a.requests) == 40 + retries and retries <= 20 + 3 * (time.monotonic() - began), retries


def test_times_of_earlier_tries_are_no_time_of_weirs(start_faulty, start_weir):
    a, b = start_faulty([0.4, status(500)]), start_faulty(OK)
    w = start_weir(chain(a, b))
    assert ask(w).status == 200
    line = w.wait_log(path="/x")
    assert line["attempts"] == 2 and line["duration_ms"] >= 400 and line["overhead_ms"] < 200, line


def test_a_pause_by_key_does_not_ask_how_a_field_is_spelled(start_faulty, start_weir):
    a = start_faulty(status(429, retry_after=60), OK)
    w = start_weir(chain(a, each={"dialect": "openai", "breaker": {}}))
    assert chat(w, headers=[("authorization", "Bearer k")]).status == 429
    refused(chat(w, headers=[("AUTHORIZATION", "Bearer k")]), "throttled", "openai")
    assert chat(w, headers=[("AUTHORIZATION", "Bearer K")]).status == 200


def test_a_breaker_of_a_model_with_quotes_is_its_own(start_faulty, start_weir):
    a = start_faulty(RESET)
    w = start_weir(chain(a, fields=[{"dialect": "openai", "models": {"gpt": 'my "own" \\/ü'},
                                     "breaker": {"key": ["upstream", "model"], "consecutive_failures": 1,
                                                 "open": {"base": "60s"}}}]))
    error(chat(w, "gpt"), 502, "reset", "openai")
    refused(chat(w, "gpt"), "breaker_open", "openai")
    assert w.metric("weir_breaker_state", model="__other__", state="open") == 0
    a.answers(OK)
    assert chat(w, "another").status == 200


def test_a_model_with_a_nul_is_no_other(start_faulty, start_weir):
    a = start_faulty(LAST)
    w = start_weir(chain(a, fields=[{"models": {"gpt": "renamed"}}]))
    for model in ("gpt\0", "gpt\0" + "x" * 200, "\0", "g"):
        a.clear()
        assert chat(w, model).status == 200
        assert json.loads(a.requests[0].body)["model"] == model
    assert chat(w, "gpt").status == 200 and json.loads(a.requests[-1].body)["model"] == "renamed"


def explained(w, **asked):
    r = w.ask_admin("/explain?" + "&".join(f"{k}={v}" for k, v in {"listener": "in", "path": "/v1/x", "method": "POST",
                                                                   **asked}.items()))
    assert r.status == 200, r
    return r.json()


def test_explain_tells_what_each_upstream_would_say(start_faulty, start_weir):
    a, b = start_faulty(status(429, retry_after=60)), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": "openai", "breaker": {}, "models": {"gpt-5": "five"}}))
    free = {"would": "ask", "reason": None, "retry_after_seconds": None}
    told = explained(w, model="gpt-5")
    assert told["would"] == "pass" and free.items() <= told["upstream"].items()
    assert [x["name"] for x in told["fallback"]] == ["b"] and free.items() <= told["fallback"][0].items()
    assert chat(w, headers=CREDENTIALS[:1]).status == 200
    key = {"header.Authorization": "Bearer%20secret-1"}
    told = explained(w, model="gpt-5", **key)
    assert (told["would"], told["upstream"]["would"], told["upstream"]["reason"]) == ("pass", "refuse", "throttled"), told
    assert 50 <= told["upstream"]["retry_after_seconds"] <= 60
    for other in ({"model": "gpt-5"}, {"model": "another", **key}):
        assert explained(w, **other)["upstream"]["would"] == "ask", other
    assert w.ask_admin("/upstreams/b/breaker?state=open", method="POST").status == 200
    told = explained(w, model="gpt-5", **key)
    assert (told["would"], told["reason"], told["fallback"][0]["reason"]) == ("refuse", "throttled", "breaker_open"), told
    assert (len(a.requests), len(b.requests)) == (1, 1)


# ------------------------------------------------------------------------------------------------------- each gets its own


def test_each_has_its_own_headers_query_host_path_and_forward(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(OK)
    w = start_weir(chain(f"{a.url}/one", f"{b.url}/two/deep", fields=[
        {"headers": {"set": {"Authorization": "Bearer key-of-a", "X-Only-A": "1"}, "remove": ["X-Drop-A"]},
         "query": {"set": {"version": "a", "extra": "a b"}}, "host": "preserve"},
        {"headers": {"set": {"X-Api-Key": "key-of-b"}, "remove": ["X-Drop-B"]}, "query": {"set": {"version": "b"}},
         "forward": ["correlation"]}]))
    r = ask(w, path="/p?version=mine&q=%20x", headers=[("X-Drop-A", "1"), ("X-Drop-B", "2"), ("X-Correlation-ID", "id-1"),
                                                       ("X-Tenant-ID", "acme")], host="callers.test")
    assert r.status == 200
    one, two = a.requests[0], b.requests[0]
    assert one.target.startswith("/one/p?") and two.target.startswith("/two/deep/p?")
    assert sorted(one.target.partition("?")[2].split("&")) in (sorted(["version=a", "q=%20x", "extra=" + space])
                                                                for space in ("a%20b", "a+b")), [one.target]
    assert sorted(two.target.partition("?")[2].split("&")) == ["q=%20x", "version=b"], two.target
    assert (one.header("Host"), two.header("Host")) == ("callers.test", f"127.0.0.1:{b.port}")
    assert (one.header("Authorization"), one.header("X-Only-A"), one.header("X-Drop-B")) == ("Bearer key-of-a", "1", "2")
    assert (two.header("X-Api-Key"), two.header("X-Drop-A")) == ("key-of-b", "1")
    assert "X-Drop-A" not in one.headers and "X-Drop-B" not in two.headers and "X-Only-A" not in two.headers
    assert (one.header("X-Tenant-ID"), two.header("X-Tenant-ID")) == ("acme", None)
    assert one.header("X-Correlation-ID") == two.header("X-Correlation-ID") == "id-1"
    assert "traceparent" in one.headers and "traceparent" not in two.headers
    assert b"key-of-b" not in one.raw and b"key-of-a" not in two.raw
    assert one.body == two.body == b"hello"


CREDENTIALS = [("Authorization", "Bearer secret-1"), ("x-api-key", "secret-2"), ("api-key", "secret-3"),
               ("x-goog-api-key", "secret-4"), ("Proxy-Authorization", "Basic secret-5")]


@pytest.mark.parametrize("own", [{}, {"X-API-Key": "key-of-b"}], ids=["without one", "with its own"])
def test_the_callers_credentials_do_not_go_to_a_fallback(start_faulty, start_weir, own):
    a, b = start_faulty(status(503)), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": "openai"}, fields=[{}, {"headers": {"set": own}}]))
    r = chat(w, headers=CREDENTIALS[:3])
    assert r.status == 200
    one, two = a.requests[0], b.requests[0]
    assert (one.header("Authorization"), one.header("x-api-key")) == ("Bearer secret-1", "secret-2")
    assert b"secret-1" not in two.raw and b"secret-2" not in two.raw, two.headers
    assert b"key-of-b" not in one.raw
    assert {n: v for n, v in two.headers if n.lower() in ("authorization", "x-api-key")} == own or \
        [v for n, v in two.headers if n.lower() in ("authorization", "x-api-key")] == list(own.values())


def test_nor_when_the_first_was_not_even_asked(start_faulty, start_weir):
    a, b = start_faulty(RESET), start_faulty(OK)
    w = start_weir(chain(a, b, each={"dialect": "anthropic"}, fields=[BREAKER]))
    for _ in range(2):
        chat(w, path="/v1/messages", headers=CREDENTIALS[:2])
    assert len(b.requests) == 1 and b"secret" not in b.requests[0].raw, b.requests[0].headers


KEYS = "api_key=secret-a&api-key=secret-b&apikey=secret-c&access_token=secret-d&a%70i_key=secret-e&subscription-key=secret-f"


@pytest.mark.parametrize("dialect", ["plain", "openai"])
def test_nor_those_in_its_query(start_faulty, start_weir, dialect):
    a, b, c = start_faulty(status(503)), start_faulty(status(503)), start_faulty(OK)
    w = start_weir(chain(a, b, c, each={"dialect": dialect}, fields=[{}, {}, {"query": {"set": {"api_key": "of-c"}}}]))
    assert ask(w, path=f"/x?q=1&{KEYS}&&key=k%20k&keys=2&r").status == 200
    left = "q=1&" + ("key=k%20k&" if dialect == "plain" else "") + "keys=2&r"
    assert a.requests[0].target == f"/x?q=1&{KEYS}&&key=k%20k&keys=2&r", "the first one has every byte"
    assert (b.requests[0].target, c.requests[0].target) == (f"/x?{left}", f"/x?{left}&api_key=of-c")
    assert ask(w, path="/x?api_key=secret").status == 200
    assert (b.requests[1].target, c.requests[1].target) == ("/x", "/x?api_key=of-c")


def test_nor_a_key_that_could_have_named_the_tenant(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(OK)
    w = start_weir(chain(a, b, tenant={"from": [{"header": "X-Tenant-ID"}, {"api_key": "X-Our-Key"}]}))
    assert ask(w, headers=[("X-Tenant-ID", "acme"), ("X-OUR-KEY", "secret"), ("X-Our-Keys", "kept")]).status == 200
    assert b"secret" not in b.requests[0].raw and b.requests[0].header("X-Our-Keys") == "kept", b.requests[0].headers


def test_a_fallback_behind_a_fallback_has_nothing_of_either(start_faulty, start_weir):
    ups = [start_faulty(status(503)), start_faulty(status(503)), start_faulty(OK)]
    keys = [{"headers": {"set": {"Authorization": f"Bearer key-{n}", f"X-Key-{n}": f"key-{n}"}}} for n in range(3)]
    w = start_weir(chain(*ups, fields=keys))
    assert ask(w, headers=CREDENTIALS).status == 200
    for n, up in enumerate(ups):
        raw = up.requests[0].raw
        assert [k for k in range(3) if b"key-%d" % k in raw] == [n], up.requests[0].headers
        assert b"secret-1" not in raw


def test_a_configured_key_replaces_the_callers_at_the_first(start_faulty, start_weir):
    a = start_faulty(OK)
    w = start_weir(chain(a, fields=[{"headers": {"set": {"authorization": "Bearer ours"}}}]))
    assert ask(w, headers=CREDENTIALS[:1]).status == 200
    assert a.requests[0].headers.all("Authorization") == ["Bearer ours"]


MODELS = ({"gpt-5": "model-of-a", "small": "tiny-of-a"}, {"gpt-5": 'model "of" b/ü', "small": "t"})
BODIES = {
    "first": (b'{"model":"gpt-5","messages":[{"role":"user","content":"hi"}]}', b'"gpt-5"'),
    "last": (b'{ "messages" : [ {"model": "gpt-5", "x": "\\"model\\": \\"gpt-5\\""} ] ,\r\n\t"model"  :   "gpt-5"  }\n', None),
    "escaped": (b'{"a":1.50,"model":"g\\u0070t\\u002D5","b":null,"a":[{"model":"gpt-5"}]}', b'"g\\u0070t\\u002D5"'),
    "an escaped name": (b'{"mod\\u0065l":"gpt-5","z":"\\ud83d\\ude00"}', b'"gpt-5"'),
    "shorter": (b'{"model":"small","n":1e5}', b'"small"'),
}


@pytest.mark.parametrize("dialect, chunked", [("plain", False), ("openai", False), ("anthropic", True)])
def test_each_gets_its_own_model_and_every_other_byte_as_it_was(start_faulty, start_weir, dialect, chunked):
    a, b = start_faulty(status(503)), start_faulty(LAST)
    w = start_weir(chain(a, b, each={"dialect": dialect}, fields=[{"models": MODELS[0]}, {"models": MODELS[1]}]))
    for name, (body, value) in BODIES.items():
        a.clear()
        b.clear()
        at = body.rindex(b'"gpt-5"') if value is None else body.index(value)
        before, after = body[:at], body[at + len(value or b'"gpt-5"'):]
        pieces = [body[i:i + 7] for i in range(0, len(body), 7)] if chunked else body
        r = ask(w, path="/v1/chat/completions", body=pieces, chunked=chunked, headers=[("Content-Type", "application/json")])
        assert r.status == 200, (name, r)
        for up, models in ((a, MODELS[0]), (b, MODELS[1])):
            got = up.requests[0].body
            assert got.startswith(before) and got.endswith(after), (name, got)
            wanted = models["small" if name == "shorter" else "gpt-5"]
            assert json.loads(got[len(before):len(got) - len(after)]) == wanted, (name, got)
            assert json.loads(got)["model"] == wanted


def test_only_where_it_has_another_name(start_faulty, start_weir):
    """The first rewrites, the second does not: it sees the caller's own bytes; and the other way round."""
    a, b = start_faulty(status(503)), start_faulty(LAST)
    body = b'{"model": "gp\\u0074-5" , "x":[1,2 ]}'
    for fields, rewritten in (([{"models": {"gpt-5": "other"}}], a), ([{}, {"models": {"gpt-5": "other"}}], b)):
        a.clear()
        b.clear()
        w = start_weir(chain(a, b, each={"dialect": "openai"}, fields=fields))
        assert ask(w, path="/v1/chat/completions", body=body, headers=[("Content-Type", "application/json")]).status == 200
        for up in (a, b):
            wanted = b'{"model": "other" , "x":[1,2 ]}' if up is rewritten else body
            assert up.requests[0].body == wanted


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_body_is_whole_for_the_second(start_faulty, start_weir, chunked):
    a, b, c = start_faulty(status(503)), start_faulty(RESET), start_faulty(LAST)
    w = start_weir(chain(a, b, c))
    for n, size in enumerate((300_000, 1 << 20, (1 << 20) + 1, 3 << 20)):
        for up in (a, b, c):
            up.clear()
        body = BYTES[:size]
        pieces = [body[i:i + 65_000] for i in range(0, size, 65_000)] if chunked else body
        r = ask(w, "PUT", f"/{n}", pieces, chunked=chunked)
        assert r.status == 200, (size, r)
        assert a.bodies == b.bodies == c.bodies == [body], (size, [len(x.body) for x in a.requests + b.requests + c.requests])


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_model_at_the_end_of_a_large_body(start_faulty, start_weir, chunked):
    a, b = start_faulty(status(529)), start_faulty(LAST)
    w = start_weir(chain(a, b, each={"dialect": "openai"}, fields=[{"models": {"gpt-5": "of-a"}}, {"models": {"gpt-5": "of-b"}}]))
    start = b'{"messages":[{"role":"user","content":"' + b"x" * 2_000_000 + b'"}],"model":"'
    body = start + b'gpt-5","n":1}'
    pieces = [body[i:i + 50_000] for i in range(0, len(body), 50_000)] if chunked else body
    r = ask(w, path="/v1/chat/completions", body=pieces, chunked=chunked, headers=[("Content-Type", "application/json")])
    assert r.status == 200, r
    assert a.bodies == [start + b'of-a","n":1}'] and b.bodies == [start + b'of-b","n":1}']


def test_a_try_that_fails_before_the_body_is_in(start_faulty, start_weir):
    a, b = start_faulty([lambda p: p.send(status(503, headers=[("Connection", "close")])), CLOSE], early=True), start_faulty(OK)
    w = start_weir(chain(a, b))
    body = BYTES[:2_000_000]
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Content-Length", len(body))]) + body[:500_000])
        b.wait_heads(1)
        c.send(body[500_000:])
        assert c.read_response().status == 200
    assert b.bodies == [body]


def test_a_body_over_max_body_is_refused_as_ever(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(OK)
    w = start_weir(chain(a, b, server={"max_body": "100KiB"}))
    assert ask(w, body=b"x" * 200_000).status == 413
    assert not b.requests


def test_bodies_kept_for_a_fallback_are_bounded_together(start_faulty, start_weir):
    """They count in server.max_buffered; what is over it is refused, and given back at its end."""
    a, b = start_faulty(status(503, headers=[("Connection", "close")])), start_faulty(LAST)
    w = start_weir(chain(a, b, server={"max_buffered": "4MiB"}))
    statuses = {r.status for r in in_parallel(6, lambda n: ask(w, "PUT", f"/{n}", BYTES[:2 << 20]))}
    assert 200 in statuses and statuses <= {200, 503}
    w.wait_metric("weir_in_flight", 0)
    assert ask(w, "PUT", body=BYTES[:2 << 20]).status == 200


# ---------------------------------------------------------------------------------------------------- limits, time, tokens


def test_limits_are_charged_once(start_faulty, start_weir):
    ups = [start_faulty(status(503)), start_faulty(status(500)), start_faulty(LAST)]
    w = start_weir(chain(*ups, route={"limits": ["few", "slots", "bytes"]}, limits={
        "few": {"algorithm": "sliding_window", "limit": 10, "window": "1h"},
        "slots": {"algorithm": "concurrency", "limit": 1},
        "bytes": {"unit": "request_bytes", "rate": "1/h", "burst": 1000}}))
    first = rate_limit_of(ask(w, body=b"x" * 100))
    for n in range(1, 4):
        assert rate_limit_of(ask(w, body=b"x" * 100)) == first - n
    assert [ask(w, body=b"x" * 100).status for _ in range(6)] == [200] * 6
    assert [ask(w, body=b"x" * 100).status for _ in range(2)] == [429] * 2
    assert [len(up.requests) for up in ups] == [10, 10, 10]


def rate_limit_of(r):
    assert r.status == 200, r
    return int(dict(p.split("=") for p in r.header("RateLimit").split(",") if p.lstrip().startswith('"few"')
                    for p in p.split(";")[1:])["r"])


def test_one_total_timeout_over_all_of_them(start_faulty, start_weir):
    a, b, c = start_faulty(status(503)), start_faulty([0.3, status(503)]), start_faulty(WAIT_GONE)
    w = start_weir(chain(a, b, c, each={"timeouts": {"total": "800ms"}}))
    problem(ask(w), 504, "timeout_total")
    assert [len(up.requests) for up in (a, b, c)] == [1, 1, 1]
    fell(w, "/x", "c", 3, ("agent", "b"), ("b", "c"))
    c.wait_gone()


def test_time_that_is_over_leaves_none_for_a_fallback(start_faulty, start_weir):
    a, b = start_faulty(WAIT_GONE), start_faulty(OK)
    w = start_weir(chain(a, b, each={"timeouts": {"total": "300ms"}}, fields=[{"retry": {"when": ["timeout"]}}]))
    problem(ask(w, "GET"), 504, "timeout_total")
    assert not b.requests


def test_a_caller_who_leaves_ends_the_call_at_a_fallback(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(WAIT_GONE)
    w = start_weir(chain(a, b))
    with connect(w.port) as c:
        c.send(request("POST", "/x", body=b"hello"))
        b.wait_heads(1)
    b.wait_gone()
    line = w.wait_log(path="/x")
    assert (line["reason"], line["upstream"], line["attempts"]) == ("client_gone", "b", 2), line


TOKENS = {"limits": {"tokens": {"unit": "llm_tokens", "rate": "1/h", "burst": 100_000}}}


@pytest.mark.parametrize("name", ["chat stream", "messages"])
def test_tokens_settle_with_the_upstream_that_answers(start_faulty, start_upstream, start_weir, name):
    form = FORMS[name]
    a = start_faulty(status(529, retry_after=0))
    b = start_upstream(Llm(Usage(input=100, output=20)))
    w = start_weir(chain(a, b, each={"dialect": form.dialect}, route={"limits": ["tokens"]}, fields=[
        {"usage": {"weights": {"input": 7, "output": 7}}}, {"usage": {"weights": {"input": 3, "output": 10}}}], **TOKENS))

    def left():
        r = get(w.port, "/probe", [("X-Tenant-ID", "acme"), ("X-Correlation-ID", "probe")])
        return int(r.header("x-ratelimit-remaining-tokens"))

    full = left()
    r = ask(w, path=form.path, body=form.ask(), headers=[("X-Tenant-ID", "acme"), ("Content-Type", "application/json")])
    assert r.status == 200 and r.clean, r
    line = w.wait_log(path=form.path)
    assert (line["tokens_in"], line["tokens_out"], line["upstream"], line["attempts"]) == (100, 20, "b", 2), line
    assert full - left() == 3 * 100 + 10 * 20
    w.wait_metric("weir_llm_tokens_total", 100, upstream="b", tenant="acme", type="input")
    w.wait_metric("weir_llm_tokens_total", 20, upstream="b", tenant="acme", type="output")
    assert w.metric("weir_llm_tokens_total", upstream="agent") == 0


def test_tokens_of_a_call_that_all_refused_are_given_back(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(status(500))
    w = start_weir(chain(a, b, each={"dialect": "openai"}, route={"limits": ["tokens"]}, **TOKENS))

    def left():
        return int(chat(w).header("x-ratelimit-remaining-tokens"))

    first = left()
    assert [left() for _ in range(3)] == [first] * 3


# ----------------------------------------------------------------------------------------------------------- other matters


def test_the_answer_is_of_one_alone(start_faulty, start_weir):
    a = start_faulty(status(503, headers=[("X-Of", "a"), ("Set-Cookie", "a=1")]))
    b = start_faulty(reply(201, b"of b", [("X-Of", "b"), ("X-Correlation-ID", "of-b")]))
    r = ask(start_weir(chain(a, b)), headers=[("X-Correlation-ID", "mine")])
    assert (r.status, r.body, r.headers.all("X-Of"), r.headers.all("Set-Cookie")) == (201, b"of b", ["b"], []), r
    assert r.headers.all("X-Correlation-ID") == ["mine"]


def test_a_stream_of_a_fallback_is_streamed(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty([CHUNKED + chunk(b"data: 1\n\n"), WAIT_GONE])
    w = start_weir(chain(a, b))
    with connect(w.port) as c:
        c.send(request("POST", "/x", body=b"hello"))
        assert c.read_head().status == 200
        c.recv_until(b"data: 1\n\n")


def test_a_fallback_of_another_dialect(start_faulty, start_weir):
    """Errors are in the dialect of the route's upstream, whoever was asked last."""
    a, b = start_faulty(status(503)), start_faulty(RESET)
    w = start_weir(chain(a, b, fields=[{"dialect": "anthropic"}, {"dialect": "openai"}]))
    error(ask(w), 502, "reset", "anthropic")


def test_a_fallback_over_a_unix_socket(start_upstream, start_weir):
    b = start_upstream(unix=True)
    with Refuser() as nobody:
        w = start_weir(chain(nobody, b))
        assert ask(w, host="callers.test").body == b"ok"
        assert b.requests[0].header("Host") == "callers.test"


def test_a_reload_may_add_one(start_faulty, start_weir):
    a, b = start_faulty(status(503)), start_faulty(OK)
    config = chain(a, b, route={"fallback": []})
    w = start_weir(config)
    assert ask(w).status == 503
    config["listeners"]["in"]["routes"][0]["fallback"] = ["b"]
    w.reload(config)
    assert ask(w).status == 200


def test_what_a_fallback_cannot_be(start_faulty):
    for names, word in ((["nobody"], "nobody"), (["agent"], "agent"), (["b", "b"], "b"), ("b", "fallback")):
        config = chain("http://127.0.0.1:1", "http://127.0.0.1:2", route={"fallback": names})
        done = run_weir("--check", config=config)
        assert done.returncode == 2 and "fallback" in done.stdout + done.stderr and word in done.stdout + done.stderr, names
