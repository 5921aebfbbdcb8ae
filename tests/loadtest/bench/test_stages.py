"""Stages alone, and the limit that is made of them."""

import orjson
import pytest

from gateway.postprocess import Thresholds
from loadtest.bench import stages
from loadtest.bench.images import SIZES_WH, encoded, jpegs
from loadtest.bench.limit import StandinLimit, standin_stages
from triton_runtime.standin import Standin, fingerprint
from triton_runtime.standin.candidates import DIGITS

STANDIN = Standin(base_ms=1, per_image_ms=0.1, size=416)


@pytest.mark.parametrize("is_scaled", [False, True])
def test_every_decoder_gives_the_picture(is_scaled):
    """In full or down to no less than the network's input, and nearly the same colours."""
    data = encoded("1080p")
    ways = stages.decoders(data, "JPEG", SIZES_WH["1080p"], is_scaled=is_scaled)
    images = {name: way() for name, way in ways.items()}

    assert {"cv2, 1/2", "gateway", "simplejpeg, scaled"} <= set(images)
    assert all(min(image.shape[:2]) >= 416 for image in images.values())
    means = [image.mean(axis=(0, 1)) for image in images.values()]
    assert all(mean == pytest.approx(means[0], abs=2) for mean in means)


def test_a_scaled_decoder_never_enlarges():
    """1/2 of 1280 x 720 has 360 lines, fewer than the network's 416."""
    assert "cv2, 1/2" not in stages.decoders(encoded("720p"), "JPEG", SIZES_WH["720p"], is_scaled=False)


def test_ways_take_turns():
    """Call by call, so that all of them meet the same moments."""
    calls = []
    medians = stages.compare({name: lambda name=name: calls.append(name) for name in "ab"}, 0.0)

    assert calls == list("ab" * 4)
    assert set(medians) == {"a", "b"}


def test_a_crowd_keeps_nms_busy():
    """Some boxes suppress others, and all are above the threshold."""
    (row,) = stages.postprocessing([100], 0.0)
    found = stages.postprocess(stages.crowd(100), stages.Resize((416, 416), (1, 1)), Thresholds(0.05, 0.7))

    assert 10 < len(found) < 100
    assert set(row["ms"]) == {"gateway", "cv2, NMS only"}


def test_all_json_tells_the_same():
    """The limit writes what the gateway writes."""
    (row,) = stages.writing([10], 0.0)

    assert {"gateway", "limit"} <= set(row["ms"])


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_the_limit_ends_what_it_began(concurrency):
    """Whatever is under way at the end is finished, no thread is left waiting, and every image is counted."""
    limit = StandinLimit(standin_stages(STANDIN, "model", is_scaled=False), STANDIN, threads=2)

    rate = limit.measure(jpegs("720p", 1), concurrency, seconds=0.1)

    assert 0 <= rate.images_per_second * 0.1 <= 1000
    assert rate.cpu_ms > 0


def test_the_limit_finds_what_the_stand_in_finds():
    """Its answer to one image spells that image's fingerprint."""
    limit = StandinLimit(standin_stages(STANDIN, "model", is_scaled=False), STANDIN, threads=1)
    tensor, _ = limit.stages.preprocess(encoded("720p"))

    found = orjson.loads(limit.detect(encoded("720p")))["detections"]

    assert "".join(each["label"] for each in found[:DIGITS]) == fingerprint(tensor)
