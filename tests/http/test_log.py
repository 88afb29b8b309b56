"""The access log: one valid JSON object for each request, whatever it was; no secret in it; and nobody waits for it."""
import contextlib
import hashlib
import json
import os
import re
import threading
import time

import pytest

import harness
from harness import base_config, connect, exchange, get, reply, request, wait_until
from support import Caller, in_parallel, routes, uuid7_ms

ALWAYS = {"time", "correlation_id", "listener", "status", "bytes_in", "bytes_out", "duration_ms", "overhead_ms", "peer"}
ANSWERED = {"trace_id", "route", "tenant", "method", "path", "upstream", "attempts", "first_byte_ms"}
SOMETIMES = {"reason", "limit", "model", "tokens_in", "tokens_out", "dedup"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)")


def check(line):
    """A field that has nothing to say may be null or left out; what every request has must be there."""
    assert ALWAYS <= set(line) <= ALWAYS | ANSWERED | SOMETIMES, set(line) ^ (ALWAYS | ANSWERED)
    assert TIME.fullmatch(line["time"]), line
    for name in ("duration_ms", "overhead_ms"):
        assert isinstance(line[name], (int, float)) and 0 <= line[name] < 600_000, line
    assert line["overhead_ms"] <= line["duration_ms"] + 0.01, line
    for name in ("bytes_in", "bytes_out"):
        assert isinstance(line[name], int) and line[name] >= 0, line
    return line


# -------------------------------------------------------------------------------------------------------- what it says


