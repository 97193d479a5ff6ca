"""MobileNetV3 as a backbone of frame embeddings and as a tagger."""

from collections.abc import Sequence

import torch
from torch import nn

from models.convolutions import run_layer
from models.mobile import (
    BlockPlan,
    InvertedResidual,
    initialise,
    last_layer,
    mlp_head,
    plan_blocks,
    receptive_layers,
    round_channels,
    stage_strides,
    stem,
)
from models.mobilenetv3.blocks import AGGREGATIONS, AXES, AttentionPooling, ConcurrentSqueezeExcitation
from models.registry import Backbone, grad_checkpointing_of, groups_by_depth
from models.tagging import Tagger

# (frequency, time) of the fifteen blocks of the frame-wise networks: 128 bands become 1, time keeps a quarter.
FRAME_STRIDES = tuple(zip((1, 2, 2, 1, 1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 2), (1, 2) + (1,) * 13))


class MobileNet(Backbone):
    """The convolutional part: from mel spectrogram to feature map.

    Args:
        plans: the inverted residual blocks.
        se_dims: axes of squeeze-excitation, a selection of the letters ``c``, ``f``, ``t``, or ``"none"``.
        se_agg: how several axes are merged: max, avg, add or min.
        se_r: reduction of the squeeze-excitation bottleneck.
        input_dim_f: mel bands, which fixes the size of ``f`` branches.
        input_dim_t: mel frames, which fixes the size of ``t`` branches.
        grad_checkpointing: recompute the blocks in the backward pass instead of storing their activations.

    Raises:
        ValueError: unknown ``se_dims`` or ``se_agg``.
    """

    def __init__(
        self,
        plans: Sequence[BlockPlan],
        se_dims: str = "c",
        se_agg: str = "max",
        se_r: int = 4,
        input_dim_f: int = 128,
        input_dim_t: int = 1000,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        axes = "" if se_dims == "none" else se_dims
        if len(set(axes)) != len(axes) or not set(axes) <= set(AXES) or not se_dims:
            raise ValueError(f"mn.se_dims: '{se_dims}' is neither 'none' nor a selection of the letters c, f, t")
        if se_agg not in AGGREGATIONS:
            raise ValueError(f"mn.se_agg: '{se_agg}' is none of {', '.join(AGGREGATIONS)}")
        layers = [stem(plans)]
        bands, frames = -(-input_dim_f // 2), -(-input_dim_t // 2)
        for plan in plans:
            bands, frames = (-(-size // stride) for size, stride in zip((bands, frames), plan.depthwise_stride))
            squeeze = None
            if plan.squeeze and axes:
                sizes = {"c": plan.expanded, "f": bands, "t": frames}
                squeeze = ConcurrentSqueezeExcitation(axes, sizes, se_agg, se_r)
            layers.append(InvertedResidual(plan, squeeze))
        layers.append(last_layer(plans))
        self.features = nn.Sequential(*layers)
        self.plans, self.embed_dim = plans, 6 * plans[-1].out_channels
        self.grad_checkpointing = grad_checkpointing
        self.apply(initialise)

    def feature_map(self, mel):
        """[batch, 1, bands, frames] -> [batch, embed_dim, bands', frames'].

        Raises:
            ValueError: squeeze-excitation over frequency or time was built for another input size.
        """
        first, *rest = self.features
        x = first(mel)
        if x.device.type == "cpu" and not first[1].training:
            # With channels innermost a pass takes 0.8 (batch 1) to 0.5 times as long there. Not where norms take batch
            # statistics: torch sums those up to 1e-5 less precisely in that format, which deep networks amplify.
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in rest:
            x = run_layer(layer, x, checkpointing=self.grad_checkpointing)
        return x

    def forward(self, mel, rng=None):
        """[batch, 1, bands, frames] -> [batch, time, embed_dim]: the last feature map averaged over frequency.

        Nothing is drawn from ``rng``.
        """
        return self.feature_map(mel).mean(2).transpose(1, 2)

    def layer_groups(self):
        """First convolution, blocks and last convolution each make a group; a classifier is the last one."""
        return groups_by_depth(self, r"\bfeatures\.(\d+)\.", r"\bclassifier\.")

    def receptive_layers(self):
        """See :func:`models.mobile.receptive_layers`; squeeze-excitation sees the whole input, and does not count."""
        return receptive_layers(self.plans)


class MobileNetV3(MobileNet, Tagger):
    """A published "MN" network: frame embeddings by :meth:`forward`, clip logits and embedding by :meth:`tag`.

    Args:
        width_mult: factor of all channel counts; it has no default because a name decides it.
        num_classes: size of the classifier.
        strides: of blocks 2, 4, 7 and 13, the same on both axes.
        head_type: ``mlp``, ``fully_convolutional`` or ``multihead_attention_pooling``.
        multihead_attention_heads: heads of the last.
        dropout: before the last linear layer of ``mlp``.
        reduced_tail: halves the channels of the last stage.
        dilated: the last stage has dilation 2 in place of its stride.
        se_dims, se_agg, se_r, input_dim_f, input_dim_t, grad_checkpointing: see :class:`MobileNet`.

    Raises:
        ValueError: an option outside the values above.
    """

    def __init__(
        self,
        *,
        width_mult: float,
        num_classes: int = 527,
        strides: Sequence[int] = (2, 2, 2, 2),
        head_type: str = "mlp",
        multihead_attention_heads: int = 4,
        dropout: float = 0.2,
        reduced_tail: bool = False,
        dilated: bool = False,
        se_dims: str = "c",
        se_agg: str = "max",
        se_r: int = 4,
        input_dim_f: int = 128,
        input_dim_t: int = 1000,
        grad_checkpointing: bool = False,
    ):
        plans = plan_blocks(width_mult, stage_strides(strides, "mn"), reduced_tail, dilated)
        super().__init__(plans, se_dims, se_agg, se_r, input_dim_f, input_dim_t, grad_checkpointing)
        hidden = round_channels((640 if reduced_tail else 1280) * width_mult)
        self.n_classes = num_classes
        self.classifier = _classifier(
            head_type, self.embed_dim, hidden, num_classes, dropout, multihead_attention_heads
        ).apply(initialise)

    def tag(self, mel, rng=None):
        """See :class:`models.tagging.Tagger`; the embedding is the last feature map, averaged over both axes."""
        features = self.feature_map(mel)
        return self.classifier(features), features.mean((2, 3))

    def idle_parameters(self):
        """Those of the classifier."""
        return list(self.classifier.parameters())


class FrameMobileNet(Backbone):
    """The frame-wise variant of PretrainedSED (Schmid et al., 2025): no classifier, 40 ms frames at a hop of 10 ms.

    Args:
        width_mult: factor of all channel counts; it has no default because a name decides it.
        grad_checkpointing: recompute the blocks in the backward pass instead of storing their activations.
    """

    grad_checkpointing = grad_checkpointing_of("frame_mn")

    def __init__(self, *, width_mult: float, grad_checkpointing: bool = False):
        super().__init__()
        self.frame_mn = MobileNet(plan_blocks(width_mult, FRAME_STRIDES), grad_checkpointing=grad_checkpointing)
        self.embed_dim = self.frame_mn.embed_dim

    def forward(self, mel, rng=None):
        """[batch, 1, 128, frames] -> [batch, frames / 4, embed_dim]; nothing is drawn from ``rng``.

        Raises:
            ValueError: the spectrogram has not 128 bands, which the strides reduce to one.
        """
        if mel.shape[2] != 128:
            raise ValueError(f"frame_mn expects 128 mel bands, got {mel.shape[2]}")
        return self.frame_mn(mel)

    def layer_groups(self):
        """First convolution, blocks and last convolution each make a group."""
        return groups_by_depth(self, r"\bfeatures\.(\d+)\.", r"(?!)")

    def receptive_layers(self):
        """Those of the network inside."""
        return self.frame_mn.receptive_layers()


def _classifier(head_type, in_channels, hidden, num_classes, dropout, attention_heads) -> nn.Module:
    """[batch, channels, frequency, time] -> logits [batch, classes]; positions of the layers are checkpoint names."""
    if head_type == "mlp":
        return mlp_head(in_channels, hidden, num_classes, dropout)
    if head_type == "fully_convolutional":
        layers = nn.Conv2d(in_channels, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if head_type == "multihead_attention_pooling":
        return AttentionPooling(in_channels, num_classes, attention_heads)
    raise ValueError(f"mn.head_type: '{head_type}' is none of mlp, fully_convolutional, multihead_attention_pooling")
