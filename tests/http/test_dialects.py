"""What weir itself says to callers who speak a provider's dialect: errors that their SDKs know, and streams that break
off - or end without their last event - with an error in place of a clean end.
"""
import contextlib
import gzip
import itertools
import json
import re
import threading

import pytest

from harness import (LAST_CHUNK, Refuser, SharedWeir, Upstream, base_config, chunk, connect, exchange, get, post, reply,
                     request, sanitized)
from llm import FORMS, STREAMS, Llm, Usage, compressed, event, events, usage_chunk
from support import problem, routes

JSON = ("Content-Type", "application/json")
SSE = ("Content-Type", "text/event-stream; charset=utf-8")
DIALECTS = ("plain", "openai", "anthropic")
PROVIDERS = DIALECTS[1:]
ID_FIELDS = {"openai": "x-request-id", "anthropic": "request-id"}
CALM = {"retry": False, "breaker": False}
_ids = itertools.count()


def fresh_id():
    return f"dialect-{next(_ids)}"


# ----------------------------------------------------------------------------------------------- what an error looks like


def type_of(dialect, status):
    if dialect == "openai":
        return "rate_limit_error" if status == 429 else "invalid_request_error" if 400 <= status < 500 else "api_error"
    known = {429: "rate_limit_error", 503: "overloaded_error", 401: "authentication_error", 413: "request_too_large"}
    return known.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_of(body, dialect, status, reason, request_id):
    """The message of an error in that dialect, which has just the members that it should."""
    if dialect == "openai":
        message = body["error"]["message"]
        code = "rate_limit_exceeded" if status == 429 else reason
        assert body == {"error": {"message": message, "type": type_of(dialect, status), "param": None, "code": code},
                        "reason": reason, "request_id": request_id}
    else:
        message = body["error"]["message"]
        assert body == {"type": "error", "error": {"type": type_of(dialect, status), "message": message},
                        "reason": reason, "request_id": request_id}
    assert re.fullmatch(r"\S.* .*\S", message), f"not for people: {message!r}"
    return message


def own(r, dialect, status, reason):
    """Checks an answer of weir's own, and returns what it says to people."""
    assert (r.status, r.weir_reason, r.end) == (status, reason, "length"), r
    name = r.header("X-Correlation-ID")
    for other, field in ID_FIELDS.items():
        assert r.headers.all(field) == ([name] if other == dialect else []), r
    if dialect == "plain":
        return problem(r, status, reason, request_id=name)["detail"]
    assert r.header("Content-Type") == "application/json"
    return error_of(r.json(), dialect, status, reason, name)


# ------------------------------------------------------------------------------------------------------- the weir for most


def switchboard(up, down):
    """For each dialect: /D its upstream; /D-idle, /D-total and /D-late with short times, /D-down, and some behind limits."""
    config = base_config(up.port)
    config["limits"] = {name: {"rate": "0/s", "burst": 1} for name in ("shut", "closed")}
    config["upstreams"], config["listeners"]["in"]["routes"] = {}, []
    for d in DIALECTS:
        url = f"http://127.0.0.1:{up.port}"
        for name, more in {d: {}, f"{d}-idle": {"timeouts": {"idle": "400ms"}},
                           f"{d}-late": {"timeouts": {"first_byte": "300ms"}},
                           f"{d}-down": {"url": f"http://127.0.0.1:{down.port}"}}.items():
            config["upstreams"][name] = {"url": url, "dialect": d, "forward": ["correlation"], **CALM, **more}
        config["listeners"]["in"]["routes"] += [
            {"strip_prefix": True, **one} for one in routes(
                (f"/{d}", {"upstream": d}), (f"/{d}-idle", {"upstream": f"{d}-idle"}), (f"/{d}-late", {"upstream": f"{d}-late"}),
                (f"/{d}-down", {"upstream": f"{d}-down"}), (f"/{d}-total", {"upstream": d, "timeout": "700ms"}),
                (f"/{d}-shut", {"upstream": d, "limits": ["shut", "closed"]}),
                (f"/{d}-else", {"upstream": d, "limits": ["shut"], "on_limit": {"status": 503}}),
                (f"/{d}-mute", {"upstream": d, "limits": ["shut"], "on_limit": {"status": 420, "body": '{"mine": 1}'}}))]
    return config


class Board:
    """The shared weir, and the upstream whose handler a test sets."""

    def __init__(self, stack):
        self.handler = None
        self.up = stack.enter_context(Upstream(lambda peer: self.handler(peer), lenient=True))
        self.shared = stack.enter_context(SharedWeir(switchboard(self.up, stack.enter_context(Refuser()))))

    def __getattr__(self, name):
        return getattr(self.weir, name)

    def ask(self, path, body=b"{}", headers=(), **kw):
        """One request to its end, and its line of the access log."""
        name = fresh_id()
        r = exchange(self.port, request("POST", path, [JSON, ("X-Correlation-ID", name), *headers], body, **kw))
        return r, self.wait_log(correlation_id=name)

    def stream(self, form, where="", headers=(), **kw):
        return self.ask(f"/{form.dialect}{where}{form.path}", form.ask(), headers, **kw)


