"""Events that come more than once: what runs, what the broker is told, and what is remembered over what."""
import json
import threading

import pytest

import llm
from examples import Provider, Waiting, secret
from harness import DEADLINE, exchange, post, reply, request, wait_until
from llm import FORMS
from support import dedup_results

EVENT = [("ce-specversion", "1.0"), ("ce-type", "order.placed"), ("ce-source", "/orders"), ("Content-Type", "application/json")]
DATA = b'{"order": 7}'


class Agent:
    """Answers in turn, the last of them ever after; waits for `go`."""

    def __init__(self):
        self.turns, self.go = [reply(200, b"")], None

    def __call__(self, peer):
        if self.go is not None:
            assert self.go.wait(DEADLINE)
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


class Broker:
    def __init__(self, start_upstream, start_https, start_example, tmp_path, **changes):
        self.agent, self.openai = Agent(), Provider()
        self.at_agent, self.at_openai = start_upstream(self.agent), start_https(self.openai)
        self.weir = start_example("cloudevents.yaml", {"/var/lib/weir/keys": str(tmp_path / "keys"),
                                                       "https://api.openai.com": self.at_openai.url, **changes},
                                  AGENT_URL=self.at_agent.url)
        self.port = self.weir.ports["inbound"]

    def raw(self, name, headers=(), source="/orders"):
        fields = [(n, source if n == "ce-source" else v) for n, v in EVENT]
        return request("POST", "/events", [("ce-id", name), *fields, *headers], DATA)

    def deliver(self, *args, **kw):
        return exchange(self.port, self.raw(*args, **kw))

    def results(self, name="events"):
        return dedup_results(self.weir, name)


@pytest.fixture
def broker(start_upstream, start_https, start_example, tmp_path):
    return Broker(start_upstream, start_https, start_example, tmp_path)


def acknowledged(r):
    """An empty 204: a broker takes any body for an event in reply."""
    assert (r.status, r.body, r.weir_reason) == (204, b"", "duplicate"), r
    return True


def test_delivered_again_it_does_not_run_again(broker):
    broker.agent.turns = [reply(200, b'{"reply": "an event of its own"}', [("ce-id", "r1"), ("Content-Type", "application/json")])]
    first = broker.deliver("1")
    assert (first.status, first.header("ce-id"), first.body) == (200, "r1", b'{"reply": "an event of its own"}')
    [seen] = broker.at_agent.requests
    assert seen.target == "/events" and seen.body == DATA and [seen.header(n) for n, _ in EVENT] == [v for _, v in EVENT]
    assert acknowledged(broker.deliver("1")) and broker.at_agent.heads == 1
    structured = json.dumps({"specversion": "1.0", "id": "1", "source": "/orders", "type": "order.placed", "data": {"order": 7}})
    assert acknowledged(post(broker.port, "/events", structured.encode(), [("Content-Type", "application/cloudevents+json")]))
    assert broker.deliver("1", source="/returns").status == 200, "another source's first one"
    assert broker.deliver("2").status == 200 and broker.at_agent.heads == 3
    assert broker.results() == {"first": 3, "acknowledged": 2}
    assert broker.weir.wait_log(status=204)["dedup"] == "acknowledged"


def test_what_failed_runs_again(broker):
    broker.agent.turns = [reply(500, b"no"), reply(404, b"no"), reply(200, b"")]
    assert [broker.deliver("1").status for _ in range(3)] == [500, 404, 200]
    assert acknowledged(broker.deliver("1")) and broker.at_agent.heads == 3
    assert broker.results() == {"first": 3, "forgotten": 2, "acknowledged": 1}


def test_what_runs_is_not_run_beside_itself(broker):
    """The broker's timeout is over: it leaves, and delivers again. The run goes on to its end, and that is known then."""
    broker.agent.go = threading.Event()
    first = Waiting(broker.port, broker.raw("1"))
    broker.at_agent.wait_heads()
    r = broker.deliver("1")
    assert (r.status, r.weir_reason) == (409, "in_flight") and int(r.header("Retry-After")) >= 1
    first.conn.half_close()
    broker.weir.wait_metric("weir_connections", 0, listener="inbound")
    assert broker.deliver("1").status == 409
    broker.agent.go.set()
    wait_until(lambda: broker.deliver("1").status == 204, "the run's end")
    assert broker.at_agent.heads == 1


