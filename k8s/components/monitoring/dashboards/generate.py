"""Grafana's dashboards as code: tables of panels, written as the JSON files beside this one.

Every query filters by the dashboard's variable `namespace`; `python generate.py` writes the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
_NS: Final = 'namespace="$namespace"'
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS: Final = 2
_WIDTH: Final = 24 // _COLUMNS
_HEIGHT: Final = 8
_WINDOW: Final = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows.
        unit: Grafana's name of the unit.
        queries: legend -> PromQL.
        threshold: where a line is drawn, in the panel's unit.
        least: where the axis begins; None: where the values do.
    """

    title: str
    unit: str
    queries: dict[str, str]
    threshold: float | None = None
    least: float | None = 0


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page of panels; `chosen` has variables beside the namespace, each with the query for its values."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    chosen: dict[str, str] = field(default_factory=dict)


def _quantile(quantile: float, metric: str, labels: str, *by: str) -> str:
    rate = f"rate({metric}_bucket{{{labels}}}[{_WINDOW}])"
    return f"histogram_quantile({quantile}, sum by ({', '.join(('le', *by))}) ({rate}))"


PLATFORM: Final = Dashboard(
    "eagleeye-platform",
    "EagleEye: platform",
    (
        Panel(
            "Requests by outcome",
            "reqps",
            {"{{code}}": f"sum by (code) (rate(eagleeye_requests_total{{{_NS}}}[{_WINDOW}]))"},
        ),
        Panel(
            "Failed requests (objective 0.1 %)",
            "percentunit",
            {"failed": f"eagleeye:requests_failed:rate5m{{{_NS}}} / eagleeye:requests:rate5m{{{_NS}}}"},
            0.001,
        ),
        Panel(
            "Request time",
            "s",
            {
                f"p{quantile * 100:g}": _quantile(quantile, "eagleeye_request_seconds", _NS)
                for quantile in (0.5, 0.95, 0.99)
            },
            0.25,
        ),
        Panel(
            "Requests over 250 ms (objective 1 %)",
            "percentunit",
            {"slow": f"eagleeye:requests_slow:rate5m{{{_NS}}} / eagleeye:requests:rate5m{{{_NS}}}"},
            0.01,
        ),
        Panel("Time by stage, p95", "s", {"{{stage}}": _quantile(0.95, "eagleeye_stage_seconds", _NS, "stage")}),
        Panel(
            "Images in the platform",
            "short",
            {
                "worked on": f"sum(eagleeye_inflight{{{_NS}}})",
                "waiting in gateways": f"sum(eagleeye_queued{{{_NS}}})",
                "waiting in Tritons": f"sum(nv_inference_pending_request_count{{{_NS}}})",
            },
        ),
        Panel(
            "Images refused",
            "reqps",
            {"{{reason}}": f"sum by (reason) (rate(eagleeye_shed_total{{{_NS}}}[{_WINDOW}]))"},
        ),
        Panel(
            "Wait and drain",
            "short",
            {
                "longest expected wait, s": f"max(eagleeye_expected_wait_seconds{{{_NS}}})",
                "worked off, images/s": f"sum(eagleeye_drain_rate{{{_NS}}})",
            },
        ),
        Panel(
            "Tritons that each gateway sees serving",
            "short",
            {"{{pod}}": f"sum by (pod) (eagleeye_triton_endpoint_up{{{_NS}}})"},
        ),
        Panel(
            "Calls made again, and endpoints ejected",
            "reqps",
            {
                "retried: {{reason}}": f"sum by (reason) (rate(eagleeye_triton_retries_total{{{_NS}}}[{_WINDOW}]))",
                "ejected": f"sum(rate(eagleeye_triton_ejections_total{{{_NS}}}[{_WINDOW}]))",
            },
        ),
        Panel(
            "Gateway processors and memory",
            "short",
            {
                "cores, {{pod}}": f"rate(process_cpu_seconds_total{{{_NS}}}[{_WINDOW}])",
                "GB held by requests, {{pod}}": f"eagleeye_held_bytes{{{_NS}}} / 1e9",
                "GB resident, {{pod}}": f"process_resident_memory_bytes{{{_NS}}} / 1e9",
            },
        ),
        Panel(
            "Streams",
            "short",
            {
                "open": f"sum(eagleeye_streams{{{_NS}}})",
                "frames replaced/s": f"sum(rate(eagleeye_frames_dropped_total{{{_NS}}}[{_WINDOW}]))",
            },
        ),
    ),
)

