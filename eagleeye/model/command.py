"""The command `eagleeye model`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.connection import say
from eagleeye.files import write_atomically
from eagleeye.model import overview, shadow_report
from eagleeye.model.decisions import (
    Refused,
    newest_everywhere,
    pinned,
    promotion,
    prunable,
    require_ready,
    require_unused,
    shares,
)
from eagleeye.model.gateways import GatewayError
from eagleeye.model.means import alone, edit, find_model, fleet_of, gateways_of, in_one_line, in_turn, read, run, tell
from eagleeye.model.options import (
    fleet_options,
    gateway_options,
    json_option,
    repository_option,
    required_rollout_option,
    rollout_option,
    timeout_option,
)
from eagleeye.status import echo_table
from export.errors import RepositoryError
from export.plan_config import BACKEND, serving_onnx
from export.repository import (
    CONFIG_FILE,
    MODEL_FILE,
    PublishedModel,
    as_text,
    loading,
    remove_versions,
    swap_config,
)
from gateway.rollout import (
    Rollout,
    promoted,
    rolled_back,
    with_shadow,
    without_shadow,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eagleeye.model.fleet import Fleet, Index

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_VERSION: Final = click.IntRange(min=1)
_PERCENT: Final = click.FloatRange(0, 100, min_open=True)
_ONNX_BACKEND: Final = "onnxruntime"


@click.group(context_settings={"max_content_width": 120, "show_default": True})
def model() -> None:
    """Load, promote, roll back and remove versions of models, in a repository and on a live fleet.

    The repository says which versions every Triton loads, the rollout file which of them answer in which shares. Exit
    codes: 0 done; 1 not done, and everything is as it was, unless the message says otherwise; 2 wrong options.
    """


# --------------------------------------------------------------------------------------------------------------- look


@model.command("list")
@repository_option
@rollout_option
@fleet_options
@json_option
def list_command(*, repository: Path, as_json: bool, **values: Any) -> None:
    """Show all models of a repository with their versions; with --triton-url, what each Triton serves of them."""
    with in_one_line():
        published, unreadable = _readable(repository)
        models, indexes = _look(published, values)
    if as_json:
        found = [overview.as_json(each) for each in models]
        say(json.dumps({"models": found, "silent": _silent(indexes), "unreadable": unreadable}, indent=1))
        return
    echo_table(overview.table(models, is_live=bool(indexes)))
    for error in unreadable.values():
        say(error)
    for address, error in _silent(indexes).items():
        say(f"{address} {error}")


@model.command()
@click.argument("name", metavar="MODEL")
@repository_option
@rollout_option
@fleet_options
@json_option
def show(*, name: str, repository: Path, as_json: bool, **values: Any) -> None:
    """Show one model: files, sizes and facts of each version, and its state on each Triton of --triton-url."""
    with in_one_line():
        (found,), indexes = _look([find_model(repository, name)], values)
    if as_json:
        say(json.dumps({**overview.as_json(found), "silent": _silent(indexes)}, indent=1))
        return
    echo_table(overview.table([found], is_live=bool(indexes)))
    for line in overview.details(found):
        say(line)
    for address, error in _silent(indexes).items():
        say(f"{address} {error}")


def _readable(repository: Path) -> tuple[list[PublishedModel], dict[str, str]]:
    """The models of a repository, and by name why others can't be read."""
    published, unreadable = [], {}
    for name in overview.names(repository):
        try:
            published.append(find_model(repository, name))
        except RepositoryError as error:
            unreadable[name] = str(error)
    return published, unreadable


def _look(
    models: Sequence[PublishedModel], values: Mapping[str, Any]
) -> tuple[list[overview.Overview], Mapping[str, Index]]:
    rollout = read(values["rollout_file"])
    fleet = fleet_of(values, timeout_seconds=0)
    indexes = run(fleet.look()) if fleet else {}
    return [overview.overview(each, rollout.of(each.directory.name), indexes) for each in models], indexes


def _silent(indexes: Mapping[str, Index]) -> dict[str, str]:
    return {address: index.error for address, index in indexes.items() if index.error}


# --------------------------------------------------------------------------------------------------- load and unload