@pytest.fixture(scope="module")
def the_board():
    with contextlib.ExitStack() as stack:
        yield Board(stack)


@pytest.fixture
def board(the_board):
    with the_board.shared.borrowed() as the_board.weir:
        the_board.up.clear()
        yield the_board


# ------------------------------------------------------------------------------------------------------------- own errors


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_limit(board, dialect):
    r, line = board.ask(f"/{dialect}-shut", headers=[("X-Tenant-ID", "acme")])
    message = own(r, dialect, 429, "limit")
    assert "acme" in message and "shut" in message and "closed" in message
    assert (r.header("Retry-After"), r.header("x-should-retry")) == ("3600", "false")
    assert (line["status"], line["reason"]) == (429, "limit")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_on_limit_says_otherwise(board, dialect):
    assert "acme" in own(board.ask(f"/{dialect}-else", headers=[("X-Tenant-ID", "acme")])[0], dialect, 503, "limit")
    r, _ = board.ask(f"/{dialect}-mute")
    assert (r.status, r.weir_reason, r.body, r.header("Content-Type")) == (420, "limit", b'{"mine": 1}', "application/json")
    for other, field in ID_FIELDS.items():
        assert r.headers.all(field) == ([r.header("X-Correlation-ID")] if other == dialect else [])


def too_late(peer):
    peer.wait_gone()


def hang_up(peer):
    peer.reset()


FAILURES = {
    "connect_failed": ("-down", None, 502),
    "timeout_first_byte": ("-late", too_late, 504),
    "reset": ("", hang_up, 502),
    "bad_response": ("", lambda peer: peer.send(b"SMTP ready\r\n\r\n"), 502),
}


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_failure_before_the_answer(board, dialect, reason):
    where, board.handler, status = FAILURES[reason]
    r, line = board.ask(f"/{dialect}{where}")
    message = own(r, dialect, status, reason)
    assert dialect == "plain" or "pstream" in message
    assert line["reason"] == reason


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_details_of_a_failure_are_told(board, dialect):
    board.handler = lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
    assert "ontent-" in own(board.ask(f"/{dialect}")[0], dialect, 502, "bad_response")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tenant_that_is_not_one(board, dialect):
    r, _ = board.ask(f"/{dialect}", headers=[("X-Tenant-ID", "a b")])
    assert "enant" in own(r, dialect, 400, "tenant_invalid")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_who_is_not_known(start_weir, start_upstream, dialect):
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"dialect": dialect}, listener={
        "tenant": {"from": [{"api_key": "Authorization"}, {"api_key": "x-api-key"}], "default": "refuse"}}))
    own(get(w.port), dialect, 401, "tenant_missing")
    for field in (("Authorization", "Bearer no"), ("x-api-key", "no")):
        r = get(w.port, "/", [field])
        assert "API key" in own(r, dialect, 401, "api_key_unknown")
        assert r.header("WWW-Authenticate") == "Bearer"
    assert up.heads == 0


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(start_weir, start_upstream, dialect, chunked):
    """By what its head says, before there is a route, and as it comes."""
    w = start_weir(base_config(start_upstream().port, agent={"dialect": dialect}, server={"max_body": "1KiB"}))
    r = exchange(w.port, request("POST", "/v1/messages", [JSON], b'{"x":"%s"}' % (b"y" * 2000), chunked=chunked))
    own(r, dialect, 413, "body_too_large")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_that_asks_for_what_there_is_not(board, dialect):
    own(post(board.port, f"/{dialect}", b"{}", [("Expect", "wonders")]), dialect, 417, "unsupported")


@pytest.mark.parametrize("dialect", PROVIDERS)
def test_a_body_that_says_two_things(board, dialect):
    own(post(board.port, f"/{dialect}", b'{"model": "a", "model": "b"}', [JSON]), dialect, 400, "malformed")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_that_is_no_body(board, dialect):
    """It is found to be so while it comes: the route is known."""
    for body in (b"zz\r\n", b"5\r\nhello!!", b"-1\r\n"):
        raw = request("POST", f"/{dialect}/v1/messages", [JSON, ("Transfer-Encoding", "chunked")], None) + body
        own(exchange(board.port, raw), dialect, 400, "malformed")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_that_does_not_come(start_weir, start_upstream, dialect):
    w = start_weir(base_config(start_upstream(lenient=True).port, agent={"dialect": dialect},
                               server={"timeouts": {"body": "200ms"}}))
    raw = request("POST", "/v1/chat/completions", [JSON, ("Content-Length", "100")], None)
    for begun in (b"", b'{"model": "a", '):
        own(exchange(w.port, raw + begun), dialect, 408, "timeout_client")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_coding_that_nobody_knows(board, dialect):
    raw = request("POST", f"/{dialect}", [JSON, ("Transfer-Encoding", "zip, chunked")], None) + b"0\r\n\r\n"
    r = exchange(board.port, raw)
    own(r, dialect if r.status == 501 else "plain", r.status, "unsupported" if r.status == 501 else "malformed")


