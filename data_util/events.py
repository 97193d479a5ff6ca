"""Event tables and the frame grid: from seconds and class names to label matrices and back.

Tables are tab-separated with the columns ``filename, onset, offset, event_label`` (strong; MAESTRO adds
``confidence``) or ``filename, event_labels`` (weak, comma-separated). A clip without events has one row whose
other cells are empty.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_util.classes import CLASSES
from data_util.errors import DataMissing, TableError
from helpers.files import clip_id

EVENT_COLUMNS = ("filename", "onset", "offset", "event_label")
SOFT_COLUMNS = (*EVENT_COLUMNS, "confidence")
WEAK_COLUMNS = ("filename", "event_labels")
N_CLASSES = len(CLASSES)
NO_EVENT = "empty"  # how some published tables spell a clip without events


class Events(NamedTuple):
    """Events as parallel arrays: seconds, seconds, class index, value of the label in [0, 1]."""

    onset: np.ndarray
    offset: np.ndarray
    label: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class FrameGrid:
    """The label frames of a clip; the config section ``encoder``.

    Args:
        audio_len: seconds of a clip.
        frame_len: samples of an analysis window. Frames are centred, so it does not enter the times; kept because
            configs of published runs name it.
        frame_hop: samples between the frames of the spectrogram.
        net_pooling: spectrogram frames per label frame.
        fs: sample rate that these samples refer to.

    Raises:
        ValueError: a size is not positive, or the clip is shorter than one frame.
    """

    audio_len: float = 10
    frame_len: int = 2048
    frame_hop: int = 256
    net_pooling: int = 4
    fs: int = 16000

    def __post_init__(self):
        for name in ("audio_len", "frame_len", "frame_hop", "net_pooling", "fs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"encoder.{name} is {getattr(self, name)}, expected a positive number")
        if self.n_frames < 1:
            raise ValueError(f"encoder.audio_len is {self.audio_len} s, expected at least {self.frame_seconds} s")

    @property
    def n_frames(self):
        """Label frames per clip; an incomplete last frame is left out (10 s: 156)."""
        return int(int(self.audio_len * self.fs / self.frame_hop) / self.net_pooling)

    @property
    def frame_seconds(self):
        """Duration of a label frame in seconds."""
        return self.net_pooling * self.frame_hop / self.fs

    @property
    def timestamps(self):
        """[frames + 1] boundaries of the label frames in seconds."""
        return self.to_seconds(np.arange(self.n_frames + 1))

    def to_frames(self, seconds):
        """Seconds -> fractional label frames, clipped to the grid."""
        # The order of the operations decides on which side of a frame boundary a rounded time falls.
        return np.clip(np.asarray(seconds, dtype=float) * self.fs / self.frame_hop / self.net_pooling, 0, self.n_frames)

    def to_seconds(self, frames):
        """Label frames -> seconds, clipped to the clip."""
        return np.clip(np.asarray(frames) * self.net_pooling / (self.fs / self.frame_hop), 0, self.audio_len)


# -- labels <-> frames -----------------------------------------------------------------------------
def class_indices(names, classes=CLASSES):
    """Numbers of the named classes.

    Raises:
        ValueError: a name is no class.
    """
    index = {name: i for i, name in enumerate(classes)}
    unknown = next((name for name in names if name not in index), None)
    if unknown is not None:
        raise ValueError(_unknown_class(unknown, classes))
    return np.array([index[name] for name in names], dtype=np.int64)


def make_events(labels, onset, offset, confidence=None, classes=CLASSES):
    """:class:`Events` from class names and times; without confidence every event counts fully."""
    onset = np.asarray(onset, dtype=float)
    confidence = np.ones(len(onset)) if confidence is None else np.asarray(confidence, dtype=float)
    return Events(onset, np.asarray(offset, dtype=float), class_indices(labels, classes), confidence)


def clip_events(events, start, length):
    """Events in an excerpt of a recording: times relative to ``start``, cut to [0, length] s, empty ones dropped."""
    onset = np.maximum(events.onset - start, 0)
    offset = np.minimum(events.offset - start, length)
    keep = onset < offset
    return Events(onset[keep], offset[keep], events.label[keep], events.confidence[keep])


def encode_strong(events, grid, n_classes=N_CLASSES):
    """Frame labels [classes, frames]: an event covers every frame it touches.

    Where events of one class overlap, the later row overwrites the earlier one, as in the published code.
    """
    strong = np.zeros((n_classes, grid.n_frames), dtype=np.float32)
    first = grid.to_frames(events.onset).astype(int)
    last = np.ceil(grid.to_frames(events.offset)).astype(int)
    for row in range(len(events.label)):
        strong[events.label[row], first[row] : last[row]] = events.confidence[row]
    return strong


def encode_weak(labels, classes=CLASSES):
    """Clip labels [classes] of a list of names, or of one comma-separated string of them."""
    names = labels.split(",") if isinstance(labels, str) else list(labels)
    weak = np.zeros(len(classes), dtype=np.float32)
    weak[class_indices([name for name in names if name], classes)] = 1
    return weak


def decode_strong(active, grid, classes=CLASSES):
    """Decisions [classes, frames] -> (label, onset, offset) per run of active frames, in the order of the classes."""
    padded = np.pad(np.asarray(active).astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(padded, axis=1)
    labels, first = np.nonzero(change == 1)
    last = np.nonzero(change == -1)[1]
    times = zip(labels, grid.to_seconds(first), grid.to_seconds(last))
    return [(classes[label], float(onset), float(offset)) for label, onset, offset in times]


def decode_weak(active, classes=CLASSES):
    """Decisions [classes] -> names of the active classes."""
    return [name for name, value in zip(classes, active) if value]


class StrongLabels:
    """Labels of strongly annotated clips, stored as arrays: calling it gives those of an excerpt.

    Args:
        table: rows as :func:`read_events` returns them; clips are numbered in the order of their first row.
        grid: the label frames.

    Attributes:
        filenames: one per clip, as in the table.
    """

    def __init__(self, table, grid):
        rows = table.drop_duplicates()
        clip, names = pd.factorize(rows["filename"])
        self.filenames = list(names)
        self.grid = grid
        real = rows["event_label"].notna().to_numpy()
        order = np.argsort(clip[real], kind="stable")  # keeps the order of the rows, which decides overlaps
        rows = rows[real].iloc[order]
        confidence = rows["confidence"] if "confidence" in rows else None
        self._events = make_events(rows["event_label"], rows["onset"], rows["offset"], confidence)
        self._bounds = np.searchsorted(clip[real][order], np.arange(len(names) + 1))

    def __call__(self, index, start=0.0):
        """Frame labels [classes, frames] and clip labels [classes] of clip ``index`` from ``start`` seconds on."""
        rows = slice(self._bounds[index], self._bounds[index + 1])
        events = clip_events(Events(*(column[rows] for column in self._events)), start, self.grid.audio_len)
        strong = encode_strong(events, self.grid)
        return strong, (strong > 0).any(axis=1).astype(np.float32)


class WeakLabels:
    """Labels of weakly annotated clips: clip labels from the table, no frame labels. See :class:`StrongLabels`."""

    def __init__(self, table, grid):
        table = table.drop_duplicates("filename")
        self.filenames = list(table["filename"])
        self.grid = grid
        empty = np.zeros((0, len(CLASSES)), dtype=np.float32)
        self._weak = np.stack([encode_weak(labels) for labels in table["event_labels"]]) if len(table) else empty

    def __call__(self, index, start=0.0):
        """Zeros [classes, frames] and clip labels [classes]; a crop is taken to hold whatever the clip holds."""
        weak = self._weak[index].copy()
        return np.zeros((len(weak), self.grid.n_frames), dtype=np.float32), weak


# -- tables ----------------------------------------------------------------------------------------
def read_table(path, columns):
    """A tab-separated table that has at least ``columns``.

    Raises:
        DataMissing: there is no such file.
        TableError: it cannot be parsed, or a column is missing.
    """
    if not Path(path).is_file():
        raise DataMissing(f"no table {path}")
    try:
        table = pd.read_csv(path, sep="\t", dtype={"filename": str})
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise TableError(f"{path}: not a tab-separated table ({str(error).splitlines()[0]})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise TableError(f"{path}: no column '{missing[0]}' (expected {', '.join(columns)}; found {found})")
    _fail_at(path, table, table["filename"].isna(), "the filename is empty, expected the name of an audio file")
    return table


def read_events(path, columns=EVENT_COLUMNS, classes=CLASSES):
    """Strong labels.

    Args:
        path: the table.
        columns: required columns, :data:`EVENT_COLUMNS` or :data:`SOFT_COLUMNS`.
        classes: names that may occur.

    Returns:
        DataFrame with these columns (and ``confidence`` if the file has it). A clip without events has rows with
        missing values in all but ``filename``.

    Raises:
        DataMissing, TableError: see :func:`read_table`; or a cell is wrong, with its row (the header is row 1).
    """
    table = read_table(path, columns)
    columns = [column for column in SOFT_COLUMNS if column in columns or column in table]
    table = table[columns].astype({"event_label": object})
    table.loc[table["event_label"] == NO_EVENT, columns[1:]] = np.nan
    for column in set(columns) - {"filename", "event_label"}:
        table[column] = _numbers(path, table, column)
    labelled = table["event_label"].notna()
    for column in ("onset", "offset"):
        _fail_at(path, table, labelled & table[column].isna(), f"an event without {column}, expected seconds")
    unlabelled = ~labelled & table["onset"].notna()
    _fail_at(path, table, unlabelled, "an onset without event_label, expected a class or an empty row")
    reverse = table["offset"] < table["onset"]
    _fail_at(path, table, reverse, "the offset is before the onset, expected onset <= offset in seconds")
    if "confidence" in table:
        outside = labelled & ~table["confidence"].between(0, 1)
        _fail_at(path, table, outside, "confidence out of range, expected a number in [0, 1]")
    _check_classes(path, table[labelled], table.loc[labelled, "event_label"].map(lambda name: [name]), classes)
    return table


def read_weak(path, classes=CLASSES):
    """Weak labels: DataFrame ``filename, event_labels``, the latter comma-separated and empty for a clip without.

    Raises:
        DataMissing, TableError: see :func:`read_events`.
    """
    table = read_table(path, WEAK_COLUMNS)[list(WEAK_COLUMNS)]
    labels = table["event_labels"].astype(object).where(table["event_labels"].notna(), "").replace(NO_EVENT, "")
    lists = labels.map(lambda text: [name.strip() for name in str(text).split(",") if name.strip()])
    _check_classes(path, table, lists, classes)
    return table.assign(event_labels=lists.map(",".join))


def durations(path):
    """{clip id: seconds} of a table ``filename, duration``.

    Raises:
        DataMissing, TableError: see :func:`read_table`; or a duration is not a positive number.
    """
    table = read_table(path, ("filename", "duration"))
    seconds = _numbers(path, table, "duration")
    _fail_at(path, table, ~(seconds > 0), "duration expected as a positive number of seconds")
    first = seconds.groupby(table["filename"]).transform("first")
    _fail_at(path, table, seconds != first, "listed before with another duration")
    return {clip_id(name): float(value) for name, value in zip(table["filename"], seconds)}


def add_aliases(table, aliases):
    """Event table with every event of an aliased class copied under its second name, below the original rows."""
    copies = [table[table["event_label"] == name].assign(event_label=alias) for name, alias in aliases.items()]
    return pd.concat([table, *(rows for rows in copies if len(rows))], ignore_index=True)


def add_weak_aliases(table, aliases):
    """Weak table in which a clip with an aliased class also has its second name."""

    def extend(labels):
        names = labels.split(",")
        return ",".join(names + [aliases[name] for name in names if name in aliases])

    return table.assign(event_labels=table["event_labels"].map(extend))


def _numbers(path, table, column):
    """The column as floats; fails at the first cell that is neither a number nor empty."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = numbers.isna() & table[column].notna()
    if wrong.any():
        value = table.loc[wrong, column].iloc[0]
        _fail_at(path, table, wrong, f"{column} is '{value}', expected a number")
    return numbers


def _check_classes(path, table, lists, classes):
    """Fails at the first row with a name that is no class."""
    known = set(classes)
    unknown = lists.map(lambda names: next((name for name in names if name not in known), None))
    if unknown.notna().any():
        _fail_at(path, table, unknown.notna(), _unknown_class(unknown[unknown.notna()].iloc[0], classes))


def _unknown_class(name, classes):
    near = difflib.get_close_matches(str(name), classes, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"unknown class '{name}'{hint}, expected one of {', '.join(classes)}"


def _fail_at(path, table, wrong, problem):
    """Raises for the first row that ``wrong`` marks, with its number in the file (the header is row 1)."""
    if wrong.any():
        row = wrong[wrong].index[0]
        raise TableError(f"{path}, row {row + 2} ({table.loc[row, 'filename']}): {problem}")
