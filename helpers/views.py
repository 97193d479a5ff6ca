"""From the features and labels of a batch to what student and teacher see: the augmentation chain of both stages.

The dataclasses are the augmentation sections of the configuration with their defaults; ``p`` is always a probability
per batch. :func:`stage1_views` and :func:`stage2_views` show the order of the augmentations.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from helpers.augment import (
    MIXUP_ALPHA,
    Mix,
    draw_crop,
    draw_filter,
    draw_mask,
    draw_mix,
    draw_shift,
    filter_bands,
    gate,
    harden,
    mask_frames,
    mix,
    mix_groups,
    mix_labels,
    mix_style,
    mix_valid,
    scale_shift,
    shift_frames,
    warp_frequency,
)
from helpers.sources import MAESTRO, SUBSETS, members


@dataclass(frozen=True)
class MixAugment:
    """Section ``mix_augment``: which clips are mixed with one another, and whose styles.

    With all three of ``*_desed_maestro``, ``*_desed_strong`` and ``*_maestro`` the strongly labelled clips of DESED and
    MAESTRO mix across the data sets, otherwise each within its own.
    """

    apply_mixup: bool = True
    mixup_p: float = 0.5
    mixup_max_coef: bool = True
    mixup_weak: bool = True
    mixup_desed_strong: bool = True
    mixup_maestro: bool = True
    mixup_desed_maestro: bool = True
    mixup_unlabeled: bool = True
    apply_mixstyle: bool = True
    mixstyle_p: float = 0.5
    mixstyle_alpha: float = 0.3
    mixstyle_weak: bool = True
    mixstyle_desed_strong: bool = True
    mixstyle_maestro: bool = True
    mixstyle_desed_maestro: bool = True
    mixstyle_unlabeled: bool = True

    @property
    def joint(self):
        """Whether mixup crosses from DESED to MAESTRO."""
        return self.mixup_desed_maestro and self.mixup_desed_strong and self.mixup_maestro

    def mixup_groups(self, source):
        """Groups of clips for mixup, see :func:`mix_groups`."""
        return mix_groups(
            source,
            weak=self.mixup_weak,
            desed_strong=self.mixup_desed_strong,
            maestro=self.mixup_maestro,
            desed_maestro=self.mixup_desed_maestro,
            unlabeled=self.mixup_unlabeled,
        )

    def mixstyle_groups(self, source):
        """Groups of clips for MixStyle, see :func:`mix_groups`."""
        return mix_groups(
            source,
            weak=self.mixstyle_weak,
            desed_strong=self.mixstyle_desed_strong,
            maestro=self.mixstyle_maestro,
            desed_maestro=self.mixstyle_desed_maestro,
            unlabeled=self.mixstyle_unlabeled,
        )


@dataclass(frozen=True)
class TimeAugment:
    """Section ``time_augment``: cyclic shifts per clip and one masked span of time per batch.

    Targets are ``desed`` or ``all`` for the shift, ``desed_strong``, ``strong`` or ``all`` for the mask.
    ``shift_range`` is the standard deviation of the shift and ``*_mask_ratio`` the length of the span, relative to the
    clip.

    Raises:
        ValueError: unknown target, or mask ratios out of order.
    """

    apply_mask: bool = False
    mask_target: str = "desed_strong"
    min_mask_ratio: float = 0.05
    max_mask_ratio: float = 0.3
    apply_shift: bool = False
    shift_target: str = "desed"
    shift_range: float = 0.075

    def __post_init__(self):
        for key, known in (("mask_target", ("desed_strong", "strong", "all")), ("shift_target", ("desed", "all"))):
            value = getattr(self, key)
            if value not in known:
                raise ValueError(f"time_augment.{key}: unknown target '{value}' (known: {', '.join(known)})")
        if not 0 <= self.min_mask_ratio < self.max_mask_ratio <= 1:
            raise ValueError(
                "time_augment: 0 <= min_mask_ratio < max_mask_ratio <= 1 is needed, "
                f"they are {self.min_mask_ratio} and {self.max_mask_ratio}"
            )


@dataclass(frozen=True)
class FilterAugment:
    """Section ``filter_augment``: random gains over frequency.

    ``filter_bands`` are the lowest number of bands and one more than the highest, ``n_transform`` is 0 (off), 1
    (student and teacher hear the same filter) or 2 (each its own).

    Raises:
        ValueError: another ``n_transform``, or bands that leave nothing to draw.
    """

    apply: int = 1
    p: float = 0.8
    n_transform: int = 2
    filter_db_range: tuple[float, float] = (-6, 6)
    filter_bands: tuple[int, int] = (3, 6)
    filter_minimum_bandwidth: int = 6

    def __post_init__(self):
        if self.n_transform not in (0, 1, 2):
            raise ValueError(f"filter_augment.n_transform: 0, 1 or 2 is needed, it is {self.n_transform}")
        low, high = self.filter_bands
        if not 1 <= low < high:
            raise ValueError(f"filter_augment.filter_bands: 1 <= low < high is needed, not {tuple(self.filter_bands)}")


@dataclass(frozen=True)
class FreqWarp:
    """Section ``freq_warp`` (stage 2): random stretching of the backbone's spectrogram over frequency."""

    apply: int = 1
    p: float = 0.5
    include_maestro: bool = False


