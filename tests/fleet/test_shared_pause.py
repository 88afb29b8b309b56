"""throttle.shared: what one sidecar learns from a 429 keeps the whole fleet from asking that upstream for that model with that credential;
redis gone, each learns for itself."""
import time

import pytest

from faults import ask_of, breaker_state, refused, status
from fleet import with_redis
from harness import base_config, merge, reply, request, exchange, wait_until

OK = reply(200, b"ok")


def pausing(up, server, throttle=None, dialect="openai", **agent):
    config = base_config(up.url, agent={"dialect": dialect, "retry": False, "breaker": {} if throttle is None else {"throttle": throttle}})
    merge(config["upstreams"]["agent"], agent)
    return with_redis(config, server)


def chat(w, model="gpt-5", key="k1"):
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {key}")]
    return exchange(w.port, request("POST", "/v1/chat/completions", headers, ask_of(model)))


def paused(w):
    return breaker_state(w) == "paused"


def test_a_429_pauses_the_fleet(redis, start_faulty, start_fleet):
    up = start_faulty(status(429, retry_after=3), OK)
    fleet = start_fleet(3, pausing(up, redis))
    began = time.monotonic()
    assert chat(fleet[0]).status == 429
    for w in fleet[1], fleet[2]:
        wait_until(lambda: paused(w), "the pause", timeout=1)
    assert time.monotonic() - began < 1.5
    for w in fleet:
        assert 1 <= refused(chat(w), "throttled", "openai") <= 3
    assert len(up.requests) == 1
    for w in fleet:
        wait_until(lambda: chat(w).status == 200, "the end of the pause", timeout=6, every=0.03)
    assert min(r.started for r in up.requests[1:]) - began >= 2.9
    assert time.monotonic() - began < 5 and not any(paused(w) for w in fleet)


def test_only_that_model_and_credential(redis, start_faulty, start_fleet):
    up = start_faulty(status(429, retry_after=30), OK)
    fleet = start_fleet(2, pausing(up, redis))
    assert chat(fleet[0], "gpt-5", "k1").status == 429
    wait_until(lambda: paused(fleet[1]), "the pause", timeout=2)
    refused(chat(fleet[1], "gpt-5", "k1"), "throttled", "openai")
    assert chat(fleet[1], "gpt-5", "k2").status == 200
    assert chat(fleet[1], "gpt-5-mini", "k1").status == 200


@pytest.mark.parametrize("dialect, code", [("anthropic", 529), ("openai", 529)])
def test_a_529_too(redis, start_faulty, start_fleet, dialect, code):
    up = start_faulty(status(code, retry_after=30), OK)
    fleet = start_fleet(2, pausing(up, redis, dialect=dialect))
    assert chat(fleet[0]).status == code
    wait_until(lambda: paused(fleet[1]), "the pause", timeout=2)
    refused(chat(fleet[1]), "throttled", dialect)


@pytest.mark.parametrize("first", [0, 1])
def test_the_longest_of_two_counts(redis, start_faulty, start_fleet, first):
    """Both are told to wait before either has heard of the other: one for a second, one for thirty."""
    long, short = status(429, retry_after=30), status(429, retry_after=1)
    up = start_faulty(*((long, short) if first == 0 else (short, long)), OK)
    fleet = start_fleet(2, pausing(up, redis))
    redis.pause()                                     # so that they do not
    assert [chat(w).status for w in fleet] == [429, 429]
    redis.resume()
    time.sleep(1.5)
    for w in fleet:
        assert refused(chat(w), "throttled", "openai") > 20
    assert len(up.requests) == 2


def test_not_shared(redis, start_faulty, start_fleet):
    """`shared: false`, and `throttle: false`, say nothing to the others."""
    up = start_faulty(status(429, retry_after=30), status(429, retry_after=30), OK)
    fleet = start_fleet(2, pausing(up, redis, {"shared": False}))
    assert chat(fleet[0]).status == 429
    time.sleep(1)
    assert not paused(fleet[1]) and chat(fleet[1]).status == 429
    assert not redis.keys().get("weir:{fleet}:pauses")


