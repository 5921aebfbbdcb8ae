"""Figures -> tables for people, JSON for programs, and a verdict for the shell."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from loadtest import machine
from loadtest.chaos.figures import Second, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DOUBTFUL_LAG_MS: Final = 20.0  # of the generator; a latency of ours is not measured to less than that
_COLUMNS: Final = {
    "sent": "sent",
    "ok": "ok",
    "late": "late",
    "refused": "refused",
    "failed": "failed",
    "wrong": "wrong",
    "retried": "retried",
    "per_second": "ok/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
    "lag_p99_ms": "lag ms",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what it is about, what was measured, what is wanted, and whether that was met."""

    what: str
    measured: str
    wanted: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done to the fleet, at seconds of the clock."""

    at: float
    text: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What one scenario measured.

    Attributes:
        name: of its command.
        title: what was done.
        facts: what the figures stand on, such as the measured capacity.
        summaries: what callers got, by what they were.
        checks: the promises.
        cpu_shares: see `Sampler.shares`.
        seconds: the timeline.
        marks: what was done when.
    """

    name: str
    title: str
    facts: dict[str, float | int | str] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    cpu_shares: dict[str, float] = field(default_factory=dict)
    seconds: list[Second] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def is_met(self) -> bool:
        """Whether every promise was kept."""
        return all(check.is_met for check in self.checks)

    def check(self, what: str, value: float, unit: str = "", *, at_most: float = math.inf, at_least: float = 0) -> None:
        """Hold a figure against its bounds; NaN keeps no promise."""
        wanted = f"at least {at_least:g}" if math.isinf(at_most) else f"at most {at_most:g}"
        self.checks.append(Check(what, f"{value:.4g}{unit}", f"{wanted}{unit}", at_least <= value <= at_most))


def show(report: Report) -> None:
    """Print a report."""
    click.secho(f"\n{report.name}: {report.title}", bold=True)
    if report.facts:
        click.echo("  " + ", ".join(f"{name} {_text(value)}" for name, value in report.facts.items()))
    width = max(map(len, report.summaries), default=0) + 2
    click.echo(" " * (width + 2) + "".join(f"{title:>10}" for title in _COLUMNS.values()))
    for name, summary in report.summaries.items():
        values = (_text(getattr(summary, column)) for column in _COLUMNS)
        click.echo(f"  {name:<{width}}" + "".join(f"{value:>10}" for value in values))
    for name, summary in report.summaries.items():
        if summary.reasons:
            click.echo(f"  attempts of {name} that did not do: {_counts(summary.reasons)}")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report.cpu_shares.items())
    click.echo(f"  processors busy: {shares}")
    if any(summary.lag_p99_ms > _DOUBTFUL_LAG_MS for summary in report.summaries.values()):
        click.echo(f"  NOTE  requests were sent more than {_DOUBTFUL_LAG_MS:g} ms late, so latencies are doubtful")
    for check in report.checks:
        verdict = click.style("PASS", fg="green") if check.is_met else click.style("FAIL", fg="red", bold=True)
        click.echo(f"  {verdict}  {check.what}: {check.measured}, wanted {check.wanted}")


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]))


def _text(value: float | str) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.1f}"
    return str(value)


def save(reports: Sequence[Report], path: Path) -> dict[str, Any]:
    """Put reports into a file, where they replace those of the same name; all that the file then has."""
    figures: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"scenarios": {}}
    figures["machine"] = machine.describe()
    figures["scenarios"] |= {report.name: _as_json(report) for report in reports}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_one_line_each(figures))
    return figures


def _as_json(report: Report) -> dict[str, Any]:
    """A report with its timeline column by column."""
    content = dataclasses.asdict(report)
    rows = content.pop("seconds")
    content["timeline"] = {each.name: [row[each.name] for row in rows] for each in dataclasses.fields(Second)}
    return {"is_met": report.is_met, **_without_nan(content)}


def _one_line_each(figures: dict[str, Any]) -> str:
    """One scenario is one line: timelines with a figure a line would be thousands."""
    lines = [f"{json.dumps(name)}: {json.dumps(content)}" for name, content in figures["scenarios"].items()]
    return f'{{"machine": {json.dumps(figures["machine"])},\n"scenarios": {{\n' + ",\n".join(lines) + "\n}}\n"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
