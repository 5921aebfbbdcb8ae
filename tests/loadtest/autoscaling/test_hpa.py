"""The HPA's arithmetic, against cases worked out by hand from its documentation."""

from dataclasses import replace

import pytest

from loadtest.autoscaling.hpa import (
    SCALE_DOWN,
    SCALE_UP,
    Hpa,
    MetricType,
    Pods,
    Policy,
    PolicyType,
    Reading,
    Rules,
    SelectPolicy,
    proposal,
)

AVERAGE, LEVEL = MetricType.AVERAGE_VALUE, MetricType.VALUE
AT_ONCE = Rules(0, (Policy(PolicyType.PERCENT, 1000, 15),))


def reading(value, target, kind=AVERAGE, name="metric"):
    return Reading(name, kind, int(1000 * target), None if value is None else int(1000 * value))


def hpa(low=1, high=100, up=AT_ONCE, down=AT_ONCE):
    return Hpa(low, high, up, down)


def pods(wanted, existing=None, ready=None):
    existing = wanted if existing is None else existing
    return Pods(wanted, existing, existing if ready is None else ready)


def follow(scaler, current, asked, every=15, begin=0):
    """The replicas after each of several syncs; each asks for some."""
    found = []
    for n, replicas in enumerate(asked):
        current = scaler.sync(begin + n * every, pods(current), [reading(replicas, 1)]).replicas
        found.append(current)
    return found


@pytest.mark.parametrize(
    "value, target, existing, expected",
    [
        (0, 10, 4, 0),
        (5, 10, 4, 1),
        (40, 10, 4, 4),
        (43, 10, 4, 4),  # 7.5 % too much
        (44, 10, 4, 4),  # exactly the tolerance
        (44.1, 10, 4, 5),
        (36, 10, 4, 4),
        (35.9, 10, 4, 4),  # out of tolerance, and rounded up
        (30, 10, 4, 3),
        (30.1, 10, 4, 4),
        (400, 10, 4, 40),  # no limit here
        (0.5, 0.1, 1, 5),
    ],
)
def test_an_average_value_is_a_sum_that_all_pods_share(value, target, existing, expected):
    """ceil(sum / target), but for what the tolerance covers."""
    assert proposal(reading(value, target), pods(existing)) == expected


@pytest.mark.parametrize(
    "value, target, wanted, ready, expected",
    [
        (0.2, 0.1, 3, 3, 6),  # the documentation's own: twice the target doubles
        (0.05, 0.1, 4, 4, 2),  # and half of it halves
        (109, 100, 3, 3, 3),
        (111, 100, 3, 3, 4),
        (89, 100, 3, 3, 3),
        (200, 100, 4, 1, 2),  # three load their engines: a level says nothing about them
        (200, 100, 4, 0, 0),
        (0, 100, 4, 4, 0),
        (250, 100, 0, 0, 3),  # from zero
    ],
)
def test_a_value_is_a_level_that_ready_pods_brought_about(value, target, wanted, ready, expected):
    """ceil(ready x level / target), but for what the tolerance covers."""
    assert proposal(reading(value, target, LEVEL), pods(wanted, wanted, ready)) == expected


def test_pods_that_start_count_for_a_sum():
    """A sum is shared by them as soon as they are there, so a slow start does not compound."""
    assert proposal(reading(80, 10), pods(8, existing=8, ready=1)) == 8


def test_tolerances_may_differ_by_direction():
    """As `behavior.scaleDown.tolerance` has it."""
    it = hpa(down=replace(AT_ONCE, tolerance=0.5))

    assert [it.sync(n, pods(10), [reading(sum_, 1)]).replicas for n, sum_ in enumerate((6, 4))] == [10, 4]


