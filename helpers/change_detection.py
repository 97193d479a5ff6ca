"""Change detection on score curves: candidates for sound event bounding boxes, and what they merge to.

The method of cSEBBs [Ebbers, Germain, Wichern, Le Roux, "Sound Event Bounding Boxes", Interspeech 2024, arXiv
2406.04212]: a step filter, mean of the half window ahead minus mean of the half window behind, runs over the
score curve. Candidates reach from each of its maxima to the following minimum. A gap between two candidates is closed
where its score does not fall far below theirs; the mean score of what has grown together is the confidence.

Everything is in continuous time: scores are constant within a frame and zero outside the clip, so the filtered curve is
linear between the frame boundaries and those shifted by half a window, and changes of direction lie there.
"""

from typing import NamedTuple

import numpy as np

DECIMALS = 6  # times are kept in microseconds, as in sed_scores_eval
# Two constants that the published results contain: one is added to the duration by which a mean is divided, the other
# to both scores whose ratio is compared with the relative threshold.
DURATION_FLOOR = 1e-6
SCORE_FLOOR = 1e-3
ROWS = 128  # curves filtered at a time: their arrays stay in the processor's cache


class Segments(NamedTuple):
    """Candidates before merging, ordered by row and time.

    Attributes:
        row: [N] which score curve.
        onset, offset: [N] seconds.
        area: [N, 2] integral of the curve up to onset and offset.
        drop: [N] how far the gap behind the candidate falls below the larger peak beside it; inf for the last of a row.
        ratio: [N] the larger peak over the smallest score of that gap; inf for the last of a row.
    """

    row: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    area: np.ndarray
    drop: np.ndarray
    ratio: np.ndarray


class _Grid:
    """Where the filtered curve can change its direction, and the frames that matter there.

    Attributes:
        times: [P] within the clip.
        first: [P] the frame that starts at or contains the time; ``stop`` that behind the one that ends at or
            contains it.
        width: [S] of the steps from half a window before the clip to its end; ``inside`` is the first that ends at
            or behind the beginning of the clip.
        behind, centre, ahead: [S] the frames at the ends and in the middle of the window during a step, counted from 1;
            0 and frames + 1 lie outside.
    """

    def __init__(self, timestamps, length):
        bounds = np.round(np.asarray(timestamps, dtype=np.float64), DECIMALS)
        half = length / 2
        times = np.unique(np.round(np.concatenate([bounds, bounds - half, bounds + half]), DECIMALS))
        times = times[(times >= np.round(bounds[0] - half, DECIMALS)) & (times <= bounds[-1])]
        middle = (times[1:] + times[:-1]) / 2
        self.width = np.diff(times)
        self.behind, self.centre, self.ahead = (np.searchsorted(bounds, middle + s) for s in (-half, 0.0, half))
        self.inside = int(np.searchsorted(times, bounds[0])) - 1
        self.times = times[self.inside + 1 :]
        self.first = np.searchsorted(bounds, self.times, side="right") - 1
        self.stop = np.searchsorted(bounds, self.times)
        self.bounds = bounds


def find_segments(scores: np.ndarray, timestamps: np.ndarray, length: float) -> Segments:
    """Candidates of score curves, from maxima of the filtered curve to minima.

    Args:
        scores: [rows, frames] finite, at least 0.
        timestamps: [frames + 1] frame boundaries in seconds.
        length: of the step filter in seconds.
    """
    grid = _Grid(timestamps, length)
    parts = [_segments(scores[start : start + ROWS], grid, start) for start in range(0, max(len(scores), 1), ROWS)]
    return Segments(*map(np.concatenate, zip(*parts)))


def _segments(scores, grid, first_row):
    scores = np.ascontiguousarray(scores, dtype=np.float64)
    row, point = np.nonzero(_turns(scores, grid))
    row, start, stop = row[::2], point[::2], point[1::2]
    # Each candidate is followed by the gap to the next, also across rows, which is undone below.
    frames = scores.shape[1]
    flat = np.append(scores.ravel(), [0.0, 0.0])
    begin, end = row * frames + grid.first[start], row * frames + grid.stop[stop]
    peak = np.maximum.reduceat(flat, np.stack([begin, end], axis=1).ravel())[::2]
    begin, end = (row * frames + grid.first[stop])[:-1], (row * frames + grid.stop[start])[1:]
    valley = np.minimum.reduceat(flat, np.stack([begin, end], axis=1).ravel())[::2]
    peak = np.maximum(peak[1:], peak[:-1])
    drop, ratio = np.full(len(row), np.inf), np.full(len(row), np.inf)
    within = np.flatnonzero(row[1:] == row[:-1])
    peak, valley = peak[within], valley[within]
    drop[within], ratio[within] = peak - valley, (peak + SCORE_FLOOR) / (valley + SCORE_FLOOR)

    area = np.cumsum(scores * np.diff(grid.bounds), axis=1)
    area = np.pad(area, ((0, 0), (1, 0)))
    points = np.stack([start, stop], axis=1)
    frame = np.minimum(grid.first[points], frames - 1)
    times = grid.times[points]
    area = area[row[:, None], frame] + scores[row[:, None], frame] * (times - grid.bounds[frame])
    return Segments(row + first_row, times[:, 0], times[:, 1], area, drop, ratio)


def _turns(scores, grid):
    """[rows, P] where the filtered curve changes its direction: maxima and minima in turn, as many of each.

    It rises before the clip and behind it. Where it stands still its direction counts as reversed: with the rounding
    of most other ways to compute it, it would move to and fro. Merging joins what this cuts in two.
    """
    padded = np.pad(scores, ((0, 0), (1, 1)))
    centre = padded[:, grid.centre]
    ahead = np.cumsum((padded[:, grid.ahead] - centre) * grid.width, axis=1)
    behind = np.cumsum((centre - padded[:, grid.behind]) * grid.width, axis=1)
    filtered = (ahead - behind)[:, grid.inside :]
    rising, flat = filtered[:, 1:] > filtered[:, :-1], filtered[:, 1:] == filtered[:, :-1]
    still = np.flatnonzero(flat.any(axis=1))
    if still.size:
        # The opposite of the last step with a direction, which is up before the clip.
        direction = np.pad(rising[still], ((0, 0), (1, 0)), constant_values=True)
        moving = np.pad(~flat[still], ((0, 0), (1, 0)), constant_values=True)
        last = np.maximum.accumulate(np.where(moving, np.arange(moving.shape[1]), 0), axis=1)
        before = np.take_along_axis(direction, last, axis=1)
        rising[still] = np.where(moving, direction, ~before)[:, 1:]
    rising = np.pad(rising, ((0, 0), (1, 1)), constant_values=True)
    return rising[:, 1:] != rising[:, :-1]


def merge_segments(segments: Segments, threshold_abs, threshold_rel) -> tuple[np.ndarray, ...]:
    """Closes gaps between candidates.

    Args:
        segments: the candidates.
        threshold_abs, threshold_rel: as in :class:`helpers.boxes.Parameters`.

    Returns:
        row, onset, offset, confidence of each box.
    """
    last = np.flatnonzero(~((segments.drop < threshold_abs) & (segments.ratio < threshold_rel)))
    first = np.append(0, last + 1)[: len(last)]
    onset, offset = segments.onset[first], segments.offset[last]
    score = (segments.area[last, 1] - segments.area[first, 0]) / (offset - onset + DURATION_FLOOR)
    kept = score > 0  # silence has no confidence
    return segments.row[first][kept], onset[kept], offset[kept], score[kept]
