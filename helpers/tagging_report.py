"""Tables and figures of a tagger's evaluation: values, values of every class, confusions."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.plots import new_figure, plain_label, plot_class_psds, save_figure
from helpers.report import shown, write_table
from helpers.tagging_metrics import TaggingMetrics

SHOWN_CLASSES = 60  # in a figure; of more classes, the best and the worst half of that


def write_results(results: Mapping[str, Mapping[str, float]], metrics: TaggingMetrics, folder) -> list[Path]:
    """Writes ``results.csv``, ``results.md``, ``classes.csv`` and the figures of an evaluation.

    Args:
        results: system ("trained", "untrained") -> ``<prefix>/<name>`` -> value.
        metrics: of the evaluation of the first system, after it.
        folder: where the files go; it is made where it is missing.

    Returns:
        paths of the files.
    """
    folder, per_class = Path(folder), metrics.per_class()
    tables = {f"classes/{name}": column for name, column in per_class.items()}
    paths = [*write_table(_by_system(results), folder, per_class=tables)]
    paths.append(write_classes(per_class, folder / "classes.csv"))
    name, title = metrics.shown
    paths.append(plot_classes(per_class[name], folder / f"{name.lower()}_by_class.png", title))
    if not metrics.multi_label:
        paths.append(plot_confusion(metrics.confusion(), metrics.classes, folder / "confusion.png"))
    return paths


def write_classes(per_class: Mapping[str, Mapping[str, float]], path) -> Path:
    """A table with a row per class; what is nan stays empty.

    Args:
        per_class: name of the column -> class -> value.
        path: CSV file to write.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", *per_class])
    for label in next(iter(per_class.values())):
        cells = (column[label] for column in per_class.values())
        writer.writerow([label, *("" if math.isnan(cell) else f"{cell:.6g}" for cell in cells)])
    with replacing(path) as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")
    return Path(path)


def plot_classes(values: Mapping[str, float], path, title: str) -> Path:
    """Bars of the classes, the best first; of many classes the best and the worst.

    Args:
        values: class -> value in [0, 1]; nan is left out.
        path: PNG file to write.
        title: what the values are.
    """
    found = {label: value for label, value in values.items() if not math.isnan(value)}
    ranked = sorted(found, key=lambda label: -found[label])
    kept, note = ranked, f"{len(found)} classes"
    if len(ranked) > SHOWN_CLASSES:
        half = SHOWN_CLASSES // 2
        kept, note = ranked[:half] + ranked[-half:], f"best and worst {half} of {len(found)} classes"
    return plot_class_psds({title: {label: found[label] for label in kept}}, path, f"{title}, {note}", title)


def plot_confusion(table, classes: Sequence[str], path) -> Path:
    """A confusion matrix as shares of the clips of each true class; counts stand in matrices of up to 20 classes.

    Args:
        table: [classes, classes] clips, rows by true class.
        classes: their names.
        path: PNG file to write.
    """
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = min(3.5 + 0.2 * len(classes), 24)
    figure = new_figure(size + 0.8, size)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [plain_label(label) for label in classes]
    if len(names) <= 100:  # of more, no label could be read
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="most probable class", ylabel="true class")
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(table):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "0.3"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="share of the clips of a class", fraction=0.04, pad=0.02)
    return save_figure(figure, path)


def console_table(rows: Mapping[str, Mapping[str, float]], title: str = "test"):
    """Values by system as a rich table.

    Args:
        rows: system -> name -> value; what stands before the last slash of a name is not shown.
        title: above the table.

    Returns:
        a ``rich.table.Table`` for ``rich.print``.
    """
    from rich.table import Table

    bare = {system: {name.rpartition("/")[2]: value for name, value in found.items()} for system, found in rows.items()}
    columns = list(dict.fromkeys(name for found in bare.values() for name in found))
    table = Table("", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for system, found in bare.items():
        table.add_row(system, *(shown(found.get(name)) for name in columns))
    return table


def costs_table(costs: Mapping):
    """What networks cost as a rich table.

    Args:
        costs: name -> ``models.complexity.Complexity``.

    Returns:
        a ``rich.table.Table`` for ``rich.print``.
    """
    from rich.table import Table

    table = Table(title="one clip", caption="memory: kB of 16-bit feature maps", title_justify="left", box=None)
    table.add_column("network", no_wrap=True)
    for name in ("M weights", "M MACs", "peak memory", "in slices", "receptive field", "mel"):
        table.add_column(name, justify="right")
    for name, cost in costs.items():
        sliced = "-" if cost.peak_memory_efficient is None else f"{cost.peak_memory_efficient:.0f}"
        field = "all" if cost.receptive_field is None else "{} x {}".format(*cost.receptive_field)
        values = (f"{cost.parameters / 1e6:.3f}", f"{cost.macs_with_biases / 1e6:.1f}", f"{cost.peak_memory:.0f}")
        table.add_row(name, *values, sliced, field, f"{cost.bands} x {cost.frames}")
    return table


def over_folds(folds: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The values of the folds of a cross-validation, their mean and their standard deviation (that of the folds)."""
    names = next(iter(folds.values()))
    columns = {name: np.array([found[name] for found in folds.values()]) for name in names}
    means = {name: float(column.mean()) for name, column in columns.items()}
    return {**folds, "mean": means, "deviation": {name: float(column.std()) for name, column in columns.items()}}


def show(results: Mapping[str, Mapping[str, float]], metrics: TaggingMetrics, folder, title: str):
    """Tables and figures of a tested run.

    Args:
        results: "trained" and perhaps "untrained" -> name -> value.
        metrics: of the trained network.
        folder: of the run.
        title: what was tested.
    """
    import rich

    results = {system: results[system] for system in ("trained", "untrained") if system in results}
    write_results(results, metrics, folder)
    rich.print(console_table(results, title))
    print(f"tables, figures and checkpoints: {folder}")


def show_folds(table: Mapping[str, Mapping[str, float]], folder):
    """The table of :func:`over_folds` on the console and as ``results.csv`` and ``results.md``."""
    import rich

    write_table(_by_system(table), folder)
    rich.print(console_table(table, "ESC-50, cross-validation"))
    print(f"tables: {folder}")


def _by_system(results):
    """``<prefix>/<name>`` of every system as ``<prefix>/<system>/<name>``."""
    return {
        full.replace("/", f"/{system}/", 1): value for system, found in results.items() for full, value in found.items()
    }
