"""A frozen settings class -> the options of a click command.

A setting is declared once, as a field with its default, allowed values, help, and the group it is shown in. It can be
given as a command-line flag or as the environment variable `EAGLEEYE_<NAME>`; the flag wins. Click checks both and
names the culprit in one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PREFIX: Final = "EAGLEEYE_"
_CALLERS: Final = frozenset({"EAGLEEYE_GRPC_URL", "EAGLEEYE_KEY", "EAGLEEYE_PROMETHEUS_URL", "EAGLEEYE_URL"})
"""Variables of the commands that call a gateway: a shell that has them may start a gateway as well."""

T = TypeVar("T")
Command = TypeVar("Command", bound="Callable[..., Any]")

PORT: Final = click.IntRange(0, 65535)


class SettingsCommand(click.Command):
    """A command whose help shows settings under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a section for each group, in the order in which they begin."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


class _Setting(click.Option):
    """An option that belongs to a group."""

    def __init__(self, *args: Any, group: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


def setting(default: T, kind: click.ParamType[Any], text: str, *, group: str) -> T:
    """Declare one field of a settings class: its default, what values it takes, its help with the unit, its group."""
    field: Any = dataclasses.field(default=default, metadata={"kind": kind, "help": text, "group": group})
    return field  # type: ignore[no-any-return]


def options(settings_class: type[Any]) -> Callable[[Command], Command]:
    """A decorator that gives a click command one option for each field of a settings class."""

    def decorate(command: Command) -> Command:
        for field in reversed(dataclasses.fields(settings_class)):
            command = click.option(
                f"--{field.name.replace('_', '-')}",
                cls=_Setting,
                group=field.metadata["group"],
                envvar=environment_name(field.name),
                show_envvar=True,
                show_default=field.default != "",
                default=field.default,
                type=field.metadata["kind"],
                is_flag=field.metadata["kind"] is click.BOOL,
                help=field.metadata["help"],
            )(command)
        return command

    return decorate


def arguments(settings: Any) -> list[str]:
    """The command-line flags that say what a settings object says; None is said by no flag."""
    flags = []
    for field in dataclasses.fields(settings):
        flag, value = f"--{field.name.replace('_', '-')}", getattr(settings, field.name)
        if field.metadata["kind"] is click.BOOL:
            flags += [flag] * value
        elif value is not None:
            flags.append(f"{flag}={','.join(value) if isinstance(value, tuple) else value}")
    return flags


def environment_name(field_name: str) -> str:
    """The environment variable of a setting."""
    return _PREFIX + field_name.upper()


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment less all settings, for a child that is told by flags."""
    return {name: value for name, value in environment.items() if not name.startswith(_PREFIX)}


def refuse_unknown_environment(settings_class: type[Any]) -> None:
    """Stop on an `EAGLEEYE_*` variable that is no setting of the class: a misspelt one would be ignored otherwise.

    Raises:
        click.UsageError: there is one; the message names the closest that is known.
    """
    known = sorted(environment_name(field.name) for field in dataclasses.fields(settings_class))
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known and name not in _CALLERS:
            closest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {closest[0]}?" if closest else ""
            raise click.UsageError(f"the environment variable {name} is no setting of this command{hint}")
