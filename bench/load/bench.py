#!/usr/bin/python3
"""weir beside nginx and haproxy: one worker each, pinned on core 0; wrk and the upstream on core 1; rounds alternate.

What is read, and how:
  CPU a request   delta of /proc/PID/task/*/schedstat over a saturated run, by wrk's count of answers
  syscalls        perf stat -e raw_syscalls:sys_enter (strace -c where perf cannot) over a run of its own
  idle RSS        VmRSS of the process that serves, after one request
  KB a connection growth of Pss over 1000 connections: fresh, and after one request on each of them at once
  KB a stream     growth of Pss over 500 open SSE streams, each with two events passed on
  bytes a tenant  growth of Pss over 100 000 tenants with one request each, their buckets not full
  429             as CPU a request, with every tenant's limit spent
Compare ratios, not times: a ratio here is the median over the rounds of weir's figure by its neighbour's in that round.
"""
import argparse
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[0], CORES[-1]
CONNECTIONS = 64

# What the limits are in each variant, in everybody's own words.
VARIANTS = {
    "admit": dict(RATE="100000/s", BURST="100000", LIMIT="1000000000", WINDOW="1m",
                  NGINX_RATE="100000r/s", HAPROXY_PERIOD="1s", HAPROXY_LIMIT="100000"),
    "refuse": dict(RATE="1/h", BURST="1", LIMIT="1", WINDOW="1h",
                   NGINX_RATE="1r/m", HAPROXY_PERIOD="1h", HAPROXY_LIMIT="1"),
    "tenants": dict(RATE="1/h", BURST="10", LIMIT="10", WINDOW="1h",
                    NGINX_RATE="1r/m", HAPROXY_PERIOD="1h", HAPROXY_LIMIT="10"),
}


# -- processes ---------------------------------------------------------------------------------------------------------

def spawn(argv, core, **kwargs):
    return subprocess.Popen([str(a) for a in argv], preexec_fn=lambda: os.sched_setaffinity(0, {core}), **kwargs)


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def read(path):
    with open(path) as f:
        return f.read()


def tree(pid):
    """The process and its children: nginx has a master above the worker."""
    pids = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in read(f"/proc/{pid}/task/{task}/children").split():
            pids += tree(int(child))
    return pids


def cpu_ns(pids):
    return sum(int(read(f"/proc/{pid}/task/{task}/schedstat").split()[0])
               for pid in pids for task in os.listdir(f"/proc/{pid}/task"))


def kilobytes(pid, file, field):
    return int(re.search(rf"^{field}:\s+(\d+) kB", read(f"/proc/{pid}/{file}"), re.M).group(1))


def pss_kb(pids):
    return sum(kilobytes(pid, "smaps_rollup", "Pss") for pid in pids)


def settled_pss_kb(pids, quiet_s=1.0, bound_s=8.0):
    """Pss once it has not moved for a while: memory is given back on timers."""
    since = start = time.monotonic()
    last = pss_kb(pids)
    while time.monotonic() - since < quiet_s and time.monotonic() - start < bound_s:
        time.sleep(0.1)
        now = pss_kb(pids)
        if abs(now - last) > 16:
            last, since = now, time.monotonic()
    return pss_kb(pids)


# -- the three ---------------------------------------------------------------------------------------------------------

