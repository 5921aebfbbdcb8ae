"""Plans and where they are valid: built once for each kind of GPU, kept in a cache, and served only where they fit.

A plan fits one kind of GPU and one TensorRT version. So it lies in a cache under a key of all that decides what it is,
and a repository serves it exactly while the key is the one of this machine; in all other cases it serves the ONNX file
of the same version. The switch is one rename of `config.pbtxt`, and a key names a file of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from eagleeye.files import write_atomically
from export.errors import ExportError, PlanError, RepositoryError
from export.lease import STALE_SECONDS, lease
from export.plan_config import BACKEND, PLAN_PARAMETERS, has_accelerator, plan_file_name, serving_onnx, serving_plan
from export.repository import PublishedModel, copy_loaded, file_sha256, find_published, serve
from export.tensorrt import BatchProfile, Machine, PlanSettings, build_plan, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN_FILE: Final = "model.plan"
RECORD_FILE: Final = "plan.json"
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How `ensure` goes about it."""

    engines: Path = Path(".eagleeye/engines")
    """The cache, shared by all machines; created if need be."""
    plan: PlanSettings = dataclasses.field(default_factory=PlanSettings)
    may_build: bool = True
    """False: take what is cached, and build nothing; for what must not take minutes, such as an init container."""
    wait_seconds: float = 0.0
    """How long to wait for another machine that builds the same plan."""
    stale_seconds: float = STALE_SECONDS
    """After how long without a sign of life another builder counts as dead."""


@dataclass(frozen=True, slots=True)
class Ensured:
    """What a model is served as, from now on."""

    model: PublishedModel
    outcome: Literal["unchanged", "cached", "built", "onnx"]
    """The plan was served already; it came from the cache; it was built; there is none, and ONNX serves."""
    reason: str = ""
    """Why ONNX serves."""

    @property
    def has_plan(self) -> bool:
        """Whether a plan serves."""
        return self.outcome != "onnx"


@dataclass(frozen=True, slots=True)
class PlanIdentity:
    """All that decides what a plan is."""

    model_sha256: str
    machine: Machine
    profile: BatchProfile
    settings: PlanSettings

    @property
    def key(self) -> str:
        """SHA-256 of it all, in hexadecimal."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def facts(self, plan_sha256: str) -> dict[str, str]:
        """What the model's parameters tell about the plan."""
        return {
            "plan_key": self.key,
            "plan_sha256": plan_sha256,
            "plan_batch_sizes": str(self.profile),
            "plan_workspace_mebibytes": str(self.settings.workspace_mebibytes),
            "plan_optimization_level": str(self.settings.optimization_level),
            **dataclasses.asdict(self.machine),
        }


def ensure(
    repository: Path,
    name: str,
    options: EngineOptions,
    progress: Callable[[str], None] = lambda _line: None,
    machine: Machine | None = None,
) -> Ensured:
    """See to it that a model is served by a plan that fits this machine, and by its ONNX file if there is none.

    Safe at any time, by any number of processes at once, and again: what is right already is not touched.

    Args:
        repository: Triton's, for this kind of machine alone.
        name: the model's.
        options: where plans are cached, and whether to build.
        progress: called with a phrase before each step.
        machine: None: this one.

    Raises:
        RepositoryError: no such model with an ONNX file, or the repository cannot be written.
        OptionError: options that cannot be, for this model.
    """
    published = _published(repository, name)
    if len(published.loaded) > 1:
        reason = f"versions {', '.join(map(str, published.loaded))} are loaded, and a plan is that of one"
        return Ensured(serve(published, serving_onnx(published.config)), "onnx", reason)
    if has_accelerator(published.config):
        return Ensured(published, "onnx", "it was exported with --tensorrt-accelerator, which builds engines by itself")
    profile = options.plan.profile(published.config.max_batch_size)
    sha256 = _digest_of_graph(published)
    try:
        wanted = PlanIdentity(sha256, machine or this_machine(), profile, options.plan)
        cache = _PlanCache(options, progress)
        if _serves(published, wanted):
            cache.note_use(wanted.key)
            return Ensured(published, "unchanged")
        if cache.find(wanted.key) is None:  # what is served now is no plan, or one that does not fit
            published = serve(published, serving_onnx(published.config))
        outcome, directory = cache.get(wanted, published)
        cache.note_use(wanted.key)
    except PlanError as error:
        return Ensured(serve(published, serving_onnx(published.config)), "onnx", str(error))
    except OSError as error:
        reason = f"cannot use the cache {options.engines}: {error.strerror or error}"
        return Ensured(serve(published, serving_onnx(published.config)), "onnx", reason)
    config = serving_plan(published.config, wanted.facts(_record(directory)["plan_sha256"]))
    return Ensured(serve(published, config, directory / PLAN_FILE), outcome)


def bring(source: Path, repository: Path, name: str) -> None:
    """Have a model's loaded versions in a repository of this machine's own, served as ONNX unless it is there already.

    Args:
        source: a repository that many kinds of machines share.
        repository: this machine's; created if need be.
        name: the model's.

    Raises:
        RepositoryError: no such model, or the repository cannot be written.
    """
    published = _published(source, name)
    copy_loaded(published, serving_onnx(published.config), repository)


def timing_file_name(machine: Machine | None) -> str:
    """Where the cache keeps what builds on a kind of machine have measured; None: a pattern for all of them."""
    digest = "*" if machine is None else _digest(machine)
    return f"timing-{digest}.cache"


def models(repository: Path) -> list[str]:
    """Names of all models with an ONNX file.

    Raises:
        RepositoryError: there is no such repository.
    """
    try:
        return sorted({path.parent.parent.name for path in repository.glob("*/[1-9]*/model.onnx")})
    except OSError as error:
        raise RepositoryError(f"cannot read the model repository {repository}: {error.strerror or error}") from error


