"""The accuracy gate with a real Triton and a real gateway: what is measured, published and refused."""

import dataclasses
import json

import pytest
from PIL import Image

from export.errors import GateError
from export.pipeline import ExportOptions, export_model
from export.precision_options import GateOptions
from tests.conftest import REPOSITORY

CHECKPOINTS = REPOSITORY / "export" / "checkpoints"
BOARDS = 12


@pytest.fixture(scope="module")
def options(shared_dir, tmp_path_factory):
    """The shipped checkpoint, in FP16, gated by some of the annotated boards."""
    folder = tmp_path_factory.mktemp("gate")
    data = shared_dir / "data" / "deeppcb"
    truth = json.loads((data / "annotations.json").read_text())
    truth["images"] = truth["images"][:BOARDS]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [box for box in truth["annotations"] if box["image_id"] in ids]
    (folder / "annotations.json").write_text(json.dumps(truth))
    return ExportOptions(
        variant="Ns",
        checkpoint=CHECKPOINTS / "damoyolo_tinynasL18_Ns_deeppcb.pth",
        labels=CHECKPOINTS / "deeppcb.labels.txt",
        name="gated",
        repository=folder / "repository",
        precision="fp16",
        gate=GateOptions(
            data / "images",
            folder / "annotations.json",
            report=folder / "gate.json",
            triton_env=REPOSITORY / ".venv-triton",
        ),
    )


@pytest.fixture(scope="module")
def useless(tmp_path_factory):
    """Calibration images without anything in them: the ranges that INT8 gets from them fit no board."""
    folder = tmp_path_factory.mktemp("useless")
    for shade in (0, 1):
        Image.new("RGB", (416, 416), (shade, shade, shade)).save(folder / f"{shade}.png")
    return folder


def test_good_candidate_is_published_with_its_figures(options):
    """FP16 keeps the mAP of FP32; both stand in the config, and a second export finds that nothing is to do."""
    summary = export_model(options)
    parameter = summary.model.parameter

    assert (summary.outcome, parameter("precision")) == ("published", "fp16")
    assert float(parameter("map50_95_fp32")) == summary.verdict.fp32.mean.ap50_95 > 0.4
    assert abs(float(parameter("map50_95")) - float(parameter("map50_95_fp32"))) < 0.002
    assert json.loads(options.gate.report.read_text())["passed"] is True

    again = export_model(options)
    ungated = export_model(dataclasses.replace(options, gate=None))
    assert [again.outcome, ungated.outcome] == ["unchanged", "unchanged"]


def test_broken_quantization_is_refused(options, useless):
    """INT8 by useless images is a sound graph that finds little: nothing is published, and the report says where."""
    broken = dataclasses.replace(options, name="broken", precision="int8", float_layers="none", calibration=useless)

    with pytest.raises(
        GateError, match=r"not published: int8 has 0\.\d+ mAP where fp32 has 0\.\d+, which is 0\.\d+ less"
    ):
        export_model(broken)

    assert not (options.repository / "broken").exists()
    report = json.loads(options.gate.report.read_text())
    assert report["passed"] is False
    assert report["map_drop"] > 0.05
    assert options.gate.report.with_suffix(".png").is_file()
