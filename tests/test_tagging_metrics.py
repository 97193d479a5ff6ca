"""Metrics of audio tagging: stored numbers of scikit-learn, definitions by brute force, processes, diverged models."""

import csv
import itertools
import logging
import math

import numpy as np
import pytest
import torch

from helpers.tagging_metrics import TaggingMetrics, average_precision, d_prime, roc_auc
from helpers.tagging_report import console_table, over_folds, plot_classes, plot_confusion, show_folds, write_results
from tests.reference import golden


@pytest.fixture(scope="module")
def published():
    return golden("tagging/training.npz")


def filled(metrics, logits, targets, masks=None):
    """Metrics that have seen batches [batches, B, classes] of logits and labels."""
    first = 0
    for number, (batch, target) in enumerate(zip(logits, targets)):
        labels = {"index": torch.arange(first, first + len(batch)), "target": torch.from_numpy(np.asarray(target))}
        if masks is not None:
            labels["mask"] = torch.from_numpy(masks[number])
        metrics.update(torch.from_numpy(batch), labels)
        first += len(batch)
    return metrics


def names(count):
    return [f"c{number}" for number in range(count)]


def several_labels(published, **options):
    return filled(TaggingMetrics(names(12), **options), published["metrics.logits"], published["metrics.targets"])


def one_label(published):
    targets = np.eye(12)[published["metrics.class"]]
    return filled(TaggingMetrics(names(12), multi_label=False), published["metrics.logits"], targets)


# -- stored numbers ---------------------------------------------------------------------------------------------------


