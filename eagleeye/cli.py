"""The console command `eagleeye`: joins the subcommands that live with the part they drive."""

from __future__ import annotations

import importlib
from typing import Final

import click

from eagleeye import streams

COMMANDS: Final = {
    "detect": ("eagleeye.detect.command:detect", "Find objects in images and videos, with results in several formats."),
    "engine": ("export.engine_command:engine", "Build TensorRT plans, and serve them where they fit."),
    "evaluate": ("export.evaluate:evaluate", "Measure COCO mAP through the live endpoint."),
    "export": ("export.__main__:export", "Turn a checkpoint into a verified model in a Triton repository."),
    "gateway": ("gateway.__main__:gateway", "Serve detections in front of a Triton that runs already."),
    "health": ("eagleeye.status:health", "Tell whether a gateway lives and is ready."),
    "key": ("gateway.keys_cli:key", "Make, list and remove the keys that the gateway asks for."),
    "load": ("loadtest.load.command:load", "Test a deployment under load, with Locust; or measure its load table."),
    "model": ("eagleeye.model.command:model", "Load, promote, roll back and remove versions of models."),
    "models": ("eagleeye.status:models", "List the models that a gateway serves."),
    "profile": ("loadtest.profile:profile", "Measure what a Triton pod can do, for the autoscalers' thresholds."),
    "sample": ("eagleeye.boards:sample", "Draw a circuit board with defects, to try the shipped model on."),
    "simulate-autoscaling": (
        "loadtest.autoscaling.command:simulate_autoscaling",
        "Replay a demand against the autoscaling of an overlay.",
    ),
    "tune": (
        "loadtest.tune.command:tune",
        "Find how a model is served best on this machine, and write it into its config.",
    ),
    "up": ("triton_runtime.up:up", "Export the shipped model, start Triton and the gateway."),
}
"""Subcommand -> where it lives, and its line in the overview. A part is imported when its command is used: `gateway`
must start without torch, `export` without aiohttp, and the overview without any of them."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names of all subcommands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        """The subcommand, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`eagleeye {cmd_name}` needs the Python package {error.name!r}, which is not installed here; "
                "the extras of this distribution (pip install 'eagleeye[...]') bring what each command needs"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        """Write the overview from the table, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="eagleeye")
def main() -> None:
    """EagleEye serves the DAMO-YOLO object detector: export it, serve it with NVIDIA Triton, measure it."""
    streams.replace_closed()
