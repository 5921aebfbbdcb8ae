"""Keys, rate limits and permitted models, without any protocol."""

import asyncio
import dataclasses
import math
from contextvars import copy_context
from fractions import Fraction

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.access import Access, Permitted, TokenBucket, act_for, current, presented
from gateway.errors import ModelNotFound, RateLimited, TritonUnavailable, Unauthorized
from gateway.keys import KeysFileError, hash_secret, new_secret, read_keys
from tests.fakes import MODEL
from tests.gateway.keyring import Clock, Keyring

SHA = "ab" * 32
GAPS = st.lists(st.integers(0, 3 * 10**9), max_size=60)
RATES = st.floats(0.05, 1000)
BURSTS = st.integers(1, 20)


@given(RATES, BURSTS, GAPS)
def test_a_bucket_does_what_its_definition_says(rate, burst, gaps):
    """Tokens come in at the rate, up to the burst; a request takes one or is refused. Exactly, however long it runs."""
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    interval = round(1e9 / rate)
    tokens = Fraction(burst)
    for gap in gaps:
        clock.now += gap
        tokens = min(tokens + Fraction(gap, interval), Fraction(burst))
        quota = bucket.take()
        assert quota.is_granted == (tokens >= 1)
        tokens -= quota.is_granted
        assert quota.remaining == math.floor(tokens)
        assert quota.reset_seconds == max(1, math.ceil((math.floor(tokens) + 1 - tokens) * interval / 10**9))


@given(RATES, BURSTS, GAPS)
def test_a_bucket_lets_no_more_through_than_the_rate_allows(rate, burst, gaps):
    """In no stretch of time: a burst, and what the rate brings meanwhile."""
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    granted = []
    for gap in gaps:
        clock.now += gap
        if bucket.take().is_granted:
            granted.append(clock.now)
    for first, start in enumerate(granted):
        for last, end in enumerate(granted[first:], first):
            assert last - first + 1 <= burst + (end - start) / round(1e9 / rate) + 1e-6


@given(RATES, BURSTS, GAPS)
def test_whoever_waits_as_told_is_let_through(rate, burst, gaps):
    """However the requests came before."""
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    for gap in gaps:
        clock.now += gap
        quota = bucket.take()
        if not quota.is_granted:
            clock.advance(quota.reset_seconds)
            assert bucket.take().is_granted


def test_a_bucket_starts_full():
    """A burst of three at two per second: three at once, and one more after half a second."""
    clock = Clock()
    bucket = TokenBucket(2, 3, clock)
    assert [bucket.take().remaining for _ in range(3)] == [2, 1, 0]
    refused = bucket.take()
    assert (refused.is_granted, refused.limit, refused.window_seconds) == (False, 3, 2)
    with pytest.raises(RateLimited, match="its 3 requests per 2 s; the next one may come in 1 s") as caught:
        refused.check()
    assert caught.value.retry_after_seconds == 1
    clock.advance(0.5)
    assert [bucket.take().is_granted for _ in range(2)] == [True, False]


def test_a_key_is_known_by_its_secret(keyring):
    """Each by its own."""
    secrets = {name: keyring.add(name) for name in ("one", "two")}
    access = Access(keyring.path)
    assert {access.identify(secret).name for secret in secrets.values()} == {"one", "two"}
    assert access.identify(secrets["two"]).name == "two"


@pytest.mark.parametrize("secret", [None, ""])
def test_no_key_is_told_how_to_send_one(keyring, secret):
    """Both ways."""
    with pytest.raises(Unauthorized, match="'Authorization: Bearer KEY' or as 'X-API-Key: KEY'"):
        Access(keyring.path).identify(secret)


def test_an_unknown_key_is_refused(keyring):
    """Also one that is nearly right, its stored hash itself, and what is no text at all."""
    secret = keyring.add("one")
    access = Access(keyring.path)
    for wrong in (secret[:-1], secret + "x", secret.upper(), hash_secret(secret), "0" * 64, "\udcff", new_secret()):
        with pytest.raises(Unauthorized, match="not known"):
            access.identify(wrong)


