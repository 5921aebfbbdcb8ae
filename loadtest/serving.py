"""A Triton and a gateway of one's own on free ports, for as long as a measurement lasts."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click
import psutil

from loadtest import machine
from loadtest.chaos.processes import HOST, Gateway, free_ports
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer, is_serving, why_no_model_loads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from triton_runtime.process import Child

TRITON_ENVIRONMENT: Final = Path(".venv-triton")
_START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What runs."""

    triton: TritonServer
    gateway: Gateway

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the gateway's REST face."""
        return HOST, self.gateway.port

    @property
    def triton_processes(self) -> list[psutil.Process]:
        """Triton and its helpers."""
        return _processes(self.triton)

    @property
    def gateway_processes(self) -> list[psutil.Process]:
        """The gateway and its workers, where it has some."""
        return _processes(self.gateway)


@asynccontextmanager
async def serving(
    repository: Path,
    folder: Path,
    *,
    triton_env: Path = TRITON_ENVIRONMENT,
    gateway_options: Mapping[str, object] = MappingProxyType({}),
) -> AsyncIterator[Serving]:
    """Start both, and stop them on the way out.

    Args:
        repository: Triton's model repository.
        folder: for logs and Triton's backends; it is there.
        triton_env: virtual environment that holds nvidia-pytriton.
        gateway_options: of `eagleeye gateway`.

    Raises:
        click.ClickException: Triton cannot run here, or one of the two does not become ready.
    """
    try:
        installation = TritonEnvironment(triton_env).install(folder)
        triton = TritonServer(
            installation, repository, Ports(*free_ports(3)), restarts_itself=False, report=lambda _: None
        )
        async with running([triton]):
            await _until_serving(triton)
            async with serving_beside(triton, "gateway", folder, gateway_options) as served:
                yield served
    except (UnsupportedMachine, TimeoutError) as error:
        raise click.ClickException(str(error)) from error


@asynccontextmanager
async def serving_beside(
    triton: TritonServer,
    name: str,
    folder: Path,
    gateway_options: Mapping[str, object],
    program: Sequence[str] = ("eagleeye",),
) -> AsyncIterator[Serving]:
    """Start one more gateway, or a `program` around it, in front of a Triton that serves; stop it on the way out.

    Raises:
        TimeoutError: it does not become ready; the message has the end of its log.
    """
    options: dict[str, Any] = {"drain_seconds": 0, "triton_url": f"{HOST}:{triton.ports.grpc}", **gateway_options}
    gateway = Gateway(name, folder, program, **options)
    async with running([gateway]):
        await gateway.until_ready(_START_SECONDS)
        yield Serving(triton, gateway)


async def _until_serving(triton: TritonServer) -> None:
    try:
        await triton.until_serving(_START_SECONDS)
    except TimeoutError as error:
        models = await triton.models()
        if not is_serving(models) and (reasons := why_no_model_loads(models)):
            raise TimeoutError(f"the private Triton cannot load the model: {reasons}") from error
        raise


def _processes(child: Child) -> list[psutil.Process]:
    """Each child leads a session, by which its offspring is found."""
    return machine.session_processes(child.pid) if child.pid else []


def memory_bytes(processes: list[psutil.Process]) -> int:
    """Resident bytes of processes now, those that they share counted once for each."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has just gone
            total += process.memory_info().rss
    return total


def peak_bytes(processes: list[psutil.Process]) -> int:
    """The most resident bytes that each of the processes has ever had, in sum, as Linux remembers it."""
    return sum(_peak_bytes(process.pid) for process in processes)


def _peak_bytes(pid: int) -> int:
    with Path(f"/proc/{pid}/status").open() as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
