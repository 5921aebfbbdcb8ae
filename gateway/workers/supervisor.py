"""The process that keeps the workers there: it starts them, starts them again, asks them, and ends with them.

It takes no requests but those of operators. What it holds of the ports is their numbers: it binds both without
listening, so that they are the gateway's for as long as it runs, and each worker listens at them by SO_REUSEPORT.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from gateway import buckets
from gateway.server import check_files, serving_rest
from gateway.workers import admin
from gateway.workers.channel import READINESS, Assignment, Channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gateway.settings import Settings

_COMMAND: Final = (sys.executable, "-m", "gateway.workers")
_FIRST_PAUSE_SECONDS: Final = 0.1
_LAST_PAUSE_SECONDS: Final = 10.0
_STEADY_SECONDS: Final = 30.0  # one that lived this long starts again after the first pause
_MOST_FAILED_STARTS: Final = 3  # of each worker, one after another, while none serves
_ASK_SECONDS: Final = 1.5  # probes wait for two
_WATCH_SECONDS: Final = 5.0  # between two questions whether a worker still answers
_HANG_SECONDS: Final = 30.0  # without an answer, for a worker to be taken for stuck
_KILL_SECONDS: Final = 3.0  # for what comes after the time of grace, before a worker is taken for stuck

_log = structlog.get_logger()


class WorkersFailed(Exception):
    """The workers can't be kept; the message says why."""


async def supervise(settings: Settings, stop: asyncio.Event) -> None:
    """Run the workers until `stop` is set; then let them drain and end.

    Raises:
        OSError: a port can't be had.
        WorkersFailed: they can't be started, or one did not end by itself.
        KeysFileError, RolloutFileError, TlsError: see `gateway.server.serve`.
    """
    check_files(settings)
    async with AsyncExitStack() as stack:
        http_port = await stack.enter_async_context(_reserved(settings.http_host, settings.http_port))
        grpc_port = await stack.enter_async_context(_reserved(settings.grpc_host, settings.grpc_port))
        crew = Crew(
            replace(settings, http_port=http_port, grpc_port=grpc_port), stack.enter_context(buckets.new_file()), stop
        )
        assert settings.admin_port is not None  # noqa: S101 (the settings see to it)
        application = admin.application(crew)
        await stack.enter_async_context(
            serving_rest(application, "admin", settings.admin_host, settings.admin_port, settings.grace_seconds)
        )
        await crew.run()


@asynccontextmanager
async def _reserved(host: str, port: int) -> AsyncIterator[int]:
    """Keep a port, 0 for a free one, for the workers; yields it.

    Raises:
        OSError: it can't be had. Another gateway's would be shared, too, if it were not looked at first.
    """
    loop = asyncio.get_running_loop()
    probe = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    probe.close()
    holder = await loop.create_server(asyncio.Protocol, host, port, start_serving=False, reuse_port=True)
    try:
        yield holder.sockets[0].getsockname()[1]
    finally:
        holder.close()


