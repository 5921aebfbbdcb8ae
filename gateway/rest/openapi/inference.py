"""`/v2`: the Open Inference Protocol."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from gateway import oip, parameters
from gateway.batch import MAX_IMAGES
from gateway.detector import MAX_DETECTIONS
from gateway.priority import Priority
from gateway.rest.inference_messages import JSON_LENGTH
from gateway.rest.openapi.parts import (
    BYTES,
    OF_DETECTION,
    ONE_PIXEL,
    PICTURE,
    Schema,
    answer,
    in_path,
    json_answer,
    listed,
    may_lack,
    of,
    record,
    ref,
    sample,
)

if TYPE_CHECKING:
    from gateway.rest.openapi.parts import Subject

TAG: Final = {
    "name": "Open Inference Protocol",
    "description": "For clients of Triton and KServe: a model that takes encoded images and gives boxes.",
}
_MODEL: Final = "/v2/models/{name}"
_EXAMPLE_TENSORS: Final = {
    "num_detections": [1],
    "boxes": [153.2, 570.0, 222.4, 607.8],
    "scores": [0.7217],
    "class_ids": [0],
}


def paths(subject: Subject) -> dict[str, Any]:
    """Health, metadata and inference."""
    return {**_server(subject), **_of_model(subject, ""), **_of_model(subject, "/versions/{version}")}


def _server(subject: Subject) -> dict[str, Any]:
    """What is not about one model."""
    index = [{"name": subject.model.name, "version": str(subject.model.latest), "state": "READY", "reason": ""}]
    answers: dict[str, tuple[str, str, str, str, Any]] = {
        "/v2": (
            "serverMetadata",
            "get",
            "Who this is",
            "ServerMetadata",
            {**oip.SERVER, "extensions": ["binary_tensor_data"]},
        ),
        "/v2/health/live": ("serverLive", "get", "Whether the process lives", "ServerLive", {"live": True}),
        "/v2/health/ready": ("serverReady", "get", "Whether requests should come here", "ServerReady", {"ready": True}),
        "/v2/models": ("listModelNames", "get", "What is served", "ModelNames", {"models": [subject.model.name]}),
        "/v2/repository/index": (
            "repositoryIndex",
            "post",
            "What is served, as Triton tells it",
            "RepositoryIndex",
            index,
        ),
    }
    described = {}
    for path, (name, method, summary, schema, example) in answers.items():
        operation = subject.operation(
            path,
            tag=TAG["name"],
            name=name,
            summary=summary,
            success=json_answer("As the protocol has it.", ref(schema), example),
            samples=[sample(subject.curl(path, "-X POST" if method == "post" else ""))],
        )
        described[path] = {method: operation}
    described["/v2/health/ready"]["get"]["responses"]["503"] = json_answer(
        "No model is served, or a shutdown has begun.", ref("ServerNotReady"), {"ready": False}
    )
    return described


def _of_model(subject: Subject, version: str) -> dict[str, Any]:
    """The operations of a model, or of one version of it."""
    path, suffix = _MODEL + version, "OfVersion" if version else ""
    named = [in_path("name", of("string", "Name of the model.", minLength=1), subject.model.name)]
    real = path.replace("{name}", subject.name).replace("{version}", str(subject.model.latest))
    if version:
        number = of("integer", "Version of the model.", minimum=1)
        named.append(in_path("version", number, str(subject.model.latest)))

    def operation(
        path: str, real: str, name: str, summary: str, success: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        codes = more.pop("codes", ("invalid_parameter", "model_not_found") if version else ("model_not_found",))
        samples = more.pop("samples", None) or [sample(subject.curl(real))]
        given = (*named, *more.pop("parameters", ()))
        return subject.operation(
            path,
            tag=TAG["name"],
            name=name + suffix,
            summary=summary,
            success=success,
            codes=codes,
            parameters=given,
            samples=samples,
            **more,
        )

    metadata = json_answer("Its tensors; -1 is any size.", ref("ModelMetadata"), oip.model_metadata(subject.model))
    config = json_answer("As Triton has it.", ref("ModelConfig"), oip.model_config(subject.model))
    ready = json_answer("It is.", ref("ModelReady"), {"name": subject.model.name, "ready": True})
    of_version = " of one version" if version else ""
    return {
        path: {"get": operation(path, real, "modelMetadata", f"The tensors of a model{of_version}", metadata)},
        f"{path}/config": {
            "get": operation(
                f"{path}/config",
                f"{real}/config",
                "modelConfig",
                f"The config of a model{of_version}, as Triton tells it",
                config,
            )
        },
        f"{path}/ready": {
            "get": operation(
                f"{path}/ready", f"{real}/ready", "modelReady", f"Whether a model{of_version} is served", ready
            )
        },
        f"{path}/infer": {
            "post": operation(
                f"{path}/infer",
                f"{real}/infer",
                "infer",
                f"Find the objects in images, by a model{of_version}",
                _inferred(subject),
                codes=OF_DETECTION,
                parameters=(_JSON_LENGTH,),
                description=_DESCRIPTION,
                requestBody=_BODY,
                samples=_samples(subject, f"{real}/infer"),
            )
        },
    }


_DESCRIPTION: Final = inspect.cleandoc(f"""
    The input `{oip.IMAGE}` holds N encoded images, 1 to {MAX_IMAGES}: in JSON as base64 texts, or as binary data
    after the JSON. The outputs hold the detections of all images in a row; `num_detections` says how many belong to
    each image. One image that is refused fails the request. `{oip.IMAGE_WH}`, width and height of each image, comes
    only if `outputs` names it.

    Binary data (the extension `binary_tensor_data`): the input has the parameter `binary_data_size` in place of `data`,
    the header `{JSON_LENGTH}` says how long the JSON is, and after it comes each image, its length before it as 4
    bytes, little-endian. An output with the parameter `binary_data: true` comes in the same way. With
    `{JSON_LENGTH}: 0` the body is one image as it is.
