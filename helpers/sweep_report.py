"""Tables and figures of a search for hyper-parameters: its trials, what they found, and what mattered."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.plots import COLOURS, new_figure, save_figure
from helpers.sweep_space import all_keys, nested

BEST_SHOWN = 10  # rows on the console


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: from 0.
        state: "complete", "pruned", "failed" (an error), "killed" (its process ended), "running" or "waiting".
        value: its result; of a pruned one the last that it reported.
        params: key of the space -> value.
        seconds: from begin to end, None where it has not ended.
        steps: step -> value that it reported.
        redo_of: number of the killed trial that it takes up.
        worker: host and process.
        error: why it failed.
    """

    number: int
    state: str
    value: float | None
    params: Mapping[str, object]
    seconds: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    redo_of: int | None = None
    worker: str = ""
    error: str = ""


@dataclass(frozen=True)
class Sweep:
    """All trials of a study.

    Attributes:
        trials: by number.
        space: that was searched.
        metric: name of the values.
        maximize: whether more is better.
        importances: key -> share in what the best trials have in common, largest first; empty where unknown. PED-ANOVA:
            Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces"
            (IJCAI 2023).
    """

    trials: Sequence[Trial]
    space: Mapping[str, Mapping]
    metric: str
    maximize: bool
    importances: Mapping[str, float] = field(default_factory=dict)

    def ranked(self) -> list[Trial]:
        """Complete trials, the best first; of equal ones the earlier."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(complete, key=lambda trial: (-trial.value if self.maximize else trial.value, trial.number))

    @property
    def best(self) -> Trial | None:
        """The best complete trial."""
        return next(iter(self.ranked()), None)

    @property
    def best_changes(self) -> dict:
        """Config key -> value of the best trial; empty where none is complete."""
        return all_keys(self.space, self.best.params) if self.best else {}


def write_sweep(found: Sweep, folder) -> list[Path]:
    """Writes ``trials.csv`` and, once a trial is complete, ``best.json`` and the figures.

    ``best.json`` has the values of the best trial by section: ``python -m ex_... with FOLDER/best.json`` takes them.

    Returns:
        paths of the files.
    """
    folder = Path(folder)
    paths = [_write(folder / "trials.csv", trials_csv(found))]
    if found.best:
        paths.append(_write(folder / "best.json", json.dumps(nested(found.best_changes), indent=1) + "\n"))
        paths.append(plot_history(found, folder / "history.png"))
        paths.append(plot_parallel(found, folder / "parallel.png"))
    if any(found.importances.values()):
        paths.append(plot_importances(found, folder / "importances.png"))
    return paths


def trials_csv(found: Sweep) -> str:
    """A row per trial; the value stands in a column named after the metric."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "state", found.metric, *found.space, "seconds", "steps", "redo of", "worker", "error"])
    for trial in found.trials:
        value = "" if trial.value is None else repr(trial.value)
        seconds = "" if trial.seconds is None else f"{trial.seconds:.3f}"
        values = [trial.params.get(key, "") for key in found.space]
        redo = "" if trial.redo_of is None else trial.redo_of
        writer.writerow(
            [trial.number, trial.state, value, *values, seconds, len(trial.steps), redo, trial.worker, trial.error]
        )
    return table.getvalue()


