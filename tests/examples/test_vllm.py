"""vLLM on a unix socket: what it is sent, who waits and who goes first, and what is said while it is away."""
import os
import threading

import pytest

import faults
from examples import JSON, Provider, Waiting, credentials, events_of, secret
from harness import Upstream, exchange, get, request, wait_until
from llm import Usage

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
PATH = "/local/chat/completions"


class Gpu:
    """weir before a stub on a socket, which may go and come back."""

    def __init__(self, start_example, tmp_path):
        self.vllm, self.socket, self.up = Provider(usage=Usage(input=1000, output=300)), str(tmp_path / "vllm.sock"), None
        self.come()
        self.weir = start_example("vllm.yaml", {"/run/vllm/vllm.sock": self.socket})
        self.port = self.weir.ports["outbound"]

    def come(self):
        self.up = Upstream(self.vllm, unix=self.socket)

    def go(self):
        self.up.close()
        os.unlink(self.socket)
        assert not self.up.errors, self.up.errors

    def raw(self, tenant="acme", text="hi", priority=None, **more):
        more_fields = [("X-Priority", priority)] if priority else []
        return request("POST", PATH, [("X-Tenant-ID", tenant), ("Authorization", "Bearer the-agents-own"), JSON, *more_fields],
                       faults.ask_of("local", text, **more))

    def ask(self, *args, **kw):
        return exchange(self.port, self.raw(*args, **kw))

    def send(self, *args, **kw):
        return Waiting(self.port, self.raw(*args, **kw))

    def full(self):
        """Sixteen calls of acme's that wait for the test."""
        self.vllm.hold = threading.Semaphore(0)
        running = [self.send(text=f"first {n}") for n in range(16)]
        self.up.wait_heads(16)
        return running

    def queue(self, count):
        self.weir.wait_metric("weir_queue_depth", count, limit="slots")

    def next_text(self):
        """One more answer; what was sent then."""
        before = self.up.heads
        self.vllm.hold.release()
        self.up.wait_complete(before + 1)
        return self.up.requests[before].body


@pytest.fixture
def gpu(start_example, tmp_path):
    one = Gpu(start_example, tmp_path)
    try:
        yield one
    finally:
        one.up.close()
    assert not one.up.errors, one.up.errors


def test_what_it_is_sent(gpu):
    """The tenant's share is settled: 1000 / 5 + 300."""
    full = gpu.weir.left("tokens", PATH, tenant="acme", model="local")
    r = gpu.ask(stream=True)
    events = events_of(r.body)
    assert r.status == 200 and events[-1] == b"[DONE]" and not any(b'"prompt_tokens"' in e for e in events[:-1]), r
    [seen] = gpu.up.requests
    assert seen.target == "/v1/chat/completions"
    assert credentials(seen) == {"authorization": f"Bearer {secret('VLLM_API_KEY')}"}
    assert f'"model": "{MODEL}"'.encode() in seen.body and b"include_usage" in seen.body
    assert seen.header("X-Request-ID") == r.header("X-Correlation-ID") and "traceparent" not in seen.headers
    left = gpu.weir.left("tokens", PATH, tenant="acme", model="local")
    assert full == 120_000 and full - 500 <= left < full, "and comes back, 1000 a second"
    assert gpu.weir.counted("weir_llm_tokens_total", upstream="vllm", tenant="acme", type="output") == 300
    assert gpu.weir.wait_log(upstream="vllm")["tokens_out"] == 300


def test_only_the_api_is_within_reach(gpu):
    for target in ("/metrics", "/v1/models", "/local/../metrics", "/local/%2e%2e/metrics"):
        assert get(gpu.port, target).weir_reason in ("no_route", "malformed"), target
    assert get(gpu.port, "/local/models").status == 404 and [q.target for q in gpu.up.requests] == ["/v1/models"]


def test_the_urgent_one_goes_first(gpu):
    running = gpu.full()
    waiting = []
    for n, (text, priority) in enumerate([("later", "background"), ("second", None), ("now", "urgent")], 1):
        waiting.append(gpu.send("globex", text, priority))
        gpu.queue(n)
    assert [gpu.weir.metric("weir_queue_depth", limit="slots", priority=p) for p in ("urgent", "normal", "background")] == [1, 1, 1]
    assert gpu.up.heads == 16
    for text in (b'"now"', b'"second"', b'"later"'):
        assert text in gpu.next_text()
    gpu.vllm.hold.release(100)
    assert {one.answer().status for one in running + waiting} == {200}
    gpu.weir.wait_metric("weir_queue_wait_seconds_count", 3, limit="slots")


def test_a_backlog_is_its_owners(gpu):
    """Sixteen of acme's run and sixteen wait: the next is refused, and globex's waits. Who leaves, leaves the queue."""
    running = gpu.full()
    waiting = [gpu.send(text="more") for _ in range(16)]
    gpu.queue(16)
    r = gpu.ask(text="too much")
    faults.error(r, 429, "queue_full", "openai")
    assert r.json()["error"]["type"] == "rate_limit_error" and "Retry-After" in r.headers
    waiting.append(gpu.send("globex"))
    gpu.queue(17)
    gone = gpu.send("initech")
    gpu.queue(18)
    gone.conn.half_close()
    gpu.queue(17)
    gpu.vllm.hold.release(100)
    assert {one.answer().status for one in running + waiting} == {200}
    assert gpu.up.heads == 33 and gpu.weir.counted("weir_refused_total", reason="queue_full") == 1


def test_while_it_is_away(gpu):
    """It is tried three times a call, for a moment; after five failures in a row there is an answer at once; and it is asked
    again by itself when it is back."""
    assert gpu.ask().status == 200
    gpu.go()
    r = gpu.ask()
    faults.error(r, 502, "connect_failed", "openai")
    assert gpu.weir.wait_log(status=502)["attempts"] == 3
    r = gpu.ask()
    assert r.weir_reason in ("connect_failed", "breaker_open"), r
    assert faults.refused(gpu.ask(), "breaker_open", "openai") <= 3
    assert gpu.weir.state("vllm") == "open"
    gpu.come()
    wait_until(lambda: gpu.ask().status == 200, "it to be asked again", every=0.1)
    wait_until(lambda: gpu.ask().status == 200 and gpu.weir.state("vllm") == "closed", "trust", every=0.05)


def test_a_restart_in_between_is_not_seen(gpu):
    gpu.go()
    call = gpu.send()
    gpu.weir.wait_metric("weir_retries_total", lambda n: n >= 1, upstream="vllm")
    gpu.come()
    assert call.answer().status == 200 and gpu.up.heads == 1