_POD: Final = f'{_NS}, pod="$pod"'
TRITON: Final = Dashboard(
    "eagleeye-triton",
    "EagleEye: one Triton",
    (
        Panel(
            "Requests",
            "reqps",
            {
                "{{model}}": f"sum by (model) (rate(nv_inference_request_success{{{_POD}}}[{_WINDOW}]))",
                "{{model}} failed: {{reason}}": "sum by (model, reason) "
                f"(rate(nv_inference_request_failure{{{_POD}}}[{_WINDOW}]))",
            },
        ),
        Panel(
            "Images in a batch, mean",
            "short",
            {
                "{{model}}": f"sum by (model) (rate(nv_inference_count{{{_POD}}}[{_WINDOW}])) / "
                f"sum by (model) (rate(nv_inference_exec_count{{{_POD}}}[{_WINDOW}]))"
            },
        ),
        Panel(
            "Requests that wait",
            "short",
            {"{{model}}": f"sum by (model) (nv_inference_pending_request_count{{{_POD}}})"},
            8,
        ),
        Panel(
            "Time of a request, mean",
            "µs",
            {
                part: f"sum(rate(nv_inference_{part}_duration_us{{{_POD}}}[{_WINDOW}])) / "
                f"sum(rate(nv_inference_request_success{{{_POD}}}[{_WINDOW}]))"
                for part in ("queue", "compute_input", "compute_infer", "compute_output")
            },
        ),
        Panel("GPU busy", "percent", {"{{pod}}": f"eagleeye:gpu_busy_percent:mean1m{{{_POD}}}"}, 75),
        Panel(
            "GPU memory",
            "percentunit",
            {"{{gpu_uuid}}": f"nv_gpu_memory_used_bytes{{{_POD}}} / nv_gpu_memory_total_bytes{{{_POD}}}"},
            0.95,
        ),
    ),
    chosen={"pod": f"label_values(nv_inference_pending_request_count{{{_NS}}}, pod)"},
)


def _hpa(metric: str) -> str:
    return f'kube_horizontalpodautoscaler_{metric}{{{_NS}, horizontalpodautoscaler=~"eagleeye-.*"}}'


AUTOSCALING: Final = Dashboard(
    "eagleeye-autoscaling",
    "EagleEye: autoscaling",
    (
        Panel(
            "Replicas",
            "short",
            {
                "{{horizontalpodautoscaler}} is": _hpa("status_current_replicas"),
                "{{horizontalpodautoscaler}} wants": _hpa("status_desired_replicas"),
                "{{horizontalpodautoscaler}} at most": _hpa("spec_max_replicas"),
            },
        ),
        Panel(
            "Triton pods that each trigger asks for",
            "short",
            {
                "demand": f"ceil(eagleeye:demand:low15s{{{_NS}}} / 16)",
                "pending": f"ceil(eagleeye:triton_pending:low30s{{{_NS}}} / 8)",
                "gpu-busy": f"ceil(eagleeye:gpu_busy_percent:sum1m{{{_NS}}} / 75)",
            },
        ),
        Panel("Demand, images", "short", {"demand": f"eagleeye:demand:low15s{{{_NS}}}"}),
        Panel("Waiting in Tritons", "short", {"pending": f"eagleeye:triton_pending:low30s{{{_NS}}}"}),
        Panel("Wait, mean of the slowest model", "ms", {"wait": f"eagleeye:queue_milliseconds:max30s{{{_NS}}}"}, 50),
        Panel("GPUs busy, sum", "percent", {"busy": f"eagleeye:gpu_busy_percent:sum1m{{{_NS}}}"}),
        Panel("Worked on in gateways", "short", {"in-flight": f"eagleeye:gateway_inflight:low15s{{{_NS}}}"}),
        Panel(
            "Autoscaler can't read its metrics",
            "short",
            {
                "{{horizontalpodautoscaler}}": "kube_horizontalpodautoscaler_status_condition"
                f'{{{_NS}, horizontalpodautoscaler=~"eagleeye-.*", condition="ScalingActive", status="false"}}'
            },
        ),
    ),
)

