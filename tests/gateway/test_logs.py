"""One structured line per request, as JSON or for a person."""

import asyncio
import json
import subprocess
import sys

import aiohttp
import pytest
from structlog.testing import capture_logs


async def test_a_detection_is_one_line_with_all_that_matters(rest, png):
    """Who asked, what was found, how long it took."""
    with capture_logs() as lines:
        await rest.post("/v1/detect", data=png, headers={"X-Request-Id": "mine"})
    (line,) = lines
    assert line.pop("latency_ms") > 0
    assert line == {
        "event": "detect",
        "log_level": "info",
        "face": "rest",
        "code": "ok",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/detect",
        "status": 200,
        "model": "toy",
        "version": 3,
        "images": 1,
        "image_bytes": len(png),
        "image_wh": (96, 48),
        "detections": 2,
        "best_label": "cat",
        "best_score": 0.9,
    }


async def test_a_refusal_is_one_line_with_its_code(rest):
    """The caller's mistakes are no warnings."""
    with capture_logs() as lines:
        await rest.post("/v1/detect", data=b"text")
    assert [(line["code"], line["status"], line["log_level"]) for line in lines] == [
        ("unsupported_media_type", 415, "info")
    ]


async def test_a_failure_of_ours_is_a_warning(rest, predictor, png):
    """An unexpected error has its traceback in the log, under the same request id."""
    predictor.error = RuntimeError("secret")
    with capture_logs() as lines:
        await rest.post("/v1/detect", data=png, headers={"X-Request-Id": "mine"})
    error, request = lines
    assert (error["event"], error["exc_info"], error["request_id"]) == ("unexpected error", True, "mine")
    assert (request["code"], request["log_level"]) == ("internal", "warning")


async def test_a_client_that_leaves_is_one_line_too(rest, predictor, metrics, png):
    """Its work is cancelled, and counted as such under its model."""
    predictor.go.clear()
    with capture_logs() as lines:
        request = asyncio.create_task(rest.post("/v1/detect", data=png))
        while not predictor.tensors:
            await asyncio.sleep(0.005)
        request.cancel()
        async with asyncio.timeout(30):
            while not lines:
                await asyncio.sleep(0.005)
    (line,) = lines
    assert (line["event"], line["code"], line["status"], line["model"]) == ("detect", "cancelled", 499, "toy")
    labels = {"face": "rest", "model": "toy", "code": "cancelled"}
    assert metrics.registry.get_sample_value("eagleeye_requests_total", labels) == 1


async def test_several_images_are_one_line_with_the_best_of_all(rest, png):
    """The counts are sums, and what failed is counted by its code."""
    form = aiohttp.FormData()
    for data in (png, b"text", png):
        form.add_field("image", data, filename="a.png")
    with capture_logs() as lines:
        await rest.post("/v1/detect", data=form)
    (line,) = lines
    assert (line["images"], line["detections"], line["failed"]) == (3, 4, {"unsupported_media_type": 1})
    assert (line["best_label"], line["best_score"]) == ("cat", 0.9)


async def test_probes_leave_no_lines(rest):
    """Kubernetes and Prometheus ask every few seconds."""
    with capture_logs() as lines:
        for path in ("/healthz", "/readyz", "/metrics"):
            await rest.get(path)
    assert lines == []


PROGRAM = """
import logging, structlog
from gateway import logs
logs.configure("{form}")
structlog.get_logger().info("request", code="ok")
logging.getLogger("aiohttp.server").error("from a library")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("unexpected error")
"""


@pytest.mark.parametrize("form", ["json", "auto"])
def test_every_line_is_json_where_nobody_reads(form):
    """Also what libraries say, and tracebacks, which stay one line."""
    program = PROGRAM.format(form=form)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["request", "from a library", "unexpected error"]
    assert all({"level", "timestamp"} <= line.keys() for line in lines)
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert done.stdout == ""


def test_text_is_for_people():
    """No JSON, the same content."""
    program = PROGRAM.format(form="text")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "request" in done.stderr
    assert "code=ok" in done.stderr
    assert "{" not in done.stderr.splitlines()[0]
