"""Clips and labels as the published tables and folders of the tagging data sets give them.

A data set's parts are read by one function each, ``function(root)`` -> {part: :class:`Listing`}. They are what the
packer packs, and what is read where nothing is packed. Parts whose table is not there are left out.
"""

import csv
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_util.class_tables import audioset_ids, class_index, class_names
from data_util.errors import DataMissing, TableError
from data_util.strong_clips import audio_files, find_table, match
from data_util.strong_events import read_strong
from data_util.tagging_clips import packed
from helpers.files import AUDIO_SUFFIXES


@dataclass(frozen=True)
class Listing:
    """Clips of one part of a data set.

    Attributes:
        files: paths, whether they exist or not.
        classes: names.
        targets: [clips, columns] uint8 packed bits, or [clips, classes] float32 likelihoods.
        mask: [clips, classes] float32, classes that are annotated; None: all.
        multi_label: whether a clip may have none or several of the classes.
    """

    files: list
    classes: tuple
    targets: np.ndarray
    mask: np.ndarray | None = None
    multi_label: bool = True

    def missing(self):
        """[clips] bool, clips whose file is not there; each folder is listed once."""
        listed = {}
        for folder in {os.path.dirname(path) for path in self.files}:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return np.array([os.path.basename(path) not in listed[os.path.dirname(path)] for path in self.files], bool)

    def select(self, keep):
        """The clips that ``keep`` ([clips] bool, or numbers) selects."""
        numbers = np.arange(len(self.files))[keep]
        mask = None if self.mask is None else self.mask[numbers]
        files = [self.files[number] for number in numbers]
        return Listing(files, self.classes, self.targets[numbers], mask, self.multi_label)


