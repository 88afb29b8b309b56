"""How an upstream can fail, and what the caller, the log and the metrics are told; how its connections are kept and used."""
import random
import threading
import time

import pytest

from harness import (CLOSE, HALF_CLOSE, RESET, WAIT_GONE, Blackhole, Refuser, base_config, chunk, chunked_reply, connect, exchange,
                     get, merge, post, problem, reply, request, wait_until)


def one_loop(config):
    """For tests of one loop's own pool."""
    return merge(config, {"server": {"workers": 1}})


def told(w, reason, status, path="/x"):
    """The log line and the metric that belong to one failed request."""
    line = w.wait_log(path=path)
    assert (line["status"], line["reason"], line["upstream"]) == (status, reason, "agent"), line
    w.wait_metric("weir_upstream_requests_total", lambda v: v >= 1, upstream="agent", outcome=reason)
    w.wait_metric("weir_in_flight", 0)
    return line


def fails(w, status, reason, path="/x", method="GET", timeout=None):
    """One request fails before its answer began: problem+json, log line, metric."""
    r = exchange(w.port, request(method, path), timeout=timeout)
    problem(r, status, reason)
    told(w, r.weir_reason, r.status, path)
    return r


# before the answer

def test_connect_refused(start_weir):
    with Refuser() as nobody:
        fails(start_weir(base_config(nobody.port)), 502, "connect_failed")


def test_a_unix_socket_that_is_not_there(start_weir, tmp_path):
    fails(start_weir(base_config(f"unix://{tmp_path}/nobody")), 502, "connect_failed")


def test_a_name_that_does_not_exist(start_weir):
    w = start_weir(base_config("http://does-not-exist.invalid:80", agent={"timeouts": {"connect": "20s"}}))
    fails(w, 502, "dns_failed")


def test_a_name_that_exists(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(f"http://localhost:{up.port}"))
    assert get(w.port).body == b"ok"
    assert up.requests[0].header("Host") == f"localhost:{up.port}"


def test_a_failing_name_does_not_hold_up_others(start_upstream, start_weir):
    up = start_upstream()
    config = base_config(up.port)
    config["upstreams"]["lost"] = {"url": "http://does-not-exist.invalid:80"}
    config["listeners"]["in"]["routes"].append({"path": "/lost", "upstream": "lost"})
    w = start_weir(config)
    with connect(w.port) as lost:
        lost.send(request("GET", "/lost"))
        for _ in range(20):
            assert get(w.port).body == b"ok"
        problem(lost.read_response(), (502, 504), ("dns_failed", "timeout_connect"))


def test_connect_timeout(start_weir):
    with Blackhole() as hole:
        w = start_weir(base_config(hole.port, agent={"timeouts": {"connect": "300ms"}}))
        fails(w, 504, "timeout_connect")


def test_first_byte_timeout(start_upstream, start_weir):
    up = start_upstream(script=[WAIT_GONE])
    w = start_weir(base_config(up.port, agent={"timeouts": {"first_byte": "300ms"}}))
    fails(w, 504, "timeout_first_byte")
    up.wait_gone(1)
    assert up.heads == 1


def test_first_byte_timeout_in_the_middle_of_a_head(start_upstream, start_weir):
    up = start_upstream(script=[b"HTTP/1.1 200 OK\r\nX-A: ", WAIT_GONE])
    w = start_weir(base_config(up.port, agent={"timeouts": {"first_byte": "300ms", "idle": "500ms"}}))
    fails(w, 504, ("timeout_first_byte", "timeout_idle"))
    up.wait_gone(1)


def test_interim_answers_do_not_stop_the_first_byte_timeout_for_ever(start_upstream, start_weir):
    up = start_upstream(script=[*[b"HTTP/1.1 102 Processing\r\n\r\n", 0.1] * 40, WAIT_GONE])
    w = start_weir(base_config(up.port, agent={"timeouts": {"first_byte": "500ms", "total": "1500ms"}}))
    fails(w, (502, 504), ("timeout_first_byte", "timeout_total", "bad_response"))


def test_total_timeout_before_the_answer(start_upstream, start_weir):
    up = start_upstream(script=[WAIT_GONE])
    w = start_weir(base_config(up.port, agent={"timeouts": {"total": "300ms"}}))
    fails(w, 504, "timeout_total")
    up.wait_gone(1)


