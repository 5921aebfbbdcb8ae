"""The console command `eagleeye`: joins the subcommands that live with the part they drive."""

from __future__ import annotations

import importlib
from typing import Final

import click

COMMANDS: Final = {
    "evaluate": "export.evaluate:evaluate",
    "export": "export.__main__:export",
    "gateway": "gateway.__main__:gateway",
    "sample": "eagleeye.boards:sample",
    "up": "triton_runtime.up:up",
}
"""Subcommand -> where it lives. Imported only when used: `gateway` must start without torch, `export` without aiohttp."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 (COMMANDS is ours)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="eagleeye")
def main() -> None:
    """EagleEye serves the DAMO-YOLO object detector: export it, serve it with NVIDIA Triton, measure it."""
