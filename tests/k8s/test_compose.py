"""compose.yaml: what it starts is what Kubernetes would, with the same rules and dashboards, on one machine."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from export.__main__ import export
from export.engine_command import engine
from gateway import __main__ as gateway_command
from tests.conftest import REPOSITORY
from tests.k8s import images
from tests.k8s.conftest import K8S, container, objects, promtool
from triton_runtime import up

ONE_SHOT = {"models", "engine"}
WITHOUT_HEALTH_CHECK = {"dcgm-exporter"}  # its image has nothing to ask with
MORE_CAPABILITIES = {"dcgm-exporter": ["SYS_ADMIN"]}
METRICS_PORTS = {"gateway": 8082, "triton": 8002, "dcgm-exporter": 9400}


class Override(dict):
    """A mapping that takes the place of another; lists always do, here."""


class ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's tags."""


def _override(loader, node):
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return Override(loader.construct_mapping(node, deep=True))


ComposeLoader.add_constructor("!override", _override)


def load(name):
    return yaml.load((REPOSITORY / name).read_text(), ComposeLoader)


def merged(base, over):
    """Two Compose files, as far as ours need it: mappings are joined, and anything else is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict) or isinstance(over, Override):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


COMPOSE = load("compose.yaml")
WITHOUT_GPU = merged(COMPOSE, load("compose.cpu.yaml"))
SERVICES = COMPOSE["services"]
EACH = pytest.mark.parametrize("name", SERVICES)


def mounts(service):
    """(path here or name of a volume, path in the container, is it read-only)."""
    for text in service.get("volumes", []):
        source, target, *mode = text.split(":")
        yield source, target, mode == ["ro"]


def active(compose):
    return {name: each for name, each in compose["services"].items() if "profiles" not in each}


def seconds(text):
    return float(text.removesuffix("s"))


def with_keys():
    """What the page writes for callers on other machines."""
    (text,) = re.findall(r"```yaml\n(services:\n.*?)```", (REPOSITORY / "docs" / "compose.md").read_text(), re.DOTALL)
    return merged(COMPOSE, yaml.load(text, ComposeLoader))


@pytest.mark.parametrize("compose", [COMPOSE, WITHOUT_GPU, with_keys()], ids=["gpu", "cpu", "keys"])
def test_the_file_is_valid(compose, tmp_path):
    """By the schema of the Compose specification, alone and with what is laid over it."""
    (tmp_path / "compose.json").write_text(json.dumps(compose))
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema=vendor.compose-spec", tmp_path / "compose.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@EACH
def test_a_service_is_locked_down(name):
    """As pods are: read-only, without capabilities and new privileges, within limits, and checked."""
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == MORE_CAPABILITIES.get(name, [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert ("healthcheck" in service) == (name not in ONE_SHOT | WITHOUT_HEALTH_CHECK)
    assert re.fullmatch(r"\S+:(dev|v?\d\S*)", service["image"])


@EACH
def test_only_this_machine_reaches_a_service(name):
    """No key is asked for, so every port is of the loopback address."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@EACH
