"""What redis answers in place of what was asked for: errors, other types, half of it, too much, too late, or nothing. Nobody is
lost, nobody gets another's answer, and what was charged once is not charged again."""
import random
import threading
import time

import pytest

from fleet import Steady, admitted, burst_of, get_raw, limited, only, overheads, store_lines, with_redis
from harness import base_config, connect, exchange, get, reply, request, sanitized, wait_until
from redis_proxy import everything, limits
from support import deduped, keyed, parse_limit_field, rate_limit
from test_exact import Held
from test_outages import BACK, ask, mixed, right

ERRORS = {
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "WRONGTYPE": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "BUSY": b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN The cluster is down\r\n",
    "MOVED": b"-MOVED 0 127.0.0.1:1\r\n",
    "ASK": b"-ASK 0 127.0.0.1:1\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "NOPERM": b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
    "NOSCRIPT": b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
    "TRYAGAIN": b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    "ERR": b"-ERR something that nobody foresaw\r\n",
    "no word": b"-\r\n",
}
VALUES = {
    "nil": b"$-1\r\n",
    "nil list": b"*-1\r\n",
    "number": b":1\r\n",
    "text": b"+OK\r\n",
    "empty": b"$0\r\n\r\n",
    "empty list": b"*0\r\n",
    "short list": b"*2\r\n:1\r\n:5\r\n",
    "long list": b"*200\r\n" + b":1\r\n" * 200,
    "texts": b"*6\r\n" + b"$1\r\n1\r\n" * 6,
    "nils": b"*6\r\n" + b"$-1\r\n" * 6,
    "negative": b"*6\r\n" + b":-9223372036854775808\r\n" * 6,
    "greatest": b"*6\r\n" + b":9223372036854775807\r\n" * 6,
    "errors within": b"*6\r\n:1\r\n" + b"-ERR no\r\n" * 5,
    "an unknown word": b"*1\r\n$5\r\nmaybe\r\n",
}
BROKEN = {
    "nested": b"*1\r\n" * 20 + b":1\r\n",
    "$-2": b"$-2\r\n",
    "*-2": b"*-2\r\n",
    "giant list": b"*100000000\r\n",
    "giant text": b"$1000000000\r\n",
    "overflow": b"$99999999999999999999\r\n",
    "garbage": b"\x00\xff what is this?\r\n\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "a number that is none": b":12x\r\n",
    "no end": b"$3\r\nabcdef\r\n",
    "a very long line": b"+" + b"x" * 70_000 + b"\r\n",
    "unknown type": b"@6\r\n:1\r\n",
    "RESP3": b"%1\r\n+a\r\n:1\r\n",
    "push": b">2\r\n+message\r\n+x\r\n",
    "null of RESP3": b"_\r\n",
}


def faults_in_turn(redis, proxy, start_upstream, start_fleet, faults, times, executes=True):
    """All of them one after the other under one load; after each, redis is used again."""
    fleet = start_fleet(2, mixed(start_upstream(), proxy))
    fleet.know_each_other()
    slow = {}
    with Steady(fleet, ask, threads=3) as load:
        for name, raw in faults.items():
            proxy.fired = 0
            proxy.answer(raw, times)
            proxy.executes &= executes
            wait_until(lambda: proxy.fired, f"{name}: the fault to be met")
            load.go_on(0.1)
            load.more()
            proxy.heal()
            healed = time.monotonic()
            fleet.wait_up(1, timeout=BACK + 5)
            slow[name] = time.monotonic() - healed
            load.more()
            assert not load.lost, (name, load.lost[:3])
            for w in fleet:
                assert w.alive(), (name, w.stderr[-2000:])
    answers = load.none_lost()
    right(answers)
    assert max(slow.values()) < BACK, slow
    assert not overheads(fleet, 250 + (400 if not sanitized() else 2000))
    with Steady(fleet, ask, threads=2) as load:
        load.more()
    right(load.none_lost(), down=False)
    return fleet, answers


