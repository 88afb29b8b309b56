"""What attacks weir's memory: an origin that answers as its path says, and callers by the thousand.

Both are one epoll loop; the origin is a process of its own.
"""
import contextlib
import errno
import multiprocessing
import os
import re
import select
import socket
import time

FILL = b"x" * 65536
EVENT = b"data: " + b"y" * 1010 + b"\n\n"
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


def small_buffers(sock):
    """So that little of an answer is anywhere but in weir."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


# ----------------------------------------------------------------------------------------------------------- the origin
#
#   /size/N   an answer of N bytes            /head/N   one whose head has N bytes more
#   /events   SSE without end                 /hold     no answer at all       anything else: 200 `ok`
#   /sink/N   reads N bytes of the body as fast as they come, and then no more


class _Peer:
    def __init__(self, sock):
        self.sock, self.inbox, self.body_left, self.chunked, self.path = sock, b"", 0, False, None
        self.out, self.left, self.forever = b"", 0, False
        self.deaf_after = None  # bytes

    def take(self, data):
        """Reads requests one after the other; True when one is whole."""
        self.inbox += data
        if self.path is None:
            end = self.inbox.find(b"\r\n\r\n")
            if end < 0:
                return False
            head, self.inbox = self.inbox[:end].lower(), self.inbox[end + 4:]
            self.path = head.split(b" ", 2)[1]
            length = re.search(rb"\r\ncontent-length: *(\d+)", head)
            if self.path.startswith(b"/sink/"):
                self.deaf_after = int(self.path.split(b"/")[2])
            self.body_left = int(length.group(1)) if length else 0
            self.chunked = b"\r\ntransfer-encoding:" in head
        if self.chunked:
            if not self.inbox.endswith(b"0\r\n\r\n"):
                self.inbox = self.inbox[-5:]
                return False
            self.inbox = b""
            return True
        taken = min(self.body_left, len(self.inbox))
        self.body_left -= taken
        self.inbox = self.inbox[taken:]
        return self.body_left == 0

    def answer(self):
        path, self.path = self.path, None
        if path.startswith(b"/size/"):
            size = int(path.split(b"/")[2])
            self.out, self.left = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, size
        elif path.startswith(b"/head/"):
            more = b"".join(b"x-%d: %s\r\n" % (n, b"h" * 1000) for n in range(int(path.split(b"/")[2]) // 1008))
            self.out = b"HTTP/1.1 200 OK\r\n%sContent-Length: 2\r\n\r\nok" % more
        elif path.startswith(b"/events"):
            self.out = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.forever = True
        elif not path.startswith(b"/hold"):
            self.out = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def push(self):
        """Sends what goes; True when nothing is left."""
        while True:
            if not self.out:
                if self.left:
                    self.out = FILL[:self.left]
                    self.left -= len(self.out)
                elif self.forever:
                    self.out = CHUNK * 32
                else:
                    return True
            try:
                self.out = self.out[self.sock.send(self.out):]
            except BlockingIOError:
                return False


def _serve(listener):
    listener.setblocking(False)
    poll, peers = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)

    def drop(fd):
        poll.unregister(fd)
        peers.pop(fd).sock.close()

    while True:
        for fd, events in poll.poll():
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        peers[sock.fileno()] = _Peer(sock)
                        poll.register(sock, select.EPOLLIN)
                continue
            peer = peers[fd]
            try:
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    data = peer.sock.recv(1 << 18)
                    if not data:
                        drop(fd)
                        continue
                    if peer.deaf_after is not None:
                        peer.deaf_after -= len(data)
                        if peer.deaf_after < 0:
                            poll.modify(fd, 0)
                            continue
                    if peer.take(data):
                        peer.answer()
                done = peer.push()
                poll.modify(fd, select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT)
            except BlockingIOError:
                pass
            except OSError:
                drop(fd)


class Origin:
    def __enter__(self):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
        self.process.start()
        listener.close()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join(10)


# ---------------------------------------------------------------------------------------------------------- the callers


class Swarm:
    """Callers on connections of their own, which stay until the block ends.

    send(count, make): `count` more callers; what make(n) gives is sent by the n-th as fast as weir takes it. They read
    answers only when `reads` is true, and then count them in `statuses`.
    """

    def __init__(self, port):
        self.port, self.poll, self.callers = port, select.epoll(), {}
        self.statuses, self.hung_up = {}, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock, *_ in self.callers.values():
            sock.close()
        self.poll.close()

    def send(self, count, make, reads=True):
        for n in range(count):
            sock = socket.socket()
            if not reads:
                small_buffers(sock)
            sock.setblocking(False)
            error = sock.connect_ex(("127.0.0.1", self.port))
            assert error in (0, errno.EINPROGRESS), os.strerror(error)
            self.callers[sock.fileno()] = [sock, memoryview(make(n)), reads]
            self.poll.register(sock, select.EPOLLOUT | (select.EPOLLIN if reads else 0))
            if n % 256 == 255:
                self.run(0)

    def stop_reading(self):
        for fd, caller in self.callers.items():
            caller[2] = False
            self.poll.modify(fd, select.EPOLLOUT if len(caller[1]) else 0)

    def run(self, seconds, until=lambda: False):
        """Lets them send and read for so long, or until `until()`, or until nobody is left."""
        end = time.monotonic() + seconds
        while self.callers and not until():
            left = end - time.monotonic()
            events = self.poll.poll(max(0, min(left, 0.05)), 1024)
            for fd, what in events:
                self._turn(fd, what)
            if left <= 0:
                return

    def _turn(self, fd, what):
        caller = self.callers[fd]
        sock, data, reads = caller
        try:
            if what & select.EPOLLOUT and len(data):
                caller[1] = data[sock.send(data[:1 << 18]):]
            if reads and what & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(sock)
            elif what & (select.EPOLLHUP | select.EPOLLERR):
                raise ConnectionResetError
            wants = (select.EPOLLOUT if len(caller[1]) else 0) | (select.EPOLLIN if reads else 0)
            self.poll.modify(fd, wants)
        except BlockingIOError:
            pass
        except OSError:
            self.hung_up += 1
            self.poll.unregister(fd)
            self.callers.pop(fd)[0].close()

    def _read(self, sock):
        data = sock.recv(1 << 18)
        if not data:
            raise ConnectionResetError
        for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data):
            self.statuses[int(status)] = self.statuses.get(int(status), 0) + 1
