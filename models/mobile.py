"""Inverted residual blocks on spectrograms, which MobileNetV3 and the dynamic MobileNet share.

Layout: Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1. Module names are those of the published
checkpoints of EfficientAT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from models.convolutions import conv_norm

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


def stage_strides(strides: Sequence[int], section: str) -> list[tuple[int, int]]:
    """The four strides of the image network, equal on both axes, as one (frequency, time) pair per block.

    Args:
        strides: of blocks 2, 4, 7 and 13.
        section: what the error calls the entry's section.

    Raises:
        ValueError: not four strides of 1 or 2.
    """
    if len(strides) != len(STRIDED_BLOCKS) or any(stride not in (1, 2) for stride in strides):
        raise ValueError(f"{section}.strides: {tuple(strides)} are not four numbers of 1 or 2")
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


def receptive_layers(plans: Sequence[BlockPlan]) -> list[tuple[int, tuple[int, int], int]]:
    """(kernel, (frequency, time) stride, dilation) of all convolutions wider than one cell, in order."""
    return [(3, (2, 2), 1), *((plan.kernel, plan.depthwise_stride, plan.dilation) for plan in plans)]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the settings of these networks."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm and activation; "same" padding."""

    def __init__(self, in_channels, out_channels, kernel=1, stride=(1, 1), dilation=1, groups=1, activation=None):
        padding = (kernel - 1) // 2 * dilation
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False),
            batch_norm(out_channels),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)

    def forward(self, x):
        conv, norm, *activation = self
        x = conv_norm(conv, norm, x)
        return activation[0](x) if activation else x


def stem(plans: Sequence[BlockPlan]) -> ConvNorm:
    """The layer in front of the blocks, 1 channel to those of the first block; it halves both axes."""
    return ConvNorm(1, plans[0].in_channels, 3, stride=(2, 2), activation=nn.Hardswish)


def last_layer(plans: Sequence[BlockPlan]) -> ConvNorm:
    """The layer behind the blocks, to six times their channels."""
    channels = plans[-1].out_channels
    return ConvNorm(channels, 6 * channels, activation=nn.Hardswish)


def mlp_head(in_channels: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """[batch, channels, frequency, time] -> logits [batch, classes]; positions of the layers are checkpoint names."""
    layers = nn.Linear(in_channels, hidden), nn.Hardswish(inplace=True), nn.Dropout(dropout)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers, nn.Linear(hidden, num_classes))


def initialise(module: nn.Module):
    """Initial values of the published training, for ``Module.apply``; batch norms have theirs from torch."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


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
        self.plan, self.squeezes, self.skip = plan, squeeze is not None, plan.skip

    def forward(self, x):
        return self.block(x).add_(x) if self.skip else self.block(x)
