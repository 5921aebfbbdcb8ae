"""More load than there is capacity, unfair load, and whether capacity grows with the fleet."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Final

from loadtest.arrivals import poisson
from loadtest.chaos.figures import (
    answered_per_second,
    due_between,
    latencies_ms,
    percentile,
    summarize,
    throughput,
    timeline,
)
from loadtest.chaos.load import Flow
from loadtest.chaos.report import Report
from loadtest.chaos.stage import PATIENT, staged
from loadtest.verdict import Verdict
from triton_runtime.standin import Standin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loadtest.chaos.load import Outcome
    from loadtest.chaos.sampling import Sampler
    from loadtest.chaos.stage import Stage

_SLOW_STANDIN: Final = Standin(base_ms=75.0, per_image_ms=37.5)
"""24 images per second in full batches, with the default's ratio of its terms: ten times what two of them can do is
still little work for the gateway and the generator."""
_TRITONS: Final = 2
_CALLERS_PER_TRITON: Final = 40
_DEADLINE_SECONDS: Final = 3.0
_SETTLING_SECONDS: Final = 3.0  # of each load, until the queue that belongs to it has formed
_REFUSAL_MS: Final = 20.0
_GOODPUT_SHARE: Final = 0.95
_GROWTH_OF_MEMORY: Final = 5.0  # percent from the first half of a load to the second

_FLAT_STANDIN: Final = Standin(base_ms=300.0, per_image_ms=2.5)
"""47 images per second in full batches, which take hardly longer than others: on a curve that rises, the flood's fuller
batches alone make everyone's answers later, however fairly the places in them are shared."""
_FLOOD: Final = 20
_FLOODER: Final = "flooder"
_OTHERS: Final = ("camera-1", "camera-2", "camera-3", "camera-4")
_FLOOD_DEADLINE_SECONDS: Final = 10.0
_GROWTH_OF_P99: Final = 0.2

_EVEN_STANDIN: Final = Standin(base_ms=0.0, per_image_ms=50.0)  # 20 a second however large its batches are
_EVEN_CALLERS: Final = 20  # of each Triton: some images in work and some that wait, in two batches and not in three
_JUDGED_FROM: Final = 4
_LINEAR_SHARE: Final = 0.98
_CHANGE_OF_P50: Final = 0.1


async def overload(*, seconds: float, factors: Sequence[float]) -> Report:
    """Offer a multiple of what can be worked off, by callers that do not come back."""
    async with staged(_SLOW_STANDIN, tritons=_TRITONS) as stage:
        report = Report(name="overload", title=f"{' and '.join(f'{factor:g}x' for factor in factors)} of the capacity")
        peak = await stage.capacity(_CALLERS_PER_TRITON * _TRITONS, seconds)
        report.facts = {"capacity per second": peak, "deadline in s": _DEADLINE_SECONDS}
        outcomes: list[Outcome] = []
        async with stage.sampler() as sampler:
            for factor in factors:
                outcomes += await _overload(stage, report, sampler, peak, factor, seconds)
                await asyncio.sleep(_DEADLINE_SECONDS)  # the next load finds no queue
        stage.fill(report, outcomes, sampler)
        return report


async def _overload(
    stage: Stage, report: Report, sampler: Sampler, peak: float, factor: float, seconds: float
) -> list[Outcome]:
    name = f"{factor:g}x"
    stage.mark(name)
    arrivals = poisson(factor * peak, _SETTLING_SECONDS + seconds, seed=round(factor))
    begin = stage.clock.now() + _SETTLING_SECONDS
    outcomes = await stage.load.send(Flow(name=name, arrivals=arrivals, deadline_seconds=_DEADLINE_SECONDS))
    end = begin + seconds
    judged = due_between(outcomes, begin, end)
    accepted = [outcome for outcome in judged if outcome.verdict is not Verdict.REFUSED]
    missed = sum(outcome.verdict is not Verdict.OK for outcome in accepted)
    report.check(f"{name}: goodput / peak", answered_per_second(outcomes, begin, end) / peak, at_least=_GOODPUT_SHARE)
    report.check(f"{name}: accepted, but not answered in time", 100 * missed / max(1, len(accepted)), " %", at_most=1)
    p99 = percentile(latencies_ms(accepted, Verdict.OK, Verdict.LATE), 99)
    report.check(f"{name}: p99 of what was accepted", p99, " ms", at_most=1e3 * _DEADLINE_SECONDS)
    refusals = percentile(latencies_ms(judged, Verdict.REFUSED), 99)
    report.check(f"{name}: p99 of refusals", refusals, " ms", at_most=_REFUSAL_MS)
    memory = [size for at, size in sampler.rss_bytes["gateways"] if begin <= at < end]
    report.facts[f"{name}: gateway's memory in MB"] = max(memory, default=0) / 1e6
    report.check(f"{name}: growth of the gateway's memory", _growth_percent(memory), " %", at_most=_GROWTH_OF_MEMORY)
    return outcomes


def _growth_percent(values: Sequence[float]) -> float:
    """From the mean of the first half to that of the second, at least 0; NaN for fewer than two values."""
    half = len(values) // 2
    return max(0.0, 100 * (fmean(values[half:]) / fmean(values[:half]) - 1)) if half else math.nan


