"""An upstream that breaks off, at every byte of an answer and of a request, by FIN and by RST: a caller has the whole
answer, or an error with its reason, or a transfer that breaks; and the next request is served."""
import collections
import json

import pytest

import strict
from fault_proxy import Fault
from faults import error, outcomes
from harness import NoResponse, base_config, chunk, connect, reply, request, wait_until
from llm import FORMS, Usage, events
from support import Caller

NEXT = reply(200, b"next", [("X-Next", "yes")])
SSE = ("Content-Type", "text/event-stream")
ACTS = ("fin", "rst")


def chunked(*pieces, headers=()):
    head = reply(200, b"", [*headers, ("Transfer-Encoding", "chunked")], length=False)
    return head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


def stream(name):
    """A short SSE answer, an event a chunk: the first, some text, and the last two."""
    made = events(name, Usage(input=7) if name == "messages" else None, words=("Hi",))
    text = next(e for e in made if b"Hi" in e)
    return chunked(*dict.fromkeys([made[0], text, *made[-2:]]), headers=[SSE])


Form = collections.namedtuple("Form", "raw method dialect path body", defaults=("GET", "plain", "/x", None))

FORMS_CUT = {
    "length": Form(reply(200, b"hello, world")),
    "empty": Form(reply(200, b"")),
    "chunked": Form(chunked(b"hello", b", ", b"world")),
    "chunked with a trailer": Form(chunked(b"hello, world")[:-2] + b"X-Sum: 1\r\n\r\n"),
    "204": Form(reply(204, b"")),
    "304": Form(reply(304, b"", [("ETag", '"x"'), ("Content-Length", "12")], length=False)),
    "HEAD": Form(reply(200, b"", [("Content-Length", "12")], length=False), "HEAD"),
    "interim answers": Form(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
                            + reply(200, b"hello")),
    "100-continue": Form(b"HTTP/1.1 100 Continue\r\n\r\n" + reply(200, b"hello"), "POST", body=b"some body"),
    "POST": Form(reply(201, b"made"), "POST", body=b"some body"),
    "an error": Form(reply(500, b"sorry, no"), "GET"),
    "openai": Form(stream("chat"), "POST", "openai", FORMS["chat stream"].path, FORMS["chat stream"].ask()),
    "anthropic": Form(stream("messages"), "POST", "anthropic", FORMS["messages stream"].path, FORMS["messages stream"].ask()),
    "openai JSON": Form(reply(200, b'{"id": "c1", "choices": []}', [("Content-Type", "application/json")]), "POST", "openai",
                        FORMS["chat"].path, FORMS["chat"].ask()),
}


def head_of(raw):
    """How long the head is, with the interim answers ahead of it."""
    at = 0
    while raw[at:].startswith(b"HTTP/1.1 1"):
        at = raw.index(b"\r\n\r\n", at) + 4
    return raw.index(b"\r\n\r\n", at) + 4


class Whole:
    """What a caller of an answer must have, read strictly."""

    def __init__(self, form):
        self.answer = strict.read(form.raw, form.method)
        self.head, self.total = head_of(form.raw), len(form.raw)
        self.body, self.status = self.answer.body, self.answer.status


def dispatched(body):
    """The events of an SSE body that its reader is told: (type, data)."""
    found = []
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        kind, data = b"", []
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if name == b"event":
                kind = value
            elif name == b"data":
                data.append(value)
        if data:
            found.append((kind, b"\n".join(data)))
    return found


def check_last_words(form, whole, n, body):
    """A stream of a dialect that breaks: its events in order, then the error; [DONE] only where the upstream said it."""
    wanted, told = dispatched(whole.body), dispatched(body)
    assert told, f"no error event in {body!r}"
    kind, data = told.pop()
    said = json.loads(data)
    assert said["error"]["message"] and (form.dialect == "openai" or (kind, said["type"]) == (b"error", "error")), said
    while told and told[0] == wanted[0]:
        told.pop(0), wanted.pop(0)
    assert len(told) <= 1, f"events nobody sent: {told}"
    if told:  # one that had begun and was ended here
        assert wanted[0][1].startswith(told[0][1]) or told[0][0] == b"ping", (told, wanted[0])
    if form.dialect == "openai" and any(d.startswith(b"[DONE]") for _, d in dispatched(body)):
        assert form.raw.index(b"[DONE]") + 6 <= n, f"[DONE] that was not sent: {body!r}"


