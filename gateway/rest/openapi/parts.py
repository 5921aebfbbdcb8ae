"""What the document is put together from: JSON Schemas (2020-12), parameters, answers, lines of code."""

from __future__ import annotations

import http
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from gateway.rest import problems
from gateway.rest.access import HEADERS as QUOTA_HEADERS
from gateway.rest.access import OPEN_PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.model import Model
    from gateway.rest.face import RestFace

Schema = dict[str, Any]

PICTURE: Final = "picture.jpg"
"""The reader's own picture, as lines of code name it."""

ONE_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
"""The smallest picture, in base64, for examples."""

KEY_VARIABLE: Final = "KEY"
"""The environment variable in which lines of code look for the reader's key."""

BYTES: Final[Schema] = {"type": "string", "format": "binary"}

REQUEST_ID: Final = "b1c2d3e4f5061728394a5b6c7d8e9f00"


class Explained(NamedTuple):
    """What a problem's code means, and an example of its detail."""

    meaning: str
    detail: str


PROBLEMS: Final = {
    "invalid_image": Explained(
        "The image is empty, truncated or damaged.",
        "the JPEG image is truncated or damaged",
    ),
    "invalid_parameter": Explained(
        "A parameter or the form of the body is wrong; `detail` says what is allowed.",
        "max_detections is 0; it must lie between 1 and 1000",
    ),
    "unauthorized": Explained(
        "A key is needed, and none or an unknown one was sent.",
        "a key is needed; send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'",
    ),
    "model_not_found": Explained(
        "No such model or version is served, or several models are and none was named.",
        "there is no model 'other'",
    ),
    "upload_timeout": Explained(
        "The body did not arrive in time.",
        "the body did not arrive within 30 s",
    ),
    "image_too_large": Explained(
        "More bytes or pixels than the limits. Bytes are counted while they arrive, pixels before any is decoded.",
        "the body has more than 20,000,000 bytes, the most that is accepted",
    ),
    "unsupported_media_type": Explained(
        "An image is neither JPEG, PNG, WebP nor BMP, or the `Content-Encoding` is neither gzip nor deflate.",
        "the body is not an image that can be read; JPEG, PNG, WebP and BMP are allowed",
    ),
    "rate_limited": Explained(
        "The key has used up what it may send for now. `Retry-After` says when to come back.",
        "this key has used up its 10 requests per 1 s; the next one may come in 1 s",
    ),
    "internal": Explained(
        "A defect of EagleEye; its log has it under the request id.",
        "an unexpected error happened; the log has it under the request id",
    ),
    "invalid_prediction": Explained(
        "Triton answered with something that breaks the model's contract.",
        "Triton's answer for 'my_model' breaks the model's contract",
    ),
    "overloaded": Explained(
        "So many images wait that this one would be answered too late, or they hold as much memory as allowed. "
        "`Retry-After` says when to come back.",
        "the image's turn would come after 1840 ms and an answer now takes up to 60 ms, too late for an answer within "
        "the 1000 ms that the request allows",
    ),
    "triton_unavailable": Explained(
        "No Triton can be reached, or it could not run the model.",
        "no Triton serves a detector",
    ),
    "deadline_exceeded": Explained(
        "There was no answer within `timeout_ms`.",
        "no answer within the 10000 ms that the request allows",
    ),
}
"""Every `code` of a problem that an operation can answer."""

OF_DETECTION: Final = tuple(code for code in PROBLEMS if code not in {"unauthorized", "rate_limited", "internal"})
"""Those of an operation that looks at images; the others depend on keys, or belong to every operation."""

_STATUS: Final = {error.code: status for error, status in problems.HTTP_STATUS.items()} | {
    "upload_timeout": 408,
    "internal": 500,
}
_TEMPORARY: Final = {"rate_limited", "overloaded", "triton_unavailable"}  # the header Retry-After goes with these

