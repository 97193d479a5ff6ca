"""Folders of stored predictions, one per model with one file per data set, and ensembles of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.predictions import BLOCK, StoredPredictions, new_file
from helpers.scores import ScoreTable


def file_of(folder, dataset) -> Path:
    """The file of a data set, which may also be called by its folder, below the folder of a model."""
    return Path(folder) / f"{Path(dataset).name}.hdf5"


def common_sets(folders: Sequence, datasets: Sequence[str] | str | None = None) -> list[str]:
    """The data sets of which all these models have predictions.

    Args:
        folders: of the models.
        datasets: the ones wanted, or a single one; None: all that the first model has.

    Raises:
        FileNotFoundError: a model has none at all, or none for one of them.
    """
    for folder in folders:
        if not any(Path(folder).glob("*.hdf5")):
            raise FileNotFoundError(f"{folder}: no predictions there, store_predictions makes them")
    there = sorted(path.stem for path in Path(folders[0]).glob("*.hdf5"))
    names = [datasets] if isinstance(datasets, str) else list(datasets or there)
    for folder in folders:
        absent = next((name for name in names if not file_of(folder, name).is_file()), None)
        if absent is not None:
            raise FileNotFoundError(
                f"{folder} has no predictions for '{absent}', expected {file_of(folder, absent).name}; "
                "datasets=... chooses others"
            )
    return names


def tables(folder, needed: Iterable[str], further: Iterable[str], timestamps, labels) -> dict[str, ScoreTable]:
    """Probabilities of a model for data sets.

    Args:
        folder: of the model.
        needed: data sets that must be there.
        further: data sets that are taken if they are there.
        timestamps, labels: as for :meth:`helpers.predictions.StoredPredictions.table`.

    Raises:
        FileNotFoundError: a needed one is missing.
        ValueError: a file cannot be used.
    """
    names = common_sets([folder], list(needed))
    names += [name for name in further if file_of(folder, name).is_file()]
    return {name: StoredPredictions(file_of(folder, name)).table(timestamps, labels) for name in names}


def ensemble(files: Sequence, out, weights: Sequence[float] | None = None, batch_size: int = BLOCK, progress=True):
    """Writes the mean logits of several files of the same clips, as published; in memory is one batch at a time.

    The clips may be in another order from file to file; the result has that of the first. Its numbers are as precise
    as those of the most precise file.

    Args:
        files: paths of the files.
        out: path of the new file.
        weights: one per file, in any unit; None weighs all the same.
        batch_size: clips that are read at once.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: a file cannot be used (:class:`StoredPredictions`), files have other clips,
            frames or classes than the first, or the weights are no such numbers.
    """
    from tqdm import tqdm

    shares = _shares(weights, len(files))
    stored = [StoredPredictions(path) for path in files]
    first = stored[0]
    for other in stored[1:]:
        other.require(*first.shape[1:], hint=f" of {first.path}")
        for one, two in ((first, other), (other, first)):
            missing = next((clip for clip in one.clips if clip not in two), None)
            if missing is not None:
                raise ValueError(f"the files have different clips: '{missing}' is in {one.path}, not in {two.path}")
    rows = [each.rows(first.clips) for each in stored]
    dtype = np.result_type(*(each.dtype for each in stored))
    with replacing(out) as temporary, new_file(temporary, first.clips, first.shape[1:], dtype) as logits:
        for start in tqdm(range(0, len(first), batch_size), desc=Path(out).stem, unit="batch", disable=not progress):
            block = slice(start, start + batch_size)
            logits[block] = sum(share * each.logits(own[block]) for share, each, own in zip(shares, stored, rows))


def _shares(weights, count):
    """Weights of so many files as float64 that sum to 1."""
    if not count:
        raise ValueError("an ensemble needs at least 1 file of predictions, got none")
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (count,):
        raise ValueError(f"weights: {weights.size} numbers for an ensemble of {count} files")
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
        raise ValueError(f"weights are {weights.tolist()}, expected none below 0 and at least one above")
    return weights / weights.sum()
