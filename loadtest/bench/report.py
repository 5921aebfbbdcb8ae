"""What was measured, as data with all that it must be read with, and as a table: ratios first."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eagleeye.files import write_atomically
from loadtest import machine
from loadtest.bench.watched_gateway import LONG_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESULTS: Final = Path("loadtest/results/bench.json")
"""Where the figures are that the documentation quotes; with a commit, those that later runs are held against."""
SOAK_RESULTS: Final = RESULTS.with_name("soak.json")
"""Those of `python -m loadtest.soak`, of which the documentation tells, too."""
REGRESSION: Final = 0.97
"""A ratio below this share of the committed one is a regression, as far as the spread of its rounds bears it out."""
BUSY_SHARE: Final = 0.1
"""Of the processors, before a run began: above it somebody else is at work, and no promise is judged."""
_PACKAGES: Final = (
    "aiohttp",
    "grpcio",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "orjson",
    "simplejpeg",
    "tritonclient",
    "Flask",
    "gunicorn",
    "fastapi",
    "uvicorn",
)
_PACKAGES_ELSEWHERE: Final = {"nvidia-pytriton": ".venv-triton", "bentoml": ".venv-bentoml"}
_WANTED_BESIDE: Final = {
    "flask": ("Flask", 1.4),
    "fastapi": ("FastAPI", 1.4),
    "fastapi_batching": ("FastAPI with batching", 0.9),
    "triton_ensemble": ("Triton ensemble", 1.25),
    "bentoml": ("BentoML", 1.6),
}
"""Other servers, and how many times their images/s ours has to reach."""
BARE_HOP: Final = "bare_hop"
"""The one that no promise is about: a yardstick, see `loadtest.baselines.bare_hop_server`."""
_MEGABYTE: Final = 1e6

Results = dict[str, Any]
"""What `bench.json` holds: the keys of `origin`, `settings`, `ratios`, `targets`, `paths`, `memory_bytes`, `stages`,
and `workers` and `loop`, which the modules of these names measure."""


@dataclass(frozen=True, slots=True)
class Target:
    """A promise about one figure. `is_met` is None where the run did not measure it."""

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether it was kept."""
        if self.value is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def wanted(self) -> str:
        """The promise, for people."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


def targets(results: Results) -> list[Target]:
    """All promises, held against what was measured."""
    ratios, memory = ratios_of(results["paths"]), results["memory_bytes"]
    added = {(row["workload"], row["size"], row["concurrency"]): row["added_p50_ms"] for row in results["paths"]}
    gateway = [groups["gateway"] / _MEGABYTE for groups in memory.values() if "gateway" in groups]
    longest = max((row["cpu_ms"]["longest"] for row in results["loop"]), default=None)
    return [
        Target("W1, 1080p, 8 at a time: served / limit", ratios.get("W1 1080p 8 served/limit"), at_least=0.92),
        Target("W2, 1080p, 8 at a time: served / limit", ratios.get("W2 1080p 8 served/limit"), at_least=0.80),
        Target("W2, 1080p, one at a time: p50 added, ms", added.get(("W2", "1080p", 1)), at_most=3.0),
        *_beside(results),
        Target("longest call on the event loop, ms of processor time", longest, at_most=LONG_MS),
        Target("most memory of the gateway, MB", max(gateway, default=None), at_most=250.0),
    ]


def _beside(results: Results) -> Iterator[Target]:
    """More images/s than other servers, and a p99 below theirs, but for the one that does it all in its process."""
    rows: list[dict[str, Any]] = [row for row in results["paths"] if _cell(row) == "W2 1080p 32"]
    ratios = ratios_of(rows)
    p99_ms = {side: figures["p99_ms"] for row in rows for side, figures in row["sides"].items()}
    for side, (title, wanted) in _WANTED_BESIDE.items():
        ratio = ratios.get(f"W2 1080p 32 served/{side}")
        yield Target(f"W2, 1080p, 32 at a time: served / {title}", ratio, at_least=wanted)
        if wanted > 1:
            ratio = p99_ms["served"] / p99_ms[side] if side in p99_ms else None
            yield Target(f"W2, 1080p, 32 at a time: p99, served / {title}", ratio, at_most=1.0)


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['workload']} {row['size']} {row['concurrency']}"


def ratios_of(paths: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Images/s by images/s of the limit or of another server, medians of the rounds, by a name that stays."""
    found = {}
    for row in paths:
        cell = _cell(row)
        served = row["ratios"]["served"]["median"]
        found[f"{cell} served/limit"] = served
        for name, spread in row["ratios"].items():
            if name != "served":
                found[f"{cell} served/{name}"] = served / spread["median"]
    return found


