"""Who may enter, and when: by deadline, priority and fair share, before anything is spent on an image.

For each model there is a number of slots, as many images as Triton needs to fill its batches, and a queue in front of
them. The order is decided here: what is in a slot waits in Triton's own queue, first come, first served.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.drain_rate import DrainRate, ServiceTime
from gateway.errors import Overloaded
from gateway.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.deadline import Deadline
    from gateway.metrics import Metrics
    from gateway.priority import Priority

    Lane = tuple[Priority, str]

MAX_UNMEASURED: Final = 64
"""Images that may wait while nobody knows for how long: two of the longest lists."""

_PLANNED_SHARE: Final = 0.9  # of a deadline; the rest is for what no estimate knows, such as a busy processor
_STALLED: Final = 1e-3  # images per second: slower is the same as not at all
_SPARE_PART: Final = 4  # of a model's slots, for what nobody waits for: it adds a quarter to Triton's work at most
_MAX_RETRY_AFTER_SECONDS: Final = 60  # of a service that has all but stopped, nobody knows when it goes on


@dataclass(eq=False, slots=True)
class Slot:
    """An image's place: it waits for it until it is `granted`, and holds it until its answer is there."""

    station: _Station
    priority: Priority
    flow: str
    deadline: Deadline
    granted: asyncio.Future[None]
    has_waited: bool = False
    is_starting: bool = False
    since: float = 0.0

    @property
    def lane(self) -> Lane:
        """Its priority and flow."""
        return self.priority, self.flow


@dataclass(eq=False, slots=True)
class _Station:
    """The queue of one model and its slots, as queueing theory calls both together.

    By lane: how many images are in slots (`held`), and how many wait or are in slots (`there`). `slots` is how many
    there were when the station was observed last.
    """

    model: str
    queue: FairQueue[Slot] = field(default_factory=FairQueue)
    held: Counter[Lane] = field(default_factory=Counter)
    there: Counter[Lane] = field(default_factory=Counter)
    drain: DrainRate = field(default_factory=DrainRate)
    service: ServiceTime = field(default_factory=ServiceTime)
    slots: int = 1
    inflight: int = 0

    def may_hold(self) -> Callable[[Priority, str], bool]:
        """Whether a lane may have one slot more, as of now: there is no other, or one that holds as much by weight."""
        if len(self.there) == 1:
            return lambda _priority, _flow: True
        shares = [held / priority.weight for (priority, _), held in self.held.items()]
        most = max(shares, default=0)
        is_shared = shares.count(most) > 1

        def may_hold(priority: Priority, flow: str) -> bool:
            held = self.held[priority, flow]
            return is_shared or held / priority.weight < most or not held

        return may_hold


