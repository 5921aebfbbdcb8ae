"""`GET /`: the console's page and its files. They hold no data, so nobody needs a key to load them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from importlib.resources.abc import Traversable

_PREFIX: Final = "/console/"
_PAGE: Final = "index.html"
_MEDIA_TYPES: Final = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
}
_POLICY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What the page needs, and nothing else. No text becomes HTML, whoever wrote it: the browser itself refuses that."""


def _static() -> dict[str, Traversable]:
    return {each.name: each for each in files("gateway.rest.console").joinpath("static").iterdir()}


PATHS: Final = frozenset({"/", *(_PREFIX + name for name in _static() if name != _PAGE)})
"""The page and each of its files."""


def routes() -> list[web.RouteDef]:
    """A route for each file, which is read once."""
    return [
        web.get("/" if name == _PAGE else _PREFIX + name, _serving(name, file.read_bytes()))
        for name, file in sorted(_static().items())
    ]


def _serving(name: str, content: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    charset = "utf-8" if media_type.startswith("text/") else None

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type=media_type, charset=charset, headers=_POLICY)

    return serve
