"""An upstream that is down, all of it or half of the time, under load: its trouble is not multiplied, callers are told at
once, nobody who could be served elsewhere is lost, and it comes back."""
import itertools
import statistics
import threading
import time

import pytest

from fault_proxy import Fault
from faults import breaker_state, outcomes, refused, status, transitions, wait_state
from harness import base_config, merge, request, sanitized, wait_until
from support import Caller, in_parallel

CALLERS = 32
EACH = 40
QUICK = {"connect": "300ms", "first_byte": "300ms", "idle": "300ms"}
MUTE_IS_QUICK = {"is mute": {"timeouts": QUICK}}   # what is down in another way is never late


def break_off(p):
    p.arm(Fault("down", 9, "fin", once=False))


def set_mode(mode):
    return lambda p: setattr(p, "mode", mode)


# how it is down -> (what does it, the reasons that callers are told)
OUTAGES = {
    "refuses": (lambda p: p.refuse(), {"connect_failed"}),
    "resets connections": (set_mode("rst at once"), {"reset", "connect_failed"}),
    "resets requests": (set_mode("rst"), {"reset"}),
    "hangs up": (set_mode("fin"), {"reset"}),
    "is mute": (set_mode("mute"), {"timeout_first_byte"}),
    "talks garbage": (set_mode(b"\x00\x01 what?\r\n\r\n"), {"bad_response"}),
    "breaks off in the head": (break_off, {"reset", "truncated"}),
}


def load(w, callers=CALLERS, each=EACH, target="/", method="GET"):
    """[(status, reason)] of so many requests, each caller on its connection, and the seconds they took."""
    def one(n):
        with Caller(w.port) as c:
            return [c.ask(request(method, f"{target}{n}/{i}", [], b"x" if method == "POST" else None)) for i in range(each)]

    began = time.monotonic()
    answers = sum(in_parallel(callers, one), [])
    return answers, time.monotonic() - began


def all_lines(w, count):
    wait_until(lambda: len(w.log) >= count, "every line of the log")
    return w.log


def tries(w, p):
    """What was tried by weir's own account; the proxy may not have seen more, and sees all but what is refused."""
    told = sum(v for v in outcomes(w).values())
    assert p.requests <= told, (p.requests, told)
    return told


@pytest.mark.parametrize("name, dialect", [*((name, "plain") for name in OUTAGES), ("refuses", "openai"), ("hangs up", "openai")])
def test_a_whole_outage_under_load(start_upstream, start_proxy, start_weir, name, dialect):
    """Retries and breaker as they are by default. Tries <= 1.25 x requests, and 3 a second that are always granted."""
    how, reasons = OUTAGES[name]
    p = start_proxy(start_upstream(lenient=True))
    w = start_weir(base_config(p.url, agent={"dialect": dialect, "retry": {}, "breaker": {}, **MUTE_IS_QUICK.get(name, {})}))
    how(p)
    answers, seconds = load(w)
    requests = CALLERS * EACH
    assert len(answers) == requests and all(r.clean for r in answers)
    seen = {r.weir_reason for r in answers}
    assert seen <= reasons | {"breaker_open"} and "breaker_open" in seen, seen
    assert tries(w, p) <= 1.25 * requests + 3 * (seconds + 1), (outcomes(w), seconds)
    assert tries(w, p) <= 5 + 2 * CALLERS, "calls go on after it opened"
    for r in answers:
        if r.weir_reason == "breaker_open":
            refused(r, "breaker_open", dialect)
    lines = all_lines(w, requests)
    fast = [line["overhead_ms"] for line in lines if line["reason"] == "breaker_open"]
    assert len(fast) == sum(r.weir_reason == "breaker_open" for r in answers)
    assert sum(line.get("attempts", 0) for line in lines) == tries(w, p)
    assert statistics.median(fast) < (10 if sanitized() else 1), statistics.median(fast)
    assert breaker_state(w) == "open"
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_upstream_connections", 0, state="active")


