"""The lock among machines: one holder, and none that outlives its process for long."""

import os
import threading
import time

import pytest

from export.lease import lease


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work.lock"


def age(path, seconds):
    """As if its holder had been silent for so long."""
    before = time.time() - seconds
    os.utime(path, (before, before))


def test_one_holder(path, tmp_path):
    """The second one hears who holds it; afterwards it is free, and no file is left."""
    with lease(path) as first, lease(path) as second:
        assert first is None
        assert f"process {os.getpid()}" in second
    with lease(path) as third:
        assert third is None
    assert list(tmp_path.iterdir()) == []


def test_stale_lease_is_taken(path, tmp_path):
    """A file that nobody touches any more does not lock anybody out."""
    path.write_text("a pod that is gone")
    age(path, 100)

    with lease(path, stale_seconds=60) as holder:
        assert holder is None
    assert list(tmp_path.iterdir()) == []


def test_death_while_breaking(path, tmp_path):
    """Nor does one who died while removing a stale lease: the next but one gets it."""
    for file in (path, path.with_name("work.lock.break")):
        file.write_text("a pod that is gone")
        age(file, 100)

    with lease(path) as first:
        assert first == "a pod that is gone"
    with lease(path) as second:
        assert second is None
    assert list(tmp_path.iterdir()) == []


def test_fresh_lease_is_not_taken(path):
    """One that was touched a moment ago does."""
    path.write_text("a pod that works")
    age(path, 30)

    with lease(path, stale_seconds=60) as holder:
        assert holder == "a pod that works"
    assert path.exists()


def test_holder_gives_signs_of_life(path):
    """While it is held, it never grows stale, however long that takes."""
    with lease(path, stale_seconds=0.6) as first:
        for _ in range(2):
            age(path, 100)
            deadline = time.monotonic() + 30
            while time.time() - path.stat().st_mtime > 50:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        with lease(path) as second:
            assert (first, second is None) == (None, False)


def test_robbed_holder_leaves_the_new_one_alone(path):
    """Who was frozen and lost the lease does not remove, nor keep alive, the file of who has it now."""
    with lease(path, stale_seconds=0.6):
        path.unlink()
        path.write_text("somebody else")
        age(path, 100)
        time.sleep(0.3)  # a beat and more
        assert time.time() - path.stat().st_mtime > 90
    assert path.read_text() == "somebody else"


def test_many_find_it_stale(path):
    """Of many that find a stale lease at the same moment, one gets it."""
    path.write_text("a pod that is gone")
    age(path, 100)
    barrier, over = threading.Barrier(8), threading.Event()
    holders = []

    def take():
        barrier.wait()
        with lease(path) as holder:
            holders.append(holder)
            over.wait(10)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(holders) < 8:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()

    assert holders.count(None) == 1