def test_a_routes_timeout_replaces_the_upstreams_total(start_upstream, start_weir):
    up = start_upstream(script=[WAIT_GONE])
    w = start_weir(base_config(up.port, route={"timeout": "300ms"}))
    fails(w, 504, "timeout_total")


def test_total_timeout_covers_connecting(start_weir):
    with Blackhole() as hole:
        w = start_weir(base_config(hole.port, agent={"timeouts": {"connect": "20s", "total": "300ms"}}))
        fails(w, 504, ("timeout_total", "timeout_connect"))


def test_reset_before_the_answer(start_upstream, start_weir):
    up = start_upstream(script=[RESET])
    fails(start_weir(base_config(up.port)), 502, "reset")


def test_closed_before_the_answer(start_upstream, start_weir):
    up = start_upstream(script=[CLOSE])
    fails(start_weir(base_config(up.port)), 502, "reset")


def test_half_closed_before_the_answer(start_upstream, start_weir):
    up = start_upstream(script=[HALF_CLOSE, WAIT_GONE])
    fails(start_weir(base_config(up.port)), 502, "reset")


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_broken_off_in_the_middle_of_the_head(start_upstream, start_weir, end):
    up = start_upstream(script=[b"HTTP/1.1 200 OK\r\nContent-Len", 0.1, end])
    fails(start_weir(base_config(up.port)), 502, ("reset", "truncated", "bad_response"))


def test_reset_after_a_post_is_not_sent_again(start_upstream, start_weir):
    up = start_upstream(script=[RESET])
    w = start_weir(base_config(up.port))
    problem(post(w.port, "/x", b"hello"), 502, "reset")
    assert up.heads == 1


# in the middle of the answer

def breaks(w, path="/x", reason=None, status=200):
    """The answer began with 200 and then breaks."""
    r = get(w.port, path)
    assert r.status == status and not r.clean, r
    line = w.wait_log(path=path)
    assert (line["status"], line["reason"]) == (status, reason), line
    w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome=reason)
    w.wait_metric("weir_in_flight", 0)


HALF = {"length": reply(200, b"", [("Content-Length", "100")], length=False) + b"half",
        "chunked": reply(200, b"", [("Transfer-Encoding", "chunked")], length=False) + chunk(b"half"),
        "close": reply(200, b"half", length=False)}


@pytest.mark.parametrize("framing", HALF)
def test_idle_timeout_in_the_middle_of_an_answer(start_upstream, start_weir, framing):
    up = start_upstream(script=[HALF[framing], WAIT_GONE])
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "300ms"}}))
    breaks(w, reason="timeout_idle")
    up.wait_gone(1)


def test_idle_timeout_right_behind_the_head(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"", [("Content-Length", "100")], length=False), WAIT_GONE])
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "300ms"}}))
    breaks(w, reason="timeout_idle")


def test_total_timeout_in_the_middle_of_a_steady_answer(start_upstream, start_weir):
    up = start_upstream(lambda p: p.run([HALF["chunked"], *[chunk(b"drip"), 0.05] * 400]))
    w = start_weir(base_config(up.port, agent={"timeouts": {"total": "500ms", "idle": "30s"}}))
    breaks(w, reason="timeout_total")


def test_a_steady_answer_outlives_the_idle_and_first_byte_timeouts(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"", [("Content-Length", "12")], length=False), *[b"x", 0.15] * 12])
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "1s", "first_byte": "1s"}}))
    r = get(w.port)
    assert (r.body, r.clean) == (b"x" * 12, True)


def test_a_slow_caller_is_not_an_idle_upstream(start_upstream, start_weir):
    """The upstream's idle time must not run while it is weir that does not read."""
    size = 32 << 20
    up = start_upstream(lambda p: reply(200, b"x" * size), sndbuf=64 * 1024)
    w = start_weir(base_config(up.port, agent={"timeouts": {"idle": "500ms"}}))
    with connect(w.port, rcvbuf=64 * 1024) as c:
        c.send(request("GET", "/x"))
        time.sleep(2)
        r = c.read_response()
        assert r.clean and len(r.body) == size, (r.end, len(r.body))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_truncated(start_upstream, start_weir, framing):
    up = start_upstream(script=[HALF[framing], 0.1, CLOSE])
    breaks(start_weir(base_config(up.port)), reason="truncated")


