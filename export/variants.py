"""The eight published DAMO-YOLO structures as data.

Source: the official configurations of tinyvision/DAMO-YOLO (Apache-2.0). `export/damoyolo.py` builds what stands here.
Names are short: `Ns` is the official `damoyolo_tinynasL18_Ns`, and so on. Needs nothing but the standard library, so
that a command line can list the variants without loading torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

Activation = Literal["relu", "silu"]

STRIDES: Final = (8, 16, 32)
"""Pixels from one anchor to the next, on each of the three levels. An input side must be a multiple of the largest."""

MOBILE_EXPANSIONS: Final = (3.5, 4.0, 4.5, 5.0, 5.5)
"""Inner width of a "mob" stage's blocks over the stage's OUTPUT width, for stages 1 to 5."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One backbone stage: `blocks` blocks in a row, of which the first changes width and stride."""

    in_channels: int
    out_channels: int
    hidden_channels: int
    """Width inside each block."""
    stride: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest difference that rounding alone may cause between two right computations of one network.

    Ten or more times the measured difference between float32 and float64, and far below what any structural mistake
    makes (the least of those moves a score by 0.1 and a box by 15 pixels).
    """

    score: float
    box_pixels: float

    def times(self, factor: float) -> Tolerance:
        """Both, multiplied."""
        return Tolerance(self.score * factor, self.box_pixels * factor)


@dataclass(frozen=True, slots=True)
class Variant:
    """One published structure. Everything but the number of classes, which the checkpoint decides."""

    name: str
    official_config: str
    backbone: Literal["mob", "res", "csp"]
    stem: Literal["conv", "focus"]
    stem_channels: int
    stages: tuple[Stage, ...]
    neck_channels: tuple[int, int, int]
    """Widths that the neck hands to the head, at strides 8, 16 and 32."""
    neck_blocks: int
    neck_expansion: float
    """Inner width of a neck block over its outer width."""
    activation: Activation
    reg_max: int
    """A box side is a distribution over the distances 0, 1, ..., reg_max, in units of the stride."""
    head_kernel: int
    input_size: int
    """Side of the square input that the official weights were trained for, in pixels."""
    score_threshold: float
    """Official evaluation threshold (low: it is made for mAP, not for showing boxes to a person)."""
    iou_threshold: float
    """Official threshold of the class-wise NMS."""
    tolerance: Tolerance
    float_layers: tuple[str, ...] | None = None
    """What the official study of INT8 keeps in floating point: layers, or parts of the network. None: it says nothing
    about this variant."""

    @property
    def feature_channels(self) -> tuple[int, int, int]:
        """Widths that the backbone hands to the neck, at strides 8, 16 and 32."""
        at_stride = [self.stages[i].out_channels for i in FEATURE_STAGES[self.backbone]]
        return at_stride[0], at_stride[1], at_stride[2]


FEATURE_STAGES: Final = {"mob": (1, 3, 4), "res": (1, 3, 4), "csp": (1, 2, 3)}
"""Indices into `Variant.stages` of the stages whose outputs have the strides 8, 16 and 32."""


def multiple_of_8(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, at least 8, and never more than a tenth below it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _mobile_stages(*rows: tuple[int, int, int, int]) -> tuple[Stage, ...]:
    """Stages of inverted-residual blocks from rows of (in, out, stride, blocks)."""
    return tuple(
        Stage(in_channels, out_channels, multiple_of_8(math.ceil(out_channels * expansion)), stride, blocks)
        for (in_channels, out_channels, stride, blocks), expansion in zip(rows, MOBILE_EXPANSIONS, strict=True)
    )


def _nano(  # what the four nano variants share
    name: str,
    official_config: str,
    stages: tuple[Stage, ...],
    *,
    neck_channels: tuple[int, int, int],
    stem: Literal["conv", "focus"] = "conv",
    head_kernel: int = 1,
) -> Variant:
    return Variant(
        name=name,
        official_config=official_config,
        backbone="mob",
        stem=stem,
        stem_channels=stages[0].in_channels,
        stages=stages,
        neck_channels=neck_channels,
        neck_blocks=2,
        neck_expansion=3.0,
        activation="silu",
        reg_max=7,
        head_kernel=head_kernel,
        input_size=416,
        score_threshold=0.03,
        iou_threshold=0.65,
        tolerance=Tolerance(score=1e-4, box_pixels=0.02),
    )


def _general(  # what T, S, M and L share
    name: str,
    official_config: str,
    backbone: Literal["res", "csp"],
    stages: tuple[Stage, ...],
    *,
    neck_channels: tuple[int, int, int],
    neck_blocks: int,
    tolerance: Tolerance,
    float_layers: tuple[str, ...] | None = None,
    neck_expansion: float = 1.0,
) -> Variant:
    return Variant(
        name=name,
        official_config=official_config,
        backbone=backbone,
        stem="focus",
        stem_channels=stages[0].in_channels,
        stages=stages,
        neck_channels=neck_channels,
        neck_blocks=neck_blocks,
        neck_expansion=neck_expansion,
        activation="silu" if backbone == "csp" else "relu",
        reg_max=16,
        head_kernel=3,
        input_size=640,
        score_threshold=0.05,
        iou_threshold=0.7,
        tolerance=tolerance,
        float_layers=float_layers,
    )


_ALL: Final = (
    _nano(
        "Ns",
        "damoyolo_tinynasL18_Ns",
        _mobile_stages((16, 24, 2, 1), (24, 40, 2, 2), (40, 64, 2, 2), (64, 80, 1, 2), (80, 160, 2, 2)),
        neck_channels=(40, 80, 160),
    ),
    _nano(
        "Nm",
        "damoyolo_tinynasL18_Nm",
        _mobile_stages((16, 40, 2, 2), (40, 64, 2, 2), (64, 112, 2, 2), (112, 128, 1, 2), (128, 256, 2, 1)),
        neck_channels=(64, 128, 256),
    ),
    _nano(
        "N",
        "damoyolo_tinynasL20_N",
        _mobile_stages((16, 40, 2, 2), (40, 80, 2, 2), (80, 112, 2, 2), (112, 112, 1, 2), (112, 160, 2, 1)),
        neck_channels=(64, 128, 256),
        stem="focus",
        head_kernel=3,
    ),
    _nano(
        "Nl",
        "damoyolo_tinynasL20_Nl",
        _mobile_stages((24, 48, 2, 1), (48, 80, 2, 2), (80, 160, 2, 2), (160, 160, 1, 3), (160, 320, 2, 2)),
        neck_channels=(80, 160, 320),
    ),
    _general(
        "T",
        "damoyolo_tinynasL20_T",
        "res",
        (
            Stage(24, 64, 24, 2, 2),
            Stage(64, 96, 64, 2, 2),
            Stage(96, 192, 96, 2, 2),
            Stage(192, 192, 152, 1, 2),
            Stage(192, 384, 192, 2, 1),
        ),
        neck_channels=(64, 128, 256),
        neck_blocks=3,
        tolerance=Tolerance(score=5e-4, box_pixels=0.1),
        float_layers=("neck",),
    ),
    _general(
        "S",
        "damoyolo_tinynasL25_S",
        "res",
        (
            Stage(32, 128, 24, 2, 1),
            Stage(128, 128, 88, 2, 5),
            Stage(128, 256, 128, 2, 3),
            Stage(256, 256, 120, 1, 2),
            Stage(256, 512, 144, 2, 1),
        ),
        neck_channels=(128, 256, 512),
        neck_blocks=3,
        neck_expansion=0.75,
        tolerance=Tolerance(score=5e-4, box_pixels=0.1),
        float_layers=(
            "neck.merge_3.conv1",
            "neck.merge_4.conv1",
            "neck.merge_4.conv3",
            "neck.merge_5.conv2",
            "neck.bu_conv57",
            "neck.merge_7.conv2",
            "neck.bu_conv46",
            "neck.merge_6.conv1",
            "neck.merge_6.conv3",
        ),
    ),
    # The official tables of M and L have two rows for the third stage, and count the downsampling convolution as a
    # block. Here stand the blocks that are really built.
    _general(
        "M",
        "damoyolo_tinynasL35_M",
        "csp",
        (Stage(32, 128, 64, 2, 1), Stage(128, 128, 64, 2, 3), Stage(128, 256, 256, 2, 7), Stage(256, 512, 256, 2, 2)),
        neck_channels=(128, 256, 512),
        neck_blocks=4,
        tolerance=Tolerance(score=1e-3, box_pixels=0.2),
        float_layers=("neck", *(f"backbone.csp_stage.{stage}.conv_shortcut" for stage in range(1, 5))),
    ),
    _general(
        "L",
        "damoyolo_tinynasL45_L",
        "csp",
        (Stage(32, 128, 96, 2, 2), Stage(128, 128, 96, 2, 4), Stage(128, 256, 384, 2, 9), Stage(256, 512, 384, 2, 3)),
        neck_channels=(128, 256, 512),
        neck_blocks=6,
        tolerance=Tolerance(score=2e-3, box_pixels=0.5),
    ),
)

VARIANTS: Final = {variant.name: variant for variant in _ALL}
"""Short name -> structure, from the smallest to the largest."""
