"""Several Tritons as one: real gRPC servers that are told to fail in every way that a pod can fail."""

import asyncio
import contextlib
from collections import Counter

import grpc
import numpy as np
import pytest

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, ModelNotFound, Overloaded, TritonUnavailable
from gateway.metrics import Metrics
from gateway.triton import fleet as fleet_module
from gateway.triton.discovery import FixedAddresses, LookFailed
from gateway.triton.fleet import Fleet
from gateway.triton.health import State
from tests.gateway.test_contract import config
from tests.gateway.triton.fake_triton import SOON, FakeTriton, serving, until
from tests.platform.conftest import free_ports

RESERVED_RETRIES = 100


class Addresses:
    """A list of endpoints that a test changes."""

    def __init__(self, *addresses):
        self.now = frozenset(addresses)

    async def look(self):
        if self.now is None:
            raise LookFailed("the name server is away")
        return self.now


class Cluster:
    """Tritons on ports of this machine, which can be stopped and started again."""

    def __init__(self):
        self._stacks = {}
        self.tritons = {}

    async def start(self, address=None, triton=None):
        """Start one, at a new address or again at an old one."""
        stack = contextlib.AsyncExitStack()
        triton = triton or FakeTriton()
        port = int(address.rpartition(":")[2]) if address else free_ports(1)[0]  # still free when it comes back
        address = f"127.0.0.1:{await stack.enter_async_context(serving(triton, port))}"
        self._stacks[address], self.tritons[address] = stack, triton
        return address

    async def kill(self, address):
        await self._stacks.pop(address).aclose()

    async def stop(self):
        for address in list(self._stacks):
            await self.kill(address)


@pytest.fixture
async def cluster():
    cluster = Cluster()
    yield cluster
    await cluster.stop()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
async def three(cluster):
    return [await cluster.start() for _ in range(3)]


@pytest.fixture
async def fleet(three, metrics):
    async with Fleet(FixedAddresses(frozenset(three)), metrics) as fleet:
        warm(fleet)
        yield fleet


def warm(fleet):
    """Spare a test the slow start."""
    for endpoint in fleet._endpoints.values():
        endpoint.health._since -= 10
        endpoint.health._is_cold = False


async def predict(fleet, seconds=SOON, version=None):
    model, version = fleet.find("toy", version)
    tensor = np.zeros((*model.input_wh[::-1], 3), np.uint8)
    return await fleet.predict(model, version, tensor, Deadline.after(seconds))


async def many(fleet, count, **options):
    """Results and errors of calls made at once."""
    calls = [asyncio.create_task(predict(fleet, **options)) for _ in range(count)]
    return await asyncio.gather(*calls, return_exceptions=True)


def failures(results):
    return [result for result in results if isinstance(result, BaseException)]


