"""`POST /v1/detect`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gateway import parameters
from gateway.batch import MAX_IMAGES
from gateway.detector import MAX_DETECTIONS, Query
from gateway.priority import Priority
from gateway.rest import detect
from gateway.rest.openapi.parts import (
    BYTES,
    KEY_VARIABLE,
    OF_DETECTION,
    ONE_PIXEL,
    PICTURE,
    REQUEST_ID,
    Schema,
    answer,
    example_problem,
    in_query,
    listed,
    may_lack,
    of,
    problem,
    record,
    ref,
    sample,
)
from gateway.rest.outputs import HEADERS as PICTURE_HEADERS
from gateway.rest.outputs import Format
from gateway.rest.query import MAX_IMAGE_ID

if TYPE_CHECKING:
    from gateway.model import Model
    from gateway.rest.openapi.parts import Subject

TAG: Final = {"name": "Detection", "description": "Images in, objects out."}
STAGES: Final = ("decode", "preprocess", "infer", "postprocess", "total")

_PATH: Final = detect.PATHS[0]
_IMAGE_TYPES: Final = ("application/octet-stream", "image/jpeg", "image/png", "image/webp", "image/bmp")
_OF_ONE_IMAGE: Final = tuple(code for code in OF_DETECTION if code not in {"invalid_parameter", "upload_timeout"})


def paths(subject: Subject) -> dict[str, Any]:
    """The one route; its aliases stand in its text."""
    face, url = subject.face, f"{subject.url}{_PATH}"
    asked = _parameters(face.core.timeout_seconds)
    operation = subject.operation(
        _PATH,
        tag=TAG["name"],
        name="detect",
        summary="Find the objects in one or more images",
        success=_success(subject.model),
        codes=OF_DETECTION,
        parameters=tuple(in_query(name, schema) for name, schema in asked.items()),
        samples=_samples(subject, url),
        description=inspect.cleandoc(f"""
            The body is one image as it is, whatever content type it is sent with: its bytes decide. Or it is a form or
            a JSON object with up to {MAX_IMAGES} images and {face.max_body_bytes:,} bytes, in which parameters may
            stand too, each in one place only. A body may be compressed with `Content-Encoding: gzip` or `deflate`. It
            must arrive within {face.upload_timeout_seconds:g} s.

            One image is answered by itself. A list (JSON's `images`, or a form with several files) is answered with a
            list in the same order, in which an image that is refused has an `error` and does not spoil the rest.

            `format=jpeg`, or a header `Accept` that prefers `image/jpeg`, answers the picture with its objects drawn
            on it, for one image only. `format=coco` answers rows of a COCO result file; there, a bad image fails the
            whole request.

            The same route answers at {" and ".join(f"`{path}`" for path in detect.PATHS[1:])}.
        """),
        requestBody=_BODY,
    )
    return {_PATH: {"post": operation}}


def schemas(subject: Subject) -> dict[str, Schema]:
    """Those with a name."""
    result = {
        "model": record("Who found it.", name=of("string", "Name of the model."), version=of("string", "Its version.")),
        "image": record(
            "Size of the image, upright by its EXIF orientation.",
            width=of("integer", "Pixels from left to right.", minimum=1),
            height=of("integer", "Pixels from top to bottom.", minimum=1),
        ),
        "detections": listed(ref("Detection"), "The objects, best first; empty if nothing was found."),
        "timing_ms": record(
            "Milliseconds that each stage took.",
            **{stage: of("number", f"Milliseconds of `{stage}`.", minimum=0) for stage in STAGES},
        ),
    }
    result["timing_ms"]["properties"]["total"]["description"] = (
        "Milliseconds of all of it, with the waiting in between."
    )
    request_id = of("string", "The id under which the log has this request.")
    file = of("string", "Name of the file, if the form named it.")
    return {
        **_requests(_parameters(subject.face.core.timeout_seconds)),
        "Detected": record("What was found in one image.", **result, request_id=request_id),
        "Results": record(
            "What was found in each image of a list, in its order.",
            results=listed({"oneOf": [ref("Found"), ref("Refused")]}, "One for each image.", maxItems=MAX_IMAGES),
            request_id=request_id,
        ),
        "Found": may_lack(record("What was found in one image of a list.", file=file, **result), "file"),
        "Refused": may_lack(
            record("Why one image of a list could not be answered.", file=file, error=problem(_OF_ONE_IMAGE)), "file"
        ),
        "Detection": record(
            "One object.",
            label=of("string", "Name of its class."),
            class_id=of("integer", "Number of its class: its place in the model's `labels`, from 0.", minimum=0),
            score=of("number", "How certain the model is.", minimum=0, maximum=1),
            box=ref("Box"),
        ),
        "Box": record(
            "Corners in pixels of the image as it was sent, upright by its EXIF orientation; inside the image, unless "
            "`clip` is false.",
            x1=of("number", "Left edge."),
            y1=of("number", "Top edge."),
            x2=of("number", "Right edge."),
            y2=of("number", "Bottom edge."),
        ),
        "CocoRow": record(
            "One row of a COCO result file.",
            image_id=of("integer", "The parameter `image_id`, and one more for each further image.", minimum=0),
            category_id=of("integer", "The class id, from 0; a data set with other numbers finds its own by `label`."),
            bbox=listed(of("number", "Pixels."), "x, y, width, height.", minItems=4, maxItems=4),
            score=of("number", "How certain the model is.", minimum=0, maximum=1),
            label=of("string", "Name of the class."),
        ),
    }


def _parameters(timeout_seconds: float) -> dict[str, Schema]:
    """What a caller may ask for beside the image, by name; `timeout_seconds` holds when no timeout is asked for."""
    threshold = {"minimum": 0, "maximum": 1}
    default = Query()
    return {
        "model": of("string", "Name of the model; not needed while only one is served.", minLength=1),
        "version": of("integer", "Version of the model; left out, the one that the rollout chooses.", minimum=1),
        "score_threshold": of("number", "Detections score strictly more; left out, the model's default.", **threshold),
        "iou_threshold": of(
            "number",
            "Of two boxes of a class that overlap more, the better one stays; left out, the model's default.",
            **threshold,
        ),
        "max_detections": of(
            "integer",
            "The best so many are answered.",
            minimum=1,
            maximum=MAX_DETECTIONS,
            default=default.max_detections,
        ),
        "classes": listed(
            {"type": "string", "minLength": 1}, "Labels or class ids to look for; left out, all.", minItems=1
        ),
        "agnostic_nms": of(
            "boolean",
            "Whether boxes of different classes compete, too (`iou_threshold`).",
            default=default.agnostic_nms,
        ),
        "clip": of(
            "boolean",
            "Whether boxes end at the border of the image; `false` gives them as the model does, also beyond it.",
            default=default.clip,
        ),
        "timeout_ms": of(
            "number",
            "Milliseconds in which the answer must be there once the body is, or else the request fails with 504.",
            minimum=1,
            maximum=parameters.MAX_TIMEOUT_MS,
            default=round(timeout_seconds * 1e3),
        ),
        "priority": of(
            "string",
            "How urgent it is where requests have to wait; a key says how much is allowed.",
            enum=[each.value for each in Priority],
            default=Priority.NORMAL.value,
        ),
        "format": of("string", "Form of the answer.", enum=[each.value for each in Format]),
        "image_id": of("integer", "Id of the first image in `coco` rows.", minimum=0, maximum=MAX_IMAGE_ID, default=0),
    }


def _requests(asked: dict[str, Schema]) -> dict[str, Schema]:
    """Images and parameters in one body."""
    base64 = of("string", "A JPEG, PNG, WebP or BMP in base64, or a data URL.", format="byte", contentEncoding="base64")
    several = {"minItems": 1, "maxItems": MAX_IMAGES}
    files = listed(BYTES, "The files; their fields may have any names.", **several)
    in_json = {**asked, "classes": {**asked["classes"], "items": {"type": ["string", "integer"], "minLength": 1}}}
    of_list = {
        **in_json,
        "format": {**asked["format"], "enum": [each.value for each in Format if each is not Format.JPEG]},
    }
    in_form = {**asked, "classes": of("string", f"{asked['classes']['description']} With commas between.", minLength=1)}
    records = {
        "Form": record("One or more images, and any parameter.", image=files, **in_form),
        "Image": record("One image, and any parameter.", image=base64, **in_json),
        "Images": record(
            "A list of images, and any parameter.", images=listed(base64, "Images.", **several), **of_list
        ),
    }
    return {name: may_lack(schema, *asked) for name, schema in records.items()}


_BODY: Final = {
    "required": True,
    "description": "An image as it is (JPEG, PNG, WebP or BMP; of any content type), or a form, or JSON.",
    "content": {
        **{media_type: {"schema": BYTES} for media_type in _IMAGE_TYPES},
        "multipart/form-data": {"schema": ref("Form"), "encoding": {"image": {"contentType": "image/*"}}},
        "application/json": {
            "schema": {"oneOf": [ref("Image"), ref("Images")]},
            "example": {"image": ONE_PIXEL, "score_threshold": 0.5},
        },
    },
}


def _success(model: Model) -> dict[str, Any]:
    found = {
        "model": {"name": model.name, "version": str(model.latest)},
        "image": {"width": 640, "height": 640},
        "detections": [
            {
                "label": model.labels[0],
                "class_id": 0,
                "score": 0.7217,
                "box": {"x1": 153.2, "y1": 570.0, "x2": 222.4, "y2": 607.8},
            }
        ],
        "timing_ms": dict(zip(STAGES, (4.1, 0.7, 17.5, 0.4, 23.0), strict=True)),
    }
    row = {
        "image_id": 0,
        "category_id": 0,
        "bbox": [153.2, 570.0, 69.2, 37.8],
        "score": 0.7217,
        "label": model.labels[0],
    }
    refused = {key: value for key, value in example_problem("invalid_image").items() if key != "request_id"}
    examples = {
        "one": ("One image", {**found, "request_id": REQUEST_ID}),
        "list": (
            "A list, whose second image is damaged",
            {"results": [found, {"error": refused}], "request_id": REQUEST_ID},
        ),
        "coco": ("Rows of a COCO result file", [row]),
    }
    in_json = {
        "schema": {"anyOf": [ref("Detected"), ref("Results"), listed(ref("CocoRow"), "With `format=coco`.")]},
        "examples": {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()},
    }
    told = {
        name: {"description": "What the answer is about; sent with `jpeg` and `coco`.", "schema": {"type": "string"}}
        for name in PICTURE_HEADERS
    }
    return answer("What was found.", {"application/json": in_json, "image/jpeg": {"schema": BYTES}}, **told)


def _samples(subject: Subject, url: str) -> list[dict[str, str]]:
    binary, label = f"--data-binary @{PICTURE}", subject.model.labels[0]
    encoding = f'printf \'{{"image": "%s"}}\' "$(base64 < {PICTURE} | tr -d \'\\n\')" |\n   '
    in_json = '-H "Content-Type: application/json" --data-binary @-'
    return [
        sample(subject.curl(_PATH, binary, subject.choosing()), "A picture"),
        sample(
            subject.curl(_PATH, binary, subject.choosing(f"score_threshold=0.5&classes={quote(label)}")),
            "With parameters",
        ),
        sample(
            subject.curl(_PATH, f"{binary} -o annotated.jpg", subject.choosing("format=jpeg")), "The annotated picture"
        ),
        sample(
            subject.curl(_PATH, f"-F image=@{PICTURE} -F image=@{PICTURE} -F score_threshold=0.5", subject.choosing()),
            "Several pictures",
        ),
        sample(f"{encoding} {subject.curl(_PATH, in_json, subject.choosing())}", "As JSON"),
        sample(subject.curl(_PATH, binary, subject.choosing("format=coco&image_id=17")), "Rows of a COCO result file"),
        sample(_python(subject, url), "From Python", "Python"),
    ]


def _python(subject: Subject, url: str) -> str:
    query = subject.choosing()
    address = f"{url}?{query}" if query else url
    key = f', {{"X-API-Key": os.environ["{KEY_VARIABLE}"]}}' if subject.needs_key(_PATH) else ""
    imports = "\nimport os" if key else ""
    return f"""\
import json{imports}
import urllib.request

with open("{PICTURE}", "rb") as picture:
    request = urllib.request.Request("{address}", picture.read(){key})
with urllib.request.urlopen(request) as response:
    for detection in json.load(response)["detections"]:
        print(detection["label"], detection["score"], detection["box"])
"""
