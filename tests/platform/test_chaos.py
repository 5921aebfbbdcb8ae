"""Short versions of `make chaos`: what they promise about lost and mixed-up requests, and nothing about speed."""

import json
import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from loadtest.chaos import failures
from tests.conftest import REPOSITORY, missing

SBIN = "/usr/sbin"


def lost(report):
    """Requests that were sent, and those of them whose callers never got their right answer."""
    summaries = report.summaries.values()
    return sum(summary.sent for summary in summaries) > 0, sum(summary.lost for summary in summaries)


def test_killing_tritons_loses_nothing(tmp_path):
    """The command tells it by its exit code, in its table, in the file and in the picture."""
    figures, picture = tmp_path / "chaos.json", tmp_path / "chaos.svg"
    command = [sys.executable, "-m", "loadtest.chaos", "--json", figures, "--picture", picture]
    kill = ["kill", "--seconds", "8", "--interval-seconds", "4", "--share", "0.4"]
    done = subprocess.run([*command, *kill], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS  requests lost by callers that wait long enough: 0" in done.stdout
    scenario = json.loads(figures.read_text())["scenarios"]["kill"]
    assert [mark["text"] for mark in scenario["marks"]][::2] == ["kill Triton 0", "kill Triton 1"]
    assert "kill Triton 0" in [element.text for element in ET.fromstring(picture.read_text()).iter()]


async def test_a_stalled_triton_loses_nothing():
    """Frozen for some seconds, with all that was on it."""
    report = await failures.stall(seconds=9, freeze_seconds=5, share=0.4)

    assert [mark.text for mark in report.marks] == ["freeze Triton 0", "thaw Triton 0"]
    assert lost(report) == (True, 0)


async def test_restarting_gateways_behind_haproxy_loses_nothing():
    """Each drains while HAProxy sends to the other."""
    if not shutil.which("haproxy", path=f"{os.environ['PATH']}:{SBIN}"):
        missing("haproxy")
    report = await failures.roll_gateways(seconds=16, share=0.4, drain_seconds=1)

    assert [mark.text for mark in report.marks] == [
        f"{what}{number}{then}"
        for number in (0, 1)
        for what, then in (("stop gateway ", ""), ("gateway ", " is ready"))
    ]
    assert lost(report) == (True, 0)


async def test_scaling_by_dns_loses_nothing():
    """And what was added has worked, sooner or later, and has stopped working when it was removed."""
    report = await failures.dns(seconds=16, share=0.4)

    assert lost(report) == (True, 0)
    measured = {check.what: check.measured for check in report.checks}
    assert measured["until each of four has work"] != "inf s"
    assert measured["until those removed had no work for 1 s"] != "inf s"


def test_an_unknown_number_is_refused_in_one_line():
    """Before anything is started."""
    command = [sys.executable, "-m", "loadtest.chaos", "overload", "--factors", "2,many"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "'2,many' must be numbers, separated by commas" in done.stderr


@pytest.mark.parametrize(
    "command", ["kill", "stall", "roll-tritons", "roll-gateways", "dns", "rollout", "overload", "flood"]
)
def test_every_proof_explains_itself(command):
    """`--help` has each option with its default and unit."""
    line = [sys.executable, "-m", "loadtest.chaos", command, "--help"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert "--seconds" in done.stdout
    assert "[default: " in done.stdout