async def flood(*, seconds: float, use: float) -> Report:
    """Five keys use a part of their equal shares; then one of them sends twenty times its share."""
    secrets: dict[str, str] = {}

    def told(folder: Path, _: object) -> dict[str, object]:
        file = folder / "keys.json"
        secrets.update({name: _add_key(name, file) for name in (_FLOODER, *_OTHERS)})
        return {"keys_file": file}

    async with staged(_FLAT_STANDIN, tritons=_TRITONS, told=told) as stage:
        headers = {name: {"X-API-Key": secret} for name, secret in secrets.items()}
        flow = replace(PATIENT, headers=headers[_FLOODER])
        capacity = await stage.capacity(_CALLERS_PER_TRITON * _TRITONS, seconds / 3, flow)
        share = capacity / len(secrets)
        report = Report(
            name="flood", title=f"one of {len(secrets)} keys sends {_FLOOD} times its share; what the others get"
        )
        report.facts = {"capacity per second": capacity, "share per second": share}
        outcomes: list[Outcome] = []
        p99 = {}
        async with stage.sampler() as sampler:
            for phase, factor in (("before", use), ("flood", _FLOOD)):
                stage.mark(phase)
                begin = stage.clock.now() + _SETTLING_SECONDS
                rates = dict.fromkeys(_OTHERS, use * share) | {_FLOODER: factor * share}
                sent = await stage.load.send(*_flows(rates, headers, phase, _SETTLING_SECONDS + seconds))
                others = [
                    each for each in due_between(sent, begin, begin + seconds) if not each.flow.startswith(_FLOODER)
                ]
                p99[phase] = percentile(latencies_ms(others, Verdict.OK, Verdict.LATE), 99)
                lost = sum(outcome.verdict is not Verdict.OK for outcome in others)
                report.check(f"{phase}: others' requests not answered in time", lost, at_most=0)
                outcomes += sent
        stage.fill(report, outcomes, sampler)
        report.seconds = timeline([outcome for outcome in outcomes if outcome.flow.startswith("others")])
        report.facts |= {f"others' p99 {phase} in ms": value for phase, value in p99.items()}
        growth = 100 * (p99["flood"] / p99["before"] - 1)
        report.check("growth of the others' p99", growth, " %", at_most=100 * _GROWTH_OF_P99, at_least=-100)
        return report


def _flows(
    rates: Mapping[str, float], headers: Mapping[str, Mapping[str, str]], phase: str, seconds: float
) -> list[Flow]:
    """One flow for each key; those that are no flood are told together."""
    return [
        Flow(
            name=f"{name if name == _FLOODER else 'others'} {phase}",
            arrivals=poisson(rate, seconds, seed=n),
            deadline_seconds=_FLOOD_DEADLINE_SECONDS,
            headers=headers[name],
        )
        for n, (name, rate) in enumerate(rates.items())
    ]


def _add_key(name: str, file: Path) -> str:
    command = [sys.executable, "-m", "eagleeye", "key", "add", name, "--file", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (our own words)
    return done.stdout.strip()


async def scale(*, seconds: float, fleets: Sequence[int]) -> Report:
    """Keep 1, 2, 4, ... Tritons busy, and compare what they do with so many times what one does."""
    report = Report(name="scale", title=f"throughput by number of Tritons ({', '.join(map(str, fleets))})")
    for tritons in fleets:
        await _measure_fleet(report, tritons, seconds)
    alone, *_ = report.summaries.values()
    for tritons, summary in zip(fleets, report.summaries.values(), strict=True):
        linear = summary.per_second / (tritons / fleets[0] * alone.per_second)
        report.facts[f"{tritons}: of linear in %"] = 100 * linear
        if tritons < _JUDGED_FROM:
            continue
        report.check(f"{tritons} Tritons: throughput / linear", linear, at_least=_LINEAR_SHARE)
        change = 100 * abs(summary.p50_ms / alone.p50_ms - 1)
        report.check(f"{tritons} Tritons: change of p50", change, " %", at_most=100 * _CHANGE_OF_P50)
    return report


async def _measure_fleet(report: Report, tritons: int, seconds: float) -> None:
    name = f"{tritons} Triton{'s' * (tritons > 1)}"
    async with staged(_EVEN_STANDIN, tritons=tritons) as stage:
        callers = _EVEN_CALLERS * tritons
        begin = stage.clock.now() + _SETTLING_SECONDS
        async with stage.sampler() as sampler:
            outcomes = await stage.load.saturate(replace(PATIENT, name=name), callers, _SETTLING_SECONDS + seconds)
        judged = due_between(outcomes, begin, begin + seconds)
        per_second = throughput(outcomes, begin, begin + seconds)
        report.summaries[name] = replace(summarize(judged), per_second=per_second)
        report.cpu_shares |= {f"{name}: {group}": share for group, share in sampler.shares().items()}
        wrong = sum(outcome.verdict is not Verdict.OK for outcome in outcomes)
        report.check(f"{name}: requests not answered right", wrong, at_most=0)
