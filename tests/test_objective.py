"""The training objective: every stored term of both stages, a plain-loop reference, and properties of the terms."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data_util.samples import TRAINING_SOURCES
from helpers import objective, sources
from helpers.augment import MIXUP_ALPHA, Mix, draw_mix, harden, mix, mix_groups, mix_labels, mix_valid
from helpers.objective import Losses, Rules
from tests.reference import golden

STORED = {stage: golden(f"sed/training_stage{stage}.json") for stage in (1, 2)}
VARIANTS = [(stage, name) for stage in (1, 2) for name in STORED[stage]["variants"]]
EXAMPLE_RULES = {1: {"ssl_no_class_mask": True}, 2: {}}  # of the example command whose results are stored
SCHEDULE = {1: (14000, 2.0), 2: (270, 1.0)}
MAESTRO_WEAK_CLASSES = torch.zeros(27, dtype=torch.bool)
MAESTRO_WEAK_CLASSES[:10] = True  # DESED


class Predictions(NamedTuple):
    strong: torch.Tensor
    weak: torch.Tensor


def test_sources_are_those_of_the_samples():
    ours = (sources.MAESTRO, sources.REAL, sources.SYNTH, sources.WEAK, sources.UNLABELED)
    assert ours == TRAINING_SOURCES
    assert sources.members(np.array([0, 3, 1]), (0, 1)).tolist() == [True, False, True]
    assert sources.members(torch.tensor([0, 3, 1]), (3,)).tolist() == [False, True, False]


# -- stored terms -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    result = {}
    for stage in (1, 2):
        archive = golden(f"sed/training_stage{stage}.npz")
        result[stage] = {name: torch.from_numpy(archive[name]) for name in archive.files}
    return result


def stored_mix(stored, prefix, subsets, max_coef):
    """The draws of all mixup calls as one Mix of the whole batch."""
    partner, weight = torch.arange(12), torch.ones(12)
    for i, index in enumerate(subsets):
        beta, perm = stored[f"{prefix}.{i}.beta"], stored[f"{prefix}.{i}.perm"]
        partner[index] = index[perm]
        weight[index] = (torch.maximum(beta, 1 - beta) if max_coef else beta).float()
    return Mix(partner, weight)


def masked(strong, weak, mask):
    return Predictions(strong.masked_fill(~mask[:, :, None], 0), weak)


class Case:
    """One stored variant: predictions and labels as they entered the objective."""

    def __init__(self, stage, name, stored):
        self.stage, self.variant = stage, STORED[stage]["variants"][name]
        self.options = self.variant["overrides"]
        self.source = torch.repeat_interleave(torch.arange(5), stored["batch_sizes"])
        self.joint = self.options.get("mix_augment.mixup_desed_maestro", True)
        self.mixed = "mix_augment.apply_mixup" in self.options
        self.prefix = "plain" if not self.mixed else "mixup" if self.joint else "mixup_separate"
        self.stored = stored
        self.losses = Losses(**{key[5:]: value for key, value in self.options.items() if key.startswith("loss.")})
        own = {key: value for key, value in self.options.items() if key in Rules.__dataclass_fields__}
        self.rules = Rules(**(EXAMPLE_RULES[stage] | own))
        self.loss_weights = self.options.get("loss_weights", STORED[stage]["loss_weights_of_the_example_command"])
        self.lambda_ = objective.ssl_weight(
            self.variant["global_step"], SCHEDULE[stage][0], self.loss_weights[4], SCHEDULE[stage][1]
        )

    def labels(self):
        """Labels after hardening and mixing, and the Mix."""
        strong, pseudo = self.stored["labels"].clone(), self.stored["pseudo_strong"].transpose(1, 2)
        valid, weak = self.stored["valid_class_mask"].bool(), (strong.sum(-1) > 0).float()
        if self.losses.harden_labels_maestro_p:
            strong[self.source == 0] = harden(strong[self.source == 0])
        if self.losses.harden_pseudo_labels_p:
            pseudo = harden(pseudo)
        if not self.mixed:
            return strong, weak, pseudo, valid, None
        kinds = [(3,), (0, 1, 2), (4,)] if self.joint else [(3,), (1, 2), (0,), (4,)]
        subsets = [sources.members(self.source, group).nonzero()[:, 0] for group in kinds]
        max_coef = self.options.get("mix_augment.mixup_max_coef", True)
        m = stored_mix(self.stored, "mixup_joint" if self.joint else "mixup_separate", subsets, max_coef)
        if self.joint:
            valid = mix_valid(valid, strong, m, self.source <= 2)
        return mix_labels(strong, m), mix_labels(weak, m), mix(pseudo, m), valid, m

    def predictions(self, who, prefix, mask):
        strong, weak = (self.stored[f"{prefix}.{who}_{kind}_no_mask"] for kind in ("strong", "weak"))
        inside = self.stored[f"{self.prefix}.{who}_weak_masked"]
        return masked(strong, inside, mask), Predictions(strong, weak)

    def terms(self):
        strong, weak, pseudo, valid, m = self.labels()
        assert torch.equal(valid, self.stored[f"{self.prefix}.class_mask"])
        student = self.predictions("student", self.prefix, valid)
        teacher = self.predictions("teacher", "plain" if self.stage == 2 else self.prefix, valid)
        # The published stage 2 lacks the option, and so leaves pseudo-labels unmasked.
        if self.stage == 1 and not self.rules.pseudo_strong_no_class_mask:
            pseudo = pseudo.masked_fill(~valid[:, :, None], 0)
        views = SimpleNamespace(
            strong=strong.masked_fill(~valid[:, :, None], 0),
            weak=weak.masked_fill(~valid, 0),
            pseudo=pseudo,
            source=self.source,
            mix=m,
        )
        classes = MAESTRO_WEAK_CLASSES.clone()
        labels = golden_labels()
        classes[[labels.index(name) for name in ("cutlery and dishes", "people talking")]] = True
        interpolate = {"joint": self.joint, "maestro_weak_classes": None}
        if self.rules.exclude_maestro_weak_ssl:
            interpolate["maestro_weak_classes"] = classes
        return objective.training_terms(
            student,
            teacher[1] if self.rules.ssl_no_class_mask else teacher[0],
            views,
            self.losses,
            self.rules,
            with_pseudo=self.loss_weights[5] > 0,
            interpolate=interpolate if self.stage == 2 else None,
        )


def golden_labels():
    """The 17 classes of MAESTRO follow the 10 of DESED; only two of them matter here."""
    from data_util import classes

    return list(classes.LABELS)


@pytest.mark.parametrize(("stage", "name"), VARIANTS)
def test_terms_and_total_equal_stored(stage, name, arrays):
    case = Case(stage, name, arrays[stage])
    terms = case.terms()
    if stage == 1:
        weights = objective.stage1_weights(case.loss_weights, case.lambda_)
    else:
        weights = objective.stage2_weights(case.loss_weights, case.lambda_, "ict_weak" in terms)
    logged = objective.public_names(terms, weights, stage) | {"train/ssl_weight": case.lambda_}
    expected = {
        key: value for key, value in case.variant["logged"].items() if not key.endswith(("cnn_lr", "rnn_lr", "pt_lr", "epoch"))
    }
    assert set(logged) == set(expected)
    for key, value in expected.items():
        assert float(logged[key]) == pytest.approx(value, rel=1e-4, abs=1e-9), key
    assert float(objective.combine(terms, weights)) == pytest.approx(case.variant["total_loss"], rel=1e-4)
