"""An agent in a mesh: Istio's proxy calls from 127.0.0.6, whoever else can reach the port does not."""
import signal
import threading
import time

import pytest

from examples import Waiting
from harness import connect as connect_to
from harness import DEADLINE, exchange, reply, request, wait_until
from support import Caller, limit_refusal, problem, rate_limit

ENVOY = ("127.0.0.6", 0)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MESH = [("X-Request-ID", "9d2f8c1a-5b0e-4c7e-9a57-0c5f1d3e2b4a"), ("traceparent", TRACE),
        ("X-Forwarded-For", "198.51.100.7, 203.0.113.9"),
        ("X-Forwarded-Client-Cert", "By=spiffe://cluster.local/ns/a/sa/agent;URI=spiffe://cluster.local/ns/b/sa/web")]


@pytest.fixture
def mesh(start_upstream, start_example, connect):
    class Mesh:
        agent, search = start_upstream(), start_upstream()
        weir = start_example("agent-in-mesh.yaml", AGENT_URL=agent.url, SEARCH_URL=f"{search.url}/v2")

        def call(self, tenant="acme", path="/", method="GET", source=ENVOY, headers=MESH):
            """As Envoy hands it over."""
            c = connect(self.weir.ports["inbound"], source=source)
            fields = [("X-Tenant-ID", tenant), *headers] if tenant else headers
            c.send(request(method, path, fields, b"x" if method == "POST" else None))
            return c.read_response(method)

        def search_for(self, task, path="/search/x?q=1"):
            """As the agent calls."""
            return exchange(self.weir.ports["outbound"], request("GET", path, [("X-Request-ID", task), ("X-Tenant-ID", "acme")]))

    return Mesh()


def test_what_the_mesh_says_is_believed_and_passed_on(mesh):
    r = mesh.call()
    assert (r.status, r.header("X-Request-ID")) == (200, MESH[0][1])
    assert rate_limit(r)["requests"]["q"] == 40
    [seen] = mesh.agent.requests
    assert [seen.header(n) for n in ("X-Tenant-ID", "traceparent", "X-Forwarded-Client-Cert")] == ["acme", TRACE, MESH[3][1]]
    assert [seen.header(n) for n in ("X-Request-ID", "X-Correlation-ID")] == [MESH[0][1]] * 2
    line = mesh.weir.wait_log(listener="inbound")
    assert (line["correlation_id"], line["trace_id"], line["tenant"]) == (MESH[0][1], TRACE[3:35], "acme")


def test_who_comes_around_the_mesh_is_nobody(mesh):
    r = mesh.call(source=("127.0.0.1", 0))
    problem(r, 401, "tenant_missing", request_id=r.header("X-Request-ID"))
    assert r.header("X-Request-ID") != MESH[0][1]
    problem(mesh.call(tenant=None), 401, "tenant_missing")
    assert mesh.agent.heads == 0
    mesh.weir.wait_metric("weir_refused_total", 2, reason="tenant_missing")


def test_a_tenant_over_its_rate_is_held_and_no_other(mesh):
    with Caller(mesh.weir.ports["inbound"]) as c:
        c.conn, begun, admitted = connect_to(c.where, source=ENVOY), time.monotonic(), 0
        while (r := c.ask(request("GET", "/", [("X-Tenant-ID", "acme")]))).status == 200 and admitted < 2000:
            admitted += 1
    assert 40 <= admitted <= 40 + 20 * (time.monotonic() - begun) + 1
    assert limit_refusal(r)[0] == 1
    assert mesh.call("globex").status == 200
    assert mesh.weir.counted("weir_limit_decisions_total", limit="requests", tenant="acme", decision="refused") >= 1


def test_an_address_that_floods_the_gateway(mesh):
    """It is the one that the gateway wrote; by another name the mesh's own callers come."""
    with Caller(mesh.weir.ports["inbound"]) as c:
        c.conn = connect_to(c.where, source=ENVOY)

        def call(n, addresses, host="agent.example.com"):
            fields = [("X-Tenant-ID", f"t{n % 50}"), ("X-Forwarded-For", addresses)]
            return c.ask(request("GET", "/", fields, host=host)).status

        assert [call(n, f"198.51.100.{n % 250}, 203.0.113.9") for n in range(302)] == [200] * 300 + [429] * 2
        assert call(1, "203.0.113.9, 203.0.113.10") == call(2, "203.0.113.9", host="agent.agents.svc") == 200


def test_runs_wait_for_a_slot(mesh):
    """Sixteen at once; of the queue a tenant has a quarter, and the others the rest."""
    go = threading.Event()
    mesh.agent._handler = lambda peer: go.wait(DEADLINE) and reply()

    def run(tenant):
        return Waiting(connect_to(mesh.weir.ports["inbound"], source=ENVOY),
                       request("POST", "/runs", [("X-Tenant-ID", tenant), *MESH], b"x"))

    running = [run("acme") for _ in range(16)]
    mesh.agent.wait_heads(16)
    waiting = [run("acme") for _ in range(16)]
    mesh.weir.wait_metric("weir_queue_depth", 16, limit="runs")
    refused = mesh.call(path="/runs", method="POST")
    problem(refused, 429, "queue_full", request_id=MESH[0][1])
    waiting.append(run("globex"))
    mesh.weir.wait_metric("weir_queue_depth", 17, limit="runs")
    assert mesh.agent.heads == 16
    go.set()
    assert {one.answer().status for one in running + waiting} == {200}
    assert mesh.agent.heads == 33


def test_the_agent_calls_through_the_mesh(mesh):
    r = mesh.search_for("task-1")
    assert (r.status, r.header("X-Request-ID")) == (200, "task-1")
    [seen] = mesh.search.requests
    assert seen.target == "/v2/x?q=1" and seen.header("X-Request-ID") == "task-1" and "X-Tenant-ID" not in seen.headers
    assert seen.header("Host") == f"127.0.0.1:{mesh.search.port}", "Envoy routes by it"
    assert "traceparent" in seen.headers


def test_an_agent_that_runs_away_is_stopped(mesh):
    with Caller(mesh.weir.ports["outbound"]) as c:
        statuses = [c.get("/search/x", [("X-Request-ID", "task-1")]).status for _ in range(53)]
        assert statuses == [200] * 50 + [429] * 3
        assert c.get("/search/x", [("X-Request-ID", "task-2")]).status == 200


def test_a_service_that_is_gone_is_not_waited_for(start_upstream, mesh):
    """Envoy answers for it; each request is one try, and the sixth is none."""
    mesh.search._handler = lambda peer: reply(503, b"upstream connect error", [("server", "envoy")])
    answers = [mesh.search_for(f"task-{n}") for n in range(6)]
    assert [(r.status, r.weir_reason) for r in answers] == [(503, None)] * 5 + [(503, "breaker_open")]
    assert 4 <= int(answers[5].header("Retry-After")) <= 6
    assert mesh.search.heads == 5 and mesh.weir.state("search") == "open"
    assert mesh.call().status == 200, "the way in is another one"


def test_it_leaves_in_order(mesh):
    """Not ready, so that endpoints are withdrawn; and who comes nevertheless is served."""
    mesh.weir.signal(signal.SIGTERM)
    wait_until(lambda: mesh.weir.ask("/readyz").status == 503, "the drain")
    assert mesh.call().status == 200
