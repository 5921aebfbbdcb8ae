"""Whether an answer is the right one, and where right ones come from."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from eagleeye import Detections
from loadtest.load.answers import Answer, Reference
from loadtest.load.corpus import pictures, references, shares
from loadtest.load.profile import Images, Size
from loadtest.load.table import BadProfile

RIGHT = [("cat", 0.9, 10, 20, 110, 220), ("dog", 0.7, 300, 300, 400, 400), ("dog", 0.41, 0, 0, 50, 50)]
REFERENCE = Images(source="auto", count=2, sizes=())


def answer(rows):
    return Answer(tuple(row[0] for row in rows), np.array([row[1:] for row in rows], np.float32).reshape(-1, 5))


def moved(n, **changes):
    """`RIGHT` with one number of its row n changed by so much."""
    columns = ("label", "score", "x1", "y1", "x2", "y2")
    row = dict(zip(columns, RIGHT[n], strict=True))
    for name, by in changes.items():
        row[name] += by
    return [*RIGHT[:n], tuple(row.values()), *RIGHT[n + 1 :]]


@pytest.mark.parametrize(
    "rows, is_right",
    [
        (RIGHT, True),
        (list(reversed(RIGHT)), True),
        (moved(0, score=0.01, x1=1.5), True),
        (moved(0, score=0.05), False),
        (moved(0, y2=-9), False),
        (moved(0, label="s"), False),
        (RIGHT[:2], True),  # the third is as near the threshold as batches make a difference
        (RIGHT[:1], False),
        ([*RIGHT, ("cat", 0.405, 5, 5, 9, 9)], True),
        ([*RIGHT, ("cat", 0.8, 5, 5, 9, 9)], False),
        ([*RIGHT, RIGHT[1]], False),  # found twice
        ([], False),
    ],
)
def test_an_answer_is_right_within_rounding(rows, is_right):
    """Each detection has its counterpart, but those near the threshold."""
    assert Reference(answer(RIGHT), threshold=0.4, box_pixels=2.0).is_met_by(answer(rows)) is is_right


def test_nothing_is_right_where_nothing_is():
    """And something is wrong there."""
    reference = Reference(answer([]), 0.4, 2.0)
    assert reference.is_met_by(answer([]))
    assert not reference.is_met_by(answer(RIGHT))


def test_json_and_client_say_the_same():
    """To the last bit: the gateway writes the shortest decimals."""
    numbers = np.array([[0.1, 1 / 3, 2 / 3, 400.7, 1e3]], np.float32)
    row = numbers[0]
    found = Detections(numbers[:, 1:], row[:1], np.array([3], np.int32), ("cat",), (640, 480), "m", "1")
    box = {name: float(str(value)) for name, value in zip(("x1", "y1", "x2", "y2"), row[1:], strict=True)}
    written = Answer.of_json([{"label": "cat", "class_id": 3, "score": float(str(row[0])), "box": box}])
    assert np.array_equal(written.numbers, Answer.of_client(found).numbers)
    assert Reference(written, 0.4, 0.0).is_met_by(Answer.of_client(found))


def never(picture):
    raise AssertionError(picture.name)


def test_the_stand_ins_pictures_are_foretold():
    """Nobody has to ask, and no two have one answer; another model gets boards."""
    made = pictures(REFERENCE, "gpu_standin", None)
    right = references(made, None, 0.4, never)
    assert right[0].is_met_by(right[0].answer)
    assert not right[0].is_met_by(right[1].answer)
    assert [each.name for each in pictures(REFERENCE, "other", None)] == ["board 0", "board 1"]


def test_pictures_come_in_the_sizes_of_the_profile():
    """Each in each of them, as often as their weights say."""
    sizes = (Size((320, 200), 3.0, "jpg", 80), Size(None, 1.0, "png", 90))
    made = pictures(Images("boards", 2, sizes), "other", None)
    opened = [Image.open(io.BytesIO(each.data)) for each in made]
    assert [(image.format, image.size) for image in opened] == 2 * [("JPEG", (320, 200)), ("PNG", (640, 640))]
    assert shares(made).tolist() == [0.375, 0.125, 0.375, 0.125]
    assert made[0].longer_side == 320


@pytest.fixture
def folder(tmp_path):
    """Two pictures and a file that is none."""
    made = tmp_path / "pictures"
    made.mkdir()
    for name, side in (("b.png", 30), ("a.JPG", 50)):
        Image.new("RGB", (side, 20), "red").save(made / name)
    (made / "notes.txt").write_text("no picture")
    return made


def test_own_pictures_are_sent_as_they_are(folder):
    """In order of their names, unless the profile has sizes."""
    made = pictures(REFERENCE, "gpu_standin", folder)
    assert [(each.name, each.data) for each in made] == [
        (name, (folder / name).read_bytes()) for name in ("a.JPG", "b.png")
    ]
    resized = pictures(Images("auto", 9, (Size((8, 6), 1.0, "bmp", 90),)), "m", folder)
    assert [Image.open(io.BytesIO(each.data)).size for each in resized] == [(8, 6), (8, 6)]


@pytest.mark.parametrize(
    "name, said", [("empty", "has no pictures; they end in .bmp, .jpeg"), ("bad", "bad.png is no picture")]
)
def test_a_folder_without_pictures_is_refused(tmp_path, name, said):
    """And so is one with a damaged one."""
    (tmp_path / name).mkdir()
    if name == "bad":
        (tmp_path / name / "bad.png").write_bytes(b"nothing")
    with pytest.raises(BadProfile, match=said):
        pictures(REFERENCE, "m", tmp_path / name)
    with pytest.raises(BadProfile, match="name their folder by --images"):
        pictures(Images("folder", 1, ()), "m", None)


def test_right_answers_come_from_a_file(folder, tmp_path):
    """As `eagleeye detect` writes it; found by the names of the pictures."""
    made = pictures(REFERENCE, "m", folder)
    row = {"label": "cat", "class_id": 0, "score": 0.9, "box": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}
    lines = [{"input": f"/else/where/{each.name}", "detections": [row]} for each in made]
    (tmp_path / "right.jsonl").write_text("\n".join(map(json.dumps, lines)))
    right = references(made, tmp_path / "right.jsonl", 0.4, never)
    assert right[1].is_met_by(answer([("cat", 0.9, 1, 2, 3, 4)]))
    (tmp_path / "right.jsonl").write_text(json.dumps(lines[0]))
    with pytest.raises(BadProfile, match=r"right\.jsonl has no answer for b\.png"):
        references(made, tmp_path / "right.jsonl", 0.4, never)
    (tmp_path / "right.jsonl").write_text("[1]")
    with pytest.raises(BadProfile, match="holds no lines of `eagleeye detect"):
        references(made, tmp_path / "right.jsonl", 0.4, never)
