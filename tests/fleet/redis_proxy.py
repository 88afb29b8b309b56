"""What stands between weir and a redis, reads both ways as RESP, and fails on purpose.

    p = RedisProxy(server.port)             # p.address for store.redis.addresses
    p.answer(b"-OOM ...\\r\\n")               # every script is answered so, until p.heal(); 1 as second argument: once
    p.once("cut")                           # the reply to the next script is lost: executed, then the connection is reset
    p.hole("both"), p.hole("down")          # nothing passes (only replies are kept back) until p.heal(), then all of it, late
    p.delay = 1                             # each reply so long after its command
    p.refuse() / p.accept(), p.drop()       # the port; every connection there is

Faults meet scripts (EVAL, EVALSHA) only, or with `which` what that says of a command. `commands` keeps what weir asked.
"""
import collections
import contextlib
import dataclasses
import socket
import threading
import time

import harness
from redis_server import RedisError, command

# What happens in place of a reply: the words, or bytes that are sent instead.
ACTS = ("cut", "cut before", "cut after", "fin", "half", "extra", "twice", "swap", "none")


PING = command(["PING"])


class Reader:
    """RESP from a socket, value by value, with its bytes."""

    def __init__(self, sock):
        self.sock, self.buf, self.at = sock, bytearray(), 0

    def _more(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.buf += data

    def _line(self):
        while (end := self.buf.find(b"\r\n", self.at)) < 0:
            self._more()
        line = bytes(self.buf[self.at:end])
        self.at = end + 2
        return line

    def _value(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            length = int(rest)
            if length < 0:
                return None
            while len(self.buf) < self.at + length + 2:
                self._more()
            value = bytes(self.buf[self.at:self.at + length])
            self.at += length + 2
            return value
        if kind in b"*~>":
            return None if int(rest) < 0 else [self._value() for _ in range(int(rest))]
        if kind == b"%":
            return [self._value() for _ in range(2 * int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return RedisError(rest.decode())
        return rest

    def next(self):
        """(value, bytes)"""
        self.at = 0
        value = self._value()
        raw = bytes(self.buf[:self.at])
        del self.buf[:self.at]
        return value, raw


@dataclasses.dataclass
class Command:
    words: list
    conn: int
    at: float
    act: object = None

    @property
    def name(self):
        return self.words[0].upper().decode("latin-1")

    @property
    def is_script(self):
        return self.name in ("EVAL", "EVALSHA")

    @property
    def keys(self):
        return self.words[3:3 + int(self.words[2])] if self.is_script else []

    @property
    def args(self):
        return self.words[3 + int(self.words[2]):] if self.is_script else self.words[1:]

    def is_of(self, mark):
        """Whether a key has this in its name: `:l:` a limit, `:d:` a claim, `{fleet}` the fleet's own."""
        return any(mark.encode() in k for k in self.keys)


def scripts(command):
    return command.is_script


def everything(_):
    return True


def limits(command):
    return command.is_of("}:l:")


def claims(command):
    return command.is_of("}:d:")


class _Gone(Exception):
    pass


class _Pair:
    def __init__(self, proxy, near, number):
        self.proxy, self.near, self.number = proxy, near, number
        self.far = socket.socket(socket.AF_INET if isinstance(proxy.target, tuple) else socket.AF_UNIX)
        self.waiting = collections.deque()      # commands whose reply is to come
        self.kept = None                        # a reply that is to be swapped with the next

    def run(self):
        try:
            self._connect()
            threading.Thread(target=self._downs, daemon=True).start()
            reader = Reader(self.near)
            while True:
                words, raw = reader.next()
                self._up(words, raw)
        except (_Gone, EOFError, OSError, ValueError, TypeError):
            pass
        finally:
            self.close()

    def _connect(self):
        self.proxy.wait_open("both", self)
        self.far.settimeout(harness.DEADLINE)
        self.far.connect(self.proxy.target)
        self.far.settimeout(None)
        if self.far.family != socket.AF_UNIX:
            self.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _up(self, words, raw):
        asked = Command(words, self.number, time.monotonic())
        p = self.proxy
        with p.lock:
            p.commands.append(asked)
            asked.act = p._act_for(asked)
        if asked.act == "cut before":
            p.count_fired()
            self.close(True)
            raise _Gone
        p.wait_open("both", self)
        self.waiting.append(asked)
        self.far.sendall(raw if asked.act is None or p.executes else PING)

    def _downs(self):
        try:
            reader = Reader(self.far)
            while True:
                _, raw = reader.next()
                self._down(self.waiting.popleft(), raw)
        except (_Gone, EOFError, OSError, ValueError, IndexError):
            pass
        finally:
            self.close()

    def _down(self, command, raw):
        p = self.proxy
        if p.delay:
            p.stopping.wait(max(0, command.at + p.delay - time.monotonic()))
        p.wait_open("both", self)
        p.wait_open("down", self)
        act = command.act
        if act is not None:
            p.count_fired()
        if act is None:
            self._send(raw)
        elif isinstance(act, bytes):
            self._send(act)
        elif act in ("cut", "fin"):
            self.close(act == "cut")
            raise _Gone
        elif act == "cut after":
            self._send(raw)
            self.close(True)
            raise _Gone
        elif act == "half":
            self._send(raw[:max(1, len(raw) // 2)])
            time.sleep(0.01)
            self.close(False)
            raise _Gone
        elif act == "extra":
            self._send(b":1\r\n" + raw)
        elif act == "twice":
            self._send(raw + raw)
        elif act == "swap":
            self.kept = raw
        elif act != "none":
            raise AssertionError(act)

    def _send(self, raw):
        if self.kept is not None:
            raw, self.kept = raw + self.kept, None
        self.near.sendall(raw)

    def close(self, hard=False):
        with contextlib.suppress(OSError):
            if hard:
                # another thread may sit in recv: shut that way first, so that closing is a reset
                self.near.shutdown(socket.SHUT_RD)
                harness.reset(self.near)
        for s in (self.near, self.far):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                s.close()


class RedisProxy:
    def __init__(self, target):
        self.target = target if isinstance(target, (str, tuple)) else ("127.0.0.1", target)
        self.lock, self.stopping, self._opened = threading.Lock(), threading.Event(), threading.Condition()
        self.delay, self._holes = 0, set()
        self.executes = True                    # what has another reply is executed all the same
        self.rules = []                         # [act, times left or None, which]
        self.commands, self.fired, self.connections = [], 0, 0
        self._pairs, self.refusing = set(), True
        self.port = harness.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._listener = self._bound()
        self.accept()

    def _bound(self):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", self.port))
        return s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stopping.set()
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    # what it does

    def answer(self, act, times=None, which=scripts):
        """In place of the reply to each command of that kind: `act`, bytes or one of ACTS. What is answered with an error is not
        executed."""
        assert isinstance(act, bytes) or act in ACTS, act
        self.executes = act[:1] != b"-"
        with self.lock:
            self.rules.append([act, times, which])

    def once(self, act, which=scripts):
        self.answer(act, 1, which)

    def hole(self, which="both"):
        with self._opened:
            self._holes.add(which)

    def heal(self):
        self.delay, self.executes = 0, True
        with self.lock:
            self.rules.clear()
        with self._opened:
            self._holes.clear()
            self._opened.notify_all()

    def refuse(self):
        if not self.refusing:
            self.refusing = True
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = self._bound()

    def accept(self):
        if self.refusing:
            self.refusing = False
            self._listener.listen(128)
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def drop(self, hard=False):
        """Ends every connection there is."""
        with self.lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.close(hard)

    def send(self, raw):
        """Bytes that nobody asked for, on every connection."""
        with self.lock:
            pairs = list(self._pairs)
        for pair in pairs:
            with contextlib.suppress(OSError):
                pair.near.sendall(raw)

    # what can be seen

    def seen(self, which=scripts):
        with self.lock:
            return [c for c in self.commands if which(c)]

    def forget(self):
        with self.lock:
            self.commands = []

    @property
    def open_connections(self):
        with self.lock:
            return len(self._pairs)

    # inside

    def wait_open(self, which, pair):
        if which not in self._holes:
            return
        with self._opened:
            while which in self._holes:
                self._opened.wait(1)
        if pair.near.fileno() < 0:
            raise _Gone

    def count_fired(self):
        with self.lock:
            self.fired += 1

    def _act_for(self, command):
        for rule in self.rules:
            if rule[1] != 0 and rule[2](command):
                if rule[1] is not None:
                    rule[1] -= 1
                return rule[0]
        return None

    def _serve(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
                pair = _Pair(self, near, self.connections)
                self._pairs.add(pair)
            threading.Thread(target=self._run, args=(pair,), daemon=True).start()

    def _run(self, pair):
        try:
            pair.run()
        finally:
            with self.lock:
                self._pairs.discard(pair)
