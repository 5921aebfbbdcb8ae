"""`/v2`: the Open Inference Protocol, as clients of Triton and KServe speak it.

To its callers the gateway is a model that takes encoded images and gives boxes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway import access, batch, oip
from gateway.deadline import Deadline
from gateway.metrics import StageTimer
from gateway.rest import body
from gateway.rest.face import EVENT, detects, json_response
from gateway.rest.inference_messages import JSON_LENGTH, read_request, write_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.detector import Query
    from gateway.model import Model
    from gateway.rest.face import RestFace

_EXTENSIONS: Final = ("binary_tensor_data", "parameters")
_MODEL: Final = "/v2/models/{name}"
_VERSION: Final = _MODEL + "/versions/{version}"
_COMPRESSED_IN_LOOP_BYTES: Final = 16_000  # takes about a millisecond; what is larger is compressed in a thread


def routes(face: RestFace) -> list[web.RouteDef]:
    """Health, metadata and inference."""
    return [*_of_server(face), *_of_models(face), *_inference(face)]


def _of_server(face: RestFace) -> list[web.RouteDef]:
    """What is not about one model."""

    async def live(_: web.Request) -> web.Response:
        return json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        is_ready = face.core.lifecycle.is_ready
        return json_response({"ready": is_ready}, status=200 if is_ready else 503)

    async def server_metadata(_: web.Request) -> web.Response:
        return json_response({**oip.SERVER, "extensions": _EXTENSIONS})

    async def list_models(_: web.Request) -> web.Response:
        return json_response({"models": sorted(face.core.predictor.models)})

    async def repository_index(_: web.Request) -> web.Response:
        return json_response(oip.repository_index(face.core.predictor.models))

    return [
        web.get("/v2", server_metadata),
        web.get("/v2/health/live", live),
        web.get("/v2/health/ready", ready),
        web.get("/v2/models", list_models),
        web.post("/v2/repository/index", repository_index),
    ]


def _of_models(face: RestFace) -> list[web.RouteDef]:
    """What there is to know of a model, or of one version of it."""

    async def model_metadata(request: web.Request) -> web.Response:
        model, _ = _find(face, request)
        return json_response(oip.model_metadata(model))

    async def model_config(request: web.Request) -> web.Response:
        model, _ = _find(face, request)
        return json_response(oip.model_config(model))

    async def model_ready(request: web.Request) -> web.Response:
        model, _ = _find(face, request)
        is_ready = model.name in face.core.predictor.models  # and not only expected back
        return json_response({"name": model.name, "ready": is_ready}, status=200 if is_ready else 503)

    return [
        *(web.get(path, model_metadata) for path in (_MODEL, _VERSION)),
        *(web.get(f"{path}/config", model_config) for path in (_MODEL, _VERSION)),
        *(web.get(f"{path}/ready", model_ready) for path in (_MODEL, _VERSION)),
    ]


def _inference(face: RestFace) -> list[web.RouteDef]:
    @detects
    async def infer(request: web.Request) -> web.Response:
        flow = access.flow(request.remote or "")
        with face.core.memory.hold(flow) as hold:
            return await _answer(face, request, flow, hold)

    return [web.post(f"{path}/infer", infer) for path in (_MODEL, _VERSION)]


async def _answer(face: RestFace, request: web.Request, flow: str, hold: Callable[[int], None]) -> web.Response:
    event = request[EVENT]
    if face.core.hold.is_due:
        face.core.hold.check()
    else:
        model, _ = _find(face, request)  # refused before the upload
        event["model"] = model.name
    body.check_length(request, face.max_body_bytes)
    face.core.memory.check(flow, request.content_length or 0)
    data = await body.read(request, face.max_body_bytes, face.upload_timeout_seconds, hold)
    asked = await asyncio.to_thread(read_request, data, request.headers.get(JSON_LENGTH))
    query, seconds = _read_query(request, asked.texts)
    deadline = Deadline.after(face.core.timeout_seconds if seconds is None else seconds)
    outcomes = await batch.detect_each(
        face.core,
        face.observer,
        asked.images,
        query,
        deadline,
        event=event,
        flow=flow,
        sequence=oip.sequence(asked.texts, flow),
        all_or_none=True,
    )
    event |= batch.log_fields(asked.images, outcomes)
    results = batch.all_results(outcomes)
    with StageTimer(face.core.metrics, results[0].model.name).stage("encode"):
        return _response(*write_response(asked, results))


def _find(face: RestFace, request: web.Request) -> tuple[Model, int]:
    wanted, _ = _read_query(request, {})
    return face.core.predictor.find(wanted.model, wanted.version)


def _read_query(request: web.Request, texts: Mapping[str, str]) -> tuple[Query, float | None]:
    return oip.read_query(texts, request.match_info["name"], request.match_info.get("version", ""))


def _response(content: bytes, json_length: int) -> web.Response:
    """An answer that is compressed if the caller takes that; the JSON's length counts before compression."""
    response = web.Response(body=content, content_type="application/json", zlib_executor_size=_COMPRESSED_IN_LOOP_BYTES)
    if json_length < len(content):
        response.content_type = "application/octet-stream"
        response.headers[JSON_LENGTH] = str(json_length)
    response.enable_compression()
    return response
