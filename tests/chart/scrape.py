"""What a weir shows after traffic of every kind, and the expressions that are written about it.

The binary is $WEIR_BIN. The store is a Redis, for the series that only it has.
"""
import contextlib
import functools
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "http"), str(ROOT / "tests" / "fleet")]

import harness  # noqa: E402  (where it is)
import llm  # noqa: E402
from harness import connect, get, merge, post, reply, request, wait_until  # noqa: E402
from redis_server import RedisServer  # noqa: E402
from support import Caller, in_parallel  # noqa: E402

TARGET = {"namespace", "job", "pod", "instance"}     # labels that every series has from a PodMonitor
WORDS = {                                            # labels with a fixed set of values: what may be asked for
    "decision": {"admitted", "refused", "shadow_refused"},
    "state": {"closed", "open", "half_open", "paused", "idle", "active"},
    "to": None,                                      # of transitions a state, of fallbacks an upstream
    "type": {"input", "cached", "output"},
    "result": {"ok", "timeout", "error", "first", "replayed", "acknowledged", "rejected", "shared", "mismatch", "bypassed", "forgotten"},
    "reason": set(re.findall(r"^REASON\(\w+, (\w+)", (ROOT / "conf" / "reasons.def").read_text(), re.M)),
}
WORDS["outcome"] = WORDS["reason"] | {"ok", "4xx", "5xx"}
NOT_HERE = {"weir_memory_limit_bytes"}               # only in a cgroup with a limit; announced everywhere


def families():
    """{name: (kind, labels)} as conf/metrics.def has them."""
    rows = re.findall(r'^METRIC\(\w+,\s*(\w+),\s*(\w+),\s*"([^"]*)"', (ROOT / "conf" / "metrics.def").read_text(), re.M)
    return {name: (kind, set(filter(None, labels.split(",")))) for kind, name, labels in rows}


def labels_of(metric):
    """For promql.check: the labels of what is scraped under this name. KeyError where nothing is."""
    if metric == "up":
        return TARGET
    known = families()
    if metric in known and not known[metric][0].startswith("HISTOGRAM"):
        return known[metric][1] | TARGET
    family, _, part = metric.rpartition("_")
    if part not in ("bucket", "sum", "count") or not known.get(family, [""])[0].startswith("HISTOGRAM"):
        raise KeyError(f"{metric} is not in conf/metrics.def")
    return known[family][1] | TARGET | ({"le"} if part == "bucket" else set())


def wrong_words(label, sign, value):
    """The values that a matcher names and that no series has."""
    known = WORDS.get(label)
    if known is None:
        return set()
    if sign in ("=", "!="):
        return {value} - known
    return {one for one in value.split("|") if not any(re.fullmatch(one, word) for word in known)}


def promtool(*arguments, text=None):
    run = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, input=text)
    return run.returncode, run.stdout + run.stderr


def syntax_errors(expressions):
    """What promtool has against these expressions, all in one go."""
    rules = [{"record": f"x:{i}", "expr": text} for i, text in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}, file)
        file.flush()
        code, said = promtool("check", "rules", "--lint=none", file.name)
    return said if code else ""


# ------------------------------------------------------------------------------------------------------------ traffic


