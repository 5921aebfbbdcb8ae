"""When a request is tried again, and when it is given up; the test plays the network and the clock."""

import pytest

from eagleeye.client.attempts import LONGEST_BACKOFF_SECONDS, Exchange, RetryPolicy, Send, Wait, ask
from eagleeye.client.errors import InvalidResponse, Refused, TimedOut, Unreachable

BROKEN = Unreachable("it broke", is_retryable=True)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


class Call:
    """One flow under a deadline of ten seconds, in which every wait is the longest that may be drawn."""

    def __init__(self, max_attempts=8, timeout_seconds=10.0):
        self.clock = Clock()
        policy = RetryPolicy(max_attempts, self.clock, uniform=lambda _, bound: bound)
        exchange = Exchange(lambda seconds: f"left {seconds:g}", self._read)
        self._flow = ask(exchange, policy, policy.deadline(timeout_seconds))
        self.step = next(self._flow)

    @staticmethod
    def _read(reply):
        if isinstance(reply, Exception):
            raise reply
        return reply

    def fail(self, error, after_seconds=0.0):
        """The attempt fails; what the flow wants next."""
        self.clock.seconds += after_seconds
        self.step = self._flow.throw(error)
        return self.step

    def reply(self, reply):
        """The attempt is answered; what the flow wants next."""
        self.step = self._flow.send(reply)
        return self.step

    def wait(self):
        """The time that the flow wants to wait passes."""
        self.clock.seconds += self.step.seconds
        self.step = self._flow.send(None)
        return self.step


def test_an_answer_is_the_flow_s_result():
    """One request, with all the time there is."""
    call = Call()
    assert call.step == Send("left 10", 10)
    with pytest.raises(StopIteration, check=lambda end: end.value == "found"):
        call.reply("found")


def test_the_next_attempt_gets_what_is_left_of_the_time():
    """The deadline is the caller's and not an attempt's."""
    call = Call()
    assert call.fail(BROKEN, after_seconds=3) == Wait(0.2)
    assert call.wait() == Send("left 6.8", pytest.approx(6.8))


def test_waits_double_up_to_a_bound():
    """Full jitter: what is drawn from doubles, and is bounded."""
    call = Call(max_attempts=20, timeout_seconds=1000)
    waits = []
    for _ in range(9):
        waits.append(call.fail(BROKEN).seconds)
        call.wait()
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, *[LONGEST_BACKOFF_SECONDS] * 3])


def test_many_attempts_overflow_nothing():
    """Two to the power of the attempts would be no float any more."""
    assert RetryPolicy(5000).wait_seconds(4000, BROKEN, 1e6) <= LONGEST_BACKOFF_SECONDS


def test_a_wait_is_drawn_between_nothing_and_the_bound():
    """Callers that failed together do not come back together."""
    drawn = []
    RetryPolicy(8, uniform=lambda low, high: drawn.append((low, high)) or 0.0).wait_seconds(3, BROKEN, 100)
    assert drawn == [(0, pytest.approx(0.8))]


def test_a_longer_wait_that_the_gateway_asks_for_is_kept():
    """Retry-After counts, if it is longer than the backoff."""
    assert Call().reply(Refused("busy", is_retryable=True, retry_after_seconds=2)) == Wait(2)
    assert Call().reply(Refused("busy", is_retryable=True, retry_after_seconds=0)) == Wait(0.2)


@pytest.mark.parametrize("error", [BROKEN, Refused("busy", is_retryable=True, retry_after_seconds=7)])
def test_a_wait_that_would_outlive_the_deadline_is_not_begun(error):
    """The error of the last attempt comes at once."""
    call = Call(timeout_seconds=5)
    with pytest.raises(type(error)) as caught:
        call.fail(error, after_seconds=4.9)
    assert caught.value is error


def test_attempts_are_counted():
    """After the last one its error is raised."""
    call = Call(max_attempts=3)
    for _ in range(2):
        call.fail(BROKEN)
        call.wait()
    last = Unreachable("the last one", is_retryable=True)
    with pytest.raises(Unreachable, match="the last one"):
        call.fail(last)


@pytest.mark.parametrize(
    "error",
    [Refused("no", code="invalid_image"), Unreachable("not trusted"), InvalidResponse("hello"), TimedOut("504")],
)
def test_what_would_fail_again_is_not_tried_again(error):
    """One attempt, whether the failure is the transport's or in the answer."""
    with pytest.raises(type(error)):
        Call().fail(error)
    with pytest.raises(type(error)):
        Call().reply(error)


def test_no_answer_in_time_says_how_long_the_caller_waited():
    """The whole time, and not what the last attempt had."""
    call = Call()
    call.fail(BROKEN, after_seconds=8)
    call.wait()
    with pytest.raises(TimedOut, match="did not answer within 10 s") as caught:
        call.fail(TimeoutError(), after_seconds=1.8)
    assert caught.value.code == "deadline_exceeded"
    assert caught.value.__cause__ is BROKEN


def test_an_attempt_is_not_begun_without_time():
    """A pause may have lasted longer than it should."""
    call = Call()
    call.fail(BROKEN)
    call.clock.seconds += 60
    with pytest.raises(TimedOut):
        call.wait()
