"""What is said of a long run; tests/platform/test_soak.py makes a short one."""

from dataclasses import asdict

import pytest

from loadtest.bench import page, report
from loadtest.soak.judgement import Slice, growth_percent, promises, slope_mb_per_hour
from loadtest.soak.picture import draw


def run(*gateway_mb, minutes=1.0):
    """A run with that memory in each slice, whose other figures stand still."""
    still = {"images": 100, "images_per_second": 150.0, "p50_ms": 200.0, "p99_ms": 300.0, "triton_mb": 90.0}
    still |= {"gateway_cpu_ms": 9.0, "triton_cpu_ms": 1.0, "open_files": 60, "threads": 12}
    return [Slice(minute=minutes * (n + 1), gateway_mb=mb, **still) for n, mb in enumerate(gateway_mb)]


def results(slices, most_mb=190.0):
    """As they are saved."""
    return {
        "commit": "abc",
        "is_modified": False,
        "machine": {"processor": "a processor", "processors": 2, "python": "3.11"},
        "settings": {"minutes": 12.0, "busy_before": 0.0},
        "targets": [report.judged(target) for target in promises(slices, most_mb)],
        "slope_mb_per_hour": slope_mb_per_hour(slices),
        "slices": [asdict(each) for each in slices],
    }


LEVEL = [180.0] * 12
LEAK = [180.0 + minute for minute in range(12)]


@pytest.mark.parametrize(
    "gateway_mb, slope",
    [(LEVEL, 0.0), (LEAK, 60.0), (LEAK[::-1], -60.0), ([100.0, 130.0, 170.0, *[180.0] * 9], 0.0)],
    ids=["level", "leak", "falling", "first quarter"],
)
def test_the_slope_is_of_what_follows_the_first_quarter(gateway_mb, slope):
    """In MB an hour; until then memory grows to what the load needs."""
    assert slope_mb_per_hour(run(*gateway_mb)) == pytest.approx(slope, abs=1e-6)


def test_the_slope_knows_how_long_a_slice_was():
    """Half a minute each makes it twice as steep."""
    assert slope_mb_per_hour(run(*LEAK, minutes=0.5)) == pytest.approx(120.0)


@pytest.mark.parametrize(
    "gateway_mb, percent",
    [
        ([50, 100, 100, 110], 10.0),
        ([50, 60, 70, 100, 100, 100, 0, 999, 7, 103, 102, 101], 2.0),
        ([0, 0, 0, 100, 900, 100, 0, 0, 0, 100, 900, 100], 0.0),
    ],
    ids=["shortest", "quarters", "outliers"],
)
def test_growth_is_from_the_second_quarter_to_the_last(gateway_mb, percent):
    """Of medians, so that no single minute decides."""
    assert growth_percent(run(*gateway_mb)) == pytest.approx(percent)


@pytest.mark.parametrize(
    "gateway_mb, most_mb, verdicts",
    [
        (LEVEL, 249.9, [True, True]),
        (LEVEL, 250.1, [False, True]),
        (LEAK, 190.0, [True, False]),
        (LEAK[::-1], 190.0, [True, True]),
        ([180.0] * 9 + [183.5] * 3, 190.0, [True, True]),
        ([180.0] * 9 + [183.7] * 3, 190.0, [True, False]),
    ],
    ids=["level", "too much", "leak", "falling", "just flat", "just not"],
)
def test_memory_must_be_little_and_flat(gateway_mb, most_mb, verdicts):
    """One promise each."""
    assert [target.is_met for target in promises(run(*gateway_mb), most_mb)] == verdicts


def test_of_minutes_nothing_is_said_about_growth():
    """Memory still grows to what the load needs; how much there was is a fact all the same."""
    assert [target.is_met for target in promises(run(*LEAK, minutes=0.1), 300.0)] == [False, None]


@pytest.mark.parametrize("name", ["soak.png", "soak.svg"])
def test_the_picture_is_drawn(tmp_path, name):
    """In the format of its name."""
    draw(results(run(*LEAK)), tmp_path / name)

    assert (tmp_path / name).read_bytes().startswith((b"\x89PNG", b"<?xml"))


def test_the_page_tells_of_it():
    """Promises first, then what the minutes had; nothing where there was no run."""
    section = "<!-- figures: soak -->\nold\n<!-- end -->"

    made = page.render(section, {"soak": results(run(*LEAK))})

    assert "12 minutes, 1200 images" in made
    assert "| most memory of the gateway, MB | at most 250 | 190.00 | met |" in made
    assert "| its growth, second quarter to last, % | at most 2 | 3.26 | **missed** |" in made
    assert "| memory of the gateway, MB | 180.0 | 185.5 | 191.0 | 180.0 | 191.0 |" in made
    assert "+60.00 MB an hour" in made
    assert "Not measured." in page.render(section, {})
