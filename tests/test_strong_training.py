"""Training on AudioSet-strong: stored steps, rates and metrics, draws, checkpoints, bad input."""

import inspect
import logging
import pickle

import lightning as L
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from helpers.augment import Crop, Filter, Mix, Span
from helpers.candidates import Truth
from helpers.checkpoints import load_pretrained, read
from helpers.metrics import roc_area
from helpers.scores import ScoreTable
from helpers.segments import segment_counts
from helpers.strong import Clips, Draws, StrongAugmentation, StrongModule, StrongObjective, augmented
from helpers.strong_metrics import StrongMetrics, running_median
from helpers.tagging_schedules import make_strong_optimizer, make_strong_schedule
from models import registry
from models.heads import AudioSetHead
from models.registry import Backbone
from models.strong import StrongModel, build_strong, checkpoint_of_run, for_stages, load_strong
from tests.golden.named_weights import named_array, set_named_weights
from tests.reference import golden

TRAINING = golden("audioset_strong/training.json")
OFF = StrongAugmentation(**{name: 0.0 for name in inspect.signature(StrongAugmentation).parameters})


def recipe(name, shape):
    """Plain normal numbers by name."""
    return named_array(name, shape, 0) * np.sqrt(np.prod(shape[1:]))


def tensor(array):
    return torch.from_numpy(np.asarray(array)).float()


# -- stored training steps


class Projected(Backbone):
    """The hyperbolic tangent of a linear layer on every frame, and a parameter without part in it."""

    embed_dim = 24

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(128, 24)
        self.spare = nn.Parameter(torch.zeros(1))

    def forward(self, mel, rng=None):
        return torch.tanh(self.proj(mel[:, 0].transpose(1, 2)))

    def idle_parameters(self):
        return [self.spare]


def stored_clips():
    coarse = {name: np.repeat(recipe(f"train.{name}", (4, 20, 25)), 10, axis=2) for name in ("labels", "pseudo")}
    return Clips(
        tensor(0.5 * recipe("train.mel", (4, 1, 128, 1000)) - 0.3),
        tensor(coarse["labels"] > 0.8),
        torch.sigmoid(2 * tensor(coarse["pseudo"]) - 1),
    )


def stored_mix(draws):
    share, partner = (np.array(draws.pop(0)[1]) for _ in range(2))
    return Mix(torch.from_numpy(partner.astype(np.int64)), tensor(np.maximum(share, 1 - share)))


def stored_draws(name):
    """What the published code drew, as it is taken here."""
    config, draws = {**TRAINING["off"], **TRAINING["configs"][name]}, list(TRAINING["steps"][name]["draws"])
    found = {}
    if config["frame_shift_range"]:
        found["shift"] = np.trunc([draws.pop(0)[1][0] for _ in range(4)]).astype(int)
    for key in ("mixup", "mixstyle"):
        if config[f"{key}_p"]:
            found[key] = stored_mix(draws)
    if config["max_time_mask_size"]:
        width, start = (int(draws.pop(0)[1][0]) for _ in range(2))
        found["mask"] = Span(start, start + width)
    if config["filter_augment_p"]:
        bands, cuts, levels = (np.array(draws.pop(0)[1]) for _ in range(3))
        edges = np.sort(cuts).astype(int) + 6 * np.arange(1, int(bands[0]))
        found["filter"] = Filter(np.r_[0, edges, 128], 12 * levels.reshape(4, -1) - 6)
    if config["freq_warp_p"]:
        share, _, first = (draws.pop(0)[1][0] for _ in range(3))
        found["crop"] = Crop(np.full(4, int(first)), np.full(4, int(share * 128)))
    assert not draws
    return Draws(**found)


