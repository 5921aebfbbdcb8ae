"""A pod's queue in the long run, against a simulation of each request."""

import numpy as np
import pytest

from loadtest.autoscaling.batching import Curve


def played(curve, rate, seconds, seed):
    """Mean waiting and executing images and the busy share, request by request."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))).tolist()
    now = waited = executed = busy = 0.0
    first = 0
    while first < len(arrivals):
        now, end = max(now, arrivals[first]), first
        while end < len(arrivals) and arrivals[end] <= now and end - first < curve.max_batch:
            waited += now - arrivals[end]
            end += 1
        length = curve.batch_seconds(end - first)
        busy, executed, now, first = busy + length, executed + length * (end - first), now + length, end
    return waited / now, executed / now, busy / now


@pytest.mark.parametrize("curve", [Curve(), Curve(0, 10, 1), Curve(5, 0.5, 8)], ids=["16", "single", "base"])
@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_means_are_those_of_single_requests(curve, load):
    """Within what a minute of random arrivals leaves open."""
    rate = load * curve.capacity_per_second
    seen = curve.occupancy(rate)

    assert (seen.waiting, seen.executing, seen.busy) == pytest.approx(
        played(curve, rate, 60, seed=1), rel=0.08, abs=0.01
    )


def test_an_idle_pod_has_nothing():
    """The empty case."""
    assert Curve().occupancy(0).busy == 0


def test_too_much_counts_as_nearly_all():
    """Beyond the capacity the backlog is counted, not looked up."""
    curve = Curve()

    assert curve.occupancy(9999) == curve.occupancy(0.98 * curve.capacity_per_second)


def test_batching_makes_a_gpu_look_busy_long_before_it_is_full():
    """At half of its capacity it rests 10 % of the time: small batches are less work than it seems."""
    curve = Curve(base_ms=2, per_image_ms=1, max_batch=16)

    assert curve.occupancy(curve.capacity_per_second / 2).busy == pytest.approx(0.9, abs=0.01)
