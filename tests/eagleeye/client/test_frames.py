"""What a stream does next, decided without a network: the test plays the caller, the connection and the clock."""

import pytest

from eagleeye.client.attempts import RetryPolicy
from eagleeye.client.errors import InvalidResponse, Refused, TimedOut, Unreachable
from eagleeye.client.frames import WINDOW, Connect, Finished, Frames, Pause
from eagleeye.client.results import Frame
from eagleeye.client.rpc import StreamAnswer
from tests.eagleeye.client.test_attempts import BROKEN, Clock


class Play:
    """One stream; frames are the letters of a text."""

    def __init__(self, *, latest=False, max_attempts=3):
        self.clock = Clock()
        policy = RetryPolicy(max_attempts, self.clock, uniform=lambda _, bound: bound)
        self.frames = Frames(latest=latest, timeout_seconds=10, policy=policy)

    def offer(self, letters):
        for letter in letters:
            self.frames.offer(letter.encode())
        return self

    def connect(self):
        assert isinstance(self.frames.step(), Connect)
        self.frames.connected()
        return self

    def send(self):
        """Everything that may be sent, as text."""
        sent = iter(self.frames.next_to_send, None)
        return "".join(pending.image.decode() for pending in sent)

    def answer(self, *indices):
        for index in indices:
            self.frames.answered(StreamAnswer(str(index), object(), None))
        return self

    def taken(self):
        """(index, dropped) of the answers that are ready."""
        found = []
        while self.frames._ready:
            frame = self.frames.step()
            found.append((frame.index, frame.dropped))
        return found


def test_nothing_is_done_before_there_is_a_frame():
    """Not even a connection."""
    assert Play().frames.step() == Pause(None)


def test_a_stream_without_frames_is_finished():
    """And never connects."""
    play = Play()
    play.frames.end()
    assert isinstance(play.frames.step(), Finished)


def test_frames_are_sent_and_answered_in_order():
    """From the first to the last."""
    play = Play().offer("abc").connect()
    assert play.send() == "abc"
    play.frames.end()
    assert play.frames.is_all_sent
    assert play.answer(0, 1, 2).taken() == [(0, 0), (1, 0), (2, 0)]
    assert isinstance(play.frames.step(), Finished)


def test_a_frame_s_error_is_its_answer():
    """The stream goes on."""
    play = Play().offer("ab").connect()
    play.send()
    error = Refused("no", code="invalid_image")
    play.frames.answered(StreamAnswer("0", None, error))
    frame = play.frames.step()
    assert isinstance(frame, Frame)
    assert (frame.index, frame.detections, frame.error, frame.dropped) == (0, None, error, 0)
    assert play.answer(1).taken() == [(1, 0)]


def test_unanswered_frames_are_bounded():
    """Sent or not, or answered and not taken: a slow caller holds its own frames up."""
    play = Play().offer("a" * WINDOW).connect()
    assert not play.frames.wants_frame
    assert len(play.send()) == WINDOW
    assert not play.frames.wants_frame
    play.answer(0)
    assert not play.frames.wants_frame
    play.taken()
    assert play.frames.wants_frame


def test_the_window_bounds_what_is_sent():
    """One more for each answer."""
    play = Play(latest=True)
    sent = ""
    for letter in "abcdefghijkl":
        sent += play.offer(letter).send()
    assert sent == "abcdefgh"
    play.answer(0)
    assert play.taken() == [(0, 0)]
    assert play.send() == "l"


def test_the_latest_replaces_what_waits():
    """Frames that were not sent are dropped, and the next answer says how many."""
    play = Play(latest=True).offer("abcd").connect()
    assert play.frames.wants_frame
    assert play.send() == "d"
    assert play.answer(3).taken() == [(3, 3)]


def test_frames_that_the_gateway_replaced_are_counted():
    """It answers a later one: those before it will have no answer."""
    play = Play(latest=True)
    for letter in "abcd":
        play.offer(letter).send()
    assert play.answer(0, 3).taken() == [(0, 0), (3, 2)]
    play.frames.end()
    assert isinstance(play.frames.step(), Finished)


def test_the_latest_is_held_back_for_a_caller_that_is_slow_to_take_answers():
    """It would be old by the time that it is taken."""
    play = Play(latest=True).offer("a").connect()
    play.send()
    play.answer(0).offer("b")
    assert play.send() == ""
    play.offer("c")
    assert play.taken() == [(0, 0)]
    assert play.send() == "c"


@pytest.mark.parametrize("answered", ["1", "7", "x", ""])
def test_an_answer_out_of_order_ends_the_stream(answered):
    """Boxes of another frame would be worse than none."""
    play = Play().offer("ab").connect()
    play.send()
    play.frames.answered(StreamAnswer(answered, object(), None))
    with pytest.raises(InvalidResponse, match="which it was not asked"):
        play.frames.step()


