"""Each stage alone, on one thread: what the gateway does beside other ways to do it.

Ways are timed in turns, call by call, so that whatever else the machine does meets all of them; the median counts.
"""

from __future__ import annotations

import gc
import io
import json
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import orjson
import simplejpeg
from PIL import Image

from gateway.detections import Detections, RawPredictions
from gateway.detector import Result
from gateway.image import ImageLimits, decode_for
from gateway.model import Model
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import Resize, ResizeMode, resize
from gateway.rest.outputs import answer
from loadtest.bench.images import FORMATS, SIZES_WH, encoded, photo
from loadtest.bench.limit import Stages
from triton_runtime.standin.candidates import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

INPUT_WH: Final = (416, 416)
"""Input of the network that stages prepare for: the shipped model's."""
GATEWAY: Final = "gateway"
"""The way that the gateway goes; the others are held against it."""
CANDIDATES: Final = (32, 100, 300, 1000)
DETECTIONS: Final = (1, 10, 100, 500)

_LIMITS: Final = ImageLimits(max_bytes=2**30, max_pixels=2**30)
_FEWEST_CALLS: Final = 3
_SOURCE_WH: Final = (1920, 1080)
_THRESHOLDS: Final = Thresholds(score=0.05, iou=0.7)

Row = dict[str, Any]
"""What was timed (`stage`, `case`, `bytes`), and median `ms` by way."""


def compare(ways: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median milliseconds of a call by way. All take turns until each has had `seconds`, on average, or three calls."""
    clock = time.perf_counter
    for way in ways.values():
        way()  # tables, pages and caches
    times: dict[str, list[float]] = {name: [] for name in ways}
    stop_at = clock() + seconds * len(ways)
    gc.disable()
    try:
        while len(times[next(iter(ways))]) < _FEWEST_CALLS or clock() < stop_at:
            for name, way in ways.items():
                started = clock()
                way()
                times[name].append((clock() - started) * 1e3)
    finally:
        gc.enable()
    return {name: statistics.median(each) for name, each in times.items()}


def decoders(
    data: bytes, image_format: str, size_wh: tuple[int, int], *, is_scaled: bool
) -> dict[str, Callable[[], NDArray[np.uint8]]]:
    """Ways to decode one image to RGB, in full or not far above the network's input."""
    array = np.frombuffer(data, np.uint8)
    ways: dict[str, Callable[[], Any]] = {
        GATEWAY: lambda: decode_for(data, _LIMITS, INPUT_WH if is_scaled else None).pixels,
        "cv2": lambda: cv2.imdecode(array, cv2.IMREAD_COLOR_RGB),
        "pillow": lambda: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    if image_format != "JPEG":
        return ways
    width, height = INPUT_WH
    ways["gateway, full" if is_scaled else "gateway, scaled"] = lambda: (
        decode_for(data, _LIMITS, None if is_scaled else INPUT_WH).pixels
    )
    ways["simplejpeg"] = lambda: simplejpeg.decode_jpeg(data, "RGB")
    ways["simplejpeg, fast"] = lambda: simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True)
    ways["simplejpeg, scaled"] = lambda: simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height)
    for factor, flag in ((2, cv2.IMREAD_REDUCED_COLOR_2), (4, cv2.IMREAD_REDUCED_COLOR_4)):
        if min(size_wh[0] / width, size_wh[1] / height) >= factor:  # else boxes would come from enlarged pixels
            ways[f"cv2, 1/{factor}"] = partial(_reduced, array, flag)
    return ways


def _reduced(array: NDArray[np.uint8], flag: int) -> Any:
    """There is no flag for both a scale and RGB."""
    image: Any = cv2.imdecode(array, flag)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)


def decoding(sizes: Sequence[str], formats: Sequence[str], seconds: float, *, is_scaled: bool) -> list[Row]:
    """Decoders by size and format."""
    rows = []
    for size in sizes:
        for image_format in formats:
            data = encoded(size, image_format)
            ways = decoders(data, image_format, SIZES_WH[size], is_scaled=is_scaled)
            rows.append(_row("decode", f"{image_format} {size}", compare(ways, seconds), bytes=len(data)))
    return rows


