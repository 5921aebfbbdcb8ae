"""What every test may use."""

import os
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("tests", deadline=None)  # how fast an example is depends on who else is at work
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(config, items):
    """Where several processes share the tests, those that take longest begin first: none is left alone with them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: REPOSITORY / "tests" / "platform" not in item.path.parents)


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


def missing(program):
    """Skip the test because the machine lacks a program; in CI, where nothing may be lacking, fail instead."""
    reason = f"{program} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)
