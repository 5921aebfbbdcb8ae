"""The GPU stand-in: its timing is a GPU's, and its answers tell whose they are."""

import asyncio
import os
import signal

import numpy as np
import psutil
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_client
from hypothesis import given
from hypothesis import strategies as st

from gateway.detections import RawPredictions
from gateway.image import ImageLimits, decode
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import ResizeMode, resize
from tests.conftest import REPOSITORY
from tests.platform.conftest import free_ports
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer
from triton_runtime.standin import MODEL, SIZE, Standin, candidates, encode_png, fingerprint, numbered_picture
from triton_runtime.standin.candidates import CANDIDATES, LABELS

BASE_MS, PER_IMAGE_MS = 200, 2  # long enough for dozens of requests to arrive while one runs

numbers = st.integers(0, 2**32 - 1)


# ----------------------------------------------------------------------------------------------------------- answers


@given(numbers, st.integers(2, 300), st.floats(0, 0.58), st.floats(0, 0.99))
def test_what_the_gateway_keeps_spells_the_fingerprint(number, size, score_threshold, iou_threshold):
    """For every picture, whatever the thresholds within reason: eight detections, those of the best candidates."""
    picture = numbered_picture(number, size)
    predictions = RawPredictions(*(array[0] for array in candidates(picture[np.newaxis])))
    tensor, back = resize(picture, (size, size), ResizeMode.STRETCH)
    assert np.array_equal(tensor, picture)
    found = postprocess(predictions, back, Thresholds(score_threshold, iou_threshold))
    assert "".join(LABELS[class_id] for class_id in found.class_ids) == fingerprint(picture)
    assert np.array_equal(found.xyxy, predictions.boxes[: len(found.xyxy)])


@given(st.lists(numbers, min_size=1, max_size=16), st.integers(16, 80), st.integers(16, 80))
def test_candidates_keep_the_contract(seeds, height, width):
    """Shapes, types, scores that fall within [0, 1], boxes in the picture; each row is that of its image alone."""
    images = np.stack([np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8) for seed in seeds])
    boxes, scores, class_ids = candidates(images)
    assert (boxes.dtype, scores.dtype, class_ids.dtype) == (np.float32, np.float32, np.int32)
    assert (boxes.shape, scores.shape) == ((len(images), CANDIDATES, 4), (len(images), CANDIDATES))
    assert class_ids.shape == scores.shape
    assert np.all(np.diff(scores) < 0)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert np.all((boxes >= 0) & (boxes <= [width, height, width, height]))
    assert np.all(boxes[..., 2:] > boxes[..., :2])
    for row, image in enumerate(images):
        alone = candidates(image[np.newaxis])
        assert all(
            np.array_equal(one[0], many[row]) for one, many in zip(alone, (boxes, scores, class_ids), strict=True)
        )


@given(numbers, numbers, st.integers(2, 700))
def test_two_numbers_never_share_a_fingerprint(one, other, size):
    """Nor do boxes, scores or class ids of two of them agree."""
    pictures = numbered_picture(one, size), numbered_picture(other, size)
    assert (one == other) == (fingerprint(pictures[0]) == fingerprint(pictures[1]))
    for array in candidates(np.stack(pictures)):
        assert (one == other) == np.array_equal(array[0], array[1])


@given(numbers, st.integers(1, 2**31), st.integers(1, 2**31), st.integers(2, 700))
def test_two_versions_never_agree(number, one, other, size):
    """Nor do boxes, scores or class ids of two of them: an answer tells which version gave it."""
    picture = numbered_picture(number, size)
    assert (one == other) == (fingerprint(picture, one) == fingerprint(picture, other))
    for array, another in zip(
        candidates(picture[np.newaxis], one), candidates(picture[np.newaxis], other), strict=True
    ):
        assert (one == other) == np.array_equal(array, another)


@given(numbers, st.integers(0, SIZE * SIZE * 3 - 1), st.integers(1, 255))
def test_every_byte_of_a_picture_of_the_default_size_counts(number, position, change):
    """All its rows are sampled, so no mistake on the way to the model goes unseen."""
    picture = numbered_picture(number)
    changed = picture.copy()
    changed.reshape(-1)[position] ^= change
    assert fingerprint(picture) != fingerprint(changed)


