"""What serving costs: the whole path through a live gateway and Triton, against the same stages in one process.

    python -m loadtest.overhead --url http://127.0.0.1:8080 --model-repository model_repository

The *limit* runs decode, resize, network, post-processing and JSON in threads of this process, one per processor,
with no server in between. The *served* rate is that of the live endpoint on the same processors, load generator
included.
Both see the same pictures and alternate within one run, so the ratio holds whatever else the machine's mood is.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import click
import onnxruntime
import orjson
import psutil

from eagleeye.boards import DEFAULT_SEED, draw_board
from gateway.annotate import encode_image
from gateway.detections import RawPredictions
from gateway.image import ImageLimits, decode
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import ResizeMode, resize
from loadtest import machine

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMITS: Final = ImageLimits(max_bytes=2**30, max_pixels=2**30)
_THRESHOLDS: Final = Thresholds(score=0.4, iou=0.65)


@dataclass(frozen=True)
class Rate:
    """One measurement: images per second, and CPU time per image of all processes that serve, in ms."""

    images_per_second: float
    cpu_ms_per_image: float


class Limit:
    """The stages in one process: the best that these processors can do with this code."""

    def __init__(self, model_file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model_file, options, providers=["CPUExecutionProvider"])
        _, height, width, _ = self._session.get_inputs()[0].shape
        self._input_wh = (width, height)
        self._threads = threads

    def measure(self, image: bytes, seconds: float) -> Rate:
        """Run all threads for some seconds."""
        stop_at = time.perf_counter() + seconds
        process = psutil.Process()
        cpu, start = machine.cpu_seconds([process]), time.perf_counter()
        with ThreadPoolExecutor(self._threads) as pool:
            images = sum(pool.map(lambda _: self._run_until(image, stop_at), range(self._threads)))
        return _rate(images, time.perf_counter() - start, machine.cpu_seconds([process]) - cpu)

    def _run_until(self, image: bytes, stop_at: float) -> int:
        images = 0
        while time.perf_counter() < stop_at:
            self._detect(image)
            images += 1
        return images

    def _detect(self, image: bytes) -> bytes:
        tensor, back = resize(decode(image, _LIMITS), self._input_wh, ResizeMode.STRETCH)
        boxes, scores, class_ids = self._session.run(["boxes", "scores", "class_ids"], {"images": tensor[None]})
        found = postprocess(RawPredictions(boxes[0], scores[0], class_ids[0]), back, _THRESHOLDS)
        return orjson.dumps([found.xyxy, found.scores, found.class_ids], option=orjson.OPT_SERIALIZE_NUMPY)


class Served:
    """The live endpoint, asked over and over by some callers at a time."""

    def __init__(self, url: str, concurrency: int) -> None:
        self._url = url
        self._concurrency = concurrency
        self._processes = machine.serving_processes()

    def measure(self, image: bytes, seconds: float) -> Rate:
        """Run all callers for some seconds."""
        cpu, start = machine.cpu_seconds(self._processes), time.perf_counter()
        images = asyncio.run(self._run_until(image, start + seconds))
        return _rate(images, time.perf_counter() - start, machine.cpu_seconds(self._processes) - cpu)

    async def _run_until(self, image: bytes, stop_at: float) -> int:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._concurrency)) as session:

            async def call() -> int:
                images = 0
                while time.perf_counter() < stop_at:
                    async with session.post(f"{self._url}/v1/detect", data=image) as response:
                        response.raise_for_status()
                        await response.read()
                    images += 1
                return images

            return sum(await asyncio.gather(*(call() for _ in range(self._concurrency))))


def _rate(images: int, seconds: float, cpu_seconds: float) -> Rate:
    return Rate(images / seconds, cpu_seconds * 1e3 / images)


def _median(rates: list[Rate]) -> Rate:
    return Rate(*(statistics.median(values) for values in zip(*(asdict(rate).values() for rate in rates), strict=True)))


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The live gateway, on this machine.")
@click.option(
    "--model-repository",
    default="model_repository",
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the served model lies; the limit runs the same file.",
)
@click.option("--model", default="damoyolo_ns_deeppcb", show_default=True, help="Name of the served model.")
@click.option(
    "--size", "sizes", multiple=True, default=(640, 1440), show_default=True, help="Pictures' side in pixels."
)
@click.option("--concurrency", default=8, show_default=True, help="Callers at a time.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of one measurement, in seconds.")
@click.option("--rounds", default=3, show_default=True, help="Measurements of each kind; their median counts.")
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, too.")
def main(
    url: str,
    model_repository: Path,
    model: str,
    sizes: tuple[int, ...],
    concurrency: int,
    seconds: float,
    rounds: int,
    report: Path | None,
) -> None:
    """Measure what serving costs beside the work itself."""
    model_file = max((model_repository / model).glob("*/model.onnx"), key=lambda path: int(path.parent.name))
    sides: dict[str, Callable[[bytes, float], Rate]] = {
        "limit": Limit(model_file, threads=os.cpu_count() or 1).measure,
        "served": Served(url, concurrency).measure,
    }
    figures: dict[str, Any] = {"machine": machine.describe(), "concurrency": concurrency, "sizes": {}}
    click.echo(f"{'picture':<12}{'':<8}{'images/s':>10}{'CPU ms':>10}")
    for size in sizes:
        image = encode_image(draw_board(DEFAULT_SEED, size).image, ".jpg")
        measured: dict[str, list[Rate]] = {name: [] for name in sides}
        for measure in sides.values():
            measure(image, 1.0)  # warm caches, threads and connections
        for _ in range(rounds):
            for name, measure in sides.items():
                measured[name].append(measure(image, seconds))
        medians = {name: _median(rates) for name, rates in measured.items()}
        for name, rate in medians.items():
            picture = f"{size} x {size}"
            click.echo(f"{picture:<12}{name:<8}{rate.images_per_second:>10.1f}{rate.cpu_ms_per_image:>10.1f}")
        ratio = medians["served"].images_per_second / medians["limit"].images_per_second
        click.echo(f"{'':<12}served / limit: {ratio:.2f} of the images/s")
        figures["sizes"][size] = {
            "jpeg_bytes": len(image),
            "ratio": ratio,
            **{name: asdict(rate) for name, rate in medians.items()},
        }
    if report:
        report.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
