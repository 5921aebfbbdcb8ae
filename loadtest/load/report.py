"""The result of a run as pages for people: Markdown with a picture, and HTML in one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import TYPE_CHECKING, Any, Final

from loadtest.load.picture import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

FILES: Final = ("report.html", "report.md", "load.svg", "result.json")
_VERDICTS: Final = {
    0: "All objectives are met.",
    1: "Objectives are missed.",
    3: "The run is not valid: its figures say nothing.",
}
_COLUMNS: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "due": ("due", lambda row: f"{row['due']:,}"),
    "per_second": ("right, /s", lambda row: number(row["per_second"], 1)),
    "mean_ms": ("mean ms", lambda row: number(row["mean_ms"], 1)),
    "p50_ms": ("p50 ms", lambda row: number(row["p50_ms"], 1)),
    "p95_ms": ("p95 ms", lambda row: number(row["p95_ms"], 1)),
    "p99_ms": ("p99 ms", lambda row: number(row["p99_ms"], 1)),
    "max_ms": ("max ms", lambda row: number(row["max_ms"], 1)),
    "refused": ("refused", lambda row: f"{row['verdicts']['refused']:,}"),
    "failed": ("failed", lambda row: f"{row['verdicts']['failed']:,}"),
    "late": ("late", lambda row: f"{row['verdicts']['late']:,}"),
    "wrong": ("wrong", lambda row: f"{row['verdicts']['wrong']:,}"),
}
_CAMERA_COLUMNS: Final = {"dropped": "frames replaced", "staleness_p50_ms": "age p50 ms", "staleness_p99_ms": "p99 ms"}
_STAGE_COLUMNS: Final = {"tritons": "Tritons", "batch_size": "images per batch", "gpu_percent": "GPU busy %"}
_STYLE: Final = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.facts { color: #555; margin: 0 } .verdict { padding: .6rem .9rem; border-radius: .4rem; font-weight: 600;
  margin: 1.2rem 0 }
.met { background: #e4f5ec; color: #14532d } .missed { background: #fbe6e8; color: #7f1d1d }
.invalid { background: #fdf1dc; color: #7a4b00 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; color: #555 }
ul { padding-left: 1.2rem } li { margin: .15rem 0 } img { width: 100%; height: auto }
.yes::marker { content: "\\2713\\00a0\\00a0"; color: #1f9d68 }
.no::marker { content: "\\2717\\00a0\\00a0"; color: #c62f3b }
.no { color: #7f1d1d }
"""


def number(value: float | None, digits: int = 0) -> str:
    """A number for a table; `n/a` for none."""
    return "n/a" if value is None else f"{value:,.{digits}f}"


def write(result: Mapping[str, Any], folder: Path) -> None:
    """Write `FILES` into a folder, which is made.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw(result)
    (folder / "load.svg").write_text(picture, encoding="utf-8")
    (folder / "report.md").write_text(markdown(result), encoding="utf-8")
    (folder / "report.html").write_text(html(result, picture), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")


def markdown(result: Mapping[str, Any]) -> str:
    """The report with a link to `load.svg` beside it."""
    parts = [f"# {result['title']}", _facts(result), f"**{verdict(result)}**"]
    parts += ["\n".join(f"- {text}" for _, text in _findings(result)), "![Rates and latencies over time](load.svg)"]
    for heading, head, rows in _tables(result):
        parts += [f"## {heading}", table(head, rows)]
    parts += [f"- {text}" for text in _notes(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def html(result: Mapping[str, Any], picture: str) -> str:
    """The report as one page, which forbids itself to load or run anything."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    image = base64.b64encode(picture.encode()).decode()
    kind = {0: "met", 1: "missed"}.get(result["exit_code"], "invalid")
    findings = "".join(
        f'<li class="{"yes" if is_good else "no"}">{escape(text)}</li>' for is_good, text in _findings(result)
    )
    body = [
        f"<h1>{escape(result['title'])}</h1>",
        f'<p class="facts">{escape(_facts(result))}</p>',
        f'<p class="verdict {kind}">{escape(verdict(result))}</p>',
        f"<ul>{findings}</ul>",
        f'<img alt="Rates and latencies over time" src="data:image/svg+xml;base64,{image}">',
        *(f"<h2>{escape(heading)}</h2>{_html_table(head, rows)}" for heading, head, rows in _tables(result)),
        *(f'<p class="facts">{escape(text)}</p>' for text in _notes(result)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(result['title'])}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f'<div class="wide"><table>{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table></div>'


def verdict(result: Mapping[str, Any]) -> str:
    """What the run came to, in one sentence."""
    if result["exit_code"] == 0 and not result["objectives"]:
        return "The profile has no objectives."
    return _VERDICTS[result["exit_code"]]


def _facts(result: Mapping[str, Any]) -> str:
    load = "open load" if result["is_open"] else "closed load"
    capacity = result["capacity_per_second"]
    known = [
        f"{result['begin']}, {result['seconds']:g} s of {load} from {result['generators']} generator process(es)",
        f"{result['model']} at {result['url']}",
        f"capacity {capacity:.1f} images/s" if capacity else "",
        f"generator late by {number(result['lag_p99_ms'], 1)} ms at most but for 1 %",
    ]
    return "; ".join(each for each in known if each) + "."


def _findings(result: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """What is wrong with the run, and each objective: whether that is good, and a line."""
    objectives = [(each["is_met"], each["text"]) for each in result["objectives"]]
    return [*((False, text) for text in result["problems"]), *objectives]


def _tables(result: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Heading, head and rows of each table."""
    rows = [[_whose(row), *(read(row) for _, read in _COLUMNS.values())] for row in result["figures"]]
    tables = [("Callers and stages", ["", *(name for name, _ in _COLUMNS.values())], rows)]
    cameras = [row for row in result["figures"] if row["staleness_p50_ms"] is not None and not row["users"]]
    if cameras:
        lines = [[_whose(row), *(number(row[name], 0) for name in _CAMERA_COLUMNS)] for row in cameras]
        tables.append(("Cameras", ["", *_CAMERA_COLUMNS.values()], lines))
    lines = [[stage["name"], *(number(stage[name], 1) for name in _STAGE_COLUMNS)] for stage in result["stages"]]
    tables.append(("The deployment, on average", ["stage", *_STAGE_COLUMNS.values()], lines))
    if result["reasons"]:
        lines = [[reason, f"{count:,}"] for reason, count in result["reasons"].items()]
        tables.append(("What went wrong", ["reason", "images"], lines))
    return tables


def _whose(row: Mapping[str, Any]) -> str:
    return f"stage {row['stage']}" if row["stage"] else row["users"] or "all"


def _notes(result: Mapping[str, Any]) -> list[str]:
    missing = [f"{_STAGE_COLUMNS[name]}: n/a, {reason}" for name, reason in result["watched"]["missing"].items()]
    reading = (
        "Latencies count from when an image was due to its right answer, to half a percent. Right, /s: right answers "
        "in time, per second. Late ones came after the deadline, wrong ones are not what the image holds."
    )
    return [*missing, reading]
