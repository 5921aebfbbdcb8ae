"""What was seen on a real control plane (Kubernetes 1.36, KEDA 2.20, Prometheus 2.42, played pods), simulated.

A pod served 100 images/s one by one, was ready 18 s after its creation, and held some 320 images at most. There was no
gateway. Scrapes and rules came every 5 s, the HPA looked every 15 s, and scaling down was stabilised over 60 s.
"""

from dataclasses import replace

import pytest

from loadtest.autoscaling.batching import Curve
from loadtest.autoscaling.demand import steps
from loadtest.autoscaling.figures import asked_after
from loadtest.autoscaling.hpa import Policy, PolicyType, Rules
from loadtest.autoscaling.pods import Service
from loadtest.autoscaling.simulation import Conditions, Loss, simulate

SERVICE = Service(
    curve=Curve(base_ms=0, per_image_ms=10, max_batch=1),
    cold_start_seconds=18,
    leave_seconds=5,
    deadline_seconds=3.6,  # of which 90 % are 320 images
    batches_per_pod=None,
)


@pytest.fixture
def settings(plain):
    """A function that gives the settings of an experiment."""

    def make(period_seconds):
        up = Rules(0, (Policy(PolicyType.PERCENT, 100, period_seconds), Policy(PolicyType.PODS, 2, period_seconds)))
        down = Rules(60, (Policy(PolicyType.PODS, 1, 15),))
        return replace(plain, max_replicas=6, up=up, down=down)

    return make


def run(autoscaling, demand, **fields):
    """A step at 120 s comes 14 s before the HPA looks, as it did there."""
    return simulate(autoscaling, demand, Conditions(service=SERVICE, dcgm_seconds=5, sync_phase_seconds=14, **fields))


def sequence(timeline, since):
    return [change.after for change in timeline.changes if change.seconds >= since]


def test_load_from_50_to_330(settings):
    """Seen: 1 -> 3 after 14 s, ready at 32 s; 3 -> 6 at 45 s, ready at 63 s; some 960 waited, gone within 78 s."""
    timeline = run(settings(30), steps((120, 50), (300, 330)))
    ready = {n: next(row.seconds - 120 for row in timeline.rows if row.ready >= n) for n in (3, 6)}
    crowded = [row for row in timeline.rows if row.seconds >= 120 and row.waiting > 60]

    assert sequence(timeline, 120)[:3] == [3, 6, 5]  # and settles at 5
    assert (asked_after(timeline, 120, 3), asked_after(timeline, 120, 6)) == pytest.approx((14, 45), abs=2)
    assert (ready[3], ready[6]) == pytest.approx((32, 63), abs=2)
    assert max(row.waiting for row in crowded) == pytest.approx(960, rel=0.05)
    assert crowded[-1].seconds - 120 < 78


def test_load_from_330_to_60(settings):
    """Seen: five pods; the first one went after 69 s, and from 3 to 2 at 115 s. The last one needed a mended rule."""
    timeline = run(settings(30), steps((400, 330), (400, 60)), replicas=5)
    cuts = [change for change in timeline.changes if change.seconds >= 400]

    assert [change.after for change in cuts] == [4, 3, 2, 1]
    assert cuts[0].seconds - 400 == pytest.approx(69, abs=12)  # by what the HPA's phase leaves open
    assert cuts[2].seconds - 400 == pytest.approx(115, abs=20)


def test_all_series_lost_under_load(settings):
    """Seen: it stayed at 6 of 6, and fell back."""
    timeline = run(settings(30), steps((900, 250)), replicas=6, losses=(Loss(10, 900),))

    assert timeline.changes == []
    assert timeline.fallback_seconds == 14 + 3 * 15


def test_all_series_lost_where_no_result_counts_as_zero(settings):
    """Seen: from 6 to 1 within 106 s, under full load. This is what `ignoreNullValues: "false"` is for."""
    careless = settings(30)
    triggers = tuple(replace(trigger, ignores_null_values=True) for trigger in careless.triggers)
    timeline = run(replace(careless, triggers=triggers), steps((900, 250)), replicas=6, losses=(Loss(10, 900),))

    assert sequence(timeline, 0) == [5, 4, 3, 2, 1]
    assert timeline.changes[-1].seconds - 10 == pytest.approx(106, abs=30)
    assert max(row.waiting for row in timeline.rows) > 300


def test_steps_that_come_before_the_pods_of_the_last_one(settings):
    """Seen: 250 images/s need four pods and got six, for the backlog asked a second time."""
    assert sequence(run(settings(30), steps((120, 50), (300, 250))), 120)[:2] == [3, 6]


def test_a_period_of_90_seconds_delays_the_second_step(settings):
    """Seen: at 104 s."""
    timeline = run(settings(90), steps((120, 50), (300, 330)))

    assert asked_after(timeline, 120, 6) == pytest.approx(104, abs=3)
