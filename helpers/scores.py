"""From frame probabilities to what metrics compare: score tables, smoothing, detections, segment scores, true events.

Scores are arrays over all clips, ``[clips, frames, classes]``; data frames exist only at the border to
sed_scores_eval. Events are in the form of sed_scores_eval: ``{clip id: [(onset, offset, label), ...]}`` in seconds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.files import clip_id

Events = Mapping[str, Sequence[tuple[float, float, str]]]


@dataclass(frozen=True)
class ScoreTable:
    """Frame scores of many clips of one length.

    Attributes:
        clips: clip ids.
        scores: [clips, frames, classes].
        timestamps: [frames + 1] frame boundaries in seconds.
        labels: class names, in the order of the last axis.

    Raises:
        ValueError: shapes that do not fit together.
    """

    clips: tuple[str, ...]
    scores: np.ndarray
    timestamps: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self):
        expected = (len(self.clips), len(self.timestamps) - 1, len(self.labels))
        if self.scores.shape != expected:
            raise ValueError(f"scores have shape {self.scores.shape}, expected (clips, frames, classes) = {expected}")

    def select(self, clips: Iterable[str] | None = None, labels: Iterable[str] | None = None) -> "ScoreTable":
        """The table of these clips and classes only, in the order given."""
        clips = self.clips if clips is None else tuple(clips)
        labels = self.labels if labels is None else tuple(labels)
        row = {clip: i for i, clip in enumerate(self.clips)}
        column = {label: i for i, label in enumerate(self.labels)}
        unknown = [name for name in labels if name not in column] + [name for name in clips if name not in row]
        if unknown:
            raise ValueError(f"the score table has no '{unknown[0]}' (classes: {', '.join(self.labels)})")
        rows, columns = [row[clip] for clip in clips], [column[label] for label in labels]
        return replace(self, clips=clips, labels=labels, scores=self.scores[rows][:, :, columns])

    def smooth(self, windows: Sequence[int]) -> "ScoreTable":
        """The table after :func:`median_filter`."""
        return replace(self, scores=median_filter(self.scores, windows))

    def quantise(self, thresholds: Sequence[float]) -> "ScoreTable":
        """The table with each score replaced by how many of the (ascending) thresholds it lies strictly above.

        A score above none becomes -inf, which sed_scores_eval never detects: the operating points of the result are
        those of the thresholds and no others.
        """
        passed = np.searchsorted(np.asarray(thresholds, dtype=np.float64), self.scores.astype(np.float64), side="left")
        return replace(self, scores=np.where(passed > 0, passed.astype(np.float64), -np.inf))

    def data_frames(self) -> dict:
        """Clip id -> score data frame of sed_scores_eval."""
        return {clip: score_frame(self.scores[i], self.timestamps, self.labels) for i, clip in enumerate(self.clips)}


def score_frame(scores, timestamps, labels):
    """[frames, classes] scores as the data frame of sed_scores_eval: onset, offset, one column per class."""
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    return create_score_dataframe(np.asarray(scores), np.asarray(timestamps), list(labels))


def clip_span(clip: str) -> tuple[str, float, float]:
    """File, onset and offset (s) of a MAESTRO clip, which is named ``<file>-<onset>-<offset>`` in 1/100 s.

    Raises:
        ValueError: the name has another form.
    """
    try:
        file, onset, offset = clip.rsplit("-", maxsplit=2)
        return file, int(onset) / 100, int(offset) / 100
    except ValueError:
        raise ValueError(f"clip '{clip}' is not named <file>-<onset>-<offset> in hundredths of a second") from None


def median_filter(scores: np.ndarray, windows: Sequence[int]) -> np.ndarray:
    """Median over time with one window per class; the border is mirrored, the edge frame repeated.

    Args:
        scores: [..., frames, classes].
        windows: [classes] window lengths in frames.

    Returns:
        an array like ``scores``.

    Raises:
        ValueError: another number of windows than classes, or a window below one frame.
    """
    from scipy import ndimage

    windows = np.asarray(windows, dtype=int)
    if windows.shape != scores.shape[-1:] or windows.min(initial=1) < 1:
        raise ValueError(f"median_window needs {scores.shape[-1]} lengths of at least 1 frame, got {windows.tolist()}")
    smoothed = np.array(scores)
    if not smoothed.size:
        return smoothed
    # The other axes have size 1 in the window, so all classes that share a length are filtered at once.
    for length in np.unique(windows[windows > 1]):
        size = (1,) * (scores.ndim - 2) + (int(length), 1)
        columns = windows == length
        smoothed[..., columns] = ndimage.median_filter(scores[..., columns], size=size, mode="reflect")
    return smoothed


def detections(table: ScoreTable, threshold) -> dict[str, list[tuple[float, float, str]]]:
    """Runs of frames with scores strictly above a threshold, as events.

    Args:
        table: the scores.
        threshold: one number, or one per class.

    Returns:
        events of every clip, sorted by class (in the order of the labels), then by onset.
    """
    active = (table.scores > threshold).transpose(0, 2, 1)
    edges = np.diff(active.astype(np.int8), axis=-1, prepend=0, append=0)
    clips, classes, onsets = np.nonzero(edges == 1)
    offsets = np.nonzero(edges == -1)[-1]
    events = {clip: [] for clip in table.clips}
    for clip, label, onset, offset in zip(clips, classes, table.timestamps[onsets], table.timestamps[offsets]):
        events[table.clips[clip]].append((float(onset), float(offset), table.labels[label]))
    return events


def segment_scores(
    scores: np.ndarray, timestamps: np.ndarray, clip_length: float, segment_length: float = 1.0
) -> np.ndarray:
    """Means over segments, each frame weighted by how much of it lies in the segment.

    Args:
        scores: [..., frames, classes].
        timestamps: [frames + 1] frame boundaries in seconds.
        clip_length: seconds, cut into segments of ``segment_length`` seconds (the last one may be shorter).

    Returns:
        [..., segments, classes] float64; zero where no frame lies in a segment.
    """
    onsets = np.arange(0.0, clip_length, segment_length)[:, None]
    overlap = np.minimum(timestamps[1:], onsets + segment_length) - np.maximum(timestamps[:-1], onsets)
    overlap = np.maximum(overlap, 0.0)
    weights = overlap / np.maximum(overlap.sum(-1, keepdims=True), 1e-12)
    return weights @ scores.astype(np.float64)


def file_segment_scores(
    table: ScoreTable, durations: Mapping[str, float], segment_length: float = 1.0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Segment scores of whole MAESTRO files: those of its overlapping clips, averaged where they overlap.

    Args:
        table: scores of clips named as :func:`clip_span` reads.
        durations: seconds of every file.
        segment_length: seconds.

    Returns:
        file -> ([segments, classes] scores, [segments + 1] boundaries in seconds); zero where no clip lies.
    """
    spans = {clip: clip_span(clip) for clip in table.clips}
    lengths = {clip: span[2] - span[1] for clip, span in spans.items()}
    segments = {
        length: segment_scores(table.scores, table.timestamps, length, segment_length)
        for length in set(lengths.values())
    }
    sums, counts = {}, {}
    for i, clip in enumerate(table.clips):
        file, onset, _ = spans[clip]
        if file not in sums:
            sums[file] = np.zeros((math.ceil(durations[file] / segment_length), len(table.labels)))
            counts[file] = np.zeros((len(sums[file]), 1))
        start = int(onset // segment_length)
        values = segments[lengths[clip]][i][: max(len(sums[file]) - start, 0)]
        sums[file][start : start + len(values)] += values
        counts[file][start : start + len(values)] += 1
    return {
        file: (
            sums[file] / np.maximum(counts[file], 1),
            np.minimum(np.arange(len(sums[file]) + 1) * segment_length, durations[file]),
        )
        for file in sums
    }


def events_of_table(table, labels: Iterable[str] | None = None, above: float | None = None) -> dict:
    """Events of a table with the columns ``filename, onset, offset, event_label`` and, for ``above``, ``confidence``.

    Args:
        table: the data frame; rows without an onset name a clip without events.
        labels: classes to keep.
        above: soft labels count as events where their confidence is strictly greater.

    Returns:
        clip id -> events; a clip of which nothing is kept has an empty list.

    Raises:
        ValueError: a column is missing.
    """
    columns = ["filename", "onset", "offset", "event_label"] + ["confidence"] * (above is not None)
    absent = [column for column in columns if column not in table]
    if absent:
        raise ValueError(f"event table lacks the column {', '.join(absent)} (it has: {', '.join(map(str, table))})")
    kept = None if labels is None else set(labels)
    clips = {name: clip_id(name) for name in table["filename"].unique()}
    events = {clip: [] for clip in clips.values()}
    for name, onset, offset, label, *confidence in zip(*(table[column] for column in columns)):
        counts = not confidence or confidence[0] > above
        if counts and onset == onset and (kept is None or label in kept):  # a missing onset is NaN, unlike itself
            events[clips[name]].append((float(onset), float(offset), label))
    return events


def merge_events(events: Iterable[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Joins events of one class that overlap or touch and drops those without length; sorted within each class."""
    by_label = defaultdict(list)
    for onset, offset, label in events:
        if offset > onset:
            by_label[label].append((onset, offset))
    merged = []
    for label, spans in by_label.items():
        joined = []
        for onset, offset in sorted(spans):
            if joined and onset <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], offset)
            else:
                joined.append([onset, offset])
        merged.extend((onset, offset, label) for onset, offset in joined)
    return merged


def events_of_files(events: Events) -> dict[str, list[tuple[float, float, str]]]:
    """Events of MAESTRO clips in the time of their files; what overlapping clips share is there once."""
    files = defaultdict(list)
    for clip, clip_events in events.items():
        file, start, _ = clip_span(clip)
        files[file].extend((start + onset, start + offset, label) for onset, offset, label in clip_events)
    return {file: merge_events(file_events) for file, file_events in files.items()}


def clip_duration(clip: str, durations: Mapping[str, float]) -> float:
    """Seconds of a MAESTRO clip: from the table where the clip is listed, else its span, cut at the end of its file.

    Args:
        clip: clip id as :func:`clip_span` reads.
        durations: seconds by clip id or by file.
    """
    if clip in durations:
        return float(durations[clip])
    file, onset, offset = clip_span(clip)
    return min(offset, float(durations.get(file, offset))) - onset


def file_durations(clips: Iterable[str], durations: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the files of MAESTRO clips: from the table where the file is listed, else to the end of its last clip.

    Args:
        clips: clip ids as :func:`clip_span` reads.
        durations: seconds by file.
    """
    seconds = {}
    for clip in clips:
        file, _, end = clip_span(clip)
        seconds[file] = float(durations.get(file, max(end, seconds.get(file, 0.0))))
    return seconds
