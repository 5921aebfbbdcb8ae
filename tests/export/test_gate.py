"""What the accuracy gate decides and tells. That it measures rightly is shown in tests/platform/test_gate.py."""

import copy
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from export.calibration import CalibrationSet
from export.errors import GateError
from export.evaluate import coco_metrics
from export.gate import Verdict, held_out, read_gate_dataset
from export.gate_report import PICTURED_CLASSES, describe, draw, refusal, report, write_report
from export.precision_options import GateOptions
from tests.conftest import REPOSITORY

LABELS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")


@pytest.fixture(scope="module")
def options(shared_dir):
    """The annotated boards; Triton is where `make` puts it."""
    data = shared_dir / "data" / "deeppcb"
    return GateOptions(data / "images", data / "annotations.json", triton_env=REPOSITORY / ".venv-triton")


@pytest.fixture(scope="module")
def dataset(options):
    return read_gate_dataset(options, LABELS)


@pytest.fixture(scope="module")
def official(options):
    """The official model's detections on those boards."""
    return json.loads((options.annotations.parent / "detections_official.json").read_text())


@pytest.fixture(scope="module")
def good(dataset, official):
    return coco_metrics(dataset.annotations, official)


@pytest.fixture(scope="module")
def worse(dataset, official):
    """Metrics of detections that miss every second `short`."""
    shorts = [found for found in official if found["category_id"] == 2]
    missed = {id(found) for found in shorts[::2]}
    return coco_metrics(dataset.annotations, [found for found in official if id(found) not in missed])


@pytest.mark.parametrize("allowed, passed", [(0.005, False), (0.5, True)])
def test_verdict(good, worse, allowed, passed):
    """What loses more than is allowed fails, what loses less passes; the classes that lose most come first."""
    verdict = Verdict(candidate=worse, fp32=good, max_map_drop=allowed)

    assert verdict.passed is passed
    assert verdict.map_drop == good.mean.ap50_95 - worse.mean.ap50_95 > 0.005
    assert next(iter(verdict.losses())) == "short"
    assert list(verdict.losses().values()) == sorted(verdict.losses().values(), reverse=True)


def test_gain_passes(good, worse):
    """A candidate that is better than FP32 passes, also where nothing may be lost."""
    assert Verdict(candidate=good, fp32=worse, max_map_drop=0).passed


def test_no_figure_does_not_pass(good):
    """A mean of nothing is not good enough."""
    nothing = dataclasses.replace(good, mean=dataclasses.replace(good.mean, ap50_95=math.nan))

    assert not Verdict(candidate=nothing, fp32=good, max_map_drop=0.005).passed


def test_refusal_says_where(good, worse):
    """One sentence has both figures, the limit, and the worst class."""
    text = refusal(Verdict(worse, good, 0.005), "int8")

    assert text.startswith(f"not published: int8 has {worse.mean.ap50_95:.4f} mAP where fp32 has 0.5809, which is 0.0")
    assert "0.005 is allowed; the classes that lose most are short (" in text


def test_table(good, worse):
    """A line for each class, worst first, and the mean."""
    lines = describe(Verdict(worse, good, 0.005), "int8")

    assert lines[0].split() == ["class", "fp32", "int8", "loss", "AP50-95"]
    assert [line.split()[0] for line in lines[1:]][::7] == ["short"]
    assert lines[-1].split()[:2] == ["all", "0.5809"]
    assert len(lines) == 8


def test_curves_are_coco_s(good):
    """A class's curve has precision at 101 recalls, never rises, and its mean is AP50."""
    for name, curve in good.curves.items():
        assert len(curve) == 101
        assert (np.diff(curve) <= 0).all()
        assert np.mean(curve) == pytest.approx(good.per_class[name].ap50)


