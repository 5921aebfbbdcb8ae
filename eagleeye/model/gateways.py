"""What gateways say over REST, and waiting until all of them say what they should."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_POLL_SECONDS: Final = 0.2
_ASK_SECONDS: Final = 5.0
_SAME: Final = 1e-4  # percent, which a gateway may have rounded otherwise


class GatewayError(Exception):
    """A gateway can't be asked, or does not do what it should; the message says which, and why."""


class Gateways:
    """Some gateways.

    Args:
        urls: their addresses, http:// or https://.
        key: shown to them, if they ask for one.
        ca_certificate: PEM file of authorities to trust instead of the system's.

    Raises:
        GatewayError: an address is none, or the file can't be used.
    """

    def __init__(self, urls: Sequence[str], key: str | None = None, ca_certificate: Path | None = None) -> None:
        for url in urls:
            if not _is_address(url):
                raise GatewayError(f"{url!r} is no address of a gateway's REST face, such as http://127.0.0.1:8080")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise GatewayError("the key must be a text of printable ASCII characters")
        self._urls = [url.rstrip("/") for url in urls]
        self._headers = {"X-API-Key": key} if key else {}
        try:
            self._tls = ssl.create_default_context(cafile=ca_certificate)
        except OSError as error:
            raise GatewayError(f"cannot read the authorities in {ca_certificate}: {error.strerror or error}") from error

    def get(self, path: str) -> list[dict[str, Any]]:
        """What each of them answers.

        Raises:
            GatewayError: one can't be reached, or refuses.
        """
        return [self._get(url, path) for url in self._urls]

    def until_weights(self, model: str, shares: Mapping[int, float], timeout_seconds: float) -> None:
        """Wait until all of them give the versions of a model these percentages; without any, only ask.

        Raises:
            GatewayError: one does not in time; the message has what it says.
        """
        wanted = {str(version): share for version, share in shares.items()}
        for url in self._urls:
            self._until(url, lambda url=url: self._shares(url, model), wanted, timeout_seconds)  # type: ignore[misc]

    def _until(
        self, url: str, ask: Callable[[], dict[str, float]], wanted: dict[str, float], timeout_seconds: float
    ) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not _is_same(shown := ask(), wanted) and wanted:
            if time.monotonic() > deadline:
                raise GatewayError(
                    f"{url} still gives {_words(shown)} after {timeout_seconds:g} s, and not {_words(wanted)}: is it "
                    "started with --rollout-file, and does it read this very file?"
                )
            time.sleep(_POLL_SECONDS)

    def _shares(self, url: str, model: str) -> dict[str, float]:
        path = f"/v1/models/{quote(model, safe='')}"
        weights = self._get(url, path).get("weights", {})
        if not (isinstance(weights, dict) and all(isinstance(weight, int | float) for weight in weights.values())):
            raise GatewayError(f"{url}{path} answers what no gateway does")
        total = sum(weights.values())
        return {version: 100 * weight / total for version, weight in weights.items()} if total else {}

    def _get(self, url: str, path: str) -> dict[str, Any]:
        request = urllib.request.Request(url + path, headers=self._headers)  # noqa: S310 (checked: http or https)
        try:
            with urllib.request.urlopen(request, timeout=_ASK_SECONDS, context=self._tls) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise GatewayError(f"{url}{path} answers {error.code}{_detail(error.read())}") from error
        except http.client.BadStatusLine as error:
            raise GatewayError(f"{url} does not speak HTTP; name the port of the gateway's REST face") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise GatewayError(f"cannot ask {url}{path}: {reason}") from error
        if not isinstance(answer, dict):
            raise GatewayError(f"{url}{path} answers what no gateway does")
        return answer


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        return False


def _detail(body: bytes) -> str:
    """What a problem document says, if it is one."""
    try:
        return f": {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _is_same(shown: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return shown.keys() == wanted.keys() and all(abs(shown[version] - wanted[version]) < _SAME for version in shown)


def _words(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:g} % to version {version}" for version, share in shares.items()) or "no weights"
