"""What is usual, and what is rare."""

import pytest

from gateway.triton.latency import LatencyQuantile, UsualLatency


def test_the_usual_latency_follows_a_change():
    """Within some dozens of answers; and what is steady is expected to stay so."""
    usual = UsualLatency()
    assert usual.longest_seconds is None
    for seconds in [0.02] * 100:
        usual.add(seconds)
    assert usual.mean_seconds == pytest.approx(0.02)
    assert usual.longest_seconds == pytest.approx(0.04, rel=0.01)
    for seconds in [0.2] * 50:
        usual.add(seconds)
    assert usual.mean_seconds == pytest.approx(0.2, rel=0.01)


def test_scatter_is_allowed_for():
    """What takes 10 or 30 ms by turns should not exceed 100, and 60 is nothing special."""
    usual = UsualLatency()
    for number in range(200):
        usual.add(0.01 if number % 2 else 0.03)
    assert 0.06 < usual.longest_seconds < 0.1


def test_a_quantile_needs_some_answers():
    """50; then it is that of the latest 500."""
    quantile = LatencyQuantile(0.9)
    for number in range(49):
        quantile.add(number)
    assert quantile.seconds is None
    for number in range(49, 1000):
        quantile.add(number)
    assert quantile.seconds == 949
