"""Recording rules, alerts and dashboards: what they answer, and that they ask for what there is."""

import importlib.util
import json
import re
import sys

import pytest
import yaml

from gateway.metrics import Metrics
from tests.conftest import REPOSITORY
from tests.k8s.conftest import K8S, PLATFORMS, objects, of_kind, promtool

CASES = REPOSITORY / "tests" / "k8s" / "rules"
PLAIN = K8S / "plain"
SCALE_TO_ZERO = K8S / "components" / "scale-to-zero" / "rules.yaml"
RUNBOOKS = REPOSITORY / "docs" / "runbooks.md"
SAMPLE_ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
TRITONS = {  # as tritonserver 2.51 and NVIDIA's documentation name them; test_contract has a real one
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes",
}  # fmt: skip
OTHERS = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_GPU_UTIL",
    "kube_horizontalpodautoscaler_status_desired_replicas", "kube_horizontalpodautoscaler_status_current_replicas",
    "kube_horizontalpodautoscaler_spec_max_replicas", "kube_horizontalpodautoscaler_status_condition",
    "kube_pod_container_resource_limits", "kube_pod_status_unschedulable", "kube_deployment_spec_replicas",
    "keda_scaler", "process_cpu_seconds_total", "process_resident_memory_bytes",
}  # fmt: skip
_NAME = re.compile(r"\b(?:eagleeye[_:]|nv_|DCGM_|kube_|keda_scaler|process_)[a-zA-Z0-9_:]*")


