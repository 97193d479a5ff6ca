"""Frame scores class by class, from arrays that hold them clip by clip and may be larger than memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from helpers.candidates import Truth, positions
from helpers.scores import ScoreTable

BLOCK_BYTES = 2**28  # of scores in memory at once
CHUNK_BYTES = 2**19  # of scores transposed at once: what the cache of a core holds


def each_class(work: Callable, table: ScoreTable, truth: Truth, jobs: int = 1) -> dict:
    """What ``work`` says of every class of the truth.

    Args:
        work: called with a label and the class's scores, [clips, frames] in the order of ``truth.clips``, which are
            overwritten afterwards.
        table: scores of the clips and classes of the truth, and possibly of others; its ``scores`` can be anything
            that has a shape and a dtype and gives arrays when sliced: an array, a memory map, an HDF5 data set.
        jobs: threads, which share a block of classes.

    Raises:
        ValueError: a clip or a class without scores, or with two.
    """
    rows = _places(table.clips, truth.clips, "clip")
    columns = _places(table.labels, truth.labels, "class")
    results = {}
    with mapping(jobs) as run:
        for chosen, block in _blocks(table.scores, rows, columns, run):
            labels = [table.labels[column] for column in chosen]
            results.update(zip(labels, run(lambda label, scores: work(label, _exact(scores)), labels, block)))
    return {label: results[label] for label in truth.labels}


@contextmanager
def mapping(jobs: int = 1):
    """``map``, by several threads if asked for: the array operations of one class run beside those of others."""
    if jobs == 1:
        yield map
        return
    with ThreadPoolExecutor(jobs) as pool:
        yield pool.map


def peaks(scores: np.ndarray, truth: Truth, label: str) -> np.ndarray:
    """[clips] the largest of [clips, frames] scores.

    Raises:
        ValueError: scores that are no numbers.
    """
    peak = scores.max(1)
    broken = np.flatnonzero(~(peak < np.inf))
    if len(broken):
        clip = truth.clips[broken[0]]
        raise ValueError(
            f"scores of '{label}' in clip '{clip}' reach {peak[broken[0]]}, expected numbers ({len(broken)} such clips)"
        )
    return peak


def _places(names, wanted, kind):
    """[names] where each is among the wanted ones, -1 if it is not."""
    known, places = positions(names, kind), positions(wanted, kind)
    absent = [name for name in wanted if name not in known]
    if absent:
        raise ValueError(f"no scores of {kind} '{absent[0]}' ({len(absent)} of {len(wanted)} have none)")
    return np.array([places.get(name, -1) for name in names])


def _blocks(scores, rows, columns, run) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of some wanted columns and their scores, [columns, wanted rows, frames], in the same memory each time."""
    clips, frames, _ = scores.shape
    wanted = int((rows >= 0).sum())
    frame_bytes = max(frames * scores.dtype.itemsize, 1)
    width = min(max(BLOCK_BYTES // max(wanted * frame_bytes, 1), 1), len(columns))
    step = max(CHUNK_BYTES // (width * frame_bytes), 1)
    block = np.empty((width, wanted, frames), dtype=scores.dtype)
    for first in range(0, len(columns), width):
        chosen = np.flatnonzero(columns[first : first + width] >= 0)

        def read(start, first=first, chosen=chosen):
            kept = rows[start : start + step]
            chunk = np.asarray(scores[start : start + step, :, first : first + width])
            block[: len(chosen), kept[kept >= 0]] = chunk[kept >= 0][:, :, chosen].transpose(2, 0, 1)

        for _ in run(read, range(0, clips if len(chosen) else 0, step)):
            pass
        yield first + chosen, block[: len(chosen)]


def _exact(scores):
    """Numbers that processors can compare, with the same values."""
    return scores.astype(np.result_type(scores.dtype, np.float32), copy=False)
