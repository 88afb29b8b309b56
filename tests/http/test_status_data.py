"""What GET /status tells of what was counted, its history, and who may ask the admin listener to change something."""
import calendar
import json
import re
import time

import pytest

from faults import RESET, breaking, wait_state
from harness import base_config, exchange, get, post, reply, request, wait_until
from llm import FORMS, Llm, Usage
from support import deduped, keyed, routes

STEP = 5
TOKEN = "canary-admin-7755"
SERIES = ("requests", "failed", "refused", "saved", "in_flight")


def seconds_of(text):
    m = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})Z", text)
    assert m, text
    return calendar.timegm(time.strptime(m[1], "%Y-%m-%dT%H:%M:%S")) + int(m[2]) / 1000


def status(w):
    w.wait_metric("weir_in_flight", 0)
    return w.status()


def history(w):
    """The status with its history, which is well-formed."""
    r = w.ask_admin("/status?history=1")
    assert r.status == 200, r
    told = json.loads(r.body)
    past = told["history"]
    assert set(past) == {"step_seconds", "until", *SERIES} and past["step_seconds"] == STEP
    count = len(past["requests"])
    assert count <= 180
    for name in SERIES:
        assert len(past[name]) == count and all(isinstance(n, int) and n >= 0 for n in past[name]), (name, past)
    for breaker in (b for upstream in told["upstreams"] for b in upstream["breakers"]):
        assert re.fullmatch("[coph-]{%d}" % count, breaker["history"]), breaker
    assert -0.01 <= seconds_of(told["now"]) - seconds_of(past["until"]) < 3 * STEP
    return told


def whole_steps(w, count):
    return wait_until(lambda: (told := history(w)) and len(told["history"]["requests"]) >= count and told, f"{count} steps", every=0.1)


def told_all(w, **wanted):
    """The history, once its sums are these."""
    return wait_until(lambda: (told := history(w)) and all(sum(told["history"][k]) == n for k, n in wanted.items()) and told,
                      f"a history of {wanted}", timeout=20, every=0.1)


# --------------------------------------------------------------------------------------------------- since the start