class Admission:
    """Hands out slots.

    A lane is what a flow sends in one priority. While other lanes are there, none holds more slots by its weight than
    each of them does, but for one. So the others find Triton's queue short however much one flow sends, while two that
    both send enough get all slots.

    Args:
        capacity: how many images of a model are worked on at a time; it is asked each time, and may change.
        max_starting: how many images, of all models, may be on their way to Triton: enough to keep all threads that
            decode busy. More would wait there in the order in which they came.
        metrics: the process's instruments.
        max_unmeasured: how many images of a model may wait before the rate is known at which they are worked off.
        clock: seconds of `time.monotonic`.
    """

    def __init__(
        self,
        capacity: Callable[[str], int],
        max_starting: int,
        metrics: Metrics,
        *,
        max_unmeasured: int = MAX_UNMEASURED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._max_starting = max_starting
        self._metrics = metrics
        self._max_unmeasured = max_unmeasured
        self._clock = clock
        self._stations: dict[str, _Station] = {}
        self._starting = 0

    def check(self, model: str, priority: Priority, flow: str, timeout_seconds: float) -> None:
        """Refuse an image to `model` that could not be answered in time; it costs next to nothing.

        Args:
            model: one that is served.
            priority: how urgent it is.
            flow: whose it is; each flow gets the same share.
            timeout_seconds: the time that there is for its answer.

        Raises:
            Overloaded: it carries the seconds that the image would wait.
        """
        station = self._station(model)
        if not station.queue:
            return  # it may start at once, or somebody must wait for it to be known how long that takes
        wait_seconds = self._wait_seconds(station, priority, flow)
        if wait_seconds is None:
            if station.queue.turns_ahead(priority, flow) >= self._max_unmeasured:
                raise self._refusal(station, 0.0, "queue", f"{len(station.queue)} images wait for {model} already")
        elif wait_seconds + station.service.upper_seconds > timeout_seconds * _PLANNED_SHARE:
            raise self._refusal(station, wait_seconds, "deadline", _too_late(station, wait_seconds, timeout_seconds))

    def spare_slots(self, model: str) -> int:
        """How many images that no caller waits for may be with Triton beside the others: none while one waits."""
        station = self._station(model)
        return 0 if station.queue else max(1, self._capacity(model) // _SPARE_PART)

    @asynccontextmanager
    async def slot(self, model: str, priority: Priority, flow: str, deadline: Deadline) -> AsyncIterator[Slot]:
        """Wait for a slot, and hold it while the block runs; the rest as in `check`.

        Raises:
            DeadlineExceeded: there is no time left at all.
            Overloaded: it would be too late, or in spite of what was expected it has become so.
        """
        self.check(model, priority, flow, deadline.remaining_seconds())
        station = self._station(model)
        slot = Slot(station, priority, flow, deadline, asyncio.get_running_loop().create_future())
        start = self._clock()
        await self._enter(slot)
        self._metrics.stage_seconds.labels("queue", model).observe(self._clock() - start)
        try:
            yield slot
            station.service.add(self._clock() - slot.since)
        except BaseException:
            station.service.add_at_least(self._clock() - slot.since)
            raise
        finally:
            self._leave(slot)

    def started(self, slot: Slot) -> None:
        """An image is decoded and goes to Triton; the next one may begin."""
        if slot.is_starting:
            slot.is_starting = False
            self._starting -= 1
            self._fill()

    async def _enter(self, slot: Slot) -> None:
        station = slot.station
        station.there[slot.lane] += 1
        station.queue.push(slot, slot.priority, slot.flow)
        self._observe(station)
        self._fill()
        if slot.granted.done():
            return slot.granted.result()
        slot.has_waited = True
        time_to_wait = slot.deadline.at - self._clock() - station.service.upper_seconds
        expiry = asyncio.get_running_loop().call_later(max(time_to_wait, 0.0), self._expire, slot)
        try:
            with self._metrics.queued.labels(station.model).track_inprogress():
                await slot.granted
        except asyncio.CancelledError:
            if slot.granted.cancelled():
                self._give_up(slot)
            elif slot.granted.exception() is None:
                self._leave(slot)
            raise
        finally:
            expiry.cancel()

    def _leave(self, slot: Slot) -> None:
        station = slot.station
        self._observe(station)
        station.drain.answered()
        station.inflight -= 1
        _count_down(station.held, slot.lane)
        _count_down(station.there, slot.lane)
        self._starting -= slot.is_starting
        self._fill()
        self._observe(station)

    def _fill(self) -> None:
        """Hand out what is free, to the models in turn: one that got something goes to the end."""
        is_filling = True
        while is_filling:
            is_filling = False
            for station in list(self._stations.values()):
                if station.queue and self._grant_next(station):
                    self._stations[station.model] = self._stations.pop(station.model)
                    is_filling = True

    def _grant_next(self, station: _Station) -> bool:
        """Grant a slot if there is one for an image that waits; what could only be too late is refused instead."""
        slot = None
        if self._is_free(station):
            slot = station.queue.pop(station.may_hold())
        if slot is None:
            return False
        self._observe(station)
        if slot.granted.done():
            return True
        now = self._clock()
        if slot.has_waited and station.inflight and slot.deadline.at - now < station.service.upper_seconds:
            _count_down(station.there, slot.lane)
            self._refuse(slot)
            return True
        station.inflight += 1
        station.held[slot.lane] += 1
        self._starting += 1
        slot.is_starting, slot.since = True, now
        slot.granted.set_result(None)
        return True

    def _expire(self, slot: Slot) -> None:
        """Take an image that has waited for too long out of the queue."""
        if not slot.granted.done():
            self._give_up(slot)
            self._refuse(slot)

    def _give_up(self, slot: Slot) -> None:
        slot.station.queue.remove(slot, slot.priority, slot.flow)
        _count_down(slot.station.there, slot.lane)
        self._observe(slot.station)
        self._fill()  # a flow that was not alone may be so now

    def _refuse(self, slot: Slot) -> None:
        wait_seconds = self._wait_seconds(slot.station, slot.priority, slot.flow) or 0.0
        timeout_seconds = slot.deadline.timeout_seconds
        slot.granted.set_exception(
            self._refusal(slot.station, wait_seconds, "expired", _too_late(slot.station, wait_seconds, timeout_seconds))
        )

    def _refusal(self, station: _Station, wait_seconds: float, reason: str, message: str) -> Overloaded:
        self._metrics.shed.labels(station.model, reason).inc()
        return Overloaded(message, min(max(1, math.ceil(wait_seconds)), _MAX_RETRY_AFTER_SECONDS))

    def _wait_seconds(self, station: _Station, priority: Priority, flow: str) -> float | None:
        """How long a new image would wait; None if nobody knows."""
        rate = self._rate(station)
        if rate is None:
            return None
        turns = station.queue.turns_ahead(priority, flow) + 1
        own_turns = 0.0
        if not station.may_hold()(priority, flow):  # it is worked off at the rate of the few slots that it holds
            own_turns = (station.queue.waiting(priority, flow) + 1) * station.inflight / station.held[priority, flow]
        return max(turns, own_turns) / max(rate, _STALLED)

    def _observe(self, station: _Station) -> None:
        station.slots = max(1, self._capacity(station.model))
        station.drain.observe(
            self._clock(),
            is_backlog=bool(station.queue) or station.inflight >= station.slots,
            capacity=station.slots,
            service_seconds=station.service.mean_seconds,
        )

    def _is_free(self, station: _Station) -> bool:
        return station.inflight < station.slots and self._starting < self._max_starting

    def _station(self, model: str) -> _Station:
        if model not in self._stations:
            station = self._stations[model] = _Station(model)
            self._metrics.inflight.labels(model).set_function(lambda: station.inflight)
            self._metrics.drain_rate.labels(model).set_function(lambda: self._rate(station) or 0.0)
            self._metrics.expected_wait.labels(model).set_function(lambda: self._expected_wait_seconds(station))
        return self._stations[model]

    def _expected_wait_seconds(self, station: _Station) -> float:
        """How long an image would wait if it came last of all."""
        rate = self._rate(station)
        return len(station.queue) / max(rate, _STALLED) if rate is not None else 0.0

    def _rate(self, station: _Station) -> float | None:
        """Images per second; None if nobody knows."""
        self._observe(station)
        return station.drain.per_second(station.slots)


def _count_down(counter: Counter[Lane], lane: Lane) -> None:
    counter[lane] -= 1
    if not counter[lane]:
        del counter[lane]


def _too_late(station: _Station, wait_seconds: float, timeout_seconds: float) -> str:
    return (
        f"the image's turn would come after {wait_seconds * 1e3:.0f} ms and an answer now takes up to "
        f"{station.service.upper_seconds * 1e3:.0f} ms, too late for an answer within the "
        f"{timeout_seconds * 1e3:.0f} ms that the request allows"
    )