@pytest.mark.parametrize(
    "values, expected, because",
    [
        ((3, 5, 4), 5, "b"),
        ((5, 5, 1), 5, "a"),
        ((None, 5, 1), 5, "b"),  # some are lost: up is allowed
        ((None, 3, 1), 4, ""),  # and down is not
        ((None, 4, 1), 4, "b"),
        ((None, None, None), 4, ""),
        ((2, 3, 1), 3, "b"),
    ],
)
def test_the_largest_proposal_counts(values, expected, because):
    """With lost metrics only if it does not scale down."""
    readings = [reading(value, 1, name=name) for value, name in zip(values, "abc", strict=True)]
    decision = hpa().sync(0, pods(4), readings)

    assert (decision.replicas, decision.because) == (expected, because)


@pytest.mark.parametrize("current, expected", [(1, 2), (9, 8), (0, 0)])
def test_bounds_come_before_metrics(current, expected):
    """What is outside goes to the bound at once; what is scaled to zero is nobody's business but KEDA's."""
    assert hpa(2, 8).sync(0, pods(current), [reading(5, 1)]).replicas == expected


def test_defaults_double_or_add_four_each_15_seconds():
    """The documentation's default behaviour, upwards."""
    assert follow(hpa(up=SCALE_UP), 1, [100] * 6) == [5, 10, 20, 40, 80, 100]


def test_ten_percent_or_four_pods_a_minute():
    """The documentation's example: 10 % of 80 are 8, 10 % of 72 are 8 as well, and below 40 four pods are more."""
    down = Rules(0, (Policy(PolicyType.PODS, 4, 60), Policy(PolicyType.PERCENT, 10, 60)))
    sequence = follow(hpa(low=10, down=down), 80, [10] * 15, every=61)

    assert sequence == [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10, 10]


@pytest.mark.parametrize(
    "select, up, down",
    [(SelectPolicy.MAX, 20, 5), (SelectPolicy.MIN, 12, 8), (SelectPolicy.DISABLED, 10, 10)],
)
def test_the_selected_policy_holds(select, up, down):
    """The greatest change, the smallest one, or none, in both directions."""
    policies = (Policy(PolicyType.PODS, 2, 60), Policy(PolicyType.PERCENT, 100, 60))
    halves = (Policy(PolicyType.PODS, 2, 60), Policy(PolicyType.PERCENT, 50, 60))

    assert follow(hpa(up=Rules(0, policies, select)), 10, [99]) == [up]
    assert follow(hpa(down=Rules(0, halves, select)), 10, [1]) == [down]


def test_a_period_remembers_what_was_added():
    """Two pods in 60 s are two pods in any 60 s, however often it looks."""
    up = Rules(0, (Policy(PolicyType.PODS, 2, 60),))

    assert follow(hpa(up=up), 1, [9] * 9) == [3, 3, 3, 3, 5, 5, 5, 5, 7]


def test_a_period_counts_from_the_replicas_at_its_begin():
    """What was removed within it may be added again, and more: the policy is about the period, not about the sync."""
    it = hpa(up=Rules(0, (Policy(PolicyType.PODS, 2, 60),)), down=Rules(0, (Policy(PolicyType.PODS, 5, 60),)))

    assert follow(it, 10, [5, 20]) == [5, 12]


def test_scaling_down_waits_for_the_window_to_pass():
    """The highest recommendation of the window holds; a lull within it changes nothing."""
    it = hpa(down=replace(SCALE_DOWN, stabilization_seconds=60))

    assert follow(it, 8, [8, 2, 2, 8, 2, 2, 2, 2, 2]) == [8, 8, 8, 8, 8, 8, 8, 2, 2]


def test_scaling_up_may_wait_as_well():
    """The lowest recommendation of the window holds."""
    it = hpa(up=replace(AT_ONCE, stabilization_seconds=30))

    assert follow(it, 2, [2, 8, 6, 8, 8]) == [2, 2, 6, 6, 8]


def test_a_new_autoscaler_does_not_scale_down_at_once():
    """It takes what it finds for its first recommendation."""
    assert follow(hpa(down=SCALE_DOWN), 8, [1, 1]) == [8, 8]
