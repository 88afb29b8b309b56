"""The chart, rendered by render.go, and what its documents say."""

import json
import os
import pathlib
import re
import subprocess

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHART = ROOT / "helm" / "weir"
PARENT = HERE / "parent"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
LIBRARY = {"native-sidecar": "native", "classic-container": "classic"}
MONITORING = "monitoring.coreos.com/v1"
WEIR = os.environ.get("WEIR_BIN", str(ROOT / "build" / "weir"))

renderer = None  # the binary, once conftest.py has built it


class Refused(Exception):
    """What Helm would print instead of manifests."""


class Rendered:
    def __init__(self, answer):
        self.documents = [one["object"] for one in answer["documents"]]
        self.paths = {one["path"] for one in answer["documents"]}
        self.text = answer["text"]
        self.notes = answer["notes"]

    def all(self, kind):
        return [one for one in self.documents if one["kind"] == kind]

    def one(self, kind, name_end=""):
        found = [one for one in self.all(kind) if one["metadata"]["name"].endswith(name_end)]
        assert len(found) == 1, f"{len(found)} of kind {kind}"
        return found[0]

    def config(self):
        """The text of weir.yaml, if there is one."""
        texts = [one["data"]["weir.yaml"] for one in self.all("ConfigMap") if "weir.yaml" in (one["data"] or {})]
        assert len(texts) <= 1
        return texts[0] if texts else None

    def pods(self):
        """(labels, spec) of every pod."""
        for one in self.documents:
            if one["kind"] == "Pod":
                yield one["metadata"]["labels"], one["spec"]
            elif "template" in one.get("spec", {}):
                template = one["spec"]["template"]
                yield template["metadata"]["labels"], template["spec"]

    def weir_pod(self):
        found = [pod for pod in self.pods() if any(c["name"] == "weir" for c in containers(pod[1]))]
        assert len(found) == 1
        return found[0]


def containers(spec):
    return (spec.get("initContainers") or []) + spec["containers"]


def container(spec, name="weir"):
    return next(one for one in containers(spec) if one["name"] == name)


def render(values=None, chart=CHART, name="test", namespace="default", apis=(MONITORING,), kube="v1.29.0"):
    """values: a mapping, or YAML text."""
    given = values if isinstance(values, str) else json.dumps(values or {})
    done = subprocess.run(
        [renderer, "-name", name, "-namespace", namespace, "-kube", kube, "-apis", ",".join(("v1", "apps/v1") + apis),
         "-values", given, str(chart)],
        capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise Refused(done.stderr)
    return Rendered(json.loads(done.stdout))


def render_parent(values, scope="parent", kind="native", **more):
    """The sample parent with these values of weir's."""
    own = yaml.safe_load(values) if isinstance(values, str) else values
    return render({"scope": scope, "kind": kind, "weir": own or {}}, chart=PARENT, **more)


def render_file(path):
    """A file of ci/, in the way of use that it is for."""
    kind = LIBRARY.get(use(path))
    return render_parent(path.read_text(), kind=kind) if kind else render(path.read_text())


def use(path):
    return path.name[:-len("-values.yaml")]


def weir_check(text, pod_container, directory):
    """`weir --check` of a configuration with the environment and the secrets that its container has. -> (exit, output)"""
    secrets = directory / "secrets"
    secrets.mkdir(exist_ok=True)
    if any(mount["mountPath"] == "/etc/weir/secrets" for mount in pod_container["volumeMounts"]):
        for name in re.findall(r"/etc/weir/secrets/([A-Za-z0-9_.-]+)", text):
            (secrets / name).write_text("{}\n")
    file = directory / "weir.yaml"
    file.write_text(text.replace("/etc/weir/secrets", str(secrets)))
    environment = {one["name"]: one.get("value", "from-a-secret") for one in pod_container.get("env", [])}
    done = subprocess.run([WEIR, "--check", "-c", str(file)], env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


def mebibytes(text):
    number, unit = re.fullmatch(r"([0-9.]+) ?([KMG]i)B?", text).groups()
    return float(number) * {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}[unit]
