"""Several gateway processes behind one port, real ones in front of a Triton that is a process as well."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import aiohttp
import click
import grpc
import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import buckets
from gateway.access import Access
from gateway.agreement import Agreement, Outcome
from gateway.keys import KeysFileError
from gateway.lifecycle import SHUTTING_DOWN, Readiness
from gateway.metrics import Metrics
from gateway.server import serve
from gateway.settings import ServingSettings, Settings
from gateway.shadow import Pair
from gateway.triton.discovery import FixedAddresses
from gateway.triton.fleet import Fleet
from gateway.triton.health import State
from gateway.workers import merge
from gateway.workers.supervisor import Crew, WorkersFailed, supervise
from loadtest.chaos.processes import free_ports
from tests.fakes import MODEL
from tests.gateway.test_server import Gateway

CALLERS = 8


# real processes


@pytest.fixture(scope="module")
def triton():
    """A Triton's address."""
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, "-m", "tests.gateway.triton.fake_triton", str(port), "0.01"])
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.02)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


class Workers(Gateway):
    """Two workers and their supervisor."""

    def __init__(self, log, triton, *options):
        super().__init__(log, "--triton-url", triton, "--workers", "2", "--admin-port", "0", *options)
        self.until_ready()

    @property
    def pids(self):
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def until_ready(self, workers=2):
        deadline = time.monotonic() + 60
        while self.total("eagleeye_workers") != workers or self.get("admin", "/readyz")[0] != 200:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def total(self, name, label=""):
        """One metric, summed over what has the label."""
        _, page = self.get("admin", "/metrics")
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*{label}.*}})? (\S+)$", page, re.MULTILINE))

    def said(self, event, **fields):
        """The lines of the log that say so."""
        lines = [json.loads(line) for line in self.output.splitlines(keepends=True) if line.endswith("}\n")]
        return [line for line in lines if line["event"] == event and fields.items() <= line.items()]

    def ports(self):
        return [int(self.addresses[face].rpartition(":")[2]) for face in ("rest", "grpc", "admin")]


@pytest.fixture(scope="module")
def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 96, 3), 128, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shared(triton, tmp_path_factory):
    """Workers that several tests use; each but the last leaves both of them running."""
    workers = Workers(tmp_path_factory.mktemp("workers") / "gateway.log", triton)
    yield workers
    workers.process.kill()
    workers.process.wait()


def is_running(pid):
    """Whether a process goes on; one that nobody has buried does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            probe.listen()
            return True
    return False


def infer(address, image):
    """Whether an image is answered over gRPC, on a connection of its own."""
    request = service_pb2.ModelInferRequest(model_name="toy")
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(image).to_bytes(4, "little") + image)
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return bool(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60).outputs)


async def post(session, url, image):
    async with session.post(f"{url}/v1/detect", data=image) as response:
        await response.read()
        return response.status


def connecting_anew():
    """A session with a connection for each request, so that the kernel chooses a worker each time."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


async def test_both_workers_serve_both_faces_and_are_counted_as_one(shared, jpeg):
    """What clients counted is what one page of metrics says, histograms and all."""
    async with connecting_anew() as session:
        statuses = await asyncio.gather(*(post(session, shared.addresses["rest"], jpeg) for _ in range(40)))
    answers = [await asyncio.to_thread(infer, shared.addresses["grpc"], jpeg) for _ in range(20)]
    assert (statuses, answers) == ([200] * 40, [True] * 20)
    for face, count in (("rest", 40), ("grpc", 20)):
        assert shared.total("eagleeye_requests_total", f'code="ok",face="{face}"') == count
        assert shared.total("eagleeye_request_seconds_count", f'face="{face}"') == count
        assert shared.total("eagleeye_request_seconds_bucket", f'face="{face}",le="\\+Inf"') == count
        by_worker = {number: len(shared.said("detect", face=face, worker=number)) for number in (1, 2)}
        assert sum(by_worker.values()) == count
        assert all(by_worker.values())
    assert shared.total("eagleeye_triton_endpoint_up") == 1
    assert shared.total("eagleeye_inflight") == 0


