"""DyMN: published names, shapes and outputs, the temperature of its mixtures, checkpoints, and what bad options say."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from helpers.checkpoints import load_pretrained
from models.dymn import FILES, DyMN, scheduled_temperature, settings
from models.dymn.blocks import DynamicBlock, DynamicConv, Dynamics
from models.frontends import MnMel
from models.heads import AudioSetHead
from models.mobile import BlockPlan, batch_norm
from models.tagging import ClipTagger
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm, rescale_dynamic_convs
from tests.reference import golden

CONFIGS = {entry["key"]: entry for entry in golden("tagging/model_configs.json") if entry["kind"] == "dymn"}
PUBLISHED = {name: entry for name, entry in golden("tagging/models.json")["models"].items() if entry["kind"] == "dymn"}
TEMPERATURES = {"temperature", "start_temperature"}  # what our state has beyond the published one


@functools.cache
def tagging_mel():
    """Features of the 10 s clips of the tagging expectations."""
    return MnMel().eval()(torch.from_numpy(golden_waveform(10.0, 32000, 0, 2)))


golden_manifests = functools.cache(lambda: golden("tagging/manifests.json"))
golden_outputs = functools.cache(lambda: golden("tagging/model_outputs.npz"))


def shapes(module):
    """Names and shapes of the published part of the state."""
    return [(name, list(tensor.shape)) for name, tensor in module.state_dict().items() if name not in TEMPERATURES]


def assert_near(actual, expected, tolerance):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


def built(key):
    """A network of the expectations with its weights, in evaluation mode."""
    net = DyMN(**CONFIGS[key]["constructor"]).eval()
    set_named_weights(net, 0)
    net.set_temperature(CONFIGS[key]["temperature"])
    return net


# -- names and shapes


@pytest.mark.parametrize("key", CONFIGS)
def test_names_and_shapes_of_variants(key):
    entry = CONFIGS[key]
    with torch.device("meta"):
        net = DyMN(**entry["constructor"])
    assert shapes(net) == list(golden_manifests()[entry["manifest"]].items())
    assert sum(parameter.numel() for parameter in net.parameters()) == entry["params"]


def test_every_published_name_is_registered():
    assert list(FILES) == list(PUBLISHED)
    for name, entry in PUBLISHED.items():
        architecture = models.get(name)
        with torch.device("meta"):
            net = architecture.net(**architecture.preset)
        mel = architecture.mel(**architecture.mel_preset)
        assert shapes(net) == list(golden_manifests()[entry["manifest"]].items()), name
        assert (mel.sample_rate, mel.hopsize, mel.n_mels) == (entry["sample_rate"], entry["hopsize"], entry["n_mels"])
        assert architecture.checkpoint("own").file == f"pretrained_models/{entry['file_name']}"


# -- outputs


@pytest.mark.parametrize("key", CONFIGS)
def test_outputs_of_variants(key):
    net, spec, expected = built(key), tagging_mel(), golden_outputs()
    for kind, tolerance in (("eval", 1e-5), ("cal", 1e-3)):
        if kind == "cal":
            rescale_dynamic_convs(net)
            calibrate_batchnorm(net, spec, forward=net.feature_map)
        with torch.no_grad():
            logits, embedding = net.tag(spec)
        assert_near(logits, expected[f"{key}.{kind}.logits"], tolerance)
        assert_near(embedding, expected[f"{key}.{kind}.embedding"], tolerance)
    with torch.no_grad():
        assert_near(net(spec).mean(1), expected[f"{key}.cal.embedding"], 1e-3)
        # every clip on its own gives the same, although kernels are mixed for the whole batch at once
        assert_near(net.tag(spec[1:])[0], expected[f"{key}.cal.logits"][1:], 1e-3)


def test_feature_maps():
    net, spec = built("dymn04"), tagging_mel()
    rescale_dynamic_convs(net)
    calibrate_batchnorm(net, spec, forward=net.feature_map)
    maps = []
    for layer in (net.in_c, *net.layers, net.out_c):
        layer.register_forward_hook(lambda _, inputs, output: maps.append(output.detach()))
    net.feature_map(spec)
    expected = {name: golden_outputs()[f"dymn04.cal.block_{name}"] for name in ("shape", "mean", "std", "sample")}
    assert [list(x.shape) for x in maps] == expected["shape"].tolist()
    np.testing.assert_allclose([x.mean() for x in maps], expected["mean"], atol=1e-4)
    np.testing.assert_allclose([x.std(correction=0) for x in maps], expected["std"], atol=1e-4)
    for x, sample in zip(maps, expected["sample"]):
        flat = x.flatten().numpy()
        assert_near(flat[np.round(np.linspace(0, flat.size - 1, 16)).astype(int)], sample, 1e-2)


def test_inference_equals_evaluation_with_gradients():
    # without gradients the norms are folded into the mixed kernels
    net = DyMN(width_mult=0.4)
    mel = torch.randn(3, 1, 128, 200)
    calibrate_batchnorm(net, mel, forward=net.tag)
    slow = net.tag(mel)
    with torch.inference_mode():
        fast = net.tag(mel)
    for mine, other in zip(fast, slow):
        assert_near(mine, other.detach().numpy(), 1e-5)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
def test_mixing_outputs_equals_mixing_kernels(stride, monkeypatch):
    # what is exported must not depend on the number of clips
    torch.manual_seed(0)
    conv, norm = DynamicConv(6, 6, 8, 4, kernel=5, stride=stride), batch_norm(6).eval()
    torch.nn.init.normal_(conv.residuals[0].weight)
    x, context, temperature = torch.randn(3, 6, 9, 11), torch.randn(3, 8), torch.tensor(2.0)
    expected = conv(x, context, temperature, norm)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(conv(x, context, temperature, norm), expected, rtol=1e-4, atol=1e-5)


class Tagging(torch.nn.Module):
    """The classifier alone, as what is exported."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, mel):
        return self.net.tag(mel)[0]


