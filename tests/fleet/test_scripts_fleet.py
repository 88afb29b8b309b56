"""beat.lua and pause.lua, run by a real redis."""
import pathlib

import pytest
from harness import wait_until

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "filters" / "redis"
ALIVE, PAUSES, LIFTED = KEYS = ["weir:{fleet}:alive", "weir:{fleet}:pauses", "weir:{fleet}:lifted"]
ALIVE_MS = 30000
OPENAI, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def ask(redis):
    with redis.connect() as client:
        yield client


def run(ask, name, keys, *args):
    return ask("EVAL", (SCRIPTS / f"{name}.lua").read_text(), len(keys), *keys, *args)


def beat(ask, sidecar="a", alive_ms=ALIVE_MS, lift=()):
    """(sidecars, lifted, {member: (left, ends)})"""
    alive, _, lifted, rows = run(ask, "beat", KEYS, sidecar, alive_ms, *lift)
    return alive, [text.decode() for text in lifted], {rows[i].decode(): (rows[i + 1], rows[i + 2]) for i in range(0, len(rows), 3)}


def pause(ask, member, ms):
    return run(ask, "pause", [PAUSES], member, ms)


def member(n, upstream=OPENAI):
    return f"{upstream}{n:032x}"


def now_ms(ask):
    seconds, micros = ask("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def test_who_beats_is_counted_until_its_time_is_over(ask):
    assert beat(ask, "a")[0] == 1
    assert beat(ask, "b")[0] == 2
    assert beat(ask, "a")[0] == 2
    assert 0 < ask("PTTL", ALIVE) <= ALIVE_MS
    assert beat(ask, "c", 50)[0] == 3
    assert ask("PTTL", ALIVE) > 50                        # the others' is longer
    wait_until(lambda: beat(ask, "a")[0] == 2, "the third to be given up")
    assert beat(ask, "c", 50)[0] == 3


def test_who_leaves_is_not_counted_any_more_and_hears_what_is_paused(ask):
    pause(ask, member(1), 10000)
    beat(ask, "a"), beat(ask, "b")
    alive, _, pauses = beat(ask, "a", 0)
    assert alive == 1 and list(pauses) == [member(1)]
    assert beat(ask, "b")[0] == 1
    assert beat(ask, "b", 0)[0] == 0
    assert ask("EXISTS", ALIVE) == 0
    assert beat(ask, "never came", 0)[0] == 0


def test_whether_it_was_alive_before_is_told(ask):
    def was(sidecar, alive_ms=ALIVE_MS):
        return run(ask, "beat", KEYS, sidecar, alive_ms)[1]
    assert [was("a"), was("a"), was("b"), was("a"), was("a", 0), was("a", 0), was("a", 20)] == [0, 1, 0, 1, 1, 0, 0]
    wait_until(lambda: beat(ask, "b")[0] == 1, "the first to be given up")
    assert was("a") == 0
    ask("FLUSHALL")
    assert [was("b"), was("b")] == [0, 1]


def test_the_pause_that_ends_last_holds(ask):
    assert pause(ask, member(1), 5000) == 5000
    assert 7900 <= pause(ask, member(1), 8000) <= 8000
    assert 5000 < pause(ask, member(1), 5000) <= 8000
    pause(ask, member(2), 60000)
    assert pause(ask, member(3), 0) == 0                  # none
    _, lifted, pauses = beat(ask)
    assert lifted == [] and list(pauses) == [member(2), member(1)]
    left, ends = pauses[member(1)]
    assert 5000 < left <= 8000 and abs(ends - left - now_ms(ask)) < 5000
    assert 50000 < ask("PTTL", PAUSES) <= 60000           # as long as the last of them


def test_a_pauses_end_names_it(ask):
    pause(ask, member(1), 20000)
    first, again = beat(ask)[2][member(1)], beat(ask)[2][member(1)]
    assert first[1] == again[1]
    pause(ask, member(1), 10)
    assert beat(ask)[2][member(1)][1] == first[1]
    pause(ask, member(1), 30000)
    assert beat(ask)[2][member(1)][1] > first[1]


def test_what_is_over_is_not_told_and_goes(ask):
    pause(ask, member(1), 30), pause(ask, member(2), 60000)
    wait_until(lambda: list(beat(ask)[2]) == [member(2)], "the end of a pause")
    pause(ask, member(2), 1)
    assert ask("ZCARD", PAUSES) == 1
    pause(ask, member(3), 60000)
    ask("ZREM", PAUSES, member(2), member(3))
    pause(ask, member(4), 20)
    wait_until(lambda: ask("EXISTS", PAUSES) == 0, "the key's own end")
    assert beat(ask)[2] == {}


def test_both_tables_are_bounded_and_those_that_end_last_stay(ask):
    order = [(n * 7) % 1100 for n in range(1100)]
    for n in order:
        pause(ask, member(n), 1000000 + 1000 * n)
    assert ask("ZCARD", PAUSES) == 1024
    assert ask("ZSCORE", PAUSES, member(75)) is None and ask("ZSCORE", PAUSES, member(76)) is not None
    pause(ask, member(5000), 1000)                        # the new one ends first
    assert ask("ZSCORE", PAUSES, member(5000)) is None
    told = list(beat(ask)[2])
    assert told == [member(n) for n in range(1099, 1099 - 128, -1)]


def test_a_lift_ends_the_upstreams_pauses_alone_and_all_hear_of_it(ask):
    pause(ask, member(1), 60000), pause(ask, member(2), 50000), pause(ask, member(3, OTHER), 40000)
    _, lifted, pauses = beat(ask, lift=[OPENAI])
    assert list(pauses) == [member(3, OTHER)]
    assert len(lifted) == 1 and lifted[0].startswith(OPENAI)
    _, heard, left = beat(ask, "b")
    assert heard == lifted and {m: end for m, (_, end) in left.items()} == {m: end for m, (_, end) in beat(ask)[2].items()}
    assert list(left) == [member(3, OTHER)]
    assert 50000 < ask("PTTL", LIFTED) <= 60000           # as long as what was lifted could have lasted
    pause(ask, member(1), 60000)                          # a later 429
    assert member(1) in beat(ask, "b")[2]
    _, again, pauses = beat(ask, lift=[OPENAI])
    assert len(again) == 1 and again != lifted and again[0].startswith(OPENAI) and member(1) not in pauses


def test_a_lift_of_nothing_is_heard_too(ask):
    _, lifted, pauses = beat(ask, lift=[OPENAI, OTHER])
    assert sorted(text[:16] for text in lifted) == [OPENAI, OTHER] and pauses == {}
    assert 5000 < ask("PTTL", LIFTED) <= 10000
    ask("ZADD", LIFTED, now_ms(ask) - 1, lifted[0])
    assert beat(ask)[1] == lifted[1:]


def test_lifts_are_bounded(ask):
    for n in range(200):
        beat(ask, lift=[f"{n:016x}"])
    assert ask("ZCARD", LIFTED) == 128


def test_every_key_ends_by_itself(ask):
    pause(ask, member(1), 60000)
    beat(ask, "a"), beat(ask, "b", 100), beat(ask, "a", lift=[OTHER])
    assert all(0 < ask("PTTL", key) <= 60000 for key in KEYS)
    ask("DEL", *KEYS)
    assert beat(ask, "a", 0) == (0, [], {})
    assert ask("EXISTS", *KEYS) == 0
