"""Exponential moving average of a student's weights, the teacher of Tarvainen and Valpola (2017)."""

import torch


@torch.no_grad()
def ema_update(teacher_params, student_params, step, ema_factor=0.999):
    """teacher = a * teacher + (1 - a) * student with a = min(1 - 1 / (step + 1), ema_factor), in place.

    Step 0 makes the teacher a copy of the student. Only parameters are averaged: the running statistics of batch
    norms stay the teacher's own, as published.

    Args:
        teacher_params: parameters of the teacher.
        student_params: those of the student, in the same order; a tensor that both hold (a shared frozen backbone)
            is skipped.
        step: optimizer steps done so far.
        ema_factor: upper bound of a.

    Raises:
        ValueError: the two do not have equally many parameters.
    """
    teacher_params, student_params = list(teacher_params), list(student_params)
    if len(teacher_params) != len(student_params):
        raise ValueError(f"teacher has {len(teacher_params)} parameters, student {len(student_params)}")
    pairs = [(t, s) for t, s in zip(teacher_params, student_params) if t is not s]
    if not pairs:
        return
    factor = min(1 - 1 / (step + 1), ema_factor)
    teacher, student = map(list, zip(*pairs))
    torch._foreach_mul_(teacher, factor)
    torch._foreach_add_(teacher, student, alpha=1 - factor)