def test_several_labels(published):
    metrics = several_labels(published)
    values = metrics.values()
    for name in ("audioset", "fsd50k"):
        expected = published[f"metrics.{name}.mAP_ROC_loss"]
        np.testing.assert_allclose([values["mAP"], values["ROC"], values["loss"]], expected, rtol=0, atol=1e-6)
    classes = metrics.per_class()
    np.testing.assert_allclose(list(classes["AP"].values()), published["metrics.per_class_AP"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(list(classes["ROC"].values()), published["metrics.per_class_ROC"], rtol=0, atol=1e-12)
    assert list(classes["clips"].values()) == published["metrics.targets"].sum((0, 1)).tolist()
    assert dict(metrics.publish("test")) == {f"test/{name}": value for name, value in values.items()}


def test_one_label(published):
    values = one_label(published).values()
    for name in ("esc50", "dcase20"):
        expected = published[f"metrics.{name}.acc_loss"]
        np.testing.assert_allclose([values["accuracy"], values["loss"]], expected, rtol=0, atol=1e-6)


def test_masked_labels(published):
    targets, masks = np.split(published["metrics.openmic.targets"], 2, axis=-1)
    expected = published["metrics.openmic.mAP_ROC_loss"]
    losses = {}
    for mean in ("annotated", "published"):
        metrics = TaggingMetrics(names(20), masked_mean=mean)
        values = filled(metrics, published["metrics.openmic.logits"], targets, masks).values()
        np.testing.assert_allclose([values["mAP"], values["ROC"]], expected[:2], rtol=0, atol=1e-6)
        losses[mean] = values["loss"]
    assert losses["published"] == pytest.approx(expected[2], abs=1e-6)
    assert losses["annotated"] == pytest.approx(expected[2] / masks.mean(), abs=1e-6)


def test_a_class_without_positive_clips(published, caplog):
    targets = published["metrics.targets"].copy()
    targets[..., 3] = 0
    metrics = filled(TaggingMetrics(names(12), name="audioset test"), published["metrics.logits"], targets)
    rest = np.arange(12) != 3
    with caplog.at_level(logging.WARNING):
        for name in ("AP", "ROC"):
            values = np.array(list(metrics.per_class()[name].values()))
            stored = published[f"metrics.no_positive.{name}"]
            assert math.isnan(values[3])
            np.testing.assert_allclose(values[rest], stored[rest], rtol=0, atol=1e-12)
    assert metrics.values()["mAP"] == pytest.approx(published["metrics.no_positive.AP"][rest].mean(), abs=1e-12)
    (message,) = caplog.messages
    assert message == "audioset test: none of the 120 clips has the class c3, left out of the means"


# -- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 1000])
def test_by_definition(levels):
    rng = np.random.default_rng(levels)
    for _ in range(50):
        scores, true = rng.integers(0, levels, 12) / levels, rng.random(12) < 0.4
        if true.all() or not true.any():
            continue
        pairs = itertools.product(scores[true], scores[~true])
        wins = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs]
        assert roc_auc(scores, true) == pytest.approx(np.mean(wins))
        # Every positive clip finds the precision of all that score at least as high.
        precisions = [true[scores >= score].mean() for score in scores[true]]
        assert average_precision(scores, true) == pytest.approx(np.mean(precisions))


def test_edges():
    assert average_precision([0.2, 0.1], [True, True]) == 1
    assert average_precision([0.5, 0.5, 0.5, 0.5], [True, False, False, False]) == 0.25
    assert average_precision([0.1, 0.9], [True, False]) == 0.5
    for targets in ([False, False], [True, True]):
        assert math.isnan(roc_auc([0.1, 0.2], targets))
    assert math.isnan(average_precision([0.1, 0.2], [False, False]))
    assert math.isnan(average_precision([], []))
    assert d_prime(0.5) == pytest.approx(0)
    assert d_prime(0.9) == pytest.approx(1.8124, abs=1e-4)  # sqrt(2) times the 90 % point of the normal distribution


def test_one_label_by_hand():
    logits = np.log([[[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.3, 0.6], [0.4, 0.5, 0.1]]]).astype(np.float32)
    metrics = filled(TaggingMetrics(["a", "b", "c"], multi_label=False), logits, np.eye(3)[[[0, 0, 2, 1]]])
    assert metrics.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    values = metrics.values()
    assert values["accuracy"] == pytest.approx(0.75)
    assert values["accuracy_macro"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert values["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.6, 0.5]).mean())
    # clips by the probability of "a": 0.7 (true), 0.4, 0.3 (true), 0.1
    assert metrics.per_class()["AP"] == pytest.approx({"a": (1 + 2 / 3) / 2, "b": 0.5, "c": 1.0})


def test_a_shift_of_all_logits_of_a_clip_does_not_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 40, 3)).astype(np.float32)
    targets = np.eye(3)[rng.integers(0, 3, (1, 40))]
    shifted = logits + 10 * rng.normal(size=(1, 40, 1)).astype(np.float32)
    first, second = (
        filled(TaggingMetrics(names(3), multi_label=False), each, targets).values() for each in (logits, shifted)
    )
    assert second == pytest.approx(first, abs=1e-5)


# -- collecting -------------------------------------------------------------------------------------------------------


def test_processes_together_find_the_same(published):
    alone = several_labels(published)
    parts = [TaggingMetrics(names(12)) for _ in range(2)]
    for number, (logits, targets) in enumerate(zip(published["metrics.logits"], published["metrics.targets"])):
        index = np.arange(20 * number, 20 * number + 20)
        for rank, part in enumerate(parts):
            rows = slice(rank, None, 2)
            part.update(logits[rows], {"index": index[rows], "target": targets[rows]})
    parts[0].merge([part.state() for part in parts])
    assert parts[0].values() == alone.values()
    assert parts[0].per_class() == alone.per_class()


def test_a_clip_counts_once_and_reset_forgets(published):
    metrics, expected = several_labels(published), several_labels(published).values()
    logits, targets = published["metrics.logits"][0], published["metrics.targets"][0]
    metrics.update(logits, {"index": np.arange(20), "target": targets})
    assert metrics.values() == expected
    metrics.reset()
    assert dict(metrics.publish("val")) == {}
    metrics.update(logits, {"index": np.arange(20), "target": targets})
    assert sum(metrics.per_class()["clips"].values()) == targets.sum()


def test_logits_that_are_no_numbers(published, caplog):
    logits = published["metrics.logits"].copy()
    logits[0, 0] = np.nan
    logits[1, 3] = np.inf
    metrics = filled(TaggingMetrics(names(12), name="val"), logits, published["metrics.targets"])
    assert all(math.isfinite(value) for value in metrics.values().values())
    assert caplog.messages == ["val: 1 clips have logits that are no numbers"] * 2


# -- tables and figures -----------------------------------------------------------------------------------------------


def test_tables_of_several_labels(published, tmp_path):
    metrics = several_labels(published)
    results = {"trained": dict(metrics.publish("test")), "untrained": {"test/mAP": 0.125}}
    paths = write_results(results, metrics, tmp_path)
    assert {path.name for path in paths} == {"results.csv", "results.md", "classes.csv", "ap_by_class.png"}
    with open(tmp_path / "results.csv") as file:
        rows = {(row["system"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["trained", "test/mAP"] == metrics.values()["mAP"]
    assert rows["untrained", "test/mAP"] == 0.125
    with open(tmp_path / "classes.csv") as file:
        classes = {row["class"]: row for row in csv.DictReader(file)}
    assert list(classes) == names(12)
    assert float(classes["c5"]["AP"]) == pytest.approx(published["metrics.per_class_AP"][5], abs=1e-5)
    assert "| c5 |" in (tmp_path / "results.md").read_text()


def test_tables_of_one_label(published, tmp_path):
    metrics = one_label(published)
    paths = write_results({"trained": dict(metrics.publish("test"))}, metrics, tmp_path)
    assert {path.name for path in paths[2:]} == {"classes.csv", "accuracy_by_class.png", "confusion.png"}
    for path in paths[3:]:
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in order."""
    from helpers import plots, tagging_report

    drawn, made = [], plots.new_figure
    for module in (plots, tagging_report):
        monkeypatch.setattr(module, "new_figure", lambda *size: drawn.append(made(*size)) or drawn[-1])
    return drawn


def test_of_many_classes_the_extremes_are_drawn(tmp_path, figures):
    values = {f"c{number}": number / 527 for number in range(527)} | {"missing": float("nan")}
    plot_classes(values, tmp_path / "many.png", "Average precision")
    labels = [tick.get_text() for tick in figures[0].axes[0].get_yticklabels()]
    assert labels == [f"c{number}" for number in (*range(526, 496, -1), *range(29, -1, -1))]
    assert figures[0].axes[0].get_title() == "Average precision, best and worst 30 of 527 classes"


def test_confusions_are_shares_of_the_true_class(tmp_path, figures):
    plot_confusion(np.array([[3, 1], [0, 0]]), ["cat_meow", "dog"], tmp_path / "confusion.png")
    axes = figures[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert {text.get_text() for text in axes.texts} == {"3", "1"}
    assert axes.get_yticklabels()[0].get_text() == "cat meow"


def test_mean_and_deviation_over_folds(tmp_path, capsys):
    folds = {f"fold {k}": {"test/accuracy": value} for k, value in enumerate((0.5, 0.7, 0.9), 1)}
    table = over_folds(folds)
    assert table["mean"]["test/accuracy"] == pytest.approx(0.7)
    assert table["deviation"]["test/accuracy"] == pytest.approx(math.sqrt(0.08 / 3))
    show_folds(table, tmp_path)
    shown = capsys.readouterr().out
    for text in ("fold 3", "mean", "0.7000", "deviation", "0.1633", str(tmp_path)):
        assert text in shown
    assert "test/mean" not in (tmp_path / "results.csv").read_text()
    assert "mean,test/accuracy,0.7" in (tmp_path / "results.csv").read_text()


def test_console_table_shows_systems_as_rows():
    table = console_table({"trained": {"test/mAP": 0.25, "test/ROC": float("nan")}}, "audioset test")
    assert [column.header for column in table.columns] == ["", "mAP", "ROC"]
    assert [list(column.cells) for column in table.columns] == [["trained"], ["0.2500"], ["–"]]
