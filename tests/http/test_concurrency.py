"""Limits of what runs at once: exactly so many, a slot given back whatever the end, and a queue before them that lets
urgent work pass, keeps nobody beyond its time and forgets nobody."""
import contextlib
import itertools
import random
import re
import signal
import statistics
import threading
import time

import pytest

import harness
from harness import (Gone, NoResponse, Refuser, base_config, chunk, get, merge, post, reply,
                     request, run_weir, wait_until)
from support import Caller, error_lines, families, in_parallel, is_gone, parse_limit_field, problem, routes

PRIORITY = "X-Priority"
_numbers = itertools.count()
SLACK_S = 5  # of a noisy machine with a sanitizer; what is waited for is far longer or never comes


LEAVE = {"close": lambda c: c.close(), "reset": lambda c: c.reset(), "half_close": lambda c: c.half_close()}


class Held:
    """An upstream handler that keeps every request until the test lets it go. It knows how many it has, the most it ever
    had, and the targets in the order they came; a request whose caller is gone is dropped as it should be."""

    def __init__(self, hold="/"):
        self.hold, self.cond, self.up = hold, threading.Condition(), None
        self.peers, self.most, self.dropped = set(), 0, 0
        self.free, self.all_free = set(), False

    @property
    def order(self):
        return [r.target for r in list(self.up.requests)] if self.up else []

    @property
    def now(self):
        return len(self.peers)

    def __call__(self, peer):
        self.up, target = peer.upstream, peer.request.target
        with self.cond:
            self.most = max(self.most, 1 + sum(not is_gone(other, 0) for other in self.peers))
            self.peers.add(peer)
        try:
            end = time.monotonic() + harness.DEADLINE
            while target.startswith(self.hold) and not (self.all_free or target in self.free):
                if is_gone(peer, 5):
                    self.dropped += 1
                    raise Gone("the caller is gone")
                assert time.monotonic() < end, f"{target} was never let go"
        finally:
            with self.cond:
                self.peers.remove(peer)
        return reply(200, target.encode())

    def holds(self, count):
        """It has so many, neither more nor less, once their threads have begun."""
        wait_until(lambda: self.now >= count, f"{count} to run")
        return self.now == count

    def let(self, *targets):
        self.free |= set(targets)

    def let_all(self):
        self.all_free = True


def slots(limit=1, queue=None, **more):
    return {"algorithm": "concurrency", "limit": limit, "key": [], **({"scope": "local", "queue": queue} if queue else {}),
            **more}


def queue(size=16, wait="60s", **more):
    return {"size": size, "wait": wait, "per_tenant": "100%", "priority": {"header": PRIORITY}, **more}


def limited(up, limit, route=None, **more):
    return base_config(up.port, limits={"slots": limit}, route={"limits": ["slots"], **(route or {})}, **more)


class Calls:
    """Opens connections with one request each; closed when the test ends."""

    def __init__(self, w, up, connect):
        self.w, self.up, self.connect = w, up, connect

    def send(self, target, headers=(), method="GET", body=None, **kw):
        c = self.connect(self.w.port)
        c.send(request(method, target, headers, body, **kw))
        c.target = target
        return c

    def held(self, *targets, headers=()):
        """Sent, and seen by the upstream, one after the other."""
        conns = []
        for target in targets:
            conns.append(self.send(target, headers))
            self.up.wait(lambda u: any(q.target == target for q in u.requests), f"{target} at the upstream")
        return conns

    def queued(self, *targets, headers=()):
        """Sent, and standing in the queue, one after the other."""
        conns = []
        for target in targets:
            before = self.depth()
            conns.append(self.send(target, headers))
            self.w.wait_metric("weir_queue_depth", before + 1)
        return conns

    def depth(self, **labels):
        return self.w.metric("weir_queue_depth", **labels)


@pytest.fixture
def world(start_upstream, start_weir, connect):
    """world(limit, ...) -> (w, held, calls): a weir with that limit before an upstream that holds what it gets."""
    def make(limit, hold="/", **more):
        held = Held(hold)
        up = start_upstream(held)
        w = start_weir(limited(up, limit, **more))
        held.up = up
        return w, held, Calls(w, up, connect)

    return make


def refused(r, reason="limit", status=429):
    assert (r.status, r.weir_reason) == (status, reason), r
    assert re.fullmatch(r"[1-9]\d*", r.header("Retry-After")), r
    return r


def answered(conns):
    """Each gets its own answer."""
    for c in conns:
        r = c.read_response()
        assert (r.status, r.body) == (200, c.target.encode()) and r.clean, r


def exactly(calls, held, count, path="/hold", headers=()):
    """That many requests get through at once, and not one more. What has just ended may take a moment to be counted out.
    Then they are let go."""
    conns = []
    for n in range(count):
        target = f"{path}/{next(_numbers)}"

        def through():
            c = calls.send(target, headers)
            wait_until(lambda: c.readable(0.005) or target in held.order, f"{target} to arrive or to be refused")
            if target in held.order:
                conns.append(c)
                return True
            refused(c.read_response())
            c.close()
            return False

        wait_until(through, f"slot {n + 1} of {count}", timeout=harness.DEADLINE / 2)
    refused(calls.send(f"{path}/over", headers).read_response())
    held.let(*(c.target for c in conns))
    answered(conns)


# --------------------------------------------------------------------------------------------------------- at once, and how


def test_exactly_so_many_at_once(world):
    w, held, calls = world(slots(3))
    conns = calls.held("/a", "/b", "/c")
    for _ in range(5):
        r = refused(get(w.port))
        assert r.header("RateLimit-Policy") == '"slots";q=3' and r.header("RateLimit") == '"slots";r=0'
        assert "slots" in str(problem(r, 429, "limit")["violated-policies"])
    held.let("/b")
    answered(conns[1:2])
    exactly(calls, held, 1)
    held.let_all()
    answered([conns[0], conns[2]])
    w.wait_metric("weir_in_flight", 0)
    r = get(w.port, "/last")
    assert r.header("RateLimit-Policy") == '"slots";q=3' and r.header("RateLimit") == '"slots";r=2'
    assert held.most == 3
    line = w.wait_log(status=429)
    assert line["reason"] == "limit" and line["limit"] == "slots"
    w.wait_metric("weir_limit_decisions_total", lambda count: count >= 6, limit="slots", decision="refused")


def test_sixteen_callers(world):
    w, held, calls = world(slots(4), server={"workers": 4})
    held.let_all()

    def work(_):
        with Caller(w.port) as caller:
            return [caller.get(f"/{n}").status for n in range(25)]

    statuses = sum(in_parallel(16, work), [])
    assert set(statuses) <= {200, 429} and statuses.count(200) >= 25
    assert held.most <= 4 and len(held.order) == statuses.count(200)
    held.all_free = False
    exactly(calls, held, 4)


