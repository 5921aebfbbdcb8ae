"""Retries are a share of the recent requests, and no more."""

import pytest

from gateway.triton.budget import RetryBudget
from tests.gateway.triton.clock import Clock

RESERVE = 100


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def budget(clock):
    return RetryBudget(clock)


def withdrawals(budget, most=10_000):
    """How many retries there are until it is empty."""
    return next(count for count in range(most) if not budget.withdraw())


def test_a_quiet_gateway_has_a_reserve(budget):
    """10 a second over 10 s, or the first request after a quiet night could not be retried."""
    assert withdrawals(budget) == RESERVE


def test_requests_pay_for_retries(budget):
    """One for five."""
    for _ in range(500):
        budget.deposit()
    assert withdrawals(budget) == RESERVE + 100


def test_a_lost_endpoint_pays_for_its_calls(budget):
    """It does no more work for them, so to ask elsewhere adds no load."""
    budget.grant(300)
    assert withdrawals(budget) == RESERVE + 300


def test_what_is_old_is_forgotten(budget, clock):
    """Neither requests nor retries count for longer than 10 s."""
    for _ in range(500):
        budget.deposit()
    assert withdrawals(budget) == RESERVE + 100
    clock.advance(9)
    assert not budget.withdraw()
    clock.advance(1)
    assert withdrawals(budget) == RESERVE


@pytest.mark.parametrize("rate", [10, 200, 1000])
def test_when_everything_fails_the_load_grows_by_a_fifth(budget, clock, rate):
    """However many retries each request would like to have, over a minute they stay within the share."""
    retries = 0
    for _ in range(60 * rate):
        budget.deposit()
        while budget.withdraw():
            retries += 1
        clock.advance(1 / rate)
    assert retries <= 0.2 * 60 * rate + 10 * 60 + RESERVE
