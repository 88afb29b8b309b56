"""Valid but unusual requests and answers pass, byte-exact where a byte can matter, and hop-by-hop rules hold both ways."""
import threading
import time

import pytest

from harness import (CLOSE, LAST_CHUNK, SharedWeir, Upstream, base_config, chunk, chunked_reply, connect, exchange, get, problem,
                     reply, request)


@pytest.fixture(scope="module")
def shared():
    """One weir for the whole file; its upstream answers by whatever the test puts into `w.up.answer`."""
    with Upstream(lambda peer: peer.upstream.answer(peer)) as up, SharedWeir(base_config(up.port)) as one:
        yield one, up


def ok(peer):
    return reply(200, b"" if peer.request.method == "HEAD" else b"ok")


@pytest.fixture
def w(shared):
    one, up = shared
    up.clear()
    up.answer = ok
    with one.borrowed() as w:
        w.up = up
        yield w
    assert up.errors == [], "the upstream was sent something malformed"


def answering(w, raw):
    """From now on the upstream sends these bytes for every request."""
    w.up.answer = lambda peer: raw


def seen(w, raw, method=None):
    """Sends `raw`, wants 200, and returns the one request that the upstream saw."""
    r = exchange(w.port, raw, method)
    assert r.status == 200 and r.clean, r
    assert w.up.complete == 1, w.up.requests
    return w.up.requests[0]


# request bodies and their framing

def test_chunked_upload_with_extensions_upper_case_and_trailers(w):
    body = (chunk(b"a" * 10, b";name=value") + b"A;x;y=\"quoted; \\\" string\"\r\n" + b"b" * 10 + b"\r\n"
            + b"00000001\r\nc\r\n" + b"1a ; spaced = \"ext\"\r\n" + b"d" * 26 + b"\r\n"
            + b"000;last\r\nX-Trailer: dropped\r\nX-Tenant-ID: evil\r\n\r\n")
    got = seen(w, request("POST", "/up", [("Transfer-Encoding", "chunked"), ("Trailer", "X-Trailer")]) + body)
    assert got.body == b"a" * 10 + b"b" * 10 + b"c" + b"d" * 26
    assert got.trailers == [] and "X-Trailer" not in got.headers and "X-Tenant-ID" not in got.headers


def test_chunked_in_any_case_and_with_white_space_around(w):
    for value in ("CHUNKED", "Chunked", "chunked \t", "\t chunked"):
        w.up.clear()
        got = seen(w, request("POST", "/", [("Transfer-Encoding", value)]) + chunk(b"hello") + LAST_CHUNK)
        assert got.body == b"hello"


def test_an_empty_chunked_body(w):
    assert seen(w, request("POST", "/", chunked=True)).body == b""


def test_a_chunked_upload_of_one_byte_chunks(w):
    got = seen(w, request("POST", "/", body=[b"%c" % (i % 256) for i in range(3000)], chunked=True))
    assert got.body == bytes(i % 256 for i in range(3000))


def test_content_length_zero_is_kept(w):
    got = seen(w, request("POST", "/", body=b""))
    assert got.body == b"" and got.header("Content-Length") == "0"


def test_post_without_any_length(w):
    assert seen(w, request("POST", "/")).body == b""


def test_white_space_around_content_length(w):
    assert seen(w, request("POST", "/", [("Content-Length", " \t5 \t")]) + b"hello").body == b"hello"


def test_get_with_a_body(w):
    got = seen(w, request("GET", "/", body=b"hello"))
    assert (got.method, got.body) == ("GET", b"hello")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "PROPFIND", "M-SEARCH", "get", "X!#$%&'*+.^_`|~-9"])
def test_methods_pass_as_they_are(w, method):
    got = seen(w, request(method, "/x", body=b"hello"))
    assert (got.method, got.target, got.body) == (method, "/x", b"hello")


def test_a_request_arriving_byte_by_byte(w):
    raw = request("POST", "/slow", [("X-A", "b")], [b"hello", b"world"], chunked=True)
    with connect(w.port) as c:
        for i in range(len(raw)):
            c.send(raw[i:i + 1])
        assert c.read_response().status == 200
    assert w.up.requests[0].body == b"helloworld"


