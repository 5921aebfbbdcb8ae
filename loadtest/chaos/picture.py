"""Timelines as one SVG picture: a row for each scenario, answers per second on the left, latency on the right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH: Final = 1200
_ROW: Final = 230
_PLOT_WIDTH: Final = 500
_PLOT_HEIGHT: Final = 130
_LEFT: Final = (60, 660)
_TOP: Final = 58
_COLOURS: Final = {"ok": "#2e8b57", "refused": "#e0a030", "failed": "#d03030", "p50_ms": "#4070c0", "p99_ms": "#9040a0"}
_LABELS: Final = {
    "ok": "answered/s",
    "refused": "refused/s",
    "failed": "failed/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
}
_TICKS: Final = 4
_MOST_MARK_TEXTS: Final = 12  # more would cover each other: then the lines speak for themselves

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Plot:
    """One pair of axes: seconds from `begin` to `end`, values from 0 to `top`, upper left corner at `x`, `y`."""

    x: float
    y: float
    begin: float
    end: float
    top: float

    def across(self, at: float) -> float:
        return self.x + _PLOT_WIDTH * (at - self.begin) / max(1e-9, self.end - self.begin)

    def down(self, value: float) -> float:
        return self.y + _PLOT_HEIGHT * (1 - value / self.top)


def draw(scenarios: Mapping[str, Any]) -> str:
    """The picture of all scenarios that have a timeline, as `report.save` returns them."""
    shown = [scenario for scenario in scenarios.values() if len(scenario["timeline"]["at"]) > 1]
    rows = "".join(_row(scenario, n * _ROW) for n, scenario in enumerate(shown))
    height = max(1, len(shown)) * _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{_WIDTH}" height="{height}" fill="#fff"/>{rows}</svg>\n'
    )


def _row(scenario: Mapping[str, Any], y: float) -> str:
    heading = f'<text x="{_LEFT[0]}" y="{y + 20}" font-size="14" font-weight="bold">'
    heading += escape(f"{scenario['name']}: {scenario['title']}") + "</text>"
    return heading + "".join(
        _panel(scenario, names, left, y + _TOP)
        for names, left in zip((("ok", "refused", "failed"), ("p50_ms", "p99_ms")), _LEFT, strict=True)
    )


def _panel(scenario: Mapping[str, Any], names: Sequence[str], x: float, y: float) -> str:
    seconds = scenario["timeline"]["at"]
    columns = {name: _points(seconds, scenario["timeline"][name]) for name in names}
    highest = max((value for points in columns.values() for _, value in points), default=1.0)
    times = [*seconds, *(mark["at"] for mark in scenario["marks"])]
    plot = _Plot(x, y, min(times), max(times), _round_up(highest))
    parts = [_axes(plot), _marks(plot, scenario["marks"]), _legend(plot, names)]
    parts += [_line(plot, points, _COLOURS[name]) for name, points in columns.items()]
    return "".join(parts)


def _points(seconds: Sequence[float], values: Sequence[float | None]) -> Points:
    return [(at, value) for at, value in zip(seconds, values, strict=True) if value is not None]


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten: the scale's end, which four ticks divide well."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if power * step >= value)


def _axes(plot: _Plot) -> str:
    bottom, right = plot.y + _PLOT_HEIGHT, plot.x + _PLOT_WIDTH
    parts = []
    for n in range(_TICKS + 1):
        value, at = plot.top * n / _TICKS, plot.begin + (plot.end - plot.begin) * n / _TICKS
        height = plot.down(value)
        parts.append(f'<path d="M{plot.x} {height:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{plot.x - 5}" y="{height + 4:.1f}" text-anchor="end">{value:g}</text>')
        parts.append(f'<text x="{plot.across(at):.1f}" y="{bottom + 15}" text-anchor="middle">{at:.0f} s</text>')
    return "".join(parts)


def _marks(plot: _Plot, marks: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for n, mark in enumerate(marks):
        x = plot.across(mark["at"])
        parts.append(
            f'<path d="M{x:.1f} {plot.y}V{plot.y + _PLOT_HEIGHT}" stroke="#888" stroke-dasharray="3 3">'
            f"<title>{escape(mark['text'])}</title></path>"
        )
        if len(marks) <= _MOST_MARK_TEXTS:
            y = plot.y + 10 + 11 * (n % 3)
            parts.append(f'<text x="{x + 3:.1f}" y="{y}" fill="#666" font-size="9">{escape(mark["text"])}</text>')
    return "".join(parts)


def _legend(plot: _Plot, names: Sequence[str]) -> str:
    return "".join(
        f'<text x="{plot.x + n * 90}" y="{plot.y - 10}" fill="{_COLOURS[name]}">{_LABELS[name]}</text>'
        for n, name in enumerate(names)
    )


def _line(plot: _Plot, points: Points, colour: str) -> str:
    path = " ".join(f"{plot.across(at):.1f},{plot.down(value):.1f}" for at, value in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