def test_each_key_has_its_own(world):
    limit = slots(1, key=["tenant"], tenants={"big": {"limit": 3}})
    w, held, calls = world(limit)
    for tenant, count in (("acme", 1), ("big", 3), ("other", 1)):
        calls.held(*(f"/{tenant}/{n}" for n in range(count)), headers=[("X-Tenant-ID", tenant)])
        r = refused(get(w.port, "/", [("X-Tenant-ID", tenant)]))
        assert r.header("RateLimit-Policy") == f'"slots";q={count}'
    assert held.holds(5)
    held.let_all()
    wait_until(lambda: held.now == 0, "all to end")
    held.all_free = False
    for tenant, count in (("acme", 1), ("big", 3)):
        exactly(calls, held, count, f"/again-{tenant}", [("X-Tenant-ID", tenant)])


def test_beside_limits_in_requests(world):
    """Tightest first: r/q of a slot limit counts as any other's."""
    w, held, calls = world(slots(4))
    config = limited(held.up, slots(4))
    config["limits"]["calls"] = {"rate": "1/h", "burst": 2}
    config["listeners"]["in"]["routes"][0]["limits"] = ["slots", "calls"]
    w.reload(keep_port(w, config))
    held.let_all()
    r = get(w.port)
    assert [n for n, _ in parse_limit_field(r.header("RateLimit"))] == ["calls", "slots"]
    assert parse_limit_field(r.header("RateLimit-Policy"))[1] == ("slots", {"q": 4})
    assert parse_limit_field(r.header("RateLimit"))[1] == ("slots", {"r": 3})


def test_one_that_the_rate_refuses_holds_no_slot(start_weir, start_upstream, connect):
    held = Held()
    up = start_upstream(held)
    config = limited(up, slots(2))
    config["limits"]["rate"] = {"algorithm": "sliding_window", "limit": 1, "window": "1h"}
    config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["slots", "rate"]}), ("/hold", {"limits": ["slots"]}))
    w = start_weir(config)
    calls = Calls(w, up, connect)
    [first] = calls.held("/first")
    for _ in range(10):
        refused(get(w.port, "/over"))
    exactly(calls, held, 1)
    held.let_all()
    answered([first])


def test_one_that_has_no_slot_takes_nothing_from_the_rate(world):
    w, held, calls = world(slots(1))
    config = limited(held.up, slots(1))
    config["limits"]["rate"] = {"algorithm": "sliding_window", "limit": 5, "window": "1h"}
    config["listeners"]["in"]["routes"][0]["limits"] = ["rate", "slots"]
    w.reload(keep_port(w, config))
    conns = calls.held("/a")
    for _ in range(20):
        refused(get(w.port))
    held.let_all()
    answered(conns)
    w.wait_metric("weir_in_flight", 0)
    with Caller(w.port) as caller:
        statuses = [caller.get("/x") for _ in range(5)]
    assert [r.status for r in statuses] == [200] * 4 + [429]


def test_shadow_admits_all_and_counts(world):
    w, held, calls = world(slots(1, mode="shadow"))
    conns = calls.held("/a", "/b", "/c")
    w.wait_metric("weir_limit_decisions_total", 2, limit="slots", decision="shadow_refused")
    held.let_all()
    answered(conns)


def test_a_shadow_with_a_queue_keeps_nobody(world):
    w, held, calls = world(slots(1, queue(), mode="shadow"))
    conns = calls.held("/a", "/b", "/c")
    w.wait_metric("weir_queue_depth", 0)
    held.let_all()
    answered(conns)


def test_a_full_table_of_slots(world):
    """Keys in use are never forgotten; those for whom there is no room share the slots of one; and all is given back."""
    w, held, calls = world(slots(1, key=["tenant"], max_keys=16))
    conns = []
    for n in range(60):
        c = calls.send(f"/t{n}", [("X-Tenant-ID", f"t{n}")])
        wait_until(lambda: c.readable(0.002) or f"/t{n}" in held.order, "a decision")
        if f"/t{n}" in held.order:
            conns.append(c)
        else:
            refused(c.read_response())
    assert 17 <= len(conns) <= 33 and held.holds(len(conns))
    w.wait_metric("weir_limit_overflow_total", lambda count: count > 0, limit="slots")
    for n in range(5):
        refused(get(w.port, "/", [("X-Tenant-ID", f"t{n}")]))
    held.let_all()
    answered(conns)
    w.wait_metric("weir_in_flight", 0)
    for n in range(100):
        assert get(w.port, "/", [("X-Tenant-ID", f"u{n}")]).status == 200


def test_a_full_table_and_a_queue(world):
    """Those who share the overflow wait for each other, and are served."""
    w, held, calls = world(slots(1, queue(100), key=["tenant"], max_keys=16))
    targets = [f"/t{n}" for n in range(60)]
    conns = [calls.send(t, [("X-Tenant-ID", t[1:])]) for t in targets]
    wait_until(lambda: held.now + calls.depth() == 60, "all to run or to wait")
    assert 17 <= held.now <= 33
    held.let_all()
    answered(conns)
    w.wait_metric("weir_queue_depth", 0)


def test_an_idle_connection_holds_no_slot(world):
    w, held, calls = world(slots(1), hold="/hold")
    c = calls.send("/a")
    answered([c])
    exactly(calls, held, 1)


# ----------------------------------------------------------------------------------------------------------- every end of it