def test_what_is_mounted_is_there(name):
    """Files are in the repository and read-only; volumes are declared."""
    for source, target, is_read_only in mounts(SERVICES[name]):
        if source.startswith("./"):
            assert is_read_only
            assert (REPOSITORY / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
            assert target.startswith("/")


@EACH
def test_what_is_built_has_a_target(name):
    """Images of ours are built from the Dockerfile, under the names that the overlay for kind takes, too."""
    service = SERVICES[name]
    assert ("build" in service) == service["image"].startswith("eagleeye/")
    if "build" in service:
        assert (REPOSITORY / service["build"]["dockerfile"]) == images.DOCKERFILE
        assert service["build"]["target"] in images.stages()
        assert service["image"] == f"eagleeye/{service['build']['target']}:dev"


@pytest.mark.parametrize("compose", [COMPOSE, WITHOUT_GPU], ids=["gpu", "cpu"])
def test_services_wait_for_each_other(compose):
    """What is waited for is started, and can come to that state."""
    services = active(compose)
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            assert condition == ("service_completed_successfully" if needed in ONE_SHOT else "service_healthy")
            assert needed in services
    assert list(services["gateway"]["depends_on"]) == ["triton"]
    assert list(services["triton"]["depends_on"]) == (["models"] if compose is WITHOUT_GPU else ["engine"])


def test_one_gpu_is_for_those_who_need_it():
    """And without one, nothing asks for it."""
    has_gpu = {
        name: "devices" in each["deploy"]["resources"].get("reservations", {}) for name, each in SERVICES.items()
    }
    assert {name for name, has in has_gpu.items() if has} == {"engine", "triton", "dcgm-exporter"}
    assert not any("reservations" in each["deploy"]["resources"] for each in active(WITHOUT_GPU).values())


def test_the_gateway_takes_its_settings(monkeypatch):
    """None is unknown or refused; and it finds Triton, and has time to finish what it has begun."""
    seen = []

    async def serve(settings, _):
        seen.append(settings)

    service = SERVICES["gateway"]
    monkeypatch.setattr(gateway_command, "serve", serve)
    done = CliRunner().invoke(gateway_command.gateway, env=service["environment"])
    assert done.exit_code == 0, done.output
    (settings,) = seen
    assert settings.triton_url == "dns://triton:8001"
    assert set(service["networks"]) & set(SERVICES["triton"]["networks"])
    published = {int(port.rpartition(":")[2]) for port in service["ports"]}
    assert published == {settings.http_port, settings.grpc_port}
    assert f":{settings.admin_port}/readyz" in service["healthcheck"]["test"][-1]
    assert seconds(service["stop_grace_period"]) >= settings.drain_seconds + settings.grace_seconds + 10


def test_callers_on_other_machines_need_a_key(monkeypatch):
    """What opens the ports on that page also asks for keys."""
    seen = []

    async def serve(settings, _):
        seen.append(settings)

    monkeypatch.setattr(gateway_command, "serve", serve)
    service = with_keys()["services"]["gateway"]
    done = CliRunner().invoke(gateway_command.gateway, env=service["environment"])
    assert done.exit_code == 0, done.output
    (source, target, _), *_ = mounts(service)
    assert str(seen[0].keys_file).startswith(f"{target}/")
    assert not seen[0].insecure
    assert source == "./keys"


def test_triton_is_started_as_in_kubernetes():
    """With the same options, the same probe, and more time than its countdown."""
    service = SERVICES["triton"]
    pod = container(objects(K8S / "overlays" / "single-gpu"), "triton", "triton")
    assert service["command"][1:] == pod["args"][1:]
    assert service["healthcheck"]["test"][1:] == pod["readinessProbe"]["exec"]["command"]
    assert ("./k8s/components/gpu/ready.py", "/opt/eagleeye/ready.py", True) in list(mounts(service))
    (countdown,) = (each.partition("=")[2] for each in service["command"] if each.startswith("--exit-timeout-secs="))
    assert seconds(service["stop_grace_period"]) >= float(countdown) + 10


def test_the_models_are_written_where_triton_reads():
    """One volume at one path; a plan takes the place of a model there."""
    (repository,) = re.findall(r"EAGLEEYE_MODEL_REPOSITORY=(\S+)", " ".join(images.of("exporter", "ENV")))
    assert SERVICES["triton"]["command"][0] == f"--model-repository={repository}"
    assert SERVICES["engine"]["entrypoint"][3:5] == ["--repository", repository]
    for name in ("models", "engine", "triton"):
        assert ("models", "/data", name == "triton") in list(mounts(SERVICES[name]))


def test_the_shipped_model_is_exported():
    """By the command's own options, and as `eagleeye up` does."""
    words = SERVICES["models"]["command"]
    here = [word.replace(images.LIBRARY, str(REPOSITORY)) for word in words]
    given = export.make_context("export", here[1:]).params
    assert words[0] == "export"
    assert (given["name"], given["variant"]) == (up._SHIPPED_MODEL, "Ns")
    assert given["checkpoint"].is_relative_to(REPOSITORY / "export" / "checkpoints")


def test_the_engine_command_is_one():
    """With its options."""
    first, *words = SERVICES["engine"]["entrypoint"]
    assert (first, words[:2]) == ("eagleeye", ["engine", "ensure"])
    known = engine.commands["ensure"].params
    given = {word for word in words if word.startswith("--")}
    assert given <= {option for parameter in known for option in parameter.opts}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Prometheus' configuration as its container has it; the folder and what it says."""
    folder = tmp_path_factory.mktemp("prometheus")
    for source, target, _ in mounts(SERVICES["prometheus"]):
        if target.startswith("/etc/prometheus/"):
            shutil.copy(REPOSITORY / source, folder / Path(target).name)
    return folder, yaml.safe_load((folder / "prometheus.yaml").read_text())


def test_prometheus_takes_its_configuration(prometheus):
    """With our rules, which are those for Kubernetes, at the path that it is told."""
    folder, _ = prometheus
    promtool("check", "config", str(folder / "prometheus.yaml"))
    assert (folder / "rules.yaml").read_text() == (K8S / "plain" / "rules.yaml").read_text()
    assert "--config.file=/etc/prometheus/prometheus.yaml" in SERVICES["prometheus"]["command"]


def test_prometheus_reaches_what_it_scrapes(prometheus):
    """Each target is a service of a network that it shares, and has the labels that rules and dashboards ask for."""
    _, configuration = prometheus
    found = {}
    for job in configuration["scrape_configs"]:
        (static,) = job["static_configs"]
        ((name, port),) = (target.split(":") for target in static["targets"])
        found[name] = int(port)
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
        assert static["labels"].keys() == {"namespace", "pod", "container"}
        user = "triton" if name == "dcgm-exporter" else name  # of the GPU
        assert static["labels"] == {"namespace": "compose", "pod": user, "container": user}
    assert found == METRICS_PORTS
    assert int(SERVICES["gateway"]["environment"]["EAGLEEYE_ADMIN_PORT"]) == METRICS_PORTS["gateway"]


def test_metrics_are_scraped_as_in_kubernetes(prometheus):
    """As often, and with the same ones dropped."""
    _, configuration = prometheus
    plain = yaml.safe_load((K8S / "plain" / "prometheus.yaml").read_text())
    assert configuration["global"] == plain["global"]
    kept = ("job_name", "scrape_interval", "scrape_timeout", "metric_relabel_configs")
    assert [{key: job.get(key) for key in kept} for job in configuration["scrape_configs"]] == [
        {key: job.get(key) for key in kept} for job in plain["scrape_configs"]
    ]
    assert SERVICES["dcgm-exporter"]["environment"] == {"DCGM_EXPORTER_INTERVAL": "5000"}


def test_grafana_has_our_dashboards():
    """From the folder that it is told, and each panel asks the one Prometheus."""
    by_target = {target: source for source, target, _ in mounts(SERVICES["grafana"])}
    provisioning = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((REPOSITORY / by_target[f"{provisioning}/datasources/eagleeye.yaml"]).read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((REPOSITORY / by_target[f"{provisioning}/dashboards/eagleeye.yaml"]).read_text())[
        "providers"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert "networks" not in SERVICES["grafana"]  # the default one
    assert "default" in SERVICES["prometheus"]["networks"]
    folder = REPOSITORY / by_target[provider["options"]["path"]]
    assert folder.resolve() == K8S / "components" / "monitoring" / "dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
    for path in folder.glob("*.json"):
        dashboard = json.loads(path.read_text())
        chosen = {each["name"]: each for each in dashboard["templating"]["list"]}["datasource"]
        assert (chosen["type"], chosen["query"]) == ("datasource", source["type"])
        assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} <= {"${datasource}", source["uid"]}


def test_the_gpu_counts_as_tritons(tmp_path):
    """DCGM knows no pods here: with the labels that Prometheus adds, the rule for busy GPUs finds Triton's."""
    labels = 'namespace="compose", pod="triton", container="triton", gpu="0"'
    test = {
        "rule_files": [str(K8S / "plain" / "rules.yaml")],
        "evaluation_interval": "5s",
        "tests": [
            {
                "interval": "5s",
                "input_series": [{"series": f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{labels}}}", "values": "0.5x30"}],
                "promql_expr_test": [
                    {
                        "expr": "eagleeye:gpu_busy_percent:sum1m",
                        "eval_time": "2m",
                        "exp_samples": [
                            {"labels": 'eagleeye:gpu_busy_percent:sum1m{namespace="compose"}', "value": 50}
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
