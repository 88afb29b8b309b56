"""What the chart refuses, and in which words: by values.schema.json, else by its templates."""

import pytest

from rendering import MONITORING, Refused, render, render_parent

pytestmark = pytest.mark.usefixtures("renderer")

LISTENER = "version: 1\nlisteners: {inbound: {address: '%s'}}\n"


def refusal(values, **more):
    with pytest.raises(Refused) as refused:
        render(values, **more)
    return str(refused.value)


@pytest.mark.parametrize("values, said", [
    # unknown keys, at each level that is ours
    ({"replicas": 2}, "Additional property replicas is not allowed"),
    ({"listeners": {}}, "Additional property listeners is not allowed"),
    ({"image": {"name": "weir"}}, "image: Additional property name is not allowed"),
    ({"check": {"enable": False}}, "check: Additional property enable is not allowed"),
    ({"gateway": {"replicas": 2}}, "gateway: Additional property replicas is not allowed"),
    ({"resources": {"limit": {}}}, "resources: Additional property limit is not allowed"),
    ({"probes": {"ready": {}}}, "probes: Additional property ready is not allowed"),
    ({"probes": {"liveness": {"httpGet": {}}}}, "probes.liveness: Additional property httpGet is not allowed"),
    ({"secrets": [{"secretName": "a"}]}, "secrets.0: name is required"),
    ({"secrets": [{"name": "a", "key": "k"}]}, "secrets.0: Additional property key is not allowed"),
    ({"service": {"port": 80}}, "service: Additional property port is not allowed"),
    ({"service": {"ports": [{"name": "a", "port": 80, "targetport": 8080}]}}, "service.ports.0: targetPort is required"),
    ({"networkPolicy": {"ingress": []}}, "networkPolicy.ingress: Invalid type. Expected: object, given: array"),
    ({"networkPolicy": {"ingress": {"metrics": []}}}, "networkPolicy.ingress: Additional property metrics is not allowed"),
    ({"podDisruptionBudget": {"maxUnavailble": 1}}, "podDisruptionBudget: Additional property maxUnavailble is not allowed"),
    ({"autoscaling": {"maxReplica": 1}}, "autoscaling: Additional property maxReplica is not allowed"),
    ({"monitoring": {"serviceMonitor": {}}}, "monitoring: Additional property serviceMonitor is not allowed"),
    ({"monitoring": {"podMonitor": {"namespace": "x"}}},
     "monitoring.podMonitor: Additional property namespace is not allowed"),
    ({"strategy": {"rollingUpdate": {"surge": 1}}}, "strategy.rollingUpdate: Additional property surge is not allowed"),
    ({"tests": {"enable": False}}, "tests: Additional property enable is not allowed"),
    # wrong values
    ({"config": {"version": 1}}, "config: Invalid type. Expected: string, given: object"),
    ({"config": ""}, "config: String length must be greater than or equal to 1"),
    ({"config": None}, "config is required"),
    ({"reload": "sighup"}, 'reload: reload must be one of the following: "watch", "restart"'),
    ({"gateway": {"enabled": "yes"}}, 'gateway.enabled: gateway.enabled must be one of the following: "auto", true, false'),
    ({"image": {"repository": "Weir"}}, "image.repository: Does not match pattern"),
    ({"image": {"tag": "1.0 "}}, "image.tag: Does not match pattern"),
    ({"image": {"tag": 1.5}}, "image.tag: Invalid type. Expected: string, given: number"),
    ({"image": {"digest": "sha256:12"}}, "image.digest: Does not match pattern"),
    ({"image": {"pullPolicy": "always"}}, "image.pullPolicy: image.pullPolicy must be one of"),
    ({"imagePullSecrets": ["registry"]}, "imagePullSecrets.0: Invalid type. Expected: object, given: string"),
    ({"env": {"A": "b"}}, "env: Invalid type. Expected: array, given: object"),
    ({"env": [{"value": "b"}]}, "env.0: name is required"),
    ({"secrets": [{"name": "a", "items": [{"key": "k", "path": "/k"}]}]}, "secrets.0.items.0.path: Does not match pattern"),
    ({"secrets": [{"name": "a", "items": [{"key": "k"}]}]}, "secrets.0.items.0: path is required"),
    ({"replicaCount": "2"}, "replicaCount: Invalid type. Expected: integer, given: string"),
    ({"replicaCount": -1}, "replicaCount: Must be greater than or equal to 0"),
    ({"terminationGracePeriodSeconds": "60s"}, "terminationGracePeriodSeconds: Invalid type"),
    ({"terminationGracePeriodSeconds": 1.5}, "terminationGracePeriodSeconds: Invalid type"),
    ({"probes": {"startup": {"periodSeconds": 0}}}, "probes.startup.periodSeconds: Must be greater than or equal to 1"),
    ({"service": {"type": "ExternalName"}}, "service.type: service.type must be one of"),
    ({"service": {"ports": []}}, "service.ports: Array must have at least 1 items"),
    ({"service": {"ports": [{"name": "a", "port": 70000, "targetPort": 1}]}},
     "service.ports.0.port: Must be less than or equal to 65535"),
    ({"service": {"ports": [{"name": "HTTP", "port": 80, "targetPort": 1}]}},
     "service.ports.0.name: Does not match pattern"),
    ({"podDisruptionBudget": {"maxUnavailable": "many"}}, "podDisruptionBudget.maxUnavailable: Does not match pattern"),
    ({"podLabels": {"a": 1}}, "podLabels.a: Invalid type. Expected: string, given: integer"),
    ({"podAnnotations": {"a": True}}, "podAnnotations.a: Invalid type. Expected: string, given: boolean"),
    ({"fullnameOverride": "Edge_1"}, "fullnameOverride: Does not match pattern"),
    ({"nameOverride": "n" * 64}, "nameOverride: String length must be less than or equal to 63"),
    ({"monitoring": {"podMonitor": {"interval": "fast"}}}, "monitoring.podMonitor.interval: Does not match pattern"),
    ({"monitoring": {"dashboards": {"labels": {"grafana_dashboard": 1}}}}, "grafana_dashboard: Invalid type. Expected: string"),
])
def test_the_schema_refuses(values, said):
    message = refusal(values)
    assert "values don't meet the specifications of the schema(s)" in message and said in message


