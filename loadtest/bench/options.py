"""Types of options on the command lines of benchmarks."""

from __future__ import annotations

from typing import Any

import click


class GatewayOption(click.ParamType[tuple[str, object]]):
    """An option of the gateway as on its command line; a flag has no value."""

    name = "option[=value]"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002 (click's signature)
        ctx: click.Context | None,  # noqa: ARG002 (click's signature)
    ) -> tuple[str, object]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        name, separator, text = value.removeprefix("--").partition("=")
        return name.replace("-", "_"), text if separator else True


class Variable(click.ParamType[tuple[str, str]]):
    """A variable of the environment."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read it.

        Raises:
            click.BadParameter: it has no name, or no value.
        """
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not (name and separator):
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        return name, text