def test_the_answer_comes_before_the_upload_has_ended(start_upstream, start_weir):
    up = start_upstream(lambda p: p.send(reply(403, b"no", [("Connection", "close")])), early=True)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Content-Length", "1000000")]) + b"x" * 1000)
        r = c.read_response()
        assert (r.status, r.body, r.clean) == (403, b"no", True)


# Expect

def test_expect_100_continue_is_answered_and_then_the_body_goes_up(w):
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Expect", "100-continue"), ("Content-Length", "5")]))
        interim = c.read_head()
        assert interim.status == 100, interim
        c.send(b"hello")
        r = c.read_response()
        assert r.status == 200 and r.interim == []
    assert w.up.requests[0].body == b"hello"


def test_expect_100_continue_chunked_and_in_any_case(w):
    with connect(w.port) as c:
        c.send(request("POST", "/", [("expect", "100-Continue"), ("Transfer-Encoding", "chunked")]))
        assert c.read_head().status == 100
        c.send(chunk(b"hello") + LAST_CHUNK)
        assert c.read_response().status == 200
        c.send(request("GET", "/again"))
        assert c.read_response().status == 200
    assert w.up.requests[0].body == b"hello"


def test_expect_100_continue_with_the_body_sent_at_once(w):
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Expect", "100-continue")], b"hello") + request("GET", "/b"))
        first, second = c.read_response(), c.read_response()
        assert (first.status, second.status) == (200, 200)
        assert [i.status for i in first.interim] in ([], [100])
    assert w.up.requests[0].body == b"hello"


def test_expect_without_a_body_is_no_reason_to_wait(w):
    assert exchange(w.port, request("GET", "/", [("Expect", "100-continue")])).status == 200


def test_expect_from_an_http_1_0_caller_is_ignored(w):
    with connect(w.port) as c:
        c.send(request("POST", "/", [("Expect", "100-continue"), ("Content-Length", "5")], version="1.0") + b"hello")
        r = c.read_response()
        assert r.status == 200 and r.interim == []


def test_a_refused_request_gets_its_refusal_in_place_of_100(start_upstream, start_weir):
    up = start_upstream()
    config = base_config(up.port, limits={"one": {"rate": "1/h", "burst": 1, "key": []}}, route={"limits": ["one"], "path": "/in"})
    w = start_weir(config)
    expecting = [("Expect", "100-continue"), ("Content-Length", "5")]
    with connect(w.port) as c:
        c.send(request("POST", "/in", expecting))
        assert c.read_head().status == 100
        c.send(b"hello")
        assert c.read_response().status == 200
    r = exchange(w.port, request("POST", "/in", expecting))
    problem(r, 429, "limit")
    assert r.interim == []
    r = exchange(w.port, request("POST", "/elsewhere", expecting))
    problem(r, 404, "no_route")
    assert r.interim == []
    assert up.heads == 1


# slow but steady

@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_steady_slow_upload_may_take_longer_than_any_timeout(start_upstream, start_weir, chunked):
    up = start_upstream()
    w = start_weir(base_config(up.port, server={"timeouts": {"head": "1s", "body": "1s", "idle": "1s"}}))
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "12")
    with connect(w.port) as c:
        c.send(request("POST", "/", [framing]))
        for i in range(12):
            time.sleep(0.25)
            assert c.send(chunk(b"%x" % i) if chunked else b"%x" % i)
        c.send(LAST_CHUNK if chunked else b"")
        assert c.read_response().status == 200
    assert up.requests[0].body == b"0123456789ab"


# fields

def test_empty_values_and_white_space_around_values(w):
    got = seen(w, request("GET", "/", [("X-Empty", ""), ("X-Spaces", "   "), ("X-Around", " \t inner  space \t ")]).replace(
        b"X-Empty: ", b"X-Empty:"))
    assert (got.header("X-Empty"), got.header("X-Spaces"), got.header("X-Around")) == ("", "", "inner  space")


