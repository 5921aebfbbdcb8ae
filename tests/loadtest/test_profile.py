"""`eagleeye profile`: from times of requests to a threshold."""

import asyncio
import math

import pytest
import yaml

from loadtest.profile import Step, capacity, climb, demand_threshold, patch, quantile
from tests.gateway.virtual_time import run


@pytest.mark.parametrize(
    "seconds, failures, expected",
    [
        ([], 0, math.inf),
        ([0.1], 0, 0.1),
        ([float(number) for number in range(1, 101)], 0, 99.0),
        ([float(number) for number in range(1, 201)], 0, 198.0),
        ([0.1] * 99, 1, 0.1),
        ([0.1] * 98, 2, math.inf),
        ([], 5, math.inf),
    ],
)
def test_the_quantile_counts_failures_as_endless(seconds, failures, expected):
    """One in a hundred may fail; with more there is no time within which 99 % are answered."""
    assert quantile(seconds, failures) == expected


def test_capacity_is_the_highest_rate_in_time():
    """Not that of the last step, and none where even one caller waits too long."""
    steps = [Step(1, 50, 20), Step(2, 90, 40), Step(4, 88, 200), Step(8, 95, 300)]
    assert capacity(steps, 250) == steps[1]
    assert capacity(steps, 10) is None


@pytest.mark.parametrize("callers, tritons, threshold", [(24, 1, 19), (24, 2, 9), (1, 1, 1), (1, 4, 1)])
def test_the_threshold_leaves_a_fifth(callers, tritons, threshold):
    """Of what is under way at capacity, for each Triton; a threshold of 0 is none."""
    assert demand_threshold(Step(callers, 100, 20), tritons) == threshold


def test_the_patch_fits_the_overlay():
    """It tests what it is about to replace, and adds the trigger `rate` at 65 % of what each Triton can do."""
    operations = yaml.safe_load(patch(Step(24, 312.4, 231), 2, 250))
    tested = {each["path"]: each["value"] for each in operations if each["op"] == "test"}
    assert tested == {"/spec/triggers/0/name": "demand", "/spec/triggers/3/name": "gpu-busy"}
    replaced = {each["path"]: each["value"] for each in operations if each["op"] == "replace"}
    assert replaced == {
        "/spec/triggers/0/metadata/threshold": "9",
        "/spec/triggers/3/metadata/threshold": "90",
        "/spec/triggers/4/name": "rate",
        "/spec/triggers/4/metadata/query": "eagleeye:triton_images:rate1m",
        "/spec/triggers/4/metadata/threshold": "101.5",
    }


def test_the_ladder_ends_where_the_objective_breaks():
    """Four places of 10 ms answer 400 images/s; 16 callers wait 40 ms, 24 would wait 60."""

    async def scenario():
        places = asyncio.Semaphore(4)

        async def ask():
            async with places:
                await asyncio.sleep(0.01)
            return True

        return await climb(ask, p99_ms=50, seconds=10)

    steps = run(scenario())
    assert [step.callers for step in steps] == [1, 2, 4, 8, 12, 16, 24]
    assert steps[-2].p99_ms == pytest.approx(40)
    assert steps[-1].p99_ms == pytest.approx(60)
    assert capacity(steps, 50).images_per_second == pytest.approx(400, rel=0.01)


def test_what_fails_is_no_capacity():
    """A gateway that refuses every tenth image keeps no objective, however fast it does."""

    async def scenario():
        asked = 0

        async def ask():
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.001)
            return asked % 10 != 0

        return await climb(ask, p99_ms=50, seconds=1)

    (only,) = run(scenario())
    assert only.p99_ms == math.inf