def resizing(sizes: Sequence[str], seconds: float) -> list[Row]:
    """A bilinear stretch to the network's input, from whole images and from what a scaled decoder leaves."""
    rows = []
    for size in sizes:
        full = photo(size)
        half = np.ascontiguousarray(full[::2, ::2])
        ways: dict[str, Callable[[], object]] = {
            GATEWAY: partial(resize, full, INPUT_WH, ResizeMode.STRETCH),
            "half the image": partial(resize, half, INPUT_WH, ResizeMode.STRETCH),
            "area": partial(cv2.resize, full, INPUT_WH, interpolation=cv2.INTER_AREA),
        }
        rows.append(_row("resize", size, compare(ways, seconds)))
    return rows


def crowd(count: int) -> RawPredictions:
    """Candidates as a network gives them: clusters of boxes around fewer objects, best first."""
    rng = np.random.Generator(np.random.PCG64(count))
    objects = rng.uniform(0, INPUT_WH[0] - 60, (max(1, count // 8), 2))
    corners = objects[rng.integers(len(objects), size=count)] + rng.normal(0, 3, (count, 2))
    sides = rng.uniform(40, 60, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(0.06, 1, count).astype(np.float32))[::-1].copy()
    return RawPredictions(boxes, scores, rng.integers(0, len(LABELS), count).astype(np.int32))


def postprocessing(counts: Sequence[int], seconds: float) -> list[Row]:
    """Thresholds, NMS, and back to source pixels, by the number of candidates above the threshold."""
    back = Resize(_SOURCE_WH, (INPUT_WH[0] / _SOURCE_WH[0], INPUT_WH[1] / _SOURCE_WH[1]))
    rows = []
    for count in counts:
        raw = crowd(count)
        ways: dict[str, Callable[[], object]] = {
            GATEWAY: partial(postprocess, raw, back, _THRESHOLDS),
            "cv2, NMS only": partial(_cv2_nms, raw),
        }
        rows.append(_row("postprocess", f"{count} candidates", compare(ways, seconds)))
    return rows


def _cv2_nms(raw: RawPredictions) -> object:
    xywh: Any = np.concatenate([raw.boxes[:, :2], raw.boxes[:, 2:] - raw.boxes[:, :2]], axis=1)
    scores: Any = raw.scores
    class_ids: Any = raw.class_ids
    return cv2.dnn.NMSBoxesBatched(xywh, scores, class_ids, _THRESHOLDS.score, _THRESHOLDS.iou)


def writing(counts: Sequence[int], seconds: float) -> list[Row]:
    """Detections -> JSON."""
    stages = Stages("model", "1", LABELS, INPUT_WH, _THRESHOLDS, is_scaled=False)
    model = Model("model", (1,), INPUT_WH, max(counts), LABELS, ResizeMode.STRETCH, 0.4, 0.7, {})
    rows = []
    for count in counts:
        raw = crowd(count)
        found = Detections(raw.boxes, raw.scores, raw.class_ids)
        result = Result(model, 1, _SOURCE_WH, found, {"total": 1.0})
        ways: dict[str, Callable[[], object]] = {
            GATEWAY: partial(_answered, result),
            "limit": partial(stages.to_json, found, _SOURCE_WH),
            "json": partial(_json, found),
            "orjson, arrays only": partial(_orjson, [found.xyxy, found.scores, found.class_ids]),
        }
        rows.append(_row("json", f"{count} detections", compare(ways, seconds)))
    return rows


def _answered(result: Result) -> bytes:
    return _orjson(answer(result))


def _orjson(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _json(found: Detections) -> str:
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.xyxy.tolist(), strict=True)
    return json.dumps(
        [{"label": LABELS[class_id], "class_id": class_id, "score": score, "box": box} for class_id, score, box in rows]
    )


def measure(*, quick: bool, is_scaled: bool, say: Callable[[str], None]) -> list[Row]:
    """All stages but the transport."""
    cv2.setNumThreads(1)
    seconds = 0.05 if quick else 0.25
    sizes = ("720p", "1080p") if quick else tuple(SIZES_WH)
    formats = ("JPEG",) if quick else FORMATS
    say("stages: decode")
    rows = decoding(sizes, formats, seconds, is_scaled=is_scaled)
    say("stages: resize, postprocess, JSON")
    rows += resizing(sizes, seconds)
    rows += postprocessing(CANDIDATES, seconds)
    return rows + writing(DETECTIONS, seconds)


def _row(stage: str, case: str, ms: Mapping[str, float], **more: object) -> Row:
    return {"stage": stage, "case": case, **more, "ms": {name: round(value, 4) for name, value in ms.items()}}
