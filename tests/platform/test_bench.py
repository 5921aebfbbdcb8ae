"""The benchmark and the tuning tool against a real Triton, for moments only: that they measure, not what."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.repository import find_published
from export.tuning import Tuning
from gateway.triton.shared_memory import FOLDER
from loadtest.baselines.servers import BASELINES
from loadtest.bench.__main__ import main
from loadtest.bench.images import encoded
from loadtest.bench.path import PATH, Cell
from loadtest.closed_loop import ask, post
from loadtest.serving import serving
from loadtest.tune.command import Bench
from tests.conftest import REPOSITORY, missing
from triton_runtime.standin import MODEL, Standin, encode_png, numbered_picture
from triton_runtime.standin.candidates import DIGITS

STANDIN = Standin(base_ms=1, per_image_ms=0.1, size=416)
JPEG = encoded("1080p")
PNG = encode_png(numbered_picture(7, STANDIN.size))


def test_the_benchmark_measures(tmp_path):
    """The path beside its limit, two processes, the ways to Triton, and the event loop; all answers were right.

    The images are so large that whoever decoded them in another way would answer otherwise.
    """
    parts = ("--part=path", "--part=workers", "--part=transport", "--part=loop")
    options = (*parts, "--workload=W2", "--size=1080p", "--concurrency=1", "--rounds=1")
    files = (f"--json={tmp_path / 'bench.json'}", f"--picture={tmp_path / 'bench.png'}")
    command = [sys.executable, "-m", "loadtest.bench", "--quick", "--seconds=1", *options, *files]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    assert results["settings"]["gateway"] == {"triton_shared_memory": 64, "scaled_decoding": True}
    (row,) = results["paths"]
    assert results["ratios"]["W2 1080p 1 served/limit"] > 0
    assert set(row["sides"]["served"]["cpu_ms"]) == {"gateway", "triton", "callers"}
    assert results["memory_bytes"]["W2"]["gateway"] > 20_000_000
    (several,) = results["workers"]["rows"]
    assert set(several["sides"]) == {"limit", "served", "workers"}
    assert several["gain"]["median"] > 0
    one, two = (results["workers"]["memory_bytes"][side]["gateway"] for side in ("served", "workers"))
    assert two > one
    (transport,) = results["stages"]
    assert {"gateway", "gRPC, shared memory", "HTTP aio", "tritonclient.http"} <= set(transport["cpu_ms"])
    (watched,) = results["loop"]
    assert (watched["workload"], watched["size"], watched["concurrency"]) == ("W2", "1080p", 1)
    assert watched["calls"] > 0
    assert 0 < watched["cpu_ms"]["p50"] <= watched["cpu_ms"]["longest"] == watched["longest"][0]["cpu_ms"]
    assert watched["wall_ms"]["p50"] > 0
    assert "served/limit" in done.stdout


def test_full_decoding_is_measured_on_request(tmp_path):
    """As the gateway decodes by default; without shared memory, too, it has no options left."""
    options = ["--quick", "--part=stages", "--full-decoding", "--messages", f"--json={tmp_path / 'bench.json'}"]
    result = CliRunner().invoke(main, options)

    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "bench.json").read_text())
    assert results["settings"]["gateway"] == {}
    assert all("gateway, scaled" in row["ms"] for row in results["stages"] if row["stage"] == "decode")


def test_what_lacks_is_told_first(tmp_path):
    """The shipped model, before anything else is measured."""
    options = ["--part", "path", "--workload", "W1", "--model-repository", str(tmp_path)]
    result = CliRunner().invoke(main, options)

    assert result.exit_code == 1
    assert "there is no model damoyolo_ns_deeppcb" in result.output


def test_two_gateways_are_compared(tmp_path):
    """This checkout's and one of another, with options and environment of its own, in front of one Triton."""
    other = tmp_path / "other"
    for package in ("gateway", "eagleeye"):
        shutil.copytree(REPOSITORY / package, other / package)
    (other / "gateway" / "process.py").write_text('raise SystemExit("the other checkout was run")')
    command = [sys.executable, "-m", "loadtest.bench.abreast", "--concurrency=1", "--starts=1", "--rounds=2"]
    command += ["--seconds=0.3", "--gateway=pixel-threads=1", "--environment=MALLOC_ARENA_MAX=2"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    broken = subprocess.run(
        [*command, "--checkout", other], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    start, mean = done.stdout.splitlines()
    times = r"[\d.]+ and [\d.]+ ms, [+-][\d.]+% \(± [\d.]+%\)"
    assert re.fullmatch(rf"start 1: gateway {times}; event loop {times}", start)
    assert re.fullmatch(r".*mean of 1 starts: gateway [+-][\d.]+%; event loop [+-][\d.]+%", mean)
    assert broken.returncode == 1
    assert "the other checkout was run" in broken.stderr


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """What gateway and Triton find in each of the two images: large JPEGs are decoded at a part of their size."""
    folder = tmp_path_factory.mktemp("ours")
    STANDIN.write(folder / "models")

    async def answers():
        options = {"triton_env": REPOSITORY / ".venv-triton", "gateway_options": {"scaled_decoding": True}}
        async with serving(folder / "models", folder, **options) as served:
            return {data: json.loads(ask(served.address, post(*served.address, PATH, data))) for data in (JPEG, PNG)}

    return asyncio.run(answers())


@pytest.mark.parametrize("name", BASELINES)
async def test_the_servers_beside_find_the_same(tmp_path, ours, name):
    """The gateway's boxes: in a JPEG where they decode as we do, else in a picture that needs no resize.

    One with a Triton of its own shares memory with it. None leaves any behind.
    """
    beside = BASELINES[name]
    if name == "triton_ensemble" and sys.version_info >= (3, 13):
        pytest.skip("NumPy 1, which models of Triton's Python backend need, has no build for this Python")
    if beside.lacking:
        missing(f"what {name} needs")
    data = JPEG if beside.decodes_as_we_do else PNG

    async with beside.serving(tmp_path, STANDIN, is_scaled=True) as side:
        body = post(*side.address, side.interface.path, data, side.interface.headers)
        answer = side.interface.read(ask(side.address, body))
        side.learn("720p")
        figures = side.measure(Cell("720p", 4), 0.2)
        shared = {group: shared_files(find()) for group, find in side.processes.items()}

    assert answer["image"] == ours[data]["image"]
    assert len(answer["detections"]) == DIGITS
    for found, wanted in zip(answer["detections"], ours[data]["detections"], strict=True):
        assert (found["label"], found["class_id"]) == (wanted["label"], wanted["class_id"])
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-6)
        assert found["box"] == pytest.approx(wanted["box"], abs=1e-3)
    assert figures["answers"] > 0
    assert figures["cpu_ms"]["server"] > 0
    assert "triton" not in shared or shared["server"] & shared["triton"]
    assert not [file for files in shared.values() for file in files if Path(file).exists()]


def shared_files(processes):
    """The files in shared memory that some processes have mapped."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has just gone
            found.update(re.findall(rf"{FOLDER}/\S+", Path(f"/proc/{process.pid}/maps").read_text()))
    return found


async def test_a_trial_serves_a_copy(tmp_path):
    """The tuned model answers, and the repository is as it was."""
    Standin(base_ms=1, per_image_ms=0.1).write(tmp_path / "models")
    published = find_published(tmp_path / "models", MODEL)
    before = (published.directory / "config.pbtxt").read_bytes()
    (tmp_path / "scratch").mkdir()
    bench = Bench(
        published=published,
        images=[encoded("720p")],
        p99_ms=10_000.0,
        triton_env=REPOSITORY / ".venv-triton",
        folder=tmp_path / "scratch",
    )

    trial = await bench.measure(Tuning(1, queue_delay_microseconds=100), 0.1)

    assert trial.best is not None, trial.failure
    assert (published.directory / "config.pbtxt").read_bytes() == before
