"""Limits in llm_tokens: what a call is charged, whatever form its usage comes in and however the call ends; what a
reservation holds meanwhile; and that neither costs a stream a byte or a moment.

What was charged is read as callers can: from x-ratelimit-remaining-tokens of the answers to a path that costs nothing. The
rate is one token an hour, so that no noise of the machine adds one.
"""
import contextlib
import gzip
import itertools
import json
import math
import random
import re
import threading
import time

import pytest

from harness import (SharedWeir, Upstream, base_config, connect, exchange, get, reply, request, run_weir, rss_kb_allowed, sanitized,
                     wait_until)
from llm import FORMS, MODELS, STREAMS, Gate, Llm, Usage, compressed, error_body, event, events, usage_chunk
from support import error_lines, families, in_parallel, parse_limit_field, routes

JSON = ("Content-Type", "application/json")
HEADERS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
INJECT = {"inject": True}
UNASKED = FORMS["chat stream"].ask(stream_options=None)
_ids = itertools.count()


def metered(up, dialect="openai", burst=100_000, *, usage=None, limit=None, **more):
    """One limit, `tokens`, over one upstream of that dialect."""
    limit = limit or {"rate": "1/h", "burst": burst}
    return base_config(up.port, agent={"dialect": dialect, "usage": usage or {}},
                       limits={"tokens": {"unit": "llm_tokens", **limit}}, route={"limits": ["tokens"]}, **more)


def go_duration(text):
    """Seconds of a Go duration as OpenAI writes them."""
    m = re.fullmatch(r"(?=.)(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", text)
    assert m, f"not a Go duration: {text!r}"
    h, minutes, s, ms = (float(g or 0) for g in m.groups())
    return h * 3600 + minutes * 60 + s + ms / 1000


class AccessLog:
    """The access log, read on from where it was read before."""

    def __init__(self, path):
        self.path, self.lines, self.size = path, {}, 0

    def line_of(self, correlation_id):
        def find():
            with open(self.path, "rb") as file:
                file.seek(self.size)
                more = file.read()
            more = more[:more.rfind(b"\n") + 1]
            self.size += len(more)
            self.lines.update((line["correlation_id"], line) for line in map(json.loads, more.splitlines()))
            return self.lines.get(correlation_id)

        return wait_until(find, f"the log line of {correlation_id}", every=0.001)


class Line:
    """One line of it, which may be yet to come."""

    def __init__(self, log, correlation_id):
        self.log, self.correlation_id = log, correlation_id

    def __getitem__(self, name):
        return self.log.line_of(self.correlation_id)[name]

    def get(self, *args):
        return self.log.line_of(self.correlation_id).get(*args)


class View:
    """A weir, the upstream before which it stands, and the tenant that the test is. Whatever else is asked of the weir."""

    def __init__(self, w, up, tenant="acme", log=None):
        self.weir, self.up, self.tenant, self.access = w, up, tenant, log or AccessLog(w.log_path)
        self.headers = [("X-Tenant-ID", tenant)]

    def __getattr__(self, name):
        return getattr(self.weir, name)

    def as_tenant(self, tenant):
        return View(self.weir, self.up, tenant, self.access)

    def call(self, form, body=None, headers=(), in_flight=0):
        """One call, until no more than so many are in flight; and its line of the access log, waited for when it is looked at."""
        name = fresh_id()
        raw = self.raw(form, form.ask() if body is None else body, [("X-Correlation-ID", name), *headers])
        r = exchange(self.port, raw)
        self.wait_metric("weir_in_flight", lambda count: count <= in_flight)
        return r, Line(self.access, name)

    def raw(self, form, body, headers=(), **kw):
        return request("POST", form.path, [*self.headers, JSON, *headers], body, **kw)


class Pool:
    """Weirs that many tests use, each with a tenant and a stub of its own; one for each dialect and `usage`."""

    def __init__(self, stack):
        self.stack, self.kept = stack, {}

    @contextlib.contextmanager
    def borrowed(self, handler, dialect="openai", **usage):
        key = json.dumps([dialect, usage])
        if key not in self.kept:
            current = {}
            up = self.stack.enter_context(Upstream(lambda peer: current["handler"](peer)))
            config = metered(up, dialect, usage=usage, metrics={"tenant_series": 10_000})
            self.kept[key] = current, up, self.stack.enter_context(SharedWeir(config))
        current, up, shared = self.kept[key]
        current["handler"] = handler
        up.clear()
        with shared.borrowed() as w:
            if current.get("weir") is not w:
                current.update(weir=w, log=AccessLog(w.log_path))
            yield View(w, up, fresh_id(), current["log"])
            assert not up.errors, up.errors


@pytest.fixture(scope="module")
def pool():
    with contextlib.ExitStack() as stack:
        yield Pool(stack)


@pytest.fixture
def shared(pool):
    """shared(handler, dialect, **usage) -> a View of a weir that others used before and others will use."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kw: stack.enter_context(pool.borrowed(*args, **kw))


@pytest.fixture
def alone(start_weir, start_upstream):
    """alone(handler, dialect, ...) -> a View of a weir for this test alone; see `metered`. `edit(config)` may change it."""
    def make(handler, *args, edit=None, **kw):
        up = start_upstream(handler)
        config = metered(up, *args, **kw)
        if edit:
            edit(config)
        view = View(start_weir(config), up)
        view.config = config
        return view

    return make


class Meter:
    """Reads what is left of the tenant's tokens; `spent` is the difference to what there was at first."""

    def __init__(self, view, target="/probe"):
        self.view, self.target = view, target
        self.full = self.left()

    def left(self):
        r = get(self.view.port, self.target, self.view.headers)
        assert r.status in (404, 429), r
        return int(r.header("x-ratelimit-remaining-tokens"))

    def spent(self):
        return self.full - self.left()

    def wait(self, tokens, in_flight=None):
        """Until exactly so many are spent or reserved since the beginning; when so many are in flight, where that is given."""
        if in_flight is not None:
            self.view.wait_metric("weir_in_flight", in_flight)
        last = []
        with contextlib.suppress(AssertionError):
            wait_until(lambda: last.append(self.spent()) or last[-1] == tokens, timeout=4)
            return
        raise AssertionError(f"charged {last[-1]}, not {tokens}")


def fresh_id():
    return f"call-{next(_ids)}"


def refusal(r):
    assert (r.status, r.weir_reason) == (429, "limit"), r
    assert re.fullmatch(r"[1-9]\d*", r.header("Retry-After")), r
    return int(r.header("retry-after-ms")) / 1000


def posts(up):
    return [q for q in up.requests if q.method == "POST"]


def estimate(body, max_tokens=0, per_token=4):
    return math.ceil(len(body) / per_token) + max_tokens


def strict_json(data):
    """JSON in which no member stands twice."""
    def pairs(members):
        assert len(dict(members)) == len(members), f"a member twice: {members}"
        return dict(members)

    return json.loads(data, object_pairs_hook=pairs)


# ------------------------------------------------------------------------------------------------- what a call is charged


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_usage_is_charged_exactly(shared, name):
    form = FORMS[name]
    usage = Usage(input=1234, output=0 if name == "embeddings" else 567)
    w = shared(Llm(usage), form.dialect)
    meter = Meter(w)
    r, line = w.call(form)
    assert r.status == 200 and r.clean
    meter.wait(usage.total)
    assert (line["tokens_in"], line.get("tokens_out") or 0, line["model"]) == (1234, usage.output, MODELS[form.dialect])
    for kind, count in (("input", 1234), ("cached", 0), ("output", usage.output)):
        w.wait_metric("weir_llm_tokens_total", count, upstream="agent", tenant=w.tenant, type=kind)
    assert w.metric("weir_llm_tokens_estimated_total", tenant=w.tenant) == 0
    w.call(form)
    meter.wait(2 * usage.total)


