"""A stub of what LLM providers offer, as a handler for harness.Upstream: OpenAI chat, responses and embeddings and
Anthropic messages, whole and as streams, each reporting its usage as the provider does.

    llm = Llm(Usage(input=100, output=20))
    up = start_upstream(llm)
    r = post(w.port, FORMS["chat"].path, FORMS["chat"].ask("hello"))

What it does next can be changed between calls by its fields. Any path it does not know gets 404, and costs nothing. What it
saw, bodies and headers, stands in `up.requests`.
"""
import dataclasses
import gzip
import json
import re
import threading
import zlib

import harness
from harness import LAST_CHUNK, chunk, reply

# What a model may say: text that looks like usage to whoever does not read JSON.
WORDS = ("Hello", ' "usage": {"prompt_tokens": 77777, "completion_tokens": 77777}', " wörld", "!\n\ndata: [DONE]")


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens; `input` is without the cached ones and those written to the cache."""
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0

    @property
    def total(self):
        return self.input + self.cached + self.cache_write + self.output


@dataclasses.dataclass(frozen=True)
class Form:
    """One way of asking. `ask` gives the body of a request, `whole` and `events` the answer's."""
    name: str
    dialect: str
    path: str
    stream: bool

    def ask(self, text="hi", **more):
        body = {"model": MODELS[self.dialect]}
        if self.name == "responses" or self.name == "embeddings":
            body["input"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        if self.stream:
            body["stream"] = True
        if self.stream and self.name == "chat" and "stream_options" not in more:
            body["stream_options"] = {"include_usage": True}
        return to_json({k: v for k, v in {**body, **more}.items() if v is not None})


def to_json(value):
    return json.dumps(value, ensure_ascii=False).encode()


MODELS = {"openai": "gpt-5", "anthropic": "claude-5"}
_PATHS = {"chat": ("openai", "/v1/chat/completions"), "responses": ("openai", "/v1/responses"),
          "messages": ("anthropic", "/v1/messages"), "embeddings": ("openai", "/v1/embeddings")}
FORMS = {name + (" stream" if stream else ""): Form(name, dialect, path, stream)
         for name, (dialect, path) in _PATHS.items() for stream in (False, True) if name != "embeddings" or not stream}
STREAMS = [name for name, form in FORMS.items() if form.stream]


def reported(name, usage):
    """The `usage` object of a provider."""
    if name == "messages":
        return {"input_tokens": usage.input, "cache_creation_input_tokens": usage.cache_write,
                "cache_read_input_tokens": usage.cached, "service_tier": "standard", "output_tokens": usage.output}
    prompt = usage.input + usage.cached + usage.cache_write
    if name == "embeddings":
        return {"prompt_tokens": prompt, "total_tokens": prompt}
    words = ("input", "output") if name == "responses" else ("prompt", "completion")
    return {f"{words[0]}_tokens": prompt, f"{words[0]}_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
            f"{words[1]}_tokens": usage.output, f"{words[1]}_tokens_details": {"reasoning_tokens": usage.output // 2},
            "total_tokens": prompt + usage.output}


def whole(name, usage, words=WORDS):
    """The JSON answer; without `usage` where that is None."""
    text = "".join(words)
    answer = {
        "chat": {"id": "c1", "object": "chat.completion", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]},
        "responses": {"id": "r1", "object": "response", "status": "completed", "output": [
            {"type": "message", "content": [{"type": "output_text", "text": text}]}]},
        "messages": {"id": "m1", "type": "message", "role": "assistant", "content": [{"type": "text", "text": text}],
                     "stop_reason": "end_turn"},
        "embeddings": {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1e-3]}]},
    }[name]
    answer["model"] = MODELS["anthropic" if name == "messages" else "openai"]
    if usage is not None:
        answer["usage"] = reported(name, usage)
    return to_json(answer)


def event(data, kind=None):
    """One event of an SSE stream."""
    text = data if isinstance(data, bytes) else to_json(data)
    return (b"event: " + kind.encode() + b"\n" if kind else b"") + b"data: " + text + b"\n\n"


def _chat_chunk(choices, **more):
    return event({"id": "c1", "object": "chat.completion.chunk", "model": "gpt-5", "choices": choices, **more})


def usage_chunk(usage):
    """What OpenAI sends behind a chat stream to whoever asked for usage."""
    return _chat_chunk([], usage=reported("chat", usage))


def _chat_events(usage, words, asked):
    null = {"usage": None} if asked else {}
    events = [_chat_chunk([{"index": 0, "delta": {"content": w}, "finish_reason": None}], **null) for w in words]
    events.append(_chat_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}], **null))
    if asked and usage is not None:
        events.append(usage_chunk(usage))
    return [*events, event(b"[DONE]")]


def _responses_events(usage, words):
    def about(kind, **more):
        return event({"type": kind, **more}, kind)

    begun = {"id": "r1", "object": "response", "status": "in_progress", "output": [], "usage": None}
    done = {**begun, "status": "completed", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "".join(words)}]}]}
    if usage is not None:
        done["usage"] = reported("responses", usage)
    return [about("response.created", response=begun),
            *(about("response.output_text.delta", item_id="i1", output_index=0, delta=w) for w in words),
            about("response.completed", response=done)]


