"""Which queries and rules are known, and what they come to."""

import math

import pytest

from loadtest.autoscaling import manifests
from loadtest.autoscaling.prometheus import Prometheus
from loadtest.autoscaling.signals import SIGNALS, Moment, Query, Rule, UnknownSignal, parse_query, windows
from tests.loadtest.autoscaling.conftest import OVERLAYS

PENDING = "nv_inference_pending_request_count"
SCALED = ("gpu", "production", "scale-to-zero")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("eagleeye:demand:low15s", ("eagleeye:demand:low15s", -math.inf, math.inf)),
        (' sum(eagleeye:demand:low15s{namespace="a"}) ', ("eagleeye:demand:low15s", -math.inf, math.inf)),
        ("clamp_max(max(eagleeye:demand:low15s), 100)", ("eagleeye:demand:low15s", -math.inf, 100)),
        ("clamp_min(clamp_max(eagleeye:demand:low15s, 9), 1.5)", ("eagleeye:demand:low15s", 1.5, 9)),
    ],
)
def test_a_query_is_a_rule_within_bounds(text, expected):
    """Sums and maxima over labels change nothing where there is one model."""
    assert parse_query(text) == Query(*expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eagleeye:nobody:knows",
        "2 * eagleeye:demand:low15s",
        "rate(eagleeye:demand:low15s[1m])",
        "sum(eagleeye:demand:low15s) + 1",
        "clamp_max(eagleeye:demand:low15s)",
        "sum(eagleeye_inflight)",
    ],
)
def test_other_queries_are_refused(text):
    """With what is allowed."""
    with pytest.raises(UnknownSignal, match="allowed are sum, max, clamp_min and clamp_max of eagleeye:"):
        parse_query(text)


def test_bounds_hold_and_nothing_stays_nothing():
    """An empty result has no bounds."""
    query = Query("r", 1, 5)

    assert [query.value(value) for value in (0, 3, 9, None)] == [1, 3, 5, None]


def test_a_rule_of_other_metrics_is_refused():
    """A name whose meaning has changed must not go unnoticed."""
    rule = Rule("eagleeye:triton_pending:low30s", "sum(nv_inference_count)", 5)

    with pytest.raises(UnknownSignal, match=f"made of nv_inference_count; the simulator knows it as made of {PENDING}"):
        windows(rule)


def test_ranges_and_offsets_are_read():
    """So that another window is another simulation."""
    expression = "eagleeye_requests_total - (eagleeye_requests_total offset 2m) or 0 * eagleeye_held_bytes"

    assert windows(Rule("eagleeye:triton_pending:low30s", f"{PENDING} or {PENDING}{{a='b'}}[90s]", 5)) == {PENDING: 90}
    assert windows(Rule("eagleeye:requests:increase1m", expression, 5)) == {"eagleeye_requests_total": 120}


@pytest.mark.parametrize("overlay", SCALED)
def test_the_table_holds_all_that_overlays_ask_for(rendered, overlay):
    """Each query, and each rule behind it, made of the metrics that the table says."""
    found = manifests.read(str(rendered(overlay)), "triton")

    assert {parse_query(trigger.query).rule for trigger in found.triggers} <= set(found.rules) <= set(SIGNALS)


def test_no_overlay_is_forgotten(rendered):
    """Those that scale Triton are all in this test."""
    kinds = {path.name: rendered(path.name).read_text() for path in OVERLAYS.iterdir() if path.is_dir()}

    assert sorted(SCALED) == sorted(name for name, text in kinds.items() if "kind: ScaledObject" in text)


def moment(prometheus, now, recorded=(), **ranges):
    return Moment(prometheus, now, ranges, dict(recorded))


def test_a_backlog_is_forgotten_as_soon_as_it_is_gone():
    """The lower of average and latest sample, for each pod that is there."""
    prometheus = Prometheus()
    for at, a, b in ((0, 0, 8), (5, 30, 0), (10, 60, 0)):
        prometheus.scrape(at, "a", {PENDING: a})
        prometheus.scrape(at, "b", {PENDING: b})
    value = SIGNALS["eagleeye:triton_pending:low30s"].value

    assert value(moment(prometheus, 10, **{PENDING: 30})) == 30
    prometheus.lose(11, "a")
    assert value(moment(prometheus, 12, **{PENDING: 30})) == 0
    assert value(moment(Prometheus(), 12, **{PENDING: 30})) is None


def test_a_wait_is_silent_while_nothing_waits():
    """Rates remember; the gauge does not."""
    prometheus = Prometheus()
    names = {"nv_inference_queue_duration_us": 30, "nv_inference_request_success": 30, PENDING: 15}
    value = SIGNALS["eagleeye:triton_queue_milliseconds:mean30s"].value
    for at in range(0, 35, 5):
        waited, answered, pending = 1e6 * at, 10 * at, 8 if at < 20 else 0
        prometheus.scrape(at, "a", dict(zip(names, (waited, answered, pending), strict=True)))

    assert value(moment(prometheus, 16, **names)) == pytest.approx(100)
    assert value(moment(prometheus, 36, **names)) == 0


def test_gone_pods_are_in_ranges_but_not_in_the_latest():
    """`avg_over_time(X) and X` is what counts."""
    prometheus = Prometheus()
    metric = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
    for at in (0, 5, 10):
        prometheus.scrape(at, "a", {metric: 1.0})
        prometheus.scrape(at, "b", {metric: 0.5})
    prometheus.lose(11, "a")

    assert prometheus.average(metric, 12, 60) == {"a": 1.0, "b": 0.5}
    assert SIGNALS["eagleeye:gpu_busy_percent:mean1m"].value(moment(prometheus, 12, **{metric: 60})) == 50


def test_sums_of_rules_are_empty_where_one_is():
    """As + in PromQL; a wait without the gateway's part is Triton's."""
    rules = {"eagleeye:gateway_inflight:low15s": 3.0, "eagleeye:gateway_queued:low15s": None}
    waits = {"eagleeye:triton_queue_milliseconds:mean30s": 4.0, "eagleeye:gateway_queue_milliseconds:mean30s": None}

    assert SIGNALS["eagleeye:demand:low15s"].value(moment(Prometheus(), 0, rules)) is None
    assert SIGNALS["eagleeye:queue_milliseconds:max30s"].value(moment(Prometheus(), 0, waits)) == 4


def test_requests_of_the_last_minute():
    """Those that are older do not count; a young counter counts wholly."""
    prometheus = Prometheus()
    name = "eagleeye_requests_total"
    value = SIGNALS["eagleeye:requests:increase1m"].value
    counts = {}
    for at in range(0, 125, 5):
        prometheus.scrape(at, "gateway", {name: at})
        counts[at] = value(moment(prometheus, at, **{name: 60}))

    assert (counts[30], counts[60], counts[120]) == (30, 60, 60)