# answers that are none

BAD = {
    "garbage": b"\x00\x01garbage\r\n\r\n",
    "text": b"hello, I am not HTTP\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46" * 4 + b"\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "two-digit status": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "four-digit status": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n",
    "empty name": b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "NUL in value": b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\nContent-Length: 0\r\n\r\n",
    "CR in value": b"HTTP/1.1 200 OK\r\nX-A: b\rc\r\nContent-Length: 0\r\n\r\n",
    "length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length twice, different": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\nok",
    "length list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "length negative": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "length signed": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "length hex": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    "length empty": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    "length 2^64+2": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "both framings, coding first": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "coding twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\n\r\nok",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
    "1000 x 100": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + reply(),
    "1000 x 103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000 + reply(),
    "head over 64 KB": reply(200, b"ok", [("X-A", "b" * 70_000)]),
    "head over 64 KB in many fields": reply(200, b"ok", [(f"X-{i}", "b" * 900) for i in range(90)]),
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 40_000,
    "endless status line": b"HTTP/1.1 200 " + b"O" * 200_000,
    "body behind 204": reply(204, b"body"),
    "body behind 304": reply(304, b"body", length=False),
    "204 with a length and body": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody",
    "204 with chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", [pytest.param(v, id=k) for k, v in BAD.items()])
def test_a_bad_answer_is_502_and_its_connection_is_not_used_again(start_upstream, start_weir, answer):
    up = start_upstream(scripts=[[answer], [reply()]])
    w = start_weir(base_config(up.port))
    fails(w, 502, "bad_response")
    assert get(w.port, "/next").body == b"ok"
    assert up.heads == 2 and up.requests[0].conn != up.requests[1].conn
    up.wait_gone(1)


