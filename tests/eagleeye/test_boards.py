"""Drawn boards: the same for the same seed, and defects that are what and where they are said to be."""

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from eagleeye.boards import BOX_MARGIN, LABELS, _add_defects, draw_board, sample

SEEDS = range(12)


@pytest.fixture(scope="module")
def boards():
    """A dozen boards with two defects of each class."""
    return [draw_board(seed, defects_per_class=2) for seed in SEEDS]


def pieces(image):
    """Into how many connected pieces black and white fall: (copper, free)."""
    free = image[..., 0] // 255
    return cv2.connectedComponents(1 - free)[0] - 1, cv2.connectedComponents(free)[0] - 1


def with_one_defect(board, box):
    """The clean board with only the defect in `box`."""
    x1, y1, x2, y2 = box.astype(int)
    image = board.clean.copy()
    image[y1:y2, x1:x2] = board.image[y1:y2, x1:x2]
    return image


def test_equal_seeds_draw_equal_boards():
    """A seed fixes every pixel, box and class."""
    one, other = draw_board(3), draw_board(3)

    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.clean, other.clean)
    assert np.array_equal(one.boxes, other.boxes)
    assert np.array_equal(one.class_ids, other.class_ids)


def test_different_seeds_draw_different_layouts(boards):
    """No two boards of a dozen are alike, not even without their defects."""
    assert len({board.clean.tobytes() for board in boards}) == len(SEEDS)


def test_a_board_is_a_black_and_white_rgb_picture(boards):
    """Copper is black, the rest white, in three equal channels; there is a sensible share of both."""
    for board in boards:
        assert (board.image.shape, board.image.dtype) == ((640, 640, 3), np.uint8)
        assert set(np.unique(board.image)) == {0, 255}
        assert np.ptp(board.image, axis=2).max() == 0
        assert 0.1 < np.mean(board.image == 0) < 0.6


def test_every_class_is_there(boards):
    """Each of the six classes has as many defects as were asked for, and labels name the class ids."""
    for board in boards:
        assert np.bincount(board.class_ids, minlength=6).tolist() == [2] * 6
        assert board.labels == [LABELS[class_id] for class_id in board.class_ids]


def test_boxes_lie_in_the_picture(boards):
    """Every box has an area and no part outside."""
    for board in boards:
        assert np.all(board.boxes[:, :2] < board.boxes[:, 2:])
        assert board.boxes.min() >= 0
        assert board.boxes.max() <= 640


def test_boxes_do_not_overlap(boards):
    """A pixel belongs to one defect's box at most."""
    for board in boards:
        covered = np.zeros((640, 640), int)
        for x1, y1, x2, y2 in board.boxes.astype(int):
            covered[y1:y2, x1:x2] += 1
        assert covered.max() == 1


def test_nothing_changes_outside_the_boxes(boards):
    """Where no box is, the board equals the clean one."""
    for board in boards:
        changed = np.any(board.image != board.clean, axis=2)
        for x1, y1, x2, y2 in board.boxes.astype(int):
            changed[y1:y2, x1:x2] = False
        assert not changed.any()


def test_boxes_are_tight_but_for_the_margin(boards):
    """Each box is the changed pixels' bounding box, wider by the margin on every side."""
    for board in boards:
        changed = np.any(board.image != board.clean, axis=2)
        for x1, y1, x2, y2 in board.boxes.astype(int):
            rows, columns = np.nonzero(changed[y1:y2, x1:x2])
            margins = columns.min(), rows.min(), x2 - x1 - 1 - columns.max(), y2 - y1 - 1 - rows.max()
            assert margins == (BOX_MARGIN,) * 4


@pytest.mark.parametrize(
    "label,copper,free",
    [
        pytest.param("mousebite", 0, 0, id="mousebite cuts nothing off"),
        pytest.param("spur", 0, 0, id="spur touches nothing else"),
        pytest.param("copper", 1, 0, id="copper stands alone"),
        pytest.param("pin-hole", 0, 1, id="pin-hole is closed"),
        pytest.param("open", 1, None, id="open parts a conductor"),
        pytest.param("short", -1, None, id="short joins two conductors"),
    ],
)
def test_a_defect_does_to_the_circuit_what_its_name_says(boards, label, copper, free):
    """Alone on the clean board, a defect changes the number of pieces of copper and of free areas as it must."""
    for board in boards:
        before = pieces(board.clean)
        for box in board.boxes[board.class_ids == LABELS.index(label)]:
            after = pieces(with_one_defect(board, box))
            assert after[0] - before[0] == copper
            assert free is None or after[1] - before[1] == free


