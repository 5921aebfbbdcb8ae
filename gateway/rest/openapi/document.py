"""The whole document. Its examples name a model that is served at that moment, so that they can be tried."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from gateway.model import Model
from gateway.resize import ResizeMode
from gateway.rest.console import live, stream
from gateway.rest.openapi import detection, inference, service
from gateway.rest.openapi.parts import KEY_VARIABLE, PICTURE, Subject

if TYPE_CHECKING:
    from gateway.rest.face import RestFace

_STAND_IN: Final = Model(
    name="my_model",
    versions=(1,),
    input_wh=(640, 640),
    candidates=1000,
    labels=("cat", "dog"),
    resize=ResizeMode.STRETCH,
    score_threshold=0.4,
    iou_threshold=0.7,
    facts={"variant": "T"},
)
"""Named in examples while no model is served, and where a key is needed to learn which are."""

_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: KEY`"},
}


def document(face: RestFace, url: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the API that is reached at `url`, an origin such as http://127.0.0.1:8080."""
    served = [] if face.core.access else [model for _, model in sorted(face.core.predictor.models.items())]
    subject = Subject(face, url, served[0] if served else _STAND_IN, is_only_model=len(served) == 1)
    parts = (detection, service, inference)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "EagleEye",
            "version": version("eagleeye"),
            "summary": "Finds objects in images.",
            "description": _overview(subject),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "tags": [part.TAG for part in parts],
        "paths": {path: item for part in parts for path, item in part.paths(subject).items()},
        "components": {
            "schemas": {name: schema for part in parts for name, schema in part.schemas(subject).items()},
            **({"securitySchemes": _KEYS} if face.core.access else {}),
        },
    }


def _console(subject: Subject) -> str:
    """What OpenAPI has no words for: a WebSocket, and events without end."""
    if not subject.face.has_console:
        return "The console is turned off."
    return (
        f"`GET {stream.PATH}` is a WebSocket for the frames of one camera (subprotocol `{stream.PROTOCOL}`): each "
        "binary message is one image, and each answer a text message, what `/v1/detect` answers or an `error`, with "
        "`frame` (the message's number, from 0) and `dropped` (how many frames gave way to it). The query string has "
        "the parameters of `/v1/detect` that say what to find, and `mode`: `latest`, the default, or `ordered`, which "
        f"drops none. `GET {live.PATH}` has server-sent events, one a second, with what the console at `/` shows."
    )


def _overview(subject: Subject) -> str:
    limits = subject.face.core.limits
    key = "No key is needed."
    if subject.face.core.access:
        key = (
            "A key is needed: `Authorization: Bearer KEY` or `X-API-Key: KEY`. The code here takes yours from "
            f"`{KEY_VARIABLE}`, and calls the model `{subject.model.name}`; `GET /v1/models` tells yours."
        )
    return inspect.cleandoc(f"""
        Send the bytes of a picture to `POST /v1/detect`, and get the objects in it, with boxes in its pixels. {key}
        The code on this page works as it stands, with a picture of yours named `{PICTURE}`.

        An image is a JPEG, PNG, WebP or BMP of up to {limits.max_bytes:,} bytes and {limits.max_pixels:,} pixels. Grey
        images count as colour, alpha is dropped, CMYK is converted, 16-bit samples keep their high byte, and of an
        animation the first frame is taken.

        An error is answered as `application/problem+json` (RFC 9457): `code` is stable and for programs, `detail` says
        to people what was wrong and what is allowed. A path that does not exist answers 404 with the code `not_found`,
        a method that a path does not have 405 with `method_not_allowed` and the header `Allow`.

        {_console(subject)}

        Every answer carries `X-Request-Id`: yours, if the request had a printable one of up to 128 characters, else a
        new one. The log has the request under it. Answers are not to be cached.
    """)