@pytest.mark.parametrize("dialect", PROVIDERS)
def test_what_weir_says_to_HEAD_has_no_body(board, dialect):
    r = exchange(board.port, request("HEAD", f"/{dialect}-shut"), "HEAD")
    assert (r.status, r.weir_reason, r.body) == (429, "limit", b"") and int(r.header("Content-Length")) > 100
    assert r.header(ID_FIELDS[dialect]) == r.header("X-Correlation-ID")


def test_without_a_route_it_is_plain(start_weir, start_upstream):
    config = base_config(start_upstream().port, agent={"dialect": "openai"}, route={"path": "/v1", "methods": ["POST"]})
    w = start_weir(config)
    own(get(w.port, "/v2"), "plain", 404, "no_route")
    own(get(w.port, "/v1"), "plain", 405, "method")
    own(get(w.port, "/v1/../x"), "plain", 400, "malformed")
    own(exchange(w.port, b"POST /v1 HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n"), "plain", 400, "malformed")
    own(exchange(w.port, b"POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"), "plain", 400, "malformed")


def test_each_route_in_its_own_dialect(board):
    board.handler = hang_up
    with connect(board.port) as c:
        for dialect in DIALECTS * 2:
            c.send(request("POST", f"/{dialect}", [JSON], b"{}"))
            own(c.read_response("POST"), dialect, 502, "reset")


def test_a_full_pool(start_weir, start_upstream):
    """503, in words that say whose bound it is."""
    gate = threading.Event()
    up = start_upstream(lambda peer: gate.wait(30) and peer.send(reply()))
    agent = {"dialect": "anthropic", "connections": {"max": 1}, "timeouts": {"connect": "200ms"}, **CALM}
    w = start_weir(base_config(up.port, agent=agent))
    with connect(w.port) as c:
        c.send(request("POST", "/", [JSON], b"{}"))
        up.wait_heads()
        r = post(w.port, "/", b"{}", [JSON])
        assert "connections" in own(r, "anthropic", 503, "overloaded") and r.header("Retry-After") == "1"
        gate.set()
        assert c.read_response("POST").status == 200


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_open_breaker(start_weir, dialect):
    """At once, in the dialect, with the time to come again."""
    with Refuser() as down:
        breaker = {"consecutive_failures": 1, "open": {"base": "100s", "jitter": "0%"}}
        w = start_weir(base_config(down.port, agent={"dialect": dialect, "retry": False, "breaker": breaker}))
        own(post(w.port, "/", b"{}", [JSON]), dialect, 502, "connect_failed")
        r = post(w.port, "/", b"{}", [JSON])
        own(r, dialect, 503, "breaker_open")
        assert 90 <= int(r.header("Retry-After")) <= 100 and r.header("x-should-retry") == "false"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_open_breaker_says_otherwise(start_weir, dialect):
    with Refuser() as down:
        breaker = {"consecutive_failures": 1, "answer": {"status": 529, "body": "come back later"}}
        w = start_weir(base_config(down.port, agent={"dialect": dialect, "retry": False, "breaker": breaker}))
        post(w.port, "/", b"{}", [JSON])
        r = post(w.port, "/", b"{}", [JSON])
        assert (r.status, r.weir_reason, r.body) == (529, "breaker_open", b"come back later")
        assert r.header("Content-Type").startswith("text/plain") and int(r.header("Retry-After")) >= 1
        assert dialect == "plain" or r.header(ID_FIELDS[dialect]) == r.header("X-Correlation-ID")


@pytest.mark.parametrize("dialect", PROVIDERS)
def test_a_pause_that_the_upstream_asked_for(start_weir, start_upstream, dialect):
    up = start_upstream(lambda peer: peer.send(reply(429, b"{}", [JSON, ("Retry-After", "30")])))
    w = start_weir(base_config(up.port, agent={"dialect": dialect, "retry": False, "breaker": {}}))
    r = post(w.port, "/", b"{}", [JSON])
    assert (r.status, r.body, r.weir_reason) == (429, b"{}", None)
    r = post(w.port, "/", b"{}", [JSON])
    assert "pause" in own(r, dialect, 503, "throttled")
    assert 25 <= int(r.header("Retry-After")) <= 30 and up.heads == 1


# ----------------------------------------------------------------------------------------------------------- the two names


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_names_of_an_upstreams_answer_are_left(board, dialect):
    for status in (200, 404, 429, 500):
        board.handler = lambda peer: peer.send(reply(status, b"{}", [JSON, ("request-id", "req_1"), ("x-request-id", "req_2")]))
        r, line = board.ask(f"/{dialect}")
        assert r.status == status and r.body == b"{}" and r.weir_reason is None
        assert (r.headers.all("request-id"), r.headers.all("x-request-id")) == (["req_1"], ["req_2"])
        assert r.header("X-Correlation-ID") == line["correlation_id"]
    board.handler = lambda peer: peer.send(reply(200, b"{}", [JSON]))
    r, _ = board.ask(f"/{dialect}")
    assert "request-id" not in r.headers and "x-request-id" not in r.headers


