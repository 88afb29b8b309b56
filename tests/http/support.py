"""Readers and shorthands for the feature tests, on top of harness.py: what a wire field says, taken strictly."""
import contextlib
import os
import re
import select
import signal
import threading
import time
import uuid

import harness
from harness import Deadline, connect, get, request, wait_until

# ------------------------------------------------------------------------------------------------ configuration errors


def error_lines(file, text):
    """[(line, column, the rest)] of every error that weir prints for a file; `a[0].b` is given as `a.0.b`."""
    found = []
    for m in re.finditer(rf"(?m)^(?:.*/)?{re.escape(file)}:(\d+):(\d+): (.*)$", text):
        path, colon, rest = m.group(3).partition(": ")
        found.append((int(m.group(1)), int(m.group(2)), re.sub(r"\[(\d+)\]", r".\1", path) + colon + rest))
    return found


_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
          "number": (int, float)}


def schema_errors(schema, value, root=None, at="$"):
    """What a JSON Schema (2020-12, the keywords that a configuration needs) has against a value: a list of texts."""
    root = schema if root is None else root
    if schema is True or schema == {}:
        return []
    if schema is False:
        return [f"{at}: nothing is allowed here"]
    errors = []
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        errors += schema_errors(target, value, root, at)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = any(isinstance(value, _TYPES[k]) and (number or k not in ("integer", "number")) for k in kinds)
        if not fits:
            return errors + [f"{at}: {value!r} is no {kinds}"]
    if "enum" in schema and value not in schema["enum"] or "const" in schema and value != schema["const"]:
        errors.append(f"{at}: {value!r} is not one of {schema.get('enum', schema.get('const'))}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        errors.append(f"{at}: {value!r} does not match {schema['pattern']}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            errors.append(f"{at}: {value} out of bounds")
    for word, good in (("anyOf", lambda n: n >= 1), ("oneOf", lambda n: n == 1)):
        if word in schema:
            if not good(sum(not schema_errors(one, value, root, at) for one in schema[word])):
                errors.append(f"{at}: {value!r} fits not {word}")
    for one in schema.get("allOf", []):
        errors += schema_errors(one, value, root, at)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            errors.append(f"{at}: {len(value)} entries")
        if schema.get("uniqueItems") and any(value.count(item) > 1 for item in value):
            errors.append(f"{at}: an entry is there twice")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            errors += schema_errors(schema["items"], item, root, f"{at}[{i}]")
    if isinstance(value, dict):
        errors += [f"{at}: {key} is missing" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            rules = [s for k, s in schema.get("properties", {}).items() if k == key]
            rules += [s for k, s in schema.get("patternProperties", {}).items() if re.search(k, key)]
            if not rules and "additionalProperties" in schema:
                rules = [schema["additionalProperties"]]
            if "propertyNames" in schema:
                errors += schema_errors(schema["propertyNames"], key, root, f"{at} key {key}")
            for rule in rules:
                errors += schema_errors(rule, item, root, f"{at}.{key}")
    return errors


# --------------------------------------------------------------------------------------------------------- wire fields

_ITEM = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"((?:;[a-z*][a-z0-9_.*-]*=-?\d{1,15})*)')


def parse_limit_field(text):
    """A List of String items with Integer parameters (RFC 9651), as RateLimit and RateLimit-Policy are:
    [(name, {parameter: number})]. Strict: anything else is an AssertionError."""
    items, at = [], 0
    while True:
        m = _ITEM.match(text, at)
        assert m, f"not a structured field at {at}: {text!r}"
        pairs = [p.partition("=")[::2] for p in m.group(2).split(";") if p]
        assert len(dict(pairs)) == len(pairs), f"a parameter twice: {text!r}"
        items.append((m.group(1), {k: int(v) for k, v in pairs}))
        at = m.end()
        if at == len(text):
            return items
        m = re.compile(r"[ \t]*,[ \t]*").match(text, at)
        assert m, f"not a list at {at}: {text!r}"
        at = m.end()


def rate_limit(response):
    """{limit: {q, w, r, t}} of an answer, both fields together, checked against each other; in their order."""
    policy = parse_limit_field(response.header("RateLimit-Policy"))
    state = parse_limit_field(response.header("RateLimit"))
    assert [n for n, _ in policy] == [n for n, _ in state], f"two orders: {policy} {state}"
    both = {name: {**p, **s} for (name, p), (_, s) in zip(policy, state)}
    assert len(both) == len(policy), f"a limit twice: {policy}"
    for name, (p, s) in zip(both, zip((p for _, p in policy), (s for _, s in state))):
        assert set(p) == {"q", "w"} and set(s) == {"r", "t"}, (p, s)
        assert p["q"] >= 1 and p["w"] >= 1 and 0 <= s["r"] <= p["q"] and s["t"] >= 0, (name, p, s)
    ratios = [v["r"] / v["q"] for v in both.values()]
    assert ratios == sorted(ratios), f"not tightest first: {both}"
    return both


def limit_refusal(response, status=429):
    """Checks a refusal by a limit all round and returns (seconds, milliseconds) to wait."""
    assert response.status == status, response
    assert response.weir_reason == "limit"
    seconds = response.header("Retry-After")
    assert re.fullmatch(r"[1-9]\d*", seconds), f"Retry-After: {seconds!r}"
    millis = response.header("retry-after-ms")
    assert re.fullmatch(r"\d+", millis), f"retry-after-ms: {millis!r}"
    assert int(millis) > 0 and int(seconds) == max(1, -(-int(millis) // 1000)), (seconds, millis)
    if int(millis) > 60_000:
        assert response.header("x-should-retry") == "false"
    else:
        assert response.header("x-should-retry") != "false"
    return int(seconds), int(millis)


def problem(response, status, reason, request_id=None):
    """Checks that an answer is weir's own, in problem+json, and returns its members."""
    assert response.status == status, response
    assert response.weir_reason == reason, response
    assert re.fullmatch(r"application/problem\+json(;.*)?", response.header("Content-Type")), response
    body = response.json()
    assert {"type", "title", "status", "detail", "reason", "request_id"} <= set(body), body
    assert body["status"] == status and body["reason"] == reason, body
    assert all(isinstance(body[k], str) and body[k] for k in ("type", "title", "detail", "request_id")), body
    if "X-Correlation-ID" in response.headers:
        assert body["request_id"] == response.header("X-Correlation-ID")
    if request_id is not None:
        assert body["request_id"] == request_id
    return body


def uuid7_ms(text):
    """The milliseconds in a UUIDv7 (RFC 9562); anything else is an AssertionError."""
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text), text
    return uuid.UUID(text).int >> 80


TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


# ------------------------------------------------------------------------------------------------------------- metrics


class Families:
    """The Prometheus text format, read strictly: families in order, each with type, help and samples."""

    def __init__(self, text):
        self.type, self.help, self.samples = {}, {}, harness.parse_metrics(text)
        current = None
        for line in text.splitlines():
            if m := re.fullmatch(r"# HELP ([a-zA-Z_:][\w:]*) (.+)", line):
                assert m.group(1) not in self.help, f"HELP twice: {line}"
                self.help[m.group(1)] = m.group(2)
            elif m := re.fullmatch(r"# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram|summary|untyped|info|unknown)",
                                   line):
                assert m.group(1) not in self.type, f"TYPE twice: {line}"
                current = m.group(1)
                self.type[current] = m.group(2)
            elif line and not line.startswith("#"):
                name = re.match(r"[\w:]+", line).group()
                assert current and name.startswith(current), f"{name} stands in the family {current}"
        assert text.endswith("\n")

    def labels(self, name):
        """Every label set of a sample name."""
        return [dict(labels) for (n, labels) in self.samples if n == name]

    def sum(self, name, **labels):
        return sum(v for (n, have), v in self.samples.items() if n == name and labels.items() <= dict(have).items())


def families(w):
    r = w.ask("/metrics")
    assert r.status == 200, r
    return Families(r.body.decode("utf-8"))


# ------------------------------------------------------------------------------------------------------- files, config


def replace_file(path, text):
    """As editors and tools do: a new file takes the name of the old one."""
    fresh = path.with_name(path.name + ".fresh")
    fresh.write_text(text)
    os.replace(fresh, path)


class ConfigMap:
    """A mounted ConfigMap: weir.yaml -> ..data/weir.yaml, ..data -> ..2026_n; an update swaps ..data."""

    def __init__(self, folder, files):
        self.folder, self.turn = folder, 0
        folder.mkdir()
        self.update(files)
        for name in files:
            (folder / name).symlink_to(f"..data/{name}")

    def update(self, files):
        old = (self.folder / "..data").resolve() if self.turn else None
        self.turn += 1
        data = self.folder / f"..2026_{self.turn}"
        data.mkdir()
        for name, text in files.items():
            (data / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(data.name)
        os.rename(self.folder / "..data_tmp", self.folder / "..data")
        if old:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()


class MountedWeir(harness.Weir):
    """A weir that reads its configuration from a mounted ConfigMap; each write is an update of the mount."""

    mount = None

    def _write_config(self, config):
        files = {"weir.yaml": self._complete_dict(config)}
        if self.mount:
            self.mount.update(files)
        else:
            self.mount = ConfigMap(self.dir / "mount", files)
            self.config_path = self.mount.folder / "weir.yaml"


def routes(*pairs):
    """Routes by (path, fields): each to the upstream `agent` unless it says another."""
    return [{"upstream": "agent", "path": path, **fields} for path, fields in pairs]


def two_limits(**limits):
    """`limits` of a configuration and the names for a route."""
    return {"limits": limits, "route": {"limits": list(limits)}}


# ---------------------------------------------------------------------------------------------------------------- load


class Caller:
    """Requests one after the other on a kept connection, opened anew when the other side said it would close."""

    def __init__(self, where):
        self.where, self.conn = where, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.conn:
            self.conn.close()
            self.conn = None

    def ask(self, raw):
        if self.conn is None:
            self.conn = connect(self.where)
        assert self.conn.send(raw), "the connection was closed under a request"
        r = self.conn.read_response(raw.split(b" ", 1)[0].decode())
        if (r.header("Connection") or "").lower() == "close" or r.end in ("close", "truncated", "reset"):
            self.close()
        return r

    def get(self, target="/", headers=()):
        return self.ask(request("GET", target, headers))


def in_parallel(count, work):
    """work(n) in `count` threads that begin together; the results, or the first failure."""
    results, failures = [None] * count, []
    start = threading.Barrier(count)

    def run(n):
        try:
            start.wait(harness.DEADLINE)
            results[n] = work(n)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for t in threads:
        t.start()
    end = time.monotonic() + 4 * harness.DEADLINE
    for t in threads:
        t.join(max(0, end - time.monotonic()))
    assert not any(t.is_alive() for t in threads), "a worker of the test hangs"
    if failures:
        raise failures[0]
    return results


class Load:
    """Callers in the background until the block ends: some keep their connection, some open one for each request.

    `where()` is asked before each new connection. Every request counts in `done`; one that is not answered with a
    whole `wanted` status stands in `failed`. A caller that finds its idle connection closed before it sends opens
    another, as any client does. With `until_refused` a caller ends when it is refused a connection, and a kept
    connection may also be closed while a request is on its way to it (RFC 9112, 9.3.1): that is counted in `raced`,
    and the test then looks whether the upstream saw it.
    """

    def __init__(self, where, *, keeping=4, opening=2, wanted=(200,), target="/load", pause=0.001, until_refused=False):
        self.where, self.wanted, self.target, self.pause = where, wanted, target, pause
        self.until_refused = until_refused
        self.stop, self.done, self.raced, self.failed, self.lock = threading.Event(), 0, 0, [], threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(keep,), daemon=True)
                        for keep in [True] * keeping + [False] * opening]

    def __enter__(self):
        for t in self.threads:
            t.start()
        wait_until(lambda: self.done > len(self.threads) or self.failed, "the load to begin")
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.wait_ended()

    def wait_ended(self):
        for t in self.threads:
            t.join(2 * harness.DEADLINE)
        assert not any(t.is_alive() for t in self.threads), "a caller hangs, or was never refused"

    def assert_none_failed(self):
        assert not self.failed, f"{len(self.failed)} of {self.done + len(self.failed)} failed: {self.failed[:5]}"
        assert self.done

    def wait_for(self, more):
        """Until that many further requests were answered."""
        goal = self.done + more
        wait_until(lambda: self.done >= goal or self.failed, f"{more} more requests")

    def _run(self, keep):
        conn = None
        while not self.stop.is_set():
            kind = "on a kept connection" if conn else "on a new connection"
            try:
                conn, ended = self._one(conn, keep)
                if ended:
                    return
            except Exception as e:
                with contextlib.suppress(Exception):
                    conn.close()
                raced = self.until_refused and kind.endswith("kept connection") and isinstance(e, harness.NoResponse)
                with self.lock:
                    if raced:
                        self.raced += 1
                    else:
                        self.failed.append(f"{kind}: {e!r}")
                conn = None
            self.stop.wait(self.pause)
        if conn is not None:
            conn.close()

    def _one(self, conn, keep):
        if conn is not None and conn.readable(0):
            end = conn.wait_closed(1)
            assert end == "fin", f"an idle connection ended with {end}"
            conn.close()
            conn = None
        if conn is None:
            try:
                conn = connect(self.where())
            except ConnectionRefusedError:
                if self.until_refused:
                    return None, True
                raise
        conn.send(request("GET", self.target, [] if keep else [("Connection", "close")]))
        r = conn.read_response("GET")
        assert r.status in self.wanted and r.clean, r
        with self.lock:
            self.done += 1
        if not keep or (r.header("Connection") or "").lower() == "close":
            conn.close()
            conn = None
        return conn, False


def process_state(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def stopped_with_requests(w, where, count):
    """Gives connections that the kernel made while weir was stopped, each with a whole request behind it. When the
    block ends weir runs on, and meets them together with whatever the block has asked of it."""
    conns = []
    w.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: process_state(w.pid) == "T", "weir to stop")
        for n in range(count):
            conns.append(connect(where))
            conns[-1].send(request("GET", f"/queued{n}", [("Connection", "close")]))
        yield conns
    finally:
        w.process.send_signal(signal.SIGCONT)


def all_answered(conns):
    """Reads an answer from each connection and closes it; those that have none are a failure of them all."""
    lost = []
    for c in conns:
        try:
            with c:
                assert c.read_response("GET").status == 200
        except AssertionError as e:
            lost.append(repr(e))
    assert not lost, f"{len(lost)} of {len(conns)} lost: {lost[:3]}"


class Events:
    """An upstream handler for SSE: a stream that goes on until `finish` is set, an event every few milliseconds;
    everything else gets `ok`."""

    def __init__(self, every=0.01):
        self.every, self.finish, self.sent = every, threading.Event(), 0

    def __call__(self, peer):
        if not peer.request.target.startswith("/events"):
            peer.send(harness.reply(200, b"" if peer.request.method == "HEAD" else b"ok"))
            return
        peer.send(harness.reply(200, b"", [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")],
                                length=False))
        count = 0
        end = time.monotonic() + 8 * harness.DEADLINE
        while not self.finish.is_set() and time.monotonic() < end:
            peer.send(harness.chunk(b"data: %d\n\n" % count))
            count += 1
            self.sent = count
            self.finish.wait(self.every)
        peer.send(harness.chunk(b"data: end\n\n") + harness.LAST_CHUNK)


class Stream(threading.Thread):
    """Reads one SSE answer to its end in the background; `check()` then says whether it came whole and in order."""

    def __init__(self, where, target="/events", headers=()):
        super().__init__(daemon=True)
        self.conn = connect(where, timeout=4 * harness.DEADLINE)
        self.conn.send(request("GET", target, headers))
        self.head = self.conn.read_head()
        self.first = self.conn.recv_until(b"data: 0\n\n")
        self.rest, self.error, self.seen = b"", None, 1
        self.start()

    def run(self):
        try:
            pieces = bytearray(self.first)
            while not pieces.endswith(harness.LAST_CHUNK):
                self.conn.src.fill()
                more = self.conn.src.take(len(self.conn.src.buf))
                pieces += more
                self.seen += more.count(b"data: ")
            self.rest = bytes(pieces)
        except BaseException as e:
            self.error = e or type(e)
        finally:
            self.conn.close()

    def check(self):
        self.join(2 * harness.DEADLINE)
        assert not self.is_alive(), "the stream never ended"
        assert self.error is None, f"the stream broke after {self.seen} events: {self.error!r}"
        src = harness.BytesSource(self.rest)
        body = b"".join(harness.chunked_pieces(src))
        events = re.findall(rb"data: (\w+)\n\n", body)
        assert events[-1] == b"end" and [int(e) for e in events[:-1]] == list(range(len(events) - 1))
        return len(events)


# --------------------------------------------------------------------------------------------------------------- dedup


def keyed(value, *more):
    """The headers of a request with this key."""
    return [("Idempotency-Key", value), *more]


def deduped(up, dedup=None, route=None, **more):
    """A configuration whose one route has the dedup `once`."""
    url = up if isinstance(up, (str, int)) else up.url
    return harness.base_config(url, dedup={"once": dedup or {}}, route=harness.merge({"dedup": "once"}, route or {}), **more)


def let_it_count(w):
    """Until no request is in flight, one second at most: a request is counted a moment after its answer's last byte."""
    with contextlib.suppress(Deadline):
        w.wait_metric("weir_in_flight", 0, timeout=1)


def dedup_results(w, name="once"):
    """{result: count} of a dedup, without those that are 0."""
    let_it_count(w)
    return {dict(have)["result"]: int(v) for (n, have), v in w.metrics().items()
            if n == "weir_dedup_total" and dict(have)["dedup"] == name and v}


class Numbered:
    """An upstream handler: each answer names its number, so that two runs are never taken for one. `statuses`, `headers`
    and `pad` (bytes of body) say what it looks like; `before(n)` is called ahead of the n-th (from 1)."""

    def __init__(self, status=200, headers=(), pad=0, before=None):
        self.status, self.headers, self.pad, self.before = status, list(headers), pad, before
        self.count, self.lock = 0, threading.Lock()

    def __call__(self, peer):
        with self.lock:
            self.count += 1
            n = self.count
        if self.before:
            self.before(n)
        body = (b"answer %d " % n).ljust(self.pad, b".")
        has_body = peer.request.method != "HEAD" and self.status not in (204, 304)
        return harness.reply(self.status, body if has_body else b"", self.headers)


# -------------------------------------------------------------------------------------------------------------- sundry


def status_of(where, target="/", headers=()):
    return get(where, target, headers).status


def refuses(where):
    """Whether a new connection is refused. Nothing is sent: a listener that still takes it sees it closed again."""
    try:
        connect(where, timeout=5).close()
        return False
    except (ConnectionRefusedError, FileNotFoundError, TimeoutError):
        return True


# ------------------------------------------------------------------------------------------------- an upstream's callers


def is_gone(peer, wait_ms):
    """Whether the caller of an upstream's handler closes within so long, or says something more."""
    poll = select.poll()
    poll.register(peer.sock, select.POLLIN)
    return bool(poll.poll(wait_ms))
