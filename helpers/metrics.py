"""Metrics as objects that yield names and values.

All numbers come from sed_scores_eval [Ebbers et al., "Threshold-independent evaluation of sound event detection
scores", ICASSP 2022]. A class without a true event in the evaluated clips is left out of the means, is nan in
``per_class`` and named once in the log. An evaluator that has seen nothing it can evaluate yields nothing.

"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from helpers.collectors import ClipLosses, ClipScores, Collector, FrameScores, Reference
from helpers.scores import events_of_files, file_durations, file_segment_scores, score_frame

# The two scenarios of DCASE task 4 since 2021.
PSDS1 = {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_st": 1.0}
PSDS2 = {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0}
COLLAR = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2}
INTERSECTION = {"dtc_threshold": 0.5, "gtc_threshold": 0.5}
SEGMENT = {"segment_length": 1.0}


@dataclass(frozen=True)
class PsdRoc:
    """Polyphonic sound detection ROC.

    Attributes:
        value: the PSDS, the area below the curve.
        efpr: effective false positives per hour; ``etpr`` at each of them, a staircase.
        classes: label -> (false positive rates, true positive rates).
        max_efpr: where the area ends.
    """

    value: float
    efpr: np.ndarray
    etpr: np.ndarray
    classes: Mapping[str, tuple[np.ndarray, np.ndarray]]
    max_efpr: float = 100.0


@dataclass(frozen=True)
class Outcome:
    """Values by name, the same per class, and a curve where the metric has one."""

    values: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curve: PsdRoc | None = None


class Evaluator:
    """A metric over what a collector has gathered.

    Args:
        collector: several evaluators may share one.
    """

    higher_is_better = True

    def __init__(self, collector: Collector):
        self.collector = collector
        self._outcome = (-1, Outcome())

    def update(self, strong, weak, batch):
        """Takes a batch, see :meth:`helpers.collectors.Collector.update`."""
        self.collector.update(strong, weak, batch)

    def reset(self):
        """Forgets all clips."""
        self.collector.reset()

    def outcome(self) -> Outcome:
        """Everything the metric has to say about the clips so far; computed once."""
        if self._outcome[0] != self.collector.revision:
            self._outcome = (self.collector.revision, self.evaluate() if self.collector.rows else Outcome())
        return self._outcome[1]

    def compute(self) -> Iterator[tuple[str, float]]:
        """Names and values."""
        yield from self.outcome().values.items()

    def per_class(self) -> Mapping[str, Mapping[str, float]]:
        """Name -> label -> value, nan for classes without a true event."""
        return self.outcome().classes

    def evaluate(self) -> Outcome:
        """The outcome for the collected clips, of which there is at least one."""
        raise NotImplementedError


class EventMetric(Evaluator):
    """A metric that compares frame scores with true events.

    Args:
        scores: the collected scores.
        reference: the true events.
        name: what the value is called.
        num_jobs: processes.
    """

    def __init__(self, scores: FrameScores, reference: Reference, name: str, num_jobs: int = 1):
        super().__init__(scores)
        self.reference, self.name, self.num_jobs = reference, name, num_jobs

    def evaluate(self):
        table = self.collector.table()
        match = self.reference.match(table.clips)
        if not match.labels:
            return Outcome()
        self.reference.report(match)
        return self.compare(table.select(match.clips, match.labels), match)

    def compare(self, table, match) -> Outcome:
        """The outcome for clips and classes that have events."""
        raise NotImplementedError

    def all_classes(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values of all classes in the order of the reference."""
        return {label: float(values.get(label, np.nan)) for label in self.reference.labels}


