"""What retrieval by captions found: values with intervals, rank of every query, system output, curves, hard queries."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from helpers.caption_metrics import Placement
from helpers.caption_scores import CaptionScores, caption_scores
from helpers.evaluation import Bootstrap
from helpers.evaluation_report import OURS, Row, write_evaluation
from helpers.files import clip_id, replacing
from helpers.plots import COLOURS, new_figure, plain_label, save_figure

SUBMITTED = 10  # clips of a caption in the system output of the challenge
SHOWN = 3  # retrieved names in tables for reading
HARDEST = 20
SEPARATOR = " | "
RANK_COLUMNS = ("rank", "AP@10", "right", "retrieved")


@dataclass(frozen=True, eq=False)
class Retrieved:
    """Places of right clips and right captions.

    Attributes:
        scores: what they follow from.
        to_audio: captions are queries.
        to_text: clips are queries.
    """

    scores: CaptionScores
    to_audio: Placement
    to_text: Placement

    @classmethod
    def of(cls, scores: CaptionScores) -> "Retrieved":
        """From scores in both directions."""
        matrix, relevant = scores.scores, scores.relevant
        return cls(scores, Placement(matrix, relevant), Placement(matrix.T, relevant.T))

    def chance(self) -> "Retrieved":
        """The same without any knowledge: all values are those that a random ranking is expected to have."""
        return Retrieved.of(replace(self.scores, scores=np.zeros_like(self.scores.scores), name="chance"))

    def values(self) -> dict[str, float]:
        """Means, as of :func:`helpers.caption_metrics.caption_values`."""
        return {name: float(values.mean()) for name, (values, _) in self._queries().items()}

    def rows(self, name: str, bootstrap: Bootstrap | None = None) -> list[Row]:
        """The means with bootstrap intervals over clips: captions of one clip are drawn together.

        Args:
            name: what the rows call these scores.
            bootstrap: of the intervals.
        """
        bootstrap, rows = bootstrap or Bootstrap(), []
        for metric, (values, clips) in self._queries().items():
            sums, counts = np.bincount(clips, weights=values), np.bincount(clips)

            def mean(weights, sums=sums, counts=counts):
                return float(weights @ sums / (weights @ counts))

            rows.append(Row(name, metric, float(values.mean()), *bootstrap.interval(mean, len(counts)), OURS))
        return rows

    def _queries(self):
        """Metric -> values of its queries, and numbers of the clips that they belong to."""
        owners = np.unique(self.scores.owners, return_inverse=True)[1]
        clips = np.arange(len(self.scores.clips))
        to_audio = {name: (values, owners) for name, values in self.to_audio.measures().items()}
        return to_audio | {f"a2t/{name}": (values, clips) for name, values in self.to_text.measures().items()}


# -- tables -----------------------------------------------------------------------------------------------------------
def best(scores: np.ndarray, top: int) -> np.ndarray:
    """[queries, top] numbers of the items of highest score, best first; of equal scores the earlier item first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]


def write_ranks(found: Retrieved, folder) -> tuple[Path, Path]:
    """Writes a row for every query, ``text_to_audio.csv`` (captions) and ``audio_to_text.csv`` (clips).

    Columns: the query; ``rank`` of its first right item (with ties the expected one, empty without a right item);
    ``AP@10``; the ``right`` items; and the first three that were ``retrieved``.

    Returns:
        paths of both files.
    """
    scores, folder = found.scores, Path(folder)
    captions = list(zip(scores.ids, scores.captions))
    files = [(file,) for file in scores.files]
    return (
        _write_csv(
            folder / "text_to_audio.csv",
            ("caption_id", "caption", *RANK_COLUMNS),
            _rank_rows(captions, scores.files, scores.scores, scores.relevant, found.to_audio),
        ),
        _write_csv(
            folder / "audio_to_text.csv",
            ("file_name", *RANK_COLUMNS),
            _rank_rows(files, scores.captions, scores.scores.T, scores.relevant.T, found.to_text),
        ),
    )


