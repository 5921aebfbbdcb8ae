"""A few at a time, in order, with the loop's other work in between."""

import asyncio

from gateway.turnstile import Turnstile


async def test_a_crowd_passes_a_few_at_a_time_in_order():
    """Between two groups of a crowd the event loop does what else is due."""
    turnstile, passed, groups = Turnstile(4), [], []

    async def person(number):
        await turnstile.turn()
        passed.append(number)

    crowd = [asyncio.ensure_future(person(number)) for number in range(10)]
    while len(passed) < len(crowd):
        before = len(passed)
        await asyncio.sleep(0)
        groups.append(len(passed) - before)
    assert passed == list(range(10))
    assert max(groups) == 4
    assert sum(groups) == 10


async def test_nobody_waits_where_nobody_is():
    """One who comes alone passes without giving the loop away, round after round."""
    turnstile = Turnstile(1)
    for _ in range(3):
        turn = turnstile.turn()
        assert next(iter(turn.__await__()), "passed") == "passed"
        await asyncio.sleep(0)


async def test_who_leaves_the_line_does_not_use_up_a_turn():
    """A caller that is gone lets the next one pass in its round, and blocks nobody."""
    turnstile = Turnstile(1)
    people = [asyncio.ensure_future(turnstile.turn()) for _ in range(4)]
    await asyncio.sleep(0)
    people[1].cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(*people, return_exceptions=True)
    assert [person.cancelled() for person in people] == [False, True, False, False]
    await turnstile.turn()
