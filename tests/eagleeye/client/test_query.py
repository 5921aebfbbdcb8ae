"""Wrong arguments are told before anything is sent."""

import numpy as np
import pytest

from eagleeye.client.query import Query, count, read_image, seconds, timeout_ms


def test_nothing_chosen_is_nothing_sent():
    """The gateway has its own defaults."""
    assert Query().parameters() == {}


def test_everything_is_written_as_the_gateway_reads_it():
    """Numbers with all their digits, flags in lower case, classes joined; NumPy's numbers are numbers, too."""
    query = Query(
        model="m",
        version=np.int64(3),
        score_threshold=np.float32(0.1),
        iou_threshold=1,
        max_detections=np.int32(7),
        classes=(name for name in ["cat", 3]),
        agnostic_nms=False,
        clip=True,
        priority="high",
    )
    expected = {
        "score_threshold": "0.10000000149011612",
        "iou_threshold": "1.0",
        "max_detections": "7",
        "classes": "cat,3",
        "agnostic_nms": "false",
        "clip": "true",
        "priority": "high",
    }
    assert [query.parameters(), query.parameters()] == [expected] * 2


def test_classes_may_be_written_as_on_a_command_line():
    """One text is taken as it is."""
    assert Query(classes="cat,dog").parameters() == {"classes": "cat,dog"}


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"model": 3}, TypeError, "model must be a name, not 3"),
        ({"model": ""}, ValueError, "model is empty"),
        ({"version": 1.0}, TypeError, "version must be a whole number"),
        ({"version": True}, TypeError, "version must be a whole number"),
        ({"version": "1a"}, ValueError, "version is '1a'; it must be a whole number from 1"),
        ({"version": 0}, ValueError, "from 1"),
        ({"score_threshold": "0.5"}, TypeError, "score_threshold must be a number, not '0.5'"),
        ({"score_threshold": 1.1}, ValueError, "score_threshold is 1.1; it must be a number from 0 to 1"),
        ({"iou_threshold": float("nan")}, ValueError, "iou_threshold is nan"),
        ({"iou_threshold": True}, TypeError, "must be a number"),
        ({"max_detections": 2.0}, TypeError, "max_detections must be a whole number"),
        ({"max_detections": 0}, ValueError, "it must be 1 or more"),
        ({"classes": [1.5]}, TypeError, "labels or class ids, not 1.5"),
        ({"classes": ["a,b"]}, ValueError, "has a comma; name the class by its id"),
        ({"classes": []}, ValueError, "leave it out"),
        ({"agnostic_nms": 1}, TypeError, "agnostic_nms must be True or False, not 1"),
        ({"clip": "no"}, TypeError, "clip must be True or False, not 'no'"),
        ({"priority": 1}, TypeError, "priority must be a text, not 1"),
        ({"priority": "urgent"}, ValueError, "priority is 'urgent'; it must be one of high, normal, low"),
    ],
)
def test_a_wrong_option_is_named(options, error, message):
    """With what it is and what is allowed."""
    with pytest.raises(error, match=message):
        Query(**options)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_bytes_of_any_kind_are_an_image(kind):
    """Whatever holds bytes in a row."""
    assert read_image(kind(b"jpeg")) == b"jpeg"


def test_a_path_is_read(tmp_path):
    """And one that is not there is an OSError that names it."""
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    assert read_image(tmp_path / "a.jpg") == b"jpeg"
    with pytest.raises(FileNotFoundError, match=r"b.jpg"):
        read_image(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    "given, message",
    [
        ("board.jpg", r"for a file write Path\('board.jpg'\)"),
        (np.zeros((2, 3, 3), np.uint8), r"given encoded, .* not as an array of shape \(2, 3, 3\)"),
        (None, "not NoneType"),
        (3, "not int"),
    ],
)
def test_what_is_no_encoded_image_is_refused(given, message):
    """With what to do instead."""
    with pytest.raises(TypeError, match=message):
        read_image(given)


def test_times_and_counts_are_checked():
    """As the constructor and each call need them."""
    assert (seconds("timeout_seconds", 3), count("concurrency", 4)) == (3.0, 4)
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="positive number of seconds"):
            seconds("timeout_seconds", wrong)
    with pytest.raises(ValueError, match="1 or more"):
        count("concurrency", 0)
    with pytest.raises(TypeError, match="a whole number"):
        count("concurrency", 1.0)


def test_the_time_left_fits_the_gateway_s_limits():
    """Whole milliseconds from 1 to ten minutes."""
    assert [timeout_ms(left) for left in (1.2345, 1e-9, 3600)] == ["1234", "1", "600000"]