def _config(agent, models, silent, throttled, redis):
    plain = {"breaker": False, "retry": False}
    dialect = {"dialect": "openai", **plain}
    return {
        "version": 1,
        "store": {"kind": "redis", "redis": {"addresses": [f"127.0.0.1:{redis.port}"], "timeout": "5s", "claim_timeout": "5s",
                                              "sync": "lease"}},
        "limits": {
            "tight": {"algorithm": "sliding_window", "limit": 2, "window": "1h"},
            "trial": {"algorithm": "sliding_window", "limit": 1, "window": "1h", "mode": "shadow"},
            "wide": {"rate": "100000/s", "burst": 100000},
            "slots": {"algorithm": "concurrency", "limit": 1, "key": [], "scope": "local", "queue": {"size": 1, "wait": "50ms"}},
            "tokens": {"unit": "llm_tokens", "rate": "1000000/m"}},
        "dedup": {"jobs": {}},
        "upstreams": {
            "agent": {"url": agent.url, **plain},
            "models": {"url": models.url, **dialect},
            "silent": {"url": silent.url, **dialect},
            "throttled": {"url": throttled.url, "dialect": "openai", "retry": False},
            "dead": {"url": "unix:///nonexistent/agent.sock", "breaker": {"consecutive_failures": 1000, "min_requests": 1000},
                     "retry": {"budget": "1%", "backoff": {"base": "1ms", "max": "1ms"}}},
            "ill": {"url": "unix:///nonexistent/agent.sock", "retry": False, "breaker": {"consecutive_failures": 1}}},
        "listeners": {"in": {"address": f"127.0.0.1:{harness.free_port()}", "routes": [
            {"path": "/", "upstream": "agent", "limits": ["trial"]},
            {"path": "/often", "upstream": "agent", "limits": ["wide"]},
            {"path": "/tight", "upstream": "agent", "limits": ["tight"]},
            {"path": "/slots", "upstream": "agent", "limits": ["slots"]},
            {"path": "/jobs", "upstream": "agent", "dedup": "jobs"},
            {"path": "/dead", "upstream": "dead"},
            {"path": "/ill", "upstream": "ill"},
            {"path": "/falls", "upstream": "ill", "fallback": ["agent"]},
            {"path": "/throttled", "upstream": "throttled", "strip_prefix": True},
            {"path": "/models", "upstream": "models", "strip_prefix": True, "limits": ["tokens"]},
            {"path": "/silent", "upstream": "silent", "strip_prefix": True}]}},
    }


def _answer(peer):
    if peer.request.target == "/tunnel":
        peer.send(reply(101, b"", [("Connection", "Upgrade"), ("Upgrade", "websocket"),
                                   ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]))
        return
    if peer.request.target == "/slots":
        time.sleep(0.3)               # longer than the queue waits
    peer.send(reply(200, b"ok"))


def _burst(w, target, headers):
    with Caller(w.port) as caller:
        for _ in range(100):
            caller.get(target, headers)


def _traffic(w, held):
    tenant = [("X-Tenant-ID", "acme")]
    asked = llm.FORMS["chat"]
    get(w.port, "/", tenant)
    get(w.port, "/", tenant)
    wait_until(lambda: _burst(w, "/often", tenant) or w.metric("weir_limit_leased_total"), "a decision from a slice", every=0)
    for target in ("/tight",) * 4 + ("/throttled",) * 2 + ("/ill", "/ill", "/falls", "/no/such/./path"):
        get(w.port, target, tenant)
    in_parallel(4, lambda _: get(w.port, "/slots"))
    in_parallel(16, lambda _: get(w.port, "/dead"))
    for _ in range(2):
        post(w.port, "/jobs", b"{}", [("Idempotency-Key", "one")])
    for prefix in ("/models", "/silent"):
        post(w.port, prefix + asked.path, asked.ask(), [*tenant, ("Content-Type", "application/json")])
    tunnel = held.enter_context(connect(w.port))
    tunnel.send(request("GET", "/tunnel", [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                                           ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]))
    assert tunnel.read_response().status == 101
    w.reload("version: 2\n", result="error")


@functools.cache
def scrape():
    """The text of /metrics after all that."""
    with contextlib.ExitStack() as held:
        redis = held.enter_context(RedisServer())
        agent = held.enter_context(contextlib.closing(harness.Upstream(_answer, lenient=True)))
        models = held.enter_context(contextlib.closing(harness.Upstream(llm.Llm(llm.Usage(input=100, cached=10, output=20)))))
        silent = held.enter_context(contextlib.closing(harness.Upstream(llm.Llm(None))))
        throttled = held.enter_context(contextlib.closing(harness.Upstream(lambda peer: peer.send(reply(429, b"{}", [("Retry-After", "60")])))))
        w = held.enter_context(harness.weir(_config(agent, models, silent, throttled, redis)))
        _traffic(w, held)
        return w.ask("/metrics").body.decode()


@functools.cache
def samples():
    """{name: [labels, ...]} of what was scraped."""
    found = {}
    for (name, labels), _ in harness.parse_metrics(scrape()).items():
        found.setdefault(name, []).append(dict(labels))
    return found


def announced():
    return set(re.findall(r"(?m)^# TYPE (\S+) ", scrape()))


def is_there(metric):
    """Whether a real weir has series of this name."""
    return metric == "up" or metric in samples() or metric in NOT_HERE & announced()
