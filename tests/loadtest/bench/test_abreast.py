"""Two gateways asked at the same time: figures and options; tests/platform/test_bench.py has the measurement itself."""

import math

import pytest
from click.testing import CliRunner

from loadtest.bench.abreast import change, main


def test_a_change_is_a_geometric_mean():
    """Twice as much and half as much come to no change; the rounds' spread is its error."""
    logarithm, error = change([(1.0, 2.0), (2.0, 1.0)])
    assert logarithm == pytest.approx(0)
    assert error == pytest.approx(math.log(2))


def test_rounds_that_agree_have_no_error():
    """Each a tenth more."""
    logarithm, error = change([(1.0, 1.1), (2.0, 2.2), (3.0, 3.3)])
    assert math.expm1(logarithm) == pytest.approx(0.1)
    assert error == pytest.approx(0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--environment", "MALLOC_ARENA_MAX"], "'MALLOC_ARENA_MAX' is not of the form NAME=VALUE"),
        (["--gateway", "workers=2"], "both gateways have one process"),
        (["--checkout", "/no/such/folder"], "does not exist"),
        (["--checkout", "docs"], "docs is no checkout of EagleEye"),
        (["--rounds", "1"], "is not in the range x>=2"),
    ],
)
def test_refused_options(arguments, message):
    """What can't be compared is refused before anything starts."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert message in done.output
