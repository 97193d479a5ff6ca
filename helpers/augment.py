"""Augmentations of mel spectrograms, labels and waveforms: draw, then apply.

Every ``draw_*`` takes a ``numpy.random.Generator`` and returns plain numbers; every other function is pure: tensors in,
new tensors out, batched, the input untouched. Clips that take no part come out bit-identical. Spectrograms are
[B, 1, bands, frames]. Draws happen on the host and are moved once, so nothing here waits for the device.
"""

from typing import NamedTuple

import numpy as np
import torch

from helpers.sources import MAESTRO, REAL, SUBSETS, SYNTH, UNLABELED, WEAK

MIXUP_ALPHA = 0.2  # both parameters of mixup's Beta distribution; never part of the public configuration


# -- mixing of clips --------------------------------------------------------------------------------------------------


class Mix(NamedTuple):
    """Who is mixed with whom; a clip that is its own partner stays as it is.

    Attributes:
        partner: [B] int64, index of the clip mixed in.
        weight: [B] float32, share of the clip itself.
    """

    partner: torch.Tensor
    weight: torch.Tensor

    def to(self, device):
        """The same on another device."""
        return Mix(self.partner.to(device, non_blocking=True), self.weight.to(device, non_blocking=True))


def mix_groups(source, weak, desed_strong, maestro, desed_maestro, unlabeled):
    """Groups within which clips mix.

    Args:
        source: [B] source numbers, a numpy array.
        weak: whether weakly labelled clips mix.
        desed_strong: whether strongly labelled clips of DESED, real and synthetic, mix.
        maestro: whether clips of MAESTRO mix.
        desed_maestro: with both of these: whether they mix in one group.
        unlabeled: whether unlabeled clips mix.

    Returns:
        [B] int64, clips of one number mix with each other, -1 keeps to itself.

    Raises:
        ValueError: a number that is no source of a training batch.
    """
    table = np.full(len(SUBSETS["all"]), -1)
    if weak:
        table[WEAK] = WEAK
    if unlabeled:
        table[UNLABELED] = UNLABELED
    if desed_strong:
        table[[REAL, SYNTH]] = REAL
    if maestro:
        table[MAESTRO] = REAL if desed_maestro and desed_strong else MAESTRO
    source = np.asarray(source)
    if source.size and not 0 <= source.min() <= source.max() < len(table):
        raise ValueError(f"source: a training batch holds 0 to {len(table) - 1}, found {sorted(set(source.tolist()))}")
    return table[source]


def draw_mix(groups, alpha, rng, max_coef=True):
    """Partners and shares of mixup [Zhang et al., 2018]: a permutation per group, a share per clip.

    Args:
        groups: [B] integers, clips pair only inside their group, -1 keeps itself.
        alpha: both parameters of the Beta distribution of shares.
        rng: source of randomness.
        max_coef: the larger share goes to the clip itself, ``max(w, 1 - w)``.
    """
    groups = np.asarray(groups)
    partner = np.arange(len(groups))
    for group in np.unique(groups[groups >= 0]):
        index = np.flatnonzero(groups == group)
        partner[index] = index[rng.permutation(len(index))]
    weight = rng.beta(alpha, alpha, size=len(groups))
    if max_coef:
        weight = np.maximum(weight, 1 - weight)
    weight[groups < 0] = 1.0
    return Mix(torch.from_numpy(partner), torch.from_numpy(weight.astype(np.float32)))


def mix(x, m):
    """``weight x + (1 - weight) x[partner]`` of spectrograms, pseudo-labels, predictions: all that has a batch axis."""
    own = _per_clip(m.weight, x)
    return _keep_loners(x, own * x + (1 - own) * x[m.partner], m)


def mix_labels(labels, m, label_type="soft"):
    """Labels of mixed clips, in [0, 1].

    Args:
        labels: [B, C, T] or [B, C].
        m: what the clips were mixed with.
        label_type: ``soft`` mixes like the clips, ``hard`` adds, so that all that is active in either stays active; as
            in the published code the soft labels of a clip that drew itself then count twice.

    Raises:
        ValueError: unknown label type.
    """
    if label_type == "soft":
        return mix(labels, m).clamp(0, 1)
    if label_type == "hard":
        mixes = (m.weight < 1) | ~_alone(m)
        return torch.where(_per_clip(mixes, labels, torch.bool), (labels + labels[m.partner]).clamp(0, 1), labels)
    raise ValueError(f"label_type: unknown '{label_type}' (known: soft, hard)")


def mix_valid(valid, labels, m, joint):
    """Class mask of clips that were mixed across data sets: classes which the partner shows become valid.

    Args:
        valid: [B, C] bool, classes annotated for a clip.
        labels: [B, C, T], strong labels before mixing.
        m: what the clips were mixed with.
        joint: [B] bool, clips of the group that crosses data sets; the others keep their mask.
    """
    return valid | ((labels[m.partner] != 0).any(-1) & joint[:, None])


