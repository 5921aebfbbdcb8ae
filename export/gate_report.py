"""What the accuracy gate tells: a table for people, JSON for programs, and a picture of where precision was lost."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from eagleeye.files import write_atomically
from export.errors import GateError

if TYPE_CHECKING:
    from pathlib import Path

    from export.evaluate import AveragePrecision, Dataset
    from export.gate import Verdict

PICTURED_CLASSES: Final = 24
"""Panels in the picture, those of the classes that lose most."""
_COLUMNS: Final = 4
_RECALLS: Final = [number / 100 for number in range(101)]


def describe(verdict: Verdict, precision: str) -> list[str]:
    """The verdict in lines for a person, the classes that lose most first."""
    losses = verdict.losses()
    width = max(map(len, ("class", "all", *losses)))
    lines = [f"{'class':{width}}  {'fp32':>7}  {precision:>7}  {'loss':>7}   AP50-95"]
    for name, loss in losses.items():
        fp32, candidate = verdict.fp32.per_class[name].ap50_95, verdict.candidate.per_class[name].ap50_95
        lines.append(f"{name:{width}}  {fp32:7.4f}  {candidate:7.4f}  {loss:7.4f}")
    fp32, candidate = verdict.fp32.mean.ap50_95, verdict.candidate.mean.ap50_95
    return [*lines, f"{'all':{width}}  {fp32:7.4f}  {candidate:7.4f}  {verdict.map_drop:7.4f}"]


def refusal(verdict: Verdict, precision: str) -> str:
    """Why a candidate is not published, in one sentence."""
    worst = ", ".join(f"{name} ({loss:.4f})" for name, loss in list(verdict.losses().items())[:3])
    return (
        f"not published: {precision} has {verdict.candidate.mean.ap50_95:.4f} mAP where fp32 has "
        f"{verdict.fp32.mean.ap50_95:.4f}, which is {verdict.map_drop:.4f} less, and {verdict.max_map_drop:g} is "
        f"allowed; the classes that lose most are {worst}"
    )


def write_report(path: Path, verdict: Verdict, precision: str, dataset: Dataset) -> None:
    """Write the JSON file, and the picture beside it.

    Raises:
        GateError: one cannot be written.
    """
    picture = path.with_suffix(".png")
    content = {"picture": picture.name, **report(verdict, precision, dataset)}
    try:
        write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        write_atomically(picture, draw(verdict, precision))
    except OSError as error:
        raise GateError(f"cannot write {error.filename}: {error.strerror}") from error


def report(verdict: Verdict, precision: str, dataset: Dataset) -> dict[str, Any]:
    """All figures; an average precision without ground truth is null."""
    return {
        "passed": verdict.passed,
        "precision": precision,
        "images": len(dataset.pictures),
        "ground_truth_boxes": len(dataset.annotations["annotations"]),
        "max_map_drop": verdict.max_map_drop,
        "map_drop": _number(verdict.map_drop),
        "fp32": _figures(verdict.fp32.mean),
        "candidate": _figures(verdict.candidate.mean),
        "per_class": {
            name: {
                "loss": loss,
                "fp32": {**_figures(verdict.fp32.per_class[name]), "precision_at_recall": verdict.fp32.curves[name]},
                "candidate": {
                    **_figures(verdict.candidate.per_class[name]),
                    "precision_at_recall": verdict.candidate.curves[name],
                },
            }
            for name, loss in verdict.losses().items()
        },
    }


def _figures(figures: AveragePrecision) -> dict[str, float | None]:
    return {name: _number(value) for name, value in asdict(figures).items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def draw(verdict: Verdict, precision: str) -> bytes:
    """A PNG: for each class the precision over recall (IoU 0.5) of both, and their AP50-95, greatest loss first."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes a second; without pyplot there is no global state)

    losses = list(verdict.losses().items())[:PICTURED_CLASSES]
    columns = min(_COLUMNS, len(losses))
    rows = math.ceil(len(losses) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.7 * rows + 0.7), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel in panels[len(losses) :]:
        panel.set_visible(False)
    for panel, (name, loss) in zip(panels, losses, strict=False):
        fp32, candidate = verdict.fp32.per_class[name].ap50_95, verdict.candidate.per_class[name].ap50_95
        panel.plot(_RECALLS, verdict.fp32.curves[name], color="0.6", linewidth=3, label="fp32")
        panel.plot(_RECALLS, verdict.candidate.curves[name], color="tab:red", linewidth=1.2, label=precision)
        panel.set_title(f"{name}\nAP {fp32:.3f} \N{RIGHTWARDS ARROW} {candidate:.3f} (loss {loss:+.3f})", fontsize=9)
        panel.set(xlim=(0, 1), ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    for panel in panels[max(0, len(losses) - columns) : len(losses)]:
        panel.tick_params(labelbottom=True)  # what is below it is empty, or the edge
    panels[0].legend(loc="lower left", fontsize=8)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision at IoU 0.5", fontsize=9)
    word = "passes" if verdict.passed else "fails"
    figure.suptitle(
        f"{precision} {word}: mAP {verdict.fp32.mean.ap50_95:.4f} \N{RIGHTWARDS ARROW} "
        f"{verdict.candidate.mean.ap50_95:.4f}, allowed loss {verdict.max_map_drop:g}",
        fontsize=11,
    )
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