@pytest.mark.parametrize("config, said", [
    ("   \n", "config is empty; write a weir.yaml, beginning with `version: 1`"),
    ("version: 1\n  listeners: {\n", "config is not YAML, or not a mapping: error converting YAML to JSON: yaml: line"),
    ("version: 1\nlimits:\n\tper-tenant: {}\n", "config is not YAML, or not a mapping"),
    ("- version: 1\n", "config is not YAML, or not a mapping"),
    ("just text", "config is not YAML, or not a mapping"),
    ("# nothing\n", "config: the first line is to be `version: 1`"),
    ("listeners: {}\n", "config: the first line is to be `version: 1`"),
    ("version: 2\n", "config: the first line is to be `version: 1`"),
    ("version: 1\nlimit: {}\n", 'config: "limit" is not a section of weir.yaml; there are: version, server, admin, metrics'),
    ("version: 1\nlisteners: [inbound]\n", "config: listeners is not a mapping"),
    ("version: 1\nserver: 5\n", "config: server is not a mapping"),
    ("version: 1\nserver: {drain: 30s}\n", "config: server.drain is not a mapping"),
    ("version: 1\nlisteners: {inbound: '*:8080'}\n", "config: listeners.inbound is not a mapping"),
    ("version: 1\nserver: {drain: {timeout: 1.5m}}\n",
     'config: server.drain.timeout: "1.5m" is not a duration; write a count and a unit'),
    ("version: 1\nserver: {drain: {delay: 5}}\n", 'config: server.drain.delay: "5" is not a duration'),
    (LISTENER % "*:8080" + "server: {drain: {timeout: \"${T}\"}}\n",
     "config: server.drain has a placeholder, which the chart cannot read: set terminationGracePeriodSeconds"),
    ("version: 1\nmetrics: {address: 127.0.0.1:9465}\n",
     'config: metrics.address: "127.0.0.1:9465" is on loopback, and the probes of Kubernetes go to the pod\'s address; write "*:9465"'),
    ("version: 1\nmetrics: {address: '[::1]:9465'}\n", "is on loopback"),
    ("version: 1\nmetrics: {address: 'localhost:9465'}\n", "is on loopback"),
    ("version: 1\nmetrics: {address: 'unix:///run/weir.sock'}\n", "is a unix socket"),
    ("version: 1\nmetrics: {address: '*:${PORT:-9465}'}\n", "is a placeholder, whose port the chart cannot know"),
    ("version: 1\nmetrics: {address: '9465'}\n", "is no address"),
    (LISTENER.replace("inbound", "outbound") % "*:8080",
     'service.ports[0].targetPort: "inbound" is no listener of config; there are: outbound'),
    (LISTENER % "127.0.0.1:8080", "service.ports[0].targetPort: listeners.inbound of config is on loopback"),
    (LISTENER % "unix:///run/a.sock", "service.ports[0].targetPort: listeners.inbound of config is a unix socket"),
    (LISTENER % "${ADDRESS}", "service.ports[0].targetPort: listeners.inbound of config is a placeholder"),
])
def test_the_templates_refuse_configurations(config, said):
    message = refusal({"config": config})
    assert "weir: config" in message or "weir: service.ports" in message
    assert said in message