def test_report(dataset, good, worse, tmp_path):
    """JSON and picture are written side by side; the JSON has what a program may want to know."""
    write_report(tmp_path / "gate.json", Verdict(worse, good, 0.005), "int8", dataset)
    written = json.loads((tmp_path / "gate.json").read_text())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate.json", "gate.png"]
    assert written["picture"] == "gate.png"
    assert (written["passed"], written["precision"], written["images"], written["max_map_drop"]) == (
        False,
        "int8",
        60,
        0.005,
    )
    assert written["fp32"]["ap50_95"] == good.mean.ap50_95
    assert written["map_drop"] == written["fp32"]["ap50_95"] - written["candidate"]["ap50_95"]
    short = written["per_class"]["short"]
    assert short["fp32"]["precision_at_recall"] == good.curves["short"] != short["candidate"]["precision_at_recall"]
    with Image.open(tmp_path / "gate.png") as picture:
        assert picture.size[0] > 1000


def test_class_without_ground_truth_is_left_out(dataset, official):
    """It has no precision, so there is nothing to lose and nothing to draw; the JSON stays valid."""
    annotations = copy.deepcopy(dataset.annotations)
    annotations["categories"].append({"id": 7, "name": "scratch"})
    metrics = coco_metrics(annotations, official)
    verdict = Verdict(metrics, metrics, 0.005)

    assert "scratch" not in verdict.losses()
    assert verdict.passed
    json.dumps(report(verdict, "fp16", dataset), allow_nan=False)
    draw(verdict, "fp16")


def test_many_classes_are_cut(good):
    """With many classes the picture shows those that lose most, in as many panels as one can read."""
    names = [f"class {number}" for number in range(80)]
    metrics = type(good)(
        good.mean, dict.fromkeys(names, good.per_class["open"]), dict.fromkeys(names, good.curves["open"])
    )
    picture = Image.open(io.BytesIO(draw(Verdict(metrics, metrics, 0.005), "fp16")))

    assert PICTURED_CLASSES == 24
    assert picture.size[1] < 2 * picture.size[0]


def test_missing_package_is_found_first(options, monkeypatch):
    """Without the extra, what to install is said before anything is built."""
    monkeypatch.setattr("export.gate.EXTRA", ("matplotlib", "no_such_package"))

    with pytest.raises(GateError, match=r"the gate needs no_such_package: pip install 'eagleeye\[gate\]'"):
        read_gate_dataset(options, LABELS)


@pytest.mark.parametrize(
    "changes, labels, complaint",
    [
        ({"annotations": REPOSITORY / "none.json"}, LABELS, "cannot read .*none.json"),
        ({"images": REPOSITORY}, LABELS, "60 of 60 images are missing"),
        ({}, ("open", "scratch"), r"no category for 'scratch' of the model's labels; its categories are open, short"),
        ({"report": REPOSITORY / "none" / "gate.json"}, LABELS, "there is no folder .*none"),
        (
            {"triton_env": REPOSITORY / "none"},
            LABELS,
            "the gate serves the model to measure it: there is no tritonserver",
        ),
    ],
)
def test_what_cannot_work_is_found_first(options, changes, labels, complaint):
    """Each thing that would fail after minutes is found before anything is built."""
    with pytest.raises(GateError, match=complaint):
        read_gate_dataset(dataclasses.replace(options, **changes), labels)


def test_calibration_images_do_not_count(dataset, tmp_path):
    """Under any name: the gate measures on what the quantization has not seen, and says if that is nothing."""
    paths = [picture.path for picture in dataset.pictures]
    copies = [tmp_path / f"{number}.jpg" for number in range(20)]
    for copy_, path in zip(copies, paths, strict=False):
        copy_.write_bytes(path.read_bytes())

    rest = held_out(dataset, CalibrationSet(tuple(copies), 416))

    ids = {picture.id for picture in rest.pictures}
    assert rest.pictures == dataset.pictures[20:]
    assert {image["id"] for image in rest.annotations["images"]} == ids
    assert {box["image_id"] for box in rest.annotations["annotations"]} <= ids
    assert len(rest.annotations["annotations"]) < len(dataset.annotations["annotations"])
    assert rest.annotations["categories"] == dataset.annotations["categories"]
    with pytest.raises(GateError, match="all annotated images of the gate are calibration images, too"):
        held_out(dataset, CalibrationSet(tuple(paths), 416))