def test_a_body_behind_a_head_request_is_502_and_never_an_answer(start_upstream, start_weir):
    up = start_upstream(scripts=[[reply(200, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")], [reply()]])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("HEAD", "/x"))
        r = c.read_response("HEAD")
        assert r.status == 502 and r.weir_reason == "bad_response", r
    assert get(w.port, "/next").body == b"ok"
    assert up.requests[0].conn != up.requests[1].conn


@pytest.mark.parametrize("late", [b"evil", reply(200, b"evil")], ids=["bytes", "answer"])
@pytest.mark.parametrize("first", [reply(200, b"ok"), chunked_reply([b"ok"]), reply(204, b"")], ids=["length", "chunked", "204"])
@pytest.mark.parametrize("pause", [0, 0.1], ids=["same segment", "later"])
def test_bytes_behind_an_answer_never_answer_another_request(start_upstream, start_weir, first, late, pause):
    script = [first + late] if not pause else [first, pause, late]
    up = start_upstream(scripts=[script, [reply(200, b"good")]])
    w = start_weir(base_config(up.port))
    r = get(w.port, "/x")
    assert r.status in (200, 204, 502) and r.body in (b"ok", b"") or r.status == 502, r
    up.wait_gone(1)
    for _ in range(3):
        assert get(w.port, "/next").body == b"good"
    assert up.requests[0].conn != up.requests[1].conn


def test_bytes_that_come_before_any_request_are_no_answer(start_upstream, start_weir):
    up = start_upstream(on_connect=lambda p: p.send(reply(200, b"evil")) if p.number == 2 else None,
                        script=[0.05, reply(200, b"good", [("Connection", "close")]), CLOSE])
    w = start_weir(base_config(up.port))
    answers = [get(w.port, "/x") for _ in range(3)]
    assert answers[0].body == b"good" and answers[2].body == b"good"
    # what the second caller gets is a race: the bytes may come before or after its request went out


# keep-alive

def test_requests_share_one_connection(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for i in range(100):
            c.send(request("POST" if i % 2 else "GET", f"/{i}", body=b"x" * i if i % 2 else None))
            assert c.read_response().status == 200
    assert (up.complete, up.connections) == (100, 1)


@pytest.mark.parametrize("answer", [chunked_reply([b"ok"]), reply(204, b""), reply(304, b"", length=False), reply(404, b"no"), reply(500, b"no"),
                                    reply(200, b"")], ids=["chunked", "204", "304", "404", "500", "empty"])
def test_any_whole_answer_leaves_its_connection_usable(start_upstream, start_weir, answer):
    up = start_upstream(script=[answer])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for _ in range(5):
            c.send(request("GET", "/"))
            assert c.read_response().clean
    assert up.connections == 1


@pytest.mark.parametrize("answer", [reply(200, b"ok", [("Connection", "close")]), reply(200, b"ok", [("Connection", "x, Close")]),
                                    reply(200, b"ok", version="1.0")], ids=["close", "among others", "1.0"])
def test_a_connection_the_upstream_closes_is_not_used_again(start_upstream, start_weir, answer):
    """The stub does not close: weir has to."""
    up = start_upstream(script=[answer])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for i in range(3):
            c.send(request("GET", "/"))
            assert c.read_response().body == b"ok"
            up.wait_gone(i + 1)
    assert up.connections == 3


def test_an_http_1_0_upstream_may_ask_for_keep_alive(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"ok", [("Connection", "keep-alive")], version="1.0")])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for _ in range(3):
            c.send(request("GET", "/"))
            assert c.read_response().body == b"ok"
    assert up.connections in (1, 3)


def test_the_connection_parked_last_is_used_first(start_upstream, start_weir):
    gates = {"/0": threading.Event(), "/1": threading.Event(), "/2": threading.Event()}
    up = start_upstream(lambda p: p.run([gates[p.request.target], reply()]) if p.request.target in gates else reply())
    w = start_weir(one_loop(base_config(up.port)))
    callers = []
    for i in range(3):
        callers.append(connect(w.port))
        callers[-1].send(request("GET", f"/{i}"))
        up.wait_heads(i + 1)
    used = {q.target: q.conn for q in up.requests}
    assert len(set(used.values())) == 3
    for i in (2, 0, 1):
        gates[f"/{i}"].set()
        assert callers[i].read_response().status == 200
        w.wait_metric("weir_upstream_connections", lambda n, i=i: n >= 1, upstream="agent", state="idle")
    for _ in range(3):
        assert get(w.port, "/next").status == 200
        assert up.requests[-1].conn == used["/1"]
    for c in callers:
        c.close()


def test_idle_connections_are_closed_after_idle_timeout(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port, agent={"connections": {"idle_timeout": "500ms"}}))
    assert get(w.port).status == 200
    up.wait_gone(1, timeout=10)
    assert up.peers[0].ended_at - up.requests[0].started > 0.4
    w.wait_metric("weir_upstream_connections", 0, upstream="agent")
    assert get(w.port).status == 200


def test_keep_alive_timeout_of_the_upstream_is_honoured(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"ok", [("Keep-Alive", "timeout=1, max=100")])])
    w = start_weir(base_config(up.port, agent={"connections": {"idle_timeout": "60s"}}))
    assert get(w.port).status == 200
    up.wait_gone(1, timeout=10)


def test_a_longer_keep_alive_timeout_of_the_upstream_changes_nothing(start_upstream, start_weir):
    up = start_upstream(script=[reply(200, b"ok", [("Keep-Alive", "timeout=600")])])
    w = start_weir(base_config(up.port, agent={"connections": {"idle_timeout": "500ms"}}))
    assert get(w.port).status == 200
    up.wait_gone(1, timeout=10)


def test_at_most_idle_connections_stay_open(start_upstream, start_weir):
    go = threading.Event()
    up = start_upstream(script=[go, reply()])
    w = start_weir(one_loop(base_config(up.port, agent={"connections": {"idle": 2, "idle_timeout": "60s"}})))
    callers = [connect(w.port) for _ in range(6)]
    for c in callers:
        c.send(request("GET", "/"))
    up.wait_heads(6)
    go.set()
    for c in callers:
        assert c.read_response().status == 200
        c.close()
    up.wait_gone(4, timeout=10)
    w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    assert up.open_connections == 2


# a connection that went stale while it was parked