@pytest.mark.parametrize("name", ["refuses", "resets requests", "hangs up", "503"])
def test_without_a_breaker_the_budget_alone_bounds_the_tries(start_faulty, start_proxy, start_weir, name):
    up = start_faulty(status(503))
    p = start_proxy(up)
    w = start_weir(base_config(p.url, agent={"retry": {"attempts": 5, "backoff": {"base": "1ms", "max": "1ms"}},
                                             "breaker": False}))
    if name != "503":
        OUTAGES[name][0](p)
    answers, seconds = load(w)
    requests = CALLERS * EACH
    reasons = {None} if name == "503" else OUTAGES[name][1]
    assert {r.weir_reason for r in answers} == reasons
    told = tries(w, p)
    assert requests <= told <= 1.25 * requests + 3 * (seconds + 1), (told, seconds)
    assert told <= requests + max(0.2 * requests, 3 * (seconds + 1)) + 3, "20 % or 3 a second, not both"
    assert sum(line["attempts"] for line in all_lines(w, requests)) == told
    assert w.metric("weir_retries_total") == told - requests
    assert p.requests == (0 if name == "refuses" else told)


# ------------------------------------------------------------------------------------------------------- up and down


BASES = {"a": 0.2, "b": 0.4, "c": 1.0}
LONGEST = 2
CYCLES = 15


class Openings:
    """When each breaker opened, as far as the metrics tell: it did so between `after` and `before`."""

    def __init__(self, w, names):
        self.w, self.names, self.looked = w, names, time.monotonic()
        self.runs = {name: [[]] for name in names}     # of openings without a closing between them
        self.counts = {name: (0, 0) for name in names}

    def look(self):
        began, found = time.monotonic(), self.w.metrics()
        now = time.monotonic()
        for name in self.names:
            opened, closed = (sum(v for (n, labels), v in found.items() if n == "weir_breaker_transitions_total"
                                  and {("upstream", name), ("to", to)} <= labels) for to in ("open", "closed"))
            had_opened, had_closed = self.counts[name]
            if closed > had_closed:
                self.runs[name].append([])
            self.runs[name][-1] += [(self.looked, now)] * int(opened - had_opened)
            self.counts[name] = opened, closed
        self.looked = began

    def check(self, name, base, longest):
        """Two openings are as far apart as the first of them was to last, and each time is twice the one before."""
        for run in self.runs[name]:
            wait = base
            for (after, _), (_, before) in zip(run, run[1:]):
                assert before - after >= wait, f"{name}: {before - after} s, not {wait}: {run}"
                wait = min(2 * wait, longest)


def test_a_fault_of_1_hz_does_not_make_it_flap(start_upstream, start_proxy, start_weir):
    """Half a second up, half a second down; three breakers with another `open.base` each, and an upstream that is well."""
    up = start_upstream(lenient=True)
    proxies = {name: start_proxy(up) for name in BASES}
    config = base_config(f"http://127.0.0.1:{up.port}")
    for name, base in BASES.items():
        config["upstreams"][name] = {"url": proxies[name].url, "retry": False, "breaker": {
            "open": {"base": f"{int(base * 1000)}ms", "max": f"{LONGEST}s", "jitter": "0%"}}}
    config["listeners"]["in"]["routes"] += [{"path": f"/{name}", "upstream": name} for name in BASES]
    w = start_weir(config)
    over, answers = threading.Event(), {name: [] for name in (*BASES, "agent")}

    def call(name):
        with Caller(w.port) as c:
            while not over.is_set():
                r = c.get("/" if name == "agent" else f"/{name}")
                answers[name].append((time.monotonic(), r.status, r.weir_reason, r.clean))
                over.wait(0.005)

    threads = [threading.Thread(target=call, args=(name,), daemon=True) for name in [*BASES, "agent"] * 2]
    for t in threads:
        t.start()
    began, openings = time.monotonic(), Openings(w, BASES)
    try:
        for n in range(CYCLES * 2):
            for p in proxies.values():
                p.mode = "rst" if n % 2 else "pass"
            while time.monotonic() < began + (n + 1) * 0.5:
                openings.look()
                over.wait(0.02)
    finally:
        over.set()
    for t in threads:
        t.join(20)
        assert not t.is_alive()
    seconds = time.monotonic() - began
    assert all(code == 200 and clean for _, code, _, clean in answers["agent"]) and len(answers["agent"]) > 500
    for name, base in BASES.items():
        opened, closed = transitions(w, "open", name), transitions(w, "closed", name)
        half = transitions(w, "half_open", name)
        # it closes at most once in each half second that is good, so it opens from closed at most once in each bad one
        assert closed <= CYCLES + 1, (name, closed)
        openings.check(name, base, LONGEST)
        assert 1 <= opened <= seconds / base + 1, "it opens sooner than its time"
        assert 0 <= opened - half <= 1 and closed <= half, (name, opened, half, closed)
        words = {reason for _, _, reason, _ in answers[name]}
        assert words <= {None, "reset", "breaker_open"}, words
        served = sum(code == 200 for _, code, _, _ in answers[name])
        failed = sum(reason == "reset" for _, _, reason, _ in answers[name])
        assert served >= 3 * closed, (name, served, closed)
        # what opens it is 5 in a row or half of at least 20; then a probe for each time that it opens again. Calls that
        # are on their way when it opens may fail besides.
        assert failed <= (opened + 1) * (20 + len(threads)), (name, failed, opened)
    for p in proxies.values():
        p.mode = "pass"

    def recovered(name):
        with Caller(w.port) as c:
            return c.get(f"/{name}").status == 200 and breaker_state(w, name) == "closed"

    for name in BASES:
        wait_until(lambda: recovered(name), f"{name} to recover", timeout=60)


