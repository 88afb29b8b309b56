"""Two pods with one Redis, which three Sentinels watch over: limits, keys and pauses are all of theirs; and what holds while
Redis is gone, until another one is master."""
import contextlib

import pytest

import faults
from examples import Provider, secret
from harness import post, wait_until
from redis_server import RedisServer
from support import Caller, keyed, parse_limit_field

PASSWORD = secret("REDIS_PASSWORD")
USER = f"weir on >{PASSWORD} ~weir:* +@read +@write +@scripting +ping +time"   # as the example's head has it
CHAT = "/v1/chat/completions"


class Redises:
    """A master, its replica, and three Sentinels, all with TLS. They leave it to the test to say when the master is down."""

    def __init__(self, stack, authority, certificate):
        self.start = lambda **kw: stack.enter_context(RedisServer(tls=(authority.file, certificate.cert, certificate.key),
                                                                  tls_replication="yes", **kw))
        settings = {"user": USER, "appendonly": "yes", "maxmemory_policy": "noeviction"}
        self.master = self.start(**settings)
        self.replica = self.start(replicaof=f"127.0.0.1 {self.master.port}", repl_diskless_sync_delay=0, **settings)
        wait_until(self.is_in_step, "the replica")
        text = f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 2\nsentinel down-after-milliseconds mymaster 600000\n"
        self.sentinels = [self.start(sentinel=text) for _ in range(3)]
        wait_until(lambda: all(self.told(s)[b"num-slaves"] == b"1" for s in self.sentinels), "the Sentinels to see the replica")

    def is_in_step(self):
        """Whatever was written is there, too."""
        with self.master.connect() as master, self.replica.connect() as replica:
            role = replica("ROLE")
            return role[0] == b"slave" and role[3] == b"connected" and role[4] == master("ROLE")[1]

    @staticmethod
    def told(sentinel):
        with sentinel.connect() as redis:
            words = redis("SENTINEL", "master", "mymaster")
        return dict(zip(words[::2], words[1::2]))

    def fail_over(self):
        """As they do when they agree that the master is down."""
        with self.sentinels[0].connect() as redis:
            redis("SENTINEL", "FAILOVER", "mymaster")
        wait_until(lambda: all(self.told(s)[b"port"] == b"%d" % self.replica.port for s in self.sentinels), "the Sentinels' word")


@pytest.fixture
def redises(authority, certificate):
    with contextlib.ExitStack() as stack:
        yield Redises(stack, authority, certificate)


class Fleet:
    def __init__(self, redises, start_upstream, start_https, start_example):
        self.openai = Provider()
        self.agent, self.at_openai = start_upstream(), start_https(self.openai)
        changes = {f"sentinel-{n}.sentinel:26379": f"127.0.0.1:{s.port}" for n, s in enumerate(redises.sentinels)}
        changes.update({"  timeout: 20ms": "  timeout: 2s", "claim_timeout: 250ms": "claim_timeout: 2s"})   # a busy machine
        changes["https://api.openai.com"] = self.at_openai.url
        self.pods = [start_example("fleet-sentinel.yaml", changes, AGENT_URL=self.agent.url) for _ in range(2)]

    def wait_up(self, server):
        for pod in self.pods:
            wait_until(lambda: pod.status()["store"]["address"] == f"127.0.0.1:{server.port}" and pod.metric("weir_store_up"),
                       "the master to be asked")

    def calls(self, pod, count, tenant):
        """The answers to so many requests, one after the other."""
        with Caller(self.pods[pod].ports["inbound"]) as c:
            return [c.get("/", [("X-Tenant-ID", tenant)]) for _ in range(count)]

    def job(self, pod, key):
        return post(self.pods[pod].ports["inbound"], "/jobs", b"x", keyed(key, ("X-Tenant-ID", "globex")))

    def chat(self, pod, model="gpt-4o", **more):
        return post(self.pods[pod].ports["outbound"], CHAT, faults.ask_of(model, **more), [("X-Tenant-ID", "acme")])


@pytest.fixture
def fleet(redises, start_upstream, start_https, start_example):
    one = Fleet(redises, start_upstream, start_https, start_example)
    one.wait_up(redises.master)
    for pod in one.pods:
        wait_until(lambda: pod.status()["store"]["sidecars"] == 2, "each other's heartbeat")
    return one


def left(r):
    """Of per-tenant; slots have no time at which they are back."""
    return dict(parse_limit_field(r.header("RateLimit")))["per-tenant"]["r"]


def statuses(answers):
    return [r.status for r in answers]


def test_limits_keys_and_pauses_are_the_fleets(fleet):
    assert statuses(fleet.calls(0, 400, "acme")) == [200] * 400
    last = fleet.calls(1, 1, "acme")[0]
    assert left(last) == 600 - 401, "what the other one admitted counts"
    assert statuses(fleet.calls(1, 204, "acme")) == [200] * 199 + [429] * 5
    assert statuses(fleet.calls(0, 1, "acme")) == [429] and statuses(fleet.calls(0, 1, "globex")) == [200]

    ran = fleet.agent.heads
    first, again = (fleet.job(pod, "k1") for pod in (0, 1))
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.header("Idempotent-Replayed") == "true"
    assert fleet.agent.heads == ran + 1

    assert fleet.chat(0, stream=True).status == 200
    for pod in fleet.pods:
        wait_until(lambda: pod.left("tokens-per-day", CHAT, tenant="acme", model="gpt-4o") == 2_000_000 - 120, "what the stream used")
    fleet.openai.instead = faults.status(429, retry_after=30)
    assert fleet.chat(0).status == 429
    wait_until(lambda: fleet.pods[1].state("openai") == "paused", "the other one to hear of it")
    asked = fleet.at_openai.heads
    assert faults.refused(fleet.chat(1), "throttled", "openai") <= 30 and fleet.at_openai.heads == asked
    fleet.openai.instead = None
    assert fleet.chat(1, "gpt-4o-mini").status == 200, "another model is not paused"


def test_while_redis_is_gone_and_when_another_is_master(fleet, redises):
    done = fleet.job(0, "k1")
    assert statuses(fleet.calls(0, 100, "acme")) == [200] * 100
    wait_until(redises.is_in_step, "the replica to have it all")
    redises.master.kill()

    answers = fleet.calls(0, 310, "initech")
    assert statuses(answers) == [200] * 300 + [429] * 10, "half of the limit is this pod's"
    assert fleet.pods[0].metric("weir_store_degraded") == 1 and fleet.pods[0].metric("weir_store_up") == 0
    r = fleet.job(1, "k1")
    assert (r.status, r.weir_reason) == (503, "store_down") and int(r.header("Retry-After")) >= 1, "rather than twice"
    asked = fleet.at_openai.heads
    faults.error(fleet.chat(0), 503, "store_down", "openai")
    assert fleet.at_openai.heads == asked, "no call is paid for that nobody counts"

    redises.fail_over()
    fleet.wait_up(redises.replica)
    again = fleet.job(1, "k1")
    assert (again.status, again.body, again.header("Idempotent-Replayed")) == (200, done.body, "true"), again
    assert fleet.chat(0).status == 200
    assert left(fleet.calls(1, 1, "acme")[0]) == 600 - 101, "what the replica had got"
    assert fleet.pods[0].metric("weir_store_degraded") == 0
