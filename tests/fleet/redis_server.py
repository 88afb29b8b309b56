"""A redis-server to test with, and what talks to it: RESP2 in a few lines, several commands at once. Standard library only.

    with RedisServer(password="secret") as server, server.connect() as redis:
        redis("SET", "a", 1)                                  # one command
        redis.pipeline([("GET", "a"), ("GET", "b")])          # errors stand in the list
        run_script(redis, "decide", ["key"], [1, "b", ...])

It has a port of its own below those that the system gives out, writes nothing but into its temporary folder, and ends with
the block.
"""
import functools
import hashlib
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile

HTTP = pathlib.Path(__file__).resolve().parents[1] / "http"
if str(HTTP) not in sys.path:
    sys.path.insert(0, str(HTTP))

from harness import DEADLINE, free_port, wait_until  # noqa: E402  (where it is)

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "filters" / "redis"


class RedisError(Exception):
    """What Redis answered with a minus."""


def _bytes(word):
    return word if isinstance(word, bytes) else str(word).encode()


def command(words):
    """The bytes of one command."""
    words = [_bytes(w) for w in words]
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)])


class Redis:
    """A connection. `send` and `read` are its two halves."""

    def __init__(self, sock):
        self.sock, self.file = sock, sock.makefile("rb", 1 << 16)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.sock.close()

    def __call__(self, *words):
        answer = self.pipeline([words])[0]
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def pipeline(self, commands):
        return self.raw(b"".join(map(command, commands)), len(commands))

    def raw(self, data, answers=1):
        """Sends these bytes as they are, and reads so many answers."""
        self.sock.sendall(data)
        return [self.read() for _ in range(answers)]

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the answer ends: {line!r}")
        mark, rest = line[:1], line[1:-2]
        if mark == b"+":
            return rest.decode()
        if mark == b"-":
            return RedisError(rest.decode())
        if mark == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if mark == b"*":
            return [self.read() for _ in range(size)]
        assert mark == b"$", line
        return self.file.read(size + 2)[:-2]


class RedisServer:
    """`unix`: on a socket, `path`, too. `tls`: (ca, cert, key), the port speaks it. `cluster`, `sentinel` (the text of its file): as one of
    these. `options`: more of its settings, underscores for dashes. Starts at once."""

    def __init__(self, *, port=None, password=None, unix=False, tls=None, cluster=False, sentinel=None, **options):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="weir-redis-"))
        self.port, self.password, self.tls, self.process = port or free_port(), password, tls, None
        self.path = str(self.dir / "redis.sock") if unix else None
        settings = {"bind": "127.0.0.1", "port": 0 if tls else self.port, "dir": self.dir}
        if not sentinel:
            settings.update({"save": '""', "appendonly": "no"})
        if password:
            settings["requirepass"] = password
        if unix:
            settings["unixsocket"] = self.path
        if tls:
            settings.update({"tls-port": self.port, "tls-ca-cert-file": tls[0], "tls-cert-file": tls[1], "tls-key-file": tls[2],
                             "tls-auth-clients": "no"})
        if cluster:
            bus = free_port()
            settings.update({"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-port": bus})
        settings.update({name.replace("_", "-"): value for name, value in options.items()})
        self.conf = self.dir / "redis.conf"
        self.conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()) + (sentinel or ""))
        self.arguments = ["redis-server", str(self.conf)] + (["--sentinel"] if sentinel else [])
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, "redis")

    def _answers(self):
        assert self.process.poll() is None, (self.dir / "log").read_text()[-2000:]
        try:
            with self.connect() as redis:
                return redis("PING") == "PONG"
        except (OSError, RedisError):
            return False

    def connect(self, unix=False):
        if unix:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE)
            sock.connect(self.path)
        else:
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls and not unix:
            sock = ssl.create_default_context(cafile=self.tls[0]).wrap_socket(sock, server_hostname="127.0.0.1")
        redis = Redis(sock)
        if self.password:
            redis("AUTH", self.password)
        return redis

    def log(self):
        return (self.dir / "log").read_text()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """At once, whatever it was at."""
        self._end(signal.SIGKILL)

    def stop(self):
        """As one does; SIGKILL for one that is paused."""
        self._end(signal.SIGTERM)

    def _end(self, number):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self):
        """On the same port, empty."""
        self.kill()
        self.start()

    def close(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


@functools.cache
def script(name):
    text = (SCRIPTS / f"{name}.lua").read_text()
    return re.sub(r"(?m)^--@ (\w+)\n", lambda m: (SCRIPTS / f"{m.group(1)}.lua").read_text(), text)


def run_script(redis, name, keys, args=()):
    """As weir does: by its SHA-1, and with its text where that is not known."""
    sha = hashlib.sha1(script(name).encode()).hexdigest()
    rest = [len(keys), *keys, *args]
    answer = redis.pipeline([["EVALSHA", sha, *rest]])[0]
    if isinstance(answer, RedisError) and str(answer).startswith("NOSCRIPT"):
        return redis("EVAL", script(name), *rest)
    if isinstance(answer, RedisError):
        raise answer
    return answer
