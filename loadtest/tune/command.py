"""`eagleeye tune`: a private Triton and gateway for each tuning, real images, and the best one into the config."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.connection import NothingDone, say
from eagleeye.files import write_atomically
from export.errors import ExportError
from export.repository import CONFIG_FILE, as_text, find_published, swap_config
from export.tuning import Tuning, before_tuning, read_tuning, with_reason, with_tuning
from loadtest.bench.images import jpegs
from loadtest.closed_loop import LoadFailed, Request, ask, closed_loop, post
from loadtest.profile import Step
from loadtest.serving import TRITON_ENVIRONMENT, serving
from loadtest.tune.search import Grid, Trial, candidates, climb, halve, limited, winner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from export.repository import PublishedModel

_POSITIVE: Final = click.FloatRange(min=0, min_open=True)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_PATH: Final = "/v1/detect"
_DEADLINE_MS: Final = 60_000
_START_SECONDS: Final = 4.0
_STEPS: Final = 4
"""What a ladder has, as a rule; for the estimate only."""
_CPU_BACKEND: Final = "onnxruntime"


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers from some least one, separated by commas."""

    name = "numbers"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read the list."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(number) for number in value.split(",") if number.strip())
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < self._least:
            self.fail(f"{value!r} must be whole numbers from {self._least} on, separated by commas", param, ctx)
        return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all trials have in common."""

    published: PublishedModel
    images: Sequence[bytes]
    p99_ms: float
    triton_env: Path
    folder: Path

    async def measure(self, tuning: Tuning, seconds: float) -> Trial:
        """Serve the model so, and put more and more load on it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            steps: tuple[Step, ...] = ()
            failure = ""
            try:
                steps = await self._steps(tuning, seconds, Path(scratch))
            except (LoadFailed, click.ClickException) as error:  # such as too many instances for the memory
                failure = str(error).partition("\n")[0]
        trial = Trial(tuning, seconds, steps, limited(steps, self.p99_ms), failure)
        say(_row(trial))
        return trial

    async def _steps(self, tuning: Tuning, seconds: float, folder: Path) -> tuple[Step, ...]:
        name = self.published.config.name
        shutil.copytree(self.published.directory, folder / "models" / name)
        copy = find_published(folder / "models", name)
        assert copy is not None  # noqa: S101 (it was copied just now)
        changed = as_text(with_tuning(copy.config, tuning))
        (copy.directory / CONFIG_FILE).write_bytes(changed)
        async with serving(folder / "models", folder, triton_env=self.triton_env) as served:
            path = f"{_PATH}?timeout_ms={_DEADLINE_MS}"
            requests = [Request(post(*served.address, path, image)) for image in self.images]
            await asyncio.to_thread(ask, served.address, requests[0].wire)

            async def step(callers: int) -> Step:
                load = await asyncio.to_thread(closed_loop, served.address, requests, callers, seconds)
                return Step(callers, load.images_per_second, load.p99_ms)

            return await climb(step, self.p99_ms)


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@click.option("--model", "name", default="damoyolo_ns_deeppcb", help="Name of the model.")
@click.option("--model-repository", "repository", type=_FOLDER, default="model_repository", help="Where it lies.")
@click.option(
    "--image",
    "image_files",
    multiple=True,
    type=_FILE,
    help="Images as your callers send them; by default four photographs of 1920 x 1080 that were made for this.",
)
@click.option("--p99-ms", type=_POSITIVE, default=250.0, help="Within how many ms 99 % of requests must be answered.")
@click.option("--seconds", type=_POSITIVE, default=1.0, help="Time of a step in the first round, in seconds.")
@click.option("--instances", type=Numbers(1), help="Copies of the model to try, such as 1,2,4.")
@click.option("--threads", type=Numbers(1), help="Threads of ONNX Runtime in each, on a processor, such as 1,2.")
@click.option("--queue-delays", type=Numbers(0), help="Delays of Triton's queue to try, in microseconds.")
@click.option("--preferred-batches", type=Numbers(1), multiple=True, help="Preferred batch sizes to try together.")
@click.option("--triton-env", type=_FOLDER, default=TRITON_ENVIRONMENT, help="Environment with nvidia-pytriton.")
@click.option("--output", type=_FOLDER, default=Path(".eagleeye/tune"), help="Folder for tune.json and tune.png.")
@click.option("--dry-run", is_flag=True, help="Measure and report, and leave the model's config as it is.")
def tune(
    *,
    name: str,
    repository: Path,
    image_files: tuple[Path, ...],
    p99_ms: float,
    seconds: float,
    instances: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    queue_delays: tuple[int, ...] | None,
    preferred_batches: tuple[tuple[int, ...], ...],
    triton_env: Path,
    output: Path,
    dry_run: bool,
) -> None:
    """Find how a model is served best on this machine, and write it into the model's config.

    Each tuning gets a Triton and a gateway of its own, on a copy of the model, and more and more callers that ask
    without a pause; what counts is the most images per second with a p99 within the limit. All are tried for a short
    time, the better half for twice as long, and so on. A Triton that serves the model takes the new config up itself.

    Exit codes: 0 done, also if nothing is better than what is there; 2 nothing could be measured, or nothing keeps the
    limit.
    """
    published, written = _published(repository, name)
    current = read_tuning(published.config)
    on_cpu = published.config.backend == _CPU_BACKEND
    if threads and not on_cpu:
        raise click.UsageError(f"--threads is about ONNX Runtime on a processor; {name} has {published.config.backend}")
    tunings = candidates(
        Grid(instances, queue_delays, ((), *preferred_batches) if preferred_batches else None, threads),
        current,
        processors=os.cpu_count() or 1,
        max_batch_size=published.config.max_batch_size,
        on_cpu=on_cpu,
    )
    images = [file.read_bytes() for file in image_files] or jpegs("1080p")
    say(f"{len(tunings)} tunings of {name}, p99 within {p99_ms:g} ms; {_estimate(len(tunings), seconds)}")
    say(_HEAD)
    with tempfile.TemporaryDirectory(prefix="eagleeye-tune-") as scratch:
        bench = Bench(published=published, images=images, p99_ms=p99_ms, triton_env=triton_env, folder=Path(scratch))
        rounds = asyncio.run(halve(tunings, bench.measure, seconds))
    best = winner(rounds, current)
    report = _report(published, rounds, best, current, p99_ms)
    _save(report, output)
    if best is None or best.best is None:
        raise NothingDone(_why_none(rounds, p99_ms))
    if best.tuning == current:
        say(f"nothing is better than what is there by more than noise: {describe(current)}")
    elif dry_run:
        say(f"best: {describe(best.tuning)}; a dry run changes nothing")
    else:
        _write(published, written, best, report)
        say(f"wrote {describe(best.tuning)} into {published.directory / CONFIG_FILE}")
    say(f"wrote tune.json and tune.png in {output}")


