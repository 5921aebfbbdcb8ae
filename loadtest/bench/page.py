"""The figures of `docs/performance.md`, made from `bench.json` and `soak.json`: `python -m loadtest.bench.page`."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.files import write_atomically
from loadtest.bench.picture import server_title
from loadtest.bench.report import BARE_HOP, BUSY_SHARE, RESULTS, SOAK_RESULTS, decoding, is_scaled
from loadtest.bench.watched_gateway import LONG_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadtest.bench.path import Figures
    from loadtest.bench.report import Results

PAGE: Final = Path("docs/performance.md")
_SECTION: Final = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str, results: Results) -> str:
    """The page with its figures replaced: what stands between `<!-- figures: NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: there are no figures of that name.
    """

    def replace(found: re.Match[str]) -> str:
        if found[2] not in SECTIONS:
            raise ValueError(f"there are no figures {found[2]!r}; there are: {', '.join(SECTIONS)}")
        return f"{found[1]}{SECTIONS[found[2]](results)}\n{found[3]}"

    return _SECTION.sub(replace, text)


def measured() -> Results:
    """What `bench.json` holds, and under `soak` what `soak.json` does, where there is one."""
    soak = {"soak": json.loads(SOAK_RESULTS.read_text(encoding="utf-8"))} if SOAK_RESULTS.is_file() else {}
    return {**json.loads(RESULTS.read_text(encoding="utf-8")), **soak}


def refresh(page: Path = PAGE) -> None:
    """Put the figures of the files of results into the page."""
    write_atomically(page, render(page.read_text(encoding="utf-8"), measured()).encode())


def _origin(results: Results) -> str:
    settings = results["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    rounds = f"medians of {settings['rounds']} rounds of {settings['seconds']:g} s a side"
    return f"{_made_by(results, rounds)}\n\nOptions of the gateway: {_options(settings['gateway'])}.\n\n{versions}."


def _options(gateway: Mapping[str, object]) -> str:
    """As on the command line."""
    told = (f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in gateway.items())
    return f"`{' '.join(told)}`" if gateway else "none"


def _decoding(results: Results) -> str:
    """For all that have our decoder."""
    option = "--scaled-decoding" if is_scaled(results) else "--full-decoding"
    return f"Gateway, limit and servers with our decoder decoded large JPEGs **{decoding(results)}** (`{option}`)."


def _made_by(results: Results, how: str) -> str:
    machine, busy = results["machine"], results["settings"]["busy_before"]
    state = ", with changes that were not committed" if results["is_modified"] else ""
    warning = "" if busy <= BUSY_SHARE else "**Others used the machine: these figures mean little.**\n\n"
    return (
        f"{warning}"
        f"Commit {results['commit'] or 'unknown'}{state}; {machine['processor'] or machine['architecture']}, "
        f"{machine['processors']} processors, Python {machine['python']}; {how}; "
        f"{busy:.0%} of the processors were busy before."
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
    return f"{_table(heads, rows)}\n\n{_decoding(results)}"


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
            f"{_cpu_ms(figures):.1f}",
        ]
        for row in results["paths"]
        if len(row["sides"]) > 2  # noqa: PLR2004 (the limit and ours)
        for side, figures in sorted(row["sides"].items(), key=lambda item: -item[1]["images_per_second"])
    ]
    servers = _table(["server", "images/s", "ours / this", "p50 ms", "p99 ms", "CPU ms an image"], rows)
    return f"{servers}\n\n{_decoding(results)}"


def _cpu_ms(figures: Figures) -> float:
    """Processor time an image of all that serve."""
    return float(sum(ms for name, ms in figures["cpu_ms"].items() if name != "callers"))


def _hop(results: Results) -> str:
    """What lies between the limit and ours, in two steps: the hop itself, and what ours does beside."""
    rows = []
    for row in results["paths"]:
        if BARE_HOP not in row["sides"]:
            continue
        limit, bare, served = (_cpu_ms(row["sides"][side]) for side in ("limit", BARE_HOP, "served"))
        hop, ours = (row["ratios"][side]["median"] for side in (BARE_HOP, "served"))
        features = "admission, deadlines, fairness, retries, metrics and logs"
        rows += [
            ["the bare hop / the limit", f"**{hop:.2f}**", f"{bare - limit:+.1f}", "aiohttp, gRPC and Triton"],
            ["EagleEye / the bare hop", f"**{ours / hop:.2f}**", f"{served - bare:+.1f}", features],
        ]
    return _table(["", "images/s", "CPU ms an image, more", "the price of"], rows)


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


def _workers(results: Results) -> str:
    if not (workers := results.get("workers")):
        return _table([], [])
    rows = []
    for row in workers["rows"]:
        limit, *servers = (row["sides"][side] for side in ("limit", "served", "workers"))
        rows.append(
            [
                row["concurrency"],
                f"**{row['gain']['median']:.2f}** ({row['gain']['lowest']:.2f} to {row['gain']['highest']:.2f})",
                *(f"{row['ratios'][side]['median']:.2f}" for side in ("served", "workers")),
                *(f"{side['images_per_second']:.1f}" for side in (*servers, limit)),
                *(f"{side['p99_ms']:.0f}" for side in servers),
                *(f"{side['cpu_ms']['gateway']:.1f} + {side['cpu_ms']['triton']:.1f}" for side in servers),
            ]
        )
    count = workers["processes"]
    heads = [
        "at a time",
        f"{count} / one, images/s",
        "one / limit",
        f"{count} / limit",
        "one, images/s",
        f"{count}, images/s",
        "limit, images/s",
        "one, p99 ms",
        f"{count}, p99 ms",
        "one, CPU ms an image: gateway + Triton",
        f"{count}, CPU ms",
    ]
    one, several = (workers["memory_bytes"][side]["gateway"] / 1e6 for side in ("served", "workers"))
    memory = f"Most resident memory: one process {one:.0f} MB, {count} with their supervisor {several:.0f} MB in sum."
    return f"{_table(heads, rows)}\n\n{_decoding(results)} {memory}"


def _soak(results: Results) -> str:
    if not (soak := results.get("soak")):
        return _table([], [])
    slices = soak["slices"]
    how = f"{soak['settings']['minutes']:g} minutes, {sum(each['images'] for each in slices)} images"
    rows = [
        _range(name, [each[key] for each in slices], digits)
        for name, key, digits in (
            ("images/s", "images_per_second", 1),
            ("p50, ms", "p50_ms", 0),
            ("p99, ms", "p99_ms", 0),
            ("memory of the gateway, MB", "gateway_mb", 1),
            ("memory of Triton, MB", "triton_mb", 1),
            ("open files of the gateway", "open_files", 0),
            ("threads of the gateway", "threads", 0),
        )
    ]
    figures = _table(["a minute's", "least", "median", "most", "first", "last"], rows)
    slope = f"Slope of the gateway's memory after the first quarter: {soak['slope_mb_per_hour']:+.2f} MB an hour."
    picture = f"![Memory and images per second over time](../{SOAK_RESULTS.with_suffix('.png').as_posix()})"
    each_minute = f"Each minute is in [{SOAK_RESULTS.name}](../{SOAK_RESULTS.as_posix()})."
    return "\n\n".join([_made_by(soak, how), _targets(soak), figures, f"{slope} {each_minute}", picture])


def _range(name: str, values: Sequence[float], digits: int) -> list[str]:
    figures = (min(values), statistics.median(values), max(values), values[0], values[-1])
    return [name, *(f"{figure:.{digits}f}" for figure in figures)]


def _loop(results: Results) -> str:
    rows, longest = [], []
    for row in results.get("loop", []):
        load = f"{row['workload']}, {row['size']} JPEG, {row['concurrency']} at a time"
        rows += [
            [
                load,
                row["calls"],
                time,
                *(f"{row[key][quantile]:.2f}" for quantile in ("p50", "p99", "p99_9")),
                f"**{row[key]['longest']:.2f}**",
                f"{row[key]['long_share']:.3%}",
            ]
            for time, key in (("processor", "cpu_ms"), ("wall", "wall_ms"))
        ]
        longest += [
            [load, f"`{call['what']}`", *(f"{call[key]:.2f}" for key in ("cpu_ms", "gc_ms", "wall_ms"))]
            for call in row["longest"]
        ]
    heads = ["load", "calls", "time", "p50, ms", "p99, ms", "p99.9, ms", "longest, ms", f"over {LONG_MS:g} ms"]
    figures = _table(heads, rows)
    if not rows:
        return figures
    heads = ["load", "what ran", "processor, ms", "of which garbage collection, ms", "wall, ms"]
    return f"{figures}\n\nThose that took most processor time:\n\n{_table(heads, longest)}"


SECTIONS: Final = {
    "origin": _origin,
    "targets": _targets,
    "path": _path,
    "added": _added,
    "servers": _servers,
    "hop": _hop,
    "memory": _memory,
    "workers": _workers,
    "loop": _loop,
    "soak": _soak,
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
    refresh()


if __name__ == "__main__":
    main()
