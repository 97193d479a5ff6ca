"""What metrics are computed from: predictions kept per clip, and the true events they are compared with."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from helpers.files import clip_id
from helpers.scores import Events, ScoreTable, clip_duration, median_filter, merge_events
from helpers.text import listed

log = logging.getLogger(__name__)


def as_array(values) -> np.ndarray:
    """A tensor of any device and precision, or an array, as a numpy array (half precision becomes float32)."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    values = values.detach()
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


class Collector:
    """Arrays per clip.

    A clip that comes twice counts once, the later one: a distributed sampler pads with clips of the beginning, and a
    mean over batches would weight them double.
    """

    def __init__(self):
        self.rows: dict[str, tuple[np.ndarray, ...]] = {}
        self.revision = 0  # grows with every change; results computed from the rows are kept until then

    def update(self, strong, weak, batch):
        """Takes what it needs of a batch.

        Args:
            strong: [B, classes, frames] probabilities.
            weak: [B, classes] probabilities.
            batch: the samples' ``filename`` and, as far as the collector reads them, ``strong`` and ``weak`` labels.
        """
        raise NotImplementedError

    def add(self, clips: Iterable[str], *arrays: np.ndarray):
        """Stores item i of every array under clip i."""
        for clip, *row in zip(clips, *arrays):
            self.rows[clip] = tuple(row)
        self.revision += 1

    def stacked(self) -> tuple[list[str], list[np.ndarray]]:
        """Clips in alphabetic order, and their arrays with a clip axis in front."""
        clips = sorted(self.rows)
        return clips, [np.stack(column) for column in zip(*(self.rows[clip] for clip in clips))]

    def reset(self):
        """Forgets all clips."""
        self.rows = {}
        self.revision += 1

    def state(self) -> tuple[list[str], list[np.ndarray]]:
        """All that is collected, in a form that can be pickled and sent to another process."""
        return self.stacked()

    def merge(self, states: Iterable[tuple[list[str], list[np.ndarray]]]):
        """Adds the clips of other processes."""
        for clips, arrays in states:
            self.add(clips, *arrays)


class FrameScores(Collector):
    """Frame probabilities by clip id.

    Args:
        labels: names of the classes.
        timestamps: [frames + 1] frame boundaries in seconds.
        median_window: median filter lengths in frames, one per class; None leaves the scores as they are.

    Raises:
        ValueError: another number of lengths than classes.
    """

    def __init__(self, labels: Sequence[str], timestamps, median_window: Sequence[int] | None = None):
        super().__init__()
        self.labels = tuple(labels)
        self.timestamps = np.asarray(timestamps, dtype=np.float64)
        self.median_window = median_window
        if median_window is not None:
            median_filter(np.zeros((0, len(self.labels))), median_window)  # raises now rather than after an epoch
        self._table = (-1, None)

    def update(self, strong, weak, batch):
        scores = as_array(strong).transpose(0, 2, 1)
        clips = [clip_id(name) for name in batch["filename"]]
        broken = ~np.isfinite(scores).all((1, 2))
        if broken.any():
            # A diverged model must not end its training with a stack trace of the metrics.
            log.warning("%d clips have scores that are no numbers, first '%s'", broken.sum(), clips[broken.argmax()])
            scores = np.nan_to_num(scores, nan=0.0, posinf=1.0, neginf=0.0)
        self.add(clips, scores)

    def table(self) -> ScoreTable | None:
        """Smoothed scores of all clips; None without any."""
        if self._table[0] != self.revision:
            clips, arrays = self.stacked()
            table = ScoreTable(tuple(clips), arrays[0], self.timestamps, self.labels) if clips else None
            if table is not None and self.median_window is not None:
                table = table.smooth(self.median_window)
            self._table = (self.revision, table)
        return self._table[1]


class ClipScores(Collector):
    """Clip probabilities and clip labels."""

    def update(self, strong, weak, batch):
        self.add(batch["filename"], as_array(weak), as_array(batch["weak"]))


class ClipLosses(Collector):
    """Binary cross-entropy of every clip, the mean over classes (and frames) with the masked classes included.

    Args:
        kind: "strong" or "weak", the predictions and labels compared.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def update(self, strong, weak, batch):
        predicted = as_array(strong if self.kind == "strong" else weak).astype(np.float64)
        true = as_array(batch[self.kind])
        with np.errstate(divide="ignore"):
            # Logarithms end at -100, as in torch's loss.
            active, silent = (np.maximum(np.log(p), -100.0) for p in (predicted, 1.0 - predicted))
        losses = -(true * active + (1.0 - true) * silent).reshape(len(true), -1).mean(-1)
        self.add(batch["filename"], losses)


@dataclass(frozen=True)
class Match:
    """True events beside the scored clips.

    Attributes:
        clips: evaluated clips.
        events: their events of the evaluated classes, same-class events that overlap or touch joined.
        durations: their lengths in seconds.
        labels: evaluated classes: those with an event.
        missing: classes without any event in these clips.
    """

    clips: list[str]
    events: dict[str, list[tuple[float, float, str]]]
    durations: dict[str, float]
    labels: list[str]
    missing: list[str]


@dataclass(frozen=True)
class Reference:
    """True events of a data set.

    Attributes:
        events: clip id -> events (:func:`helpers.scores.events_of_table`).
        durations: seconds by clip id; for MAESTRO by clip id or file.
        labels: classes to evaluate; events of others are ignored.
        event_free: which clips without an event count: "drop" none, "listed" those that ``events`` names, "all" also
            scored clips which it does not name.
        name: what log lines call the set.
    """

    events: Events
    durations: Mapping[str, float]
    labels: Sequence[str]
    event_free: str = "drop"
    name: str = "evaluation"
    _reported: set = field(default_factory=set, compare=False, repr=False)

    def match(self, clips: Iterable[str]) -> Match:
        """What is known about the scored clips; ``match.labels`` is empty where nothing can be evaluated."""
        kept = set(self.labels)
        events = {
            clip: merge_events(event for event in self.events.get(clip, ()) if event[2] in kept)
            for clip in clips
            if clip in self.events or self.event_free == "all"
        }
        if self.event_free == "drop":
            events = {clip: clip_events for clip, clip_events in events.items() if clip_events}
        durations = {clip: clip_duration(clip, self.durations) for clip in events}
        found = {
            label
            for clip, clip_events in events.items()
            for onset, _, label in clip_events
            if onset < durations[clip]  # an event behind the end of its clip could never be detected
        }
        labels = [label for label in self.labels if label in found]
        events = {clip: [event for event in events[clip] if event[2] in found] for clip in events}
        return Match(list(events), events, durations, labels, [label for label in self.labels if label not in found])

    def require_durations(self):
        """Raises ValueError where a clip with events has no duration."""
        absent = sorted(set(self.events) - set(self.durations))
        if absent:
            raise ValueError(
                f"durations of '{self.name}' lack {len(absent)} clips of its ground truth, first '{absent[0]}'"
            )

    def report(self, match: Match):
        """Logs, once for this set and not for each of its metrics, which classes cannot be evaluated."""
        missing = tuple(match.missing)
        if missing and missing not in self._reported:
            self._reported.add(missing)
            log.warning(
                "%s: no true event of %s in the %d evaluated clips, left out of the means",
                self.name, listed(missing), len(match.clips),
            )  # fmt: skip
