"""Retries: what is sent again, how often, when, and that the second try is the first one once more, byte for byte."""
import random
import signal
import threading
import time

import pytest

from faults import MIDDLE, OK, error, in_seconds, outcomes, retrying, status
from harness import (CLOSE, RESET, WAIT_GONE, Refuser, Upstream, chunk, connect, exchange, get, problem, reply, request,
                     wait_until)
from support import Caller, in_parallel

AGAIN = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]
NOT_AGAIN = ["POST", "PATCH", "PROPFIND"]
DEFAULT = {"reset": RESET, "502": status(502), "503": status(503), "504": status(504)}
CAUSES = {**DEFAULT, "429": status(429, retry_after=0), "500": status(500), "529": status(529, retry_after=0),
          "timeout": WAIT_GONE}
LAST = reply(200, b"ok", [("Connection", "close")])      # the next request is not one on a kept connection
SHORT = {"timeouts": {"first_byte": "600ms"}}


def bodied(method):
    return b"hello" if method in ("PUT", "POST", "PATCH") else None


def ask(w, method="GET", path="/x", body=None, headers=(), **kw):
    return exchange(w.port, request(method, path, headers, bodied(method) if body is None else body, **kw), method)


def attempts_of(w, path="/x"):
    return w.wait_log(path=path)["attempts"]


def without(answer, method):
    """The answer to HEAD has no body."""
    return answer[:answer.index(b"\r\n\r\n") + 4] if method == "HEAD" and isinstance(answer, bytes) else answer


# ------------------------------------------------------------------------------------------------ which are tried again


@pytest.mark.parametrize("cause", DEFAULT)
def test_by_default_these_are_sent_again(start_faulty, start_weir, cause):
    up = start_faulty()
    w = start_weir(retrying(up))
    for n, method in enumerate(AGAIN, 1):
        up.clear()
        up.answers(without(DEFAULT[cause], method), without(LAST, method))
        r = ask(w, method, f"/{n}")
        assert (r.status, r.clean, len(up.requests)) == (200, True, 2), (method, r, up.requests)
        assert up.conns[0] != up.conns[1], "not on the connection that failed"
        line = w.wait_log(path=f"/{n}")
        assert (line["attempts"], line["status"], line.get("reason"), line["upstream"]) == (2, 200, None, "agent"), line
        w.wait_metric("weir_retries_total", n, upstream="agent", tenant="anonymous")
    assert outcomes(w) == {"ok": n, "reset" if cause == "reset" else "5xx": n}
    w.wait_metric("weir_in_flight", 0)


@pytest.mark.parametrize("cause", DEFAULT)
def test_by_default_others_are_not(start_faulty, start_weir, cause):
    up = start_faulty()
    w = start_weir(retrying(up))
    for n, method in enumerate(NOT_AGAIN):
        up.clear()
        up.answers(DEFAULT[cause], LAST)
        r = ask(w, method, f"/{n}")
        if cause == "reset":
            problem(r, 502, "reset")
        else:
            assert (r.status, r.weir_reason, b"upstream says" in r.body) == (int(cause), None, True), (method, r)
        assert len(up.requests) == 1 and attempts_of(w, f"/{n}") == 1, method
        assert ask(w, "POST", "/again").status == 200
    assert w.metric("weir_retries_total") == 0


def one_each(up, retries):
    """Upstreams of the same url, each with its own retry, behind paths of their names."""
    config = retrying(up)
    for name, retry in retries.items():
        own = retrying(up, retry, agent=SHORT)["upstreams"]["agent"]
        config["upstreams"][f"u-{name}"] = own
        config["listeners"]["in"]["routes"].append({"path": f"/{name}", "upstream": f"u-{name}"})
    return config


