"""Counts of one class at all decision thresholds, and the curves and scores that follow from them.

What changes below a threshold is kept clip by clip. A bootstrap over clips can thus weigh the same counts anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from helpers.candidates import Truth
from helpers.metrics import PsdRoc, roc_area

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, eq=False)
class Counts:
    """True and false positives of one class.

    In all methods, ``weights`` [clips] say how often each clip counts; each counts once when they are None.

    Attributes:
        threshold: [N] descending; row i adds to the counts of all thresholds below ``threshold[i]``.
        clip: [N] rows of the list of clips.
        tp, fp: [N] integers.
        positives: [clips] true events (or segments).
    """

    threshold: np.ndarray
    clip: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    positives: np.ndarray

    def at_thresholds(self, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """inf and all scores below which something changes, descending, with the true and false positives there."""
        scores, totals = self._totals(*self._weighted(weights, self.tp, self.fp))
        return scores, *totals

    def f1(self, threshold: float, weights=None) -> float:
        """F1 of one threshold; nan without a true event."""
        tp, fp = (change[self.threshold > threshold].sum() for change in self._weighted(weights, self.tp, self.fp))
        return float(self._f1(tp, fp, weights))

    def best_f1(self, weights=None) -> tuple[float, float]:
        """The largest F1, and the highest threshold with it, halfway to the next lower one; nan without a true event.

        The threshold is inf if nothing is ever found, -inf if it is best to detect all there is.
        """
        scores, tp, fp = self.at_thresholds(weights)
        f1 = self._f1(tp, fp, weights)
        if np.isnan(f1[0]):
            return np.nan, np.nan
        best = int(f1.argmax())
        threshold = (scores[best] + np.append(scores, -np.inf)[best + 1]) / 2 if best else np.inf
        return float(f1[best]), float(threshold)

    def _totals(self, *changes):
        ends = np.flatnonzero(np.append(self.threshold[1:] != self.threshold[:-1], True)[: len(self.threshold)])
        return np.append(np.inf, self.threshold[ends]), [np.append(0, np.cumsum(change)[ends]) for change in changes]

    def _weighted(self, weights, *rows):
        if weights is None:
            return rows
        weights = np.asarray(weights)[self.clip]
        return [row * weights for row in rows]

    def _f1(self, tp, fp, weights):
        positives = total(self.positives, weights)
        if not positives:
            return tp * np.nan
        precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 1.0)
        recall = tp / positives
        return 2 * precision * recall / np.maximum(precision + recall, 1e-15)


@dataclass(frozen=True, eq=False)
class SegmentCounts(Counts):
    """Active segments of one class.

    Attributes:
        negatives: [clips] segments without an event of the class.
    """

    negatives: np.ndarray

    def auc(self, max_fpr: float = 1.0, weights=None) -> float:
        """Area below the ROC up to a false positive rate (:func:`helpers.metrics.roc_area`).

        nan without an active or without an inactive segment.
        """
        positives, negatives = total(self.positives, weights), total(self.negatives, weights)
        if not positives or not negatives:
            return np.nan
        _, tp, fp = self.at_thresholds(weights)
        return roc_area(tp / positives, fp / negatives, max_fpr)


@dataclass(frozen=True, eq=False)
class PsdCounts(Counts):
    """Counts with the intersection criteria, from which the PSD-ROC of the class follows.

    Attributes:
        other: [N] which class the false positives of row i are mistaken for, see ``triggers``.
        triggers: [N] cross triggers, integers.
        truth: the true events.
        label: the class.
        alpha_ct: weight of the mean cross trigger rate in the effective false positive rate.
    """

    other: np.ndarray
    triggers: np.ndarray
    truth: Truth
    label: str
    alpha_ct: float

    def roc(self, weights=None, max_efpr: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
        """Effective false positives per hour, ascending, and the largest true positive rate there.

        Where the latter rises, up to ``max_efpr``; from 0 on, with a staircase in between. One nan without a true
        event.
        """
        positives = total(self.positives, weights)
        if not positives:
            return np.zeros(1), np.full(1, np.nan)
        rows = [self.tp, self.fp]
        if self.alpha_ct:
            rows.append(self.triggers * self._cost_of_triggers(weights)[self.other])
        _, (tp, fp, *cost) = self._totals(*self._weighted(weights, *rows))
        rate = fp / total(self.truth.durations, weights)
        if cost:
            rate = rate + np.maximum(cost[0], 0.0)  # a sum that should be 0 may end just below it
        return rising(rate * SECONDS_PER_HOUR, tp / positives, max_efpr)

    def _cost_of_triggers(self, weights):
        """[labels] what one cross trigger adds to the effective false positive rate (1/s)."""
        seconds = self.truth.seconds(weights)
        others = self.truth.counts(weights) > 0
        others[self.truth.position(self.label)] = False
        return np.where(others, self.alpha_ct / np.maximum(seconds * others.sum(), 1e-12), 0.0)

    def psds(self, weights=None, max_efpr: float = 100.0) -> float:
        """The area below the PSD-ROC of this class alone, divided by ``max_efpr``; nan without a true event."""
        return staircase_area(*self.roc(weights, max_efpr), max_efpr)


def total(of_clips: np.ndarray, weights=None) -> float:
    """The sum over clips, each counted as often as its weight says."""
    return of_clips.sum() if weights is None else of_clips @ np.asarray(weights)


def rising(rate: np.ndarray, tpr: np.ndarray, max_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve, given in any order, at which no other with as low a rate has as high a ``tpr``."""
    inside = rate <= max_rate
    rate, tpr = rate[inside], tpr[inside]
    order = np.lexsort((-tpr, rate))
    rate, tpr = rate[order], tpr[order]
    best = np.maximum.accumulate(tpr)
    rises = np.append(True, best[1:] > best[:-1])
    return rate[rises], tpr[rises]


def staircase_area(rate: np.ndarray, tpr: np.ndarray, max_rate: float) -> float:
    """Area below a staircase up to ``max_rate``, divided by it."""
    return float(tpr @ np.diff(rate, append=max_rate) / max_rate)


def macro_roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], alpha_st: float = 0.0, max_efpr: float = 100.0, points=8192
) -> PsdRoc:
    """PSD-ROC over classes: mean of the true positive rates minus ``alpha_st`` standard deviations, at least 0.

    Args:
        curves: class -> :meth:`PsdCounts.roc`; classes without a true event (nan) are left out.
        points: evaluated at once, to bound the memory for hundreds of classes.
    """
    curves = {label: curve for label, curve in curves.items() if not np.isnan(curve[1][0])}
    if not curves:
        return PsdRoc(np.nan, np.array([0.0, max_efpr]), np.full(2, np.nan), {}, max_efpr)
    efpr = np.unique(np.concatenate([rate for rate, _ in curves.values()]))
    etpr = []
    for part in np.array_split(efpr, -(-len(efpr) // points)):
        rates = np.stack([tpr[np.searchsorted(rate, part, side="right") - 1] for rate, tpr in curves.values()])
        etpr.append(np.maximum(rates.mean(0) - alpha_st * rates.std(0), 0.0))
    etpr = np.concatenate(etpr)
    value = staircase_area(efpr, etpr, max_efpr)
    return PsdRoc(value, np.append(efpr, max_efpr), np.append(etpr, etpr[-1]), curves, max_efpr)
