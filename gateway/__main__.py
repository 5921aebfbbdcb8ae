"""`eagleeye gateway`: read the settings, serve until a signal; nothing else."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings

import click

from eagleeye.options import SettingsCommand, options, refuse_unknown_environment
from gateway import logs, tracing
from gateway.keys import KeysFileError
from gateway.rollout import RolloutFileError
from gateway.server import serve
from gateway.settings import Settings, refuse_open_doors
from gateway.tls import TlsError


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
    logs.configure(settings.log_format)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # its doubts about an upload are the caller's, not the log's
    if settings.otlp_endpoint:
        try:
            tracing.configure(settings.otlp_endpoint)
        except tracing.TracingUnavailable as error:
            raise click.ClickException(str(error)) from error
    _spare_what_stays()
    try:
        asyncio.run(_serve_until_signal(settings))
    except (KeysFileError, RolloutFileError, TlsError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"can't listen: {error}") from error
    finally:
        tracing.shutdown()


def _spare_what_stays() -> None:
    """Keep all that is there by now, most of it modules, out of garbage collection, which holds up every request.

    A full collection takes some 80 ms with it and 10 ms without.
    """
    gc.collect()
    gc.freeze()


async def _serve_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # whoever signals twice does not want to wait for anything
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    await serve(settings, stop)


if __name__ == "__main__":
    gateway(prog_name="eagleeye gateway")