@pytest.mark.parametrize("values, said", [
    ({"terminationGracePeriodSeconds": 34},
     "terminationGracePeriodSeconds: 34 is less than drain.delay + drain.timeout of config (35000 ms): requests would be cut off"),
    ({"terminationGracePeriodSeconds": 0}, "terminationGracePeriodSeconds: 0 is less"),
    ({"config": LISTENER % "*:8080" + "server: {drain: {timeout: 35001ms}}\n", "terminationGracePeriodSeconds": 35},
     "terminationGracePeriodSeconds: 35 is less"),
    ({"service": {"ports": [{"name": "a", "port": 80, "targetPort": 8081}]}},
     'service.ports[0].targetPort: "8081" is no listener of config; there are: inbound'),
    ({"service": {"ports": [{"name": "a", "port": 80, "targetPort": "inbound"}, {"name": "b", "port": 81, "targetPort": 9465}]}},
     'service.ports[1].targetPort: "9465" is no listener'),
    ({"podDisruptionBudget": {"enabled": True, "maxUnavailable": None}},
     "podDisruptionBudget: set minAvailable or maxUnavailable"),
    ({"autoscaling": {"enabled": True, "minReplicas": 11}}, "autoscaling.minReplicas: 11 is more than maxReplicas (10)"),
])
def test_the_templates_refuse_values(values, said):
    assert f"weir: {said}" in refusal(values)


def test_a_release_that_makes_no_name_for_a_service():
    said = refusal({}, name="1st")
    assert 'the Service would be called "1st-weir", and a Service\'s name begins with a letter: set fullnameOverride' in said
    assert render({"fullnameOverride": "first"}, name="1st").one("Service", "first")


def test_kubernetes_before_native_sidecars():
    assert "chart requires kubeVersion: >=1.29.0-0 which is incompatible with Kubernetes v1.28.9" in refusal({}, kube="v1.28.9")
    assert render({}, kube="v1.29.0-gke.100").documents and render({}, kube="v1.34.1").documents


@pytest.mark.parametrize("values, said", [
    ({"repl": 1}, "weir:\n- (root): Additional property repl is not allowed"),
    ({"config": "version: 1\nlimit: {}\n"}, 'weir: config: "limit" is not a section'),
    ({"terminationGracePeriodSeconds": 5}, "weir: terminationGracePeriodSeconds: 5 is less"),
])
def test_a_parent_is_told_the_same(values, said):
    for scope in ("parent", "weir"):
        with pytest.raises(Refused) as refused:
            render_parent(values, scope)
        assert said in str(refused.value)


def test_what_a_parent_may_have_besides():
    render({"global": {"imageRegistry": "x"}, "enabled": True}, apis=(MONITORING,))
