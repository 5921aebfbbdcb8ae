"""Figures as a table, as JSON, as a picture, and as a verdict."""

import json
import math
from xml.etree import ElementTree as ET

import pytest

from loadtest.chaos.figures import Second, summarize
from loadtest.chaos.picture import draw
from loadtest.chaos.report import Mark, Report, save, show


def report(name="kill", **fields):
    seconds = [
        Second(at=at, ok=90, refused=0, failed=0, p50_ms=math.nan if at == 1 else 20.0, p99_ms=40.0) for at in range(3)
    ]
    summaries = {"callers": summarize([])}
    return Report(name=name, title="a < b", summaries=summaries, seconds=seconds, marks=[Mark(1.5, "kill 1")], **fields)


@pytest.mark.parametrize("value, is_met", [(0.94, False), (0.95, True), (0.97, True), (math.nan, False)])
def test_a_promise_is_kept_within_its_bounds(value, is_met):
    """What could not be measured keeps none."""
    it = report()
    it.check("goodput / peak", value, at_least=0.95)

    assert it.is_met is is_met


def test_one_broken_promise_breaks_the_scenario():
    """And the table says which."""
    it = report()
    it.check("lost", 0, at_most=0)
    it.check("memory", 7.5, " %", at_most=5)

    assert not it.is_met


def test_the_table_says_what_was_measured_and_wanted(capsys):
    """One line for each promise."""
    it = report()
    it.check("memory", 7.5, " %", at_most=5)
    show(it)

    assert "FAIL  memory: 7.5 %, wanted at most 5 %" in capsys.readouterr().out


def test_figures_replace_those_of_the_same_scenario_only(tmp_path):
    """A run of one scenario leaves the others' figures in the file; what was not measured is null."""
    file = tmp_path / "results" / "chaos.json"
    save([report("kill", facts={"load": 1}), report("stall")], file)
    save([report("kill", facts={"load": 2})], file)
    scenarios = json.loads(file.read_text())["scenarios"]

    assert list(scenarios) == ["kill", "stall"]
    assert scenarios["kill"]["facts"] == {"load": 2}
    assert scenarios["kill"]["timeline"]["p50_ms"] == [20.0, None, 20.0]


def test_the_picture_has_a_row_for_each_timeline(tmp_path):
    """It is well-formed whatever a title holds, and a scenario without a timeline has no row."""
    without = Report(name="scale", title="no timeline")
    figures = save([report("kill"), report("stall"), without], tmp_path / "chaos.json")
    texts = [element.text for element in ET.fromstring(draw(figures["scenarios"])).iter() if element.text]

    assert [text for text in texts if text.endswith("a < b")] == ["kill: a < b", "stall: a < b"]
    assert texts.count("kill 1") >= 2
    assert not any("scale" in text for text in texts)
