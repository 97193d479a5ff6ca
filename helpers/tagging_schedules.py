"""Optimizer and learning rates of audio tagging as published: Adam, a rate per epoch."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR


def learning_rate_factor(epoch, warm_up_len, ramp_down_start, ramp_down_len, last_lr_value):
    """Share of the highest learning rate in an epoch, the first of which is 0.

    Exponential warm-up [Laine and Aila, "Temporal ensembling for semi-supervised learning", 2017] over ``warm_up_len``
    epochs, times a factor that falls linearly from 1 to ``last_lr_value`` in ``ramp_down_len`` epochs from
    ``ramp_down_start`` on.
    """
    rise = 1.0
    if epoch < warm_up_len:
        rise = math.exp(-5.0 * (1.0 - max(epoch, 0.5) / warm_up_len) ** 2)
    if epoch <= ramp_down_start:
        return rise
    progress = min(1.0, (epoch - ramp_down_start) / ramp_down_len) if ramp_down_len else 1.0
    return rise * (1.0 - (1.0 - last_lr_value) * progress)


def make_optimizer(parameters, lr=8e-4, adamw=False, weight_decay=0.0) -> torch.optim.Optimizer:
    """Adam, or AdamW; section ``optimizer``.

    Args:
        parameters: what is trained.
        lr: highest learning rate.
        adamw: decoupled weight decay [Loshchilov and Hutter, 2019] in place of Adam's L2 penalty.
        weight_decay: of either.
    """
    return (torch.optim.AdamW if adamw else torch.optim.Adam)(parameters, lr=lr, weight_decay=weight_decay)


def make_schedule(optimizer, warm_up_len=10, ramp_down_start=10, ramp_down_len=65, last_lr_value=0.01) -> LambdaLR:
    """The schedule of :func:`learning_rate_factor`, to be stepped after every epoch; section ``optimizer``.

    Args:
        optimizer: with the highest rates.
        warm_up_len, ramp_down_start, ramp_down_len: epochs.
        last_lr_value: share of the highest rate at the end.

    Raises:
        ValueError: a negative number of epochs.
    """
    for name, value in (("warm_up_len", warm_up_len), ("ramp_down_len", ramp_down_len)):
        if value < 0:
            raise ValueError(f"optimizer.{name} is {value}, expected epochs, 0 or more")
    settings = warm_up_len, ramp_down_start, ramp_down_len, last_lr_value
    return LambdaLR(optimizer, lambda epoch: learning_rate_factor(epoch, *settings))
