"""Whether slow clients slow the others down: a crowd that drips its uploads, beside callers that don't.

    python -m loadtest.slow_clients --url http://127.0.0.1:8080

Rates with and without the crowd alternate within one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
import click

from eagleeye.boards import DEFAULT_SEED, draw_board
from gateway.annotate import encode_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_DRIP_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Service:
    """What the normal callers get."""

    images_per_second: float
    p50_ms: float
    p99_ms: float


async def _normal_callers(url: str, image: bytes, callers: int, seconds: float) -> Service:
    latencies: list[float] = []
    start = time.perf_counter()

    async def call(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < start + seconds:
            sent = time.perf_counter()
            async with session.post(f"{url}/v1/detect", data=image) as response:
                response.raise_for_status()
                await response.read()
            latencies.append(time.perf_counter() - sent)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(call(session) for _ in range(callers)))
    quantiles = statistics.quantiles(latencies, n=100)
    return Service(len(latencies) / (time.perf_counter() - start), quantiles[49] * 1e3, quantiles[98] * 1e3)


@contextlib.asynccontextmanager
async def _crowd(url: str, image: bytes, size: int) -> AsyncIterator[None]:
    """Connections that declare an image and send it byte by byte; one that is cut off comes back."""
    address = urlsplit(url)
    head = f"POST /v1/detect HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(image)}\r\n\r\n".encode()

    async def drip() -> None:
        while True:
            _, writer = await asyncio.open_connection(address.hostname, address.port or 80)
            with contextlib.suppress(ConnectionError):
                for piece in (head, *(image[i : i + 1] for i in range(len(image)))):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(_DRIP_SECONDS)
            writer.close()

    tasks = [asyncio.create_task(drip()) for _ in range(size)]
    await asyncio.sleep(2 * _DRIP_SECONDS)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(url: str, callers: int, crowd: int, seconds: float, rounds: int) -> dict[str, Service]:
    image = encode_image(draw_board(DEFAULT_SEED).image, ".jpg")
    measured: dict[str, list[Service]] = {"alone": [], "beside": []}
    await _normal_callers(url, image, callers, 1.0)  # warm caches, threads and connections
    for _ in range(rounds):
        measured["alone"].append(await _normal_callers(url, image, callers, seconds))
        async with _crowd(url, image, crowd):
            measured["beside"].append(await _normal_callers(url, image, callers, seconds))
    return {
        name: Service(*(statistics.median(column) for column in zip(*(asdict(s).values() for s in kinds), strict=True)))
        for name, kinds in measured.items()
    }


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The live gateway.")
@click.option("--callers", default=4, show_default=True, help="Normal callers at a time.")
@click.option("--crowd", default=200, show_default=True, help="Slow clients at a time.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of one measurement, in seconds.")
@click.option("--rounds", default=3, show_default=True, help="Measurements of each kind; their median counts.")
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, too.")
def main(url: str, callers: int, crowd: int, seconds: float, rounds: int, report: Path | None) -> None:
    """Measure what normal callers get beside a crowd of slow clients."""
    measured = asyncio.run(_measure(url, callers, crowd, seconds, rounds))
    click.echo(f"{'':<24}{'images/s':>10}{'p50 ms':>10}{'p99 ms':>10}")
    for name, words in (("alone", "alone"), ("beside", f"beside {crowd} slow clients")):
        service = measured[name]
        click.echo(f"{words:<24}{service.images_per_second:>10.1f}{service.p50_ms:>10.1f}{service.p99_ms:>10.1f}")
    ratio = measured["beside"].images_per_second / measured["alone"].images_per_second
    click.echo(f"beside / alone: {ratio:.2f} of the images/s")
    if report:
        figures = {name: asdict(service) for name, service in measured.items()}
        report.write_text(json.dumps({"crowd": crowd, "callers": callers, "ratio": ratio, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
