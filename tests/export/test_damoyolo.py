"""The network equals the official one: recorded keys, intermediate values and answers of all eight variants."""

import hashlib

import numpy as np
import pytest
import torch

from export.build import count_gflops, count_parameters
from export.damoyolo import DamoYolo, RepConv, anchor_constants
from export.variants import VARIANTS

# Trainable parameters of the deployed form in millions and GFLOPs of its convolutions, measured on the official code.
MEASURED = {
    "Ns": (1.4057, 1.498),
    "Nm": (2.7072, 3.582),
    "N": (2.3473, 4.041),
    "Nl": (5.6886, 5.909),
    "T": (8.4796, 18.008),
    "S": (16.2516, 37.616),
    "M": (28.1782, 61.622),
    "L": (42.0581, 97.116),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def training_form(parity, variant):
    """One variant's keys, stages and answers before deployment."""
    detector = parity.detector(variant)
    images = torch.from_numpy(parity.image(variant)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        backbone = detector.backbone(images)
        neck = detector.neck(backbone)
        scores, boxes = detector.head(neck)
        reg_logits = detector.head.scales[2](detector.head.gfl_reg[2](neck[2]))
    return {
        "detector": detector,
        "keys": [[key, list(x.shape), str(x.dtype).removeprefix("torch.")] for key, x in detector.state_dict().items()],
        "parameters": count_parameters(detector),
        "images": images,
        "stages": {
            f"{part}.{i}": x for part, maps in (("backbone", backbone), ("neck", neck)) for i, x in enumerate(maps)
        },
        "scores": scores[0].numpy(),
        "boxes": boxes[0].numpy(),
        "reg_logits": reg_logits[0].numpy(),
    }


@pytest.fixture(scope="module")
def deployed(training_form):
    """The same network's answers after deployment."""
    detector = training_form["detector"].deploy()
    with torch.inference_mode():
        scores, boxes = detector(training_form["images"])
    return {"detector": detector, "scores": scores[0].numpy(), "boxes": boxes[0].numpy()}


def test_weight_rule(parity, variant):
    """The tests' weights and image are the recorded ones, by their digests."""
    meta, shapes = parity.meta(variant), {key: shape for key, shape, _ in parity.keys(variant)}

    digests = {
        key: hashlib.sha256(parity.weight(variant, key, shapes[key]).tobytes()).hexdigest()[:16]
        for key in meta["weight_probe"]
    }

    assert digests == meta["weight_probe"]
    assert hashlib.sha256(parity.image(variant).tobytes()).hexdigest() == meta["image_sha256"]


def test_state_dict(parity, variant, training_form):
    """Keys, shapes, types and their order are those of official checkpoints."""
    assert training_form["keys"] == parity.keys(variant)


def test_stages(parity, variant, training_form):
    """Backbone and neck compute the recorded maps, before deployment."""
    for name, recorded in parity.meta(variant)["stages"].items():
        found = training_form["stages"][name]
        places = [j * found.numel() // 24 for j in range(24)]

        assert list(found.shape) == recorded["shape"], name
        np.testing.assert_allclose(found.flatten()[places], recorded["samples"], rtol=0, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(found.double().std(), recorded["std"], rtol=1e-4, err_msg=name)


def test_distance_logits(parity, variant, training_form):
    """The head's distance logits at stride 32 are the recorded ones."""
    expected = parity.expected(variant)["reg_logits_p5"]

    np.testing.assert_allclose(training_form["reg_logits"], expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("form", ["training_form", "deployed"])
def test_answers(parity, variant, form, request):
    """Scores and boxes are the recorded ones, in both forms, within the noise of float32."""
    found, expected = request.getfixturevalue(form), parity.expected(variant)
    rows, tolerance = expected["rows"], VARIANTS[variant].tolerance

    assert len(found["scores"]) == parity.meta(variant)["anchors"]
    np.testing.assert_allclose(found["scores"][rows], expected["scores"], rtol=0, atol=tolerance.score)
    np.testing.assert_allclose(found["boxes"][rows], expected["boxes"], rtol=0, atol=tolerance.box_pixels)


def test_size_figures(parity, variant, training_form, deployed):
    """Parameters and GFLOPs are those measured on the official code."""
    meta = parity.meta(variant)

    assert training_form["parameters"] == meta["params_training"]
    assert count_parameters(deployed["detector"]) == meta["params_deploy"]
    assert (round(meta["params_deploy"] / 1e6, 4), round(count_gflops(deployed["detector"]), 3)) == MEASURED[variant]


def test_deploy_leaves_no_branches():
    """After deployment no RepConv has its two branches left, and deploying again changes nothing."""
    detector = DamoYolo(VARIANTS["T"], 2, (32, 32)).deploy()
    before = {key: value.clone() for key, value in detector.state_dict().items()}

    after = detector.deploy().state_dict()

    assert not [key for key in after if "rbr_dense" in key or "rbr_1x1" in key]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_official_epsilon_matters(parity):
    """A BatchNorm epsilon of 1e-5 lands far outside the tolerance, so the tolerance can tell."""
    detector = parity.detector("Ns")
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5

    with torch.inference_mode():
        scores, _ = detector(torch.from_numpy(parity.image("Ns")).permute(2, 0, 1)[None].float())

    difference = np.abs(scores[0].numpy() - parity.expected("Ns")["scores"]).max()
    assert difference > 100 * VARIANTS["Ns"].tolerance.score


@pytest.mark.parametrize("stride", [1, 2])
def test_reparameterised_convolution(stride):
    """One fused convolution equals the sum of both branches, to float64 precision."""
    torch.manual_seed(0)
    block = RepConv(4, 6, stride, "relu").double().eval()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(1e-4, 2)  # small ones show whether the epsilon is right
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    expected = block(x)

    block.deploy()

    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_anchor_points():
    """Points are cell corners in pixels, row by row, from stride 8 to 32; left and top are counted backwards."""
    points, reach = anchor_constants((32, 64))

    assert points.shape == reach.shape == (1, 4, 4 * 8 + 2 * 4 + 1 * 2)
    assert points[0, :, 9].tolist() == [8, 8, 8, 8]
    assert points[0, :, 33].tolist() == [16, 0, 16, 0]
    assert points[0, :, -1].tolist() == [32, 0, 32, 0]
    assert reach[0, :, -1].tolist() == [-32, -32, 32, 32]


def test_rectangular_input():
    """Height and width need not be equal."""
    detector = DamoYolo(VARIANTS["Ns"], 3, (64, 96))

    scores, boxes = detector(torch.zeros(2, 3, 64, 96))

    anchors = (64 * 96) // 64 + (64 * 96) // 256 + (64 * 96) // 1024
    assert scores.shape == (2, anchors, 3)
    assert boxes.shape == (2, anchors, 4)


def test_legacy_head_drops_its_last_channel():
    """A head with one channel more answers for the first classes as a plain head with the same weights does."""
    plain = DamoYolo(VARIANTS["Ns"], 5, (64, 64))
    legacy = DamoYolo(VARIANTS["Ns"], 5, (64, 64), legacy_head=True)
    weights = dict(plain.state_dict())
    for key in list(weights):
        if key.startswith("head.gfl_cls"):
            weights[key] = torch.cat([weights[key], torch.full_like(weights[key][:1], 9.0)])
    legacy.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 64) * 255

    assert legacy.state_dict()["head.gfl_cls.0.weight"].shape[0] == 6
    torch.testing.assert_close(legacy(images), plain(images))


@pytest.mark.parametrize("size", [(416, 400), (31, 32)])
def test_sizes_off_the_grid_are_refused(size):
    """Levels only fit together at multiples of 32."""
    with pytest.raises(AssertionError, match="multiples of 32"):
        DamoYolo(VARIANTS["Ns"], 1, size)
