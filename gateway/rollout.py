"""The rollout file: which versions of a model answer who names none, in which shares, and which one runs in the shadow.

    {"models": {"ns": {"weights": {"3": 95, "4": 5}, "previous": {"3": 100}, "shadow": {"version": 5, "percent": 10}}}}

One weight pins a version, several make a canary. Of a model without `weights` the version answers that most Tritons
have. `previous` is what `rolled_back` goes back to; `{}` there stands for that default. Pure but for reading and
writing the file.
"""

from __future__ import annotations

import hashlib
import math
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from eagleeye.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    Weights = Mapping[int, float]

MAX_VERSION: Final = 2**63 - 1  # Triton's own type of a version
MAX_WEIGHT: Final = 1e9  # the sum of all that a file has room for is still exact

_MAX_FILE_BYTES: Final = 1_000_000  # thousands of models; what is no regular file could block for ever
_HASH_BITS: Final = 53  # as many as a number in [0, 1) holds


class RolloutFileError(Exception):
    """The rollout file can't be read or written, or an entry is wrong; the message names it and what is allowed."""


class NothingToRollBack(Exception):
    """A model's weights have none before them."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A candidate that gets a share of the images beside the version that answers.

    Attributes:
        version: the candidate.
        percent: how many of a hundred images it gets, in (0, 100].

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """

    version: int
    percent: float

    def __post_init__(self) -> None:
        _check_version("'version'", self.version)
        if not (_is_number(self.percent) and 0 < self.percent <= 100):  # noqa: PLR2004 (a percentage)
            raise ValueError(f"'percent' is {_shown(self.percent)}; it must be a number greater than 0 and at most 100")


@dataclass(frozen=True, slots=True)
class ModelRollout:
    """What is said of one model.

    Attributes:
        weights: by version, its share relative to the others'; empty for the version that most Tritons have.
        previous: the weights to go back to; None if there are none.
        shadow: the candidate that runs beside; None for none.

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """

    weights: Weights = field(default_factory=dict)
    previous: Weights | None = None
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        _check_weights("'weights'", self.weights)
        _check_weights("'previous'", self.previous or {})


@dataclass(frozen=True, slots=True)
class Rollout:
    """A whole file: what is said of which model, by its name."""

    models: Mapping[str, ModelRollout] = field(default_factory=dict)

    def of(self, model: str) -> ModelRollout:
        """What is said of a model; of one that the file does not name, nothing."""
        return self.models.get(model, _NOTHING)


# the choice


def choose(weights: Weights, served: Collection[int], draw: float) -> int | None:
    """The version of `weights` that a draw in [0, 1) falls on, among those that are `served`; None if it is none.

    Versions lie beside each other in ascending order. So where the newest one's weight grows, who had it keeps it: with
    a steady draw nobody goes to and fro while a canary grows.
    """
    shares = [(version, weight) for version, weight in sorted(weights.items()) if weight > 0 and version in served]
    at = draw * sum(weight for _, weight in shares)
    for version, weight in shares:
        at -= weight
        if at < 0:
            return version
    return shares[-1][0] if shares else None