@pytest.mark.parametrize("name", FORMS)
def test_the_answer_arrives_as_it_was_sent(shared, name):
    form, llm = FORMS[name], Llm()
    w = shared(llm, form.dialect)
    r, _ = w.call(form)
    assert r.body == b"".join(llm.pieces(form.name, json.loads(form.ask()))[1])


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("split", [1, 7, 64])
def test_usage_cut_anywhere_between_reads(shared, name, split):
    if split == 1 and sanitized():
        split = 3
    usage = Usage(input=31, cached=17, output=0 if name == "embeddings" else 23)
    w = shared(Llm(usage, split=split), FORMS[name].dialect)
    meter = Meter(w)
    r, _ = w.call(FORMS[name])
    assert r.status == 200 and r.clean
    meter.wait(usage.total)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("name", ["chat", "chat stream", "messages stream", "responses stream"])
def test_every_framing(shared, name, framing):
    w = shared(Llm(Usage(50, output=5), framing=framing), FORMS[name].dialect)
    meter = Meter(w)
    r, _ = w.call(FORMS[name])
    assert r.clean
    meter.wait(55)


@pytest.mark.parametrize("name", FORMS)
def test_cached_tokens_are_counted_apart_and_weigh_what_they_should(shared, name):
    """input 100, cached 50 at 0.1, written to the cache 40 at 1.25 (Anthropic alone tells), output 20 at 4."""
    form = FORMS[name]
    usage = Usage(input=100, cached=50, cache_write=40 if form.name == "messages" else 0, output=20)
    if name == "embeddings":
        usage = Usage(input=100)
    weights = {"input": 1, "cached": 0.1, "cache_write": 1.25, "output": 4}
    w = shared(Llm(usage), form.dialect, weights=weights)
    meter = Meter(w)
    _, line = w.call(form)
    meter.wait(usage.input + usage.cached // 10 + usage.cache_write * 5 // 4 + usage.output * 4)
    w.wait_metric("weir_llm_tokens_total", usage.input + usage.cache_write, tenant=w.tenant, type="input")
    w.wait_metric("weir_llm_tokens_total", usage.cached, tenant=w.tenant, type="cached")
    w.wait_metric("weir_llm_tokens_total", usage.output, tenant=w.tenant, type="output")
    assert line.get("tokens_out", 0) == usage.output


def test_weights_of_zero(shared):
    w = shared(Llm(Usage(input=100, cached=50, output=20)), weights={"input": 0, "cached": 0, "output": 1})
    meter = Meter(w)
    w.call(FORMS["chat"])
    meter.wait(20)


def test_a_fraction_of_a_token_is_not_free(shared):
    """A hundred calls of half a token are fifty tokens, or one each where they are rounded up; never none."""
    w = shared(Llm(Usage(input=0, cached=1)), weights={"cached": 0.5})
    meter = Meter(w)
    for _ in range(10):
        w.call(FORMS["chat"])
    w.wait_metric("weir_in_flight", 0)
    assert 5 <= meter.spent() <= 10


MESSY = {
    "no space behind data:": lambda made: [e.replace(b"data: ", b"data:") for e in made],
    "CRLF": lambda made: [e.replace(b"\n", b"\r\n") for e in made],
    "CR": lambda made: [e.replace(b"\n", b"\r") for e in made],
    "comments": lambda made: [b": keep-alive\n\n" + e for e in made],
    "id and retry fields": lambda made: [b"id: 7\nretry: 10\n" + e for e in made],
    "data before event": lambda made: [b"\n".join(reversed(e.rstrip(b"\n").split(b"\n"))) + b"\n\n" for e in made],
    "pretty JSON in several data lines": lambda made: [
        e if b"[DONE]" in e else e.replace(b', "usage"', b',\ndata: "usage"') for e in made],
    "a byte order mark": lambda made: [b"\xef\xbb\xbf" + made[0], *made[1:]],
    "no empty line at the end": lambda made: [*made[:-1], made[-1].rstrip(b"\n") + b"\n"],
    "all in one piece": lambda made: [b"".join(made)],
    "a very long line": lambda made: [event({"choices": [], "x": "y" * 300_000}), *made],
}


@pytest.mark.parametrize("how", MESSY)
@pytest.mark.parametrize("name", STREAMS)
def test_sse_as_others_write_it(shared, name, how):
    form = FORMS[name]
    llm = Llm(Usage(input=200, output=30), transform=MESSY[how])
    w = shared(llm, form.dialect)
    meter = Meter(w)
    r, _ = w.call(form)
    assert r.body == b"".join(llm.pieces(form.name, json.loads(form.ask()))[1])
    meter.wait(230)


@pytest.mark.parametrize("kind", ["TEXT/EVENT-STREAM", "text/event-stream;charset=UTF-8", "text/event-stream ; x=y"])
def test_a_stream_by_other_spellings_of_its_type(shared, kind):
    w = shared(Llm(Usage(50, output=5), kind=kind), **INJECT)
    meter = Meter(w)
    r, _ = w.call(FORMS["chat stream"], UNASKED)
    assert r.clean and usage_chunk(Usage(50, output=5)) not in r.body
    meter.wait(55)


@pytest.mark.parametrize("kind", ["APPLICATION/JSON", "application/json; charset=utf-8"])
@pytest.mark.parametrize("name", ["chat", "messages"])
def test_json_by_other_spellings_of_its_type(shared, name, kind):
    w = shared(Llm(Usage(50, output=5), kind=kind), FORMS[name].dialect)
    meter = Meter(w)
    w.call(FORMS[name])
    meter.wait(55)


def cumulative(made):
    """As vLLM can: what was used so far stands in every chunk."""
    return [e.replace(b'"usage": null', b'"usage": {"prompt_tokens": 50, "completion_tokens": %d}' % n) for n, e in enumerate(made)]


def input_twice(made):
    """As Anthropic does now: message_delta repeats what message_start said."""
    more = b'"usage": {"input_tokens": 50, "cache_read_input_tokens": 0, "output_tokens":'
    return [e.replace(b'"usage": {"output_tokens":', more) for e in made]


def input_late(made):
    """As some servers do: what came in is known at the end alone."""
    return [e.replace(b'"input_tokens": 50,', b'"input_tokens": 0,') if b"message_start" in e else e for e in input_twice(made)]


def incomplete(made):
    return [e.replace(b"response.completed", b"response.incomplete") for e in made]


@pytest.mark.parametrize("name,how", [("chat stream", cumulative), ("messages stream", input_twice),
                                      ("messages stream", input_late), ("responses stream", incomplete)])
def test_the_last_value_counts_once(shared, name, how):
    w = shared(Llm(Usage(50, output=8), transform=how), FORMS[name].dialect)
    meter = Meter(w)
    w.call(FORMS[name])
    meter.wait(58)


def test_interim_answers_and_answers_without_a_body(shared):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    answer = b'{"usage": {"prompt_tokens": 50, "completion_tokens": 5}}'

    def handler(peer):
        if peer.request.method == "POST":
            return early * 3 + reply(200, answer, [JSON]) if peer.request.target.endswith("completions") else reply(204, b"")
        return reply(404, b"", length=peer.request.method != "HEAD")

    w = shared(handler)
    meter = Meter(w)
    w.call(FORMS["chat"])
    meter.wait(55)
    body = FORMS["chat"].ask()
    assert w.call(FORMS["embeddings"], body)[0].status == 204
    w.wait_metric("weir_in_flight", 0)
    assert 55 <= meter.spent() <= 55 + estimate(body)


def test_a_large_whole_answer_is_not_kept(shared):
    size = 40 << 20

    def handler(peer):
        if peer.request.method != "POST":
            return reply(404, b"")
        head, tail = b'{"choices": [{"message": {"content": "', b'"}}], "usage": {"prompt_tokens": 50, "completion_tokens": 5}}'
        peer.send(reply(200, b"", [JSON, ("Content-Length", len(head) + size + len(tail))], length=False) + head)
        for _ in range(size >> 20):
            peer.send(b"x" * (1 << 20))
        peer.send(tail)

    w = shared(handler)
    meter = Meter(w)
    before = w.rss_kb()
    r, _ = w.call(FORMS["chat"])
    assert r.clean and len(r.body) > size
    meter.wait(55)
    assert w.rss_kb() - before < rss_kb_allowed(12)


def test_json_with_space_and_members_in_any_order(shared):
    answer = json.dumps({"usage": {"completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0},
                                   "total_tokens": 10, "prompt_tokens": 7},
                         "choices": [{"message": {"content": '{"usage":{"prompt_tokens":999}}', "usage": {
                             "prompt_tokens": 999}}}], "extra": {"usage": {"prompt_tokens": 999}}}, indent=4).encode()
    w = shared(lambda p: reply(200, answer, [JSON]) if p.request.method == "POST" else reply(404, b""))
    meter = Meter(w)
    w.call(FORMS["chat"])
    meter.wait(10)


def test_numbers_no_provider_would_report(shared):
    """Whatever stands there: weir lives, the answer is unchanged, and the tenant gains no tokens from it."""
    bad = [-5, 1e400, 2**63, 10**40, 1.5, "12", None, True, [], {}]
    texts = [f'{{"choices": [], "usage": {{"prompt_tokens": {n}, "completion_tokens": {n}}}}}'.encode()
             for n in (json.dumps(b).replace("Infinity", "1e999") for b in bad)]
    turn = iter(texts)
    w = shared(lambda p: reply(200, next(turn), [JSON]) if p.request.method == "POST" else reply(404, b""))
    for n, text in enumerate(texts):
        view = w.as_tenant(fresh_id())
        meter = Meter(view)
        r, _ = view.call(FORMS["chat"])
        assert r.status == 200 and r.body == text, r
        w.wait_metric("weir_in_flight", 0)
        assert meter.spent() >= 0, text


# --------------------------------------------------------------------------------------------------- where no usage comes


def test_without_usage_a_stream_is_charged_by_its_bytes_and_marked(shared):
    llm = Llm(Usage(1000, output=1000), words=("x" * 100, "y" * 100))
    w = shared(llm, estimate=5)
    meter = Meter(w)
    body = FORMS["chat stream"].ask("z" * 321, stream_options=None)
    _, line = w.call(FORMS["chat stream"], body)
    tokens_in, tokens_out = estimate(body, per_token=5), 40
    meter.wait(tokens_in + tokens_out)
    assert (line["tokens_in"], line["tokens_out"]) == (tokens_in, tokens_out)
    for kind, count in (("input", tokens_in), ("output", tokens_out)):
        w.wait_metric("weir_llm_tokens_total", count, upstream="agent", tenant=w.tenant, type=kind)
        w.wait_metric("weir_llm_tokens_estimated_total", count, upstream="agent", tenant=w.tenant, type=kind)


@pytest.mark.parametrize("name", FORMS)
def test_without_usage_something_is_charged(shared, name):
    form = FORMS[name]
    w = shared(Llm(None, words=("a" * 400,)), form.dialect)
    meter = Meter(w)
    body = form.ask("b" * 400)
    w.call(form, body)
    w.wait_metric("weir_in_flight", 0)
    spent = meter.spent()
    assert estimate(body) <= spent <= estimate(body) + 110
    assert w.metric("weir_llm_tokens_estimated_total", tenant=w.tenant) == spent


def test_a_plain_upstream_is_charged_by_bytes(shared):
    w = shared(lambda p: reply(200, b"x" * 1000) if p.request.method == "POST" else reply(404, b""), "plain")
    meter = Meter(w)
    body = b"y" * 402
    w.call(FORMS["chat"], body)
    meter.wait(101 + 250)


def test_what_is_no_call_of_a_model_costs_next_to_nothing(shared):
    w = shared(lambda p: reply(200, b'{"object": "list", "data": [{"id": "gpt-5"}]}', [JSON])
              if p.request.target == "/v1/models" else reply(404, b""))
    meter = Meter(w)
    for _ in range(5):
        assert get(w.port, "/v1/models", w.headers).status == 200
    w.wait_metric("weir_in_flight", 0)
    assert meter.spent() <= 5


# ----------------------------------------------------------------------------------------------- answers that are no answer


@pytest.mark.parametrize("name", ["chat", "chat stream", "responses stream", "messages", "messages stream", "embeddings"])
@pytest.mark.parametrize("status", [400, 401, 429, 500, 503, 529])
def test_an_error_of_the_upstream_costs_nothing(shared, name, status):
    form = FORMS[name]
    w = shared(Llm(status=status), form.dialect)
    meter = Meter(w)
    r, _ = w.call(form, form.ask(max_tokens=5000))
    assert r.status == status and r.body == error_body(form.name, status)
    assert posts(w.up)
    meter.wait(0, in_flight=0)
    assert w.metric("weir_llm_tokens_total", tenant=w.tenant) == 0


@pytest.mark.parametrize("how", ["refused", "closed", "reset", "timeout", "no http"])
def test_no_answer_costs_nothing(alone, how):
    def handler(peer):
        if peer.request.method != "POST":
            return reply(404, b"")
        if how == "no http":
            return b"nonsense\r\n\r\n"
        return {"closed": peer.close, "reset": peer.reset, "timeout": peer.wait_gone}[how]()

    def edit(config):
        agent = config["upstreams"]["agent"]
        config["upstreams"]["probed"] = {"url": agent["url"]}
        config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["tokens"], "upstream": "probed"}),
                                                     ("/v1", {"limits": ["tokens"]}))
        agent["timeouts"] = {"first_byte": "200ms"}
        if how == "refused":
            agent["url"] = "unix:///nonexistent/llm.sock"

    w = alone(handler, edit=edit)
    meter = Meter(w)
    r, _ = w.call(FORMS["chat"], FORMS["chat"].ask(max_tokens=5000))
    assert r.status in (502, 504)
    meter.wait(0, in_flight=0)


