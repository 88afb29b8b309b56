"""store.file: what was answered is not run again after a restart, a crash loses at most what was not written yet, and a file that
is not what weir wrote is set aside, never believed and never in the way."""
import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import threading
import time

import pytest

import harness
from faults import OK
from harness import CLOSE, RESET, chunk, chunked_reply, connect, exchange, problem, reply, request, wait_until
from support import Caller, Numbered, deduped, keyed

WRITTEN_IN = 25          # it is written every 10 s


def ask(w, key="k1", body=b"{}", headers=(), **kw):
    return exchange(w.port, request("POST", "/", [*keyed(key), *headers], body, **kw))


def ran(r, n=None):
    assert r.status == 200 and "Idempotent-Replayed" not in r.headers, r
    assert n is None or r.body.startswith(b"answer %d " % n), r


def replayed(r, n=None, status=200):
    assert r.status == status and r.header("Idempotent-Replayed") == "true" and r.clean, r
    assert n is None or r.body.startswith(b"answer %d " % n), r
    return r


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "keys"


@pytest.fixture
def stored(start_upstream, file):
    """stored(dedup, handler) -> (up, start): start() begins a weir with that file, again and again."""
    file.parent.mkdir()
    with contextlib.ExitStack() as stack:
        def make(dedup=None, handler=None, path=None, **more):
            up = start_upstream(handler or Numbered())
            config = deduped(up, dedup, store={"file": str(path or file)}, **more)

            def start(change=None, **kw):
                if change:
                    change(config)
                return stack.enter_context(harness.weir(config, **kw))

            return up, start

        yield make


def stop(w):
    assert w.stop() == 0, w.stderr[-4000:]


def kill(w):
    w.signal(signal.SIGKILL)
    w.wait_exit()


def version_of(file):
    """What changes when it is written anew."""
    try:
        s = file.stat()
        return s.st_ino, s.st_mtime_ns, s.st_size
    except FileNotFoundError:
        return None


def wait_written(file, before=None):
    wait_until(lambda: version_of(file) not in (None, before), "the file to be written", WRITTEN_IN, every=0.1)


def errors_of(w):
    lines = [json.loads(line) for line in w.stderr.splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["level"] in ("error", "warn")]


# ------------------------------------------------------------------------------------------------------- a clean restart


def test_a_restart_replays(stored, file):
    fields = [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "\xe9\xff"),
              ("X-Empty", "")]
    up, start = stored(handler=lambda peer: reply(201, bytes(range(256)) * 40, fields, reason="Made Up"))
    w = start()
    first = ask(w)
    stop(w)
    assert file.exists()
    w = start()
    r = replayed(ask(w, headers=[("X-Correlation-ID", "later")]), status=201)
    own = ("date", "x-correlation-id", "idempotent-replayed")
    assert [h for h in r.headers if h[0].lower() not in own] == [h for h in first.headers if h[0].lower() not in own]
    assert r.body == first.body and r.reason == first.reason and r.header("X-Correlation-ID") == "later"
    problem(ask(w, body=b"other"), 422, "key_mismatch")
    assert up.heads == 1 and w.metric("weir_dedup_keys", dedup="once") == 1
    assert not errors_of(w)


def test_many_restarts(stored, file):
    up, start = stored(handler=Numbered(pad=3000))
    for n in range(1, 6):
        w = start()
        for old in range(1, n):
            replayed(ask(w, f"k{old}"), old)
        ran(ask(w, f"k{n}"), n)
        stop(w)
    assert up.heads == 5


@pytest.mark.parametrize("workers", [1, 4])
def test_many_keys(stored, file, workers):
    up, start = stored(handler=lambda peer: reply(200, peer.request.header("Idempotency-Key").encode() * 50),
                       server={"workers": workers})
    w = start()
    keys = [f"key-{n}" for n in range(2000)]
    with Caller(w.port) as caller:
        for key in keys:
            caller.ask(request("POST", "/", keyed(key), b""))
    stop(w)
    w = start()
    with Caller(w.port) as caller:
        for key in keys:
            assert replayed(caller.ask(request("POST", "/", keyed(key), b""))).body == key.encode() * 50
    assert up.heads == 2000


def test_tenants_methods_and_chunked_answers(stored):
    up, start = stored(handler=lambda peer: chunked_reply([b"a" * 1000, b"b" * 5, peer.request.method.encode()]))
    asks = [(t, m) for t in ("a", "b") for m in ("POST", "PUT", "PATCH")]

    def all_of(w):
        return [exchange(w.port, request(m, "/", [*keyed("k"), ("X-Tenant-ID", t)], b"")) for t, m in asks]

    w = start()
    first = all_of(w)
    stop(w)
    w = start()
    for old, r in zip(first, all_of(w)):
        assert replayed(r).body == old.body
    ran(exchange(w.port, request("POST", "/", [*keyed("k"), ("X-Tenant-ID", "c")], b"")))
    assert up.heads == 7


