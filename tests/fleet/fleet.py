"""A redis, sidecars that share it, and steady callers of theirs."""
import contextlib
import copy
import re
import shutil
import signal
import threading
import time

import harness
import redis_server
from harness import base_config, merge, request, wait_until
from support import Caller, in_parallel


class RedisServer(redis_server.RedisServer):
    """One that can be asked without ado, and looked through."""

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def ask(self, *words):
        with self.connect() as r:
            return r(*words)

    def calls(self, *names):
        """How often these commands were run."""
        lines = self.ask("INFO", "commandstats").decode().splitlines()
        found = dict(line[8:].split(":", 1) for line in lines if line.startswith("cmdstat_"))
        return sum(int(found[n].split("calls=")[1].split(",")[0]) for n in names if n in found)

    def keys(self, database=0):
        """{name: PTTL}"""
        with self.connect() as r:
            if database:
                r("SELECT", database)
            names = r("KEYS", "*")
            left = {name.decode("latin-1"): r("PTTL", name) for name in names}
        return {name: ms for name, ms in left.items() if ms != -2}

    def check_expiries(self):
        if self.process.poll() is not None:
            return
        self.resume()
        for database in range(2):
            lasting = [name for name, ms in self.keys(database).items() if ms < 0]
            assert not lasting, f"keys without an expiry: {lasting}"


def with_redis(config, server, /, **redis):
    """The configuration, with its store there. Generous timeouts: the machine is busy, and what is down is a test's to say."""
    return merge(config, {"store": {"kind": "redis", "redis": {"addresses": [getattr(server, "address", server)], "timeout": "5s",
                                                                "claim_timeout": "5s", **redis}}})


def limited(up, server, limits, /, *, store=None, **more):
    """One route with these limits, or the routes of `listener`; kept in that redis."""
    config = base_config(getattr(up, "url", up), limits=limits, route=None if "listener" in more else {"limits": list(limits)}, **more)
    return with_redis(config, server, **(store or {}))


class Fleet:
    """n sidecars. `config` is a configuration, or a function of the number that gives one."""

    def __init__(self, n, config, wait=True, **kw):
        self.weirs = [harness.Weir(self._own(config(i) if callable(config) else config), wait_ready=False, **kw) for i in range(n)]
        self.wait = wait

    @staticmethod
    def _own(config):
        config = copy.deepcopy(config)
        for listener in config["listeners"].values():
            listener["address"] = f"127.0.0.1:{harness.free_port()}"
        return config

    def __enter__(self):
        try:
            for w in self.weirs:
                w.start()
            if self.wait:
                for w in self.weirs:
                    wait_until(w.ready, "readiness of a sidecar")
                self.wait_up()
        except BaseException as e:
            self.__exit__(type(e), e, e.__traceback__)
            raise
        return self

    def __exit__(self, kind, value, trace):
        failures = []
        for w in self.weirs:                     # all drain at once
            with contextlib.suppress(Exception):
                if w.alive() and not w.stopped_by_us:
                    w.signal(signal.SIGTERM)
        for w in self.weirs:
            try:
                if w.exit_code is None:
                    w.__exit__(kind, value, trace)
                else:
                    shutil.rmtree(w.dir, ignore_errors=True)
            except BaseException as e:
                failures.append(e)
        if failures and kind is None:
            raise failures[0]

    def __getitem__(self, n):
        return self.weirs[n]

    def __iter__(self):
        return iter(self.weirs)

    def __len__(self):
        return len(self.weirs)

    def wait_up(self, up=1, timeout=None):
        for w in self.weirs:
            if w.alive():
                w.wait_metric("weir_store_up", up, timeout=timeout)

    def know_each_other(self):
        """Until each of them has counted all the others."""
        for w in self.weirs:
            wait_until(lambda: w.status()["store"]["sidecars"] == len(self.weirs), "every sidecar's heartbeat")

    def kill(self, n):
        """SIGKILL."""
        w = self.weirs[n]
        w.signal(signal.SIGKILL)
        w.process.wait()
        w.exit_code = -9

    def metric(self, name, **labels):
        return sum(w.metric(name, **labels) for w in self.weirs if w.alive())