def test_a_body_too_large_costs_nothing(alone):
    w = alone(Llm(), server={"max_body": "1KiB"})
    meter = Meter(w)
    r, _ = w.call(FORMS["chat"], FORMS["chat"].ask("x" * 2000))
    assert (r.status, r.weir_reason) == (413, "body_too_large")
    meter.wait(0, in_flight=0)
    assert not posts(w.up)


def test_a_caller_who_never_finishes_his_body_costs_nothing(alone, connect):
    w = alone(Llm(), server={"timeouts": {"body": "300ms"}})
    meter = Meter(w)
    c = connect(w.port)
    c.send(w.raw(FORMS["chat"], FORMS["chat"].ask(max_tokens=5000))[:-10])
    r = c.read_response("POST")
    assert (r.status, r.weir_reason) == (408, "timeout_client")
    meter.wait(0, in_flight=0)
    assert not posts(w.up)


# ----------------------------------------------------------------------------------------------------- streams that are cut


def begun(w, form, llm, pieces, body=None, headers=()):
    """A connection on which the first so many pieces of the answer have come."""
    gate = llm.before = Gate()
    c = connect(w.port)
    c.send(w.raw(form, form.ask() if body is None else body, headers))
    if pieces:
        gate.open(pieces + 1)
        assert c.read_head().status == 200
        asked = json.loads(form.ask() if body is None else body)
        for piece in llm.pieces(form.name, asked)[1][:pieces]:
            c.recv_until(piece)
    return c, gate


LEAVE = {"close": lambda c: c.close(), "reset": lambda c: c.reset(), "half_close": lambda c: c.half_close()}


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("name", ["chat stream", "messages", "messages stream"])
def test_a_caller_who_leaves_before_the_first_byte_pays_nothing(shared, name, how):
    form, llm = FORMS[name], Llm()
    w = shared(llm, form.dialect)
    meter = Meter(w)
    body = form.ask(max_tokens=5000)
    c, gate = begun(w, form, llm, 0, body)
    with c:
        meter.wait(estimate(body, 5000))
        w.up.wait(lambda u: posts(u))
        LEAVE[how](c)
        meter.wait(0, in_flight=0)
    gate.open_all()
    w.wait_metric("weir_in_flight", 0)
    meter.wait(0, in_flight=0)


