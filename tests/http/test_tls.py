"""TLS toward upstreams and toward callers: who is believed, what a failed check leaves unsaid, where an answer ends."""
import contextlib
import os
import random
import socket
import ssl
import subprocess
import threading
import time

import pytest

import harness
from certificates import Authority, Handshakes, client_context, self_signed, server_context
from harness import base_config, chunk, chunked_reply, exchange, get, merge, post, problem, reply, request, wait_until
from support import ConfigMap, in_parallel

SECRET = ("Authorization", "Bearer sk-secret")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ca(folder):
    return Authority(folder)


@pytest.fixture(scope="module")
def other_ca(folder):
    return Authority(folder, "another authority")


@pytest.fixture(scope="module")
def good(ca):
    return ca.issue("localhost", ["DNS:localhost", "IP:127.0.0.1"])


@pytest.fixture(scope="module")
def client(ca):
    return ca.issue("weir")


def https(up, host="127.0.0.1"):
    return f"https://{host}:{up.port}"


def trusting(ca, **more):
    return {"tls": {"ca": ca.file, **more}}


class TlsConn(harness.Conn):
    """A caller that speaks TLS. Keeps `end`: 'fin' only after close_notify."""

    def __init__(self, where, context, name="localhost", **kw):
        super().__init__(where, **kw)
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname=name, suppress_ragged_eofs=False)
        except BaseException:
            self.sock.close()
            raise
        self.src = TlsSource(self.sock)


class TlsSource(harness.SocketSource):
    def fill(self):
        try:
            super().fill()
        except ssl.SSLEOFError:
            self.end = "reset"
            raise harness.Incomplete from None


@pytest.fixture
def call():
    """call(w, context) -> a TlsConn, closed when the test ends."""
    conns = []

    def one(where, context, **kw):
        conns.append(TlsConn(where, context, **kw))
        return conns[-1]
    yield one
    for c in conns:
        c.close()


# -- toward upstreams: what is believed ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_name_that_the_certificate_has(start_upstream, start_weir, ca, good, version):
    tls = Handshakes(server_context(good, maximum=version))
    up = start_upstream(on_connect=tls)
    w = start_weir(base_config(https(up, "localhost"), agent=trusting(ca), server={"workers": 1}))
    for n in range(5):
        r = get(w.port, f"/{n}")
        assert (r.status, r.body) == (200, b"ok")
    assert up.connections == 1
    assert tls.names == ["localhost"]
    assert tls.done[0].selected_alpn_protocol() == "http/1.1"
    assert up.requests[0].header("Host") == f"localhost:{up.port}"


def test_an_address_that_the_certificate_has(start_upstream, start_weir, ca, good):
    tls = Handshakes(server_context(good))
    up = start_upstream(on_connect=tls)
    assert get(start_weir(base_config(https(up), agent=trusting(ca))).port).body == b"ok"
    assert tls.names == [None], "an address is no name (RFC 6066, 3)"


def test_a_name_of_its_own(start_upstream, start_weir, ca):
    tls = Handshakes(server_context(ca.issue("any", ["DNS:api.test"])))
    up = start_upstream(on_connect=tls)
    assert get(start_weir(base_config(https(up), agent=trusting(ca, server_name="api.test"))).port).body == b"ok"
    assert tls.names == ["api.test"]


def test_a_wildcard_and_an_intermediate_authority(start_upstream, start_weir, ca, folder):
    between = Authority(folder, "between", parent=ca)
    up = start_upstream(on_connect=Handshakes(server_context(between.issue("any", ["DNS:*.api.test"]))))
    assert get(start_weir(base_config(https(up), agent=trusting(ca, server_name="eu.api.test"))).port).body == b"ok"


def test_an_intermediate_authority_may_be_all_that_is_believed(start_upstream, start_weir, ca, folder):
    between = Authority(folder, "between", parent=ca)
    up = start_upstream(on_connect=Handshakes(server_context(between.issue("any", ["IP:127.0.0.1"]))))
    assert get(start_weir(base_config(https(up), agent=trusting(between))).port).body == b"ok"


def make(kind, ca, other_ca, folder):
    """A certificate with one thing wrong with it, for 127.0.0.1."""
    if kind == "expired":
        return ca.issue("localhost", ["IP:127.0.0.1"], expired=True)
    if kind == "wrong name":
        return ca.issue("localhost", ["DNS:elsewhere.test"])
    if kind == "wrong address":
        return ca.issue("127.0.0.1", ["IP:127.0.0.2"])
    if kind == "name only as subject":
        return ca.issue("localhost")
    if kind == "self-signed":
        return self_signed(folder, "localhost", ["DNS:localhost", "IP:127.0.0.1"])
    return other_ca.issue("localhost", ["DNS:localhost", "IP:127.0.0.1"])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind, host, words", [
    ("expired", "127.0.0.1", "certificate has expired"),
    ("wrong name", "localhost", "hostname mismatch"),
    ("wrong address", "127.0.0.1", "IP address mismatch"),
    ("name only as subject", "localhost", "hostname mismatch"),
    ("self-signed", "localhost", "self-signed certificate"),
    ("unknown authority", "localhost", "unable to get local issuer certificate"),
])
def test_a_failed_check_sends_nothing(start_upstream, start_weir, ca, other_ca, folder, kind, host, words, version):
    tls = Handshakes(server_context(make(kind, ca, other_ca, folder), maximum=version))
    up = start_upstream(on_connect=tls)
    w = start_weir(base_config(https(up, host), agent={**trusting(ca), "retry": False}))
    r = exchange(w.port, request("POST", "/x", [SECRET], b"secret"))
    assert words in problem(r, 502, "tls_failed")["detail"]
    assert w.wait_log(path="/x")["reason"] == "tls_failed"
    w.wait_metric("weir_upstream_requests_total", 1, upstream="agent", outcome="tls_failed")
    up.wait_gone(1)
    assert (up.heads, tls.done) == (0, []), "the handshake was not finished"
    assert w.metric("weir_upstream_connections", upstream="agent") == 0


