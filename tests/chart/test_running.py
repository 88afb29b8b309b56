"""What the chart promises of a running weir: the script of `helm test`, and secrets that change behind their mount."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

import rendering
from rendering import render

sys.path[:0] = [str(rendering.ROOT / "tests" / "http")]
from harness import Upstream, base_config, free_port, get, post, wait_until, weir  # noqa: E402  (where it is)

pytestmark = pytest.mark.usefixtures("renderer")


def helm_test(directory, port, metrics):
    """Runs the test pod's command as its image would: with busybox for every tool, and the two addresses for the Services."""
    if shutil.which("busybox") is None:
        pytest.fail("busybox is not installed", pytrace=False)
    spec = render().one("Pod", "-test")["spec"]["containers"][0]
    assert [one["name"] for one in spec["env"]] == ["SERVICE", "METRICS"]
    for tool in ("sh", "timeout", "wget", "grep"):
        if not (directory / tool).exists():
            (directory / tool).symlink_to(shutil.which("busybox"))
    environment = {"PATH": str(directory), "SERVICE": f"127.0.0.1:{port}", "METRICS": f"127.0.0.1:{metrics}"}
    command = [str(directory / "sh"), *spec["command"][1:]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_helm_test_asks_both_services(tmp_path):
    with Upstream() as up, weir(base_config(up.port)) as w:
        done = helm_test(tmp_path, w.port, w.metrics_address[1])
        assert done.returncode == 0 and "ready" in done.stdout and "HTTP/1.1 200 OK" in done.stdout, done
        assert up.complete == 1
    with weir(base_config(1)) as w:  # an upstream that is away is no fault of weir's
        done = helm_test(tmp_path, w.port, w.metrics_address[1])
        assert done.returncode == 0 and "502" in done.stdout, done


def test_helm_test_fails_where_weir_does_not_answer(tmp_path):
    with Upstream() as up, weir(base_config(up.port, server={"drain": {"delay": "20s"}})) as w:
        assert helm_test(tmp_path, 1, w.metrics_address[1]).returncode != 0
        assert helm_test(tmp_path, w.port, 1).returncode != 0
        w.signal(signal.SIGTERM)
        wait_until(lambda: helm_test(tmp_path, w.port, w.metrics_address[1]).returncode != 0, "not ready while it drains")
        w.signal(signal.SIGTERM)
        w.wait_exit()


def test_a_new_secret_is_in_force_without_a_restart(tmp_path):
    """kubelet's layout of /etc/weir/secrets: KEY -> ..data/KEY, ..data -> ..one, then ..data is swapped."""
    def write(name, key):
        (tmp_path / name).mkdir()
        (tmp_path / name / "openai").write_text(key + "\n")
        (tmp_path / "..new").symlink_to(name)
        os.replace(tmp_path / "..new", tmp_path / "..data")

    write("..one", "first")
    (tmp_path / "openai").symlink_to("..data/openai")
    agent = {"headers": {"set": {"Authorization": "Bearer ${file:%s/openai}" % tmp_path}}}
    with Upstream() as up, weir(base_config(up.port, agent=agent)) as w:
        def credential():
            assert get(w.port, "/").status == 200
            return up.requests[-1].header("authorization")

        assert credential() == "Bearer first"
        write("..two", "second")
        shutil.rmtree(tmp_path / "..one")
        wait_until(lambda: credential() == "Bearer second", "the new secret", every=0.1)


def test_the_default_configuration_runs():
    config = yaml.safe_load(render().config())
    port = free_port()
    config["listeners"]["inbound"]["address"] = f"127.0.0.1:{port}"
    config["server"]["drain"]["delay"] = "0s"
    with Upstream() as up, weir(config, env={"AGENT_URL": up.url}) as w:
        assert w.ask("/readyz").status == 200
        again = [post(port, "/", b"x", [("Idempotency-Key", "7")]).status for _ in range(3)]
        assert again == [200] * 3 and up.complete == 1
        limit = config["limits"]["per-tenant"]["burst"]
        statuses = [get(port, "/").status for _ in range(limit - 3)]
        assert statuses == [200] * (limit - 3)
