"""The clock on the event loop, on the loop of a test."""

import asyncio
import functools
import gc
import time

import pytest

from loadtest.bench.watched_gateway import Watch, name


@pytest.fixture
def watch():
    """One whose clock is on, but that doesn't count yet."""
    watch = Watch()
    with watch.installed():
        yield watch


async def called(callback):
    """Let the loop call it, and wait until it has."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(callback)
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


def work(seconds=0.005):
    """Use the processor for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def wait():
    """Hold up the loop without using the processor."""
    time.sleep(0.05)


def collect():
    """Let the garbage collector find a cycle."""
    cycle = []
    cycle.append(cycle)
    del cycle
    gc.collect()


async def test_the_longest_is_told_by_name(watch):
    """By processor time, which is part of the time on the wall; it is one of the calls above 2 ms."""
    watch.begin()
    await called(work)
    found = watch.end()

    longest = found["longest"][0]
    assert longest["what"] == "work"
    assert 5 <= longest["cpu_ms"] == found["cpu_ms"]["longest"]
    assert longest["cpu_ms"] <= longest["wall_ms"]
    assert found["cpu_ms"]["long_share"] * found["calls"] >= 1


async def test_waiting_is_no_processor_time(watch):
    """It is in the time on the wall."""
    watch.begin()
    await called(wait)
    found = watch.end()

    (waited,) = [call for call in found["longest"] if call["what"] == "wait"]
    assert waited["cpu_ms"] < 50 <= waited["wall_ms"] <= found["wall_ms"]["longest"]


async def test_garbage_collection_is_part_of_the_call_that_it_hits(watch):
    """And told apart."""
    watch.begin()
    await called(collect)
    found = watch.end()

    (collected,) = [call for call in found["longest"] if call["what"] == "collect"]
    assert 0 < collected["gc_ms"] <= collected["cpu_ms"]


async def test_what_comes_before_and_after_does_not_count(watch):
    """The start of a gateway, and loads that only warm it up."""
    await called(work)
    watch.begin()
    await called(collect)
    found = watch.end()
    await called(work)

    assert "work" not in {call["what"] for call in found["longest"]}
    assert watch.end()["calls"] == 0


async def test_few_are_remembered(watch):
    """Of many calls those that took most, the longest first."""
    watch.begin()
    for _ in range(50):
        await called(time.thread_time)
    found = watch.end()

    taken = [call["cpu_ms"] for call in found["longest"]]
    assert found["calls"] >= 100
    assert taken == sorted(taken, reverse=True)
    assert len(taken) == 5


def test_the_clock_is_taken_off():
    """The loops that come after run as ever."""
    run = asyncio.Handle._run

    with Watch().installed():
        assert asyncio.Handle._run is not run

    assert asyncio.Handle._run is run


class Server:
    async def serve(self, event):
        await self.step(event)

    async def step(self, event):
        await event.wait()

    def close(self):
        """Is called back."""


@pytest.mark.parametrize(
    "callback, called_so",
    [
        (work, "work"),
        (functools.partial(functools.partial(work), 1), "work"),
        (Server().close, "Server.close"),
        (Server(), "Server"),
        (print, "print"),
    ],
    ids=["function", "partial", "method", "object", "builtin"],
)
def test_a_callback_has_its_own_name(callback, called_so):
    """That of the function in the end."""
    assert name(callback) == called_so


async def test_a_task_has_the_name_of_its_coroutine(watch):
    """And of where its step ended, unless that was its end."""
    event = asyncio.Event()
    watch.begin()
    task = asyncio.create_task(Server().serve(event))
    await asyncio.sleep(0)
    event.set()
    await task
    names = [call["what"] for call in watch.end()["longest"]]

    assert {"Server.serve, up to Event.wait", "Server.serve"} <= set(names)
