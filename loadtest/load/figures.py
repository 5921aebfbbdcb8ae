"""A ledger -> figures, by stage and kind of caller, and series over time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from loadtest.load.ledger import GENERATOR, Cell, Key
from loadtest.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.load.ledger import Ledger
    from loadtest.load.profile import Profile

_BAD = (Verdict.LATE, Verdict.FAILED, Verdict.WRONG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the images came to that were due in one stage, or in all, from one kind of caller, or from all.

    Latencies are in ms from when an image was due to its right answer. NaN where there is nothing to tell.

    Attributes:
        stage: its name; None for all.
        users: the kind; None for all.
        due: images that were due.
        verdicts: what became of how many.
        dropped: frames of cameras that newer ones replaced; they count in nothing else.
        per_second: right answers in time per second, within the stage's time.
        mean_ms: mean latency.
        p50_ms, p95_ms, p99_ms, max_ms: quantiles of the latency, and the highest.
        error_share: late, failed and wrong ones, of all.
        refused_share: refused ones, of all.
        goodput_share: right answers in time, of all.
        goodput_of_capacity: `per_second`, of the deployment's capacity.
        staleness_p50_ms, staleness_p99_ms: age of the newest answered frame of a camera, over time.
    """

    stage: str | None
    users: str | None
    due: int
    verdicts: dict[str, int]
    dropped: int
    per_second: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    error_share: float
    refused_share: float
    goodput_share: float
    goodput_of_capacity: float
    staleness_p50_ms: float
    staleness_p99_ms: float

    def pack(self) -> dict[str, Any]:
        """As JSON has it: rounded, None for NaN."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def rounded(value: Any) -> Any:
    """A number to four figures of its fraction, None for one that is none; everything else as it is."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


class Accounts:
    """What can be told from a ledger.

    Args:
        ledger: of a whole run.
        profile: what was run.
        capacity_per_second: of the deployment, where it is known.
    """

    def __init__(self, ledger: Ledger, profile: Profile, capacity_per_second: float | None) -> None:
        self._ledger = ledger
        self._profile = profile
        self._capacity = capacity_per_second or math.nan

    @property
    def lag_p99_ms(self) -> float:
        """How late the generator was, at most but for 1 %: when it sent, or when it woke up."""
        own, sent = self._sum(lambda key: key.kind == GENERATOR), self._sum(lambda key: key.kind != GENERATOR)
        return max((lag for lag in (own.lag.quantile(0.99), sent.lag.quantile(0.99)) if lag == lag), default=math.nan)  # noqa: PLR0124 (no NaN)

    @property
    def reasons(self) -> dict[str, int]:
        """Why images failed, the most frequent first."""
        return dict(self._sum(lambda _: True).reasons.most_common())

    def figures(self, stage: str | None = None, users: str | None = None) -> Figures:
        """Of one stage or all, and of one kind of caller or all."""
        names = [each.name for each in self._profile.stages]
        position = None if stage is None else names.index(stage)
        cell = self._sum(lambda key: _is(key.stage, position) and _is_kind(key, users))
        share = _Share(cell.counted)
        per_second = self._per_second(position, users)
        return Figures(
            stage=stage,
            users=users,
            due=cell.due,
            verdicts={verdict: cell.verdicts[verdict] for verdict in Verdict},
            dropped=cell.dropped,
            per_second=per_second,
            mean_ms=cell.latency.mean,
            p50_ms=cell.latency.quantile(0.5),
            p95_ms=cell.latency.quantile(0.95),
            p99_ms=cell.latency.quantile(0.99),
            max_ms=cell.latency.largest,
            error_share=share.of(sum(cell.verdicts[verdict] for verdict in _BAD)),
            refused_share=share.of(cell.verdicts[Verdict.REFUSED]),
            goodput_share=share.of(cell.verdicts[Verdict.OK]),
            goodput_of_capacity=per_second / self._capacity,
            staleness_p50_ms=cell.staleness.quantile(0.5),
            staleness_p99_ms=cell.staleness.quantile(0.99),
        )

    def all_figures(self) -> list[Figures]:
        """Of the whole run, of each kind in it if there are several, and of each stage."""
        kinds = sorted({key.kind for key in self._ledger.cells} - {GENERATOR})
        return [
            self.figures(),
            *(self.figures(users=kind) for kind in kinds if len(kinds) > 1),
            *(self.figures(stage=stage.name) for stage in self._profile.stages),
        ]

    def series(self) -> dict[str, list[Any]]:
        """What happened in each second, or few seconds, of the run: rates, latencies, staleness."""
        width = self._ledger.width_seconds
        columns = range(math.ceil(self._profile.seconds / width))
        series: dict[str, list[Any]] = {name: [] for name in (*_SERIES, "seconds")}
        cells: dict[int, Cell] = {column: Cell() for column in columns}
        for key, cell in self._ledger.cells.items():
            if key.kind != GENERATOR and key.column in cells:
                cells[key.column].merge(cell)
        for column, cell in cells.items():
            series["seconds"].append(column * width)
            for name, read in _SERIES.items():
                series[name].append(rounded(read(cell, self._width(column))))
        return series

    def _width(self, column: int) -> float:
        """Seconds of the run that lie in a column: all but perhaps the last one are full."""
        width = self._ledger.width_seconds
        return max(1e-9, min(width, self._profile.seconds - column * width))

    def _per_second(self, position: int | None, users: str | None) -> float:
        begins, width = self._profile.begins, self._ledger.width_seconds
        begin, end = (0.0, begins[-1]) if position is None else (begins[position], begins[position + 1])
        columns = [n for n in range(math.ceil(begins[-1] / width)) if begin <= n * width < end]
        if not columns:  # a stage that is shorter than a column
            return math.nan
        inside = range(columns[0], columns[-1] + 1)
        answered = self._sum(lambda key: key.column in inside and _is_kind(key, users))
        return answered.verdicts[Verdict.OK] / sum(map(self._width, columns))

    def _sum(self, matches: Callable[[Key], bool]) -> Cell:
        return self._ledger.sum(matches)


class _Share:
    """Parts of a number; of none they are NaN."""

    def __init__(self, total: int) -> None:
        self._total = total

    def of(self, part: int) -> float:
        return part / self._total if self._total else math.nan


def _is(value: int, wanted: int | None) -> bool:
    return wanted is None or value == wanted


def _is_kind(key: Key, users: str | None) -> bool:
    return key.kind != GENERATOR if users is None else key.kind == users


_SERIES: dict[str, Callable[[Cell, float], float]] = {
    "due": lambda cell, seconds: cell.due / seconds,
    "ok": lambda cell, seconds: cell.verdicts[Verdict.OK] / seconds,
    "refused": lambda cell, seconds: cell.verdicts[Verdict.REFUSED] / seconds,
    "failed": lambda cell, seconds: sum(cell.verdicts[verdict] for verdict in _BAD) / seconds,
    "p50_ms": lambda cell, _: cell.latency.quantile(0.5),
    "p95_ms": lambda cell, _: cell.latency.quantile(0.95),
    "p99_ms": lambda cell, _: cell.latency.quantile(0.99),
    "staleness_p50_ms": lambda cell, _: cell.staleness.quantile(0.5),
    "staleness_p99_ms": lambda cell, _: cell.staleness.quantile(0.99),
}
