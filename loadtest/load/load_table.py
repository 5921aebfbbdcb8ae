"""The load table: what a deployment does idle, at half of its peak, and at its peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loadtest.load.report import number
from loadtest.load.report import table as markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD: Final = ("load", "GPU utilisation", "mean latency", "p99", "throughput", "Triton pods")
_CALLED: Final = {"gpu_percent": "GPU utilisation", "tritons": "Triton pods"}
_IDLE_PER_SECOND: Final = 1.0
_OBJECTIVES: Final = [{"figure": "error_share", "at_most": 0.001}, {"figure": "refused_share", "at_most": 0.01}]


def profiles(peak_per_second: float, peak_callers: int, seconds: float) -> dict[str, dict[str, Any]]:
    """The three loads as data of profiles, by name.

    The peak is closed load by as many callers as have reached it: an open load of just that rate has no room for the
    bursts of its arrivals, and its queue would grow without end.
    """
    return {
        "idle": _profile("open", {"per_second": _IDLE_PER_SECOND}, "Idle: one image a second", seconds),
        "medium": _profile("open", {"per_second": peak_per_second / 2}, "Medium: half of the peak", seconds),
        "peak": _profile("closed", {"users": peak_callers}, f"Peak: {peak_callers} callers without a pause", seconds),
    }


def _profile(load: str, level: dict[str, float], title: str, seconds: float) -> dict[str, Any]:
    stages = [{"name": "load", "seconds": seconds, **level}]
    arrivals = {"arrivals": "constant"} if load == "open" else {}
    return {"title": title, "load": load, **arrivals, "stages": stages, "slo": _OBJECTIVES}


def as_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, and below it why cells have no number."""
    missing = [entry for result in results.values() for entry in result["watched"]["missing"].items()]
    reasons = {f"- {_CALLED[name]}: n/a, {reason}" for name, reason in missing if name in _CALLED}
    problems = [f"- {name}: {text}" for name, result in results.items() for text in result["problems"]]
    rows = [_row(name, result) for name, result in results.items()]
    return "\n".join([markdown_table(_HEAD, rows), "", *sorted(reasons), *problems])


def _row(name: str, result: Mapping[str, Any]) -> list[str]:
    (stage,), figures = result["stages"], result["figures"][0]
    return [
        name,
        _with_unit(stage["gpu_percent"], "%", 0),
        _with_unit(figures["mean_ms"], "ms", 1),
        _with_unit(figures["p99_ms"], "ms", 1),
        _with_unit(figures["per_second"], "images/s", 1),
        number(stage["tritons"], 1).removesuffix(".0"),
    ]


def _with_unit(value: float | None, unit: str, digits: int) -> str:
    return "n/a" if value is None else f"{number(value, digits)} {unit}"
