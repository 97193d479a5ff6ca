"""Sound events in recordings of any length, read from disk block by block."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.event_decoding import close_gaps, cross_fade, find_runs, in_seconds, running_median, select
from helpers.event_files import TABLES, Detected, table, write_events, write_labels
from helpers.files import replacing
from helpers.inference import Recording, Skipped, process, require_batch_size, run, unique_names
from helpers.result_files import Hdf5Arrays, Unfinished, require_suffix
from helpers.windows import Window, require_seconds, sliding

THRESHOLDS = (0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Detection:
    """How recordings are cut into windows, and how their probabilities become events.

    With ``hop_length`` equal to ``window_size`` and ``keep_padding`` it is what PretrainedSED publishes.

    Attributes:
        window_size: seconds of a window, whole frames of the network; None: as in training, 10 s.
        hop_length: seconds from one window to the next, at most a window; None: half of one.
        median_window: frames of the median filter over the probabilities.
        thresholds: one or several, events are found above each of them; None: 0.1, 0.2 and 0.5, as published.
        min_gap: events of a class with less than so many seconds between them are joined.
        min_duration: events of less than so many seconds are dropped afterwards.
        keep_padding: also decode the frames of the zeros that fill up the last window; their times are set to the end
            of the recording, which gives events of no length.
    """

    window_size: float | None = None
    hop_length: float | None = None
    median_window: int = 9
    thresholds: float | Sequence[float] | None = None
    min_gap: float = 0.0
    min_duration: float = 0.0
    keep_padding: bool = False

    def levels(self) -> tuple[float, ...]:
        """The thresholds.

        Raises:
            ValueError: there is none, or one is no number in [0, 1).
        """
        if self.thresholds is None:
            return THRESHOLDS
        given = self.thresholds if isinstance(self.thresholds, Sequence) else [self.thresholds]
        numbers = [value for value in given if isinstance(value, float | int) and 0 <= value < 1]
        if isinstance(given, str) or not len(given) or len(numbers) < len(given):
            raise ValueError(f"thresholds is {self.thresholds!r}, expected one number in [0, 1) or several")
        return tuple(dict.fromkeys(map(float, numbers)))

    def sizes(self, runner) -> tuple[int, int]:
        """Frames of a window, and from one window to the next.

        Raises:
            ValueError: a length that is impossible.
        """
        window = runner.window_seconds if self.window_size is None else self.window_size
        size = _whole_frames(window, runner.frame_seconds, "window_size")
        if self.hop_length is None:
            return size, max(size // 2, 1)
        hop = _whole_frames(self.hop_length, runner.frame_seconds, "hop_length")
        if hop > size:
            raise ValueError(f"hop_length is {self.hop_length} s, expected at most the {window:g} s of a window")
        return size, hop

    def require(self, runner):
        """Raises ValueError for a setting that is impossible with a runner."""
        self.levels()
        size, _ = self.sizes(runner)
        if (samples := _samples(size, runner)) < runner.min_samples:
            shortest = runner.min_samples / runner.sample_rate
            found = f"{samples / runner.sample_rate:g} s"
            raise ValueError(f"window_size is {found}, expected at least the {shortest:g} s that the network needs")
        if not isinstance(self.median_window, int) or self.median_window < 1:
            raise ValueError(f"median_window is {self.median_window!r}, expected a whole number of frames from 1 on")
        for name in ("min_gap", "min_duration"):
            value = getattr(self, name)
            if not (isinstance(value, float | int) and value >= 0):
                raise ValueError(f"{name} is {value} s, expected 0 or more")

    def windows(self, blocks: Iterable[np.ndarray], runner) -> Iterator[Window]:
        """Windows of a recording at the sample rate of the runner."""
        return sliding(blocks, *(_samples(frames, runner) for frames in self.sizes(runner)))


def _whole_frames(seconds, frame_seconds, name):
    require_seconds(seconds, name)
    frames = round(seconds / frame_seconds)
    if frames < 1 or abs(frames * frame_seconds - seconds) > 1e-6:
        raise ValueError(f"{name} is {seconds} s, expected a multiple of the {frame_seconds:g} s of a frame")
    return frames


def _samples(frames, runner):
    return round(frames * runner.frame_seconds * runner.sample_rate)


def detect_recordings(
    paths: Iterable,
    runner,
    read: Callable,
    settings: Detection = Detection(),
    batch_size: int = 8,
    keep_scores: Callable | None = None,
) -> Iterator[Detected | Skipped]:
    """Finds sound events in recordings one after the other; windows of several of them share a batch.

    The logits of overlapping windows are merged by :func:`helpers.event_decoding.cross_fade`; a sigmoid, a median
    filter and thresholds follow. All of it goes on while a recording is read: in memory are a few windows and the
    events, however long it is.

    Args:
        paths: of the recordings.
        runner: waveforms [B, samples] -> frame logits [B, classes, frames] as the first of its arrays, see
            :class:`helpers.frame_runner.FrameRunner`.
        read: callable (path, sample rate) -> blocks of a mono recording, [samples] float32.
        settings: windows and decoding.
        batch_size: windows in a batch.
        keep_scores: callable path -> context manager whose value is called with every block of probabilities, [frames,
            classes], before the median filter, and the times of its borders in seconds.

    Yields:
        the result of every recording in its turn, or (path, reason) of one that cannot be read.

    Raises:
        ValueError: impossible settings, or the network refuses the length of the windows.
    """
    require_batch_size(batch_size)
    settings.require(runner)

    def make(recording, outputs) -> Detected:
        with keep_scores(recording.path) if keep_scores else nullcontext() as keep:
            probabilities = _probabilities(recording, outputs, runner, settings, keep)
            runs = find_runs(running_median(probabilities, settings.median_window), settings.levels())
        return decoded(runs, recording.path, recording.samples / runner.sample_rate, runner.frame_seconds, settings)

    return process(paths, runner, read, lambda blocks: settings.windows(blocks, runner), make, batch_size)


def _probabilities(recording: Recording, outputs, runner, settings, keep) -> Iterator[np.ndarray]:
    """Blocks [frames, classes] of a recording."""
    from scipy.special import expit

    (_, hop), first = settings.sizes(runner), 0
    frame = runner.frame_seconds * runner.sample_rate
    for logits in cross_fade((frames for _, (frames, *_) in outputs), hop):
        if not settings.keep_padding:
            # All but the last block lie before a window that the recording reaches.
            logits = logits[: math.ceil(round(recording.samples / frame, 6)) - first]
        block = expit(logits)
        if keep is not None:
            borders = np.arange(first, first + len(block) + 1)
            keep(block, in_seconds(borders, runner.frame_seconds, recording.samples / runner.sample_rate))
        yield block
        first += len(block)


def decoded(runs, path, seconds: float, frame_seconds: float, settings: Detection) -> Detected:
    """The events of a recording from its frames above the thresholds.

    Args:
        runs: see :func:`helpers.event_decoding.find_runs`.
        path: of the recording.
        seconds: its length.
        frame_seconds: length of a frame.
        settings: ``thresholds``, ``min_gap`` and ``min_duration`` of them.
    """
    runs = close_gaps(runs, round(settings.min_gap / frame_seconds, 6))
    onset, offset = (in_seconds(frames, frame_seconds, seconds) for frames in (runs.start, runs.stop))
    kept = offset - onset > settings.min_duration - 1e-9
    runs, onset, offset = select(runs, kept), onset[kept], offset[kept]
    thresholds = np.array(settings.levels())[runs.threshold]
    return Detected(str(path), seconds, runs.label, onset, offset, thresholds, runs.total / runs.frames, runs.peak)


@contextmanager
def _score_file(path, classes):
    """Score table of one recording, see :func:`detect`."""
    with replacing(path) as temporary, Hdf5Arrays(temporary) as file:
        file.append("classes", list(classes))
        file.append("timestamps", np.zeros(1))

        def keep(block, borders):
            file.append("scores", block)
            file.append("timestamps", borders[1:])

        yield keep


def detect(
    paths: Sequence,
    runner,
    read: Callable,
    classes: Sequence[str],
    settings: Detection = Detection(),
    *,
    batch_size: int = 8,
    out=None,
    labels=None,
    plot=None,
    scores=None,
    show: Callable = print,
) -> dict:
    """Finds sound events in recordings, shows them, and writes them to files.

    Args:
        paths, runner, read, settings, batch_size: see :func:`detect_recordings`.
        classes: names of the classes.
        out: ``.csv``, ``.tsv`` or ``.json`` file of the events of all recordings, see
            :func:`helpers.event_files.write_events`; a run that was stopped goes on where it was. None: no file.
        labels: folder of label tracks for Audacity, see :func:`helpers.event_files.write_labels`; None: none.
        plot: folder of figures, a PNG file per recording; None: none.
        scores: folder of score tables, an HDF5 file per recording: ``scores`` [frames, classes], the probabilities
            before the median filter, ``timestamps`` [frames + 1] in seconds and ``classes``; None: none.
        show: called with the text of every recording.

    Returns:
        ``detected`` (number of recordings) and ``skipped`` (path -> why it could not be read).

    Raises:
        ValueError: the runner has another number of classes, ``out`` has an unknown suffix, no recording can be read;
            see also :func:`detect_recordings`.
    """
    if len(classes) != runner.n_classes:
        raise ValueError(f"the model has {runner.n_classes} classes, expected the {len(classes)} that are named")
    if out is not None:
        require_suffix(out, TABLES)
    names, thresholds = unique_names(paths), settings.levels()

    def each(detected):
        if len(paths) > 1:
            show(f"\n{detected.path}")
        show(table(detected, classes, thresholds))
        name = names[detected.path]
        if labels is not None:
            write_labels(labels, name, detected, classes, thresholds)
        if plot is not None:
            from helpers.event_plots import plot_events

            plot_events(detected, classes, thresholds, Path(plot) / f"{name}.png")

    def results(todo):
        keep_scores = scores and (lambda path: _score_file(Path(scores) / f"{names[path]}.h5", classes))
        return detect_recordings(todo, runner, read, settings, batch_size, keep_scores)

    depends = [runner.identity, *map(str, (settings, labels, plot, scores))]
    kept = None if out is None else Unfinished(out, depends, Detected)
    skipped = run(paths, results, each, kept, lambda found, skipped: write_events(out, found, classes, skipped))
    return {"detected": len(paths) - len(skipped), "skipped": skipped}
