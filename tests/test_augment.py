"""Augmentations: stored outputs for given draws, ranges of the draws, and what clips that take no part look like."""

import numpy as np
import pytest
import torch

from helpers import augment
from helpers.augment import Crop, Filter, Mix, Span
from tests.reference import golden

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def stored():
    archive = golden("sed/augmentations.npz")
    return {name: archive[name] for name in archive.files}


def tensor(array):
    return torch.from_numpy(np.asarray(array).copy())


def assert_close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, tensor(expected), **(tolerance or CLOSE))


def some_mix(groups, seed=0, **options):
    return augment.draw_mix(np.asarray(groups), 0.2, np.random.default_rng(seed), **options)


# -- mixup ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["max", "plain", "hard"])
def test_mixup_equals_stored(stored, variant):
    beta = stored["mixup.beta"]
    weight = beta if variant == "plain" else np.maximum(beta, 1 - beta)
    np.testing.assert_allclose(weight, stored[f"mixup.{variant}.coef"])
    m = Mix(tensor(stored["mixup.perm"]), tensor(weight.astype(np.float32)))
    for name in ("data", "embeddings", "pseudo_strong"):
        assert_close(augment.mix(tensor(stored[f"mixup.{name}"]), m), stored[f"mixup.{variant}.{name}"])
    label_type = "hard" if variant == "hard" else "soft"
    targets, valid = tensor(stored["mixup.targets"]), tensor(stored["mixup.valid_class_mask"])
    assert_close(augment.mix_labels(targets, m, label_type), stored[f"mixup.{variant}.targets"])
    mixed_valid = augment.mix_valid(valid, targets, m, torch.ones(5, dtype=torch.bool))
    assert torch.equal(mixed_valid, tensor(stored[f"mixup.{variant}.valid_class_mask"]))
    assert not torch.equal(mixed_valid, valid)
    if variant == "max":
        assert_close(augment.mix_labels(tensor(stored["mixup.weak_targets"]), m), stored["mixup.max.weak_targets"])


def test_mixup_pairs_inside_groups():
    groups = np.array([0, 1, -1, 0, 1, 1, 7, 0, -1, 0])
    for seed in range(20):
        partner, weight = some_mix(groups, seed)
        assert sorted(partner.tolist()) == list(range(10))
        assert (groups[partner.numpy()] == groups).all()
        assert partner[groups < 0].tolist() == [2, 8]
        assert (weight[groups < 0] == 1).all()
        assert (weight >= 0.5).all()
    assert (some_mix(np.zeros(99), max_coef=False).weight < 0.5).any()
    assert len(set(some_mix(np.zeros(20)).weight.tolist())) == 20, "every clip has its own share"


def test_mixup_draws_the_beta_distribution():
    weight = some_mix(np.zeros(20000), max_coef=False).weight.double()
    assert weight.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weight.var().item() == pytest.approx(0.25 / 1.4, abs=0.01)  # of Beta(0.2, 0.2)


