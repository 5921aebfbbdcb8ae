"""The Open Inference Protocol's requests and answers over HTTP, to and from what the core speaks.

A message is a JSON object. Tensors may follow it as binary data (the protocol's extension `binary_tensor_data`); a
header then says how long the JSON is. In JSON, which holds no bytes, an encoded image is base64 text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from gateway import oip, parameters
from gateway.errors import InvalidParameter
from gateway.rest.inputs import from_base64, parse_json, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.detector import Result

T = TypeVar("T")

JSON_LENGTH: Final = "Inference-Header-Content-Length"
"""The header with the length of a message's JSON in bytes, where binary data may follow it."""

_KINDS: Final[dict[type, str]] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    dict: "an object",
    list: "a list",
}
_MAX_DIGITS: Final = 15  # Python refuses to read numbers of some thousand digits


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request.

    Attributes:
        images: one or more encoded images.
        texts: the parameters, each value written out.
        is_binary: the outputs to send, in this order, by name, and whether as binary data.
        id: the caller's own name for the request, empty if there is none.
    """

    images: list[bytes]
    texts: dict[str, str]
    is_binary: dict[str, bool]
    id: str


def read_request(body: bytes, json_length: str | None) -> InferRequest:
    """The request in a body; `json_length` is the header `JSON_LENGTH` if there is one.

    A length of 0 says that the body is the tensor itself: one image, and defaults for everything else.

    Raises:
        InvalidParameter: it is not one that a detector can answer; the message says what is allowed.
    """
    length = _length(json_length, len(body))
    if length == 0 and json_length is not None:
        return InferRequest([body], {}, dict.fromkeys(oip.DEFAULT_OUTPUTS, False), "")
    message = _parse(body[:length])
    given = _take(message, "parameters", dict, {})
    binary_by_default = _take(given, "binary_data_output", bool, False)
    return InferRequest(
        images=_images(_take(message, "inputs", list, []), memoryview(body)[length:]),
        texts={name: written(name, value) for name, value in given.items() if name != "binary_data_output"},
        is_binary=_outputs(_take(message, "outputs", list, []), binary_by_default),
        id=_take(message, "id", str, ""),
    )


def write_response(request: InferRequest, results: Sequence[Result]) -> tuple[bytes, int]:
    """The body of an answer, and how many of its bytes are the JSON; binary data are after it."""
    tensors = oip.outputs(results)
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, is_binary in request.is_binary.items():
        tensor = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": oip.OUTPUTS[name][0], "shape": tensor.shape}
        if is_binary:
            parts.append(oip.to_raw(tensor))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = tensor.tolist() if tensor.dtype == object else tensor.ravel()
        outputs.append(output)
    message = {"model_name": results[0].model.name, "model_version": str(results[0].version), "outputs": outputs}
    if request.id:
        message["id"] = request.id
    encoded = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([encoded, *parts]), len(encoded)


def _length(given: str | None, total: int) -> int:
    """The bytes of the JSON; all if no header says so."""
    if given is None:
        return total
    if not (given.isascii() and given.isdecimal() and len(given) <= _MAX_DIGITS and int(given) <= total):
        raise InvalidParameter(
            f"{JSON_LENGTH} is {given[:100]!r}; it must be a whole number from 0 to {total}, the length of the body"
        )
    return int(given)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        message = parse_json(text)
    except InvalidParameter as error:
        raise InvalidParameter(
            f"{error}; if binary data follow the JSON, {JSON_LENGTH} must be the JSON's length in bytes"
        ) from None
    return _check("the request", message, dict)


def _images(inputs: list[Any], binary: memoryview) -> list[bytes]:
    """The encoded images: elements of the JSON, or else what follows it."""
    tensors = [_check("each of inputs", tensor, dict) for tensor in inputs]
    first: dict[str, Any] = tensors[0] if tensors else {}
    names = [_take(tensor, "name", str, "") for tensor in tensors]
    shape = [_check("each of shape", size, int) for size in _take(first, "shape", list, [])]
    count = oip.image_count(names, _take(first, "datatype", str, ""), shape)
    options = _take(first, "parameters", dict, {})
    parameters.refuse_unknown(options, ("binary_data_size", "content_type"))
    if _take(options, "content_type", str, "base64") != "base64":
        raise InvalidParameter("content_type must be 'base64', or be left out")
    if "binary_data_size" not in options:
        return _decode(_take(first, "data", list, []), count, unclaimed=len(binary))
    size = _take(options, "binary_data_size", int, 0)
    if size != len(binary) or first.get("data") is not None:
        raise InvalidParameter(
            f"{oip.IMAGE!r} has binary_data_size {size}, and {len(binary)} bytes follow the JSON, which ends where "
            f"{JSON_LENGTH} says; the two must be the same, and then there must be no data"
        )
    return oip.split_raw(binary, count)


def _decode(data: list[Any], count: int, unclaimed: int) -> list[bytes]:
    if len(data) != count or unclaimed:
        raise InvalidParameter(
            f"{oip.IMAGE!r} has {len(data)} elements in data, and {unclaimed} bytes follow the JSON; send {count} "
            "elements, as its shape says, or binary data and their binary_data_size"
        )
    return [from_base64(f"element {index} of {oip.IMAGE!r}", element) for index, element in enumerate(data)]


def _outputs(requested: list[Any], binary_by_default: bool) -> dict[str, bool]:
    outputs = [_check("each of outputs", output, dict) for output in requested]
    names = oip.output_names(_take(output, "name", str, "") for output in outputs)
    is_binary = dict.fromkeys(names, binary_by_default)
    for output in outputs:
        options = _take(output, "parameters", dict, {})
        parameters.refuse_unknown(options, ("binary_data",))
        is_binary[output["name"]] = _take(options, "binary_data", bool, binary_by_default)
    return is_binary


def _take(fields: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    """A field of a JSON object; null counts as left out."""
    value = fields.get(name)
    return default if value is None else _check(name, value, kind)


def _check(what: str, value: object, kind: type[T]) -> T:
    if type(value) is not kind:  # not isinstance: true and false would pass as whole numbers
        raise InvalidParameter(f"{what} must be {_KINDS[kind]}")
    return value
