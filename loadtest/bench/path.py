"""The whole path through a live gateway and a real Triton, in turns with the limit, on the same processors."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import click
import numpy as np

from export.repository import MODEL_FILE, find_published
from gateway.postprocess import Thresholds
from gateway.triton.contract import parse_model
from loadtest import machine
from loadtest.bench.images import jpegs
from loadtest.bench.limit import NetworkLimit, Stages, StandinLimit, standin_stages
from loadtest.closed_loop import Request, ask, closed_loop, post
from loadtest.serving import memory_bytes, serving
from triton_runtime.standin import MODEL, Standin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    import psutil

    from export.repository import PublishedModel
    from loadtest.bench.limit import Limit
    from loadtest.serving import Serving

STANDIN: Final = Standin(base_ms=3.0, per_image_ms=0.4, size=416)
"""W2: a GPU that is so fast that all else is what is measured; its input is as large as the shipped model's."""
SHARED_MEMORY: Final[Mapping[str, object]] = MappingProxyType({"triton_shared_memory": 64})
"""Of the gateway's options, in MiB: for 32 images at a time, and as many again."""
SCALED_DECODING: Final[Mapping[str, object]] = MappingProxyType({"scaled_decoding": True})
"""Of the gateway's options: the limit, and the servers beside that have our decoder, decode the same way."""
PATH: Final = "/v1/detect"
_BOX_TOLERANCE: Final = 0.5
"""Pixels: two builds of ONNX Runtime may differ in the last digits."""

Figures = dict[str, Any]
"""One measurement: `images_per_second`, `p50_ms`, `p99_ms`, and `cpu_ms` an image by group of processes; of a server
also `answers`, with those of the warm-up."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: images of one size, so many at a time."""

    size: str
    concurrency: int


class Side(Protocol):
    """What is measured in turns with others."""

    def measure(self, cell: Cell, seconds: float) -> Figures:
        """Put the load of a cell on it."""


@dataclass(frozen=True, slots=True)
class LimitSide:
    """The stages in this process."""

    limit: Limit

    def measure(self, cell: Cell, seconds: float) -> Figures:
        """Put the load of a cell on it."""
        rate = self.limit.measure(jpegs(cell.size), cell.concurrency, seconds)
        return {
            "images_per_second": rate.images_per_second,
            "p50_ms": rate.p50_ms,
            "p99_ms": rate.p99_ms,
            "cpu_ms": {"limit": rate.cpu_ms},
        }


@dataclass(frozen=True, slots=True)
class Interface:
    """How a server is asked about an image.

    Attributes:
        path: where it takes images by POST.
        headers: what it wants to be told beside.
        read: the body of its answer -> `image` and `detections` as ours has them.
    """

    path: str = PATH
    headers: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[bytes], dict[str, Any]] = json.loads


DETECT: Final = Interface()
"""Ours, and that of most servers beside."""


@dataclass(slots=True)
class ServerSide:
    """A server that takes images by HTTP.

    Attributes:
        address: host and port.
        processes: those that serve, by group.
        interface: how it is asked.
        requests: by size of image.
        peak_bytes: most resident memory that was seen at the end of a measurement, by group.
    """

    address: tuple[str, int]
    processes: Mapping[str, Callable[[], list[psutil.Process]]]
    interface: Interface = DETECT
    requests: dict[str, list[Request]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def measure(self, cell: Cell, seconds: float) -> Figures:
        """Put the load of a cell on it.

        Raises:
            LoadFailed: an answer was not the expected one.
        """
        groups = {name: find() for name, find in self.processes.items()}
        before = {name: machine.cpu_seconds(processes) for name, processes in groups.items()}
        load = closed_loop(self.address, self.requests[cell.size], cell.concurrency, seconds)
        spent = {name: machine.cpu_seconds(processes) - before[name] for name, processes in groups.items()}
        for name, processes in groups.items():
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), memory_bytes(processes))
        spent["callers"] = load.cpu_seconds
        return {
            "images_per_second": load.images_per_second,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "answers": load.answers,
            "cpu_ms": {name: seconds * 1e3 / max(1, load.answers) for name, seconds in spent.items()},
        }

    def learn(self, size: str) -> list[dict[str, Any]]:
        """Ask about each image of a size once: every later answer must begin as that one, up to the times in it."""
        bodies = [post(*self.address, self.interface.path, data, self.interface.headers) for data in jpegs(size)]
        answers = [ask(self.address, body) for body in bodies]
        ends = [answer.find(b'"timing_ms"') for answer in answers]
        self.requests[size] = [
            Request(body, answer[: end if end > 0 else None])
            for body, answer, end in zip(bodies, answers, ends, strict=True)
        ]
        return [self.interface.read(answer) for answer in answers]


def gateway_side(served: Serving) -> ServerSide:
    """A gateway, with its Triton."""
    return ServerSide(
        served.address, {"gateway": lambda: served.gateway_processes, "triton": lambda: served.triton_processes}
    )


