"""Upstreams that fail on purpose, answer by answer, and what weir must have made of it.

    up = start_faulty(status(503, retry_after=1), OK)     # the first request, then every later one
    up.answers(RESET)                                     # from now on
    up.requests[0].raw                                    # its bytes as they came; .conn, .body, .headers as ever

An answer is bytes, or a list of actions as harness.Upstream's scripts have them.
"""
import contextlib
import email.utils
import json
import re
import time

import harness
from harness import CLOSE, HALF_CLOSE, LAST_CHUNK, RESET, WAIT_GONE, base_config, chunk, merge, reply, wait_until
from support import let_it_count

OK = reply(200, b"ok")
DIALECTS = ("plain", "openai", "anthropic")


class _Recorder(harness.SocketSource):
    """Keeps what came, until the next request begins."""

    def __init__(self, sock):
        super().__init__(sock)
        self.came = bytearray()

    def fill(self):
        had = len(self.buf)
        super().fill()
        self.came += self.buf[had:]

    def cut(self):
        """The bytes of the request that was read to its end just now."""
        whole = bytes(self.came[:len(self.came) - len(self.buf)])
        del self.came[:len(whole)]
        return whole


class Faulty(harness.Upstream):
    """Answers by turn; the last of them repeats. `early`: at the head of the request, see harness.Upstream."""

    def __init__(self, *answers, **kw):
        self.turns, self.sent_at = [], []
        self.answers(*answers or (OK,))
        super().__init__(self._answer, on_connect=self._begin, **kw)

    def answers(self, *answers):
        self.turns = [a if isinstance(a, list) else [a] for a in answers]

    def clear(self):
        """As ever, but connections are not numbered anew."""
        numbered = getattr(self, "connections", 0)
        super().clear()
        self.connections, self.sent_at = numbered, []

    def _begin(self, peer):
        peer.src = _Recorder(peer.sock)

    def _answer(self, peer):
        if peer.request.complete:
            peer.request.raw = peer.src.cut()
        with self._lock:
            script = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
            self.sent_at.append(time.monotonic())
        peer.run(script)

    @property
    def bodies(self):
        return [r.body for r in self.requests]

    @property
    def conns(self):
        return [r.conn for r in self.requests]


# ------------------------------------------------------------------------------------------------------------- answers


def status(code, body=None, retry_after=None, headers=()):
    """An error of a provider, whole. Its body names its status; `retry_after` as it stands in the field."""
    body = f'{{"error": {{"message": "upstream says {code}"}}}}'.encode() if body is None else body
    more = [] if retry_after is None else [("Retry-After", retry_after)]
    return reply(code, body, [("Content-Type", "application/json"), *more, *headers])


