"""Keys on the gRPC face."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
from tritonclient.grpc import service_pb2

from gateway import rpc_health
from gateway.access import act_for, presented
from gateway.errors import GatewayError, Overloaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.access import Access

_SERVICE: Final = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_CALLS: Final = frozenset(method.name for method in _SERVICE.methods)
_OPEN: Final = frozenset(
    {
        *(f"/{rpc_health.SERVICE}/{call}" for call in ("Check", "Watch")),
        *(f"/{_SERVICE.full_name}/{call}" for call in ("ServerLive", "ServerReady")),
    }
)
"""What probes call: it tells nothing of models, and an orchestrator has no key."""
_RETRY_AFTER_SECONDS: Final = 1


class KeyRequired(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets only calls with a known key through, as often as that key may; reflection needs one as well.

    Args:
        access: knows the keys.
        refuse: fails the call of a context, named by its method, with an error.
        max_keyless_calls: most open calls of those that need no key, so that strangers who leave theirs open, be they
            streams or calls whose message never comes, keep nobody out who has one. None for no such limit.
    """

    def __init__(
        self,
        access: Access,
        refuse: Callable[[Any, str, GatewayError], Awaitable[None]],
        max_keyless_calls: int | None = None,
    ) -> None:
        self._access = access
        self._refuse = refuse
        self._max_keyless_calls = max_keyless_calls
        self._keyless_calls = 0

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any | None:
        """The call's own handler, or one that refuses it."""
        try:
            if handler_call_details.method in _OPEN:
                self._count_keyless()
            else:
                self._let_in(dict(handler_call_details.invocation_metadata))
        except GatewayError as error:
            return self._refusal(handler_call_details.method, error)
        return await continuation(handler_call_details)

    def _count_keyless(self) -> None:
        """Count a call until it ends. That is when its task does, in which gRPC runs interceptor and handler."""
        if self._max_keyless_calls is not None and self._keyless_calls >= self._max_keyless_calls:
            words = f"{self._keyless_calls} calls without a key are open, which are as many as may be"
            raise Overloaded(words, _RETRY_AFTER_SECONDS)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine runs in one)
        self._keyless_calls += 1
        task.add_done_callback(self._uncount_keyless)

    def _uncount_keyless(self, _: asyncio.Task[Any]) -> None:
        self._keyless_calls -= 1

    def _let_in(self, metadata: dict[str, str]) -> None:
        caller = self._access.identify(presented(metadata))
        act_for(caller)
        if quota := caller.take():
            quota.check()

    def _refusal(self, method: str, error: GatewayError) -> Any:
        """A handler that fails. As one of streams it fits each kind of call, and never waits for a large message."""
        call = method.rpartition("/")[2]

        async def refuse(_: Any, context: Any) -> None:
            await self._refuse(context, call if call in _CALLS else "other", error)

        return grpc.stream_stream_rpc_method_handler(refuse)
