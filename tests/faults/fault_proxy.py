"""A TCP proxy between weir and a good upstream, which fails on purpose: at a byte, by a mode, or all the time.

    p = FaultProxy(up.port)                   # p.url for the configuration
    p.arm(Fault("down", 17, "rst"))           # once: the next connection that carries 17 bytes of an answer is reset there
    p.mode = "mute"                           # from now on requests are read and never answered
    p.refuse() / p.accept()                   # the port refuses / takes connections again
    p.piece, p.delay, p.rate, p.corrupt       # how bytes are carried; the last two: those of answers

"up" is the way of the request, "down" that of the answer. It counts `connections`, `requests` (heads it saw) and `fired`
faults; with `record` it keeps every byte that weir sent, in `wire`.
"""
import contextlib
import dataclasses
import select
import socket
import threading
import time

import harness

MODES = ("pass", "mute", "rst", "fin")
HEAD_END = b"\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens at byte `at` of a way, counted from when the fault was armed or the connection opened.

    act     fin: its end, politely; rst; stall: nothing more, the connection stays; bytes: these instead, then fin
    pause   seconds between the bytes ahead and the act, so that the two are not read together
    once    only the first connection that gets there
    """
    way: str
    at: int
    act: object
    pause: float = 0
    once: bool = True


class _Ended(Exception):
    pass


class _Pair:
    """One connection of weir's and the one behind it."""

    def __init__(self, proxy, near):
        self.proxy, self.near, self.far = proxy, near, None
        self.passed, self.armed = {"up": 0, "down": 0}, proxy._armed
        self.open = {"up": True, "down": True}   # may still carry bytes
        self.tail = b""                           # the last bytes of the request way, for counting heads

    def run(self):
        try:
            if self.proxy.mode == "pass" or isinstance(self.proxy.mode, bytes):
                self._reach_upstream()
            while any(self.open.values()):
                self._turn()
        except (_Ended, OSError):
            pass
        finally:
            self.close()

    def _reach_upstream(self):
        self.far = socket.create_connection(self.proxy.target, timeout=harness.DEADLINE)
        self.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        for s in (self.near, self.far):
            if s is not None:
                s.close()

    def _turn(self):
        poll, ways = select.poll(), {}
        for way, s in (("up", self.near), ("down", self.far)):
            if s is not None:
                poll.register(s, (select.POLLIN if self.open[way] else 0) | select.POLLRDHUP)
                ways[s.fileno()] = way
        for fd, events in poll.poll(200):
            way = ways[fd]
            if self.open[way]:
                self._read(way)
            elif events & (select.POLLHUP | select.POLLERR | select.POLLRDHUP) and way == "up":
                raise _Ended  # weir has left a way that stalls
        if self.proxy.stopping.is_set():
            raise _Ended

    def _read(self, way):
        source, sink = (self.near, self.far) if way == "up" else (self.far, self.near)
        try:
            data = source.recv(65536)
        except ConnectionError:
            for s in (self.near, self.far):
                if s is not None and s is not source:
                    harness.reset(s)
            raise _Ended from None
        if not data:
            self.open[way] = False
            if way == "up" or sink is None:
                raise _Ended
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
            return
        heads = self._count(data) if way == "up" else 0
        if self.proxy.mode != "pass":
            self._by_mode(way, heads)
            return
        if self.far is None:
            self._reach_upstream()
            sink = self.far if way == "up" else self.near
        self._carry(way, data, sink)

    def _count(self, data):
        seen = self.tail + data
        heads, self.tail = seen.count(HEAD_END), seen[-3:]
        if heads and seen.endswith(HEAD_END):
            self.tail = b""
        with self.proxy.lock:
            self.proxy.requests += heads
            if self.proxy.record:
                self.proxy.wire += data
        return heads

    def _by_mode(self, way, heads):
        mode = self.proxy.mode
        if mode == "mute" or way == "up" and not heads:
            return
        if mode == "rst":
            self._act("rst")
        self._act(mode if isinstance(mode, bytes) and way == "up" else "fin")

    def _carry(self, way, data, sink):
        fault, at = self._fault_within(way, data)
        if fault is None:
            self._send(way, data, sink)
            return
        self._send(way, data[:at], sink)
        self.proxy._fire(fault)
        if fault.pause:
            time.sleep(fault.pause)
        self._act(fault.act, way)

    def _fault_within(self, way, data):
        """The fault that is met in these bytes, and where in them."""
        with self.proxy.lock:
            fault = self.proxy.fault
            if self.armed != self.proxy._armed:
                self.armed, self.passed = self.proxy._armed, {"up": 0, "down": 0}
            if fault is None or fault.way != way or self.passed[way] + len(data) < fault.at:
                return None, 0
            if fault.once:
                self.proxy.fault = None
            return fault, fault.at - self.passed[way]

    def _send(self, way, data, sink):
        p = self.proxy
        if way == "down" and p.corrupt:
            data = bytes(b ^ p.corrupt.get(self.passed[way] + i, 0) for i, b in enumerate(data))
        self.passed[way] += len(data)
        if p.delay:
            time.sleep(p.delay)
        rate = p.rate if way == "down" else 0
        size = p.piece or (max(1, rate // 20) if rate else len(data) or 1)
        for at in range(0, len(data), size):
            piece = data[at:at + size]
            sink.sendall(piece)
            if rate:
                p.stopping.wait(len(piece) / rate)

    def _act(self, act, way="down"):
        if act == "stall":
            self.open[way] = False
            return
        if isinstance(act, bytes):
            self.near.sendall(act)
        if act == "rst":
            harness.reset(self.near)
        else:
            with contextlib.suppress(OSError):
                self.near.shutdown(socket.SHUT_WR)
            self._drain()
        raise _Ended

    def _drain(self):
        """Until weir has gone too: closing on bytes that nobody read would be a RST."""
        end = time.monotonic() + harness.DEADLINE
        self.near.settimeout(0.2)
        while time.monotonic() < end and not self.proxy.stopping.is_set():
            try:
                if not (data := self.near.recv(65536)):
                    return
                self._count(data)
            except socket.timeout:
                pass
            except OSError:
                return


class FaultProxy:
    def __init__(self, port, host="127.0.0.1", record=False):
        self.target, self.record = (host, port), record
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.mode, self.fault, self._armed, self.fired = "pass", None, 0, 0
        self.piece = self.delay = self.rate = 0
        self.corrupt = {}                         # {offset of the answer: xor}
        self.connections = self.requests = 0
        self.wire = bytearray()
        self._pairs = set()
        self._listener = self._bound(harness.free_port())
        self.port = self._listener.getsockname()[1]
        harness._ports_given.add(self.port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.refusing = True
        self.accept()

    @staticmethod
    def _bound(port):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        return s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    # what it does

    def arm(self, fault):
        """Counts the bytes of every connection anew."""
        with self.lock:
            self.fault, self._armed = fault, self._armed + 1

    def disarm(self):
        self.arm(None)

    def _fire(self, fault):
        with self.lock:
            self.fired += 1

    def refuse(self):
        """The port is nobody's from now on; connections there are go on."""
        if not self.refusing:
            self.refusing = True
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = self._bound(self.port)

    def accept(self):
        if self.refusing:
            self.refusing = False
            self._listener.listen(1024)
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def drop(self):
        """Ends every connection there is."""
        with self.lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for s in (pair.near, pair.far):
                if s is not None:
                    with contextlib.suppress(OSError):
                        s.shutdown(socket.SHUT_RDWR)

    @property
    def open_connections(self):
        with self.lock:
            return len(self._pairs)

    def _serve(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
            if self.mode == "rst at once":
                harness.reset(near)
                continue
            pair = _Pair(self, near)
            with self.lock:
                self._pairs.add(pair)
            threading.Thread(target=self._run, args=(pair,), daemon=True).start()

    def _run(self, pair):
        try:
            pair.run()
        finally:
            with self.lock:
                self._pairs.discard(pair)
