"""What the overlay `gpu` promises, simulated with eight GPUs and a cold start of 60 s."""

import os
from dataclasses import replace
from functools import cache

import pytest

from loadtest.autoscaling import manifests
from loadtest.autoscaling.demand import noisy, steps
from loadtest.autoscaling.figures import asked_after, figures, goodput, recovered_after, turns
from loadtest.autoscaling.pods import Service
from loadtest.autoscaling.scenarios import ONE_POD, POD_SHARE, SCENARIOS
from loadtest.autoscaling.simulation import Conditions, Loss, simulate
from loadtest.profile import Step, patch
from tests.loadtest.autoscaling.conftest import OVERLAYS

COLD_START_SECONDS = 60
SERVICE = Service(cold_start_seconds=COLD_START_SECONDS)
POD = POD_SHARE * SERVICE.curve.capacity_per_second


@pytest.fixture(scope="module")
def play(gpu):
    """A function that runs a scenario, once."""

    @cache
    def run(name):
        scenario = SCENARIOS[name].scaled_to(SERVICE.curve)
        conditions = Conditions(service=SERVICE, replicas=scenario.replicas, losses=scenario.losses)
        return simulate(gpu, scenario.demand, conditions)

    return run


def pods_between(timeline, begin, end):
    return [row.wanted for row in timeline.rows if begin <= row.seconds < end]


@pytest.mark.parametrize("phase", [0, 3, 6, 9, 12, 14.5])
def test_six_pods_worth_at_once(gpu, phase):
    """Asked for within 30 s whenever the HPA happens to look, and 99 % in time again within cold start + 30 s."""
    demand = steps((120, ONE_POD), (240, 6)).scaled(POD)
    timeline = simulate(gpu, demand, Conditions(service=SERVICE, sync_phase_seconds=phase))

    assert set(pods_between(timeline, 0, 120)) == {1}
    assert asked_after(timeline, 120, 6) <= 30
    assert 0 < recovered_after(timeline, 120) <= COLD_START_SECONDS + 30


def test_a_slow_policy_would_break_that_promise(gpu):
    """Two pods or the double per minute ask for six pods after more than a minute: why five are allowed at once."""
    policies = tuple(replace(p, value=v, period_seconds=60) for p, v in zip(gpu.up.policies, (2, 100), strict=True))
    slow = replace(gpu, up=replace(gpu.up, policies=policies))
    timeline = simulate(slow, steps((120, ONE_POD), (240, 6)).scaled(POD), Conditions(service=SERVICE))

    assert 60 < asked_after(timeline, 120, 6) < 100


def test_a_step_to_four_times_the_load(play):
    """Pods enough in one go; the rest goes pod by pod, ten minutes after it is not needed any more."""
    timeline = play("step")

    assert asked_after(timeline, 300, 6) <= 30
    assert recovered_after(timeline, 300) <= COLD_START_SECONDS + 30
    assert min(pods_between(timeline, 1500, 1800)) == 8
    assert turns(timeline) == 1


def test_a_spike_is_over_before_pods_are_there(play):
    """What 30 s cost: most of the spike is refused at once, nobody waits in vain, and the pods come for nothing."""
    timeline = play("spike")
    total = timeline.total

    assert total.expired == 0
    assert total.refused > 0.6 * 30 * 6 * POD
    assert max(row.wait_ms for row in timeline.rows) <= 10_000
    assert all(row.refused == 0 for row in timeline.rows if row.seconds >= 331)
    assert (max(row.wanted for row in timeline.rows), turns(timeline)) == (6, 1)


def test_a_slow_ramp_is_never_noticed(play):
    """The GPU's load leads: pods come before anything is refused, one by one, and none goes."""
    timeline = play("ramp")

    assert goodput(timeline) == 1
    assert max(row.wait_ms for row in timeline.rows) < 20
    assert [c.after - c.before for c in timeline.changes] == [1] * 7


def test_a_day(play):
    """All in time, with pods that follow the load: no more than one change of direction per peak and valley."""
    timeline = play("day")
    found = figures(timeline)

    assert found.goodput_percent == 100
    assert found.turns <= 4
    assert found.gpu_hours < 0.8 * 8 * 24
    assert min(pods_between(timeline, 0, 5 * 3600)) <= 3


@pytest.mark.parametrize("load", [0.1, 0.5, 1, 2, 4, 6])
def test_steady_noise_changes_the_direction_twice_at_most(gpu, load):
    """At any load, for half an hour each, after the first pods have come."""
    timeline = simulate(gpu, noisy(1800, load, 0.1, seed=3).scaled(POD), Conditions(service=SERVICE))

    assert turns(timeline) <= 2


def test_two_hours_of_noise(play):
    """Nothing happens."""
    timeline = play("noise")

    assert (timeline.changes, goodput(timeline)) == ([], 1)


def test_flapping_load_keeps_what_its_peaks_need(play):
    """Scaling down waits for longer than the load does."""
    timeline = play("flapping")

    assert turns(timeline) == 0
    assert recovered_after(timeline, 600) == 0


