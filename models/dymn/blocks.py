"""Blocks whose kernels, activations and gates depend on the clip.

Source: Schmid et al., "Dynamic Convolutional Neural Networks as Efficient Pre-Trained Audio Models", IEEE/ACM TASLP
2024, section III. Module names are those of the published checkpoints.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models.convolutions import conv_norm, folds, scale_and_shift
from models.mobile import BlockPlan, InvertedResidual, batch_norm, round_channels


@dataclass(frozen=True)
class Dynamics:
    """What is dynamic, and how large the context is; entries are those of :class:`models.dymn.DyMN`."""

    context_ratio: int = 4
    min_context_size: int = 32
    max_context_size: int = 128
    dyconv_k: int = 4
    dyrelu_k: int = 2
    no_dyconv: bool = False
    no_dyrelu: bool = False
    no_ca: bool = False

    def context_size(self, expanded: int, width_mult: float) -> int:
        """Size of the context vector of a block with that many expanded channels."""
        low, high = (round_channels(size * width_mult) for size in (self.min_context_size, self.max_context_size))
        return min(max(round_channels(expanded // self.context_ratio), low), high)


class DynamicConv(nn.Module):
    """Convolution by a mixture of kernels, which the context of each clip decides (paper, equations 5 and 6).

    Either 1 x 1 over all channels, or a larger kernel for each channel on its own.

    Args:
        in_channels, out_channels: of the feature map.
        context_size: of the context vector.
        n_kernels: kernels in the mixture.
        kernel: size; above 1 the convolution is depthwise.
        stride: (frequency, time), of a depthwise convolution.
        dilation: the same on both axes.
    """

    def __init__(self, in_channels, out_channels, context_size, n_kernels, kernel=1, stride=(1, 1), dilation=1):
        super().__init__()
        self.depthwise = kernel > 1
        self.stride, self.dilation, self.padding = stride, dilation, (kernel - 1) // 2 * dilation
        self.shape = (out_channels, 1 if self.depthwise else in_channels, kernel, kernel)
        self.residuals = nn.Sequential(nn.Linear(context_size, n_kernels))
        kernels = torch.empty(n_kernels, *self.shape)
        for one in kernels:
            nn.init.kaiming_normal_(one, mode="fan_out")
        self.weight = nn.Parameter(kernels.flatten(1)[None, None])

    def forward(self, x, context, temperature, norm):
        """Convolution and norm.

        Args:
            x: [batch, in_channels, frequency, time].
            context: [batch, context_size].
            temperature: scalar that the logits of the mixture are divided by.
            norm: the batch norm that follows.
        """
        attention = torch.softmax(self.residuals(context) / temperature, dim=1)
        if self.depthwise and (torch.compiler.is_exporting() or torch.jit.is_tracing()):
            return norm(self._mixed_outputs(x, attention))
        kernel = (attention @ self.weight[0, 0]).view(-1, *self.shape)
        if not folds(norm):
            return norm(self._convolved(x, kernel))
        scale, shift = scale_and_shift(norm)
        return self._convolved(x, kernel * scale[:, None, None, None], shift)

    def _convolved(self, x, kernel, shift=None):
        """One kernel [out_channels, in_channels or 1, size, size] per clip, and a shift [out_channels] for all."""
        batch = x.shape[0]
        if self.depthwise:
            # A group per clip and channel.
            bias = None if shift is None else shift.repeat(batch)
            x = x.reshape(1, -1, *x.shape[2:])
            x = F.conv2d(x, kernel.flatten(0, 1), bias, self.stride, self.padding, self.dilation, groups=x.shape[1])
            return x.view(batch, -1, *x.shape[2:])
        flat, kernel = x.flatten(2), kernel.flatten(1).view(batch, *self.shape[:2])
        y = kernel @ flat if shift is None else torch.baddbmm(shift[:, None].to(flat.dtype), kernel, flat)
        return y.unflatten(2, x.shape[2:])

    def _mixed_outputs(self, x, attention):
        """The same by mixing the outputs of all kernels: more work, but no group count that hangs on the batch."""
        n_kernels, channels = attention.shape[1], self.shape[0]
        kernels = self.weight.view(n_kernels, *self.shape).transpose(0, 1).flatten(0, 1)
        y = F.conv2d(x, kernels, None, self.stride, self.padding, self.dilation, groups=channels)
        return (y.unflatten(1, (channels, n_kernels)) * attention[:, None, :, None, None]).sum(2)


class StaticConv(nn.Module):
    """A plain convolution in the place of a dynamic one."""

    def __init__(self, in_channels, out_channels, kernel=1, stride=(1, 1), dilation=1):
        super().__init__()
        groups = in_channels if kernel > 1 else 1
        padding = (kernel - 1) // 2 * dilation
        self.module = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)

    def forward(self, x, context, temperature, norm):
        """As :class:`DynamicConv`, but for all clips alike."""
        return conv_norm(self.module, norm, x)


class DynamicReLU(nn.Module):
    """The largest of ``n_lines`` lines, whose slopes and offsets the context decides per channel (paper, equation 4).

    Source: Chen et al., "Dynamic ReLU", ECCV 2020, variant B.
    """

    def __init__(self, channels, context_size, n_lines):
        super().__init__()
        self.channels, self.n_lines = channels, n_lines
        self.coef_net = nn.Sequential(nn.Linear(context_size, 2 * n_lines * channels))
        # At zero coefficients the first line is the identity, and all others are zero.
        self.register_buffer("lambdas", torch.tensor([1.0] * n_lines + [0.5] * n_lines))
        self.register_buffer("init_v", torch.tensor([1.0] + [0.0] * (2 * n_lines - 1)))

    def forward(self, x, context):
        """[batch, channels, frequency, time] -> the same."""
        theta = 2 * torch.sigmoid(self.coef_net(context)) - 1
        theta = theta.view(-1, self.channels, 2 * self.n_lines) * self.lambdas + self.init_v
        slopes, offsets = theta[:, :, None, None].chunk(2, dim=-1)
        result = None
        for slope, offset in zip(slopes.unbind(-1), offsets.unbind(-1)):
            line = torch.addcmul(offset, x, slope)
            result = line if result is None else torch.maximum(result, line)
        return result


class StaticActivation(nn.Module):
    """A plain activation in the place of a dynamic one."""

    def __init__(self, activation):
        super().__init__()
        self.module = activation()

    def forward(self, x, context):
        """As :class:`DynamicReLU`, but for all clips alike."""
        return self.module(x)


class ContextGenerator(nn.Module):
    """Context vector of a block, and gates over frequency and time (paper, figure 2).

    Args:
        in_channels: of the block.
        expanded: channels that are gated.
        context_size: of the context vector.
        stride: (frequency, time) by which the block shrinks what is gated.
    """

    def __init__(self, in_channels, expanded, context_size, stride):
        super().__init__()
        self.joint_conv = nn.Conv2d(in_channels, context_size, 1, bias=False)
        self.joint_norm = batch_norm(context_size)
        self.conv_f = nn.Conv2d(context_size, expanded, 1)
        self.conv_t = nn.Conv2d(context_size, expanded, 1)
        self.stride = stride

    def forward(self, x):
        """[batch, channels, frequency, time] -> context [batch, context_size] and the logits of the gates.

        The gates are [batch, expanded, frequency', 1] and [batch, expanded, 1, time'].
        """
        bands, frames = x.shape[2:]
        joint = torch.cat([x.mean(3), x.mean(2)], dim=2)[..., None]
        joint = F.hardswish(conv_norm(self.joint_conv, self.joint_norm, joint))[..., 0]
        over_bands, over_frames = joint.split([bands, frames], dim=2)
        gate_f = self.conv_f(_shrunk(over_bands, self.stride[0])[..., None])
        gate_t = self.conv_t(_shrunk(over_frames, self.stride[1])[:, :, None])
        return joint.mean(2), gate_f, gate_t


def _shrunk(x, stride):
    """[batch, channels, positions] averaged over three of them; the zeros of the padding count, as published."""
    if stride == 1:
        return x
    x = F.pad(x, (1, 1))
    return (x[..., :-2:stride] + x[..., 1:-1:stride] + x[..., 2::stride]) / 3


class DynamicBlock(nn.Module):
    """Inverted residual block with dynamic convolutions, a dynamic ReLU, and gates in place of squeeze-excitation.

    Args:
        plan: channels, kernel and strides.
        width_mult: factor of all channel counts, on which the limits of the context size depend.
        dynamics: what is dynamic.
    """

    def __init__(self, plan: BlockPlan, width_mult: float, dynamics: Dynamics):
        super().__init__()
        size = dynamics.context_size(plan.expanded, width_mult)

        def conv(*channels, **options):
            if dynamics.no_dyconv:
                return StaticConv(*channels, **options)
            return DynamicConv(*channels, size, dynamics.dyconv_k, **options)

        stride = plan.depthwise_stride
        self.skip, self.gated = plan.skip, not dynamics.no_ca
        self.exp_conv = None
        if plan.expanded != plan.in_channels:
            self.exp_conv = conv(plan.in_channels, plan.expanded)
            self.exp_norm = batch_norm(plan.expanded)
            self.exp_act = plan.activation(inplace=True)
        depthwise = {"kernel": plan.kernel, "stride": stride, "dilation": plan.dilation}
        self.depth_conv = conv(plan.expanded, plan.expanded, **depthwise)
        self.depth_norm = batch_norm(plan.expanded)
        if dynamics.no_dyrelu:
            self.depth_act = StaticActivation(plan.activation)
        else:
            self.depth_act = DynamicReLU(plan.expanded, size, dynamics.dyrelu_k)
        self.proj_conv = conv(plan.expanded, plan.out_channels)
        self.proj_norm = batch_norm(plan.out_channels)
        self.context_gen = ContextGenerator(plan.in_channels, plan.expanded, size, stride)

    def forward(self, x, temperature):
        """[batch, channels, frequency, time] -> the same with other sizes; see :class:`DynamicConv`."""
        block_input = x
        context, gate_f, gate_t = self.context_gen(x)
        if self.exp_conv is not None:
            x = self.exp_act(self.exp_conv(x, context, temperature, self.exp_norm))
        x = self.depth_act(self.depth_conv(x, context, temperature, self.depth_norm), context)
        if self.gated:
            x = x * gate_f.sigmoid() * gate_t.sigmoid()
        x = self.proj_conv(x, context, temperature, self.proj_norm)
        return x + block_input if self.skip else x

    def unused_parameters(self):
        """Those of the gates, where they are off: the published layout keeps them."""
        if self.gated:
            return []
        return [*self.context_gen.conv_f.parameters(), *self.context_gen.conv_t.parameters()]


class PlainBlock(InvertedResidual):
    """A static block among dynamic ones."""

    def __init__(self, plan: BlockPlan):
        super().__init__(plan, squeeze=None)

    def forward(self, x, temperature):
        """[batch, channels, frequency, time] -> the same with other sizes."""
        return super().forward(x)

    def unused_parameters(self):
        """None."""
        return []
