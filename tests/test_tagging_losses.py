"""Losses, mixing and learning rates of audio tagging, against stored numbers of the published training."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.augment import Mix, mix
from helpers.tagging import Augmentation
from helpers.tagging_losses import (
    Distillation,
    Objective,
    binary_loss,
    class_loss,
    published_masked_loss,
)
from helpers.tagging_schedules import make_optimizer, make_schedule
from tests.reference import golden

BATCHES = range(2)


@pytest.fixture(scope="module")
def published():
    return golden("tagging/training.npz")


def tensors(published, name, batch):
    return torch.from_numpy(published[name][batch])


def mixing(published, batch, mixup=True):
    """How a batch of the stored loop is mixed, None without mixup."""
    return Mix(*(tensors(published, f"loop.{name}", batch) for name in ("perm", "lambda"))) if mixup else None


def both(loss):
    """Mean of a loss over the two stored batches."""
    return float(sum(loss(batch) for batch in BATCHES)) / 2


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixup", [True, False])
def test_several_labels(published, mixup):
    def loss(batch):
        logits, target = tensors(published, "loop.logits", batch), tensors(published, "loop.targets", batch)
        return Objective().label_loss(logits, {"target": target}, mixing(published, batch, mixup))

    expected = float(published[f"fsd50k.{'mixup' if mixup else 'nomixup'}.train_loss"])
    assert both(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mixup", [True, False])
@pytest.mark.parametrize("labels", ["soft", "index"])
def test_one_label(published, mixup, labels):
    def loss(batch):
        target = tensors(published, "esc50.targets", batch)
        if labels == "index":
            target = functional.one_hot(tensors(published, "dcase20.class", batch), 9)
        logits = tensors(published, "loop.logits", batch)
        return Objective(multi_label=False).label_loss(logits, {"target": target}, mixing(published, batch, mixup))

    name = "mixup" if mixup else "nomixup"
    expected = published[f"esc50.{name}.train_loss" if labels == "soft" else f"dcase20.{name}_index.train_loss"]
    assert both(loss) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("mixup", [True, False])
def test_published_mean_of_masked_labels(published, mixup):
    def loss(batch):
        target, mask = tensors(published, "openmic.targets", batch).split(20, dim=1)
        batch_of = {"target": (target > 0.5).float(), "mask": mask}
        logits = tensors(published, "openmic.logits", batch)
        return Objective(masked_mean="published").label_loss(logits, batch_of, mixing(published, batch, mixup))

    expected = float(published[f"openmic.{'mixup' if mixup else 'nomixup'}.train_loss"])
    assert both(loss) == pytest.approx(expected, abs=1e-6)


def masked_batch(seed=0, clips=5, classes=4):
    rng = torch.Generator().manual_seed(seed)
    logits, target = torch.randn(clips, classes, generator=rng), torch.rand(clips, classes, generator=rng)
    mask = (torch.rand(clips, classes, generator=rng) < 0.5).float()
    m = Mix(torch.tensor([1, 0, 2, 4, 3]), torch.tensor([0.9, 0.6, 0.7, 0.5, 0.8]))
    return logits, target, mask, m


def test_mean_over_what_is_annotated():
    logits, target, mask, m = masked_batch()
    plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(binary_loss(logits, target, mask), plain[mask > 0].mean())
    torch.testing.assert_close(Objective().label_loss(logits, {"target": target, "mask": mask}), plain[mask > 0].mean())
    total, weight = 0.0, 0.0
    for clip, (partner, share) in enumerate(zip(*m)):
        for owner, part in ((clip, share), (int(partner), 1 - share)):  # each clip's own loss where it is annotated
            cost = functional.binary_cross_entropy_with_logits(logits[clip], target[owner], reduction="none")
            total, weight = total + part * (cost * mask[owner]).sum(), weight + part * mask[owner].sum()
    torch.testing.assert_close(binary_loss(logits, target, mask, m), total / weight)


def test_what_is_not_annotated_has_no_influence():
    logits, target, mask, m = masked_batch()
    logits.requires_grad_()
    loss = binary_loss(logits, target, mask, m)
    other = torch.where(mask > 0, target, 1 - target)
    torch.testing.assert_close(binary_loss(logits, other, mask, m), loss)
    (gradient,) = torch.autograd.grad(loss, logits)
    nowhere = (mask + mask[m.partner]) == 0
    assert nowhere.any()
    assert not gradient[nowhere].any()
    nothing = binary_loss(logits, target, torch.zeros_like(mask), m)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0
    assert not gradient.any()


def test_extreme_logits_and_half_precision():
    logits = torch.tensor([[200.0, -200.0]])
    assert binary_loss(logits, torch.tensor([[1.0, 0.0]])) == 0
    assert binary_loss(logits, torch.tensor([[0.0, 1.0]])) == 200
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert class_loss(logits.bfloat16(), torch.tensor([[0.0, 1.0]])) == 400
        assert published_masked_loss(logits.bfloat16(), torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)) == 200


# -- teacher ----------------------------------------------------------------------------------------------------------


def published_teacher_loss(published, batch, m, temperature, masks_unknown=True):
    """As published: unknown clips cost nothing but count, and have the last row of the table as partners."""
    logits, index = tensors(published, "loop.logits", batch), tensors(published, "loop.teacher_index", batch)
    table = torch.from_numpy(published["loop.teacher_logits"]).float()
    target = torch.sigmoid(table[index] / temperature)
    target = target if m is None else mix(target, m)
    costs = [binary_loss(row[None], wanted[None]) for row, wanted in zip(logits, target)]
    return sum(cost for cost, row in zip(costs, index) if row >= 0 or not masks_unknown) / len(costs)


@pytest.mark.parametrize(
    ("case", "kd_lambda", "temperature", "mixup"),
    [
        ("kd0.1_mixup", 0.1, 1, True),
        ("kd0.1_nomixup", 0.1, 1, False),
        ("kd0_mixup", 0, 1, True),
        ("kd0_nomixup", 0, 1, False),
        ("kd0.5_T2_mixup", 0.5, 2, True),
        ("kd1_mixup", 1, 1, True),
    ],
)
def test_weights_and_losses_as_published(published, case, kd_lambda, temperature, mixup):
    labels, teacher = Distillation(kd_lambda, temperature).weights

    def label_loss(batch):
        logits, target = tensors(published, "loop.logits", batch), tensors(published, "loop.targets", batch)
        return labels * binary_loss(logits, target, m=mixing(published, batch, mixup))

    def kd_loss(batch):
        return teacher * published_teacher_loss(published, batch, mixing(published, batch, mixup), temperature)

    assert both(label_loss) == pytest.approx(float(published[f"audioset.{case}.label_loss"]), abs=1e-6)
    assert both(kd_loss) == pytest.approx(float(published[f"audioset.{case}.kd_loss"]), abs=1e-6)


@pytest.mark.parametrize(("case", "kd_lambda", "mixup"), [("kd0.1_mixup", 0.1, True), ("kd0_nomixup", 0, False)])
def test_steps_of_the_published_variant_for_several_devices(published, case, kd_lambda, mixup):
    labels, teacher = Distillation(kd_lambda).weights
    for batch in BATCHES:
        logits, target = tensors(published, "loop.logits", batch), tensors(published, "loop.targets", batch)
        m = mixing(published, batch, mixup)
        total = labels * binary_loss(logits, target, m=m) + teacher * published_teacher_loss(published, batch, m, 1)
        assert float(total) == pytest.approx(float(published[f"pl_audioset.{case}.step_loss"][batch]), abs=1e-6)


def teacher_batch(published, batch=0):
    index = tensors(published, "loop.teacher_index", batch)
    table = torch.from_numpy(published["loop.teacher_logits"]).float()
    return {
        "target": tensors(published, "loop.targets", batch),
        "teacher": torch.where(index[:, None] >= 0, table[index], torch.zeros(9)),
        "teacher_valid": index >= 0,
    }


@pytest.mark.parametrize("mixup", [True, False])
def test_clips_that_the_teacher_does_not_know(published, mixup):
    batch, logits, m = teacher_batch(published), tensors(published, "loop.logits", 0), mixing(published, 0, mixup)
    known = batch["teacher_valid"]
    assert 0 < known.sum() < len(known)
    terms = Objective(kd=Distillation(0.1)).terms(logits, batch, m)
    assert set(terms) == {"label_loss", "kd_loss"}
    plain = binary_loss(logits, batch["target"], m=m)
    torch.testing.assert_close(terms["label_loss"], 0.1 * plain)
    wild = {**batch, "teacher": torch.where(known[:, None], batch["teacher"], torch.full((9,), 50.0))}
    torch.testing.assert_close(Objective(kd=Distillation(0.1)).terms(logits, wild, m), terms)
    if m is None:
        alone = {key: values[known] for key, values in batch.items()}
        torch.testing.assert_close(
            Objective(kd=Distillation(0.1)).terms(logits[known], alone)["kd_loss"], terms["kd_loss"]
        )


def test_everything_known_is_the_published_mean(published):
    batch, logits, m = teacher_batch(published), tensors(published, "loop.logits", 0), mixing(published, 0)
    table = torch.from_numpy(published["loop.teacher_logits"]).float()
    index = tensors(published, "loop.teacher_index", 0)
    batch |= {"teacher": table[index], "teacher_valid": torch.ones(6, dtype=torch.bool)}
    expected = 0.9 * published_teacher_loss(published, 0, m, 1, masks_unknown=False)
    torch.testing.assert_close(Objective(kd=Distillation(0.1)).terms(logits, batch, m)["kd_loss"], expected)


def test_pseudo_labels_are_the_teachers_alone(published):
    batch, logits = teacher_batch(published), tensors(published, "loop.logits", 0)
    terms = Objective(kd=Distillation(0.1, pseudo_labels=True)).terms(logits, batch)
    weighted = Objective(kd=Distillation(0.1)).terms(logits, batch)
    assert set(terms) == {"kd_loss"}
    torch.testing.assert_close(0.9 * terms["kd_loss"], weighted["kd_loss"])
    assert set(Objective().terms(logits, {"target": batch["target"]})) == {"label_loss"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(1.5), r"kd\.kd_lambda is 1\.5, expected a weight"),
        (lambda: Distillation(temperature=0), r"kd\.temperature is 0, expected a positive number"),
        (lambda: Objective(masked_mean="all"), r"loss\.masked_mean is 'all', expected one of annotated, published"),
        (lambda: Augmentation(mixup_alpha=-1), r"augment\.mixup_alpha is -1"),
        (lambda: Augmentation(mixstyle_p=2), r"augment\.mixstyle_p is 2, expected a probability"),
        (lambda: make_schedule(None, warm_up_len=-1), r"optimizer\.warm_up_len is -1, expected epochs"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- mixing -----------------------------------------------------------------------------------------------------------


def test_mixed_spectrograms_as_published(published):
    for batch in BATCHES:
        x = tensors(published, "loop.x", batch).reshape(6, 1, 4, 8)
        expected = tensors(published, "audioset.mixed_input", batch)
        torch.testing.assert_close(mix(x, mixing(published, batch)), expected, rtol=0, atol=1e-6)


def test_mixstyle_as_published(published, monkeypatch):
    drawn = Mix(torch.from_numpy(published["mixstyle.perm"]), torch.from_numpy(published["mixstyle.lambda"]))
    monkeypatch.setattr("helpers.tagging.draw_mix", lambda groups, alpha, rng, max_coef: drawn)
    x, m = Augmentation(mixstyle_p=1.0)(torch.from_numpy(published["mixstyle.x"]), np.random.default_rng(0))
    assert m is None  # the labels stay
    np.testing.assert_allclose(x, published["mixstyle.y"], rtol=0, atol=2e-6)


def test_draws_of_mixup():
    x = torch.arange(64.0).reshape(64, 1, 1, 1)
    mixed, m = Augmentation(mixup_alpha=0.3)(x, np.random.default_rng(3))
    assert sorted(m.partner.tolist()) == list(range(64))
    assert 0.5 <= m.weight.min()
    assert m.weight.max() <= 1
    torch.testing.assert_close(mixed, mix(x, m))
    again, _ = Augmentation(mixup_alpha=0.3)(x, np.random.default_rng(3))
    assert torch.equal(again, mixed)
    weights = [Augmentation(mixup_alpha=2.0)(x, np.random.default_rng(seed))[1].weight for seed in range(40)]
    assert float(torch.cat(weights).mean()) == pytest.approx(0.6875, abs=0.01)  # of max(w, 1 - w), w from Beta(2, 2)
    for options in ({"mixup_alpha": 0.0}, {"mixstyle_p": 1e-12}):
        same, m = Augmentation(**options)(x, np.random.default_rng(0))
        assert m is None
        assert same is x


def test_mixstyle_happens_with_its_probability_and_without_mixup():
    x = torch.randn(8, 1, 3, 16, generator=torch.Generator().manual_seed(0))
    augment, rng = Augmentation(mixstyle_p=0.3), np.random.default_rng(1)
    mixed = [augment(x, rng) for _ in range(300)]
    assert all(m is None for _, m in mixed)
    assert sum(out is not x for out, _ in mixed) == pytest.approx(90, abs=24)


# -- learning rates ---------------------------------------------------------------------------------------------------


def test_learning_rates_as_published(published):
    for name, settings in golden("tagging/flags.json")["schedules"].items():
        options = {key: settings[key] for key in ("warm_up_len", "ramp_down_start", "ramp_down_len", "last_lr_value")}
        optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], lr=settings["base_lr"])
        schedule, rates = make_schedule(optimizer, **options), []
        for _ in range(settings["n_epochs"]):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        np.testing.assert_allclose(rates, published[f"{name}.lr"], rtol=1e-12)


def test_no_warm_up_and_a_sudden_end():
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = make_schedule(optimizer, 0, 2, 0, 0.1).lr_lambdas[0]
    assert [factor(epoch) for epoch in range(5)] == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_weight_decay_of_either_kind():
    def moved(adamw):
        parameter = torch.nn.Parameter(torch.ones(1))
        optimizer = make_optimizer([parameter], lr=0.1, adamw=adamw, weight_decay=0.5)
        parameter.grad = torch.zeros(1)
        optimizer.step()
        return float(parameter.detach())

    assert moved(True) == pytest.approx(1 - 0.1 * 0.5)
    assert moved(False) == pytest.approx(1 - 0.1)  # Adam scales the penalty like any gradient