class Ends:
    """The ways in which a request can end. Each `end_*` begins one, brings it about, and leaves nothing behind."""

    def __init__(self, start_upstream, start_weir, limit=None):
        self.held = Held("/hold")
        self.up = start_upstream(self.handle, early=True)
        self.nobody = Refuser()
        config = limited(self.up, limit or slots(3), server={"max_body": "4KiB", "timeouts": {"body": "200ms"}})
        for name, url, timeouts in (("slow", self.up.url, {"first_byte": "150ms"}), ("idle", self.up.url, {"idle": "150ms"}),
                                    ("nobody", f"http://127.0.0.1:{self.nobody.port}", {})):
            config["upstreams"][name] = {"url": url, "timeouts": timeouts}
            config["listeners"]["in"]["routes"].append({"path": f"/{name}", "upstream": name, "limits": ["slots"]})
        self.w = start_weir(config)
        self.config = config

    def handle(self, peer):
        end = peer.request.target.rpartition("/")[2]
        half = reply(200, b"", [("Transfer-Encoding", "chunked")], length=False) + chunk(b"half")
        if peer.request.target.startswith("/hold"):
            return self.held(peer)
        if peer.request.method == "HEAD":
            return reply(200, b"")
        if end == "stall":
            peer.read_body()
            peer.wait_gone()
            raise Gone("as it should be")
        if end == "drip":
            peer.send(half)
            peer.wait_gone()
            raise Gone("as it should be")
        if end == "early":   # the whole answer before the body
            peer.send(reply(200, b"early", [("Connection", "close")]))
            raise Gone("done")
        peer.read_body()
        if end in ("reset", "close"):
            getattr(peer, end)()
        if end in ("half-reset", "half-close"):
            peer.send(half)
            getattr(peer, end[5:])()
        if end == "nonsense":
            peer.send(b"nonsense\r\n\r\n")
            raise Gone("done")
        return reply(200, b"ok")

    def ask(self, target, **kw):
        """Any whole or broken answer will do; a refusal too."""
        with contextlib.suppress(NoResponse):
            return post(self.w.port, target, b"body", **kw).status

    def _leave(self, end, how, answered, raw=None):
        """A caller who leaves when the upstream has his request, or when the answer has begun."""
        target = f"/{next(_numbers)}/{end}"
        with harness.connect(self.w.port) as c:
            c.send(request("POST", target, [("Content-Length", "4")]) + (b"body" if raw is None else raw))
            wait_until(lambda: c.readable(0.005) or not answered and any(q.target == target for q in self.up.requests),
                       f"{target} to arrive or to be refused")
            LEAVE[how](c)
            if how == "half_close":
                c.recv_to_end()

    def end_whole(self):
        self.ask("/ok")

    def end_of_a_head_request(self):
        harness.exchange(self.w.port, request("HEAD", "/ok"))

    def end_refused(self):
        self.ask("/nobody")

    def end_reset(self):
        self.ask("/reset")

    def end_closed(self):
        self.ask("/close")

    def end_nonsense(self):
        self.ask("/nonsense")

    def end_reset_in_the_middle(self):
        self.ask("/half-reset")

    def end_closed_in_the_middle(self):
        self.ask("/half-close")

    def end_timeout(self):
        self.ask("/slow/stall")

    def end_timeout_in_the_middle(self):
        self.ask("/idle/drip")

    def end_caller_closed_before(self):
        self._leave("stall", "close", False)

    def end_caller_reset_before(self):
        self._leave("stall", "reset", False)

    def end_caller_half_closed_before(self):
        self._leave("stall", "half_close", False)

    def end_caller_closed_in_the_middle(self):
        self._leave("drip", "close", True)

    def end_caller_reset_in_the_middle(self):
        self._leave("drip", "reset", True)

    def end_caller_half_closed_in_the_middle(self):
        self._leave("drip", "half_close", True)

    def end_body_too_large(self):
        post(self.w.port, "/ok", b"x" * 5000)

    def end_body_too_large_in_chunks(self):
        with harness.connect(self.w.port) as c:
            c.send(request("POST", "/ok", body=[b"x" * 1000] * 6, chunked=True))
            c.read_response("POST")

    def end_body_broken(self):
        with harness.connect(self.w.port) as c:
            c.send(request("POST", "/ok", [("Transfer-Encoding", "chunked")]) + b"5\r\nhello\r\nnonsense\r\n")
            c.read_response("POST")

    def end_body_never_finished(self):
        with harness.connect(self.w.port) as c:
            c.send(request("POST", "/ok", [("Content-Length", "100")]) + b"part")
            c.read_response("POST")

    def end_caller_left_in_his_body(self):
        self._leave("ok", "close", False, b"pa")

    def end_answered_before_the_body(self):
        with harness.connect(self.w.port) as c:
            c.send(request("POST", "/early", [("Content-Length", "100")]) + b"part")
            c.read_response("POST")


ENDS = [name for name in vars(Ends) if name.startswith("end_")]


def test_a_slot_is_given_back_by_every_end(start_upstream, start_weir, connect):
    ends = Ends(start_upstream, start_weir, slots(2))
    calls = Calls(ends.w, ends.up, connect)
    for name in ENDS:
        for _ in range(3):
            getattr(ends, name)()
        ends.w.wait_metric("weir_in_flight", 0)
        try:
            exactly(calls, ends.held, 2)
        except AssertionError as e:
            raise AssertionError(f"after {name}: {e}") from e
    ends.nobody.close()


@pytest.mark.parametrize("queued", [False, True], ids=["", "with a queue"])
def test_after_two_hundred_random_ends_all_slots_are_there(start_upstream, start_weir, connect, queued):
    limit = slots(3, queue(64, "30s") if queued else None)
    ends = Ends(start_upstream, start_weir, limit)

    def work(number):
        dice = random.Random(number)
        for _ in range(25):
            getattr(ends, dice.choice(ENDS))()

    in_parallel(8, work)
    ends.w.wait_metric("weir_in_flight", 0)
    if queued:
        ends.w.wait_metric("weir_queue_depth", 0)
        del ends.config["limits"]["slots"]["queue"]
        ends.w.reload(ends.config)
    exactly(Calls(ends.w, ends.up, connect), ends.held, 3)
    ends.nobody.close()


def test_refusals_alone_leak_nothing(world):
    w, held, calls = world(slots(2))
    conns = calls.held("/a", "/b")
    with Caller(w.port) as caller:
        for _ in range(100):
            refused(caller.get())
    held.let_all()
    answered(conns)
    held.all_free = False
    exactly(calls, held, 2)


def test_what_fails_before_it_runs_holds_nothing(world):
    """No route, bad tenant, malformed: before or behind the limit, no slot is lost."""
    w, held, calls = world(slots(1))
    for _ in range(5):
        assert get(w.port, "/", [("X-Tenant-ID", "a b")]).status == 400
        assert get(w.port, "/a/../b").status == 400
        assert harness.exchange(w.port, request("TRACE", "/")).status == 405
    exactly(calls, held, 1)


# ------------------------------------------------------------------------------------------------------------------ reloads


def test_a_reload_keeps_what_is_held(world):
    w, held, calls = world(slots(2))
    conns = calls.held("/a", "/b")
    for size in ("1MiB", "2MiB"):
        w.reload(limited(held.up, slots(2), server={"max_body": size}, listener={
            "address": f"127.0.0.1:{w.port}"}))
        refused(get(w.port))
    held.let("/a")
    answered(conns[:1])
    exactly(calls, held, 1)
    held.let_all()
    answered(conns[1:])
    held.all_free = False
    exactly(calls, held, 2)


def keep_port(w, config):
    config["listeners"]["in"]["address"] = f"127.0.0.1:{w.port}"
    return config


def test_a_limit_raised_and_lowered(world):
    w, held, calls = world(slots(2))
    first = calls.held("/a", "/b")
    refused(get(w.port))
    w.reload(keep_port(w, limited(held.up, slots(4))))
    more = calls.held("/c", "/d")
    refused(get(w.port))
    w.reload(keep_port(w, limited(held.up, slots(1))))
    held.let("/a", "/b", "/c")
    answered([*first, more[0]])
    w.wait_metric("weir_in_flight", 1)
    r = refused(get(w.port))
    assert r.header("RateLimit-Policy") == '"slots";q=1' and r.header("RateLimit") == '"slots";r=0'
    held.let("/d")
    answered(more[1:])
    exactly(calls, held, 1)


