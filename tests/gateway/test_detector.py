"""The core, from bytes to detections, over a fake predictor."""

import asyncio
import dataclasses
import threading

import cv2
import numpy as np
import pytest

from gateway.annotate import label_colour
from gateway.deadline import Deadline
from gateway.detector import Detector, Query
from gateway.errors import DeadlineExceeded, InvalidParameter, ModelNotFound, Overloaded
from gateway.image import decode, decode_for
from tests.fakes import MODEL
from tests.gateway.conftest import LIMITS, MAX_INFLIGHT, admission

SOON = 30.0


async def test_finds_what_the_predictor_sees_in_source_pixels(detector, png):
    """Boxes come back in the pixels of the 96 x 48 upload, best first, with the newest version's name on them."""
    result = await detector.detect(png, Query(), Deadline.after(SOON))
    assert result.detections.xyxy.tolist() == [[0, 0, 48, 48], [48, 0, 96, 48]]
    assert result.detections.class_ids.tolist() == [0, 1]
    assert (result.version, result.image_wh) == (3, (96, 48))


async def test_the_predictor_gets_the_models_input(detector, predictor, png):
    """uint8, at the model's own size."""
    await detector.detect(png, Query(), Deadline.after(SOON))
    (tensor,) = predictor.tensors
    assert (tensor.shape, tensor.dtype) == ((32, 64, 3), "uint8")


async def test_every_stage_is_timed(detector, png):
    """The answer tells where the time went."""
    timing = (await detector.detect(png, Query(), Deadline.after(SOON))).timing_ms
    assert set(timing) == {"decode", "preprocess", "infer", "postprocess", "total"}
    assert sum(timing.values()) - timing["total"] <= timing["total"]


@pytest.mark.parametrize("classes", [("dog",), ("1",)])
async def test_classes_are_named_by_label_or_id(detector, png, classes):
    """Both ways select the same class."""
    result = await detector.detect(png, Query(classes=classes), Deadline.after(SOON))
    assert result.detections.class_ids.tolist() == [1]


async def test_an_unknown_class_is_named(detector, png):
    """The message says what the model knows."""
    with pytest.raises(InvalidParameter, match=r"'cow'.*ids 0 to 1 or: cat, dog"):
        await detector.detect(png, Query(classes=("cow",)), Deadline.after(SOON))


def test_a_label_comes_before_an_id():
    """A class that is called by another's number is found by its name; of two with one name, the first is."""
    model = dataclasses.replace(MODEL, labels=("1", "1"))
    assert Query(classes=("1",)).thresholds(model).class_ids == {0}


async def test_a_picture_is_drawn_only_where_it_is_asked_for(detector, png):
    """It has the size of the upload, and the boxes in the colours of their labels."""
    assert (await detector.detect(png, Query(), Deadline.after(SOON))).picture is None
    result = await detector.detect(png, Query(), Deadline.after(SOON), with_picture=True)
    picture = decode(result.picture, LIMITS)
    assert picture.shape == (48, 96, 3)
    assert picture[24, 0].tolist() == pytest.approx(label_colour("cat"), abs=60)
    assert "encode" in result.timing_ms


@pytest.mark.parametrize("values", [{"score_threshold": 1.01}, {"iou_threshold": -0.1}, {"max_detections": 0}])
def test_values_out_of_range_are_refused(values):
    """A query checks itself, so no face can forget to."""
    (name,) = values
    with pytest.raises(InvalidParameter, match=f"{name}.*must lie between"):
        Query(**values)


async def test_an_unknown_model_is_refused_before_the_image_is_decoded(detector):
    """Not even garbage is looked at."""
    with pytest.raises(ModelNotFound):
        await detector.detect(b"garbage", Query(model="other"), Deadline.after(SOON))


