"""A model is loaded on every Triton, or everything is as it was."""

import asyncio

import pytest

from eagleeye.model.fleet import Fleet, FleetError
from export.errors import RepositoryError
from gateway.triton.discovery import FixedAddresses, LookFailed
from tests.eagleeye.model.fake_fleet import Repository, Triton, serving


class Growing:
    """A name that stands for the first address, and for all of them once it was looked up twice."""

    def __init__(self, addresses):
        self.addresses, self.looks = addresses, 0

    async def look(self):
        self.looks += 1
        return frozenset(self.addresses[: 1 if self.looks < 2 else None])


class Down:
    async def look(self):
        raise LookFailed("A of triton: no answer")


@pytest.fixture
def repository():
    return Repository(1)


@pytest.fixture
def tritons(repository):
    return [Triton(repository, 1) for _ in range(3)]


def fleet_of(discovery, told=None, timeout_seconds=30):
    return Fleet(discovery, timeout_seconds=timeout_seconds, tell=(told if told is not None else []).append)


async def load_second(fleet, repository):
    await fleet.change("ns", [1, 2], repository.write(1, 2), repository.write(1))


async def test_every_triton_loads(tritons, repository):
    """Each is told once, and tells how it went."""
    told = []
    async with serving(*tritons) as addresses:
        await load_second(fleet_of(FixedAddresses(frozenset(addresses)), told), repository)

    assert [triton.ready for triton in tritons] == [{1, 2}] * 3
    assert repository.writes == [[1, 2]]
    assert sorted(line.partition(" (")[0] for line in told) == sorted(
        f"{address} serves version 1, 2 of ns" for address in addresses
    )


@pytest.mark.parametrize(
    "damage, said",
    [
        ({"broken": {2}}, "said: load failed for model 'ns': version 2 is at UNAVAILABLE state: bad file."),
        ({"absent": {2}}, "says that all went well, but serves version 1 and not version 1, 2: does it read"),
        ({"refuses": "explicit model load is not allowed"}, "is unavailable (explicit model load is not allowed)"),
        ({"hangs": True}, "did not answer within 2 s"),
    ],
    ids=["broken", "without the folder", "not explicit", "hanging"],
)
async def test_one_that_fails_reverts_all(tritons, repository, damage, said):
    """The message names it and what it said, without its stack; repository and Tritons are as before."""
    for name, value in damage.items():
        setattr(tritons[2], name, value)
    async with serving(*tritons) as addresses:
        fleet = fleet_of(FixedAddresses(frozenset(addresses)), timeout_seconds=2 if "hangs" in damage else 30)
        with pytest.raises(FleetError) as caught:
            await load_second(fleet, repository)

    assert str(caught.value).startswith(f"{addresses[2]} {said}")
    assert "secret" not in str(caught.value)
    assert [triton.ready for triton in tritons] == [{1}] * 3
    assert (repository.versions, repository.writes) == ({1}, [[1, 2], [1]])
    if damage.keys() <= {"broken", "absent"}:
        assert str(caught.value).endswith(". ns is as it was before everywhere")
    else:  # it could not even be told to go back
        assert f". Going back failed in part: {addresses[2]} " in str(caught.value)


async def test_a_model_that_was_not_there_is_unloaded_again(repository):
    """Where it was not served before, going back is to unload it."""
    tritons = [Triton(repository), Triton(repository)]
    tritons[1].broken = {1}
    async with serving(*tritons) as addresses:
        with pytest.raises(FleetError, match=r"ns is as it was before everywhere$"):
            await fleet_of(FixedAddresses(frozenset(addresses))).change("ns", [1])

    assert [triton.ready for triton in tritons] == [set(), set()]


async def test_a_silent_triton_stops_it_before_it_begins(tritons, repository, unused_tcp_port):
    """Nothing is written, and nobody is told anything."""
    async with serving(*tritons) as addresses:
        everybody = frozenset([*addresses, f"127.0.0.1:{unused_tcp_port}"])
        with pytest.raises(FleetError, match=rf"^127.0.0.1:{unused_tcp_port} is unavailable"):
            await load_second(fleet_of(FixedAddresses(everybody)), repository)

    assert repository.writes == []
    assert [triton.loads for triton in tritons] == [0, 0, 0]


