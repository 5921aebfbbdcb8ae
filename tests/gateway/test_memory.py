"""The budget of bytes: bounded, shared, and given back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Overloaded
from gateway.memory import ByteBudget
from gateway.metrics import Metrics

MAX = 1000


@pytest.fixture
def budget(metrics):
    return ByteBudget(MAX, metrics)


def test_what_is_held_comes_back(budget, metrics):
    """When the block ends, however it does."""
    for error in (None, ZeroDivisionError):
        with contextlib.suppress(ZeroDivisionError), budget.hold("a") as add:
            add(300)
            add(200)
            assert metrics.registry.get_sample_value("eagleeye_held_bytes") == 500
            if error:
                raise error
        assert metrics.registry.get_sample_value("eagleeye_held_bytes") == 0


def test_one_flow_gets_half_and_the_next_one_still_finds_room(budget, metrics):
    """The refusal says so, and names no other caller."""
    with budget.hold("flood") as flood, budget.hold("camera") as camera:
        flood(500)
        with pytest.raises(Overloaded, match="hold 500 bytes") as refusal:
            flood(1)
        camera(250)
        with pytest.raises(Overloaded):
            camera(1)
    assert refusal.value.retry_after_seconds == 1
    assert metrics.registry.get_sample_value("eagleeye_shed_total", {"model": "", "reason": "memory"}) == 2


def test_a_check_holds_nothing(budget):
    """It tells what would be refused before it has arrived."""
    budget.check("a", 500)
    budget.check("a", 500)
    with pytest.raises(Overloaded):
        budget.check("a", 501)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, MAX)), max_size=40))
def test_no_more_than_the_budget_is_ever_held(asked):
    """Whoever asks for how much."""
    metrics = Metrics()
    budget = ByteBudget(MAX, metrics)
    with contextlib.ExitStack() as stack:
        for flow, size in asked:
            add = stack.enter_context(budget.hold(flow))
            with contextlib.suppress(Overloaded):
                add(size)
            assert metrics.registry.get_sample_value("eagleeye_held_bytes") <= MAX
    assert metrics.registry.get_sample_value("eagleeye_held_bytes") == 0
