"""`eagleeye detect` against a real gateway: every format, what is refused, and how it ends."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from gateway.annotate import draw_detections
from tests.eagleeye.detect.conftest import draw, film
from tests.eagleeye.detect.gateway import cat_width
from tests.eagleeye.detect.test_video import frames_of

NAMES = ["photos/a.png", "photos/b.jpg", "photos/c.bmp", "photos/d/e.webp", "photos/d/f.PNG", "photos/g.jpeg"]


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def cat_edge(row):
    """The right edge of the cat, which tells the image."""
    return row["detections"][0]["box"]["x2"]


def expected_edge(brightness):
    """The same from the image, in pixels of its width of 96."""
    return cat_width(brightness) * 96 / 64


def test_rows_come_in_the_order_of_the_files(eagleeye, photos):
    """Each with what is on that image, on standard output, which has nothing else."""
    ended = eagleeye("detect", photos.name)
    found = rows(ended.stdout)
    assert [row["input"] for row in found] == NAMES
    assert [cat_edge(row) for row in found] == pytest.approx([expected_edge(40 * n) for n in range(6)], abs=1)
    assert (ended.exit_code, ended.stderr) == (0, "6 of 6 images done, 12 detections\n")


def test_both_faces_give_the_same_rows(eagleeye, photos, gateway):
    """Byte for byte."""
    rest, rpc = (eagleeye("detect", photos.name, url=url) for url in (gateway.http, gateway.grpc))
    assert rest.exit_code == rpc.exit_code == 0
    assert rest.stdout == rpc.stdout


def test_options_reach_the_gateway(eagleeye, photos):
    """Threshold, classes, model and version."""
    ended = eagleeye("detect", photos.name, "--score-threshold", 0.7, "--model", "toy", "--version", 3)
    assert {tuple(found["label"] for found in row["detections"]) for row in rows(ended.stdout)} == {("cat",)}
    ended = eagleeye("detect", photos.name, "--classes", "dog,bird", "--max-detections", 1)
    assert {tuple(found["label"] for found in row["detections"]) for row in rows(ended.stdout)} == {("dog",)}


def test_an_image_comes_from_standard_input(eagleeye, photos):
    """Under the name -."""
    ended = eagleeye("detect", "-", input=(photos / "b.jpg").read_bytes())
    (row,) = rows(ended.stdout)
    assert row["input"] == "-"
    assert cat_edge(row) == pytest.approx(expected_edge(40), abs=1)


@pytest.mark.usefixtures("photos")
def test_a_list_of_paths_comes_from_standard_input(eagleeye):
    """One a line; what is gone fails alone."""
    ended = eagleeye("detect", "--paths-from", "-", input="photos/d\nphotos/gone.png\n\nphotos/a.png\n")
    assert [row["input"] for row in rows(ended.stdout)] == [*NAMES[3:5], "photos/gone.png", "photos/a.png"]
    assert rows(ended.stdout)[2]["error"] == {
        "code": "unreadable",
        "detail": "cannot be read: No such file or directory",
    }
    assert ended.exit_code == 1
    assert ended.stderr.splitlines() == [
        "photos/gone.png: cannot be read: No such file or directory",
        "3 of 4 images done, 6 detections; 1 failed",
    ]


@pytest.mark.parametrize("face", ["http", "grpc"])
def test_what_fails_alone_is_told_and_passed_over(eagleeye, photos, gateway, face):
    """In a line on standard error and a row with the error; the exit code tells."""
    (photos / "bb.jpg").write_text("no image")
    draw(photos / "cc.png", 0, wh=(1200, 1000))
    ended = eagleeye("detect", photos.name, url=getattr(gateway, face))
    assert ended.exit_code == 1
    found = {row["input"]: row for row in rows(ended.stdout)}
    assert list(found) == [*NAMES[:2], "photos/bb.jpg", NAMES[2], "photos/cc.png", *NAMES[3:]]
    assert [found[f"photos/{name}"]["error"]["code"] for name in ("bb.jpg", "cc.png")] == [
        "unsupported_media_type",
        "image_too_large",
    ]
    bad, large, end = ended.stderr.splitlines()
    assert bad.startswith("photos/bb.jpg: ")
    assert "the body is not an image that can be read; JPEG, PNG" in bad
    assert large.startswith("photos/cc.png: ")
    assert "the image is 1200 x 1000 = 1,200,000 pixels" in large
    assert end == "6 of 8 images done, 12 detections; 2 failed"


def test_csv_is_what_json_says(eagleeye, photos, here):
    """The suffix of the output chooses it."""
    draw(photos / "zz.png", 255)
    said = rows(eagleeye("detect", photos.name, "--score-threshold", 0.7).stdout)
    assert eagleeye("detect", photos.name, "--score-threshold", 0.7, "--output", "found.csv").exit_code == 0
    with (here / "found.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["input"] for row in read] == [row["input"] for row in said]
    assert [float(row["x2"]) for row in read] == [cat_edge(row) for row in said]
    assert {(row["width"], row["height"], row["model"], row["version"], row["detections"]) for row in read} == {
        ("96", "48", "toy", "3", "1")
    }


def test_coco_is_read_by_cocos_own_tools(eagleeye, photos, here):
    """Images, boxes with scores, and every class of the model."""
    said = rows(eagleeye("detect", photos.name).stdout)
    assert eagleeye("detect", photos.name, "--output", "found.json").exit_code == 0
    coco = COCO(str(here / "found.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == NAMES
    assert {image["width"] for image in coco.dataset["images"]} == {96}
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["cat", "dog", "bird"]
    for image_id, row in zip(coco.getImgIds(), said, strict=True):
        cat, dog = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert cat["bbox"] == [0, 0, cat_edge(row), 48]
        assert (cat["category_id"], cat["score"], dog["category_id"], dog["bbox"]) == (0, 0.9, 1, [48, 0, 48, 48])
    results = coco.loadRes([annotation for annotation in coco.dataset["annotations"] if annotation["score"] > 0.7])
    assert len(results.getAnnIds()) == 6


def test_annotated_images_have_their_places(eagleeye, photos, here):
    """Below the folder as the inputs were; what OpenCV is not asked to write becomes PNG. Inputs stay as they are."""
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    ended = eagleeye("detect", photos.name, "--format", "images", "--output", "drawn")
    assert (ended.exit_code, ended.stderr) == (0, "6 of 6 images done, 12 detections; written to drawn\n")
    drawn = sorted(str(path.relative_to(here / "drawn")) for path in (here / "drawn").rglob("*.*"))
    assert drawn == ["a.png", "b.jpg", "c.bmp.png", "d/e.webp.png", "d/f.PNG", "g.jpeg"]
    boxes = np.array([[0, 0, 6, 48], [48, 0, 96, 48]], np.float32)
    expected = draw_detections(np.zeros((48, 96, 3), np.uint8), boxes, ("cat", "dog"), np.array([0.9, 0.6], np.float32))
    assert np.array_equal(cv2.imread("drawn/a.png")[..., ::-1], expected)
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before


@pytest.mark.parametrize("face", ["http", "grpc"])
def test_every_frame_of_a_video_is_looked_at(eagleeye, here, gateway, face):
    """In order, with number and time; among images."""
    film(here / "clip.avi", 12)
    draw(here / "one.png", 0)
    ended = eagleeye("detect", "one.png", "clip.avi", url=getattr(gateway, face))
    assert ended.exit_code == 0, ended.output
    image, *frames = rows(ended.stdout)
    assert "frame" not in image
    assert [(row["frame"], row["time_seconds"]) for row in frames] == [(number, number / 10) for number in range(12)]
    assert [cat_edge(row) for row in frames] == pytest.approx([expected_edge(20 * n) for n in range(12)], abs=2)


def test_every_nth_frame_may_do(eagleeye, here):
    """Their numbers are those in the video."""
    film(here / "clip.avi", 12)
    assert [row["frame"] for row in rows(eagleeye("detect", "clip.avi", "--every", 5).stdout)] == [0, 5, 10]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
@pytest.mark.parametrize("face", ["http", "grpc"])
def test_a_video_becomes_an_annotated_one(eagleeye, here, gateway, suffix, face):
    """With its frames and its rate, and drawn on."""
    film(here / "clip.avi", 12)
    ended = eagleeye("detect", "clip.avi", "--output", f"new{suffix}", url=getattr(gateway, face))
    assert (ended.exit_code, ended.stderr) == (0, f"12 of 12 images done, 24 detections; written to new{suffix}\n")
    capture = cv2.VideoCapture(f"new{suffix}")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    _, frame = capture.read()
    capture.release()
    assert np.ptp(frame.astype(int), axis=2).max() > 60  # a grey video has colours now
    assert sorted(path.name for path in here.iterdir()) == ["clip.avi", f"new{suffix}"]


def test_every_nth_frame_keeps_its_time(eagleeye, here):
    """The new video is as long as the old one."""
    film(here / "clip.avi", 12)
    assert eagleeye("detect", "clip.avi", "--every", 3, "--output", "new.avi").exit_code == 0
    assert len(frames_of("new.avi")) == 4
    capture = cv2.VideoCapture("new.avi")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10 / 3, abs=0.01)
    capture.release()


def test_a_broken_video_fails_alone(eagleeye, here):
    """Beside others."""
    (here / "bad.mp4").write_text("no video")
    draw(here / "one.png", 0)
    ended = eagleeye("detect", "bad.mp4", "one.png")
    assert ended.exit_code == 1
    assert ended.stderr.splitlines() == [
        "bad.mp4: it is not a video that can be read",
        "1 of 2 images done, 2 detections; 1 failed",
    ]


def test_nothing_is_overwritten_unless_asked(eagleeye, photos, here):
    """Neither a file nor what is in a folder."""
    draw(here / "drawn/a.png", 0)
    for arguments in (["--output", "found.jsonl"], ["--output", "drawn", "--format", "images"]):
        path = here / arguments[1]
        if path.suffix:
            path.write_text("precious")
        ended = eagleeye("detect", photos.name, *arguments)
        says = f"Error: {path.name} exists; --resume goes on with it, --overwrite replaces it\n"
        assert (ended.exit_code, ended.output) == (2, says)
        assert eagleeye("detect", photos.name, *arguments, "--overwrite").exit_code == 0
    assert len((here / "found.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    "arguments, lost",
    [
        (["photos", "--output", "photos", "--format", "images"], "photos/a.png"),
        (["photos/d/f.PNG", "one.png", "--output", "photos/..", "--format", "images"], "one.png"),
        (["clip.avi", "--output", "clip.avi"], "clip.avi"),
    ],
    ids=["folder", "folder above", "video"],
)
def test_inputs_are_never_overwritten(eagleeye, photos, here, arguments, lost):
    """Not even if overwriting is asked for."""
    film(here / "clip.avi", 2)
    draw(here / "one.png", 0)
    before = {path: path.read_bytes() for path in [*photos.rglob("*.*"), here / "clip.avi", here / "one.png"]}
    ended = eagleeye("detect", *arguments, "--overwrite")
    assert ended.exit_code == 2
    assert ended.output == f"Error: {here / lost} is an input and would be overwritten; write somewhere else\n"
    assert {path: path.read_bytes() for path in before} == before


def test_annotated_images_do_not_become_inputs(eagleeye, photos, here):
    """When a folder is looked at again that they were written into."""
    for option in ("--overwrite", "--resume"):
        ended = eagleeye("detect", ".", "--output", "drawn", "--format", "images", option)
        assert ended.exit_code == 0
        assert len([path for path in (here / "drawn").rglob("*") if path.is_file()]) == len(NAMES)
    assert len(list(photos.rglob("*.*"))) == len(NAMES)


@pytest.mark.parametrize("output", ["found.jsonl", "found.csv", "found.json", "drawn"])
@pytest.mark.usefixtures("photos")
def test_a_run_that_could_not_begin_leaves_nothing(eagleeye, here, output):
    """So that the same command without the mistake just runs."""
    arguments = ["detect", "photos", "--output", output, *(["--format", "images"] if output == "drawn" else [])]
    ended = eagleeye(*arguments, "--model", "nix")
    assert ended.exit_code == 2
    assert [path.name for path in here.iterdir()] == ["photos"]
    assert eagleeye(*arguments).exit_code == 0


USAGE = [
    ([], "name an image, a folder or a video"),
    (["-", "--paths-from", "-"], "standard input can be read only once"),
    (["-", "-"], "standard input can be read only once"),
    (["photos", "--format", "coco"], "--format coco needs --output; only jsonl and csv"),
    (["photos", "--resume"], "--resume and --overwrite are for an --output"),
    (["photos", "--output", "x", "--resume", "--overwrite"], "--resume keeps what --overwrite replaces"),
    (["photos", "--output", "x.mp4", "--resume"], "a video begins anew"),
    (["photos", "--output", "x", "--format", "video"], "a video ends in one of .mp4, .mov, .mkv, .avi, .webm, not in"),
    (["photos", "--output", "x.mp4"], "--format video makes one video of one video"),
    (["photos", "--output", "photos"], "photos is a folder; name the file to write"),
    (["photos", "--output", "photos/a.png", "--format", "images"], "is a file; annotated images need a folder"),
    (["photos", "--output", "/dev/null"], "/dev/null is not a regular file; without --output"),
    (["photos", "--output", "missing/x.csv"], "cannot write missing/x.csv: there is no folder missing"),
    (["photos/gone.png"], "there is no file or folder photos/gone.png"),
    (["photos/*.gif"], "nothing that photos/*.gif matches"),
    (["photos", "--url", "ftp://x"], "'ftp://x' is no address of a gateway"),
    (["photos", "--ca-certificate", "photos/a.png"], "certificates are for https://"),
    (["photos", "--model", "nix"], "model_not_found: there is no model 'nix'; served are: toy"),
    (["photos", "--version", "7"], "toy has no version 7; served are: 3"),
    (["photos", "--classes", "horse"], "horse"),
    (["photos", "--url", "http://127.0.0.1:1"], "127.0.0.1:1 "),
    (["photos", "--url", "grpc://127.0.0.1:1"], "127.0.0.1:1"),
    (["photos", "--score-threshold", "2"], "0<=x<=1"),
]


@pytest.mark.parametrize("arguments, says", USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
@pytest.mark.usefixtures("photos")
def test_what_cannot_be_done_is_said_in_one_line(eagleeye, here, arguments, says):
    """With exit code 2, and nothing is written."""
    ended = eagleeye("detect", *arguments, input=b"")
    assert ended.exit_code == 2
    line = ended.output.splitlines()[-1]
    assert line.startswith("Error: ")
    assert says in line
    assert ended.stdout == ""
    assert sorted(path.name for path in here.iterdir()) == ["photos"]


def test_a_gateway_that_is_none_is_told(eagleeye, photos, http_server):
    """Another service that answers is no gateway."""
    ended = eagleeye("detect", photos.name, url=http_server)
    assert ended.exit_code == 2
    (line,) = ended.output.splitlines()
    assert line.startswith("Error: ")


@pytest.mark.parametrize(
    "module, arguments", [("cv2", ["clip.mp4"]), ("cv2", ["photos", "--output", "x", "--format", "images"])]
)
@pytest.mark.usefixtures("photos")
def test_a_missing_package_is_told(eagleeye, here, monkeypatch, module, arguments):
    """With the extra that brings it, before anything is asked."""
    film(here / "clip.mp4", 2)
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else find(name))
    ended = eagleeye("detect", *arguments)
    assert (ended.exit_code, ended.output) == (
        2,
        f"Error: this needs the Python package '{module}': pip install 'eagleeye[detect]'\n",
    )


def test_a_number_that_is_none_is_refused(eagleeye, photos):
    """Click takes it for one in any range."""
    ended = eagleeye("detect", photos.name, "--score-threshold", "nan")
    assert (ended.exit_code, ended.stderr) == (2, "Error: score_threshold is nan; it must be a number from 0 to 1\n")


def test_a_name_with_a_zero_byte_fails_alone(eagleeye, photos):
    """As `find -print0` writes them."""
    ended = eagleeye("detect", "--paths-from", "-", input=f"x\0y.png\n{photos.name}/a.png\n")
    assert [row.get("error", {}).get("code") for row in rows(ended.stdout)] == ["unreadable", None]
    assert ended.exit_code == 1


def test_a_list_that_cannot_be_read_is_told(eagleeye):
    """In one line."""
    ended = eagleeye("detect", "--paths-from", "/proc/self/mem")
    assert (ended.exit_code, ended.stderr) == (2, "Error: cannot read /proc/self/mem: Input/output error\n")


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_empty_ones(here, gateway, closed):
    """Nothing that was meant for them gets into a file of results."""
    command = [
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        sys.executable,
        "-m",
        "eagleeye",
        "detect",
        "--url",
        gateway.http,
    ]
    for arguments in (["photos", "--output", "found.jsonl"], ["photos/a.png", "--paths-from", "-"]):
        ended = subprocess.run(
            [*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr
    assert [row["input"] for row in rows((here / "found.jsonl").read_text())] == NAMES


def test_a_folder_that_cannot_be_written_is_told(eagleeye, photos, monkeypatch):
    """With the path and the reason."""

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    ended = eagleeye("detect", photos.name, "--output", "drawn", "--format", "images")
    assert (ended.exit_code, ended.output) == (2, "Error: cannot write drawn: Permission denied\n")


def test_help_tells_formats_and_exit_codes(eagleeye):
    """And what can be resumed."""
    said = eagleeye("detect", "--help").stdout
    for text in ("jsonl", "coco", "--resume", "130", "Exit codes", "a video begins anew"):
        assert text in " ".join(said.split())


@pytest.mark.parametrize("command", ["detect", "models", "health"])
def test_help_loads_nothing_that_it_does_not_need(launch, command):
    """It answers at once, and without any extra."""
    look = "import atexit, sys; atexit.register(lambda: print(sorted(sys.modules.keys() & {'numpy', 'cv2', 'grpc'})))"
    said, _ = launch(command, "--help", start=look).communicate(timeout=60)
    assert said.decode().splitlines()[-1] == "[]"
