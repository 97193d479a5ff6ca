"""Transformer backbones: published names, outputs and layer groups, checkpoints, training options, bad input."""

import copy
import math

import numpy as np
import pytest
import torch

from helpers.checkpoints import load_pretrained, save
from models import registry
from models.atst_frame import AtstFrame
from models.beats.net import Beats, BeatsConfig
from models.fpasst.net import FPaSST, from_deit
from models.heads import AudioSetHead
from models.vit import time_positions
from tests.golden.named_weights import golden_waveform, named_array, set_named_weights
from tests.reference import golden

ARCHS = ("atst_frame", "fpasst", "beats")
MELS = {"fpasst": {"fmax_aug_range": 2000}}
# arch: (section, a small network, mel bands)
TINY = {
    "atst_frame": (AtstFrame, {"embed_dim": 48, "depth": 2, "num_heads": 4}, 64),
    "fpasst": (FPaSST, {"embed_dim": 48, "depth": 2, "num_heads": 4}, 128),
    "beats": (
        Beats,
        {
            "encoder_embed_dim": 48,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_embed_dim": 96,
            "embed_dim": 24,
        },
        128,
    ),
}
PUBLISHED_CFG = {
    "encoder_layers": 12,
    "input_patch_size": 16,
    "max_distance": 800,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "layer_wise_gradient_decay_ratio": 0.6,
    "finetuned_model": True,
    "predictor_class": 527,
}


def tiny(arch, **options):
    torch.manual_seed(0)
    net, sizes, _ = TINY[arch]
    return net(**sizes, **options)


def features(arch, frames=64, batch=2, seed=0):
    values = np.random.default_rng(seed).standard_normal((batch, 1, TINY[arch][2], frames))
    return torch.from_numpy(0.5 * values.astype(np.float32))


def on_meta(arch):
    with torch.device("meta"):
        return registry.get(arch).net()


def shapes(module, prefix=""):
    return {prefix + name: list(tensor.shape) for name, tensor in module.state_dict().items()}


# --- published values