OTHER = {"other-key": slots(2, queue(), key=["tenant"]), "bucket": {"rate": "1/h", "burst": 100, "key": []},
         "window": {"algorithm": "sliding_window", "limit": 100, "window": "1h", "key": []},
         "exact": {"algorithm": "sliding_window", "limit": 100, "window": "1h", "precision": "exact", "key": []},
         "tokens": {"unit": "llm_tokens", "rate": "1/h", "burst": 10_000, "key": []}, "shadow": slots(2, mode="shadow"),
         "header": slots(2, queue(priority={"header": "X-Other"})), "max_keys": slots(2, queue(), max_keys=5)}


def test_a_limit_that_becomes_another_kind(world):
    """Under those who hold slots and those who wait: all are answered, and nothing of the old is left in the new."""
    w, held, calls = world(slots(2, queue()))
    for change, other in OTHER.items():
        held.all_free = False
        w.reload(keep_port(w, limited(held.up, slots(2, queue()))))
        conns = calls.held(f"/{change}/a", f"/{change}/b") + calls.queued(f"/{change}/c", f"/{change}/d")
        w.reload(keep_port(w, limited(held.up, other)))
        held.let(*(c.target for c in conns[:2]))
        answered(conns[:2])
        held.let_all()
        answered(conns[2:])
        w.wait_metric("weir_in_flight", 0)
        assert get(w.port, "/new").status == 200, change
        w.wait_metric("weir_in_flight", 0)
        w.reload(keep_port(w, limited(held.up, slots(2))))
        held.all_free = False
        exactly(calls, held, 2, f"/hold-{change}")


def test_a_limit_that_goes_and_comes_back(world):
    w, held, calls = world(slots(2))
    conns = calls.held("/a", "/b")
    config = keep_port(w, base_config(held.up.port))
    w.reload(keep_port(w, config))
    conns += calls.held("/c")
    w.reload(keep_port(w, limited(held.up, slots(2))))
    held.let_all()
    answered(conns)
    w.wait_metric("weir_in_flight", 0)
    held.all_free = False
    exactly(calls, held, 2)


# ------------------------------------------------------------------------------------------------------------------ the queue


def test_who_waits_is_served(world):
    w, held, calls = world(slots(1, queue()))
    [first] = calls.held("/a")
    [second] = calls.queued("/b")
    assert calls.depth(limit="slots", priority="normal") == 1 and held.order == ["/a"]
    held.let_all()
    answered([first, second])
    w.wait_metric("weir_queue_depth", 0)
    w.wait_metric("weir_queue_wait_seconds_count", lambda count: count >= 1, limit="slots")
    assert families(w).type["weir_queue_wait_seconds"] == "histogram"
    assert held.most == 1
    assert w.metric("weir_refused_total") == 0
    line = w.wait_log(path="/b")
    assert line["status"] == 200 and not line.get("reason")


def test_first_come_first_served(world):
    w, held, calls = world(slots(1, queue()))
    targets = [f"/{n}" for n in range(9)]
    conns = calls.held(targets[0]) + calls.queued(*targets[1:])
    held.let_all()
    answered(conns)
    assert held.order == targets and held.most == 1


def test_newcomers_do_not_pass_who_waits(world):
    """While one waits, a newcomer stands behind it, also in the moment in which a slot is free."""
    w, held, calls = world(slots(1, queue(64)))
    conns = calls.held("/0")
    rest = [f"/{n}" for n in range(1, 21)]
    conns += calls.queued(*rest)
    held.let_all()
    late = calls.send("/late")
    answered(conns + [late])
    assert held.order[:10] == ["/0", *rest[:9]]
    assert [t for t in held.order if t != "/late"] == ["/0", *rest]


def test_many_slots_and_many_who_wait(world):
    w, held, calls = world(slots(3, queue(16)))
    conns = calls.held("/0", "/1", "/2") + calls.queued(*(f"/{n}" for n in range(3, 15)))
    held.let_all()
    answered(conns)
    assert held.most == 3
    w.wait_metric("weir_queue_depth", 0)


def as_priority(word):
    return [(PRIORITY, word)]


def test_urgent_before_normal_before_background(world):
    w, held, calls = world(slots(1, queue()))
    conns = calls.held("/first")
    for n, word in enumerate(["background", "normal", "urgent"] * 3):
        conns += calls.queued(f"/{word}/{n}", headers=as_priority(word))
    for word in ("background", "normal", "urgent"):
        assert calls.depth(limit="slots", priority=word) == 3
    held.let_all()
    answered(conns)
    assert held.order[1:] == [f"/{word}/{n}" for at, word in enumerate(["urgent", "normal", "background"])
                              for n in range(2 - at, 9, 3)]


def test_any_other_word_is_normal(world):
    w, held, calls = world(slots(1, queue()))
    for n, word in enumerate(["", "high", "0", "urgent, urgent", "urgentx"]):
        held.all_free = False
        held.up.clear()
        conns = calls.held(f"/{n}/first")
        conns += calls.queued(f"/{n}/background", headers=as_priority("background"))
        conns += calls.queued(f"/{n}/normal", headers=as_priority("normal"))
        conns += calls.queued(f"/{n}/word", headers=as_priority(word))
        assert calls.depth(priority="normal") == 2, word
        conns += calls.queued(f"/{n}/urgent", headers=as_priority("urgent"))
        held.let_all()
        answered(conns)
        assert held.order[1:] == [f"/{n}/{t}" for t in ("urgent", "normal", "word", "background")], word


def test_one_in_sixteen_goes_to_the_lowest(world):
    w, held, calls = world(slots(1, queue(100)))
    conns = calls.held("/first")
    low = [f"/low/{n}" for n in range(3)]
    conns += calls.queued(*low, headers=as_priority("background"))
    conns += [calls.send(f"/high/{n}", as_priority("urgent")) for n in range(60)]
    w.wait_metric("weir_queue_depth", 63)
    held.let_all()
    answered(conns)
    at = [held.order.index(t) for t in low]
    assert at[0] <= 16 and at[1] - at[0] == at[2] - at[1] == 16, at


def test_urgent_overtakes_under_saturation(start_upstream, start_weir):
    """Twelve callers in the background and one that is urgent, on two slots: how many went ahead of each."""
    order, lock = [], threading.Lock()

    def handler(peer):
        with lock:
            order.append(peer.request.target)
        peer.upstream.stopping.wait(0.004)
        return reply(200, b"ok")

    w = start_weir(limited(start_upstream(handler), slots(2, queue(64))))
    stop = threading.Event()

    def work(number):
        ahead, word = [], "background" if number else "urgent"
        with Caller(w.port) as caller:
            for n in range(300):
                if stop.is_set() or not number and n == 20:
                    break
                target, before = f"/{number}/{n}", len(order)
                assert caller.get(target, as_priority(word)).status == 200
                ahead.append(order.index(target) - before)
        if not number:
            stop.set()
        return ahead

    urgent, *others = in_parallel(13, work)
    behind = statistics.median(sum(others, []))
    assert behind >= 4, "the slots were not saturated"
    assert statistics.median(urgent) * 2 < behind


