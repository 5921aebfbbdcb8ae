"""What a body of `/v1/detect` holds: one image as it is, or an envelope with images and parameters.

An envelope is `multipart/form-data` or JSON. The functions here are pure: bytes in, `Upload` out.
"""

from __future__ import annotations

import binascii
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from gateway import parameters
from gateway.batch import MAX_IMAGES
from gateway.errors import InvalidParameter, UnsupportedMediaType
from gateway.image import sniff
from gateway.rest import query

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FORM: Final = "multipart/form-data"
_JSON: Final = "application/json"
_MAX_PARTS: Final = 2 * MAX_IMAGES  # images and every parameter there is
_MAX_PARAMETER_CHARACTERS: Final = 10_000  # as much as fits into a query string, and a little more
_MAX_COMMAS: Final = 10_000  # parsed, a value takes some 50 times its bytes; all but the first follow a comma


class File(NamedTuple):
    """One encoded image as uploaded, and the file name it came with, if any."""

    data: bytes
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """What a body held.

    Attributes:
        files: 1 to `MAX_IMAGES` images, as they came; none of them has been looked at.
        is_list: whether the caller sent a list, and gets one back even if it holds one image.
        parameters: what else stood in the envelope, as texts; values are not checked yet.
    """

    files: tuple[File, ...]
    is_list: bool = False
    parameters: dict[str, str] = field(default_factory=dict)


def is_envelope(media_type: str) -> bool:
    """Whether a body of that type, without its parameters, holds more than an image."""
    return media_type in {_FORM, _JSON}


def unpack(content_type: str, data: bytes) -> Upload:
    """Open an envelope. Its bytes have the last word: an image that was declared as one is still an image.

    Raises:
        InvalidParameter: it is malformed; the message says how, and what is allowed.
    """
    with suppress(UnsupportedMediaType):
        sniff(data)
        return Upload((File(data),))
    media_type, options = parse_options_header(content_type)
    return _from_form(options, data) if media_type == _FORM else _from_json(data)


def parse_json(data: bytes) -> Any:
    """A JSON value of a size that is bounded in memory too.

    Raises:
        InvalidParameter: it is no JSON, or has too many values.
    """
    if data.count(b",") > _MAX_COMMAS:
        raise InvalidParameter(f"the JSON body has more than {_MAX_COMMAS:,} values, the most that is accepted")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidParameter(f"the body is not JSON: {error}") from None


def _from_json(data: bytes) -> Upload:
    content = parse_json(data)
    if not isinstance(content, dict) or ("image" in content) == ("images" in content):
        raise InvalidParameter("a JSON body is an object with one of `image`, in base64, and `images`, a list of such")
    is_list = "images" in content
    images = content.pop("images") if is_list else [content.pop("image")]
    if not isinstance(images, list) or not 1 <= len(images) <= MAX_IMAGES:
        raise InvalidParameter(f"images must be a list of 1 to {MAX_IMAGES} images in base64")
    names = [f"images[{index}]" for index in range(len(images))] if is_list else ["image"]
    files = tuple(File(from_base64(name, image)) for name, image in zip(names, images, strict=True))
    parameters.refuse_unknown(content, query.NAMES)
    return Upload(files, is_list, {name: written(name, value) for name, value in content.items()})


def from_base64(name: str, value: Any) -> bytes:
    """The bytes of base64 or of a data URL, whose media type is not looked at.

    Raises:
        InvalidParameter: `value`, which the message calls `name`, is neither.
    """
    if isinstance(value, str):
        scheme, marker, encoded = value.partition(";base64,") if value.startswith("data:") else ("", "", value)
        if marker or not scheme:
            with suppress(ValueError):  # binascii.Error, and whatever is not ASCII
                return binascii.a2b_base64(encoded, strict_mode=True)
    raise InvalidParameter(
        f"{name} is not base64; it must be a text of the alphabet A-Z a-z 0-9 + /, padded with =, without line breaks, "
        "or a data URL (data:image/jpeg;base64,...)"
    )


def written(name: str, value: Any) -> str:
    """A parameter's JSON value as the text that the query string would have.

    Raises:
        InvalidParameter: no parameter has such a value, or it is too long.
    """
    return _limited(name, parameters.written(name, value))


def _limited(name: str, text: str) -> str:
    if len(text) > _MAX_PARAMETER_CHARACTERS:
        raise InvalidParameter(f"{name[:100]} has more than {_MAX_PARAMETER_CHARACTERS:,} characters")
    return text


def _from_form(options: Mapping[str, str], data: bytes) -> Upload:
    files: list[File] = []
    fields: dict[str, str] = {}
    for part, content in _parts(options.get("boundary", ""), data):
        if _is_file(part):
            files.append(File(content, part.filename))
        elif part.name in fields:
            raise InvalidParameter(f"{part.name[:100]} is given more than once")
        else:
            fields[part.name] = _limited(part.name, _decoded(part.name, content))
    if not 1 <= len(files) <= MAX_IMAGES:
        raise InvalidParameter(f"the form has {len(files)} files; it must have 1 to {MAX_IMAGES}")
    parameters.refuse_unknown(fields, query.NAMES)
    return Upload(tuple(files), len(files) > 1, fields)


def _parts(boundary: str, data: bytes) -> Iterator[tuple[MultipartSegment, bytes]]:
    """Each part of a form (RFC 7578) with its content."""
    if not boundary:
        raise InvalidParameter(f"the content type {_FORM} must name its boundary")
    try:
        with PushMultipartParser(boundary, max_segment_count=_MAX_PARTS) as parser:
            chunks: list[bytes] = []
            for event in parser.parse(data):
                if isinstance(event, MultipartSegment):
                    part, chunks = event, []
                elif event is None:
                    yield part, b"".join(chunks)
                else:
                    chunks.append(event)
    except MultipartError as error:
        raise InvalidParameter(
            f"the form is malformed ({error.args[0]}); it has up to {_MAX_PARTS} parts, each with a name in its "
            "Content-Disposition, between the boundaries that the content type names"
        ) from error


def _is_file(part: MultipartSegment) -> bool:
    """A part with a file name, or with a content type other than text, which is what a part has that names none."""
    return part.filename is not None or not (part.content_type or "text/plain").startswith("text/")


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidParameter(f"{name[:100]} is not UTF-8; give an image a file name or a content type") from None
