"""The augmentation chains of both stages: stored features, order, who shares what, and one step through a network."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers import objective, views
from helpers.augment import Mix
from helpers.views import FilterAugment, FreqWarp, MixAugment, Recipe, TimeAugment, stage1_views, stage2_views
from models import registry
from models.crnn import Predictions, Task4CRNN
from models.frontends import AtstMel, CrnnMel, Scaler, amplitude_to_db
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.reference import golden

STAGES = {1: stage1_views, 2: stage2_views}
both_stages = pytest.mark.parametrize("stage", [1, 2])
QUIET = {
    "mix": MixAugment(apply_mixup=False, apply_mixstyle=False),
    "time": TimeAugment(),
    "filter": FilterAugment(apply=False),
    "warp": FreqWarp(apply=False),
}


def quiet(**entries):
    """A recipe in which nothing happens but what is named."""
    return Recipe(**(QUIET | entries))


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def batch():
    """x, mel and labels of eight clips of all sources, out of order, labelled inside and outside their class masks."""
    generator = torch.Generator().manual_seed(0)
    x, mel = torch.rand(8, 1, 32, 81, generator=generator), torch.rand(8, 1, 16, 130, generator=generator)
    labels = {
        "strong": (torch.rand(8, 6, 20, generator=generator) - 0.7).clamp(0, 1) * 3,
        "weak": (torch.rand(8, 6, generator=generator) > 0.5).float(),
        "pseudo": torch.rand(8, 6, 20, generator=generator),
        "valid": torch.rand(8, 6, generator=generator) > 0.4,
        "source": torch.tensor([3, 0, 1, 4, 2, 0, 3, 4]),
    }
    return x, mel, labels


def inside(labels, valid):
    return labels.masked_fill(~valid.reshape(valid.shape + (1,) * (labels.ndim - 2)), 0)


# -- stored features --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    audio = torch.from_numpy(golden_waveform(10.0, 16000, seed=0, batch=12))
    return CrnnMel()(audio), AtstMel()(audio)


@pytest.fixture(scope="module")
def stored():
    archive = golden("sed/training_stage1.npz")
    return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def clips(stored):
    strong = stored["labels"]
    return {
        "strong": strong,
        "weak": (strong.sum(-1) > 0).float(),
        "pseudo": stored["pseudo_strong"].transpose(1, 2),
        "valid": stored["valid_class_mask"],
        "source": torch.repeat_interleave(torch.arange(5), stored["batch_sizes"]),
    }


def stored_draws(monkeypatch, stored, prefix, kinds):
    """Lets the chain draw the stored permutations and Beta variates of one mixup call after the other."""

    def draw(groups, alpha, rng, max_coef=True):
        assert alpha == 0.2
        partner, weight = np.arange(len(groups)), np.ones(len(groups))
        for i, source in enumerate(kinds):
            index = np.flatnonzero(groups == source)
            beta = stored[f"{prefix}.{i}.beta"].numpy()
            partner[index] = index[stored[f"{prefix}.{i}.perm"].numpy()]
            weight[index] = np.maximum(beta, 1 - beta) if max_coef else beta
        return Mix(torch.from_numpy(partner), torch.from_numpy(weight.astype(np.float32)))

    monkeypatch.setattr(views, "draw_mix", draw)


MIXES = {
    "plain": (None, ()),
    "mixup": ("mixup_joint", (3, 1, 4)),
    "mixup_separate": ("mixup_separate", (3, 1, 0, 4)),
}


@both_stages
@pytest.mark.parametrize("variant", MIXES)
def test_features_and_masks_equal_stored(stage, variant, features, stored, clips, monkeypatch):
    prefix, kinds = MIXES[variant]
    stored_draws(monkeypatch, stored, prefix, kinds)
    mix = MixAugment(
        apply_mixup=variant != "plain",
        mixup_p=1,
        mixup_desed_maestro=variant == "mixup",
        apply_mixstyle=False,
    )
    seen = STAGES[stage](*features, clips, quiet(mix=mix), rng())
    corner = seen.student.x[:, 0, ::16, ::60]
    torch.testing.assert_close(corner, stored[f"{variant}.sed_feats_corner"], rtol=1e-4, atol=1e-4)
    corner = seen.student.mel[:, 0, ::16, ::100]
    torch.testing.assert_close(corner, stored[f"{variant}.pt_feats_corner"], rtol=0, atol=2e-4)
    assert torch.equal(seen.valid, stored[f"{variant}.class_mask"])
    if stage == 2:
        assert seen.teacher.x is features[0]
        assert seen.teacher.mel is features[1]


# -- who sees what ----------------------------------------------------------------------------------------------------


@both_stages
def test_nothing_happens_without_augmentations(stage, batch):
    x, mel, labels = batch
    seen = STAGES[stage](x, mel, labels, quiet(), rng())
    assert seen.student.x is seen.teacher.x is x
    assert seen.student.mel is seen.teacher.mel is mel
    assert seen.mix is None
    for name in ("strong", "weak", "pseudo"):
        assert torch.equal(getattr(seen, name), inside(labels[name], labels["valid"]))
    assert torch.equal(seen.source, labels["source"])


@both_stages
def test_inputs_stay_and_the_generator_decides(stage, batch):
    x, mel, labels = batch
    copies = x.clone(), mel.clone(), {key: value.clone() for key, value in labels.items()}
    recipe = Recipe(
        mix=MixAugment(mixup_p=1, mixstyle_p=1),
        time=TimeAugment(apply_mask=True, apply_shift=True, min_mask_ratio=0.2, max_mask_ratio=0.5),
        filter=FilterAugment(p=1),
        warp=FreqWarp(p=1),
        harden_labels_maestro_p=1,
        harden_pseudo_labels_p=1,
    )
    first, again, other = (STAGES[stage](x, mel, labels, recipe, rng(seed)) for seed in (4, 4, 5))
    assert torch.equal(x, copies[0])
    assert torch.equal(mel, copies[1])
    assert all(torch.equal(labels[key], copies[2][key]) for key in labels)
    for view in ("student", "teacher"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(first, view), getattr(again, view)))
        assert not any(torch.equal(a, b) for a, b in zip(getattr(first, view), getattr(other, view)))
    assert torch.equal(first.strong, again.strong)


@pytest.mark.parametrize(("n_transform", "filtered"), [(0, 0), (1, 1), (2, 2)])
def test_filters_of_stage_1(n_transform, filtered, batch):
    x, mel, labels = batch
    seen = stage1_views(x, mel, labels, quiet(filter=FilterAugment(p=1, n_transform=n_transform)), rng())
    assert seen.student.mel is seen.teacher.mel is mel
    assert (seen.student.x is x) == (filtered == 0)
    assert (seen.student.x is seen.teacher.x) == (filtered < 2)
    assert not (filtered == 2 and torch.equal(seen.student.x, seen.teacher.x))


@pytest.mark.parametrize("n_transform", [1, 2])
def test_stage_2_filters_both_inputs_of_the_student(n_transform, batch):
    x, mel, labels = batch
    seen = stage2_views(x, mel, labels, quiet(filter=FilterAugment(p=1, n_transform=n_transform)), rng())
    assert seen.teacher.x is x
    assert seen.teacher.mel is mel
    for before, after in zip((x, mel), seen.student):
        gains = (after / before)[:, 0]
        torch.testing.assert_close(gains, gains[:, :, :1].expand_as(gains))
        assert (10 ** (-6 / 20) - 1e-4 <= gains).all()
        assert (gains <= 10 ** (6 / 20) + 1e-4).all()


def test_stage_1_teacher_sees_mixed_clips_and_stage_2_does_not(batch):
    x, mel, labels = batch
    mixes = [MixAugment(mixup_p=1, apply_mixstyle=False), MixAugment(apply_mixup=False, mixstyle_p=1)]
    for mix in mixes:
        first = stage1_views(x, mel, labels, quiet(mix=mix), rng())
        assert first.teacher is first.student
        assert not torch.equal(first.teacher.x, x)
        second = stage2_views(x, mel, labels, quiet(mix=mix), rng())
        assert second.teacher.x is x
        assert not torch.equal(second.student.x, x)
        assert torch.equal(second.student.x, first.student.x)


@both_stages
@pytest.mark.parametrize(("target", "kinds"), [("desed_strong", (1, 2)), ("strong", (0, 1, 2)), ("all", range(5))])
def test_time_mask(stage, target, kinds, batch):
    x, mel, labels = batch
    time = TimeAugment(apply_mask=True, mask_target=target, min_mask_ratio=0.3, max_mask_ratio=0.5)
    seen = STAGES[stage](x + 1, mel + 1, labels, quiet(time=time, pseudo_strong_no_class_mask=True), rng())
    assert seen.teacher is seen.student or all(a is b for a, b in zip(seen.teacher, seen.student))
    chosen = torch.tensor([int(s) in kinds for s in labels["source"]])
    silent = (seen.pseudo == 0).all(1)  # [B, T]
    assert not silent[~chosen].any()
    assert (silent[chosen] == silent[chosen][0]).all()
    frames = silent[chosen][0]
    assert 6 <= frames.sum() <= 9
    assert (seen.strong[chosen][:, :, frames] == 0).all()
    others = inside(labels["strong"], labels["valid"])[chosen][:, :, ~frames]
    assert torch.equal(seen.strong[chosen][:, :, ~frames], others)
    of_x = torch.repeat_interleave(frames, 4)
    of_x = torch.cat([of_x, of_x.new_zeros(x.shape[-1] - len(of_x))])
    assert torch.equal((seen.student.x[chosen] == 0).all((0, 1, 2)), of_x)
    assert (seen.student.mel[chosen] == 0).all((0, 1, 2)).sum() == pytest.approx(float(frames.sum() * 6.5), abs=1)
    assert torch.equal(seen.student.x[~chosen], (x + 1)[~chosen])


@both_stages
@pytest.mark.parametrize(("target", "kinds"), [("desed", (1, 2, 3, 4)), ("all", range(5))])
def test_shift_moves_labels_along(stage, target, kinds, batch):
    labels = batch[2]
    frames = torch.arange(80.0).expand(8, 1, 3, 80)
    labels = labels | {key: (torch.arange(20.0) / 20).expand(8, 6, 20) for key in ("strong", "pseudo")}
    labels["valid"] = torch.ones(8, 6, dtype=torch.bool)
    time = TimeAugment(apply_shift=True, shift_target=target, shift_range=0.2)
    seen = STAGES[stage](frames, frames.repeat_interleave(2, -1), labels, quiet(time=time), rng())
    shift = -seen.student.x[:, 0, 0, 0]
    chosen = torch.tensor([int(s) in kinds for s in labels["source"]])
    assert (shift[~chosen] == 0).all()
    assert (shift[chosen] % 80 != 0).any()
    torch.testing.assert_close(seen.student.mel[:, 0, 0, 0], -shift % 80)
    for name in ("strong", "pseudo"):
        moved = -getattr(seen, name)[:, 0, 0] * 20 * 4
        assert (((moved - shift + 40) % 80 - 40).abs() <= 2.01).all(), "within half a label frame"


@pytest.mark.parametrize("include_maestro", [False, True])
def test_warp_changes_the_student_backbone_only(include_maestro, batch):
    x, mel, labels = batch
    seen = stage2_views(x, mel, labels, quiet(warp=FreqWarp(p=1, include_maestro=include_maestro)), rng(1))
    assert seen.student.x is seen.teacher.x is x
    assert seen.teacher.mel is mel
    same = torch.tensor([torch.equal(a, b) for a, b in zip(seen.student.mel, mel)])
    assert torch.equal(same, (labels["source"] == 0) & (not include_maestro))


@both_stages
def test_hardening(stage, batch):
    x, mel, labels = batch
    recipe = quiet(harden_labels_maestro_p=1, harden_pseudo_labels_p=1)
    seen = STAGES[stage](x, mel, labels, recipe, rng())
    maestro = labels["source"] == 0
    hard = inside((labels["strong"] > 0.5).float(), labels["valid"])
    assert torch.equal(seen.strong[maestro], hard[maestro])
    assert torch.equal(seen.strong[~maestro], inside(labels["strong"], labels["valid"])[~maestro])
    assert torch.equal(seen.pseudo, inside((labels["pseudo"] > 0.5).float(), labels["valid"]))


@both_stages
def test_labels_are_mixed_like_the_clips(stage, batch):
    x, mel, labels = batch
    seen = STAGES[stage](x, mel, labels, quiet(mix=MixAugment(mixup_p=1, apply_mixstyle=False)), rng(2))
    partner, weight = seen.mix
    assert not torch.equal(partner, torch.arange(8))
    for name, actual in (("strong", seen.strong), ("weak", seen.weak), ("pseudo", seen.pseudo)):
        own = weight.reshape(-1, *[1] * (actual.ndim - 1))
        expected = own * labels[name] + (1 - own) * labels[name][partner]
        torch.testing.assert_close(actual, inside(expected, seen.valid), msg=name)
    for before, after in zip((x, mel), seen.student):
        own = weight[:, None, None, None]
        torch.testing.assert_close(after, own * before + (1 - own) * before[partner])


@both_stages
def test_styles_of_both_features_are_drawn_apart(stage, batch):
    x, _, labels = batch
    seen = STAGES[stage](x, x, labels, quiet(mix=MixAugment(apply_mixup=False, mixstyle_p=1)), rng())
    assert not torch.allclose(seen.student.x, seen.student.mel)


@both_stages
@pytest.mark.parametrize("keep", [False, True])
def test_class_masks(stage, keep, batch):
    x, mel, labels = batch
    mix = MixAugment(mixup_p=1, apply_mixstyle=False)
    seen = STAGES[stage](x, mel, labels, quiet(mix=mix, pseudo_strong_no_class_mask=keep), rng(2))
    strong = labels["source"] <= 2
    grown = labels["valid"] | ((labels["strong"] > 0).any(-1)[seen.mix.partner] & strong[:, None])
    assert torch.equal(seen.valid, grown)
    assert torch.equal(seen.strong, inside(seen.strong, grown))
    assert torch.equal(seen.weak, inside(seen.weak, grown))
    assert torch.equal(seen.pseudo, inside(seen.pseudo, grown)) != keep
    apart = MixAugment(mixup_p=1, apply_mixstyle=False, mixup_desed_maestro=False)
    assert torch.equal(STAGES[stage](x, mel, labels, quiet(mix=apart), rng(2)).valid, labels["valid"])


def test_gates_are_drawn_per_batch(batch):
    x, mel, labels = batch
    generator = rng(0)
    recipe = quiet(mix=MixAugment(mixup_p=0.5, apply_mixstyle=False))
    mixed = [stage1_views(x, mel, labels, recipe, generator).mix is not None for _ in range(400)]
    assert 160 < sum(mixed) < 240


@pytest.mark.parametrize(
    ("section", "entries", "message"),
    [
        (
            TimeAugment,
            {"mask_target": "weak"},
            r"time_augment.mask_target: .*'weak' \(known: desed_strong, strong, all\)",
        ),
        (TimeAugment, {"shift_target": "strong"}, r"time_augment.shift_target: .*'strong' \(known: desed, all\)"),
        (TimeAugment, {"min_mask_ratio": 0.4}, r"time_augment: .*0.4 and 0.3"),
        (FilterAugment, {"n_transform": 3}, r"filter_augment.n_transform: .*3"),
        (FilterAugment, {"filter_bands": [5, 5]}, r"filter_augment.filter_bands: .*\(5, 5\)"),
    ],
)
def test_bad_configuration_is_named(section, entries, message):
    with pytest.raises(ValueError, match=message):
        section(**entries)


# -- one step through a network ---------------------------------------------------------------------------------------

STAGE_2_TEACHER = ("plain.teacher_strong_no_mask", "mixup.teacher_weak_masked")


def atst_detector(seed):
    """The detector of the stored steps, in evaluation mode."""
    registry.load_plugins()
    _, backbone = registry.build("atst_frame")
    model = Task4CRNN(backbone).eval()
    set_named_weights(model, seed)
    return model


@torch.inference_mode()
def predict(model, view, mask):
    """Predictions inside the class mask and without any."""
    hidden = model.hidden(Scaler()(amplitude_to_db(view.x)), model.embed(view.mel))
    return model.head(hidden, mask), model.head(hidden)


def test_steps_of_both_stages_equal_stored(features, stored, clips, monkeypatch):
    """From the waveform to the total: the variant whose predictions are not stored."""
    stored_draws(monkeypatch, stored, *MIXES["mixup"])
    mix = MixAugment(mixup_p=1, mixup_max_coef=False, apply_mixstyle=False)
    seen = {stage: STAGES[stage](*features, clips, quiet(mix=mix), rng()) for stage in (1, 2)}
    assert all(torch.equal(a, b) for a, b in zip(seen[1].student, seen[2].student))
    student = predict(atst_detector(0), seen[1].student, seen[1].valid)
    # Without class mask in stage 1, as in its example command. The teacher of stage 2 sees the unmixed clips, for which
    # its predictions are stored.
    _, first = predict(atst_detector(1000), seen[1].teacher, None)
    other = golden("sed/training_stage2.npz")
    strong, weak = (torch.from_numpy(other[name]) for name in STAGE_2_TEACHER)
    second = Predictions(inside(strong, seen[2].valid), weak)
    lambdas = {1: objective.ssl_weight(14000, 14000, 0.1, 2.0), 2: objective.ssl_weight(270, 270, 60, 1.0)}
    tables = {1: objective.stage1_weights, 2: partial(objective.stage2_weights, mixed=True)}
    for stage, teacher in ((1, first), (2, second)):
        found = golden(f"sed/training_stage{stage}.json")
        variant, loss_weights = (
            found["variants"]["mixup_without_max_coef"],
            found["loss_weights_of_the_example_command"],
        )
        terms = objective.training_terms(
            student,
            teacher,
            seen[stage],
            objective.Losses(),
            objective.Rules(ssl_no_class_mask=stage == 1),
            with_pseudo=loss_weights[5] > 0,
            interpolate={"joint": True} if stage == 2 else None,
        )
        weights = tables[stage](loss_weights, lambdas[stage])
        for name, value in objective.public_names(terms, weights, stage).items():
            assert float(value) == pytest.approx(variant["logged"][name], rel=1e-4), name
        assert float(objective.combine(terms, weights)) == pytest.approx(variant["total_loss"], rel=1e-4)