@pytest.mark.parametrize("times", [1, None])
def test_errors(redis, proxy, start_upstream, start_fleet, times):
    fleet, answers = faults_in_turn(redis, proxy, start_upstream, start_fleet, ERRORS, times)
    took = len([a for a in admitted(answers) if a.tag == "small"])
    assert took <= 60 + len(ERRORS) * 60, took


@pytest.mark.parametrize("times", [1, None])
def test_values_of_another_kind(redis, proxy, start_upstream, start_fleet, times):
    faults_in_turn(redis, proxy, start_upstream, start_fleet, VALUES, times, executes=False)


@pytest.mark.parametrize("times", [1, None])
def test_what_is_no_reply(redis, proxy, start_upstream, start_fleet, times):
    fleet, _ = faults_in_turn(redis, proxy, start_upstream, start_fleet, BROKEN, times)
    assert proxy.connections > len(BROKEN), "the connection is dropped"
    for w in fleet:
        assert w.rss_kb() < 200_000 or sanitized()


def test_one_reply_too_many(redis, proxy, start_upstream, start_fleet):
    """It cannot be the answer to what was asked: the connection is not used on."""
    faults_in_turn(redis, proxy, start_upstream, start_fleet, {"extra": "extra"}, 1)


@pytest.mark.parametrize("error", ["LOADING", "NOAUTH", "MASTERDOWN", "ERR"])
def test_errors_from_the_first_word(redis, proxy, start_upstream, start_fleet, error):
    """Whatever weir says first - HELLO, AUTH, PING, a script - gets this: degraded, serving, and back when it is over."""
    proxy.answer(ERRORS[error], None, everything)
    fleet = start_fleet(1, mixed(start_upstream(), proxy), wait=False)
    wait_until(fleet[0].ready, "readiness")
    right(burst_of(fleet, 2, 10, ask))
    time.sleep(0.3)
    right(burst_of(fleet, 2, 10, ask))
    assert len(store_lines(fleet[0])) <= 3 + 2, store_lines(fleet[0])
    attempts = proxy.connections
    assert attempts < 40, "reconnects without a pause"
    proxy.heal()
    fleet.wait_up(1, timeout=BACK + 3)
    wait_until(lambda: all(a.status == 200 for a in burst_of(fleet, 1, 4, ask) if a.tag == "keyed"), "claims to be made")


