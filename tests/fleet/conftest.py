"""The fixtures of tests/http, and fleets: several sidecars with one redis, and what stands between."""
import contextlib
import importlib.util
import pathlib
import sys

import pytest

HTTP = pathlib.Path(__file__).resolve().parents[1] / "http"
sys.path.insert(0, str(HTTP))

_spec = importlib.util.spec_from_file_location("http_conftest", HTTP / "conftest.py")
_http = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_http)
start_weir, start_upstream, start_faulty = _http.start_weir, _http.start_upstream, _http.start_faulty

import fleet as fleets  # noqa: E402  (needs harness)
import redis_proxy  # noqa: E402


@pytest.fixture
def start_redis():
    """start_redis(**settings) -> a running fleet.RedisServer. When the test ends, every key in it has an expiry."""
    with contextlib.ExitStack() as stack:
        started = []

        def start(**kw):
            started.append(stack.enter_context(fleets.RedisServer(**kw)))
            return started[-1]

        yield start
        for server in started:
            server.check_expiries()


@pytest.fixture
def redis(start_redis):
    return start_redis()


@pytest.fixture
def start_redis_proxy():
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(redis_proxy.RedisProxy(getattr(server, "port", server)))


@pytest.fixture
def proxy(redis, start_redis_proxy):
    return start_redis_proxy(redis)


@pytest.fixture
def start_fleet(start_redis):
    """start_fleet(n, config, **kw) -> a fleet.Fleet of n sidecars with this configuration, each on ports of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda n, config, **kw: stack.enter_context(fleets.Fleet(n, config, **kw))
