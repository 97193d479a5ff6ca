"""M2D: published names and outputs, pieces of long inputs, and features that do not fit."""

import numpy as np
import pytest
import torch

from models.m2d.net import BANDS, M2d, M2dMel
from tests.reference import golden
from tests.strong_parity import assert_front_end, assert_near, assert_predictions, built, clips, layer_groups, shapes


def tiny():
    torch.manual_seed(0)
    return M2d(embed_dim=32, depth=2, num_heads=2).eval()


def features(frames, seed=0):
    values = np.random.default_rng(seed).standard_normal((1, 1, BANDS, frames))
    return torch.from_numpy(values.astype(np.float32))


def test_names_shapes_and_layer_groups_are_the_published_ones():
    stored = golden("audioset_strong/manifest_m2d_asit.json")["m2d"]
    # the tables of the front end are no part of our network, and its two constants are no parameter
    tables = set(stored["buffers"])
    assert shapes("m2d") == {name: s for name, s in stored["names_and_shapes"].items() if name not in tables}
    expected = [set(group) - {"m2d.backbone.norm_stats"} for group in stored["layer_groups"]]
    assert layer_groups("m2d") == expected


def test_published_features():
    assert_front_end(M2dMel().eval(), golden("audioset_strong/m2d.npz"))


def test_published_predictions():
    expected = golden("audioset_strong/m2d.npz")
    mel, model = built("m2d")
    assert_predictions(mel, model, expected)
    patches = model.model.m2d["backbone"].patch_embed(mel(clips())[..., :208]).flatten(2).transpose(1, 2)
    assert_near(patches[:, ::9, ::32], expected["patches_first_chunk"], 1e-3)


def test_stored_norm_statistics_have_no_effect():
    net, mel = tiny(), features(64)
    before = net(mel)
    net.m2d["backbone"].norm_stats += 3
    assert torch.equal(net(mel), before)
    np.testing.assert_allclose(tiny().state_dict()["m2d.backbone.norm_stats"], [-7.1, 4.2], atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "steps"), [(1, 1), (16, 1), (17, 2), (501, 32), (992, 62), (1001, 62), (1002, 63), (2001, 124)]
)
def test_inputs_of_any_length(frames, steps):
    y = tiny()(features(frames))
    assert y.shape == (1, steps, 5 * 32)
    assert y.isfinite().all()


def test_pieces_of_ten_seconds_do_not_see_each_other():
    net, first, second = tiny(), features(1001), features(300, seed=1)
    together = net(torch.cat([first, second], dim=3))
    torch.testing.assert_close(together, torch.cat([net(first), net(second)], dim=1))


def test_a_rest_is_filled_up_with_zeros():
    net, mel = tiny(), features(40)
    torch.testing.assert_close(net(mel), net(torch.cat([mel, torch.zeros(1, 1, BANDS, 8)], dim=3)))


def test_the_five_tokens_of_a_step_are_stacked():
    """Without blocks a token knows its own patch and position alone."""
    torch.manual_seed(0)
    net, mel = M2d(embed_dim=32, depth=0, num_heads=2), features(48)
    changed = mel.clone()
    changed[:, :, 32:48, 16:32] += 1  # row 2, step 1
    differs = (net(mel) != net(changed)).unflatten(2, (5, 32)).any(3)[0]
    assert differs.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("shape", [(1, 1, 64, 100), (1, 2, 80, 100), (1, 80, 100), (1, 1, 80, 0)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"m2d expects features of shape \[batch, 1, 80, at least 1 frames\]"):
        tiny()(torch.zeros(shape))