@pytest.mark.parametrize("sans, host, name, fits", [
    (["DNS:LOCALHOST"], "localhost", None, True),
    (["DNS:api.test"], "127.0.0.1", "API.test", True),
    (["IP:::1"], "127.0.0.1", "::1", True),
    (["IP:::1"], "127.0.0.1", "0:0::1", True),
    (["DNS:127.0.0.1"], "127.0.0.1", None, False),
    (["IP:127.0.0.1"], "127.0.0.1", "api.test", False),
    (["DNS:::1"], "127.0.0.1", "::1", False),
    (["DNS:*.api.test"], "127.0.0.1", "a.b.api.test", False),
    (["DNS:*.api.test"], "127.0.0.1", "api.test", False),
    (["DNS:e*.api.test"], "127.0.0.1", "eu.api.test", False),
    (["DNS:*e.api.test"], "127.0.0.1", "xn--e.api.test", False),
    (["DNS:a.*.test"], "127.0.0.1", "a.api.test", False),
    (["DNS:*.test"], "127.0.0.1", "api.test", False),
    (["DNS:*"], "127.0.0.1", "localhost", False),
    (["DNS:.test"], "127.0.0.1", "api.test", False),
    (["URI:https://api.test", "email:a@api.test"], "127.0.0.1", "api.test", False),
])
def test_which_names_fit(start_upstream, start_weir, ca, sans, host, name, fits):
    tls = Handshakes(server_context(ca.issue("api.test", sans)))
    up = start_upstream(on_connect=tls)
    w = start_weir(base_config(https(up, host), agent=trusting(ca, **({"server_name": name} if name else {}))))
    r = exchange(w.port, request("POST", "/x", [SECRET], b"secret"))
    if fits:
        assert r.body == b"ok"
        assert tls.names == [None if name and ":" in name else (name or "localhost")]
    else:
        assert "mismatch" in problem(r, 502, "tls_failed")["detail"]
        assert (up.heads, tls.done) == (0, [])


def test_a_certificate_for_something_else(start_upstream, start_weir, ca, good, folder):
    """One of a caller is none of a server, and what is no authority's signs nothing."""
    sans = ["IP:127.0.0.1"]
    for certificate in (ca.issue("weir", sans, usage="clientAuth"), Authority.of(folder, good).issue("weir", sans)):
        tls = Handshakes(server_context(certificate))
        up = start_upstream(on_connect=tls)
        w = start_weir(base_config(https(up), agent=trusting(ca)))
        problem(exchange(w.port, request("POST", "/x", [SECRET], b"secret")), 502, "tls_failed")
        assert (up.heads, tls.done) == (0, [])
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": {**good.pair, "client_ca": ca.file}}))
    for certificate in (ca.issue("weir", usage="serverAuth"), Authority.of(folder, good).issue("weir")):
        with pytest.raises((ssl.SSLError, OSError, AssertionError)):
            exchange_tls(w.port, client_context(ca.file, certificate=certificate))
    assert exchange_tls(w.port, client_context(ca.file, certificate=ca.issue("weir", usage="clientAuth"))).body == b"ok"
    assert up.heads == 1


def test_nothing_is_checked_where_that_is_said(start_upstream, start_weir, ca, other_ca, folder):
    up = start_upstream(on_connect=Handshakes(server_context(make("expired", ca, other_ca, folder))))
    assert get(start_weir(base_config(https(up), agent={"tls": {"verify": False}})).port).body == b"ok"


def test_system_authorities(start_upstream, start_weir, ca, good):
    """They do not know ours; where SSL_CERT_FILE names it, they do."""
    up = start_upstream(on_connect=Handshakes(server_context(good)))
    config = base_config(https(up), agent={"retry": False})
    problem(get(start_weir(config).port), 502, "tls_failed")
    assert get(start_weir(base_config(https(up)), env={"SSL_CERT_FILE": ca.file}).port).body == b"ok"


# -- toward upstreams: handshakes that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("said, words", [
    (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "does not speak TLS"),
    (b"\x15\x03\x03\x00\x02\x02\x28", "refused the handshake"),
    (b"\x16\x03\x03\x40\x00" + b"\xff" * 0x4000, ""),
    (b"", "closed the connection in the handshake"),
])
def test_what_is_no_handshake(start_upstream, start_weir, ca, said, words):
    def answer(peer):
        peer.sock.recv(65536)
        peer.send(said)
        peer.close()
    up = start_upstream(on_connect=answer)
    w = start_weir(base_config(https(up), agent={**trusting(ca), "retry": False}))
    assert words in problem(get(w.port), 502, "tls_failed")["detail"]


