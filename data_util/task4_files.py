"""Where the data sets of DCASE 2024 task 4 are: folders, tables, published sizes and splits, and what is missing.

Folders and tables arrive as ``paths``, the config section ``t4_paths``.
"""

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_util.errors import DataMissing, TableError
from data_util.events import EVENT_COLUMNS, SOFT_COLUMNS, read_events, read_weak
from data_util.samples import Source
from helpers.files import AUDIO_SUFFIXES

FOLDER_RATE = 16000  # Hz, of the folders without "_44k"


@dataclass(frozen=True)
class DataSet:
    """Where a data set is; names are entries of ``t4_paths``.

    Attributes:
        folder: audio at 16 kHz; ``<folder>_44k`` has the original sample rate.
        table: labels, None if there are none.
        source: see :class:`Source`.
        expected: number of clips of the published set, None where it is not fixed.
        durations: table of durations.
        exclude: list of clips that are also in a set used for evaluation or stronger labels.
    """

    folder: str
    table: str | None
    source: Source
    expected: int | None = None
    durations: str | None = None
    exclude: str | None = None

    @property
    def columns(self):
        """Columns that the table must have."""
        return SOFT_COLUMNS if self.source is Source.MAESTRO else EVENT_COLUMNS


# By the names under which predictions are stored: files <name>.hdf5, as ``t4_paths.pseudo_labels`` expects them.
DATASETS = {
    "strong_train": DataSet("strong_folder", "strong_tsv", Source.REAL, 3_470, exclude="strong_tsv_exclude"),
    "synth_train": DataSet("synth_folder", "synth_tsv", Source.SYNTH, 10_000),
    "external_strong_train": DataSet("external_strong_folder", "external_strong_train_tsv", Source.REAL),
    "weak_train": DataSet("weak_folder", "weak_tsv", Source.WEAK, 1_578, exclude="weak_tsv_exclude"),
    "unlabeled_train": DataSet("unlabeled_folder", None, Source.UNLABELED, 14_412, exclude="unlabeled_tsv_exclude"),
    "maestro_real_train": DataSet("real_maestro_train_folder", "real_maestro_train_tsv", Source.MAESTRO),
    "synth_val": DataSet("synth_val_folder", "synth_val_tsv", Source.SYNTH, 2_500, "synth_val_dur"),
    "external_strong_val": DataSet(
        "external_strong_folder", "external_strong_val_tsv", Source.REAL, durations="external_strong_dur"
    ),
    "devtest": DataSet("test_folder", "test_tsv", Source.DEVTEST, 1_168, "test_dur"),
    "maestro_real_dev": DataSet(
        "real_maestro_val_folder", "real_maestro_val_tsv", Source.MAESTRO, durations="real_maestro_val_dur"
    ),
    "eval_public": DataSet("eval_public_folder", "eval_public_tsv", Source.DEVTEST, 692, "eval_public_dur"),
    "eval_private": DataSet("eval_private_folder", None, Source.UNLABELED, durations="eval_private_dur"),
}


def split_weak(table, fraction, seed):
    """Weak table -> (training, validation): a random choice of rows, the same as published for the same seed."""
    train = table.sample(frac=fraction, random_state=seed)
    return train.reset_index(drop=True), table.drop(train.index).reset_index(drop=True)


def split_maestro(table, fraction, seed):
    """MAESTRO table -> (training, validation), by recordings, the same share of each scene.

    The same recordings as published for the same seed. Clips are called ``<scene>_<number>-<start>-<end>.wav``.
    """
    # The published split comes from this legacy generator; Generator.shuffle would give another one.
    rng = np.random.RandomState(seed)
    recording = table["filename"].str.split("-").str[0]
    scene = table["filename"].str.rsplit("_", n=1).str[0]
    train, valid = [], []
    for name in sorted(scene.unique()):
        names = recording[scene == name].unique()
        rng.shuffle(names)
        pivot = int(fraction * len(names))
        train.append(table[recording.isin(names[:pivot])])
        valid.append(table[recording.isin(names[pivot:])])
    if not train:
        return table, table
    return pd.concat(train, ignore_index=True), pd.concat(valid, ignore_index=True)


