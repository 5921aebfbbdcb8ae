"""What is rendered is what an API server takes."""

import copy
import functools

import jsonschema
import kubernetes_validate.utils
import pytest
import yaml

from tests.k8s.conftest import K8S, PLATFORMS, VARIANTS, kustomize, objects, of_kind, pod_specs, render

VERSIONS = ("1.33", "1.34", "1.36")
CORE_GROUPS = {
    "v1",
    "apps/v1",
    "batch/v1",
    "policy/v1",
    "autoscaling/v2",
    "scheduling.k8s.io/v1",
    "networking.k8s.io/v1",
}


def is_core(each):
    return each["apiVersion"] in CORE_GROUPS


@pytest.fixture(scope="module")
def fast_schemas():
    """The validator reads megabytes of definitions for each object; once for each version will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kubernetes_validate.utils,
            "schema_contents",
            functools.cache(kubernetes_validate.utils.schema_contents),
        )
        yield


@pytest.fixture(scope="session")
def custom_schemas(shared_dir):
    """(apiVersion, kind) -> the schema of its CustomResourceDefinition, made strict."""
    schemas = {}
    for path in (shared_dir / "k8s-schemas").glob("*/*.yaml"):
        for definition in filter(None, yaml.safe_load_all(path.read_text())):
            spec = definition["spec"]
            for version in spec["versions"]:
                key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                schemas[key] = version["schema"]["openAPIV3Schema"]
    return schemas


def strict(schema, *, is_root=True):
    """The schema as JSON Schema has it, which refuses unknown fields: an API server drops them in silence."""
    if isinstance(schema, list):
        return [strict(each, is_root=False) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value, is_root=False) for key, value in schema.items() if not key.startswith("x-")}
    if is_root:
        made["properties"]["metadata"] = {"type": "object"}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not keeps:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    return made


@pytest.mark.parametrize("overlay", sorted(path.name for path in (K8S / "overlays").iterdir()))
def test_two_renders_are_equal(overlay):
    """`kubectl diff` shows changes, and nothing else."""
    assert kustomize(K8S / "overlays" / overlay) == render(K8S / "overlays" / overlay)


@pytest.mark.usefixtures("fast_schemas")
@pytest.mark.parametrize("version", VERSIONS)
def test_core_objects_are_valid(rendered, version):
    """Each object of Kubernetes' own kinds meets that version's schema, misspelt fields included."""
    core = [each for each in rendered if is_core(each)]
    assert core
    for each in core:
        kubernetes_validate.utils.validate(each, version, strict=True)


@pytest.mark.usefixtures("fast_schemas")
def test_a_misspelt_core_field_is_found():
    """The check above is a check."""
    (deployment, *_) = of_kind(objects(K8S / "overlays" / "cpu"), "Deployment")
    wrong = copy.deepcopy(deployment)
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(jsonschema.ValidationError):
        kubernetes_validate.utils.validate(wrong, VERSIONS[0], strict=True)


def test_custom_objects_are_valid(rendered, custom_schemas):
    """Each object of other kinds meets the schema of its CustomResourceDefinition."""
    for each in rendered:
        if not is_core(each):
            jsonschema.Draft202012Validator(strict(custom_schemas[each["apiVersion"], each["kind"]])).validate(each)


def test_a_misspelt_custom_field_is_found(custom_schemas):
    """The check above is a check."""
    (scaled, *_) = of_kind(objects(K8S / "overlays" / "gpu"), "ScaledObject")
    wrong = copy.deepcopy(scaled)
    wrong["spec"]["scaleTargetRef"]["nam"] = wrong["spec"]["scaleTargetRef"].pop("name")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(strict(custom_schemas["keda.sh/v1alpha1", "ScaledObject"])).validate(wrong)


def test_every_component_is_rendered_somewhere():
    """None is left out of these tests, but image-policy, which has an overlay of its own."""
    used = {component for components in VARIANTS.values() for component in components} | {"image-policy"}
    for name in PLATFORMS:
        listed = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())["components"]
        used |= {each.rpartition("/")[2] for each in listed}
    assert used == {path.name for path in (K8S / "components").iterdir()}


def test_the_image_policy_renders_and_guards_our_images():
    """It matches the registry that the component `images` names."""
    (policy,) = objects(K8S / "overlays" / "image-policy")
    (reference,) = policy["spec"]["matchImageReferences"]
    images = {
        container["image"]
        for spec in pod_specs(objects(K8S / "overlays" / "production")).values()
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    }
    assert all(image.startswith(reference["glob"].removesuffix("*")) for image in images)
    assert policy["spec"]["failurePolicy"] == "Fail"
