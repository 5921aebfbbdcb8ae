"""Every name that one object uses is the name of another."""

import os

import pytest

from tests.k8s.conftest import K8S, containers, objects, of_kind, pod_specs

FROM_OUTSIDE = {("Secret", "gateway-tls")}  # the certificate, which cert-manager makes, or somebody by hand


def names(rendered, *kinds):
    return {each["metadata"]["name"] for each in of_kind(rendered, *kinds)}


def matches(selector, labels):
    return selector.items() <= labels.items()


def pod_labels(rendered):
    return [each["spec"]["template"]["metadata"]["labels"] for each in of_kind(rendered, "Deployment")]


def port_names(rendered, selector):
    """Names of the ports of pods that a selector matches; each must have them."""
    found = [
        {port["name"] for each in containers(template["spec"]) for port in each.get("ports", [])}
        for template in (each["spec"]["template"] for each in of_kind(rendered, "Deployment"))
        if matches(selector, template["metadata"]["labels"])
    ]
    assert found, f"{selector} matches no pod"
    return set.intersection(*found)


def test_volumes_and_accounts_are_there(rendered):
    """Each ConfigMap, Secret, claim, account and priority that a pod names, and each volume that a container mounts."""
    for spec in pod_specs(rendered).values():
        assert spec["serviceAccountName"] in names(rendered, "ServiceAccount")
        assert spec["priorityClassName"] in names(rendered, "PriorityClass")
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names(rendered, "ConfigMap")
            if "secret" in volume:
                assert volume["secret"]["secretName"] in names(rendered, "Secret")
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names(rendered, "PersistentVolumeClaim")
        mounted = {mount["name"] for each in containers(spec) for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_probes_ask_ports_that_there_are(rendered):
    """By name, of their own container."""
    for spec in pod_specs(rendered).values():
        for each in (it for it in spec["containers"] if "ports" in it):
            ports = {port["name"] for port in each["ports"]}
            probes = [each[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
            assert {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe} <= ports


def test_services_lead_to_pods(rendered):
    """Each selects the pods of one Deployment, at ports that those have; so do budgets and workloads themselves."""
    for each in of_kind(rendered, "Service"):
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= port_names(rendered, each["spec"]["selector"])
        assert sum(matches(each["spec"]["selector"], labels) for labels in pod_labels(rendered)) == 1
    for each in of_kind(rendered, "PodDisruptionBudget", "Deployment"):
        selector = each["spec"]["selector"]["matchLabels"]
        assert sum(matches(selector, labels) for labels in pod_labels(rendered)) == 1
    for each in of_kind(rendered, "Deployment"):
        for spread in each["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"] == each["spec"]["selector"]["matchLabels"]


def test_the_gateway_asks_the_headless_service(rendered):
    """The name in --triton-url is that of a Service without a cluster IP, which has the port."""
    for each in of_kind(rendered, "Deployment"):
        for gateway in (it for it in containers(each["spec"]["template"]["spec"]) if it["name"] == "gateway"):
            (url,) = (var["value"] for var in gateway["env"] if var["name"] == "EAGLEEYE_TRITON_URL")
            name, _, port = url.removeprefix("dns://").partition(":")
            (service,) = (it for it in of_kind(rendered, "Service") if it["metadata"]["name"] == name)
            assert service["spec"]["clusterIP"] == "None"
            assert int(port) in {it["port"] for it in service["spec"]["ports"]}


def test_autoscalers_have_a_target_that_leaves_them_the_number(rendered):
    """Each Deployment is scaled once at most, and none that is says how many replicas it has."""
    targets = [
        each["spec"]["scaleTargetRef"]["name"] for each in of_kind(rendered, "ScaledObject", "HorizontalPodAutoscaler")
    ]
    assert len(set(targets)) == len(targets)
    assert set(targets) <= names(rendered, "Deployment")
    assert all("replicas" not in each["spec"] for each in of_kind(rendered, "Deployment"))


def test_pod_monitors_find_pods_and_ports(rendered):
    """Each selects pods of ours, at ports that those have."""
    for each in of_kind(rendered, "PodMonitor"):
        ports = port_names(rendered, each["spec"]["selector"]["matchLabels"])
        assert {endpoint["port"] for endpoint in each["spec"]["podMetricsEndpoints"]} <= ports


def test_network_policies_name_pods_and_ports_of_ours(rendered):
    """Every selector of pods in our namespace finds some, and every port by name is one of theirs."""
    for policy in of_kind(rendered, "NetworkPolicy"):
        own = policy["spec"]["podSelector"].get("matchLabels", {})
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= port_names(rendered, own)
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                if "namespaceSelector" not in peer:
                    there = port_names(rendered, peer["podSelector"]["matchLabels"])
                    assert {port["port"] for port in rule["ports"]} <= there


def backends(rendered):
    """(Service, port number or name) that routes and ingresses lead to."""
    for each in of_kind(rendered, "HTTPRoute", "GRPCRoute"):
        for rule in each["spec"]["rules"]:
            yield from ((backend["name"], backend["port"]) for backend in rule["backendRefs"])
    for each in of_kind(rendered, "Ingress"):
        for rule in each["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                yield path["backend"]["service"]["name"], path["backend"]["service"]["port"]["name"]


def test_routes_lead_to_services(rendered):
    """At ports that those have; a route's Gateway, listener and host are there, too."""
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind(rendered, "Service")}
    for service, port in backends(rendered):
        assert any(port in (it["port"], it["name"]) for it in services[service])
    listeners = {
        (each["metadata"]["name"], listener["name"]): listener
        for each in of_kind(rendered, "Gateway")
        for listener in each["spec"]["listeners"]
    }
    for each in of_kind(rendered, "HTTPRoute", "GRPCRoute"):
        (parent,) = each["spec"]["parentRefs"]
        assert each["spec"]["hostnames"] == [listeners[parent["name"], parent["sectionName"]]["hostname"]]


def test_certificates_are_the_only_thing_from_outside(rendered):
    """What is named and not rendered is known."""
    wanted = {each["secretName"] for it in of_kind(rendered, "Ingress") for each in it["spec"]["tls"]}
    for gateway in of_kind(rendered, "Gateway"):
        for listener in gateway["spec"]["listeners"]:
            wanted |= {each["name"] for each in listener["tls"]["certificateRefs"]}
    assert {("Secret", name) for name in wanted - names(rendered, "Secret")} <= FROM_OUTSIDE


def test_a_canary_is_like_the_gateway_but_for_name_label_and_image():
    """So that what is tried is the new image and nothing else."""
    specs = pod_specs(objects(K8S / "overlays" / "production"))
    (stable,), (canary,) = specs["gateway"]["containers"], specs["gateway-canary"]["containers"]
    assert {key for key in stable if stable[key] != canary[key]} <= {"image"}


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
def test_weights_send_everything_to_the_stable_gateway(kind):
    """As delivered; a canary begins by an edit of these two numbers."""
    (route,) = of_kind(objects(K8S / "overlays" / "production"), kind)
    weights = {backend["name"]: backend["weight"] for backend in route["spec"]["rules"][0]["backendRefs"]}
    assert weights == {"gateway": 100, "gateway-canary": 0}


def test_a_prefix_reaches_the_autoscalers_targets(tmp_path):
    """`namePrefix` renames the Deployments, and the ScaledObjects follow."""
    up = os.path.relpath(K8S, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"namePrefix: blue-\nresources:\n- {up}/overlays/gpu\n")
    rendered = objects(tmp_path.resolve())
    targets = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(rendered, "ScaledObject")}
    assert targets == {"blue-gateway", "blue-triton"}
    assert targets <= names(rendered, "Deployment")
