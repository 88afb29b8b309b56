"""A request that meets a dead kept-alive connection goes out once more, on a fresh one, without being a retry: what that may
come to when an upstream takes every request and answers none."""
import threading
import time

import pytest

from faults import OK, outcomes, retrying
from harness import CLOSE, RESET, base_config, connect, get, post, request
from support import in_parallel

IDEMPOTENT = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]
ONE_WORKER = {"server": {"workers": 1}}  # which has the parked connection


def dies(end):
    """Answers the first request of a connection only."""
    return lambda peer: OK if peer.served == 1 and peer.request.method != "HEAD" else peer.run([end])


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("method", IDEMPOTENT)
def test_once_also_without_retries(start_upstream, start_weir, method, end):
    ends = []

    def handler(peer):
        if peer.served == 1 and (peer.number == 1 or not ends):
            return OK
        ends.append(peer.number)
        peer.run([end])

    up = start_upstream(handler)
    w = start_weir(base_config(up.port, **ONE_WORKER))
    assert get(w.port).status == 200
    with connect(w.port) as c:
        c.send(request(method, "/x", body=b"" if method == "PUT" else None))
        r = c.read_response(method)
    assert (r.status, r.weir_reason) == (502, "reset"), r
    assert ends == [1, 2], "one time more, on a fresh connection"
    line = w.wait_log(status=502)
    assert line["attempts"] == 2, line
    assert outcomes(w) == {"ok": 1, "reset": 1} and w.metric("weir_retries_total") == 0


def test_what_may_have_run_is_not_sent_twice(start_upstream, start_weir):
    up = start_upstream(dies(RESET))
    w = start_weir(base_config(up.port, **ONE_WORKER))
    assert get(w.port).status == 200
    assert post(w.port, "/x", b"hello").weir_reason == "reset"
    assert sum(r.target == "/x" for r in up.requests) == 1


@pytest.mark.parametrize("retry", [False, {"budget": "20%", "backoff": {"base": "1ms", "max": "2ms"}}], ids=["none", "20%"])
@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_an_outage_is_not_multiplied(start_upstream, start_weir, end, retry):
    """Connections were parked when it began: each costs one try more, and no more than that."""
    dead, parked, requests = threading.Event(), 8, 200
    together = threading.Barrier(parked)

    def handler(peer):
        if dead.is_set():
            peer.run([end])
        together.wait(30)
        return OK

    up = start_upstream(handler)
    w = start_weir(retrying(up, retry, {"retry": retry}) if retry else base_config(up.port))
    assert all(r.status == 200 for r in in_parallel(parked, lambda _: get(w.port)))
    w.wait_metric("weir_upstream_connections", parked, upstream="agent", state="idle")
    up.clear()
    dead.set()
    begun = time.monotonic()
    for _ in range(requests // 4):
        assert {r.status for r in in_parallel(4, lambda _: get(w.port))} == {502}
    retries = w.metric("weir_retries_total")
    assert retries <= 0.2 * requests + 3 * (time.monotonic() - begun + 1) if retry else retries == 0  # 3 a second always are
    assert up.heads <= requests + retries + parked, (up.heads, retries)


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_connections_opened_ahead_do_not_multiply_an_outage(start_upstream, start_weir, end):
    """They are opened anew all the time: nothing has ever been answered on them."""
    up = start_upstream(script=[end])
    w = start_weir(base_config(up.port, agent={"connections": {"warm": 4}}))
    for n in range(1, 21):
        w.wait_metric("weir_upstream_connections", lambda idle: idle >= 1, upstream="agent", state="idle")
        assert get(w.port).weir_reason == "reset"
        assert up.heads == n