def test_the_admin_port_answers_for_all(shared):
    """And the shared port has nothing that would be one worker's."""
    assert shared.get("admin", "/healthz") == (200, '{"status":"alive"}')
    assert shared.get("admin", "/readyz") == (200, '{"status":"ready","models":["toy"]}')
    assert '"state":' in shared.get("admin", "/v1/triton")[1]
    assert shared.get("admin", "/v1/shadow") == (200, '{"comparisons":[]}')
    assert '"code":"not_found"' in shared.get("admin", "/v1/detect")[1]
    assert {shared.get("rest", path)[0] for path in ("/healthz", "/readyz", "/metrics", "/v1/shadow")} == {404}


async def test_a_worker_that_is_stuck_is_seen(shared):
    """Neither alive nor ready; its counts stay, and when it goes on all is well."""
    counted, (pid, _) = shared.total("eagleeye_requests_total"), shared.pids
    os.kill(pid, signal.SIGSTOP)
    try:
        *found, total = await asyncio.gather(
            asyncio.to_thread(shared.get, "admin", "/healthz"),
            asyncio.to_thread(shared.get, "admin", "/readyz"),
            asyncio.to_thread(shared.total, "eagleeye_requests_total"),
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [(status, json.loads(body)["reason"][-16:]) for status, body in found] == [(503, " does not answer")] * 2
    assert total == counted
    shared.until_ready()
    assert shared.get("admin", "/healthz")[0] == 200


async def test_the_console_says_that_its_numbers_are_one_workers(shared):
    """The feed is of whichever worker the connection came to."""
    async with connecting_anew() as session, session.get(f"{shared.addresses['rest']}/v1/live") as response:
        event = json.loads((await response.content.readline()).removeprefix(b"data: "))
    assert event["workers"] == 2


async def test_a_killed_worker_costs_its_connections_only_and_comes_back(shared, jpeg):
    """A caller that asks again loses nothing, and no count ever falls."""
    answered, broken = [], 0
    before = shared.total("eagleeye_requests_total")
    restarts = shared.total("eagleeye_worker_restarts_total")
    is_over = asyncio.Event()

    async def call(session):
        nonlocal broken
        while not is_over.is_set():
            try:
                answered.append(await post(session, shared.addresses["rest"], jpeg))
            except aiohttp.ClientConnectionError:
                broken += 1

    async with asyncio.timeout(60), connecting_anew() as session:
        callers = [asyncio.create_task(call(session)) for _ in range(CALLERS)]
        while len(answered) < 5 * CALLERS:
            await asyncio.sleep(0.01)
        counted = await asyncio.to_thread(shared.total, "eagleeye_requests_total")
        os.kill(shared.pids[0], signal.SIGKILL)
        while await asyncio.to_thread(shared.total, "eagleeye_worker_restarts_total") == restarts:
            assert await asyncio.to_thread(shared.total, "eagleeye_requests_total") >= counted
        await asyncio.to_thread(shared.until_ready)
        is_over.set()
        await asyncio.gather(*callers)
    assert set(answered) == {200}
    assert broken <= CALLERS
    assert before < shared.total("eagleeye_requests_total") <= before + len(answered) + broken
    assert "was killed by SIGKILL" in shared.output


# one process


def settings(**given):
    """Of two workers that any port will do for."""
    return Settings(**{"workers": 2, "http_port": 0, "grpc_port": 0, "admin_port": 0, "triton_url": "t:1", **given})


@pytest.mark.parametrize("start", [supervise, serve], ids=["workers", "one"])
async def test_a_port_that_somebody_has_is_not_shared(shared, start):
    """Two gateways that shared one by accident would share its requests."""
    for face, port in zip(("http_port", "grpc_port"), shared.ports(), strict=False):
        with pytest.raises(OSError, match=f"{port}"):
            await start(settings(workers=2 if start is supervise else 1, **{face: port}), asyncio.Event())


async def test_wrong_files_stop_the_start_once(tmp_path):
    """Not each worker by itself, again and again."""
    with pytest.raises(KeysFileError, match="can't be read"):
        await supervise(settings(keys_file=tmp_path / "absent"), asyncio.Event())


def test_workers_end_with_a_supervisor_that_is_killed(shared):
    """No orphan keeps a port. The last one that uses them."""
    pids, ports = shared.pids, shared.ports()
    shared.process.kill()
    shared.process.wait()
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)) or not all(map(is_free, ports)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "the supervisor is gone" in shared.output


async def test_workers_that_never_start_are_given_up(monkeypatch):
    """With a message, after some attempts."""
    monkeypatch.setattr("gateway.workers.supervisor._FIRST_PAUSE_SECONDS", 0.001)
    with buckets.new_file() as file:
        stop = asyncio.Event()
        crew = Crew(settings(), file, stop, [sys.executable, "-Sc", "raise SystemExit(3)"])
        async with asyncio.timeout(60):
            with pytest.raises(WorkersFailed, match="do not start: the last one ended with exit code 3"):
                await crew.run()


async def test_a_worker_that_does_not_end_is_killed(monkeypatch, tmp_path):
    """When draining and the time of grace are over; and that is a failure."""
    monkeypatch.setattr("gateway.workers.supervisor._KILL_SECONDS", 0.0)
    deaf = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.mkdir(str(os.getpid())); time.sleep(60)"
    monkeypatch.chdir(tmp_path)
    with buckets.new_file() as file:
        stop = asyncio.Event()
        crew = Crew(settings(drain_seconds=0, grace_seconds=0.1), file, stop, [sys.executable, "-Sc", deaf])
        async with asyncio.timeout(60):
            running = asyncio.create_task(crew.run())
            while len(list(tmp_path.iterdir())) < 2:
                await asyncio.sleep(0.01)
            pids = [process.process.pid for process in crew._processes]
            stop.set()
            with pytest.raises(WorkersFailed, match="did not end in time and was killed"):
                await running
    assert not any(map(psutil.pid_exists, pids))


STOPS_AFTER_ITS_FIRST_ANSWER = """
import asyncio, os, signal, socket, sys
from gateway.workers import channel

async def main():
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=int(sys.argv[1])))
    await channel.receive(reader)
    number, _ = await channel.receive(reader)
    channel.send(writer, (number, "yes"))
    await writer.drain()
    os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(main())
"""


async def test_a_worker_that_hangs_is_renewed(monkeypatch):
    """It is killed and another one started, again and again; the others have served by then, so it is not given up."""
    monkeypatch.setattr("gateway.workers.supervisor._WATCH_SECONDS", 0.02)
    monkeypatch.setattr("gateway.workers.supervisor._HANG_SECONDS", 0.06)
    monkeypatch.setattr("gateway.workers.supervisor._FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("gateway.workers.supervisor._KILL_SECONDS", 0.0)
    with buckets.new_file() as file:
        stop, command = asyncio.Event(), [sys.executable, "-c", STOPS_AFTER_ITS_FIRST_ANSWER]
        crew = Crew(settings(drain_seconds=0, grace_seconds=0.01), file, stop, command)
        async with asyncio.timeout(60):
            running = asyncio.create_task(crew.run())
            served = set()
            while len(served) < 4:
                served |= {process.process.pid for process in crew.serving}
                await asyncio.sleep(0.01)
            stop.set()
            with contextlib.suppress(WorkersFailed):  # for those that stand still just then
                await running
    assert crew.registry.get_sample_value("eagleeye_worker_restarts_total") >= 2


class Listener:
    """The process of a worker that answers by a script, and both ends of its channel."""

    def __init__(self, *answers):
        self.channel, self.number, self.is_serving, self.is_killed = self, 1, False, False
        self._answers = iter(answers)

    async def ask(self, question, timeout_seconds):
        return next(self._answers)

    def kill(self):
        self.is_killed = True


@pytest.mark.parametrize("is_stopping", [False, True])
async def test_only_a_silence_without_a_break_is_one(monkeypatch, is_stopping):
    """Each answer is the end of it; when all are to stop, a silent worker has the time of grace like the others."""
    monkeypatch.setattr("gateway.workers.supervisor._WATCH_SECONDS", 0.001)
    monkeypatch.setattr("gateway.workers.supervisor._HANG_SECONDS", 0.002)
    worker, stop = Listener("yes", None, "yes", None, "yes", None, None), asyncio.Event()
    if is_stopping:
        stop.set()
    await Crew(settings(), 0, stop)._watch(worker)
    assert (worker.is_serving, worker.is_killed) == (True, not is_stopping)
    with pytest.raises(StopIteration):
        next(worker._answers)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"admin_port": None}, "--workers 4 needs --admin-port"),
        ({"http_port": 8082}, "--http-port, --grpc-port and --admin-port must differ"),
        ({"max_inflight_bytes": 300_000_000}, "75000000 for each of --workers 4; it must be at least twice"),
    ],
)
def test_what_workers_cannot_share_is_refused(given, says):
    """When they start, not when it bites."""
    with pytest.raises(click.ClickException, match=re.escape(says)):
        ServingSettings(**{"workers": 4, "admin_port": 8082, **given})


