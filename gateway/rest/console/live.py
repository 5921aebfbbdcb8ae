"""`GET /v1/live`: the feed as server-sent events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway import access
from gateway.errors import Unauthorized
from gateway.rest.access import presented
from gateway.rest.console.feed import Feed
from gateway.rest.face import REQUEST_ID

if TYPE_CHECKING:
    from gateway.rest.face import RestFace

PATH: Final = "/v1/live"
_WRITE_SECONDS: Final = 10.0  # a viewer that takes nothing for so long has gone, or is no use to anybody


def routes(face: RestFace) -> list[web.RouteDef]:
    """The one route."""
    feed = Feed(face.core, face.tritons, face.workers)

    async def live(request: web.Request) -> web.StreamResponse:
        headers = {
            "Cache-Control": "no-store",
            "Content-Type": "text/event-stream",
            "Server": "eagleeye",
            "X-Accel-Buffering": "no",  # proxies of nginx's kind would keep events back
            "X-Request-Id": request[REQUEST_ID],
        }
        response = web.StreamResponse(headers=headers)
        response.force_close()
        await response.prepare(request)
        async with aclosing(feed.events(access.current())) as events:
            async for event in events:
                if not _is_as_before(face, request):
                    break
                try:
                    async with asyncio.timeout(_WRITE_SECONDS):
                        await response.write(event)
                except (TimeoutError, ConnectionError):
                    if request.transport is not None:
                        request.transport.abort()
                    break
        return response

    return [web.get(PATH, live, allow_head=False)]


def _is_as_before(face: RestFace, request: web.Request) -> bool:
    """Whether the viewer's key is still known, and allows the same models."""
    caller = access.current()
    if face.core.access is None or caller is None:
        return True
    try:
        return face.core.access.identify(presented(request)).key.models == caller.key.models
    except Unauthorized:
        return False
