"""Errors as RFC 9457 `application/problem+json`, in one table."""

from __future__ import annotations

import http
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from gateway import errors
from gateway.rest.face import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

HTTP_STATUS: Final[dict[type[errors.GatewayError], int]] = {
    errors.InvalidImage: 400,
    errors.InvalidParameter: 400,
    errors.Unauthorized: 401,
    errors.ModelNotFound: 404,
    errors.ImageTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.RateLimited: 429,
    errors.InvalidPrediction: 502,
    errors.Overloaded: 503,
    errors.TritonUnavailable: 503,
    errors.DeadlineExceeded: 504,
}
OIP_PREFIX: Final = "/v2"
UNEXPECTED: Final = "an unexpected error happened; the log has it under the request id"


class Refused(Exception):
    """A request that is refused for a reason that concerns this face alone, so it is no `GatewayError`."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = headers


def from_error(error: errors.GatewayError, request: web.Request) -> web.Response:
    """The answer to a request that the core refused or could not serve."""
    status = HTTP_STATUS[type(error)]
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(status, error.code, str(error), request, headers)


def fields(error: errors.GatewayError) -> dict[str, Any]:
    """A problem document's members that tell about the error itself, for an answer that holds several."""
    return _fields(HTTP_STATUS[type(error)], error.code, str(error))


def unexpected() -> dict[str, Any]:
    """The same for a defect of ours."""
    return _fields(500, "internal", UNEXPECTED)


def problem(
    status: int, code: str, detail: str, request: web.Request, headers: Mapping[str, str] | None = None
) -> web.Response:
    """One problem document: `code` is stable and for programs, `detail` for people.

    Clients of the Open Inference Protocol look for the text in `error`, so on its routes it stands there too.
    """
    body = {**_fields(status, code, detail), "request_id": request[REQUEST_ID]}
    if request.path.startswith(OIP_PREFIX):
        body["error"] = detail
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/problem+json", headers=headers
    )


def _fields(status: int, code: str, detail: str) -> dict[str, Any]:
    title = http.HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}