class Proxy:
    def __init__(self, name, argv, template, upstream_port, more):
        self.name, self.argv, self.template, self.upstream_port, self.more = name, argv, template, upstream_port, more

    @contextlib.contextmanager
    def running(self, variant):
        with tempfile.TemporaryDirectory(prefix="weir-bench-") as directory:
            os.chmod(directory, 0o755)
            self.port = free_port()
            words = dict(VARIANTS[variant], DIR=directory, PORT=self.port, UPSTREAM=self.upstream_port, **self.more)
            words["METRICS"] = free_port()
            if self.template == "haproxy.cfg.in":
                words["LIMIT"] = words["HAPROXY_LIMIT"]
            if variant == "tenants":
                words["LIMITS"] = "bucket"
            config = os.path.join(directory, self.template[:-len(".in")])
            with open(config, "w") as f:
                f.write(re.sub(r"@([A-Z_]+)@", lambda m: str(words[m.group(1)]), read(f"{HERE}/{self.template}")))
            process = spawn([*self.argv, config], PROXY_CORE, stdout=subprocess.DEVNULL,
                            stderr=open(os.path.join(directory, "stderr"), "w"))
            try:
                self.wait_ready(process, os.path.join(directory, "stderr"))
                self.pids = tree(process.pid)
                self.worker = self.pids[-1]
                yield self
            finally:
                end(process)

    def wait_ready(self, process, stderr):
        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                with self.connect() as s:
                    s.sendall(request("ready"))
                    if s.recv(4096).startswith(b"HTTP/1.1 200"):
                        return
            except OSError:
                pass
            time.sleep(0.05)
        sys.exit(f"{self.name} does not answer: {read(stderr)}")

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s


def request(tenant, path="/"):
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nX-Tenant-ID: {tenant}\r\n\r\n".encode()


def load(proxy, seconds, tenants=1000):
    """wrk against a proxy; its own RESULT line plus the CPU that the proxy took meanwhile."""
    before = cpu_ns(proxy.pids)
    wrk = spawn(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s",
                 "-s", os.path.join(HERE, "tenants.lua"), f"http://127.0.0.1:{proxy.port}/"], LOAD_CORE,
                stdout=subprocess.PIPE, text=True, env=dict(os.environ, TENANTS=str(tenants)))
    try:
        output = wrk.communicate(timeout=seconds + 30)[0]
    finally:
        end(wrk)
    cpu = cpu_ns(proxy.pids) - before
    result = json.loads(re.search(r"^RESULT (.*)$", output, re.M).group(1))
    if result["failed"]:
        print(f"  note: {proxy.name}: {result['failed']} connections failed or timed out", flush=True)
    return dict(result, cpu_us=cpu / 1000 / result["requests"], busy=cpu / 1000 / result["duration_us"],
                per_s=result["requests"] * 1e6 / result["duration_us"])


# -- what is measured --------------------------------------------------------------------------------------------------

def measure_load(proxies, rounds, seconds, variant):
    figures = {p.name: [] for p in proxies}
    with contextlib.ExitStack() as stack:
        for proxy in proxies:
            stack.enter_context(proxy.running(variant))
            load(proxy, 1)
        for turn in range(rounds):
            for proxy in proxies:
                result = load(proxy, seconds)
                wrong = result["refused"] if variant == "admit" else result["requests"] - result["refused"]
                if wrong > result["requests"] * 0.02:
                    sys.exit(f"{proxy.name}: {wrong} of {result['requests']} answers are not what `{variant}` expects")
                figures[proxy.name].append(result)
                print(f"  {variant} {turn + 1}/{rounds} {proxy.name:10s} {result['cpu_us']:6.2f} us  "
                      f"{result['per_s']:8.0f}/s  busy {result['busy']:4.0%}", flush=True)
    return figures


def count_syscalls(proxy, seconds=2):
    """Through perf where the kernel lets us, else strace; both attach to the running process for one run of wrk."""
    pids = ",".join(map(str, proxy.pids))
    with tempfile.NamedTemporaryFile("r", prefix="weir-bench-") as report:
        for tool, argv in (("perf", ["stat", "-x,", "-o", report.name, "-e", "raw_syscalls:sys_enter", "-p", pids]),
                           ("strace", ["-c", "-f", "-o", report.name, *[a for p in proxy.pids for a in ("-p", p)]])):
            if not shutil.which(tool):
                continue
            watcher = spawn([tool, *argv], LOAD_CORE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.5)  # to attach; neither says when it has
            if watcher.poll() is not None:
                continue
            result = load(proxy, seconds)
            watcher.send_signal(signal.SIGINT)
            watcher.wait(10)
            text = read(report.name)
            found = (re.search(r"^(\d+),,raw_syscalls", text, re.M) or
                     re.search(r"^100\.00\s+\S+\s+\d+\s+(\d+)", text, re.M))
            if found:
                return int(found.group(1)) / result["requests"]
    return None


