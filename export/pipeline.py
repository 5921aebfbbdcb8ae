"""One export from options to a published model; what `eagleeye export` calls."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from export.contract import MAX_TOP_K, OPSET
from export.errors import GateError, OptionError
from export.labels import read_labels
from export.plan_config import keeping_plan
from export.precision import FLOAT_LAYERS_RULES, PRECISIONS, FloatLayersRule, Precision, PrecisionName, int8
from export.repository import (
    MEASURED,
    ModelDescription,
    PublishedModel,
    file_sha256,
    find_published,
    loading,
    model_config,
    publish,
    replace_config,
    require_same_interface,
    validate_name,
)
from export.tuning import keeping_tuning
from export.variants import STRIDES, VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from export.build import BuiltModel
    from export.calibration import CalibrationSet
    from export.evaluate import Dataset
    from export.gate import Verdict
    from export.precision_options import GateOptions


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, and how it shall be served. Checked by `export_model`."""

    variant: str
    """A key of `VARIANTS`."""
    checkpoint: Path
    labels: Path
    """File with one class name per line, in the order of the checkpoint's classes."""
    name: str
    repository: Path
    """Triton's model repository; created if need be."""
    size: int | None = None
    """Side of the square input in pixels, a multiple of 32. None: what the variant was trained for."""
    top_k: int = 1000
    """Candidates that leave Triton per image, 24 bytes each. The official NMS keeps at most 500 of them."""
    max_batch_size: int = 16
    instances: int = 2
    """Copies of the model per GPU, or on the CPU: while one computes, the next batch forms and is copied."""
    queue_delay_microseconds: int = 0
    """How long Triton may hold a request back to find company for it. Batches form by themselves while all instances
    are busy; a delay makes lone requests wait for nothing, unless a measurement on the machine says otherwise."""
    score_threshold: float = 0.4
    """What the gateway uses where a caller names none. The official ones (0.03, 0.05) serve mAP, not people."""
    map50_95: float | None = None
    """Measured COCO mAP, if known; only told on."""
    tensorrt_accelerator: str | None = None
    """Cache folder, as Triton sees it, of ONNX Runtime's TensorRT; None: ONNX Runtime does without."""
    precision: PrecisionName = "fp32"
    calibration: Path | None = None
    """For INT8: a folder of images like those that will be served."""
    float_layers: FloatLayersRule | None = None
    """For INT8: which layers stay in floating point; None: the published ones, or a search where there are none."""
    gate: GateOptions | None = None
    """Measure mAP before publication, and publish only what keeps that of FP32."""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export did."""

    outcome: Literal["published", "reconfigured", "unchanged"]
    """A new version; a new config for the newest version; nothing, as all was there already."""
    model: PublishedModel
    built: BuiltModel | None
    """Figures of the graph, where one was built; None where all was already there."""
    verdict: Verdict | None
    """What the gate measured, if there was one."""
    seconds: float


def _silent(_step: str) -> None:
    """Ignore progress."""


def export_model(options: ExportOptions, progress: Callable[[str], None] = _silent) -> ExportSummary:
    """Export, verify and publish a checkpoint, as far as that has not been done.

    Whether there is anything to do shows from digests alone, without importing torch.

    Args:
        options: what to export.
        progress: called with a phrase before each step.

    Raises:
        ExportError: it cannot be done; nothing was published.
    """
    started = time.monotonic()
    _validate(options)
    progress(f"looking for {options.name} in {options.repository}")
    variant = VARIANTS[options.variant]
    precision = _precision(options, variant)
    description = _describe(options, variant, precision)
    published = find_published(options.repository, options.name)
    if published is not None:
        require_same_interface(published, model_config(description, ""))
        if not published.holds(description.export_key):
            published = None
        elif options.gate is None or _passed_before(published, options.gate):
            return _reconfigure(published, _keep_found(description, published), started)
    dataset = _gate_dataset(options, description, precision.calibration, progress)
    from export.build import build  # noqa: PLC0415 (imports torch, for seconds; nothing before needs it)
    from export.tensorrt_support import require_tensorrt_support  # noqa: PLC0415 (imports onnx)

    built = build(
        options.checkpoint,
        variant,
        labels=len(description.labels),
        size=description.size,
        top_k=options.top_k,
        progress=progress,
        precision=precision,
    )
    require_tensorrt_support(built.onnx)  # whatever serves it today: it shall run on GPUs tomorrow
    description = dataclasses.replace(description, float_layers=built.float_layers)
    verdict = None
    if options.gate is not None and dataset is not None:
        description, verdict = _through_gate(built, description, options.gate, dataset, progress)
    if published is not None:  # measured for the first time, or by other images
        return dataclasses.replace(_reconfigure(published, description, started), built=built, verdict=verdict)
    config = model_config(description, hashlib.sha256(built.onnx).hexdigest())
    progress("publishing")
    model = publish(options.repository, config, built.onnx)
    return ExportSummary("published", model, built, verdict, time.monotonic() - started)


def _reconfigure(published: PublishedModel, description: ModelDescription, started: float) -> ExportSummary:
    """The graph is there; see to it that the config is the wanted one."""
    config = model_config(description, published.parameter("model_sha256"))
    config = keeping_tuning(published.config, keeping_plan(published.config, config))
    config = loading(config, published.loaded)
    if config == published.config:
        return ExportSummary("unchanged", published, None, None, time.monotonic() - started)
    model = replace_config(published, config)
    return ExportSummary("reconfigured", model, None, None, time.monotonic() - started)


def _keep_found(description: ModelDescription, published: PublishedModel) -> ModelDescription:
    """With what was found out about the published graph, unless the caller knows better."""
    found: dict[str, Any] = {"float_layers": tuple(json.loads(published.parameter("float_layers") or "[]"))}
    for key in MEASURED:
        text = published.parameter(key)
        if text and getattr(description, key) is None:
            found[key] = text if key == "evaluated_on" else float(text)
    return dataclasses.replace(description, **found)


# ------------------------------------------------------------------------------------------------------------- gate


def _gate_dataset(
    options: ExportOptions,
    description: ModelDescription,
    calibration: CalibrationSet | None,
    progress: Callable[[str], None],
) -> Dataset | None:
    """What the gate will measure on, if there is one. Comes before the build, to fail early."""
    if options.gate is None:
        return None
    from export.gate import held_out, read_gate_dataset  # noqa: PLC0415 (needs what `eagleeye evaluate` needs)

    dataset = read_gate_dataset(options.gate, description.labels)
    if calibration is None:
        return dataset
    rest = held_out(dataset, calibration)
    if left_out := len(dataset.pictures) - len(rest.pictures):
        progress(f"leaving {left_out} of the gate's {len(dataset.pictures)} images out, which are calibration images")
    return rest


def _passed_before(published: PublishedModel, gate: GateOptions) -> bool:
    """Whether the published graph was measured with these annotations, and is good enough."""
    measured, fp32 = published.parameter("map50_95"), published.parameter("map50_95_fp32")
    return (
        gate.annotations.is_file()
        and published.parameter("evaluated_on") == file_sha256(gate.annotations)
        and bool(measured and fp32)
        and float(fp32) - float(measured) <= gate.max_map_drop
    )


def _through_gate(
    built: BuiltModel,
    description: ModelDescription,
    gate: GateOptions,
    dataset: Dataset,
    progress: Callable[[str], None],
) -> tuple[ModelDescription, Verdict]:
    """The description with what was measured.

    Raises:
        GateError: it could not be measured, or is not good enough.
    """
    from export.gate import judge  # noqa: PLC0415
    from export.gate_report import refusal, write_report  # noqa: PLC0415

    verdict = judge(built.onnx, built.fp32, model_config(description, ""), dataset, gate, progress)
    if gate.report is not None:
        write_report(gate.report, verdict, description.precision, dataset)
    if not verdict.passed:
        raise GateError(refusal(verdict, description.precision))
    measured = dataclasses.replace(
        description,
        map50_95=verdict.candidate.mean.ap50_95,
        map50_95_fp32=verdict.fp32.mean.ap50_95,
        evaluated_on=file_sha256(gate.annotations),
    )
    return measured, verdict


# ---------------------------------------------------------------------------------------------------------- options


def _validate(options: ExportOptions) -> None:
    """Require options that make sense, whoever calls.

    Raises:
        OptionError: names the option, its value and what it may be.
    """
    validate_name(options.name)
    if options.variant not in VARIANTS:
        raise OptionError(f"there is no variant {options.variant!r}; choose from {', '.join(VARIANTS)}")
    if options.size is not None and (options.size < STRIDES[-1] or options.size % STRIDES[-1]):
        raise OptionError(f"the size must be a multiple of {STRIDES[-1]} pixels, not {options.size}")
    if not 1 <= options.top_k <= MAX_TOP_K:
        raise OptionError(f"top-k must be from 1 to {MAX_TOP_K}, not {options.top_k}")
    for what, value, least in (
        ("the largest batch size", options.max_batch_size, 1),
        ("the number of instances", options.instances, 1),
        ("the queue delay", options.queue_delay_microseconds, 0),
    ):
        if value < least:
            raise OptionError(f"{what} must be at least {least}, not {value}")
    for what, share in (("the score threshold", options.score_threshold), ("mAP", options.map50_95)):
        if share is not None and not 0 <= share <= 1:
            raise OptionError(f"{what} must lie between 0 and 1, not {share}")
    if options.gate is not None and options.map50_95 is not None:
        raise OptionError("the gate measures mAP; don't tell it as well")


def _precision(options: ExportOptions, variant: Variant) -> Precision:
    if options.precision not in PRECISIONS:
        raise OptionError(f"there is no precision {options.precision!r}; choose from {', '.join(PRECISIONS)}")
    if options.float_layers not in (None, *FLOAT_LAYERS_RULES):
        raise OptionError(f"float layers are {', '.join(FLOAT_LAYERS_RULES)}, not {options.float_layers!r}")
    if options.precision != "int8":
        if options.calibration is not None or options.float_layers is not None:
            raise OptionError(f"calibration images and float layers are for int8, not for {options.precision}")
        return Precision(options.precision)
    if options.calibration is None:
        raise OptionError("int8 needs a folder of calibration images, such as some hundred of those to be served")
    from export.calibration import read_calibration  # noqa: PLC0415

    return int8(
        read_calibration(options.calibration, options.size or variant.input_size), variant, options.float_layers
    )


def _describe(options: ExportOptions, variant: Variant, precision: Precision) -> ModelDescription:
    labels = read_labels(options.labels)
    size = options.size or variant.input_size
    try:
        checkpoint_sha256 = file_sha256(options.checkpoint)
    except OSError as error:
        raise OptionError(f"cannot read the checkpoint {options.checkpoint}: {error.strerror or error}") from error
    exporter_version = importlib.metadata.version("eagleeye")
    decisive = [checkpoint_sha256, variant.name, labels, size, options.top_k, OPSET, exporter_version]
    decisive += precision.decisive()
    pairs = len(labels) * sum((size // stride) ** 2 for stride in STRIDES)
    return ModelDescription(
        name=options.name,
        variant=variant.name,
        labels=labels,
        size=size,
        candidates=min(options.top_k, pairs),
        max_batch_size=options.max_batch_size,
        instances=options.instances,
        queue_delay_microseconds=options.queue_delay_microseconds,
        score_threshold=options.score_threshold,
        iou_threshold=variant.iou_threshold,
        map50_95=options.map50_95,
        tensorrt_accelerator=options.tensorrt_accelerator,
        checkpoint_sha256=checkpoint_sha256,
        exporter_version=exporter_version,
        precision=precision.name,
        export_key=hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
    )
