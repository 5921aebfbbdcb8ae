"""A run as one picture: rates, latencies, and what the deployment said, one below the other."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH: Final = 9.0
_ROW: Final = 1.9
_COLOURS: Final = {
    "due": "#888888",
    "ok": "#1f9d68",
    "refused": "#e0902a",
    "failed": "#c62f3b",
    "p50_ms": "#3b73b9",
    "p95_ms": "#7a59b5",
    "p99_ms": "#b5408f",
    "staleness_p50_ms": "#3b73b9",
    "staleness_p99_ms": "#b5408f",
    "tritons": "#20466e",
    "batch_size": "#2a7f8a",
    "gpu_percent": "#5f9ea0",
}
_LABELS: Final = {
    "due": "due",
    "ok": "answered right, in time",
    "refused": "refused",
    "failed": "failed, late or wrong",
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "staleness_p50_ms": "p50",
    "staleness_p99_ms": "p99",
}
_WATCHED: Final = {"batch_size": "images per batch", "tritons": "Tritons ready", "gpu_percent": "GPU busy, %"}
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # letters stay letters: small, and found by a search
    "svg.hashsalt": "eagleeye",
    "font.family": "sans-serif",
    "font.size": 9,
}


def draw(result: Mapping[str, Any]) -> str:
    """An SVG of the result of a run."""
    with rc_context(_STYLE):
        return _draw(result)


def _draw(result: Mapping[str, Any]) -> str:
    series, watched = result["series"], result["watched"]["series"]
    has_cameras = any(value is not None for value in series["staleness_p50_ms"])
    panels = 2 + has_cameras + sum(name in watched for name in _WATCHED)
    figure = Figure((_WIDTH, 0.6 + _ROW * panels), layout="constrained")
    axes = iter(figure.subplots(panels, sharex=True))

    _lines(next(axes), series, result["seconds"], ("due", "ok", "refused", "failed"), "images/s")
    _lines(next(axes), series, result["seconds"], ("p50_ms", "p95_ms", "p99_ms"), "latency, ms")
    if has_cameras:
        _lines(
            next(axes),
            series,
            result["seconds"],
            ("staleness_p50_ms", "staleness_p99_ms"),
            "camera's newest\nanswer, age in ms",
        )
    for name, label in _WATCHED.items():
        if name in watched:
            _watched(next(axes), watched[name], name, label)
    for place in figure.axes:
        _finish(place, result["stages"])
    figure.axes[-1].set_xlabel("seconds")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _lines(axes: Any, series: Mapping[str, Sequence[Any]], end: float, names: Sequence[str], unit: str) -> None:
    """Curves through the middles of the seconds that their values are of."""
    middles = [(at + after) / 2 for at, after in itertools.pairwise([*series["seconds"], end])]
    for name in names:
        if name in {"refused", "failed"} and not any(series[name]):
            continue
        values = [float("nan") if value is None else value for value in series[name]]
        marker = "." if len(values) < 30 else ""  # noqa: PLR2004 (few points alone would not be seen)
        width = 1.0 if name == "due" else 1.4
        axes.plot(middles, values, color=_COLOURS[name], lw=width, marker=marker, label=_LABELS[name])
    axes.set_ylabel(unit)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4, fontsize=8, frameon=False)


def _watched(axes: Any, samples: Sequence[Sequence[float]], name: str, label: str) -> None:
    draw_style = "steps-post" if name == "tritons" else "default"
    axes.plot(*zip(*samples, strict=True), color=_COLOURS[name], lw=1.4, drawstyle=draw_style)
    axes.set_ylabel(label)
    if name == "tritons":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def _finish(axes: Any, stages: Sequence[Mapping[str, Any]]) -> None:
    """Stages are told apart by a line, and named in the first panel."""
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, stages[-1]["end"])
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    for stage in stages:
        if stage["begin"]:
            axes.axvline(stage["begin"], color="#bbbbbb", lw=0.8, ls="--")
        if axes.get_subplotspec().is_first_row() and len(stages) > 1:
            place = {"transform": axes.get_xaxis_transform(), "va": "top", "fontsize": 8}
            axes.text(stage["begin"], 0.98, f" {stage['name']}", color="#777777", **place)