@given(st.sampled_from([(80, 64), (416, 416), (640, 640), (1080, 1920), (9000, 3)]), st.floats(0, 0.5))
def test_a_larger_picture_is_sampled_all_over(size, top):
    """Not every row counts, but a change of half the picture shows, wherever it lies."""
    height, width = size
    picture = numbered_picture(1, max(size))[:height, :width]
    changed = picture.copy()
    first = int(top * height)
    changed[first : first + -(-height // 2)] ^= 1
    assert fingerprint(picture) != fingerprint(changed)


def test_a_picture_survives_its_png():
    """The gateway sees the pixels that were drawn."""
    picture = numbered_picture(0xC0FFEE)
    assert np.array_equal(decode(encode_png(picture), ImageLimits(10**6, 10**6)), picture)


def test_a_new_latency_replaces_the_old(tmp_path):
    """The model is written as it is asked for, however often."""
    Standin(base_ms=1).write(tmp_path)
    Standin(base_ms=7.5, size=32).write(tmp_path)
    config = (tmp_path / MODEL / "config.pbtxt").read_text()
    assert 'key: "base_ms", value: { string_value: "7.5" }' in config
    assert "dims: [ 32, 32, 3 ]" in config


# ------------------------------------------------------------------------------------------------------- a real Triton


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(tmp_path_factory):
    """A Triton that serves the stand-in, and stays dead when it dies."""
    folder = tmp_path_factory.mktemp("standin")
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(folder)
    Standin(base_ms=BASE_MS, per_image_ms=PER_IMAGE_MS).write(folder / "models")
    triton = TritonServer(installation, folder / "models", Ports(*free_ports(3)), restarts_itself=False)
    async with running([triton]):
        await triton.until_serving(120)
        yield triton


@pytest_asyncio.fixture(loop_scope="module")
async def client(triton):
    """Triton's own client."""
    async with triton_client.InferenceServerClient(f"127.0.0.1:{triton.ports.grpc}") as client:
        yield client


async def infer(client, images):
    """What Triton answers for some images in one request, in the form of `candidates`."""
    tensor = triton_client.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    result = await client.infer(MODEL, [tensor])
    return [result.as_numpy(name) for name in ("boxes", "scores", "class_ids")]


async def executions(client):
    """Of each batch size: how many executions there were, and how long they took in all, in ms.

    Once they stand still: Triton counts an execution a little later than it answers.
    """
    before, same = None, 0
    async with asyncio.timeout(60):
        while same < 3:
            statistics = await client.get_inference_statistics(MODEL)
            now = {
                batch.batch_size: (batch.compute_infer.count, batch.compute_infer.ns / 1e6)
                for batch in statistics.model_stats[0].batch_stats
            }
            same = same + 1 if now == before else 0
            before = now
            await asyncio.sleep(0.05)
    return now


def pictures(first, count):
    return np.stack([numbered_picture(number) for number in range(first, first + count)])


def agree(answer, images):
    return all(np.array_equal(got, wanted) for got, wanted in zip(answer, candidates(images), strict=True))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("batch_size", [1, 5, 16])
async def test_an_execution_lasts_as_configured(triton, client, batch_size):
    """Triton's own statistics have base + per image x batch for each execution, and the processor is left alone."""
    process = psutil.Process(triton.pid)
    count_before, before = (await executions(client)).get(batch_size, (0, 0.0))
    cpu_before = sum(process.cpu_times()[:2])
    for _ in range(3):
        assert agree(await infer(client, pictures(0, batch_size)), pictures(0, batch_size))
    count, after = (await executions(client))[batch_size]
    assert count - count_before == 3
    assert after - before >= 3 * (BASE_MS + PER_IMAGE_MS * batch_size)
    assert sum(process.cpu_times()[:2]) - cpu_before < 3 * BASE_MS / 1e3 / 2


@pytest.mark.asyncio(loop_scope="module")
async def test_waiting_images_share_executions_and_get_their_own_answers(client):
    """While one batch runs the next one fills, to 16 at most; requests of several images take part."""
    before = await executions(client)
    requests = [pictures(1000, 3), *(pictures(number, 1) for number in range(60)), pictures(2000, 2)]
    answers = await asyncio.gather(*(infer(client, images) for images in requests))
    assert all(agree(answer, images) for answer, images in zip(answers, requests, strict=True))
    counts = {size: count - before.get(size, (0, 0))[0] for size, (count, _) in (await executions(client)).items()}
    assert max(counts) == 16
    assert counts[16] >= 2
    assert sum(size * count for size, count in counts.items()) == 65


@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_one_leaves_nothing_and_can_be_started_again(triton):
    """As a script does that kills Tritons: the process is gone, and it comes back."""
    killed = triton.pid
    os.kill(killed, signal.SIGKILL)
    async with asyncio.timeout(60):
        while triton.pid is not None:
            await asyncio.sleep(0.01)
    assert await triton.models() == []
    triton.start()
    await triton.until_serving(120)
    assert triton.pid != killed
    assert [model["name"] for model in await triton.models()] == [MODEL]


async def test_one_that_serves_nothing_says_so(tmp_path):
    """The message has the end of its log."""
    absent = TritonServer(
        TritonEnvironment(REPOSITORY / ".venv-triton").install(tmp_path),
        tmp_path,
        Ports(*free_ports(3)),
        name="Triton 2",
    )
    absent.log.write_text("last words\n")
    said = r"Triton 2 serves nothing after 0 s; the end of .*triton-2.log:\n +last words"
    with pytest.raises(TimeoutError, match=said):
        await absent.until_serving(0)


async def test_several_share_ports_on_addresses_of_their_own(tmp_path):
    """As pods do behind one name; the death of one takes nothing from the other."""
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(tmp_path)
    Standin().write(tmp_path / "models")
    ports = Ports(*free_ports(3))
    one, other = (
        TritonServer(
            installation,
            tmp_path / "models",
            ports,
            host=f"127.0.0.{number}",
            name=f"Triton {number}",
            restarts_itself=False,
            report=lambda _: None,
        )
        for number in (1, 2)
    )
    async with running([one, other]):
        await asyncio.gather(one.until_serving(120), other.until_serving(60))
        os.kill(one.pid, signal.SIGKILL)
        await one.stop()
        assert (one.pid, await one.models()) == (None, [])
        async with triton_client.InferenceServerClient(f"127.0.0.2:{ports.grpc}") as client:
            assert agree(await infer(client, pictures(0, 2)), pictures(0, 2))
