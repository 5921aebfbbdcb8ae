"""Another version is loaded, promoted, rolled back and unloaded under load, and one that breaks is reverted."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from loadtest.arrivals import poisson
from loadtest.chaos.load import beside
from loadtest.chaos.report import Report
from loadtest.chaos.stage import MODELS, PATIENT, staged
from loadtest.verdict import Verdict
from triton_runtime.standin import BROKEN_FILE, MODEL, Standin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loadtest.chaos.load import Outcome
    from loadtest.chaos.stage import Stage
    from triton_runtime.server import TritonServer

_STANDIN: Final = Standin(base_ms=5.0, per_image_ms=15.0)
_TRITONS: Final = 3
_CALLERS_PER_TRITON: Final = 24
_CAPACITY_SECONDS: Final = 4.0
_ROLLOUT_FILE: Final = "rollout.json"
_OLD, _NEW, _BROKEN = 1, 2, 3
_CANARY_PERCENT: Final = 20.0
_PAUSES: Final = 6
_IMAGES: Final = 3  # in one request
_SHARE_OF_FORMS: Final = 0.5  # of all images
_COMMAND_SECONDS: Final = 60.0
_MOST_SECONDS: Final = 6 * _COMMAND_SECONDS  # for all commands; the load ends with the last one


async def rollout(*, seconds: float, share: float) -> Report:
    """Walk a version through its life on three Tritons, one of which can't load the version after it."""
    async with staged(_STANDIN, tritons=_TRITONS, versions=_BROKEN, repository=_repository, told=_told) as stage:
        report = Report(name="rollout", title="a version is loaded, promoted, rolled back and unloaded")
        life = _Life(stage, seconds)
        longest = seconds + _MOST_SECONDS
        capacity = await stage.capacity(_CALLERS_PER_TRITON * _TRITONS, min(_CAPACITY_SECONDS, seconds / 4))
        images = share * capacity * (1 - _SHARE_OF_FORMS)
        forms = share * capacity * _SHARE_OF_FORMS / _IMAGES
        flows = [
            replace(PATIENT, name="one image", arrivals=poisson(images, longest, seed=0)),
            replace(PATIENT, name=f"{_IMAGES} images", arrivals=poisson(forms, longest, seed=1), images=_IMAGES),
        ]
        async with stage.sampler() as sampler:
            outcomes = await beside(stage.load.send(*flows, until=life.is_over), life.walk())
        report.facts = {"capacity per second": capacity, "requests per second": images + forms, **life.facts}
        stage.fill(report, outcomes, sampler)
        _hold(report, outcomes, life)
        return report


class _Life:
    """What an operator does, by the command line, and when it was over."""

    def __init__(self, stage: Stage, seconds: float) -> None:
        self._stage = stage
        self._pause_seconds = seconds / _PAUSES
        self.facts: dict[str, float | str] = {}
        self.promoted = (0.0, 0.0)
        self.rolled_back_at = 0.0
        self.refusal = ""
        self.is_over = asyncio.Event()

    async def walk(self) -> None:
        """All of it, with a pause after each step."""
        await self._pause()
        self.refusal = await self._model("load", MODEL, str(_BROKEN), is_refused=True)
        await self._model("load", MODEL, str(_NEW))
        await self._pause()
        await self._model("promote", MODEL, str(_NEW), "--percent", f"{_CANARY_PERCENT:g}")
        await self._pause()
        await self._model("promote", MODEL, str(_NEW))
        promoted_at = self._stage.clock.now()
        await self._pause()
        self.promoted = promoted_at, self._stage.clock.now()
        await self._model("rollback", MODEL)
        self.rolled_back_at = self._stage.clock.now()
        await self._pause()
        await self._model("unload", MODEL, str(_NEW))
        await self._pause()
        self.is_over.set()

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_seconds)

    async def _model(self, *arguments: str, is_refused: bool = False) -> str:
        """Run `eagleeye model`; what it said on standard error.

        Raises:
            RuntimeError: it did not go as it should.
        """
        stage, what = self._stage, " ".join(word for word in arguments if word != MODEL)
        stage.mark(what)
        begin = stage.clock.now()
        options = {
            "repository": stage.folder / MODELS,
            "triton-url": ",".join(f"{triton.host}:{triton.ports.grpc}" for triton in stage.tritons),
            "rollout-file": stage.folder / _ROLLOUT_FILE,
        }
        if arguments[0] != "unload":
            options["url"] = stage.gateways[0].url
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "eagleeye", "model", *arguments),
            *(f"--{name}={value}" for name, value in options.items()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if bool(process.returncode) != is_refused:
            raise RuntimeError(f"`eagleeye model {what}` ended with {process.returncode}: {said.decode()}")
        self.facts[f"{what} s"] = stage.clock.now() - begin
        stage.mark(f"{what}: {'refused' if is_refused else 'done'}")
        return said.decode()


def _told(folder: Path, _: Sequence[TritonServer]) -> Mapping[str, object]:
    file = folder / _ROLLOUT_FILE
    file.write_text('{"models": {}}')
    return {"rollout_file": file}


def _repository(models: Path, n: int) -> Path:
    """The last Triton sees the same files, but for a version that it can't load."""
    if n < _TRITONS - 1:
        return models
    damaged = models.with_name("damaged")
    (damaged / MODEL / str(_BROKEN)).mkdir(parents=True)
    (damaged / MODEL / str(_BROKEN) / BROKEN_FILE).touch()
    for file in (models / MODEL).iterdir():
        if file.name != str(_BROKEN):
            (damaged / MODEL / file.name).symlink_to(file)
    return damaged


def _hold(report: Report, outcomes: Sequence[Outcome], life: _Life) -> None:
    lost = sum(outcome.verdict is not Verdict.OK for outcome in outcomes)
    report.check("requests lost by callers that wait long enough", lost, at_most=0)
    report.check("requests sent", len(outcomes), at_least=1)
    is_reverted = f"{MODEL} is as it was before everywhere" in life.refusal
    report.check("loads of a broken version that were reverted everywhere", int(is_reverted), at_least=1)
    begin, end = life.promoted
    meanwhile = [outcome.version for outcome in outcomes if begin <= outcome.sent_at and outcome.answered_at < end]
    report.check("answers by the promoted version", sum(version == _NEW for version in meanwhile), at_least=1)
    report.check("answers by another one meanwhile", sum(version != _NEW for version in meanwhile), at_most=0)
    after = [outcome.version for outcome in outcomes if outcome.sent_at >= life.rolled_back_at]
    report.check("answers by the old version after the rollback", sum(version == _OLD for version in after), at_least=1)
    report.check("answers by another one after that", sum(version != _OLD for version in after), at_most=0)
    ever = {outcome.version for outcome in outcomes} - {0, _OLD, _NEW}
    report.check("versions that answered and should not have", len(ever), at_most=0)