def test_a_reset_in_the_handshake(start_upstream, start_weir, ca):
    up = start_upstream(on_connect=lambda peer: (peer.sock.recv(10), peer.reset()))
    w = start_weir(base_config(https(up), agent={**trusting(ca), "retry": False}))
    problem(get(w.port), 502, "tls_failed")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x03\x10\x00\x02"])
def test_a_handshake_takes_no_longer_than_connecting_may(start_upstream, start_weir, ca, said):
    up = start_upstream(on_connect=lambda peer: (peer.send(said), peer.wait_gone()))
    w = start_weir(base_config(https(up), agent={**trusting(ca), "retry": False, "timeouts": {"connect": "400ms"}}))
    began = time.monotonic()
    problem(get(w.port), 504, "timeout_connect")
    assert 0.3 < time.monotonic() - began < 2
    up.wait_gone(1)


def test_an_old_version_is_refused(start_upstream, start_weir, ca, good):
    context = server_context(good)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    up = start_upstream(on_connect=Handshakes(context))
    w = start_weir(base_config(https(up), agent={**trusting(ca), "retry": False}))
    problem(get(w.port), 502, "tls_failed")


# -- toward upstreams: our certificate -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_of_our_own(start_upstream, start_weir, ca, other_ca, good, client, version):
    tls = Handshakes(server_context(good, client_ca=ca.file, maximum=version))
    up = start_upstream(on_connect=tls)

    def ask(**more):
        w = start_weir(base_config(https(up), agent={**trusting(ca, **more), "retry": False}))
        return exchange(w.port, request("GET", "/x", [SECRET]))

    assert ask(**client.pair).body == b"ok"
    assert tls.callers == ["weir"]
    problem(ask(), 502, "tls_failed")
    problem(ask(**other_ca.issue("weir").pair), 502, "tls_failed")
    assert up.heads == 1


def test_a_certificate_that_is_replaced(start_upstream, start_weir, ca, good):
    """Files change, weir reloads: the next request goes with the new certificate, and nothing breaks."""
    tls = Handshakes(server_context(good, client_ca=ca.file))
    up = start_upstream(on_connect=tls)
    old, new = ca.issue("old"), ca.issue("new")
    config = base_config(https(up), agent=trusting(ca, cert="own.pem", key="own.key"), server={"workers": 1})

    def files(certificate):
        return {"own.pem": open(certificate.cert).read(), "own.key": open(certificate.key).read()}

    w = start_weir(config, files=files(old))
    assert get(w.port).body == b"ok"
    assert get(w.port).body == b"ok"
    assert up.connections == 1
    for name, text in files(new).items():
        (w.dir / name).write_text(text)
    w.reload(config)
    assert get(w.port).body == b"ok"
    assert tls.callers == ["old", "new"]


def test_a_reload_that_changes_nothing_keeps_connections(start_upstream, start_weir, ca, good):
    up = start_upstream(on_connect=Handshakes(server_context(good)))
    config = base_config(https(up), agent=trusting(ca), server={"workers": 1})
    w = start_weir(config)
    for _ in range(3):
        assert get(w.port).body == b"ok"
        w.reload(config)
    assert up.connections == 1


def test_a_check_that_is_made_stricter_holds_at_once(start_upstream, start_weir, ca, other_ca, good):
    up = start_upstream(on_connect=Handshakes(server_context(good)))
    config = base_config(https(up), agent={**trusting(ca), "retry": False})
    w = start_weir(config)
    assert get(w.port).body == b"ok"
    merge(config, {"upstreams": {"agent": {"tls": {"ca": other_ca.file}}}})
    w.reload(config)
    problem(get(w.port), 502, "tls_failed")
    assert up.heads == 1


# -- toward upstreams: sessions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(start_upstream, start_weir, ca, good, version):
    tls = Handshakes(server_context(good, maximum=version))
    up = start_upstream(lambda peer: peer.send(reply(200, b"ok", [("Connection", "close")])), on_connect=tls)
    w = start_weir(base_config(https(up), agent=trusting(ca), server={"workers": 1}))
    for _ in range(6):
        assert get(w.port).body == b"ok"
    assert tls.resumed == [False] + [True] * 5


# -- toward upstreams: answers ---------------------------------------------------------------------------------------


def test_every_size_of_answer_and_request(start_upstream, start_weir, ca, good):
    def echo(peer):
        peer.send(reply(200, bytes(peer.request.body)))
    up = start_upstream(echo, on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca), server={"workers": 1}))
    for size in [0, 1, 100, 4095, 4096, 16383, 16384, 16385, 48 * 1024, 65535, 65536, 65537, 1 << 20, (8 << 20) + 7]:
        body = os.urandom(size)
        r = post(w.port, "/", body)
        assert (r.status, r.clean, r.body == body) == (200, True, True), size
    assert up.connections == 1


