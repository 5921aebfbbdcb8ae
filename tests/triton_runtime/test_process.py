"""A child is kept alive, logged, and stopped with everything it started."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import psutil
import pytest

from triton_runtime.process import Child


@pytest.fixture
def child(tmp_path):
    """Makes a child that runs a piece of Python; what it reports is kept in `reports`."""

    def make(code, stop_seconds=5):
        reports = []
        child = Child(
            name="it",
            command=[sys.executable, "-c", code],
            environment=dict(os.environ),
            log=tmp_path / "it.log",
            stop_seconds=stop_seconds,
            report=reports.append,
        )
        return child, reports

    return make


@contextlib.asynccontextmanager
async def running(child):
    task = asyncio.create_task(child.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_is_reported_with_its_last_words_and_started_again(child):
    """The report has the exit code and the end of the log; the pause grows from one start to the next."""
    it, reports = child("print('last words', flush=True); raise SystemExit(3)")
    async with running(it):
        await until(lambda: it.restarts == 2)
    assert "it stopped with exit code 3; starting it again in 0.5 s" in reports[0]
    assert "    last words" in reports[0]
    assert "starting it again in 1 s" in reports[1]


async def test_a_child_that_cannot_be_started_is_reported_and_tried_again(child):
    """A missing program counts as a death, not as the end of the watch."""
    it, reports = child("")
    it.command = ["/nowhere/at/all"]
    async with running(it):
        await until(lambda: it.restarts == 2)
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
    async with running(it):
        await until(lambda: log.is_file() and "up" in log.read_text())
        grandchild = psutil.Process(next(int(word) for word in log.read_text().split() if word.isdigit()))
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_shared_memory_of_a_killed_child_is_removed(child):
    """A file in /dev/shm is memory; whoever is killed can't give it back."""
    prefix = f"eagleeye_test_{os.getpid()}_"
    it, _ = child(f"open('/dev/shm/{prefix}1', 'w').close(); print('up', flush=True); import time; time.sleep(60)")
    it.shared_memory_prefix = prefix
    async with running(it):
        await until(lambda: "up" in it.tail())
        assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


async def test_a_child_that_will_not_stop_is_killed(child):
    """Its time to stop is bounded."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    it, reports = child(code, stop_seconds=0.2)
    async with running(it):
        await until(lambda: "up" in it.tail())
    assert reports == ["it did not stop within 0.2 s and is killed"]
