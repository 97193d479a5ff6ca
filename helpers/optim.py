"""Optimizer and learning-rate schedule: layer-wise rates for a pretrained backbone, warm-up and decay per step."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

CNN = re.compile(r"(^|\.)cnn\.")
SCHEDULES = ("cos", "cosine", "linear", "exp")


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    layer_groups: Sequence[Sequence[nn.Parameter]] = (),
    *,
    pretrained: str = "as_model.",
    crnn_lr: float,
    cnn_lr: float | None = None,
    rnn_lr: float | None = None,
    pt_lr: float = 0.0,
    pt_lr_scale: float = 1.0,
    pt_trainable_layers: int | str = 0,
) -> list[dict]:
    """Parameter groups of a model around a pretrained backbone, and freezes what is not to be trained.

    First the model itself: one group ``crnn``, or two, ``cnn`` (names with a part ``cnn``) and ``rnn`` (all others),
    when one of their rates is given. Then the backbone from its output side down: group ``pt0`` with ``pt_lr``,
    ``pt1`` with ``pt_lr * pt_lr_scale`` and so on. Empty groups are left out but keep their place in that count.

    Parameters below ``pretrained`` that are in no layer group are the AudioSet head's. They are listed with the model
    but frozen: so the published systems were trained, their head keeps its initial or loaded values.

    Args:
        named_parameters: all parameters of the model.
        layer_groups: the backbone's parameters by depth, input side first.
        pretrained: prefix of the names that belong to backbone and AudioSet head.
        crnn_lr, cnn_lr, rnn_lr: learning rates of the model; the first where one of the others is None.
        pt_lr: learning rate of the backbone's top group.
        pt_lr_scale: what each group below has of the rate above it.
        pt_trainable_layers: how many groups are trained, counted from the top, or "all"; the others are frozen
            (``requires_grad`` False) and in no group.

    Raises:
        ValueError: ``pt_trainable_layers`` is neither "all" nor between 0 and the number of groups, or a layer group
            holds a parameter which the model does not have.
    """
    named_parameters = list(named_parameters)
    n_trained = _trained_groups(pt_trainable_layers, len(layer_groups))
    inside = {id(parameter) for group in layer_groups for parameter in group}
    if not inside <= {id(parameter) for _, parameter in named_parameters}:
        raise ValueError("layer_groups hold parameters which named_parameters do not")

    own = [(name, parameter) for name, parameter in named_parameters if id(parameter) not in inside]
    untrained = list(layer_groups[: len(layer_groups) - n_trained])
    untrained.append([parameter for name, parameter in own if name.startswith(pretrained)])
    for parameter in itertools.chain(*untrained):
        parameter.requires_grad_(False)

    if cnn_lr is None and rnn_lr is None:
        groups = [_group("crnn", crnn_lr, [parameter for _, parameter in own])]
    else:
        cnn = [parameter for name, parameter in own if CNN.search(name)]
        rnn = [parameter for name, parameter in own if not CNN.search(name)]
        groups = [
            _group("cnn", crnn_lr if cnn_lr is None else cnn_lr, cnn),
            _group("rnn", crnn_lr if rnn_lr is None else rnn_lr, rnn),
        ]
    for depth, group in enumerate(list(layer_groups)[::-1][:n_trained]):
        groups.append(_group(f"pt{depth}", pt_lr * pt_lr_scale**depth, list(group)))
    return [group for group in groups if group["params"]]


def make_optimizer(
    named_parameters,
    layer_groups,
    lr=1e-3,
    crnn_lr=1e-3,
    cnn_lr=None,
    rnn_lr=None,
    pt_lr=0.0,
    pt_lr_scale=1.0,
    pt_trainable_layers=0,
    adamw=True,
    weight_decay=1e-2,
    betas=(0.9, 0.999),
) -> torch.optim.Optimizer:
    """AdamW, or Adam, over the groups of :func:`parameter_groups`; section ``optimizer``.

    Args:
        named_parameters: all parameters of the model.
        layer_groups: the backbone's parameters by depth, input side first.
        lr: learning rate where ``crnn_lr`` is None.
        crnn_lr: learning rate of everything outside the backbone.
        cnn_lr, rnn_lr: learning rates of its CNN and of the rest instead; None means ``crnn_lr``.
        pt_lr, pt_lr_scale, pt_trainable_layers: of the backbone, see :func:`parameter_groups`.
        adamw: AdamW with ``weight_decay``, else Adam without any, as published.
        weight_decay: decoupled weight decay.
        betas: decay rates of the two moments.
    """
    groups = parameter_groups(
        named_parameters,
        layer_groups,
        crnn_lr=lr if crnn_lr is None else crnn_lr,
        cnn_lr=cnn_lr,
        rnn_lr=rnn_lr,
        pt_lr=pt_lr,
        pt_lr_scale=pt_lr_scale,
        pt_trainable_layers=pt_trainable_layers,
    )
    if adamw:
        return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), weight_decay=weight_decay)
    return torch.optim.Adam(groups, lr=lr, betas=tuple(betas))


def make_schedule(
    optimizer,
    num_training_steps,
    schedule_mode="cos",
    gamma=0.999996,
    num_warmup_steps=4000,
    lr_end=1e-7,
) -> LambdaLR:
    """Learning rates over optimizer steps; section ``optimizer``.

    ``cos`` (or ``cosine``) and ``linear`` rise linearly from 0 over ``num_warmup_steps`` and reach their end value
    at ``num_training_steps``, where they stay: 0 for ``cos``, the rate ``lr_end`` in every group for ``linear`` (a
    group that starts below ``lr_end`` stays where it is). ``exp`` multiplies by ``gamma`` in every step, without
    warm-up. The published code lets ``cos`` rise again after the last step, and makes ``lr_end`` relative to 1e-3.

    Args:
        optimizer: with the groups' highest rates.
        num_training_steps: optimizer steps of the whole run.
        schedule_mode: ``cos``, ``cosine``, ``linear`` or ``exp``.
        gamma: of ``exp``.
        num_warmup_steps: of ``cos`` and ``linear``.
        lr_end: of ``linear``.

    Raises:
        ValueError: unknown ``schedule_mode``.
    """
    if schedule_mode not in SCHEDULES:
        raise ValueError(f"optimizer.schedule_mode: {schedule_mode!r}, expected one of {', '.join(SCHEDULES)}")

    def warmed_up(decay):
        def factor(step):
            if step < num_warmup_steps:
                return step / num_warmup_steps
            return decay(min(1.0, (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)))

        return factor

    def linear(rate):
        end = min(lr_end / rate, 1.0) if rate > 0 else 1.0
        return warmed_up(lambda progress: (1.0 - end) * (1.0 - progress) + end)

    if schedule_mode == "exp":
        return LambdaLR(optimizer, lambda step: gamma**step)
    if schedule_mode == "linear":
        return LambdaLR(optimizer, [linear(group["lr"]) for group in optimizer.param_groups])
    return LambdaLR(optimizer, warmed_up(lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress))))


def _trained_groups(pt_trainable_layers, n_groups):
    if pt_trainable_layers == "all":
        return n_groups
    if type(pt_trainable_layers) is int and 0 <= pt_trainable_layers <= n_groups:
        return pt_trainable_layers
    raise ValueError(f"optimizer.pt_trainable_layers: {pt_trainable_layers!r}, expected 'all' or 0 to {n_groups}")


def _group(name, lr, params):
    return {"params": params, "lr": lr, "name": name}
