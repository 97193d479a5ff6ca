"""Losses of language-based audio retrieval, over the pairs of a batch: contrastive, ranking, distillation.

Everything is computed in float32, also under autocast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from helpers.contrastive import info_nce

KINDS = ("infonce", "triplet")


def triplet_loss(queries, items, ignored, margin=0.2, hardest=True):
    """Ranking loss: how far negatives come closer than ``margin`` to the similarity of a pair, in both directions.

    Args:
        queries, items: [B, D] embeddings of pairs.
        ignored: [B, B] bool, query by item: what is no negative, pairs among them.
        margin: of similarities.
        hardest: the most similar negative of every query and item counts [Faghri et al., "VSE++: Improving
            Visual-Semantic Embeddings with Hard Negatives", BMVC 2018]; else the mean over all of them.

    Returns:
        sum of both directions, a float32 scalar; 0 without a negative.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = queries.float() @ items.float().T
        own = scores.diagonal()
        total = scores.sum() * 0
        for pair, axis in ((own[:, None], 1), (own[None, :], 0)):
            cost = (margin + scores - pair).clamp(min=0).masked_fill(ignored, 0.0)
            mean = cost.sum() / (~ignored).sum().clamp(min=1)
            total = total + (cost.amax(axis).mean() if hardest else mean)
    return total


def distillation_loss(queries, items, tau, teacher, teacher_tau=0.07):
    """Cross-entropy with the softmax of stored similarities as targets, in both directions.

    After Primus et al., "Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (DCASE
    Workshop 2024), where the similarities are the mean of an ensemble.

    Args:
        queries, items: [B, D] embeddings of pairs.
        tau: temperature.
        teacher: [B, B] similarities, query by item.
        teacher_tau: their temperature.

    Returns:
        sum of both directions, a float32 scalar.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores, targets = queries.float() @ items.float().T / abs(tau), teacher.float() / teacher_tau
        return -sum((targets.softmax(axis) * scores.log_softmax(axis)).sum(axis).mean() for axis in (1, 0))


class SoftTargets:
    """Similarities of the captions and clips of a training set by an ensemble, for distillation.

    Args:
        scores: one [captions, clips] array per member, rows and columns as numbered by the training set.

    Raises:
        ValueError: there is none, or shapes differ.
    """

    def __init__(self, scores: Sequence[np.ndarray]):
        shapes = {np.shape(member) for member in scores}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            found = " and ".join(map(str, sorted(shapes))) or "none"
            raise ValueError(f"similarities to learn from: {found}, expected arrays of captions x clips, all alike")
        self.members = list(scores)

    def __call__(self, captions: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """[captions, clips] float32, the mean over the members, for these numbers."""
        rows, columns = captions.cpu().numpy(), clips.cpu().numpy()
        mean = np.mean([np.asarray(member[rows])[:, columns] for member in self.members], axis=0, dtype=np.float64)
        return torch.from_numpy(mean.astype(np.float32)).to(captions.device)


@dataclass(frozen=True)
class AudioTextLoss:
    """Section ``loss``: of pairs of captions and clips. Other captions of a clip are no negatives of it, as published.

    Attributes:
        kind: "infonce", the sum of both directions, or "triplet".
        margin, hardest: see :func:`triplet_loss`.
        distillation: share of :func:`distillation_loss` where there are stored similarities (``data.teacher_scores``).
        teacher_tau: see there.

    Raises:
        ValueError: another kind, or no share.
    """

    kind: str = "infonce"
    margin: float = 0.2
    hardest: bool = True
    distillation: float = 0.5
    teacher_tau: float = 0.07

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"loss.kind is {self.kind!r}, expected {' or '.join(KINDS)}")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"loss.distillation is {self.distillation}, expected a share of 1")

    def __call__(self, text, audio, tau, clips, teacher=None):
        """The loss.

        Args:
            text, audio: [B, D] embeddings of pairs, of unit length.
            tau: temperature.
            clips: [B] numbers of the clips.
            teacher: [B, B] similarities, caption by clip, or None.

        Returns:
            a float32 scalar.
        """
        same = clips[:, None] == clips
        if self.kind == "triplet":
            loss = triplet_loss(text, audio, same, self.margin, self.hardest)
        else:
            loss = 2 * info_nce(text, audio, tau, ignored=same, symmetric=True)
        if teacher is None:
            return loss
        soft = distillation_loss(text, audio, tau, teacher, self.teacher_tau)
        return (1 - self.distillation) * loss + self.distillation * soft