def test_names_in_any_case_and_of_any_token(w):
    got = seen(w, b"POST / HTTP/1.1\r\nhOST: weir.test\r\ncontent-LENGTH: 5\r\nx!#$%&'*+-.^_`|~9: v\r\n\r\nhello")
    assert got.body == b"hello" and got.header("x!#$%&'*+-.^_`|~9") == "v"


def test_values_may_have_8_bit_bytes_and_tabs(w):
    answering(w, reply(200, b"ok", [("X-Name", "caf\xe9\t\xff\x80")]))
    r = exchange(w.port, request("GET", "/", [("X-Name", "caf\xe9\t\xff\x80")]))
    assert r.header("X-Name") == "caf\xe9\t\xff\x80"
    assert w.up.requests[0].header("X-Name") == "caf\xe9\t\xff\x80"


def test_fields_of_one_name_stay_apart_and_in_order(w):
    got = seen(w, request("GET", "/", [("X-A", "1"), ("Cookie", "a=1"), ("X-A", "2"), ("Cookie", "b=2"), ("x-a", "3")]))
    assert got.headers.all("X-A") == ["1", "2", "3"]
    assert "; ".join(got.headers.all("Cookie")) == "a=1; b=2"


def test_exactly_100_fields(w):
    got = seen(w, request("GET", "/", [(f"X-{i}", str(i)) for i in range(99)]))
    assert all(got.header(f"X-{i}") == str(i) for i in range(99))


def test_a_head_just_under_max_head(w):
    size = 32 * 1024 - len(request("GET", "/", [("X-A", "")])) - 16
    assert len(seen(w, request("GET", "/", [("X-A", "b" * size)])).header("X-A")) == size


def test_a_target_just_under_max_head(w):
    assert len(seen(w, request("GET", "/" + "x" * 30_000)).target) == 30_001


# targets and hosts

@pytest.mark.parametrize("target", [
    "/a%2Fb", "/a%2fb/%41%7e", "/a//b", "//a", "/a/", "/a;x=1;y/b", "/%20%25", "/a%5Cb", "/...", "/..a/b..", "/.well-known/x", "/a/...;x",
    "/!$&'()*+,-.:;=@_~", "/%e4%bd%a0", "/%E4%BD%A0", "/%ff%fe", "/a%0d%0ab", "/?", "/??", "/?a=b&c[]=d", "/?a=../..&b=/./",
    "/?x=%00", "/?x=100%", "/?a=!$&'()*+,;:@/?-._~|", "/?http://other.test/", "/http://other.test/"])
def test_targets_go_up_byte_for_byte(w, target):
    assert seen(w, request("GET", target)).target == target


@pytest.mark.parametrize("host", ["weir.test:8080", "127.0.0.1", "[::1]:80", "WEIR.test", "xn--bcher-kva.example", "a_b.test"])
def test_hosts_of_any_shape(w, host):
    assert exchange(w.port, request("GET", "/", host=host)).status == 200


@pytest.mark.parametrize("target, origin", [
    ("http://other.test/x?y", "/x?y"), ("http://other.test:81/x", "/x"), ("http://other.test", "/"), ("http://other.test?x", "/?x"),
    ("HTTP://other.test/x", "/x"), ("http://other.test/a%2Fb//c", "/a%2Fb//c")])
def test_absolute_form_goes_up_in_origin_form_and_its_authority_is_the_host(start_upstream, start_weir, target, origin):
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"host": "preserve"}))
    r = exchange(w.port, request("GET", target, host=target.partition("//")[2].partition("/")[0].partition("?")[0]))
    assert r.status == 200, r
    assert up.requests[0].target == origin
    assert up.requests[0].header("Host").startswith("other.test")


def test_the_authority_of_the_absolute_form_wins_over_host(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"host": "preserve"}))
    r = exchange(w.port, request("GET", "http://other.test/x", host="weir.test"))
    assert r.status in (200, 400), r      # RFC 9112 3.2.2 replaces; cases.md 7 may be read as a refusal
    assert [q.header("Host") for q in up.requests] == (["other.test"] if r.status == 200 else [])


