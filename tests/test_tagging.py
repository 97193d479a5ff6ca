"""Every registered architecture tags clips, and weights come from published names, files and runs alike."""

import functools
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch

import models
from helpers.checkpoints import save
from models.registry import Backbone
from models.tagging import RUN_ENTRY, ClipTagger, Tagger, build_tagger, load_tagger
from tests.golden.named_weights import set_named_weights

# Entries that make the networks small, by section. Where the name decides the size, the smallest name is taken.
TRANSFORMER = {"embed_dim": 32, "depth": 2, "num_heads": 2}
CNN14 = {"channels": [4, 4, 8, 8, 8, 16], "dropout": 0.0}
TINY = {
    "atst_frame": TRANSFORMER,
    "fpasst": TRANSFORMER,
    "beats": {
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
    },
    "cnn14": CNN14,
    "cnn14_clotho": CNN14,
}


def smallest_of_each_section():
    """One name per network section, the narrowest."""
    chosen = {}
    for name in sorted(models.names(), key=lambda name: models.get(name).preset.get("width_mult", 1)):
        chosen.setdefault(models.get(name).section, name)
    return list(chosen.values())


SMALL = smallest_of_each_section()
OWN_HEAD = {"mn", "dymn", "cnn14", "cnn14_clotho"}


@functools.cache
def noise(sample_rate, seconds=1.0):
    rng = np.random.default_rng(0)
    return torch.from_numpy(0.1 * rng.standard_normal((2, int(seconds * sample_rate))).astype(np.float32))


def tiny(name, **options):
    """Front end and small tagger of six classes."""
    torch.manual_seed(0)
    return build_tagger(name, TINY, **{"n_classes": 6, **options})


# -- the contract


@pytest.mark.parametrize("name", models.names())
def test_every_architecture_tags(name):
    architecture = models.get(name)
    with torch.device("meta"):
        net = architecture.net(**architecture.preset).eval()
    tagger = net if isinstance(net, Tagger) else ClipTagger(net, 527).to("meta")
    mel = architecture.mel(**architecture.mel_preset).eval()
    logits, embedding = tagger.tag(mel(noise(mel.sample_rate)).to("meta"))
    assert logits.shape == (2, tagger.n_classes)
    assert tagger.n_classes == (300 if name == "cnn14_clotho" else 527)
    assert embedding.shape == (2, tagger.embed_dim)
    assert isinstance(net, Tagger) == (architecture.section in OWN_HEAD)


@pytest.mark.parametrize("pooling", [None, "mean", "attention"])
@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_that_is_trained_gets_a_gradient(name, pooling):
    mel, tagger = tiny(name, pooling=pooling)
    logits, embedding = tagger.train().tag(mel.eval()(noise(mel.sample_rate)), np.random.default_rng(0))
    assert logits.shape == (2, 6)
    assert embedding.shape == (2, tagger.embed_dim)
    logits.square().sum().backward()
    named = dict(tagger.named_parameters())
    trained = {key for key, parameter in named.items() if parameter.requires_grad}
    assert {key for key, parameter in named.items() if parameter.grad is not None} == trained
    own_head = pooling is None and models.get(name).section in OWN_HEAD
    assert isinstance(tagger, ClipTagger) != own_head
    if own_head:
        assert all(parameter.requires_grad for parameter in tagger.parameters())


@pytest.mark.parametrize("pooling", [None, "attention"])
@pytest.mark.parametrize("name", SMALL)
def test_groups_hold_every_parameter_once(name, pooling):
    _, tagger = tiny(name, pooling=pooling)
    grouped = [id(parameter) for group in tagger.layer_groups() for parameter in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(parameter) for parameter in tagger.parameters()}
    pattern = re.compile(tagger.classifier_names)
    top = {id(parameter) for parameter in tagger.layer_groups()[-1]}
    head = [id(parameter) for key, parameter in tagger.named_parameters() if pattern.search(key)]
    assert head
    assert set(head) <= top


@pytest.mark.parametrize("name", SMALL)
def test_a_clip_is_tagged_alike_in_any_batch(name):
    mel, tagger = tiny(name)
    features = mel.eval()(noise(mel.sample_rate))
    with torch.no_grad():
        both, one = tagger.eval().tag(features), tagger.tag(features[1:])
    for batch, single in zip(both, one):
        assert single.shape[0] == 1
        torch.testing.assert_close(single, batch[1:], rtol=1e-4, atol=1e-5)


# -- the pooling head