def _messages_events(usage, words):
    def about(kind, **more):
        return event({"type": kind, **more}, kind)

    message = {"id": "m1", "type": "message", "role": "assistant", "content": [], "model": "claude-5"}
    first = second = last = {}
    if usage is not None:
        first = {"usage": {**reported("messages", usage), "output_tokens": min(1, usage.output)}}
        second = {"usage": {"output_tokens": usage.output // 2}}
        last = {"usage": {"output_tokens": usage.output}}
    return [about("message_start", message={**message, **first}),
            about("content_block_start", index=0, content_block={"type": "text", "text": ""}), about("ping"),
            *(about("content_block_delta", index=0, delta={"type": "text_delta", "text": w}) for w in words),
            about("content_block_stop", index=0),
            about("message_delta", delta={"stop_reason": None}, **second),
            about("message_delta", delta={"stop_reason": "end_turn"}, **last), about("message_stop")]


def events(name, usage, words=WORDS, asked=True):
    """The events of a stream. `asked`: the caller of a chat stream wants usage."""
    if name == "chat":
        return _chat_events(usage, words, asked)
    return _responses_events(usage, words) if name == "responses" else _messages_events(usage, words)


class Llm:
    """The handler.

    usage       what it reports; None: nothing; a function: of the request's JSON
    words       the text it generates, a delta each
    status      other than 200: an error of that dialect, with `error_headers`
    split       re-cuts the answer's body into pieces of so many bytes
    before      before(n) is called ahead of the n-th piece (n = 0: ahead of the head)
    cut         the connection is closed in place of the piece of that number (0: instead of the head)
    framing     chunked | length | close
    encode      gzip: always; identity: never; None: as Accept-Encoding allows
    ignores     it does not know stream_options
    transform   changes the list of events
    headers     more of the answer's head
    kind        another Content-Type; False: none
    """

    def __init__(self, usage=Usage(input=100, output=20), words=WORDS, **fields):
        self.usage, self.words = usage, words
        self.status, self.error_headers, self.headers = 200, (), ()
        self.split = self.before = self.cut = self.encode = self.transform = None
        self.framing, self.ignores, self.kind = "chunked", False, None
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        for name, value in fields.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    def __call__(self, peer):
        name = next((n for n, (_, path) in _PATHS.items() if peer.request.target.partition("?")[0].endswith(path)), None)
        if name is None or peer.request.method != "POST":
            peer.send(reply(404, b'{"error": {"message": "no such path", "type": "invalid_request_error"}}',
                            [("Content-Type", "application/json")]))
            return
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self._answer(peer, name)
        finally:
            with self.lock:
                self.now -= 1

    def pieces(self, name, asked):
        """(content type, the pieces of the body) that a request with this JSON gets."""
        usage = self.usage(asked) if callable(self.usage) else self.usage
        if self.status != 200:
            return "application/json", [error_body(name, self.status)]
        if not asked.get("stream"):
            return "application/json", [whole(name, usage, self.words)]
        wants = bool((asked.get("stream_options") or {}).get("include_usage")) and not self.ignores
        made = events(name, usage, self.words, wants)
        return "text/event-stream; charset=utf-8", self.transform(made) if self.transform else made

    def _answer(self, peer, name):
        kind, pieces = self.pieces(name, json.loads(peer.request.body))
        kind = kind if self.kind is None else self.kind
        fields = [*([("Content-Type", kind)] if kind else []), *self.headers, *(self.error_headers if self.status != 200 else ())]
        if self.encode == "gzip" or self.encode is None and allows_gzip(peer.request):
            fields.append(("Content-Encoding", "gzip"))
            pieces = compressed(pieces)
        if self.split:
            body = b"".join(pieces)
            pieces = [body[at:at + self.split] for at in range(0, len(body), self.split)]
        fields += {"chunked": [("Transfer-Encoding", "chunked")], "close": [],
                   "length": [("Content-Length", sum(map(len, pieces)))]}[self.framing]
        self._step(peer, 0)
        peer.send(reply(self.status, b"", fields, length=False))
        for n, piece in enumerate(pieces, 1):
            self._step(peer, n)
            peer.send(chunk(piece) if self.framing == "chunked" else piece)
        self._step(peer, len(pieces) + 1)
        if self.framing == "chunked":
            peer.send(LAST_CHUNK)
        elif self.framing == "close":
            peer.close()

    def _step(self, peer, n):
        if self.before:
            self.before(n)
        if self.cut == n:
            peer.close()


def error_body(name, status):
    if name == "messages":
        return to_json({"type": "error", "error": {"type": "api_error", "message": f"status {status}"}})
    return to_json({"error": {"message": f"status {status}", "type": "server_error", "param": None, "code": None}})


def allows_gzip(req):
    return bool(re.search(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))|\*", ", ".join(req.headers.all("Accept-Encoding"))))


def compressed(pieces):
    """One gzip body, flushed behind every piece, as servers do with streams."""
    z = zlib.compressobj(wbits=31)
    out = [z.compress(p) + z.flush(zlib.Z_SYNC_FLUSH) for p in pieces]
    out[-1] += z.flush()
    assert gzip.decompress(b"".join(out)) == b"".join(pieces)
    return out


class Gate:
    """`before` of a stub: it waits ahead of each piece until the test lets it send so many more."""

    def __init__(self, free=0):
        self.left = threading.Semaphore(free)

    def __call__(self, _):
        assert self.left.acquire(timeout=harness.DEADLINE), "the test never opened the gate"

    def open(self, count=1):
        self.left.release(count)

    def open_all(self):
        self.left.release(10_000)
