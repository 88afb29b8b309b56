"""What every black-box test of weir stands on. Standard library only.

    with weir(base_config(up.port)) as w:       # a running weir, ready; checked again when it ends
        r = exchange(w.port, request("GET", "/x"))

`weir` starts the binary and tells what can be seen of it; `Upstream` is a strict HTTP/1.1 server that remembers every
request; `Conn` is a raw caller. Nothing here waits without a deadline, and nothing waits by sleeping where it can ask.

Environment: WEIR_BIN (default build/weir), WEIR_WORKERS (default 1), WEIR_DEADLINE (seconds any one wait may take).
"""
import collections
import contextlib
import copy
import errno
import functools
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("WEIR_BIN", ROOT / "build" / "weir")).resolve()
WORKERS = os.environ.get("WEIR_WORKERS", "1")
DEADLINE = float(os.environ.get("WEIR_DEADLINE", "30"))

SANITIZER_REPORTS = ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer", "LeakSanitizer")


class Deadline(AssertionError):
    """Something did not come in time."""


class ProtocolError(AssertionError):
    """What came is not HTTP/1.x as RFC 9112 has it."""


def wait_until(ask, what="the condition", timeout=None, every=0.01):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + (DEADLINE if timeout is None else timeout)
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Deadline(f"{what}: not in time (last: {answer!r})")
        time.sleep(every)


@functools.cache
def sanitized():
    """Which sanitizer the binary was built with: 'address', 'thread' or ''."""
    with contextlib.suppress(OSError):
        image = BIN.read_bytes()
        for word, mark in (("address", b"__asan_init"), ("thread", b"__tsan_init")):
            if mark in image:
                return word
    return ""


def rss_kb_allowed(megabytes):
    """A bound on growth in kB; a sanitizer's shadow and quarantine grow along with what they watch."""
    return megabytes * 1024 * {"address": 4, "thread": 16, "": 1}[sanitized()]


# ---------------------------------------------------------------------------------------------- ports, configuration

_ports_given = set()
_ports_marked = collections.deque(maxlen=64)  # UDP sockets: no other test process is given what was given a moment ago
_ports_from = random.SystemRandom()
_ports_below = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def free_port(host="127.0.0.1"):
    """A port nobody listens on, and that this process has not handed out before; below those the system gives to outgoing
    connections and to port 0, one of which could take it before its listener does."""
    for _ in range(200):
        port = _ports_from.randrange(10000, _ports_below)
        if port in _ports_given:
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        mark = socket.socket(family, socket.SOCK_DGRAM)
        with socket.socket(family) as s, contextlib.suppress(OSError):
            mark.bind((host, port))
            s.bind((host, port))
            _ports_given.add(port)
            _ports_marked.append(mark)
            return port
        mark.close()
    raise AssertionError("no free port")


