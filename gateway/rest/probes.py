"""What Kubernetes and Prometheus ask, every few seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.rest.face import json_response

if TYPE_CHECKING:
    from gateway.rest.face import RestFace

PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Asked too often to be worth a log line."""


def routes(face: RestFace) -> list[web.RouteDef]:
    """Liveness, readiness and metrics."""

    async def healthz(_: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        if not face.core.lifecycle.is_ready:
            reason = "shutting down" if face.core.lifecycle.is_draining else "no Triton serves a detector"
            return json_response({"status": "not ready", "reason": reason}, status=503)
        return json_response({"status": "ready", "models": sorted(face.core.predictor.models)})

    async def metrics(_: web.Request) -> web.Response:
        page = generate_latest(face.core.metrics.registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