async def compare(
    sides: Mapping[str, Side], cell: Cell, rounds: int, seconds: float
) -> tuple[dict[str, Figures], dict[str, list[float]]]:
    """Measure all sides in turns.

    Returns:
        The medians of each side's figures, and for each side but the `limit` its images/s by those of the limit of the
        same round, one for each round.

    Raises:
        click.ClickException: one had no answer within the time.
    """
    taken: dict[str, list[Figures]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            taken[name].append(await asyncio.to_thread(side.measure, cell, seconds))
            if not taken[name][-1]["images_per_second"]:
                raise click.ClickException(f"{name} had no answer within {seconds:g} s; give more with --seconds")
    rates = {name: [figures["images_per_second"] for figures in rounds_] for name, rounds_ in taken.items()}
    ratios = {
        name: [mine / best for mine, best in zip(rates[name], rates["limit"], strict=True)]
        for name in sides
        if name != "limit"
    }
    return {name: _medians(rounds_) for name, rounds_ in taken.items()}, ratios


def _medians(rounds: Sequence[Figures]) -> Figures:
    medians = {
        key: statistics.median(figures[key] for figures in rounds) for key in ("images_per_second", "p50_ms", "p99_ms")
    }
    groups = {group: statistics.median(f["cpu_ms"][group] for f in rounds) for group in rounds[0]["cpu_ms"]}
    return {**medians, "cpu_ms": groups}


@dataclass(frozen=True, slots=True)
class Workload:
    """What is served: a repository of Triton's, and the limit of the same model."""

    name: str
    repository: Path
    limit: Limit


def find_model(models: Path, model: str) -> PublishedModel:
    """The model of W1.

    Raises:
        click.ClickException: it is not there.
    """
    published = find_published(models, model)
    if published is None or not published.loaded:
        raise click.ClickException(f"there is no model {model} in {models}; `make up` puts the shipped one there")
    return published


def network_workload(published: PublishedModel, folder: Path, *, is_scaled: bool) -> Workload:
    """W1: a model on the processor, as it is published."""
    model = published.config.name
    repository = folder / "w1"
    shutil.copytree(published.directory, repository / model)
    version = published.loaded[-1]
    served = parse_model(published.config, [version])
    thresholds = Thresholds(served.score_threshold, served.iou_threshold)
    stages = Stages(model, str(version), served.labels, served.input_wh, thresholds, is_scaled)
    return Workload(
        "W1", repository, NetworkLimit(stages, published.directory / str(version) / MODEL_FILE, os.cpu_count() or 1)
    )


def standin_workload(folder: Path, *, is_scaled: bool) -> Workload:
    """W2: the GPU stand-in."""
    repository = folder / "w2"
    STANDIN.write(repository)
    stages = standin_stages(STANDIN, MODEL, is_scaled=is_scaled)
    return Workload("W2", repository, StandinLimit(stages, STANDIN, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Contest:
    """A limit and what serves the same, with its answers by size of image."""

    limit: LimitSide
    served: ServerSide
    serving: Serving
    answers: dict[str, list[dict[str, Any]]]


@asynccontextmanager
async def contest(
    workload: Workload, folder: Path, sizes: Sequence[str], gateway_options: Mapping[str, object]
) -> AsyncIterator[Contest]:
    """Start a Triton and a gateway for a workload, and see that the limit answers what they answer.

    Raises:
        click.ClickException: it does not.
    """
    async with AsyncExitStack() as stack:
        logs = folder / f"{workload.name}-logs"
        logs.mkdir()
        served = await stack.enter_async_context(serving(workload.repository, logs, gateway_options=gateway_options))
        side = gateway_side(served)
        answers = {size: await asyncio.to_thread(side.learn, size) for size in sizes}
        for size in sizes:
            for answer, data in zip(answers[size], jpegs(size), strict=True):
                require_same(workload.name, answer, json.loads(workload.limit.detect(data)))
        yield Contest(LimitSide(workload.limit), side, served, answers)


def require_same(what: str, answer: Mapping[str, Any], wanted: Mapping[str, Any], *, is_exact: bool = True) -> None:
    """Require that two found the same: else they do not do the same work.

    With another decoder (not `is_exact`) the stand-in sees other pixels, so only the number of objects must be equal.

    Raises:
        click.ClickException: they did not.
    """
    found, others = answer["detections"], wanted["detections"]
    same = len(found) == len(others)
    if same and is_exact:
        same = [each["label"] for each in found] == [each["label"] for each in others]
        boxes = [np.array([list(each["box"].values()) for each in side]) for side in (found, others)]
        same = same and np.allclose(boxes[0], boxes[1], atol=_BOX_TOLERANCE)
    if not same:
        raise click.ClickException(
            f"{what}: {len(found)} objects were found where {len(others)} should have been, or others: they do not "
            "work alike. Does it decode and resize as gateway/detector.py does?"
        )


def row(
    workload: str, cell: Cell, medians: Mapping[str, Figures], ratios: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """A cell for the results.

    `ratios` is about images/s, and has the median, lowest and highest of the rounds. `cpu_ratio` is processor time an
    image in the limit by that of all who had a part in serving it: what `ratios` comes to where processors are what is
    short, and hardly moved by others who use them, too.
    """
    added = medians["served"]["p50_ms"] - medians["limit"]["p50_ms"]
    limit, served = (sum(medians[side]["cpu_ms"].values()) for side in ("limit", "served"))
    return {
        "workload": workload,
        **asdict(cell),
        "ratios": {name: spread(each) for name, each in ratios.items()},
        "cpu_ratio": limit / served if served else None,
        "added_p50_ms": added,
        "sides": dict(medians),
    }


def spread(rounds: Sequence[float]) -> dict[str, float]:
    """What the rounds have come to."""
    return {"median": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}
