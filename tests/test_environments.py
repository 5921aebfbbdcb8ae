"""The environments that `make test` makes."""

from importlib.metadata import distributions

import pytest
from packaging.specifiers import SpecifierSet

from tests.conftest import REPOSITORY

OLDEST_PYTHON = "3.11.2"  # Debian 12's


@pytest.mark.parametrize("environment", sorted(REPOSITORY.glob(".venv*")), ids=lambda path: path.name)
def test_debian_12_could_make_it(environment):
    """Each package is of a version that takes the oldest Python of those that README names."""
    (packages,) = environment.glob("lib/python3.*/site-packages")
    wanted = {each.name: each.metadata.get("Requires-Python", "") for each in distributions(path=[str(packages)])}
    assert "pip" in wanted
    assert {name: pythons for name, pythons in wanted.items() if OLDEST_PYTHON not in SpecifierSet(pythons)} == {}
