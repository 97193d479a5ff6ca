"""What an evaluation found: tables as CSV, markdown and for the console, and all figures of a data set."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.evaluation_plots import Box, plot_boxes, plot_class_intervals, plot_parameters
from helpers.metrics import PsdRoc
from helpers.plots import plot_psd_roc
from helpers.report import _write, markdown, shown
from helpers.scores import Events, ScoreTable

NAN = float("nan")
LIBRARY, OURS = "sed_scores_eval", "ours"  # who computed a value
CSV_COLUMNS = ("dataset", "metric", "label", "value", "low", "high", "computed_by")
HEADS = ("data set", "metric", "value", "95 % interval", "computed by")
INTERVAL_NOTE = "Intervals: bootstrap over clips. A dash: not computed, or no true event in the evaluated clips."
CLASS_NOTE = "A dash: the class has no true event in the evaluated clips."

# data set -> what -> label -> value
PerClass = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Row:
    """A value of a metric on a data set.

    Attributes:
        dataset: such as ``devtest``.
        metric: such as ``psds1_csebbs``.
        value: nan where there is none.
        low, high: 95 % bootstrap interval; nan where none was computed.
        computed_by: :data:`LIBRARY` or :data:`OURS`.

    Raises:
        ValueError: computed by somebody else.
    """

    dataset: str
    metric: str
    value: float
    low: float = NAN
    high: float = NAN
    computed_by: str = LIBRARY

    def __post_init__(self):
        if self.computed_by not in (LIBRARY, OURS):
            raise ValueError(f"{self.metric} is computed by '{self.computed_by}', expected {LIBRARY} or {OURS}")

    def cells(self) -> tuple[str, ...]:
        """What tables show, in the order of :data:`HEADS`."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        interval = f"{shown(self.low)}–{shown(self.high)}" if known else shown(NAN)
        return self.dataset, self.metric, shown(self.value), interval, self.computed_by


def write_evaluation(
    rows: Iterable[Row], per_class: PerClass, folder, parameters: PerClass | None = None
) -> tuple[Path, Path]:
    """Writes ``evaluation.csv`` with every value, of classes too, and ``evaluation.md`` for reading.

    Args:
        rows: the values.
        per_class: data set -> metric -> label -> value, nan for a class without a true event.
        folder: where the files go; it is made where it is missing.
        parameters: data set they were tuned on -> name -> label -> value, only for reading; infinite means off.

    Returns:
        paths of the CSV and the markdown file.
    """
    rows = list(rows)
    computed_by = {(row.dataset, row.metric): row.computed_by for row in rows}
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        numbers = (repr(float(number)) for number in (row.value, row.low, row.high))
        writer.writerow((row.dataset, row.metric, "", *numbers, row.computed_by))
    for dataset, metrics in per_class.items():
        for metric, classes in metrics.items():
            by = computed_by.get((dataset, metric), "")
            writer.writerows((dataset, metric, label, repr(float(v)), "nan", "nan", by) for label, v in classes.items())
    text = f"# Evaluation\n\n{_lines(HEADS, (row.cells() for row in rows))}\n{INTERVAL_NOTE}\n"
    if per_class:
        text += f"\n## By class\n\n{CLASS_NOTE}\n"
        text += "".join(f"\n### {dataset}\n\n{markdown(metrics, 'class')}" for dataset, metrics in per_class.items())
    for dataset, names in (parameters or {}).items():
        text += f"\n## cSEBBs parameters, tuned on {dataset}\n\n{_parameters(names)}"
    return _write(Path(folder) / "evaluation.csv", table.getvalue()), _write(Path(folder) / "evaluation.md", text)


def evaluation_table(rows: Iterable[Row], title: str = "evaluation"):
    """The values as a rich table, which says by which library each was computed.

    Args:
        rows: the values.
        title: above the table.

    Returns:
        a ``rich.table.Table`` for ``rich.print``.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for head in HEADS:
        table.add_column(head, justify="right" if head in ("value", "95 % interval") else "left")
    dataset = None
    for row in rows:
        if dataset not in (None, row.dataset):
            table.add_section()
        dataset = row.dataset
        table.add_row(*map(escape, row.cells()))
    return table


def write_figures(
    folder,
    curves: Mapping[str, PsdRoc],
    per_class: Mapping[str, Mapping[str, float]],
    parameters: Mapping[str, Mapping[str, float]],
    table: ScoreTable,
    boxes: Mapping[str, Sequence[Box]],
    events: Events,
    clips: Iterable[str],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    grids: Mapping[str, Sequence[float]] | None = None,
    title: str = "",
) -> list[Path]:
    """Draws ``psd_roc.png``, ``psds_by_class.png``, ``parameters.png`` and ``clips/<clip>.png`` of a data set.

    What is empty is not drawn.

    Args:
        folder: where the files go.
        curves: system -> PSD-ROC; the classes of the first are drawn too.
        per_class: system -> label -> PSDS1, nan for a class without a true event.
        parameters: name -> label -> what was tuned, infinite means off.
        table: scores of the model.
        boxes: clip id -> (onset, offset, label, confidence).
        events: clip id -> true events.
        clips: which clips to draw.
        intervals: system -> label -> 95 % interval of the PSDS1.
        grids: name of a parameter -> values that were tried.
        title: name of the data set, above every figure.

    Returns:
        paths of the files.

    Raises:
        ValueError: a clip to draw has no scores.
    """
    folder, prefix, paths = Path(folder), f"{title}: " if title else "", []
    if curves:
        paths.append(plot_psd_roc(curves, folder / "psd_roc.png", f"{prefix}PSD-ROC"))
    if per_class:
        file = folder / "psds_by_class.png"
        paths.append(plot_class_intervals(per_class, file, intervals, f"{prefix}PSDS1 by class"))
    if parameters:
        file = folder / "parameters.png"
        paths.append(plot_parameters(parameters, file, grids, f"{prefix}cSEBBs parameters by class"))
    clips = list(clips)
    for clip, scores in zip(clips, table.select(clips).scores):
        known = (table.timestamps, table.labels, events.get(clip, ()), boxes.get(clip, ()))
        paths.append(plot_boxes(scores, *known, folder / "clips" / f"{clip}.png", prefix + clip))
    return paths


def _parameters(names: Mapping[str, Mapping[str, float]]) -> str:
    labels = dict.fromkeys(label for classes in names.values() for label in classes)
    body = ((label, *(_setting(classes.get(label, NAN)) for classes in names.values())) for label in labels)
    return _lines(("class", *names), body)


def _setting(value: float) -> str:
    return shown(NAN) if math.isnan(value) else "off" if math.isinf(value) else f"{value:g}"


def _lines(heads: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, ["---"] * len(heads), *body))
