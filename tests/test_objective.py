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
# The predictions of mixup_without_max_coef are not stored; test_views.py computes them.
VARIANTS = [(s, name) for s in (1, 2) for name in STORED[s]["variants"] if name != "mixup_without_max_coef"]
EXAMPLE_RULES = {1: {"ssl_no_class_mask": True}, 2: {}}  # of the example command whose results are stored
SCHEDULE = {1: (14000, 2.0), 2: (270, 1.0)}
MAESTRO_WEAK_CLASSES = torch.zeros(27, dtype=torch.bool)
MAESTRO_WEAK_CLASSES[[*range(10), 10, 12]] = True  # DESED, "cutlery and dishes" and "people talking"


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


def stored_mix(stored, prefix, subsets):
    """The draws of all mixup calls as one Mix of the whole batch."""
    partner, weight = torch.arange(12), torch.ones(12)
    for i, index in enumerate(subsets):
        beta, perm = stored[f"{prefix}.{i}.beta"], stored[f"{prefix}.{i}.perm"]
        partner[index] = index[perm]
        weight[index] = torch.maximum(beta, 1 - beta).float()
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
        m = stored_mix(self.stored, "mixup_joint" if self.joint else "mixup_separate", subsets)
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
        classes = MAESTRO_WEAK_CLASSES if self.rules.exclude_maestro_weak_ssl else None
        interpolate = {"joint": self.joint, "maestro_weak_classes": classes}
        return objective.training_terms(
            student,
            teacher[1] if self.rules.ssl_no_class_mask else teacher[0],
            views,
            self.losses,
            self.rules,
            with_pseudo=self.loss_weights[5] > 0,
            interpolate=interpolate if self.stage == 2 else None,
        )


@pytest.mark.parametrize(("stage", "name"), VARIANTS)
def test_terms_and_total_equal_stored(stage, name, arrays):
    case = Case(stage, name, arrays[stage])
    terms = case.terms()
    if stage == 1:
        weights = objective.stage1_weights(case.loss_weights, case.lambda_)
    else:
        weights = objective.stage2_weights(case.loss_weights, case.lambda_, "ict_weak" in terms)
    logged = objective.public_names(terms, weights, stage) | {"train/ssl_weight": case.lambda_}
    elsewhere = ("cnn_lr", "rnn_lr", "pt_lr", "epoch")
    expected = {key: value for key, value in case.variant["logged"].items() if not key.endswith(elsewhere)}
    assert set(logged) == set(expected)
    for key, value in expected.items():
        assert float(logged[key]) == pytest.approx(value, rel=1e-4, abs=1e-9), key
    assert float(objective.combine(terms, weights)) == pytest.approx(case.variant["total_loss"], rel=1e-4)


# -- a slow reference -------------------------------------------------------------------------------------------------


def element(kind, p, t):
    square = (p - t) ** 2
    entropy = -(t * max(math.log(p), -100) + (1 - t) * max(math.log(1 - p), -100))
    return {"MSELoss": square, "BCELoss": entropy, "both": (4 * square + entropy) / 2}[kind]


def mean_loss(kind, prediction, target, clips, classes=None):
    """Mean of a loss, element by element, over listed clips and classes."""
    found = []
    for clip in clips:
        for c in range(prediction.shape[1]) if classes is None else classes:
            for p, t in zip(np.atleast_1d(prediction[clip, c]), np.atleast_1d(target[clip, c])):
                found.append(element(kind, float(p), float(t)))
    return sum(found) / len(found) if found else 0.0


