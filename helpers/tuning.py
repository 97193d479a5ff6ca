"""Choice of the parameters of bounding boxes on clips with known events, by class or in common, over a grid.

The published system chooses on the clips that it then reports (``tune``), which flatters it; ``cross_validated``
predicts every clip with parameters chosen on others.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from helpers.boxes import Boxes, Parameters, detect, join, require_numbers
from helpers.candidates import Candidates, Truth
from helpers.change_detection import find_segments, merge_segments
from helpers.collars import collar_counts
from helpers.intersections import psd_counts
from helpers.metrics import COLLAR, PSDS1, PSDS2
from helpers.scores import Events, ScoreTable

log = logging.getLogger(__name__)

TOLERANCE = 1e-9  # values that differ by less are equal but for rounding


@dataclass(frozen=True)
class Grid:
    """Parameters to try, by default those of the published system.

    Attributes:
        step_filter_lengths: seconds.
        merge_thresholds_abs, merge_thresholds_rel: each is tried with the other criterion switched off.
    """

    step_filter_lengths: Sequence[float] = (0.38, 0.42, 0.46, 0.5, 0.54, 0.58, 0.62, 0.66)
    merge_thresholds_abs: Sequence[float] = (0.15, 0.175, 0.2, 0.225, 0.25, 0.275, 0.3, 0.325)
    merge_thresholds_rel: Sequence[float] = (1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25)

    def __post_init__(self):
        if not len(self.step_filter_lengths) or not self.thresholds:
            raise ValueError("the grid needs a step filter length and a merge threshold")
        if min(self.step_filter_lengths) <= 0:
            raise ValueError(f"step filter lengths need positive seconds, got {list(self.step_filter_lengths)}")

    @property
    def thresholds(self) -> list[tuple[float, float]]:
        """Pairs of absolute and relative threshold."""
        absolute = [(value, np.inf) for value in self.merge_thresholds_abs]
        return absolute + [(np.inf, value) for value in self.merge_thresholds_rel]


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Attributes:
        parameters: with mappings from the class.
        values: class -> objective with them on the clips they were chosen on; nan for a class without an event there.
        missing: classes without an event, which took what is best for the others together.
    """

    parameters: Parameters
    values: Mapping[str, float]
    missing: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """Mean over the classes with an event."""
        return float(np.nanmean(list(self.values.values())))


# Of one class: how detections are counted, and what their counts are worth if each clip counts as often as its weight.
OBJECTIVES = {
    "psds1": (partial(psd_counts, criteria=PSDS1), lambda counts, weights: counts.psds(weights)),
    "psds2": (partial(psd_counts, criteria=PSDS2), lambda counts, weights: counts.psds(weights)),
    "collar_f1": (partial(collar_counts, criteria=COLLAR), lambda counts, weights: counts.best_f1(weights)[0]),
}


def tune(
    table: ScoreTable,
    events: Events,
    durations: Mapping[str, float],
    grid: Grid | None = None,
    classwise: bool = True,
    objective: str = "psds1",
) -> Tuned:
    """The best parameters for these clips.

    Of equally good ones the first is taken, in the order of the filter lengths, then of the thresholds. A class without
    a true event takes what is best for the others together, and one warning names all such classes.

    Args:
        table: raw scores.
        events: true events of these clips and classes; a clip that is not among them has none.
        durations: seconds by clip id.
        grid: what to try; :class:`Grid` when None.
        classwise: choose for each class, instead of one choice with the best mean over classes.
        objective: "psds1" or "psds2" of each class alone, or "collar_f1" at the best decision threshold of each class.

    Raises:
        ValueError: an unknown objective, scores that are no numbers, no true event at all, or events that do not fit
            the clips (:meth:`helpers.candidates.Truth.of`).
    """
    grid = grid or Grid()
    truth = Truth.of(events, durations, table.clips, table.labels)
    (tuned,) = _tuned(table, truth, grid, classwise, objective, [None])
    if tuned.missing:
        log.warning("tuning: no true event of %s, the best common choice is taken", ", ".join(tuned.missing))
    return tuned


