"""Options of single backbones: patchout and time windows of fPaSST; positions, folding and training rates of BEATs."""

import copy

import numpy as np
import pytest
import torch

from models.beats.net import Beats, relative_buckets
from models.fpasst.net import FPaSST
from tests.test_backbones import PUBLISHED_CFG, TINY, features, tiny

# --- fPaSST


def test_patchout_drops_tokens_in_training_only():
    net, x = tiny("fpasst", frame_patchout=6), features("fpasst", 80)
    assert net.eval()(x, np.random.default_rng(0)).shape == (2, 20, 48)
    net.train()
    first = net(x, np.random.default_rng(0))
    assert first.shape == (2, 14, 48)
    assert torch.equal(net(x, np.random.default_rng(0)), first)
    assert not torch.equal(net(x, np.random.default_rng(1)), first)
    with pytest.raises(ValueError, match=r"fpasst\.frame_patchout=6 needs a random generator in training"):
        net(x)
    with pytest.raises(ValueError, match=r"fpasst\.frame_patchout=6 leaves none of 6 tokens"):
        net(features("fpasst", 24), np.random.default_rng(0))


def test_the_time_embedding_of_short_clips_is_a_random_window_in_training():
    net, x = tiny("fpasst"), features("fpasst", 80)
    evaluation = net.eval()(x)
    assert torch.equal(net(x, np.random.default_rng(0)), evaluation)
    net.train()
    assert torch.equal(net(x), evaluation)
    windows = {net(x, np.random.default_rng(seed)).sum().item() for seed in range(5)}
    assert len(windows) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "passt_s_kd_p16_128_ap486"}, r"fpasst\.arch: 'passt_s_kd_p16_128_ap486' is not"),
        ({"in_channels": 1}, r"fpasst\.in_channels: the convolutions give 16 channels, got 1"),
        ({"input_fdim": 126}, r"fpasst\.input_fdim: 126"),
        ({"input_tdim": 2000}, r"fpasst\.pos_embed_length: 2000 frames need 500, got 250"),
        ({"frame_patchout": 250}, r"fpasst\.frame_patchout: 250 is not within 0 and 249"),
    ],
)
def test_options_of_fpasst_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FPaSST(**options)


# --- BEATs


def test_all_layers_of_beats_share_one_position_table():
    net = copy.deepcopy(tiny("beats"))
    tables = [layer.self_attn.relative_attention_bias for layer in net.model.encoder.layers]
    assert all(table is tables[0] for table in tables)
    assert sum(name.endswith("relative_attention_bias.weight") for name in net.state_dict()) == 2
    assert sum(name.endswith("relative_attention_bias.weight") for name, _ in net.named_parameters()) == 1


def test_buckets_of_relative_positions():
    # 16 buckets: 8 per sign, of which 4 hold one distance each and 4 are logarithmic up to 64
    distance = torch.tensor([0, -1, -3, -4, -7, -8, -16, -32, -64, -999, 1, 3, 4, 999])
    expected = [0, 1, 3, 4, 4, 5, 6, 7, 7, 7, 9, 11, 12, 15]
    assert relative_buckets(distance, 16, 64).tolist() == expected


def test_position_bias_depends_on_key_minus_query():
    encoder = tiny("beats").model.encoder
    table = encoder.layers[0].self_attn.relative_attention_bias
    bias = encoder.position_bias(30, 800)
    assert bias.shape == (4, 30, 30)
    for query, key in ((0, 0), (3, 7), (29, 0), (0, 29)):
        bucket = relative_buckets(torch.tensor(key - query), 320, 800)
        assert torch.equal(bias[:, query, key], table.weight[bucket])


def test_tokens_are_folded_into_frames():
    tokens = tiny("beats").eval()(features("beats")).reshape(2, 4, 8, 48)
    frames = tiny("beats", tokens_per_frame=1).eval()(features("beats"))
    torch.testing.assert_close(frames, tokens.mean(2))
    halves = tiny("beats", tokens_per_frame=2).eval()(features("beats"))
    torch.testing.assert_close(halves[:, 1], tokens[:, 0, 4:].mean(1))
    with pytest.raises(ValueError, match=r"beats\.tokens_per_frame: 3 does not divide 8"):
        Beats(tokens_per_frame=3)


def test_rates_of_training_come_from_the_configuration():
    x = features("beats")
    net = tiny("beats").train()
    plain = net(x)
    cfg = PUBLISHED_CFG | TINY["beats"][1]
    net.use_config(cfg | {"encoder_layerdrop": 1.0})
    assert torch.equal(net(x), plain)  # no generator, no draws
    skipped = net(x, np.random.default_rng(0))
    assert not torch.equal(skipped, plain)
    assert torch.equal(net.eval()(x, np.random.default_rng(0)), plain)
    net.use_config(cfg | {"dropout": 0.5})
    assert torch.equal(net(x), plain)
    assert not torch.equal(net.train()(x), plain)


def test_a_skipped_layer_gets_a_gradient_of_zeros():
    """Distributed training waits for a gradient of every parameter."""
    net = tiny("beats").train()
    net.use_config(PUBLISHED_CFG | TINY["beats"][1] | {"encoder_layerdrop": 0.5})
    seed = next(s for s in range(20) if (np.random.default_rng(s).random(2) < 0.5).tolist() == [False, True])
    net(features("beats"), np.random.default_rng(seed)).square().sum().backward()
    ran, skipped = net.model.encoder.layers
    assert all(parameter.grad.any() for parameter in ran.parameters())
    own = [parameter for name, parameter in skipped.named_parameters() if "relative_attention_bias" not in name]
    assert len(own) > 10
    assert not any(parameter.grad.any() for parameter in own)


@pytest.mark.parametrize("arch", ["fpasst", "beats"])
def test_compiled_networks_draw_alike(arch):
    """With the backend that compiles nothing, so that no compiler is needed."""
    net, x = tiny(arch, **({"frame_patchout": 6} if arch == "fpasst" else {})).train(), features(arch, 80)
    if arch == "beats":
        net.use_config(PUBLISHED_CFG | TINY["beats"][1] | {"encoder_layerdrop": 0.5})
    compiled = torch.compile(net, backend="eager")
    outputs = [compiled(x, np.random.default_rng(seed)) for seed in range(4)]
    for seed, output in enumerate(outputs):
        torch.testing.assert_close(output, net(x, np.random.default_rng(seed)))
    assert len({output.sum().item() for output in outputs}) > 1


def test_gradients_decay_from_layer_to_layer():
    x = features("beats")
    gradients = []
    for ratio in (1.0, 0.5):
        net = tiny("beats").train()
        net.use_config(PUBLISHED_CFG | TINY["beats"][1] | {"layer_wise_gradient_decay_ratio": ratio})
        net(x).sum().backward()
        # the position table gets gradients from every layer
        gradients.append([net.model.encoder.layers[i].fc1.weight.grad for i in (1, 0)])
        gradients[-1].append(net.model.patch_embedding.weight.grad)
    for (full, decayed), factor in zip(zip(*gradients), (1, 0.5, 0.25)):
        torch.testing.assert_close(decayed, factor * full)
