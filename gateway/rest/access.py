"""Keys on the REST face."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from gateway.access import Quota, act_for
from gateway.access import presented as presented_in
from gateway.rest.console import page
from gateway.rest.face import EVENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.access import Access

OPEN_PATHS: Final = frozenset(
    {"/docs", "/docs/style.css", "/openapi.json", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    | page.PATHS
)
"""What needs no key: probes, whose callers have none, and pages, where a newcomer learns that a key is needed.
`/metrics` is not among them, it names models and tells how they are used; an admin port serves it without a key."""

HEADERS: Final = ("RateLimit", "RateLimit-Policy")
"""As draft-ietf-httpapi-ratelimit-headers has them since its revision 08."""

KEY_PROTOCOL: Final = "eagleeye.key."
"""A page can set no header on a WebSocket, so it offers a subprotocol beside the one it wants: this and the key in
base64url. It is never chosen, so it does not come back."""

_QUOTA: Final = web.RequestKey("quota", Quota)
_POLICY: Final = '"key"'


def key_required(access: Access) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that lets only requests with a known key through, as often as that key may."""

    @web.middleware
    async def require_key(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            caller = access.identify(presented(request))
            request[EVENT]["key"] = caller.name
            act_for(caller)
            if quota := caller.take():
                request[_QUOTA] = quota
                quota.check()
        return await handler(request)

    return require_key


def presented(request: web.Request) -> str | None:
    """The secret that a request comes with: in a header, see `gateway.access.presented`, or as `KEY_PROTOCOL`."""
    return presented_in(request.headers) or _offered(request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, ""))


def _offered(protocols: str) -> str | None:
    for protocol in protocols.split(","):
        prefix, marker, encoded = protocol.strip().partition(KEY_PROTOCOL)
        if marker and not prefix:
            with suppress(ValueError):  # it is no base64, or no text
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    return None


async def add_quota(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the caller what is left of its quota, in every answer to a key that has one."""
    if quota := request.get(_QUOTA):
        limit, remaining = HEADERS[1], HEADERS[0]
        response.headers[limit] = f"{_POLICY};q={quota.limit};w={quota.window_seconds}"
        response.headers[remaining] = f"{_POLICY};r={quota.remaining};t={quota.reset_seconds}"
