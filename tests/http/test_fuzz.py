"""Mutations of valid pipelines: weir and the strict parser of the stub agree on how many requests there were, and which.

The strict parser reads the same bytes as weir does, with the rules of the contract on top, up to the first error. Where RFC
9112 or the contract leave a choice (`Doubt`), weir may stop there or go on - but in no third way. WEIR_FUZZ_N raises the number of
pipelines (3000), WEIR_FUZZ_SEED chooses others.
"""
import contextlib
import itertools
import os
import random
import re

import pytest

from harness import (LAST_CHUNK, BytesSource, Incomplete, Malformed, SharedWeir, Upstream, base_config, chunk, connect,
                     exchange, read_request_head, request)

COUNT = int(os.environ.get("WEIR_FUZZ_N", "3000"))
SEED = int(os.environ.get("WEIR_FUZZ_SEED", "1"))
BATCHES = 20
MAX_BODY, MAX_HEAD = 64 * 1024, 32 * 1024


# what weir must make of some bytes

FRAMING = {"content-length", "transfer-encoding", "host", "connection", "expect", "upgrade", "authorization", "te", "trailer"}


class Oracle:
    """requests: (method, target, body) of all that may go up, in order; weir passes on at least the first `least`.
    methods: of all requests that get an answer, also weir's own; the first `least_answers` come for certain.
    ending: why it stops: 'end', 'incomplete', 'bad', 'close'."""

    def __init__(self, data):
        self.requests, self.methods, self.ending = [], [], None
        self.least = self.least_answers = None
        src = BytesSource(data)
        while self.ending is None:
            self.ending = self._one(src)
        self._doubt()

    def _doubt(self, really=True):
        """From here on weir may have stopped."""
        if really and self.least is None:
            self.least, self.least_answers = len(self.requests), len(self.methods)

    def _one(self, src):
        empty_lines = 0
        while src.buf[:2] == b"\r\n":
            del src.buf[:2]
            empty_lines += 1
        self._doubt(empty_lines > 1)
        if not src.buf:
            return "end"
        before = len(src.buf)
        try:
            req = read_request_head(src)
            self._doubt(before - len(src.buf) > MAX_HEAD - 64 or len(req.headers) > 100 or bool(src.doubts))
            goes_up = self._judge(req)
            body = self._body(req, src)
        except Incomplete:
            return "incomplete"
        except Malformed:
            return "bad"
        if goes_up:
            self.requests.append((req.method, origin_form(req.target), body))
        self.methods.append(req.method)
        self._doubt(not goes_up)       # weir's own answer may end the connection
        return self._persistence(req)

    def _body(self, req, src):
        if req.framing == "none":
            return b""
        if req.length > MAX_BODY:
            raise Malformed("413")
        body, pieces = b"", req.pieces(src)
        while True:
            try:
                body += next(pieces)
            except StopIteration as end:
                self._doubt(bool(src.doubts) or any(n.lower() in FRAMING for n in end.value.names()))
                return body
            if len(body) > MAX_BODY:
                raise Malformed("413")

    def _judge(self, req):
        """True: goes up. False: weir answers it by itself. Malformed: refused and closed."""
        self._doubt(any(n.lower() in ("x-tenant-id", "upgrade") for n in req.headers.names()))
        self._doubt(bool(re.match("0.", req.header("content-length", ""))))
        if req.method in ("CONNECT", "TRACE"):
            return False
        if req.target == "*":
            if req.method == "OPTIONS":
                return False
            raise Malformed("* is for OPTIONS")
        self._judge_target(req)
        expect = req.headers.all("expect")
        if expect and (req.version == "1.0" or len(expect) > 1):
            self._doubt()
        elif expect and expect[0].lower() != "100-continue":
            return False
        return True

    def _judge_target(self, req):
        target, host = req.target, req.header("host", "")
        absolute = re.match(r"(?is)(https?://)([^/?]*)(.*)", target)
        if absolute:
            scheme, authority, target = absolute.groups()
            self._doubt(scheme != "http://" or authority != host)
            if not authority:
                raise Malformed("no authority")
            target = origin_form(req.target)
        self._doubt("host" in req.headers and not re.fullmatch(r"[A-Za-z0-9.\-]+(:[0-9]{1,4})?", host))
        path, _, query = target.partition("?")
        if not path.startswith("/") or "#" in target or "\\" in path or re.search("%(?![0-9A-Fa-f]{2})|%00", path):
            raise Malformed("target")
        if any(segment.split(";")[0] in (".", "..") for segment in re.sub("%([0-9A-Fa-f]{2})", unescape, path).split("/")):
            raise Malformed("dot segment")
        self._doubt(bool(re.search("(?i)[\x80-\xff\"<>\\\\^`{|}]|%5c", target) or re.search("%00", query)))

    def _persistence(self, req):
        options = [o.strip(" \t").lower() for v in req.headers.all("connection") for o in v.split(",")]
        self._doubt(any(o in FRAMING or not re.fullmatch(r"[a-z0-9\-]+", o) for o in options))
        if req.version == "1.0":
            self._doubt("keep-alive" in options)
            return None if "keep-alive" in options and "close" not in options else "close"
        return "close" if "close" in options else None