@pytest.mark.parametrize("who", [*LEAVE, "upstream"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_cut_pays_for_what_was_seen(shared, name, who):
    """Two texts of 400 bytes have come of a hundred; of the reservation all the rest is given back."""
    form = FORMS[name]
    llm = Llm(Usage(input=321, output=9000), words=("w" * 400,) * 100)
    lead = next(n for n, piece in enumerate(llm.pieces(form.name, json.loads(form.ask()))[1]) if b"wwww" in piece)
    w = shared(llm, form.dialect)
    meter = Meter(w)
    body = form.ask("v" * 1000, max_tokens=20_000)
    c, gate = begun(w, form, llm, lead + 2, body)
    with c:
        meter.wait(estimate(body, 20_000))
        if who == "upstream":
            llm.cut = lead + 3
            gate.open_all()
            assert c.recv_to_end()
        else:
            LEAVE[who](c)
        w.wait_metric("weir_in_flight", 0)
    gate.open_all()
    tokens_in = 321 if form.name == "messages" else estimate(body)
    wait_until(lambda: meter.spent() < 20_000, "the reservation to be released", timeout=4)
    assert tokens_in + 1 <= meter.spent() <= tokens_in + 200 + 1
    line = w.wait_log(tenant=w.tenant, method="POST")
    assert line["tokens_in"] == tokens_in and 1 <= line["tokens_out"] <= 201


def test_usage_that_came_before_the_cut_is_what_counts(shared):
    """Anthropic's last message_delta has been seen; then the upstream breaks off."""
    llm = Llm(Usage(input=70, output=30))
    pieces = llm.pieces("messages", {"stream": True})[1]
    llm.cut = len(pieces)  # in place of message_stop
    w = shared(llm, "anthropic")
    meter = Meter(w)
    r, line = w.call(FORMS["messages stream"])
    assert not r.clean
    meter.wait(100)
    assert (line["tokens_in"], line["tokens_out"]) == (70, 30)


# ------------------------------------------------------------------------------------------------------------ reservations


def test_a_reservation_counts_while_it_is_in_flight(alone):
    llm = Llm(Usage(input=20, output=30))
    w = alone(llm, burst=1000)
    meter, form = Meter(w), FORMS["chat stream"]
    body = form.ask(max_tokens=600)
    c, gate = begun(w, form, llm, 2, body)
    with c:
        meter.wait(estimate(body, 600))
        r, line = w.call(form, body, in_flight=1)
        refusal(r)
        assert (line["reason"], line["limit"]) == ("limit", "tokens")
        assert int(r.header(HEADERS[0])) == 1000 and int(r.header(HEADERS[1])) == 1000 - estimate(body, 600)
        assert len(posts(w.up)) == 1
        gate.open_all()
        c.recv_until(b"0\r\n\r\n")
    meter.wait(50)
    assert w.call(form, body)[0].status == 200
    meter.wait(100)


@pytest.mark.parametrize("name,member", [("chat", "max_tokens"), ("chat", "max_completion_tokens"), ("messages", "max_tokens"),
                                         ("responses", "max_output_tokens"), ("chat stream", "max_completion_tokens")])
@pytest.mark.parametrize("per_token", [1, 4, 7])
def test_the_estimate(shared, name, member, per_token):
    form, llm = FORMS[name], Llm()
    w = shared(llm, form.dialect, estimate=per_token)
    meter = Meter(w)
    body = form.ask("é" * 500, **{member: 777})
    c, gate = begun(w, form, llm, 0, body)
    with c:
        meter.wait(estimate(body, 777, per_token))
        gate.open_all()
        assert c.read_response("POST").status == 200
    meter.wait(120)


def test_a_first_call_always_fits(alone):
    """The estimate is capped at the limit itself; and such a call has the bucket for itself."""
    llm = Llm(Usage(input=5, output=5))
    w = alone(llm, burst=500)
    form = FORMS["chat"]
    for n, tokens in enumerate([501, 10**6, 2**31, 2**63 - 1, 2**63, 2**64, 10**30]):
        view = w.as_tenant(f"t{n}")
        meter = Meter(view)
        llm.before = gate = Gate()
        with connect(w.port) as c:
            seen = len(posts(w.up))
            w.wait_metric("weir_in_flight", 0)
            c.send(view.raw(form, form.ask(max_tokens=tokens)))
            w.up.wait(lambda u: len(posts(u)) > seen)
            wait_until(lambda: get(w.port, "/probe", view.headers).status == 429, "the whole bucket to be reserved")
            gate.open_all()
            assert c.read_response("POST").status == 200, tokens
        meter.wait(10)
        refusal(view.call(form, form.ask(max_tokens=tokens))[0])


def test_a_body_over_the_limit_fits_a_first_time(alone):
    w = alone(Llm(Usage(input=5, output=5)), burst=500)
    assert w.call(FORMS["chat"], FORMS["chat"].ask("x" * 100_000))[0].status == 200


@pytest.mark.parametrize("tokens", [-1, -10**30, 0, 1.5, 1e3, "600", None, True, [600], {"max_tokens": 600}])
def test_max_tokens_that_is_no_count_breaks_nothing(shared, tokens):
    w = shared(Llm(Usage(input=5, output=5)))
    meter = Meter(w)
    body = json.dumps({"model": "gpt-5", "max_tokens": tokens}).encode()
    r, _ = w.call(FORMS["chat"], body)
    assert r.status == 200 and posts(w.up)[0].body == body
    meter.wait(10)


def test_what_fits_exactly_fits(alone):
    llm = Llm(lambda asked: Usage(input=asked["n_in"]))
    w = alone(llm, burst=1000)
    meter, form = Meter(w), FORMS["chat"]
    w.call(form, form.ask(n_in=400))
    meter.wait(400)

    def sized(total):
        base = form.ask(n_in=100, max_tokens=100)
        return form.ask(n_in=100, max_tokens=100 + total - estimate(base, 100))

    assert estimate(sized(601), 0) + json.loads(sized(601))["max_tokens"] == 601
    w.wait_metric("weir_in_flight", 0)
    refusal(w.call(form, sized(601))[0])
    assert w.call(form, sized(600))[0].status == 200
    meter.wait(500)


def test_a_debt_delays_the_next(alone):
    llm = Llm(Usage(input=5000))
    w = alone(llm, limit={"rate": "3600/h", "burst": 1000})
    form = FORMS["chat"]
    assert w.call(form)[0].status == 200
    r, _ = w.call(form)
    wait = refusal(r)
    assert 3900 <= wait <= 4000 + estimate(form.ask()) + 1, "4000 in debt, and its own estimate, at one a second"
    assert r.header("x-should-retry") == "false"
    assert int(r.header(HEADERS[1])) == 0 and go_duration(r.header(HEADERS[2])) >= wait - 1
    assert len(posts(w.up)) == 1


def test_a_debt_that_is_paid_off(alone):
    """A retry when told is admitted, and none before the debt is paid."""
    llm = Llm(Usage(input=1600))
    w = alone(llm, limit={"rate": "1000/s", "burst": 1000})
    form = FORMS["chat"]
    begin = time.monotonic()
    assert w.call(form)[0].status == 200
    r, _ = w.call(form)
    if r.status == 200:
        assert time.monotonic() - begin >= 0.6, "admitted in debt"
        return
    time.sleep(refusal(r))
    assert w.call(form)[0].status == 200
    assert time.monotonic() - begin >= 0.6


def test_what_is_refused_reserves_nothing_and_takes_nothing_from_others(alone):
    def edit(config):
        config["limits"]["calls"] = {"algorithm": "sliding_window", "limit": 2, "window": "1h"}
        config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["tokens"]}), ("/v1", {"limits": ["tokens", "calls"]}))

    w = alone(Llm(Usage(input=10)), burst=1000, edit=edit)
    meter, form = Meter(w), FORMS["chat"]
    for _ in range(2):
        assert w.call(form)[0].status == 200
    for _ in range(20):
        r, line = w.call(form, form.ask(max_tokens=300))
        refusal(r)
        assert line["limit"] == "calls"
    meter.wait(20)


