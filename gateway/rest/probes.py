"""What Kubernetes and Prometheus ask, every few seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.rest.face import json_response

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from gateway.lifecycle import Readiness
    from gateway.rest.face import RestFace

PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Asked too often to be worth a log line."""


def routes(face: RestFace) -> list[web.RouteDef]:
    """Liveness, readiness and metrics."""

    async def healthz(_: web.Request) -> web.Response:
        return alive(None)

    async def readyz(_: web.Request) -> web.Response:
        return ready(face.core.lifecycle.readiness(face.core.predictor.models))

    async def metrics(_: web.Request) -> web.Response:
        return exposition(face.core.metrics.registry)

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]


def alive(reason: str | None) -> web.Response:
    """The answer to `/healthz`; `reason` is why it is bad, None if it is not."""
    if reason:
        return json_response({"status": "not alive", "reason": reason}, status=503)
    return json_response({"status": "alive"})


def ready(readiness: Readiness) -> web.Response:
    """The answer to `/readyz`."""
    if readiness.reason:
        return json_response({"status": "not ready", "reason": readiness.reason}, status=503)
    return json_response({"status": "ready", "models": list(readiness.models)})


def exposition(metrics: Collector) -> web.Response:
    """The answer to `/metrics`."""
    return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})