def test_host_of_the_upstream_is_sent_unless_preserved(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    assert get(w.port).status == 200
    assert up.requests[0].header("Host") == f"127.0.0.1:{up.port}"


def test_host_preserved(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"host": "preserve"}))
    assert get(w.port, host="weir.test:99").status == 200
    assert up.requests[0].header("Host") == "weir.test:99"


# versions and connections

def test_http_1_0_without_keep_alive_is_closed(w):
    with connect(w.port) as c:
        c.send(request("GET", "/", version="1.0"))
        r = c.read_response()
        assert (r.status, r.body, r.end) == (200, b"ok", "length") and "Transfer-Encoding" not in r.headers
        assert c.wait_closed() == "fin"


def test_http_1_0_with_keep_alive_goes_on(w):
    with connect(w.port) as c:
        for i in range(3):
            c.send(request("GET", f"/{i}", [("Connection", "keep-alive")], version="1.0"))
            r = c.read_response()
            assert r.status == 200 and r.header("Connection", "").lower() == "keep-alive", r
        c.send(request("GET", "/last", version="1.0"))
        assert c.read_response().status == 200
        assert c.wait_closed() == "fin"
    assert w.up.complete == 4


def test_http_1_0_without_host(w):
    got = seen(w, request("GET", "/", version="1.0", host=None))
    assert got.header("Host") and got.version == "1.1"


def test_http_1_0_upload(w):
    assert seen(w, request("POST", "/", body=b"hello", version="1.0")).body == b"hello"


@pytest.mark.parametrize("answer", [chunked_reply([b"hel", b"lo"]), reply(200, b"hello", length=False)], ids=["chunked", "no length"])
def test_http_1_0_caller_gets_no_chunks(w, answer):
    w.up.answer = (lambda p: answer) if b"chunked" in answer else (lambda p: p.run([answer, CLOSE]))
    with connect(w.port) as c:
        c.send(request("GET", "/", [("Connection", "keep-alive")], version="1.0"))
        r = c.read_response()
        assert (r.status, r.body, r.clean) == (200, b"hello", True) and "Transfer-Encoding" not in r.headers, r
        assert r.header("Connection", "close").lower() == "close" or r.end == "length"


@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close", "close, x-a", "CLOSE"])
def test_connection_close_is_honoured(w, value):
    with connect(w.port) as c:
        c.send(request("GET", "/", [("Connection", value)]) + request("GET", "/never"))
        r = c.read_response()
        assert r.status == 200 and r.header("Connection", "").lower() == "close", r
        c.wait_closed()
    assert [q.target for q in w.up.requests] == ["/"]


def test_an_empty_line_before_the_request_line(w):
    with connect(w.port) as c:
        c.send(b"\r\n" + request("GET", "/a") + b"\r\n" + request("GET", "/b"))
        assert [c.read_response().status for _ in range(2)] == [200, 200]
    assert [q.target for q in w.up.requests] == ["/a", "/b"]


def test_pipelined_requests_are_answered_in_order(w):
    w.up.answer = lambda p: (time.sleep(0.05 if p.request.target == "/0" else 0), reply(200, p.request.target.encode()))[1]
    with connect(w.port) as c:
        c.send(b"".join(request("POST" if i % 3 else "GET", f"/{i}", body=b"x" * i if i % 3 else None, chunked=i % 3 == 2) for i in range(30)))
        assert [c.read_response().body for _ in range(30)] == [b"/%d" % i for i in range(30)]
    assert [len(q.body) for q in w.up.requests] == [i if i % 3 else 0 for i in range(30)]


def test_pipelined_requests_cut_at_every_place(w):
    raw = request("POST", "/a", body=b"hello") + request("POST", "/b", body=[b"x", b"y"], chunked=True) + request("GET", "/c")
    for at in range(1, len(raw), 3):
        w.up.clear()
        with connect(w.port) as c:
            c.send(raw[:at])
            time.sleep(0.002)
            c.send(raw[at:])
            assert [c.read_response().status for _ in range(3)] == [200] * 3, at
        assert [(q.target, q.body) for q in w.up.requests] == [("/a", b"hello"), ("/b", b"xy"), ("/c", b"")], at


