"""Holds a running gateway against its own description: schemathesis, all phases and all checks."""

import base64
import contextlib
import io
import json
import urllib.request
from dataclasses import dataclass, field

import numpy as np
import schemathesis
from hypothesis import strategies
from PIL import Image
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from schemathesis.generation import GenerationMode
from schemathesis.transport.serialization import Binary

MIN_TIMEOUT_MS = 60_000
JSON_LENGTH = "Inference-Header-Content-Length"
ONLY_IF_WRONG = "negative_data_rejection"
IMAGE_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/bmp": "BMP"}


@dataclass
class Report:
    """How many requests were sent to each operation, and what was found wrong."""

    statuses: dict[str, dict[int, int]] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    right: set[str] = field(default_factory=set)
    """Ids of the requests that were made to be right. Changed afterwards, a body with a file in it counts as wrong."""

    @property
    def requests(self):
        return sum(sum(counts.values()) for counts in self.statuses.values())

    def add(self, recorder):
        for case_id, interaction in recorder.interactions.items():
            operation = recorder.cases[case_id].value.operation.label
            status = interaction.response.status_code if interaction.response else 0
            counts = self.statuses.setdefault(operation, {})
            counts[status] = counts.get(status, 0) + 1
            for check in recorder.checks.get(case_id, ()):
                if check.status is Status.FAILURE and not (check.name == ONLY_IF_WRONG and case_id in self.right):
                    self.findings.setdefault(f"{operation}: {check.name}", told(check, interaction))


def told(check, interaction):
    """What a person needs to know of a failure, without the bytes of an image."""
    answer = interaction.response.content[:500] if interaction.response else None
    return f"{check.failure_info.failure}; {interaction.request.uri} {interaction.request.headers}: {answer}"


def encoded(width, height, image_format):
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(buffer, image_format)
    return buffer.getvalue()


def pictures(*formats):
    sides = strategies.integers(1, 64)
    return strategies.builds(encoded, sides, sides, strategies.sampled_from(formats))


def register_pictures():
    """Let generated bodies hold real pictures wherever the description says that there is one."""
    for media_type, image_format in IMAGE_TYPES.items():
        schemathesis.openapi.media_type(media_type, pictures(image_format))
    any_picture = pictures(*IMAGE_TYPES.values())
    schemathesis.openapi.media_type("application/octet-stream", any_picture)
    schemathesis.openapi.format("byte", any_picture.map(lambda data: base64.b64encode(data).decode()))
    schemathesis.openapi.format("binary", any_picture.map(Binary))


def give_time(given):
    """Allow no deadline too short to be met: the right answer, 504, would look like a server's failure."""
    if isinstance(given, dict):
        with contextlib.suppress(TypeError, ValueError):
            timeout_ms = float(given["timeout_ms"]) if "timeout_ms" in given else 0
            if 1 <= timeout_ms <= MIN_TIMEOUT_MS:
                given["timeout_ms"] = MIN_TIMEOUT_MS
        with contextlib.suppress(TypeError, ValueError):
            timeout_microseconds = float(given.get("timeout", 0))
            if 1 <= timeout_microseconds <= MIN_TIMEOUT_MS * 1000:
                given["timeout"] = MIN_TIMEOUT_MS * 1000
        give_time(given.get("parameters"))


def agree_with_itself(case, model):
    """See to what a schema can't say of a request that shall be right: what is served, and what fits together."""
    query, body = case.query or {}, case.body if isinstance(case.body, dict) else {}
    for given in (query, body, body.get("parameters") or {}):
        name_what_is_served(given, model)
    for name in set(query) & set(body):
        del body[name]
    for name, value in body.items():
        if isinstance(value, float) and value.is_integer():
            body[name] = int(value)  # a form would say 7.0, which is no whole number there
    if "jpeg" in (query.get("format"), body.get("format")) and isinstance(body.get("images", body.get("image")), list):
        (query if "format" in query else body)["format"] = "json"
    if case.path.endswith("/infer"):
        case.headers[JSON_LENGTH] = "0"
    if "inputs" in body:
        del case.headers[JSON_LENGTH]
        tensor = body["inputs"][0]
        tensor["shape"] = [len(tensor["data"])]
        body["outputs"] = list({output["name"]: output for output in body.get("outputs", [])}.values())


def name_what_is_served(given, model):
    """Replace what only a look at the model can tell, always by the same for the same."""
    if "classes" in given:
        labels = model["labels"][: 1 + len(str(given["classes"])) % len(model["labels"])]
        given["classes"] = labels if isinstance(given["classes"], list) else ",".join(labels)
    if "model" in given:
        given["model"] = model["name"]
    if "version" in given:
        with contextlib.suppress(TypeError, ValueError):  # a field of any kind that nobody looks at
            given["version"] = model["versions"][int(given["version"]) % len(model["versions"])]


def fetched(url, headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return json.load(response)


def hold_against_description(url, max_examples, key=None):
    """Send generated requests, right and wrong ones, to the gateway at `url`; the same ones each time."""
    register_pictures()
    headers = {} if key is None else {"X-API-Key": key}
    document = fetched(f"{url}/openapi.json", {})
    model = fetched(f"{url}/v1/models", headers)["models"][0]
    generation = {"deterministic": True, "database": "none", "no-shrink": True}
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "base-url": url,
            **({} if key is None else {"auth": {"openapi": {"bearer": {"bearer": key}, "header": {"api_key": key}}}}),
            "request-timeout": 30,
            "continue-on-failure": True,
            "generation": {**generation, "max-examples": max_examples},
            "operations": [
                {"include-path-regex": "detect|infer", "generation": {**generation, "max-examples": 10 * max_examples}}
            ],
        }
    )
    schema = schemathesis.openapi.from_dict(document, config=config)
    report = Report()

    @schema.hook
    def map_case(_, case):
        if case.meta.generation.mode is GenerationMode.POSITIVE:
            report.right.add(case.id)
            agree_with_itself(case, model)
        give_time(case.query)
        give_time(case.body)
        return case

    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            report.add(event.recorder)
        elif isinstance(event, events.NonFatalError):
            report.findings[f"{event.phase}: {event.label}"] = str(event.value)
        elif isinstance(event, events.FatalError):
            raise event.exception
    return report
