"""Metrics: announced from the start, counted once, bounded, and readable by Prometheus."""
import re
import shutil
import subprocess
import threading
import time

import pytest

import harness
from harness import base_config, connect, exchange, get, reply, request, run_weir, wait_until
from support import Caller, Families, families, in_parallel, routes, two_limits

TENANT = "X-Tenant-ID"
FAMILIES = {
    "weir_requests_total": "counter", "weir_request_duration_seconds": "histogram",
    "weir_overhead_seconds": "histogram",
    "weir_in_flight": "gauge", "weir_connections": "gauge", "weir_refused_total": "counter",
    "weir_limit_decisions_total": "counter", "weir_limit_keys": "gauge", "weir_limit_overflow_total": "counter",
    "weir_upstream_requests_total": "counter", "weir_upstream_first_byte_seconds": "histogram",
    "weir_upstream_duration_seconds": "histogram", "weir_upstream_connections": "gauge",
    "weir_config_reloads_total": "counter", "weir_config_loaded_timestamp_seconds": "gauge", "weir_build_info": "gauge",
    "process_cpu_seconds_total": "counter", "process_resident_memory_bytes": "gauge",
    "process_virtual_memory_bytes": "gauge",
    "process_open_fds": "gauge", "process_max_fds": "gauge", "process_start_time_seconds": "gauge",
}
SCRAPER = ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
           "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")


def rich(up, **more):
    """Routes for every outcome: answered, refused, failed."""
    config = base_config(up.port, limits={"tight": {"algorithm": "sliding_window", "limit": 5, "window": "1h"}}, **more)
    config["upstreams"]["dead"] = {"url": "unix:///nonexistent/agent.sock", "retry": False, "breaker": False}
    config["listeners"]["in"]["routes"] = routes(("/ok", {}), ("/limited", {"limits": ["tight"]}),
                                                 ("/dead", {"upstream": "dead"}),
                                                 ("/get", {"methods": ["GET"]}))
    return config


def by_target(peer):
    """An upstream that answers with the status that ends the target."""
    m = re.search(r"/(\d{3})$", peer.request.target)
    return reply(int(m.group(1)) if m else 200, b"" if peer.request.method == "HEAD" else b"body")


def test_every_family_is_announced_from_the_start(start_weir, start_upstream):
    f = families(start_weir(base_config(start_upstream().port)))
    for name, kind in FAMILIES.items():
        assert f.type.get(name) == kind, f"{name}: {f.type.get(name)}, not {kind}"
        assert len(f.help[name]) > 5
    assert set(f.type) == set(f.help)
    assert f.sum("weir_build_info") == 1 and f.labels("weir_build_info")[0]["version"]
    assert f.sum("process_resident_memory_bytes") > 1e6 and f.sum("process_open_fds") > 3


def test_metrics_are_the_same_at_both_addresses(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    get(w.port)
    assert Families(w.ask_admin("/metrics").body.decode()).type == families(w).type


def test_the_plain_format(start_weir, start_upstream):
    w = start_weir(base_config(start_upstream().port))
    for headers in ([], [("Accept", "*/*")], [("Accept", "text/plain")], [("Accept", "text/html")]):
        r = w.ask("/metrics", headers=headers)
        assert r.header("Content-Type").replace(" ", "").startswith("text/plain;version=0.0.4")
        assert b"# EOF" not in r.body


@pytest.mark.parametrize("accept", ["application/openmetrics-text",
                                    "application/openmetrics-text; version=1.0.0; charset=utf-8", SCRAPER])
def test_openmetrics_when_asked_for(start_weir, start_upstream, accept):
    w = start_weir(rich(start_upstream()))
    get(w.port, "/ok")
    r = w.ask("/metrics", headers=[("Accept", accept)])
    assert r.header("Content-Type").replace(" ", "").startswith("application/openmetrics-text;version=1.0.0")
    text = r.body.decode()
    assert text.endswith("\n# EOF\n") and text.count("# EOF") == 1
    kinds = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))
    assert kinds["weir_requests"] == "counter" and "weir_requests_total" not in kinds
    for name, value in re.findall(r"(?m)^([a-z_]+)(?:\{.*\})? (\S+)$", text):
        family = name if name in kinds else re.sub(r"_(total|bucket|count|sum|created|info)$", "", name)
        assert family in kinds, f"{name} belongs to no family"
        if kinds[family] == "counter":
            assert name.endswith(("_total", "_created"))
    for le in re.findall(r'le="([^"]+)"', text):
        assert le == "+Inf" or re.search(r"[.e]", le), f"le={le} is not a canonical float"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian prometheus) is not installed")
