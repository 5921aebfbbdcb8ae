"""The bare hop: aiohttp, our own stages, and one call by gRPC to a real Triton, with the tensor in shared memory.

    python -m loadtest.baselines.bare_hop_server --triton 127.0.0.1:8001 --port 8080

It is no alternative to the gateway but a yardstick for it: the same way of an image to Triton and back, by the same
libraries, and nothing else. Its images/s by those of the limit tell what HTTP, gRPC and Triton cost; the gateway's by
its own, what the gateway's features cost.

Nobody should serve with it. Triton must be there first and must never die. The memory of a call that broke off is used
again although Triton may still read it. And it has none of: admission, deadlines, limits of any kind, fairness,
retries, metrics, logs, keys.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
import grpc
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import GatewayError
from gateway.postprocess import Thresholds
from gateway.triton.attachment import Attachment
from gateway.triton.contract import parse_model
from gateway.triton.messages import Question, predictions
from gateway.triton.shared_memory import SharedMemory, SharedMemoryError
from gateway.triton.short_calls import ShortCalls
from loadtest.baselines.gpu import SCALED
from loadtest.bench.limit import Stages
from loadtest.chaos.processes import HOST
from triton_runtime.standin import MODEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.model import Model

VERSION: Final = 1
"""Of the model."""
SHARED_MIB: Final = 64
"""As the gateway has in `make bench`: for 128 tensors of 416 x 416 at a time."""
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_START_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 30.0
_GRACE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class BareHop:
    """What the handler needs.

    Attributes:
        model: the detector, as Triton describes it.
        stages: what is done to an image before and after Triton.
        pixels: the threads in which images are decoded and resized.
        memory: where Triton finds the tensors.
        region: the name by which Triton knows the memory.
        infer: asks Triton.
    """

    model: Model
    stages: Stages
    pixels: ThreadPoolExecutor
    memory: SharedMemory
    region: str
    infer: ShortCalls[service_pb2.ModelInferResponse]

    async def detect(self, request: web.Request) -> web.Response:
        """The objects in one image."""
        data = b"".join([chunk async for chunk in request.content.iter_any()])  # what the gateway does, too
        try:
            tensor, back = await asyncio.get_running_loop().run_in_executor(self.pixels, self.stages.preprocess, data)
        except GatewayError as error:
            return web.Response(text=str(error), status=400)
        with self.memory.lend(tensor) as slot:
            if slot is None:
                return web.Response(text=f"the {SHARED_MIB} MiB of shared memory are full", status=503)
            message = Question(self.model, VERSION, tensor).message_about(slot, self.region)
            found = predictions(await self.infer(message, timeout=_TIMEOUT_SECONDS), self.model)
        return web.Response(body=self.stages.finish(found, back), content_type="application/json")


async def serve(triton: str, port: int, *, is_scaled: bool) -> None:
    """Serve the stand-in of the Triton at `triton` (`host:port` of gRPC) until SIGTERM or SIGINT.

    Raises:
        click.ClickException: there is no such Triton, or it can't share memory with this process.
        OSError: the port can't be had.
        SharedMemoryError: the memory can't be had.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _connected(triton, is_scaled=is_scaled) as hop, _listening(hop, port):
        gc.collect()
        gc.freeze()  # as the gateway does: a full collection would hold up every request
        await stop.wait()


@asynccontextmanager
async def _connected(triton: str, *, is_scaled: bool) -> AsyncIterator[BareHop]:
    async with AsyncExitStack() as stack:
        pixels = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        memory = stack.enter_context(SharedMemory(SHARED_MIB))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(triton))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        model = await _model(stub, triton)
        region = await stack.enter_async_context(_shared(memory, stub, triton))
        thresholds = Thresholds(model.score_threshold, model.iou_threshold)
        stages = Stages(model.name, str(VERSION), model.labels, model.input_wh, thresholds, is_scaled)
        infer = ShortCalls(triton, _INFER, service_pb2.ModelInferResponse.FromString)
        stack.push_async_callback(infer.close)
        yield BareHop(model, stages, pixels, memory, region, infer)


async def _model(stub: Any, triton: str) -> Model:  # stubs have no types
    request = service_pb2.ModelConfigRequest(name=MODEL)
    try:
        config = (await stub.ModelConfig(request, timeout=_START_SECONDS)).config
    except grpc.aio.AioRpcError as error:
        raise click.ClickException(f"no Triton serves {MODEL} at {triton}: {error.details()}") from error
    return parse_model(config, [VERSION])


@asynccontextmanager
async def _shared(memory: SharedMemory, stub: Any, triton: str) -> AsyncIterator[str]:
    """The name by which Triton knows the memory while the block runs."""
    attachment = Attachment(memory, triton)
    try:
        await attachment.renew(stub)
        if attachment.region is None:
            raise click.ClickException(
                f"the Triton at {triton} does not share memory with this process; both must be on this machine, see "
                "the same /dev/shm, and run as the same user"
            )
        yield attachment.region
    finally:
        await attachment.close(stub)


@asynccontextmanager
async def _listening(hop: BareHop, port: int) -> AsyncIterator[None]:
    app = web.Application()
    app.add_routes([web.post("/v1/detect", hop.detect), web.get("/healthz", _healthz)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield
    finally:
        await runner.cleanup()


async def _healthz(_: web.Request) -> web.Response:
    """Whether the server lives."""
    return web.Response(text="ok")


@click.command()
@click.option("--triton", required=True, metavar="HOST:PORT", help="gRPC of the Triton that serves the stand-in.")
@click.option("--port", required=True, type=click.IntRange(1, 65535), help="Where it listens.")
def main(*, triton: str, port: int) -> None:
    """Serve by the bare hop; for `make bench`."""
    try:
        asyncio.run(serve(triton, port, is_scaled=os.environ.get(SCALED) == "1"))
    except (OSError, SharedMemoryError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
