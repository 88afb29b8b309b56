"""The breaker: what opens it, what it says while it is open, how it finds back; and pauses that a provider asks for.

Calls are POSTs: none of them is sent again, so that each is one try.
"""
import contextlib
import json
import threading
import time
from random import Random

import pytest

from faults import (BEFORE, CHUNKED, DIALECTS, HEAD, MIDDLE, OK, ask_of, breaker_state, breaking, chain, error, in_seconds,
                    outcomes, refused, status, transitions, wait_state)
from harness import (CLOSE, RESET, WAIT_GONE, Incomplete, Refuser, base_config, chunk, connect, exchange, problem, reply,
                     request, wait_until)
from support import Caller, families, in_parallel

SLOW_TO_HALF_OPEN = {"open": {"base": "60s", "max": "5m", "jitter": "0%"}}


def call(w, path="/x", body=b"hello", headers=(), **kw):
    return exchange(w.port, request("POST", path, headers, body, **kw))


def chat(w, model="gpt-5", key=None, **more):
    headers = [("Content-Type", "application/json"), *([("Authorization", f"Bearer {key}")] if key else [])]
    return call(w, "/v1/chat/completions", ask_of(model, **more), headers)


def fail(w, up, times):
    """So many failures, each of which reaches the upstream."""
    up.answers(RESET)
    for _ in range(times):
        had = len(up.requests)
        r = call(w)
        assert r.weir_reason == "reset" and len(up.requests) == had + 1, r


def opened(start_weir, up, breaker=None, agent=None, **more):
    """A weir whose breaker has opened, and not closed since."""
    w = start_weir(breaking(up, breaker, agent, **more))
    up.answers(RESET)
    for _ in range(3):
        call(w)
    assert transitions(w, "open") == 1 and transitions(w, "closed") == 0
    assert breaker_state(w) in ("open", "half_open")
    up.clear()
    return w


def stays_closed(w):
    assert breaker_state(w) == "closed" and transitions(w, "open") == 0
    assert w.metric("weir_breaker_refused_total") == 0


def is_open(w, up):
    """Open, and nobody is called."""
    assert breaker_state(w) == "open" and transitions(w, "open") == 1
    had = len(up.requests)
    r = call(w)
    assert r.weir_reason == "breaker_open" and len(up.requests) == had, r


# ------------------------------------------------------------------------------------------------------- what opens it


@pytest.mark.parametrize("n", [1, 4])
def test_it_opens_on_the_nth_failure_in_a_row_and_not_before(start_faulty, start_weir, n):
    up = start_faulty()
    w = start_weir(breaking(up, {"consecutive_failures": n, **SLOW_TO_HALF_OPEN}))
    fail(w, up, n - 1)
    stays_closed(w)
    fail(w, up, 1)
    is_open(w, up)


def test_by_default_five_in_a_row_open_it(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(base_config(up.url, agent={"breaker": {}, "retry": False}))
    fail(w, up, 4)
    stays_closed(w)
    fail(w, up, 1)
    is_open(w, up)


def test_a_success_begins_the_row_anew(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up))
    for _ in range(4):
        fail(w, up, 2)
        up.answers(OK)
        assert call(w).status == 200
    stays_closed(w)
    fail(w, up, 3)
    is_open(w, up)


def test_every_failure_before_the_answer_counts(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, {"consecutive_failures": len(BEFORE), **SLOW_TO_HALF_OPEN},
                            {"timeouts": {"first_byte": "600ms", "idle": "600ms"}}))
    for answer, code, reason in BEFORE.values():
        stays_closed(w)
        up.answers(answer)
        problem(call(w), code, reason)
    is_open(w, up)


def test_every_answer_that_breaks_off_counts(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, {"consecutive_failures": len(MIDDLE), **SLOW_TO_HALF_OPEN}, {"timeouts": {"idle": "150ms"}}))
    for n, (answer, _) in enumerate(MIDDLE.values()):
        stays_closed(w)
        up.answers(answer)
        r = call(w, f"/{n}")
        assert r.status == 200 and not r.clean, r
        w.wait_log(path=f"/{n}")
    is_open(w, up)


def test_a_refused_connection_counts(start_weir):
    with Refuser() as nobody:
        w = start_weir(breaking(nobody, SLOW_TO_HALF_OPEN))
        for _ in range(3):
            problem(call(w), 502, "connect_failed")
        refused(call(w), "breaker_open")
        assert outcomes(w) == {"connect_failed": 3}


@pytest.mark.parametrize("kind, words, opens", [
    ("reset", ["reset"], True), ("reset", ["connect", "timeout", "5xx"], False), ("reset", [], False),
    ("timeout", ["timeout"], True), ("timeout", ["connect", "reset", "5xx"], False),
    ("5xx", ["5xx"], True), ("5xx", ["connect", "timeout", "reset"], False)], ids=str)
def test_only_what_is_listed_counts(start_faulty, start_weir, kind, words, opens):
    up = start_faulty({"reset": RESET, "timeout": WAIT_GONE, "5xx": status(500)}[kind])
    w = start_weir(breaking(up, {"failures": words, "consecutive_failures": 2, **SLOW_TO_HALF_OPEN},
                            {"timeouts": {"first_byte": "600ms"}}))
    for _ in range(2):
        assert call(w).weir_reason != "breaker_open"
    if opens:
        is_open(w, up)
    else:
        assert call(w).weir_reason != "breaker_open"
        stays_closed(w)


FIVES = (500, 501, 502, 503, 504)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_by_default_every_5xx_of_a_provider_counts(start_faulty, start_weir, dialect):
    up = start_faulty(*map(status, FIVES))
    w = start_weir(breaking(up, {"consecutive_failures": len(FIVES), **SLOW_TO_HALF_OPEN}, {"dialect": dialect}))
    for code in FIVES:
        stays_closed(w)
        assert call(w).status == code
    is_open(w, up)


def test_by_default_no_5xx_of_a_plain_upstream_counts(start_faulty, start_weir):
    up = start_faulty(*map(status, FIVES))
    w = start_weir(breaking(up))
    assert [call(w).status for _ in range(9)] == [*FIVES, 504, 504, 504, 504]
    stays_closed(w)


@pytest.mark.parametrize("dialect", ["plain", "anthropic"])
def test_4xx_never_counts(start_faulty, start_weir, dialect):
    up = start_faulty(*map(status, (400, 401, 403, 404, 408, 422, 499)))
    w = start_weir(breaking(up, {"failures": ["connect", "timeout", "reset", "5xx"], "consecutive_failures": 2},
                            {"dialect": dialect}))
    assert [call(w).status for _ in range(8)] == [400, 401, 403, 404, 408, 422, 499, 499]
    stays_closed(w)


