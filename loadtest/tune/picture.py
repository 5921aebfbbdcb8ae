"""All trials as one picture: images per second against p99, a line for each tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

_INCHES: Final = (9.0, 5.5)
_DOTS_PER_INCH: Final = 90


def draw(report: dict[str, Any], file: Path) -> None:
    """Write a PNG; of each tuning the trial that was longest."""
    figure = Figure(_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{report['model']}: more and more callers, by tuning", fontsize=10)
    longest: dict[str, dict[str, Any]] = {}
    for trials in report["rounds"]:
        longest.update({str(trial["tuning"]): trial for trial in trials})
    for trial in longest.values():
        points = [(step["p99_ms"], step["images_per_second"]) for step in trial["steps"] if step["p99_ms"] is not None]
        is_best, is_current = trial["tuning"] == report["best"], trial["tuning"] == report["current"]
        style: dict[str, Any] = {"color": "#bbb", "lw": 1}
        if is_best or is_current:
            style = {"color": "#2a7" if is_best else "#236", "lw": 2, "label": _label(trial["tuning"], is_best=is_best)}
        axes.plot([p99_ms for p99_ms, _ in points], [rate for _, rate in points], marker="o", ms=3, **style)
    axes.axvline(report["p99_limit_ms"], color="#c33", lw=1, label="limit")
    axes.set_xlabel("p99, ms")
    axes.set_ylabel("images/s")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(color="#eee")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=_DOTS_PER_INCH, metadata={"Software": None})


def _label(tuning: dict[str, Any], *, is_best: bool) -> str:
    values = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in tuning.items() if value not in (None, [], ())
    )
    return f"{'best' if is_best else 'now'}: {values}"
