"""Ensembles of stored predictions, and folders of them."""

import time
import tracemalloc

import numpy as np
import pytest

from helpers.ensembles import common_sets, ensemble, tables
from helpers.predictions import StoredPredictions
from tests.reference import golden
from tests.test_predictions import (
    CLASSES,
    CLIPS,
    FRAMES,
    LABELS,
    TIMESTAMPS,
    ids,
    match_whole,
    path,
    truncated,
    write,
)

__all__ = ["path"]  # a fixture


def read(path):
    return StoredPredictions(path).logits(slice(None))


def write_some(tmp_path, number, clips=CLIPS):
    """Files of the same clips; their paths and logits."""
    files = [tmp_path / f"{i}.hdf5" for i in range(number)]
    return files, [write(file, clips, seed=i) for i, file in enumerate(files)]


def test_ensemble_of_golden_models(tmp_path):
    arrays = golden("sed/evaluation_scores.npz")
    # A logit x is off by up to 2 ** -12 * |x| in half precision, its probability by 0.224 * 2 ** -11; this twice.
    for dtype, precision in ((np.float32, 1e-6), (np.float16, 2.2e-4)):
        files = [tmp_path / f"{role}.hdf5" for role in ("student", "teacher")]
        for file in files:
            scores = arrays[f"devtest.{file.stem}"].astype(np.float64).transpose(0, 2, 1)
            write(file, ids(20), np.log(scores / (1 - scores)).astype(dtype))
        ensemble(files, tmp_path / "both.hdf5", progress=False)
        table = StoredPredictions(tmp_path / "both.hdf5").table(np.arange(157) * 0.064, [str(i) for i in range(27)])
        expected = arrays["ensemble.devtest_probabilities_corner"]
        np.testing.assert_allclose(table.scores[:, ::13, ::4], expected, rtol=0, atol=precision)


@pytest.mark.parametrize("weights", [None, (2, 1, 1), (0, 3, 0), (0.1, 0.2, 0.3)])
def test_weights(tmp_path, path, weights):
    files, logits = write_some(tmp_path, 3)
    ensemble(files, path, weights, batch_size=4, progress=False)
    np.testing.assert_allclose(read(path), np.average(logits, axis=0, weights=weights), rtol=0, atol=1e-6)
    assert StoredPredictions(path).clips == tuple(CLIPS)


def test_rows_are_matched_by_clip(tmp_path, path):
    files, logits = write_some(tmp_path, 2)
    order = np.random.default_rng(2).permutation(len(CLIPS))
    write(files[1], [CLIPS[i] for i in order], logits[1][order])
    ensemble(files, path, batch_size=3, progress=False)
    np.testing.assert_allclose(read(path), np.mean(logits, axis=0), rtol=0, atol=1e-6)
    ensemble(files[::-1], path, batch_size=3, progress=False)
    np.testing.assert_allclose(read(path), np.mean(logits, axis=0)[order], rtol=0, atol=1e-6)
    assert StoredPredictions(path).clips == tuple(CLIPS[i] for i in order)


def test_precision_is_that_of_the_best(tmp_path, path):
    files, logits = write_some(tmp_path, 2)
    write(files[0], CLIPS, logits[0].astype(np.float16))
    ensemble(files[:1], path, progress=False)
    assert StoredPredictions(path).dtype == np.float16
    ensemble(files, path, progress=False)
    assert StoredPredictions(path).dtype == np.float32


def test_ensemble_bytes(tmp_path, path):
    files, _ = write_some(tmp_path, 3)
    ensemble(files, path, progress=False)
    before = path.read_bytes()
    time.sleep(1.1)
    ensemble(files, path, batch_size=2, progress=False)
    assert path.read_bytes() == before