def merge(into, more):
    """Deep merge of mappings; anything else replaces. Changes and returns `into`."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
    return into


def base_config(upstream, *, agent=None, route=None, listener=None, **overrides):
    """The smallest configuration: listener `in`, route /, upstream `agent` - each request is one try: without retries and
    breaker, which agent={"retry": {}, "breaker": {}} brings back with their defaults.

    `upstream` is a port or a url. `agent`, `route`, `listener` are merged into the one upstream, route, listener;
    every other keyword is a top-level section, merged too: base_config(p, server={"max_body": "1KiB"}).
    """
    url = upstream if isinstance(upstream, str) else f"http://127.0.0.1:{upstream}"
    config = {
        "version": 1,
        "upstreams": {"agent": {"url": url, "retry": False, "breaker": False}},
        "listeners": {"in": {"address": f"127.0.0.1:{free_port()}", "routes": [{"path": "/", "upstream": "agent"}]}},
    }
    merge(config["upstreams"]["agent"], agent or {})
    merge(config["listeners"]["in"], listener or {})
    for one in config["listeners"]["in"]["routes"]:
        merge(one, route or {})
    return merge(config, overrides)


def address_of(text):
    """'127.0.0.1:80' -> ('127.0.0.1', 80); '*:80' -> loopback; 'unix:///p' -> '/p'."""
    if text.startswith("unix://"):
        return text[len("unix://"):]
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    return ("127.0.0.1" if host in ("*", "0.0.0.0", "") else "::1" if host == "::" else host, int(port))


# ------------------------------------------------------------------------------------------------ the running binary


class Weir:
    """One weir process. Use it as a context manager, or through the `start_weir` fixture of conftest.py.

    config: dict (written as JSON, which is YAML) or str (written as it is; `ports` then names its listeners' ports, and
    server, admin and metrics are added where the text has none). `expect_exit`: a test that wants it to end by itself
    says with which code. `rlimits`: {resource.RLIMIT_NOFILE: 64}.
    """

    def __init__(self, config, *, ports=None, args=(), env=None, rlimits=None, expect_exit=None, wait_ready=True,
                 files=None, sanitizer_ok=False):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="weir-test-"))
        self.config_path = self.dir / "weir.yaml"
        self.ports, self.paths = dict(ports or {}), {}
        self._config, self._args, self._env, self._rlimits = config, list(args), dict(env or {}), dict(rlimits or {})
        self._expect_exit, self._wait_ready, self._sanitizer_ok = expect_exit, wait_ready, sanitizer_ok
        self._admin = self._metrics = None
        self.process = None
        self.exit_code = None
        self.stopped_by_us = False
        for name, text in (files or {}).items():
            (self.dir / name).write_text(text)

    # start and end

    def start(self):
        if not os.access(BIN, os.X_OK):
            raise AssertionError(f"no binary at {BIN}: build first, or set WEIR_BIN")
        self._write_config(self._config)
        env = {**os.environ, **self._env}
        env.setdefault("ASAN_OPTIONS", "quarantine_size_mb=8:detect_leaks=1")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        with open(self.dir / "stdout", "wb") as out, open(self.dir / "stderr", "wb") as err:
            self.process = subprocess.Popen([str(BIN), "-c", str(self.config_path), *self._args], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=err, env=env, cwd=self.dir,
                                            preexec_fn=self._apply_rlimits if self._rlimits else None)
        if self._wait_ready:
            try:
                wait_until(self.ready, "readiness of weir", every=0.02)
            except BaseException:
                self._kill()
                raise
        return self

    def _apply_rlimits(self):
        for which, value in self._rlimits.items():
            resource.setrlimit(which, value if isinstance(value, tuple) else (value, value))

    def __enter__(self):
        return self.start() if self.process is None else self

    def __exit__(self, kind, value, trace):
        try:
            self.finish(quietly=kind is not None)
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def finish(self, quietly=False):
        """Stops it and fails unless it lived until now, ended with 0 and no sanitizer had anything to say."""
        if self.process is None:
            return
        died = None if self.stopped_by_us else self.process.poll()
        try:
            code = self.stop()
        except Deadline:
            if not quietly:
                raise
            code = None
        if not self._sanitizer_ok and not quietly:
            self.check_reports()
        if not quietly and died is not None and died != self._expect_exit:
            raise AssertionError(f"weir died by itself with {died}:\n{self.stderr[-8000:]}")
        if quietly:
            return
        wanted = 0 if self._expect_exit is None else self._expect_exit
        assert code == wanted, f"exit code {code}, not {wanted}:\n{self.stderr[-8000:]}"

    def check_reports(self):
        """Fails when a sanitizer had anything to say so far."""
        text = self.stderr
        at = min((text.find(mark) for mark in SANITIZER_REPORTS if mark in text), default=-1)
        assert at < 0, f"sanitizer report:\n{text[max(0, at - 500):at + 6000]}"

    def stop(self, timeout=None, sig=signal.SIGTERM):
        """Signals, waits, returns the exit code. At the deadline it is killed, and the test fails."""
        if self.process is None:
            return self.exit_code
        if self.process.poll() is None:
            self.stopped_by_us = True
            self.process.send_signal(sig)
        return self.wait_exit(timeout)

    def wait_exit(self, timeout=None):
        try:
            self.exit_code = self.process.wait(DEADLINE if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            stacks = self._where()
            self._kill()
            raise Deadline(f"weir did not end in time; killed\n{stacks}\n{self.stderr[-8000:]}") from None
        return self.exit_code

    def signal(self, sig):
        """SIGTERM and SIGINT sent here count as the test's own stop."""
        if sig in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            self.stopped_by_us = True
        self.process.send_signal(sig)

    def _kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.exit_code = self.process.wait()

    def _where(self):
        with contextlib.suppress(OSError):
            return f"wchan: {pathlib.Path(f'/proc/{self.pid}/wchan').read_text()}"
        return ""

    # configuration

    def _write_config(self, config):
        text = self._complete_text(config) if isinstance(config, str) else self._complete_dict(config)
        fresh = self.config_path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self.config_path)

    def _complete_dict(self, config):
        config = copy.deepcopy(config)
        server = config.setdefault("server", {})
        server.setdefault("workers", WORKERS if WORKERS == "auto" else int(WORKERS))
        server.setdefault("drain", {}).setdefault("timeout", "5s")
        if config.get("admin") is not False:
            admin = config.setdefault("admin", {})
            admin.setdefault("address", self._own_address("_admin"))
            self._admin = address_of(admin["address"])
        metrics = config.setdefault("metrics", {})
        metrics.setdefault("address", self._own_address("_metrics"))
        self._metrics = address_of(metrics["address"])
        for name, listener in (config.get("listeners") or {}).items():
            with contextlib.suppress(ValueError, KeyError, AttributeError):
                where = address_of(listener["address"])
                if isinstance(where, str):
                    self.paths[name] = where
                else:
                    self.ports[name] = where[1]
        return json.dumps(config, indent=1)

    def _complete_text(self, text):
        has = {m.group(1) for m in re.finditer(r"(?m)^(\w+):", text)}
        more = ""
        if "server" not in has:
            more += f"server: {{workers: {WORKERS}, drain: {{timeout: 5s}}}}\n"
        for section in ("admin", "metrics"):
            if section in has:
                found = re.search(rf"(?ms)^{section}:.*?\baddress:\s*\"?([^\s\",}}]+)", text)
                if found:
                    setattr(self, "_" + section, address_of(found.group(1)))
            else:
                more += f"{section}: {{address: \"{self._own_address('_' + section)}\"}}\n"
                setattr(self, "_" + section, address_of(self._own_address("_" + section)))
        return text if not more else text.rstrip("\n") + "\n" + more

    def _own_address(self, which):
        """Kept over reloads, so that a reload without these sections does not move them."""
        chosen = self.__dict__.setdefault("_own", {})
        if which not in chosen:
            chosen[which] = f"127.0.0.1:{free_port()}"
        return chosen[which]

    def reload(self, config, result="ok", timeout=None):
        """Rewrites the file atomically, sends SIGHUP, waits until a reload with `result` has been counted."""
        before = self.metric("weir_config_reloads_total", result=result)
        self._write_config(config)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.metric("weir_config_reloads_total", result=result) > before,
                   f"a reload with result={result}", timeout)

    # what can be seen

    @property
    def pid(self):
        return self.process.pid

    @property
    def port(self):
        return self.ports["in"]

    @property
    def admin(self):
        return self._admin

    @property
    def metrics_address(self):
        return self._metrics

    @property
    def stderr(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.dir / "stderr").read_bytes().decode("utf-8", "replace")
        return ""

    @property
    def stdout(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.dir / "stdout").read_bytes().decode("utf-8", "replace")
        return ""

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def ready(self):
        assert self.alive(), f"weir ended with {self.process.poll()} instead of becoming ready:\n{self.stderr[-8000:]}"
        try:
            return self.ask("/readyz", timeout=5).status == 200
        except (OSError, AssertionError):
            return False

    def ask(self, target, *, method="GET", where=None, timeout=None, headers=(), body=None):
        """One request to the metrics address (or the one given), on a connection of its own."""
        where = where or self._metrics or self._admin
        raw = request(method, target, [("Connection", "close"), *headers], body, host="localhost")
        return exchange(where, raw, method=method, timeout=timeout)

    def ask_admin(self, target, **kw):
        return self.ask(target, where=self._admin, **kw)

    def status(self):
        r = self.ask_admin("/status")
        assert r.status == 200, r
        return json.loads(r.body)

    def metrics(self):
        """{(name, frozenset of (label, value)): number}"""
        r = self.ask("/metrics")
        assert r.status == 200, r
        return parse_metrics(r.body.decode())

    def metric(self, name, **labels):
        """Sum over every series of that name that has these labels; 0 where there is none."""
        return sum(v for (n, have), v in self.metrics().items() if n == name and labels.items() <= dict(have).items())

    def wait_metric(self, name, wanted, timeout=None, **labels):
        """Waits until the sum of the series is `wanted` (a number, or a function of it)."""
        good = wanted if callable(wanted) else lambda v: v == wanted
        last = []

        def ask():
            last[:] = [self.metric(name, **labels)]
            return good(last[0])

        try:
            wait_until(ask, f"{name}{labels}", timeout, every=0.03)
        except Deadline:
            raise Deadline(f"{name}{labels} is {last[0]}, wanted {wanted}") from None
        return last[0]

    @property
    def log_path(self):
        access = self._config.get("log", {}).get("access", "stdout") if isinstance(self._config, dict) else "stdout"
        return self.dir / access  # stdout and stderr are files of that name; an absolute path stays itself

    @property
    def log(self):
        """Every whole line of the access log so far, parsed."""
        try:
            text = self.log_path.read_bytes()
        except FileNotFoundError:
            return []
        lines = text[: text.rfind(b"\n") + 1].split(b"\n")[:-1]
        parsed = []
        for line in lines:
            try:
                parsed.append(json.loads(line.decode("utf-8")))
            except ValueError as e:
                if self.log_path.name != "stderr":
                    raise AssertionError(f"not a JSON line in the access log: {line!r}: {e}") from None
        return parsed

    def wait_log(self, wanted=None, timeout=None, count=1, **fields):
        """Waits for the n-th access log line that has these fields (or satisfies a function), and returns it."""
        def matches(line):
            if wanted is not None and not wanted(line):
                return False
            return all(line.get(k) == v for k, v in fields.items())

        def ask():
            found = [line for line in self.log if matches(line)]
            return found[count - 1] if len(found) >= count else None

        try:
            return wait_until(ask, "a line of the access log", timeout, every=0.02)
        except Deadline:
            raise Deadline(f"no access log line with {fields or wanted}; there are:\n"
                           + "\n".join(map(str, self.log[-20:]))) from None

    def rss_kb(self):
        return self._proc_status("VmRSS")

    def peak_rss_kb(self):
        return self._proc_status("VmHWM")

    def _proc_status(self, field):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M).group(1))

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def weir(config, **kw):
    """`with weir(config) as w:`; see Weir."""
    return Weir(config, **kw)


