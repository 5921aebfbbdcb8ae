"""What every test may use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir():
    """The folder of parity fixtures and annotated images that stands beside a developer's checkout."""
    directory = REPOSITORY.parent / "shared"
    if not directory.is_dir():
        pytest.skip("the folder ../shared with parity fixtures and annotated images is not here")
    return directory


def missing(program):
    """Skip the test because the machine lacks a program; in CI, where nothing may be lacking, fail instead."""
    reason = f"{program} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)
