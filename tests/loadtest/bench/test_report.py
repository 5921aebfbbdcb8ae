"""Results as data, as a table, as a picture and in the documentation."""

import contextlib

import pytest

from loadtest.baselines.servers import BASELINES
from loadtest.bench import page, report
from loadtest.bench.path import Cell, compare, require_same, row, spread
from loadtest.bench.picture import draw
from tests.conftest import REPOSITORY


class Side:
    """Something whose rates are known."""

    def __init__(self, name, *rates, cpu_ms=10.0):
        self.rates, self.cpu_ms, self.name = iter(rates), cpu_ms, name

    def measure(self, cell, seconds):
        rate = next(self.rates)
        return {
            "images_per_second": rate,
            "p50_ms": 1000 / rate,
            "p99_ms": 2000 / rate,
            "cpu_ms": {self.name: self.cpu_ms},
        }


def figures(rate, **cpu_ms):
    return {"images_per_second": rate, "p50_ms": 10.0, "p99_ms": 20.0, "cpu_ms": cpu_ms}


def results(served=160.0, flask=100.0, busy=0.0, **gateway):
    sides = {
        "limit": figures(200.0, limit=8.0),
        "served": {**figures(served, gateway=6.0, triton=2.0, callers=0.2), "p50_ms": 12.5},
        "flask": figures(flask, flask=15.0, callers=0.2),
    }
    ratios = {name: [sides[name]["images_per_second"] / 200.0] * 3 for name in ("served", "flask")}
    paths = [
        row("W2", Cell("1080p", 32), sides, ratios),
        row("W2", Cell("1080p", 1), {name: sides[name] for name in ("limit", "served")}, {"served": [0.7, 0.8, 0.9]}),
    ]
    stages = [{"stage": "decode", "case": "JPEG 720p", "bytes": 3, "ms": {"gateway": 4.0, "cv2": 5.0}}]
    stages.append({"stage": "transport", "case": "x", "ms": {"gateway": 2.0}, "cpu_ms": {"gateway": 1.0}})
    memory = {"W2": {"gateway": 200_000_000, "triton": 1}}
    settings = {"rounds": 3, "seconds": 1.0, "busy_before": busy, "gateway": gateway}
    return report.assemble(paths, stages, memory, settings, several())


def several():
    """Two processes beside one, as `workers.measure` returns it."""
    sides = {
        "limit": figures(200.0, limit=8.0),
        "served": figures(160.0, gateway=6.0, triton=2.0, callers=0.2),
        "workers": figures(170.0, gateway=6.5, triton=2.1, callers=0.2),
    }
    ratios = {"served": [0.8, 0.8], "workers": [0.9, 0.8]}
    measured = row("W2", Cell("1080p", 8), sides, ratios) | {"gain": spread([1.125, 1.0])}
    memory_bytes = {"served": {"gateway": 150_000_000}, "workers": {"gateway": 380_000_000}}
    return {"processes": 2, "rows": [measured], "memory_bytes": memory_bytes}


async def test_sides_are_held_against_the_limit_of_their_round():
    """A machine that slows down in mid-run moves both, and not their ratio."""
    sides = {"limit": Side("limit", 100, 50, 200), "served": Side("gateway", 80, 45, 150)}

    medians, ratios = await compare(sides, Cell("1080p", 8), rounds=3, seconds=1)

    assert ratios == {"served": [0.8, 0.9, 0.75]}
    assert medians["limit"]["images_per_second"] == 100


def test_ratios_have_names_that_stay():
    """Those to the limit, and those to another server, whose own ratio drops out."""
    assert results()["ratios"] == {
        "W2 1080p 32 served/limit": 0.8,
        "W2 1080p 32 served/flask": 1.6,
        "W2 1080p 1 served/limit": 0.8,
    }


def test_processor_time_is_a_ratio_of_its_own():
    """All who had a part in serving count, the callers too."""
    assert results()["paths"][0]["cpu_ratio"] == pytest.approx(8.0 / 8.2, rel=1e-3)


def test_what_was_not_measured_is_no_broken_promise():
    """A target is met, missed, or neither."""
    verdicts = {target["name"]: target["is_met"] for target in results()["targets"]}

    assert verdicts["W2, 1080p, 32 at a time: served / Flask"] is True
    assert verdicts["W2, 1080p, one at a time: p50 added, ms"] is True
    assert verdicts["W1, 1080p, 8 at a time: served / limit"] is None
    assert report.Target("x", 0.79, at_least=0.8).is_met is False
    assert report.Target("x", 260.0, at_most=250.0).is_met is False