@pytest.mark.parametrize("arch", ARCHS)
def test_published_embeddings(arch):
    expected = golden(f"sed/model_{arch}.npz")
    mel = registry.get(arch).mel(**MELS.get(arch, {})).eval()
    net = on_meta(arch).to_empty(device="cpu").eval()
    assert len(set_named_weights(net, 0)) == expected["n_tensors_set"]
    x = mel(torch.from_numpy(golden_waveform(10.0, 16000, 0, 2)))
    np.testing.assert_allclose([x.mean(), x.std(), x.min(), x.max()], expected["mel.stats"], atol=1e-4)
    across, along = expected["embedding.stride"]
    with torch.no_grad():
        y = net(x)
        assert list(y.shape) == expected["embedding.shape"].tolist()
        np.testing.assert_allclose(y[:, ::across, ::along], expected["embedding"], atol=1e-4)
        np.testing.assert_allclose(y.mean((0, 1)), expected["embedding.channel_mean"], atol=1e-5)
        np.testing.assert_allclose(y.mean(2), expected["embedding.token_mean"], atol=1e-5)
        rng = np.random.default_rng([0, 12])
        for name in ("noise", "noise_short"):
            x = (0.5 * rng.standard_normal(expected[f"{name}.input.shape"])).astype(np.float32)
            np.testing.assert_allclose(x[0, 0, :4, :5], expected[f"{name}.input.corner"], atol=1e-6)
            y = net(torch.from_numpy(x))
            assert list(y.shape) == expected[f"{name}.embedding.shape"].tolist()
            np.testing.assert_allclose(y[:, ::across, ::along], expected[f"{name}.embedding"], atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_names_and_shapes_are_the_published_ones(arch):
    # BEATs has no AudioSet head around it in the published systems.
    prefix = "student.as_model." if arch == "beats" else "student.as_model.model."
    published = golden(f"sed/state_dict_t4_{arch}.json")["shapes"]
    head = ("student.as_model.head_linear_layer.", "student.as_model.att_linear_layer.")
    expected = {name: s for name, s in published.items() if name.startswith(prefix) and not name.startswith(head)}
    assert shapes(on_meta(arch), prefix) == expected


def test_the_image_model_becomes_the_published_start():
    expected = golden("sed/fpasst_from_deit.npz")
    sizes = {"cls_token": (1, 1, 768), "dist_token": (1, 1, 768), "pos_embed": (1, 578, 768)}
    sizes |= {"patch_embed.proj.weight": (768, 3, 16, 16)}
    state = {
        name: torch.from_numpy(named_array(name, sizes.get(name, (3,)), 0)).float()
        for name in expected["deit_names"].tolist()
    }
    result = from_deit(state)
    np.testing.assert_allclose(result["new_pos_embed"], expected["new_pos_embed"], atol=1e-6)
    np.testing.assert_allclose(result["freq_new_pos_embed"].flatten(), expected["freq_new_pos_embed"], atol=1e-6)
    assert result["time_new_pos_embed"].shape == (1, 768, 1, 250)
    time = result["time_new_pos_embed"][0, ::6, 0]
    np.testing.assert_allclose(time, expected["time_new_pos_embed"], atol=1e-6)
    weight = result["patch_embed.proj.weight"]
    assert list(weight.shape) == expected["patch_embed_weight_shape"].tolist()
    np.testing.assert_allclose(weight[::48, :, ::9], expected["patch_embed_weight"], atol=1e-7)
    for name in expected["kept_as_is"].tolist():
        assert torch.equal(result[name], state[name])
    absent = set(on_meta("fpasst").state_dict()) - set(result)
    assert absent == set(expected["at_initialisation"].tolist())


# --- layer groups


def published_depth(arch):
    """Group of every backbone parameter in the published optimizer, 0 the input side; rates halve from the top."""
    rates = golden(f"sed/optimizer_{arch}.json")["stage2"]["lr"]
    prefix = "as_model." if arch == "beats" else "as_model.model."
    names = {name.removeprefix(prefix): rate for name, rate in rates.items() if name.startswith(prefix)}
    return {name: 13 - round(math.log2(1e-4 / rate)) for name, rate in names.items()}


@pytest.mark.parametrize("arch", ARCHS)
def test_layer_groups_are_the_published_ones(arch):
    net = on_meta(arch)
    depth = {id(parameter): i for i, group in enumerate(net.layer_groups()) for parameter in group}
    ours = {name: depth[id(parameter)] for name, parameter in net.named_parameters()}
    expected = published_depth(arch)
    if arch == "fpasst":  # there, "blocks.1" was also found in the names of blocks 10 and 11
        wrong = {name: depth for name, depth in expected.items() if name.startswith(("blocks.10.", "blocks.11."))}
        assert set(wrong.values()) == {2}
        expected |= {name: 1 + int(name.split(".")[1]) for name in wrong}
    assert ours == expected


@pytest.mark.parametrize("arch", ARCHS)
def test_layer_groups_hold_every_parameter_once(arch):
    net = tiny(arch)
    grouped = [id(parameter) for group in net.layer_groups() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in net.parameters())
    assert len(net.layer_groups()) == 4


# --- checkpoints


@pytest.mark.parametrize("arch", ARCHS)
def test_a_stage_checkpoint_fills_the_audioset_wrapper(arch, tmp_path):
    tables = registry.get(arch).checkpoints
    (name,) = (name for name in tables if name.endswith("_stage2"))
    wrapper = AudioSetHead(tiny(arch))
    own = wrapper.model if arch == "beats" else wrapper
    student = {f"as_model.{key}": torch.ones(tensor.shape) for key, tensor in own.state_dict().items()}
    save(tmp_path / tables[name].file, {"student": {**student, "cnn.cnn.conv0.bias": torch.zeros(3)}})
    loaded = load_pretrained(wrapper, tables[name], tmp_path)
    assert all((parameter == 1).all() for parameter in wrapper.model.parameters())
    assert loaded.left == (["head_linear_layer.weight", "head_linear_layer.bias"] if arch == "beats" else [])


def beats_file(folder, legacy=False, cfg=None):
    """A file laid out as the published one of BEATs, all ones, for the tiny network."""
    table = registry.get("beats").checkpoints["beats_as"]
    state = {name.removeprefix("model."): torch.ones(shape) for name, shape in shapes(tiny("beats")).items()}
    state["predictor.bias"] = torch.zeros(527)
    if legacy:
        for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
            state[f"encoder.pos_conv.0.{new}"] = state.pop(f"encoder.pos_conv.0.parametrizations.weight.{old}")
    save(folder / table.file, {"cfg": PUBLISHED_CFG | TINY["beats"][1] | (cfg or {}), "model": state})
    return table


@pytest.mark.parametrize("legacy", [False, True])
def test_the_beats_file_loads_with_both_names_of_weight_norm(tmp_path, legacy):
    table = beats_file(tmp_path, legacy)
    net = tiny("beats")
    assert not load_pretrained(net, table, tmp_path, prefix="model.").left
    assert all((parameter == 1).all() for parameter in net.parameters())
    assert (net.config.encoder_layerdrop, net.config.layer_wise_gradient_decay_ratio) == (0.05, 0.6)


def test_legacy_names_of_weight_norm_load_in_a_plain_state_dict():
    net = tiny("beats")
    state = {}
    for name, tensor in net.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        state[name.replace("parametrizations.weight.original1", "weight_v")] = torch.zeros_like(tensor)
    net.load_state_dict(state)
    assert all((parameter == 0).all() for parameter in net.parameters())


def test_a_beats_file_of_another_network_is_named(tmp_path):
    table = beats_file(tmp_path, cfg={"encoder_layers": 6})
    with pytest.raises(ValueError, match="the checkpoint's cfg has encoder_layers=6, this network 2"):
        load_pretrained(tiny("beats"), table, tmp_path, prefix="model.")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"activation_fn": "glu"}, "activation_fn='glu' in cfg, this network has activation_fn='gelu'"),
        ({"layer_norm_first": True}, "layer_norm_first=True"),
        ({"gru_rel_pos": False}, "gru_rel_pos=False"),
        ({"input_patch_size": 15}, "input_patch_size=15 in cfg does not divide 128 bands"),
    ],
)
def test_variants_of_beats_that_nobody_published_are_named(entry, message):
    with pytest.raises(ValueError, match=message):
        Beats.from_checkpoint_config(PUBLISHED_CFG | entry)