_MODEL: Final = f'{_NS}, model="$model"'
VERSIONS: Final = Dashboard(
    "eagleeye-versions",
    "EagleEye: versions and shadow",
    (
        Panel(
            "Images by version",
            "reqps",
            {"{{version}}": f"sum by (version) (rate(eagleeye_version_images_total{{{_MODEL}}}[{_WINDOW}]))"},
        ),
        Panel(
            "Failed images by version",
            "percentunit",
            {
                "{{version}}": "1 - sum by (version) "
                f'(rate(eagleeye_version_images_total{{{_MODEL}, code="ok"}}[{_WINDOW}]))'
                f" / sum by (version) (rate(eagleeye_version_images_total{{{_MODEL}}}[{_WINDOW}]))"
            },
        ),
        Panel(
            "Inference by version",
            "s",
            {
                f"{{{{version}}}} p{quantile * 100:g}": _quantile(
                    quantile, "eagleeye_version_infer_seconds", _MODEL, "version"
                )
                for quantile in (0.5, 0.99)
            },
        ),
        Panel(
            "Requests that no version of the rollout could answer, and wrong files",
            "short",
            {
                "fell back/s": f"sum(rate(eagleeye_rollout_fallbacks_total{{{_MODEL}}}[{_WINDOW}]))",
                "files refused in 1 h": f"sum(increase(eagleeye_rollout_rejected_total{{{_NS}}}[1h]))",
            },
        ),
        Panel(
            "Images in the shadow",
            "reqps",
            {
                "{{version}}: {{outcome}}": "sum by (version, outcome) "
                f"(rate(eagleeye_shadow_images_total{{{_MODEL}}}[{_WINDOW}]))"
            },
        ),
        Panel(
            "Boxes that a candidate agrees on",
            "percentunit",
            {
                "{{version}}: {{label}}": "sum by (version, label) "
                f'(rate(eagleeye_shadow_boxes_total{{{_MODEL}, outcome="agreed"}}[{_WINDOW}]))'
                f" / sum by (version, label) (rate(eagleeye_shadow_boxes_total{{{_MODEL}}}[{_WINDOW}]))"
            },
        ),
        Panel(
            "Boxes on which they differ",
            "short",
            {
                "{{version}}: {{outcome}}/s": "sum by (version, outcome) "
                f'(rate(eagleeye_shadow_boxes_total{{{_MODEL}, outcome!="agreed"}}[{_WINDOW}]))'
            },
        ),
        Panel(
            "Candidate's score less the served one",
            "short",
            {
                f"{{{{version}}}} p{quantile * 100:g}": _quantile(
                    quantile, "eagleeye_shadow_score_shift", _MODEL, "version"
                )
                for quantile in (0.05, 0.5, 0.95)
            },
            least=None,
        ),
        Panel(
            "Overlap of boxes that agree (IoU)",
            "percentunit",
            {
                f"{{{{version}}}} p{quantile * 100:g}": _quantile(quantile, "eagleeye_shadow_iou", _MODEL, "version")
                for quantile in (0.05, 0.5)
            },
        ),
        Panel(
            "Inference of the same images, served and candidate",
            "s",
            {
                f"{{{{version}}}} {{{{role}}}} p{quantile * 100:g}": _quantile(
                    quantile, "eagleeye_shadow_infer_seconds", _MODEL, "version", "role"
                )
                for quantile in (0.5, 0.99)
            },
        ),
    ),
    chosen={"model": f"label_values(eagleeye_version_images_total{{{_NS}}}, model)"},
)

DASHBOARDS: Final = (PLATFORM, TRITON, AUTOSCALING, VERSIONS)


def as_json(dashboard: Dashboard) -> str:
    """The file that Grafana reads."""
    content = {
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["eagleeye"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    names = {"namespace": "label_values(eagleeye_held_bytes, namespace)", **dashboard.chosen}
    chosen = [
        {"name": name, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2, "sort": 1}
        for name, query in names.items()
    ]
    return [source, *chosen]


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": panel.least,
                "custom": {"thresholdsStyle": {"mode": "off" if panel.threshold is None else "line"}},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each.name}.json").write_text(as_json(each), encoding="utf-8")
