"""A fleet to experiment with: real Tritons with a GPU stand-in, gateways in front, and the load on them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtest.chaos.figures import summarize, throughput, timeline
from loadtest.chaos.load import Clock, Flow, Load
from loadtest.chaos.processes import HOST, Gateway, free_ports
from loadtest.chaos.report import Mark, Report
from loadtest.chaos.sampling import Sampler
from loadtest.images import make_images
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from loadtest.chaos.load import Outcome
    from loadtest.chaos.processes import HAProxy
    from triton_runtime.process import Child
    from triton_runtime.standin import Standin

LOGS: Final = Path(".eagleeye/chaos")
"""Where the logs of the last run are."""
MODELS: Final = "models"
"""The model repository, in the stage's folder."""
_TRITON_ENVIRONMENT: Final = Path(".venv-triton")
_START_SECONDS: Final = 120.0
_IMAGES: Final = 256
_NOTE_WIDTH: Final = 300  # of a log's line in an error; the whole line is a traceback at times
_WARM_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.01
PATIENT: Final = Flow(deadline_seconds=10.0, patience_seconds=30.0)
"""A caller "that waits long enough": each attempt has the gateway's default deadline."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """What runs, and what to do to it. Everything is stopped with the block that `staged` belongs to.

    Attributes:
        folder: for logs and configs.
        tritons: all of them, those that do not run among them.
        gateways: all of them.
        fronts: the balancer before them, if there is one.
        load: sends requests.
        clock: what all times count from.
        marks: what has been done.
    """

    folder: Path
    tritons: list[TritonServer]
    gateways: list[Gateway]
    fronts: list[HAProxy]
    load: Load
    clock: Clock
    marks: list[Mark] = field(default_factory=list)

    def mark(self, text: str) -> None:
        """Note that something happens now."""
        self.marks.append(Mark(round(self.clock.now(), 2), text))

    async def kill(self, triton: TritonServer) -> None:
        """Kill one without warning, and bury it."""
        self.mark(f"kill {triton.name}")
        os.kill(_pid(triton), signal.SIGKILL)
        while triton.pid is not None:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(_POLL_SECONDS)
        await triton.stop()

    def freeze(self, triton: TritonServer) -> None:
        """Stop one from doing anything, its helpers too; its connections stay open."""
        self.mark(f"freeze {triton.name}")
        os.killpg(_pid(triton), signal.SIGSTOP)

    def thaw(self, triton: TritonServer) -> None:
        """Let a frozen one go on."""
        self.mark(f"thaw {triton.name}")
        os.killpg(_pid(triton), signal.SIGCONT)

    async def start(self, triton: TritonServer) -> None:
        """Start one, and wait until it serves."""
        triton.start()
        await triton.until_serving(_START_SECONDS)
        self.mark(f"{triton.name} serves")

    async def stop(self, child: Child) -> None:
        """Stop one in order, as Kubernetes does: SIGTERM, and time to finish."""
        self.mark(f"stop {child.name}")
        await child.stop()

    async def capacity(self, callers: int, seconds: float, flow: Flow = PATIENT) -> float:
        """Right answers per second to so many callers at a time: more than are needed to keep every Triton busy.

        Raises:
            RuntimeError: there were none; the message says why.
        """
        begin = self.clock.now() + _WARM_SECONDS
        outcomes = await self.load.saturate(flow, callers, _WARM_SECONDS + seconds)
        if measured := throughput(outcomes, begin, begin + seconds):
            return measured
        raise RuntimeError(f"no request was answered right: {summarize(outcomes).reasons}")

    def sampler(self) -> Sampler:
        """Watches what the load costs."""
        groups: dict[str, Sequence[Child]] = {
            "gateways": self.gateways,
            "tritons": self.tritons,
            "balancer": self.fronts,
        }
        return Sampler({name: children for name, children in groups.items() if children}, self.clock)

    def fill(self, report: Report, outcomes: Sequence[Outcome], sampler: Sampler | None = None) -> None:
        """Put into a report what every scenario tells: figures by flow, the timeline, the marks, the costs."""
        for name in dict.fromkeys(outcome.flow for outcome in outcomes):
            report.summaries[name] = summarize([outcome for outcome in outcomes if outcome.flow == name])
        report.seconds = timeline(outcomes)
        report.marks = list(self.marks)
        if sampler is not None:
            report.cpu_shares = sampler.shares()


@asynccontextmanager
async def staged(
    standin: Standin,
    *,
    tritons: int,
    hosts: Sequence[str] = (),
    running_tritons: int | None = None,
    gateways: int = 1,
    versions: int = 1,
    repository: Callable[[Path, int], Path] = lambda models, _: models,
    told: Callable[[Path, Sequence[TritonServer]], Mapping[str, object]] | None = None,
    front: Callable[[Path, Sequence[Gateway]], HAProxy] | None = None,
) -> AsyncIterator[Stage]:
    """Start a fleet, and stop it afterwards whatever happened.

    Args:
        standin: the model of each Triton.
        tritons: how many there are.
        hosts: an address for each, which then all have the same ports; without, each has ports of its own.
        running_tritons: how many of the Tritons are started; all by default.
        gateways: how many there are.
        versions: how many the model has, of which the first is loaded.
        repository: the model repository of a Triton, from the one with the model and the Triton's number.
        told: the gateways' options, from a folder for files and the Tritons; `triton_url` is a list of all by default.
        front: makes the balancer that callers reach; without, they reach the first gateway.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eagleeye-chaos-")))
        stack.callback(_keep_logs, folder)
        standin.write(folder / MODELS, versions)
        fleet = _tritons(folder, [repository(folder / MODELS, n) for n in range(tritons)], hosts)
        started = fleet[:running_tritons]
        await stack.enter_async_context(_stopped_at_the_end(fleet))
        await stack.enter_async_context(running(started))
        await asyncio.gather(*(triton.until_serving(_START_SECONDS) for triton in started))
        options = {"triton_url": _addresses(fleet), **(told(folder, fleet) if told else {})}
        doors = [Gateway(f"gateway {n}", folder, **options) for n in range(gateways)]
        await stack.enter_async_context(running(doors))
        await asyncio.gather(*(gateway.until_ready() for gateway in doors))
        fronts = [front(folder, doors)] if front else []
        await stack.enter_async_context(running(fronts))
        await asyncio.gather(*(each.until_ready() for each in fronts))
        clock = Clock()
        url = (fronts or doors)[0].url
        load = await stack.enter_async_context(Load(url, make_images(_IMAGES), clock))
        try:
            yield Stage(folder=folder, tritons=fleet, gateways=doors, fronts=fronts, load=load, clock=clock)
        except BaseException as error:
            for door in doors:
                error.add_note("\n".join(line[:_NOTE_WIDTH] for line in f"{door.name}{door.tail()}".splitlines()))
            raise