def test_an_answer_streams(start_upstream, start_weir, connect, ca, good):
    steps = [threading.Event() for _ in range(5)]

    def stream(peer):
        peer.send(reply(200, b"", [("Transfer-Encoding", "chunked")], length=False))
        for n, step in enumerate(steps):
            peer.send(chunk(b"data: %d\n\n" % n))
            assert step.wait(harness.DEADLINE)
        peer.send(harness.LAST_CHUNK)
    up = start_upstream(stream, on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca)))
    c = connect(w.port)
    c.send(request("GET", "/"))
    for n, step in enumerate(steps):
        c.recv_until(b"data: %d\n\n" % n)
        step.set()
    c.recv_until(harness.LAST_CHUNK)


def test_records_of_every_size(start_upstream, start_weir, ca, good):
    """A record may come in pieces, and several at once."""
    seeded = random.Random(7)
    body = seeded.randbytes(600_000)

    def dribble(peer):
        tls, raw = peer.sock, socket.socket(fileno=os.dup(peer.sock.fileno()))
        whole = reply(200, body)
        at = 0
        with raw:
            while at < len(whole):
                step = seeded.choice([1, 2, 100, 5000, 16384, 60000])
                tls.sendall(whole[at:at + step])
                at += step
    up = start_upstream(dribble, on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca)))
    for _ in range(3):
        assert get(w.port).body == body


class Dribbler(threading.Thread):
    """Between weir and a TLS upstream: hands every byte on in pieces of its own choice."""

    def __init__(self, port, seed=1):
        super().__init__(daemon=True)
        self.target, self.random, self.listener = port, random.Random(seed), socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.carry, args=(a, b), daemon=True).start()

    def carry(self, a, b):
        try:
            while data := a.recv(self.random.choice([1, 3, 7, 500, 20000])):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            a.close()
            b.close()


def test_bytes_in_any_pieces(start_upstream, start_weir, ca, good, call):
    """Both ways and on both sides, the handshakes too."""
    up = start_upstream(lambda peer: peer.send(chunked_reply([bytes(peer.request.body)] * 2)),
                        on_connect=Handshakes(server_context(good)))
    between = Dribbler(up.port)
    w = start_weir(base_config(f"https://127.0.0.1:{between.port}", agent=trusting(ca), listener={"tls": good.pair}))
    front = Dribbler(w.port, seed=2)
    for n in range(4):
        c = call(front.port, client_context(ca.file))
        body = os.urandom(50_000 * n)
        c.send(request("POST", "/", [], body))
        assert c.read_response("POST").body == body * 2
    front.listener.close()
    between.listener.close()


class Corrupter(Dribbler):
    """Turns over one bit of what comes from the server, `after` so many bytes."""

    def __init__(self, port, after):
        self.after = after
        super().__init__(port)

    def carry(self, a, b):
        seen = 0
        try:
            while data := bytearray(a.recv(4096)):
                if a.getpeername()[1] == self.target:
                    if seen <= self.after < seen + len(data):
                        data[self.after - seen] ^= 1
                    seen += len(data)
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            a.close()
            b.close()


@pytest.mark.parametrize("after", [3, 60, 700, 2500, 5000, 50_000, 99_000])
def test_bytes_that_someone_changed(start_upstream, start_weir, ca, good, after):
    up = start_upstream(lambda peer: peer.send(reply(200, b"x" * 100_000)), on_connect=Handshakes(server_context(good)),
                        lenient=True)
    between = Corrupter(up.port, after)
    w = start_weir(base_config(f"https://127.0.0.1:{between.port}", agent={**trusting(ca), "retry": False}))
    r = get(w.port)
    assert r.status in (502, 504) or (r.status == 200 and not r.clean), r
    assert set(r.body) <= {ord("x")} or r.status != 200
    between.listener.close()


def large(folder):
    """A certificate that no kernel takes at once where nobody reads."""
    return self_signed(folder, "localhost" + "".join(f"/OU={n:060d}" for n in range(550)), ["DNS:localhost", "IP:127.0.0.1"])


def test_a_handshake_that_is_read_slowly(start_upstream, start_weir, folder, call):
    """weir's part of it waits in the kernel's stead, and costs no turns of the loop."""
    certificate = large(folder)
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": certificate.pair}))
    tls = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(certificate.cert)
    engine = context.wrap_bio(*tls, server_hostname="localhost")
    c = harness.Conn(w.port, rcvbuf=4096)
    with c:
        with pytest.raises(ssl.SSLWantReadError):
            engine.do_handshake()
        c.send(tls[1].read())
        before = w.cpu_seconds()
        time.sleep(1)
        c.send(b"\x14")  # of a record that comes too early
        time.sleep(0.5)
        assert w.cpu_seconds() - before < 0.5
    assert exchange_tls(w.port, context, rcvbuf=4096).body == b"ok"


def test_our_certificate_is_read_slowly(start_upstream, start_weir, folder):
    certificate = large(folder)
    shake = Handshakes(server_context(certificate, client_ca=certificate.cert))
    shake.context.num_tickets = 0  # in which the caller's certificate would stand

    def slowly(peer):
        time.sleep(0.7)
        shake(peer)
    up = start_upstream(on_connect=slowly, rcvbuf=4096)
    w = start_weir(base_config(https(up), agent={"tls": {"ca": certificate.cert, **certificate.pair}}))
    assert get(w.port).body == b"ok"