@pytest.mark.parametrize("code", [429, 529])
def test_a_pause_is_no_failure(start_faulty, start_weir, code):
    up = start_faulty(status(code))
    w = start_weir(breaking(up, {"failures": ["connect", "timeout", "reset", "5xx"], "consecutive_failures": 2,
                                 "throttle": False}, {"dialect": "openai"}))
    assert [call(w).status for _ in range(8)] == [code] * 8
    stays_closed(w)


def test_callers_who_leave_never_count(start_faulty, start_weir):
    up = start_faulty(WAIT_GONE)
    w = start_weir(breaking(up))
    for n, way in enumerate(["close", "reset", "half_close"] * 2):
        with connect(w.port) as c:
            c.send(request("POST", "/x", body=b"hello"))
            up.wait_heads(n + 1)
            getattr(c, way)()
            w.wait_log(reason="client_gone", count=n + 1)
    stays_closed(w)


def test_a_caller_who_leaves_in_the_answer_does_not_count(start_faulty, start_weir):
    up = start_faulty([HEAD + b"half", WAIT_GONE])
    w = start_weir(breaking(up))
    for n in range(4):
        with connect(w.port) as c:
            c.send(request("POST", "/x", body=b"hello"))
            c.recv_until(b"half")
        w.wait_log(reason="client_gone", count=n + 1)
    stays_closed(w)


def test_callers_who_are_slow_never_count(start_faulty, start_weir):
    """Neither one whose request does not come, nor one who does not take the answer: the time that runs out is his."""
    up = start_faulty(WAIT_GONE, early=True)
    w = start_weir(breaking(up, {"consecutive_failures": 1}, {"timeouts": {"first_byte": "200ms", "total": "10s"}}))
    for framing in (("Content-Length", 1000), ("Transfer-Encoding", "chunked")):
        with connect(w.port) as c:
            c.send(request("POST", "/slow", [framing]) + chunk(b"half"))
            problem(c.read_response(), 504, "timeout_first_byte")
    stays_closed(w)
    w = start_weir(breaking(up, {"consecutive_failures": 1}, {"timeouts": {"total": "300ms"}}))
    with connect(w.port) as c:
        c.send(request("POST", "/slow", [("Content-Length", 1000)]) + b"half")
        problem(c.read_response(), 504, "timeout_total")
    stays_closed(w)
    problem(call(w), 504, "timeout_total")
    is_open(w, up)
    up.answers([CHUNKED + chunk(b"half"), WAIT_GONE])
    w = start_weir(breaking(up, {"consecutive_failures": 1}, {"timeouts": {"idle": "200ms"}}))
    with connect(w.port) as c:
        c.send(request("POST", "/slow", [("Content-Length", 1000)]) + b"half")
        assert c.read_head().status == 200
        w.wait_log(path="/slow", reason="timeout_idle")
    stays_closed(w)


def test_a_caller_who_does_not_take_his_answer_does_not_count(start_faulty, start_weir):
    body = b"x" * (32 << 20)
    up = start_faulty(reply(200, body))
    w = start_weir(breaking(up, {"consecutive_failures": 1}, {"timeouts": {"total": "1s"}}))
    with connect(w.port, rcvbuf=4096) as c:
        c.send(request("GET", "/slow"))
        assert c.read_head().status == 200
        w.wait_metric("weir_upstream_requests_total", 1, outcome="timeout_total")
    stays_closed(w)


def test_a_refusal_of_weirs_own_does_not_count(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, route={"limits": ["few"]}, limits={"few": {"algorithm": "sliding_window", "limit": 1,
                                                                         "window": "1h"}}))
    assert [call(w).status for _ in range(6)] == [200] + [429] * 5
    stays_closed(w)


RATE = {"consecutive_failures": 1000, "min_requests": 10, "failure_rate": "50%", **SLOW_TO_HALF_OPEN}


def test_the_failure_rate_opens_it_at_its_share(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, RATE))
    for word in "FSFSFSFSS":
        up.answers(RESET if word == "F" else OK)
        assert call(w).status in (200, 502)
    stays_closed(w)
    fail(w, up, 1)
    is_open(w, up)


def test_the_failure_rate_below_its_share_does_not(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, RATE))
    for word in "SSFSFSFSFSF" * 3:
        up.answers(RESET if word == "F" else OK)
        assert call(w).status in (200, 502)
    stays_closed(w)


def test_the_failure_rate_waits_for_min_requests(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, RATE))
    fail(w, up, 9)
    stays_closed(w)
    fail(w, up, 1)
    is_open(w, up)


def test_failures_leave_the_window(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, {**RATE, "min_requests": 4, "window": "500ms"}))
    fail(w, up, 3)
    last = time.monotonic()
    up.answers(OK)
    wait_until(lambda: call(w).status == 200 and time.monotonic() > last + 0.6, "the window to pass", every=0.05)
    fail(w, up, 1)
    stays_closed(w)


SLOWNESS = {"slow": {"first_byte": "400ms", "rate": "50%"}, "min_requests": 4, **SLOW_TO_HALF_OPEN}


def test_slow_first_bytes_open_it(start_faulty, start_weir):
    up = start_faulty([0.45, OK])
    w = start_weir(breaking(up, SLOWNESS))
    for n in range(4):
        assert breaker_state(w) == "closed"
        assert call(w).status == 200
    is_open(w, up)


def test_slow_bodies_do_not(start_faulty, start_weir):
    up = start_faulty([reply(200, b"", [("Content-Length", "4")], length=False) + b"ha", 0.45, b"lf"])
    w = start_weir(breaking(up, SLOWNESS))
    assert [call(w).body for _ in range(4)] == [b"half"] * 4
    stays_closed(w)


def test_slow_first_bytes_are_fine_by_default(start_faulty, start_weir):
    up = start_faulty([0.15, OK])
    w = start_weir(breaking(up, {"min_requests": 2}))
    assert [call(w).status for _ in range(3)] == [200] * 3
    stays_closed(w)