class SharedWeir:
    """One weir for the tests of a file. A test that harms it is the one that fails: the next gets a fresh one.

        @pytest.fixture(scope="module")           @pytest.fixture
        def shared():                             def w(shared):
            with SharedWeir(config) as shared:        with shared.borrowed() as w:
                yield shared                              yield w
    """

    def __init__(self, config, **kw):
        self._make, self._weir = lambda: Weir(config, **kw), None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self._weir is not None:
            self._weir.__exit__(kind, value, trace)

    @contextlib.contextmanager
    def borrowed(self):
        if self._weir is None:
            self._weir = self._make().start()
        w = self._weir
        yield w
        try:
            w.check_reports()
            assert w.alive(), f"weir died with {w.process.poll()}:\n{w.stderr[-4000:]}"
        except AssertionError:
            self._weir = None
            w.__exit__(AssertionError, None, None)
            raise


def run_weir(*args, config=None, env=None, files=None):
    """Runs weir to its end (--check and the like): CompletedProcess with text. `config` is text for -c."""
    with tempfile.TemporaryDirectory(prefix="weir-test-") as where:
        for name, text in (files or {}).items():
            (pathlib.Path(where) / name).write_text(text)
        argv = [str(BIN), *args]
        if config is not None:
            text = config if isinstance(config, (str, bytes)) else json.dumps(config)
            path = pathlib.Path(where) / "weir.yaml"
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            argv += ["-c", str(path)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, cwd=where,
                              env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)