@pytest.mark.parametrize("on_duplicate, code", [("acknowledge", 204), ("reject", 409)])
def test_keys_without_answers(stored, on_duplicate, code):
    up, start = stored({"on_duplicate": on_duplicate})
    w = start()
    ran(ask(w), 1)
    stop(w)
    w = start()
    r = ask(w)
    assert (r.status, r.weir_reason) == (code, "duplicate")
    problem(ask(w, body=b"x"), 422, "key_mismatch")
    assert up.heads == 1


def test_an_answer_that_was_too_large_stays_a_key(stored):
    up, start = stored({"max_response": "8KiB"}, Numbered(pad=20000))
    w = start()
    ran(ask(w), 1)
    stop(w)
    w = start()
    problem(ask(w), 409, "duplicate")
    assert up.heads == 1


def test_what_was_forgotten_is_not_there(stored):
    handler = Numbered(500)
    up, start = stored(handler=handler)
    w = start()
    assert ask(w).status == 500
    handler.status = 200
    ran(ask(w, "gone"), 2)
    assert w.ask_admin("/dedup/once?key=gone", method="DELETE").status in (200, 204)
    stop(w)
    w = start()
    ran(ask(w), 3)
    ran(ask(w, "gone"), 4)


def test_an_unknown_outcome_stays_one(stored):
    """`at most once` over a restart as well: it may have run."""
    up, start = stored({"on_unknown": "reject"}, lambda peer: peer.run([RESET] if up.heads == 1 else [OK]))
    w = start()
    problem(ask(w), 502, "reset")
    problem(ask(w), 409, "unknown_outcome")
    stop(w)
    w = start()
    problem(ask(w), 409, "unknown_outcome")
    assert up.heads == 1


def test_time_goes_on_over_a_restart(stored):
    """window and keep_responses are counted from the answer, not from the start of the process."""
    up, start = stored({"window": "8s", "lease": "8s", "keep_responses": "4s"})
    w = start()
    ran(ask(w), 1)
    begin = time.monotonic()
    stop(w)
    w = start()
    r = ask(w)
    if time.monotonic() - begin < 3:
        replayed(r, 1)
    wait_until(lambda: ask(w).status == 409, "the answer to go", 10, every=0.1)
    assert time.monotonic() - begin >= 3.5
    stop(w)
    w = start()
    if time.monotonic() - begin < 7:
        problem(ask(w), 409, "duplicate")
    wait_until(lambda: ask(w).status == 200, "the window to end", 15, every=0.1)
    assert 7.5 <= time.monotonic() - begin <= 12, "the window began anew"
    assert up.heads == 2


def test_what_ended_while_it_was_down(stored):
    up, start = stored({"window": "1s", "lease": "1s"})
    w = start()
    ran(ask(w), 1)
    stop(w)
    time.sleep(1.5)
    w = start()
    ran(ask(w), 2)
    assert w.metric("weir_dedup_keys", dedup="once") == 1


def test_a_changed_configuration(stored):
    """A dedup of another name, or with less room, takes what it can and nothing of the others."""
    up, start = stored(handler=Numbered(pad=1000))
    w = start()
    for n in range(1, 101):
        ran(ask(w, f"k{n}"), n)
    stop(w)
    w = start(lambda config: config["dedup"]["once"].update(max_keys=10, memory="8KiB"))
    assert w.metric("weir_dedup_keys", dedup="once") <= 20
    replies = [ask(w, f"k{n}") for n in range(100, 95, -1)]
    assert all(r.status in (200, 409) for r in replies)
    stop(w)

    def rename(config):
        config["dedup"] = {"other": {}}
        config["listeners"]["in"]["routes"][0]["dedup"] = "other"

    w = start(rename)
    ran(ask(w, "k100"))
    replayed(ask(w, "k100"))


def test_a_reload_keeps_writing(stored, file):
    up, start = stored()
    w = start()
    ran(ask(w), 1)
    config = json.loads(w.config_path.read_text())
    config["log"] = {"level": "debug"}
    w.reload(config)
    ran(ask(w, "k2"), 2)
    stop(w)
    w = start()
    replayed(ask(w), 1)
    replayed(ask(w, "k2"), 2)


def test_an_answer_that_came_in_the_drain_is_written(stored, file):
    """The abandoned call of a caller who will ask again - the other weir."""
    go = threading.Event()
    up, start = stored(handler=lambda peer: peer.run([go, reply(200, b"late")]), server={"drain": {"timeout": "10m"}})
    w = start()
    with connect(w.port) as c:
        c.send(request("POST", "/", keyed("k1"), b"{}"))
        up.wait_complete(1)
    time.sleep(0.1)
    w.signal(signal.SIGTERM)
    time.sleep(0.3)
    go.set()
    assert w.wait_exit() == 0
    w = start()
    assert replayed(ask(w)).body == b"late"
    assert up.heads == 1


