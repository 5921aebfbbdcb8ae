"""How many connections the REST face has at a time.

A connection that is slow to say what it wants costs little, and is cut off by aiohttp when the time for keeping it open
is over, whether a request's header has begun to arrive or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

_LINGERING_SECONDS: Final = 1.0  # for the refusal to be read: closing before the caller has sent all could undo it
_BODY: Final = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"code":"overloaded",'
    b'"detail":"the gateway has as many connections as it may"}'
)
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


def limited(server: web.Server, max_connections: int, on_refusal: Callable[[], None]) -> Callable[[], asyncio.Protocol]:
    """A protocol factory that hands connections to `server`, and refuses those over the limit without reading them."""

    def connect() -> asyncio.Protocol:
        if len(server.connections) < max_connections:
            return server()
        on_refusal()
        return _Refusal()

    return connect


class _Refusal(asyncio.Protocol):
    """Answers 503, whatever comes, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (a stream's always is)
        transport.write(_REFUSAL)
        if transport.can_write_eof():
            transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGERING_SECONDS, transport.close)
