"""MobileNetV3: published names, shapes and outputs, the two front ends, checkpoints, and what bad options say."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from helpers.checkpoints import load_pretrained
from models.frontends import MnMel
from models.heads import AudioSetHead
from models.mobilenetv3 import FILES, FrameMnMel, FrameMobileNet, MobileNetV3, settings
from models.mobilenetv3.blocks import round_channels
from models.spectrum import MelDraw, kaldi_mel_bank
from tests.golden.named_weights import golden_waveform, named_array, set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm
from tests.reference import golden

CONFIGS = {entry["key"]: entry for entry in golden("tagging/model_configs.json") if entry["kind"] == "mn"}
PUBLISHED = {name: entry for name, entry in golden("tagging/models.json")["models"].items() if entry["kind"] == "mn"}
FRAME_WISE = ("frame_mn06", "frame_mn10")


@functools.cache
def tagging_mel(**options):
    """Features of the 10 s clips of the tagging expectations."""
    return MnMel(**options).eval()(torch.from_numpy(golden_waveform(10.0, 32000, 0, 2)))


@functools.cache
def frame_mel(seconds=10.0, batch=2):
    """Features of the clips of the frame-wise expectations."""
    return FrameMnMel().eval()(torch.from_numpy(golden_waveform(seconds, 16000, 0, batch)))


def shapes(module):
    return [(name, list(tensor.shape)) for name, tensor in module.state_dict().items()]


def assert_near(actual, expected, tolerance):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


# -- names and shapes


@pytest.mark.parametrize("key", CONFIGS)
def test_names_and_shapes_of_variants(key):
    entry = CONFIGS[key]
    with torch.device("meta"):
        net = MobileNetV3(**entry["constructor"])
    assert shapes(net) == list(golden_manifests()[entry["manifest"]].items())
    assert sum(parameter.numel() for parameter in net.parameters()) == entry["params"]


@functools.cache
def golden_manifests():
    return golden("tagging/manifests.json")


def test_every_published_name_is_registered():
    assert list(FILES) == list(PUBLISHED)
    for name, entry in PUBLISHED.items():
        architecture = models.get(name)
        with torch.device("meta"):
            net = architecture.net(**architecture.preset)
        mel = architecture.mel(**architecture.mel_preset)
        assert shapes(net) == list(golden_manifests()[entry["manifest"]].items()), name
        assert (mel.sample_rate, mel.hopsize, mel.n_mels) == (entry["sample_rate"], entry["hopsize"], entry["n_mels"])
        assert FILES[name] == entry["file_name"]
        assert architecture.checkpoint("own").file == f"pretrained_models/{entry['file_name']}"
        assert tuple(architecture.preset.get("strides", (2, 2, 2, 2))) == tuple(entry["strides"])
        assert architecture.preset.get("input_dim_t", 1000) == entry["spectrogram_frames_10s"]


@pytest.mark.parametrize("name", FRAME_WISE)
def test_names_and_shapes_of_frame_wise_networks(name):
    expected = golden("audioset_strong/models.json")[name]
    manifest = golden("audioset_strong/manifest_frame_mn.json")[name]
    with torch.device("meta"):
        _, net = models.build(name)
    backbone = [(key.removeprefix("model."), shape) for key, shape in manifest.items() if key.startswith("model.")]
    assert shapes(net) == backbone
    assert sum(parameter.numel() for parameter in net.parameters()) == expected["parameters_without_heads"]
    assert net.embed_dim == expected["embed_dim"]


def test_round_channels():
    # half up to multiples of 8, at least 8, and one step more where that would lose over a tenth
    assert [round_channels(c) for c in (1, 8, 11.9, 12, 17, 20, 18 * 8 + 4)] == [8, 8, 16, 16, 16, 24, 152]
    assert round_channels(0.1 * 16) == 8
    assert round_channels(10) == 16  # 8 is below 9


# -- outputs


def assert_outputs(net, key, kind, spec, tolerance):
    with torch.no_grad():
        logits, embedding = net.tag(spec)
        frames = net(spec)
    expected = golden_outputs()
    assert_near(logits, expected[f"{key}.{kind}.logits"], tolerance)
    assert_near(embedding, expected[f"{key}.{kind}.embedding"], tolerance)
    assert_near(frames.mean(1), expected[f"{key}.{kind}.embedding"], tolerance)


@functools.cache
def golden_outputs():
    return golden("tagging/model_outputs.npz")


@pytest.mark.parametrize("key", CONFIGS)
def test_outputs_of_variants(key):
    entry = CONFIGS[key]
    spec = tagging_mel(**entry["front_end"])
    assert list(spec.shape[1:]) == entry["input_shape"]
    net = MobileNetV3(**entry["constructor"]).eval()
    set_named_weights(net, 0)
    assert_outputs(net, key, "eval", spec, 1e-5)
    calibrate_batchnorm(net, spec, forward=net.feature_map if "_fc" not in key else net.tag)
    assert_outputs(net, key, "cal", spec, 1e-3)


@pytest.mark.parametrize("key", ["mn04_mhap2", "mn01_se_cft"])
def test_float64_outputs(key):
    entry = CONFIGS[key]
    net = MobileNetV3(**entry["constructor"]).double()
    set_named_weights(net, 0)
    spec = tagging_mel().double()
    calibrate_batchnorm(net, spec, forward=net.tag)
    assert_outputs(net, key, "cal", spec, 1e-4)


@pytest.mark.parametrize("key", ["mn10", "mn10_fc"])
def test_feature_maps(key):
    net = MobileNetV3(**CONFIGS[key]["constructor"])
    set_named_weights(net, 0)
    calibrate_batchnorm(net, tagging_mel(), forward=net.tag)
    expected = {name: golden_outputs()[f"{key}.cal.block_{name}"] for name in ("shape", "mean", "std", "sample")}
    x = tagging_mel()
    for index, layer in enumerate(net.features):
        x = layer(x)
        flat = x.detach().flatten().numpy()
        chosen = np.round(np.linspace(0, flat.size - 1, 16)).astype(int)
        assert list(x.shape) == list(expected["shape"][index])
        assert abs(flat.mean() - expected["mean"][index]) < 1e-4
        assert abs(flat.std() - expected["std"][index]) < 1e-4
        assert_near(flat[chosen], expected["sample"][index], 1e-2)


@pytest.mark.parametrize("head", ["mlp", "fully_convolutional", "multihead_attention_pooling"])
def test_one_clip_keeps_its_batch_axis(head):
    net = MobileNetV3(width_mult=0.1, num_classes=5, head_type=head).eval()
    logits, embedding = net.tag(torch.randn(1, 1, 128, 100))
    assert logits.shape == (1, 5)
    assert embedding.shape == (1, 96)
    assert net(torch.randn(1, 1, 128, 100)).shape == (1, 4, 96)


@pytest.mark.parametrize("name", FRAME_WISE)
def test_frame_wise_outputs(name):
    expected = golden("audioset_strong/frame_mn.npz")
    _, net = models.build(name)
    set_named_weights(net.eval(), 0, rename=lambda key: f"model.{key}")
    for kind, tolerance in (("eval", 1e-5), ("cal", 1e-3)):
        if kind == "cal":
            calibrate_batchnorm(net, frame_mel())
            norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
            assert_near(norms[0].running_mean, expected[f"{name}.cal.bn_mean_first"], 1e-4)
            assert_near(norms[-1].running_var, expected[f"{name}.cal.bn_var_last"], 1e-2)
        for suffix, mel, bins in (
            ("", frame_mel(), np.s_[:, ::10, ::3]),
            ("_5s", frame_mel(5.0, 1), np.s_[:, ::10, ::6]),
            ("_20s", frame_mel(20.0, 1), np.s_[:, ::10, ::6]),
        ):
            with torch.no_grad():
                frames = net(mel)
            assert list(frames.shape) == list(expected[f"{name}.{kind}.embedding{suffix}.shape"])
            assert_near(frames[bins], expected[f"{name}.{kind}.embedding{suffix}"], tolerance)
        assert_heads(net, name, kind, expected, tolerance)


def assert_heads(net, name, kind, expected, tolerance):
    """The two linear layers of the published wrapper on top: frame logits, and clip logits of the mean frame."""
    weights = {
        f"{head}.{kind}": torch.tensor(named_array(f"{head}_head.{kind}", shape, 0), dtype=torch.float32)
        for head in ("strong", "weak")
        for kind, shape in (("weight", (447, net.embed_dim)), ("bias", (447,)))
    }
    with torch.no_grad():
        frames = net(frame_mel())
    strong = F.linear(frames, weights["strong.weight"], weights["strong.bias"]).transpose(1, 2)
    weak = F.linear(frames.mean(1), weights["weak.weight"], weights["weak.bias"])
    assert_near(strong[:, ::4, ::5], expected[f"{name}.{kind}.strong"], tolerance)
    assert_near(weak, expected[f"{name}.{kind}.weak"], tolerance)


@pytest.mark.parametrize("name", FRAME_WISE)
def test_frame_wise_feature_maps(name):
    expected = golden("audioset_strong/frame_mn.npz")
    _, net = models.build(name)
    set_named_weights(net, 0, rename=lambda key: f"model.{key}")
    calibrate_batchnorm(net, frame_mel())
    x = frame_mel()
    for index, layer in enumerate(net.frame_mn.features):
        x = layer(x).detach()
        summary = [x.mean(), x.std(correction=0), x.min(), x.max()]
        assert list(x.shape) == list(expected[f"{name}.cal.feature_map_shapes"][index])
        np.testing.assert_allclose(summary[:2], expected[f"{name}.cal.feature_maps"][index][:2], atol=1e-3)
        np.testing.assert_allclose(summary[2:], expected[f"{name}.cal.feature_maps"][index][2:], atol=1e-2)


# -- training


@pytest.mark.parametrize(("key", "options"), [("mn01", {}), ("mn04_fc", {"head_type": "fully_convolutional"})])
def test_sgd_steps(key, options):
    expected = golden("tagging/training.npz")
    net = MobileNetV3(width_mult=int(key[2:4]) / 10, dropout=0.0, **options).double().train()
    set_named_weights(net, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    mel, targets = (torch.from_numpy(expected[f"steps.{name}"]).double() for name in ("mel", "targets"))
    losses, norms = [], []
    for _ in range(4):
        loss = F.binary_cross_entropy_with_logits(net.tag(mel)[0], targets)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.get_total_norm([parameter.grad for parameter in net.parameters()]).item())
        optimizer.step()
    np.testing.assert_allclose(losses, expected[f"steps.{key}.loss"], rtol=1e-7)
    np.testing.assert_allclose(norms, expected[f"steps.{key}.grad_norm"], rtol=1e-7)
    first, last = net.features[0][1].running_mean, net.features[16][1].running_var
    np.testing.assert_allclose(first, expected[f"steps.{key}.first_bn_running_mean"], rtol=1e-7)
    np.testing.assert_allclose(last, expected[f"steps.{key}.last_bn_running_var"], rtol=1e-7)


@pytest.mark.parametrize("name", ["mn04_as", "frame_mn06"])
def test_grad_checkpointing_changes_nothing(name):
    _, plain = models.build(name)
    plain.train()
    thrifty = copy.deepcopy(plain)
    thrifty.grad_checkpointing = True
    mel = torch.randn(2, 1, 128, 64)
    outputs = [net(mel) for net in (plain, thrifty)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(*outputs)
    for (key, mine), (_, other) in zip(plain.named_parameters(), thrifty.named_parameters()):
        assert (mine.grad is None) == (other.grad is None), key
        assert mine.grad is None or torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-6), key
    # recomputed blocks see the batch twice; their running statistics and counters must not
    state = thrifty.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in plain.state_dict().items())


def test_inference_equals_evaluation_with_gradients():
    # without gradients the norms are folded into the kernels
    net = MobileNetV3(width_mult=0.4)
    mel = torch.randn(3, 1, 128, 200)
    calibrate_batchnorm(net, mel, forward=net.tag)
    slow = net.tag(mel)
    with torch.inference_mode():
        fast = net.tag(mel)
    for mine, other in zip(fast, slow):
        assert_near(mine, other.detach().numpy(), 1e-5)


def test_frozen_statistics_stay_in_training_of_the_rest():
    net = MobileNetV3(width_mult=0.1)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.eval()(torch.randn(2, 1, 128, 100))
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_initial_values():
    net = MobileNetV3(width_mult=1.0)
    kernel = net.features[7].block[0][0].weight  # 240 outputs of 1 x 1
    assert abs(kernel.std().item() / (2 / 240) ** 0.5 - 1) < 0.05
    assert abs(net.classifier[2].weight.std().item() - 0.01) < 1e-4
    assert not net.classifier[5].bias.any()
    assert not net.features[4].block[2].conc_se_layers[0].fc1.bias.any()


def test_layer_groups_follow_depth():
    _, net = models.build("mn04_as")
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = [{".".join(name_of[id(parameter)].split(".")[:2]) for parameter in group} for group in net.layer_groups()]
    assert groups == [
        set(),
        *({f"features.{layer}"} for layer in range(17)),
        {"classifier.2", "classifier.5"},
    ]


# -- front ends


@pytest.mark.parametrize("hop", [160, 320, 480, 640, 800])
def test_mel_hops(hop):
    assert_near(three_seconds(hopsize=hop), golden("tagging/mel.npz")[f"hop_{hop}"], 1e-4)


@pytest.mark.parametrize("bands", [40, 64, 256])
def test_mel_bands(bands):
    assert_near(three_seconds(n_mels=bands), golden("tagging/mel.npz")[f"mels_{bands}"], 1e-4)


@pytest.mark.parametrize("bands", [40, 64, 128, 256])
def test_mel_bank(bands):
    assert_near(kaldi_mel_bank(bands, 1024, 32000, 0, 15000), golden("tagging/mel.npz")[f"bank_{bands}"], 1e-4)


def test_mel_edges():
    assert_near(three_seconds(fmin=7, fmax=14321), golden("tagging/mel.npz")["fmin_7_fmax_14321"], 1e-4)


def three_seconds(**options):
    return MnMel(**options).eval()(torch.from_numpy(golden_waveform(3.0, 32000, 0, 1)))[0, 0]


def test_mel_of_ten_seconds_and_of_silence():
    expected = golden("tagging/mel.npz")
    full = tagging_mel()[:, 0]
    assert list(full.shape) == list(expected["full10_shape"])
    assert_near(full[:, :, ::10], expected["full10_every_10th_frame"], 1e-4)
    assert_near(full.mean(1), expected["full10_frame_mean"], 1e-4)
    assert_near(MnMel().eval()(torch.zeros(1, 32000))[0, 0, :, ::40], expected["silence_1s"], 1e-6)


def test_mel_of_training_with_given_draws():
    expected = golden("tagging/mel.npz")
    front_end = MnMel(freqm=48, timem=192).train()
    audio = torch.from_numpy(golden_waveform(10.0, 32000, 0, 2))[:, :96000]
    edges = [int(edge) for edge in expected["train_fmin_fmax"]]
    draw = MelDraw(*edges, expected["train_freq_mask"], expected["train_time_mask"])
    assert_near(front_end.log_mel(front_end.padded(audio), draw), expected["train_seeded"], 1e-4)


def test_training_edges_are_those_published():
    front_end = MnMel().train()
    draws = [front_end.draw(np.random.default_rng(seed), 1, 10)[:2] for seed in range(200)]
    low, high = map(set, zip(*draws))
    assert low == set(range(10))
    assert min(high) >= 14001
    assert max(high) <= 16000


def test_frame_wise_mel():
    expected = golden("audioset_strong/frame_mn.npz")
    for suffix, mel, bins in (
        ("", frame_mel(), np.s_[:, :, ::4, ::20]),
        ("_5s", frame_mel(5.0, 1), np.s_[:, :, ::8, ::20]),
        ("_20s", frame_mel(20.0, 1), np.s_[:, :, ::8, ::40]),
    ):
        assert list(mel.shape) == list(expected[f"mel{suffix}.shape"])
        assert_mel(mel[bins], expected[f"mel{suffix}"])
    assert_mel(frame_mel().mean(3), expected["mel.time_mean"])
    assert_mel(frame_mel()[..., 0], expected["mel.frame0"])
    assert_mel(frame_mel()[..., -1], expected["mel.frame_last"])
    silence = FrameMnMel().eval()(torch.zeros(1, 16000))
    np.testing.assert_allclose([silence.min(), silence.max()], expected["mel_silence_min_max"], atol=1e-6)


def test_frame_wise_mel_of_training_with_given_draws():
    expected = golden("audioset_strong/frame_mn.npz")
    front_end = FrameMnMel().train()
    low, high = (int(draw) for draw in expected["mel_train.draws"])
    audio = front_end.padded(torch.from_numpy(golden_waveform(10.0, 16000, 0, 2)))
    mel = front_end.log_mel(audio, MelDraw(low, 8000 - high))[:, None]
    assert_mel(mel[:, :, ::4, ::20], expected["mel_train"])


def assert_mel(actual, expected):
    assert_near(actual, expected, 5e-3)
    assert np.abs(actual.numpy() - expected).mean() < 2e-5


# -- checkpoints


def published_file(folder, name, net, rename=""):
    """Random weights in the layout of a published file."""
    path = folder / models.get(name).checkpoint("own").file
    path.parent.mkdir(exist_ok=True)
    torch.save({f"{rename}{key}": tensor for key, tensor in net.state_dict().items()}, path)


def test_published_layout_loads_into_the_audioset_head(tmp_path):
    _, source = models.build("mn01_as")
    published_file(tmp_path, "mn01_as", source)
    head = AudioSetHead(models.build("mn01_as")[1], attention=True)
    loaded = load_pretrained(head, models.get("mn01_as").checkpoint("own"), tmp_path)
    assert {name.split(".")[0] for name in loaded.left} == {"head_linear_layer", "att_linear_layer"}
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in head.model.state_dict().items())
    bare = models.build("mn01_as")[1]
    assert not load_pretrained(bare, models.get("mn01_as").checkpoint("own"), tmp_path, prefix="model.").left


@pytest.mark.parametrize(
    ("name", "theirs", "left"),
    [
        ("mn01_im", 1000, {"classifier.5.weight", "classifier.5.bias"}),
        ("mn01_im", 527, set()),
        ("mn01_as", 10, {"classifier.5.weight", "classifier.5.bias"}),
        (
            "mn10_as_fc",
            10,
            {f"classifier.{entry}" for entry in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")},
        ),
    ],
)
def test_classifier_of_other_classes_is_left_out(tmp_path, name, theirs, left):
    source = MobileNetV3(**settings(name)[0], num_classes=theirs)
    published_file(tmp_path, name, source)
    net = models.build(name)[1]
    initial = copy.deepcopy(net.state_dict())
    loaded = load_pretrained(net, models.get(name).checkpoint("own"), tmp_path, prefix="model.")
    assert set(loaded.left) == left
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, initial[key] if key in left else source.state_dict()[key]), key


def test_frame_wise_layout_loads(tmp_path):
    _, source = models.build("frame_mn06")
    wrapper = torch.nn.ModuleDict({"model": source, "strong_head": torch.nn.Linear(576, 447)})
    published_file(tmp_path, "frame_mn06", wrapper)
    head = AudioSetHead(models.build("frame_mn06")[1])
    loaded = load_pretrained(head, models.get("frame_mn06").checkpoint("own"), tmp_path)
    assert {name.split(".")[0] for name in loaded.left} == {"head_linear_layer"}
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in head.model.state_dict().items())


def test_file_of_another_width_names_a_tensor(tmp_path):
    published_file(tmp_path, "mn01_as", MobileNetV3(width_mult=0.4))
    with pytest.raises(ValueError, match=r"mn01_as_mAP_298\.pt does not fit .*features"):
        load_pretrained(models.build("mn01_as")[1], models.get("mn01_as").checkpoint("own"), tmp_path, prefix="model.")


# -- bad input


@pytest.mark.parametrize("name", ["mn", "mn1_as", "mn10x", "mn10_as_hop", "mobilenet", "mn10_as_fc_s22", "dymn04"])
def test_unknown_name_has_no_width(name):
    with pytest.raises(ValueError, match=f"'{name}' does not name a MobileNetV3"):
        settings(name)
    with pytest.raises(ValueError, match=f"unknown arch '{name}'"):
        models.build(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"se_dims": "x"}, "mn.se_dims: 'x' is"),
        ({"se_dims": "cc"}, "mn.se_dims: 'cc' is"),
        ({"se_dims": ""}, "mn.se_dims: '' is"),
        ({"se_agg": "median"}, "mn.se_agg: 'median' is none of max, avg, add, min"),
        ({"head_type": "linear"}, "mn.head_type: 'linear' is none of mlp"),
        ({"strides": (2, 2, 2)}, r"mn.strides: \(2, 2, 2\) are not four"),
        ({"strides": (2, 2, 2, 3)}, r"mn.strides: \(2, 2, 2, 3\) are not four"),
        ({"width_mult": 0}, "width_mult must be positive, got 0"),
    ],
)
def test_bad_option_says_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        MobileNetV3(**{"width_mult": 0.1, **options})


def test_width_has_no_default():
    with pytest.raises(TypeError, match="width_mult"):
        MobileNetV3()


@pytest.mark.parametrize(("axis", "shape"), [("t", (1, 1, 128, 500)), ("f", (1, 1, 64, 1000))])
def test_fixed_axis_of_squeeze_excitation_says_which_entry_to_set(axis, shape):
    net = MobileNetV3(width_mult=0.1, se_dims=f"c{axis}").eval()
    with pytest.raises(ValueError, match=f"over '{axis}' was built for .* set mn.input_dim_{axis}"):
        net(torch.zeros(shape))
    fitting = MobileNetV3(width_mult=0.1, se_dims=f"c{axis}", input_dim_f=shape[2], input_dim_t=shape[3]).eval()
    assert torch.isfinite(fitting(torch.zeros(shape))).all()


def test_dilation_gives_time_branches_their_size():
    net = MobileNetV3(width_mult=0.1, se_dims="cft", dilated=True).eval()
    assert net(torch.zeros(1, 1, 128, 1000)).shape == (1, 63, 96)


def test_frame_wise_networks_take_128_bands():
    with pytest.raises(ValueError, match="128 mel bands, got 64"):
        FrameMobileNet(width_mult=0.6)(torch.zeros(1, 1, 64, 100))