@pytest.mark.parametrize("name", TRAINING["steps"])
def test_stored_steps(name):
    stored, step, clips = golden("audioset_strong/training.npz"), TRAINING["steps"][name], stored_clips()
    objective = StrongObjective(TRAINING["configs"][name].get("distillation_loss_weight", 0.0))
    model = StrongModel(Projected(), n_classes=20)
    set_named_weights(model, 0)
    draws = stored_draws(name)
    before, after = [part.clone() for part in clips], augmented(clips, draws)
    assert all(torch.equal(*pair) for pair in zip(before, clips))
    np.testing.assert_allclose(after.mel[:, :, ::8, ::25], stored[f"{name}.mel"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(after.strong[:, ::3, ::5], stored[f"{name}.labels"], rtol=0, atol=1e-6)
    logits = model(after.mel).strong
    np.testing.assert_allclose(logits.detach()[:, ::3, ::10], stored[f"{name}.logits"], rtol=0, atol=1e-4)

    unmasked = augmented(clips, draws._replace(mask=None)).pseudo  # as the published mask leaves them
    if objective.distilled:
        np.testing.assert_allclose(unmasked[:, ::3, ::5], stored[f"{name}.pseudo"], rtol=0, atol=1e-6)
    expected = unmasked.clone()
    if draws.mask is not None:
        expected[:, :, slice(*draws.mask)] = 0
    assert torch.equal(after.pseudo, expected)

    loss, terms = objective.terms(logits, after._replace(pseudo=unmasked))
    assert loss.item() == pytest.approx(step["loss"], rel=1e-4)
    assert terms["strong_supervised_loss"].item() == pytest.approx(step["supervised"], rel=1e-4)
    if objective.distilled:
        assert terms["strong_distillation_loss"].item() == pytest.approx(step["distillation"], rel=1e-4)
    assert len(terms) == 1 + objective.distilled
    loss.backward()
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(step["grad_norm"], rel=1e-3)


def test_published_defaults():
    flags = {entry["flag"][2:]: entry for entry in golden("audioset_strong/flags.json")["ex_audioset_strong"]}
    targets = (StrongAugmentation, StrongObjective, StrongMetrics, make_strong_optimizer, make_strong_schedule)
    own = {p.name: p.default for t in targets for p in inspect.signature(t).parameters.values()}
    taken = {name: entry["default"] for name, entry in flags.items() if name in own}
    assert len(taken) == 14
    assert {name: own[name] for name in taken} == taken


# -- draws


def test_nothing_happens_where_all_is_off():
    clips = stored_clips()
    draws = OFF.draw(clips, np.random.default_rng(0))
    assert draws == Draws()
    assert all(torch.equal(*pair) for pair in zip(augmented(clips, draws), clips))
    assert augmented(clips._replace(pseudo=None), draws).pseudo is None


def test_draws():
    clips, config = stored_clips(), StrongAugmentation(max_time_mask_size=0.2)
    drawn = [config.draw(clips, np.random.default_rng(seed)) for seed in range(300)]
    rates = {name: np.mean([getattr(d, name) is not None for d in drawn]) for name in Draws._fields}
    expected = {"shift": 1, "mixup": 0.3, "mixstyle": 0.3, "mask": 1, "filter": 0.8, "crop": 0.8}
    assert rates == pytest.approx(expected, abs=0.08)
    assert np.std([d.shift for d in drawn]) == pytest.approx(125, rel=0.1)
    for kind, alpha in (("mixup", 0.2), ("mixstyle", 0.4)):
        mixes = [getattr(d, kind) for d in drawn if getattr(d, kind) is not None]
        shares = torch.cat([m.weight for m in mixes]).numpy()
        plain = np.random.default_rng(0).beta(alpha, alpha, 20000)
        assert shares.min() >= 0.5
        assert shares.mean() == pytest.approx(np.maximum(plain, 1 - plain).mean(), abs=0.02)
        assert all(sorted(m.partner.tolist()) == [0, 1, 2, 3] for m in mixes)
    widths = [d.mask.stop - d.mask.start for d in drawn]
    assert 12 <= min(widths) < 16
    assert 45 < max(widths) < 50
    crops = [d.crop for d in drawn if d.crop is not None]
    assert all(len(set(crop.start)) == len(set(crop.length)) == 1 for crop in crops)
    assert {len(d.filter.edges) - 1 for d in drawn if d.filter is not None} == {3, 4, 5}
    again = config.draw(clips, np.random.default_rng(7))
    np.testing.assert_equal(again.shift, drawn[7].shift)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (StrongAugmentation, {"mixup_p": 1.5}, r"strong\.mixup_p is 1\.5, expected a probability"),
        (StrongAugmentation, {"freq_warp_p": -0.1}, r"strong\.freq_warp_p is -0\.1"),
        (StrongAugmentation, {"frame_shift_range": -1}, r"strong\.frame_shift_range is -1"),
        (StrongAugmentation, {"max_time_mask_size": 0.05}, r"strong\.max_time_mask_size is 0\.05, .* more than 0\.05"),
        (StrongObjective, {"distillation_loss_weight": 2}, r"strong\.distillation_loss_weight is 2, .*\[0, 1\]"),
    ],
)
def test_settings_out_of_range(target, options, message):
    with pytest.raises(ValueError, match=message):
        target(**options)