def test_on_failure_closed_with_a_refused_command(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(1, limited(start_upstream(), proxy, {"l": {"rate": "1/h", "burst": 50, "on_failure": "closed"}}))
    proxy.answer(ERRORS["WRONGTYPE"], 1, limits)
    r = get(fleet[0].port)
    assert (r.status, r.weir_reason) == (503, "store_down"), r
    assert get(fleet[0].port).status == 200


def test_a_key_of_the_wrong_type(redis, start_upstream, start_fleet):
    """Somebody wrote to weir's key: only that key suffers."""
    fleet = start_fleet(1, limited(start_upstream(), redis, {"l": {"rate": "1/h", "burst": 50, "on_failure": "closed"}}))
    assert get(fleet[0].port, "/", [("X-Tenant-ID", "hurt")]).status == 200
    [key] = [k for k in redis.keys() if ":l:l:" in k]
    redis.ask("DEL", key)
    redis.ask("SADD", key, "x")
    redis.ask("EXPIRE", key, 60)
    assert get(fleet[0].port, "/", [("X-Tenant-ID", "hurt")]).status == 503
    assert get(fleet[0].port, "/", [("X-Tenant-ID", "well")]).status == 200
    assert fleet[0].metric("weir_store_up") == 1


ANSWERS = {"empty": b"", "short": b"\0\0", "a head that is longer": b"\xff\xff\xff\xff" * 4, "garbage": bytes(range(256)) * 3,
           "text": b"what?"}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_somebody_spoilt(redis, start_upstream, start_fleet, name):
    """What cannot be read is not replayed; and it is not run again."""
    up = start_upstream()
    fleet = start_fleet(2, with_redis(deduped(up), redis))
    ask_once = lambda: exchange(fleet[1].port, request("POST", "/", keyed("k"), b"x"))
    assert exchange(fleet[0].port, request("POST", "/", keyed("k"), b"x")).status == 200
    [key] = wait_until(lambda: [k for k in redis.keys() if ":a:once" in k], "the answer to be kept")
    redis.ask("SET", key, ANSWERS[name], "KEEPTTL")
    r = ask_once()
    assert (r.status, r.weir_reason) == (409, "duplicate"), r
    redis.ask("SET", key, b"\0", "PX", 10)
    wait_until(lambda: not redis.ask("EXISTS", key), "it to go")
    assert ask_once().status == 409 and len(up.requests) == 1


# ----------------------------------------------------------------------------------------------------------- whose answer


TENANTS = 12


def tagged(up, server, **store):
    """Each tenant's quota is far from the others', so that what is left tells whose answer it is."""
    of = {f"t{i}": {"burst": (i + 1) * 100_000} for i in range(TENANTS)}
    config = base_config(up.url, limits={"l": {"rate": "1/s", "burst": 10_000_000, "tenants": of}}, route={"limits": ["l"]})
    return with_redis(config, server, **store)


def check_tags(answers):
    """Never more left than there is, nor less than what this test can have used; and each tenant's are all different."""
    for a in only(answers, 200):
        quota = (a.tag + 1) * 100_000
        [(_, policy)], [(_, state)] = (parse_limit_field(a.r.header(n)) for n in ("RateLimit-Policy", "RateLimit"))
        assert quota - 30_000 <= state["r"] <= quota, f"t{a.tag} of {quota} was told {state}, {policy}"


def tagged_ask(n, i):
    t = (n * 7 + i) % TENANTS
    return get_raw("/", f"t{t}"), t


def test_late_replies_are_nobodys(redis, proxy, start_upstream, start_fleet):
    """Replies that are held back until the request has gone its way, again and again."""
    fleet = start_fleet(1, tagged(start_upstream(), proxy, timeout="20ms"))
    rng = random.Random(5)
    with Steady(fleet, tagged_ask, threads=8, pause=0) as load:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            proxy.hole("down")
            time.sleep(rng.choice((0.005, 0.015, 0.025, 0.06)))
            proxy.heal()
            time.sleep(rng.choice((0.0, 0.01, 0.1)))
    check_tags(load.none_lost())
    assert len(load.answers) > 500


def test_delays_around_the_timeout(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(1, tagged(start_upstream(), proxy, timeout="20ms"))
    with Steady(fleet, tagged_ask, threads=8, pause=0) as load:
        for delay in (0.015, 0.02, 0.025, 0.019, 0.3, 0.021):
            proxy.delay = delay
            load.go_on(0.35)
        proxy.heal()
        load.go_on(0.3)
    check_tags(load.none_lost())


@pytest.mark.parametrize("act", ["extra", "twice", "none"])
def test_a_reply_too_many_or_too_few_does_not_shift_the_others(redis, proxy, start_upstream, start_fleet, act):
    """What comes behind it is not matched with what was asked before or after."""
    fleet = start_fleet(1, tagged(start_upstream(), proxy, timeout="200ms"))
    only(burst_of(fleet, 1, 12, tagged_ask), 200)
    if act == "extra":
        proxy.send(b":1\r\n")
    else:
        proxy.once(act, limits)
        only(burst_of(fleet, 1, 1, tagged_ask), 200)
    time.sleep(0.1)
    answers = []
    for turn in range(6):
        answers += burst_of(fleet, 1, 6, tagged_ask)
        time.sleep(0.02)
    check_tags(answers)
    fleet.wait_up(1, timeout=BACK)


def test_an_admission_for_another_is_none(redis, proxy, start_upstream, start_fleet):
    """A tenant with nothing left asks along with one that has plenty, over late and lost replies: it is never admitted."""
    config = base_config(start_upstream().url, route={"limits": ["l"]}, limits={"l": {
        "rate": "1/s", "burst": 1_000_000, "tenants": {"poor": {"rate": "1/h", "burst": 3}}, "on_failure": "closed"}})
    fleet = start_fleet(1, with_redis(config, proxy, timeout="20ms"))
    wait_until(lambda: get(fleet[0].port, "/", [("X-Tenant-ID", "poor")]).status == 429, "nothing left")
    rng = random.Random(6)
    with Steady(fleet, lambda n, i: (get_raw("/", "poor" if n % 2 else "rich"), n % 2), threads=8, pause=0) as load:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            rng.choice((lambda: proxy.hole("down"), lambda: proxy.drop(), lambda: proxy.once("half"),
                        lambda: setattr(proxy, "delay", 0.03)))()
            time.sleep(rng.choice((0.005, 0.03)))
            proxy.heal()
            time.sleep(0.05)
    poor = [a for a in load.none_lost() if a.tag == 1]
    assert len(poor) > 50 and {a.status for a in poor} <= {429, 503}
    assert {a.status for a in load.answers if a.tag == 0} <= {200, 503}
    assert any(a.status == 200 for a in load.answers)


# -------------------------------------------------------------------------------------------------------------- lost replies


@pytest.mark.parametrize("act", ["cut", "fin", "half"])
def test_a_lost_reply_is_not_asked_again(redis, proxy, start_upstream, start_fleet, act):
    """The charge was made; the request goes by on_failure, the next one finds one less, not two."""
    fleet = start_fleet(1, limited(start_upstream(), proxy, {"l": {"rate": "1/h", "burst": 100}}))
    left = lambda: rate_limit(get(fleet[0].port))["l"]["r"]
    assert left() == 99
    proxy.forget()
    proxy.once(act, limits)
    assert get(fleet[0].port).status == 200
    assert len(proxy.seen(limits)) <= 1, "asked again"
    fleet.wait_up(1, timeout=BACK)
    assert left() in (97, 98), "once, or given back"
    assert len(proxy.seen(lambda c: limits(c) and c.args[:1] == [b"1"])) == 2


def test_a_late_charge_is_given_back(redis, proxy, start_upstream, start_fleet):
    """Its reply came when the request had been admitted by the local share already: redis's charge does not stay."""
    fleet = start_fleet(1, limited(start_upstream(), proxy, {"l": {"rate": "1/h", "burst": 100}}, store={"timeout": "100ms"}))
    left = lambda: rate_limit(get(fleet[0].port))["l"]["r"]
    assert left() == 99
    proxy.hole("down")
    assert get(fleet[0].port).status == 200
    time.sleep(0.05)
    proxy.heal()
    fleet.wait_up(1, timeout=BACK + 3)
    time.sleep(0.2)
    assert left() >= 97


# ------------------------------------------------------------------------------------------------------------ flushed redis


def test_script_flush_under_load(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, mixed(start_upstream(), redis, timeout="2s"))
    with Steady(fleet, ask) as load:
        for _ in range(10):
            redis.ask("SCRIPT", "FLUSH")
            load.go_on(0.1)
    right(load.none_lost(), down=False)
    assert fleet.metric("weir_store_degraded") == 0
    for w in fleet:
        assert not [line for line in w.stderr.splitlines() if '"error"' in line], w.stderr[-2000:]


def test_noscript_is_asked_once_more_with_the_text(redis, proxy, start_upstream, start_fleet):
    fleet = start_fleet(1, limited(start_upstream(), proxy, {"l": {"rate": "1/h", "burst": 100, "on_failure": "closed"}}))
    assert get(fleet[0].port).status == 200
    redis.ask("SCRIPT", "FLUSH")
    proxy.forget()
    assert rate_limit(get(fleet[0].port))["l"]["r"] == 98
    assert [c.name for c in proxy.seen(limits)] == ["EVALSHA", "EVAL"]
    proxy.forget()
    assert rate_limit(get(fleet[0].port))["l"]["r"] == 97
    assert [c.name for c in proxy.seen(limits)] == ["EVALSHA"]


def test_a_script_that_redis_does_not_know_yet_is_no_error(start_redis, start_upstream, start_fleet):
    server = start_redis()
    fleet = start_fleet(2, limited(start_upstream(), server, {"l": {"rate": "1/s", "burst": 1000}}))
    for _ in range(2):
        only(burst_of(fleet, 3, 5, lambda n, i: get_raw()), 200)
        server.ask("SCRIPT", "FLUSH")
    assert fleet.metric("weir_store_commands_total", result="error") == 0


def test_an_answer_larger_than_this_sidecar_has(redis, start_upstream, start_fleet):
    """Another configuration kept it: it is not fetched, and nothing is the worse for it."""
    up = start_upstream(lambda peer: reply(200, b"x" * 3_000_000))
    sizes = [{"max_response": "30MiB", "memory": "100MiB"}, {"max_response": "64KiB", "memory": "1MiB"}]
    fleet = start_fleet(2, lambda n: with_redis(base_config(up.url, dedup={"once": sizes[n]}, route={"dedup": "once"}), redis))
    statuses = []
    for n in (0, 0, 1, 1, 0):
        with connect(fleet[n].port) as c:
            c.send(request("POST", "/", keyed("k"), b"x"))
            statuses.append((n, c.read_response("POST").status))
    assert {s for n, s in statuses if n == 0} == {200} and len(up.requests) == 1, statuses
    assert len({s for n, s in statuses if n == 1}) == 1 and statuses[2][1] != 503, statuses
    assert not store_lines(fleet[1]), "the connection was kept"


def test_flushall_under_load_is_one_more_burst_at_most(redis, start_upstream, start_fleet):
    fleet = start_fleet(2, limited(start_upstream(), redis, {"l": {"rate": "1/h", "burst": 50}}, store={"timeout": "2s"}))
    with Steady(fleet, threads=3) as load:
        wait_until(lambda: any(a.status == 429 for a in load.answers), "nothing left")
        for _ in range(3):
            redis.ask("FLUSHALL")
            load.go_on(0.3)
    only(load.none_lost(), 200, 429)
    assert 50 < len(admitted(load.answers)) <= 200, len(admitted(load.answers))
    assert len(admitted(load.answers)) == 200, "each time a whole burst"
    assert fleet.metric("weir_store_degraded") == 0


def test_flushall_with_slots_held_and_tokens_reserved(redis, start_upstream, start_fleet):
    """What is given back after it was forgotten does not make more than there is."""
    held = Held()
    up = start_upstream(held)
    fleet = start_fleet(2, limited(up, redis, {"l": {"algorithm": "concurrency", "limit": 4}, "b": {"rate": "1/s", "burst": 1000}}))
    done = []
    caller = threading.Thread(target=lambda: done.extend(burst_of(fleet, 2, 1, lambda n, i: get_raw())), daemon=True)
    caller.start()
    up.wait_heads(4)
    redis.ask("FLUSHALL")
    held.go.set()
    caller.join(20)
    assert [a.status for a in done] == [200] * 4
    held.go.clear()
    more = []
    caller = threading.Thread(target=lambda: more.extend(burst_of(fleet, 4, 1, lambda n, i: get_raw())), daemon=True)
    caller.start()
    up.wait_heads(8)
    wait_until(lambda: fleet.metric("weir_limit_decisions_total", limit="l") >= 12, "all to be decided")
    held.go.set()
    caller.join(20)
    assert sorted(a.status for a in more) == [200] * 4 + [429] * 4
