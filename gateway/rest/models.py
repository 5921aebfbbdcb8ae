"""`GET /v1/models`: what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.errors import ModelNotFound
from gateway.rest.face import json_response

if TYPE_CHECKING:
    from gateway.model import Model
    from gateway.rest.face import RestFace
    from gateway.versions import Versions


def routes(face: RestFace) -> list[web.RouteDef]:
    """The list and the look-up."""

    async def list_models(_: web.Request) -> web.Response:
        served = sorted(face.core.predictor.models.items())
        return json_response({"models": [describe(model, face.core.versions) for _, model in served]})

    async def show_model(request: web.Request) -> web.Response:
        name, served = request.match_info["name"], face.core.predictor.models
        if name not in served:
            raise ModelNotFound(f"there is no model {name!r}; served are: {', '.join(sorted(served)) or 'none'}")
        return json_response(describe(served[name], face.core.versions))

    return [web.get("/v1/models", list_models), web.get("/v1/models/{name}", show_model)]


def describe(model: Model, versions: Versions) -> dict[str, Any]:
    """What the caller gets to know of a model."""
    shadow = versions.rollout.of(model.name).shadow
    return {
        "name": model.name,
        "versions": [str(version) for version in model.versions],
        "weights": {str(version): weight for version, weight in versions.weights(model).items()},
        "shadow": shadow and {"version": str(shadow.version), "percent": shadow.percent},
        "state": "ready",
        "input": {"width": model.input_wh[0], "height": model.input_wh[1], "resize": model.resize},
        "labels": model.labels,
        "defaults": {"score_threshold": model.score_threshold, "iou_threshold": model.iou_threshold},
        "facts": model.facts,
    }
