"""Query by vocal imitation: encoders and weights, metrics and ties, schedule, training."""

import itertools
import logging
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import models
from helpers.contrastive import Contrastive
from helpers.evaluation import Bootstrap
from helpers.retrieval import RetrievalModule, make_optimizer, make_schedule
from helpers.retrieval_metrics import (
    MISSING,
    Ranking,
    RetrievalMetrics,
    Similarities,
    intervals,
    similarities,
    target_metrics,
)
from models.retrieval import build_dual, load_dual, mel_options, with_mel
from models.tagging import build_tagger
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm
from tests.reference import golden

ARCH = "mn01_as"
SMALL = {"mn_mel": {"sr": 8000, "win_length": 256, "hopsize": 160, "n_fft": 256, "n_mels": 32, "fmax_aug_range": 100}}


@pytest.fixture(scope="module")
def published():
    return golden("qvim/qvim.npz")


# -- encoders


@pytest.fixture(scope="module")
def encoders():
    """The published network with golden weights, and log mels of both sides."""
    mel, dual = build_dual("mn10_as")
    set_named_weights(dual, 0)
    views = [torch.from_numpy(golden_waveform(10, 32000, seed, 4)) for seed in (0, 100)]
    return dual.eval(), *(mel.eval()(view) for view in views)


def embeddings(dual, imitations, references):
    with torch.no_grad():
        return dual(imitations, "imitation"), dual(references, "reference")


def test_names_and_shapes_as_published(encoders):
    network = golden("tagging/manifests.json")["mn_w1.0_mlp_s2222"]
    expected = {
        f"{side}_encoder.{name}": shape for side in ("imitation", "reference") for name, shape in network.items()
    }
    shapes = {name: list(tensor.shape) for name, tensor in encoders[0].state_dict().items()}
    assert shapes == {"tau": [1], **expected}


