"""Losses of audio tagging on logits: labels, masked labels and a teacher, of clips that may be mixed with each other.

All compute in float32, also under autocast. A mixed clip has the mean of the losses that its two clips have by
themselves, by their shares; cross-entropies are linear in the target, so that is the loss of the mixed target.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from helpers.augment import mix

MEANS = ("annotated", "published")


def binary_loss(logits, target, known=None, m=None):
    """Binary cross-entropy, the mean over everything that is known.

    Args:
        logits: [B, C].
        target: [B, C] probabilities.
        known: [B, C] or [B, 1], which targets are known (1) and which are not (0); None: all. Of a mixed clip, each
            class has the loss of those of its two clips which know it, by their shares.
        m: the ``helpers.augment.Mix`` of the clips that the logits belong to; None: they are not mixed.

    Returns:
        a float32 scalar, zero where nothing is known.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.float()
        known = torch.ones_like(target) if known is None else known.float().expand_as(target)
        positive = known * target
        if m is not None:
            positive, known = mix(positive, m), mix(known, m)
        losses = known * functional.softplus(logits) - positive * logits
        return losses.sum() / known.sum().clamp(min=1e-8)


def class_loss(logits, target, m=None):
    """Cross-entropy over classes, the mean over clips.

    Args:
        logits: [B, C].
        target: [B, C], distributions over classes (or multiples of them, as the mean of mixed labels may be).
        m: the mix of the clips, or None.
    """
    with torch.autocast(logits.device.type, enabled=False):
        target = target.float() if m is None else mix(target.float(), m)
        return functional.cross_entropy(logits.float(), target)


def published_masked_loss(logits, target, mask, m=None):
    """Masked binary cross-entropy as published for OpenMIC: a mean over all cells, with zeros where masked.

    Masked is what a clip itself does not annotate, whatever it is mixed with.
    """
    with torch.autocast(logits.device.type, enabled=False):
        target = target.float() if m is None else mix(target.float(), m)
        losses = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        return (losses * mask).mean()


@dataclass(frozen=True)
class Distillation:
    """Section ``kd``: learning from the stored logits of a teacher [Schmid et al., ICASSP 2023, section 2].

    Attributes:
        kd_lambda: weight of the labels; the teacher has what is left to one. As published, 0 means no teacher.
        temperature: that the teacher's logits are divided by; the student's are not, and the loss is not scaled.
        pseudo_labels: the teacher's probabilities are the only labels, whatever ``kd_lambda``.

    Raises:
        ValueError: a weight outside [0, 1], or no positive temperature.
    """

    kd_lambda: float = 0.0
    temperature: float = 1.0
    pseudo_labels: bool = False

    def __post_init__(self):
        if not 0 <= self.kd_lambda <= 1:
            raise ValueError(f"kd.kd_lambda is {self.kd_lambda}, expected a weight of the labels in [0, 1]")
        if self.temperature <= 0:
            raise ValueError(f"kd.temperature is {self.temperature}, expected a positive number")

    @property
    def weights(self) -> tuple[float, float]:
        """Of the labels and of the teacher."""
        if self.pseudo_labels:
            return 0.0, 1.0
        return (self.kd_lambda, 1 - self.kd_lambda) if self.kd_lambda > 0 else (1.0, 0.0)


@dataclass(frozen=True)
class Objective:
    """What a tagger is trained for.

    Attributes:
        multi_label: binary cross-entropy of every class, or cross-entropy over the classes.
        kd: weights of labels and teacher.
        masked_mean: of masked labels, see :class:`helpers.tagging_metrics.TaggingMetrics`.

    Raises:
        ValueError: unknown ``masked_mean``.
    """

    multi_label: bool = True
    kd: Distillation = Distillation()
    masked_mean: str = "annotated"

    def __post_init__(self):
        if self.masked_mean not in MEANS:
            raise ValueError(f"loss.masked_mean is '{self.masked_mean}', expected one of {', '.join(MEANS)}")

    def terms(self, logits, batch, m=None):
        """Weighted terms by name: ``label_loss``, and ``kd_loss`` where there is a teacher; their sum is the loss.

        Args:
            logits: [B, C].
            batch: ``target`` and, as far as they are there, ``mask``, ``teacher`` (logits) and ``teacher_valid``.
                Clips that the teacher does not know have no part in its term.
            m: the mix of the clips, or None.
        """
        labels, teacher = self.kd.weights
        terms = {"label_loss": labels * self.label_loss(logits, batch, m)} if labels else {}
        if teacher:
            target = torch.sigmoid(batch["teacher"].float() / self.kd.temperature)
            terms["kd_loss"] = teacher * binary_loss(logits, target, batch["teacher_valid"][:, None], m)
        return terms

    def label_loss(self, logits, batch, m=None):
        """The loss of the labels alone, without weight."""
        if not self.multi_label:
            return class_loss(logits, batch["target"], m)
        mask = batch.get("mask")
        if mask is not None and self.masked_mean == "published":
            return published_masked_loss(logits, batch["target"], mask, m)
        return binary_loss(logits, batch["target"], mask, m)