@model.command()
@click.argument("name", metavar="MODEL")
@click.argument("versions", metavar="[VERSION]...", nargs=-1, type=_VERSION)
@click.option("--only", is_flag=True, help="Unload all other versions of the model in the same step.")
@click.option("--force", is_flag=True, help="With --only: unload also what gets requests.")
@repository_option
@rollout_option
@fleet_options
@gateway_options
@timeout_option
def load(*, name: str, versions: tuple[int, ...], only: bool, force: bool, repository: Path, **values: Any) -> None:
    """Load versions of a model beside those that are loaded; the newest one if none is named.

    The repository's config then names them, so that a Triton which starts later loads the same; every Triton of
    --triton-url is told, and the command waits for all. If one fails, everything is as it was before. With
    --rollout-file the version that answers now goes on answering, until another is promoted.
    """
    with in_one_line():
        published = find_model(repository, name)
        asked = set(versions) or {published.version}
        _require_there(published, asked)
        fleet = fleet_of(values, values["timeout_seconds"])
        wanted = _wanted(published, asked, read(values["rollout_file"]), only=only, force=force)
        if fleet is not None and values["rollout_file"] is not None:
            _pin(values, name, run(fleet.ready(name)), wanted)
        with alone(repository, name) as published:
            wanted = _wanted(published, asked, read(values["rollout_file"]), only=only, force=force)
            _change(published, wanted, fleet)
    say(f"{name}: loaded are {_words(wanted)}")


def _wanted(published: PublishedModel, asked: set[int], rollout: Rollout, *, only: bool, force: bool) -> set[int]:
    """The versions that shall be loaded in the end.

    Raises:
        Refused: one that would go is in use.
    """
    wanted = asked if only else asked | set(published.loaded)
    if not force:
        require_unused(set(published.loaded) - wanted, rollout.of(published.directory.name))
    return wanted


@model.command()
@click.argument("name", metavar="MODEL")
@click.argument("versions", metavar="[VERSION]...", nargs=-1, type=_VERSION)
@click.option("--force", is_flag=True, help="Unload also what gets requests by the rollout file.")
@repository_option
@rollout_option
@fleet_options
@timeout_option
def unload(*, name: str, versions: tuple[int, ...], force: bool, repository: Path, **values: Any) -> None:
    """Unload versions of a model, or the whole model if none is named.

    The repository's config then no longer names these versions, and every Triton of --triton-url drops them once it has
    answered what it has. A whole model is unloaded from the Tritons only: one that starts later loads it again, as long
    as its folder is in the repository.
    """
    with in_one_line(), alone(repository, name) as published:
        dropped = set(versions) or set(published.loaded)
        _require_there(published, dropped)
        if not force:
            require_unused(dropped, read(values["rollout_file"]).of(name))
        fleet = fleet_of(values, values["timeout_seconds"])
        left = set(published.loaded) - dropped
        if versions and not left:
            raise Refused(
                f"{_words(dropped)} is all that {name} loads, and Triton does not start on a model that loads nothing. "
                f"Load another version first, or unload the whole model: eagleeye model unload {name}"
            )
        if not versions and fleet is None:
            raise Refused(
                f"every Triton loads the models of its repository: name those that run with --triton-url, "
                f"and move {published.directory} away for those that will start"
            )
        if versions:
            _change(published, left, fleet)
            say(f"{name}: loaded are {_words(left)}")
        elif fleet is not None:
            run(fleet.change(name, ()))
            say(f"{name}: unloaded; a Triton that starts loads it again while {published.directory} is there")


def _change(published: PublishedModel, wanted: set[int], fleet: Fleet | None) -> None:
    """Let the repository name these versions, and every Triton load them, or leave everything as it was."""
    config = published.config
    names_file = config.default_model_filename or MODEL_FILE
    if config.backend == BACKEND and not all(
        (published.directory / str(version) / names_file).is_file() for version in wanted
    ):
        tell("a TensorRT plan is that of one version; ONNX serves until `eagleeye engine ensure` has run again")
        config = serving_onnx(config)
    if config.backend == _ONNX_BACKEND:
        _require_files(published, wanted, config.default_model_filename or MODEL_FILE)
    before = (published.directory / CONFIG_FILE).read_bytes()
    if find_model(published.directory.parent, published.directory.name) != published:
        raise Refused(f"{published.directory} was changed by somebody else just now; run this again")
    config = loading(config, wanted)
    after = before if config == published.config else as_text(config)
    if fleet is None:
        swap_config(published, before, after)
        done = "only the repository was changed" if after != before else "the repository has it so already"
        tell(f"{done}: a Triton that runs is told where --triton-url names it")
        return
    run(
        fleet.change(
            published.directory.name,
            wanted,
            lambda: swap_config(published, before, after),
            lambda: swap_config(published, after, before),
        )
    )