""")

_JSON_LENGTH: Final = {
    "name": JSON_LENGTH,
    "in": "header",
    "description": "Length of the JSON in bytes, where binary data follow it; 0 if the body is an image.",
    "schema": {"type": "integer", "minimum": 0},
}

_BODY: Final = {
    "required": True,
    "description": "JSON, or JSON and binary data.",
    "content": {
        "application/json": {
            "schema": ref("InferRequest"),
            "example": {
                "inputs": [{"name": oip.IMAGE, "datatype": oip.BYTES, "shape": [1], "data": [ONE_PIXEL]}],
                "parameters": {"score_threshold": 0.5},
            },
        },
        "application/octet-stream": {"schema": BYTES},
    },
}


def _inferred(subject: Subject) -> dict[str, Any]:
    data = {**_EXAMPLE_TENSORS, "labels": [subject.model.labels[0]]}
    example = {
        "model_name": subject.model.name,
        "model_version": str(subject.model.latest),
        "outputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": [1 if size == -1 else size for size in shape],
                "data": data[name],
            }
            for name, (datatype, shape) in oip.OUTPUTS.items()
            if name in oip.DEFAULT_OUTPUTS
        ],
    }
    content = {"schema": ref("InferResponse"), "example": example}
    length = {"description": "Length of the JSON, where binary data follow it.", "schema": {"type": "integer"}}
    return answer(
        "The detections of all images; as `application/octet-stream` if an output comes as binary data.",
        {"application/json": content, "application/octet-stream": {"schema": BYTES}},
        **{JSON_LENGTH: length},
    )


def _samples(subject: Subject, path: str) -> list[dict[str, str]]:
    image = f"$(base64 < {PICTURE} | tr -d '\\n')"
    tensor = f'{{"name": "{oip.IMAGE}", "datatype": "{oip.BYTES}", "shape": [1], "data": ["%s"]}}'
    encode = f"""printf '{{"inputs": [{tensor}]}}' "{image}" |\n   """
    as_it_is = f'-H "{JSON_LENGTH}: 0" --data-binary @{PICTURE}'
    in_json = '-H "Content-Type: application/json" --data-binary @-'
    return [
        sample(subject.curl(path, as_it_is), "A picture as it is"),
        sample(f"{encode} {subject.curl(path, in_json)}", "As JSON"),
    ]


def schemas(_: Subject) -> dict[str, Schema]:
    """Those with a name."""
    name, version = of("string", "Name of the model."), of("string", "Its version.")
    shape = listed({"type": "integer"}, "Sizes; -1 is any.")
    tensor = record("A tensor.", name=of("string", "Its name."), datatype=of("string", "Of its elements."), shape=shape)
    named_outputs = {"type": "string", "enum": list(oip.OUTPUTS)}
    return {
        "ServerMetadata": record(
            "Who this is.",
            name=of("string", "The server."),
            version=of("string", "Its version."),
            extensions=listed({"type": "string"}, "The protocol's extensions that it knows."),
        ),
        "ServerLive": record("The process lives.", live=of("boolean", "Always true.", const=True)),
        "ServerReady": record("Requests can be answered.", ready=of("boolean", "True.", const=True)),
        "ServerNotReady": record("Requests should go elsewhere.", ready=of("boolean", "False.", const=False)),
        "ModelNames": record("What is served.", models=listed({"type": "string"}, "Names, sorted.")),
        "RepositoryIndex": listed(
            record(
                "A version of a model.",
                name=name,
                version=version,
                state=of("string", "Always `READY`: what is not ready is not listed.", const="READY"),
                reason=of("string", "Always empty."),
            ),
            "Every version of every model.",
        ),
        "ModelMetadata": record(
            "The tensors of a model.",
            name=name,
            versions=listed({"type": "string"}, "Versions that are ready, ascending."),
            platform=of("string", "Who serves it."),
            inputs=listed(tensor, "What it takes."),
            outputs=listed(tensor, "What it gives."),
        ),
        "ModelConfig": _config(name),
        "ModelReady": record("A model is served.", name=name, ready=of("boolean", "Always true.", const=True)),
        "InferRequest": {
            **of("object", "Encoded images, and what to find in them."),
            "properties": {
                "id": of(["string", "null"], "A name for the request, which its answer repeats."),
                "parameters": _parameters(),
                "inputs": listed(_input(), "The one input.", minItems=1, maxItems=1),
                "outputs": listed(
                    {
                        **of("object", "An output."),
                        "properties": {
                            "name": named_outputs,
                            "parameters": may_lack(
                                record(
                                    "How it comes.",
                                    binary_data=of(["boolean", "null"], "As binary data after the JSON?"),
                                ),
                                "binary_data",
                            ),
                        },
                        "required": ["name"],
                    },
                    f"The outputs to send, each once, in this order; left out, all but `{oip.IMAGE_WH}`.",
                    maxItems=len(oip.OUTPUTS),
                ),
            },
            "required": ["inputs"],
        },
        "InferResponse": may_lack(
            record(
                "The detections of all images.",
                model_name=name,
                model_version=version,
                id=of("string", "The request's, if it had one."),
                outputs=listed(
                    may_lack(
                        record(
                            "A tensor.",
                            name=named_outputs,
                            datatype=of("string", "Of its elements."),
                            shape=listed({"type": "integer", "minimum": 0}, "Its sizes."),
                            data=listed({"type": ["number", "string"]}, "Its elements, row by row."),
                            parameters=record(
                                "It comes as binary data.", binary_data_size=of("integer", "Bytes of it.")
                            ),
                        ),
                        "data",
                        "parameters",
                    ),
                    "Those asked for.",
                ),
            ),
            "id",
        ),
    }


def _config(name: Schema) -> Schema:
    data_type, dims = of("string", "Of its elements."), listed({"type": "integer"}, "Sizes; -1 is any.")
    tensor = record("A tensor.", name=of("string", "Its name."), data_type=data_type, dims=dims)
    value = record("A parameter.", string_value=of("string", "Its value."))
    return record(
        "What Triton's clients want to know of a model.",
        name=name,
        platform=of("string", "Who serves it."),
        backend=of("string", "Who serves it."),
        max_batch_size=of("integer", "Always 0: the number of images is part of the shape.", const=0),
        input=listed(tensor, "What it takes."),
        output=listed(tensor, "What it gives."),
        parameters=of(
            "object",
            "`labels` and `input_wh` as JSON, the default `score_threshold` and `iou_threshold`, and what its export "
            "noted, such as variant or precision.",
            additionalProperties=value,
        ),
    )


def _input() -> Schema:
    """The one input in JSON; with binary data it is another, which the text tells."""
    return {
        **of("object", "The images."),
        "properties": {
            "name": of("string", "Its name.", const=oip.IMAGE),
            "datatype": of("string", "Of its elements.", const=oip.BYTES),
            "shape": listed(
                {"type": "integer", "minimum": 1, "maximum": MAX_IMAGES}, "[N]: how many.", minItems=1, maxItems=1
            ),
            "data": listed(
                of("string", "An encoded image.", format="byte", contentEncoding="base64"),
                "N images.",
                minItems=1,
                maxItems=MAX_IMAGES,
            ),
        },
        "required": ["name", "datatype", "shape", "data"],
    }


def _parameters() -> Schema:
    """The parameters that every face has, as values of JSON."""
    return {
        **of(["object", "null"], "What to find; see the parameters of `POST /v1/detect`."),
        "properties": {
            "score_threshold": of("number", "See there.", minimum=0, maximum=1),
            "iou_threshold": of("number", "See there.", minimum=0, maximum=1),
            "max_detections": of("integer", "See there.", minimum=1, maximum=MAX_DETECTIONS),
            "classes": of("string", "Labels or ids, separated by commas.", minLength=1),
            "agnostic_nms": of("boolean", "See there."),
            "clip": of("boolean", "See there."),
            "timeout_ms": of("number", "See there.", minimum=1, maximum=parameters.MAX_TIMEOUT_MS),
            "timeout": of(
                "integer",
                "The same in microseconds, as Triton has it, 0 for none; of the two the shorter one holds.",
                minimum=0,
            ),
            "sequence_id": of(["integer", "string"], "Triton's; without effect here."),
            "sequence_start": of("boolean", "Triton's; without effect here."),
            "sequence_end": of("boolean", "Triton's; without effect here."),
            "priority": {
                "description": "See there; or Triton's number, from 1 for the highest, 0 for the default.",
                "enum": [*(each.value for each in Priority), 0, *(each.rank for each in Priority)],
            },
            "binary_data_output": of(["boolean", "null"], "Whether outputs come as binary data if they don't say so."),
        },
        "additionalProperties": False,
    }
