"""Whether the event loop is kept free: what each of its calls takes while a gateway is busy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from loadtest.bench.path import Cell, ServerSide
from loadtest.serving import serving_beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loadtest.serving import Serving
    from triton_runtime.server import TritonServer

CELLS: Final = (Cell("1080p", 8), Cell("1080p", 32))
_WARM_UP_SECONDS: Final = 1.0
"""Of the same load, before: what is done only once is part of the start."""
_WRITE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05


async def measure(
    triton: TritonServer, cells: Sequence[Cell], folder: Path, gateway_options: Mapping[str, object], seconds: float
) -> list[dict[str, Any]]:
    """Put loads on one more gateway of one process in front of a Triton that serves, each for so many seconds.

    Returns:
        A row for each: `size`, `concurrency`, `images_per_second`, and what `watched_gateway.Calls.summary` has.

    Raises:
        LoadFailed: an answer was not the expected one.
        TimeoutError: the gateway does not become ready, or does not write its figures.
    """
    file = folder / "loop.json"
    options = {**gateway_options, "workers": 1}
    program = ("loadtest.bench.watched_gateway", str(file))
    async with serving_beside(triton, "watched gateway", folder, options, program) as watched:
        return [await asyncio.to_thread(_row, watched, cell, file, seconds) for cell in cells]


def _row(watched: Serving, cell: Cell, file: Path, seconds: float) -> dict[str, Any]:
    side = ServerSide(watched.address, {})
    side.learn(cell.size)
    side.measure(cell, _WARM_UP_SECONDS)
    file.unlink(missing_ok=True)
    pid = watched.gateway.pid
    assert pid  # noqa: S101 (it has just answered)
    os.kill(pid, signal.SIGUSR1)
    figures = side.measure(cell, seconds)
    os.kill(pid, signal.SIGUSR2)
    return {**asdict(cell), "images_per_second": figures["images_per_second"], **_written(file)}


def _written(file: Path) -> dict[str, Any]:
    give_up_at = time.monotonic() + _WRITE_SECONDS
    while not file.exists():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"the watched gateway has not written its figures within {_WRITE_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found
