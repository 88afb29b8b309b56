"""claim.lua, renew.lua, end.lua, drop.lua and bloom.lua, run by a real redis: each against a model of what it is for."""
import os
import pathlib
import random
import time

import pytest
from harness import wait_until

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "filters" / "redis"
STATE, ANSWER = KEYS = ["weir:{k}:d:orders", "weir:{k}:a:orders"]
LEASE, WINDOW, KEEP = 30000, 86400000, 3600000


@pytest.fixture
def run(redis):
    with redis.connect() as client:
        texts = {name: (SCRIPTS / f"{name}.lua").read_text() for name in ("claim", "renew", "end", "drop", "bloom")}
        shas = {name: client("SCRIPT", "LOAD", text) for name, text in texts.items()}

        def call(name, keys, *args):
            return client("EVALSHA", shas[name], len(keys), *keys, *args)
        call.ask = client
        yield call


def claim(run, owner, fingerprint="0", lease=LEASE, wants=1 << 20, compares=1, keys=KEYS):
    told = run("claim", keys, owner, fingerprint, lease, wants, compares)
    return [word.decode() if isinstance(word, bytes) and i == 0 else word for i, word in enumerate(told)]


def renew(run, owner, fingerprint="0", lease=LEASE, keys=KEYS):
    return run("renew", keys[:1], owner, fingerprint, lease)


def end(run, owner, how, fingerprint="0", window=WINDOW, keep=KEEP, answer="", keys=KEYS):
    return run("end", keys, owner, fingerprint, how, window, keep, answer)


# -- the state machine --------------------------------------------------------------------------------------------------

def test_one_runs_and_the_others_are_told_whose_it_is(run):
    assert claim(run, "a-1") == ["run"]
    assert 0 < run.ask("PTTL", STATE) <= LEASE
    told, owner, left = claim(run, "b-1")
    assert (told, owner) == ("flight", b"a-1") and 0 < left <= LEASE
    assert claim(run, "a-1") == ["run"]                   # asked twice, as after a redirection
    assert end(run, "b-1", "done") == 0 and claim(run, "b-1")[0] == "flight"
    assert end(run, "a-1", "done", answer=b"\0bytes\xff") == 1
    assert claim(run, "b-1") == ["done", b"\0bytes\xff"]
    assert claim(run, "b-1", wants=0) == ["done", None]
    assert claim(run, "b-1", wants=7) == ["done", b"\0bytes\xff"] and claim(run, "b-1", wants=6) == ["done", None]
    assert 0 < run.ask("PTTL", ANSWER) <= KEEP < run.ask("PTTL", STATE) <= WINDOW


def test_a_lease_ends_by_itself_and_is_renewed(run):
    assert claim(run, "a-1", lease=60) == ["run"]
    assert renew(run, "a-1", lease=60000) == 1
    assert run.ask("PTTL", STATE) > 50000
    assert renew(run, "b-1") == 0
    assert renew(run, "a-1", lease=40) == 1
    wait_until(lambda: claim(run, "b-1") == ["run"], "the lease to end", every=0.01)
    assert renew(run, "a-1") == 0 and end(run, "a-1", "free") == 0 and end(run, "a-1", "done") == 0
    assert claim(run, "c-1")[:2] == ["flight", b"b-1"]


def test_what_was_flushed_is_its_owners_again_or_done_all_the_same(run):
    assert claim(run, "a-1", "f1") == ["run"]
    run.ask("FLUSHALL")
    assert renew(run, "a-1", "f1") == 1
    assert claim(run, "b-1", "f2") == ["other"]
    run.ask("FLUSHALL")
    assert end(run, "a-1", "free") == 0 and run.ask("DBSIZE") == 0
    assert end(run, "a-1", "done", "f1", answer="x") == 1
    assert claim(run, "b-1", "f1") == ["done", b"x"]
    run.ask("FLUSHALL")
    assert claim(run, "b-1") == ["run"]
    assert renew(run, "a-1") == 0 and end(run, "a-1", "done") == 0


def test_fingerprints_are_compared_where_both_have_one(run):
    assert claim(run, "a-1", "f1") == ["run"]
    assert claim(run, "b-1", "f2") == ["other"]           # in flight, too
    assert claim(run, "b-1", "f2", compares=0)[0] == "flight"
    assert claim(run, "b-1", "0")[0] == "flight"
    assert end(run, "a-1", "done", "f1") == 1
    assert claim(run, "b-1", "f2") == ["other"]
    assert claim(run, "b-1", "f1") == ["done", None]
    assert claim(run, "b-1", "0") == ["done", None]
    run.ask("FLUSHALL")
    assert claim(run, "a-1", "0") == ["run"]
    assert claim(run, "b-1", "f2")[0] == "flight"


