"""Counts that can be added up, and the figures that they come to."""

import json
import math

import numpy as np
import pytest

from loadtest.load.figures import Accounts
from loadtest.load.ledger import Histogram, Ledger, Outcome
from loadtest.load.profile import Profile
from loadtest.verdict import Verdict

PROFILE = Profile.parse(
    {
        "title": "t",
        "load": "open",
        "stages": [
            {"name": "a", "seconds": 2, "per_second": 1},
            {"name": "b", "seconds": 2, "per_second": 1},
        ],
        "cameras": {"count": 1},
    }
)


def ledger():
    return Ledger(PROFILE.seconds, PROFILE.stage_at)


def outcome(due_at, seconds, verdict=Verdict.OK, kind="http", lag=0.0):
    return Outcome(kind, due_at, due_at + lag, due_at + seconds, verdict, "" if verdict is Verdict.OK else "reason")


def histogram(values):
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.99, 0.999, 1.0])
def test_quantiles_are_right_to_half_a_percent(share):
    """Of times from microseconds to minutes, against NumPy's nearest rank."""
    values = np.exp(np.random.default_rng(1).normal(3, 2, 4999))
    exact = np.percentile(values, 100 * share, method="inverted_cdf")
    assert histogram(values).quantile(share) == pytest.approx(exact, rel=0.0051)


def test_mean_and_largest_are_exact():
    """And there are none of nothing."""
    assert (histogram([1, 2, 6]).mean, histogram([1, 2, 6]).largest) == (3, 6)
    empty = Histogram()
    assert all(math.isnan(value) for value in (empty.mean, empty.largest, empty.quantile(0.5)))


def test_parts_add_up_to_the_whole():
    """Over JSON, as workers send them."""
    whole, master = ledger(), ledger()
    for part in range(3):
        worker = ledger()
        for n in range(40):
            noted = outcome(n / 10, 0.01 * (n + part), Verdict.WRONG if n % 7 == part else Verdict.OK, lag=0.001 * n)
            whole.note(noted)
            worker.note(noted)
        worker.note_staleness(1.0, "camera", 0.2 * part)
        whole.note_staleness(1.0, "camera", 0.2 * part)
        master.merge(json.loads(json.dumps(worker.take())))
        assert not worker.cells
    one, other = (Accounts(each, PROFILE, None) for each in (whole, master))
    assert [each.pack() for each in one.all_figures()] == [each.pack() for each in other.all_figures()]
    assert one.series() == other.series()


def test_an_image_belongs_to_the_stage_in_which_it_was_due():
    """Its latency counts there, but its answer to the rate of the second in which it came."""
    book = ledger()
    for _ in range(4):
        book.note(outcome(1.9, 0.6))
    accounts = Accounts(book, PROFILE, 8.0)
    first, second = accounts.figures("a"), accounts.figures("b")
    assert (first.due, first.p50_ms, first.per_second) == (4, pytest.approx(600, rel=0.006), 0)
    assert (second.due, second.per_second, second.goodput_of_capacity) == (0, 2.0, 0.25)
    assert math.isnan(second.p99_ms)
    series = accounts.series()
    assert (series["due"], series["ok"]) == ([0, 4, 0, 0], [0, 0, 4, 0])
    assert series["p99_ms"][0] is None


def test_shares_are_of_all_images():
    """Late, failed and wrong ones are errors; refused ones are not, and are no goodput either."""
    book = ledger()
    for n, verdict in enumerate([*[Verdict.OK] * 5, *Verdict]):
        book.note(outcome(0.1 * n, 0.05, verdict))
    figures = Accounts(book, PROFILE, None).figures()
    assert (figures.error_share, figures.refused_share, figures.goodput_share) == (0.3, 0.1, 0.6)
    assert math.isnan(figures.goodput_of_capacity)


def test_kinds_are_told_apart():
    """And replaced frames count in nothing else."""
    book = ledger()
    book.note(outcome(0.5, 0.1))
    book.note(outcome(0.5, 0.3, kind="camera"))
    book.note_dropped(0.8, "camera", 4)
    book.note_staleness(0.8, "camera", 0.25)
    accounts = Accounts(book, PROFILE, None)
    camera = accounts.figures(users="camera")
    assert (camera.due, camera.dropped, camera.staleness_p99_ms) == (1, 4, pytest.approx(250, rel=0.006))
    assert [(each.stage, each.users) for each in accounts.all_figures()] == [
        *[(None, None), (None, "camera"), (None, "http")],
        *[("a", None), ("b", None)],
    ]


def test_the_lag_is_the_worse_one_of_two():
    """Of sending late, and of waking up late, which is no image's."""
    book = ledger()
    for _ in range(100):
        book.note(outcome(0.5, 0.1, lag=0.02))
        book.note_lag(0.5, 0.08)
    accounts = Accounts(book, PROFILE, None)
    assert accounts.lag_p99_ms == pytest.approx(80, rel=0.006)
    assert accounts.figures().due == 100


def test_a_long_run_keeps_as_many_columns_as_a_short_one():
    """An hour in columns of six seconds."""
    hours = Profile.parse({"title": "t", "load": "open", "stages": [{"seconds": 3600, "per_second": 1}]})
    book = Ledger(hours.seconds, hours.stage_at)
    for second in range(3600):
        book.note(outcome(second, 0.1))
    accounts = Accounts(book, hours, None)
    assert len(accounts.series()["seconds"]) == 600
    assert set(accounts.series()["ok"]) == {1.0}
    assert accounts.figures().per_second == 1.0
