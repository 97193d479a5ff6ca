"""Losses on probabilities: pure functions of predictions, targets and a selection.

All of them compute in float32, also under autocast, and return the mean over every element of the selected clips.
An empty selection gives zero with a gradient of zero, and values outside the selection, NaN included, have no
influence on either.
"""

import torch
from torch.nn import functional


def bce(prediction, target, where=None):
    """Binary cross-entropy of probabilities; logarithms end at -100, so that 0 and 1 cost something finite.

    Args:
        prediction: [B, ...] probabilities.
        target: probabilities of the same shape.
        where: booleans over the first axis or axes of ``prediction``: what counts; None counts everything.

    Returns:
        the mean loss, a float32 scalar.

    Raises:
        ValueError: shapes do not fit, or ``where`` is not boolean.
    """
    return _mean(lambda p, t: functional.binary_cross_entropy(p, t, reduction="none"), prediction, target, where)


def mse(prediction, target, where=None):
    """Mean squared error; arguments, result and errors as for :func:`bce`."""
    return _mean(lambda p, t: (p - t).square(), prediction, target, where)


def both(prediction, target, where=None):
    """``(4 MSE + BCE) / 2``, which brings both to a like size; arguments, result and errors as for :func:`bce`."""
    return (4 * mse(prediction, target, where) + bce(prediction, target, where)) / 2


LOSSES = {"BCELoss": bce, "MSELoss": mse, "both": both}


def loss_function(name, key="loss"):
    """The loss of a configuration entry.

    Args:
        name: a key of ``LOSSES``.
        key: the configuration entry, for the message.

    Raises:
        ValueError: unknown name; the message names the entry and the known losses.
    """
    if name not in LOSSES:
        raise ValueError(f"{key}: unknown loss '{name}' (known: {', '.join(LOSSES)})")
    return LOSSES[name]


def _mean(elementwise, prediction, target, where):
    """Mean of ``elementwise(prediction, target)`` over what ``where`` selects."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {list(prediction.shape)}, but its target {list(target.shape)}")
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = prediction.float(), target.float()
        if where is None:
            return elementwise(prediction, target).sum() / max(prediction.numel(), 1)
        chosen = _cover(where, prediction)
        # Replaced before the loss as well as after it: a NaN among the clips left out would survive a multiplication
        # by zero, in the value and in the gradient.
        losses = elementwise(torch.where(chosen, prediction, 0.5), torch.where(chosen, target, 0.5))
        return torch.where(chosen, losses, 0.0).sum() / chosen.sum().clamp(min=1)


def _cover(where, prediction):
    """``where`` over the first axes of ``prediction``, expanded to its shape."""
    if where.dtype != torch.bool or where.shape != prediction.shape[: where.ndim]:
        raise ValueError(
            f"where must be boolean over the first axes of a prediction of shape {list(prediction.shape)}, "
            f"it is {where.dtype} of shape {list(where.shape)}"
        )
    return where.reshape(where.shape + (1,) * (prediction.ndim - where.ndim)).expand_as(prediction)
