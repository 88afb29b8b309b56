"""The fault proxy itself: a test that stands on it is worth what it is worth."""
import socket
import threading
import time

import pytest

from fault_proxy import Fault
from harness import connect, get, reply, request, wait_until

ANSWER = reply(200, b"0123456789")


@pytest.fixture
def up(start_upstream):
    return start_upstream(lambda peer: ANSWER)


def heard(p, raw=request("GET", "/")):
    """(bytes, end) of one raw request through it."""
    with connect(p.port) as c:
        c.send(raw)
        return c.recv_to_end()


@pytest.mark.parametrize("act, end", [("fin", "fin"), ("rst", "reset")])
def test_an_answer_is_cut_at_every_byte(start_proxy, up, act, end):
    p = start_proxy(up)
    for n in range(len(ANSWER) + 1):
        p.arm(Fault("down", n, act, pause=0.002))
        assert heard(p) == (ANSWER[:n], end)
        assert get(p.port).body == b"0123456789", "once"
    assert p.fired == len(ANSWER) + 1 and p.requests == 2 * p.fired


def test_a_request_is_cut_at_every_byte(start_proxy, up):
    raw = request("GET", "/some/path")
    p = start_proxy(up)
    for n in range(len(raw) + 1):
        p.arm(Fault("up", n, "rst"))
        assert heard(p, raw) == (b"", "reset")
    up.wait_heads(1)
    assert up.heads == 1, "only the one that was whole"


def test_it_counts_from_when_it_was_armed(start_proxy, up):
    p = start_proxy(up)
    with connect(p.port) as c:
        for _ in range(3):
            c.send(request("GET", "/"))
            assert c.read_response().body == b"0123456789"
        p.arm(Fault("down", 5, "fin"))
        c.send(request("GET", "/"))
        assert c.recv_to_end() == (ANSWER[:5], "fin")


def test_a_stall_keeps_the_connection(start_proxy, up):
    p = start_proxy(up)
    p.arm(Fault("down", 5, "stall"))
    with connect(p.port) as c:
        c.send(request("GET", "/"))
        wait_until(lambda: p.fired, "the stall")
        assert c.recv_until(ANSWER[:5]) == ANSWER[:5] and not c.readable(0.1)
    wait_until(lambda: not p.open_connections, "its end")


@pytest.mark.parametrize("mode, wanted", [("rst", (b"", "reset")), ("fin", (b"", "fin")), (b"junk", (b"junk", "fin"))])
def test_modes(start_proxy, up, mode, wanted):
    p = start_proxy(up)
    p.mode = mode
    assert heard(p) == wanted
    p.mode = "pass"
    assert get(p.port).body == b"0123456789"
    assert p.connections == p.requests == 2 and up.heads == 1


def test_a_mode_meets_the_answer_that_is_on_its_way(start_proxy, start_upstream):
    gate = threading.Event()
    up = start_upstream(script=[gate, ANSWER])
    p = start_proxy(up)
    with connect(p.port) as c:
        c.send(request("GET", "/"))
        up.wait_complete()
        p.mode = "fin"
        gate.set()
        assert c.recv_to_end() == (b"", "fin")


def test_it_refuses_and_accepts_again(start_proxy, up):
    p = start_proxy(up)
    for _ in range(3):
        p.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(p.port)
        p.accept()
        assert get(p.port).body == b"0123456789"


def test_it_corrupts_and_cuts_to_pieces_and_is_slow(start_proxy, up):
    p = start_proxy(up)
    p.piece = 1
    p.corrupt = {len(ANSWER) - 1: 1}
    assert get(p.port).body == b"0123456788"
    p.corrupt, p.piece, p.rate = {}, 0, 10 * len(ANSWER)
    began = time.monotonic()
    assert get(p.port).body == b"0123456789"
    assert time.monotonic() - began >= 0.09
    p.rate, p.delay = 0, 0.05
    began = time.monotonic()
    assert get(p.port).body == b"0123456789"
    assert time.monotonic() - began >= 0.09


def test_a_reset_of_the_upstream_is_passed_on(start_proxy, start_upstream):
    p = start_proxy(start_upstream(script=["reset"]))
    assert heard(p) == (b"", "reset")


def test_a_mute_one_counts(start_proxy, up):
    p = start_proxy(up)
    p.mode = "mute"
    with connect(p.port) as c:
        c.send(request("GET", "/") + request("POST", "/", [], b"x" * 100_000))
        wait_until(lambda: p.requests == 2, "both")
        assert not c.readable(0.05)
        c.sock.shutdown(socket.SHUT_WR)
        assert c.recv_to_end() == (b"", "fin")