def test_promtool(start_weir, start_upstream):
    up = start_upstream(by_target)
    w = start_weir(rich(up))
    for target in ("/ok/200", "/ok/404", "/ok/500", "/none", "/dead", *["/limited"] * 7):
        get(w.port, target, [(TENANT, "acme")])
    r = subprocess.run(["promtool", "check", "metrics"], input=w.ask("/metrics").body, capture_output=True, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr


# ------------------------------------------------------------------------------------------------------------- balance


def test_the_counters_balance(start_weir, start_upstream):
    """After everything was answered each request stands in each place exactly once."""
    up = start_upstream(by_target)
    w = start_weir(rich(up, server={"workers": 2}))
    plan = ["/ok/200"] * 7 + ["/ok/404"] * 3 + ["/ok/503"] * 2 + ["/none"] * 4 + ["/dead"] * 5 + ["/limited"] * 9

    def work(_):
        with Caller(w.port) as caller:
            return [caller.get(target).status for target in plan]

    statuses = [s for some in in_parallel(4, work) for s in some]
    post = exchange(w.port, request("POST", "/get", body=b"")).status
    bad = exchange(w.port, request("GET", "/ok/../x"), method="GET").status
    total = len(statuses) + 2
    assert (post, bad) == (405, 400)
    w.wait_metric("weir_requests_total", total)
    f = wait_until(lambda: (lambda f: f if f.sum("weir_in_flight") == 0 else None)(families(w)), "nothing in flight")
    for status in {*statuses, 405, 400}:
        wanted = [*statuses, 405, 400].count(status)
        assert f.sum("weir_requests_total", listener="in", status=str(status)) == wanted, status
    assert f.sum("weir_request_duration_seconds_count") == total
    assert f.sum("weir_overhead_seconds_count", listener="in") == total
    for reason, wanted in (("limit", 4 * 9 - 5), ("no_route", 16), ("connect_failed", 20), ("method", 1),
                           ("malformed", 1)):
        assert f.sum("weir_refused_total", listener="in", reason=reason) == wanted, reason
    for decision, wanted in (("admitted", 5), ("refused", 31), ("shadow_refused", 0)):
        assert f.sum("weir_limit_decisions_total", limit="tight", decision=decision) == wanted, decision
    for outcome, wanted in (("ok", 4 * 7 + 5), ("4xx", 12), ("5xx", 8), ("connect_failed", 20)):
        assert f.sum("weir_upstream_requests_total", outcome=outcome) == wanted, outcome
    assert f.sum("weir_upstream_requests_total", upstream="agent") == up.complete == 4 * 12 + 5
    assert f.sum("weir_upstream_first_byte_seconds_count", upstream="agent") == up.complete
    assert f.sum("weir_upstream_connections", state="active") == 0
    assert f.sum("weir_upstream_connections", upstream="agent", state="idle") == up.open_connections
    w.wait_metric("weir_connections", 0, listener="in")


def test_gauges_follow(start_weir, start_upstream):
    go = threading.Event()
    up = start_upstream(script=[go, reply(200, b"ok")])
    w = start_weir(base_config(up.port))
    with connect(w.port) as one, connect(w.port) as two, connect(w.port):
        for c in (one, two):
            c.send(request("GET", "/"))
        up.wait_heads(2)
        w.wait_metric("weir_in_flight", 2, listener="in")
        w.wait_metric("weir_connections", 3, listener="in")
        w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="active")
        go.set()
        for c in (one, two):
            assert c.read_response().status == 200
        w.wait_metric("weir_in_flight", 0, listener="in")
        w.wait_metric("weir_upstream_connections", 0, upstream="agent", state="active")
        w.wait_metric("weir_upstream_connections", 2, upstream="agent", state="idle")
    w.wait_metric("weir_connections", 0, listener="in")


def test_histograms(start_weir, start_upstream):
    up = start_upstream(script=[0.05, reply(200, b"ok")])
    w = start_weir(base_config(up.port))
    with Caller(w.port) as caller:
        for _ in range(20):
            caller.get()
    w.wait_metric("weir_requests_total", 20)
    f = families(w)
    for name, kind in f.type.items():
        if kind != "histogram":
            continue
        series = {}
        for (sample, labels), value in f.samples.items():
            if sample == name + "_bucket":
                rest = frozenset(pair for pair in labels if pair[0] != "le")
                series.setdefault(rest, []).append((float(dict(labels)["le"]), value))
        for labels, buckets in series.items():
            buckets.sort()
            values = [v for _, v in buckets]
            assert values == sorted(values) and buckets[-1][0] == float("inf")
            assert values[-1] == f.samples[(name + "_count", labels)]
            assert f.samples[(name + "_sum", labels)] >= 0
            assert len(buckets) >= 8
            if name == "weir_overhead_seconds":
                assert buckets[0][0] <= 1e-5
            else:
                assert buckets[-2][0] >= 600
    for name in ("weir_request_duration_seconds", "weir_upstream_first_byte_seconds", "weir_upstream_duration_seconds"):
        assert f.sum(name + "_sum") >= 20 * 0.05
        assert f.sum(name + "_bucket", le="+Inf") == 20
    below = [v for (n, labels), v in f.samples.items() if n == "weir_request_duration_seconds_bucket"
             and float(dict(labels)["le"]) < 0.05]
    assert all(v == 0 for v in below), "an answer that took 50 ms stands in a lower bucket"
    overhead, duration = f.sum("weir_overhead_seconds_sum"), f.sum("weir_request_duration_seconds_sum")
    assert overhead < duration - 20 * 0.04, "the upstream's time is not weir's"