def test_ensemble_reads_one_batch_at_a_time(tmp_path, path, monkeypatch):
    clips, shape = ids(256), (256, 100, 27)
    files = [tmp_path / f"{i}.hdf5" for i in range(6)]
    for i, file in enumerate(files):
        write(file, clips, np.full(shape, i, dtype=np.float32))
    reads, logits = [], StoredPredictions.logits
    with monkeypatch.context() as patch:
        patch.setattr(StoredPredictions, "logits", lambda self, rows: reads.append(len(rows)) or logits(self, rows))
        tracemalloc.start()
        ensemble(files, path, batch_size=8, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (max(reads), sum(reads)) == (8, 6 * 256)
    assert peak < 10 * 8 * 100 * 27 * 4 < path.stat().st_size / 2
    assert (read(path) == 2.5).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f[1].unlink(), r"no file of predictions .*1\.hdf5"),
        (lambda f: truncated(f[1]), r".*1\.hdf5: not readable as HDF5 .*"),
        (
            lambda f: write(f[1], [*CLIPS[:5], "other", *CLIPS[6:]]),
            r"the files have different clips: 'clip_005' is in .*0\.hdf5, not in .*1\.hdf5",
        ),
        (
            lambda f: write(f[1], [*CLIPS, "more"]),
            r"the files have different clips: 'more' is in .*1\.hdf5, not in .*0\.hdf5",
        ),
        (
            lambda f: write(f[1], CLIPS, np.zeros((len(CLIPS), 7, CLASSES))),
            r".*1\.hdf5: strong_logits has shape \(11, 7, 3\), expected \(11, 5, 3\): .* of .*0\.hdf5",
        ),
        (
            lambda f: write(f[1], CLIPS, np.zeros((len(CLIPS), FRAMES, 4))),
            r".*1\.hdf5: strong_logits has shape \(11, 5, 4\), expected \(11, 5, 3\): .* of .*0\.hdf5",
        ),
        (
            lambda f: write(f[1], CLIPS, np.full((len(CLIPS), FRAMES, CLASSES), np.nan)),
            r".*1\.hdf5: NaN or infinite logits, first in clip 'clip_000'",
        ),
    ],
)
def test_files_that_make_no_ensemble(tmp_path, path, spoil, message):
    files, _ = write_some(tmp_path, 2)
    spoil(files)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        ensemble(files, path, progress=False)
    match_whole(str(error.value), message)
    assert not [file for file in tmp_path.iterdir() if "devtest" in file.name]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 2, 3), "weights: 3 numbers for an ensemble of 2 files"),
        ((1, -0.5), "weights are [1.0, -0.5], expected none below 0 and at least one above"),
        ((0, 0), "weights are [0.0, 0.0], expected none below 0 and at least one above"),
        ((1, np.nan), "weights are [1.0, nan], expected none below 0 and at least one above"),
    ],
)
def test_bad_weights(tmp_path, path, weights, message):
    files, _ = write_some(tmp_path, 2)
    with pytest.raises(ValueError) as error:
        ensemble(files, path, weights, progress=False)
    assert str(error.value) == message


def test_nothing_to_ensemble(path):
    with pytest.raises(ValueError, match="an ensemble needs at least 1 file of predictions, got none"):
        ensemble([], path, progress=False)


# -- folders of predictions ------------------------------------------------------------------------
def test_sets_of_all_models(tmp_path):
    for model, names in (("one", ("devtest", "eval_public")), ("two", ("devtest",))):
        (tmp_path / model).mkdir()
        for name in names:
            write(tmp_path / model / f"{name}.hdf5", CLIPS)
    models = [tmp_path / "one", tmp_path / "two"]
    assert common_sets(models[::-1]) == ["devtest"]
    assert common_sets(models, ["devtest"]) == ["devtest"]
    with pytest.raises(FileNotFoundError) as error:
        common_sets(models)
    match_whole(str(error.value), r".*two has no predictions for 'eval_public', expected eval_public.hdf5; datasets=.*")
    with pytest.raises(FileNotFoundError, match="three: no predictions there, store_predictions makes them"):
        common_sets([*models, tmp_path / "three"])


def test_tables(tmp_path):
    logits = write(tmp_path / "devtest.hdf5", CLIPS)
    found = tables(tmp_path, ["devtest"], ["eval_public"], TIMESTAMPS, LABELS)
    assert list(found) == ["devtest"]
    np.testing.assert_allclose(found["devtest"].scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    with pytest.raises(FileNotFoundError, match="has no predictions for 'maestro_real_dev'"):
        tables(tmp_path, ["devtest", "maestro_real_dev"], [], TIMESTAMPS, LABELS)