def hardest(found: Retrieved, count: int = HARDEST) -> list[tuple[str, ...]]:
    """The captions whose first right clip comes last, worst first.

    Returns:
        caption id, caption, rank, AP@10, right files, first retrieved files, as in ``text_to_audio.csv``.
    """
    scores, ranks = found.scores, found.to_audio.first_rank()
    known = np.flatnonzero(np.isfinite(ranks))
    chosen = known[np.argsort(-ranks[known], kind="stable")][:count]
    captions = list(zip(scores.ids, scores.captions))
    return list(_rank_rows(captions, scores.files, scores.scores, scores.relevant, found.to_audio, chosen))


def hardest_table(found: Retrieved, count: int = 10):
    """The same as a ``rich.table.Table`` for ``rich.print``."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="hardest queries", title_justify="left")
    for head in ("rank", "caption", "right", "retrieved"):
        table.add_column(head, justify="right" if head == "rank" else "left", overflow="fold")
    for _, caption, rank, _, right, retrieved in hardest(found, count):
        table.add_row(rank, *map(escape, (caption, right, retrieved)))
    return table


def _rank_rows(queries, items, scores, relevant, placement, chosen=None):
    """Rows of a table of ranks: all queries, or those whose numbers are given."""
    ranks, precision = placement.first_rank(), placement.average_precision(10)
    for number in range(len(queries)) if chosen is None else chosen:
        right = SEPARATOR.join(items[item] for item in np.flatnonzero(relevant[number]))
        retrieved = SEPARATOR.join(items[item] for item in best(scores[number][None], SHOWN)[0])
        rank = f"{ranks[number]:g}" if np.isfinite(ranks[number]) else ""
        yield (*queries[number], rank, f"{precision[number]:.6g}", right, retrieved)


# -- system output of the challenge -----------------------------------------------------------------------------------
def write_submission(scores: CaptionScores, path, top: int = SUBMITTED) -> Path:
    """Writes the system output of DCASE task 6b (2022, 2023) and task 8 (2024): ``caption, fname_1 .. fname_10``.

    Of equal scores the clip that comes first in the split is the better. Fewer clips than ``top`` give fewer columns.
    """
    top = min(top, len(scores.files))
    rows = zip(scores.captions, best(scores.scores, top).tolist())
    body = ((caption, *(scores.files[number] for number in order)) for caption, order in rows)
    return _write_csv(path, ("caption", *(f"fname_{rank}" for rank in range(1, top + 1))), body)


def read_submission(path, split: str, rows: Sequence, relevant=None) -> CaptionScores:
    """System output of any system, as scores: its clips have the scores N to 1, all others the same below.

    So text-to-audio metrics of up to as many ranks as the table has columns are exact, and those of more are expected
    values of a random order of the rest. From audio to text such scores say little: they are ranks of other queries.

    Args:
        path: of a csv file with a caption and its retrieved file names, best first, in every row.
        split: name of the part that the captions are from.
        rows: its clips (``file``, ``clip`` and ``captions``, see ``data_util.captions``).
        relevant: [captions, clips] bool; None: the clips that the captions were written for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a caption or file is not in the split, a caption has no row, or a file is twice in a row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no system output {path}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        (head, *table) = csv.reader(file) if path.stat().st_size else [[]]
    if len(head) < 2 or head[0] != "caption":
        raise ValueError(
            f"{path}: columns {', '.join(head) or 'none'}, expected caption, fname_1, .. fname_{SUBMITTED}"
        )
    places: dict[str, list[int]] = {}
    for number, text in enumerate(caption for row in rows for caption in row.captions):
        places.setdefault(text, []).append(number)
    total, clips = sum(map(len, places.values())), {row.clip: number for number, row in enumerate(rows)}
    scores = np.zeros((total, len(rows)), dtype=np.float32)
    for line, (caption, *names) in enumerate(table, start=2):
        where = f"{path}, row {line}"
        if not places.get(caption):
            raise ValueError(f"{where}: caption '{caption}' is not in the split '{split}', or has a row before")
        unknown = [name for name in names if clip_id(name) not in clips]
        if unknown:
            raise ValueError(f"{where}: file '{unknown[0]}' is not in the split '{split}'")
        columns = [clips[clip_id(name)] for name in names]
        if len(names) != len(head) - 1 or len(set(columns)) < len(columns):
            raise ValueError(f"{where}: {len(set(columns))} different files, expected {len(head) - 1}")
        scores[places[caption].pop(0), columns] = np.arange(len(columns), 0, -1)
    absent = [caption for caption, numbers in places.items() if numbers]
    if absent:
        raise ValueError(f"{path}: {len(absent)} captions of the split '{split}' have no row, first '{absent[0]}'")
    result = caption_scores(split, rows, scores, relevant=relevant, model={"submission": path.name})
    return replace(result, name=str(path))