def test_counters_live_through_a_reload(start_weir, start_upstream):
    config = rich(start_upstream())
    w = start_weir(config)
    for _ in range(7):
        get(w.port, "/limited")
    w.wait_metric("weir_requests_total", 7)
    config["limits"]["more"] = {"rate": "5/s"}
    config["upstreams"]["more"] = {"url": "http://127.0.0.1:1"}
    config["listeners"]["in"]["routes"].insert(0, {"path": "/a-new-one", "upstream": "agent"})
    w.reload(config)
    for _ in range(3):
        get(w.port, "/limited")
    w.wait_metric("weir_requests_total", 10, route="/limited")
    w.wait_metric("weir_limit_decisions_total", 10, limit="tight")


# -------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("series", [1, 3])
def test_tenants_beyond_the_cap_are_other(start_weir, start_upstream, series):
    config = base_config(start_upstream().port, metrics={"tenant_series": series},
                         **two_limits(wide={"algorithm": "sliding_window", "limit": 1000, "window": "1h"}))
    w = start_weir(config)
    for n in range(10):
        for _ in range(n + 1):
            get(w.port, "/", [(TENANT, f"t{n}")])
    w.wait_metric("weir_limit_decisions_total", 55, limit="wide")
    f = families(w)
    names = {labels["tenant"] for labels in f.labels("weir_limit_decisions_total")}
    assert "__other__" in names and len(names - {"__other__"}) == series
    for name in names - {"__other__"}:
        assert f.sum("weir_limit_decisions_total", tenant=name) == int(name[1:]) + 1


def test_nothing_a_caller_says_makes_a_series(start_weir, start_upstream):
    w = start_weir(rich(start_upstream(by_target), metrics={"tenant_series": 2}))

    def noise(n):
        for target in (f"/ok/{n}/200", f"/none-{n}", f"/limited/{n}?q={n}"):
            exchange(w.port, request("GET", target, [(TENANT, f"n{n}"), ("X-Correlation-ID", f"c{n}")],
                                     host=f"h{n}.example"))
        exchange(w.port, request(f"M{n}", "/ok"), method="GET")
        exchange(w.port, request("GET", f"/ok/../{n}"))

    for n in range(3):
        noise(n)
    w.wait_metric("weir_requests_total", 15)
    before = set(families(w).samples)
    for n in range(3, 40):
        noise(n)
    w.wait_metric("weir_requests_total", 200)
    assert {s for s in set(families(w).samples) - before if not s[0].startswith("process_")} == set()


def test_odd_statuses_stay_bounded(start_weir, start_upstream):
    up = start_upstream(by_target)
    w = start_weir(rich(up))
    codes = [200, 201, 299, 404, 418, 451, 499, 500, 599]
    for code in codes:
        assert get(w.port, f"/ok/{code}").status == code
    w.wait_metric("weir_requests_total", len(codes))
    shown = {labels["status"] for labels in families(w).labels("weir_requests_total") if labels.get("route") == "/ok"}
    assert shown >= {"200", "404", "500"} and len(shown) <= len(codes) + 1


def test_label_values_are_escaped(start_weir, start_upstream):
    path = '/it\'s{le="1"}'
    config = base_config(start_upstream().port)
    config["listeners"]["in"]["routes"] = routes((path, {}), ("/", {}))
    check = run_weir("--check", config=config)
    if check.returncode != 0:  # then no label can hold what needs escaping: names and tenants cannot
        assert check.returncode == 2 and "routes" in check.stderr
        return
    w = start_weir(config)
    get(w.port)
    families(w)
    assert '\\"1\\"' in w.ask("/metrics").body.decode()


def test_the_start_of_a_process_that_sees_nothing_but_processes(start_weir, start_upstream, tmp_path, monkeypatch):
    """As services and containers have /proc."""
    alone = tmp_path / "weir"
    alone.write_text("#!/bin/sh\nexec unshare --mount sh -c 'mount -t proc -o subset=pid proc /proc && test ! -e /proc/stat && exec \"$0\" \"$@\"' "
                     f"{harness.BIN} \"$@\"\n")
    alone.chmod(0o755)
    before = time.time()
    monkeypatch.setattr(harness, "BIN", alone)
    w = start_weir(base_config(start_upstream().port))
    assert before - 1 <= w.metric("process_start_time_seconds") <= time.time() + 1
