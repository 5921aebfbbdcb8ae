"""What each command's `--help` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from eagleeye.cli import main
from eagleeye.options import SettingsCommand

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH: Final = 100


def markdown() -> str:
    """A section for each command, and one below it for each of its own commands."""
    return "\n\n".join(part for name, command in _commands(main) for part in _section(name, command, "##"))


def _section(path: str, command: click.Command, heading: str) -> Iterator[str]:
    name = f"eagleeye {path}"
    yield f"{heading} {name}"
    context = click.Context(command, info_name=name, terminal_width=_WIDTH, help_option_names=["-h", "--help"])
    if isinstance(command, SettingsCommand):
        yield f"{_prose(command)}\n\nIts options are the [settings](settings.md)."
    else:
        yield f"```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for inner, each in _commands(command):
            yield from _section(f"{path} {inner}", each, f"{heading}#")


def _commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        if command := group.get_command(context, name):
            yield name, command


def _prose(command: click.Command) -> str:
    """The help of a command as paragraphs, without click's marks of those that keep their lines."""
    return click.formatting.wrap_text((command.help or "").replace("\b", ""), 10_000, preserve_paragraphs=True)