def test_a_line_in_full(start_weir, start_upstream):
    up = start_upstream(script=[0.05, reply(201, b"x" * 500)])
    w = start_weir(base_config(up.port, limits={"wide": {"rate": "1000/s"}}, route={"path": "/v1", "limits": ["wide"]}))
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    before = time.time()
    exchange(w.port, request("POST", "/v1/chat?secret=1", [("X-Correlation-ID", "c-1"), ("X-Tenant-ID", "acme"),
                                                           ("traceparent", trace)],
                             b"y" * 300))
    line = check(w.wait_log())
    assert ALWAYS | ANSWERED <= set(line)
    assert {k: line[k] for k in ("correlation_id", "trace_id", "listener", "route", "tenant", "method", "path",
                                 "status", "upstream")} == {
        "correlation_id": "c-1", "trace_id": trace[3:35], "listener": "in", "route": "/v1", "tenant": "acme",
        "method": "POST",
        "path": "/v1/chat", "status": 201, "upstream": "agent"}
    assert line["bytes_in"] >= 300 and line["bytes_out"] >= 500
    assert line["attempts"] == 1 and not line.get("reason")
    assert 50 <= line["first_byte_ms"] <= line["duration_ms"]
    assert line["overhead_ms"] < line["duration_ms"] - 40, "the upstream's time is not weir's"
    assert line["peer"].startswith("127.0.0.1")
    seconds = time.mktime(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S"))
    assert line["time"].endswith("Z") is False or abs(seconds - time.timezone - before) < 120


def test_every_kind_of_end_has_one_line(start_weir, start_upstream):
    """What was answered, refused, malformed, or never finished: counted in lines, one each, with its reason."""
    up = start_upstream(lambda p: reply(404 if p.request.target == "/ok/404" else 200,
                                        b"" if p.request.method == "HEAD" else b"ok"))
    config = base_config(up.port, limits={"shut": {"rate": "0/s"}},
                         server={"max_body": "1KiB", "max_head": "4KiB", "timeouts": {"head": "300ms"}})
    config["upstreams"]["dead"] = {"url": "unix:///nonexistent/agent.sock"}
    config["listeners"]["in"]["routes"] = routes(("/ok", {}), ("/shut", {"limits": ["shut"]}),
                                                 ("/dead", {"upstream": "dead"}),
                                                 ("/get", {"methods": ["GET"]}))
    w = start_weir(config)
    cases = [
        (request("GET", "/ok"), 200, None), (request("GET", "/ok/404"), 404, None), (request("HEAD", "/ok"), 200, None),
        (request("GET", "/none"), 404, "no_route"), (request("POST", "/get", body=b""), 405, "method"),
        (request("GET", "/shut"), 429, "limit"),
        (request("GET", "/dead"), 502, "connect_failed"), (request("GET", "/ok/../x"), 400, "malformed"),
        (request("POST", "/ok", body=b"x" * 2000), 413, "body_too_large"),
        (request("GET", "/ok", [("X-Long", "x" * 5000)]), 431, "head_too_large"),
        (request("GET", "/ok", [("X-Tenant-ID", "a b")]), 400, "tenant_invalid"),
        (request("GET", "/ok", version="2.0"), 505, "unsupported"),
        (request("GET", "/ok", [("Expect", "a-miracle")]), 417, "unsupported"),
        (request("TRACE", "/ok"), 405, "method"),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", 400, "malformed"),
        (b"complete nonsense\r\n\r\n", 400, "malformed"),
        (b"GET /half HTTP/1.1\r\nHos", 408, "timeout_client"),
    ]
    for raw, status, reason in cases:
        method = raw.split(b" ", 1)[0].decode()
        r = exchange(w.port, raw, method=method if method == "HEAD" else "GET")
        assert r.status == status, (raw[:60], r)
        line = check(w.wait_log(lambda l: l["correlation_id"] == r.header("X-Correlation-ID")))
        assert line["status"] == status and (line.get("reason") or None) == reason, line
    w.wait_metric("weir_requests_total", len(cases))
    assert len(w.log) == len(cases)


def test_pipelined_requests_have_a_line_each(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    with connect(w.port) as c:
        c.send(b"".join(request("GET", f"/p{n}") for n in range(5)) + b"GET /bad HTTP/1.1\r\n\r\n")
        assert [c.read_response("GET").status for _ in range(6)] == [200] * 5 + [400]
    w.wait_log(status=400)
    assert [l["path"] for l in w.log[:5]] == [f"/p{n}" for n in range(5)] and len(w.log) == 6
    assert len({l["correlation_id"] for l in w.log}) == 6


def test_a_connection_without_a_request_has_none(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    for _ in range(5):
        connect(w.port).close()
    get(w.port, "/after")
    w.wait_log(path="/after")
    assert len(w.log) == 1


def test_a_caller_who_left(start_weir, start_upstream):
    go = threading.Event()
    up = start_upstream(script=[go, reply(200, b"late")], lenient=True)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/left"))
        up.wait_heads()
    line = check(w.wait_log(path="/left"))
    assert line["reason"] == "client_gone"
    go.set()


def test_a_stream_is_logged_at_its_end(start_weir, start_upstream):
    go = threading.Event()
    up = start_upstream(script=[reply(200, b"", [("Content-Length", "2000")], length=False) + b"x" * 1000, go,
                                b"y" * 1000])
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(request("GET", "/stream"))
        c.recv_until(b"x" * 1000)
        get_line = [l for l in w.log if l.get("path") == "/stream"]
        assert not get_line
        go.set()
        c.recv_until(b"y" * 1000)
    assert check(w.wait_log(path="/stream"))["bytes_out"] >= 2000


# ------------------------------------------------------------------------------------------------------ odd and secret

ODD = [b"/new\nline", b"/cr\rline", b"/ansi\x1b[31mred", b"/bad\xff\xfeutf8", b"/nul\x00", b"/tab\t", b"/\xc3\xa9",
       b"/\xed\xa0\x80", b"/quote\"back\\",
       b"/%0a%1b%5b31m", b"/\x7f", b"/\xe2\x80\xa8line", b"/{\"status\":200}", b"/\x80" * 50,
       b"/" + b"\xf0\x9f\x98\x80" * 9, b"/%ff", b"/<script>"]


@pytest.mark.parametrize("target", ODD, ids=[repr(t[:20]) for t in ODD])
def test_odd_bytes_in_a_path(start_weir, start_upstream, target):
    up = start_upstream(lenient=True)
    w = start_weir(base_config(up.port))
    with connect(w.port) as c:
        c.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        r = c.read_response("GET")
    line = check(w.wait_log(status=r.status))
    raw = w.log_path.read_bytes()
    assert raw.count(b"\n") == 1 and raw.endswith(b"\n"), "one line"
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", raw), "no control byte goes to a terminal"
    raw.decode("utf-8")
    assert len(line.get("path") or "") <= 6 * len(target) + 10


@pytest.mark.parametrize("method", [b"G\x1b[31mET", b"\xff\xff", b"G" * 3000, b"GET\"", b"{}"])
def test_odd_bytes_in_a_method(start_weir, start_upstream, method):
    w = start_weir(base_config(start_upstream(lenient=True).port))
    r = exchange(w.port, method + b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", method="GET")
    check(w.wait_log(status=r.status))
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", w.log_path.read_bytes())


def test_a_long_path_is_one_line(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    get(w.port, "/" + "a" * 20_000)
    assert check(w.wait_log(status=200))["path"].startswith("/aaaa")


def test_ids_that_were_refused_are_not_logged(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    get(w.port, "/", [("X-Correlation-ID", "evil\t{}"), ("traceparent", "evil-trace")])
    line = w.wait_log()
    uuid7_ms(line["correlation_id"])
    assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"]) and "evil" not in w.stdout


def test_canaries_are_nowhere(start_weir, start_upstream):
    """Query, body, credentials, cookies and the secrets of the configuration: in no log, metric or page."""
    canary = "canary-8d21f0"
    sha = hashlib.sha256(f"{canary}-key".encode()).hexdigest()
    up = start_upstream(script=[reply(200, f"{canary}-answer".encode(), [("Set-Cookie", f"{canary}-cookie")])])
    w = start_weir(base_config(up.port, log={"level": "debug"}, admin={"token": f"{canary}-token"},
                               tenant={"from": [{"api_key": "x-api-key"}, {"api_key": "Authorization"}],
                                       "api_keys": {sha: "acme"}}))
    auth = [("Authorization", f"Bearer {canary}-token")]
    for headers in ([("x-api-key", f"{canary}-key")], [("Authorization", f"Bearer {canary}-key")],
                    [("Authorization", f"Bearer {canary}-wrong")],
                    [("Cookie", f"{canary}-c")], [("Proxy-Authorization", f"{canary}-p")],
                    [("X-Forwarded-For", "1.2.3.4")]):
        exchange(w.port, request("POST", f"/a?q={canary}-query", headers, f"{canary}-body".encode()))
        exchange(w.port, request("POST", f"/../?q={canary}-query", headers, f"{canary}-body".encode()))
    exchange(w.port, f"GET /?{canary}-x HTTP/1.1\r\nHost: a\r\nAuthorization {canary}: y\r\n\r\n".encode(),
             method="GET")
    for path in ("/status", "/config", "/metrics"):
        r = w.ask_admin(path, headers=auth)
        assert canary.encode() not in r.body, path
    w.ask_admin("/status", headers=[("Authorization", f"Bearer {canary}-guess")])
    w.reload(w._config)
    w.wait_log(count=13)
    assert canary not in w.stdout and canary not in w.stderr


# ------------------------------------------------------------------------------------------------------- where it goes


def test_access_none(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, log={"access": "none"}))
    for _ in range(3):
        get(w.port)
    w.wait_metric("weir_requests_total", 3)
    w.stop()
    assert w.stdout == "" and '"correlation_id"' not in w.stderr


def test_access_stderr(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, log={"access": "stderr"}))
    get(w.port, "/there")
    check(w.wait_log(path="/there"))
    assert w.stdout == ""


def test_access_file(start_weir, start_upstream, tmp_path):
    path = tmp_path / "access.log"
    path.write_text('{"an": "older line"}\n')
    w = start_weir(base_config(start_upstream().port, log={"access": str(path)}))
    get(w.port, "/there")
    check(w.wait_log(path="/there"))
    assert path.read_text().startswith('{"an": "older line"}\n'), "appended to, not cut"


def test_the_last_lines_are_written_before_the_end(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    with Caller(w.port) as caller:
        for n in range(200):
            caller.get(f"/n{n}")
    assert w.stop() == 0
    assert [l["path"] for l in w.log] == [f"/n{n}" for n in range(200)]


def test_lines_of_four_workers_do_not_mix(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, server={"workers": 4}))

    def work(n):
        with Caller(w.port) as caller:
            for i in range(100):
                assert caller.get(f"/{n}/{i}/" + "x" * 500).status == 200

    in_parallel(8, work)
    w.wait_metric("weir_requests_total", 800)
    assert w.stop() == 0
    assert len({check(l)["path"] for l in w.log}) == len(w.log) == 800


# ------------------------------------------------------------------------------------------------------------- blocked


def dropped(w):
    """The count of dropped lines; its name is no word of the contract."""
    found = [v for (name, _), v in w.metrics().items() if re.search(r"log.*drop|drop.*log", name)]
    assert found, "no metric counts the log's dropped lines"
    return sum(found)


@pytest.mark.parametrize("where", ["stdout", "file"])
def test_a_blocked_pipe_drops_lines_and_nobody_waits(start_upstream, where):
    """Nobody reads the pipe: requests go on; what does not fit is dropped and counted, what was written is whole."""
    up = start_upstream()
    config = base_config(up.port, server={"workers": 2})
    w = harness.Weir(config)
    fifo = w.dir / ("stdout" if where == "stdout" else "access.fifo")
    os.mkfifo(fifo)
    if where == "file":
        config["log"] = {"access": str(fifo)}
        w._config = config
    pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with w:
            each, callers = 4000, 4

            def work(n):
                with Caller(w.port) as caller:
                    for i in range(each):
                        assert caller.get(f"/{n}/{i}/" + "x" * 500).status == 200
                        if i % 500 == 499 and dropped(w) > 0:
                            return i + 1
                return each

            sent = sum(in_parallel(callers, work))
            w.wait_metric("weir_requests_total", sent)
            assert wait_until(lambda: dropped(w), "lines to be dropped") > 0
            text = bytearray()

            def all_accounted():
                with contextlib.suppress(BlockingIOError):
                    while more := os.read(pipe, 1 << 20):
                        text.extend(more)
                return text.count(b"\n") + dropped(w) == sent

            wait_until(all_accounted, "every line to be written or counted as dropped")
            assert text.endswith(b"\n")
            for line in bytes(text).splitlines():
                check(json.loads(line))
            get(w.port, "/after")
            wait_until(lambda: (all_accounted(), b'"/after"' in text)[1], "the log to go on")
    finally:
        os.close(pipe)


def test_a_reader_who_left_is_no_reason_to_die(start_upstream):
    """The other end of the pipe is closed: SIGPIPE and EPIPE end nothing."""
    up = start_upstream()
    w = harness.Weir(base_config(up.port))
    os.mkfifo(w.dir / "stdout")
    pipe = os.open(w.dir / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    with w:
        get(w.port)
        os.close(pipe)
        for _ in range(50):
            assert get(w.port).status == 200
        w.wait_metric("weir_requests_total", 51)