def test_an_upstream_that_closes_idle_connections_never_fails_a_get(start_upstream, start_weir):
    rng = random.Random(1)
    up = start_upstream(lambda p: p.run([reply(), rng.choice([0, 0, 0.0005, 0.001, 0.002, 0.005]), rng.choice([CLOSE, RESET])]))
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for i in range(300):
            c.send(request("GET", f"/{i}"))
            r = c.read_response()
            assert (r.status, r.body) == (200, b"ok"), (i, r)
            time.sleep(rng.choice([0, 0, 0.0005, 0.001, 0.002, 0.005]))
    assert {q.target for q in up.requests} == {f"/{i}" for i in range(300)}


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_a_stale_connection_is_replaced_for_idempotent_methods(start_upstream, start_weir, method, end):
    """The second request of a connection finds it closing."""
    def handler(peer):
        if peer.served > 1:
            peer.run([end])
        return reply(200, b"" if peer.request.method == "HEAD" else b"ok")

    up = start_upstream(handler)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        for i in range(6):
            c.send(request(method, f"/{i}", body=b"hello" if method == "PUT" else None))
            r = c.read_response(method)
            assert r.status == 200, (i, r)
    assert {q.body for q in up.requests} == {b"hello" if method == "PUT" else b""}


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_post_on_a_stale_connection_never_runs_twice(start_upstream, start_weir, end):
    def handler(peer):
        if peer.served > 1:
            peer.run([end])
        return reply()

    up = start_upstream(handler)
    w = start_weir(base_config(up.port))
    for i in range(5):
        with connect(w.port) as c:
            c.send(request("GET", "/park"))
            assert c.read_response().status == 200
            c.send(request("POST", f"/{i}", body=b"hello"))
            r = c.read_response()
        if r.status != 200:
            problem(r, 502, "reset")
        assert sum(q.target == f"/{i}" for q in up.requests) == 1


def test_a_post_survives_a_connection_that_was_closed_while_parked(start_upstream, start_weir):
    """The close has been seen before the request comes: the connection is not used at all."""
    up = start_upstream(script=[reply(), CLOSE])
    w = start_weir(base_config(up.port))
    for i in range(10):
        assert post(w.port, f"/{i}", b"hello").status == 200
        up.wait(lambda u: u.open_connections == 0)
        w.wait_metric("weir_upstream_connections", 0, upstream="agent")
    assert up.complete == 10


def test_an_upstream_that_always_closes_is_not_tried_for_ever(start_upstream, start_weir):
    up = start_upstream(scripts=[[reply()], [CLOSE]])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/park") + request("GET", "/x"))
        assert c.read_response().status == 200
        problem(c.read_response(), 502, "reset")
    assert 1 <= sum(q.target == "/x" for q in up.requests) <= 3


def test_half_an_answer_on_a_reused_connection_is_not_tried_again(start_upstream, start_weir):
    up = start_upstream(scripts=[[reply()], [b"HTTP/1.1 200 O", 0.05, CLOSE]])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/park") + request("GET", "/x"))
        assert c.read_response().status == 200
        problem(c.read_response(), 502, ("reset", "truncated", "bad_response"))
    assert sum(q.target == "/x" for q in up.requests) == 1


# connections.max

def full_pool(start_upstream, start_weir, wait, one=False):
    go = threading.Event()
    up = start_upstream(lambda p: p.run([go, reply()]) if p.request.target == "/held" else reply())
    config = base_config(up.port, agent={"connections": {"max": 1}, "timeouts": {"connect": wait}})
    w = start_weir(one_loop(config) if one else config)
    held = connect(w.port)
    held.send(request("GET", "/held"))
    up.wait_heads(1)
    return up, w, held, go


def test_a_full_pool_makes_a_request_wait_and_then_503(start_upstream, start_weir):
    up, w, held, go = full_pool(start_upstream, start_weir, "400ms")
    start = time.monotonic()
    r = get(w.port, "/x")
    problem(r, 503, "overloaded")
    assert time.monotonic() - start > 0.3
    assert w.wait_log(path="/x")["reason"] == "overloaded"
    go.set()
    assert held.read_response().status == 200
    assert get(w.port, "/after").status == 200
    assert [q.target for q in up.requests] == ["/held", "/after"] and up.connections <= 2


