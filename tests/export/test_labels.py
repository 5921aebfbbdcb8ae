"""The labels file."""

import pytest

from export.errors import OptionError
from export.labels import read_labels


@pytest.mark.parametrize(
    "content, labels",
    [
        ("open\nshort\n", ("open", "short")),
        ("one", ("one",)),
        ("  hair drier \r\ntoothbrush\r\n\r\n\n", ("hair drier", "toothbrush")),
        ("\ufeffMäuse\n電線\n", ("Mäuse", "電線")),
    ],
    ids=["plain", "without final newline", "Windows line ends and blank end", "UTF-8 with byte order mark"],
)
def test_labels_in_order(tmp_path, content, labels):
    """One label per line; what surrounds a label, and blank lines at the end, do not count."""
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode())

    assert read_labels(path) == labels


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "no readable label in line 1"),
        (b"\n \n", "no readable label in line 1"),
        (b"open\n\nshort\n", "no readable label in line 2"),
        (b"open\nshort\nopen\n", "'open' twice, in lines 1 and 3"),
        (b"open\nsho\x00rt\n", "no readable label in line 2"),
        (b"\xff\xd8\xff\xe0", "not UTF-8"),
    ],
    ids=["empty", "blank", "gap", "duplicate", "control character", "binary"],
)
def test_bad_labels_are_refused(tmp_path, content, complaint):
    """What cannot be a list of labels is refused, with its line."""
    path = tmp_path / "labels.txt"
    path.write_bytes(content)

    with pytest.raises(OptionError, match=complaint):
        read_labels(path)


def test_missing_labels_file(tmp_path):
    """A missing file is named."""
    with pytest.raises(OptionError, match=r"cannot read the labels file .*nothing\.txt: No such file"):
        read_labels(tmp_path / "nothing.txt")
