"""Optimizers and learning rates as published: of audio tagging, a rate per epoch; of AudioSet-strong, one per step."""

import logging
import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from helpers import optim

log = logging.getLogger(__name__)


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


def make_strong_optimizer(parameters, max_lr=7e-5, adamw=False, weight_decay=0.0) -> torch.optim.Optimizer:
    """Adam or AdamW over two groups, of which only tensors with two axes or more decay; section ``strong_optimizer``.

    In the published training AdamW's own decay of 0.01 acts on biases and norms.

    Args:
        parameters: what is trained.
        max_lr: highest learning rate.
        adamw: decoupled weight decay.
        weight_decay: of AdamW.

    Raises:
        ValueError: weight decay without AdamW.
    """
    if weight_decay != 0 and not adamw:
        raise ValueError(f"strong_optimizer.weight_decay is {weight_decay}, which needs strong_optimizer.adamw=True")
    parameters = list(parameters)
    small, large = ([p for p in parameters if (p.ndim > 1) == is_large] for is_large in (False, True))
    groups = [{"params": small, "weight_decay": 0.0}, {"params": large, "weight_decay": weight_decay}]
    groups = [group for group in groups if group["params"]]
    return (torch.optim.AdamW if adamw else torch.optim.Adam)(groups, lr=max_lr)


def make_strong_schedule(
    optimizer, num_training_steps, schedule_mode="cos", lr_end=2e-7, warmup_steps=5000, gamma=0.999996
) -> LambdaLR:
    """The schedules of :func:`helpers.optim.make_schedule`, to be stepped after every step; ``strong_optimizer``.

    The published training does not hand its warm-up on and always takes 20000 steps, more than its default run has:
    ``warmup_steps=20000`` is what it did, the default is what it says.

    Args:
        optimizer: with the highest rates.
        num_training_steps: optimizer steps of the whole run.
        schedule_mode: ``cos`` (or ``cosine``), ``linear`` or ``exp``.
        lr_end: the rate at the end of ``linear``.
        warmup_steps: of ``cos`` and ``linear``.
        gamma: factor per step of ``exp``, which has no warm-up.

    Raises:
        ValueError: unknown ``schedule_mode``, or a negative warm-up.
    """
    if schedule_mode not in optim.SCHEDULES:
        raise ValueError(
            f"strong_optimizer.schedule_mode is {schedule_mode!r}, expected one of {', '.join(optim.SCHEDULES)}"
        )
    if warmup_steps < 0:
        raise ValueError(f"strong_optimizer.warmup_steps is {warmup_steps}, expected steps, 0 or more")
    if schedule_mode != "exp" and num_training_steps <= warmup_steps:
        log.warning(
            "strong_optimizer.warmup_steps is %d, but the run has %s steps: it never reaches max_lr",
            warmup_steps, num_training_steps,
        )  # fmt: skip
    return optim.make_schedule(optimizer, num_training_steps, schedule_mode, gamma, warmup_steps, lr_end)
