"""The choice among endpoints, by numbers that always fall the same."""

from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

import pytest

from gateway.triton.balancer import pick, usable


@dataclass(eq=False)
class Fake:
    name: str
    seconds: float = 0.01
    outstanding: int = 0
    share: float = 1.0
    is_ejected: bool = False
    ejections: int = 0


def fleet(count, **fields):
    return [Fake(f"triton-{number}", **fields) for number in range(count)]


def simulate(endpoints, calls, interval_seconds, random):
    """Who gets how many calls that come at a steady pace, when each endpoint works on one at a time."""
    given, ends, free_at, now = Counter(), [], Counter(), 0.0
    for number in range(calls):
        now += interval_seconds
        while ends and ends[0][0] <= now:
            heappop(ends)[2].outstanding -= 1
        chosen = pick(endpoints, random)
        chosen.outstanding += 1
        given[chosen.name] += 1
        free_at[chosen.name] = max(now, free_at[chosen.name]) + chosen.seconds
        heappush(ends, (free_at[chosen.name], number, chosen))
    return given


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("load", [0.1, 0.6, 0.95])
def test_equal_endpoints_get_equal_shares(count, load):
    """Within a twentieth, at any load."""
    given = simulate(fleet(count), 8000, 0.01 / count / load, Random(7))
    assert max(given.values()) < 1.05 * 8000 / count
    assert min(given.values()) > 0.95 * 8000 / count


def test_a_slow_endpoint_gets_less():
    """By nothing but the work that it still has: one that is four times as slow gets about what it can do."""
    endpoints = fleet(4)
    endpoints[0].seconds *= 4
    given = simulate(endpoints, 8000, 0.01 / 3.25 / 0.95, Random(7))
    assert given["triton-0"] < 0.5 * min(given[f"triton-{number}"] for number in (1, 2, 3))
    assert max(each.outstanding for each in endpoints) < 30


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_one_that_warms_up_gets_its_share_of_a_share(share):
    """And the others the rest, evenly."""
    endpoints = fleet(4)
    endpoints[0].share = share
    random = Random(7)
    given = Counter(pick(endpoints, random).name for _ in range(20_000))
    assert 0.8 * share / 4 < given["triton-0"] / 20_000 < 1.1 * share / 4
    assert max(given.values()) < 1.1 * min(given[f"triton-{number}"] for number in (1, 2, 3))


def test_when_all_warm_up_all_are_asked():
    """Somebody must be."""
    random = Random(7)
    given = Counter(pick(fleet(3, share=0.0), random).name for _ in range(3000))
    assert min(given.values()) > 900


@pytest.mark.parametrize(
    "ejected, used",
    [
        ([], "0123"),
        ([0], "123"),
        ([0, 1], "23"),
        ([0, 1, 2], "32"),
        ([0, 1, 2, 3], "32"),
    ],
)
def test_never_more_than_half_is_out(ejected, used):
    """Of those that would be, the best are used anyway: the fewest ejections first."""
    endpoints = fleet(4)
    for number in ejected:
        endpoints[number].is_ejected = True
        endpoints[number].ejections = 4 - number
    assert "".join(each.name[-1] for each in usable(endpoints)) == used


def test_the_only_endpoint_is_used_however_it_does():
    """And without endpoints there is nothing to use."""
    (alone,) = fleet(1, is_ejected=True)
    assert usable([alone]) == [alone]
    assert usable([]) == []
