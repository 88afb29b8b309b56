"""The scripts of limits, run by a real redis, against exact models: every number of every answer, at times that the test says."""
import bisect
import functools
import os
import random
import re
from collections import deque

import pytest
from redis_server import RedisError, RedisServer, run_script, script

DAY = 86400 * 10**6
SEED = int(os.environ.get("WEIR_SEED", "6"))
START = 1_800_000_000_000_000
EXPIRIES = "~expiries"

# The last argument is the time. Keys expire by it, too: real expiries are put off, and by when each is due is in a hash. With a
# `?` after it they do not: a look into the future.
PRELUDE = """
local real, said = redis, table.remove(ARGV)
local now = tonumber(said:match('%d+'))
local function expires(key, ms) real.call('HSET', '~expiries', key, string.format('%.0f', now + ms * 1000)) end
for _, key in ipairs(KEYS) do
    local due = real.call('HGET', '~expiries', key)
    if due and tonumber(due) <= now and not said:find('?', 1, true) then real.call('DEL', key) end
end
local redis = setmetatable({call = function(name, ...)
    local args = {...}
    if name == 'TIME' then
        return {string.format('%.0f', math.floor(now / 1000000)), string.format('%.0f', now % 1000000)}
    elseif name == 'PEXPIRE' then
        expires(args[1], args[2])
        return real.call('PEXPIRE', args[1], 3600000)
    elseif name == 'SET' then
        assert(args[3] == 'PX' and args[4] >= 1)
        expires(args[1], args[4])
        return real.call('SET', args[1], args[2], 'PX', 3600000)
    end
    return real.call(name, ...)
end}, {__index = real})
"""


@pytest.fixture(scope="module")
def server():
    with RedisServer(unix=True) as server:
        yield server


@pytest.fixture
def redis(server):
    with server.connect(unix=True) as redis:
        redis("FLUSHALL")
        yield redis


class Clocked:
    """Runs scripts at times of the test's own, many at once."""

    def __init__(self, redis):
        self.redis, self.asked, self.checks = redis, [], []
        self.load(lambda text: text)

    def load(self, change):
        self.shas = {name: self.redis("SCRIPT", "LOAD", PRELUDE + change(script(name)))
                     for name in ("decide", "settle", "slots", "forget", "lease")}

    def add(self, name, keys, args, now, check=None):
        self.asked.append(["EVALSHA", self.shas[name], len(keys), *keys, *args, now])
        self.checks.append(check)
        if len(self.asked) >= 500:
            self.flush()

    def flush(self):
        asked, checks, self.asked, self.checks = self.asked, self.checks, [], []
        for words, answer, check in zip(asked, self.redis.pipeline(asked), checks):
            if isinstance(answer, RedisError):
                raise AssertionError((words, answer))
            if callable(check):
                check(answer)
            elif check is not None:
                assert answer == check, (words, answer, check)
        return asked

    def __call__(self, name, keys, args, now):
        self.flush()
        answers = []
        self.add(name, keys, args, now, answers.append)
        self.flush()
        return answers[0]


@pytest.fixture
def clocked(redis):
    return Clocked(redis)


def check_expiries(redis):
    names = redis("KEYS", "*")
    for name, left in zip(names, redis.pipeline([["PTTL", name] for name in names])):
        assert left > 0 or left == -2 or name == EXPIRIES.encode(), (name, left)


# ------------------------------------------------------------------------------------------------------------ models