# ------------------------------------------------------------------------------------------------------- the way back


@pytest.mark.parametrize("probes", [1, 3, 7])
def test_half_open_under_200_callers(start_upstream, start_proxy, start_weir, probes):
    """The probes and not one more reach the upstream, however many call; then the share grows: 10, 50, 100 %."""
    gate = threading.Event()
    up = start_upstream(lambda peer: gate.wait(20) and None or b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    p = start_proxy(up)
    w = start_weir(base_config(p.url, agent={"retry": False, "breaker": {
        "consecutive_failures": 3, "probes": probes, "open": {"base": "300ms", "max": "2s", "jitter": "0%"}}}))
    p.mode = "rst"
    load(w, 1, 3)
    assert breaker_state(w) == "open"
    p.mode = "pass"
    wait_state(w, "half_open")
    before, began, told = p.requests, [], itertools.count()

    def one(n):
        with Caller(w.port) as c:
            r = c.get(f"/{n}")
            if r.weir_reason and next(told) == 199 - probes:
                up.wait_heads(probes)
                began.append((p.requests - before, up.heads, breaker_state(w)))
                gate.set()
            return r

    answers = in_parallel(200, one)
    assert began == [(probes, probes, "half_open")]
    assert sum(r.status == 200 for r in answers) == probes
    assert all(refused(r, "breaker_open") for r in answers if r.status != 200)
    assert p.requests - before == probes
    assert breaker_state(w) == "closed"
    assert transitions(w, "closed") == transitions(w, "half_open") == 1


def test_recovery_under_load_ramps(start_upstream, start_proxy, start_weir):
    p = start_proxy(start_upstream())
    w = start_weir(base_config(p.url, agent={"retry": False, "breaker": {
        "consecutive_failures": 3, "probes": 1, "open": {"base": "300ms", "max": "2s", "jitter": "0%"}}}))
    p.mode = "rst"
    load(w, 1, 3)
    p.mode = "pass"
    wait_state(w, "half_open")
    seen, lock, over = [], threading.Lock(), threading.Event()

    def one(n):
        with Caller(w.port) as c:
            while not over.is_set():
                sent = time.monotonic()
                r = c.get(f"/{n}")
                with lock:
                    seen.append((sent, time.monotonic(), r.status == 200))
                over.wait(0.02)

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(16)]
    for t in threads:
        t.start()
    try:
        wait_until(lambda: any(ok for _, _, ok in seen), "the probe")
        over.wait(3.2)
    finally:
        over.set()
    for t in threads:
        t.join(20)
    first = min(answered for _, answered, ok in seen if ok)   # the probe; it was over at most a little earlier

    def share(second):
        inside = [ok for sent, answered, ok in seen if first + second <= sent and answered < first + second + 0.9]
        assert len(inside) > 50, "the machine is too slow for this"
        return sum(inside) / len(inside)

    assert 0.03 <= share(0) <= 0.17 and 0.4 <= share(1) <= 0.6, (share(0), share(1))
    late = [ok for sent, _, ok in seen if sent > first + 2.1]
    assert late and all(late)
    assert p.requests == 3 + sum(ok for _, _, ok in seen)


