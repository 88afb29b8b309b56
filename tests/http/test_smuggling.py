"""What is malformed or ambiguous gets its refusal and a closed connection, and never reaches an upstream.

Classes: cases.md HTTP/1 1 to 12 and 14, libraries.md "Toward callers". Every case is followed by a pipelined request for
/smuggled: a reader that sees the boundary elsewhere would pass it on. Case 13 is in test_upstream.py, 15 in test_fuzz.py.
"""

import pytest

from harness import (LAST_CHUNK, SharedWeir, Upstream, base_config, chunk, connect, exchange, problem, request)

MAX_BODY = 64 * 1024
SMUGGLED = request("GET", "/smuggled")


class Sut:
    """The one weir and upstream of this file."""

    def __init__(self, w, up):
        self.w, self.up = w, up

    @property
    def port(self):
        return self.w.port

    def targets(self):
        return [r.target for r in self.up.requests]

    def settle(self):
        """Whatever weir passed on before has been seen once this has been answered."""
        r = exchange(self.port, request("GET", "/settle", [("Connection", "close")]))
        assert r.status == 200, r
        self.up.wait(lambda up: any(q.target == "/settle" for q in up.requests))
        return [t for t in self.targets() if t != "/settle"]


@pytest.fixture(scope="module")
def shared():
    with Upstream() as up, SharedWeir(base_config(up.port, server={"max_body": MAX_BODY})) as one:
        yield one, up


@pytest.fixture
def sut(shared):
    one, up = shared
    up.clear()
    with one.borrowed() as w:
        yield Sut(w, up)
    assert up.errors == [], "the upstream was sent something malformed"


def refused(sut, raw, status=400, reason="malformed", closes=True):
    """Sends `raw` and a pipelined request in one go: one refusal, a close, and nothing upstream."""
    with connect(sut.port) as c:
        c.send(raw + SMUGGLED)
        if raw.startswith(b"HEAD "):   # weir may or may not have known the method when it refused
            r = c.read_head()
            assert (r.status, r.weir_reason) == (status, reason), r
            c.recv_to_end()
        else:
            r = c.read_response()
            problem(r, status, reason)
        if closes:
            assert (r.header("Connection") or "close").lower() == "close", r
            c.wait_closed()
            assert sut.settle() == [], "a refused request reached the upstream"
        else:
            assert "/smuggled" not in r.body.decode()
            assert set(sut.settle()) <= {"/smuggled"}, "a refused request reached the upstream"
    return r


def method_of(raw):
    """HEAD answers have no body; all else that looks like anything has one."""
    return "HEAD" if raw.startswith(b"HEAD ") else "GET"


def raw_head(*lines, first=b"POST /x HTTP/1.1", host=b"Host: weir.test", body=b"", eol=b"\r\n"):
    """A head of exactly these bytes a line."""
    return eol.join([first, *([host] if host is not None else []), *lines]) + eol * 2 + body


