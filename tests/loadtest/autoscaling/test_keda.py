"""What KEDA makes of a query's result."""

import math

import pytest

from loadtest.autoscaling.hpa import MetricType, Pods, proposal
from loadtest.autoscaling.keda import Fallback, FallbackBehavior, Scaler, Trigger

PODS = Pods(wanted=6, existing=6, ready=4)


def scaler(fallback=None, **fields):
    fields = {"name": "depth", "query": "q", "type": MetricType.AVERAGE_VALUE, "threshold": 16.0} | fields
    return Scaler(Trigger(**fields), fallback)


@pytest.mark.parametrize("result", [None, math.nan, math.inf])
@pytest.mark.parametrize("ignores, expected", [(True, 0), (False, None)])
def test_no_result_is_zero_only_where_it_is_ignored(result, ignores, expected):
    """Empty, NaN and infinite results alike; otherwise they are errors."""
    assert scaler(ignores_null_values=ignores).reading(result, PODS).value_milli == expected


def test_values_are_cut_to_thousandths():
    """As resource quantities are."""
    assert scaler().reading(1.23456, PODS).value_milli == 1234


def test_the_fallback_begins_after_its_threshold():
    """Three failures are errors; from the fourth on there is a value again, and one success ends it."""
    it = scaler(Fallback(3, 2, FallbackBehavior.CURRENT_REPLICAS), ignores_null_values=False)
    values = [it.reading(result, PODS).value_milli for result in (None, None, None, None, None, 32, None)]

    assert values == [None, None, None, 96_000, 96_000, 32_000, None]


def test_without_fallback_an_error_stays_one():
    """However long it lasts."""
    it = scaler(ignores_null_values=False)

    assert [it.reading(None, PODS).value_milli for _ in range(9)] == [None] * 9


@pytest.mark.parametrize("kind", list(MetricType))
@pytest.mark.parametrize(
    "behavior, replicas, expected",
    [
        ("static", 3, 3),  # down, in spite of a busy service
        ("static", 9, 9),
        ("currentReplicas", 3, 6),
        ("currentReplicasIfHigher", 3, 6),
        ("currentReplicasIfHigher", 9, 9),
        ("currentReplicasIfLower", 3, 3),
        ("currentReplicasIfLower", 9, 6),
    ],
)
def test_a_fallback_comes_out_at_its_replicas(kind, behavior, replicas, expected):
    """The HPA's arithmetic makes of the value what the behaviour says, for sums and for levels."""
    it = scaler(Fallback(0, replicas, FallbackBehavior(behavior)), type=kind, ignores_null_values=False)

    assert proposal(it.reading(None, PODS), PODS) == expected


def test_a_level_can_not_fall_back_without_ready_pods():
    """There is nothing to divide by."""
    it = scaler(Fallback(0, 3), type=MetricType.VALUE, ignores_null_values=False)

    assert it.reading(None, Pods(6, 6, 0)).value_milli is None
