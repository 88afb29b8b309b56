"""An upstream that stops in any phase: the timeout of that phase ends it, by its name and in its time.

Every case has an upstream and a proxy of its own behind one weir, so that all of them wait at the same time.
"""
import time

import pytest

from fault_proxy import Fault
from faults import error, outcomes
from harness import Blackhole, base_config, connect, reply, request, wait_until
from llm import FORMS
from support import in_parallel
from test_cut import Form, Whole, check_last_words, chunked, stream

TIMES = {"connect": "1s", "first_byte": "1s", "idle": "1s"}
ALLOWED = 1 + 1.5   # seconds: the timeout, and a generous one for a busy machine
LARGE = b"z" * (8 << 20)


def many(proxies, agent, **more):
    """A weir with a route /N to each of the proxies."""
    config = base_config(proxies[0].url, **more)
    config["upstreams"] = {f"u{n}": {"url": p.url, "retry": False, "breaker": False, **agent} for n, p in enumerate(proxies)}
    config["listeners"]["in"]["routes"] = [{"path": f"/{n}", "upstream": f"u{n}"} for n in range(len(proxies))]
    return config


def outcomes_of_all(w):
    """{upstream: {outcome: count}} from one look at the metrics."""
    found = {}
    for (name, labels), value in w.metrics().items():
        if name == "weir_upstream_requests_total" and value:
            labels = dict(labels)
            found.setdefault(labels["upstream"], {})[labels["outcome"]] = value
    return found


def timed(w, raw, method):
    with connect(w.port) as c:
        began = time.monotonic()
        c.send(raw)
        r = c.read_response(method)
        return r, time.monotonic() - began


FORMS_STALLED = {
    "length": Form(reply(200, b"hello, world")),
    "chunked": Form(chunked(b"hello", b", world")),
    "interim answers": Form(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(200, b"hello")),
    "204": Form(reply(204, b"")),
    "openai": Form(stream("chat"), "POST", "openai", "/v1/chat/completions", FORMS["chat stream"].ask()),
    "anthropic": Form(stream("messages"), "POST", "anthropic", "/v1/messages", FORMS["messages stream"].ask()),
}


