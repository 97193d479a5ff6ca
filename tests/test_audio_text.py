"""Language-based audio retrieval: encoders and weights, losses, metrics and ties, training."""

import logging
import re
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from helpers.audio_text import AudioTextModule, make_optimizer, make_schedule
from helpers.audio_text_losses import AudioTextLoss, SoftTargets, distillation_loss, triplet_loss
from helpers.caption_metrics import CaptionMetrics, Placement, caption_values, measures
from helpers.checkpoints import rename
from helpers.contrastive import info_nce
from helpers.retrieval_metrics import Ranking
from models.audio_text import BASELINE_NAMES, audio_text_state, build_audio_text, load_audio_text
from models.tagging import build_tagger
from models.text import SentenceEncoder
from tests.golden.named_weights import set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm
from tests.reference import golden
from tests.test_cnn14 import clotho_batch, encoder_name
from tests.test_text import make_mpnet

ARCH = "mn01_as"
SMALL = {
    "mn_mel": {"sr": 8000, "win_length": 256, "hopsize": 160, "n_fft": 256, "n_mels": 32, "fmax_aug_range": 100},
    "cnn14_clotho": {"channels": (4, 4, 8, 8, 8, 16)},
}
FEATURES = 32  # bands of that front end


@pytest.fixture(scope="module")
def published():
    return golden("lbar/audio_text.npz")


def small(arch=ARCH, text_dim=6, **options):
    torch.manual_seed(0)
    return build_audio_text(arch, SMALL, text_dim=text_dim, **{"dim": 8, **options})


def published_name(name):
    """A name of our state as the baseline has it."""
    if name.startswith("audio_encoder."):
        return f"audio_enc.{encoder_name(name.removeprefix('audio_encoder.'))}"
    return name.replace("text_projection.", "text_enc.fc.")


# -- encoders


@pytest.mark.parametrize(
    ("layout", "units"), [("cnn14_encoder_2023_out300", None), ("cnn14_encoder_2024_fc1457", 1457)]
)
def test_names_and_shapes_as_published(layout, units):
    with torch.device("meta"):
        _, model = build_audio_text(config={"cnn14_clotho": {"projection": units}})
    encoder = golden("tagging/cnn14_manifests.json")[layout]
    theirs = {f"audio_enc.{name}": shape for name, shape in encoder.items()}
    theirs |= {"text_enc.fc.weight": [300, 768], "text_enc.fc.bias": [300]}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes.pop("tau") == [1]
    assert rename(theirs, BASELINE_NAMES) == shapes
    assert {published_name(name): shape for name, shape in shapes.items()} == theirs