def test_by_default_these_causes_are_passed_on(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(retrying(up, agent=SHORT))
    for cause in sorted(CAUSES.keys() - DEFAULT.keys()):
        up.clear()
        up.answers(CAUSES[cause], LAST)
        assert ask(w, path=f"/{cause}").status == (504 if cause == "timeout" else int(cause))
        assert len(up.requests) == 1 and attempts_of(w, f"/{cause}") == 1


def test_each_cause_can_be_asked_for_alone(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(one_each(up, {cause: {"when": [cause]} for cause in CAUSES}))
    for cause in CAUSES:
        up.clear()
        up.answers(CAUSES[cause], LAST)
        r = ask(w, path=f"/{cause}")
        assert (r.status, r.body, len(up.requests)) == (200, b"ok", 2), (cause, r)
        assert up.conns[0] != up.conns[1]
        assert attempts_of(w, f"/{cause}") == 2


def test_a_cause_that_is_not_asked_for_is_passed_on(start_faulty, start_weir):
    up = start_faulty()
    every = [*CAUSES, "connect"]
    w = start_weir(one_each(up, {cause: {"when": [c for c in every if c != cause]} for cause in [*CAUSES, "404", "501"]}))
    for cause in [*CAUSES, "404", "501"]:
        up.clear()
        up.answers(CAUSES.get(cause) or status(int(cause), headers=[("Connection", "close")]), LAST)
        assert ask(w, "PUT", f"/{cause}").status != 200, cause
        assert len(up.requests) == 1, cause
        assert ask(w, path="/last").status == 200


@pytest.mark.parametrize("cause", ["reset", "503"])
def test_configured_methods_replace_the_others(start_faulty, start_weir, cause):
    up = start_faulty(CAUSES[cause], LAST)
    w = start_weir(retrying(up, {"methods": ["POST"]}))
    assert ask(w, "POST").status == 200
    up.answers(CAUSES[cause], OK)
    assert ask(w, "GET").status != 200
    assert [r.method for r in up.requests] == ["POST", "POST", "GET"]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_refused_connection_is_tried_again_whatever_the_method(start_weir, method):
    with Refuser() as nobody:
        w = start_weir(retrying(nobody))
        problem(ask(w, method), 502, "connect_failed")
        assert attempts_of(w) == 2
        assert outcomes(w) == {"connect_failed": 2}
        assert w.metric("weir_retries_total", upstream="agent") == 1


def test_a_name_that_does_not_exist_is_tried_again(start_weir):
    w = start_weir(retrying("http://does-not-exist.invalid:80", agent={"timeouts": {"connect": "20s"}}))
    problem(ask(w, "POST"), 502, "dns_failed")
    assert attempts_of(w) == 2


def test_connect_is_not_tried_again_when_not_asked_for(start_weir):
    with Refuser() as nobody:
        w = start_weir(retrying(nobody, {"when": ["reset"]}))
        problem(ask(w), 502, "connect_failed")
        assert attempts_of(w) == 1


def test_a_post_reaches_an_upstream_that_comes_up_between_the_tries(start_weir, tmp_path):
    path = str(tmp_path / "agent")
    w = start_weir(retrying(f"unix://{path}", {"attempts": 4, "backoff": {"base": "600ms", "max": "600ms"}}))
    with connect(w.port) as c:
        c.send(request("POST", "/x", body=b"hello"))
        w.wait_metric("weir_upstream_requests_total", lambda v: v >= 1, outcome="connect_failed")
        with Upstream(unix=path) as up:
            assert c.read_response().status == 200
            assert [r.body for r in up.requests] == [b"hello"]
    assert attempts_of(w) >= 2


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_providers_are_posted_to_again_where_a_status_came(start_faulty, start_weir, dialect):
    up = start_faulty(status(503), OK)
    w = start_weir(retrying(up, agent={"dialect": dialect}))
    assert ask(w, "POST").status == 200
    assert up.bodies == [b"hello"] * 2
    up.clear()
    up.answers(status(503), OK)
    assert ask(w, "PATCH", "/patch").status == 503
    assert len(up.requests) == 1


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("end", [RESET, CLOSE, [b"HTTP/1.1 503 ", 0.05, RESET]], ids=["reset", "FIN", "half a status"])
def test_providers_are_not_posted_to_again_where_the_answer_was_lost(start_faulty, start_weir, dialect, end):
    up = start_faulty(end, OK)
    w = start_weir(retrying(up, agent={"dialect": dialect}))
    error(ask(w, "POST"), 502, ("reset", "truncated"), dialect)
    assert len(up.requests) == 1 and attempts_of(w) == 1


def test_providers_with_methods_of_their_own_are_bound_by_them(start_faulty, start_weir):
    up = start_faulty(status(503), OK)
    w = start_weir(retrying(up, {"methods": ["GET"]}, agent={"dialect": "openai"}))
    assert ask(w, "POST").status == 503
    assert len(up.requests) == 1


@pytest.mark.parametrize("retry", [False, {"attempts": 1}, {"when": []}])
def test_it_can_be_switched_off(start_faulty, start_weir, retry):
    up = start_faulty(status(503, headers=[("Connection", "close")]), RESET, OK)
    w = start_weir(retrying(up, retry))
    r = ask(w)
    assert (r.status, r.weir_reason) == (503, None) and b"upstream says 503" in r.body, r
    problem(ask(w), 502, "reset")
    assert len(up.requests) == 2 and w.wait_log(status=502)["attempts"] == 1


# ---------------------------------------------------------------------------------------------- how often, and what is left


@pytest.mark.parametrize("attempts", [2, 4])
def test_attempts_are_tries_in_all(start_faulty, start_weir, attempts):
    up = start_faulty(*[status(503, f"try {n}".encode()) for n in range(1, 9)])
    w = start_weir(retrying(up, {"attempts": attempts}))
    r = ask(w)
    assert (r.status, r.body, r.weir_reason) == (503, f"try {attempts}".encode(), None), r
    assert len(up.requests) == attempts and len(set(up.conns)) == attempts
    assert attempts_of(w) == attempts
    assert w.metric("weir_retries_total") == attempts - 1
    assert outcomes(w) == {"5xx": attempts}
    assert w.metric("weir_requests_total") == 1


def test_the_last_outcome_is_the_answer(start_faulty, start_weir):
    up = start_faulty(status(503), RESET, status(502, b"the last"))
    w = start_weir(retrying(up, {"attempts": 3}))
    r = ask(w)
    assert (r.status, r.body) == (502, b"the last"), r
    up.answers(status(503), RESET)
    problem(ask(start_weir(retrying(up))), 502, "reset")


def test_nothing_of_the_failed_try_is_seen(start_faulty, start_weir):
    up = start_faulty(status(503, headers=[("X-First", "1"), ("Set-Cookie", "first=1")]), reply(200, b"second", [("X-Second", "2")]))
    r = ask(start_weir(retrying(up)))
    assert (r.status, r.body, r.header("X-Second")) == (200, b"second", "2"), r
    assert "X-First" not in r.headers and "Set-Cookie" not in r.headers and "Retry-After" not in r.headers


def test_not_once_the_answer_began(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(retrying(up, {"when": ["connect", "reset", "timeout"], "attempts": 4},
                            agent={"timeouts": {"idle": "600ms"}}))
    for n, (name, (answer, reasons)) in enumerate(MIDDLE.items()):
        up.clear()
        up.answers(answer, LAST)
        r = ask(w, path=f"/{n}")
        assert r.status == 200 and not r.clean, (name, r)
        line = w.wait_log(path=f"/{n}")
        assert line["attempts"] == 1 and line["reason"] in reasons, (name, line)
        assert len(up.requests) == 1 and w.metric("weir_retries_total") == 0, name


def test_a_head_that_broke_off_is_tried_again(start_faulty, start_weir):
    up = start_faulty([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", 0.05, RESET], OK)
    r = ask(start_weir(retrying(up)))
    assert (r.status, r.body, len(up.requests)) == (200, b"ok", 2), r


def test_a_status_that_is_tried_again_is_not_read_to_its_end(start_faulty, start_weir):
    """A 503 whose body never ends must not hold up the second try."""
    up = start_faulty([reply(503, b"", [("Content-Length", "1000")], length=False) + b"half", WAIT_GONE], OK)
    r = ask(start_weir(retrying(up)))
    assert (r.status, r.body, len(up.requests)) == (200, b"ok", 2), r


def test_limits_are_charged_once_over_all_tries(start_faulty, start_weir):
    up = start_faulty(status(503), status(503), OK)
    w = start_weir(retrying(up, {"attempts": 3}, route={"limits": ["few"]},
                            limits={"few": {"algorithm": "sliding_window", "limit": 2, "window": "1h"}}))
    assert [ask(w).status for _ in range(3)] == [200, 200, 429]
    assert len(up.requests) == 4


def test_tries_share_one_correlation_id(start_faulty, start_weir):
    up = start_faulty(RESET, OK)
    r = ask(start_weir(retrying(up)), headers=[("X-Correlation-ID", "abc")])
    assert [q.header("X-Correlation-ID") for q in up.requests] == ["abc", "abc"] and r.header("X-Correlation-ID") == "abc"
    assert up.requests[0].raw == up.requests[1].raw


# ------------------------------------------------------------------------------------------------------------- the body

BYTES = random.Random(4).randbytes(1 << 20)
SIZES = (0, 1, 1000, 300_000, 900_000)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_the_second_try_has_every_byte(start_faulty, start_weir, chunked):
    up = start_faulty()
    w = start_weir(retrying(up))
    for n, (size, cause) in enumerate((s, c) for s in SIZES for c in ("reset", "503")):
        body = BYTES[:size]
        up.clear()
        up.answers(CAUSES[cause], LAST)
        pieces = [body[at:at + 7777] for at in range(0, len(body), 7777)] if chunked else body
        raw = request("PUT", f"/{n}?y=%20z", [("X-A", "b  c"), ("Content-Type", "a/b")], pieces, chunked=chunked)
        r = exchange(w.port, raw)
        assert (r.status, r.body) == (200, b"ok"), (size, cause, r)
        assert up.bodies == [body] * 2, (size, cause)
        framing = ("Content-Length", "Transfer-Encoding")   # of a body that is whole by then it may be another one
        first, second = [(q.method, q.target, [f for f in q.headers if f[0] not in framing]) for q in up.requests]
        assert first == second
        assert attempts_of(w, f"/{n}") == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("cause", ["reset", "503"])
def test_a_body_over_a_mebibyte_is_not_sent_twice(start_faulty, start_weir, cause, chunked):
    body = BYTES * 3
    up = start_faulty(CAUSES[cause], OK)
    w = start_weir(retrying(up))
    r = exchange(w.port, request("PUT", "/x", body=body, chunked=chunked))
    assert (r.status, r.weir_reason) == ((502, "reset") if cause == "reset" else (503, None)), r
    assert up.bodies == [body] and attempts_of(w) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_try_that_fails_before_the_body_is_in(start_faulty, start_weir, chunked):
    """The first upstream answers at the head, the second gets what had come and what comes then."""
    turn = []

    def answer(peer):
        turn.append(1)
        if len(turn) == 1:
            peer.next_piece()
            peer.send(status(503, headers=[("Connection", "close")]))
            peer.close()
        peer.read_body()
        peer.send(OK)

    up = start_faulty([answer], early=True)
    w = start_weir(retrying(up))
    body = BYTES[:50_000]
    with connect(w.port) as c:
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", len(body))
        c.send(request("PUT", "/x", [framing]))
        half, rest = body[:20_000], body[20_000:]
        c.send(chunk(half) if chunked else half)
        up.wait_heads(2)
        c.send(chunk(rest) + b"0\r\n\r\n" if chunked else rest)
        assert c.read_response().status == 200
    assert up.requests[1].body == body and attempts_of(w) == 2


# -------------------------------------------------------------------------------------------------------------- the wait


def gap(up):
    return up.requests[1].started - up.sent_at[0]


@pytest.mark.parametrize("form, code", [("seconds", "503"), ("date", "529")])
def test_retry_after_is_honoured(start_faulty, start_weir, form, code):
    after = time.time()
    date = in_seconds(1)
    up = start_faulty(status(int(code), retry_after="1" if form == "seconds" else date), OK)
    w = start_weir(retrying(up, {"when": [code]}))
    assert ask(w).status == 200
    if form == "seconds":
        assert gap(up) >= 0.999, gap(up)
    else:
        assert up.requests[1].started - up.sent_at[0] + after >= -(-after // 1) + 0.999 - 0.2, gap(up)
    assert attempts_of(w) == 2


def test_a_retry_after_that_says_nothing_does_not_stop_the_retry(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(retrying(up))
    for word in ("soon", "0", "Sun, 06 Nov 1994 08:49:37 GMT"):
        up.clear()
        up.answers(status(503, retry_after=word), LAST)
        assert ask(w).status == 200, word
        assert len(up.requests) == 2, word


def test_a_retry_after_of_ages_is_passed_on_at_once(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(retrying(up))
    for n, word in enumerate(("1000000000000", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT")):
        up.clear()
        up.answers(status(503, retry_after=word), LAST)
        r = ask(w, path=f"/{n}")
        assert (r.status, r.header("Retry-After"), r.weir_reason) == (503, word, None), r
        assert len(up.requests) == 1 and attempts_of(w, f"/{n}") == 1


def test_a_wait_that_no_caller_sits_out_is_passed_on_at_once(start_faulty, start_weir):
    up = start_faulty(status(503, retry_after=61), OK)
    w = start_weir(retrying(up))
    r = ask(w)
    assert (r.status, r.header("Retry-After"), r.weir_reason) == (503, "61", None), r
    assert len(up.requests) == 1 and attempts_of(w) == 1


def test_backoff_is_by_chance_and_at_most_its_maximum(start_faulty, start_weir):
    up = start_faulty(status(503))
    w = start_weir(retrying(up, {"backoff": {"base": "300ms", "max": "300ms"}}))
    waits = []
    for _ in range(12):
        up.clear()
        assert ask(w).status == 503
        waits.append(gap(up))
    assert len(up.requests) == 2
    assert min(waits) < 0.25 and max(waits) - min(waits) > 0.03, waits
    assert sum(w > 1.3 for w in waits) == 0, waits


def test_all_tries_share_the_total_timeout(start_faulty, start_weir):
    up = start_faulty(WAIT_GONE)
    w = start_weir(retrying(up, {"attempts": 10, "when": ["timeout"]},
                            agent={"timeouts": {"first_byte": "250ms", "total": "600ms"}}))
    problem(ask(w), 504, "timeout_total")
    assert 2 <= len(up.requests) <= 3
    line = w.wait_log(path="/x")
    assert (line["reason"], line["attempts"]) == ("timeout_total", len(up.requests)), line
    w.wait_metric("weir_in_flight", 0)


def test_a_wait_beyond_the_total_timeout_brings_no_second_try(start_faulty, start_weir):
    up = start_faulty(status(503, retry_after=5), OK)
    w = start_weir(retrying(up, agent={"timeouts": {"total": "500ms"}}))
    r = ask(w)
    assert r.status == 503 or (r.status, r.weir_reason) == (504, "timeout_total"), r
    assert len(up.requests) == 1


def test_a_caller_who_leaves_in_the_backoff(start_faulty, start_weir):
    up = start_faulty(status(503, retry_after=1), OK)
    w = start_weir(retrying(up))
    with connect(w.port) as c:
        c.send(request("GET", "/x"))
        w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome="5xx")
    line = w.wait_log(path="/x")
    assert (line["reason"], line["attempts"]) == ("client_gone", 1), line
    w.wait_metric("weir_in_flight", 0)
    assert get(w.port, "/other").status == 200
    time.sleep(max(0, up.sent_at[0] + 1.2 - time.monotonic()))     # the try that must not come is due until then
    assert [q.target for q in up.requests] == ["/x", "/other"]


def test_a_stop_in_the_backoff_ends_the_request(start_faulty, start_weir):
    up = start_faulty(status(503, retry_after=1), OK)
    w = start_weir(retrying(up))
    with connect(w.port) as c:
        c.send(request("GET", "/x"))
        w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome="5xx")
        w.signal(signal.SIGTERM)
        assert c.read_response().status == 200
    assert w.wait_exit() == 0


def test_a_reload_in_the_backoff(start_faulty, start_weir):
    """The call ends as it began, at an upstream that the configuration has no more."""
    up, other = start_faulty(status(503, retry_after=1), OK), start_faulty(reply(200, b"other"))
    config = retrying(up)
    w = start_weir(config)
    with connect(w.port) as c:
        c.send(request("PUT", "/x", body=b"hello"))
        w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome="5xx")
        config["upstreams"] = {"other": {"url": other.url}}
        config["listeners"]["in"]["routes"][0]["upstream"] = "other"
        w.reload(config)
        assert ask(w, path="/new").body == b"other"
        assert c.read_response().body == b"ok"
    assert up.bodies == [b"hello"] * 2 and attempts_of(w) == 2


def test_a_body_that_comes_in_the_backoff(start_faulty, start_weir):
    def answer(peer):
        if len(up.requests) == 1:
            peer.send(status(503, retry_after=1, headers=[("Connection", "close")]))
            peer.close()
        peer.read_body()
        peer.send(OK)

    up = start_faulty([answer], early=True)
    w = start_weir(retrying(up))
    body = BYTES[:900_000]
    with connect(w.port) as c:
        c.send(request("PUT", "/x", [("Content-Length", len(body))]) + body[:10])
        w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome="5xx")
        c.send(body[10:])
        assert c.read_response().status == 200
    assert up.requests[1].body == body
    with connect(w.port) as c:
        up.clear()
        c.send(request("PUT", "/broken", [("Transfer-Encoding", "chunked")]) + b"3\r\nabc\r\n")
        w.wait_metric("weir_upstream_requests_total", 2, upstream="agent", outcome="5xx")
        c.send(b"zebra\r\n")
        problem(c.read_response(), 400, "malformed")
    w.wait_metric("weir_in_flight", 0)
    assert len(up.requests) == 1


@pytest.mark.parametrize("expects", [False, True], ids=["at once", "100-continue"])
def test_pipelined_requests_and_their_retries(start_faulty, start_weir, expects):
    up = start_faulty(status(503), reply(200, b"1"), RESET, reply(200, b"", [("X-N", "2")]), status(503), reply(200, b"3"))
    w = start_weir(retrying(up))
    with connect(w.port) as c:
        last = [("Content-Length", 5), *([("Expect", "100-continue")] if expects else [])]
        c.send(request("PUT", "/1", body=b"hello") + request("HEAD", "/2") + request("PUT", "/3", last))
        if not expects:
            c.send(b"world")
        assert c.read_response().body == b"1"
        assert c.read_response("HEAD").header("X-N") == "2"
        if expects:
            assert c.read_head().status == 100
            c.send(b"world")
        assert c.read_response().body == b"3"
    assert up.bodies == [b"hello", b"hello", b"", b"", b"world", b"world"]


# ------------------------------------------------------------------------------------------------------------ the budget


def test_the_budget_bounds_the_tries(start_faulty, start_weir):
    """20 % of the requests, and at least 3 a second - which are not added to each other."""
    up = start_faulty(status(503))
    w = start_weir(retrying(up, {"attempts": 4, "budget": "20%", "backoff": {"base": "1ms", "max": "1ms"}}))
    began = time.monotonic()

    def call(n):
        with Caller(w.port) as c:
            return [c.get(f"/{n}/{i}") for i in range(50)]

    answers = sum(in_parallel(4, call), [])
    seconds = time.monotonic() - began
    assert {(r.status, r.weir_reason, b"upstream says 503" in r.body) for r in answers} == {(503, None, True)}
    retries = len(up.requests) - 200
    assert 3 <= retries <= 40 + 3 * (seconds + 1), (retries, seconds)
    assert w.metric("weir_retries_total", upstream="agent") == retries
    w.wait_log(path="/3/49")
    wait_until(lambda: len(w.log) == 200, "the log")
    assert sum(line["attempts"] for line in w.log) == len(up.requests)
    spent = [line for line in w.log if line["attempts"] < 4]
    assert spent and all((line.get("reason"), line["status"]) == ("retry_budget", 503) for line in spent), spent[:3]
    assert all("reason" not in line for line in w.log if line["attempts"] == 4)


def test_three_a_second_are_always_granted(start_faulty, start_weir):
    up = start_faulty(status(503))
    w = start_weir(retrying(up, {"budget": "0%", "backoff": {"base": "1ms", "max": "1ms"}}))
    for n in range(3):
        ask(w, path=f"/{n}")
    assert len(up.requests) == 6
    began = time.monotonic()
    for n in range(20):
        ask(w, path=f"/more{n}")
    assert len(up.requests) <= 26 + 3 * (time.monotonic() - began + 1)
    assert w.wait_log(path="/more19")["status"] == 503


def test_a_budget_spent_on_a_lost_answer_leaves_its_error(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(retrying(up, {"budget": "0%", "backoff": {"base": "1ms", "max": "1ms"}}))
    answers = [ask(w, path=f"/{n}") for n in range(12)]
    for r in answers:
        problem(r, 502, "reset")
    line = w.wait_log(reason="retry_budget", timeout=5)
    assert (line["status"], line["attempts"]) == (502, 1), line


def test_a_budget_of_all_is_never_spent(start_faulty, start_weir):
    up = start_faulty(status(503))
    w = start_weir(retrying(up, {"backoff": {"base": "1ms", "max": "1ms"}}))
    for n in range(20):
        ask(w, path=f"/{n}")
    assert len(up.requests) == 40


def test_retries_count_by_tenant_and_cause(start_faulty, start_weir):
    up = start_faulty(RESET, OK)
    w = start_weir(retrying(up))
    ask(w, headers=[("X-Tenant-ID", "acme")])
    w.wait_metric("weir_retries_total", 1, upstream="agent", tenant="acme", reason="reset")
    assert w.metric("weir_retries_total") == 1


def test_status_tells_of_the_budget(start_faulty, start_weir):
    def told(w):
        return w.status()["upstreams"][0]["retry"]

    up = start_faulty(status(503))
    w = start_weir(retrying(up, {"budget": "0%", "backoff": {"base": "1ms", "max": "1ms"}}))
    assert told(w) == {"enabled": True, "requests": 0, "retries": 0, "budget_spent": False}
    ask(w)
    assert told(w) == {"enabled": True, "requests": 1, "retries": 1, "budget_spent": False}
    wait_until(lambda: ask(w).status == 503 and told(w)["budget_spent"], "the budget to be spent")
    assert 3 <= told(w)["retries"] <= told(w)["requests"] == w.metric("weir_requests_total")
    w = start_weir(retrying(up, False))
    ask(w)
    assert told(w) == {"enabled": False, "requests": 0, "retries": 0, "budget_spent": False}


def test_a_retry_that_was_not_sent_is_not_counted(start_faulty, start_weir):
    """Its breaker opened while it waited."""
    up = start_faulty(status(503, retry_after=1))
    w = start_weir(retrying(up, agent={"breaker": {"open": {"base": "60s"}}}))
    with connect(w.port) as c:
        c.send(request("GET", "/x"))
        w.wait_metric("weir_upstream_requests_total", 1, outcome="5xx")
        assert w.ask_admin("/upstreams/agent/breaker?state=open", method="POST").status == 200
        problem(c.read_response(), 503, "breaker_open")
    assert len(up.requests) == 1 and w.metric("weir_retries_total") == 0


# ------------------------------------------------------------------------------------------------------- not on the same


def test_a_pool_of_broken_connections_is_not_gone_through(start_faulty, start_weir):
    """Connections that the upstream closes at their next request, all of them: the second try takes a fresh one."""
    up = start_faulty(OK)
    w = start_weir(retrying(up, server={"workers": 1}))
    gate = threading.Event()
    up.answers([gate, OK])
    conns = [connect(w.port) for _ in range(6)]
    for c in conns:
        c.send(request("GET", "/fill"))
    up.wait_heads(6)
    gate.set()
    for c in conns:
        assert c.read_response().status == 200
        c.close()
    w.wait_metric("weir_upstream_connections", 6, upstream="agent", state="idle")
    first = set(up.conns)
    up.answers([lambda peer: peer.reset() if peer.number in first else peer.send(OK)])
    assert ask(w).status == 200
    assert len(up.requests) == 8 and up.conns[-1] not in first, up.conns
