"""Load on a gateway's REST face: open by a schedule, or closed by a number of callers that each wait for their answer.

In open load a request is due when its schedule says so, however slow the answers before it are, and its latency counts
from then on: a server that stalls can't hide it by slowing the generator down (*coordinated omission*).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import orjson

from loadtest.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from types import TracebackType

    from loadtest.arrivals import Schedule
    from loadtest.images import Image

_HTTP_OK: Final = 200
_HTTP_TRY_AGAIN: Final = (429, 503)
_LEAD_SECONDS: Final = 0.2  # from the start of a load to its first arrival: the schedule has to be laid out
_RECONNECT_SECONDS: Final = 0.1  # before a caller tries again whose connection broke
_HANG_SECONDS: Final = 5.0  # this long after its deadline an attempt without an answer is given up


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since a moment that all figures of one scenario count from."""

    zero: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self.zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Callers of one kind.

    Attributes:
        name: for figures by flow.
        arrivals: when their requests are due, in seconds since the load began.
        deadline_seconds: the answer must be there so long after the request was due; each attempt is sent with it.
        patience_seconds: for so long after a request was due its caller tries again when it is refused or its
            connection breaks, as `eagleeye.Client` does; 0 for one attempt.
        headers: of each request.
        parameters: of each request's query string.
        images: how many each request has; several go as a form.
    """

    name: str = "callers"
    arrivals: Schedule | Sequence[float] = ()
    deadline_seconds: float = 10.0
    patience_seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    images: int = 1

    def query(self) -> dict[str, str]:
        """The query string of an attempt."""
        return {"timeout_ms": str(round(self.deadline_seconds * 1e3)), **self.parameters}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are seconds of the load's clock.

    Attributes:
        flow: name of its flow.
        due_at: when the schedule wanted it sent.
        sent_at: when its first attempt left; later than `due_at` only if the generator lags.
        answered_at: when its last attempt was answered.
        verdict: what became of it.
        attempts: how often it was sent.
        reasons: why each attempt before the last did not do, and the last one's if it did not either.
        version: of the model that answered; 0 if none did.
    """

    flow: str
    due_at: float
    sent_at: float
    answered_at: float
    verdict: Verdict
    attempts: int
    reasons: tuple[str, ...]
    version: int = 0

    @property
    def latency_seconds(self) -> float:
        """From when it was due to its answer."""
        return self.answered_at - self.due_at


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer to one attempt; `wait_seconds` until another one makes sense, None if none does."""

    verdict: Verdict
    reason: str = ""
    wait_seconds: float | None = None
    version: int = 0


class Load:
    """Sends images to the REST face at `url`, one after the other, and judges the answers."""

    def __init__(self, url: str, images: Sequence[Image], clock: Clock) -> None:
        self._url = f"{url}/v1/detect"
        self._next_image = itertools.cycle(images)
        self._clock = clock
        self._jitter = random.Random(0)  # noqa: S311 (no secret)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, *flows: Flow, until: asyncio.Event | None = None) -> list[Outcome]:
        """Open load: every request of every flow when it is due; back when the last one has its outcome.

        Once `until` is set, no more are sent.
        """
        begin = self._clock.now() + _LEAD_SECONDS
        outcomes: list[Outcome] = []
        with _without_collection_pauses():
            async with asyncio.TaskGroup() as requests:
                for due_at, flow in _in_order(flows, begin):
                    await _sleep_until(self._clock, due_at)
                    if until is not None and until.is_set():
                        break
                    requests.create_task(self._until_outcome(flow, due_at, outcomes.append))
        return outcomes

    async def saturate(self, flow: Flow, callers: int, seconds: float) -> list[Outcome]:
        """Closed load: so many callers at a time, each with its next request as soon as it has its answer."""
        stop_at = self._clock.now() + seconds
        outcomes: list[Outcome] = []

        async def call() -> None:
            while self._clock.now() < stop_at:
                await self._until_outcome(flow, self._clock.now(), outcomes.append)

        with _without_collection_pauses():
            await asyncio.gather(*(call() for _ in range(callers)))
        return outcomes

    async def _until_outcome(self, flow: Flow, due_at: float, tell: Callable[[Outcome], None]) -> None:
        """One request with all its attempts."""
        images = list(itertools.islice(self._next_image, flow.images))
        sent_at, reasons = self._clock.now(), []
        give_up_at = due_at + flow.patience_seconds
        attempts = 0
        while True:
            answer = await self._attempt(flow, images)
            attempts += 1
            if answer.reason:
                reasons.append(answer.reason)
            if answer.wait_seconds is None or self._clock.now() + answer.wait_seconds >= give_up_at:
                break
            await asyncio.sleep(answer.wait_seconds * self._jitter.uniform(1.0, 1.25))
        answered_at, verdict = self._clock.now(), answer.verdict
        if verdict is Verdict.OK and answered_at - due_at > max(flow.deadline_seconds, flow.patience_seconds):
            verdict = Verdict.LATE
        tell(Outcome(flow.name, due_at, sent_at, answered_at, verdict, attempts, tuple(reasons), answer.version))

    async def _attempt(self, flow: Flow, images: Sequence[Image]) -> _Answer:
        limit = aiohttp.ClientTimeout(total=flow.deadline_seconds + _HANG_SECONDS)
        try:
            async with self._session.post(
                self._url, data=_body(images), params=flow.query(), headers=flow.headers, timeout=limit
            ) as response:
                body = await response.read()
        except TimeoutError:
            return _Answer(Verdict.FAILED, "no answer")
        except (aiohttp.ClientError, OSError) as error:
            return _Answer(Verdict.FAILED, type(error).__name__, _RECONNECT_SECONDS)
        return _judge(response, body, images)


def _body(images: Sequence[Image]) -> bytes | aiohttp.FormData:
    if len(images) == 1:
        return images[0].data
    form = aiohttp.FormData()
    for n, image in enumerate(images):
        form.add_field(str(n), image.data, filename=f"{image.number}.png", content_type="image/png")
    return form


def _judge(response: aiohttp.ClientResponse, body: bytes, images: Sequence[Image]) -> _Answer:
    if response.status == _HTTP_OK:
        answer = orjson.loads(body)
        return _judge_results(answer["results"] if len(images) > 1 else [answer], images)
    reason = _code(body) or str(response.status)
    if response.status in _HTTP_TRY_AGAIN:
        return _Answer(Verdict.REFUSED, reason, float(response.headers.get("Retry-After", 1)))
    return _Answer(Verdict.FAILED, reason)


def _judge_results(results: Sequence[Mapping[str, Any]], images: Sequence[Image]) -> _Answer:
    """Each image must have its own detections, by the one version that all of them name."""
    for result in results:
        if (error := result.get("error")) is not None:
            if error["status"] in _HTTP_TRY_AGAIN:
                return _Answer(Verdict.REFUSED, error["code"], _RECONNECT_SECONDS)
            return _Answer(Verdict.FAILED, error["code"])
    versions = {int(result["model"]["version"]) for result in results}
    if len(versions) > 1:
        return _Answer(Verdict.WRONG, "several versions in one answer")
    (version,) = versions
    if [result["detections"] for result in results] == [image.expected_of(version) for image in images]:
        return _Answer(Verdict.OK, version=version)
    return _Answer(Verdict.WRONG, "wrong answer")


def _code(body: bytes) -> str:
    """The stable code of a problem document; empty for a body that is none, such as a balancer's own page."""
    try:
        return str(orjson.loads(body)["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _in_order(flows: Sequence[Flow], begin: float) -> list[tuple[float, Flow]]:
    """All requests of all flows by the time they are due."""
    due = [(begin + float(at), flow) for flow in flows for at in flow.arrivals]
    return sorted(due, key=itemgetter(0))


async def _sleep_until(clock: Clock, at: float) -> None:
    """Sleep; one that is late already still lets answers be read."""
    await asyncio.sleep(max(0.0, at - clock.now()))


@contextmanager
def _without_collection_pauses() -> Iterator[None]:
    """Keep the cyclic collector from stopping the generator; the little that a load leaves behind is freed after it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def beside(load: Coroutine[Any, Any, list[Outcome]], *events: Coroutine[Any, Any, None]) -> list[Outcome]:
    """Run a load while things happen to what serves it; an event that fails ends both."""
    sending = asyncio.create_task(load)
    happening = [asyncio.create_task(event) for event in events]
    try:
        await asyncio.gather(sending, *happening)
    finally:
        for task in (sending, *happening):
            task.cancel()
        await asyncio.gather(sending, *happening, return_exceptions=True)
    return sending.result()
