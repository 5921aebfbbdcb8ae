"""Cross-origin resource sharing: lets pages of other origins call this face from a browser.

One policy holds for every route, so a middleware and a signal are all it takes. (aiohttp-cors, the library for it,
keeps a policy for each route and adds OPTIONS routes of its own, which would answer 405 and 404 in their own way.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from gateway.rest import access, outputs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ANY: Final = "*"

_METHODS: Final = "GET, HEAD, POST"
_REQUEST_HEADERS: Final = (
    "Authorization, Content-Encoding, Content-Type, Inference-Header-Content-Length, Traceparent, Tracestate, "
    "X-API-Key, X-Request-Id"
)
_RESPONSE_HEADERS: Final = ", ".join(
    ("Inference-Header-Content-Length", "Retry-After", "X-Request-Id", *access.HEADERS, *outputs.HEADERS)
)
_MAX_AGE_SECONDS: Final = 600


def preflight(origins: tuple[str, ...]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that answers what a browser asks before a request of a page from `origins`, which has no key yet."""

    @web.middleware
    async def answer_preflight(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        is_preflight = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not (is_preflight and _is_allowed(request, origins)):
            return await handler(request)
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _REQUEST_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_SECONDS),
        }
        return web.Response(status=204, headers=headers)

    return answer_preflight


def sharing(origins: tuple[str, ...]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal handler that lets pages from `origins` read an answer, errors included.

    Cookies and the like are never let through: a key is sent in a header of its own, and the gateway sets no cookies.
    """

    async def share(request: web.Request, response: web.StreamResponse) -> None:
        if ANY not in origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if _is_allowed(request, origins):
            allowed = ANY if ANY in origins else request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _RESPONSE_HEADERS

    return share


def _is_allowed(request: web.Request, origins: tuple[str, ...]) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and (ANY in origins or origin.lower() in origins)
