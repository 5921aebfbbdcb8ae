"""Shares and turns: whatever waits, nobody gets more than a turn ahead, and the forecast holds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fair_queue import FairQueue
from gateway.priority import Priority

FLOWS = ("a", "b", "c", "d")
ARRIVALS = st.lists(st.tuples(st.sampled_from(list(Priority)), st.sampled_from(FLOWS)), max_size=60)


def filled(arrivals):
    queue = FairQueue()
    for number, (priority, flow) in enumerate(arrivals):
        queue.push((number, priority, flow), priority, flow)
    return queue


def drained(queue, count=None):
    order = []
    while (count is None or len(order) < count) and (item := queue.pop()) is not None:
        order.append(item)
    return order


@given(ARRIVALS)
def test_all_come_out_once_and_a_flow_in_its_own_order(arrivals):
    """Nothing is lost, nothing comes twice, nobody overtakes itself."""
    queue = filled(arrivals)
    assert len(queue) == len(arrivals)
    order = drained(queue)
    assert sorted(number for number, *_ in order) == list(range(len(arrivals)))
    for lane in {item[1:] for item in order}:
        numbers = [number for number, *own in order if tuple(own) == lane]
        assert numbers == sorted(numbers)
    assert len(queue) == 0


@given(ARRIVALS, st.integers(0, 60))
def test_flows_that_wait_get_the_same_to_within_one_turn(arrivals, turns):
    """However many images each has."""
    queue = filled(arrivals)
    served = Counter(item[1:] for item in drained(queue, turns))
    left = Counter(item[1:] for item in drained(queue))
    for priority in Priority:
        waiting = [flow for flow in FLOWS if left[priority, flow]]
        counts = [served[priority, flow] for flow in waiting]
        assert max(counts, default=0) - min(counts, default=0) <= 1


@given(ARRIVALS, st.integers(0, 60))
def test_priorities_that_wait_get_their_weights_to_within_one_turn(arrivals, turns):
    """For each turn of low there are four of normal and sixteen of high."""
    queue = filled(arrivals)
    served = Counter(priority for _, priority, _ in drained(queue, turns))
    left = {priority for _, priority, _ in drained(queue)}
    for one in left:
        for other in left:
            lead = served[one] / one.weight - served[other] / other.weight
            assert lead <= 1 / one.weight


@given(ARRIVALS, st.integers(0, 30), st.sampled_from(list(Priority)), st.sampled_from(FLOWS), st.data())
def test_the_forecast_holds_whatever_those_that_wait_still_bring(arrivals, turns, priority, flow, data):
    """A new item gets its turn after as many as was said, or fewer, while only lanes that waited already grow."""
    queue = filled(arrivals)
    drained(queue, turns)
    waiting = sorted({item[1:] for item in _waiting(queue)})
    forecast = queue.turns_ahead(priority, flow)
    queue.push("mine", priority, flow)
    for _ in range(forecast):
        if waiting and data.draw(st.booleans()):
            queue.push("more", *data.draw(st.sampled_from(waiting)))
        if queue.pop() == "mine":
            return
    for lane in waiting:
        queue.push("more", *lane)
    assert queue.pop() == "mine"


def _waiting(queue):
    return [item for band in queue._bands.values() for items in band.flows.values() for item in items]


def test_the_forecast_is_exact_where_all_wait_long_enough():
    """Of three flows with ten images each, a fourth one's first image is the fourth, and its second the eighth."""
    queue = filled([(Priority.NORMAL, flow) for flow in "abc" for _ in range(10)])
    assert queue.turns_ahead(Priority.NORMAL, "d") == 3
    queue.push("first", Priority.NORMAL, "d")
    assert queue.turns_ahead(Priority.NORMAL, "d") == 7
    queue.push("second", Priority.NORMAL, "d")
    order = drained(queue)
    assert (order.index("first"), order.index("second")) == (3, 7)


@given(ARRIVALS, st.data())
def test_what_is_removed_does_not_come_out(arrivals, data):
    """And the others do; removing twice is harmless."""
    queue = filled(arrivals)
    items = _waiting(queue)
    gone = data.draw(st.sets(st.sampled_from(items))) if items else set()
    for item in [*gone, *gone]:
        queue.remove(item, *item[1:])
    assert len(queue) == len(items) - len(gone)
    assert set(drained(queue)) == set(items) - gone


def test_who_may_not_go_is_passed_over_and_saves_up_nothing():
    """A flow that is held back finds its place in the round again, and a priority gets no turns after the event."""
    queue = filled([(Priority.HIGH, "a")] * 40 + [(Priority.LOW, "b")] * 40)
    for _ in range(20):
        assert queue.pop(lambda _, flow: flow == "b")[2] == "b"
    assert queue.pop(lambda _, __: False) is None
    served = Counter(priority for _, priority, _ in drained(queue, 18))
    assert served[Priority.LOW] >= 1


def test_a_flow_that_was_away_starts_level():
    """Having sent nothing for long gives no right to a burst."""
    queue = filled([(Priority.NORMAL, "a")] * 50)
    drained(queue, 30)
    for _ in range(10):
        queue.push((0, Priority.NORMAL, "b"), Priority.NORMAL, "b")
    assert Counter(flow for *_, flow in drained(queue, 10)) == {"a": 5, "b": 5}


@pytest.mark.parametrize("flow, count", [("a", 2), ("b", 0)])
def test_how_many_of_a_flow_wait(flow, count):
    """In one priority."""
    queue = filled([(Priority.HIGH, "a"), (Priority.LOW, "a"), (Priority.LOW, "a")])
    assert queue.waiting(Priority.LOW, flow) == count