async def test_a_full_gateway_refuses_and_recovers(detector, predictor, metrics, png):
    """Images that can't wait are refused at once; when there is room again, images are served as before."""
    predictor.go.clear()
    held = [asyncio.create_task(detector.detect(png, Query(), Deadline.after(SOON))) for _ in range(MAX_INFLIGHT + 1)]
    while len(predictor.tensors) < MAX_INFLIGHT:
        await asyncio.sleep(0.005)
    with pytest.raises(Overloaded) as refusal:
        await detector.detect(png, Query(), Deadline.after(SOON))
    predictor.go.set()

    assert refusal.value.retry_after_seconds >= 1
    assert metrics.registry.get_sample_value("eagleeye_shed_total", {"model": "toy", "reason": "queue"}) == 1
    assert [len((await task).detections) for task in held] == [2] * len(held)
    assert len((await detector.detect(png, Query(), Deadline.after(SOON))).detections) == 2


async def test_a_slow_predictor_meets_the_deadline(detector, predictor, png):
    """The deadline travels to the predictor; the next request is served as usual."""
    predictor.go.clear()
    with pytest.raises(DeadlineExceeded, match="50 ms"):
        await detector.detect(png, Query(), Deadline.after(0.05))
    predictor.go.set()
    assert len((await detector.detect(png, Query(), Deadline.after(SOON))).detections) == 2


async def test_a_deadline_that_has_passed_starts_no_work(detector, predictor, png):
    """Nothing is decoded and nobody is asked."""
    with pytest.raises(DeadlineExceeded):
        await detector.detect(png, Query(), Deadline.after(-1))
    assert predictor.tensors == []


async def test_a_cancelled_request_leaves_nothing_running(detector, predictor, metrics, png):
    """The predictor's call is cancelled too, and the place in the gateway is free again."""
    predictor.go.clear()
    task = asyncio.create_task(detector.detect(png, Query(), Deadline.after(SOON)))
    while not predictor.tensors:
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert predictor.cancelled == 1
    assert metrics.registry.get_sample_value("eagleeye_inflight", {"model": "toy"}) == 0


async def test_a_cancelled_request_keeps_its_thread_until_the_work_has_ended(predictor, metrics, png, monkeypatch):
    """Whoever comes next waits for the thread within its own deadline, not behind it in a queue."""
    may_end = threading.Event()
    monkeypatch.setattr("gateway.detector.decode_for", lambda *asked: may_end.wait(10) and decode_for(*asked))
    async with Detector(predictor, LIMITS, admission(metrics), metrics, threads=1) as detector:
        first = asyncio.create_task(detector.detect(png, Query(), Deadline.after(SOON)))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        with pytest.raises(DeadlineExceeded):
            await detector.detect(png, Query(), Deadline.after(0.1))
        may_end.set()
        assert len((await detector.detect(png, Query(), Deadline.after(SOON))).detections) == 2


async def test_an_image_whose_caller_has_left_is_not_decoded(predictor, metrics, png, monkeypatch):
    """It waited at a thread that was busy with another one, and keeps its place there until it is passed over."""
    is_busy, may_end, decoded = threading.Event(), threading.Event(), []

    def decode_slowly(*asked):
        decoded.append(asked)
        is_busy.set()
        may_end.wait(10)
        return decode_for(*asked)

    monkeypatch.setattr("gateway.detector.decode_for", decode_slowly)
    async with Detector(predictor, LIMITS, admission(metrics), metrics, threads=1) as detector:
        first, second = (asyncio.create_task(detector.detect(png, Query(), Deadline.after(SOON))) for _ in range(2))
        await asyncio.to_thread(is_busy.wait, 10)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        may_end.set()
        await first
        await detector.detect(png, Query(), Deadline.after(SOON))
    assert len(decoded) == 2


async def test_boxes_of_an_image_that_is_decoded_small_are_those_of_the_whole_one(predictor, metrics):
    """What a caller sees of scaled decoding is the time it saves."""
    pixels = np.zeros((640, 1280, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    results = []
    for is_scaled in (False, True):
        async with Detector(
            predictor, LIMITS, admission(metrics), metrics, threads=1, is_decoding_scaled=is_scaled
        ) as detector:
            results.append(await detector.detect(jpeg, Query(), Deadline.after(SOON)))
    whole, scaled = results
    assert scaled.image_wh == whole.image_wh == (1280, 640)
    assert (scaled.detections.xyxy == whole.detections.xyxy).all()
    assert (predictor.tensors[0] == predictor.tensors[1]).all()
