"""Losses against torch, hand numbers and subsets."""

import math

import pytest
import torch

from helpers.losses import LOSSES, bce, both, loss_function, mse

NAMES = sorted(LOSSES)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    prediction = torch.rand(6, 5, 7, generator=generator).requires_grad_()
    target = torch.rand(6, 5, 7, generator=generator)
    return prediction, target, torch.tensor([True, False, True, True, False, False])


def test_hand_numbers():
    prediction, target = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.0]])
    assert mse(prediction, target).item() == pytest.approx((0.25 + 0.0625) / 2)
    expected = (math.log(2) - math.log(0.75)) / 2
    assert bce(prediction, target).item() == pytest.approx(expected)
    assert both(prediction, target).item() == pytest.approx((4 * 0.15625 + expected) / 2)


def test_certain_but_wrong_costs_one_hundred():
    assert bce(torch.tensor([0.0]), torch.tensor([1.0])).item() == 100
    assert bce(torch.tensor([1.0]), torch.tensor([0.25])).item() == 75


def test_agrees_with_torch(batch):
    prediction, target, _ = batch
    for ours, theirs in ((bce, torch.nn.BCELoss()), (mse, torch.nn.MSELoss())):
        (gradient,) = torch.autograd.grad(ours(prediction, target), prediction)
        (expected,) = torch.autograd.grad(theirs(prediction, target), prediction)
        torch.testing.assert_close(ours(prediction, target), theirs(prediction, target))
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", NAMES)
def test_masked_is_subset(name, batch):
    prediction, target, where = batch
    loss = LOSSES[name]
    torch.testing.assert_close(loss(prediction, target, where), loss(prediction[where], target[where]))
    classes = torch.tensor([True, True, False, False, True])
    chosen = where[:, None] & classes
    subset = loss(prediction[where][:, classes], target[where][:, classes])
    torch.testing.assert_close(loss(prediction, target, chosen), subset)
    assert not torch.isclose(loss(prediction, target, where), loss(prediction, target), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_empty_selection_is_zero_with_zero_gradient(name, batch):
    prediction, target, where = batch
    value = LOSSES[name](prediction, target, torch.zeros_like(where))
    (gradient,) = torch.autograd.grad(value, prediction)
    assert value.item() == 0
    assert (gradient == 0).all()
    assert LOSSES[name](prediction[:0], target[:0]).item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_has_no_influence(name, batch):
    prediction, target, where = batch
    broken, wrong = prediction.detach().clone(), target.clone()
    broken[1], wrong[4] = math.nan, math.nan
    broken.requires_grad_()
    value = LOSSES[name](broken, wrong, where)
    (gradient,) = torch.autograd.grad(value, broken)
    torch.testing.assert_close(value, LOSSES[name](prediction, target, where))
    assert gradient.isfinite().all()
    assert (gradient[~where] == 0).all()
    assert (gradient[where] != 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_finite_at_zero_and_one(name):
    prediction = torch.tensor([0.0, 1.0, 0.0, 1.0]).requires_grad_()
    value = LOSSES[name](prediction, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    (gradient,) = torch.autograd.grad(value, prediction)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_inside_autocast(name, dtype, batch):
    prediction, target, where = batch
    low, low_target = prediction.detach().to(dtype), target.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](low, low_target, where)
    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name](low.float(), low_target.float(), where))


@pytest.mark.parametrize("name", NAMES)
def test_bad_shapes_are_named(name, batch):
    prediction, target, where = batch
    with pytest.raises(ValueError, match=r"\[6, 5, 7\].*\[6, 5, 1\]"):
        LOSSES[name](prediction, target[..., :1])
    with pytest.raises(ValueError, match=r"where.*\[5\]"):
        LOSSES[name](prediction, target, where[:5])
    with pytest.raises(ValueError, match=r"where.*float32"):
        LOSSES[name](prediction, target, where.float())


def test_unknown_loss_names_key_and_known_ones():
    assert loss_function("both") is both
    with pytest.raises(ValueError, match=r"loss.pseudo_type: unknown loss 'L1' \(known: BCELoss, MSELoss, both\)"):
        loss_function("L1", "loss.pseudo_type")