def test_tokens_that_refuse_take_no_calls(alone):
    def edit(config):
        config["limits"]["calls"] = {"algorithm": "sliding_window", "limit": 9, "window": "1h"}
        config["listeners"]["in"]["routes"][0]["limits"] = ["calls", "tokens"]

    w = alone(Llm(Usage(input=990)), burst=1000, edit=edit)
    form = FORMS["chat"]
    assert w.call(form)[0].status == 200
    for _ in range(20):
        r, line = w.call(form)
        refusal(r)
        assert line["limit"] == "tokens"
    [(name, state)] = parse_limit_field(r.header("RateLimit"))
    assert name == "calls" and state["r"] == 8


def test_twenty_streams_at_once(alone):
    """Each reserves 100; the budget is 2000: twenty of thirty begin, and whatever each then uses, the sum is over the budget
    by at most what they used over their reservations. Then nobody begins until the debt is paid."""
    gate = Gate()
    llm = Llm(Usage(input=100, output=100), before=gate)
    w = alone(llm, burst=2000)
    form = FORMS["chat stream"]
    body = form.ask(max_tokens=0)
    body = form.ask(max_tokens=100 - estimate(form.ask(max_tokens=10)))
    assert estimate(body, json.loads(body)["max_tokens"]) == 100
    conns = [connect(w.port) for _ in range(30)]
    with contextlib.ExitStack() as stack:
        for c in conns:
            stack.enter_context(c)
            c.send(w.raw(form, body))
        w.up.wait(lambda u: len(posts(u)) >= 20)
        wait_until(lambda: sum(c.readable(0) for c in conns) == 10, "ten to be refused")
        gate.open_all()
        statuses = [c.read_response("POST").status for c in conns]
    assert sorted(statuses) == [200] * 20 + [429] * 10 and len(posts(w.up)) == 20
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_llm_tokens_total", 4000, tenant="acme")
    r, _ = w.call(form, body)
    assert refusal(r) >= 2000 * 3600 - 60


def test_streams_that_are_cut_give_back_what_they_did_not_use(alone):
    """Four rounds of twenty streams that reserve most of the budget together, and are cut."""
    llm = Llm(words=("w" * 8,) * 50)
    w = alone(llm, burst=24_000)
    meter, form = Meter(w), FORMS["chat stream"]
    body = form.ask(max_tokens=900)
    for turn in range(1, 5):
        rest = threading.Event()
        llm.before = lambda n, rest=rest: n < 2 or rest.wait(30)
        conns = [connect(w.port) for _ in range(20)]
        for c in conns:
            c.send(w.raw(form, body))
        for c in conns:
            assert c.read_head().status == 200
            c.recv_until(b"wwwwwwww")
        for c in conns:
            random.choice(list(LEAVE.values()))(c)
        w.wait_metric("weir_in_flight", 0)
        for c in conns:
            c.close()
        rest.set()
        assert meter.spent() <= turn * 20 * (estimate(body) + 4), "a reservation leaked"
    assert w.metric("weir_limit_decisions_total", tenant="acme", decision="refused") == 0


def test_random_ends_leave_exactly_what_was_used(alone):
    llm = Llm(lambda asked: Usage(input=asked["n_in"], output=asked["n_out"]))
    w = alone(llm, burst=800_000, server={"workers": 4})
    meter = Meter(w)

    def work(number):
        dice, used = random.Random(number), 0
        for _ in range(12):
            form = FORMS[dice.choice(["chat", "chat stream", "responses stream"])]
            n_in, n_out = dice.randrange(500), dice.randrange(500)
            body = form.ask("x" * dice.randrange(2000), n_in=n_in, n_out=n_out, max_tokens=dice.choice([None, 10, 9000]))
            r = exchange(w.port, w.raw(form, body))
            assert r.status == 200 and r.clean
            used += n_in + n_out
        return used

    meter.wait(sum(in_parallel(6, work)))


def test_a_reload_in_the_middle_of_a_stream(alone):
    llm = Llm(Usage(input=300, output=100))
    w = alone(llm, burst=10_000)
    config = w.config
    meter, form = Meter(w), FORMS["chat stream"]
    body = form.ask(max_tokens=2000)
    c, gate = begun(w, form, llm, 2, body)
    with c:
        meter.wait(estimate(body, 2000))
        config["limits"]["tokens"]["burst"] = 8000
        w.reload(config)
        assert meter.full - meter.left() == estimate(body, 2000) + 2000, "a reservation that a reload forgot"
        gate.open_all()
        c.recv_until(b"0\r\n\r\n")
    meter.wait(400 + 2000)


@pytest.mark.parametrize("change", [
    {"unit": "requests", "rate": "1/h", "burst": 100}, {"key": []}, {"algorithm": "concurrency", "limit": 9, "unit": "requests"},
    {"algorithm": "sliding_window", "limit": 10_000, "window": "1h"}, None])
def test_a_limit_that_becomes_another_under_a_reservation(alone, change):
    llm = Llm(Usage(input=300, output=100))
    w = alone(llm, burst=10_000)
    config = w.config
    form = FORMS["chat stream"]
    c, gate = begun(w, form, llm, 2, form.ask(max_tokens=2000))
    with c:
        old = config["limits"]["tokens"]
        if change is None:
            config["limits"], config["listeners"]["in"]["routes"][0]["limits"] = {}, []
        else:
            keep = {k: v for k, v in old.items() if k not in ("rate", "burst") or "algorithm" not in change}
            config["limits"]["tokens"] = {**keep, **change}
        w.reload(config)
        gate.open_all()
        c.recv_until(b"0\r\n\r\n")
    w.wait_metric("weir_in_flight", 0)
    config["limits"], config["listeners"]["in"]["routes"][0]["limits"] = {"tokens": old}, ["tokens"]
    w.reload(config)
    assert 9500 <= Meter(w.as_tenant("new")).full <= 10_000
    assert 9500 <= Meter(w).full <= 10_000, "a reservation was left behind"


def test_a_full_table_of_reservations(alone):
    """Who has a reservation is not forgotten; those who share a bucket give back what they reserved."""
    rest = threading.Event()
    llm = Llm(Usage(input=1), before=lambda _: rest.wait(30))
    w = alone(llm, limit={"rate": "1/h", "burst": 1000, "max_keys": 16})
    form = FORMS["chat"]
    body = form.ask(max_tokens=900)
    conns = [connect(w.port) for _ in range(60)]
    with contextlib.ExitStack() as stack:
        for n, c in enumerate(conns):
            stack.enter_context(c)
            c.send(w.as_tenant(f"t{n}").raw(form, body))
        wait_until(lambda: len(posts(w.up)) + sum(c.readable(0) for c in conns) == 60, "all to be decided")
        assert 17 <= len(posts(w.up)) <= 33
        rest.set()
        statuses = [c.read_response("POST").status for c in conns]
    assert statuses.count(200) == len(posts(w.up)) and set(statuses) == {200, 429}
    w.wait_metric("weir_in_flight", 0)
    for n in range(60):
        assert w.as_tenant(f"u{n}").call(form, body)[0].status == 200


@pytest.mark.parametrize("precision", ["slots", "exact"])
def test_a_window_of_tokens(alone, precision):
    llm = Llm(Usage(input=300, output=33))
    limit = {"algorithm": "sliding_window", "limit": 1000, "window": "1h", "precision": precision}
    w = alone(llm, limit=limit)
    meter, form = Meter(w), FORMS["messages stream"]
    form = FORMS["chat stream"]
    for n in (1, 2, 3):
        assert w.call(form)[0].status == 200
        meter.wait(333 * n)
    r, _ = w.call(form)
    assert 3500 <= refusal(r) <= 3660
    assert len(posts(w.up)) == 3


