"""A memory limit that holds: the chart's configuration under the chart's limit, and callers who try to get weir killed.

What `weir --check` says is the worst case of weir itself. The limit is above it by what the kernel keeps for its sockets.
"""
import contextlib
import re
import threading

import pytest

import harness
from attack import Origin, Swarm
from harness import ROOT, connect, free_port, request, run_weir, wait_until
from memory_limit import Limited, MemoryLimit

MIB = 1 << 20
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}


def chart():
    """The configuration of the chart's values.yaml, and its limits.memory."""
    text = (ROOT / "helm" / "weir" / "values.yaml").read_text()
    block = re.search(r"(?m)^config: \|\n((?:(?:  .*)?\n)+)", text).group(1)
    limit = int(re.search(r"(?m)^resources:\n(?:  .*\n)*?  limits:\n(?:    .*\n)*?    memory: (\d+)Mi$", text).group(1)) * MIB
    return re.sub(r"(?m)^  ", "", block), limit


def worst_case(config):
    done = run_weir("--check", config=config)
    assert done.returncode == 0, done
    number, unit = re.search(r"(?m)^in all .* ([\d.]+) (\w+)$", done.stdout).groups()
    return int(float(number) * UNITS[unit])


CONFIG, LIMIT = chart()
MAX_CONNECTIONS = int(re.search(r"max_connections: (\d+)", CONFIG).group(1))
CALLERS = MAX_CONNECTIONS - 8  # a few places are for those who mean well


# ----------------------------------------------------------------------------------------------------------- the attacks
#
# Each is given a Swarm and how many connections are its own.


def fields(n, size):
    """Fields of about so many bytes, few enough of them."""
    return [(f"X-Fill-{i}", "f" * 900) for i in range(size // 920)] + [("X-Tenant-ID", f"tenant-{n}")]


def slow_heads(swarm, count):
    """Heads of nearly max_head that never end."""
    swarm.send(count, lambda n: request("GET", "/", fields(n, 31000))[:-2])
    swarm.run(3)


def held_bodies(swarm, count):
    """Bodies that are held until they are whole, the largest first, and one byte short of it."""
    large = request("POST", "/hold", [("Content-Length", str(16 * MIB))]) + b"b" * (16 * MIB - 1)
    small = request("POST", "/hold", [("Content-Length", "100000")]) + b"b" * 99999
    swarm.send(count, lambda n: (large if n % 64 == 0 else small).replace(
        b"\r\n", b"\r\nX-Tenant-ID: body-%d\r\nIdempotency-Key: k%d\r\n" % (n, n), 1))
    swarm.run(4)


def bodies_nobody_takes(swarm, count):
    """Requests with whole heads and bodies, which the upstream never answers."""
    swarm.send(count, lambda n: request("POST", "/hold", fields(n, 20000), b"b" * 12000))
    swarm.run(3)


def tenants(swarm, count):
    """Every request is of another tenant."""
    each = 100_000 // count
    swarm.send(count, lambda n: b"".join(request("GET", "/", [("X-Tenant-ID", f"invented-{n}-{i}")]) for i in range(each)))
    swarm.run(15, until=lambda: sum(swarm.statuses.values()) >= each * count)


def dedup_keys(swarm, count):
    """Every request has another key, and one in eight an answer worth keeping; more than the table and the memory hold."""
    each = 150_000 // count
    swarm.send(count, lambda n: b"".join(
        request("POST", "/size/2000" if i % 8 == 0 else "/ok", [("X-Tenant-ID", f"t-{n}-{i // 64}"),
                                                                 ("Idempotency-Key", f"key-{n}-{i}")], b"") for i in range(each)))
    swarm.run(20, until=lambda: sum(swarm.statuses.values()) >= each * count)


def slow_streams(swarm, count):
    """Event streams without end, which nobody reads."""
    swarm.send(count, lambda n: request("GET", "/events", [("X-Tenant-ID", f"stream-{n}")]), reads=False)
    swarm.run(3)


def shared_streams(swarm, count):
    """Many who share one stream by its key, which one in two does not read."""
    for half in range(2):
        swarm.send(count // 2, lambda n: request("POST", "/events", [
            ("X-Tenant-ID", f"shared-{n % 8}"), ("Idempotency-Key", "one")], b""), reads=half == 0)
    swarm.run(3)


def stored_answers(swarm, count):
    """Answers of the largest size that is kept, asked for again and again and never read."""
    swarm.send(count, lambda n: b"".join(request("POST", f"/size/{MIB - 4096}", [
        ("X-Tenant-ID", f"stored-{n % 16}"), ("Idempotency-Key", f"kept-{n % 16 // 2}")], b"") for _ in range(8)), reads=False)
    swarm.run(3)


