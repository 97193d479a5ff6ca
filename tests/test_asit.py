"""ASiT: published names and outputs, its positions, and features that do not fit."""

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from models.asit.net import BANDS, Asit, AsitFbank
from tests.reference import golden
from tests.strong_parity import assert_front_end, assert_near, assert_predictions, built, clips, layer_groups, shapes


def tiny(depth=2):
    torch.manual_seed(0)
    return Asit(embed_dim=32, depth=depth, num_heads=2).eval()


def features(frames):
    values = np.random.default_rng(0).standard_normal((1, 1, BANDS, frames))
    return torch.from_numpy(values.astype(np.float32))


def test_names_shapes_and_layer_groups_are_the_published_ones():
    stored = golden("audioset_strong/manifest_m2d_asit.json")["asit"]
    assert shapes("asit") == stored["names_and_shapes"]
    assert layer_groups("asit") == [set(group) for group in stored["layer_groups"]]


def test_published_features():
    assert_front_end(AsitFbank().eval(), golden("audioset_strong/asit.npz"))


def test_features_are_those_of_kaldi():
    audio = clips(1.0, 1) + 0.1  # an offset, which is taken out of the whole clip first
    expected = kaldi.fbank(
        audio - audio.mean(), num_mel_bins=128, window_type="hanning", sample_frequency=16000, dither=0.0
    )
    actual = AsitFbank().eval()(audio)[0, 0].T
    torch.testing.assert_close(actual, (expected + 4.2677393) / (2 * 4.5689974), rtol=0, atol=1e-4)


def test_published_predictions():
    expected = golden("audioset_strong/asit.npz")
    mel, model = built("asit")
    assert_predictions(mel, model, expected)
    asit = model.model
    positions = torch.cat([asit.asit.pos_embed[:, :1], asit.positions(62)], dim=1)
    assert_near(positions[:, ::31, ::32], expected["pos_embed_resampled"], 1e-6)


@pytest.mark.parametrize(("frames", "tokens"), [(16, 9), (31, 9), (498, 249), (998, 497), (2000, 1001)])
def test_inputs_of_any_length(frames, tokens):
    y = tiny()(features(frames))
    assert y.shape == (1, tokens, 32)
    assert y.isfinite().all()


def test_tokens_are_the_class_token_and_then_bands_within_time():
    """Without blocks a token knows its own patch and position alone."""
    net, mel = tiny(depth=0), features(48)
    changed = mel.clone()
    changed[:, :, 32:48, 16:32] += 1  # third group of bands, second step
    differs = (net(mel) != net(changed)).any(2)[0]
    assert differs.nonzero().flatten().tolist() == [1 + 8 + 2]


def test_the_clip_mean_is_that_of_each_clip():
    audio = torch.cat([clips(1.0, 1), clips(1.0, 1) + 0.2])
    mel = AsitFbank().eval()(audio)
    torch.testing.assert_close(mel[0], mel[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 80, 100), (1, 2, 128, 100), (1, 128, 100), (1, 1, 128, 15)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"asit expects features of shape \[batch, 1, 128, at least 16 frames\]"):
        tiny()(torch.zeros(shape))
