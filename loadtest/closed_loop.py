"""So many callers at a time, each with its next request when it has its answer, for next to no processor time.

A benchmark that shares its processors with what it measures must not use them up: one thread writes bytes that were
made before to plain sockets, and compares the answers with bytes that were seen before. 0.1 ms a request of 0.6 MB is
what a client library needs many times over.
"""

from __future__ import annotations

import math
import re
import selectors
import socket
import time
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WARM_UP_SECONDS: Final = 0.3
"""Before every measurement: until all callers wait, as they do from then on."""
_READ_BYTES: Final = 1 << 18
_SILENT_SECONDS: Final = 30.0
"""Without any event: whoever is asked hangs."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_QUOTED_BYTES: Final = 300
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class LoadFailed(Exception):
    """A request was not answered, or not as it should have been; the message has the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request and how its answer must begin.

    Attributes:
        wire: head and body.
        answer: the first bytes of the answer's body; empty: every answer of status 200 will do.
    """

    wire: bytes
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers got.

    Attributes:
        images_per_second: answers that came after the warm-up, per second.
        latencies_ms: of those, sorted.
        answers: all, with those of the warm-up and those that came after the end.
        cpu_seconds: what the callers themselves have used for `answers`.
    """

    images_per_second: float
    latencies_ms: list[float]
    answers: int
    cpu_seconds: float

    @property
    def p50_ms(self) -> float:
        """The median latency."""
        return quantile(self.latencies_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """The time within which 99 % were answered."""
        return quantile(self.latencies_ms, 0.99)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of values that are sorted, infinite where there is none."""
    return ascending[math.ceil(share * len(ascending)) - 1] if ascending else math.inf


def post(host: str, port: int, path: str, body: bytes, more: Mapping[str, str] = _NOTHING) -> bytes:
    """The bytes of a request that sends an image, with more headers than every such request has."""
    headers = {"Host": f"{host}:{port}", "Content-Type": "image/jpeg", "Content-Length": len(body), **more}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def ask(address: tuple[str, int], wire: bytes) -> bytes:
    """The body of the answer to one request.

    Raises:
        LoadFailed: there was none, or its status is not 200.
    """
    caller = _Caller(address, [Request(wire)], 0)
    with caller.socket:
        caller.begin()
        while not caller.is_answered:
            if not caller.write():
                _wait(caller.socket, selectors.EVENT_WRITE)
            else:
                _wait(caller.socket, selectors.EVENT_READ)
                caller.read()
        return caller.body


def closed_loop(address: tuple[str, int], requests: Sequence[Request], callers: int, seconds: float) -> Load:
    """Let `callers` send these requests in turns for so many seconds and a warm-up before.

    Raises:
        LoadFailed: a request was not answered as it should have been.
    """
    cpu = time.thread_time()
    begin = time.perf_counter() + WARM_UP_SECONDS
    end = begin + seconds
    latencies: list[float] = []
    answers = 0
    waiting = [_Caller(address, requests, number) for number in range(callers)]
    with selectors.DefaultSelector() as selector:
        try:
            for caller in waiting:
                caller.start(selector)
            while selector.get_map():
                events = selector.select(_SILENT_SECONDS)
                if not events:
                    raise LoadFailed(f"no answer within {_SILENT_SECONDS:g} s")
                for key, mask in events:
                    if not (caller := key.data).on_event(selector, mask):
                        continue
                    now = time.perf_counter()
                    answers += 1
                    if begin <= now < end:
                        latencies.append((now - caller.began) * 1e3)
                    if now < end:
                        caller.again(selector)
                    else:
                        selector.unregister(caller.socket)
        finally:
            for caller in waiting:
                caller.socket.close()
    return Load(len(latencies) / seconds, sorted(latencies), answers, time.thread_time() - cpu)


def _wait(waiting: socket.socket, event: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(waiting, event)
        if not selector.select(_SILENT_SECONDS):
            raise LoadFailed(f"no answer within {_SILENT_SECONDS:g} s")


@dataclass
class _Caller:
    """One connection, and the request that is under way on it."""

    address: tuple[str, int]
    requests: Sequence[Request]
    turn: int
    began: float = 0.0
    body: bytes = b""
    is_answered: bool = False
    _closes: bool = False
    _unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    _received: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def begin(self) -> None:
        """Take the next request."""
        self._request = self.requests[self.turn % len(self.requests)]
        self.turn += 1
        self._unsent = memoryview(self._request.wire)
        self._received.clear()
        self.is_answered = False
        self.began = time.perf_counter()

    def start(self, selector: selectors.BaseSelector) -> None:
        """Send the first request."""
        self.begin()
        selector.register(self.socket, selectors.EVENT_WRITE, self)

    def again(self, selector: selectors.BaseSelector) -> None:
        """Send the next request, on a new connection if the server has closed the old one."""
        if self._closes:
            selector.unregister(self.socket)
            self.socket.close()
            self._connect()
            self.start(selector)
            return
        self.begin()
        if not self.write():
            selector.modify(self.socket, selectors.EVENT_WRITE, self)

    def on_event(self, selector: selectors.BaseSelector, mask: int) -> bool:
        """Write or read what goes; whether the answer is complete."""
        if mask & selectors.EVENT_WRITE:
            if self.write():
                selector.modify(self.socket, selectors.EVENT_READ, self)
            return False
        self.read()
        return self.is_answered

    def write(self) -> bool:
        """Send what the socket takes; whether that was all."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        except OSError as error:
            raise LoadFailed(f"the connection broke while a request was sent: {error}") from error
        return True

    def read(self) -> None:
        """Receive what has come, and judge the answer when it is complete.

        Raises:
            LoadFailed: it is not the expected one.
        """
        try:
            received = self.socket.recv(_READ_BYTES)
        except OSError as error:
            raise LoadFailed(f"the connection broke before the answer: {error}") from error
        if not received:
            raise LoadFailed("the connection was closed before the answer")
        self._received += received
        head, separator, body = bytes(self._received).partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if separator else None
        if not separator or (length and len(body) < int(length[1])):
            return
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) or not length:
            raise LoadFailed(f"{head.splitlines()[0].decode()}: {body[:_QUOTED_BYTES].decode(errors='replace')}")
        if not body.startswith(self._request.answer):
            raise LoadFailed(
                f"another answer than before: {body[:_QUOTED_BYTES].decode(errors='replace')}, "
                f"not {self._request.answer[:_QUOTED_BYTES].decode(errors='replace')}"
            )
        self.body, self._closes, self.is_answered = body, bool(_CLOSES.search(head)), True
