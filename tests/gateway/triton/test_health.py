"""What is made of an endpoint's answers, by a clock that is moved by hand."""

from random import Random

import pytest

from gateway.triton.health import Health, State
from tests.gateway.triton.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    """One that has served for a while, at 20 ms an inference."""
    health = Health(clock, Random(7))
    health.ready()
    for _ in range(20):
        infer(health)
    clock.advance(10)
    assert health.state is State.SERVING
    return health


def infer(health, seconds=0.02):
    health.began()
    health.answered(seconds)
    health.ended()


def fail(health, times):
    return [health.failed("no memory") for _ in range(times)][-1]


def seconds_away(health, clock):
    """How long it stays ejected, asked in steps of 50 ms."""
    start = clock.now
    while health.is_ejected:
        clock.advance(0.05)
        health.ready()
    return clock.now - start


def test_a_new_endpoint_warms_up_first(clock):
    """A tenth at first, all after 3 s."""
    health = Health(clock)
    assert health.state is State.CONNECTING
    assert health.ready()
    shares = []
    for _ in range(5):
        shares.append(round(health.share, 2))
        clock.advance(0.75)
    assert shares == [0.1, 0.25, 0.5, 0.75, 1.0]
    assert health.state is State.SERVING
    assert not health.ready()


def test_until_the_first_answer_there_is_one_call(clock):
    """What loads its kernels with the first batch must not hold a queue of requests meanwhile."""
    health = Health(clock)
    health.ready()
    clock.advance(10)
    health.began()
    assert health.share == 0
    health.answered(2.0)
    assert health.share == 1


def test_errors_in_a_row_eject(health):
    """Three, as one may be the request's fault; an answer in between begins a new row."""
    assert not fail(health, 2)
    infer(health)
    assert not fail(health, 2)
    assert health.failed("no memory")
    assert health.state is State.EJECTED
    assert health.reason == "3 errors in a row, the last: no memory"


def test_ejections_grow_and_end(health, clock):
    """1 s, 2 s, 4 s ... 30 s, each give or take a fifth; then it warms up again."""
    for wanted in (1, 2, 4, 8, 16, 30, 30):
        fail(health, 3)
        assert 0.8 * wanted <= seconds_away(health, clock) <= 1.2 * wanted + 0.1
        assert health.state is State.WARMING
    clock.advance(61)
    fail(health, 3)
    assert seconds_away(health, clock) <= 1.3


def test_one_that_breaks_with_each_call_is_ejected_in_the_end(health):
    """Although each probe in between finds it well."""
    for _ in range(2):
        health.lost("the connection broke")
        assert not health.failed("connection reset")
        health.ready()
    health.lost("the connection broke")
    assert health.failed("connection reset")


def test_a_stall_is_measured_against_the_usual(clock):
    """Waiting calls and no answer for 1 s, or for as long as it should take at the very most if that is longer."""
    for usual, silence in ((0.02, 1.0), (2.0, 4.0)):
        health = Health(clock)
        health.ready()
        for _ in range(100):
            infer(health, usual)
        health.began()
        clock.advance(silence - 0.01)
        assert not health.stalls()
        clock.advance(0.02)
        assert health.stalls()
        assert (health.state, health.is_stalled) == (State.EJECTED, True)
        assert not health.stalls()


def test_one_that_goes_on_answering_does_not_stall(health, clock):
    """However long its queue is; and one without calls has nothing to answer."""
    clock.advance(100)
    assert not health.stalls()
    for _ in range(50):
        health.began()
    for _ in range(30):
        clock.advance(0.9)
        assert not health.stalls()
        health.answered(0.9)
        health.ended()


def test_before_the_first_answer_more_patience_is_due(clock):
    """3 s: nothing is known of it, and the first inference takes longest."""
    health = Health(clock)
    health.ready()
    health.began()
    clock.advance(2.9)
    assert not health.stalls()
    clock.advance(0.2)
    assert health.stalls()


def test_a_stall_ends_with_an_answer(health, clock):
    """Thawed, it comes back when the time of its ejection is over."""
    health.began()
    clock.advance(1.1)
    assert health.stalls()
    health.answered(1.2)
    health.ended()
    assert not health.is_stalled
    assert seconds_away(health, clock) <= 1.3


def test_callers_without_patience_eject_nobody(health):
    """A call that is given up sooner than it can be answered says nothing; one that had time says a lot."""
    assert not any(health.timed_out(0.005) for _ in range(10))
    assert [health.timed_out(0.5) for _ in range(3)] == [False, False, True]


def test_a_long_queue_is_no_fault(health, clock):
    """Calls that are given up in it say nothing while others are answered."""
    for _ in range(20):
        clock.advance(0.3)
        infer(health)
        assert not health.timed_out(0.5)


def test_one_without_calls_has_nothing_to_give_back(health):
    """Should it not answer a probe, it is lost, and begins anew when it does."""
    health.lost("no answer to a probe", is_stalled=True)
    assert not health.is_stalled


def test_one_that_stops_is_not_lost(health):
    """It answers, and finishes what it has; then it is gone, and comes back as a new one."""
    assert health.unready("it is stopping")
    assert health.state is State.UNREADY
    assert not health.unready("it is stopping")
    assert health.lost("connection refused")
    assert health.state is State.LOST
    assert health.latency_seconds is None
    assert health.ready()
    assert health.state is State.WARMING


def test_one_that_is_taken_off_the_list_drains(health):
    """And serves again should it be put back."""
    health.is_draining = True
    assert (health.state, health.is_serving) == (State.DRAINING, False)
    health.is_draining = False
    assert (health.state, health.is_serving) == (State.SERVING, True)
