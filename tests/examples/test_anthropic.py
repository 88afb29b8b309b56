"""Claude: whose key, what passes, what a cache saves, and what a 429, a 529 and a stream that breaks are for the others."""
import json

import pytest

import faults
from examples import JSON, Provider, credentials, events_of, secret
from harness import post, reply, wait_until
from llm import FORMS, Usage, event, to_json

MESSAGES = "/v1/messages"
AGENT = [("x-api-key", "the-agents-own"), ("Authorization", "Bearer the-agents-other"), ("anthropic-version", "2023-06-01"),
         ("anthropic-beta", "extended-cache-ttl-2025-04-11"), JSON]
# 1000 + 40000 / 10 + 2000 * 1.25 + 300 * 5
USAGE, COST = Usage(input=1000, cached=40_000, cache_write=2000, output=300), 9000
OVERLOADED = to_json({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


@pytest.fixture
def stage(start_https, start_example):
    class Stage:
        claude = Provider(usage=USAGE)
        up = start_https(claude)
        weir = start_example("anthropic.yaml", {"https://api.anthropic.com": up.url})

        def ask(self, tenant="acme", model="claude-sonnet", path=MESSAGES, headers=(), **more):
            body = FORMS["messages"].ask(model=model, max_tokens=1000, **more)
            return post(self.weir.ports["outbound"], path, body, [("X-Tenant-ID", tenant), *AGENT, *headers])

        def left(self, tenant="acme"):
            return self.weir.left("tokens-per-day", MESSAGES, tenant=tenant, model="claude-sonnet")

    return Stage()


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
def test_the_key_is_ours_and_the_rest_is_the_agents(stage, stream):
    full = stage.left()
    r = stage.ask(stream=stream)
    assert r.status == 200 and r.clean, r
    [seen] = stage.up.requests
    assert (seen.target, seen.header("Host")) == (MESSAGES, f"localhost:{stage.up.port}")
    assert credentials(seen) == {"x-api-key": secret("ANTHROPIC_API_KEY")}
    assert (seen.header("anthropic-version"), seen.header("anthropic-beta")) == ("2023-06-01", "extended-cache-ttl-2025-04-11")
    assert seen.body == FORMS["messages"].ask(model="claude-sonnet-4-5-20250929", max_tokens=1000, stream=stream)
    assert full - stage.left() == COST
    assert int(r.header("x-ratelimit-limit-tokens")) == 10_000_000
    tokens = {kind: stage.weir.counted("weir_llm_tokens_total", upstream="anthropic", tenant="acme", type=kind)
              for kind in ("input", "cached", "output")}
    assert tokens == {"input": 3000, "cached": 40_000, "output": 300}


def test_counting_costs_nothing(stage):
    stage.claude.instead = reply(200, b'{"input_tokens": 2095}', [JSON])
    full = stage.left()
    assert stage.ask(path="/v1/messages/count_tokens").json() == {"input_tokens": 2095}
    assert stage.left() == full and stage.up.requests[0].target == "/v1/messages/count_tokens"


def test_a_429_is_heeded_by_all(stage):
    """It is the agent's to read; then no call of that model goes out until Retry-After, whatever tenant's."""
    body = to_json({"type": "error", "error": {"type": "rate_limit_error", "message": "too many"}})
    said = faults.status(429, body, retry_after=30, headers=[("anthropic-ratelimit-requests-remaining", "0")])
    stage.claude.instead = lambda peer: said if b"sonnet" in peer.request.body else stage.claude.llm(peer)
    full = stage.left()
    first = stage.ask()
    assert (first.status, first.weir_reason, first.header("Retry-After")) == (429, None, "30")
    assert first.json()["error"]["type"] == "rate_limit_error" and first.header("anthropic-ratelimit-requests-remaining") == "0"
    assert 20 <= faults.refused(stage.ask("globex"), "throttled", "anthropic") <= 30
    assert stage.up.heads == 1 and stage.left() == full, "neither costs tokens"
    assert stage.ask(model="claude-haiku").status == 200, "another model has a limit of its own"
    assert stage.weir.state("anthropic", "claude-sonnet-4-5-20250929") == "paused"
    stage.claude.instead = None
    r = stage.weir.ask_admin("/upstreams/anthropic/breaker?state=closed", method="POST")
    assert r.status == 200 and stage.ask().status == 200, "an operator may know better"


def test_overloaded_is_a_moments_pause(stage):
    stage.claude.instead = reply(529, OVERLOADED, [JSON])
    r = stage.ask()
    assert (r.status, r.body, stage.up.heads) == (529, OVERLOADED, 1)
    stage.claude.instead = None
    assert faults.refused(stage.ask(), "throttled", "anthropic") == 1
    assert wait_until(lambda: stage.ask().status == 200, "the pause to end", every=0.1)


def test_a_500_is_tried_again(stage):
    turns = iter([faults.status(500)])
    stage.claude.instead = lambda peer: next(turns, None) or stage.claude.llm(peer)
    assert stage.ask().status == 200 and stage.up.heads == 2
    assert stage.weir.counted("weir_retries_total", upstream="anthropic", reason="500") == 1


def test_a_stream_that_breaks_off_never_looks_whole(stage):
    """What came is charged: all of the input, which the first event told, and what was written of the answer."""
    stage.claude.llm.cut = 6   # in place of the third piece of text
    full = stage.left()
    r = stage.ask(stream=True)
    assert r.status == 200 and r.end in ("truncated", "reset"), r
    last = json.loads(events_of(r.body)[-1])
    assert (last["type"], last["error"]["type"], last["reason"]) == ("error", "api_error", "truncated")
    assert b"\n\nevent: error\n" in r.body and b"message_stop" not in r.body
    spent = full - stage.left()
    assert 7500 < spent < COST, spent
    assert stage.weir.wait_log(path=MESSAGES)["reason"] == "truncated"


def test_an_error_in_a_stream_is_the_agents_to_read(stage):
    """Claude says so in the middle of it, and ends well."""
    stage.claude.llm.transform = lambda events: [*events[:5], event(OVERLOADED, "error")]
    full = stage.left()
    r = stage.ask(stream=True)
    assert r.status == 200 and r.clean and events_of(r.body)[-1] == OVERLOADED, r
    assert r.body.count(b"event: error") == 1 and 7500 < full - stage.left() < COST


def test_a_tenant_over_its_budget(stage):
    """100000 a day are trial's; what the last answer went over is a debt."""
    stage.claude.llm.usage = Usage(input=500, cached=5000, output=7800)   # 40000
    assert [stage.ask("trial").status for _ in range(3)] == [200] * 3
    r = stage.ask("trial")
    faults.error(r, 429, "limit", "anthropic")
    assert int(r.header("Retry-After")) > 80_000 and r.header("x-should-retry") == "false"
    assert stage.up.heads == 3 and stage.ask("acme").status == 200
    assert stage.weir.ask_admin("/limits/tokens-per-day?tenant=trial", method="DELETE").status in (200, 204)
    assert stage.ask("trial").status == 200, "a fresh start"
