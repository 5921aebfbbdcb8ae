"""The autoscalers' settings, which no schema knows: KEDA types a trigger's parameters as any text."""

import json
import re

import pytest
import yaml

from gateway.admission import MAX_UNMEASURED
from tests.k8s.conftest import K8S, container, environment, objects, of_kind

AUTOSCALED = ("gpu", "production", "scale-to-zero")
SYNC_SECONDS = 15  # HPA's
COLD_START_SECONDS = 60  # of a pod, on a node that has the image


@pytest.fixture(params=AUTOSCALED)
def scaled(request):
    """ScaledObjects by name."""
    return {
        each["metadata"]["name"]: each["spec"]
        for each in of_kind(objects(K8S / "overlays" / request.param), "ScaledObject")
    }


def prometheus_triggers(spec):
    return [each for each in spec["triggers"] if each["type"] == "prometheus"]


def test_silence_is_never_zero(scaled):
    """Each query without an answer is an error, and errors never scale a busy service down."""
    for spec in scaled.values():
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert all(each["metadata"]["ignoreNullValues"] == "false" for each in prometheus_triggers(spec))


def test_parameters_are_those_of_the_scaler(scaled, shared_dir):
    """No misspelt one, and none of those that are needed is missing."""
    known = json.loads((shared_dir / "k8s-schemas" / "keda-prometheus-trigger.json").read_text())["parameters"]
    needed = {each["name"] for each in known if not each.get("optional") and "default" not in each}
    for spec in scaled.values():
        for each in prometheus_triggers(spec):
            assert needed <= each["metadata"].keys() <= {parameter["name"] for parameter in known}
            float(each["metadata"]["threshold"])


def test_triggers_have_names_of_their_own(scaled):
    """KEDA's webhook refuses two of one name; and all ask one Prometheus."""
    for spec in scaled.values():
        names = [each["name"] for each in spec["triggers"]]
        assert len(set(names)) == len(names)
        assert len({each["metadata"]["serverAddress"] for each in prometheus_triggers(spec)}) == 1


def test_amounts_are_divided_and_means_are_not(scaled):
    """A sum over pods is an AverageValue; only the wait is a mean, and it is bounded to twice its threshold."""
    for spec in scaled.values():
        for each in prometheus_triggers(spec):
            if "milliseconds" in each["metadata"]["query"]:
                assert each["metricType"] == "Value"
                (bound,) = re.findall(r"clamp_max\(.*, (\d+)\)", each["metadata"]["query"])
                assert float(bound) == 2 * float(each["metadata"]["threshold"])
            else:
                assert each["metricType"] == "AverageValue"


def test_a_processor_trigger_has_a_request_to_refer_to(scaled):
    """And only the gateway has one: Triton's processors say nothing about its GPU."""
    assert [name for name, spec in scaled.items() if any(each["type"] == "cpu" for each in spec["triggers"])] == [
        "gateway"
    ]
    gateway = container(objects(K8S / "overlays" / "gpu"), "gateway", "gateway")
    assert gateway["resources"]["requests"]["cpu"] == "2"


def test_production_is_never_without_a_spare():
    """Two of each at least, a fallback within bounds, and room for one GPU more than the maximum is noted beside it."""
    for each in of_kind(objects(K8S / "overlays" / "production"), "ScaledObject"):
        spec = each["spec"]
        assert 2 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


def test_a_step_to_six_is_asked_for_at_once(scaled):
    """From one pod to six in one decision; down again by one pod a minute, and not before five minutes."""
    behavior = scaled["triton"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    pods = max(each["value"] for each in behavior["scaleUp"]["policies"] if each["type"] == "Pods")
    assert 1 + pods >= 6
    assert all(each["periodSeconds"] >= 2 * SYNC_SECONDS for each in behavior["scaleUp"]["policies"])
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_scale_to_zero_wakes_by_what_gateways_count():
    """None of its queries needs a Triton, and gateways hold requests for longer than one takes to start."""
    rendered = objects(K8S / "overlays" / "scale-to-zero")
    (triton,) = (each["spec"] for each in of_kind(rendered, "ScaledObject") if each["metadata"]["name"] == "triton")
    assert triton["minReplicaCount"] == 0
    assert all(each["metadata"]["activationThreshold"] == "0" for each in triton["triggers"])
    assert {each["metadata"]["query"] for each in triton["triggers"]} == {
        "eagleeye:requests:increase1m",
        "eagleeye:demand:low15s",
    }
    settings = environment(container(rendered, "gateway", "gateway"))
    seconds_until_known = 2 * 5 + triton["pollingInterval"]  # a scrape, a rule, and KEDA's next look
    assert 0 < int(settings["EAGLEEYE_MAX_HELD_IMAGES"]) <= MAX_UNMEASURED
    assert float(settings["EAGLEEYE_TIMEOUT_SECONDS"]) >= seconds_until_known + COLD_START_SECONDS
    assert float(settings["EAGLEEYE_GRACE_SECONDS"]) >= float(settings["EAGLEEYE_TIMEOUT_SECONDS"])


def adapter_metrics():
    rules = yaml.safe_load((K8S / "plain" / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    return {rule["name"]["as"]: rule["metricsQuery"] for rule in rules}


def test_the_adapters_autoscalers_decide_as_kedas_do(variants):
    """The same series, thresholds, bounds and behaviour, by way of prometheus-adapter."""
    scaled = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(objects(K8S / "overlays" / "gpu"), "ScaledObject")
    }
    plain = adapter_metrics()
    for each in of_kind(objects(variants["prometheus-adapter"]), "HorizontalPodAutoscaler"):
        spec, keda = each["spec"], scaled[each["spec"]["scaleTargetRef"]["name"]]
        assert (spec["minReplicas"], spec["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
        config = keda["advanced"]["horizontalPodAutoscalerConfig"]
        assert (each["metadata"]["name"], spec["behavior"]) == (config["name"], config["behavior"])
        external = [metric["external"] for metric in spec["metrics"] if metric["type"] == "External"]
        asked = {
            plain[it["metric"]["name"]].replace("{<<.LabelMatchers>>}", ""): (
                it["target"]["type"],
                it["target"].get("averageValue", it["target"].get("value")),
            )
            for it in external
        }
        assert asked == {
            it["metadata"]["query"]: (it["metricType"], it["metadata"]["threshold"]) for it in prometheus_triggers(keda)
        }
