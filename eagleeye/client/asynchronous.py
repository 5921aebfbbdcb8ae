"""`AsyncClient`: asks a gateway, and lets others work in the meantime."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Self

from eagleeye.client.attempts import Flow, T, Wait
from eagleeye.client.errors import EagleEyeError
from eagleeye.client.frames import Frames
from eagleeye.client.query import Query, count, read_image
from eagleeye.client.setup import set_up
from eagleeye.client.sources import LOOK_AHEAD, each

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable
    from pathlib import Path
    from types import TracebackType

    from eagleeye.client.query import Image
    from eagleeye.client.results import Detections, Frame, Health, ModelInfo


class AsyncClient:
    """A gateway, for code on an event loop: `Client` with `await`. It belongs to the loop that first uses it.

    A request that meets a busy gateway, one that is away, or a connection that breaks is tried again until
    `max_attempts` or the time is used up. Use it as an asynchronous context manager, or call `aclose`.

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
            is_async=True,
        )
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. What is under way in other tasks ends with a RuntimeError."""
        if os.getpid() == self._process:  # a child's copy must not touch what belongs to its parent
            self._closed.set()
            await self._setup.transport.aclose()

    async def detect(
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
        """What is on one image; see `Client.detect`.

        Raises:
            EagleEyeError: there is no answer, or it is an error; see its subclasses.
            OSError: the file can't be read.
            RuntimeError: the client is closed, or belongs to another process or event loop.
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
        return await self._detect(image, query, self._setup.timeout(timeout_seconds))

    def detect_many(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        concurrency: int | None = None,
        return_errors: bool = False,
        timeout_seconds: float | None = None,
        **options: Any,
    ) -> AsyncGenerator[Detections | EagleEyeError, None]:
        """What is on each image, in order, `concurrency` of them at a time; see `Client.detect_many`.

        Raises:
            EagleEyeError: as `detect`, unless `return_errors`.
            OSError: a file can't be read.
            RuntimeError: as `detect`.
            TypeError: an argument has the wrong type.
            ValueError: an argument is out of its range.
        """
        query, timeout = Query(**options), self._setup.timeout(timeout_seconds)
        workers = self._setup.concurrency if concurrency is None else count("concurrency", concurrency)
        return self._each(images, query, timeout, workers, return_errors=return_errors)

    def stream(
        self,
        frames: Iterable[Image] | AsyncIterable[Image],
        *,
        latest: bool = False,
        timeout_seconds: float | None = None,
        **options: Any,
    ) -> AsyncGenerator[Frame, None]:
        """What is on each frame of a camera or video, in order, over one gRPC stream; see `Client.stream`.

        A plain iterable is read in a thread. Leave the iterator with `aclose`, as `contextlib.aclosing` does.

        Raises:
            EagleEyeError: the stream has ended. What is wrong with one frame is its `Frame.error` instead.
            RuntimeError: as `detect`.
            TypeError: an argument has the wrong type.
            ValueError: an argument is out of its range, or the address is not gRPC's.
            Exception: whatever `frames` raises, after the answers to the frames before.
        """
        if not self._setup.address.is_grpc:
            raise ValueError(f"stream() needs a grpc:// or grpcs:// address, and this is {self._setup.address}")
        from eagleeye.client.stream_asyncio import Stream  # noqa: PLC0415 belongs to an extra

        query, timeout = Query(**options), self._setup.timeout(timeout_seconds)
        state = Frames(latest=latest, timeout_seconds=timeout, policy=self._setup.policy)
        stream = Stream(self._setup.transport, state, query, latest=latest, timeout_seconds=timeout)
        return stream.run(frames, self._check)

    async def models(self) -> list[ModelInfo]:
        """The models that are served.

        Raises:
            EagleEyeError: as `detect`.
            RuntimeError: as `detect`.
        """
        return await self._run(self._setup.face.models(self._setup.ask(self._setup.timeout_seconds)))

    async def model(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            EagleEyeError: as `detect`; a `Refused` with the code `model_not_found` if there is none of that name.
            RuntimeError: as `detect`.
            TypeError: the name is no text.
            ValueError: the name is empty.
        """
        Query(model=name)
        return await self._run(self._setup.face.model(name, self._setup.ask(self._setup.timeout_seconds)))

    async def health(self) -> Health:
        """Whether the gateway lives and serves, at this moment: nothing is tried again.

        Raises:
            EagleEyeError: as `detect`.
            RuntimeError: as `detect`.
        """
        return await self._run(self._setup.face.health(self._setup.ask(self._setup.timeout_seconds, max_attempts=1)))

    def _check(self) -> None:
        """Make sure that the client can be used here and now."""
        if os.getpid() != self._process:
            raise RuntimeError("this client was made in another process; make one in each process, after the fork")
        if self._closed.is_set():
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            raise RuntimeError("this client belongs to another event loop; make one in each loop")
        self._loop = loop

    async def _detect(self, image: Image, query: Query, timeout_seconds: float) -> Detections:
        data = await asyncio.to_thread(read_image, image) if isinstance(image, os.PathLike) else read_image(image)
        exchange = self._setup.face.detect(data, query)
        return await self._run(self._setup.ask(timeout_seconds)(exchange))

    async def _run(self, flow: Flow[T]) -> T:
        """Do what a flow asks for."""
        self._check()
        try:
            step = next(flow)
            while True:
                if isinstance(step, Wait):
                    await self._sleep(step.seconds)
                    self._check()
                    step = flow.send(None)
                    continue
                try:
                    reply = await self._setup.transport.send(step.request, step.seconds)
                except (EagleEyeError, TimeoutError) as error:
                    self._check()
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the time is over or the client is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _each(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        query: Query,
        timeout_seconds: float,
        workers: int,
        *,
        return_errors: bool,
    ) -> AsyncGenerator[Detections | EagleEyeError, None]:
        places = asyncio.Semaphore(workers)
        under_way: deque[asyncio.Task[Detections]] = deque()

        async def detect(image: Image) -> Detections:
            async with places:
                return await self._detect(image, query, timeout_seconds)

        self._check()
        try:
            async with aclosing(each(images)) as given:
                async for image in given:
                    under_way.append(asyncio.create_task(detect(image)))
                    while under_way and (len(under_way) >= LOOK_AHEAD * workers or under_way[0].done()):
                        yield await _outcome(under_way.popleft(), return_errors=return_errors)
            while under_way:
                yield await _outcome(under_way.popleft(), return_errors=return_errors)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _outcome(task: asyncio.Task[Detections], *, return_errors: bool) -> Detections | EagleEyeError:
    try:
        return await task
    except EagleEyeError as error:
        if return_errors:
            return error
        raise