def ends(how):
    """The head of an answer that the end of the connection ends, some bytes, and that end."""
    def handler(peer):
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst")
        if how == "notified":
            peer.sock.unwrap()
        elif how == "notified, open":  # and the connection stays
            end_politely(peer.sock)
            time.sleep(2)
        elif how == "cut":
            raw = socket.socket(fileno=peer.sock.detach())
            raw.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            raw.close()
        raise harness.Gone(how)
    return handler


@pytest.mark.parametrize("how, is_whole", [("notified", True), ("notified, open", True), ("cut", False)])
def test_where_an_answer_without_length_ends(start_upstream, start_weir, ca, good, how, is_whole):
    up = start_upstream(ends(how), on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca)))
    began = time.monotonic()
    r = get(w.port, "/end")
    assert (r.status, r.body, r.clean) == (200, b"first", is_whole), r
    assert time.monotonic() - began < 1.5
    line = w.wait_log(path="/end")
    assert line.get("reason") == (None if is_whole else "truncated"), line


def test_an_answer_with_length_that_is_cut_off(start_upstream, start_weir, ca, good):
    def cut(peer):
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst")
        peer.sock.unwrap()
        peer.close()
    up = start_upstream(cut, on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca)))
    assert not get(w.port, "/cut").clean
    assert w.wait_log(path="/cut")["reason"] == "truncated"


@pytest.mark.parametrize("polite", [True, False])
def test_a_parked_connection_that_ends(start_upstream, start_weir, ca, good, polite):
    leave = threading.Event()

    def handler(peer):
        peer.send(reply())
        if peer.number == 1:
            leave.wait(harness.DEADLINE)
            if polite:
                end_politely(peer.sock)
            raise harness.Gone("left")
    up = start_upstream(handler, on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca), server={"workers": 1}))
    assert get(w.port).body == b"ok"
    w.wait_metric("weir_upstream_connections", 1, upstream="agent", state="idle")
    leave.set()
    w.wait_metric("weir_upstream_connections", 0, upstream="agent", state="idle")
    assert get(w.port).body == b"ok"
    assert up.connections == 2


def end_politely(sock):
    """Says close_notify, and does not wait for the other one."""
    sock.settimeout(0)
    with contextlib.suppress(ssl.SSLError, OSError):
        sock.unwrap()


def test_a_request_that_finds_its_connection_closed(start_upstream, start_weir, ca, good):
    """It is sent again on a fresh one; nobody saw it."""
    up = start_upstream(lambda peer: peer.close() if peer.number == 1 and peer.served == 2 else peer.send(reply()),
                        on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca), server={"workers": 1}))
    assert get(w.port).body == b"ok"
    assert get(w.port).body == b"ok"
    assert up.connections == 2


def test_a_slow_caller_holds_the_upstream_up(start_upstream, start_weir, connect, ca, good):
    body = b"x" * (64 << 20)
    up = start_upstream(lambda peer: peer.send(reply(200, body)), on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca)))
    before = w.rss_kb()
    c = connect(w.port, rcvbuf=65536)
    c.send(request("GET", "/"))
    c.read_head()
    time.sleep(1)
    assert w.rss_kb() - before < harness.rss_kb_allowed(4)
    got = len(c.src.take(len(c.src.buf)))
    while got < len(body):
        c.src.fill()
        got += len(c.src.take(len(c.src.buf)))
    assert got == len(body)


def test_a_caller_that_leaves(start_upstream, start_weir, connect, ca, good):
    up = start_upstream(script=[harness.WAIT_GONE], on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca)))
    c = connect(w.port)
    c.send(request("GET", "/"))
    up.wait_heads(1)
    c.close()
    up.wait_gone(1, timeout=2)


def test_renegotiation_is_not_made(start_upstream, start_weir, ca, good):
    """Many handshakes on one connection are work for us, and none for who asks: TLS 1.2 allows to refuse."""
    up = start_upstream(on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca), listener={"tls": good.pair}))
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{w.port}", "-tls1_2"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as asker:
        said = b""
        while b"Verify return code" not in said:
            said += asker.stdout.read1(65536)
        asker.stdin.write(b"R\n")
        asker.stdin.flush()
        said = asker.stdout.read()  # it gives up
        assert b"no renegotiation" in said, said
    assert exchange_tls(w.port, client_context(ca.file)).status == 200


# -- toward callers --------------------------------------------------------------------------------------------------


def exchange_tls(where, context, raw=None, **kw):
    conn = TlsConn(where, context, **kw)
    with conn:
        conn.send(raw or request("GET", "/"))
        return conn.read_response((raw or b"GET ").split(b" ")[0].decode())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_callers_speak_tls(start_upstream, start_weir, ca, good, call, version):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    c = call(w.port, client_context(ca.file, maximum=version))
    for n in range(5):
        c.send(request("GET", f"/{n}"))
        r = c.read_response()
        assert (r.status, r.body, r.clean) == (200, b"ok", True)
    assert (c.sock.version(), c.sock.selected_alpn_protocol()) == (version.name.replace("_", "."), "http/1.1")
    assert up.requests[0].header("X-Forwarded-Proto") == "https"
    w.wait_metric("weir_connections", 1, listener="in")
    c.close()
    w.wait_metric("weir_connections", 0, listener="in")


