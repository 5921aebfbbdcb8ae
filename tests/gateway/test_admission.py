"""Who gets in, and when: a gateway's queue before a Triton that batches, in virtual time."""

import asyncio
import random
from collections import Counter
from functools import partial

import pytest

from gateway.admission import Admission
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.metrics import Metrics
from gateway.priority import Priority
from tests.gateway import virtual_time

BATCH = 16
BASE_SECONDS = 0.010
IMAGE_SECONDS = 0.001
PEAK = BATCH / (BASE_SECONDS + BATCH * IMAGE_SECONDS)  # images per second of one Triton
DECODE_SECONDS = 0.002
MODEL = "toy"


class Triton:
    """One instance that works off its queue in batches, as a GPU does."""

    def __init__(self):
        self.waiting = []
        self.is_busy = False
        self.speed = 1.0

    async def infer(self):
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        if not self.is_busy:
            self.is_busy = True
            self.task = asyncio.create_task(self._work())
        await answer

    async def _work(self):
        while self.waiting:
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            await asyncio.sleep((BASE_SECONDS + IMAGE_SECONDS * len(batch)) / self.speed)
            for answer in batch:
                if not answer.done():
                    answer.set_result(None)
        self.is_busy = False


class Outcome:
    """What became of one image."""

    def __init__(self, sent_at, seconds, error):
        self.sent_at, self.seconds, self.error = sent_at, seconds, error


class World:
    """An admission, Tritons behind it, and callers that don't wait for each other."""

    def __init__(self, monkeypatch, tritons=1, **options):
        self.metrics = Metrics()
        self.tritons = [Triton() for _ in range(tritons)]
        self.slots = 2 * BATCH
        self.clock = asyncio.get_running_loop().time
        monkeypatch.setattr("gateway.deadline.time.monotonic", self.clock)
        self.admission = Admission(
            lambda _: self.slots * len(self.tritons), 8 * tritons, self.metrics, clock=self.clock, **options
        )
        self.outcomes = {}
        self.order = []

    async def send(self, flow="", priority=Priority.NORMAL, timeout_seconds=1.0, model=MODEL):
        start = self.clock()
        deadline = Deadline(start + timeout_seconds, timeout_seconds)
        error = None
        try:
            async with self.admission.slot(model, priority, flow, deadline) as slot:
                self.order.append((priority, flow))
                await asyncio.sleep(DECODE_SECONDS)
                self.admission.started(slot)
                async with asyncio.timeout_at(deadline.at):
                    await min(self.tritons, key=lambda triton: len(triton.waiting)).infer()
        except (Overloaded, DeadlineExceeded, TimeoutError) as caught:
            error = caught
        self.outcomes.setdefault(flow, []).append(Outcome(start, self.clock() - start, error))

    async def flood(self, per_second, seconds, send, seed=0):
        """Callers that come at random, whatever becomes of those before them."""
        chance = random.Random(seed)
        end = self.clock() + seconds
        async with asyncio.TaskGroup() as group:
            while self.clock() < end:
                group.create_task(send())
                await asyncio.sleep(chance.expovariate(per_second))

    def sample(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"eagleeye_{name}", {"model": MODEL, **labels})


def answered(outcomes):
    return [outcome for outcome in outcomes if outcome.error is None]


def refused(outcomes):
    return [outcome for outcome in outcomes if isinstance(outcome.error, Overloaded)]


def percentile(values, share):
    return sorted(values)[int(share * len(values))]


def in_world(monkeypatch, scenario, **options):
    async def play():
        world = World(monkeypatch, **options)
        await scenario(world)
        return world

    return virtual_time.run(play())


@pytest.mark.parametrize("flows", [1, 40])
@pytest.mark.parametrize("factor", [2, 10])
def test_overload_keeps_goodput(monkeypatch, factor, flows):
    """What is accepted is answered in time, as much as ever could be; what is not is refused at once."""
    chance = random.Random(1)

    async def scenario(world):
        await world.flood(factor * PEAK, 4, lambda: world.send(f"{chance.randrange(flows)}"))

    world = in_world(monkeypatch, scenario)
    settled = [o for outcomes in world.outcomes.values() for o in outcomes if o.sent_at > 1002]
    good = answered(settled)
    assert len(good) >= 0.95 * PEAK * 2
    assert len(good) + len(refused(settled)) == len(settled)
    assert percentile([outcome.seconds for outcome in good], 0.99) < 1.0
    assert percentile([outcome.seconds for outcome in refused(settled)], 0.99) == 0
    assert all(1 <= outcome.error.retry_after_seconds <= 2 for outcome in refused(settled))


