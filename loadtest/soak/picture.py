"""A long run as a picture: memory and images per second over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

from loadtest.bench import picture
from loadtest.soak.judgement import MOST_MB

if TYPE_CHECKING:
    from pathlib import Path

_INCHES: Final = (9.0, 5.5)
_COLOURS: Final = {"gateway_mb": "#2a7", "triton_mb": "#888", "images_per_second": "#28c"}


def draw(results: dict[str, Any], file: Path) -> None:
    """Write it; its format is that of the file's suffix."""
    figure = Figure(_INCHES, layout="constrained")
    figure.suptitle(picture.origin(results), fontsize=9)
    memory, rate = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for key, name in (("gateway_mb", "gateway"), ("triton_mb", "Triton")):
        _line(memory, results["slices"], key, name)
    memory.axhline(MOST_MB, color="#c33", lw=1, label="allowed for the gateway")
    memory.set_ylabel("resident memory, MB", fontsize=8)
    memory.legend(fontsize=8, frameon=False)
    _line(rate, results["slices"], "images_per_second", "images/s")
    rate.set_ylabel("images/s", fontsize=8)
    rate.set_xlabel("minutes", fontsize=8)
    for axes in (memory, rate):
        axes.set_ylim(bottom=0)
        axes.grid(color="#eee")
    picture.save(figure, file)


def _line(axes: Any, slices: list[dict[str, Any]], key: str, name: str) -> None:
    minutes, values = ([each[column] for each in slices] for column in ("minute", key))
    axes.plot(minutes, values, marker="o", ms=3, color=_COLOURS[key], label=name)
