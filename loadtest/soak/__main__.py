"""`python -m loadtest.soak`: half an hour without a pause, a line a minute, and a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import psutil

from loadtest import machine
from loadtest.bench import page, report
from loadtest.bench.images import SIZES_WH
from loadtest.bench.path import SHARED_MEMORY, STANDIN, Cell, gateway_side
from loadtest.closed_loop import WARM_UP_SECONDS, LoadFailed
from loadtest.serving import memory_bytes, peak_bytes, serving
from loadtest.soak.judgement import FEWEST_SLICES, Slice, growth_percent, promises, slope_mb_per_hour
from loadtest.soak.picture import draw

if TYPE_CHECKING:
    from loadtest.bench.path import ServerSide
    from loadtest.serving import Serving

SHORT_RESULTS: Final = Path(".eagleeye/soak.json")
_MINUTES: Final = 30.0
_CELL: Final = Cell("1080p", 32)
_LOOKS: Final = 12
"""At memory, in each slice."""
_MEGABYTE: Final = 1e6
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Look:
    """The processes at one moment under load."""

    gateway_bytes: int
    triton_bytes: int
    open_files: int
    threads: int


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@click.option("--minutes", type=click.FloatRange(0.05), default=_MINUTES, help="How long the load lasts.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=_CELL.concurrency, help="Images at a time.")
@click.option("--size", type=click.Choice(list(SIZES_WH)), default=_CELL.size, help="Of the JPEGs.")
@click.option("--shared-memory/--messages", "is_shared", default=True, help="How the gateway hands tensors to Triton.")
@click.option("--json", "file", type=_FILE, help="File for the figures; of a whole run, the one that is committed.")
@click.option("--picture", type=_FILE, help="File for the picture (PNG or SVG); beside the figures by default.")
def main(
    *, minutes: float, concurrency: int, size: str, is_shared: bool, file: Path | None, picture: Path | None
) -> None:
    """Keep a gateway busy for long, and see that its memory stays where it is.

    It starts a Triton with the GPU stand-in of `make bench` (W2) and a gateway on free ports, and stops them again. All
    answers have to be those of before.

    Exit codes: 0 all promises are kept, 1 one is broken, or an answer was wrong or missing.
    """
    cell, options = Cell(size, concurrency), dict(SHARED_MEMORY) if is_shared else {}
    if (busy := machine.busy_share()) > report.BUSY_SHARE:
        _say(f"{busy:.0%} of the processors are busy with something else: the rates will mean little")
    slices, most_mb = asyncio.run(_soak(cell, minutes, options))
    settings = {"minutes": minutes, **asdict(cell), "busy_before": busy, "gateway": options}
    results = _results(slices, most_mb, settings)
    click.echo("\n".join(_summary(results)))
    is_whole = minutes >= _MINUTES and cell == _CELL and is_shared
    file = file or (report.SOAK_RESULTS if is_whole else SHORT_RESULTS)
    report.save(results, file)
    picture = picture or file.with_suffix(".png")
    draw(results, picture)
    _say(f"wrote {file} and {picture}")
    if file == report.SOAK_RESULTS:
        page.refresh()
        _say(f"wrote the figures of {page.PAGE}")
    if any(target["is_met"] is False for target in results["targets"]):
        sys.exit(1)


async def _soak(cell: Cell, minutes: float, gateway_options: dict[str, object]) -> tuple[list[Slice], float]:
    """Keep the load up, a slice after the other; returns them, and the most memory of the gateway in MB.

    Raises:
        click.ClickException: an answer was not the expected one; the message has the end of the gateway's log.
    """
    count = max(FEWEST_SLICES, round(minutes))
    seconds = minutes * 60 / count
    with tempfile.TemporaryDirectory(prefix="eagleeye-soak-") as scratch:
        folder = Path(scratch)
        STANDIN.write(folder / "models")
        _say("starting a Triton and a gateway")
        async with serving(folder / "models", folder, gateway_options=gateway_options) as served:
            side, slices = gateway_side(served), []
            try:
                await asyncio.to_thread(side.learn, cell.size)
                _say(f"{minutes:g} minutes with {cell.size} JPEGs, {cell.concurrency} at a time")
                click.echo(_HEAD)
                began = time.monotonic()
                for _ in range(count):
                    slices.append(await _slice(served, side, cell, seconds, began))
                    click.echo(_row(slices[-1]))
                return slices, peak_bytes(served.gateway_processes) / _MEGABYTE
            except (LoadFailed, OSError, psutil.Error) as error:
                message = f"in slice {len(slices) + 1} of {count}: {error}{served.gateway.tail()}"
                raise click.ClickException(message) from error


async def _slice(served: Serving, side: ServerSide, cell: Cell, seconds: float, began: float) -> Slice:
    """Put the load on for so long, and look at the processes meanwhile."""
    looks: list[Look] = []

    async def keep_looking() -> None:
        while True:
            await asyncio.sleep(seconds / _LOOKS)
            looks.append(_look(served))

    looking = asyncio.create_task(keep_looking())
    try:
        figures = await asyncio.to_thread(side.measure, cell, max(0.1, seconds - WARM_UP_SECONDS))
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    looks.append(_look(served))
    return Slice(
        minute=(time.monotonic() - began) / 60,
        images=figures["answers"],
        images_per_second=figures["images_per_second"],
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        gateway_mb=statistics.median(look.gateway_bytes for look in looks) / _MEGABYTE,
        triton_mb=statistics.median(look.triton_bytes for look in looks) / _MEGABYTE,
        gateway_cpu_ms=figures["cpu_ms"]["gateway"],
        triton_cpu_ms=figures["cpu_ms"]["triton"],
        open_files=max(look.open_files for look in looks),
        threads=max(look.threads for look in looks),
    )


def _look(served: Serving) -> Look:
    gateway = served.gateway_processes
    open_files = threads = 0
    for process in gateway:
        with contextlib.suppress(psutil.Error):  # it has just gone
            open_files += process.num_fds()
            threads += process.num_threads()
    return Look(memory_bytes(gateway), memory_bytes(served.triton_processes), open_files, threads)


def _results(slices: list[Slice], most_mb: float, settings: dict[str, Any]) -> report.Results:
    results: report.Results = report.rounded(
        {
            **report.origin(),
            "settings": settings,
            "targets": [report.judged(target) for target in promises(slices, most_mb)],
            "slope_mb_per_hour": slope_mb_per_hour(slices),
            "growth_percent": growth_percent(slices),
            "slices": [asdict(each) for each in slices],
        }
    )
    return results


_HEAD: Final = (
    f"{'minute':>8}{'images/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'gateway MB':>12}{'Triton MB':>11}"
    f"{'CPU ms an image: gateway + Triton':>35}{'files':>7}{'threads':>9}"
)


def _row(of: Slice) -> str:
    cpu = f"{of.gateway_cpu_ms:.1f} + {of.triton_cpu_ms:.1f}"
    return (
        f"{of.minute:>8.1f}{of.images_per_second:>10.1f}{of.p50_ms:>9.1f}{of.p99_ms:>9.1f}{of.gateway_mb:>12.1f}"
        f"{of.triton_mb:>11.1f}{cpu:>35}{of.open_files:>7}{of.threads:>9}"
    )


def _summary(results: report.Results) -> list[str]:
    slope, growth = results["slope_mb_per_hour"], results["growth_percent"]
    memory = f"{slope:+.2f} MB an hour after the first quarter; {growth:+.2f} % from the second quarter to the last"
    return ["", f"memory of the gateway: {memory}", *report.verdicts(results["targets"])]


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)


if __name__ == "__main__":
    main()
