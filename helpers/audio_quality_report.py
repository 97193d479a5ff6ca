"""Tables and figures of a comparison of synthetic with original audio."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from helpers.audio_quality import MEL_MEASURES, TAG_MEASURES, Comparison
from helpers.files import replacing
from helpers.plots import COLOURS, new_figure, save_figure
from helpers.report import markdown

# Means over the five tables of the published study, AudioGen clips of Clotho's development split. Those of ``model``
# come from an encoder of its own.
PUBLISHED = {"dtw": 0.5020, "wcc": 0.3555, "model": 0.00077}
TITLES = {
    "dtw": "dtw: published warping measure", "wcc": "wcc: 1 - windowed correlation",
    "model": "model: 1 - cosine of the encoder's outputs", "dtw_time": "dtw_time: distance after warping in time",
    "embedding": "embedding: 1 - cosine", "kl": "kl: divergence of class probabilities (nats)",
    "same_class": "same_class: best class is the same", "among_five": "among_five: best class is among the best five",
}  # fmt: skip
FRECHET = "frechet"
ALL, CHANCE, HALVES, STUDY = "all captions", "another original", "halves of the originals", "published, AudioGen"


@dataclass(frozen=True)
class Summary:
    """Statistics of a measure over the pairs of a group; of a Fréchet distance ``mean`` alone, ``n`` synthetic clips.

    ``missing`` counts pairs without a value. The standard deviation is that of a sample.
    """

    group: str
    measure: str
    n: int
    missing: int
    mean: float
    std: float = math.nan
    min: float = math.nan
    p25: float = math.nan
    median: float = math.nan
    p75: float = math.nan
    max: float = math.nan


def summaries(comparison: Comparison) -> list[Summary]:
    """Statistics by caption and of all, then what another original and halves of the originals give."""
    columns = np.array([pair.column for pair in comparison.pairs])
    found = []
    for column in [*np.unique(columns), 0]:
        chosen = columns == column if column else np.ones(len(columns), bool)
        group = f"caption {column}" if column else ALL
        found += [_summary(group, name, values[chosen]) for name, values in comparison.values.items()]
        if column in comparison.frechet:
            found.append(Summary(group, FRECHET, int(chosen.sum()), 0, comparison.frechet[column]))
    found += [Summary(CHANCE, name, len(columns), 0, value) for name, value in comparison.chance.items()]
    if comparison.floor is not None:
        halved = len({pair.original for pair in comparison.pairs}) // 2
        found.append(Summary(HALVES, FRECHET, halved, 0, comparison.floor))
    return found


def _summary(group, measure, values):
    there = values[~np.isnan(values)]
    if not len(there):
        return Summary(group, measure, 0, len(values), math.nan)
    std = float(there.std(ddof=1)) if len(there) > 1 else math.nan
    points = map(float, np.percentile(there, [0, 25, 50, 75, 100]))
    return Summary(group, measure, len(there), len(values) - len(there), float(there.mean()), std, *points)


def write_comparison(comparison: Comparison, folder, stem: str = "audio_quality") -> dict[str, Path]:
    """Writes tables and figures.

    Args:
        comparison: what was found.
        folder: where the files go; it is made where it is missing.
        stem: beginning of their names.

    Returns:
        ``clips`` (csv, a row per pair), ``csv``, ``md``, ``json`` (all: statistics by group), ``measures`` and, where
        there are such distances, ``frechet`` (png) -> path.
    """
    folder = Path(folder).expanduser()
    rows = summaries(comparison)
    paths = {
        "clips": _write(folder / f"{stem}_clips.csv", _clips(comparison)),
        "csv": _write(folder / f"{stem}.csv", _csv(list(Summary.__annotations__), [asdict(row) for row in rows])),
        "md": _write(folder / f"{stem}.md", f"# Synthetic against original audio\n\n{overview(comparison)}"),
        "json": _write(folder / f"{stem}.json", _json(comparison, rows)),
        "measures": plot_measures(comparison, folder / f"{stem}_measures.png"),
    }
    if comparison.frechet:
        paths["frechet"] = plot_frechet(comparison, folder / f"{stem}_frechet.png")
    return paths


def overview(comparison: Comparison) -> str:
    """Means of all measures by group, as markdown."""
    columns: dict[str, dict[str, float]] = {}
    for row in summaries(comparison):
        columns.setdefault(row.group, {})[row.measure] = row.mean
    published = {name: value for name, value in PUBLISHED.items() if name in comparison.values}
    if published:
        columns[STUDY] = published
    text = f"{len(comparison.pairs)} pairs; means. 0: alike; same_class and among_five: 1 is best.\n\n"
    text += markdown(columns, "measure")
    if comparison.skipped:
        text += "\nNot compared:\n\n" + "".join(f"- {file}: {why}\n" for file, why in comparison.skipped.items())
    return text


def _clips(comparison):
    rows = [
        {**asdict(pair), **{name: float(values[number]) for name, values in comparison.values.items()}}
        for number, pair in enumerate(comparison.pairs)
    ]
    return _csv(["clip", "column", "original", "synthetic", *comparison.values], rows)


def _csv(names, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if _is_nan(value) else value for name, value in row.items()} for row in rows)
    return text.getvalue()


def _json(comparison, rows):
    entries = [{name: None if _is_nan(value) else value for name, value in asdict(row).items()} for row in rows]
    content = {"pairs": len(comparison.pairs), "summaries": entries, "skipped": comparison.skipped}
    return json.dumps(content, indent=1, ensure_ascii=False)


def _is_nan(value):
    return isinstance(value, float) and math.isnan(value)


def _write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


# -- figures ----------------------------------------------------------------------------------------------------------
def plot_measures(comparison: Comparison, path) -> Path:
    """How the measures are distributed, by caption: boxes from the first to the third quartile, or shares of clips.

    A dashed line shows the mean where every clip is held against another original, a dotted one the published mean.
    """
    names = [name for name in (*MEL_MEASURES, *TAG_MEASURES) if name in comparison.values]
    columns = np.array([pair.column for pair in comparison.pairs])
    ticks = np.unique(columns)
    across = min(len(names), 4)
    down = math.ceil(len(names) / across)
    figure = new_figure(3.6 * across, 0.5 + 2.8 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, name in zip(panels, names):
        values = [comparison.values[name][columns == column] for column in ticks]
        values = [own[~np.isnan(own)] for own in values]
        if name in ("same_class", "among_five"):
            axes.bar(range(len(ticks)), [own.mean() if len(own) else 0 for own in values], 0.6, color=COLOURS[0])
            axes.set_ylim(0, 1)
        else:
            _boxes(axes, values)
        for line, style in ((comparison.chance.get(name), "--"), (PUBLISHED.get(name), ":")):
            if line is not None:
                axes.axhline(line, color=COLOURS[1], linestyle=style, linewidth=1)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_title(TITLES[name], fontsize=8)
        axes.set_xlabel("caption", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(f"Synthetic against original audio; means: dashed {CHANCE}, dotted {STUDY}", fontsize=9)
    return save_figure(figure, path)


def _boxes(axes, values):
    boxes = axes.boxplot(
        values, positions=range(len(values)), widths=0.6, showfliers=False, patch_artist=True,
        medianprops={"color": "black"},
    )  # fmt: skip
    for box in boxes["boxes"]:
        box.set_facecolor("#BBDDF0")


def plot_frechet(comparison: Comparison, path) -> Path:
    """Fréchet audio distances by caption and of all, and that of the halves of the originals."""
    groups = sorted(comparison.frechet, key=lambda column: (column == 0, column))
    labels = [f"caption {column}" if column else ALL for column in groups]
    values = [comparison.frechet[column] for column in groups]
    if comparison.floor is not None:
        labels, values = [*labels, HALVES], [*values, comparison.floor]
    figure = new_figure(6.4, 1.2 + 0.34 * len(labels))
    axes = figure.add_subplot()
    colours = [COLOURS[4] if label == HALVES else COLOURS[0] for label in labels]
    axes.barh(range(len(labels)), values, 0.7, color=colours)
    for row, value in enumerate(values):
        axes.annotate(f"{value:.3g}", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="Fréchet audio distance to the originals", xlim=(0, None))
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    return save_figure(figure, path)
