"""`POST /v1/detect`: images in, detections out.

The body is one image as it is, `multipart/form-data` with files, or JSON with base64; see `gateway.rest.inputs`. One
image is answered by itself, and its error is the response's error. A list (several files, or JSON's `images`) is
answered with 200 and a result or an error for each image, in order, once the request itself is in order. COCO's rows
have no place for an error, so there the first image that fails makes the response fail.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway import access, batch
from gateway.deadline import Deadline
from gateway.errors import GatewayError, InvalidParameter
from gateway.metrics import StageTimer
from gateway.rest import body, inputs, outputs, query
from gateway.rest.face import EVENT, REQUEST_ID, detects, json_response
from gateway.rest.inputs import File, Upload
from gateway.rest.outputs import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.rest.face import RestFace
    from gateway.rest.query import Asked

PATHS: Final = ("/v1/detect", "/detect", "/api/detect")


def routes(face: RestFace) -> list[web.RouteDef]:
    """The route and its aliases."""

    @detects
    async def detect(request: web.Request) -> web.Response:
        flow = access.flow(request.remote or "")
        with face.core.memory.hold(flow) as hold:
            return await _answer(face, request, flow, hold)

    return [web.post(path, detect) for path in PATHS]


async def _answer(face: RestFace, request: web.Request, flow: str, hold: Callable[[int], None]) -> web.Response:
    upload, asked = await _receive(face, request, flow, hold)
    form = asked.format or outputs.negotiate(request.headers.getall("Accept", ()))
    if form is Format.JPEG and upload.is_list:
        raise InvalidParameter("a list of images can't be answered as one picture; send one image, or ask for json")
    images = [file.data for file in upload.files]
    deadline = Deadline.after(_timeout_seconds(face, asked))
    with_picture = form is Format.JPEG
    outcomes = await batch.detect_each(
        face.core,
        face.observer,
        images,
        asked.query,
        deadline,
        event=request[EVENT],
        flow=flow,
        with_picture=with_picture,
    )
    request[EVENT].update(batch.log_fields(images, outcomes))
    if upload.is_list and form is Format.JSON:
        content = {"results": outputs.answers(upload.files, outcomes), "request_id": request[REQUEST_ID]}
        return json_response(content)
    results = batch.all_results(outcomes, names_images=upload.is_list)
    if form is Format.JPEG:
        return outputs.picture(results[0])
    with StageTimer(face.core.metrics, results[0].model.name).stage("encode"):
        if form is Format.COCO:
            return outputs.coco(results, asked.image_id)
        return json_response({**outputs.answer(results[0]), "request_id": request[REQUEST_ID]})


async def _receive(
    face: RestFace, request: web.Request, flow: str, hold: Callable[[int], None]
) -> tuple[Upload, Asked]:
    """The body and what is asked for. What the query string alone can be refused for is refused before the upload.

    So is an image that would be too late. An envelope may say how urgent it is, and how long it may take.
    """
    is_envelope = inputs.is_envelope(request.content_type)
    if "model" in request.query or not is_envelope:
        _note_model(face, request, request.query)
    max_bytes = face.max_body_bytes if is_envelope else face.core.limits.max_bytes
    body.check_length(request, max_bytes)
    face.core.memory.check(flow, request.content_length or 0)
    texts = query.texts(request.query)
    if not is_envelope:
        asked = _resolve(face, texts)
        if face.core.hold.is_due:
            face.core.hold.check()
        else:
            face.core.detector.check(asked.query, _timeout_seconds(face, asked), flow)
        data = await body.read(request, max_bytes, face.upload_timeout_seconds, hold)
        return Upload((File(data),)), asked
    data = await body.read(request, max_bytes, face.upload_timeout_seconds, hold)
    upload = await asyncio.to_thread(inputs.unpack, request.headers["Content-Type"], data)
    texts = query.join(texts, upload.parameters)
    _note_model(face, request, texts)
    return upload, _resolve(face, texts)


def _timeout_seconds(face: RestFace, asked: Asked) -> float:
    return face.core.timeout_seconds if asked.timeout_seconds is None else asked.timeout_seconds


def _note_model(face: RestFace, request: web.Request, texts: Mapping[str, str]) -> None:
    """Let log and metrics name the model, also of a request that fails later on."""
    with suppress(GatewayError):
        model, _ = face.core.predictor.find(texts.get("model"), None)
        request[EVENT]["model"] = model.name


def _resolve(face: RestFace, texts: Mapping[str, str]) -> Asked:
    """Read every parameter, and settle the model; another one that comes while the body arrives changes nothing.

    While there is none, the one that comes settles it.
    """
    asked = query.parse(texts)
    if face.core.hold.is_due:
        return asked
    model, _ = face.core.predictor.find(asked.query.model, asked.query.version)
    asked.query.thresholds(model)  # a class that the model does not know is the request's error, not each image's
    return replace(asked, query=replace(asked.query, model=model.name))