class Psds(EventMetric):
    """Polyphonic sound detection score [Bilen et al., ICASSP 2020].

    Args:
        criteria: intersection thresholds and penalties, :data:`PSDS1` or :data:`PSDS2`.
        operating_points: thresholds at which the system is run; None takes every threshold there is.
        max_efpr: effective false positives per hour at which the area ends.
    """

    def __init__(
        self, scores, reference, name, criteria=PSDS1, operating_points=None, max_efpr: float = 100.0, num_jobs=1
    ):
        super().__init__(scores, reference, name, num_jobs)
        self.criteria, self.operating_points, self.max_efpr = dict(criteria), operating_points, max_efpr

    def compare(self, table, match):
        events, durations = dict(match.events), dict(match.durations)
        if self.operating_points is not None:
            table = table.quantise(self.operating_points)
        frames = table.data_frames()
        if self.operating_points is not None:
            # sed_scores_eval needs a hit or a false alarm of every class. One more false alarm, at a score below all
            # others and in a clip without length, lies where the curve has long been flat and changes no area.
            probe = np.full((1, len(table.labels)), 0.5)
            frames[""], events[""], durations[""] = score_frame(probe, [0.0, 1.0], table.labels), [], 0.0
        curve, classes = psd_roc(frames, events, durations, self.criteria, self.max_efpr, self.num_jobs)
        return Outcome({self.name: curve.value}, {self.name: self.all_classes(classes)}, curve)


def psd_roc(
    frames, events, durations, criteria, max_efpr: float = 100.0, num_jobs=1
) -> tuple[PsdRoc, dict[str, float]]:
    """PSD-ROC and the PSDS of every class alone, from sed_scores_eval.

    Args:
        frames: clip id -> score data frame.
        events: clip id -> true events, without overlaps in a class.
        durations: seconds by clip id.
        criteria: :data:`PSDS1` or :data:`PSDS2`.
        max_efpr: effective false positives per hour at which the area ends.
        num_jobs: processes.
    """
    from sed_scores_eval import intersection_based

    value, classes, (etpr, efpr), curves = intersection_based.psds(
        frames, events, durations, **criteria, max_efpr=max_efpr, num_jobs=num_jobs
    )
    curve = PsdRoc(float(value), efpr, etpr, {label: (c[1], c[0]) for label, c in curves.items()}, max_efpr)
    return curve, {label: float(area) for label, area in classes.items()}


class EventF1(EventMetric):
    """Macro F1 of the events above one threshold.

    Args:
        criterion: what is counted: events found by "collar" (onset and offset within 200 ms, the offset within 20 % of
            a long event [Mesaros et al., 2016]) or by "intersection" (half of each is covered), or active "segment"s
            of 1 s.
        threshold: strictly above it is a detection.
        skip_missed: classes of which nothing is found leave the mean instead of counting as 0, as in psds_eval.
    """

    def __init__(
        self, scores, reference, name, criterion="collar", threshold: float = 0.5, skip_missed=False, num_jobs=1
    ):
        super().__init__(scores, reference, name, num_jobs)
        self.criterion, self.threshold, self.skip_missed = criterion, threshold, skip_missed

    def compare(self, table, match):
        import sed_scores_eval

        fscore, criteria = {
            "collar": (sed_scores_eval.collar_based.fscore, COLLAR),
            "intersection": (sed_scores_eval.intersection_based.fscore, INTERSECTION),
            "segment": (sed_scores_eval.segment_based.fscore, {**SEGMENT, "audio_durations": match.durations}),
        }[self.criterion]
        # Two levels, detected or not, spare the library all other thresholds.
        frames = replace(table, scores=(table.scores > self.threshold).astype(np.float64)).data_frames()
        scores = fscore(frames, match.events, threshold=0.5, **criteria, num_jobs=self.num_jobs)[0]
        classes = {label: float(scores[label]) for label in match.labels}
        counted = [value for value in classes.values() if value > 0 or not self.skip_missed]
        return Outcome({self.name: float(np.mean(counted)) if counted else 0.0}, {self.name: self.all_classes(classes)})


def roc_area(tpr: np.ndarray, fpr: np.ndarray, max_fpr: float = 1.0) -> float:
    """Area below an ROC up to a false positive rate, divided by it; linear between operating points.

    The areas of sed_scores_eval 0.0.4 depend on the processor: it takes a staircase, after a sort that shuffles points
    of equal false positive rate. Its successor, with which the challenge was scored, interpolates as done here.

    Args:
        tpr, fpr: operating points in any order; nan where there is no negative, and then the area is nan.
    """
    if np.isnan(fpr).any():
        return np.nan
    order = np.lexsort((tpr, fpr))
    fpr, tpr = fpr[order], tpr[order]
    inside = fpr <= max_fpr
    x = np.append(fpr[inside], max_fpr)
    y = np.append(tpr[inside], np.interp(max_fpr, fpr, tpr))
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / max_fpr)