def test_it_can_be_switched_off(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(base_config(up.url, agent={"retry": False, "breaker": False}))
    assert [call(w).weir_reason for _ in range(25)] == ["reset"] * 25


def test_every_try_counts(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(breaking(up, SLOW_TO_HALF_OPEN, {"retry": {"attempts": 3, "methods": ["POST"],
                                                              "backoff": {"base": "1ms", "max": "1ms"}}}))
    problem(call(w), 502, "reset")
    assert len(up.requests) == 3
    is_open(w, up)


def test_a_breaker_that_opens_ends_the_retries(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(breaking(up, SLOW_TO_HALF_OPEN, {"retry": {"attempts": 10, "methods": ["POST"], "budget": "100%",
                                                              "backoff": {"base": "1ms", "max": "1ms"}}}))
    r = call(w)
    assert r.status in (502, 503) and r.weir_reason in ("reset", "breaker_open"), r
    assert len(up.requests) == 3
    is_open(w, up)


# ------------------------------------------------------------------------------------------------------- while it is open


@pytest.mark.parametrize("dialect", DIALECTS)
def test_while_it_is_open_the_answer_comes_at_once(start_faulty, start_weir, dialect):
    up = start_faulty()
    w = opened(start_weir, up, SLOW_TO_HALF_OPEN, {"dialect": dialect})
    for n in range(5):
        seconds = refused(call(w, f"/open{n}"), "breaker_open", dialect)
        assert 30 <= seconds <= 60
    assert not up.requests
    line = w.wait_log(path="/open4")
    assert (line["status"], line["reason"], line.get("attempts", 0)) == (503, "breaker_open", 0), line
    w.wait_metric("weir_breaker_refused_total", 5, upstream="agent")
    w.wait_metric("weir_refused_total", 5, listener="in", reason="breaker_open")
    assert outcomes(w) == {"reset": 3}
    w.wait_metric("weir_in_flight", 0)


def test_the_time_to_wait_is_never_early(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"open": {"base": "700ms", "max": "2s", "jitter": "0%"}})
    up.answers(OK)
    at = time.monotonic()
    seconds = refused(call(w), "breaker_open")
    assert seconds == 1
    time.sleep(max(0, at + seconds - time.monotonic()))
    assert call(w).status == 200


@pytest.mark.parametrize("dialect", ["plain", "openai"])
def test_the_answer_can_be_configured(start_faulty, start_weir, dialect):
    up = start_faulty()
    body = '{"sorry": "später"}'
    w = opened(start_weir, up, {"answer": {"status": 429, "body": body}, **SLOW_TO_HALF_OPEN}, {"dialect": dialect})
    r = call(w)
    assert (r.status, r.body.decode(), r.weir_reason, r.clean) == (429, body, "breaker_open", True), r
    assert int(r.header("Retry-After")) >= 30
    w.wait_log(status=429, reason="breaker_open")


@pytest.mark.parametrize("dialect", ["plain", "anthropic"])
def test_a_configured_status_keeps_the_dialect(start_faulty, start_weir, dialect):
    up = start_faulty()
    w = opened(start_weir, up, {"answer": {"status": 529}, **SLOW_TO_HALF_OPEN}, {"dialect": dialect})
    refused(call(w), "breaker_open", dialect, 529)


def test_a_connection_survives_its_refusals(start_faulty, start_weir):
    w = opened(start_weir, start_faulty(), SLOW_TO_HALF_OPEN)
    with connect(w.port) as c:
        for body in (b"hello", b"x" * 5000, b""):
            c.send(request("POST", "/x", body=body))
            assert c.read_response().weir_reason == "breaker_open"


def test_a_body_that_waits_to_be_asked_for_is_not(start_faulty, start_weir):
    w = opened(start_weir, start_faulty(), SLOW_TO_HALF_OPEN)
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Content-Length", 5), ("Expect", "100-continue")]))
        r = c.read_response()
        assert r.weir_reason == "breaker_open" and not r.interim, r


def test_a_refusal_gives_its_slot_back(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, SLOW_TO_HALF_OPEN, route={"limits": ["slots"]},
               limits={"slots": {"algorithm": "concurrency", "limit": 1}})
    assert [call(w).weir_reason for _ in range(5)] == ["breaker_open"] * 5


def test_other_upstreams_are_not_concerned(start_faulty, start_weir):
    up, other = start_faulty(), start_faulty(OK)
    config = breaking(up, SLOW_TO_HALF_OPEN)
    config["upstreams"]["other"] = {"url": other.url}
    config["listeners"]["in"]["routes"].append({"path": "/other", "upstream": "other"})
    w = start_weir(config)
    fail(w, up, 3)
    refused(call(w), "breaker_open")
    assert call(w, "/other").status == 200
    assert (breaker_state(w), breaker_state(w, "other")) == ("open", "closed")


def test_a_reload_leaves_it_open(start_faulty, start_weir):
    up = start_faulty()
    config = breaking(up, SLOW_TO_HALF_OPEN)
    w = start_weir(config)
    fail(w, up, 3)
    config["listeners"]["in"]["routes"][0]["timeout"] = "5s"
    w.reload(config)
    is_open(w, up)


# ------------------------------------------------------------------------------------------------------------- half-open


@pytest.mark.parametrize("probes", [1, 3])
def test_half_open_lets_exactly_the_probes_through(start_faulty, start_weir, probes):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": probes})
    wait_state(w, "half_open")
    gate, turned_away = threading.Event(), threading.Semaphore(0)
    up.answers([gate, OK])

    def one(n):
        with connect(w.port) as c:
            c.send(request("POST", f"/{n}", body=b"hello"))
            r = c.read_response()
            if r.status == 503:
                turned_away.release()
            return r

    def watch():
        for _ in range(50 - probes):
            assert turned_away.acquire(timeout=20), "more than the probes wait at the upstream"
        up.wait_heads(probes)
        seen.append((len(up.requests), breaker_state(w)))
        gate.set()

    seen = []
    answers = in_parallel(51, lambda n: one(n) if n < 50 else watch())[:50]
    assert seen == [(probes, "half_open")]
    assert sum(r.status == 200 for r in answers) == probes
    for r in answers:
        if r.status != 200:
            assert refused(r, "breaker_open") <= 2
    assert breaker_state(w) == "closed" and transitions(w, "half_open") == 1 and transitions(w, "closed") == 1


def test_probes_one_after_the_other_close_it(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 3})
    wait_state(w, "half_open")
    up.answers(OK)
    for _ in range(2):
        assert call(w).status == 200
        assert breaker_state(w) == "half_open"
    assert call(w).status == 200
    assert breaker_state(w) == "closed"
    assert [transitions(w, s) for s in ("open", "half_open", "closed")] == [1, 1, 1]


def test_a_4xx_is_a_success_of_a_probe(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up)
    wait_state(w, "half_open")
    up.answers(status(404))
    assert [call(w).status for _ in range(2)] == [404] * 2
    assert breaker_state(w) == "closed"


def test_a_failed_probe_opens_it_for_twice_as_long(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"open": {"base": "300ms", "max": "1s", "jitter": "0%"}})
    for n, longer in enumerate((0.6, 1.0), 2):
        wait_state(w, "half_open")
        began = time.monotonic()
        problem(call(w), 502, "reset")
        assert breaker_state(w) == "open" and transitions(w, "open") == n
        refused(call(w), "breaker_open")
        wait_state(w, "half_open")
        assert time.monotonic() - began >= longer - 0.001, n
    assert len(up.requests) == 2


def test_a_failure_after_a_success_opens_it_too(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up)
    wait_state(w, "half_open")
    up.answers(OK)
    assert call(w).status == 200
    up.answers(RESET)
    problem(call(w), 502, "reset")
    assert breaker_state(w) == "open"


