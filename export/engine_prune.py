"""Old plans leave the cache: of each model, for each kind of GPU, those that were used last stay."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from export.engine import PLAN_FILE, RECORD_FILE, timing_file_name
from export.errors import PlanError
from export.tensorrt import Machine

if TYPE_CHECKING:
    from pathlib import Path

_KEY: Final = "[0-9a-f]" * 64
"""A pattern for names of ours: whoever names the wrong folder loses nothing."""
ABANDONED_SECONDS: Final = 86_400.0
"""What a builder leaves behind that dies is nobody's after a day: a lease is touched, and a plan written, sooner."""


@dataclass(frozen=True, slots=True)
class CachedPlan:
    """A plan in the cache."""

    directory: Path
    model: str
    """Name of the model that it was built for."""
    machine: Machine
    size_bytes: int
    used: float
    """When it was built or last taken, in seconds since the epoch."""


def prune(engines: Path, keep: int, *, dry_run: bool = False) -> tuple[CachedPlan, ...]:
    """Remove the plans that were not among the last used ones, and what is left of builds that died.

    Whoever is just copying one of them serves ONNX instead, or fails and may try again; no half of a plan is found.

    Args:
        engines: the cache; one that is not there holds nothing.
        keep: how many stay of each model for each kind of GPU, whatever their TensorRT version and options.
        dry_run: remove nothing.

    Returns:
        The plans that were removed, or would be, the one that was used longest ago first.

    Raises:
        PlanError: the cache cannot be read or written.
    """
    try:
        plans = sorted(_complete(engines), key=lambda plan: plan.used)
        kept = _last_used(plans, keep)
        unneeded = tuple(plan for plan in plans if plan not in kept)
        if not dry_run:
            _remove_plans(engines, unneeded)
            _remove_leftovers(engines, kept)
    except OSError as error:
        raise PlanError(f"cannot clear the cache {engines}: {error.strerror or error}") from error
    return unneeded


def _complete(engines: Path) -> list[CachedPlan]:
    """All plans but damaged ones, which are leftovers."""
    plans = []
    for file in engines.glob(f"{_KEY}/{RECORD_FILE}"):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            machine, model = Machine(**record["machine"]), record["model"]
            hash((machine, model))  # they are grouped by both, and JSON has lists
            size_bytes = (file.parent / PLAN_FILE).stat().st_size
            plans.append(CachedPlan(file.parent, model, machine, size_bytes, file.stat().st_mtime))
        except (ValueError, KeyError, TypeError, FileNotFoundError, IsADirectoryError):
            continue
    return plans


def _last_used(plans: list[CachedPlan], keep: int) -> list[CachedPlan]:
    """The last `keep` of each model and kind of GPU."""
    groups: dict[tuple[str, str, str], list[CachedPlan]] = defaultdict(list)
    for plan in plans:
        groups[plan.model, plan.machine.gpu_name, plan.machine.compute_capability].append(plan)
    return [plan for group in groups.values() for plan in group[-keep:]]


def _remove_plans(engines: Path, plans: tuple[CachedPlan, ...]) -> None:
    for plan in plans:
        aside = engines / f".{plan.directory.name}.{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # another machine removes it, too
            plan.directory.rename(aside)
            shutil.rmtree(aside)


def _remove_leftovers(engines: Path, kept: list[CachedPlan]) -> None:
    """Damaged plans, what dead builders left, and timings of machines that have no plan any more."""
    needed = {plan.directory.name for plan in kept} | {timing_file_name(plan.machine) for plan in kept}
    oldest = time.time() - ABANDONED_SECONDS
    for pattern in (_KEY, f".{_KEY}.*", f"{_KEY}.lock*", timing_file_name(None)):
        for path in engines.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.name not in needed and path.stat().st_mtime < oldest:
                    _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
