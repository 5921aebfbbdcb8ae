"""A copy and a model with two classes swapped, in the shadow of the shipped one: what the report makes of them."""

import asyncio
import json
import shutil
from collections import Counter

import aiohttp
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from eagleeye.boards import LABELS, draw_board
from gateway.annotate import encode_image
from tests.conftest import REPOSITORY
from tests.platform.conftest import MODEL, free_ports
from tests.platform.test_lifecycle import Gateway
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer

SHIPPED, COPY, SWAPPED = 1, 2, 3
ONE, OTHER = "open", "pin-hole"
SECONDS = 60
BOARDS = 8


def swap_classes(path):
    """Let a model call the one class by the other's id."""
    model = onnx.load(path)
    ids = list(range(len(LABELS)))
    one, other = LABELS.index(ONE), LABELS.index(OTHER)
    ids[one], ids[other] = other, one
    for node in model.graph.node:
        node.output[:] = ["true_class_ids" if name == "class_ids" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(ids, np.int32), "swapped"))
    model.graph.node.append(helper.make_node("Gather", ["swapped", "true_class_ids"], ["class_ids"]))
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture
async def triton(platform, tmp_path):
    """One that serves the shipped model, a copy of it, and one that takes two classes for each other."""
    model = tmp_path / "models" / MODEL
    shutil.copytree(platform.folder / "models" / MODEL, model)
    for version in (COPY, SWAPPED):
        shutil.copytree(model / str(SHIPPED), model / str(version))
    swap_classes(model / str(SWAPPED) / "model.onnx")
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    config.ClearField("model_warmup")  # it would take seconds for each version, and no latency is asserted
    config.version_policy.specific.versions[:] = [SHIPPED, COPY, SWAPPED]
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(tmp_path)
    triton = TritonServer(installation, tmp_path / "models", Ports(*free_ports(3)), restarts_itself=False)
    async with running([triton]):
        await triton.until_serving(SECONDS)
        yield triton


@pytest.fixture
def rollout(tmp_path):
    """Writes the file as a whole."""

    def write(weights, candidate):
        path = tmp_path / "rollout.json"
        entry = {"weights": {str(version): weight for version, weight in weights.items()}}
        entry |= {"shadow": {"version": candidate, "percent": 100}} if candidate else {}
        path.with_suffix(".new").write_text(json.dumps({"models": {MODEL: entry}}))
        path.with_suffix(".new").replace(path)
        return path

    return write


@pytest.fixture
def pictures():
    """Real boards where they are, else drawn ones."""
    folder = REPOSITORY.parent / "shared" / "data" / "deeppcb" / "images"
    found = sorted(folder.glob("*"))[:BOARDS]
    return [path.read_bytes() for path in found] or [
        encode_image(draw_board(seed).image, ".png") for seed in range(66, 66 + BOARDS)
    ]


@pytest.fixture
async def gateway(platform, triton, rollout, tmp_path):
    log = tmp_path / "gateway.log"
    options = {"triton-url": f"127.0.0.1:{triton.ports.grpc}", "rollout-file": rollout({SHIPPED: 100}, COPY)}
    gateway = Gateway(platform, log, **options, **{"drain-seconds": 0})
    async with aiohttp.ClientSession(gateway.url) as session:
        await gateway.ready(session)
        yield session
    gateway.process.kill()
    gateway.process.wait()


async def read(session, path):
    async with session.get(path) as response:
        assert response.status == 200
        return await response.json()


async def compared_with(session, candidate, pictures):
    """Detect on each picture; the comparison with the candidate, and the labels that were served, in sum."""
    async with asyncio.timeout(SECONDS):
        while (await read(session, f"/v1/models/{MODEL}"))["shadow"]["version"] != str(candidate):
            await asyncio.sleep(0.05)
        served = Counter()
        for number, picture in enumerate(pictures, start=1):
            async with session.post("/v1/detect", data=picture) as response:
                answer = await response.json()
            assert answer["model"]["version"] == str(SHIPPED)
            served.update(detection["label"] for detection in answer["detections"])
            while True:
                (comparison,) = (await read(session, "/v1/shadow"))["comparisons"]
                if sum(comparison["images"].values()) == number:
                    break
                await asyncio.sleep(0.01)
    assert comparison["images"] == {"compared": len(pictures), "dropped": 0, "unserved": 0, "failed": 0}
    return comparison, served


async def test_a_copy_agrees_and_swapped_classes_are_told(gateway, rollout, pictures):
    """All boxes of the copy; of the other model all but those of the two classes, which it calls by each other's name.

    Then the copy is promoted, and answers.
    """
    comparison, served = await compared_with(gateway, COPY, pictures)
    assert served.total() > BOARDS
    assert served[ONE]
    assert served[OTHER]
    assert comparison["boxes"] == {"agreed": served.total(), "relabelled": 0, "missing": 0, "extra": 0, "agreement": 1}
    assert abs(comparison["score_shift"]["mean"]) < 1e-3
    assert comparison["iou"]["quantiles"]["0.05"] > 0.999

    rollout({SHIPPED: 100}, SWAPPED)
    comparison, served = await compared_with(gateway, SWAPPED, pictures)
    assert {each["label"]: each["relabelled"] for each in comparison["labels"] if each["relabelled"]} == {
        ONE: served[ONE],
        OTHER: served[OTHER],
    }
    assert {(each["served"], each["candidate"], each["boxes"]) for each in comparison["relabelled"]} == {
        (ONE, OTHER, served[ONE]),
        (OTHER, ONE, served[OTHER]),
    }
    swapped = served[ONE] + served[OTHER]
    assert {name: comparison["boxes"][name] for name in ("agreed", "relabelled", "missing", "extra")} == {
        "agreed": served.total() - swapped,
        "relabelled": swapped,
        "missing": 0,
        "extra": 0,
    }

    rollout({COPY: 100}, None)
    async with asyncio.timeout(SECONDS):
        while (await read(gateway, f"/v1/models/{MODEL}"))["weights"] != {str(COPY): 100}:
            await asyncio.sleep(0.05)
    async with gateway.post("/v1/detect", data=pictures[0]) as response:
        assert (await response.json())["model"]["version"] == str(COPY)
