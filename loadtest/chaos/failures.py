"""Parts of the fleet die, stall, are replaced, come and go, and no caller that waits long enough loses a request."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from dataclasses import replace
from operator import gt
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from loadtest.arrivals import poisson
from loadtest.chaos.load import beside
from loadtest.chaos.nameserver import NameServer
from loadtest.chaos.processes import HAProxy
from loadtest.chaos.report import Report
from loadtest.chaos.stage import PATIENT, every, staged
from loadtest.verdict import Verdict
from triton_runtime.standin import Standin

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from loadtest.chaos.load import Outcome
    from loadtest.chaos.processes import Gateway
    from loadtest.chaos.stage import Stage
    from triton_runtime.server import TritonServer

_STANDIN: Final = Standin(base_ms=5.0, per_image_ms=15.0)
"""60 to 65 images per second: three of them leave a machine with two processors time to start a fourth."""
_CALLERS_PER_TRITON: Final = 24  # a batch in work and half a one that waits: no Triton runs dry
_CAPACITY_SECONDS: Final = 4.0

_SERVICE: Final = "tritons.chaos.test"
_FLEET: Final = 4
_HOSTS: Final = tuple(f"127.0.0.{n + 1}" for n in range(_FLEET))
_QUICK_STANDIN: Final = Standin(base_ms=2.0, per_image_ms=6.0)  # one must carry what four shall share
_WINDOW_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.1
_FAIR: Final = 0.75  # of the even share: in one second some 20 requests fall to one of four, and chance moves that
_FIRST_WORK_SECONDS: Final = 2.0
_SHARE_SECONDS: Final = 5.0  # a new one is spared at first, while its batches warm up; and the window is 1 s
_PRE_STOP_SECONDS: Final = 3.0  # as a preStop hook waits: longer than the gateway takes to look the name up again


async def kill(*, seconds: float, interval_seconds: float, share: float) -> Report:
    """Kill one of three Tritons every few seconds, without warning; each is started again at once."""
    async with staged(_STANDIN, tritons=3) as stage:

        async def strike(n: int) -> None:
            victim = stage.tritons[n % len(stage.tritons)]
            await stage.kill(victim)
            await stage.start(victim)

        report = Report(name="kill", title=f"kill -9 of one of three Tritons every {interval_seconds:g} s")
        kills = max(1, int(seconds / interval_seconds))

        async def strikes() -> None:
            await every(interval_seconds, kills, strike, first=interval_seconds / 2)

        return await _under_load(stage, report, strikes, seconds, share)


async def stall(*, seconds: float, freeze_seconds: float, share: float) -> Report:
    """Freeze one of three Tritons: its connections stay open, and nothing comes back."""
    async with staged(_STANDIN, tritons=3) as stage:

        async def freeze() -> None:
            await asyncio.sleep((seconds - freeze_seconds) / 3)
            stage.freeze(stage.tritons[0])
            try:
                await asyncio.sleep(freeze_seconds)
            finally:
                stage.thaw(stage.tritons[0])

        report = Report(name="stall", title=f"SIGSTOP of one of three Tritons for {freeze_seconds:g} s")
        return await _under_load(stage, report, freeze, seconds, share)


async def roll_tritons(*, seconds: float, share: float) -> Report:
    """Restart all three Tritons one after the other, as a Deployment's update does."""
    async with staged(_STANDIN, tritons=3) as stage:

        async def roll() -> None:
            await asyncio.sleep(seconds / 10)
            for triton in stage.tritons:
                await stage.stop(triton)
                await stage.start(triton)
                await asyncio.sleep(seconds / 10)  # minReadySeconds

        report = Report(name="roll-tritons", title="rolling restart of three Tritons")
        return await _under_load(stage, report, roll, seconds, share)


async def roll_gateways(*, seconds: float, share: float, drain_seconds: float) -> Report:
    """Restart two gateways one after the other, behind HAProxy, which asks both whether they are ready."""

    def told(*_: object) -> dict[str, object]:
        return {"drain_seconds": drain_seconds}

    async with staged(_STANDIN, tritons=2, gateways=2, front=HAProxy, told=told) as stage:

        async def roll() -> None:
            await asyncio.sleep(seconds / 10)
            for gateway in stage.gateways:
                await stage.stop(gateway)
                await _start(stage, gateway)
                await asyncio.sleep(seconds / 10)  # minReadySeconds

        report = Report(name="roll-gateways", title="rolling restart of two gateways behind HAProxy")
        return await _under_load(stage, report, roll, seconds, share)


