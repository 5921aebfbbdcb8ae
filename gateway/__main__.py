"""`eagleeye gateway`: read the settings, serve until a signal; nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

import click

from eagleeye.options import SettingsCommand, options, refuse_unknown_environment
from gateway.keys import KeysFileError
from gateway.process import prepared
from gateway.rollout import RolloutFileError
from gateway.rpc_server import RpcEnded
from gateway.server import serve
from gateway.settings import Settings, refuse_open_doors
from gateway.tls import TlsError
from gateway.tracing import TracingUnavailable
from gateway.triton.shared_memory import SharedMemoryError
from gateway.workers.supervisor import WorkersFailed, supervise

_EXPECTED: Final = (
    KeysFileError,
    RolloutFileError,
    RpcEnded,
    SharedMemoryError,
    TlsError,
    TracingUnavailable,
    WorkersFailed,
)


@click.command(cls=SettingsCommand, context_settings={"max_content_width": 120})
@options(Settings)
def gateway(**values: object) -> None:
    """Serve detections over REST and gRPC: decode, resize, ask Triton, NMS, answer.

    Every option can also be set by its environment variable. SIGINT and SIGTERM drain, let requests finish, and stop; a
    second one stops at once.
    """
    refuse_unknown_environment(Settings)
    settings = Settings(**values)  # type: ignore[arg-type]
    refuse_open_doors(settings)
    try:
        with prepared(settings):
            asyncio.run(_serve_until_signal(settings))
    except _EXPECTED as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"can't listen: {error}") from error


async def _serve_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # whoever signals twice does not want to wait for anything
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    await (supervise(settings, stop) if settings.workers > 1 else serve(settings, stop))


if __name__ == "__main__":
    gateway(prog_name="eagleeye gateway")