def test_a_beats_network_follows_the_configuration_of_its_checkpoint():
    cfg = PUBLISHED_CFG | TINY["beats"][1] | {"encoder_layers": 3}
    net = Beats.from_checkpoint_config(cfg, tokens_per_frame=2)
    assert net.config == BeatsConfig.read(cfg)
    assert len(net.model.encoder.layers) == 3
    assert net.eval()(features("beats")).shape == (2, 8, 48)
    with pytest.raises(ValueError, match="relative_position_embedding=False in cfg"):
        Beats.from_checkpoint_config({})


def test_a_start_from_the_image_model_leaves_the_convolutions(tmp_path):
    table = registry.get("fpasst").checkpoints["deit_base_distilled_patch16_384"]
    net = FPaSST(depth=1)
    sizes = shapes(net) | {"pos_embed": [1, 578, 768], "patch_embed.proj.weight": [768, 3, 16, 16]}
    own = ("new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed", "conv_in_")
    state = {name: torch.ones(()).expand(size) for name, size in sizes.items() if not name.startswith(own)}
    save(tmp_path / table.file, {"model": {**state, "head.weight": torch.zeros(1000, 768)}})
    loaded = load_pretrained(net, table, tmp_path, prefix="model.")
    assert {name.split(".")[0] for name in loaded.left} == {"conv_in_1", "conv_in_2", "conv_in_3"}
    with pytest.raises(ValueError, match="not the state of a distilled image transformer: pos_embed"):
        from_deit({"dist_token": torch.zeros(1), "patch_embed.proj.weight": torch.zeros(1)})


# --- what all backbones promise


@pytest.mark.parametrize("arch", ARCHS)
def test_float32_is_enough(arch):
    net = tiny(arch).eval()
    set_named_weights(net, 0)
    x = features(arch, 320)
    torch.testing.assert_close(net(x).double(), copy.deepcopy(net).double()(x.double()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_clips_do_not_depend_on_their_batch(arch):
    net, x = tiny(arch).eval(), features(arch, batch=3)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_half_precision_stays_near(arch):
    net, x = tiny(arch).eval(), features(arch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x)
    assert (half.float() - net(x)).abs().max() < 0.1


@pytest.mark.parametrize("arch", ARCHS)
def test_random_initialisation(arch):
    net = tiny(arch)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif not name.startswith("conv_in_") and parameter.numel() > 1000 and arch != "beats":
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    assert net.eval()(features(arch)).std() > 0.5


@pytest.mark.parametrize(
    ("arch", "frames", "tokens"),
    [
        ("atst_frame", 4, 1),
        ("atst_frame", 1003, 250),
        ("atst_frame", 1600, 400),
        ("fpasst", 1, 1),
        ("fpasst", 1001, 251),
        ("fpasst", 1600, 400),
        ("beats", 16, 8),
        ("beats", 47, 16),
        ("beats", 1600, 800),
    ],
)
def test_inputs_of_any_length(arch, frames, tokens):
    y = tiny(arch).eval()(features(arch, frames, batch=1))
    assert y.shape == (1, tokens, 48)
    assert y.isfinite().all()


def test_positions_are_cut_or_stretched():
    table = torch.arange(4.0).reshape(1, 1, 4)
    assert time_positions(table, 3).flatten().tolist() == [0, 1, 2]
    assert time_positions(table, 2, offset=2).flatten().tolist() == [2, 3]
    assert time_positions(table, 8).flatten().tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("shape", [(1, 1, 40, 100), (1, 2, 128, 100), (1, 128, 100), (1, 1, 128, 0)])
def test_features_of_another_shape_are_refused(arch, shape):
    with pytest.raises(ValueError, match=rf"{arch} expects features of shape \[batch, 1, \d+, at least \d+ frames\]"):
        tiny(arch)(torch.zeros(shape))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="embed_dim=50 is not a multiple of num_heads=4"):
        AtstFrame(embed_dim=50, depth=1, num_heads=4)
    with pytest.raises(ValueError, match="encoder_embed_dim=48 is not a multiple of encoder_attention_heads=5"):
        Beats(**TINY["beats"][1] | {"encoder_attention_heads": 5})


# --- registry


def test_registered_defaults():
    assert [registry.get(arch).pretrained_name for arch in ARCHS] == ["atst_as_strong", "passt_as_strong", None]
    sections = registry.sections()
    assert sections["atst_mel"] == {"per_clip_range": False}
    assert sections["beats_mel"] == {}
    assert sections["fpasst"]["frame_patchout"] == 0
    for arch in ARCHS:
        architecture = registry.get(arch)
        assert architecture.pretrained_name in (None, *architecture.checkpoints)
        for entry in architecture.checkpoints.values():
            while entry is not None:
                assert entry.file.startswith("pretrained_models/")
                assert set(entry.mel) <= set(sections[architecture.mel_section])
                entry = entry.otherwise
