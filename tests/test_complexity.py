"""Parameters, multiply-accumulates, memory and receptive fields: the published numbers, and cases counted by hand."""

import functools

import pytest
import torch
from torch import nn

import models
from models.complexity import Trace, complexity, costs, receptive_field
from models.mobile import plan_blocks, receptive_layers, stage_strides
from models.tagging import Tagger, build_tagger
from tests.reference import golden

PUBLISHED = golden("tagging/models.json")["models"]
FURTHER = golden("tagging/complexity.json")


def settings(name):
    architecture = models.get(name)
    return architecture.section, *(tuple(sorted(d.items())) for d in (architecture.preset, architecture.mel_preset))


@functools.cache
def costs_of(*settings):
    """Costs of one of the names that have the same settings."""
    return complexity(NAMES[settings])


NAMES = {settings(name): name for name in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name):
    expected, actual = PUBLISHED[name], costs_of(*settings(name))
    assert actual.parameters == expected["params"]
    assert actual.macs == expected["macs_conv_linear_flopcounter"]
    assert actual.receptive_field == tuple(expected["receptive_field_freq_time"])
    assert (actual.bands, actual.frames) == (expected["n_mels"], expected["spectrogram_frames_10s"])
    if expected["kind"] == "mn":  # the published code counts neither for DyMN
        assert actual.macs_with_biases == expected["macs"]
        assert actual.peak_memory == pytest.approx(expected["peak_memory_kB"], rel=1e-12)
        efficient = expected["peak_memory_kB_efficient"]
        assert actual.peak_memory_efficient == (efficient and pytest.approx(efficient, rel=1e-12))


def test_memory_of_every_layer():
    trace = Trace(build_tagger("mn10_as")[1], 128, 1000)
    convolutions = [memory for layer, memory in trace.layers if isinstance(layer, nn.Conv2d)]
    assert convolutions == pytest.approx(FURTHER["mn10_conv_memory_kB"], rel=1e-12)
    assert len(convolutions) == FURTHER["n_conv"]
    assert sum(isinstance(layer, nn.Linear) for layer, _ in trace.layers) == FURTHER["n_linear"]
    assert trace.sliced_blocks() == pytest.approx(FURTHER["mn10_memory_efficient_blocks_kB"], rel=1e-12)


@pytest.mark.parametrize("variant", [key for key in FURTHER["other"] if "params" in FURTHER["other"][key]])
def test_variants(variant):
    se_dims, head_type = variant.removeprefix("mn01_se_").split("_", 1)
    actual = complexity("mn01_as", {"mn": {"se_dims": se_dims, "head_type": head_type}})
    assert actual.macs_with_biases == FURTHER["other"][variant]["macs"]
    assert actual.parameters == FURTHER["other"][variant]["params"]


@pytest.mark.parametrize("name", FURTHER["receptive_field"])
def test_receptive_fields(name):
    _, variant = name.split("_")
    strides = (2, 2, 2, 2) if variant == "dilated" else tuple(map(int, variant[1:]))
    plans = plan_blocks(1.0, stage_strides(strides, "mn"), dilated=variant == "dilated")
    assert receptive_field(receptive_layers(plans)) == tuple(FURTHER["receptive_field"][name])


def test_receptive_field_by_hand():
    # 3 at stride 2, then 3: 3 + 2 * 2 cells; with dilation 2 in time twice as many more
    assert receptive_field([(3, 2, 1), (3, (1, 1), (1, 2))]) == (7, 11)
    assert receptive_field([]) == (1, 1)


class Small(Tagger):
    """Two convolutions with a skip connection, and two classes."""

    n_classes, embed_dim = 2, 4

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1))
        self.block.skip = True
        self.classifier = nn.Linear(4, 2)

    def tag(self, mel, rng=None):
        x = self.stem(mel)
        embedding = (x + self.block(x)).mean((2, 3))
        return self.classifier(embedding), embedding

    def receptive_layers(self):
        return [(3, 1, 1)]


def test_costs_by_hand():
    actual = costs(Small(), bands=5, frames=10)
    assert actual.parameters == 4 * 9 + 4 + 32 + 8 + 32 + 4 + 8 + 2
    assert actual.macs == 50 * (36 + 32 + 32) + 8
    assert actual.macs_with_biases == actual.macs + 2
    assert actual.peak_memory == 2 * 50 * (8 + 4 + 4) / 1000  # the second convolution, beside the input of the block
    assert actual.peak_memory_efficient is None
    assert actual.receptive_field == (3, 3)


def test_length_and_pooling_head():
    short, long = (complexity("frame_mn06", n_classes=10, seconds=seconds) for seconds in (5.0, 10.0))
    assert (short.frames, long.frames) == (500, 1000)
    assert 0.49 < short.macs / long.macs < 0.51
    with torch.device("meta"):
        _, net = models.build("frame_mn06")
    assert long.parameters == sum(p.numel() for p in net.parameters()) + 10 * (net.embed_dim + 1)
    # 128 bands become one, so frequency is seen as a whole; time at a quarter of the frames
    assert long.receptive_field[0] > 128


def test_a_transformer_sees_everything():
    tiny = {"atst_frame": {"embed_dim": 32, "depth": 2, "num_heads": 2}}
    actual = complexity("atst_frame", tiny)
    assert actual.receptive_field is None
    assert actual.peak_memory_efficient is None
    # patches of 4 frames, then per token: queries, keys, values, projection, the two layers of the MLP
    tokens, dim = 250, 32
    linear = tokens * 64 * 4 * dim + 2 * tokens * dim * (3 * dim + dim + 8 * dim) + 527 * dim
    attention = 2 * 2 * tokens * tokens * dim
    assert actual.macs == linear + attention
