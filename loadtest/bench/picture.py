"""The results as one picture: ratios to the limit, other servers, and where the time of a request goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

from loadtest.baselines.servers import BASELINES
from loadtest.bench.report import BUSY_SHARE, decoding
from loadtest.bench.stages import GATEWAY

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.bench.report import Results

_INCHES: Final = (9.0, 10.0)
_DOTS_PER_INCH: Final = 90
_OURS: Final = "#2a7"
_SEVERAL: Final = "#28c"
_LIMIT: Final = "#888"
_OTHERS: Final = "#c90"
_WANTED: Final = {"W1": 0.92, "W2": 0.80}
_TITLES: Final = {"served": "EagleEye", "limit": "the limit"}


def draw(results: Results, file: Path) -> None:
    """Write a picture; its format is that of the file's suffix."""
    figure = Figure(_INCHES, layout="constrained")
    ratios, servers, ways = figure.subplots(3, height_ratios=(3, 2, 3))
    figure.suptitle(f"{origin(results)}; large JPEGs decoded {decoding(results)}", fontsize=9)
    _ratios(ratios, results["paths"], results.get("workers", {}))
    _servers(servers, results["paths"])
    _stages(ways, results["stages"])
    save(figure, file)


def origin(results: Results) -> str:
    """What made them, in a line."""
    state = f"commit {results['commit'] or 'unknown'}{', modified' if results['is_modified'] else ''}"
    machine = results["machine"]
    busy = results["settings"]["busy_before"]
    others = f"; others used {busy:.0%} of them" if busy > BUSY_SHARE else ""
    return f"{state}; Python {machine['python']}, {machine['processors']} processors{others}"


def save(figure: Figure, file: Path) -> None:
    """Write a picture; its format is that of the file's suffix."""
    figure.savefig(file, dpi=_DOTS_PER_INCH, metadata={"Software": None} if file.suffix == ".png" else None)


def _ratios(axes: Any, paths: list[dict[str, Any]], workers: dict[str, Any]) -> None:
    """Images/s through the gateway, of one process and of several, by the limit's, with the spread of the rounds."""
    axes.set_title("images/s through gateway and Triton, as a share of the limit of the same run", fontsize=10)
    bars = [(row, "served", "") for row in paths]
    bars += [(row, "workers", f", {workers['processes']} processes") for row in workers.get("rows", [])]
    for at, (row, side, _) in enumerate(bars):
        spread = row["ratios"][side]
        axes.barh(at, spread["median"], color=_OURS if side == "served" else _SEVERAL, height=0.6)
        axes.plot([spread["lowest"], spread["highest"]], [at, at], color="#064", lw=2)
        if side == "served" and (row["size"], row["concurrency"]) == ("1080p", 8):
            axes.plot([_WANTED[row["workload"]]] * 2, [at - 0.4, at + 0.4], color="#c33", lw=2)
        axes.text(0.01, at, f"{spread['median']:.2f}", va="center", fontsize=8, color="white")
    labels = [f"{row['workload']} {row['size']}, {row['concurrency']} at a time{note}" for row, _, note in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max([1.05, *(row["ratios"][side]["highest"] for row, side, _ in bars)]))
    axes.set_xlabel("line: lowest to highest round; red: wanted", fontsize=8)


def _servers(axes: Any, paths: list[dict[str, Any]]) -> None:
    """Images/s of all that were measured beside each other."""
    rows = [row for row in paths if set(row["sides"]) & set(BASELINES)]
    axes.set_title("images/s beside other servers, W2, 1080p, 32 at a time", fontsize=10)
    if not rows:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    rates = {side: figures["images_per_second"] for side, figures in rows[0]["sides"].items()}
    for at, (side, rate) in enumerate(sorted(rates.items(), key=lambda item: -item[1])):
        axes.barh(at, rate, color={"served": _OURS, "limit": _LIMIT}.get(side, _OTHERS), height=0.6)
        axes.text(rate, at, f" {rate:.0f}", va="center", fontsize=8)
    names = sorted(rates, key=lambda side: -rates[side])
    axes.set_yticks(range(len(names)), [server_title(name) for name in names], fontsize=8)
    axes.invert_yaxis()


def _stages(axes: Any, stages: list[dict[str, Any]]) -> None:
    """Milliseconds of each stage, the gateway's way and the others, as points on a line."""
    axes.set_title("ms of each stage alone: green the gateway's way, grey others", fontsize=10)
    for at, row in enumerate(stages):
        others = [ms for way, ms in row["ms"].items() if way != GATEWAY]
        axes.plot(others, [at] * len(others), "o", color=_LIMIT, ms=4)
        axes.plot([row["ms"][GATEWAY]], [at], "o", color=_OURS, ms=6)
    axes.set_yticks(range(len(stages)), [f"{row['stage']} {row['case']}" for row in stages], fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.grid(axis="x", color="#eee")


def server_title(side: str) -> str:
    """A side's name for people."""
    return _TITLES.get(side) or BASELINES[side].title
