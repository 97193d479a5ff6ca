"""Figures of an evaluation with sound event bounding boxes: values and parameters of the classes, single clips."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers.plots import COLOURS, TRUTH, class_axis, new_figure, plain_label, save_figure, shown_classes

Box = tuple[float, float, str, float]
BOXES = ("#FFF6E6", "#E69F00", "#D55E00")  # confidence 0, 0.5, 1
OUTLINE = "#8C3B00"


def plot_class_intervals(
    values: Mapping[str, Mapping[str, float]],
    path,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    title: str = "PSDS1 by class",
    xlabel: str = "PSDS1",
) -> Path:
    """Values of every class as points with their confidence intervals, for several systems one below the other.

    The numbers stand beside, in a column per system; a class without a value in any of them has no true event.

    Args:
        values: system -> label -> value in [0, 1], nan where there is none.
        path: PNG file to write.
        intervals: system -> label -> (low, high); what is missing or nan is not drawn.
        title: above the figure.
        xlabel: what the values are.

    Returns:
        the path.
    """
    labels = _labels(values)
    figure = new_figure(6.6 + 0.9 * len(values), 1.5 + len(labels) * (0.14 + 0.14 * len(values)))
    axes, numbers = figure.subplots(1, 2, sharey=True, width_ratios=[6, 0.9 * len(values)])
    step = 0.6 / len(values)
    for k, (system, classes) in enumerate(values.items()):
        colour = COLOURS[k % len(COLOURS)]
        text = {"color": colour, "fontsize": 9, "ha": "center"}
        numbers.text(k, -0.6, plain_label(system), va="bottom", **text)
        for i, label in enumerate(labels):
            row, value = i - 0.3 + (k + 0.5) * step, classes.get(label, np.nan)
            span = (intervals or {}).get(system, {}).get(label, (np.nan, np.nan))
            axes.plot(span, [row, row], color=colour, linewidth=2.4, alpha=0.4, solid_capstyle="butt")
            axes.plot(value, row, "o", color=colour, markersize=5)
            numbers.text(k, i, "–" if np.isnan(value) else f"{value:.3f}", va="center", **text)
    for i, label in enumerate(labels):
        if all(np.isnan(classes.get(label, np.nan)) for classes in values.values()):
            axes.text(0.01, i, "no true event", color="0.5", fontsize=8, va="center")
    _lanes(axes, labels)
    axes.set(xlim=(0, 1), xlabel=f"{xlabel}, lines: 95 % interval" if intervals else xlabel)
    axes.grid(axis="x", color="0.92")
    numbers.set(xlim=(-0.5, len(values) - 0.5))
    numbers.set_axis_off()
    figure.suptitle(title)
    return save_figure(figure, path)


def plot_parameters(
    parameters: Mapping[str, Mapping[str, float]],
    path,
    grids: Mapping[str, Sequence[float]] | None = None,
    title: str = "cSEBBs parameters by class",
) -> Path:
    """What was tuned for every class, a panel per parameter; "off" where a parameter is infinite.

    Args:
        parameters: name -> label -> value.
        path: PNG file to write.
        grids: name -> values that were tried, drawn as lines: a choice at the end of its grid asks for a wider one.
        title: above the figure.

    Returns:
        the path.
    """
    labels = _labels(parameters)
    figure = new_figure(2.2 + 2.6 * len(parameters), 1.3 + 0.3 * len(labels))
    panels = figure.subplots(1, len(parameters), sharey=True, squeeze=False)[0]
    for k, (axes, (name, classes)) in enumerate(zip(panels, parameters.items())):
        for value in (grids or {}).get(name, ()):
            axes.axvline(value, color="0.85", linewidth=0.8, zorder=0)
        text = {"transform": axes.get_yaxis_transform(), "color": "0.5", "fontsize": 8, "ha": "center", "va": "center"}
        for row, label in enumerate(labels):
            value = classes.get(label, np.nan)
            if np.isfinite(value):
                axes.plot(value, row, "o", color=COLOURS[k % len(COLOURS)], markersize=6)
            else:
                axes.text(0.5, row, "–" if np.isnan(value) else "off", **text)
        _lanes(axes, labels)
        axes.margins(x=0.12)
        axes.set_xlabel(plain_label(name))
    figure.suptitle(title)
    return save_figure(figure, path)


def plot_boxes(
    scores,
    timestamps,
    labels: Sequence[str],
    events: Iterable[tuple[float, float, str]],
    boxes: Iterable[Box],
    path,
    title: str = "",
    at_least: float = 0.2,
) -> Path:
    """One clip: for each class that matters the true events, and below them the score and the boxes made of it.

    Args:
        scores: [frames, classes] probabilities.
        timestamps: [frames + 1] boundaries of the frames in seconds.
        labels: names of the classes.
        events: (onset, offset, label) in seconds.
        boxes: (onset, offset, label, confidence); a box is as high and as dark as it is confident.
        path: PNG file to write.
        title: above the figure, such as the clip id.
        at_least: classes without a true event are shown where a score reaches it.

    Returns:
        the path.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap

    events, scores, timestamps = list(events), np.asarray(scores), np.asarray(timestamps)
    chosen = shown_classes(events, scores, labels, at_least)
    lane = {labels[i]: row for row, i in enumerate(chosen)}
    figure = new_figure(10, 1.6 + 0.75 * len(lane))
    axes = figure.add_subplot()
    shades = ScalarMappable(cmap=LinearSegmentedColormap.from_list("boxes", BOXES))
    shades.set_clim(0, 1)
    for onset, offset, label, confidence in sorted(boxes, key=lambda box: box[3]):
        if label in lane:
            _box(axes, lane[label], onset, offset, confidence, shades.to_rgba(confidence))
    for row, i in enumerate(chosen):
        axes.stairs(_height(row, scores[:, i]), timestamps, baseline=None, color=COLOURS[0], linewidth=1.3)
    true = [(lane[label], onset, offset) for onset, offset, label in events if label in lane]
    for row, onset, offset in true:
        axes.barh(row - 0.43, offset - onset, 0.09, left=onset, color=TRUTH)
    _lanes(axes, list(lane))
    axes.set(xlim=(timestamps[0], timestamps[-1]), xlabel="time (s)")
    note = "green: true events" if true else "no true event"
    axes.set_title(f"{note}, blue: scores, orange: boxes, their height is the confidence", fontsize=10, color="0.3")
    figure.colorbar(shades, ax=axes, label="confidence", pad=0.01, fraction=0.03, ticks=[0, 0.5, 1])
    figure.suptitle(title)
    return save_figure(figure, path)


def _height(row, value):
    """Where a score lies in a lane: 0 at its bottom, 1 below the true events."""
    return row + 0.45 - 0.8 * value


def _box(axes, row, onset, offset, confidence, colour):
    bottom = _height(row, 0)
    # Nearly every frame belongs to some box; without an edge those of next to no confidence vanish.
    edge = {"edgecolor": OUTLINE, "linewidth": 0.8} if confidence >= 0.1 else {}
    axes.barh(bottom - 0.4 * confidence, offset - onset, 0.8 * confidence, left=onset, color=colour, **edge)
    if confidence >= 0.25 and offset - onset >= 0.35:  # where the number fits in
        axes.text((onset + offset) / 2, bottom - 0.03, f"{confidence:.2f}", fontsize=7, ha="center", va="bottom")


def _labels(values):
    return list(dict.fromkeys(label for classes in values.values() for label in classes))


def _lanes(axes, labels):
    """Names of the classes and a line between their lanes."""
    class_axis(axes, labels)
    for i in range(1, len(labels)):
        axes.axhline(i - 0.5, color="0.85", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
