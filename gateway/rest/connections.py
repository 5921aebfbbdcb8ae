"""How many connections the REST face has at a time.

A connection that is slow to say what it wants costs little, and is cut off by aiohttp when the time for keeping it open
is over, whether a request's header has begun to arrive or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterator

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


async def stop_listening(
    listener: asyncio.Server, connect: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None, seconds: float
) -> None:
    """Close a listener, but take what has come to it meanwhile: the kernel would reset it, with what it has sent.

    Args:
        listener: made with `connect` and `tls`.
        connect: makes the protocol of a connection.
        tls: how connections are secured, if they are.
        seconds: how long what was taken may go on before this returns.
    """
    sockets = [each.dup() for each in listener.sockets]
    listener.close()
    loop = asyncio.get_running_loop()
    taking = [
        asyncio.create_task(loop.connect_accepted_socket(connect, connection, ssl=tls))
        for each in sockets
        for connection in _waiting(each)
    ]
    await asyncio.sleep(seconds)
    for task in taking:
        task.cancel()
    await asyncio.gather(*taking, return_exceptions=True)  # who left, or has not shaken hands


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """All connections that nobody has accepted yet; closes the listener right after."""
    with listener:
        listener.setblocking(False)
        while True:
            try:
                yield listener.accept()[0]
            except ConnectionAbortedError:  # that one has left
                continue
            except OSError:  # there is none, or no room for one more
                return


class _Refusal(asyncio.Protocol):
    """Answers 503, whatever comes, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (a stream's always is)
        transport.write(_REFUSAL)
        if transport.can_write_eof():
            transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGERING_SECONDS, transport.close)
