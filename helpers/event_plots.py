"""Figures of the sound events of a recording over time, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.event_files import Detected
from helpers.plots import class_axis, new_figure, save_figure

ROWS = 24  # classes that are drawn
SHADES = (0.35, 0.9)  # of the lowest and the highest threshold on the colour map


def drawn_classes(detected: Detected) -> np.ndarray:
    """Numbers of the classes that have events, those with the highest probabilities, in the order of their onsets."""
    labels, place = np.unique(detected.label, return_inverse=True)
    peak, onset = np.full(len(labels), -np.inf), np.full(len(labels), np.inf)
    np.maximum.at(peak, place, detected.peak)
    np.minimum.at(onset, place, detected.onset)
    chosen = np.argsort(-peak, kind="stable")[:ROWS]
    return labels[chosen[np.argsort(onset[chosen], kind="stable")]]


def plot_events(detected: Detected, classes: Sequence[str], thresholds: Sequence[float], path) -> Path:
    """A lane for every class that has events, a bar for every event, the darker the higher its threshold.

    Bars have an outline, so that short events stay visible in long recordings.

    Args:
        detected: the result.
        classes: names of the classes.
        thresholds: of all recordings.
        path: PNG file to write.

    Returns:
        the path.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    rows = drawn_classes(detected)
    figure = new_figure(10, 1.4 + 0.36 * max(len(rows), 1))
    axes = figure.add_subplot()
    levels = sorted(thresholds)
    colours = dict(zip(levels, colormaps["Blues"](np.linspace(*SHADES, len(levels)) if len(levels) > 1 else [0.75])))
    for threshold in levels:
        for row, label in enumerate(rows):
            own = (detected.label == label) & (detected.threshold == threshold)
            spans = np.stack([detected.onset, detected.offset - detected.onset], axis=1)[own]
            axes.broken_barh(spans, (row - 0.32, 0.64), color=colours[threshold], linewidth=0.6)
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color="0.85", linewidth=0.6)
    if len(rows):
        class_axis(axes, [classes[label] for label in rows])
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, f"no event above {levels[0]:g}", transform=axes.transAxes, ha="center", va="center")
    marks = [Patch(color=colours[threshold], label=f"above {threshold:g}") for threshold in levels]
    axes.legend(handles=marks, loc="upper right", bbox_to_anchor=(1, -0.5 / figure.get_figheight()), ncols=len(marks),
                frameon=False, fontsize=9)  # fmt: skip
    axes.set(xlabel="time (s)", xlim=(0, max(float(detected.seconds), 1e-6)))
    _title(axes, detected, len(rows))
    return save_figure(figure, path)


def _title(axes, detected, drawn):
    title, found = Path(detected.path).name, len(np.unique(detected.label))
    title = title if len(title) < 80 else f"{title[:77]}..."
    axes.set_title(title if drawn == found else f"{title} ({drawn} of {found} classes)", parse_math=False)