@pytest.mark.parametrize("name", MIDDLE)
def test_a_probe_whose_answer_breaks_off_is_a_failure(start_faulty, start_weir, name):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1}, {"timeouts": {"idle": "100ms"}})
    wait_state(w, "half_open")
    up.answers(MIDDLE[name][0])
    assert not call(w).clean
    assert breaker_state(w) == "open" and transitions(w, "closed") == 0


def test_a_probe_that_streams_is_not_waited_for(start_faulty, start_weir):
    """Its answer goes on well for a second: that is enough."""
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1})
    wait_state(w, "half_open")
    up.answers([CHUNKED + chunk(b"data: 1\n\n"), WAIT_GONE])
    with connect(w.port) as c:
        c.send(request("POST", "/stream", body=b"hello"))
        assert c.read_head().status == 200
        c.recv_until(b"data: 1\n\n")
        refused(call(w), "breaker_open")
        wait_state(w, "closed")
        up.answers(OK)
        assert call(w).status == 200
    w.wait_log(path="/stream", reason="client_gone")
    assert moves(w) == {"open": 1, "half_open": 1, "closed": 1}


def asks_and_waits(w, up, path):
    c = connect(w.port)
    had = len(up.requests)
    c.send(request("POST", path, body=b"hello"))
    up.wait_heads(had + 1)
    return c


@pytest.mark.parametrize("end", ["answers", "fails"])
@pytest.mark.parametrize("way", ["open", "closed"])
def test_a_hand_at_a_breaker_that_probes(start_faulty, start_weir, way, end):
    """What the probe comes to is of a time that is over."""
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1})
    wait_state(w, "half_open")
    gate = threading.Event()
    up.answers([gate, OK if end == "answers" else RESET])
    with asks_and_waits(w, up, "/probe") as c:
        assert by_hand(w, way) in (200, 204)
        gate.set()
        assert c.read_response().status == (200 if end == "answers" else 502)
    assert breaker_state(w) == way
    assert by_hand(w, "auto") in (200, 204)
    assert breaker_state(w) == ("half_open" if way == "open" else "closed")
    up.answers(OK)
    assert call(w).status == 200
    assert breaker_state(w) == "closed"


@pytest.mark.parametrize("what", ["key", "models", "probes", "off", "gone"])
def test_a_reload_while_it_probes(start_faulty, start_weir, what):
    up, other = start_faulty(), start_faulty(OK)
    config = by_model(up, {"probes": 2})
    config["upstreams"]["agent"]["breaker"]["open"] = {"base": "300ms", "jitter": "0%"}
    w = start_weir(config)
    up.answers(RESET)
    for _ in range(3):
        chat(w, "gpt-b")
    wait_state(w, "half_open", model="gpt-b-large")
    gate = threading.Event()
    up.answers([gate, OK])
    with connect(w.port) as c:
        c.send(request("POST", "/v1/chat/completions", [("Content-Type", "application/json")], ask_of("gpt-b")))
        up.wait_heads(4)
        agent = config["upstreams"]["agent"]
        if what == "key":
            agent["breaker"]["key"] = ["upstream"]
        elif what == "models":
            agent["models"] = {"gpt-c": "c"}
        elif what == "probes":
            agent["breaker"]["probes"] = 1
        elif what == "off":
            agent["breaker"] = False
        else:
            config["upstreams"] = {"other": {"url": other.url}}
            config["listeners"]["in"]["routes"][0]["upstream"] = "other"
        w.reload(config)
        gate.set()
        assert c.read_response().status == 200
    assert chat(w, "gpt-b").status == 200
    if what == "probes":
        assert breaker_state(w, model="gpt-b-large") == "closed"


def test_a_probe_whose_caller_leaves_gives_its_permit_back(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1})
    wait_state(w, "half_open")
    up.answers(WAIT_GONE)
    for n, way in enumerate(["close", "reset", "half_close"] * 2):
        with connect(w.port) as c:
            c.send(request("POST", f"/{n}", body=b"hello"))
            up.wait_heads(n + 1)
            refused(call(w), "breaker_open")
            getattr(c, way)()
            w.wait_log(reason="client_gone", path=f"/{n}")
    assert breaker_state(w) == "half_open"
    up.answers(OK)
    assert call(w).status == 200
    assert breaker_state(w) == "closed"


def test_a_probe_that_a_limit_refuses_gives_its_permit_back(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1}, route={"limits": ["few"]},
               limits={"few": {"algorithm": "sliding_window", "limit": 3, "window": "1h"}})
    wait_state(w, "half_open")
    up.answers(OK)
    assert [call(w).status for _ in range(3)] == [429] * 3
    assert call(w, headers=[("X-Tenant-ID", "other")]).status == 200
    assert breaker_state(w) == "closed"


def test_the_ramp_lets_10_50_and_100_percent_through(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1})
    wait_state(w, "half_open")
    up.answers(OK)
    began = time.monotonic()
    assert call(w).status == 200
    ended = time.monotonic()
    seen = []
    with Caller(w.port) as c:
        while time.monotonic() < ended + 3.1:
            sent = time.monotonic()
            r = c.ask(request("POST", "/ramp", body=b"x"))
            assert r.status == 200 or refused(r, "breaker_open") <= 2
            seen.append((sent, time.monotonic(), r.status == 200))
            time.sleep(0.01)

    def share(second):
        """What was asked within the whole of that second of the ramp, whenever it began."""
        inside = [ok for sent, answered, ok in seen if ended + second <= sent and answered < began + second + 1]
        assert len(inside) > 20, "the machine is too slow for this"
        return sum(inside), len(inside)

    passed, asked = share(0)
    assert asked * 0.1 - 2 <= passed <= asked * 0.1 + 2, (passed, asked)
    passed, asked = share(1)
    assert asked * 0.5 - 2 <= passed <= asked * 0.5 + 2, (passed, asked)
    assert all(ok for sent, _, ok in seen if sent > ended + 2)
    assert breaker_state(w) == "closed"


def test_the_first_call_of_the_ramp_passes(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 1})
    wait_state(w, "half_open")
    up.answers(OK)
    assert [call(w).status for _ in range(2)] == [200, 200]


# ------------------------------------------------------------------------------------------------- a breaker of each model


def by_model(up, breaker=None, **agent):
    """Breakers by model; gpt-a and gpt-b are named in the configuration."""
    agent = {"dialect": "openai", "models": {"gpt-a": "gpt-a-large", "gpt-b": "gpt-b-large"}, **agent}
    return breaking(up, {"key": ["upstream", "model"], **SLOW_TO_HALF_OPEN, **(breaker or {})}, agent)


