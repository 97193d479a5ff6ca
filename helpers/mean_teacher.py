"""Training of a sound event detector with a mean teacher: the Lightning module of both stages.

Stage 1 and stage 2 [Schmid et al., DCASE 2024] are this module with different settings: what student and teacher see
(``views``), and what each term of the objective weighs (``weights``).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from helpers.augment import apply_gain, draw_gain
from helpers.ema import ema_update
from helpers.objective import (
    Losses,
    Rules,
    combine,
    public_names,
    ssl_weight,
    stage1_weights,
    stage2_weights,
    training_terms,
)
from helpers.seeded import SeededModule
from helpers.views import Recipe, stage1_views, stage2_views

log = logging.getLogger(__name__)

ROLES = ("student", "teacher")


@dataclass(frozen=True)
class Stage:
    """What makes a stage.

    Attributes:
        number: 1, transformer frozen, or 2, transformer fine-tuned.
        recipe: the augmentations.
        losses: types of the losses.
        rules: which clips and classes enter which term.
        loss_weights: maestro, real, synthetic, weak, self-supervision, pseudo-labels.
        ssl_loss_warmup_steps, ssl_scale_max: see :func:`helpers.objective.ssl_weight`.
        ema_factor: upper bound of the teacher's memory.
        gain_augment: the waveforms' level is drawn from whole dB between plus and minus this; 0 leaves it.
        maestro_weak_classes: [C] bool of the interpolation term, see :func:`helpers.objective.interpolation`.
    """

    number: int
    recipe: Recipe
    losses: Losses
    rules: Rules
    loss_weights: tuple[float, ...]
    ssl_loss_warmup_steps: int
    ssl_scale_max: float
    ema_factor: float = 0.999
    gain_augment: int = 0
    maestro_weak_classes: torch.Tensor | None = None

    def __post_init__(self):
        self.weights(0, mixed=False)  # raises where loss_weights are not six numbers

    def views(self, x, mel, batch, rng):
        """Views of student and teacher."""
        return (stage1_views if self.number == 1 else stage2_views)(x, mel, batch, self.recipe, rng)

    def terms(self, student, teacher, views):
        """All terms of the objective by name."""
        interpolate = None
        if self.number == 2:
            excluded = self.rules.exclude_maestro_weak_ssl
            classes = self.maestro_weak_classes.to(views.valid.device) if excluded else None
            interpolate = {"joint": self.recipe.mix.joint, "maestro_weak_classes": classes}
        return training_terms(
            student, teacher, views, self.losses, self.rules,
            with_pseudo=self.loss_weights[5] > 0, interpolate=interpolate,
        )  # fmt: skip

    def weights(self, step, mixed):
        """(weight of every term by name, weight of self-supervision)."""
        grown = ssl_weight(step, self.ssl_loss_warmup_steps, self.loss_weights[4], self.ssl_scale_max)
        if self.number == 1:
            return stage1_weights(self.loss_weights, grown), grown
        return stage2_weights(self.loss_weights, grown, mixed and self.rules.use_ict_loss), grown


class MeanTeacher(SeededModule):
    """Student, its moving average, and the features both work on.

    State names are those of the published stage checkpoints: ``student.*``, ``teacher.*``, ``crnn_mel.*``, ``mel.*``.

    Args:
        student, teacher: task-4 models; a frozen backbone that both hold is one object and runs once per input.
        crnn_mel: linear mel of the CNN branch.
        mel: front end of the backbone.
        to_cnn: linear mel -> scaled log mel, what the CNN branch sees.
        stage: the :class:`Stage`.
        optimizer: callable (named parameters, layer groups) -> optimizer.
        schedule: callable (optimizer, number of steps) -> learning-rate schedule per step.
        evaluation: "validation" or "test" -> the metrics of that data set (``helpers.evaluation``).
        seed: of all draws.
        config: the run's config, stored in its checkpoints.
        debug_shapes: number of first steps whose shapes are logged.
    """

    def __init__(
        self,
        student,
        teacher,
        crnn_mel,
        mel,
        to_cnn: Callable,
        stage: Stage,
        optimizer: Callable,
        schedule: Callable,
        evaluation: Mapping,
        seed: int = 0,
        config: Mapping | None = None,
        debug_shapes: int = 0,
    ):
        super().__init__(seed, evaluation)
        self.student, self.teacher = student, teacher
        self.crnn_mel, self.mel, self.to_cnn = crnn_mel, mel, to_cnn
        self.stage = stage
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.run_config, self.debug_shapes = config, debug_shapes
        self.teacher.requires_grad_(False)

    # -- features and predictions ---------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether student and teacher hold the very same backbone."""
        return self.student.as_model is self.teacher.as_model

    def train(self, mode: bool = True):
        """As usual, but a frozen backbone and its front end stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.student.as_model.eval()
            self.mel.eval()
        return self

    def features(self, audio, rng=None):
        """[B, samples] -> linear mel [B, 1, mels, frames], features of the backbone [B, 1, bands, frames']."""
        with torch.no_grad():
            return self.crnn_mel(audio), self.mel(audio, rng=rng)

    def hidden(self, role, view, tokens):
        """What the output layers of a role see."""
        return getattr(self, role).hidden(self.to_cnn(view.x), tokens)

    def predict(self, views, rng=None):
        """Predictions of a training step; ``rng`` is for what the backbone draws.

        Returns:
            the student's inside the class mask and without any, and the teacher's for the consistency terms.
        """
        tokens = self.student.embed(views.student.mel, rng)
        hidden = self.hidden("student", views.student, tokens)
        student = self.student.head(hidden, views.valid), self.student.head(hidden)
        with torch.no_grad():
            if not (self.frozen and views.teacher.mel is views.student.mel):
                tokens = self.teacher.embed(views.teacher.mel, rng)
            hidden = self.hidden("teacher", views.teacher, tokens)
            teacher = self.teacher.head(hidden, None if self.stage.rules.ssl_no_class_mask else views.valid)
        return student, teacher

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch, batch_idx):
        rng = self.generator(batch_idx)
        audio = batch["audio"]
        if self.stage.gain_augment:
            audio = apply_gain(audio, draw_gain(len(audio), self.stage.gain_augment, rng))
        views = self.stage.views(*self.features(audio, rng), batch, rng)
        student, teacher = self.predict(views, rng)
        terms = self.stage.terms(student, teacher, views)
        weights, grown = self.stage.weights(self.global_step, mixed=views.mix is not None)
        total = combine(terms, weights)
        self.log_step({**public_names(terms, weights, self.stage.number), "train/ssl_weight": grown}, total)
        if self.global_step < self.debug_shapes and batch_idx < self.debug_shapes:
            self.log_shapes(views, student[0])
        return total

    def log_step(self, values, total):
        """Logs the terms of a step under their public names."""
        rates = {f"train/{group.get('name', i)}_lr": group["lr"] for i, group in enumerate(self.groups)}
        values |= rates | {"train/epoch": float(self.current_epoch), "train/student/total_loss": total}
        for name, public in (("crnn", "cnn"), ("pt0", "pt")):  # the public names: one rate for all, the highest one
            if f"train/{name}_lr" in values:
                values[f"train/{public}_lr"] = values[f"train/{name}_lr"]
        self.log_dict(values)
        self.log("loss", total.detach(), prog_bar=True, logger=False)

    @property
    def groups(self):
        """Parameter groups of the optimizer."""
        return self.trainer.optimizers[0].param_groups

    def log_shapes(self, views, student):
        """Logs the shapes of a step."""
        shapes = {"CNN": views.student.x, "backbone": views.student.mel, "strong": student.strong, "weak": student.weak}
        log.info("shapes: %s", ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in shapes.items()))

    def on_before_zero_grad(self, optimizer):
        ema_update(self.teacher.parameters(), self.student.parameters(), self.global_step, self.stage.ema_factor)

    def setup(self, stage):
        if stage == "fit":  # what is not trained must be frozen before a distributed strategy looks at the parameters
            self.make_optimizer(self.student.named_parameters(), self.student.layer_groups())

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.student.named_parameters(), self.student.layer_groups())
        schedule = self.make_schedule(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- evaluation -----------------------------------------------------------------------------------------------

    def evaluate_batch(self, batch, evaluation):
        """Predictions of both roles, routed to the metrics of the clips' data sets."""
        x, mel = self.features(batch["audio"])
        tokens = None
        for role in ROLES:
            model = getattr(self, role)
            if tokens is None or not self.frozen:
                tokens = model.embed(mel)
            hidden = model.hidden(self.to_cnn(x), tokens)
            predictions = model.head(hidden, batch["valid"].bool())
            evaluation.update(role, predictions.strong, predictions.weak, batch)

    def validation_step(self, batch, batch_idx):
        self.evaluate_batch(batch, self.evaluation["validation"])

    def test_step(self, batch, batch_idx):
        self.evaluate_batch(batch, self.evaluation["test"])

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint):
        """Adds the entries by which stages start from another run, as in the published files, and the config."""
        checkpoint["student"] = self.student.state_dict()
        checkpoint["teacher"] = self.teacher.state_dict()
        checkpoint["config"] = self.run_config

    def compile_parts(self, **options):
        """``torch.compile`` of the parts in which the time goes; state names stay."""
        for model in (self.student, self.teacher):
            model.hidden = torch.compile(model.hidden, **options)
        if not self.frozen:
            self.teacher.embed = torch.compile(self.teacher.embed, **options)
        self.student.embed = torch.compile(self.student.embed, **options)
        if self.frozen:
            self.teacher.embed = self.student.embed
