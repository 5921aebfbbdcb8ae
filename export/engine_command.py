"""The command `eagleeye engine`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from export.engine import EngineOptions, bring, ensure, models
from export.engine_prune import prune
from export.errors import ExportError, PlanError
from export.plan_options import engines_option, plan_options, take_plan_options

if TYPE_CHECKING:
    from export.engine import Ensured
    from export.engine_prune import CachedPlan

NO_PLAN: Final = 3
"""Exit code where a plan was required, and ONNX serves."""

_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_WORDS: Final = {
    "unchanged": "serves its plan, as before",
    "cached": "serves a cached plan",
    "built": "serves a new plan",
    "onnx": "serves ONNX",
}


@click.group(context_settings={"max_content_width": 120})
def engine() -> None:
    """Build TensorRT plans, serve them where they fit, and remove old ones."""


@engine.command(name="ensure", context_settings={"show_default": True, "max_content_width": 120})
@click.option(
    "--repository",
    type=_FOLDER,
    default=Path("model_repository"),
    envvar="EAGLEEYE_MODEL_REPOSITORY",
    show_envvar=True,
    help="Triton's model repository, for one kind of GPU alone.",
)
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Repository that all kinds of GPUs share: its loaded versions are copied to --repository first.",
)
@click.option("--model", "names", multiple=True, help="Name of a model; may be repeated.  [default: all]")
@click.option("--no-build", is_flag=True, help="Take plans that are there, and build none: for init containers.")
@click.option("--require-plan", is_flag=True, help="Exit with 3 where ONNX serves: for Jobs, which then try again.")
@click.option(
    "--wait-seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Longest wait for another machine that builds the same plan.",
)
@click.option("--keep", type=click.IntRange(min=1), help="Then prune --engines, see `eagleeye engine prune`.")
@plan_options
def ensure_command(**values: Any) -> None:
    """See to it that each model is served by a TensorRT plan that fits this machine, or else by its ONNX file.

    A plan is built if and only if the cache holds none for the model's graph, the TensorRT version, the kind of GPU,
    the batch sizes and the build options. While another machine builds it, or where none can be built, ONNX serves, so
    that nothing waits and no wrong plan is ever loaded. Run it as often as you like, on many machines at once.

    Exit codes: 0 every model can be served, by a plan or by ONNX; 1 the repository can't be read or written; 2 wrong
    options; 3 with --require-plan, at least one model is served by ONNX.
    """
    repository, source, names = values["repository"], values["source"], values["names"]
    try:
        engines, plan = take_plan_options(values)
        options = EngineOptions(engines, plan, not values["no_build"], values["wait_seconds"])
        chosen = names or models(source or repository)
        if not chosen:
            raise click.ClickException(f"{source or repository} holds no model with an ONNX file")
        results = [_one(name, source, repository, options) for name in chosen]
        if values["keep"] is not None:
            _prune_after(engines, values["keep"])
    except ExportError as error:
        raise click.ClickException(str(error)) from error
    if values["require_plan"] and not all(result.has_plan for result in results):
        sys.exit(NO_PLAN)


def _one(name: str, source: Path | None, repository: Path, options: EngineOptions) -> Ensured:
    if source is not None:
        bring(source, repository, name)
    result = ensure(repository, name, options, lambda line: click.echo(f"{name}: {line}", err=True))
    because = f": {result.reason}" if result.reason else ""
    click.echo(f"{name} version {result.model.version} {_WORDS[result.outcome]}{because}")
    return result


@engine.command(name="prune", context_settings={"show_default": True, "max_content_width": 120})
@engines_option
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=3,
    help="How many plans of each model stay for each kind of GPU, those that were built or taken last.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing, and show what would be.")
def prune_command(*, engines: Path, keep: int, dry_run: bool) -> None:
    """Remove plans that others have replaced, and what is left of builds that died.

    What serves has a copy of its own, and goes on. A plan that is missing later is built again. `engine ensure` can't
    note that it takes a plan where the folder is read-only, as in the init containers of pods: what counts there is the
    Job that builds.
    """
    try:
        removed = prune(engines, keep, dry_run=dry_run)
    except ExportError as error:
        raise click.ClickException(str(error)) from error
    _say_removed("would remove" if dry_run else "removed", removed)
    if not removed:
        click.echo(f"{engines}: nothing to remove")


def _prune_after(engines: Path, keep: int) -> None:
    """Prune, unless the cache can't be written: that is no reason not to serve."""
    try:
        _say_removed("removed", prune(engines, keep))
    except PlanError as error:
        click.echo(str(error), err=True)


def _say_removed(word: str, plans: tuple[CachedPlan, ...]) -> None:
    for plan in plans:
        machine = f"{plan.machine.gpu_name}, TensorRT {plan.machine.tensorrt_version}"
        click.echo(f"{word} a plan of {plan.model} for {machine} ({plan.size_bytes / 2**20:.1f} MiB)")