@pytest.mark.parametrize("trusted", [True, False])
def test_whose_priority_is_believed(world, trusted):
    more = {} if trusted else {"tenant": {"trusted": []}}
    w, held, calls = world(slots(1, queue()), **more)
    conns = calls.held("/first", headers=as_priority("urgent"))
    conns += calls.queued("/normal")
    conns += calls.queued("/urgent", headers=as_priority("urgent"))
    conns += calls.queued("/background", headers=as_priority("background"))
    if not trusted:
        assert calls.depth(priority="normal") == 3
    held.let_all()
    answered(conns)
    assert held.order[1:] == (["/urgent", "/normal", "/background"] if trusted else ["/normal", "/urgent", "/background"])
    if not trusted:
        assert not any(PRIORITY in q.headers for q in held.up.requests)


def test_connection_cannot_drop_the_priority(world):
    w, held, calls = world(slots(1, queue()))
    conns = calls.held("/first") + calls.queued("/normal")
    conns += calls.queued("/urgent", headers=[*as_priority("urgent"), ("Connection", f"{PRIORITY}, keep-alive")])
    held.let_all()
    answered(conns)
    assert set(held.order[1:]) == {"/normal", "/urgent"}


def test_without_a_priority_header_all_are_one(world):
    w, held, calls = world(slots(1, queue(priority=None)))
    conns = calls.held("/first") + calls.queued("/background", headers=as_priority("background"))
    conns += calls.queued("/urgent", headers=as_priority("urgent"))
    held.let_all()
    answered(conns)
    assert held.order[1:] == ["/background", "/urgent"]


def test_queue_full(world):
    w, held, calls = world(slots(1, queue(2)))
    conns = calls.held("/a") + calls.queued("/b", "/c")
    r = refused(get(w.port, "/d"), "queue_full")
    body = problem(r, 429, "queue_full")
    assert body["detail"]
    line = w.wait_log(path="/d")
    assert (line["status"], line["reason"], line["limit"]) == (429, "queue_full", "slots")
    w.wait_metric("weir_refused_total", 1, reason="queue_full")
    held.let_all()
    answered(conns)


def test_a_full_queue_and_one_who_is_urgent(world):
    """Whoever goes, one goes and one is kept; and urgent is never the one that waits longest."""
    w, held, calls = world(slots(1, queue(2)))
    conns = calls.held("/a") + calls.queued("/b", "/c", headers=as_priority("background"))
    urgent = calls.send("/u", as_priority("urgent"))
    everyone = [*conns[1:], urgent]
    wait_until(lambda: any(c.readable(0) for c in everyone), "one of them to be refused")
    [out] = [c for c in everyone if c.readable(0)]
    refused(out.read_response(), "queue_full")
    w.wait_metric("weir_queue_depth", 2)
    held.let_all()
    answered([c for c in conns + [urgent] if c is not out])
    if out is not urgent:
        assert held.order[1] == "/u"


def test_a_tenants_share_of_the_queue(world):
    """Rounded up; and nobody else is kept out by one who has had his share."""
    w, held, calls = world(slots(1, queue()))
    acme, other = [("X-Tenant-ID", "acme")], [("X-Tenant-ID", "other")]
    for size, share, each in [(8, "25%", 2), (5, "25%", 2), (1, "1%", 1), (4, "100%", 4), (10, "50%", 5)]:
        w.reload(keep_port(w, limited(held.up, slots(1, queue(size, per_tenant=share)))))
        held.all_free = False
        conns = calls.held(f"/first/{size}")
        conns += calls.queued(*(f"/acme/{size}/{n}" for n in range(each)), headers=acme)
        refused(get(w.port, "/", acme), "queue_full")
        if size > each:
            conns += calls.queued(*(f"/other/{size}/{n}" for n in range(each)), headers=other)
            refused(get(w.port, "/", other), "queue_full")
        held.let_all()
        answered(conns)
        w.wait_metric("weir_in_flight", 0)


def test_a_full_queue_and_another_tenant(world):
    """One goes and one is kept, whichever it is; nobody else is harmed."""
    w, held, calls = world(slots(1, queue(3)))
    conns = calls.held("/a") + calls.queued("/b", "/c", "/d", headers=[("X-Tenant-ID", "acme")])
    everyone = [*conns, calls.send("/e", [("X-Tenant-ID", "other")])]
    wait_until(lambda: any(c.readable(0) for c in everyone), "one of them to be refused")
    [out] = [c for c in everyone if c.readable(0)]
    refused(out.read_response(), "queue_full")
    w.wait_metric("weir_queue_depth", 3)
    assert out is not conns[0]
    held.let_all()
    answered([c for c in everyone if c is not out])


def test_a_share_is_given_back(world):
    """Who was served, who left and who waited too long counts no longer."""
    w, held, calls = world(slots(1, queue(4, per_tenant="25%")))
    acme = [("X-Tenant-ID", "acme")]
    conns = calls.held("/0")
    for n in range(1, 4):
        [waiting] = calls.queued(f"/{n}", headers=acme)
        refused(get(w.port, "/", acme), "queue_full")
        if n == 1:
            waiting.close()
            w.wait_metric("weir_queue_depth", 0)
        else:
            held.let(conns[-1].target)
            answered(conns[-1:])
            conns.append(waiting)
            held.up.wait(lambda u: u.requests[-1].target == f"/{n}")
    held.let_all()
    answered(conns[-1:])


def test_the_size_is_over_all_keys(world):
    w, held, calls = world(slots(1, queue(2), key=["tenant"]))
    conns = []
    for t in ("a", "b"):
        conns += calls.held(f"/{t}/0", headers=[("X-Tenant-ID", t)])
        conns += calls.queued(f"/{t}/1", headers=[("X-Tenant-ID", t)])
    refused(get(w.port, "/a/2", [("X-Tenant-ID", "a")]), "queue_full")
    assert held.holds(2)
    held.let("/b/0")
    held.up.wait(lambda u: any(q.target == "/b/1" for q in u.requests), "b's own, though a has waited longer")
    assert "/a/1" not in held.order
    held.let_all()
    answered(conns)