def test_mixup_is_reproducible_and_advances_the_generator():
    groups = np.zeros(6)
    first, again = some_mix(groups, 5), some_mix(groups, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    rng = np.random.default_rng(5)
    augment.draw_mix(groups, 0.2, rng)
    assert not torch.equal(augment.draw_mix(groups, 0.2, rng).weight, first.weight)


def test_hard_labels_keep_a_clip_without_partner():
    labels = torch.tensor([[0.3], [0.7]])
    assert torch.equal(augment.mix_labels(labels, some_mix([-1, -1]), "hard"), labels)
    with pytest.raises(ValueError, match=r"'medium' .*soft, hard"):
        augment.mix_labels(labels, some_mix([-1, -1]), "medium")


def test_class_mask_grows_only_where_data_sets_mix():
    valid = torch.tensor([[True, False], [False, True]])
    labels = torch.tensor([[[0.0, 0.4], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
    m = Mix(torch.tensor([1, 0]), torch.tensor([0.9, 0.6]))
    assert augment.mix_valid(valid, labels, m, torch.tensor([True, False])).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((1, 1, 1, 1, 1), [1, 1, 1, 3, 4]),
        ((1, 1, 1, 0, 1), [0, 1, 1, 3, 4]),
        ((0, 1, 1, 1, 0), [1, 1, 1, -1, -1]),
        ((1, 0, 1, 1, 1), [0, -1, -1, 3, 4]),
        ((1, 1, 0, 1, 1), [-1, 1, 1, 3, 4]),
        ((0, 0, 0, 0, 0), [-1] * 5),
    ],
)
def test_groups_of_sources(flags, expected):
    flags = [bool(flag) for flag in flags]
    assert augment.mix_groups(np.arange(5), *flags).tolist() == expected
    shuffled = np.array([4, 0, 0, 2, 3, 1])
    assert augment.mix_groups(shuffled, *flags).tolist() == [expected[s] for s in shuffled]


def test_unknown_source_is_named():
    with pytest.raises(ValueError, match=r"source: .*0 to 4, found \[1, 5\]"):
        augment.mix_groups(np.array([1, 5]), True, True, True, True, True)


# -- MixStyle ---------------------------------------------------------------------------------------------------------


def test_mixstyle_equals_stored(stored):
    drawn = stored["mixstyle.lambda"].reshape(-1)
    m = Mix(tensor(stored["mixstyle.perm"]), tensor(np.maximum(drawn, 1 - drawn)))
    assert_close(augment.mix_style(tensor(stored["mixstyle.input"]), m), stored["mixstyle.output"])


def test_mixstyle_takes_over_statistics():
    x = torch.randn(4, 1, 3, 500, generator=torch.Generator().manual_seed(0)) * 3 + 2
    m = Mix(torch.tensor([1, 0, 3, 2]), torch.zeros(4))
    y = augment.mix_style(x, m)
    torch.testing.assert_close(y.mean(3), x.mean(3)[m.partner], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y.std(3), x.std(3)[m.partner], atol=1e-4, rtol=1e-4)


# -- time -------------------------------------------------------------------------------------------------------------


def test_time_mask_equals_stored(stored):
    width, low = (int(number) for number in stored["time_mask.width_low"])
    span = Span(low, low + width)
    x_frames, mel_frames, label_frames = (int(number) for number in stored["time_mask.frames"])
    where = torch.tensor([True])

    def zeros(frames, span):
        masked = augment.mask_frames(torch.ones(1, 1, 2, frames), span, where)
        return np.flatnonzero((masked == 0).all(dim=2).numpy().reshape(-1))

    assert (zeros(x_frames, span.scaled(4)) == stored["time_mask.zero_feature_frames"]).all()
    for frames, name in ((mel_frames, "zero_embedding_frames"), (998, "zero_embedding_frames_998")):
        assert (zeros(frames, span.scaled(frames / label_frames)) == stored[f"time_mask.{name}"]).all()
    assert (zeros(label_frames, span) == stored["time_mask.zero_label_frames"]).all()


def test_time_mask_draws_in_the_published_ranges(stored):
    (low, high), _ = stored["time_mask.randint_ranges"]
    rng = np.random.default_rng(0)
    spans = [augment.draw_mask(156, rng, 0.05, 0.3) for _ in range(4000)]
    widths = {span.stop - span.start for span in spans}
    assert (min(widths), max(widths)) == (low, high - 1)
    assert min(span.start for span in spans) == 0
    assert max(span.stop for span in spans) == 155
    with pytest.raises(ValueError, match="time_augment: 3 frames are too few"):
        augment.draw_mask(3, rng, 0.05, 0.3)


def test_frame_shift_equals_stored(stored):
    draws = stored["frame_shift.draws"]
    x_frames, mel_frames, label_frames = (int(number) for number in stored["frame_shift.frames"])
    of_mel = augment.scale_shift(draws, x_frames / mel_frames)
    of_labels = augment.scale_shift(draws, 4)
    assert (of_mel == stored["frame_shift.embeddings_roll"]).all()
    assert (of_labels == stored["frame_shift.labels_roll"]).all()
    for frames, shift in ((x_frames, draws), (mel_frames, of_mel), (label_frames, of_labels)):
        x = torch.rand(3, 2, frames, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([clip.roll(int(s), -1) for clip, s in zip(x, shift)])
        assert torch.equal(augment.shift_frames(x, shift), expected)


def test_frame_shift_draws():
    where = np.arange(20000) % 2 == 0
    shift = augment.draw_shift(626, where, np.random.default_rng(0), 0.075)
    assert (shift[~where] == 0).all()
    assert shift[where].std() == pytest.approx(46, rel=0.03)
    small = augment.draw_shift(20, where, np.random.default_rng(0), 0.05)[where]
    assert small.mean() == pytest.approx(0, abs=0.05), "rounded towards zero"


# -- frequency and level ----------------------------------------------------------------------------------------------


def stored_filter(stored, name, bins, db_range=(-6, 6), width=6):
    cuts, uniform = stored[f"{name}.cuts"], stored[f"{name}.uniform"]
    edges = np.sort(cuts) + width * np.arange(1, len(cuts) + 1)
    low, high = db_range
    return Filter(np.concatenate([[0], edges, [bins]]), uniform.astype(float) * (high - low) + low)


@pytest.mark.parametrize("name", ["filter.2", "filter.3", "filter.5", "filter_two.0", "filter_two.1"])
def test_filter_equals_stored(stored, name):
    x = tensor(stored["filter.input"])
    assert_close(augment.filter_bands(x, stored_filter(stored, name, x.shape[2])), stored[f"{name}.output"])


def test_filter_draws():
    rng = np.random.default_rng(0)
    drawn = [augment.draw_filter(3, 128, rng, (-6, 6), (3, 6), 6) for _ in range(300)]
    assert {len(f.edges) - 1 for f in drawn} == {3, 4, 5}
    assert min(np.diff(f.edges).min() for f in drawn) == 6
    levels = np.concatenate([f.levels.ravel() for f in drawn])
    assert levels.min() == pytest.approx(-6, abs=0.05)
    assert levels.max() == pytest.approx(6, abs=0.05)
    assert all(f.levels.shape == (3, len(f.edges)) and f.edges[0] == 0 and f.edges[-1] == 128 for f in drawn)
    # the bands shrink where six bins each do not fit
    assert np.diff(augment.draw_filter(1, 16, rng, (-6, 6), (5, 6), 6).edges).min() >= 3


def test_filter_of_narrow_and_single_bands():
    curve = augment.filter_curve(Filter(np.array([0, 1, 3, 7]), np.array([[-3.0, 6.0, 0.0, 3.0]])))
    assert curve.tolist() == [[-3.0, 6.0, 0.0, 0.0, 1.0, 2.0, 3.0]]
    one = augment.draw_filter(2, 8, np.random.default_rng(0), (-6, 6), (1, 2), 6)
    x = torch.rand(2, 1, 8, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment.filter_bands(x, one), x)


@pytest.mark.parametrize("case", range(5))
def test_frequency_warp_equals_stored(stored, case):
    x = tensor(stored["freq_warp.input"])
    scale, top = stored[f"freq_warp.{case}.scale_top"]
    crop = Crop(np.full(2, int(top)), np.full(2, int(scale * x.shape[1])))
    assert_close(augment.warp_frequency(x, crop), stored[f"freq_warp.{case}.output"])


def test_crop_of_both_axes_equals_stored(stored):
    x = tensor(stored["freq_warp.input"])
    bands, frames = x.shape[1:]
    band_scale, time_scale, row, column = stored["crop_default.draws"]
    margin = (int(frames * 1.5) - frames) // 2
    rows = Crop(np.full(2, int(row)), np.full(2, int(band_scale * bands)))
    columns = Crop(np.full(2, int(column) - margin), np.full(2, int(time_scale * frames)))
    y = augment.resize_crop(augment.warp_frequency(x, rows), columns, dim=2)
    assert_close(y, stored["crop_default.output"])


def test_warp_is_bicubic_interpolation_clip_by_clip():
    x = torch.randn(3, 1, 32, 6, generator=torch.Generator().manual_seed(1))
    crop = Crop(np.array([0, 5, 12]), np.array([32, 21, 20]))
    for clip, start, length, actual in zip(x, *crop, augment.warp_frequency(x, crop)):
        cut = clip[None, :, start : start + length]
        expected = torch.nn.functional.interpolate(cut, size=clip.shape[1:], mode="bicubic", align_corners=True)
        torch.testing.assert_close(actual, expected[0], **CLOSE)


def test_crop_draws():
    rng = np.random.default_rng(0)
    groups = np.array([3, 1, 3, -1])
    drawn = [augment.draw_crop(groups, 64, rng) for _ in range(2000)]
    lengths = np.array([crop.length for crop in drawn])
    starts = np.array([crop.start for crop in drawn])
    assert (lengths[:, 0] == lengths[:, 2]).all()
    assert (starts[:, 0] == starts[:, 2]).all()
    assert (lengths[:, 0] != lengths[:, 1]).any()
    assert (lengths[:, 3] == 64).all()
    assert (starts[:, 3] == 0).all()
    assert (lengths[:, 0].min(), lengths[:, 0].max()) == (38, 63)
    assert starts.min() == 0
    assert (starts + lengths).max() == 64
    wide = [augment.draw_crop(groups, 30, rng, scale=(0.6, 1.5), virtual_scale=1.5) for _ in range(2000)]
    assert min(crop.start.min() for crop in wide) == -7
    assert max((crop.start + crop.length).max() for crop in wide) == 38


def test_gain_equals_stored(stored):
    assert_close(augment.apply_gain(tensor(stored["gain.input"]), stored["gain.draws"] - 7), stored["gain.output"])
    drawn = augment.draw_gain(5000, 7, np.random.default_rng(0))
    assert (drawn.min(), drawn.max()) == (-7, 6)


def test_harden():
    assert augment.harden(torch.tensor([0.2, 0.5, 0.51, 1.0])).tolist() == [0, 0, 1, 1]


def test_gate():
    rng = np.random.default_rng(0)
    assert sum(augment.gate(0.3, rng) for _ in range(10000)) == pytest.approx(3000, abs=150)
    assert not any(augment.gate(0.0, rng) for _ in range(100))
    assert all(augment.gate(1.0, rng) for _ in range(100))


# -- all of them ------------------------------------------------------------------------------------------------------

CHOSEN = torch.tensor([True, False, True, True, False, True])
GROUPS = np.where(CHOSEN.numpy(), 0, -1)
M = Mix(torch.tensor([2, 1, 5, 0, 4, 3]), torch.tensor([0.7, 1.0, 0.6, 0.9, 1.0, 0.8]))
AUGMENTATIONS = {
    "mix": lambda x: augment.mix(x, M),
    "mix_labels": lambda x: augment.mix_labels(x, M),
    "mix_style": lambda x: augment.mix_style(x, M),
    "shift_frames": lambda x: augment.shift_frames(x, np.array([3, 0, -5, 1, 0, 40])),
    "mask_frames": lambda x: augment.mask_frames(x, Span(2, 9), CHOSEN),
    "warp_frequency": lambda x: augment.warp_frequency(x, augment.draw_crop(GROUPS, 24, np.random.default_rng(0))),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_input_untouched_and_others_bit_identical(name):
    x = torch.rand(6, 1, 24, 30, generator=torch.Generator().manual_seed(2))
    before = x.clone()
    y = AUGMENTATIONS[name](x)
    assert torch.equal(x, before)
    assert torch.equal(y[~CHOSEN], x[~CHOSEN])
    assert all(not torch.equal(a, b) for a, b in zip(y[CHOSEN], x[CHOSEN]))
    assert y.dtype == x.dtype
    assert y.shape == x.shape


def test_a_clip_that_drew_itself_is_bit_identical():
    x = torch.rand(3, 1, 24, 30, generator=torch.Generator().manual_seed(2))
    m = Mix(torch.tensor([1, 0, 2]), torch.tensor([0.6, 0.7, 0.83]))
    assert torch.equal(augment.mix(x, m)[2], x[2])
    assert torch.equal(augment.mix_style(x, m)[2], x[2])
