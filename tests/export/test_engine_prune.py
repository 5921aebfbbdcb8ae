"""Old plans leave the cache, those that are in use stay, and nobody is served half a plan."""

import dataclasses
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from export.engine import ensure
from export.engine_prune import ABANDONED_SECONDS, prune
from export.errors import PlanError
from export.repository import publish
from export.tensorrt import PlanSettings
from tests.export import test_engine
from tests.export.test_engine import L4
from tests.export.test_repository import config_for
from tests.export.test_tensorrt import tiny_graph

trt, repository, options = test_engine.trt, test_engine.repository, test_engine.options
T4 = dataclasses.replace(L4, gpu_name="T4", compute_capability="7.5")
pytestmark = pytest.mark.usefixtures("trt")


@pytest.fixture
def build(repository, options):
    """Has a plan built, or taken, that counts as last used at the given second."""

    def build(level, used, machine=L4, name="detector"):
        wanted = dataclasses.replace(options, plan=PlanSettings(optimization_level=level))
        before = plans(options)
        outcome = ensure(repository, name, wanted, machine=machine).outcome
        touched = plans(options) - before or {max(plans(options), key=lambda plan: plan.stat().st_mtime)}
        (record,) = touched
        os.utime(record, (used, used))
        return outcome

    return build


def plans(options):
    """The records of all plans in the cache."""
    return set(options.engines.glob("*/plan.json"))


def test_the_last_used_stay_of_each_model_and_gpu(build, repository, options):
    """However old they are; a plan that was only taken lately counts as used, too."""
    publish(repository, config_for(tiny_graph(), name="other"), tiny_graph())
    for level in range(4):
        build(level, used=100 + level)
    build(0, used=10, machine=T4)
    build(5, used=20, name="other")
    assert build(0, used=104) == "cached"

    removed = prune(options.engines, 2)

    assert [(plan.model, plan.machine, plan.used) for plan in removed] == [
        ("detector", L4, 101),
        ("detector", L4, 102),
    ]
    assert sorted(int(plan.stat().st_mtime) for plan in plans(options)) == [10, 20, 103, 104]
    assert not any(plan.directory.exists() for plan in removed)
    assert prune(options.engines, 2) == ()


def test_what_is_served_stays(build, repository, options):
    """A machine that starts again finds its plan in use, which is told to the cache."""
    build(1, used=100)
    build(2, used=200)
    shutil.rmtree(repository)
    publish(repository, config_for(tiny_graph()), tiny_graph())
    served = dataclasses.replace(options, plan=PlanSettings(optimization_level=1))
    ensure(repository, "detector", served, machine=L4)
    assert ensure(repository, "detector", served, machine=L4).outcome == "unchanged"

    (removed,) = prune(options.engines, 1)

    assert removed.used == 200
    assert ensure(repository, "detector", served, machine=L4).outcome == "unchanged"


def test_leftovers_go(build, options):
    """Half a plan, a damaged one, a lease, and timings of a GPU without a plan; nothing recent and nothing foreign."""
    build(1, used=100)
    (timing,) = options.engines.glob("timing-*.cache")
    build(1, used=100, machine=T4)
    (damaged,) = (record for record in plans(options) if "T4" in record.read_text())
    damaged.write_text("{")
    (unneeded,) = set(options.engines.glob("timing-*.cache")) - {timing}
    dead = [unneeded, damaged.parent, *left_by_a_builder(options.engines, "a")]
    alive = [timing, *left_by_a_builder(options.engines, "b"), options.engines / ".ssh", options.engines / "notes.lock"]
    for path in alive[-2:]:
        path.mkdir()
    long_ago = time.time() - ABANDONED_SECONDS - 1
    for path in [*dead, timing, *alive[-2:]]:
        os.utime(path, (long_ago, long_ago))

    assert prune(options.engines, 1, dry_run=True) == ()
    assert all(path.exists() for path in [*dead, *alive])
    assert prune(options.engines, 1) == ()

    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in alive)


@pytest.mark.parametrize("damage", ["[]", "{", '{"model": []}', None], ids=["list", "cut off", "no name", "folder"])
def test_a_damaged_plan_does_not_keep_others_from_going(build, options, damage):
    """It counts as none, and is a leftover once it is old."""
    for level in range(3):
        build(level, used=100 + level)
    damaged = min(plans(options), key=lambda record: record.stat().st_mtime)
    if damage is None:
        damaged.unlink()
        damaged.mkdir()
    else:
        record = json.loads(damaged.read_text())
        damaged.write_text(json.dumps(record | {"model": []}) if "model" in damage else damage)

    (removed,) = prune(options.engines, 1)

    assert removed.used == 101
    assert damaged.parent.is_dir()


def left_by_a_builder(engines, letter):
    """A plan that is being written, and the lease of who writes it."""
    staged, lease = engines / f".{letter * 64}.7.{letter}", engines / f"{letter * 64}.lock"
    staged.mkdir()
    lease.touch()
    return [staged, lease]


def test_several_at_once(build, options):
    """Machines that share the cache prune it whenever they like."""
    for level in range(6):
        build(level, used=100 + level)
    barrier = threading.Barrier(4)

    def run(_):
        barrier.wait()
        return len(prune(options.engines, 2))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(run, range(4))) == 4
    assert sorted(plan.stat().st_mtime for plan in plans(options)) == [104, 105]
    assert list(options.engines.glob(".*")) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, build, repository, options):
    """One line says which, and why; who only wants to serve goes on."""
    build(1, used=100)
    build(2, used=200)
    rename = Path.rename

    def guarded(path, target):
        if path.parent == options.engines and not path.name.startswith("."):
            raise PermissionError(13, "not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", guarded)

    complaint = f"cannot clear the cache {options.engines}: not permitted"
    with pytest.raises(PlanError, match=complaint):
        prune(options.engines, 1)
    arguments = ["--repository", str(repository), "--engines", str(options.engines)]
    ensured = CliRunner().invoke(main, ["engine", "ensure", *arguments, "--keep", "1"])
    assert (ensured.exit_code, complaint in ensured.stderr) == (0, True)
    assert prune(tmp_path / "nowhere", 1) == ()


def test_commands(build, repository, options):
    """`prune` tells first if asked to; `ensure --keep` removes what the new plan replaces."""
    build(1, used=100)
    build(2, used=200)
    words = "a plan of detector for NVIDIA L4, TensorRT 10.15.1 (0.0 MiB)\n"
    run = CliRunner().invoke
    arguments = ["engine", "prune", "--engines", str(options.engines), "--keep", "1"]
    assert run(main, [*arguments, "--dry-run"]).stdout == f"would remove {words}"
    ensured = ["engine", "ensure", "--repository", str(repository), "--engines", str(options.engines), "--keep", "1"]
    assert f"removed {words}" in run(main, ensured).stdout
    done = run(main, arguments)
    assert (done.exit_code, done.stdout) == (0, f"{options.engines}: nothing to remove\n")
