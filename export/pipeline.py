"""One export from options to a published model; what `eagleeye export` calls."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from export.contract import MAX_TOP_K, OPSET
from export.errors import OptionError
from export.labels import read_labels
from export.repository import (
    ModelDescription,
    PublishedModel,
    file_sha256,
    find_published,
    model_config,
    publish,
    replace_config,
    require_same_interface,
    validate_name,
)
from export.variants import STRIDES, VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from export.build import BuiltModel


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


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export did."""

    outcome: Literal["published", "reconfigured", "unchanged"]
    """A new version; a new config for the newest version; nothing, as all was there already."""
    model: PublishedModel
    built: BuiltModel | None
    """Figures of the new version; None where the graph was already there."""
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
    description = _describe(options, variant)
    published = find_published(options.repository, options.name)
    if published is not None:
        require_same_interface(published, model_config(description, ""))
        if published.holds(description.export_key):
            return _reconfigure(published, description, started)
    from export.build import build  # noqa: PLC0415 (imports torch, for seconds; nothing before needs it)

    built = build(
        options.checkpoint,
        variant,
        labels=len(description.labels),
        size=description.size,
        top_k=options.top_k,
        progress=progress,
    )
    config = model_config(description, hashlib.sha256(built.onnx).hexdigest())
    progress("publishing")
    model = publish(options.repository, config, built.onnx)
    return ExportSummary("published", model, built, time.monotonic() - started)


def _reconfigure(published: PublishedModel, description: ModelDescription, started: float) -> ExportSummary:
    """The graph is there; see to it that the config is the wanted one."""
    config = model_config(description, published.parameter("model_sha256"))
    if config == published.config:
        return ExportSummary("unchanged", published, None, time.monotonic() - started)
    model = replace_config(published, config)
    return ExportSummary("reconfigured", model, None, time.monotonic() - started)


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


def _describe(options: ExportOptions, variant: Variant) -> ModelDescription:
    labels = read_labels(options.labels)
    size = options.size or variant.input_size
    try:
        checkpoint_sha256 = file_sha256(options.checkpoint)
    except OSError as error:
        raise OptionError(f"cannot read the checkpoint {options.checkpoint}: {error.strerror or error}") from error
    exporter_version = importlib.metadata.version("eagleeye")
    decisive = [checkpoint_sha256, variant.name, labels, size, options.top_k, OPSET, exporter_version]
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
        checkpoint_sha256=checkpoint_sha256,
        exporter_version=exporter_version,
        export_key=hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
    )