def test_over_100_requests_on_one_connection(w):
    with connect(w.port) as c:
        for i in range(150):
            c.send(request("GET", f"/{i}"))
            assert c.read_response().status == 200
    assert w.up.complete == 150


# answers

def test_head_keeps_content_length_and_has_no_body(w):
    w.up.answer = lambda p: reply(200, b"", [("Content-Length", "1234")], length=False) if p.request.method == "HEAD" else ok(p)
    with connect(w.port) as c:
        c.send(request("HEAD", "/") + request("GET", "/b"))
        r = c.read_response("HEAD")
        assert (r.status, r.header("Content-Length")) == (200, "1234")
        assert c.read_response().body == b"ok"
    assert w.up.requests[1].conn == w.up.requests[0].conn, "a connection was given up for no reason"


@pytest.mark.parametrize("framing", [[], [("Transfer-Encoding", "chunked")], [("Content-Length", "0")]], ids=["none", "chunked", "0"])
def test_head_of_any_framing(w, framing):
    w.up.answer = lambda p: reply(200, b"", framing, length=False) if p.request.method == "HEAD" else ok(p)
    with connect(w.port) as c:
        c.send(request("HEAD", "/") + request("GET", "/b"))
        assert c.read_response("HEAD").status == 200
        assert c.read_response().body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(w, status):
    w.up.answer = lambda p: reply(status, b"", [("ETag", '"x"')], length=False) if p.request.target == "/a" else ok(p)
    with connect(w.port) as c:
        c.send(request("GET", "/a") + request("GET", "/b"))
        r = c.read_response()
        assert (r.status, r.end, r.header("ETag")) == (status, "none", '"x"') and "Transfer-Encoding" not in r.headers
        assert c.read_response().body == b"ok"
    assert w.up.requests[1].conn == w.up.requests[0].conn


def test_304_may_say_a_content_length(w):
    w.up.answer = lambda p: reply(304, b"", [("Content-Length", "1234")], length=False) if p.request.target == "/a" else ok(p)
    with connect(w.port) as c:
        c.send(request("GET", "/a") + request("GET", "/b"))
        r = c.read_response()
        assert r.status == 304 and r.header("Content-Length") in (None, "1234")
        assert c.read_response().body == b"ok"


@pytest.mark.parametrize("interim", [
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n" * 3,
    b"HTTP/1.1 199 Odd\r\nX: y\r\n\r\n"], ids=["100", "103", "102 three times", "199"])
def test_interim_answers_of_the_upstream_are_skipped(w, interim):
    answering(w, interim + reply(200, b"ok"))
    with connect(w.port) as c:
        c.send(request("GET", "/a") + request("GET", "/b"))
        for _ in range(2):
            r = c.read_response()
            assert (r.status, r.body) == (200, b"ok") and "Link" not in r.headers
            assert r.interim == []
    assert w.up.connections <= 1


def test_interim_answer_in_a_segment_of_its_own(w):
    w.up.answer = lambda p: p.run([b"HTTP/1.1 100 Continue\r\n\r\n", 0.05, b"HTTP/1.1 103 Hints\r\nA:", 0.05, b" b\r\n\r\n", 0.05, reply()])
    r = get(w.port)
    assert (r.status, r.body, r.interim) == (200, b"ok", [])


def test_an_answer_without_length_becomes_chunked(w):
    w.up.answer = lambda p: p.run([reply(200, b"hello", length=False), 0.1, CLOSE])
    with connect(w.port) as c:
        for _ in range(2):
            c.send(request("GET", "/"))
            r = c.read_response()
            assert (r.status, r.body, r.end) == (200, b"hello", "chunked"), r


def test_an_http_1_0_answer(w):
    w.up.answer = lambda p: p.run([reply(200, b"hello", version="1.0"), CLOSE])
    r = get(w.port)
    assert (r.status, r.body, r.end, r.version) == (200, b"hello", "length", "1.1")


