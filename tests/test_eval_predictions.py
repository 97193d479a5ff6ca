"""eval_predictions: its lines, files and mistakes, on stored predictions of a tiny data set."""

import csv
import logging
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest

from data_util.classes import CLASSES, DESED_CLASSES
from data_util.events import FrameGrid
from data_util.task4 import read_labels
from data_util.task4_files import DATASETS
from helpers.files import clip_id
from helpers.predictions import new_file
from helpers.submission import validate_submission
from tests.runs import StageRuns
from tests.synthetic import make_task4

SECONDS = 1.28
SETS = ("devtest", "maestro_real_dev", "eval_public", "eval_private")


def good_logits(paths, name, grid, rng):
    """Clip ids and logits that follow the truth, with noise."""
    table = read_labels(paths, name)
    if table is None:
        clips = [f"{name}_{i:02d}" for i in range(6)]
        return clips, rng.normal(-3, 0.7, (len(clips), grid.n_frames, len(CLASSES)))
    clips = [clip_id(file) for file in table["filename"].unique()]
    logits = rng.normal(-3, 0.7, (len(clips), grid.n_frames, len(CLASSES)))
    for row in table.dropna().itertuples():
        if getattr(row, "confidence", 1) > 0.5:
            on, off = grid.to_frames([row.onset, row.offset]).round().astype(int)
            logits[clips.index(clip_id(row.filename)), on:off, CLASSES.index(row.event_label)] += 4
    return clips, logits


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A data set and the predictions of a system ``good``; not to be changed."""
    root, grid = tmp_path_factory.mktemp("evaluation"), FrameGrid(audio_len=SECONDS)
    paths, rng = make_task4(root / "data", clips=6, seconds=SECONDS, grid=grid), np.random.default_rng(0)
    (root / "predictions" / "good").mkdir(parents=True)
    for name in SETS:
        clips, values = good_logits(paths, name, grid, rng)
        shape = (grid.n_frames, len(CLASSES))
        with new_file(root / "predictions" / "good" / f"{name}.hdf5", clips, shape, np.float32) as logits:
            logits[:] = values
    return root, paths


@pytest.fixture
def runs(tmp_path, tree):
    """Function: runs the command line on a copy of the predictions; exit status."""
    root, paths = tree
    shutil.copytree(root, tmp_path / "tree")
    moved = {key: path.replace(str(root), str(tmp_path / "tree")) for key, path in paths.items()}
    folder = str(tmp_path / "tree" / "predictions")
    stage2 = StageRuns(tmp_path, moved, SECONDS, script="ex_stage2")

    def run(*arguments, command="eval_predictions"):
        entries = {"preds_path": folder, "output_path": folder, "pretrained_name": "good", "bootstrap": 20, "plots": 1}
        return stage2.command(*arguments, command=[command], **entries)

    run.folder, run.paths = tmp_path / "tree" / "predictions", moved
    return run


def test_lines_and_files(runs, capsys):
    assert runs() == 0
    lines = capsys.readouterr().out.splitlines()
    values = dict(line.rsplit(": ", 1) for line in lines if line.startswith(SETS) and ": " in line)
    assert list(values) == [
        "maestro_real_dev mpAUC", "maestro_real_dev mpAUC_csebbs (should be the same)", "devtest psds1",
        "devtest psds1_csebbs", "eval_public psds1", "eval_public psds1_csebbs",
    ]  # fmt: skip
    same = [float(values[name]) for name in list(values)[:2]]
    assert same[0] == pytest.approx(same[1], abs=1e-6)
    assert all(0 < float(value) <= 1 for value in values.values())
    assert float(values["devtest psds1_csebbs"]) >= float(values["devtest psds1"])  # tuned on devtest
    folder = runs.folder / "good"
    assert lines[-1] == f"Storing predictions to {folder}."
    with open(folder / "evaluation.csv") as file:
        rows = {(row["dataset"], row["metric"]): row for row in csv.DictReader(file) if not row["label"]}
    for (dataset, metric), row in rows.items():
        assert float(row["low"]) <= float(row["high"])
        if metric in ("psds1", "psds1_csebbs"):
            assert float(row["value"]) == float(values[f"{dataset} {metric}"])
        assert row["computed_by"] == "sed_scores_eval"
    for name in ("psd_roc.png", "psds_by_class.png", "parameters.png"):
        assert (folder / "devtest" / name).stat().st_size > 10_000
    events = pd.read_csv(folder / "devtest_events.tsv", sep="\t")
    assert set(events["event_label"].dropna()) <= set(DESED_CLASSES)


def test_submission(runs):
    assert runs("system=Mine_Here_task4_2", "system_run=1") == 0
    clips = [f"eval_private_{i:02d}" for i in range(6)]
    system = runs.folder / "good" / "submission" / "Mine_Here_task4_2"
    validate_submission(system, clips, dict.fromkeys(clips, SECONDS), CLASSES)
    assert len(list((system / "Mine_Here_task4_2_run1.output").glob("*.tsv"))) == 6


def test_without_evaluation_sets(runs, capsys):
    for name in SETS[2:]:
        (runs.folder / "good" / f"{name}.hdf5").unlink()
    assert runs() == 0
    assert "eval_p" not in capsys.readouterr().out
    assert not (runs.folder / "good" / "submission").exists()


def test_cross_validation_is_no_better_than_tuning_on_the_same_clips(runs, capsys):
    assert runs() == 0
    tuned = capsys.readouterr().out
    assert runs("tune_on=cv") == 0
    crossed = capsys.readouterr().out
    first, second = (
        next(line for line in out.splitlines() if "devtest psds1_csebbs:" in line) for out in (tuned, crossed)
    )
    assert float(second.rsplit(" ", 1)[1]) <= float(first.rsplit(" ", 1)[1])
    # Other sets are predicted with what is best on all of devtest either way.
    lines = [next(line for line in out.splitlines() if "eval_public psds1_csebbs:" in line) for out in (tuned, crossed)]
    assert lines[0] == lines[1]


# -- mistakes ---------------------------------------------------------------------------------------------------------
def change_table(paths, key, change):
    table = pd.read_csv(paths[key], sep="\t")
    change(table).to_csv(paths[key], sep="\t", index=False)


def without_a_set(runs):
    (runs.folder / "good" / "maestro_real_dev.hdf5").unlink()


def truncated(runs):
    path = runs.folder / "good" / "devtest.hdf5"
    path.write_bytes(path.read_bytes()[:3000])


def edit(runs, change, name="devtest"):
    with h5py.File(runs.folder / "good" / f"{name}.hdf5", "r+") as file:
        names, logits = file["filenames"].asstr()[:], file["strong_logits"][:]
        del file["filenames"], file["strong_logits"]
        file["filenames"], file["strong_logits"] = change(list(names), logits)


def with_nan(names, logits):
    logits[2, 3, 4] = np.nan
    return names, logits


MISTAKES = {
    "a set is missing": (without_a_set, "good has no predictions for 'maestro_real_dev'"),
    "truncated": (truncated, "devtest.hdf5: not readable as HDF5"),
    "NaN": (lambda r: edit(r, with_nan), "devtest.hdf5: NaN or infinite logits, first in clip 'devtest_02'"),
    "twice": (lambda r: edit(r, lambda n, x: ([*n[:-1], n[0]], x)), "clip 'devtest_00' is there twice"),
    "no predictions": (
        lambda r: edit(r, lambda n, x: (n[1:], x[1:])),
        "devtest: 1 of 6 clips have no predictions, first 'devtest_00'",
    ),
    "no truth": (
        lambda r: edit(r, lambda n, x: ([*n, "stray"], np.concatenate([x, x[:1]]))),
        "devtest: 1 of 7 clips have no ground truth, first 'stray'",
    ),
    "no truth of MAESTRO": (
        lambda r: edit(r, lambda n, x: ([*n, "stray-0-1000"], np.concatenate([x, x[:1]])), "maestro_real_dev"),
        "maestro_real_dev: 1 of 13 clips have no ground truth, first 'stray-0-1000'",
    ),
    "no duration": (
        lambda r: change_table(r.paths, "test_dur", lambda t: t[t["filename"] != "devtest_03.wav"]),
        "durations of 'devtest' lack 1 clips of its ground truth, first 'devtest_03'",
    ),
    "two durations": (
        lambda r: change_table(r.paths, "test_dur", lambda t: pd.concat([t, t[:1].assign(duration=3.0)])),
        "listed before with another duration",
    ),
    "other frames": (
        lambda r: edit(r, lambda n, x: (n, x[:, 1:])),
        "strong_logits has shape (6, 19, 27), expected (6, 20, 27)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(runs, capsys, mistake):
    spoil, expected = MISTAKES[mistake]
    spoil(runs)
    assert runs() == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert expected in error
    assert not (runs.folder / "good" / "evaluation.csv").exists()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("tune_for=psds3", "unknown objective 'psds3', expected one of psds1, psds2, collar_f1"),
        ("tune_on=train", "tune_on is 'train', expected one of devtest, cv"),
        ("pretrained_name=better", "better: no predictions there"),
        ("system=mine", "system 'mine' is not named <author>_<affiliation>_task4_<index>"),
        ("step_filter_lengths=[]", "the grid needs a step filter length and a merge threshold"),
    ],
)
def test_wrong_entries(runs, capsys, argument, expected):
    assert runs(argument) == 1
    assert expected in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_class_without_events_is_missing(runs, capsys, caplog):
    change_table(runs.paths, "test_tsv", lambda t: t[t["event_label"] != "Cat"])
    with caplog.at_level(logging.WARNING):
        assert runs() == 0
    assert any("no true event of Cat" in message for message in caplog.messages)
    with open(runs.folder / "good" / "evaluation.csv") as file:
        rows = {
            (row["metric"], row["label"]): row["value"] for row in csv.DictReader(file) if row["dataset"] == "devtest"
        }
    assert rows["psds1", "Cat"] == rows["psds1_csebbs", "Cat"] == "nan"
    others = [float(rows["psds1", label]) for label in DESED_CLASSES if label != "Cat"]
    assert np.isfinite(others).all()


def test_ensemble_of_other_clips(runs, capsys):
    shutil.copytree(runs.folder / "good", runs.folder / "other")
    with h5py.File(runs.folder / "other" / "devtest.hdf5", "r+") as file:
        names = list(file["filenames"].asstr()[:])
        del file["filenames"]
        file["filenames"] = ["stray", *names[1:]]
    arguments = ('pretrained_names=("good", "other")', "out_name=both")
    assert runs(*arguments, command="ensemble_predictions") == 1
    assert "the files have different clips: 'devtest_00' is in" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (runs.folder / "both" / "devtest.hdf5").exists()
    assert runs("out_name=None", command="ensemble_predictions") == 1
    assert "out_name is not set" in capsys.readouterr().err


def test_all_sets_are_known():
    assert set(SETS) <= set(DATASETS)
