"""The chart as a library: tests/chart/parent adds weir to a pod of its own, with its own scope or with weir's."""

import json
import os

import pytest

import rendering
from rendering import CI, Refused, container, render, render_parent, use

pytestmark = pytest.mark.usefixtures("renderer")
FILES = pytest.mark.parametrize("path", [path for path in CI if use(path) != "gateway"], ids=use)


@FILES
@pytest.mark.parametrize("kind", ["native", "classic"])
def test_both_scopes_give_the_same(path, kind):
    text = path.read_text()
    assert render_parent(text, "parent", kind).text == render_parent(text, "weir", kind).text


@pytest.mark.parametrize("scope", ["parent", "weir"])
def test_native_sidecar(scope):
    out = render_parent({}, scope, "native", name="agents")
    _, spec = out.weir_pod()
    assert [one["name"] for one in spec["initContainers"]] == ["weir-check", "weir"]
    assert [one["name"] for one in spec["containers"]] == ["agent"]
    assert spec["initContainers"][1]["restartPolicy"] == "Always"
    assert "restartPolicy" not in spec["initContainers"][0]


@pytest.mark.parametrize("scope", ["parent", "weir"])
def test_without_its_check(scope):
    _, spec = render_parent({"check": {"enabled": False}}, scope, "native").weir_pod()
    assert [one["name"] for one in spec["initContainers"]] == ["weir"]


@pytest.mark.parametrize("scope", ["parent", "weir"])
def test_classic_container(scope):
    out = render_parent({}, scope, "classic")
    _, spec = out.weir_pod()
    assert [one["name"] for one in spec["initContainers"]] == ["weir-check"]
    assert [one["name"] for one in spec["containers"]] == ["agent", "weir"]
    assert "restartPolicy" not in spec["containers"][1]
    native = container(render_parent({}, scope, "native").weir_pod()[1])
    assert {**spec["containers"][1], "restartPolicy": "Always"} == native


@FILES
def test_the_gateway_has_the_same_container(path):
    gateway = render(path.read_text()).all("Deployment")
    if gateway:
        alone = container(gateway[0]["spec"]["template"]["spec"])
        assert alone == container(render_parent(path.read_text(), kind="classic").weir_pod()[1])


@pytest.mark.parametrize("scope", ["parent", "weir"])
def test_names_versions_and_labels_are_weirs_and_not_the_parents(scope):
    out = render_parent({}, scope, name="agents", namespace="apps")
    config = out.one("ConfigMap")
    assert config["metadata"]["name"] == "agents-weir-config" and config["metadata"]["namespace"] == "apps"
    assert config["metadata"]["labels"]["app.kubernetes.io/version"] == "0.1.0"
    assert config["metadata"]["labels"]["helm.sh/chart"] == "weir-0.1.0"
    _, spec = out.weir_pod()
    assert container(spec)["image"] == "weir:0.1.0"
    assert spec["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]


def test_a_parent_needs_nothing_but_what_it_includes():
    out = render_parent({})
    assert sorted((one["kind"], one["metadata"]["name"]) for one in out.documents) == [
        ("ConfigMap", "test-weir-config"), ("Deployment", "test-agent")]


def test_a_pod_monitor_finds_the_parents_pods():
    out = render_parent({"monitoring": {"podMonitor": {"enabled": True}}})
    labels, spec = out.weir_pod()
    chosen = out.one("PodMonitor")["spec"]
    assert chosen["selector"]["matchLabels"].items() <= labels.items()
    assert chosen["podMetricsEndpoints"][0]["port"] in [port.get("name") for port in container(spec)["ports"]]
    own = {"matchLabels": {"app": "agent"}}
    out = render_parent({"monitoring": {"podMonitor": {"enabled": True, "selector": own}}})
    assert out.one("PodMonitor")["spec"]["selector"] == own


def test_a_condition_leaves_weir_out():
    out = render({"weir": {"enabled": False}}, chart=rendering.PARENT)
    assert [one["kind"] for one in out.documents] == ["Deployment"]
    assert "weir" not in json.dumps(out.documents)


def test_globals_reach_weir_and_are_let_through():
    assert render({"global": {"team": "a"}}, chart=rendering.PARENT).documents


def parent(tmp_path, aliases, template):
    """Another parent chart, made for one test."""
    directory = tmp_path / "other"
    (directory / "templates").mkdir(parents=True)
    weir = os.path.relpath(rendering.CHART, directory)
    (directory / "Chart.yaml").write_text(json.dumps({
        "apiVersion": "v2", "name": "other", "version": "1.0.0", "appVersion": "7.7.7",
        "dependencies": [{"name": "weir", "version": "0.1.0", "repository": f"file://{weir}", "alias": alias}
                         for alias in aliases]}))
    (directory / "templates" / "x.yaml").write_text(template)
    return directory


def test_two_under_aliases(tmp_path):
    template = """{{ range list "in-side" "outside" }}
---
{{ include "weir.config" (index $.Subcharts .) }}
{{ end }}"""
    chart = parent(tmp_path, ["in-side", "outside"], template)
    out = render({"in-side": {"config": "version: 1\n# a\n"}, "outside": {"config": "version: 1\n# b\n"}}, chart=chart)
    texts = {one["metadata"]["name"]: one["data"]["weir.yaml"] for one in out.all("ConfigMap")}
    assert texts == {"test-in-side-config": "version: 1\n# a\n", "test-outside-config": "version: 1\n# b\n"}


@pytest.mark.parametrize("template", [
    '{{ include "weir.config" . }}',  # the dependency has an alias, so this scope knows no weir
    '{{ range list 1 }}{{ include "weir.volumes" $ }}{{ end }}',
    '{{ include "weir.sidecar" (dict "Values" .Values "Release" .Release) }}',
])
def test_a_scope_without_weir_is_told_so(tmp_path, template):
    with pytest.raises(Refused) as refused:
        render({}, chart=parent(tmp_path, ["guard"], template))
    assert "weir: no values of weir's here: give `include` the chart's top scope" in str(refused.value)