def unescape(m):
    char = chr(int(m.group(1), 16))
    return char if char.isascii() and (char.isalnum() or char in "-._~/") else m.group(0)


def origin_form(target):
    m = re.match(r"(?is)https?://[^/?]*(.*)", target)
    if not m:
        return target
    rest = m.group(1) or "/"
    return rest if rest.startswith("/") else "/" + rest


# valid pipelines, and what is done to them

def valid(rng):
    """One valid request."""
    method = rng.choice(["GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "PURGE"])
    target = rng.choice(["/", "/a", "/a/b?c=d", "/%41%2f", "/a;b", "//a", "/a/..b", "/?", "/x?y=%zz&/../", "http://weir.test/abs"])
    fields = [(rng.choice(["X-A", "Accept", "x-b", "User-Agent", "Cookie", "Via"]), rng.choice(["b", "", "c d", "*/*", "caf\xe9", "a:b, c"]))
              for _ in range(rng.randrange(4))]
    if rng.random() < 0.1:
        fields.append(("Connection", rng.choice(["keep-alive", "X-A", "close", "Keep-Alive, x-b"])))
    if rng.random() < 0.05:
        fields.append(("Expect", "100-continue"))
    version = "1.1" if rng.random() < 0.95 else "1.0"
    form = rng.choice(["none", "length", "length", "chunked", "chunked"]) if version == "1.1" else rng.choice(["none", "length"])
    if form == "none":
        return request(method, target, fields, version=version)
    body = rng.choice([b"", b"hello", b"0\r\n\r\n", b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", rng.randbytes(40)])
    if form == "length":
        return request(method, target, fields, body, version=version)
    head = request(method, target, [*fields, ("Transfer-Encoding", rng.choice(["chunked", "Chunked"]))], version=version)
    cut = rng.randrange(len(body) + 1)
    chunks = b"".join(chunk(p, rng.choice([b"", b"", b";a=b", b";a", b' ; a="b"'])) for p in (body[:cut], body[cut:]) if p)
    return head + chunks + rng.choice([LAST_CHUNK, LAST_CHUNK, b"000\r\n\r\n", b"0;x\r\n\r\n", b"0\r\nX-T: u\r\n\r\n"])


BITS = [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b":", b";", b",", b"/", b"..", b"%", b"#", b"\\", b"\x0b", b"\x7f", b"\x80", b"\xff",
        b"0", b"1", b"5", b"-", b"+", b"0x", b"_", b"f" * 16, b"0" * 17, b"\r\n ", b"\r\n\t", b"\r\n:", b"chunked", b", chunked", b"identity",
        b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length:5\r\n", b"Content-Length : 5\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x\r\n", b"Transfer-Encoding:chunked\r\n", b"Host: b\r\n", b"Connection: close\r\n", b"Connection: Content-Length\r\n",
        b"Expect: 100-continue\r\n", b"HTTP/1.0", b"HTTP/1.1", b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n", LAST_CHUNK, b"1\r\nx\r\n", b"X: y\r\n"]


def flip(rng, data):
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)


def insert(rng, data):
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(BITS)


def insert_line(rng, data):
    ends = [m.end() for m in re.finditer(rb"\r\n", data)] or [0]
    at = rng.choice(ends)
    data[at:at] = rng.choice([b for b in BITS if b.endswith(b"\r\n")])


def overwrite(rng, data):
    at, bit = rng.randrange(len(data)), rng.choice(BITS)
    data[at:at + len(bit)] = bit


def remove(rng, data):
    at = rng.randrange(len(data))
    del data[at:at + rng.choice([1, 1, 1, 2, 3, 8])]


def repeat(rng, data):
    a = rng.randrange(len(data))
    b = min(len(data), a + rng.randrange(1, 40))
    data[b:b] = data[a:b]


def double_line(rng, data):
    lines = bytes(data).split(b"\r\n")
    at = rng.randrange(len(lines))
    lines.insert(at, lines[rng.randrange(len(lines))] if rng.random() < 0.3 else lines[at])
    data[:] = b"\r\n".join(lines)


def swap_lines(rng, data):
    lines = bytes(data).split(b"\r\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    data[:] = b"\r\n".join(lines)


def change_number(rng, data):
    numbers = list(re.finditer(rb"[0-9]+", data))
    if numbers:
        m = rng.choice(numbers)
        data[m.start():m.end()] = b"%d" % max(0, int(m.group()[:18]) + rng.choice([-2, -1, 1, 2, 10, 1 << 32, 1 << 63]))


def change_end(rng, data):
    ends = list(re.finditer(rb"\r\n", data))
    if ends:
        m = rng.choice(ends)
        data[m.start():m.end()] = rng.choice([b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"", b" \r\n", b"\r\n "])


def change_case(rng, data):
    at = rng.randrange(len(data))
    data[at:at + 10] = bytes(data[at:at + 10]).swapcase()


def cut_off(rng, data):
    del data[rng.randrange(len(data)):]


MUTATIONS = [flip, insert, insert, insert_line, insert_line, overwrite, remove, remove, repeat, double_line, swap_lines, change_number, change_end,
             change_end, change_case, cut_off]


def mutated(rng):
    data = bytearray(b"".join(valid(rng) for _ in range(rng.randrange(1, 5))))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 5])):
        if data:
            rng.choice(MUTATIONS)(rng, data)
    return bytes(data)


# the comparison

# Loopback has enough of them that each connection has its own, by which its requests are known at the upstream.
ADDRESSES = (f"127.{64 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in itertools.count(1))


def whole_from(up, address):
    """(method, target, body) of the requests of that caller which were whole at the upstream, in order."""
    return [(r.method, r.target, r.body) for r in list(up.requests) if r.complete and r.header("X-Forwarded-For") == address]


def run_one(w, up, data, cuts, address):
    """Sends `data` from there, in pieces cut there; returns the oracle once what must come up has come."""
    oracle = Oracle(data)
    with connect(w.port, source=(address, 0)) as c:
        for a, b in zip([0, *cuts], [*cuts, len(data)]):
            if not c.send(data[a:b]):
                break
        for method in oracle.methods[:oracle.least_answers]:
            c.read_response(method)
        c.src.buf.clear()
        while c.readable(0.01) and not c.src.end:   # what may come beyond that is not worth reading
            with contextlib.suppress(Incomplete):
                c.src.fill()
            c.src.buf.clear()
        if not c.src.end:
            with contextlib.suppress(OSError):
                c.half_close()
            c.recv_to_end()
    up.wait(lambda u: len(whole_from(u, address)) >= oracle.least, f"{oracle.least} requests")
    return oracle


def agrees(up, data, cuts, oracle, address):
    try:
        got = whole_from(up, address)
        assert oracle.least <= len(got) <= len(oracle.requests), "weir saw another number of requests"
        assert got == oracle.requests[:len(got)], "weir saw other requests"
        assert not up.errors
    except AssertionError as e:
        raise AssertionError(f"{e}\nsent     {data!r}\ncuts     {cuts}\nupstream {up.requests} {up.errors}\n"
                             f"oracle   {vars(oracle)}") from e


def check_all(w, up, cases):
    """Each (data, cuts) by itself; and all of them again at the end, with what came up after its caller had gone."""
    up.clear()
    done = []
    for data, cuts in cases:
        address = next(ADDRESSES)
        try:
            oracle = run_one(w, up, data, cuts, address)
        except (AssertionError, Incomplete) as e:
            raise AssertionError(f"{e}\nsent     {data!r}\ncuts     {cuts}") from e
        done.append((data, cuts, oracle, address))
        agrees(up, *done[-1])
    w.wait_metric("weir_in_flight", 0)
    up.drop_connections()
    up.wait(lambda u: all(p.ended for p in u.peers), "every connection's end")
    assert {r.header("X-Forwarded-For") for r in up.requests} <= {address for *_, address in done}
    for one in done:
        agrees(up, *one)


@pytest.fixture(scope="module")
def shared():
    config = {"max_body": MAX_BODY, "timeouts": {"head": "10s", "body": "10s"}}
    with Upstream() as up, SharedWeir(base_config(up.port, server=config)) as one:
        yield one, up


@pytest.fixture
def pair(shared):
    one, up = shared
    with one.borrowed() as w:
        yield w, up


@pytest.mark.parametrize("batch", range(BATCHES))
def test_weir_and_a_strict_parser_agree_on_mutated_pipelines(pair, batch):
    w, up = pair
    rng = random.Random(f"{SEED} {batch}")
    cases = []
    for _ in range(COUNT // BATCHES):
        data = mutated(rng)
        if data:
            cases.append((data, sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 0, 1, 3])))))
    check_all(w, up, cases)
    assert w.alive(), w.stderr[-4000:]
    assert exchange(w.port, request("GET", "/alive")).status == 200


