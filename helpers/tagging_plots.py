"""Figures of what taggers find: the most probable classes of a recording over time, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.plots import COLOURS, class_axis, new_figure, save_figure
from helpers.tagging_results import TOP, Tagged


def plot_tags(tagged: Tagged, classes: Sequence[str], path, multi_label: bool = True) -> Path:
    """The most probable classes of a recording, as a heat map over its windows, or as bars where there is only one.

    Args:
        tagged: the result.
        classes: names of the classes.
        path: PNG file to write.
        multi_label: see :meth:`helpers.tagging_results.Tagged.probabilities`.

    Returns:
        the path.
    """
    probabilities = tagged.probabilities(multi_label)
    peaks = probabilities.max(0)
    rows = np.argsort(-peaks, kind="stable")[:TOP]
    names, title = [classes[row] for row in rows], Path(tagged.path).name
    figure = new_figure(10 if len(tagged.spans) > 1 else 7, 1.3 + 0.36 * len(rows))
    axes = figure.add_subplot()
    if len(tagged.spans) > 1:
        _timeline(figure, axes, tagged, probabilities[:, rows].T)
    else:
        _bars(axes, peaks[rows])
    class_axis(axes, names)
    axes.set_title(title if len(title) < 80 else f"{title[:77]}...", parse_math=False)
    return save_figure(figure, path)


def boundaries(spans: np.ndarray, end: float) -> np.ndarray:
    """Edges [windows + 1] in seconds of the time for which each window stands: halfway to its neighbours' centres.

    Args:
        spans: [windows, 2] start and end of the windows.
        end: of the recording.
    """
    centres = np.minimum(spans, end).mean(1)
    return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [end]])


def _timeline(figure, axes, tagged, scores):
    end = float((tagged.spans[:, 0] + tagged.seconds).max())
    edges = boundaries(tagged.spans, end)
    for row, values in enumerate(scores):
        lane = np.array([row - 0.42, row + 0.42])
        heat = axes.pcolormesh(edges, lane, values[None], cmap="Blues", vmin=0, vmax=1, rasterized=True)
    for row in range(1, len(scores)):
        axes.axhline(row - 0.5, color="0.85", linewidth=0.6)
    axes.set(xlabel="time (s)", xlim=(0, end))
    figure.colorbar(heat, ax=axes, pad=0.01, fraction=0.03, ticks=[0, 0.5, 1]).set_label("probability")


def _bars(axes, values):
    axes.barh(range(len(values)), values, 0.7, color=COLOURS[0])
    for row, value in enumerate(values):
        axes.text(value + 0.01, row, f"{value:.3f}", va="center", fontsize=8, color="0.35")
    axes.set(xlim=(0, 1.1), xlabel="probability")
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
