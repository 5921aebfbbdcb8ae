"""Every setting of the gateway: one frozen object, built once from command-line flags and `EAGLEEYE_*` variables."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click

from eagleeye.options import PORT, setting

_POSITIVE: Final = click.IntRange(min=1)
_SECONDS: Final = click.FloatRange(min=0, min_open=True)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")


class Origins(click.ParamType[tuple[str, ...]]):
    """Origins as browsers write them, `scheme://host` with a port if it is not the usual one; or `*`."""

    name = "origins"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read a comma-separated list."""
        if isinstance(value, tuple):
            return value
        origins = tuple(origin.strip().lower() for origin in value.split(",") if origin.strip())
        for origin in origins:
            if not _ORIGIN.fullmatch(origin) and origins != ("*",):
                self.fail(f"{origin!r} is no origin such as https://example.com; or give * alone for any", param, ctx)
        return origins


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How to serve, wherever Triton is. Units are part of the names."""

    http_host: str = setting("127.0.0.1", click.STRING, "Address on which the REST face listens.")
    http_port: int = setting(8080, PORT, "TCP port of the REST face; 0 takes a free one.")
    grpc_host: str = setting("127.0.0.1", click.STRING, "Address on which the gRPC face listens.")
    grpc_port: int = setting(8081, PORT, "TCP port of the gRPC face; 0 takes a free one.")
    admin_host: str = setting("127.0.0.1", click.STRING, "Address of the admin port.")
    admin_port: int | None = setting(
        None, PORT, "TCP port for /healthz, /readyz and /metrics, which the REST face then lacks; 0 takes a free one."
    )
    keys_file: Path | None = setting(
        None,
        click.Path(dir_okay=False, path_type=Path),
        "File of keys, see `eagleeye key`; without, none is asked for.",
    )
    insecure: bool = setting(False, click.BOOL, "Serve other machines without keys.")
    cors_origins: tuple[str, ...] = setting(
        (), Origins(), "Origins whose pages may call the REST face, separated by commas; * for any."
    )
    max_image_bytes: int = setting(20_000_000, _POSITIVE, "Most bytes of one encoded image.")
    max_body_bytes: int = setting(
        64_000_000, _POSITIVE, "Most bytes of one request's body with several images, or with base64."
    )
    max_image_pixels: int = setting(50_000_000, _POSITIVE, "Most pixels (width x height) of one image.")
    max_inflight: int = setting(64, _POSITIVE, "Most images worked on at a time; more are refused with 503.")
    pixel_threads: int = setting(
        os.cpu_count() or 1, _POSITIVE, "Threads that decode and resize images; by default one per processor."
    )
    timeout_seconds: float = setting(10.0, _SECONDS, "Deadline of a request that names none, in seconds.")
    upload_timeout_seconds: float = setting(30.0, _SECONDS, "Longest time for a request's body to arrive, in seconds.")
    drain_seconds: float = setting(
        5.0,
        click.FloatRange(min=0),
        "Time on shutdown in which /readyz is 503 and requests are still taken, for balancers to notice; in seconds.",
    )
    grace_seconds: float = setting(10.0, _SECONDS, "Time that requests then get to finish, in seconds.")
    otlp_endpoint: str = setting(
        "", click.STRING, "URL of an OTLP collector over HTTP, such as http://collector:4318; traces are off without."
    )
    log_format: str = setting(
        "auto", click.Choice(["auto", "json", "text"]), "Form of log lines; auto: text on a terminal, else JSON."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServingSettings):
    """What `eagleeye gateway` can be told."""

    triton_url: str = setting("127.0.0.1:8001", click.STRING, "host:port of Triton's gRPC service.")


def refuse_open_doors(settings: ServingSettings) -> None:
    """Stop before a face that other machines reach would serve everyone, unless that is said to be wanted.

    Raises:
        click.ClickException: it would.
    """
    if settings.keys_file is not None or settings.insecure:
        return
    for option, host in (("--http-host", settings.http_host), ("--grpc-host", settings.grpc_host)):
        if not _is_loopback(host):
            raise click.ClickException(
                f"{option} {host!r} can be reached from other machines, and no key would be asked for: "
                "name a --keys-file (`eagleeye key add` makes one), or serve everyone with --insecure"
            )


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of names, `localhost` is the one that is sure to."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
