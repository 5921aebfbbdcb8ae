"""The command `eagleeye export`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from export.contract import MAX_TOP_K
from export.engine import EngineOptions, ensure
from export.errors import ExportError, PlanError
from export.pipeline import ExportOptions, export_model
from export.plan_options import plan_options, take_plan_options
from export.precision_options import precision_options, take_gate
from export.tensorrt import this_machine
from export.variants import VARIANTS
from export.weights_options import take_checkpoint, weights_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.pipeline import ExportSummary
    from export.repository import PublishedModel

DEFAULT: Final = {field.name: field.default for field in dataclasses.fields(ExportOptions)}
SIZES: Final = ", ".join(f"{variant.name} {variant.input_size}" for variant in VARIANTS.values())


@click.command(context_settings={"show_default": True})
@click.option("--variant", required=True, type=click.Choice(list(VARIANTS)), help="Published structure of the network.")
@weights_options
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("model_repository"),
    envvar="EAGLEEYE_MODEL_REPOSITORY",
    show_envvar=True,
    help="Triton's model repository. Created if need be.",
)
@click.option(
    "--size",
    type=click.IntRange(min=32),
    metavar="PIXELS",
    help=f"Side of the square input, a multiple of 32.  [default: the variant's own: {SIZES}]",
)
@click.option(
    "--top-k",
    type=click.IntRange(1, MAX_TOP_K),
    default=DEFAULT["top_k"],
    help="Candidates that leave Triton per image, before NMS; 24 bytes each.",
)
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=1),
    default=DEFAULT["max_batch_size"],
    help="Most images that Triton joins into one batch.",
)
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=DEFAULT["instances"],
    help="Copies of the model that compute at the same time, per GPU or on the CPU.",
)
@click.option(
    "--queue-delay-microseconds",
    type=click.IntRange(min=0),
    default=DEFAULT["queue_delay_microseconds"],
    help="Longest wait of a request for others to share its batch.",
)
@click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    default=DEFAULT["score_threshold"],
    help="What the gateway reports scores more than this, where a caller names no threshold.",
)
@click.option(
    "--map50-95",
    type=click.FloatRange(0, 1),
    help="Measured COCO mAP, to be shown with the model.",
)
@precision_options
@click.option(
    "--tensorrt-accelerator",
    metavar="FOLDER",
    help="Let ONNX Runtime hand the graph to TensorRT on GPUs, with engines cached in this folder as Triton sees it.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    help="What Triton serves: the ONNX file, or a TensorRT plan for the GPU of this machine, built from it.",
)
@plan_options
def export(**options: Any) -> None:
    """Turn a DAMO-YOLO checkpoint into a model that Triton serves.

    The graph is compared with the network before it is published; what fails the comparison is not. A name that is
    already in the repository gets a new version, or nothing where nothing has changed.
    """
    started = time.monotonic()

    def show(step: str) -> None:
        click.echo(f"{time.monotonic() - started:5.1f} s  {step}", err=True)

    try:
        engine_options = EngineOptions(*take_plan_options(options))
        if is_plan_wanted := options.pop("file_format") == "tensorrt":
            this_machine()  # says at once what is missing, and not after the export
            engine_options.plan.profile(options["max_batch_size"])
        take_gate(options)
        take_checkpoint(options, show)
        summary = export_model(ExportOptions(**options), show)
        for line in describe(summary):
            click.echo(line)
        if is_plan_wanted:
            require_loaded(summary.model)
            click.echo(add_plan(options["repository"], options["name"], engine_options, show))
    except ExportError as error:
        raise click.ClickException(str(error)) from error


def require_loaded(model: PublishedModel) -> None:
    """Require that Triton loads the newest version, as a plan is that of what is loaded.

    Raises:
        PlanError: it does not.
    """
    if model.version not in model.loaded:
        name = model.directory.name
        raise PlanError(
            f"version {model.version} of {name} is published, but not loaded, and a plan is that of one that is: run "
            f"`eagleeye model load {name} {model.version} --only`, and then `eagleeye engine ensure --model {name}`"
        )


def add_plan(repository: Path, name: str, options: EngineOptions, progress: Callable[[str], None]) -> str:
    """Let a plan serve an exported model; a line about it.

    Raises:
        PlanError: there is none; the ONNX file serves.
    """
    ensured = ensure(repository, name, options, progress)
    if not ensured.has_plan:
        raise PlanError(f"{name} serves its ONNX file, as there is no plan: {ensured.reason}")
    parameter = ensured.model.parameter
    return (
        f"plan              {ensured.outcome}: {parameter('gpu_name')}, TensorRT {parameter('tensorrt_version')}, "
        f"batches {parameter('plan_batch_sizes')}"
    )


def describe(summary: ExportSummary) -> list[str]:
    """The lines that tell a person what an export did."""
    where = f"version {summary.model.version} in {summary.model.directory}"
    if summary.built is None:
        did = {"unchanged": "unchanged", "reconfigured": "graph unchanged, new config:"}[summary.outcome]
        return [f"{did} {where} ({summary.seconds:.1f} s)"]
    built, mebibytes = summary.built, len(summary.built.onnx) / 2**20
    return [
        *verdict_lines(summary),
        f"{'published' if summary.outcome == 'published' else 'published before':16}  {where}",
        f"parameters        {built.parameters / 1e6:.3f} million",
        f"computation       {built.gflops:.3f} GFLOPs per image",
        f"file              {mebibytes:.2f} MiB",
        f"score difference  {built.differences.score:.1e} at most, torch against ONNX Runtime",
        f"box difference    {built.differences.box_pixels:.1e} pixels at most",
        f"time              {summary.seconds:.1f} s",
        *next_step(summary.model),
    ]


def next_step(model: PublishedModel) -> list[str]:
    """How a version that no Triton loads comes to be served; nothing for one that is loaded."""
    if model.version in model.loaded:
        return []
    return [f"not loaded yet    eagleeye model load {model.directory.name} {model.version} --triton-url HOST:8001"]


def verdict_lines(summary: ExportSummary) -> list[str]:
    """What the gate measured, class by class; nothing without a gate."""
    if summary.verdict is None:
        return []
    from export.gate_report import describe as describe_verdict  # noqa: PLC0415

    return [*describe_verdict(summary.verdict, summary.model.parameter("precision")), ""]


if __name__ == "__main__":
    export()
