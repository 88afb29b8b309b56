"""Fixtures: what a test starts is ended, checked, and ended in the right order."""
import contextlib
import resource

import pytest

import faults
import harness

# Some tests hold thousands of connections; weir inherits the limit from here.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


@pytest.fixture
def start_weir():
    """start_weir(config, **kw) -> a running Weir, checked when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda config, **kw: stack.enter_context(harness.weir(config, **kw))


@contextlib.contextmanager
def _upstreams():
    started = []

    def start(*args, **kw):
        started.append(harness.Upstream(*args, **kw))
        return started[-1]

    try:
        yield start
    finally:
        for up in started:
            up.close()
    broken = [e for up in started if not up.lenient for e in up.errors]
    assert not broken, f"the upstream saw what it must never see: {broken}"


@pytest.fixture
def start_upstream():
    """start_upstream(handler, ...) -> an Upstream; fails the test when weir sent it anything malformed."""
    with _upstreams() as start:
        yield start


@pytest.fixture(scope="module")
def shared_upstream():
    """One Upstream answering `ok` for a whole file; see `up`."""
    with _upstreams() as start:
        yield start()


@pytest.fixture
def connect():
    """harness.connect, closed when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kw: stack.enter_context(harness.connect(*args, **kw))


@pytest.fixture
def start_faulty():
    """start_faulty(*answers) -> a faults.Faulty; fails the test when weir sent it anything malformed."""
    with faults.upstreams() as start:
        yield start
