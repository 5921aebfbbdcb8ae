"""`python -m loadtest.bench`: all of it, or the part that is named; `--quick` in less than a minute."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from loadtest import machine
from loadtest.baselines.servers import BASELINES
from loadtest.bench import loop, page, report, stages, transport, workers
from loadtest.bench.images import SIZES_WH
from loadtest.bench.options import GatewayOption
from loadtest.bench.path import (
    SCALED_DECODING,
    SHARED_MEMORY,
    STANDIN,
    Cell,
    compare,
    contest,
    find_model,
    network_workload,
    require_same,
    row,
    standin_workload,
)
from loadtest.bench.picture import draw
from loadtest.closed_loop import LoadFailed
from loadtest.serving import TRITON_ENVIRONMENT
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine
from triton_runtime.standin.compiler import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.bench.path import Contest, Side, Workload

PARTS: Final = ("stages", "transport", "path", "baselines", "workers", "loop")
QUICK_PARTS: Final = ("stages", "transport", "path")
WORKLOADS: Final = ("W1", "W2")
QUICK_RESULTS: Final = Path(".eagleeye/bench.json")
MODEL: Final = "damoyolo_ns_deeppcb"
_BASELINE_CELL: Final = Cell("1080p", 32)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure, and for how long.

    Attributes:
        parts: of `PARTS`.
        cells: loads by workload.
        workers_cells: loads of several processes beside one.
        loop_cells: loads under which the event loop is watched.
        rounds: measurements of each side of a cell, in turns.
        seconds: length of each.
        quick: whether stages are few and short.
        is_scaled: whether gateway, limit and servers with our decoder decode large JPEGs at a part of their size.
        gateway_options: of `eagleeye gateway`, by name.
        models: where the published model lies.
    """

    parts: frozenset[str]
    cells: dict[str, list[Cell]]
    workers_cells: list[Cell]
    loop_cells: list[Cell]
    rounds: int
    seconds: float
    quick: bool
    is_scaled: bool
    gateway_options: dict[str, object]
    models: Path


@dataclass(slots=True)
class Findings:
    """What has been measured so far."""

    stages: list[stages.Row] = field(default_factory=list)
    paths: list[dict[str, Any]] = field(default_factory=list)
    memory_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    workers: dict[str, Any] = field(default_factory=dict)
    loop: list[dict[str, Any]] = field(default_factory=list)


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@click.option("--quick", is_flag=True, help="The most telling loads, short; in less than a minute.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; all of them by default.")
@click.option("--workload", "workloads", multiple=True, type=click.Choice(WORKLOADS), default=WORKLOADS, help="Which.")
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES_WH)), help="Of JPEGs on the whole path.")
@click.option("--concurrency", "concurrencies", multiple=True, type=click.IntRange(1, 256), help="Images at a time.")
@click.option("--rounds", type=click.IntRange(1), help="Measurements of each side in turns; medians count.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Length of one measurement, in seconds.")
@click.option(
    "--scaled-decoding/--full-decoding",
    "is_scaled",
    default=True,
    help="How gateway, limit and servers with our decoder decode large JPEGs.",
)
@click.option(
    "--shared-memory/--messages",
    "is_shared",
    default=True,
    help="How the gateway hands tensors to Triton.",
)
@click.option(
    "--gateway",
    "gateway_options",
    multiple=True,
    type=GatewayOption(),
    help="Of `eagleeye gateway`, such as pixel-threads=2.",
)
@click.option("--model-repository", "models", type=_FOLDER, default="model_repository", help="Where W1's model lies.")
@click.option("--json", "file", type=_FILE, help="File for the figures; of a whole run, the one that is committed.")
@click.option("--picture", type=_FILE, help="File for the picture (PNG or SVG); beside the figures by default.")
def main(
    *,
    quick: bool,
    parts: tuple[str, ...],
    workloads: tuple[str, ...],
    sizes: tuple[str, ...],
    concurrencies: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    is_scaled: bool,
    is_shared: bool,
    gateway_options: tuple[tuple[str, object], ...],
    models: Path,
    file: Path | None,
    picture: Path | None,
) -> None:
    """Measure each stage alone, and the whole path beside its limit and beside other servers.

    It starts Tritons, gateways and servers of its own on free ports, and stops them again. W1 is the shipped model on
    the processor, W2 a stand-in for a GPU, which leaves the processors to all else. Gateways have switched on what is
    there for speed on Triton's machine: shared memory and scaled decoding. Figures mean something on a machine that
    does nothing else.
    """
    is_narrowed = bool(sizes or concurrencies)
    narrowed = _cells("W2", sizes, concurrencies, quick=False) if is_narrowed else []
    plan = Plan(
        parts=frozenset(parts or (QUICK_PARTS if quick else PARTS)),
        cells={name: _cells(name, sizes, concurrencies, quick=quick and not is_narrowed) for name in workloads},
        workers_cells=narrowed or list(workers.CELLS),
        loop_cells=narrowed or list(loop.CELLS),
        rounds=rounds or (2 if quick else 5),
        seconds=seconds or (1.5 if quick else 2.5),
        quick=quick,
        is_scaled=is_scaled,
        gateway_options=(dict(SHARED_MEMORY) if is_shared else {})
        | (dict(SCALED_DECODING) if is_scaled else {})
        | dict(gateway_options),
        models=models,
    )
    _check(plan)
    if (busy := machine.busy_share()) > report.BUSY_SHARE:
        _say(f"{busy:.0%} of the processors are busy with something else: these figures will mean little")
    findings = Findings()
    try:
        asyncio.run(_measure(plan, findings))
    except (LoadFailed, TimeoutError) as error:
        raise click.ClickException(str(error)) from error
    settings = {"rounds": plan.rounds, "seconds": plan.seconds, "busy_before": busy, "gateway": plan.gateway_options}
    results = report.assemble(
        findings.paths, findings.stages, findings.memory_bytes, settings, findings.workers, findings.loop
    )
    then = report.committed()
    click.echo(report.table(results, then))
    is_whole = not (quick or is_narrowed) and plan.parts == set(PARTS) and set(workloads) == set(WORKLOADS)
    file = file or (report.RESULTS if is_whole else QUICK_RESULTS)
    report.save(results, file)
    picture = picture or file.with_suffix(".png")
    draw(results, picture)
    _say(f"wrote {file} and {picture}")
    if file == report.RESULTS:
        page.refresh()
        _say(f"wrote the figures of {page.PAGE}")
    for line in report.regressions(results, then):
        _say(f"worse than committed: {line}")


