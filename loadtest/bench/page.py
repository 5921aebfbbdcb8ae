"""The figures of `docs/performance.md`, made from `bench.json`: `python -m loadtest.bench.page`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.files import write_atomically
from loadtest.bench.picture import server_title
from loadtest.bench.report import BUSY_SHARE, RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtest.bench.report import Results

PAGE: Final = Path("docs/performance.md")
_SECTION: Final = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str, results: Results) -> str:
    """The page with its figures replaced: what stands between `<!-- figures: NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: there are no figures of that name.
    """
    made = {name: make(results) for name, make in SECTIONS.items()}

    def replace(found: re.Match[str]) -> str:
        if found[2] not in made:
            raise ValueError(f"there are no figures {found[2]!r}; there are: {', '.join(made)}")
        return f"{found[1]}{made[found[2]]}\n{found[3]}"

    return _SECTION.sub(replace, text)


def refresh(results: Results, page: Path = PAGE) -> None:
    """Put the figures of these results into the page."""
    write_atomically(page, render(page.read_text(encoding="utf-8"), results).encode())


def _origin(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    state = ", with changes that were not committed" if results["is_modified"] else ""
    warning = (
        "" if settings["busy_before"] <= BUSY_SHARE else "**Others used the machine: these figures mean little.**\n\n"
    )
    return (
        f"{warning}"
        f"Commit {results['commit'] or 'unknown'}{state}; {machine['processor'] or machine['architecture']}, "
        f"{machine['processors']} processors, Python {machine['python']}; medians of {settings['rounds']} rounds of "
        f"{settings['seconds']:g} s a side; {settings['busy_before']:.0%} of the processors were busy before."
        f"\n\n{versions}."
    )


def _path(results: Results) -> str:
    rows = []
    for row in results["paths"]:
        limit, served, spread = row["sides"]["limit"], row["sides"]["served"], row["ratios"]["served"]
        rows.append(
            [
                row["workload"],
                f"{row['size']} JPEG",
                row["concurrency"],
                f"**{spread['median']:.2f}** ({spread['lowest']:.2f} to {spread['highest']:.2f})",
                f"{served['images_per_second']:.1f}",
                f"{limit['images_per_second']:.1f}",
                f"{served['p50_ms']:.1f}",
                f"{served['p99_ms']:.1f}",
                f"{served['cpu_ms']['gateway']:.1f} + {served['cpu_ms']['triton']:.1f}",
                f"{limit['cpu_ms']['limit']:.1f}",
                f"{row['cpu_ratio']:.2f}",
            ]
        )
    heads = [
        "workload",
        "image",
        "at a time",
        "served / limit",
        "images/s",
        "limit",
        "p50 ms",
        "p99 ms",
        "CPU ms an image: gateway + Triton",
        "limit",
        "limit / served",
    ]
    return _table(heads, rows)


def _added(results: Results) -> str:
    alone = [row for row in results["paths"] if row["concurrency"] == 1]
    rows = [
        [
            row["workload"],
            f"{row['size']} JPEG",
            f"{row['sides']['served']['p50_ms']:.2f}",
            f"{row['sides']['limit']['p50_ms']:.2f}",
            f"**{row['added_p50_ms']:.2f}**",
        ]
        for row in alone
    ]
    return _table(["workload", "image", "p50 served, ms", "p50 of the limit, ms", "added, ms"], rows)


def _targets(results: Results) -> str:
    verdicts = {True: "met", False: "**missed**", None: "not judged"}
    rows = [
        [
            target["name"],
            target["wanted"],
            "-" if target["value"] is None else f"{target['value']:.2f}",
            verdicts[target["is_met"]],
        ]
        for target in results["targets"]
    ]
    return _table(["what", "wanted", "measured", ""], rows)


def _servers(results: Results) -> str:
    rows = [
        [
            server_title(side),
            f"{figures['images_per_second']:.1f}",
            f"{row['sides']['served']['images_per_second'] / figures['images_per_second']:.2f}",
            f"{figures['p50_ms']:.0f}",
            f"{figures['p99_ms']:.0f}",
            f"{sum(ms for name, ms in figures['cpu_ms'].items() if name != 'callers'):.1f}",
        ]
        for row in results["paths"]
        if len(row["sides"]) > 2  # noqa: PLR2004 (the limit and ours)
        for side, figures in sorted(row["sides"].items(), key=lambda item: -item[1]["images_per_second"])
    ]
    return _table(["server", "images/s", "ours / this", "p50 ms", "p99 ms", "CPU ms an image"], rows)


def _memory(results: Results) -> str:
    rows = [
        [workload, *(f"{groups[name] / 1e6:.0f} MB" for name in ("gateway", "triton"))]
        for workload, groups in results["memory_bytes"].items()
    ]
    return _table(["workload", "gateway", "Triton"], rows)


def _stages(results: Results) -> str:
    rows = [
        [
            row["stage"],
            row["case"],
            f"{row['ms']['gateway']:.3g}",
            ", ".join(f"{way} {ms:.3g}" for way, ms in _ascending(row["ms"])),
        ]
        for row in results["stages"]
        if "cpu_ms" not in row
    ]
    return _table(["stage", "of", "the gateway's way, ms", "other ways, ms"], rows)


def _transport(results: Results) -> str:
    rows = [
        [way, f"{cpu:.2f}", f"{row['ms'][way]:.2f}"]
        for row in results["stages"]
        if "cpu_ms" in row
        for way, cpu in sorted(row["cpu_ms"].items(), key=lambda item: item[1])
    ]
    return _table(["way", "CPU of the client, ms", "time beyond the model's, ms"], rows)


SECTIONS: Final = {
    "origin": _origin,
    "targets": _targets,
    "path": _path,
    "added": _added,
    "servers": _servers,
    "memory": _memory,
    "stages": _stages,
    "transport": _transport,
}


def _ascending(ms: dict[str, float]) -> Iterable[tuple[str, float]]:
    return sorted(((way, value) for way, value in ms.items() if way != "gateway"), key=lambda item: item[1])


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "Not measured."
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


@click.command()
def main() -> None:
    """Put the committed figures into the documentation again."""
    refresh(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
