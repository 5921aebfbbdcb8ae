"""Which version answers whom, by the rollout file. Pages and reports ask here, too, so that all say the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.files import fingerprint
from gateway.model import Served
from gateway.reloaded import Reloaded
from gateway.rollout import Rollout, RolloutFileError, choose, read_rollout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.detector import Predictor
    from gateway.metrics import Metrics
    from gateway.model import Model

_log = structlog.get_logger()


class Versions(Reloaded):
    """Knows the rollout of the file at `path`, if there is one. While entered, a change counts within about a second.

    A file that becomes unreadable or wrong changes nothing but for a count and an error in the log.
    """

    def __init__(self, metrics: Metrics, path: Path | None = None) -> None:
        """Read the file.

        Raises:
            RolloutFileError: it can't be read, or is not as it must be.
        """
        self._metrics = metrics
        self._path = path
        self._seen = fingerprint(path) if path else None
        self._lacking: set[str] = set()  # models of whose weights no version is there: said once
        self.rollout = read_rollout(path) if path else Rollout()

    def settle(self, predictor: Predictor, name: str | None, version: int | None, draw: float) -> Served:
        """What answers a request. The same draw, in [0, 1), gives the same version while nothing changes.

        Who names no version gets one by the weights: one that is served now, or else one that is expected back in a
        moment. If there is none of either kind, it is the version that most Tritons have.

        Raises:
            GatewayError: nobody serves it, see `gateway.detector.Predictor.find`.
        """
        model, default = predictor.find(name, version)
        weights = self.rollout.of(model.name).weights
        if version is not None or not weights:
            return Served(model, default, is_replaceable=version is None)
        now = predictor.models.get(model.name)
        chosen = choose(weights, now.versions, draw) if now else None
        if chosen is not None:
            self._note(model.name)
            return Served(model, chosen, is_replaceable=True)
        expected = choose(weights, model.versions, draw)
        if expected is not None:
            return Served(model, expected, is_replaceable=False)
        self._note(model.name, lacking=weights)
        return Served(model, default, is_replaceable=True)

    def weights(self, model: Model) -> dict[int, float]:
        """The weights that hold for a served model: of the file's versions those that are there, or else its default's.

        A version that no Triton has gets nothing, and the others keep their shares among each other.
        """
        weights = self.rollout.of(model.name).weights
        there = {version: weight for version, weight in weights.items() if weight > 0 and version in model.versions}
        return there or {model.default: 100}

    async def reload(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None:
            return
        seen = await asyncio.to_thread(fingerprint, self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.rollout = await asyncio.to_thread(read_rollout, self._path)
        except RolloutFileError as error:
            self._metrics.rollout_rejected.inc()
            _log.error("the rollout stays as it was", reason=str(error))
            return
        _log.info("rollout read", path=str(self._path), models=len(self.rollout.models))

    def _note(self, model: str, lacking: Mapping[int, float] | None = None) -> None:
        """Say once that none of a model's weights can hold, and count each time; say once that they can again."""
        if lacking:
            self._metrics.rollout_fallbacks.labels(model).inc()
        if bool(lacking) == (model in self._lacking):
            return
        if lacking:
            self._lacking.add(model)
            _log.error(
                "no version of the rollout is served; the default answers", model=model, versions=sorted(lacking)
            )
        else:
            self._lacking.discard(model)
            _log.info("a version of the rollout is served again", model=model)