def console_table(found: Sweep):
    """The best trials, and how many there are of each state, as a ``rich.table.Table``."""
    from rich.table import Table

    states = [trial.state for trial in found.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    table = Table(title=f"trials: {counts or 'none'}", title_justify="left", box=None)
    for head in ("trial", found.metric, *(_in_lines(key) for key in found.space)):
        table.add_column(head, justify="right", overflow="fold", vertical="bottom")
    for trial in found.ranked()[:BEST_SHOWN]:
        values = (_short(trial.params.get(key)) for key in found.space)
        table.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    return table


def show_sweep(found: Sweep, folder):
    """Prints the table, and where the rest is."""
    import rich

    rich.print(console_table(found))
    print(f"tables and figures: {folder}")


# -- figures ----------------------------------------------------------------------------------------------------------
def plot_history(found: Sweep, path) -> Path:
    """Values over the number of the trial, the best so far as a line, pruned trials as crosses."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    complete = [trial for trial in found.trials if trial.state == "complete"]
    pruned = [trial for trial in found.trials if trial.state == "pruned" and trial.value is not None]
    numbers, values = [trial.number for trial in complete], np.array([trial.value for trial in complete])
    so_far = (np.maximum if found.maximize else np.minimum).accumulate(values)
    axes.plot(numbers, values, "o", color=COLOURS[0], markersize=4, label="complete")
    if pruned:
        at = [trial.number for trial in pruned], [trial.value for trial in pruned]
        axes.plot(*at, "x", color="0.6", markersize=5, label="pruned, last value")
    axes.step(numbers, so_far, where="post", color=COLOURS[1], label="best so far")
    title = f"{len(complete)} complete and {len(pruned)} pruned trials"
    axes.set(xlabel="trial", ylabel=found.metric, title=title)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def plot_importances(found: Sweep, path) -> Path:
    """Bars of the share of every hyper-parameter, the largest first."""
    names = list(found.importances)
    figure = new_figure(7, 1.2 + 0.36 * len(names))
    axes = figure.add_subplot()
    axes.barh(range(len(names)), list(found.importances.values()), 0.7, color=COLOURS[0])
    for row, share in enumerate(found.importances.values()):
        axes.text(share + 0.01, row, f"{share:.2f}", va="center", fontsize=8, color="0.35")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.1 * max(found.importances.values())))
    axes.set(xlabel="importance (PED-ANOVA)", title=f"what decides on {found.metric}")
    return save_figure(figure, path)


def plot_parallel(found: Sweep, path) -> Path:
    """A line per complete trial through its values on one axis per hyper-parameter, coloured by the result."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    trials = found.ranked()[::-1]  # the best is drawn on top
    values = [trial.value for trial in trials]
    shades = colormaps["viridis" if found.maximize else "viridis_r"]
    colour = ScalarMappable(Normalize(min(values), max(values)), shades)
    figure = new_figure(2.2 + 1.7 * len(found.space), 5)
    axes = figure.add_subplot()
    for trial in trials:
        heights = [position(entry, trial.params.get(key)) for key, entry in found.space.items()]
        axes.plot(heights, color=colour.to_rgba(trial.value), linewidth=1, alpha=0.8, marker="o", markersize=3)
    for column, entry in enumerate(found.space.values()):
        axes.axvline(column, color="0.5", linewidth=0.8, zorder=1)
        for value in _ticks(entry):
            axes.text(
                column + 0.03, position(entry, value), _short(value), fontsize=8, color="0.2", va="center", zorder=3,
                parse_math=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )  # fmt: skip
    names = [_in_lines(key) for key in found.space]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks([])
    axes.set(xlim=(-0.3, len(names) - 0.4), ylim=(-0.05, 1.05))
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(colour, ax=axes, label=found.metric, pad=0.01, fraction=0.04)
    return save_figure(figure, path)


def position(entry: Mapping, value) -> float:
    """Where a value lies in its range, from 0 to 1; choices at equal distances. nan for None of a range."""
    if entry["type"] == "categorical":
        if len(entry["choices"]) == 1:
            return 0.5
        same = [type(choice) is type(value) and choice == value for choice in entry["choices"]]
        return same.index(True) / (len(same) - 1) if any(same) else np.nan
    if value is None:
        return np.nan
    scale = np.log if entry["log"] else float
    low, high = scale(entry["low"]), scale(entry["high"])
    return float((scale(value) - low) / (high - low))


def _ticks(entry):
    if entry["type"] == "categorical":
        return entry["choices"]
    return [entry["low"], entry["high"]]


def _in_lines(key) -> str:
    return key.replace(".", ".\n")


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