@pytest.mark.parametrize("header", ["X-Request-ID", "x-request-id", "Request-Id"])
@pytest.mark.parametrize("dialect", PROVIDERS)
def test_a_name_comes_once(start_weir, dialect, header):
    """Where the correlation header is the provider's."""
    with Refuser() as down:
        w = start_weir(base_config(down.port, agent={"dialect": dialect, **CALM}, correlation={"header": header, "also": []}))
        r = post(w.port, "/", b"{}", [JSON, (header, "mine")])
        assert r.headers.all(ID_FIELDS[dialect]) == ["mine"] and r.headers.all(header) == ["mine"]
        error_of(r.json(), dialect, 502, "connect_failed", "mine")


# ------------------------------------------------------------------------------------------------------ streams that break

USAGE = Usage(input=50, output=5)
LAST = {"chat stream": b"data: [DONE]\n\n", "responses stream": b"response.completed", "messages stream": b"message_stop"}


def stream_of(form):
    return b"".join(events(form.name, USAGE, asked=True))


def head(framing, body=b"", headers=(SSE,), status=200):
    fields = {"chunked": [("Transfer-Encoding", "chunked")], "close": [("Connection", "close")],
              "length": [("Content-Length", len(body))]}[framing]
    return reply(status, b"", [*headers, *fields], length=False)


class Breaks:
    """A handler: a head, these bytes of a stream, and then an end that is none. It goes on when they were seen."""

    def __init__(self, sent, end, framing="chunked", **kw):
        self.sent, self.end, self.framing, self.kw = sent, end, framing, kw
        self.seen = threading.Event()

    def __call__(self, peer):
        peer.send(head(self.framing, self.sent + b"more to come", **self.kw))
        if self.sent:
            peer.send(chunk(self.sent) if self.framing == "chunked" else self.sent)
        self.seen.wait(30)
        self.end(peer)


def fin(peer):
    peer.close()


def fin_in_a_chunk(peer):
    peer.send(b"40\r\ndata: half a ch")
    peer.close()


def bad_chunk(peer):
    peer.send(b"what\r\n")
    peer.wait_gone()


def stall(peer):
    peer.wait_gone()


# reason, the part of the path that brings it, and how the upstream ends
ENDS = {
    "reset": ("reset", "", hang_up),
    "fin": ("truncated", "", fin),
    "malformed chunk": ("bad_response", "", bad_chunk),
    "idle": ("timeout_idle", "-idle", stall),
    "total": ("timeout_total", "-total", stall),
}


def cuts_of(stream):
    """Where to break: before it begins, behind an event, in an event's line, behind its data line, in its name."""
    second = stream.index(b"\n\n") + 2
    third = stream.index(b"\n\n", second) + 2
    return {"nothing": 0, "event": second, "line": (second + third) // 2, "no empty line": third - 1, "no line end": third - 2,
            "name": second + 3}


def last_words(form, sent, r, reason, request_id):
    """Checks that what came is all that was sent, then the error event; returns its message."""
    assert r.body.startswith(sent), r
    rest, ended = r.body[len(sent):], not sent or sent.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    if form.dialect == "openai":
        before, after = (b"" if ended else b"\n\n") + b"data: ", b"\n\n"
    else:
        before, after = (b"" if ended else b"\nevent: ping\n\n") + b"event: error\ndata: ", b"\n\n"
    assert rest.startswith(before) and rest.endswith(after), rest
    data = rest[len(before):-len(after)]
    assert b"\n" not in data and b"[DONE]" not in rest
    return error_of(json.loads(data), form.dialect, 504 if reason.startswith("timeout") else 502, reason, request_id)


def broken(board, form, handler, where="", **kw):
    """The answer to a stream that breaks once its caller has what was sent of it, and its line of the log."""
    name = fresh_id()
    board.handler = handler
    with connect(board.port) as c:
        c.send(request("POST", f"/{form.dialect}{where}{form.path}", [JSON, ("X-Correlation-ID", name)], form.ask(), **kw))
        r = c.read_head()
        assert r.status == 200 and r.header("Content-Length") is None
        if r.header("Transfer-Encoding"):
            pieces, r.end = [], "truncated"
            while b"".join(pieces) != handler.sent:
                pieces.append(next_chunk(c))
            handler.seen.set()
            while (piece := next_chunk(c)) is not None:
                pieces.append(piece)
            r.body, r.end = b"".join(pieces), c.src.end or "chunked"
        else:
            r.body = b"" if not handler.sent else c.recv_until(handler.sent)
            handler.seen.set()
            rest, r.end = c.recv_to_end()
            r.body += rest
    return r, board.wait_log(correlation_id=name)


def next_chunk(c):
    """The next chunk's data; None: the transfer is over."""
    try:
        size = int(c.recv_until(b"\r\n"), 16)
        data = c.src.take(size + 2)[:-2]
        return data if size else None
    except Exception:
        return None


@pytest.mark.parametrize("cut", ["nothing", "event", "line", "no empty line", "no line end", "name"])
@pytest.mark.parametrize("end", ["reset", "idle"])
@pytest.mark.parametrize("name", STREAMS)
def test_an_error_event_goes_first(board, name, end, cut):
    form = FORMS[name]
    reason, where, how = ENDS[end]
    sent = stream_of(form)[:cuts_of(stream_of(form))[cut]]
    before = board.metric("weir_refused_total", reason=reason)
    r, line = broken(board, form, Breaks(sent, how), where)
    assert r.end in ("fin", "reset"), "the transfer must not end well"
    assert "pstream" in last_words(form, sent, r, reason, line["correlation_id"])
    assert (line["status"], line["reason"], line["bytes_out"]) == (200, reason, len(r.body))
    board.wait_metric("weir_refused_total", before + 1, reason=reason)


