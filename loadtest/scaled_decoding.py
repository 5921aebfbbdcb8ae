"""What `--scaled-decoding` saves, and what it does to accuracy.

With `make up` in another terminal:

    python -m loadtest.scaled_decoding --images FOLDER --annotations COCO.json

Every picture is enlarged to each size, as if a larger camera had taken it, and sent as JPEG through two gateways in
front of the same Triton: one decodes it whole, the other in part. An enlarged picture has no finer detail than it had,
so this shows what the scaling itself does to boxes and scores, with no gain or loss from what only a real picture of
that size would show.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import click
import cv2
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from eagleeye import Client
from export.evaluate import coco_metrics, detect_all, read_dataset
from loadtest import machine
from loadtest.chaos.processes import Gateway

if TYPE_CHECKING:
    from export.evaluate import AveragePrecision, Dataset

_JPEG_QUALITY: Final = 90
_OPTIONS: Final = {"score_threshold": 0.05, "iou_threshold": 0.7}  # of the official evaluation
_PATH: Final = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True)
class Way:
    """One way to decode pictures of one size: the mAP, and the time that a picture takes in its thread, in ms."""

    average_precision: AveragePrecision
    decode_ms: float


def enlarged(dataset: Dataset, size_wh: tuple[int, int], folder: Path) -> tuple[Path, Path]:
    """The pictures as JPEGs of `size_wh` in a folder, and a COCO file with their boxes at that size."""
    content = json.loads(json.dumps(dataset.annotations))
    scales = {}
    for entry, picture in zip(content["images"], dataset.pictures, strict=True):
        pixels = cv2.imread(str(picture.path))
        assert pixels is not None  # noqa: S101 (the data set was read, so the file is there)
        scales[entry["id"]] = np.array(size_wh) / pixels.shape[1::-1]
        entry |= {"width": size_wh[0], "height": size_wh[1], "file_name": f"{entry['id']}.jpg"}
        large = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / entry["file_name"]), large, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    for box in content["annotations"]:
        scale = scales[box["image_id"]]
        box["bbox"] = (np.array(box["bbox"]) * np.tile(scale, 2)).tolist()
        box["area"] = box["bbox"][2] * box["bbox"][3]
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(content))
    return annotations, folder


async def measure(gateway: Gateway, annotations: Path, images: Path) -> Way:
    """The mAP of all pictures through one gateway, and its mean time to decode one of them."""
    seconds, count = await _decoding(gateway.url)
    dataset = read_dataset(annotations, images)
    run = await asyncio.to_thread(_detect_all, gateway.url, dataset)
    later_seconds, later_count = await _decoding(gateway.url)
    mean = coco_metrics(dataset.annotations, run).mean
    return Way(mean, 1e3 * (later_seconds - seconds) / (later_count - count))


def _detect_all(url: str, dataset: Dataset) -> list[dict[str, Any]]:
    with Client(url, concurrency=1) as client:
        return detect_all(dataset, client, _OPTIONS).results


async def _decoding(url: str) -> tuple[float, float]:
    """Seconds spent on decoding so far, and images decoded."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == "eagleeye_stage_seconds" and sample.labels["stage"] == "decode"
    }
    return found.get("eagleeye_stage_seconds_sum", 0.0), found.get("eagleeye_stage_seconds_count", 0.0)


async def compare(triton_url: str, dataset: Dataset, sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Both ways for every size; prints each as soon as it is there."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="eagleeye-decoding-") as name:
        folder = Path(name)
        whole = Gateway("whole", folder, triton_url=triton_url)
        scaled = Gateway("scaled", folder, triton_url=triton_url, scaled_decoding=True)
        try:
            for gateway in (whole, scaled):
                gateway.start()
                await gateway.until_ready()
            for size in sizes:
                pictures = folder / f"{size[0]}x{size[1]}"
                pictures.mkdir()
                annotations, images = enlarged(dataset, size, pictures)
                ways = {each.name: await measure(each, annotations, images) for each in (whole, scaled)}
                rows.append({"size": list(size), **{name: asdict(way) for name, way in ways.items()}})
                click.echo(_line(size, ways["whole"], ways["scaled"]))
        finally:
            for gateway in (whole, scaled):
                await gateway.stop()
    return rows


def _line(size: tuple[int, int], whole: Way, scaled: Way) -> str:
    precision, other = whole.average_precision.ap50_95, scaled.average_precision.ap50_95
    return (
        f"{size[0]:5} x {size[1]:<5} mAP {precision:.4f} whole, {other:.4f} scaled ({other - precision:+.4f})   "
        f"decoding {whole.decode_ms:5.1f} ms, {scaled.decode_ms:5.1f} ms ({scaled.decode_ms / whole.decode_ms:.2f})"
    )


def _size(_: object, __: object, values: tuple[str, ...]) -> list[tuple[int, int]]:
    try:
        return [(int(width), int(height)) for width, height in (value.split("x") for value in values)]
    except ValueError:
        raise click.BadParameter("a size is WIDTHxHEIGHT in pixels, such as 1920x1080") from None


@click.command(context_settings={"show_default": True})
@click.option("--images", required=True, type=_PATH, help="Folder of the images that the COCO file names.")
@click.option("--annotations", required=True, type=_PATH, help="COCO file with the ground truth.")
@click.option("--triton-url", default="127.0.0.1:8001", help="Triton's gRPC port, as `eagleeye gateway` takes it.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    default=("1280x720", "1280x1280", "1920x1080", "2560x1440", "3840x2160"),
    callback=_size,
    help="Size of the pictures; may be given several times.",
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="File to write the figures to.")
def main(images: Path, annotations: Path, triton_url: str, sizes: list[tuple[int, int]], file: Path | None) -> None:
    """Compare whole and scaled decoding of JPEGs: accuracy through a live gateway, and time."""
    rows = asyncio.run(compare(triton_url, read_dataset(annotations, images), sizes))
    if file:
        file.write_text(json.dumps({"machine": machine.describe(), "sizes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m loadtest.scaled_decoding")
