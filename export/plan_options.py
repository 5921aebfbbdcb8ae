"""Options of the commands around plans: `eagleeye engine ensure` and `prune`, `eagleeye export --format tensorrt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from export.engine import EngineOptions
from export.tensorrt import PlanSettings

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")

_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_DEFAULT: Final = PlanSettings()

engines_option: Final = click.option(
    "--engines",
    type=_FOLDER,
    default=EngineOptions().engines,
    envvar="EAGLEEYE_ENGINES",
    show_envvar=True,
    help="Folder of built TensorRT plans, which machines may share. Created if need be.",
)

OPTIONS: Final = (
    engines_option,
    click.option(
        "--best-batch",
        type=click.IntRange(min=1),
        help="Batch size that a plan is tuned for.  [default: the model's largest]",
    ),
    click.option(
        "--workspace-mebibytes",
        type=click.IntRange(min=1),
        default=_DEFAULT.workspace_mebibytes,
        help="Most GPU memory that a layer of a plan may use for intermediate results.",
    ),
    click.option(
        "--optimization-level",
        type=click.IntRange(0, 5),
        default=_DEFAULT.optimization_level,
        help="How long TensorRT searches for the fastest kernels, from 0 (seconds) to 5 (many minutes).",
    ),
)


def plan_options(command: Command) -> Command:
    """Give a click command the options of plans."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_plan_options(options: dict[str, Any]) -> tuple[Path, PlanSettings]:
    """Remove the values of `plan_options` from a command's values, as the cache and the settings."""
    engines: Path = options.pop("engines")
    names = ("best_batch", "workspace_mebibytes", "optimization_level")
    return engines, PlanSettings(**{name: options.pop(name) for name in names})
