"""Training and evaluation of audio taggers: the Lightning module, and the mixing of spectrograms.

The published recipes are those of Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge
Distillation" (ICASSP 2023) and "Dynamic Convolutional Neural Networks as Efficient Pre-Trained Audio Models" (2024).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from helpers.augment import draw_mix, gate, mix, mix_style
from helpers.seeded import SeededModule
from helpers.tagging_losses import Objective

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Augmentation:
    """Section ``augment``: mixing of the log mels of a batch.

    Attributes:
        mixup_alpha: both parameters of the Beta distribution of shares [Zhang et al., 2018], the larger share going
            to the clip itself; 0: no mixup.
        mixstyle_p: probability for a batch to mix statistics of its frequency bands [Zhou et al., 2021; Schmid et al.,
            DCASE 2022]. Above 0 there is no mixup, as published.
        mixstyle_alpha: of the shares of mixstyle.

    Raises:
        ValueError: a negative parameter, or no probability.
    """

    mixup_alpha: float = 0.3
    mixstyle_p: float = 0.0
    mixstyle_alpha: float = 0.4

    def __post_init__(self):
        if self.mixup_alpha < 0 or self.mixstyle_alpha <= 0:
            raise ValueError(
                f"augment.mixup_alpha is {self.mixup_alpha}, augment.mixstyle_alpha {self.mixstyle_alpha}: "
                "expected numbers above 0, or no mixup by 0"
            )
        if not 0 <= self.mixstyle_p <= 1:
            raise ValueError(f"augment.mixstyle_p is {self.mixstyle_p}, expected a probability")

    def __call__(self, x, rng):
        """Mixed log mels of [B, 1, bands, frames], and the ``Mix`` that their labels need (None: none)."""
        together = np.zeros(len(x), dtype=np.int64)  # every clip may meet every other one
        if self.mixstyle_p > 0:
            if not gate(self.mixstyle_p, rng):
                return x, None
            return mix_style(x, draw_mix(together, self.mixstyle_alpha, rng, max_coef=False).to(x.device)), None
        if self.mixup_alpha == 0:
            return x, None
        m = draw_mix(together, self.mixup_alpha, rng).to(x.device)
        return mix(x, m), m


class TaggingModule(SeededModule):
    """A tagger, how it is trained, and its metrics.

    Checkpoints have the tagger's state dict also by itself, as ``tagger``, with the names of its ``classes``, so that
    they are weights files for other runs.

    Args:
        mel: front end, [B, samples] -> [B, 1, bands, frames].
        tagger: network with ``tag`` and ``start_epoch`` (``models.tagging.Tagger``).
        augment: callable (log mels, numpy generator) -> log mels, mix or None.
        objective: the losses.
        optimizer: callable (parameters) -> optimizer.
        schedule: callable (optimizer) -> learning-rate schedule per epoch.
        evaluation: "validation" and "test" -> :class:`helpers.tagging_metrics.TaggingMetrics`.
        classes: names of the classes.
        seed: of all draws.
        config: the run's config, stored in its checkpoints.
    """

    def __init__(
        self,
        mel,
        tagger,
        augment: Callable,
        objective: Objective,
        optimizer: Callable,
        schedule: Callable,
        evaluation: Mapping,
        classes: Sequence[str] = (),
        seed: int = 0,
        config: Mapping | None = None,
    ):
        super().__init__(seed, evaluation)
        self.mel, self.tagger = mel, tagger
        self.augment, self.objective = augment, objective
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.classes, self.run_config = list(classes), config

    @property
    def headline(self) -> tuple[str, str]:
        """Name of the metric by which checkpoints of a run are compared, and "max"."""
        return ("val/mAP" if self.objective.multi_label else "val/accuracy"), "max"

    # -- training

    def on_train_epoch_start(self):
        self.tagger.start_epoch(self.current_epoch)

    def training_step(self, batch, batch_idx):
        rng = self.generator(batch_idx)
        with torch.no_grad():
            x, m = self.augment(self.features(batch["audio"], rng), rng)
        logits, _ = self.tagger.tag(x, rng)
        terms = self.objective.terms(logits, batch, m)
        total = sum(terms.values())
        values = {"loss": total.detach(), **terms, "lr": self.optimizers().param_groups[0]["lr"]}
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.log("train/epoch", float(self.current_epoch))
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        return total

    def configure_optimizers(self):
        optimizer = self.make_optimizer([weight for weight in self.tagger.parameters() if weight.requires_grad])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make_schedule(optimizer)}}

    # -- evaluation

    def logits(self, batch):
        """[B, classes] of a batch."""
        return self.tagger.tag(self.features(batch["audio"]))[0]

    def validation_step(self, batch, batch_idx):
        self.evaluation["validation"].update(self.logits(batch), batch)

    def test_step(self, batch, batch_idx):
        self.evaluation["test"].update(self.logits(batch), batch)

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint):
        """Adds the weights by themselves, the classes and the config."""
        checkpoint["tagger"] = self.tagger.state_dict()
        checkpoint["classes"], checkpoint["multi_label"] = self.classes, self.objective.multi_label
        checkpoint["config"] = self.run_config


class TaggingEnsemble(SeededModule):
    """Taggers that are tested as one: the mean of their logits, as published.

    Args:
        members: for the same classes; the metrics are those of the first.
    """

    def __init__(self, members: Sequence[TaggingModule]):
        super().__init__(members[0].seed, members[0].evaluation)
        self.members = torch.nn.ModuleList(members)
        self.headline = members[0].headline

    def test_step(self, batch, batch_idx):
        logits = torch.stack([member.logits(batch) for member in self.members])
        self.evaluation["test"].update(logits.mean(0), batch)


def best_is_tested(config) -> bool:
    """Whether the best checkpoint of a run is tested instead of the last.

    Raises:
        ValueError: ``test_checkpoint`` is neither.
    """
    choice = config["test_checkpoint"]
    if choice not in ("last", "best"):
        raise ValueError(f"test_checkpoint is '{choice}', expected 'last' or 'best'")
    if choice == "best" and config["validate_on"] == config["data"]["split"]:
        log.warning("test_checkpoint=best is chosen on the very clips that it is tested on: expect less on others")
    return choice == "best"
