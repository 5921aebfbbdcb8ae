"""Tensors by shared memory: a slot is never filled anew while a Triton may read it; what can't be shared is sent."""

import asyncio
import contextlib
import re
import shutil

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, TritonUnavailable
from gateway.metrics import Metrics
from gateway.triton.discovery import FixedAddresses
from gateway.triton.fleet import Fleet
from gateway.triton.shared_memory import FOLDER, PREFIX, SharedMemory, SharedMemoryError
from tests.gateway.triton.fake_triton import SOON, FakeTriton, serving, until

SLOTS = 16
"""Of up to 64 KiB in 1 MiB."""


class Reader:
    """A Triton, as the memory sees it."""

    def __init__(self):
        self.has_been_asked = False

    def let_go(self):
        self.has_been_asked = True


def filled(number, size=1000):
    return np.full((1, size, 1), number, np.uint8)


@pytest.fixture
def memory():
    with SharedMemory(1) as memory:
        yield memory
    assert not (FOLDER / memory.name).exists()


@pytest.fixture
def reader(memory):
    reader = Reader()
    memory.attach(reader)
    return reader


def at(memory, slot):
    return set(memory._bytes[slot.offset : slot.offset + slot.byte_size].tolist())


@pytest.mark.usefixtures("reader")
def test_each_tensor_has_its_place(memory):
    """Of its own size, until its request is over; when none is left there is None."""
    with contextlib.ExitStack() as requests:
        small = requests.enter_context(memory.lend(filled(1)))
        large = requests.enter_context(memory.lend(filled(2, 900_000)))
        others = [requests.enter_context(memory.lend(filled(number))) for number in range(3, 6)]
        assert [at(memory, small), at(memory, large), at(memory, others[0])] == [{1}, {2}, {3}]
        assert others[-1] is None
    assert memory.describe() == {"bytes": 2**20, "free_bytes": 2**20, "kept_back_bytes": 0}


def test_a_tensor_that_is_not_contiguous_is_copied_in_order(memory, reader):
    """Pixels go as they are seen."""
    tensor = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2]
    with memory.lend(tensor) as slot:
        assert memory._bytes[slot.offset : slot.offset + slot.byte_size].tolist() == tensor.ravel().tolist()
    memory.detach(reader)
    with memory.lend(tensor) as slot:
        assert slot is None


def test_a_doubted_slot_is_kept_back(memory, reader):
    """By each Triton that may read it, until that one is clear; who keeps slots is asked for them when they run out."""
    other = Reader()
    memory.attach(other)
    with memory.lend(filled(1)) as slot:
        for each in (reader, other, reader):
            memory.doubt(slot, each)
    memory.clear(other)
    with contextlib.ExitStack() as requests:
        rest = [requests.enter_context(memory.lend(filled(2))) for _ in range(SLOTS - 1)]
        assert slot.offset not in {each.offset for each in rest}
        assert not reader.has_been_asked
        assert requests.enter_context(memory.lend(filled(2))) is None
        assert (reader.has_been_asked, other.has_been_asked) == (True, False)
        assert at(memory, slot) == {1}
        assert memory.describe()["kept_back_bytes"] == 65_536
        memory.clear(reader)
        assert requests.enter_context(memory.lend(filled(2))).offset == slot.offset


def test_a_file_of_a_killed_gateway_is_removed():
    """And that of one that lives is not."""
    leftover = FOLDER / f"{PREFIX}killed"
    leftover.touch()
    with SharedMemory(1) as one, SharedMemory(1) as other:
        assert not leftover.exists()
        assert one.name != other.name
        assert (FOLDER / one.name).stat().st_mode & 0o777 == 0o600
        assert (FOLDER / other.name).stat().st_size == 2**20


