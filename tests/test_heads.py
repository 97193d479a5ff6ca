"""AudioSet head and recurrent head: stored outputs, lengths, and the groups of parameters."""

import numpy as np
import pytest
import torch

from models import registry
from models.heads import AudioSetHead, RnnHead
from models.layers import attention_pool
from models.registry import Backbone
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.reference import golden

TOKENS = {"": 250, "_496": 496}


class Identity(Backbone):
    embed_dim = 768

    def forward(self, mel, rng=None):
        return mel


class TwoLayers(Backbone):
    embed_dim = 3

    def __init__(self):
        super().__init__()
        self.lower, self.upper = torch.nn.Linear(2, 4), torch.nn.Linear(4, 3)

    def forward(self, mel, rng=None):
        return self.upper(self.lower(mel))

    def layer_groups(self):
        return [list(self.lower.parameters()), list(self.upper.parameters())]


class Embedded(Backbone):
    """Knows one answer: the expensive part of two forwards done once."""

    def __init__(self, tokens):
        super().__init__()
        self.embed_dim, self.tokens = tokens.shape[2], tokens

    def forward(self, mel, rng=None):
        return self.tokens


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng([0, 11])
    rng.standard_normal((2, 1, 16, 40))  # the stored inputs come from one generator, this one is not needed here
    return {name: torch.from_numpy(rng.standard_normal((2, n, 768)).astype(np.float32)) for name, n in TOKENS.items()}


@pytest.mark.parametrize("suffix", TOKENS)
@torch.no_grad()
def test_recurrent_head_gives_the_stored_outputs(suffix, embeddings):
    stored = golden("sed/rnn_head.npz")
    model = RnnHead(AudioSetHead(Identity()), n_RNN_cell=64).eval()
    assert list(model.state_dict()) == list(stored["names"])
    set_named_weights(model, 0)
    strong, weak = model(embeddings[suffix])
    assert strong.shape == (2, 456, 250)
    np.testing.assert_allclose(strong[:, ::12, ::6].numpy(), stored[f"strong{suffix}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(weak.numpy(), stored[f"weak{suffix}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["atst_frame", "fpasst", "beats"])
@torch.no_grad()
def test_audioset_head_gives_the_stored_outputs(arch):
    stored = golden(f"sed/model_{arch}.npz")
    audio = torch.from_numpy(golden_waveform(10.0, 16000, seed=0, batch=2))
    front_end = registry.get(arch).mel(**({"fmax_aug_range": 2000} if arch == "fpasst" else {})).eval()
    head = AudioSetHead(registry.get(arch).net(), attention=True).eval()
    set_named_weights(head, 0)
    mel = front_end(audio)[1:]  # one clip is enough here; its features depend on the other one in ATST
    head.model = Embedded(head.model(mel))
    np.testing.assert_allclose(head(mel)[0, ::10, ::4].numpy(), stored["audioset.logits"][1], rtol=0, atol=1e-3)
    strong, weak = head.predict(mel)
    np.testing.assert_allclose(strong[0, ::4, ::10].numpy(), stored["audioset.strong"][1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(weak[0].numpy(), stored["audioset.weak"][1], rtol=0, atol=1e-4)


def test_recurrent_head_has_the_published_names_and_shapes():
    published = golden("sed/state_dict_audioset_strong_atst_frame.json")["shapes"]
    with torch.device("meta"):
        model = RnnHead(AudioSetHead(Identity()))
    expected = {
        name.removeprefix("net_strong."): shape
        for name, shape in published.items()
        if name.startswith("net_strong.") and ".atst." not in name
    }
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected


def test_recurrent_head_without_attention_averages_over_time():
    model = RnnHead(TwoLayers(), n_classes=5, n_RNN_cell=4, attention=False)
    strong, weak = model(torch.randn(2, 7, 2))
    assert strong.shape == (2, 5, 7)
    torch.testing.assert_close(weak, strong.mean(2))
    assert not any("softmax" in name for name in model.state_dict())


def test_attention_pool_by_hand():
    # two frames, two classes; softmax over classes: (1/2, 1/2) and (3/4, 1/4)
    strong = torch.tensor([[[0.2, 0.4], [0.6, 0.8]]])
    logits = torch.tensor([[[1.0, 1.0], [3.0, 1.0]]]).log()
    expected = [(0.2 * 0.5 + 0.6 * 0.75) / 1.25, (0.4 * 0.5 + 0.8 * 0.25) / 0.75]
    torch.testing.assert_close(attention_pool(strong, logits), torch.tensor([expected]))


def test_attention_pool_of_a_class_without_attention_is_finite():
    strong = torch.rand(1, 4, 3, requires_grad=True)
    logits = torch.zeros(1, 4, 3).index_fill(2, torch.tensor([1]), -1e30).requires_grad_()
    weak = attention_pool(strong, logits)
    weak.sum().backward()
    torch.testing.assert_close(weak[0, 1], strong[0, :, 1].mean())
    assert strong.grad.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("frames", [100, 250, 496])
def test_audioset_head_always_gives_seq_len_frames(frames):
    head = AudioSetHead(TwoLayers(), audioset_classes=7, attention=True)
    assert head.embed_dim == 7
    mel = torch.randn(2, frames, 2)
    assert head(mel).shape == (2, 250, 7)
    strong, weak = head.predict(mel)
    torch.testing.assert_close(strong, torch.sigmoid(head(mel)).transpose(1, 2))
    assert weak.shape == (2, 7)
    assert ((weak > 0) & (weak < 1)).all()


def test_audioset_head_without_attention_has_no_clip_probabilities():
    head = AudioSetHead(TwoLayers(), audioset_classes=7)
    assert not any(name.startswith("att_linear_layer") for name in head.state_dict())
    with pytest.raises(ValueError, match="attention=True"):
        head.predict(torch.randn(1, 5, 2))


@pytest.mark.parametrize("attention", [False, True])
def test_audioset_head_joins_the_last_layer_group(attention):
    head = AudioSetHead(TwoLayers(), attention=attention)
    lower, upper = head.layer_groups()
    assert [id(p) for p in lower] == [id(p) for p in head.model.lower.parameters()]
    assert {id(p) for p in lower + upper} == {id(p) for p in head.parameters()}
    assert len(lower + upper) == len(list(head.parameters()))