@pytest.mark.parametrize(
    "label,removes",
    [("open", True), ("short", False), ("mousebite", True), ("spur", False), ("copper", False), ("pin-hole", True)],
)
def test_a_defect_only_adds_or_only_removes_copper(boards, label, removes):
    """Opens, bites and pin-holes turn black to white; shorts, spurs and spurious copper white to black."""
    for board in boards:
        for box in board.boxes[board.class_ids == LABELS.index(label)]:
            image = with_one_defect(board, box)
            changed = image != board.clean
            assert set(np.unique(image[changed])) == {255 if removes else 0}


@pytest.mark.parametrize("size", [160, 333, 1280])
def test_another_size_is_the_same_board(size):
    """Boxes grow with the picture and still hold all that changed."""
    board, reference = draw_board(1, size), draw_board(1)

    changed = np.any(board.image != board.clean, axis=2)
    for x1, y1, x2, y2 in board.boxes:
        part = changed[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        assert part.any()
        part[:] = False
    assert board.image.shape == (size, size, 3)
    assert board.boxes == pytest.approx(reference.boxes * size / 640)
    assert not changed.any()


def test_a_board_without_defects_is_clean():
    """Zero defects of each class are no defects."""
    board = draw_board(5, defects_per_class=0)

    assert board.boxes.shape == (0, 4)
    assert np.array_equal(board.image, board.clean)


@pytest.mark.parametrize("copper", [False, True], ids=["bare", "all copper"])
def test_a_board_without_room_is_given_up(copper):
    """Where no stroke can be such a defect, the search ends and says so."""
    assert _add_defects(np.random.default_rng(0), np.full((640, 640), copper), 1) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 0, "size": 159},
        {"seed": 0, "size": 10_000},
        {"seed": 0, "defects_per_class": -1},
        {"seed": 0, "defects_per_class": 11},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments):
    """Seeds, sizes and numbers of defects have limits."""
    with pytest.raises(ValueError, match="out of range"):
        draw_board(**arguments)


@pytest.mark.parametrize("name", ["board.png", "board.JPG"])
def test_sample_writes_the_picture_and_its_ground_truth(tmp_path, name):
    """The files of `eagleeye sample` hold the board of that seed."""
    picture, truth = tmp_path / name, tmp_path / "coco.json"
    arguments = ["--seed", "4", "--output", str(picture), "--annotations", str(truth)]

    answer = CliRunner().invoke(sample, arguments)

    board, coco = draw_board(4), json.loads(truth.read_text())
    pixels = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    assert answer.exit_code == 0
    assert coco["images"] == [{"id": 1, "file_name": name, "width": 640, "height": 640}]
    assert [category["name"] for category in coco["categories"]] == list(LABELS)
    assert [LABELS[box["category_id"] - 1] for box in coco["annotations"]] == board.labels
    assert [[x, y, x + w, y + h] for x, y, w, h in (box["bbox"] for box in coco["annotations"])] == board.boxes.tolist()
    assert np.array_equal(pixels > 127, board.image > 127)
    assert sorted(tmp_path.iterdir()) == sorted([picture, truth])


@pytest.mark.parametrize(
    "name,reason",
    [("board.gif", "a picture ends in .jpg, .jpeg or .png"), ("missing/board.png", "cannot write")],
)
def test_sample_that_cannot_be_written_is_one_clear_line(tmp_path, name, reason):
    """A wrong suffix and a missing folder end with exit code 1, one line, and no file."""
    answer = CliRunner().invoke(sample, ["--output", str(tmp_path / name)])

    assert answer.exit_code == 1
    assert answer.output.startswith("Error: ")
    assert answer.output.count("\n") == 1
    assert reason in answer.output
    assert not list(tmp_path.iterdir())
