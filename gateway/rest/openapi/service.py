"""Look-ups, probes, and the description itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.resize import ResizeMode
from gateway.rest import models
from gateway.rest.openapi.parts import Schema, answer, in_path, json_answer, listed, of, record, ref, sample

if TYPE_CHECKING:
    from gateway.rest.openapi.parts import Subject

TAG: Final = {"name": "Service", "description": "What is served, whether it can be asked, and how it fares."}
_FIRST: Final = "$response.body#/models/0/name"
_LINKS: Final = {
    "showModel": {"operationId": "showModel", "parameters": {"name": _FIRST}},
    "detect": {"operationId": "detect", "parameters": {"model": _FIRST}},
}


def paths(subject: Subject) -> dict[str, Any]:
    """Look-ups, the description itself, and the probes where they are on this port."""
    model = models.describe(subject.model)
    name = in_path("name", of("string", "Name of the model.", minLength=1), subject.model.name)
    look_ups = {
        "/v1/models": subject.operation(
            "/v1/models",
            tag=TAG["name"],
            name="listModels",
            summary="What is served",
            success={**json_answer("All models, by name.", ref("Models"), {"models": [model]}), "links": _LINKS},
            samples=[sample(subject.curl("/v1/models"))],
        ),
        "/v1/models/{name}": subject.operation(
            "/v1/models/{name}",
            tag=TAG["name"],
            name="showModel",
            summary="One model",
            success=json_answer("The model.", ref("Model"), model),
            codes=("model_not_found",),
            parameters=(name,),
            samples=[sample(subject.curl(f"/v1/models/{subject.name}"))],
        ),
    }
    description = {
        "/openapi.json": (
            "describe",
            "This description",
            "An OpenAPI document.",
            "application/json",
            {"type": "object"},
        ),
        "/docs": ("read", "This description, to read", "A page.", "text/html", {"type": "string"}),
    }
    plain = {
        path: subject.operation(
            path,
            tag=TAG["name"],
            name=operation,
            summary=summary,
            success=answer(meaning, {media_type: {"schema": schema}}),
            samples=[sample(subject.curl(path))],
        )
        for path, (operation, summary, meaning, media_type, schema) in description.items()
    }
    probes = {} if subject.face.has_admin_port else _probes(subject)
    return {path: {"get": operation} for path, operation in {**look_ups, **plain, **probes}.items()}


def _probes(subject: Subject) -> dict[str, Any]:
    alive = subject.operation(
        "/healthz",
        tag=TAG["name"],
        name="isAlive",
        summary="Whether the process lives",
        success=json_answer("It does.", ref("Alive"), {"status": "alive"}),
        samples=[sample(subject.curl("/healthz"))],
    )
    ready = subject.operation(
        "/readyz",
        tag=TAG["name"],
        name="isReady",
        summary="Whether requests should come here",
        success=json_answer("Yes.", ref("Ready"), {"status": "ready", "models": [subject.model.name]}),
        samples=[sample(subject.curl("/readyz"))],
    )
    not_ready = {"status": "not ready", "reason": "no Triton serves a detector"}
    ready["responses"]["503"] = json_answer(
        "No: no model is served, or a shutdown has begun.", ref("NotReady"), not_ready
    )
    metrics = subject.operation(
        "/metrics",
        tag=TAG["name"],
        name="metrics",
        summary="Prometheus metrics",
        success=answer("In Prometheus' text format.", {"text/plain": {"schema": {"type": "string"}}}),
        samples=[sample(subject.curl("/metrics"))],
    )
    return {"/healthz": alive, "/readyz": ready, "/metrics": metrics}


def schemas(_: Subject) -> dict[str, Schema]:
    """Those with a name."""
    threshold = of("number", "See the parameter of that name.", minimum=0, maximum=1)
    side = of("integer", "Pixels.", minimum=1)
    return {
        "Models": record("What is served.", models=listed(ref("Model"), "By name.")),
        "Model": record(
            "A detector that is served.",
            name=of("string", "What `model` of a request names."),
            versions=listed({"type": "string"}, "Whole numbers: the versions that are ready, ascending.", minItems=1),
            state=of("string", "Always `ready`: what is not ready is not listed.", const="ready"),
            input=record(
                "What the network sees.",
                width=side,
                height=side,
                resize=of(
                    "string",
                    "How an image gets that size: `stretch` changes its aspect ratio, `letterbox` keeps it and pads.",
                    enum=[mode.value for mode in ResizeMode],
                ),
            ),
            labels=listed({"type": "string"}, "Class names, by class id.", minItems=1),
            defaults=record(
                "What holds when a request asks for nothing else.", score_threshold=threshold, iou_threshold=threshold
            ),
            facts=of(
                "object",
                "What its export noted, such as variant or precision.",
                additionalProperties={"type": "string"},
            ),
        ),
        "Alive": record("The process lives.", status=of("string", "Always `alive`.", const="alive")),
        "Ready": record(
            "Requests can be answered.",
            status=of("string", "Always `ready`.", const="ready"),
            models=listed({"type": "string"}, "Names of the models that are served; none where keys are asked for."),
        ),
        "NotReady": record(
            "Requests should go elsewhere.",
            status=of("string", "Always `not ready`.", const="not ready"),
            reason=of("string", "Why, for people."),
        ),
    }
