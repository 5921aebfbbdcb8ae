"""`eagleeye profile`: what one Triton pod can do within the latency objective, and the thresholds that follow from it.

More and more callers ask without a pause, as steps of a ladder; the last step that keeps the objective is the pod's
capacity. How many images are under way there is, by Little's law, its rate times the time of a request: the amount that
the autoscalers' trigger `demand` counts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.connection import NothingDone, connection_options, say, split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

LADDER: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)
"""Callers at a time; the client keeps 100 connections at most."""
RATE: Final = "eagleeye:triton_images:rate1m"
"""The recorded rule that the trigger `rate` asks for."""
_QUANTILE: Final = 0.99
_SPARE: Final = 0.8
"""Of the capacity: what the autoscaler aims at; the rest is for what comes until another pod is ready."""
_RATE_SHARE: Final = 0.65
"""Of the capacity, too: images per second are known late, by a minute, so more of it is kept in hand."""
_GPU_BUSY_PERCENT: Final = 90
"""Where the rate leads, the GPU's activity has only to find out that the capacity is not what was measured."""
_WARM_UP_SHARE: Final = 0.2
_POSITIVE: Final = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True, slots=True)
class Step:
    """What so many callers got.

    Attributes:
        callers: requests that were under way at a time.
        images_per_second: those that were answered.
        p99_ms: time within which 99 % of them were, in ms; infinite if more than 1 % failed.
    """

    callers: int
    images_per_second: float
    p99_ms: float


def capacity(steps: list[Step], p99_ms: float) -> Step | None:
    """The step with the highest rate of those that keep the objective, or None."""
    return max((step for step in steps if step.p99_ms <= p99_ms), key=lambda step: step.images_per_second, default=None)


def demand_threshold(step: Step, tritons: int) -> int:
    """Images under way for each Triton that the autoscaler aims at, 1 at least."""
    return max(1, math.floor(step.callers * _SPARE / tritons))


def rate_threshold(step: Step, tritons: int) -> str:
    """Images per second for each Triton that the autoscaler aims at."""
    return f"{step.images_per_second * _RATE_SHARE / tritons:.1f}"


def patch(step: Step, tritons: int, p99_ms: float) -> str:
    """An entry for `patches:` of an overlay: `demand` as measured, and a trigger `rate`, which relieves `gpu-busy`."""
    rate = f"{step.images_per_second:.1f} images/s"
    return f"""\
# Measured by `eagleeye profile`: {rate} by {tritons} Triton(s), with {step.callers} images under way; 99 % of them
# within {step.p99_ms:.0f} ms, where {p99_ms:g} ms are allowed. The autoscaler aims at {_SPARE:.0%} of these images, and
# at {_RATE_SHARE:.0%} of that rate. Small batches keep a GPU busy long before it is full, so that counts for less.
- op: test
  path: /spec/triggers/0/name
  value: demand
- op: replace
  path: /spec/triggers/0/metadata/threshold
  value: "{demand_threshold(step, tritons)}"
- op: test
  path: /spec/triggers/3/name
  value: gpu-busy
- op: replace
  path: /spec/triggers/3/metadata/threshold
  value: "{_GPU_BUSY_PERCENT}"
- op: copy
  from: /spec/triggers/0
  path: /spec/triggers/4
- op: replace
  path: /spec/triggers/4/name
  value: rate
- op: replace
  path: /spec/triggers/4/metadata/query
  value: {RATE}
- op: replace
  path: /spec/triggers/4/metadata/threshold
  value: "{rate_threshold(step, tritons)}"
"""


def quantile(seconds: list[float], failures: int) -> float:
    """The nearest-rank 99 % quantile of times, where a failure took for ever."""
    rank = math.ceil(_QUANTILE * (len(seconds) + failures))
    return sorted(seconds)[rank - 1] if 0 < rank <= len(seconds) else math.inf


