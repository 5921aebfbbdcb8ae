"""A load test as data: how much load when, by which callers, with which pictures, and what must come of it.

A profile is a TOML file; README.md has its fields. `Profile.parse` checks all of them before anything is sent.
"""

from __future__ import annotations

import itertools
import tomllib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from loadtest.arrivals import Slope, varying
from loadtest.load.table import BadProfile, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.arrivals import Schedule

OURS: Final = Path(__file__).parent / "profiles"
KINDS: Final = ("http", "grpc", "stream")
"""Callers that ask for one image at a time."""
CAMERA: Final = "camera"
PRIORITIES: Final = ("high", "normal", "low")
FORMATS: Final = ("jpg", "png", "webp", "bmp")
SOURCES: Final = ("auto", "boards", "numbered", "folder")
CAPACITY_P99_MS: Final = 250.0
FIGURES: Final = {
    "p50_ms": "ms",
    "p95_ms": "ms",
    "p99_ms": "ms",
    "error_share": "",
    "refused_share": "",
    "goodput_share": "",
    "goodput_of_capacity": "",
    "staleness_p50_ms": "ms",
    "staleness_p99_ms": "ms",
}
"""What an objective may be about, and its unit."""
_LEVELS: Final = ("users", "per_second", "of_capacity")
_DEFAULT_USERS: Final = {"http": 1}
_DEFAULT_PRIORITIES: Final[Mapping[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the load.

    Attributes:
        name: for reports and objectives.
        seconds: how long it takes.
        begin: users, or images per second, when it begins.
        end: and when it ends; they change evenly.
    """

    name: str
    seconds: float
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Size:
    """A share of the pictures: `wh` in pixels, None for as they are, encoded as `format`."""

    wh: tuple[int, int] | None
    weight: float
    format: str
    quality: int


@dataclass(frozen=True, slots=True)
class Images:
    """Which pictures are sent: `count` of them, from a `source`, in these sizes."""

    source: str
    count: int
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a figure must be: `bound` at most, or at least; of one stage and kind of caller, or of all."""

    figure: str
    is_maximum: bool
    bound: float
    stage: str | None
    users: str | None


@dataclass(frozen=True, slots=True)
class Profile:
    """One load test.

    Attributes:
        title: in one line.
        is_open: whether images are due by a schedule, or each caller waits for its answer before it asks again.
        is_random: whether that schedule is a Poisson process; else arrivals are evenly spread.
        seed: of all that is random.
        timeout_seconds: an image must be answered so long after it was due; it is sent with this deadline.
        think_seconds: how long a caller of closed load waits between an answer and its next image.
        max_lag_ms: if the generator itself was late by more than this for 1 % of what it did, the run is invalid.
        capacity_p99_ms: where the capacity is measured, 99 % must be answered within so long.
        max_in_flight: of each generator process; images that are due beyond that wait, which is lag.
        stages: one after the other.
        users: kinds of callers and their weights.
        cameras: how many cameras stream beside them.
        frames_per_second: of each camera.
        priorities: how many images ask for which; empty: none is named.
        images: what is sent.
        objectives: what must come of it.
    """

    title: str
    is_open: bool
    is_random: bool
    seed: int
    timeout_seconds: float
    think_seconds: float
    max_lag_ms: float
    capacity_p99_ms: float
    max_in_flight: int
    stages: tuple[Stage, ...]
    users: dict[str, float]
    cameras: int
    frames_per_second: float
    priorities: dict[str, float]
    images: Images
    objectives: tuple[Objective, ...]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """The profile that a TOML file holds, with levels as `resolve` makes them.

        Raises:
            BadProfile: it is none.
        """
        table = Table(dict(data))
        is_open = table.text("load", among=("open", "closed")) == "open"
        cameras = table.table("cameras", {"count": 0})
        made = cls(
            title=table.text("title"),
            is_open=is_open,
            is_random=table.text("arrivals", "poisson", ("poisson", "constant")) == "poisson",
            seed=table.whole("seed", 1),
            timeout_seconds=table.number("timeout_seconds", 10.0, most=600.0),
            think_seconds=table.number("think_seconds", 0.0, above=False),
            max_lag_ms=table.number("max_lag_ms", 50.0),
            capacity_p99_ms=table.number("capacity_p99_ms", CAPACITY_P99_MS),
            max_in_flight=table.whole("max_in_flight", 1000, least=1),
            stages=tuple(_stage(each, n, is_open=is_open) for n, each in enumerate(table.tables("stages"), 1)),
            users=table.weights("users", KINDS, _DEFAULT_USERS),
            cameras=cameras.whole("count"),
            frames_per_second=cameras.number("frames_per_second", 10.0, most=1000.0),
            priorities=table.weights("priorities", PRIORITIES, _DEFAULT_PRIORITIES),
            images=_images(table.table("images", {})),
            objectives=tuple(map(_objective, table.tables("slo"))),
        )
        cameras.done()
        table.done()
        made._check(table)
        return made

    def _check(self, table: Table) -> None:
        names = [stage.name for stage in self.stages]
        if not names:
            table.refuse("there is no [[stages]]")
        if len(set(names)) < len(names):
            table.refuse(f"two stages have one name: {', '.join(names)}")
        if not self.users and not self.cameras:
            table.refuse("there are no users and no cameras")
        if not self.users and any(stage.begin or stage.end for stage in self.stages):
            table.refuse("stages ask for load, and no kind of users has a weight")
        callers = {*self.users, *([CAMERA] if self.cameras else [])}
        for n, objective in enumerate(self.objectives):
            if objective.stage not in {None, *names}:
                table.refuse(f"slo[{n}].stage is {objective.stage!r}; it must be one of {', '.join(names)}")
            if objective.users not in {None, *callers}:
                table.refuse(f"slo[{n}].users is {objective.users!r}; it must be one of {', '.join(sorted(callers))}")
            if objective.figure.startswith("staleness") and not self.cameras:
                table.refuse(f"slo[{n}].figure is {objective.figure}, and there are no cameras")

    @property
    def seconds(self) -> float:
        """How long the load takes."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def begins(self) -> list[float]:
        """When each stage begins, in seconds since the load did; and when the last one ends."""
        return [0.0, *itertools.accumulate(stage.seconds for stage in self.stages)]

    @property
    def needs_grpc(self) -> bool:
        """Whether callers use the gRPC face."""
        return bool(self.cameras) or bool({"grpc", "stream"} & self.users.keys())

    def stage_at(self, seconds: float) -> int:
        """The position of the stage at that time; the last one for what comes after the end."""
        ends = self.begins[1:]
        return next((n for n, end in enumerate(ends) if seconds < end), len(ends) - 1)

    def users_at(self, seconds: float) -> int:
        """How many callers of closed load there are at that time."""
        stage, begin = self.stages[self.stage_at(seconds)], self.begins[self.stage_at(seconds)]
        share = min(1.0, (seconds - begin) / stage.seconds)
        return round(stage.begin + share * (stage.end - stage.begin))

    def schedule(self) -> Schedule:
        """When the images of open load are due, float64 (N,) in seconds since it began, ascending."""
        slopes = [Slope(stage.seconds, stage.begin, stage.end) for stage in self.stages]
        return varying(slopes, seed=self.seed if self.is_random else None)


def read(name_or_file: str) -> dict[str, Any]:
    """What a profile of ours, by name, or a file holds; not checked yet.

    Raises:
        BadProfile: there is none, or it is no TOML.
    """
    ours = {path.stem: path for path in sorted(OURS.glob("*.toml"))}
    path = ours.get(name_or_file, Path(name_or_file))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8"
        raise BadProfile(f"no profile {name_or_file!r} ({why}); give a file, or one of {', '.join(ours)}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadProfile(f"{path} is no TOML: {error}") from error


def is_of_capacity(data: Mapping[str, Any]) -> bool:
    """Whether a stage's level is a share of what the deployment can do, which `resolve` must then know."""
    stages = data.get("stages")
    return isinstance(stages, list) and any(isinstance(stage, dict) and "of_capacity" in stage for stage in stages)


def resolve(
    data: Mapping[str, Any], *, capacity_per_second: float | None, level: float = 1.0, speed: float = 1.0
) -> dict[str, Any]:
    """The same data with absolute levels.

    Args:
        data: as `read` gives it.
        capacity_per_second: images per second that the deployment answers in time; stages may be shares of it.
        level: multiplies all levels.
        speed: divides all lengths of stages.

    Raises:
        BadProfile: there are shares, and no capacity.
    """
    if is_of_capacity(data) and capacity_per_second is None:
        raise BadProfile("stages are shares of a capacity that is not known")
    made = deepcopy(dict(data))
    for stage in made["stages"] if isinstance(made.get("stages"), list) else []:
        if isinstance(stage, dict):
            _scale(stage, capacity_per_second or 0.0, level, speed)
    return made


def _scale(stage: dict[str, Any], capacity_per_second: float, level: float, speed: float) -> None:
    """What is no number is left for `parse` to refuse."""
    for name in _LEVELS:
        if name in stage:
            stage[name] = _times(stage[name], level)
    if "of_capacity" in stage:
        stage["per_second"] = _times(stage.pop("of_capacity"), capacity_per_second)
    if "seconds" in stage:
        stage["seconds"] = _times(stage["seconds"], 1 / speed)


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [_times(each, factor) for each in value]
    return value * factor if isinstance(value, int | float) and not isinstance(value, bool) else value


def _stage(table: Table, number: int, *, is_open: bool) -> Stage:
    level, load = ("per_second", "open") if is_open else ("users", "closed")
    for name in _LEVELS:
        if name in table and name != level:
            table.refuse(f"{name} does not go with {load} load, whose stages have {level}")
    begin, end = table.slope(level)
    made = Stage(table.text("name", f"stage {number}"), table.number("seconds"), begin, end)
    table.done()
    return made


def _images(table: Table) -> Images:
    made = Images(
        source=table.text("source", "auto", SOURCES),
        count=table.whole("count", 16, least=1),
        sizes=tuple(map(_size, table.tables("sizes"))),
    )
    table.done()
    return made


def _size(table: Table) -> Size:
    wh = table.pair("wh") if "wh" in table else None
    made = Size(wh, table.number("weight", 1.0), table.text("format", "jpg", FORMATS), table.whole("quality", 90))
    table.done()
    return made


def _objective(table: Table) -> Objective:
    figure = table.text("figure", among=FIGURES)
    if ("at_most" in table) == ("at_least" in table):
        table.refuse("give one of at_most and at_least")
    is_maximum = "at_most" in table
    made = Objective(
        figure=figure,
        is_maximum=is_maximum,
        bound=table.number("at_most" if is_maximum else "at_least", above=False),
        stage=table.text("stage") if "stage" in table else None,
        users=table.text("users") if "users" in table else None,
    )
    table.done()
    return made
