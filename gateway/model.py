"""What the core must know about a served detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import ModelNotFound, TritonUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.resize import ResizeMode


@dataclass(frozen=True, slots=True)
class Model:
    """One detector as Triton serves it; every fact comes from Triton's model config.

    Attributes:
        name: the model's name in Triton.
        versions: the versions that are ready, ascending, never empty.
        input_wh: width and height of the input in pixels.
        candidates: K, how many (anchor, class) pairs leave Triton per image.
        labels: class names by class id.
        resize: how an image becomes the input.
        score_threshold: used when the caller names none.
        iou_threshold: used when the caller names none.
        facts: further parameters for people, such as variant, precision or measured mAP.
        batch_size: how many images it pays to give to one Triton together.
        default_version: see `default`; the newest when None.
    """

    name: str
    versions: tuple[int, ...]
    input_wh: tuple[int, int]
    candidates: int
    labels: tuple[str, ...]
    resize: ResizeMode
    score_threshold: float
    iou_threshold: float
    facts: dict[str, str]
    batch_size: int = 1
    default_version: int | None = None

    @property
    def latest(self) -> int:
        """The newest version."""
        return self.versions[-1]

    @property
    def default(self) -> int:
        """The version that serves a caller who names none, unless the rollout file says otherwise."""
        return self.latest if self.default_version is None else self.default_version


@dataclass(frozen=True, slots=True)
class Served:
    """What answers a request: a version of a model.

    `is_replaceable` says whether the request would do with another version, if that one goes away meanwhile.
    """

    model: Model
    version: int
    is_replaceable: bool


def find(models: Mapping[str, Model], name: str | None, version: int | None) -> tuple[Model, int]:
    """The model and version among `models`, which are served now, that a request asks for.

    Raises:
        ModelNotFound: it is not there, or none is named and several are.
        TritonUnavailable: there is none at all.
    """
    if not models:
        raise TritonUnavailable("no Triton serves a detector at the moment; try again shortly")
    if name is None:
        if len(models) > 1:
            raise ModelNotFound(f"several models are served; name one of them: {_names(models)}")
        (name,) = models
    if name not in models:
        raise ModelNotFound(f"there is no model {name!r}; served are: {_names(models)}")
    model = models[name]
    if version is not None and version not in model.versions:
        raise ModelNotFound(f"{name} has no version {version}; served are: {', '.join(map(str, model.versions))}")
    return model, model.default if version is None else version


def _names(models: Mapping[str, Model]) -> str:
    return ", ".join(sorted(models))
