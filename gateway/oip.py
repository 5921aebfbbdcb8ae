"""The Open Inference Protocol's (v2) view of a detector, for every face that speaks it.

A detector takes `image` BYTES [N], each element one encoded image. It gives the detections of all N in a row, M
together, and says in `num_detections` how many of them belong to each image.
"""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway import parameters
from gateway.batch import MAX_IMAGES
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from gateway.detector import Query, Result
    from gateway.model import Model

SERVER: Final = {"name": "eagleeye", "version": installed_version("eagleeye")}
"""Who answers, as the protocol's server metadata say it."""

IMAGE: Final = "image"
BYTES: Final = "BYTES"

OUTPUTS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "num_detections": ("INT32", (-1,)),
    "boxes": ("FP32", (-1, 4)),
    "scores": ("FP32", (-1,)),
    "class_ids": ("INT32", (-1,)),
    "labels": (BYTES, (-1,)),
}
"""Data type and shape of each output, in the order of an answer; -1 stands for N or M."""

_LENGTH_BYTES: Final = 4


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


def read_query(texts: Mapping[str, str], name: str, version: str) -> tuple[Query, float | None]:
    """The query of a request, and its timeout in seconds if it has one.

    Args:
        texts: the request's own parameters, each value written out.
        name: the model; empty where none is named.
        version: its version; empty where none is named.

    Raises:
        InvalidParameter: an unknown name or a bad value; the message says what is allowed.
    """
    parameters.refuse_unknown(texts, parameters.NAMES)
    named = {key: text for key, text in (("model", name), ("version", version)) if text}
    return parameters.read({**texts, **named})


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
    """The outputs to send, in the order asked for; all when none is named.

    Raises:
        InvalidParameter: a name that no output has, or one given twice: an answer could be made to grow without end.
    """
    names = tuple(requested)
    for name in names:
        if name not in OUTPUTS:
            raise InvalidParameter(f"there is no output {name[:100]!r}; allowed are {', '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise InvalidParameter("an output is named more than once")
    return names or tuple(OUTPUTS)


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
