"""Schedules of requests."""

import numpy as np
import pytest

from loadtest.arrivals import Slope, constant, poisson, varying


def test_constant_arrivals_keep_their_distance():
    """Four a second, from where they shall begin."""
    assert constant(4, 1, begin=10).tolist() == [10.0, 10.25, 10.5, 10.75]


def test_no_time_has_no_arrivals():
    """The empty case of both."""
    assert (len(constant(4, 0)), len(poisson(4, 0, seed=1))) == (0, 0)


def test_poisson_arrivals_are_in_order_and_within_their_time():
    """As many as the rate says, so that two runs offer the same load."""
    arrivals = poisson(50, 20, seed=1, begin=5)

    assert len(arrivals) == 1000
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 5
    assert arrivals[-1] < 25


def test_poisson_gaps_spread_as_an_exponential_distribution():
    """Its deviation equals its mean; even arrivals have none."""
    gaps = np.diff(poisson(50, 200, seed=1))

    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)


def test_a_seed_gives_the_same_poisson_arrivals_again():
    """And another seed gives others."""
    assert poisson(9, 9, seed=1).tolist() == poisson(9, 9, seed=1).tolist()
    assert poisson(9, 9, seed=1).tolist() != poisson(9, 9, seed=2).tolist()


def test_a_rate_that_rises_has_more_arrivals_later():
    """From 0 to 20 a second in 10 s: 100 of them, a quarter of which in the first half; the next stage goes on."""
    due = varying([Slope(10, 0, 20), Slope(5, 20, 20)], seed=None)
    assert len(due) == 200
    assert np.all(np.diff(due) > 0)
    assert np.sum(due < 5) == pytest.approx(25, abs=1)
    assert np.sum(due < 10) == 100
    assert np.diff(due[100:]) == pytest.approx(0.05)


@pytest.mark.parametrize("slope", [Slope(8, 5, 5), Slope(8, 0, 10), Slope(8, 10, 0)])
def test_random_arrivals_follow_the_rate(slope):
    """As many as expected, in its time and in order; the same for one seed; more of them where the rate is higher."""
    due = varying([slope], seed=3)
    assert len(due) == 40
    assert 0 <= due.min() < due.max() < 8
    assert np.all(np.diff(due) >= 0)
    assert np.array_equal(due, varying([slope], seed=3))
    expected = slope.seconds * (slope.begin_per_second + 2 * slope.end_per_second) / 3 / 10
    assert due.mean() == pytest.approx(expected, abs=0.8)


def test_a_time_without_arrivals_is_none():
    """No rate, no stage: no arrivals."""
    assert not len(varying([Slope(5, 0, 0)], seed=1))
    assert not len(varying([], seed=1))
    assert varying([Slope(5, 0, 0), Slope(1, 2, 2)], seed=None).min() >= 5
