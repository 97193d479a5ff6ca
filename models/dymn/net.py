"""The dynamic MobileNet as a backbone of frame embeddings and as a tagger."""

from collections.abc import Sequence

import torch

from models.convolutions import run_layer
from models.dymn.blocks import DynamicBlock, Dynamics, PlainBlock
from models.mobile import (
    initialise,
    last_layer,
    mlp_head,
    plan_blocks,
    receptive_layers,
    round_channels,
    stage_strides,
    stem,
)
from models.registry import Backbone, groups_by_depth
from models.tagging import Tagger

DYNAMIC_BLOCKS = ("all", "replace_se")


def scheduled_temperature(epoch, start=30.0, final=1.0, slopes=(1.0, 0.02)):
    """Temperature of the kernel mixtures in an epoch of training (paper, equation 5).

    Args:
        epoch: the first one is 0.
        start: temperature of the first epoch.
        final: it never falls below.
        slopes: decrease per epoch, first down to about 1, then with the second value.
    """
    steep, gentle = slopes
    knee = (start - 1) / steep  # the epoch in which the first line reaches 1
    return max(start - steep * epoch, 1 + gentle * (knee - epoch), final)


class DyMN(Backbone, Tagger):
    """Frame embeddings by :meth:`forward`, clip logits and embedding by :meth:`tag`.

    The temperature of the kernel mixtures is part of the state, beside the temperature at which training began, so
    that a stored network runs, and goes on training, as it was.

    Args:
        width_mult: factor of all channel counts; it has no default because a name decides it.
        num_classes: size of the classifier.
        strides: of blocks 2, 4, 7 and 13, the same on both axes.
        use_dy_blocks: ``all``, or ``replace_se``: only the blocks that have squeeze-excitation in MobileNetV3.
        context_ratio: expanded channels per entry of the context vector.
        min_context_size, max_context_size: limits of the size of that vector, at width 1.
        dyconv_k: kernels in a mixture.
        no_dyconv: plain convolutions.
        dyrelu_k: lines of the activation.
        no_dyrelu: plain activations.
        no_ca: no gates over frequency and time.
        temperature: of the kernel mixtures, before a weights file or :meth:`start_epoch` says something else.
        final_temperature, temperature_slopes: see :func:`scheduled_temperature`.
        dropout: before the last linear layer.
        grad_checkpointing: recompute the blocks in the backward pass instead of storing their activations.

    Raises:
        ValueError: an option outside the values above.
    """

    def __init__(
        self,
        *,
        width_mult: float,
        num_classes: int = 527,
        strides: Sequence[int] = (2, 2, 2, 2),
        use_dy_blocks: str = "all",
        context_ratio: int = 4,
        min_context_size: int = 32,
        max_context_size: int = 128,
        dyconv_k: int = 4,
        no_dyconv: bool = False,
        dyrelu_k: int = 2,
        no_dyrelu: bool = False,
        no_ca: bool = False,
        temperature: float = 30.0,
        final_temperature: float = 1.0,
        temperature_slopes: Sequence[float] = (1.0, 0.02),
        dropout: float = 0.2,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        if use_dy_blocks not in DYNAMIC_BLOCKS:
            raise ValueError(f"dymn.use_dy_blocks: '{use_dy_blocks}' is none of {', '.join(DYNAMIC_BLOCKS)}")
        if min(temperature, final_temperature) <= 0:
            raise ValueError(f"dymn.temperature: {temperature} and final {final_temperature} are not both positive")
        dynamics = Dynamics(
            context_ratio=context_ratio,
            min_context_size=min_context_size,
            max_context_size=max_context_size,
            dyconv_k=dyconv_k,
            dyrelu_k=dyrelu_k,
            no_dyconv=no_dyconv,
            no_dyrelu=no_dyrelu,
            no_ca=no_ca,
        )
        self.plans = plan_blocks(width_mult, stage_strides(strides, "dymn"))
        self.n_classes, self.embed_dim = num_classes, 6 * self.plans[-1].out_channels
        self.final_temperature, self.temperature_slopes = final_temperature, tuple(temperature_slopes)
        self.grad_checkpointing = grad_checkpointing
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.register_buffer("start_temperature", torch.tensor(float(temperature)))
        self.layers = torch.nn.ModuleList(
            DynamicBlock(plan, width_mult, dynamics) if use_dy_blocks == "all" or plan.squeeze else PlainBlock(plan)
            for plan in self.plans
        )
        self.in_c = stem(self.plans)
        self.out_c = last_layer(self.plans)
        self.classifier = mlp_head(self.embed_dim, round_channels(1280 * width_mult), num_classes, dropout)
        self.apply(initialise)

    def set_temperature(self, temperature: float):
        """Sets the temperature of all kernel mixtures, also as that at which the next training begins."""
        self.temperature.fill_(temperature)
        self.start_temperature.fill_(temperature)

    def start_epoch(self, epoch: int):
        """Sets the temperature of an epoch of training; epoch 0 begins at the one which the network has."""
        if epoch == 0:
            self.start_temperature.copy_(self.temperature)
        start = float(self.start_temperature)
        self.temperature.fill_(
            scheduled_temperature(epoch, start, min(start, self.final_temperature), self.temperature_slopes)
        )

    def feature_map(self, mel):
        """[batch, 1, bands, frames] -> [batch, embed_dim, bands', frames']."""
        x = self.in_c(mel)
        for layer in self.layers:
            x = run_layer(layer, x, self.temperature, checkpointing=self.grad_checkpointing)
        return self.out_c(x)

    def forward(self, mel, rng=None):
        """[batch, 1, bands, frames] -> [batch, time, embed_dim]: the last feature map averaged over frequency.

        Nothing is drawn from ``rng``.
        """
        return self.feature_map(mel).mean(2).transpose(1, 2)

    def tag(self, mel, rng=None):
        """See :class:`models.tagging.Tagger`; the embedding is the last feature map, averaged over both axes."""
        features = self.feature_map(mel)
        return self.classifier(features), features.mean((2, 3))

    def layer_groups(self):
        """First convolution, then the blocks; last convolution and classifier are the last group."""
        return groups_by_depth(self, r"\blayers\.(\d+)\.", r"\b(out_c|classifier)\.")

    def unused_in_tagging(self):
        """Those of gates that are off."""
        return [parameter for layer in self.layers for parameter in layer.unused_parameters()]

    def idle_parameters(self):
        """Those of gates that are off, and of the classifier."""
        return [*self.unused_in_tagging(), *self.classifier.parameters()]

    def receptive_layers(self):
        """See :func:`models.mobile.receptive_layers`; the context sees the whole input, and does not count."""
        return receptive_layers(self.plans)