@pytest.mark.parametrize("end", ["fin", "malformed chunk", "total"])
@pytest.mark.parametrize("name", STREAMS)
def test_however_it_breaks(board, name, end):
    form = FORMS[name]
    reason, where, how = ENDS[end]
    sent = stream_of(form)[:cuts_of(stream_of(form))["event"]]
    r, line = broken(board, form, Breaks(sent, how), where)
    assert r.end in ("fin", "reset")
    message = last_words(form, sent, r, reason, line["correlation_id"])
    assert end != "malformed chunk" or "chunk" in message
    assert line["reason"] == reason


def test_a_part_of_a_chunk_is_passed_on(board):
    form = FORMS["chat stream"]
    handler = Breaks(stream_of(form)[:cuts_of(stream_of(form))["event"]], fin_in_a_chunk)
    r, line = broken(board, form, handler)
    last_words(form, handler.sent + b"data: half a ch", r, "truncated", line["correlation_id"])


@pytest.mark.parametrize("name", STREAMS)
def test_an_answer_without_a_length(board, name):
    """The upstream's end of the stream is its connection's: a reset is no end."""
    form = FORMS[name]
    sent = stream_of(form)[:cuts_of(stream_of(form))["line"]]
    r, line = broken(board, form, Breaks(sent, hang_up, "close"))
    last_words(form, sent, r, "reset", line["correlation_id"])


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_every_kind_of_line_end(board, end):
    form = FORMS["chat stream"]
    stream = stream_of(form).replace(b"\n", end.encode())
    whole = stream.index(2 * end.encode()) + 2 * len(end)
    for at in (whole, whole + 20, whole - len(end)):
        r, line = broken(board, form, Breaks(stream[:at], hang_up))
        last_words(form, stream[:at], r, "reset", line["correlation_id"])


@pytest.mark.parametrize("name", STREAMS)
def test_an_old_caller_sees_a_reset(board, name):
    form = FORMS[name]
    sent = stream_of(form)[:cuts_of(stream_of(form))["event"]]
    r, line = broken(board, form, Breaks(sent, hang_up), version="1.0")
    assert r.end == "reset"
    last_words(form, sent, r, "reset", line["correlation_id"])


def test_even_behind_the_last_event(board):
    """All events have come, but not the end of the answer."""
    for name in STREAMS:
        form = FORMS[name]
        r, line = broken(board, form, Breaks(stream_of(form), fin))
        assert r.end in ("fin", "reset")
        last_words(form, stream_of(form), r, "truncated", line["correlation_id"])


@pytest.mark.parametrize("what", ["plain", "length", "compressed", "JSON"])
def test_where_no_event_can_go(board, what):
    """The transfer breaks all the same."""
    form = FORMS["chat stream"]
    sent = stream_of(form)[:cuts_of(stream_of(form))["event"]]
    kw = {"length": {"framing": "length"}, "JSON": {"headers": [JSON]},
          "compressed": {"headers": [SSE, ("Content-Encoding", "gzip")]}}.get(what, {})
    sent = compressed([sent])[0] if what == "compressed" else sent
    handler = Breaks(sent, hang_up, **kw)
    handler.seen.set()
    board.handler = handler
    r, line = board.ask(f"/{'plain' if what == 'plain' else 'openai'}{form.path}", form.ask())
    assert not r.clean and sent.startswith(r.body)
    assert line["reason"] == "reset"


def test_a_stream_of_another_status(board):
    form = FORMS["messages stream"]
    handler = Breaks(stream_of(form)[:30], hang_up, status=500)
    handler.seen.set()
    board.handler = handler
    r, line = board.stream(form)
    assert r.status == 500 and not r.clean
    assert r.body == b"" or last_words(form, r.body[:30], r, "reset", line["correlation_id"])


