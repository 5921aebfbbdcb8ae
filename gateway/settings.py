"""Every setting of the gateway: one frozen object, built once from command-line flags and `EAGLEEYE_*` variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import click

from eagleeye.options import PORT, setting

_POSITIVE: Final = click.IntRange(min=1)
_SECONDS: Final = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `eagleeye gateway` can be told. Units are part of the names."""

    http_host: str = setting("127.0.0.1", click.STRING, "Address on which the REST face listens.")
    http_port: int = setting(8080, PORT, "TCP port of the REST face; 0 takes a free one.")
    grpc_host: str = setting("127.0.0.1", click.STRING, "Address on which the gRPC face listens.")
    grpc_port: int = setting(8081, PORT, "TCP port of the gRPC face; 0 takes a free one.")
    triton_url: str = setting("127.0.0.1:8001", click.STRING, "host:port of Triton's gRPC service.")
    max_image_bytes: int = setting(20_000_000, _POSITIVE, "Most bytes of one encoded image.")
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
