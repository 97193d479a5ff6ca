"""Kaldi's mel filter bank, and the random choices that are made on top of it in training."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


def require(condition, message):
    """Raises ValueError with that message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def kaldi_mel_bank(n_mels, n_fft, sample_rate, fmin, fmax):
    """Triangular filters of Kaldi, linear in 1127 ln(1 + f / 700), with peak 1 and no normalisation.

    Built in float32 like the published features: a few narrow low triangles depend on the rounding.

    Returns:
        [n_mels, n_fft // 2 + 1]; the Nyquist bin has no weight.

    Raises:
        ValueError: edges that are not 0 <= fmin < fmax <= sample_rate / 2.
    """
    require(
        0 <= fmin < fmax <= sample_rate / 2,
        f"mel bank: edges {fmin} and {fmax} Hz are not in order within 0 and {sample_rate / 2} Hz",
    )
    low, high = (1127 * math.log(1 + edge / 700) for edge in (fmin, fmax))
    corners = low + torch.arange(n_mels + 2)[:, None] * ((high - low) / (n_mels + 1))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = 1127 * (1 + sample_rate / n_fft * torch.arange(n_fft // 2) / 700).log()
    bank = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return F.pad(bank, (0, 1))


class MelDraw(NamedTuple):
    """Random choices of one call: band edges in Hz, and per clip a half-open range of masked bands and frames."""

    fmin: float
    fmax: float
    bands: np.ndarray | None = None  # [batch, 2]
    frames: np.ndarray | None = None  # [batch, 2]


def draw_ranges(rng, batch, size, widest):
    """[batch, 2] half-open ranges of at most ``widest`` cells; None when nothing is to be masked."""
    if widest == 0:
        return None
    width = np.minimum(rng.uniform(0, widest, batch), size)
    start = rng.uniform(0, 1, batch) * (size - width)
    return np.stack([start.astype(int), start.astype(int) + width.astype(int)], axis=1)


def mask(x, ranges, axis):
    """Zeros in one range per clip along an axis of [batch, bands, frames]."""
    if ranges is None:
        return x
    ranges = torch.as_tensor(ranges, device=x.device)
    position = torch.arange(x.shape[axis], device=x.device)
    inside = (position >= ranges[:, :1]) & (position < ranges[:, 1:])
    return x.masked_fill(inside.unsqueeze(3 - axis), 0.0)