def test_two_limits_and_a_tenant_of_its_own(alone):
    """Both are charged; the headers tell of the tightest."""
    def edit(config):
        config["limits"]["day"] = {"unit": "llm_tokens", "rate": "1/h", "burst": 2000, "key": []}
        config["listeners"]["in"]["routes"][0]["limits"] = ["tokens", "day"]

    w = alone(Llm(Usage(input=100)), limit={"rate": "1/h", "burst": 1000, "tenants": {"acme": {"burst": 5000}}}, edit=edit)
    form = FORMS["chat"]
    for tenant, size, left in (("acme", 2000, 1899), ("other", 1000, 899)):
        view = w.as_tenant(tenant)
        view.call(form)
        r = get(w.port, "/probe", view.headers)
        assert int(r.header(HEADERS[0])) == size and abs(int(r.header(HEADERS[1])) - left) <= 1, (tenant, r)


def test_a_rate_of_zero_refuses_all(alone):
    w = alone(Llm(), limit={"rate": "1/h", "burst": 1000, "tenants": {"acme": {"rate": "0/s"}}})
    r, _ = w.call(FORMS["chat"])
    assert refusal(r) == 3600 and r.header("x-should-retry") == "false" and not posts(w.up)


def test_shadow_admits_counts_and_charges(alone):
    w = alone(Llm(Usage(input=600)), limit={"rate": "1/h", "burst": 1000, "mode": "shadow"})
    for _ in range(4):
        assert w.call(FORMS["chat"], FORMS["chat"].ask(max_tokens=500))[0].status == 200
    assert w.metric("weir_limit_decisions_total", limit="tokens", tenant="acme", decision="shadow_refused") >= 2
    assert w.metric("weir_limit_decisions_total", limit="tokens", decision="refused") == 0


# -------------------------------------------------------------------------------------------------------------- usage asked


def without_limits(config):
    config["listeners"]["in"]["routes"][0]["limits"] = []


def seen_by_the_upstream(up):
    q = posts(up)[-1]
    assert q.complete and (q.framing != "length" or q.length == len(q.body))
    return strict_json(q.body)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("split", [None, 1, 50])
def test_inject_asks_and_takes_the_chunk_out_again(shared, split, framing):
    split = 3 if split == 1 and sanitized() else split
    usage = Usage(input=41, cached=9, output=7)
    w = shared(Llm(usage, split=split, framing=framing), **INJECT)
    meter = Meter(w)
    r, line = w.call(FORMS["chat stream"], UNASKED)
    assert r.clean and r.body == b"".join(e for e in events("chat", usage) if e != usage_chunk(usage))
    assert seen_by_the_upstream(w.up) == {**json.loads(UNASKED), "stream_options": {"include_usage": True}}
    meter.wait(57)
    assert line["tokens_out"] == 7
    assert w.metric("weir_llm_tokens_estimated_total", tenant=w.tenant) == 0


def test_inject_costs_no_event_a_moment(shared, connect):
    usage = Usage(input=41, output=7)
    llm = Llm(usage)
    w = shared(llm, **INJECT)
    gate = llm.before = Gate()
    c = connect(w.port)
    c.send(w.raw(FORMS["chat stream"], UNASKED))
    gate.open()
    assert c.read_head().status == 200
    for one in events("chat", usage):
        gate.open()
        if one != usage_chunk(usage):
            assert c.recv_until(one).endswith(one)
    gate.open()
    c.recv_until(b"0\r\n\r\n")


@pytest.mark.parametrize("inject", [True, False])
def test_who_asks_for_usage_himself_gets_it(shared, inject):
    usage = Usage(input=41, output=7)
    w = shared(Llm(usage), inject=inject)
    body = FORMS["chat stream"].ask()
    r, _ = w.call(FORMS["chat stream"], body)
    assert r.body == b"".join(events("chat", usage)) and posts(w.up)[0].body == body


@pytest.mark.parametrize("options", [{"include_usage": False}, {}, {"include_obfuscation": False},
                                     {"include_obfuscation": True, "include_usage": False}, None])
def test_inject_and_other_stream_options(shared, options):
    """What else the caller said stays; whether or not weir asks, the caller sees no usage chunk."""
    usage = Usage(input=41, output=7)
    w = shared(Llm(usage), **INJECT)
    body = json.dumps({"model": "gpt-5", "stream_options": options, "stream": True, "messages": []}).encode()
    r, _ = w.call(FORMS["chat stream"], body)
    asked = seen_by_the_upstream(w.up)
    assert {k: v for k, v in (asked["stream_options"] or {}).items() if k != "include_usage"} == {
        k: v for k, v in (options or {}).items() if k != "include_usage"}
    wanted = bool((asked["stream_options"] or {}).get("include_usage"))
    assert r.clean and r.body == b"".join(e for e in events("chat", usage, asked=wanted) if e != usage_chunk(usage))


@pytest.mark.parametrize("body", [
    b'{"stream": true}', b' \r\n{\t"stream"\n:\ttrue}  \r\n', b'{"stream":true,"model":"a"}',
    b'{"a":{"stream":false},"stream":true}',
    b'{"messages":[{"content":"} ,{ \\"stream\\": false"}],"stream":true}', b'{"\\u0073tream":true}',
    '{"stream":true,"x":"wörld"}'.encode()])
def test_inject_keeps_every_other_byte_of_the_body(shared, body):
    """Taking out what was put in gives the caller's own bytes."""
    w = shared(Llm(), **INJECT)
    assert w.call(FORMS["chat stream"], body)[0].status == 200
    sent = posts(w.up)[0].body
    asked = seen_by_the_upstream(w.up)
    assert asked.pop("stream_options") == {"include_usage": True} and asked == json.loads(body)
    assert sorted(re.sub(rb',?"stream_options":\s*\{"include_usage":\s*true\},?', b"", sent)) in (
        sorted(body), sorted(body.replace(b",", b"", 1)))


@pytest.mark.parametrize("name,body", [
    ("chat", None), ("chat stream", b'{"stream": false}'), ("chat stream", b'{"stream": "true"}'),
    ("chat stream", b'{"a": {"stream": true}}'), ("responses stream", None), ("embeddings", None)])
def test_inject_leaves_alone_what_is_no_chat_stream(shared, name, body):
    llm = Llm()
    w = shared(llm, **INJECT)
    form = FORMS[name]
    body = form.ask() if body is None else body
    r, _ = w.call(form, body)
    assert posts(w.up)[0].body == body
    assert r.body == b"".join(llm.pieces(form.name, json.loads(body))[1])


def test_inject_leaves_alone_what_is_not_json(shared):
    w = shared(lambda p: reply(200, b"ok"), **INJECT)
    for body in (b"", b"stream=true", b'{"stream": true', b'["stream", true]', b'"stream"', b"\xff\xfe", b'{"stream":true}}',
                 gzip.compress(UNASKED)):
        w.call(FORMS["chat stream"], body)
        assert posts(w.up)[-1].body == body


def test_inject_is_for_openai_alone():
    for dialect in ("anthropic", "plain"):
        config = base_config(1, agent={"dialect": dialect, "usage": INJECT})
        done = run_weir("--check", config=config)
        assert done.returncode in (0, 2)
        if done.returncode == 2:
            assert any(rest.startswith("upstreams.agent") for _, _, rest in error_lines("weir.yaml", done.stderr + done.stdout))


def test_inject_without_a_limit(alone):
    usage = Usage(input=41, output=7)
    w = alone(Llm(usage), usage=INJECT, edit=without_limits)
    r, line = w.call(FORMS["chat stream"], UNASKED)
    assert r.clean and usage_chunk(usage) not in r.body and r.body.endswith(b"[DONE]\n\n")
    assert (line["tokens_in"], line["tokens_out"], line["model"]) == (41, 7, "gpt-5")
    w.wait_metric("weir_llm_tokens_total", 48, upstream="agent", tenant="acme")
    assert HEADERS[0] not in r.headers


