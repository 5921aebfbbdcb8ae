"""One gateway process beside several of them (`--workers`), in front of the same Triton."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from loadtest.bench.path import Cell, compare, gateway_side, require_same, row, spread
from loadtest.serving import serving_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from loadtest.bench.path import Contest, Side

PROCESSES: Final = 2
CELLS: Final = (Cell("1080p", 8), Cell("1080p", 32))


async def measure(
    rivals: Contest,
    cells: Sequence[Cell],
    folder: Path,
    gateway_options: Mapping[str, object],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the limit, one process and several in turns.

    Returns:
        `processes`; `rows` as `path.row` makes them, of the sides `limit`, `served` (one process) and `workers`, with
        `gain`: images/s of several processes by those of one, of the same round; and `memory_bytes`, the most of each
        side of the two, by group.

    Raises:
        click.ClickException: they do not find what the gateway of `rivals` finds.
        TimeoutError: the second gateway does not become ready.
    """
    options = {**gateway_options, "workers": PROCESSES}
    async with serving_beside(rivals.serving.triton, "workers", folder, options) as several:
        servers = {"served": gateway_side(rivals.serving), "workers": gateway_side(several)}
        for size in {cell.size for cell in cells}:
            for name, server in servers.items():
                for answer, ours in zip(await asyncio.to_thread(server.learn, size), rivals.answers[size], strict=True):
                    require_same(name, answer, ours)
        rows = []
        for cell in cells:
            say(f"{PROCESSES} processes beside one: {cell.size}, {cell.concurrency} at a time")
            rows.append(await _row(cell, {"limit": rivals.limit, **servers}, rounds, seconds))
        memory_bytes = {name: dict(server.peak_bytes) for name, server in servers.items()}
    return {"processes": PROCESSES, "rows": rows, "memory_bytes": memory_bytes}


async def _row(cell: Cell, sides: Mapping[str, Side], rounds: int, seconds: float) -> dict[str, Any]:
    medians, ratios = await compare(sides, cell, rounds, seconds)
    gains = [several / one for several, one in zip(ratios["workers"], ratios["served"], strict=True)]
    return {**row("W2", cell, medians, ratios), "gain": spread(gains)}