def test_a_request_that_comes_with_the_handshake(start_upstream, start_weir, ca, good):
    """The caller's last words of it and a request in one packet: the poll tells once."""
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(ca.file).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", w.port), timeout=harness.DEADLINE) as s:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    s.sendall(outgoing.read())
                incoming.write(s.recv(65536))
        tls.write(request("GET", "/a") + request("GET", "/b"))
        s.sendall(outgoing.read())
        got = b""
        while got.count(b"\r\n\r\nok") < 2:
            try:
                got += tls.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(s.recv(65536))
    assert [r.target for r in up.requests] == ["/a", "/b"]


def test_callers_need_a_certificate(start_upstream, start_weir, ca, other_ca, good, client):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": {**good.pair, "client_ca": ca.file}}, log={"level": "debug"}))
    assert exchange_tls(w.port, client_context(ca.file, certificate=client)).body == b"ok"
    for context in (client_context(ca.file), client_context(ca.file, certificate=other_ca.issue("weir")),
                    client_context(ca.file, certificate=ca.issue("weir", expired=True))):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.maximum_version = version
            with pytest.raises((ssl.SSLError, OSError, AssertionError)):
                exchange_tls(w.port, context)
    assert up.heads == 1
    for words in ("the peer has no certificate", "unable to get local issuer certificate", "certificate has expired"):
        assert f"listener in: a TLS connection failed: {words}" in w.stderr


def test_a_session_is_of_one_listener(start_upstream, start_weir, ca, good, client):
    """Else who got in where no certificate is asked for gets in where one is."""
    up = start_upstream()
    config = base_config(up.port, listener={"tls": {**good.pair, "client_ca": ca.file}})
    config["listeners"]["open"] = {"address": f"127.0.0.1:{harness.free_port()}", "tls": good.pair,
                                   "routes": [{"path": "/", "upstream": "agent"}]}
    w = start_weir(config)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(ca.file, maximum=version)

        def ask(port, session=None):
            with socket.create_connection(("127.0.0.1", port), timeout=harness.DEADLINE) as s:
                with context.wrap_socket(s, server_hostname="localhost", session=session) as tls:
                    tls.sendall(request("GET", "/"))
                    return tls.recv(65536)[:12], tls.session_reused, tls.session

        first, _, session = ask(w.ports["open"])
        assert first == b"HTTP/1.1 200"
        assert ask(w.ports["open"], session)[:2] == (b"HTTP/1.1 200", True)
        try:
            assert ask(w.ports["in"], session)[0] != b"HTTP/1.1 200"
        except (ssl.SSLError, OSError):
            pass


def session_of(where, context, session=None):
    """The status line, whether it was resumed, and the session."""
    with socket.create_connection(("127.0.0.1", where), timeout=harness.DEADLINE) as s:
        with context.wrap_socket(s, server_hostname="localhost", session=session) as tls:
            tls.sendall(request("GET", "/"))
            return tls.recv(65536)[:12], tls.session_reused, tls.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_ends_with_the_authority(start_upstream, start_weir, ca, other_ca, good, client, version):
    """Who got in by a certificate that is believed no more does not get in by a ticket of that time."""
    up = start_upstream()
    config = base_config(up.port, listener={"tls": {**good.pair, "client_ca": ca.file}})
    w = start_weir(config)
    context = client_context(ca.file, certificate=client, maximum=version)
    first, _, session = session_of(w.port, context)
    assert first == b"HTTP/1.1 200"
    assert session_of(w.port, context, session)[:2] == (b"HTTP/1.1 200", True)
    config["listeners"]["in"]["tls"]["client_ca"] = other_ca.file
    w.reload(config)

    def gets_in():
        try:
            return session_of(w.port, context, session)[0] == b"HTTP/1.1 200"
        except (ssl.SSLError, OSError):
            return False
    wait_until(lambda: not gets_in(), timeout=5)
    heads = up.heads
    for _ in range(3):
        assert not gets_in()
    assert up.heads == heads
    theirs = client_context(ca.file, certificate=other_ca.issue("weir"), maximum=version)
    assert session_of(w.port, theirs)[0] == b"HTTP/1.1 200"


def test_a_broken_certificate_changes_nothing(start_upstream, start_weir, ca, good):
    up = start_upstream()
    config = base_config(up.port, listener={"tls": {"cert": "own.pem", "key": "own.key"}})
    cert, key = open(good.cert).read(), open(good.key).read()
    w = start_weir(config, files={"own.pem": cert, "own.key": key})
    other = ca.issue("localhost", ["DNS:localhost"])
    for broken_cert, broken_key, words in ((cert[:200], key, "cert"), (cert, "", "key"),
                                           (cert, open(other.key).read(), "it is the key of another certificate")):
        (w.dir / "own.pem").write_text(broken_cert)
        (w.dir / "own.key").write_text(broken_key)
        w.reload(config, result="error")
        assert words in w.stderr
        assert exchange_tls(w.port, client_context(ca.file)).body == b"ok"
    (w.dir / "own.pem").write_text(open(other.cert).read())
    (w.dir / "own.key").write_text(open(other.key).read())
    w.reload(config)
    assert exchange_tls(w.port, client_context(ca.file)).body == b"ok"


