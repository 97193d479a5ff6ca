"""Models of AudioSet-strong: heads, sequence models, published names, and what loads into what."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.checkpoints import load_pretrained, save
from models import registry
from models.heads import AudioSetHead
from models.layers import BiGRU, BiLSTM
from models.registry import Backbone
from models.sed import build_detectors
from models.strong import StrongModel, build_strong, checkpoint_of_run, for_stages, load_strong
from tests.golden.named_weights import set_named_weights
from tests.reference import golden
from tests.strong_parity import assert_mel, assert_near, built, clips, layer_groups, on_meta, shapes

WRAPPERS = golden("audioset_strong/manifest_prediction_wrapper.json")
LOADING = golden("audioset_strong/checkpoint_loading.json")
# arch: how its published files begin
STEMS = {"atst_frame": "ATST-F", "fpasst": "fpasst", "beats": "BEATs", "m2d": "M2D", "asit": "ASIT"}
TINY = {
    **{key: {"embed_dim": 32, "depth": 1, "num_heads": 2} for key in ("atst_frame", "fpasst", "m2d", "asit")},
    "beats": {
        "encoder_layers": 1,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
    },
}
ARCHS = (*STEMS, "frame_mn06")


class Tokens(Backbone):
    """The embeddings themselves, and in training some noise of the generator."""

    def __init__(self, embed_dim=24):
        super().__init__()
        self.embed_dim = embed_dim

    def forward(self, mel, rng=None):
        return mel if rng is None else mel + torch.from_numpy(rng.standard_normal(mel.shape)).float()

    def layer_groups(self):
        return [[], [], []]


def tiny(arch, **options):
    torch.manual_seed(0)
    return build_strong(arch, TINY, 5, rnn_dim=4, **options)


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


# -- heads and sequence models


@pytest.mark.parametrize("name", ["seq.gru1", "seq.gru2", "seq.lstm1", "seq.lstm2"])
@torch.no_grad()
def test_sequence_models_give_the_stored_outputs(name):
    stored = golden("audioset_strong/prediction_wrapper.npz")
    settings = dict(WRAPPERS["settings"][name])
    model = {"BiGRU": BiGRU, "BiLSTM": BiLSTM}[settings.pop("cls")](**settings)
    assert shapes_of(model) == WRAPPERS["names_and_shapes"][name]
    set_named_weights(model, 0)
    assert_near(model(torch.from_numpy(stored["seq_input"])), stored[name], 1e-5)


def wrapper(name):
    """The StrongModel of stored settings. The text "None" built heads there without using them."""
    entries = dict(WRAPPERS["settings"][name])
    net = Tokens(entries.pop("embed_dim"))
    if entries.get("head_type") == "None":
        entries["head_type"] = "linear"
    return StrongModel(net, **{"n_classes": entries.pop("n_classes_strong"), **entries}).eval()


@pytest.mark.parametrize("frames", ["short", "equal", "long", "one"])
@pytest.mark.parametrize(
    "name", [name for name in WRAPPERS["settings"] if name.startswith("wrap.") and "_rnn" not in name]
)
@torch.no_grad()
def test_stored_outputs(name, frames):
    stored = golden("audioset_strong/prediction_wrapper.npz")
    model = wrapper(name)
    assert shapes_of(model) == WRAPPERS["names_and_shapes"][name]
    set_named_weights(model, 0)
    tokens = torch.from_numpy(stored[f"wrap_input.{frames}"])
    if f"{name}.{frames}.sequence" in stored:
        assert_near(model.sequence(tokens), stored[f"{name}.{frames}.sequence"], 1e-5)
        return
    strong, weak = model.predict(tokens) if model.head_type == "attention" else model(tokens)
    assert_near(strong, stored[f"{name}.{frames}.strong"], 1e-5)
    assert_near(weak, stored[f"{name}.{frames}.weak"], 1e-5)


def test_default_sizes_are_the_published_ones():
    with torch.device("meta"):
        model = StrongModel(Tokens(768), seq_model_type="rnn")
    assert shapes_of(model) == WRAPPERS["names_and_shapes"]["wrap.default_rnn"]
    assert (model.seq_len, model.head_type, model.seq_model.rnn.dropout) == (250, "linear", 0)


def test_probabilities_of_linear_heads():
    model = wrapper("wrap.gru")
    tokens = torch.randn(2, 97, 24)
    for probabilities, logits in zip(model.predict(tokens), model(tokens)):
        torch.testing.assert_close(probabilities, logits.sigmoid())


def test_attention_of_certain_predictions_has_finite_logits():
    model = wrapper("wrap.attention")
    with torch.no_grad():
        model.strong_head.bias[:] = torch.tensor([200.0, -200.0, 0, 0, 0, 0, 0])
    tokens = torch.zeros(1, 40, 24)
    weak = model(tokens).weak
    assert weak.isfinite().all()
    torch.testing.assert_close(model.predict(tokens).weak[0, :2], torch.tensor([1.0, 0.0]), rtol=0, atol=1e-6)
    weak.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_generator_reaches_the_backbone():
    model = wrapper("wrap.linear")
    tokens = torch.zeros(1, 40, 24)
    first, second, other = (model(tokens, np.random.default_rng(seed)).strong for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)


def test_predictions_are_float32_under_autocast():
    model, tokens = wrapper("wrap.gru_attention"), torch.randn(1, 40, 24)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [*model(tokens), *model.predict(tokens)]
    assert {output.dtype for output in outputs} == {torch.float32}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"head_type": "None"}, "head_type: 'None' is none of 'linear', 'attention', None"),
        ({"seq_model_type": "tf"}, "seq_model_type: 'tf' is none of 'rnn', None"),
        ({"rnn_type": "BGRU"}, "rnn_type: 'BGRU' is none of 'BiGRU', 'BiLSTM'"),
        (
            {"head_type": "attention", "n_classes_weak": 3},
            "n_classes_weak: an attention head has 447 of them too, got 3",
        ),
    ],
)
def test_bad_choices(entries, message):
    with pytest.raises(ValueError, match=message):
        StrongModel(Tokens(), **entries)


def test_without_heads_there_are_no_classes():
    with pytest.raises(ValueError, match="head_type=None: it has a sequence, but no classes"):
        StrongModel(Tokens(), head_type=None)(torch.zeros(1, 5, 24))


# -- around registered architectures


@pytest.mark.parametrize("arch", ["atst_frame", "fpasst", "beats"])
def test_names_shapes_and_layer_groups_of_backbones(arch):
    stored = golden("audioset_strong/manifest_other_backbones.json")[STEMS[arch]]
    # the tables of the front end are no part of our network
    expected = {name: shape for name, shape in stored["names_and_shapes"].items() if "mel_transform" not in name}
    assert shapes(arch) == expected
    assert layer_groups(arch) == [set(group) for group in stored["layer_groups"]]


@pytest.mark.parametrize("arch", ["frame_mn06", "frame_mn10"])
def test_names_and_shapes_of_frame_wise_mobilenets(arch):
    assert shapes(arch) == golden("audioset_strong/manifest_frame_mn.json")[arch]


@pytest.mark.parametrize("arch", ["atst_frame", "fpasst", "beats"])
@torch.no_grad()
def test_published_predictions_of_backbones(arch):
    stored, name = golden("audioset_strong/other_backbones.npz"), STEMS[arch]
    mel, model = built(arch)
    features = mel(clips(batch=1))
    assert_mel(features[:, :, ::8, ::40], stored[f"{name}.mel"])
    seen = []
    model.model.register_forward_hook(lambda module, inputs, embedding: seen.append(embedding))
    strong, weak = model(features)
    assert_near(seen[0][:, ::10, ::16], stored[f"{name}.embedding"], 1e-4)
    assert_near(strong[:, ::6, ::10], stored[f"{name}.strong"], 1e-4)
    assert_near(weak, stored[f"{name}.weak"], 1e-4)


@torch.no_grad()
def test_published_predictions_of_a_frame_wise_mobilenet():
    stored = golden("audioset_strong/frame_mn.npz")
    mel, model = built("frame_mn06")
    for suffix, seconds, batch, every in (("", 10.0, 2, 4), ("_5s", 5.0, 1, 8), ("_20s", 20.0, 1, 8)):
        strong, weak = model(mel(clips(seconds, batch)))
        assert_near(strong[:, ::every, ::5], stored[f"frame_mn06.eval.strong{suffix}"], 1e-5)
        assert_near(weak, stored[f"frame_mn06.eval.weak{suffix}"], 1e-5)


@pytest.mark.parametrize("arch", registry.names())
def test_every_architecture_predicts(arch):
    architecture = registry.get(arch)
    model = on_meta(arch, n_classes=456, n_classes_weak=527)
    mel = architecture.mel(**architecture.mel_preset).eval()
    strong, weak = model.eval()(mel(torch.zeros(1, mel.sample_rate)).to("meta"))
    assert strong.shape == (1, 456, 250)
    assert weak.shape == (1, 527)


@pytest.mark.parametrize("arch", ARCHS)
def test_options_of_training_reach_the_backbone(arch):
    _, model = tiny(arch, seq_model_type="rnn")
    model.grad_checkpointing = True
    assert model.model.grad_checkpointing is True
    grouped = [id(parameter) for group in model.layer_groups() for parameter in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}
    on_top = {name.split(".")[0] for name, p in model.named_parameters() if id(p) in map(id, model.head_parameters())}
    assert on_top == {"seq_model", "strong_head", "weak_head"}
    assert [id(p) for p in model.idle_parameters()] == [id(p) for p in model.model.idle_parameters()]


# -- checkpoints


class Toy(Backbone):
    """A backbone with the given tensors."""

    embed_dim = 3

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(torch.zeros(shape)))


# base: stored -> own names of the backbone; tables of front ends have none
RENAMED = {"fpasst": ("model.fpasst.", "model."), "BEATs": ("model.beats.", "model.model.")}
TABLES = ("model.m2d.to_spec.", "model.atst_mel.")
# Where we load what the published loader rejects (True: everything, "stored": what it filled before the error), and the
# other way round (False).
DIFFERENT = {
    "fpasst already complete names get the prefix a second time": True,
    "fpasst new recurrent model without heads": "stored",
    "fpasst name without a rule": True,
    "ASIT complete names": True,
    "M2D front-end table missing, strict": "stored",
    "ATST-F mel tables present": "stored",
    "ATST-F mel tables present, heads differ": "stored",
    "frame_mn06 the rule is chosen by the checkpoint name, not by the model": True,
    "BEATs the test is on the prefix without the final dot": False,
}


def own_names(base, names):
    stored, own = RENAMED.get(base, ("model.", "model."))
    return [own + n.removeprefix(stored) if n.startswith(stored) else n for n in names if not n.startswith(TABLES)]


def toy(case):
    options = {key: value for key, value in case["wrapper"].items() if key not in ("embed_dim", "n_classes_strong")}
    names = [name for name in case["module_names"] if name.startswith("model.")]
    kept = [name for name in names if not name.startswith(TABLES)]
    inside = {
        own.removeprefix("model."): case["module_names"][name]
        for name, own in zip(kept, own_names(case["base"], kept), strict=True)
    }
    model = StrongModel(Toy(inside), case["wrapper"]["n_classes_strong"], **options)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("case", LOADING["cases"], ids=lambda case: f"{case['base']} {case['note']}")
def test_published_layouts(case, tmp_path):
    arch = {stem: arch for arch, stem in STEMS.items()}.get(case["base"], case["base"])
    tables = registry.get(arch).checkpoints
    checkpoint = tables.get(case["checkpoint"], tables[f"{case['base']}_strong_1"])
    save(tmp_path / checkpoint.file, {name: torch.ones(shape) for name, shape in case["checkpoint_entries"].items()})
    model = toy(case)
    everything = list(model.state_dict())
    assert sorted(everything) == sorted(own_names(case["base"], case["module_names"]))

    name = f"{case['base']} {case['note']}"
    published = case["result"] == "ok"
    loads = DIFFERENT.get(name, "stored" if published else False)
    assert (bool(loads) != published) == (name in DIFFERENT)
    if not loads:
        with pytest.raises(ValueError, match=rf"{case['base']}_\w+\.pt"):
            load_strong(model, checkpoint, tmp_path)
        filled = []
    else:
        filled = everything if loads is True else own_names(case["base"], case["filled_names"])
        assert sorted(load_strong(model, checkpoint, tmp_path).restored) == sorted(filled)
    for name, tensor in model.state_dict().items():
        assert (tensor == (name in filled)).all(), name


def test_every_difference_is_one_of_a_stored_case():
    assert set(DIFFERENT) <= {f"{case['base']} {case['note']}" for case in LOADING["cases"]}


@pytest.mark.parametrize("part", ["strong_head.bias", "seq_model.rnn.bias_hh_l1"])
def test_a_part_on_top_of_the_backbone_comes_as_a_whole(part, tmp_path):
    _, model = tiny("atst_frame", seq_model_type="rnn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoint = registry.get("atst_frame").checkpoints["ATST-F_strong_1"]
    state = {name: torch.ones(shape) for name, shape in shapes_of(model).items() if name != part}
    save(tmp_path / checkpoint.file, state)
    with pytest.raises(ValueError, match=rf"ATST-F_strong_1\.pt: {part} is missing, .* can only be loaded as a whole"):
        load_strong(model, checkpoint, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_published_names_and_addresses():
    names = {name for arch in (*ARCHS, "frame_mn10") for name in registry.get(arch).checkpoints}
    assert names >= set(LOADING["names"])
    for arch in (*ARCHS, "frame_mn10"):
        for name, checkpoint in registry.get(arch).checkpoints.items():
            if name in LOADING["names"]:
                assert checkpoint.file == f"pretrained_models/{name}{LOADING['extension']}"


def published_file(folder, arch, name, model):
    """What the published training writes, with heads for sound events and the tables of a front end."""
    checkpoint = registry.get(arch).checkpoints[name]
    state = {key: torch.full_like(tensor, 0.5) for key, tensor in model.state_dict().items()}
    if arch in ("m2d", "asit"):
        state = {key.replace(f"model.{arch}.", "model."): tensor for key, tensor in state.items()}
    tables = {"atst_frame": "model.atst_mel.mel_transform.fb", "m2d": "model.to_spec.mel_basis"}
    if arch in tables:
        state[tables[arch]] = torch.zeros(3)
    save(folder / checkpoint.file, state)
    return checkpoint


@pytest.mark.parametrize("kind", ["strong_1", "weak", "ssl"])
@pytest.mark.parametrize("arch", STEMS)
def test_stages_take_the_backbone_of_a_published_file(arch, kind, tmp_path):
    _, source = tiny(arch)
    checkpoint = published_file(tmp_path, arch, f"{STEMS[arch]}_{kind}", source)
    head = AudioSetHead(source.model, audioset_classes=9, attention=True)
    loaded = load_pretrained(head, checkpoint, tmp_path)
    assert {name.split(".")[0] for name in loaded.left} == {"head_linear_layer", "att_linear_layer"}
    assert all((tensor == 0.5).all() for tensor in head.model.state_dict().values())


# what the backbone of a published stage starts from
AS_STRONG = {"atst_frame": "atst_as_strong", "fpasst": "passt_as_strong"}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_checkpoint_of_ours_starts_another_training_and_a_stage(arch, tmp_path):
    _, source = tiny(arch, seq_model_type="rnn")
    path = tmp_path / "mine.ckpt"
    save(path, {**for_stages(source.state_dict()), "epoch": 3})
    _, other = tiny(arch, seq_model_type="rnn")
    head = AudioSetHead(tiny(arch)[1].model, audioset_classes=9, attention=True)
    for model in (other, head):
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    assert not load_strong(other, checkpoint_of_run(path), "").left
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in source.state_dict().items())
    loaded = load_pretrained(head, checkpoint_of_run(path), "")
    assert {name.split(".")[0] for name in loaded.left} == {"head_linear_layer", "att_linear_layer"}
    assert all(torch.equal(tensor, head.model.state_dict()[n]) for n, tensor in source.model.state_dict().items())


@pytest.mark.parametrize("arch", AS_STRONG)
def test_stage_one_starts_from_a_checkpoint_of_ours_by_name(arch, tmp_path):
    _, source = tiny(arch, seq_model_type="rnn")
    save(tmp_path / registry.get(arch).checkpoint(AS_STRONG[arch]).file, for_stages(source.state_dict()))
    config = {**TINY, "t4_wrapper": {"n_RNN_cell": 8, "nb_filters": (2,) * 7, "pretrained_name": AS_STRONG[arch]}}
    student = build_detectors(arch, config, tmp_path).student.as_model
    assert all(torch.equal(tensor, student.model.state_dict()[n]) for n, tensor in source.model.state_dict().items())


@pytest.mark.parametrize("arch", AS_STRONG)
def test_names_of_our_checkpoints_are_those_that_the_published_stages_accept(arch):
    cases = golden("sed/checkpoint_loading_cases.json")["audioset_wrapper"]
    (case,) = (
        c for c in cases if c["case"] == "net_strong.model.<backbone>" and c["arch"] == arch.removesuffix("_frame")
    )
    assert case["loads"]
    names = [name for name in for_stages(on_meta(arch).state_dict())["state_dict"] if ".model." in name]
    assert len(names) == case["n_source_keys"]
    assert set(case["first_source_keys"]) <= set(names)


def test_names_that_the_published_stages_reject_are_not_written():
    model = StrongModel(AudioSetHead(tiny("atst_frame")[1].model, audioset_classes=9))
    with pytest.raises(ValueError, match=r"model\.head_linear_layer\.weight: the state is not of a StrongModel around"):
        for_stages(model.state_dict())


def test_training_starts_from_a_backbone_of_other_tables(tmp_path):
    """Any checkpoint of the architecture will do, in any of its layouts."""
    _, model = tiny("fpasst")
    checkpoint = registry.get("fpasst").checkpoints["passt_as_strong"]
    state = {f"net.{name}": torch.ones(shape) for name, shape in shapes_of(model).items() if name.startswith("model.")}
    save(tmp_path / checkpoint.file, {"state_dict": {**state, "net.head_linear_layer.bias": torch.zeros(527)}})
    loaded = load_strong(model, checkpoint, tmp_path)
    assert {name.split(".")[0] for name in loaded.left} == {"strong_head", "weak_head"}
    assert all((tensor == 1).all() for tensor in model.model.state_dict().values())