def test_embeddings_as_published(published):
    _, model = build_audio_text()
    set_named_weights(model, 0, rename=published_name)
    table = torch.nn.Embedding(12, 768)
    set_named_weights(table, 0, rename=lambda name: f"text_enc.embedding.{name}")
    batch, ids = clotho_batch(), torch.tensor([[3, 0], [7, 2]])
    calibrate_batchnorm(model, forward=lambda: model.encode_audio(batch))
    with torch.no_grad():
        audio, text = model.encode_audio(batch), model.encode_text(table(ids[:, 0]))
        two = model.encode_text(table(ids).mean(1))
    np.testing.assert_allclose(audio, published["dual.cal.audio"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(text, published["dual.cal.text"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(two, published["dual.cal.text_two_ids"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(audio[0] @ text.T, published["dual.cal.score"], rtol=0, atol=1e-4)


def gradient_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        (ARCH, {}),
        ("cnn14_clotho", {"freeze": 3}),
        (ARCH, {"pooling": "attention", "audio_units": 5, "text_units": 7}),
        ("dymn04_as", {"freeze": 2}),
        ("cnn14_clotho", {"freeze": "all"}),
        ("frame_mn06", {}),
    ],
)
def test_what_is_trained_gets_a_gradient(arch, options):
    mel, model = small(arch, trainable_temperature=True, **options)
    rng = np.random.default_rng(0)
    x = mel.train()(torch.randn(2, 2 * mel.sample_rate, generator=torch.Generator().manual_seed(0)), rng)
    audio, text = model.train().encode_audio(x, rng), model.encode_text(torch.randn(2, 6))
    assert audio.shape == text.shape == (2, 8)
    torch.testing.assert_close(torch.cat([audio, text]).norm(dim=1), torch.ones(4))
    AudioTextLoss()(text, audio, model.tau, torch.arange(2)).backward()
    assert gradient_names(model) == trained_names(model)
    groups = model.trained_parameters()
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in model.parameters() if p.requires_grad}
    assert bool(groups["audio"]) == (options.get("freeze") != "all")
    assert not groups["text"]


def test_frozen_layers():
    _, model = small("cnn14_clotho", freeze=3)
    frozen = {name for name, _ in model.named_parameters() if name not in trained_names(model)} - {"tau"}
    assert {name.split(".")[1] for name in frozen} == {"bn0", "conv_block1", "conv_block2"}
    x = torch.randn(2, 1, 64, 64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train().encode_audio(x)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in changed} == {f"conv_block{number}" for number in (3, 4, 5, 6)}
    assert small("cnn14_clotho", freeze=0)[1].train().audio_encoder.bn0.training
    _, model = small("cnn14_clotho", freeze="all")
    names = trained_names(model)
    assert {name for name in names if name.startswith("audio")} == {
        "audio_encoder.fc_audioset.weight",
        "audio_encoder.fc_audioset.bias",
    }
    for value in (8, -1, "some", True):
        with pytest.raises(ValueError, match=r"freeze is .*, expected 'all', or 0 to 7 layer groups"):
            small("cnn14_clotho", freeze=value)


def test_sizes_without_meaning():
    for options, message in (
        ({"dim": 0}, "dim is 0, expected a number of dimensions"),
        ({"text_units": 0}, "text_units is 0"),
        ({"temperature": 0.0}, r"temperature is 0.0, expected a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**options)
    with pytest.raises(ValueError, match="captions are texts, but there is no text encoder"):
        small()[1].encode_text(["rain"])


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    return make_mpnet(tmp_path_factory.mktemp("mpnet"))


def test_text_encoder_inside(mpnet):
    captions = ["rain on a roof", "a dog barks"]
    _, model = small(text_dim=None, text_encoder=SentenceEncoder(mpnet, 1), text_units=5)
    embeddings = torch.from_numpy(model.text_encoder.embed(captions))
    torch.testing.assert_close(model.eval().encode_text(captions), model.encode_text(embeddings), atol=1e-6, rtol=0)
    model.train().encode_text(captions)[:, 0].sum().backward()
    groups = model.trained_parameters()
    assert all(parameter.grad is not None for parameter in groups["text"])
    assert len(groups["text"]) == len(list(model.text_encoder.network.encoder.layer[2].parameters()))


# -- weights


def equal_states(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_weights_of_the_published_systems_and_of_runs(tmp_path):
    _, source = small("cnn14_clotho")
    set_named_weights(source, 3)
    state = source.state_dict()
    theirs = {published_name(name): tensor for name, tensor in state.items() if name != "tau"}
    theirs["text_enc.embedding.weight"] = torch.zeros(12, 6)
    torch.save(theirs, tmp_path / "2023.pth")
    torch.save({"epoch": 3, "model_state_dict": theirs, "optimizer_state_dict": {}}, tmp_path / "checkpoint_epoch_3")
    torch.save((theirs, {"state": {}, "param_groups": []}), tmp_path / "checkpoint")
    torch.save({"audio_text": state, "state_dict": {"model.tau": state["tau"]}}, tmp_path / "run.ckpt")
    files = (("2023.pth", ["tau"]), ("checkpoint", ["tau"]), ("checkpoint_epoch_3", ["tau"]), ("run.ckpt", []))
    for name, left in files:
        _, model = small("cnn14_clotho", temperature=0.5)
        assert load_audio_text(model, "cnn14_clotho", str(tmp_path / name), tmp_path).left == left
        assert equal_states({name: tensor for name, tensor in state.items() if name != "tau"}, model.state_dict())
    with pytest.raises(ValueError, match=r"run.ckpt does not fit AudioTextEncoder: 4 tensors different \(audio"):
        load_audio_text(small("cnn14_clotho", dim=9)[1], "cnn14_clotho", str(tmp_path / "run.ckpt"), tmp_path)
    assert audio_text_state({"tagger": {"classifier.weight": torch.zeros(1)}}) == {}


def test_tuned_text_encoder_is_not_left_out(tmp_path, mpnet):
    _, tuned = small(text_dim=None, text_encoder=SentenceEncoder(mpnet, 1))
    set_named_weights(tuned, 2)
    torch.save({"audio_text": tuned.state_dict()}, tmp_path / "run.ckpt")
    _, again = small(text_dim=None, text_encoder=SentenceEncoder(mpnet))
    load_audio_text(again, ARCH, str(tmp_path / "run.ckpt"), tmp_path)
    assert equal_states(tuned.state_dict(), again.state_dict())
    with pytest.raises(ValueError, match=r"tensors unexpected \(text_encoder\.network"):
        load_audio_text(small(text_dim=24)[1], ARCH, str(tmp_path / "run.ckpt"), tmp_path)


def test_weights_of_a_tagger_keep_the_projections(tmp_path):
    _, tagger = build_tagger(ARCH, SMALL, 50)
    set_named_weights(tagger, 5)
    torch.save({"tagger": tagger.state_dict(), "config": {"arch": ARCH}}, tmp_path / "tagger.ckpt")
    _, model = small()
    assert load_audio_text(model, ARCH, str(tmp_path / "tagger.ckpt"), tmp_path).left
    assert torch.equal(model.audio_encoder.features[0][0].weight, tagger.features[0][0].weight)
    assert load_audio_text(model, ARCH, None, tmp_path) is None
    _, source = build_tagger("cnn14_clotho", SMALL, 300)
    theirs = {encoder_name(name): tensor for name, tensor in source.state_dict().items()}
    torch.save(theirs, tmp_path / "CNN14_300.pth")
    later = {"cnn14_clotho": {**SMALL["cnn14_clotho"], "projection": 5}}  # of 2024, which began with the file of 2023
    _, model = build_audio_text("cnn14_clotho", later)
    left = load_audio_text(model, "cnn14_clotho", str(tmp_path / "CNN14_300.pth"), tmp_path).left
    assert left == ["projection.weight", "projection.bias", "fc_audioset.weight"]
    assert torch.equal(model.audio_encoder.conv_block6.conv2.weight, source.conv_block6.conv2.weight)
    with pytest.raises(FileNotFoundError, match=r"nothing.ckpt: no such weights file"):
        load_audio_text(model, ARCH, str(tmp_path / "nothing.ckpt"), tmp_path)


# -- losses


@pytest.mark.parametrize("tau", [0.07, 0.2])
@pytest.mark.parametrize("dist", ["dot_product", "cosine_similarity"])
def test_contrastive_loss_as_published(published, dist, tau):
    audio, text = (torch.from_numpy(published[f"loss.{name}"]) for name in ("audio", "text"))
    clips = {
        "unique": torch.arange(len(audio)),
        "duplicates": torch.from_numpy(published["loss.duplicate_fid"]),
        "all_same": torch.zeros(len(audio), dtype=torch.int64),
    }
    for kind, numbers in clips.items():
        found = AudioTextLoss()(text, audio, torch.tensor([tau]), numbers)
        assert float(found) == pytest.approx(float(published[f"loss.{kind}.{dist}.T{tau}"]), abs=1e-5), kind


def pairs(count=7, dim=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.nn.functional.normalize(torch.randn(count, dim, generator=rng), dim=1) for _ in range(2)]


@pytest.mark.parametrize("hardest", [True, False])
def test_triplet_loss_by_hand(hardest):
    text, audio = pairs()
    clips = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    scores, expected = (text @ audio.T).tolist(), 0.0
    for table in (scores, list(map(list, zip(*scores)))):
        rows = [[max(0.0, 0.2 + table[i][j] - table[i][i]) for j in range(7) if clips[i] != clips[j]] for i in range(7)]
        everything = [cost for row in rows for cost in row]
        expected += sum(map(max, rows)) / 7 if hardest else sum(everything) / len(everything)
    loss = AudioTextLoss("triplet", hardest=hardest)(text, audio, 0.07, clips)
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    one = text[:1].clone().requires_grad_()
    alone = triplet_loss(one, audio[:1], torch.ones(1, 1, dtype=torch.bool), hardest=hardest)
    alone.backward()
    assert (alone.item(), one.grad.abs().sum().item()) == (0.0, 0.0)


def test_distillation_by_hand():
    text, audio = pairs()
    teacher = torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
    scores, expected = (text @ audio.T / 0.3).double().numpy(), 0.0
    for own, target in ((scores, teacher.double().numpy() / 0.1), (scores.T, teacher.double().numpy().T / 0.1)):
        p = np.exp(target) / np.exp(target).sum(1, keepdims=True)
        expected -= (p * (own - np.log(np.exp(own).sum(1, keepdims=True)))).sum() / 7
    assert float(distillation_loss(text, audio, 0.3, teacher, 0.1)) == pytest.approx(expected, abs=1e-5)
    certain = distillation_loss(text, audio, 0.3, torch.eye(7) * 100)
    assert float(certain) == pytest.approx(2 * float(info_nce(text, audio, 0.3, symmetric=True)), abs=1e-5)
    own = AudioTextLoss(distillation=0.25, teacher_tau=0.1)(text, audio, 0.3, torch.arange(7), teacher)
    hard = AudioTextLoss()(text, audio, 0.3, torch.arange(7))
    assert float(own) == pytest.approx(0.75 * float(hard) + 0.25 * expected, abs=1e-5)


def test_soft_targets():
    first, second = np.arange(12.0).reshape(4, 3), np.ones((4, 3))
    teacher = SoftTargets([first, second])
    found = teacher(torch.tensor([3, 0, 3]), torch.tensor([1, 1, 0]))
    np.testing.assert_allclose(found, [[5.5, 5.5, 5.0], [1.0, 1.0, 0.5], [5.5, 5.5, 5.0]])
    with pytest.raises(ValueError, match=r"similarities to learn from: none, expected"):
        SoftTargets([])
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(4, 3\), expected arrays of captions x clips, all alike"):
        SoftTargets([first, first.T])


def test_losses_without_meaning():
    for options, message in (
        ({"kind": "ce"}, r"loss.kind is 'ce', expected infonce or triplet"),
        ({"distillation": 1.5}, r"loss.distillation is 1.5, expected a share of 1"),
    ):
        with pytest.raises(ValueError, match=message):
            AudioTextLoss(**options)
    mel, model = small(trainable_temperature=True)
    with pytest.raises(ValueError, match=r"loss.kind=triplet has no temperature"):
        AudioTextModule(mel, model, AudioTextLoss("triplet"), make_optimizer, make_schedule, {})


# -- optimizer


def test_rates_of_the_published_schedule(published):
    optimizer = make_optimizer({"audio": [torch.nn.Parameter(torch.zeros(1))], "text": [], "projection": []})
    assert (type(optimizer), optimizer.param_groups[0]["lr"]) == (torch.optim.Adam, 1e-3)
    schedule, rates = make_schedule(optimizer, 0), []
    for loss in published["plateau.val_loss"]:
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, published["plateau.lr_after_step"], rtol=1e-9)


def test_rates_of_parts_and_other_schedules():
    parameters = {name: [torch.nn.Parameter(torch.zeros(1))] for name in ("audio", "text", "projection")}
    optimizer = make_optimizer(parameters, lr=0.1, audio_lr=0.01, text_lr=0.001, adamw=True, weight_decay=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.001, 0.1]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    cosine = make_schedule(optimizer, 10, schedule="cosine", warmup_steps=2)
    assert [cosine.lr_lambdas[0](step) for step in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert make_schedule(optimizer, 10, schedule="constant") is None
    with pytest.raises(ValueError, match=r"optimizer.schedule is 'step', expected one of plateau, cosine, constant"):
        make_schedule(optimizer, 10, schedule="step")
    with pytest.raises(ValueError, match="no parameter is trained"):
        make_optimizer({"audio": [], "text": [], "projection": []})


# -- metrics


def test_metrics_as_published():
    stored = golden("qvim/captions.npz")
    scores, owner = stored["metrics.scores"], stored["metrics.caption_owner"]
    relevant = owner[:, None] == np.arange(len(scores))
    values = caption_values(scores.T, relevant)
    for name, found in (
        ("text2audio", measures(scores.T, relevant)),
        ("audio2text", measures(scores, relevant.T)),
    ):
        columns = [found[metric] for metric in ("R@1", "R@5", "R@10", "mAP@10")]
        expected = stored[f"metrics.{name}.per_query_R1_R5_R10_AP"]
        np.testing.assert_allclose(np.stack(columns, axis=1), expected, rtol=0, atol=1e-9)
        prefix = "a2t/" if name == "audio2text" else ""
        means = [values[prefix + metric] for metric in ("R@1", "R@5", "R@10", "mAP@10")]
        np.testing.assert_allclose(means, stored[f"metrics.{name}.R1_R5_R10_mAP10"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_ties_and_several_right_items_as_in_sorted_rankings(levels, monkeypatch):
    monkeypatch.setattr("helpers.caption_metrics.BLOCK", 70)  # several blocks
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (40, 23)).astype(np.float32)
    scores[3, :5] = np.nan
    relevant = rng.random((40, 23)) < 0.15
    relevant[0], relevant[1] = False, True
    own, other = Placement(scores, relevant), Ranking(scores, relevant)
    for k in (1, 2, 10, 16, 23, 50):
        np.testing.assert_allclose(own.recall(k), other.recall(k), rtol=0, atol=1e-12)
        np.testing.assert_allclose(own.average_precision(k), other.average_precision(k), rtol=0, atol=1e-12)
    curve = [other.recall(k).mean() for k in range(1, 24)]
    np.testing.assert_allclose(own.recall_curve(), curve, rtol=0, atol=1e-12)
    # a rank is the sum of the chances that the first right item comes later
    for row in (2, 3, 30):
        if relevant[row].any():
            draws = rng.random((4000, 23))
            filled = np.where(np.isnan(scores[row]), -1, scores[row])
            order = np.lexsort((draws, np.broadcast_to(-filled, draws.shape)), axis=1)
            first = relevant[row][order].argmax(axis=1) + 1
            assert own.first_rank()[row] == pytest.approx(first.mean(), abs=0.3)
    assert np.isnan(own.first_rank()[0])
    assert own.first_rank()[1] == 1


def test_first_rank_without_ties():
    placement = Placement([[0.1, 0.9, 0.5], [3, 2, 1]], [[True, False, True], [False, False, True]])
    assert placement.first_rank().tolist() == [2, 3]
    assert placement.total.tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"scores \(1, 2\) and right items \(2, 1\), expected queries x items twice"):
        Placement(np.zeros((1, 2)), np.zeros((2, 1)))
    empty = measures(np.zeros((0, 4)), np.zeros((0, 4)))
    assert [len(values) for values in empty.values()] == [0] * 5


def collected(metrics, audio, clips):
    metrics.update(torch.tensor(clips), torch.from_numpy(audio[clips]))
    return metrics


def caption_metrics(text, owners, **options):
    metrics = CaptionMetrics(text, owners, **options)
    metrics.encode = lambda captions: captions
    return metrics


def test_metrics_of_embeddings():
    rng = np.random.default_rng(0)
    audio, owners = rng.normal(size=(12, 4)).astype(np.float32), np.repeat(np.arange(12), 2)
    text = (audio[owners] + rng.normal(size=(24, 4))).astype(np.float32)
    whole = collected(caption_metrics(text, owners), audio, list(range(12)))
    values = dict(whole.publish("val"))
    expected = caption_values(text @ audio.T, owners[:, None] == np.arange(12))
    assert values == {f"val/{name}": pytest.approx(value) for name, value in expected.items()}

    parts = [collected(caption_metrics(text, owners), audio, clips) for clips in ([0, 5, 2, 4], [1, 3, *range(5, 12)])]
    merged = caption_metrics(text, owners)
    merged.merge([part.state() for part in parts] + [caption_metrics(text, owners).state()])
    assert dict(merged.publish("val")) == values

    # clips 6 to 11 cannot be read; caption 20 is right for clip 3 as well
    relevant = owners[:, None] == np.arange(12)
    relevant[20, 3] = True
    some = collected(caption_metrics(text, owners, relevant=relevant), audio, [4, 0, 3, 1, 2, 5])
    scores, captions, clips = some.scores()
    assert (captions.tolist(), clips.tolist()) == ([*range(12), 20], list(range(6)))
    np.testing.assert_allclose(scores, text[captions] @ audio[:6].T, atol=1e-6)
    pairs_seen = []
    some.criterion = lambda *arrays: pairs_seen.append(arrays) or 0.5
    found = dict(some.publish("val"))
    assert found["val/mAP@16"] == pytest.approx(Ranking(scores, relevant[captions][:, :6]).average_precision(16).mean())
    assert found["val/loss"] == 0.5
    np.testing.assert_array_equal(pairs_seen[0][2], owners[:12])
    np.testing.assert_array_equal(pairs_seen[0][1], audio[owners[:12]])
    whole.reset()
    assert dict(whole.publish("val")) == {}


def test_metrics_of_what_is_no_number(caplog):
    metrics = caption_metrics(np.eye(2, dtype=np.float32), [0, 1])
    metrics.update([0, 1], np.array([[np.nan, 1], [0, 1]]))
    with caplog.at_level(logging.WARNING):
        assert dict(metrics.publish("t"))["t/mAP@10"] == pytest.approx((0.75 + 1) / 2)
    with pytest.raises(ValueError, match="3 captions, own clips of 2 and right clips of 2: expected equal numbers"):
        CaptionMetrics(["a", "b", "c"], [0, 1])


# -- training


WORDS = "rain on a tin roof dog barks birds and cafe twice door".split()
CLIPS = 12


def text_embeddings():
    return np.random.default_rng(1).normal(size=(CLIPS, 6)).astype(np.float32)


def tones(seconds=0.5, rate=8000, growth=0.25):
    """Clips of different pitch, one caption each, and of three lengths where there is growth."""
    rng, samples = np.random.default_rng(0), []
    for number in range(CLIPS):
        time = np.arange(int(seconds * (1 + number % 3 * growth) * rate)) / rate
        audio = np.sin(2 * np.pi * 200 * 2 ** (number / 4) * time) + rng.normal(0, 0.05, len(time))
        sample = {"audio": torch.from_numpy(audio.astype(np.float32)), "length": len(audio), "clip": number}
        sample |= {"text": WORDS[number], "text_embedding": torch.from_numpy(text_embeddings()[number])}
        samples.append({**sample, "caption": number})
    return samples


def collate(samples):
    audio = torch.nn.utils.rnn.pad_sequence([sample["audio"] for sample in samples], batch_first=True)
    rest = [{key: value for key, value in sample.items() if key != "audio"} for sample in samples]
    return {"audio": audio, **torch.utils.data.default_collate(rest)}


def loader(batch_size, samples=None):
    return DataLoader(samples or tones(), batch_size, collate_fn=collate)


def trainable(**options):
    """Front end and encoder whose norms have statistics of the tones, so that embeddings differ from the start."""
    mel, model = small(**options)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.3  # there are few steps to follow the weights
    x = mel.eval()(next(iter(loader(CLIPS)))["audio"])
    calibrate_batchnorm(model, forward=lambda: model.encode_audio(x))
    return mel.train(), model.train()


def make_module(model=None, mel=None, **options):
    if model is None:
        mel, model = trainable()
    options = {"objective": AudioTextLoss(), "optimizer": make_optimizer, "schedule": make_schedule, **options}
    captions = text_embeddings() if model.text_encoder is None else WORDS
    parts = {part: CaptionMetrics(captions, np.arange(CLIPS), name=part) for part in ("validation", "test")}
    return AudioTextModule(mel, model, **options, evaluation=parts, seed=3)


def make_trainer(folder=None, epochs=2, **options):
    torch.set_num_threads(1)  # so small is the network
    metric, mode = AudioTextModule.headline
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=folder and [ModelCheckpoint(folder, "best", metric, mode=mode)],
        enable_checkpointing=bool(folder), logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.mark.filterwarnings("ignore")
def test_training(tmp_path):
    mel, model = trainable(trainable_temperature=True)
    module = make_module(model, mel, config={"arch": ARCH})
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(tmp_path)
    trainer.fit(module, loader(4), loader(5))
    names = {"val/mAP@10", "val/mAP@16", "val/R@5", "val/a2t/R@1", "val/loss", "train/loss", "train/tau", "train/lr"}
    assert names <= trainer.callback_metrics.keys()
    stored = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert stored["config"] == {"arch": ARCH}
    changed = {name for name, tensor in stored["audio_text"].items() if not torch.equal(tensor, initial[name])}
    assert {"audio_encoder.features.0.0.weight", "text_projection.weight", "tau"} <= changed
    mel, again = small()
    load_audio_text(again, ARCH, str(tmp_path / "best.ckpt"), tmp_path)
    fresh = make_module(again, mel)
    make_trainer().test(fresh, loader(12), verbose=False)  # in batches of another size
    best = trainer.checkpoint_callback.best_model_score
    assert fresh.results["test/mAP@10"] == pytest.approx(float(best), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_evaluation_does_not_depend_on_the_batches():
    module = make_module()
    results = []
    for size, samples in ((1, tones()), (7, tones()[::-1])):
        make_trainer().test(module, loader(size, samples), verbose=False)
        results.append(module.results)
    assert results[0].keys() == results[1].keys()
    assert results[1] == {name: pytest.approx(value, abs=1e-5) for name, value in results[0].items()}
    text, audio, clips = text_embeddings()[:, :4], text_embeddings()[:, 2:], np.arange(CLIPS)
    expected = module.objective(torch.from_numpy(text), torch.from_numpy(audio), module.model.tau, torch.arange(CLIPS))
    assert module.criterion(text, audio, clips) == pytest.approx(float(expected), rel=1e-5)  # fewer pairs than a batch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["infonce", "triplet", "distillation"])
def test_training_learns(kind):
    mel, model = trainable()
    objective = AudioTextLoss("triplet", hardest=False) if kind == "triplet" else AudioTextLoss(distillation=1.0)
    teacher = SoftTargets([np.eye(CLIPS), np.eye(CLIPS)]) if kind == "distillation" else None
    schedule = partial(make_schedule, schedule="cosine", warmup_steps=2)
    module = make_module(
        model, mel, objective=objective, schedule=schedule, optimizer=partial(make_optimizer, lr=4e-3), teacher=teacher
    )
    data = loader(12, tones(growth=0))
    trainer = make_trainer(epochs=25, limit_val_batches=0)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert module.results["test/mAP@10"] > 2 * np.mean(1 / np.arange(1, 13))


@pytest.mark.filterwarnings("ignore")
def test_training_of_the_text_encoder(mpnet):
    mel, model = trainable(text_dim=None, text_encoder=SentenceEncoder(mpnet, 1), freeze="all")
    module = make_module(model, mel, optimizer=partial(make_optimizer, text_lr=1e-2))
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(epochs=1)
    trainer.fit(module, loader(6), loader(6))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, initial[name])}
    assert {".".join(name.split(".")[:5]) for name in changed if name.startswith("text_encoder")} == {
        "text_encoder.network.encoder.layer.2"
    }
    assert {name for name in changed if name.startswith("audio")} <= {
        name for name in changed if re.search(model.audio_encoder.classifier_names, name.split(".", 1)[1])
    }
    assert "val/mAP@10" in trainer.callback_metrics


def test_features_from_a_cache():
    module = make_module().eval()
    batch = collate(tones()[:3])
    logmels = [module.features(row[None, :length]) for row, length in zip(batch["audio"], batch["length"])]
    features = torch.nn.utils.rnn.pad_sequence([x[0, 0].T for x in logmels], batch_first=True)
    cached = {"features": features, "length": torch.tensor([x.shape[-1] for x in logmels])}
    with torch.no_grad():
        assert module.inputs(cached).shape == (3, 1, FEATURES, features.shape[1])
        torch.testing.assert_close(module.embed_clips(cached), module.embed_clips(batch), atol=1e-5, rtol=0)
        first = module.model.encode_audio(logmels[1])
    torch.testing.assert_close(module.embed_clips(batch)[1:2], first, atol=1e-5, rtol=0)
