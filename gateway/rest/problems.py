"""Errors as RFC 9457 `application/problem+json`, in one table."""

from __future__ import annotations

import http
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

HTTP_STATUS: Final[dict[type[errors.GatewayError], int]] = {
    errors.InvalidImage: 400,
    errors.InvalidParameter: 400,
    errors.ModelNotFound: 404,
    errors.ImageTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.InvalidPrediction: 502,
    errors.Overloaded: 503,
    errors.TritonUnavailable: 503,
    errors.DeadlineExceeded: 504,
}
_RETRY_AFTER_SECONDS: Final = 1  # a Triton that is away is probed more often than this


def from_error(error: errors.GatewayError, request_id: str) -> web.Response:
    """The answer to a request that the core refused or could not serve."""
    status = HTTP_STATUS[type(error)]
    headers = {}
    if isinstance(error, errors.Overloaded):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif isinstance(error, errors.TritonUnavailable):
        headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return problem(status, error.code, str(error), request_id, headers)


def problem(
    status: int, code: str, detail: str, request_id: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """One problem document: `code` is stable and for programs, `detail` for people."""
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/problem+json", headers=headers
    )
