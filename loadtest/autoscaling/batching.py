"""What a pod's queue looks like in the long run: one GPU that takes whatever waits, up to a full batch, at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS: Final = 33
_MAX_LOAD: Final = 0.98  # of the capacity: beyond it a queue only grows, and that is counted and not looked up


@dataclass(slots=True)  # not frozen: millions are made, and that costs
class Occupancy:
    """Means over time of one pod.

    Attributes:
        waiting: images that wait in its queue.
        executing: images in the batch that is being executed; 0 while there is none.
        busy: share of the time in which a batch is executed.
    """

    waiting: float
    executing: float
    busy: float


@dataclass(frozen=True)
class Curve:
    """How long the GPU takes: `base_ms` + `per_image_ms` x images of a batch, as a fit of measured batches.

    Attributes:
        base_ms: what a batch costs whatever its size, in ms.
        per_image_ms: what each image adds, in ms.
        max_batch: most images of a batch.
    """

    base_ms: float = 2.0
    per_image_ms: float = 1.0
    max_batch: int = 16

    def batch_seconds(self, images: int) -> float:
        """How long a batch takes."""
        return (self.base_ms + self.per_image_ms * images) / 1e3

    @cached_property
    def capacity_per_second(self) -> float:
        """Images per second in full batches."""
        return self.max_batch / self.batch_seconds(self.max_batch)

    def occupancy(self, images_per_second: float) -> Occupancy:
        """The means under Poisson arrivals, interpolated. A load that nears the capacity counts as 98 % of it."""
        at = min(images_per_second / self.capacity_per_second / _MAX_LOAD, 1.0) * (_STEPS - 1)
        n = min(int(at), _STEPS - 2)
        part = at - n
        low, high = self._table[n], self._table[n + 1]
        return Occupancy(
            low.waiting + part * (high.waiting - low.waiting),
            low.executing + part * (high.executing - low.executing),
            low.busy + part * (high.busy - low.busy),
        )

    @cached_property
    def _table(self) -> list[Occupancy]:
        return _occupancies(self)


@cache
def _occupancies(curve: Curve) -> list[Occupancy]:
    """The means at evenly spaced loads, from none to the highest."""
    loads = np.linspace(0, _MAX_LOAD, _STEPS)[1:]
    return [Occupancy(0.0, 0.0, 0.0), *(_solve(curve, load * curve.capacity_per_second) for load in loads)]


def _solve(curve: Curve, rate: float) -> Occupancy:
    """Means at one rate, by the chain of what waits when the GPU becomes free (M/D/1 with batches)."""
    states = 64 + 6 * curve.max_batch  # more than ever wait below the highest load
    batches = np.clip(np.arange(states), 1, curve.max_batch)
    left = np.maximum(np.arange(states) - batches, 0)
    seconds = (curve.base_ms + curve.per_image_ms * batches) / 1e3
    chain = np.zeros((states, states))
    arrivals = [_poisson(rate * length, states) for length in seconds[: curve.max_batch + 1]]
    for state in range(states):
        chain[state, left[state] :] = arrivals[min(state, curve.max_batch)][: states - left[state]]
        chain[state, -1] += 1 - chain[state].sum()
    often = _stationary(chain)
    idle = np.where(np.arange(states) == 0, 1 / rate, 0.0)
    total = often @ (seconds + idle)
    waiting = often @ (left * seconds + rate * seconds**2 / 2) / total
    return Occupancy(float(waiting), float(often @ (batches * seconds) / total), float(often @ seconds / total))


def _poisson(mean: float, count: int) -> NDArray[np.float64]:
    """Probabilities of 0 to `count` - 1 events."""
    k = np.arange(count)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    return np.asarray(np.exp(k * np.log(mean) - mean - log_factorials))


def _stationary(chain: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of steps that a Markov chain, by rows, spends in each state."""
    equations = chain.T - np.eye(len(chain))
    equations[-1] = 1.0  # in place of one that follows from the others: shares sum to 1
    return np.linalg.solve(equations, np.eye(len(chain))[-1])
