"""`eagleeye key`: make, list and remove the keys that the gateway asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from eagleeye.options import environment_name
from gateway.keys import PRIORITIES, Key, KeysFileError, hash_secret, new_secret, read_keys, write_keys

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE: Final = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=environment_name("keys_file"),
    show_envvar=True,
    required=True,
    help="File of keys; the first `add` makes it. A gateway that runs takes changes up within about a second.",
)


@click.group(context_settings={"max_content_width": 120})
def key() -> None:
    """Make, list and remove the keys that the gateway asks for."""


@key.command()
@click.argument("name")
@click.option("--rate", type=float, help="Requests per second; without limit if not given. Each gateway counts alone.")
@click.option("--burst", type=int, help="Requests that may come at once after a pause.  [default: a second's worth]")
@click.option("--models", help="Names of the models it may use, separated by commas; all if not given.")
@click.option("--priority", help=f"The highest that it may ask for: {', '.join(PRIORITIES)}.  [default: normal]")
@_FILE
def add(name: str, rate: float | None, burst: int | None, models: str | None, priority: str | None, path: Path) -> None:
    """Make a key called NAME and print it. It is shown this once: the file keeps nothing but its hash."""
    keys = _read(path) if path.exists() else ()
    if any(other.name == name for other in keys):
        raise click.ClickException(f"{path} has a key {name!r} already; remove it first, or choose another name")
    secret = new_secret()
    allowed = None if models is None else tuple(model.strip() for model in models.split(","))
    try:
        new = Key(name, hash_secret(secret), rate, burst, allowed, priority)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    _write(path, (*keys, new))
    click.echo(f"{name} may now use this key; it is not shown again:", err=True)
    click.echo(secret)


@key.command("list")
@_FILE
def list_keys(path: Path) -> None:
    """Show every key's name and what it may do; never the key, which nobody has but its owner."""
    rows = [("NAME", "RATE", "BURST", "PRIORITY", "MODELS"), *(_row(key) for key in _read(path))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@key.command()
@click.argument("name")
@_FILE
def remove(name: str, path: Path) -> None:
    """Take the key called NAME away."""
    keys = _read(path)
    left = tuple(key for key in keys if key.name != name)
    if len(left) == len(keys):
        known = ", ".join(key.name for key in keys) or "none"
        raise click.ClickException(f"{path} has no key {name!r}; it has: {known}")
    _write(path, left)
    click.echo(f"removed {name}", err=True)


def _row(key: Key) -> tuple[str, ...]:
    rate, burst = ("-", "-") if key.rate is None else (f"{key.rate:g}/s", str(key.bucket_size))
    models = "all" if key.models is None else ", ".join(key.models)
    return key.name, rate, burst, key.highest_priority.value, models


def _read(path: Path) -> tuple[Key, ...]:
    try:
        return read_keys(path)
    except KeysFileError as error:
        raise click.ClickException(str(error)) from error


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    try:
        write_keys(path, keys)
    except KeysFileError as error:
        raise click.ClickException(str(error)) from error
