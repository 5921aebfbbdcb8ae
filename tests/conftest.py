"""What every test may use."""

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
