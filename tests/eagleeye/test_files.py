"""Files that are whole or not there."""

import pytest

from eagleeye.files import replacing, write_atomically


def test_a_file_is_replaced(tmp_path):
    """And nothing is left beside it."""
    path = tmp_path / "a"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finished_changes_nothing(tmp_path):
    """The old file stays until the new one is whole."""
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_wanted(tmp_path):
    """Not the one that stands in for it."""
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "missing" / "a", b"")
    assert caught.value.filename == str(tmp_path / "missing" / "a")
