"""Which tunings are tried, and how the best is found."""

import pytest

from export.tuning import Tuning
from loadtest.profile import Step
from loadtest.tune.search import CALLERS, Grid, Trial, candidates, climb, halve, limited, winner

CURRENT = Tuning(instances=2)


def grid(grid=None, current=CURRENT, *, processors=2, max_batch_size=16, on_cpu=True):
    return candidates(grid or Grid(), current, processors=processors, max_batch_size=max_batch_size, on_cpu=on_cpu)


@pytest.mark.parametrize("processors", [1, 2, 3, 8])
def test_no_more_threads_compute_than_there_are_processors(processors):
    """Whatever they are spread over; all processors are used by some candidate."""
    places = [(tuning.instances, tuning.threads or 1) for tuning in grid(processors=processors)[1:]]

    assert all(instances * threads <= processors for instances, threads in places)
    assert processors in {threads for _, threads in places}


def test_the_current_tuning_is_first_and_once():
    """Also where the grid has it in other words."""
    found = grid()

    assert found[0] == CURRENT
    assert Tuning(2, threads=1) not in found
    assert len(set(found)) == len(found) == 6


def test_on_gpus_batches_may_wait():
    """Threads of the processor do not matter there; without a delay no size is preferred."""
    found = grid(on_cpu=False)

    assert {tuning.threads for tuning in found} == {None}
    assert {tuning.preferred_batch_sizes for tuning in found} == {(), (8,), (16,)}
    assert all(tuning.queue_delay_microseconds for tuning in found if tuning.preferred_batch_sizes)
    assert len(found) == 21


def test_given_values_are_tried_and_no_others():
    """Sizes above the largest batch are left out."""
    values = Grid(instances=(1, 4), queue_delays_microseconds=(100,), preferred_batch_sizes=((), (2, 64)), threads=(1,))

    assert grid(values, processors=4)[1:] == [
        Tuning(1, 100, (), 1),
        Tuning(1, 100, (2,), 1),
        Tuning(4, 100, (), 1),
        Tuning(4, 100, (2,), 1),
    ]


async def ladder(rates, p99s, limit=250):
    steps = {callers: Step(callers, rate, p99) for callers, rate, p99 in zip(CALLERS, rates, p99s, strict=False)}

    async def measure(callers):
        return steps[callers]

    return [step.callers for step in await climb(measure, limit)]


async def test_the_ladder_ends_where_the_limit_breaks():
    """That step is measured, and none after it."""
    assert await ladder([10, 20, 30, 40], [50, 100, 300, 400]) == [2, 4, 8]


async def test_the_ladder_ends_where_nothing_is_gained():
    """Two steps in a row: one may be bad luck."""
    assert await ladder([10, 20, 20.1, 40, 40, 40.5, 90], [1] * 7) == [2, 4, 8, 16, 32, 64]
    assert await ladder([10, 20, 20.1, 20.2, 90], [1] * 5) == [2, 4, 8, 16]


def trial(tuning, rate, p99_ms=100.0, seconds=1.0):
    steps = (Step(2, rate, p99_ms),)
    return Trial(tuning, seconds, steps, limited(steps, 250))


async def search(rates):
    asked = []

    async def measure(tuning, seconds):
        asked.append((tuning.instances, seconds))
        return trial(tuning, rates[tuning.instances], seconds=seconds)

    rounds = await halve([Tuning(instances) for instances in rates], measure, 1.0)
    return rounds, asked


async def test_the_better_half_gets_twice_the_time():
    """The first, which is served now, goes on whatever it reaches."""
    rounds, asked = await search({1: 5, 2: 20, 3: 10, 4: 40, 5: 30, 6: 15})

    assert [sorted(n for n, s in asked if s == seconds) for seconds in (1, 2, 4)] == [
        [1, 2, 3, 4, 5, 6],
        [1, 4, 5],
        [1, 4],
    ]
    assert [trial.tuning.instances for trial in rounds[-1]] == [4, 1]
    assert winner(rounds, Tuning(1)).tuning == Tuning(4)


async def test_one_tuning_is_measured_once():
    """There is nothing to halve."""
    rounds, asked = await search({1: 5})

    assert (len(rounds), asked) == (1, [(1, 1.0)])


async def test_noise_changes_nothing():
    """2 % more are not better; 5 % are."""
    for rate, instances in ((102, 1), (105, 2)):
        rounds, _ = await search({1: 100, 2: rate})
        assert winner(rounds, Tuning(1)).tuning == Tuning(instances)


def test_who_breaks_the_limit_does_not_win():
    """However fast it is; and where all do, nobody does, though the nearest goes on."""
    late, slow = trial(Tuning(1), 500, 300.0), trial(Tuning(2), 10)
    ranked = sorted([late, slow, trial(Tuning(3), 500, 280.0)], key=lambda each: each.rank, reverse=True)

    assert [each.tuning.instances for each in ranked] == [2, 3, 1]
    assert winner([ranked], Tuning(1)).tuning == Tuning(2)
    assert winner([[late]], Tuning(1)) is None


def test_a_current_tuning_that_breaks_the_limit_is_replaced():
    """By whatever keeps it, even if it is slower."""
    rounds = [[trial(Tuning(2), 10), trial(Tuning(1), 500, 300.0)]]

    assert winner(rounds, Tuning(1)).tuning == Tuning(2)