@pytest.mark.parametrize("workers, limit, part", [(1, 7, 7), (2, 7, 3), (4, 2, 1), (3, 0, 0)])
def test_each_worker_has_its_part_of_a_limit(workers, limit, part):
    """All of them stay below it together, unless it is too small to be parted."""
    assert ServingSettings(workers=workers, admin_port=8082).share(limit) == part


def test_a_key_has_one_rate_whichever_worker_it_asks(keyring, clock):
    """The bucket is shared, also by a worker that comes later; another key has another one."""
    secrets = [keyring.add("camera-1", rate=1, burst=3), keyring.add("camera-2", rate=1, burst=3)]
    with buckets.new_file() as file:
        first, second = (Access(keyring.path, clock, buckets.SharedBuckets(file)) for _ in range(2))
        taken = [access.identify(secrets[0]).take().remaining for access in (first, second, first)]
        third = Access(keyring.path, clock, buckets.SharedBuckets(file))
        assert taken == [2, 1, 0]
        assert not third.identify(secrets[0]).take().is_granted
        assert third.identify(secrets[1]).take().remaining == 2
        clock.advance(1)
        assert second.identify(secrets[0]).take().is_granted
        assert not first.identify(secrets[0]).take().is_granted


READY, WAITING = Readiness(None, ("a", "b")), Readiness("no Triton serves a detector")


