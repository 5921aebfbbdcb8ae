"""Through the live REST endpoint, the shipped model finds what the official code finds."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gateway.boxes import iou

TOLERANCE = 0.002


@pytest.fixture(scope="module")
def deeppcb(shared_dir):
    return shared_dir / "data" / "deeppcb"


def test_map_equals_the_official_figures(platform, deeppcb, tmp_path):
    """mAP50-95 and mAP50 on 60 real images, as `eagleeye evaluate` measures them, within 0.002."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "eagleeye", "evaluate", "--url", platform.url, "--images", deeppcb / "images"]
    command += ["--annotations", deeppcb / "annotations.json", "--json", report]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    measured = json.loads(report.read_text())["metrics"]
    official = json.loads((deeppcb / "reference.json").read_text())["metrics"]
    assert measured["mAP50_95"] == pytest.approx(official["mAP50_95"], abs=TOLERANCE)
    assert measured["mAP50"] == pytest.approx(official["mAP50"], abs=TOLERANCE)


async def test_boxes_equal_the_official_ones(http, deeppcb):
    """Each confident official detection is there: same class, a score within 0.001, a box that overlaps by 99 %."""
    categories = {"open": 1, "short": 2, "mousebite": 3, "spur": 4, "copper": 5, "pin-hole": 6}
    official = json.loads((deeppcb / "detections_official.json").read_text())
    images = json.loads((deeppcb / "annotations.json").read_text())["images"][:10]
    for image in images:
        async with http.post(
            "/v1/detect?score_threshold=0.05&iou_threshold=0.7",
            data=(deeppcb / "images" / image["file_name"]).read_bytes(),
        ) as response:
            served = (await response.json())["detections"]
        boxes = np.array([list(d["box"].values()) for d in served], np.float32)
        scores = np.array([d["score"] for d in served])
        classes = np.array([categories[d["label"]] for d in served])
        for expected in (d for d in official if d["image_id"] == image["id"] and d["score"] > 0.1):
            x, y, width, height = expected["bbox"]
            box = np.clip(np.array([x, y, x + width, y + height], np.float32), 0, 640)
            same = (classes == expected["category_id"]) & (np.abs(scores - expected["score"]) < 1e-3)
            assert (same & (iou(box[np.newaxis], boxes)[0] > 0.99)).any(), (image["file_name"], expected)
