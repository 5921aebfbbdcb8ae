"""What streams cost the gateway: memory of idle ones, and whether it grows while frames come at full speed.

    python -m loadtest.streams idle --streams 500 --channels 4
    python -m loadtest.streams soak --seconds 600 --mode latest

Both read the gateway's resident memory from its own /metrics.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import click
import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from eagleeye.boards import DEFAULT_SEED, draw_board
from gateway.annotate import encode_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MEGABYTE: Final = 1e6
_SETTLING_SECONDS: Final = 3.0
_WARM_UP: Final = 0.25  # of a soak; until then memory grows to what the load needs

_url = click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The gateway's REST face.")
_target = click.option("--target", default="127.0.0.1:8081", show_default=True, help="host:port of its gRPC face.")


class Gateway:
    """The gateway as its /metrics show it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def resident_bytes(self) -> float:
        """Memory that the process holds resident."""
        return await self._read("process_resident_memory_bytes")

    async def until_streams(self, count: int) -> None:
        """Wait until so many streams are open."""
        async with asyncio.timeout(60):
            while await self._read("eagleeye_streams") != count:  # noqa: ASYNC110 (another process has no event)
                await asyncio.sleep(0.1)

    async def _read(self, name: str) -> float:
        async with self._session.get(f"{self._url}/metrics") as response:
            response.raise_for_status()
            found = re.search(rf"^{name} (\S+)$", await response.text(), re.MULTILINE)
        if found is None:
            raise click.ClickException(f"{self._url}/metrics has no {name}")
        return float(found[1])


@dataclass
class Counts:
    """What one or several streams have seen so far."""

    answers: int = 0
    dropped: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def note(self, answer: Any) -> None:
        """Count one answer."""
        parameters = answer.infer_response.parameters
        self.answers += 1
        self.dropped += parameters["dropped"].int64_param
        if answer.error_message:
            code = parameters["code"].string_param
            self.codes[code] = self.codes.get(code, 0) + 1


def _frame(mode: str = "ordered") -> Any:
    image = encode_image(draw_board(DEFAULT_SEED).image, ".jpg")
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(image).to_bytes(4, "little") + image)
    request.parameters["mode"].string_param = mode
    return request


def _channel(target: str) -> Any:
    """A connection of its own, which channels to one address would share otherwise."""
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


async def _measure_idle(url: str, target: str, streams: int, channels: int) -> None:
    frame = _frame()
    async with AsyncExitStack() as stack:
        gateway = Gateway(await stack.enter_async_context(aiohttp.ClientSession()), url)
        stubs = [
            service_pb2_grpc.GRPCInferenceServiceStub(await stack.enter_async_context(_channel(target)))
            for _ in range(channels)
        ]
        for _ in range(20):  # what the first frames need, they need once
            await _open(stubs[0], frame, half_close=True)
        await gateway.until_streams(0)
        before = await gateway.resident_bytes()
        calls = [await _open(stub, frame) for stub, _ in zip(itertools.cycle(stubs), range(streams), strict=False)]
        await gateway.until_streams(streams)
        await asyncio.sleep(_SETTLING_SECONDS)
        growth = await gateway.resident_bytes() - before
        click.echo(
            f"{streams} idle streams over {channels} channels: {growth / _MEGABYTE:.1f} MB more than "
            f"{before / _MEGABYTE:.1f} MB, {growth / streams / 1e3:.1f} kB a stream"
        )
        for call in calls:
            call.cancel()
        await gateway.until_streams(0)
        await asyncio.sleep(_SETTLING_SECONDS)
        click.echo(f"after they were closed: {await gateway.resident_bytes() / _MEGABYTE:.1f} MB")


async def _open(stub: Any, frame: Any, *, half_close: bool = False) -> Any:
    """A stream that has had one frame answered: a camera that pauses."""
    call = stub.ModelStreamInfer()
    await call.write(frame)
    answer = await call.read()
    if answer.error_message:
        raise click.ClickException(answer.error_message)
    if half_close:
        await call.done_writing()
        await call.read()
    return call


async def _soak(url: str, target: str, mode: str, streams: int, seconds: float, interval: float, reads: bool) -> None:
    frame = _frame(mode)
    end = time.monotonic() + seconds
    counts = Counts()

    async def frames() -> AsyncIterator[Any]:
        while time.monotonic() < end:
            yield frame
            await asyncio.sleep(0)  # in the latest mode nothing else would ever make a sender wait

    async def stream() -> None:
        async with _channel(target) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(frames())
            if not reads:
                await asyncio.sleep(seconds)
                call.cancel()
                return
            async for answer in call:
                counts.note(answer)

    async with aiohttp.ClientSession() as session:
        gateway = Gateway(session, url)
        samples = asyncio.create_task(_watch(gateway, counts, end, interval))
        await asyncio.gather(*(stream() for _ in range(streams)))
        _report(await samples, seconds)
    click.echo(f"{counts.answers} answers, {counts.dropped} dropped, errors: {counts.codes or 'none'}")


async def _watch(gateway: Gateway, counts: Counts, end: float, interval: float) -> list[tuple[float, float]]:
    """Seconds and resident megabytes until `end`, printed as they come."""
    samples: list[tuple[float, float]] = []
    start, answers = time.monotonic(), 0
    click.echo(f"{'seconds':>10}{'RSS MB':>10}{'answers/s':>12}{'dropped':>12}")
    while time.monotonic() < end:
        await asyncio.sleep(interval)
        samples.append((time.monotonic() - start, await gateway.resident_bytes() / _MEGABYTE))
        rate, answers = (counts.answers - answers) / interval, counts.answers
        click.echo(f"{samples[-1][0]:>10.0f}{samples[-1][1]:>10.1f}{rate:>12.1f}{counts.dropped:>12}")
    return samples


def _report(samples: list[tuple[float, float]], seconds: float) -> None:
    steady = np.array([sample for sample in samples if sample[0] >= _WARM_UP * seconds])
    slope = np.polyfit(steady[:, 0], steady[:, 1], 1)[0] * 60
    click.echo(
        f"after the first {_WARM_UP:.0%}: {steady[:, 1].min():.1f} to {steady[:, 1].max():.1f} MB, "
        f"slope {slope:+.2f} MB a minute"
    )


@click.group()
def main() -> None:
    """Measure what streams cost a live gateway, such as that of `make up`."""


@main.command()
@_url
@_target
@click.option("--streams", default=500, show_default=True, help="Streams that are open at a time.")
@click.option("--channels", default=4, show_default=True, help="Connections that they are spread over.")
def idle(url: str, target: str, streams: int, channels: int) -> None:
    """Print how much the gateway grows by streams that had one frame and now pause."""
    asyncio.run(_measure_idle(url, target, streams, channels))


@main.command()
@_url
@_target
@click.option("--mode", type=click.Choice(["ordered", "latest"]), default="ordered", show_default=True)
@click.option("--streams", default=1, show_default=True, help="Streams that send at full speed.")
@click.option("--seconds", default=600.0, show_default=True, help="Length of the run, in seconds.")
@click.option("--interval", default=5.0, show_default=True, help="Time between two looks at the memory, in seconds.")
@click.option("--never-read", is_flag=True, help="Read no answers, to see that the gateway does not hold them.")
def soak(url: str, target: str, mode: str, streams: int, seconds: float, interval: float, never_read: bool) -> None:
    """Send frames at full speed, and print the gateway's memory and its slope."""
    asyncio.run(_soak(url, target, mode, streams, seconds, interval, not never_read))


if __name__ == "__main__":
    main()