def test_nobody_waits_beyond_wait(world):
    w, held, calls = world(slots(1, queue(wait="600ms")))
    conns = calls.held("/a")
    for n in range(2):
        begin = time.monotonic()
        r = get(w.port, f"/late/{n}")
        waited = time.monotonic() - begin
        refused(r, "queue_timeout")
        problem(r, 429, "queue_timeout")
        assert 0.59 <= waited < 0.6 + SLACK_S
    w.wait_metric("weir_queue_depth", 0)
    assert held.order == ["/a"]
    line = w.wait_log(path="/late/0")
    assert (line["status"], line["reason"], line["limit"]) == (429, "queue_timeout", "slots")
    w.wait_metric("weir_refused_total", 2, reason="queue_timeout")
    held.let_all()
    answered(conns)


def test_who_came_first_is_out_first(world):
    """Each by its own time, in whatever order they stand."""
    w, held, calls = world(slots(1, queue(wait="500ms")))
    conns = calls.held("/a")
    waiting = [calls.send(f"/{n}", as_priority(word)) for n, word in enumerate(["background", "urgent", "normal"] * 3)]
    for c in waiting:
        refused(c.read_response(), "queue_timeout")
    w.wait_metric("weir_queue_depth", 0)
    held.let_all()
    answered(conns)


def test_waiting_is_part_of_the_routes_timeout(world):
    """A route of 300 ms waits no longer than that, though the queue would keep it a minute."""
    w, held, calls = world(slots(1, queue()))
    config = limited(held.up, slots(1, queue()))
    config["listeners"]["in"]["routes"].append({"path": "/short", "upstream": "agent", "limits": ["slots"],
                                                "timeout": "300ms"})
    w.reload(keep_port(w, config))
    conns = calls.held("/a")
    r = get(w.port, "/short")
    assert (r.status, r.weir_reason) in ((504, "timeout_total"), (429, "queue_timeout")), r
    w.wait_metric("weir_queue_depth", 0)
    assert held.order == ["/a"]
    held.let_all()
    answered(conns)


@pytest.mark.parametrize("how", LEAVE)
def test_who_leaves_the_queue_is_out_at_once(world, how):
    w, held, calls = world(slots(1, queue(3)))
    conns = calls.held("/a") + calls.queued("/b", "/c", "/d")
    refused(get(w.port, "/e"), "queue_full")
    LEAVE[how](conns[2])
    w.wait_metric("weir_queue_depth", 2)
    conns += calls.queued("/f")
    held.let_all()
    answered([conns[0], conns[1], conns[3], conns[4]])
    assert held.order == ["/a", "/b", "/d", "/f"] and held.dropped == 0
    w.wait_metric("weir_in_flight", 0)
    assert w.wait_log(path="/c")["reason"] == "client_gone"


def test_who_leaves_with_a_request_behind_is_out_too(world):
    w, held, calls = world(slots(1, queue(3)))
    conns = calls.held("/a")
    c = calls.send("/b")
    c.send(request("GET", "/behind"))
    w.wait_metric("weir_queue_depth", 1)
    c.half_close()
    w.wait_metric("weir_queue_depth", 0)
    held.let_all()
    answered(conns)
    w.wait_metric("weir_in_flight", 0)
    assert held.order == ["/a"]


def test_all_leave(world):
    w, held, calls = world(slots(2, queue(60)))
    conns = calls.held("/a", "/b")
    waiting = [calls.send(f"/w/{n}", as_priority(random.choice(["urgent", "normal", "background"]))) for n in range(50)]
    w.wait_metric("weir_queue_depth", 50)
    for c in random.sample(waiting, 50):
        random.choice([c.close, c.reset])()
    w.wait_metric("weir_queue_depth", 0)
    held.let_all()
    answered(conns)
    assert held.order == ["/a", "/b"]
    held.all_free = False
    conns = calls.held("/c", "/d")
    answered_later = calls.queued("/e")
    held.let_all()
    answered(conns + answered_later)


def test_on_limit_answers_for_the_queue_too(world):
    on_limit = {"status": 503, "body": "come back later"}
    w, held, calls = world(slots(1, queue(1, "400ms")), route={"on_limit": on_limit})
    conns = calls.held("/a") + calls.queued("/b")
    for c, reason in ((calls.send("/c"), "queue_full"), (conns[1], "queue_timeout")):
        r = refused(c.read_response(), reason, 503)
        assert r.body == b"come back later"
    held.let_all()
    answered(conns[:1])


def test_answers_behind_a_queue_speak_of_the_limit(world):
    w, held, calls = world(slots(2, queue(1)))
    conns = calls.held("/a", "/b") + calls.queued("/c")
    r = refused(get(w.port), "queue_full")
    assert r.header("RateLimit-Policy") == '"slots";q=2' and r.header("RateLimit") == '"slots";r=0'
    held.let_all()
    for c in conns:
        assert c.read_response().header("RateLimit-Policy") == '"slots";q=2'


# what waits is whole

@pytest.mark.parametrize("how", ["length", "chunked", "slowly", "large"])
def test_a_body_that_waits_arrives_whole(start_upstream, start_weir, connect, how):
    held = Held("/hold")
    up = start_upstream(lambda p: held(p) if p.request.method == "GET" else reply(200, p.request.body))
    w = start_weir(limited(up, slots(1, queue())))
    calls = Calls(w, up, connect)
    [first] = calls.held("/hold")
    body = random.Random(1).randbytes(3_000_000 if how == "large" else 9000)
    c = connect(w.port)
    raw = request("POST", "/body", body=[body[:100], body[100:]] if how == "chunked" else body, chunked=how == "chunked")
    split = 200 if how == "slowly" else len(raw)
    sender = threading.Thread(target=lambda: c.send(raw[:split]), daemon=True)
    sender.start()
    w.wait_metric("weir_queue_depth", 1)
    c2 = threading.Thread(target=lambda: (sender.join(), c.send(raw[split:])), daemon=True)
    c2.start()
    assert len(up.requests) == 1
    held.let_all()
    answered([first])
    r = c.read_response("POST")
    assert r.status == 200 and r.body == body


def test_expect_continue_in_the_queue(world):
    w, held, calls = world(slots(1, queue()))
    conns = calls.held("/a")
    c = calls.send("/b", [("Expect", "100-continue"), ("Content-Length", "4")], "POST")
    w.wait_metric("weir_queue_depth", 1)
    held.let_all()
    answered(conns)
    while not c.src.buf.endswith(b"\r\n\r\n"):
        c.src.fill()
    if b" 100 " in c.src.buf[:20]:
        c.send(b"body")
    assert c.read_response("POST").status == 200 and held.up.requests[-1].body == b"body"


def test_requests_behind_one_that_waits(world):
    w, held, calls = world(slots(1, queue()))
    conns = calls.held("/a")
    c = calls.send("/b")
    c.send(request("GET", "/c") + request("POST", "/d", body=b"1234") + request("GET", "/e"))
    w.wait_metric("weir_queue_depth", 1)
    held.let_all()
    answered(conns)
    assert [c.read_response().body for _ in range(4)] == [b"/b", b"/c", b"/d", b"/e"]
    assert held.order == ["/a", "/b", "/c", "/d", "/e"]