# -- teacher


def test_a_clip_that_the_teacher_does_not_know_counts_with_its_labels_alone():
    rng = np.random.default_rng(0)
    strong, pseudo, logits = (tensor(rng.random((2, 3, 8))) for _ in range(3))
    batch = {"strong": strong, "pseudo": pseudo, "pseudo_valid": torch.tensor([True, False])}
    clips = Clips.of(torch.zeros(2, 1, 4, 32), batch, distilled=True)
    assert torch.equal(clips.pseudo[0], pseudo[0])
    loss, _ = StrongObjective(0.9).terms(logits, clips)
    alone = [nn.functional.binary_cross_entropy_with_logits(logits[i], strong[i]) for i in range(2)]
    taught = nn.functional.binary_cross_entropy_with_logits(logits[0], pseudo[0])
    torch.testing.assert_close(loss, (0.9 * taught + 0.1 * alone[0] + alone[1]) / 2)
    mixed = Mix(torch.tensor([1, 0]), torch.tensor([0.7, 0.6]))
    found = augmented(clips, Draws(mixup=mixed)).pseudo
    torch.testing.assert_close(found[0], 0.7 * pseudo[0] + 0.3 * strong[1])


def test_missing_pseudo_labels():
    batch = {"strong": torch.zeros(1, 2, 5), "pseudo": torch.zeros(1, 2, 5), "pseudo_valid": torch.ones(1)}
    assert Clips.of(torch.zeros(1, 1, 4, 20), batch).pseudo is None
    with pytest.raises(ValueError, match=r"distillation_loss_weight is above 0, but the clips have no pseudo-labels"):
        Clips.of(torch.zeros(1, 1, 4, 20), {"strong": batch["strong"]}, distilled=True)


# -- optimizer and rates


@pytest.mark.parametrize("name", ["adam_wd", "adamw_flag_default", "adamw_0.05"])
def test_stored_optimizers(name):
    stored, model = TRAINING["optimizer"][name], StrongModel(Projected(), n_classes=20)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    kept = [p for key, p in model.named_parameters() if key != "model.spare"]
    optimizer = make_strong_optimizer(iter(kept), **stored["args"])
    assert type(optimizer).__name__ == stored["cls"]
    for group, expected, decay in zip(
        optimizer.param_groups, stored["groups"], (0, stored["args"]["weight_decay"]), strict=True
    ):
        assert [names[id(parameter)] for parameter in group["params"]] == expected["names"]
        assert group["weight_decay"] == decay  # the published first group has the default of AdamW
        assert (group["lr"], list(group["betas"]), group["eps"]) == (7e-5, expected["betas"], expected["eps"])


def test_weight_decay_needs_adamw():
    assert TRAINING["optimizer"]["adam_0.01"]["result"] == "AssertionError"
    with pytest.raises(ValueError, match=r"weight_decay is 0\.01, which needs strong_optimizer\.adamw=True"):
        make_strong_optimizer([nn.Parameter(torch.zeros(2, 2))], weight_decay=0.01)