def mix_style(x, m, eps=1e-6):
    """Mixes mean and deviation over time of every band with the partner's.

    MixStyle [Zhou et al., 2021] with statistics per frequency band, as is usual for spectrograms.
    """
    mean = x.mean(dim=3, keepdim=True)
    deviation = (x.var(dim=3, keepdim=True) + eps).sqrt()
    own = _per_clip(m.weight, x)
    new_mean = own * mean + (1 - own) * mean[m.partner]
    new_deviation = own * deviation + (1 - own) * deviation[m.partner]
    return _keep_loners(x, (x - mean) / deviation * new_deviation + new_mean, m)


def _per_clip(values, x, dtype=None):
    """[B] values shaped to go with ``x``, of its type unless another is given."""
    return values.to(dtype or x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _alone(m):
    """[B] bool: clips that are their own partner."""
    return m.partner == torch.arange(len(m.partner), device=m.partner.device)


def _keep_loners(x, mixed, m):
    """``mixed``, but the very numbers of ``x`` where a clip is its own partner: ``w x + (1 - w) x`` rounds."""
    return torch.where(_per_clip(_alone(m), x, torch.bool), x, mixed)


# -- time -------------------------------------------------------------------------------------------------------------


def draw_shift(frames, where, rng, shift_range):
    """Shift per clip in frames, normally distributed, zero for clips that are not selected.

    Args:
        frames: number of frames.
        where: [B] bool, a numpy array: clips that are shifted.
        rng: source of randomness.
        shift_range: standard deviation relative to ``frames``.

    Returns:
        [B] int64.
    """
    shift = np.trunc(rng.normal(0, int(frames * shift_range), size=len(where))).astype(np.int64)
    return np.where(where, shift, 0)


def scale_shift(shift, ratio):
    """The same shift in frames that are ``ratio`` times longer, rounded half to even."""
    return np.rint(np.asarray(shift) / ratio).astype(np.int64)


def shift_frames(x, shift):
    """Shifts every clip cyclically along the last axis, to the right for positive shifts ([B] integers)."""
    frames = x.shape[-1]
    shift = torch.as_tensor(shift).to(x.device, non_blocking=True)
    index = (torch.arange(frames, device=x.device) - shift[:, None]) % frames
    return x.gather(-1, index.reshape(len(x), *[1] * (x.ndim - 2), frames).expand_as(x))


class Span(NamedTuple):
    """Frames ``start`` up to, but not including, ``stop``."""

    start: int
    stop: int

    def scaled(self, factor):
        """The span in frames that are ``factor`` times shorter."""
        return Span(round(self.start * factor), round(self.stop * factor))


def draw_mask(frames, rng, min_mask_ratio, max_mask_ratio):
    """The span that a time mask covers.

    Args:
        frames: number of label frames.
        rng: source of randomness.
        min_mask_ratio: least length relative to ``frames``.
        max_mask_ratio: the length stays below this.

    Raises:
        ValueError: no whole number of frames lies in the range.
    """
    low, high = int(frames * min_mask_ratio), int(frames * max_mask_ratio)
    if low >= high:
        raise ValueError(
            f"time_augment: {frames} frames are too few for mask ratios from {min_mask_ratio} to {max_mask_ratio}"
        )
    width = int(rng.integers(low, high))
    start = int(rng.integers(0, frames - width))
    return Span(start, start + width)


def mask_frames(x, span, where):
    """Sets a span of the last axis to zero in the clips that ``where`` ([B] bool) selects."""
    frame = torch.arange(x.shape[-1], device=x.device)
    inside = (frame >= span.start) & (frame < span.stop)
    return x.masked_fill(_per_clip(where, x, torch.bool) & inside, 0)


# -- frequency and level ----------------------------------------------------------------------------------------------


class Filter(NamedTuple):
    """A gain curve per clip, linear in dB inside each band.

    Attributes:
        edges: [n + 1] int, first bin of every band and the number of bins; shared by the batch.
        levels: [B, n + 1] gains in dB, at the first bin of band i and again at the last bin of band i - 1.
    """

    edges: np.ndarray
    levels: np.ndarray


def draw_filter(batch, bins, rng, filter_db_range, filter_bands, filter_minimum_bandwidth):
    """A random filter for every clip, FilterAugment of type linear [Nam et al., 2022].

    Args:
        batch: number of clips.
        bins: number of frequency bins.
        rng: source of randomness.
        filter_db_range: lowest and highest gain in dB.
        filter_bands: lowest number of bands and one more than the highest.
        filter_minimum_bandwidth: least width of a band in bins; narrower where the bins do not suffice.
    """
    n = int(rng.integers(*filter_bands))
    if n < 2:  # a single band means no filter
        return Filter(np.array([0, bins]), np.zeros((batch, 2)))
    width = min(filter_minimum_bandwidth, bins // n)
    cuts = np.sort(rng.integers(0, bins - n * width + 1, size=n - 1)) + width * np.arange(1, n)
    return Filter(np.concatenate([[0], cuts, [bins]]), rng.uniform(*filter_db_range, size=(batch, n + 1)))


def filter_curve(f):
    """Gains in dB of every clip and bin, [B, bins]."""
    bins = np.arange(f.edges[-1])
    band = np.searchsorted(f.edges, bins, side="right") - 1
    last = np.maximum(f.edges[band + 1] - f.edges[band] - 1, 1)  # a band of a single bin has its first level
    along = (bins - f.edges[band]) / last
    return f.levels[:, band] * (1 - along) + f.levels[:, band + 1] * along


def filter_bands(x, f):
    """Multiplies spectrograms [B, 1, bins, frames] with a :class:`Filter`."""
    gains = torch.from_numpy(10 ** (filter_curve(f) / 20)).to(x.device, x.dtype, non_blocking=True)
    return x * gains[:, None, :, None]


class Crop(NamedTuple):
    """A stretch of one axis per clip; it may reach beyond the clip on both sides, where there is zero.

    Attributes:
        start: [B] int, first position, negative when it lies before the clip.
        length: [B] int, number of positions.
    """

    start: np.ndarray
    length: np.ndarray


def draw_crop(groups, size, rng, scale=(0.6, 1.0), virtual_scale=1.0):
    """A random stretch of one axis, the same for all clips of a group.

    Args:
        groups: [B] integers; -1 takes all of the axis.
        size: length of the axis.
        rng: source of randomness.
        scale: least and greatest length relative to ``size``.
        virtual_scale: length, relative to ``size``, of the canvas from which is cropped, with the clip in its middle.
    """
    groups = np.asarray(groups)
    start, length = np.zeros(len(groups), int), np.full(len(groups), size)
    canvas = int(size * virtual_scale)
    for group in np.unique(groups[groups >= 0]):
        drawn = min(max(int(rng.uniform(*scale) * size), 1), canvas)
        length[groups == group] = drawn
        start[groups == group] = rng.integers(0, canvas - drawn + 1) - (canvas - size) // 2
    return Crop(start, length)


def resize_crop(x, crop, dim):
    """Stretches the :class:`Crop` of every clip back to the full axis by bicubic interpolation with aligned ends.

    Random resize crop of BYOL-A [Niizumi et al., 2021], one axis at a time. The crop's edge values continue outside it.
    """
    index, weight = (torch.from_numpy(a).to(x.device, non_blocking=True) for a in _cubic_taps(crop, x.shape[dim]))
    shape = [len(x), *[1] * (x.ndim - 1)]
    shape[dim] = x.shape[dim]
    taps = zip(index.unbind(-1), weight.to(x.dtype).unbind(-1))
    return sum(x.gather(dim, i.reshape(shape).expand_as(x)) * w.reshape(shape) for i, w in taps)


def warp_frequency(x, crop):
    """Stretches a crop of the bands of [B, 1, bands, frames] to all bands."""
    return resize_crop(x, crop, dim=x.ndim - 2)


def _cubic_taps(crop, size):
    """Source positions and weights of cubic interpolation, each [B, size, 4]."""
    length = np.asarray(crop.length)[:, None, None]
    # single precision like torch's own interpolation: on steep spectra the rounding of positions shows
    step = ((length - 1) / np.float32(max(size - 1, 1))).astype(np.float32)
    position = np.arange(size, dtype=np.float32)[None, :, None] * step
    nearest = np.floor(position).astype(np.int64) + np.arange(-1, 3)
    distance = np.abs(position - nearest)
    a = -0.75  # the usual choice of image libraries
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    weight = np.where(distance <= 1, near, far)
    index = np.clip(nearest, 0, length - 1) + np.asarray(crop.start)[:, None, None]
    inside = (index >= 0) & (index < size)
    return np.clip(index, 0, size - 1), weight * inside


def draw_gain(batch, gain, rng):
    """Whole dB per clip from ``-gain`` up to, but not including, ``gain``; [batch] int64."""
    return rng.integers(-gain, gain, size=batch)


def apply_gain(audio, db):
    """Amplifies waveforms [B, samples] by ``db`` ([B])."""
    return audio * _per_clip(torch.as_tensor(10 ** (np.asarray(db) / 20)).to(audio.device, non_blocking=True), audio)


def harden(labels):
    """Labels or probabilities above one half become 1, all others 0."""
    return (labels > 0.5).to(labels.dtype)


def gate(p, rng):
    """Whether an augmentation of probability ``p`` happens in this batch."""
    return bool(rng.random() < p)
