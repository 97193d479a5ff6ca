"""Events of AudioSet with strong labels: the published tables, and frame labels made of them clip by clip.

Hershey et al., "The Benefit of Temporally-Strong Labels in Audio Event Classification", ICASSP 2021. A table has the
columns ``segment_id, start_time_seconds, end_time_seconds, label``: a segment is called by its YouTube id and the
millisecond at which it starts, times count from there, and a label is a machine id (``/m/09x0r``) or a display name.
"""

import csv
import logging
from collections import Counter
from pathlib import Path

import numpy as np

from data_util.class_tables import strong_classes, strong_names
from data_util.errors import DataMissing, TableError
from data_util.events import Events, FrameGrid, encode_strong
from helpers.text import listed

logger = logging.getLogger(__name__)

COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
FRAME_HOP, NET_POOLING, RATE = 160, 4, 16000  # label frames of 40 ms, whatever the sample rate of the audio


def strong_grid(clip_length=10.0):
    """Label frames of a clip: 25 per second."""
    return FrameGrid(audio_len=clip_length, frame_hop=FRAME_HOP, net_pooling=NET_POOLING, fs=RATE)


class StrongEvents:
    """Timed events of clips as arrays, a few bytes per event; frame labels are made when they are asked for.

    Events of one class that touch or overlap are one, as published.

    Args:
        segments: names of the clips; a clip may have no event.
        classes: names.
        clip, label: [events] int, numbers of clip and class.
        onset, offset: [events] float64, seconds.
    """

    def __init__(self, segments, classes, clip, label, onset, offset):
        self.segments, self.classes = list(segments), tuple(classes)
        self.clip, self.label, self.onset, self.offset = merge(clip, label, onset, offset)
        self._bounds = np.searchsorted(self.clip, np.arange(len(self.segments) + 1))

    def __len__(self):
        return len(self.segments)

    def select(self, clips):
        """Events of the clips with these numbers, none of which is there twice, in their order."""
        number = np.full(len(self), -1)
        number[clips] = np.arange(len(clips))
        clip = number[self.clip]
        keep = clip >= 0
        segments = [self.segments[position] for position in clips]
        return StrongEvents(
            segments, self.classes, clip[keep], self.label[keep], self.onset[keep], self.offset[keep]
        )  # fmt: skip

    def of(self, clip, start=0.0):
        """:class:`data_util.events.Events` of a clip, in seconds after ``start``."""
        rows = slice(self._bounds[clip], self._bounds[clip + 1])
        onset, offset = self.onset[rows] - start, self.offset[rows] - start
        return Events(onset, offset, self.label[rows], np.ones(len(onset)))

    def encode(self, clip, grid, start=0.0):
        """Frame labels [classes, frames] float32 of a clip from ``start`` seconds on."""
        return encode_strong(self.of(clip, start), grid, len(self.classes))

    def active_frames(self, grid):
        """How many frames are active, as arrays (clip, class, frames), without those that have none."""
        first, last = grid.to_frames(self.onset).astype(int), np.ceil(grid.to_frames(self.offset)).astype(int)
        clip, label, first, last = merge(self.clip, self.label, first, last)
        return clip, label, last - first

    def labels(self):
        """Numbers of the classes of every clip."""
        return [sorted(set(self.label[first:last].tolist())) for first, last in zip(self._bounds, self._bounds[1:])]


def merge(clip, label, first, last):
    """Joins spans of one clip and class that touch or overlap; sorted by clip, class and beginning.

    Args:
        clip, label: [spans] int.
        first, last: [spans] numbers.

    Returns:
        the same four arrays of what is left.
    """
    order = np.lexsort((first, label, clip))
    clip, label, first, last = (np.asarray(column)[order] for column in (clip, label, first, last))
    if not len(clip):
        return clip, label, first, last
    new = np.ones(len(clip), dtype=bool)
    new[1:] = (np.diff(clip) != 0) | (np.diff(label) != 0)
    # The latest end so far within a clip and class. Ranks in place of the ends: no number is rounded.
    ends, rank = np.unique(last, return_inverse=True)
    group = np.cumsum(new) * len(ends)
    reached = ends[np.maximum.accumulate(group + rank) - group]
    new[1:] |= first[1:] > reached[:-1]
    starts = np.flatnonzero(new)
    return clip[starts], label[starts], first[starts], np.maximum.reduceat(last, starts)


