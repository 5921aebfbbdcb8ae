"""The servers beside, as child processes."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import psutil

from loadtest.baselines import triton_ensemble
from loadtest.baselines.gpu import CURVE, SCALED
from loadtest.bench.path import DETECT, Interface, ServerSide
from loadtest.chaos.processes import HOST, free_ports, until_answered
from loadtest.serving import TRITON_ENVIRONMENT
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import Child, running
from triton_runtime.server import Ports, TritonServer
from triton_runtime.standin import MODEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from triton_runtime.standin import Standin

_ROOT: Final = Path(__file__).parents[2]
_START_SECONDS: Final = 60.0
_THREADS: Final = "32"


class Baseline(Protocol):
    """One of them."""

    @property
    def title(self) -> str:
        """Its name, for people."""

    @property
    def decodes_as_we_do(self) -> bool:
        """Whether it has our own stages before and after the GPU, so that its answers are ours to the last pixel."""

    @property
    def lacking(self) -> str:
        """What it cannot run without and is not here, for people; empty if all is."""

    def serving(self, folder: Path, standin: Standin, *, is_scaled: bool) -> AbstractAsyncContextManager[ServerSide]:
        """Start it, and stop it on the way out.

        Args:
            folder: for its log, and what else it writes.
            standin: the GPU that it has.
            is_scaled: whether one that decodes as we do decodes large JPEGs at a part of their size.

        Raises:
            TimeoutError: it does not start; the message has the end of its log.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonServer:
    """One that is a file, and has the stand-in for a GPU in a process of its own.

    Attributes:
        title: for people.
        command: of Python's, without the port.
        port_option: the last word before the port; what stands before the port in it is kept.
        ready: path that is answered 200 as soon as it serves.
        packages: what must be installed.
        environment: virtual environment where they are, if it is not this process's.
        decodes_as_we_do: whether it has our own stages.
    """

    title: str
    command: tuple[str, ...]
    port_option: str
    ready: str = "/healthz"
    packages: tuple[str, ...] = ()
    environment: Path | None = None
    decodes_as_we_do: bool = False

    @property
    def lacking(self) -> str:
        """Packages that are not installed, or the environment."""
        if self.environment:
            return _without(self.environment)
        names = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(names)} not installed; extra `baselines`" if names else ""

    @asynccontextmanager
    async def serving(self, folder: Path, standin: Standin, *, is_scaled: bool) -> AsyncIterator[ServerSide]:
        """Start it, and stop it on the way out."""
        (port,) = free_ports(1)
        python = self.environment / "bin" / "python" if self.environment else sys.executable
        child = Child(
            name=self.title,
            command=[python, *self.command, f"{self.port_option}{port}"],
            environment={
                **os.environ,
                CURVE: f"{standin.base_ms} {standin.per_image_ms} {standin.size}",
                SCALED: str(int(is_scaled)),
                "BENTOML_DO_NOT_TRACK": "true",  # it would report its use by default
                "BENTOML_HOME": str(folder),  # and write to the user's home
            },
            log=folder / f"server-{port}.log",
            stop_seconds=5,
            report=lambda _: None,
            directory=_ROOT,
            restarts_itself=False,
        )
        async with running([child]):
            await until_answered(f"http://{HOST}:{port}{self.ready}", _START_SECONDS, child)
            yield _side(child, port)


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonEnsemble:
    """Triton alone.

    Attributes:
        title: for people.
        environment: virtual environment of its Python models.
        decodes_as_we_do: whether it has our own stages.
    """

    title: str
    environment: Path
    decodes_as_we_do: bool = True

    @property
    def lacking(self) -> str:
        """The environment, if it is not there."""
        return _without(self.environment)

    @asynccontextmanager
    async def serving(self, folder: Path, standin: Standin, *, is_scaled: bool) -> AsyncIterator[ServerSide]:
        """Start it, and stop it on the way out."""
        own = folder / triton_ensemble.ENSEMBLE
        standin.write(own / "models")
        triton_ensemble.write(own / "models", MODEL, self.environment, is_scaled=is_scaled)
        installation = TritonEnvironment(_ROOT / TRITON_ENVIRONMENT).install(own)
        triton_ensemble.lend_gateway(installation)
        ports = Ports(*free_ports(3))
        triton = TritonServer(installation, own / "models", ports, restarts_itself=False, report=lambda _: None)
        async with running([triton]):
            await until_answered(f"http://{HOST}:{ports.http}{triton_ensemble.READY}", _START_SECONDS, triton)
            yield _side(triton, ports.http, triton_ensemble.INFER)


