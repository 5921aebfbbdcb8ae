"""Which frame of a stream is next: pure decisions, without a loop and without a face."""

import random

import pytest

from gateway.errors import InvalidParameter
from gateway.sequences import MAX_SEQUENCES, WINDOW, Frame, Sequences

SIZE = 10


@pytest.fixture
def sequences():
    return Sequences(max_bytes=1000 * SIZE)


def ordered(sequence=0):
    return Frame(sequence=sequence, is_replaceable=False, size_bytes=SIZE)


def latest(sequence=0):
    return Frame(sequence=sequence, is_replaceable=True, size_bytes=SIZE)


def read(sequences, *frames):
    """Take frames in as a stream's reader does, and return those that were begun."""
    begun = []
    for frame in frames:
        assert sequences.may_read
        sequences.add(frame)
        begun += begin(sequences)
    return begun


def begin(sequences):
    return list(iter(sequences.begin, None))


def send(sequences):
    """What goes out until nothing more is ready."""
    sent = []
    while answered := sequences.answer():
        sequences.handed_over()
        sent.append(answered)
    return sent


def is_empty(sequences):
    return not any((sequences._waiting, sequences._begun, sequences._answers, sequences._bytes))


def test_ordered_frames_are_begun_up_to_the_window(sequences):
    """One more is taken in, and waits; then nothing is read until there is a place."""
    frames = [ordered() for _ in range(WINDOW + 1)]
    assert read(sequences, *frames) == frames[:WINDOW]
    assert not sequences.may_read
    sequences.finish(frames[0])
    assert begin(sequences) == [], "an answer that is not handed over keeps its place"
    assert send(sequences) == [frames[0]]
    assert begin(sequences) == [frames[WINDOW]]
    assert sequences.may_read


def test_answers_of_a_sequence_keep_its_order(sequences):
    """However the work ends."""
    frames = read(sequences, *(ordered() for _ in range(WINDOW)))
    for frame in reversed(frames[1:]):
        sequences.finish(frame)
        assert send(sequences) == []
    sequences.finish(frames[0])
    assert send(sequences) == frames


def test_sequences_do_not_wait_for_each_other(sequences):
    """Neither for the work nor for the answer."""
    slow, fast = read(sequences, ordered("slow"), ordered("fast"))
    sequences.finish(fast)
    assert send(sequences) == [fast]
    sequences.finish(slow)
    assert send(sequences) == [slow]


def test_answers_that_are_ready_take_turns(sequences):
    """A sequence that always has one ready does not hold the others back."""
    first, second, other = read(sequences, ordered("busy"), ordered("busy"), ordered("other"))
    for frame in (first, second, other):
        sequences.finish(frame)
    assert send(sequences) == [first, other, second]


def test_a_waiting_frame_is_replaced_by_a_newer_one(sequences):
    """The newest is begun when the one in work is answered, and knows how many it stands for."""
    frames = [latest() for _ in range(5)]
    assert read(sequences, *frames) == frames[:1]
    sequences.finish(frames[0])
    assert begin(sequences) == [], "the answer is not handed over yet"
    assert send(sequences) == frames[:1]
    assert begin(sequences) == frames[-1:]
    assert [frames[0].dropped, frames[-1].dropped] == [0, 3]


def test_each_sequence_has_its_own_waiting_frame(sequences):
    """A frame replaces none of another camera."""
    read(sequences, latest("a"), latest("b"))
    waiting = [latest("a"), latest("b")]
    assert read(sequences, *waiting) == []
    assert [frame.dropped for frame in waiting] == [0, 0]


def test_sequences_take_turns(sequences):
    """A camera that sends more often does not come more often: a newer frame has the turn of the one it replaces."""
    in_work = read(sequences, *(latest(index) for index in range(WINDOW)))
    newest, other = latest("fast"), latest("slow")
    assert read(sequences, latest("fast"), other, newest) == []
    for frame, next_one in zip(in_work, (newest, other), strict=False):
        sequences.finish(frame)
        send(sequences)
        assert begin(sequences) == [next_one]


def test_a_frame_that_waits_for_its_sequence_holds_no_other_up(sequences):
    """While a sequence has one in work, its waiting frame is passed over."""
    read(sequences, latest("a"))
    other = latest("b")
    assert read(sequences, latest("a"), other) == [other]


def test_from_latest_to_ordered(sequences):
    """The waiting frame could be replaced, and is; the ordered one is begun beside the one in work."""
    first, last = latest(), ordered()
    assert read(sequences, first, latest(), last) == [first, last]
    assert last.dropped == 1
    sequences.finish(last)
    assert send(sequences) == []
    sequences.finish(first)
    assert send(sequences) == [first, last]


def test_from_ordered_to_latest(sequences):
    """The latest one waits until every ordered one is answered."""
    last = latest()
    begun = read(sequences, ordered(), ordered(), last)
    for frame in begun:
        assert begin(sequences) == []
        sequences.finish(frame)
        assert send(sequences) == [frame]
    assert (len(begun), begin(sequences)) == (2, [last])


def test_too_many_sequences_are_refused(sequences):
    """Those that are known may go on, and a place comes free with an answer."""
    first, *_ = read(sequences, *(latest(index) for index in range(MAX_SEQUENCES)))
    with pytest.raises(InvalidParameter, match=f"frames of {MAX_SEQUENCES} sequences"):
        sequences.add(latest("one more"))
    read(sequences, latest(MAX_SEQUENCES - 1))
    sequences.finish(first)
    send(sequences)
    read(sequences, latest("one more"))


def test_ids_that_change_for_ever_leave_nothing(sequences):
    """A sequence without frames is forgotten."""
    for index in range(1000):
        (frame,) = read(sequences, (latest if index % 2 else ordered)(index))
        sequences.finish(frame)
        assert send(sequences) == [frame]
        assert is_empty(sequences)


def test_large_frames_stop_the_reading():
    """Frames that could be replaced, too, once they take too much; those that are gone take nothing."""
    sequences = Sequences(max_bytes=3 * SIZE)
    first, _ = read(sequences, latest("a"), latest("a"), latest("a"), latest("b"))
    assert not sequences.may_read
    sequences.finish(first)
    send(sequences)
    assert sequences.may_read


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_whatever_happens(sequences, seed):
    """Random frames and answers: ordered frames are answered in order, and the others are answered or counted."""
    chance = random.Random(seed)
    arrived, answered, in_work = [], [], []
    for step in range(2000):
        if step < 1000 and sequences.may_read and chance.random() < 0.6:
            arrived.append(chance.choice((latest, ordered))(chance.randrange(5)))
            in_work += read(sequences, arrived[-1])
        if in_work and chance.random() < 0.6:
            sequences.finish(in_work.pop(chance.randrange(len(in_work))))
        if chance.random() < 0.6:
            answered += send(sequences)
            in_work += begin(sequences)
        assert len(in_work) <= WINDOW
    assert is_empty(sequences)
    for sequence in range(5):
        came = [frame for frame in arrived if frame.sequence == sequence]
        went = [frame for frame in answered if frame.sequence == sequence]
        places = [came.index(frame) for frame in went]
        gaps = [place - before - 1 for before, place in zip([-1, *places], places, strict=False)]
        assert [frame.dropped for frame in went] == gaps
        assert all(frame.is_replaceable or frame in went for frame in came)
        assert went[-1] is came[-1]
