"""`Client`: asks a gateway, and waits for the answer."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from eagleeye.client.attempts import Flow, T, Wait
from eagleeye.client.errors import EagleEyeError
from eagleeye.client.frames import Frames
from eagleeye.client.query import Query, count, read_image
from eagleeye.client.scope import Scope
from eagleeye.client.setup import set_up
from eagleeye.client.sources import LOOK_AHEAD

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType

    from eagleeye.client.query import Image
    from eagleeye.client.results import Detections, Frame, Health, ModelInfo

_CLOSED = "the client is closed"


class Client:
    """A gateway, for code that waits. Any number of threads may share one; connections are kept and used again.

    A request that meets a busy gateway, one that is away, or a connection that breaks is tried again until
    `max_attempts` or the time is used up. Use it as a context manager, or call `close`.

    Args:
        url: `http://`, `https://`, `grpc://` or `grpcs://` with host and port; both faces find the same.
        key: for a gateway that asks for one.
        timeout_seconds: longest wait for one answer, everything included.
        max_attempts: how often one request is sent at most.
        concurrency: requests at a time in `detect_many`.
        ca_certificate: PEM file of the authorities to trust; by default those that the system trusts.
        client_certificate: PEM file of the caller's own certificate, with `client_key`.
        client_key: PEM file of its private key.

    Raises:
        ModuleNotFoundError: the extra `client` is not installed.
        OSError: a file can't be read.
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        key: str | None = None,
        timeout_seconds: float = 30.0,
        max_attempts: int = 8,
        concurrency: int = 8,
        ca_certificate: Path | None = None,
        client_certificate: Path | None = None,
        client_key: Path | None = None,
    ) -> None:
        self._setup = set_up(
            url,
            key=key,
            timeout_seconds=timeout_seconds,
            max_attempts=max_attempts,
            concurrency=concurrency,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            is_async=False,
        )
        self._scope = Scope(_CLOSED)
        self._process = os.getpid()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. What is under way in other threads ends with a RuntimeError."""
        if os.getpid() == self._process:  # a child's copy must not touch what belongs to its parent
            self._scope.end()
            self._setup.transport.close()

    def detect(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: int | str | None = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        classes: str | Iterable[str | int] | None = None,
        agnostic_nms: bool | None = None,
        clip: bool | None = None,
        priority: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Detections:
        """What is on one image.

        Args:
            image: the bytes of one JPEG, PNG, WebP or BMP image, or the path of one.
            model: the model to ask; by default the only one.
            version: its version; by default the one that the gateway's rollout chooses.
            score_threshold: detections score more than this, 0 to 1; by default the model's own.
            iou_threshold: of two boxes of one class that overlap more, the better one stays; by default as above.
            max_detections: the most to report, from 1.
            classes: labels or class ids to report; by default all.
            agnostic_nms: whether boxes of different classes suppress each other as well.
            clip: whether boxes end at the border of the image, as by default; if not, they are as the model gives them.
            priority: `high`, `normal` or `low`, for when requests must wait; by default the gateway's, `normal`.
            timeout_seconds: longest wait for the answer; by default the client's.

        Raises:
            EagleEyeError: there is no answer, or it is an error; see its subclasses.
            OSError: the file can't be read.
            RuntimeError: the client is closed, or was made in another process.
            TypeError: an argument has the wrong type.
            ValueError: an argument is out of its range.
        """
        query = Query(
            model=model,
            version=version,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            classes=classes,
            agnostic_nms=agnostic_nms,
            clip=clip,
            priority=priority,
        )
        return self._detect(image, query, self._setup.timeout(timeout_seconds), self._scope)

    def detect_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int | None = None,
        return_errors: bool = False,
        timeout_seconds: float | None = None,
        **options: Any,
    ) -> Generator[Detections | EagleEyeError, None, None]:
        """What is on each image, in order, `concurrency` of them at a time.

        Images are taken as they are needed, a few ahead, so there may be any number. Leaving the iterator ends what is
        under way.

        Args:
            images: as for `detect`.
            concurrency: requests at a time; by default the client's.
            return_errors: give an image's `EagleEyeError` in its place instead of raising it.
            timeout_seconds: longest wait for each answer; by default the client's.
            options: as for `detect`.

        Raises:
            EagleEyeError: as `detect`, unless `return_errors`.
            OSError: a file can't be read.
            RuntimeError: the client is closed, or was made in another process.
            TypeError: an argument has the wrong type.
            ValueError: an argument is out of its range.
        """
        self._check()
        query, timeout = Query(**options), self._setup.timeout(timeout_seconds)
        workers = self._setup.concurrency if concurrency is None else count("concurrency", concurrency)
        return self._each(iter(images), query, timeout, workers, return_errors=return_errors)

    def stream(
        self, frames: Iterable[Image], *, latest: bool = False, timeout_seconds: float | None = None, **options: Any
    ) -> Generator[Frame, None, None]:
        """What is on each frame of a camera or video, in order, over one gRPC stream.

        Frames are pulled by a thread of their own. At most eight are unanswered. With `latest` a frame that waits is
        replaced by the next one, so that answers are about what the camera sees now. When the connection breaks, the
        unanswered frames (of the `latest` only the newest) are sent again on the next. Leaving the iterator ends it.

        Args:
            frames: encoded images, as for `detect`.
            latest: whether a frame that waits is replaced by a newer one.
            timeout_seconds: longest wait for an answer while a frame is unanswered; by default the client's.
            options: as for `detect`.

        Raises:
            EagleEyeError: the stream has ended. What is wrong with one frame is its `Frame.error` instead.
            RuntimeError: the client is closed, or was made in another process.
            TypeError: an argument has the wrong type.
            ValueError: an argument is out of its range, or the address is not gRPC's.
            Exception: whatever `frames` raises, after the answers to the frames before.
        """
        self._check()
        if not self._setup.address.is_grpc:
            raise ValueError(f"stream() needs a grpc:// or grpcs:// address, and this is {self._setup.address}")
        from eagleeye.client.stream_blocking import Stream  # noqa: PLC0415 belongs to an extra

        query, timeout = Query(**options), self._setup.timeout(timeout_seconds)
        state = Frames(latest=latest, timeout_seconds=timeout, policy=self._setup.policy)
        stream = Stream(self._setup.transport, state, query, latest=latest, timeout_seconds=timeout)
        return stream.run(frames, self._scope)

    def models(self) -> list[ModelInfo]:
        """The models that are served.

        Raises:
            EagleEyeError: as `detect`.
            RuntimeError: as `detect`.
        """
        return self._run(self._setup.face.models(self._setup.ask(self._setup.timeout_seconds)), self._scope)

    def model(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            EagleEyeError: as `detect`; a `Refused` with the code `model_not_found` if there is none of that name.
            RuntimeError: as `detect`.
            TypeError: the name is no text.
            ValueError: the name is empty.
        """
        Query(model=name)
        return self._run(self._setup.face.model(name, self._setup.ask(self._setup.timeout_seconds)), self._scope)

    def health(self) -> Health:
        """Whether the gateway lives and serves, at this moment: nothing is tried again.

        Raises:
            EagleEyeError: as `detect`.
            RuntimeError: as `detect`.
        """
        return self._run(
            self._setup.face.health(self._setup.ask(self._setup.timeout_seconds, max_attempts=1)), self._scope
        )

    def _check(self) -> None:
        """Make sure that the client can be used here and now."""
        if os.getpid() != self._process:
            raise RuntimeError("this client was made in another process; make one in each process, after the fork")
        self._scope.check()

    def _detect(self, image: Image, query: Query, timeout_seconds: float, scope: Scope) -> Detections:
        exchange = self._setup.face.detect(read_image(image), query)
        return self._run(self._setup.ask(timeout_seconds)(exchange), scope)

    def _run(self, flow: Flow[T], scope: Scope) -> T:
        """Do what a flow asks for."""
        self._check()
        try:
            step = next(flow)
            while True:
                if isinstance(step, Wait):
                    scope.sleep(step.seconds)
                    scope.check()
                    step = flow.send(None)
                    continue
                try:
                    reply = self._setup.transport.send(step.request, step.seconds, scope)
                except (EagleEyeError, TimeoutError) as error:
                    scope.check()
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _each(
        self, images: Iterator[Image], query: Query, timeout_seconds: float, workers: int, *, return_errors: bool
    ) -> Generator[Detections | EagleEyeError, None, None]:
        scope = Scope(_CLOSED)
        under_way: deque[Future[Detections]] = deque()
        with (
            self._scope.aborting(scope.end),
            ThreadPoolExecutor(workers, thread_name_prefix="eagleeye detect") as pool,
        ):
            try:
                for image in images:
                    under_way.append(pool.submit(self._detect, image, query, timeout_seconds, scope))
                    while under_way and (len(under_way) >= LOOK_AHEAD * workers or under_way[0].done()):
                        yield _outcome(under_way.popleft(), return_errors=return_errors)
                while under_way:
                    yield _outcome(under_way.popleft(), return_errors=return_errors)
            finally:
                scope.end()
                pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: Future[Detections], *, return_errors: bool) -> Detections | EagleEyeError:
    try:
        return future.result()
    except EagleEyeError as error:
        if return_errors:
            return error
        raise