def test_memory_that_is_not_there_is_refused():
    """At the start, in words; not by a signal when it is written to. Nothing is left."""
    before = set(FOLDER.glob(f"{PREFIX}*"))
    mebibytes = 2 * shutil.disk_usage(FOLDER).total // 2**20
    with (
        pytest.raises(SharedMemoryError, match=f"can't have {mebibytes} MiB of .* No space left .* give less with --"),
        SharedMemory(mebibytes),
    ):
        pass
    assert {path for path in FOLDER.glob(f"{PREFIX}*") if path.stat().st_size == 0} <= before


@pytest.fixture
def triton():
    return FakeTriton()


@pytest.fixture
async def fleet(memory, triton):
    async with serving(triton) as port, fleet_of(memory, port) as fleet:
        await until(lambda: ways(fleet) == ["shared_memory"])
        yield fleet


def fleet_of(memory, *ports, **options):
    return Fleet(FixedAddresses(frozenset(f"127.0.0.1:{port}" for port in ports)), Metrics(), memory=memory, **options)


def ways(fleet):
    return [endpoint["tensors_by"] for endpoint in fleet.describe()["endpoints"]]


async def predict(fleet, number=7, seconds=SOON):
    model, version = fleet.find("toy", None)
    tensor = np.full((*model.input_wh[::-1], 3), number, np.uint8)
    return await fleet.predict(model, version, tensor, Deadline.after(seconds))


def numbers(triton):
    """Of the tensors that were read, each of one number throughout."""
    found = [set(tensor) for tensor in triton.tensors]
    assert all(len(each) == 1 for each in found)
    return [number for (number,) in found]


async def test_a_tensor_goes_by_memory(fleet, triton):
    """The message says where it is; Triton reads it there, and the metric tells the way."""
    for number in (7, 8):
        await predict(fleet, number)
    assert [list(request.raw_input_contents) for request in triton.requests] == [[], []]
    assert numbers(triton) == [7, 8]
    (address,) = fleet._endpoints
    labels = {"endpoint": address, "way": "shared_memory"}
    assert fleet._metrics.registry.get_sample_value("eagleeye_triton_tensors_total", labels) == 2
    assert fleet.describe()["shared_memory"]["free_bytes"] == 2**20


async def test_at_the_end_triton_forgets_the_memory(memory, triton):
    """It would hold it else; what gateways have left that were killed goes, too, and nobody else's."""
    triton.regions = {"dead": f"/{PREFIX}dead", "theirs": "/theirs"}
    async with serving(triton) as port:
        async with fleet_of(memory, port) as fleet:
            await until(lambda: ways(fleet) == ["shared_memory"])
            await until(lambda: set(triton.regions) == {f"{memory.name}-1", "theirs"})
        assert set(triton.regions) == {"theirs"}


async def test_a_triton_that_was_started_anew_gets_a_message(fleet, triton):
    """At once and as the same call: no retry is taken from the budget. Then it is told of the memory again."""
    triton.regions.clear()
    await predict(fleet)
    assert [len(request.raw_input_contents) for request in triton.requests] == [1]
    assert fleet._metrics.registry.get_sample_value("eagleeye_triton_retries_total", {"reason": "not_found"}) is None
    await until(lambda: ways(fleet) == ["shared_memory"])
    assert list(triton.regions) == [f"{fleet._memory.name}-2"]
    await predict(fleet)
    assert numbers(triton) == [7, 7]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"can_share": False}, "Unable to open shared memory region: .*; it must be on this machine, see the same"),
        ({"version": "2.49.0"}, "its version is 2.49.0; 2.50 is the first"),
        ({"version": ""}, "its version is unknown"),
    ],
    ids=["elsewhere", "too old", "no version"],
)
async def test_a_triton_that_can_not_share_gets_messages(memory, triton, changes, reason):
    """One warning tells why, and its probes do not repeat it."""
    vars(triton).update(changes)
    with capture_logs() as logs:
        async with serving(triton) as port, fleet_of(memory, port) as fleet:
            await until(lambda: any("by message" in line["event"] for line in logs))
            (endpoint,) = fleet._endpoints.values()
            for _ in range(3):
                await endpoint._probe()
            await predict(fleet)
    assert numbers(triton) == [7]
    assert not triton.regions
    (warning,) = [line for line in logs if "by message" in line["event"]]
    assert warning["log_level"] == "warning"
    assert re.search(reason, warning["reason"])


