"""What a run notes so that another can go on with it."""

import pytest

from eagleeye.detect.journal import Journal, JournalError

SETTINGS = {"model": None, "score_threshold": 0.5}


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".found.run"


def test_a_journal_tells_its_notes(path):
    """By kind, in order, also to the run that goes on."""
    with Journal(path) as journal:
        journal.start({**SETTINGS, "url": "here"})
        for kind, value in [("done", 1), ("row", {"a": 2}), ("done", 3)]:
            journal.note(kind, value)
    with Journal(path) as journal:
        assert journal.begun
        assert journal.go_on(SETTINGS) == {**SETTINGS, "url": "here"}
        assert list(journal.read("done")) == [1, 3]


def test_a_new_run_forgets_the_old_one(path):
    """Its notes are of another output."""
    with Journal(path) as journal:
        journal.start(SETTINGS)
        journal.note("done", 1)
        journal.start(SETTINGS)
        assert list(journal.read("done")) == []


def test_other_settings_are_refused(path):
    """With what was and what is."""
    with Journal(path) as journal:
        journal.start(SETTINGS)
        with pytest.raises(
            JournalError, match=r"other settings: model was not given, now x, score_threshold was 0.5, now 1"
        ):
            journal.go_on({"model": "x", "score_threshold": 1})


def test_a_journal_without_settings_is_refused(path):
    """Nobody knows what the output was asked for with."""
    with Journal(path) as journal:
        assert not journal.begun
        with pytest.raises(JournalError, match="is missing or damaged"):
            journal.go_on(SETTINGS)


def test_a_torn_note_is_lost_alone(path):
    """The next one has a line of its own."""
    with Journal(path) as journal:
        journal.start(SETTINGS)
        journal.note("done", 1)
    path.write_bytes(path.read_bytes() + b'{"done": ')
    with Journal(path) as journal:
        journal.go_on(SETTINGS)
        journal.note("done", 2)
        assert list(journal.read("done")) == [1, 2]


def test_two_runs_cannot_write_one_output(path):
    """The second is told; the first goes on, and a third may come after it."""
    with Journal(path) as journal:
        journal.start(SETTINGS)
        with pytest.raises(JournalError, match="another run is writing it"):
            Journal(path)
        assert journal.begun
    with Journal(path) as journal:
        assert journal.begun
