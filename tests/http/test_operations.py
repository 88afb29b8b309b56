"""What an operator meets: the admin and metrics addresses, starting, log files, and the kinds of addresses."""
import json
import re
import signal

import pytest

import harness
from harness import base_config, connect, exchange, free_port, get, post, request, wait_until
from support import routes, status_of

TOKEN = "canary-admin-4411"


def unix_admin(tmp_path):
    return {"address": f"unix://{tmp_path}/admin.sock"}


def occupied():
    taken = harness.socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


# ------------------------------------------------------------------------------------------------- the metrics address


def test_the_metrics_address_has_three_paths_and_no_more(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    for path in ("/metrics", "/healthz", "/readyz"):
        assert w.ask(path).status == 200
        assert w.ask(path + "?x=1").status == 200
    for path in ("/", "/status", "/config", "/reload", "/explain", "/metrics/", "/metricsx", "/limits/only",
                 "/../metrics"):
        assert w.ask(path).status in (400, 404), path
    assert up.heads == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_metrics_address_only_reads(start_weir, start_upstream, method):
    w = start_weir(base_config(start_upstream().port))
    for path in ("/metrics", "/healthz", "/readyz"):
        r = w.ask(path, method=method, body=b"")
        assert r.status == 405 and "GET" in r.header("Allow")
    reloads = w.metric("weir_config_reloads_total")
    assert w.ask("/reload", method=method, body=b"").status in (404, 405)
    assert w.metric("weir_config_reloads_total") == reloads


def test_head_on_the_metrics_address(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    for path in ("/metrics", "/healthz", "/readyz"):
        r = w.ask(path, method="HEAD")
        assert r.status == 200 and r.end == "none"


def test_a_scraper_may_use_any_name(start_weir, start_upstream):
    """Prometheus comes by the pod's address; the page is read-only and says nothing secret."""
    w = start_weir(base_config(start_upstream().port))
    for host in ("10.1.2.3:9465", "weir.pod.cluster.local", "localhost"):
        assert exchange(w.metrics_address, request("GET", "/metrics", [("Connection", "close")],
                                                   host=host)).status == 200


def test_a_kept_connection_scrapes_again(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    with connect(w.metrics_address) as c:
        for _ in range(3):
            c.send(request("GET", "/metrics"))
            assert c.read_response().status == 200


@pytest.mark.parametrize("bad", [b"GET /metrics HTTP/1.1\r\n\r\n",
                                 b"GET /metrics HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", b"\0\0\0\r\n\r\n",
                                 b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"])
def test_the_metrics_address_is_as_strict(start_weir, start_upstream, bad):
    w = start_weir(base_config(start_upstream().port))
    with connect(w.metrics_address) as c:
        c.send(bad)
        assert c.read_response("GET").status == 400
    assert w.ask("/readyz").status == 200


def test_ready_whatever_the_upstream_does(start_weir):
    w = start_weir(base_config("unix:///nonexistent/agent.sock"))
    assert status_of(w.port) == 502
    assert w.ask("/readyz").status == 200 and w.ask("/healthz").status == 200


# --------------------------------------------------------------------------------------------------- the admin address


@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_admin(start_weir, start_upstream, tmp_path, where):
    config = base_config(start_upstream().port)
    if where == "unix":
        config["admin"] = unix_admin(tmp_path)
    w = start_weir(config)
    for path in ("/status", "/metrics", "/healthz", "/readyz"):
        assert w.ask_admin(path).status == 200, path
    assert w.ask_admin("/reload", method="POST", body=b"").status == 200
    for path in ("/none", "/statusx", "/v1/chat/completions"):
        assert w.ask_admin(path).status == 404, path


def test_status_is_json(start_weir, start_upstream):
    config = base_config(start_upstream().port, limits={"per-thing": {"rate": "5/s"}}, route={"limits": ["per-thing"]})
    config["upstreams"]["elsewhere"] = {"url": "http://127.0.0.1:1"}
    w = start_weir(config)
    status_of(w.port)
    r = w.ask_admin("/status")
    assert r.header("Content-Type").startswith("application/json")
    status = json.loads(r.body)
    assert isinstance(status, dict) and status
    for name in ("per-thing", "elsewhere", "agent", "in"):
        assert f'"{name}"' in r.body.decode(), f"{name} is not on the status page"


def test_config_is_what_print_config_prints(start_weir, start_upstream):
    config = base_config(start_upstream().port, admin={"token": TOKEN}, limits={"per-thing": {"rate": "5/s"}})
    w = start_weir(config)
    r = w.ask_admin("/config", headers=[("Authorization", f"Bearer {TOKEN}")])
    assert r.status == 200
    text = r.body.decode()
    assert TOKEN not in text and "per-thing" in text and "max_connections" in text
    assert text == harness.run_weir("--print-config", "-c", str(w.config_path)).stdout


@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_a_token(start_weir, start_upstream, tmp_path, where):
    config = base_config(start_upstream().port, admin={"token": TOKEN})
    if where == "unix":
        config["admin"].update(unix_admin(tmp_path))
    w = start_weir(config)
    for headers in ([], [("Authorization", "Bearer wrong")], [("Authorization", f"Bearer {TOKEN}x")],
                    [("Authorization", f"Bearer {TOKEN[:-1]}")], [("Authorization", f"Basic {TOKEN}")],
                    [("Authorization", TOKEN)], [("Authorization", "Bearer ")], [("X-Token", TOKEN)]):
        for method, path in (("GET", "/status"), ("POST", "/reload")):
            r = w.ask_admin(path, method=method, headers=headers, body=b"" if method == "POST" else None)
            assert r.status in (400, 401, 403), (path, headers)
            assert TOKEN.encode() not in r.body
        assert w.ask_admin(f"/status?token={TOKEN}", headers=headers).status in (400, 401, 403)
    reloads = w.metric("weir_config_reloads_total")
    good = [("Authorization", f"Bearer {TOKEN}")]
    assert w.ask_admin("/status", headers=good).status == 200
    assert w.ask_admin("/reload", method="POST", body=b"", headers=good).status == 200
    assert w.metric("weir_config_reloads_total") == reloads + 1, "those without a token did nothing"
    assert w.ask("/metrics").status == 200, "the metrics address asks for none"


def test_an_admin_address_beyond_loopback_with_a_token(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, admin={"address": f"0.0.0.0:{free_port()}", "token": TOKEN}))
    assert w.ask_admin("/status").status in (401, 403)
    assert w.ask_admin("/status", headers=[("Authorization", f"Bearer {TOKEN}")]).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example",
                                  "localhost.evil.example", "evil.example#localhost",
                                  "localhost@evil.example"])
def test_a_rebound_name_is_forbidden(start_weir, start_upstream, host):
    """A web page whose name now points to 127.0.0.1 sends its own name: the browser's only defence is here."""
    w = start_weir(base_config(start_upstream().port))
    host = host.format(port=w.admin[1])
    for raw in (request("GET", "/status", host=host), request("GET", "/config", host=host),
                request("POST", "/reload", body=b"", host=host)):
        assert exchange(w.admin, raw).status in ((403,) if "#" not in host and "@" not in host else (400, 403))
    reloads = w.metric("weir_config_reloads_total")
    assert w.ask_admin("/reload", method="POST", body=b"").status == 200
    assert w.metric("weir_config_reloads_total") == reloads + 1


@pytest.mark.parametrize("host", ["localhost", "LocalHost:{port}", "127.0.0.1", "127.0.0.1:{port}", "[::1]:{port}"])
def test_the_local_names_are_not(start_weir, start_upstream, host):
    w = start_weir(base_config(start_upstream().port))
    assert exchange(w.admin, request("GET", "/status", host=host.format(port=w.admin[1]))).status == 200


def test_what_reads_and_what_acts(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    for path in ("/status", "/metrics", "/healthz", "/readyz"):
        for method in ("POST", "DELETE", "PUT"):
            r = w.ask_admin(path, method=method, body=b"")
            assert r.status == 405 and "GET" in r.header("Allow")
    reloads = w.metric("weir_config_reloads_total")
    r = w.ask_admin("/reload")
    assert r.status == 405 and r.header("Allow") == "POST"
    assert w.metric("weir_config_reloads_total") == reloads


def test_admin_paths_on_a_data_port_are_ordinary(start_weir, start_upstream):
    up = start_upstream()
    w = start_weir(base_config(up.port))
    for path in ("/metrics", "/healthz", "/readyz", "/status", "/config", "/"):
        assert get(w.port, path).body == b"ok"
    assert post(w.port, "/reload").body == b"ok"
    assert [q.target for q in up.requests] == ["/metrics", "/healthz", "/readyz", "/status", "/config", "/", "/reload"]
    config = base_config(up.port, route={"path": "/only"})
    w = start_weir(config)
    for path in ("/metrics", "/healthz", "/status"):
        assert get(w.port, path).status == 404


def test_admin_answers_are_not_for_other_pages(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    r = w.ask_admin("/status", headers=[("Origin", "https://evil.example")])
    assert "Access-Control-Allow-Origin" not in r.headers


# ------------------------------------------------------------------------------------------------------------ starting


@pytest.mark.parametrize("what", ["listener", "admin", "metrics"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_port_in_use(start_upstream, what, workers):
    with occupied() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = base_config(start_upstream().port, server={"workers": workers},
                             admin={"address": f"127.0.0.1:{free_port()}"},
                             metrics={"address": f"127.0.0.1:{free_port()}"})
        (config["listeners"]["in"] if what == "listener" else config[what])["address"] = address
        r = harness.run_weir(config=config)
    assert r.returncode == 1, r.stderr
    assert address in r.stderr


def test_a_port_of_another_weir(start_weir, start_upstream):
    """Its listeners share ports among workers by SO_REUSEPORT; a second process must not slip in."""
    up = start_upstream()
    config = base_config(up.port, server={"workers": 2})
    w = start_weir(config)
    second = {**config, "admin": False, "metrics": {"address": f"127.0.0.1:{free_port()}"}}
    assert harness.run_weir(config=second).returncode == 1
    assert status_of(w.port) == 200


def test_a_unix_socket_of_another_weir(start_weir, start_upstream, tmp_path):
    up = start_upstream()
    path = str(tmp_path / "in.sock")
    config = base_config(up.port, listener={"address": f"unix://{path}"})
    start_weir(config)
    second = {**config, "admin": False, "metrics": {"address": f"127.0.0.1:{free_port()}"}}
    assert harness.run_weir(config=second).returncode == 1
    assert get(path).status == 200, "the first one still has it"


def test_addresses_that_cannot_be(start_upstream):
    up = start_upstream()
    for address in ("unix:///nonexistent/dir/in.sock", "192.0.2.1:8080"):
        config = base_config(up.port, listener={"address": address}, admin=False,
                             metrics={"address": f"127.0.0.1:{free_port()}"})
        r = harness.run_weir(config=config)
        assert r.returncode == 1 and address.removeprefix("unix://") in r.stderr


def test_a_file_in_the_sockets_place_is_left_alone(start_upstream, tmp_path):
    (tmp_path / "precious").write_text("data")
    config = base_config(start_upstream().port, listener={"address": f"unix://{tmp_path}/precious"}, admin=False,
                         metrics={"address": f"127.0.0.1:{free_port()}"})
    assert harness.run_weir(config=config).returncode == 1
    assert (tmp_path / "precious").read_text() == "data"


def test_a_log_file_that_cannot_be(start_upstream):
    config = base_config(start_upstream().port, log={"access": "/nonexistent/dir/access.log"}, admin=False,
                         metrics={"address": f"127.0.0.1:{free_port()}"})
    r = harness.run_weir(config=config)
    assert r.returncode in (1, 2) and "/nonexistent/dir/access.log" in r.stderr


# ----------------------------------------------------------------------------------------------------------- addresses


def test_all_addresses_ipv4_and_ipv6(start_weir, start_upstream):
    port, metrics = free_port(), free_port()
    w = start_weir(base_config(start_upstream().port, listener={"address": f"*:{port}"},
                               metrics={"address": f"*:{metrics}"}))
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        assert status_of((host, port)) == 200
        assert get((host, metrics), "/readyz").status == 200
    assert w.wait_log(lambda l: "127.0.0.1" in l["peer"])


def test_an_ipv4_peer_of_a_dual_stack_port_is_trusted_as_one(start_weir, start_upstream):
    """Its address comes as ::ffff:127.0.0.1 there, and is in 127.0.0.0/8 all the same."""
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"address": f"*:{free_port()}"}, tenant={"trusted": ["127.0.0.0/8"]}))
    for host, tenant in (("127.0.0.1", "acme"), ("::1", None)):
        get((host, w.port), "/", [("X-Tenant-ID", "acme")])
        assert up.requests[-1].header("X-Tenant-ID") == tenant


def test_one_address_is_that_one(start_weir, start_upstream):
    up = start_upstream()
    config = base_config(up.port)
    config["listeners"]["six"] = {"address": f"[::1]:{free_port('::1')}", "routes": routes(("/", {}))}
    config["listeners"]["other"] = {"address": f"127.0.0.2:{free_port()}", "routes": routes(("/", {}))}
    w = start_weir(config)
    for where in (w.port, ("::1", w.ports["six"]), ("127.0.0.2", w.ports["other"])):
        assert status_of(where) == 200
    for where in (("::1", w.port), ("127.0.0.2", w.port), ("127.0.0.1", w.ports["other"])):
        with pytest.raises(ConnectionRefusedError):
            connect(where)


def test_one_port_on_two_addresses(start_weir, start_upstream):
    config = base_config(start_upstream().port)
    port = int(config["listeners"]["in"]["address"].rpartition(":")[2])
    config["listeners"]["two"] = {"address": f"127.0.0.2:{port}", "routes": routes(("/two", {}))}
    start_weir(config)
    assert status_of(("127.0.0.1", port)) == 200
    assert (status_of(("127.0.0.2", port)), status_of(("127.0.0.2", port), "/two")) == (404, 200)


def test_a_unix_listener(start_weir, start_upstream, tmp_path):
    up = start_upstream()
    path = str(tmp_path / "in.sock")
    w = start_weir(base_config(up.port, listener={"address": f"unix://{path}"}, server={"workers": 3}))
    for _ in range(20):
        assert get(path).status == 200
    with connect(path) as c:
        for _ in range(3):
            c.send(request("GET", "/"))
            assert c.read_response().status == 200
    assert up.heads == 23
    assert w.wait_log(count=23, listener="in")["peer"] is not None


# ----------------------------------------------------------------------------------------------------------- log files


def test_sigusr1_reopens_the_log(start_weir, start_upstream):
    config = base_config(start_upstream().port)
    w = harness.Weir(config)
    log, rotated = w.dir / "access.log", w.dir / "access.log.1"
    config["log"] = {"access": str(log)}
    w._config = config
    with w:
        for turn in range(3):
            get(w.port, f"/turn{turn}/a")
            w.wait_log(path=f"/turn{turn}/a")
            log.rename(rotated)
            get(w.port, f"/turn{turn}/b")
            wait_until(lambda: f"/turn{turn}/b" in rotated.read_text(), "the line in the old file")
            w.signal(signal.SIGUSR1)
            wait_until(log.exists, "a new file")
            get(w.port, f"/turn{turn}/c")
            w.wait_log(path=f"/turn{turn}/c")
            assert all(isinstance(json.loads(line), dict) for line in rotated.read_text().splitlines())
            assert f"/turn{turn}/c" not in rotated.read_text()
        assert log.stat().st_mode & 0o007 == 0 or log.stat().st_mode & 0o002 == 0, "nobody else writes there"


def test_signals_without_a_log_file(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port, log={"access": "none"}))
    for sig in (signal.SIGUSR1, signal.SIGPIPE, signal.SIGHUP):
        w.signal(sig)
        assert status_of(w.port) == 200
    w.wait_metric("weir_config_reloads_total", lambda v: v >= 1, result="ok")
    assert not re.search(r'^\{"time"', w.stdout, re.M)