def assemble(
    paths: Sequence[Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    memory_bytes: Mapping[str, Mapping[str, int]],
    settings: Mapping[str, Any],
    workers: Mapping[str, Any],
    loop: Sequence[Mapping[str, Any]] = (),
) -> Results:
    """All results of a run, rounded to what is worth reading."""
    results: Results = {
        **origin(),
        "settings": dict(settings),
        "ratios": ratios_of(paths),
        "paths": list(paths),
        "memory_bytes": dict(memory_bytes),
        "stages": list(stages),
        "workers": dict(workers),
        "loop": list(loop),
    }
    is_quiet = settings["busy_before"] <= BUSY_SHARE
    results["targets"] = [judged(target) | ({} if is_quiet else {"is_met": None}) for target in targets(results)]
    worth_reading: Results = rounded(results)
    return worth_reading


def origin() -> dict[str, Any]:
    """What figures must be read with: `commit`, `is_modified`, `machine` and `versions`."""
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {**machine.describe(), "processor": _processor(), "system": platform.system()},
        "versions": {name: found for name in (*_PACKAGES, *_PACKAGES_ELSEWHERE) if (found := _version(name))},
    }


def judged(target: Target) -> dict[str, Any]:
    """A promise for the results, with `wanted` for people and `is_met`."""
    return {**asdict(target), "wanted": target.wanted, "is_met": target.is_met}


def rounded(value: Any) -> Any:
    """The same with all numbers at four digits, which is more than any measurement is worth; JSON has no infinity."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def save(results: Results, file: Path) -> None:
    """Write them as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(results, indent=1) + "\n").encode())


def committed(file: Path = RESULTS) -> Results | None:
    """The results in the last commit, or None where there are none, or no git."""
    text = _git("show", f"HEAD:./{file.as_posix()}")
    try:
        found: Results | None = json.loads(text) if text else None
    except json.JSONDecodeError:
        return None
    return found


def is_scaled(results: Results) -> bool:
    """Whether gateway, limit and servers with our decoder decoded large JPEGs at a part of their size."""
    return bool(results["settings"]["gateway"].get("scaled_decoding"))


def decoding(results: Results) -> str:
    """How large JPEGs were decoded, for people."""
    return "at a part of their size" if is_scaled(results) else "in full"


def _comparable(now: Results, then: Results | None) -> dict[str, float]:
    """The committed ratios, or none of a run that decoded otherwise: it had another limit."""
    ratios: dict[str, float] = then["ratios"] if then and is_scaled(then) == is_scaled(now) else {}
    return ratios


def regressions(now: Results, then: Results | None) -> list[str]:
    """Lines about the ratios that are lower than they were committed, by more than the noise of a few rounds."""
    before = _comparable(now, then)
    return [
        f"{name}: {ratio:.2f}, was {before[name]:.2f} in {then['commit'] if then else ''}"
        for name, ratio in now["ratios"].items()
        if name in before and ratio < REGRESSION * before[name]
    ]


def table(results: Results, then: Results | None) -> str:
    """All of it for people."""
    return "\n".join(_lines(results, then))


