"""Tables of the results of a run: all metrics as CSV and markdown, and a short table for the console."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from helpers.files import replacing

# What the console shows, public test names without the role.
HEADLINES = {
    "PSDS1": "psds1_sed_scores_eval",
    "PSDS2": "psds2_sed_scores_eval",
    "mpAUC": "segment_mpauc_sed_scores_eval",
    "collar F1": "collar_f1_macro_thres05_sed_scores_eval",
}
UNTRAINED = "untrained"


def by_role(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """``<prefix>/<role>/<name>`` -> value as role -> ``<prefix>/<name>`` -> value; names without a role are under "".

    Values that are no number are kept; :func:`shown` writes them as a dash.
    """
    roles: dict[str, dict[str, float]] = {}
    for full, value in metrics.items():
        prefix, *role, name = full.split("/") if full.count("/") >= 2 else (full, "")
        roles.setdefault("/".join(role), {})[f"{prefix}/{name}" if role else full] = float(value)
    return roles


def shown(value: float | None) -> str:
    """Four decimals, a dash where there is no number."""
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def markdown(columns: Mapping[str, Mapping[str, float]], corner: str = "metric") -> str:
    """A markdown table.

    Args:
        columns: head of the column -> head of the row -> value.
        corner: what the rows are.
    """
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(shown(values.get(name)) for values in columns.values())] for name in names]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(
    metrics: Mapping[str, float],
    folder,
    untrained: Mapping[str, float] | None = None,
    per_class: Mapping[str, Mapping[str, float]] | None = None,
    stem: str = "results",
) -> tuple[Path, Path]:
    """Writes all metrics as ``<stem>.csv`` (columns ``system, metric, value``) and ``<stem>.md``.

    Args:
        metrics: public name -> value, such as ``test/student/psds1_sed_scores_eval``.
        folder: where the files go; it is made where it is missing.
        untrained: the same metrics of the model before training, of which the student's are shown.
        per_class: ``<role>/<name>`` -> label -> value, appended to the markdown.
        stem: name of the files without suffix (``metrics.csv`` is what Lightning's logger writes).

    Returns:
        paths of the CSV and the markdown file.
    """
    systems = by_role(metrics)
    overall = systems.pop("", {})
    if untrained:
        systems[UNTRAINED] = _first_role(untrained)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["system", "metric", "value"])
    for system, values in {"": overall, **systems}.items():
        writer.writerows([system, name, repr(value)] for name, value in values.items())
    text = "# Results\n\n" + markdown(systems)
    if overall:
        text += "\n" + markdown({"value": overall})
    if per_class:
        text += "\n## By class\n\nA dash: the class has no true event in the evaluated clips.\n" + _class_tables(
            per_class
        )
    return _write(Path(folder) / f"{stem}.csv", table.getvalue()), _write(Path(folder) / f"{stem}.md", text)


def console_table(metrics: Mapping[str, float], untrained: Mapping[str, float] | None = None, title: str = "test"):
    """The headline metrics as a rich table, a row per system; metrics that no system has are left out.

    Args:
        metrics: public name -> value.
        untrained: the same metrics of the model before training, of which the student's are shown.
        title: above the table.

    Returns:
        a ``rich.table.Table`` for ``rich.print``.
    """
    from rich.table import Table

    systems = by_role(metrics)
    systems.pop("", None)
    if untrained:
        systems[UNTRAINED] = _first_role(untrained)
    bare = {role: {name.rpartition("/")[2]: v for name, v in values.items()} for role, values in systems.items()}
    columns = {head: name for head, name in HEADLINES.items() if any(name in values for values in bare.values())}
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for head in columns:
        table.add_column(head, justify="right")
    for role, values in bare.items():
        table.add_row(role, *(shown(values.get(name)) for name in columns.values()))
    return table


def checks_table(checks):
    """What is there of every data set, as a rich table.

    Args:
        checks: objects with ``name, folder, found, listed, expected, problem``.
    """
    from rich.table import Table

    table = Table(title="data sets", title_justify="left")
    for head in ("data set", "files", "in table", "published", "", "folder"):
        counts = head in ("files", "in table", "published")
        table.add_column(head, justify="right" if counts else "left", overflow="fold")
    for check in checks:
        counts = ("–" if n is None else str(n) for n in (check.found, check.listed, check.expected))
        table.add_row(check.name, *counts, check.problem or "ok", str(check.folder))
    return table


def _class_tables(per_class: Mapping[str, Mapping[str, float]]) -> str:
    """A table for every role and set of classes, so that none is wider than it must be."""
    tables: dict[tuple, dict[str, Mapping[str, float]]] = {}
    for name, values in per_class.items():
        role, _, metric = name.rpartition("/")
        tables.setdefault((role, tuple(values)), {})[metric] = values
    return "".join(f"\n### {role}\n\n{markdown(table, 'class')}" for (role, _), table in tables.items())


def _first_role(metrics: Mapping[str, float]) -> dict[str, float]:
    """The values of the first role, the student."""
    roles = by_role(metrics)
    return roles[next(iter(role for role in roles if role))]


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