def test_inject_where_the_upstream_does_not_know_it(shared):
    w = shared(Llm(ignores=True, words=("x" * 40,)), **INJECT)
    meter = Meter(w)
    r, _ = w.call(FORMS["chat stream"], UNASKED)
    assert r.body == b"".join(events("chat", None, ("x" * 40,), asked=False))
    w.wait_metric("weir_in_flight", 0)
    assert meter.spent() > 0 and w.metric("weir_llm_tokens_estimated_total", tenant=w.tenant) > 0


def test_inject_keeps_a_chunk_that_says_more_than_usage(shared):
    """Some servers put usage into the chunk that ends the choice: nothing of it is extra."""
    last = event({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                  "usage": {"prompt_tokens": 41, "completion_tokens": 7, "total_tokens": 48}})
    made = [event({"id": "c1", "choices": [{"index": 0, "delta": {"content": "x"}}], "usage": None}), last, event(b"[DONE]")]
    w = shared(Llm(transform=lambda _: made), **INJECT)
    meter = Meter(w)
    r, _ = w.call(FORMS["chat stream"], UNASKED)
    assert r.body == b"".join(made)
    meter.wait(48)


def test_inject_keeps_what_others_write_into_a_stream(shared):
    usage = Usage(input=41, output=7)
    for n, how in enumerate(("no space behind data:", "CRLF", "comments", "all in one piece", "id and retry fields")):
        made = events("chat", usage, ("a", "b"))
        extra = MESSY[how]([usage_chunk(usage)])[0]
        w = shared(Llm(usage, ("a", "b"), transform=MESSY[how]), **INJECT)
        r, line = w.call(FORMS["chat stream"], UNASKED)
        without = b"".join(MESSY[how]([e for e in made if e != usage_chunk(usage)]))
        with_comment = b"".join(MESSY[how](made)).replace(extra, b": keep-alive\n\n")
        assert r.clean and r.body in (without, with_comment), how
        assert line["tokens_out"] == 7, how


@pytest.mark.parametrize("cut", ["extra", "done", "middle"])
def test_inject_and_a_stream_that_breaks_off(shared, cut):
    """Never a clean end, and no byte is held back that was not the extra chunk's."""
    usage = Usage(input=41, output=7)
    made = events("chat", usage)
    llm = Llm(usage, cut={"extra": len(made) - 1, "done": len(made), "middle": 3}[cut])
    w = shared(llm, **INJECT)
    r, _ = w.call(FORMS["chat stream"], UNASKED)
    assert not r.clean
    kept = b"".join(e for e in made[:llm.cut - 1] if e != usage_chunk(usage))
    assert r.body.startswith(kept) and b'"choices": []' not in r.body


def test_inject_and_an_error(shared):
    w = shared(Llm(status=400), **INJECT)
    r, _ = w.call(FORMS["chat stream"], UNASKED)
    assert r.status == 400 and r.body == error_body("chat", 400)


def test_inject_an_old_caller(shared, connect):
    usage = Usage(input=41, output=7)
    w = shared(Llm(usage), **INJECT)
    c = connect(w.port)
    c.send(w.raw(FORMS["chat stream"], UNASKED, version="1.0"))
    r = c.read_response("POST")
    assert r.clean and r.end != "chunked" and r.body == b"".join(e for e in events("chat", usage) if e != usage_chunk(usage))


def test_inject_into_a_body_of_max_body(alone):
    w = alone(Llm(), usage=INJECT, server={"max_body": "64KiB"})
    body = FORMS["chat stream"].ask("x" * (65536 - len(UNASKED) + 2), stream_options=None)
    assert len(body) == 65536
    r, _ = w.call(FORMS["chat stream"], body)
    assert r.status == 200 and seen_by_the_upstream(w.up)["stream_options"] == {"include_usage": True}


def test_inject_many_on_one_connection(shared, connect):
    """Requests and answers of changed length stay in step, also pipelined and with a chunked body."""
    usage = Usage(input=41, output=7)
    w = shared(Llm(usage), **INJECT)
    c = connect(w.port)
    plain = FORMS["chat"].ask("between")
    for _ in range(3):
        c.send(w.raw(FORMS["chat stream"], UNASKED) + w.raw(FORMS["chat"], plain)
               + w.raw(FORMS["chat stream"], [UNASKED[:7], UNASKED[7:]], chunked=True)
               + w.raw(FORMS["chat stream"], FORMS["chat stream"].ask()))
        got = [c.read_response("POST") for _ in range(4)]
        assert [r.status for r in got] == [200] * 4 and all(r.clean for r in got)
        assert [usage_chunk(usage) in r.body for r in got] == [False, False, False, True]
    sent = [strict_json(q.body) for q in posts(w.up)]
    assert [bool(q.get("stream_options")) for q in sent] == [True, False, True, True] * 3


# ---------------------------------------------------------------------------------------------------- no byte, no moment


@pytest.mark.parametrize("name", FORMS)
def test_every_piece_is_at_the_caller_before_the_next_is_sent(shared, connect, name):
    form, llm = FORMS[name], Llm()
    if not form.stream:
        llm.split = 20
    w = shared(llm, form.dialect)
    pieces = llm.pieces(form.name, json.loads(form.ask()))[1]
    if llm.split:
        body = b"".join(pieces)
        pieces = [body[at:at + 20] for at in range(0, len(body), 20)]
    gate = llm.before = Gate()
    c = connect(w.port)
    c.send(w.raw(form, form.ask()))
    gate.open()
    assert c.read_head().status == 200
    for piece in pieces:
        gate.open()
        c.recv_until(piece)
    gate.open()
    c.recv_until(b"0\r\n\r\n")


@pytest.mark.parametrize("name", ["chat", "chat stream", "messages", "messages stream"])
@pytest.mark.parametrize("accept", ["gzip", "gzip, deflate, br, zstd", "*", "gzip;q=1.0, identity;q=0", None])
def test_the_upstream_is_asked_for_identity(shared, name, accept):
    form = FORMS[name]
    w = shared(Llm(Usage(input=70, output=3)), form.dialect)
    meter = Meter(w)
    r, _ = w.call(form, headers=[("Accept-Encoding", accept)] if accept else [])
    assert "Content-Encoding" not in r.headers
    assert posts(w.up)[0].headers.all("Accept-Encoding") == ["identity"]
    meter.wait(73)


