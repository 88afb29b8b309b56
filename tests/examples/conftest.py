"""The fixtures of tests/http, and the examples of conf/examples as they stand there, with the addresses of a test."""
import contextlib
import importlib.util
import pathlib
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "http"), str(TESTS / "fleet")]

_spec = importlib.util.spec_from_file_location("http_conftest", TESTS / "http" / "conftest.py")
_http = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_http)
start_upstream, connect = _http.start_upstream, _http.connect

import certificates  # noqa: E402  (where it is)
import examples  # noqa: E402


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Who signs for the providers: weir takes it for the system's authorities, by SSL_CERT_FILE."""
    return certificates.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue("localhost", ["DNS:localhost", "IP:127.0.0.1"], usage="serverAuth")


@pytest.fixture
def start_https(start_upstream, certificate):
    """start_https(handler) -> an Upstream that speaks TLS, at https://localhost."""
    def start(handler):
        up = start_upstream(handler, on_connect=certificates.Handshakes(certificates.server_context(certificate)))
        up.url = f"https://localhost:{up.port}"
        return up

    return start


@pytest.fixture
def start_example(authority):
    """start_example(name, {what stands in it: what the test has in its place}, VARIABLE=value) -> a running weir."""
    with contextlib.ExitStack() as stack:
        def start(name, changes=(), files=None, **variables):
            variables.setdefault("SSL_CERT_FILE", authority.file)
            return stack.enter_context(examples.ExampleWeir(name, dict(changes), variables, files))

        yield start
