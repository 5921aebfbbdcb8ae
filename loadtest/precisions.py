"""Size and pace of one model's precisions on this machine, in one run: `python -m loadtest.precisions MODEL.onnx ...`.

Each file runs alone in ONNX Runtime on one thread, one image at a time, as Triton's CPU backend here does it. Rounds
alternate between the files, so that whatever else the machine does meets all of them; the median counts. It says
nothing about GPUs.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGES: Final = 20
"""Images in each round of each file."""


@click.command(context_settings={"show_default": True})
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=9, type=click.IntRange(1), help="Rounds; the median of each file's counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def precisions(files: Sequence[Path], rounds: int, *, as_json: bool) -> None:
    """Compare served graphs; the first is what the others are held against, FP32 as a rule."""
    sessions = [_session(file) for file in files]
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *_size(sessions[0])), dtype=np.uint8)
    seconds = [[_seconds(session, images) for session in sessions] for _ in range(rounds + 1)][1:]  # the first warms up
    paces = [IMAGES / statistics.median(times) for times in zip(*seconds, strict=True)]
    rows = [
        {
            "file": str(file),
            "mebibytes": file.stat().st_size / 2**20,
            "images_per_second": pace,
            "size_ratio": file.stat().st_size / files[0].stat().st_size,
            "pace_ratio": pace / paces[0],
        }
        for file, pace in zip(files, paces, strict=True)
    ]
    click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(map(_line, rows)))


def _line(row: dict[str, Any]) -> str:
    size, pace = f"{row['mebibytes']:7.2f} MiB ({row['size_ratio']:.2f})", f"{row['images_per_second']:6.1f} images/s"
    return f"{size}  {pace} ({row['pace_ratio']:.2f})  {row['file']}"


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _size(session: onnxruntime.InferenceSession) -> tuple[int, ...]:
    (tensor,) = session.get_inputs()
    return tuple(tensor.shape[1:])


def _seconds(session: onnxruntime.InferenceSession, images: np.ndarray[Any, Any]) -> float:
    started = time.perf_counter()
    for image in images:
        session.run(None, {"images": image[None]})
    return time.perf_counter() - started


if __name__ == "__main__":
    precisions()
