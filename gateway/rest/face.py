"""What all routes of the REST face share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.core import Core
    from gateway.observer import Observer
    from gateway.rest.console.feed import Tritons

Handler = TypeVar("Handler", bound="Callable[..., Any]")

REQUEST_ID: Final = web.RequestKey("request_id", str)
EVENT: Final = web.RequestKey("event", dict[str, object])
"""What a handler adds to its request's log line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestFace:
    """What the handlers need beside a request.

    Attributes:
        core: what both faces stand on.
        observer: counts and logs requests.
        max_body_bytes: what one request with several images, or with base64, may have.
        upload_timeout_seconds: longest time for a body to arrive.
        cors_origins: origins whose pages may call from a browser; `*` for any.
        has_admin_port: whether probes and metrics are served on a port of their own, and only there.
        has_console: whether the console is served, with its feed and its stream.
        tritons: what the console's feed asks; None shows none.
        workers: how many processes serve, this one included; the console has the numbers of this one.
    """

    core: Core
    observer: Observer
    max_body_bytes: int
    upload_timeout_seconds: float
    cors_origins: tuple[str, ...] = ()
    has_admin_port: bool = False
    has_console: bool = True
    tritons: Tritons | None = None
    workers: int = 1


def detects(handler: Handler) -> Handler:
    """Mark a handler that is asked about images: its requests are counted."""
    handler.is_detection = True  # type: ignore[attr-defined]
    return handler


def json_response(content: Mapping[str, Any] | list[Any], status: int = 200) -> web.Response:
    """NumPy's float32 is written with the digits that tell it apart, and no more."""
    encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(status=status, body=encoded, content_type="application/json")
