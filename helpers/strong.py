"""Pre-training on AudioSet-strong: augmentation, loss and the Lightning module.

Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection", ICASSP 2025.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from helpers.augment import (
    MIXUP_ALPHA,
    Crop,
    Filter,
    Mix,
    Span,
    draw_crop,
    draw_filter,
    draw_mask,
    draw_mix,
    draw_shift,
    filter_bands,
    gate,
    mask_frames,
    mix,
    mix_labels,
    mix_style,
    scale_shift,
    shift_frames,
    warp_frequency,
)
from helpers.seeded import SeededModule

MIXSTYLE_ALPHA = 0.4
MIN_TIME_MASK_SIZE = 0.05
FILTER = {"filter_db_range": (-6, 6), "filter_bands": (3, 6), "filter_minimum_bandwidth": 6}


class Clips(NamedTuple):
    """What a training step works on.

    Attributes:
        mel: [B, 1, bands, frames] features.
        strong: [B, classes, label frames] labels.
        pseudo: the teacher's probabilities of the same shape; None without a teacher.
    """

    mel: Tensor
    strong: Tensor
    pseudo: Tensor | None = None

    @classmethod
    def of(cls, mel, batch: Mapping, distilled: bool = False) -> "Clips":
        """The clips of a batch.

        Args:
            mel: their features.
            batch: ``strong`` and, for a teacher, ``pseudo`` and ``pseudo_valid`` [B]. To a clip which the teacher does
                not know its labels stand in, so that it counts with them alone, also where it is mixed with others.
            distilled: whether there is a teacher.

        Raises:
            ValueError: the batch has no pseudo-labels.
        """
        if not distilled:
            return cls(mel, batch["strong"])
        if "pseudo" not in batch:
            raise ValueError(
                "strong.distillation_loss_weight is above 0, but the clips have no pseudo-labels: expected a teacher's "
                "logits by data.teacher_preds"
            )
        known = batch["pseudo_valid"].bool()[:, None, None]
        return cls(mel, batch["strong"], torch.where(known, batch["pseudo"].to(batch["strong"]), batch["strong"]))


class Draws(NamedTuple):
    """What happens to a batch, in this order; None where nothing of the kind does.

    Attributes:
        shift: [B] frames of the features by which each clip is shifted cyclically.
        mixup: of features and labels.
        mixstyle: of the statistics of the bands.
        mask: label frames that are silenced.
        filter: gains over the bands. They multiply features that are logarithmic, as published.
        crop: bands that are stretched to all of them.
    """

    shift: np.ndarray | None = None
    mixup: Mix | None = None
    mixstyle: Mix | None = None
    mask: Span | None = None
    filter: Filter | None = None
    crop: Crop | None = None


@dataclass(frozen=True)
class StrongAugmentation:
    """Section ``strong``: how the clips of a batch are changed; see :class:`Draws` for the order.

    Attributes:
        frame_shift_range: standard deviation of the cyclic shift of each clip, relative to its length.
        mixup_p: probability for a batch to be mixed [Zhang et al., 2018].
        mixstyle_p: probability to mix statistics of its bands [Zhou et al., 2021].
        max_time_mask_size: the time mask of a batch is at least 0.05 of a clip and shorter than this; 0: none.
        filter_augment_p: probability of filters [Nam et al., 2022], one for each clip.
        freq_warp_p: probability to stretch the bands, those of all clips alike.

    Raises:
        ValueError: no probability, a negative range, or masks of no size.
    """

    frame_shift_range: float = 0.125
    mixup_p: float = 0.3
    mixstyle_p: float = 0.3
    max_time_mask_size: float = 0.0
    filter_augment_p: float = 0.8
    freq_warp_p: float = 0.8

    def __post_init__(self):
        for name in ("mixup_p", "mixstyle_p", "filter_augment_p", "freq_warp_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"strong.{name} is {getattr(self, name)}, expected a probability")
        if not 0 <= self.frame_shift_range:
            raise ValueError(f"strong.frame_shift_range is {self.frame_shift_range}, expected a share of the clip")
        if self.max_time_mask_size != 0 and not MIN_TIME_MASK_SIZE < self.max_time_mask_size <= 1:
            raise ValueError(
                f"strong.max_time_mask_size is {self.max_time_mask_size}, expected more than {MIN_TIME_MASK_SIZE} and "
                "at most 1, or no mask by 0"
            )

    def draw(self, clips: Clips, rng) -> Draws:
        """What happens to these clips.

        Args:
            clips: only their shapes matter.
            rng: numpy generator.
        """
        batch, _, bands, frames = clips.mel.shape
        together = np.zeros(batch, dtype=np.int64)  # every clip may meet every other one
        shifted = self.frame_shift_range > 0
        masked = self.max_time_mask_size > 0
        sizes = (MIN_TIME_MASK_SIZE, self.max_time_mask_size)
        return Draws(
            draw_shift(frames, together == 0, rng, self.frame_shift_range) if shifted else None,
            draw_mix(together, MIXUP_ALPHA, rng) if gate(self.mixup_p, rng) else None,
            draw_mix(together, MIXSTYLE_ALPHA, rng) if gate(self.mixstyle_p, rng) else None,
            draw_mask(clips.strong.shape[-1], rng, *sizes) if masked else None,
            draw_filter(batch, bands, rng, **FILTER) if gate(self.filter_augment_p, rng) else None,
            draw_crop(together, bands, rng) if gate(self.freq_warp_p, rng) else None,
        )


def augmented(clips: Clips, draws: Draws) -> Clips:
    """The clips after all that was drawn.

    A time mask also covers the pseudo-labels, which the published one leaves as they are.
    """
    mel, *labels = (part for part in clips if part is not None)
    ratio = mel.shape[-1] / clips.strong.shape[-1]
    if draws.shift is not None:
        mel = shift_frames(mel, draws.shift)
        labels = [shift_frames(part, scale_shift(draws.shift, ratio)) for part in labels]
    if draws.mixup is not None:
        mixed = draws.mixup.to(mel.device)
        mel, labels = mix(mel, mixed), [mix_labels(part, mixed) for part in labels]
    if draws.mixstyle is not None:
        mel = mix_style(mel, draws.mixstyle.to(mel.device))
    if draws.mask is not None:
        where = torch.ones(len(mel), dtype=torch.bool, device=mel.device)
        mel = mask_frames(mel, draws.mask.scaled(ratio), where)
        labels = [mask_frames(part, draws.mask, where) for part in labels]
    if draws.filter is not None:
        mel = filter_bands(mel, draws.filter)
    if draws.crop is not None:
        mel = warp_frequency(mel, draws.crop)
    return Clips(mel, *labels)


@dataclass(frozen=True)
class StrongObjective:
    """Section ``strong``: frame-wise binary cross-entropy with labels and with a teacher.

    Attributes:
        distillation_loss_weight: of the teacher; the labels have what is left to one.

    Raises:
        ValueError: a weight outside [0, 1].
    """

    distillation_loss_weight: float = 0.0

    def __post_init__(self):
        if not 0 <= self.distillation_loss_weight <= 1:
            raise ValueError(
                f"strong.distillation_loss_weight is {self.distillation_loss_weight}, expected a weight in [0, 1]"
            )

    @property
    def distilled(self) -> bool:
        """Whether pseudo-labels are needed."""
        return self.distillation_loss_weight > 0

    def terms(self, logits, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms by name before they are weighted.

        Args:
            logits: [B, classes, label frames].
            clips: their labels.
        """
        weight, terms = self.distillation_loss_weight, {"strong_supervised_loss": _frame_loss(logits, clips.strong)}
        total = (1 - weight) * terms["strong_supervised_loss"]
        if self.distilled:
            terms["strong_distillation_loss"] = _frame_loss(logits, clips.pseudo)
            total = total + weight * terms["strong_distillation_loss"]
        return total, terms


