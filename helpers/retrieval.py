"""Training and evaluation of sound retrieval by example: the Lightning module, its optimizer and schedule.

The published recipe is that of the baseline of the AES AIMLA Challenge 2025, "Query by Vocal Imitation"; shares of the
epochs in place of numbers are those of its version for several devices.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from helpers.contrastive import Contrastive, global_loss, name_ids
from helpers.seeded import SeededModule

LOADERS = ("reference", "imitation")  # of an evaluation, in this order


def make_optimizer(parameters, max_lr=3e-4, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8) -> torch.optim.Optimizer:
    """AdamW; section ``optimizer``. The rate is set before every batch, see :func:`make_schedule`.

    Args:
        parameters: what is trained.
        max_lr: highest learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of the two moments.
        eps: added to the root of the second.
    """
    return torch.optim.AdamW(parameters, lr=max_lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)


def make_schedule(
    epochs: int,
    batches: int,
    max_lr=3e-4,
    min_lr=1e-4,
    warmup_epochs=1,
    rampdown_epochs=7,
    warmup_percent=None,
    rampdown_percent=None,
) -> Callable[[int], float]:
    """Learning rate per batch; section ``optimizer``: linear rise, half a cosine down, then constant.

    A step is a batch, also where several batches make one step of the optimizer.

    Args:
        epochs: of the training.
        batches: of an epoch.
        max_lr, min_lr: highest rate; first and last rate.
        warmup_epochs, rampdown_epochs: lengths of rise and fall.
        warmup_percent, rampdown_percent: the same as shares of all epochs, 0.1 for 10 %; they take the place of the
            numbers of epochs unless they are None.

    Returns:
        step, from 0 on, -> rate.

    Raises:
        ValueError: a negative length, or shares of an unknown number of epochs.
    """
    lengths = {"warmup": (warmup_epochs, warmup_percent), "rampdown": (rampdown_epochs, rampdown_percent)}
    for name, (number, share) in lengths.items():
        if share is None and number < 0:
            raise ValueError(f"optimizer.{name}_epochs is {number}, expected epochs, 0 or more")
        if share is not None and share < 0:
            raise ValueError(f"optimizer.{name}_percent is {share}, expected a share of the epochs, 0 or more")
        if share is not None and epochs < 0:
            raise ValueError(f"optimizer.{name}_percent needs a number of epochs, but trainer.max_epochs is {epochs}")
    rise, fall = (number if share is None else epochs * share for number, share in lengths.values())
    top, end = int(rise * batches), int((rise + fall) * batches)

    def rate(step: int) -> float:
        if step < top:
            return min_lr + (max_lr - min_lr) * step / top
        if step < end:
            return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * (step - top) / (end - top))) / 2
        return min_lr

    return rate


class RetrievalModule(SeededModule):
    """Two encoders, how they are trained on pairs, and the metrics of retrieval.

    Batches of training are dictionaries of pairs: ``imitation`` and ``reference`` [B, samples], ``imitation_filename``
    and ``reference_filename``. Evaluation has two loaders of single sounds, the first of references and the second of
    imitations, with ``audio`` [B, samples] and ``filename``. Names are those that the metrics know, and tell all clips
    apart.

    With several processes the loss is that of the batches of all of them together: see
    :func:`helpers.contrastive.gather_with_gradient`. ``trainer.accumulate_grad_batches`` is another thing: it averages
    losses of separate batches, whose clips are no negatives of each other. For many negatives in little memory set a
    large batch and ``cached_batch``.

    Checkpoints have the encoders' state dict also by itself, as ``retrieval``, so that they are weights files.

    Args:
        mel: front end, [B, samples] -> [B, 1, bands, frames].
        dual: the encoders (``models.retrieval.DualEncoder``).
        objective: the loss.
        optimizer: callable (parameters) -> optimizer.
        schedule: callable (epochs, batches) -> (step -> rate).
        evaluation: "validation" and "test" -> :class:`helpers.retrieval_metrics.RetrievalMetrics`.
        seed: of all draws.
        config: the run's config, stored in its checkpoints.
        cached_batch: clips whose activations are kept at a time, see ``DualEncoder.in_pieces``; 0: all of a batch.

    Raises:
        ValueError: a negative ``cached_batch``.
    """

    headline = ("val/mrr", "max")

    def __init__(
        self,
        mel,
        dual,
        objective: Contrastive,
        optimizer: Callable,
        schedule: Callable,
        evaluation: Mapping,
        seed: int = 0,
        config: Mapping | None = None,
        cached_batch: int = 0,
    ):
        super().__init__(seed, evaluation)
        if cached_batch < 0:
            raise ValueError(f"cached_batch is {cached_batch}, expected a number of clips, or 0")
        self.mel, self.dual, self.objective = mel, dual, objective
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.run_config, self.cached_batch = config, cached_batch
        self.rate: Callable[[int], float] | None = None
        for metrics in evaluation.values():
            metrics.criterion = self.criterion

    # -- training

    def on_train_start(self):
        self.rate = self.make_schedule(self.trainer.max_epochs, self.trainer.num_training_batches)

    def on_train_epoch_start(self):
        for encoder in self.dual.encoders:
            encoder.start_epoch(self.current_epoch)

    def on_train_batch_start(self, batch, batch_idx):
        rate = self.rate(self.current_epoch * self.trainer.num_training_batches + batch_idx)
        for group in self.optimizers().param_groups:
            group["lr"] = rate

    def embed(self, x, side, rng):
        """Embeddings of log mels, in pieces where ``cached_batch`` says so; draws come from ``rng``."""
        if self.cached_batch:
            seed = np.random.SeedSequence(int(rng.integers(2**63)))
            return self.dual.in_pieces(x, side, self.cached_batch, seed)
        return self.dual(x, side, rng)

    def pair_loss(self, batch, rng):
        """The loss of the batches of all processes together."""
        with torch.no_grad():
            views = {side: self.features(batch[side], rng) for side in ("imitation", "reference")}
        pairs = [self.embed(x, side, rng) for side, x in views.items()]
        names = [batch[f"{side}_filename"] for side in views]
        return global_loss(self.objective, *pairs, self.dual.tau, *names)

    def training_step(self, batch, batch_idx):
        loss = self.pair_loss(batch, self.generator(batch_idx))
        values = {"loss": loss.detach(), "tau": self.dual.tau.detach().abs(), "lr": self.rate_now()}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(batch["imitation"]))
        self.log("train/epoch", float(self.current_epoch), batch_size=1)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch["imitation"]))
        return loss

    def rate_now(self) -> float:
        """The learning rate of the current batch."""
        return self.optimizers().param_groups[0]["lr"]

    def configure_optimizers(self):
        return self.make_optimizer([weight for weight in self.dual.parameters() if weight.requires_grad])

    # -- evaluation

    def evaluate_batch(self, batch, part, side):
        """Hands the embeddings of single sounds to the metrics; ``side`` is "reference" or "imitation"."""
        metrics = self.evaluation[part]
        update = metrics.update_items if side == "reference" else metrics.update_queries
        update(batch["filename"], self.dual(self.features(batch["audio"]), side))

    def criterion(self, imitations, references, imitation_names, reference_names) -> float:
        """The loss of all pairs of an evaluation as one batch, from arrays."""
        with torch.no_grad():
            pairs = [torch.from_numpy(x) for x in (imitations, references)]
            ids = [name_ids(names) for names in (imitation_names, reference_names)]
            return float(self.objective(*pairs, self.dual.tau.detach().cpu(), *ids))

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.evaluate_batch(batch, "validation", LOADERS[dataloader_idx])

    def test_step(self, batch, batch_idx, dataloader_idx):
        self.evaluate_batch(batch, "test", LOADERS[dataloader_idx])

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint):
        """Adds the weights by themselves and the config."""
        checkpoint["retrieval"], checkpoint["config"] = self.dual.state_dict(), self.run_config
