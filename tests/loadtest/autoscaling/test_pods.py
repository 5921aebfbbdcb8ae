"""Pods and gateway, step by step."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.autoscaling.batching import Curve
from loadtest.autoscaling.pods import Fleet, Outcome, Service

SINGLE = Curve(base_ms=0, per_image_ms=10, max_batch=1)  # 100 images/s


def service(**fields):
    return Service(**({"curve": SINGLE, "cold_start_seconds": 20.0, "leave_seconds": 5.0, "gateway_ms": 0.0} | fields))


def run(fleet, rates, seconds=1.0, begin=0.0):
    """The sum of what becomes of some images a second, step by step."""
    total = Outcome()
    for n, rate in enumerate(rates):
        total.add(fleet.step(begin + n * seconds, seconds, rate * seconds))
    return total


def test_a_pod_is_ready_after_its_cold_start():
    """And takes its GPU from the begin on."""
    fleet = Fleet(service(), 1)
    fleet.scale(10, 2)

    assert (fleet.existing, len(fleet.ready(29.9)), len(fleet.ready(30))) == (2, 1, 2)


def test_pods_that_start_go_first_and_then_the_youngest():
    """As a ReplicaSet chooses."""
    fleet = Fleet(service(), 2)
    fleet.scale(0, 3)
    fleet.step(0, 1, 0)
    fleet.scale(1, 2)
    fleet.scale(2, 1)

    assert [(pod.number, pod.is_leaving) for pod in fleet.pods] == [(0, False), (1, True), (2, True)]


def test_a_pod_that_leaves_keeps_its_gpu_and_answers_what_it_has():
    """For as long as it takes to go."""
    fleet = Fleet(service(deadline_seconds=None, batches_per_pod=None), 2)
    fleet.step(0, 1, 400)  # 100 of each are left
    fleet.scale(1, 1)
    answered = fleet.step(1, 1, 0).answered
    run(fleet, [0] * 8, begin=2)

    assert answered == pytest.approx(200)
    assert fleet.gpu_seconds == 2 * 6 + 4


def test_a_new_pod_takes_what_waits_in_the_gateway():
    """Pods hold two batches at most, so that the rest goes to whoever is there."""
    fleet = Fleet(service(cold_start_seconds=2), 1)
    run(fleet, [300, 300])
    fleet.scale(2, 2)
    run(fleet, [100] * 2, begin=2)
    waiting = fleet.gateway.queued
    run(fleet, [100], begin=4)

    assert fleet.gateway.queued == pytest.approx(waiting - 100, abs=3)


def test_without_a_gateway_new_pods_get_new_images_first():
    """Least outstanding: the backlog of the old pod stays there."""
    fleet = Fleet(service(deadline_seconds=None, batches_per_pod=None, cold_start_seconds=1), 1)
    run(fleet, [500])
    fleet.scale(0, 2)
    run(fleet, [80], begin=1)

    assert [round(pod.rate) for pod in fleet.pods] == [100, 80]
    assert [round(pod.backlog) for pod in fleet.pods] == [300, 0]


def test_no_more_waits_than_the_deadline_allows():
    """90 % of 10 s at 100 images/s; what is above it is refused at once."""
    fleet = Fleet(service(), 1)
    total = run(fleet, [300] * 30)

    assert fleet.gateway.queued == pytest.approx(900, rel=0.01)
    assert total.refused == pytest.approx(30 * 200 - 900, rel=0.01)
    assert total.expired == 0


def test_what_has_waited_too_long_is_given_up():
    """Pods that go leave more behind than the rest can answer in time."""
    fleet = Fleet(service(leave_seconds=0), 4)
    run(fleet, [1200] * 5)
    fleet.scale(5, 1)
    total = run(fleet, [0] * 12, begin=5)

    assert total.expired > 1000
    assert total.answered == pytest.approx(800, abs=250)


def test_without_pods_everything_is_refused():
    """At once."""
    assert run(Fleet(service(), 0), [50] * 4).refused == 200


def test_waits_are_those_of_the_queue():
    """3 s of work in the gateway are 3 s of waiting for the next image."""
    fleet = Fleet(service(), 1)
    run(fleet, [400] + [100] * 9)
    last = fleet.step(10, 1, 100)

    assert last.wait_seconds / last.answered == pytest.approx(3, rel=0.05)


@given(
    rates=st.lists(st.integers(0, 800), min_size=1, max_size=30),
    replicas=st.lists(st.integers(0, 6), min_size=30, max_size=30),
    batches=st.sampled_from([None, 2]),
    deadline=st.sampled_from([None, 2.0, 10.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_image_is_lost_or_made(rates, replicas, batches, deadline):
    """Each is answered, refused, given up, or still there, and no pod answers more than it can."""
    fleet = Fleet(service(batches_per_pod=batches, deadline_seconds=deadline, cold_start_seconds=3), 1)
    total, gone = Outcome(), {}
    for n, rate in enumerate(rates):
        fleet.scale(n, replicas[n])
        total.add(fleet.step(n, 1, rate))
        gone |= {pod.number: pod.backlog for pod in fleet.pods}
    there = fleet._queued + sum(gone.values())

    assert math.isclose(total.offered, total.answered + total.refused + total.expired + there, abs_tol=1e-6)
    assert all(pod.rate <= 100.000001 for pod in fleet.pods)
