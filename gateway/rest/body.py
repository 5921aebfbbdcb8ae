"""Reads a request's body within limits of size and time, whatever its `Content-Encoding`."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

from gateway.errors import ImageTooLarge, InvalidParameter, UnsupportedMediaType
from gateway.rest.problems import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader

RECEIVED_AT: Final = web.RequestKey("received_at", float)
"""When a request's body was there, in seconds of `time.perf_counter`."""

UPLOAD_TIMEOUT: Final = "upload_timeout"
"""The code of `UploadTimeout`."""

_IDENTITY: Final = "identity"
_CODINGS: Final = ("gzip", "deflate")
_ANY_WINDOW_AND_HEADER: Final = 32 + zlib.MAX_WBITS  # zlib finds out by itself whether its own or gzip's header comes
_CONTINUE_IS_DUE: Final = web.RequestKey("continue_is_due", bool)


class UploadTimeout(Refused):
    """The body did not arrive in time."""

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(408, UPLOAD_TIMEOUT, f"the body did not arrive within {timeout_seconds:g} s")


async def on_expect(request: web.Request) -> None:
    """An `expect_handler` that puts `100 Continue` off until `read` wants the body: refusals come without an upload."""
    is_asked = request.headers["Expect"].lower() == "100-continue"
    request[_CONTINUE_IS_DUE] = is_asked and request.version >= HttpVersion11


def is_held_back(request: web.Request) -> bool:
    """Whether the client still waits for `100 Continue`: nobody knows what it sends next, so close after answering."""
    return bool(request.get(_CONTINUE_IS_DUE))


def check_length(request: web.Request, max_bytes: int) -> None:
    """Refuse a body that says it is too large.

    Raises:
        ImageTooLarge: over `max_bytes`.
    """
    if (request.content_length or 0) > max_bytes:
        raise too_many_bytes(max_bytes)


async def read(request: web.Request, max_bytes: int, timeout_seconds: float, hold: Callable[[int], None]) -> bytes:
    """The whole body, inflated. One that is too large is refused as soon as that is known, not after it was received.

    `hold` is told of bytes before they are kept, see `gateway.memory.ByteBudget.hold`.

    Raises:
        ImageTooLarge: over `max_bytes`, declared, received or inflated.
        InvalidParameter: it is not what its `Content-Encoding` says.
        Overloaded: there is no room for it.
        UnsupportedMediaType: the `Content-Encoding` is neither gzip nor deflate.
        UploadTimeout: not complete after `timeout_seconds`, however steadily it trickles.
    """
    coding = request.headers.get("Content-Encoding", _IDENTITY).strip().lower()
    if coding not in {_IDENTITY, *_CODINGS}:
        raise UnsupportedMediaType(
            f"the content encoding {coding[:100]!r} is not known; allowed: {', '.join(_CODINGS)}"
        )
    check_length(request, max_bytes)
    if is_held_back(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun
        request[_CONTINUE_IS_DUE] = False
    try:
        async with asyncio.timeout(timeout_seconds):
            if coding == _IDENTITY:
                data = await _received(request.content, max_bytes, hold)
            else:
                data = await _inflated(request.content, coding, max_bytes, hold)
    except TimeoutError:
        raise UploadTimeout(timeout_seconds) from None
    request[RECEIVED_AT] = time.perf_counter()
    return data


def too_many_bytes(max_bytes: int) -> ImageTooLarge:
    """The refusal of a body that is over the limit."""
    return ImageTooLarge(f"the body has more than {max_bytes:,} bytes, the most that is accepted")


async def _received(content: StreamReader, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """The body as it comes."""
    kept = []
    size = 0
    while chunk := await content.readany():
        size += len(chunk)
        if size > max_bytes:
            raise too_many_bytes(max_bytes)
        hold(len(chunk))
        kept.append(chunk)
    return b"".join(kept)


async def _inflated(content: StreamReader, coding: str, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """Inflate in a thread, and never more than the limit and one byte: a bomb ends there."""
    inflater = zlib.decompressobj(_ANY_WINDOW_AND_HEADER)
    kept = []
    received = size = 0
    try:
        while chunk := await content.readany():
            received += len(chunk)
            if received > max_bytes:
                raise too_many_bytes(max_bytes)
            piece = await asyncio.to_thread(inflater.decompress, chunk, max_bytes + 1 - size)
            size += len(piece)
            if size > max_bytes:
                raise too_many_bytes(max_bytes)
            if inflater.unused_data:
                raise InvalidParameter(f"the body goes on after its {coding} data")
            hold(len(piece))
            kept.append(piece)
    except zlib.error as error:
        raise InvalidParameter(f"the body is not {coding}, as its Content-Encoding says") from error
    if not inflater.eof:
        raise InvalidParameter(f"the {coding} data of the body are cut short")
    return b"".join(kept)
