"""The load test as Jobs: they hold what every pod of ours holds, and their commands are ones that there are."""

import kubernetes_validate.utils
import pytest
from click.testing import CliRunner

from eagleeye.options import environment_name
from loadtest.load import command
from loadtest.load.profile import OURS
from tests.k8s import test_pods, test_references
from tests.k8s.conftest import K8S, container, environment, objects, of_kind, pod_specs
from tests.k8s.test_render import VERSIONS, fast_schemas

__all__ = ["fast_schemas"]

FOLDER = K8S / "overlays" / "loadtest"


@pytest.fixture
def rendered():
    return objects(FOLDER)


@pytest.mark.usefixtures("fast_schemas")
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid(rendered, version):
    """Each meets that version's schema, misspelt fields included."""
    for each in rendered:
        kubernetes_validate.utils.validate(each, version, strict=True)


def test_its_pods_are_like_all_of_ours(rendered):
    """Restricted, without tokens, with stated needs, and with images by digest; every name is that of an object."""
    test_pods.test_every_container_meets_the_restricted_profile(rendered)
    test_pods.test_no_pod_has_a_token_or_service_variables(rendered)
    test_pods.test_every_container_states_what_it_needs(rendered)
    test_pods.test_images_are_named_by_digest(rendered, FOLDER)
    test_references.test_volumes_and_accounts_are_there(rendered)


def test_it_yields_to_what_it_measures(rendered):
    """It never takes a serving pod's place."""
    (priority,) = of_kind(rendered, "PriorityClass")
    assert priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"


def test_the_commands_are_ones_that_there_are(rendered):
    """With options that exist, a profile of ours, and variables that they read."""
    words = {name: container(rendered, name, "load")["command"] for name in pod_specs(rendered)}
    assert [each[:3] for each in words.values()] == [["eagleeye", "load", "run"], ["eagleeye", "load", "worker"]]
    assert words["load"][3] in {path.stem for path in OURS.glob("*.toml")}
    for name, each in words.items():
        found = command.load.commands[each[2]]
        assert {word for word in each if word.startswith("--")} <= {opt for param in found.params for opt in param.opts}
        read = {param.envvar for param in found.params}
        given = environment(container(rendered, name, "load"))
        assert {variable for variable in given if variable.startswith(environment_name(""))} <= read
        assert CliRunner().invoke(found, ["--help"]).exit_code == 0


def test_the_leader_awaits_all_workers_where_they_look_for_it(rendered):
    """Their number, its Service, and its port."""
    leader, worker = (container(rendered, name, "load") for name in ("load", "load-workers"))
    (job,) = (each for each in of_kind(rendered, "Job") if each["metadata"]["name"] == "load-workers")
    awaited = int(leader["command"][leader["command"].index("--await-workers") + 1])
    assert job["spec"]["parallelism"] == job["spec"]["completions"] == awaited
    (service,) = of_kind(rendered, "Service")
    assert worker["command"][worker["command"].index("--master-host") + 1] == service["metadata"]["name"]
    (bind,) = (param.default for param in command.run.params if param.name == "bind_port")
    (port,) = (param.default for param in command.worker.params if param.name == "master_port")
    assert [each["port"] for each in service["spec"]["ports"]] == [port] == [bind]
    assert leader["ports"] == [{"name": "locust", "containerPort": port}]


def test_walls_let_it_through(rendered):
    """Production's gateways take its pods in, at the Service that it asks."""
    production = objects(K8S / "overlays" / "production")
    (gateway,) = (each for each in of_kind(production, "NetworkPolicy") if each["metadata"]["name"] == "gateway")
    peers = [peer for rule in gateway["spec"]["ingress"] for peer in rule["from"] if "podSelector" in peer]
    admitted = [name for peer in peers for rule in peer["podSelector"]["matchExpressions"] for name in rule["values"]]
    assert set(admitted) == set(pod_specs(rendered))
    variables = environment(container(rendered, "load", "load"))
    (service,) = (each for each in of_kind(production, "Service") if each["metadata"]["name"] == "gateway")
    ports = {each["port"] for each in service["spec"]["ports"]}
    for name in ("EAGLEEYE_URL", "EAGLEEYE_GRPC_URL"):
        host, _, port = variables[name].rpartition("/")[2].partition(":")
        assert (host, int(port) in ports) == ("gateway", True)
