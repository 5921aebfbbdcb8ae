"""What the user names -> the files to look at."""

import os
from pathlib import Path

import pytest

from eagleeye.detect.inputs import InputError, find_sources


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    """Images and other files, hidden and not."""
    monkeypatch.chdir(tmp_path)
    names = [
        "b/2.png",
        "b/10.png",
        "b/c/1.JPG",
        "a.webp",
        "z.bmp",
        "notes.txt",
        ".hidden.jpg",
        ".git/x.png",
        "b/film.mp4",
    ]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return tmp_path


def names(*named, **more):
    return [source.name for source in find_sources(named, **more).files]


def places(*named):
    return [str(source.relative) for source in find_sources(named).files]


def test_a_folder_means_all_images_below_it_in_order():
    """By path; neither hidden ones, nor in hidden folders, nor videos, nor other files."""
    assert names(".") == ["a.webp", "b/10.png", "b/2.png", "b/c/1.JPG", "z.bmp"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("b/*.png", ["b/10.png", "b/2.png"]),
        ("**/*.[jJ][pP][gG]", ["b/c/1.JPG"]),
        ("b/**", ["b/10.png", "b/2.png", "b/c/1.JPG", "b/film.mp4"]),
        ("*", ["a.webp", "z.bmp"]),
    ],
)
def test_a_pattern_means_the_images_and_videos_that_match(pattern, expected):
    """By path, without hidden and other files."""
    assert names(pattern) == expected


def test_a_file_is_taken_whatever_it_is_called():
    """Whether it is an image is the gateway's to say."""
    assert names("notes.txt", ".hidden.jpg") == ["notes.txt", ".hidden.jpg"]


def test_a_file_that_is_there_is_no_pattern():
    """Brackets in a name mean themselves."""
    Path("a[1].png").touch()
    Path("a1.png").touch()
    assert names("a[1].png") == ["a[1].png"]


def test_a_file_counts_once(tree):
    """Under the name under which it was found first."""
    assert names("b/c/../2.png", "b", str(tree / "b/10.png")) == ["b/c/../2.png", "b/10.png", "b/c/1.JPG"]


@pytest.mark.parametrize(
    "name, is_video", [("b/film.mp4", True), ("b/2.png", False), ("-", False), ("notes.txt", False)]
)
def test_a_suffix_makes_a_video(name, is_video):
    """And nothing else does."""
    (source,) = find_sources([name]).files
    assert source.is_video is is_video


@pytest.mark.parametrize(
    "named, expected",
    [
        (["b"], ["10.png", "2.png", "c/1.JPG"]),
        (["b/c"], ["1.JPG"]),
        (["b/c/1.JPG"], ["1.JPG"]),
        (["b/**/*.JPG"], ["c/1.JPG"]),
        (["b/c/1.JPG", "a.webp"], ["b/c/1.JPG", "a.webp"]),
        (["b/../b/c"], ["1.JPG"]),
        (["-"], ["stdin"]),
    ],
    ids=str,
)
def test_places_are_relative_to_what_was_named(named, expected):
    """To the folder, or to the one that all that was named has in common; so no two results meet."""
    assert places(*named) == expected


def test_standard_input_has_no_path():
    """It is read when its turn comes."""
    assert [source.path for source in find_sources(["-", "a.webp"]).files] == [None, Path("a.webp")]


def test_pipes_in_folders_are_no_images(tree):
    """Reading one would wait for somebody to write; one that is named is meant, and a link to nothing fails alone."""
    os.mkfifo(tree / "b" / "pipe.png")
    (tree / "b" / "gone.png").symlink_to("nothing.png")
    assert names("b") == ["b/10.png", "b/2.png", "b/c/1.JPG", "b/gone.png"]
    assert names("b/pipe.png") == ["b/pipe.png"]


@pytest.mark.parametrize("line", ["x" * 300, "a\0b.png", "b/2.png/3.png"], ids=["long", "zero byte", "below a file"])
def test_a_list_may_name_what_can_be_no_file(line):
    """It fails alone, too."""
    assert names(listed=[line, "b/2.png"]) == [line, "b/2.png"]


def test_a_list_may_name_files_that_are_gone():
    """They fail alone; folders count as elsewhere, and patterns are names."""
    assert names(listed=["gone.png", "b/c", "*.png"]) == ["gone.png", "b/c/1.JPG", "*.png"]


@pytest.mark.parametrize(
    "named, says",
    [
        (["gone.png"], "there is no file or folder gone.png"),
        (["new\nline"], r"there is no file or folder 'new\\nline'"),
        (["*.gif"], r"nothing that \*.gif matches is an image"),
        (["*.txt"], r"nothing that \*.txt matches is an image"),
        ([], "there is nothing to look at"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(named, says):
    """With the name and what is allowed."""
    with pytest.raises(InputError, match=says):
        find_sources(named)


def test_a_folder_without_images_is_nothing_to_do(tree):
    """As long as nothing else was named."""
    (tree / "empty").mkdir()
    with pytest.raises(InputError, match="no JPEG, PNG, WebP or BMP file was found"):
        find_sources(["empty"])
    assert names("empty", "a.webp") == ["a.webp"]


@pytest.mark.parametrize("named", [".", "**"])
def test_results_are_no_inputs(tree, named):
    """A folder of results counts only where it is named itself."""
    assert not any(name.startswith("b/c") for name in names(named, results=tree / "b" / "c"))
    assert names("b/c", results=tree / "b" / "c") == ["b/c/1.JPG"]
    assert names("b/c/1.JPG", results=tree / "b" / "c") == ["b/c/1.JPG"]


def test_a_folder_that_cannot_be_read_is_refused(monkeypatch):
    """Rather than passed over."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match="cannot read b: Permission denied"):
        find_sources(["b"])
