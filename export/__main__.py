"""The command `eagleeye export`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from export.contract import MAX_TOP_K
from export.errors import ExportError
from export.pipeline import ExportOptions, export_model
from export.variants import VARIANTS

if TYPE_CHECKING:
    from export.pipeline import ExportSummary

DEFAULT: Final = {field.name: field.default for field in dataclasses.fields(ExportOptions)}
FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
SIZES: Final = ", ".join(f"{variant.name} {variant.input_size}" for variant in VARIANTS.values())


@click.command(context_settings={"show_default": True})
@click.option("--variant", required=True, type=click.Choice(list(VARIANTS)), help="Published structure of the network.")
@click.option("--checkpoint", required=True, type=FILE, help="Official PyTorch checkpoint. No code in it is ever run.")
@click.option("--labels", required=True, type=FILE, help="Class names, one per line, in the checkpoint's order.")
@click.option("--name", required=True, help="Name of the model in Triton: letters, digits, '_', '-', '.'.")
@click.option(
    "--repository",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
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
def export(**options: Any) -> None:
    """Turn a DAMO-YOLO checkpoint into a model that Triton serves.

    The graph is compared with the network before it is published; what fails the comparison is not. A name that is
    already in the repository gets a new version, or nothing where nothing has changed.
    """
    started = time.monotonic()

    def show(step: str) -> None:
        click.echo(f"{time.monotonic() - started:5.1f} s  {step}", err=True)

    try:
        summary = export_model(ExportOptions(**options), show)
    except ExportError as error:
        raise click.ClickException(str(error)) from error
    for line in describe(summary):
        click.echo(line)


def describe(summary: ExportSummary) -> list[str]:
    """The lines that tell a person what an export did."""
    where = f"version {summary.model.version} in {summary.model.directory}"
    if summary.built is None:
        did = {"unchanged": "unchanged", "reconfigured": "graph unchanged, new config:"}[summary.outcome]
        return [f"{did} {where} ({summary.seconds:.1f} s)"]
    built, mebibytes = summary.built, len(summary.built.onnx) / 2**20
    return [
        f"published         {where}",
        f"parameters        {built.parameters / 1e6:.3f} million",
        f"computation       {built.gflops:.3f} GFLOPs per image",
        f"file              {mebibytes:.2f} MiB",
        f"score difference  {built.differences.score:.1e} at most, torch against ONNX Runtime",
        f"box difference    {built.differences.box_pixels:.1e} pixels at most",
        f"time              {summary.seconds:.1f} s",
    ]


if __name__ == "__main__":
    export()
