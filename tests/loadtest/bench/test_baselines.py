"""The servers beside: what can be said of them without starting them. `tests/platform/test_bench.py` starts them."""

import asyncio
import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path

import aiohttp
import click
import pytest

from export.repository import find_published
from gateway.triton.shared_memory import FOLDER, PREFIX
from loadtest.baselines import bare_hop_server
from loadtest.baselines.servers import BASELINES
from loadtest.baselines.triton_ensemble import ENSEMBLE, INFER, write
from loadtest.chaos.processes import free_ports
from tests.conftest import REPOSITORY
from tests.gateway.test_contract import config
from tests.gateway.triton.fake_triton import SOON, FakeTriton, until
from tests.gateway.triton.fake_triton import serving as serving_fake
from triton_runtime.standin import MODEL, Standin, encode_png, numbered_picture

PICTURE = encode_png(numbered_picture(7))


@pytest.fixture
def configs(tmp_path):
    """The configs of an ensemble around the stand-in, by model."""
    Standin(size=96).write(tmp_path)
    write(tmp_path, MODEL, Path("environment"), is_scaled=True)
    return {name: find_published(tmp_path, name).config for name in ("preprocess", MODEL, "postprocess", ENSEMBLE)}


def test_the_ensemble_joins_what_fits(configs):
    """All that a step needs comes from the caller or an earlier step, with the same type and shape."""
    ensemble = configs[ENSEMBLE]
    made = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = configs[step.model_name]
        needed = {step.input_map[tensor.name]: (tensor.data_type, list(tensor.dims)) for tensor in model.input}
        assert needed.items() <= made.items()
        made |= {step.output_map[tensor.name]: (tensor.data_type, list(tensor.dims)) for tensor in model.output}

    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["preprocess", MODEL, "postprocess"]
    assert {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.output}.items() <= made.items()


def test_the_python_models_batch_in_an_environment_of_their_own(configs, tmp_path):
    """Wherever Triton itself runs, and as large a batch as the detector takes."""
    for name in ("preprocess", "postprocess"):
        parameters = configs[name].parameters
        assert parameters["EXECUTION_ENV_PATH"].string_value == str(Path("environment").absolute())
        assert configs[name].HasField("dynamic_batching")
        assert configs[name].max_batch_size == configs[MODEL].max_batch_size
        assert (tmp_path / name / "1" / "model.py").is_file()


def test_no_ensemble_without_a_detector(tmp_path):
    """There would be nothing for it to ask."""
    with pytest.raises(click.ClickException, match="no model gpu_standin"):
        write(tmp_path, MODEL, Path("environment"), is_scaled=False)


def test_tritons_answer_is_read():
    """The text stands behind Triton's JSON and the length, whatever characters both have."""
    answer = {"detections": [{"label": "Fußgänger {"}]}
    text = json.dumps(answer, ensure_ascii=False).encode()
    head = b'{"model_name":"ensemble","outputs":[{"name":"answer"}]}'

    assert INFER.read(head + len(text).to_bytes(4, "little") + text) == answer


@pytest.mark.parametrize("name", ["triton_ensemble", "bentoml"])
def test_a_server_without_its_environment_says_so(tmp_path, name):
    """And who makes it; a half-made one does not count."""
    (tmp_path / ".venv-x").mkdir()
    beside = dataclasses.replace(BASELINES[name], environment=tmp_path / ".venv-x")

    assert beside.lacking == "there is no .venv-x; `make bench` makes it"
    (tmp_path / ".venv-x" / ".done").touch()
    assert beside.lacking == ""


def test_a_server_without_its_packages_says_so():
    """By their names."""
    beside = dataclasses.replace(BASELINES["flask"], packages=("flask", "no_such_package"))

    assert beside.lacking == "no_such_package not installed; extra `baselines`"


@pytest.fixture
async def triton():
    """One that serves two labels as the stand-in's name, and its address."""
    triton = FakeTriton()
    triton.configs = {MODEL: config(("toy", MODEL))}
    async with serving_fake(triton) as port:
        yield triton, f"127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def bare_hop(triton):
    """The server as a process, and the port that it is to have."""
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "loadtest.baselines.bare_hop_server", f"--triton={triton}", f"--port={port}")
    process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY)
    try:
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_bare_hop_shares_memory_and_leaves_none(triton):
    """Triton finds the tensors there; a SIGTERM is enough for the file and Triton's hold on it to be gone."""
    triton, address = triton
    async with bare_hop(address) as (process, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def post(data):
            async with session.post("/v1/detect", data=data) as answer:
                return answer.status, await answer.text()

        await until(lambda: triton.regions)
        async with asyncio.timeout(SOON):
            while not await is_up(session):
                await asyncio.sleep(0.02)
        ((region, key),) = triton.regions.items()
        files = set(re.findall(rf"{FOLDER}/{PREFIX}\w+", Path(f"/proc/{process.pid}/maps").read_text()))
        status, answer = await post(PICTURE)
        refused, why = await post(PICTURE[:100])
        process.terminate()
        async with asyncio.timeout(SOON):
            assert await process.wait() == 0

    assert status == 200
    assert [found["label"] for found in json.loads(answer)["detections"]] == ["cat", "händler", "händler"]
    (asked,) = triton.requests
    assert asked.inputs[0].parameters["shared_memory_region"].string_param == region
    assert (refused, why) == (400, "the PNG image is truncated or damaged")
    assert files == {f"{FOLDER}{key}"}
    assert not (FOLDER / key.removeprefix("/")).exists()
    assert triton.regions == {}


async def is_up(session):
    with contextlib.suppress(aiohttp.ClientConnectionError):
        async with session.get("/healthz") as response:
            return response.status == 200
    return False


@pytest.mark.parametrize(
    "model, change, says",
    [
        (MODEL, {"can_share": False}, "does not share memory with this process; both must be on this machine"),
        (MODEL, {"version": "2.40.0"}, "does not share memory with this process"),
        ("toy", {}, f"no Triton serves {MODEL} at 127.0.0.1:"),
    ],
)
async def test_the_bare_hop_needs_the_memory_and_the_model(triton, model, change, says):
    """Else it would measure another way; it says so in a line, and leaves nothing."""
    triton, address = triton
    triton.configs = {model: config()}
    for name, value in change.items():
        setattr(triton, name, value)

    with pytest.raises(click.ClickException, match=says):
        await bare_hop_server.serve(address, *free_ports(1), is_scaled=False)
    assert triton.regions == {}
