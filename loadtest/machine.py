"""What benchmarks ask of the machine they run on."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import click
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

GATEWAY: Final = ("-m gateway", "eagleeye gateway")
TRITON: Final = ("bin/tritonserver", "triton_python_backend_stub")
"""Words of the command lines of what serves."""


def serving_processes(words: Iterable[str] = (*GATEWAY, *TRITON)) -> list[psutil.Process]:
    """The processes of this machine that serve: those whose command line has one of the `words`.

    Raises:
        click.ClickException: there is none.
    """
    found = [p for p in psutil.process_iter(["cmdline"]) if any(w in " ".join(p.info["cmdline"] or ()) for w in words)]
    if not found:
        raise click.ClickException("no gateway and no Triton run on this machine; start them with `make up`")
    return found


def session_processes(leader: int) -> list[psutil.Process]:
    """The process that leads a session, and all that it has started."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):  # it has just gone
            if os.getsid(pid) == leader:
                found.append(psutil.Process(pid))
    return found


def busy_share(seconds: float = 1.0) -> float:
    """Which share of all processors is busy, in [0, 1], over the next seconds: what others do before we begin."""
    return float(psutil.cpu_percent(seconds)) / 100


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """CPU time that the processes have used since they began."""
    seconds: float = sum(times.user + times.system for times in (process.cpu_times() for process in processes))
    return seconds


def describe() -> dict[str, Any]:
    """What a figure must be read with."""
    return {
        "processors": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "grpcio": version("grpcio"),
    }
