"""Rendered Kubernetes objects -> what the simulator needs of them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from loadtest.autoscaling.hpa import (
    SCALE_DOWN,
    SCALE_UP,
    TOLERANCE,
    MetricType,
    Policy,
    PolicyType,
    Rules,
    SelectPolicy,
)
from loadtest.autoscaling.keda import Fallback, FallbackBehavior, Trigger
from loadtest.autoscaling.signals import SIGNALS, Rule, UnknownSignal, parse_query, windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Object = Mapping[str, Any]

OVERLAYS: Final = Path("k8s/overlays")
_DEFAULT_INTERVAL_SECONDS: Final = 30.0  # of scrapes and rules, where an object names none: the operator's default
_HELD_SETTING: Final = "EAGLEEYE_MAX_HELD_IMAGES"
_DURATION: Final = re.compile(r"^(\d+)(ms|s|m|h)$")
_UNIT_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class BadOverlay(ValueError):
    """An overlay that can't be rendered, or says something that can't be simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """All that an overlay says about scaling one Deployment.

    Attributes:
        name: of the ScaledObject.
        min_replicas: fewest replicas; 0 for scale to zero.
        max_replicas: most replicas.
        polling_seconds: how often KEDA looks whether to go to or from zero.
        cooldown_seconds: how long nothing must be active before it goes to zero.
        fallback: what happens to triggers that fail.
        up: the HPA's rules for scaling up.
        down: its rules for scaling down.
        triggers: the triggers.
        rules: the recorded rules behind them, by name, in the order of their evaluation.
        scrape_seconds: how often Triton, the gateway and the exporter are scraped; the longest of them.
        max_held_images: how many images a gateway holds while there is no Triton.
    """

    name: str
    min_replicas: int
    max_replicas: int
    polling_seconds: float = 30.0
    cooldown_seconds: float = 300.0
    fallback: Fallback | None = None
    up: Rules = SCALE_UP
    down: Rules = SCALE_DOWN
    triggers: tuple[Trigger, ...]
    rules: Mapping[str, Rule]
    scrape_seconds: float
    max_held_images: int = 0


def read(overlay: str, target: str) -> Autoscaling:
    """Read an overlay.

    Args:
        overlay: the name of one in `k8s/overlays`, a folder for `kubectl kustomize`, or a file of rendered objects.
        target: name of the Deployment whose scaling is wanted.

    Raises:
        BadOverlay: it can't be rendered, or can't be simulated.
    """
    return autoscaling(_objects(overlay), target)


def autoscaling(objects: Iterable[Object], target: str) -> Autoscaling:
    """Find out how one Deployment is scaled.

    Raises:
        BadOverlay: it is not, or in a way that the simulator does not know.
    """
    try:
        return _autoscaling(list(objects), target)
    except BadOverlay:
        raise
    except KeyError as error:
        raise BadOverlay(f"an object that scales {target!r} lacks {error}") from error
    except ValueError as error:
        raise BadOverlay(f"what scales {target!r} can't be simulated: {error}") from error


def _autoscaling(objects: list[Object], target: str) -> Autoscaling:
    scaled = [o for o in _of_kind(objects, "ScaledObject") if o["spec"]["scaleTargetRef"]["name"] == target]
    if len(scaled) != 1:
        raise BadOverlay(f"there must be one ScaledObject for {target!r}, and there are {len(scaled)}")
    spec, name = scaled[0]["spec"], scaled[0]["metadata"]["name"]
    advanced = spec.get("advanced", {})
    if "scalingModifiers" in advanced:
        raise BadOverlay(f"ScaledObject {name}: scalingModifiers are not simulated")
    behavior = advanced.get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    triggers = tuple(_trigger(name, n, trigger) for n, trigger in enumerate(spec["triggers"]))
    return Autoscaling(
        name=name,
        min_replicas=spec.get("minReplicaCount", 0),
        max_replicas=spec.get("maxReplicaCount", 100),
        polling_seconds=float(spec.get("pollingInterval", 30)),
        cooldown_seconds=float(spec.get("cooldownPeriod", 300)),
        fallback=_fallback(spec["fallback"]) if "fallback" in spec else None,
        up=_rules(behavior.get("scaleUp", {}), SCALE_UP),
        down=_rules(behavior.get("scaleDown", {}), SCALE_DOWN),
        triggers=triggers,
        rules=_rules_of(name, triggers, objects),
        scrape_seconds=_scrape_seconds(objects),
        max_held_images=_max_held_images(objects),
    )


