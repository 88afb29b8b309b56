#!/usr/bin/env python3
"""Chaos: three sidecars, one redis, and everything goes wrong at random for as long as you like.

    python3 tests/fleet/chaos.py --seconds 120 --seed 7 [--weir BIN]... [--lease]

Traffic over all sidecars meets every kind of limit and keys that come often twice, while redis is killed, stopped, emptied, slow or
answers nonsense, and sidecars are reloaded, stopped and killed. What is checked stands in the functions `check_...`; what happened is
printed, and the exit code says whether anything was wrong. Several binaries are taken by turns, a sidecar each.
"""
import argparse
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import re
import select
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http"))

import harness  # noqa: E402  (where it is)
from fleet import RedisServer, store_lines, with_redis  # noqa: E402
from harness import LAST_CHUNK, NoResponse, base_config, chunk, connect, free_port, reply, request, wait_until  # noqa: E402
from llm import FORMS, Usage, whole  # noqa: E402
from redis_proxy import RedisProxy  # noqa: E402
from support import Caller, in_parallel, routes  # noqa: E402

SIDECARS, WORKERS = 3, 2
TIMEOUT_MS, CLAIM_TIMEOUT_MS, LEASE_S, WINDOW_S = 150, 400, 8, 120
SLOWEST_RUN = 1.2
SLACK = 5                     # a busy machine, a sanitizer, a pause of one's own
QUIET_S = 36                  # slots of who died end after 30 s
GARBAGE = [b"$-1\r\n", b":1\r\n", b"+OK\r\n", b"*0\r\n", b"*2\r\n:1\r\n:5\r\n", b"*6\r\n" + b"$-1\r\n" * 6, b"*1\r\n$5\r\nmaybe\r\n",
           b"\x00\xff what is this?\r\n\r\n", b"$3\r\nabcdef\r\n", b"*100000000\r\n", b"-ERR nobody foresaw this\r\n"]
NOT_NOW = [b"-READONLY You can't write against a read only replica.\r\n", b"-LOADING Redis is loading the dataset in memory\r\n"]

# path -> (the limit, how many its tenant may have, in which time; None: at once)
LIMITS = {
    "bucket": ({"rate": "8/s", "burst": 24}, 24, 8),
    "slots": ({"algorithm": "sliding_window", "limit": 30, "window": "3s"}, 30, 3),
    "long": ({"algorithm": "sliding_window", "limit": 150, "window": "20s"}, 150, 20),
    "exact": ({"algorithm": "sliding_window", "precision": "exact", "limit": 24, "window": "3s"}, 24, 3),
    "closed": ({"rate": "8/s", "burst": 24, "on_failure": "closed"}, 24, 8),
    "open": ({"rate": "8/s", "burst": 24, "on_failure": "open"}, 24, 8),
    "slow": ({"algorithm": "concurrency", "limit": 4}, 4, None),
    "llm": ({"rate": "700/s", "burst": 9000, "unit": "llm_tokens"}, 9000, 700),
}
# `short`: runs that outlive their lease when redis is away
DEDUPS = {"wait": {}, "reject": {"in_flight": "reject"}, "cancel": {"abandoned": "cancel"}, "short": {"lease": "1500ms"}}
LLM = FORMS["chat"]


def configuration(up, proxy, addresses, factor, store):
    limits = {name: dict(limit) for name, (limit, _, _) in LIMITS.items()}
    for limit in limits.values():
        for field in ("burst", "limit"):
            if field in limit:
                limit[field] = int(limit[field] * factor)
    limits["wide"] = {"rate": "200/s", "burst": 400}
    dedups = {name: {"lease": f"{LEASE_S}s", "window": f"{WINDOW_S}s", "keep_responses": f"{WINDOW_S}s", **dedup}
              for name, dedup in DEDUPS.items()}
    paths = [(f"/{name}", {"limits": [name]}) for name in LIMITS if name != "llm"]
    paths += [(f"/d-{name}", {"dedup": name, "limits": ["wide"]}) for name in dedups]
    paths += [(LLM.path, {"limits": ["llm"], "upstream": "llm"})]
    config = base_config(up.url, limits=limits, dedup=dedups, listener={"address": addresses[0], "routes": routes(*paths)},
                         admin={"address": addresses[1]}, metrics={"address": addresses[2]},
                         server={"workers": WORKERS, "drain": {"timeout": "12s"}})
    config["upstreams"]["llm"] = {"url": up.url, "dialect": "openai", "retry": False, "breaker": False}
    return with_redis(config, proxy, timeout=f"{TIMEOUT_MS}ms", claim_timeout=f"{CLAIM_TIMEOUT_MS}ms", **store)


