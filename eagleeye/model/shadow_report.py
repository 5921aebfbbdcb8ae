"""How a candidate agrees with what is served, by `GET /v1/shadow`: as tables, and as a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.agreement import Comparison

_OUTCOMES: Final = {"agreed": "tab:green", "relabelled": "tab:purple", "missing": "tab:red", "extra": "tab:orange"}
_LEAST: Final = "0.05"
_MEDIAN: Final = "0.5"
_MOST: Final = "0.95"
_PICTURED_LABELS: Final = 20


def lines(comparison: Comparison) -> list[str]:
    """One comparison in words: images, scores, overlap and latency, and what became of relabelled boxes."""
    images, boxes = comparison["images"], comparison["boxes"]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in images.items())
    told = [
        f"{title(comparison)}, since {comparison['since']}{'' if comparison['is_running'] else ', ended'}",
        f"  images       {counts}",
        f"  agreement    {_percent(boxes['agreement'])} of the boxes",
    ]
    times = comparison["latency_ms"]
    for what, unit, spread in (
        ("score shift", "", comparison["score_shift"]),
        ("IoU", "", comparison["iou"]),
        ("latency", " ms", times and times["difference"]),
    ):
        if spread is not None:
            told.append(f"  {what:13}{_spread(spread, unit)}")
    told += [
        f"  {pair['boxes']} boxes of {pair['served']} are {pair['candidate']} for the candidate"
        for pair in comparison["relabelled"]
    ]
    return told


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Boxes by label and outcome, header first, all of them last."""
    counts: Sequence[Mapping[str, Any]] = [*comparison["labels"], {"label": "all", **comparison["boxes"]}]
    return [
        ("LABEL", *(outcome.upper() for outcome in _OUTCOMES), "AGREEMENT"),
        *(
            (entry["label"], *(str(entry[outcome]) for outcome in _OUTCOMES), _percent(entry["agreement"]))
            for entry in counts
        ),
    ]


def title(comparison: Comparison) -> str:
    """Who is compared with whom."""
    return (
        f"{comparison['model']}: version {comparison['candidate_version']} in the shadow of "
        f"{comparison['served_version']}"
    )


def draw(comparisons: Sequence[Comparison]) -> bytes:
    """A PNG: for each comparison the boxes of each label by outcome, and how scores and latencies are spread."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes a second; without pyplot there is no global state)

    tallest = max(len(_pictured(comparison)) for comparison in comparisons)
    figure = Figure(
        figsize=(11, len(comparisons) * (1.6 + 0.26 * tallest)), dpi=110, layout="constrained", facecolor="white"
    )
    parts = figure.subfigures(len(comparisons), 1, squeeze=False).flatten()
    for part, comparison in zip(parts, comparisons, strict=True):
        part.suptitle(
            f"{title(comparison)}: {_percent(comparison['boxes']['agreement'])} of the boxes agree "
            f"({comparison['images']['compared']} images)",
            fontsize=11,
        )
        labels, scores, latency = part.subplots(1, 3, width_ratios=(3, 1, 1))
        _draw_labels(labels, _pictured(comparison))
        _draw_spreads(scores, "score shift", {"agreed boxes": comparison["score_shift"]})
        times = comparison["latency_ms"]
        _draw_spreads(
            latency,
            "inference in ms",
            {"served": times and times["served"], "candidate": times and times["candidate"]},
        )
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _pictured(comparison: Comparison) -> list[Any]:
    """The labels with boxes, those that agree least first."""
    found = [entry for entry in comparison["labels"] if entry["agreement"] is not None]
    return sorted(found, key=lambda entry: entry["agreement"] or 0.0)[:_PICTURED_LABELS]


def _draw_labels(panel: Any, entries: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{entry['label']}  {_percent(entry['agreement'])}" for entry in entries]
    begins = [0] * len(entries)
    for outcome, color in _OUTCOMES.items():
        counts = [entry[outcome] for entry in entries]
        panel.barh(names, counts, left=begins, color=color, label=outcome)
        begins = [begin + count for begin, count in zip(begins, counts, strict=True)]
    panel.invert_yaxis()
    panel.set_xlabel("boxes", fontsize=9)
    panel.tick_params(labelsize=8)
    if entries:
        panel.legend(fontsize=8, ncols=len(_OUTCOMES), frameon=False, loc="lower left", bbox_to_anchor=(0, 1))


def _draw_spreads(panel: Any, name: str, spreads: Mapping[str, Any]) -> None:
    """A box from the lower to the upper quartile, with the median, and whiskers to 5 % and 95 %."""
    known = {label: spread for label, spread in spreads.items() if spread is not None}
    boxes = [
        {
            "label": label,
            "whislo": spread["quantiles"][_LEAST],
            "q1": spread["quantiles"]["0.25"],
            "med": spread["quantiles"][_MEDIAN],
            "q3": spread["quantiles"]["0.75"],
            "whishi": spread["quantiles"][_MOST],
        }
        for label, spread in known.items()
    ]
    if boxes:
        panel.bxp(boxes, showfliers=False, widths=0.5)
    panel.set_title(name, fontsize=9)
    panel.grid(axis="y", alpha=0.3)
    panel.tick_params(labelsize=8)


def _spread(spread: Mapping[str, Any], unit: str) -> str:
    quantiles = spread["quantiles"]
    return (
        f"{quantiles[_MEDIAN]:+.4g}{unit} in the middle, 90 % within {quantiles[_LEAST]:+.4g} and "
        f"{quantiles[_MOST]:+.4g}{unit}"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
