"""What the counting of events by intersection and by collar have in common: pairs of events, and rows of changes.

A row says what changes once the threshold lies below a score: (threshold, clip, other class, true positives, false
positives, cross triggers), in columns. Changes of different clips simply add up.
"""

from collections.abc import Iterable

import numpy as np

from helpers.candidates import Candidates, Changes, TrueEvents

MICROSECONDS = 1e6  # per second


def micro(seconds):
    """Whole microseconds: times are compared as in sed_scores_eval, with six decimals."""
    return np.rint(seconds * MICROSECONDS)


def real(candidates: Candidates) -> Candidates:
    """Those that have a length and that some threshold yields."""
    kept = (candidates.offset > candidates.onset) & (candidates.upper > candidates.lower)
    return candidates if kept.all() else chosen(candidates, kept)


def chosen(candidates: Candidates, which) -> Candidates:
    """The candidates of a mask or of numbers."""
    return Candidates(*(column[which] for column in candidates))


def pairs(candidates: Candidates, events: TrueEvents, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Every candidate with every event of its clip.

    Args:
        candidates: [N].
        events: by clip.
        clips: how many clips there are.

    Returns:
        numbers of the candidates, ascending, and of the events.
    """
    counts = np.bincount(events.clip, minlength=clips)
    first = (np.cumsum(counts) - counts)[candidates.clip]
    counts = counts[candidates.clip]
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) + (first - (np.cumsum(counts) - counts))[which]


def overlapping(candidates: Candidates, events: TrueEvents, clips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The :func:`pairs` that share time, and how many seconds."""
    which, event = pairs(candidates, events, clips)
    end = np.minimum(candidates.offset[which], events.offset[event])
    shared = end - np.maximum(candidates.onset[which], events.onset[event])
    some = shared > 0
    return which[some], event[some], shared[some]


def alive(candidates: Candidates, other=0, fp=0, triggers=0) -> list[tuple]:
    """Rows of something that begins below ``upper`` and ends below ``lower``."""
    return [
        (candidates.upper, candidates.clip, other, 0, fp, triggers),
        (candidates.lower, candidates.clip, other, 0, -fp, -triggers),
    ]


def net(rows: Iterable[tuple]) -> list[np.ndarray]:
    """One row per threshold, clip and other class, by descending threshold; none in which nothing changes."""
    columns = _columns(rows)
    order = np.lexsort((columns[2], columns[1], -columns[0]))
    keys, values = ([column[order] for column in part] for part in (columns[:3], columns[3:]))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    starts = np.flatnonzero(starts)
    values = [np.add.reduceat(value, starts) if len(starts) else value for value in values]
    changed = np.logical_or.reduce([value != 0 for value in values])
    return [key[starts][changed] for key in keys] + [value[changed] for value in values]


def merged(parts: Iterable[list[np.ndarray]], silent: Changes | None) -> list[np.ndarray]:
    """All rows by descending threshold.

    Args:
        parts: what :func:`net` gave for different clips.
        silent: changes in the number of false positives of yet other clips.
    """
    rows = [*parts]
    if silent is None and len(rows) == 1:
        return rows[0]
    if silent is not None:
        rows.append((silent.threshold, silent.clip, 0, 0, silent.change, 0))
    columns = _columns(rows)
    order = np.argsort(-columns[0])
    return [column[order] for column in columns]


def _columns(rows):
    """The columns of rows, of which some are single numbers, without thresholds that nothing lies below."""
    rows = [*rows, (np.zeros(0), *[np.zeros(0, dtype=np.int64)] * 5)]
    columns = [np.concatenate([np.broadcast_to(row[i], len(row[0])) for row in rows]) for i in range(6)]
    below = columns[0] > -np.inf
    return [column[below] for column in columns]