def cross_validated(
    table: ScoreTable,
    events: Events,
    durations: Mapping[str, float],
    grid: Grid | None = None,
    folds: int = 5,
    seed: int = 0,
    classwise: bool = True,
    objective: str = "psds1",
) -> tuple[Boxes, list[Tuned]]:
    """Boxes of every clip with parameters chosen on the clips of the other folds.

    Args:
        folds: parts into which the clips are split, see :func:`folds_of`.
        seed: of the split.
        table, events, durations, grid, classwise, objective: as for :func:`tune`.

    Returns:
        the boxes, and what was chosen for each fold.

    Raises:
        ValueError: as for :func:`tune`, or fewer than two clips per fold.
    """
    grid = grid or Grid()
    fold = folds_of(table.clips, folds, seed)
    truth = Truth.of(events, durations, table.clips, table.labels)
    chosen = _tuned(table, truth, grid, classwise, objective, [(fold != i).astype(int) for i in range(folds)])
    missing = [label for label in table.labels if any(label in tuned.missing for tuned in chosen)]
    if missing:
        log.warning("tuning: folds leave no true event of %s, the best common choice is taken", ", ".join(missing))
    clips = np.array(table.clips, dtype=object)
    parts = [detect(table.select(clips[fold == i]), tuned.parameters) for i, tuned in enumerate(chosen)]
    return join(*parts, clips=table.clips), chosen


def folds_of(clips: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """[clips] the fold of each clip: folds of equal size (by one clip at most), the same in whatever order clips come.

    Raises:
        ValueError: fewer than two folds, or more than clips.
    """
    if not 2 <= folds <= len(clips):
        raise ValueError(f"{len(clips)} clips cannot be split into {folds} folds, expected 2 to {len(clips)}")
    fold = np.empty(len(clips), dtype=int)
    by_name = np.argsort(np.array(clips, dtype=str), kind="stable")
    fold[by_name] = np.random.default_rng(seed).permutation(len(clips)) % folds
    return fold


def _tuned(table, truth, grid, classwise, objective, weights) -> list[Tuned]:
    """The choice for each weighting of the clips."""
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective '{objective}', expected one of {', '.join(OBJECTIVES)}")
    require_numbers(table)
    values = _evaluate(table, truth, grid, objective, weights)
    return [_choose(of_weighting, table.labels, grid, classwise) for of_weighting in values]


def _evaluate(table, truth, grid, objective, weights):
    """[weightings, classes, lengths * thresholds] objective; nan for classes without an event."""
    count, value = OBJECTIVES[objective]
    values = np.empty((len(weights), len(table.labels), len(grid.step_filter_lengths), len(grid.thresholds)))
    for k, label in enumerate(table.labels):
        for i, length in enumerate(grid.step_filter_lengths):
            segments = find_segments(table.scores[:, :, k], table.timestamps, length)
            for j, thresholds in enumerate(grid.thresholds):
                clip, onset, offset, score = merge_segments(segments, *thresholds)
                counts = count(Candidates(clip, onset, offset, score, np.full(len(score), -np.inf)), truth, label)
                values[:, k, i, j] = [value(counts, weight) for weight in weights]
    return values.reshape(*values.shape[:2], -1)


def _choose(values, labels, grid, classwise):
    present = ~np.isnan(values).any(axis=1)
    if not present.any():
        raise ValueError(f"no true event of any class to tune on (classes: {', '.join(labels)})")
    common = _first_best(values[present].mean(axis=0))
    chosen = [_first_best(row) if classwise and there else common for row, there in zip(values, present)]
    lengths, thresholds = np.unravel_index(chosen, (len(grid.step_filter_lengths), len(grid.thresholds)))
    absolute, relative = zip(*(grid.thresholds[j] for j in thresholds))
    parameters = [[float(grid.step_filter_lengths[i]) for i in lengths], map(float, absolute), map(float, relative)]
    return Tuned(
        Parameters(*(dict(zip(labels, column)) for column in parameters)),
        {label: float(row[j]) for label, row, j in zip(labels, values, chosen)},
        tuple(label for label, there in zip(labels, present) if not there),
    )


def _first_best(values):
    return int(np.argmax(values >= values.max() - TOLERANCE))
