"""What a tagger costs: parameters, multiply-accumulates, memory of its feature maps, and its receptive field.

No number is computed: shapes alone run through the network, on torch's "meta" device.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.mobile import LAYOUT, InvertedResidual
from models.registry import NOTHING
from models.tagging import Tagger, build_tagger

BYTES_PER_VALUE = 2
SLICES = 8  # in which a block is evaluated where memory is scarce


@dataclass(frozen=True)
class Complexity:
    """Costs of one clip.

    Attributes:
        bands, frames: size of the mel spectrogram.
        parameters: of the network.
        macs: multiply-accumulates of convolutions, linear layers, matrix products and attention, as torch counts them.
        macs_with_biases: the same plus one per output of a linear layer with a bias: so the published tables of
            MobileNetV3 count.
        peak_memory: kB (1000 bytes, 2 bytes per value), the most that a layer with weights needs for its input and
            output, and for the input of its block where that is added to the block's output.
        peak_memory_efficient: the same where blocks without squeeze-excitation are evaluated in eight slices
            (Sandler et al., "MobileNetV2", CVPR 2018, section 5.1). None for networks without such blocks, and where
            one of them, but the first, lacks the expansion.
        receptive_field: cells of the mel spectrogram that one cell of the last feature map sees through convolutions,
            (frequency, time). None for a network that sees its whole input.
    """

    bands: int
    frames: int
    parameters: int
    macs: int
    macs_with_biases: int
    peak_memory: float
    peak_memory_efficient: float | None
    receptive_field: tuple[int, int] | None


def complexity(
    arch: str,
    config: Mapping[str, Mapping[str, object]] = NOTHING,
    n_classes: int | None = None,
    pooling: str | None = None,
    seconds: float = 10.0,
) -> Complexity:
    """Costs of a registered architecture.

    Args:
        arch, config, n_classes, pooling: see :func:`models.tagging.build_tagger`.
        seconds: length of the clip.

    Raises:
        ValueError: as there, or a clip too short for the front end.
    """
    mel, tagger = build_tagger(arch, config, n_classes, pooling)
    with torch.no_grad():
        bands, frames = mel.eval()(torch.zeros(1, round(seconds * mel.sample_rate))).shape[2:]
    return costs(tagger, bands, frames)


def costs(tagger: Tagger, bands: int, frames: int) -> Complexity:
    """Costs of a tagger whose weights are not needed any more: it moves to the "meta" device, which has none.

    Args:
        tagger: the network.
        bands, frames: size of the mel spectrogram.
    """
    trace = Trace(tagger, bands, frames)
    blocks, layers = trace.sliced_blocks(), tagger.receptive_layers()
    return Complexity(
        bands=bands,
        frames=frames,
        parameters=sum(parameter.numel() for parameter in tagger.parameters()),
        macs=trace.macs,
        macs_with_biases=trace.macs + trace.biases,
        peak_memory=max(memory for _, memory in trace.layers),
        peak_memory_efficient=max(blocks) if blocks else None,
        receptive_field=receptive_field(layers) if layers else None,
    )


def receptive_field(layers: Iterable[Sequence]) -> tuple[int, int]:
    """(frequency, time) cells of the input that one cell of the output sees.

    Args:
        layers: (kernel, stride, dilation) of convolutions or poolings one after the other, each a number or a pair
            (frequency, time).
    """
    size, step = [1, 1], [1, 1]
    for layer in layers:
        for axis, (kernel, stride, dilation) in enumerate(zip(*map(_pair, layer))):
            size[axis] += (kernel - 1) * dilation * step[axis]
            step[axis] *= stride
    return tuple(size)


class Trace:
    """One clip's way through a tagger, which moves to the "meta" device.

    Attributes:
        macs: multiply-accumulates.
        biases: outputs of linear layers with a bias.
        layers: (layer, kB of its input, its output, and the held input of its block), in order.
    """

    def __init__(self, tagger: Tagger, bands: int, frames: int):
        self.biases, self.layers = 0, []
        self._blocks, self._held = [], []
        mel = torch.empty(1, 1, bands, frames, device="meta")
        self._input_values = mel.numel()
        # With gradients, as norms are folded into kernels without, and those layers would not be called.
        with ExitStack() as stack, torch.enable_grad(), FlopCounterMode(display=False) as counter:
            for module in tagger.to("meta").eval().modules():
                for hook in self._hooks(module):
                    stack.callback(hook.remove)
            tagger.tag(mel)
        self.macs = counter.get_total_flops() // 2

    def _hooks(self, module):
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() > 1:
            yield module.register_forward_hook(self._after_layer)
        if getattr(module, "skip", False):
            yield module.register_forward_pre_hook(self._enter)
            yield module.register_forward_hook(self._leave)
        if isinstance(module, InvertedResidual):
            yield module.register_forward_hook(self._after_block)

    def _enter(self, block, inputs):
        self._held.append(inputs[0])

    def _leave(self, block, inputs, output):
        self._held.pop()

    def _after_layer(self, layer, inputs, output):
        held = sum(x.numel() for x in self._held if x is not inputs[0])
        self.layers.append((layer, _kilobytes(inputs[0].numel() + output.numel() + held)))
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            self.biases += output.numel()

    def _after_block(self, block, inputs, output):
        self._blocks.append((block, inputs[0].shape, output.shape))

    def sliced_blocks(self) -> list[float] | None:
        """kB of each block of a MobileNetV3, evaluated in slices where it has no squeeze-excitation.

        The first block is merged with the layer in front of it. Other blocks hold their input, and a block with
        squeeze-excitation needs its expansion as a whole.

        Returns:
            None for another network, and where a block but the first lacks the expansion.
        """
        if len(self._blocks) != len(LAYOUT):
            return None
        memory = []
        for index, (block, before, after) in enumerate(self._blocks):
            plan, ends = block.plan, before.numel() + after.numel()
            if index == 0:
                memory.append(self._input_values + after.numel() + 2 * before.numel() / SLICES)
            elif block.squeezes:
                memory.append(ends + plan.expanded * after[2] * after[3])
            elif plan.expanded == plan.in_channels:
                return None
            else:
                # rounded down, as published, where the block itself rounds up
                shrunk = [size // stride for size, stride in zip(before[2:], plan.depthwise_stride)]
                inner = plan.expanded * (before[2] * before[3] + shrunk[0] * shrunk[1])
                memory.append(ends + inner / SLICES)
        return [_kilobytes(values) for values in memory]


def _kilobytes(values):
    return values * BYTES_PER_VALUE / 1000


def _pair(value):
    return tuple(value) if isinstance(value, Sequence) else (value, value)
