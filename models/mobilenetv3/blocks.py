"""Building blocks of MobileNetV3 on spectrograms.

Layout: Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1. On audio: Schmid et al., "Efficient
Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation", ICASSP 2023. Module names are those of the
published checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

# kernel, expanded channels, output channels, squeeze-excitation, activation of the fifteen blocks at width 1
LAYOUT = (
    (3, 16, 16, False, nn.ReLU),
    (3, 64, 24, False, nn.ReLU),
    (3, 72, 24, False, nn.ReLU),
    (5, 72, 40, True, nn.ReLU),
    (5, 120, 40, True, nn.ReLU),
    (5, 120, 40, True, nn.ReLU),
    (3, 240, 80, False, nn.Hardswish),
    (3, 200, 80, False, nn.Hardswish),
    (3, 184, 80, False, nn.Hardswish),
    (3, 184, 80, False, nn.Hardswish),
    (3, 480, 112, True, nn.Hardswish),
    (3, 672, 112, True, nn.Hardswish),
    (5, 672, 160, True, nn.Hardswish),
    (5, 960, 160, True, nn.Hardswish),
    (5, 960, 160, True, nn.Hardswish),
)
STRIDED_BLOCKS = (1, 3, 6, 12)  # those that the four published strides belong to
TAIL = 12  # the first of the three blocks which `reduced_tail` narrows and `dilated` dilates
STEM_CHANNELS = 16

AXES = {"c": 1, "f": 2, "t": 3}
AGGREGATIONS = {
    "max": lambda branches: branches.amax(0),
    "avg": lambda branches: branches.mean(0),
    "add": lambda branches: branches.sum(0),
    "min": lambda branches: branches.amin(0),
}


def round_channels(channels: float) -> int:
    """The multiple of 8 nearest to ``channels`` (half up), at least 8 and never below 90 % of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class BlockPlan:
    """What one inverted residual block is built from; strides are (frequency, time)."""

    in_channels: int
    kernel: int
    expanded: int
    out_channels: int
    squeeze: bool
    activation: type[nn.Module]
    stride: tuple[int, int]
    dilation: int

    @property
    def depthwise_stride(self) -> tuple[int, int]:
        """A dilated block does not subsample."""
        return self.stride if self.dilation == 1 else (1, 1)

    @property
    def skip(self) -> bool:
        """Whether the input is added; a dilated block stands in for a strided one and has no skip either."""
        return self.stride == (1, 1) and self.in_channels == self.out_channels


def stage_strides(strides: Sequence[int]) -> list[tuple[int, int]]:
    """The four strides of the image network, equal on both axes, as one (frequency, time) pair per block.

    Raises:
        ValueError: not four strides of 1 or 2.
    """
    if len(strides) != len(STRIDED_BLOCKS) or any(stride not in (1, 2) for stride in strides):
        raise ValueError(f"mn.strides: {tuple(strides)} are not four numbers of 1 or 2")
    by_block = dict(zip(STRIDED_BLOCKS, strides))
    return [(by_block.get(block, 1),) * 2 for block in range(len(LAYOUT))]


