"""The REST face's routes. Each handler reads as: convert in, call the core, convert out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.errors import GatewayError, ModelNotFound
from gateway.observer import OK, fit_request_id
from gateway.rest import body, problems, query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.detector import Detector, Result
    from gateway.image import ImageLimits
    from gateway.metrics import Metrics
    from gateway.model import Model
    from gateway.observer import Observer

_REQUEST_ID_HEADER: Final = "X-Request-Id"
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds, and not worth a log line
_REQUEST_ID: Final = web.RequestKey("request_id", str)
_EVENT: Final = web.RequestKey("event", dict[str, object])  # what a handler adds to the log line

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestFace:
    """What the handlers need: the core, what is served, and the limits of an upload.

    Attributes:
        detector: the core.
        models: the detectors that are served now, by name; empty while no Triton serves one.
        metrics: the process's instruments, for their page.
        observer: counts and logs requests.
        limits: what one upload may cost.
        upload_timeout_seconds: longest time for a body to arrive.
        timeout_seconds: deadline of a request that names none.
    """

    detector: Detector
    models: Callable[[], Mapping[str, Model]]
    metrics: Metrics
    observer: Observer
    limits: ImageLimits
    upload_timeout_seconds: float
    timeout_seconds: float

    def application(self) -> web.Application:
        """The aiohttp application with all routes."""
        app = web.Application(middlewares=[self._observe])
        app.add_routes(
            [
                *(web.post(path, self._detect) for path in ("/v1/detect", "/detect", "/api/detect")),
                web.get("/v1/models", self._list_models),
                web.get("/v1/models/{name}", self._show_model),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_page),
            ]
        )
        return app

    async def _detect(self, request: web.Request) -> web.Response:
        data = await body.read(request, self.limits, self.upload_timeout_seconds)
        wanted, deadline = query.parse(request.query, self.timeout_seconds)
        start = time.perf_counter()
        result = await self.detector.detect(data, wanted, deadline)
        request[_EVENT].update(self.observer.detected(result, len(data), time.perf_counter() - start))
        with self.metrics.stage_seconds.labels("encode", result.model.name).time():
            return _json({**_answer(result), "request_id": request[_REQUEST_ID]})

    async def _list_models(self, _: web.Request) -> web.Response:
        return _json({"models": [_describe(model) for _, model in sorted(self.models().items())]})

    async def _show_model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        served = self.models()
        if name not in served:
            raise ModelNotFound(f"there is no model {name!r}; served are: {', '.join(sorted(served)) or 'none'}")
        return _json(_describe(served[name]))

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        served = sorted(self.models())
        if not served:
            return _json({"status": "not ready", "reason": "no Triton serves a detector"}, status=503)
        return _json({"status": "ready", "models": served})

    async def _metrics_page(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @web.middleware
    async def _observe(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Give each request an id, turn errors into problem documents, and let the observer count and log it."""
        start = time.perf_counter()
        request_id = request[_REQUEST_ID] = fit_request_id(request.headers.get(_REQUEST_ID_HEADER, ""))
        event = request[_EVENT] = {}
        response, code = await self._answer_or_problem(request, handler, request_id)
        response.headers[_REQUEST_ID_HEADER] = request_id
        response.headers["Cache-Control"] = "no-store"
        if request.path not in _PROBES:
            self.observer.finished(
                code,
                time.perf_counter() - start,
                is_detection=request.match_info.handler == self._detect,
                is_failure=response.status >= 500,  # noqa: PLR2004 (HTTP's range of server errors)
                request_id=request_id,
                method=request.method,
                path=request.path,
                status=response.status,
                **event,
            )
        return response

    async def _answer_or_problem(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        request_id: str,
    ) -> tuple[web.StreamResponse, str]:
        """The response and its `code`: `ok`, or the stable code of the problem it is."""
        try:
            return await handler(request), OK
        except GatewayError as error:
            return problems.from_error(error, request_id), error.code
        except body.UploadTimeout:
            detail = f"the body did not arrive within {self.upload_timeout_seconds:g} s"
            return problems.problem(
                408, "upload_timeout", detail, request_id, {"Connection": "close"}
            ), "upload_timeout"
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


def _answer(result: Result) -> dict[str, Any]:
    width, height = result.image_wh
    found = result.detections
    return {
        "model": {"name": result.model.name, "version": str(result.version)},
        "image": {"width": width, "height": height},
        "detections": [
            {
                "label": result.model.labels[class_id],
                "class_id": class_id,
                "score": score,
                "box": dict(zip(("x1", "y1", "x2", "y2"), xyxy, strict=True)),
            }
            for class_id, score, xyxy in zip(found.class_ids, found.scores, found.xyxy, strict=True)
        ],
        "timing_ms": result.timing_ms,
    }


def _describe(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [str(version) for version in model.versions],
        "state": "ready",
        "input": {"width": model.input_wh[0], "height": model.input_wh[1], "resize": model.resize},
        "labels": model.labels,
        "defaults": {"score_threshold": model.score_threshold, "iou_threshold": model.iou_threshold},
        "facts": model.facts,
    }


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    """NumPy's float32 is written with the digits that tell it apart, and no more."""
    encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(status=status, body=encoded, content_type="application/json")