def in_seconds(seconds):
    """A date for Retry-After, not earlier than that from now."""
    return email.utils.formatdate(-(-time.time() // 1) + seconds, usegmt=True)


HEAD = reply(200, b"", [("Content-Length", "100")], length=False)
CHUNKED = reply(200, b"", [("Transfer-Encoding", "chunked")], length=False)

# name: (answer, status, reason) of what ends before the caller has a byte
BEFORE = {
    "reset before the head": ([RESET], 502, "reset"),
    "reset in the status line": ([b"HTTP/1.", 0.05, RESET], 502, "reset"),
    "reset in a field": ([b"HTTP/1.1 200 OK\r\nContent-Len", 0.05, RESET], 502, "reset"),
    "reset ahead of the empty line": ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", 0.05, RESET], 502, "reset"),
    "FIN before the head": ([CLOSE], 502, "reset"),
    "half-closed before the head": ([HALF_CLOSE, WAIT_GONE], 502, "reset"),
    "FIN in the head": ([b"HTTP/1.1 200 OK\r\nContent-Len", 0.05, CLOSE], 502, ("reset", "truncated")),
    "stall before the head": ([WAIT_GONE], 504, "timeout_first_byte"),
    "stall in the head": ([b"HTTP/1.1 200 OK\r\nX-A: ", WAIT_GONE], 504, ("timeout_first_byte", "timeout_idle")),
    "stall behind a 103": ([b"HTTP/1.1 103 Early Hints\r\n\r\n", WAIT_GONE], 504, "timeout_first_byte"),
    "garbage": ([b"\x00\x01garbage\r\n\r\n"], 502, "bad_response"),
    "1000 interim answers": ([b"HTTP/1.1 102 Processing\r\n\r\n" * 1000 + OK], 502, "bad_response"),
    "Content-Length twice": ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"], 502, "bad_response"),
    "a body behind a 204": ([reply(204, b"body")], 502, "bad_response"),
}

# name: (answer, reasons) of what ends behind the first bytes of a 200
MIDDLE = {
    "stall behind the head": ([HEAD, WAIT_GONE], ("timeout_idle",)),
    "stall in the body": ([HEAD + b"half", WAIT_GONE], ("timeout_idle",)),
    "stall in a chunk": ([CHUNKED + b"9\r\nhalf", WAIT_GONE], ("timeout_idle",)),
    "reset in the body": ([HEAD + b"half", 0.05, RESET], ("reset",)),
    "reset in a chunk": ([CHUNKED + b"9\r\nhalf", 0.05, RESET], ("reset",)),
    "reset behind a chunk": ([CHUNKED + chunk(b"half"), 0.05, RESET], ("reset",)),
    "FIN in the body": ([HEAD + b"half", 0.05, CLOSE], ("truncated",)),
    "FIN in a chunk": ([CHUNKED + b"9\r\nhalf", 0.05, CLOSE], ("truncated",)),
    "FIN in a chunk's size": ([CHUNKED + chunk(b"half") + b"1", 0.05, CLOSE], ("truncated",)),
    "FIN ahead of the last chunk": ([CHUNKED + chunk(b"half"), 0.05, CLOSE], ("truncated",)),
    "FIN in the last chunk": ([CHUNKED + chunk(b"half") + LAST_CHUNK[:-2], 0.05, CLOSE], ("truncated",)),
    "garbage for a chunk": ([CHUNKED + chunk(b"half"), 0.05, b"zebra\r\n", WAIT_GONE], ("bad_response",)),
}

# ------------------------------------------------------------------------------------------------------- configuration


def url_of(up):
    return up if isinstance(up, str) else getattr(up, "url", None) or f"http://127.0.0.1:{up.port}"


def chain(*ups, route=None, each=None, fields=(), **more):
    """A configuration where `agent` falls back to `b`, `c` ... in order; one try at each and no breaker, unless `each`
    says another. `fields`: what to merge into each of them, in that order."""
    names = ["agent", *"bcdefgh"[:len(ups) - 1]]
    config = base_config(url_of(ups[0]), route=merge({"fallback": names[1:]}, route or {}), **more)
    for n, (name, up) in enumerate(zip(names, ups)):
        own = config["upstreams"].setdefault(name, {"url": url_of(up)})
        for part in ({"retry": {"attempts": 1}, "breaker": False}, each or {}, fields[n] if n < len(fields) else {}):
            merge(own, part)
    return config


def retrying(up, retry=None, agent=None, **more):
    """One upstream whose retries do not wait long, and neither breaker nor budget in their way."""
    own = {"breaker": False, "retry": {"budget": "100%", "backoff": {"base": "20ms", "max": "40ms"}}}
    return base_config(url_of(up), agent=merge(merge(own, agent or {}), {"retry": {} if retry is None else retry}), **more)


def breaking(up, breaker=None, agent=None, **more):
    """One upstream with a breaker that is quick, and no retries."""
    own = {"retry": False, "breaker": {"consecutive_failures": 3, "probes": 2,
                                       "open": {"base": "300ms", "max": "2s", "jitter": "0%"}}}
    return base_config(url_of(up), agent=merge(merge(own, agent or {}), {"breaker": {} if breaker is None else breaker}),
                       **more)


# ---------------------------------------------------------------------------------------------------------- what is told


def breaker_state(w, upstream="agent", **labels):
    """The one state in which the metrics say a breaker is."""
    found = {}
    for (name, have), value in w.metrics().items():
        have = dict(have)
        if name == "weir_breaker_state" and have["upstream"] == upstream and labels.items() <= have.items():
            assert value in (0, 1), (have, value)
            if value:
                found.setdefault(have["model"], []).append(have["state"])
    assert found and all(len(states) == 1 for states in found.values()), f"not in one state: {found}"
    states = {states[0] for states in found.values()}
    assert len(states) == 1, f"breakers of several models differ: {found}"
    return states.pop()


def wait_state(w, *states, upstream="agent", **labels):
    return wait_until(lambda: (s := breaker_state(w, upstream, **labels)) in states and s, f"the breaker to be {states}")


def transitions(w, to, upstream="agent", **labels):
    return w.metric("weir_breaker_transitions_total", upstream=upstream, to=to, **labels)


def outcomes(w, upstream="agent"):
    """{outcome: count} of the tries at one upstream."""
    let_it_count(w)
    found = {}
    for (name, have), value in w.metrics().items():
        have = dict(have)
        if name == "weir_upstream_requests_total" and have["upstream"] == upstream and value:
            found[have["outcome"]] = found.get(have["outcome"], 0) + value
    return found


def refused(r, reason, dialect="plain", code=503):
    """Checks an answer that came without a call, and returns the seconds it says to wait."""
    error(r, code, reason, dialect)
    assert re.fullmatch(r"[1-9]\d*", r.header("Retry-After")), r
    return int(r.header("Retry-After"))


_ANTHROPIC = {429: "rate_limit_error", 503: "overloaded_error", 401: "authentication_error", 413: "request_too_large"}


def error(r, code, reason, dialect="plain"):
    """Checks that an answer is weir's own, in that dialect."""
    if dialect == "plain":
        harness.problem(r, code, reason)
        return
    reasons = (reason,) if isinstance(reason, str) else reason
    assert r.status == code and r.weir_reason in reasons and r.clean, r
    assert r.header("Content-Type", "").partition(";")[0] == "application/json", r
    body = r.json()
    assert body["reason"] == r.weir_reason and body["request_id"], r
    if dialect == "openai":
        assert {"message", "type", "param", "code"} <= set(body["error"]) and body["error"]["param"] is None, r
        assert body["error"]["type"] == ("rate_limit_error" if code == 429 else "invalid_request_error" if code < 500
                                         else "api_error"), r
    else:
        wanted = _ANTHROPIC.get(code, "invalid_request_error" if code < 500 else "api_error")
        assert body["type"] == "error" and body["error"]["type"] == wanted and body["error"]["message"], r


def ask_of(model, text="hi", **more):
    """The body of a chat."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


@contextlib.contextmanager
def upstreams():
    """start(*answers) -> a Faulty; the block fails when one of them saw what it must never see."""
    started = []

    def start(*answers, **kw):
        started.append(Faulty(*answers, **kw))
        return started[-1]

    try:
        yield start
    finally:
        for up in started:
            up.close()
    broken = [e for up in started if not up.lenient for e in up.errors]
    assert not broken, f"an upstream saw what it must never see: {broken}"