# -- figure -----------------------------------------------------------------------------------------------------------
def plot_recall(systems: Mapping[str, Retrieved], path, title: str = "") -> Path:
    """Draws R@k over k in both directions, a line per system, and what chance gives.

    Returns:
        the path.
    """
    figure = new_figure(10, 4.2)
    for axes, direction in zip(figure.subplots(1, 2, sharey=True), ("to_audio", "to_text")):
        chance = getattr(next(iter(systems.values())).chance(), direction).recall_curve()
        k = np.arange(1, len(chance) + 1)
        for number, (name, found) in enumerate(systems.items()):
            curve = getattr(found, direction).recall_curve()
            axes.plot(k, curve, color=COLOURS[number % len(COLOURS)], linewidth=2, label=plain_label(name))
        axes.plot(k, chance, color="0.6", linestyle="--", linewidth=1, label="chance")
        queries, items = ("text", "clips") if direction == "to_audio" else ("audio", "captions")
        axes.set(xscale="log", xlim=(1, len(k)), ylim=(0, 1.02), xlabel=f"k ({items})")
        axes.set_title(f"{queries} to {'audio' if queries == 'text' else 'text'}", fontsize=10)
        axes.grid(color="0.92", which="both")
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("R@k")
    figure.axes[0].legend(loc="upper left", frameon=False, fontsize=9)
    figure.suptitle(title)
    return save_figure(figure, path)


# -- all of it --------------------------------------------------------------------------------------------------------
def write_retrieval(
    systems: Mapping[str, CaptionScores], folder, bootstrap: Bootstrap | None = None, title: str = ""
) -> tuple[list[Row], list[Path]]:
    """Evaluates systems on the same captions and clips, and writes everything.

    ``evaluation.csv`` and ``.md`` (all systems, and chance), ``recall.png``, and of the last system, such as an
    ensemble of those before it, ``text_to_audio.csv``, ``audio_to_text.csv``, ``hardest.csv`` and the system output
    ``<split>.t2a_retrieval.csv``.

    Args:
        systems: name -> scores.
        folder: where the files go; it is made where it is missing.
        bootstrap: of the intervals.
        title: above the figure.

    Returns:
        the values, for ``helpers.evaluation_report.evaluation_table``; and paths of all files.
    """
    folder = Path(folder)
    found = {name: Retrieved.of(scores) for name, scores in systems.items()}
    last = list(found.values())[-1]
    rows = [row for name, one in found.items() for row in one.rows(name, bootstrap)]
    rows += last.chance().rows("chance", Bootstrap(resamples=0))
    files = [*write_evaluation(rows, {}, folder), plot_recall(found, folder / "recall.png", title)]
    files += write_ranks(last, folder)
    files.append(_write_csv(folder / "hardest.csv", ("caption_id", "caption", *RANK_COLUMNS), hardest(last)))
    files.append(write_submission(last.scores, folder / f"{last.scores.split}.t2a_retrieval.csv"))
    return rows, files


def _write_csv(path, head: Sequence[str], body: Iterable[Sequence]) -> Path:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(body)
    return Path(path)