def test_a_model_of_its_own_breaks_alone(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(by_model(up))
    for _ in range(3):
        error(chat(w, "gpt-a"), 502, "reset", "openai")
    refused(chat(w, "gpt-a"), "breaker_open", "openai")
    up.answers(OK)
    assert chat(w, "gpt-b").status == 200
    assert call(w).status == 200
    assert chat(w, "unheard-of").status == 200
    refused(chat(w, "gpt-a"), "breaker_open", "openai")
    states = {d["model"]: d["state"] for (name, have), v in w.metrics().items() if name == "weir_breaker_state" and v
              for d in [dict(have)]}
    opened_ones = {m for m, s in states.items() if s == "open"}
    assert len(opened_ones) == 1 and opened_ones <= {"gpt-a", "gpt-a-large"}, states
    assert set(states) <= {"", "__other__", "gpt-a", "gpt-b", "gpt-a-large", "gpt-b-large"}, states
    w.wait_metric("weir_breaker_refused_total", 2, upstream="agent", model=opened_ones.pop())


def test_models_nobody_configured_share_one(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(by_model(up))
    for n in range(3):
        error(chat(w, f"invented-{n}"), 502, "reset", "openai")
    refused(chat(w, "invented-9"), "breaker_open", "openai")
    up.answers(OK)
    assert chat(w, "gpt-a").status == 200
    text = w.ask("/metrics").body.decode()
    assert "invented" not in text
    assert w.metric("weir_breaker_state", model="__other__", state="open") == 1


def test_without_it_models_break_together(start_faulty, start_weir):
    up = start_faulty(RESET)
    w = start_weir(by_model(up, {"key": ["upstream"]}))
    for model in ("gpt-a", "gpt-b", "invented"):
        error(chat(w, model), 502, "reset", "openai")
    refused(chat(w, "gpt-b"), "breaker_open", "openai")
    assert w.metric("weir_breaker_state", model="", state="open") == 1


# ----------------------------------------------------------------------------------------------------------------- pauses


def pausing(up, throttle=None, **agent):
    agent = {"dialect": "openai", **agent}
    return breaking(up, {} if throttle is None else {"throttle": throttle}, agent)


PAUSES = {"seconds": lambda: 30, "a date": lambda: in_seconds(30)}


@pytest.mark.parametrize("dialect, code", [("openai", 429), ("anthropic", 529)])
@pytest.mark.parametrize("form", PAUSES)
def test_a_429_pauses_until_its_retry_after(start_faulty, start_weir, form, dialect, code):
    up = start_faulty(status(code, retry_after=PAUSES[form]()), OK)
    w = start_weir(pausing(up, dialect=dialect))
    first = chat(w, key="k1")
    assert (first.status, first.weir_reason) == (code, None) and b"upstream says" in first.body, first
    seconds = refused(chat(w, key="k1"), "throttled", dialect)
    assert 20 <= seconds <= 31
    assert len(up.requests) == 1
    assert breaker_state(w) == "paused"
    line = w.wait_log(reason="throttled")
    assert (line["status"], line.get("attempts", 0)) == (503, 0), line
    w.wait_metric("weir_refused_total", 1, reason="throttled")


def test_a_429_that_says_no_time_pauses_for_a_second(start_faulty, start_weir):
    up = start_faulty(status(429), OK)
    w = start_weir(pausing(up))
    assert chat(w, key="k1").status == 429
    assert refused(chat(w, key="k1"), "throttled", "openai") == 1
    assert breaker_state(w) == "paused"
    r = wait_until(lambda: (r := chat(w, key="k1")).status == 200 and r, "the pause to end", every=0.05)
    assert r.body == b"ok" and up.requests[1].started - up.sent_at[0] >= 0.999
    assert [chat(w, key="k1").status for _ in range(5)] == [200] * 5, "there is no ramp behind a pause"
    assert breaker_state(w) == "closed"


def test_a_pause_is_capped(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(pausing(up, {"max": "600ms"}))
    for word in ("1000000000000", "3600", "Fri, 31 Dec 9999 23:59:59 GMT"):
        up.answers(status(429, retry_after=word), OK)
        r = chat(w, key=word[:4])
        assert (r.status, r.header("Retry-After")) == (429, word)
        assert refused(chat(w, key=word[:4]), "throttled", "openai") == 1
    wait_until(lambda: chat(w, key=word[:4]).status == 200, "the pause to end", every=0.05)


def test_by_default_a_pause_is_ten_minutes_at_most(start_faulty, start_weir):
    w = start_weir(pausing(start_faulty(status(429, retry_after=10**12), OK)))
    assert chat(w, key="k1").status == 429
    assert 590 <= refused(chat(w, key="k1"), "throttled", "openai") <= 600


def test_a_retry_after_of_0_does_not_pause(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=0), OK)
    w = start_weir(pausing(up))
    assert [chat(w, key="k1").status for _ in range(3)] == [429, 200, 200]


def test_only_that_model_and_credential_pause(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60), OK)
    w = start_weir(pausing(up))
    assert chat(w, "gpt-5", key="k1").status == 429
    refused(chat(w, "gpt-5", key="k1"), "throttled", "openai")
    assert chat(w, "gpt-5", key="k2").status == 200
    assert chat(w, "gpt-5-mini", key="k1").status == 200
    assert chat(w, "gpt-5").status == 200
    refused(chat(w, "gpt-5", key="k1", text="something else"), "throttled", "openai")
    assert breaker_state(w) == "paused", "shown while any of them is"


def test_a_credential_is_whichever_the_caller_sends(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(pausing(up, dialect="anthropic"))

    def ask(name, key):
        return call(w, "/v1/messages", ask_of("claude-5"), [(name, key)])

    for name in ("Authorization", "x-api-key"):
        up.answers(status(429, retry_after=60), OK)
        assert ask(name, f"{name} one").status == 429
        assert ask(name, f"{name} two").status == 200, name
        refused(ask(name, f"{name} one"), "throttled", "anthropic")


def test_a_configured_credential_is_one_for_all_callers(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60), OK)
    w = start_weir(pausing(up, headers={"set": {"Authorization": "Bearer configured"}}))
    assert chat(w, key="k1").status == 429
    refused(chat(w, key="k2"), "throttled", "openai")


def test_a_plain_upstream_does_not_pause_by_default(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60))
    w = start_weir(pausing(up, dialect="plain"))
    assert [chat(w).status for _ in range(3)] == [429] * 3
    assert len(up.requests) == 3 and breaker_state(w) == "closed"


def test_a_plain_upstream_can_pause(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60), OK)
    w = start_weir(pausing(up, {}, dialect="plain"))
    assert call(w).status == 429
    refused(call(w), "throttled")
    assert call(w, headers=[("Authorization", "Bearer k2")]).status == 200


def test_pauses_can_be_switched_off(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60))
    w = start_weir(pausing(up, False))
    assert [chat(w).status for _ in range(3)] == [429] * 3 and len(up.requests) == 3


def test_a_503_with_retry_after_does_not_pause(start_faulty, start_weir):
    up = start_faulty(status(503, retry_after=60), OK)
    w = start_weir(pausing(up))
    assert [chat(w).status for _ in range(2)] == [503, 200]