def test_weir_and_a_strict_parser_agree_on_valid_pipelines(pair):
    """The measure itself: nothing is mutated, so the oracle must find every request, and weir as well."""
    w, up = pair
    rng = random.Random(SEED)
    check_all(w, up, [(b"".join(valid(rng) for _ in range(rng.randrange(1, 5))), []) for _ in range(100)])


def test_random_bytes_never_reach_an_upstream(pair):
    w, up = pair
    rng = random.Random(SEED)
    check_all(w, up, [(rng.randbytes(rng.choice([1, 10, 100, 1000])), []) for _ in range(200)])
    assert w.alive() and exchange(w.port, request("GET", "/alive")).status == 200


def test_the_oracle_finds_what_it_must():
    ok = request("GET", "/a") + request("POST", "/b", body=b"hello") + request("PUT", "/c", body=[b"x", b"y"], chunked=True)
    o = Oracle(ok)
    assert (o.requests, o.least, o.ending) == ([("GET", "/a", b""), ("POST", "/b", b"hello"), ("PUT", "/c", b"xy")], 3, "end")
    for bad in (b"GET / HTTP/1.1\r\n\r\n", b"GET /../ HTTP/1.1\r\nHost: a\r\n\r\n", request("GET", "/", {"Content-Length": "+1"}),
                request("POST", "/", {"Content-Length": "1"}, b"x"), request("POST", "/", body=b"x", chunked=True).replace(b"1\r\n", b"0x1\r\n")):
        o = Oracle(ok + bad + ok)
        assert (len(o.requests), o.least, o.ending) == (3, 3, "bad"), bad
    assert (Oracle(ok + b"GET / HTTP").least, Oracle(ok + b"GET / HTTP").ending) == (3, "incomplete")
    assert Oracle(request("GET", "/", {"Connection": "close"}) + ok).ending == "close"
    assert Oracle(ok + request("GET", "/caf\xe9") + ok).least == 3