def plan_blocks(
    width_mult: float, strides: Sequence[tuple[int, int]], reduced_tail: bool = False, dilated: bool = False
) -> list[BlockPlan]:
    """Scales the layout to a width.

    Args:
        width_mult: factor of all channel counts.
        strides: (frequency, time) of every block.
        reduced_tail: halves the channels of the last stage.
        dilated: the last stage has dilation 2 in place of its stride.

    Raises:
        ValueError: the width is not positive.
    """
    if width_mult <= 0:
        raise ValueError(f"width_mult must be positive, got {width_mult}")
    plans, previous = [], round_channels(STEM_CHANNELS * width_mult)
    for index, (row, stride) in enumerate(zip(LAYOUT, strides)):
        kernel, expanded, out, squeeze, activation = row
        divider = 2 if reduced_tail and index >= TAIL else 1
        out = round_channels(out // divider * width_mult)
        # the expansion of the first tail block belongs to the stage before it
        expanded = round_channels(expanded // (divider if index > TAIL else 1) * width_mult)
        dilation = 2 if dilated and index >= TAIL else 1
        plans.append(BlockPlan(previous, kernel, expanded, out, squeeze, activation, tuple(stride), dilation))
        previous = out
    return plans


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm and activation; "same" padding."""

    def __init__(self, in_channels, out_channels, kernel=1, stride=(1, 1), dilation=1, groups=1, activation=None):
        padding = (kernel - 1) // 2 * dilation
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)

    def forward(self, x):
        conv, norm, *activation = self
        if norm.training or torch.is_grad_enabled():
            x = norm(conv(x))
        else:
            # Folding the norm into the kernel saves one pass over the feature map, the larger of the two.
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift = norm.bias - norm.running_mean * scale
            kernel = conv.weight * scale[:, None, None, None]
            x = F.conv2d(x, kernel, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
        return activation[0](x) if activation else x


class SqueezeExcitation(nn.Module):
    """Gates one axis of a feature map by its mean over the other two.

    Args:
        axis: letter of the axis: ``c`` channels, ``f`` frequency, ``t`` time.
        size: length of that axis.
        reduction: the bottleneck is ``size // reduction`` rounded to a multiple of 8.
    """

    def __init__(self, axis: str, size: int, reduction: int):
        super().__init__()
        self.axis = AXES[axis]
        self.others = [other for other in AXES.values() if other != self.axis]
        bottleneck = round_channels(size // reduction)
        self.fc1 = nn.Linear(size, bottleneck)
        self.fc2 = nn.Linear(bottleneck, size)

    def forward(self, x):
        """[batch, channels, frequency, time] -> the same, gated.

        Raises:
            ValueError: the axis has another length than the network was built for.
        """
        if x.shape[self.axis] != self.fc1.in_features:
            letter = "?cft"[self.axis]
            raise ValueError(
                f"squeeze-excitation over '{letter}' was built for {self.fc1.in_features} positions and meets "
                f"{x.shape[self.axis]}: set mn.input_dim_{letter} to the size of the mel spectrogram"
            )
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(self.others)))))
        shape = [x.shape[0], 1, 1, 1]
        shape[self.axis] = -1
        return x * gate.view(shape)


class ConcurrentSqueezeExcitation(nn.Module):
    """One squeeze-excitation per letter of ``se_dims``, their gated outputs merged by ``se_agg``."""

    def __init__(self, se_dims: str, sizes: dict[str, int], se_agg: str, se_r: int):
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcitation(axis, sizes[axis], se_r) for axis in se_dims])
        self.aggregate = AGGREGATIONS[se_agg]

    def forward(self, x):
        branches = [layer(x) for layer in self.conc_se_layers]
        return branches[0] if len(branches) == 1 else self.aggregate(torch.stack(branches))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-excitation, projection, and the skip connection where shapes allow.

    Args:
        plan: channels, kernel and strides.
        squeeze: the squeeze-excitation module, None for a block without.
    """

    def __init__(self, plan: BlockPlan, squeeze: nn.Module | None):
        super().__init__()
        layers = []
        if plan.expanded != plan.in_channels:
            layers.append(ConvNorm(plan.in_channels, plan.expanded, activation=plan.activation))
        depthwise = dict(stride=plan.depthwise_stride, dilation=plan.dilation, groups=plan.expanded)
        layers.append(ConvNorm(plan.expanded, plan.expanded, plan.kernel, activation=plan.activation, **depthwise))
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(ConvNorm(plan.expanded, plan.out_channels))
        self.block = nn.Sequential(*layers)
        self.skip = plan.skip

    def forward(self, x):
        return self.block(x).add_(x) if self.skip else self.block(x)


class AttentionPooling(nn.Module):
    """Class-wise attention over time with several heads, after PSLA (Gong et al., 2021); averages frequency first."""

    def __init__(self, in_channels: int, num_classes: int, heads: int):
        super().__init__()
        self.heads, self.num_classes = heads, num_classes
        self.head_weight = nn.Parameter(torch.full((1, heads, 1), 1 / heads))
        self.subspace_proj = nn.Linear(in_channels, 2 * heads * num_classes)

    def forward(self, x):
        """[batch, channels, frequency, time] -> logits [batch, classes]."""
        x = self.subspace_proj(x.mean(2).transpose(1, 2))
        # At least float32: half precision cannot hold the clamped ends.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        attention, values = x.unflatten(2, (2, self.heads, self.num_classes)).unbind(2)
        attention = torch.sigmoid(attention).clamp(1e-7, 1 - 1e-7)
        pooled = (attention * values).sum(1) / attention.sum(1)
        return (pooled * self.head_weight).sum(1)