def test_a_paused_retry_waits_for_the_end_of_the_pause(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=1), OK)
    w = start_weir(pausing(up, retry={"when": ["429"]}))
    assert chat(w, key="k1").status == 200
    assert len(up.requests) == 2 and up.requests[1].started - up.sent_at[0] >= 0.999


@pytest.mark.parametrize("retry_after", [None, "soon"])
def test_a_retry_waits_for_a_pause_of_no_stated_time(start_faulty, start_weir, retry_after):
    """That is a second, whatever the backoff is."""
    up = start_faulty(status(429, retry_after=retry_after), OK)
    w = start_weir(pausing(up, retry={"when": ["429"], "backoff": {"base": "1ms", "max": "1ms"}}))
    assert chat(w, key="k1").status == 200
    assert len(up.requests) == 2 and up.requests[1].started - up.sent_at[0] >= 0.999


def test_a_shorter_pause_does_not_end_a_longer_one(start_faulty, start_weir):
    gate = threading.Event()
    up = start_faulty([gate, status(429, retry_after=60)], [gate, status(429, retry_after=1)])
    w = start_weir(pausing(up))
    with connect(w.port) as one, connect(w.port) as two:
        for n, c in enumerate((one, two)):
            c.send(request("POST", "/v1/chat/completions", [("Authorization", "Bearer k")], ask_of("gpt-5")))
            up.wait_heads(n + 1)
        gate.set()
        assert one.read_response().status == two.read_response().status == 429
    assert refused(chat(w, key="k"), "throttled", "openai") > 30


def moves(w, upstream="agent"):
    """{state: how often the breaker came into it}."""
    return {d["to"]: v for (name, have), v in w.metrics().items() if name == "weir_breaker_transitions_total" and v
            for d in [dict(have)] if d["upstream"] == upstream}


def throttle_of(w, name="agent"):
    return upstream_of(w, name)["throttle"]


def test_a_pause_is_counted_once_and_so_is_its_end(start_faulty, start_weir):
    gate = threading.Event()
    up = start_faulty([gate, status(429, retry_after=1)])
    w = start_weir(pausing(up))

    def late(n):
        if n == 4:
            up.wait_heads(4)
            gate.set()
            return None
        with connect(w.port) as c:
            c.send(request("POST", "/v1/chat/completions", [("Authorization", "Bearer k")], ask_of("gpt-5")))
            return c.read_response().status

    assert moves(w) == {} and throttle_of(w) == {"enabled": True, "shared": False, "paused": 0, "longest_seconds": 0}
    assert in_parallel(5, late)[:4] == [429] * 4
    assert moves(w) == {"paused": 1} and breaker_state(w) == "paused"
    refused(chat(w, key="k"), "throttled", "openai")
    assert moves(w) == {"paused": 1}
    assert throttle_of(w) == {"enabled": True, "shared": False, "paused": 1, "longest_seconds": 1}
    up.answers(OK)
    wait_until(lambda: chat(w, key="k").status == 200, "the pause to end", every=0.05)
    assert moves(w) == {"paused": 1, "closed": 1} and breaker_state(w) == "closed"
    up.answers(status(429, retry_after=60))
    assert chat(w, key="k").status == 429
    assert moves(w) == {"paused": 2, "closed": 1}
    assert by_hand(w, "closed") in (200, 204)
    assert moves(w) == {"paused": 2, "closed": 2} and throttle_of(w)["paused"] == 0


def test_an_open_breaker_is_shown_open_though_somebody_is_paused(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60))
    w = start_weir(pausing(up))
    assert chat(w, key="k1").status == 429
    fail(w, up, 3)
    assert breaker_state(w) == "open" and moves(w) == {"paused": 1, "open": 1}
    wait_state(w, "paused")
    up.answers(OK)
    assert [chat(w, key="k2").status for _ in range(2)] == [200] * 2
    assert breaker_state(w) == "paused" and moves(w) == {"paused": 2, "open": 1}, "half_open and closed are not shown"


def test_a_pause_counts_for_every_breaker_of_the_upstream(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60), OK)
    w = start_weir(by_model(up))
    assert chat(w, "gpt-a", key="k").status == 429
    assert breaker_state(w) == "paused"
    for model in ("gpt-a-large", "gpt-b-large", "__other__"):
        assert w.metric("weir_breaker_transitions_total", model=model, to="paused") == 1, model
    assert chat(w, "gpt-b", key="k").status == 200
    w.wait_metric("weir_breaker_refused_total", 0)
    refused(chat(w, "gpt-a", key="k"), "throttled", "openai")
    w.wait_metric("weir_breaker_refused_total", 1, model="gpt-a-large")


def test_pauses_switched_off_by_a_reload_are_over(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=60), OK)
    config = pausing(up, {})
    w = start_weir(config)
    assert chat(w, key="k").status == 429 and breaker_state(w) == "paused"
    config["upstreams"]["agent"]["breaker"]["throttle"] = False
    w.reload(config)
    assert chat(w, key="k").status == 200 and breaker_state(w) == "closed"
    assert throttle_of(w) == {"enabled": False, "shared": False, "paused": 0, "longest_seconds": 0}


def test_who_is_paused_before_an_open_breaker_hears_of_what_ends_last(start_faulty, start_weir):
    up = start_faulty(status(429, retry_after=2))
    w = start_weir(breaking(up, {**SLOW_TO_HALF_OPEN, "throttle": {}}, {"dialect": "openai"}))
    assert chat(w, key="k").status == 429
    fail(w, up, 3)
    assert refused(chat(w, key="k"), "breaker_open", "openai") > 30


@pytest.mark.parametrize("why", ["breaker_open", "throttled"])
def test_the_log_names_the_upstream_that_refused(start_faulty, start_weir, why):
    up = start_faulty(RESET if why == "breaker_open" else status(429, retry_after=60))
    w = start_weir(breaking(up, {"consecutive_failures": 1, "throttle": {}, **SLOW_TO_HALF_OPEN}, {"dialect": "openai"}))
    call(w)
    refused(call(w, "/refused"), why, "openai")
    line = w.wait_log(path="/refused")
    assert (line["upstream"], line["reason"]) == ("agent", why) and "attempts" not in line, line


# ----------------------------------------------------------------------------------------------------------------- by hand


def by_hand(w, state, name="agent", method="POST"):
    return w.ask_admin(f"/upstreams/{name}/breaker?state={state}", method=method).status


def upstream_of(w, name="agent"):
    return next(u for u in w.status()["upstreams"] if u["name"] == name)


