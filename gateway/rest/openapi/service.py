"""Look-ups, probes, and the description itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.agreement import QUANTILES
from gateway.resize import ResizeMode
from gateway.rest import models
from gateway.rest.openapi.parts import Schema, answer, in_path, json_answer, listed, of, record, ref, sample
from gateway.shadow import IMAGE_OUTCOMES

if TYPE_CHECKING:
    from gateway.agreement import BoxCounts, Comparison, Spread
    from gateway.model import Model
    from gateway.rest.openapi.parts import Subject

TAG: Final = {"name": "Service", "description": "What is served, whether it can be asked, and how it fares."}
_FIRST: Final = "$response.body#/models/0/name"
_LINKS: Final = {
    "showModel": {"operationId": "showModel", "parameters": {"name": _FIRST}},
    "detect": {"operationId": "detect", "parameters": {"model": _FIRST}},
}


def paths(subject: Subject) -> dict[str, Any]:
    """Look-ups, the description itself, and the probes where they are on this port."""
    model = models.describe(subject.model, subject.face.core.versions)
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
    probes = {} if subject.face.has_admin_port else {**_probes(subject), **_shadow(subject)}
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


def _shadow(subject: Subject) -> dict[str, Any]:
    report = subject.operation(
        "/v1/shadow",
        tag=TAG["name"],
        name="showShadow",
        summary="How candidates in the shadow agree with what is served",
        success=json_answer(
            "What this process has compared.", ref("ShadowReport"), {"comparisons": [_example(subject.model)]}
        ),
        samples=[sample(subject.curl("/v1/shadow"))],
    )
    return {"/v1/shadow": report}


def _example(model: Model) -> Comparison:
    def spread(mean: float, half_width: float) -> Spread:
        quantiles = {str(at): round(mean + (2 * at - 1) * half_width, 4) for at in QUANTILES}
        return {"mean": mean, "quantiles": quantiles}

    boxes: BoxCounts = {"agreed": 196, "relabelled": 1, "missing": 2, "extra": 1, "agreement": 0.98}
    label = model.labels[0]
    return {
        "model": model.name,
        "served_version": str(model.default),
        "candidate_version": str(model.default + 1),
        "is_running": True,
        "since": "2026-01-31T12:00:00+00:00",
        "images": dict.fromkeys(IMAGE_OUTCOMES, 0) | {"compared": 60, "dropped": 3},
        "boxes": boxes,
        "labels": [{"label": label, **boxes}],
        "relabelled": [{"served": label, "candidate": model.labels[-1], "boxes": 1}],
        "score_shift": spread(0.004, 0.03),
        "iou": spread(0.97, 0.03),
        "latency_ms": {"served": spread(16.2, 4.0), "candidate": spread(11.9, 3.0), "difference": spread(-4.3, 1.0)},
    }


def _shadow_schemas() -> dict[str, Schema]:
    count = of("integer", "Boxes.", minimum=0)
    boxes = {
        "agreed": count,
        "relabelled": count,
        "missing": count,
        "extra": count,
        "agreement": of(["number", "null"], "The agreed part of all; null without any.", minimum=0, maximum=1),
    }
    text = of("string", "A label.")
    spread = {"oneOf": [ref("Spread"), {"type": "null"}]}
    return {
        "ShadowReport": record(
            "What this process has compared since it started.",
            comparisons=listed(ref("Comparison"), "By model, version and candidate."),
        ),
        "Comparison": record(
            "A candidate beside a version that answered. Boxes that overlap by half or more are one object.",
            model=of("string", "Name of the model."),
            served_version=of("string", "The version that answered."),
            candidate_version=of("string", "The version that is tried."),
            is_running=of("boolean", "Whether the rollout still asks for it."),
            since=of("string", "When its first image came, in UTC.", format="date-time"),
            images=record(
                "Sampled images: `dropped`, for Triton had enough to do; `unserved`, for no Triton had the candidate.",
                **{outcome: of("integer", "Images.", minimum=0) for outcome in IMAGE_OUTCOMES},
            ),
            boxes=record("All boxes: found by both, as another class, by the served one only, by it only.", **boxes),
            labels=listed(record("Those of one label.", label=text, **boxes), "By class id."),
            relabelled=listed(
                record("What the candidate calls otherwise.", served=text, candidate=text, boxes=count),
                "The most frequent pairs first.",
            ),
            score_shift={**spread, "description": "Candidate's score less the served one, of agreed boxes."},
            iou={**spread, "description": "Overlap of agreed boxes."},
            latency_ms=record(
                "Inference of the same images, in ms; `difference` is what the candidate takes more. Or null.",
                served=ref("Spread"),
                candidate=ref("Spread"),
                difference=ref("Spread"),
            )
            | {"type": ["object", "null"]},
        ),
        "Spread": record(
            "How values are spread.",
            mean=of("number", "Of all."),
            quantiles=of(
                "object",
                "Of the latest 10,000, by the part of them that is less: `0.5` is the median.",
                additionalProperties={"type": "number"},
            ),
        ),
    }


def schemas(_: Subject) -> dict[str, Schema]:
    """Those with a name."""
    threshold = of("number", "See the parameter of that name.", minimum=0, maximum=1)
    side = of("integer", "Pixels.", minimum=1)
    return {
        **_shadow_schemas(),
        "Models": record("What is served.", models=listed(ref("Model"), "By name.")),
        "Model": record(
            "A detector that is served.",
            name=of("string", "What `model` of a request names."),
            versions=listed({"type": "string"}, "Whole numbers: the versions that are ready, ascending.", minItems=1),
            weights=of(
                "object",
                "Who names no version gets one of these, in shares by these weights; with a single one, always that.",
                additionalProperties=of("number", "The version's weight.", exclusiveMinimum=0),
                minProperties=1,
            ),
            shadow=record(
                "The version that is tried in the shadow: its answers are compared, and reach no caller. Or null.",
                version=of("string", "A whole number."),
                percent=of("number", "Of the images that other versions answer.", exclusiveMinimum=0, maximum=100),
            )
            | {"type": ["object", "null"]},
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
