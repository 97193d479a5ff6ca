"""Evaluation of stored predictions: bounding boxes for DESED classes, segments for MAESTRO, values with intervals.

Frame scores of the DESED classes become sound event bounding boxes, whose parameters are tuned on one set
[Ebbers et al., Interspeech 2024]; the MAESTRO classes, which are annotated per second, become one score per second.
Intervals are those of a bootstrap over clips (MAESTRO: recordings): the percentiles of the metric over resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from helpers import fast_metrics
from helpers.boxes import Boxes, Parameters, detect, join, segment_boxes
from helpers.candidates import Truth
from helpers.collectors import FrameScores, Match, Reference
from helpers.evaluation_report import LIBRARY, OURS, Row
from helpers.intersections import psd_counts
from helpers.metrics import PSDS1, PSDS2, PsdRoc, SegmentAuc, psd_roc
from helpers.operating_points import macro_roc
from helpers.score_blocks import each_class
from helpers.scores import ScoreTable, events_of_files, file_durations
from helpers.segments import file_segment_counts

COVERAGE = (2.5, 97.5)  # percentiles of an interval
LIBRARY_CELLS = 4e7  # scores that sed_scores_eval still evaluates within some minutes
MAX_FPR = 0.1  # of mpAUC
CRITERIA = {"psds1": PSDS1, "psds2": PSDS2}


@dataclass(frozen=True)
class Bootstrap:
    """Intervals of metrics.

    Attributes:
        resamples: how many; 0 gives no interval.
        seed: of the draws.
    """

    resamples: int = 200
    seed: int = 0

    def interval(self, statistic: Callable[[np.ndarray], float], units: int) -> tuple[float, float]:
        """95 % interval of a metric.

        Args:
            statistic: [units] multiplicities of the clips -> value.
            units: number of clips.
        """
        if not (self.resamples and units):
            return np.nan, np.nan
        rng = np.random.default_rng(self.seed)
        draws = rng.multinomial(units, np.full(units, 1 / units), size=self.resamples)
        values = np.array([statistic(weights) for weights in draws])
        values = values[np.isfinite(values)]  # a resample may have no event at all
        return tuple(np.percentile(values, COVERAGE)) if values.size else (np.nan, np.nan)


@dataclass(frozen=True)
class Labelled:
    """Predictions of a data set beside its true events.

    Attributes:
        name: of the data set.
        table: scores of the clips that count, all classes.
        match: their events of the evaluated classes.
        truth: the same as arrays.
    """

    name: str
    table: ScoreTable
    match: Match
    truth: Truth

    @classmethod
    def of(cls, table: ScoreTable, reference: Reference) -> "Labelled":
        """Brings predictions and truth together.

        Raises:
            ValueError: clips without predictions or without truth, or no clip with an event.
        """
        require_same_clips(table.clips, reference)
        reference.require_durations()
        match = reference.match(table.clips)
        if not match.labels:
            raise ValueError(f"{reference.name}: no clip has a true event of {', '.join(reference.labels)}")
        reference.report(match)
        truth = Truth.of(match.events, match.durations, match.clips, match.labels)
        return cls(reference.name, table.select(match.clips), match, truth)


def require_same_clips(clips: Sequence[str], reference: Reference):
    """Raises ValueError where clips have predictions but no truth, or the reverse."""
    predicted, true = set(clips), set(reference.events)
    for some, others, lack in ((true, predicted, "predictions"), (predicted, true, "ground truth")):
        absent = sorted(some - others)
        if absent:
            raise ValueError(
                f"{reference.name}: {len(absent)} of {len(some)} clips have no {lack}, first '{absent[0]}'"
            )


def post_process(table: ScoreTable, parameters: Parameters, desed: Sequence[str], maestro: Sequence[str]) -> Boxes:
    """Bounding boxes of the DESED classes and one-second segments of the MAESTRO classes, classes as in the table."""
    boxes, segments = detect(table.select(labels=desed), parameters), segment_boxes(table.select(labels=maestro))
    return join(boxes, segments, labels=table.labels)


@dataclass(frozen=True)
class Compared:
    """Metrics before and after post-processing.

    Attributes:
        rows: values.
        curves: "cSEBBs" and "raw" -> PSD-ROC of PSDS1.
        per_class: metric -> label -> value.
        intervals: "raw" and "cSEBBs" -> label -> interval of PSDS1.
    """

    rows: list[Row]
    curves: Mapping[str, PsdRoc]
    per_class: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]

    @property
    def psds1(self) -> dict[str, Mapping[str, float]]:
        """ "raw" and "cSEBBs" -> label -> PSDS1."""
        return {"raw": self.per_class["psds1"], "cSEBBs": self.per_class["psds1_csebbs"]}


def evaluate_desed(labelled: Labelled, boxes: Boxes, labels: Sequence[str], bootstrap: Bootstrap) -> Compared:
    """PSDS1 and PSDS2 of the raw scores and of the boxes.

    Args:
        labelled: the data set.
        boxes: of its clips.
        labels: all classes; those without an event are nan.
        bootstrap: of the intervals.
    """
    match, truth = labelled.match, labelled.truth
    table = labelled.table.select(labels=match.labels)
    boxes = boxes.select(match.clips, match.labels)
    rows, curves, per_class, intervals = [], {}, {}, {}
    for metric, criteria in CRITERIA.items():
        for system, name, scores in (("raw", metric, table), ("cSEBBs", f"{metric}_csebbs", boxes)):
            roc, by_class, computed_by = _psds(scores, match, truth, criteria)
            counts = _psd_counts(scores, truth, criteria)
            alpha_st = criteria["alpha_st"]

            def value(weights, counts=counts, alpha_st=alpha_st):
                return macro_roc({label: count.roc(weights) for label, count in counts.items()}, alpha_st).value

            rows.append(Row(labelled.name, name, roc.value, *bootstrap.interval(value, len(truth.clips)), computed_by))
            per_class[name] = {label: by_class.get(label, np.nan) for label in labels}
            if metric == "psds1":
                curves[system] = roc
                intervals[system] = {
                    label: bootstrap.interval(count.psds, len(truth.clips)) for label, count in counts.items()
                }
    return Compared(rows, dict(reversed(curves.items())), per_class, intervals)


def _psds(scores, match, truth, criteria):
    """PSD-ROC, values by class, and by whom they were computed."""
    if isinstance(scores, ScoreTable):
        small, frames = scores.scores.size <= LIBRARY_CELLS, scores.data_frames
    else:
        # Not detected where there is no box: below the lowest score a clip would become one detection.
        small = len(scores.score) * len(match.labels) <= LIBRARY_CELLS
        frames = partial(scores.score_frames, background=-np.inf)
    if small:
        return *psd_roc(frames(), match.events, match.durations, criteria), LIBRARY
    if isinstance(scores, ScoreTable):
        roc = fast_metrics.psds_of_scores(scores, truth, criteria)
    else:
        roc = fast_metrics.psds(scores.of, truth, criteria)
    return roc, fast_metrics.class_psds(roc, match.labels), OURS


def _psd_counts(scores, truth, criteria):
    """Counts of every class, which a bootstrap weighs anew."""
    if isinstance(scores, ScoreTable):

        def counts(label, of_class):
            return fast_metrics.psd_counts_of_scores(of_class, scores.timestamps, truth, label, criteria)

        return each_class(counts, scores, truth)
    return {label: psd_counts(scores.of(label), truth, label, criteria) for label in truth.labels}


def evaluate_maestro(table: ScoreTable, boxes: Boxes, reference: Reference, bootstrap: Bootstrap):
    """mpAUC of one-second segments of whole recordings, from the raw scores and from the post-processed ones.

    Both are the same: a class keeps its mean score of every second.

    Returns:
        rows, and metric -> label -> value.

    Raises:
        ValueError: clips without predictions or without truth, or no clip with an event.
    """
    labels = tuple(reference.labels)
    require_same_clips(table.clips, reference)
    rows, per_class = [], {}
    for name, scores in (("mpAUC", table.select(labels=labels)), ("mpAUC_csebbs", segment_table(boxes, labels))):
        collector = FrameScores(labels, scores.timestamps)
        collector.add(scores.clips, scores.scores)
        outcome = SegmentAuc(collector, reference, per_file=True).outcome()
        if "segment_mpauc" not in outcome.values:
            raise ValueError(f"{reference.name}: no clip has a true event of {', '.join(labels)}")
        interval = _mpauc_interval(scores, reference, bootstrap)
        rows.append(Row(reference.name, name, outcome.values["segment_mpauc"], *interval))
        per_class[name] = outcome.classes["segment_mpauc"]
    return rows, per_class


def _mpauc_interval(scores, reference, bootstrap):
    """Interval over recordings."""
    match = reference.match(scores.clips)
    durations = file_durations(match.clips, reference.durations)
    truth = Truth.of(events_of_files(match.events), durations, list(durations), match.labels)
    counts = file_segment_counts(scores.select(match.clips, match.labels), truth)

    def value(weights):
        return float(np.nanmean([count.auc(MAX_FPR, weights) for count in counts.values()]))

    return bootstrap.interval(value, len(truth.clips))


def segment_table(boxes: Boxes, labels: Sequence[str]) -> ScoreTable:
    """Classes that have one box per segment, as a table of scores."""
    frames = boxes.select(boxes.clips, labels).score_frames()
    first = next(iter(frames.values()))
    edges = np.append(first["onset"], first["offset"].iloc[-1])
    scores = np.stack([np.asarray(frame[list(labels)]) for frame in frames.values()])
    return ScoreTable(tuple(frames), scores, edges, tuple(labels))