@dataclass(eq=False, slots=True)
class Process:
    """A worker, from its start to its end."""

    number: int
    process: asyncio.subprocess.Process
    channel: Channel
    is_serving: bool = False

    def end(self) -> None:
        """Ask it to drain and end."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            self.process.kill()


class Crew:
    """The workers of one gateway.

    Args:
        settings: with the ports that are kept for them.
        buckets: see `Assignment`.
        stop: ends them; set here when they can't be kept.
        command: how a worker is started, but for its socket.
    """

    def __init__(
        self, settings: Settings, buckets: int, stop: asyncio.Event, command: Sequence[str] = _COMMAND
    ) -> None:
        self._settings = settings
        self._buckets = buckets
        self._stop = stop
        self._command = command
        self._processes: set[Process] = set()
        self._failed_starts = 0
        self._failure = ""
        self.on_end: Callable[[Process], None] = lambda _: None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        workers = Gauge("eagleeye_workers", "Workers that serve", registry=self.registry)
        workers.set_function(lambda: len(self.serving))
        self._restarts = Counter(
            "eagleeye_worker_restarts", "Workers that ended and were started again", registry=self.registry
        )

    @property
    def is_stopping(self) -> bool:
        """Whether all workers are on their way out."""
        return self._stop.is_set()

    @property
    def serving(self) -> list[Process]:
        """The workers that serve, and can be asked."""
        return [process for process in self._processes if process.is_serving]

    async def ask(self, question: str) -> dict[Process, Any]:
        """What each worker that serves answers; None for one that does not. What ended meanwhile is left out."""
        serving = self.serving
        answers = await asyncio.gather(*(process.channel.ask(question, _ASK_SECONDS) for process in serving))
        return {process: answer for process, answer in zip(serving, answers, strict=True) if process in self._processes}

    async def run(self) -> None:
        """Keep them until they are to stop, and wait for their end.

        Raises:
            WorkersFailed: they could not be kept, or one had to be killed.
        """
        keepers = [asyncio.create_task(self._keep(number + 1)) for number in range(self._settings.workers)]
        try:
            await self._stop.wait()
            for process in self._processes:
                process.end()
            await asyncio.wait(keepers, timeout=self._stop_seconds)
            for process in self._processes:
                _log.error("a worker is stuck, and killed", worker=process.number)
                process.kill()
                self._failure = self._failure or "a worker did not end in time and was killed"
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        if self._failure:
            raise WorkersFailed(self._failure)

    @property
    def _stop_seconds(self) -> float:
        return self._settings.drain_seconds + self._settings.grace_seconds + _KILL_SECONDS

    async def _keep(self, number: int) -> None:
        """Keep one worker there, with longer pauses if it ends again and again."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            start = time.monotonic()
            end = await self._run_once(number)
            if self.is_stopping:
                return
            if self._failed_starts >= _MOST_FAILED_STARTS * self._settings.workers and not self.serving:
                self._failure = f"the workers do not start: the last one {end}; the reason stands above"
                self._stop.set()
                return
            if time.monotonic() - start > _STEADY_SECONDS:
                pause_seconds = _FIRST_PAUSE_SECONDS
            _log.error("a worker has ended", worker=number, reason=end, restart_seconds=pause_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._stop.wait()
                    return
            self._restarts.inc()
            pause_seconds = min(2 * pause_seconds, _LAST_PAUSE_SECONDS)

    async def _run_once(self, number: int) -> str:
        """Run a worker until it ends; how it did."""
        try:
            process = await self._start(number)
        except OSError as error:
            self._failed_starts += 1
            return f"can't be started ({error.strerror})"
        self._processes.add(process)
        watching = asyncio.create_task(self._watch(process), name="watch a worker")
        try:
            if self.is_stopping:
                process.end()
            return _describe(await process.process.wait())
        finally:
            watching.cancel()
            process.channel.close()
            self._processes.discard(process)
            self._failed_starts += not process.is_serving
            self.on_end(process)
            if process.process.returncode is None:
                process.kill()

    async def _start(self, number: int) -> Process:
        """Start a worker and tell it what it is.

        Its process group is its own: Ctrl-C at a terminal reaches the supervisor only, which then stops all in order.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), self._buckets),
                    process_group=0,
                )
            except OSError:
                ours.close()
                raise
        channel = await Channel.over(ours)
        channel.assign(Assignment(self._settings, number, self._buckets))
        return Process(number, process, channel)

    async def _watch(self, process: Process) -> None:
        """Note that a worker serves, once it answers; when it then answers no more, kill it, so that a new one comes.

        Its silence is counted in questions: where the whole machine stood still, that is one of them.
        """
        if await process.channel.ask(READINESS, None) is None:
            return
        process.is_serving = True
        self._failed_starts = 0
        silent_seconds = 0.0
        while silent_seconds < _HANG_SECONDS:
            asking = process.channel.ask(READINESS, _WATCH_SECONDS)
            answer, _ = await asyncio.gather(asking, asyncio.sleep(_WATCH_SECONDS))
            silent_seconds = silent_seconds + _WATCH_SECONDS if answer is None else 0.0
        if not self.is_stopping:  # else it has until the end of the time of grace
            _log.error("a worker hangs, and is killed", worker=process.number, silent_seconds=silent_seconds)
            process.kill()


def _describe(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