def read_some(sockets, until):
    """Reads from every socket until `until(bytes so far)` holds for it."""
    got = {s: b"" for s in sockets}
    waiting, deadline = set(sockets), time.monotonic() + 20
    poll = select.poll()
    by_fd = {s.fileno(): s for s in sockets}
    for s in sockets:
        poll.register(s, select.POLLIN)
    while waiting:
        if time.monotonic() > deadline:
            sys.exit(f"{len(waiting)} of {len(sockets)} connections got no answer")
        for fd, _ in poll.poll(1000):
            s = by_fd[fd]
            data = s.recv(65536)
            if not data:
                sys.exit("a connection was closed early")
            got[s] += data
            if s in waiting and until(got[s]):
                waiting.discard(s)
    return got


def warm(proxy):
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            s = stack.enter_context(proxy.connect())
            for _ in range(50):
                s.sendall(request("warm"))
                read_some([s], whole_answer)


def whole_answer(data):
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.I)
    return bool(found) and len(body) >= int(found.group(1))


def measure_connections(proxy, count=1000):
    with proxy.running("admit"), contextlib.ExitStack() as stack:
        rss = kilobytes(proxy.worker, "status", "VmRSS")
        warm(proxy)
        base = settled_pss_kb(proxy.pids)
        sockets = [stack.enter_context(proxy.connect()) for _ in range(count)]
        fresh = settled_pss_kb(proxy.pids, 0.5, 3)
        after = []
        for _ in range(5):
            for s in sockets:
                s.sendall(request("burst"))
            read_some(sockets, whole_answer)
            after.append((settled_pss_kb(proxy.pids, 2.2) - base) / count)
    return dict(idle_rss_kb=rss, connection_kb=(fresh - base) / count, connection_burst_kb=after[0],
                connection_bursts_kb=after[-1])


def measure_streams(proxy, count=500):
    with proxy.running("admit"), contextlib.ExitStack() as stack:
        warm(proxy)
        base = settled_pss_kb(proxy.pids)
        sockets = [stack.enter_context(proxy.connect()) for _ in range(count)]
        for s in sockets:
            s.sendall(request("stream", "/sse"))
        read_some(sockets, lambda data: data.count(b"one more word") >= 2)
        return (settled_pss_kb(proxy.pids) - base) / count


def measure_tenants(proxy, count=100_000, batch=50):
    def ask(s, tenants):
        s.sendall(b"".join(request(t) for t in tenants))
        data = read_some([s], lambda data: data.count(b"HTTP/1.1 ") == len(tenants) and data.endswith(tails))[s]
        return data.count(b"HTTP/1.1 200")

    tails = (b"x", b"\n", b"}", b"s")  # the last byte of the 200, and of a refusal of each
    with proxy.running("tenants"), proxy.connect() as s:
        for _ in range(40):
            ask(s, ["warm"] * batch)
        base = settled_pss_kb(proxy.pids)
        admitted = sum(ask(s, [f"tenant-{i}" for i in range(at, at + batch)]) for at in range(0, count, batch))
        if admitted != count:
            sys.exit(f"{proxy.name}: {admitted} of {count} new tenants were admitted")
        return (settled_pss_kb(proxy.pids) - base) * 1024 / count


# -- the report --------------------------------------------------------------------------------------------------------

def ratio(figures, name, other, field):
    pairs = list(zip(figures[name], figures[other]))
    return statistics.median(a[field] / b[field] for a, b in pairs)


def print_table(rows, names):
    print()
    print(f"{'':34s}" + "".join(f"{n:>12s}" for n in names))
    for title, format_, values in rows:
        print(f"{title:34s}" + "".join(f"{format_ % v if v is not None else '-':>12s}" for v in values))