def reference_total(batch, stage, weights, lambda_, losses, rules, joint, classes):
    """Total of one stage as its equations read, with loops; arrays in, number out."""
    b = {key: np.asarray(value, float) for key, value in batch.items() if key not in ("source", "partner")}
    clips = {kind: [i for i, s in enumerate(batch["source"]) if s == kind] for kind in range(5)}
    w0, w1, w2, w3, _, w5 = weights
    desed = clips[1] + clips[2] + clips[3] + clips[4]
    strong = [mean_loss(losses.maestro_type, b["masked_strong"], b["labels"], clips[0])]
    strong += [mean_loss("BCELoss", b["masked_strong"], b["labels"], clips[kind]) for kind in (1, 2)]
    weak = mean_loss("BCELoss", b["masked_weak"], b["weak"], clips[3])
    held = "all_strong" if rules.pseudo_strong_no_class_mask else "masked_strong"
    pseudo = w5 * (
        (w1 + w2 + w3) * mean_loss(losses.pseudo_type, b[held], b["pseudo"], desed)
        + w0 * mean_loss(losses.pseudo_type, b[held], b["pseudo"], clips[0])
    )
    student = "all" if rules.ssl_no_class_mask else "masked"
    s_strong, s_weak = b[f"{student}_strong"], b[f"{student}_weak"]
    kind = losses.selfsup_type
    supervised = w0 * strong[0] + w1 * strong[1] + w2 * strong[2]
    if stage == 2 and rules.use_ict_loss and "partner" in batch:
        own, other = b["weight"], batch["partner"]
        t_strong, t_weak = (
            np.stack([own[i] * t[i] + (1 - own[i]) * t[other[i]] for i in range(len(t))])
            for t in (b["teacher_strong"], b["teacher_weak"])
        )

        def ict(kinds, weak_share=0.5, of=None):
            listed = [i for k in kinds for i in clips[k]]
            frames = mean_loss(kind, s_strong, t_strong, listed)
            return frames + weak_share * mean_loss(kind, s_weak, t_weak, listed, of)

        total = ict([3]) + ict([4])
        if joint:
            total += 2 * ict([0, 1, 2], of=classes)
        else:
            total += ict([1, 2]) + ict([0], weak_share=0 if classes else 0.5)
        consistency = total / 8 * lambda_ / 4
    else:
        everyone = desed + clips[0]
        frames = mean_loss(kind, s_strong, b["teacher_strong"], everyone if rules.include_maestro_ssl else desed)
        alone = not rules.include_maestro_ssl or rules.exclude_maestro_weak_ssl
        clipwise = mean_loss(kind, s_weak, b["teacher_weak"], desed if alone else everyone)
        consistency = (frames + clipwise * (1 if stage == 1 else 0.5)) * lambda_
    if stage == 1:
        return 5 * (supervised + w3 * weak + consistency + pseudo)
    return supervised / 3 + w3 * weak / 2 + consistency + pseudo


def random_batch(seed, mixed=False, joint=True):
    """A batch in random order, with a source missing now and then."""
    rng = np.random.default_rng(seed)
    source = rng.permutation(rng.choice(5, size=9))
    shapes = dict.fromkeys(("labels", "pseudo", "masked_strong", "all_strong", "teacher_strong"), (9, 6, 4))
    shapes |= dict.fromkeys(("weak", "masked_weak", "all_weak", "teacher_weak"), (9, 6))
    batch = {key: rng.uniform(0.02, 0.98, shape).astype(np.float32) for key, shape in shapes.items()}
    batch["source"] = source
    if mixed:
        m = draw_mix(mix_groups(source, True, True, True, joint, True), MIXUP_ALPHA, rng)
        batch |= {"partner": m.partner.numpy(), "weight": m.weight.numpy()}
    return batch


def terms_of(batch, stage, losses, rules, joint=True, classes=None):
    t = {key: torch.from_numpy(value) for key, value in batch.items()}
    m = Mix(t["partner"], t["weight"]) if "partner" in t else None
    views = SimpleNamespace(strong=t["labels"], weak=t["weak"], pseudo=t["pseudo"], source=t["source"], mix=m)
    student = [Predictions(t[f"{kind}_strong"], t[f"{kind}_weak"]) for kind in ("masked", "all")]
    mask = None
    if classes is not None:
        mask = torch.zeros(6, dtype=torch.bool)
        mask[classes] = True
    return objective.training_terms(
        student,
        Predictions(t["teacher_strong"], t["teacher_weak"]),
        views,
        losses,
        rules,
        with_pseudo=True,
        interpolate={"joint": joint, "maestro_weak_classes": mask} if stage == 2 else None,
    )


def total_of(terms, stage, weights, lambda_):
    table = (
        objective.stage1_weights(weights, lambda_)
        if stage == 1
        else objective.stage2_weights(weights, lambda_, "ict_weak" in terms)
    )
    return objective.combine(terms, table)


WEIGHTS = (0.7, 0.4, 1.3, 0.9, 11.0, 1.7)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_totals_equal_a_plain_loop(stage, seed):
    rng = np.random.default_rng(100 + seed)
    kinds = rng.choice(["BCELoss", "MSELoss", "both"], size=3)
    losses = Losses(maestro_type=kinds[0], selfsup_type=kinds[1], pseudo_type=kinds[2])
    rules = Rules(*(bool(flag) for flag in rng.integers(0, 2, size=5)))
    joint, mixed = bool(seed % 2), seed < 6
    classes = [0, 2, 3] if rules.exclude_maestro_weak_ssl else None
    batch = random_batch(seed, mixed, joint)
    lambda_ = objective.ssl_weight(30, 100, WEIGHTS[4], 2.0)
    expected = reference_total(batch, stage, WEIGHTS, lambda_, losses, rules, joint, classes)
    actual = total_of(terms_of(batch, stage, losses, rules, joint, classes), stage, WEIGHTS, lambda_)
    assert float(actual) == pytest.approx(expected, rel=2e-5)


