"""The Open Inference Protocol's (v2) view of a detector, for every face that speaks it.

A detector takes `image` BYTES [N], each element one encoded image. It gives the detections of all N in a row, M
together, and says in `num_detections` how many of them belong to each image.
"""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from gateway import parameters
from gateway.batch import MAX_IMAGES
from gateway.errors import InvalidParameter
from gateway.priority import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from gateway.detector import Query, Result
    from gateway.model import Model

SERVER: Final = {"name": "eagleeye", "version": installed_version("eagleeye")}
"""Who answers, as the protocol's server metadata say it."""

IMAGE: Final = "image"
BYTES: Final = "BYTES"
IMAGE_WH: Final = "image_wh"

OUTPUTS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "num_detections": ("INT32", (-1,)),
    "boxes": ("FP32", (-1, 4)),
    "scores": ("FP32", (-1,)),
    "class_ids": ("INT32", (-1,)),
    "labels": (BYTES, (-1,)),
    IMAGE_WH: ("INT32", (-1, 2)),
}
"""Data type and shape of each output, in the order of an answer; -1 stands for N or M."""

DEFAULT_OUTPUTS: Final = tuple(name for name in OUTPUTS if name != IMAGE_WH)
"""What is sent to who asks for no output by name. The images' widths and heights only few need."""

PARAMETERS: Final = (*parameters.NAMES, "timeout", "sequence_id", "sequence_start", "sequence_end")
"""The parameters of a request, Triton's own included, which its clients send without being asked: `timeout`, in
microseconds, and those of sequences. Outside streams an id only keeps a sequence with one version of a model."""

_PRIORITY_OF_LEVEL: Final = {"0": Priority.NORMAL.value, **{str(each.rank): each.value for each in Priority}}
"""Priorities as Triton's clients number them: 1 is the highest level, and 0 stands for the default."""

_LENGTH_BYTES: Final = 4
_MICROSECONDS: Final = 1000  # of a millisecond
_TYPES: Final = {BYTES: "TYPE_STRING", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}  # as model configs name them


def model_metadata(model: Model) -> dict[str, Any]:
    """What a detector takes and gives, in the protocol's own fields; -1 stands for a size that is free."""
    return {
        "name": model.name,
        "versions": [str(each) for each in model.versions],
        "platform": SERVER["name"],
        "inputs": [{"name": IMAGE, "datatype": BYTES, "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": list(shape)} for name, (datatype, shape) in OUTPUTS.items()
        ],
    }


def model_config(model: Model) -> dict[str, Any]:
    """A detector's config as Triton has it for a model of its own, for messages as well as for JSON."""
    known = {
        "labels": _json(model.labels),
        "input_wh": _json(model.input_wh),
        "score_threshold": repr(model.score_threshold),
        "iou_threshold": repr(model.iou_threshold),
    }
    return {
        "name": model.name,
        "platform": SERVER["name"],
        "backend": SERVER["name"],
        "max_batch_size": 0,  # the number of images is part of the shape
        "input": [{"name": IMAGE, "data_type": _TYPES[BYTES], "dims": [-1]}],
        "output": [
            {"name": name, "data_type": _TYPES[datatype], "dims": list(shape)}
            for name, (datatype, shape) in OUTPUTS.items()
        ],
        "parameters": {name: {"string_value": text} for name, text in {**model.facts, **known}.items()},
    }


def repository_index(models: Mapping[str, Model]) -> list[dict[str, str]]:
    """Every version of every model among `models`, by name, as Triton lists them; what is not ready is not listed."""
    return [
        {"name": name, "version": str(version), "state": "READY", "reason": ""}
        for name, model in sorted(models.items())
        for version in model.versions
    ]


def read_query(texts: Mapping[str, str], name: str, version: str) -> tuple[Query, float | None]:
    """The query of a request, and its timeout in seconds if it has one: the nearer of `timeout_ms` and `timeout`.

    Args:
        texts: the request's own parameters, each value written out.
        name: the model; empty where none is named.
        version: its version; empty where none is named.

    Raises:
        InvalidParameter: an unknown name or a bad value; the message says what is allowed.
    """
    parameters.refuse_unknown(texts, PARAMETERS)
    named = {key: text for key, text in (("model", name), ("version", version)) if text}
    if level := texts.get("priority"):
        named["priority"] = _PRIORITY_OF_LEVEL.get(level, level)
    query, seconds = parameters.read({**texts, **named})
    return query, _nearer(seconds, _tritons_timeout_seconds(texts.get("timeout", "0")))