# ------------------------------------------------------------------------------------------------------------ the upstream


@dataclasses.dataclass
class Run:
    what: str
    tenant: str
    sidecar: int
    id: str
    sock: socket.socket
    at: float
    end: float = None
    status: int = 0              # of a run that was answered whole
    body: bytes = b""


def is_gone(sock):
    try:
        return bool(select.select([sock], [], [], 0)[0]) and sock.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


class Counting:
    """The upstream's handler: every run from its begin to its end, and who else ran at that time."""

    def __init__(self, seed):
        self.lock, self.random = threading.Lock(), random.Random(seed)
        self.runs, self.keyed, self.running = [], collections.defaultdict(list), {}
        self.overlaps, self.peaks = [], []        # (key, the older run, the run); (at, in flight of `slow`, ids)
        self.calm = False

    def __call__(self, peer):
        req = peer.request
        key = req.header("Idempotency-Key")
        run = Run(req.target.strip("/"), req.header("X-Tenant-ID", ""), int(req.header("X-Sidecar", "-1")),
                  req.header("X-Correlation-ID", ""), peer.sock, time.monotonic())
        with self.lock:
            seconds = self._seconds(run, key)
            failed, sse = not self.calm and self.random.random() < 0.1, self.random.random() < 0.3
            number = self._begin(run, key and (run.what, key))
        try:
            self._answer(peer, run, seconds, 500 if failed else 200, sse and key, number)
        finally:
            with self.lock:
                run.end = time.monotonic()
                self.running.pop(id(run), None)

    def _seconds(self, run, key):
        if self.calm:
            return 0.3
        slow = self.random.random() < (0.3 if key else 0.1)
        return SLOWEST_RUN * (2 if run.what == "d-short" else 1) if slow else self.random.choice([0, 0, 0.01, 0.05, 0.2, 0.3])

    def _begin(self, run, key):
        for other in [o for o in self.running.values() if is_gone(o.sock)]:
            other.end = run.at
            del self.running[id(other)]
        self.running[id(run)] = run
        self.runs.append(run)
        if run.what == "slow":
            self.peaks.append((run.at, sum(o.what == "slow" for o in self.running.values())))
        if not key:
            return 0
        before = self.keyed[key]
        self.overlaps += [(key, o, run) for o in before if id(o) in self.running]
        before.append(run)
        return len(before)

    def _answer(self, peer, run, seconds, status, sse, number):
        self._pass(peer, seconds / 2)
        if run.what == LLM.path.strip("/"):
            peer.send(reply(status, whole("chat", Usage(input=20, output=80)), [("Content-Type", "application/json")]))
        elif sse and status == 200:
            peer.send(reply(200, b"", [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")], length=False))
            for n in range(3):
                run.body += b"data: %d of run %d\n\n" % (n, number)
                peer.send(chunk(b"data: %d of run %d\n\n" % (n, number)))
                self._pass(peer, seconds / 6)
            peer.send(LAST_CHUNK)
        else:
            self._pass(peer, seconds / 2)
            run.body = b"run %d " % number + b"x" * (number * 997 % 5000)
            peer.send(reply(status, run.body))
        run.status = status

    @staticmethod
    def _pass(peer, seconds):
        if seconds and select.select([peer.sock], [], [], seconds)[0] and is_gone(peer.sock):
            raise harness.Gone("cancelled")


# ------------------------------------------------------------------------------------------------------------ the callers


class Traffic:
    """Callers at random until `stop`. `wrong` is what none of them may see."""

    def __init__(self, chaos, threads):
        self.chaos, self.stop, self.lock = chaos, threading.Event(), threading.Lock()
        self.seen, self.wrong, self.replays, self.slowest = collections.Counter(), [], [], collections.Counter()
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]
        for t in self.threads:
            t.start()

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(60)
        if any(t.is_alive() for t in self.threads):
            self.wrong.append("a caller hangs")

    def _run(self, n):
        rnd = random.Random(f"{self.chaos.seed} {n}")
        callers = [Caller(("127.0.0.1", port)) for port in self.chaos.ports]
        while not self.stop.wait(rnd.uniform(0, 0.03)):
            i = rnd.randrange(SIDECARS)
            try:
                self._one(rnd, i, callers[i])
            except Exception as e:  # noqa: BLE001  (all of it is wrong)
                self._note_wrong(f"sidecar {i}: {e!r}")
                callers[i].close()
        for c in callers:
            c.close()

    def _note_wrong(self, text):
        with self.lock:
            self.wrong.append(f"{self.chaos.now():7.2f} {text}")

    def _one(self, rnd, i, caller):
        what = rnd.choice(["bucket", "slots", "long", "long", "exact", "closed", "open", "slow", "slow", "llm", *DEDUPS, *DEDUPS, *DEDUPS])
        fields = [("X-Tenant-ID", f"t-{what}"), ("X-Sidecar", str(i))]
        key = None
        if what in DEDUPS:
            key = self._key(rnd)
            body = b"another" if key.startswith("m") and rnd.random() < 0.5 else b"x"
            raw = request("POST", f"/d-{what}", [*fields, ("Idempotency-Key", key)], body)
        elif what == "llm":
            raw = request("POST", LLM.path, [*fields, ("Content-Type", "application/json")], LLM.ask(max_tokens=300))
        else:
            raw = request("GET", f"/{what}", fields)
        if rnd.random() < 0.07:
            self._leave_early(rnd, i, raw)
        else:
            self._ask(i, caller, what, key, raw)

    def _key(self, rnd):
        """Few at a time, most of them new ones, some done long ago."""
        turn = int(self.chaos.now() / 2) - (rnd.randrange(30) if rnd.random() < 0.15 else 0)
        return f"{rnd.choice('kkkkkm')}{max(turn, 0)}-{rnd.randrange(3)}"

    def _leave_early(self, rnd, i, raw):
        with contextlib.suppress(OSError), connect(("127.0.0.1", self.chaos.ports[i])) as c:
            c.send(raw)
            time.sleep(rnd.choice([0, 0.003, 0.03, 0.1]))
            (c.reset if rnd.random() < 0.3 else c.close)()
        with self.lock:
            self.seen["left"] += 1

    def _ask(self, i, caller, what, key, raw):
        sent = self.chaos.now()
        if caller.conn is None:
            caller.since = sent
        try:
            r = caller.ask(raw)
        except (NoResponse, AssertionError, OSError) as e:
            caller.close()
            if not self.chaos.may_be_gone(i, caller.since):
                raise
            with self.lock:
                self.seen[f"{'gone' if not isinstance(e, harness.Deadline) else 'hang'}"] += 1
            return
        took = self.chaos.now() - sent
        if not r.clean and self.chaos.may_be_gone(i, caller.since):
            return
        if not r.clean and key and (what == "short" or self.chaos.lost_between(sent - SLOWEST_RUN, self.chaos.now())):
            with self.lock:
                self.seen[f"{what} cancelled in its answer"] += 1    # its lease was over, or the key another's
            return
        assert r.clean, (what, key, r)
        reason = r.weir_reason or ""
        with self.lock:
            self.seen[f"{what} {r.status} {reason}".strip()] += 1
            self.slowest[what] = max(self.slowest[what], took)
            if r.header("Idempotent-Replayed"):
                self.seen[f"{what} replayed"] += 1
            if key and r.status == 200:
                self.replays.append((f"d-{what}", key, r.body))
        limits = SLOWEST_RUN * 2 * 3 + LEASE_S + 2 * CLAIM_TIMEOUT_MS / 1000 if key else SLOWEST_RUN + TIMEOUT_MS / 1000
        assert took < limits + SLACK, f"took {took:.2f} s: {what} {key} {r}"
        assert (r.status, reason) in ALLOWED[what], f"{what} {key} sent {sent:.2f} got {self.chaos.now():.2f}: {r}"


OWN = [(503, "store_down"), (503, "overloaded"), (503, "draining")]
LIMITED = {(200, ""), (500, ""), (429, "limit")}
ALLOWED = {name: {*LIMITED, *OWN} - ({(503, "store_down")} if name != "closed" else set()) for name in LIMITS}
ALLOWED |= {name: {*LIMITED, *OWN, (409, "duplicate"), (409, "in_flight"), (422, "key_mismatch")} for name in DEDUPS}


# ------------------------------------------------------------------------------------------------------------ what goes wrong


class Chaos:
    def __init__(self, options):
        self.seed, self.random, self.options = options.seed, random.Random(options.seed), options
        self.began, self.events, self.gone, self.losses = time.monotonic(), [], [[] for _ in range(SIDECARS)], []
        self.killed = [[] for _ in range(SIDECARS)]     # of `gone`, those by SIGKILL: a clean stop explains no run twice
        self.bad, self.factors, self.problems = [], [(0, 1.0)], []
        self.up_handler = Counting(options.seed)
        self.up = harness.Upstream(self.up_handler)
        self.redis = RedisServer()
        self.proxy = RedisProxy(self.redis.port)
        self.proxy.commands = collections.deque(maxlen=1000)
        self.addresses = [[f"127.0.0.1:{free_port()}" for _ in range(3)] for _ in range(SIDECARS)]
        self.ports = [int(a[0].rpartition(":")[2]) for a in self.addresses]
        self.store = {"sync": "lease" if options.lease else "strict"}
        self.old, self.weirs = [], [self._sidecar(i, 1.0) for i in range(SIDECARS)]

    def now(self):
        return time.monotonic() - self.began

    def _config(self, i, factor):
        return configuration(self.up, self.proxy, self.addresses[i], factor, self.store)

    def _sidecar(self, i, factor):
        harness.BIN = pathlib.Path(self.options.weir[i % len(self.options.weir)])
        w = harness.Weir(self._config(i, factor), wait_ready=False).start()
        w.number = i
        return w

    def note(self, text):
        self.events.append((self.now(), text))
        if self.options.verbose:
            print(f"{self.now():7.2f} {text}", flush=True)

    def may_be_gone(self, i, sent):
        """Whether that sidecar was going, gone or coming at some time since."""
        return any(begin <= self.now() and (end is None or end >= sent) for begin, end in self.gone[i])

    def lose(self):
        self.losses.append([self.now(), None])

    def lost(self):
        self.losses[-1][1] = self.now()

    # each for so long, then healed

    def _act(self, name, seconds):
        self.note(f"{name} {seconds:.1f}")
        try:
            getattr(self, f"act_{name}")(seconds)
        except Exception as e:  # noqa: BLE001
            self.problem(f"{name}: {e!r}")

    def act_kill(self, seconds):
        self.lose()
        self.redis.kill()
        time.sleep(seconds)
        self.redis.start()
        self.lost()

    def act_restart(self, _):
        self.lose()
        self.redis.restart()
        self.lost()

    def act_stop(self, seconds):
        self.redis.pause()
        time.sleep(seconds)
        self.redis.resume()

    def act_flush(self, _):
        self.lose()
        self.redis.ask("FLUSHALL")
        self.lost()

    def act_script_flush(self, _):
        self.redis.ask("SCRIPT", "FLUSH")

    def act_delay(self, seconds):
        self.proxy.delay = self.random.uniform(0.005, 0.1)
        time.sleep(seconds)

    def act_hole(self, seconds):
        self.proxy.hole(self.random.choice(["both", "down"]))
        time.sleep(seconds)

    def act_drop(self, _):
        self.proxy.drop(hard=self.random.random() < 0.5)

    def act_refuse(self, seconds):
        self.proxy.refuse()
        self.proxy.drop()
        time.sleep(seconds)
        self.proxy.accept()

    def act_cuts(self, seconds):
        self.proxy.answer(self.random.choice(["cut", "cut before", "cut after", "half", "fin"]))
        time.sleep(seconds)

    def act_some_cuts(self, _):
        self.proxy.answer(self.random.choice(["cut", "cut before", "cut after", "half"]), self.random.randrange(1, 6))
        time.sleep(0.5)

    def act_garbage(self, _):
        self.proxy.answer(self.random.choice(GARBAGE), self.random.randrange(1, 8))
        time.sleep(0.5)

    def act_not_now(self, seconds):
        self.proxy.answer(self.random.choice(NOT_NOW))
        time.sleep(seconds)

    def act_reload(self, _):
        factor = self.random.choice([0.5, 1.0, 1.5])
        self.factors.append((self.now(), factor))
        for w in self.weirs:
            w.reload(self._config(w.number, factor))

    def act_sidecar(self, _):
        """Another one each time; the first stays, so that what it uses can be compared."""
        i = self.random.randrange(1, SIDECARS)
        number = self.random.choice([signal.SIGTERM, signal.SIGKILL])
        w = self.weirs[i]
        self.note(f"sidecar {i} {number.name}")
        self.gone[i].append([self.now(), None])
        if number == signal.SIGKILL:
            self.killed[i].append(self.gone[i][-1])
        w.signal(number)
        code = w.wait_exit(40)
        if number == signal.SIGTERM and code != 0:
            self.problems.append(f"sidecar {i} ended with {code}: {w.stderr[-3000:]}")
        self.old.append(w)
        self.weirs[i] = self._sidecar(i, self.factors[-1][1])
        wait_until(self.weirs[i].ready, "the new one")
        self.gone[i][-1][1] = self.now() + 0.2

    ACTS = ["kill", "restart", "stop", "flush", "flush", "script_flush", "delay", "hole", "drop", "refuse", "cuts", "some_cuts", "garbage",
            "garbage", "not_now", "reload", "sidecar", "sidecar"]

    PROXY_ACTS = ["delay", "hole", "drop", "cuts", "garbage", "not_now"]

    def go_wrong(self):
        """One thing, or another on top of it."""
        names = [self.random.choice([a for a in self.ACTS if not (self.options.keep_data and a in ("kill", "restart", "flush"))])]
        if names[0] not in [*self.PROXY_ACTS, "some_cuts", "refuse"] and self.random.random() < 0.4:
            names.append(self.random.choice(self.PROXY_ACTS))
        begin = self.now()
        threads = [threading.Thread(target=self._act, args=(name, self.random.uniform(0.1, 3)), daemon=True) for name in names]
        for t in threads:
            t.start()
            time.sleep(0.1 if len(threads) > 1 else 0)
        for t in threads:
            t.join()
        self.proxy.heal()
        self.bad += [(begin, self.now(), name) for name in names]
        self.note("  over")
        time.sleep(self.random.choice([0.2, 1, 2, 4]))

    # ------------------------------------------------------------------------------------------------------ what is checked

    def lost_between(self, a, b):
        return any(begin <= b and (end is None or end >= a) for begin, end in self.losses)

    def killed_between(self, i, a, b):
        return any(begin <= b and (end is None or end >= a) for begin, end in self.killed[i]) if 0 <= i < SIDECARS else True

    def restarted_between(self, i, a, b):
        return any(begin <= b and (end is None or end >= a) for begin, end in self.gone[i])

    def since(self, monotonic):
        return monotonic - self.began

    def problem(self, text):
        self.problems.append(text)

    def check_overlaps(self):
        allowed = 0
        for key, older, run in self.up_handler.overlaps:
            a, b = self.since(older.at), self.since(run.at)
            if self.lost_between(a - 1, b) or self.killed_between(older.sidecar, a, b):
                allowed += 1
            else:
                self.problem(f"two runs at a time: {key}: {a:.2f} by {older.sidecar} {older.id} until {self.since(older.end):.2f}, "
                             f"and {b:.2f} by {run.sidecar} {run.id}")
        print(f"overlapping runs that data lost or a killed sidecar explain: {allowed}")

    def check_done_again(self):
        allowed = again = 0
        for key, runs in self.up_handler.keyed.items():
            for older, run in zip(runs, runs[1:]):
                if older.status != 200 or key[0] in ("d-cancel", "d-short"):
                    continue
                a, b = self.since(older.at), self.since(run.at)
                again += 1
                if self.lost_between(a - 1, b) or self.killed_between(older.sidecar, a, self.since(older.end) + 1):
                    allowed += 1
                else:
                    self.problem(f"done and run again: {key}: {a:.2f}-{self.since(older.end):.2f} by {older.sidecar} {older.id}, "
                                 f"and {b:.2f} by {run.sidecar} {run.id}")
        runs = sum(map(len, self.up_handler.keyed.values()))
        print(f"keys: {len(self.up_handler.keyed)}, runs: {runs}; done and run again: {again}, of which explained: {allowed}")

    def check_replays(self, traffic):
        bodies = {key: {r.body for r in runs} for key, runs in self.up_handler.keyed.items()}
        for what, key, body in traffic.replays:
            if body not in bodies.get((what, key), ()):
                self.problem(f"an answer of no run of {what} {key}: {body[:80]!r}")

    def most(self, quota, a, b):
        """The greatest of the quotas in force between."""
        known = [f for at, f in self.factors if at <= b + 0.1]
        later = [f for at, f in self.factors if a - 1 <= at <= b + 0.1]
        return int(quota * max([known[-1], *later, *([f for at, f in self.factors if at <= a][-1:])]))

    def is_bad(self, a, b, *but):
        return any(begin - 0.1 <= b and end + 0.5 >= a for begin, end, name in self.bad if name not in but)

    def degraded_between(self, a, b):
        return any(x - 0.3 <= b and y + 0.3 >= a for x, y in self.degraded)

    def check_slots(self):
        worst, checked = 0, 0
        for at, count in self.up_handler.peaks:
            at = self.since(at)
            since = at - 2 * SLOWEST_RUN
            if self.lost_between(since, at):
                continue
            down = self.is_bad(since, at, "reload") or self.degraded_between(since, at)
            limit = self.most(LIMITS["slow"][1], since, at)
            allowed = limit + (SIDECARS * (limit if self.restarted_between(1, at - 35, at) or self.restarted_between(2, at - 35, at) else
                                           -(-limit // SIDECARS)) if down else 0)
            checked += not down
            worst = max(worst, 0 if down else count)
            if count > allowed:
                self.problem(f"{count} of `slow` in flight at {at:.2f}, {allowed} allowed (down: {down})")
        print(f"slots: {len(self.up_handler.peaks)} looked at, {checked} in calm, worst there {worst}")

    def check_windows(self):
        for name, (limit, quota, per) in LIMITS.items():
            if name in ("slow", "llm", "open"):
                continue
            window = 20 if name == "long" else 3
            at = sorted(self.since(r.at) for r in self.up_handler.runs if r.what == name)
            looked = worst = 0
            for first, a in enumerate(at):
                b = a + window - 0.7
                if self.is_bad(a - 0.6, b, "reload", "script_flush") or self.degraded_between(a - 0.6, b) or self.lost_between(a - 0.6, b):
                    continue
                count = sum(1 for t in at[first:first + 1000] if t <= b)
                allowed = self.most(quota, a, b) + (per * (window + 0.7) if name in ("bucket", "closed") else 0)
                looked, worst = looked + 1, max(worst, count)
                if count > allowed:
                    self.problem(f"{count} of {name} between {a:.2f} and {b:.2f}, {allowed} allowed")
            print(f"{name}: {len(at)} admitted, {looked} intervals in calm, worst {worst} (of {quota})")

    def check_logs(self):
        """Access logs are JSON to the last line; the store's lines come in pairs."""
        total = 0
        for w in self.weirs + self.old:
            try:
                lines = w.log
                bad = [line for line in lines if line.get("reason") in ("reset", "truncated", "bad_response")]
            except AssertionError as e:
                self.problem(str(e))
                bad = []
            if bad:
                self.problem(f"sidecar {w.number}: {len(bad)} broken: {bad[0]}")
            try:
                w.check_reports()
            except AssertionError as e:
                self.problem(f"sidecar {w.number}: {e}")
            told = [("is not asked" in line) for line in store_lines(w) if "is not asked" in line or "is asked again" in line]
            total += len(told)
            if any(a == b for a, b in zip(told, told[1:])):
                self.problem(f"sidecar {w.number}: the store's lines are not in turn: {told}")
        outages = sum(1 for _, _, name in self.bad if name not in ("reload", "sidecar", "script_flush", "flush"))
        print(f"store lines: {total}, of {SIDECARS} sidecars over {outages} outages and {len(self.old)} restarts")
        if total > 2 * SIDECARS * (outages + 1) + 4 * len(self.old):
            self.problem(f"{total} lines of the store are too many")

    def note_outages(self):
        """When any sidecar said that its store was not asked."""
        self.degraded = []
        for w in self.weirs + self.old:
            began = None
            for at, down in w.turns:
                if down and began is None:
                    began = at
                if not down and began is not None:
                    self.degraded.append((began, at))
                    began = None
            if began is not None:
                self.degraded.append((began, self.now()))

    def watch(self, stop):
        """Notes when each sidecar's store lines come."""
        while not stop.wait(0.1):
            for w in [*self.weirs, *self.old[-2:]]:
                self._look(w)

    def _look(self, w):
        w.__dict__.setdefault("turns", [])
        lines = [line for line in store_lines(w) if "is not asked" in line or "is asked again" in line]
        w.turns += [(self.now(), "is not asked" in line) for line in lines[len(w.turns):]]

    # at the end

    def check_quiet(self):
        for w in self.weirs:
            w.wait_metric("weir_store_up", 1, timeout=5)
            for name in ("weir_in_flight", "weir_store_degraded"):
                value = w.metric(name)
                if value:
                    self.problem(f"sidecar {w.number}: {name} is {value}")
        self.redis.check_expiries()
        with self.redis.connect() as r:
            for name in r("KEYS", "*"):
                text = name.decode("latin-1")
                if re.search(r"\}:l:slow:c", text) and r("ZCARD", name):
                    self.problem(f"slots are left: {text} {r('ZRANGE', name, 0, -1, 'WITHSCORES')} at {r('TIME')}")
                if "}:d:" in text and r("HGET", name, "s") == b"i":
                    self.problem(f"in flight still: {text} {r('HGETALL', name)} for {r('PTTL', name)}")

    def check_full_use(self):
        """Every limit gives all it has, and not more."""
        self.up_handler.calm = True
        factor = self.factors[-1][1]

        def ask(what, n):
            i = n % SIDECARS
            fields = [("X-Tenant-ID", f"t-{what}"), ("X-Sidecar", str(i))]
            with Caller(("127.0.0.1", self.ports[i])) as c:
                if what == "llm":
                    return c.ask(request("POST", LLM.path, [*fields, ("Content-Type", "application/json")], LLM.ask(max_tokens=300)))
                return c.ask(request("GET", f"/{what}", fields))

        slots = int(LIMITS["slow"][1] * factor)
        got = in_parallel(2 * slots, lambda n: ask("slow", n))
        if sorted({r.status for r in got}) != [200, 429] or sum(r.status == 200 for r in got) != slots:
            self.problem(f"slow: {collections.Counter(r.status for r in got)} at once of {slots}")
        for name in ("slots", "long", "exact", "bucket", "closed"):
            quota = int(LIMITS[name][1] * factor)
            got = sum(in_parallel(6, lambda n, name=name, quota=quota: [ask(name, n + i).status for i in range(quota // 6)]), [])
            held = SIDECARS * max(1, quota // 10) if self.options.lease else 0      # slices of those who do not need them now
            if set(got) - {429} != {200} or got.count(429) > held:
                self.problem(f"{name}: {collections.Counter(got)} of {quota}")
        if (r := ask("llm", 1)).status != 200 or int(r.header("x-ratelimit-remaining-tokens")) < 9000 * factor - 400:
            self.problem(f"llm: {r}")

    def usage(self):
        return {w.number: (w.fd_count(), w.rss_kb()) for w in self.weirs}

    def check_usage(self, before, after):
        print(f"sidecar 0: descriptors, RSS kB: {before[0]} -> {after[0]}")
        if after[0][0] > before[0][0] + 12:
            self.problem(f"descriptors: {before[0][0]} -> {after[0][0]}")
        harness.BIN = pathlib.Path(self.options.weir[0])
        harness.sanitized.cache_clear()
        if after[0][1] > before[0][1] + harness.rss_kb_allowed(24):
            self.problem(f"RSS: {before[0][1]} -> {after[0][1]} kB")

    def close(self):
        for w in self.weirs:
            if w.alive():
                w.signal(signal.SIGTERM)
        for w in self.weirs:
            try:
                if (code := w.wait_exit(30)) != 0:
                    self.problem(f"sidecar {w.number} ended with {code}: {w.stderr[-3000:]}")
                w.check_reports()
            except AssertionError as e:
                self.problem(f"sidecar {w.number}: {e}")
        self.proxy.close()
        self.redis.close()
        self.up.close()


def run(options):
    chaos = Chaos(options)
    for w in chaos.weirs:
        wait_until(w.ready, "readiness")
        w.wait_metric("weir_store_up", 1)
    stop = threading.Event()
    watcher = threading.Thread(target=chaos.watch, args=(stop,), daemon=True)
    watcher.start()
    traffic = Traffic(chaos, options.threads)
    try:
        time.sleep(5)
        before = chaos.usage()
        while chaos.now() < options.seconds:
            chaos.go_wrong()
        traffic.end()
        chaos.note("quiet")
        time.sleep(QUIET_S)
        chaos.check_quiet()
        chaos.check_full_use()
        chaos.check_usage(before, chaos.usage())
    finally:
        stop.set()
        watcher.join()
        chaos.close()
        if options.keep:
            keep(chaos, options.keep)
    for w in chaos.weirs + chaos.old:
        chaos._look(w)
    chaos.note_outages()
    chaos.check_overlaps()
    chaos.check_done_again()
    chaos.check_replays(traffic)
    chaos.check_slots()
    chaos.check_windows()
    chaos.check_logs()
    report(chaos, traffic)
    return 1 if chaos.problems or traffic.wrong else 0


def keep(chaos, folder):
    """Everything that was logged, for whoever looks into it."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for n, w in enumerate(chaos.old + chaos.weirs):
        (folder / f"{n:02}-sidecar{w.number}.stderr").write_text(w.stderr)
        (folder / f"{n:02}-sidecar{w.number}.stdout").write_text(w.stdout)
    (folder / "events").write_text("".join(f"{at:7.2f} {text}\n" for at, text in chaos.events))
    rows = [(chaos.since(r.at), chaos.since(r.end or r.at), r.what, key, r.sidecar, r.status, r.id)
            for (_, key), runs in chaos.up_handler.keyed.items() for r in runs]
    (folder / "runs").write_text("".join(json.dumps(row) + "\n" for row in sorted(rows)))


def report(chaos, traffic):
    print("what happened:", dict(collections.Counter(name for _, _, name in chaos.bad)))
    print("what was answered:", json.dumps(dict(sorted(traffic.seen.items()))))
    print("slowest:", {name: round(s, 2) for name, s in traffic.slowest.items()})
    for text in traffic.wrong[:20] + chaos.problems[:20]:
        print("WRONG", text)
    print(f"seed {chaos.seed}: {len(traffic.wrong)} wrong answers, {len(chaos.problems)} other problems")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--weir", action="append", help="a binary; several: by turns")
    parser.add_argument("--lease", action="store_true", help="store.redis.sync: lease")
    parser.add_argument("--keep-data", action="store_true", help="redis goes away, but loses nothing: no run twice is explained by that")
    parser.add_argument("--threads", type=int, default=28)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--keep", help="a folder for the logs")
    options = parser.parse_args()
    options.weir = options.weir or [str(harness.BIN)]
    sys.exit(run(options))


if __name__ == "__main__":
    main()
