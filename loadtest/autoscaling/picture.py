"""A timeline as a picture: load, replicas and waiting, one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.autoscaling.simulation import Loss, Timeline

_INCHES: Final = (9.0, 6.4)
_DOTS_PER_INCH: Final = 80
_WAITS_MS: Final = (0, 10, 100, 1000, 10000)
_HOUR: Final = 3600.0
_MINUTE: Final = 60.0


def draw(timeline: Timeline, title: str, capacity_per_second: float, losses: tuple[Loss, ...], file: Path) -> None:
    """Write a PNG.

    Args:
        timeline: what happened.
        title: what it is about.
        capacity_per_second: images per second of one pod.
        losses: when triggers found no series; these times are shaded.
        file: where to.
    """
    rows = timeline.rows
    unit, seconds = next(
        (name, length) for name, length in (("hours", _HOUR), ("minutes", _MINUTE), ("seconds", 1.0))
        if rows[-1].seconds > 2 * length
    )  # fmt: skip
    at = [row.seconds / seconds for row in rows]
    figure = Figure(_INCHES, layout="constrained")
    load, replicas, waiting = figure.subplots(3, sharex=True)
    figure.suptitle(title, fontsize=11)

    load.plot(at, [row.offered for row in rows], color="#888", lw=1, label="offered")
    load.plot(at, [row.answered for row in rows], color="#2a7", lw=1, label="answered in time")
    load.plot(at, [row.refused for row in rows], color="#c33", lw=1, label="refused")
    load.set_ylabel("images/s")

    replicas.step(at, [row.wanted for row in rows], where="post", color="#236", lw=1.5, label="asked for")
    replicas.step(at, [row.ready for row in rows], where="post", color="#2a7", lw=1.5, label="ready")
    replicas.plot(
        at, [row.offered / capacity_per_second for row in rows], color="#888", lw=0.8, label="load / capacity"
    )
    replicas.set_ylabel("pods")

    busy = waiting.twinx()
    busy.plot(at, [100 * row.busy for row in rows], color="#69c", lw=0.8)
    busy.set_ylim(0, 105)
    busy.set_ylabel("GPU busy, %", color="#69c")
    waiting.plot(at, [row.wait_ms for row in rows], color="#c60", lw=1.2, label="mean wait")
    waiting.set_yscale("symlog", linthresh=_WAITS_MS[1])
    waiting.set_ylim(0, 2 * _WAITS_MS[-1])
    waiting.set_yticks(_WAITS_MS, [f"{ms:,}" for ms in _WAITS_MS])
    waiting.set_ylabel("wait, ms")
    waiting.set_xlabel(unit)

    for axes in (load, replicas, waiting):
        _finish(axes, losses, seconds)
    figure.savefig(file, dpi=_DOTS_PER_INCH, metadata={"Software": None})


def _finish(axes: Any, losses: tuple[Loss, ...], seconds: float) -> None:
    for loss in losses:
        lost = f"{', '.join(sorted(loss.triggers)) or 'metrics'} lost"
        axes.axvspan(loss.begin / seconds, loss.end / seconds, color="#fd8", alpha=0.4, lw=0, label=lost)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(color="#eee")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4, fontsize=8, frameon=False)
