"""The command that asks a live gateway about a picture and draws the answer on it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click
import cv2
import numpy as np

from gateway.annotate import draw_detections, encode_image

if TYPE_CHECKING:
    import numpy.typing as npt

    from export.evaluate import Answer, Query

    UInt8Array: TypeAlias = npt.NDArray[np.uint8]


def decode_image(data: bytes) -> UInt8Array | None:
    """The RGB picture (H, W, 3) in a file's bytes, turned upright as its EXIF data say; None if there is none."""
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file
        return None
    return None if decoded is None else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside `path` and renames: a reader meets the old file or the whole new one.

    Raises:
        OSError: `path` cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@click.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Address of the gateway.")
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Picture to write, JPEG or PNG."
)
@click.option("--model", help="Model to ask.  [default: the gateway's]")
@click.option(
    "--score-threshold", default=0.4, show_default=True, type=click.FloatRange(0, 1), help="Lowest score to draw."
)
@click.option(
    "--timeout-seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Longest wait for the answer.",
)
def annotate(
    *, image: Path, url: str, output: Path, model: str | None, score_threshold: float, timeout_seconds: float
) -> None:
    """Sends IMAGE to a live gateway and writes it with the detections drawn on it."""
    from export.evaluate import Query  # noqa: PLC0415 (aiohttp belongs to an extra, and drawing must not need it)

    data = image.read_bytes()
    pixels = decode_image(data)
    if pixels is None:
        raise click.ClickException(f"{image} is no picture")
    answer = asyncio.run(_ask(url, data, Query(model, score_threshold), timeout_seconds))
    if answer.image_wh != pixels.shape[1::-1]:
        raise click.ClickException(
            f"{image} has another size for the gateway: {answer.image_wh}, not {pixels.shape[1::-1]}"
        )
    labels = [detection.label for detection in answer.detections]
    xyxy = np.reshape([detection.xyxy for detection in answer.detections], (-1, 4)).astype(np.float64)
    scores = np.array([detection.score for detection in answer.detections], np.float64)
    try:
        write_atomically(output, encode_image(draw_detections(pixels, xyxy, labels, scores), output.suffix))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{output}: {len(labels)} detections of {answer.model}")


async def _ask(url: str, data: bytes, query: Query, timeout_seconds: float) -> Answer:
    from export.evaluate import check_url, connect  # noqa: PLC0415 (as above)

    check_url(url)
    async with connect(url, timeout_seconds) as gateway:
        return await gateway.detect(data, query)