def read_labels(paths, name):
    """Table of a data set in :data:`DATASETS`; None if it has none.

    Raises:
        DataMissing: it should have one.
        TableError: it is wrong.
    """
    entry = DATASETS[name]
    if entry.table is None:
        return None
    path = config_path(paths, entry.table)
    if path is None or not os.path.isfile(path):
        raise DataMissing(f"{name}: no table t4_paths.{entry.table} = {path}{expected_clips(entry.expected)}")
    return read_weak(path) if entry.source is Source.WEAK else read_events(path, entry.columns)


def audio_files(paths, sample_rate=FOLDER_RATE):
    """Paths of all audio files of the data sets that are there, for :func:`data_util.cache.build_cache`."""
    folders = {find_folder(paths, entry.folder, sample_rate)[0] for entry in DATASETS.values()}
    return [os.path.join(folder, name) for folder in sorted(filter(None, folders)) for name in audio_names(folder)]


@dataclass(frozen=True)
class Check:
    """One line of :func:`check_data`.

    Attributes:
        name: of the data set.
        folder: where its audio is or should be.
        found: audio files of the set that are there.
        listed: clips in its table; None without a table.
        expected: clips of the published set; None where it is not fixed.
        problem: what is missing, or empty.
    """

    name: str
    folder: str
    found: int
    listed: int | None
    expected: int | None
    problem: str

    @property
    def ok(self):
        """Whether the set is complete and as large as the published one."""
        return not self.problem


def check_data(paths, sample_rate=FOLDER_RATE, use_pseudo_labels=False):
    """Compares folders and tables with each other and with the published sizes; a list of :class:`Check`.

    Args:
        paths: the config section ``t4_paths``; data sets that it does not name are left out.
        sample_rate: Hz; decides between the 16 kHz and the 44.1 kHz folders.
        use_pseudo_labels: also look for the files of pseudo-labels of the training sets.
    """
    names = [name for name, entry in DATASETS.items() if entry.folder in paths or f"{entry.folder}_44k" in paths]
    return [_check(paths, name, sample_rate, use_pseudo_labels and name.endswith("_train")) for name in names]


def _check(paths, name, sample_rate, use_pseudo_labels):
    entry = DATASETS[name]
    folder, _ = find_folder(paths, entry.folder, sample_rate)
    there = audio_names(folder) if folder else set()
    problems, listed, found = [] if folder else ["no such folder"], None, len(there)
    try:
        table = read_labels(paths, name)
    except (DataMissing, TableError) as error:
        table = None
        problems.append(str(error))
    if table is not None:
        needed = set(table["filename"])
        listed, found = len(needed), len(needed & there)
        if folder and found < listed:
            problems.append(f"{listed - found} files of the table are missing, first {min(needed - there)}")
    clips = found if listed is None else listed
    if not problems and entry.expected not in (None, clips):
        problems.append(f"{clips} clips, the published set has {entry.expected}")
    files = {f"t4_paths.{key}": config_path(paths, key) for key in (entry.durations, entry.exclude) if key}
    if use_pseudo_labels:
        files["t4_paths.pseudo_labels"] = pseudo_path(paths, name)
    problems += [f"no file {key} = {path}" for key, path in files.items() if not path or not os.path.isfile(path)]
    return Check(name, folder or config_path(paths, entry.folder), found, listed, entry.expected, "; ".join(problems))


def config_path(paths, key):
    """The config entry with ~ expanded; None if it is not set."""
    return os.path.expanduser(str(paths[key])) if key and paths.get(key) else None


def pseudo_path(paths, name):
    return str(config_path(paths, "pseudo_labels")).format(name)


def folder_keys(key, sample_rate=FOLDER_RATE):
    """Entries to look for an audio folder in, the better one first."""
    keys = (key, f"{key}_44k")
    return keys if sample_rate == FOLDER_RATE else keys[::-1]


def find_folder(paths, key, sample_rate):
    """(folder, its entry of ``paths``) of the first that exists; (None, None) if none does."""
    for candidate in folder_keys(key, sample_rate):
        path = config_path(paths, candidate)
        if path and os.path.isdir(path):
            return path, candidate
    return None, None


def audio_names(folder):
    """Names of the audio files in a folder; one listing, no look at the files themselves."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in AUDIO_SUFFIXES}


def expected_clips(count):
    return "" if count is None else f", {count} expected"
