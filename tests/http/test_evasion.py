"""What a caller could write so that a limit counts less than it should: bodies that two readers read in two ways, answers
that say less than they are, and questions of an operator that miss what they mean.

Each body below is one that some reader of JSON takes, and reads another model or another number from than weir could.
"""
import json
import threading

import pytest

from harness import LAST_CHUNK, base_config, chunk, connect, exchange, free_port, post, reply, request
from support import limit_refusal, problem, routes

JSON = ("Content-Type", "application/json")
ACME = ("X-Tenant-ID", "acme")
CHAT = "/v1/chat/completions"
BURST = 100_000


def window(limit, *key, **more):
    return {"algorithm": "sliding_window", "limit": limit, "window": "1h", "key": list(key), **more}


def limited(up, limit, **more):
    return base_config(up.port, limits={"only": limit}, route={"limits": ["only"]}, **more)


def metered(up, dialect="openai"):
    return limited(up, {"unit": "llm_tokens", "rate": "1/h", "burst": BURST}, agent={"dialect": dialect})


def ask(w, body):
    return exchange(w.port, request("POST", CHAT, [ACME, JSON], body))


def explained(w, **more):
    """What the only limit says on /explain."""
    query = "&".join(f"{k}={v}" for k, v in {"path": "/", "tenant": "acme", **more}.items())
    r = w.ask_admin(f"/explain?{query}")
    assert r.status == 200, r
    [one] = r.json()["limits"]
    return one


def used(w):
    """Tokens, when nothing is in flight any more."""
    w.wait_metric("weir_in_flight", 0)
    return BURST - explained(w)["remaining"]


def fresh(w, query, name="only"):
    return w.ask_admin(f"/limits/{name}{'?' + query if query else ''}", method="DELETE")


# ------------------------------------------------------------------------------------------- a model that is another's


DEEP = "[" * 600 + "]" * 600
UNREADABLE = {
    "NaN": b'{"model": "r%d", "z": NaN, "model": "gpt-5"}', "infinite": b'{"model": "r%d", "z": -Infinity, "model": "gpt-5"}',
    "deep": b'{"model": "r%d", "z": ' + DEEP.encode() + b', "model": "gpt-5"}',
    "control": b'{"model": "r%d", "z": "a\tb", "model": "gpt-5"}', "comma": b'{"model": "r%d", "messages": [],}',
    "comment": b'{"model": "r%d" /* no */, "model": "gpt-5"}', "two": b'{"model": "r%d"} {"model": "gpt-5"}', "cut": b'{"model": "r%d"',
    "mark": b'\xef\xbb\xbf{"model": "r%d"}'}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_breaks_names_no_model(start_weir, start_upstream, body):
    """A new name each time in front of what weir cannot read does not make a new key."""
    up = start_upstream()
    w = start_weir(limited(up, window(2, "tenant", "model")))
    answers = [ask(w, body % n) for n in range(5)]
    assert [r.status for r in answers] == [200, 200, 429, 429, 429]
    limit_refusal(answers[-1])
    assert [q.body for q in up.requests] == [body % 0, body % 1], "passed on as it was"
    assert [ask(w, b'{"model": "gpt-5"}').status for _ in range(3)] == [200, 200, 429], "and spends nobody's own"


def test_python_reads_on():
    """Why that matters: what the table above says of readers is so."""
    for name in ("NaN", "infinite", "deep"):
        assert json.loads(UNREADABLE[name] % 1)["model"] == "gpt-5"
    assert json.loads(UNREADABLE["mark"] % 1)["model"] == "r1"


TWO_CASES = [
    b'{"model": "r1", "Model": "gpt-5"}', b'{"MODEL": "gpt-5", "messages": [], "model": "r1"}', b'{"Model": "a", "mOdel": "b"}',
    b'{"model": "r1", "\\u004dodel": "gpt-5"}', b'{"max_tokens": 1, "MAX_TOKENS": 100000}',
    b'{"max_tokens": 1, "max_token\\u017f": 100000}', '{"max_tokens": 1, "max_to\u212aens": 100000}'.encode(),
    b'{"stream": false, "Stream": true}', b'{"stream_options": {"include_usage": false, "Include_Usage": true}}',
    b'{"model": "r1", "Model": "gpt-5", "z": NaN}']


