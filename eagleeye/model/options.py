"""Options that several subcommands of `eagleeye model` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from eagleeye.options import environment_name
from gateway.settings import DnsServer, Seconds, TritonUrl

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


def _option(name: str, text: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option that is also an environment variable."""
    variable = environment_name(attributes.pop("setting", name.strip("-").replace("-", "_")))
    return click.option(name, envvar=variable, show_envvar=True, help=text, **attributes)


repository_option: Final = _option(
    "--repository",
    "Triton's model repository.",
    setting="model_repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("model_repository"),
)
_ROLLOUT_HELP: Final = "The file that the gateways watch (their option of the same name)."
rollout_option: Final = _option("--rollout-file", _ROLLOUT_HELP, type=_FILE)
required_rollout_option: Final = _option("--rollout-file", _ROLLOUT_HELP, type=_FILE, required=True)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
timeout_option: Final = click.option(
    "--timeout-seconds",
    type=Seconds(min=0, min_open=True, max=86_400),  # more than gRPC's clock holds would be over at once
    default=600.0,
    help="Longest time for each Triton to load, and for gateways to follow, in seconds.",
)


def fleet_options(command: Command) -> Command:
    """Where the Tritons are."""
    server = _option(
        "--dns-server",
        "address:port of the DNS server; those of /etc/resolv.conf without.",
        type=DnsServer(),
        default="",
        show_default=False,
    )
    url = _option(
        "--triton-url",
        "gRPC services of all Tritons: host:port, several separated by commas; or dns://name:port.",
        type=TritonUrl(),
    )
    return url(server(command))


def gateway_options(command: Command) -> Command:
    """Where the gateways are, and how to be let in."""
    certificate = click.option(
        "--ca-certificate",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="PEM file of authorities to trust instead of the system's.",
    )
    key = _option("--key", "Key for gateways that ask for one.")
    url = click.option(
        "--url",
        "urls",
        multiple=True,
        help="Address of a gateway, http:// or https://; may be repeated. The command ends when all of them follow.",
    )
    return url(key(certificate(command)))
