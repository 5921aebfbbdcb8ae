"""The parameters of `/v1/detect`, from the query string and from the body -> what the core is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway import parameters
from gateway.errors import InvalidParameter
from gateway.rest import outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import MultiMapping

    from gateway.detector import Query
    from gateway.rest.outputs import Format

MAX_IMAGE_ID: Final = 2**53 - 1000
"""JSON's numbers are exact up to 2**53, and the images of a list count up from the one that is given."""

NAMES: Final = ("model", "version", *parameters.NAMES, "format", "image_id")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        query: what the core is asked.
        timeout_seconds: for the answer, counted from when the body is there; None stands for the face's own.
        format: form of the answer; None leaves it to the request's `Accept`.
        image_id: of the first image in COCO's rows; that of each further one is one higher.
    """

    query: Query
    timeout_seconds: float | None
    format: Format | None
    image_id: int


def texts(given: MultiMapping[str]) -> dict[str, str]:
    """The parameters of a query string, by name.

    Raises:
        InvalidParameter: an unknown name, or one given twice.
    """
    parameters.refuse_unknown(given, NAMES)
    for name in given:
        if len(given.getall(name)) > 1:
            raise InvalidParameter(f"{name} is given more than once")
    return dict(given)


def join(in_query: Mapping[str, str], in_body: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a query string and of a body together.

    Raises:
        InvalidParameter: one stands in both.
    """
    for name in in_body:
        if name in in_query:
            raise InvalidParameter(f"{name} is given both in the query string and in the body")
    return {**in_query, **in_body}


def parse(given: Mapping[str, str]) -> Asked:
    """Read and check every parameter.

    Raises:
        InvalidParameter: a bad value; the message says what is allowed.
    """
    query, timeout_seconds = parameters.read(given)
    return Asked(
        query, timeout_seconds, outputs.read_format(given.get("format")), _image_id(given.get("image_id", "0"))
    )


def _image_id(text: str) -> int:
    try:
        image_id = parameters.whole(text)
    except ValueError:
        image_id = -1
    if not 0 <= image_id <= MAX_IMAGE_ID:
        raise InvalidParameter(f"image_id is {text[:100]!r}; it must be a whole number, 0 to {MAX_IMAGE_ID}")
    return image_id
