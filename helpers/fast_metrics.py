"""PSDS and event F1 on arrays, for hundreds of classes and tens of thousands of clips.

The values are those of sed_scores_eval 0.0.4. A class without a true event has the value nan and is left out of the
means. Scores are read in blocks of classes and may lie in a memory map or an HDF5 data set.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from helpers.candidates import Candidates, Truth, candidates_of_scores, changes_of_scores
from helpers.collars import collar_counts, collar_counts_of_parts
from helpers.intersections import psd_counts, psd_counts_of_parts
from helpers.metrics import COLLAR, INTERSECTION, PSDS1, PsdRoc
from helpers.operating_points import SECONDS_PER_HOUR, Counts, PsdCounts, macro_roc, staircase_area
from helpers.score_blocks import each_class, mapping, peaks
from helpers.scores import ScoreTable

PART_FRAMES = 2**16  # compared with events at once


def psds(
    candidates_of: Callable[[str], Candidates] | Mapping[str, Candidates],
    truth: Truth,
    criteria: Mapping = PSDS1,
    max_efpr: float = 100.0,
    weights=None,
    jobs: int = 1,
) -> PsdRoc:
    """Polyphonic sound detection score over all classes [Bilen et al., ICASSP 2020].

    Args:
        candidates_of: class -> what is detected of it.
        truth: the true events.
        criteria: :data:`helpers.metrics.PSDS1` or :data:`helpers.metrics.PSDS2`.
        max_efpr: effective false positives per hour at which the area ends.
        weights: [clips] how often each clip counts.
        jobs: threads, each with a class of its own.
    """
    weights = truth.weights(weights)
    find = candidates_of if callable(candidates_of) else candidates_of.__getitem__

    def curve(label):
        return psd_counts(find(label), truth, label, criteria).roc(weights, max_efpr)

    with mapping(jobs) as run:
        curves = dict(zip(truth.labels, run(curve, truth.labels)))
    return macro_roc(curves, criteria.get("alpha_st", 0.0), max_efpr)


def psds_of_scores(
    table: ScoreTable,
    truth: Truth,
    criteria: Mapping = PSDS1,
    max_efpr: float = 100.0,
    weights=None,
    jobs: int = 1,
) -> PsdRoc:
    """:func:`psds` of frame scores.

    Args:
        table: scores of all clips and classes of the truth, and possibly of others. Its ``scores`` can be anything
            that is indexed as [clips, frames, classes].

    Raises:
        ValueError: a clip or class without scores, or scores that are no numbers.
    """

    def curve(label, scores):
        counts = psd_counts_of_scores(scores, table.timestamps, truth, label, criteria, max_efpr, weights)
        return counts.roc(weights, max_efpr)

    return macro_roc(each_class(curve, table, truth, jobs), criteria.get("alpha_st", 0.0), max_efpr)


def class_psds(roc: PsdRoc, labels) -> dict[str, float]:
    """The area below the curve of each class alone; nan for those without one."""
    areas = {label: staircase_area(*curve, roc.max_efpr) for label, curve in roc.classes.items()}
    return {label: areas.get(label, np.nan) for label in labels}


def psd_counts_of_scores(
    scores, timestamps, truth: Truth, label: str, criteria: Mapping, max_efpr: float = np.inf, weights=None
) -> PsdCounts:
    """:func:`helpers.intersections.psd_counts` of the frame scores of a class.

    Args:
        scores: [clips, frames].
        timestamps: [frames + 1] seconds.
        max_efpr: the curve is wanted up to here, and only with these ``weights``: thresholds so low that they have
            more false positives, whatever they find, are left out.

    Raises:
        ValueError: scores that are no numbers.
    """
    peak = peaks(scores, truth, label)
    events = truth.of_label(label)
    silent = np.bincount(events.clip, minlength=len(truth.clips)) == 0
    # In a clip without the class all that is detected is wrong, and something is once the threshold is below the peak.
    order = np.flatnonzero(silent)[np.argsort(-peak[silent])]
    weights = truth.weights(weights)
    rate = np.cumsum(weights[order]) / (weights @ truth.durations) * SECONDS_PER_HOUR
    beyond = order[rate > max_efpr]
    floor = peak[beyond[0]] if len(beyond) else -np.inf
    if criteria.get("alpha_ct"):
        silent = np.bincount(truth.clip, minlength=len(truth.clips)) == 0
    return _counts(psd_counts_of_parts, scores, timestamps, truth, label, criteria, silent, peak, floor)


def collar_counts_of_scores(scores, timestamps, truth: Truth, label: str, criteria: Mapping = COLLAR) -> Counts:
    """:func:`helpers.collars.collar_counts` of the frame scores of a class, [clips, frames].

    Raises:
        ValueError: scores that are no numbers.
    """
    silent = np.bincount(truth.of_label(label).clip, minlength=len(truth.clips)) == 0
    peak = peaks(scores, truth, label)
    return _counts(collar_counts_of_parts, scores, timestamps, truth, label, criteria, silent, peak)


def _counts(count, scores, timestamps, truth, label, criteria, silent, peak, floor=-np.inf):
    """In silent clips detections are counted, in the others they are compared with events."""
    heard, silent = (np.flatnonzero(chosen & (peak > floor)) for chosen in (~silent, silent))
    clips = max(PART_FRAMES // max(scores.shape[1], 1), 1)
    parts = (heard[first : first + clips] for first in range(0, len(heard), clips))
    candidates = (candidates_of_scores(scores[part], timestamps, part, floor) for part in parts)
    return count(candidates, truth, label, criteria, changes_of_scores(scores[silent], silent, floor))


def collar_best_f1(
    candidates: Candidates, truth: Truth, label: str, criteria: Mapping = COLLAR, weights=None
) -> tuple[float, float]:
    """Best collar-based F1 of a class over all thresholds, and its threshold (:meth:`Counts.best_f1`)."""
    return collar_counts(candidates, truth, label, criteria).best_f1(weights)


def f1_of_scores(
    table: ScoreTable, truth: Truth, criterion: str = "collar", threshold: float | None = None, weights=None, jobs=1
) -> dict[str, tuple[float, float]]:
    """Event F1 of every class and the threshold it has it with: the given one, or else the best of the class.

    Args:
        table: as in :func:`psds_of_scores`.
        truth: the true events.
        criterion: events are found by "collar" or by "intersection" (half of each is covered).
        threshold: strictly above it is a detection.
        weights: [clips] how often each clip counts.
        jobs: threads.

    Raises:
        ValueError: a clip or class without scores, scores that are no numbers, or an unknown criterion.
    """
    counters = {
        "collar": partial(collar_counts_of_scores, criteria=COLLAR),
        "intersection": partial(psd_counts_of_scores, criteria=INTERSECTION),
    }
    if criterion not in counters:
        raise ValueError(f"no criterion '{criterion}', expected one of {', '.join(counters)}")

    weights = truth.weights(weights)

    def f1(label, scores):
        counts = counters[criterion](scores, table.timestamps, truth, label)
        return counts.best_f1(weights) if threshold is None else (counts.f1(threshold, weights), threshold)

    return each_class(f1, table, truth, jobs)
