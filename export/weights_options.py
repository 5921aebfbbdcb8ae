"""Options that name a checkpoint: a file of one's own, or an official one by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from export.official import CHECKPOINTS, COCO_LABELS, KINDS
from export.weights import WeightsSettings, official_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_DISTILLED: Final = ", ".join(name for name, kinds in CHECKPOINTS.items() if "official-distilled" in kinds)
_DEFAULT: Final = WeightsSettings()

OPTIONS: Final = (
    click.option("--checkpoint", type=_FILE, help="Official PyTorch checkpoint. No code in it is ever run."),
    click.option(
        "--weights",
        type=click.Choice(KINDS),
        help="Download the authors' checkpoint for COCO instead of naming one with --checkpoint. Distilled ones, which "
        f"score higher, exist of {_DISTILLED}.",
    ),
    click.option(
        "--weights-mirror",
        metavar="URL|FOLDER",
        envvar="EAGLEEYE_WEIGHTS_MIRROR",
        show_envvar=True,
        help="Where the files of --weights lie under their own names.  [default: the authors' addresses]",
    ),
    click.option(
        "--weights-folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=_DEFAULT.directory,
        envvar="EAGLEEYE_WEIGHTS_FOLDER",
        show_envvar=True,
        help="Where downloads stay.",
    ),
    click.option(
        "--weights-lock",
        type=click.Path(dir_okay=False, path_type=Path),
        default=_DEFAULT.lock_file,
        envvar="EAGLEEYE_WEIGHTS_LOCK",
        show_envvar=True,
        help="File of sizes and SHA-256 digests: written on the first use of a checkpoint, and binding from then on.",
    ),
    click.option(
        "--labels",
        type=_FILE,
        help="Class names, one per line, in the checkpoint's order.  [default: COCO's, with --weights]",
    ),
    click.option(
        "--name",
        help="Name in Triton: letters, digits, '_', '-', '.'.  [default: like damoyolo_t_coco, with --weights]",
    ),
)


def weights_options(command: Command) -> Command:
    """Give a click command the options that name a checkpoint, its labels and the model."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_checkpoint(options: dict[str, Any], progress: Callable[[str], None]) -> None:
    """Replace the values of `weights_options` with a `checkpoint`, its `labels` and a `name`; downloads if need be.

    Raises:
        click.UsageError: both kinds of checkpoints are named or none, or labels or name are missing.
        ExportError: the official checkpoint can't be had.
    """
    weights, mirror = options.pop("weights"), options.pop("weights_mirror")
    settings = WeightsSettings(options.pop("weights_folder"), options.pop("weights_lock"), mirror)
    if (weights is None) == (options["checkpoint"] is None):
        raise click.UsageError("name either a file with --checkpoint, or --weights official")
    if weights is None:
        for option in ("labels", "name"):
            if options[option] is None:
                raise click.UsageError(f"Missing option '--{option}', which a --checkpoint needs")
        return
    options["checkpoint"] = official_checkpoint(options["variant"], weights, settings, progress)
    options["labels"] = options["labels"] or COCO_LABELS
    options["name"] = options["name"] or f"damoyolo_{options['variant'].lower()}_coco"
