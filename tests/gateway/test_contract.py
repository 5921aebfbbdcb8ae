"""Triton's model config is read strictly: a model that is no detector is told apart, with the reason."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.resize import ResizeMode
from gateway.triton.contract import ContractError, parse_model

CONFIG = """
name: "toy"
input { name: "images" data_type: TYPE_UINT8 dims: [ 32, 64, 3 ] }
output { name: "boxes" data_type: TYPE_FP32 dims: [ 5, 4 ] }
output { name: "scores" data_type: TYPE_FP32 dims: [ 5 ] }
output { name: "class_ids" data_type: TYPE_INT32 dims: [ 5 ] }
parameters { key: "labels" value { string_value: '["cat", "h\u00e4ndler"]' } }
parameters { key: "resize" value { string_value: "letterbox" } }
parameters { key: "iou_threshold" value { string_value: "0.65" } }
parameters { key: "variant" value { string_value: "Ns" } }
"""


def config(*replacements):
    text = CONFIG
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text_format.Parse(text, ModelConfig())


def test_a_detector_is_understood():
    """Every fact comes from the config; what it does not say has a default."""
    model = parse_model(config(), [3, 1])
    assert model.name == "toy"
    assert (model.versions, model.latest) == ((1, 3), 3)
    assert model.input_wh == (64, 32)
    assert model.candidates == 5
    assert model.labels == ("cat", "h\u00e4ndler")
    assert model.resize is ResizeMode.LETTERBOX
    assert (model.score_threshold, model.iou_threshold) == (0.4, 0.65)
    assert model.facts == {"variant": "Ns"}


@pytest.mark.parametrize(
    "replacement, says",
    [
        (('"images"', '"pixels"'), "no tensor 'images'"),
        (("TYPE_UINT8", "TYPE_FP32"), "must be TYPE_UINT8"),
        (("TYPE_UINT8", "99"), "but is type 99"),
        (("[ 32, 64, 3 ]", "[ 3, 32, 64 ]"), r"\['any', 'any', 3\]"),
        (("[ 32, 64, 3 ]", "[ -1, 64, 3 ]"), r"\[-1, 64, 3\]"),
        (("[ 5, 4 ]", "[ 6, 4 ]"), r"'boxes' must be TYPE_FP32 \[5, 4\]"),
        (("TYPE_INT32", "TYPE_INT64"), "'class_ids' must be TYPE_INT32"),
        (('key: "labels"', 'key: "names"'), "no 'labels'"),
        (('["cat", "h\u00e4ndler"]', "cat,dog"), "not JSON"),
        (('["cat", "h\u00e4ndler"]', "[]"), "JSON list of one or more"),
        (("letterbox", "crop"), "known are stretch, letterbox"),
        (('"0.65"', '"much"'), "not a number"),
        (('"0.65"', '"1.5"'), "between 0 and 1"),
    ],
)
def test_what_is_no_detector_is_named(replacement, says):
    """The message says in which respect the contract is broken."""
    with pytest.raises(ContractError, match=says):
        parse_model(config(replacement), [1])


@pytest.mark.parametrize(
    "says, batch_size",
    [
        ("", 1),
        ("max_batch_size: 16", 16),
        ("max_batch_size: 16 instance_group { count: 2 kind: KIND_GPU }", 32),
        ('max_batch_size: 16 backend: "onnxruntime" instance_group { count: 1 kind: KIND_GPU }', 16),
        ('max_batch_size: 16 backend: "onnxruntime" instance_group { count: 2 kind: KIND_CPU }', 8),
        ('max_batch_size: 2 backend: "onnxruntime" instance_group { count: 1 kind: KIND_CPU }', 2),
        ('max_batch_size: 16 backend: "gpu_standin" instance_group { count: 1 kind: KIND_CPU }', 16),
    ],
)
def test_how_many_images_it_pays_to_send_together(says, batch_size):
    """A batch for each instance; on a processor, where a batch takes as long as its images, a few."""
    assert parse_model(config(('name: "toy"\n', f'name: "toy"\n{says}\n')), [1]).batch_size == batch_size
