# ruff: noqa: D102, S101 (a class's docstring says what its forward computes; an assert guards what a structure promises)
# mypy: no-warn-return-any
# (nn.Module.__call__ returns Any for mypy; every forward below states its own types)
"""DAMO-YOLO for inference, from the smallest block up to the served model.

The structure follows tinyvision/DAMO-YOLO (Apache-2.0). Attribute names are the official ones, odd as some are, because
they are the keys of official checkpoints: the state_dict of a freshly built model, which has the training form, equals
theirs in keys, shapes and order. `DamoYolo.deploy` turns the training form into the one that is served.

Shapes in comments: N images, C classes, A anchors (cells of all three levels), D = reg_max + 1 distances, K candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.variants import FEATURE_STAGES, STRIDES, Activation, Stage, Variant, multiple_of_8

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH_NORM_EPS: Final = 1e-3
"""The official code sets it after construction; no checkpoint holds it. torch's 1e-5 moves scores by 0.1 and more."""


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution that keeps the image size at stride 1; without bias unless asked, as a BatchNorm follows most."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm with the official epsilon."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=0.03)


def make_activation(name: Activation) -> nn.Module:
    """The activation function called `name`."""
    return nn.SiLU() if name == "silu" else nn.ReLU()


# ---------------------------------------------------------------------------------------------------- shared blocks


class ConvNormAct(nn.Module):
    """Convolution, BatchNorm, activation (`None`: identity). The form of the neck, of Focus and of SPP."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, activation: Activation | None = None
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel, stride)
        self.bn = batch_norm(out_channels)
        self.act = nn.Identity() if activation is None else make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution side by side while training, one 3x3 convolution (`rbr_reparam`) once deployed.

    Structural re-parameterisation after RepVGG (Ding et al., 2021), here without RepVGG's identity branch.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, activation: Activation | None = None
    ) -> None:
        super().__init__()
        self.rbr_dense = ConvNormAct(in_channels, out_channels, 3, stride)
        self.rbr_1x1 = ConvNormAct(in_channels, out_channels, 1, stride)
        self.rbr_reparam: nn.Conv2d | None = None
        self.act = nn.Identity() if activation is None else make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x) if self.rbr_reparam is None else self.rbr_reparam(x)
        return self.act(y)

    @torch.no_grad()
    def deploy(self) -> None:
        """Replace both branches with the one convolution that equals their sum."""
        if self.rbr_reparam is not None:
            return
        dense = fuse_conv_bn_eval(self.rbr_dense.conv, self.rbr_dense.bn)
        point = fuse_conv_bn_eval(self.rbr_1x1.conv, self.rbr_1x1.bn)
        assert dense.bias is not None
        assert point.bias is not None
        dense.weight += nn.functional.pad(point.weight, (1, 1, 1, 1))  # the 1x1 kernel sits in the centre
        dense.bias += point.bias
        self.rbr_reparam = dense
        del self.rbr_dense, self.rbr_1x1


class Focus(nn.Module):
    """Halves the image: every 2x2 square of pixels becomes one cell of 12 channels, then a 3x3 convolution."""

    def __init__(self, out_channels: int, activation: Activation) -> None:
        super().__init__()
        self.conv = ConvNormAct(12, out_channels, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, H, W)
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        # The official order goes down the columns: top left, bottom left, top right, bottom right.
        squares = [top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]]
        return self.conv(torch.cat(squares, 1))  # (N, 12, H/2, W/2) -> (N, out, H/2, W/2)


class SpatialPyramidPooling(nn.Module):
    """Joins a map with its maxima over 5x5, 9x9 and 13x13 cells. Always SiLU, even in the ReLU variants."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, in_channels // 2, 1, activation="silu")
        self.pools = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in (5, 9, 13))
        self.conv2 = ConvNormAct(in_channels // 2 * 4, out_channels, 1, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.pools)], 1))


# --------------------------------------------------------------------------------------------------------- backbone


class ConvNorm(nn.Module):
    """Convolution and BatchNorm under the backbone's key names."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, kernel, stride)
        self.bn1 = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x))


class BackboneConv(nn.Module):
    """`ConvNorm` with an activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, out_channels, kernel, stride)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class ResidualBlock(nn.Module):
    """A convolution into the hidden width, a RepConv out of it; the input is added only at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, *, kernel: int, stride: int, activation: Activation
    ) -> None:
        super().__init__()
        assert stride != 1 or in_channels == out_channels, "the shortcut has no projection"
        self.has_shortcut = stride == 1
        self.conv1 = ConvNorm(in_channels, hidden, kernel)
        self.conv2 = RepConv(hidden, out_channels, stride)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(self.conv1(x)))
        return self.act(x + y if self.has_shortcut else y)


class InvertedResidualBlock(nn.Module):
    """1x1 up to the hidden width, 5x5 depthwise, 1x1 down; after MobileNetV3 (Howard et al., 2019).

    `squeeze_slot` keeps the place of a squeeze-and-excitation that no variant uses: it only shifts the keys.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        *,
        stride: int,
        activation: Activation,
        squeeze_slot: bool = False,
    ) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            convolution(in_channels, hidden, 1),
            batch_norm(hidden),
            make_activation(activation),
            convolution(hidden, hidden, 5, stride, groups=hidden),
            batch_norm(hidden),
            *([nn.Identity()] if squeeze_slot else []),
            make_activation(activation),
            convolution(hidden, out_channels, 1),
            batch_norm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.has_shortcut else y