# The flag of the published warm-up has no effect: it always takes 20000 steps.
STEPS = {
    "cos_warmup_5000": {},
    **dict.fromkeys(("cos_default_run", "cos_long_run", "linear_long_run"), 20000),
    "exp": {},
}


def rates_of(total, **options):
    """The learning rate before every step."""
    optimizer = make_strong_optimizer([nn.Parameter(torch.zeros(1))])
    schedule = make_strong_schedule(optimizer, total, **options)
    return lambda step: 7e-5 * schedule.lr_lambdas[0](step)


@pytest.mark.parametrize("name", STEPS)
def test_stored_rates(name):
    stored = TRAINING["schedules"][name]
    options = {key: value for key, value in stored["args"].items() if key in ("schedule_mode", "lr_end")}
    if STEPS[name]:
        options["warmup_steps"] = STEPS[name]
    rate = rates_of(stored["total_steps"], **options)
    for step, expected in stored["lr"].items():
        assert rate(int(step)) == pytest.approx(expected, rel=1e-9, abs=1e-20)


def test_rates(caplog):
    with caplog.at_level(logging.WARNING):
        rates_of(100, schedule_mode="exp")
        rates_of(5001)
        assert not caplog.text
        assert rates_of(100)(100) == pytest.approx(7e-5 * 100 / 5000)
    assert "warmup_steps is 5000, but the run has 100 steps: it never reaches max_lr" in caplog.text
    with pytest.raises(ValueError, match=r"schedule_mode is 'step', expected one of cos, cosine, linear, exp"):
        rates_of(100, schedule_mode="step")
    with pytest.raises(ValueError, match=r"warmup_steps is -1"):
        rates_of(100, warmup_steps=-1)


# -- metrics


@pytest.mark.parametrize("window", [1, 2, 5, 9, 31])
def test_running_median(window):
    x = np.random.default_rng(0).integers(0, 6, (19, 3, 12)).astype(np.float32)  # more clips than are taken at once
    expected = ndimage.median_filter(x, size=(1, 1, window), mode="reflect")
    np.testing.assert_array_equal(running_median(torch.from_numpy(x), window), expected)
    assert running_median(torch.zeros(0, 3, 12), window).shape == (0, 3, 12)


@pytest.fixture(scope="module")
def evaluation():
    """Stored values, logits by recipe and labels of 60 clips."""
    stored, lists = golden("audioset_strong/evaluation.json"), golden("audioset_strong/class_lists.json")
    classes, logits, labels = lists["as_strong_train"], [], []
    number = {label: i for i, label in enumerate(classes)}
    for clip, events in stored["events"].items():
        strong = np.zeros((447, 250), dtype=np.float32)
        for onset, offset, label in events:
            if label in number:
                strong[number[label], int(np.floor(onset / 0.04)) : int(np.ceil(offset / 0.04))] = 1
        coarse = np.repeat(recipe(f"coarse.{clip}", (447, 10)), 25, axis=1)
        logits.append(-2 + 0.8 * recipe(f"scores.{clip}", (447, 250)) + 0.9 * coarse + 3.2 * strong)
        labels.append(strong)
    return stored, classes, lists["as_strong_eval"], torch.from_numpy(np.float32(logits)), tensor(np.stack(labels))


def metrics_of(evaluation, rows=range(60), logits=None, **options):
    """Metrics that have seen these clips in batches of 25."""
    stored, classes, evaluated, own, labels = evaluation
    metrics = StrongMetrics(classes, stored["events"], stored["durations"], evaluated, **options)
    logits, rows, clips = own if logits is None else logits, list(rows), list(stored["events"])
    for first in range(0, len(rows), 25):
        part = rows[first : first + 25]
        metrics.update(logits[part], {"filename": [f"{clips[row]}.mp3" for row in part], "strong": labels[part]})
    return metrics


@pytest.fixture(scope="module")
def filled(evaluation):
    return metrics_of(evaluation)


