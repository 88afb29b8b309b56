"""OpenAI, and Azure while OpenAI fails or says 429: each with its own address, credential and names; and the tenants' budgets."""
import pytest

import faults
import llm
from examples import JSON, Provider, credentials, events_of, secret
from harness import RESET, post, reply
from llm import Usage
from support import parse_limit_field

CHAT = "/v1/chat/completions"
AGENT = [("Authorization", "Bearer the-agents-own"), ("OpenAI-Organization", "org-of-the-agent"), ("Cookie", "a=b"), JSON]
AT_OPENAI = {"authorization": f"Bearer {secret('OPENAI_API_KEY')}"}
AT_AZURE = {"api-key": secret("AZURE_OPENAI_API_KEY")}
# what an answer costs in tokens of input: 1000 + 400 / 2 + 200 * 4
USAGE, COST = Usage(input=1000, cached=400, output=200), 2000


@pytest.fixture
def stage(start_https, start_example):
    class Stage:
        openai, azure = Provider(usage=USAGE), Provider(usage=USAGE)
        at_openai, at_azure = start_https(openai), start_https(azure)
        weir = start_example("openai-azure.yaml", {"https://api.openai.com": at_openai.url}, AZURE_OPENAI_ENDPOINT=at_azure.url)

        def chat(self, tenant="acme", model="gpt-4o", headers=(), **more):
            fields = [("X-Tenant-ID", tenant), *AGENT, *headers]
            return post(self.weir.ports["outbound"], CHAT, faults.ask_of(model, **more), fields)

        def fail_at_openai(self, answer):
            """Of one model, gpt-4o; the other's calls are fine."""
            self.openai.instead = lambda peer: answer if b"gpt-4o-2024" in peer.request.body else self.openai.llm(peer)

        def left(self, tenant="acme", model="gpt-4o", limit="tokens-per-day"):
            return self.weir.left(limit, CHAT, tenant=tenant, model=model)

    return Stage()


def test_a_stream_is_openais_and_its_usage_is_settled(stage):
    """The agent asked for no usage, and sees none."""
    full = stage.left()
    r = stage.chat(stream=True)
    assert r.status == 200 and r.clean, r
    [seen] = stage.at_openai.requests
    assert (seen.method, seen.target, seen.header("Host")) == ("POST", CHAT, f"localhost:{stage.at_openai.port}")
    assert credentials(seen) == {**AT_OPENAI, "cookie": "a=b"} and b'"include_usage":true' in seen.body.replace(b" ", b""), seen
    assert "X-Correlation-ID" not in seen.headers and "traceparent" not in seen.headers, "a provider is told no names of ours"
    events = events_of(r.body)
    assert events[-1] == b"[DONE]" and not any(b'"prompt_tokens"' in e for e in events[:-1]) and b"Hello" in r.body
    assert int(r.header("x-ratelimit-limit-tokens")) == 1_000_000 and 0 < int(r.header("x-ratelimit-remaining-tokens")) < 1_000_000
    assert {name for name, _ in parse_limit_field(r.header("RateLimit-Policy"))} == {"requests", "fan-out", "at-once"}
    assert full - stage.left() == COST
    assert stage.weir.counted("weir_llm_tokens_total", upstream="openai", tenant="acme") == 1600
    line = stage.weir.wait_log(path=CHAT)
    assert (line["upstream"], line["model"], line["tokens_in"], line["tokens_out"]) == ("openai", "gpt-4o", 1400, 200)


def test_a_429_sends_its_model_to_azure(stage):
    stage.fail_at_openai(faults.status(429, retry_after=60))
    full = stage.left()
    first = stage.chat()
    assert (first.status, first.weir_reason) == (200, None) and "usage" in first.json()
    [seen] = stage.at_azure.requests
    assert (seen.target, seen.header("Host")) == ("/openai/v1/chat/completions", f"localhost:{stage.at_azure.port}")
    assert credentials(seen) == AT_AZURE
    assert (stage.at_openai.requests[0].body, seen.body) == (faults.ask_of("gpt-4o-2024-11-20"), faults.ask_of("gpt-4o-eu"))
    assert full - stage.left() == COST, "at Azure's usage"
    again = stage.chat(headers=[("api-key", "the-agents-own")])
    assert again.status == 200 and stage.at_openai.heads == 1, "OpenAI is not asked meanwhile"
    assert credentials(stage.at_azure.requests[1]) == AT_AZURE
    assert stage.chat(model="gpt-4o-mini").status == 200
    assert (stage.at_openai.heads, stage.at_azure.heads) == (2, 2), "another model is not paused"
    assert stage.weir.counted("weir_fallbacks_total", **{"from": "openai", "to": "azure"}) == 2
    assert stage.weir.state("openai", "gpt-4o-2024-11-20") == "paused"
    assert stage.weir.wait_log(upstream="azure")["model"] == "gpt-4o"


