"""All Tritons as one predictor: who takes a request, and what is done when that one fails."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from gateway.errors import DeadlineExceeded, ModelNotFound, TritonUnavailable
from gateway.model import find
from gateway.triton import catalogue
from gateway.triton.balancer import pick, usable
from gateway.triton.budget import RetryBudget
from gateway.triton.discovery import LookFailed
from gateway.triton.endpoint import Endpoint
from gateway.triton.failure import CallFailed, Reason, just_replaced
from gateway.triton.health import State
from gateway.triton.latency import LatencyQuantile
from gateway.triton.messages import Question, infer_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from gateway.deadline import Deadline
    from gateway.detections import RawPredictions
    from gateway.image import UInt8Array
    from gateway.metrics import Metrics
    from gateway.model import Model
    from gateway.triton.discovery import Discovery
    from gateway.triton.gpu import GpuUse
    from gateway.triton.shared_memory import SharedMemory

_EXPECTED_BACK_SECONDS: Final = 30.0  # a Triton that crashed has been started anew and has loaded its models by then
_FIRST_PAUSE_SECONDS: Final = 0.05  # before an endpoint is asked again: about what a probe takes to tell how it is
_LAST_PAUSE_SECONDS: Final = 1.0
_LOOK_AGAIN_SECONDS: Final = 1.0  # at what is expected back, which shrinks without an event
_BATCHES_PER_ENDPOINT: Final = 2  # one in work, and one that waits for it
_HEDGE: Final = "hedge"

_log = structlog.get_logger()


@dataclass(slots=True)
class _Request:
    """One inference on its way to an answer.

    Attributes:
        is_replaceable: whether another version would do as well.
        tried: the endpoints that have failed it since the last pause.
        pauses: how often all that could be asked had failed it.
        failure: the last of these failures.
    """

    question: Question
    deadline: Deadline
    is_replaceable: bool
    tried: set[Endpoint] = field(default_factory=set)
    pauses: int = 0
    failure: CallFailed | None = None

    @property
    def model(self) -> Model:
        """Which is asked."""
        return self.question.model

    @property
    def version(self) -> int:
        """Of the model."""
        return self.question.version

    def remaining_seconds(self) -> float:
        """What is left of the deadline.

        Raises:
            GatewayError: nothing; it says what has kept the request from being answered.
        """
        try:
            return self.deadline.remaining_seconds()
        except DeadlineExceeded:
            if self.failure:
                raise self.failure.error from None
            raise


class Fleet:
    """The predictor, see `gateway.detector.Predictor`, on all Tritons that `discovery` names.

    A request goes to the endpoint with less outstanding work of two. If that one breaks, stops, stalls or can't do it,
    the next one is asked, for as long as the deadline and the retry budget allow. While none is there that served the
    model until a moment ago, the request waits for one to come back.
    """

    def __init__(
        self,
        discovery: Discovery,
        metrics: Metrics,
        *,
        look_interval_seconds: float = 1.0,
        hedge_quantile: float | None = None,
        gpu_use: GpuUse | None = None,
        memory: SharedMemory | None = None,
    ) -> None:
        self._discovery = discovery
        self._metrics = metrics
        self._look_interval_seconds = look_interval_seconds
        self._gpu_use = gpu_use
        self._memory = memory
        self._hedge_after = None if hedge_quantile is None else LatencyQuantile(hedge_quantile)
        self._random = random.Random()  # noqa: S311 (which endpoint is asked is no secret)
        self._budget = RetryBudget()
        self._endpoints: dict[str, Endpoint] = {}
        self._departed: list[tuple[float, Mapping[str, Model]]] = []  # (when it was well for the last time, its models)
        self._models: Mapping[str, Model] = {}
        self._expected_models: Mapping[str, Model] = {}
        self._capacities: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._look_error: str | None = None

    async def __aenter__(self) -> Self:
        await self._look()
        self._looking = asyncio.create_task(self._keep_looking(), name="look for Tritons")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(self._close(endpoint) for endpoint in list(self._endpoints.values())))

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that are served now, by name."""
        return self._models

    @property
    def expected_models(self) -> Mapping[str, Model]:
        """Those, and what was served until a moment ago by a Triton that should come back."""
        return self._expected_models

    def find(self, name: str | None, version: int | None) -> tuple[Model, int]:
        """See `gateway.detector.Predictor.find`. Finds what is expected back, too: `predict` waits for it."""
        return find(self.expected_models, name, version)

    async def until_served(self) -> None:
        """See `gateway.detector.Predictor.until_served`."""
        while not self._models:
            await self._changed.wait()

    async def predict(
        self, model: Model, version: int, tensor: UInt8Array, deadline: Deadline, *, is_replaceable: bool = False
    ) -> RawPredictions:
        """See `gateway.detector.Predictor.predict`."""
        self._budget.deposit()
        with self._memory.lend(tensor) if self._memory else nullcontext() as slot:
            return await self._answer(_Request(Question(model, version, tensor, slot), deadline, is_replaceable))

    async def _answer(self, request: _Request) -> RawPredictions:
        while True:
            endpoint = await self._endpoint_for(request)
            if request.failure:
                self._count_retry(request.failure)
            try:
                return await self._ask(endpoint, request)
            except CallFailed as failure:
                if failure.reason is Reason.DEADLINE:
                    raise failure.error from failure
                request.failure = failure
                request.tried.add(endpoint)

    async def predict_once(self, model: Model, version: int, tensor: UInt8Array, deadline: Deadline) -> RawPredictions:
        """See `gateway.shadow.CandidatePredictor`. It neither pays into the retry budget nor takes anything out."""
        serving = [endpoint for endpoint in self._serving(model, version) if not endpoint.is_ejected]
        if not serving:
            raise ModelNotFound(f"no Triton serves version {version} of {model.name} with the same interface")
        try:
            message = infer_request(model, version, tensor)
            return await pick(serving, self._random).infer_once(message, model, deadline)
        except CallFailed as failure:
            raise failure.error from failure

    def capacity(self, model: str) -> int:
        """How many images of a model keep all that serve it busy: for each a batch in work, and one that waits for it.

        As before, while nobody serves it.
        """
        return self._capacities.get(model, 1)

    def describe(self) -> dict[str, Any]:
        """What operators get to know: the state of each endpoint, and what is left of the retry budget."""
        return {
            "endpoints": [endpoint.describe() for _, endpoint in sorted(self._endpoints.items())],
            "discovery_error": self._look_error,
            "retry_budget": round(self._budget.balance, 1),
            "shared_memory": self._memory.describe() if self._memory else None,
        }

    async def statistics(self) -> dict[str, dict[str, Any]]:
        """What each Triton says of itself by now, see `Endpoint.statistics`; empty where it says nothing."""
        endpoints = list(self._endpoints.values())
        answers = await asyncio.gather(*(endpoint.statistics() for endpoint in endpoints))
        return {endpoint.address: answer for endpoint, answer in zip(endpoints, answers, strict=True)}

    async def gpu_use(self) -> dict[str, float | None]:
        """How busy each Triton's GPUs are, see `GpuUse.of`; None for all if nobody knows where to ask."""
        addresses = list(self._endpoints)
        if self._gpu_use is None:
            return dict.fromkeys(addresses)
        return dict(zip(addresses, await asyncio.gather(*map(self._gpu_use.of, addresses)), strict=True))

    # one request

    async def _endpoint_for(self, request: _Request) -> Endpoint:
        """The endpoint that takes a request now, or as soon as there is one.

        Raises:
            GatewayError: nobody will, or not in time.
        """
        while True:
            seconds = request.remaining_seconds()
            serving = usable(self._serving(request.model, request.version))
            if untried := [endpoint for endpoint in serving if endpoint not in request.tried]:
                return pick(untried, self._random)
            if serving and request.failure and request.failure.is_final:
                raise request.failure.error
            if serving:
                await self._pause(request, seconds)
            else:
                await self._until_change(request, seconds)

    def _count_retry(self, failure: CallFailed) -> None:
        """Take a retry out of the budget.

        Raises:
            GatewayError: it is empty; what the failed call has come to, then.
        """
        if not self._budget.withdraw():
            raise failure.error
        self._metrics.triton_retries.labels(failure.reason).inc()

    async def _pause(self, request: _Request, seconds: float) -> None:
        """Give endpoints that have all failed a request a moment, before they are asked again."""
        pause = min(_FIRST_PAUSE_SECONDS * 2**request.pauses, _LAST_PAUSE_SECONDS) * self._random.uniform(0.5, 1)
        request.pauses += 1
        request.tried.clear()
        await asyncio.sleep(min(pause, seconds))

    async def _until_change(self, request: _Request, seconds: float) -> None:
        """Wait while nobody serves a request, if somebody is expected to.

        Raises:
            GatewayError: nobody is, or nobody came in time.
        """
        request.tried.clear()
        is_expected = catalogue.serves(self.expected_models, request.model, request.version)
        if request.model.name in self.models and (request.is_replaceable or not is_expected):
            raise just_replaced(request.model)
        if not is_expected:
            raise request.failure.error if request.failure else _nobody(request.model)
        try:
            async with asyncio.timeout(min(seconds, _LOOK_AGAIN_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            if seconds <= _LOOK_AGAIN_SECONDS:
                raise _nobody(request.model) from None

    async def _ask(self, endpoint: Endpoint, request: _Request) -> RawPredictions:
        if self._hedge_after is None:
            return await self._infer(endpoint, request)
        first = asyncio.create_task(self._infer(endpoint, request))
        calls = [first]
        try:
            if self._hedge_after.seconds is not None:
                await asyncio.wait(calls, timeout=self._hedge_after.seconds)
            if not first.done() and self._hedge_after.seconds is not None and (other := self._other(endpoint, request)):
                self._metrics.triton_retries.labels(_HEDGE).inc()
                calls.append(asyncio.create_task(self._infer(other, request)))
            return await _first_success(calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _other(self, endpoint: Endpoint, request: _Request) -> Endpoint | None:
        """An endpoint for a second call while the first is under way, if there is one and the budget has room."""
        serving = usable(self._serving(request.model, request.version))
        others = [each for each in serving if each is not endpoint and each not in request.tried]
        return pick(others, self._random) if others and self._budget.withdraw() else None

    async def _infer(self, endpoint: Endpoint, request: _Request) -> RawPredictions:
        start = time.monotonic()
        result = await endpoint.infer(request.question, request.deadline)
        if self._hedge_after is not None:
            self._hedge_after.add(time.monotonic() - start)
        return result

    # all endpoints

    def _takers(self) -> list[Endpoint]:
        """The endpoints that are not on their way out."""
        return [endpoint for endpoint in self._endpoints.values() if not endpoint.health.is_draining]

    def _serving(self, model: Model, version: int) -> Iterator[Endpoint]:
        return (endpoint for endpoint in self._takers() if catalogue.serves(endpoint.models, model, version))

    def _on_change(self) -> None:
        """Wake the requests that wait for an endpoint, and free those that hang on one that stands still."""
        self._join_models()
        self._changed.set()
        self._changed = asyncio.Event()
        for endpoint in self._endpoints.values():
            if endpoint.health.is_stalled:
                endpoint.take_back(partial(self._is_served_beside, endpoint))

    def _join_models(self) -> None:
        since = time.monotonic() - _EXPECTED_BACK_SECONDS
        self._departed = [(ready_at, models) for ready_at, models in self._departed if ready_at > since]
        away = [
            endpoint.last_models
            for endpoint in self._takers()
            if not endpoint.health.is_serving and endpoint.ready_at > since
        ]
        remembered = catalogue.join([*away, *(models for _, models in self._departed)])
        self._models = catalogue.join(endpoint.models for endpoint in self._takers())
        self._expected_models = catalogue.complete(self._models, remembered)
        self._capacities = {
            name: _BATCHES_PER_ENDPOINT * catalogue.batched(name, (endpoint.models for endpoint in self._takers()))
            or self._capacities.get(name, 1)
            for name in self._expected_models
        }

    def _is_served_beside(self, stalled: Endpoint, model: Model, version: int) -> bool:
        return any(
            endpoint is not stalled and endpoint.health.state in {State.WARMING, State.SERVING}
            for endpoint in self._serving(model, version)
        )

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._look_interval_seconds)
            await self._look()

    async def _look(self) -> None:
        """Ask where the Tritons are, and take up what has changed."""
        try:
            await self._take_over(await self._discovery.look())
        except LookFailed as error:
            if self._look_error is None:
                _log.warning("discovery failed; the known Tritons stay", reason=str(error))
            self._look_error = str(error)
        except Exception as error:  # noqa: BLE001 (an answer that nobody thought of must not end the looking)
            _log.exception("unexpected error")
            self._look_error = str(error)
        else:
            self._look_error = None
        self._join_models()  # what was expected back may be so no longer

    async def _take_over(self, addresses: frozenset[str]) -> None:
        for address, endpoint in list(self._endpoints.items()):
            is_gone = address not in addresses
            if endpoint.health.is_draining and is_gone and not endpoint.outstanding:
                await self._close(endpoint)
                _log.info("triton closed", endpoint=address)
            elif endpoint.health.is_draining != is_gone:
                self._drain(endpoint, is_draining=is_gone)
        await asyncio.gather(*(self._open(address) for address in addresses - self._endpoints.keys()))

    def _drain(self, endpoint: Endpoint, *, is_draining: bool) -> None:
        event = "triton removed; it finishes what it has" if is_draining else "triton added again"
        _log.info(event, endpoint=endpoint.address, outstanding=endpoint.outstanding)
        if is_draining:
            self._departed.append((endpoint.ready_at, endpoint.last_models))
        endpoint.drain(is_draining=is_draining)

    async def _open(self, address: str) -> None:
        endpoint = Endpoint(address, self._metrics, self._on_change, self._budget.grant, self._memory)
        self._endpoints[address] = endpoint
        await endpoint.__aenter__()

    async def _close(self, endpoint: Endpoint) -> None:
        await endpoint.__aexit__(None, None, None)
        del self._endpoints[endpoint.address]
        self._metrics.forget_endpoint(endpoint.address)


async def _first_success(calls: list[asyncio.Task[RawPredictions]]) -> RawPredictions:
    """The first result of some calls.

    Raises:
        CallFailed: all have failed; the first call's failure.
    """
    pending = set(calls)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for call in done:
            if call.exception() is None:
                return call.result()
    return calls[0].result()


def _nobody(model: Model) -> TritonUnavailable:
    return TritonUnavailable(f"no Triton serves {model.name} at the moment; try again shortly")
