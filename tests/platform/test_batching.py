"""Dynamic batching happens, and every answer belongs to its own image."""

import asyncio
import io

import numpy as np
from PIL import Image

CONCURRENCY = 16
ROUNDS = 4


def variants(board, count):
    """Pictures that differ visibly: the sample, shifted further and further round."""
    pixels = np.asarray(Image.open(io.BytesIO(board)).convert("RGB"))
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.roll(pixels, i * 37, axis=(0, 1))).save(buffer, "PNG")
        yield buffer.getvalue()


async def detections(http, image):
    async with http.post("/v1/detect?score_threshold=0.2", data=image) as response:
        assert response.status == 200, await response.text()
        return (await response.json())["detections"]


async def test_concurrent_images_share_executions_and_keep_their_answers(platform, http, board):
    """16 at a time: Triton runs fewer executions than images, and each answer equals that of the image sent alone."""
    images = list(variants(board, CONCURRENCY))
    alone = [await detections(http, image) for image in images]
    images_before = platform.settled_metric("nv_inference_count")
    executions_before = platform.settled_metric("nv_inference_exec_count")

    together = await asyncio.gather(*(detections(http, image) for _ in range(ROUNDS) for image in images))

    inferred = platform.settled_metric("nv_inference_count", images_before + CONCURRENCY * ROUNDS) - images_before
    executed = platform.settled_metric("nv_inference_exec_count") - executions_before
    assert inferred == CONCURRENCY * ROUNDS
    assert executed < inferred / 2
    for found, expected in zip(together, alone * ROUNDS, strict=True):
        assert [d["label"] for d in found] == [d["label"] for d in expected]
        assert np.allclose([d["score"] for d in found], [d["score"] for d in expected], atol=1e-4)
        assert np.allclose(
            [list(d["box"].values()) for d in found], [list(d["box"].values()) for d in expected], atol=0.05
        )
    assert len({str(found) for found in alone}) == CONCURRENCY
