"""What goes to a provider, what of its failures is told, and which of several a request goes to by its model."""
import json
import random
import time

import pytest

from faults import BEFORE, DIALECTS, MIDDLE, OK, ask_of, error, outcomes, status
from harness import Blackhole, Refuser, base_config, connect, exchange, reply, request
from support import Caller, in_parallel

LAST = reply(200, b"ok", [("Connection", "close")])
SHORT = {"timeouts": {"first_byte": "600ms", "idle": "600ms", "connect": "600ms"}}
JSON = ("Content-Type", "application/json")


def ask(w, method="POST", path="/x", body=b"hello", headers=(), **kw):
    return exchange(w.port, request(method, path, headers, None if method in ("GET", "HEAD") else body, **kw))


def chat(w, model="gpt-5", path="/v1/chat/completions", headers=(), **more):
    return ask(w, path=path, body=ask_of(model, **more), headers=[JSON, *headers])


def told(w, path, code, reasons, metric):
    """The log line of one failed request; its outcome counts once."""
    line = w.wait_log(path=path)
    assert (line["status"], line["upstream"], line["attempts"]) == (code, "agent", 1), line
    assert line["reason"] in reasons, line
    new = {k: v - metric.get(k, 0) for k, v in outcomes(w).items() if v != metric.get(k, 0)}
    assert new == {line["reason"]: 1}, new
    w.wait_metric("weir_in_flight", 0)


# ---------------------------------------------------------------------------------------------- each failure by its name


@pytest.mark.parametrize("dialect", ["openai"])
def test_each_failure_before_the_answer_has_its_reason_and_status(start_faulty, start_weir, dialect):
    up = start_faulty()
    w = start_weir(base_config(up.url, agent={"dialect": dialect, **SHORT}))
    for n, (name, (answer, code, reasons)) in enumerate(BEFORE.items()):
        w.wait_metric("weir_upstream_requests_total", n, outcome="ok")
        known = outcomes(w)
        up.clear()
        up.answers(answer, LAST)
        r = ask(w, path=f"/{n}")
        error(r, code, reasons, dialect)
        told(w, f"/{n}", code, (r.weir_reason,), known)
        assert ask(w, path="/next").status == 200, name
        assert len(up.requests) == 2 and up.conns[0] != up.conns[1], f"{name}: its connection is used again"
        up.wait(lambda u: all(p.ended for p in u.peers if p.number == u.conns[0]), f"the end of that connection: {name}")


@pytest.mark.parametrize("dialect", ["plain"])
def test_each_failure_in_the_answer_breaks_it(start_faulty, start_weir, dialect):
    up = start_faulty()
    w = start_weir(base_config(up.url, agent={"dialect": dialect, **SHORT}))
    for n, (name, (answer, reasons)) in enumerate(MIDDLE.items()):
        w.wait_metric("weir_upstream_requests_total", n, outcome="ok")
        known = outcomes(w)
        up.clear()
        up.answers(answer, LAST)
        r = ask(w, path=f"/{n}")
        assert r.status == 200 and not r.clean, (name, r)
        told(w, f"/{n}", 200, reasons, known)
        assert ask(w, path="/next").status == 200, name
        assert len(up.requests) == 2 and up.conns[0] != up.conns[1], f"{name}: its connection is used again"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_refused_connection_by_its_name(start_weir, dialect):
    with Refuser() as nobody:
        w = start_weir(base_config(nobody.port, agent={"dialect": dialect}))
        error(ask(w), 502, "connect_failed", dialect)
        told(w, "/x", 502, ("connect_failed",), {})


def test_a_connection_that_does_not_open_by_its_name(start_weir):
    with Blackhole() as hole:
        w = start_weir(base_config(hole.port, agent={"dialect": "openai", **SHORT}))
        error(ask(w), 504, "timeout_connect", "openai")
        told(w, "/x", 504, ("timeout_connect",), {})


def test_a_name_nobody_has_by_its_name(start_weir):
    w = start_weir(base_config("http://does-not-exist.invalid:80", agent={"dialect": "anthropic", "timeouts": {"connect": "20s"}}))
    error(ask(w), 502, "dns_failed", "anthropic")
    told(w, "/x", 502, ("dns_failed",), {})