class SegmentAuc(EventMetric):
    """Segment-based area below the ROC, partial area, and best F1, macro-averaged over classes.

    Values: ``segment_f1_macro_thresopt`` (the best threshold of each class), ``segment_mauc``, ``segment_mpauc`` (false
    positive rate up to ``max_fpr``).

    Args:
        name: suffix of the names.
        per_file: average the scores of overlapping clips in segments of their file and evaluate files, instead of the
            largest frame score of each segment of each clip.
        segment_length: seconds.
    """

    def __init__(
        self, scores, reference, name="", per_file=False, segment_length: float = 1.0, max_fpr: float = 0.1, num_jobs=1
    ):
        super().__init__(scores, reference, name, num_jobs)
        self.per_file, self.segment_length, self.max_fpr = per_file, segment_length, max_fpr

    def compare(self, table, match):
        from sed_scores_eval import segment_based
        from sed_scores_eval.segment_based.intermediate_statistics import intermediate_statistics_deltas

        if self.per_file:
            frames, events, durations = self._files(table, match)
        else:
            frames, events, durations = table.data_frames(), match.events, match.durations
        length = {"segment_length": self.segment_length}
        deltas = intermediate_statistics_deltas(frames, events, durations, **length, num_jobs=self.num_jobs)
        given = {"scores": None, "ground_truth": events, "audio_durations": durations, "deltas": deltas, **length}
        with np.errstate(divide="ignore", invalid="ignore"):  # no false alarm is possible in a class that never ends
            best, curves = segment_based.best_fscore(**given)[0], segment_based.roc_curve(**given)
        classes = {
            "segment_f1_macro_thresopt": {label: best[label] for label in table.labels},
            "segment_mauc": {label: roc_area(*curve[:2]) for label, curve in curves.items()},
            "segment_mpauc": {label: roc_area(*curve[:2], self.max_fpr) for label, curve in curves.items()},
        }
        means = {name: [value for value in values.values() if np.isfinite(value)] for name, values in classes.items()}
        return Outcome(
            {name + self.name: float(np.mean(values)) for name, values in means.items() if values},
            {name + self.name: self.all_classes(values) for name, values in classes.items()},
        )

    def _files(self, table, match):
        durations = file_durations(match.clips, self.reference.durations)
        segments = file_segment_scores(table, durations, self.segment_length)
        frames = {file: score_frame(*scores, table.labels) for file, scores in segments.items()}
        return frames, events_of_files(match.events), durations


class WeakF1(Evaluator):
    """Macro F1 of clip labels.

    As published, the mean is over all classes of the predictions and a class without any true or predicted clip
    counts as 0, so the weak DESED set, which has 10 of the 27 classes, cannot reach 1.

    Args:
        threshold: strictly above it is a detection.
    """

    def __init__(self, scores: ClipScores, labels: Sequence[str], name: str, threshold: float = 0.5):
        super().__init__(scores)
        self.labels, self.name, self.threshold = labels, name, threshold

    def evaluate(self):
        _, (predicted, true) = self.collector.stacked()
        predicted, true = predicted > self.threshold, true > 0.5
        f1 = 2 * (predicted & true).sum(0) / np.maximum(predicted.sum(0) + true.sum(0), 1)
        classes = np.where(true.any(0), f1, np.nan).tolist()
        return Outcome({self.name: float(np.mean(f1))}, {self.name: dict(zip(self.labels, classes))})


class MeanLoss(Evaluator):
    """Mean over clips of a loss."""

    higher_is_better = False

    def __init__(self, losses: ClipLosses, name: str):
        super().__init__(losses)
        self.name = name

    def evaluate(self):
        return Outcome({self.name: float(np.mean(self.collector.stacked()[1][0]))})
