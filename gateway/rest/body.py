"""Reads a request's body within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.image import too_many_bytes

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.image import ImageLimits


class UploadTimeout(Exception):
    """The body did not arrive in time. It concerns this face alone, so it is no `GatewayError`."""


async def read(request: web.Request, limits: ImageLimits, timeout_seconds: float) -> bytes:
    """The whole body. One that is too large is refused as soon as that is known, not after it was received.

    Raises:
        ImageTooLarge: over `limits.max_bytes`, declared or received.
        UploadTimeout: not complete after `timeout_seconds`.
    """
    if (request.content_length or 0) > limits.max_bytes:
        raise too_many_bytes(limits)
    chunks: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.content.iter_any():
                received += len(chunk)
                if received > limits.max_bytes:
                    raise too_many_bytes(limits)
                chunks.append(chunk)
    except TimeoutError:
        raise UploadTimeout from None
    return b"".join(chunks)
