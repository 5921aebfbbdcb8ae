"""One process of the load generator: Locust alone, the master of several, or a worker. `run` starts it.

    echo '{"role": "local", "plan": {...}, "identity": {...}}' | python -m loadtest.load.generator

The first line of standard input says what to do; the process ends when its standard input does. Lines of JSON on
standard output tell how it goes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import locust  # noqa: TC002 (first of all: it replaces sockets and threads of the standard library)
from grpc.experimental import gevent as grpc_gevent

grpc_gevent.init_gevent()  # before there is any channel; Locust has replaced the standard library's sockets by now

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from locust.env import Environment  # noqa: E402
from locust.shape import LoadTestShape  # noqa: E402

from loadtest.load import callers  # noqa: E402
from loadtest.load.ledger import GENERATOR, Ledger  # noqa: E402
from loadtest.load.plan import Identity, Plan  # noqa: E402
from loadtest.load.profile import Profile  # noqa: E402
from loadtest.load.session import Session  # noqa: E402
from loadtest.load.table import BadProfile  # noqa: E402

if TYPE_CHECKING:
    from loadtest.load.ledger import Outcome

_LEAD_SECONDS: Final = 1.0
"""From the word to begin until the load does: it must have reached all workers."""
_LOCAL_LEAD_SECONDS: Final = 0.2
_SPAWN_PER_SECOND: Final = 100.0
_WAKE_SECONDS: Final = 0.05
_REPORT_SECONDS: Final = 1.0
_THREADS: Final = 32
"""For what gevent cannot do by itself: gRPC's connections, names, standard input."""
_PREPARE_SECONDS: Final = 300.0
_LAST_WORDS_SECONDS: Final = 30.0
_FAREWELL_SECONDS: Final = 2.0
"""A worker ends by itself, once its last report is out: the master's word to do so may be lost with that one's end."""
_USER_CLASSES: Final = [callers.HttpCaller, callers.GrpcCaller, callers.StreamCaller, callers.Camera, callers.Arrivals]


class Fault(Exception):
    """Nothing can be measured; the message is for the user."""


def tell(event: str, **more: Any) -> None:
    """Say something to who started this process."""
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