@pytest.mark.parametrize("how", ["done", "unknown"])
def test_an_answer_of_an_earlier_run_is_not_given_for_a_later_one(run, how):
    run.ask("SET", ANSWER, "old", "PX", KEEP)
    assert claim(run, "a-1") == ["run"]
    assert end(run, "a-1", how) == 1
    assert claim(run, "b-1") == (["done", None] if how == "done" else ["unknown"])
    assert run.ask("EXISTS", ANSWER) == 0


def test_by_hand(run):
    assert run("drop", KEYS) == 0
    assert claim(run, "a-1", "f1") == ["run"]
    assert run("drop", KEYS) == 1 and run("drop", KEYS) == 0
    assert renew(run, "a-1", "f1") == 2                   # it goes on
    assert claim(run, "b-1", "f2") == ["run"]             # and is in nobody's way
    assert renew(run, "a-1", "f1") == 2 and renew(run, "b-1", "f2") == 1
    assert run("drop", KEYS) == 1
    assert renew(run, "a-1", "f1") == renew(run, "b-1", "f2") == 2 and renew(run, "a-") == renew(run, "1") == 0
    assert end(run, "a-1", "done", answer="x") == 0 and end(run, "b-1", "done", answer="x") == 0
    assert claim(run, "c-1") == ["run"]                   # neither is remembered
    assert end(run, "c-1", "done", answer="x") == 1
    assert run("drop", KEYS) == 1 and run.ask("DBSIZE") == 0


def test_a_key_of_another_type_is_an_error_and_stays(run):
    run.ask("SET", STATE, "x", "PX", 60000)
    for call in (lambda: claim(run, "a-1"), lambda: renew(run, "a-1"), lambda: end(run, "a-1", "done"), lambda: run("drop", KEYS)):
        with pytest.raises(Exception, match="WRONGTYPE"):
            call()
    assert run.ask("GET", STATE) == b"x"


class Model:
    """filters/core/claim.h, as far as scripts tell; the end of a time is told by `end_time`."""

    def __init__(self):
        self.state, self.owner, self.fingerprint, self.answer, self.forgotten = "free", None, "0", None, set()

    def is_other(self, fingerprint, compares):
        return compares and fingerprint != "0" != self.fingerprint and fingerprint != self.fingerprint

    def claim(self, owner, fingerprint, wants, compares):
        if self.state == "free" or self.owner == "" or (self.owner == owner and not self.is_other(fingerprint, compares)):
            self.state, self.owner, self.fingerprint = "in_flight", owner, fingerprint
            return ["run"]
        if self.is_other(fingerprint, compares):
            return ["other"]
        if self.state == "in_flight":
            return ["flight", self.owner.encode()]
        return ["done", self.answer if wants else None] if self.state == "done" else ["unknown"]

    def renew(self, owner, fingerprint):
        if self.state == "free":
            self.state, self.owner, self.fingerprint = "in_flight", owner, fingerprint
        if self.state == "in_flight" and self.owner == owner:
            return 1
        return 2 if owner in self.forgotten else 0

    def end(self, owner, how, fingerprint, answer):
        if self.state != "free" and not (self.state == "in_flight" and self.owner == owner):
            return 0
        if how == "free":
            was = self.state != "free"
            self.end_time()
            return int(was)
        self.state, self.owner, self.fingerprint, self.answer = how, None, fingerprint, answer or None
        return 1

    def drop(self):
        if self.state == "free" or self.owner == "":
            return 0
        if self.state == "in_flight":
            self.forgotten.add(self.owner)
            self.owner = ""
        else:
            self.end_time()
            self.answer = None
        return 1

    def end_time(self):
        self.state, self.owner, self.fingerprint = "free", None, "0"
        self.forgotten = set()


def test_chance_finds_nothing_that_the_claim_core_would_not_do(run):
    seed = int(os.environ.get("WEIR_SEED", time.time_ns() % 2**32))
    print(f"WEIR_SEED={seed}")
    rng = random.Random(seed)
    for round_ in range(60):
        keys, model = [f"weir:{{{round_}}}:d:orders", f"weir:{{{round_}}}:a:orders"], Model()
        fingerprints = {f"{side}-{n}": rng.choice(["0", "f1", "f1", "f2"]) for side in "ab" for n in range(3)}
        for _ in range(80):
            owner = rng.choice(list(fingerprints))
            fingerprint, doing = fingerprints[owner], rng.choices(
                ["claim", "renew", "end", "drop", "time", "answer"], [8, 4, 6, 1, 2, 1])[0]
            if doing == "claim":
                wants, compares = rng.choice([0, 1 << 20]), rng.randrange(2)
                told = claim(run, owner, fingerprint, wants=wants, compares=compares, keys=keys)
                assert told[:2] == model.claim(owner, fingerprint, wants, compares)
            elif doing == "renew":
                assert renew(run, owner, fingerprint, keys=keys) == model.renew(owner, fingerprint)
            elif doing == "end":
                how, answer = rng.choice(["done", "free", "unknown"]), rng.choice([b"", b"x", b"yy"])
                answer = answer if how == "done" else b""
                assert end(run, owner, how, fingerprint, answer=answer, keys=keys) == model.end(owner, how, fingerprint, answer)
            elif doing == "drop":
                assert run("drop", keys) == model.drop()
            elif doing == "time":                         # the lease ends, or the window
                run.ask("DEL", keys[0])
                model.end_time()
            else:                                         # keep_responses
                run.ask("DEL", keys[1])
                model.answer = None
            assert bool(run.ask("EXISTS", keys[0])) == (model.state != "free")
            if model.state != "free":
                assert 0 < run.ask("PTTL", keys[0]) <= WINDOW