def sequence(texts: Mapping[str, str], flow: str) -> str:
    """Whose frames a request's images are: the flow's sequence that its parameters name; empty if they name none."""
    given = texts.get("sequence_id", "")
    return "" if given in {"", "0"} else f"{flow} sequence {given}"


def image_count(names: Sequence[str], datatype: str, shape: Sequence[int]) -> int:
    """N, from the names of a request's inputs and the first one's type and shape.

    Raises:
        InvalidParameter: they are not those of a detector.
    """
    if list(names) != [IMAGE]:
        raise InvalidParameter(f"a request has exactly one input, {IMAGE!r}, {BYTES} [N]")
    if datatype != BYTES or len(shape) != 1 or not 1 <= shape[0] <= MAX_IMAGES:
        given = f"{datatype[:10]} {list(shape[:5])}"
        raise InvalidParameter(f"the input {IMAGE!r} is {given}; it must be {BYTES} [N] with N from 1 to {MAX_IMAGES}")
    return shape[0]


def output_names(requested: Iterable[str]) -> tuple[str, ...]:
    """The outputs to send, in the order asked for; `DEFAULT_OUTPUTS` when none is named.

    Raises:
        InvalidParameter: a name that no output has, or one given twice: an answer could be made to grow without end.
    """
    names = tuple(requested)
    for name in names:
        if name not in OUTPUTS:
            raise InvalidParameter(f"there is no output {name[:100]!r}; allowed are {', '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise InvalidParameter("an output is named more than once")
    return names or DEFAULT_OUTPUTS


def outputs(results: Sequence[Result]) -> dict[str, NDArray[np.generic]]:
    """The output tensors of one or more images; `labels` is an array of `str` objects."""
    found = [result.detections for result in results]
    labels = [result.model.labels[class_id] for result in results for class_id in result.detections.class_ids]
    return {
        "num_detections": np.array([len(detections) for detections in found], np.int32),
        "boxes": np.concatenate([detections.xyxy for detections in found]),
        "scores": np.concatenate([detections.scores for detections in found]),
        "class_ids": np.concatenate([detections.class_ids for detections in found]),
        "labels": np.array(labels, object),
        IMAGE_WH: np.array([result.image_wh for result in results], np.int32),
    }


def to_raw(tensor: NDArray[np.generic]) -> bytes:
    """A tensor's raw contents: its numbers in row-major order, or each text as UTF-8 after its length."""
    if tensor.dtype != object:
        return tensor.tobytes()
    elements = (str(text).encode() for text in tensor)
    return b"".join(len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements)


def split_raw(raw: bytes | memoryview, count: int) -> list[bytes]:
    """The elements of a raw BYTES tensor: `count` times a length, 4 bytes little-endian, and as many bytes.

    Raises:
        InvalidParameter: `raw` holds fewer or more.
    """
    elements = []
    start = 0
    for _ in range(count):
        begin = start + _LENGTH_BYTES
        start = begin + int.from_bytes(raw[start:begin], "little")
        elements.append(bytes(raw[begin:start]))
    if start != len(raw):
        raise InvalidParameter(
            f"the raw contents of {IMAGE!r} are not {count} times a length of {_LENGTH_BYTES} bytes, little-endian, "
            "with as many bytes after it"
        )
    return elements


def _tritons_timeout_seconds(text: str) -> float | None:
    """Triton's own parameter, in microseconds, 0 for none; what is out of the range of `timeout_ms` counts as its end.

    Raises:
        InvalidParameter: it is no whole number from 0.
    """
    try:
        microseconds = parameters.whole(text)
    except ValueError:
        raise InvalidParameter(
            f"timeout is {text[:100]!r}; it must be a whole number of microseconds, or 0 for none"
        ) from None
    if not microseconds:
        return None
    return min(max(microseconds, _MICROSECONDS), parameters.MAX_TIMEOUT_MS * _MICROSECONDS) / 1e6


def _nearer(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