@pytest.mark.parametrize("cameras", [3, 9])
def test_one_flooding_camera_does_not_hurt_the_others(monkeypatch, cameras):
    """At twenty times its share the others' p99 grows by less than a fifth, and none of their images is lost."""
    share = PEAK / (cameras + 1)

    async def scenario(world, factor):
        async with asyncio.TaskGroup() as group:
            for camera in range(cameras):
                group.create_task(world.flood(0.5 * share, 10, partial(world.send, f"{camera}"), seed=camera))
            group.create_task(world.flood(factor * share, 10, partial(world.send, "flood"), seed=99))

    p99 = []
    for factor in (0.5, 20):
        world = in_world(monkeypatch, partial(scenario, factor=factor))
        others = [o for flow, outcomes in world.outcomes.items() if flow != "flood" for o in outcomes]
        assert len(answered(others)) == len(others)
        p99.append(percentile([outcome.seconds for outcome in others], 0.99))
    assert p99[1] < 1.2 * p99[0]
    assert len(answered(world.outcomes["flood"])) >= share * 10  # it still gets its share


def test_a_flood_alone_gets_everything(monkeypatch):
    """Slots that nobody else wants are not kept free."""

    async def scenario(world):
        await world.flood(3 * PEAK, 4, partial(world.send, "flood"))

    world = in_world(monkeypatch, scenario)
    assert len(answered(world.outcomes["flood"])) > 0.95 * 4 * PEAK


def test_flows_that_all_flood_share_all_slots(monkeypatch):
    """Evenly, and without leaving one empty."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            for flow in "abc":
                group.create_task(world.flood(PEAK, 6, partial(world.send, flow), seed=ord(flow)))

    world = in_world(monkeypatch, scenario)
    counts = [len(answered(outcomes)) for outcomes in world.outcomes.values()]
    assert sum(counts) > 0.95 * 6 * PEAK
    assert max(counts) < 1.1 * min(counts)


def test_priorities_are_shares(monkeypatch):
    """Under overload by all three, high gets four times what normal gets, and low still gets something."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            for priority in Priority:
                send = partial(world.send, priority.value, priority)
                group.create_task(world.flood(2 * PEAK, 8, send, seed=priority.rank))

    world = in_world(monkeypatch, scenario)
    served = {flow: len([o for o in answered(found) if o.sent_at > 1003]) for flow, found in world.outcomes.items()}
    assert served["high"] > 3 * served["normal"] > 9 * served["low"] > 0


def test_a_rate_that_falls_by_eight_is_followed(monkeypatch):
    """Within seconds what is accepted is answered in time again; until then the rest is refused, not answered late."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            group.create_task(world.flood(2 * PEAK, 16, world.send))
            await asyncio.sleep(6)
            for triton in world.tritons:
                triton.speed = 1 / 8
            await asyncio.sleep(5)
            world.tritons[0].speed = 1

    world = in_world(monkeypatch, scenario)
    slow = [o for o in world.outcomes[""] if 1009 < o.sent_at < 1010]
    assert refused(slow)
    assert len(answered(slow)) >= 0.5 * PEAK / 8
    fast = [o for o in world.outcomes[""] if 1014 < o.sent_at < 1015]
    assert len(answered(fast)) >= 0.9 * PEAK


def test_tritons_that_come_and_go_are_followed(monkeypatch):
    """From one to eight and back: their slots are used at once, and what they can't do is not promised."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            group.create_task(world.flood(10 * PEAK, 12, world.send))
            await asyncio.sleep(4)
            world.tritons += [Triton() for _ in range(7)]
            await asyncio.sleep(4)
            del world.tritons[1:]

    world = in_world(monkeypatch, scenario)
    many = [o for o in world.outcomes[""] if 1006 < o.sent_at < 1007]
    assert len(answered(many)) >= 5 * PEAK
    few = [o for o in world.outcomes[""] if 1010 < o.sent_at < 1011]
    assert len(answered(few)) >= 0.9 * PEAK
    assert len(answered(few)) + len(refused(few)) == len(few)