# -------------------------------------------------------------------------------------------------------------- fallback


@pytest.mark.parametrize("name, method, more", [
    ("refuses", "GET", {}), ("refuses", "POST", {}), ("resets requests", "GET", {}), ("hangs up", "GET", {}),
    ("breaks off in the head", "GET", {}), ("is mute", "GET", {"retry": {"when": ["connect", "reset", "timeout"]}}),
    ("503", "GET", {}), ("503", "POST", {"dialect": "openai"}),
])
def test_with_a_fallback_nobody_is_lost(start_faulty, start_upstream, start_proxy, start_weir, name, method, more):
    """The only upstream is down; every request is answered by the other one, with the breaker and the retries of default."""
    first, second = start_faulty(status(503)), start_upstream(lambda peer: b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
    p = start_proxy(first)
    config = base_config(p.url, route={"fallback": ["b"]}, agent=merge({"retry": {}, "breaker": {}, **MUTE_IS_QUICK.get(name, {})}, more))
    config["upstreams"]["b"] = {"url": f"http://127.0.0.1:{second.port}"}
    w = start_weir(config)
    if name != "503":
        OUTAGES[name][0](p)
    answers, seconds = load(w, 32, 20, method=method)
    lost = [r for r in answers if (r.status, r.body) != (200, b"second") or not r.clean]
    assert not lost, f"{len(lost)} of {len(answers)}: {lost[:3]}"
    assert len(second.requests) == len(answers)
    w.wait_metric("weir_upstream_requests_total", len(answers), upstream="b", outcome="ok")
    assert w.metric("weir_fallbacks_total", **{"from": "agent", "to": "b"}) == len(answers)
    lines = all_lines(w, len(answers))
    assert {line["upstream"] for line in lines} == {"b"} and not any("reason" in line for line in lines), lines[-1]
    assert sum(outcomes(w).values()) <= 1.25 * len(answers) + 3 * (seconds + 1), outcomes(w)


def test_an_outage_that_comes_and_goes_with_a_fallback_loses_nobody(start_upstream, start_proxy, start_weir):
    """Every kind of outage in turn, for a moment each, over a load that never stops."""
    first = start_upstream(lambda peer: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", lenient=True)
    second = start_upstream()
    p = start_proxy(first)
    config = base_config(p.url, route={"fallback": ["b"]}, agent={
        "retry": {"budget": "100%"}, "timeouts": QUICK, "breaker": {"open": {"base": "100ms", "max": "200ms"}}})
    config["upstreams"]["b"] = {"url": f"http://127.0.0.1:{second.port}"}
    w = start_weir(config)
    over, lost, done = threading.Event(), [], []

    def one(n):
        with Caller(w.port) as c:
            while not over.is_set():
                r = c.get(f"/{n}")
                done.append(r.body)
                if r.status != 200 or r.body not in (b"first", b"ok") or not r.clean:
                    lost.append(r)
                over.wait(0.002)

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(8)]
    for t in threads:
        t.start()
    try:
        for name in ("refuses", "resets requests", "hangs up", "breaks off in the head", "resets connections"):
            OUTAGES[name][0](p)
            over.wait(0.3)
            p.mode = "pass"
            p.disarm()
            p.accept()
            over.wait(0.25)
    finally:
        over.set()
    for t in threads:
        t.join(20)
        assert not t.is_alive()
    assert not lost, f"{len(lost)} of {len(done)}: {lost[:3]}"
    assert {b"first", b"ok"} == set(done)
