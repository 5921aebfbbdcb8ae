"""The query string of `/v1/detect` -> `Query` and `Deadline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway import parameters
from gateway.deadline import Deadline
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from multidict import MultiMapping

    from gateway.detector import Query

_KNOWN: Final = ("model", "version", *parameters.NAMES)


def parse(query: MultiMapping[str], default_timeout_seconds: float) -> tuple[Query, Deadline]:
    """Read and check every parameter. The deadline's clock starts here.

    Raises:
        InvalidParameter: an unknown name, a name given twice, or a bad value; the message says what is allowed.
    """
    parameters.refuse_unknown(query, _KNOWN)
    for name in query:
        if len(query.getall(name)) > 1:
            raise InvalidParameter(f"{name} is given more than once")
    wanted, timeout_seconds = parameters.read(query)
    return wanted, Deadline.after(default_timeout_seconds if timeout_seconds is None else timeout_seconds)
