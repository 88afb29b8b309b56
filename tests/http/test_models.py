"""Routes by models where none fits: the path is chosen first, as with methods, so that a route of a shorter path is no
fallback for a model - what is written under /v1 says all about /v1. The answer is in the dialect that the routes of that
path share, and /explain says the same."""
import pytest

from faults import ask_of, error
from harness import base_config, connect, exchange, problem, reply, request

JSON = ("Content-Type", "application/json")


@pytest.fixture
def board(start_faulty, start_weir):
    """board((path, dialect, fields), ...): a weir with these routes; their upstreams are u0, u1 ..., and answer so."""
    def make(*rows):
        ups = [start_faulty(reply(200, f"u{n}".encode())) for n in range(len(rows))]
        config = base_config(ups[0].url)
        config["upstreams"] = {f"u{n}": {"url": up.url, "dialect": row[1]} for n, (up, row) in enumerate(zip(ups, rows))}
        config["listeners"]["in"]["routes"] = [{"path": row[0], "upstream": f"u{n}", **row[2]} for n, row in enumerate(rows)]
        w = start_weir(config)
        w.ups = ups
        return w

    return make


def ask(w, model=None, path="/v1/chat/completions", method="POST", body=None, headers=(JSON,), **kw):
    body = ask_of(model) if body is None and model is not None else body
    return exchange(w.port, request(method, path, list(headers), body, **kw), method)


def explain(w, model=None, path="/v1/chat/completions", method="POST"):
    more = f"&model={model}" if model is not None else ""
    r = w.ask_admin(f"/explain?listener=in&path={path}&method={method}{more}")
    assert r.status == 200, r
    return r.json()


@pytest.mark.parametrize("dialect", ["plain", "openai", "anthropic"])
def test_no_route_for_a_model_is_said_in_the_dialect_of_the_path(board, dialect):
    w = board(("/v1", dialect, {"models": ["gpt-*"]}), ("/v1", dialect, {"models": ["claude-*"]}), ("/", "plain", {}))
    assert ask(w, "gpt-5").body == b"u0" and ask(w, "claude-5").body == b"u1" and ask(w, "other", "/v2").body == b"u2"
    for r in (ask(w, "other"), ask(w, method="GET"), ask(w, body=b"no JSON"), ask(w, "")):
        error(r, 404, "no_route", dialect)
        assert b"model" in r.body
    assert sum(len(up.requests) for up in w.ups) == 3
    line = w.wait_log(status=404, reason="no_route", count=4)
    assert "upstream" not in line and "route" not in line, line
    told = explain(w, "other")
    assert (told["route"], told["upstream"], told["would"], told["reason"]) == (None, None, "refuse", "no_route"), told
    assert explain(w)["reason"] == "no_route" and explain(w, "gpt-x")["upstream"]["name"] == "u0"
    assert explain(w, "other", "/v2")["upstream"]["name"] == "u2"


def test_where_the_dialects_of_a_path_differ_it_is_plain(board):
    w = board(("/v1", "openai", {"models": ["gpt-*"]}), ("/v1", "anthropic", {"models": ["claude-*"]}))
    problem(ask(w, "other"), 404, "no_route")


def test_only_routes_that_would_do_but_for_the_model_have_a_say(board):
    w = board(("/v1", "openai", {"models": ["gpt-*"], "methods": ["POST"]}),
              ("/v1", "anthropic", {"models": ["claude-*"], "methods": ["PUT"]}),
              ("/v1", "plain", {"host": "other.test", "models": ["x"]}))
    error(ask(w, "other"), 404, "no_route", "openai")
    error(ask(w, "other", method="PUT"), 404, "no_route", "anthropic")
    r = ask(w, "other", method="PATCH")
    problem(r, 405, "method")
    assert sorted(r.header("Allow").split(", ")) == ["POST", "PUT"]


ODD = {"a number": b'{"model": 5}', "null": b'{"model": null}', "an array": b'["gpt-5"]', "nothing": b"",
       "deep": b'{"x":{"model":"gpt-5"}}', "cut": b'{"model":"gpt-5"', "long": b'{"model":"gpt-' + b"5" * 300 + b'"}',
       "two bodies": b'{"model":"gpt-5"}{"model":"gpt-5"}', "another case": b'{"Model":"gpt-5"}',
       "bad UTF-8": b'{"model":"gp\xff\xfe"}', "a lone surrogate": b'{"model":"\\ud800"}'}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_model_takes_the_route_without_one(board, name):
    w = board(("/v1", "openai", {"models": ["gpt-*"]}), ("/v1", "openai", {}))
    for chunked in (False, True):
        r = ask(w, body=ODD[name], chunked=chunked)
        assert r.body == b"u1", r
    assert [up.bodies for up in w.ups] == [[], [ODD[name]] * 2]


SAME = {"escapes": b'{"model":"gpt\\u002d5"}', "a solidus": b'{"model":"gpt-\\/x"}',
        "a name with escapes": b'{"\\u006dodel":"gpt-5"}', "unicode": '{"model":"gpt-ü😀"}'.encode(),
        "quotes": b'{"model":"gpt-\\"5\\""}', "space": b' \r\n{ "model"\t:\n"gpt-" } '}


@pytest.mark.parametrize("name", SAME)
def test_however_it_is_spelled_it_is_that_model(board, name):
    w = board(("/v1", "openai", {"models": ["gpt-*"]}), ("/v1", "openai", {}))
    with connect(w.port) as c:
        c.send(request("POST", "/v1", [JSON], [SAME[name][i:i + 1] for i in range(len(SAME[name]))], chunked=True))
        assert c.read_response().body == b"u0"
    assert w.ups[0].bodies == [SAME[name]]


def test_a_model_that_is_there_twice_is_refused_in_the_dialect(board):
    w = board(("/v1", "openai", {"models": ["gpt-*"]}), ("/v1", "openai", {}))
    for body in (b'{"model":"gpt-5","model":"x"}', b'{"model":"x","MODEL":"gpt-5"}'):
        error(ask(w, body=body), 400, "malformed", "openai")
    assert not w.ups[0].requests and not w.ups[1].requests


def test_a_body_that_waits_to_be_asked_for_is(board):
    w = board(("/v1", "openai", {"models": ["gpt-*"]}), ("/v1", "openai", {}))
    body = ask_of("gpt-5")
    with connect(w.port) as c:
        c.send(request("POST", "/v1", [JSON, ("Content-Length", len(body)), ("Expect", "100-continue")]))
        assert c.read_head().status == 100
        c.send(body)
        assert c.read_response().body == b"u0"


def test_the_longest_name_there_can_be(board):
    """A name is read up to 255 bytes."""
    name = "m" * 255
    w = board(("/v1", "openai", {"models": [name]}), ("/v1", "openai", {}))
    assert ask(w, name).body == b"u0" and ask(w, name + "m").body == b"u1" and ask(w, name[:-1]).body == b"u1"
