"""`python -m loadtest.bench.abreast`: what a change to the gateway costs or saves, to a percent or two.

Two gateways of W2 stand before one Triton, and both are asked at the same time, each by callers of its own: whatever
else the machine does, or its neighbours on the host do, meets both alike. What is compared is processor time an image.
Measured one after the other, the same two would differ by more than most changes bring.

Where a process's code and data happen to lie in memory moves that time by one or two percent, for as long as the
process lives. So both are started several times: if the starts differ more than the rounds of each, more starts help.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import psutil

from loadtest import machine
from loadtest.bench.images import SIZES_WH
from loadtest.bench.options import GatewayOption, Variable
from loadtest.bench.path import (
    SCALED_DECODING,
    SHARED_MEMORY,
    Cell,
    ServerSide,
    gateway_side,
    require_same,
    standin_workload,
)
from loadtest.bench.report import BUSY_SHARE
from loadtest.chaos.processes import Gateway
from loadtest.closed_loop import LoadFailed
from loadtest.serving import Serving, serving
from triton_runtime.process import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from triton_runtime.server import TritonServer

GROUPS: Final = ("gateway", "event loop")
"""Whose processor time is compared: that of the whole process, and of the thread that has its event loop."""

_READY_SECONDS: Final = 60.0
_WARM_UP_SECONDS: Final = 1.0
_FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)

Round = dict[str, float]
"""Processor time of one gateway in one round, in ms an image, by group."""


@dataclass(frozen=True, slots=True)
class Other:
    """How the gateway that is compared with this checkout's differs from it.

    Attributes:
        python: the interpreter that runs it.
        checkout: where its code lies.
        options: of `eagleeye gateway`, by name.
        environment: variables of its environment.
    """

    python: Path
    checkout: Path
    options: dict[str, object]
    environment: dict[str, str]

    @asynccontextmanager
    async def serving(self, triton: TritonServer, folder: Path, options: dict[str, object]) -> AsyncIterator[Serving]:
        """Start it in front of a Triton that serves, with `options` where it has none of its own.

        Raises:
            TimeoutError: it does not become ready; the message has the end of its log.
        """
        url = f"127.0.0.1:{triton.ports.grpc}"
        gateway = Gateway("other gateway", folder, drain_seconds=0, triton_url=url, **options | self.options)
        gateway.command = [self.python, *gateway.command[1:]]
        gateway.directory = self.checkout
        gateway.environment = {**gateway.environment, "PYTHONPATH": str(self.checkout), **self.environment}
        async with running([gateway]):
            await gateway.until_ready(_READY_SECONDS)
            yield Serving(triton, gateway)


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@click.option("--checkout", type=_FOLDER, default=".", help="Where the other gateway's code lies.")
@click.option("--python", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="What runs the other one.")
@click.option("--gateway", "options", multiple=True, type=GatewayOption(), help="Of the other one: pixel-threads=2.")
@click.option(
    "--environment", "variables", multiple=True, type=Variable(), help="Of the other one: MALLOC_ARENA_MAX=1."
)
@click.option("--size", type=click.Choice(list(SIZES_WH)), default="1080p", help="Of JPEGs.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, help="Images at a time, for each gateway.")
@click.option("--starts", type=click.IntRange(1), default=4, help="Times that both gateways are started.")
@click.option("--rounds", type=click.IntRange(2), default=12, help="Measurements after each start.")
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, help="Length of each, in seconds.")
def main(
    *,
    checkout: Path,
    python: Path | None,
    options: tuple[tuple[str, object], ...],
    variables: tuple[tuple[str, str], ...],
    size: str,
    concurrency: int,
    starts: int,
    rounds: int,
    seconds: float,
) -> None:
    """Compare this checkout's gateway with another checkout, interpreter, option or environment of it.

    Both have shared memory and scaled decoding, but for what the other one's options say. It takes some two minutes,
    and says for each start by how much the other gateway needs more or less processor time an image, with the standard
    error of the rounds; and in the end the mean of the starts, with theirs.
    """
    if "workers" in dict(options):
        raise click.BadParameter(
            "both gateways have one process; `make bench` measures several", param_hint="--gateway"
        )
    if not (checkout / "gateway").is_dir():
        raise click.BadParameter(f"{checkout} is no checkout of EagleEye", param_hint="--checkout")
    other = Other((python or Path(sys.executable)).absolute(), checkout.absolute(), dict(options), dict(variables))
    if (busy := machine.busy_share()) > BUSY_SHARE:
        _say(f"{busy:.0%} of the processors are busy with something else: these figures will mean little")
    try:
        asyncio.run(_compare(other, Cell(size, concurrency), starts, rounds, seconds))
    except (LoadFailed, TimeoutError) as error:
        raise click.ClickException(str(error)) from error


async def _compare(other: Other, cell: Cell, starts: int, rounds: int, seconds: float) -> None:
    options = {**SHARED_MEMORY, **SCALED_DECODING}
    changes: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="eagleeye-abreast-") as scratch:
        folder = Path(scratch)
        workload = standin_workload(folder, is_scaled=True)
        for start in range(1, starts + 1):
            logs = folder / f"logs-{start}"
            logs.mkdir()
            async with (
                serving(workload.repository, logs, gateway_options=options) as this,
                other.serving(this.triton, logs, options) as that,
            ):
                taken = await _rounds((this, that), cell, rounds, seconds)
            changes.append(
                {group: change([(ours[group], theirs[group]) for ours, theirs in taken])[0] for group in GROUPS}
            )
            click.echo(f"start {start}: {_line(taken)}")
    means = "; ".join(f"{group} {_told(*_mean([each[group] for each in changes]))}" for group in GROUPS)
    click.echo(f"the other gateway's processor time an image, mean of {starts} starts: {means}")


async def _rounds(both: Sequence[Serving], cell: Cell, rounds: int, seconds: float) -> list[tuple[Round, Round]]:
    """Put the load on both at the same time, as often as it says."""
    sides = [gateway_side(each) for each in both]
    answers = [await asyncio.to_thread(side.learn, cell.size) for side in sides]
    for ours, theirs in zip(*answers, strict=True):
        require_same("the two gateways", theirs, ours, is_exact=False)
    await asyncio.gather(*(asyncio.to_thread(side.measure, cell, _WARM_UP_SECONDS) for side in sides))
    taken = []
    for number in range(rounds):
        turn = 1 if number % 2 else -1  # neither is always the first to be asked
        asked = [asyncio.to_thread(_round, *pair, cell, seconds) for pair in zip(both, sides, strict=True)]
        ours, theirs = (await asyncio.gather(*asked[::turn]))[::turn]
        taken.append((ours, theirs))
    return taken


def _round(served: Serving, side: ServerSide, cell: Cell, seconds: float) -> Round:
    before = _loop_seconds(served)
    figures = side.measure(cell, seconds)
    if not figures["images_per_second"]:
        raise LoadFailed(f"there was no answer within {seconds:g} s; give more with --seconds")
    spent = _loop_seconds(served) - before
    return {"gateway": figures["cpu_ms"]["gateway"], "event loop": spent * 1e3 / figures["answers"]}


def _loop_seconds(served: Serving) -> float:
    """Processor time so far of the thread that a gateway of one process began with."""
    pid = served.gateway.pid
    assert pid  # noqa: S101 (it has just answered)
    loop = next(each for each in psutil.Process(pid).threads() if each.id == pid)
    return float(loop.user_time + loop.system_time)


def change(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """By what share the second of each pair is more than the first: geometric mean, and its standard error."""
    return _mean([math.log(theirs / ours) for ours, theirs in pairs])


def _mean(logarithms: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(logarithms) / math.sqrt(len(logarithms)) if len(logarithms) > 1 else math.inf
    return statistics.mean(logarithms), error


def _line(taken: Sequence[tuple[Round, Round]]) -> str:
    told = []
    for group in GROUPS:
        ours, theirs = (statistics.median(each[side][group] for each in taken) for side in (0, 1))
        told.append(
            f"{group} {ours:.2f} and {theirs:.2f} ms, {_told(*change([(a[group], b[group]) for a, b in taken]))}"
        )
    return "; ".join(told)


def _told(logarithm: float, error: float) -> str:
    return f"{math.expm1(logarithm):+.1%}" + (f" (± {error:.1%})" if math.isfinite(error) else "")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
