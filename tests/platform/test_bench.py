"""The benchmark and the tuning tool against a real Triton, for moments only: that they measure, not what."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from export.repository import find_published
from export.tuning import Tuning
from loadtest.baselines.servers import BASELINES, baseline
from loadtest.bench.__main__ import main
from loadtest.bench.images import encoded
from loadtest.bench.path import Cell
from loadtest.tune.command import Bench
from tests.conftest import REPOSITORY
from triton_runtime.standin import MODEL, Standin


def test_the_benchmark_measures(tmp_path):
    """The whole path beside its limit, and the ways to Triton, all of whose answers were right."""
    options = ("--part=path", "--part=transport", "--workload=W2", "--size=720p", "--concurrency=1", "--rounds=1")
    files = (f"--json={tmp_path / 'bench.json'}", f"--picture={tmp_path / 'bench.png'}")
    command = [sys.executable, "-m", "loadtest.bench", "--quick", "--seconds=0.5", *options, *files]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    (row,) = results["paths"]
    assert 0 < results["ratios"]["W2 720p 1 served/limit"] < 2
    assert set(row["sides"]["served"]["cpu_ms"]) == {"gateway", "triton", "callers"}
    assert results["memory_bytes"]["W2"]["gateway"] > 20_000_000
    (transport,) = results["stages"]
    assert {"gateway", "gRPC, shared memory", "HTTP aio", "tritonclient.http"} <= set(transport["cpu_ms"])
    assert "served/limit" in done.stdout


def test_what_lacks_is_told_first(tmp_path):
    """The shipped model, before anything else is measured."""
    options = ["--part", "path", "--workload", "W1", "--model-repository", str(tmp_path)]
    result = CliRunner().invoke(main, options)

    assert result.exit_code == 1
    assert "there is no model damoyolo_ns_deeppcb" in result.output


@pytest.mark.parametrize("name", BASELINES)
async def test_the_servers_beside_find_the_same_number(tmp_path, name):
    """Eight objects in each image, with the fields that ours answers."""
    async with baseline(name, tmp_path, Standin(base_ms=1, per_image_ms=0.1, size=416), is_scaled=False) as side:
        answers = side.learn("720p")
        figures = side.measure(Cell("720p", 4), 0.2)

    assert [len(answer["detections"]) for answer in answers] == [8] * 4
    assert set(answers[0]["detections"][0]) == {"label", "class_id", "score", "box"}
    assert figures["images_per_second"] > 0


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
