"""The REST face as an aiohttp application: its routes, and what is done for every request."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

from gateway import tracing
from gateway.errors import GatewayError
from gateway.observer import OK, fit_request_id
from gateway.rest import access, body, cors, detect, docs, inference, models, probes, problems, shadow, tritons
from gateway.rest.console import live, page, stream
from gateway.rest.face import EVENT, REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.lifecycle import Lifecycle
    from gateway.observer import Observer
    from gateway.rest.face import RestFace

    RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID_HEADER: Final = "X-Request-Id"
_CLIENT_LEFT: Final = 499  # no answer was sent; the number is what web servers log by custom

_log = structlog.get_logger()


def application(face: RestFace) -> web.Application:
    """The application with all routes."""
    # Bodies are inflated by `body.read`: aiohttp would go on inflating one that was refused, for as long as it comes.
    observing = _observing(face.observer, face.core.lifecycle)
    app = web.Application(middlewares=[observing], handler_args={"auto_decompress": False})
    for routes in (detect.routes, inference.routes, models.routes, docs.routes):
        _add(app, routes(face))
    if not face.has_admin_port:
        _add(app, [*probes.routes(face), *shadow.routes(face)])
    if face.has_console:
        _add(app, [*page.routes(), *live.routes(face), *stream.routes(face)])
    if face.cors_origins:
        app.middlewares.append(cors.preflight(face.cors_origins))
        app.on_response_prepare.append(cors.sharing(face.cors_origins))
    if face.core.access:
        app.middlewares.append(access.key_required(face.core.access))
        app.on_response_prepare.append(access.add_quota)
    return app


def admin_application(face: RestFace, describe_tritons: Callable[[], Mapping[str, Any]]) -> web.Application:
    """Probes, metrics, candidates and the Tritons, for a port that only operators reach: none needs a key there."""
    routes = [*probes.routes(face), *shadow.routes(face), *tritons.routes(describe_tritons)]
    return operators_application(routes, face.observer, face.core.lifecycle)


def operators_application(routes: list[web.RouteDef], observer: Observer, lifecycle: Lifecycle) -> web.Application:
    """Some routes for operators, with what is done for every request."""
    app = web.Application(middlewares=[_observing(observer, lifecycle)])
    _add(app, routes)
    return app


def _add(app: web.Application, routes: list[web.RouteDef]) -> None:
    """Add routes. What a client expects is for the handlers to see: aiohttp would answer in its own way, unlogged."""
    for route in routes:
        route.kwargs["expect_handler"] = body.on_expect
    app.add_routes(routes)


def _observing(observer: Observer, lifecycle: Lifecycle) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that gives each request an id, turns errors into problem documents, and lets it be counted."""

    @web.middleware
    async def observe(request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        start = time.perf_counter()
        request_id = request[REQUEST_ID] = fit_request_id(request.headers.get(_REQUEST_ID_HEADER, ""))
        request[EVENT] = {}
        try:
            with tracing.request(_route(request), request.headers):
                response, code = await _answer_or_problem(request, handler)
        except asyncio.CancelledError:
            _finish(observer, request, _CLIENT_LEFT, "cancelled", start)
            raise
        response.headers[_REQUEST_ID_HEADER] = request_id
        response.headers["Cache-Control"] = "no-store"
        response.headers["Server"] = "eagleeye"  # what it is made of is nobody's business
        if lifecycle.is_draining or body.is_held_back(request) or code == body.UPLOAD_TIMEOUT:
            response.force_close()  # draining, so that the caller's next request finds another gateway
        _finish(observer, request, response.status, code, start)
        return response

    return observe


def _finish(observer: Observer, request: web.Request, status: int, code: str, start: float) -> None:
    """Count and log a request; what probes ask every few seconds is not worth it."""
    if request.path in probes.PATHS:
        return
    observer.finished(
        code,
        time.perf_counter() - request.get(body.RECEIVED_AT, start),
        is_detection=getattr(request.match_info.handler, "is_detection", False),
        is_failure=status >= 500,  # noqa: PLR2004 (HTTP's range of server errors)
        request_id=request[REQUEST_ID],
        method=request.method,
        path=request.path,
        status=status,
        **request[EVENT],
    )


def _route(request: web.Request) -> str:
    """Method and route for a span's name; what stands in the place-holders is left out, so that names stay few."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'unknown'}"


async def _answer_or_problem(request: web.Request, handler: RequestHandler) -> tuple[web.StreamResponse, str]:
    """The response and its `code`: `ok`, or the stable code of the problem it is."""
    try:
        return await handler(request), OK
    except GatewayError as error:
        error.__traceback__ = None  # its frames hold it and the image, in a cycle that could stay for long
        return problems.from_error(error, request), error.code
    except problems.Refused as refusal:
        return problems.problem(refusal.status, refusal.code, str(refusal), request, refusal.headers), refusal.code
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not allowed on {request.path}; allowed: {allowed}"
        headers = {"Allow": allowed}
        return problems.problem(405, "method_not_allowed", detail, request, headers), "method_not_allowed"
    except web.HTTPNotFound:
        return problems.problem(404, "not_found", f"there is no {request.path}", request), "not_found"
    except Exception:  # noqa: BLE001 the last line of defence: the caller gets an answer, the log gets the traceback
        _log.exception("unexpected error", request_id=request[REQUEST_ID])
        return problems.problem(500, "internal", problems.UNEXPECTED, request), "internal"
