"""What every registered architecture promises, and the registry itself."""

import functools
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models
import published
from models import registry
from models.crnn import Task4CRNN
from models.heads import AudioSetHead
from models.registry import OWN, Architecture, Checkpoint
from tests.golden.tagging.calibrate import calibrate_batchnorm

ROOT = Path(__file__).parents[1]

# Entries that make the networks small, by section. Where the name decides the size, the smallest name is taken.
TINY = {
    "atst_frame": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "fpasst": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "beats": {
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
    },
    "m2d": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "asit": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "cnn14": {"channels": [4, 4, 8, 8, 8, 16], "dropout": 0.0},
    "cnn14_clotho": {"channels": [4, 4, 8, 8, 8, 16], "dropout": 0.0},
}
# Numbers of parameters that have no part in the frame embeddings, by section.
IDLE = {"mn": 4, "dymn": 4, "cnn14": 4, "cnn14_clotho": 4, "atst_frame": 1}


def smallest_of_each_section():
    """One name per network section, the narrowest."""
    chosen = {}
    for name in sorted(models.names(), key=lambda name: models.get(name).preset.get("width_mult", 1)):
        chosen.setdefault(models.get(name).section, name)
    return list(chosen.values())


SMALL = smallest_of_each_section()


@functools.cache
def noise(sample_rate, seconds=1.0):
    rng = np.random.default_rng(0)
    return torch.from_numpy(0.1 * rng.standard_normal((2, int(seconds * sample_rate))).astype(np.float32))


def built(name):
    """Front end and tiny network in evaluation mode."""
    torch.manual_seed(0)
    mel, net = models.build(name, TINY)
    # Initial batch norms let the signal of a deep network fade to nothing.
    return mel.eval(), calibrate_batchnorm(net, mel.eval()(noise(mel.sample_rate)))


# -- every architecture


@pytest.mark.parametrize("name", models.names())
def test_waveform_to_embeddings(name):
    architecture = models.get(name)
    mel = architecture.mel(**architecture.mel_preset).eval()
    with torch.device("meta"):
        net = architecture.net(**architecture.preset).eval()
    features = mel(noise(mel.sample_rate))
    assert features.shape[:2] == (2, 1)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    embeddings = net(features.to("meta"))
    assert embeddings.dim() == 3
    assert embeddings.shape[0] == 2
    assert embeddings.shape[1] >= 1
    assert embeddings.shape[2] == net.embed_dim
    assert_groups(net)


def assert_groups(net):
    """The groups are disjoint and complete, and the network has some depth."""
    grouped = [id(parameter) for group in net.layer_groups() for parameter in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(parameter) for parameter in net.parameters()}
    assert sum(bool(group) for group in net.layer_groups()) >= 3


@pytest.mark.parametrize("name", models.names())
def test_presets_and_sections_name_real_entries(name):
    architecture = models.get(name)
    sections = models.sections()
    for target, preset, section in (
        (architecture.net, architecture.preset, architecture.section),
        (architecture.mel, architecture.mel_preset, architecture.mel_section),
    ):
        assert set(registry.defaults(target, preset)) <= set(sections[section])
    assert architecture.checkpoint(architecture.pretrained_name) is architecture.checkpoint(OWN)
    assert architecture.checkpoint(None) is None


def layouts(architecture):
    """All layouts of all checkpoints."""
    for checkpoint in architecture.checkpoints.values():
        while checkpoint is not None:
            yield checkpoint
            checkpoint = checkpoint.otherwise


@pytest.mark.parametrize("name", models.names())
def test_checkpoints_are_well_formed_and_can_be_downloaded(name):
    downloads = {resource.file for resource in published.table().values()}
    for checkpoint in layouts(models.get(name)):
        assert checkpoint.file in downloads
        patterns = [*checkpoint.missing, *checkpoint.ignored, checkpoint.select, *dict(checkpoint.rename)]
        assert all(re.compile(pattern) for pattern in patterns)


def test_config_defaults_are_plain_data():
    stored = json.dumps(models.sections(), default=dict)  # mappings are welcome, objects and functions are not
    assert set(json.loads(stored)) == set(models.sections())


