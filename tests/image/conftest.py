"""The fixtures of tests/http, and weir's image, built once."""
import importlib.util
import pathlib
import sys

import pytest

HTTP = pathlib.Path(__file__).resolve().parents[1] / "http"
sys.path.insert(0, str(HTTP))

_spec = importlib.util.spec_from_file_location("http_conftest", HTTP / "conftest.py")
_http = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_http)
start_weir, start_upstream = _http.start_weir, _http.start_upstream


@pytest.fixture(scope="session")
def image():
    """What helm/Dockerfile builds, unpacked; see image.py."""
    from image import built
    with built() as one:
        yield one
