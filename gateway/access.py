"""Who may ask, how often, and about which models. Knows no HTTP and no gRPC."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from gateway.buckets import OwnBucket
from gateway.errors import InvalidParameter, ModelNotFound, RateLimited, Unauthorized
from gateway.files import fingerprint
from gateway.keys import Key, KeysFileError, hash_secret, read_keys
from gateway.model import find
from gateway.priority import Priority
from gateway.reloaded import Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gateway.buckets import Bucket
    from gateway.deadline import Deadline
    from gateway.detections import RawPredictions
    from gateway.detector import Predictor
    from gateway.image import UInt8Array
    from gateway.model import Model

_NANOSECONDS: Final = 1_000_000_000
_BEARER: Final = "bearer "
_NO_HASH: Final = "0" * 64

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Quota:
    """What a token bucket said about one request.

    Attributes:
        is_granted: whether there was a token.
        limit: tokens of a full bucket.
        window_seconds: time in which an empty bucket fills, rounded up.
        remaining: tokens left.
        reset_seconds: time until there is one more, rounded up; 1 or more.
    """

    is_granted: bool
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int

    def check(self) -> None:
        """Stop a request that got no token.

        Raises:
            RateLimited: it carries the seconds until there is one.
        """
        if not self.is_granted:
            raise RateLimited(
                f"this key has used up its {self.limit} requests per {self.window_seconds} s; "
                f"the next one may come in {self.reset_seconds} s",
                self.reset_seconds,
            )


class TokenBucket:
    """Lets `rate` requests per second through, and `burst` at once after a pause.

    All it remembers is when it will be full again, in whole nanoseconds, so that nothing drifts (this form of the token
    bucket is known as the generic cell rate algorithm).
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        remembered: Bucket | None = None,
    ) -> None:
        self._burst = burst
        self._interval = max(1, round(_NANOSECONDS / rate))  # in which one token comes
        self._clock = clock_ns
        self._remembered = remembered or OwnBucket()

    def take(self) -> Quota:
        """Take a token if there is one."""
        now = self._clock()
        lacking = max(self._remembered.full_at - now, 0)  # in ns until full, as all times here
        is_granted = lacking <= (self._burst - 1) * self._interval
        if is_granted:
            lacking += self._interval
            self._remembered.full_at = now + lacking
        remaining = (self._burst * self._interval - lacking) // self._interval
        until_next = lacking - (self._burst - 1 - remaining) * self._interval
        return Quota(
            is_granted=is_granted,
            limit=self._burst,
            window_seconds=_whole_seconds(self._burst * self._interval),
            remaining=remaining,
            reset_seconds=_whole_seconds(until_next),
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the entry of the key, and its bucket if it has a rate."""

    key: Key
    bucket: TokenBucket | None

    @property
    def name(self) -> str:
        """What logs call this caller."""
        return self.key.name

    def take(self) -> Quota | None:
        """Count one request against the key's rate; None if it has none."""
        return None if self.bucket is None else self.bucket.take()

    def may_use(self, model: str) -> bool:
        """Whether the key allows that model."""
        return self.key.models is None or model in self.key.models


# Not handed from call to call but kept by the task, so that no route can forget to hide what the caller may not see.
_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current() -> Caller | None:
    """Who sent the request that is being worked on; None where no key was asked for."""
    return _current.get()


def act_for(caller: Caller) -> None:
    """Work for `caller` until this task ends; both faces give each request a task of its own."""
    _current.set(caller)


def flow(address: str, stream: str = "") -> str:
    """Whose request it is that is being worked on, as a unit of fairness.

    Each stream is one, then each key; without keys, each address. Callers behind one proxy share its address, and are
    told apart by keys only: what a request says of itself could be made up.
    """
    caller = _current.get()
    owner = f"key {caller.name}" if caller else f"address {address}"
    return f"{owner} stream {stream}" if stream else owner


def permitted_priority(asked: Priority | None) -> Priority:
    """The priority of a request: the one that it asks for, else normal, or the key's if that is lower.

    Without keys every caller may have any.

    Raises:
        InvalidParameter: it asks for more than its key allows. A silent step down would only be found out under load.
    """
    caller = _current.get()
    if caller is None:
        return asked or Priority.NORMAL
    highest = caller.key.highest_priority
    if asked and asked.rank < highest.rank:
        raise InvalidParameter(
            f"priority is {asked.value!r}; this key allows {highest.value!r} at most, see `eagleeye key add --priority`"
        )
    return asked or max(highest, Priority.NORMAL, key=lambda priority: priority.rank)


class Access(Reloaded):
    """Knows the keys of the file at `path`. While entered, a change of the file counts within about a second.

    A file that becomes unreadable or wrong changes nothing but for an error in the log: the keys before it stay.
    """

    def __init__(
        self,
        path: Path,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        remember: Callable[[Key], Bucket] = lambda _: OwnBucket(),
    ) -> None:
        """Read the file. `remember` says where the number of a key's bucket is kept.

        Raises:
            KeysFileError: it can't be read, or is not as it must be.
        """
        self._path = path
        self._clock = clock_ns
        self._remember = remember
        self._callers: dict[str, Caller] = {}
        self._seen = fingerprint(path)
        self._take_over(read_keys(path))

    def identify(self, secret: str | None) -> Caller:
        """Whose key `secret` is.

        Raises:
            Unauthorized: it is nobody's, or None.
        """
        if not secret:
            raise Unauthorized("a key is needed; send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'")
        digest = hash_secret(secret)
        # Nobody can choose a hash digit by digit, so how long the dictionary takes tells nothing of those it holds.
        caller = self._callers.get(digest)
        if not hmac.compare_digest(digest, caller.key.sha256 if caller else _NO_HASH) or caller is None:
            raise Unauthorized("the key is not known; it may have been removed")
        return caller

    async def reload(self) -> None:
        """Read the file again if it has changed. Whoever keeps a name and a rate keeps the bucket as it is."""
        seen = await asyncio.to_thread(fingerprint, self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            keys = await asyncio.to_thread(read_keys, self._path)
        except KeysFileError as error:
            _log.error("the keys stay as they were", reason=str(error))
            return
        self._take_over(keys)
        _log.info("keys read", path=str(self._path), keys=len(keys))

    def _take_over(self, keys: tuple[Key, ...]) -> None:
        """There is one bucket for each key of the file and no other, which bounds the memory that they take."""
        before = {caller.name: caller for caller in self._callers.values()}
        self._callers = {key.sha256: Caller(key, self._bucket(key, before.get(key.name))) for key in keys}

    def _bucket(self, key: Key, before: Caller | None) -> TokenBucket | None:
        if key.rate is None:
            return None
        if before and (before.key.rate, before.key.bucket_size) == (key.rate, key.bucket_size):
            return before.bucket
        return TokenBucket(key.rate, key.bucket_size, self._clock, self._remember(key))


class Permitted:
    """A predictor, see `gateway.detector.Predictor`, as each caller may see it.

    A model that a key does not allow is as if it were not there: a caller can't even learn that it exists. Who sends no
    key, to a route that needs none, sees no model at all.
    """

    def __init__(self, served: Predictor) -> None:
        self._served = served

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that are served now and that the current caller may use, by name; none for nobody."""
        return _permitted(self._served.models)

    @property
    def expected_models(self) -> Mapping[str, Model]:
        """See `gateway.detector.Predictor.expected_models`; again, those that the current caller may use."""
        return _permitted(self._served.expected_models)

    def find(self, name: str | None, version: int | None) -> tuple[Model, int]:
        """See `gateway.detector.Predictor.find`."""
        models = self.expected_models
        if self._served.expected_models and not models:
            raise ModelNotFound("none of the models that this key allows is served")
        return find(models, name, version)

    async def until_served(self) -> None:
        """See `gateway.detector.Predictor.until_served`; whoever may use it."""
        await self._served.until_served()

    async def predict(
        self, model: Model, version: int, tensor: UInt8Array, deadline: Deadline, *, is_replaceable: bool = False
    ) -> RawPredictions:
        """See `gateway.detector.Predictor.predict`."""
        return await self._served.predict(model, version, tensor, deadline, is_replaceable=is_replaceable)


def _permitted(models: Mapping[str, Model]) -> dict[str, Model]:
    caller = current()
    return {} if caller is None else {name: model for name, model in models.items() if caller.may_use(name)}


def presented(fields: Mapping[str, str]) -> str | None:
    """The secret among a request's header fields or metadata, whose names are lower case or looked up regardless.

    Both faces take the same two: `x-api-key: KEY`, or else `authorization: Bearer KEY`.
    """
    if key := fields.get("x-api-key"):
        return key
    authorization = fields.get("authorization", "")
    return authorization[len(_BEARER) :].strip() if authorization.lower().startswith(_BEARER) else None


def _whole_seconds(nanoseconds: int) -> int:
    return max(1, -(-nanoseconds // _NANOSECONDS))
