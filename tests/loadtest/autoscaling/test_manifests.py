"""What is read out of rendered objects."""

import copy

import pytest
import yaml

from loadtest.autoscaling.hpa import SCALE_DOWN, SCALE_UP, MetricType, Policy, PolicyType, Rules, SelectPolicy
from loadtest.autoscaling.keda import Fallback, FallbackBehavior
from loadtest.autoscaling.manifests import BadOverlay, autoscaling, read
from tests.loadtest.autoscaling.conftest import DATA


@pytest.fixture
def objects():
    return list(yaml.safe_load_all((DATA / "plain.yaml").read_text()))


def test_all_that_matters_is_read(plain):
    """Bounds, behaviour, fallback, triggers, rules and intervals."""
    assert (plain.min_replicas, plain.max_replicas, plain.polling_seconds, plain.cooldown_seconds) == (1, 8, 15, 300)
    assert plain.up == Rules(0, (Policy(PolicyType.PERCENT, 100, 60), Policy(PolicyType.PODS, 2, 60)), SelectPolicy.MAX)
    assert plain.down == Rules(300, (Policy(PolicyType.PODS, 1, 60),))
    assert plain.fallback == Fallback(3, 3, FallbackBehavior.CURRENT_REPLICAS_IF_HIGHER)
    assert [(t.name, t.type, t.threshold, t.ignores_null_values) for t in plain.triggers] == [
        ("gpu-busy", MetricType.AVERAGE_VALUE, 70, False),
        ("queue-depth", MetricType.AVERAGE_VALUE, 16, False),
        ("queue-latency", MetricType.VALUE, 50, False),
    ]
    assert [rule.interval_seconds for rule in plain.rules.values()] == [5] * 4
    assert plain.scrape_seconds == 5


def test_what_is_not_said_is_as_kubernetes_and_keda_have_it(objects):
    """Their defaults."""
    spec = objects[0]["spec"]
    del spec["advanced"], spec["fallback"], spec["maxReplicaCount"], spec["pollingInterval"], spec["cooldownPeriod"]
    for trigger in spec["triggers"]:
        del trigger["metricType"], trigger["metadata"]["ignoreNullValues"]
    del objects[2]["spec"]["groups"][0]["interval"], objects[1]["spec"]["podMetricsEndpoints"][0]["interval"]
    found = autoscaling(objects, "triton")

    assert (found.up, found.down, found.fallback, found.max_replicas) == (SCALE_UP, SCALE_DOWN, None, 100)
    assert {(t.type, t.ignores_null_values) for t in found.triggers} == {(MetricType.AVERAGE_VALUE, True)}
    assert (found.polling_seconds, found.cooldown_seconds, found.scrape_seconds) == (30, 300, 30)


def test_a_direction_that_says_one_thing_keeps_the_other_defaults(objects):
    """The API server fills in what is missing."""
    behavior = objects[0]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    behavior["scaleDown"] = {"selectPolicy": "Disabled"}
    behavior["scaleUp"] = {"tolerance": 0.2}
    found = autoscaling(objects, "triton")

    assert found.down == Rules(300, SCALE_DOWN.policies, SelectPolicy.DISABLED)
    assert found.up == Rules(0, SCALE_UP.policies, SelectPolicy.MAX, 0.2)


def spoiled(objects, path, value):
    objects = copy.deepcopy(objects)
    place = objects[0]["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return objects


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["triggers", 0, "metadata", "query"], "up", "gpu-busy: the query 'up' is not one that the simulator knows"),
        (
            ["triggers", 0, "metadata", "query"],
            "eagleeye:demand:low15s",
            "gpu-busy: no rule records 'eagleeye:demand:low15s'",
        ),
        (["triggers", 0, "type"], "cpu", "gpu-busy is of type cpu; prometheus is simulated"),
        (["triggers", 0, "metricType"], "Utilization", "metricType Utilization; Value or AverageValue"),
        (["scaleTargetRef", "name"], "other", "there must be one ScaledObject for 'triton', and there are 0"),
        (
            ["fallback", "behavior"],
            "triggerScoped",
            "can't be simulated: 'triggerScoped' is not a valid FallbackBehavior",
        ),
        (["triggers", 0, "metadata"], {"query": "q"}, "an object that scales 'triton' lacks 'threshold'"),
        (["advanced", "scalingModifiers"], {"formula": "a"}, "scalingModifiers are not simulated"),
    ],
)
def test_what_can_not_be_simulated_is_refused(objects, path, value, message):
    """With one line that says what it was."""
    with pytest.raises(BadOverlay, match=message):
        autoscaling(spoiled(objects, path, value), "triton")


def test_a_rule_behind_a_rule_must_be_there(objects):
    """The sum needs what it sums up."""
    objects[2]["spec"]["groups"][0]["rules"].pop(2)

    with pytest.raises(BadOverlay, match="gpu-busy: no rule records 'eagleeye:gpu_busy_percent:mean1m'"):
        autoscaling(objects, "triton")


def test_an_unknown_overlay_is_told_with_those_that_are_there():
    """From the root of the repository."""
    with pytest.raises(BadOverlay, match="there is no overlay 'nowhere'; in k8s/overlays there are:"):
        read("nowhere", "triton")


def test_a_file_that_is_no_yaml(tmp_path):
    """One line."""
    (tmp_path / "a.yaml").write_text("a: [")

    with pytest.raises(BadOverlay, match=r"a\.yaml is no YAML"):
        read(str(tmp_path / "a.yaml"), "triton")


@pytest.mark.usefixtures("rendered")
def test_an_overlay_that_does_not_render(tmp_path):
    """With what kubectl says."""
    with pytest.raises(BadOverlay, match="can't be rendered: "):
        read(str(tmp_path), "triton")