def retries(metrics):
    """By reason."""
    return {
        sample.labels["reason"]: sample.value
        for metric in metrics.registry.collect()
        if metric.name == "eagleeye_triton_retries"
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def state(fleet, address):
    return fleet._endpoints[address].health.state


async def test_calls_are_spread(fleet, cluster):
    """Each gets about its part."""
    assert not failures(await many(fleet, 300))
    counts = [len(triton.requests) for triton in cluster.tritons.values()]
    assert sum(counts) == 300
    assert min(counts) > 70


@pytest.mark.parametrize(
    "status, words, reason",
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "connection"),
        (grpc.StatusCode.CANCELLED, "the server goes", "connection"),
        (grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model has stopped", "stopping"),
        (grpc.StatusCode.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", "queue_full"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "queue_full"),
        (grpc.StatusCode.UNAVAILABLE, "'toy' version 3 is not at ready state", "replaced"),
        (grpc.StatusCode.NOT_FOUND, "unknown model", "not_found"),
        (grpc.StatusCode.INTERNAL, "out of memory", "error"),
    ],
)
async def test_what_one_can_not_do_another_does(fleet, three, cluster, metrics, status, words, reason):
    """The caller hears nothing of it; the operator does, by reason."""
    cluster.tritons[three[0]].failure, cluster.tritons[three[0]].words = status, words
    for _ in range(20):
        await predict(fleet)
    assert retries(metrics).keys() == {reason}
    assert retries(metrics)[reason] == len(cluster.tritons[three[0]].requests) > 0


async def test_an_answer_that_breaks_the_contract_is_asked_for_elsewhere(fleet, three, cluster, metrics):
    """It is the pod's fault, not the image's."""
    cluster.tritons[three[0]].outputs["scores"] = ("FP32", np.zeros((0,), np.float32))
    for _ in range(20):
        await predict(fleet)
    assert retries(metrics).keys() == {"invalid"}


async def test_a_death_in_mid_request_costs_nobody_anything(fleet, three, cluster, metrics):
    """All of its calls go elsewhere at once; the others keep theirs."""
    for triton in cluster.tritons.values():
        triton.go.clear()
    calls = [asyncio.create_task(predict(fleet)) for _ in range(60)]
    await until(lambda: sum(len(triton.requests) for triton in cluster.tritons.values()) == 60)
    lost = len(cluster.tritons[three[0]].requests)
    await cluster.kill(three[0])
    for address in three[1:]:
        cluster.tritons[address].go.set()
    assert not failures(await asyncio.gather(*calls, return_exceptions=True))
    assert retries(metrics) == {"connection": lost}
    assert state(fleet, three[0]) is State.LOST
    before = sum(retries(metrics).values())
    assert not failures(await many(fleet, 50))
    assert sum(retries(metrics).values()) == before


async def test_a_stalled_one_gives_its_calls_back(fleet, three, cluster, metrics):
    """It answers neither probes nor calls: within seconds, not at the deadline, others do its work."""
    await many(fleet, 30)
    frozen = cluster.tritons[three[0]]
    frozen.thawed.clear()
    async with asyncio.timeout(SOON):
        assert not failures(await many(fleet, 60, seconds=60))
    assert retries(metrics)["stalled"] > 0
    assert state(fleet, three[0]) in {State.LOST, State.EJECTED}
    await asyncio.wait_for(frozen.cancelled.wait(), SOON)
    frozen.thawed.set()
    await until(lambda: state(fleet, three[0]) is State.WARMING)


async def test_a_frozen_backend_is_found_out_though_probes_are_answered(fleet, three, cluster, metrics):
    """By its calls: they wait, and none ends."""
    await many(fleet, 30)
    cluster.tritons[three[0]].go.clear()
    async with asyncio.timeout(SOON):
        assert not failures(await many(fleet, 60, seconds=60))
    assert state(fleet, three[0]) is State.EJECTED
    assert "calls wait and none has ended" in fleet._endpoints[three[0]].health.reason
    ejections = {"endpoint": three[0]}
    assert metrics.registry.get_sample_value("eagleeye_triton_ejections_total", ejections) == 1


async def test_calls_stay_where_nobody_else_can_take_them(three, cluster, metrics):
    """The only Triton may stall for as long as the callers wait; they get their answers from it."""
    async with Fleet(FixedAddresses(frozenset(three[:1])), metrics) as fleet:
        await many(fleet, 10)
        cluster.tritons[three[0]].thawed.clear()
        calls = [asyncio.create_task(predict(fleet, seconds=60)) for _ in range(5)]
        await until(lambda: state(fleet, three[0]) is State.LOST)
        late = asyncio.create_task(predict(fleet, seconds=60))
        await asyncio.sleep(0.1)
        cluster.tritons[three[0]].thawed.set()
        assert not failures(await asyncio.gather(*calls, late, return_exceptions=True))
        assert retries(metrics) == {}


async def test_one_that_fails_again_and_again_is_ejected(fleet, three, cluster):
    """It gets no more calls then, and some again when its time is over."""
    broken = cluster.tritons[three[0]]
    broken.failure = grpc.StatusCode.INTERNAL
    await many(fleet, 60)
    assert state(fleet, three[0]) is State.EJECTED
    asked = len(broken.requests)
    await many(fleet, 30)
    assert len(broken.requests) == asked
    broken.failure = None
    await until(lambda: state(fleet, three[0]) is State.WARMING)


async def test_if_all_fail_the_callers_hear_of_it(fleet, cluster):
    """At once, each Triton having been asked; and they are tried all the same, ejected or not."""
    for triton in cluster.tritons.values():
        triton.failure = grpc.StatusCode.INTERNAL
    for _ in range(10):
        with pytest.raises(TritonUnavailable, match="could not run toy"):
            await predict(fleet)
    for triton in cluster.tritons.values():
        triton.failure = None
    await predict(fleet)


async def test_if_all_queues_are_full_the_fleet_is_overloaded(fleet, cluster):
    """Asking again would only make it worse."""
    for triton in cluster.tritons.values():
        triton.failure, triton.words = grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"
    with pytest.raises(Overloaded):
        await predict(fleet)
    assert [len(triton.requests) for triton in cluster.tritons.values()] == [1, 1, 1]
    assert {endpoint.health.state for endpoint in fleet._endpoints.values()} == {State.SERVING}


async def test_retries_end_with_the_budget(fleet, cluster, metrics):
    """When everything fails, Triton's load grows by a share and not by a factor."""
    for triton in cluster.tritons.values():
        triton.failure = grpc.StatusCode.INTERNAL
    for _ in range(200):
        with pytest.raises(TritonUnavailable):
            await predict(fleet)
    assert sum(retries(metrics).values()) <= RESERVED_RETRIES + 0.2 * 200


async def test_requests_wait_for_a_triton_that_restarts(three, cluster, metrics):
    """Even if it is the only one: what was under way, and what comes meanwhile."""
    async with Fleet(FixedAddresses(frozenset(three[:1])), metrics) as fleet:
        triton = cluster.tritons[three[0]]
        triton.go.clear()
        before = [asyncio.create_task(predict(fleet)) for _ in range(5)]
        await until(lambda: len(triton.requests) == 5)
        await cluster.kill(three[0])
        await until(lambda: state(fleet, three[0]) is State.LOST)
        assert not fleet.models
        meanwhile = [asyncio.create_task(predict(fleet)) for _ in range(5)]
        await asyncio.sleep(0.3)
        await cluster.start(three[0])
        assert not failures(await asyncio.gather(*before, *meanwhile, return_exceptions=True))


async def test_a_triton_that_does_not_come_back_in_time(three, cluster, metrics):
    """Says so, when the request's time is over."""
    async with Fleet(FixedAddresses(frozenset(three[:1])), metrics) as fleet:
        await cluster.kill(three[0])
        await until(lambda: state(fleet, three[0]) is State.LOST)
        with pytest.raises(TritonUnavailable, match="no Triton serves toy at the moment"):
            await predict(fleet, seconds=0.3)


async def test_a_triton_is_not_expected_back_for_ever(three, cluster, metrics, monkeypatch):
    """Later, requests fail at once."""
    monkeypatch.setattr(fleet_module, "_EXPECTED_BACK_SECONDS", 0.5)
    async with Fleet(FixedAddresses(frozenset(three[:1])), metrics, look_interval_seconds=0.1) as fleet:
        await cluster.kill(three[0])
        waiting = asyncio.create_task(predict(fleet, seconds=60))
        with pytest.raises(TritonUnavailable):
            async with asyncio.timeout(SOON):
                await waiting
        with pytest.raises(TritonUnavailable):
            fleet.find("toy", None)


async def test_a_stopping_triton_finishes_what_it_has(fleet, three, cluster, metrics):
    """Not ready, it gets nothing new; and nothing is taken from it."""
    stopping = cluster.tritons[three[0]]
    stopping.go.clear()
    calls = [asyncio.create_task(predict(fleet)) for _ in range(30)]
    await until(lambda: sum(len(triton.requests) for triton in cluster.tritons.values()) == 30)
    stopping.is_stopping = True
    await until(lambda: state(fleet, three[0]) is State.UNREADY)
    had = len(stopping.requests)
    assert not failures(await many(fleet, 30))
    assert len(stopping.requests) == had
    stopping.go.set()
    assert not failures(await asyncio.gather(*calls, return_exceptions=True))
    assert retries(metrics) == {}


async def test_the_deadline_bounds_all_attempts(fleet, cluster):
    """Together, not each."""
    for triton in cluster.tritons.values():
        triton.go.clear()
    seconds = 0.15
    while not any(triton.requests for triton in cluster.tritons.values()):  # time may be over before one is asked
        seconds *= 2
        with pytest.raises(DeadlineExceeded, match=f"{seconds * 1e3:.0f} ms"):
            await predict(fleet, seconds=seconds)
    (asked,) = [triton for triton in cluster.tritons.values() if triton.requests]
    assert 0 < asked.remaining_seconds < seconds + 0.05
    with pytest.raises(DeadlineExceeded):
        await predict(fleet, seconds=0)
    assert sum(len(triton.requests) for triton in cluster.tritons.values()) == 1


async def test_a_caller_that_leaves_cancels_its_call(fleet, cluster):
    """Wherever it is."""
    for triton in cluster.tritons.values():
        triton.go.clear()
    call = asyncio.create_task(predict(fleet))
    await until(lambda: any(triton.requests for triton in cluster.tritons.values()))
    (busy,) = [triton for triton in cluster.tritons.values() if triton.requests]
    call.cancel()
    async with asyncio.timeout(SOON):
        await busy.cancelled.wait()
    assert [endpoint.outstanding for endpoint in fleet._endpoints.values()] == [0, 0, 0]


async def test_endpoints_come_and_go(cluster, metrics):
    """A new one takes calls; one that is removed finishes what it has, closes, and leaves no metric behind."""
    old, new = await cluster.start(), await cluster.start()
    addresses = Addresses(old)
    async with Fleet(addresses, metrics, look_interval_seconds=0.05) as fleet:
        cluster.tritons[old].go.clear()
        slow = asyncio.create_task(predict(fleet))
        await until(lambda: cluster.tritons[old].requests)
        addresses.now = {old, new}
        await until(lambda: new in fleet._endpoints and state(fleet, new) is State.WARMING)
        addresses.now = {new}
        await until(lambda: state(fleet, old) is State.DRAINING)
        assert not failures(await many(fleet, 10))
        assert len(cluster.tritons[old].requests) == 1
        cluster.tritons[old].go.set()
        assert (await slow).class_ids.tolist() == [0, 1, 1, 0, 1]
        await until(lambda: old not in fleet._endpoints)
        labels = {sample.labels.get("endpoint") for each in metrics.registry.collect() for sample in each.samples}
        assert labels == {None, new}


async def test_an_endpoint_that_returns_while_it_drains_stays(cluster, metrics):
    """A record that was missing for a moment costs no connection."""
    address = await cluster.start()
    addresses = Addresses(address)
    async with Fleet(addresses, metrics, look_interval_seconds=0.05) as fleet:
        cluster.tritons[address].go.clear()
        slow = asyncio.create_task(predict(fleet))
        await until(lambda: cluster.tritons[address].requests)
        endpoint = fleet._endpoints[address]
        addresses.now = frozenset()
        await until(lambda: state(fleet, address) is State.DRAINING)
        addresses.now = {address}
        await until(lambda: state(fleet, address) is not State.DRAINING)
        cluster.tritons[address].go.set()
        await slow
        assert fleet._endpoints == {address: endpoint}


async def test_all_may_be_replaced_at_once(cluster, metrics):
    """Between the last old one and the first new one, requests wait."""
    old = await cluster.start()
    addresses = Addresses(old)
    async with Fleet(addresses, metrics, look_interval_seconds=0.05) as fleet:
        addresses.now = frozenset()
        await until(lambda: not fleet._endpoints)
        waiting = asyncio.create_task(predict(fleet))
        await asyncio.sleep(0.1)
        addresses.now = {await cluster.start()}
        await waiting


async def test_a_failing_name_server_takes_nobody_away(three, metrics):
    """What was known goes on being true; operators see that something is wrong."""
    addresses = Addresses(*three)
    async with Fleet(addresses, metrics, look_interval_seconds=0.02) as fleet:
        addresses.now = None
        await until(lambda: fleet.describe()["discovery_error"] == "the name server is away")
        assert fleet._endpoints.keys() == set(three)
        await predict(fleet)
        addresses.now = set(three)
        await until(lambda: fleet.describe()["discovery_error"] is None)


async def test_a_request_goes_where_its_version_is(fleet, three, cluster):
    """While a version is on one of three, who names none gets what most have, and who names it finds it."""
    cluster.tritons[three[0]].ready.append(("toy", "4"))
    await until(lambda: fleet.models["toy"].versions == (1, 3, 4))
    assert fleet.find("toy", None)[1] == 3
    assert not failures(await many(fleet, 10, version=4))
    assert [len(cluster.tritons[address].requests) for address in three] == [10, 0, 0]
    for address in three[1:]:
        cluster.tritons[address].ready.append(("toy", "4"))
    await until(lambda: fleet.find("toy", None)[1] == 4)


async def test_input_sizes_do_not_mix(fleet, three, cluster):
    """A request that was made for one size goes to the endpoints that have it."""
    cluster.tritons[three[0]].configs["toy"] = config(("[ 32, 64, 3 ]", "[ 64, 64, 3 ]"))
    await until(lambda: fleet._endpoints[three[0]].models["toy"].input_wh == (64, 64))
    assert not failures(await many(fleet, 30))
    assert not cluster.tritons[three[0]].requests


async def test_a_version_that_was_replaced_everywhere_is_gone(fleet, cluster):
    """A request that was made for it hears so, at once."""
    model, version = fleet.find("toy", None)
    for triton in cluster.tritons.values():
        triton.ready, triton.failure = [("toy", "4")], grpc.StatusCode.UNAVAILABLE
        triton.words = "'toy' version 3 is not at ready state"
    with pytest.raises(TritonUnavailable, match="just been replaced"):
        await fleet.predict(model, version, np.zeros((32, 64, 3), np.uint8), Deadline.after(SOON))
    await until(lambda: fleet.models["toy"].versions == (4,))
    with pytest.raises(TritonUnavailable, match="just been replaced"):
        await fleet.predict(model, version, np.zeros((32, 64, 3), np.uint8), Deadline.after(SOON))
    with pytest.raises(ModelNotFound, match="no version 3; served are: 4"):
        fleet.find("toy", 3)


async def test_a_version_is_waited_for_only_by_those_who_named_it(metrics, cluster):
    """It may come back with its Triton; who named none is better served by the one that is there."""
    old, new = [await cluster.start() for _ in range(2)]
    cluster.tritons[new].ready = [("toy", "4")]
    addresses = Addresses(old)
    async with Fleet(addresses, metrics, look_interval_seconds=0.05) as fleet:
        model, version = fleet.find("toy", None)
        addresses.now = frozenset({new})
        await until(lambda: "toy" in fleet.models and fleet.models["toy"].versions == (4,))
        assert fleet.expected_models["toy"].versions == (1, 3, 4)
        assert fleet.find("toy", None)[1] == 4
        tensor = np.zeros((32, 64, 3), np.uint8)
        with pytest.raises(TritonUnavailable, match="just been replaced"):
            await fleet.predict(model, version, tensor, Deadline.after(SOON), is_replaceable=True)
        named = asyncio.create_task(fleet.predict(model, version, tensor, Deadline.after(SOON)))
        await asyncio.sleep(0.05)
        addresses.now = frozenset({old, new})
        await named
        assert len(cluster.tritons[old].requests) == 1


async def test_a_slow_answer_is_hedged(three, cluster, metrics):
    """After the quantile of the latest ones a second Triton is asked, the first answer counts, the other call ends."""
    async with Fleet(FixedAddresses(frozenset(three)), metrics, hedge_quantile=0.9) as fleet:
        warm(fleet)
        for _ in range(60):
            await predict(fleet)
        slow = cluster.tritons[three[0]]
        slow.go.clear()
        asked = len(slow.requests)
        for _ in range(20):
            await predict(fleet)
        assert retries(metrics)["hedge"] >= len(slow.requests) - asked > 0
        async with asyncio.timeout(SOON):
            await slow.cancelled.wait()
        assert fleet._endpoints[three[0]].outstanding == 0


async def test_hedges_fail_only_together(three, cluster, metrics):
    """One that fails leaves the other its chance."""
    async with Fleet(FixedAddresses(frozenset(three[:2])), metrics, hedge_quantile=0.5) as fleet:
        warm(fleet)
        for _ in range(60):
            await predict(fleet)
        for address in three[:2]:
            cluster.tritons[address].seconds = 0.2
        cluster.tritons[three[0]].failure = grpc.StatusCode.INTERNAL
        assert not failures([await predict(fleet) for _ in range(5)])


async def test_operators_see_every_endpoint(fleet, three, cluster):
    """State, models, and why it is as it is."""
    await predict(fleet)
    await cluster.kill(three[0])
    await until(lambda: state(fleet, three[0]) is State.LOST)
    view = fleet.describe()
    by_address = {endpoint["endpoint"]: endpoint for endpoint in view["endpoints"]}
    assert Counter(endpoint["state"] for endpoint in by_address.values()) == {"lost": 1, "serving": 2}
    assert by_address[three[0]]["reason"]
    assert by_address[three[1]]["models"] == {"toy": ["1", "3"]}
    assert view["retry_budget"] >= RESERVED_RETRIES - 1


async def test_the_capacity_follows_the_endpoints_that_serve(cluster, metrics):
    """Two batches for each; while nobody serves, what it was, for requests wait for somebody to come back."""
    addresses = [await cluster.start() for _ in range(2)]
    listed = Addresses(*addresses)
    async with Fleet(listed, metrics, look_interval_seconds=0.05) as fleet:
        await until(lambda: fleet.capacity("toy") == 4)
        assert fleet.capacity("nobody") == 1
        listed.now = frozenset(addresses[:1])
        await until(lambda: fleet.capacity("toy") == 2)
        await cluster.kill(addresses[0])
        await until(lambda: not fleet.models)
        assert fleet.capacity("toy") == 2