def test_without_a_file_a_restart_forgets(start_upstream, start_weir):
    up = start_upstream(Numbered())
    config = deduped(up)
    w = start_weir(config)
    ran(ask(w), 1)
    stop(w)
    ran(ask(start_weir(config)), 2)


# ------------------------------------------------------------------------------------------------------------- the file


def test_the_file_is_for_its_owner_only(stored, file):
    """It holds answers."""
    old = os.umask(0)
    try:
        up, start = stored()
        w = start()
        ran(ask(w), 1)
        stop(w)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [f.name for f in file.parent.iterdir()] == [file.name], "something is left beside it"
    finally:
        os.umask(old)


def test_it_is_written_while_weir_runs(stored, file):
    """Every 10 s, whole: the old one or the new one, whenever it is looked at."""
    up, start = stored()
    w = start()
    ran(ask(w), 1)
    wait_written(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = version_of(file)
    ran(ask(w, "k2"), 2)
    wait_written(file, before)
    replayed(ask(w), 1)


def test_killed_after_it_was_written(stored, file):
    """What was written is replayed; what was in flight is forgotten, and runs."""
    go = threading.Event()
    numbered = Numbered(before=lambda n: n == 2 and go.wait(60))
    up, start = stored(handler=numbered)
    w = start(expect_exit=-signal.SIGKILL)
    ran(ask(w), 1)
    with connect(w.port) as c:
        c.send(request("POST", "/", keyed("flying"), b"{}"))
        up.wait_complete(2)
        wait_written(file)
        kill(w)
    go.set()
    w = start()
    replayed(ask(w), 1)
    ran(ask(w, "flying"), 3)
    assert not errors_of(w), errors_of(w)


def test_killed_before_it_was_written(stored, file):
    up, start = stored()
    w = start(expect_exit=-signal.SIGKILL)
    ran(ask(w), 1)
    kill(w)
    w = start()
    assert ask(w).status == 200
    assert not errors_of(w)


def test_killed_in_the_middle_of_a_stream(stored, file):
    go = threading.Event()
    half = reply(200, b"", [("Transfer-Encoding", "chunked")], length=False) + chunk(b"half")
    up, start = stored(handler=lambda peer: peer.run([half, go, CLOSE] if up.heads == 1 else [OK]))
    w = start(expect_exit=-signal.SIGKILL)
    with connect(w.port) as c:
        c.send(request("POST", "/", keyed("k1"), b"{}"))
        c.recv_until(b"half")
        kill(w)
    go.set()
    w = start()
    assert ask(w).body == b"ok"
    replayed(ask(w))


def test_killed_at_any_time_while_it_is_written(stored, file):
    """A few times over a run of keys: whatever is found there is whole, and all of it is what was answered."""
    up, start = stored(handler=lambda peer: reply(200, peer.request.header("Idempotency-Key").encode() * 3000))
    known = []
    for turn in range(3):
        w = start(expect_exit=-signal.SIGKILL)
        assert not errors_of(w), errors_of(w)
        with Caller(w.port) as caller:
            for key in known:
                assert replayed(caller.ask(request("POST", "/", keyed(key), b""))).body == key.encode() * 3000
            before, fresh = version_of(file), []
            for n in range(200):
                fresh.append(f"{turn}-{n}")
                caller.ask(request("POST", "/", keyed(fresh[-1]), b""))
        if turn < 2:
            wait_written(file, before)
            known += fresh
        kill(w)


DAMAGE = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[:len(data) // 2],
    "its end missing": lambda data: data[:-1],
    "more behind it": lambda data: data + b"x",
    "a bit": lambda data: data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:],
    "its first byte": lambda data: bytes([data[0] ^ 0xff]) + data[1:],
    "its last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "foreign": lambda data: b"version: 1\nlisteners: {}\n" * 100,
    "zeros": lambda data: bytes(len(data)),
    "ones": lambda data: b"\xff" * len(data),
    "twice": lambda data: data + data,
    "random": lambda data: random.Random(1).randbytes(len(data)),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_set_aside(stored, file, how):
    up, start = stored()
    w = start()
    for n in range(1, 4):
        ran(ask(w, f"k{n}"), n)
    stop(w)
    damaged = DAMAGE[how](file.read_bytes())
    file.write_bytes(damaged)
    w = start()
    ran(ask(w), 4)
    assert [e for e in errors_of(w) if str(file) in e or file.name in e], w.stderr
    aside = [f for f in file.parent.iterdir() if f != file]
    assert len(aside) == 1 and aside[0].read_bytes() == damaged, list(file.parent.iterdir())
    stop(w)
    w = start()
    replayed(ask(w), 4)
    assert not errors_of(w)


def test_every_bit_of_it_counts(stored, file):
    """Flip one, anywhere: never a crash, never a wrong answer."""
    up, start = stored()
    w = start()
    ran(ask(w), 1)
    stop(w)
    good = file.read_bytes()
    rng = random.Random(3)
    for at in sorted(rng.sample(range(len(good)), min(12, len(good)))):
        for f in file.parent.iterdir():
            f.unlink()
        file.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1:])
        heads = up.heads
        w = start()
        ran(ask(w), heads + 1)
        assert errors_of(w), f"byte {at}"
        stop(w)


