"""A TLS upstream through the proxy: cut in its handshake and in its answer. What went over the wire is kept: no key of the
caller's or of weir's is ever in it, and nothing is sent before the upstream is known."""
import pytest

from certificates import Authority, Handshakes, server_context
from fault_proxy import Fault
from faults import error, outcomes
from harness import base_config, connect, reply, request, wait_until
from test_cut import chunked

STEP = 17
KEY, SECRET, BODY = "Bearer sk-canary-of-weir", "Bearer canary-of-the-caller", b"canary-of-the-body"
CANARIES = (b"sk-canary", b"canary-of-the-caller", BODY, b"/canary-path")
ANSWERS = {"length": reply(200, b"hello, " * 20), "chunked": chunked(b"hello, " * 10, b"world")}
WHOLE = {"length": b"hello, " * 20, "chunked": b"hello, " * 10 + b"world"}
BEFORE = {"tls_failed", "reset", "connect_failed", "truncated", "bad_response"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ca(folder):
    return Authority(folder)


@pytest.fixture(scope="module")
def good(ca):
    return ca.issue("localhost", ["DNS:localhost", "IP:127.0.0.1"])


def started(start_upstream, start_proxy, start_weir, certificate, ca, answer, **agent):
    context = server_context(certificate)
    context.num_tickets = 0  # so that each handshake is a whole one
    tls = Handshakes(context)
    up = start_upstream(lambda peer: answer, on_connect=tls, lenient=True)
    p = start_proxy(up, record=True)
    w = start_weir(base_config(f"https://127.0.0.1:{p.port}", agent={
        "tls": {"ca": ca.file}, "headers": {"set": {"Authorization": KEY}}, "connections": {"idle": 0},
        "timeouts": {"connect": "500ms", "first_byte": "500ms", "idle": "500ms"}, **agent}))
    return up, p, w


def ask(w):
    with connect(w.port) as c:
        c.send(request("POST", "/canary-path", [("Authorization", SECRET)], BODY))
        return c.read_response("POST")


def nothing_in_plain(p):
    assert not [word for word in CANARIES if word in p.wire]


def lengths_of(w, p):
    """{way: bytes} of one whole call on a connection of its own."""
    seen = {}

    class Counting(dict):
        def get(self, at, default=0):
            seen["down"] = at + 1
            return default

    p.corrupt = Counting({-1: 0})
    before = len(p.wire)
    assert ask(w).status == 200
    p.corrupt = {}
    return {"up": len(p.wire) - before, "down": seen["down"]}


@pytest.mark.parametrize("way", ["down", "up"])
def test_tls_cut_all_along(start_upstream, start_proxy, start_weir, ca, good, way):
    up, p, w = started(start_upstream, start_proxy, start_weir, good, ca, ANSWERS["length"])
    total = lengths_of(w, p)[way]
    assert total > 500
    wrong, words, asked = [], set(), len(up.requests)
    places = range(0, total, STEP)
    for n, act in [(n, act) for act in ("fin", "rst") for n in places]:
        p.arm(Fault(way, n, act, pause=0.002 if n % 2 else 0))
        r = ask(w)
        p.disarm()
        if r.weir_reason:
            words.add(r.weir_reason)
            error(r, 502, tuple(BEFORE))
        elif r.status != 200 or r.clean and r.body != WHOLE["length"] or not WHOLE["length"].startswith(r.body):
            wrong.append((n, act, r))
    assert not wrong, f"{len(wrong)} of {2 * len(places)}: {wrong[:4]}"
    assert p.fired >= 2 * len(places) - 4, "a signature may be a little shorter"
    assert "tls_failed" in words, words
    assert ask(w).body == WHOLE["length"]
    assert set(outcomes(w)) <= BEFORE | {"ok"}
    assert 0 < len(up.requests) - asked < 2 * len(places), "none was sent before the handshake was over"
    nothing_in_plain(p)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_tls_answer_cut_at_every_byte(start_upstream, start_proxy, start_weir, ca, good, name):
    """The end of the records, byte by byte: what is whole has come whole."""
    up, p, w = started(start_upstream, start_proxy, start_weir, good, ca, ANSWERS[name], connections={"idle": 4})
    assert ask(w).status == 200
    wrong, kinds = [], set()
    for n in range(len(ANSWERS[name]) + 22 + 1):
        ask(w)  # there is a connection, so that bytes count from its next answer
        p.arm(Fault("down", n, ("fin", "rst")[n % 2], pause=0.002))
        r = ask(w)
        p.disarm()
        kinds.add(r.weir_reason or ("whole" if r.clean else "broken"))
        if r.weir_reason:
            error(r, 502, ("reset", "truncated", "bad_response", "tls_failed"))
        elif r.status != 200 or (r.body != WHOLE[name] if r.clean else not WHOLE[name].startswith(r.body)):
            wrong.append((n, r))
    assert not wrong, wrong[:4]
    wait_until(lambda: p.fired == len(ANSWERS[name]) + 23, "every cut to be made")
    assert {"reset", "whole"} <= kinds, kinds


def test_tls_that_stalls(start_upstream, start_proxy, start_weir, ca, good):
    """A handshake that stops is a connection that does not open; a record that stops is an answer that does not begin."""
    up, p, w = started(start_upstream, start_proxy, start_weir, good, ca, ANSWERS["length"], connections={"idle": 4})
    for way, n in (("down", 100), ("down", 700), ("up", 200)):
        p.arm(Fault(way, n, "stall"))
        error(ask(w), 504, "timeout_connect")
    assert p.fired == 3 and not up.requests
    for n in (0, len(ANSWERS["length"]) + 21):
        p.disarm()
        assert ask(w).body == WHOLE["length"]
        p.arm(Fault("down", n, "stall"))
        error(ask(w), 504, ("timeout_first_byte", "timeout_idle"))
    assert p.fired == 5 and ask(w).status == 200
    nothing_in_plain(p)


@pytest.mark.parametrize("kind", ["expired", "another name", "plain text", "cut"])
def test_nothing_is_sent_to_whom_is_not_known(start_upstream, start_proxy, start_weir, folder, ca, kind):
    names = ["DNS:other.test"] if kind == "another name" else ["IP:127.0.0.1"]
    certificate = ca.issue("localhost", names, expired=kind == "expired")
    up, p, w = started(start_upstream, start_proxy, start_weir, certificate, ca, ANSWERS["length"], retry={"attempts": 3})
    if kind == "plain text":
        p.arm(Fault("up", 1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", once=False))
    for n in range(8):
        if kind == "cut":
            p.arm(Fault("down", 60 * n + 1, "fin", once=False))
        r = ask(w)
        assert r.status in (502, 504) and r.weir_reason in ("tls_failed", "timeout_connect"), r
    assert not up.requests
    nothing_in_plain(p)
