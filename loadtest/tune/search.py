"""Which tunings are worth a try, and how the best of them is found: successive halving, without a word about servers.

All are measured for a short time, the better half for twice as long, and so on, until two are left. The one that is
served now goes with them to the end, whatever it reaches, so that all is held against it.

Source: K. Jamieson and A. Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from export.tuning import Tuning
from loadtest.profile import Step, capacity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

CALLERS: Final = (2, 4, 8, 16, 32, 64)
"""At a time, one after the other, until the limit breaks or nothing is gained."""
GAIN: Final = 1.03
"""What is better by less is not better: rounds differ by as much."""
_PATIENCE: Final = 2
"""Steps without a gain after which a ladder ends."""
_DELAYS_MICROSECONDS: Final = (0, 500, 2000)
_CPU_DELAYS_MICROSECONDS: Final = (0, 2000)


@dataclass(frozen=True, slots=True)
class Grid:
    """Values to try; None: what suits the machine and the model."""

    instances: tuple[int, ...] | None = None
    queue_delays_microseconds: tuple[int, ...] | None = None
    preferred_batch_sizes: tuple[tuple[int, ...], ...] | None = None
    threads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured of one tuning.

    Attributes:
        tuning: what was tried.
        seconds: of each step.
        steps: by callers, ascending.
        best: the step with the most images/s within the limit, or None.
        failure: why it could not be measured; empty if it could.
    """

    tuning: Tuning
    seconds: float
    steps: tuple[Step, ...]
    best: Step | None
    failure: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """The greater, the better: images/s within the limit, and where there are none, how near it came."""
        nearest = min((step.p99_ms for step in self.steps), default=float("inf"))
        return (self.best.images_per_second if self.best else 0.0, -nearest)


def candidates(grid: Grid, current: Tuning, *, processors: int, max_batch_size: int, on_cpu: bool) -> list[Tuning]:
    """All combinations that make sense, and the current one first.

    On a processor no more threads compute than there are processors: `instances` x `threads`. Batches that wait gain
    nothing there. A preferred size says when a delay may end, so without a delay there is none.
    """
    delays = grid.queue_delays_microseconds or (_CPU_DELAYS_MICROSECONDS if on_cpu else _DELAYS_MICROSECONDS)
    preferred = grid.preferred_batch_sizes or (((),) if on_cpu else _preferred(max_batch_size))
    found = [current]
    for (instances, threads), delay, sizes in itertools.product(
        _places(grid, processors, on_cpu=on_cpu), delays, preferred
    ):
        tuning = Tuning(instances, delay, tuple(size for size in sizes if size <= max_batch_size), threads)
        if (delay or not tuning.preferred_batch_sizes) and tuning not in found and not _same(tuning, current):
            found.append(tuning)
    return found


def _places(grid: Grid, processors: int, *, on_cpu: bool) -> Iterator[tuple[int, int | None]]:
    """Instances, and threads of each."""
    if not on_cpu:
        yield from ((instances, None) for instances in grid.instances or (1, 2, 3))
        return
    powers = tuple(2**power for power in range(processors.bit_length()) if 2**power <= processors)
    powers = tuple(sorted({*powers, processors}))
    for instances, threads in itertools.product(grid.instances or powers, grid.threads or powers):
        if instances * threads <= processors:
            yield instances, threads


def _preferred(max_batch_size: int) -> tuple[tuple[int, ...], ...]:
    return ((), *((size,) for size in dict.fromkeys((max_batch_size // 2, max_batch_size)) if size > 1))


def _same(one: Tuning, other: Tuning) -> bool:
    """Whether two differ by no more than saying that one thread computes, which is what the backend does unasked."""
    return (one.instances, one.queue_delay_microseconds, one.preferred_batch_sizes, one.threads or 1) == (
        other.instances,
        other.queue_delay_microseconds,
        other.preferred_batch_sizes,
        other.threads or 1,
    )


async def climb(measure: Callable[[int], Awaitable[Step]], p99_ms: float) -> tuple[Step, ...]:
    """Measure with more and more callers, up to the first that breaks the limit or while there is something to gain."""
    steps: list[Step] = []
    highest, since = 0.0, 0
    for callers in CALLERS:
        steps.append(await measure(callers))
        since = 0 if steps[-1].images_per_second > GAIN * highest else since + 1
        highest = max(highest, steps[-1].images_per_second)
        if steps[-1].p99_ms > p99_ms or since == _PATIENCE:
            break
    return tuple(steps)


async def halve(
    tunings: Sequence[Tuning], measure: Callable[[Tuning, float], Awaitable[Trial]], seconds: float
) -> list[list[Trial]]:
    """Measure all, then the better half for twice the time, and so on; the first of `tunings` stays in.

    Args:
        tunings: the current one first.
        measure: a trial of a tuning with steps of so many seconds.
        seconds: of the first round.

    Returns:
        The trials of each round, best first; the last round has the current one and what is best beside it.
    """
    current, rounds, left = tunings[0], list[list[Trial]](), list(tunings)
    while True:
        trials = sorted([await measure(tuning, seconds) for tuning in left], key=lambda trial: trial.rank, reverse=True)
        rounds.append(trials)
        if len(left) <= 2:  # noqa: PLR2004 (the current one and a rival)
            return rounds
        others = [trial.tuning for trial in trials if trial.tuning != current]
        left = [current, *others[: max(1, len(left) // 2 - 1)]]
        seconds *= 2


def winner(rounds: Sequence[Sequence[Trial]], current: Tuning) -> Trial | None:
    """The best trial of the last round; the current tuning's unless another one is better by more than `GAIN`.

    None if none keeps the limit.
    """
    best = rounds[-1][0]
    now = next(trial for trial in rounds[-1] if trial.tuning == current)
    if now.best and best.rank[0] <= GAIN * now.rank[0]:
        return now
    return best if best.best else None


def limited(steps: Sequence[Step], p99_ms: float) -> Step | None:
    """The step with the most images/s of those that keep the limit."""
    return capacity(list(steps), p99_ms)