def ceil_of(x, y):
    return -(-x // y)


class Bucket:
    """In DAYths of a token. `minima`: (at, used) where use was least from then on, before what came then; at most `most`, the nearest are
    one."""
    kind, most = "b", 1 << 30

    def __init__(self, count, period, burst):
        self.quota = self.rate = (count, period, burst)
        self.used, self.at, self.minima, self.charges = 0, 0, [], []

    def args(self, cost, shadow, _):
        return ["b", cost, shadow, *self.quota, ""]

    def pass_time(self, now):
        count, period, _ = self.rate
        if now > self.at:
            self.used = max(0, self.used - (now - self.at) * count * DAY // period)
            self.at = now

    def fits(self, cost, now, peek):
        self.pass_time(now)
        if not peek:
            self.rate = self.quota
        count, _, burst = self.quota
        return count > 0 and (cost == 0 or self.used + cost * DAY <= burst * DAY)

    def use(self, units):
        while self.minima and self.minima[-1][1] >= self.used:
            self.minima.pop()
        if not self.minima or self.minima[-1][0] < self.at:
            self.minima.append((self.at, self.used))
        if len(self.minima) > self.most:
            gaps = [after[1] // DAY - before[1] // DAY for before, after in zip(self.minima, self.minima[1:])]
            i = gaps.index(min(gaps))
            self.minima[i:i + 2] = [(self.minima[i + 1][0], self.minima[i][1])]
        self.used += units * DAY

    def charge(self, cost, now, _):
        self.use(cost)
        self.charges.append([now, cost])
        return self.charges[-1]

    def fill_us(self, used):
        count, period, _ = self.quota
        return ceil_of(used * period, count * DAY)

    def tell(self, cost, fits, now):
        count, _, burst = self.quota
        if count == 0:
            return [0, -1, -1]
        retry = 0
        if not fits:
            retry = -1 if cost > burst else self.fill_us(self.used - (burst - cost) * DAY)
        return [max(0, (burst * DAY - self.used) // DAY), self.fill_us(self.used), retry]

    def settle(self, give, charge, now, _):
        self.pass_time(now)
        if give < 0:
            self.use(-give)
            self.charges.append([now, -give])
        else:
            after = bisect.bisect_right(self.minima, (charge[0], 1 << 200))
            back = min([give * DAY, self.used] + [used for _, used in self.minima[after:after + 1]])
            self.used -= back
            self.minima = [(at, min(used - (back if at > charge[0] else 0), self.used)) for at, used in self.minima]
            for i in range(len(self.minima) - 1, 0, -1):
                if self.minima[i - 1][1] > self.minima[i][1]:
                    self.minima[i - 1] = (self.minima[i - 1][0], self.minima[i][1])
            charge[1] -= give

    def check(self):
        """In any interval of length w at most burst + rate * w, of all that was charged in the end."""
        bucket = Bucket(*self.quota)
        for at, cost in sorted(self.charges):
            bucket.pass_time(at)
            bucket.used += cost * DAY
            assert bucket.used <= self.quota[2] * DAY, (self.quota, at, cost)


class Window:
    kind, settled = "s", False

    def __init__(self, limit, window):
        self.quota = (limit, window, 0)
        self.slots, self.charges, self.refusals = {}, [], []

    def args(self, cost, shadow, _):
        return ["s", cost, shadow, *self.quota, ""]

    def slot(self, at):
        return at * 60 // self.quota[1]

    def end(self, slot):
        return ceil_of((slot + 61) * self.quota[1], 60)

    def fits(self, cost, now, peek):
        oldest = self.slot(now) - 60
        for slot in [s for s in self.slots if s < oldest]:
            del self.slots[slot]
        self.total = sum(self.slots.values())
        fits = cost == 0 or self.total + cost <= self.quota[0]
        if not fits and cost <= self.quota[0]:
            self.refusals.append((now, cost))
        return fits

    def add(self, slot, cost):
        self.slots[slot] = self.slots.get(slot, 0) + cost
        self.total += cost
        if not self.slots[slot]:
            del self.slots[slot]

    def charge(self, cost, now, _):
        self.add(self.slot(now), cost)
        self.charges.append([now, cost])
        return self.charges[-1]

    def tell(self, cost, fits, now):
        limit, reset, retry = self.quota[0], 0, 0
        if self.slots:
            reset = self.end(max(self.slots)) - now
        if not fits and cost > limit:
            retry = -1
        elif not fits:
            over = self.total + cost - limit
            for slot in sorted(self.slots):
                over -= self.slots[slot]
                if over <= 0:
                    retry = self.end(slot) - now
                    break
        return [max(0, limit - self.total), reset, retry]

    def settle(self, give, charge, now, _):
        self.settled = True
        self.fits(0, now, False)
        slot = self.slot(charge[0])
        if give > 0 and slot in self.slots:
            self.add(slot, -give)
        elif give < 0:
            self.add(slot if slot >= self.slot(now) - 60 else self.slot(now), -give)
        charge[1] -= give

    def check(self):
        check_windows(self.charges, *self.quota[:2])
        self.check_refusals()

    def check_refusals(self):
        """The exact model of a window that is a 60th longer refuses them too. Of charges that nobody gave back."""
        times, sums = [], [0]
        for at, cost in self.charges:
            times.append(at)
            sums.append(sums[-1] + cost)
        for now, cost in self.refusals if not self.settled else ():
            since = bisect.bisect_left(times, now - self.quota[1] * 61 // 60)
            assert sums[bisect.bisect_right(times, now)] - sums[since] + cost > self.quota[0], (self.quota, now, cost)


class Log:
    kind = "x"

    def __init__(self, limit, window):
        self.quota = (limit, window, 0)
        self.log, self.charges = deque(), []

    def args(self, cost, shadow, name):
        return ["x", cost, shadow, *self.quota, name]

    def fits(self, cost, now, peek):
        while self.log and self.log[0][0] < now - self.quota[1]:
            self.log.popleft()
        self.total = sum(entry[1] for entry in self.log)
        return cost == 0 or self.total + cost <= self.quota[0]

    def charge(self, cost, now, _):
        charge = [now, cost]
        self.log.append(charge)
        self.charges.append(charge)
        self.total += cost
        return charge

    def tell(self, cost, fits, now):
        limit, window, _ = self.quota
        reset, retry = 0, 0
        if self.log:
            reset = self.log[-1][0] + window + 1 - now
        if not fits and cost > limit:
            retry = -1
        elif not fits:
            over = self.total + cost - limit
            for at, cost in self.log:
                over -= cost
                if over <= 0:
                    retry = at + window + 1 - now
                    break
        return [max(0, limit - self.total), reset, retry]

    def settle(self, give, charge, now, _):
        self.fits(0, now, False)
        was_there = any(entry is charge for entry in self.log)
        charge[1] -= give
        if was_there and charge[1] == 0:
            self.log = deque(entry for entry in self.log if entry is not charge)
        elif not was_there and give < 0:
            self.charge(-give, now, None)

    def check(self):
        check_windows(self.charges, *self.quota[:2])


def check_windows(charges, limit, window):
    """Any interval as long as the window, both ends included, holds at most `limit`."""
    inside, total = deque(), 0
    for at, cost in sorted(charges):
        inside.append((at, cost))
        total += cost
        while inside[0][0] < at - window:
            total -= inside.popleft()[1]
        assert total <= limit, (limit, window, at)


class Slots:
    kind = "c"

    def __init__(self, limit, lease):
        self.quota = (limit, lease, 0)
        self.members = {}

    def args(self, cost, shadow, name):
        return ["c", cost, shadow, *self.quota, name]

    def fits(self, cost, now, peek):
        self.members = {name: end for name, end in self.members.items() if end > now}
        return cost == 0 or len(self.members) + cost <= self.quota[0]

    def charge(self, cost, now, name):
        self.members[name] = now + self.quota[1]
        return [now, cost]

    def tell(self, cost, fits, now):
        return [max(0, self.quota[0] - len(self.members)), -1, 0]

    def settle(self, give, charge, now, name):
        self.members.pop(name, None)

    def renew(self, now, names):
        self.fits(0, now, False)
        added = sum(name not in self.members for name in names)
        self.members.update({name: now + self.quota[1] for name in names})
        return added

    def check(self):
        pass


def decide(models, costs, shadows, now, name, peek=False):
    """What decide.lua answers, and what was charged: {item: charge}."""
    fits = [m.fits(cost, now, peek) for m, cost in zip(models, costs)]
    admitted = all(fit or shadow for fit, shadow in zip(fits, shadows))
    answer, charges = [int(admitted), now], {}
    for i, (m, cost) in enumerate(zip(models, costs)):
        if admitted and fits[i] and cost and not peek:
            charges[i] = m.charge(cost, now, name)
        answer += [int(fits[i]), *m.tell(cost, fits[i], now)]
    return answer, charges


# ------------------------------------------------------------------------------------------------------- at random

COSTS = {"ones": lambda r: 1, "small": lambda r: r.choice((1, 1, 1, 2, 3, 7)), "tokens": lambda r: r.randrange(0, 4000),
         "bytes": lambda r: int(2 ** r.uniform(0, 31)), "huge": lambda r: r.choice((1, 10**9 - 7, 10**9, 10**9 + 1, 2**53 - 1))}

# quotas -> costs
KEYS = [(Bucket, [(50, 10**6, 50)], "ones"), (Bucket, [(7, 60 * 10**6, 3)], "small"), (Bucket, [(100000, 60 * 10**6, 100000)], "tokens"),
        (Bucket, [(1, DAY, 2)], "ones"), (Bucket, [(999999937, DAY, 10**9)], "bytes"), (Bucket, [(10**9, 10**6, 10**9)], "huge"),
        (Bucket, [(999999937, 3600 * 10**6, 10**9)], "huge"),
        (Bucket, [(50, 10**6, 50), (5, 10**6, 20), (100, 60 * 10**6, 100), (0, 10**6, 50)], "small"),
        (Window, [(20, 10**6)], "ones"), (Window, [(100, 100003)], "small"), (Window, [(10000, 60 * 10**6)], "tokens"),
        (Window, [(30, 7 * 10**6), (10, 7 * 10**6), (90, 7 * 10**6)], "small"), (Window, [(10**9, 31536000 * 10**6)], "bytes"),
        (Log, [(20, 10**6)], "ones"), (Log, [(50, 300007)], "small"), (Log, [(20000, 10 * 10**6)], "tokens"),
        (Log, [(30, 7 * 10**6), (10, 7 * 10**6)], "small"),
        (Slots, [(3, 30 * 10**6)], "ones"), (Slots, [(10, 200000), (4, 200000)], "ones")]


class Life:
    """Arrivals at random at all keys, each answer as the models have it."""

    def __init__(self, clocked, seed, settles):
        self.clocked, self.random, self.settles, self.now, self.ids = clocked, random.Random(seed), settles, START + seed, 0
        self.keys = [f"weir:{{{seed}}}:{i}" for i in range(len(KEYS))]
        self.models = [kind(*quotas[0]) for kind, quotas, _ in KEYS]
        self.open, self.decisions, self.admitted = [], 0, 0

    def turn(self):
        r = self.random
        if r.random() < 0.9:
            self.now += int(10 ** r.uniform(0, 5))
        elif r.random() < 0.1:
            self.now += int(10 ** r.uniform(5, 8))
        if self.settles and self.open and r.random() < 0.3:
            self.settle()
            return
        if r.random() < 0.01:
            i = r.randrange(len(KEYS))
            if len(KEYS[i][1]) > 1:
                quota = r.choice(KEYS[i][1])
                self.models[i].quota = quota if len(quota) == 3 else (*quota, 0)
        self.decide(sorted(r.sample(range(len(KEYS)), r.choice((1, 1, 2, 2, 3, 6)))))

    def decide(self, chosen):
        r = self.random
        self.ids += 1
        name, models = f"{self.ids:x}", [self.models[i] for i in chosen]
        costs = [COSTS[KEYS[i][2]](r) for i in chosen]
        shadows, peek = [int(r.random() < 0.3) for _ in chosen], r.random() < 0.1
        args = ["0" if peek else "1"] + sum((m.args(*item, name) for m, *item in zip(models, costs, shadows)), [])
        answer, charges = decide(models, costs, shadows, self.now, name, peek)
        self.clocked.add("decide", [self.keys[i] for i in chosen], args, self.now, answer)
        self.decisions += 1
        self.admitted += answer[0]
        if len(chosen) == 1 and not answer[2]:
            self.look_ahead(self.keys[chosen[0]], args, self.now + answer[5], answer[5])
        items = [(chosen[i], costs[i], charge) for i, charge in charges.items() if self.settles or models[i].kind == "c"]
        if items:
            self.open.append((name, items))
        if not self.settles and len(self.open) > 8:
            self.settle()

    def look_ahead(self, key, args, at, retry):
        """Refused, it fits when it was told to, and not before."""
        for early in (1, 0) if retry > 0 else ():
            check = functools.partial(self.check_fits, 1 - early)
            self.clocked.add("decide", [key], ["0"] + args[1:], f"{at - early}?", check)

    @staticmethod
    def check_fits(fits, answer):
        assert answer[2] == fits, answer

    def settle(self):
        """What it came to: nothing (a refund), less, or more - where a debt is not what the test is about to exclude."""
        r, (name, items) = self.random, self.open.pop(self.random.randrange(len(self.open)))
        if r.random() < 0.02:
            return                                            # nobody ever does
        keys, args = [], []
        for i, cost, charge in items:
            m = self.models[i]
            spent = r.choice((0, 0, r.randrange(cost + 1), cost + (r.randrange(cost + 1) if self.settles == "debts" else 0)))
            keys.append(self.keys[i])
            args += [m.kind, cost - spent, charge[0], *m.quota, name]
            m.settle(cost - spent, charge, self.now, name)
        self.clocked.add("settle", keys, args, self.now, 1)

    def run(self, turns):
        for turn in range(turns):
            self.turn()
            if turn % 5000 == 4999:
                self.clocked.flush()
                check_expiries(self.clocked.redis)
        self.clocked.flush()
        assert self.decisions * 0.2 < self.admitted < self.decisions * 0.95, (self.decisions, self.admitted)

    def check(self):
        for model, (_, quotas, costs) in zip(self.models, KEYS):
            if len(quotas) == 1:
                model.check()


@pytest.mark.parametrize("seed", range(4))
def test_every_answer_is_the_models_and_nothing_is_ever_over(clocked, seed):
    print("seed", SEED + seed)
    life = Life(clocked, SEED + seed, None)
    life.run(40000)
    life.check()


MINIMA = int(re.search(r"MINIMA = .*, (\d+)\n", script("decide"))[1])


@pytest.mark.parametrize("minima", [MINIMA, 10000])
@pytest.mark.parametrize("settles", ["less", "debts"])
def test_what_is_given_back_was_as_if_never_charged(clocked, settles, minima, monkeypatch):
    """Exactly so, if there is room for all of what a bucket has to remember; else less is given back, never more."""
    monkeypatch.setattr(Bucket, "most", minima)
    clocked.load(lambda text: re.sub(r"(MINIMA = .*, )\d+\n", rf"\g<1>{minima}\n", text))
    life = Life(clocked, SEED + 100, settles)
    life.run(20000)
    if settles == "less":
        life.check()
    print("admitted", life.admitted, "of", life.decisions)


# ---------------------------------------------------------------------------------------------------- clocks and members


def b(cost, count, period, burst, shadow=0):
    return ["b", cost, shadow, count, period, burst, ""]


def s(cost, limit, window, shadow=0):
    return ["s", cost, shadow, limit, window, 0, ""]


def x(cost, limit, window, name, shadow=0):
    return ["x", cost, shadow, limit, window, 0, name]


def c(limit, lease, name, shadow=0):
    return ["c", 1, shadow, limit, lease, 0, name]


SECOND = 10**6


def test_a_clock_that_steps_back_admits_nothing_more_and_makes_wait_no_longer_than_the_step(clocked):
    """By the real time, which goes on."""
    print("seed", SEED)
    r = random.Random(SEED)
    models = {"b": Bucket(50, SECOND, 20), "s": Window(20, SECOND), "x": Log(20, SECOND)}
    real, behind, latest = START, 0, 0
    for turn in range(20000):
        real += int(10 ** r.uniform(0, 5))
        if r.random() < 0.004:
            behind += int(10 ** r.uniform(0, 6.5))
        clock = real - behind
        latest = max(latest, clock)
        for kind, m in models.items():
            cost, retry_max = r.choice((1, 1, 2, 5)), latest - clock + SECOND * 61 // 60 + 1

            def check(answer, m=m, cost=cost, real=real, retry_max=retry_max):
                if answer[0]:
                    m.charges.append([real, cost])
                assert answer[5] <= retry_max

            clocked.add("decide", [kind], ["1", *m.args(cost, 0, str(turn))], clock, check)
    clocked.flush()
    for m in models.values():
        assert len(m.charges) > 500, len(m.charges)
        m.check()


@pytest.mark.parametrize("step", [1, 1000, SECOND, 3600 * SECOND])
def test_after_a_step_back_it_fits_when_it_says(clocked, step):
    items = {"b": b(5, 10, SECOND, 5), "s": s(5, 5, SECOND), "x": x(5, 5, SECOND, "second")}
    for kind, item in items.items():
        assert clocked("decide", [kind], ["1", *item[:-1], "first"], START)[0] == 1
        answer = clocked("decide", [kind], ["1", *item], START - step)
        assert answer[0] == 0 and 0 < answer[5] <= step + SECOND * 61 // 60 + 1, answer
        assert clocked("decide", [kind], ["0", *item], START - step + answer[5] - 1)[0] == 0
        assert clocked("decide", [kind], ["1", *item], START - step + answer[5])[0] == 1


def test_slots_end_with_their_leases_and_are_there_again_where_they_were_in_use(clocked):
    lease = 30 * SECOND
    for i in range(3):
        assert clocked("decide", ["k"], ["1", *c(3, lease, f"m{i}")], START + i)[:4] == [1, START + i, 1, 2 - i]
    assert clocked("decide", ["k"], ["1", *c(3, lease, "m3")], START + 3)[2:] == [0, 0, -1, 0]
    assert clocked("slots", ["k"], [lease, "m1", "m2"], START + 20 * SECOND) == 0
    assert clocked("decide", ["k"], ["0", *c(3, lease, "m3")], START + lease - 1)[2:4] == [0, 0]
    assert clocked("decide", ["k"], ["1", *c(3, lease, "m3")], START + lease)[2:4] == [1, 0]            # m0 was never renewed
    assert clocked("slots", ["k"], [lease, "m0"], START + lease + 1) == 1                               # but is alive: one more
    assert clocked("decide", ["k"], ["0", *c(3, lease, "m4")], START + lease + 2)[2:4] == [0, 0]
    for name in ("m0", "m1", "m1", "nobody"):
        assert clocked("settle", ["k"], ["c", 1, START, 3, lease, 0, name], START + lease + 3) == 1
    assert clocked("decide", ["k"], ["1", *c(3, lease, "m4")], START + lease + 4)[2:4] == [1, 0]
    check_expiries(clocked.redis)
    assert clocked("decide", ["k"], ["0", *c(3, lease, "m5")], START + 3 * lease)[2:4] == [1, 3]
    assert clocked("slots", ["new"], [lease, "m1"], START) == 1 and clocked("slots", ["none"], [lease], START) == 0
    check_expiries(clocked.redis)


def test_all_or_nothing_and_what_is_in_shadow_is_in_nobodys_way(clocked):
    keys = ["b", "s", "x", "c"]

    def decided(name, cost, shadow=(0, 0, 0, 0), charge="1"):
        answer = clocked("decide", keys, [charge, *b(cost, 1, SECOND, 10, shadow[0]), *s(1, 2, SECOND, shadow[1]),
                                          *x(1, 5, SECOND, name, shadow[2]), *c(5, SECOND, name, shadow[3])], START)
        return answer[0], answer[2::4], answer[3::4]

    assert decided("i", 5) == (1, [1, 1, 1, 1], [5, 1, 4, 4])
    assert decided("j", 6) == (0, [0, 1, 1, 1], [5, 1, 4, 4])
    assert decided("k", 6, (1, 0, 0, 0)) == (1, [0, 1, 1, 1], [5, 0, 3, 3])
    assert decided("l", 6, (1, 0, 1, 1)) == (0, [0, 0, 1, 1], [5, 0, 3, 3])
    assert decided("m", 5, (0, 1, 0, 0), "0") == (1, [1, 0, 1, 1], [5, 0, 3, 3])
    assert decided("n", 5, (0, 1, 0, 0)) == (1, [1, 0, 1, 1], [0, 0, 2, 2])


def test_costs_of_any_size(clocked):
    most = 2**53 - 1
    for item in (b(most, 10**9, SECOND, 10**9), s(most, 10**9, SECOND), x(most, 10**9, SECOND, "i")):
        assert clocked("decide", ["k" + item[0]], ["1", *item], START)[2:] == [0, 10**9, 0, -1]
        item[1] = 10**9
        assert clocked("decide", ["k" + item[0]], ["1", *item], START)[2:4] == [1, 0]
        more = [item[0], 10**9 - most, START, *item[3:]]                       # it came to 2^53 - 1
        assert clocked("settle", ["k" + item[0]], more, START) == 1
        assert clocked("settle", ["k" + item[0]], [*more[:6], "another"], START) == 1
        answer = clocked("decide", ["k" + item[0]], ["1", *item], START)
        assert answer[2:4] == [0, 0] and answer[5] > 0, answer
        assert clocked("decide", ["k" + item[0]], ["1", *item[:1], 0, *item[2:]], START)[2:4] == [1, 0]   # nothing fits always
    slow = clocked("decide", ["kb"], ["1", *b(1, 1, DAY, 1)], START)
    assert slow[2:4] == [0, 0] and slow[5] >= DAY                              # no end in sight
    check_expiries(clocked.redis)


def test_a_rate_of_0_refuses_all_and_nothing_fills_up_meanwhile(clocked):
    assert clocked("decide", ["k"], ["1", *b(10, 10, SECOND, 10)], START)[0] == 1
    for cost in (0, 1, 11):
        assert clocked("decide", ["k"], ["1", *b(cost, 0, SECOND, 10)], START + SECOND // 2)[2:] == [0, 0, -1, -1]
    assert clocked("decide", ["new"], ["1", *b(1, 0, SECOND, 10)], START)[2:] == [0, 0, -1, -1]
    assert clocked("lease", ["k"], ["b", "a", 5, 0, 0, SECOND, 10, SECOND], START + SECOND)[0] == 0
    assert clocked("decide", ["k"], ["1", *b(5, 10, SECOND, 10)], START + 3600 * SECOND)[2:4] == [1, 0]  # what had come before
    check_expiries(clocked.redis)


def test_a_burst_that_is_cut_counts_what_was_used(clocked):
    assert clocked("decide", ["k"], ["1", *b(60, 10, SECOND, 100)], START)[2:4] == [1, 40]
    assert clocked("decide", ["k"], ["1", *b(1, 10, SECOND, 20)], START)[2:] == [0, 0, 6 * SECOND, 4_100_000]
    assert clocked("decide", ["k"], ["1", *b(1, 10, SECOND, 100)], START)[2:4] == [1, 39]


def test_a_whole_cost_is_given_back_by_its_id_alone(clocked):
    for i in range(3):
        clocked("decide", ["k"], ["1", *x(7, 21, SECOND, f"i{i}")], START)
    assert clocked("settle", ["k"], ["x", 7, 0, 21, SECOND, 0, "i1"], START + 5) == 1
    assert clocked("settle", ["k"], ["x", 7, 0, 21, SECOND, 0, "i1"], START + 5) == 1
    assert clocked("settle", ["k"], ["x", 7, 0, 21, SECOND, 0, "i9"], START + 5) == 1
    assert clocked("decide", ["k"], ["0", *x(7, 21, SECOND, "i3")], START + 5)[2:4] == [1, 7]


def test_a_fresh_start_is_for_what_was_used(clocked):
    keys = ["kb", "ks", "kx"]
    args = ["1", *b(5, 1, SECOND, 5), *s(5, 5, SECOND), *x(5, 5, SECOND, "i")]
    assert clocked("decide", keys, args, START)[0] == 1 and clocked("decide", keys, args, START)[0] == 0
    assert clocked("forget", keys, [], START) == 3 and clocked("forget", keys, [], START) == 0
    assert clocked("decide", keys, args, START)[0] == 1
    late = ["b", 5, START - 1, 1, SECOND, 5, "", "s", 5, START - 5 * SECOND, 5, SECOND, 0, "", "x", 5, START - 1, 5, SECOND, 0, "gone"]
    assert clocked("settle", keys, late, START) == 1                           # of before: it was forgotten
    assert clocked("decide", keys, args, START)[2:4] == [0, 0]


FOREIGN = {"list": ["RPUSH", "k", "a"], "hash": ["HSET", "k", "a", "b"],
           "string": ["SET", "k", "something else, and somebody's, of any length at all"],
           "number": ["SET", "k", 5], "set": ["SADD", "k", "a"], "zset": ["ZADD", "k", 1, "a"]}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("kind", "bsxc")
def test_somebody_elses_key_is_an_error_and_left_as_it_is(clocked, foreign, kind):
    redis, item = clocked.redis, {"b": b(1, 1, SECOND, 5), "s": s(1, 5, SECOND), "x": x(1, 5, SECOND, "i"), "c": c(5, SECOND, "i")}[kind]
    if foreign == "zset" and kind in "xc":
        return
    redis(*FOREIGN[foreign])
    before = redis("DUMP", "k")
    other = b(1, 1, SECOND, 5)
    asks = [("decide", ["other", "k"], ["1", *other, *item]), ("settle", ["k"], [kind, 1, START, *item[3:]]),
            ("settle", ["k"], [kind, -1, START, *item[3:]])]
    if kind in "bs":
        asks += [("lease", ["k"], [kind, "a", 5, 0, *item[3:6], SECOND])]
    if kind == "c":
        asks += [("slots", ["k"], [SECOND, "i"])]
    for name, keys, args in asks:
        with pytest.raises(RedisError, match="WRONGTYPE"):
            run_script(redis, name, keys, args)
    assert redis("DUMP", "k") == before and not redis("EXISTS", "other")


# ------------------------------------------------------------------------------------------------------------ slices


class Taker:
    """A sidecar as lease.lua wants it: uses what it has until the slice ends by its own reckoning, goes on with what it keeps
    while it asks, and with nothing once an answer is lost."""

    def __init__(self, sim, number):
        self.sim, self.id = sim, f"{number:016x}"
        self.left = self.used = self.ends = self.ends_us = self.asked = 0
        self.answer = None

    def use(self, now):
        if self.left and now < self.ends:
            units = self.sim.random.randint(1, min(self.left, 5))
            self.left -= units
            self.used += units
            self.sim.charges.append([now, units])

    def ask(self, now):
        r = self.sim.random
        usable = self.left if now < self.ends else 0
        keep = r.choice((0, usable, usable // 2))
        back = 0 if now >= self.ends and self.sim.kind == "b" else self.left - keep if r.random() < 0.8 else 0
        self.left, self.used, self.asked = keep, 0, now
        fate = r.random()
        words = [self.sim.kind, self.id, r.choice((0, 1, 10, 30)), back, *self.sim.quota, self.sim.hold, keep, self.ends_us]
        self.answer = self.sim.send(words, now + r.randrange(0, 30000)) if fate > 0.05 else None
        self.lost = fate < 0.1
        self.heard = self.sim.arrives + r.randrange(0, 30000) if self.answer else now + 60000

    def hear(self, now):
        if not self.asked or now < self.heard:
            return
        if self.lost:
            self.left = self.ends_us = 0
        else:
            granted, _, _, _, _, self.ends_us = self.answer[0]
            self.left, self.ends = max(0, granted - self.used), self.asked + self.sim.hold
        self.asked = 0


class Slices:
    def __init__(self, clocked, kind, quota, hold, seed):
        self.clocked, self.kind, self.quota, self.hold, self.random = clocked, kind, quota, hold, random.Random(seed)
        self.charges, self.pending, self.takers, self.now, self.granted = [], [], [], START, 0

    def send(self, words, arrives):
        self.arrives = max([arrives] + [at for at, *_ in self.pending])       # one connection: in order
        answer = []
        self.pending.append((self.arrives, words, answer))
        return answer

    def deliver(self):
        while self.pending and self.pending[0][0] <= self.now:
            at, words, answer = self.pending.pop(0)
            answer.append(self.clocked("lease", ["k"], words, at))
            self.granted += answer[0][0]
            assert answer[0][0] >= 0 and answer[0][2] >= 0 and answer[0][1] == at

    def strict(self):
        cost = self.random.choice((1, 1, 3, 20))
        item = b(cost, *self.quota) if self.kind == "b" else s(cost, *self.quota[:2])
        answer = self.clocked("decide", ["k"], ["1", *item], self.now)
        if answer[0]:
            self.charges.append([self.now, cost])

    def run(self, turns):
        r, number = self.random, 0
        for _ in range(turns):
            self.now += int(10 ** r.uniform(2, 4.6)) if r.random() < 0.99 else r.randrange(3 * SECOND)
            self.deliver()
            while len(self.takers) < 4:
                number += 1
                self.takers.append(Taker(self, number))
            for taker in self.takers:
                taker.hear(self.now)
                if r.random() < 0.5:
                    taker.use(self.now)
                if not taker.asked and r.random() < 0.15:
                    taker.ask(self.now)
            if r.random() < 0.01:
                self.takers.remove(r.choice(self.takers))                      # it crashed, whatever it had and had asked
            if r.random() < 0.1:
                self.strict()


@pytest.mark.parametrize("kind, quota, hold", [
    ("b", (100, SECOND, 100), SECOND), ("b", (700, 60 * SECOND, 60), SECOND // 3), ("b", (3000, SECOND, 50), SECOND),
    ("s", (100, 2 * SECOND, 0), SECOND // 4), ("s", (100, SECOND // 10, 0), SECOND)])
def test_slices_are_never_over_whoever_crashes_with_them(clocked, kind, quota, hold):
    print("seed", SEED)
    sim = Slices(clocked, kind, quota, hold, SEED)
    sim.run(8000)
    assert len(sim.charges) > 300 and sim.granted > 300, (len(sim.charges), sim.granted)
    if kind == "b":
        model = Bucket(*quota)
        model.charges = sim.charges
        model.check()
    else:
        check_windows(sim.charges, *quota[:2])
    check_expiries(clocked.redis)
    at = sim.now + SECOND + hold + 100 * quota[1] * max(1, quota[2] // max(quota[0], 1))        # all of it is there again
    whole = b(quota[2], *quota) if kind == "b" else s(quota[0], *quota[:2])
    assert clocked("decide", ["k"], ["1", *whole], at)[2:4] == [1, 0]


def test_a_slice_is_taken_given_back_and_ends(clocked):
    def lease(taker, want, back, at, keep=0):
        return clocked("lease", ["k"], ["b", taker, want, back, 10, SECOND, 100, SECOND, keep], at)

    def left(at):
        return clocked("decide", ["k"], ["0", *b(1, 10, SECOND, 100)], at)[3]

    assert lease("a", 60, 0, START) == [60, START, 40, 6 * SECOND, 0, START + SECOND]
    assert lease("b", 60, 0, START) == [40, START, 0, 10 * SECOND, 0, START + SECOND]           # no more is there
    assert lease("c", 1, 0, START)[0] == 0
    assert left(START + SECOND // 2) == 0                                      # slices do not fill up
    assert lease("a", 0, 60, START + SECOND // 2)[0] == 0 and left(START + SECOND // 2) == 60   # nothing was used of it
    assert lease("a", 0, 60, START + SECOND // 2)[0] == 0 and left(START + SECOND // 2) == 60   # it is not given back twice
    assert lease("b", 10, 5, START + SECOND // 2, keep=15) == [25, START + SECOND // 2, 55, 4500000, 0, START + SECOND * 3 // 2]
    assert left(START + SECOND * 3 // 2 - 1) == 64                             # 20 of b's were used: they fill up
    assert lease("b", 0, 25, START + 2 * SECOND)[0] == 0                       # too late: they count as used since it ended
    assert left(START + 2 * SECOND) == 70


def test_a_slice_that_is_not_heard_of_again_counts_as_used_when_it_ends(clocked):
    lease = ["b", "a", 10, 0, 10, SECOND, 100, 20 * SECOND]
    for at, taken in ((0, 10), (20 * SECOND, 10)):
        assert clocked("lease", ["k"], lease, START + at)[0] == taken
    peek = ["0", *b(1, 10, SECOND, 100)]
    assert clocked("decide", ["k"], peek, START + 39 * SECOND)[3] == 90        # the first one's have filled up since
    assert clocked("decide", ["k"], peek, START + 40 * SECOND)[3] == 90
    assert clocked("decide", ["k"], peek, START + 40 * SECOND + SECOND // 2)[3] == 95
    assert clocked("decide", ["k"], ["1", *b(100, 10, SECOND, 100)], START + 41 * SECOND)[2:4] == [1, 0]


def test_no_more_is_kept_or_given_back_than_was_taken(clocked):
    for kind, quota in (("b", [10, SECOND, 100]), ("s", [100, 60 * SECOND, 0])):
        def lease(words, keep=0, ends=0):
            return clocked("lease", [kind], [kind, *words, *quota, SECOND, keep, ends], START)

        ends = lease(["a", 20, 0])[5]
        assert lease(["a", 5, 7], 1000, ends)[0::2][:2] == [25, 75]            # 20 of them, and 5
        assert lease(["a", 0, 1000], 0, ends)[0::2][:2] == [0, 100]
        assert lease(["a", 5, 0], 1000, 0)[0::2][:2] == [5, 95]                # there was none


def test_a_slice_of_a_window_counts_until_a_window_after_its_end(clocked):
    def lease(want, back, at, keep=0, ends=0):
        return clocked("lease", ["k"], ["s", "a", want, back, 10, 60 * SECOND, 0, 2 * SECOND, keep, ends], at)

    def left(at):
        return clocked("decide", ["k"], ["0", *s(1, 10, 60 * SECOND)], at)[3]

    granted, _, remaining, reset, retry, ends = lease(8, 0, START)
    assert (granted, remaining, retry, ends) == (8, 2, 0, START + 2 * SECOND)
    assert left(START + 62 * SECOND) == 2 and left(START + reset - 1) == 2 and left(START + reset) == 10
    granted, _, remaining, _, _, ends = lease(3, 2, START + SECOND, keep=4, ends=ends)          # 2 were used
    assert (granted, remaining, ends) == (7, 1, START + 3 * SECOND)
    assert lease(0, 9, START + SECOND, ends=ends)[2] == 8                      # no more than it had
    assert left(START + reset) == 10


# ------------------------------------------------------------------------------------------------------- the real clock


def test_with_the_clock_of_redis(redis):
    seconds, micros = redis("TIME")
    before = int(seconds) * SECOND + int(micros)
    keys, args = ["kb", "ks", "kx", "kc"], ["1", *b(5, 10, SECOND, 5), *s(5, 5, SECOND), *x(5, 5, SECOND, "i"), *c(1, 30 * SECOND, "i")]
    admitted, now, *rest = run_script(redis, "decide", keys, args)
    assert admitted == 1 and before <= now < before + 60 * SECOND
    assert rest[:3] == [1, 0, SECOND // 2] and rest[4:6] == [1, 0] and rest[8:11] == [1, 0, SECOND + 1] and rest[12:] == [1, 0, -1, 0]
    left = dict(zip(keys, redis.pipeline([["PTTL", key] for key in keys])))
    assert 0 < left["kb"] <= 1500 and 0 < left["ks"] <= 1019 and 0 < left["kx"] <= 1002 and 0 < left["kc"] <= 30002, left
    assert run_script(redis, "slots", ["kc"], [30 * SECOND, "i"]) == 0
    assert run_script(redis, "lease", ["lb"], ["b", "a", 5, 0, 10, SECOND, 5, SECOND])[0] == 5
    assert run_script(redis, "lease", ["ls"], ["s", "a", 5, 0, 5, SECOND, 0, SECOND])[0] == 5
    more = ["b", -5, now, 10, SECOND, 5, "", "s", -5, now, 5, SECOND, 0, "", "x", -5, now, 5, SECOND, 0, "i"]
    assert run_script(redis, "settle", keys, [*more, "c", 1, now, 1, 30 * SECOND, 0, "i"]) == 1
    check_expiries(redis)
    redis("SCRIPT", "FLUSH")
    assert run_script(redis, "decide", ["kc"], ["1", *c(1, 30 * SECOND, "i")])[0] == 1