# -- one small network of each section


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_that_takes_part_gets_a_gradient(name):
    mel, net = built(name)
    embeddings = net(mel(noise(mel.sample_rate)))
    weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
    (embeddings * weights).sum().backward()
    idle = {id(parameter) for parameter in net.idle_parameters()}
    assert len(idle) == IDLE.get(models.get(name).section, 0)
    for key, parameter in net.named_parameters():
        if id(parameter) in idle:
            assert parameter.grad is None, f"{key} is said to be idle"
        else:
            assert parameter.grad is not None, f"{key} gets no gradient"
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.any(), key


def fine_tuned(name, **entries):
    """A detector around the small network, in training mode, and both of its inputs."""
    mel, net = built(name)
    audio = noise(mel.sample_rate)
    model = Task4CRNN(net, n_RNN_cell=8, nb_filters=(2, 2, 4, 4, 4, 4, 4), audioset_classes=9, **entries)
    x = torch.randn(2, 1, 128, 64, generator=torch.Generator().manual_seed(0))
    return model.train(), x, mel(audio)


@pytest.mark.parametrize("no_wrapper", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_all_that_is_fine_tuned_gets_a_gradient_in_every_step(name, no_wrapper):
    """As distributed training needs it: what gets none says so from the start."""
    model, x, mel = fine_tuned(name, no_wrapper=no_wrapper)
    named = dict(model.named_parameters())
    trained = {key for key, parameter in named.items() if parameter.requires_grad}
    idle = {id(parameter) for parameter in model.as_model.idle_parameters()}
    head = set() if no_wrapper else {"as_model.head_linear_layer.weight", "as_model.head_linear_layer.bias"}
    assert set(named) - trained == head | {key for key, parameter in named.items() if id(parameter) in idle}

    predictions = model(x, mel, rng=np.random.default_rng(0))
    (predictions.strong.mean() + predictions.weak.mean()).backward()
    assert {key for key, parameter in named.items() if parameter.grad is not None} == trained

    names = {id(parameter): key for key, parameter in named.items()}
    grouped = [names[id(parameter)] for group in model.layer_groups() for parameter in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) - head >= {key for key in trained if key.startswith("as_model.")}
    assert {key for key in grouped if not key.startswith("as_model.")} == set()


@pytest.mark.parametrize("name", SMALL)
def test_gradient_checkpointing_stores_less_and_changes_no_gradient(name):
    mel, net = built(name)
    features = mel(noise(mel.sample_rate, seconds=4.0))
    head = AudioSetHead(net, audioset_classes=9).train()
    stored, gradients = [], []

    def count(tensor):
        stored[-1] += tensor.numel()
        return tensor

    for on in (False, True):
        head.grad_checkpointing = on
        assert net.grad_checkpointing == head.grad_checkpointing == on
        stored.append(0)
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = head(features, np.random.default_rng(0)).square().mean()
        loss.backward()
        gradients.append({key: p.grad.clone() for key, p in head.named_parameters() if p.grad is not None})
        head.zero_grad()
    assert stored[1] < 0.95 * stored[0]  # the convolutions of fPaSST store most of so narrow a network
    assert len(gradients[0]) >= 10
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-8, msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_checkpointing_is_an_entry_of_every_section(name):
    section = models.get(name).section
    assert models.sections()[section]["grad_checkpointing"] is False
    entries = {**TINY.get(section, {}), "grad_checkpointing": True}
    assert models.build(name, {section: entries})[1].grad_checkpointing is True


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_of_training_are_decided_by_the_generator(name):
    _, net = built(name)
    mel, _ = models.build(name)
    features = mel.eval()(noise(mel.sample_rate))
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (net.train()(features, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    net.eval()
    assert torch.equal(net(features, np.random.default_rng(3)), net(features))


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_is_deterministic(name):
    mel, net = built(name)
    audio = noise(mel.sample_rate)
    with torch.no_grad():
        features = mel(audio)
        assert torch.equal(features, mel(audio, rng=np.random.default_rng(1)))
        assert torch.equal(net(features), net(features))
        # nor does an embedding depend on the other clips of the batch
        torch.testing.assert_close(net(features[1:]), net(features)[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_training_draws_come_from_the_generator(name):
    mel, _ = built(name)
    audio = noise(mel.sample_rate)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (mel.train()(audio, rng=np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002


@pytest.mark.parametrize("name", SMALL)
def test_saved_weights_give_the_same_embeddings(name):
    mel, net = built(name)
    features = mel(noise(mel.sample_rate))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = models.build(name, TINY)[1].eval()
    with torch.no_grad():
        assert not torch.allclose(other(features), net(features), atol=1e-3)
        other.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert torch.equal(other(features), net(features))


@pytest.mark.parametrize("name", SMALL)
def test_features_keep_their_precision_under_autocast(name):
    mel, net = built(name)
    audio = noise(mel.sample_rate)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = mel(audio)
        embeddings = net(features)
    assert torch.equal(features, mel(audio))
    assert torch.isfinite(embeddings).all()


# -- the registry


@pytest.fixture
def empty(monkeypatch):
    """A registry without entries, for the time of a test."""
    monkeypatch.setattr(registry, "_ARCHITECTURES", {})


def net_of(size=3, *, width):
    return nn.Linear(size, width)


def entry(name, width=1, **options):
    return Architecture(name, net_of, nn.Identity, "net", "mel", preset={"width": width}, **options)


def test_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"unknown arch 'mn10_ass', did you mean mn10_as"):
        models.build("mn10_ass")


@pytest.mark.usefixtures("empty")
def test_a_name_is_registered_once():
    registry.register(entry("a"))
    with pytest.raises(ValueError, match="'a' is registered twice"):
        registry.register(entry("a"))


@pytest.mark.usefixtures("empty")
def test_build_takes_entries_of_its_section_and_the_name_decides_the_preset():
    registry.register(entry("a", width=2))
    _, net = registry.build("a", {"net": {"size": 5, "width": 9, "pretrained_name": None}, "other": {"size": 6}})
    assert (net.in_features, net.out_features) == (5, 2)
    assert registry.build("a")[1].in_features == 3


@pytest.mark.usefixtures("empty")
def test_names_that_share_a_section_have_their_own_checkpoints_by_default():
    files = {name: Checkpoint(f"{name}.pt") for name in "abc"}
    registry.register(entry("a", checkpoints={"a": files["a"]}, pretrained_name="a"))
    assert registry.sections() == {"mel": {}, "net": {"size": 3, "pretrained_name": "a"}}
    registry.register(entry("b", checkpoints={"b": files["b"], "c": files["c"]}, pretrained_name="b"))
    assert registry.sections()["net"]["pretrained_name"] == OWN
    assert registry.get("a").checkpoint(OWN) is files["a"]
    assert registry.get("b").checkpoint(OWN) is files["b"]
    assert registry.get("b").checkpoint("c") is files["c"]
    with pytest.raises(ValueError, match=r"net\.pretrained_name: 'a' is no checkpoint of b \(known: b, c\)"):
        registry.get("b").checkpoint("a")


def test_groups_by_depth():
    net = nn.ModuleDict({"stem": nn.Linear(1, 1), "blocks": nn.ModuleList(nn.Linear(1, 1) for _ in range(12))})
    net["norm"] = nn.LayerNorm(1)
    groups = registry.groups_by_depth(net, r"\bblocks\.(\d+)\.", r"\bnorm\.")
    expected = [net["stem"], *net["blocks"], net["norm"]]
    assert [list(map(id, group)) for group in groups] == [list(map(id, module.parameters())) for module in expected]


# -- the command


def run_table(*arguments):
    command = [sys.executable, "-m", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"})


def test_table_lists_every_architecture_in_time():
    start = time.perf_counter()
    result = run_table()
    assert time.perf_counter() - start < 30  # a guard, not a benchmark: the usual time is a sixth of this
    assert result.returncode == 0, result.stderr
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["arch", "M", "parameters", "kHz", "embedding", "checkpoints"]
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == models.names()  # long lists are folded
    published = next(row for row in rows if row.startswith("mn10_as "))
    assert published.split() == ["mn10_as", "4.88", "32", "960", "mn10_as"]


def test_table_of_some_names_and_of_an_unknown_one():
    assert len(run_table("mn04_as", "frame_mn06").stdout.splitlines()) == 3
    unknown = run_table("mn11_as")
    assert unknown.returncode == 2
    assert "unknown arch 'mn11_as'" in unknown.stderr