def test_a_full_pool_serves_who_waits_when_a_connection_is_free(start_upstream, start_weir):
    up, w, held, go = full_pool(start_upstream, start_weir, "20s")
    with connect(w.port) as c:
        c.send(request("POST", "/waits", body=b"hello"))
        assert not c.readable(0.3)
        assert up.heads == 1
        go.set()
        assert c.read_response().status == 200
        assert held.read_response().status == 200
    assert [q.target for q in up.requests] == ["/held", "/waits"]
    held.close()


def test_who_waits_is_served_in_order(start_upstream, start_weir):
    up, w, held, go = full_pool(start_upstream, start_weir, "20s", one=True)
    one_at_a_time = []
    for i in range(5):
        one_at_a_time.append(connect(w.port))
        one_at_a_time[-1].send(request("GET", f"/{i}"))
        w.wait_metric("weir_in_flight", i + 2)
    go.set()
    for c in one_at_a_time:
        assert c.read_response().status == 200
        c.close()
    assert [q.target for q in up.requests] == ["/held", "/0", "/1", "/2", "/3", "/4"]
    held.close()


def test_a_caller_who_leaves_the_waiting_line_leaves_it(start_upstream, start_weir):
    up, w, held, go = full_pool(start_upstream, start_weir, "20s")
    gone = connect(w.port)
    gone.send(request("GET", "/gone"))
    w.wait_metric("weir_in_flight", 2)
    gone.close()
    w.wait_metric("weir_in_flight", 1)
    go.set()
    assert held.read_response().status == 200
    assert get(w.port, "/after").status == 200
    assert [q.target for q in up.requests] == ["/held", "/after"]


def test_never_more_connections_than_max(start_upstream, start_weir):
    most, now, lock = [0], [0], threading.Lock()

    def handler(peer):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return reply()

    up = start_upstream(handler)
    w = start_weir(base_config(up.port, agent={"connections": {"max": 3}, "timeouts": {"connect": "30s"}}))
    callers = [connect(w.port) for _ in range(30)]
    for turn in range(5):
        for c in callers:
            c.send(request("GET", f"/{turn}"))
        for c in callers:
            assert c.read_response().status == 200
    assert most[0] <= 3 and up.complete == 150
    assert up.open_connections <= 3


def test_a_failed_connect_gives_its_place_back(start_weir):
    with Refuser() as nobody:
        w = start_weir(base_config(nobody.port, agent={"connections": {"max": 2}, "timeouts": {"connect": "500ms"}}))
        for _ in range(10):
            problem(get(w.port), 502, "connect_failed")


# addresses and paths

def test_a_unix_socket_upstream_keeps_the_host(start_upstream, start_weir):
    up = start_upstream(unix=True)
    w = start_weir(base_config(up.url))
    with connect(w.port) as c:
        for _ in range(5):
            c.send(request("POST", "/x?y", body=b"hello", host="weir.test:81"))
            assert c.read_response().body == b"ok"
    assert {(q.target, q.header("Host"), q.body) for q in up.requests} == {("/x?y", "weir.test:81", b"hello")}
    assert up.connections == 1


@pytest.mark.parametrize("target, sent", [("/x", "/base/x"), ("/", "/base/"), ("/x/?y=/z", "/base/x/?y=/z"), ("/a%2Fb//c", "/base/a%2Fb//c")])
def test_prefix_of_a_unix_socket_upstream(start_upstream, start_weir, target, sent):
    up = start_upstream(unix=True)
    w = start_weir(base_config(up.url, agent={"prefix": "/base"}))
    assert get(w.port, target).status == 200
    assert up.requests[0].target == sent


@pytest.mark.parametrize("target, sent", [("/x", "/base/v1/x"), ("/", "/base/v1/"), ("/?y", "/base/v1/?y"), ("/a%2Fb//c", "/base/v1/a%2Fb//c")])
def test_a_path_in_the_url_is_prefixed(start_upstream, start_weir, target, sent):
    up = start_upstream()
    w = start_weir(base_config(f"http://127.0.0.1:{up.port}/base/v1"))
    assert get(w.port, target).status == 200
    assert up.requests[0].target == sent


@pytest.mark.parametrize("target, sent", [
    ("/api/x", "/x"), ("/api", "/"), ("/api/", "/"), ("/api?x=1", "/?x=1"), ("/api/?x", "/?x"), ("/api/a%2Fb?c%2F", "/a%2Fb?c%2F"),
    ("/api/api/x", "/api/x")])
