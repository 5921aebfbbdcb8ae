"""Starts generators, listens to them, and makes a result of what they and the deployment say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.connection import NothingDone
from loadtest.load import watch
from loadtest.load.figures import Accounts, rounded
from loadtest.load.ledger import Ledger
from loadtest.load.profile import Profile
from loadtest.load.slo import exit_code, judge, problems_of_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import urllib3

    from loadtest.load.plan import Identity, Plan
    from loadtest.load.watch import Sources, Watched

_GENERATOR: Final = (sys.executable, "-m", "loadtest.load.generator")
_PROGRESS_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 10.0
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Workforce:
    """Who generates the load.

    Attributes:
        own: worker processes of this machine; 0: one process does all.
        awaited: workers of other machines that must come.
        host: address that those reach.
        port: and its port; 0 for any.
        wait_seconds: how long they may take to come.
        own_wait_seconds: how long those of this machine may, if no others are awaited.
    """

    own: int = 0
    awaited: int = 0
    host: str = "*"
    port: int = 5557
    wait_seconds: float = 300.0
    own_wait_seconds: float = 60.0

    @property
    def total(self) -> int:
        """Processes that send."""
        return max(1, self.own + self.awaited)

    def order(self, plan: Plan, identity: Identity) -> dict[str, Any]:
        """What the process is told that leads."""
        order = {"plan": plan.pack(), "identity": identity.pack()}
        if not self.own and not self.awaited:
            return {"role": "local", **order}
        wait_seconds = self.wait_seconds if self.awaited else self.own_wait_seconds
        where = {"host": self.host, "port": self.port} if self.awaited else {"host": _LOOPBACK, "port": 0}
        return {"role": "master", **order, **where, "workers": self.total, "wait_seconds": wait_seconds}


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the generators said."""

    began_at: float
    cells: list[list[Any]]
    problems: list[str]


def run(
    plan: Plan,
    identity: Identity,
    workforce: Workforce,
    sources: Sources,
    pool: urllib3.PoolManager,
    capacity_per_second: float | None = None,
) -> dict[str, Any]:
    """The result of a load, as JSON has it.

    Raises:
        NothingDone: nothing could be measured.
    """
    require_locust()
    profile = Profile.parse(plan.profile)
    with watch.Watcher(pool, sources.gateway, sources.tritons, identity.headers) as watcher:
        heard = _listen(workforce.order(plan, identity), identity, workforce, profile.seconds)
    if sources.prometheus:
        watched = watch.ask_prometheus(pool, sources.prometheus, heard.began_at, profile.seconds)
    else:
        watched = watcher.since(heard.began_at, profile.seconds)
    ledger = Ledger(profile.seconds, profile.stage_at)
    ledger.merge(heard.cells)
    return {
        "url": plan.url,
        "model": plan.model,
        "generators": workforce.total,
        "begin": datetime.fromtimestamp(heard.began_at, UTC).isoformat(sep=" ", timespec="seconds"),
        **result(profile, ledger, watched, heard.problems, capacity_per_second),
    }


def result(
    profile: Profile,
    ledger: Ledger,
    watched: Watched,
    problems: Sequence[str],
    capacity_per_second: float | None,
) -> dict[str, Any]:
    """What a ledger comes to by a profile's objectives."""
    accounts = Accounts(ledger, profile, capacity_per_second)
    judgements = judge(profile.objectives, accounts.figures)
    all_problems = [*problems, *problems_of_generator(accounts.lag_p99_ms, profile.max_lag_ms)]
    return {
        "title": profile.title,
        "is_open": profile.is_open,
        "seconds": profile.seconds,
        "capacity_per_second": capacity_per_second,
        "lag_p99_ms": rounded(accounts.lag_p99_ms),
        "stages": list(_stages(profile, watched)),
        "figures": [each.pack() for each in accounts.all_figures()],
        "series": accounts.series(),
        "watched": watched.pack(),
        "reasons": accounts.reasons,
        "objectives": [each.pack() for each in judgements],
        "problems": all_problems,
        "exit_code": exit_code(judgements, all_problems),
    }


def _stages(profile: Profile, watched: Watched) -> Iterator[dict[str, Any]]:
    for stage, begin in zip(profile.stages, profile.begins, strict=False):
        end = begin + stage.seconds
        means = {name: rounded(watched.mean(name, begin, end)) for name in watch.NAMES}
        yield {"name": stage.name, "begin": begin, "end": end, **means}


def work(identity: Identity, host: str, port: int) -> int:
    """Be a worker until the master has enough; the exit code.

    Raises:
        NothingDone: Locust is not installed, or there is no master.
    """
    require_locust()
    click.echo(f"waiting for a load run at {host}:{port}", err=True)
    with _generator({"role": "worker", "identity": identity.pack(), "host": host, "port": port}) as worker:
        assert worker.stdout  # noqa: S101 (a pipe)
        for line in worker.stdout:
            said = json.loads(line)
            if said["event"] == "fault":
                raise NothingDone(said["text"])
        return worker.wait()


def require_locust() -> None:
    """Make sure that generators will start.

    Raises:
        NothingDone: Locust is not installed.
    """
    if importlib.util.find_spec("locust") is None:
        raise NothingDone(
            "this needs the Python package 'locust', which is not installed: pip install 'eagleeye[load]'"
        )


def _listen(order: dict[str, Any], identity: Identity, workforce: Workforce, seconds: float) -> _Heard:
    began_at = shown_at = 0.0
    heard = None
    with ExitStack() as stack:
        leader = stack.enter_context(_generator(order))
        assert leader.stdout  # noqa: S101 (a pipe)
        for line in leader.stdout:
            said = json.loads(line)
            if said["event"] == "listening":
                for _ in range(workforce.own):
                    worker = {"role": "worker", "identity": identity.pack(), "host": _LOOPBACK, "port": said["port"]}
                    stack.enter_context(_generator(worker))
            elif said["event"] == "begin":
                began_at = said["at"]
                click.echo(f"the load begins: {seconds:g} s from {workforce.total} process(es)", err=True)
            elif said["event"] == "progress" and said["seconds"] - shown_at >= _PROGRESS_SECONDS:
                shown_at = said["seconds"]
                click.echo(_progress(said, seconds), err=True)
            elif said["event"] == "fault":
                raise NothingDone(said["text"])
            elif said["event"] == "result":
                heard = _Heard(began_at, said["cells"], said["problems"])
        if heard is None:  # and not before its end, which also ends workers of other machines
            raise NothingDone(f"the load generator ended with exit code {leader.wait()}, and without a result")
        return heard


def _progress(said: dict[str, Any], seconds: float) -> str:
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(said["verdicts"].items()))
    return (
        f"{min(said['seconds'], seconds):7.0f} of {seconds:g} s: {said['due']:,} images, {verdicts or 'none answered'}"
    )


@contextmanager
def _generator(order: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A generator process, which ends with the block. Locust changes the interpreter that it runs in: not ours."""
    process = subprocess.Popen(  # noqa: S603 (ourselves)
        _GENERATOR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for who started it, and ends it by its standard input
    )
    assert process.stdin  # noqa: S101 (a pipe)
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """It ends by itself when its standard input does."""
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
