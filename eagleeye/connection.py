"""How a command reaches the gateway: options that all of them share, and the client made of them."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from eagleeye import streams
from eagleeye.options import environment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eagleeye import Client

Command = TypeVar("Command", bound="Callable[..., Any]")

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
NOTHING_DONE: Final = 2
"""Exit code of a command that could do nothing: wrong usage, no gateway, no inputs."""


class NothingDone(click.ClickException):
    """The command could do nothing; the message is one line for the user."""

    exit_code = NOTHING_DONE


def say(text: str) -> None:
    """Writes a line to standard output.

    Raises:
        NothingDone: it takes none; a pipe that nobody reads any more is left to click.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        streams.silence(sys.stdout)
        raise NothingDone(f"cannot write standard output: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options of `connection_options` say."""

    url: str
    key: str | None
    timeout_seconds: float
    ca_certificate: Path | None
    client_certificate: Path | None
    client_key: Path | None

    @contextlib.contextmanager
    def client(self, **more: Any) -> Iterator[Client]:
        """A client of that gateway; `more` are further arguments of `eagleeye.Client`.

        Raises:
            NothingDone: the options do not fit one another, a file is none that TLS needs, or a package is missing.
        """
        from eagleeye import Client  # noqa: PLC0415 (NumPy, which help does not need)

        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it tells of failures is in our own words
        try:
            client = Client(
                self.url,
                key=self.key,
                ca_certificate=self.ca_certificate,
                client_certificate=self.client_certificate,
                client_key=self.client_key,
                **{"timeout_seconds": self.timeout_seconds, **more},
            )
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise NothingDone(str(error)) from error
        with client:
            yield client

    @property
    def is_grpc(self) -> bool:
        """Whether the gateway's gRPC face is asked."""
        return self.url.lower().startswith(("grpc://", "grpcs://"))


def connection_options(timeout_seconds: float) -> Callable[[Command], Command]:
    """A decorator that gives a click command the options of a Connection; the timeout is their default."""
    options = (
        click.option(
            "--url",
            default="http://127.0.0.1:8080",
            show_default=True,
            envvar=environment_name("url"),
            show_envvar=True,
            help="Address of the gateway: http://, https://, grpc:// or grpcs://.",
        ),
        click.option(
            "--key",
            envvar=environment_name("key"),
            show_envvar=True,
            help="Key for a gateway that asks for one. Others on this machine can read a command line, "
            "but not its environment.",
        ),
        click.option(
            "--timeout-seconds",
            default=timeout_seconds,
            show_default=True,
            type=click.FloatRange(0.1, 600),
            help="Longest wait for one answer, tries and pauses between them included.",
        ),
        click.option("--ca-certificate", type=_FILE, help="PEM file of authorities to trust instead of the system's."),
        click.option("--client-certificate", type=_FILE, help="PEM file that shows the gateway who asks."),
        click.option("--client-key", type=_FILE, help="PEM file of that certificate's private key."),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def split(values: dict[str, Any]) -> Connection:
    """Takes the values of `connection_options` out of those of a command."""
    return Connection(**{name: values.pop(name) for name in Connection.__dataclass_fields__})
