"""`POST /v1/detect`: images in, detections out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from gateway.rest import body, query
from gateway.rest.face import EVENT, REQUEST_ID, detects, json_response

if TYPE_CHECKING:
    from gateway.detector import Result
    from gateway.rest.face import RestFace

PATHS: Final = ("/v1/detect", "/detect", "/api/detect")


def routes(face: RestFace) -> list[web.RouteDef]:
    """The route and its aliases."""

    @detects
    async def detect(request: web.Request) -> web.Response:
        data = await body.read(request, face.limits, face.upload_timeout_seconds)
        wanted, deadline = query.parse(request.query, face.timeout_seconds)
        start = time.perf_counter()
        result = await face.detector.detect(data, wanted, deadline)
        request[EVENT].update(face.observer.detected(result, len(data), time.perf_counter() - start))
        with face.metrics.stage_seconds.labels("encode", result.model.name).time():
            return json_response({**answer(result), "request_id": request[REQUEST_ID]})

    return [web.post(path, detect) for path in PATHS]


def answer(result: Result) -> dict[str, Any]:
    """What the caller gets to know of one image."""
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
