"""Counts what callers got, in a form in which the accounts of several generators can be added up."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from loadtest.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_LEAST_MS: Final = 0.01
_GROWTH: Final = 1.01
"""Each bucket ends 1 % above its begin, so that a quantile is off by half a percent at most."""
_LOG_GROWTH: Final = math.log(_GROWTH)
_MOST_CELLS: Final = 600
"""Seconds of a run that are kept apart; in longer ones several share a cell."""


class Histogram:
    """Times in ms, in buckets that grow with them. Two can be added; none remembers single values."""

    def __init__(
        self, buckets: Mapping[int, int] | None = None, total_ms: float = 0.0, largest_ms: float = 0.0
    ) -> None:
        self._buckets = Counter(buckets or {})
        self._total_ms = total_ms
        self._largest_ms = largest_ms

    def add(self, milliseconds: float) -> None:
        """Count one; what is less than 0.01 ms counts as that."""
        self._buckets[math.floor(math.log(max(milliseconds, _LEAST_MS) / _LEAST_MS) / _LOG_GROWTH)] += 1
        self._total_ms += milliseconds
        self._largest_ms = max(self._largest_ms, milliseconds)

    def merge(self, other: Histogram) -> None:
        """Count what another one has counted."""
        self._buckets.update(other._buckets)
        self._total_ms += other._total_ms
        self._largest_ms = max(self._largest_ms, other._largest_ms)

    def __len__(self) -> int:
        return self._buckets.total()

    def quantile(self, share: float) -> float:
        """The time within which that share was (nearest rank), to half a percent; NaN for none."""
        rank = math.ceil(share * len(self) - 1e-9)  # 0.07 * 100 is a little more than 7
        for bucket, count in sorted(self._buckets.items()):
            rank -= count
            if rank <= 0:
                return min(float(_LEAST_MS * _GROWTH ** (bucket + 0.5)), self._largest_ms)
        return math.nan

    @property
    def mean(self) -> float:
        """The mean, exactly; NaN for none."""
        return self._total_ms / len(self) if len(self) else math.nan

    @property
    def largest(self) -> float:
        """The largest, exactly; NaN for none."""
        return self._largest_ms if len(self) else math.nan

    def pack(self) -> list[Any]:
        """As JSON has it."""
        return [list(self._buckets), list(self._buckets.values()), self._total_ms, self._largest_ms]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """From what `pack` gave."""
        buckets, counts, total_ms, largest_ms = packed
        return cls(dict(zip(buckets, counts, strict=True)), total_ms, largest_ms)


@dataclass(slots=True)
class Cell:
    """What happened in one second to callers of one kind, whose images were due in one stage.

    Attributes:
        due: images that were due then; the rest is what came of images in that second, whenever they were due.
        verdicts: what became of how many.
        reasons: why those that failed did.
        dropped: frames of cameras that newer ones replaced.
        latency: from when an image was due to its right answer, in time or late.
        lag: how late the generator itself was.
        staleness: age of the newest answered frame, ten times a second for each camera.
    """

    due: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    latency: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    staleness: Histogram = field(default_factory=Histogram)

    def merge(self, other: Cell) -> None:
        """Add another one."""
        self.due += other.due
        self.verdicts.update(other.verdicts)
        self.reasons.update(other.reasons)
        self.dropped += other.dropped
        for name in ("latency", "lag", "staleness"):
            getattr(self, name).merge(getattr(other, name))

    @property
    def counted(self) -> int:
        """Images that came to an end."""
        return self.verdicts.total()

    def pack(self) -> list[Any]:
        """As JSON has it."""
        histograms = [each.pack() for each in (self.latency, self.lag, self.staleness)]
        return [self.due, dict(self.verdicts), dict(self.reasons), self.dropped, *histograms]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """From what `pack` gave."""
        due, verdicts, reasons, dropped, *histograms = packed
        return cls(due, Counter(verdicts), Counter(reasons), dropped, *map(Histogram.unpack, histograms))


class Key(NamedTuple):
    """Where a cell belongs: the stage by its position, the second of the run by the ledger's width, the kind."""

    stage: int
    column: int
    kind: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image. Times are seconds since the load began.

    Attributes:
        kind: of its caller.
        due_at: when it should have been sent.
        sent_at: when it was.
        answered_at: when it came to its end.
        verdict: what that was.
        reason: why it is no right answer; empty for one that is.
    """

    kind: str
    due_at: float
    sent_at: float
    answered_at: float
    verdict: Verdict
    reason: str = ""


class Ledger:
    """All cells of a run that takes `seconds`; `stage_at` tells the stage of a time."""

    def __init__(self, seconds: float, stage_at: Callable[[float], int]) -> None:
        self.width_seconds = max(1, math.ceil(seconds / _MOST_CELLS))
        self._stage_at = stage_at
        self.cells: dict[Key, Cell] = {}

    def note(self, outcome: Outcome) -> None:
        """Count one image."""
        stage = self._stage_at(outcome.due_at)
        self._cell(stage, outcome.due_at, outcome.kind).due += 1
        cell = self._cell(stage, outcome.answered_at, outcome.kind)
        cell.verdicts[outcome.verdict] += 1
        if outcome.reason:
            cell.reasons[outcome.reason] += 1
        if outcome.verdict in {Verdict.OK, Verdict.LATE}:
            cell.latency.add(1e3 * (outcome.answered_at - outcome.due_at))
        cell.lag.add(1e3 * (outcome.sent_at - outcome.due_at))

    def note_dropped(self, at: float, kind: str, frames: int) -> None:
        """Count frames that newer ones replaced."""
        self.at(at, kind).dropped += frames

    def note_lag(self, at: float, seconds: float) -> None:
        """Count how late the generator woke up."""
        self.at(at, GENERATOR).lag.add(1e3 * seconds)

    def note_staleness(self, at: float, kind: str, seconds: float) -> None:
        """Count how old a camera's newest answer is."""
        self.at(at, kind).staleness.add(1e3 * seconds)

    def at(self, seconds: float, kind: str) -> Cell:
        """The cell of what happens at that time by itself."""
        return self._cell(self._stage_at(seconds), seconds, kind)

    def _cell(self, stage: int, seconds: float, kind: str) -> Cell:
        return self.cells.setdefault(Key(stage, int(seconds // self.width_seconds), kind), Cell())

    def take(self) -> list[list[Any]]:
        """All cells as JSON has them; they begin anew."""
        packed = [[*key, *cell.pack()] for key, cell in self.cells.items()]
        self.cells = {}
        return packed

    def merge(self, packed: Iterable[list[Any]]) -> None:
        """Add what another generator's `take` gave."""
        for stage, column, kind, *cell in packed:
            self.cells.setdefault(Key(stage, column, kind), Cell()).merge(Cell.unpack(cell))

    def sum(self, matches: Callable[[Key], bool]) -> Cell:
        """All cells together whose key matches."""
        total = Cell()
        for key, cell in self.cells.items():
            if matches(key):
                total.merge(cell)
        return total


GENERATOR: Final = "generator"
"""The kind under which the generator's own lateness is counted."""
