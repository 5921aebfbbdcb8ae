"""FastAPI with all that one process can do: our own stages in as many threads as processors, and batches on the GPU.

    uvicorn loadtest.baselines.fastapi_batching_server:app

It has no hop to pay for, and nothing of what the hop is for: it dies with its model, serves one GPU, and has neither
deadlines nor limits nor metrics.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
from fastapi import FastAPI, Request, Response

from gateway.detections import RawPredictions
from gateway.errors import GatewayError
from loadtest.baselines.gpu import MAX_BATCH, SCALED, STANDIN, detect
from loadtest.bench.limit import standin_stages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.image import UInt8Array

    Waiting = tuple[UInt8Array, asyncio.Future[RawPredictions]]

_STAGES: Final = standin_stages(STANDIN, "gpu_standin", is_scaled=os.environ.get(SCALED) == "1")
_pixels: Final = ThreadPoolExecutor(os.cpu_count())
_gpu: Final = ThreadPoolExecutor(1)
_arrived: Final[asyncio.Queue[Waiting]] = asyncio.Queue()


async def _serve() -> None:
    """Take what has come while the GPU was busy, at most a full batch, and answer it together."""
    loop = asyncio.get_running_loop()
    while True:
        batch = [await _arrived.get()]
        while len(batch) < MAX_BATCH and not _arrived.empty():
            batch.append(_arrived.get_nowait())
        found = await loop.run_in_executor(_gpu, detect, np.stack([tensor for tensor, _ in batch]))
        for (_, answer), *arrays in zip(batch, *found, strict=True):
            if not answer.done():
                answer.set_result(RawPredictions(*arrays))


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    batching = asyncio.create_task(_serve())
    yield
    batching.cancel()


app = FastAPI(lifespan=_lifespan)


@app.get("/healthz")
async def healthz() -> str:
    """Whether the server lives."""
    return "ok"


@app.post("/v1/detect")
async def find(request: Request) -> Response:
    """The objects in one image."""
    data = await request.body()
    loop = asyncio.get_running_loop()
    try:
        tensor, back = await loop.run_in_executor(_pixels, _STAGES.preprocess, data)
    except GatewayError as error:
        return Response(str(error), 400)
    answer: asyncio.Future[RawPredictions] = loop.create_future()
    _arrived.put_nowait((tensor, answer))
    return Response(_STAGES.finish(await answer, back), media_type="application/json")