async def measure(ask: Callable[[], Awaitable[bool]], callers: int, seconds: float) -> Step:
    """Let `callers` call `ask`, which says whether it was answered, for so many seconds and a warm-up before."""
    clock = asyncio.get_running_loop().time
    begin = clock() + _WARM_UP_SHARE * seconds
    end = begin + seconds
    times: list[float] = []
    failures = 0

    async def call() -> None:
        nonlocal failures
        while (started := clock()) < end:
            answered = await ask()
            if started < begin:
                continue
            if answered:
                times.append(clock() - started)
            else:
                failures += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return Step(callers, len(times) / (clock() - begin), quantile(times, failures) * 1e3)


async def climb(ask: Callable[[], Awaitable[bool]], p99_ms: float, seconds: float) -> list[Step]:
    """Measure step after step of the ladder, up to the first that breaks the objective."""
    steps: list[Step] = []
    for callers in LADDER:
        steps.append(await measure(ask, callers, seconds))
        say(_row(steps[-1]))
        if steps[-1].p99_ms > p99_ms:
            break
    return steps


def _row(step: Step) -> str:
    return f"{step.callers:7d}  {step.images_per_second:8.1f}  {step.p99_ms:7.1f}"


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@connection_options(timeout_seconds=10.0)
@click.option(
    "--image",
    "image_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An image as your callers send them: its size decides what decoding costs.",
)
@click.option("--p99-ms", type=_POSITIVE, default=250.0, help="Within how many ms 99 % of requests must be answered.")
@click.option("--seconds", type=_POSITIVE, default=15.0, help="Time of each step, in seconds.")
@click.option("--tritons", type=click.IntRange(min=1), default=1, help="Number of Triton pods behind the gateway.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".eagleeye/profile"),
    help="Folder for profile.json and demand.yaml, a patch for an overlay.",
)
def profile(*, image_file: Path, p99_ms: float, seconds: float, tritons: int, output: Path, **values: Any) -> None:
    """Measure how many images per second a gateway's Tritons answer in time, and write the autoscalers' thresholds.

    Ask a gateway that nobody else uses, with a number of Triton pods that stays as it is, from a machine that is no
    bottleneck itself.

    Exit codes: 0 measured, 2 nothing could be measured, or even one caller waits too long.
    """
    say("callers  images/s   p99 ms")
    steps = asyncio.run(climb_gateway(split(values), [image_file.read_bytes()], p99_ms, seconds))
    best = capacity(steps, p99_ms)
    if best is None:
        raise NothingDone(f"even with one caller 99 % are answered within {steps[0].p99_ms:.0f} ms, not {p99_ms:g}")
    output.mkdir(parents=True, exist_ok=True)
    content = {"p99_ms": p99_ms, "tritons": tritons, "capacity": _fields(best), "steps": list(map(_fields, steps))}
    (output / "profile.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (output / "demand.yaml").write_text(patch(best, tritons, p99_ms), encoding="utf-8")
    rate, demand = best.images_per_second / tritons, demand_threshold(best, tritons)
    say(f"{rate:.1f} images/s for each Triton; thresholds: demand {demand}, rate {rate_threshold(best, tritons)}")
    say(f"wrote profile.json and demand.yaml in {output}")


def _fields(step: Step) -> dict[str, float | None]:
    p99_ms = step.p99_ms if math.isfinite(step.p99_ms) else None
    return {"callers": step.callers, "images_per_second": step.images_per_second, "p99_ms": p99_ms}


async def climb_gateway(
    connection: Any, images: Sequence[bytes], p99_ms: float, seconds: float, *, model: str | None = None
) -> list[Step]:
    """Climb at the gateway that the options of a command name, with these images in turns.

    Raises:
        NothingDone: it does not answer.
    """
    from eagleeye import AsyncClient, EagleEyeError  # noqa: PLC0415 (NumPy, which help does not need)

    client = AsyncClient(
        connection.url,
        key=connection.key,
        ca_certificate=connection.ca_certificate,
        client_certificate=connection.client_certificate,
        client_key=connection.client_key,
        timeout_seconds=connection.timeout_seconds,
        max_attempts=1,
    )
    turns = itertools.cycle(images)

    async def ask() -> bool:
        try:
            await client.detect(next(turns), model=model)
        except EagleEyeError:
            return False
        return True

    async with client:
        try:
            await client.detect(images[0], model=model)
        except EagleEyeError as error:
            raise NothingDone(str(error)) from error
        return await climb(ask, p99_ms, seconds)
