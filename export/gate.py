"""The accuracy gate: a candidate is served by a Triton and a gateway of its own, and held against FP32 by COCO mAP.

The way from image bytes to boxes is the one that users get, as in `eagleeye evaluate`, whose default thresholds hold.
So this is the one module of the exporter that starts servers, and knows `triton_runtime`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eagleeye.client import Client, EagleEyeError
from eagleeye.options import without_settings
from export.errors import GateError
from export.evaluate import Dataset, EvaluationFailed, Metrics, coco_metrics, detect_all, read_dataset
from export.repository import file_sha256, publish
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine
from triton_runtime.process import Child, running
from triton_runtime.server import HOST, Ports, TritonServer, why_no_model_loads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from export.calibration import CalibrationSet
    from export.precision_options import GateOptions

EXTRA: Final = ("pycocotools", "tqdm", "matplotlib")
"""What only the gate needs, and is looked for before anything is built."""

READY_SECONDS: Final = 300.0
"""Longest wait for the private Triton and gateway; a large model warms up for a while on a processor."""
_POLL_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 120.0
_CONCURRENCY: Final = 4
DETECT: Final = {"score_threshold": 0.05, "iou_threshold": 0.7, "max_detections": 500}
"""As `eagleeye evaluate` asks by default, so that its figures and these can be compared."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate measured. For a candidate in FP32, `candidate` and `fp32` are one measurement."""

    candidate: Metrics
    fp32: Metrics
    max_map_drop: float

    @property
    def map_drop(self) -> float:
        """How much mAP the candidate loses; negative if it gains."""
        return self.fp32.mean.ap50_95 - self.candidate.mean.ap50_95

    @property
    def passed(self) -> bool:
        """Whether the candidate may be published; one without any figure may not."""
        return self.map_drop <= self.max_map_drop

    def losses(self) -> dict[str, float]:
        """How much average precision each class of the ground truth loses, the greatest loss first."""
        pairs = {
            name: fp32.ap50_95 - self.candidate.per_class[name].ap50_95
            for name, fp32 in self.fp32.per_class.items()
            if self.fp32.curves[name] is not None
        }
        return dict(sorted(pairs.items(), key=lambda item: -item[1]))


def read_gate_dataset(options: GateOptions, labels: tuple[str, ...]) -> Dataset:
    """The annotated images, after all that can be known to fail was looked at.

    Raises:
        GateError: a file is missing, a label of the model is no category, or Triton cannot run here.
    """
    try:
        dataset = read_dataset(options.annotations, options.images)
        TritonEnvironment(options.triton_env).check()
    except EvaluationFailed as error:
        raise GateError(error.message) from error
    except UnsupportedMachine as error:
        raise GateError(f"the gate serves the model to measure it: {error}") from error
    unknown = [label for label in labels if label not in dataset.category_ids]
    if unknown:
        raise GateError(
            f"{options.annotations} has no category for {', '.join(map(repr, unknown))} of the model's labels; "
            f"its categories are {', '.join(dataset.category_ids)}"
        )
    if options.report is not None and not options.report.parent.is_dir():
        raise GateError(f"cannot write {options.report}: there is no folder {options.report.parent}")
    lacking = [package for package in EXTRA if importlib.util.find_spec(package) is None]
    if lacking:
        raise GateError(f"the gate needs {', '.join(lacking)}: pip install 'eagleeye[gate]'")
    return dataset


def held_out(dataset: Dataset, calibration: CalibrationSet) -> Dataset:
    """The data set without the images that a quantization was calibrated on: they would flatter it.

    Args:
        dataset: what `read_gate_dataset` gave.
        calibration: compared by the files' content.

    Raises:
        GateError: no image is left, or none with a box.
    """
    seen = {file_sha256(file) for file in calibration.files}
    pictures = [picture for picture in dataset.pictures if file_sha256(picture.path) not in seen]
    ids = {picture.id for picture in pictures}
    images = [image for image in dataset.annotations["images"] if image["id"] in ids]
    boxes = [box for box in dataset.annotations["annotations"] if box["image_id"] in ids]
    if not boxes:
        raise GateError("all annotated images of the gate are calibration images, too; calibrate on others")
    return Dataset({**dataset.annotations, "images": images, "annotations": boxes}, pictures, dataset.category_ids)


def judge(
    candidate: bytes, fp32: bytes, config: Any, dataset: Dataset, options: GateOptions, progress: Callable[[str], None]
) -> Verdict:
    """Measure a candidate and the FP32 graph that it comes from; once where both are the same.

    Args:
        candidate: the graph that is to be published.
        fp32: the graph in FP32.
        config: the candidate's `ModelConfig`.
        dataset: what `read_gate_dataset` gave.
        options: the gate's.
        progress: called with a phrase before each step.

    Raises:
        GateError: it could not be measured.
    """
    graphs = {"fp32": fp32} if candidate == fp32 else {"fp32": fp32, "candidate": candidate}
    measured = measure(graphs, config, dataset, options.triton_env, progress)
    return Verdict(measured.get("candidate", measured["fp32"]), measured["fp32"], options.max_map_drop)


