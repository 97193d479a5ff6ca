"""From the logits of overlapping windows to sound events, block by block: memory for a window, not for a recording.

Blocks are arrays [frames, classes] that follow one another without a gap.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from helpers.scores import median_filter

DECIMALS = 6  # times of frames are whole microseconds


class Runs(NamedTuple):
    """Frames of one class, one behind the other, above a threshold; ordered by threshold, class and time.

    Attributes:
        threshold: [N] its number.
        label: [N] number of the class.
        start, stop: [N] first frame, and the one behind the last.
        frames: [N] how many are above the threshold: all, as long as no gap was closed.
        total, peak: [N] sum and maximum of the probabilities of these frames.
    """

    threshold: np.ndarray
    label: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    frames: np.ndarray
    total: np.ndarray
    peak: np.ndarray


def fade_weights(frames: int, hop: int) -> np.ndarray:
    """[frames] weights of a window's frames, before those of all windows at a frame are made to add up to one.

    They rise linearly from the border of the window, where the network knows one side of the sound only, over the part
    that the next window shares, and are one in the middle: ``min((distance + 1/2) / overlap, 1)`` with the distance in
    frames. Two windows that overlap by up to their half add up to one of themselves.

    Args:
        frames: of a window.
        hop: frames from one window to the next; ``frames`` of them: all weights are one.
    """
    distance = np.minimum(np.arange(frames), np.arange(frames)[::-1])
    return np.minimum((distance + 0.5) / max(frames - hop, 0.5), 1.0).astype(np.float32)


def cross_fade(windows: Iterable[np.ndarray], hop: int) -> Iterator[np.ndarray]:
    """The weighted mean of overlapping windows, with the weights of :func:`fade_weights`.

    It is meant for logits, which are linear in the last layer of a network, as the mean of an ensemble of taggers is:
    where one window has seen a sound whole and the other one its edge, the one that is certain decides. The
    mean of probabilities would be near one half.

    Args:
        windows: [classes, frames] each, every one ``hop`` frames behind the one before.
        hop: at most the frames of a window.

    Yields:
        blocks, float32: after every window the frames that no later one shares. Where the hop is a whole window, the
        values are those of the windows.
    """
    summed = weight = weights = None
    for window in windows:
        if summed is None:
            weights = fade_weights(window.shape[1], hop)[:, None]
            summed, weight = np.zeros(window.T.shape, np.float32), np.zeros_like(weights)
        else:
            yield summed[:hop] / weight[:hop]
            for held in (summed, weight):
                held[:-hop] = held[hop:].copy()
                held[-hop:] = 0
        summed += weights * window.T
        weight += weights
    if summed is not None:
        yield summed / weight


def running_median(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """:func:`helpers.scores.median_filter` over all blocks at once, with as many frames held back as it needs.

    Args:
        blocks: of any lengths.
        length: of the filter in frames.
    """
    behind = length // 2  # frames that the filter sees before its own; as many behind it, or one less if it is even
    ahead = length - behind - 1
    held, done = None, 0  # the frames still needed, and how many of them have been given out
    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        ready = len(held) - ahead
        if ready > done:
            yield _median(held, length)[done:ready]
            gone = max(ready - behind, 0)
            held, done = held[gone:], ready - gone
    if held is not None and len(held) > done:
        yield _median(held, length)[done:]


def _median(block, length):
    return median_filter(block, np.full(block.shape[1], length))


def find_runs(blocks: Iterable[np.ndarray], thresholds: Sequence[float]) -> Runs:
    """Frames strictly above thresholds.

    Args:
        blocks: probabilities.
        thresholds: of all classes.
    """
    parts, first = [], 0
    for block in blocks:
        for number, threshold in enumerate(thresholds):
            label, start, stop, total, peak = _runs(block, threshold)
            parts.append((np.full(len(label), number), label, start + first, stop + first, stop - start, total, peak))
        first += len(block)
    nothing = (*(np.zeros(0, int),) * 5, *(np.zeros(0),) * 2)
    runs = Runs(*map(np.concatenate, zip(nothing, *parts)))
    order = np.lexsort((runs.start, runs.label, runs.threshold))
    return close_gaps(Runs(*(column[order] for column in runs)), 1)  # those that a border between blocks has cut


def _runs(block, threshold):
    """Class, first frame, frame behind the last, sum and maximum of every run in a block."""
    frames = len(block)
    active = np.pad((block > threshold).T, ((0, 0), (1, 1)))
    label, start = np.nonzero(active[:, 1:] & ~active[:, :-1])
    stop = np.nonzero(active[:, :-1] & ~active[:, 1:])[1]
    flat = np.append(block.T.ravel(), 0).astype(np.float64)
    borders = np.stack([label * frames + start, label * frames + stop], axis=1).ravel()
    return label, start, stop, np.add.reduceat(flat, borders)[::2], np.maximum.reduceat(flat, borders)[::2]


def close_gaps(runs: Runs, gap: float) -> Runs:
    """Joins runs of one class and threshold with less than ``gap`` frames between them."""
    if not len(runs.start):
        return runs
    apart = runs.start[1:] - runs.stop[:-1] >= gap
    apart |= (np.diff(runs.threshold) != 0) | (np.diff(runs.label) != 0)
    first, last = np.flatnonzero(np.append(True, apart)), np.flatnonzero(np.append(apart, True))
    frames, total = (np.add.reduceat(column, first) for column in (runs.frames, runs.total))
    peak = np.maximum.reduceat(runs.peak, first)
    return Runs(runs.threshold[first], runs.label[first], runs.start[first], runs.stop[last], frames, total, peak)


def select(runs: Runs, kept: np.ndarray) -> Runs:
    """The runs for which ``kept`` [N] is true."""
    return Runs(*(column[kept] for column in runs))


def in_seconds(frames: np.ndarray, frame_seconds: float, end: float) -> np.ndarray:
    """Times of frame borders; none lies behind the end of the recording."""
    return np.minimum(np.round(frames * frame_seconds, DECIMALS), end)