def test_a_secret_is_256_bits_and_nowhere_in_the_file(keyring):
    """Two are never the same; the file has the hash alone, and is its owner's alone."""
    secrets = {keyring.add(f"key{index}") for index in range(20)}
    assert len(secrets) == 20
    assert all(len(secret.removeprefix("eagleeye_")) == 43 for secret in secrets)
    content = keyring.path.read_text()
    assert not any(secret in content or secret.removeprefix("eagleeye_") in content for secret in secrets)
    assert keyring.path.stat().st_mode & 0o777 == 0o600


def test_a_rewritten_file_stays_readable_for_those_who_could_read_it(keyring):
    """A gateway that runs as another user would lose its keys otherwise."""
    keyring.path.chmod(0o640)
    keyring.add("one")
    assert keyring.path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "entry, says",
    [
        ("text", "keys[1] must be an object with name, sha256, rate, burst, models"),
        ({}, "keys[1] lacks 'name'"),
        ({"name": "b"}, "keys[1] 'b' lacks 'sha256'"),
        ({"name": "b", "sha256": SHA, "limit": 3}, "keys[1] 'b' has a field 'limit'; allowed are name, sha256, rate"),
        ({"name": "", "sha256": SHA}, "keys[1]: 'name' must be 1 to 64 letters"),
        ({"name": "b\n", "sha256": SHA}, "keys[1]: 'name' must be 1 to 64 letters"),
        ({"name": 7, "sha256": SHA}, "keys[1]: 'name' must be 1 to 64 letters"),
        ({"name": "b", "sha256": "secret"}, "keys[1] 'b': 'sha256' must be 64 lower-case hexadecimal digits"),
        (
            {"name": "b", "sha256": SHA, "rate": 0},
            "keys[1] 'b': 'rate' must be a number of requests per second from 0.00001 to 1000000",
        ),
        ({"name": "b", "sha256": SHA, "rate": 1e-300}, "keys[1] 'b': 'rate' must be a number"),
        ({"name": "b", "sha256": SHA, "rate": True}, "keys[1] 'b': 'rate' must be a number"),
        ({"name": "b", "sha256": SHA, "rate": "5"}, "keys[1] 'b': 'rate' must be a number"),
        ({"name": "b", "sha256": SHA, "rate": 1e9}, "keys[1] 'b': 'rate' must be a number"),
        ({"name": "b", "sha256": SHA, "rate": 1, "burst": 0}, "keys[1] 'b': 'burst' must be a whole number"),
        ({"name": "b", "sha256": SHA, "rate": 1, "burst": 1.5}, "keys[1] 'b': 'burst' must be a whole number"),
        ({"name": "b", "sha256": SHA, "burst": 5}, "keys[1] 'b': 'burst' needs a 'rate'"),
        ({"name": "b", "sha256": SHA, "models": []}, "keys[1] 'b': 'models' must be a list of one or more"),
        ({"name": "b", "sha256": SHA, "models": "toy"}, "keys[1] 'b': 'models' must be a list of one or more"),
        ({"name": "b", "sha256": SHA, "models": [1]}, "keys[1] 'b': 'models' must be a list of one or more"),
        ({"name": "a", "sha256": SHA}, "keys[1] 'a' has the same 'name' as keys[0]"),
        ({"name": "b", "sha256": "00" * 32}, "keys[1] 'b' has the same 'sha256' as keys[0]"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, says):
    """With what is allowed there; a file with one such entry is not read at all."""
    path = tmp_path / "keys.json"
    path.write_bytes(orjson.dumps({"version": 1, "keys": [{"name": "a", "sha256": "00" * 32}, entry]}))
    with pytest.raises(KeysFileError) as caught:
        read_keys(path)
    assert f"{path} is wrong: {says}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "is no valid JSON"),
        (b"\xff", "is no valid JSON"),
        (b"[]", 'an object of two fields, {"version": 1, "keys": [...]}'),
        (b'{"version": 1}', "an object of two fields"),
        (b'{"version": 1, "keys": {}}', "an object of two fields"),
        (b'{"version": 1, "keys": [], "more": 1}', "an object of two fields"),
        (b'{"version": 2, "keys": []}', "its version is 2; this gateway reads version 1"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, content, says):
    """In one line that names the file."""
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeysFileError) as caught:
        Access(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_change_of_the_file_counts(keyring):
    """What was added is let in, what was removed is not, and each change is one line in the log."""
    old = keyring.add("old")
    access = Access(keyring.path)
    keyring.remove("old")
    new = keyring.add("new")
    assert access.identify(old).name == "old"
    with capture_logs() as logs:
        await access.reload()
        await access.reload()
    assert access.identify(new).name == "new"
    with pytest.raises(Unauthorized):
        access.identify(old)
    assert [(line["event"], line["keys"]) for line in logs] == [("keys read", 1)]


async def test_the_file_is_watched_while_access_is_entered(keyring):
    """Nobody has to ask for it, and nobody watches any more after that."""
    async with Access(keyring.path) as access:
        secret = keyring.add("late")
        async with asyncio.timeout(30):
            while True:
                try:
                    assert access.identify(secret).name == "late"
                    break
                except Unauthorized:
                    await asyncio.sleep(0.02)
        watching = access._watching
    assert watching.cancelled()


async def test_what_nobody_thought_of_does_not_end_the_watch(keyring, monkeypatch):
    """A key that is removed later on must not stay valid for good."""
    monkeypatch.setattr("gateway.reloaded._LOOK_INTERVAL_SECONDS", 0.01)
    async with Access(keyring.path) as access, asyncio.timeout(30):
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr("gateway.access.fingerprint", lambda _: 1 / 0)
            while not logs:
                await asyncio.sleep(0.01)
        assert (logs[0]["event"], logs[0]["log_level"]) == ("unexpected error", "error")
        keyring.add("late")
        while not access._callers:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("damage", ["broken", "gone"])
async def test_a_file_that_breaks_changes_nothing(keyring, damage):
    """The keys stay as they were, the log says why, once; mended, the file counts again."""
    secret = keyring.add("one")
    access = Access(keyring.path)
    if damage == "broken":
        keyring.path.write_text("{")
    else:
        keyring.path.unlink()
    with capture_logs() as logs:
        await access.reload()
        await access.reload()
    assert access.identify(secret).name == "one"
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("the keys stay as they were", "error")
    assert str(keyring.path) in line["reason"]
    keyring.write()
    await access.reload()
    with pytest.raises(Unauthorized):
        access.identify(secret)


async def test_a_change_elsewhere_gives_nobody_a_new_burst(keyring, clock):
    """A bucket outlives a reload, and a new secret for the same name; a new rate starts a new one."""
    secret = keyring.add("one", rate=1)
    access = Access(keyring.path, clock)
    assert access.identify(secret).take().is_granted
    keyring.add("other")
    await access.reload()
    assert not access.identify(secret).take().is_granted

    keyring.remove("one")
    secret = keyring.add("one", rate=1, burst=1)
    await access.reload()
    assert not access.identify(secret).take().is_granted

    keyring.remove("one")
    secret = keyring.add("one", rate=2)
    await access.reload()
    assert access.identify(secret).take().is_granted


async def test_there_are_no_more_buckets_than_keys_with_a_rate(keyring):
    """So that memory is bounded by the file, whatever callers send."""
    for index in range(5):
        keyring.add(f"key{index}", rate=1)
    keyring.add("free")
    access = Access(keyring.path)
    for _ in range(100):
        with pytest.raises(Unauthorized):
            access.identify(new_secret())
    assert [caller.bucket is not None for caller in access._callers.values()] == [True] * 5 + [False]
    keyring.write()
    await access.reload()
    assert not access._callers


@pytest.mark.parametrize("rate, burst, size", [(5, None, 5), (0.2, None, 1), (2.5, None, 3), (0.2, 10, 10)], ids=str)
def test_a_burst_is_a_second_s_worth_by_default(keyring, rate, burst, size):
    """But one request at least."""
    secret = keyring.add("one", rate=rate, burst=burst)
    assert Access(keyring.path).identify(secret).take().limit == size


def test_buckets_are_a_key_s_own(tmp_path):
    """One that is used up is no other's concern."""
    keyring = Keyring(tmp_path / "keys.json")
    one, two = keyring.add("one", rate=1), keyring.add("two", rate=1)
    access = Access(keyring.path)
    assert [access.identify(secret).take().is_granted for secret in (one, one, two)] == [True, False, True]


@pytest.mark.parametrize(
    "fields, secret",
    [
        ({}, None),
        ({"x-api-key": "k"}, "k"),
        ({"authorization": "Bearer k"}, "k"),
        ({"authorization": "bearer  k "}, "k"),
        ({"authorization": "Basic k"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "k"}, None),
        ({"authorization": "Basic other", "x-api-key": "k"}, "k"),
        ({"authorization": "Bearer other", "x-api-key": "k"}, "k"),
        ({"authorization": "Bearer k", "x-api-key": ""}, "k"),
    ],
)
def test_a_key_is_found_where_it_may_stand(fields, secret):
    """A scheme's case does not matter; `x-api-key` wins, so that a proxy's own `authorization` does no harm."""
    assert presented(fields) == secret


OTHER = dataclasses.replace(MODEL, name="other", versions=(2,))


class Served:
    """A predictor that serves two models, or what a test puts there."""

    def __init__(self):
        self.models = {"toy": MODEL, "other": OTHER}

    @property
    def expected_models(self):
        return self.models


def seen_with(caller, look):
    """What `look` sees while it works for `caller`; nothing of that is left afterwards."""

    def act():
        if caller:
            act_for(caller)
        return look()

    return copy_context().run(act)


@pytest.fixture
def caller(keyring):
    """Makes callers whose key has the given limits."""

    def caller(**limits):
        secret = keyring.add("one", **limits)
        return Access(keyring.path).identify(secret)

    return caller


@pytest.mark.parametrize(
    "models, seen", [(None, {"toy", "other"}), (("toy",), {"toy"}), (("toy", "gone"), {"toy"}), (("gone",), set())]
)
def test_a_caller_sees_the_models_of_its_key(caller, models, seen):
    """All of those that are served if the key names none; and nobody in particular sees nothing."""
    permitted = Permitted(Served())
    assert set(seen_with(caller(models=models), lambda: permitted.models)) == seen
    assert not seen_with(None, lambda: permitted.models)
    assert current() is None


@pytest.mark.parametrize(
    "models, name, version, says",
    [
        (("toy",), "other", None, "there is no model 'other'; served are: toy"),
        (("toy",), "other", 2, "there is no model 'other'; served are: toy"),
        (("toy",), "nothing", None, "there is no model 'nothing'; served are: toy"),
        (("toy",), "toy", 9, "toy has no version 9; served are: 1, 3"),
        (("gone",), "toy", None, "none of the models that this key allows is served"),
        (("gone",), None, None, "none of the models that this key allows is served"),
        (None, None, None, "several models are served; name one of them: other, toy"),
    ],
)
def test_a_model_that_a_key_does_not_allow_is_not_there(caller, models, name, version, says):
    """The words are those for a model that nobody serves, and name none that is hidden."""
    permitted = Permitted(Served())
    with pytest.raises(ModelNotFound) as caught:
        seen_with(caller(models=models), lambda: permitted.find(name, version))
    assert str(caught.value) == says


def test_a_key_s_only_model_need_not_be_named(caller):
    """As if it were the only one that is served."""
    permitted = Permitted(Served())
    assert seen_with(caller(models=("toy",)), lambda: permitted.find(None, None)) == (MODEL, 3)


def test_a_triton_that_is_away_is_no_matter_of_keys(caller):
    """Who may use a model is told that none is there now."""
    served = Served()
    served.models = {}
    with pytest.raises(TritonUnavailable):
        seen_with(caller(models=("toy",)), lambda: Permitted(served).find("toy", None))