def _frame_loss(logits, target):
    with torch.autocast(logits.device.type, enabled=False):
        return functional.binary_cross_entropy_with_logits(logits.float(), target.float())


class StrongModule(SeededModule):
    """A frame-wise model, how it is pre-trained, and its metrics.

    The model is called ``net_strong``: under the names that tensors have so, stage 1 starts from the checkpoints, and
    another training of this kind does. Its weak head is never trained, as published; it and the parameters of the
    backbone that have no part in its embeddings are frozen, since several processes wait for every gradient.

    Args:
        mel: front end, [B, samples] -> [B, 1, bands, frames].
        model: ``models.strong.StrongModel`` with a strong head.
        augment: what is drawn for a batch.
        objective: the loss.
        optimizer: callable (parameters) -> optimizer.
        schedule: callable (optimizer, number of steps) -> learning-rate schedule per step.
        evaluation: "validation" and "test" -> :class:`helpers.strong_metrics.StrongMetrics`.
        classes: names of the classes.
        seed: of all draws.
        config: the run's config, stored in its checkpoints.

    Raises:
        ValueError: the model has no heads.
    """

    headline = ("val/psds1", "max")  # the metric by which checkpoints of a run are compared

    def __init__(
        self,
        mel,
        model,
        augment: StrongAugmentation,
        objective: StrongObjective,
        optimizer: Callable,
        schedule: Callable,
        evaluation: Mapping,
        classes: Sequence[str] = (),
        seed: int = 0,
        config: Mapping | None = None,
    ):
        super().__init__(seed, evaluation)
        if model.strong_head is None:
            raise ValueError("strong_model.head_type is None, expected 'linear' or 'attention' to train a model")
        self.mel, self.net_strong = mel, model
        self.augment, self.objective = augment, objective
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.classes, self.run_config = list(classes), config
        for parameter in (*model.weak_head.parameters(), *model.idle_parameters()):
            parameter.requires_grad_(False)

    # -- training

    def training_step(self, batch, batch_idx):
        rng = self.generator(batch_idx)
        with torch.no_grad():
            clips = Clips.of(self.mel(batch["audio"], rng=rng), batch, self.objective.distilled)
            clips = augmented(clips, self.augment.draw(clips, rng))
        loss, terms = self.objective.terms(self.net_strong(clips.mel, rng).strong, clips)
        values = {"loss": loss.detach(), **terms, "lr": self.optimizers().param_groups[0]["lr"]}
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.log("train/epoch", float(self.current_epoch))
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def configure_optimizers(self):
        optimizer = self.make_optimizer([weight for weight in self.net_strong.parameters() if weight.requires_grad])
        schedule = self.make_schedule(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- evaluation

    def evaluate_batch(self, batch, part):
        """Hands the logits of a batch to the metrics."""
        self.evaluation[part].update(self.net_strong(self.mel(batch["audio"])).strong, batch)

    def validation_step(self, batch, batch_idx):
        self.evaluate_batch(batch, "validation")

    def test_step(self, batch, batch_idx):
        self.evaluate_batch(batch, "test")

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint):
        """Adds the classes and the config."""
        checkpoint["classes"], checkpoint["config"] = self.classes, self.run_config
