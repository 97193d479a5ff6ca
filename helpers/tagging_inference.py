"""Tagging and embedding of recordings of any length, read from disk block by block."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.inference import Skipped, process, require_batch_size, run, unique_names
from helpers.result_files import Unfinished, require_suffix
from helpers.tagging_results import ARRAYS, TABLES, Tagged, table, write_arrays, write_tags
from helpers.windows import Window, in_samples, sliding

WHOLE_SECONDS = 60.0  # recordings up to this length are tagged in one pass, longer ones in parts of it


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
            ValueError: a length is not positive, a window is too short for the runner, or there is a hop but no window.
        """
        rate = runner.sample_rate
        if self.window_size is None:
            if self.hop_length is not None:
                raise ValueError(f"hop_length is {self.hop_length} s, but window_size is not set, expected both")
            whole = in_samples(self.whole_seconds, rate, "whole_seconds")
            return sliding(blocks, whole, whole, at_least=runner.min_samples)
        size = in_samples(self.window_size, rate, "window_size")
        hop = in_samples(self.window_size / 4 if self.hop_length is None else self.hop_length, rate, "hop_length")
        if size < runner.min_samples:
            shortest = runner.min_samples / rate
            raise ValueError(
                f"window_size is {self.window_size} s, expected at least the {shortest:g} s that the network needs"
            )
        return sliding(blocks, size, hop)


def tag_recordings(
    paths: Iterable, runner, read: Callable, cut: Cut = Cut(), batch_size: int = 8
) -> Iterator[Tagged | Skipped]:
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
        ValueError: the windows or their number are impossible, or the network refuses their length.
    """
    require_batch_size(batch_size)
    cut.windows((), runner)  # an impossible length is no fault of a recording

    def make(recording, outputs) -> Tagged:
        windows, logits, embeddings = [], [], []
        for window, output in outputs:
            windows.append((window.start, len(window.samples), window.valid))
            logits.append(output[0])
            embeddings.append(output[1])
        start, samples, valid = np.array(windows).T
        spans = np.stack([start, start + samples], axis=1) / runner.sample_rate
        return Tagged(recording.path, spans, valid / runner.sample_rate, np.stack(logits), np.stack(embeddings))

    return process(paths, runner, read, lambda blocks: cut.windows(blocks, runner), make, batch_size)


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

    figures = {path: Path(plot or "") / f"{name}.png" for path, name in unique_names(paths).items()}

    def each(tagged):
        if len(paths) > 1 or len(tagged.spans) > 1:
            show(f"\n{tagged.path}")
        show(table(tagged, classes, multi_label))
        if plot is not None:
            from helpers.tagging_plots import plot_tags

            plot_tags(tagged, classes, figures[tagged.path], multi_label)

    def write(results, skipped):
        write_tags(out, results, classes, skipped, multi_label)

    return _run(paths, runner, read, cut, batch_size, out, each, write, plot)


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


def _run(paths, runner, read, cut, batch_size, out, each, write, plot=None):
    settings = [runner.identity, cut.window_size, cut.hop_length, cut.whole_seconds, plot and str(plot)]
    kept = None if out is None else Unfinished(out, settings, Tagged)
    skipped = run(paths, lambda todo: tag_recordings(todo, runner, read, cut, batch_size), each, kept, write)
    return {"tagged": len(paths) - len(skipped), "skipped": skipped}
