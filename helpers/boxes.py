"""Sound event bounding boxes (SEBBs): events with one confidence each, and their detection in scores (cSEBBs).

The decision threshold chooses boxes but does not move their edges [Ebbers, Germain, Wichern, Le Roux, "Sound Event
Bounding Boxes", Interspeech 2024, arXiv 2406.04212]. How they are found: :mod:`helpers.change_detection`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.candidates import Candidates
from helpers.change_detection import DECIMALS, find_segments, merge_segments
from helpers.scores import ScoreTable, score_frame, segment_scores

PerClass = float | Mapping[str, float] | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Parameters:
    """What turns scores into boxes; each a number, one number per class in their order, or a mapping from the class.

    Attributes:
        step_filter_length: seconds.
        merge_threshold_abs: a gap is closed where the larger peak of the two candidates beside it exceeds the gap's
            smallest score by less than this, and
        merge_threshold_rel: is less than this many times as large. Infinite: this criterion is always met.
    """

    step_filter_length: PerClass
    merge_threshold_abs: PerClass = np.inf
    merge_threshold_rel: PerClass = np.inf

    def of(self, labels: Sequence[str]) -> np.ndarray:
        """[3, classes] filter lengths, absolute and relative thresholds of these classes.

        Raises:
            ValueError: a mapping lacks a class, a sequence has another length, a value is no number, or a filter length
                not positive.
        """
        names = "step_filter_length", "merge_threshold_abs", "merge_threshold_rel"
        values = np.stack([_per_class(name, getattr(self, name), labels) for name in names])
        if not (np.isfinite(values[0]) & (values[0] > 0)).all():
            raise ValueError(f"step_filter_length needs positive seconds, got {values[0].tolist()}")
        return values


def _per_class(name, value, labels):
    if isinstance(value, Mapping):
        missing = [label for label in labels if label not in value]
        if missing:
            raise ValueError(f"{name} lacks the class '{missing[0]}' (it has: {', '.join(map(str, value))})")
        value = [value[label] for label in labels]
    value = np.asarray(value, dtype=np.float64)
    if value.ndim and value.shape != (len(labels),):
        raise ValueError(f"{name} has {value.size} values, expected one or {len(labels)}, one per class")
    if np.isnan(value).any():
        raise ValueError(f"{name} needs numbers, got {value.tolist()}")
    return np.broadcast_to(value, len(labels))


@dataclass(frozen=True)
class Boxes:
    """Bounding boxes of many clips and classes, ordered by clip, class and time.

    Attributes:
        clips: clip ids, also of clips without a box.
        labels: class names, also of classes without a box.
        clip, label: [N] rows of ``clips`` and ``labels``.
        onset, offset: [N] seconds.
        score: [N] confidences.
        end: seconds at which score tables end; None takes the last offset of all.
    """

    clips: tuple[str, ...]
    labels: tuple[str, ...]
    clip: np.ndarray
    label: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    score: np.ndarray
    end: float | None = None

    def _rows(self, kept=slice(None)) -> Iterator[tuple[str, float, float, str, float]]:
        columns = (column[kept].tolist() for column in (self.clip, self.onset, self.offset, self.label, self.score))
        for clip, onset, offset, label, score in zip(*columns):
            yield self.clips[clip], onset, offset, self.labels[label], score

    def select(self, clips: Iterable[str] | None = None, labels: Iterable[str] | None = None) -> "Boxes":
        """The boxes of these clips and classes only, in the order given; None keeps all.

        Raises:
            ValueError: an unknown clip or class.
        """
        clips = self.clips if clips is None else tuple(clips)
        labels = self.labels if labels is None else tuple(labels)
        unknown = sorted(set(clips) - set(self.clips)) + sorted(set(labels) - set(self.labels))
        if unknown:
            raise ValueError(f"the boxes have no '{unknown[0]}' (classes: {', '.join(self.labels)})")
        row, column = _positions(self.clips, clips), _positions(self.labels, labels)
        kept = np.flatnonzero((row[self.clip] >= 0) & (column[self.label] >= 0))
        clip, label = row[self.clip[kept]], column[self.label[kept]]
        return boxes_of(clips, labels, clip, label, self.onset[kept], self.offset[kept], self.score[kept], self.end)

    def events(self, threshold: PerClass) -> dict[str, list[tuple[float, float, str]]]:
        """Events of every clip: the boxes with a confidence strictly above a threshold.

        Args:
            threshold: one number, one per class, or a mapping from the class.
        """
        events = {clip: [] for clip in self.clips}
        above = self.score > _per_class("threshold", threshold, self.labels)[self.label]
        for clip, onset, offset, label, _ in self._rows(above):
            events[clip].append((onset, offset, label))
        return events

    def by_clip(self) -> dict[str, list[tuple[float, float, str, float]]]:
        """Clip id -> (onset, offset, class, confidence) of its boxes."""
        found = {clip: [] for clip in self.clips}
        for clip, *box in self._rows():
            found[clip].append(tuple(box))
        return found

    def of(self, label: str) -> Candidates:
        """The boxes of one class as what it can be detected as."""
        own = np.flatnonzero(self.label == self.labels.index(label))
        floor = np.full(len(own), -np.inf)
        return Candidates(self.clip[own], self.onset[own], self.offset[own], self.score[own], floor)

    def score_frames(self, background: float = 0.0) -> dict:
        """Clip id -> score data frame of sed_scores_eval, with one row between successive edges of any class.

        Args:
            background: score of a class where it has no box. With 0, as published, a threshold below 0 detects whole
                clips, which counts where a class has an event in most clips; -inf is never detected.

        Raises:
            ValueError: no box tells where the clips end, and neither does ``end``.
        """
        end = float(self.offset.max(initial=0.0)) if self.end is None else self.end
        if not end > 0:
            raise ValueError("boxes without a length: nothing tells where the score tables end")
        first = np.searchsorted(self.clip, np.arange(len(self.clips) + 1))
        frames = {}
        for clip, start, stop in zip(self.clips, first[:-1], first[1:]):
            onset, offset = self.onset[start:stop], self.offset[start:stop]
            edges = np.unique(np.concatenate([[0.0, end], onset, offset]))
            scores = np.full((len(edges) - 1, len(self.labels)), background)
            spans = np.searchsorted(edges, onset), np.searchsorted(edges, offset)
            for a, b, label, score in zip(*spans, self.label[start:stop], self.score[start:stop]):
                scores[a:b, label] = score
            frames[clip] = score_frame(scores, edges, self.labels)
        return frames


def boxes_of(clips, labels, clip, label, onset, offset, score, end=None) -> Boxes:
    """Boxes from flat arrays in any order."""
    order = np.lexsort((onset, label, clip))
    return Boxes(tuple(clips), tuple(labels), *(np.asarray(a)[order] for a in (clip, label, onset, offset, score)), end)


def join(*parts: Boxes, clips: Sequence[str] | None = None, labels: Sequence[str] | None = None) -> Boxes:
    """The boxes of all parts, which are of different clips or different classes.

    Args:
        clips, labels: order of the result's clips and classes; None takes the order of appearance.
    """
    clips = tuple(clips or dict.fromkeys(clip for part in parts for clip in part.clips))
    labels = tuple(labels or dict.fromkeys(label for part in parts for label in part.labels))
    arrays = [
        (
            _positions(part.clips, clips)[part.clip], _positions(part.labels, labels)[part.label],
            part.onset, part.offset, part.score,
        )
        for part in parts
    ]  # fmt: skip
    ends = [part.end for part in parts if part.end is not None]
    return boxes_of(clips, labels, *map(np.concatenate, zip(*arrays)), max(ends, default=None))


def _positions(names, among):
    """[names] where each name is in another list, -1 where it is not."""
    position = {name: i for i, name in enumerate(among)}
    return np.array([position.get(name, -1) for name in names], dtype=int)


def detect(table: ScoreTable, parameters: Parameters) -> Boxes:
    """Bounding boxes of all clips and classes.

    Args:
        table: raw scores in [0, 1]; the method does without a median filter.
        parameters: for example from :func:`helpers.tuning.tune`.

    Raises:
        ValueError: scores that are no numbers, or parameters that do not fit the classes.
    """
    require_numbers(table)
    found = []
    for label, (length, *thresholds) in enumerate(parameters.of(table.labels).T):
        segments = find_segments(table.scores[:, :, label], table.timestamps, length)
        clip, *box = merge_segments(segments, *thresholds)
        found.append((clip, np.full(len(clip), label), *box))
    arrays = map(np.concatenate, zip(*found)) if found else [np.zeros(0, dtype=int)] * 2 + [np.zeros(0)] * 3
    return boxes_of(table.clips, table.labels, *arrays, end=_end(table))


def require_numbers(table: ScoreTable):
    """Raises ValueError naming the first clip whose scores are not all numbers."""
    broken = ~np.isfinite(table.scores).all(axis=(1, 2))
    if broken.any():
        raise ValueError(f"clip '{table.clips[int(broken.argmax())]}' has scores that are no numbers")


def segment_boxes(table: ScoreTable, segment_length: float = 1.0) -> Boxes:
    """One box per segment with its mean score: how classes with labels per segment (MAESTRO) go into the same tables.

    These boxes touch, so they are no :class:`helpers.candidates.Candidates` of events.

    Args:
        table: raw scores.
        segment_length: seconds; the last segment ends with the clip.
    """
    end = _end(table)
    scores = segment_scores(table.scores, table.timestamps, end, segment_length)  # [clips, segments, classes]
    onset = np.arange(0.0, end, segment_length)
    clip, segment, label = (index.ravel() for index in np.indices(scores.shape))
    offset = np.minimum(onset[segment] + segment_length, end)
    return boxes_of(table.clips, table.labels, clip, label, onset[segment], offset, scores.ravel(), end)


def _end(table):
    return float(np.round(table.timestamps[-1], DECIMALS))