def _pin(values: Mapping[str, Any], name: str, ready: Mapping[str, frozenset[int]], wanted: set[int]) -> None:
    """Write down who answers now, before there is a newer version that would by default; nobody who is to go."""
    serving = newest_everywhere(ready)
    if serving not in wanted:
        return
    rollout = edit(values["rollout_file"], lambda rollout: pinned(rollout, name, serving))
    gateways_of(values).until_weights(name, shares(rollout.of(name).weights), values["timeout_seconds"])


# ------------------------------------------------------------------------------------------------- promote, roll back


@model.command()
@click.argument("name", metavar="MODEL")
@click.argument("version", type=_VERSION)
@click.option(
    "--percent",
    type=_PERCENT,
    default=100.0,
    help="Share of the requests; with less than 100 it is a canary beside what serves now.",
)
@repository_option
@required_rollout_option
@fleet_options
@gateway_options
@timeout_option
def promote(*, name: str, version: int, percent: float, rollout_file: Path, **values: Any) -> None:
    """Let a version answer requests that name none: all of them, or a share.

    It must be ready on every Triton of --triton-url; without, the repository must name it. Ends when every gateway of
    --url shows the new shares.
    """
    with in_one_line():
        _ask_gateways(name, values)
        with in_turn(values["repository"], name, rollout_file):
            ready = _ready(values, name)
            require_ready([version], ready)
            serving = newest_everywhere(ready, but=[version])

            def change(rollout: Rollout) -> Rollout:
                if serving is not None:
                    rollout = pinned(rollout, name, serving)
                weights = promotion(rollout.of(name).weights, version, percent)
                require_ready(weights, ready)
                return promoted(rollout, name, weights)

            rollout = edit(rollout_file, change)
        _show_shares(rollout, name, values)


@model.command()
@click.argument("name", metavar="MODEL")
@repository_option
@required_rollout_option
@fleet_options
@gateway_options
@timeout_option
def rollback(*, name: str, rollout_file: Path, **values: Any) -> None:
    """Go back to the shares before the last promotion, however many steps that had.

    Their versions must be ready on every Triton of --triton-url; without, the repository must name them. Ends when
    every gateway of --url shows them.
    """
    with in_one_line():
        _ask_gateways(name, values)
        with in_turn(values["repository"], name, rollout_file):
            ready = _ready(values, name)

            def change(rollout: Rollout) -> Rollout:
                before = rolled_back(rollout, name)
                require_ready(shares(before.of(name).weights), ready)
                return before

            rollout = edit(rollout_file, change)
        _show_shares(rollout, name, values)


@model.command()
@click.argument("name", metavar="MODEL")
@click.argument("version", type=_VERSION, required=False)
@click.option("--percent", type=_PERCENT, default=10.0, help="Share of the images that are compared.")
@click.option("--off", is_flag=True, help="End it.")
@repository_option
@required_rollout_option
@fleet_options
def shadow(*, name: str, version: int | None, percent: float, off: bool, rollout_file: Path, **values: Any) -> None:
    """Try a version in the shadow: it gets a share of the images as well, and its answers are only compared.

    `eagleeye model shadow-report` shows how far they agree. No caller waits for it.
    """
    if (version is None) != off:
        raise click.UsageError("name a version, or end it with --off")
    with in_one_line(), in_turn(values["repository"], name, rollout_file):
        if version is None:
            edit(rollout_file, lambda rollout: without_shadow(rollout, name))
            say(f"{name}: nothing runs in the shadow")
            return
        require_ready([version], _ready(values, name))
        edit(rollout_file, lambda rollout: with_shadow(rollout, name, version, percent))
    say(f"{name}: version {version} gets {percent:g} % of the images in the shadow")