class Shape(LoadTestShape):
    """How many users there are, by the profile's stages; over when they are.

    Args:
        profile: whose stages they are.
        begin_at: when the load begins, as `time.perf_counter` has it.
        workers: generators, each of which needs one user of an open load.
    """

    use_common_options = False

    def __init__(self, profile: Profile, begin_at: float, workers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._profile = profile
        self._begin_at = begin_at
        self._workers = workers

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many may be added per second; None at the end."""
        seconds = max(0.0, time.perf_counter() - self._begin_at)
        if seconds >= self._profile.seconds:
            return None
        if self._profile.is_open:
            return self._workers, _SPAWN_PER_SECOND
        return self._profile.users_at(seconds) + self._profile.cameras, _SPAWN_PER_SECOND


class Generator:
    """What a process that sends does when it is told to: prepare, begin, report.

    Args:
        environment: Locust's; its runner carries the messages.
        identity: who asks.
    """

    def __init__(self, environment: Any, identity: Identity) -> None:
        self._runner: Any = environment.runner
        self._identity = identity
        self._session: Session | None = None
        self._problems: list[str] = []
        self.ended = Event()
        self._runner.register_message("prepare", self.prepare)
        self._runner.register_message("begin", self.begin)
        environment.events.request.add_listener(self._note)
        environment.events.test_stop.add_listener(self._end)
        environment.events.user_error.add_listener(self._note_defect)
        environment.events.cpu_warning.add_listener(self._note_busy)

    def prepare(self, msg: Any, **_: Any) -> None:
        """Get pictures and their answers; say whether that went well."""
        try:
            self._session = Session(Plan(**msg.data), self._identity)
        except Exception as error:  # noqa: BLE001 (whatever it is, the process that leads must not wait for ever)
            self._runner.send_message("prepared", {"fault": str(error)})
            return
        callers.use(self._session)
        self._runner.send_message("prepared", {"fault": None})

    def begin(self, msg: Any, **_: Any) -> None:
        """Start the clock, and report from now on."""
        assert self._session  # noqa: S101 (prepared before)
        self._session.begin(msg.data["index"], msg.data["count"], msg.data["in_seconds"])
        gevent.spawn(self._watch_lag)
        gevent.spawn(self._report)

    def _note(self, context: dict[str, Outcome], **_: Any) -> None:
        if self._session:
            self._session.ledger.note(context["outcome"])

    def _note_defect(self, exception: Exception, **_: Any) -> None:
        self._problems.append(f"a defect in the load generator: {exception!r}")

    def _note_busy(self, cpu_usage: float, **_: Any) -> None:
        self._problems.append(f"a generator process used {cpu_usage:.0f} % of its processor; add --workers")

    def _watch_lag(self) -> None:
        """How late this process wakes up: whatever it measures is off by as much."""
        assert self._session  # noqa: S101 (prepared before)
        gevent.sleep(max(0.0, -self._session.now()))
        while not self._session.is_over:
            due_at = self._session.now() + _WAKE_SECONDS
            gevent.sleep(_WAKE_SECONDS)
            self._session.ledger.note_lag(due_at, max(0.0, self._session.now() - due_at))

    def _report(self) -> None:
        while True:
            gevent.sleep(_REPORT_SECONDS)
            self._send(is_last=False)

    def _end(self, **_: Any) -> None:
        if self._session and self._session.under_way:
            self._problems.append(f"{self._session.under_way} images had no outcome when the run ended")
        self._send(is_last=True)
        self.ended.set()

    def _send(self, *, is_last: bool) -> None:
        if self._session:
            cells, problems, self._problems = self._session.ledger.take(), self._problems, []
            self._runner.send_message("cells", {"cells": cells, "problems": problems, "is_last": is_last})


class Conductor:
    """What the one process does that leads: tell all generators what to do, and add up what they report.

    Args:
        environment: Locust's; its runner is the local one or a master.
        plan: the load.
    """

    def __init__(self, environment: Any, plan: Plan) -> None:
        self._environment = environment
        self._runner: Any = environment.runner
        self._plan = plan
        self._profile = Profile.parse(plan.profile)
        self._ledger = Ledger(self._profile.seconds, self._profile.stage_at)
        self._prepared: dict[str, str | None] = {}
        self._ended: set[str] = set()
        self._problems: set[str] = set()
        self._runner.register_message("prepared", self._note_prepared)
        self._runner.register_message("cells", self._merge)

    def conduct(self, workers: list[str]) -> None:
        """Run the load on these generators, all of them prepared; tell progress and, at last, the result."""
        self._prepare(workers)
        lead_seconds = _LEAD_SECONDS if len(workers) > 1 else _LOCAL_LEAD_SECONDS
        begin_at = time.perf_counter() + lead_seconds
        tell("begin", at=time.time() + lead_seconds)
        for index, worker in enumerate(workers):
            begin = {"index": index, "count": len(workers), "in_seconds": begin_at - time.perf_counter()}
            self._runner.send_message("begin", begin, worker)
        self._environment.shape_class = Shape(self._profile, begin_at, len(workers))
        self._runner.start_shape()
        progress = gevent.spawn(self._tell_progress, begin_at)
        self._runner.shape_greenlet.join()
        self._wait(lambda: len(self._ended) == len(workers), _LAST_WORDS_SECONDS)
        progress.kill()
        lost = len(workers) - len(self._ended)
        if lost:
            self._problems.add(f"{lost} of {len(workers)} generators were lost")
        tell("result", cells=self._ledger.take(), problems=sorted(self._problems))

    def _prepare(self, workers: list[str]) -> None:
        for worker in workers:
            self._runner.send_message("prepare", self._plan.pack(), worker)
        self._wait(lambda: len(self._prepared) == len(workers), _PREPARE_SECONDS)
        for fault in self._prepared.values():
            if fault:
                raise Fault(fault)
        if len(self._prepared) < len(workers):
            raise Fault(f"only {len(self._prepared)} of {len(workers)} workers were prepared within 5 minutes")

    def _wait(self, condition: Any, seconds: float) -> None:
        give_up_at = time.perf_counter() + seconds
        while not condition() and time.perf_counter() < give_up_at:
            gevent.sleep(0.02)

    def _note_prepared(self, msg: Any, **_: Any) -> None:
        self._prepared[msg.node_id] = msg.data["fault"]

    def _merge(self, msg: Any, **_: Any) -> None:
        self._ledger.merge(msg.data["cells"])
        self._problems.update(msg.data["problems"])
        if msg.data["is_last"]:
            self._ended.add(msg.node_id)

    def _tell_progress(self, begin_at: float) -> None:
        while True:
            gevent.sleep(_REPORT_SECONDS)
            cell = self._ledger.sum(lambda key: key.kind != GENERATOR)
            seconds = time.perf_counter() - begin_at
            tell("progress", seconds=seconds, due=cell.due, verdicts=dict(cell.verdicts))


def _environment(profile: Profile | None, classes: list[type[locust.User]]) -> Any:
    """Locust's environment; users may finish what they have begun."""
    stop_timeout = profile.timeout_seconds + 2 * callers.HANG_SECONDS if profile else None
    return Environment(user_classes=classes, stop_timeout=stop_timeout)


def run_local(plan: Plan, identity: Identity) -> None:
    """One process does all."""
    profile = Profile.parse(plan.profile)
    environment = _environment(profile, callers.user_classes(profile))
    runner = environment.create_local_runner()
    Generator(environment, identity)
    Conductor(environment, plan).conduct([runner.client_id])


def run_master(plan: Plan, host: str, port: int, workers: int, wait_seconds: float) -> None:
    """Workers send; this process leads them."""
    profile = Profile.parse(plan.profile)
    environment = _environment(profile, callers.user_classes(profile))
    runner = environment.create_master_runner(host, port)
    conductor = Conductor(environment, plan)
    tell("listening", port=runner.server.port)
    give_up_at = time.perf_counter() + wait_seconds
    while len(runner.clients.ready) < workers:
        if time.perf_counter() > give_up_at:
            raise Fault(f"{len(runner.clients.ready)} of {workers} workers have come within {wait_seconds:g} s")
        gevent.sleep(0.05)
    try:
        conductor.conduct([client.id for client in runner.clients.ready][:workers])
    finally:
        runner.quit()


def run_worker(identity: Identity, host: str, port: int) -> None:
    """Does what a master says, until that one has enough."""
    environment = _environment(None, list(_USER_CLASSES))
    try:
        runner = environment.create_worker_runner(host, port)
    except ConnectionError as error:
        raise Fault(f"no load run has answered at {host}:{port} for five minutes") from error
    generator = Generator(environment, identity)
    gevent.wait([generator.ended, gevent.spawn(runner.greenlet.join)], count=1)
    gevent.sleep(_FAREWELL_SECONDS)


def _end_with_parent() -> None:
    """Nobody is left to tell when standard input ends."""
    while gevent.get_hub().threadpool.apply(os.read, (sys.stdin.fileno(), 1 << 16)):
        pass
    os._exit(1)


def main() -> int:
    """Read the order, and follow it; the exit code is 2 where nothing could be measured."""
    logging.getLogger("locust").setLevel(logging.ERROR)
    gevent.get_hub().threadpool.maxsize = _THREADS
    order = json.loads(sys.stdin.readline())
    gevent.spawn(_end_with_parent)
    identity = Identity(**order["identity"])
    roles = {
        "local": lambda: run_local(Plan(**order["plan"]), identity),
        "master": lambda: run_master(
            Plan(**order["plan"]), order["host"], order["port"], order["workers"], order["wait_seconds"]
        ),
        "worker": lambda: run_worker(identity, order["host"], order["port"]),
    }
    try:
        roles[order["role"]]()
    except (Fault, BadProfile) as fault:
        tell("fault", text=str(fault))
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the thread that reads standard input would hold up any other end