def check(form, whole, n, act, r):
    """One answer cut at its byte n. Returns which kind it is."""
    if r.clean and r.weir_reason is None:
        may_be_stale = n == 0 and form.method in ("GET", "HEAD")  # a kept connection that ends: asked for again on another
        assert may_be_stale or n >= whole.total, f"a clean end of a short answer: {r}"
        assert (r.status, r.body) == (whole.status, whole.body), f"not what was sent: {r}"
        return "whole"
    assert n < whole.total or act == "rst", f"all of it was sent: {r}"
    if r.weir_reason:
        reasons = ("reset",) if n == 0 else ("reset", "truncated")
        if form.method == "HEAD":
            assert (r.status, r.body) == (502, b"") and r.weir_reason in reasons, r
        else:
            error(r, 502, reasons, form.dialect)
        return r.weir_reason
    assert r.status == whole.status and n >= whole.head, f"a head that was not sent: {r}"
    if form.dialect != "plain" and b"text/event-stream" in form.raw:
        check_last_words(form, whole, n, r.body)
    else:
        assert whole.body.startswith(r.body), f"bytes nobody sent: {r}"
    return "broken"


def handler_of(form):
    return lambda peer: NEXT if peer.request.target == "/next" else form.raw


def started(form, start_upstream, start_proxy, start_weir, **agent):
    up = start_upstream(handler_of(form), lenient=True)
    p = start_proxy(up)
    w = start_weir(base_config(p.url, agent={"dialect": form.dialect, **agent}))
    return up, p, w


def ask(w, form, n):
    """One request; its correlation id is its number."""
    with connect(w.port) as c:
        c.send(request(form.method, form.path, [("X-Correlation-ID", f"cut-{n}")], form.body))
        return c.read_response(form.method)


def lines(w, count):
    """{n: the line of the log} of so many cuts."""
    w.wait_log(lambda line: line["correlation_id"].startswith("cut-"), count=count)
    return {int(line["correlation_id"][4:]): line for line in w.log if line["correlation_id"].startswith("cut-")}


@pytest.mark.parametrize("name", FORMS_CUT)
def test_an_answer_cut_at_every_byte(start_upstream, start_proxy, start_weir, name):
    form = FORMS_CUT[name]
    whole = Whole(form)
    up, p, w = started(form, start_upstream, start_proxy, start_weir)
    cuts = [(n, act) for act in ACTS for n in range(whole.total + 1)]
    wrong, kinds, others = [], [], 0
    with Caller(w.port) as after:
        for i, (n, act) in enumerate(cuts):
            p.arm(Fault("down", n, act, pause=0.0015 if n % 2 else 0))
            try:
                kinds.append(check(form, whole, n, act, ask(w, form, i)))
                if n == whole.total:  # a next request may meet this end on a kept connection
                    wait_until(lambda: not p.open_connections, "the end of that connection")
                elif whole.total < 200 or n % 5 == 0:
                    others += 1
                    r = after.get("/next")
                    assert (r.status, r.body, r.clean) == (200, b"next", True), f"the next one: {r}"
            except (AssertionError, NoResponse) as e:
                wrong.append((n, act, form.raw[max(0, n - 20):n], repr(e)))
    assert not wrong, f"{len(wrong)} of {len(cuts)}: {wrong[:6]}"
    wait_until(lambda: p.fired == len(cuts), "every cut to be made")
    assert kinds[whole.total] == "whole", "a FIN behind all of it"
    good = "5xx" if whole.status == 500 else "ok"
    told = [line for _, line in sorted(lines(w, len(cuts)).items())]
    for cut, kind, line in zip(cuts, kinds, told):
        reason = line.get("reason")
        wanted = {"whole": (None,), "broken": ("reset", "truncated")}.get(kind, (kind,))
        assert reason in wanted and line["attempts"] == 1, (cut, kind, line)
    w.wait_metric("weir_in_flight", 0)
    wanted = collections.Counter(line.get("reason", good) for line in told)
    wanted["ok"] += others
    wait_until(lambda: outcomes(w) == wanted, f"the outcomes to be {wanted}")


