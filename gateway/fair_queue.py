"""Who is next: shares between priorities, and turns between flows. Pure: no clock, no event loop.

Priorities get turns by stride scheduling (Waldspurger and Weihl, "Stride Scheduling: Deterministic Proportional-Share
Resource Management", 1995). Flows of one priority get them by round robin, which is what deficit round robin (Shreedhar
and Varghese, "Efficient Fair Queueing using Deficit Round Robin", 1995) comes to where each item costs the same. An
image does: whatever its size, it is one input of the model, and that is what all wait for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from gateway.priority import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_STRIDES: Final = {priority: Priority.HIGH.weight // priority.weight for priority in Priority}


@dataclass(slots=True)
class _Band(Generic[T]):
    """What waits in one priority: its flows in the order of their turns, none of them empty, and `size` items in all.

    `turn_at` is when its next turn is due, in the virtual time that each turn of a band moves on by its stride.
    """

    stride: int
    turn_at: int = 0
    size: int = 0
    flows: dict[str, deque[T]] = field(default_factory=dict)


class FairQueue(Generic[T]):
    """Items by priority and flow; a flow's own items keep their order.

    While two flows of one priority both wait, neither gets more than one turn ahead of the other, however many items it
    has. While two priorities both wait, they get turns by their weights, to within one turn of the lighter one.
    """

    def __init__(self) -> None:
        self._bands: dict[Priority, _Band[T]] = {priority: _Band(_STRIDES[priority]) for priority in Priority}
        self._now = 0
        self._size = 0  # of all bands; it is asked some ten times an image

    def __len__(self) -> int:
        return self._size

    def push(self, item: T, priority: Priority, flow: str) -> None:
        """Let an item wait. A band or flow that did not wait before starts level with the others: it saves no turns."""
        band = self._bands[priority]
        band.turn_at = self._turn_at(band)
        band.flows.setdefault(flow, deque()).append(item)
        band.size += 1
        self._size += 1

    def pop(self, may_go: Callable[[Priority, str], bool] = lambda _, __: True) -> T | None:
        """Take the next item of a flow that may go; None if there is none. Who may not does not save up its turns."""
        # sorting is stable: ties go to the more urgent
        for priority, band in sorted(self._bands.items(), key=lambda entry: entry[1].turn_at):
            flow = next((flow for flow in band.flows if may_go(priority, flow)), None)
            if flow is not None:
                self._now = max(self._now, band.turn_at)
                band.turn_at = self._now + band.stride
                return self._take(band, flow)
        return None

    def remove(self, item: T, priority: Priority, flow: str) -> None:
        """Take an item out that no longer wants its turn; one that has had it is passed over."""
        band = self._bands[priority]
        items = band.flows.get(flow, ())
        if item in items:
            items.remove(item)  # type: ignore[union-attr]  # it is in there, so this is no empty tuple
            band.size -= 1
            self._size -= 1
            if not items:
                del band.flows[flow]

    def turns_ahead(self, priority: Priority, flow: str) -> int:
        """The most turns that come before a new item's, however much more the flows that wait now will bring.

        Only flows and priorities that begin to wait later on can make it more.
        """
        band = self._bands[priority]
        rank = _rank(band.flows, flow)
        at = self._turn_at(band) + rank * band.stride
        return rank + sum(
            max(0, -((other.turn_at - at - (kind.rank < priority.rank)) // other.stride))
            for kind, other in self._bands.items()
            if other.size and kind is not priority
        )

    def waiting(self, priority: Priority, flow: str) -> int:
        """How many items of a flow wait in one priority."""
        return len(self._bands[priority].flows.get(flow, ()))

    def _turn_at(self, band: _Band[T]) -> int:
        return band.turn_at if band.size else max(band.turn_at, self._now)

    def _take(self, band: _Band[T], flow: str) -> T:
        """The first item of a flow, which goes to the end of the round."""
        items = band.flows.pop(flow)
        item = items.popleft()
        band.size -= 1
        self._size -= 1
        if items:
            band.flows[flow] = items
        return item


def _rank(flows: dict[str, deque[T]], flow: str) -> int:
    """The most turns within one priority before that of a new item of `flow`."""
    own = len(flows.get(flow, ()))
    before = list(flows).index(flow) if own else len(flows)  # those whose turn in the current round is still to come
    return own + own * (len(flows) - bool(own)) + before