def measure(
    graphs: Mapping[str, bytes], config: Any, dataset: Dataset, triton_env: Path, progress: Callable[[str], None]
) -> dict[str, Metrics]:
    """COCO metrics of several graphs with one interface, each through a private Triton and gateway.

    Args:
        graphs: served graphs by name, as `model.onnx` holds them.
        config: the `ModelConfig` that all of them are served by, but for the name.
        dataset: the ground truth.
        triton_env: virtual environment that holds nvidia-pytriton.
        progress: called with a phrase before each step.

    Raises:
        GateError: a graph cannot be served, or an image gets no answer.
    """
    with tempfile.TemporaryDirectory(prefix="eagleeye-gate-") as scratch:
        directory = Path(scratch)
        for name, graph in graphs.items():
            publish(directory / "models", _renamed(config, name), graph)
        return asyncio.run(_measure(list(graphs), dataset, directory, triton_env, progress))


def _renamed(config: Any, name: str) -> Any:
    renamed = type(config)()
    renamed.CopyFrom(config)
    renamed.name = name
    return renamed


async def _measure(
    names: list[str], dataset: Dataset, directory: Path, triton_env: Path, progress: Callable[[str], None]
) -> dict[str, Metrics]:
    progress("starting a private Triton and gateway")
    try:
        async with _serving(names, directory, triton_env) as url:
            measured = {}
            for name in names:
                progress(f"evaluating {name} on {len(dataset.pictures)} images")
                measured[name] = await asyncio.to_thread(_evaluate, url, name, dataset)
            return measured
    except UnsupportedMachine as error:
        raise GateError(str(error)) from error


def _evaluate(url: str, name: str, dataset: Dataset) -> Metrics:
    try:
        with Client(url, timeout_seconds=_ANSWER_SECONDS, concurrency=_CONCURRENCY) as client:
            run = detect_all(dataset, client, {"model": name, **DETECT})
    except (EvaluationFailed, EagleEyeError) as error:
        raise GateError(f"{name} could not be evaluated: {error}") from error
    return coco_metrics(dataset.annotations, run.results)


@contextlib.asynccontextmanager
async def _serving(names: list[str], directory: Path, triton_env: Path) -> AsyncIterator[str]:
    """The address of a gateway that serves these models from `directory/models`."""
    http, grpc, *triton_ports = _free_ports(5)
    complaints: list[str] = []
    installation = TritonEnvironment(triton_env).install(directory)
    triton = TritonServer(
        installation, directory / "models", Ports(*triton_ports), restarts_itself=False, report=complaints.append
    )
    gateway = _gateway(http, grpc, triton.ports.grpc, directory, complaints.append)
    deadline = time.monotonic() + READY_SECONDS
    async with running([triton]):
        await _until(lambda: _all_serve(triton, names), triton, deadline)
        async with running([gateway]):
            url = f"http://{HOST}:{http}"
            with Client(url, timeout_seconds=1, max_attempts=1) as client:
                await _until(lambda: asyncio.to_thread(_is_ready, client), gateway, deadline)
            yield url


def _gateway(http: int, grpc: int, triton: int, directory: Path, report: Callable[[str], None]) -> Child:
    address = ["--http-host", HOST, "--http-port", str(http), "--grpc-host", HOST, "--grpc-port", str(grpc)]
    return Child(
        name="the gateway",
        command=[sys.executable, "-m", "gateway", *address, "--triton-url", f"{HOST}:{triton}", "--drain-seconds", "0"],
        environment=without_settings(os.environ),
        log=directory / "gateway.log",
        stop_seconds=10,
        report=report,
        restarts_itself=False,
    )


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now; found together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


async def _until(ready: Callable[[], Any], child: Child, deadline: float) -> None:
    while not await ready():
        if child.deaths:
            raise GateError(f"{child.name} of the gate does not start{child.tail()}")
        if time.monotonic() > deadline:
            raise GateError(f"{child.name} of the gate is not ready after {READY_SECONDS:g} s{child.tail()}")
        await asyncio.sleep(_POLL_SECONDS)


async def _all_serve(triton: TritonServer, names: list[str]) -> bool:
    models = await triton.models()
    broken = [model for model in models if model.get("state") == "UNAVAILABLE"]
    if broken:
        raise GateError(f"the private Triton cannot load the model: {why_no_model_loads(broken)}")
    return {model["name"] for model in models if model.get("state") == "READY"} >= set(names)


def _is_ready(client: Client) -> bool:
    try:
        return client.health().ready
    except EagleEyeError:
        return False