class PlainStage(nn.Module):
    """The blocks of one stage in a row. The network's last stage has a pooling pyramid after its first block."""

    def __init__(self, stage: Stage, variant: Variant, *, pyramid: bool) -> None:
        super().__init__()
        self.block_list = nn.ModuleList()
        for i in range(stage.blocks):
            in_channels, stride = (stage.in_channels, stage.stride) if i == 0 else (stage.out_channels, 1)
            self.block_list.append(self._block(in_channels, stage, stride, variant))
            if pyramid and i == 0:
                self.block_list.append(SpatialPyramidPooling(stage.out_channels, stage.out_channels))

    @staticmethod
    def _block(in_channels: int, stage: Stage, stride: int, variant: Variant) -> nn.Module:
        widths, activation = (in_channels, stage.out_channels, stage.hidden_channels), variant.activation
        if variant.backbone == "mob":
            return InvertedResidualBlock(*widths, stride=stride, activation=activation, squeeze_slot=True)
        return ResidualBlock(*widths, kernel=1, stride=stride, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class CrossStage(nn.Module):
    """Downsample, then let half the channels pass the blocks and half go around; after CSPNet (Wang et al., 2020)."""

    def __init__(self, stage: Stage, variant: Variant, *, pyramid: bool) -> None:
        super().__init__()
        channels, half = stage.out_channels, stage.out_channels // 2
        self.convstem = nn.ModuleList(
            ResidualBlock(half, half, stage.hidden_channels, kernel=3, stride=1, activation=variant.activation)
            for _ in range(stage.blocks)
        )
        # These four stay ReLU in every variant: the official code never passes its activation on to them.
        self.downsampler = BackboneConv(stage.in_channels, channels, 3, stage.stride)
        self.spp = SpatialPyramidPooling(channels, channels) if pyramid else nn.Identity()
        self.conv_start = BackboneConv(channels, half, 1)
        self.conv_shortcut = BackboneConv(channels, half, 1)
        self.conv_fuse = BackboneConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spp(self.downsampler(x))
        shortcut = self.conv_shortcut(x)
        x = self.conv_start(x)
        for block in self.convstem:
            x = block(x)
        return self.conv_fuse(torch.cat([x, shortcut], 1))


class Backbone(nn.Module):
    """Stem and stages found by TinyNAS: image (N, 3, H, W) -> features at strides 8, 16 and 32."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        stem: nn.Module
        if variant.stem == "focus":
            stem = Focus(variant.stem_channels, variant.activation)
        else:
            stem = BackboneConv(3, variant.stem_channels, 3, stride=2, activation=variant.activation)
        make_stage = CrossStage if variant.backbone == "csp" else PlainStage
        stages = [make_stage(stage, variant, pyramid=stage is variant.stages[-1]) for stage in variant.stages]
        self.stages_name = "csp_stage" if variant.backbone == "csp" else "block_list"
        self.add_module(self.stages_name, nn.ModuleList([stem, *stages]))
        self.feature_indices = [i + 1 for i in FEATURE_STAGES[variant.backbone]]  # the stem is number 0

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, stage in enumerate(getattr(self, self.stages_name)):
            x = stage(x)
            if i in self.feature_indices:
                features.append(x)
        return features


# ------------------------------------------------------------------------------------------------------------- neck


class SeparableDownsample(nn.Module):
    """A depthwise 3x3 of stride 2 and a 1x1, each with BatchNorm and activation: the nano way to halve a map."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.depthwise = convolution(channels, channels, 3, 2, groups=channels)
        self.pointwise = convolution(channels, channels, 1)
        self.dwnorm = batch_norm(channels)
        self.pwnorm = batch_norm(channels)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.dwnorm(self.depthwise(x)))
        return self.act(self.pwnorm(self.pointwise(x)))


