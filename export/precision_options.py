"""Options of `eagleeye export` that say in which precision a model computes, and what accuracy it has to keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from export.errors import OptionError
from export.precision import FLOAT_LAYERS_RULES, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What the accuracy gate measures by, and when it closes."""

    images: Path
    """Folder of the images that the COCO file names."""
    annotations: Path
    """COCO file with the ground truth; its categories are named as the model's labels are."""
    max_map_drop: float = 0.005
    """How much mAP (IoU 0.5 to 0.95) the candidate may have less than FP32."""
    report: Path | None = None
    """JSON file for all figures; a picture of the curves is put beside it, with the suffix `.png`."""
    triton_env: Path = Path(".venv-triton")
    """Virtual environment that holds nvidia-pytriton."""


_FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

OPTIONS: Final = (
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="fp32",
        help="What the model computes in. INT8 is for TensorRT; on processors it is slower than FP32.",
    ),
    click.option(
        "--calibration",
        type=_FOLDER,
        help="Folder of images like those that will be served, for INT8: some hundred, without annotations.",
    ),
    click.option(
        "--float-layers",
        type=click.Choice(FLOAT_LAYERS_RULES),
        help="Which layers of an INT8 model stay in floating point: those that the official study names (for T, S, M), "
        "those that a search finds for this model, or none.  [default: published where there are, else search]",
    ),
    click.option(
        "--gate",
        nargs=2,
        type=(_FOLDER, _FILE),
        metavar="IMAGES ANNOTATIONS",
        help="Measure COCO mAP on this data set before publication, through a Triton and a gateway of the gate's own. "
        "Calibration images in it are left out.",
    ),
    click.option(
        "--max-map-drop",
        type=click.FloatRange(-1, 1),
        default=GateOptions.__dataclass_fields__["max_map_drop"].default,
        help="With --gate: publish only what has at most this much less mAP than FP32.",
    ),
    click.option(
        "--gate-report",
        type=click.Path(dir_okay=False, path_type=Path),
        help="With --gate: JSON file for all figures; a picture of the precision-recall curves comes beside it.",
    ),
    click.option(
        "--triton-env",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(".venv-triton"),
        envvar="EAGLEEYE_TRITON_ENV",
        show_envvar=True,
        help="With --gate: virtual environment that holds nvidia-pytriton.",
    ),
)

_GATE_OPTIONS: Final = {"max_map_drop": "max_map_drop", "report": "gate_report", "triton_env": "triton_env"}
"""Fields of `GateOptions` and the options that fill them."""


def precision_options(command: Command) -> Command:
    """Give a command the options; `take_gate` must have its part before `ExportOptions` is made."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_gate(options: dict[str, Any]) -> None:
    """Put `gate` in the place of all that belongs to it.

    Raises:
        OptionError: a report is wanted of a gate that is not.
    """
    data = options.pop("gate")
    rest = {name: options.pop(option) for name, option in _GATE_OPTIONS.items()}
    if data is None and rest["report"] is not None:
        raise OptionError("--gate-report needs --gate, which says what to measure on")
    options["gate"] = None if data is None else GateOptions(images=data[0], annotations=data[1], **rest)
