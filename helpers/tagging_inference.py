"""Tagging and embedding of recordings of any length, read from disk block by block."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers.files import clip_id
from helpers.tagging_results import (
    ARRAYS,
    TABLES,
    Tagged,
    Unfinished,
    require_suffix,
    table,
    write_arrays,
    write_tags,
)
from helpers.windows import Window, batches, in_samples, sliding

log = logging.getLogger(__name__)

WHOLE_SECONDS = 60.0  # recordings up to this length are tagged in one pass, longer ones in parts of it
AHEAD = 2  # batches that are read while others are computed
UNREADABLE = (ValueError, FileNotFoundError)  # what a reader raises for a file that cannot be used


@dataclass(frozen=True)
class Cut:
    """How recordings are cut.

    Attributes:
        window_size: seconds of a window; None: a recording is tagged in one pass as published, and one longer than
            ``whole_seconds`` in parts of that length.
        hop_length: seconds from one window to the next; None: a quarter of the window, as published.
        whole_seconds: see ``window_size``.
    """

    window_size: float | None = None
    hop_length: float | None = None
    whole_seconds: float = WHOLE_SECONDS

    def windows(self, blocks: Iterable[np.ndarray], runner) -> Iterator[Window]:
        """Windows of a recording at the sample rate of the runner.

        Raises:
            ValueError: a length is not positive, or a window is too short for the runner.
        """
        rate = runner.sample_rate
        if self.window_size is None:
            whole = in_samples(self.whole_seconds, rate, "whole_seconds")
            return sliding(blocks, whole, whole, at_least=runner.min_samples)
        size = in_samples(self.window_size, rate, "window_size")
        hop = in_samples(self.window_size / 4 if self.hop_length is None else self.hop_length, rate, "hop_length")
        if size < runner.min_samples:
            shortest = runner.min_samples / rate
            raise ValueError(f"window_size is {self.window_size} s, expected at least the {shortest:g} s of one frame")
        return sliding(blocks, size, hop)


@dataclass
class _Recording:
    """A recording on its way; windows are counted by the thread that reads, outputs are added by the other one."""

    path: str
    windows: list[tuple[int, int, int]] = field(default_factory=list)  # first sample, samples, valid samples
    outputs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    read: bool = False
    error: str | None = None

    @property
    def finished(self) -> bool:
        return self.read and (self.error is not None or len(self.outputs) == len(self.windows))

    def result(self, sample_rate) -> Tagged:
        start, samples, valid = np.array(self.windows).T
        logits, embeddings = (np.stack(arrays) for arrays in zip(*self.outputs))
        spans = np.stack([start, start + samples], axis=1) / sample_rate
        return Tagged(self.path, spans, valid / sample_rate, logits, embeddings)


def tag_recordings(
    paths: Iterable, runner, read: Callable, cut: Cut = Cut(), batch_size: int = 8
) -> Iterator[Tagged | tuple[str, str]]:
    """Tags recordings one after the other; windows of several of them share a batch.

    In memory are a few windows, however long the recordings are, beside the outputs of the recordings in work.

    Args:
        paths: of the recordings.
        runner: waveforms [B, samples] -> logits and embeddings, see :class:`helpers.tagging_runners.Runner`.
        read: callable (path, sample rate) -> blocks of a mono recording, [samples] float32.
        cut: the windows.
        batch_size: windows in a batch.

    Yields:
        the result of every recording in its turn, or (path, reason) of one that cannot be read.

    Raises:
        ValueError: the windows are impossible, or the network refuses their length.
    """
    cut.windows((), runner)  # an impossible length is no fault of a recording
    started: deque[_Recording] = deque()
    for group in _ahead(batches(_cut_all(paths, runner, read, cut, started), batch_size)):
        outputs = runner(np.stack([window.samples for _, window in group]))
        for (recording, _), *output in zip(group, *outputs):
            recording.outputs.append(output)
        while started and started[0].finished:
            yield _outcome(started.popleft(), runner)
    for recording in started:
        yield _outcome(recording, runner)


def _cut_all(paths, runner, read, cut, started):
    for path in paths:
        recording = _Recording(str(path))
        started.append(recording)
        try:
            for window in cut.windows(read(path, runner.sample_rate), runner):
                recording.windows.append((window.start, len(window.samples), window.valid))
                yield recording, window
        except UNREADABLE as error:
            recording.error = str(error).splitlines()[0]
        recording.read = True


def _outcome(recording, runner):
    if recording.error is not None:
        return recording.path, recording.error
    return recording.result(runner.sample_rate)


def _ahead(items: Iterable) -> Iterator:
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


def inference(
    paths: Sequence,
    runner,
    read: Callable,
    classes: Sequence[str],
    cut: Cut = Cut(),
    *,
    batch_size: int = 8,
    multi_label: bool = True,
    out=None,
    plot=None,
    show: Callable = print,
) -> dict:
    """Tags recordings, shows their best classes, and writes them to a file.

    Args:
        paths, runner, read, cut, batch_size: see :func:`tag_recordings`.
        classes: names of the classes.
        multi_label: a sigmoid for every class, or a softmax over all.
        out: the file: ``.csv`` or ``.json`` with the best classes, ``.npz`` or ``.h5`` with all probabilities; a run
            that was stopped goes on where it was. None: no file.
        plot: folder of figures, a PNG file per recording; None: none.
        show: called with the text of every recording.

    Returns:
        ``tagged`` (number of recordings) and ``skipped`` (path -> why it could not be read).

    Raises:
        ValueError: the runner has another number of classes, ``out`` has an unknown suffix, no recording can be read;
            see also :func:`tag_recordings`.
    """
    if len(classes) != runner.n_classes:
        raise ValueError(f"the tagger has {runner.n_classes} classes, expected the {len(classes)} that are named")
    if out is not None:
        require_suffix(out, TABLES + ARRAYS)

    figures = {path: Path(plot or "") / f"{name}.png" for path, name in _names(paths).items()}

    def each(tagged):
        if len(paths) > 1 or len(tagged.spans) > 1:
            show(f"\n{tagged.path}")
        show(table(tagged, classes, multi_label))
        if plot is not None:
            from helpers.tagging_plots import plot_tags

            plot_tags(tagged, classes, figures[tagged.path], multi_label)

    def write(results, skipped):
        write_tags(out, results, classes, skipped, multi_label)

    return _run(paths, runner, read, cut, batch_size, out, each, write)


def embed(paths: Sequence, runner, read: Callable, out, cut: Cut = Cut(), *, batch_size: int = 8) -> dict:
    """Writes the embeddings of all windows and of all recordings, see :func:`helpers.tagging_results.write_arrays`.

    Args:
        paths, runner, read, cut, batch_size: see :func:`tag_recordings`.
        out: ``.h5`` or ``.npz`` file; a run that was stopped goes on where it was.

    Returns:
        ``tagged`` and ``skipped`` as :func:`inference`.

    Raises:
        ValueError: ``out`` has an unknown suffix, no recording can be read; see also :func:`tag_recordings`.
    """
    require_suffix(out, ARRAYS)

    def write(results, skipped):
        write_arrays(out, results, "embeddings", lambda tagged: tagged.embeddings)

    return _run(paths, runner, read, cut, batch_size, out, lambda tagged: None, write)


def _names(paths) -> dict[str, str]:
    """Path -> a name of its own: the file's, numbered where several files are called alike."""
    names, used = {}, {}
    for path in map(str, paths):
        stem = clip_id(path)
        used[stem] = used.get(stem, 0) + 1
        names[path] = stem if used[stem] == 1 else f"{stem}-{used[stem]}"
    return names


def _run(paths, runner, read, cut, batch_size, out, each, write):
    """Tags what is not tagged yet; ``each`` sees the new results, ``write`` all of them in the end."""
    paths = [str(path) for path in paths]
    settings = [runner.identity, cut.window_size, cut.hop_length, cut.whole_seconds]
    kept = None if out is None else Unfinished(out, settings)
    todo = [path for path in paths if kept is None or path not in kept]
    if len(todo) < len(paths):
        log.info("%s: %d of %d recordings are done already", out, len(paths) - len(todo), len(paths))
    skipped = {}
    for tagged in tag_recordings(todo, runner, read, cut, batch_size):
        if not isinstance(tagged, Tagged):
            path, skipped[path] = tagged
            log.warning("skipped: %s", skipped[path])
            continue
        if kept is not None:
            kept.put(tagged)
        each(tagged)
    if len(skipped) == len(paths):
        reason = next(iter(skipped.values()), "there is none")
        raise ValueError(reason if len(paths) == 1 else f"0 of {len(paths)} recordings can be read; first: {reason}")
    if kept is not None:
        with kept.finishing():
            write(kept.results(paths), skipped)
    return {"tagged": len(paths) - len(skipped), "skipped": skipped}