def steady_draw(model: str, who: str) -> float:
    """A number in [0, 1) that is the same for `who` each time, in every gateway and after a restart."""
    digest = hashlib.sha256(f"{model}\0{who}".encode(errors="surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) >> (64 - _HASH_BITS)) / (1 << _HASH_BITS)


# what an operator does


def promoted(rollout: Rollout, model: str, weights: Weights) -> Rollout:
    """The rollout in which these weights hold.

    The weights before them become `previous`, unless this is a further step with versions that have their shares
    already: rolling a canary back at 50 % then does not go to its 5 %, but to what was before it.

    Raises:
        ValueError: the weights are not allowed; the message says what is.
    """
    if not weights:
        raise ValueError("'weights' must name at least one version")
    before = rollout.of(model)
    is_further_step = before.previous is not None and _in_use(weights) <= _in_use(before.weights)
    previous = before.previous if is_further_step else before.weights
    return _with(rollout, model, replace(before, weights=dict(weights), previous=previous))


def rolled_back(rollout: Rollout, model: str) -> Rollout:
    """The rollout with the weights before the last promotion. Only one step: the way back is not the way forth.

    Raises:
        NothingToRollBack: there are none.
    """
    before = rollout.of(model)
    if before.previous is None:
        raise NothingToRollBack(
            f"there is nothing to roll {model} back to: no promotion is noted, or it has been rolled back already"
        )
    return _with(rollout, model, replace(before, weights=before.previous, previous=None))


def with_shadow(rollout: Rollout, model: str, version: int, percent: float) -> Rollout:
    """The rollout in which `version` gets `percent` of the model's images in the shadow.

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """
    return _with(rollout, model, replace(rollout.of(model), shadow=Shadow(version, percent)))


def without_shadow(rollout: Rollout, model: str) -> Rollout:
    """The rollout in which the model has no candidate in the shadow."""
    return _with(rollout, model, replace(rollout.of(model), shadow=None))


# the file


def read_rollout(path: Path) -> Rollout:
    """The rollout of the file at `path`.

    Raises:
        RolloutFileError: it can't be read, or is not as it must be.
    """
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_FILE_BYTES):
            raise RolloutFileError(f"the rollout file {path} must be a regular file of up to {_MAX_FILE_BYTES:,} bytes")
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise RolloutFileError(f"the rollout file {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise RolloutFileError(f"the rollout file {path} is no valid JSON: {error}") from error
    try:
        return parse(content)
    except ValueError as error:
        raise RolloutFileError(f"the rollout file {path} is wrong: {error}") from error


def write_rollout(path: Path, rollout: Rollout) -> None:
    """Replace the file at `path` as a whole, so that a gateway never reads half of it.

    Raises:
        RolloutFileError: it can't be written.
    """
    content = orjson.dumps(dump(rollout), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        write_atomically(path.resolve(), content)
    except OSError as error:
        raise RolloutFileError(f"the rollout file {path} can't be written: {error.strerror}") from error


def parse(content: Any) -> Rollout:
    """Read a file's JSON.

    Raises:
        ValueError: something is not as it must be; the message names the model and says what is allowed.
    """
    models = _object("it", content, required={"models"})["models"]
    if not isinstance(models, dict):
        raise ValueError("'models' must be an object of models by name")  # noqa: TRY004 (a value of the file)
    return Rollout({name: _parse_model(name, entry) for name, entry in models.items()})


def dump(rollout: Rollout) -> dict[str, Any]:
    """The JSON of a rollout; `parse` reads it."""
    return {"models": {name: _dump_model(entry) for name, entry in sorted(rollout.models.items())}}


def _parse_model(name: str, entry: Any) -> ModelRollout:
    place = f"models[{name[:100]!r}]"
    if not name:
        raise ValueError(f"{place}: a model's name is not empty")
    fields = _object(place, entry, optional={"weights", "previous", "shadow"})
    try:
        return ModelRollout(
            weights=_parse_weights("'weights'", fields.get("weights", {})),
            previous=_parse_weights("'previous'", fields["previous"]) if fields.get("previous") is not None else None,
            shadow=_parse_shadow(fields["shadow"]) if fields.get("shadow") is not None else None,
        )
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _parse_weights(what: str, entry: Any) -> dict[int, float]:
    if not isinstance(entry, dict):
        raise ValueError(f'{what} must be an object of weights by version, such as {{"3": 95, "4": 5}}')  # noqa: TRY004
    return {_parse_version(what, version): weight for version, weight in entry.items()}


def _parse_version(what: str, text: str) -> int:
    """A version as the name of a field; other spellings of one number would make two fields of it."""
    if not (text.isascii() and text.isdigit() and not text.startswith("0") and int(text[:20]) <= MAX_VERSION):
        raise ValueError(f"{what} names a version {text[:100]!r}; a version is a whole number from 1")
    return int(text)


def _parse_shadow(entry: Any) -> Shadow:
    return Shadow(**_object("'shadow'", entry, required={"version", "percent"}))


def _object(
    place: str, value: Any, *, required: Collection[str] = frozenset(), optional: Collection[str] = frozenset()
) -> dict[str, Any]:
    """An object that has all `required` fields, and none but these and the `optional` ones."""
    allowed = ", ".join(sorted({*required, *optional}))
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be an object with {allowed}")  # noqa: TRY004 (a value of the file)
    if unknown := value.keys() - {*required, *optional}:
        raise ValueError(f"{place} has a field {min(unknown)[:100]!r}; allowed are {allowed}")
    if lacking := set(required) - value.keys():
        raise ValueError(f"{place} lacks {min(lacking)!r}")
    return value


def _dump_model(entry: ModelRollout) -> dict[str, Any]:
    dumped: dict[str, Any] = {}
    if entry.weights:
        dumped["weights"] = _dump_weights(entry.weights)
    if entry.previous is not None:
        dumped["previous"] = _dump_weights(entry.previous)
    if entry.shadow is not None:
        dumped["shadow"] = {"version": entry.shadow.version, "percent": entry.shadow.percent}
    return dumped


def _dump_weights(weights: Weights) -> dict[str, float]:
    return {str(version): weight for version, weight in sorted(weights.items())}


def _with(rollout: Rollout, model: str, entry: ModelRollout) -> Rollout:
    """The rollout with another entry for a model; one that says nothing is left out."""
    models = {**rollout.models, model: entry}
    if entry == _NOTHING:
        del models[model]
    return Rollout(models)


def _in_use(weights: Weights) -> set[int]:
    return {version for version, weight in weights.items() if weight > 0}


def _check_weights(what: str, weights: Weights) -> None:
    for version, weight in weights.items():
        _check_version(what, version)
        if not (_is_number(weight) and 0 <= weight <= MAX_WEIGHT):
            raise ValueError(
                f"{what}: the weight of version {version} is {_shown(weight)}; it must be a number from 0 to "
                f"{MAX_WEIGHT:.0f}"
            )
    if weights and not _in_use(weights):
        raise ValueError(f"{what}: all weights are 0; at least one must be greater")


def _check_version(what: str, version: Any) -> None:
    if not (type(version) is int and 1 <= version <= MAX_VERSION):
        raise ValueError(f"{what} is {_shown(version)}; a version is a whole number from 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return repr(value)[:100]


_NOTHING: Final = ModelRollout()
