"""The same training with several seeds: mean, deviation and confidence interval of every metric, resumable."""

import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.locks import holding
from helpers.plots import COLOURS, new_figure, save_figure
from helpers.report import markdown, shown
from helpers.run_names import FREE, differences

log = logging.getLogger(__name__)

LEVEL = 0.95  # of confidence intervals
PANELS = 6  # metrics in the figure


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds.

    Attributes:
        mean: of the seeds.
        deviation: standard deviation, n - 1 in the denominator; nan for one seed.
        interval: half the width of the 95 % confidence interval of the mean, by Student's t; nan for one seed.
    """

    mean: float
    deviation: float
    interval: float


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and confidence interval of the values of some seeds."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Spread(float(values.mean()), math.nan, math.nan)
    from scipy.stats import t

    deviation = float(values.std(ddof=1))
    width = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Spread(float(values.mean()), deviation, width)


def t_test(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Student's t and its two-sided p for the difference of two means, deviations taken to be equal."""
    from scipy.stats import ttest_ind

    found = ttest_ind(first, second)
    return float(found.statistic), float(found.pvalue)


@dataclass(frozen=True)
class SeedStudy:
    """Results of some seeds.

    Attributes:
        results: seed -> metric -> value.
    """

    results: Mapping[int, Mapping[str, float]]

    @property
    def metrics(self) -> list[str]:
        """Metrics that every seed has, in the order of the first."""
        first, *others = self.results.values()
        return [name for name in first if all(name in other for other in others)]

    def values(self, metric: str) -> list[float]:
        """A metric by seed."""
        return [found[metric] for found in self.results.values()]

    def spreads(self) -> dict[str, Spread]:
        """Metric -> its spread."""
        return {name: spread(self.values(name)) for name in self.metrics}


def seed_study(
    run: Callable, seeds: Sequence[int], folder, config: Mapping | None = None, metrics: Sequence[str] | None = None
) -> SeedStudy:
    """Trains once per seed, and writes the tables ``seeds.csv`` and ``seeds.md`` and the figure ``seeds.png``.

    Every result is kept as ``seed_<n>.json``: a second call with the same folder goes on after the last one, and
    several processes may share the seeds. A seed that another process trains is left to it; whoever ends last has all.

    Args:
        run: callable (seed) -> metric -> value.
        seeds: whole numbers, each once.
        folder: of the results.
        config: that all seeds share, stored with each result; with another one the study must have another folder.
        metrics: those of the tables and the figure; None: all.

    Returns:
        the results that are there, in the order of ``seeds``.

    Raises:
        ValueError: seeds that are none, a stored result of another config or that is unreadable, a result that is no
            number, or a metric that the results do not have.
    """
    _require_seeds(seeds)
    folder, config = Path(folder), dict(config or {})
    for seed in seeds:
        if _stored(folder, seed, config) is None:
            with holding(folder / ".running" / f"seed_{seed}") as ours:
                if ours and _stored(folder, seed, config) is None:
                    _train(run, seed, folder, config)
    results = {seed: found for seed in seeds if (found := _stored(folder, seed, config)) is not None}
    for seed in sorted(set(seeds) - set(results)):
        log.info("seeds: another process trains seed %d", seed)
    study = SeedStudy({seed: _chosen(found, metrics, seed) for seed, found in results.items()})
    if results:
        write_seeds(study, folder)
    return study


def _require_seeds(seeds):
    if not isinstance(seeds, list | tuple | range) or not seeds:
        raise ValueError(f"seeds is {seeds!r}, expected a list of whole numbers")
    for seed in seeds:
        if type(seed) is not int or seed < 0:
            raise ValueError(f"seeds: {seed!r} is no seed, expected whole numbers from 0 on")
        if list(seeds).count(seed) > 1:
            raise ValueError(f"seeds: {seed} stands {list(seeds).count(seed)} times, expected every seed once")


