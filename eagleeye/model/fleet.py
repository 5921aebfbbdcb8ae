"""All Tritons as one: a model is loaded on every one of them, or everything is as it was.

Triton's own call reaches one server only, so each is asked by itself. What that does in Triton 2.51 was measured, and
is what this rests on: a version whose policy alone changes is taken up or dropped while the others go on answering; a
changed config reloads them beside the old ones, which answer until then; a load of which one version fails changes
nothing at all; a version without a folder is passed over without a word, so what is ready is asked for afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from export.errors import RepositoryError
from gateway.triton.discovery import LookFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gateway.triton.discovery import Discovery

READY: Final = "READY"
_ASK_SECONDS: Final = 5.0
_MOST_WORDS: Final = 300  # of what a Triton said: the rest is its backend's stack
_OPTIONS: Final = (("grpc.enable_http_proxy", 0),)  # a proxy for the world outside can't reach a pod


class FleetError(Exception):
    """What was wanted of the fleet did not come about; the message says who said what, and how things are now."""


@dataclass(frozen=True, slots=True)
class Index:
    """What one Triton says of its models.

    Attributes:
        states: by model and version, such as `READY` or `UNAVAILABLE: why`.
        error: why it says nothing; empty if it does.
    """

    states: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    error: str = ""

    def ready(self, model: str) -> frozenset[int]:
        """The versions of a model that it serves."""
        return frozenset(version for version, state in self.states.get(model, {}).items() if state == READY)


class Fleet:
    """The Tritons that `discovery` names.

    Args:
        discovery: looked at again and again, as Tritons may come and go meanwhile.
        timeout_seconds: longest time for one Triton to load what it is told.
        tell: called with a line for people at each step.
    """

    def __init__(self, discovery: Discovery, *, timeout_seconds: float, tell: Callable[[str], None]) -> None:
        self._discovery = discovery
        self._timeout_seconds = timeout_seconds
        self._tell = tell

    async def look(self) -> dict[str, Index]:
        """What each Triton serves, by its address.

        Raises:
            FleetError: there is none, or it can't be told which there are.
        """
        addresses = sorted(await self._addresses())
        if not addresses:
            raise FleetError("no Triton was found there")
        return dict(zip(addresses, await asyncio.gather(*map(_index, addresses)), strict=True))

    async def ready(self, model: str) -> dict[str, frozenset[int]]:
        """The versions of a model that each Triton serves, by its address.

        Raises:
            FleetError: there is no Triton, or one does not say.
        """
        seen = await self.look()
        if silent := [f"{address} {index.error}" for address, index in seen.items() if index.error]:
            raise FleetError("; ".join(silent))
        return {address: index.ready(model) for address, index in seen.items()}

    async def change(
        self,
        model: str,
        wanted: Collection[int],
        write: Callable[[], None] = lambda: None,
        restore: Callable[[], None] = lambda: None,
    ) -> None:
        """Let every Triton serve exactly these versions of a model; none is to unload it.

        Args:
            model: its name.
            wanted: versions that the repository names, once it is written.
            write: changes the repository.
            restore: changes it back.

        Raises:
            FleetError: at least one did not. The repository, and all that did, are as before, as far as that went.
        """
        before = await self.ready(model)
        write()
        try:
            failures = await self._bring_about(model, frozenset(wanted), before)
        except BaseException:  # Ctrl-C above all: half a fleet with another version is nobody's wish
            unmended = await self._revert(model, before, restore)
            self._tell(
                f"going back failed in part: {unmended}" if unmended else f"{model} is as it was before everywhere"
            )
            raise
        if failures:
            said = "; ".join(f"{address} {failure}" for address, failure in sorted(failures.items()))
            unmended = await self._revert(model, before, restore)
            now = f"Going back failed in part: {unmended}" if unmended else f"{model} is as it was before everywhere"
            raise FleetError(f"{said}. {now}")

    async def _bring_about(self, model: str, wanted: frozenset[int], known: Collection[str]) -> dict[str, str]:
        """Tell every Triton, those that come meanwhile as well; the failures, by address, of those that are there."""
        told: set[str] = set()
        failures: dict[str, str] = {}
        addresses = set(known)
        while fresh := sorted(addresses - told):
            answers = await asyncio.gather(*(self._tell_one(address, model, wanted) for address in fresh))
            failures |= {address: failure for address, failure in zip(fresh, answers, strict=True) if failure}
            told.update(fresh)
            addresses = await self._addresses()
        is_there = addresses.__contains__ if addresses else told.__contains__  # a name that stands for nobody now lies
        return {address: failure for address, failure in failures.items() if is_there(address)}

    async def _tell_one(self, address: str, model: str, wanted: frozenset[int]) -> str:
        """Let one serve these versions; why it does not, empty if it does."""
        start = time.monotonic()
        failure = await _load(address, model, self._timeout_seconds) if wanted else await _unload(address, model)
        if not failure:
            index = await _index(address)
            failure = index.error or _differing(index.ready(model), wanted)
        seconds = time.monotonic() - start
        self._tell(f"{address} {failure or f'serves {_words(wanted)} of {model}'} ({seconds:.1f} s)")
        return failure

    async def _revert(self, model: str, before: Mapping[str, frozenset[int]], restore: Callable[[], None]) -> str:
        """Bring everything back to where it was; what did not go back."""
        self._tell("going back to what was before")
        try:
            restore()
        except RepositoryError as error:  # what they would load again is not what was before
            return str(error)
        addresses = sorted({*before, *await self._addresses_if_known()})
        answers = await asyncio.gather(
            *(self._revert_one(address, model, before.get(address)) for address in addresses)
        )
        return "; ".join(f"{address} {answer}" for address, answer in zip(addresses, answers, strict=True) if answer)

    async def _revert_one(self, address: str, model: str, before: frozenset[int] | None) -> str:
        if before is None:  # it came meanwhile, and has read whatever was there
            return await _load(address, model, self._timeout_seconds)
        failure = await _load(address, model, self._timeout_seconds) if before else await _unload(address, model)
        index = await _index(address)
        lacking = before - index.ready(model)
        if not failure and not index.error and lacking:
            failure = f"no longer serves {_words(lacking)}"
        return index.error or failure

    async def _addresses_if_known(self) -> set[str]:
        try:
            return await self._addresses()
        except FleetError:
            return set()

    async def _addresses(self) -> set[str]:
        try:
            return set(await self._discovery.look())
        except LookFailed as error:
            raise FleetError(f"it can't be told which Tritons there are: {error}") from error


# one Triton


async def _index(address: str) -> Index:
    request = service_pb2.RepositoryIndexRequest()
    try:
        answer = await _call(address, "RepositoryIndex", request, _ASK_SECONDS)
    except grpc.aio.AioRpcError as error:
        return Index(error=_reason(error, _ASK_SECONDS))
    states: dict[str, dict[int, str]] = defaultdict(dict)
    for entry in answer.models:
        if entry.version:  # a model that was never loaded has none
            reason = f": {_excerpt(entry.reason)}" if entry.reason else ""
            states[entry.name][int(entry.version)] = f"{entry.state}{reason}"
    return Index(dict(states))


async def _load(address: str, model: str, timeout_seconds: float) -> str:
    """Let one load what the repository names; why it did not, empty if it did."""
    request = service_pb2.RepositoryModelLoadRequest(model_name=model)
    try:
        await _call(address, "RepositoryModelLoad", request, timeout_seconds)
    except grpc.aio.AioRpcError as error:
        return _reason(error, timeout_seconds)
    return ""


async def _unload(address: str, model: str) -> str:
    request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
    try:
        await _call(address, "RepositoryModelUnload", request, _ASK_SECONDS)
    except grpc.aio.AioRpcError as error:
        return _reason(error, _ASK_SECONDS)
    return ""


async def _call(address: str, method: str, request: Any, timeout_seconds: float) -> Any:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        return await getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)(
            request, timeout=timeout_seconds
        )


def _reason(error: grpc.aio.AioRpcError, timeout_seconds: float) -> str:
    details = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"did not answer within {timeout_seconds:g} s"
        case grpc.StatusCode.UNAVAILABLE:
            return f"is unavailable ({_excerpt(details)})"
    return f"said: {_excerpt(details)}"


def _excerpt(text: str) -> str:
    """The beginning of what a Triton said, in one line and without its backend's stack."""
    line = " ".join(text.partition("\n\nAt:")[0].split())
    return line if len(line) <= _MOST_WORDS else f"{line[:_MOST_WORDS]}..."


def _differing(ready: frozenset[int], wanted: frozenset[int]) -> str:
    if ready == wanted:
        return ""
    return (
        f"says that all went well, but serves {_words(ready)} and not {_words(wanted)}: "
        "does it read this very repository?"
    )


def _words(versions: Collection[int]) -> str:
    return f"version {', '.join(map(str, sorted(versions)))}" if versions else "no version"