def test_traced_network_takes_any_batch_and_length():
    torch.manual_seed(0)
    net = DyMN(width_mult=0.1, num_classes=5).eval().requires_grad_(False)
    traced = torch.jit.trace(Tagging(net), torch.randn(2, 1, 128, 104), check_trace=False)
    for batch, frames in ((1, 200), (3, 131)):
        mel = torch.randn(batch, 1, 128, frames)
        with torch.no_grad():
            torch.testing.assert_close(traced(mel), net.tag(mel)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_exported_block_takes_any_batch_and_length(stride):
    torch.manual_seed(0)
    plan = BlockPlan(8, 5, 16, 8, True, torch.nn.ReLU, (stride, stride), 1)
    block = DynamicBlock(plan, 1.0, Dynamics()).eval().requires_grad_(False)
    temperature, axes = torch.tensor(1.0), {0: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        inputs = torch.randn(2, 8, 16, 26), temperature
        exported = torch.export.export(block, inputs, dynamic_shapes=(axes, None), strict=False).module()
        for batch, frames in ((4, 50), (3, 33)):
            x = torch.randn(batch, 8, 16, frames)
            torch.testing.assert_close(exported(x, temperature), block(x, temperature), rtol=1e-4, atol=1e-5)


# -- training


def test_sgd_steps():
    expected = golden("tagging/training.npz")
    net = DyMN(width_mult=0.4, dropout=0.0).double()
    set_named_weights(net, 0)
    rescale_dynamic_convs(net)
    net.train()
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
    np.testing.assert_allclose(losses, expected["steps.dymn04.loss"], rtol=1e-7)
    np.testing.assert_allclose(norms, expected["steps.dymn04.grad_norm"], rtol=1e-7)
    np.testing.assert_allclose(net.in_c[1].running_mean, expected["steps.dymn04.first_bn_running_mean"], rtol=1e-7)
    np.testing.assert_allclose(net.out_c[1].running_var, expected["steps.dymn04.last_bn_running_var"], rtol=1e-7)


def test_initial_values():
    net = DyMN(width_mult=1.0)
    conv = net.layers[7].exp_conv  # 200 outputs of 1 x 1
    assert abs(conv.weight.std().item() / (2 / 200) ** 0.5 - 1) < 0.05
    assert abs(conv.residuals[0].weight.std().item() - 0.01) < 1e-3
    assert not net.layers[3].context_gen.conv_f.bias.any()
    assert abs(net.classifier[2].weight.std().item() - 0.01) < 1e-4


def test_gates_that_are_off_have_no_part():
    net = DyMN(width_mult=0.1, no_ca=True)
    net.tag(torch.randn(2, 1, 128, 64))[0].sum().backward()
    unused = {id(parameter) for parameter in net.unused_in_tagging()}
    assert len(unused) == 15 * 4
    assert {id(parameter) for parameter in net.parameters() if parameter.grad is None} == unused
    assert len(net.idle_parameters()) == 15 * 4 + 4


def test_layer_groups_follow_depth():
    net = DyMN(width_mult=0.1)
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = [{name_of[id(parameter)].rsplit(".", 1)[0] for parameter in group} for group in net.layer_groups()]
    assert groups[0] == {"in_c.0", "in_c.1"}
    assert groups[-1] == {"out_c.0", "out_c.1", "classifier.2", "classifier.5"}
    assert [{name.split(".")[1] for name in group} for group in groups[1:-1]] == [{str(i)} for i in range(15)]


# -- temperature


SCHEDULES = {
    "default": {"start": 30.0, "slopes": (1.0, 0.02)},
    "block_default": {"start": 30.0, "slopes": (1.0, 0.05)},
    "imagenet": {"start": 30.0, "slopes": (1.0, 0.02)},
    "audioset": {"start": 1.0, "slopes": (1.0, 0.02)},
    "slow": {"start": 30.0, "slopes": (0.5, 0.1)},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_temperature_schedules(name):
    temperatures = [scheduled_temperature(epoch, **SCHEDULES[name]) for epoch in range(60)]
    np.testing.assert_allclose(temperatures, golden("tagging/training.npz")[f"temperature.{name}"], rtol=1e-12)


def test_training_follows_the_schedule_and_goes_on_after_loading():
    expected = golden("tagging/training.npz")["temperature.default"]
    net = DyMN(width_mult=0.1)
    assert net.temperature == 30.0
    for epoch in range(20):
        net.start_epoch(epoch)
        assert net.temperature.item() == pytest.approx(expected[epoch], rel=1e-6)
    resumed = DyMN(width_mult=0.1)
    resumed.load_state_dict(net.state_dict())
    assert resumed.temperature.item() == pytest.approx(expected[19], rel=1e-6)
    resumed.start_epoch(20)
    assert resumed.temperature.item() == pytest.approx(expected[20], rel=1e-6)


def test_a_pooling_head_passes_the_schedule_on():
    net = DyMN(width_mult=0.1)
    ClipTagger(net, 3).start_epoch(7)
    assert net.temperature.item() == pytest.approx(golden("tagging/training.npz")["temperature.default"][7], rel=1e-6)


def test_fine_tuning_begins_at_the_temperature_of_the_weights():
    net = DyMN(width_mult=0.1)
    for epoch in (0, 59):
        net.start_epoch(epoch)
    assert net.temperature == 1.0
    tuned = DyMN(width_mult=0.1)
    tuned.load_state_dict(net.state_dict())
    for epoch in range(3):
        tuned.start_epoch(epoch)
        assert tuned.temperature == 1.0


def test_temperature_decides_the_mixture():
    torch.manual_seed(0)
    conv, norm = DynamicConv(3, 5, 8, 4), batch_norm(5).eval()
    torch.nn.init.normal_(conv.residuals[0].weight)
    x, context = torch.randn(1, 3, 4, 4), torch.randn(1, 8)
    kernels = conv.weight.view(4, 5, 3, 1, 1)
    chosen = kernels[conv.residuals(context)[0].argmax()]
    cold, hot = (conv(x, context, torch.tensor(temperature), norm) for temperature in (1e-3, 1e6))
    scale = (1 + norm.eps) ** -0.5
    torch.testing.assert_close(cold, F.conv2d(x, chosen) * scale)
    torch.testing.assert_close(hot, F.conv2d(x, kernels.mean(0)) * scale, rtol=1e-4, atol=1e-5)


# -- checkpoints


def published_file(folder, name, net):
    """Random weights in the layout of a published file, which has no temperature."""
    path = folder / models.get(name).checkpoint("own").file
    path.parent.mkdir(exist_ok=True)
    torch.save({key: tensor for key, tensor in net.state_dict().items() if key not in TEMPERATURES}, path)


@pytest.mark.parametrize(("name", "temperature"), [("dymn04_as", 1.0), ("dymn04_im", 30.0)])
def test_published_file_runs_at_the_temperature_of_its_training(tmp_path, name, temperature):
    source = models.build(name)[1]
    published_file(tmp_path, name, source)
    net = DyMN(width_mult=0.4, temperature=7.0)
    assert not load_pretrained(net, models.get(name).checkpoint("own"), tmp_path, prefix="model.").left
    assert (net.temperature, net.start_temperature) == (temperature, temperature)
    state = source.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items() if key not in TEMPERATURES)


def test_published_layout_loads_into_the_audioset_head(tmp_path):
    published_file(tmp_path, "dymn04_as", models.build("dymn04_as")[1])
    head = AudioSetHead(models.build("dymn04_as")[1])
    loaded = load_pretrained(head, models.get("dymn04_as").checkpoint("own"), tmp_path)
    assert {name.split(".")[0] for name in loaded.left} == {"head_linear_layer"}
    assert head.model.temperature == 1.0


def test_own_file_keeps_its_temperature(tmp_path):
    name = "dymn04_as"
    source = models.build(name)[1]
    source.set_temperature(12.5)
    path = tmp_path / models.get(name).checkpoint("own").file
    path.parent.mkdir()
    torch.save(source.state_dict(), path)
    net = models.build(name)[1]
    load_pretrained(net, models.get(name).checkpoint("own"), tmp_path, prefix="model.")
    assert net.temperature == 12.5


def test_classifier_of_other_classes_is_left_out(tmp_path):
    name = "dymn04_im"
    published_file(tmp_path, name, DyMN(width_mult=0.4, num_classes=1000))
    net = models.build(name)[1]
    initial = copy.deepcopy(net.state_dict())
    loaded = load_pretrained(net, models.get(name).checkpoint("own"), tmp_path, prefix="model.")
    assert loaded.left == ["classifier.5.weight", "classifier.5.bias"]
    assert all(torch.equal(net.state_dict()[key], initial[key]) for key in loaded.left)


def test_plain_loading_of_a_file_without_temperature_says_so():
    net = DyMN(width_mult=0.1)
    state = {key: tensor for key, tensor in net.state_dict().items() if key not in TEMPERATURES}
    with pytest.raises(RuntimeError, match=r'Missing key.*"temperature"'):
        net.load_state_dict(state)


# -- bad input


@pytest.mark.parametrize("name", ["dymn", "dymn4_as", "dymn10_se_as", "mn04_as", "dymn10_as_fc"])
def test_unknown_name_has_no_width(name):
    with pytest.raises(ValueError, match=f"'{name}' does not name a DyMN"):
        settings(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dy_blocks": "none"}, "dymn.use_dy_blocks: 'none' is none of all, replace_se"),
        ({"temperature": 0}, "dymn.temperature: 0 and final 1.0 are not both positive"),
        ({"strides": (2, 2, 2)}, r"dymn.strides: \(2, 2, 2\) are not four"),
        ({"width_mult": -1}, "width_mult must be positive, got -1"),
    ],
)
def test_bad_option_says_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        DyMN(**{"width_mult": 0.1, **options})
