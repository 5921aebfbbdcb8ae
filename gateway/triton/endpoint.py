"""One Triton: its channel, what it serves now, and inference on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import grpc
import structlog
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import tracing
from gateway.errors import InvalidPrediction
from gateway.triton.attachment import Attachment, RegionUnknown
from gateway.triton.contract import ContractError, parse_model
from gateway.triton.failure import CallFailed, Reason, could_not_run, is_stopping, read_failure
from gateway.triton.health import Health, State
from gateway.triton.messages import predictions
from gateway.triton.short_calls import ShortCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from gateway.deadline import Deadline
    from gateway.detections import RawPredictions
    from gateway.metrics import Metrics
    from gateway.model import Model
    from gateway.triton.messages import Question
    from gateway.triton.shared_memory import SharedMemory

    Call: TypeAlias = grpc.aio.Call | asyncio.Future[service_pb2.ModelInferResponse]

_PROBE_INTERVAL_SECONDS: Final = 0.5
_PROBE_TIMEOUT_SECONDS: Final = 1.0  # with the interval: a Triton that stalls is known to within 1.5 s
_STATISTICS_TIMEOUT_SECONDS: Final = 0.5  # they are asked for every second
_LATE_SECONDS: Final = 0.25  # our own loop came so much too late: what seems a stall of Triton may be ours
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC's own pace, up to two minutes between attempts, would leave a restarted Triton idle for as long; and an
    # attempt would get 20 s, while a pod's address that nobody answers at yet may work the next moment
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),  # 30 s by itself: a restarted pod's name has a new address
    ("grpc.keepalive_time_ms", 10_000),  # notices a machine that vanished without a word
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # gRPC 1.85 was seen to wait for a minute without it
    ("grpc.use_local_subchannel_pool", 1),  # an endpoint that went and came again does not inherit a broken connection
    ("grpc.enable_http_proxy", 0),  # a proxy for the world outside can't reach a pod
)

_NOBODY: Final = "Connection refused"  # which a frozen process does not say

SHARED_MEMORY: Final = "shared_memory"
MESSAGE: Final = "message"
"""The ways in which tensors reach Triton."""

_log = structlog.get_logger()


class Endpoint:
    """The Triton whose gRPC service is at `address` (`host:port`).

    While entered, it probes twice a second which detectors are ready, and `on_change` is called whenever it becomes
    better or worse for calls; `on_loss` with the number of its calls when these are as good as lost.
    What lies in `memory` is not sent, as soon as Triton shares that.
    """

    def __init__(
        self,
        address: str,
        metrics: Metrics,
        on_change: Callable[[], None] = lambda: None,
        on_loss: Callable[[int], None] = lambda _: None,
        memory: SharedMemory | None = None,
    ) -> None:
        self.address = address
        self.models: Mapping[str, Model] = {}
        """What it serves now; empty unless it is ready."""
        self.last_models: Mapping[str, Model] = {}
        """What it served when it was ready for the last time."""
        self.ready_at = float("-inf")
        """When that was, in seconds of `time.monotonic`."""
        self.health = Health()
        self._metrics = metrics
        self._on_change = on_change
        self._on_loss = on_loss
        self._attachment = Attachment(memory, address) if memory else None
        self._attaching: asyncio.Task[None] | None = None
        self._refused: dict[str, str] = {}  # models that are no detectors, and why: said once, not with every probe
        self._calls: dict[Call, tuple[Model, int]] = {}
        self._taken_back: set[Call] = set()
        self._probed = asyncio.Event()
        self._probe_now = asyncio.Event()
        self._up = metrics.endpoint_up.labels(address)
        self._up.set(0)

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # as the stub's own, but for requests that are bytes already
        read = service_pb2.ModelInferResponse.FromString
        self._infer = self._channel.unary_unary(_INFER, response_deserializer=read)
        self._infer_shortly = ShortCalls(self.address, _INFER, response_deserializer=read)
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self.address}")
        await self._probed.wait()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._watching, self._attaching) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._attachment:
            await self._attachment.close(self._triton)
        await self._infer_shortly.close()
        await self._channel.close()

    # what the balancer asks

    @property
    def is_ejected(self) -> bool:
        """See `gateway.triton.balancer.Candidate`."""
        return self.health.is_ejected

    @property
    def ejections(self) -> int:
        """See `gateway.triton.balancer.Candidate`."""
        return self.health.ejections

    @property
    def share(self) -> float:
        """See `gateway.triton.balancer.Candidate`."""
        return self.health.share

    @property
    def outstanding(self) -> int:
        """See `gateway.triton.balancer.Candidate`."""
        return self.health.outstanding

    async def infer(self, question: Question, deadline: Deadline) -> RawPredictions:
        """Run one inference; its tensor goes through shared memory if it can, else with the message.

        Raises:
            CallFailed: there is no answer, or it is not as it must be.
        """
        if self._attachment is None:
            return await self._ask(question, question.message(), deadline)
        slot, region = question.slot, self._attachment.region
        if slot is not None and region is not None:
            self._metrics.triton_tensors.labels(self.address, SHARED_MEMORY).inc()
            with contextlib.suppress(RegionUnknown), self._attachment.reading(slot):
                return await self._ask(question, question.message_about(slot, region), deadline, region)
        self._metrics.triton_tensors.labels(self.address, MESSAGE).inc()
        return await self._ask(question, question.message(), deadline)

    async def _ask(
        self, question: Question, message: bytes, deadline: Deadline, region: str | None = None
    ) -> RawPredictions:
        """Send a message about a question.

        Raises:
            CallFailed: there is no answer, or it is not as it must be.
            RegionUnknown: Triton knows no `region`.
        """
        model, version = question.model, question.version
        start = time.monotonic()
        is_short = region is not None and self._infer_shortly.takes(len(message))
        infer = self._infer_shortly if is_short else self._infer
        call = infer(message, timeout=deadline.remaining_seconds(), metadata=tuple(tracing.headers().items()))
        outcome = "cancelled"
        with self._counted(call, model, version):
            try:
                response = await call
                result = self._read(response, model, version)
                self.health.answered(time.monotonic() - start)
                outcome = "ok"
            except grpc.aio.AioRpcError as error:
                if region is not None and region in (error.details() or ""):
                    outcome = "unshared"
                    self.health.progressed()
                    raise RegionUnknown from error
                failure = self._judge(error, model, deadline, time.monotonic() - start)
                outcome = failure.reason
                raise failure from error
            except CallFailed as failure:
                outcome = failure.reason
                raise
            except asyncio.CancelledError:
                if call not in self._taken_back or _is_cancelled():
                    raise
                outcome = Reason.STALLED
                raise CallFailed(Reason.STALLED, could_not_run(model)) from None
            finally:
                self._metrics.triton_requests.labels(self.address, outcome).inc()
        return result

    async def infer_once(self, request: bytes, model: Model, deadline: Deadline) -> RawPredictions:
        """Run one inference that says nothing about this Triton: it counts neither as work nor as a success or failure.

        So a candidate that fails or hangs does not cost the versions beside it their Triton.

        Raises:
            CallFailed: there is no answer, or it is not as it must be.
        """
        try:
            return predictions(await self._infer(request, timeout=deadline.remaining_seconds()), model)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise CallFailed(Reason.DEADLINE, deadline.exceeded()) from error
            raise read_failure(error, model) from error
        except ValueError as error:
            raise CallFailed(Reason.INVALID, _broken(model)) from error
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise CallFailed(Reason.CONNECTION, could_not_run(model)) from None  # the channel has been closed

    def take_back(self, is_served_elsewhere: Callable[[Model, int], bool]) -> None:
        """Cancel the calls that others can answer: they fail as stalled."""
        for call, (model, version) in list(self._calls.items()):
            if call not in self._taken_back and is_served_elsewhere(model, version):
                self._taken_back.add(call)
                call.cancel()

    def drain(self, *, is_draining: bool) -> None:
        """Take no new calls from now on, or take them again."""
        self.health.is_draining = is_draining
        self._on_change()

    def describe(self) -> dict[str, Any]:
        """What operators get to know of it."""
        health = self.health
        return {
            "endpoint": self.address,
            "state": health.state,
            "reason": health.reason or None,
            "models": {name: [str(version) for version in self.models[name].versions] for name in sorted(self.models)},
            "outstanding": health.outstanding,
            "share": round(health.share, 3) if health.state in {State.WARMING, State.SERVING} else 0.0,
            "latency_ms": None if health.latency_seconds is None else round(health.latency_seconds * 1e3, 3),
            "ejections": health.ejections,
            "tensors_by": SHARED_MEMORY if self._attachment and self._attachment.region else MESSAGE,
        }

    async def statistics(self) -> dict[str, Any]:
        """What it says of itself: totals of all that it serves, since each was loaded. Empty if it does not say.

        `inferences`; `executions`, each of one batch; `queue_seconds`, which all inferences together waited for one.
        """
        if not self.models:
            return {}
        try:
            answer = await self._triton.ModelStatistics(
                service_pb2.ModelStatisticsRequest(), timeout=_STATISTICS_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError:
            return {}
        served = [each for each in answer.model_stats if each.name in self.models]
        return {
            "inferences": sum(each.inference_count for each in served),
            "executions": sum(each.execution_count for each in served),
            "queue_seconds": sum(each.inference_stats.queue.ns for each in served) / 1e9,
        }

    @contextlib.contextmanager
    def _counted(self, call: Call, model: Model, version: int) -> Iterator[None]:
        outstanding = self._metrics.triton_outstanding.labels(self.address)
        self._calls[call] = (model, version)
        self.health.began()
        outstanding.set(self.health.outstanding)
        try:
            yield
        finally:
            self.health.ended()
            outstanding.set(self.health.outstanding)
            del self._calls[call]
            self._taken_back.discard(call)

    def _read(self, response: service_pb2.ModelInferResponse, model: Model, version: int) -> RawPredictions:
        try:
            return predictions(response, model)
        except ValueError as error:
            self._failed("an answer that breaks the model contract", model, version=version, reason=str(error))
            raise CallFailed(Reason.INVALID, _broken(model)) from error

    def _judge(self, error: grpc.aio.AioRpcError, model: Model, deadline: Deadline, seconds: float) -> CallFailed:
        """What a failed inference says about this Triton, and means for the call."""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            if self.health.timed_out(seconds):
                self._ejected()
            return CallFailed(Reason.DEADLINE, deadline.exceeded())
        failure = read_failure(error, model)
        match failure.reason:
            case Reason.CONNECTION:
                if self.health.is_serving:  # the first call that breaks counts; all others break with it
                    self._lose("the connection broke")
                    self._fail(error.details() or error.code().name)
                self._probe_now.set()
            case Reason.STOPPING:
                self.health.progressed()
                self._leave("it is stopping")
            case Reason.ERROR:
                self._failed("an error", model, status=error.code().name, reason=error.details())
            case Reason.REPLACED | Reason.NOT_FOUND:
                self.health.progressed()
                self._probe_now.set()
            case _:
                self.health.progressed()
        return failure

    def _failed(self, what: str, model: Model, **fields: object) -> None:
        """An inference went wrong here in a way that is told. Triton's own words go to the log, not to the answer."""
        _log.error("inference failed", endpoint=self.address, model=model.name, **fields)
        self.health.progressed()
        self._fail(what)

    def _fail(self, reason: str) -> None:
        if self.health.failed(reason):
            self._ejected()

    async def _watch(self) -> None:
        await self._probe()
        self._probed.set()
        while True:
            start = time.monotonic()
            # not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL_SECONDS):
                    await self._probe_now.wait()
            self._probe_now.clear()
            is_late = time.monotonic() - start > _PROBE_INTERVAL_SECONDS + _LATE_SECONDS
            if not is_late and self.health.stalls():
                self._on_loss(self.health.outstanding)
                self._ejected()
            await self._probe()

    async def _probe(self) -> None:
        """Bring `models` up to date. Whatever Triton answers, the next probe comes."""
        start = time.monotonic()
        try:
            self._serve(await self._look())
        except grpc.aio.AioRpcError as error:
            if is_stopping(error):
                self._leave("it is stopping, or loads its models")
            elif error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self._lose(error.details() or error.code().name)
                if self._attachment and _NOBODY in (error.details() or ""):
                    self._attachment.died()
            elif not self.health.has_progressed_since(start) and not _is_late(start):
                self._lose(f"no answer to a probe within {_PROBE_TIMEOUT_SECONDS:g} s", is_stalled=True)
        except Exception:  # noqa: BLE001 (an answer that nobody thought of must not end the watch)
            _log.exception("unexpected error", endpoint=self.address)
            self._leave("its answer to the probe was not understood")

    async def _look(self) -> dict[str, Model]:
        """Ask which models are ready, and read their configs: one may change while its version stays."""
        ready = await self._ready_versions()
        models = {name: await self._read_config(name, versions) for name, versions in ready.items()}
        return {name: model for name, model in models.items() if model is not None}

    async def _ready_versions(self) -> dict[str, tuple[int, ...]]:
        index = await self._triton.RepositoryIndex(
            service_pb2.RepositoryIndexRequest(ready=True), timeout=_PROBE_TIMEOUT_SECONDS
        )
        names = {entry.name for entry in index.models}
        return {
            name: tuple(sorted(int(entry.version) for entry in index.models if entry.name == name)) for name in names
        }

    async def _read_config(self, name: str, versions: tuple[int, ...]) -> Model | None:
        """The model's contract, or None for a model that is no detector: it is Triton's, and not ours to serve."""
        request = service_pb2.ModelConfigRequest(name=name)
        response = await self._triton.ModelConfig(request, timeout=_PROBE_TIMEOUT_SECONDS)
        try:
            return parse_model(response.config, versions)
        except ContractError as error:
            if self._refused.get(name) != str(error):
                _log.warning("model not served", endpoint=self.address, model=name, reason=str(error))
            self._refused[name] = str(error)
            return None

    def _serve(self, models: dict[str, Model]) -> None:
        if not models:
            self._leave("it serves no detector")
            return
        self._attach()
        is_news = self.health.ready()
        if is_news or models != self.models:
            served = {name: list(model.versions) for name, model in sorted(models.items())}
            _log.info("triton serves", endpoint=self.address, state=self.health.state, models=served)
        is_news |= models != self.models
        self.models = self.last_models = models
        self.ready_at = time.monotonic()
        self._up.set(1)
        if is_news:
            self._on_change()

    def _attach(self) -> None:
        """See to it that Triton shares the memory, beside all else: nobody waits for that."""
        if self._attachment and self._attachment.is_due and (self._attaching is None or self._attaching.done()):
            self._attaching = asyncio.create_task(
                self._attachment.renew(self._triton), name=f"share memory with {self.address}"
            )

    def _leave(self, reason: str) -> None:
        self._gone(self.health.unready(reason), reason)

    def _lose(self, reason: str, *, is_stalled: bool = False) -> None:
        is_news = self.health.lost(reason, is_stalled=is_stalled)
        if is_news:
            self._on_loss(self.health.outstanding)
        self._gone(is_news, reason)

    def _gone(self, is_news: bool, reason: str) -> None:
        self.models = {}
        self._up.set(0)
        if self._attachment:
            self._attachment.let_go()
        if is_news:
            _log.warning(f"triton {self.health.state}", endpoint=self.address, reason=reason)
            self._on_change()

    def _ejected(self) -> None:
        self._metrics.triton_ejections.labels(self.address).inc()
        _log.warning("triton ejected", endpoint=self.address, reason=self.health.reason)
        self._on_change()


def _broken(model: Model) -> InvalidPrediction:
    return InvalidPrediction(f"Triton's answer for {model.name} breaks the model contract")


def _is_late(start: float) -> bool:
    """Whether a probe that took its whole time was noticed too late, because our own loop was busy."""
    return time.monotonic() - start > 2 * _PROBE_TIMEOUT_SECONDS + _LATE_SECONDS


def _is_cancelled() -> bool:
    """Whether the task that runs has been cancelled, and not only what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