def test_embeddings_as_published(published, encoders):
    dual = encoders[0]
    for side, embedding in zip(("imitation", "reference"), embeddings(*encoders)):
        np.testing.assert_allclose(embedding[:2], published[f"eval.{side}"], rtol=0, atol=1e-5)
    calibrate_batchnorm(dual, forward=lambda: embeddings(*encoders))
    imitations, references = embeddings(*encoders)
    np.testing.assert_allclose(imitations[:2], published["cal.imitation"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(references[:2], published["cal.reference"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(imitations @ references.T, published["cal.similarity"], rtol=0, atol=1e-3)
    with torch.no_grad():
        pooled = dual.pooled(encoders[1][:2], "imitation")
    np.testing.assert_allclose(pooled, published["cal.imitation_unnormalised"], rtol=0, atol=1e-3)


def small(arch=ARCH, **options):
    torch.manual_seed(0)
    return build_dual(arch, SMALL, **options)


def test_both_begin_alike_and_go_apart():
    _, dual = small()
    assert len(dual.encoders) == 2
    for own, other in zip(dual.imitation_encoder.parameters(), dual.reference_encoder.parameters()):
        assert own is not other
        assert torch.equal(own, other)
    _, shared = small(shared=True, projection=6)
    assert shared.encoders == [shared.reference_encoder]
    assert shared.imitation_projection is shared.reference_projection
    x = torch.randn(2, 1, 32, 60)
    assert torch.equal(shared.eval()(x, "imitation"), shared(x, "reference"))
    assert shared.state_dict().keys() > {"imitation_encoder.features.0.0.weight", "reference_encoder.classifier.2.bias"}


@pytest.mark.parametrize(
    ("arch", "options"),
    [(ARCH, {}), (ARCH, {"pooling": "attention"}), ("dymn04_as", {"projection": 16}), ("frame_mn06", {})],
)
def test_what_is_trained_gets_a_gradient(arch, options):
    mel, dual = build_dual(arch, tau_trainable=True, **options)
    rng = np.random.default_rng(0)
    x = mel.train()(torch.randn(2, mel.sample_rate, generator=torch.Generator().manual_seed(0)), rng)
    pairs = [dual.train()(x, side, rng) for side in ("imitation", "reference")]
    assert pairs[0].shape == (2, dual.embed_dim)
    torch.testing.assert_close(pairs[0].norm(dim=1), torch.ones(2))
    Contrastive()(*pairs, dual.tau, torch.arange(2), torch.arange(2)).backward()
    for name, parameter in dual.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad != ("classifier" in name), name


def test_tau():
    assert small()[1].tau.tolist() == pytest.approx([0.07])
    assert not small()[1].tau.requires_grad
    assert small(initial_tau=0.2, tau_trainable=True)[1].tau.requires_grad
    for options, message in (({"initial_tau": 0}, "initial_tau is 0"), ({"projection": 0}, "projection is 0")):
        with pytest.raises(ValueError, match=message):
            small(**options)
    with pytest.raises(ValueError, match="'query' is none of imitation, reference"):
        small()[1](torch.zeros(1, 1, 32, 60), "query")


# -- weights


def randomised(dual, seed):
    set_named_weights(dual, seed)
    return dual


def equal_states(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_weights_of_the_baseline_and_of_runs(tmp_path):
    _, theirs = small()
    state = randomised(theirs, 3).state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "baseline.ckpt")
    torch.save({"retrieval": state, "state_dict": {"dual.tau": state["tau"]}}, tmp_path / "run.ckpt")
    for name in ("baseline.ckpt", "run.ckpt"):
        _, ours = small()
        assert load_dual(ours, ARCH, str(tmp_path / name), tmp_path).left == []
        assert equal_states(ours.state_dict(), state)
    _, projected = small(projection=4)
    left = load_dual(projected, ARCH, str(tmp_path / "run.ckpt"), tmp_path).left
    assert {name.split(".")[0] for name in left} == {"imitation_projection", "reference_projection"}
    with pytest.raises(ValueError, match=r"baseline.ckpt has two different encoders \(imitation_encoder.features.0"):
        load_dual(small(shared=True)[1], ARCH, str(tmp_path / "baseline.ckpt"), tmp_path)


def test_weights_of_the_predecessor(tmp_path):
    _, theirs = small()
    state = randomised(theirs, 4).state_dict()
    short = {"imitation_encoder.": "im.", "reference_encoder.": "ref."}
    old = {
        beginning + name.split(".", 1)[1]: tensor for name, tensor in state.items()
        for full, beginning in short.items() if name.startswith(full)
    }  # fmt: skip
    for side in short.values():
        old[f"{side}classifier.5.weight"], old[f"{side}classifier.5.bias"] = torch.zeros(476, 128), torch.zeros(476)
    torch.save(old, tmp_path / "old.pt")
    _, ours = small(initial_tau=0.5)
    assert len(load_dual(ours, ARCH, str(tmp_path / "old.pt"), tmp_path).left) == 5  # two classifier layers, tau
    assert ours.tau.item() == 0.5
    assert torch.equal(ours.reference_encoder.features[0][0].weight, state["reference_encoder.features.0.0.weight"])


def test_weights_of_a_tagger_go_to_both(tmp_path):
    _, tagger = build_tagger(ARCH, SMALL)
    set_named_weights(tagger, 5)
    torch.save({"tagger": tagger.state_dict(), "config": {"arch": ARCH}}, tmp_path / "tagger.ckpt")
    _, dual = small()
    load_dual(dual, ARCH, str(tmp_path / "tagger.ckpt"), tmp_path)
    for encoder in dual.encoders:
        assert equal_states(encoder.state_dict(), tagger.state_dict())
    assert load_dual(dual, ARCH, None, tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"nothing.ckpt: no such weights file"):
        load_dual(dual, ARCH, str(tmp_path / "nothing.ckpt"), tmp_path)


# -- options of the front end


def test_published_names_of_front_end_options():
    options = mel_options(sample_rate=16000, hop_size=160, fmin=50)
    assert options == {"sr": 16000, "hopsize": 160, "fmin": 50, "freqm": 2, "timem": 200}
    config = with_mel("mn10_as", {"mn_mel": {"n_mels": 64, "timem": 9}}, options)
    assert config["mn_mel"] == {"n_mels": 64, **options}
    mel, _ = models.build("mn10_as", config)
    assert (mel.sample_rate, mel.hopsize, mel.timem) == (16000, 160, 200)
    assert with_mel("mn10_as", {"mn_mel": {"timem": 9}}, options, {"mn_mel.timem"})["mn_mel"]["timem"] == 9
    assert with_mel("beats", {}, mel_options())["beats_mel"] == {}
    with pytest.raises(ValueError, match=r"mel.hop_size: the front end of beats has no such option"):
        with_mel("beats", {}, options, {"mel.hop_size"})


# -- metrics


def as_similarities(published, rows=slice(None), items=slice(None)):
    scores, classes = published["metrics.similarity"][rows][:, items], published["metrics.reference_class"]
    numbers = np.arange(len(classes))[items].tolist()
    targets = published["metrics.target"][rows]
    right = [numbers.index(target) if target in numbers else MISSING for target in targets]
    names = [tuple(f"{kind}{i}" for i in range(size)) for kind, size in zip("qi", scores.shape)]
    return Similarities(*names, scores, np.array(right), classes[targets], classes[items])


def test_metrics_as_published(published):
    values = as_similarities(published).per_query()
    np.testing.assert_allclose(1 / values["mrr"], published["metrics.rank"], atol=1e-9)
    assert values["mrr"].mean() == pytest.approx(float(published["metrics.mrr"]), abs=1e-9)
    assert values["ndcg"].mean() == pytest.approx(float(published["metrics.ndcg"]), abs=1e-9)
    np.testing.assert_allclose(values["recall@5"], published["metrics.rank"] <= 5, atol=1e-9)
    target = published["metrics.target"].copy()
    target[0] = MISSING
    own = as_similarities(published)
    missing = Similarities(own.queries, own.items, own.scores, target, own.query_classes, own.item_classes)
    assert missing.values()["mrr"] == pytest.approx(float(published["metrics.mrr_missing_item"]), abs=1e-9)
    gain = Ranking([[4, 3, 2, 1]], [[1, 0, 1, 1]]).dcg()
    np.testing.assert_allclose(gain, published["metrics.dcg_1011"], rtol=0, atol=1e-8)


def test_metrics_of_the_notebook_as_published(published):
    kept = np.isin(published["metrics.target"][published["metrics.kept_queries"]], published["metrics.kept_items"])
    own = as_similarities(published, published["metrics.kept_queries"][kept], published["metrics.kept_items"])
    assert own.values()["mrr"] == pytest.approx(float(published["metrics.notebook_mrr"]), abs=1e-9)
    assert own.values()["ndcg"] == pytest.approx(float(published["metrics.notebook_ndcg"]), abs=1e-9)
    ranking = Ranking(own.scores, own.query_classes[:, None] == own.item_classes)
    assert ranking.reciprocal_ranks().mean() == pytest.approx(float(published["metrics.notebook_class_mrr"]), abs=1e-9)


def collected(published, states=1):
    """The embeddings of a validation in ``states`` processes, pair by pair, items repeated."""
    items = published["epoch_end.item"]
    truth = {f"q{row:02d}": f"{item:02d}" for row, item in enumerate(items)}
    classes = {f"{item:02d}": int(label) for item, label in enumerate(published["epoch_end.item_class"])}
    parts = []
    for rank in range(states):
        metrics = RetrievalMetrics(truth, classes)
        for row in range(rank, len(items), states):
            metrics.update_items([f"{items[row]:02d}"], published["epoch_end.reference"][row][None])
            metrics.update_queries([f"q{row:02d}"], torch.from_numpy(published["epoch_end.imitation"][row])[None])
        parts.append(metrics)
    parts.append(RetrievalMetrics(truth, classes))  # a process without clips
    parts[0].merge([part.state() for part in parts])
    return parts[0]


def test_end_of_an_epoch_as_published(published):
    values = dict(collected(published).publish("val"))
    assert values["val/mrr"] == pytest.approx(float(published["epoch_end.mrr"]), abs=1e-9)
    assert values["val/ndcg"] == pytest.approx(float(published["epoch_end.ndcg"]), abs=1e-9)
    assert "val/loss" not in values


def test_several_processes_have_the_metrics_of_one():
    rng = np.random.default_rng(0)
    items, queries = rng.normal(size=(5, 4)), rng.normal(size=(12, 4))
    stored = {"epoch_end.item": np.arange(12) % 5, "epoch_end.item_class": np.arange(5) % 2}
    stored |= {"epoch_end.reference": items[stored["epoch_end.item"]], "epoch_end.imitation": queries}
    one, three = collected(stored), collected(stored, 3)
    assert dict(one.publish("val")) == dict(three.publish("val"))
    np.testing.assert_array_equal(one.similarities().scores, three.similarities().scores)


def test_captions_as_published():
    stored = golden("qvim/captions.npz")
    scores, owner = stored["metrics.scores"], stored["metrics.caption_owner"]
    relevant = np.arange(len(scores))[:, None] == owner
    for name, ranking in (("audio2text", Ranking(scores, relevant)), ("text2audio", Ranking(scores.T, relevant.T))):
        values = np.stack([*(ranking.recall(k) for k in (1, 5, 10)), ranking.average_precision(10)], axis=1)
        np.testing.assert_allclose(values, stored[f"metrics.{name}.per_query_R1_R5_R10_AP"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(values.mean(0), stored[f"metrics.{name}.R1_R5_R10_mAP10"], rtol=0, atol=1e-9)


def of_order(relevant, order):
    """All metrics of one ranking, by hand: reciprocal rank, NDCG, recall@2, AP@3, sum of reciprocal ranks."""
    ranks = [rank for rank, item in enumerate(order, start=1) if relevant[item]]
    if not ranks:
        return [0.0] * 5
    ideal = range(1, len(ranks) + 1)
    precisions = [(number + 1) / rank for number, rank in enumerate(ranks) if rank <= 3]
    return [
        1 / ranks[0],
        sum(1 / np.log2(rank + 1) for rank in ranks) / sum(1 / np.log2(rank + 1) for rank in ideal),
        sum(rank <= 2 for rank in ranks) / len(ranks),
        sum(precisions) / len(ranks),
        sum(1 / rank for rank in ranks) / sum(1 / rank for rank in ideal),
    ]


def test_ties_are_expected_values_over_all_orders():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (60, 5)).astype(float)
    scores[:2] = 1  # everything alike
    relevant = rng.random((60, 5)) < 0.4
    assert {0, 1, 2, 3} <= set(relevant.sum(1))
    ranking = Ranking(scores, relevant)
    found = [
        ranking.reciprocal_rank(), ranking.ndcg(), ranking.recall(2), ranking.average_precision(3),
        ranking.reciprocal_ranks(),
    ]  # fmt: skip
    single = relevant.sum(1) == 1
    one = target_metrics(scores[single], relevant[single].argmax(1), (2,))
    np.testing.assert_allclose(one["mrr"], found[0][single], rtol=0, atol=1e-12)
    np.testing.assert_allclose(one["recall@2"], found[2][single], rtol=0, atol=1e-12)
    for row in range(len(scores)):
        orders = [
            order
            for order in itertools.permutations(range(5))
            if all(scores[row, one] >= scores[row, other] for one, other in itertools.pairwise(order))
        ]
        expected = np.mean([of_order(relevant[row], order) for order in orders], axis=0)
        np.testing.assert_allclose([values[row] for values in found], expected, rtol=0, atol=1e-12)


def test_scores_that_are_no_numbers_rank_last():
    ranking = Ranking([[np.nan, 2.0, 1.0]], [[True, False, False]])
    assert ranking.reciprocal_rank().tolist() == pytest.approx([1 / 3])
    assert target_metrics(np.array([[np.nan, 2.0, 1.0]]), np.array([0]))["mrr"].tolist() == pytest.approx([1 / 3])


def test_chance_is_the_mean_of_random_rankings(published):
    own = as_similarities(published)
    chance = own.chance().values()
    assert chance["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 25)))
    assert chance["recall@5"] == pytest.approx(5 / 24)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(200):
        scores = rng.random(own.scores.shape)
        draws.append(
            Similarities(own.queries, own.items, scores, own.targets, own.query_classes, own.item_classes).values()
        )
    for name in ("mrr", "ndcg"):
        assert np.mean([draw[name] for draw in draws]) == pytest.approx(chance[name], abs=0.005)


def test_blocks_of_queries_agree(published, monkeypatch):
    own = as_similarities(published)
    whole = own.per_query()
    monkeypatch.setattr("helpers.retrieval_metrics.BLOCK", 24 * 7)
    for name, values in own.per_query().items():
        np.testing.assert_array_equal(values, whole[name])


def test_intervals(published):
    rows = as_similarities(published).rows("dev", Bootstrap(500))
    assert [row.metric for row in rows] == ["mrr", "ndcg", "recall@1", "recall@5", "recall@10"]
    values = as_similarities(published).per_query()["mrr"]
    rng = np.random.default_rng(1)
    means = values[rng.integers(0, len(values), (5000, len(values)))].mean(1)
    assert rows[0].value == pytest.approx(values.mean())
    assert [rows[0].low, rows[0].high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)
    nothing = intervals({"mrr": np.zeros(0)}, Bootstrap())["mrr"]
    assert np.isnan(nothing).all()


def test_similarities_that_do_not_fit():
    row = np.zeros(1, int)
    with pytest.raises(ValueError, match="1 queries and 2 items, but"):
        Similarities(("q",), ("a", "b"), np.zeros((1, 1)), row, row, np.zeros(2))
    with pytest.raises(ValueError, match="a right item is none of the 1 items"):
        Similarities(("q",), ("a",), np.zeros((1, 1)), row + 1, row, row)
    with pytest.raises(ValueError, match="no item to rank"):
        Similarities(("q",), (), np.zeros((1, 0)), row + MISSING, row, np.zeros(0))
    with pytest.raises(ValueError, match=r"expected queries x items twice"):
        Ranking(np.zeros((1, 2)), np.zeros((2, 1)))


def test_embeddings_that_are_no_numbers(caplog):
    metrics = RetrievalMetrics({"q": "b"}, name="dev")
    metrics.update_items(["a", "b"], np.array([[np.nan, 1.0], [0.0, 1.0]]))
    metrics.update_queries(["q"], np.array([[0.0, 1.0]]))
    assert "dev: 1 clips have embeddings that are no numbers" in caplog.text
    assert dict(metrics.publish("t"))["t/mrr"] == 1


def test_truth():
    items, scores = ["a", "b", "c"], np.array([[3.0, 2.0, 1.0]] * 4)
    truth = {"p": "b", "r": "gone", "s": "c"}  # nothing is known of q, and the right item of r is not there
    own = similarities(["p", "q", "r", "s"], items, scores, truth, {"a": "x", "b": "y", "c": "x", "gone": "x"})
    assert own.queries == ("p", "r", "s")
    values = own.per_query((2,))
    np.testing.assert_allclose(values["mrr"], [1 / 2, 0, 1 / 3])
    np.testing.assert_array_equal(values["recall@2"], [1, 0, 0])
    both_of_x = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(values["ndcg"], [1 / np.log2(3), both_of_x, both_of_x])
    alone = similarities(["p", "q", "r", "s"], items, scores, truth).per_query()
    np.testing.assert_allclose(alone["ndcg"], [1 / np.log2(3), 0, 1 / 2])


def test_collecting():
    metrics = RetrievalMetrics({"q": "b", "r": "gone"})
    assert dict(metrics.publish("t")) == {}
    metrics.update_items(["a", "b", "b"], np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))  # b as it came first
    metrics.update_queries(["q", "r", "unknown"], np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]))
    assert dict(metrics.publish("t"))["t/mrr"] == 0.5
    assert metrics.similarities().queries == ("q", "r")
    metrics.reset()
    assert dict(metrics.publish("t")) == {}
    metrics.update_items(["a"], np.array([[1.0, 0.0]]))
    metrics.update_queries(["unknown"], np.array([[0.0, 1.0]]))
    assert np.isnan(dict(metrics.publish("t"))["t/mrr"])


# -- schedule


@pytest.mark.parametrize("batches", [10, 7])
def test_rates_as_published(published, batches):
    def rates(**options):
        rate = make_schedule(15, batches, **options)
        return [rate(step) for step in range(15 * batches)]

    np.testing.assert_allclose(rates(), published[f"lr.official.steps{batches}"], rtol=0, atol=1e-12)
    for warmup, rampdown in ((0.1, 0.8), (0.05, 0.8), (0.0, 1.0), (0.5, 0.8)):
        expected = published[f"lr.percent.w{warmup}_d{rampdown}.steps{batches}"]
        shares = rates(warmup_percent=warmup, rampdown_percent=rampdown)
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)
    mixed = rates(warmup_percent=2 / 15)
    assert mixed == rates(warmup_epochs=2)


def test_schedules_without_meaning():
    for options, message in (
        ({"warmup_epochs": -1}, "optimizer.warmup_epochs is -1"),
        ({"rampdown_percent": -0.1}, "optimizer.rampdown_percent is -0.1"),
        ({"epochs": -1, "warmup_percent": 0.1}, "but trainer.max_epochs is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_schedule(**{"epochs": 2, "batches": 3, **options})
    assert make_schedule(-1, 4)(4) == 3e-4


# -- training


def tones(count=12, seconds=0.5, rate=8000):
    """References at different pitches, and imitations: the same pitches with noise."""
    rng, time = np.random.default_rng(0), np.arange(int(seconds * rate)) / rate
    samples = []
    for number in range(count):
        tone = np.sin(2 * np.pi * 200 * 2 ** (number / 4) * time)
        imitation = tone * rng.uniform(0.3, 1) + rng.normal(0, 0.05, len(time))
        sample = {"imitation": imitation, "reference": tone}
        sample = {side: torch.from_numpy(audio.astype(np.float32)) for side, audio in sample.items()}
        samples.append({**sample, "imitation_filename": f"q{number}.wav", "reference_filename": f"low/{number}.wav"})
    return samples


def loaders(samples, batch_size=5):
    """Loaders of single sounds: references, imitations."""
    return [
        DataLoader([{"audio": sample[side], "filename": sample[f"{side}_filename"]} for sample in samples], batch_size)
        for side in ("reference", "imitation")
    ]


def make_module(dual=None, mel=None, kind=RetrievalModule, **options):
    if dual is None:
        mel, dual = small()
    options = {"objective": Contrastive(), "optimizer": make_optimizer, "schedule": make_schedule, **options}
    truth = {f"q{number}.wav": f"low/{number}.wav" for number in range(12)}
    classes = {f"low/{number}.wav": number // 4 for number in range(12)}
    parts = {part: RetrievalMetrics(truth, classes, part) for part in ("validation", "test")}
    return kind(mel, dual, **options, evaluation=parts, seed=3)


def make_trainer(folder=None, epochs=2, **options):
    torch.set_num_threads(1)  # so small is the network
    best = folder and [ModelCheckpoint(folder, "best", *RetrievalModule.headline[:1], mode=RetrievalModule.headline[1])]
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=best, enable_checkpointing=bool(folder), logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.mark.filterwarnings("ignore")
def test_training(tmp_path):
    used = []

    class Watched(RetrievalModule):
        def on_before_optimizer_step(self, optimizer):
            used.append(optimizer.param_groups[0]["lr"])

    module = make_module(kind=Watched, config={"arch": ARCH})
    initial = {name: tensor.clone() for name, tensor in module.dual.state_dict().items()}
    data = DataLoader(tones(), batch_size=4)
    trainer = make_trainer(tmp_path, accumulate_grad_batches=2)
    trainer.fit(module, data, loaders(tones()))
    rate = make_schedule(2, 3)
    assert used == pytest.approx([rate(step) for step in (1, 2, 4, 5)])  # of the last batch of every step
    assert {"val/mrr", "val/ndcg", "val/loss", "train/loss", "train/tau", "train/lr"} <= trainer.callback_metrics.keys()
    assert float(trainer.callback_metrics["train/tau"]) == pytest.approx(0.07)

    stored = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert stored["config"] == {"arch": ARCH}
    assert set(stored["retrieval"]) == set(initial)
    changed = {name for name, tensor in stored["retrieval"].items() if not torch.equal(tensor, initial[name])}
    assert {"imitation_encoder.features.0.0.weight", "reference_encoder.features.0.0.weight"} <= changed
    assert not {name for name in changed if "classifier" in name or name == "tau"}
    mel, again = small()
    load_dual(again, ARCH, str(tmp_path / "best.ckpt"), tmp_path)
    fresh = make_module(again, mel)
    make_trainer().test(fresh, loaders(tones()), verbose=False)
    best = trainer.checkpoint_callback.best_model_score
    assert fresh.results["test/mrr"] == pytest.approx(float(best), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_best_checkpoint_has_the_highest_mrr(tmp_path, monkeypatch):
    values = iter([0.3, 0.7, 0.2])

    def publish(self, prefix):
        return [(f"{prefix}/mrr", next(values))]

    monkeypatch.setattr(RetrievalMetrics, "publish", publish)
    data = DataLoader(tones(4), batch_size=4)
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(make_module(), data, loaders(tones(4)))
    assert float(trainer.checkpoint_callback.best_model_score) == pytest.approx(0.7)
    assert torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["epoch"] == 1


@pytest.mark.filterwarnings("ignore")
def test_training_learns():
    mel, dual = small(initial_tau=0.2, tau_trainable=True)
    for layer in dual.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.3  # their statistics have few steps to arrive
    schedule = partial(make_schedule, max_lr=4e-3, min_lr=4e-4, rampdown_epochs=17)
    module = make_module(dual, mel, objective=Contrastive(symmetric=True), schedule=schedule)
    data = DataLoader(tones(), batch_size=12)
    trainer = make_trainer(epochs=20, limit_val_batches=0)
    trainer.fit(module, data)
    trainer.test(module, loaders(tones()), verbose=False)
    assert module.results["test/mrr"] > 2 * np.mean(1 / np.arange(1, 13))
    assert dual.tau.item() != pytest.approx(0.2)


def test_masks_are_drawn_separately(monkeypatch):
    mel, dual = small()
    mel.freqm, mel.timem = 4, 20
    seen = []
    monkeypatch.setattr(dual, "forward", lambda x, side, rng=None: seen.append(x) or torch.ones(len(x), 2))
    module = make_module(dual, mel).train()
    batch = next(iter(DataLoader(tones(2), batch_size=2)))
    batch["reference"] = batch["imitation"].requires_grad_()
    module.pair_loss(batch, np.random.default_rng(0))
    module.pair_loss(batch, np.random.default_rng(0))
    assert not any(x.requires_grad for x in seen)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    module.eval().pair_loss(batch, np.random.default_rng(0))
    assert torch.equal(seen[4], seen[5])


def test_large_batch_in_pieces():
    mel, dual = small()
    for encoder in dual.encoders:
        encoder.eval()  # batch norms of training mode see one piece at a time
    batch = next(iter(DataLoader(tones(6), batch_size=6)))
    found = []
    for cached in (0, 4):
        module = make_module(dual, mel, cached_batch=cached)
        dual.zero_grad()
        loss = module.pair_loss(batch, np.random.default_rng(0))
        loss.backward()
        found.append((float(loss.detach()), [p.grad.clone() for p in dual.parameters() if p.requires_grad]))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    for own, expected in zip(found[1][1], found[0][1]):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="cached_batch is -1"):
        make_module(cached_batch=-1)


def test_loss_of_an_evaluation_is_that_of_one_batch():
    module = make_module().eval()
    batch = next(iter(DataLoader(tones(5), batch_size=5)))
    with torch.no_grad():
        expected = float(module.pair_loss(batch, np.random.default_rng(0)))
        for side, loader in zip(("reference", "imitation"), loaders(tones(5), 2)):
            for part in loader:
                module.evaluate_batch(part, "validation", side)
    values = dict(module.evaluation["validation"].publish("val"))
    assert values["val/loss"] == pytest.approx(expected, abs=1e-5)