def test_what_is_no_event(broker):
    """To the dead letters at once, as no broker sends a 400 again."""
    r = post(broker.port, "/events", DATA, EVENT)
    assert (r.status, r.weir_reason, broker.at_agent.heads) == (400, "key_missing", 0)


def test_too_many_are_told_to_come_later(broker):
    """Eight at once and 64 that wait, all of them one tenant's."""
    broker.agent.go = threading.Event()
    running = [Waiting(broker.port, broker.raw(f"r{n}")) for n in range(8)]
    broker.at_agent.wait_heads(8)
    waiting = [Waiting(broker.port, broker.raw(f"w{n}")) for n in range(64)]
    broker.weir.wait_metric("weir_queue_depth", 64, limit="at-once")
    r = broker.deliver("late")
    assert (r.status, r.weir_reason) == (429, "queue_full") and int(r.header("Retry-After")) >= 1
    broker.agent.go.set()
    assert {one.answer().status for one in running + waiting} == {200}
    assert broker.deliver("late").status == 200 and broker.at_agent.heads == 73


def test_a_restart_forgets_nothing(start_upstream, start_https, start_example, tmp_path):
    broker = Broker(start_upstream, start_https, start_example, tmp_path, **{"delay: 5s": "delay: 0s"})
    assert broker.deliver("1").status == 200
    assert broker.weir.stop_and_wait() == 0 and (tmp_path / "keys").exists()
    broker.weir.start()
    assert acknowledged(broker.deliver("1")) and broker.deliver("2").status == 200
    assert broker.at_agent.heads == 2


def test_a_drill_runs_what_was_seen(broker):
    assert broker.deliver("1").status == 200
    assert broker.deliver("1", [("X-Replay", "replay-drill")]).status == 200 and broker.at_agent.heads == 2
    assert acknowledged(broker.deliver("1", [("X-Replay", "anything")]))
    assert broker.results()["bypassed"] == 1


def test_a_job_by_hand_has_its_first_answer(broker):
    broker.agent.turns = [reply(201, b'{"n": 1}', [("Location", "/jobs/1")]), reply(201, b'{"n": 2}')]
    body = b'{"job_id": "7", "n": 1}'
    first, again = (post(broker.port, "/jobs", body) for _ in range(2))
    assert [(r.status, r.body, r.header("Location")) for r in (first, again)] == [(201, b'{"n": 1}', "/jobs/1")] * 2
    assert again.header("Idempotent-Replayed") == "true" and broker.at_agent.heads == 1
    other = post(broker.port, "/jobs", b'{"job_id": "7", "n": 2}')
    assert (other.status, other.weir_reason) == (422, "key_mismatch")
    assert post(broker.port, "/jobs", b'{"n": 1}').weir_reason == "key_missing"


def test_a_call_to_a_model_is_paid_once(broker):
    """A run that broke off asks the same when the event comes again."""
    form = FORMS["chat stream"]

    def ask(**more):
        return post(broker.weir.ports["outbound"], form.path, form.ask(**more), [("Authorization", "Bearer the-agents-own")])

    first, again = ask(), ask()
    assert first.status == 200 and first.clean and again.body == first.body and again.header("Idempotent-Replayed") == "true"
    [seen] = broker.at_openai.requests
    assert seen.header("Authorization") == f"Bearer {secret('OPENAI_API_KEY')}"
    broker.openai.instead = reply(500, llm.error_body("chat", 500))
    assert ask(text="another").status == 500
    broker.openai.instead = None
    assert ask(text="another").status == 200, "what failed was no answer"
    assert broker.results("model-calls") == {"first": 3, "replayed": 1, "forgotten": 1}