def report(names, admit, refuse, memory):
    def median(figures, field):
        return [statistics.median(r[field] for r in figures[n]) if n in figures else None for n in names]

    def mem(field):
        return [memory.get(n, {}).get(field) for n in names]

    rows = [("CPU us a request", "%.2f", median(admit, "cpu_us")),
            ("requests a second", "%.0f", median(admit, "per_s")),
            ("p50 us", "%.0f", median(admit, "p50_us")),
            ("p99 us", "%.0f", median(admit, "p99_us")),
            ("syscalls a request", "%.1f", mem("syscalls")),
            ("429: CPU us a request", "%.2f", median(refuse, "cpu_us")),
            ("429: requests a second", "%.0f", median(refuse, "per_s")),
            ("idle RSS, MB (1000 KB)", "%.1f", [kb / 1000 if kb else None for kb in mem("idle_rss_kb")]),
            ("KB an idle connection, fresh", "%.2f", mem("connection_kb")),
            ("  after one burst", "%.2f", mem("connection_burst_kb")),
            ("  after five bursts", "%.2f", mem("connection_bursts_kb")),
            ("KB an SSE stream", "%.2f", mem("stream_kb")),
            ("bytes a tenant", "%.0f", mem("tenant_bytes"))]
    print_table(rows, names)
    ratios = {}
    for name in (n for n in names if n.startswith("weir")):
        for other in (n for n in names if not n.startswith("weir")):
            for title, figures in (("CPU a request", admit), ("429 CPU", refuse)):
                if figures:
                    ratios[f"{name}/{other} {title}"] = ratio(figures, name, other, "cpu_us")
    if ratios:
        print("\nratios, medians over the rounds")
        for title, value in ratios.items():
            print(f"  {title:40s} {value:.3f}")
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", default="build/weir")
    parser.add_argument("--upstream", default="build/bench_upstream")
    parser.add_argument("--only", default="weir,weir-same,nginx,haproxy",
                        help="weir: two limits and the defaults; weir-same: one limit and one id, what the others do")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--skip", default="", help="any of refuse,syscalls,memory")
    parser.add_argument("--json", help="write everything there, too")
    args = parser.parse_args()
    skip = args.skip.split(",")
    os.sched_setaffinity(0, {LOAD_CORE})

    upstream = spawn([args.upstream], LOAD_CORE, stdout=subprocess.PIPE, text=True)
    try:
        port = int(upstream.stdout.readline().split()[1])
        weir = [os.path.abspath(args.weir), "-c"]
        known = {p.name: p for p in (
            Proxy("weir", weir, "weir.yaml.in", port,
                  dict(ALSO="X-Request-ID", TRACEPARENT="true", LIMITS="bucket, window")),
            Proxy("weir-same", weir, "weir.yaml.in", port, dict(ALSO="", TRACEPARENT="false", LIMITS="bucket")),
            Proxy("nginx", ["/usr/sbin/nginx", "-c"], "nginx.conf.in", port, {}),
            Proxy("haproxy", ["/usr/sbin/haproxy", "-db", "-f"], "haproxy.cfg.in", port, {}))}
        proxies = [known[n] for n in args.only.split(",")]
        names = [p.name for p in proxies]

        admit = measure_load(proxies, args.rounds, args.seconds, "admit")
        refuse = measure_load(proxies, args.rounds, args.seconds, "refuse") if "refuse" not in skip else {}
        memory = {n: {} for n in names}
        for proxy in proxies:
            if "syscalls" not in skip:
                print(f"  syscalls of {proxy.name}", flush=True)
                with proxy.running("admit"):
                    load(proxy, 1)
                    memory[proxy.name]["syscalls"] = count_syscalls(proxy)
            if "memory" not in skip:
                print(f"  memory of {proxy.name}", flush=True)
                memory[proxy.name].update(measure_connections(proxy), stream_kb=measure_streams(proxy),
                                          tenant_bytes=measure_tenants(proxy))
        ratios = report(names, admit, refuse, memory)
        if args.json:
            with open(args.json, "w") as f:
                json.dump(dict(admit=admit, refuse=refuse, memory=memory, ratios=ratios), f, indent=1)
    finally:
        end(upstream)


if __name__ == "__main__":
    main()