def test_names_that_differ_in_case(start_weir, start_upstream):
    """To Go's encoding/json they are one member, and the last one counts."""
    up = start_upstream()
    w = start_weir(limited(up, window(9, "model")))
    for body in TWO_CASES:
        problem(ask(w, body), 400, "malformed")
    assert up.heads == 0
    for body in (b'{"model": "r1", "models": "x", "Temperature": 1, "temperature": 2}', b'{"Model": "r1"}'):
        assert ask(w, body).status == 200, body


# --------------------------------------------------------------------------------------------- tokens that nobody can read


class Held:
    """An upstream's handler that answers when it is let."""

    def __init__(self):
        self.go = threading.Event()

    def __call__(self, peer):
        assert self.go.wait(30)
        return reply(200, b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}}', [JSON])

    def left(self, w, up, name, value):
        """What the limit has left while a call that asks for so many tokens is under way."""
        self.go.clear()
        up.clear()
        with connect(w.port) as c:
            c.send(request("POST", CHAT, [ACME, JSON], b'{"%s": %s}' % (name, value)))
            up.wait_heads()
            left = explained(w)["remaining"]
            self.go.set()
            assert c.read_response("POST").status == 200
        assert used(w) >= 2
        assert fresh(w, "tenant=acme").status == 200
        return left


@pytest.mark.parametrize("name", [b"max_tokens", b"max_completion_tokens", b"max_output_tokens"])
def test_what_cannot_be_read_reserves_all_there_is(start_weir, start_upstream, name):
    handler = Held()
    up = start_upstream(handler)
    w = start_weir(metered(up))
    for value in (b'"50000"', b"50000.5", b"1e400", b"9" * 400, b"50000." + b"0" * 300, b"true", b"[50000]", b'{"n": 50000}'):
        assert handler.left(w, up, name, value) == 0, value
    for value in (b"null", b"-1", b"-0.5", b"0", b"10", b"1e1"):
        assert BURST - 30 < handler.left(w, up, name, value) < BURST, value


# ------------------------------------------------------------------------------------------------ answers that say too little


TEXT = b"x" * 4000   # 1000 tokens, where nobody says


@pytest.mark.parametrize("kind,before", [("application/json", b'{"choices": [{"message": {"content": "'),
                                         ("text/event-stream", b'data: {"choices": [{"delta": {"content": "'),
                                         ("text/event-stream", b'data: {"type": "response.output_text.delta", "delta": "')],
                         ids=["json", "events", "responses"])
def test_an_answer_that_is_cut_in_its_text(start_weir, start_upstream, kind, before):
    def handler(peer):
        peer.send(reply(200, b"", [("Content-Type", kind), ("Transfer-Encoding", "chunked")], length=False))
        peer.send(chunk(before) + chunk(TEXT[:1999]) + chunk(TEXT[1999:]))
        peer.close()

    w = start_weir(metered(start_upstream(handler)))
    with connect(w.port) as c:
        c.send(request("POST", CHAT, [ACME, JSON], b'{"max_tokens": 5}'))
        c.recv_until(TEXT[:50])
    assert 1000 <= used(w) <= 1010


def test_a_caller_who_leaves_in_the_middle_of_a_string(start_weir, start_upstream):
    go = threading.Event()

    def handler(peer):
        peer.send(reply(200, b"", [JSON, ("Transfer-Encoding", "chunked")], length=False))
        peer.send(chunk(b'{"content": [{"type": "text", "text": "' + TEXT))
        assert go.wait(30)
        peer.send(chunk(b'"}]}') + LAST_CHUNK)

    w = start_weir(metered(start_upstream(handler), "anthropic"))
    with connect(w.port) as c:
        c.send(request("POST", "/v1/messages", [ACME, JSON], b'{"max_tokens": 5}'))
        c.recv_until(TEXT[-500:])
    assert 990 <= used(w) <= 1010
    go.set()


NO_JSON = {"text": TEXT, "object": b"{" + TEXT, "sound": b"\xff\xfb\x90" + TEXT, "deep": b'{"data": [' + b"[" * 600 + TEXT,
           "lines": b"{}\n" + TEXT}