def test_certificates_of_a_mounted_secret(start_upstream, ca, good, tmp_path):
    """The ..data link changes; nobody says so."""
    up = start_upstream()

    def files(certificate):
        return {"tls.crt": open(certificate.cert).read(), "tls.key": open(certificate.key).read()}
    mount = ConfigMap(tmp_path / "secret", files(good))
    tls = {"cert": str(tmp_path / "secret" / "tls.crt"), "key": str(tmp_path / "secret" / "tls.key")}

    def serial(w):
        with TlsConn(w.port, client_context(ca.file)) as c:
            return c.sock.getpeercert()["serialNumber"]
    with harness.Weir(base_config(up.port, listener={"tls": tls})) as w:
        for _ in range(2):
            before = serial(w)
            mount.update(files(ca.issue("localhost", ["DNS:localhost"])))
            wait_until(lambda: serial(w) != before, timeout=10)
            assert exchange_tls(w.port, client_context(ca.file)).body == b"ok"


def test_a_hello_that_is_too_long(start_upstream, start_weir, connect, ca, good):
    """OpenSSL would keep 128 KB of it, for as long as a head may take, of anybody."""
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    hello = b"\x01\x01\xff\x00\x03\x03" + b"a" * 130_000
    c = connect(w.port)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        for at in range(0, len(hello), 16000):
            record = hello[at:at + 16000]
            c.send(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record)
            time.sleep(0.01)
    c.recv_to_end()
    assert time.monotonic() - began < 5
    w.wait_metric("weir_connections", 0, listener="in")
    assert exchange_tls(w.port, client_context(ca.file)).body == b"ok"


if not harness.sanitized():  # whose memory is its own
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_what_an_idle_connection_costs(start_upstream, start_weir, ca, good, version):
        """Once the tickets are read, no buffer stays behind them."""
        up = start_upstream(on_connect=Handshakes(server_context(good, maximum=version)))
        config = base_config(https(up), agent={**trusting(ca), "connections": {"max": 400, "idle": 400, "idle_timeout": "60s"}},
                             server={"workers": 1})

        def idle_with(count):
            config["upstreams"]["agent"]["connections"]["warm"] = count
            w.reload(config)
            w.wait_metric("weir_upstream_connections", count, upstream="agent", state="idle")
            time.sleep(0.3)  # the tickets behind the handshakes
            return w.rss_kb()
        w = start_weir(config)
        before = idle_with(100)
        assert idle_with(400) - before < 300 * 21


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"a" * 70000,
                                  b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03\x01\x00\x01\x01"])
def test_what_is_not_tls(start_upstream, start_weir, connect, ca, good, said):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": good.pair}, server={"timeouts": {"head": "700ms"}}))
    c = connect(w.port)
    c.send(said)
    rest, end = c.recv_to_end()
    assert b"HTTP" not in rest and end in ("fin", "reset")
    if said.startswith(b"GET"):
        assert end == "fin"
    w.wait_metric("weir_connections", 0, listener="in")
    assert exchange_tls(w.port, client_context(ca.file)).body == b"ok"
    assert up.heads == 1


def test_a_handshake_that_does_not_end(start_upstream, start_weir, connect, ca, good):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": good.pair}, server={"timeouts": {"head": "500ms"}}))
    silent, slow = connect(w.port), connect(w.port)
    slow.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    began = time.monotonic()
    assert silent.wait_closed() == "fin"
    slow.recv_to_end()
    assert 0.3 < time.monotonic() - began < 2
    w.wait_metric("weir_connections", 0, listener="in")


def test_what_a_caller_offers(start_upstream, start_weir, ca, good):
    up = start_upstream()
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    assert exchange_tls(w.port, client_context(ca.file, alpn=None)).body == b"ok"
    assert exchange_tls(w.port, client_context(ca.file, alpn=["h2", "http/1.1"])).body == b"ok"
    with pytest.raises((ssl.SSLError, OSError)):
        exchange_tls(w.port, client_context(ca.file, alpn=["h2"]))
    old = client_context(maximum=ssl.TLSVersion.TLSv1_1)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, OSError)):
        exchange_tls(w.port, old)


def test_large_both_ways(start_upstream, start_weir, ca, good, call):
    up = start_upstream(lambda peer: peer.send(reply(200, bytes(peer.request.body))))
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    c = call(w.port, client_context(ca.file))
    for size in [1, 16384, 65536, 65537, 3_000_001]:
        body = os.urandom(size)
        c.send(request("POST", "/", [], body))
        assert c.read_response("POST").body == body, size


def test_a_caller_that_reads_slowly(start_upstream, start_weir, ca, good, call):
    body = os.urandom(1 << 20) * 32
    up = start_upstream(lambda peer: peer.send(reply(200, body)))
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    before = w.rss_kb()
    c = call(w.port, client_context(ca.file), rcvbuf=65536)
    c.send(request("GET", "/"))
    time.sleep(1)
    assert w.rss_kb() - before < harness.rss_kb_allowed(4)
    assert c.read_response().body == body