def _check(plan: Plan) -> None:
    """Find out before the first measurement what would be missing for the last one.

    Raises:
        click.ClickException: W1's model, a Triton that runs here, or a compiler for the stand-in.
    """
    if "W1" in plan.cells and "path" in plan.parts:
        find_model(plan.models, MODEL)
    if plan.parts - {"stages"}:
        try:
            TritonEnvironment(TRITON_ENVIRONMENT).check()
            library()
        except UnsupportedMachine as error:
            raise click.ClickException(str(error)) from error


def _cells(workload: str, sizes: Sequence[str], concurrencies: Sequence[int], *, quick: bool) -> list[Cell]:
    """Loads of a workload; quickly: what the promises are about."""
    if quick:
        return [Cell("1080p", count) for count in ((1, 8) if workload == "W2" else (8,))]
    return [Cell(size, count) for size in sizes or ("1080p", "720p") for count in concurrencies or (1, 8, 32)]


async def _measure(plan: Plan, findings: Findings) -> None:
    if "stages" in plan.parts:
        findings.stages += await asyncio.to_thread(stages.measure, quick=plan.quick, is_scaled=plan.is_scaled, say=_say)
    if not plan.parts - {"stages"}:
        return
    with tempfile.TemporaryDirectory(prefix="eagleeye-bench-") as scratch:
        folder = Path(scratch)
        if "W1" in plan.cells and "path" in plan.parts:
            published = find_model(plan.models, MODEL)
            await _run(network_workload(published, folder, is_scaled=plan.is_scaled), plan, folder, findings)
        if "W2" in plan.cells:
            await _run(standin_workload(folder, is_scaled=plan.is_scaled), plan, folder, findings)


async def _run(workload: Workload, plan: Plan, folder: Path, findings: Findings) -> None:
    """All cells of a workload, and what else needs its Triton."""
    cells = plan.cells[workload.name] if "path" in plan.parts else []
    beside = _BASELINE_CELL if "baselines" in plan.parts and workload.name == "W2" else None
    several = plan.workers_cells if "workers" in plan.parts and workload.name == "W2" else []
    sizes = {cell.size for cell in [*cells, *several, *([beside] if beside else [])]}
    _say(f"{workload.name}: starting a Triton and a gateway")
    async with contest(workload, folder, sorted(sizes), plan.gateway_options) as rivals:
        sides: dict[str, Side] = {"limit": rivals.limit, "served": rivals.served}
        for cell in cells:
            if cell != beside:
                findings.paths.append(await _one(workload.name, cell, sides, plan))
        if beside:
            findings.paths.append(await _beside(rivals, beside, sides, plan, folder))
        if several:
            findings.workers = await workers.measure(
                rivals, several, folder, plan.gateway_options, rounds=plan.rounds, seconds=plan.seconds, say=_say
            )
        if "loop" in plan.parts and workload.name == "W2":
            _say("the event loop")
            triton, seconds = rivals.serving.triton, plan.rounds * plan.seconds
            rows = await loop.measure(triton, plan.loop_cells, folder, plan.gateway_options, seconds)
            findings.loop += [{"workload": workload.name, **each} for each in rows]
        if rivals.served.peak_bytes:
            findings.memory_bytes[workload.name] = dict(rivals.served.peak_bytes)
        if "transport" in plan.parts and workload.name == "W2":  # last: who has gRPC's threads must not fork
            _say("transport to Triton")
            ports = rivals.serving.triton.ports
            findings.stages += await asyncio.to_thread(transport.measure, ports, STANDIN, quick=plan.quick)


async def _one(workload: str, cell: Cell, sides: dict[str, Side], plan: Plan) -> dict[str, Any]:
    _say(f"{workload}: {cell.size}, {cell.concurrency} at a time: {', '.join(sides)}")
    medians, ratios = await compare(sides, cell, plan.rounds, plan.seconds)
    return row(workload, cell, medians, ratios)


async def _beside(rivals: Contest, cell: Cell, sides: dict[str, Side], plan: Plan, folder: Path) -> dict[str, Any]:
    """One cell with all other servers that are installed."""
    async with AsyncExitStack() as stack:
        others: dict[str, Side] = {}
        for name, known in BASELINES.items():
            if known.lacking:
                _say(f"not measured: {known.title} ({known.lacking})")
                continue
            side = await stack.enter_async_context(known.serving(folder, STANDIN, is_scaled=plan.is_scaled))
            answers = await asyncio.to_thread(side.learn, cell.size)
            for answer, ours in zip(answers, rivals.answers[cell.size], strict=True):
                require_same(known.title, answer, ours, is_exact=known.decodes_as_we_do)
            others[name] = side
        return await _one("W2", cell, sides | others, plan)


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)


if __name__ == "__main__":
    main()