async def dns(*, seconds: float, share: float) -> Report:
    """Let a name stand for one Triton, then for four, then for one again."""
    async with (
        NameServer({_SERVICE: _HOSTS[:1]}) as names,
        staged(
            _QUICK_STANDIN,
            tritons=_FLEET,
            hosts=_HOSTS,
            running_tritons=1,
            told=lambda _, fleet: {
                "triton_url": f"dns://{_SERVICE}:{fleet[0].ports.grpc}",
                "dns_server": names.address,
            },
        ) as stage,
    ):
        report = Report(name="dns", title="one Triton, then four, then one, by DNS")
        async with _Traffic(stage.tritons) as traffic:

            async def scale() -> None:
                await asyncio.sleep(seconds / 4)
                added = stage.tritons[1:]
                await asyncio.gather(*(stage.start(triton) for triton in added))
                await asyncio.sleep(_WINDOW_SECONDS)  # their warm-up counts as work
                idle = traffic.counts
                names.set(_SERVICE, _HOSTS)
                stage.mark("four in DNS")
                first, even = await asyncio.gather(
                    _until(lambda: all(map(gt, traffic.counts, idle)), seconds / 2),
                    _until(lambda: min(traffic.shares()) >= _FAIR / _FLEET, seconds / 2),
                )
                report.check("until each of four has work", first, " s", at_most=_FIRST_WORK_SECONDS)
                report.check("until each of four had its share for 1 s", even, " s", at_most=_SHARE_SECONDS)
                await asyncio.sleep(seconds / 4)
                names.set(_SERVICE, _HOSTS[:1])
                stage.mark("one in DNS")
                gone = await _until(lambda: not any(traffic.shares()[1:]), seconds / 2)
                report.check("until those removed had no work for 1 s", gone, " s", at_most=_SHARE_SECONDS)
                await asyncio.sleep(_PRE_STOP_SECONDS)
                await asyncio.gather(*(stage.stop(triton) for triton in added))

            return await _under_load(stage, report, scale, seconds, share)


class _Traffic:
    """How the requests of the last second were spread, by Triton's own counters."""

    def __init__(self, tritons: Sequence[TritonServer]) -> None:
        self._tritons = tritons
        window = round(_WINDOW_SECONDS / _POLL_SECONDS) + 1
        self._counts: deque[list[float]] = deque([[0.0] * len(tritons)], maxlen=window)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._polling = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._polling.cancel()
        await asyncio.gather(self._polling, return_exceptions=True)
        await self._session.close()

    @property
    def counts(self) -> list[float]:
        """How many requests each Triton has answered."""
        return self._counts[-1]

    def shares(self) -> list[float]:
        """Each Triton's share of what was answered in the window; all 0 if nothing was."""
        answered = [max(0.0, now - then) for now, then in zip(self._counts[-1], self._counts[0], strict=True)]
        return [count / max(1.0, sum(answered)) for count in answered]

    async def _poll(self) -> None:
        while True:
            self._counts.append(list(await asyncio.gather(*map(self._answered, self._tritons, self.counts))))
            await asyncio.sleep(_POLL_SECONDS)

    async def _answered(self, triton: TritonServer, before: float) -> float:
        """How many requests one has answered; as many as before while it does not say."""
        if triton.pid is None:
            return before
        url = f"http://{triton.host}:{triton.ports.metrics}/metrics"
        try:
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=1)) as response:
                page = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return before
        return sum(map(float, re.findall(r"^nv_inference_request_success{.*} (\S+)$", page, re.MULTILINE)))


async def _under_load(
    stage: Stage, report: Report, events: Callable[[], Coroutine[Any, Any, None]], seconds: float, share: float
) -> Report:
    """Measure the capacity, offer a share of it by patient callers while things happen, and count what is lost."""
    running = sum(triton.pid is not None for triton in stage.tritons)
    capacity = await stage.capacity(_CALLERS_PER_TRITON * running, min(_CAPACITY_SECONDS, seconds / 4))
    rate = share * capacity
    flow = replace(PATIENT, arrivals=poisson(rate, seconds, seed=0))
    async with stage.sampler() as sampler:
        outcomes = await beside(stage.load.send(flow), events())
    report.facts = {"capacity per second": capacity, "load per second": rate, **report.facts}
    stage.fill(report, outcomes, sampler)
    _hold_that_none_is_lost(report, outcomes)
    return report


def _hold_that_none_is_lost(report: Report, outcomes: Sequence[Outcome]) -> None:
    lost = sum(outcome.verdict is not Verdict.OK for outcome in outcomes)
    report.check("requests lost by callers that wait long enough", lost, at_most=0)
    report.check("requests sent", len(outcomes), at_least=1)


async def _start(stage: Stage, gateway: Gateway) -> None:
    gateway.start()
    await gateway.until_ready()
    stage.mark(f"{gateway.name} is ready")


async def _until(is_so: Callable[[], bool], timeout_seconds: float) -> float:
    """Seconds until something is so; infinite if it is not in time."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while not is_so():
        if loop.time() - begin > timeout_seconds:
            return math.inf
        await asyncio.sleep(_POLL_SECONDS)
    return loop.time() - begin