class Answered:
    """One request, as its caller saw it."""
    __slots__ = ("sidecar", "sent", "got", "r", "tag")

    def __init__(self, sidecar, sent, got, r, tag):
        self.sidecar, self.sent, self.got, self.r, self.tag = sidecar, sent, got, r, tag

    @property
    def status(self):
        return self.r.status

    def __repr__(self):
        return f"<{self.sidecar} {self.tag} {self.r}>"


def burst_of(fleet, threads, each, ask, pause=0):
    """Every sidecar is asked by so many threads, each so often, on kept connections: a list of Answered.
    `ask(thread, turn)` gives the request's bytes, or (bytes, tag)."""
    def work(n):
        sidecar, seen = n % len(fleet), []
        with Caller(fleet[sidecar].port) as c:
            for i in range(each):
                raw, tag = raw if isinstance(raw := ask(n, i), tuple) else (raw, None)
                sent = time.monotonic()
                r = c.ask(raw)
                assert r.clean, r
                seen.append(Answered(sidecar, sent, time.monotonic(), r, tag))
                if pause:
                    time.sleep(pause)
        return seen

    return sum(in_parallel(threads * len(fleet), work), [])


def get_raw(target="/", tenant=None, **headers):
    fields = [("X-Tenant-ID", tenant)] if tenant else []
    return request("GET", target, fields + [(k.replace("_", "-"), v) for k, v in headers.items()])


def admitted(answers):
    return [a for a in answers if a.status == 200]


def only(answers, *statuses):
    """Fails unless every answer has one of these statuses."""
    odd = [a for a in answers if a.status not in statuses]
    assert not odd, f"{len(odd)} of {len(answers)}: {odd[:3]}"
    return answers


class Steady:
    """Callers in the background, on kept connections, until the block ends. `ask(thread, turn)` gives the bytes or (bytes, tag).
    A request that is not answered whole stands in `lost`; everything else in `answers`."""

    def __init__(self, fleet, ask=lambda n, i: get_raw(), threads=2, pause=0.004):
        self.fleet, self._ask, self.pause = fleet, ask, pause
        self.stop, self.lock, self.answers, self.lost = threading.Event(), threading.Lock(), [], []
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads * len(fleet))]

    def __enter__(self):
        for t in self.threads:
            t.start()
        wait_until(lambda: len(self.answers) > 2 * len(self.threads) or self.lost, "the load to begin")
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join(2 * harness.DEADLINE)
        assert not any(t.is_alive() for t in self.threads), "a caller hangs"

    def _run(self, n):
        sidecar, i, c = n % len(self.fleet), 0, Caller(self.fleet[n % len(self.fleet)].port)
        while not self.stop.is_set():
            raw, tag = raw if isinstance(raw := self._ask(n, i), tuple) else (raw, None)
            sent = time.monotonic()
            try:
                r = c.ask(raw)
                assert r.clean, r
                with self.lock:
                    self.answers.append(Answered(sidecar, sent, time.monotonic(), r, tag))
            except Exception as e:
                c.close()
                with self.lock:
                    self.lost.append(f"sidecar {sidecar}: {e!r}")
            i += 1
            self.stop.wait(self.pause)
        c.close()

    def more(self, count=None, timeout=None):
        """Until so many further requests were answered; by default two rounds of all callers."""
        goal = len(self.answers) + (2 * len(self.threads) if count is None else count)
        wait_until(lambda: len(self.answers) >= goal or self.lost, "more requests", timeout)

    def go_on(self, seconds):
        time.sleep(seconds)

    def since(self, at, until=float("inf")):
        """Those sent after that moment, and answered before the other."""
        with self.lock:
            return [a for a in self.answers if a.sent >= at and a.got <= until]

    def none_lost(self):
        assert not self.lost, f"{len(self.lost)} lost: {self.lost[:3]}"
        return self.answers


def overheads(fleet, least_ms):
    """overhead_ms of every request, at any sidecar, on which weir spent at least so long."""
    return [line["overhead_ms"] for w in fleet for line in w.log if (line.get("overhead_ms") or 0) >= least_ms]


def store_lines(w):
    """What the log says of the store: lines of text, in order."""
    return [line for line in w.stderr.splitlines() if re.search(r"\b(redis|store)\b", line, re.I)]
