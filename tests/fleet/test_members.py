"""Who lives, as each sidecar counts it, and pauses that are lifted by hand."""
import signal
import time

import pytest

from faults import refused, status
from harness import wait_until
from test_shared_pause import OK, chat, paused, pausing


def lift(w, state="auto"):
    r = w.ask_admin(f"/upstreams/agent/breaker?state={state}", method="POST")
    assert r.status == 200, r


def known(w):
    return w.status()["store"]["sidecars"]


@pytest.mark.parametrize("state", ["auto", "closed"])
def test_what_is_lifted_at_one_is_lifted_at_all_and_does_not_come_back(redis, start_faulty, start_fleet, state):
    up = start_faulty(status(429, retry_after=60), OK)
    fleet = start_fleet(3, pausing(up, redis))
    assert chat(fleet[0]).status == 429
    for w in fleet:
        wait_until(lambda: paused(w), "the pause")
    lift(fleet[1], state)
    assert not paused(fleet[1])                 # there at once
    for w in fleet:
        wait_until(lambda: not paused(w), "the lift")
    for _ in range(8):                          # some beats
        time.sleep(0.1)
        assert not any(paused(w) for w in fleet)
    assert [chat(w).status for w in fleet] == [200] * 3
    up.answers(status(429, retry_after=60), OK)
    assert chat(fleet[2]).status == 429         # another 429 counts
    for w in fleet:
        wait_until(lambda: paused(w), "the second pause")
        refused(chat(w), "throttled", "openai")


def test_what_is_lifted_without_redis_is_told_when_it_is_back(redis, start_redis_proxy, start_faulty, start_fleet):
    cut = start_redis_proxy(redis)
    up = start_faulty(status(429, retry_after=60), OK)
    fleet = start_fleet(2, lambda i: pausing(up, (cut, redis)[i]))
    assert chat(fleet[1]).status == 429
    wait_until(lambda: paused(fleet[0]), "the pause")
    cut.refuse(), cut.drop()
    fleet[0].wait_metric("weir_store_up", 0)
    lift(fleet[0])
    assert not paused(fleet[0]) and paused(fleet[1])
    cut.accept()
    wait_until(lambda: not paused(fleet[1]), "the lift")
    for _ in range(5):
        time.sleep(0.1)
        assert not any(paused(w) for w in fleet)


def test_an_upstream_of_another_name_or_url_is_another_one(redis, start_faulty, start_fleet):
    up, other = start_faulty(status(429, retry_after=60), OK), start_faulty(OK)
    fleet = start_fleet(3, lambda i: pausing((up, up, other)[i], redis))
    assert chat(fleet[0]).status == 429
    wait_until(lambda: paused(fleet[1]), "the pause")
    time.sleep(0.6)
    assert not paused(fleet[2])
    lift(fleet[2])                              # which has none
    time.sleep(0.6)
    assert paused(fleet[0]) and paused(fleet[1])


def test_who_drains_is_not_counted_from_then_on(redis, start_upstream, start_fleet):
    config = pausing(start_upstream(), redis)
    fleet = start_fleet(3, config)
    fleet.know_each_other()
    fleet[2].signal(signal.SIGTERM)
    for w in fleet[0], fleet[1]:
        wait_until(lambda: known(w) == 2, "the third to be gone")
    assert fleet[2].process.wait(10) == 0
    assert redis.ask("ZCARD", "weir:{fleet}:alive") == 2


def test_who_is_killed_is_counted_for_thirty_seconds(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, pausing(start_upstream(), redis))
    fleet.know_each_other()
    fleet.kill(1)
    time.sleep(1)
    assert known(fleet[0]) == 2
    ends = min(map(float, redis.ask("ZRANGE", "weir:{fleet}:alive", 0, -1, "WITHSCORES")[1::2]))
    assert 20 < ends / 1000 - int(redis.ask("TIME")[0]) < 30


@pytest.mark.parametrize("how", ["flushed", "restarted"])
def test_a_redis_that_forgot_who_lives_does_not_make_them_fewer(redis, start_upstream, start_fleet, how):
    fleet = start_fleet(3, pausing(start_upstream(), redis))
    fleet.know_each_other()
    if how == "flushed":
        redis.ask("FLUSHALL")
    else:
        redis.restart()
    seen = set()
    began = time.monotonic()
    while time.monotonic() - began < 3.5:
        seen |= {known(w) for w in fleet}
        time.sleep(0.02)
    assert seen == {3}
    assert redis.ask("ZCARD", "weir:{fleet}:alive") == 3
