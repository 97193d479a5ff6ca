"""Contrastive losses over the pairs of a batch, and the batch of all processes.

A pair is a query and its item: a vocal imitation and its reference, a caption and its clip. Everything is computed in
float32, also under autocast.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


def info_nce(
    queries,
    items,
    tau=0.07,
    positives=None,
    ignored=None,
    symmetric=False,
    hard_negatives=0.0,
    label_smoothing=0.0,
):
    """InfoNCE [van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018]: minus the
    log-probability of an item given its query, where the probabilities are a softmax over the items of the batch.

    Args:
        queries, items: [B, D] embeddings of pairs.
        tau: temperature, a number or a tensor of one value; its sign is ignored.
        positives: [B, B] bool, query by item: what counts as a pair; the mean is over all of these. None: the diagonal.
        ignored: [B, B] bool: items that are left out of the softmax of a query, unless they are positives.
        symmetric: mean of both directions; False takes the softmax over items alone.
        hard_negatives: above 0, a negative of similarity s counts in the softmax in proportion to
            ``exp(hard_negatives * s / tau)``, with a mean of 1 per query [Robinson et al., "Contrastive Learning with
            Hard Negative Samples", ICLR 2021, section 4]; the proportions have no gradient.
        label_smoothing: share of the target that is spread evenly over all items of the softmax.

    Returns:
        the loss, a float32 scalar.

    Raises:
        ValueError: shapes do not fit.
    """
    if queries.shape != items.shape or queries.ndim != 2:
        raise ValueError(f"pairs expected, got queries {list(queries.shape)} and items {list(items.shape)}")
    square = (len(queries),) * 2
    diagonal = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    positives = diagonal if positives is None else positives
    ignored = torch.zeros_like(diagonal) if ignored is None else ignored
    for name, table in (("positives", positives), ("ignored", ignored)):
        if table.shape != square or table.dtype != torch.bool:
            raise ValueError(f"{name} is {table.dtype} {list(table.shape)}, expected torch.bool {list(square)}")
    with torch.autocast(queries.device.type, enabled=False):
        scores = queries.float() @ items.float().T / abs(tau)
        loss = _one_way(scores, positives, ignored, hard_negatives, label_smoothing)
        if symmetric:
            back = _one_way(scores.T, positives.T, ignored.T, hard_negatives, label_smoothing)
            loss = (loss + back) / 2
    return loss


def _one_way(scores, positives, ignored, hard_negatives, label_smoothing):
    kept = positives | ~ignored
    if hard_negatives:
        scores = scores + _log_importance(scores.detach() * hard_negatives, kept & ~positives)
    log_p = scores.masked_fill(~kept, -torch.inf).log_softmax(1)
    loss = -log_p[positives].mean()
    if not label_smoothing:
        return loss
    rows = positives.nonzero()[:, 0]  # one for every pair, as the first part of the loss counts them
    even = torch.where(kept, log_p, 0.0).sum(1) / kept.sum(1)
    return (1 - label_smoothing) * loss - label_smoothing * even[rows].mean()


def _log_importance(logits, negatives):
    """Logarithm of weights in proportion to exp(logits) with a mean of 1 over the negatives of a row; 0 elsewhere."""
    total = logits.masked_fill(~negatives, -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(negatives, logits - total + negatives.sum(1, keepdim=True).log(), 0.0)


@dataclass(frozen=True)
class Contrastive:
    """Section ``loss``: :func:`info_nce` on pairs of named clips.

    Pairs whose imitations have the same name are positives of each other, as published. Pairs that share the reference
    alone are negatives, as published, or masked.

    Attributes:
        symmetric: mean of both directions.
        mask_same_reference: other imitations of the same reference are left out.
        hard_negatives: weight of similar negatives, 0 for none.
        label_smoothing: share of the target that is spread over all items.

    Raises:
        ValueError: a negative weight, or no share.
    """

    symmetric: bool = False
    mask_same_reference: bool = False
    hard_negatives: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.hard_negatives < 0:
            raise ValueError(f"loss.hard_negatives is {self.hard_negatives}, expected 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing is {self.label_smoothing}, expected a share of 1")

    def __call__(self, imitations, references, tau, imitation_ids, reference_ids):
        """The loss of pairs.

        Args:
            imitations, references: [B, D] embeddings.
            tau: temperature.
            imitation_ids, reference_ids: [B] numbers of their names, see :func:`name_ids`.
        """
        positives = imitation_ids[:, None] == imitation_ids
        ignored = reference_ids[:, None] == reference_ids if self.mask_same_reference else None
        options = self.symmetric, self.hard_negatives, self.label_smoothing
        return info_nce(imitations, references, tau, positives, ignored, *options)


def global_loss(objective, imitations, references, tau, imitation_names, reference_names):
    """The loss of the batches of all processes together; in one process that of its batch.

    Args:
        objective: such as :class:`Contrastive`.
        imitations, references: [B, D] embeddings of the pairs of this process; gradients go back to where a pair is
            from, see :func:`gather_with_gradient`.
        tau: temperature.
        imitation_names, reference_names: [B].
    """
    numbers = [name_ids(names, imitations.device) for names in (imitation_names, reference_names)]
    imitations, references = gather_with_gradient(torch.cat([imitations, references], dim=1)).chunk(2, dim=1)
    return objective(imitations, references, tau, *gather_with_gradient(torch.stack(numbers, dim=1)).unbind(1))


def name_ids(names: Sequence[str], device=None) -> torch.Tensor:
    """[B] int64: equal numbers for equal names, in every process."""
    digests = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
    return torch.from_numpy(np.frombuffer(digests, dtype=np.int64).copy()).to(device)


def gather_with_gradient(x):
    """The rows of all processes, in the order of their ranks; ``x`` itself where there is one process.

    The gradient goes back to the process that a row is from, summed over the losses of all processes. A loss over the
    global batch, which every process computes, so gives every process the number of processes times its part of the
    gradient; DistributedDataParallel, which averages over processes, makes that the gradient of one process with the
    global batch, for parameters of the loss (a temperature) as well.

    Args:
        x: [B, ...] floating point or integer; processes may differ in B.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return x
    own = torch.tensor([len(x)], device=x.device)
    counts = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, own)
    counts = [int(count) for count in counts]
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    if x.requires_grad:
        from torch.distributed.nn.functional import all_gather

        parts = all_gather(padded)
    else:
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])
