"""`eagleeye model` on a running `eagleeye up`: what is loaded changes when somebody says so, and without a gap."""

import asyncio
import shutil
import sys

import aiohttp

from export.repository import find_published
from tests.platform.conftest import MODEL


async def model(platform, *words):
    """Run `eagleeye model` on that platform's repository and Triton; exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eagleeye", "model", *words, "--repository", platform.folder / "models"),
        *("--triton-url", f"127.0.0.1:{platform.ports['triton_grpc']}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_versions_come_and_go_beside_the_one_that_serves(platform, http, board):
    """A broken one is refused with ONNX Runtime's words; a good one is served; the first never stops answering."""
    folder = platform.folder / "models" / MODEL
    config, answers, stop = (folder / "config.pbtxt").read_bytes(), [], asyncio.Event()

    async def call():
        while not stop.is_set():
            async with http.post("/v1/detect?version=1", data=board) as response:
                answers.append((response.status, len((await response.json()).get("detections", []))))

    before = platform.triton_metric("nv_inference_count", 'version="1"')
    calling = asyncio.create_task(call())
    try:
        shutil.copytree(folder / "1", folder / "2")
        (folder / "2" / "model.onnx").write_bytes(b"garbage")
        code, said = await model(platform, "load", MODEL, "2")
        assert code == 1
        assert "Protobuf parsing failed" in said
        assert f"{MODEL} is as it was before everywhere" in said
        assert (folder / "config.pbtxt").read_bytes() == config

        shutil.copyfile(folder / "1" / "model.onnx", folder / "2" / "model.onnx")
        code, said = await model(platform, "load", MODEL, "2")
        assert code == 0, said
        assert find_published(folder.parent, MODEL).loaded == (1, 2)
        await until_served(http, ["1", "2"])
        async with http.post("/v1/detect?version=2", data=board) as response:
            assert (await response.json())["model"]["version"] == "2"

        assert (await model(platform, "unload", MODEL, "2"))[0] == 0
        await until_served(http, ["1"])
    finally:
        stop.set()
        await calling
        (folder / "config.pbtxt").write_bytes(config)
        shutil.rmtree(folder / "2")

    assert set(answers) == {(200, 6)}
    after = platform.triton_metric("nv_inference_count", 'version="1"')
    assert after - before >= len(answers), "the first version has been loaded anew: its count began again"


async def until_served(http, versions):
    """Wait until the gateway has noticed."""
    async with asyncio.timeout(90):
        while True:
            async with http.get(f"/v1/models/{MODEL}") as response:
                if (await response.json())["versions"] == versions:
                    return
            await asyncio.sleep(0.1)


async def test_triton_is_up_to_date_without_being_told_again(platform):
    """To load what is loaded changes nothing, and takes no time to speak of."""
    code, said = await model(platform, "load", MODEL, "1")

    assert (code, said.splitlines()[-1]) == (0, f"{MODEL}: loaded are version 1")
    async with aiohttp.ClientSession(platform.url) as session, session.get("/readyz") as response:
        assert response.status == 200