def test_it_is_opened_by_hand(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(breaking(up))
    assert call(w).status == 200
    assert by_hand(w, "open") in (200, 204)
    assert breaker_state(w) == "open" and transitions(w, "open") == 1
    time.sleep(0.5)                                         # longer than open.base: nothing but a hand ends this
    refused(call(w), "breaker_open")
    assert len(up.requests) == 1 and breaker_state(w) == "open"
    assert '"open"' in json.dumps(upstream_of(w))
    assert by_hand(w, "auto") in (200, 204)
    wait_until(lambda: call(w).status == 200, "calls to come through again")


def test_it_is_closed_by_hand(start_faulty, start_weir):
    up = start_faulty()
    w = opened(start_weir, up, SLOW_TO_HALF_OPEN)
    assert by_hand(w, "closed") in (200, 204)
    assert breaker_state(w) == "closed"
    for _ in range(10):
        problem(call(w), 502, "reset")
    assert breaker_state(w) == "closed"
    assert by_hand(w, "auto") in (200, 204)
    for _ in range(3):
        call(w)
    refused(call(w), "breaker_open")


def test_by_hand_is_all_models(start_faulty, start_weir):
    w = start_weir(by_model(start_faulty(OK)))
    assert by_hand(w, "open") in (200, 204)
    for model in ("gpt-a", "gpt-b", "invented"):
        refused(chat(w, model), "breaker_open", "openai")
    assert by_hand(w, "closed") in (200, 204)
    assert chat(w, "gpt-a").status == 200


def test_by_hand_is_kept_over_a_reload(start_faulty, start_weir):
    config = breaking(start_faulty(OK))
    w = start_weir(config)
    assert by_hand(w, "open") in (200, 204)
    config["listeners"]["in"]["routes"][0]["timeout"] = "5s"
    w.reload(config)
    refused(call(w), "breaker_open")


def test_what_a_hand_gets_wrong(start_faulty, start_weir):
    w = start_weir(breaking(start_faulty(OK)))
    assert by_hand(w, "ajar") == 400
    assert by_hand(w, "") == 400
    assert w.ask_admin("/upstreams/agent/breaker", method="POST").status == 400
    assert by_hand(w, "open", "nobody") == 404
    assert by_hand(w, "open", method="GET") == 405
    assert w.ask("/upstreams/agent/breaker?state=open", method="POST").status in (404, 405), "not at the metrics address"
    assert call(w, "/upstreams/agent/breaker?state=open").body == b"ok"
    assert call(w).status == 200 and breaker_state(w) == "closed"


def test_status_tells_of_every_state(start_faulty, start_weir):
    up = start_faulty()
    w = start_weir(breaking(up, {"open": {"base": "1s", "max": "1s", "jitter": "0%"}, "throttle": {}}))
    assert '"closed"' in json.dumps(upstream_of(w))
    fail(w, up, 3)
    assert '"open"' in json.dumps(upstream_of(w))
    wait_state(w, "half_open")
    assert '"half_open"' in json.dumps(upstream_of(w))
    up.answers(OK)
    for _ in range(2):
        assert call(w).status == 200
    up.answers(status(429, retry_after=60))
    assert wait_until(lambda: call(w).status == 429, "the ramp to let one through", every=0.05)
    assert '"paused"' in json.dumps(upstream_of(w))


def test_families_are_there_before_anything_happened(start_faulty, start_weir):
    f = families(start_weir(breaking(start_faulty(OK))))
    for name, kind in {"weir_breaker_state": "gauge", "weir_breaker_transitions_total": "counter",
                       "weir_breaker_refused_total": "counter", "weir_retries_total": "counter",
                       "weir_fallbacks_total": "counter"}.items():
        assert f.type.get(name) == kind and f.help[name], name
    states = {d["state"]: v for (name, have), v in f.samples.items() if name == "weir_breaker_state" for d in [dict(have)]}
    assert states == {"closed": 1, "open": 0, "half_open": 0, "paused": 0}, states


# ---------------------------------------------------------------------------------------------------------- a whole outage


def test_an_outage_is_not_multiplied(start_faulty, start_weir):
    """Retries and breaker as they are by default: the upstream sees little more than the calls before it opened."""
    up = start_faulty(RESET)
    w = start_weir(base_config(up.url, agent={"retry": {}, "breaker": {}}))
    answers = in_parallel(8, lambda n: [exchange(w.port, request("GET", f"/{n}")) for _ in range(40)])
    reasons = [r.weir_reason for each in answers for r in each]
    assert set(reasons) <= {"reset", "breaker_open"} and reasons.count("breaker_open") > 200, set(reasons)
    assert len(up.requests) <= 5 + 2 * 8, len(up.requests)
    assert breaker_state(w) == "open" and transitions(w, "open") == 1
    wait_until(lambda: len(w.log) == 320, "the log")
    assert sum(line.get("attempts", 0) for line in w.log) == len(up.requests)


OUTAGES = {"refused": None, "reset": RESET, "503": status(503, headers=[("Connection", "close")]), "stall": WAIT_GONE}


@pytest.mark.parametrize("breaker", [{}, False], ids=["breaker", "no breaker"])
@pytest.mark.parametrize("kind", OUTAGES)
def test_tries_in_an_outage_are_few_whatever_it_is(start_faulty, start_weir, kind, breaker):
    """32 callers, retries and breaker by default (only the stall is made shorter, and counts as a cause).

    tries <= 1.25 * requests with the breaker. Without it the budget alone holds: tries <= requests + 20 % of them, and
    three a second, which the budget always grants."""
    callers, each = 32, 8 if kind == "stall" and breaker is False else 40
    with Refuser() as nobody:
        up = nobody if kind == "refused" else start_faulty(OUTAGES[kind])
        w = start_weir(base_config(f"http://127.0.0.1:{up.port}", agent={
            "dialect": "openai", "breaker": breaker, "timeouts": {"first_byte": "300ms"},
            "retry": {"when": ["connect", "reset", "timeout", "502", "503", "504"]} if kind == "stall" else {}}))
        began = time.monotonic()

        def caller(n):
            with Caller(w.port) as c:
                return [c.get(f"/{n}/{i}") for i in range(each)]

        answers = sum(in_parallel(callers, caller), [])
        seconds, requests = time.monotonic() - began, callers * each
        tries = sum(outcomes(w).values())
        wait_until(lambda: len(w.log) == requests, "the log")
        assert sum(line.get("attempts", 0) for line in w.log) == tries
        assert tries == sum(1 for line in w.log if line.get("attempts")) + w.metric("weir_retries_total")
        if breaker is False:
            assert requests < tries <= 1.2 * requests + 3 * (seconds + 1), (tries, seconds)
            return
        assert tries <= 1.25 * requests, tries
        assert sum(r.weir_reason == "breaker_open" for r in answers) > requests / 2
        assert breaker_state(w) in ("open", "half_open")
        opens = transitions(w, "open")
        assert opens <= 1 + seconds / 4, (opens, seconds)


def test_half_open_under_200_callers(start_faulty, start_weir):
    """Exactly the probes reach the upstream, the others are answered meanwhile; one that leaves makes room for one."""
    up = start_faulty()
    w = opened(start_weir, up, {"probes": 5}, server={"max_connections": 1000})
    wait_state(w, "half_open")
    gate = threading.Event()
    up.answers([gate, OK])
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(w.port)) for _ in range(200)]
        before = w.metric("weir_breaker_refused_total")
        for n, c in enumerate(conns):
            c.send(request("POST", f"/{n}", body=b"hello"))
        w.wait_metric("weir_breaker_refused_total", before + 195, upstream="agent")
        up.wait_heads(5)
        assert len(up.requests) == 5 and breaker_state(w) == "half_open"
        gone = int(up.requests[0].target[1:])
        conns[gone].close()
        w.wait_log(path=f"/{gone}", reason="client_gone")
        with connect(w.port) as another:
            another.send(request("POST", "/another", body=b"hello"))
            up.wait_heads(6)
            refused(call(w), "breaker_open")
            gate.set()
            assert another.read_response().status == 200
        answers = [c.read_response() for n, c in enumerate(conns) if n != gone]
    assert sum(r.status == 200 for r in answers) == 4
    assert all(r.weir_reason == "breaker_open" for r in answers if r.status != 200)
    assert breaker_state(w) == "closed" and moves(w) == {"open": 1, "half_open": 1, "closed": 1}


