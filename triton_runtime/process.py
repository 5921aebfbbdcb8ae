"""A child process that is kept alive: logged, restarted with backoff when it dies, stopped with the parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_FIRST_BACKOFF_SECONDS: Final = 0.5
_LAST_BACKOFF_SECONDS: Final = 10.0
_STEADY_SECONDS: Final = 30.0  # one that lived this long starts again with the first backoff
_LOOK_INTERVAL_SECONDS: Final = 1.0
_TAIL_LINES: Final = 20
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (it is where POSIX shared memory lives)


@dataclass(kw_only=True)
class Child:
    """How to run one child process.

    Attributes:
        name: for people.
        command: program and arguments.
        environment: all of its environment variables.
        log: file for its output; None leaves it on the parent's standard error.
        stop_seconds: how long it gets to stop before it is killed.
        report: called with a line for people when it dies and when it is started again.
        directory: where it runs; None is where its parent does.
        restarts_itself: whether it is started again when it dies.
        needs_helpers: whether it is as good as dead once a process that it started has died.
        shared_memory_prefix: how the names of its files in /dev/shm begin; what a killed one left is removed.
        pid: of the process that runs now, None when none does.
        deaths: how often it has died, or could not be started.
    """

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    log: Path | None
    stop_seconds: float
    report: Callable[[str], None]
    directory: Path | None = None
    restarts_itself: bool = True
    needs_helpers: bool = False
    shared_memory_prefix: str = ""
    pid: int | None = field(default=None, init=False)
    deaths: int = field(default=0, init=False)
    _watch: asyncio.Task[None] | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start it and watch over it from now on, which needs a running loop; one that is watched is left as it is."""
        if self._watch is None or self._watch.done():
            self._stopping = False
            self._watch = asyncio.create_task(self.run(), name=self.name)

    async def stop(self) -> None:
        """Stop it and everything it started; it can be started anew afterwards."""
        if self._watch is not None:
            if not self._stopping:  # a second call must not cut short what the first has begun
                self._stopping = True
                self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def restart(self) -> None:
        """Stop it, or tidy up after it if it has just died, and start it anew."""
        await self.stop()
        self.start()

    async def run(self) -> None:
        """Keep the child running until this coroutine is cancelled; then stop it and everything it started."""
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            try:
                ended = await self._run_once()
            except OSError as error:
                ended = f"can't be started ({error})"
            if time.monotonic() - started > _STEADY_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self.deaths += 1
            if not self.restarts_itself:
                self.report(f"{self.name} {ended}")
                return
            self.report(f"{self.name} {ended}; starting it again in {backoff:g} s{self.tail()}")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)

    async def _run_once(self) -> str:
        """Run the child until it is over; why that is."""
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self.log.open("ab")) if self.log else None
            # A session of its own: Ctrl-C reaches the parent only, which then stops its children in order.
            process = await asyncio.create_subprocess_exec(
                *dying_with_parent(self.command),
                env=self.environment,
                cwd=self.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self.pid = process.pid
            try:
                return await self._until_over(process)
            finally:
                await self._end(process)
                self.pid = None

    async def _until_over(self, process: asyncio.subprocess.Process) -> str:
        dead: set[int] = set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL_SECONDS):
                    return _describe_exit(await process.wait())
            before, dead = dead, _dead_children(process.pid) if self.needs_helpers else set()
            if before & dead:  # seen twice: nobody has buried it, so nobody will
                return "has lost a helper process, which it does not replace"

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(process.wait())
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
                os.killpg(process.pid, signal.SIGCONT)  # one that is frozen would not hear
            # not `asyncio.timeout`: Debian 12's takes its end for the cancellation that has most often brought us here
            await asyncio.wait([ended], timeout=self.stop_seconds)
            if not ended.done():
                self.report(f"{self.name} did not stop within {self.stop_seconds:g} s and is killed")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started and left behind
        await ended
        if self.shared_memory_prefix:
            for leftover in _SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"):
                leftover.unlink(missing_ok=True)

    def tail(self) -> str:
        """The last lines of the log, indented under a line for people; nothing without a log."""
        if self.log is None or not self.log.is_file():
            return ""
        with self.log.open(errors="replace") as lines:
            last = deque((line for line in lines if not line.startswith(("+-", "| "))), _TAIL_LINES)  # no option tables
        return f"; the end of {self.log}:\n" + "".join(f"    {line}" for line in last).rstrip()


@contextlib.asynccontextmanager
async def running(children: Sequence[Child]) -> AsyncIterator[None]:
    """Start children, and stop them on the way out; both happens to all at the same time."""
    for child in children:
        child.start()
    try:
        yield
    finally:
        await asyncio.gather(*(child.stop() for child in children))


def dying_with_parent(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The command of a process that the kernel stops when its parent is gone, even if that one was killed.

    It becomes the command itself, by util-linux' `setpriv`; where that is missing, such a process stays. Asking the
    kernel from Python, between fork and exec, takes a full fork; beside gRPC's threads, children were seen to abort.
    """
    own = [os.fspath(part) for part in command]
    setpriv = shutil.which("setpriv")
    if setpriv is None or shutil.which(own[0]) is None:
        return own
    return [setpriv, "--pdeathsig", "TERM", "--", *own]


def _describe_exit(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"stopped with exit code {status}"


def _dead_children(pid: int) -> set[int]:
    """The processes that `pid` has started, that have died, and that it has taken no notice of."""
    dead = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just gone
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == pid:
                dead.add(int(status.parent.name))
    return dead
