"""What each face costs: the same picture over REST, gRPC unary and a gRPC stream, side by side in one run.

    python -m loadtest.faces --url http://127.0.0.1:8080 --target 127.0.0.1:8081

Run it against `eagleeye up --standin`: the stand-in does not use the processor, and its small input leaves little of
the work that all faces share. The CPU time is the gateway's own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiohttp
import click
import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest import machine
from triton_runtime.standin import encode_png, numbered_picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Call: TypeAlias = Callable[[], Awaitable[None]]
    """One request and its answer, over a connection that is there already."""
    Face: TypeAlias = Callable[[str, str, bytes], AbstractAsyncContextManager[Call]]

_WARM_UP_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Figures:
    """One measurement: requests per second, the median latency and the gateway's CPU time per request, both in ms."""

    requests_per_second: float
    p50_ms: float
    gateway_cpu_ms: float


@asynccontextmanager
async def rest(url: str, _: str, image: bytes) -> AsyncIterator[Call]:
    """POST /v1/detect over one connection that is kept."""
    async with aiohttp.ClientSession() as session:

        async def call() -> None:
            async with session.post(f"{url}/v1/detect", data=image) as response:
                response.raise_for_status()
                await response.read()

        yield call


@asynccontextmanager
async def unary(_: str, target: str, image: bytes) -> AsyncIterator[Call]:
    """ModelInfer over one channel."""
    async with _channel(target) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        request = _request(image)

        async def call() -> None:
            await infer(request)

        yield call


@asynccontextmanager
async def stream(_: str, target: str, image: bytes) -> AsyncIterator[Call]:
    """One frame after the other on one ModelStreamInfer call."""
    async with _channel(target) as channel:
        frames = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        request = _request(image)

        async def call() -> None:
            await frames.write(request)
            answer = await frames.read()
            if answer.error_message:
                raise click.ClickException(answer.error_message)

        yield call
        await frames.done_writing()


FACES: Final[dict[str, Face]] = {"REST": rest, "gRPC": unary, "gRPC stream": stream}


def _channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


def _request(image: bytes) -> Any:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    return service_pb2.ModelInferRequest(inputs=[tensor], raw_input_contents=[len(image).to_bytes(4, "little") + image])


async def measure(
    face: Face, url: str, target: str, image: bytes, *, callers: int, seconds: float, gateway: list[Any]
) -> Figures:
    """Let `callers`, each with a connection of its own, ask over and over for some seconds."""
    latencies: list[float] = []

    async def ask() -> None:
        async with face(url, target, image) as call:
            while (start := time.perf_counter()) < stop_at:
                await call()
                latencies.append(time.perf_counter() - start)

    cpu, start = machine.cpu_seconds(gateway), time.perf_counter()
    stop_at = start + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(ask())
    wall, cpu = time.perf_counter() - start, machine.cpu_seconds(gateway) - cpu
    return Figures(len(latencies) / wall, statistics.median(latencies) * 1e3, cpu / len(latencies) * 1e3)


def _medians(rounds: list[Figures]) -> Figures:
    return Figures(
        *(statistics.median(column) for column in zip(*(asdict(each).values() for each in rounds), strict=True))
    )


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The REST face, on this machine.")
@click.option("--target", default="127.0.0.1:8081", show_default=True, help="host:port of its gRPC face.")
@click.option("--callers", multiple=True, default=(1, 8), show_default=True, help="Callers at a time.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of one measurement, in seconds.")
@click.option("--rounds", default=3, show_default=True, help="Measurements of each kind; their median counts.")
@click.option("--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Instead of a small PNG.")
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, too.")
def main(
    url: str,
    target: str,
    callers: tuple[int, ...],
    seconds: float,
    rounds: int,
    image: Path | None,
    report: Path | None,
) -> None:
    """Measure what each face costs, in turns."""
    data = image.read_bytes() if image else encode_png(numbered_picture(1))
    gateway = machine.serving_processes(machine.GATEWAY)
    figures: dict[str, Any] = {"machine": machine.describe(), "image_bytes": len(data), "callers": {}}
    click.echo(f"{'callers':<9}{'face':<13}{'requests/s':>12}{'p50 ms':>9}{'gateway CPU ms':>16}")
    for count in callers:
        measured: dict[str, list[Figures]] = {name: [] for name in FACES}
        for length in (_WARM_UP_SECONDS, *[seconds] * rounds):
            for name, face in FACES.items():
                taken = measure(face, url, target, data, callers=count, seconds=length, gateway=gateway)
                measured[name].append(asyncio.run(taken))
        medians = {name: _medians(taken[1:]) for name, taken in measured.items()}
        for name, each in medians.items():
            click.echo(
                f"{count:<9}{name:<13}{each.requests_per_second:>12.1f}{each.p50_ms:>9.2f}{each.gateway_cpu_ms:>16.2f}"
            )
        figures["callers"][count] = {name: asdict(each) for name, each in medians.items()}
    if report:
        report.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