def _ready(values: Mapping[str, Any], name: str) -> dict[str, frozenset[int]]:
    """The versions that each Triton serves; without any named, those that the repository names."""
    fleet = fleet_of(values, timeout_seconds=0)
    if fleet is not None:
        return run(fleet.ready(name))
    published = find_model(values["repository"], name)
    return {f"the Tritons of {values['repository']}": frozenset(published.loaded)}


def _ask_gateways(name: str, values: Mapping[str, Any]) -> None:
    """Fail while nothing is written yet, if a gateway can't be asked."""
    gateways_of(values).until_weights(name, {}, values["timeout_seconds"])


def _show_shares(rollout: Rollout, name: str, values: Mapping[str, Any]) -> None:
    percents = shares(rollout.of(name).weights)
    words = ", ".join(f"version {version} {percent:g} %" for version, percent in percents.items())
    try:
        gateways_of(values).until_weights(name, percents, values["timeout_seconds"])
    except GatewayError as error:
        raise Refused(f"the rollout file is written: {words or 'the newest version answers'}; but {error}") from error
    say(f"{name}: {words or 'the newest version answers'}")


# -------------------------------------------------------------------------------------------------------------- prune


@model.command()
@click.argument("name", metavar="MODEL")
@click.option("--keep", type=click.IntRange(min=1), default=3, help="How many of the newest versions stay in any case.")
@click.option("--dry-run", is_flag=True, help="Delete nothing, and show what would be.")
@repository_option
@rollout_option
def prune(*, name: str, keep: int, dry_run: bool, repository: Path, rollout_file: Path | None) -> None:
    """Delete versions that nobody needs.

    Those that are loaded, get requests, run in the shadow or would after a rollback stay, and so does the newest one:
    no number is used again.
    """
    with in_one_line(), alone(repository, name) as published:
        unneeded = prunable(published.versions, published.loaded, read(rollout_file).of(name), keep)
        if unneeded and not dry_run:
            remove_versions(published, unneeded)
    word = "would delete" if dry_run else "deleted"
    say(f"{name}: {word} {_words(unneeded)}" if unneeded else f"{name}: nothing to delete")


# ------------------------------------------------------------------------------------------------------ shadow report


@model.command("shadow-report")
@gateway_options
@json_option
@click.option("--picture", type=_FILE, help="File for a picture of it, PNG.")
def shadow_report_command(*, as_json: bool, picture: Path | None, **values: Any) -> None:
    """Show how far candidates in the shadow agree with the versions that answer, as each gateway has counted.

    --url names the port where a gateway has its metrics: the admin port, if there is one.
    """
    if not values["urls"]:
        raise click.UsageError("name at least one gateway with --url")
    with in_one_line():
        reports = gateways_of(values).get("/v1/shadow")
        found = dict(zip(values["urls"], reports, strict=True))
        for url, report in found.items():
            if "comparisons" not in report:
                raise Refused(f"{url}/v1/shadow answers what no gateway does")
        comparisons = [comparison for report in reports for comparison in report["comparisons"]]
        if picture is not None and comparisons:
            write_atomically(picture, shadow_report.draw(comparisons))
    if as_json:
        say(json.dumps(found, indent=1))
        return
    for url, report in found.items():
        say(f"{url}{'' if report['comparisons'] else ': nothing has run in the shadow'}")
        for comparison in report["comparisons"]:
            for line in shadow_report.lines(comparison):
                say(line)
            echo_table(shadow_report.rows(comparison))


# ------------------------------------------------------------------------------------------------------------- helpers


def _require_there(published: PublishedModel, versions: set[int]) -> None:
    if not published.versions:
        raise Refused(f"{published.directory} has no version at all: no folder there has a number from 1 on")
    if lacking := versions - set(published.versions):
        raise Refused(
            f"{published.directory} has no {_words(lacking)}; there are: {', '.join(map(str, published.versions))}"
        )


def _require_files(published: PublishedModel, versions: set[int], file_name: str) -> None:
    for version in sorted(versions):
        path = published.directory / str(version) / file_name
        if not path.is_file():
            raise Refused(f"version {version} has no file {path}")


def _words(versions: Sequence[int] | set[int]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(map(str, sorted(versions)))}"