async def test_one_that_comes_meanwhile_is_told_as_well(tritons, repository):
    """It may have started with the old config a moment ago."""
    async with serving(*tritons) as addresses:
        await load_second(fleet_of(Growing(addresses)), repository)

    assert [triton.ready for triton in tritons] == [{1, 2}] * 3


async def test_one_that_came_meanwhile_and_fails_reverts_all(tritons, repository):
    """It is told to go by the repository, too."""
    tritons[1].broken = {2}
    async with serving(*tritons) as addresses:
        with pytest.raises(FleetError, match=rf"^{addresses[1]} said: load failed.*ns is as it was before everywhere$"):
            await load_second(fleet_of(Growing(addresses)), repository)

    assert [triton.ready for triton in tritons] == [{1}] * 3


async def test_an_interruption_reverts_all(tritons, repository):
    """Ctrl-C in the middle leaves no half of a fleet with another version."""
    async with serving(*tritons) as addresses:
        change = asyncio.create_task(load_second(fleet_of(FixedAddresses(frozenset(addresses))), repository))
        tritons[2].hangs = True

        def interrupt():
            tritons[2].hangs = False  # the next one is served
            tritons[2].on_load = lambda: None
            change.cancel()

        tritons[2].on_load = interrupt
        with pytest.raises(asyncio.CancelledError):
            await change

    assert [triton.ready for triton in tritons] == [{1}] * 3
    assert repository.versions == {1}


class Forgetful:
    """A name that is known once, and then no more: `after` is raised, or what it stands for then."""

    def __init__(self, addresses, after):
        self.answers = [frozenset(addresses), after]

    async def look(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, LookFailed):
            raise answer
        return answer


@pytest.mark.parametrize("after", [LookFailed("A of triton: no answer"), frozenset()], ids=["fails", "nobody"])
async def test_a_name_that_is_lost_reverts_all_that_were_known(tritons, repository, after):
    """DNS that goes while they load neither hides a failure nor keeps anybody from being told to go back."""
    tritons[2].broken = {2}
    async with serving(*tritons) as addresses:
        with pytest.raises(FleetError):
            await load_second(fleet_of(Forgetful(addresses, after)), repository)

    assert [triton.ready for triton in tritons] == [{1}] * 3
    assert repository.versions == {1}


async def test_a_repository_that_can_not_be_put_back_is_told(tritons, repository):
    """Beside what went wrong first."""

    def restore():
        raise RepositoryError("cannot write the model repository: No space left on device")

    tritons[2].broken = {2}
    async with serving(*tritons) as addresses:
        fleet = fleet_of(FixedAddresses(frozenset(addresses)))
        with pytest.raises(FleetError, match=r"said: load failed.*Going back failed in part: .*No space left"):
            await fleet.change("ns", [1, 2], repository.write(1, 2), restore)


async def test_a_whole_model_is_unloaded(tritons):
    """Everywhere, and the repository is not asked."""
    async with serving(*tritons) as addresses:
        await fleet_of(FixedAddresses(frozenset(addresses))).change("ns", [])

    assert [triton.ready for triton in tritons] == [set()] * 3


async def test_states_are_those_of_each_triton(tritons, unused_tcp_port):
    """Reasons included; one that is silent is told apart."""
    silent = f"127.0.0.1:{unused_tcp_port}"
    async with serving(tritons[0]) as (address,):
        seen = await fleet_of(FixedAddresses(frozenset([address, silent]))).look()

    assert dict(seen[address].states) == {"ns": {1: "READY", 9: "UNAVAILABLE: unloaded"}}
    assert seen[silent].error.startswith("is unavailable (")


@pytest.mark.parametrize(
    "discovery, words",
    [
        (FixedAddresses(frozenset()), "no Triton was found there"),
        (Down(), "can't be told which Tritons there are: A of"),
    ],
)
async def test_no_triton_is_an_error(discovery, words):
    """And not a fleet on which all went well."""
    with pytest.raises(FleetError, match=words):
        await fleet_of(discovery).ready("ns")