def test_lost_metrics_scale_nothing_down(play):
    """Not even while nothing comes any more: nobody can know. It falls back, and follows when the metrics are back."""
    timeline = play("metrics-lost")

    assert set(pods_between(timeline, 600, 2100)) == {6}
    assert 600 < timeline.fallback_seconds <= 600 + 4 * 15
    assert timeline.rows[-1].wanted == 1


@pytest.mark.parametrize("lost", ["demand", "pending", "queue-latency", "gpu-busy"])
def test_one_lost_trigger_leaves_the_others_at_work(gpu, lost):
    """They scale up, and nothing scales down until it is back."""
    demand = steps((300, 1), (600, 3), (900, ONE_POD)).scaled(POD)
    conditions = Conditions(service=SERVICE, replicas=3, losses=(Loss(120, 1500, frozenset({lost})),))
    timeline = simulate(gpu, demand, conditions)

    assert max(pods_between(timeline, 300, 500)) >= 4
    assert all(change.after > change.before for change in timeline.changes if change.seconds < 1500)
    assert goodput(timeline) > 0.97


def test_without_the_gpus_load_the_number_of_pods_swings(gpu):
    """Why `gpu-busy` is there: in-flight work is next to nothing until pods are full, so it lets go of too many."""
    without = replace(gpu, triggers=tuple(trigger for trigger in gpu.triggers if trigger.name != "gpu-busy"))
    timeline = simulate(without, noisy(3600, 1, 0.1, seed=3).scaled(POD), Conditions(service=SERVICE, replicas=2))

    assert turns(timeline) > 2


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The overlay `gpu` with what `eagleeye profile` writes for these pods."""
    folder = tmp_path_factory.mktemp("measured").resolve()
    best = Step(callers=24, images_per_second=SERVICE.curve.capacity_per_second, p99_ms=100)
    (folder / "demand.yaml").write_text(patch(best, 1, 250))
    (folder / "kustomization.yaml").write_text(
        f"resources: [{os.path.relpath(OVERLAYS / 'gpu', folder)}]\n"
        "patches: [{path: demand.yaml, target: {kind: ScaledObject, name: triton}}]\n"
    )
    return replace(manifests.read(str(folder), "triton"), max_replicas=8)


@pytest.mark.usefixtures("rendered")
def test_a_measured_capacity_needs_fewer_pods(measured, play):
    """A fifth less at least for the same ramp, with nobody refused, and the surge is answered as without."""
    demand = SCENARIOS["ramp"].scaled_to(SERVICE.curve).demand
    timeline = simulate(measured, demand, Conditions(service=SERVICE, replicas=1))
    surge = simulate(measured, steps((120, ONE_POD), (240, 6)).scaled(POD), Conditions(service=SERVICE))

    assert timeline.gpu_hours < 0.8 * play("ramp").gpu_hours
    assert goodput(timeline) == 1
    assert max(row.wait_ms for row in timeline.rows) < 20
    assert asked_after(surge, 120, 6) <= 30
    assert recovered_after(surge, 120) <= COLD_START_SECONDS + 30


def test_steady_noise_around_a_measured_rate(measured):
    """It is as calm."""
    timeline = simulate(measured, noisy(1800, 2, 0.1, seed=3).scaled(POD), Conditions(service=SERVICE))

    assert turns(timeline) <= 2


def test_triton_alone_does_not_know_what_waits(plain):
    """Behind the gateway no more than a batch waits in a pod: who asks only Triton and its GPU scales too slowly."""
    timeline = simulate(plain, steps((120, ONE_POD), (900, 6)).scaled(POD), Conditions(service=SERVICE))

    assert asked_after(timeline, 120, 6) > 300
    assert goodput(timeline) < 0.8


def test_the_same_seed_gives_the_same_run(gpu):
    """And another one another."""
    demand = steps((60, 1)).scaled(POD)
    first, again, other = (simulate(gpu, demand, Conditions(seed=seed)) for seed in (1, 1, 2))

    assert first == again
    assert first.rows != other.rows


def test_nothing_ever_comes(gpu):
    """The empty case."""
    timeline = simulate(gpu, steps((120, 0)), Conditions())

    assert (goodput(timeline), figures(timeline).images_per_gpu_hour, timeline.changes) == (1, 0, [])


@pytest.mark.parametrize(
    "images_per_second, deadline_seconds, refused, expired",
    [(0.5, 120, False, False), (20, 120, True, False), (0.5, 10, False, True)],
)
def test_scale_to_zero(rendered, images_per_second, deadline_seconds, refused, expired):
    """No GPU is held while nobody asks. The first requests start a pod, and wait for it within bounds and deadline."""
    zero = manifests.read(str(rendered("scale-to-zero")), "triton")
    demand = steps((300, 0), (30, images_per_second), (1800, 0))
    service = replace(SERVICE, deadline_seconds=deadline_seconds)
    timeline = simulate(zero, demand, Conditions(service=service))
    first = timeline.changes[0]

    assert (first.before, first.after) == (0, 1)
    assert 300 < first.seconds <= 300 + 5 + 5 + 5 + zero.polling_seconds
    assert (timeline.total.refused > 0, timeline.total.expired > 0) == (refused, expired)
    assert (timeline.total.answered > 0) == (not expired)
    assert (timeline.rows[-1].wanted, timeline.rows[-1].gpus) == (0, 0)
