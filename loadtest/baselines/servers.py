"""The servers beside, as child processes."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loadtest import machine
from loadtest.baselines.gpu import CURVE, SCALED
from loadtest.bench.path import ServerSide
from loadtest.chaos.processes import HOST, free_ports, until_answered
from triton_runtime.process import Child, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from triton_runtime.standin import Standin

_START_SECONDS: Final = 30.0
_THREADS: Final = "32"


@dataclass(frozen=True, slots=True)
class Baseline:
    """One of them.

    Attributes:
        title: for people.
        packages: what must be installed.
        command: of Python's, without the port.
        port_option: the last word before the port; what stands before the port in it is kept.
    """

    title: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    port_option: str

    @property
    def lacking(self) -> list[str]:
        """Packages that are not installed here."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


_UVICORN: Final = ("-m", "uvicorn", "--log-level=warning", f"--host={HOST}")
BASELINES: Final = {
    "flask": Baseline(
        "Flask, model in the process",
        ("flask", "gunicorn"),
        ("-m", "gunicorn", "--worker-class=gthread", f"--threads={_THREADS}", "loadtest.baselines.flask_server:app"),
        f"--bind={HOST}:",
    ),
    "fastapi": Baseline(
        "FastAPI, model in the process",
        ("fastapi", "uvicorn"),
        (*_UVICORN, "loadtest.baselines.fastapi_server:app"),
        "--port=",
    ),
    "fastapi_batching": Baseline(
        "FastAPI with batching and our decoder",
        ("fastapi", "uvicorn"),
        (*_UVICORN, "loadtest.baselines.fastapi_batching_server:app"),
        "--port=",
    ),
}


@asynccontextmanager
async def baseline(name: str, folder: Path, standin: Standin, *, is_scaled: bool) -> AsyncIterator[ServerSide]:
    """Start one, and stop it on the way out.

    Args:
        name: of `BASELINES`.
        folder: for its log.
        standin: the GPU that it has.
        is_scaled: whether one with our decoder decodes large JPEGs at a part of their size.

    Raises:
        TimeoutError: it does not start; the message has the end of its log.
    """
    chosen = BASELINES[name]
    (port,) = free_ports(1)
    child = Child(
        name=chosen.title,
        command=[sys.executable, *chosen.command, f"{chosen.port_option}{port}"],
        environment={
            **os.environ,
            CURVE: f"{standin.base_ms} {standin.per_image_ms} {standin.size}",
            SCALED: str(int(is_scaled)),
        },
        log=folder / f"{name}.log",
        stop_seconds=5,
        report=lambda _: None,
        restarts_itself=False,
    )
    async with running([child]):
        await until_answered(f"http://{HOST}:{port}/healthz", _START_SECONDS, child)
        leader = child.pid
        yield ServerSide((HOST, port), {name: lambda: machine.session_processes(leader) if leader else []})
