"""A child is kept alive, logged, and stopped with everything it started."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from triton_runtime.process import Child, running


@pytest.fixture
def child(tmp_path):
    """Makes a child that runs a piece of Python; what it reports is kept in `reports`."""

    def make(code, stop_seconds=30, **options):
        reports = []
        child = Child(
            name="it",
            command=[sys.executable, "-c", code],
            environment=dict(os.environ),
            log=tmp_path / "it.log",
            stop_seconds=stop_seconds,
            report=reports.append,
            **options,
        )
        return child, reports

    return make


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_is_reported_with_its_last_words_and_started_again(child):
    """The report has the exit code and the end of the log; the pause grows from one start to the next."""
    it, reports = child("print('last words', flush=True); raise SystemExit(3)")
    async with running([it]):
        await until(lambda: it.deaths == 2)
    assert "it stopped with exit code 3; starting it again in 0.5 s" in reports[0]
    assert "    last words" in reports[0]
    assert "starting it again in 1 s" in reports[1]


async def test_a_child_that_cannot_be_started_is_reported_and_tried_again(child):
    """A missing program counts as a death, not as the end of the watch."""
    it, reports = child("")
    it.command = ["/nowhere/at/all"]
    async with running([it]):
        await until(lambda: it.deaths == 2)
    assert "it can't be started ([Errno 2]" in reports[0]


async def test_stopping_takes_along_what_the_child_started(child, tmp_path):
    """Grandchildren that ignore the signal go too."""
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        'signal.signal(signal.SIGTERM, signal.SIG_IGN); print("up", flush=True); time.sleep(60)\']);'
        "print(p.pid, flush=True); time.sleep(60)"
    )
    it, _ = child(code)
    log = tmp_path / "it.log"
    async with running([it]):
        await until(lambda: log.is_file() and "up" in log.read_text())
        grandchild = psutil.Process(next(int(word) for word in log.read_text().split() if word.isdigit()))
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_shared_memory_of_a_killed_child_is_removed(child):
    """A file in /dev/shm is memory; whoever is killed can't give it back."""
    prefix = f"eagleeye_test_{os.getpid()}_"
    it, _ = child(f"open('/dev/shm/{prefix}1', 'w').close(); print('up', flush=True); import time; time.sleep(60)")
    it.shared_memory_prefix = prefix
    async with running([it]):
        await until(lambda: "up" in it.tail())
        assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


async def test_a_child_that_will_not_stop_is_killed(child):
    """Its time to stop is bounded."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    it, reports = child(code, stop_seconds=0.2)
    async with running([it]):
        await until(lambda: "up" in it.tail())
    assert reports == ["it did not stop within 0.2 s and is killed"]


async def test_a_child_that_is_left_dead_waits_to_be_started(child):
    """A script may want to say itself when a killed one comes back."""
    it, reports = child("import time; time.sleep(60)", restarts_itself=False)
    async with running([it]):
        await until(lambda: it.pid)
        first = it.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: it.pid is None)
        await asyncio.sleep(0.7)  # longer than the first backoff
        assert (it.pid, reports, it.deaths) == (None, ["it was killed by SIGKILL"], 1)
        it.start()
        await until(lambda: it.pid)
    assert it.pid is None


@pytest.mark.parametrize("restarts_itself", [True, False])
@pytest.mark.parametrize("killed", [True, False])
async def test_a_restart_leaves_one_new_process(child, restarts_itself, killed):
    """Whether it runs, or was killed a moment ago and nobody has noticed yet."""
    it, _ = child("import time; time.sleep(60)", restarts_itself=restarts_itself)
    async with running([it]):
        await until(lambda: it.pid)
        first = it.pid
        if killed:
            os.kill(first, signal.SIGKILL)
        await it.restart()
        await until(lambda: it.pid)
        assert it.pid != first
        assert [process.pid for process in psutil.Process().children() if process.pid in {first, it.pid}] == [it.pid]


async def test_a_running_child_is_not_started_twice(child):
    """Starting says what shall be, not what to do."""
    it, _ = child("import time; time.sleep(60)")
    async with running([it]):
        await until(lambda: it.pid)
        first = it.pid
        it.start()
        await asyncio.sleep(0.05)
        assert it.pid == first
        assert len([p for p in psutil.Process().children() if p.pid == first]) == 1


async def test_a_frozen_child_stops_in_order(child):
    """One that SIGSTOP holds hears the signal to stop, instead of being killed after its time."""
    code = (
        "import signal, time;"
        'signal.signal(signal.SIGTERM, lambda *_: [print("in order", flush=True), exit()]);'
        'print("up", flush=True); time.sleep(60)'
    )
    it, reports = child(code)
    async with running([it]):
        await until(lambda: "up" in it.tail())
        os.kill(it.pid, signal.SIGSTOP)
    assert "in order" in it.tail()
    assert reports == []


async def test_children_stop_at_the_same_time(child, tmp_path):
    """And a second call while one stops waits for the same end, without cutting it short."""
    code = (
        "import signal, time;"
        'signal.signal(signal.SIGTERM, lambda *_: [print("stopping", flush=True), time.sleep(0.5), '
        'print("done", flush=True), exit()]);'
        'print("up", flush=True); time.sleep(60)'
    )
    (one, _), (other, _) = child(code), child(code)
    other.log = tmp_path / "other.log"
    async with running([one, other]):
        await until(lambda: "up" in one.tail() and "up" in other.tail())
        impatient = asyncio.create_task(one.stop())
        await until(lambda: "stopping" in one.tail())
        assert "stopping" not in other.tail()
    await impatient
    assert "done" in one.tail()
    assert "done" in other.tail()


async def test_a_stop_that_meets_a_look_is_not_lost(child):
    """The watch wakes itself up once a second; a stop at that very moment must not be taken for its own doing."""
    it, _ = child("import time; time.sleep(60)")
    async with asyncio.timeout(30), running([it]):
        await until(lambda: it.pid)
        time.sleep(1.2)  # noqa: ASYNC251 (the loop is to find both at the same time)
        await asyncio.sleep(0)
    assert it.pid is None