def _objects(overlay: str) -> list[Object]:
    path = Path(overlay)
    if path.is_file():
        text = path.read_text()
    else:
        folder = path if path.is_dir() else OVERLAYS / overlay
        if not folder.is_dir():
            there = ", ".join(sorted(entry.name for entry in OVERLAYS.glob("*"))) or "none"
            raise BadOverlay(f"there is no overlay {overlay!r}; in {OVERLAYS} there are: {there}")
        text = _render(folder)
    try:
        return [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise BadOverlay(f"{overlay} is no YAML: {' '.join(str(error).split())}") from error


def _render(folder: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603 (a folder that the user names)
            ["kubectl", "kustomize", str(folder)],  # noqa: S607 (from PATH, as everybody has it)
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError as error:
        raise BadOverlay("kubectl is not installed; it renders overlays, or name a file of rendered objects") from error
    except subprocess.CalledProcessError as error:
        raise BadOverlay(f"{folder} can't be rendered: {' '.join(error.stderr.split())}") from error
    return done.stdout


def _of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    return [o for o in objects if o.get("kind") == kind]


def _trigger(scaled_object: str, number: int, trigger: Object) -> Trigger:
    name = trigger.get("name", f"trigger {number}")
    if trigger["type"] != "prometheus":
        raise BadOverlay(f"ScaledObject {scaled_object}: {name} is of type {trigger['type']}; prometheus is simulated")
    metric_type = trigger.get("metricType", "AverageValue")
    if metric_type not in list(MetricType):
        raise BadOverlay(f"ScaledObject {scaled_object}: {name} has metricType {metric_type}; Value or AverageValue?")
    metadata = trigger["metadata"]
    return Trigger(
        name=name,
        query=metadata["query"],
        type=MetricType(metric_type),
        threshold=float(metadata["threshold"]),
        activation_threshold=float(metadata.get("activationThreshold", 0)),
        ignores_null_values=metadata.get("ignoreNullValues", "true") == "true",
    )


def _fallback(spec: Object) -> Fallback:
    return Fallback(spec["failureThreshold"], spec["replicas"], FallbackBehavior(spec.get("behavior", "static")))


def _rules(spec: Object, default: Rules) -> Rules:
    """One direction of `behavior`; what it does not say is as Kubernetes has it by default."""
    policies = tuple(
        Policy(PolicyType(policy["type"]), policy["value"], float(policy["periodSeconds"]))
        for policy in spec.get("policies", ())
    )
    return Rules(
        stabilization_seconds=float(spec.get("stabilizationWindowSeconds", default.stabilization_seconds)),
        policies=policies or default.policies,
        select=SelectPolicy(spec.get("selectPolicy", default.select)),
        tolerance=float(spec.get("tolerance", TOLERANCE)),
    )


def _rules_of(scaled_object: str, triggers: Iterable[Trigger], objects: Iterable[Object]) -> dict[str, Rule]:
    """The rules that the triggers ask for, with those that these are made of, in the order of their evaluation."""
    recorded = {
        rule["record"]: Rule(rule["record"], rule["expr"], _seconds(group.get("interval", "30s")))
        for resource in _of_kind(objects, "PrometheusRule")
        for group in resource["spec"]["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    needed: set[str] = set()
    for trigger in triggers:
        try:
            needed |= _closure(parse_query(trigger.query).rule, recorded)
        except UnknownSignal as error:
            raise BadOverlay(f"ScaledObject {scaled_object}: {trigger.name}: {error}") from error
    return {name: rule for name, rule in recorded.items() if name in needed}


def _closure(name: str, recorded: Mapping[str, Rule]) -> set[str]:
    """A rule, and those that it is made of.

    Raises:
        UnknownSignal: one of them is not recorded, or not as the simulator knows it.
    """
    if name not in recorded:
        raise UnknownSignal(f"no rule records {name!r}")
    windows(recorded[name])
    return {name}.union(*(_closure(other, recorded) for other in SIGNALS[name].reads if other in SIGNALS))


def _scrape_seconds(objects: Iterable[Object]) -> float:
    intervals = [
        _seconds(endpoint["interval"])
        for kind, field in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints"))
        for monitor in _of_kind(objects, kind)
        for endpoint in monitor["spec"][field]
        if "interval" in endpoint
    ]
    return max(intervals, default=_DEFAULT_INTERVAL_SECONDS)


def _max_held_images(objects: Iterable[Object]) -> int:
    settings = [
        int(variable.get("value", 0))
        for deployment in _of_kind(objects, "Deployment")
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", ())
        if variable["name"] == _HELD_SETTING
    ]
    return max(settings, default=0)


def _seconds(duration: str) -> float:
    match = _DURATION.match(duration)
    if match is None:
        raise BadOverlay(f"{duration!r} is no duration such as 5s or 1m")
    return float(match[1]) * _UNIT_SECONDS[match[2]]
