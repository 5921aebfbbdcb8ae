"""Triton's model config -> what the gateway must know. The served model's interface is checked here, once.

A detector takes `images` UINT8 [H, W, 3] and gives `boxes` FP32 [K, 4], `scores` FP32 [K] and `class_ids` INT32 [K];
its config's parameters carry labels (JSON list), resize mode and default thresholds, as `export` writes them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tritonclient.grpc import model_config_pb2

from gateway.model import Model
from gateway.resize import ResizeMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IMAGES: Final = "images"
BOXES: Final = "boxes"
SCORES: Final = "scores"
CLASS_IDS: Final = "class_ids"

_CPU_BACKEND: Final = "onnxruntime"
_CPU_BATCH: Final = 4
_DEFAULT_SCORE_THRESHOLD: Final = 0.4
_DEFAULT_IOU_THRESHOLD: Final = 0.7
_READ: Final = {"labels", "resize", "score_threshold", "iou_threshold"}


class ContractError(ValueError):
    """A model in Triton's repository is not a detector as the gateway knows it; the message says in which respect."""


def parse_model(config: model_config_pb2.ModelConfig, versions: Iterable[int]) -> Model:
    """Read one model's config.

    Raises:
        ContractError: its tensors or parameters are not those of a detector.
    """
    tensors = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    parameters = {key: parameter.string_value for key, parameter in config.parameters.items()}
    height, width, _ = _dims(tensors, IMAGES, model_config_pb2.TYPE_UINT8, (None, None, 3))
    (candidates,) = _dims(tensors, SCORES, model_config_pb2.TYPE_FP32, (None,))
    _dims(tensors, BOXES, model_config_pb2.TYPE_FP32, (candidates, 4))
    _dims(tensors, CLASS_IDS, model_config_pb2.TYPE_INT32, (candidates,))
    return Model(
        name=config.name,
        versions=tuple(sorted(versions)),
        input_wh=(width, height),
        candidates=candidates,
        labels=_labels(parameters),
        resize=_resize_mode(parameters),
        score_threshold=_threshold(parameters, "score_threshold", _DEFAULT_SCORE_THRESHOLD),
        iou_threshold=_threshold(parameters, "iou_threshold", _DEFAULT_IOU_THRESHOLD),
        batch_size=_batch_size(config),
        facts={key: value for key, value in sorted(parameters.items()) if key not in _READ},
    )


def _batch_size(config: model_config_pb2.ModelConfig) -> int:
    """A full batch for each instance. ONNX Runtime on a processor gains next to nothing by more than a few images."""
    groups = config.instance_group
    instances = max(1, sum(int(group.count) for group in groups))
    is_on_cpu = bool(groups) and all(group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU for group in groups)
    batch_size = max(1, int(config.max_batch_size))
    return instances * (min(batch_size, _CPU_BATCH) if is_on_cpu and config.backend == _CPU_BACKEND else batch_size)


def _dims(
    tensors: Mapping[str, model_config_pb2.ModelInput | model_config_pb2.ModelOutput],
    name: str,
    data_type: int,
    expected: tuple[int | None, ...],
) -> tuple[int, ...]:
    """The fixed dimensions of a tensor; `None` in `expected` takes any positive number."""
    if name not in tensors:
        raise ContractError(f"it has no tensor {name!r}")
    tensor = tensors[name]
    dims = tuple(tensor.dims)
    fits = len(dims) == len(expected) and all(
        dim > 0 and wanted in (None, dim) for dim, wanted in zip(dims, expected, strict=True)
    )
    if tensor.data_type != data_type or not fits:
        wanted_type = model_config_pb2.DataType.Name(data_type)
        actual = model_config_pb2.DataType.DESCRIPTOR.values_by_number.get(tensor.data_type)
        actual_type = actual.name if actual else f"type {tensor.data_type}"
        shape = ["any" if dim is None else dim for dim in expected]
        raise ContractError(f"{name!r} must be {wanted_type} {shape}, but is {actual_type} {list(dims)}")
    return dims


def _labels(parameters: Mapping[str, str]) -> tuple[str, ...]:
    try:
        labels = json.loads(parameters["labels"])
    except KeyError:
        raise ContractError("its parameters name no 'labels'") from None
    except json.JSONDecodeError as error:
        raise ContractError(f"its parameter 'labels' is not JSON: {error}") from None
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ContractError("its parameter 'labels' must be a JSON list of one or more texts")
    return tuple(labels)


def _resize_mode(parameters: Mapping[str, str]) -> ResizeMode:
    value = parameters.get("resize", ResizeMode.STRETCH)
    try:
        return ResizeMode(value)
    except ValueError:
        raise ContractError(f"its parameter 'resize' is {value!r}; known are {', '.join(ResizeMode)}") from None


def _threshold(parameters: Mapping[str, str], name: str, default: float) -> float:
    text = parameters.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ContractError(f"its parameter {name!r} is {text!r}, not a number") from None
    if not 0 <= value <= 1:
        raise ContractError(f"its parameter {name!r} is {value}; it must lie between 0 and 1")
    return value