_HEADERS: Final = {
    "X-Request-Id": {
        "description": "The id under which the log has this request.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Cache-Control": {"description": "Not to be cached.", "required": True, "schema": {"const": "no-store"}},
}
_RETRY_AFTER: Final = {
    "description": "Seconds after which a new try is worthwhile.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}
_CHALLENGE: Final = {"description": "How a key is sent.", "required": True, "schema": {"const": "Bearer"}}
_QUOTA: Final = {
    name: {
        "description": "What the key may still send (draft-ietf-httpapi-ratelimit-headers); sent if it has a rate.",
        "schema": {"type": "string"},
    }
    for name in QUOTA_HEADERS
}
_OF_EVERY_REQUEST: Final = [
    {
        "name": "X-Request-Id",
        "in": "header",
        "description": "An id of yours for this request, printable ASCII of up to 128 characters; else it gets one.",
        "schema": {"type": "string"},
    },
    {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context: the trace that this request belongs to. A malformed one is ignored.",
        "schema": {"type": "string"},
    },
]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is described.

    Attributes:
        face: its limits, and whether it asks for keys.
        url: where it is reached, an origin such as http://127.0.0.1:8080.
        model: the model that examples name.
        is_only_model: whether a request need not name it.
    """

    face: RestFace
    url: str
    model: Model
    is_only_model: bool

    @property
    def name(self) -> str:
        """The model's name as an address has it, safe in a shell, too."""
        return quote(self.model.name)

    def curl(self, path: str, options: str = "", query: str = "") -> str:
        """A line for a shell: with a key if one is needed, and with the model's name if it has to choose."""
        key = f'-H "X-API-Key: ${KEY_VARIABLE}"' if self.needs_key(path) else ""
        url = f"{self.url}{path}"
        address = f'"{url}?{query}"' if query else url
        return " ".join(word for word in ("curl", key, options, address) if word)

    def choosing(self, query: str = "") -> str:
        """A query string that also names the model where that is needed."""
        return query if self.is_only_model else "&".join(part for part in (f"model={self.name}", query) if part)

    def needs_key(self, path: str) -> bool:
        """Whether a request to that path must have a key."""
        return self.face.core.access is not None and path not in OPEN_PATHS

    def operation(
        self,
        path: str,
        *,
        tag: str,
        name: str,
        summary: str,
        success: Mapping[str, Any],
        samples: list[dict[str, str]],
        codes: tuple[str, ...] = (),
        parameters: tuple[dict[str, Any], ...] = (),
        **more: Any,
    ) -> dict[str, Any]:
        """One operation: what it is asked for, what it answers, and the problems with these codes."""
        needs_key = self.needs_key(path)
        codes = (*codes, *(("unauthorized", "rate_limited") if needs_key else ()), "internal")
        operation = {
            "operationId": name,
            "tags": [tag],
            "summary": summary,
            "parameters": [*parameters, *_OF_EVERY_REQUEST],
            "responses": {"200": success, **_problems(codes, has_error=path.startswith(problems.OIP_PREFIX))},
            "x-codeSamples": samples,
            **more,
        }
        if needs_key:
            operation["security"] = [{"bearer": []}, {"header": []}]
            for response in operation["responses"].values():
                response["headers"] = {**response["headers"], **_QUOTA}
        return operation


def answer(description: str, media_types: Mapping[str, Mapping[str, Any]], **headers: Any) -> dict[str, Any]:
    """A response with the headers that every response has, and these."""
    return {"description": description, "headers": {**_HEADERS, **headers}, "content": dict(media_types)}


def json_answer(description: str, schema: Schema, example: Any) -> dict[str, Any]:
    """A response in JSON."""
    return answer(description, {"application/json": {"schema": schema, "example": example}})


def sample(source: str, label: str = "", lang: str = "Shell") -> dict[str, str]:
    """A line of code, or a few."""
    return {"lang": lang, "label": label, "source": source}


def in_query(name: str, schema: Schema) -> dict[str, Any]:
    """A parameter of the query string; a list is written with commas."""
    parameter = {"name": name, "in": "query", "description": schema["description"], "schema": schema}
    return parameter | ({"style": "form", "explode": False} if schema["type"] == "array" else {})


def in_path(name: str, schema: Schema, example: str) -> dict[str, Any]:
    """A part of the path."""
    description = schema["description"]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def ref(name: str) -> Schema:
    """A schema of `components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(description: str, **fields: Schema) -> Schema:
    """An object with exactly these fields."""
    return {
        "type": "object",
        "description": description,
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def may_lack(schema: Schema, *names: str) -> Schema:
    """The same record, in which these fields may be missing."""
    return {**schema, "required": [name for name in schema["required"] if name not in names]}


def of(kind: str | list[str], description: str, **more: Any) -> Schema:
    """A value of one JSON type, or of several."""
    return {"type": kind, "description": description, **more}


def listed(items: Schema, description: str, **more: Any) -> Schema:
    """A list."""
    return of("array", description, items=items, **more)


def problem(codes: tuple[str, ...], status: int | None = None, **more: Schema) -> Schema:
    """A problem document's members about an error with one of these codes, of one status or of several, and more."""
    return record(
        "A problem (RFC 9457).",
        type=of("string", "Always `about:blank`: `code` tells problems apart.", const="about:blank"),
        title=of("string", "The status in words."),
        status=of("integer", "The HTTP status.") | ({} if status is None else {"const": status}),
        code=of("string", "Stable, for programs.", enum=list(codes)),
        detail=of("string", "What was wrong and what is allowed, for people; its wording may change."),
        **more,
    )


def example_problem(code: str) -> dict[str, Any]:
    """A problem document as it may come."""
    status = _STATUS[code]
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": PROBLEMS[code].detail,
        "request_id": REQUEST_ID,
    }


def _problems(codes: tuple[str, ...], *, has_error: bool) -> dict[str, Any]:
    by_status: dict[int, tuple[str, ...]] = {}
    for code in codes:
        by_status[_STATUS[code]] = (*by_status.get(_STATUS[code], ()), code)
    return {str(status): _problem(status, by_status[status], has_error=has_error) for status in sorted(by_status)}


def _problem(status: int, codes: tuple[str, ...], *, has_error: bool) -> dict[str, Any]:
    """The answer of one status; `has_error` for the protocol whose clients look for the text there."""
    example = example_problem(codes[0])
    more = {"request_id": of("string", "The id under which the log has this request.")}
    if has_error:
        more["error"] = of("string", "`detail` again, where clients of the protocol look for it.")
    schema = problem(codes, status, **more)
    content = {"schema": schema, "example": example | ({"error": example["detail"]} if has_error else {})}
    headers: dict[str, Any] = {}
    if _TEMPORARY.intersection(codes):
        headers["Retry-After"] = _RETRY_AFTER
    if "unauthorized" in codes:
        headers["WWW-Authenticate"] = _CHALLENGE
    meanings = "\n\n".join(f"`{code}`: {PROBLEMS[code].meaning}" for code in codes)
    return answer(meanings, {"application/problem+json": content}, **headers)