def test_the_whole_time_by_its_name(start_faulty, start_weir, dialect="openai"):
    up = start_faulty(["wait_gone"])
    w = start_weir(base_config(up.url, agent={"dialect": dialect, "timeouts": {"total": "250ms"}}))
    error(ask(w), 504, "timeout_total", dialect)
    told(w, "/x", 504, ("timeout_total",), {})
    up.wait_gone()


def test_failures_at_random_never_look_like_an_answer(start_faulty, start_weir):
    """Every way to fail, in turn, with callers side by side: a whole 200 is only ever a whole one."""
    answers = [a for a, *_ in (*BEFORE.values(), *MIDDLE.values())]
    up = start_faulty(lenient=True)
    up.answers(*(a for answer in answers for a in (answer, reply(200, b"whole"))), reply(200, b"whole"))
    w = start_weir(base_config(up.url, agent=SHORT))

    def call(n):
        with Caller(w.port) as c:
            for i in range(14):
                r = c.ask(request("POST", f"/{n}/{i}", body=b"hello"))
                assert not r.clean or r.body == b"whole" or r.weir_reason, r

    in_parallel(4, call)
    w.wait_metric("weir_in_flight", 0)


# --------------------------------------------------------------------------------------------------- headers, query, host


def test_set_puts_a_field_in_place_of_the_callers(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"headers": {"set": {
        "Authorization": "Bearer ours", "X-New": "a, b;c=\"d\"", "x-TWICE": "once", "Accept-Encoding": "identity"}}}))
    assert ask(w, headers=[("AUTHORIZATION", "Bearer theirs"), ("X-Twice", "1"), ("X-Twice", "2"), ("X-Else", "kept"),
                           ("Accept-Encoding", "gzip")]).status == 200
    sent = up.requests[0].headers
    assert sent.all("Authorization") == ["Bearer ours"] and sent.all("X-Twice") == ["once"]
    assert (sent.get("X-New"), sent.get("X-Else"), sent.get("Accept-Encoding")) == ('a, b;c="d"', "kept", "identity")


def test_remove_takes_every_field_of_that_name(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"headers": {"remove": ["cookie", "X-Secret"]}}))
    assert ask(w, headers=[("Cookie", "a=b"), ("X-SECRET", "1"), ("x-secret", "2"), ("X-Secrets", "kept")]).status == 200
    sent = up.requests[0].headers
    assert "Cookie" not in sent and "X-Secret" not in sent and sent.get("X-Secrets") == "kept"


def test_a_key_from_the_environment_never_shows(start_faulty, start_weir):
    up = start_faulty(status(503))
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "headers": {"set": {"Authorization": "Bearer ${SOME_KEY}"}}}),
                   env={"SOME_KEY": "sk-very-secret"})
    r = ask(w, headers=[("Authorization", "Bearer theirs")])
    assert up.requests[0].headers.all("Authorization") == ["Bearer sk-very-secret"]
    shown = [str(r), w.stdout, w.stderr, *(w.ask_admin(p).body.decode() for p in (
        "/config", "/status", "/metrics", "/", "/explain?listener=in&path=/x&method=POST"))]
    assert not any("sk-very-secret" in text for text in shown)