@pytest.mark.parametrize("p99_ms, is_met", [(19.0, False), (20.0, True), (40.0, True)])
def test_others_must_not_answer_their_slowest_sooner(p99_ms, is_met):
    """More images per second alone are not enough; a server that was not measured is not judged."""
    measured = results()
    measured["paths"][0]["sides"]["flask"]["p99_ms"] = p99_ms
    verdicts = {target.name: target.is_met for target in report.targets(measured)}

    assert verdicts["W2, 1080p, 32 at a time: p99, served / Flask"] is is_met
    assert verdicts["W2, 1080p, 32 at a time: p99, served / BentoML"] is None


def test_every_server_beside_has_a_promise():
    """None is measured for nothing; the yardstick alone has none."""
    names = [target.name for target in report.targets(results())]

    assert sum(": served / " in name for name in names) == 2 + len(BASELINES.keys() - {report.BARE_HOP})


def test_on_a_busy_machine_no_promise_is_judged():
    """Its ratios may be anything; the page says so."""
    busy = results(busy=0.5)

    assert {target["is_met"] for target in busy["targets"]} == {None}
    assert "these figures mean little" in page.render("<!-- figures: origin -->\n<!-- end -->", busy)


@pytest.mark.parametrize("served, is_worse", [(160.0, False), (156.0, False), (150.0, True), (170.0, False)])
def test_a_ratio_that_falls_is_shown(served, is_worse):
    """By more than 3 %, and in the table as well."""
    then, now = results(), results(served=served)

    assert bool(report.regressions(now, then)) is is_worse
    assert ("WORSE" in report.table(now, then)) is is_worse


@pytest.mark.parametrize(
    "gateway, told",
    [
        ({}, "decoded in full; abc decoded them at a part of their size, so it is no measure"),
        ({"scaled_decoding": True, "pixel_threads": "2"}, "decoded at a part of their size\n"),
    ],
)
def test_only_the_same_decoding_is_compared(gateway, told):
    """Another one has another limit; what else the gateway is told is what one may want to compare."""
    then = {**results(scaled_decoding=True, triton_shared_memory=64), "commit": "abc"}
    now = results(served=100.0, **gateway)
    is_comparable = bool(gateway)

    table = report.table(now, then)

    assert bool(report.regressions(now, then)) is is_comparable
    assert ("WORSE" in table) is is_comparable
    assert told in table


@pytest.mark.parametrize(
    "gateway, origin, decoding",
    [
        ({}, "Options of the gateway: none.", "**in full** (`--full-decoding`)"),
        (
            {"triton_shared_memory": 64, "scaled_decoding": True},
            "Options of the gateway: `--triton-shared-memory 64 --scaled-decoding`.",
            "**at a part of their size** (`--scaled-decoding`)",
        ),
    ],
)
def test_the_page_tells_how_jpegs_were_decoded(gateway, origin, decoding):
    """Beside every table with a limit, from the data."""
    text = "".join(f"<!-- figures: {name} -->\n<!-- end -->\n" for name in ("origin", "path", "servers", "workers"))

    made = page.render(text, results(**gateway))

    assert origin in made
    assert made.count(f"decoded large JPEGs {decoding}.") == 3


def test_without_committed_results_nothing_is_worse():
    """The first run has nothing to be held against."""
    assert report.regressions(results(), None) == []
    assert "W2 1080p 32" in report.table(results(), None)


