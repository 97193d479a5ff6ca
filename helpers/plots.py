"""Figures of detections and scores as PNG files, drawn without a display and without pyplot's global state."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.metrics import PsdRoc

# Distinguishable with colour blindness [Okabe and Ito, 2008].
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TRUTH = "#009E73"


def new_figure(width: float, height: float):
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path) -> Path:
    """Writes a figure as PNG, and returns the path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return Path(path)


def plain_label(label: str) -> str:
    """The name of a class as figures show it."""
    return label.replace("_", " ")


def shown_classes(events: Iterable[tuple[float, float, str]], scores, labels: Sequence[str], at_least: float = 0.2):
    """Indices of the classes worth a row: true ones, and those that score ``at_least`` anywhere; else the highest."""
    true = {label for _, _, label in events}
    peaks = np.asarray(scores).max(0)
    chosen = [i for i, label in enumerate(labels) if label in true or peaks[i] >= at_least]
    return chosen or [int(peaks.argmax())]


def plot_clip(
    mel,
    events: Iterable[tuple[float, float, str]],
    scores,
    labels: Sequence[str],
    path,
    duration: float = 10.0,
    timestamps=None,
    title: str = "",
    mel_unit: str = "dB",
) -> Path:
    """One clip: its mel spectrogram, and for each class that matters the true events above the predicted scores.

    Args:
        mel: [bands, frames], in the unit to be shown (decibels, or whatever the front end gives).
        events: (onset, offset, label) in seconds.
        scores: [frames, classes] probabilities.
        labels: names of the classes.
        path: PNG file to write.
        duration: seconds of the spectrogram.
        timestamps: [frames + 1] boundaries of the score frames in seconds; None spreads them over ``duration``.
        title: above the figure, such as the file name.
        mel_unit: unit of ``mel``.

    Returns:
        the path.
    """
    events, scores, mel = list(events), np.asarray(scores), np.asarray(mel)
    timestamps = np.linspace(0, duration, len(scores) + 1) if timestamps is None else np.asarray(timestamps)
    rows = shown_classes(events, scores, labels)
    height = max(0.36 * len(rows), 0.7)
    figure = new_figure(10, 3.3 + height)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, height])
    low, high = np.percentile(mel, [2, 99.8])
    image = top.imshow(
        mel, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=max(high, low + 1e-6),
        extent=(0, duration, 0, len(mel)), interpolation="nearest",
    )  # fmt: skip
    top.set(ylabel="mel band", title=title)
    figure.colorbar(image, ax=top, label=f"level ({mel_unit})", pad=0.01, fraction=0.03, aspect=14)
    heat = _event_rows(bottom, events, scores[:, rows].T, timestamps, [labels[i] for i in rows])
    bottom.set(xlabel="time (s)", xlim=(0, duration))
    bar = figure.colorbar(heat, ax=bottom, pad=0.01, fraction=0.03, aspect=max(4, height / 0.25), ticks=[0, 0.5, 1])
    bar.set_label("score")
    return save_figure(figure, path)


def _event_rows(axes, events, scores, timestamps, labels):
    """A lane per class: true events as bars in its upper part, scores [classes, frames] as a heat map below."""
    row = {label: i for i, label in enumerate(labels)}
    bars = [(row[label], onset, offset - onset) for onset, offset, label in events if label in row]
    for i, onset, length in bars:
        axes.barh(i - 0.3, length, left=onset, height=0.22, color=TRUTH)
    for i, values in enumerate(scores):
        edges = np.array([i - 0.15, i + 0.42])
        heat = axes.pcolormesh(timestamps, edges, values[None], cmap="Blues", vmin=0, vmax=1, rasterized=True)
    for i in range(1, len(labels)):
        axes.axhline(i - 0.5, color="0.8", linewidth=0.6)
    class_axis(axes, labels)
    note = "green: true events" if bars else "no true event"
    axes.set_title(f"{note}, blue: predicted scores", fontsize=10, color="0.3")
    return heat


def class_axis(axes, labels: Sequence[str]):
    """Names the rows of a figure, the first class on top."""
    axes.set_yticks(range(len(labels)), [plain_label(label) for label in labels], fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def plot_psd_roc(curves: Mapping[str, PsdRoc], path, title: str = "PSD-ROC") -> Path:
    """Effective true positive rate over effective false positives per hour, one curve per entry.

    The classes of the first entry are drawn as thin lines behind.

    Args:
        curves: name -> curve.
        path: PNG file to write.
        title: above the figure.

    Returns:
        the path.
    """
    figure = new_figure(7, 5)
    axes = figure.add_subplot()
    end = max(curve.max_efpr for curve in curves.values())
    for k, (name, curve) in enumerate(curves.items()):
        x, y = _staircase(curve.efpr, curve.etpr, end)
        colour = COLOURS[k % len(COLOURS)]
        axes.step(x, y, where="post", color=colour, linewidth=2, label=f"{plain_label(name)} (PSDS {curve.value:.3f})")
    name, curve = next(iter(curves.items()))
    for i, (efpr, tpr) in enumerate(curve.classes.values()):
        note = f"single classes of {plain_label(name)}" if i == 0 else None
        axes.step(*_staircase(efpr, tpr, end), where="post", color="0.75", linewidth=0.8, label=note, zorder=1)
    axes.set(
        xlim=(0, end), ylim=(0, 1.02), title=title,
        xlabel="effective false positives per hour", ylabel="effective true positive rate",
    )  # fmt: skip
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=9, ncols=3)
    return save_figure(figure, path)


def _staircase(x, y, end):
    """A curve from 0 to ``end``, flat where it has no more points."""
    inside = np.asarray(x) <= end
    x, y = np.asarray(x)[inside], np.asarray(y)[inside]
    last = y[-1] if len(y) else 0.0
    return np.concatenate(([0.0], x, [end])), np.concatenate(([0.0], y, [last]))


def plot_class_psds(
    values: Mapping[str, Mapping[str, float]], path, title: str = "PSDS by class", xlabel: str = "PSDS"
) -> Path:
    """Bars of every class, side by side for several systems; a class without a value says so.

    Args:
        values: system -> label -> value in [0, 1], nan where there is none.
        path: PNG file to write.
        title: above the figure.
        xlabel: what the values are.

    Returns:
        the path.
    """
    labels = list(dict.fromkeys(label for classes in values.values() for label in classes))
    figure = new_figure(7, 1.6 + len(labels) * (0.16 + 0.16 * len(values)))
    axes = figure.add_subplot()
    thickness = 0.8 / max(len(values), 1)
    for k, (system, classes) in enumerate(values.items()):
        rows = np.arange(len(labels)) - 0.4 + (k + 0.5) * thickness
        heights = np.array([classes.get(label, np.nan) for label in labels], dtype=float)
        colour, name = COLOURS[k % len(COLOURS)], plain_label(system)
        axes.barh(rows, np.nan_to_num(heights), thickness * 0.9, color=colour, label=name)
        for row, value in zip(rows, heights):
            text = "no true event" if np.isnan(value) else f"{value:.2f}"
            axes.text(np.nan_to_num(value) + 0.01, row, text, va="center", fontsize=7, color="0.35")
    class_axis(axes, labels)
    axes.set(xlim=(0, 1.08), xlabel=xlabel, title=title)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    if len(values) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -1.0 / max(len(labels), 1)), frameon=False, ncols=4)
    return save_figure(figure, path)
