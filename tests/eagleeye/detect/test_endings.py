"""Runs that end before their time: killed, interrupted, without a reader, a disk or a gateway. What is done stays."""

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import cv2
import pytest
from pycocotools.coco import COCO

from tests.eagleeye.detect.conftest import draw, film
from tests.eagleeye.detect.test_command import rows

COUNT = 40
SOON = 60
SLOWLY = 0.05
"""Seconds for an image: with two at a time, a run takes a second."""


@pytest.fixture
def many(here):
    """Forty images."""
    for number in range(COUNT):
        draw(here / "many" / f"{number:02d}.png", 6 * number)
    return here / "many"


def until(condition, child=None):
    deadline = time.monotonic() + SOON
    while not condition():
        assert child is None or child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def names_in(path):
    """The pictures that an output has, each as often as it stands there, and its frames by number."""
    if path.suffix == ".jsonl":
        return [row.get("frame", row["input"]) for row in rows(path.read_text())]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [row["input"] for row in csv.DictReader(file) if row["label"] == "cat"]
    if path.suffix == ".json":
        return [image["file_name"] for image in COCO(str(path)).dataset["images"]]
    return sorted(f"many/{drawn.name}" for drawn in path.glob("*.png"))


def progress_of(path):
    """A count that grows with each picture that is done."""
    noted = path if path.suffix in {".jsonl", ".csv"} else path.with_name(f".{path.name}.run")
    return len(noted.read_bytes().splitlines()) if noted.exists() else 0


OUTPUTS = pytest.mark.parametrize("output", ["found.jsonl", "found.csv", "found.json", "drawn"])


def command(output, gateway, *inputs):
    form = ["--format", "images"] if "." not in output else []
    return ["detect", *inputs, "--url", gateway.http, "--output", output, "--concurrency", "2", *form]


@OUTPUTS
@pytest.mark.usefixtures("many")
def test_a_killed_run_goes_on(launch, here, slow_gateway, triton, output):
    """Twice killed at any moment, each image is there once in the end, and none that was there is asked about again."""
    triton.seconds_per_image = SLOWLY
    path = here / output
    arguments = command(output, slow_gateway, "many")
    for most in (16, 32):
        triton.most = most
        before = progress_of(path)
        child = launch(*arguments, "--resume")
        until(lambda before=before: progress_of(path) > before + 8, child)
        child.kill()
        child.communicate()
    kept = len(names_in(path)) if output != "found.json" else progress_of(path) - 3
    assert 8 <= kept < COUNT
    triton.reset()
    child = launch(*arguments, "--resume")
    _, said = child.communicate(timeout=SOON)
    assert child.returncode == 0, said
    assert names_in(path) == [f"many/{number:02d}.png" for number in range(COUNT)]
    done = int(re.search(rb"(\d+) were done before", said)[1])
    assert len(triton.seen) == COUNT - done
    assert done >= kept - 1  # the last may be torn


def test_a_killed_run_over_a_video_goes_on(launch, here, slow_gateway, triton):
    """At the frame where it stopped."""
    film(here / "clip.avi", COUNT)
    triton.seconds_per_image, triton.most = SLOWLY, COUNT // 2
    arguments = command("found.jsonl", slow_gateway, "clip.avi")
    child = launch(*arguments)
    until(lambda: progress_of(here / "found.jsonl") > 8, child)
    child.kill()
    child.communicate()
    triton.reset()
    assert launch(*arguments, "--resume").wait(SOON) == 0
    assert names_in(here / "found.jsonl") == list(range(COUNT))


@OUTPUTS
@pytest.mark.usefixtures("many")
def test_an_interrupted_run_leaves_what_is_done(launch, here, slow_gateway, triton, output):
    """Ctrl-C ends it with 130, two lines and an output that can be used; the second tells how to go on."""
    triton.seconds_per_image, triton.most = SLOWLY, COUNT // 2
    child = launch(*command(output, slow_gateway, "many"))
    until(lambda: progress_of(here / output) > 8, child)
    child.send_signal(signal.SIGINT)
    stdout, said = child.communicate(timeout=SOON)
    summary, last = said.decode().splitlines()
    assert (child.returncode, stdout) == (130, b"")
    done = int(re.match(r"(\d+) of \1 images done", summary)[1])
    assert last == "interrupted; the same command with --resume goes on"
    names = names_in(here / output)
    assert names == [f"many/{number:02d}.png" for number in range(len(names))]
    assert len(names) == done
    triton.reset()
    assert launch(*command(output, slow_gateway, "many"), "--resume").wait(SOON) == 0
    assert names_in(here / output) == [f"many/{number:02d}.png" for number in range(COUNT)]


