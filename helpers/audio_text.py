"""Training and evaluation of language-based audio retrieval: optimizer, schedule, the Lightning module.

The published recipe is that of the baseline of DCASE 2023, task 6b, and of the later work that trains it on generated
audio: both use the defaults of :class:`helpers.audio_text_losses.AudioTextLoss`, of
:func:`make_optimizer` and of :func:`make_schedule`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from helpers import optim
from helpers.audio_text_losses import AudioTextLoss, SoftTargets
from helpers.contrastive import gather_with_gradient
from helpers.seeded import SeededModule

SCHEDULES = ("plateau", "cosine", "constant")
LOSS_PAIRS = 32  # pairs of a batch of the validation loss, the published batch size


# -- optimizer --------------------------------------------------------------------------------------------------------
def make_optimizer(
    parameters: Mapping[str, Sequence], lr=1e-3, audio_lr=None, text_lr=2e-5, weight_decay=0.0, adamw=False
):
    """Adam or AdamW; section ``optimizer``.

    Args:
        parameters: ``audio``, ``text`` and ``projection`` -> what is trained
            (``models.audio_text.AudioTextEncoder.trained_parameters``).
        lr: learning rate of the projections, and of the audio encoder.
        audio_lr: of the audio encoder instead.
        text_lr: of the text encoder.
        weight_decay: of either optimizer.
        adamw: decoupled weight decay in place of Adam's L2 penalty.

    Raises:
        ValueError: nothing is trained.
    """
    rates = {"audio": lr if audio_lr is None else audio_lr, "text": text_lr, "projection": lr}
    groups = [{"params": list(parameters[name]), "lr": rate, "name": name} for name, rate in rates.items()]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("no parameter is trained")
    return (torch.optim.AdamW if adamw else torch.optim.Adam)(groups, lr=lr, weight_decay=weight_decay)


def make_schedule(
    optimizer, steps, schedule="plateau", factor=0.1, patience=5, threshold=0.005, min_lr=1e-6, warmup_steps=0
):
    """Learning rates; section ``optimizer``.

    Args:
        optimizer: with the highest rates.
        steps: of the optimizer in the whole run.
        schedule: "plateau": rates are multiplied by ``factor`` once the validation loss has not fallen by
            ``threshold`` for more than ``patience`` epochs, down to ``min_lr``, as published; "cosine": half a cosine
            down to 0, step by step; "constant".
        factor, patience, threshold, min_lr: of "plateau".
        warmup_steps: of "cosine", a linear rise.

    Returns:
        the scheduler; None for "constant".

    Raises:
        ValueError: another schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"optimizer.schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    if schedule == "constant":
        return None
    if schedule == "cosine":
        return optim.make_schedule(optimizer, steps, "cos", num_warmup_steps=warmup_steps)
    return ReduceLROnPlateau(optimizer, "min", factor, patience, threshold, "abs", min_lr=min_lr)


