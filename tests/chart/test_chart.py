"""What the chart renders: for every values file in ci/, each in the way of use that it is for."""

import json
import re
import subprocess

import pytest
import yaml

import rendering
from rendering import CHART, CI, MONITORING, ROOT, container, containers, render, render_file, render_parent, use

pytestmark = pytest.mark.usefixtures("renderer")
FILES = pytest.mark.parametrize("path", CI, ids=use)


@pytest.fixture(scope="module")
def rendered(renderer):
    return {path: render_file(path) for path in CI}


# -- manifests ---------------------------------------------------------------------------------------------------------


def complaints(objects):
    done = subprocess.run(["node", "validate.mjs"], cwd=rendering.HERE, input=json.dumps(objects), text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def judged(rendered, node_modules):
    """(file, kind, name) -> complaints, from one call."""
    objects = [(path, one) for path in CI for one in rendered[path].documents]
    found = complaints([one for _, one in objects])
    return {(path, one["kind"], one["metadata"]["name"]): said for (path, one), said in zip(objects, found)}


@FILES
def test_manifests_are_what_kubernetes_takes(path, judged):
    mine = {key: said for key, said in judged.items() if key[0] == path}
    assert mine and not {key: said for key, said in mine.items() if said}


def test_the_validator_sees_wrong_manifests(node_modules, rendered):
    deployment = rendered[CHART / "ci" / "default-values.yaml"].one("Deployment")

    def spoiled(change):
        copy = json.loads(json.dumps(deployment))
        change(copy, copy["spec"]["template"]["spec"]["containers"][0])
        return copy

    wrong = [
        spoiled(lambda d, c: c.update(readynessProbe=c["readinessProbe"])),
        spoiled(lambda d, c: c["securityContext"].update(readOnlyRootFileSystem=True)),
        spoiled(lambda d, c: c["ports"][0].update(containerPort="8080")),
        spoiled(lambda d, c: d["spec"].pop("selector")),
        spoiled(lambda d, c: d.update(kind="Deploymint")),
        {"apiVersion": MONITORING, "kind": "PodMonitor", "metadata": {"name": "x"},
         "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "x", "scrapeIntervall": "5s"}]}},
        {"apiVersion": MONITORING, "kind": "PrometheusRule", "metadata": {"name": "x"},
         "spec": {"groups": [{"name": "x", "rules": [{"alert": "x", "expression": "up"}]}]}},
    ]
    assert all(complaints(wrong))
    assert complaints([deployment]) == [[]]


def test_each_template_is_rendered_by_some_file(rendered):
    seen = {path.split("templates/", 1)[1] for one in rendered.values() for path in one.paths}
    templates = {str(path.relative_to(CHART / "templates")) for path in (CHART / "templates").rglob("*.yaml")}
    assert templates - seen == set()


@FILES
def test_the_text_is_the_same_each_time(path, rendered):
    assert render_file(path).text == rendered[path].text


@FILES
def test_objects_are_named_once_and_labelled(path, rendered):
    objects = [one for one in rendered[path].documents if not one["metadata"]["name"].endswith("-agent")]
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    for one in objects:
        assert one["metadata"]["namespace"] == "default"
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "weir" and labels["app.kubernetes.io/instance"] == "test"


DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.mark.parametrize("release", ["r", "weir", "my-weir", "a" * 53, "a-" * 26 + "b", "weir-" + "x" * 48])
@pytest.mark.parametrize("over", [{}, {"nameOverride": "edge"}, {"nameOverride": "n" * 63},
                                  {"fullnameOverride": "f" + "-f" * 31}], ids=["plain", "name", "long-name", "full-name"])
def test_names_are_dns_labels(release, over):
    monitoring = {key: {"enabled": True} for key in ("podMonitor", "prometheusRule", "dashboards")}
    out = render({**over, "podDisruptionBudget": {"enabled": True}, "autoscaling": {"enabled": True},
                  "networkPolicy": {"enabled": True}, "monitoring": monitoring}, name=release)
    names = [(one["kind"], one["metadata"]["name"]) for one in out.documents]
    assert len(names) == len(set(names)) and len(names) >= 11
    for kind, name in names:
        assert DNS_LABEL.fullmatch(name), (kind, name)
    for labels, _ in out.pods():
        assert all(len(value) <= 63 for value in labels.values())
    names_used = {volume["configMap"]["name"] for _, spec in out.pods() for volume in spec.get("volumes", [])}
    assert names_used <= {name for kind, name in names if kind == "ConfigMap"}


# -- the configuration -------------------------------------------------------------------------------------------------


@FILES
def test_the_configuration_passes_weir_check(path, rendered, tmp_path):
    out = rendered[path]
    _, spec = out.weir_pod()
    code, said = rendering.weir_check(out.config(), container(spec), tmp_path)
    assert code == 0, said


def test_a_wrong_configuration_does_not(tmp_path):
    text = "version: 1\nlisteners:\n  inbound: {address: '*:8080', routes: [{path: /, upstraem: x}]}\n"
    out = render({"config": text})
    code, said = rendering.weir_check(out.config(), container(out.weir_pod()[1]), tmp_path)
    assert code == 2 and "upstraem" in said


@FILES
def test_the_check_sees_what_weir_sees(path, rendered):
    _, spec = rendered[path].weir_pod()
    if use(path) == "minimal":
        assert [one["name"] for one in containers(spec)] == ["weir"]
        return
    check, weir = container(spec, "weir-check"), container(spec)
    assert containers(spec).index(check) < containers(spec).index(weir)
    assert check["args"] == ["--check"] + weir["args"] and weir["args"] == ["-c", "/etc/weir/weir.yaml"]
    for key in ("image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "resources", "securityContext"):
        assert check.get(key) == weir.get(key), key


@FILES
def test_the_memory_limit_holds_the_worst_case(path, rendered, tmp_path):
    out = rendered[path]
    weir = container(out.weir_pod()[1])
    _, said = rendering.weir_check(out.config(), weir, tmp_path)
    idle, worst = re.search(r"in all +([0-9.]+ [KMG]iB) +([0-9.]+ [KMG]iB)", said).groups()
    resources = weir["resources"]
    assert rendering.mebibytes(worst) <= rendering.mebibytes(resources["limits"]["memory"])
    assert rendering.mebibytes(idle) <= rendering.mebibytes(resources["requests"]["memory"])
    assert "cpu" not in resources["limits"] and "cpu" in resources["requests"]


VALID = "version: 1\nlisteners: {inbound: {address: '*:8080', routes: []}}\n"


@pytest.mark.parametrize("text", [
    VALID, VALID.rstrip("\n"), VALID + "\n\n", "\n\n" + VALID, "# {{ .Values.x }} and {{ include \"x\" . }}\n" + VALID,
    "# " + "long " * 100 + "\n" + VALID, "# ümläut ✓ \"quoted\" 'single' \\back $dollar\n" + VALID,
    "version: 1\nlisteners:\n    inbound:\n\n      # a comment  \n      address: '*:8080'\n", VALID + "# the end",
    "version: 1   \nlisteners: {inbound: {address: '*:8080'}}  \n", "--- # weir\n" + VALID],
    ids=range(11))
def test_the_text_is_kept_as_it_is(text):
    assert render({"config": text}).config() == text
    assert render_parent({"config": text}).config() == text


def test_the_sections_are_those_of_weir():
    sections = re.search(r'\$sections := splitList " " "(.*)"', (CHART / "templates" / "_config.tpl").read_text()).group(1)
    schema = json.loads((ROOT / "conf" / "schema.json").read_text())
    assert sorted(sections.split()) == sorted(schema["properties"])


def test_the_version_is_weirs():
    said = subprocess.run([rendering.WEIR, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert said.split()[1] == chart["appVersion"]
    assert container(render().weir_pod()[1])["image"] == f"weir:{chart['appVersion']}"


# -- pods --------------------------------------------------------------------------------------------------------------


@FILES
def test_mounts(path, rendered):
    """A whole volume at /etc/weir: with subPath the kubelet would never swap it, and nothing would reload."""
    for _, spec in rendered[path].pods():
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        for one in containers(spec):
            for mount in one.get("volumeMounts", []):
                assert "subPath" not in mount and "subPathExpr" not in mount
                assert mount["name"] in volumes
    out = rendered[path]
    _, spec = out.weir_pod()
    mounts = {mount["mountPath"]: mount for mount in container(spec)["volumeMounts"]}
    volume = next(v for v in spec["volumes"] if v["name"] == mounts["/etc/weir"]["name"])
    assert mounts["/etc/weir"]["readOnly"]
    assert "weir.yaml" in out.one("ConfigMap", volume["configMap"]["name"])["data"]


def test_secrets_come_as_files(rendered):
    out = rendered[CHART / "ci" / "secret-files-values.yaml"]
    _, spec = out.weir_pod()
    mount = next(m for m in container(spec)["volumeMounts"] if m["mountPath"] == "/etc/weir/secrets")
    volume = next(v for v in spec["volumes"] if v["name"] == mount["name"])
    files = [item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    assert sorted(files) == sorted(re.findall(r"\$\{file:/etc/weir/secrets/([a-z]+)}", out.config()))


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


@FILES
def test_selectors_select(path, rendered):
    out = rendered[path]
    labels, spec = out.weir_pod()
    others = [other for other, _ in out.pods() if other is not labels]
    selectors = [one["spec"]["selector"] for one in out.all("Service")]
    selectors += [one["spec"]["selector"]["matchLabels"]
                  for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor") for one in out.all(kind)]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in out.all("NetworkPolicy")]
    selectors += [one["labelSelector"]["matchLabels"] for one in spec.get("topologySpreadConstraints", [])]
    assert selectors
    for selector in selectors:
        assert selector and selects(selector, labels)
        assert not any(selects(selector, other) for other in others)
    for scaler in out.all("HorizontalPodAutoscaler"):
        deployment = out.one("Deployment")
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"]
        assert scaler["spec"]["metrics"][0]["containerResource"]["container"] in [c["name"] for c in containers(spec)]


def facts(text):
    """What the configuration itself says of ports, read by another reader."""
    config = yaml.safe_load(text)
    addresses = {name: one["address"] for name, one in config["listeners"].items()}
    reachable = {name: int(a.rsplit(":", 1)[1]) for name, a in addresses.items() if not a.startswith(("unix:", "127."))}
    metrics = (config.get("metrics") or {}).get("address", "*:9465")
    return reachable, int(metrics.rsplit(":", 1)[1])


@FILES
def test_ports(path, rendered):
    out = rendered[path]
    weir = container(out.weir_pod()[1])
    listeners, metrics = facts(out.config())
    ports = {port.get("name"): port["containerPort"] for port in weir["ports"]}
    assert sorted(port["containerPort"] for port in weir["ports"]) == sorted([*listeners.values(), metrics])
    assert ports["weir-metrics"] == metrics
    for service in out.all("Service"):
        for port in service["spec"]["ports"]:
            assert ports.get(port["targetPort"], port["targetPort"]) in [*listeners.values(), metrics]
        if service["spec"].get("clusterIP") != "None":
            assert metrics not in [port["targetPort"] for port in service["spec"]["ports"]]
    for policy in out.all("NetworkPolicy"):
        opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert opened == {*listeners.values(), metrics}
    for monitor in out.all("PodMonitor"):
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in ports


@FILES
def test_probes_ask_the_metrics_port(path, rendered):
    weir = container(rendered[path].weir_pod()[1])
    asked = {probe: (weir[probe]["httpGet"]["path"], weir[probe]["httpGet"]["port"])
             for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"startupProbe": ("/readyz", "weir-metrics"), "readinessProbe": ("/readyz", "weir-metrics"),
                     "livenessProbe": ("/healthz", "weir-metrics")}
    check = [one for one in containers(rendered[path].weir_pod()[1]) if one["name"] == "weir-check"]
    assert not any(key.endswith("Probe") or key == "ports" for one in check for key in one)


SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@FILES
def test_grace_holds_the_drain(path, rendered):
    out = rendered[path]
    drain = (yaml.safe_load(out.config()).get("server") or {}).get("drain") or {}
    texts = [drain.get("delay", "0s"), drain.get("timeout", "30s")]
    needed = sum(int(re.match("[0-9]+", text).group()) * SECONDS[re.search("[a-z]+", text).group()] for text in texts)
    assert out.weir_pod()[1]["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("drain, own, seconds", [
    (None, None, 35), ("{}", None, 35), ("{delay: 5s}", None, 40), ("{delay: 500ms, timeout: 500ms}", None, 6),
    ("{delay: 1ms, timeout: 1s}", None, 7), ("{timeout: 5m}", None, 305), ("{delay: 1m, timeout: 1h}", None, 3665),
    ("{delay: null, timeout: null}", None, 35), ("{timeout: 0s}", None, 5), ("{timeout: 24h}", None, 86405),
    ("{delay: 5s, timeout: 25s}", 30, 30), ("{timeout: 1999ms}", 2, 2), ("{timeout: '${DRAIN:-20s}'}", 60, 60),
])
def test_grace_period(drain, own, seconds):
    config = VALID + (f"server: {{drain: {drain}}}\n" if drain else "")
    values = {"config": config, "terminationGracePeriodSeconds": own}
    assert render(values).weir_pod()[1]["terminationGracePeriodSeconds"] == seconds
    for scope in ("parent", "weir"):
        assert render_parent(values, scope).weir_pod()[1]["terminationGracePeriodSeconds"] == seconds


# Pod Security Standards, restricted (and baseline, which it contains).
def restricted_violations(spec, only=None):
    found = []
    own = spec.get("securityContext", {})
    for one in [c for c in containers(spec) if only is None or c["name"] in only]:
        context = one.get("securityContext", {})
        seccomp = context.get("seccompProfile", own.get("seccompProfile", {})).get("type")
        for name, holds in [
            ("runAsNonRoot", context.get("runAsNonRoot", own.get("runAsNonRoot")) is True),
            ("runAsUser", context.get("runAsUser", own.get("runAsUser", 1)) != 0),
            ("allowPrivilegeEscalation", context.get("allowPrivilegeEscalation") is False),
            ("privileged", not context.get("privileged")),
            ("drop ALL", context.get("capabilities", {}).get("drop") == ["ALL"]),
            ("add", set(context.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"}),
            ("seccomp", seccomp in ("RuntimeDefault", "Localhost")),
            ("procMount", context.get("procMount", "Default") == "Default"),
            ("hostPort", not any(port.get("hostPort") for port in one.get("ports", []))),
            ("readOnlyRootFilesystem", context.get("readOnlyRootFilesystem") is True),  # not of the standard, but ours
        ]:
            if not holds:
                found.append((one["name"], name))
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    found += [(volume["name"], "volume") for volume in spec.get("volumes", []) if not set(volume) - {"name"} <= allowed]
    found += [("pod", key) for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    return found


@FILES
def test_restricted_pod_security(path, rendered):
    for _, spec in rendered[path].pods():
        only = {"weir", "weir-check"} if use(path) in rendering.LIBRARY else None
        assert restricted_violations(spec, only) == []


@pytest.mark.parametrize("context, name", [
    ({"runAsNonRoot": False}, "runAsNonRoot"), ({"runAsUser": 0}, "runAsUser"), ({"privileged": True}, "privileged"),
    ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"), ({"capabilities": {"drop": ["NET_RAW"]}}, "drop ALL"),
    ({"capabilities": {"add": ["SYS_ADMIN"]}}, "add"), ({"seccompProfile": {"type": "Unconfined"}}, "seccomp"),
    ({"readOnlyRootFilesystem": False}, "readOnlyRootFilesystem")])
def test_what_is_not_restricted_is_seen(context, name):
    violations = restricted_violations(render({"securityContext": context}).weir_pod()[1])
    assert ("weir", name) in violations and ("weir-check", name) in violations


def test_no_token_and_no_way_to_the_admin_listener(rendered):
    for path, out in rendered.items():
        for _, spec in out.pods():
            if use(path) not in rendering.LIBRARY:
                assert spec["automountServiceAccountToken"] is False
        assert not any(port["containerPort"] == 9466 for port in container(out.weir_pod()[1])["ports"])
        assert "address" not in (yaml.safe_load(out.config()).get("admin") or {})
        for account in out.all("ServiceAccount"):
            assert account["automountServiceAccountToken"] is False
            assert account["metadata"]["name"] == out.weir_pod()[1]["serviceAccountName"]


# -- what changes when -------------------------------------------------------------------------------------------------


def changed(values):
    return {**values, "config": VALID + "# changed\n"}


def test_watch_leaves_the_pods_alone_and_restart_does_not():
    for make in (render, render_parent):
        for reload, same in (("watch", True), ("restart", False)):
            before = make({"reload": reload, "config": VALID}).all("Deployment")
            assert (before == make(changed({"reload": reload})).all("Deployment")) is same


def test_gateway_by_itself_and_as_a_dependency():
    assert render().all("Deployment")
    assert render({"gateway": {"enabled": False}}).documents == []
    assert [one["metadata"]["name"] for one in render_parent({}).all("Deployment")] == ["test-agent"]
    assert len(render_parent({"gateway": {"enabled": True}, "fullnameOverride": "edge"}, kind="none").all("Deployment")) == 2


def test_image():
    def image(**over):
        return container(render({"image": over}).weir_pod()[1])["image"]
    digest = "sha256:" + "0" * 64
    assert image(tag="1.2") == "weir:1.2"
    assert image(repository="registry.example:5000/a/weir", digest=digest, tag="1.2") == f"registry.example:5000/a/weir@{digest}"


def test_values_that_are_passed_on():
    spec = {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}], "priorityClassName": "high",
            "affinity": {"nodeAffinity": {}}, "imagePullSecrets": [{"name": "r"}]}
    out = render({**spec, "podLabels": {"team": "a", "app.kubernetes.io/name": "other"}, "podAnnotations": {"x": "y"},
                  "extraContainers": [{"name": "e", "image": "e"}], "extraVolumes": [{"name": "v", "emptyDir": {}}],
                  "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}], "replicaCount": 4,
                  "envFrom": [{"secretRef": {"name": "s"}}]})
    labels, pod = out.weir_pod()
    assert {key: pod[key] for key in spec} == spec
    assert labels["team"] == "a" and labels["app.kubernetes.io/name"] == "weir"
    assert out.one("Deployment")["spec"]["template"]["metadata"]["annotations"]["x"] == "y"
    assert [one["name"] for one in pod["containers"]] == ["weir", "e"]
    assert {"name": "v", "mountPath": "/v"} in container(pod)["volumeMounts"]
    assert container(pod)["envFrom"] == container(pod, "weir-check")["envFrom"] == [{"secretRef": {"name": "s"}}]
    assert out.one("Deployment")["spec"]["replicas"] == 4


@pytest.mark.parametrize("name", ["2024", "1e3", "true"])
def test_labels_are_text_whatever_the_release_is_called(name):
    out = render({"fullnameOverride": "edge", "monitoring": {"podMonitor": {"enabled": True}}}, name=name)
    for one in out.documents:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == name
    assert out.one("Deployment")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == name
    library = render_parent({"monitoring": {"podMonitor": {"enabled": True}}}, name=name)
    assert library.one("PodMonitor")["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/instance": name}


def test_a_strategy_without_a_rolling_update():
    assert render({"strategy": {"type": "Recreate"}}).one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    rolling = render({"strategy": {"rollingUpdate": {"maxSurge": 2}}}).one("Deployment")["spec"]["strategy"]
    assert rolling == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}}


def test_labels_that_are_taken_away():
    off = {"enabled": True, "labels": None}
    out = render({"podLabels": None, "monitoring": {"podMonitor": off, "prometheusRule": off, "dashboards": off}})
    assert "grafana_dashboard" not in out.one("ConfigMap", "-dashboards")["metadata"]["labels"]
    assert len(out.all("PodMonitor") + out.all("PrometheusRule")) == 2


def test_the_kind_of_service():
    given = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"]}
    spec = render({"service": given}).one("Service", "weir")["spec"]
    assert {key: spec[key] for key in given} == given


def test_no_two_ports_have_one_name():
    config = "version: 1\nupstreams: {a: {url: 'http://127.0.0.1:1'}}\nlisteners: {weir-metrics: {address: '*:8080', routes: [{path: /, upstream: a}]}}\n"
    ports = container(render({"config": config, "service": {"ports": [{"name": "h", "port": 80, "targetPort": "weir-metrics"}]}}).weir_pod()[1])["ports"]
    assert [port.get("name") for port in ports] == [None, "weir-metrics"]


def test_network_policy(rendered):
    policy = rendered[CHART / "ci" / "gateway-values.yaml"].one("NetworkPolicy")["spec"]
    given = yaml.safe_load((CHART / "ci" / "gateway-values.yaml").read_text())["networkPolicy"]
    listeners, metrics, tests = policy["ingress"]
    assert listeners["from"] == given["ingress"]["from"] and {port["port"] for port in listeners["ports"]} == {8080, 8443}
    assert metrics["from"] == given["ingress"]["metricsFrom"] and [port["port"] for port in metrics["ports"]] == [9500]
    chosen = tests["from"][0]["podSelector"]["matchLabels"]
    assert selects(chosen, rendered[CHART / "ci" / "gateway-values.yaml"].one("Pod")["metadata"]["labels"])
    dns, *rest = policy["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")} and rest == given["egress"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    everybody = render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]
    assert everybody["policyTypes"] == ["Ingress"] and "egress" not in everybody
    assert ["from" in rule for rule in everybody["ingress"]] == [False, False, True]


# -- monitoring --------------------------------------------------------------------------------------------------------


def test_monitoring_only_where_its_api_is():
    text = (CHART / "ci" / "monitoring-values.yaml").read_text()
    with_api, without = render(text), render(text, apis=())
    kinds = {"PodMonitor", "PrometheusRule"}
    assert {one["kind"] for one in with_api.documents} >= kinds
    assert not {one["kind"] for one in without.documents} & kinds
    assert "has no monitoring.coreos.com/v1" in without.notes and "has no monitoring" not in with_api.notes
    assert not {one["kind"] for one in render().documents} & kinds


def test_alerts_and_dashboards_are_the_files(rendered):
    out = rendered[CHART / "ci" / "monitoring-values.yaml"]
    rule = out.one("PrometheusRule")
    files = sorted((CHART / "alerts").glob("*.yaml"))
    assert files
    assert rule["spec"]["groups"] == [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert "{{ $labels" in json.dumps(rule) and rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    board = out.one("ConfigMap", "-dashboards")
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert files
    assert board["data"] == {file.name: file.read_text() for file in files}
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert sum(len(text) for text in board["data"].values()) < 1_000_000  # a ConfigMap holds no more


# -- values and their schema -------------------------------------------------------------------------------------------


def keys(value, prefix=""):
    if not isinstance(value, dict):
        return set()
    return {prefix + key for key in value}.union(*(keys(below, f"{prefix}{key}.") for key, below in value.items()))


def schema_keys(schema, prefix=""):
    properties = schema.get("properties", {})
    if not properties or schema.get("additionalProperties") is not False:
        return set()
    below = (schema_keys(one, f"{prefix}{key}.") for key, one in properties.items())
    return {prefix + key for key in properties}.union(*below)


def test_every_value_is_in_the_schema_and_every_field_of_it_among_the_values():
    values = keys(yaml.safe_load((CHART / "values.yaml").read_text()))
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"].startswith("http://json-schema.org/draft-07/") and schema["additionalProperties"] is False
    closed = schema_keys(schema)
    of_helm = {"global", "enabled"}
    optional = {f"probes.{probe}.{key}" for probe in ("startup", "readiness", "liveness")
                for key in ("initialDelaySeconds", "successThreshold")}
    optional |= {f"monitoring.podMonitor.selector.{key}" for key in ("matchLabels", "matchExpressions")} | {"resources.claims"}
    optional |= {f"service.{key}" for key in ("externalTrafficPolicy", "internalTrafficPolicy", "loadBalancerClass", "loadBalancerSourceRanges")}
    assert closed - values == of_helm | optional
    top = {key for key in values if "." not in key}
    assert top <= closed


def test_the_readme_names_every_template_that_may_be_included():
    library = set(re.findall(r'define "(weir\.\w+)"', (CHART / "templates" / "_library.tpl").read_text())) - {"weir.resolve"}
    readme = (CHART / "README.md").read_text()
    assert set(re.findall(r"^\| `(weir\.\w+)`", readme, re.M)) == library
    assert set(re.findall(r'include "(weir\.\w+)"', readme)) <= library
