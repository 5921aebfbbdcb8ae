"""What the load costs: processors and memory, sampled while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from loadtest.chaos.load import Clock
    from triton_runtime.process import Child

_INTERVAL_SECONDS: Final = 0.5
GENERATOR: Final = "generator"


class Sampler:
    """Watches groups of child processes, with all that they start, and this process as the `generator`.

    Attributes:
        spent_seconds: by group, of processor time since it was entered.
        rss_bytes: by group, (seconds of the clock, resident bytes of all its processes).
    """

    def __init__(self, groups: Mapping[str, Sequence[Child]], clock: Clock) -> None:
        self._groups = groups
        self._clock = clock
        self._cpu_seconds: dict[int, float] = {}
        self.spent_seconds: dict[str, float] = defaultdict(float)
        self.rss_bytes: dict[str, list[tuple[float, int]]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        self._begin = self._clock.now()
        self._machine = _machine_seconds()
        self._sample(counts=False)
        self._sampling = asyncio.create_task(self._keep_sampling())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sampling.cancel()
        await asyncio.gather(self._sampling, return_exceptions=True)
        self._sample()
        self._seconds = self._clock.now() - self._begin
        busy, total = (now - then for now, then in zip(_machine_seconds(), self._machine, strict=True))
        self._busy_share = busy / total if total else 0.0

    def shares(self) -> dict[str, float]:
        """Shares of all processors that were busy, in [0, 1]: of the whole `machine`, then of each group."""
        processors = os.cpu_count() or 1
        spent = {name: seconds / self._seconds / processors for name, seconds in self.spent_seconds.items()}
        return {name: round(share, 3) for name, share in {"machine": self._busy_share, **spent}.items()}

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            self._sample()

    def _sample(self, *, counts: bool = True) -> None:
        rss: dict[str, int] = defaultdict(int)
        for name, process in self._processes():
            with contextlib.suppress(psutil.Error):  # it has just gone
                times, memory = process.cpu_times(), process.memory_info()
                rss[name] += memory.rss
                cpu_seconds = times.user + times.system
                if counts:
                    self.spent_seconds[name] += max(0.0, cpu_seconds - self._cpu_seconds.get(process.pid, 0.0))
                self._cpu_seconds[process.pid] = cpu_seconds
        for name, value in rss.items():
            self.rss_bytes[name].append((self._clock.now(), value))

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        """Each child leads a session, so its offspring is found by that."""
        sessions = {child.pid: name for name, children in self._groups.items() for child in children if child.pid}
        found = [(GENERATOR, psutil.Process())]
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if name := sessions.get(os.getsid(pid)):
                    found.append((name, psutil.Process(pid)))
        return found


def _machine_seconds() -> tuple[float, float]:
    """Seconds that all processors together were busy, and all seconds."""
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    total = sum((times.user, times.nice, times.system, times.irq, times.softirq, times.steal)) + idle
    return total - idle, total
