"""What inference of any kind does with recordings: read them ahead, share batches among them, go on after a stop."""

import itertools
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from helpers.files import clip_id
from helpers.result_files import Unfinished
from helpers.tagging_runners import computed
from helpers.windows import Window, batches

log = logging.getLogger(__name__)

AHEAD = 2  # batches that are read while others are computed
UNREADABLE = (ValueError, FileNotFoundError)  # what a reader raises for a file that cannot be used


@dataclass(eq=False)
class Recording:
    """A recording on its way; one thread reads it and counts its windows, another computes them.

    Attributes:
        path: of the recording.
        samples: read so far, at the sample rate of the runner; all of them once its outputs are exhausted.
    """

    path: str
    samples: int = 0
    cut: int = 0
    computed: int = 0
    read: bool = False
    error: str | None = None

    @property
    def finished(self) -> bool:
        return self.read and self.computed == self.cut


class Skipped(NamedTuple):
    """A recording that cannot be read, and why."""

    path: str
    reason: str


class _Broken(Exception):
    """A recording turns out to be unreadable, perhaps after some of its windows."""


def process(
    paths: Iterable, runner, read: Callable, cut: Callable, make: Callable, batch_size: int
) -> Iterator[object | Skipped]:
    """Runs a network over recordings, one after the other; windows of several of them share a batch.

    In memory are the windows of a few batches, however long the recordings are, beside what ``make`` keeps.

    Args:
        paths: of the recordings.
        runner: waveforms [B, samples] -> arrays [B, ...].
        read: callable (path, sample rate) -> blocks of a mono recording, [samples] float32.
        cut: callable blocks -> windows of a recording.
        make: callable (recording, outputs) -> its result, where ``outputs`` yields every window in order, with its
            output of each array. It must exhaust them.
        batch_size: windows in a batch.

    Yields:
        the result of every recording in its turn.
    """
    with closing(_computed(paths, runner, read, cut, batch_size)) as items:
        for recording, own in itertools.groupby(items, key=lambda item: item[0]):
            try:
                result = make(recording, _until_end(recording, own))
            except _Broken:
                result = Skipped(recording.path, recording.error)
            yield result


def _computed(paths, runner, read, cut, batch_size):
    """(recording, window, outputs) of every window; (recording, None, None) behind the last one of each."""
    started: deque[Recording] = deque()
    with closing(ahead(batches(_cut_all(paths, runner, read, cut, started), batch_size))) as groups:
        stacked = ((group, np.stack([window.samples for _, window in group])) for group in groups)
        for group, outputs in computed(runner, stacked):
            for (recording, window), *output in zip(group, *outputs):
                while started[0] is not recording:
                    yield started.popleft(), None, None
                yield recording, window, output
                recording.computed += 1
            while started and started[0].finished:
                yield started.popleft(), None, None
    for recording in started:
        yield recording, None, None


def _until_end(recording, items) -> Iterator[tuple[Window, list]]:
    # The end is marked, so that a result is there before the next recording is computed.
    for _, window, output in items:
        if window is None:
            break
        yield window, output
    if recording.error is not None:
        raise _Broken


def _cut_all(paths, runner, read, cut, started):
    for path in paths:
        recording = Recording(str(path))
        started.append(recording)
        try:
            for window in cut(read(path, runner.sample_rate)):
                recording.samples = max(recording.samples, window.start + window.valid)
                recording.cut += 1
                yield recording, window
            if not recording.cut:
                recording.error = f"{path}: no samples, expected at least 1"
        except UNREADABLE as error:
            recording.error = str(error).splitlines()[0]
        recording.read = True


def ahead(items: Iterable) -> Iterator:
    """The same items, produced by another thread a little ahead."""
    ready, stop, end = queue.Queue(AHEAD), threading.Event(), object()

    def offer(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce():
        try:
            for item in items:
                offer((item, None))
                if stop.is_set():
                    return
            offer((end, None))
        except BaseException as error:  # raised again where the items are used
            offer((end, error))

    thread = threading.Thread(target=produce, name="reading", daemon=True)
    thread.start()
    try:
        while (got := ready.get())[0] is not end:
            yield got[0]
        if got[1] is not None:
            raise got[1]
    finally:
        stop.set()
        thread.join()


def unique_names(paths: Iterable) -> dict[str, str]:
    """Path -> a name of its own: the file's, numbered where several files are called alike."""
    paths = list(map(str, paths))
    return dict(zip(paths, numbered(map(clip_id, paths))))


def numbered(names: Iterable[str]) -> list[str]:
    """The same names, those that are there already with a number: ``a, a, a-2`` become ``a, a-3, a-2``."""
    names = list(names)
    taken, found, counts = set(names), [], {}
    for name in names:
        number, own = counts.get(name, 1), name
        while number > 1 and (own := f"{name}-{number}") in taken:
            number += 1
        counts[name] = number + 1
        taken.add(own)
        found.append(own)
    return found


def require_batch_size(batch_size):
    """Raises ValueError unless it is a whole number from 1 on."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"inference_batch_size is {batch_size!r}, expected a whole number of windows from 1 on")


def printable(path: str) -> str:
    """A path in which bytes that are not UTF-8 are written as ``\\xff``: no text file could hold them."""
    return os.fsencode(path).decode(errors="backslashreplace")


def run(
    paths: Sequence, results: Callable, each: Callable, kept: Unfinished | None = None, write: Callable | None = None
) -> dict[str, str]:
    """Computes what is not there yet, and writes all of it in the end.

    Args:
        paths: of the recordings.
        results: callable paths -> results, see :func:`process`.
        each: called with every new result.
        kept: what a stopped run has left; None: nothing is kept.
        write: called with all results and the skipped recordings, where results are kept.

    Returns:
        path -> why it could not be read.

    Raises:
        ValueError: no recording can be read.
    """
    asked, skipped = [str(path) for path in paths], {}

    def skip(path, reason):
        skipped[path] = reason
        log.warning("skipped: %s", reason)

    paths = [path for path in asked if printable(path) == path]
    for path in map(printable, (path for path in asked if printable(path) != path)):
        skip(path, f"{path}: the name of the file is not UTF-8")
    todo = [path for path in paths if kept is None or path not in kept]
    if len(todo) < len(paths):
        log.info("%s: %d of %d recordings are done already", kept.out, len(paths) - len(todo), len(paths))
    for result in results(todo):
        if isinstance(result, Skipped):
            skip(*result)
            continue
        each(result)
        if kept is not None:
            kept.put(result)
    if len(skipped) == len(asked):
        reason = next(iter(skipped.values()), "there is none")
        raise ValueError(reason if len(asked) == 1 else f"0 of {len(asked)} recordings can be read; first: {reason}")
    if kept is not None:
        with kept.finishing():
            write(kept.results(paths), skipped)
    return skipped
