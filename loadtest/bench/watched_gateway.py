"""`python -m loadtest.bench.watched_gateway FILE gateway ...`: `eagleeye gateway ...` with a clock on its event loop.

SIGUSR1 begins a measurement; SIGUSR2 ends it, and writes what was found to FILE. Only this process is watched, so with
`--workers` the supervisor alone, which serves nothing.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import json
import signal
import threading
import time
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.cli import main
from eagleeye.files import write_atomically
from loadtest.closed_loop import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONG_MS: Final = 2.0
"""What no call should take: all other requests wait as long."""
_NAMED: Final = 5
_QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999, "longest": 1.0}


class Calls:
    """What calls took: processor time of their thread, and time on the wall.

    That on the wall has also waits for a processor, and for the interpreter's lock while another thread holds it.
    """

    def __init__(self) -> None:
        self._cpu_ms, self._wall_ms = array("d"), array("d")
        self._longest: list[tuple[float, int, dict[str, Any]]] = []
        self._numbers = itertools.count()  # of two that took as long, these are compared, and not what they were

    def add(self, callback: object, cpu_ms: float, wall_ms: float, gc_ms: float) -> None:
        """Count a call, and remember what it was while it is among those that took most processor time."""
        self._cpu_ms.append(cpu_ms)
        self._wall_ms.append(wall_ms)
        if len(self._longest) == _NAMED and cpu_ms <= self._longest[0][0]:
            return
        told = {"what": name(callback), "cpu_ms": cpu_ms, "gc_ms": gc_ms, "wall_ms": wall_ms}
        heapq.heappush(self._longest, (cpu_ms, next(self._numbers), told))
        if len(self._longest) > _NAMED:
            heapq.heappop(self._longest)

    def summary(self) -> dict[str, Any]:
        """The number of `calls`, quantiles of `cpu_ms` and `wall_ms` with the share above 2 ms, and the `longest`."""
        return {
            "calls": len(self._cpu_ms),
            "cpu_ms": _spread(self._cpu_ms),
            "wall_ms": _spread(self._wall_ms),
            "longest": [told for *_, told in sorted(self._longest, reverse=True)],
        }


def _spread(ms: Sequence[float]) -> dict[str, float]:
    ascending = sorted(ms)
    quantiles = {title: quantile(ascending, share) for title, share in _QUANTILES.items()}
    return {**quantiles, "long_share": sum(each > LONG_MS for each in ms) / max(1, len(ms))}


def name(callback: Any) -> str:
    """What a callback is; of a step of a task its coroutine, and the innermost one in which the step ended."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        names = list(_awaiting(owner.get_coro()))
        return names[0] if len(names) == 1 else f"{names[0]}, up to {names[-1]}"
    while hasattr(callback, "func"):  # functools.partial
        callback = callback.func
    return getattr(callback, "__qualname__", type(callback).__qualname__)


def _awaiting(coroutine: Any) -> Iterator[str]:
    """A coroutine, the one that it awaits, and so on, as far as they have names."""
    while hasattr(coroutine, "__qualname__"):
        yield coroutine.__qualname__
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


class Collections:
    """Processor time of this thread for garbage collections so far, in ms: they are part of the calls that they hit."""

    def __init__(self) -> None:
        self.ms = 0.0
        self._began_ms = 0.0
        self._thread = threading.get_ident()

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        """A collection begins or ends, as `gc.callbacks` are told."""
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._began_ms = time.thread_time() * 1e3
        else:
            self.ms += time.thread_time() * 1e3 - self._began_ms


class Watch:
    """Times what the event loop of this thread calls, from `begin` to `end`."""

    def __init__(self) -> None:
        self._calls: Calls | None = None

    def begin(self) -> None:
        """Count from now on."""
        self._calls = Calls()

    def end(self) -> dict[str, Any]:
        """Count no further; what was found, see `Calls.summary`."""
        calls, self._calls = self._calls or Calls(), None
        return calls.summary()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the clock on `Handle._run`, by which asyncio's loops make all of their calls."""
        run, collections = asyncio.Handle._run, Collections()  # noqa: SLF001 (only debug mode has a hook, and that is slow)

        def timed(handle: Any) -> None:
            if (calls := self._calls) is None:
                run(handle)
                return
            callback = handle._callback  # noqa: SLF001 (now, as a handle that is cancelled forgets it)
            gc_ms, wall, cpu = collections.ms, time.perf_counter(), time.thread_time()
            run(handle)
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            calls.add(callback, cpu * 1e3, wall * 1e3, collections.ms - gc_ms)

        gc.callbacks.append(collections)
        asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]  # noqa: SLF001
        try:
            yield
        finally:
            asyncio.Handle._run = run  # type: ignore[method-assign]  # noqa: SLF001
            gc.callbacks.remove(collections)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def watched(file: Path, arguments: tuple[str, ...]) -> None:
    """Run `eagleeye ARGUMENTS`, and write to FILE what its event loop did between SIGUSR1 and SIGUSR2."""
    watch = Watch()
    signal.signal(signal.SIGUSR1, lambda *_: watch.begin())
    signal.signal(signal.SIGUSR2, lambda *_: write_atomically(file, json.dumps(watch.end()).encode()))
    with watch.installed():
        main(list(arguments), prog_name="eagleeye")


if __name__ == "__main__":
    watched()