def _published(repository: Path, name: str) -> PublishedModel:
    """The model, with the newest one that is loaded as its version."""
    published = find_published(repository, name)
    if published is not None and published.loaded:
        published = dataclasses.replace(published, version=published.loaded[-1])
    if published is None or not published.loaded or not published.model_file.is_file():
        raise RepositoryError(f"{repository} has no model {name} with an ONNX file in a version that is loaded")
    return published


def _digest_of_graph(published: PublishedModel) -> str:
    try:
        return file_sha256(published.model_file)
    except OSError as error:
        raise RepositoryError(f"cannot read {published.model_file}: {error.strerror or error}") from error


def _serves(published: PublishedModel, wanted: PlanIdentity) -> bool:
    """Whether the repository serves this very plan already, undamaged."""
    plan = published.model_file.with_name(plan_file_name(wanted.key))
    facts = {name: published.parameter(name) for name in PLAN_PARAMETERS}
    return (
        published.config.backend == BACKEND
        and facts == wanted.facts(facts["plan_sha256"])
        and plan.is_file()
        and file_sha256(plan) == facts["plan_sha256"]
    )


class _PlanCache:
    """`<engines>/<key>/` with `model.plan` and `plan.json`; a directory appears complete or not at all."""

    def __init__(self, options: EngineOptions, progress: Callable[[str], None]) -> None:
        self._root, self._options, self._progress = options.engines, options, progress

    def get(self, wanted: PlanIdentity, model: PublishedModel) -> tuple[Literal["cached", "built"], Path]:
        """The directory of the plan, built if that is allowed.

        Raises:
            PlanError: there is none.
            OSError: the cache cannot be used.
        """
        deadline = time.monotonic() + self._options.wait_seconds
        while (directory := self.find(wanted.key)) is None:
            if not self._options.may_build:
                raise PlanError(f"no plan for {_words(wanted)} is cached, and nothing shall be built here")
            self._root.mkdir(parents=True, exist_ok=True)
            with lease(self._root / f"{wanted.key}.lock", self._options.stale_seconds) as holder:
                if holder is None:
                    found = self.find(wanted.key)  # perhaps it was finished a moment ago
                    return ("built", self._build(wanted, model)) if found is None else ("cached", found)
            if time.monotonic() >= deadline:
                raise PlanError(f"the plan for {_words(wanted)} is being built by {holder}")
            self._progress(f"waiting for {holder}, which builds the plan")
            time.sleep(min(_POLL_SECONDS, self._options.wait_seconds))
        return "cached", directory

    def find(self, key: str) -> Path | None:
        """The plan's directory, if it is there and whole; a damaged one is removed."""
        directory = self._root / key
        if not directory.is_dir():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # JSON of another form, too
            if _record(directory)["plan_sha256"] == file_sha256(directory / PLAN_FILE):
                return directory
        self._progress(f"the cached plan {directory} is damaged; removing it")
        aside = self._aside(key)
        with contextlib.suppress(OSError):  # a cache that is read-only here, or another process that removes it too
            directory.rename(aside)
            shutil.rmtree(aside)
        return None

    def note_use(self, key: str) -> None:
        """Let the plan count as just used, for `engine_prune`."""
        with contextlib.suppress(OSError):  # a cache that is read-only here, or one that has no such plan any more
            os.utime(self._root / key / RECORD_FILE)

    def _build(self, wanted: PlanIdentity, model: PublishedModel) -> Path:
        started = time.monotonic()
        self._progress(f"building the plan for {_words(wanted)}; this takes minutes")
        content = model.model_file.read_bytes()
        _require_support(content)
        timing_file = self._root / timing_file_name(wanted.machine)
        timing = timing_file.read_bytes() if timing_file.exists() else b""
        plan, timing = build_plan(content, wanted.profile, wanted.settings, timing, self._progress)
        if timing:
            write_atomically(timing_file, timing)
        record = {
            "model": model.config.name,
            **dataclasses.asdict(wanted),
            "plan_sha256": hashlib.sha256(plan).hexdigest(),
            "plan_bytes": len(plan),
            "build_seconds": round(time.monotonic() - started, 1),
        }
        return self._publish(wanted.key, plan, record)

    def _publish(self, key: str, plan: bytes, record: dict[str, Any]) -> Path:
        staged, directory = self._aside(key), self._root / key
        staged.mkdir()
        try:
            write_atomically(staged / PLAN_FILE, plan)
            write_atomically(staged / RECORD_FILE, f"{json.dumps(record, indent=2)}\n".encode())
            staged.rename(directory)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            if self.find(key) is None:  # otherwise somebody else was quicker, and theirs is as good
                raise
        return directory

    def _aside(self, key: str) -> Path:
        return self._root / f".{key}.{os.getpid()}.{uuid.uuid4().hex}"


def _require_support(graph: bytes) -> None:
    """Refuse what TensorRT's documentation refuses, with all reasons, before minutes are spent.

    Raises:
        PlanError: it would be refused.
    """
    from export.tensorrt_support import require_tensorrt_support  # noqa: PLC0415 (imports onnx, which only builders have)

    try:
        require_tensorrt_support(graph)
    except ExportError as error:
        raise PlanError(str(error)) from error


def _record(directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))
    return record


def _digest(machine: Machine) -> str:
    return hashlib.sha256(json.dumps(dataclasses.asdict(machine)).encode()).hexdigest()[:16]


def _words(wanted: PlanIdentity) -> str:
    machine = wanted.machine
    return f"{machine.gpu_name} ({machine.compute_capability}), TensorRT {machine.tensorrt_version}"