@pytest.mark.parametrize("name", ["length", "chunked", "204", "304", "HEAD", "interim answers"])
def test_a_head_cut_at_every_byte_is_asked_for_again(start_upstream, start_proxy, start_weir, name):
    """Retries as they are by default: nothing of the first answer went out, so the caller has the second one, whole."""
    form = FORMS_CUT[name]
    whole = Whole(form)
    up, p, w = started(form, start_upstream, start_proxy, start_weir,
                     retry={"backoff": {"base": "1ms", "max": "1ms"}, "budget": "100%"})
    wrong = []
    for n in range(whole.head):
        p.arm(Fault("down", n, ACTS[n % 2]))
        r = ask(w, form, n)
        if not (r.clean and (r.status, r.body) == (whole.status, whole.body)):
            wrong.append((n, r))
    assert not wrong, f"{len(wrong)} of {whole.head}: {wrong[:4]}"
    assert [line["attempts"] for line in lines(w, whole.head).values()] == [2] * whole.head
    assert up.complete == 2 * whole.head


@pytest.mark.parametrize("name", ["chunked", "HEAD", "interim answers"])
def test_a_head_cut_at_every_byte_falls_back(start_upstream, start_proxy, start_weir, name):
    """And so it is without a second try: the other upstream's answer, and not a byte of the first one's."""
    form = FORMS_CUT[name]
    whole = Whole(form)
    up, other = start_upstream(handler_of(form)), start_upstream(handler_of(Form(reply(203, b"other", [("X-Other", "yes")]))))
    p = start_proxy(up)
    config = base_config(p.url, route={"fallback": ["b"]}, agent={"retry": {"attempts": 1}})
    config["upstreams"]["b"] = {"url": f"http://127.0.0.1:{other.port}"}
    w = start_weir(config)
    if form.method == "HEAD":
        other._handler = lambda peer: reply(203, b"", [("X-Other", "yes"), ("Content-Length", "5")], length=False)
    wrong = []
    for n in range(whole.head):
        p.arm(Fault("down", n, ACTS[n % 2]))
        r = ask(w, form, n)
        if not r.clean or (r.status, r.header("X-Other"), r.body) != (203, "yes", b"" if form.method == "HEAD" else b"other"):
            wrong.append((n, r))
    assert not wrong, f"{len(wrong)} of {whole.head}: {wrong[:4]}"
    w.wait_metric("weir_fallbacks_total", whole.head, **{"from": "agent", "to": "b"})


def test_a_tunnel_cut_at_every_byte(start_upstream, start_proxy, start_weir):
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    raw = head + b"\x81\x05hello\x88\x00"
    up = start_upstream(script=[raw, "wait_gone"], lenient=True)
    p = start_proxy(up)
    w = start_weir(base_config(p.url))
    asked = request("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                                   ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")])
    for act in ACTS:
        for n in range(len(raw) + 1):
            p.arm(Fault("down", n, act, pause=0.0015 if n % 2 else 0))
            with connect(w.port) as c:
                c.send(asked)
                r = c.read_response()
                if n < len(head):
                    error(r, 502, ("reset",) if n == 0 else ("reset", "truncated"))
                    continue
                assert r.status == 101, (n, r)
                rest, end = c.recv_to_end()
                assert raw[len(head):n].startswith(rest) and (act == "rst" or rest == raw[len(head):n]), (n, act, rest)
                assert end in ("fin", "reset")
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_upstream_connections", 0)


def test_an_answer_that_its_end_ends_and_a_reset_does_not(start_upstream, start_proxy, start_weir):
    raw = b"HTTP/1.1 200 OK\r\n\r\nhello, world"
    form = Form(raw)
    up, p, w = started(form, start_upstream, start_proxy, start_weir)
    for n in range(head_of(raw), len(raw) + 1):
        p.arm(Fault("down", n, "rst", pause=0.003))
        r = ask(w, form, n)
        assert not r.clean and (r.weir_reason or raw[head_of(raw):n].startswith(r.body)), (n, r)
        p.arm(Fault("down", n, "fin"))
        r = ask(w, form, 1000 + n)
        assert r.clean and r.body == raw[head_of(raw):n], (n, r)


# ------------------------------------------------------------------------------------------------- while a request is sent


BODIES = {"GET": None, "POST": b"x" * 120, "chunked POST": [b"one", b"two", b"x" * 80]}