@pytest.mark.parametrize("face", ["http", "grpc"])
def test_an_interrupted_video_can_be_watched(launch, here, slow_gateway, triton, face):
    """Up to where it came; it has its name, and nothing else is left."""
    film(here / "clip.avi", COUNT)
    triton.seconds_per_image, triton.most = SLOWLY, COUNT // 2
    child = launch("detect", "clip.avi", "--output", "new.avi", "--url", getattr(slow_gateway, face))
    until(lambda: len(triton.seen) > 8, child)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=SOON)
    assert child.returncode == 130, said
    done = int(re.match(rb"(\d+) of", said)[1])
    assert said.decode().splitlines()[1:] == ["interrupted"]
    capture = cv2.VideoCapture(str(here / "new.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == done
    capture.release()
    assert sorted(path.name for path in here.iterdir()) == ["clip.avi", "new.avi"]


@pytest.mark.usefixtures("many")
def test_an_interrupt_does_not_wait_for_answers(launch, slow_gateway, triton):
    """A gateway that says nothing more keeps nobody."""
    triton.pause.clear()
    child = launch(*command("found.jsonl", slow_gateway, "many"), "--timeout-seconds", 600)
    until(lambda: triton.seen, child)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=SOON)
    assert child.returncode == 130


@pytest.mark.usefixtures("many")
def test_a_reader_that_leaves_ends_it_quietly(launch, gateway):
    """As `head` does."""
    child = launch("detect", "many", "--url", gateway.http, "--concurrency", 1)
    child.stdout.readline()
    child.stdout.close()
    child.stdout = None
    _, said = child.communicate(timeout=SOON)
    assert (child.returncode, said) == (141, b"")


@pytest.mark.usefixtures("many")
def test_a_full_disk_is_told(launch, gateway):
    """In one line, also on standard output."""
    with Path("/dev/full").open("wb") as full:
        child = launch("detect", "many", "--url", gateway.http, stdout=full)
        _, said = child.communicate(timeout=SOON)
    assert (child.returncode, said) == (2, b"Error: cannot write standard output: No space left on device\n")


@pytest.mark.parametrize("output", ["found.jsonl", "found.csv"])
@pytest.mark.usefixtures("many")
def test_a_disk_that_fills_up_loses_nothing(launch, here, gateway, output):
    """The run stops with a line and 1; when there is room it goes on, without the torn line."""
    arguments = command(output, gateway, "many")
    limit = 4000
    child = launch(*arguments, start=f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))")
    _, said = child.communicate(timeout=SOON)
    assert (child.returncode, said) == (1, f"Error: cannot write {output}: File too large\n".encode())
    assert (here / output).stat().st_size == limit
    assert launch(*arguments, "--resume").wait(SOON) == 0
    assert names_in(here / output) == [f"many/{number:02d}.png" for number in range(COUNT)]


@pytest.mark.usefixtures("many")
def test_a_gateway_that_dies_ends_the_run(launch, here, own_gateway, triton):
    """One line tells that, and how to go on; when it is back, the run does, and nothing is there twice."""
    triton.seconds_per_image, triton.most = SLOWLY, COUNT // 2
    arguments = [*command("found.jsonl", own_gateway, "many"), "--timeout-seconds", 2]
    child = launch(*arguments)
    until(lambda: progress_of(here / "found.jsonl") > 8, child)
    own_gateway.kill()
    _, said = child.communicate(timeout=SOON)
    assert child.returncode == 1
    summary, last = said.decode().splitlines()
    done = int(re.match(r"(\d+) of \1 images done", summary)[1])
    assert 8 <= done < COUNT
    assert last.startswith("Error: ")
    assert last.endswith("; the same command with --resume goes on")
    assert str(own_gateway.http_port) in last
    own_gateway.start()
    triton.reset()
    assert launch(*arguments, "--resume").wait(SOON) == 0
    assert names_in(here / "found.jsonl") == [f"many/{number:02d}.png" for number in range(COUNT)]


