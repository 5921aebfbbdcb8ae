"""The composition root: builds every part, serves until told to stop, and unwinds in reverse order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from gateway.access import Access, Permitted
from gateway.admission import Admission
from gateway.core import Core
from gateway.detector import Detector
from gateway.hold import Hold
from gateway.image import ImageLimits
from gateway.keys import read_keys
from gateway.lifecycle import Lifecycle
from gateway.memory import ByteBudget
from gateway.metrics import Metrics
from gateway.observer import Observer
from gateway.rest.app import admin_application, application
from gateway.rest.connections import limited, stop_listening
from gateway.rest.face import RestFace
from gateway.rollout import read_rollout
from gateway.rpc import RpcFace
from gateway.rpc_server import Connections, RpcEnded, serving_rpc
from gateway.shadow import Shadowing
from gateway.tls import Tls
from gateway.triton.discovery import discovery
from gateway.triton.fleet import Fleet
from gateway.triton.gpu import GpuUse
from gateway.triton.shared_memory import SharedMemory
from gateway.versions import Versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.settings import Settings
    from gateway.workers.worker import Worker

_DECODED_AHEAD: Final = 2  # for each thread an image that it decodes, and one that it takes next
_KEEPALIVE_SECONDS: Final = 75.0  # longer than the 60 s of most balancers, which must be the ones to hang up
_BACKLOG: Final = 1024  # connections that the kernel holds until they are accepted, as many as may come at once
_FIRST_REQUEST_SECONDS: Final = 0.5  # for the connections accepted last to send a request, before idle ones close
_LINGERING_SECONDS: Final = 3.0  # a refused upload is read on for so long, so that its sender sees the refusal

_log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event, worker: Worker | None = None) -> None:
    """Serve until `stop` is set; then stop being ready, drain, stop accepting, and let requests finish.

    A `worker` has its part of the limits, and its supervisor serves the admin port. If the gRPC server ends by itself,
    this ends as well, in the same way: a process that starts anew serves both faces.

    Raises:
        OSError: a port can't be had.
        RpcEnded: the gRPC server has ended by itself.
        KeysFileError: the file of keys is not as it must be.
        RolloutFileError: the rollout file is not as it must be.
        SharedMemoryError: the memory for Tritons on this machine can't be had.
        TlsError: a certificate or its key is not as it must be.
    """
    metrics, rpc_ended = Metrics(), asyncio.Event()
    async with AsyncExitStack() as stack:
        tls = await stack.enter_async_context(Tls(settings.tls_files)) if settings.tls_files else None
        access = await stack.enter_async_context(_access(settings.keys_file, worker)) if settings.keys_file else None
        versions = await stack.enter_async_context(Versions(metrics, settings.rollout_file))
        port = settings.triton_metrics_port
        gpu_use = await stack.enter_async_context(GpuUse(port)) if port else None
        mebibytes = settings.triton_shared_memory and settings.share(settings.triton_shared_memory)
        memory = stack.enter_context(SharedMemory(mebibytes)) if mebibytes else None
        triton = await stack.enter_async_context(_fleet(settings, metrics, gpu_use, memory))
        core = await stack.enter_async_context(_core(settings, metrics, triton, access, versions))
        rest = _rest_face(settings, core, triton)
        # what operators ask closes last: it is answered for as long as anything is
        if worker:
            await stack.enter_async_context(worker.answering(core, triton.describe))
        elif settings.admin_port is not None:
            admin = admin_application(rest, triton.describe)
            await stack.enter_async_context(
                serving_rest(admin, "admin", settings.admin_host, settings.admin_port, settings.grace_seconds)
            )
        await stack.enter_async_context(_serving_both(settings, core, rest, tls, rpc_ended.set))
        if worker:
            worker.opened()
        await _any_of(stop, rpc_ended)
        _log.info("draining", drain_seconds=settings.drain_seconds)
        core.lifecycle.drain()
        await asyncio.sleep(settings.drain_seconds)
        _log.info("stopping", grace_seconds=settings.grace_seconds)
        core.hold.stop()
    if rpc_ended.is_set():
        raise RpcEnded("the gRPC server has ended by itself; the log says why")


async def _any_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def check_files(settings: Settings) -> None:
    """Read the files that are read while serving.

    Raises:
        KeysFileError, RolloutFileError, TlsError: see `serve`.
    """
    if settings.tls_files:
        Tls(settings.tls_files)
    if settings.keys_file:
        read_keys(settings.keys_file)
    if settings.rollout_file:
        read_rollout(settings.rollout_file)


def _access(keys_file: Path, worker: Worker | None) -> Access:
    return Access(keys_file, remember=worker.buckets) if worker else Access(keys_file)


def _fleet(settings: Settings, metrics: Metrics, gpu_use: GpuUse | None, memory: SharedMemory | None) -> Fleet:
    return Fleet(
        discovery(settings.triton_url, settings.dns_server),
        metrics,
        look_interval_seconds=settings.dns_interval_seconds,
        hedge_quantile=settings.hedge_quantile,
        gpu_use=gpu_use,
        memory=memory,
    )


@asynccontextmanager
async def _core(
    settings: Settings, metrics: Metrics, triton: Fleet, access: Access | None, versions: Versions
) -> AsyncIterator[Core]:
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    pixel_threads = settings.share(settings.pixel_threads)
    admission = Admission(
        lambda model: settings.share(settings.max_inflight or triton.capacity(model)),
        _DECODED_AHEAD * pixel_threads,
        metrics,
    )
    predictor = Permitted(triton) if access else triton
    hold = Hold(triton, settings.share(settings.max_held_images), metrics)
    async with (
        Shadowing(triton, versions, admission, metrics) as shadowing,
        Detector(
            predictor,
            limits,
            admission,
            metrics,
            pixel_threads,
            shadowing,
            is_decoding_scaled=settings.scaled_decoding,
        ) as detector,
    ):
        yield Core(
            detector=detector,
            predictor=predictor,
            versions=versions,
            shadowing=shadowing,
            hold=hold,
            lifecycle=Lifecycle(lambda: hold.is_enabled or bool(triton.models)),
            metrics=metrics,
            limits=limits,
            memory=ByteBudget(settings.share(settings.max_inflight_bytes), metrics),
            timeout_seconds=settings.timeout_seconds,
            access=access,
        )


def _rest_face(settings: Settings, core: Core, triton: Fleet) -> RestFace:
    return RestFace(
        core=core,
        observer=Observer(core.metrics, "rest"),
        max_body_bytes=settings.max_body_bytes,
        upload_timeout_seconds=settings.upload_timeout_seconds,
        cors_origins=settings.cors_origins,
        has_admin_port=settings.admin_port is not None,
        has_console=not settings.no_console,
        workers=settings.workers,
        tritons=triton,
    )


@asynccontextmanager
async def _serving_both(
    settings: Settings, core: Core, rest: RestFace, tls: Tls | None, on_rpc_end: Callable[[], None]
) -> AsyncIterator[None]:
    """Both faces. They stop accepting at once and share the time of grace; what they stand on closes after them."""
    max_connections, reuse_port = settings.share(settings.max_connections), settings.workers > 1
    grpc_face = serving_rpc(
        RpcFace(core=core, observer=Observer(core.metrics, "grpc")),
        host=settings.grpc_host,
        port=settings.grpc_port,
        grace_seconds=settings.grace_seconds,
        connections=Connections(max_age_seconds=settings.grpc_max_connection_age_seconds),
        max_open_calls=max_connections,
        tls=tls,
        reuse_port=reuse_port,
        on_end=on_rpc_end,
    )
    on_refusal = core.metrics.shed.labels("", "connections").inc
    rest_face = serving_rest(
        application(rest),
        "rest",
        settings.http_host,
        settings.http_port,
        settings.grace_seconds,
        tls,
        partial(limited, max_connections=max_connections, on_refusal=on_refusal),
        reuse_port=reuse_port,
    )
    stacks = AsyncExitStack(), AsyncExitStack()
    try:
        for stack, face in zip(stacks, (grpc_face, rest_face), strict=True):
            await stack.enter_async_context(face)
        yield
    finally:
        await asyncio.gather(*(stack.aclose() for stack in stacks))


@asynccontextmanager
async def serving_rest(
    app: web.Application,
    name: str,
    host: str,
    port: int,
    grace_seconds: float,
    tls: Tls | None = None,
    accept: Callable[[web.Server], Callable[[], asyncio.Protocol]] = lambda server: server,
    *,
    reuse_port: bool = False,
) -> AsyncIterator[None]:
    """An application at `host`:`port`, called `name` in logs; `accept` says what becomes of a new connection.

    A caller that leaves cancels its handler, and with it the call to Triton. With `reuse_port`, other processes may
    listen there as well, and each gets its part of the connections.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        lingering_time=_LINGERING_SECONDS,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=grace_seconds,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 (made by `setup`)
    connect, ssl = accept(runner.server), tls.for_rest() if tls else None
    try:
        listener = await asyncio.get_running_loop().create_server(
            connect,
            host,
            port,
            ssl=ssl,
            backlog=_BACKLOG,
            reuse_port=reuse_port,
        )
        host, port = listener.sockets[0].getsockname()[:2]
        scheme = "https" if tls else "http"
        _log.info(
            "listening", face=name, url=f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        )
        try:
            yield
        finally:
            await stop_listening(listener, connect, ssl, _FIRST_REQUEST_SECONDS)
    finally:
        await runner.cleanup()