def test_stored_evaluation(evaluation, filled):
    stored, values = evaluation[0], filled.values()
    assert {f"val/{name}": value for name, value in values.items()} == dict(filled.publish("val"))
    assert set(dict(filled.publish("val"))) == set(stored["logged"])
    for name in ("psds1", "psds1_macro_averaged"):
        assert values[name] == pytest.approx(stored["logged"][f"val/{name}"], abs=1e-9)
    assert filled.per_class()["psds1"] == pytest.approx(stored["psds1_single_class"], abs=1e-9)
    assert len(filled.scores.rows) == stored["clips_evaluated"]
    losses = np.array([filled.losses.rows[clip][0] for clip in stored["events"]])
    batches = [losses[first : first + 25].mean() for first in (0, 25, 50)]
    assert batches == pytest.approx(stored["batch_losses"], rel=1e-5)
    assert np.mean(batches) == pytest.approx(stored["logged"]["val/loss"], rel=1e-5)
    assert values["loss"] == pytest.approx(losses.mean())


def test_stored_areas_are_those_of_some_order_of_equal_rates(evaluation, filled):
    """Here points of one false positive rate are in the right order, in the stored areas in any."""
    stored, found, equal = evaluation[0]["pauroc_single_class"], filled.per_class()["pauroc"], 0
    match = filled.reference.match(sorted(filled.scores.rows))
    scores = np.stack([filled.scores.rows[clip][0].T for clip in match.clips])
    table = ScoreTable(tuple(match.clips), scores, 0.04 * np.arange(251), filled.reference.labels)
    truth = Truth.of(match.events, match.durations, match.clips, match.labels)
    for label, counts in segment_counts(table, truth).items():
        _, tp, fp = counts.at_thresholds()
        rates, recall = fp / counts.negatives.sum(), tp / counts.positives.sum()
        rate, place = np.unique(rates, return_inverse=True)
        low, high = np.full(len(rate), np.inf), np.zeros(len(rate))
        np.minimum.at(low, place, recall)
        np.maximum.at(high, place, recall)
        least, most = (roc_area(values, rate, 0.1) for values in (low, high))
        assert least - 1e-9 <= stored[label] <= most + 1e-9
        assert found[label] == pytest.approx(roc_area(recall, rates, 0.1), abs=1e-9)
        equal += abs(found[label] - stored[label]) < 1e-9
    assert equal > 220
    assert filled.values()["pauroc"] == pytest.approx(stored["mean"], abs=2e-3)


def test_half_precision_is_kept_where_it_is_exact(evaluation, filled):
    assert {row.dtype for (row,) in filled.scores.rows.values()} == {np.dtype(np.float32)}
    half, single = (metrics_of(evaluation, range(15), evaluation[3].half().float()) for _ in range(2))
    assert {(row.dtype, row.shape) for (row,) in half.scores.rows.values()} == {(np.dtype(np.float16), (407, 250))}
    single.scores.rows = {clip: (row.astype(np.float32),) for clip, (row,) in single.scores.rows.items()}
    assert half.values() == single.values()


def test_processes_share_an_evaluation(evaluation, filled):
    parts = [metrics_of(evaluation, rows) for rows in (range(0, 60, 2), [*range(1, 60, 2), 0])]
    states = pickle.loads(pickle.dumps([part.state() for part in parts]))
    parts[1].merge(states)
    assert parts[1].values() == pytest.approx(filled.values(), abs=1e-9)
    assert len(parts[1].losses.rows) == 60
    parts[1].reset()
    assert dict(parts[1].publish("val")) == {}


def small(logits, durations=(10.0, 10.0), **options):
    """Metrics of two clips of ten seconds with a cat from 2 to 6 s in the first."""
    events = {"a": [(2.0, 6.0, "cat")], "b": [(1.0, 3.0, "dog")]}
    metrics = StrongMetrics(("cat", "dog", "owl"), events, dict(zip("ab", durations)), **options)
    metrics.update(logits, {"filename": ["x/a.wav", "x/b.wav"], "strong": torch.zeros(2, 3, 250)})
    return metrics


def confident():
    logits = torch.full((2, 3, 250), -4.0)
    logits[0, 0, 50:150] = logits[1, 1, 25:75] = 4.0
    return logits


