"""The gateway's REST face as a client sees it: requests are built and answers read here, without any I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from urllib.parse import quote, urlencode

import numpy as np

from eagleeye.client.attempts import Exchange, Flow, Run
from eagleeye.client.errors import (
    EagleEyeError,
    InvalidResponse,
    Refused,
    Unreachable,
    excerpt,
    read_retry_after,
    refusal,
)
from eagleeye.client.query import timeout_ms
from eagleeye.client.results import Detections, Health, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eagleeye.client.address import Address
    from eagleeye.client.attempts import T
    from eagleeye.client.query import Query

OK: Final = 200
UNAVAILABLE: Final = 503
RATE_LIMITED: Final = 429
PROXY_FAILURES: Final = frozenset({502, 503})
"""What a proxy answers whose gateway is away. The gateway's own errors are problem documents."""
MAX_RESPONSE_BYTES: Final = 64 * 2**20
"""A thousand detections are some 200 KB; what is longer than this comes from something else."""
_MALFORMED: Final = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


class HttpRequest(NamedTuple):
    """One request; `target` is path and query."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class HttpResponse(NamedTuple):
    """One whole response; the names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Rest:
    """Asks for things, and reads what comes. Its transport sends an `HttpRequest` and gives an `HttpResponse`.

    Args:
        address: the gateway's.
        key: sent with each request; None for none.
    """

    def __init__(self, address: Address, key: str | None) -> None:
        self._path = quote(address.path, safe="/%")
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "eagleeye"}
        if key is not None:
            self._headers["X-API-Key"] = key

    def detect(self, image: bytes, query: Query) -> Exchange[Detections]:
        """What is on one encoded image."""
        named = {"model": query.model, "version": None if query.version is None else str(query.version)}
        parameters = {name: text for name, text in named.items() if text is not None} | query.parameters()

        def request(seconds: float) -> HttpRequest:
            text = urlencode({**parameters, "timeout_ms": timeout_ms(seconds)})
            headers = {**self._headers, "Content-Type": "application/octet-stream"}
            return HttpRequest("POST", f"{self._path}/v1/detect?{text}", headers, image)

        return Exchange(request, _read_detections)

    def models(self, run: Run) -> Flow[list[ModelInfo]]:
        """All models that are served; `run` turns an exchange into a flow."""
        return (yield from run(self._get("/v1/models", _read_models)))

    def model(self, name: str, run: Run) -> Flow[ModelInfo]:
        """One model."""
        return (yield from run(self._get(f"/v1/models/{quote(name, safe='')}", _read_model)))

    def health(self, run: Run) -> Flow[Health]:
        """Whether the gateway lives and serves."""
        live = yield from run(self._get("/v2/health/live", _read_probe))
        ready = yield from run(self._get("/v2/health/ready", _read_probe))
        return Health(live, ready)

    def _get(self, path: str, read: Callable[[HttpResponse], T]) -> Exchange[T]:
        request = HttpRequest("GET", self._path + path, self._headers, b"")
        return Exchange(lambda _: request, read)


def _read_detections(response: HttpResponse) -> Detections:
    content = _content(response)
    try:
        found = content["detections"]
        boxes = [[box[side] for side in ("x1", "y1", "x2", "y2")] for box in (each["box"] for each in found)]
        return Detections(
            xyxy=_floats(boxes).reshape(-1, 4),
            scores=_floats([each["score"] for each in found]),
            class_ids=np.array([_integer(each["class_id"]) for each in found], np.int32),
            labels=tuple(_text(each["label"]) for each in found),
            image_wh=_pair(content["image"]),
            model=_text(content["model"]["name"]),
            version=_text(content["model"]["version"]),
        )
    except _MALFORMED as error:
        raise InvalidResponse(f"the answer is not a detection result: {excerpt(response.body)}") from error


def _read_models(response: HttpResponse) -> list[ModelInfo]:
    content = _content(response)
    try:
        return [_model(each) for each in content["models"]]
    except _MALFORMED as error:
        raise InvalidResponse(f"the answer is no list of models: {excerpt(response.body)}") from error


def _read_model(response: HttpResponse) -> ModelInfo:
    content = _content(response)
    try:
        return _model(content)
    except _MALFORMED as error:
        raise InvalidResponse(f"the answer describes no model: {excerpt(response.body)}") from error


def _read_probe(response: HttpResponse) -> bool:
    if response.status not in {OK, UNAVAILABLE}:
        _raise_error(response)
    return response.status == OK


def _content(response: HttpResponse) -> Any:
    """The JSON of an answer that is no error."""
    if response.status != OK:
        _raise_error(response)
    try:
        return json.loads(response.body)
    except _MALFORMED as error:
        raise InvalidResponse(f"the answer is not JSON: {excerpt(response.body)}") from error


def _raise_error(response: HttpResponse) -> NoReturn:
    """Raise what an answer says that is an error."""
    retry_after = read_retry_after(response.headers.get("retry-after"))
    try:
        problem = json.loads(response.body)
        code, detail, request_id = _text(problem["code"]), _text(problem["detail"]), problem.get("request_id")
    except _MALFORMED:
        raise _foreign_error(response, retry_after) from None
    known_id = None if request_id is None else str(request_id)
    raise refusal(code, detail, known_id, retry_after, is_unavailable=response.status == UNAVAILABLE)


def _foreign_error(response: HttpResponse, retry_after: float | None) -> EagleEyeError:
    """What answered with an error is not the gateway."""
    text = f"the answer has status {response.status}: {excerpt(response.body)}"
    if response.status in PROXY_FAILURES:
        return Unreachable(f"the gateway is away; {text}", is_retryable=True, retry_after_seconds=retry_after)
    if response.status == RATE_LIMITED:
        return Refused(text, code="rate_limited", is_retryable=True, retry_after_seconds=retry_after)
    return InvalidResponse(text)


def _model(content: Any) -> ModelInfo:
    return ModelInfo(
        name=_text(content["name"]),
        versions=tuple(_text(version) for version in content["versions"]),
        labels=tuple(_text(label) for label in content["labels"]),
        input_wh=_pair(content["input"]),
        score_threshold=float(content["defaults"]["score_threshold"]),
        iou_threshold=float(content["defaults"]["iou_threshold"]),
        facts={_text(name): _text(fact) for name, fact in content["facts"].items()},
    )


def _floats(values: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """JSON's numbers as the float32 that the gateway wrote: it gives the digits that tell one apart, and no more."""
    numbers = np.array(values)
    if numbers.size and numbers.dtype.kind not in "fi":
        raise TypeError("not all are numbers")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return numbers.astype(np.float32)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _pair(size: Any) -> tuple[int, int]:
    return _integer(size["width"]), _integer(size["height"])
