"""What convolutional networks share: norms folded into kernels, and recomputation that leaves running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def folds(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch norm is a fixed scale and shift: in evaluation mode, where no gradient is wanted."""
    return not (norm.training or torch.is_grad_enabled())


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """The two vectors [channels] that a batch norm of evaluation mode multiplies by and adds."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """``norm(conv(x))``, in one pass over the feature map where the norm folds into the kernel."""
    if not folds(norm):
        return norm(conv(x))
    scale, shift = scale_and_shift(norm)
    kernel = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, kernel, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def run_layer(layer: nn.Module, *inputs, checkpointing: bool):
    """``layer(*inputs)``; with ``checkpointing`` its activations are computed again in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=partial(_recomputation, layer))
    return layer(*inputs)


def _recomputation(module):
    """Contexts of the first forward pass and of the recomputed one."""
    return nullcontext(), _keep_statistics(module)


@contextmanager
def _keep_statistics(module) -> Iterator[None]:
    """Puts the buffers back afterwards: a recomputed forward pass must not count twice in the running statistics."""
    own = [(child, *entry) for child in module.modules() for entry in child.named_buffers(recurse=False)]
    for child, name, buffer in own:
        setattr(child, name, buffer.clone())
    try:
        yield
    finally:
        for child, name, buffer in own:
            setattr(child, name, buffer)
