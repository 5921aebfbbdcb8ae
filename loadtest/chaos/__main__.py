"""`python -m loadtest.chaos`: run the proofs, each with its figures and its verdicts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from loadtest.chaos import failures, limits
from loadtest.chaos.picture import draw
from loadtest.chaos.report import save, show
from loadtest.chaos.rollout import rollout as roll_out
from triton_runtime.environment import UnsupportedMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from loadtest.chaos.report import Report

Command = TypeVar("Command", bound="Callable[..., Any]")

_FACTORS: Final = (2.0, 10.0)
_FLEETS: Final = (1, 2, 4, 8)
_SECONDS: Final = click.FloatRange(min=1)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read the list."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} must be numbers, separated by commas", param, ctx)


@click.group(context_settings={"max_content_width": 120, "show_default": True})
@click.option(
    "--json", "figures", type=_FILE, default="loadtest/results/chaos.json", help="File for the figures, by scenario."
)
@click.option(
    "--picture", type=_FILE, default="loadtest/results/chaos.svg", help="File for the timelines of all its scenarios."
)
@click.pass_context
def main(context: click.Context, figures: Path, picture: Path) -> None:
    """Show what a fleet of Tritons does while parts of it fail, or when too much is asked of it.

    Each command starts real Tritons with a GPU stand-in and a gateway of its own on free ports, prints its figures, and
    exits with 1 if a promise was not kept. The figures mean something on a machine that does nothing else.
    """
    context.obj = (figures, picture)


def seconds_option(default: float, text: str) -> Callable[[Command], Command]:
    """`--seconds`, which every scenario has."""
    return click.option("--seconds", type=_SECONDS, default=default, help=f"{text}, in seconds.")


def share_option(default: float = 0.6) -> Callable[[Command], Command]:
    """`--share`, which every scenario with a fixed load has."""
    kind = click.FloatRange(0, 1, min_open=True)
    return click.option("--share", type=kind, default=default, help="Load, as a share of the measured capacity.")


@main.command()
@seconds_option(60, "Length of the load")
@click.option("--interval-seconds", type=_SECONDS, default=5.0, help="From one kill to the next.")
@share_option()
def kill(**values: Any) -> None:
    """Kill -9 one of three Tritons over and over."""
    _run(failures.kill(**values))


@main.command()
@seconds_option(30, "Length of the load")
@click.option("--freeze-seconds", type=_SECONDS, default=10.0, help="Length of the stall.")
@share_option()
def stall(**values: Any) -> None:
    """Freeze one of three Tritons (SIGSTOP) and let it go on."""
    _run(failures.stall(**values))


@main.command("roll-tritons")
@seconds_option(40, "Length of the load")
@share_option()
def roll_tritons(**values: Any) -> None:
    """Restart all of three Tritons, one after the other."""
    _run(failures.roll_tritons(**values))


@main.command("roll-gateways")
@seconds_option(40, "Length of the load")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=5.0, help="The gateways' --drain-seconds.")
@share_option()
def roll_gateways(**values: Any) -> None:
    """Restart both of two gateways behind HAProxy, one after the other."""
    _run(failures.roll_gateways(**values))


@main.command()
@seconds_option(40, "Length of the load")
@share_option()
def dns(**values: Any) -> None:
    """Scale from one Triton to four and back, by DNS."""
    _run(failures.dns(**values))


@main.command()
@seconds_option(24, "Length of all pauses between the steps")
@share_option()
def rollout(**values: Any) -> None:
    """Load, promote, roll back and unload another version."""
    _run(roll_out(**values))


@main.command()
@seconds_option(20, "Length of each load")
@click.option("--factors", type=Numbers(), default=_FACTORS, help="Loads, as multiples of the measured capacity.")
def overload(**values: Any) -> None:
    """Offer two and ten times the capacity."""
    _run(limits.overload(**values))


@main.command()
@seconds_option(30, "Length of each load")
@click.option(
    "--use",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    help="Part of its share, a fifth of the capacity, that each key uses.",
)
def flood(**values: Any) -> None:
    """Let one key send twenty times its share."""
    _run(limits.flood(**values))


@main.command()
@seconds_option(20, "Length of each load")
@click.option("--fleets", type=Numbers(), default=_FLEETS, help="Numbers of Tritons; the first is the measure.")
def scale(seconds: float, fleets: tuple[float, ...]) -> None:
    """Measure the throughput of 1, 2, 4 and 8 Tritons."""
    _run(limits.scale(seconds=seconds, fleets=tuple(map(int, fleets))))


@main.command("all")
@click.pass_context
def run_all(context: click.Context) -> None:
    """Run all of them, at their full length: some ten minutes."""
    failed = [name for name, command in _scenarios().items() if _exit_code(context, command)]
    if failed:
        click.secho(f"\nnot all promises were kept by: {', '.join(failed)}", fg="red")
        sys.exit(1)


def _scenarios() -> dict[str, click.Command]:
    return {name: command for name, command in main.commands.items() if command is not run_all}


def _exit_code(context: click.Context, command: click.Command) -> int:
    try:
        context.invoke(command, **{parameter.name: parameter.get_default(context) for parameter in command.params})
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _run(scenario: Coroutine[Any, Any, Report]) -> None:
    """Run one, show and keep its figures, and tell the shell its verdict."""
    figures, picture = click.get_current_context().obj
    try:
        report = asyncio.run(scenario)
    except (RuntimeError, TimeoutError, UnsupportedMachine) as error:
        logs = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        raise click.ClickException(f"{error}{logs}") from error
    show(report)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw(save([report], figures)["scenarios"]))
    sys.exit(not report.is_met)


if __name__ == "__main__":
    main()
