"""The REST face as an aiohttp application: its routes, and what is done for every request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from gateway import tracing
from gateway.errors import GatewayError
from gateway.observer import OK, fit_request_id
from gateway.rest import body, detect, models, probes, problems
from gateway.rest.face import EVENT, REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.rest.face import RestFace

    RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID_HEADER: Final = "X-Request-Id"

_log = structlog.get_logger()


def application(face: RestFace) -> web.Application:
    """The application with all routes."""
    app = web.Application(middlewares=[_observing(face)])
    for routes in (detect.routes, models.routes, probes.routes):
        app.add_routes(routes(face))
    return app


def _observing(face: RestFace) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that gives each request an id, turns errors into problem documents, and lets it be counted."""

    @web.middleware
    async def observe(request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        start = time.perf_counter()
        request_id = request[REQUEST_ID] = fit_request_id(request.headers.get(_REQUEST_ID_HEADER, ""))
        event = request[EVENT] = {}
        with tracing.request(_route(request), request.headers):
            response, code = await _answer_or_problem(face, request, handler)
        response.headers[_REQUEST_ID_HEADER] = request_id
        response.headers["Cache-Control"] = "no-store"
        if face.lifecycle.is_draining:
            response.force_close()  # the caller's next request shall find another gateway
        if request.path not in probes.PATHS:
            face.observer.finished(
                code,
                time.perf_counter() - start,
                is_detection=getattr(request.match_info.handler, "is_detection", False),
                is_failure=response.status >= 500,  # noqa: PLR2004 (HTTP's range of server errors)
                request_id=request_id,
                method=request.method,
                path=request.path,
                status=response.status,
                **event,
            )
        return response

    return observe


def _route(request: web.Request) -> str:
    """Method and route for a span's name; what stands in the place-holders is left out, so that names stay few."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'unknown'}"


async def _answer_or_problem(
    face: RestFace, request: web.Request, handler: RequestHandler
) -> tuple[web.StreamResponse, str]:
    """The response and its `code`: `ok`, or the stable code of the problem it is."""
    request_id = request[REQUEST_ID]
    try:
        return await handler(request), OK
    except GatewayError as error:
        return problems.from_error(error, request_id), error.code
    except body.UploadTimeout:
        detail = f"the body did not arrive within {face.upload_timeout_seconds:g} s"
        return problems.problem(408, "upload_timeout", detail, request_id, {"Connection": "close"}), "upload_timeout"
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not allowed on {request.path}; allowed: {allowed}"
        headers = {"Allow": allowed}
        return problems.problem(405, "method_not_allowed", detail, request_id, headers), "method_not_allowed"
    except web.HTTPNotFound:
        return problems.problem(404, "not_found", f"there is no {request.path}", request_id), "not_found"
    except Exception:  # noqa: BLE001 the last line of defence: the caller gets an answer, the log gets the traceback
        _log.exception("unexpected error", request_id=request_id)
        detail = "an unexpected error happened; the log has it under the request id"
        return problems.problem(500, "internal", detail, request_id), "internal"