@pytest.mark.parametrize("field", ["authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_that_is_given_a_key_gets_no_other(start_faulty, start_weir, dialect, field):
    """Whichever field a caller's SDK sends its own in. Before a plain upstream there may be two: a gateway's, a user's."""
    up = start_faulty(LAST)
    fields = {name: "theirs" for name in ("Authorization", "X-API-Key", "api-key", "x-goog-api-key")}
    w = start_weir(base_config(up.url, agent={"dialect": dialect, "headers": {"set": {field: "ours"}}}))
    assert ask(w, headers=[*fields.items(), ("OpenAI-Organization", "org-1"), ("Cookie", "a=b")]).status == 200
    sent = up.requests[0].headers
    kept = {name.lower(): "theirs" for name in fields} if dialect == "plain" else {}
    assert {name.lower(): sent.get(name) for name in fields if name in sent} == {**kept, field: "ours"}
    assert sent.get("OpenAI-Organization") == "org-1" and sent.get("Cookie") == "a=b"


def test_a_provider_without_a_key_gets_the_callers(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": "anthropic", "headers": {"set": {"X-Other": "ours"}}}))
    assert ask(w, headers=[("Authorization", "Bearer a"), ("x-api-key", "b")]).status == 200
    assert (up.requests[0].headers.get("Authorization"), up.requests[0].headers.get("x-api-key")) == ("Bearer a", "b")


def test_no_account_of_the_callers_goes_to_a_fallback(start_faulty, start_weir):
    first, second = start_faulty(status(503)), start_faulty(OK)
    config = base_config(first.url, agent={"dialect": "openai", "retry": False}, route={"fallback": ["second"]})
    config["upstreams"]["second"] = {"url": second.url, "dialect": "openai"}
    fields = {"Authorization": "Bearer a", "OpenAI-Organization": "org", "OPENAI-PROJECT": "p", "Cookie": "c=d"}
    assert ask(start_weir(config), headers=[*fields.items(), ("OpenAI-Beta", "kept")]).status == 200
    assert {name: first.requests[0].headers.get(name) for name in fields} == fields
    assert not any(name in second.requests[0].headers for name in fields)
    assert second.requests[0].headers.get("OpenAI-Beta") == "kept"


QUERIES = {
    "/x": [], "/x?": [], "/x?v": [], "/x?a=1&b=%2F+c": ["a=1", "b=%2F+c"],
    "/x?v=1&a=1&v=2&vv=3&%76=4": ["a=1", "vv=3"], "/x?V=1": ["V=1"], "/x?a&&b": ["a", "b"],
}


def test_query_set_replaces_and_adds(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"query": {"set": {"v": "2024-10-21", "new": "a b&"}}}))
    for target, others in QUERIES.items():
        up.clear()
        assert ask(w, path=target).status == 200
        path, _, query = up.requests[0].target.partition("?")
        got = [part for part in query.replace("new=a+b", "new=a%20b").split("&") if part]
        assert path == "/x" and sorted(got) == sorted([*others, "v=2024-10-21", "new=a%20b%26"]), (target, query)


@pytest.mark.parametrize("host, wanted", [("upstream", None), ("preserve", "callers.test:81")])
def test_host_is_the_upstreams_or_the_callers(start_faulty, start_weir, host, wanted):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"host": host}))
    assert ask(w, host="callers.test:81").status == 200
    assert up.requests[0].headers.all("Host") == [wanted or f"127.0.0.1:{up.port}"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_forward_says_what_goes_up(start_faulty, start_weir, dialect):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": dialect}))
    assert ask(w, headers=[("X-Tenant-ID", "acme"), ("X-Correlation-ID", "id-1")]).header("X-Correlation-ID") == "id-1"
    sent = up.requests[0].headers
    names = {"X-Tenant-ID", "X-Correlation-ID", "X-Request-ID", "traceparent"}
    assert {n for n in names if n in sent} == (names if dialect == "plain" else set())
    if dialect != "plain":
        assert not {"Via", "X-Forwarded-For", "Forwarded", "X-Forwarded-Host"} & set(sent.names())


# ------------------------------------------------------------------------------------------------------------------ models


MODELS = {"gpt-5": "azure-gpt5", "long": "x" * 200, "short-name-of-a-model": "s", "quote": 'a"b\\c', "ümlaut": "ö",
          "a/b:c": "d"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_model_is_rewritten_and_nothing_else(start_faulty, start_weir, dialect):
    up = start_faulty(LAST)
    w = start_weir(base_config(up.url, agent={"dialect": dialect, "models": MODELS}))
    for name, wanted in MODELS.items():
        for chunked in (False, True):
            up.clear()
            before, after = b'{ "temperature":1.0,\t"model" : ', b' ,"messages":[{"model":"gpt-5"}],"x":1E2}\r\n'
            body = before + json.dumps(name).encode() + after
            pieces = [body[i:i + 5] for i in range(0, len(body), 5)] if chunked else body
            assert ask(w, path="/v1/messages", body=pieces, headers=[JSON], chunked=chunked).status == 200
            got = up.requests[0].body
            assert got.startswith(before) and got.endswith(after), (name, got)
            assert json.loads(got[len(before):-len(after)]) == wanted, (name, got)


UNTOUCHED = {
    "another model": b'{"model":"gpt-4","messages":[]}',
    "a longer name": b'{"model":"gpt-5-mini","messages":[]}',
    "another case": b'{"model":"GPT-5"}',
    "no model": b'{"messages":[{"model":"gpt-5"}]}',
    "a number": b'{"model":5}',
    "an object": b'{"model":{"model":"gpt-5"}}',
    "a list around it": b'[{"model":"gpt-5"}]',
    "no JSON": b'model=gpt-5&"model":"gpt-5"',
    "broken JSON": b'{"messages": [}, "model":"gpt-5"}',
    "nothing": b"",
    "a string": b'"gpt-5"',
}


def test_what_names_no_such_model_stays_as_it_is(start_faulty, start_weir):
    up = start_faulty(LAST)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": MODELS}))
    for name, body in UNTOUCHED.items():
        up.clear()
        assert ask(w, path="/v1/chat/completions", body=body, headers=[JSON]).status == 200, name
        assert up.bodies == [body], name


def test_a_body_that_comes_in_single_bytes(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": MODELS}))
    body = b'{"model":"g\\u0070t-5","n":1}'
    raw = request("POST", "/v1/chat/completions", [JSON], body)
    with connect(w.port) as c:
        assert c.send_slowly([raw[i:i + 1] for i in range(len(raw))], 0.0005)
        assert c.read_response().status == 200
    assert up.bodies == [b'{"model":"azure-gpt5","n":1}']


ODD_MODELS = {
    "a NUL behind it": b'"gpt-5\\u0000 and more that nobody looks at, as long as it is, and longer than all names"',
    "a NUL before it": b'"\\u0000gpt-5"',
    "a long one that begins so": b'"' + b"l" * 256 + b'"',
    "half of a pair": b'"gpt-5\\ud800"',
}


def test_names_that_only_look_like_a_model(start_faulty, start_weir):
    up = start_faulty(LAST)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": {**MODELS, "l" * 255: "x", "l" * 256: "y"}}))
    for name, model in ODD_MODELS.items():
        up.clear()
        body = b'{"model":' + model + b'}'
        assert ask(w, path="/v1/chat/completions", body=body, headers=[JSON]).status in (200, 400), name
        assert up.bodies in ([], [body]), name
    assert w.alive


def test_a_body_that_is_waited_for_is_asked_for(start_faulty, start_weir):
    """To know the model takes the body: who waits for a 100 gets it."""
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": MODELS}))
    body = ask_of("gpt-5")
    with connect(w.port) as c:
        c.send(request("POST", "/v1/chat/completions", [JSON, ("Expect", "100-continue"), ("Content-Length", str(len(body)))], None))
        assert c.recv_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        c.send(body)
        assert c.read_response().status == 200
    assert json.loads(up.bodies[0])["model"] == "azure-gpt5" and "Expect" not in up.requests[0].headers


def test_a_fallback_that_is_read_does_not_compress(start_faulty, start_weir):
    """What is asked for is the same for all of a route's upstreams: usage is read of any that has a dialect."""
    first, second = start_faulty(status(503)), start_faulty(OK)
    config = base_config(first.url, agent={"retry": False}, route={"fallback": ["second"]})
    config["upstreams"]["second"] = {"url": second.url, "dialect": "openai", "usage": {"inject": True}}
    assert chat(start_weir(config), stream=True, headers=[("Accept-Encoding", "gzip")]).status == 200
    assert second.requests[0].headers.all("Accept-Encoding") == ["identity"]
    assert json.loads(second.bodies[0])["stream_options"] == {"include_usage": True}


def odd_body(rng):
    """Some JSON that asks for a model somewhere, and the same as the upstream should see it."""
    members = {"model": "gpt-5", "messages": [{"model": "gpt-5", "content": rng.choice(["", "x\u2028\"\\", "ü" * 50])}]}
    if rng.random() < 0.7:
        members["stream"] = rng.random() < 0.8
    if rng.random() < 0.6:
        members["stream_options"] = rng.choice([None, {}, {"include_usage": True}, {"include_usage": False}, {"x": [1]},
                                                {"x": {"include_usage": 5}, "include_usage": None}])
    if rng.random() < 0.5:
        members["stop"] = rng.choice([None, "a", ["model", "stream"], {"model": "gpt-5", "stream_options": {}}])
    names = list(members)
    rng.shuffle(names)
    members = {name: members[name] for name in names}
    seen = {**members, "model": "azure-gpt5"}
    if members.get("stream"):
        seen["stream_options"] = {**(members.get("stream_options") or {}), "include_usage": True}
    space = rng.choice(["", " ", "\r\n\t"])
    text = json.dumps(members, ensure_ascii=rng.random() < 0.5, separators=("," + space, ":" + space))
    return (space + text.replace("{", "{" + space) + space).encode(), seen


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_model_and_usage_are_put_into_any_body(start_faulty, start_weir, chunked):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": MODELS, "usage": {"inject": True}}))
    rng = random.Random(20261120)
    with Caller(w.port) as c:
        for _ in range(150):
            up.clear()
            body, seen = odd_body(rng)
            size = rng.randint(1, len(body))
            pieces = [body[i:i + size] for i in range(0, len(body), size)] if chunked else body
            assert c.ask(request("POST", "/v1/chat/completions", [JSON], pieces, chunked=chunked)).status == 200
            sent = up.requests[0]
            assert json.loads(sent.body) == seen, (body, sent.body)
            assert sent.headers.all("Content-Length") in ([str(len(sent.body))], []), sent.headers


def test_models_of_one_map_do_not_chain(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": {"a": "b", "b": "a"}}))
    for model in "ab":
        assert chat(w, model).status == 200
    assert [json.loads(b)["model"] for b in up.bodies] == ["b", "a"]


# -------------------------------------------------------------------------------------------------------- routes by models


@pytest.fixture
def board(start_faulty, start_weir):
    """board(route, ...) -> ask(model, ...): the name of the upstream that a chat goes to, or the error. Each route is
    (upstream, fields)."""
    def make(*pairs, dialect="openai"):
        names = sorted({name for name, _ in pairs})
        ups = {name: start_faulty(reply(200, name.encode())) for name in names}
        config = base_config(ups[names[0]].url)
        config["upstreams"] = {name: {"url": up.url, "dialect": dialect} for name, up in ups.items()}
        config["listeners"]["in"]["routes"] = [{"path": "/", "upstream": name, **fields} for name, fields in pairs]
        w = start_weir(config)

        def where(model=None, path="/v1/chat/completions", method="POST", body=None, chunked=False):
            body = body if body is not None else ask_of(model) if model is not None else None
            r = exchange(w.port, request(method, path, [JSON], body, chunked=chunked), method)
            return r.body.decode() if r.status == 200 else (r.status, r.weir_reason)

        where.weir, where.ups = w, ups
        return where

    return make


def test_a_request_goes_where_its_model_is(board):
    where = board(("a", {"models": ["gpt-5"]}), ("b", {"models": ["claude-*", "opus"]}), ("c", {}))
    for model, up in {"gpt-5": "a", "gpt-5-mini": "c", "claude-4": "b", "claude-": "b", "claude": "c", "opus": "b",
                      "opus-4": "c", "Gpt-5": "c", "": "c", "gpt-*": "c", "claude-*": "b"}.items():
        assert where(model) == up, model
    assert where(method="GET") == "c" and where(body=b"no JSON") == "c" and where(body=b'{"model": 5}') == "c"


def test_a_star_alone_is_every_model(board):
    where = board(("a", {"models": ["*"]}), ("b", {}))
    assert [where("gpt-5"), where("x"), where(method="GET")] == ["a", "a", "b"]


def test_no_route_for_a_model_is_404(board):
    where = board(("a", {"models": ["gpt-*"]}))
    assert where("gpt-5") == "a"
    assert where("claude") == (404, "no_route")
    assert where(method="GET") == (404, "no_route")
    assert where(body=b"no JSON") == (404, "no_route")
    assert len(where.ups["a"].requests) == 1


def test_the_longest_path_wins_over_models(board):
    where = board(("a", {"path": "/v1", "models": ["gpt-5"]}), ("b", {"path": "/v1/chat"}), ("c", {}))
    assert where("gpt-5") == "b"
    assert where("gpt-5", "/v1/embeddings") == "a"
    assert where("other", "/v1/embeddings") == (404, "no_route"), "the path is chosen first, as with methods"
    assert where("gpt-5", "/v2") == "c"


@pytest.mark.parametrize("swapped", [False, True])
def test_the_route_with_models_wins_whatever_the_order(board, swapped):
    pairs = [("a", {"models": ["gpt-5"]}), ("b", {})]
    where = board(*reversed(pairs)) if swapped else board(*pairs)
    assert (where("gpt-5"), where("other")) == ("a", "b")


def test_models_and_methods_of_one_route(board):
    where = board(("a", {"models": ["gpt-5"], "methods": ["POST"]}), ("b", {"methods": ["PUT"]}))
    assert where("gpt-5") == "a" and where("gpt-5", method="PUT") == "b"
    assert where("other")[0] in (404, 405)
    assert where(method="DELETE") == (405, "method")


def test_an_escaped_model_finds_its_route(board):
    where = board(("a", {"models": ["gpt-5"]}), ("b", {}))
    assert where(body=b'{"x":[],"mod\\u0065l":"gp\\u0074-5"}') == "a"
    assert where(body=b'{"x":{"model":"gpt-5"}}') == "b"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_model_at_the_end_of_a_large_body_finds_its_route(board, chunked):
    where = board(("a", {"models": ["gpt-5"]}), ("b", {}))
    body = b'{"messages":["' + b"x" * 900_000 + b'"],"model":"gpt-5"}'
    pieces = [body[i:i + 60_000] for i in range(0, len(body), 60_000)] if chunked else body
    assert where(body=pieces, chunked=chunked) == "a"
    assert where.ups["a"].bodies == [body]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_comes_late_finds_its_route(board, chunked):
    where = board(("a", {"models": ["gpt-5"]}), ("b", {}))
    raw = request("POST", "/v1/chat/completions", [JSON], ask_of("gpt-5"), chunked=chunked)
    with connect(where.weir.port) as c:
        at = raw.index(b"\r\n\r\n") + 4
        for piece in (raw[:at], *(raw[i:i + 9] for i in range(at, len(raw), 9))):
            c.send(piece)
            time.sleep(0.005)
        assert c.read_response().body == b"a"


def test_plain_upstreams_have_routes_by_models_too(board):
    where = board(("a", {"models": ["gpt-5"]}), ("b", {}), dialect="plain")
    assert (where("gpt-5"), where("other")) == ("a", "b")


def test_routes_by_models_and_names_of_upstreams(start_faulty, start_weir):
    """A route is found by the name that the caller asked for."""
    a, b = start_faulty(OK), start_faulty(OK)
    config = base_config(a.url, agent={"dialect": "openai", "models": {"fast": "slow"}})
    config["upstreams"]["b"] = {"url": b.url, "dialect": "openai"}
    config["listeners"]["in"]["routes"] = [{"path": "/", "upstream": "agent", "models": ["fast"]},
                                           {"path": "/", "upstream": "b", "models": ["slow"]}]
    w = start_weir(config)
    assert chat(w, "fast").status == chat(w, "slow").status == 200
    assert [json.loads(x)["model"] for x in a.bodies + b.bodies] == ["slow", "slow"]


def test_explain_takes_the_model(board):
    where = board(("a", {"models": ["gpt-*"]}), ("b", {}))
    for model, up in (("gpt-5", "a"), ("other", "b")):
        r = where.weir.ask_admin(f"/explain?listener=in&path=/v1/chat/completions&method=POST&model={model}")
        assert r.status == 200 and f'"upstream":"{up}"' in r.body.decode().replace('": "', '":"'), r
    assert not where.ups["a"].requests


def test_the_log_names_the_model(start_faulty, start_weir):
    up = start_faulty(OK)
    w = start_weir(base_config(up.url, agent={"dialect": "openai", "models": {"gpt-5": "azure"}}))
    chat(w)
    assert w.wait_log(path="/v1/chat/completions")["model"] in ("gpt-5", "azure")
