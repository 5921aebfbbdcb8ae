"""Locust users that send images, by the gateway's faces. All of them read the process's `Session`.

Each image is one `request` event, whose `context` has the `Outcome`; its response time counts from when it was due.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias
from urllib.parse import urlencode

import gevent
from gevent.event import AsyncResult
from gevent.pool import Group, Pool
from gevent.queue import SimpleQueue
from locust import FastHttpUser, User, task

from eagleeye import EagleEyeError, Refused
from loadtest.load.answers import Answer
from loadtest.load.ledger import Outcome
from loadtest.load.profile import CAMERA
from loadtest.load.session import CONNECTIONS
from loadtest.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eagleeye import Client, Frame
    from loadtest.load.answers import Reference
    from loadtest.load.profile import Profile
    from loadtest.load.session import Session, Turn

    Result: TypeAlias = tuple[Verdict, str]
    """What became of an image, and why it is no right answer."""
    Waiting: TypeAlias = SimpleQueue[Any]
    """Pairs of a Turn and the AsyncResult of its Frame; None ends a stream."""

HANG_SECONDS: Final = 5.0
"""So long after its deadline an image without an answer is given up."""
_IDLE_SECONDS: Final = 0.5
_STALENESS_SECONDS: Final = 0.1
_RECONNECT_SECONDS: Final = 0.1
_STREAMS: Final = 8
"""Over which a process spreads the frames of open load: the gateway works on four of a stream at a time."""
_OK: Final = 200
_TRY_AGAIN: Final = (429, 503)
_RIGHT: Final = (Verdict.OK, "")
_WRONG: Final = (Verdict.WRONG, "wrong answer")


class Caller(User):
    """Sends images one at a time, `call` by `call`."""

    abstract = True
    kind: ClassVar[str]
    session: ClassVar[Session]

    def ask(self, turn: Turn) -> Result:
        """Send one image, and judge the answer."""
        raise NotImplementedError

    def call(self, due_at: float) -> None:
        """Send the next image, and tell what became of it."""
        turn, sent_at = self.session.next(), self.session.now()
        result: Result = (Verdict.FAILED, "no answer")
        self.session.under_way += 1
        with gevent.Timeout(self.session.profile.timeout_seconds + HANG_SECONDS, exception=False):
            result = self.ask(turn)
        self.session.under_way -= 1
        report(self, Outcome(self.kind, due_at, sent_at, self.session.now(), *result))

    def wait_time(self) -> float:
        """The pause between an answer and the next image."""
        return self.session.profile.think_seconds

    @task
    def ask_again(self) -> None:
        """Closed load: one image, as soon as the one before is answered."""
        if self.session.now() < 0:
            gevent.sleep(-self.session.now())
        elif self.session.is_over:
            gevent.sleep(_IDLE_SECONDS)
        else:
            self.call(self.session.now())


def report(user: User, outcome: Outcome) -> None:
    """Tell Locust, and whoever listens, about one image. An answer after its deadline is late."""
    latency_seconds = outcome.answered_at - outcome.due_at
    if outcome.verdict is Verdict.OK and latency_seconds > Caller.session.profile.timeout_seconds:
        outcome = replace(outcome, verdict=Verdict.LATE, reason="late")
    user.environment.events.request.fire(
        request_type=outcome.kind,
        name="detect",
        response_time=1e3 * latency_seconds,
        response_length=0,
        exception=outcome.reason or None,
        context={"outcome": outcome},
    )


class HttpCaller(FastHttpUser, Caller):
    """POST /v1/detect with the bytes of an image."""

    kind = "http"
    insecure = False

    def ask(self, turn: Turn) -> Result:
        """Send one image over REST."""
        query = {"model": self.session.plan.model, "timeout_ms": round(1e3 * self.session.profile.timeout_seconds)}
        if turn.priority:
            query["priority"] = turn.priority
        # caught, and never entered: the event is fired by `report`, with the time since the image was due
        response = self.client.post(
            f"/v1/detect?{urlencode(query)}",
            data=turn.picture.data,  # type: ignore[arg-type]  # it takes bytes as well
            headers={"Accept-Encoding": "identity", **self.session.identity.headers},
            catch_response=True,
        )
        return _judge_http(response, turn.reference)


def _judge_http(response: Any, reference: Reference) -> Result:
    if not response.status_code:
        return Verdict.FAILED, "timed out" if isinstance(response.error, TimeoutError) else "unreachable"
    try:
        body = json.loads(response.content)
        if response.status_code == _OK:
            return _judge(Answer.of_json(body["detections"]), reference)
        reason = str(body["code"])
    except (ValueError, KeyError, TypeError):
        reason = f"status {response.status_code} without a reason"
    return (Verdict.REFUSED if response.status_code in _TRY_AGAIN else Verdict.FAILED), reason


def _judge(answer: Answer, reference: Reference) -> Result:
    return _RIGHT if reference.is_met_by(answer) else _WRONG


def _judge_error(error: EagleEyeError | None) -> Result:
    if error is None:
        return Verdict.FAILED, "neither detections nor an error"
    if isinstance(error, Refused) and error.is_retryable:
        return Verdict.REFUSED, error.code
    return Verdict.FAILED, error.code


def _judge_frame(frame: Frame, reference: Reference) -> Result:
    if frame.detections is None:
        return _judge_error(frame.error)
    return _judge(Answer.of_client(frame.detections), reference)


class GrpcCaller(Caller):
    """ModelInfer with one image."""

    kind = "grpc"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._client = self.session.grpc_client()

    def ask(self, turn: Turn) -> Result:
        """Send one image as a call."""
        try:
            found = self._client.detect(turn.picture.data, model=self.session.plan.model, priority=turn.priority)
        except EagleEyeError as error:
            return _judge_error(error)
        return _judge(Answer.of_client(found), turn.reference)


class StreamCaller(Caller):
    """Frames on one ModelStreamInfer call, each of which is answered; opened again when it breaks."""

    kind = "stream"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._client = self.session.grpc_client()
        self._waiting: Waiting = SimpleQueue()
        self._stream: gevent.Greenlet | None = None

    def ask(self, turn: Turn) -> Result:
        """Send one image as a frame; others may be under way."""
        if self._stream is None:
            self._stream = gevent.spawn(self._run, self._waiting, turn.priority)
        answer: AsyncResult[Frame] = AsyncResult()
        self._waiting.put((turn, answer))
        try:
            frame = answer.get()
        except EagleEyeError as error:
            return _judge_error(error)
        return _judge_frame(frame, turn.reference)

    def _run(self, waiting: Waiting, priority: str | None) -> None:
        """One call: hand its answers to those who wait for them, and its end to those who will not get any."""
        unanswered: deque[AsyncResult[Frame]] = deque()
        frames, model = _frames(waiting, unanswered), self.session.plan.model
        try:
            for frame in self._client.stream(frames, model=model, priority=priority):
                unanswered.popleft().set(frame)
        except EagleEyeError as error:
            self._waiting, self._stream = SimpleQueue(), None
            while not waiting.empty():
                unanswered.append(waiting.get()[1])
            waiting.put(None)  # for who still takes frames from there
            for answer in unanswered:
                answer.set_exception(error)

    def on_stop(self) -> None:
        """End the call."""
        self._waiting.put(None)


def _frames(waiting: Waiting, unanswered: deque[AsyncResult[Frame]]) -> Iterator[bytes]:
    """What a stream sends, until None waits."""
    for turn, answer in iter(waiting.get, None):
        unanswered.append(answer)
        yield turn.picture.data


class Camera(User):
    """A camera: frames at a fixed rate over a stream in the `latest` mode, of which only the newest matters."""

    session: ClassVar[Session]
    number: ClassVar[itertools.count[int]] = itertools.count()

    @task
    def watch(self) -> None:
        """Send frames until the load is over."""
        if not self.session.is_over:
            Film(self, next(self.number)).run()
        gevent.sleep(_IDLE_SECONDS)

    def wait_time(self) -> float:
        """None: a film ends with the load."""
        return 0.0


class Film:
    """The frames of one camera. Its staleness at any time is the age of the newest frame that is answered.

    Args:
        user: to report by.
        number: of the camera in this process; cameras don't send at the same moment.
    """

    def __init__(self, user: User, number: int) -> None:
        self._user = user
        self._session = Caller.session
        self._interval = 1 / self._session.profile.frames_per_second
        self._next_at = max(0.0, self._session.now()) + self._interval * (number * 0.618 % 1)
        self._newest_at = self._next_at
        self._sent: dict[int, tuple[float, float, Reference]] = {}

    def run(self) -> None:
        """Send frames and read answers until the load is over; a stream that breaks is opened again."""
        watch = gevent.spawn(self._note_staleness)
        client = self._session.grpc_client()
        while not self._session.is_over:
            self._stream(client)
        watch.join()

    def _stream(self, client: Client) -> None:
        self._sent = {}
        try:
            for frame in client.stream(self._frames(), latest=True, model=self._session.plan.model):
                self._note(frame)
        except EagleEyeError as error:
            sent = list(self._sent.values())
            for due_at, sent_at, _ in sent[-1:]:  # those before it were replaced, or would have been
                self._report(due_at, sent_at, _judge_error(error))
            gevent.sleep(_RECONNECT_SECONDS)

    def _frames(self) -> Iterator[bytes]:
        """A frame whenever one is due. What was due while there was no stream is past."""
        sent = self._sent
        missed = (self._session.now() - self._next_at) // self._interval
        self._next_at += max(0.0, missed) * self._interval
        for index in itertools.count():
            if self._next_at >= self._session.profile.seconds or sent is not self._sent:
                return
            due_at, self._next_at = self._next_at, self._next_at + self._interval
            gevent.sleep(max(0.0, due_at - self._session.now()))
            turn = self._session.next()
            sent[index] = due_at, self._session.now(), turn.reference
            yield turn.picture.data

    def _note(self, frame: Frame) -> None:
        due_at, sent_at, reference = self._sent[frame.index]
        for index in [each for each in self._sent if each <= frame.index]:
            del self._sent[index]
        self._session.ledger.note_dropped(self._session.now(), CAMERA, frame.dropped)
        if not frame.error:
            self._newest_at = due_at
        self._report(due_at, sent_at, _judge_frame(frame, reference))

    def _report(self, due_at: float, sent_at: float, result: Result) -> None:
        report(self._user, Outcome(CAMERA, due_at, sent_at, self._session.now(), *result))

    def _note_staleness(self) -> None:
        gevent.sleep(max(0.0, self._newest_at - self._session.now()))
        while not self._session.is_over:
            now = self._session.now()
            self._session.ledger.note_staleness(now, CAMERA, max(0.0, now - self._newest_at))
            gevent.sleep(_STALENESS_SECONDS)


class Arrivals(User):
    """Open load: this process's share of the schedule, and of the cameras. One of it does all; a second one rests."""

    session: ClassVar[Session]
    is_taken: ClassVar[bool] = False

    @task
    def send(self) -> None:
        """Send each image when it is due, whatever became of those before it; back when all have their answer."""
        if Arrivals.is_taken:
            gevent.sleep(_IDLE_SECONDS)
            return
        Arrivals.is_taken = True
        profile = self.session.profile
        cameras, calls = Group(), Pool(profile.max_in_flight)
        for number in range(self.session.index, profile.cameras, self.session.count):
            cameras.spawn(Film(self, number).run)
        callers = {kind: itertools.cycle(_callers(kind, self.environment)) for kind in profile.users}
        schedule = self.session.schedule().tolist()
        for due_at, kind in zip(schedule, self.session.kinds(len(schedule)), strict=True):
            gevent.sleep(max(0.0, due_at - self.session.now()))
            calls.spawn(next(callers[kind]).call, due_at)
        calls.join()
        cameras.join()

    def wait_time(self) -> float:
        """None: it does not repeat what it does."""
        return 0.0