class ReverseBlock(nn.Module):
    """A RepConv into the hidden width, a 3x3 out of it, plus the input. `conv2` comes first: the official naming."""

    def __init__(self, channels: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(hidden, channels, 3, activation=activation)
        self.conv2 = RepConv(channels, hidden, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(self.conv2(x))


class MobileReverseBlock(nn.Module):
    """The nano variants' counterpart of `ReverseBlock`; one more level of key names around the same block."""

    def __init__(self, channels: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.conv = InvertedResidualBlock(channels, channels, hidden, stride=1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class MergeStage(nn.Module):
    """Fuses concatenated maps: half goes straight on, half through a chain of blocks whose outputs are all kept."""

    def __init__(self, in_channels: int, out_channels: int, variant: Variant) -> None:
        super().__init__()
        first = out_channels // 2
        middle = out_channels - first
        self.conv1 = ConvNormAct(in_channels, first, 1, activation=variant.activation)
        self.conv2 = ConvNormAct(in_channels, middle, 1, activation=variant.activation)
        self.convs = nn.ModuleList(self._block(middle, variant) for _ in range(variant.neck_blocks))
        self.conv3 = ConvNormAct(first + variant.neck_blocks * middle, out_channels, 1, activation=variant.activation)

    @staticmethod
    def _block(channels: int, variant: Variant) -> nn.Module:
        hidden = channels * variant.neck_expansion
        if variant.backbone == "mob":
            return MobileReverseBlock(channels, multiple_of_8(hidden), variant.activation)
        return ReverseBlock(channels, int(hidden), variant.activation)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv1(x)]
        x = self.conv2(x)
        for block in self.convs:
            x = block(x)
            parts.append(x)
        return self.conv3(torch.cat(parts, 1))


class Neck(nn.Module):
    """RepGFPN: one way up and one way down the pyramid. Features and results at strides 8, 16 and 32."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        c8, c16, c32 = variant.feature_channels
        o8, o16, o32 = variant.neck_channels

        def halve(channels: int) -> nn.Module:
            if variant.backbone == "mob":
                return SeparableDownsample(channels, variant.activation)
            return ConvNormAct(channels, channels, 3, 2, variant.activation)

        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.bu_conv13 = halve(c16)
        self.merge_3 = MergeStage(c32 + c16, c32, variant)
        self.bu_conv24 = halve(c8)
        self.merge_4 = MergeStage(c16 + c8 + c32, c16, variant)
        self.merge_5 = MergeStage(c8 + c16, o8, variant)
        self.bu_conv57 = halve(o8)
        self.merge_7 = MergeStage(c16 + o8, o16, variant)
        self.bu_conv46 = halve(c16)
        self.bu_conv76 = halve(o16)
        self.merge_6 = MergeStage(c32 + c16 + o16, o32, variant)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        x8, x16, x32 = features
        up32 = self.merge_3(torch.cat([x32, self.bu_conv13(x16)], 1))
        up16 = self.merge_4(torch.cat([x16, self.bu_conv24(x8), self.upsample(up32)], 1))
        out8 = self.merge_5(torch.cat([x8, self.upsample(up16)], 1))
        out16 = self.merge_7(torch.cat([up16, self.bu_conv57(out8)], 1))
        out32 = self.merge_6(torch.cat([up32, self.bu_conv46(up16), self.bu_conv76(out16)], 1))
        return [out8, out16, out32]


# ------------------------------------------------------------------------------------------------------------- head


class Integral(nn.Module):
    """Mean of a distribution over the distances 0, 1, ..., reg_max; after Generalized Focal Loss (Li et al., 2020)."""

    project: Tensor

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.arange(reg_max + 1, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:  # (N, 4, D, A) -> (N, 4, A)
        return (logits.softmax(2) * self.project.view(1, 1, -1, 1)).sum(2)


class Scale(nn.Module):
    """One learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Head(nn.Module):
    """ZeroHead: one convolution per task and level, then the decoding into scores and boxes.

    A legacy head has one more class channel, behind the others, which means nothing and is dropped.
    """

    points: Tensor
    reach: Tensor

    def __init__(self, variant: Variant, num_classes: int, input_hw: tuple[int, int], *, legacy: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_channels = num_classes + 1 if legacy else num_classes
        self.distances = variant.reg_max + 1
        self.cells = [(input_hw[0] // stride) * (input_hw[1] // stride) for stride in STRIDES]
        kernel, widths = variant.head_kernel, variant.neck_channels
        self.integral = Integral(variant.reg_max)
        self.gfl_cls = nn.ModuleList(convolution(width, self.class_channels, kernel, bias=True) for width in widths)
        self.gfl_reg = nn.ModuleList(convolution(width, 4 * self.distances, kernel, bias=True) for width in widths)
        self.scales = nn.ModuleList(Scale() for _ in widths)
        points, reach = anchor_constants(input_hw)
        self.register_buffer("points", points, persistent=False)  # not in the state_dict: they follow from input_hw
        self.register_buffer("reach", reach, persistent=False)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Neck features -> scores (N, A, C) after the sigmoid and boxes (N, A, 4) xyxy in input pixels, not clipped."""
        logits = self.class_logits(features)  # (N, C, A), with a legacy head (N, C + 1, A)
        if self.class_channels != self.num_classes:
            logits = logits[:, : self.num_classes]
        return logits.sigmoid().transpose(1, 2), self.decode(self.distance_logits(features))

    def class_logits(self, features: Sequence[Tensor]) -> Tensor:
        """Neck features -> (N, C, A), with a legacy head (N, C + 1, A)."""
        maps = [conv(x) for conv, x in zip(self.gfl_cls, features, strict=True)]
        return self._joined(maps, self.class_channels)

    def distance_logits(self, features: Sequence[Tensor]) -> Tensor:
        """Neck features -> (N, 4 * D, A): for each of left, top, right, bottom the logits of its D distances."""
        maps = [scale(conv(x)) for scale, conv, x in zip(self.scales, self.gfl_reg, features, strict=True)]
        return self._joined(maps, 4 * self.distances)

    def decode(self, distance_logits: Tensor) -> Tensor:
        """(N, 4 * D, A) -> boxes (N, A, 4) xyxy in input pixels."""
        distances = self.integral(distance_logits.reshape(-1, 4, self.distances, sum(self.cells)))  # in strides
        return (self.points + distances * self.reach).transpose(1, 2)

    def _joined(self, maps: Sequence[Tensor], channels: int) -> Tensor:
        """Maps (N, channels, h, w) of the three levels -> (N, channels, A)."""
        # Sizes that are numbers here are constants in the graph; only the batch stays open.
        return torch.cat([x.reshape(-1, channels, cells) for x, cells in zip(maps, self.cells, strict=True)], 2)


def anchor_constants(input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What makes distances boxes: points (1, 4, A) as x, y, x, y in pixels, and signed strides (1, 4, A).

    Levels go from fine to coarse, each row by row. A cell's point is its top left corner, without the half cell to the
    centre that other detectors add. Left and top are counted towards zero, hence the sign.
    """
    points, reach = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(*(torch.arange(0, side, stride) for side in input_hw), indexing="ij")
        points.append(torch.stack([x, y, x, y]).flatten(1))
        reach.append(torch.tensor([-stride, -stride, stride, stride])[:, None].expand(4, x.numel()))
    return torch.cat(points, 1)[None].float(), torch.cat(reach, 1)[None].float()


# ------------------------------------------------------------------------------------------------------------ models


class DamoYolo(nn.Module):
    """The detector: RGB image (N, 3, H, W), float32 in 0..255 -> scores (N, A, C), boxes (N, A, 4) xyxy in pixels.

    The network takes raw pixels: no mean, no scaling to 0..1. H and W are fixed at construction, multiples of 32.
    Built in training form, with random weights, in evaluation mode.
    """

    def __init__(
        self, variant: Variant, num_classes: int, input_hw: tuple[int, int], *, legacy_head: bool = False
    ) -> None:
        super().__init__()
        assert not any(side % STRIDES[-1] for side in input_hw), "levels only fit together at multiples of 32"
        self.input_hw = input_hw
        self.backbone = Backbone(variant)
        self.neck = Neck(variant)
        self.head = Head(variant, num_classes, input_hw, legacy=legacy_head)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)  # strides 8, 16, 32
        features = self.neck(features)  # same strides, other widths
        return self.head(features)

    def deploy(self) -> Self:
        """Re-parameterise every RepConv, in place. Computes the same, up to rounding, with fewer operations."""
        for module in list(self.modules()):
            if isinstance(module, RepConv):
                module.deploy()
        return self


class BestCandidates(nn.Module):
    """The `top_k` (anchor, class) pairs with the highest scores; all A * C of them where there are no more.

    Exact, and cheaper than sorting all pairs: the K best pairs lie on at most K anchors, so they are found on the K
    anchors whose best class scores highest. Which of several equal scores comes first, or in at all, is left open.
    """

    class_offsets: Tensor
    corners: Tensor

    def __init__(self, top_k: int, anchors: int, classes: int) -> None:
        super().__init__()
        self.top_k = min(top_k, anchors * classes)
        self.top_anchors = min(top_k, anchors)
        self.classes = classes
        self.register_buffer("class_offsets", torch.arange(classes), persistent=False)
        self.register_buffer("corners", torch.arange(4), persistent=False)

    def forward(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (N, A, C), boxes (N, A, 4) -> boxes (N, K, 4), scores (N, K) descending, class_ids (N, K) int32."""
        # A pair's number is anchor * C + class. Flat numbers need nothing of ONNX but GatherElements on two axes, and
        # all sizes but the batch are constants of the graph.
        _, anchor_ids = scores.amax(2).topk(self.top_anchors)  # (N, min(K, A))
        pair_ids = (anchor_ids.unsqueeze(2) * self.classes + self.class_offsets).flatten(1)  # (N, min(K, A) * C)
        scores, places = scores.flatten(1).gather(1, pair_ids).topk(self.top_k)  # (N, K) each
        pair_ids = pair_ids.gather(1, places)  # (N, K)
        coordinate_ids = (pair_ids // self.classes).unsqueeze(2) * 4 + self.corners  # (N, K, 4)
        boxes = boxes.flatten(1).gather(1, coordinate_ids.flatten(1)).reshape(-1, self.top_k, 4)
        return boxes, scores, (pair_ids % self.classes).int()


class ServedDetector(nn.Module):
    """What Triton serves: raw images in, each image's best candidates out. Non-maximum suppression is the caller's."""

    def __init__(self, detector: DamoYolo, top_k: int) -> None:
        super().__init__()
        self.detector = detector
        self.best_candidates = BestCandidates(top_k, detector.head.points.shape[2], detector.head.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Images (N, H, W, 3) uint8 RGB -> boxes (N, K, 4), scores (N, K), class_ids (N, K) as `BestCandidates`.

        Then all boxes (N, A, 4) and all scores (N, A, C) that they were chosen from, for the proof; they aren't served.
        """
        # The cast comes first: TensorRT takes 8-bit inputs on condition that nothing else touches them.
        all_scores, all_boxes = self.detector(images.float().permute(0, 3, 1, 2))
        return *self.best_candidates(all_scores, all_boxes), all_boxes, all_scores
