"""`eagleeye load` against the real thing: all kinds of callers, reports, and exit codes."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from loadtest.load import command

PROFILE = """\
title = "All kinds of callers"
load = "{load}"
max_lag_ms = 60000
[[stages]]
name = "only"
seconds = {seconds}
{level}
[users]
http = 1
grpc = 1
stream = 1
[cameras]
count = 2
frames_per_second = 2
[images]
count = 2
[[images.sizes]]
wh = [320, 320]
[[slo]]
figure = "error_share"
at_most = 0
[[slo]]
figure = "p99_ms"
at_most = {p99_ms}
"""


@pytest.fixture
def load(platform, tmp_path):
    """Runs a profile; gives its exit code, what it printed, and its result."""

    def run(*flags, **profile):
        (tmp_path / "profile.toml").write_text(PROFILE.format(**profile))
        command = [
            *(sys.executable, "-m", "eagleeye", "load", "run", str(tmp_path / "profile.toml")),
            *("--url", platform.url, "--grpc-url", f"grpc://127.0.0.1:{platform.ports['grpc']}"),
            *("--triton-metrics-url", f"http://127.0.0.1:{platform.ports['triton_metrics']}/metrics"),
            *("--output", str(tmp_path / "report"), *flags),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (tmp_path / "report" / "result.json").is_file(), done.stdout + done.stderr
        assert not {"report.html", "report.md", "load.svg"} - {path.name for path in (tmp_path / "report").iterdir()}
        return done.returncode, done.stdout, json.loads((tmp_path / "report" / "result.json").read_text())

    return run


def verdicts(result):
    """Right answers of each kind; there may be no others."""
    rows = {row["users"]: row["verdicts"] for row in result["figures"] if row["users"]}
    assert all(row["ok"] == sum(row.values()) for row in rows.values()), (rows, result["reasons"])
    return {kind: row["ok"] for kind, row in rows.items()}


def test_closed_load_from_two_workers_meets_its_objectives(load):
    """Every kind of caller gets right answers, and the deployment tells how it is."""
    code, said, result = load("--workers", "2", load="closed", seconds=2, level="users = 3", p99_ms=60000)
    assert code == 0, said
    right = verdicts(result)
    assert set(right) == {"camera", "grpc", "http", "stream"}
    assert min(right.values()) >= 2
    assert result["figures"][0]["staleness_p50_ms"] > 0
    assert result["generators"] == 2
    assert {"tritons", "batch_size"} <= result["watched"]["series"].keys()
    assert result["stages"][0]["tritons"] == 1


def test_open_load_that_misses_an_objective_says_so(load):
    """Exit code 1, and a line that says by how much."""
    code, said, result = load(load="open", seconds=2, level="per_second = 9", p99_ms=0.5)
    assert code == 1, said
    right = verdicts(result)
    assert right["http"] + right["grpc"] + right["stream"] == 18
    (line,) = (line for line in said.splitlines() if line.startswith("MISSED"))
    assert "p99_ms" in line
    assert "wanted at most 0 ms: missed by" in line or "wanted at most 0.5 ms: missed by" in line


def test_a_face_that_is_not_there_is_named(platform, tmp_path):
    """Before any load: it would be nothing but failures."""
    arguments = ["run", "smoke", "--url", platform.url, "--grpc-url", "grpc://127.0.0.1:9", "--output", str(tmp_path)]
    done = CliRunner().invoke(command.load, arguments)
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.endswith("; the profile needs the gRPC face, which --grpc-url names\n")