@pytest.mark.parametrize("answer", NO_JSON.values(), ids=NO_JSON)
def test_an_answer_that_is_no_json(start_weir, start_upstream, answer):
    w = start_weir(metered(start_upstream(script=[reply(200, answer, [JSON])])))
    assert ask(w, b'{"max_tokens": 5}').body == answer
    assert 1000 <= used(w) <= 1200


def test_an_answer_behind_a_byte_order_mark(start_weir, start_upstream):
    answer = b'\xef\xbb\xbf{"choices": [], "usage": {"prompt_tokens": 3000, "completion_tokens": 500}}'
    w = start_weir(metered(start_upstream(script=[reply(200, answer, [JSON])])))
    assert ask(w, b'{"max_tokens": 5}').body == answer
    assert used(w) == 3500


def event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@pytest.mark.parametrize("dialect,end,events", [
    ("openai", b"data: [DONE]\n\n", [{"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 5000}},
                {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}]),
    ("anthropic", event({"type": "message_stop"}),
     [{"type": "message_start", "message": {"usage": {"input_tokens": 100, "output_tokens": 1}}},
      {"type": "message_delta", "usage": {"output_tokens": 5000}},
      {"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": 0}}])])
def test_a_later_count_takes_nothing_back(start_weir, start_upstream, dialect, end, events):
    answer = b"".join(map(event, events)) + end
    up = start_upstream(script=[reply(200, answer, [("Content-Type", "text/event-stream")])])
    w = start_weir(metered(up, dialect))
    assert ask(w, b'{"max_tokens": 5}').body == answer
    assert used(w) == 5100


# ------------------------------------------------------------------------------------------------ questions that mean more


def test_what_a_request_would_cost(start_weir, start_upstream):
    limits = {"calls": {"rate": "1/h", "burst": 5}, "tokens": {"unit": "llm_tokens", "rate": "1/h", "burst": 1000},
              "bytes": {"unit": "request_bytes", "rate": "1/h", "burst": 300}, "slots": {"algorithm": "concurrency", "limit": 2}}
    w = start_weir(base_config(start_upstream().port, limits=limits, route={"limits": list(limits)}, agent={"dialect": "openai"}))

    def asked(query=""):
        r = w.ask_admin(f"/explain?path=/&tenant=acme{query}")
        assert r.status == 200, r
        limits = {one["name"]: one for one in r.json()["limits"]}
        return {name: one["cost"] for name, one in limits.items()}, {n for n, one in limits.items() if one["would"] != "admit"}

    def costs(calls=1, tokens=1, bytes=1, slots=1):
        return {"calls": calls, "tokens": tokens, "bytes": bytes, "slots": slots}

    assert asked() == (costs(), set())
    assert asked("&tokens=0") == (costs(), set())
    assert asked("&tokens=500") == (costs(tokens=501), set())
    assert asked("&bytes=100") == (costs(tokens=25, bytes=100), set())
    assert asked("&bytes=101&tokens=900") == (costs(tokens=926, bytes=101), set())
    assert asked("&bytes=0") == (costs(bytes=0), set())
    assert asked("&bytes=301") == (costs(tokens=76, bytes=301), {"bytes"})
    assert asked("&tokens=9007199254740992") == (costs(tokens=1000), set()), "capped at what the limit can ever have"
    assert post(w.port, CHAT, b'{"max_tokens": 600}', [ACME, JSON]).status == 200
    w.wait_metric("weir_in_flight", 0)
    left = {one["name"]: one["remaining"] for one in w.ask_admin("/explain?path=/&tenant=acme").json()["limits"]}
    assert asked(f"&tokens={left['tokens']}")[1] == {"tokens"}
    assert asked(f"&tokens={left['tokens'] - 1}")[1] == set()


def test_costs_that_are_no_numbers(start_weir, start_upstream):
    w = start_weir(limited(start_upstream(), window(1)))
    for query in ("tokens=", "tokens=-1", "tokens=1.5", "tokens=1e3", "tokens=%2B1", "tokens=many", "tokens=9007199254740993",
                  "tokens=99999999999999999999999", "bytes=1KiB", "bytes=%201", "tokens=1&tokens=1"):
        r = w.ask_admin(f"/explain?path=/&{query}")
        assert r.status == 400 and query.partition("=")[0] in r.json()["detail"], (query, r)


