"""One gateway, many tenants: known by key, each with budgets of its own, and none in another's way."""
import hashlib
import threading

import pytest

import faults
from examples import FOLDER, JSON, Provider, Waiting, credentials, secret
from harness import exchange, reply, request, wait_until
from llm import Usage
from support import Caller, replace_file

CHAT = "/v1/chat/completions"
ACME, GLOBEX = "demo-key-of-acme", "demo-key-of-globex"


@pytest.fixture
def gateway(start_https, start_example):
    class Gateway:
        models = Provider(usage=Usage(input=1000, cached=1000, output=1000))   # 5500
        up = start_https(models)
        weir = start_example("multi-tenant.yaml", {"https://api.openai.com": up.url},
                             files={"tenants.yaml": (FOLDER / "tenants.yaml").read_text()})
        port = weir.ports["public"]

        def raw(self, key=ACME, model="gpt-4o", address="203.0.113.9", headers=(), **more):
            fields = [("Authorization", f"Bearer {key}")] if key else []
            return request("POST", CHAT, [*fields, ("X-Forwarded-For", f"10.9.9.9, {address}"), JSON, *headers],
                           faults.ask_of(model, **more))

        def ask(self, *args, **kw):
            return exchange(self.port, self.raw(*args, **kw))

        def left(self, limit, tenant, model):
            return self.weir.left(limit, CHAT, listener="public", tenant=tenant, model=model)

    return Gateway()


def test_a_key_is_a_tenant_and_stays_here(gateway):
    r = gateway.ask(headers=[("OpenAI-Organization", "of-acme"), ("Cookie", "a=b"), ("X-Tenant-ID", "globex")])
    assert r.status == 200, r
    [seen] = gateway.up.requests
    assert credentials(seen) == {"authorization": f"Bearer {secret('OPENAI_API_KEY')}"}
    assert not any(ACME in value for _, value in seen.headers)
    assert gateway.weir.wait_log(status=200)["tenant"] == "acme"
    r = exchange(gateway.port, request("POST", CHAT, [("x-api-key", GLOBEX), JSON], faults.ask_of("gpt-4o")))
    assert r.status == 200 and credentials(gateway.up.requests[1]) == credentials(seen)
    assert gateway.weir.counted("weir_llm_tokens_total", tenant="globex", type="output") == 1000


@pytest.mark.parametrize("key, reason", [(None, "tenant_missing"), ("demo-key-of-nobody", "api_key_unknown")])
def test_who_has_no_key(gateway, key, reason):
    faults.error(gateway.ask(key), 401, reason, "openai")
    assert gateway.up.heads == 0 and "nobody" not in gateway.weir.stdout


def test_budgets_are_their_tenants_and_a_models(gateway):
    """200000 a day for globex on each dear model, five millions for acme; what is not dear has no such budget."""
    gateway.models.llm.usage = Usage(input=4000, cached=2000, output=50_000)   # 205000
    assert (gateway.left("dear-models", "globex", "gpt-5"), gateway.left("dear-models", "acme", "gpt-5")) == (200_000, 5_000_000)
    assert gateway.ask(GLOBEX, "gpt-5-pro").status == 200
    assert gateway.left("dear-models", "globex", "gpt-5-pro") == 0
    # the minute's pace is spent, too: given back, so that the day's budget is what refuses
    assert gateway.weir.ask_admin("/limits/tokens?tenant=globex", method="DELETE").status in (200, 204)
    r = gateway.ask(GLOBEX, "gpt-5-pro")
    faults.error(r, 429, "limit", "openai")
    assert gateway.weir.wait_log(status=429)["limit"] == "dear-models" and r.header("x-should-retry") == "false"
    gateway.models.llm.usage = Usage(input=10, output=10)
    assert gateway.ask(GLOBEX, "gpt-5-mini").status == 200, "a budget for each model"
    assert gateway.ask(GLOBEX, "gpt-4o").status == 200, "no dear one"
    assert gateway.ask(ACME, "gpt-5-pro").status == 200, "another tenant"
    assert gateway.left("dear-models", "acme", "gpt-5-pro") == 5_000_000 - 50


def test_the_minutes_pace(gateway):
    """Two minutes' worth at once; what was over is a debt, and the wait is told."""
    gateway.models.llm.usage = Usage(input=100_000, output=50_000)   # 300000 of 200000
    assert gateway.ask(GLOBEX).status == 200
    r = gateway.ask(GLOBEX)
    faults.error(r, 429, "limit", "openai")
    assert 50 <= int(r.header("Retry-After")) <= 70 and gateway.weir.wait_log(status=429)["limit"] == "tokens"
    assert gateway.ask(ACME).status == 200


def test_nobodys_backlog_keeps_another_one_out(gateway):
    gateway.models.hold = threading.Semaphore(0)
    running = [Waiting(gateway.port, gateway.raw(ACME, address=f"203.0.113.{n}")) for n in range(32)]
    gateway.up.wait_heads(32)
    waiting = [Waiting(gateway.port, gateway.raw(ACME)) for _ in range(16)]
    gateway.weir.wait_metric("weir_queue_depth", 16, limit="slots")
    faults.error(gateway.ask(ACME), 429, "queue_full", "openai")
    waiting.append(Waiting(gateway.port, gateway.raw(GLOBEX)))
    gateway.weir.wait_metric("weir_queue_depth", 17, limit="slots")
    gateway.models.hold.release(200)
    assert {one.answer().status for one in running + waiting} == {200}
    assert gateway.weir.counted("weir_limit_decisions_total", limit="slots", tenant="globex", decision="admitted") == 1


def test_an_address_that_floods(gateway):
    """The last one that the load balancer wrote; lists of models take no slot and no tokens."""
    gateway.models.instead = reply(200, b'{"data": []}', [JSON])
    with Caller(gateway.port) as c:
        def status(addresses):
            return c.get("/v1/models", [("Authorization", f"Bearer {ACME}"), ("X-Forwarded-For", addresses)]).status

        assert [status(f"198.51.100.{n % 250}, 203.0.113.50") for n in range(603)] == [200] * 600 + [429] * 3
        assert status("203.0.113.50, 203.0.113.51") == 200


def test_a_new_tenant_is_a_line(gateway):
    """No restart; and who is taken out is out."""
    key = "demo-key-of-initech"
    faults.error(gateway.ask(key), 401, "api_key_unknown", "openai")
    file = gateway.weir.dir / "tenants.yaml"
    text = file.read_text()
    line = f"  {hashlib.sha256(key.encode()).hexdigest()}: initech\n"
    replace_file(file, text.replace("\nlimits:", f"\n{line}limits:").replace("acme: {limit: 5000000}", "initech: {limit: 7000}"))
    wait_until(lambda: gateway.ask(key, "gpt-5").status == 200, "the new tenant", every=0.05)
    assert gateway.left("dear-models", "initech", "gpt-5") == 1500
    replace_file(file, text)
    wait_until(lambda: gateway.ask(key).weir_reason == "api_key_unknown", "its end", every=0.05)
    assert gateway.ask(ACME).status == 200


def test_a_limit_to_be_only_counts(gateway):
    assert gateway.ask().status == 200
    assert gateway.weir.counted("weir_limit_decisions_total", limit="next-month", tenant="acme", decision="admitted") == 1
    assert "next-month" not in (gateway.ask().header("RateLimit-Policy") or "")