def module_at(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


extract_rules = module_at(PLAIN / "extract_rules.py")
dashboards = module_at(K8S / "components" / "monitoring" / "dashboards" / "generate.py")


def all_rules():
    groups = yaml.safe_load(extract_rules.TARGET.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def scale_to_zeros_groups():
    """What only that overlay records."""
    return yaml.safe_load(SCALE_TO_ZERO.read_text())["spec"]["groups"]


ONLY_AT_ZERO = {rule["record"] for group in scale_to_zeros_groups() for rule in group["rules"]}
RECORDED = {rule["record"] for rule in all_rules() if "record" in rule} | ONLY_AT_ZERO
ALERTS = {rule["alert"]: rule for rule in all_rules() if "alert" in rule}


def gateways_metrics():
    """Names of all series that a gateway may have."""
    return {
        family.name + ending
        for family in Metrics().registry.collect()
        for ending in SAMPLE_ENDINGS.get(family.type, ("",))
    }


def metrics_in(query):
    """Names of the metrics that a query uses; what stands in quotes is none."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', query)))


def test_the_plain_file_is_fresh():
    """It holds what the PrometheusRule does; `python k8s/plain/extract_rules.py` renews it."""
    assert extract_rules.TARGET.read_text() == extract_rules.extract(extract_rules.SOURCE.read_text())
    (rule,) = of_kind(objects(K8S / "overlays" / "gpu"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(extract_rules.TARGET.read_text())


def test_prometheus_takes_rules_and_scrape_config(tmp_path):
    """As files, but for discovery, which Debian's Prometheus is built without; promtool says so."""
    config = yaml.safe_load((PLAIN / "prometheus.yaml").read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs")[0]["role"] == "pod"
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "rules.yaml").write_text(extract_rules.TARGET.read_text())
    assert f"{len(all_rules())} rules found" in promtool("check", "config", tmp_path / "prometheus.yaml")


@pytest.mark.parametrize("name", ["autoscaling", "alerts", "budgets", "scale_to_zero"])
def test_rules_answer_as_they_must(tmp_path, name):
    """Promtool's unit tests: load, idle, pods gone, restarts, resets, all kinds of GPUs; each alert loud and silent."""
    groups = yaml.safe_load(extract_rules.TARGET.read_text())["groups"]
    if name == "scale_to_zero":
        groups += scale_to_zeros_groups()
    for group in groups:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / f"{name}.yaml").write_text((CASES / f"{name}.yaml").read_text())
    promtool("test", "rules", f"{name}.yaml", cwd=tmp_path)


def test_every_rule_has_a_case():
    """Each alert one in which it speaks and one in which it does not, each query of an autoscaler some with a value."""
    files = [yaml.safe_load((CASES / f"{name}.yaml").read_text()) for name in ("alerts", "budgets")]
    cases = [case for file in files for test in file["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == ALERTS.keys()
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == ALERTS.keys()
    asked = (CASES / "autoscaling.yaml").read_text()
    assert all(query in asked for query in autoscaler_queries())


def autoscaler_queries():
    scaled = [*of_kind(objects(K8S / "overlays" / "gpu"), "ScaledObject")]
    scaled += of_kind(objects(K8S / "overlays" / "scale-to-zero"), "ScaledObject")
    return {
        trigger["metadata"]["query"]
        for each in scaled
        for trigger in each["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    }


def test_rules_use_metrics_that_there_are():
    """The gateway's from its registry, the rest by the names that their makers document."""
    known = gateways_metrics() | RECORDED | TRITONS | OTHERS
    for rule in [*all_rules(), *(rule for group in scale_to_zeros_groups() for rule in group["rules"])]:
        assert metrics_in(rule["expr"]) <= known, rule


def test_only_scale_to_zero_silences_a_missing_triton():
    """The series that does is recorded in that overlay and in no other, so that elsewhere zero pods are an alarm."""
    for overlay in PLATFORMS:
        recorded = {
            rule.get("record")
            for each in of_kind(objects(K8S / "overlays" / overlay), "PrometheusRule")
            for group in each["spec"]["groups"]
            for rule in group["rules"]
        }
        assert (recorded >= ONLY_AT_ZERO) == (overlay == "scale-to-zero")


def test_no_query_names_a_namespace():
    """Neither rules nor autoscalers: they work wherever they are installed."""
    for query in [*(rule["expr"] for rule in all_rules()), *autoscaler_queries()]:
        assert not re.search(r'namespace\s*=~?\s*"', query)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_what_to_do(name):
    """It has a severity, words for people, and a section in the runbooks under the address it gives."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page.endswith("docs/runbooks.md")
    assert anchor == name.lower()
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(section.split()) > 20


def test_runbooks_are_of_alerts_that_there_are():
    """No section is left over."""
    assert set(re.findall(r"^## (EagleEye\w+)$", RUNBOOKS.read_text(), re.MULTILINE)) == ALERTS.keys()


@pytest.mark.parametrize("dashboard", dashboards.DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_dashboards_are_fresh_and_shipped(dashboard):
    """The JSON is what `generate.py` writes, and what Grafana gets."""
    text = dashboards.as_json(dashboard)
    assert (dashboards.FOLDER / f"{dashboard.name}.json").read_text() == text
    (shipped,) = (
        each
        for each in of_kind(objects(K8S / "overlays" / "gpu"), "ConfigMap")
        if "grafana_dashboard" in each["metadata"]["labels"]
    )
    assert shipped["data"][f"{dashboard.name}.json"] == text


def test_panels_ask_for_metrics_that_there_are(tmp_path):
    """Each query parses, of each metric there is one, and each graph is of one namespace."""
    known = gateways_metrics() | RECORDED | TRITONS | OTHERS
    rules = []
    for dashboard in dashboards.DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries.values():
                assert metrics_in(query) <= known, query
                assert query.count("{namespace=") >= len(_NAME.findall(re.sub(r'"[^"]*"', '""', query))), query
                rules.append({"record": f"panel:{len(rules)}", "expr": query.replace("$__rate_interval", "1m")})
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


def test_lines_in_panels_are_the_autoscalers_thresholds():
    """What a dashboard divides by is what KEDA divides by."""
    (triton,) = (
        each
        for each in of_kind(objects(K8S / "overlays" / "gpu"), "ScaledObject")
        if each["metadata"]["name"] == "triton"
    )
    thresholds = {each["name"]: each["metadata"]["threshold"] for each in triton["spec"]["triggers"]}
    (panel,) = (panel for panel in dashboards.AUTOSCALING.panels if panel.title.startswith("Triton pods"))
    assert {name: query.rpartition("/ ")[2].rstrip(")") for name, query in panel.queries.items()} == {
        name: thresholds[name] for name in panel.queries
    }
    lines = {panel.title: panel.threshold for board in dashboards.DASHBOARDS for panel in board.panels}
    assert lines["Wait, mean of the slowest model"] == float(thresholds["queue-latency"])
    assert lines["GPU busy"] == float(thresholds["gpu-busy"])
    assert lines["Requests that wait"] == float(thresholds["pending"])


def test_a_panels_json_is_what_grafana_reads():
    """One unique panel id each, and a source for each query."""
    for dashboard in dashboards.DASHBOARDS:
        content = json.loads(dashboards.as_json(dashboard))
        ids = [panel["id"] for panel in content["panels"]]
        assert len(set(ids)) == len(ids)
        assert all(
            target["datasource"]["uid"] == "${datasource}" for panel in content["panels"] for target in panel["targets"]
        )
