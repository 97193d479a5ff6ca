"""Power spectra, mel filter banks, and the random choices that are made on mels in training."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

CACHED = 2**19  # samples of the frames that are transformed at once on a CPU


def require(condition, message):
    """Raises ValueError with that message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def power_spectrum(waveform, window, n_fft, hop):
    """Squared magnitudes of the short-time Fourier transform, without padding at the ends.

    Args:
        waveform: [batch, samples].
        window: [win_length], in the middle of the FFT frame.
        n_fft: FFT size.
        hop: samples between frames.

    Returns:
        [batch, frames, n_fft // 2 + 1].
    """
    return torch.cat(list(_power_in_parts(waveform, window, n_fft, hop)), dim=1)


def mel_power(waveform, window, n_fft, hop, bank, blocks):
    """Mel power spectrogram [batch, frames, n_mels].

    Args:
        waveform, window, n_fft, hop: see :func:`power_spectrum`.
        bank: [n_mels, n_fft // 2 + 1].
        blocks: see :func:`band_blocks`.
    """
    parts, bank = _power_in_parts(waveform, window, n_fft, hop), bank.to(waveform.dtype)
    return torch.cat([filtered(part, bank, blocks) for part in parts], dim=1)


def _power_in_parts(waveform, window, n_fft, hop):
    """[batch, some frames, n_fft // 2 + 1] one after the other, on a CPU so many that they stay in its cache."""
    left = (n_fft - len(window)) // 2
    window = F.pad(window.to(waveform.dtype), (left, n_fft - len(window) - left))
    parts = [waveform.unfold(1, n_fft, hop)]
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if waveform.device.type == "cpu" and not traced:
        parts = parts[0].split(max(1, CACHED // (max(1, waveform.shape[0]) * n_fft)), dim=1)
    for part in parts:
        yield squared_magnitude(torch.fft.rfft(part * window))


def squared_magnitude(spectrum):
    """|z|^2 of complex numbers: far cheaper than ``abs``, and one temporary array less than the plain sum."""
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


def reflected(waveform, margin):
    """[batch, samples] with ``margin`` mirrored samples at both ends: ``F.pad`` takes four times as long for it."""
    start, end = waveform[:, 1 : margin + 1], waveform[:, -margin - 1 : -1]
    return torch.cat([start.flip(1), waveform, end.flip(1)], dim=1)


def band_blocks(bank, bands=16):
    """(bands, bins) as slices of the blocks of a mel bank [n_mels, bins] outside of which it is zero."""
    if bank.is_meta:  # no values to look at
        return [(slice(len(bank)), slice(bank.shape[1]))]
    blocks = []
    for first in range(0, len(bank), bands):
        bins = bank[first : first + bands].any(0).nonzero().flatten().tolist() or [0]
        blocks.append((slice(first, first + bands), slice(bins[0], bins[-1] + 1)))
    return blocks


def filtered(power, bank, blocks):
    """Power spectra [..., bins] times a mel bank, block by block: an eighth of the work of the whole product."""
    return torch.cat([power[..., bins] @ bank[bands, bins].T for bands, bins in blocks], dim=-1)


def mel_spectrogram(waveform, spectrogram, mel_scale):
    """What torchaudio's ``MelSpectrogram`` computes, from the settings and buffers of its two parts.

    Returns:
        [batch, bands, frames] of [batch, samples].
    """
    waveform = F.pad(waveform, (spectrogram.pad, spectrogram.pad))
    if spectrogram.center:
        half = spectrogram.n_fft // 2
        waveform = F.pad(waveform, (half, half), mode=spectrogram.pad_mode)
    x = power_spectrum(waveform, spectrogram.window, spectrogram.n_fft, spectrogram.hop_length)
    if spectrogram.normalized == "frame_length":
        x = x / spectrogram.n_fft
    elif spectrogram.normalized:
        x = x / spectrogram.window.square().sum()
    if spectrogram.power != 2:
        x = x.sqrt() if spectrogram.power == 1 else x.pow(spectrogram.power / 2)
    return (x @ mel_scale.fb.to(x.dtype)).transpose(1, 2)


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
