"""`eagleeye key`: makes keys, lists them, takes them away."""

import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from gateway.access import Access
from gateway.errors import Unauthorized
from gateway.keys import read_keys


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def eagleeye(path):
    """Runs `eagleeye key` on the file."""

    def run(*arguments):
        return CliRunner().invoke(main, ["key", *arguments], env={"EAGLEEYE_KEYS_FILE": str(path)})

    return run


def test_add_prints_a_key_that_lets_its_owner_in(eagleeye, path):
    """Alone on standard output, so that a script can take it; the file does not have it."""
    ended = eagleeye("add", "camera-7")
    assert ended.exit_code == 0
    (secret,) = ended.stdout.splitlines()
    assert Access(path).identify(secret).name == "camera-7"
    assert secret not in path.read_text()
    assert "camera-7 may now use this key" in ended.stderr


def test_add_takes_limits(eagleeye, path):
    """Each ends up in the file."""
    assert eagleeye("add", "one", "--rate", "2.5", "--burst", "10", "--models", "toy, other").exit_code == 0
    assert eagleeye("add", "two").exit_code == 0
    one, two = read_keys(path)
    assert (one.rate, one.burst, one.models) == (2.5, 10, ("toy", "other"))
    assert (two.rate, two.burst, two.models) == (None, None, None)


def test_file_may_be_an_option(eagleeye, path):
    """It wins over the variable."""
    other = path.with_name("other.json")
    assert eagleeye("add", "one", "--file", str(other)).exit_code == 0
    assert [key.name for key in read_keys(other)] == ["one"]
    assert not path.exists()


def test_list_tells_everything_but_the_key(eagleeye):
    """One line each."""
    secrets = [
        eagleeye("add", "one", "--rate", "0.5").stdout.strip(),
        eagleeye(
            "add", "camera-7", "--rate", "20", "--burst", "5", "--models", "a,b", "--priority", "high"
        ).stdout.strip(),
        eagleeye("add", "free").stdout.strip(),
    ]
    listed = eagleeye("list")
    assert listed.stdout.splitlines() == [
        "NAME      RATE   BURST  PRIORITY  MODELS",
        "one       0.5/s  1      normal    all",
        "camera-7  20/s   5      high      a, b",
        "free      -      -      normal    all",
    ]
    assert not any(secret in listed.output for secret in secrets)


def test_a_removed_key_lets_nobody_in(eagleeye, path):
    """Nor is it listed; the others stay."""
    one, two = (eagleeye("add", name).stdout.strip() for name in ("one", "two"))
    assert eagleeye("remove", "one").exit_code == 0
    access = Access(path)
    assert access.identify(two).name == "two"
    with pytest.raises(Unauthorized):
        access.identify(one)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["add", "one"], "has a key 'one' already"),
        (["add", "o n e"], "'name' must be 1 to 64 letters"),
        (["add", "two", "--rate", "0"], "'rate' must be a number of requests per second from 0.00001"),
        (["add", "two", "--rate", "nan"], "'rate' must be a number of requests per second from 0.00001"),
        (["add", "two", "--burst", "5"], "'burst' needs a 'rate'"),
        (["add", "two", "--models", ","], "'models' must be a list of one or more model names"),
        (["remove", "two"], "has no key 'two'; it has: one"),
        (["list", "--file", "/nowhere/keys.json"], "can't be read"),
        (["add", "two", "--file", "/nowhere/keys.json"], "can't be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(eagleeye, path, arguments, says):
    """And the file stays as it was."""
    eagleeye("add", "one")
    before = path.read_bytes()
    ended = eagleeye(*arguments)
    assert ended.exit_code == 1
    (line,) = ended.output.splitlines()
    assert line.startswith("Error: ")
    assert says in line
    assert path.read_bytes() == before


def test_a_broken_file_is_not_overwritten(eagleeye, path):
    """Somebody may want to mend it."""
    path.write_text("{")
    ended = eagleeye("add", "one")
    assert (ended.exit_code, path.read_text()) == (1, "{")
    assert "is no valid JSON" in ended.output
