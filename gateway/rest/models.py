"""`GET /v1/models`: what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.errors import ModelNotFound
from gateway.rest.face import json_response

if TYPE_CHECKING:
    from gateway.model import Model
    from gateway.rest.face import RestFace


def routes(face: RestFace) -> list[web.RouteDef]:
    """The list and the look-up."""

    async def list_models(_: web.Request) -> web.Response:
        return json_response({"models": [describe(model) for _, model in sorted(face.core.predictor.models.items())]})

    async def show_model(request: web.Request) -> web.Response:
        name, served = request.match_info["name"], face.core.predictor.models
        if name not in served:
            raise ModelNotFound(f"there is no model {name!r}; served are: {', '.join(sorted(served)) or 'none'}")
        return json_response(describe(served[name]))

    return [web.get("/v1/models", list_models), web.get("/v1/models/{name}", show_model)]


def describe(model: Model) -> dict[str, Any]:
    """What the caller gets to know of a model."""
    return {
        "name": model.name,
        "versions": [str(version) for version in model.versions],
        "state": "ready",
        "input": {"width": model.input_wh[0], "height": model.input_wh[1], "resize": model.resize},
        "labels": model.labels,
        "defaults": {"score_threshold": model.score_threshold, "iou_threshold": model.iou_threshold},
        "facts": model.facts,
    }
