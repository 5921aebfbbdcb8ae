"""The REST interface, from the OpenAPI document of a gateway that is started for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from eagleeye.options import without_settings
from gateway.rest.openapi import page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_COMMAND: Final = (
    *(sys.executable, "-m", "eagleeye", "gateway", "--triton-url=127.0.0.1:1", "--http-port=0", "--grpc-port=0"),
    *("--drain-seconds=0", "--grace-seconds=1", "--log-format=json"),
)
_URL: Final = "http://127.0.0.1:8080"
"""The address in examples, as everywhere in these pages."""


def markdown() -> str:
    """A section for each group of routes, one below it for each operation, and one for each record."""
    document = openapi()
    parts = [_html(page.prose(document["info"]["description"]))]
    for tag in document["tags"]:
        parts += [f"## {tag['name']}", _html(page.prose(tag["description"])), *_operations(document, tag["name"])]
    records = document["components"]["schemas"]
    parts += ["## Data", *(f"### {name} {{ #{name} }}\n\n{_html(page.fields(each))}" for name, each in records.items())]
    return "\n\n".join(parts)


def openapi() -> dict[str, Any]:
    """The OpenAPI document of a gateway with default settings, no keys and no Triton, so that models are made up."""
    with _gateway() as url, urlopen(f"{url}/openapi.json") as response:  # noqa: S310 (our own)
        document: dict[str, Any] = json.loads(response.read().decode().replace(url, _URL))
    return document


@contextmanager
def _gateway() -> Iterator[str]:
    """A gateway's address while it runs."""
    environment = without_settings(os.environ)
    process = subprocess.Popen(_COMMAND, stderr=subprocess.PIPE, env=environment, text=True)  # noqa: S603 (our own)
    try:
        yield _listening(process)
    finally:
        process.terminate()
        process.communicate()


def _listening(process: subprocess.Popen[str]) -> str:
    """The address that the gateway's log tells."""
    said = []
    for line in process.stderr or ():
        said.append(line)
        if line.startswith("{") and "url" in (event := json.loads(line)):
            return str(event["url"])
    raise RuntimeError(f"the gateway ended before it listened; it said: {''.join(said)}")


def _operations(document: Mapping[str, Any], tag: str) -> list[str]:
    return [
        f"### {method.upper()} {path} {{ #{operation['operationId']} }}\n\n{_html(page.details(operation))}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict) and tag in operation.get("tags", ())
    ]


def _html(text: str) -> str:
    """HTML that stands in a page as it is."""
    return f'<div class="generated">{text}</div>'
