"""`GET /openapi.json` and `/docs`: the API description for programs, and as a page for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway.rest.face import json_response
from gateway.rest.openapi import page
from gateway.rest.openapi.document import document

if TYPE_CHECKING:
    from gateway.rest.face import RestFace

STYLE_PATH: Final = page.STYLE_PATH
"""Not part of the API: the page's looks."""

_POLICY: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What the page needs, and nothing else."""

_FIT_HOST: Final = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def routes(face: RestFace) -> list[web.RouteDef]:
    """The document, and the page with its style sheet; without the console, the way there from the root, too."""

    async def describe(request: web.Request) -> web.Response:
        return json_response(document(face, _origin(request)))

    async def read(request: web.Request) -> web.Response:
        text = page.render(document(face, _origin(request)))
        return web.Response(text=text, content_type="text/html", headers=_POLICY)

    async def style(_: web.Request) -> web.Response:
        return web.Response(body=page.STYLE, content_type="text/css", headers=_POLICY)

    async def enter(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/docs"})

    routes = [web.get("/openapi.json", describe), web.get("/docs", read), web.get(STYLE_PATH, style)]
    return routes if face.has_console else [web.get("/", enter), *routes]


def _origin(request: web.Request) -> str:
    """The address that this client used, so that what it copies works for it; a strange one is not repeated."""
    host = request.host if _FIT_HOST.fullmatch(request.host) else "127.0.0.1:8080"
    return f"{request.scheme}://{host}"
