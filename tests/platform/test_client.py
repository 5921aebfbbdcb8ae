"""EagleEye's own client against the live platform, and against a gateway that is killed under it."""

import asyncio
import re

import pytest

from eagleeye import AsyncClient, Client
from tests.conftest import REPOSITORY
from tests.eagleeye.client.conftest import connect, kind
from tests.platform.conftest import MODEL

__all__ = ["connect", "kind"]

FRAMES = 60


def addresses(platform):
    """REST's and gRPC's."""
    platform.wait_until_ready()
    return platform.url, f"grpc://127.0.0.1:{platform.ports['grpc']}"


def bits(found):
    """Everything that was found, byte for byte."""
    arrays = (found.xyxy, found.scores, found.class_ids)
    return [each.tobytes() for each in arrays], found.labels, found.image_wh, found.model, found.version


async def test_sixty_images_give_the_same_everywhere(connect, platform, shared_dir):
    """Bit for bit: one by one over REST and gRPC, and as the frames of a stream."""
    rest, grpc = addresses(platform)
    images = sorted((shared_dir / "data" / "deeppcb" / "images").iterdir())
    async with connect(rest) as by_rest, connect(grpc) as by_grpc:
        found = [bits(each) for each in await by_rest.all("detect_many", images, concurrency=2)]
        assert [bits(each) for each in await by_grpc.all("detect_many", images, concurrency=2)] == found
        frames = await by_grpc.all("stream", images)
    assert [bits(frame.detections) for frame in frames] == found
    assert sum(len(labels) for _, labels, *_ in found) > len(images)


async def test_the_shipped_model_is_described_alike(connect, platform):
    """Labels, size, thresholds and facts, over both faces."""
    rest, grpc = addresses(platform)
    async with connect(rest) as by_rest, connect(grpc) as by_grpc:
        (model,) = await by_rest.models()
        assert [model] == await by_grpc.models()
        assert (await by_rest.health()) == (await by_grpc.health())
    assert (model.name, model.input_wh, len(model.labels)) == (MODEL, (416, 416), 6)
    assert model.facts


@pytest.mark.parametrize("face", ["http", "grpc"])
async def test_a_batch_outlives_the_gateway(connect, platform, board, face):
    """SIGKILL in its middle: the gateway is started again, and every image is answered once and in order."""
    rest, grpc = addresses(platform)
    killed = []

    def images():
        for index in range(FRAMES):
            if index == FRAMES // 2:
                platform.children("-m gateway")[0].kill()
                killed.append(index)
            yield board

    async with connect({"http": rest, "grpc": grpc}[face], max_attempts=100) as client:
        expected = bits(await client.detect(board))
        found = await client.all("detect_many", images(), concurrency=4)
    assert killed
    assert [bits(each) for each in found] == [expected] * FRAMES


async def test_a_stream_outlives_the_gateway(connect, platform, board):
    """SIGKILL in its middle: every frame is answered once and in order."""
    _, grpc = addresses(platform)

    def camera():
        for index in range(FRAMES):
            if index == FRAMES // 2:
                platform.children("-m gateway")[0].kill()
            yield board

    async with connect(grpc, max_attempts=100) as client:
        expected = bits(await client.detect(board))
        frames = await client.all("stream", camera())
    assert [(frame.index, frame.dropped, frame.error) for frame in frames] == [(i, 0, None) for i in range(FRAMES)]
    assert [bits(frame.detections) for frame in frames] == [expected] * FRAMES


async def test_the_examples_of_the_page_work(platform, board, monkeypatch, tmp_path, capsys):
    """It runs as it stands, but for the addresses."""
    rest, grpc = addresses(platform)
    (tmp_path / ".eagleeye").mkdir()
    (tmp_path / ".eagleeye" / "board.jpg").write_bytes(board)
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "python.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        code = example.replace("http://127.0.0.1:8080", rest).replace("grpc://127.0.0.1:8081", grpc)
        await asyncio.to_thread(exec, compile(code, "python.md", "exec"), {})
    assert "open" in capsys.readouterr().out


def test_both_clients_have_the_same_methods():
    """They read alike, but for `await`."""
    names = [{name for name in vars(each) if not name.startswith("_")} for each in (Client, AsyncClient)]
    assert names[0] - {"close"} == names[1] - {"aclose"}