@pytest.mark.parametrize(
    "workers, merged",
    [
        ([], Readiness("no worker serves")),
        ([READY, Readiness(None, ("b", "c"))], Readiness(None, ("b",))),
        ([READY, WAITING], Readiness(WAITING.reason)),
        ([READY, SHUTTING_DOWN], READY),
        ([SHUTTING_DOWN, SHUTTING_DOWN], SHUTTING_DOWN),
    ],
)
def test_readiness_is_that_of_all_who_take_requests(workers, merged):
    """The kernel sends each its part."""
    assert merge.readiness(workers) == merged


def told(counted=0, seconds=(), gauges=(), up=None):
    """The metrics of one process."""
    registry = CollectorRegistry()
    Counter("eagleeye_images", "Images", ["endpoint"], registry=registry).labels("t").inc(counted)
    histogram = Histogram("eagleeye_seconds", "Seconds", buckets=[1, 2], registry=registry)
    for value in seconds:
        histogram.observe(value)
    for name, value in gauges:
        Gauge(f"eagleeye_{name}", name, registry=registry).set(value)
    if up is not None:
        Gauge("eagleeye_triton_endpoint_up", "Up", ["endpoint"], registry=registry).labels("t").set(up)
    return list(registry.collect())


def page(totals, answers):
    """The samples of a page, without their dates."""
    lines = generate_latest(merge.Families(totals.merged(answers))).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "_created" not in line)


def test_metrics_are_summed_but_where_a_sum_would_lie():
    """A Triton that two workers see is one, and a wait is not the longer for there being two queues."""
    gauges = [("inflight", 2), ("expected_wait_seconds", 3)]
    found = page(
        merge.Totals(),
        {
            1: told(5, (0.5, 1.5), gauges, up=1),
            2: told(7, (0.5,), [("inflight", 4), ("expected_wait_seconds", 1)], up=1),
        },
    )
    assert found == {
        'eagleeye_images_total{endpoint="t"}': "12.0",
        'eagleeye_seconds_bucket{le="1.0"}': "2.0",
        'eagleeye_seconds_bucket{le="2.0"}': "3.0",
        'eagleeye_seconds_bucket{le="+Inf"}': "3.0",
        "eagleeye_seconds_count": "3.0",
        "eagleeye_seconds_sum": "2.5",
        "eagleeye_inflight": "6.0",
        "eagleeye_expected_wait_seconds": "3.0",
        'eagleeye_triton_endpoint_up{endpoint="t"}': "1.0",
    }