@pytest.mark.usefixtures("many")
def test_a_gateway_that_is_back_soon_is_waited_for(launch, here, own_gateway, triton):
    """The run does not even tell."""
    triton.seconds_per_image = SLOWLY
    child = launch(*command("found.jsonl", own_gateway, "many"))
    until(lambda: progress_of(here / "found.jsonl") > 8, child)
    own_gateway.kill()
    own_gateway.start()
    _, said = child.communicate(timeout=SOON)
    assert (child.returncode, said) == (0, b"40 of 40 images done, 80 detections; written to found.jsonl\n")
    assert names_in(here / "found.jsonl") == [f"many/{number:02d}.png" for number in range(COUNT)]


def test_what_failed_is_tried_again(eagleeye, photos, here):
    """And stands in the output once, now with its answer."""
    (photos / "bad.png").write_text("no image")
    assert eagleeye("detect", "photos", "--output", "found.jsonl").exit_code == 1
    draw(photos / "bad.png", 0)
    ended = eagleeye("detect", "photos", "--output", "found.jsonl", "--resume")
    assert (ended.exit_code, ended.stderr) == (
        0,
        "1 of 1 images done, 2 detections; 6 were done before; written to found.jsonl\n",
    )
    found = rows((here / "found.jsonl").read_text())
    assert sorted(row["input"] for row in found) == sorted(
        f"photos/{path.relative_to(photos)}" for path in photos.rglob("*.*")
    )
    assert not any("error" in row for row in found)


