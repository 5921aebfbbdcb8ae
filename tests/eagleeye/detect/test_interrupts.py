"""When Ctrl-C has its effect."""

import signal

import pytest

from eagleeye.detect.interrupts import Interrupts


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interrupts():
    with Interrupts() as interrupts:
        yield interrupts


def test_it_interrupts_as_ever(interrupts):
    """Before, between and after blocks that hold it back."""
    with interrupts.held_back():
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_a_block_that_holds_it_back_ends_first(interrupts):
    """Then it has its effect."""
    done = []

    def work():
        with interrupts.held_back():
            interrupt()
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_a_second_one_does_not_wait(interrupts):
    """The block may never end."""
    done = []

    def work():
        with interrupts.held_back():
            interrupt()
            interrupt()
            done.append("nothing")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not done


def test_what_fails_meanwhile_is_told(interrupts):
    """The error of the block, and not the interrupt."""

    def work():
        with interrupts.held_back():
            interrupt()
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        work()


def test_it_leaves_things_as_they_were():
    """Also where SIGINT is ignored, which it goes on to be."""
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts, interrupts.held_back():
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
