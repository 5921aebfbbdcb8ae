"""`POST /v1/detect`: images in, detections out.

The body is one image as it is, `multipart/form-data` with files, or JSON with base64; see `gateway.rest.inputs`. One
image is answered by itself, and its error is the response's error. A list (several files, or JSON's `images`) is
answered with 200 and a result or an error for each image, in order, once the request itself is in order. COCO's rows
have no place for an error, so there the first image that fails makes the response fail.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway.deadline import Deadline
from gateway.errors import GatewayError, ImageTooLarge, InvalidImage, InvalidParameter, UnsupportedMediaType
from gateway.observer import summary
from gateway.rest import body, inputs, outputs, query
from gateway.rest.face import EVENT, REQUEST_ID, detects, json_response
from gateway.rest.inputs import File, Upload
from gateway.rest.outputs import Format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.detector import Result
    from gateway.rest.face import RestFace
    from gateway.rest.query import Asked

_IMAGE_ERRORS: Final = (ImageTooLarge, InvalidImage, UnsupportedMediaType)

PATHS: Final = ("/v1/detect", "/detect", "/api/detect")


def routes(face: RestFace) -> list[web.RouteDef]:
    """The route and its aliases."""

    @detects
    async def detect(request: web.Request) -> web.Response:
        upload, asked = await _receive(face, request)
        form = asked.format or outputs.negotiate(request.headers.getall("Accept", ()))
        if form is Format.JPEG and upload.is_list:
            raise InvalidParameter("a list of images can't be answered as one picture; send one image, or ask for json")
        outcomes = await _detect_all(face, request, upload.files, asked, with_picture=form is Format.JPEG)
        if upload.is_list and form is Format.JSON:
            content = {"results": outputs.answers(upload.files, outcomes), "request_id": request[REQUEST_ID]}
            return json_response(content)
        results = _results(outcomes, is_list=upload.is_list)
        if form is Format.JPEG:
            return outputs.picture(results[0])
        with face.metrics.stage("encode", results[0].model.name):
            if form is Format.COCO:
                return outputs.coco(results, asked.image_id)
            return json_response({**outputs.answer(results[0]), "request_id": request[REQUEST_ID]})

    return [web.post(path, detect) for path in PATHS]


async def _receive(face: RestFace, request: web.Request) -> tuple[Upload, Asked]:
    """The body and what is asked for. What the query string alone can be refused for is refused before the upload."""
    is_envelope = inputs.is_envelope(request.content_type)
    if "model" in request.query or not is_envelope:
        _note_model(face, request, request.query)
    texts = query.texts(request.query)
    if not is_envelope:
        asked = _resolve(face, request, texts)
        return Upload((File(await body.read(request, face.limits.max_bytes, face.upload_timeout_seconds)),)), asked
    data = await body.read(request, face.max_body_bytes, face.upload_timeout_seconds)
    upload = await asyncio.to_thread(inputs.unpack, request.headers["Content-Type"], data)
    return upload, _resolve(face, request, query.join(texts, upload.parameters))


def _note_model(face: RestFace, request: web.Request, texts: Mapping[str, str]) -> None:
    """Let log and metrics name the model, also of a request that fails later on."""
    with suppress(GatewayError):
        model, _ = face.find(texts.get("model"), None)
        request[EVENT]["model"] = model.name


def _resolve(face: RestFace, request: web.Request, texts: Mapping[str, str]) -> Asked:
    """Read every parameter, and settle model and version, which are then the same for all images."""
    _note_model(face, request, texts)
    asked = query.parse(texts)
    model, version = face.find(asked.query.model, asked.query.version)
    request[EVENT]["version"] = version
    asked.query.thresholds(model)  # a class that the model does not know is the request's error, not each image's
    return replace(asked, query=replace(asked.query, model=model.name, version=version))


async def _detect_all(
    face: RestFace, request: web.Request, files: Sequence[File], asked: Asked, *, with_picture: bool
) -> list[Result | GatewayError]:
    """Each image's result or error, in order; they are worked on at the same time, and share the deadline."""
    timeout_seconds = face.timeout_seconds if asked.timeout_seconds is None else asked.timeout_seconds
    deadline = Deadline.after(timeout_seconds)

    async def attempt(data: bytes) -> Result | GatewayError:
        try:
            result = await face.detector.detect(data, asked.query, deadline, with_picture=with_picture)
        except GatewayError as error:
            return error
        fields.append(face.observer.detected(result, len(data)))
        return result

    fields: list[dict[str, object]] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(file.data)) for file in files]
    outcomes = [task.result() for task in tasks]
    request[EVENT].update(fields[0] if len(files) == 1 and fields else _summary(files, outcomes))
    return outcomes


def _summary(files: Sequence[File], outcomes: Sequence[Result | GatewayError]) -> dict[str, object]:
    """The fields for the log line of a request with several images, or with one that failed."""
    return {
        **summary([each for each in outcomes if not isinstance(each, GatewayError)]),
        "images": len(files),
        "image_bytes": sum(len(file.data) for file in files),
        "failed": dict(Counter(each.code for each in outcomes if isinstance(each, GatewayError))),
    }


def _results(outcomes: Sequence[Result | GatewayError], *, is_list: bool) -> list[Result]:
    """The results if all are there; else the first error is raised, and names its image if there is a list."""
    results: list[Result] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, GatewayError):
            if is_list and isinstance(outcome, _IMAGE_ERRORS):
                raise type(outcome)(f"image {index}: {outcome}") from outcome
            raise outcome
        results.append(outcome)
    return results