@pytest.mark.parametrize("retry", [False, True])
def test_a_request_cut_at_every_byte(start_upstream, start_proxy, start_weir, retry):
    """A request of which a byte was sent and whose answer was lost: a GET is sent again where that is allowed, a POST
    never."""
    up = start_upstream(lenient=True)
    p = start_proxy(up, record=True)
    own = {"retry": {"backoff": {"base": "1ms", "max": "1ms"}, "budget": "100%"}} if retry else {}
    w = start_weir(base_config(p.url, agent=own))
    for name, body in BODIES.items():
        method = name.split()[-1]
        raw = request(method, "/x", [], body, chunked=name.startswith("chunked"))

        def one():
            with connect(w.port) as c:
                c.send(raw)
                return c.read_response(method)

        p.drop()
        p.wire.clear()
        assert one().status == 200
        total, wrong, again, fired = len(p.wire), [], retry and method == "GET", p.fired
        for n in range(total + 1):
            p.drop()
            had = up.complete
            p.arm(Fault("up", n, ACTS[n % 2], pause=0.002 if n % 4 > 1 else 0))
            r = one()
            if (r.status, r.body) != (200, b"ok") if again else (r.status, r.weir_reason) != (502, "reset"):
                wrong.append((n, ACTS[n % 2], r))
            assert again or up.complete - had <= (n == total), (name, n, "sent again")
        assert not wrong, f"{name}: {len(wrong)} of {total + 1}: {wrong[:4]}"
        wait_until(lambda: p.fired == fired + total + 1, "every cut to be made")
        assert one().status == 200


def test_a_large_request_that_is_cut(start_upstream, start_proxy, start_weir):
    """More than sockets hold: the reset meets weir while it writes."""
    up = start_upstream(lenient=True)
    p = start_proxy(up)
    w = start_weir(base_config(p.url, agent={"retry": {}, "breaker": False}, server={"max_body": "16MiB"}))
    places = (1, 300, 65_536, 100_000, 1 << 20, 3 << 20, (4 << 20) - 1)
    for n, act in [(n, act) for act in ACTS for n in places]:
        p.arm(Fault("up", n, act))
        with connect(w.port) as c:
            c.send(request("POST", "/x", [], b"y" * (4 << 20)))
            error(c.read_response("POST"), 502, "reset")
    assert up.complete == 0
    assert p.fired == 2 * len(places)
    with connect(w.port) as c:
        c.send(request("POST", "/x", [], b"y" * (4 << 20)))
        assert c.read_response("POST").status == 200


# ------------------------------------------------------------------------------------------------------- cut to pieces


def test_answers_in_pieces(start_upstream, start_proxy, start_weir):
    now = []
    up = start_upstream(lambda peer: now[0])
    p = start_proxy(up)
    config = base_config(p.url)
    for dialect in ("openai", "anthropic"):
        config["upstreams"][dialect] = {"url": p.url, "dialect": dialect}
        config["listeners"]["in"]["routes"].append({"path": f"/{dialect}", "upstream": dialect})
    w = start_weir(config)
    for name, form in FORMS_CUT.items():
        whole = Whole(form)
        form = form._replace(path=form.path if form.dialect == "plain" else f"/{form.dialect}{form.path}")
        now[:] = [form.raw]
        for p.piece in (1, 2, 7):
            r = ask(w, form, p.piece)
            assert r.clean and (r.status, r.body) == (whole.status, whole.body), (name, r)
    assert up.connections == 3, "whole answers leave their connection usable"


def test_garbage_at_every_byte(start_upstream, start_proxy, start_weir):
    """Other bytes in place of the rest of an answer."""
    form = FORMS_CUT["chunked"]
    whole = Whole(form)
    up, p, w = started(form, start_upstream, start_proxy, start_weir)
    wrong = []
    for n in range(whole.total):
        p.arm(Fault("down", n, b"\x00\xff\x01 zebra\r\n\r\n"))
        r = ask(w, form, n)
        if r.clean and not r.weir_reason:
            wrong.append((n, r))
        elif r.weir_reason and (r.status, r.weir_reason) not in ((502, "bad_response"), (502, "truncated"), (502, "reset")):
            wrong.append((n, r))
        elif not r.weir_reason and n < head_of(form.raw):
            wrong.append((n, r))
    assert not wrong, f"{len(wrong)} of {whole.total}: {wrong[:4]}"