class Frames(Backbone):
    """Hands its input on as frame embeddings; one parameter has no part in them."""

    embed_dim = 3

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False)])
        self.spare = torch.nn.Parameter(torch.zeros(1))
        torch.nn.init.eye_(self.blocks[0].weight)

    def forward(self, mel, rng=None):
        return self.blocks[0](mel[:, 0].transpose(1, 2))

    def layer_groups(self):
        return [[self.spare], list(self.blocks.parameters())]

    def idle_parameters(self):
        return [self.spare]


FRAMES = torch.tensor([[[[1.0, 3.0], [0.0, 4.0], [2.0, 2.0]]]])  # two frames of three values


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_pooling_begins_as_the_mean(pooling):
    tagger = ClipTagger(Frames(), 2, pooling)
    logits, embedding = tagger.tag(FRAMES)
    torch.testing.assert_close(embedding, torch.tensor([[2.0, 2.0, 2.0]]))
    torch.testing.assert_close(logits, tagger.classifier(embedding))


def test_attention_weighs_frames():
    tagger = ClipTagger(Frames(), 2, "attention")
    with torch.no_grad():
        tagger.attention.weight.copy_(torch.tensor([[np.log(3) / 2, 0.0, 0.0]]))  # the second frame counts three times
    torch.testing.assert_close(tagger.tag(FRAMES)[1], torch.tensor([[2.5, 3.0, 2.0]]))


def test_pooling_head_hands_on_what_the_backbone_says():
    tagger = ClipTagger(Frames(), 2, "attention")
    assert torch.equal(tagger(FRAMES), FRAMES[:, 0].transpose(1, 2))
    assert [len(group) for group in tagger.layer_groups()] == [1, 1 + 4]
    assert tagger.unused_in_tagging() == [tagger.backbone.spare]
    assert len(tagger.idle_parameters()) == 1 + 4
    assert tagger.receptive_layers() is None
    tagger.grad_checkpointing = True
    assert tagger.backbone.grad_checkpointing is True
    assert tagger.start_epoch(3) is None


@pytest.mark.parametrize("n_classes", [None, 9])
def test_number_of_classes(n_classes):
    for name in ("mn01_as", "frame_mn06"):
        assert build_tagger(name, n_classes=n_classes)[1].n_classes == (n_classes or 527)
    tagger = build_tagger("mn01_as", {"mn": {"num_classes": 4, "head_type": "fully_convolutional"}}, n_classes)[1]
    assert tagger.tag(torch.zeros(1, 1, 128, 64))[0].shape == (1, n_classes or 4)


# -- weights


def published_file(folder, name, net):
    path = folder / models.get(name).checkpoint("own").file
    path.parent.mkdir(exist_ok=True)
    torch.save(net.state_dict(), path)
    return path


def assert_equal_but(tagger, source, left):
    state = source.state_dict()
    changed = {key for key, tensor in tagger.state_dict().items() if not torch.equal(tensor, state[key])}
    assert changed == set(left)


def test_a_published_name_is_found_in_the_resources(tmp_path):
    _, source = models.build("mn01_as")
    published_file(tmp_path, "mn01_as", source)
    for pretrained_name in ("own", "mn01_as"):
        _, tagger = build_tagger("mn01_as")
        assert not load_tagger(tagger, "mn01_as", pretrained_name, tmp_path).left
        assert_equal_but(tagger, source, [])


def test_a_name_of_the_same_family_will_do(tmp_path):
    _, source = models.build("mn01_im")
    published_file(tmp_path, "mn01_im", source)
    _, tagger = build_tagger("mn01_as")
    load_tagger(tagger, "mn01_as", "mn01_im", tmp_path)
    assert_equal_but(tagger, source, [])


@pytest.mark.parametrize("as_path", ["absolute", "relative"])
def test_a_file_of_published_layout(tmp_path, monkeypatch, as_path):
    monkeypatch.chdir(tmp_path)
    _, source = models.build("mn01_as")
    torch.save(source.state_dict(), "mine.pt")
    _, tagger = build_tagger("mn01_as")
    file = tmp_path / "mine.pt" if as_path == "absolute" else "mine.pt"
    assert not load_tagger(tagger, "mn01_as", file, "resources").left
    assert_equal_but(tagger, source, [])