def test_an_http_1_0_answer_without_length(w):
    w.up.answer = lambda p: p.run([reply(200, b"hello", version="1.0", length=False), CLOSE])
    r = get(w.port)
    assert (r.status, r.body, r.clean) == (200, b"hello", True)


def test_a_chunked_answer_with_extensions_and_trailers(w):
    answering(w, reply(200, b"", [("Transfer-Encoding", "Chunked"), ("Trailer", "X-Late")], length=False) + chunk(b"hello", b";a=b")
              + b"00A ;c\r\n0123456789\r\n0;last\r\nX-Late: 7trailer\r\nContent-Length: 3\r\n\r\n")
    with connect(w.port) as c:
        c.send(request("GET", "/") + request("GET", "/"))
        for _ in range(2):
            r = c.read_response()
            assert (r.status, r.body, r.clean) == (200, b"hello0123456789", True)
            assert r.trailers == [] and "X-Late" not in r.headers


def test_statuses_and_reason_phrases_of_any_kind(w):
    for line in (b"200 ", b"299 Odd One", b"404 Not Found", b"418 I'm a teapot", b"503 caf\xe9", b"599 x", b"205 Reset"):
        answering(w, b"HTTP/1.1 " + line + b"\r\nContent-Length: 0\r\n\r\n")
        r = get(w.port)
        assert r.status == int(line[:3]) and "Weir-Reason" not in r.headers, r


def test_set_cookie_twice_stays_two_in_order(w):
    answering(w, reply(200, b"ok", [("Set-Cookie", "a=1; Path=/"), ("X-A", "1"), ("Set-Cookie", "b=2, c"), ("X-A", "2")]))
    r = get(w.port)
    assert r.headers.all("Set-Cookie") == ["a=1; Path=/", "b=2, c"]
    assert r.headers.all("X-A") == ["1", "2"]


def test_date_and_server_are_the_upstreams_and_come_once(w):
    answering(w, reply(200, b"ok", [("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Server", "agent")]))
    r = get(w.port)
    assert (r.header("Date"), r.header("Server")) == ("Sun, 06 Nov 1994 08:49:37 GMT", "agent")


def test_a_large_answer_head(w):
    answering(w, reply(200, b"ok", [("X-A", "b" * 50_000)]))
    assert len(get(w.port).header("X-A")) == 50_000


def test_an_answer_arriving_byte_by_byte(w):
    raw = chunked_reply([b"hel", b"lo"], [("X-A", "b")])
    w.up.answer = lambda p: [p.send(raw[i:i + 1]) for i in range(len(raw))] and None
    r = get(w.port)
    assert (r.status, r.body, r.header("X-A")) == (200, b"hello", "b")


# hop by hop

