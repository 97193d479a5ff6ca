"""Segment-based counts at all thresholds, from frame scores of clips or of the files they overlap in."""

import numpy as np

from helpers.candidates import Truth
from helpers.operating_points import SegmentCounts
from helpers.score_blocks import each_class, peaks
from helpers.scores import ScoreTable, file_segment_scores

DECIMALS = 6  # of times in seconds, as in sed_scores_eval


def segment_counts(table: ScoreTable, truth: Truth, segment_length: float = 1.0, jobs=1) -> dict[str, SegmentCounts]:
    """Counts of every class; the score of a segment is the largest of its frames, 0 where it has none.

    Args:
        table: scores, as in :func:`helpers.score_blocks.each_class`.
        truth: the true events.
        segment_length: seconds.
        jobs: threads.

    Raises:
        ValueError: a clip or a class without scores, or scores that are no numbers.
    """
    segments = _Segments(truth, segment_length)
    timestamps = np.round(np.asarray(table.timestamps, dtype=np.float64), DECIMALS)
    first = np.maximum(np.searchsorted(timestamps, segments.boundaries[:-1], side="right") - 1, 0)
    last = np.minimum(np.searchsorted(timestamps, segments.boundaries[1:], side="left"), len(timestamps) - 1)

    def counts(label, scores):
        peaks(scores, truth, label)
        found = np.zeros((len(scores), len(first)), dtype=scores.dtype)
        for i in np.flatnonzero(first < last):
            found[:, i] = scores[:, first[i] : last[i]].max(1)
        return segments.counts(label, found[segments.inside])

    return each_class(counts, table, truth, jobs)


def file_segment_counts(table: ScoreTable, truth: Truth, segment_length: float = 1.0) -> dict[str, SegmentCounts]:
    """Counts of every class in whole files (:func:`helpers.scores.file_segment_scores`).

    Args:
        table: scores of clips of the files.
        truth: the true events of the files, whose names are its ``clips``.
        segment_length: seconds.

    Raises:
        ValueError: a file or a class without scores.
    """
    durations = dict(zip(truth.clips, truth.durations))
    scores = file_segment_scores(table.select(labels=truth.labels), durations, segment_length)
    absent = [file for file in truth.clips if file not in scores]
    if absent:
        raise ValueError(f"no scores of file '{absent[0]}' ({len(absent)} of {len(truth.clips)} files have none)")
    segments = _Segments(truth, segment_length)
    found = np.concatenate([scores[file][0] for file in truth.clips])
    return {label: segments.counts(label, found[:, k]) for k, label in enumerate(truth.labels)}


class _Segments:
    """The segments of all clips, one behind the other."""

    def __init__(self, truth, length):
        self.truth = truth
        number = np.ceil(truth.durations / length).astype(int)
        self.boundaries = np.round(np.arange(number.max(initial=0) + 1) * length, DECIMALS)
        self.inside = np.arange(len(self.boundaries) - 1) < number[:, None]  # [clips, segments]
        self.clip = np.nonzero(self.inside)[0]

    def counts(self, label, scores):
        """Counts of a class that has these scores."""
        events = self.truth.of_label(label)
        begins = np.zeros((len(self.inside), len(self.boundaries) + 1), dtype=int)
        first = np.searchsorted(self.boundaries[1:], events.onset, side="right")
        last = np.searchsorted(self.boundaries[:-1], events.offset, side="left")
        np.add.at(begins, (events.clip, first), 1)
        np.add.at(begins, (events.clip, np.maximum(first, last)), -1)
        active = np.cumsum(begins, axis=1)[:, : self.inside.shape[1]][self.inside] > 0
        order = np.argsort(-scores)
        positives, negatives = (np.bincount(self.clip, weights, len(self.inside)) for weights in (active, ~active))
        active, clip = active[order].astype(int), self.clip[order]
        return SegmentCounts(scores[order].astype(np.float64), clip, active, 1 - active, positives, negatives)
