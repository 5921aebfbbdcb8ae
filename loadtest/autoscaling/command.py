"""`eagleeye simulate-autoscaling`: what an overlay makes of a demand, before a cluster has to find out."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Final

import click

from loadtest.autoscaling import demand as demands
from loadtest.autoscaling import manifests
from loadtest.autoscaling.batching import Curve
from loadtest.autoscaling.figures import Figures, figures
from loadtest.autoscaling.picture import draw
from loadtest.autoscaling.pods import Service
from loadtest.autoscaling.scenarios import SCENARIOS, Scenario
from loadtest.autoscaling.simulation import Conditions, Loss, Row, Timeline, simulate

_EXAMPLES: Final = """\b
Examples:
  eagleeye simulate-autoscaling --overlay gpu --demand day.csv
  eagleeye simulate-autoscaling --overlay production --scenario surge --base-ms 4 --per-image-ms 0.6
  eagleeye simulate-autoscaling --overlay gpu --demand day.csv --lose 36000-39600 --lose 50000-52000:gpu-busy
"""
_SECONDS: Final = click.FloatRange(min=0)
_PAUSE: Final = re.compile(r"^(\d+)-(\d+)(?::(.+))?$")


class Losses(click.ParamType[Loss]):
    """A time, and a trigger: 600-1200 or 600-1200:gpu-busy."""

    name = "begin-end[:trigger]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Loss:
        """Read one."""
        match = _PAUSE.match(value)
        if match is None or int(match[1]) >= int(match[2]):
            self.fail(
                f"{value!r} must be seconds such as 600-1200, or 600-1200:TRIGGER for one trigger only", param, ctx
            )
        return Loss(float(match[1]), float(match[2]), frozenset({match[3]} if match[3] else ()))


@click.command(context_settings={"max_content_width": 120, "show_default": True}, epilog=_EXAMPLES)
@click.option(
    "--overlay", required=True, help="One of k8s/overlays, a folder for kustomize, or a file of rendered objects."
)
@click.option(
    "--demand",
    "demand_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns seconds and images_per_second, from 0 to 15 s or more; the rate is linear between rows, "
    "and two rows of one time make a step.",
)
@click.option(
    "--scenario", type=click.Choice(list(SCENARIOS)), help="A demand of ours instead, made for the pods' capacity."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".eagleeye/autoscaling"),
    help="Folder for timeline.csv, figures.json and timeline.png.",
)
@click.option("--target", default="triton", help="Deployment that is scaled.")
@click.option(
    "--replicas", type=click.IntRange(0), help="Pods at the begin; by default the scenario's, or the overlay's minimum."
)
@click.option(
    "--max-replicas", type=click.IntRange(1), help="Most pods, in place of the overlay's: the GPUs that you own."
)
@click.option("--base-ms", type=_SECONDS, default=2.0, help="What a batch takes whatever its size, in ms.")
@click.option(
    "--per-image-ms", type=click.FloatRange(0, min_open=True), default=1.0, help="What each image adds, in ms."
)
@click.option("--max-batch", type=click.IntRange(1), default=16, help="Most images of a batch.")
@click.option("--cold-start-seconds", type=_SECONDS, default=60.0, help="From a pod's creation to its readiness.")
@click.option("--leave-seconds", type=_SECONDS, default=15.0, help="From a pod's deletion until its GPU is free.")
@click.option(
    "--deadline-seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    help="How long callers wait for an answer.",
)
@click.option(
    "--gateway-ms", type=_SECONDS, default=5.0, help="What an image takes in the gateway beside Triton, in ms."
)
@click.option("--dcgm-seconds", type=_SECONDS, default=30.0, help="How often DCGM's exporter takes new values.")
@click.option(
    "--lose", "losses", type=Losses(), multiple=True, help="Seconds in which all triggers, or one, find no series."
)
@click.option("--seed", default=1, help="Of all that is random; the same seed gives the same run.")
def simulate_autoscaling(
    overlay: str,
    demand_file: Path | None,
    scenario: str | None,
    output: Path,
    target: str,
    replicas: int | None,
    max_replicas: int | None,
    base_ms: float,
    per_image_ms: float,
    max_batch: int,
    cold_start_seconds: float,
    leave_seconds: float,
    deadline_seconds: float,
    gateway_ms: float,
    dcgm_seconds: float,
    losses: tuple[Loss, ...],
    seed: int,
) -> None:
    """Replay a demand against the autoscaling of an overlay.

    ScaledObject, recorded rules and intervals are the overlay's own; pods, gateway, Prometheus, KEDA and HPA are
    simulated, a day within seconds. It prints what it comes to, and writes a timeline as data and as a picture.
    """
    service = Service(
        curve=Curve(base_ms, per_image_ms, max_batch),
        cold_start_seconds=cold_start_seconds,
        leave_seconds=leave_seconds,
        deadline_seconds=deadline_seconds,
        gateway_ms=gateway_ms,
    )
    run = _scenario(demand_file, scenario, service.curve)
    conditions = Conditions(
        service=service,
        replicas=run.replicas if replicas is None else replicas,
        dcgm_seconds=dcgm_seconds,
        seed=seed,
        losses=losses or run.losses,
    )
    autoscaling = _autoscaling(overlay, target, max_replicas)
    _check_losses(conditions.losses, autoscaling)
    timeline = simulate(autoscaling, run.demand, conditions)
    save(timeline, figures(timeline), output)
    draw(timeline, run.title, service.curve.capacity_per_second, conditions.losses, output / "timeline.png")
    show(timeline, figures(timeline))
    click.echo(f"wrote timeline.csv, figures.json and timeline.png in {output}")


def _scenario(demand_file: Path | None, name: str | None, curve: Curve) -> Scenario:
    """What shall be simulated, in images per second."""
    if name is not None and demand_file is None:
        return SCENARIOS[name].scaled_to(curve)
    if name is not None or demand_file is None:
        raise click.UsageError("give one of --demand and --scenario")
    try:
        return Scenario(title=demand_file.name, demand=demands.read(demand_file), replicas=None)
    except demands.BadDemand as error:
        raise click.ClickException(str(error)) from error


def _autoscaling(overlay: str, target: str, max_replicas: int | None) -> manifests.Autoscaling:
    try:
        found = manifests.read(overlay, target)
    except manifests.BadOverlay as error:
        raise click.ClickException(str(error)) from error
    if max_replicas is None:
        return found
    if max_replicas < found.min_replicas:
        raise click.UsageError(f"--max-replicas is {max_replicas}, and the overlay has {found.min_replicas} at least")
    return dataclasses.replace(found, max_replicas=max_replicas)


def _check_losses(losses: tuple[Loss, ...], autoscaling: manifests.Autoscaling) -> None:
    names = {trigger.name for trigger in autoscaling.triggers}
    for unknown in sorted({name for loss in losses for name in loss.triggers} - names):
        raise click.ClickException(f"there is no trigger {unknown!r}; there are: {', '.join(sorted(names))}")


def save(timeline: Timeline, found: Figures, folder: Path) -> None:
    """Write a timeline as CSV, and figures with all changes of the number of pods as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "timeline.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(field.name for field in dataclasses.fields(Row))
        writer.writerows([f"{value:.6g}" for value in dataclasses.astuple(row)] for row in timeline.rows)
    changes = [dataclasses.asdict(change) for change in timeline.changes]
    (folder / "figures.json").write_text(json.dumps({**dataclasses.asdict(found), "scaling": changes}, indent=2) + "\n")


def show(timeline: Timeline, found: Figures) -> None:
    """Print figures, and who changed the number of pods when."""
    for change in timeline.changes:
        reason = change.because or "bounds"
        click.echo(f"{change.seconds:>9.1f} s  {change.before:>3} -> {change.after:<3} pods  {reason}")
    for name, value in dataclasses.asdict(found).items():
        click.echo(f"{name.replace('_', ' '):>22}  {'-' if value is None else value}")
