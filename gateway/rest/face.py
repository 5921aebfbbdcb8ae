"""What all routes of the REST face share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.access import Access
    from gateway.detector import Detector
    from gateway.image import ImageLimits
    from gateway.lifecycle import Lifecycle
    from gateway.metrics import Metrics
    from gateway.model import Model
    from gateway.observer import Observer

Handler = TypeVar("Handler", bound="Callable[..., Any]")

REQUEST_ID: Final = web.RequestKey("request_id", str)
EVENT: Final = web.RequestKey("event", dict[str, object])
"""What a handler adds to its request's log line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestFace:
    """What the handlers need: the core, what is served, and the limits of an upload.

    Attributes:
        detector: the core.
        lifecycle: whether this process is ready.
        models: the detectors that are served now, by name; empty while no Triton serves one.
        find: the model and version that serve a request, see `gateway.detector.Predictor.find`.
        metrics: the process's instruments.
        observer: counts and logs requests.
        limits: what one image may cost.
        max_body_bytes: what one request with several images, or with base64, may have.
        upload_timeout_seconds: longest time for a body to arrive.
        timeout_seconds: deadline of a request that names none.
        access: the keys that are asked for; None to serve everyone.
        cors_origins: origins whose pages may call from a browser; `*` for any.
        has_admin_port: whether probes and metrics are served on a port of their own, and only there.
    """

    detector: Detector
    lifecycle: Lifecycle
    models: Callable[[], Mapping[str, Model]]
    find: Callable[[str | None, int | None], tuple[Model, int]]
    metrics: Metrics
    observer: Observer
    limits: ImageLimits
    max_body_bytes: int
    upload_timeout_seconds: float
    timeout_seconds: float
    access: Access | None = None
    cors_origins: tuple[str, ...] = ()
    has_admin_port: bool = False


def detects(handler: Handler) -> Handler:
    """Mark a handler that is asked about images: its requests are counted."""
    handler.is_detection = True  # type: ignore[attr-defined]
    return handler


def json_response(content: Mapping[str, Any] | list[Any], status: int = 200) -> web.Response:
    """NumPy's float32 is written with the digits that tell it apart, and no more."""
    encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(status=status, body=encoded, content_type="application/json")