def test_values_of_clear_predictions(caplog):
    with caplog.at_level(logging.WARNING):
        values, classes = small(confident()).values(), small(confident()).per_class()
    assert values["psds1"] == values["psds1_macro_averaged"] == values["pauroc"] == 1
    assert classes["events"] == {"cat": 1, "dog": 1, "owl": 0}
    assert np.isnan(classes["psds1"]["owl"])
    assert "no true event of owl in the 2 evaluated clips" in caplog.text
    worse = confident()
    worse[1, 0] = 5.0
    assert small(worse).values()["psds1_macro_averaged"] < 1
    assert small(worse).per_class()["psds1"]["dog"] == 1


def test_a_segment_behind_the_frames_is_no_false_alarm():
    assert small(confident() - 10, (10.01, 10.01)).values()["pauroc"] == 1


def test_diverged_models_and_unknown_clips(caplog):
    logits = confident()
    logits[0, 1, 3], logits[1, 0, 2] = float("nan"), float("inf")
    with caplog.at_level(logging.WARNING):
        values = small(logits).values()
    assert "2 clips have logits that are no numbers" in caplog.text
    assert np.isfinite(list(values.values())).all()
    metrics = StrongMetrics(("cat",), {"a": [(0, 1, "cat")]}, {"a": 10.0}, name="validation")
    metrics.update(torch.zeros(1, 1, 250), {"filename": ["other.mp3"], "strong": torch.zeros(1, 1, 250)})
    with pytest.raises(ValueError, match=r"validation: none of the 1 clips has an event .* the first is 'other'"):
        metrics.values()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"median_window": 0}, r"strong\.median_window is 0, expected frames, a whole number of at least 1"),
        ({"median_window": 9.0}, r"strong\.median_window is 9\.0"),
        ({"evaluated": ["bat"]}, r"evaluation: none of the 1 evaluated classes is one of the model's 1"),
        ({"durations": {}}, r"durations of 'evaluation' lack 1 clips of its ground truth, first 'a'"),
    ],
)
def test_metrics_refuse_nonsense(options, message):
    entries = {"classes": ("cat",), "events": {"a": [(0, 1, "cat")]}, "durations": {"a": 10.0}, **options}
    with pytest.raises(ValueError, match=message):
        StrongMetrics(**entries)


# -- the module