def test_before_anything_happened(start_weir, start_upstream):
    w = start_weir(deduped(start_upstream(), agent={"breaker": {}}))
    told = w.status()
    assert abs(seconds_of(told["now"]) - time.time()) < 2
    assert told["requests"] == {"total": 0, "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0, "refused": {}}
    assert told["tokens"] == {"input": 0, "cached": 0, "output": 0}
    assert told["dedup"][0]["results"] == dict.fromkeys(
        ("first", "replayed", "acknowledged", "rejected", "shared", "mismatch", "bypassed", "forgotten"), 0)
    assert told["upstreams"][0]["outcomes"] == {}
    assert "history" not in told and "history" not in told["upstreams"][0]["breakers"][0]


@pytest.mark.parametrize("query, has", [("history=1&x", True), ("x=1&history=1", True), ("", False), ("history=10", False), ("xhistory=1", False)])
def test_history_is_told_when_asked_for(start_weir, start_upstream, query, has):
    w = start_weir(deduped(start_upstream(), agent={"breaker": {}}))
    assert ("history" in json.loads(w.ask_admin(f"/status?{query}").body)) == has


def test_keys_without_a_row_of_their_own(start_weir, start_upstream):
    """A table that was full once keeps its rows; what counts is who found none."""
    window = {"algorithm": "sliding_window", "limit": 9, "window": "1h", "key": ["tenant"]}
    config = base_config(start_upstream().port, limits={"small": {**window, "max_keys": 16}, "large": window}, route={"limits": ["small", "large"]})
    w = start_weir(config)
    assert [told["overflow"] for told in w.status()["limits"]] == [0, 0]
    for n in range(60):
        get(w.port, "/", [("X-Tenant-ID", f"t{n}")])
    told = {told["name"]: told["overflow"] for told in status(w)["limits"]}
    assert told["small"] == w.metric("weir_limit_overflow_total", limit="small") > 0
    assert told["large"] == 0


def test_requests_by_class_and_reason(start_weir, start_upstream):
    up = start_upstream(lambda peer: reply(int(peer.request.target[1:4]), b"x"))
    config = base_config(up.port, limits={"one": {"algorithm": "sliding_window", "limit": 1, "window": "1h"}})
    config["upstreams"]["dead"] = {"url": "unix:///nonexistent/agent.sock", "retry": False, "breaker": False}
    config["listeners"]["in"]["routes"] = routes(("/200/one", {"limits": ["one"]}), ("/dead", {"upstream": "dead"}), ("/", {}))
    w = start_weir(config)
    for target in ("/200", "/201", "/302", "/404", "/503", "/500", *["/200/one"] * 4, "/dead"):
        get(w.port, target)
    told = status(w)
    assert told["requests"] == {"total": 11, "2xx": 3, "3xx": 1, "4xx": 4, "5xx": 3, "refused": {"limit": 3, "connect_failed": 1}}
    outcomes = {upstream["name"]: upstream["outcomes"] for upstream in told["upstreams"]}
    assert outcomes == {"agent": {"ok": 4, "4xx": 1, "5xx": 2}, "dead": {"connect_failed": 1}}


def test_they_live_through_a_reload(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port)
    config["listeners"]["in"]["routes"] = routes(("/gone", {}), ("/", {}))
    w = start_weir(config)
    for _ in range(3):
        get(w.port, "/gone")
    config["listeners"]["in"]["routes"] = routes(("/", {}))
    config["upstreams"]["agent"]["url"] = f"http://localhost:{up.port}"
    w.reload(config)
    get(w.port)
    told = status(w)
    assert told["requests"]["total"] == told["requests"]["2xx"] == 4
    assert told["upstreams"][0]["outcomes"] == {"ok": 4}


def test_tokens_of_all_upstreams(start_weir, start_upstream):
    form = FORMS["chat"]
    up = start_upstream(Llm(Usage(input=100, cached=30, output=20)))
    config = base_config(up.port, agent={"dialect": "openai"})
    config["upstreams"]["other"] = {**config["upstreams"]["agent"]}
    config["listeners"]["in"]["routes"] = routes(("/other", {"upstream": "other"}), ("/", {}))
    w = start_weir(config)
    for path in (form.path, form.path, "/other" + form.path):
        assert post(w.port, path, form.ask(), [("Content-Type", "application/json")]).status == 200
    assert status(w)["tokens"] == {"input": 300, "cached": 90, "output": 60}


def test_results_of_a_dedup(start_weir, start_upstream):
    w = start_weir(deduped(start_upstream()))
    for key, body in (("a", b"1"), ("a", b"1"), ("a", b"1"), ("b", b"1"), ("a", b"2")):
        post(w.port, "/", body, keyed(key))
    results = status(w)["dedup"][0]["results"]
    assert {word: n for word, n in results.items() if n} == {"first": 2, "replayed": 2, "mismatch": 1}


# ------------------------------------------------------------------------------------------------------------ history


def test_each_request_stands_in_one_step(start_weir, start_upstream):
    up = start_upstream(lambda peer: reply(int(peer.request.target[1:4]), b"x"))
    config = base_config(up.port, limits={"one": {"algorithm": "sliding_window", "limit": 2, "window": "1h"}},
                         dedup={word: {"on_duplicate": word} for word in ("replay", "acknowledge", "reject")})
    config["listeners"]["in"]["routes"] = routes(("/200/one", {"limits": ["one"]}),
                                                 *((f"/200/{word}", {"dedup": word}) for word in config["dedup"]), ("/", {}))
    w = start_weir(config)
    for target in ("/200", "/503", "/502", *["/200/one"] * 5):
        get(w.port, target)
    for word, times in (("replay", 3), ("acknowledge", 2), ("reject", 4)):
        for _ in range(times):
            post(w.port, f"/200/{word}", b"x", keyed("k"))
    first = told_all(w, requests=17, failed=2, refused=7, saved=6)["history"]
    assert max(first["in_flight"]) >= 1
    config["upstreams"]["agent"]["breaker"] = {}
    w.reload(config)
    get(w.port, "/503")
    second = told_all(w, requests=18, failed=3, refused=7, saved=6)["history"]
    for name in SERIES:
        assert second[name][:len(first[name])] == first[name], "what is over does not change, over a reload neither"
    assert seconds_of(second["until"]) - seconds_of(first["until"]) == pytest.approx(
        STEP * (len(second["requests"]) - len(first["requests"])), abs=0.01)


def test_breakers_have_a_history(start_weir, start_faulty):
    up = start_faulty()
    config = breaking(up, {"open": {"base": "60s", "max": "5m"}})
    w = start_weir(config)
    up.answers(RESET)
    for _ in range(3):
        post(w.port, "/", b"")
    wait_state(w, "open")
    whole_steps(w, len(history(w)["history"]["requests"]) + 1)
    config["upstreams"]["another"] = {"url": "http://127.0.0.1:1", "models": {"small": "gpt-5-mini"},
                                      "breaker": {"key": ["upstream", "model"]}}
    w.reload(config)
    before = len(history(w)["history"]["requests"])
    told = whole_steps(w, before + 1)
    letters = {(upstream["name"], b["model"]): b["history"] for upstream in told["upstreams"] for b in upstream["breakers"]}
    assert set(letters) == {("agent", ""), ("another", "__other__"), ("another", "gpt-5-mini")}
    assert re.fullmatch("c*o{2,}", letters["agent", ""]), letters
    for model in ("__other__", "gpt-5-mini"):
        assert re.fullmatch("-+c+", letters["another", model]) and letters["another", model].count("-") >= before - 1, letters


# --------------------------------------------------------------------------------------- pages of other origins, token


FROM_ELSEWHERE = [[("Origin", "https://evil.example")], [("Origin", "null")], [("Origin", "http://127.0.0.1:{port}.evil.example")],
                  [("Origin", "https://127.0.0.1:{port}")], [("Origin", "http://127.0.0.1:1")], [("Origin", "")],
                  [("Origin", "http://127.0.0.1:{port}"), ("Origin", "https://evil.example")],
                  [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site")], [("Sec-Fetch-Site", "")],
                  [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
                  [("Origin", "http://127.0.0.1:{port}"), ("Sec-Fetch-Site", "cross-site")]]
FROM_HERE = [[], [("Origin", "http://127.0.0.1:{port}")], [("Sec-Fetch-Site", "same-origin")], [("Sec-Fetch-Site", "none")],
             [("Origin", "http://127.0.0.1:{port}"), ("Sec-Fetch-Site", "same-origin")]]
ACTIONS = [("POST", "/reload"), ("POST", "/upstreams/agent/breaker?state=open"), ("DELETE", "/limits/one?tenant=acme"),
           ("DELETE", "/dedup/once?key=k&tenant=acme"), ("PUT", "/status"), ("POST", "/none")]


def ask(w, method, target, headers):
    port = w.admin[1]
    fields = [(name, value.format(port=port)) for name, value in headers]
    raw = request(method, target, [("Connection", "close"), *fields], None if method in ("GET", "HEAD") else b"",
                  host=f"127.0.0.1:{port}")
    return exchange(w.admin, raw, method=method)


def guarded(start_weir, start_upstream, **more):
    return start_weir(deduped(start_upstream(), agent={"breaker": {}}, limits={"one": {"rate": "5/s"}}, **more))


def test_no_page_of_another_origin_changes_anything(start_weir, start_upstream):
    w = guarded(start_weir, start_upstream)
    for headers in FROM_ELSEWHERE:
        for method, target in ACTIONS:
            r = ask(w, method, target, headers)
            assert (r.status, r.weir_reason) == (403, "forbidden"), (method, target, headers)
            assert "Access-Control-Allow-Origin" not in r.headers
    assert w.metric("weir_config_reloads_total") == 0
    wait_state(w, "closed")


def test_our_own_page_and_those_who_say_nothing_do(start_weir, start_upstream):
    w = guarded(start_weir, start_upstream)
    for headers in FROM_HERE:
        for method, target in ACTIONS:
            assert ask(w, method, target, headers).status not in (401, 403), (method, target, headers)
    assert w.metric("weir_config_reloads_total", result="ok") == len(FROM_HERE)
    wait_state(w, "open")


def test_reading_is_for_whoever_follows_a_link(start_weir, start_upstream):
    w = guarded(start_weir, start_upstream)
    for target in ("/", "/status", "/metrics", "/config"):
        for site in ("cross-site", "same-site", "same-origin", "none"):
            for method in ("GET", "HEAD"):
                assert ask(w, method, target, [("Sec-Fetch-Site", site)]).status == 200, (method, target, site)


@pytest.mark.parametrize("accept", ["text/html", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"])
def test_without_its_token_a_browser_gets_the_page_alone(start_weir, start_upstream, accept):
    w = guarded(start_weir, start_upstream, admin={"token": TOKEN})
    good = [("Authorization", f"Bearer {TOKEN}")]
    page = ask(w, "GET", "/", good)
    assert page.status == 200
    for bad in ([], [("Authorization", "Bearer wrong")]):
        r = ask(w, "GET", "/", [("Accept", accept), *bad])
        assert r.status == 401 and r.header("WWW-Authenticate").startswith("Bearer")
        assert r.header("Content-Type").startswith("text/html") and r.body == page.body
        assert r.header("Content-Security-Policy") == page.header("Content-Security-Policy")
        assert r.header("Cache-Control") == "no-store" and TOKEN.encode() not in r.body
        head = ask(w, "HEAD", "/", [("Accept", accept), *bad])
        assert head.status == 401 and head.body == b""


def test_without_its_token_nothing_else_is_a_page(start_weir, start_upstream):
    w = guarded(start_weir, start_upstream, admin={"token": TOKEN})
    html = [("Accept", "text/html")]
    for method, target, headers in (("GET", "/", []), ("GET", "/", [("Accept", "*/*")]), ("GET", "/", [("Accept", "text/html;q=0")]),
                                    ("POST", "/", html), ("GET", "/status", html), ("GET", "/none", html), ("GET", "/config", html),
                                    ("POST", "/reload", html)):
        r = ask(w, method, target, headers)
        assert r.status == 401 and r.header("WWW-Authenticate").startswith("Bearer"), (method, target)
        assert r.header("Content-Type") == "application/problem+json" and r.weir_reason == "forbidden"