def test_who_starts_later_learns_it(redis, start_faulty, start_fleet):
    up = start_faulty(status(429, retry_after=30), OK)
    config = pausing(up, redis)
    assert chat(start_fleet(1, config)[0]).status == 429
    wait_until(lambda: "weir:{fleet}:pauses" in redis.keys(), "the pause to be told")
    late = start_fleet(1, config)
    wait_until(lambda: paused(late[0]), "the pause", timeout=2)
    assert refused(chat(late[0]), "throttled", "openai") > 20


def test_the_pause_is_no_longer_than_max(redis, start_faulty, start_fleet):
    up = start_faulty(status(429, retry_after=1000), OK)
    fleet = start_fleet(2, pausing(up, redis, {"max": "1500ms"}))
    began = time.monotonic()
    assert chat(fleet[0]).status == 429
    wait_until(lambda: paused(fleet[1]), "the pause", timeout=1)
    wait_until(lambda: chat(fleet[1]).status == 200, "its end", timeout=5, every=0.03)
    assert 1.4 < time.monotonic() - began < 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_redis_each_for_itself(redis, start_faulty, start_fleet, when):
    up = start_faulty(status(429, retry_after=30), OK)
    fleet = start_fleet(2, pausing(up, redis))
    if when == "before":
        redis.kill()
        fleet.wait_up(0)
    assert chat(fleet[0]).status == 429
    if when == "after":
        wait_until(lambda: paused(fleet[1]), "the pause", timeout=2)
        redis.kill()
        fleet.wait_up(0)
        refused(chat(fleet[0]), "throttled", "openai")
        return
    time.sleep(0.6)
    refused(chat(fleet[0]), "throttled", "openai")
    assert not paused(fleet[1]) and chat(fleet[1]).status == 200


def test_it_is_told_when_redis_is_back(redis, start_faulty, start_fleet):
    """A pause that began while redis was away is nobody's loss: after its return the next 429 is told again."""
    up = start_faulty(status(429, retry_after=1), OK)
    fleet = start_fleet(2, pausing(up, redis))
    redis.kill()
    fleet.wait_up(0)
    assert chat(fleet[0]).status == 429
    redis.start()
    fleet.wait_up(1)
    wait_until(lambda: chat(fleet[0]).status == 200, "the end of the pause", timeout=4)
    up.answers(status(429, retry_after=30), OK)
    assert chat(fleet[0]).status == 429
    wait_until(lambda: paused(fleet[1]), "the pause", timeout=2)


def test_no_credential_stands_in_redis(redis, start_faulty, start_fleet):
    up = start_faulty(status(429, retry_after=30), OK)
    fleet = start_fleet(2, pausing(up, redis))
    assert chat(fleet[0], key="sk-very-secret").status == 429
    wait_until(lambda: paused(fleet[1]), "the pause", timeout=2)
    members = redis.ask("ZRANGE", "weir:{fleet}:pauses", 0, -1)
    assert len(members) == 1 and b"secret" not in members[0] and b"gpt-5" not in members[0], members


def test_many_pauses(redis, start_faulty, start_fleet):
    """Four hundred credentials: all are paused where they were told; the others hear of some, and none of it grows."""
    up = start_faulty(status(429, retry_after=2))
    fleet = start_fleet(2, pausing(up, redis))
    for n in range(400):
        assert chat(fleet[0], key=f"key{n}").status == 429
    wait_until(lambda: paused(fleet[1]), "some pause", timeout=2)
    wait_until(lambda: redis.ask("ZCARD", "weir:{fleet}:pauses") <= 400, "the set")
    wait_until(lambda: not redis.ask("EXISTS", "weir:{fleet}:pauses") or redis.ask("ZCARD", "weir:{fleet}:pauses") == 0,
               "all of it to go", timeout=8, every=0.1)