def test_counts_outlive_their_process_and_gauges_do_not():
    """Prometheus would take a sum that falls for a restart, and count all of it again."""
    totals, name = merge.Totals(), 'eagleeye_images_total{endpoint="t"}'
    page(totals, {1: told(5, (1,), [("inflight", 2)]), 2: told(7, (1,), [("inflight", 3)])})
    silent = page(totals, {2: told(8, (1,), [("inflight", 4)])})
    assert (silent[name], silent["eagleeye_seconds_count"], silent["eagleeye_inflight"]) == ("13.0", "2.0", "4.0")
    totals.end(1)
    after = page(totals, {2: told(8, (1,), [("inflight", 4)]), 3: told(1)})
    assert (after[name], after["eagleeye_seconds_count"], after["eagleeye_inflight"]) == ("14.0", "2.0", "4.0")
    totals.end(2)
    totals.end(3)
    assert name not in page(totals, {4: []}), "nobody knows that Triton any more"


def test_every_metric_of_a_worker_finds_its_way():
    """One worker's page, merged with nothing, is what it was."""
    metrics = Metrics()
    metrics.requests.labels("rest", "toy", "ok").inc()
    metrics.request_seconds.labels("rest", "toy").observe(0.1)
    metrics.inflight.labels("toy").set(3)
    families = list(metrics.registry.collect())
    assert generate_latest(merge.Families(merge.Totals().merged({1: families}))) == generate_latest(
        merge.Families(families)
    )


def described(state, outstanding, shared_memory=None, **facts):
    endpoint = {"endpoint": "t:1", "state": state, "reason": None, "outstanding": outstanding, "ejections": 1, **facts}
    return {
        "endpoints": [endpoint],
        "discovery_error": None,
        "retry_budget": 10.0,
        "shared_memory": shared_memory,
    }


def test_a_triton_is_shown_as_the_worst_off_sees_it():
    """With the calls of all."""
    found = merge.tritons([described("serving", 3), described("ejected", 1, reason="it stalls")])
    assert found["endpoints"] == [
        {"endpoint": "t:1", "state": "ejected", "reason": "it stalls", "outstanding": 4, "ejections": 2}
    ]
    assert found["retry_budget"] == 20


def test_shared_memory_is_that_of_all_workers():
    """Each has a file of its own; without any there is none, and the answer has all that one process's has."""
    mine = {"bytes": 8 * 2**20, "free_bytes": 6 * 2**20, "kept_back_bytes": 2**20}
    found = merge.tritons([described("serving", 0, memory) for memory in (mine, {**mine, "free_bytes": 2**20})])
    assert found["shared_memory"] == {"bytes": 16 * 2**20, "free_bytes": 7 * 2**20, "kept_back_bytes": 2 * 2**20}
    assert merge.tritons([described("serving", 0)] * 2)["shared_memory"] is None
    single = Fleet(FixedAddresses(frozenset()), Metrics()).describe()
    assert merge.tritons([single]) == single


def test_every_state_of_a_triton_has_its_rank():
    """The worst one is shown."""
    assert set(merge._WORST_FIRST) == set(State)


def test_shadow_reports_add_up():
    """Boxes, images and means are those of all workers; `since` is the first one's."""
    pairs = [Pair(MODEL, 1, 3), Pair(MODEL, 1, 3)]
    pairs[1].since -= timedelta(hours=1)
    since = pairs[1].since.isoformat(timespec="seconds")
    for number, (pair, iou) in enumerate(zip(pairs, (0.8, 1.0), strict=True), start=1):
        pair.images["compared"] += number
        pair.tally.add(Agreement({(0, Outcome.AGREED): number}, {}, (0.1,), (iou,)), 0.01, 0.02)
    (comparison,) = merge.shadow([[pairs[0]], [pairs[1]]])["comparisons"]
    assert (comparison["images"]["compared"], comparison["boxes"]["agreed"], comparison["since"]) == (3, 3, since)
    assert comparison["iou"]["mean"] == 0.9
    assert comparison["latency_ms"]["difference"]["mean"] == 10