@pytest.mark.parametrize("name", FORMS_STALLED)
def test_an_answer_that_stops_at_a_byte(start_upstream, start_proxy, start_weir, name):
    form = FORMS_STALLED[name]
    whole = Whole(form)
    up = start_upstream(lambda peer: form.raw)
    step = max(1, whole.total // 30)
    places = sorted({*range(0, whole.total, step), whole.head - 1, whole.head, whole.total - 1} - {whole.total})
    proxies = [start_proxy(up) for _ in places]
    for p, at in zip(proxies, places):
        p.arm(Fault("down", at, "stall"))
    w = start_weir(many(proxies, {"dialect": form.dialect, "timeouts": TIMES}))

    def one(i):
        return timed(w, request(form.method, f"/{i}{form.path}", [("X-Correlation-ID", f"stall-{i}")], form.body), form.method)

    answers = in_parallel(len(places), one)
    w.wait_metric("weir_upstream_connections", 0)
    w.wait_metric("weir_in_flight", 0)
    wait_until(lambda: len(w.log) == len(places), "the log")
    lines, counted = {line["correlation_id"]: line for line in w.log}, outcomes_of_all(w)
    for i, (at, (r, seconds)) in enumerate(zip(places, answers)):
        if at >= whole.head:
            assert r.status == whole.status and not r.clean, (at, r)
            if form.dialect == "plain":
                assert whole.body.startswith(r.body), (at, r)
            else:
                check_last_words(form, whole, at, r.body)
        else:
            error(r, 504, ("timeout_first_byte",) if at == 0 else ("timeout_first_byte", "timeout_idle"), form.dialect)
        reason = "timeout_idle" if at >= whole.head else r.weir_reason
        line = lines[f"stall-{i}"]
        assert line["reason"] == reason and counted[f"u{i}"] == {reason: 1}, (at, line)
        assert 0.9 <= seconds <= ALLOWED, (at, seconds)
    assert all(p.fired == 1 for p in proxies)


def test_an_upstream_that_stops_reading(start_upstream, start_proxy, start_weir):
    """A large request, of which it takes some bytes and no more."""
    up = start_upstream(lenient=True)
    places = (0, 1, 50, 5000, 1 << 20)
    proxies = [start_proxy(up) for _ in places]
    for p, at in zip(proxies, places):
        p.arm(Fault("up", at, "stall"))
    w = start_weir(many(proxies, {"timeouts": TIMES}))
    answers = in_parallel(len(places), lambda n: timed(w, request("POST", f"/{n}", [], LARGE), "POST"))
    for n, (r, seconds) in enumerate(answers):
        error(r, 504, ("timeout_first_byte", "timeout_idle"))
        assert 0.9 <= seconds <= 1 + ALLOWED, (places[n], seconds)
        assert outcomes(w, f"u{n}") == {r.weir_reason: 1}
    w.wait_metric("weir_upstream_connections", 0)


def test_a_connection_that_does_not_open_is_a_connect_timeout(start_weir):
    with Blackhole() as hole:
        w = start_weir(base_config(hole.port, agent={"timeouts": TIMES}))
        answers = in_parallel(8, lambda n: timed(w, request("POST", "/x", [], b"x"), "POST"))
    for r, seconds in answers:
        error(r, 504, "timeout_connect")
        assert 0.9 <= seconds <= ALLOWED, seconds


def test_total_ends_what_never_stalls(start_upstream, start_proxy, start_weir):
    """Bytes keep coming, too few of them: in the head and in the body."""
    head_slow, body_slow = reply(200, b"", [("X-Slow", "y" * 4000)]), reply(200, b"y" * 4000)
    ups = [start_upstream(lambda peer, raw=raw: raw, lenient=True) for raw in (head_slow, body_slow)]
    proxies = [start_proxy(up) for up in ups]
    for p in proxies:
        p.rate = 400
    w = start_weir(many(proxies, {"timeouts": {"first_byte": "30s", "idle": "500ms", "total": "900ms"}}))
    slow_head, slow_body = in_parallel(2, lambda n: timed(w, request("GET", f"/{n}"), "GET"))
    error(slow_head[0], 504, "timeout_total")
    assert slow_body[0].status == 200 and not slow_body[0].clean and body_slow.endswith(slow_body[0].body), slow_body
    w.wait_log(path="/1", reason="timeout_total")
    for _, seconds in (slow_head, slow_body):
        assert 0.8 <= seconds <= 0.9 + 1.5, seconds


def test_slow_bytes_are_no_stall(start_upstream, start_proxy, start_weir):
    """Half the idle timeout between them, many times over."""
    raw = chunked(*[b"abc"] * 5)
    p = start_proxy(start_upstream(lambda peer: raw))
    p.rate = 80
    w = start_weir(base_config(p.url, agent={"timeouts": {"first_byte": "2s", "idle": "1s"}}))
    r, seconds = timed(w, request("GET", "/x"), "GET")
    assert r.clean and r.body == b"abc" * 5 and seconds > 1


def test_a_delay_below_the_timeout_is_none(start_upstream, start_proxy, start_weir):
    p = start_proxy(start_upstream())
    p.delay = 0.3
    w = start_weir(base_config(p.url, agent={"timeouts": {"first_byte": "5s", "idle": "5s"}}))
    assert timed(w, request("GET", "/x"), "GET")[0].status == 200


def test_a_stall_is_tried_again_only_where_that_is_said(start_upstream, start_proxy, start_weir):
    up = start_upstream()
    proxies = [start_proxy(up), start_proxy(up)]
    config = many(proxies, {"timeouts": TIMES})
    config["upstreams"]["u0"]["retry"] = {}
    config["upstreams"]["u1"]["retry"] = {"when": ["timeout"]}
    w = start_weir(config)
    for p in proxies:
        p.arm(Fault("down", 3, "stall"))
    error(timed(w, request("GET", "/0"), "GET")[0], 504, ("timeout_first_byte", "timeout_idle"))
    assert timed(w, request("GET", "/1"), "GET")[0].status == 200
    assert [p.requests for p in proxies] == [1, 2]