async def test_slots_of_calls_that_broke_off_wait_for_triton(fleet, triton):
    """Cancelled or too late, Triton may read on: their pixels stay until it has let go of the memory."""
    (first,) = triton.regions
    triton.go.clear()
    calls = [asyncio.create_task(predict(fleet, number)) for number in range(SLOTS - 1)]
    await until(lambda: len(triton.requests) == SLOTS - 1)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    with pytest.raises(DeadlineExceeded):
        await predict(fleet, SLOTS - 1, seconds=0.05)
    await until(lambda: triton.cancellations == SLOTS)
    triton.go.set()
    assert fleet.describe()["shared_memory"] == {"bytes": 2**20, "free_bytes": 0, "kept_back_bytes": 2**20}

    for number in (100, 101):
        await predict(fleet, number)
    assert numbers(triton) == [100, 101]
    assert ways(fleet) == ["message"]
    was_read = [triton._tensor(request, first)[:1] for request in triton.requests[:SLOTS]]
    assert sorted(was_read) == [bytes([number]) for number in range(SLOTS)]

    triton.reads.clear()
    await until(lambda: ways(fleet) == ["shared_memory"])
    assert first not in triton.regions
    assert fleet.describe()["shared_memory"]["free_bytes"] == 2**20


async def test_a_triton_that_died_keeps_no_slot_back(memory, triton):
    """Nobody listens at its port, so nobody reads."""
    async with contextlib.AsyncExitStack() as process:
        port = await process.enter_async_context(serving(triton))
        async with fleet_of(memory, port) as fleet:
            await until(lambda: ways(fleet) == ["shared_memory"])
            triton.failure = grpc.StatusCode.INTERNAL
            with pytest.raises(TritonUnavailable):
                await predict(fleet)
            assert memory.describe()["kept_back_bytes"] == 65_536
            await process.aclose()
            await until(lambda: memory.describe()["free_bytes"] == 2**20)


async def test_a_retry_elsewhere_uses_the_same_slot(memory):
    """It is kept back on behalf of the one that failed only."""
    bad, good = FakeTriton(), FakeTriton()
    bad.failure = grpc.StatusCode.INTERNAL
    async with serving(bad) as one, serving(good) as other, fleet_of(memory, one, other) as fleet:
        await until(lambda: ways(fleet) == ["shared_memory"] * 2)
        async with asyncio.timeout(SOON):
            while not bad.requests:
                await predict(fleet, 9)
        places = [
            each.inputs[0].parameters["shared_memory_offset"].int64_param
            for each in (bad.requests[0], good.requests[-1])
        ]
        assert places[0] == places[1]
        assert set(numbers(good)) == {9}
        (doubter,) = memory._doubted
        assert doubter is fleet._endpoints[f"127.0.0.1:{one}"]._attachment
        bad.reads.clear()


async def test_a_hedge_reads_the_same_slot(memory):
    """The slower one's call is cancelled, and may read on."""
    slow, quick = FakeTriton(), FakeTriton()
    async with (
        serving(slow) as one,
        serving(quick) as other,
        fleet_of(memory, one, other, hedge_quantile=0.5) as fleet,
    ):
        await until(lambda: ways(fleet) == ["shared_memory"] * 2)
        fleet._hedge_after.seconds = 0.01
        slow.go.clear()
        async with asyncio.timeout(SOON):
            while not slow.requests:
                await predict(fleet, 9)
        assert memory.describe()["kept_back_bytes"] == 65_536
        assert set(numbers(quick)) == {9}
        slow.reads.clear()
