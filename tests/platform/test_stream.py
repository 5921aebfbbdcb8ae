"""Streams of frames against the live platform: tritonclient works unchanged, and every way to end a stream is clean."""

import asyncio
import multiprocessing
import re
import signal
from functools import partial

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conftest import REPOSITORY
from tests.platform.conftest import MODEL, detections
from tests.platform.test_lifecycle import gateway, inflight, session  # noqa: F401 (fixtures)

FRAMES = 60


@pytest.fixture
def address(platform):
    """host:port of the live gRPC face."""
    platform.wait_until_ready()
    return f"127.0.0.1:{platform.ports['grpc']}"


def image_input(image):
    tensor = triton_grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([image], object))
    return tensor


def message(image, frame_id="", **texts):
    request = service_pb2.ModelInferRequest(model_name=MODEL, id=frame_id)
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(image).to_bytes(4, "little") + image)
    for name, text in texts.items():
        request.parameters[name].string_param = text
    return request


async def open_streams(http, url):
    async with http.get(f"{url}/metrics") as response:
        return float(re.search(r"^eagleeye_streams (\S+)$", await response.text(), re.MULTILINE)[1])


async def until_idle(http, url):
    """Wait until no stream is open and no image is in work."""
    async with asyncio.timeout(90):
        while await open_streams(http, url) or await inflight(http, url):
            await asyncio.sleep(0.05)


async def test_the_blocking_clients_stream_finds_what_rest_finds(address, board, expected):
    """Bit for bit, with sequences and everything else that it may send along; a bad frame is told in its place."""

    def stream():
        answers, is_last = [], []

        def note(result, error):
            answers.append((result, error))
            if result is not None:
                is_last.append(result.get_response().parameters["triton_final_response"].bool_param)

        with triton_grpc.InferenceServerClient(address) as client:
            client.start_stream(note)
            for index in range(FRAMES):
                client.async_stream_infer(
                    MODEL,
                    [image_input(b"hello" if index == 1 else board)],
                    request_id=str(index),
                    sequence_id=7,
                    sequence_start=index == 0,
                    sequence_end=index == FRAMES - 1,
                    enable_empty_final_response=True,
                )
            client.stop_stream()
        return answers, is_last

    answers, is_last = await asyncio.to_thread(stream)
    _, error = answers.pop(1)
    assert "JPEG, PNG, WebP and BMP" in error.message()
    ids = [result.get_response().id for result, _ in answers]
    assert ids == ["0", *(str(index) for index in range(2, FRAMES))]
    assert all(detections(result) == expected for result, _ in answers)
    assert is_last == [True] * (FRAMES - 1)


async def test_the_asynchronous_clients_stream_finds_what_rest_finds(address, board, expected):
    """Bit for bit, for two cameras in one stream."""

    async def frames():
        for index in range(FRAMES):
            yield {
                "model_name": MODEL,
                "inputs": [image_input(board)],
                "request_id": str(index),
                "sequence_id": f"camera {index % 2}",
            }

    async with triton_grpc_aio.InferenceServerClient(address) as client:
        answers = [answer async for answer in client.stream_infer(frames())]
    assert all(error is None and detections(result) == expected for result, error in answers)
    ids = [int(result.get_response().id) for result, _ in answers]
    for camera in (0, 1):
        assert [each for each in ids if each % 2 == camera] == list(range(camera, FRAMES, 2))


async def test_the_newest_frames_of_a_fast_camera_are_answered(address, board, platform):
    """With the count of the others, and without asking Triton about them."""
    before = platform.settled_metric("nv_inference_request_success")
    async with grpc.aio.insecure_channel(address) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            message(board, str(index), mode="latest") for index in range(FRAMES)
        )
        answers = [answer.infer_response async for answer in call]
    assert answers[-1].id == str(FRAMES - 1)
    assert sum(answer.parameters["dropped"].int64_param + 1 for answer in answers) == FRAMES
    assert len(answers) < FRAMES
    expected = before + len(answers)
    assert platform.settled_metric("nv_inference_request_success", at_least=expected) == expected


async def test_the_example_of_the_page_works(address, board, tmp_path, monkeypatch, capsys):
    """As it stands there, but for the port."""
    page = (REPOSITORY / "docs" / "streams.md").read_text()
    (example,) = re.findall(r"```python\n([^`]*start_stream[^`]*)```", page)
    (tmp_path / ".eagleeye").mkdir()
    (tmp_path / ".eagleeye" / "board.jpg").write_bytes(board)
    monkeypatch.chdir(tmp_path)
    await asyncio.to_thread(exec, example.replace("127.0.0.1:8081", address), {})
    assert capsys.readouterr().out.startswith("10 [b'")


def send_for_ever(port, image):
    """A client that is killed in the middle of it."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter(lambda: message(image), None)
        ):
            pass


async def test_a_client_that_is_killed_leaves_nothing(gateway, session, board):  # noqa: F811
    """Its stream ends, with its work, and the gateway goes on."""
    it = gateway()
    await it.ready(session)
    client = multiprocessing.get_context("spawn").Process(target=send_for_ever, args=(it.grpc_port, board))
    client.start()
    async with asyncio.timeout(90):
        while not (await open_streams(session, it.url) and await inflight(session, it.url)):
            await asyncio.sleep(0.01)
    client.kill()
    client.join()
    await until_idle(session, it.url)
    async with session.post(f"{it.url}/v1/detect", data=board) as response:
        assert response.status == 200


def stream_for_ever(port, image, on_first):
    """Answers until the stream ends, and the error that it ends with.

    By the blocking client: the asynchronous one takes a broken write for an error of its own, INTERNAL, if it sees that
    before the status.
    """
    answers = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            for answer in stub.ModelStreamInfer(iter(lambda: message(image), None), timeout=30):
                answers.append(answer)
                if len(answers) == 1:
                    on_first()
        except grpc.RpcError as error:
            return answers, error


async def test_sigterm_ends_streams_after_their_answers(gateway, session, board):  # noqa: F811
    """No answer is torn off, the status tells to connect again, and the process ends in time, with code 0."""
    it = gateway(**{"drain-seconds": 1})
    await it.ready(session)
    stop = partial(it.process.send_signal, signal.SIGTERM)
    answers, error = await asyncio.to_thread(stream_for_ever, it.grpc_port, board, stop)
    assert all(answer.infer_response.outputs for answer in answers)
    assert (error.code().name, "connect again" in error.details()) == ("UNAVAILABLE", True)
    assert await it.stopped() == 0


async def test_a_gateway_that_is_killed_is_unavailable(gateway, session, board):  # noqa: F811
    """In the middle of a stream: what the client sees tells it to go elsewhere."""
    it = gateway()
    await it.ready(session)
    _, error = await asyncio.to_thread(stream_for_ever, it.grpc_port, board, it.process.kill)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