def _callers(kind: str, environment: Any) -> list[Caller]:
    """Those that share the images of one kind."""
    made: dict[str, tuple[Callable[[Any], Caller], int]] = {
        HttpCaller.kind: (HttpCaller, 1),  # has a pool of connections
        GrpcCaller.kind: (GrpcCaller, CONNECTIONS),
        StreamCaller.kind: (StreamCaller, _STREAMS),
    }
    make, number = made[kind]
    return [make(environment) for _ in range(number)]


def use(session: Session) -> None:
    """Let all users of this process read a session."""
    seconds = session.profile.timeout_seconds + HANG_SECONDS
    for each in (Caller, Camera, Arrivals):
        each.session = session
    HttpCaller.host = session.plan.url.rstrip("/")
    HttpCaller.ssl_context_factory = staticmethod(session.identity.tls)
    HttpCaller.network_timeout = HttpCaller.connection_timeout = seconds
    HttpCaller.concurrency = session.profile.max_in_flight if session.profile.is_open else 1


def user_classes(profile: Profile) -> list[type[User]]:
    """The users of a load, with their weights."""
    if profile.is_open:
        return [Arrivals]
    classes: list[type[User]] = []
    for caller in (HttpCaller, GrpcCaller, StreamCaller):
        if weight := profile.users.get(caller.kind):
            caller.weight = weight
            classes.append(caller)
    if profile.cameras:
        Camera.fixed_count = profile.cameras
        classes.append(Camera)
    return classes