def test_hop_by_hop_fields_of_a_request_are_dropped(w):
    got = seen(w, request("GET", "/", [
        ("Connection", "keep-alive, X-Drop"), ("Connection", "x-other"), ("X-Drop", "1"), ("X-Other", "2"), ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"), ("TE", "trailers"), ("Upgrade", "foo/2"), ("X-Keep", "3")]))
    for name in ("X-Drop", "X-Other", "Keep-Alive", "Proxy-Connection", "TE", "Upgrade", "Transfer-Encoding"):
        assert name not in got.headers, got
    assert got.header("X-Keep") == "3"
    assert "X-Drop" not in got.header("Connection", "")


def test_hop_by_hop_fields_of_an_answer_are_dropped(w):
    answering(w, reply(200, b"ok", [
        ("Connection", "keep-alive, X-Drop"), ("X-Drop", "1"), ("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive"),
        ("Upgrade", "foo/2"), ("X-Keep", "3")]))
    with connect(w.port) as c:
        c.send(request("GET", "/") + request("GET", "/"))
        for _ in range(2):
            r = c.read_response()
            for name in ("X-Drop", "Keep-Alive", "Proxy-Connection", "Upgrade"):
                assert name not in r.headers, r
            assert r.header("X-Keep") == "3" and "X-Drop" not in r.header("Connection", "")


def test_connection_close_of_the_upstream_is_not_the_callers(w):
    w.up.answer = lambda p: p.run([reply(200, b"ok", [("Connection", "close")]), CLOSE])
    with connect(w.port) as c:
        for _ in range(3):
            c.send(request("GET", "/"))
            r = c.read_response()
            assert r.status == 200 and r.header("Connection", "").lower() != "close", r


def test_connection_close_of_the_caller_is_not_the_upstreams(w):
    for i in range(3):
        assert exchange(w.port, request("GET", "/", [("Connection", "close")])).status == 200
    assert all("close" not in q.header("Connection", "").lower() for q in w.up.requests)


def test_connection_cannot_take_identity_away(w):
    got = seen(w, request("GET", "/", [
        ("Connection", "x-tenant-id, x-correlation-id, traceparent"), ("X-Tenant-ID", "acme"), ("X-Correlation-ID", "odd-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]))
    assert (got.header("X-Tenant-ID"), got.header("X-Correlation-ID")) == ("acme", "odd-1")
    assert got.header("traceparent") == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert w.wait_log(correlation_id="odd-1")["tenant"] == "acme"


def test_via_and_forwarded_tell_where_a_request_came_from(w):
    got = seen(w, request("GET", "/", [("X-Forwarded-For", "192.0.2.1"), ("Via", "1.1 first")]))
    via = ", ".join(got.headers.all("Via"))
    assert via.startswith("1.1 first") and len(via) > len("1.1 first")
    forwarded = ", ".join(got.headers.all("X-Forwarded-For") + got.headers.all("Forwarded"))
    assert "192.0.2.1" in forwarded and "127.0.0.1" in forwarded


def test_x_forwarded_for_and_proto_of_a_first_hop(w):
    got = seen(w, request("GET", "/"))
    assert got.header("X-Forwarded-For") == "127.0.0.1" and got.header("X-Forwarded-Proto") == "http"
    assert got.header("Via")


# other ways in

def test_a_unix_socket_listener(start_upstream, start_weir, tmp_path):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"address": f"unix://{tmp_path}/in.sock"}))
    r = exchange(w.paths["in"], request("POST", "/x", body=b"hello"))
    assert (r.status, up.requests[0].body) == (200, b"hello")


def test_metrics_paths_on_a_data_listener_are_ordinary_paths(w):
    for path in ("/metrics", "/healthz", "/readyz", "/status", "/config"):
        w.up.clear()
        assert seen(w, request("GET", path)).target == path


def test_a_refused_upgrade_is_an_ordinary_answer(w):
    answering(w, reply(426, b"no"))
    with connect(w.port) as c:
        for _ in range(2):
            c.send(request("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x")]))
            r = c.read_response()
            assert (r.status, r.body) == (426, b"no")


def test_many_callers_at_once_get_their_own_answers(w):
    w.up.answer = lambda p: reply(200, p.request.target.encode() + p.request.body)
    failures = []

    def caller(n):
        try:
            with connect(w.port) as c:
                for i in range(30):
                    c.send(request("POST", f"/{n}/{i}", body=b"x" * (n * i)))
                    assert c.read_response().body == b"/%d/%d" % (n, i) + b"x" * (n * i)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and w.up.complete == 600


def test_an_unsent_body_of_a_refused_post_does_not_become_a_request(start_upstream, start_weir):
    """429 at the head: the body that follows is read away, or the connection is closed; it is never parsed."""
    up = start_upstream()
    w = start_weir(base_config(up.port, limits={"none": {"rate": "0/s", "burst": 1, "key": []}}, route={"limits": ["none"]}))
    inner = request("GET", "/hidden")
    with connect(w.port) as c:
        c.send(request("POST", "/a", [("Content-Length", str(len(inner)))]))
        problem(c.read_response(), 429, "limit")
        c.send(inner + request("GET", "/b", [("Connection", "close")]))
        rest, _ = c.recv_to_end()
        assert rest.count(b"HTTP/1.1 ") <= 1, rest
    assert up.heads == 0