@dataclass(frozen=True)
class Recipe:
    """All that decides the views of a batch.

    Attributes:
        mix: section ``mix_augment``.
        time: section ``time_augment``.
        filter: section ``filter_augment``.
        warp: section ``freq_warp``, read by stage 2 only.
        harden_labels_maestro_p: entry of section ``loss``, probability that soft labels of MAESTRO are made hard.
        harden_pseudo_labels_p: the same for the pseudo-labels of all clips.
        pseudo_strong_no_class_mask: whether pseudo-labels keep the classes that a clip's source does not annotate.
        net_pooling: frames of the CRNN's mel per label frame.
    """

    mix: MixAugment = field(default_factory=MixAugment)
    time: TimeAugment = field(default_factory=TimeAugment)
    filter: FilterAugment = field(default_factory=FilterAugment)
    warp: FreqWarp = field(default_factory=FreqWarp)
    harden_labels_maestro_p: float = 0.0
    harden_pseudo_labels_p: float = 0.0
    pseudo_strong_no_class_mask: bool = False
    net_pooling: int = 4


class View(NamedTuple):
    """The inputs of one network.

    Attributes:
        x: [B, 1, mels, frames], linear mel of the CNN branch.
        mel: [B, 1, bands, frames], features of the backbone.
    """

    x: torch.Tensor
    mel: torch.Tensor


class Views(NamedTuple):
    """What a training step works on. Where student and teacher see the same input, it is the same tensor object.

    Attributes:
        student: inputs of the student.
        teacher: inputs of the teacher; ``views.teacher.mel is views.student.mel`` means that a frozen backbone need run
            only once.
        strong: [B, C, T] labels, zero outside the class mask.
        weak: [B, C] labels, zero outside the class mask.
        pseudo: [B, C, T] pseudo-labels.
        valid: [B, C] bool, class mask after mixing, for student and teacher.
        source: [B] source numbers, on the device of the features.
        mix: what the student's clips were mixed with, None when they were not.
    """

    student: View
    teacher: View
    strong: torch.Tensor
    weak: torch.Tensor
    pseudo: torch.Tensor
    valid: torch.Tensor
    source: torch.Tensor
    mix: Mix | None


class _Clips(NamedTuple):
    """A batch on its way through the chain; ``host`` is ``source`` as a numpy array."""

    x: torch.Tensor
    mel: torch.Tensor
    strong: torch.Tensor
    weak: torch.Tensor
    pseudo: torch.Tensor
    valid: torch.Tensor
    source: torch.Tensor
    host: np.ndarray


def stage1_views(x, mel, batch, recipe, rng):
    """Views of stage 1, where the backbone is frozen: student and teacher share everything but, maybe, the filter.

    Args:
        x: [B, 1, mels, frames], linear mel of the CNN branch.
        mel: [B, 1, bands, frames], features of the backbone.
        batch: labels of the clips: ``strong``, ``weak``, ``pseudo`` and ``valid`` on the device of the features, and
            ``source``, best left on the CPU, since the draws depend on it.
        recipe: the :class:`Recipe`.
        rng: ``numpy.random.Generator`` of all draws.

    Returns:
        the :class:`Views`.
    """
    clips = _harden(_clips(x, mel, batch), recipe, rng)
    clips = _shift(clips, recipe, rng)
    clips, mixed = _mixup(clips, recipe.mix, rng)
    clips = _mixstyle(clips, recipe.mix, rng)
    clips = _mask(clips, recipe, rng)
    student = teacher = View(clips.x, clips.mel)
    if recipe.filter.apply and recipe.filter.n_transform and gate(recipe.filter.p, rng):
        # only the CNN branch hears the filter: the backbone does not learn in this stage
        student = teacher = View(_filter(clips.x, recipe.filter, rng), clips.mel)
        if recipe.filter.n_transform == 2:
            teacher = View(_filter(clips.x, recipe.filter, rng), clips.mel)
    return _views(student, teacher, clips, mixed, recipe)


def stage2_views(x, mel, batch, recipe, rng):
    """Views of stage 2: the teacher sees the clips before mixing, warping and filtering.

    Arguments and result as for :func:`stage1_views`.
    """
    clips = _harden(_clips(x, mel, batch), recipe, rng)
    clips = _shift(clips, recipe, rng)
    clips = _mask(clips, recipe, rng)
    teacher = View(clips.x, clips.mel)
    clips, mixed = _mixup(clips, recipe.mix, rng)
    clips = _mixstyle(clips, recipe.mix, rng)
    clips = _warp(clips, recipe.warp, rng)
    student = View(clips.x, clips.mel)
    if recipe.filter.apply and recipe.filter.n_transform and gate(recipe.filter.p, rng):
        # the backbone's features are logarithmic, yet they are multiplied all the same, as in the published training
        student = View(_filter(clips.x, recipe.filter, rng), _filter(clips.mel, recipe.filter, rng))
    return _views(student, teacher, clips, mixed, recipe)