def test_a_caller_that_does_not_read(start_upstream, start_weir, ca, good, call):
    up = start_upstream(lambda peer: peer.send(reply(200, b"x" * (32 << 20))))
    w = start_weir(base_config(up.port, listener={"tls": good.pair}, server={"timeouts": {"write": "500ms"}}))
    c = call(w.port, client_context(ca.file), rcvbuf=65536)
    c.send(request("GET", "/"))
    w.wait_metric("weir_connections", 0, listener="in")
    up.wait_gone(1)


@pytest.mark.parametrize("how", ["close", "reset", "notify"])
def test_a_caller_that_leaves_with_tls(start_upstream, start_weir, ca, good, call, how):
    up = start_upstream(script=[harness.WAIT_GONE])
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    c = call(w.port, client_context(ca.file))
    c.send(request("GET", "/"))
    up.wait_heads(1)
    if how == "notify":
        end_politely(c.sock)
    elif how == "reset":
        harness.reset(c.sock)
    else:
        c.close()
    up.wait_gone(1, timeout=2)


def test_a_broken_answer_has_no_clean_end(start_upstream, start_weir, ca, good, call):
    up = start_upstream(script=[b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst", harness.RESET])
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    c = call(w.port, client_context(ca.file))
    c.send(request("GET", "/", version="1.0"))
    r = c.read_response()
    assert not r.clean, r


def test_an_answer_that_its_end_ends(start_upstream, start_weir, ca, good, call):
    """Toward HTTP/1.0: whole only with close_notify."""
    head, last = reply(200, b"", [("Transfer-Encoding", "chunked")], length=False), threading.Event()
    up = start_upstream(script=[head + chunk(b"a"), last, chunk(b"b") + harness.LAST_CHUNK])
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    c = call(w.port, client_context(ca.file))
    c.send(request("GET", "/", version="1.0"))
    assert c.read_head().status == 200
    last.set()
    assert c.recv_to_end() == (b"ab", "fin")


def test_certificates_change_without_a_lost_connection(start_upstream, start_weir, ca, good, call):
    up = start_upstream()
    config = base_config(up.port, listener={"tls": {"cert": "own.pem", "key": "own.key"}})

    def files(certificate):
        return {"own.pem": open(certificate.cert).read(), "own.key": open(certificate.key).read()}

    w = start_weir(config, files=files(good))
    kept = call(w.port, client_context(ca.file))
    kept.send(request("GET", "/"))
    assert kept.read_response().body == b"ok"
    serial = kept.sock.getpeercert()["serialNumber"]
    for name, text in files(ca.issue("localhost", ["DNS:localhost"])).items():
        (w.dir / name).write_text(text)
    w.reload(config)

    def has_changed():
        fresh = call(w.port, client_context(ca.file))
        fresh.send(request("GET", "/"))
        assert fresh.read_response().body == b"ok"
        return fresh.sock.getpeercert()["serialNumber"] != serial
    wait_until(has_changed)
    kept.send(request("GET", "/"))
    assert kept.read_response().body == b"ok"


def test_a_listener_turns_to_tls_and_back(start_upstream, start_weir, connect, ca, good):
    up = start_upstream()
    config = base_config(up.port)
    w = start_weir(config)
    kept = connect(w.port)
    kept.send(request("GET", "/"))
    assert kept.read_response().body == b"ok"
    with_tls = merge(base_config(up.port), {"listeners": {"in": {**config["listeners"]["in"], "tls": good.pair}}})
    w.reload(with_tls)
    assert wait_until(lambda: answers(lambda: exchange_tls(w.port, client_context(ca.file)))).body == b"ok"
    kept.send(request("GET", "/"))
    assert kept.read_response().body == b"ok"
    w.reload(config)
    assert wait_until(lambda: answers(lambda: get(w.port))).body == b"ok"


def answers(ask):
    try:
        return ask()
    except (ssl.SSLError, OSError, AssertionError):
        return None


def test_a_drain_with_tls(start_upstream, start_weir, ca, good, call):
    release = threading.Event()
    up = start_upstream(script=[release, reply()])
    w = start_weir(base_config(up.port, listener={"tls": good.pair}))
    idle, busy = call(w.port, client_context(ca.file)), call(w.port, client_context(ca.file))
    busy.send(request("GET", "/"))
    up.wait_heads(1)
    w.signal(harness.signal.SIGTERM)
    assert idle.wait_closed() == "fin"
    release.set()
    r = busy.read_response()
    assert (r.status, r.body, r.header("Connection")) == (200, b"ok", "close")
    assert w.wait_exit() == 0


def test_many_at_once(start_upstream, start_weir, ca, good):
    up = start_upstream(on_connect=Handshakes(server_context(good)))
    w = start_weir(base_config(https(up), agent=trusting(ca), listener={"tls": good.pair}))

    def work(n):
        context = client_context(ca.file)
        for _ in range(10):
            r = exchange_tls(w.port, context)
            assert r.body == b"ok", r
    in_parallel(16, work)
    w.wait_metric("weir_in_flight", 0)
    w.wait_metric("weir_connections", 0, listener="in")
