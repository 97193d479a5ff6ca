"""What a class can be detected as, over all decision thresholds at once, and the true events it is compared with.

A decision threshold turns a score curve into detected events. Those of all thresholds are the nodes of the curve's
component tree, each alive between two thresholds, so that metrics at every operating point cost one sort instead of
one evaluation per threshold (the idea of [Ebbers et al., "Threshold-independent evaluation of sound event detection
scores", ICASSP 2022], on flat arrays). An event with one confidence is alive at all thresholds below it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from helpers.scores import Events, merge_events


class Candidates(NamedTuple):
    """Detections of one class; a threshold t yields those with lower <= t < upper.

    Events that one threshold yields in a clip neither overlap nor touch, as runs of frames do not.

    Attributes:
        clip: [N] rows of the list of clips.
        onset, offset: [N] seconds.
        upper, lower: [N]; the confidence and -inf for an event with one confidence.
    """

    clip: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


class Changes(NamedTuple):
    """By how much the number of detections of one class changes once the threshold lies below a score.

    Attributes:
        clip: [N] rows of the list of clips.
        threshold: [N] the scores.
        change: [N] integers.
    """

    clip: np.ndarray
    threshold: np.ndarray
    change: np.ndarray


def candidates_of_scores(scores, timestamps, clips=None, floor: float = -np.inf) -> Candidates:
    """Every run of frames that some threshold yields.

    Args:
        scores: [clips, frames] of one class; -inf is never detected.
        timestamps: [frames + 1] frame boundaries in seconds.
        clips: [clips] which rows of the list of clips these are; the first ones when None.
        floor: thresholds below it are left out, and runs that live on below it have -inf as ``lower``.
    """
    scores, timestamps = np.asarray(scores), np.asarray(timestamps, dtype=np.float64)
    # All runs above the floor, one behind the other, with a gap of -inf around each.
    padded = np.full((len(scores), scores.shape[1] + 1), -np.inf, dtype=scores.dtype)
    np.copyto(padded[:, 1:], scores, where=scores > floor)
    kept = padded > -np.inf
    kept[:, :-1] |= kept[:, 1:]
    frames = np.flatnonzero(kept)
    values = np.append(padded.ravel()[frames], padded.dtype.type(-np.inf))
    here, left, right = _runs(values)
    clip, begin = np.divmod(frames[left], padded.shape[1])
    return Candidates(
        clip if clips is None else np.asarray(clips)[clip],
        timestamps[begin - 1],
        timestamps[begin - 1 + right - left],
        values[here].astype(np.float64),
        np.maximum(values[left - 1], values[right]).astype(np.float64),
    )


def _runs(values):
    """Runs of all thresholds in a sequence that starts and ends with -inf.

    Returns:
        position of the (first) smallest value of every run, first position, position behind the last.
    """
    here = np.flatnonzero(values > -np.inf)
    longest = np.diff(np.flatnonzero(values == -np.inf), prepend=0).max()
    # minima[k][i] is the smallest of 2**k values from i on: a run grows by steps of halving length.
    minima, steps = [], 2 ** np.arange(int(longest).bit_length())
    level = values[here]
    reach = int(steps.sum()) + 1
    minimum = np.pad(values, reach, constant_values=-np.inf)
    for step in steps:
        minima.append(minimum)
        minimum = np.minimum(minimum[:-step], minimum[step:])
    left, right = here + reach, here + reach + 1
    for step, minimum in zip(steps[::-1], minima[::-1]):
        left -= step * (minimum[left - step] > level)
        right += step * (minimum[right] >= level)
    left, right = left - reach, right - reach
    first = values[left - 1] < level  # an equal value on the left has the same run
    return here[first], left[first], right[first]


def changes_of_scores(scores, clips=None, floor: float = -np.inf) -> Changes:
    """How many runs of frames the thresholds yield: one more below each peak, one less below each valley.

    Args:
        scores: [clips, frames] of one class; -inf is never detected.
        clips, floor: as in :func:`candidates_of_scores`.
    """
    scores = np.asarray(scores)
    above = scores > floor
    rises = np.empty((len(scores), scores.shape[1] + 1), dtype=bool)
    rises[:, 0], rises[:, 1:-1], rises[:, -1] = True, scores[:, 1:] > scores[:, :-1], False
    row, frame = np.nonzero((rises[:, :-1] != rises[:, 1:]) & above)
    change = np.where(rises[row, frame], 1, -1)
    return Changes(row if clips is None else np.asarray(clips)[row], scores[row, frame].astype(np.float64), change)


class TrueEvents(NamedTuple):
    """Events of one class, by clip and then by onset.

    Attributes:
        clip: [N] rows of the list of clips.
        onset, offset: [N] seconds.
    """

    clip: np.ndarray
    onset: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True, eq=False)
class Truth:
    """True events of the evaluated clips and classes; :meth:`of` makes it.

    Attributes:
        clips: clip ids.
        labels: classes. One without an event cannot be evaluated and is left out of all means.
        durations: [clips] seconds.
        clip, label, onset, offset: [N] all events, by clip, then by label, then by onset; numbers are positions in
            ``clips`` and ``labels``.
    """

    clips: tuple[str, ...]
    labels: tuple[str, ...]
    durations: np.ndarray
    clip: np.ndarray
    label: np.ndarray
    onset: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, events: Events, durations: Mapping[str, float], clips: Sequence[str], labels: Sequence[str]) -> "Truth":
        """The truth about these clips; same-class events that overlap or touch are one event.

        Args:
            events: clip id -> events; a clip that is not among them has none.
            durations: seconds by clip id.
            clips: the evaluated clips, those with scores.
            labels: the evaluated classes.

        Raises:
            ValueError: a clip or class comes twice, a clip has no duration, events of a clip that is not evaluated or
                of another class, times that are no numbers.
        """
        clips, labels = tuple(clips), tuple(labels)
        rows, columns = positions(clips, "clip"), positions(labels, "class")
        lengths = _lengths(clips, durations)
        strange = [clip for clip in events if clip not in rows]
        if strange:
            raise ValueError(
                f"clip '{strange[0]}' has true events but is not evaluated ({len(strange)} such clips; evaluated are "
                f"{_listed(clips)})"
            )
        found = []
        for clip, clip_events in events.items():
            _check_events(clip, clip_events, columns)
            found += [(rows[clip], columns[event[2]], *event[:2]) for event in merge_events(clip_events)]
        found.sort()
        clip, label, onset, offset = np.array(found, dtype=np.float64).reshape(-1, 4).T
        return cls(clips, labels, lengths, clip.astype(np.int64), label.astype(np.int64), onset, offset)

    def of_label(self, label: str) -> TrueEvents:
        """The events of a class.

        Raises:
            ValueError: an unknown class.
        """
        position = self.position(label)
        order, starts = self._by_label
        chosen = order[starts[position] : starts[position + 1]]
        return TrueEvents(self.clip[chosen], self.onset[chosen], self.offset[chosen])

    def position(self, label: str) -> int:
        """Where a class is in ``labels``.

        Raises:
            ValueError: an unknown class.
        """
        if label not in self.labels:
            raise ValueError(f"no class '{label}', expected one of {_listed(self.labels)}")
        return self.labels.index(label)

    @cached_property
    def _by_label(self):
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.label, minlength=len(self.labels)))])
        return np.argsort(self.label, kind="stable"), starts

    def weights(self, weights=None) -> np.ndarray:
        """[clips] how often each clip counts: once, or as said.

        Raises:
            ValueError: another number of weights than clips, or negative ones.
        """
        if weights is None:
            return np.ones(len(self.clips), dtype=np.int64)
        weights = np.asarray(weights)
        if weights.shape != (len(self.clips),) or (weights < 0).any():
            raise ValueError(f"expected one weight of at least 0 for each of {len(self.clips)} clips, got {weights}")
        return weights

    def counts(self, weights=None) -> np.ndarray:
        """[labels] number of events."""
        return self._sums(weights, 1)

    def seconds(self, weights=None) -> np.ndarray:
        """[labels] joint length of the events."""
        return self._sums(weights, self.offset - self.onset)

    def _sums(self, weights, values):
        return np.bincount(self.label, self.weights(weights)[self.clip] * values, minlength=len(self.labels))


def positions(names: Sequence[str], kind: str) -> dict[str, int]:
    """Where each name is.

    Raises:
        ValueError: one comes twice; ``kind`` says what is named.
    """
    places = {name: i for i, name in enumerate(names)}
    if len(places) < len(names):
        twice = next(name for i, name in enumerate(names) if places[name] != i)
        raise ValueError(f"the {kind} '{twice}' is listed twice")
    return places


def _listed(names, most=20):
    names = list(names)
    return ", ".join(names[:most]) + f", ... ({len(names)})" * (len(names) > most)


def _check_events(clip, events, labels):
    for onset, offset, label in events:
        if label not in labels:
            raise ValueError(f"clip '{clip}' has an event of '{label}', expected one of {_listed(labels)}")
        if not math.isfinite(offset - onset):
            raise ValueError(f"clip '{clip}' has an event of '{label}' from {onset} to {offset} s, expected numbers")


def _lengths(clips, durations):
    absent = [clip for clip in clips if clip not in durations]
    if absent:
        raise ValueError(f"no duration of clip '{absent[0]}' ({len(absent)} of {len(clips)} clips have none)")
    lengths = np.array([durations[clip] for clip in clips], dtype=np.float64)
    broken = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(broken):
        raise ValueError(f"clip '{clips[broken[0]]}' lasts {lengths[broken[0]]} s, expected more than 0")
    return lengths