def test_requests_behind_one_that_waits_too_long(world):
    w, held, calls = world(slots(1, queue(wait="300ms")))
    conns = calls.held("/a")
    c = calls.send("/b")
    c.send(request("GET", "/c"))
    refused(c.read_response(), "queue_timeout")
    held.let_all()
    answered(conns)
    assert c.read_response().status in (200, 429)


def test_under_load_all_are_served(world):
    w, held, calls = world(slots(2, queue(64)), server={"workers": 4})
    held.let_all()

    def work(number):
        with Caller(w.port) as caller:
            for n in range(25):
                r = caller.get(f"/{number}/{n}", as_priority(["urgent", "normal", "background"][n % 3]))
                assert r.status == 200, r

    in_parallel(12, work)
    assert held.most <= 2 and len(held.order) == 300
    w.wait_metric("weir_queue_depth", 0)
    held.all_free = False
    w.reload(keep_port(w, limited(held.up, slots(2))))
    exactly(calls, held, 2)


def test_queues_that_fill_time_out_and_are_left_at_random(world):
    """Whatever becomes of each, nobody is without an answer, the bound holds, and nothing is left over."""
    w, held, calls = world(slots(2, queue(4, "30ms", per_tenant="50%")), server={"workers": 4})
    held.let_all()
    reasons = {None: 200, "limit": 429, "queue_full": 429, "queue_timeout": 429}

    def work(number):
        dice = random.Random(number)
        for n in range(40):
            headers = [("X-Tenant-ID", dice.choice("abc")), (PRIORITY, dice.choice(["urgent", "normal", "background"]))]
            with harness.connect(w.port) as c:
                c.send(request("GET", f"/{number}/{n}", headers))
                if dice.random() < 0.3:
                    c.readable(dice.random() * 0.01)
                    dice.choice(list(LEAVE.values()))(c)
                    continue
                r = c.read_response()
                assert r.status == reasons[r.weir_reason], r

    in_parallel(12, work)
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_queue_depth", 0)
    held.all_free = False
    w.reload(keep_port(w, limited(held.up, slots(2))))
    exactly(calls, held, 2)


# reloads and the end

def test_a_raise_lets_those_go_who_wait(world):
    w, held, calls = world(slots(1, queue()))
    conns = calls.held("/a") + calls.queued("/b", "/c", "/d")
    w.reload(keep_port(w, limited(held.up, slots(3, queue()))))
    held.up.wait(lambda u: len(u.requests) == 3, "two more")
    w.wait_metric("weir_queue_depth", 1)
    assert held.holds(3)
    held.let_all()
    answered(conns)


def test_a_raise_for_one_tenant_lets_its_own_go(world):
    """Those of other tenants wait on."""
    limit = slots(1, queue(), key=["tenant"])
    w, held, calls = world(limit)
    headers = {t: [("X-Tenant-ID", t)] for t in ("a", "b")}
    conns = []
    for t in "ab":
        conns += calls.held(f"/{t}/0", headers=headers[t]) + calls.queued(f"/{t}/1", f"/{t}/2", headers=headers[t])
    w.reload(keep_port(w, limited(held.up, {**limit, "tenants": {"b": {"limit": 3}}})))
    held.up.wait(lambda u: len(u.requests) == 4, "both of b")
    w.wait_metric("weir_queue_depth", 2)
    assert held.holds(4) and sorted(held.order[2:]) == ["/b/1", "/b/2"]
    held.let_all()
    answered(conns)


def test_a_cut_keeps_those_who_wait(world):
    w, held, calls = world(slots(2, queue()))
    conns = calls.held("/a", "/b") + calls.queued("/c", "/d")
    w.reload(keep_port(w, limited(held.up, slots(1, queue()))))
    held.let("/a")
    answered(conns[:1])
    w.wait_log(path="/a")
    assert calls.depth() == 2 and held.order == ["/a", "/b"], "one of one is in use"
    held.let("/b")
    held.up.wait(lambda u: u.requests[-1].target == "/c")
    w.wait_metric("weir_queue_depth", 1)
    wait_until(lambda: held.now != 2, "the thread of /b to end")
    assert held.holds(1)
    held.let_all()
    answered(conns[1:])
    assert held.order == ["/a", "/b", "/c", "/d"]


def test_a_reload_with_a_queue_loses_nobody(world):
    """Those who wait are let go, go on waiting or are refused; none is without an answer."""
    w, held, calls = world(slots(1, queue(8)))
    elsewhere = {"listeners": {"in": {"routes": [{"path": "/x", "upstream": "agent", "limits": ["slots"]}]}}}
    changes = {"same": limited(held.up, slots(1, queue(8))), "smaller": limited(held.up, slots(1, queue(1))),
               "none": limited(held.up, slots(1)), "nolimit": base_config(held.up.port),
               "noroute": merge(limited(held.up, slots(1, queue(8))), elsewhere)}
    for change, config in changes.items():
        w.reload(keep_port(w, limited(held.up, slots(1, queue(8)))))
        held.all_free = False
        conns = calls.held(f"/{change}/a") + calls.queued(*(f"/{change}/{n}" for n in "bcd"))
        w.reload(keep_port(w, config))
        held.let_all()
        answered(conns[:1])
        for c in conns[1:]:
            r = c.read_response()
            assert r.status == 200 or r.status == 429 and change in ("smaller", "none"), (change, r)
        w.wait_metric("weir_in_flight", 0)
        w.wait_metric("weir_queue_depth", 0)
        w.reload(keep_port(w, limited(held.up, slots(1))))
        held.all_free = False
        exactly(calls, held, 1, f"/hold-{change}")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_loses_nobody_who_waits(world, sig):
    w, held, calls = world(slots(1, queue()), server={"drain": {"timeout": "10m"}})
    conns = calls.held("/a") + calls.queued("/b", "/c", "/d")
    w.signal(sig)

    def stopped():
        with contextlib.suppress(OSError):
            harness.connect(w.port, timeout=5).close()
            return False
        return True

    wait_until(stopped, "new connections to be refused")
    held.let_all()
    answered(conns)
    for c in conns:
        c.close()
    assert w.wait_exit() == 0


def test_a_drain_ends_who_waits_too_long(world):
    """At drain.timeout the rest is cut; weir ends with 0 all the same."""
    w, held, calls = world(slots(1, queue()), server={"drain": {"timeout": "300ms"}})
    calls.held("/a")
    calls.queued("/b", "/c")
    w.signal(signal.SIGTERM)
    assert w.wait_exit() == 0


# two at a time

