"""What every face tells about its requests: the same counts, and one structured log line each."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from gateway.detector import Result
    from gateway.errors import GatewayError
    from gateway.metrics import Metrics
    from gateway.model import Served

OK = "ok"
"""The `code` of a request that was answered as asked; any other is the stable code of an error."""

_MAX_REQUEST_ID_CHARACTERS: Final = 128

_random = random.Random()  # noqa: S311 (seeded by the system; no secret, and not worth asking the system each time)
_log = structlog.get_logger()


class Observer:
    """Counts and logs the requests of one face, `rest` or `grpc`."""

    def __init__(self, metrics: Metrics, face: str) -> None:
        self._metrics = metrics
        self._face = face

    def detected(self, result: Result) -> None:
        """Count one image, and its detections."""
        name, version = result.model.name, str(result.version)
        self._metrics.version_images.labels(name, version, OK).inc()
        self._metrics.version_infer_seconds.labels(name, version).observe(result.timing_ms["infer"] / 1e3)
        for class_id, count in Counter(result.detections.class_ids.tolist()).items():
            self._metrics.detections.labels(result.model.name, result.model.labels[class_id]).inc(count)

    def failed(self, served: Served, error: GatewayError) -> None:
        """Count one image that a version was to answer, and did not."""
        self._metrics.version_images.labels(served.model.name, str(served.version), error.code).inc()

    def finished(self, code: str, seconds: float, *, is_detection: bool, is_failure: bool, **fields: object) -> None:
        """Count and log one request.

        Args:
            code: `OK`, or the stable code of the error that it was answered with.
            seconds: from when it was there, with its whole body, to its answer.
            is_detection: whether images were asked about; only those requests become metrics.
            is_failure: whether an error is the server's, not the caller's.
            **fields: what else the log line says. `model` must be one that is served, it becomes a metric's label.
        """
        if is_detection:
            model = fields.get("model", "")
            self._metrics.requests.labels(self._face, model, code).inc()
            self._metrics.request_seconds.labels(self._face, model).observe(seconds)
        log = _log.warning if is_failure else _log.info
        log(
            "detect" if is_detection else "request",
            face=self._face,
            code=code,
            latency_ms=round(seconds * 1e3, 3),
            **fields,
        )


def fit_request_id(given: str) -> str:
    """The caller's own id if it is fit to be logged and sent back, or else a new one."""
    if 0 < len(given) <= _MAX_REQUEST_ID_CHARACTERS and given.isascii() and given.isprintable():
        return given
    return f"{_random.getrandbits(128):032x}"
