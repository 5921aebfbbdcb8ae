"""One real Triton on this machine: started, watched, asked whether it serves, and stopped.

`eagleeye up` starts as many as it is told. A script that wants to kill, freeze or roll them does the same by hand:

    installation = TritonEnvironment(Path(".venv-triton")).install(folder)
    triton = TritonServer(installation, repository, Ports(8000, 8001, 8002), restarts_itself=False)
    async with running([triton]):
        await triton.until_serving(60)
        os.kill(triton.pid, signal.SIGKILL)
        ...
        await triton.restart()
        await triton.until_serving(60)
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from triton_runtime.process import Child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from triton_runtime.environment import Installation

HOST: Final = "127.0.0.1"
"""Where a local Triton listens unless it is told otherwise: nobody but this machine needs to reach it."""
_STOP_SECONDS: Final = 5
_POLL_SECONDS: Final = 0.1


class Ports(NamedTuple):
    """The TCP ports of one Triton."""

    http: int
    grpc: int
    metrics: int


class TritonServer(Child):
    """A `tritonserver` that serves one model repository: what its configs name, until `eagleeye model` says otherwise.

    Args:
        installation: what to start.
        repository: the model repository.
        ports: where it listens.
        host: the address where it listens; several may have the same ports where each has an address of its own.
        name: for people; its log is named after it, in the installation's folder. Triton and its number, as a rule.
        restarts_itself: whether it is started again when it dies.
        report: called with a line for people when it dies and when it is started again.
    """

    def __init__(
        self,
        installation: Installation,
        repository: Path,
        ports: Ports,
        *,
        host: str = HOST,
        name: str = "Triton",
        restarts_itself: bool = True,
        report: Callable[[str], None] = print,
    ) -> None:
        self.ports = ports
        self.host = host
        shared_memory_prefix = f"eagleeye_{os.getpid()}_{ports.grpc}_{host}_"
        super().__init__(
            name=name,
            command=[
                installation.server,
                f"--model-repository={repository.absolute()}",
                f"--backend-directory={installation.backends}",
                f"--http-address={host}",
                f"--http-port={ports.http}",
                f"--grpc-address={host}",
                f"--grpc-port={ports.grpc}",
                f"--metrics-address={host}",
                f"--metrics-port={ports.metrics}",
                # what is loaded changes when somebody says so, who then sees whether it went well
                "--model-control-mode=explicit",
                "--load-model=*",
                "--strict-readiness=false",  # else a load that fails later would make it unready for good
                f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
                "--exit-on-error=false",  # one broken model must not keep the others from being served
                f"--exit-timeout-secs={_STOP_SECONDS}",
            ],
            environment=installation.variables,
            log=installation.directory / f"{name.lower().replace(' ', '-')}.log",
            stop_seconds=_STOP_SECONDS + 5,
            report=report,
            directory=installation.directory,  # stubs look for modules where Triton runs, before anywhere else
            restarts_itself=restarts_itself,
            needs_helpers=True,  # a dead stub's share of the requests would fail until Triton is started anew
            shared_memory_prefix=shared_memory_prefix,
        )

    async def until_serving(self, timeout_seconds: float) -> None:
        """Wait until it serves a model.

        Raises:
            TimeoutError: it does not in time; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout_seconds
        while not is_serving(await self.models()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} serves nothing after {timeout_seconds:g} s{self.tail()}")
            await asyncio.sleep(_POLL_SECONDS)

    async def models(self) -> list[dict[str, Any]]:
        """Triton's index of its models: name, version, state, reason. Empty while it does not answer."""
        return await asyncio.to_thread(self._models)

    def _models(self) -> list[dict[str, Any]]:
        index = urllib.request.Request(f"http://{self.host}:{self.ports.http}/v2/repository/index", method="POST")
        try:
            with urllib.request.urlopen(index, timeout=1) as response:  # noqa: S310 (our own address)
                models: list[dict[str, Any]] = json.load(response)
        except (OSError, HTTPException):
            return []
        return models


def is_serving(models: list[dict[str, Any]]) -> bool:
    """Whether one of a Triton's models is ready."""
    return any(model.get("state") == "READY" for model in models)


def why_no_model_loads(models: list[dict[str, Any]]) -> str:
    """Triton's reasons once it has failed on every model; empty as long as there is hope."""
    if not all(model.get("state") == "UNAVAILABLE" for model in models):
        return ""
    return "; ".join(f"{model['name']}: {' '.join(model.get('reason', 'no reason given').split())}" for model in models)