def test_damaged_twice(stored, file):
    """The second does not stumble over what the first has set aside."""
    up, start = stored()
    for n in (1, 2, 3):
        file.write_bytes(b"garbage %d" % n)
        w = start()
        ran(ask(w), n)
        stop(w)
    assert file.exists()


def test_a_directory_in_its_place(stored, file):
    up, start = stored()
    file.mkdir()
    w = start()
    ran(ask(w), 1)
    replayed(ask(w), 1)
    assert errors_of(w)
    assert w.stop() == 0


def test_a_missing_directory(stored, file):
    """Neither read nor written: it says so at the start, once, and works; once there is one, so does the file."""
    missing = file.parent / "missing"
    up, start = stored(path=missing / "keys")
    w = start()
    assert len(errors_of(w)) == 1 and "cannot be written: No such file or directory" in errors_of(w)[0]
    ran(ask(w), 1)
    replayed(ask(w), 1)
    missing.mkdir()
    wait_written(missing / "keys")
    assert w.stop() == 0 and len(errors_of(w)) == 1
    assert f"{missing / 'keys'} is written again" in w.stderr


def test_a_directory_that_cannot_be_written(stored, file):
    """As root everything can be written, so the way there is a file: an error in the log, not one a second."""
    blocked = file.parent / "blocked"
    up, start = stored(path=blocked / "keys")
    blocked.write_text("")
    w = start()
    ran(ask(w), 1)
    wait_until(lambda: errors_of(w), "the error", WRITTEN_IN, every=0.2)
    time.sleep(1)
    assert len(errors_of(w)) <= 2, errors_of(w)
    replayed(ask(w), 1)
    assert w.stop() == 0
    assert up.heads == 1


def test_a_full_disk(stored):
    up, start = stored(path="/dev/full")
    w = start(wait_ready=False)
    wait_until(lambda: w.process.poll() is not None or ready(w), "it to start, or to refuse")
    if w.alive():
        ran(ask(w), 1)
        replayed(ask(w), 1)
        assert w.stop() == 0
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode), "a device was replaced by a file"


def ready(w):
    with contextlib.suppress(AssertionError, OSError):
        return w.ready()
    return False


def test_a_full_file_system(stored, tmp_path):
    """What does not fit is said, what was written before stays, and weir goes on."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        up, start = stored(path=small / "keys", handler=lambda peer: reply(200, b"x" * 20000))
        w = start()
        for n in range(3):
            ran(ask(w, f"k{n}"))
        wait_written(small / "keys")
        before = version_of(small / "keys")
        for n in range(3, 20):
            ran(ask(w, f"k{n}"))
        wait_until(lambda: errors_of(w), "the error", WRITTEN_IN, every=0.2)
        assert version_of(small / "keys") == before, "the good one was given up"
        assert w.stop() == 0
        assert [f.name for f in small.iterdir()] == ["keys"], "half a file is left"
        w = start()
        for n in range(3):
            replayed(ask(w, f"k{n}"))
        assert w.stop() == 0
    finally:
        subprocess.run(["umount", small], check=True)


def test_writing_does_not_stop_the_loops(stored, file):
    """Many keys, and requests all the while: none waits for the disk."""
    up, start = stored({"memory": "64MiB", "keep_responses": "1h"}, lambda peer: reply(200, b"x" * 20000))
    w = start()
    with Caller(w.port) as caller:
        for n in range(1500):
            caller.ask(request("POST", "/", keyed(f"k{n}"), b""))
        slowest, before = 0, version_of(file)
        end = time.monotonic() + WRITTEN_IN
        while version_of(file) == before and time.monotonic() < end:
            begin = time.monotonic()
            caller.ask(request("POST", "/", keyed("k1"), b""))
            slowest = max(slowest, time.monotonic() - begin)
    assert version_of(file) != before, "never written"
    assert slowest < 2, f"a request waited {slowest} s"