def read_strong(path):
    """Events of the 447 classes of the training list; labels outside it are left out, counted and reported.

    Args:
        path: a table separated by tabs, or by commas if it ends in ``.csv``.

    Returns:
        :class:`StrongEvents` with the segments in the order of their first row, also those that keep no event.

    Raises:
        DataMissing: no such file.
        TableError: it cannot be parsed, lacks a column, a time is no number from 0 on, an event ends before it starts,
            or no label is a class. Rows count from the header, which is row 1.
    """
    import pandas as pd

    classes = strong_classes("train")
    table = _read(path)
    onset, offset = (_seconds(path, table, column) for column in COLUMNS[1:3])
    _fail_at(path, table, offset < onset, "it ends before it starts, expected start_time_seconds <= end_time_seconds")
    names = strong_names()
    number = {name: position for position, name in enumerate(classes)}
    number |= {mid: number[name] for mid, name in names.items() if name in number}
    label = table["label"].map(number)
    known = label.notna().to_numpy()
    if not known.any():
        raise TableError(
            f"{path}: none of {len(table)} labels is one of the {len(classes)} classes, the first is "
            f"'{table['label'].iloc[0]}', expected an id such as /m/09x0r or a name such as Speech"
        )
    _report(path, table["label"][~known], names)
    clip, segments = pd.factorize(table["segment_id"])
    return StrongEvents(
        segments, classes, clip[known], label[known].to_numpy().astype(np.int64), onset[known], offset[known]
    )  # fmt: skip


def read_durations(path):
    """{clip: seconds} of a table without header, such as the published ``eval_durations.csv``.

    Raises:
        TableError: a row is no name and a positive number.
    """
    seconds = {}
    with open(path, newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.reader(file), start=1):
            try:
                name, value = row
                seconds[name] = float(value)
            except ValueError:
                raise TableError(f"{path}, line {line}: '{','.join(row)}', expected a clip and its seconds") from None
            if not 0 < seconds[name] < np.inf:
                raise TableError(f"{path}, line {line}: {name} has {value} seconds, expected a positive number")
    return seconds


def _read(path):
    import pandas as pd

    if not Path(path).is_file():
        raise DataMissing(f"no table {path}")
    separator = "," if str(path).endswith(".csv") else "\t"
    try:
        # As text: pandas may read a number a little off, and some lie on the border of two frames.
        table = pd.read_csv(path, sep=separator, dtype=object, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise TableError(f"{path}: not readable as a table ({str(error).splitlines()[0]})") from None
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of them
        raise TableError(f"{path}: not readable as a table (rows have more fields than the header)")
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        found = ", ".join(map(str, table))
        raise TableError(f"{path}: no column '{missing[0]}' (expected {', '.join(COLUMNS)}; found {found})")
    if not len(table):
        raise TableError(f"{path}: 0 events, expected at least 1")
    _fail_at(path, table, (table["segment_id"] == "").to_numpy(), "the segment_id is empty")
    return table


def _seconds(path, table, column):
    """[rows] float64 of a column of times."""
    values = table[column].tolist()
    try:
        seconds = np.array(values, dtype=np.float64)
    except ValueError:
        seconds = np.array([_number(value) for value in values])
    wrong = ~((seconds >= 0) & (seconds < np.inf))
    if wrong.any():
        _fail_at(path, table, wrong, f"{column} is '{values[int(wrong.argmax())]}', expected seconds from 0 on")
    return seconds


def _number(text):
    try:
        return float(text)
    except ValueError:
        return np.nan


def _fail_at(path, table, wrong, problem):
    """Raises for the first of the rows that ``wrong`` marks."""
    if wrong.any():
        row = int(wrong.argmax())
        raise TableError(f"{path}, row {row + 2} ({table['segment_id'].iloc[row]}): {problem}")


def _report(path, labels, names):
    """Logs the labels outside the list: a warning for those that are no class at all."""
    counts = Counter(labels)
    known = {*names, *names.values()}
    for level, found, what in (
        (logging.INFO, [label for label in counts if label in known], "of the evaluation list alone"),
        (logging.WARNING, [label for label in counts if label not in known], "unknown"),
    ):
        if found:
            shown = listed([f"'{names.get(label, label)}' ({counts[label]})" for label in found])
            total = sum(counts[label] for label in found)
            logger.log(level, "%s: %d events left out, their classes are %s: %s", path, total, what, shown)