def test_the_picture_is_drawn(tmp_path):
    """In the format of its name, also where little was measured."""
    draw(results(), tmp_path / "whole.png")
    draw({**results(), "paths": [], "stages": [], "workers": {}}, tmp_path / "empty.svg")

    assert (tmp_path / "whole.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "empty.svg").read_text()


@pytest.mark.parametrize("change", [{"label": "b"}, {"box": {"x1": 2.0}}, None])
def test_gateway_and_limit_must_find_the_same(change):
    """Else they do not do the same work, and no ratio means anything."""
    found = {"label": "a", "box": {"x1": 1.0}}
    answers = [{"detections": [found]}, {"detections": [found | change] if change else []}]

    require_same("W2", answers[0], answers[0])
    with pytest.raises(Exception, match="do not work alike"):
        require_same("W2", *answers)


@pytest.mark.parametrize("count, is_enough", [(1, True), (2, False)])
def test_with_another_decoder_the_number_must_be_the_same(count, is_enough):
    """The stand-in's boxes tell the pixels, which are not the same."""
    answers = [{"detections": [{"label": "a", "box": {"x1": 1.0}}]}, {"detections": [{"label": "b"}] * count}]

    with contextlib.nullcontext() if is_enough else pytest.raises(Exception, match="do not work alike"):
        require_same("Flask", *answers, is_exact=False)


def test_every_section_of_the_page_is_made():
    """From results, and a name that there is not is refused."""
    names = ("origin", "targets", "path", "added", "servers", "hop", "memory", "workers", "soak", "stages", "transport")
    text = "".join(f"<!-- figures: {name} -->\nold\n<!-- end -->\n" for name in names)

    made = page.render(text, results())

    assert "old" not in made
    assert page.render(made, results()) == made
    assert "| Flask, model in the process | 100.0 | 1.60 |" in made
    with pytest.raises(ValueError, match="no figures 'other'"):
        page.render("<!-- figures: other -->\n<!-- end -->", results())


def test_the_hop_is_told_from_what_is_done_beside():
    """The bare hop by the limit, and ours by the bare hop; the callers' time is nobody's."""
    measured = results()
    row = measured["paths"][0]
    row["sides"]["bare_hop"] = figures(180.0, server=5.5, triton=3.0, callers=0.2)
    row["ratios"]["bare_hop"] = {"median": 0.9, "lowest": 0.8, "highest": 1.0}
    section = "<!-- figures: hop -->\n<!-- end -->"

    made = page.render(section, measured)

    assert "| the bare hop / the limit | **0.90** | +0.5 | aiohttp, gRPC and Triton |" in made
    assert "| EagleEye / the bare hop | **0.89** | -0.5 | admission," in made
    assert "Not measured." in page.render(section, results())


def with_loop(*longest_ms):
    """Results of as many loads, with the longest call on the event loop of each."""
    spread = {"p50": 0.05, "p99": 0.6, "p99_9": 1.1, "long_share": 0.00002}
    rows = [
        {
            "workload": "W2",
            "size": "1080p",
            "concurrency": 8,
            "images_per_second": 100.0,
            "calls": 50_000,
            "cpu_ms": {**spread, "longest": longest},
            "wall_ms": {**spread, "longest": 30.0},
            "longest": [{"what": "Server.serve", "cpu_ms": longest, "gc_ms": 1.5, "wall_ms": 4.0}],
        }
        for longest in longest_ms
    ]
    return {**results(), "loop": rows}


@pytest.mark.parametrize("longest_ms, is_met", [([], None), ([1.9, 2.0], True), ([1.9, 2.1], False)])
def test_no_call_holds_up_the_event_loop(longest_ms, is_met):
    """The longest of all loads counts."""
    verdicts = {target.name: target.is_met for target in report.targets(with_loop(*longest_ms))}

    assert verdicts["longest call on the event loop, ms of processor time"] is is_met


def test_the_longest_calls_are_told_by_name():
    """On the page and in the table; results from before this was measured say that it was not."""
    section = "<!-- figures: loop -->\n<!-- end -->"
    made, table = page.render(section, with_loop(2.5)), report.table(with_loop(2.5), None)

    assert "| W2, 1080p JPEG, 8 at a time | 50000 | processor | 0.05 | 0.60 | 1.10 | **2.50** | 0.002% |" in made
    assert "| `Server.serve` | 2.50 | 1.50 | 4.00 |" in made
    assert "50000 calls on the event loop, ms of processor time: p50 0.05, p99 0.60, p99.9 1.10, longest 2.50" in table
    assert "2.50, of which 1.50 collecting garbage: Server.serve" in table
    assert "Not measured." in page.render(section, {name: each for name, each in results().items() if name != "loop"})


def test_several_processes_are_held_against_one():
    """Of the same rounds, in the table and on the page, which knows nothing of a run without them."""
    measured, section = results(), "<!-- figures: workers -->\n<!-- end -->"

    made = page.render(section, measured)

    assert "2 processes by those of one: 1.06 (1.00 to 1.12)" in report.table(measured, None)
    assert (
        "| 8 | **1.06** (1.00 to 1.12) | 0.80 | 0.85 | 160.0 | 170.0 | 200.0 | 20 | 20 | 6.0 + 2.0 | 6.5 + 2.1 |"
        in made
    )
    assert "one process 150 MB, 2 with their supervisor 380 MB in sum" in made
    assert "Not measured." in page.render(section, measured | {"workers": {}})


def test_json_has_no_infinity():
    """A latency that nobody has is none."""
    assert report.rounded({"p50_ms": float("inf"), "rates": [0.123456]}) == {"p50_ms": None, "rates": [0.1235]}


def test_the_documentation_tells_the_committed_figures(monkeypatch):
    """`python -m loadtest.bench.page` would change nothing; every section that it knows is there."""
    monkeypatch.chdir(REPOSITORY)
    text = page.PAGE.read_text()

    assert page.render(text, page.measured()) == text
    assert all(f"<!-- figures: {name} -->" in text for name in page.SECTIONS)


@pytest.mark.parametrize("data", [report.RESULTS, report.SOAK_RESULTS], ids=["bench", "soak"])
def test_the_picture_of_the_documentation_is_there(data):
    """It is drawn beside the data."""
    assert (REPOSITORY / data).with_suffix(".png").is_file() or not (REPOSITORY / data).is_file()