def test_strip_prefix(start_upstream, start_weir, target, sent):
    up = start_upstream()
    w = start_weir(base_config(up.port, route={"path": "/api", "strip_prefix": True}))
    assert get(w.port, target).status == 200
    assert up.requests[0].target == sent


@pytest.mark.parametrize("target", ["//api/x", "/%61pi/x", "/ap%69//x"])
def test_strip_prefix_of_another_spelling_never_leaves_a_part_of_it(start_upstream, start_weir, target):
    up = start_upstream()
    w = start_weir(base_config(up.port, route={"path": "/api", "strip_prefix": True}))
    assert get(w.port, target).status == 200
    assert up.requests[0].target in ("/x", "//x")


def test_strip_prefix_under_a_path_in_the_url(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(f"http://127.0.0.1:{up.port}/base", route={"path": "/api", "strip_prefix": True}))
    assert get(w.port, "/api/x?y").status == 200
    assert up.requests[0].target == "/base/x?y"


# what is counted, and what passes unchanged

def test_outcomes_are_counted(start_upstream, start_weir):
    up = start_upstream(lambda p: reply(int(p.request.target[1:]), b"x"))
    w = start_weir(base_config(up.port))
    for status in (200, 201, 302, 404, 404, 400, 500, 503, 599):
        r = get(w.port, f"/{status}")
        assert (r.status, r.body) == (status, b"x") and "Weir-Reason" not in r.headers
    for outcome, count in (("ok", 3), ("4xx", 3), ("5xx", 3)):
        w.wait_metric("weir_upstream_requests_total", count, upstream="agent", outcome=outcome)
    w.wait_metric("weir_requests_total", 2, listener="in", status="404")


def test_a_429_of_the_upstream_is_passed_on_as_it_is(start_upstream, start_weir):
    up = start_upstream(script=[reply(429, b'{"error":"slow"}', [("Retry-After", "7"), ("Content-Type", "application/json")])])
    w = start_weir(base_config(up.port))
    r = get(w.port)
    assert (r.status, r.body, r.header("Retry-After")) == (429, b'{"error":"slow"}', "7") and "Weir-Reason" not in r.headers
    assert up.heads == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_of_the_upstream_is_passed_on_as_it_is(start_upstream, start_weir, status):
    up = start_upstream(script=[reply(status, b"its own words")])
    w = start_weir(base_config(up.port))
    r = post(w.port, "/", b"hello")
    assert (r.status, r.body) == (status, b"its own words") and "Weir-Reason" not in r.headers
    assert up.heads == 1


def test_the_log_tells_of_a_good_call(start_upstream, start_weir):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    assert post(w.port, "/x?secret=1", b"hello").status == 200
    line = w.wait_log(path="/x")
    assert (line["status"], line["upstream"], line["attempts"], line["method"], line["listener"]) == (200, "agent", 1, "POST", "in")
    assert line["first_byte_ms"] >= 0 and line["duration_ms"] >= line["first_byte_ms"] and not line.get("reason")
    assert "secret" not in str(w.log)


def test_an_upstream_that_comes_back_is_used_again(start_weir, start_upstream):
    with Refuser() as nobody:
        config = base_config(nobody.port)
        w = start_weir(config)
        problem(get(w.port), 502, "connect_failed")
        up = start_upstream()
        config["upstreams"]["agent"]["url"] = f"http://127.0.0.1:{up.port}"
        w.reload(config)
        wait_until(lambda: get(w.port).status == 200, "the new upstream")


def test_an_answer_before_the_upload_has_ended_does_not_spoil_the_connection(start_upstream, start_weir):
    """The rest of the upload must not be read as a request, by anyone."""
    up = start_upstream(lambda p: p.run([reply(413, b"no"), 0.05, CLOSE]) if p.request.target == "/x" else reply(), early=True)
    w = start_weir(base_config(up.port))
    body = request("GET", "/hidden") * 2000
    with connect(w.port) as c:
        c.send(request("POST", "/x", [("Content-Length", len(body))]) + body[:1000])
        r = c.read_response()
        assert r.status in (413, 502), r
        c.send(body[1000:])
    for _ in range(3):
        assert get(w.port, "/after").status == 200
    assert {q.target for q in up.requests} == {"/x", "/after"}
