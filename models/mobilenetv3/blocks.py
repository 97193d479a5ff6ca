"""Building blocks of MobileNetV3 that it alone has: squeeze-excitation and pooling by attention.

Source: Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation", ICASSP
2023. Module names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.mobile import round_channels

AXES = {"c": 1, "f": 2, "t": 3}
AGGREGATIONS = {
    "max": lambda branches: branches.amax(0),
    "avg": lambda branches: branches.mean(0),
    "add": lambda branches: branches.sum(0),
    "min": lambda branches: branches.amin(0),
}


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
