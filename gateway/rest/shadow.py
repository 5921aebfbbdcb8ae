"""`GET /v1/shadow`: how candidates agree with what is served. Where `/metrics` is, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gateway import access
from gateway.rest.face import json_response

if TYPE_CHECKING:
    from gateway.rest.face import RestFace


def routes(face: RestFace) -> list[web.RouteDef]:
    """The one view. A caller sees the models that its key allows; where no key is asked for, all."""

    async def show(_: web.Request) -> web.Response:
        caller = access.current()
        return json_response(face.core.shadowing.report(lambda model: caller is None or caller.may_use(model)))

    return [web.get("/v1/shadow", show)]