@pytest.mark.parametrize("failure", [faults.status(503), faults.status(500), "refused"], ids=["503", "500", "refused"])
def test_a_failure_is_tried_again_and_then_is_azures(stage, failure):
    if failure == "refused":
        stage.weir.wait_metric("weir_upstream_connections", 2, upstream="openai", state="idle")   # those kept warm
        stage.at_openai.close()
        stage.weir.wait_metric("weir_upstream_connections", 0, upstream="openai", state="idle")
    else:
        stage.openai.instead = failure
    r = stage.chat(stream=True)
    assert r.status == 200 and events_of(r.body)[-1] == b"[DONE]", r
    assert failure == "refused" or stage.at_openai.heads == 2
    [seen] = stage.at_azure.requests
    assert credentials(seen) == AT_AZURE and b'"gpt-4o-eu"' in seen.body
    stage.weir.wait_metric("weir_retries_total", 1, upstream="openai")


def test_a_model_that_fails_does_not_close_the_others(stage):
    """After five tries in a row it is not asked for any more."""
    stage.fail_at_openai(faults.status(500))
    assert {stage.chat().status for _ in range(5)} == {200} and stage.at_azure.heads == 5
    assert stage.at_openai.heads in (5, 6), "what is under way when it opens may be tried again"
    assert [stage.weir.state("openai", m) for m in ("gpt-4o-2024-11-20", "gpt-4o-mini-2024-07-18")] == ["open", "closed"]
    stage.at_openai.clear()
    assert stage.chat(model="gpt-4o-mini").status == 200
    assert (stage.at_openai.heads, stage.at_azure.heads) == (1, 5)


def test_an_answer_that_was_lost_is_not_asked_for_twice(stage):
    """OpenAI may have made it, and have it paid."""
    stage.openai.instead = lambda peer: peer.run([RESET])
    r = stage.chat()
    assert (r.status, r.weir_reason) == (502, "reset") and r.json()["error"]["type"] == "api_error"
    assert (stage.at_openai.heads, stage.at_azure.heads) == (1, 0)


def test_azures_words_about_the_prompt_pass(stage):
    """Its streams begin with what its filters made of the prompt, in a chunk without choices; that is not the usage."""
    said = {"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    stage.azure.llm.transform = lambda events: [llm.event(said), *events]
    stage.openai.instead = faults.status(429, retry_after=60)
    full = stage.left()
    r = stage.chat(stream=True)
    events = events_of(r.body)
    assert b"prompt_filter_results" in events[0] and events[-1] == b"[DONE]", r.body
    assert not any(b'"prompt_tokens"' in e for e in events[1:-1]) and full - stage.left() == COST


def test_embeddings_have_a_deployment_in_the_path(stage):
    """The api that wants a date."""
    embed = llm.FORMS["embeddings"]
    answer = reply(200, llm.whole("embeddings", Usage(input=7)), [JSON])
    stage.openai.instead, stage.azure.instead = faults.status(503), answer
    body = embed.ask("text", model="text-embedding-3-small")
    full = stage.left(model="text-embedding-3-small")
    r = post(stage.weir.ports["outbound"], embed.path, body, [("X-Tenant-ID", "acme"), *AGENT])
    assert r.status == 200 and r.body == llm.whole("embeddings", Usage(input=7))
    [seen] = stage.at_azure.requests
    assert seen.target == "/openai/deployments/embeddings-eu/embeddings?api-version=2024-10-21"
    assert credentials(seen) == AT_AZURE and seen.body == body
    assert stage.at_openai.requests[0].target == "/v1/embeddings"
    assert full - stage.left(model="text-embedding-3-small") == 7


def test_when_both_say_429_the_agent_hears_it(stage):
    stage.openai.instead = faults.status(429, retry_after=60)
    stage.azure.instead = faults.status(429, b'{"azure": 1}', retry_after=30)
    r = stage.chat()
    assert (r.status, r.body, r.header("Retry-After")) == (429, b'{"azure": 1}', "30")
    full = stage.left()
    again = stage.chat()
    assert (again.status, again.weir_reason) == (503, "throttled") and 1 <= int(again.header("Retry-After")) <= 60
    assert again.json()["error"]["type"] == "api_error" and full == stage.left(), "a call that was not made costs nothing"
    assert (stage.at_openai.heads, stage.at_azure.heads) == (1, 1)


def test_a_tenant_over_its_budget(stage):
    """50000 a day are trial's: five answers at 10000; the sixth is refused before anyone is asked."""
    stage.openai.llm.usage = Usage(input=2000, output=2000)
    for n in range(5):
        assert stage.left("trial") == 50_000 - n * 10_000
        assert stage.chat("trial").status == 200
    assert stage.left("trial") == 0
    r = stage.chat("trial")
    faults.error(r, 429, "limit", "openai")
    assert r.json()["error"]["code"] == "rate_limit_exceeded" and r.header("x-should-retry") == "false", r
    assert int(r.header("x-ratelimit-remaining-tokens")) == 0 and int(r.header("Retry-After")) > 80_000
    assert stage.at_openai.heads == 5 and stage.chat("acme").status == 200
    assert stage.weir.counted("weir_limit_decisions_total", limit="tokens-per-day", tenant="trial", decision="refused") == 1
    assert stage.weir.wait_log(status=429)["limit"] == "tokens-per-day"


def test_a_task_that_runs_away(stage):
    task = [("X-Correlation-ID", "task-7")]
    assert {stage.chat(headers=task).status for _ in range(50)} == {200}
    r = stage.chat(headers=task)
    assert (r.status, stage.weir.wait_log(status=429)["limit"]) == (429, "fan-out")
    assert stage.chat(headers=[("X-Correlation-ID", "task-8")]).status == 200