def cases(*rows):
    """pytest.param for rows of (id, ...)."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


# 1, 2, 4: Content-Length

TWICE = cases(
    ("same", [b"Content-Length: 5", b"Content-Length: 5"]),
    ("different", [b"Content-Length: 5", b"Content-Length: 0"]),
    ("zero first", [b"Content-Length: 0", b"Content-Length: 5"]),
    ("other case", [b"Content-Length: 5", b"CONTENT-length: 5"]),
    ("apart", [b"Content-Length: 5", b"X-A: b", b"Content-Length: 5"]),
    ("three times", [b"Content-Length: 5"] * 3),
    ("second empty", [b"Content-Length: 5", b"Content-Length:"]),
    ("first empty", [b"Content-Length:", b"Content-Length: 5"]),
    ("leading zero", [b"Content-Length: 5", b"Content-Length: 05"]),
)


@pytest.mark.parametrize("lines", TWICE)
def test_content_length_twice_is_refused(sut, lines):
    refused(sut, raw_head(*lines, body=b"hello"))


@pytest.mark.parametrize("lines", TWICE[:2])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
def test_content_length_twice_is_refused_for_other_methods(sut, lines, method):
    refused(sut, raw_head(*lines, first=method + b" /x HTTP/1.1", body=b"hello"))


BOTH = cases(
    ("length first", [b"Content-Length: 5", b"Transfer-Encoding: chunked"]),
    ("coding first", [b"Transfer-Encoding: chunked", b"Content-Length: 5"]),
    ("length 0", [b"Content-Length: 0", b"Transfer-Encoding: chunked"]),
    ("other case", [b"content-length: 5", b"TRANSFER-ENCODING: Chunked"]),
    ("apart", [b"Content-Length: 5", b"X-A: b", b"Transfer-Encoding: chunked"]),
    ("coding between two lengths", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 5"]),
    ("length named by Connection", [b"Connection: Content-Length", b"Content-Length: 5", b"Transfer-Encoding: chunked"]),
    ("coding named by Connection", [b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", b"Content-Length: 5"]),
)


@pytest.mark.parametrize("lines", BOTH)
def test_content_length_with_transfer_encoding_is_refused(sut, lines):
    refused(sut, raw_head(*lines, body=LAST_CHUNK))


@pytest.mark.parametrize("lines", BOTH[:2])
def test_a_length_that_hides_a_request_behind_a_last_chunk_is_refused(sut, lines):
    hidden = LAST_CHUNK + request("GET", "/hidden")
    refused(sut, raw_head(*lines, body=hidden).replace(b"Length: 5", b"Length: %d" % len(hidden)))


BAD_LENGTHS = cases(
    ("plus", b"+5"), ("minus", b"-5"), ("minus zero", b"-0"), ("hex", b"0x5"), ("hex digits", b"a"), ("decimal point", b"5.0"),
    ("exponent", b"5e0"), ("underscore", b"5_0"), ("thousands", b"1,000"), ("inner space", b"5 5"), ("inner tab", b"5\t5"),
    ("empty", b""), ("only spaces", b"   "), ("list same", b"5, 5"), ("list different", b"5, 6"), ("list no space", b"5,5"),
    ("list open", b"5,"), ("list open first", b",5"), ("semicolon", b"5;"), ("parameter", b"5;q=1"), ("quoted", b'"5"'),
    ("letter behind", b"5a"), ("letter before", b"a5"), ("vertical tab", b"\x0b5"), ("form feed", b"5\x0c"), ("NUL", b"5\x00"),
    ("no-break space", b"\xa05"), ("arabic digit", "\u0665".encode()), ("fullwidth digit", "\uff15".encode()),
    ("2^64", b"18446744073709551616"), ("2^64+1", b"18446744073709551617"), ("2^64+5", b"18446744073709551621"),
    ("2^65", b"36893488147419103232"), ("40 digits", b"9" * 40), ("1000 digits", b"9" * 1000), ("octal prefix", b"0o5"),
)


@pytest.mark.parametrize("value", BAD_LENGTHS)
def test_malformed_content_length_is_refused(sut, value):
    refused(sut, raw_head(b"Content-Length: " + value, body=b"hello"))


@pytest.mark.parametrize("value", cases(("2^63-1", b"9223372036854775807"), ("2^63", b"9223372036854775808"),
                                        ("2^64-1", b"18446744073709551615"), ("2^32+5", b"4294967301")))
def test_huge_content_length_is_refused(sut, value):
    refused(sut, raw_head(b"Content-Length: " + value, body=b"hello"), (400, 413), ("malformed", "body_too_large"))


# 3: Transfer-Encoding

CODINGS = cases(
    ("twice", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    ("twice apart", [b"Transfer-Encoding: chunked", b"X-A: b", b"transfer-encoding: chunked"]),
    ("twice, identity first", [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"]),
    ("twice, identity last", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"]),
    ("twice, gzip first", [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"]),
    ("chunked, chunked", [b"Transfer-Encoding: chunked, chunked"]),
    ("chunked, identity", [b"Transfer-Encoding: chunked, identity"]),
    ("identity, chunked", [b"Transfer-Encoding: identity, chunked"]),
    ("chunked, gzip", [b"Transfer-Encoding: chunked, gzip"]),
    ("gzip, chunked", [b"Transfer-Encoding: gzip, chunked"]),
    ("identity", [b"Transfer-Encoding: identity"]),
    ("gzip", [b"Transfer-Encoding: gzip"]),
    ("unknown", [b"Transfer-Encoding: cow"]),
    ("xchunked", [b"Transfer-Encoding: xchunked"]),
    ("chunkedx", [b"Transfer-Encoding: chunkedx"]),
    ("inner space", [b"Transfer-Encoding: chu nked"]),
    ("comma behind", [b"Transfer-Encoding: chunked,"]),
    ("comma before", [b"Transfer-Encoding: ,chunked"]),
    ("parameter", [b"Transfer-Encoding: chunked;q=1"]),
    ("quoted", [b'Transfer-Encoding: "chunked"']),
    ("empty", [b"Transfer-Encoding:"]),
    ("empty then chunked", [b"Transfer-Encoding:", b"Transfer-Encoding: chunked"]),
    ("vertical tab before", [b"Transfer-Encoding: \x0bchunked"]),
    ("vertical tab behind", [b"Transfer-Encoding: chunked\x0b"]),
    ("form feed before", [b"Transfer-Encoding: \x0cchunked"]),
    ("NUL behind", [b"Transfer-Encoding: chunked\x00"]),
    ("no-break space", [b"Transfer-Encoding: \xa0chunked"]),
    ("space before colon", [b"Transfer-Encoding : chunked"]),
    ("tab before colon", [b"Transfer-Encoding\t: chunked"]),
    ("on a folded line", [b"Transfer-Encoding:", b" chunked"]),
    ("on a tab-folded line", [b"Transfer-Encoding:", b"\tchunked"]),
    ("folded away", [b"X-A: b", b" Transfer-Encoding: chunked"]),
    ("behind a bare LF", [b"X-A: b\nTransfer-Encoding: chunked"]),
    ("behind a bare CR", [b"X-A: b\rTransfer-Encoding: chunked"]),
    ("bare LF behind name", [b"Transfer-Encoding:\n chunked"]),
    ("bare CR in value", [b"Transfer-Encoding: chunked\rx"]),
)


@pytest.mark.parametrize("lines", CODINGS)
def test_doubtful_transfer_encoding_is_refused(sut, lines):
    refused(sut, raw_head(*lines, body=chunk(b"hello") + LAST_CHUNK), (400, 501), ("malformed", "unsupported"))


@pytest.mark.parametrize("lines", cases(("chunked", [b"Transfer-Encoding: chunked"]), ("gzip", [b"Transfer-Encoding: gzip"]),
                                        ("with keep-alive", [b"Connection: keep-alive", b"Transfer-Encoding: chunked"]),
                                        ("with a length", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])))
def test_transfer_encoding_on_http_1_0_is_refused(sut, lines):
    refused(sut, raw_head(*lines, first=b"POST /x HTTP/1.0", body=chunk(b"hello") + LAST_CHUNK), (400, 501),
            ("malformed", "unsupported"))


# 5: chunks

BAD_CHUNKS = cases(
    ("underscore", b"1_2e\r\n" + b"x" * 0x12E + b"\r\n" + LAST_CHUNK),
    ("0x", b"0x1\r\nx\r\n" + LAST_CHUNK), ("0X", b"0X1\r\nx\r\n" + LAST_CHUNK),
    ("space before", b" 1\r\nx\r\n" + LAST_CHUNK), ("tab before", b"\t1\r\nx\r\n" + LAST_CHUNK),
    ("plus", b"+1\r\nx\r\n" + LAST_CHUNK), ("minus", b"-1\r\nx\r\n" + LAST_CHUNK), ("minus zero", b"-0\r\n\r\n"),
    ("no hex digit", b"g\r\nx\r\n" + LAST_CHUNK), ("letter behind", b"1g\r\nx\r\n" + LAST_CHUNK),
    ("empty", b"\r\nx\r\n" + LAST_CHUNK), ("empty with extension", b";a=b\r\nx\r\n" + LAST_CHUNK),
    ("comma", b"1,1\r\nx\r\n" + LAST_CHUNK), ("decimal point", b"1.0\r\nx\r\n" + LAST_CHUNK),
    ("inner space", b"1 1\r\n" + b"x" * 0x11 + b"\r\n" + LAST_CHUNK), ("quoted", b'"1"\r\nx\r\n' + LAST_CHUNK),
    ("17 digits", b"0" * 16 + b"1\r\nx\r\n" + LAST_CHUNK), ("100 zeros", b"0" * 100 + b"\r\n\r\n"),
    ("2^64", b"10000000000000000\r\nx\r\n" + LAST_CHUNK), ("2^64+1", b"10000000000000001\r\nx\r\n" + LAST_CHUNK),
    ("bare LF behind size", b"1\nx\r\n" + LAST_CHUNK), ("bare CR behind size", b"1\rx\r\n" + LAST_CHUNK),
    ("LF CR behind size", b"1\n\rx\r\n" + LAST_CHUNK), ("CR CR LF behind size", b"1\r\r\nx\r\n" + LAST_CHUNK),
    ("bare LF before size", b"\n1\r\nx\r\n" + LAST_CHUNK),
    ("NUL behind size", b"1\x00\r\nx\r\n" + LAST_CHUNK), ("vertical tab behind size", b"1\x0b\r\nx\r\n" + LAST_CHUNK),
    ("data without CRLF", b"1\r\nx" + LAST_CHUNK), ("data with bare LF", b"1\r\nx\n" + LAST_CHUNK),
    ("data with bare CR", b"1\r\nx\r" + LAST_CHUNK), ("data too long", b"1\r\nxy\r\n" + LAST_CHUNK),
    ("data longer by two", b"1\r\nxyz\r\n" + LAST_CHUNK), ("data too short", b"2\r\nx\r\n" + LAST_CHUNK),
    ("data with LF CR", b"1\r\nx\n\r" + LAST_CHUNK),
    ("bare LF in an extension", b"1;a\nb\r\nx\r\n" + LAST_CHUNK), ("bare CR in an extension", b"1;a\rb\r\nx\r\n" + LAST_CHUNK),
    ("extension ended by bare LF", b"1;a\nx\r\n" + LAST_CHUNK), ("NUL in an extension", b"1;a\x00b\r\nx\r\n" + LAST_CHUNK),
    ("last chunk bare LF", b"1\r\nx\r\n0\n\r\n"), ("end bare LF", b"1\r\nx\r\n0\r\n\n"), ("all bare LF", b"1\nx\n0\n\n"),
    ("second chunk bad", chunk(b"hello") + b"0x1\r\nx\r\n" + LAST_CHUNK), ("last chunk 0x0", chunk(b"hello") + b"0x0\r\n\r\n"),
    ("request in place of a chunk", chunk(b"hello") + request("GET", "/hidden")),
)

BAD_TRAILERS = cases(
    ("no colon", b"0\r\nFoo\r\n\r\n"), ("space before colon", b"0\r\nFoo : bar\r\n\r\n"), ("empty name", b"0\r\n: bar\r\n\r\n"),
    ("folded", b"0\r\nFoo: bar\r\n baz\r\n\r\n"), ("folded first", b"0\r\n Foo: bar\r\n\r\n"),
    ("bare LF", b"0\r\nFoo: bar\n\r\n"), ("bare CR", b"0\r\nFoo: b\rar\r\n\r\n"), ("NUL", b"0\r\nFoo: b\x00ar\r\n\r\n"),
    ("control byte in name", b"0\r\nF\x01oo: bar\r\n\r\n"), ("a request line", b"0\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"),
)


@pytest.mark.parametrize("body", BAD_CHUNKS)
def test_malformed_chunk_is_refused(sut, body):
    refused(sut, raw_head(b"Transfer-Encoding: chunked", body=body))


@pytest.mark.parametrize("body", cases(("16 digits", b"FFFFFFFFFFFFFFFF\r\nx\r\n" + LAST_CHUNK),
                                       ("2^63", b"8000000000000000\r\nx\r\n" + LAST_CHUNK),
                                       ("2^63-1", b"7fffffffffffffff\r\nx\r\n" + LAST_CHUNK),
                                       ("2^32+1", b"100000001\r\nx\r\n" + LAST_CHUNK),
                                       ("sum over 2^64", b"1\r\nx\r\nFFFFFFFFFFFFFFFF\r\nx\r\n" + LAST_CHUNK)))
def test_huge_chunk_is_refused(sut, body):
    refused(sut, raw_head(b"Transfer-Encoding: chunked", body=body), (400, 413), ("malformed", "body_too_large"))


@pytest.mark.parametrize("body", BAD_TRAILERS)
def test_malformed_trailer_is_refused(sut, body):
    refused(sut, raw_head(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n" + body))


@pytest.mark.parametrize("body", cases(("extension", b"1;" + b"a" * 200_000 + b"\r\nx\r\n" + LAST_CHUNK),
                                       ("trailers", b"0\r\n" + b"Foo: bar\r\n" * 20_000 + b"\r\n")))
def test_endless_chunk_lines_are_refused(sut, body):
    with connect(sut.port) as c:
        c.send(raw_head(b"Transfer-Encoding: chunked", body=body))
        problem(c.read_response(), (400, 413, 431), ("malformed", "body_too_large", "head_too_large"))
        c.wait_closed()
    sut.settle()
    assert sum(r.complete for r in sut.up.requests if r.target == "/x") == 0


# 6: the head

HEADS = cases(
    ("bare LF behind request line", b"GET /x HTTP/1.1\nHost: weir.test\r\n\r\n"),
    ("bare LF behind field", b"GET /x HTTP/1.1\r\nHost: weir.test\nX-A: b\r\n\r\n"),
    ("bare LF at the end", b"GET /x HTTP/1.1\r\nHost: weir.test\r\n\n"),
    ("bare LF throughout", b"GET /x HTTP/1.1\nHost: weir.test\n\n"),
    ("LF CR", b"GET /x HTTP/1.1\r\nHost: weir.test\n\r\n\r\n"),
    ("bare CR behind request line", b"GET /x HTTP/1.1\rHost: weir.test\r\n\r\n"),
    ("CR CR LF", b"GET /x HTTP/1.1\r\r\nHost: weir.test\r\n\r\n"),
    ("CR CR LF behind field", b"GET /x HTTP/1.1\r\nHost: weir.test\r\r\n\r\n"),
    ("folded with space", raw_head(b"X-A: b", b" c", first=b"GET /x HTTP/1.1")),
    ("folded with tab", raw_head(b"X-A: b", b"\tc", first=b"GET /x HTTP/1.1")),
    ("folded Host", raw_head(first=b"GET /x HTTP/1.1", host=b"Host:\r\n weir.test")),
    ("space before first field", raw_head(first=b"GET /x HTTP/1.1", host=b" Host: weir.test")),
    ("tab before first field", raw_head(first=b"GET /x HTTP/1.1", host=b"\tHost: weir.test")),
    ("line of spaces", raw_head(b"   ", first=b"GET /x HTTP/1.1")),
    ("empty name", raw_head(b": b", first=b"GET /x HTTP/1.1")),
    ("only a colon", raw_head(b":", first=b"GET /x HTTP/1.1")),
    ("no colon", raw_head(b"X-A", first=b"GET /x HTTP/1.1")),
    ("no colon, with value", raw_head(b"X-A b", first=b"GET /x HTTP/1.1")),
    ("space before colon", raw_head(b"X-A : b", first=b"GET /x HTTP/1.1")),
    ("tab before colon", raw_head(b"X-A\t: b", first=b"GET /x HTTP/1.1")),
    ("space before colon of Host", raw_head(first=b"GET /x HTTP/1.1", host=b"Host : weir.test")),
    ("space before colon of length", raw_head(b"Content-Length : 5", body=b"hello")),
    ("NUL in value", raw_head(b"X-A: b\x00c", first=b"GET /x HTTP/1.1")),
    ("NUL at value's end", raw_head(b"X-A: b\x00", first=b"GET /x HTTP/1.1")),
    ("CR in value", raw_head(b"X-A: b\rc", first=b"GET /x HTTP/1.1")),
    ("CR at value's start", raw_head(b"X-A:\rb", first=b"GET /x HTTP/1.1")),
    ("NUL in Host", raw_head(first=b"GET /x HTTP/1.1", host=b"Host: weir\x00.test")),
    *((f"{byte:#04x} in name", raw_head(b"X-%c-A: b" % byte, first=b"GET /x HTTP/1.1"))
      for byte in (0x00, 0x01, 0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x1b, 0x20, 0x22, 0x28, 0x29, 0x2c, 0x2f, 0x3b, 0x3c, 0x3d,
                   0x3f, 0x40, 0x5b, 0x5c, 0x7b, 0x7d, 0x7f, 0x80, 0xa0, 0xe9, 0xff)),
)


@pytest.mark.parametrize("raw", HEADS)
def test_malformed_head_is_refused(sut, raw):
    refused(sut, raw)


REQUEST_LINES = cases(
    ("no method", b" /x HTTP/1.1"), ("no target", b"GET HTTP/1.1"), ("empty target", b"GET  HTTP/1.1"),
    ("only method", b"GET"), ("no version", b"GET /x"), ("no version, space", b"GET /x "),
    ("two spaces before target", b"GET  /x HTTP/1.1"), ("two spaces before version", b"GET /x  HTTP/1.1"),
    ("tab before target", b"GET\t/x HTTP/1.1"), ("tab before version", b"GET /x\tHTTP/1.1"),
    ("space in target", b"GET /x y HTTP/1.1"), ("space behind version", b"GET /x HTTP/1.1 "),
    ("space before method", b" GET /x HTTP/1.1"), ("method with bracket", b"GE(T /x HTTP/1.1"),
    ("method with colon", b"GET: /x HTTP/1.1"), ("method with NUL", b"GE\x00T /x HTTP/1.1"), ("method with 8 bit", b"G\xc9T /x HTTP/1.1"),
    ("method with quotes", b'"GET" /x HTTP/1.1'), ("a field", b"X-A: b"), ("no text", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("NUL behind version", b"GET /x HTTP/1.1\x00"),
)


@pytest.mark.parametrize("first", REQUEST_LINES)
def test_malformed_request_line_is_refused(sut, first):
    refused(sut, raw_head(first=first))


@pytest.mark.parametrize("first", cases(
    ("lower case", b"GET /x http/1.1"), ("other protocol", b"GET /x HTTQ/1.1"), ("no minor", b"GET /x HTTP/1"),
    ("no dot", b"GET /x HTTP/11"), ("leading zero", b"GET /x HTTP/01.1"), ("two-digit minor", b"GET /x HTTP/1.10"),
    ("letter behind", b"GET /x HTTP/1.1x"), ("space inside", b"GET /x HTTP/ 1.1"), ("space before dot", b"GET /x HTTP/1 .1"),
    ("letters", b"GET /x HTTP/a.b"), ("minus", b"GET /x HTTP/-1.1"), ("comma", b"GET /x HTTP/1,1"), ("no slash", b"GET /x HTTP1.1")))
def test_malformed_version_is_refused(sut, first):
    refused(sut, raw_head(first=first), (400, 505), ("malformed", "unsupported"))


# 7: Host

HOSTS = cases(
    ("missing", []), ("twice same", [b"Host: weir.test", b"Host: weir.test"]), ("twice different", [b"Host: weir.test", b"Host: other.test"]),
    ("twice other case", [b"Host: weir.test", b"hOST: weir.test"]), ("twice apart", [b"Host: weir.test", b"X-A: b", b"Host: weir.test"]),
    ("twice, one empty", [b"Host: weir.test", b"Host:"]), ("three times", [b"Host: a", b"Host: b", b"Host: c"]),
    ("space inside", [b"Host: weir test"]), ("slash", [b"Host: weir.test/x"]), ("list", [b"Host: weir.test, other.test"]),
    ("query", [b"Host: weir.test?x"]), ("fragment", [b"Host: weir.test#x"]), ("backslash", [b"Host: weir.test\\x"]),
)


@pytest.mark.parametrize("lines", HOSTS)
def test_bad_host_is_refused(sut, lines):
    refused(sut, raw_head(*lines, first=b"GET /x HTTP/1.1", host=None))


@pytest.mark.parametrize("lines", HOSTS[:3])
def test_bad_host_beside_an_absolute_target_is_refused(sut, lines):
    refused(sut, raw_head(*lines, first=b"GET http://weir.test/x HTTP/1.1", host=None))


@pytest.mark.parametrize("lines", HOSTS[1:3])
def test_host_twice_is_refused_on_http_1_0(sut, lines):
    refused(sut, raw_head(*lines, first=b"GET /x HTTP/1.0", host=None))


# 8: versions

@pytest.mark.parametrize("version", ["0.0", "0.9", "1.2", "1.9", "2.0", "2.1", "3.0", "9.9"])
def test_other_versions_are_refused_with_505(sut, version):
    refused(sut, request("GET", "/x", version=version), 505, "unsupported")


def test_the_http2_preface_is_refused(sut):
    with connect(sut.port) as c:
        c.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + SMUGGLED)
        problem(c.read_response(), (400, 505), ("malformed", "unsupported"))
        c.wait_closed()
    assert sut.settle() == []


# 9: targets

TARGETS = cases(
    ("no slash", b"x"), ("only query", b"?x"), ("asterisk", b"*"), ("dot", b"."), ("tab", b"/x\ty"), ("NUL", b"/x\x00y"),
    ("0x01", b"/x\x01y"), ("escape", b"/x\x1by"), ("DEL", b"/x\x7fy"), ("CR", b"/x\ry"), ("control in query", b"/x?a\x01b"),
    ("fragment", b"/x#y"), ("fragment behind query", b"/x?y#z"), ("only fragment", b"#x"), ("fragment at once", b"/#"),
    ("backslash", b"/x\\y"), ("backslash first", b"\\x"), ("backslash dots", b"/x\\..\\y"),
    ("broken escape at end", b"/x%"), ("half an escape", b"/x%2"), ("no hex", b"/x%zz"), ("half hex", b"/x%2g/y"), ("encoded NUL", b"/x%00"),
    ("encoded NUL inside", b"/x%00/y"),
    ("scheme without slashes", b"http:x"), ("one slash", b"http:/x"), ("no authority", b"http://"), ("no authority, path", b"http:///x"),
    ("other scheme", b"ftp://weir.test/x"), ("space in authority is a space", b"http://we ir/x"),
    ("dot segment", b"/./x"), ("dot segment last", b"/x/."), ("dots", b"/x/../y"), ("dots first", b"/../x"), ("dots last", b"/x/.."),
    ("dots alone", b"/.."), ("dot alone", b"/."), ("encoded dots", b"/x/%2e%2e/y"), ("upper case", b"/x/%2E%2E/y"), ("half encoded", b"/x/.%2e/y"),
    ("other half encoded", b"/x/%2e./y"), ("encoded dot", b"/x/%2e/y"), ("dots with parameter", b"/x/..;a=b/y"),
    ("dots with empty parameter", b"/x/..;/y"), ("dot with parameter", b"/x/.;a/y"), ("encoded dots with parameter", b"/x/%2e%2e;a/y"),
    ("dots behind double slash", b"/x//../y"), ("dots behind encoded slash", b"/x%2f../y"), ("dots before encoded slash", b"/x/..%2fy"),
    ("dots between encoded slashes", b"/x%2f..%2Fy"), ("dots before query", b"/x/..?y"), ("dots in absolute form", b"http://weir.test/x/../y"),
    ("fragment in absolute form", b"http://weir.test/x#y"),
)


@pytest.mark.parametrize("target", TARGETS)
def test_bad_target_is_refused(sut, target):
    refused(sut, raw_head(first=b"GET " + target + b" HTTP/1.1"))


@pytest.mark.parametrize("first", cases(
    ("CONNECT authority", b"CONNECT weir.test:443 HTTP/1.1"), ("CONNECT path", b"CONNECT /x HTTP/1.1"),
    ("CONNECT absolute", b"CONNECT http://weir.test/x HTTP/1.1"), ("TRACE", b"TRACE /x HTTP/1.1")))
def test_connect_and_trace_are_405(sut, first):
    refused(sut, raw_head(first=first), 405, "method", closes=False)


def test_connect_on_http_1_0_is_405(sut):
    refused(sut, b"CONNECT weir.test:443 HTTP/1.0\r\n\r\n", 405, "method", closes=False)


def test_options_asterisk_is_404(sut):
    refused(sut, raw_head(first=b"OPTIONS * HTTP/1.1"), 404, "no_route", closes=False)


# sizes and expectations: refused by a status of their own

@pytest.mark.parametrize("raw", cases(
    ("one long value", request("GET", "/x", [("X-A", "b" * 40_000)])),
    ("one long name", request("GET", "/x", [("X" * 40_000, "b")])),
    ("long target", request("GET", "/" + "x" * 40_000)),
    ("long query", request("GET", "/x?" + "y" * 40_000)),
    ("many lines", request("GET", "/x", [(f"X-{i}", "b" * 500) for i in range(90)])),
    ("101 fields", request("GET", "/x", [(f"X-{i}", "b") for i in range(100)])),
    ("200 fields", request("GET", "/x", [(f"X-{i}", "b") for i in range(199)])),
    ("101 fields of one name", request("GET", "/x", [("X-A", "b")] * 100)),
    ("1000 empty fields", request("GET", "/x", [("A", "")] * 1000))))
def test_too_large_a_head_is_431(sut, raw):
    refused(sut, raw, 431, "head_too_large")


@pytest.mark.parametrize("head", cases(
    ("one over", request("POST", "/x", [("Content-Length", MAX_BODY + 1)])),
    ("much over", request("POST", "/x", [("Content-Length", 10 ** 15)])),
    ("with expectation", request("POST", "/x", [("Content-Length", MAX_BODY + 1), ("Expect", "100-continue")])),
    ("GET", request("GET", "/x", [("Content-Length", MAX_BODY + 1)]))))
def test_too_long_a_content_length_is_413_before_the_body(sut, head):
    with connect(sut.port) as c:
        c.send(head)
        r = c.read_response()
        problem(r, 413, "body_too_large")
        assert r.interim == []
        c.wait_closed()
    assert sut.settle() == []


@pytest.mark.parametrize("value", ["foo", "100", "100-continue, foo", "100-continued", "200-ok", "100-continue;q=1"])
def test_unknown_expectation_is_417(sut, value):
    r = refused(sut, request("POST", "/x", [("Expect", value)], b"hello"), 417, "unsupported", closes=False)
    assert r.interim == []


# 10: in a pipeline, what stood before the bad one is served

PIPELINED = cases(
    ("two lengths", raw_head(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    ("both framings", raw_head(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=LAST_CHUNK)),
    ("bad chunk", raw_head(b"Transfer-Encoding: chunked", body=b"0x1\r\nx\r\n" + LAST_CHUNK)),
    ("folded", raw_head(b"X-A: b", b" c", first=b"GET /x HTTP/1.1")),
    ("bare LF", b"GET /x HTTP/1.1\nHost: a\n\n"),
    ("no Host", raw_head(first=b"GET /x HTTP/1.1", host=None)),
    ("garbage", b"\x00\x01\x02\x03\r\n\r\n"),
    ("dots", raw_head(first=b"GET /a/../x HTTP/1.1")),
    ("bare CR before", b"\r" + raw_head(first=b"GET /x HTTP/1.1")),
)


@pytest.mark.parametrize("bad", PIPELINED)
@pytest.mark.parametrize("before", cases(
    ("GET", [request("GET", "/a")]), ("POST", [request("POST", "/a", body=b"hello")]),
    ("chunked POST", [request("POST", "/a", body=[b"hel", b"lo"], chunked=True)]),
    ("three", [request("GET", "/a"), request("POST", "/b", body=b"hello"), request("HEAD", "/c")])))
def test_what_stood_before_the_bad_one_is_served(sut, before, bad):
    with connect(sut.port) as c:
        c.send(b"".join(before) + bad + SMUGGLED)
        for raw in before:
            assert c.read_response(method_of(raw)).status == 200
        problem(c.read_response(), 400, "malformed")
        c.wait_closed()
    assert sut.settle() == ["/a", "/b", "/c"][:len(before)]
    assert all(r.complete for r in sut.up.requests)


# a body that is not the head's: what follows it is a request of its own, and only that

@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_on_any_method_is_a_body_and_not_a_request(sut, method, chunked):
    inner = request("GET", "/hidden")
    with connect(sut.port) as c:
        c.send(request(method, "/a", body=inner, chunked=chunked) + request("GET", "/b"))
        assert c.read_response(method).status == 200
        assert c.read_response().status == 200
    assert sut.settle() == ["/a", "/b"]
    assert sut.up.requests[0].body == inner


def test_a_body_without_length_is_the_next_request(sut):
    with connect(sut.port) as c:
        c.send(request("POST", "/a") + request("GET", "/b"))
        assert [c.read_response().status for _ in range(2)] == [200, 200]
    assert sut.settle() == ["/a", "/b"]


# 12: trailers

@pytest.mark.parametrize("name", ["X-Tenant-ID", "x-tenant-id", "X-Correlation-ID", "Host", "Content-Length", "Transfer-Encoding",
                                  "Authorization", "Connection", "Expect"])
def test_a_trailer_is_never_a_header(sut, name):
    body = chunk(b"hello") + b"0\r\n" + f"{name}: 7evil\r\n\r\n".encode()
    with connect(sut.port) as c:
        c.send(raw_head(b"Transfer-Encoding: chunked", b"Trailer: " + name.encode(), body=body) + request("GET", "/b"))
        first, second = c.read_response(), c.read_response()
    if first.status == 400:   # a framing or routing field in a trailer may be refused, RFC 9110 6.5.1
        assert name in ("Host", "Content-Length", "Transfer-Encoding", "Authorization", "Connection", "Expect"), first
        return
    assert (first.status, second.status) == (200, 200)
    assert sut.settle() == ["/x", "/b"]
    for seen in sut.up.requests:
        assert "7evil" not in str(seen.headers) and "7evil" not in str(seen.trailers), seen
    assert all("7evil" not in str(line) for line in sut.w.log)


# 14: no upgrade to HTTP/2

@pytest.mark.parametrize("headers", cases(
    ("h2c", [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]),
    ("upper case", [("Connection", "upgrade, http2-settings"), ("Upgrade", "H2C"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]),
    ("not named by Connection", [("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]),
    ("among others", [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "foo, h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")])))
def test_upgrade_to_h2c_never_happens(sut, headers):
    with connect(sut.port) as c:
        c.send(request("GET", "/x", headers) + request("GET", "/b"))
        assert [c.read_response().status for _ in range(2)] == [200, 200]
    assert sut.settle() == ["/x", "/b"]
    seen = sut.up.requests[0]
    assert "Upgrade" not in seen.headers and "HTTP2-Settings" not in seen.headers, seen


def test_an_upstream_cannot_switch_protocols_unasked(start_upstream, start_weir):
    up = start_upstream(script=[b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"])
    w = start_weir(base_config(up.port))
    r = exchange(w.port, request("GET", "/x", [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]))
    problem(r, 502, "bad_response")


# Connection cannot take away what frames or routes a request

@pytest.mark.parametrize("named", ["Host", "Content-Length", "Transfer-Encoding", "content-length, host"])
def test_connection_cannot_drop_framing_or_host(sut, named):
    chunked = "Transfer" in named
    with connect(sut.port) as c:
        c.send(request("POST", "/x", [("Connection", named)], b"GET /hidden HTTP/1.1\r\n\r\n", chunked=chunked) + request("GET", "/b"))
        first = c.read_response()
        if first.status == 400:
            problem(first, 400, "malformed")
            c.wait_closed()
            assert sut.settle() == []
            return
        assert (first.status, c.read_response().status) == (200, 200)
    assert sut.settle() == ["/x", "/b"]
    assert sut.up.requests[0].body == b"GET /hidden HTTP/1.1\r\n\r\n"


# the same, arriving in pieces

SPLIT = cases(
    ("two lengths", raw_head(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    ("both framings", raw_head(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=LAST_CHUNK)),
    ("folded", raw_head(b"X-A: b", b" c", first=b"GET /x HTTP/1.1")),
    ("bare LF", b"GET /x HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n"),
    ("bare CR", b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n"),
    ("space before colon", raw_head(b"Content-Length : 5", body=b"hello")),
    ("Host twice", raw_head(b"Host: b", first=b"GET /x HTTP/1.1")),
    ("dots", raw_head(first=b"GET /a/../b HTTP/1.1")),
    ("0x chunk", raw_head(b"Transfer-Encoding: chunked", body=b"0x1\r\nx\r\n" + LAST_CHUNK)),
    ("empty chunk size", raw_head(b"Transfer-Encoding: chunked", body=b"\r\nx\r\n" + LAST_CHUNK)),
    ("chunk with bare LF", raw_head(b"Transfer-Encoding: chunked", body=b"1\nx\r\n" + LAST_CHUNK)),
    ("chunk with bare CR", raw_head(b"Transfer-Encoding: chunked", body=b"1\rx\r\n" + LAST_CHUNK)),
    ("chunk data too long", raw_head(b"Transfer-Encoding: chunked", body=b"1\r\nxy\r\n" + LAST_CHUNK)),
    ("17 digits", raw_head(b"Transfer-Encoding: chunked", body=b"0" * 16 + b"1\r\nx\r\n" + LAST_CHUNK)),
    ("end with bare LF", raw_head(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\n")),
    ("bad trailer", raw_head(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\nFoo\r\n\r\n")),
)


@pytest.mark.parametrize("raw", SPLIT)
def test_arriving_byte_by_byte_it_is_refused_too(sut, raw):
    with connect(sut.port) as c:
        for i in range(len(raw)):
            if not c.send(raw[i:i + 1]):
                break
        c.send(SMUGGLED)
        problem(c.read_response(), 400, "malformed")
        c.wait_closed()
    sut.settle()
    assert not [r for r in sut.up.requests if r.complete and r.target != "/settle"]


@pytest.mark.parametrize("body", [*BAD_CHUNKS, *BAD_TRAILERS])
def test_a_body_that_goes_bad_later_is_never_complete_upstream(sut, body):
    """The head and a good chunk are upstream already when the bad bytes come."""
    with connect(sut.port) as c:
        c.send(raw_head(b"Transfer-Encoding: chunked", body=chunk(b"good")))
        sut.up.wait_heads(1)
        c.send(body + SMUGGLED)
        problem(c.read_response(), 400, "malformed")
        c.wait_closed()
    sut.up.wait_gone(1)
    assert sut.settle() == ["/x"]
    assert not sut.up.requests[0].complete


def test_a_refused_request_is_named_and_logged(sut):
    r = refused(sut, raw_head(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"))
    line = sut.w.wait_log(correlation_id=r.header("X-Correlation-ID"))
    assert (line["status"], line["reason"], line["listener"]) == (400, "malformed", "in")


def test_refusals_are_counted(sut):
    before = sut.w.metric("weir_refused_total", reason="malformed")
    for _ in range(3):
        refused(sut, raw_head(first=b"GET /../x HTTP/1.1"))
    sut.w.wait_metric("weir_refused_total", before + 3, reason="malformed")


def test_a_stub_that_is_strict_finds_what_is_smuggled():
    """The measure itself: sent to the stub without weir in between, every class is refused there as well."""
    found = 0
    with Upstream(lenient=True) as up:
        for row in (*TWICE, *BOTH, *CODINGS[:6], *HEADS):
            raw = row.values[0] if isinstance(row.values[0], bytes) else raw_head(*row.values[0], body=chunk(b"hello") + LAST_CHUNK)
            with connect(up.port) as c:
                c.send(raw)
                assert c.read_response().status == 400, (row.id, raw)
                found += 1
        assert len(up.errors) == found and up.complete == 0
