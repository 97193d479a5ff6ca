"""Sliding windows over audio that arrives block by block: memory for one window, however long the recording is."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """An excerpt of a recording.

    Attributes:
        start: its first sample, counted from the start of the recording.
        samples: [size] float32, zeros behind the end of the recording.
        valid: how many of them belong to the recording.
    """

    start: int
    samples: np.ndarray
    valid: int


def require_seconds(seconds, name: str):
    """Raises ValueError, which calls the length ``name``, unless it is a finite number."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError(f"{name} is {seconds!r}, expected a number of seconds")


def in_samples(seconds: float, sample_rate: int, name: str) -> int:
    """Whole samples in so many seconds, rounded down as published.

    Args:
        seconds: the length.
        sample_rate: Hz.
        name: what the error calls the length.

    Raises:
        ValueError: it is no number, or less than one sample.
    """
    require_seconds(seconds, name)
    samples = int(seconds * sample_rate)
    if samples < 1:
        raise ValueError(f"{name} is {seconds} s, expected at least one sample of {sample_rate} Hz")
    return samples


def count(total: int, size: int, hop: int) -> int:
    """Number of windows over ``total`` samples: as few as cover the recording, and at least one.

    Source: windowed tagging of EfficientAT, which gives none to a recording shorter than a window by more than a hop.
    """
    return max(-(-(total - size) // hop) + 1, 1)


def sliding(blocks: Iterable[np.ndarray], size: int, hop: int, at_least: int | None = None) -> Iterator[Window]:
    """Windows that start at multiples of ``hop``; the last one is filled up with zeros.

    Args:
        blocks: the recording, [samples] each of any length.
        size: samples of a window.
        hop: samples between the starts of two windows; what lies between windows that do not meet is left out.
        at_least: samples to which the last window is filled up; None: ``size``, so that all windows are alike.

    Raises:
        ValueError: ``size`` or ``hop`` is not positive.
    """
    if min(size, hop) < 1:
        raise ValueError(f"windows of {size} samples every {hop}, expected at least 1 of both")
    at_least = size if at_least is None else min(at_least, size)
    held, first, start = np.zeros(0, np.float32), 0, 0  # samples from number `first` on; start of the next window
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= start - first + size:
            offset = start - first
            yield Window(start, held[offset : offset + size].copy(), size)
            start += hop
        gone = min(start - first, len(held))
        held, first = held[gone:], first + gone
    total, covered = first + len(held), start - hop + size if start else 0
    if covered < total and start < total:
        rest = held[start - first :]
        yield Window(start, np.pad(rest, (0, max(at_least - len(rest), 0))), len(rest))


def batches(windows: Iterable[tuple[object, Window]], batch_size: int) -> Iterator[list[tuple[object, Window]]]:
    """Groups windows, each beside whatever it belongs to, in their order; those of a group have the same length.

    Args:
        windows: of any number of recordings.
        batch_size: most windows of a group.
    """
    group: list[tuple[object, Window]] = []
    for owner, window in windows:
        if group and (len(group) == batch_size or len(group[0][1].samples) != len(window.samples)):
            yield group
            group = []
        group.append((owner, window))
    if group:
        yield group
