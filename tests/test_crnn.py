"""The task-4 network: stored outputs of every variant, class masks, lengths, and the entries of its section.

Stored outputs with the published backbones are in ``test_sed.py``.
"""

import inspect

import numpy as np
import pytest
import torch

from helpers.optim import make_optimizer
from models import registry
from models.crnn import Task4CRNN
from models.heads import AudioSetHead
from models.layers import drop_steps
from tests.golden.named_weights import set_named_weights
from tests.reference import golden

VARIANTS = {
    "aap": {},
    "int_nearest": {"embed_pool": "int"},
    "int_nearest_exact": {"embed_pool": "int", "interpolation_mode": "nearest-exact"},
    "conv": {"embed_pool": "conv"},
    "glu": {"activation": "glu"},
    "relu": {"activation": "relu"},
    "mean": {"attention": False},
    "small_rnn": {"n_RNN_cell": 128, "n_layers_RNN": 1},
}
NEAREST_EXACT = {"embed_pool": "int", "interpolation_mode": "nearest-exact"}
ARCHITECTURES = {
    "atst_frame": {},
    "fpasst": NEAREST_EXACT,
    "beats": {**NEAREST_EXACT, "no_wrapper": True},
}
SMALL = {"n_RNN_cell": 8, "nb_filters": (2, 2, 4, 4, 4, 4, 4)}


class Tokens(registry.Backbone):
    """A backbone whose input is its output; ``scale`` so that it has something to train."""

    def __init__(self, embed_dim=768):
        super().__init__()
        self.embed_dim = embed_dim
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, mel, rng=None):
        return mel * self.scale if rng is None else mel * self.scale * rng.random()

    def layer_groups(self):
        return [[self.scale]]