def test_a_queue_over_two_limits(start_upstream, start_weir, connect):
    held = Held()
    up = start_upstream(held)
    config = base_config(up.port, limits={"a": slots(1, queue()), "b": slots(1, queue())})
    config["listeners"]["in"]["routes"] = routes(("/a", {"limits": ["a"]}), ("/b", {"limits": ["b"]}),
                                                 ("/ab", {"limits": ["a", "b"]}))
    w = start_weir(config)
    calls = Calls(w, up, connect)
    [a] = calls.held("/a/1")
    [both] = calls.queued("/ab/1")
    [b] = calls.held("/b/1")   # who waits for a holds no slot of b
    held.let("/a/1")
    answered([a])
    w.wait_metric("weir_queue_depth", 1, limit="b")
    w.wait_metric("weir_queue_depth", 0, limit="a")
    assert held.order == ["/a/1", "/b/1"]
    held.let("/b/1")
    answered([b])
    up.wait(lambda u: u.requests[-1].target == "/ab/1")
    more = calls.queued("/a/2") + calls.queued("/b/2")
    held.let_all()
    answered([both, *more])
    w.wait_metric("weir_queue_depth", 0)


def test_two_limits_under_load(start_upstream, start_weir, connect):
    """Orders crossed, queues on both: nobody waits for ever."""
    held = Held("/hold")
    up = start_upstream(held)
    config = base_config(up.port, limits={"a": slots(2, queue(64)), "b": slots(1, queue(64))}, server={"workers": 4})
    config["listeners"]["in"]["routes"] = routes(("/a", {"limits": ["a"]}), ("/b", {"limits": ["b"]}),
                                                 ("/ab", {"limits": ["a", "b"]}), ("/ba", {"limits": ["b", "a"]}))
    w = start_weir(config)

    def work(number):
        dice = random.Random(number)
        with Caller(w.port) as caller:
            for _ in range(25):
                r = caller.get(dice.choice(["/a", "/b", "/ab", "/ba"]))
                assert r.status == 200, r

    in_parallel(10, work)
    w.wait_metric("weir_queue_depth", 0)
    w.wait_metric("weir_in_flight", 0)


def test_one_that_the_rate_refuses_does_not_wait(world):
    w, held, calls = world(slots(1, queue()))
    config = limited(held.up, slots(1, queue()))
    config["limits"]["rate"] = {"algorithm": "sliding_window", "limit": 3, "window": "1h"}
    config["listeners"]["in"]["routes"][0]["limits"] = ["slots", "rate"]
    w.reload(keep_port(w, config))
    conns = calls.held("/a") + calls.queued("/b", "/c")
    held.let("/a", "/b")
    answered(conns[:2])
    held.up.wait(lambda u: u.requests[-1].target == "/c")
    refused(get(w.port, "/d"))
    held.let_all()
    answered(conns[2:])
    refused(get(w.port, "/e"))


def test_who_is_refused_when_its_turn_comes_passes_the_slot_on(start_upstream, start_weir, connect):
    """All is decided anew then; whom the rate refuses gets its answer, and the next one gets the slot."""
    held = Held()
    up = start_upstream(held)
    config = limited(up, slots(1, queue()))
    config["limits"]["rate"] = {"algorithm": "sliding_window", "limit": 2, "window": "1h"}
    config["listeners"]["in"]["routes"] = routes(("/", {"limits": ["slots"]}), ("/r", {"limits": ["slots", "rate"]}))
    w = start_weir(config)
    calls = Calls(w, up, connect)
    conns = calls.held("/a") + calls.queued("/r/1", "/r/2", "/r/3", "/r/4", "/b")
    held.let_all()
    answered([conns[n] for n in (0, 1, 2, 5)])
    for n in (3, 4):
        refused(conns[n].read_response())
    assert held.order == ["/a", "/r/1", "/r/2", "/b"] and held.most == 1
    w.wait_metric("weir_queue_depth", 0)
    w.wait_metric("weir_in_flight", 0)
    assert get(w.port, "/c").status == 200


def test_who_waits_takes_from_the_rate_when_it_goes(world):
    """One that waits and leaves, or waits too long, was never admitted."""
    w, held, calls = world(slots(1, queue(wait="400ms")))
    config = limited(held.up, slots(1, queue(wait="400ms")))
    config["limits"]["rate"] = {"algorithm": "sliding_window", "limit": 4, "window": "1h"}
    config["listeners"]["in"]["routes"][0]["limits"] = ["rate", "slots"]
    w.reload(keep_port(w, config))
    conns = calls.held("/a")
    for n in range(3):
        calls.send(f"/leaves/{n}").close()
    waiting = [calls.send(f"/{n}") for n in range(6)]
    for c in waiting:
        refused(c.read_response(), "queue_timeout")
    held.let_all()
    answered(conns)
    w.wait_metric("weir_in_flight", 0)
    with Caller(w.port) as caller:
        assert [caller.get().status for _ in range(4)] == [200, 200, 200, 429]


# ------------------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("limit,word", [
    ({"algorithm": "concurrency", "limit": 1, "queue": {"size": 5, "wait": "1s"}}, "scope"),
    ({"algorithm": "concurrency", "limit": 1, "scope": "shared", "queue": {"size": 5, "wait": "1s"}}, "scope"),
    ({"algorithm": "concurrency"}, "limit"), ({"algorithm": "concurrency", "limit": 0}, "limit"),
    ({"algorithm": "concurrency", "limit": 1, "rate": "1/s"}, "rate"),
    ({"rate": "1/s", "scope": "local", "queue": {"size": 5, "wait": "1s"}}, "queue"),
    ({"algorithm": "concurrency", "limit": 1, "scope": "local", "queue": {"size": 5, "wait": "1s", "per_tenant": "0%"}},
     "per_tenant"),
    ({"algorithm": "concurrency", "limit": 1, "scope": "local", "queue": {"size": -1}}, "size"),
])
def test_configurations_that_make_no_sense(limit, word):
    config = base_config(1, limits={"slots": limit}, route={"limits": ["slots"]})
    done = run_weir("--check", config=config)
    found = error_lines("weir.yaml", done.stderr + done.stdout)
    assert done.returncode == 2 and found, done
    assert any(rest.startswith("limits.slots") and word in rest for _, _, rest in found), found


def test_a_queue_of_none_needs_no_scope():
    limit = {"algorithm": "concurrency", "limit": 1, "queue": {"size": 0}}
    done = run_weir("--check", config=base_config(1, limits={"slots": limit}, route={"limits": ["slots"]}))
    assert done.returncode == 0, done
    printed = run_weir("--print-config", config=base_config(1, limits={"slots": slots(3, queue())}))
    assert printed.returncode == 0 and "concurrency" in printed.stdout and PRIORITY in printed.stdout
    assert run_weir("--check", config=printed.stdout).returncode == 0


def test_families_from_the_start(world):
    w, _, _ = world(slots(1))
    seen = families(w)
    assert seen.type["weir_queue_depth"] == "gauge" and seen.type["weir_queue_wait_seconds"] == "histogram"
