"""Where Redis is: one server, with TLS or on a socket; the master that Sentinels name; a cluster's masters. What is asked of the
wrong one, or of one that goes, costs no request, and the limits stay the fleet's."""
import contextlib
import itertools
import shutil
import tempfile
import threading
import time

import pytest

from certificates import Authority
from fleet import Steady, admitted, burst_of, get_raw, limited, only, store_lines, with_redis
from harness import exchange, free_port, get, request, sanitized, wait_until, weir
from redis_server import RedisServer
from support import Numbered, deduped, in_parallel, keyed

FOREVER = {"algorithm": "token_bucket", "rate": "1/h"}
FOLLOWED = 2 * (3 if sanitized() else 1)  # seconds until what was decided elsewhere is followed


def limit_of(burst, **more):
    return {"l": {**FOREVER, "burst": burst, "on_failure": "closed", **more}}


def tenants_of(answers):
    return {a.tag for a in answers}


# --- one server ---------------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder():
    path = tempfile.mkdtemp(prefix="weir-certs-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:
        yield lambda kind, **options: stack.enter_context(kind(**options))


@pytest.fixture
def start_server(start):
    return lambda **options: start(RedisServer, **options)


class NamedServer(RedisServer):
    """Its certificate may be for any name: it is asked on its socket."""

    def connect(self, unix=True):
        return super().connect(unix)


def address(server):
    return f"127.0.0.1:{server.port}"


def test_on_a_socket(start_server, start_upstream, start_fleet):
    server = start_server(unix=True, password="correct-horse")
    fleet = start_fleet(2, limited(start_upstream(), f"unix://{server.path}", limit_of(10), store={"password": "correct-horse"}))
    assert len(admitted(burst_of(fleet, 1, 10, lambda n, i: get_raw()))) == 10


def tls_files(folder, sans):
    authority = Authority(folder)
    return authority, authority.issue("redis", sans)


@pytest.mark.parametrize("sans, server_name, works", [
    (["IP:127.0.0.1"], None, True),
    (["DNS:redis.internal"], "redis.internal", True),
    (["DNS:redis.internal"], None, False),
    (["IP:127.0.0.1"], "redis.internal", False),
], ids=["address", "name", "no address", "no name"])
def test_with_tls_the_name_is_checked(folder, start, start_upstream, start_fleet, sans, server_name, works):
    authority, certificate = tls_files(folder, sans)
    store = {"tls": {"ca": authority.file, "server_name": server_name}}
    server = start(NamedServer, tls=(authority.file, *certificate.pair.values()), unix=True)
    fleet = start_fleet(1, limited(start_upstream(), address(server), limit_of(3), store=store), wait=works)
    wait_until(fleet[0].ready)
    statuses = [get(fleet[0].port).status for _ in range(5)]
    assert statuses == ([200] * 3 + [429] * 2 if works else [503] * 5)
    if not works:
        assert "mismatch" in "".join(store_lines(fleet[0])).lower(), store_lines(fleet[0])


def test_a_certificate_that_cannot_be_used(folder, start_upstream):
    """Its key is another one's: weir does not start."""
    authority = Authority(folder)
    one, other = authority.issue("one"), authority.issue("other")
    tls = {"ca": authority.file, "cert": one.cert, "key": other.key}
    with weir(limited(start_upstream(), "127.0.0.1:1", limit_of(3), store={"tls": tls}), expect_exit=2, wait_ready=False) as w:
        assert w.wait_exit() == 2
        assert "store.redis.tls.key: " in w.stderr, w.stderr


def test_weir_shows_its_certificate(folder, start, start_upstream, start_fleet):
    authority, certificate = tls_files(folder, ["IP:127.0.0.1"])
    own = authority.issue("sidecar")
    server = start(NamedServer, tls=(authority.file, *certificate.pair.values()), unix=True, tls_auth_clients="yes")
    fleet = start_fleet(2, limited(start_upstream(), address(server), limit_of(3),
                                   store={"tls": {"ca": authority.file, "cert": own.cert, "key": own.key}}))
    assert [get(fleet[i % 2].port).status for i in range(5)] == [200] * 3 + [429] * 2


@pytest.mark.parametrize("where", ["no-such-name.invalid:6379", "127.0.0.1:1", "unix:///no/such/socket"])
def test_one_that_is_never_there(start_upstream, start_fleet, where):
    """weir starts, decides by on_failure, says so once, and ends in time."""
    fleet = start_fleet(1, limited(start_upstream(), where, limit_of(4, on_failure="local")), wait=False)
    wait_until(fleet[0].ready)
    assert [get(fleet[0].port).status for _ in range(6)] == [200] * 4 + [429] * 2
    lines = store_lines(fleet[0])
    assert len(lines) == 1 and "is not asked" in lines[0], lines
    assert fleet[0].metric("weir_store_up") == 0


# --- Sentinel -----------------------------------------------------------------------------------------------------------------

class Watched:
    """A master, its replica, and three Sentinels that agree after 500 ms."""

    def __init__(self, start_server, count=3):
        self.master = start_server()
        self.replica = start_server(replicaof=f"127.0.0.1 {self.master.port}", repl_diskless_sync_delay=0)
        wait_until(self.is_in_step, "the replica")
        text = (f"sentinel monitor main 127.0.0.1 {self.master.port} 2\nsentinel down-after-milliseconds main 500\n"
                "sentinel failover-timeout main 3000\n")
        self.sentinels = [start_server(sentinel=text) for _ in range(count)]
        for sentinel in self.sentinels:
            wait_until(lambda: self.knows_all(sentinel), "the Sentinels to know each other")

    def is_in_step(self):
        with self.replica.connect() as redis:
            role = redis("ROLE")
        return role[0] == b"slave" and role[3] == b"connected"

    def knows_all(self, sentinel):
        with sentinel.connect() as redis:
            told = redis("SENTINEL", "master", "main")
        told = dict(zip(told[::2], told[1::2]))
        return int(told[b"num-other-sentinels"]) == len(self.sentinels) - 1 and int(told[b"num-slaves"]) == 1

    def named(self, sentinel):
        with sentinel.connect() as redis:
            return int(redis("SENTINEL", "get-master-addr-by-name", "main")[1])

    def wait_decided(self):
        """Until one of them names the replica."""
        wait_until(lambda: any(self.named(s) == self.replica.port for s in self.sentinels), "the Sentinels' decision", timeout=30)

    @property
    def addresses(self):
        return [address(s) for s in self.sentinels]


def watched_config(up, watched, limits, addresses=None, **store):
    return limited(up, None, limits, store={"mode": "sentinel", "addresses": addresses or watched.addresses,
                                            "sentinel": {"master": "main"}, "timeout": "250ms", **store})


def followed_at(w, server):
    """When this sidecar asks that server, and has for a request."""
    wait_until(lambda: w.status()["store"]["address"] == address(server) and w.metric("weir_store_up"), "the new master", timeout=30)
    return time.monotonic()


def by_hand(watched):
    """The old master stays, as a replica."""
    with watched.sentinels[1].connect() as redis:
        redis("SENTINEL", "failover", "main")


@pytest.mark.parametrize("leave", [lambda watched: watched.master.kill(), lambda watched: watched.master.pause(), by_hand],
                         ids=["killed", "stopped", "by hand"])
def test_a_failover_is_followed(start_server, start_upstream, start_fleet, leave):
    """Nothing is lost; once the Sentinels have decided the new master is asked; what the old one had not replicated may be
    admitted again, at most once more."""
    watched, burst = Watched(start_server), 300
    fleet = start_fleet(2, watched_config(start_upstream(), watched, limit_of(burst)))
    with Steady(fleet, threads=2, pause=0.02) as load:
        load.more(40)
        leave(watched)
        watched.wait_decided()
        decided = time.monotonic()
        followed = max(followed_at(w, watched.replica) for w in fleet) - decided
        load.more()
        wait_until(lambda: any(a.status == 429 for a in load.answers), "the limit", timeout=60)
    answers = only(load.none_lost(), 200, 429, 503)
    assert followed < FOLLOWED + 0.5, f"after {followed:.2f} s"  # the metric is asked for now and then
    before = len([a for a in admitted(answers) if a.got < decided])
    assert burst - 5 <= len(admitted(answers)) <= burst + before
    assert {a.r.weir_reason for a in answers if a.status == 503} <= {"store_down"}
    for w in fleet:
        lines = store_lines(w)
        assert len([line for line in lines if "is not asked" in line]) == 1, lines


def test_a_sentinel_that_is_gone_makes_room_for_the_next(start_server, start_upstream, start_fleet):
    watched = Watched(start_server, count=1)
    nobody = f"127.0.0.1:{free_port()}"
    fleet = start_fleet(1, watched_config(start_upstream(), watched, limit_of(5), [nobody, *watched.addresses]))
    assert [get(fleet[0].port).status for _ in range(7)] == [200] * 5 + [429] * 2


def test_what_is_named_but_is_no_master_is_not_asked(start_server, start_upstream, start_fleet):
    """The Sentinel has not noticed yet that its master became a replica."""
    other, server = start_server(), start_server()
    sentinel = start_server(sentinel=f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
                                     "sentinel down-after-milliseconds main 600000\n")
    with server.connect() as redis:
        redis("REPLICAOF", "127.0.0.1", other.port)
        redis("CONFIG", "SET", "replica-read-only", "no")
    fleet = start_fleet(1, limited(start_upstream(), None, limit_of(5), store={
        "mode": "sentinel", "addresses": [address(sentinel)], "sentinel": {"master": "main"}}), wait=False)
    wait_until(fleet[0].ready)
    wait_until(lambda: "it is a replica" in "".join(store_lines(fleet[0])), "the reason")
    assert get(fleet[0].port).status == 503
    with server.connect() as redis:
        redis("REPLICAOF", "NO", "ONE")
    fleet.wait_up()
    assert get(fleet[0].port).status == 200


# --- Cluster ------------------------------------------------------------------------------------------------------------------

SLOTS = 16384


class Cluster:
    """Three masters, each with a third of the slots; made by hand, as redis-cli does."""

    def __init__(self, start_server, replicas=0):
        buses = iter([free_port() for _ in range(3 + replicas)])
        options = {"cluster": True, "cluster_node_timeout": 1000, "cluster_require_full_coverage": "no",
                   "cluster_replica_validity_factor": 0, "repl_diskless_sync_delay": 0}
        self.nodes, self.buses = [], []
        for bus in buses:
            self.nodes.append(start_server(**options, cluster_port=bus))
            self.buses.append(bus)
        self.ids = [self.ask(i, "CLUSTER", "MYID") for i in range(len(self.nodes))]
        for i, (first, last) in enumerate([(0, 5460), (5461, 10922), (10923, SLOTS - 1)]):
            self.ask(i, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for i in range(1, len(self.nodes)):
            self.ask(0, "CLUSTER", "MEET", "127.0.0.1", self.nodes[i].port, self.buses[i])
        for i in range(len(self.nodes)):
            wait_until(lambda: self.ask(i, "CLUSTER", "NODES").count(b"\n") == len(self.nodes), "the cluster to meet")
        for i in range(3, len(self.nodes)):
            self.ask(i, "CLUSTER", "REPLICATE", self.ids[i - 3])
        self.wait_whole()

    def ask(self, i, *words):
        with self.nodes[i].connect() as redis:
            return redis(*words)

    def wait_whole(self):
        for i, node in enumerate(self.nodes):
            if node.process.poll() is None:
                wait_until(lambda: self.owner_count(i) == SLOTS, "every slot to be known", timeout=30)
                wait_until(lambda: b"cluster_state:ok" in self.ask(i, "CLUSTER", "INFO"), "the cluster's word for it", timeout=30)

    def owner_count(self, i):
        return sum(last - first + 1 for first, last, *_ in self.ask(i, "CLUSTER", "SLOTS"))

    def owner_of(self, slot, asked=0):
        for first, last, master, *_ in self.ask(asked, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(i for i, node in enumerate(self.nodes) if node.port == master[1])

    def keys(self, i):
        return self.ask(i, "KEYS", "*")

    def slot_of(self, text):
        """Of the one tag whose keys have this in their names."""
        slots = {self.ask(i, "CLUSTER", "KEYSLOT", key) for i in range(3) for key in self.keys(i) if text in key}
        assert len(slots) == 1, slots
        return slots.pop()

    def move(self, slot, to, pause=0.0):
        """As redis-cli --cluster reshard does, with some time in each step."""
        source = self.owner_of(slot)
        self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])
        time.sleep(pause)
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:
                self.ask(source, "MIGRATE", "127.0.0.1", self.nodes[to].port, key, 0, 5000)
        time.sleep(pause)
        for i in (to, source, 3 - to - source):
            self.ask(i, "CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])

    def check_expiries(self):
        for i, node in enumerate(self.nodes):
            if node.process.poll() is None:
                for key in self.keys(i):
                    assert self.ask(i, "PTTL", key) != -1, key

    @property
    def addresses(self):
        return [address(node) for node in self.nodes[:3]]


def clustered(up, cluster, limits, addresses=None, **more):
    return limited(up, None, limits, store={"mode": "cluster", "addresses": addresses or cluster.addresses, **more.pop("store", {})},
                   **more)


def test_a_cluster_holds_the_limits(start_server, start_upstream, start_fleet):
    """Thirty tenants, which are all over the slots; only one node is told of."""
    cluster = Cluster(start_server)
    fleet = start_fleet(3, clustered(start_upstream(), cluster, limit_of(5), [cluster.addresses[1]]))
    tenants = itertools.cycle([f"t{i}" for i in range(30)])
    lock = threading.Lock()

    def ask(n, i):
        with lock:
            tenant = next(tenants)
        return get_raw("/", tenant), tenant

    answers = only(burst_of(fleet, 2, 50, ask), 200, 429)
    for tenant in tenants_of(answers):
        assert len([a for a in admitted(answers) if a.tag == tenant]) == 5, tenant
    assert all(b":l:l:" in b"".join(cluster.keys(i)) for i in range(3)), "each node has some"
    cluster.check_expiries()


def test_limits_of_different_keys_are_decided_by_their_own_slots(start_server, start_upstream, start_fleet):
    """What one of them refuses is given back to the others."""
    cluster = Cluster(start_server)
    limits = {"tenant": {**FOREVER, "burst": 3, "key": ["tenant"], "on_failure": "closed"},
              "all": {**FOREVER, "burst": 10, "key": [], "on_failure": "closed"}}
    fleet = start_fleet(2, clustered(start_upstream(), cluster, limits))
    answers = only(burst_of(fleet, 2, 30, lambda n, i: (get_raw("/", t := f"t{i % 6}"), t)), 200, 429)
    assert len(admitted(answers)) == 10
    for tenant in tenants_of(answers):
        assert len([a for a in admitted(answers) if a.tag == tenant]) <= 3


@pytest.mark.parametrize("count", [1, 2])
def test_a_slot_moves_under_load(start_server, start_upstream, start_fleet, count):
    """With two limits of a key it is two names, one of which is elsewhere for a while."""
    cluster, burst = Cluster(start_server), 600
    limits = {name: limit_of(burst)["l"] for name in ["l", "m"][:count]}
    fleet = start_fleet(2, clustered(start_upstream(), cluster, limits))
    with Steady(fleet, lambda n, i: get_raw("/", "mover"), threads=2, pause=0.005) as load:
        slot = cluster.slot_of(b":l:l:")
        for _ in range(3):
            cluster.move(slot, (cluster.owner_of(slot) + 1) % 3, pause=0.1)
            load.more(40)
        wait_until(lambda: any(a.status == 429 for a in load.answers), "the limit", timeout=60)
        load.more()
    answers = only(load.none_lost(), 200, 429)
    assert len(admitted(answers)) == burst
    cluster.check_expiries()


def test_a_dedup_key_moves_while_it_runs(start_server, start_upstream, start_fleet):
    """Its two names are in two places for a while: claims wait for that, and it has run once."""
    cluster = Cluster(start_server)
    up = start_upstream(Numbered())
    fleet = start_fleet(2, with_redis(deduped(up), None, mode="cluster", addresses=cluster.addresses))
    done = [exchange_key(fleet[0], "k")]
    slot = cluster.slot_of(b":d:once")
    mover = threading.Thread(target=cluster.move, args=(slot, (cluster.owner_of(slot) + 1) % 3, 0.3))
    mover.start()
    while mover.is_alive():
        done.append(exchange_key(fleet[len(done) % 2], "k"))
    mover.join()
    done.append(exchange_key(fleet[1], "k"))
    assert {r.status for r in done} == {200} and len({r.body for r in done}) == 1


def exchange_key(w, key):
    return exchange(w.port, request("POST", "/", keyed(key), b"x"))


def test_a_new_key_in_a_slot_on_its_way(start_server, start_upstream, start_fleet):
    """The cluster answers TRYAGAIN until the slot has arrived: the claim waits as long, and runs once."""
    cluster = Cluster(start_server)
    up = start_upstream(Numbered())
    fleet = start_fleet(2, with_redis(deduped(up), None, mode="cluster", addresses=cluster.addresses))
    assert exchange_key(fleet[0], "k").body.startswith(b"answer 1")
    slot = cluster.slot_of(b":d:once")
    source = cluster.owner_of(slot)
    cluster.ask(source, "FLUSHALL")
    mover = threading.Thread(target=cluster.move, args=(slot, (source + 1) % 3, 0.4))
    mover.start()
    wait_until(lambda: b"[%d->-" % slot in cluster.ask(source, "CLUSTER", "NODES"), "the slot to be on its way")
    answers = in_parallel(4, lambda n: exchange_key(fleet[n % 2], "k"))
    mover.join()
    assert {r.status for r in answers} == {200} and len({r.body for r in answers}) == 1
    assert up.complete == 2
    cluster.check_expiries()


def test_a_failover_of_one_by_hand(start_server, start_upstream, start_fleet):
    """The master hands over, and stays as a replica: nobody notices, but for what was under way."""
    cluster, burst = Cluster(start_server, replicas=3), 400
    fleet = start_fleet(2, clustered(start_upstream(), cluster, limit_of(burst), store={"timeout": "5s"}))
    with Steady(fleet, lambda n, i: get_raw("/", "one"), threads=2, pause=0.01) as load:
        owner = cluster.owner_of(cluster.slot_of(b":l:l:"))
        load.more(40)
        cluster.ask(owner + 3, "CLUSTER", "FAILOVER")
        wait_until(lambda: cluster.owner_of(cluster.slot_of(b":l:l:"), asked=owner + 3) == owner + 3, "the replica to take over")
        load.more(40)
        wait_until(lambda: any(a.status == 429 for a in load.answers), "the limit", timeout=60)
    answers = only(load.none_lost(), 200, 429, 503)
    assert len(admitted(answers)) <= burst
    fleet.wait_up(1)


def test_a_replica_takes_over(start_server, start_upstream, start_fleet):
    """The master of one third dies: what it holds is decided by on_failure until its replica has taken over, the rest goes on."""
    cluster = Cluster(start_server, replicas=3)
    fleet = start_fleet(2, clustered(start_upstream(), cluster, limit_of(100_000), store={"timeout": "250ms"}))
    with Steady(fleet, lambda n, i: (get_raw("/", t := f"t{i % 20}"), t), threads=2, pause=0.01) as load:
        load.more(80)
        cluster.nodes[0].kill()
        wait_until(lambda: any(a.status == 503 for a in load.answers), "what is down")
        wait_until(lambda: cluster.owner_of(0, asked=1) == 3, "the replica to take over", timeout=30)
        taken = time.monotonic()
        fleet.wait_up(1, timeout=30)
        assert time.monotonic() - taken < FOLLOWED + 0.5
        at = time.monotonic()
        load.more(80)
    only(load.none_lost(), 200, 503)
    only(load.since(at), 200)
    lasting = [a for a in load.answers if a.status == 503]
    assert len(tenants_of(lasting)) < 20, "two thirds were not concerned"


def test_a_cluster_that_is_taken_for_one_server(start_server, start_upstream, start_fleet):
    """Told by its MOVED, and decided by on_failure."""
    cluster = Cluster(start_server)
    tell = cluster.ask(0, "CLUSTER", "KEYSLOT", "weir:{aaaa}:probe")
    other = (cluster.owner_of(tell) + 1) % 3
    fleet = start_fleet(1, limited(start_upstream(), address(cluster.nodes[other]), limit_of(4, on_failure="local")), wait=False)
    wait_until(fleet[0].ready)
    assert "MOVED" in fleet[0].status()["store"]["why"]
    assert [get(fleet[0].port).status for _ in range(6)] == [200] * 4 + [429] * 2


def test_half_a_cluster_is_half_up(start_server, start_upstream, start_fleet):
    """No replica: two thirds of the keys go on for as long as it takes."""
    cluster = Cluster(start_server)
    fleet = start_fleet(1, clustered(start_upstream(), cluster, limit_of(100_000), store={"timeout": "250ms"}))
    ask = [get_raw("/", f"t{i}") for i in range(20)]
    cluster.nodes[2].kill()
    fleet.wait_up(0)
    statuses = [a.status for a in burst_of(fleet, 1, 20, lambda n, i: ask[i])]
    assert 200 in statuses and 503 in statuses
    cluster.nodes[2].start()
    fleet.wait_up(1, timeout=30)
    only(burst_of(fleet, 1, 20, lambda n, i: ask[i]), 200)
