"""`GET /v1/triton`: how the gateway sees each Triton. For operators: callers need not know where Triton is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.rest.face import json_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def routes(describe: Callable[[], Mapping[str, Any]]) -> list[web.RouteDef]:
    """The one view; `describe` makes it."""

    async def show(_: web.Request) -> web.Response:
        return json_response(describe())

    return [web.get("/v1/triton", show)]
