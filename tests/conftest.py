"""What every test may use."""

import asyncio
import gc
import os
from pathlib import Path

import hypothesis
import pytest

from loadtest.chaos.processes import free_ports

REPOSITORY = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("tests", deadline=None)  # how fast an example is depends on who else is at work
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(config, items):
    """Where several processes share the tests, those that take longest begin first: none is left alone with them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: REPOSITORY / "tests" / "platform" not in item.path.parents)


def pytest_collection_finish():
    """What is there by now stays: no collection of garbage in the midst of a test needs to stop and look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unused_tcp_port():
    """As pytest-asyncio's, but one that nobody else is given until the test binds it, or while it does not."""
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="session")
def shared_dir():
    """The folder of parity fixtures and annotated images that stands beside a developer's checkout."""
    directory = REPOSITORY.parent / "shared"
    if not directory.is_dir():
        pytest.skip("the folder ../shared with parity fixtures and annotated images is not here")
    return directory


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A folder that all processes of this run have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


async def at_rest(count):
    """Wait until a number stands still for 0.4 s, of which a pause of the whole machine is no part; the number."""
    seen, looks = count(), 0
    async with asyncio.timeout(120):
        while looks < 20:
            await asyncio.sleep(0.02)
            seen, looks = (seen, looks + 1) if count() == seen else (count(), 0)
    return seen


def missing(program):
    """Skip the test because the machine lacks a program; in CI, where nothing may be lacking, fail instead."""
    reason = f"{program} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)