def small_model(embed_dim=6, **entries):
    torch.manual_seed(0)
    return Task4CRNN(Tokens(embed_dim), **{"no_wrapper": True, **SMALL, **entries})


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng([0, 11])
    coarse = rng.standard_normal((2, 1, 16, 40))
    x = np.repeat(np.repeat(coarse, 8, axis=2), 16, axis=3)[..., :626].astype(np.float32)
    tokens = rng.standard_normal((2, 250, 768)).astype(np.float32)
    patches = rng.standard_normal((2, 496, 768)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(tokens), torch.from_numpy(patches)


def assert_stored(value, stored, name, tolerance):
    np.testing.assert_allclose(value.numpy(), stored[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_stored_outputs(variant, inputs):
    x, tokens, patches = inputs
    stored = golden("sed/crnn.npz")
    model = Task4CRNN(Tokens(), no_wrapper=True, **VARIANTS[variant]).eval()
    set_named_weights(model, 0)
    model.as_model.scale.fill_(1.0)
    mask = torch.from_numpy(stored["classes_mask"])

    assert_stored(model.cnn(x.transpose(2, 3))[:, ::4, ::3, 0], stored, f"{variant}.cnn", 1e-4)
    hidden = model.hidden(x, model.embed(tokens))
    assert_stored(model.logits(hidden)[:, ::2], stored, f"{variant}.logits", 1e-4)
    masked = model(x, tokens, mask)
    assert_stored(masked.strong[..., ::6], stored, f"{variant}.strong_masked", 1e-5)
    assert_stored(masked.weak, stored, f"{variant}.weak_masked", 1e-5)
    assert_stored(model.head(hidden).weak, stored, f"{variant}.weak", 1e-5)
    if f"{variant}_x200.cnn" in stored:
        # gates in saturation: the stored float32 values are themselves 2.4e-3 (logits 1.1e-4) away from float64
        loud = 200 * x
        assert_stored(model.cnn(loud.transpose(2, 3))[:, ::4, ::3, 0], stored, f"{variant}_x200.cnn", 5e-3)
        assert_stored(model.logits(model.hidden(loud, tokens))[:, ::2], stored, f"{variant}_x200.logits", 3e-4)
    if f"{variant}.logits_496" in stored:
        assert_stored(model.logits(model.hidden(x, patches))[:, ::2], stored, f"{variant}.logits_496", 1e-4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_state_names_and_shapes_are_those_of_the_published_checkpoints(arch):
    with torch.device("meta"):
        model = Task4CRNN(registry.get(arch).net(), **ARCHITECTURES[arch])
    published = golden(f"sed/state_dict_t4_{arch}.json")["shapes"]
    expected = {
        name.removeprefix("student."): shape for name, shape in published.items() if name.startswith("student.")
    }
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected


def test_masked_classes_are_silent_and_get_no_attention():
    model, x, tokens = small_model().eval(), torch.randn(2, 1, 128, 40), torch.randn(2, 20, 6)
    mask = torch.zeros(2, 27, dtype=torch.bool)
    mask[0, :10] = mask[1, 10:] = True
    free, masked = model(x, tokens), model(x, tokens, mask)
    assert (masked.strong[~mask] == 0).all()
    assert (masked.weak[~mask] == 0).all()
    torch.testing.assert_close(masked.strong[mask], free.strong[mask], rtol=0, atol=0)
    assert not torch.allclose(masked.weak[mask], free.weak[mask])
    everything = model(x, tokens, torch.ones(2, 27, dtype=torch.bool))
    torch.testing.assert_close(everything.weak, free.weak)


def test_attention_weights_sum_to_one_over_the_classes_of_a_frame():
    model = small_model(attention=True).eval()
    hidden = torch.randn(1, 5, 16)
    attention = torch.softmax(model.dense_softmax(hidden), dim=2)
    strong = torch.sigmoid(model.dense(hidden))
    by_hand = (strong * attention).sum(1) / attention.sum(1)
    torch.testing.assert_close(model.head(hidden).weak, by_hand)


@pytest.mark.parametrize(("frames", "expected"), [(626, 156), (313, 78), (64, 16), (1251, 312), (4, 1)])
@pytest.mark.parametrize("embed_pool", ["aap", "int"])
def test_every_clip_length_works(frames, expected, embed_pool):
    model = small_model(embed_pool=embed_pool).eval()
    predictions = model(torch.randn(1, 1, 128, frames), torch.randn(1, 33, 6))
    assert predictions.strong.shape == (1, 27, expected)
    assert predictions.weak.shape == (1, 27)


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch_mates():
    model, x, tokens = small_model().eval(), torch.randn(3, 1, 128, 64), torch.randn(3, 20, 6)
    together = model(x, tokens)
    for i in range(3):
        alone = model(x[i : i + 1], tokens[i : i + 1])
        torch.testing.assert_close(alone.strong[0], together.strong[i], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.weak[0], together.weak[i], rtol=0, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    model = small_model().train()
    predictions = model(torch.randn(2, 1, 128, 64), torch.randn(2, 20, 6))
    (predictions.strong.mean() + predictions.weak.mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_predictions_are_float32_under_autocast():
    model, x, tokens = small_model().eval(), torch.randn(1, 1, 128, 64), torch.randn(1, 20, 6)
    mask = torch.arange(27)[None] < 10
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strong, weak = model(x, tokens, mask)
    assert strong.dtype == weak.dtype == torch.float32
    full_precision = model(x, tokens, mask)
    torch.testing.assert_close(strong, full_precision.strong, rtol=0, atol=0.02)
    torch.testing.assert_close(weak, full_precision.weak, rtol=0, atol=0.02)


def test_the_audioset_head_is_put_on_once_and_can_be_shared():
    student = Task4CRNN(Tokens(6), audioset_classes=9, **SMALL)
    assert isinstance(student.as_model, AudioSetHead)
    assert student.cat_tf.in_features == 4 + 9
    teacher = Task4CRNN(student.as_model, audioset_classes=9, **SMALL)
    assert teacher.as_model is student.as_model
    assert [len(group) for group in student.layer_groups()] == [1]
    with pytest.raises(ValueError, match=r"t4_wrapper\.no_wrapper"):
        Task4CRNN(student.as_model, no_wrapper=True, **SMALL)


def test_a_frozen_audioset_head_passes_gradients_on():
    model = Task4CRNN(AudioSetHead(Tokens(6), 9, attention=True), audioset_classes=9, **SMALL)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    layers = ("head_linear_layer", "att_linear_layer")
    assert frozen == {f"as_model.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    make_optimizer(model.named_parameters(), model.layer_groups(), pt_trainable_layers="all")
    model(torch.randn(2, 1, 128, 64), torch.randn(2, 20, 6)).strong.mean().backward()
    assert model.as_model.model.scale.grad.any()
    assert model.as_model.head_linear_layer.weight.grad is None


@pytest.mark.parametrize("no_wrapper", [True, False])
def test_the_generator_reaches_the_backbone(no_wrapper):
    model = small_model(no_wrapper=no_wrapper, audioset_classes=9).eval()
    x, tokens = torch.randn(2, 1, 128, 64), torch.randn(2, 20, 6)
    outcomes = {model.embed(tokens, np.random.default_rng(seed)).sum().item() for seed in (0, 0, 1)}
    assert len(outcomes | {model.embed(tokens).sum().item()}) == 3
    drawn = model(x, tokens, rng=np.random.default_rng(0)).strong
    torch.testing.assert_close(drawn, model.head(model.hidden(x, model.embed(tokens, np.random.default_rng(0)))).strong)
    assert not torch.equal(drawn, model(x, tokens).strong)


def test_logits_are_float32_under_autocast():
    model, hidden = small_model().eval(), torch.randn(2, 5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(hidden.bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model.dense(hidden.bfloat16().float()), rtol=0, atol=0)


def test_dropped_steps_are_one_run_per_clip():
    torch.manual_seed(0)
    x = torch.ones(64, 100, 3)
    dropped = (drop_steps(x, max_length=16, max_share=0.5) == 0).all(2)
    assert (drop_steps(x, 16, 0.5).eq(0).any(2) == drop_steps(x, 16, 0.5).eq(0).all(2)).float().mean() > 0.5
    lengths = dropped.sum(1)
    assert 8 < lengths.max() < 16
    assert len(lengths.unique()) > 5
    borders = torch.nn.functional.pad(dropped.int(), (1, 1)).diff(dim=1).abs().sum(1)
    assert (borders[lengths > 0] == 2).all()
    assert (drop_steps(x, 16, 0.05) == 0).all(2).sum(1).max() < 5
    assert (x == 1).all()


def test_dropstep_acts_in_training_only():
    model = small_model(dropout=0.0, dropstep_recurrent=0.9, dropstep_recurrent_len=64)
    # batch norm in evaluation mode, so that only the dropped steps can make a difference
    model.train().cnn.eval()
    x, tokens = torch.randn(2, 1, 128, 256), torch.randn(2, 64, 6)
    assert not torch.equal(model.hidden(x, tokens), model.hidden(x, tokens))
    model.eval()
    assert torch.equal(model.hidden(x, tokens), model.hidden(x, tokens))


@pytest.mark.parametrize("embedding_size", [768, None, 6])
def test_embedding_size_leaves_the_width_to_the_backbone(embedding_size):
    assert small_model(embedding_size=embedding_size).cat_tf.in_features == 4 + 6


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("embedding_size", 512),
        ("activation", "gelu"),
        ("rnn_type", "LSTM"),
        ("embed_pool", "max"),
        ("interpolation_mode", "cubic"),
        ("aggregation_type", "global"),
        ("embedding_type", "clip"),
        ("use_embeddings", False),
        ("name", "CRNN"),
        ("pooling", ((2, 2),)),
        ("stride", (1, 1)),
    ],
)
def test_unsupported_entries_are_named(entry, value):
    with pytest.raises(ValueError, match=rf"^t4_wrapper\.{entry}: .*expected"):
        small_model(**{entry: value})


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"t4_wrapper\.pooling leaves 0 bands and 16 frames of 64 mel bands"):
        small_model().hidden(torch.randn(1, 1, 64, 64), torch.randn(1, 20, 6))
    with pytest.raises(ValueError, match="0 frames of 128 mel bands and 3 frames"):
        small_model().hidden(torch.randn(1, 1, 128, 3), torch.randn(1, 20, 6))
    with pytest.raises(ValueError, match=r"t4_wrapper\.embed_pool=conv makes 402 frames of 496 tokens .* has 156"):
        small_model(embed_pool="conv").hidden(torch.randn(1, 1, 128, 626), torch.randn(1, 496, 6))


def test_defaults_are_immutable():
    defaults = [p.default for p in inspect.signature(Task4CRNN).parameters.values()]
    assert not any(isinstance(default, list | dict | set) for default in defaults)