TINY = {"atst_frame": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
CLASSES = ("cat", "dog", "owl")
EVENTS = {name: [(0.2, 0.8, label)] for name, label in zip("abcd", (*CLASSES, "cat"))}


def batch_of():
    """One second of noise each."""
    rng = np.random.default_rng(0)
    strong = torch.zeros(4, 3, 25)
    for row, ((_, _, label),) in enumerate(EVENTS.values()):
        strong[row, CLASSES.index(label), 5:20] = 1
    pseudo = tensor(rng.random((4, 3, 25)))
    batch = {"audio": tensor(0.1 * rng.standard_normal((4, 16000))), "strong": strong, "target": strong.amax(2)}
    valid = torch.tensor([True, True, False, True])
    return {**batch, "pseudo": pseudo, "pseudo_valid": valid, "filename": list(EVENTS), "index": torch.arange(4)}


def built():
    torch.manual_seed(0)
    return build_strong("atst_frame", TINY, 3, "rnn", seq_len=25, rnn_dim=4)


def module_of(model=None):
    mel, own = built()
    metrics = {role: StrongMetrics(CLASSES, EVENTS, dict.fromkeys(EVENTS, 1.0)) for role in ("validation", "test")}
    return StrongModule(
        mel,
        own if model is None else model,
        StrongAugmentation(),
        StrongObjective(0.5),
        lambda parameters: make_strong_optimizer(parameters, max_lr=1e-2, adamw=True, weight_decay=0.01),
        lambda optimizer, steps: make_strong_schedule(optimizer, steps, schedule_mode="exp"),
        metrics, CLASSES, 5, {"arch": "atst_frame", "seed": 5},
    )  # fmt: skip


def trained(folder, epochs, ckpt_path=None):
    """A module after one step per epoch, and its trainer."""
    module = module_of()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=str(folder),
    )  # fmt: skip
    loaders = [torch.utils.data.DataLoader([batch_of()], batch_size=None) for _ in range(2)]
    trainer.fit(module, *loaders, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A module after two steps, its trainer and its checkpoint."""
    folder = tmp_path_factory.mktemp("strong")
    module, trainer = trained(folder, 2)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module, trainer, folder / "last.ckpt"


@torch.no_grad()
def outputs(module):
    module.eval()
    return module.net_strong(module.mel(batch_of()["audio"]))


def test_two_steps(run):
    module, trainer, _ = run
    before, after = dict(built()[1].named_parameters()), dict(module.net_strong.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, parameter in after.items() if parameter.requires_grad}
    assert {name for name in after if name not in moved} == {
        "weak_head.weight",
        "weak_head.bias",
        "model.atst.mask_embed",
    }
    assert set(module.results) == {"val/loss", "val/psds1", "val/psds1_macro_averaged", "val/pauroc"}
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    total = 0.5 * (logged["train/strong_supervised_loss"] + logged["train/strong_distillation_loss"])
    assert logged["train/loss"] == pytest.approx(total)
    assert logged["train/lr"] == pytest.approx(1e-2 * 0.999996)
    assert logged[module.headline[0]] == module.results["val/psds1"]


def test_a_checkpoint_of_a_run_starts_another_one_and_stage_one(run, tmp_path):
    module, _, path = run
    _, other = built()
    for parameter in other.parameters():
        nn.init.ones_(parameter)
    assert not load_strong(other, checkpoint_of_run(path), "").left
    expected, found = outputs(module), outputs(module_of(other))
    assert all(torch.equal(*pair) for pair in zip(found, expected))

    content = read(path)
    assert content["classes"] == list(CLASSES)
    assert content["config"] == {"arch": "atst_frame", "seed": 5}
    for name, value in for_stages(module.net_strong.state_dict())["state_dict"].items():
        assert torch.equal(content["state_dict"][name], value)

    as_strong = registry.get("atst_frame").checkpoints["atst_as_strong"]
    (tmp_path / as_strong.file).parent.mkdir()
    (tmp_path / as_strong.file).write_bytes(path.read_bytes())
    head = AudioSetHead(built()[1].model, audioset_classes=9)
    load_pretrained(head, as_strong, tmp_path)
    for name, value in module.net_strong.model.state_dict().items():
        assert torch.equal(head.model.state_dict()[name], value)


def test_training_goes_on_from_a_checkpoint(run, tmp_path):
    continued, trainer = trained(tmp_path, 3, run[2])
    assert trainer.global_step == 3
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.0, 0.01]
    whole, _ = trained(tmp_path, 3)
    assert all(torch.equal(*pair) for pair in zip(outputs(continued), outputs(whole)))
    assert not torch.equal(outputs(continued).strong, outputs(run[0]).strong)


@pytest.mark.parametrize("arch", ["atst_frame", "frame_mn06"])
def test_every_parameter_that_is_trained_gets_a_gradient(arch):
    torch.manual_seed(0)
    mel, model = build_strong(arch, TINY, 3, seq_len=25)
    module = StrongModule(mel, model, OFF, StrongObjective(), None, None, {})
    module.mel.train(), model.train()
    batch = batch_of()
    clips = Clips.of(mel(batch["audio"], rng=np.random.default_rng(0)), batch)
    module.objective.terms(model(clips.mel, np.random.default_rng(0)).strong, clips)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_frozen_parameters():
    model = StrongModel(Projected(), n_classes=3)
    StrongModule(nn.Identity(), model, OFF, StrongObjective(), None, None, {})
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"weak_head.weight", "weak_head.bias", "model.spare"}
    with pytest.raises(ValueError, match=r"strong_model\.head_type is None, expected 'linear' or 'attention'"):
        StrongModule(nn.Identity(), StrongModel(Projected(), head_type=None), OFF, StrongObjective(), None, None, {})