def test_one_of_many_that_ask_at_once_runs(redis, run):
    """Every owner stops before its lease ends by its own count; so two never run at once."""
    clients = [redis.connect() for _ in range(8)]
    sha = run.ask("SCRIPT", "LOAD", (SCRIPTS / "claim.lua").read_text())
    try:
        for n in range(200):
            for i, c in enumerate(clients):
                words = [w.encode() for w in ("EVALSHA", sha.decode(), "2", f"{{{n}}}s", f"{{{n}}}a", f"o-{i}", "0", "30000", "1", "1")]
                c.sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
            assert sorted(c.read()[0] for c in clients) == [b"flight"] * 7 + [b"run"]
    finally:
        for c in clients:
            c.sock.close()


# -- exact: false ---------------------------------------------------------------------------------------------------------

class Bloom:
    """Keys as redis_bloom.c would have them: hashes that are drawn."""

    def __init__(self, run, name, window, bits, hashes):
        self.run, self.keys, self.window, self.bits, self.hashes = run, [f"weir:{{bloom:{name}}}:{i}" for i in (0, 1)], window, bits, hashes

    def seen(self, key):
        rng = random.Random(key)
        return self.run("bloom", self.keys, self.window, *[rng.randrange(self.bits) for _ in range(self.hashes)])


def now_ms(run):
    seconds, micros = run.ask("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def test_bitmaps_know_what_they_saw_and_seldom_what_they_did_not(run):
    expected, bits, hashes = 2000, 2000 * 15, 11          # a rate of 3/4 of 1/1000
    bloom = Bloom(run, "rate", 3600000, bits, hashes)
    first = [bloom.seen(n) for n in range(expected)]
    assert sum(first) <= 10                               # while they are filled; 0.15 is expected
    assert all(bloom.seen(n) for n in range(expected))
    assert sum(bloom.seen(f"other {n}") for n in range(400)) <= 8
    assert all(0 < run.ask("PTTL", key) <= 7200000 for key in bloom.keys if run.ask("EXISTS", key))


def test_a_key_is_seen_for_a_whole_window_across_a_turn_and_not_for_ever(run):
    window = 400
    bloom = Bloom(run, "turns", window, 10000, 7)
    for n in range(6):                                    # wherever in a window it begins
        time.sleep(0.07 * n)
        began = now_ms(run)
        assert bloom.seen(f"key {n}") == 0
        noted = now_ms(run)
        while True:
            before = now_ms(run)
            is_seen = bloom.seen(f"key {n}")
            after = now_ms(run)
            if not is_seen:
                break
            assert before < (noted // window + 2) * window, "it is known for longer than two windows"
            time.sleep(0.01)
        assert after >= (began // window + 2) * window, "it was forgotten within its second window"


def test_what_stands_there_from_an_earlier_turn_is_not_taken_for_this_one(run):
    """The moment at which a bitmap ends and is to be filled again: had it stayed, it would be filled twice."""
    window = 3600000
    bloom = Bloom(run, "stale", window, 10000, 7)
    filled = bloom.keys[now_ms(run) // window % 2]
    run.ask("SETBIT", filled, 9999, 1)
    run.ask("PEXPIRE", filled, 5000)
    assert bloom.seen("key") == 0 and bloom.seen("key") == 1
    assert run.ask("GETBIT", filled, 9999) == 0 or random.Random("key").randrange(10000) == 9999
    assert run.ask("PTTL", filled) > window / 2


def test_a_flushed_bitmap_begins_anew(run):
    bloom = Bloom(run, "flushed", 3600000, 10000, 7)
    assert [bloom.seen("key"), bloom.seen("key")] == [0, 1]
    run.ask("FLUSHALL")
    assert [bloom.seen("key"), bloom.seen("key")] == [0, 1]
