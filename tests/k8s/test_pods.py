"""What every pod of ours has, and what the gateway's and Triton's have in particular."""

import re

import pytest
from click.testing import CliRunner

from export import engine_command
from gateway import __main__ as gateway_command
from tests.k8s.conftest import K8S, PLATFORMS, container, containers, environment, objects, of_kind, pod_specs

DIGEST = re.compile(r"[^@]+@sha256:[0-9a-f]{64}")


def test_every_container_meets_the_restricted_profile(rendered):
    """What Pod Security asks for, on each container and pod; and our own rules on top."""
    for spec in pod_specs(rendered).values():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        allowed = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"}
        assert all(volume.keys() - {"name"} <= allowed for volume in spec["volumes"])
        for each in containers(spec):
            own = each["securityContext"]
            assert own == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in each.get("ports", []))


def test_no_pod_has_a_token_or_service_variables(rendered):
    """Nothing of ours asks the API server; and EAGLEEYE_* variables of a Service would stop the gateway."""
    assert all(not each["automountServiceAccountToken"] for each in of_kind(rendered, "ServiceAccount"))
    for spec in pod_specs(rendered).values():
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False


def test_every_container_states_what_it_needs(rendered):
    """Requests for processor and memory, and a limit of memory; probes for what serves."""
    for spec in pod_specs(rendered).values():
        for each in containers(spec):
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys()
            assert "memory" in each["resources"]["limits"]
    for each in of_kind(rendered, "Deployment"):
        for served in each["spec"]["template"]["spec"]["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= served.keys()


def test_images_are_named_by_digest(rendered, folder):
    """Everywhere but in the overlay for kind, which has no registry."""
    images = {each["image"] for spec in pod_specs(rendered).values() for each in containers(spec)}
    if folder.name == "cpu":
        assert images == {"eagleeye/gateway:dev", "eagleeye/triton:dev", "eagleeye/models:dev"}
    else:
        assert all(DIGEST.fullmatch(image) for image in images)


def test_the_namespace_enforces_the_restricted_profile(rendered):
    """The cluster itself holds us to it, and every object lies in that namespace."""
    (namespace,) = of_kind(rendered, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    unscoped = {"Namespace", "PriorityClass"}
    inside = {each["metadata"]["namespace"] for each in rendered if each["kind"] not in unscoped}
    assert inside == {namespace["metadata"]["name"]}


def test_triton_gets_time_to_finish(rendered):
    """Grace is the pause before SIGTERM, Triton's own countdown and 10 s at least."""
    spec = pod_specs(rendered)["triton"]
    triton = container(rendered, "triton", "triton")
    pause = triton["lifecycle"]["preStop"]["sleep"]["seconds"]
    (countdown,) = (arg.partition("=")[2] for arg in triton["args"] if arg.startswith("--exit-timeout-secs="))
    assert spec["terminationGracePeriodSeconds"] >= pause + int(countdown) + 10


def test_gateways_get_time_to_finish(rendered):
    """Grace is the gateway's draining, its own grace and 10 s at least."""
    for name, spec in pod_specs(rendered).items():
        if name.startswith("gateway"):
            settings = environment(container(rendered, name, "gateway"))
            needed = float(settings["EAGLEEYE_DRAIN_SECONDS"]) + float(settings["EAGLEEYE_GRACE_SECONDS"])
            assert spec["terminationGracePeriodSeconds"] >= needed + 10


def test_a_triton_pod_is_patient_at_the_start_only(rendered):
    """Liveness never asks for models, and a rollout waits longer than the longest start."""
    triton = container(rendered, "triton", "triton")
    assert triton["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert triton["startupProbe"]["httpGet"]["path"] == "/v2/health/ready"
    longest = triton["startupProbe"]["periodSeconds"] * triton["startupProbe"]["failureThreshold"]
    (deployment,) = (each for each in of_kind(rendered, "Deployment") if each["metadata"]["name"] == "triton")
    assert deployment["spec"]["progressDeadlineSeconds"] > longest


def test_readiness_asks_whether_models_are_served(rendered):
    """Triton's asks for all its models, the gateway's for a Triton, or whether it holds requests until one is there."""
    gateway = container(rendered, "gateway", "gateway")["readinessProbe"]["httpGet"]
    assert gateway["path"] == "/readyz"
    assert gateway["port"] == "admin"
    triton = container(rendered, "triton", "triton")
    assert "--strict-readiness=false" in triton["args"]  # but for a load that fails later, see test_contract
    assert not any(arg.startswith("--exit-on-error") for arg in triton["args"])  # one that fails at the start ends it
    assert {"--model-control-mode=explicit", "--load-model=*"} <= set(triton["args"])
    probe = triton["readinessProbe"]
    if "nvidia.com/gpu" in triton["resources"]["limits"]:
        assert probe["exec"]["command"] == ["python3", "/opt/eagleeye/ready.py"]
        assert "httpGet" not in probe
    else:
        assert probe["httpGet"]["path"] == "/v2/health/ready"


def test_a_plan_is_chosen_after_the_models_have_arrived(variants):
    """Both read the repository that the container before has made; and the commands are ones that there are."""
    rendered = objects(variants["engine-build"])
    spec = pod_specs(rendered)["triton"]
    assert [each["name"] for each in spec["initContainers"]] == ["models", "engine"]
    commands = [spec["initContainers"][1]["command"], pod_specs(rendered)["engine-build"]["containers"][0]["command"]]
    for _, *words in commands:
        known = engine_command.engine.commands[words[1]].params
        given = {word for word in words if word.startswith("--")}
        assert given <= {option for parameter in known for option in (*parameter.opts, *parameter.secondary_opts)}
    repository = commands[0][commands[0].index("--repository") + 1]
    assert f"--model-repository={repository}" in spec["containers"][0]["args"]


@pytest.mark.parametrize("name", PLATFORMS)
def test_rollouts_lose_nothing(name):
    """A new pod comes before an old one goes; with one GPU that can't be."""
    for each in of_kind(objects(K8S / "overlays" / name), "Deployment"):
        one_gpu = name == "single-gpu" and each["metadata"]["name"] == "triton"
        surge = {"maxUnavailable": 1, "maxSurge": 0} if one_gpu else {"maxUnavailable": 0, "maxSurge": 1}
        assert each["spec"]["strategy"]["rollingUpdate"] == surge


def test_a_gpu_pod_finds_a_gpu_node(rendered):
    """Where a pod has a GPU it has one, and goes where GPUs are, whatever keeps others away from there."""
    triton = container(rendered, "triton", "triton")
    gpus = triton["resources"]["limits"].get("nvidia.com/gpu")
    spec = pod_specs(rendered)["triton"]
    if gpus is None:
        assert "nodeSelector" not in spec
    else:
        assert gpus == 1
        assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_the_gateway_takes_its_settings(rendered, monkeypatch, tmp_path):
    """The command starts with these variables up to where it would serve: none is unknown or refused."""
    seen = []

    async def serve(settings, _):
        seen.append(settings)

    monkeypatch.setattr(gateway_command, "serve", serve)
    for name in filter(lambda name: name.startswith("gateway"), pod_specs(rendered)):
        given = environment(container(rendered, name, "gateway"))
        given = {key: "2" if value is None else value for key, value in given.items()}
        given.pop("EAGLEEYE_OTLP_ENDPOINT", None)  # would begin to send
        if "EAGLEEYE_KEYS_FILE" in given:
            (tmp_path / "keys.json").write_bytes((K8S / "components" / "keys" / "keys.json").read_bytes())
            given["EAGLEEYE_KEYS_FILE"] = str(tmp_path / "keys.json")
        done = CliRunner().invoke(gateway_command.gateway, env=given)
        assert done.exit_code == 0, done.output
    assert all(settings.triton_url == "dns://triton-headless:8001" for settings in seen)
    assert seen


def test_a_gateway_decodes_with_what_it_was_given(rendered):
    """One thread more than processors, as by default where it has a machine for itself."""
    for name in filter(lambda name: name.startswith("gateway"), pod_specs(rendered)):
        gateway = container(rendered, name, "gateway")
        requested = gateway["resources"]["requests"]["cpu"]
        processors = 1 if requested.endswith("m") else int(requested)
        assert int(environment(gateway)["EAGLEEYE_PIXEL_THREADS"]) == processors + 1


def test_callers_are_asked_for_a_key_or_knowingly_not(rendered):
    """One of the two, on every gateway; and what faces the world asks."""
    faces_the_world = of_kind(rendered, "Ingress", "HTTPRoute")
    for name in filter(lambda name: name.startswith("gateway"), pod_specs(rendered)):
        settings = environment(container(rendered, name, "gateway"))
        assert ("EAGLEEYE_KEYS_FILE" in settings) != ("EAGLEEYE_INSECURE" in settings)
        assert "EAGLEEYE_KEYS_FILE" in settings or not faces_the_world