def _keep_logs(folder: Path) -> None:
    """Put the logs where the next run replaces them."""
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in LOGS.glob("*.log"):
        old.unlink(missing_ok=True)
    for log in folder.glob("*.log"):
        shutil.copyfile(log, LOGS / log.name)


def _tritons(folder: Path, repositories: Sequence[Path], hosts: Sequence[str]) -> list[TritonServer]:
    count = len(repositories)
    installation = TritonEnvironment(_TRITON_ENVIRONMENT.absolute()).install(folder)
    if hosts:
        ports = [Ports(*free_ports(3, *hosts))] * count
    else:
        numbers = free_ports(3 * count)
        ports = [Ports(*numbers[3 * n : 3 * n + 3]) for n in range(count)]
    return [
        TritonServer(
            installation,
            repositories[n],
            ports[n],
            name=f"Triton {n}",
            restarts_itself=False,
            report=lambda _: None,  # that it died is our own doing
            **({"host": hosts[n]} if hosts else {}),
        )
        for n in range(count)
    ]


def _addresses(tritons: Sequence[TritonServer]) -> str:
    return ",".join(f"{HOST}:{triton.ports.grpc}" for triton in tritons)


@asynccontextmanager
async def _stopped_at_the_end(tritons: Sequence[TritonServer]) -> AsyncIterator[None]:
    """Also those that a scenario has started itself."""
    try:
        yield
    finally:
        await asyncio.gather(*(triton.stop() for triton in tritons))


def _pid(triton: TritonServer) -> int:
    if triton.pid is None:
        raise RuntimeError(f"{triton.name} does not run{triton.tail()}")
    return triton.pid


async def every(seconds: float, times: int, act: Callable[[int], Awaitable[None]], *, first: float) -> None:
    """Do something `times` times, `seconds` from one start to the next, the first one after `first` seconds."""
    loop = asyncio.get_running_loop()
    begin = loop.time() + first
    for n in range(times):
        await asyncio.sleep(max(0.0, begin + n * seconds - loop.time()))
        await act(n)