@pytest.mark.parametrize("output", ["found.jsonl", "found.csv", "found.json", "drawn"])
@pytest.mark.usefixtures("photos")
def test_a_finished_run_has_nothing_left_to_do(eagleeye, here, output):
    """Going on with it changes nothing, and asks nothing."""
    arguments = ["detect", "photos", "--output", output, *(["--format", "images"] if output == "drawn" else [])]
    assert eagleeye(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    ended = eagleeye(*arguments, "--resume")
    assert (ended.exit_code, ended.stderr) == (
        0,
        f"0 of 0 images done, 0 detections; 6 were done before; written to {output}\n",
    )
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "more, says",
    [
        (["--score-threshold", "0.7"], "score_threshold was not given, now 0.7"),
        (["--classes", "cat"], "classes was not given, now cat"),
        (["--model", "toy"], "model was not given, now toy"),
        (["--every", "2"], "every was 1, now 2"),
        (["--format", "csv"], "format was jsonl, now csv"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_settings_are_never_mixed(eagleeye, here, more, says):
    """Another run is refused, and the output stays as it is."""
    eagleeye("detect", "photos", "--output", "found.jsonl")
    before = (here / "found.jsonl").read_bytes()
    ended = eagleeye("detect", "photos", "--output", "found.jsonl", "--resume", *more)
    assert (ended.exit_code, ended.output) == (
        2,
        f"Error: cannot go on with found.jsonl: it was begun with other settings: {says}\n",
    )
    assert (here / "found.jsonl").read_bytes() == before


@pytest.mark.usefixtures("photos")
def test_another_priority_goes_on(eagleeye, here):
    """It says how soon, not what is found."""
    assert eagleeye("detect", "photos/a.png", "--output", "found.jsonl").exit_code == 0
    ended = eagleeye("detect", "photos", "--output", "found.jsonl", "--resume", "--priority", "low")
    assert ended.exit_code == 0
    assert len((here / "found.jsonl").read_text().splitlines()) == 6


@pytest.mark.usefixtures("photos")
def test_a_priority_is_the_keys_to_allow(eagleeye, keyed_gateway, triton):  # noqa: ARG001 (`triton` resets itself)
    """What it does not allow ends the run, in a line that says so."""
    gateway, key = keyed_gateway
    ended = eagleeye("detect", "photos", "--priority", "high", "--key", key, url=gateway.http)
    assert ended.exit_code == 2
    assert "priority is 'high'; this key allows 'normal' at most" in ended.stderr


@pytest.mark.usefixtures("photos")
def test_another_address_is_told(eagleeye, gateway):
    """The gateway may have moved."""
    assert eagleeye("detect", "photos/a.png", "--output", "found.jsonl").exit_code == 0
    ended = eagleeye("detect", "photos", "--output", "found.jsonl", "--resume", url=gateway.grpc)
    assert ended.exit_code == 0
    assert ended.stderr.splitlines()[0] == f"Note: found.jsonl was begun with {gateway.http}"


@pytest.mark.usefixtures("photos")
def test_images_keep_their_places(eagleeye):
    """Other inputs that would put them elsewhere are refused."""
    assert eagleeye("detect", "photos", "--output", "drawn", "--format", "images").exit_code == 0
    ended = eagleeye("detect", "photos/d", "--output", "drawn", "--format", "images", "--resume")
    assert ended.exit_code == 2
    assert "other settings: folder was" in ended.output


@pytest.mark.usefixtures("photos")
def test_an_output_without_its_notes_is_refused(eagleeye, here):
    """Nobody knows what it was asked for with."""
    (here / "found.jsonl").write_text("{}\n")
    ended = eagleeye("detect", "photos", "--output", "found.jsonl", "--resume")
    assert ended.exit_code == 2
    assert "cannot go on with found.jsonl: .found.jsonl.run, which told" in ended.output
    assert (here / "found.jsonl").read_text() == "{}\n"


@pytest.mark.usefixtures("many")
def test_two_runs_cannot_write_one_output(launch, eagleeye, slow_gateway, triton):
    """The second is refused, whatever it asks for."""
    triton.pause.clear()
    child = launch(*command("found.jsonl", slow_gateway, "many"))
    until(lambda: triton.seen, child)
    for option in ("--resume", "--overwrite"):
        ended = eagleeye("detect", "many", "--output", "found.jsonl", option)
        assert (ended.exit_code, ended.output) == (
            2,
            "Error: cannot go on with found.jsonl: another run is writing it\n",
        )


@pytest.mark.usefixtures("photos")
def test_a_second_model_is_told(eagleeye, here):
    """Answers of two models in one output are seldom what somebody wants."""
    assert eagleeye("detect", "photos/a.png", "--output", "found.jsonl").exit_code == 0
    with (here / ".found.jsonl.run").open("a") as journal:
        journal.write(json.dumps({"answered_by": "toy/2"}) + "\n")
    notes = (here / ".found.jsonl.run").read_text().replace('"toy/3"', '"toy/1"')
    (here / ".found.jsonl.run").write_text(notes)
    ended = eagleeye("detect", "photos", "--output", "found.jsonl", "--resume")
    assert ended.exit_code == 0
    assert ended.stderr.splitlines()[0] == (
        "Warning: answers of toy/1, toy/2 and of toy/3 are mixed; name one with --model and --version"
    )


def on_a_terminal(command, **options):
    """Runs a command whose standard error is a terminal; returns what it wrote there."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    child = subprocess.Popen(command, stderr=follower, **options)
    os.close(follower)
    said = []

    def read():
        while True:
            try:
                said.append(os.read(leader, 4096))
            except OSError:  # the terminal is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    assert child.wait(SOON) == 0
    reader.join(SOON)
    os.close(leader)
    return b"".join(said).decode()


@pytest.mark.usefixtures("many")
def test_a_terminal_shows_how_far_it_is(here, slow_gateway, triton):
    """With a count, a rate and the time left, of images and frames together."""
    film(here / "clip.avi", 10)
    triton.seconds_per_image = SLOWLY
    with (here / "out").open("wb") as out:
        arguments = [
            sys.executable,
            "-m",
            "eagleeye",
            "detect",
            "many",
            "clip.avi",
            "--every",
            "5",
            "--url",
            slow_gateway.http,
        ]
        said = on_a_terminal(arguments, stdout=out, cwd=here)
    assert re.search(r"\d+/42 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ images/s\]", said)
    assert said.rstrip().endswith("42 of 42 images done, 84 detections")