def test_a_stall_ends_by_itself(monkeypatch):
    """Nothing is answered for five seconds, and all is as before soon after."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            group.create_task(world.flood(2 * PEAK, 12, world.send))
            await asyncio.sleep(3)
            world.tritons[0].speed = 1e-3 / 5
            await asyncio.sleep(0.1)
            stalled, world.tritons[0] = world.tritons[0], Triton()
            world.tritons[0].is_busy = True
            await asyncio.sleep(5)
            world.tritons[0] = Triton()
            for answer in stalled.waiting:
                answer.cancel()
            stalled.task.cancel()

    world = in_world(monkeypatch, scenario)
    after = [o for o in world.outcomes[""] if 1010 < o.sent_at < 1011]
    assert len(answered(after)) >= 0.9 * PEAK


def test_two_models_take_turns(monkeypatch):
    """What they share, threads that decode, goes to each of them."""

    async def scenario(world):
        world.admission._max_starting = 1
        async with asyncio.TaskGroup() as group:
            for model in ("one", "two"):
                send = partial(world.send, model, model=model)
                group.create_task(world.flood(2 * PEAK, 4, send))

    world = in_world(monkeypatch, scenario)
    one, two = (len(answered(world.outcomes[model])) for model in ("one", "two"))
    assert one == pytest.approx(two, rel=0.1)


def test_before_a_rate_is_known_so_many_may_wait(monkeypatch):
    """And no more: the next one is told to come back."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            for _ in range(world.slots + 5 + 2):
                group.create_task(world.send())

    world = in_world(monkeypatch, scenario, max_unmeasured=5)
    # of 32 slots only the 8 whose images decode are taken at once; so 5 wait beside those 8
    assert len(answered(world.outcomes[""])) == 8 + 5
    assert world.sample("shed_total", reason="queue") == len(refused(world.outcomes[""])) == 26


def test_what_waits_too_long_is_not_begun(monkeypatch):
    """It leaves the queue when too little time is left, refused and not late; nothing remains of it."""

    async def scenario(world):
        world.tritons[0].speed = 0.1
        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(world.send(timeout_seconds=1.0))

    world = in_world(monkeypatch, scenario, max_unmeasured=500)
    assert world.sample("shed_total", reason="expired") > 0
    assert len(world.order) < 200
    assert (world.sample("queued"), world.sample("inflight")) == (0, 0)


def test_a_caller_that_leaves_gives_its_place_back(monkeypatch):
    """Whether it waits, has just been let in, or is worked on; and one that was held back for its sake may go."""

    async def scenario(world):
        world.slots = 2
        tasks = [asyncio.create_task(world.send(flow, timeout_seconds=9)) for flow in "aaaabb"]
        for delay in (0, 0, 0.005):
            await asyncio.sleep(delay)
            tasks.pop(random.Random(1).randrange(len(tasks))).cancel()
        await asyncio.sleep(0.001)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        station = world.admission._stations[MODEL]
        assert (station.inflight, len(station.queue), +station.held, +station.there) == (0, 0, Counter(), Counter())
        assert world.admission._starting == 0
        await world.send()

    world = in_world(monkeypatch, scenario)
    assert answered(world.outcomes[""])


def test_what_is_expected_can_be_seen(monkeypatch):
    """The rate, the wait and the time in the queue, for dashboards and for scaling."""

    async def scenario(world):
        async with asyncio.TaskGroup() as group:
            group.create_task(world.flood(2 * PEAK, 3, world.send))
            await asyncio.sleep(2.5)
            assert world.sample("drain_rate") == pytest.approx(PEAK, rel=0.1)
            assert 0.6 < world.sample("expected_wait_seconds") < 1.0
            assert world.sample("queued") > 100

    world = in_world(monkeypatch, scenario)
    assert world.sample("stage_seconds_count", stage="queue") == len(answered(world.outcomes[""]))


def test_no_time_left_is_a_deadline(monkeypatch):
    """Not an overload: nobody could have been faster."""

    async def scenario(world):
        await world.send(timeout_seconds=-1)

    world = in_world(monkeypatch, scenario)
    (outcome,) = world.outcomes[""]
    assert isinstance(outcome.error, DeadlineExceeded)
