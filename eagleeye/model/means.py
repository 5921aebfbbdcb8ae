"""What the subcommands work with: the repository, the rollout file, the fleet and the gateways of their options."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from eagleeye import streams
from eagleeye.files import exclusive
from eagleeye.model import overview
from eagleeye.model.decisions import Refused
from eagleeye.model.fleet import Fleet, FleetError
from eagleeye.model.gateways import GatewayError, Gateways
from export.errors import RepositoryError
from export.repository import PublishedModel, find_published
from gateway.rollout import NothingToRollBack, Rollout, RolloutFileError, read_rollout, write_rollout
from gateway.triton.discovery import discovery

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

_INTERRUPTED: Final = 130
_EXPECTED: Final = (Refused, FleetError, GatewayError, RepositoryError, RolloutFileError, NothingToRollBack, ValueError)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Turn what is expected to go wrong into one line for the user."""
    try:
        yield
    except _EXPECTED as error:
        raise click.ClickException(str(error)) from error
    except ModuleNotFoundError as error:
        raise click.ClickException(f"this needs the Python package {error.name!r}, which is not installed") from error
    except BrokenPipeError:  # click ends quietly when nobody reads any more
        raise
    except OSError as error:
        raise click.ClickException(f"cannot use {error.filename}: {error.strerror}") from error


def find_model(repository: Path, name: str) -> PublishedModel:
    """The model of that name.

    Raises:
        RepositoryError: there is none; the message names those that there are.
    """
    published = find_published(repository, name) if _is_name(name) else None
    if published is None:
        there = ", ".join(overview.names(repository)) or "none"
        raise RepositoryError(f"{repository} has no model {name}; there are: {there}")
    return published


@contextlib.contextmanager
def alone(repository: Path, name: str) -> Iterator[PublishedModel]:
    """The model of that name, once every other command is through with its versions; until the end none begins.

    Raises:
        RepositoryError: there is none; the message names those that there are.
    """
    with _lock(find_model(repository, name).directory):
        yield find_model(repository, name)


@contextlib.contextmanager
def in_turn(repository: Path, name: str, rollout_file: Path) -> Iterator[None]:
    """The same for a command that changes who answers: until its end none unloads or deletes what it has found ready.

    Such a command needs no repository where it is told of Tritons; without the model's folder it waits for nobody.
    """
    directory = repository / name
    is_edited = directory.resolve() == rollout_file.resolve().parent  # `edit` waits for that lock, even for its own
    with _lock(directory) if _is_name(name) and directory.is_dir() and not is_edited else contextlib.nullcontext():
        yield


def _is_name(text: str) -> bool:
    """Whether it is no path, which neither Triton nor the rollout file would know."""
    return text not in {"", ".", ".."} and "/" not in text


def _lock(directory: Path) -> contextlib.AbstractContextManager[None]:
    return exclusive(directory, lambda: tell(f"waiting for another command that changes what {directory.name} loads"))


def read(path: Path | None) -> Rollout:
    """What the file says; one that is not there yet says nothing."""
    return read_rollout(path) if path is not None and path.exists() else Rollout()


def edit(path: Path, change: Callable[[Rollout], Rollout]) -> Rollout:
    """Change the rollout file, as the only one who does at this moment."""
    with exclusive(path.resolve().parent):
        before = read(path)
        after = change(before)
        if after != before or not path.exists():
            write_rollout(path, after)
    return after


def fleet_of(values: Mapping[str, Any], timeout_seconds: float) -> Fleet | None:
    """The fleet of `fleet_options`; None where no Triton was named."""
    if values["triton_url"] is None:
        return None
    tritons = discovery(values["triton_url"], values["dns_server"])
    return Fleet(tritons, timeout_seconds=timeout_seconds, tell=tell)


def gateways_of(values: Mapping[str, Any]) -> Gateways:
    """The gateways of `gateway_options`."""
    return Gateways(values["urls"], values["key"], values["ca_certificate"])


def tell(line: str) -> None:
    """Write a line about what happens. Nothing of that depends on whether anybody still reads it."""
    try:
        click.echo(line, err=True)
    except OSError:
        streams.silence(sys.stderr)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it; Ctrl-C, SIGTERM or a terminal that goes away cancels it, upon which it tidies up."""

    async def until_signal() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
                loop.add_signal_handler(number, _cancel_once(task))
        return await task

    try:
        return asyncio.run(until_signal())
    except asyncio.CancelledError:
        tell("interrupted")
        raise click.exceptions.Exit(_INTERRUPTED) from None


def _cancel_once(task: asyncio.Future[Any]) -> Callable[[], None]:
    """A signal handler; a second signal does not cut short what the first has begun."""
    is_cancelled = False

    def cancel() -> None:
        nonlocal is_cancelled
        if not is_cancelled:
            is_cancelled = True
            task.cancel()

    return cancel
