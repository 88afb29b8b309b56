"""The fixtures of tests/http, and a fault proxy in front of an upstream."""
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

import fault_proxy  # noqa: E402  (needs harness)


@pytest.fixture
def start_proxy():
    """start_proxy(upstream or port, **kw) -> a FaultProxy in front of it."""
    with contextlib.ExitStack() as stack:
        yield lambda up, **kw: stack.enter_context(fault_proxy.FaultProxy(getattr(up, "port", up), **kw))