@dataclass(frozen=True, slots=True)
class BeforeTriton:
    """One that is a file, in front of a Triton of its own: the processes of both are the server's.

    Attributes:
        server: the file, which is told Triton's gRPC address by `--triton=`.
    """

    server: PythonServer

    @property
    def title(self) -> str:
        """The file's."""
        return self.server.title

    @property
    def decodes_as_we_do(self) -> bool:
        """As the file says."""
        return self.server.decodes_as_we_do

    @property
    def lacking(self) -> str:
        """What the file lacks."""
        return self.server.lacking

    @asynccontextmanager
    async def serving(self, folder: Path, standin: Standin, *, is_scaled: bool) -> AsyncIterator[ServerSide]:
        """Start Triton and, when that serves, the file; stop them on the way out, the other way round."""
        ports = Ports(*free_ports(3))
        own = folder / f"triton-{ports.grpc}"
        standin.write(own / "models")
        installation = TritonEnvironment(_ROOT / TRITON_ENVIRONMENT).install(own)
        triton = TritonServer(installation, own / "models", ports, restarts_itself=False, report=lambda _: None)
        async with running([triton]):
            await triton.until_serving(_START_SECONDS)
            told = replace(self.server, command=(*self.server.command, f"--triton={HOST}:{ports.grpc}"))
            async with told.serving(folder, standin, is_scaled=is_scaled) as side:
                yield replace(side, processes={**side.processes, "triton": lambda: _family(triton)})


def _without(environment: Path) -> str:
    return "" if (environment / ".done").is_file() else f"there is no {environment.name}; `make bench` makes it"


def _side(child: Child, port: int, interface: Interface = DETECT) -> ServerSide:
    return ServerSide((HOST, port), {"server": lambda: _family(child)}, interface)


def _family(child: Child) -> list[psutil.Process]:
    """A child and its offspring, some of which may lead sessions of their own."""
    if child.pid is None:
        return []
    leader = psutil.Process(child.pid)
    return [leader, *leader.children(recursive=True)]


_UVICORN: Final = ("-m", "uvicorn", "--log-level=warning", f"--host={HOST}")
BASELINES: Final[dict[str, Baseline]] = {
    "flask": PythonServer(
        title="Flask, model in the process",
        packages=("flask", "gunicorn"),
        command=(
            "-m",
            "gunicorn",
            "--worker-class=gthread",
            f"--threads={_THREADS}",
            "loadtest.baselines.flask_server:app",
        ),
        port_option=f"--bind={HOST}:",
    ),
    "fastapi": PythonServer(
        title="FastAPI, model in the process",
        packages=("fastapi", "uvicorn"),
        command=(*_UVICORN, "loadtest.baselines.fastapi_server:app"),
        port_option="--port=",
    ),
    "fastapi_batching": PythonServer(
        title="FastAPI with batching and our decoder",
        packages=("fastapi", "uvicorn"),
        command=(*_UVICORN, "loadtest.baselines.fastapi_batching_server:app"),
        port_option="--port=",
        decodes_as_we_do=True,
    ),
    "bare_hop": BeforeTriton(
        PythonServer(
            title="the bare hop: aiohttp, gRPC and Triton",
            command=("-m", "loadtest.baselines.bare_hop_server"),
            port_option="--port=",
            decodes_as_we_do=True,
        )
    ),
    "triton_ensemble": TritonEnsemble(title="Triton alone with our decoder", environment=_ROOT / ".venv-ensemble"),
    "bentoml": PythonServer(
        title="BentoML with batching and our decoder",
        command=("-m", "bentoml", "serve", f"--host={HOST}", "loadtest.baselines.bentoml_server:Detector"),
        port_option="--port=",
        ready="/readyz",
        environment=_ROOT / ".venv-bentoml",
        decodes_as_we_do=True,
    ),
}
