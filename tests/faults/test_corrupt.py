"""Answers whose bytes were changed at random: what a caller is given as whole is what a strict reader finds in them."""
import random

import pytest

import strict
from faults import outcomes
from harness import CLOSE, NoResponse, base_config, chunk, connect, reply, request, wait_until
from test_cut import chunked, head_of

SEEDS = range(3)
EACH = 150

ANSWERS = {
    "length": ("GET", reply(200, b"hello, world", [("X-Mark", "abc")])),
    "chunked": ("GET", chunked(b"hello", b", ", b"world and more of it")),
    "many chunks": ("GET", chunked(*[b"%d" % n * (n % 3 + 1) for n in range(24)])),
    "two-digit sizes": ("GET", reply(200, b"", [("Transfer-Encoding", "chunked")], length=False)
                        + chunk(b"a" * 31, b";x=y") + chunk(b"b" * 160) + b"0\r\nX-Sum: 1\r\n\r\n"),
    "interim": ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(200, b"hello, world")),
    "HEAD": ("HEAD", reply(200, b"", [("Content-Length", "12")], length=False)),
    "204": ("GET", reply(204, b"")),
}


def framing_places(raw):
    """The bytes that say where an answer ends: its head, sizes of chunks, line ends - and not the data."""
    head = head_of(raw)
    places = list(range(head))
    if b"chunked" in raw[:head]:
        at = head
        while at < len(raw):
            line = raw.index(b"\r\n", at)
            size = int(raw[at:line].split(b";")[0], 16)
            places += range(at, line + 2)
            at = line + 2 + size
            if not size:
                places += range(line + 2, len(raw))
                break
            places += (at, at + 1)
            at += 2
    return places


def corruption(chance, raw):
    """{offset: xor}: one byte, two, or a run of them."""
    places = framing_places(raw)
    kind = chance.randrange(4)
    if kind == 0:
        chosen = chance.sample(places, 2)
    elif kind == 1:
        first = chance.randrange(len(places))
        chosen = places[first:first + chance.randrange(2, 5)]
    else:
        chosen = [chance.choice(places)]
    flips = {}
    for at in chosen:
        # often into what means something: digits, white space, line ends, colons
        wanted = chance.choice(b"0123456789abcdef\r\n \t:;,\x00") if chance.random() < 0.6 else chance.randrange(256)
        flips[at] = raw[at] ^ wanted or 1 << chance.randrange(8)
    return flips


def meaning(raw, method):
    """The strict reader's answer, or None where there is no whole one in the bytes."""
    try:
        r = strict.read(raw, method)
    except (AssertionError, NoResponse):
        return None
    return r if r.clean and r.status >= 200 else None


def judge(raw, method, r):
    """What is wrong with the answer that a caller had for these bytes, or None."""
    if not r.clean:
        return None
    if r.weir_reason:
        return None if r.status in (502, 504) else "weir's own answer has another status"
    wanted = meaning(raw, method)
    if wanted is None:
        return "a clean end of what is no whole answer"
    if (r.status, r.body) != (wanted.status, wanted.body):
        return f"other bytes than {wanted}"
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_corrupted_framing(start_faulty, start_proxy, start_weir, seed):
    chance = random.Random(seed)
    up = start_faulty(lenient=True)
    p = start_proxy(up)
    w = start_weir(base_config(p.url, agent={"timeouts": {"first_byte": "500ms", "idle": "500ms"}}))
    wrong, passed = [], 0
    for n in range(EACH):
        name = chance.choice(list(ANSWERS))
        method, raw = ANSWERS[name]
        up.answers([raw, CLOSE])
        p.corrupt = corruption(chance, raw)
        p.disarm()  # counts anew
        spoilt = bytes(b ^ p.corrupt.get(i, 0) for i, b in enumerate(raw))
        try:
            with connect(w.port) as c:
                c.send(request(method, f"/{n}"))
                r = c.read_response(method)
        except AssertionError as e:
            wrong.append((n, name, spoilt, f"the caller's answer is none: {e}"))
            continue
        if fault := judge(spoilt, method, r):
            wrong.append((n, name, spoilt, fault, r))
        passed += r.clean and r.weir_reason is None
    assert not wrong, "\n".join(map(str, [len(wrong), *wrong[:6]]))
    assert 0 < passed < EACH
    p.corrupt = {}
    up.answers(reply(200, b"fine"))
    with connect(w.port) as c:
        c.send(request("GET", "/after"))
        assert c.read_response().body == b"fine"
    wait_until(lambda: sum(outcomes(w).values()) == EACH + 1, "an outcome for each of them")
    w.wait_metric("weir_in_flight", 0)


def test_every_bit_of_a_short_answer(start_faulty, start_proxy, start_weir):
    """Each bit of the framing turned over, one at a time."""
    up = start_faulty(lenient=True)
    w = start_weir(base_config(up.url, agent={"timeouts": {"first_byte": "500ms", "idle": "500ms"}}))
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    wrong = []
    for at in framing_places(raw):
        for bit in range(8):
            spoilt = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1:]
            up.answers([spoilt, CLOSE])
            try:
                with connect(w.port) as c:
                    c.send(request("GET", "/"))
                    r = c.read_response()
            except AssertionError as e:
                wrong.append((at, bit, f"the caller's answer is none: {e}"))
                continue
            if fault := judge(spoilt, "GET", r):
                wrong.append((at, bit, spoilt, fault, r))
    assert not wrong, "\n".join(map(str, [len(wrong), *wrong[:10]]))
