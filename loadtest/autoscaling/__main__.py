"""`python -m loadtest.autoscaling`: every scenario, with the pictures and the table of docs/autoscaling.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from loadtest.autoscaling import manifests
from loadtest.autoscaling.figures import figures
from loadtest.autoscaling.picture import draw
from loadtest.autoscaling.pods import Service
from loadtest.autoscaling.scenarios import SCENARIOS
from loadtest.autoscaling.simulation import Conditions, simulate


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@click.option("--overlay", default="gpu", help="See `eagleeye simulate-autoscaling`.")
@click.option("--max-replicas", type=click.IntRange(1), default=8, help="Most pods, in place of the overlay's.")
@click.option(
    "--cold-start-seconds", type=click.FloatRange(0), default=60.0, help="From a pod's creation to readiness."
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("docs/pictures"),
    help="Folder for autoscaling-SCENARIO.png.",
)
def main(overlay: str, max_replicas: int, cold_start_seconds: float, pictures: Path) -> None:
    """Run all scenarios, draw each, and print a table."""
    try:
        autoscaling = dataclasses.replace(manifests.read(overlay, "triton"), max_replicas=max_replicas)
    except manifests.BadOverlay as error:
        raise click.ClickException(str(error)) from error
    service = Service(cold_start_seconds=cold_start_seconds)
    click.echo("| scenario | in time | refused | longest wait | pods, most | turns | GPU hours |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, scenario in SCENARIOS.items():
        run = scenario.scaled_to(service.curve)
        conditions = Conditions(service=service, replicas=run.replicas, losses=run.losses)
        timeline = simulate(autoscaling, run.demand, conditions)
        file = pictures / f"autoscaling-{name}.png"
        draw(timeline, run.title, service.curve.capacity_per_second, run.losses, file)
        found = figures(timeline)
        click.echo(
            f"| `{name}` | {found.goodput_percent:.2f} % | {found.refused + found.expired:,} | "
            f"{found.longest_wait_ms / 1e3:.2f} s | {found.most_pods} | {found.turns} | {found.gpu_hours:.2f} |"
        )


if __name__ == "__main__":
    main()