def _train(run, seed, folder, config):
    """Trains one seed and keeps its result."""
    start = time.perf_counter()
    found = run(seed)
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"seed {seed}: the result is {found!r}, expected values by metric")
    for name, value in found.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"seed {seed}: {name} is {value!r}, expected a number")
    results = {name: float(value) for name, value in found.items()}
    content = {"seed": seed, "seconds": time.perf_counter() - start, "results": results, "config": config}
    with replacing(_file(folder, seed)) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _file(folder, seed):
    return folder / f"seed_{seed}.json"


def _stored(folder, seed, config):
    """The result of a seed, None where it is to be trained."""
    path = _file(folder, seed)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = {str(name): float(value) for name, value in content["results"].items()}
        before = dict(content["config"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result of a seed, expected what a seed study wrote: remove it") from error
    changed = differences(before, config, {*FREE, "seed", "seeds"})
    if changed:
        raise ValueError(f"{path} is of another config: {changed[0]}; take another name for another study")
    return results


def _chosen(found, metrics, seed):
    for name in metrics or ():
        if name not in found:
            raise ValueError(f"seed {seed} has no metric '{name}', expected one of {', '.join(found)}")
    return {name: found[name] for name in metrics or found}


# -- tables and figure ------------------------------------------------------------------------------------------------
def write_seeds(study: SeedStudy, folder) -> list[Path]:
    """Writes ``seeds.csv``, ``seeds.md`` and ``seeds.png``; their paths."""
    folder, spreads, table = Path(folder), study.spreads(), io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["metric", "mean", "deviation", "interval", *(f"seed {seed}" for seed in study.results)])
    for name, found in spreads.items():
        values = (found.mean, found.deviation, found.interval, *study.values(name))
        writer.writerow([name, *("" if math.isnan(value) else repr(float(value)) for value in values)])
    columns = {f"seed {seed}": found for seed, found in study.results.items()}
    for head, attribute in (("mean", "mean"), ("deviation", "deviation"), ("± 95 %", "interval")):
        columns[head] = {name: getattr(found, attribute) for name, found in spreads.items()}
    text = f"# {len(study.results)} seeds\n\n" + markdown({k: {n: v[n] for n in spreads} for k, v in columns.items()})
    text += "\nDeviation: of the seeds, n - 1. ± 95 %: confidence interval of the mean, by Student's t.\n"
    paths = [folder / "seeds.csv", folder / "seeds.md"]
    for path, content in zip(paths, (table.getvalue(), text)):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [*paths, plot_seeds(study, folder / "seeds.png")]


def console_table(study: SeedStudy):
    """Mean ± standard deviation of every metric as a ``rich.table.Table``."""
    from rich.table import Table

    table = Table(title=f"{len(study.results)} seeds", title_justify="left")
    table.add_column("metric")
    for head in ("mean ± deviation", "95 % of the mean", "lowest", "highest"):
        table.add_column(head, justify="right")
    for name, found in study.spreads().items():
        values = study.values(name)
        interval = f"{shown(found.mean - found.interval)} to {shown(found.mean + found.interval)}"
        table.add_row(
            name, f"{shown(found.mean)} ± {shown(found.deviation)}", interval, shown(min(values)), shown(max(values))
        )
    return table


def show_seeds(study: SeedStudy, folder):
    """Prints the table, and where the rest is."""
    import rich

    rich.print(console_table(study))
    print(f"tables and figure: {folder}")


def plot_seeds(study: SeedStudy, path) -> Path:
    """A panel per metric, of the first six: every seed as a dot, mean and its confidence interval beside them."""
    names = study.metrics[:PANELS]
    figure = new_figure(1.2 + 1.9 * len(names), 3.8)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        values, found = np.array(study.values(name)), spread(study.values(name))
        across = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else [0.0]
        axes.plot(across, values, "o", color=COLOURS[0], markersize=5, alpha=0.8)
        half = 0.0 if math.isnan(found.interval) else found.interval
        axes.errorbar(0.4, found.mean, half, fmt="s", color=COLOURS[1], capsize=4, markersize=5)
        axes.set(xlim=(-0.35, 0.65), xticks=[])
        axes.set_title(f"{name}\n{shown(found.mean)} ± {shown(found.deviation)}", fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    figure.supxlabel(f"dots: {len(study.results)} seeds; square: mean and its 95 % confidence interval", fontsize=8)
    return save_figure(figure, path)