def read_csv(path, columns, delimiter=","):
    """Rows of a table with a header, as dicts, each with its file and line for messages under ``where``.

    Raises:
        DataMissing: no such file.
        TableError: a column is missing, a row has another number of fields than the header, or the text is not UTF-8.
    """
    if not os.path.isfile(path):
        raise DataMissing(f"no table {path}")
    with table_text(path, "utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        found = reader.fieldnames or []
        missing = [column for column in columns if column not in found]
        if missing:
            expected = ", ".join(columns)
            raise TableError(f"{path}: no column '{missing[0]}' (expected {expected}; found {', '.join(found)})")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                fields = len(found) + len(row.get(None, ())) - list(row.values()).count(None)
                raise TableError(
                    f"{path}, line {reader.line_num}: {fields} fields, expected {len(found)}; several labels stand in "
                    'quotes ("a,b") or are separated by ";"'
                )
            rows.append({**row, "where": f"{path}, line {reader.line_num}"})
    return rows


@contextmanager
def table_text(path, encoding="utf-8"):
    """The opened file of a table; bytes in it that are not of the encoding raise TableError."""
    with open(path, newline="", encoding=encoding) as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            byte = f"byte {error.object[error.start]:#04x}"
            raise TableError(f"{path}: {byte} is not UTF-8, expected a table of that encoding") from None


def class_numbers(rows, labels, classes):
    """Class numbers per row.

    Args:
        rows: of :func:`read_csv`.
        labels: label names of each row.
        classes: names of all classes.

    Raises:
        TableError: a label is no class.
    """
    index = {name: number for number, name in enumerate(classes)}
    numbers = []
    for row, names in zip(rows, labels):
        try:
            numbers.append([class_index(name, index, classes) for name in names])
        except ValueError as error:
            raise TableError(f"{row['where']}: {error}") from None
    return numbers


# -- AudioSet ---------------------------------------------------------------------------------------------------------
AUDIOSET_PARTS = ("balanced_train_segments", "unbalanced_train_segments", "eval_segments")
AUDIOSET_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")


def audioset(root):
    """Segment tables of AudioSet, in ``root`` or ``root/metadata``, and a folder of each table's name below ``root``.

    A clip's file is called by its YouTube id, with or without a "Y" before it and its times behind it.
    """
    root, parts = Path(root), {}
    for part in AUDIOSET_PARTS:
        tables = [path for path in (root / f"{part}.csv", root / "metadata" / f"{part}.csv") if path.is_file()]
        if not tables:
            continue
        ids, labels = _segments(tables[0])
        folders = [path for path in (root / part, *(root / kind / part for kind in ("audio", "mp3", "flac", "wav")))]
        folder = next((path for path in folders if path.is_dir()), folders[0])
        there = _by_youtube_id(folder)
        files = [str(folder / there.get(name, f"Y{name}.mp3")) for name in ids]
        parts[part] = Listing(files, class_names("audioset"), packed(labels, len(class_names("audioset"))))
    return parts


def _segments(path):
    """YouTube ids and class numbers of a segment table, whose header and settings stand in comments."""
    index = {mid: number for number, mid in enumerate(audioset_ids())}
    ids, labels = [], []
    with table_text(path) as file:
        for line, row in enumerate(csv.reader(file, skipinitialspace=True), start=1):
            if not row or row[0].startswith("#"):
                continue
            if len(row) != len(AUDIOSET_COLUMNS):
                raise TableError(f"{path}, line {line}: {len(row)} fields, expected {', '.join(AUDIOSET_COLUMNS)}")
            unknown = [mid for mid in row[3].split(",") if mid not in index]
            if unknown:
                raise TableError(f"{path}, line {line}: unknown class '{unknown[0]}', expected an id such as /m/09x0r")
            ids.append(row[0])
            labels.append([index[mid] for mid in row[3].split(",")])
    return ids, labels


def _by_youtube_id(folder):
    """{YouTube id: file name} of the audio files in a folder."""
    found = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if is_audio(name):
            # An id has eleven characters and may itself begin with a "Y": both readings are kept.
            found.setdefault(name[:11], name)
            found.setdefault(name[1:12] if name.startswith("Y") else name[:11], name)
    return found


def audioset_strong(root):
    """Segments with strong labels; those without audio are called by their YouTube ids. Targets are clip labels."""
    parts, root = {}, Path(root)
    for part, name in (("train", "train"), ("eval", "test")):
        try:
            events = read_strong(find_table(root, name))
        except DataMissing:
            continue
        there = audio_files(root, name)
        absent = (str(root / "audio" / part / f"Y{segment.rpartition('_')[0]}.mp3") for segment in events.segments)
        files = [there[row] if row >= 0 else path for row, path in zip(match(there, events.segments), absent)]
        parts[part] = Listing(files, events.classes, packed(events.labels(), len(events.classes)))
    return parts


# -- the other data sets ----------------------------------------------------------------------------------------------
def fsd50k(root):
    """``FSD50K.ground_truth/{dev,eval}.csv`` and the two audio folders; dev is split as its table says."""
    root, classes, parts = Path(root), class_names("fsd50k"), {}
    for table, folder, splits in (("dev", "dev_audio", ("train", "val")), ("eval", "eval_audio", ("eval",))):
        path = root / "FSD50K.ground_truth" / f"{table}.csv"
        if not path.is_file():
            continue
        rows = read_csv(path, ("fname", "labels", "split") if table == "dev" else ("fname", "labels"))
        numbers = class_numbers(rows, [row["labels"].split(",") for row in rows], classes)
        files = [str(root / f"FSD50K.{folder}" / f"{row['fname']}.wav") for row in rows]
        whole = Listing(files, classes, packed(numbers, len(classes)))
        for split in splits:
            parts[split] = whole.select(np.array([row.get("split", "eval") == split for row in rows], bool))
    return parts


OPENMIC_COLUMNS = ("sample_key", "instrument", "relevance")


def openmic(root):
    """``openmic-2018-aggregated-labels.csv``, ``partitions/split01_{train,test}.csv``, and audio in ``audio/``.

    A target is the likelihood of an instrument, and 0 with mask 0 where nobody was asked for it.
    """
    root, classes, parts = Path(root), class_names("openmic"), {}
    table = root / "openmic-2018-aggregated-labels.csv"
    if not table.is_file():
        return parts
    rows = read_csv(table, OPENMIC_COLUMNS)
    instruments = class_numbers(rows, [[row["instrument"].replace(" ", "_")] for row in rows], classes)
    for part in ("train", "test"):
        path = root / "partitions" / f"split01_{part}.csv"
        if not path.is_file():
            continue
        with table_text(path) as file:
            keys = file.read().split()
        row_of = {key: number for number, key in enumerate(keys)}
        likelihood, mask = np.zeros((2, len(keys), len(classes)), np.float32)
        for row, (instrument,) in zip(rows, instruments):
            if row["sample_key"] in row_of:
                clip = row_of[row["sample_key"]]
                likelihood[clip, instrument], mask[clip, instrument] = _number(row, "relevance"), 1
        files = [str(root / "audio" / key[:3] / f"{key}.ogg") for key in keys]
        parts[part] = Listing(files, classes, likelihood, mask)
    return parts


def _number(row, column):
    try:
        return float(row[column])
    except ValueError:
        raise TableError(f"{row['where']}: {column} is '{row[column]}', expected a number") from None


ESC50_FOLDS = 5
FOLDS = [str(fold) for fold in range(1, ESC50_FOLDS + 1)]


def esc50(root, sample_rate=32000):
    """``meta/esc50.csv`` and ``audio_32k/`` (or that of another rate) where it is there, else ``audio/``.

    Returns:
        {fold number: Listing}
    """
    root, classes = Path(root), class_names("esc50")
    path = root / "meta" / "esc50.csv"
    rows = read_csv(path, ("filename", "fold", "target", "category"))
    index = {name: number for number, name in enumerate(classes)}
    for row in rows:
        number = class_numbers([row], [[row["category"]]], classes)[0][0]
        if row["target"] != str(number) or row["fold"] not in FOLDS:
            raise TableError(
                f"{row['where']}: target {row['target']} and fold {row['fold']}, "
                f"expected {number} for '{row['category']}' and 1 to {ESC50_FOLDS}"
            )
    resampled = root / f"audio_{sample_rate // 1000}k"
    folder = resampled if resampled.is_dir() else root / "audio"
    files = [str(folder / row["filename"]) for row in rows]
    whole = Listing(files, classes, packed([[index[row["category"]]] for row in rows], len(classes)), None, False)
    folds = np.array([int(row["fold"]) for row in rows])
    return {fold: whole.select(folds == fold) for fold in range(1, ESC50_FOLDS + 1)}


def dcase20(root):
    """``evaluation_setup/fold1_{train,evaluate}.csv`` (separated by tabs) with paths below ``root``."""
    root, classes, parts = Path(root), class_names("dcase20"), {}
    for part in ("train", "evaluate"):
        path = root / "evaluation_setup" / f"fold1_{part}.csv"
        if path.is_file():
            rows = read_csv(path, ("filename", "scene_label"), delimiter="\t")
            numbers = class_numbers(rows, [[row["scene_label"]] for row in rows], classes)
            files = [str(root / row["filename"]) for row in rows]
            parts[part] = Listing(files, classes, packed(numbers, len(classes)), None, False)
    return parts


def is_audio(name):
    """Whether a file is audio by its name."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