def test_a_caller_who_reads_late_gets_it_too(board, connect):
    """The error waits behind what the caller has not read yet."""
    form, size = FORMS["chat stream"], 8 << 20
    one = event({"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})
    count = size // len(one)
    done = threading.Event()

    def handler(peer):
        peer.send(head("chunked"))
        with contextlib.suppress(Exception):
            for _ in range(count):
                peer.send(chunk(one))
        done.set()
        peer.reset()

    board.handler = handler
    name = fresh_id()
    c = connect(board.port, rcvbuf=4096)
    c.send(request("POST", "/openai-idle" + form.path, [JSON, ("X-Correlation-ID", name)], form.ask()))
    assert c.read_head().status == 200
    done.wait(1)  # weir holds as much as it will
    pieces = []
    while (piece := next_chunk(c)) is not None:
        pieces.append(piece)
    body = b"".join(pieces)
    at = body.rindex(b"data: ")
    line = board.wait_log(correlation_id=name)
    error_of(json.loads(body[at + 6:]), "openai", 504 if line["reason"].startswith("timeout") else 502, line["reason"], name)
    assert body[:at].replace(one, b"").rstrip(b"\n") == one[:len(body[:at].replace(one, b"").rstrip(b"\n"))]


def test_a_caller_who_left_is_no_failure(board, connect):
    form = FORMS["chat stream"]
    board.handler = Breaks(stream_of(form)[:100], stall)
    name = fresh_id()
    c = connect(board.port)
    c.send(request("POST", "/openai" + form.path, [JSON, ("X-Correlation-ID", name)], form.ask()))
    c.recv_until(board.handler.sent)
    board.handler.seen.set()
    c.close()
    assert board.wait_log(correlation_id=name)["reason"] == "client_gone"


# ------------------------------------------------------------------------------------------- streams that end without an end


def without_last(form):
    made = events(form.name, USAGE, asked=True)
    assert LAST[form.name + " stream"] in made[-1]
    return made[:-1]


class Sends:
    """A handler that sends these pieces as a whole answer."""

    def __init__(self, pieces, framing="chunked", at_once=True, **kw):
        self.pieces, self.framing, self.at_once, self.kw = pieces, framing, at_once, kw

    def __call__(self, peer):
        out = [head(self.framing, b"".join(self.pieces), **self.kw)]
        out += [chunk(p) if self.framing == "chunked" else p for p in self.pieces]
        out += [LAST_CHUNK] if self.framing == "chunked" else []
        for piece in [b"".join(out)] if self.at_once else out:
            peer.send(piece)
        if self.framing == "close":
            peer.close()


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_without_its_last_event_is_broken(board, name, at_once, framing):
    form = FORMS[name]
    pieces = without_last(form)
    board.handler = Sends(pieces, framing, at_once)
    before = board.metric("weir_refused_total", reason="truncated")
    r, line = board.stream(form)
    assert r.status == 200 and not r.clean
    message = last_words(form, b"".join(pieces), r, "truncated", line["correlation_id"])
    assert "last event" in message
    assert (line["status"], line["reason"]) == (200, "truncated")
    board.wait_metric("weir_refused_total", before + 1, reason="truncated")


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("name", STREAMS)
def test_it_is_its_upstreams_failure(board, name, framing):
    """Its outcome by name, and not one that is well."""
    form = FORMS[name]
    count = {outcome: board.metric("weir_upstream_requests_total", upstream=form.dialect, outcome=outcome)
             for outcome in ("ok", "truncated")}
    board.handler = Sends(without_last(form), framing)
    assert board.stream(form)[1]["reason"] == "truncated"
    board.wait_metric("weir_upstream_requests_total", count["truncated"] + 1, upstream=form.dialect, outcome="truncated")
    assert board.metric("weir_upstream_requests_total", upstream=form.dialect, outcome="ok") == count["ok"]


def test_the_breaker_counts_it(start_weir, start_upstream):
    up = start_upstream(Llm(USAGE, transform=lambda made: made[:-1]))
    w = start_weir(base_config(up.port, agent={"dialect": "openai", "breaker": {"consecutive_failures": 3}}))
    form = FORMS["chat stream"]
    for _ in range(3):
        assert not exchange(w.port, request("POST", form.path, [JSON], form.ask())).clean
    own(exchange(w.port, request("POST", form.path, [JSON], form.ask())), "openai", 503, "breaker_open")
    assert up.heads == 3, "a stream that began is not asked for again"


def provider_says(name):
    """What a provider sends in the middle of a stream when it fails, and then no more."""
    error = {"message": "overloaded", "type": "overloaded_error"}
    if name == "chat":
        return event({"error": error})
    return event({"type": "error", "error": error}, "error")


@pytest.mark.parametrize("name", STREAMS)
def test_a_provider_that_says_itself_that_it_failed(board, name):
    """Its words come first, whatever follows. A chat has no event for it: it has not ended, by its dialect."""
    form = FORMS[name]
    pieces = [*events(form.name, USAGE, asked=True)[:2], provider_says(form.name)]
    board.handler = Sends(pieces)
    r, line = board.stream(form)
    assert r.body.startswith(b"".join(pieces))
    if form.name == "chat":
        assert not r.clean
        last_words(form, b"".join(pieces), r, "truncated", line["correlation_id"])
    else:
        assert r.clean and r.body == b"".join(pieces) and "reason" not in line


@pytest.mark.parametrize("half", [b": a comm", b": a comment\n", b"event: x\r", b"data: 1\r\n", b"id: 1\rdata:", b"retry: 5\n",
                                  b"\xef\xbb\xbf", b"data: \xc3", b"data: {\"a\": \"\\", b"\r", b"data"])
@pytest.mark.parametrize("name", STREAMS)
def test_whatever_is_half_there_the_error_is_an_event_of_its_own(board, name, half):
    form = FORMS[name]
    sent = event(b'{"type":"ping"}') + half
    r, line = broken(board, form, Breaks(sent, hang_up))
    kept = [dict(pairs) for pairs in sse(r.body)]
    assert error_of(json.loads(kept[-1]["data"]), form.dialect, 502, "reset", line["correlation_id"])
    assert form.dialect == "openai" or kept[-1]["event"] == "error"
    half_event = [e for e in kept[1:-1] if "data" in e]
    assert len(half_event) <= 1
    if form.dialect == "anthropic" and not half.endswith((b"\r", b"\n")):
        assert all(e["event"] == "ping" for e in half_event), kept


def sse(body):
    """The events of a stream, as WHATWG HTML has it: of each the fields, of which the last one of a name counts."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    lines, found, fields = re.split("\r\n|\r|\n", text), [], []
    for line in lines:
        name, _, value = line.partition(":")
        if not line and fields:
            found.append(fields)
            fields = []
        elif name:
            fields.append((name, value.removeprefix(" ")))
    return found


def test_who_answers_says_in_which_dialect_its_stream_breaks(start_weir, start_upstream):
    """The fallback's, where it answers; what weir says in place of an answer is in the route's."""
    first = start_upstream(lambda peer: peer.send(reply(503, b"{}", [JSON, ("Connection", "close")])), lenient=True)
    answers = iter([Sends(without_last(FORMS["messages stream"])), hang_up])
    second = start_upstream(lambda peer: next(answers)(peer), lenient=True)
    config = base_config(first.port, agent={"dialect": "openai", **CALM}, route={"fallback": ["second"]})
    config["upstreams"]["second"] = {"url": f"http://127.0.0.1:{second.port}", "dialect": "anthropic", **CALM}
    w = start_weir(config)
    form = FORMS["messages stream"]
    r = exchange(w.port, request("POST", form.path, [JSON, ("X-Correlation-ID", "whose")], form.ask()))
    assert not r.clean
    last_words(form, b"".join(without_last(form)), r, "truncated", "whose")
    r = exchange(w.port, request("POST", form.path, [JSON], form.ask()))
    own(r, "openai", 502, "reset")


@pytest.mark.parametrize("name", STREAMS)
def test_an_empty_stream_is_broken(board, name):
    form = FORMS[name]
    for framing in ("chunked", "close"):
        board.handler = Sends([], framing)
        r, line = board.stream(form)
        assert r.status == 200 and not r.clean
        last_words(form, b"", r, "truncated", line["correlation_id"])


@pytest.mark.parametrize("name", STREAMS)
def test_half_a_last_event_is_none(board, name):
    form = FORMS[name]
    made = events(form.name, USAGE, asked=True)
    whole = b"".join(made[:-1])
    last = made[-1].rstrip(b"\n")
    for part in (last[:-1], last[:len(last) // 2]):
        board.handler = Sends([whole + part])
        r, line = board.stream(form)
        assert not r.clean
        last_words(form, whole + part, r, "truncated", line["correlation_id"])


@pytest.mark.parametrize("name", STREAMS)
def test_with_a_length_a_byte_is_missing(board, name):
    """No event fits in; but it does not look whole."""
    form = FORMS[name]
    for at_once in (True, False):
        pieces = without_last(form)
        board.handler = Sends(pieces, "length", at_once)
        r, line = board.stream(form)
        assert r.status == 200 and not r.clean and r.body == b"".join(pieces)[:-1]
        assert line["reason"] == "truncated"


def renamed(kind):
    return lambda made: [*made[:-1], made[-1].replace(b"response.completed", kind)]


WELL_ENDED = {
    "chat stream": {
        "as it is": lambda made: made,
        "no empty line": lambda made: [*made[:-1], b"data: [DONE]\n"],
        "no line end": lambda made: [*made[:-1], b"data: [DONE]"],
        "no space": lambda made: [*made[:-1], b"data:[DONE]\n\n"],
        "a comment behind": lambda made: [*made, b": bye\n\n"],
        "CRLF": lambda made: [e.replace(b"\n", b"\r\n") for e in made],
        "alone": lambda made: made[-1:],
    },
    "responses stream": {
        "as it is": lambda made: made,
        "incomplete": renamed(b"response.incomplete"),
        "failed": renamed(b"response.failed"),
        "error": lambda made: [made[0], event({"type": "error", "code": "server_error", "message": "no"}, "error")],
        "no names": lambda made: [e[e.index(b"data:"):] for e in made],
        "type last": lambda made: [*made[:-1], event({"response": {"x": "y" * 9000}, "type": "response.completed"})],
    },
    "messages stream": {
        "as it is": lambda made: made,
        "error": lambda made: [*made[:3], event({"type": "error", "error": {"type": "overloaded_error"}}, "error")],
        "no empty line": lambda made: [*made[:-1], made[-1].rstrip(b"\n")],
        "CR": lambda made: [e.replace(b"\n", b"\r") for e in made],
        "a ping behind": lambda made: [*made, event({"type": "ping"}, "ping")],
    },
}


@pytest.mark.parametrize("name,how", [(name, how) for name, all_ in WELL_ENDED.items() for how in all_])
def test_a_stream_with_its_last_event_is_whole(board, name, how):
    form = FORMS[name]
    pieces = WELL_ENDED[name][how](events(form.name, USAGE, asked=True))
    whole = b"".join(pieces)
    size = 3 if sanitized() else 1
    for handler in (Sends(pieces), Sends(pieces, "length"), Sends(pieces, "close"),
                    Sends([whole[at:at + size] for at in range(0, len(whole), size)], at_once=False)):
        board.handler = handler
        r, line = board.stream(form)
        assert r.clean and r.body == whole and "reason" not in line


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/transcriptions", "/v1/responses/r1?stream=true",
                                  "/v1/threads/t/runs", "/v1/images/generations", "/v1/images/edits", "/v1/embeddings",
                                  "/v1/batches", "/v1/realtime", "/v1/messages", "/v1/completions/x?/v1/completions"])
def test_nobody_knows_how_other_streams_end(board, path):
    board.handler = Sends([event({"type": "speech.audio.delta"})])
    r, line = board.ask("/openai" + path)
    assert r.clean and r.body == board.handler.pieces[0] and "reason" not in line


@pytest.mark.parametrize("what", ["plain", "other status", "JSON", "compressed", "HEAD"])
def test_what_need_not_end_so(board, what):
    form = FORMS["chat stream"]
    pieces = without_last(form)
    where = "plain" if what == "plain" else "openai"
    board.handler = {"other status": Sends(pieces, status=202), "JSON": Sends(pieces, headers=[JSON]),
                     "compressed": Sends(compressed(pieces), headers=[SSE, ("Content-Encoding", "gzip")]),
                     "HEAD": lambda peer: peer.send(head("chunked"))}.get(what, Sends(pieces))
    if what == "HEAD":
        r = exchange(board.port, request("HEAD", f"/{where}{form.path}"))
        assert r.status == 200 and r.clean
        return
    r, line = board.ask(f"/{where}{form.path}", form.ask())
    assert r.clean and "reason" not in line
    assert r.body == b"".join(compressed(pieces) if what == "compressed" else pieces)
    assert what != "compressed" or gzip.decompress(r.body) == b"".join(pieces)


def test_every_event_goes_out_at_once(board, connect):
    """The last one too, before anyone knows whether it is the last; then the end is a break."""
    form = FORMS["messages stream"]
    pieces, step = without_last(form), threading.Semaphore(0)

    def handler(peer):
        peer.send(head("chunked"))
        for piece in pieces:
            assert step.acquire(timeout=30)
            peer.send(chunk(piece))
        assert step.acquire(timeout=30)
        peer.send(LAST_CHUNK)

    board.handler = handler
    c = connect(board.port)
    c.send(request("POST", "/anthropic" + form.path, [JSON], form.ask()))
    assert c.read_head().status == 200
    for piece in pieces:
        step.release()
        assert c.recv_until(piece).endswith(piece)
    step.release()
    rest, _ = c.recv_to_end()
    assert b"event: error\n" in rest and not rest.endswith(LAST_CHUNK)


# --------------------------------------------------------------------------------------------- together with what weir asks


@pytest.fixture
def injecting(start_weir, start_upstream):
    """injecting(handler) -> a weir before an upstream of openai that is asked for usage."""
    def make(handler):
        up = start_upstream(handler, lenient=True)
        w = start_weir(base_config(up.port, agent={"dialect": "openai", "usage": {"inject": True}, **CALM}))
        return w
    return make


UNASKED = FORMS["chat stream"].ask(stream_options=None)


@pytest.mark.parametrize("held", [b"", usage_chunk(USAGE)[:40], b"id: 4\n", b"data: {\"choices\":[]"])
def test_an_event_that_weir_holds_is_not_half_sent(injecting, held):
    """What may be the chunk that weir asked for was held back, and now is not sent at all: no event is unfinished."""
    form = FORMS["chat stream"]
    sent = b"".join(events("chat", None, asked=True)[:2])
    handler = Breaks(sent + held, hang_up)
    w = injecting(handler)
    with connect(w.port) as c:
        c.send(request("POST", form.path, [JSON, ("X-Correlation-ID", "held")], UNASKED))
        assert c.read_head().status == 200
        c.recv_until(sent)
        handler.seen.set()
        rest, end = c.recv_to_end()
    assert end in ("fin", "reset")
    data = re.search(rb"^\r\n[0-9a-f]+\r\ndata: (\{.*\})\n\n\r\n$", rest)
    assert data, rest
    error_of(json.loads(data[1]), "openai", 502, "reset", "held")


def test_a_stream_without_its_last_event_of_which_one_is_taken_out(injecting):
    form = FORMS["chat stream"]
    made = events("chat", USAGE, asked=True)[:-1]
    w = injecting(Sends(made))
    r = exchange(w.port, request("POST", form.path, [JSON, ("X-Correlation-ID", "cut")], UNASKED))
    assert not r.clean
    last_words(form, b"".join(made).replace(usage_chunk(USAGE), b""), r, "truncated", "cut")


def test_what_was_seen_is_paid_for(start_weir, start_upstream):
    """A stream without its last event: its usage counts, and only once."""
    up = start_upstream(Llm(USAGE, transform=lambda made: made[:-1]))
    w = start_weir(base_config(up.port, agent={"dialect": "anthropic", **CALM}))
    form = FORMS["messages stream"]
    assert not exchange(w.port, request("POST", form.path, [JSON], form.ask())).clean
    line = w.wait_log(reason="truncated")
    assert (line["tokens_in"], line["tokens_out"], line["attempts"]) == (50, 5, 1)
    w.wait_metric("weir_llm_tokens_total", 55)
