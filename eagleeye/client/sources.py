"""Where a caller's images come from, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

    from eagleeye.client.query import Image

LOOK_AHEAD: Final = 2
"""Images of a batch that are held, for each that is under way: one slow answer does not stop those after it."""


async def each(images: Iterable[Image] | AsyncIterable[Image]) -> AsyncGenerator[Image, None]:
    """The images one by one. Those of a plain iterable are made in a thread, as making one may take its time."""
    if isinstance(images, AsyncIterable):
        iterator = aiter(images)
        try:
            async for image in iterator:
                yield image
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
        return
    plain = iter(images)
    while taken := await asyncio.to_thread(_take, plain):
        yield taken[0]


def _take(images: Iterator[Image]) -> list[Image]:
    """The next image, if there is one."""
    return list(islice(images, 1))