def test_a_plain_upstream_is_asked_what_the_caller_asked(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    get(w.port, "/", [("Accept-Encoding", "gzip, br")])
    assert up.requests[0].header("Accept-Encoding") == "gzip, br"


@pytest.mark.parametrize("inject", [True, False])
def test_an_upstream_that_compresses_all_the_same(shared, inject):
    """Its bytes go through untouched; what it used is an estimate, or read from what they hold."""
    llm = Llm(Usage(input=70, output=3), words=("x" * 400,), encode="gzip")
    w = shared(llm, inject=inject)
    meter = Meter(w)
    r, _ = w.call(FORMS["chat stream"], FORMS["chat stream"].ask("y" * 500))
    pieces = llm.pieces("chat", {"stream": True, "stream_options": {"include_usage": True}})[1]
    assert r.clean and r.body == b"".join(compressed(pieces)) and r.header("Content-Encoding") == "gzip"
    w.wait_metric("weir_in_flight", 0)
    assert 73 <= meter.spent() <= 1000


def test_a_large_answer_goes_through_whole(shared):
    words = tuple(random.Random(n).randbytes(3000).hex() for n in range(300))
    usage = Usage(input=10, output=99)
    w = shared(Llm(usage, words), **INJECT)
    meter = Meter(w)
    r, _ = w.call(FORMS["chat stream"], UNASKED)
    assert r.body == b"".join(e for e in events("chat", usage, words) if e != usage_chunk(usage))
    meter.wait(109)


# ------------------------------------------------------------------------------------------------------------- the headers


def test_the_headers(alone):
    llm = Llm(Usage(input=100))
    w = alone(llm, limit={"rate": "3600/h", "burst": 1000})
    form = FORMS["chat"]
    body = form.ask(max_tokens=200)
    first, _ = w.call(form, body)
    assert int(first.header(HEADERS[0])) == 1000
    assert 1000 - estimate(body, 200) <= int(first.header(HEADERS[1])) <= 1000
    assert re.fullmatch(r"(\d+h)?(\d+m)?(\d+(\.\d{1,3})?s)?|\d+ms", first.header(HEADERS[2]))
    assert 0 <= go_duration(first.header(HEADERS[2])) <= estimate(body, 200) + 1
    r = get(w.port, "/probe", w.headers)
    assert 95 <= go_duration(r.header(HEADERS[2])) <= 102, "a hundred tokens come back in a hundred seconds"
    assert "RateLimit" not in r.headers and "RateLimit-Policy" not in r.headers, "only limits in requests stand there"


def test_the_headers_beside_a_limit_in_requests(alone):
    def edit(config):
        config["limits"]["calls"] = {"rate": "1/h", "burst": 5}
        config["listeners"]["in"]["routes"][0]["limits"] = ["tokens", "calls"]

    r, _ = alone(Llm(), edit=edit).call(FORMS["chat"])
    assert [n for n, _ in parse_limit_field(r.header("RateLimit"))] == ["calls"]
    assert all(r.header(h) for h in HEADERS)


def test_routes_without_such_a_limit_have_none(alone):
    r, line = alone(Llm(), edit=without_limits).call(FORMS["chat"])
    assert not any(h in r.headers for h in HEADERS)
    assert (line["tokens_in"], line["tokens_out"]) == (100, 20)


@pytest.mark.parametrize("theirs", [HEADERS, HEADERS[1:2], ("X-RateLimit-Remaining-Tokens",)])
def test_what_the_upstream_says_of_its_own_stays(shared, theirs):
    r, _ = shared(Llm(headers=[(h, "4711") for h in theirs])).call(FORMS["chat"])
    for h in HEADERS:
        values = r.headers.all(h)
        if h in [t.lower() for t in theirs]:
            assert values == ["4711"]
        else:
            assert len(values) <= 1


# ------------------------------------------------------------------------------------------------------ bodies, and sundry


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_bodies_up_to_max_body(alone, chunked, connect):
    size = 1 << 20
    w = alone(Llm(Usage(input=5)), burst=800_000, server={"max_body": "1MiB"})
    form = FORMS["chat"]
    body = form.ask("x" * (size - len(form.ask(""))))
    assert len(body) == size
    pieces = [body[at:at + 50_000] for at in range(0, size, 50_000)] if chunked else body
    c = connect(w.port)
    c.send(w.raw(form, pieces, chunked=chunked))
    assert c.read_response("POST").status == 200
    assert posts(w.up)[0].body == body
    more = form.ask("x" * (size - len(form.ask("")) + 1))
    pieces = [more[at:at + 50_000] for at in range(0, size + 1, 50_000)] if chunked else more
    c = connect(w.port)
    c.send(w.raw(form, pieces, chunked=chunked))
    r = c.read_response("POST")
    assert (r.status, r.weir_reason) == (413, "body_too_large") and len(posts(w.up)) == 1


def test_bodies_held_at_once_are_bounded(alone):
    """Over `max_buffered` in all: 503, and nothing of it costs tokens; afterwards all is as before."""
    w = alone(Llm(Usage(input=5)), burst=800_000, server={"max_body": "16MiB", "max_buffered": "1MiB"})
    meter, form = Meter(w), FORMS["chat"]
    r, _ = w.call(form, form.ask("x" * (3 << 20)))
    assert (r.status, r.weir_reason) == (503, "overloaded")
    meter.wait(0, in_flight=0)
    assert w.call(form, form.ask("x" * 100_000))[0].status == 200


def test_a_caller_who_waits_to_be_asked_for_his_body(shared, connect):
    w = shared(Llm(Usage(input=5)))
    body = FORMS["chat"].ask()
    c = connect(w.port)
    raw = w.raw(FORMS["chat"], body, [("Expect", "100-continue")])
    c.send(raw[:-len(body)])
    assert c.read_head().status == 100
    c.send(body)
    assert c.read_response("POST").status == 200
    assert posts(w.up)[0].body == body


def test_a_body_that_comes_byte_by_byte(shared, connect):
    w = shared(Llm(Usage(input=5)))
    meter = Meter(w)
    body = FORMS["chat"].ask("hellö")
    c = connect(w.port)
    raw = w.raw(FORMS["chat"], body)
    for at in range(len(raw)):
        c.send(raw[at:at + 1])
    assert c.read_response("POST").status == 200 and posts(w.up)[0].body == body
    meter.wait(5)
    assert w.wait_log(tenant=w.tenant, method="POST")["model"] == "gpt-5"


def test_the_log_names_the_model_of_every_call(alone):
    w = alone(Llm(Usage(input=5)))
    for model in ("gpt-5", "gpt/4:o", "modèle", 'qu"ote'):
        _, line = w.call(FORMS["chat"], FORMS["chat"].ask(model=model))
        assert line["model"] == model
    text = w.stdout
    assert '"hi"' not in text, "never a body"


def test_the_families_are_there_from_the_start(alone):
    seen = families(alone(Llm()))
    assert seen.type["weir_llm_tokens_total"] == "counter" and seen.type["weir_llm_tokens_estimated_total"] == "counter"


def test_tokens_of_tenants_beyond_tenant_series(alone):
    w = alone(Llm(Usage(input=10)), metrics={"tenant_series": 2})
    for n in range(5):
        w.as_tenant(f"t{n}").call(FORMS["chat"])
    w.wait_metric("weir_llm_tokens_total", 50, type="input")
    names = {labels["tenant"] for labels in families(w).labels("weir_llm_tokens_total")}
    assert len(names) <= 3 and "__other__" in names


def test_two_upstreams_are_metered_each_in_its_dialect(alone):
    llm = Llm(Usage(input=10, output=1))
    def edit(config):
        url = config["upstreams"]["agent"]["url"]
        config["upstreams"]["claude"] = {"url": url, "dialect": "anthropic", "usage": {"weights": {"output": 100}}}
        config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["tokens"]}),
                                                     ("/v1/messages", {"limits": ["tokens"], "upstream": "claude"}))

    w = alone(llm, edit=edit)
    meter = Meter(w)
    w.call(FORMS["chat"])
    meter.wait(11)
    w.call(FORMS["messages stream"])
    meter.wait(11 + 110)
    w.wait_metric("weir_llm_tokens_total", 11, upstream="claude")


def test_a_drain_settles_what_is_in_flight(alone, connect):
    llm = Llm(Usage(input=10, output=1))
    w = alone(llm, server={"drain": {"timeout": "10m"}})
    gate = llm.before = Gate()
    c = connect(w.port)
    c.send(w.raw(FORMS["chat stream"], FORMS["chat stream"].ask()))
    w.up.wait(posts)
    w.signal(15)
    gate.open_all()
    assert c.read_response("POST").clean
    c.close()
    assert w.wait_exit() == 0
    line = w.wait_log(method="POST")
    assert (line["tokens_in"], line["tokens_out"]) == (10, 1)


@pytest.mark.parametrize("bad,where", [
    ({"unit": "llm_token"}, "limits.tokens.unit"),
    ({"unit": "llm_tokens", "algorithm": "concurrency", "limit": 3}, "limits.tokens")])
def test_configurations_that_make_no_sense(bad, where):
    config = base_config(1, limits={"tokens": bad if "algorithm" in bad else {"rate": "1/h", **bad}})
    done = run_weir("--check", config=config)
    assert done.returncode == 2 and any(where in rest for _, _, rest in error_lines("weir.yaml", done.stderr + done.stdout))
