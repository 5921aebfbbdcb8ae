"""A short soak against a real Triton: that it looks, judges and tells, not what it finds."""

import json

from click.testing import CliRunner

from loadtest.soak.__main__ import main
from tests.conftest import REPOSITORY


def test_a_soak_looks_judges_and_tells(tmp_path, monkeypatch):
    """A line for each slice, all of it as data and picture; seconds say nothing about growth."""
    monkeypatch.chdir(REPOSITORY)
    file = tmp_path / "soak.json"

    result = CliRunner().invoke(main, ["--minutes=0.05", "--concurrency=2", "--size=720p", f"--json={file}"])

    assert result.exit_code == 0, result.output
    results = json.loads(file.read_text())
    assert [target["is_met"] for target in results["targets"]] == [True, None]
    assert len(results["slices"]) == 4
    assert sum(each["images"] for each in results["slices"]) > 4
    assert all(each["gateway_mb"] > 20 and each["triton_mb"] > 20 for each in results["slices"])
    assert all(each["open_files"] > 4 and each["threads"] > 1 for each in results["slices"])
    assert results["settings"]["gateway"] == {"triton_shared_memory": 64}
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "MB an hour after the first quarter" in result.output