def big_answers(swarm, count):
    """Answers of a gigabyte that nobody reads, and heads as large as weir takes them."""
    swarm.send(count // 2, lambda n: request("GET", f"/size/{1 << 30}", [("X-Tenant-ID", f"big-{n}")]), reads=False)
    swarm.send(count // 2, lambda n: request("GET", "/head/30000", [("X-Tenant-ID", f"wide-{n}")]) * 20, reads=False)
    swarm.run(3)


def sudden_stops(swarm, count):
    """Answers of a gigabyte, read fast until every buffer on their way has grown, and then not at all."""
    swarm.send(count, lambda n: request("GET", f"/size/{1 << 30}", [("X-Tenant-ID", f"fast-{n}")]))
    swarm.run(5)
    swarm.stop_reading()
    swarm.run(2)


def sudden_uploads(swarm, count):
    """The same for bodies: the upstream takes nearly all of them, and then no more."""
    body = b"u" * (16 * MIB)
    wholes = [request("POST", f"/sink/{12 * MIB}", [("X-Tenant-ID", f"up-{n}")], body) for n in range(12)]
    swarm.send(count, lambda n: wholes[n % 12])
    swarm.run(5)


def labels(swarm, count):
    """Everything that is logged, counted or handed on is another one each time."""
    def one(n, i):
        mark = f"{n:04x}{i:04x}"
        return request(["GET", "PUT", "PURGE", "M" + mark.upper()][i % 4], f"/{mark}/" + "p" * 500 + f"?{mark}", [
            ("X-Tenant-ID", f"label-{mark}"), ("X-Correlation-ID", mark + "c" * 100), ("X-Request-ID", mark + "r" * 100),
            ("traceparent", f"00-{mark * 4}-{mark * 2}-01"), ("tracestate", "a=" + "t" * 400), ("User-Agent", mark * 20)])

    each = 20_000 // count
    swarm.send(count, lambda n: b"".join(one(n, i) for i in range(each)))
    swarm.run(10, until=lambda: sum(swarm.statuses.values()) >= each * count)


def pipelines(swarm, count):
    """As many requests as go into a connection, behind one that is never answered."""
    swarm.send(count, lambda n: (request("GET", "/hold", [("X-Tenant-ID", f"pipe-{n}")]) +
                                 request("GET", "/size/100000", fields(n, 10000)) * 100), reads=False)
    swarm.run(3)


ATTACKS = [slow_heads, held_bodies, bodies_nobody_takes, tenants, dedup_keys, slow_streams, shared_streams, stored_answers,
           big_answers, sudden_stops, sudden_uploads, labels, pipelines]


def everything(swarm, count):
    """All of them at once: none lets go before the last has come."""
    for attack in ATTACKS:
        attack(swarm, count // len(ATTACKS))


# --------------------------------------------------------------------------------------------------- those who mean well


class Regular(threading.Thread):
    """Asks on a connection it has kept, all the time; what it may hear is 200, or that weir or its upstream is too busy."""

    ALLOWED = ((200, None), (503, "overloaded"), (429, "limit"), (503, "breaker_open"))

    def __init__(self, port):
        super().__init__(daemon=True)
        self.where, self.stop, self.heard, self.wrong = ("127.0.0.1", port), threading.Event(), {}, []
        self.conn = connect(self.where)
        assert self.ask() == (200, None)

    def ask(self):
        self.conn.send(request("GET", "/", [("X-Tenant-ID", "regular")]))
        r = self.conn.read_response()
        return r.status, r.weir_reason

    def run(self):
        while not self.stop.wait(0.1):
            try:
                got = self.ask()
                self.heard[got] = self.heard.get(got, 0) + 1
                if got not in self.ALLOWED:
                    self.wrong.append(got)
            except Exception as e:
                self.wrong.append(repr(e))
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join(harness.DEADLINE)
        self.conn.close()


def answers_newcomer(port):
    try:
        with connect(("127.0.0.1", port), timeout=5) as conn:
            conn.send(request("GET", "/", [("X-Tenant-ID", "newcomer")]))
            return conn.read_response().status == 200
    except (OSError, AssertionError):
        return False


def configured(port):
    """As it stands, but for where it listens and how long it takes to end."""
    text = re.sub(r'(?m)^( +address: )"\*:8080"$', rf'\1"127.0.0.1:{port}"', CONFIG)
    return re.sub(r"(?m)^( +drain: ).*$", r"\1{delay: 0s, timeout: 1s}", text)


@contextlib.contextmanager
def running(limit_bytes, **kw):
    port = free_port()
    with Origin() as origin, MemoryLimit(limit_bytes) as limit:
        with Limited(configured(port), limit=limit, ports={"in": port}, env={"AGENT_URL": origin.url}, **kw) as w:
            yield w, limit


@pytest.mark.parametrize("attack", [*ATTACKS, everything], ids=lambda f: f.__name__)
def test_no_attack_gets_weir_killed(attack):
    worst = worst_case(CONFIG)
    assert worst <= LIMIT, "the chart's limit is below what weir --check says"
    with running(LIMIT) as (w, limit):
        idle = limit.usage(w)
        with Regular(w.port) as regular:
            with Swarm(w.port) as swarm:
                attack(swarm, CALLERS)
            heard = dict(regular.heard)
        peak, rss, sockets = limit.peak(w), w.peak_rss_kb() * 1024, limit.sockets()
        print(f"{attack.__name__}: limit {LIMIT / MIB:.0f} MiB by {limit.kind}, --check {worst / MIB:.1f}, idle {idle / MIB:.1f}, "
              f"peak {peak / MIB:.1f}, of weir {rss / MIB:.1f}" + (f", sockets {sockets / MIB:.1f}" if sockets else "") +
              f"; callers heard {swarm.statuses}, {swarm.hung_up} hung up; the regular {heard}")
        assert w.alive() and limit.kills() == 0
        assert peak + (sockets or 0) <= LIMIT, "with what sockets hold, which cgroup v2 counts in, it is over the limit"
        assert rss <= worst, "weir itself came to more than --check says"
        assert not regular.wrong, regular.wrong
        wait_until(lambda: answers_newcomer(w.port), "an answer after the attack")


def test_a_limit_that_is_too_low_is_noticed():
    """Under a quarter of what it may come to, one of these attacks is enough: what is tested above can fail."""
    with running(worst_case(CONFIG) // 4, expect_exit=-9) as (w, limit):
        with Swarm(w.port) as swarm:
            bodies_nobody_takes(swarm, CALLERS)
            wait_until(lambda: not w.alive(), "the end of weir")
        assert limit.kills() == 1