def test_an_answer_that_comes_twice_ends_the_stream():
    """Also among the latest."""
    play = Play(latest=True).offer("a").connect()
    play.send()
    play.answer(0, 0)
    play.taken()
    with pytest.raises(InvalidResponse):
        play.frames.step()


def test_after_a_break_the_unanswered_are_sent_again_in_order():
    """Those that were answered are not."""
    play = Play().offer("abcd").connect()
    play.send()
    play.answer(0).frames.broke(BROKEN)
    play.offer("e")
    assert play.taken() == [(0, 0)]
    assert play.frames.step() == Pause(pytest.approx(0.2))
    play.clock.seconds += 0.2
    assert play.connect().send() == "bcde"
    assert play.answer(1, 2, 3, 4).taken() == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_after_a_break_only_the_latest_is_sent_again():
    """The others are old by now, and count as dropped."""
    play = Play(latest=True)
    for letter in "abc":
        play.offer(letter).send()
    play.frames.broke(BROKEN)
    play.clock.seconds += 1
    assert play.connect().send() == "c"
    assert play.answer(2).taken() == [(2, 2)]


def test_attempts_are_counted_from_the_last_answer():
    """A stream that makes progress may break any number of times."""
    play = Play(max_attempts=2).offer("abcdef").connect()
    for index in range(5):
        play.send()
        play.answer(index).frames.broke(BROKEN)
        play.taken()
        play.clock.seconds += 1
        play.connect()
    play.frames.broke(BROKEN)
    play.clock.seconds += 1
    with pytest.raises(Unreachable):
        play.frames.step()


def test_what_would_fail_again_ends_the_stream():
    """After the answers that are there."""
    play = Play().offer("ab").connect()
    play.send()
    play.answer(0).frames.broke(Refused("no", code="unauthorized"))
    assert play.taken() == [(0, 0)]
    with pytest.raises(Refused):
        play.frames.step()


def test_an_idle_stream_that_breaks_connects_with_the_next_frame():
    """Not before: nobody waits."""
    play = Play().offer("a").connect()
    play.send()
    play.answer(0).taken()
    play.frames.broke(BROKEN)
    assert play.frames.step() == Pause(None)
    assert play.offer("b").connect().send() == "b"


def test_an_idle_stream_that_is_refused_ends():
    """Its key was taken away: the next frame would fail as well."""
    play = Play().offer("a").connect()
    play.send()
    play.answer(0).taken()
    play.frames.broke(Refused("no", code="unauthorized"))
    with pytest.raises(Refused):
        play.frames.step()


def test_how_a_call_ends_does_not_matter_when_all_is_answered():
    """The caller has everything."""
    play = Play().offer("a").connect()
    play.send()
    play.frames.end()
    play.answer(0).frames.broke(Refused("no", code="internal"))
    assert play.taken() == [(0, 0)]
    assert isinstance(play.frames.step(), Finished)


def test_a_silent_stream_times_out():
    """Counted from the first frame that is unanswered, or the last answer."""
    play = Play().offer("ab").connect()
    play.send()
    play.clock.seconds += 9
    assert play.frames.step() == Pause(pytest.approx(1))
    play.answer(0).taken()
    play.clock.seconds += 9
    assert play.frames.step() == Pause(pytest.approx(1))
    play.clock.seconds += 1
    with pytest.raises(TimedOut, match="has not answered for 10 s"):
        play.frames.step()


def test_an_idle_stream_never_times_out():
    """Cameras may pause."""
    play = Play().offer("a").connect()
    play.send()
    play.answer(0).taken()
    play.clock.seconds += 1000
    assert play.frames.step() == Pause(None)
    play.offer("b")
    assert play.frames.step() == Pause(10)


def test_time_that_the_caller_spends_elsewhere_does_not_count():
    """The connection broke while nobody looked: there is time to mend it."""
    play = Play().offer("ab").connect()
    play.send()
    play.answer(0).frames.broke(BROKEN)
    play.taken()
    play.clock.seconds += 1000
    play.frames.resumed()
    assert play.connect().send() == "b"


def test_time_runs_on_while_there_is_no_connection():
    """Attempts do not win more of it."""
    play = Play(max_attempts=100).offer("a").connect()
    play.clock.seconds += 9.5
    play.frames.broke(BROKEN)
    play.clock.seconds += 0.2
    play.connect().frames.broke(BROKEN)
    with pytest.raises(Unreachable):
        play.frames.step()


def test_what_the_caller_s_frames_raise_comes_after_the_answers_before_it():
    """As if the frames had come one by one."""
    play = Play().offer("a").connect()
    play.send()
    play.frames.end(KeyError("camera"))
    assert isinstance(play.frames.step(), Pause)
    assert play.answer(0).taken() == [(0, 0)]
    with pytest.raises(KeyError, match="camera"):
        play.frames.step()