def _clips(x, mel, batch):
    host = torch.as_tensor(batch["source"]).cpu()
    labels = (batch[key] for key in ("strong", "weak", "pseudo"))
    return _Clips(x, mel, *labels, batch["valid"].bool(), host.to(x.device, non_blocking=True), host.numpy())


def _views(student, teacher, clips, mixed, recipe):
    """Labels outside the class mask of the mixed clips count as absent."""
    strong = clips.strong.masked_fill(~clips.valid[:, :, None], 0.0)
    weak = clips.weak.masked_fill(~clips.valid, 0.0)
    pseudo = clips.pseudo
    if not recipe.pseudo_strong_no_class_mask:
        pseudo = pseudo.masked_fill(~clips.valid[:, :, None], 0.0)
    return Views(student, teacher, strong, weak, pseudo, clips.valid, clips.source, mixed)


def _harden(clips, recipe, rng):
    if gate(recipe.harden_labels_maestro_p, rng):
        chosen = (clips.source == MAESTRO)[:, None, None]
        clips = clips._replace(strong=torch.where(chosen, harden(clips.strong), clips.strong))
    if gate(recipe.harden_pseudo_labels_p, rng):
        clips = clips._replace(pseudo=harden(clips.pseudo))
    return clips


def _shift(clips, recipe, rng):
    if not recipe.time.apply_shift:
        return clips
    frames = clips.x.shape[-1]
    where = members(clips.host, SUBSETS[recipe.time.shift_target])
    shift = draw_shift(frames, where, rng, recipe.time.shift_range)
    of_labels = scale_shift(shift, recipe.net_pooling)
    return clips._replace(
        x=shift_frames(clips.x, shift),
        mel=shift_frames(clips.mel, scale_shift(shift, frames / clips.mel.shape[-1])),
        strong=shift_frames(clips.strong, of_labels),
        pseudo=shift_frames(clips.pseudo, of_labels),
    )


def _mask(clips, recipe, rng):
    if not recipe.time.apply_mask:
        return clips
    label_frames = clips.strong.shape[-1]
    span = draw_mask(label_frames, rng, recipe.time.min_mask_ratio, recipe.time.max_mask_ratio)
    where = members(clips.source, SUBSETS[recipe.time.mask_target])
    return clips._replace(
        x=mask_frames(clips.x, span.scaled(recipe.net_pooling), where),
        mel=mask_frames(clips.mel, span.scaled(clips.mel.shape[-1] / label_frames), where),
        strong=mask_frames(clips.strong, span, where),
        pseudo=mask_frames(clips.pseudo, span, where),
    )


def _mixup(clips, config, rng):
    if not (config.apply_mixup and gate(config.mixup_p, rng)):
        return clips, None
    groups = config.mixup_groups(clips.host)
    m = draw_mix(groups, MIXUP_ALPHA, rng, config.mixup_max_coef).to(clips.x.device)
    valid = clips.valid
    if config.joint:
        valid = mix_valid(valid, clips.strong, m, members(clips.source, SUBSETS["strong"]))
    clips = clips._replace(
        x=mix(clips.x, m),
        mel=mix(clips.mel, m),
        strong=mix_labels(clips.strong, m),
        weak=mix_labels(clips.weak, m),
        pseudo=mix(clips.pseudo, m),
        valid=valid,
    )
    return clips, m


def _mixstyle(clips, config, rng):
    if not (config.apply_mixstyle and gate(config.mixstyle_p, rng)):
        return clips
    groups = config.mixstyle_groups(clips.host)
    device = clips.x.device
    of_x, of_mel = (draw_mix(groups, config.mixstyle_alpha, rng).to(device) for _ in range(2))
    return clips._replace(x=mix_style(clips.x, of_x), mel=mix_style(clips.mel, of_mel))


def _warp(clips, config, rng):
    if not (config.apply and gate(config.p, rng)):
        return clips
    groups = mix_groups(
        clips.host, weak=True, desed_strong=True, maestro=config.include_maestro, desed_maestro=False, unlabeled=True
    )
    crop = draw_crop(groups, clips.mel.shape[2], rng)
    return clips._replace(mel=warp_frequency(clips.mel, crop))


def _filter(x, config, rng):
    drawn = draw_filter(
        len(x), x.shape[2], rng, config.filter_db_range, config.filter_bands, config.filter_minimum_bandwidth
    )
    return filter_bands(x, drawn)