# -- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_order_of_the_batch_is_of_no_account(stage):
    batch = random_batch(0, mixed=stage == 2)
    order = np.random.default_rng(1).permutation(9)
    shuffled = {key: value[order] for key, value in batch.items()}
    if "partner" in batch:
        shuffled["partner"] = np.argsort(order)[shuffled["partner"]]
    terms, again = (terms_of(b, stage, Losses(), Rules()) for b in (batch, shuffled))
    for name, value in terms.items():
        torch.testing.assert_close(again[name], value, msg=name)


def test_absent_sources_give_zero():
    batch = random_batch(0)
    batch["source"] = np.full(9, 3)
    terms = terms_of(batch, 1, Losses(), Rules())
    assert {name for name, value in terms.items() if value == 0} == {"maestro", "real", "synth", "pseudo_maestro"}
    assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("stage", [1, 2])
def test_gradient_is_finite_and_stays_out_of_the_teacher(stage):
    generator = torch.Generator().manual_seed(0)
    strong, weak = torch.rand(5, 3, 4, generator=generator), torch.rand(5, 3, generator=generator)
    strong[0, 0, 0], strong[1, 0, 0] = 0.0, 1.0  # masked classes reach the losses as exact zeros
    student = Predictions(strong.clone().requires_grad_(), weak.clone().requires_grad_())
    teacher = Predictions(strong.clone().requires_grad_(), weak.clone().requires_grad_())
    views = SimpleNamespace(
        strong=torch.zeros(5, 3, 4),
        weak=torch.zeros(5, 3),
        pseudo=torch.ones(5, 3, 4),
        source=torch.arange(5),
        mix=Mix(torch.tensor([1, 0, 2, 3, 4]), torch.full((5,), 0.8)),
    )
    interpolate = {"joint": True, "maestro_weak_classes": None} if stage == 2 else None
    terms = objective.training_terms(
        (student, student), teacher, views, Losses(), Rules(), with_pseudo=True, interpolate=interpolate
    )
    total_of(terms, stage, WEIGHTS, 1.0).backward()
    assert student.strong.grad.isfinite().all()
    assert student.weak.grad.isfinite().all()
    assert teacher.strong.grad is None
    assert teacher.weak.grad is None


def test_consistency_of_equals_is_zero():
    p = Predictions(torch.rand(3, 2, 4), torch.rand(3, 2))
    everyone = torch.ones(3, dtype=torch.bool)
    terms = objective.consistency(p, p, everyone, everyone, Losses().selfsup)
    assert [float(value) for value in terms.values()] == [0, 0]


def test_ssl_weight():
    assert [objective.ssl_weight(step, 100, 6.0, 2.0) for step in (0, 50, 100, 200, 999)] == [0, 3, 6, 12, 12]
    assert objective.ssl_weight(0, 0, 6.0, 2.0) == 12


def test_weight_tables():
    first = objective.stage1_weights((1, 2, 3, 4, 9, 0.5), 0.2)
    assert first == {
        "maestro": 5, "real": 10, "synth": 15, "weak": 20, "ssl_strong": 1, "ssl_weak": 1,
        "pseudo_desed": 22.5, "pseudo_maestro": 2.5,
    }  # fmt: skip
    supervised = {"maestro": 1, "real": 2, "synth": 3, "weak": 2, "pseudo_desed": 12, "pseudo_maestro": 1.5}
    plain = objective.stage2_weights((3, 6, 9, 4, 9, 0.5), 64, mixed=False)
    assert plain == supervised | {"ssl_strong": 64, "ssl_weak": 32, "pseudo_desed": 9.5}
    mixed = objective.stage2_weights((3, 6, 9, 4, 9, 0.5), 64, mixed=True)
    assert mixed == supervised | dict.fromkeys(objective.INTERPOLATION, 2) | {"pseudo_desed": 9.5}
    with pytest.raises(ValueError, match=r"loss_weights: six numbers .* found 5"):
        objective.stage1_weights((1, 2, 3, 4, 5), 0.2)


def test_combine_names_what_does_not_fit():
    assert objective.combine({"a": 2.0}, {"a": 3.0, "b": 0.0}) == 6
    with pytest.raises(ValueError, match=r"without a weight: \['b'\], weights without their term: \['c'\]"):
        objective.combine({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})


def test_unknown_loss_type_names_the_entry():
    with pytest.raises(ValueError, match=r"loss.selfsup_type: unknown loss 'KL'"):
        Losses(selfsup_type="KL")
