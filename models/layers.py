"""Building blocks that several networks share: gates over channels, the bidirectional GRU, and the time axis."""

import torch
import torch.nn.functional as F
from torch import nn

MIN_ATTENTION = 1e-7  # keeps the weighted mean over time defined for a class which the softmax rules out


class ContextGate(nn.Module):
    """x * sigmoid(W x + b) over the channels of [batch, channels, time, bands].

    Source: Miech et al., "Learnable pooling with context gating for video classification", section 3.3.
    """

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x):
        return x * torch.sigmoid(linear_over_channels(self.linear, x))


class GatedLinear(nn.Module):
    """(W x + b) * sigmoid(x) over the channels of [batch, channels, time, bands].

    The gate is the input itself, not a second projection as in Dauphin et al.: so it was published.
    """

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x):
        return linear_over_channels(self.linear, x) * torch.sigmoid(x)


def linear_over_channels(linear, x):
    """A linear layer on axis 1 of [batch, channels, time, bands], as a 1 x 1 convolution: no copy of the axes."""
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


class BiGRU(nn.Module):
    """Bidirectional GRU, [batch, time, n_in] -> [batch, time, 2 * n_hidden].

    Args:
        n_in: features of a frame.
        n_hidden: units each way.
        num_layers: stacked layers.
        dropout: between the layers.
    """

    def __init__(self, n_in, n_hidden, num_layers=2, dropout=0.0):
        super().__init__()
        self.rnn = nn.GRU(n_in, n_hidden, num_layers, batch_first=True, bidirectional=True, dropout=dropout)

    def forward(self, x):
        return self.rnn(x)[0]


class BiLSTM(nn.Module):
    """Bidirectional LSTM and a linear layer, [batch, time, n_in] -> [batch, time, n_out].

    Args:
        n_in: features of a frame.
        n_hidden: units each way.
        n_out: features that come out.
        num_layers: stacked layers.
        dropout: between the layers.
    """

    def __init__(self, n_in, n_hidden, n_out, num_layers=2, dropout=0.0):
        super().__init__()
        self.rnn = nn.LSTM(n_in, n_hidden, num_layers, batch_first=True, bidirectional=True, dropout=dropout)
        self.embedding = nn.Linear(2 * n_hidden, n_out)

    def forward(self, x):
        return self.embedding(self.rnn(x)[0])


def pool_time(x, length):
    """Adaptive average pooling of [batch, time, dim] to ``length`` frames; the input itself when it has them."""
    if x.shape[1] == length:
        return x
    return F.adaptive_avg_pool1d(x.transpose(1, 2), length).transpose(1, 2)


def interpolate_time(x, length, mode):
    """Interpolation of [batch, time, dim] to ``length`` frames, ``mode`` as in ``torch.nn.functional.interpolate``."""
    return F.interpolate(x.transpose(1, 2), size=length, mode=mode).transpose(1, 2)


def drop_steps(x, max_length, max_share):
    """Sets one run of frames of each clip of [batch, time, dim] to zero, as dropout does with units.

    The run has a random place and a random length below ``max_length`` frames and below ``max_share`` of the clip.
    Source: time masking of SpecAugment (Park et al., section 2), applied to hidden features.
    """
    batch, time = x.shape[:2]
    longest = min(max_length, int(time * max_share))
    length = torch.rand(batch, 1, device=x.device) * longest
    start = (torch.rand(batch, 1, device=x.device) * (time - length)).floor()
    frames = torch.arange(time, device=x.device)
    dropped = (frames >= start) & (frames < start + length.floor())
    return x.masked_fill(dropped[..., None], 0.0)


def attention_pool(strong, attention_logits):
    """Clip probabilities [batch, classes] as a weighted mean of frame probabilities over time.

    The softmax of the weights runs over the *classes* of a frame, not over time: the published checkpoints depend
    on it.

    Args:
        strong: frame probabilities [batch, time, classes].
        attention_logits: same shape; -1e30 takes a class out of the softmax.
    """
    weights = torch.softmax(attention_logits, dim=-1).clamp(MIN_ATTENTION, 1.0)
    return (strong * weights).sum(1) / weights.sum(1)