def _lines(results: Results, then: Results | None) -> Iterator[str]:
    before = _comparable(results, then)
    yield "ratios of images/s (medians of the rounds)                  now  committed"
    for name, ratio in results["ratios"].items():
        old = f"{before[name]:.2f}" if name in before else "-"
        mark = "  WORSE" if name in before and ratio < REGRESSION * before[name] else ""
        yield f"  {name:<54} {ratio:>6.2f} {old:>10}{mark}"
    yield f"  large JPEGs were decoded {decoding(results)}{_another_decoding(results, then)}"
    yield ""
    yield from verdicts(results["targets"])
    yield ""
    yield f"{'load':<14}{'side':<20}{'images/s':>9}{'p50 ms':>9}{'p99 ms':>9}  CPU ms an image"
    workers = results["workers"]
    for row in [*results["paths"], *workers.get("rows", [])]:
        for side, figures in row["sides"].items():
            cpu = ", ".join(f"{name} {ms:.1f}" for name, ms in figures["cpu_ms"].items())
            load = _cell(row)
            share = f"; limit / served {row['cpu_ratio']:.2f}" if side == "served" and row["cpu_ratio"] else ""
            yield (
                f"{load:<14}{side:<20}{figures['images_per_second']:>9.1f}{figures['p50_ms']:>9.1f}"
                f"{figures['p99_ms']:>9.1f}  {cpu}{share}"
            )
    for workload, groups in results["memory_bytes"].items():
        shown = ", ".join(f"{name} {size / _MEGABYTE:.0f} MB" for name, size in groups.items())
        yield f"{workload:<14}resident memory at most: {shown}"
    if workers:
        yield from _several(workers)
    yield from _loop(results["loop"])
    yield ""
    for stage in results["stages"]:
        ways = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(stage["ms"].items(), key=lambda item: item[1]))
        yield f"{stage['stage']:<12}{stage['case']:<18}ms: {ways}"
        if "cpu_ms" in stage:
            ways = ", ".join(f"{way} {ms:.2f}" for way, ms in sorted(stage["cpu_ms"].items(), key=lambda item: item[1]))
            yield f"{'':<30}CPU of the client, ms: {ways}"


def _another_decoding(now: Results, then: Results | None) -> str:
    """Why the committed ratios are not shown, where that is why."""
    if then is None or is_scaled(then) == is_scaled(now):
        return ""
    return f"; {then['commit']} decoded them {decoding(then)}, so it is no measure"


def verdicts(judged: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines about targets, as results have them."""
    yield "targets"
    for target in judged:
        verdict = {True: "met", False: "MISSED", None: "not judged"}[target["is_met"]]
        value = "-" if target["value"] is None else f"{target['value']:.2f}"
        yield f"  {target['name']:<60} {value:>8}  {target['wanted']:<14} {verdict}"


def _several(workers: Mapping[str, Any]) -> Iterator[str]:
    for row in workers["rows"]:
        gain = row["gain"]
        ratio = f"{gain['median']:.2f} ({gain['lowest']:.2f} to {gain['highest']:.2f})"
        yield f"{_cell(row):<14}images/s of {workers['processes']} processes by those of one: {ratio}"
    shown = (f"{side} {groups['gateway'] / _MEGABYTE:.0f} MB" for side, groups in workers["memory_bytes"].items())
    yield f"{'':<14}resident memory of the gateway at most: {', '.join(shown)}"


def _loop(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        for time, key in (("processor time", "cpu_ms"), ("time on the wall", "wall_ms")):
            ms = row[key]
            yield (
                f"{_cell(row):<14}{row['calls']} calls on the event loop, ms of {time}: p50 {ms['p50']:.2f}, "
                f"p99 {ms['p99']:.2f}, p99.9 {ms['p99_9']:.2f}, longest {ms['longest']:.2f}; "
                f"over {LONG_MS:g}: {ms['long_share']:.3%}"
            )
        for call in row["longest"]:
            yield f"{'':<14}{call['cpu_ms']:.2f}, of which {call['gc_ms']:.2f} collecting garbage: {call['what']}"


def _git(*arguments: str) -> str:
    """What git says, or nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 (fixed)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    """Of a package in this environment or in the one that has it, or nothing."""
    home = Path(_PACKAGES_ELSEWHERE.get(package, sys.prefix))
    folders = [str(folder) for folder in home.glob("lib/python*/site-packages")]
    return next((found.version for found in Distribution.discover(name=package, path=folders)), "")