@pytest.mark.parametrize("key,query,named", [
    (["tenant"], "tenant=acme&model=gpt-5", ["model"]), (["tenant"], "tenant=acme&path=/", ["path"]),
    (["tenant"], "tenant=acme&route=/", ["route"]), (["tenant"], "listener=in&tenant=acme&method=GET&host=a", ["listener", "method", "host"]),
    (["tenant"], "tenant=acme&header.X-Plan=pro&client_ip=10.0.0.1", ["header.x-plan", "client_ip"]),
    ([{"header": "X-Plan"}], "header.X-Plan=pro&header.X-Other=", ["header.x-other"]),
    ([], "tenant=acme", ["tenant"]), (["route"], "path=/&tokens=5&bytes=5", ["tokens", "bytes"]),
    (["client_ip"], "tenant=acme", ["tenant", "client_ip"]), (["tenant"], "model=", ["model"])])
def test_a_fresh_start_for_what_does_not_count(start_weir, start_upstream, key, query, named):
    """It would start another key afresh than the one that was meant."""
    w = start_weir(limited(start_upstream(), window(1, *key)))
    headers = [ACME, ("X-Plan", "pro")]
    assert post(w.port, "/", b"", headers).status == 200
    r = fresh(w, query)
    assert r.status == 400 and all(name in r.json()["detail"] for name in named), r
    assert post(w.port, "/", b"", headers).status == 429


def test_a_fresh_start_by_route_may_say_all_of_it(start_weir, start_upstream):
    up = start_upstream()
    config = limited(up, window(1, "route", "tenant"))
    config["listeners"]["in"]["routes"] = routes(("/v1", {"limits": ["only"], "host": "weir.test", "methods": ["POST"]}))
    config["listeners"]["out"] = {"address": f"127.0.0.1:{free_port()}", "routes": routes(("/", {}))}
    w = start_weir(config)
    for _ in range(2):
        assert [post(w.port, "/v1", b"", [ACME]).status for _ in range(2)] == [200, 429]
        assert fresh(w, "listener=in&route=/v1&method=POST&host=weir.test&tenant=acme").status == 200


@pytest.mark.parametrize("key,query,headers,other", [
    (["tenant", "model"], "tenant=acme&model=", [ACME], [ACME]), (["model", "tenant"], "model&tenant=acme", [ACME], [ACME]),
    (["tenant", {"header": "X-Plan"}], "tenant=acme&header.X-Plan=", [ACME], [ACME, ("X-Plan", "pro")])])
def test_the_one_without(start_weir, start_upstream, key, query, headers, other):
    """An empty parameter means the request that has none of it."""
    w = start_weir(limited(start_upstream(), window(1, *key)))
    model = [b'{"model": "gpt-5"}'] * 2
    assert [post(w.port, "/", b"{}", [*headers, JSON]).status for _ in range(2)] == [200, 429]
    assert [post(w.port, "/", body, [*other, JSON]).status for body in model] == [200, 429]
    assert explained(w, **dict(p.partition("=")[::2] for p in query.split("&")))["remaining"] == 0
    assert fresh(w, query).status == 200
    assert [post(w.port, "/", b"{}", [*headers, JSON]).status for _ in range(2)] == [200, 429]
    assert post(w.port, "/", model[0], [*other, JSON]).status == 429


def test_a_fresh_start_for_one_of_many_in_one_bucket(start_weir, start_upstream):
    """Where the table is full a key shares what it has with others: that it was started afresh must not be said."""
    w = start_weir(limited(start_upstream(), window(1, "tenant", max_keys=16)))
    tenants = [f"t{n}" for n in range(300)]
    for tenant in tenants:
        post(w.port, "/", b"", [("X-Tenant-ID", tenant)])
    r = fresh(w, f"tenant={tenants[-1]}")
    assert r.status == 409, r
    assert "no row of its own" in r.json()["detail"] and "limits.only.max_keys" in r.json()["detail"], r
    assert post(w.port, "/", b"", [("X-Tenant-ID", tenants[-1])]).status == 429
    assert fresh(w, f"tenant={tenants[0]}").status == 200
    assert [post(w.port, "/", b"", [("X-Tenant-ID", tenants[0])]).status for _ in range(2)] == [200, 429]