def test_a_fault_of_one_hertz_does_not_flap(start_faulty, start_weir):
    """It opens n times in T seconds only if the n - 1 open times between them, 0.2 s and doubled each time, fit in T."""
    began = time.monotonic()
    up = start_faulty([lambda peer: peer.send(OK) if (time.monotonic() - began) % 1 < 0.5 else peer.reset()])
    w = start_weir(breaking(up, {"consecutive_failures": 3, "probes": 2, "open": {"base": "200ms", "max": "5m", "jitter": "0%"}}))

    def caller(_):
        with Caller(w.port) as c:
            while time.monotonic() < began + 7:
                c.ask(request("POST", "/", body=b"x"))
                time.sleep(0.01)

    in_parallel(8, caller)
    opens, seconds = transitions(w, "open"), time.monotonic() - began
    assert 2 <= opens and 0.2 * (2 ** (opens - 1) - 1) <= seconds, (opens, seconds)
    assert transitions(w, "half_open") in (opens - 1, opens) and transitions(w, "closed") <= transitions(w, "half_open")


def test_reloads_under_way_of_everything_a_breaker_is_by(start_faulty, start_weir):
    """Keys, models, pauses and fallbacks come and go while calls open, probe, pause and fall back."""
    a, b = start_faulty(status(503)), start_faulty(status(429, retry_after=1))
    config = chain(a, b, each={"dialect": "openai", "retry": {"attempts": 3, "when": ["503", "429"], "budget": "100%",
                                                              "backoff": {"base": "5ms", "max": "10ms"}}})
    w = start_weir(config)
    stop = threading.Event()
    breakers = [False, {"key": ["upstream"], "throttle": {}, "consecutive_failures": 2, "open": {"base": "10ms", "max": "30ms"}},
                {"key": ["upstream", "model"], "probes": 1, "consecutive_failures": 1, "open": {"base": "10ms", "max": "20ms"}}]

    def load(n):
        while n and not stop.is_set():
            assert chat(w, ["gpt-a", "gpt-b", "another"][n % 3]).status in (429, 503)
            assert w.ask("/metrics").status == 200 and w.status()
        for i in range(0 if n else 18):
            config["upstreams"]["agent"].update(breaker=breakers[i % 3], models=[{}, {"gpt-a": "B"}, {"gpt-a": "A"}][i % 3])
            config["listeners"]["in"]["routes"][0]["fallback"] = ["b"] if i % 2 else []
            w.reload(config)
        stop.set()

    in_parallel(7, load)
    w.wait_metric("weir_in_flight", 0)


@pytest.mark.parametrize("seed", range(4))
def test_no_permit_is_lost_whatever_happens(start_faulty, start_weir, seed):
    """Random ends on both sides, at a breaker and a fallback that open and half-open all the time; then it is well again,
    and every breaker must close after its probes, since half-open admits nobody else while a permit is out."""
    random = Random(seed)
    stop = threading.Event()
    bodies = [b"", b"hello", ask_of("gpt-a"), ask_of("gpt-b", text="x" * 300_000), b"x" * 1_200_000]
    answers = [OK, OK, RESET, CLOSE, WAIT_GONE, b"garbage\r\n\r\n", [0.02, OK], [b"HTTP/1.1 102 Processing\r\n\r\n", 0.01, OK],
               [HEAD + b"half", 0.02, RESET], [HEAD + b"half", CLOSE], [HEAD + b"half", WAIT_GONE],
               [CHUNKED + chunk(b"half"), 0.03, CLOSE], status(500), status(503), status(429, retry_after=0),
               status(529, retry_after=0, headers=[("Connection", "close")])]

    def turns(peer):
        answer = random.choice(answers) if not stop.is_set() else OK
        peer.run(answer if isinstance(answer, list) else [answer])

    ups = [start_faulty([turns], lenient=True), start_faulty([turns], lenient=True)]
    own = {"dialect": "openai", "models": {"gpt-a": "A"}, "timeouts": {"first_byte": "60ms", "idle": "60ms"},
           "connections": {"max": 6},
           "retry": {"attempts": 3, "methods": ["POST", "GET"], "budget": "100%", "backoff": {"base": "5ms", "max": "20ms"},
                     "when": ["connect", "reset", "timeout", "429", "500", "503", "529"]},
           "breaker": {"key": ["upstream", "model"], "consecutive_failures": 2, "probes": 2, "window": "500ms",
                       "open": {"base": "10ms", "max": "40ms"}}}
    w = start_weir(chain(*ups, each=own, route={"timeout": "250ms"}))   # a permit that is lost is so for timeouts.total

    def caller(n):
        mine = Random((seed, n).__repr__())
        for i in range(40):
            with connect(w.port) as c, contextlib.suppress(OSError, EOFError, Incomplete, AssertionError):
                body = mine.choice(bodies)
                raw = request(mine.choice(["POST", "POST", "GET"]), f"/{n}/{i}", [("Content-Type", "application/json")], body)
                way = mine.random()
                if way < 0.2:
                    c.send(raw[:mine.randrange(len(raw))])
                    time.sleep(mine.random() * 0.1)
                elif way < 0.5:
                    c.send(raw)
                    time.sleep(mine.random() * 0.1)
                else:
                    c.send(raw + raw if way > 0.9 else raw)
                    c.read_response(timeout=5)
                mine.choice([c.close, c.reset, c.close])()

    in_parallel(12, caller)
    stop.set()
    w.wait_metric("weir_in_flight", 0)

    def is_well():
        answers = [chat(w, model).status for model in ("gpt-a", "gpt-b", "other")]
        states = [breaker_state(w, model=model) for model in ("A", "__other__")]
        return answers == [200] * 3 and states == ["closed"] * 2

    wait_until(is_well, "the first upstream to be well", every=0.02)
    w.wait_metric("weir_upstream_connections", 0, state="active")
