"""Objectives held against figures: which are met, and by how much those that are not are missed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadtest.load.figures import rounded
from loadtest.load.profile import FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loadtest.load.figures import Figures
    from loadtest.load.profile import Objective

MET, BROKEN, INVALID = 0, 1, 3
"""Exit codes; 2 says that nothing could be measured."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """An objective, and what was measured; NaN if nothing was."""

    objective: Objective
    measured: float

    @property
    def is_met(self) -> bool:
        """What was not measured is not met."""
        if math.isnan(self.measured):
            return False
        bound = self.objective.bound
        return self.measured <= bound if self.objective.is_maximum else self.measured >= bound

    def __str__(self) -> str:
        """One line: what was wanted, what was measured, and how far they are apart."""
        wanted = "at most" if self.objective.is_maximum else "at least"
        unit = FIGURES[self.objective.figure]
        line = f"{self.subject} {_number(self.measured, unit)}, wanted {wanted} {_number(self.objective.bound, unit)}"
        return line if self.is_met else f"{line}: missed{self._by_how_much(unit)}"

    @property
    def subject(self) -> str:
        """The figure, and of whom and when."""
        of = [self.objective.users, self.objective.stage and f"stage {self.objective.stage!r}"]
        places = ", ".join(each for each in of if each)
        return f"{self.objective.figure} ({places})" if places else self.objective.figure

    def _by_how_much(self, unit: str) -> str:
        if math.isnan(self.measured):
            return ", for nothing was measured"
        off = abs(self.measured - self.objective.bound)
        share = f" ({off / self.objective.bound:.0%})" if self.objective.bound else ""
        return f" by {_number(off, unit)}{share}"

    def pack(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "subject": self.subject,
            "is_maximum": self.objective.is_maximum,
            "bound": self.objective.bound,
            "measured": rounded(self.measured),
            "unit": FIGURES[self.objective.figure],
            "is_met": self.is_met,
            "text": str(self),
        }


def judge(objectives: Iterable[Objective], figures: Callable[[str | None, str | None], Figures]) -> list[Judgement]:
    """Each objective against the figures of its stage and kind of caller."""
    return [Judgement(each, getattr(figures(each.stage, each.users), each.figure)) for each in objectives]


def problems_of_generator(lag_p99_ms: float, most_ms: float) -> list[str]:
    """Why figures cannot be trusted, if the generator was late by more than it may be."""
    if math.isnan(lag_p99_ms):
        return ["no generator has told what it did"]
    if lag_p99_ms <= most_ms:
        return []
    return [f"the generator lagged: p99 {lag_p99_ms:.0f} ms, and the profile allows {most_ms:g} ms; add --workers"]


def exit_code(judgements: Iterable[Judgement], problems: Iterable[str]) -> int:
    """What the shell is told. A run that is not valid says nothing about objectives."""
    if list(problems):
        return INVALID
    return MET if all(each.is_met for each in judgements) else BROKEN


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{value:.0f} ms" if unit else f"{value:.4g}"