def _published(repository: Path, name: str) -> tuple[PublishedModel, bytes]:
    """The model, and what its config file holds."""
    try:
        published = find_published(repository, name)
        if published is None:
            raise NothingDone(f"there is no model {name} in {repository}")
        read_tuning(published.config)
        return published, (published.directory / CONFIG_FILE).read_bytes()
    except ExportError as error:
        raise NothingDone(str(error)) from error


def _write(published: PublishedModel, written: bytes, best: Trial, report: dict[str, Any]) -> None:
    """Put the best tuning into the config with its reason, unless somebody has changed the config meanwhile."""
    reason = {key: report[key] for key in ("images_per_second", "p99_ms", "callers", "p99_limit_ms", "gain", "machine")}
    config = with_reason(with_tuning(published.config, best.tuning), before_tuning(published.config), reason)
    try:
        swap_config(published, written, as_text(config))
    except ExportError as error:
        raise NothingDone(f"{error}; the best tuning was {describe(best.tuning)}") from None


def describe(tuning: Tuning) -> str:
    """A tuning for people."""
    sizes = ",".join(map(str, tuning.preferred_batch_sizes)) or "none"
    threads = f" x {tuning.threads} threads" if tuning.threads is not None else ""
    return f"instances {tuning.instances}{threads}, delay {tuning.queue_delay_microseconds} us, preferred {sizes}"


_HEAD: Final = f"{'seconds':>8} {'images/s':>9} {'p99 ms':>8} {'callers':>8}  tuning"


def _row(trial: Trial) -> str:
    if trial.best is None:
        reason = trial.failure or "breaks the limit"
        return f"{trial.seconds:>8g} {'-':>9} {'-':>8} {'-':>8}  {describe(trial.tuning)}: {reason}"
    step = trial.best
    figures = f"{step.images_per_second:>9.1f} {step.p99_ms:>8.1f} {step.callers:>8}"
    return f"{trial.seconds:>8g} {figures}  {describe(trial.tuning)}"


def _estimate(count: int, seconds: float) -> str:
    total, left = 0.0, count
    while True:
        total += left * (_START_SECONDS + _STEPS * seconds)
        if left <= 2:  # noqa: PLR2004 (as in `halve`)
            break
        left, seconds = max(2, left // 2), seconds * 2
    return f"some {max(1, round(total / 60))} minutes"


def _why_none(rounds: list[list[Trial]], p99_ms: float) -> str:
    trials = rounds[0]
    if failures := {trial.failure for trial in trials if trial.failure}:
        return f"nothing could be measured: {min(failures)}"
    fastest = min(step.p99_ms for trial in trials for step in trial.steps)
    return f"even 2 callers at a time are answered within {fastest:.0f} ms at best, not {p99_ms:g}"


def _report(
    published: PublishedModel, rounds: list[list[Trial]], best: Trial | None, current: Tuning, p99_ms: float
) -> dict[str, Any]:
    from loadtest import machine  # noqa: PLC0415 (needs ONNX Runtime's version)

    now = next(trial for trial in rounds[-1] if trial.tuning == current)
    chosen = best.best if best else None
    return {
        "model": published.config.name,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.describe(),
        "p99_limit_ms": p99_ms,
        "current": dataclasses.asdict(current),
        "best": dataclasses.asdict(best.tuning) if best else None,
        "images_per_second": round(chosen.images_per_second, 1) if chosen else None,
        "p99_ms": round(chosen.p99_ms, 1) if chosen else None,
        "callers": chosen.callers if chosen else None,
        "gain": round(chosen.images_per_second / now.best.images_per_second, 3) if chosen and now.best else None,
        "rounds": [[_fields(trial) for trial in trials] for trials in rounds],
    }


def _fields(trial: Trial) -> dict[str, Any]:
    """A trial as JSON has it, which knows no infinity: a p99 that nobody saw is null."""
    fields = dataclasses.asdict(trial)
    for step in fields["steps"]:
        step["p99_ms"] = step["p99_ms"] if math.isfinite(step["p99_ms"]) else None
    return fields


def _save(report: dict[str, Any], folder: Path) -> None:
    from loadtest.tune.picture import draw  # noqa: PLC0415 (matplotlib)

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tune.json", (json.dumps(report, indent=1) + "\n").encode())
    draw(report, folder / "tune.png")
