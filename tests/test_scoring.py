"""The whole evaluation of stored predictions against stored values, its intervals and its rules."""

import io

import numpy as np
import pandas as pd
import pytest

from data_util.classes import DESED_CLASSES, MAESTRO_CLASSES, MAESTRO_EVAL_CLASSES
from helpers import evaluation as evaluation_module
from helpers.collectors import Reference
from helpers.evaluation import Bootstrap, Labelled
from helpers.metrics import psd_roc
from helpers.scores import ScoreTable, events_of_table
from helpers.scoring import Tuning, evaluate
from helpers.tuning import Grid
from tests.reference import golden

TIMESTAMPS = np.arange(157) * 0.064


@pytest.fixture(scope="module")
def facts():
    return golden("sed/evaluation.json")


@pytest.fixture(scope="module")
def tables(facts):
    arrays = golden("sed/evaluation_scores.npz")
    sets = {"devtest": "devtest", "maestro_real_dev": "maestro_dev"}
    return {
        name: ScoreTable(
            tuple(facts[f"clips.{stored}"]), arrays[f"{stored}.student"].transpose(0, 2, 1), TIMESTAMPS,
            tuple(facts["labels"]),
        )
        for name, stored in sets.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def references(facts, tables):
    frames = {
        name: pd.DataFrame(facts["tables"][name]["rows"], columns=facts["tables"][name]["columns"])
        for name in ("test_tsv", "test_dur", "real_maestro_val_tsv", "real_maestro_val_dur")
    }

    def seconds(name):
        return {str(file).rsplit(".", 1)[0]: float(value) for file, value in frames[name].itertuples(index=False)}

    maestro = events_of_table(frames["real_maestro_val_tsv"], MAESTRO_EVAL_CLASSES, above=0.5)
    maestro |= {clip: maestro.get(clip, []) for clip in tables["maestro_real_dev"].clips}
    devtest = events_of_table(frames["test_tsv"])
    return {
        "devtest": Reference(devtest, seconds("test_dur"), DESED_CLASSES, name="devtest"),
        "maestro_real_dev": Reference(
            maestro, seconds("real_maestro_val_dur"), MAESTRO_EVAL_CLASSES, name="maestro_real_dev"
        ),
    }


@pytest.fixture(scope="module")
def evaluated(tables, references):
    tuning = Tuning(Grid())
    return evaluate(tables, references, DESED_CLASSES, MAESTRO_CLASSES, tuning, Bootstrap(20, seed=3))


def test_golden_values(evaluated, facts):
    values = {(row.dataset, row.metric): row.value for row in evaluated.rows}
    functions, csebbs = facts["functions"], facts["csebbs"]
    assert values["devtest", "psds1"] == pytest.approx(functions["psds1_raw"], abs=1e-6)
    assert values["devtest", "psds2"] == pytest.approx(functions["psds2_raw"], abs=1e-6)
    assert values["devtest", "psds1_csebbs"] == pytest.approx(csebbs["psds1_csebbs"], abs=1e-6)
    assert values["maestro_real_dev", "mpAUC"] == pytest.approx(functions["mpauc_raw"], abs=1e-6)
    assert values["maestro_real_dev", "mpAUC_csebbs"] == pytest.approx(csebbs["mpauc_csebbs"], abs=1e-6)
    by_class = evaluated.per_class["devtest"]["psds1"]
    assert by_class == pytest.approx(functions["psds1_raw_single_class"], abs=1e-6)


def test_all_ones_weigh_as_the_value(tables, references):
    """A bootstrap that draws every clip once gives the value itself, whichever library computed that."""

    class Once(Bootstrap):
        def interval(self, statistic, units):
            return (statistic(np.ones(units, dtype=int)),) * 2

    rows = evaluate(tables, references, DESED_CLASSES, MAESTRO_CLASSES, Tuning(Grid()), Once()).rows
    assert len(rows) == 6
    for row in rows:
        assert row.low == pytest.approx(row.value, abs=1e-6), row


def test_intervals(evaluated):
    for row in evaluated.rows:
        assert row.low < row.high
        assert row.low - 0.05 <= row.value <= row.high + 0.05, row


def test_interval_of_a_mean():
    """Against the normal approximation of the error of a mean."""
    values = np.random.default_rng(0).normal(size=400)
    low, high = Bootstrap(2000, seed=1).interval(lambda weights: weights @ values / weights.sum(), 400)
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.01)
    assert high == pytest.approx(values.mean() + error, abs=0.01)
    assert np.isnan(Bootstrap(0).interval(np.sum, 10)).all()


def test_large_sets_are_evaluated_by_our_own_code_to_the_same_values(evaluated, tables, references, monkeypatch):
    monkeypatch.setattr(evaluation_module, "LIBRARY_CELLS", 0)
    ours = evaluate(tables, references, DESED_CLASSES, MAESTRO_CLASSES, Tuning(Grid()), Bootstrap(0)).rows
    for row, expected in zip(ours, evaluated.rows, strict=True):
        assert row.computed_by == ("ours" if row.dataset == "devtest" else "sed_scores_eval")
        assert row.value == pytest.approx(expected.value, abs=1e-6)


def test_lines(evaluated):
    names = [line.split(":")[0] for line in evaluated.lines()]
    assert names == [
        "maestro_real_dev mpAUC", "maestro_real_dev mpAUC_csebbs (should be the same)", "devtest psds1",
        "devtest psds1_csebbs",
    ]  # fmt: skip


def test_cross_validation_reports_what_held_out_clips_give(tables, references, evaluated):
    labelled = Labelled.of(tables["devtest"], references["devtest"])
    tuned, boxes = Tuning(Grid(), on="cv", seed=1).of(labelled, DESED_CLASSES)
    assert tuned == evaluated.tuned
    curve, _ = psd_roc(
        boxes.score_frames(), labelled.match.events, labelled.match.durations,
        {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_st": 1.0},
    )  # fmt: skip
    crossed = evaluate(
        tables, references, DESED_CLASSES, MAESTRO_CLASSES, Tuning(Grid(), on="cv", seed=1), Bootstrap(0)
    )
    value = {row.metric: row.value for row in crossed.rows if row.dataset == "devtest"}["psds1_csebbs"]
    assert value == pytest.approx(curve.value, abs=1e-6)
    assert value <= {row.metric: row.value for row in evaluated.rows}["psds1_csebbs"]


def test_unknown_set_to_tune_on():
    with pytest.raises(ValueError, match="tune_on is 'train', expected one of devtest, cv"):
        Tuning(Grid(), on="train")


def test_table_as_text_has_every_value(evaluated, tmp_path):
    evaluated.write(tmp_path, 1)
    stored = pd.read_csv(io.StringIO((tmp_path / "evaluation.csv").read_text()))
    whole = stored[stored["label"].isna()]
    assert list(whole["value"]) == [row.value for row in evaluated.rows]
