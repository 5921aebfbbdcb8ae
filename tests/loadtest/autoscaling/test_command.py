"""`eagleeye simulate-autoscaling`."""

import csv
import json

import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from loadtest.autoscaling.__main__ import main as draw_all
from loadtest.autoscaling.scenarios import SCENARIOS
from tests.conftest import REPOSITORY
from tests.loadtest.autoscaling.conftest import DATA

PLAIN = str(DATA / "plain.yaml")


@pytest.fixture
def simulate(tmp_path):
    """A function that calls the command."""

    def call(*arguments, overlay=PLAIN):
        return CliRunner().invoke(
            main, ["simulate-autoscaling", "--overlay", overlay, "--output", str(tmp_path / "out"), *arguments]
        )

    return call


@pytest.fixture
def demand(tmp_path):
    file = tmp_path / "day.csv"
    file.write_text("seconds,images_per_second\n0,100\n60,100\n60,4000\n240,4000\n")
    return str(file)


def test_a_demand_becomes_data_and_a_picture(simulate, demand, tmp_path):
    """Each file says the same."""
    result = simulate("--demand", demand)
    found = json.loads((tmp_path / "out" / "figures.json").read_text())
    with (tmp_path / "out" / "timeline.csv").open() as lines:
        rows = list(csv.DictReader(lines))

    assert result.exit_code == 0, result.output
    assert "1 -> 2   pods  queue-depth" in result.output
    assert f"{found['goodput_percent']}" in result.output
    assert (found["scaling"][0]["before"], found["scaling"][0]["after"]) == (1, 2)
    assert sum(float(row["offered"]) for row in rows) == pytest.approx(found["images"], rel=1e-3)
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_a_scenario_by_name_with_other_pods(simulate):
    """Options change what is simulated: a faster curve, more pods, a shorter start."""
    options = ("--per-image-ms", "0.5", "--cold-start-seconds", "20", "--max-replicas", "9", "--seed", "3")

    assert simulate("--scenario", "spike", *options).exit_code == 0


def test_lost_triggers_by_name(simulate, demand):
    """The fallback's first time is among the figures."""
    assert "fallback seconds  97.5" in simulate("--demand", demand, "--lose", "50-200:gpu-busy").output


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give one of --demand and --scenario"),
        (("--scenario", "spike", "--demand", PLAIN), "give one of --demand and --scenario"),
        (("--demand", PLAIN), "plain.yaml: the first line must be seconds,images_per_second"),
        (("--scenario", "party"), "'party' is not one of 'step', 'surge'"),
        (("--scenario", "spike", "--lose", "9-3"), "must be seconds such as 600-1200"),
        (("--scenario", "spike", "--lose", "3-9:gpu"), "there is no trigger 'gpu'; there are: gpu-busy, queue-depth"),
        (("--scenario", "spike", "--target", "gateway"), "there must be one ScaledObject for 'gateway'"),
        (("--scenario", "spike", "--max-replicas", "0"), "0 is not in the range x>=1"),
    ],
)
def test_mistakes_are_told_in_a_line(simulate, arguments, message):
    """What was wrong, and what is allowed."""
    result = simulate(*arguments)

    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_fewer_pods_than_the_overlay_has_at_least(simulate, rendered):
    """Production has two."""
    result = simulate("--scenario", "spike", "--max-replicas", "1", overlay=str(rendered("production")))

    assert "--max-replicas is 1, and the overlay has 2 at least" in result.output


def test_help_tells_units(simulate):
    """And what the columns are."""
    output = " ".join(simulate("--help").output.split())

    assert "CSV with the columns seconds and images_per_second" in output
    assert "in ms" in output


def test_every_scenario_has_a_picture_in_the_docs(tmp_path, monkeypatch):
    """And the docs have no other."""
    monkeypatch.setattr("loadtest.autoscaling.__main__.SCENARIOS", {"spike": SCENARIOS["spike"]})
    result = CliRunner().invoke(draw_all, ["--overlay", PLAIN, "--pictures", str(tmp_path)])
    text = (REPOSITORY / "docs" / "autoscaling.md").read_text()
    names = {path.name for path in (REPOSITORY / "docs" / "pictures").glob("autoscaling-*.png")}

    assert "| `spike` |" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["autoscaling-spike.png"]
    assert names == {f"autoscaling-{name}.png" for name in SCENARIOS}
    assert all(f"pictures/{name}" in text for name in names)
