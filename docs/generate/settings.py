"""Every setting of `eagleeye gateway` and `eagleeye up`, from the classes that declare them."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import click

from docs.generate.markdown import code, table
from eagleeye.options import environment_name
from gateway.settings import Settings
from triton_runtime.up import UpSettings

_OF_THE_MACHINE: Final = frozenset({"pixel_threads"})
"""Defaults that follow from the machine; what they mean says how."""


def markdown() -> str:
    """A table for each group: the gateway's, then those that `eagleeye up` has besides or with another default."""
    known = {field.name: field.default for field in dataclasses.fields(Settings)}
    own = [field for field in dataclasses.fields(UpSettings) if known.get(field.name, field) != field.default]
    parts = ["## eagleeye gateway", *_tables(list(dataclasses.fields(Settings)))]
    return "\n\n".join([*parts, "## eagleeye up", *_tables(own)])


def _tables(fields: list[dataclasses.Field[Any]]) -> list[str]:
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    for field in fields:
        groups.setdefault(field.metadata["group"], []).append(field)
    head = ("setting", "values", "default", "meaning")
    return [f"### {group}\n\n{table(head, map(_row, members))}" for group, members in groups.items()]


def _row(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    flag, variable = f"--{field.name.replace('_', '-')}", environment_name(field.name)
    return f"{code(flag)}<br>{code(variable)}", _values(field.metadata["kind"]), default(field), field.metadata["help"]


def default(field: dataclasses.Field[Any]) -> str:
    """What holds where a setting is not given, as code; nothing where it is then absent."""
    if field.default is None or field.default in ((), "") or field.name in _OF_THE_MACHINE:
        return ""
    return code(str(field.default).lower() if isinstance(field.default, bool) else str(field.default))


def _values(kind: click.ParamType[Any]) -> str:
    """Which values a type takes, in words."""
    if isinstance(kind, click.Choice):
        return ", ".join(code(str(choice)) for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        word = "integer" if isinstance(kind, click.IntRange) else "number"
        return " ".join([word, *_limits(kind)])
    return {"text": "text", "boolean": "`true`, `false`"}.get(kind.name, kind.name)


def _limits(kind: click.IntRange | click.FloatRange) -> list[str]:
    low = [] if kind.min is None else [f"{'above' if kind.min_open else 'from'} {kind.min}"]
    high = [] if kind.max is None else [f"{'and below' if kind.max_open else 'to'} {kind.max}"]
    return low + high
