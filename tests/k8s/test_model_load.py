"""The Job that loads a version in the cluster fits what runs there."""

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from eagleeye.model.command import model
from tests.k8s import test_pods
from tests.k8s.conftest import K8S, container, environment, objects, of_kind, pod_specs
from tests.k8s.test_render import VERSIONS

PLAIN = K8S / "plain" / "model-load.yaml"


@pytest.fixture
def job():
    return yaml.safe_load(PLAIN.read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_is_valid(job, version):
    """By the schema of each version of Kubernetes."""
    kubernetes_validate.validate(job, version, strict=True)


def test_the_job_is_as_restricted_as_any_pod(job):
    """The namespace would refuse it otherwise."""
    named = {**job, "metadata": {**job["metadata"], "name": "model-load"}}
    spec = job["spec"]["template"]["spec"]
    triton = pod_specs(objects(K8S / "overlays" / "production"))["triton"]
    (own,) = spec["containers"]

    assert spec["securityContext"] == triton["securityContext"]
    assert own["securityContext"] == triton["containers"][0]["securityContext"]
    test_pods.test_every_container_meets_the_restricted_profile([named])
    test_pods.test_no_pod_has_a_token_or_service_variables([named])
    test_pods.test_every_container_states_what_it_needs([named])


def test_the_job_changes_what_tritons_read(job, variants):
    """The same claim and folder; and the addresses are those that gateways ask."""
    rendered = objects(variants["model-volume"])
    triton = pod_specs(rendered)["triton"]
    (claim,) = (it["persistentVolumeClaim"]["claimName"] for it in triton["volumes"] if it["name"] == "models")
    (mount,) = (it for it in container(rendered, "triton", "triton")["volumeMounts"] if it["name"] == "models")
    spec = job["spec"]["template"]["spec"]
    (own,) = spec["containers"]
    settings = environment(own)

    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim}
    assert settings["EAGLEEYE_MODEL_REPOSITORY"] == f"{own['volumeMounts'][0]['mountPath']}/{mount['subPath']}"
    gateway = environment(container(rendered, "gateway", "gateway"))
    assert settings["EAGLEEYE_TRITON_URL"] == gateway["EAGLEEYE_TRITON_URL"]


def test_the_job_gets_through_the_walls(job):
    """Triton lets it in, and it may go there and to DNS."""
    labels = job["spec"]["template"]["metadata"]["labels"]
    policies = {
        each["metadata"]["name"]: each["spec"]
        for each in of_kind(objects(K8S / "overlays" / "production"), "NetworkPolicy")
    }
    peers = [peer["podSelector"]["matchLabels"] for peer in policies["triton"]["ingress"][0]["from"]]

    assert any(peer.items() <= labels.items() for peer in peers)
    assert policies["model-load"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert len(policies["model-load"]["egress"]) == 2


def test_the_command_is_one_that_there_is(job, tmp_path):
    """With its arguments and variables; that there is no such model here is told in one line."""
    (own,) = job["spec"]["template"]["spec"]["containers"]
    settings = {**environment(own), "EAGLEEYE_MODEL_REPOSITORY": str(tmp_path)}
    assert own["command"] == ["eagleeye", "model"]

    done = CliRunner().invoke(model, own["args"], env=settings)

    assert (done.exit_code, done.output) == (1, f"Error: {tmp_path} has no model my_model; there are: none\n")
