"""Demand curves."""

import numpy as np
import pytest

from loadtest.autoscaling.demand import BadDemand, Demand, day, flapping, noisy, ramp, read, steps


def test_a_file_is_a_curve(tmp_path):
    """Linear between rows; two rows of one time are a step."""
    file = tmp_path / "day.csv"
    file.write_text("seconds,images_per_second\n0,100\n10,200\n10,1000\n20,1000\n")
    demand = read(file)
    arrivals = demand.arrivals(1, seed=1)

    assert demand.points == ((0, 100), (10, 200), (10, 1000), (20, 1000))
    assert len(arrivals) == 20
    assert arrivals[:10].mean() == pytest.approx(150, rel=0.1)
    assert arrivals[10:].mean() == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the first line must be seconds,images_per_second, and is "),
        ("time,rate\n0,1\n", "and is time,rate"),
        ("seconds,images_per_second\n0,1\n", "reach 15 seconds at least"),
        ("seconds,images_per_second\n5,1\n90,1\n", "begin at 0"),
        ("seconds,images_per_second\n0,1\n90,1\n80,1\n", "ordered by time"),
        ("seconds,images_per_second\n0,1\n9,many\n", "line 3: seconds and images_per_second must be numbers"),
        ("seconds,images_per_second\n0,1\n9\n", "line 3: "),
        ("seconds,images_per_second\n0,-1\n9,1\n", "line 2: .* from 0 on"),
        ("seconds,images_per_second\n0,nan\n9,1\n", "line 2: "),
        ("seconds,images_per_second\n", "reach 15 seconds at least"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    """With the line where there is one."""
    file = tmp_path / "day.csv"
    file.write_text(text)

    with pytest.raises(BadDemand, match=message):
        read(file)


def test_a_seed_gives_the_same_arrivals():
    """And another one others."""
    demand = steps((60, 100))

    assert (demand.arrivals(1, 1) == demand.arrivals(1, 1)).all()
    assert (demand.arrivals(1, 1) != demand.arrivals(1, 2)).any()


def test_arrivals_spread_as_poisson_has_it():
    """Their variance equals their mean."""
    arrivals = steps((2000, 100)).arrivals(1, 1)

    assert np.var(arrivals) == pytest.approx(arrivals.mean(), rel=0.1)


@pytest.mark.parametrize(
    "demand, seconds, low, high",
    [
        (steps((10, 1), (20, 5)), 30, 1, 5),
        (ramp(100, 2, 8), 100, 2, 8),
        (day(10), 86400, 1, 10),
        (flapping(100, 1, 3, 20), 100, 1, 3),
        (Demand(((0, 2), (5, 4))).scaled(10), 5, 20, 40),
    ],
)
def test_shapes_last_and_reach_as_said(demand, seconds, low, high):
    """Their length, lowest and highest rate."""
    rates = [rate for _, rate in demand.points]

    assert (demand.seconds, min(rates), max(rates)) == (seconds, low, high)


def test_noise_is_around_its_mean():
    """Never negative, and the same for the same seed."""
    demand = noisy(3600, 100, 0.1, seed=1)
    rates = np.array([rate for _, rate in demand.points])

    assert rates.mean() == pytest.approx(100, rel=0.02)
    assert rates.std() == pytest.approx(10, rel=0.1)
    assert demand == noisy(3600, 100, 0.1, seed=1)
