"""Schedules of requests."""

import numpy as np
import pytest

from loadtest.chaos.arrivals import constant, poisson


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