# -- module -----------------------------------------------------------------------------------------------------------
class AudioTextModule(SeededModule):
    """Audio and text encoder, how they are trained on pairs, and the metrics of retrieval.

    Batches are those of :mod:`data_util.captioned_clips`: ``audio`` [B, samples] or ``features`` [B, frames, bands],
    ``clip`` and ``length`` [B]; in training also ``caption`` [B], and ``text`` or ``text_embedding``. With a text
    encoder in the model the texts are read, else the embeddings.

    With several processes the loss is that of the batches of all of them together.

    Clips are evaluated one by one where their lengths differ, without padding, so that values do not depend on the
    batches. The validation loss is the mean over batches of 32 pairs whose composition is always the same.

    Checkpoints have the model's state dict also by itself, as ``audio_text``, so that they are weights files.

    Args:
        mel: front end, [B, samples] -> [B, 1, bands, frames].
        model: the encoders (``models.audio_text.AudioTextEncoder``).
        objective: the loss.
        optimizer: callable (trained parameters by kind) -> optimizer.
        schedule: callable (optimizer, steps) -> scheduler or None.
        evaluation: "validation" and "test" -> :class:`helpers.caption_metrics.CaptionMetrics`, whose captions are texts
            if the model has a text encoder, else sentence embeddings.
        teacher: stored similarities to learn from, or None.
        seed: of all draws.
        config: the run's config, stored in its checkpoints.

    Raises:
        ValueError: a temperature is to be trained that the loss does not have.
    """

    headline = ("val/mAP@10", "max")

    def __init__(
        self,
        mel,
        model,
        objective: AudioTextLoss,
        optimizer: Callable,
        schedule: Callable,
        evaluation: Mapping,
        teacher: SoftTargets | None = None,
        seed: int = 0,
        config: Mapping | None = None,
    ):
        super().__init__(seed, evaluation)
        if model.tau.requires_grad and objective.kind == "triplet" and (teacher is None or not objective.distillation):
            raise ValueError("trainable_temperature=True, but loss.kind=triplet has no temperature")
        self.mel, self.model, self.objective, self.teacher = mel, model, objective, teacher
        self.make_optimizer, self.make_schedule, self.run_config = optimizer, schedule, config
        for metrics in evaluation.values():
            metrics.encode, metrics.criterion = self.embed_captions, self.criterion

    def inputs(self, batch, rng=None):
        """What the audio encoder reads, [B, 1, bands, frames]; features from a cache are not augmented."""
        if "features" in batch:
            return batch["features"].transpose(1, 2)[:, None]
        return self.features(batch["audio"], rng)

    # -- training

    def pair_loss(self, batch, rng):
        """The loss of the batches of all processes together."""
        with torch.no_grad():
            x = self.inputs(batch, rng)
        captions = batch["text_embedding"] if self.model.text_encoder is None else batch["text"]
        pairs = torch.cat([self.model.encode_text(captions), self.model.encode_audio(x, rng)], dim=1)
        text, audio = gather_with_gradient(pairs).chunk(2, dim=1)
        numbers, clips = gather_with_gradient(torch.stack([batch["caption"], batch["clip"]], dim=1)).unbind(1)
        teacher = None if self.teacher is None else self.teacher(numbers, clips)
        return self.objective(text, audio, self.model.tau, clips, teacher)

    def training_step(self, batch, batch_idx):
        loss = self.pair_loss(batch, self.generator(batch_idx))
        rate = self.optimizers().param_groups[-1]["lr"]
        values = {"loss": loss.detach(), "tau": self.model.tau.detach().abs(), "lr": rate}
        size = len(batch["clip"])
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=size)
        self.log("train/epoch", float(self.current_epoch), batch_size=1)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=size)
        return loss

    def on_train_epoch_start(self):
        self.model.audio_encoder.start_epoch(self.current_epoch)

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.model.trained_parameters())
        scheduler = self.make_schedule(optimizer, self.trainer.estimated_stepping_batches)
        if scheduler is None:
            return optimizer
        config = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            config |= {"interval": "epoch", "monitor": "val/loss", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": config}

    # -- evaluation

    def embed_clips(self, batch):
        """Embeddings [B, dim] of clips without their padding."""
        name = "features" if "features" in batch else "audio"
        result = torch.zeros(len(batch[name]), self.model.dim, device=batch[name].device)
        for length in batch["length"].unique():
            rows = batch["length"] == length
            result[rows] = self.model.encode_audio(self.inputs({name: batch[name][rows, :length]}))
        return result

    @torch.no_grad()
    def embed_captions(self, captions, batch_size=256):
        """Embeddings [captions, dim] of texts, or of an array of sentence embeddings."""
        parts = [captions[start : start + batch_size] for start in range(0, len(captions), batch_size)]
        if self.model.text_encoder is None:
            parts = [torch.as_tensor(part, device=self.device) for part in parts]
        return torch.cat([self.model.encode_text(part) for part in parts])

    def criterion(self, text, audio, clips) -> float:
        """The loss of an evaluation, from arrays: mean over batches whose composition is always the same."""
        order = np.random.default_rng(0).permutation(len(text))
        total = 0.0
        for start in range(0, len(order), LOSS_PAIRS):
            rows = order[start : start + LOSS_PAIRS]
            values = (torch.from_numpy(np.ascontiguousarray(array[rows])) for array in (text, audio, clips))
            text_part, audio_part, clip_part = values
            loss = self.objective(text_part, audio_part, self.model.tau.detach().cpu(), clip_part)
            total += float(loss) * len(rows)
        return total / len(order)

    def validation_step(self, batch, batch_idx):
        self.evaluation["validation"].update(batch["clip"], self.embed_clips(batch))

    def test_step(self, batch, batch_idx):
        self.evaluation["test"].update(batch["clip"], self.embed_clips(batch))

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint):
        """Adds the weights by themselves and the config."""
        checkpoint["audio_text"], checkpoint["config"] = self.model.state_dict(), self.run_config
