"""Whether this process wants traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests should be sent to a process.

    Attributes:
        reason: why not; None if they should.
        models: names of what is served, ascending.
        is_draining: whether it is on its way out.
    """

    reason: str | None
    models: tuple[str, ...] = ()
    is_draining: bool = False


SHUTTING_DOWN: Final = Readiness("shutting down", is_draining=True)


class Lifecycle:
    """Ready while a detector is served, until draining begins; every face asks here, so that they agree."""

    def __init__(self, is_served: Callable[[], bool]) -> None:
        self._is_served = is_served
        self.is_draining = False

    def drain(self) -> None:
        """Not be ready any more; requests that still come are served."""
        self.is_draining = True

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._is_served() and not self.is_draining

    def readiness(self, models: Iterable[str]) -> Readiness:
        """The same with its reason, for operators; `models` are the names of what is served."""
        if self.is_draining:
            return SHUTTING_DOWN
        return Readiness(None if self.is_ready else "no Triton serves a detector", tuple(sorted(models)))