def test_a_file_of_an_architecture_whose_default_is_no_checkpoint(tmp_path):
    # `beats` starts from random weights unless a name is given; a file of its published layout is read all the same
    _, source = tiny("beats")
    state = {key.removeprefix("model."): tensor for key, tensor in source.backbone.state_dict().items()}
    torch.save({"cfg": asdict(source.backbone.config), "model": state}, tmp_path / "beats.pt")
    _, tagger = tiny("beats")
    torch.nn.init.ones_(tagger.backbone.model.post_extract_proj.weight)
    left = load_tagger(tagger, "beats", tmp_path / "beats.pt", tmp_path).left
    assert left == []
    assert_equal_but(tagger.backbone, source.backbone, [])


@pytest.mark.parametrize("name", SMALL)
def test_a_file_of_a_run_and_other_classes(tmp_path, name):
    _, source = tiny(name, n_classes=9)
    save(tmp_path / "run.ckpt", {RUN_ENTRY: source.state_dict(), "config": {}})
    _, same = tiny(name, n_classes=9)
    for parameter in same.parameters():
        torch.nn.init.zeros_(parameter)
    assert not load_tagger(same, name, tmp_path / "run.ckpt", tmp_path).left
    assert_equal_but(same, source, [])
    mel, other = tiny(name, n_classes=4)
    left = load_tagger(other, name, tmp_path / "run.ckpt", tmp_path).left
    assert left
    pattern = re.compile(other.classifier_names)
    assert all(pattern.search(key) for key in left)
    assert other.tag(mel(torch.zeros(1, mel.sample_rate)))[0].shape == (1, 4)


@pytest.mark.parametrize("name", ["mn01_as", "frame_mn06"])
@pytest.mark.parametrize("theirs", [None, "mean", "attention"])
@pytest.mark.parametrize("ours", [None, "mean", "attention"])
def test_a_file_of_a_run_that_pools_in_another_way(tmp_path, name, theirs, ours):
    _, source = build_tagger(name, n_classes=9, pooling=theirs)
    set_named_weights(source, 1)
    save(tmp_path / "run.ckpt", {RUN_ENTRY: source.state_dict(), "config": {}})
    _, tagger = build_tagger(name, n_classes=9, pooling=ours)
    left = load_tagger(tagger, name, tmp_path / "run.ckpt", tmp_path).left
    below = [getattr(each, "backbone", each).state_dict() for each in (tagger, source)]
    own_head = re.compile(r"^(attention|classifier)\.")
    shared = [key for key in below[0] if key in below[1] and not own_head.search(key)]
    assert len(shared) > 100
    assert all(torch.equal(below[0][key], below[1][key]) for key in shared)
    assert all("classifier." in key or "attention." in key for key in left)
    if tagger.state_dict().keys() <= source.state_dict().keys():
        assert not left


def test_no_name_loads_nothing(tmp_path):
    _, tagger = build_tagger("mn01_as")
    assert load_tagger(tagger, "mn01_as", None, tmp_path) is None
    assert load_tagger(tagger, "atst_frame", None, tmp_path) is None


# -- bad input


def test_a_missing_file_names_the_download(tmp_path):
    _, tagger = build_tagger("mn01_as")
    with pytest.raises(FileNotFoundError, match=r"mn01_as_mAP_298\.pt.*download_resources\.py --only mn01_as_mAP_298"):
        load_tagger(tagger, "mn01_as", "own", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere/mine\.pt: no such weights file"):
        load_tagger(tagger, "mn01_as", "nowhere/mine.pt", tmp_path)


def test_an_unknown_name_lists_the_known(tmp_path):
    _, tagger = build_tagger("mn01_as")
    with pytest.raises(ValueError, match=r"pretrained_name: 'mn99_as' is no checkpoint of mn01_as \(known: mn01_as\)"):
        load_tagger(tagger, "mn01_as", "mn99_as", tmp_path)


def test_a_file_of_another_architecture_is_named(tmp_path):
    _, source = tiny("atst_frame")
    save(tmp_path / "run.ckpt", {RUN_ENTRY: source.state_dict()})
    _, tagger = tiny("mn01_as")
    with pytest.raises(ValueError, match=r"run\.ckpt does not fit MobileNetV3: .*is it for another architecture\?"):
        load_tagger(tagger, "mn01_as", tmp_path / "run.ckpt", tmp_path)


def test_bad_options_say_what_is_expected():
    with pytest.raises(ValueError, match="pooling: 'max' is none of mean, attention"):
        build_tagger("mn01_as", pooling="max")
    with pytest.raises(ValueError, match="n_classes: a tagger needs at least one class, got 0"):
        build_tagger("mn01_as", n_classes=0)
    with pytest.raises(ValueError, match="unknown arch 'mn01_ass'"):
        build_tagger("mn01_ass")