_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \S+)?$")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')


def parse_metrics(text):
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        m = _SAMPLE.match(line)
        assert m, f"not a sample: {line!r}"
        labels = frozenset((k, re.sub(r"\\(.)", lambda e: {"n": "\n"}.get(e.group(1), e.group(1)), v))
                           for k, v in _LABEL.findall(m.group(2) or ""))
        key = (m.group(1), labels)
        assert key not in samples, f"series twice: {line!r}"
        samples[key] = float(m.group(3))
    return samples


# ------------------------------------------------------------------------------------------------- reading HTTP/1.x


class Incomplete(Exception):
    """The bytes end before the message does."""


class Malformed(ProtocolError):
    """RFC 9112 does not allow this, or leaves it so open that two readers could differ."""


class BytesSource:
    """What a parser reads from; this one has all its bytes from the start. `doubts` names what was read although a
    stricter reader might have refused it: nothing there can move the end of a message."""

    def __init__(self, data=b""):
        self.buf, self.doubts = bytearray(data), []

    def fill(self):
        raise Incomplete

    def take(self, n):
        while len(self.buf) < n:
            self.fill()
        out = bytes(self.buf[:n])
        del self.buf[:n]
        return out

    def line(self, limit=65536):
        """Up to CRLF, which is taken off. A bare LF or CR is malformed."""
        seen = 0
        while True:
            at = self.buf.find(b"\n", seen)
            if at >= 0:
                out = bytes(self.buf[: at + 1])
                if not out.endswith(b"\r\n") or b"\r" in out[:-2]:
                    raise Malformed(f"bare CR or LF in {out[:80]!r}")
                del self.buf[: at + 1]
                return out[:-2]
            seen = len(self.buf)
            if seen > limit:
                raise Malformed(f"line over {limit} bytes")
            self.fill()


class SocketSource(BytesSource):
    """Reads from a socket. `end` says how the stream ended: 'fin' or 'reset' (None while it goes on)."""

    def __init__(self, sock):
        super().__init__()
        self.sock, self.end = sock, None

    def fill(self):
        if self.end:
            raise Incomplete
        try:
            more = self.sock.recv(65536)
        except socket.timeout:
            raise Deadline(f"nothing came in {self.sock.gettimeout()} s; so far {bytes(self.buf[:200])!r}") from None
        except (ConnectionError, OSError) as e:
            if e.errno not in (errno.ECONNRESET, errno.EPIPE, errno.EBADF, errno.ENOTCONN):
                raise
            self.end = "reset"
            raise Incomplete from None
        if not more:
            self.end = "fin"
            raise Incomplete
        self.buf += more


TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([^ ]*) ([^ ]*) (HTTP/[0-9]\.[0-9])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(.*)", re.S)
_CHUNK_EXT = re.compile(
    rb"(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb"(?:[ \t]*=[ \t]*(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*\"))?)*")


class Headers(list):
    """(name, value) in the order they came, as latin-1 text."""

    def get(self, name, default=None):
        """The value of the one field of that name; several are a ProtocolError."""
        values = self.all(name)
        if len(values) > 1:
            raise ProtocolError(f"{name} came {len(values)} times: {values}")
        return values[0] if values else default

    def all(self, name):
        return [v for n, v in self if n.lower() == name.lower()]

    def names(self):
        return [n for n, _ in self]

    def __contains__(self, name):
        return bool(self.all(name)) if isinstance(name, str) else super().__contains__(name)


def read_fields(src, limit_fields=10000):
    """Header fields up to and with the empty line."""
    fields = Headers()
    while True:
        line = src.line()
        if not line:
            return fields
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Malformed(f"bad field line {line[:80]!r}")
        value = value.strip(b" \t")
        if b"\0" in value:
            raise Malformed(f"NUL in the value of {name!r}: {value[:80]!r}")
        if re.search(rb"[\x01-\x08\x0b-\x1f\x7f]", value):
            src.doubts.append("control byte in a value")   # RFC 9110 5.5: may be kept
        fields.append((name.decode("latin-1"), value.decode("latin-1")))
        if len(fields) > limit_fields:
            raise Malformed("too many fields")


def framing_of(fields, version):
    """('none', 0), ('length', n) or ('chunked', 0) of a request; anything doubtful is malformed."""
    lengths, codings = fields.all("content-length"), fields.all("transfer-encoding")
    if codings:
        if lengths:
            raise Malformed("Content-Length with Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != "chunked":
            raise Malformed(f"Transfer-Encoding {codings}")
        if version != "1.1":
            raise Malformed("Transfer-Encoding on HTTP/1.0")
        return "chunked", 0
    if lengths:
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,19}", lengths[0]):
            raise Malformed(f"Content-Length {lengths}")
        return "length", int(lengths[0])
    return "none", 0


def chunked_pieces(src):
    """Yields the data of a chunked body piece by piece, as it comes; trailers are read and returned last."""
    while True:
        line = src.line()
        m = _CHUNK_SIZE.fullmatch(line)
        if not m or not re.fullmatch(rb"[ \t]*(?:;[^\0]*)?", m.group(2), re.S):
            raise Malformed(f"bad chunk line {line[:80]!r}")
        if not _CHUNK_EXT.fullmatch(m.group(2)):
            src.doubts.append("chunk extension")
        size = int(m.group(1), 16)
        if size == 0:
            return read_fields(src)
        while size:
            if not src.buf:
                src.fill()
            piece = src.take(min(size, len(src.buf)))
            size -= len(piece)
            yield piece
        if src.take(2) != b"\r\n":
            raise Malformed("chunk data not followed by CRLF")


def length_pieces(src, left):
    while left:
        if not src.buf:
            src.fill()
        piece = src.take(min(left, len(src.buf)))
        left -= len(piece)
        yield piece
    return Headers()


class Request:
    """One request as the strict parser read it."""

    def __init__(self, method, target, version, headers, framing, length, conn=0):
        self.method, self.target, self.version = method, target, version
        self.headers, self.framing, self.length, self.conn = headers, framing, length, conn
        self.body, self.trailers, self.complete = b"", Headers(), False
        self.started = time.monotonic()

    def __repr__(self):
        return (f"<{self.method} {self.target} {self.version} {list(self.headers)} {self.framing} body={len(self.body)} "
                f"complete={self.complete} conn={self.conn}>")

    def header(self, name, default=None):
        return self.headers.get(name, default)

    def pieces(self, src):
        return chunked_pieces(src) if self.framing == "chunked" else length_pieces(src, self.length)


def read_request_head(src, conn=0):
    """Strict: raises Malformed, or Incomplete when the bytes end first."""
    if not src.buf:
        src.fill()
    line = src.line()
    m = _REQUEST_LINE.fullmatch(line)
    if not m:
        raise Malformed(f"bad request line {line[:80]!r}")
    method, target, version = m.groups()
    if not TOKEN.fullmatch(method):
        raise Malformed(f"bad method {method[:80]!r}")
    if not target or re.search(rb"[\x00-\x20\x7f]", target):
        raise Malformed(f"bad target {target[:80]!r}")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Malformed(f"version {version!r}")
    version = version[5:].decode()
    fields = read_fields(src)
    hosts = fields.all("host")
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise Malformed(f"Host {hosts}")
    framing, length = framing_of(fields, version)
    return Request(method.decode(), target.decode("latin-1"), version, fields, framing, length, conn)


def read_request(src, conn=0):
    """Head and body."""
    req = read_request_head(src, conn)
    body = req.pieces(src)
    while True:
        try:
            req.body += next(body)
        except StopIteration as end:
            req.trailers, req.complete = end.value, True
            return req


# --------------------------------------------------------------------------------------------------- the raw caller


def request(method="GET", target="/", headers=(), body=None, *, chunked=False, version="1.1", host="weir.test"):
    """The bytes of a request. `headers` is a list of pairs or a dict; `host=None` leaves Host out. `body` is framed by
    Content-Length, or with `chunked` in one chunk (or several, when body is a list)."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    pairs = headers.items() if isinstance(headers, dict) else headers
    lines += [f"{n}: {v}" for n, v in pairs]
    data = b""
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        data = b"".join(chunk(p) for p in ([body] if isinstance(body, bytes) else body or []) if p) + LAST_CHUNK
    elif body is not None:
        lines.append(f"Content-Length: {len(body)}")
        data = body
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data, ext=b""):
    return b"%x%s\r\n%s\r\n" % (len(data), ext, data)


class Response:
    """status, headers, body; `end` is how the framing ended: 'none' (no body), 'length', 'chunked', 'close' (FIN of a
    body without length) - or 'truncated' (FIN too early) or 'reset'. `clean` is False for the last two. `interim` are the
    1xx answers before it; `rest` the bytes behind it that had already come; `trailers` what stood behind the last chunk."""

    def __init__(self, version, status, reason, headers):
        self.version, self.status, self.reason, self.headers = version, status, reason, headers
        self.body, self.end, self.interim, self.rest, self.chunks, self.trailers = b"", None, [], b"", [], Headers()

    @property
    def clean(self):
        return self.end in ("none", "length", "chunked", "close")

    def header(self, name, default=None):
        return self.headers.get(name, default)

    @property
    def weir_reason(self):
        return self.header("Weir-Reason")

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {list(self.headers)} end={self.end} body={self.body[:200]!r} rest={self.rest[:80]!r}>"


class NoResponse(ProtocolError):
    """The connection ended before any status line. `end` is 'fin' or 'reset'."""

    def __init__(self, end, sofar=b""):
        super().__init__(f"connection ended ({end}) before an answer; had {sofar[:200]!r}")
        self.end = end


class Conn:
    """A caller's connection: a socket with a deadline on every call and a buffer that survives between answers."""

    def __init__(self, where, timeout=None, rcvbuf=None, source=None):
        if isinstance(where, int):
            where = ("127.0.0.1", where)
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE if timeout is None else timeout)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            self.sock.bind(source)
        try:
            self.sock.connect(where)
        except BaseException:
            self.sock.close()
            raise
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.src = SocketSource(self.sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        """Sends all of it. An answer and a close may come before the end, so a reset is the reader's to see."""
        try:
            self.sock.sendall(data)
            return True
        except socket.timeout:
            raise Deadline("send blocked") from None
        except (BrokenPipeError, ConnectionResetError):
            return False

    def send_slowly(self, pieces, pause):
        for piece in pieces:
            if not self.send(piece):
                return False
            time.sleep(pause)
        return True

    def read_response(self, method="GET", timeout=None):
        return read_response(self, method, timeout)

    def read_head(self, timeout=None):
        """Status line and fields only; the body is yours to read (recv_body, recv_until)."""
        if timeout is not None:
            self.sock.settimeout(timeout)
        try:
            line = self.src.line()
        except Incomplete:
            raise NoResponse(self.src.end, bytes(self.src.buf)) from None
        m = _STATUS_LINE.fullmatch(line)
        if not m:
            raise ProtocolError(f"bad status line {line[:200]!r}")
        try:
            fields = read_fields(self.src)
        except Incomplete:
            raise ProtocolError(f"head broken off ({self.src.end})") from None
        return Response(m.group(1).decode(), int(m.group(2)), m.group(3).decode("latin-1"), fields)

    def recv_until(self, mark, timeout=None):
        """Bytes up to and with `mark`."""
        if timeout is not None:
            self.sock.settimeout(timeout)
        while True:
            at = self.src.buf.find(mark)
            if at >= 0:
                return self.src.take(at + len(mark))
            try:
                self.src.fill()
            except Incomplete:
                raise ProtocolError(f"ended ({self.src.end}) before {mark!r}: {bytes(self.src.buf[-200:])!r}") from None

    def recv_to_end(self, limit=1 << 30):
        """Everything until the connection ends; then (bytes, 'fin' or 'reset')."""
        while len(self.src.buf) < limit:
            try:
                self.src.fill()
            except Incomplete:
                break
        return self.src.take(len(self.src.buf)), self.src.end

    def readable(self, seconds):
        """Whether bytes or an end come within that time."""
        if self.src.buf or self.src.end:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def wait_closed(self, timeout=None):
        """Waits for the peer's end: 'fin' or 'reset'. Bytes that still come are a failure."""
        if timeout is not None:
            self.sock.settimeout(timeout)
        rest, end = self.recv_to_end()
        assert not rest, f"bytes after the end: {rest[:200]!r}"
        return end

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        reset(self.sock)

    def close(self):
        self.sock.close()


def reset(sock):
    """Closes with a RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def connect(where, timeout=None, rcvbuf=None, source=None):
    """`where`: a port of loopback, (host, port) or the path of a unix socket."""
    return Conn(where, timeout, rcvbuf, source)


def read_response(conn, method="GET", timeout=None):
    """The next final answer; strict. 1xx answers before it are kept in .interim (a 101 is final)."""
    interim = []
    while True:
        r = conn.read_head(timeout)
        if r.status == 101 or r.status >= 200:
            break
        assert "content-length" not in r.headers and "transfer-encoding" not in r.headers, f"framed 1xx: {r}"
        interim.append(r)
        if len(interim) > 100:
            raise ProtocolError("over 100 interim answers")
    r.interim = interim
    codings, length = r.headers.all("transfer-encoding"), r.headers.all("content-length")
    if codings and length or len(codings) > 1 or len(length) > 1:
        raise ProtocolError(f"ambiguous framing: {r}")
    if length and not re.fullmatch(r"[0-9]{1,19}", length[0]):
        raise ProtocolError(f"bad Content-Length: {r}")
    if codings and (codings[0].lower() != "chunked" or r.status in (101, 204)):
        raise ProtocolError(f"bad Transfer-Encoding: {r}")
    src, body = conn.src, bytearray()
    if method == "HEAD" or r.status in (101, 204, 304):
        r.end, pieces = "none", iter(())
        if r.status == 204 and length:
            raise ProtocolError(f"204 with Content-Length: {r}")
    elif codings:
        r.end, pieces = "chunked", chunked_pieces(src)
    elif length:
        r.end, pieces = "length", length_pieces(src, int(length[0]))
    else:
        r.end, pieces = "close", _pieces_to_end(src)
    try:
        while True:
            piece = next(pieces)
            body += piece
            r.chunks.append(piece)
    except StopIteration as end:
        r.trailers = end.value or Headers()
    except Incomplete:
        r.end = "reset" if src.end == "reset" else "truncated"
    r.body, r.rest = bytes(body), bytes(src.buf)
    return r


def _pieces_to_end(src):
    while True:
        try:
            if not src.buf:
                src.fill()
        except Incomplete:
            if src.end == "reset":
                raise
            return
        yield src.take(len(src.buf))


def exchange(where, raw, method=None, timeout=None):
    """One request on a connection of its own, and its answer. The method is read from `raw` where not given."""
    with connect(where, timeout) as c:
        c.send(raw)
        return c.read_response(method or raw.split(b" ", 1)[0].decode("latin-1"))


def problem(r, status, reason):
    """Asserts that `r` is weir's own answer for a plain upstream, with this status (or one of several) and reason (or
    one of several), and returns its body."""
    statuses = (status,) if isinstance(status, int) else status
    reasons = (reason,) if isinstance(reason, str) else reason
    assert r.status in statuses, f"wanted {status} {reason}: {r}"
    assert r.weir_reason in reasons, f"wanted Weir-Reason {reason}: {r}"
    assert r.clean and r.end == "length", r
    assert r.header("Content-Type", "").partition(";")[0].strip() == "application/problem+json", r
    body = r.json()
    assert {"type", "title", "status", "detail", "reason", "request_id"} <= set(body), body
    assert body["status"] == r.status and body["reason"] == r.weir_reason, (r, body)
    assert body["request_id"] and body["request_id"] == r.header("X-Correlation-ID"), (r, body)
    return body


def get(where, target="/", headers=(), **kw):
    return exchange(where, request("GET", target, headers, **kw))


def post(where, target="/", body=b"", headers=(), **kw):
    return exchange(where, request("POST", target, headers, body, **kw))


# ----------------------------------------------------------------------------------------------------- the upstream


def reply(status=200, body=b"ok", headers=(), *, reason="Whatever", length=True, version="1.1"):
    """The bytes of an answer, framed by Content-Length."""
    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    if length and not (status < 200 or status == 204):
        pairs.append(("Content-Length", len(body)))
    lines = [f"HTTP/{version} {status} {reason}"] + [f"{n}: {v}" for n, v in pairs]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked_reply(pieces, headers=(), status=200):
    return (reply(status, b"", [*headers, ("Transfer-Encoding", "chunked")], length=False)
            + b"".join(chunk(p) for p in pieces) + LAST_CHUNK)


# Actions of a script, next to bytes (sent), numbers (slept), threading.Event (waited for) and functions of the Peer.
CLOSE, RESET, HALF_CLOSE, READ_BODY, WAIT_GONE = "close", "reset", "half_close", "read_body", "wait_gone"


class Gone(Exception):
    """The connection is over; the stub's thread ends."""


class Peer:
    """One connection that the upstream accepted, as its handler sees it."""

    def __init__(self, upstream, sock, number):
        self.upstream, self.sock, self.number = upstream, sock, number
        self.src = SocketSource(sock)
        self.request = None
        self._pieces = None
        self.served = 0
        self.ended = None      # how the other side ended: fin, reset
        self.ended_at = None

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (OSError, socket.timeout) as e:
            raise Gone(f"send: {e}") from None

    def next_piece(self):
        """The next bytes of the request's body as they come; b'' at its end."""
        req = self.request
        if req.complete:
            return b""
        try:
            piece = next(self._pieces)
            req.body += piece
            self.upstream._changed()
            return piece
        except StopIteration as end:
            req.trailers, req.complete = end.value, True
            with self.upstream._lock:
                self.upstream.complete += 1
            self.upstream._changed()
            return b""

    def read_body(self):
        while self.next_piece():
            pass
        return self.request.body

    def close(self):
        self.sock.close()
        raise Gone("closed by the script")

    def reset(self):
        reset(self.sock)
        raise Gone("reset by the script")

    def half_close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def wait_gone(self, timeout=None):
        """Waits until the other side has ended the connection, dropping what it still sends: 'fin' or 'reset'."""
        self.sock.settimeout(DEADLINE if timeout is None else timeout)
        while True:
            self.src.buf.clear()
            try:
                self.src.fill()
            except Incomplete:
                self._note_end()
                return self.src.end

    def _note_end(self):
        if self.ended is None:
            self.ended, self.ended_at = self.src.end, time.monotonic()
            self.upstream._changed()

    def run(self, script):
        for action in script:
            if isinstance(action, (bytes, bytearray)):
                self.send(action)
            elif isinstance(action, (int, float)):
                self.upstream.stopping.wait(action)
            elif isinstance(action, threading.Event):
                if not action.wait(DEADLINE):
                    self.upstream.errors.append("an event of the script never came")
                    self.close()
            elif callable(action):
                action(self)
            elif action in (CLOSE, RESET, HALF_CLOSE, READ_BODY, WAIT_GONE):
                getattr(self, action)()
            else:
                raise TypeError(f"no such action: {action!r}")


class Upstream:
    """A strict server that remembers. One thread a connection.

    What it answers: `handler(peer)`, called for each request when its body is in (or, with early=True, at its head; the
    handler then reads by peer.next_piece() or read_body()); or `script`, a list of actions for each request; or
    `scripts`, a list of such lists, the n-th request takes the n-th, the last one repeats. Default: 200 `ok`.
    A handler may return bytes to send. `on_connect(peer)` sees a connection before anything is read.
    `listen=False`: the port refuses. `unix=True` (or a path): a unix socket.

    heads: request heads seen; complete: whole requests; requests: all of them in order; connections: accepted so far;
    errors: whatever broke the strict rules (a fixture fails the test on them unless `lenient`).
    """

    def __init__(self, handler=None, *, script=None, scripts=None, early=False, on_connect=None, unix=None, rcvbuf=None,
                 sndbuf=None, backlog=1024, lenient=False, host="127.0.0.1"):
        self._handler, self._early, self._on_connect, self.lenient = handler, early, on_connect, lenient
        self._scripts = scripts if scripts is not None else [script] if script is not None else None
        self._lock = threading.RLock()
        self._cond = threading.Condition(self._lock)
        self.stopping = threading.Event()
        self._sndbuf = sndbuf
        self._tmp = None
        if unix:
            if unix is True:
                self._tmp = tempfile.mkdtemp(prefix="weir-up-")
                unix = self._tmp + "/s"
            self.path, self.port, self.url = unix, None, f"unix://{unix}"
            self._listener = socket.socket(socket.AF_UNIX)
            if rcvbuf:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            self._listener.bind(unix)
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if rcvbuf:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            self._listener.bind((host, 0))
            self.port = self._listener.getsockname()[1]
            _ports_given.add(self.port)
            self.path, self.url = None, f"http://{'[%s]' % host if ':' in host else host}:{self.port}"
        self._listener.listen(backlog)
        self.peers = []
        self.clear()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def clear(self):
        """Forgets what was seen (connections that are open stay so)."""
        with self._lock:
            self.requests, self.errors = [], []
            self.heads = self.complete = self.connections = self._served = 0
            self.peers = [p for p in self.peers if p.ended is None]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        self._thread.join(5)
        if self._tmp:
            shutil.rmtree(self._tmp, ignore_errors=True)

    def drop_connections(self):
        """Closes every connection that is open now."""
        with self._lock:
            peers = list(self.peers)
        for p in peers:
            with contextlib.suppress(OSError):
                p.sock.shutdown(socket.SHUT_RDWR)

    def _changed(self):
        with self._cond:
            self._cond.notify_all()

    def wait(self, ask, what="the upstream", timeout=None):
        """Waits until ask(self) is true, and returns it."""
        end = time.monotonic() + (DEADLINE if timeout is None else timeout)
        with self._cond:
            while True:
                answer = ask(self)
                if answer:
                    return answer
                left = end - time.monotonic()
                if left <= 0:
                    raise Deadline(f"{what}: not in time; heads {self.heads}, complete {self.complete}, "
                                   f"connections {self.connections}, errors {self.errors}")
                self._cond.wait(left)

    def wait_heads(self, n=1, timeout=None):
        return self.wait(lambda u: u.heads >= n, f"{n} heads", timeout)

    def wait_complete(self, n=1, timeout=None):
        return self.wait(lambda u: u.complete >= n, f"{n} complete requests", timeout)

    def wait_gone(self, n=1, timeout=None):
        """Waits until n connections were ended by the other side."""
        return self.wait(lambda u: sum(p.ended is not None for p in u.peers) >= n, f"{n} connections ended", timeout)

    @property
    def open_connections(self):
        with self._lock:
            return sum(p.ended is None for p in self.peers)

    def _accept(self):
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(max(DEADLINE, 60))
            if self._sndbuf:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._sndbuf)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                peer = Peer(self, sock, self.connections)
                self.peers.append(peer)
            self._changed()
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        try:
            if self._on_connect:
                self._on_connect(peer)
            while self._serve_one(peer):
                pass
        except (Incomplete, Gone):
            pass
        except Malformed as e:
            self.errors.append(f"connection {peer.number}: {e}")
            with contextlib.suppress(OSError):
                peer.sock.sendall(reply(400, b"stub: " + str(e).encode()[:200], [("Connection", "close")]))
        except Deadline as e:
            if not self.stopping.is_set():
                self.errors.append(f"connection {peer.number}: {e}")
        except Exception as e:  # a broken handler must show
            if not self.stopping.is_set():
                self.errors.append(f"connection {peer.number}: handler raised {e!r}")
        finally:
            if peer.ended is None:
                peer.ended, peer.ended_at = peer.src.end or "by us", time.monotonic()
            peer.sock.close()
            self._changed()

    def _serve_one(self, peer):
        peer.request = None
        req = read_request_head(peer.src, peer.number)
        with self._lock:
            self.heads += 1
            self.requests.append(req)
            turn = self._served
            self._served += 1
        peer.request, peer._pieces = req, req.pieces(peer.src)
        peer.served += 1
        self._changed()
        if not self._early:
            peer.read_body()
        if self._scripts is not None:
            peer.run(self._scripts[min(turn, len(self._scripts) - 1)])
        elif self._handler:
            answer = self._handler(peer)
            if isinstance(answer, (bytes, bytearray)):
                peer.send(answer)
        else:
            peer.send(reply(200, b"" if req.method == "HEAD" else b"ok"))
        if not req.complete:
            peer.read_body()
        return (req.header("connection") or "").lower() != "close"


class Refuser:
    """A port on loopback that refuses connections for as long as this lives: bound, never listening."""

    def __init__(self):
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        _ports_given.add(self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._sock.close()


class Blackhole:
    """A port on loopback where a connect neither succeeds nor fails: its backlog is full."""

    def __init__(self):
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(0)
        self.port = self._sock.getsockname()[1]
        self._fillers = []
        for _ in range(8):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(s)
        time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for s in (*self._fillers, self._sock):
            s.close()
