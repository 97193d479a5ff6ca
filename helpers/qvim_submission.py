"""System output for query by vocal imitation (AES AIMLA 2025), and a validator.

The evaluation set is collected as ``Items/**/*.wav`` and ``Queries/**/*.wav``. The interface of the challenge is a
function of two mappings, file name -> path, whose result ``{query: {item: score}}`` has every pair, higher meaning more
alike; it is written as ``similarities.json``. Beside it are the same scores as a matrix, ``similarities.csv``, and all
items of every query from the best to the worst, ``ranked.csv`` with columns ``query, rank, item, score``.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from helpers.files import replacing

SCORES, MATRIX, RANKED = "similarities.json", "similarities.csv", "ranked.csv"
COLUMNS = ["query", "rank", "item", "score"]
NAMED = 3  # names in a message


def evaluation_files(root) -> tuple[dict[str, Path], dict[str, Path]]:
    """Items and queries of an evaluation set, file name -> path, sorted by path.

    Args:
        root: folder with ``Items`` and ``Queries``.

    Raises:
        FileNotFoundError: one of the folders, or any sound in it, is missing.
        ValueError: two files of a folder are called alike, so that the interface cannot tell them apart.
    """
    return tuple(_by_name(Path(root) / folder) for folder in ("Items", "Queries"))


def _by_name(folder):
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected the sounds of the evaluation set")
    found = {}
    for path in sorted(folder.rglob("*.wav")):
        other = found.setdefault(path.name, path)
        if other != path:
            raise ValueError(f"{path}: called like {other}, expected every file name once")
    if not found:
        raise FileNotFoundError(f"{folder}: 0 wav files, expected at least 1")
    return found


def ranking(scores: np.ndarray) -> np.ndarray:
    """Numbers of the items from the best to the worst, [..., items]; of equal scores the earlier item is the better."""
    return np.argsort(-np.asarray(scores), axis=-1, kind="stable")


def write_submission(folder, similarity: np.ndarray, queries: Sequence[str], items: Sequence[str]) -> dict[str, Path]:
    """Writes the three files.

    Args:
        folder: where they go; it is made where it is missing.
        similarity: [queries, items] float.
        queries: their file names.
        items: their file names.

    Returns:
        name of a file -> its path.

    Raises:
        ValueError: the matrix has another shape or holds values that are no finite numbers, or a name occurs twice.
    """
    similarity, folder = np.asarray(similarity), Path(folder)
    if similarity.shape != (len(queries), len(items)) or not np.isfinite(similarity).all():
        raise ValueError(f"similarity {similarity.shape}, expected {len(queries)} x {len(items)} finite numbers")
    for kind, names in (("query", queries), ("item", items)):
        _require_once(f"{folder}: {kind}", names)
    rounded = [[float(f"{value:.9g}") for value in row] for row in similarity.tolist()]  # gives float32 back exactly
    with replacing(folder / SCORES) as temporary, open(temporary, "w", encoding="utf-8") as file:
        scores = {query: dict(zip(items, row)) for query, row in zip(queries, rounded)}
        json.dump(scores, file, indent=1, ensure_ascii=False)
    with _table(folder / MATRIX) as write:
        write(["query", *items])
        for query, row in zip(queries, rounded):
            write([query, *row])
    with _table(folder / RANKED) as write:
        write(COLUMNS)
        for query, row, order in zip(queries, rounded, ranking(rounded).tolist()):
            for rank, item in enumerate(order, 1):
                write([query, rank, items[item], row[item]])
    return {name: folder / name for name in (SCORES, MATRIX, RANKED)}


@contextmanager
def _table(path):
    """A function that writes a row of a csv file, which appears when the block ends well."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        yield csv.writer(file, lineterminator="\n").writerow


# -- validation -------------------------------------------------------------------------------------------------------
def validate_submission(folder, queries: Collection[str], items: Collection[str]) -> dict[str, int]:
    """Checks that the files have every pair of the evaluation set once, and that they agree.

    Args:
        folder: of the files.
        queries: file names of the evaluation set.
        items: the same.

    Returns:
        ``queries``, ``items`` and ``pairs`` (numbers).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: anything else is wrong; the line names the file, what was found and what is expected.
    """
    folder, queries, items = Path(folder), list(queries), list(items)
    if not queries or not items:
        raise ValueError(f"{len(queries)} queries and {len(items)} items, expected at least 1 of both")
    scores = _read_scores(folder / SCORES)
    _require_names(f"{folder / SCORES}: queries", scores, queries)
    for query, row in scores.items():
        where = f"{folder / SCORES}: query '{query}'"
        if not isinstance(row, dict):
            raise ValueError(f"{where} has {str(row)[:40]}, expected scores by item")
        _require_names(f"{where}, items", row, items)
        for item, score in row.items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"{where}, item '{item}' has score {str(score)[:40]!r}, expected a finite number")
    _check_matrix(folder / MATRIX, scores)
    _check_ranked(folder / RANKED, scores)
    return {"queries": len(queries), "items": len(items), "pairs": len(queries) * len(items)}


def _read_scores(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the scores of all pairs")

    def entries(pairs):
        _require_once(f"{path}: key", [name for name, _ in pairs])
        return dict(pairs)

    try:
        scores = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=entries)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from None
    if not isinstance(scores, dict):
        raise ValueError(f"{path}: {str(scores)[:40]}, expected {{query: {{item: score}}}}")
    return scores


def _check_matrix(path, scores):
    head, *rows = _read_table(path)
    _require_once(f"{path}: column", head)
    _require_names(f"{path}: columns", head, ["query", *next(iter(scores.values()))])
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path}: rows of other lengths, expected {len(head)} values in each")
    _require_once(f"{path}: query", [row[0] for row in rows])
    _require_names(f"{path}: queries", [row[0] for row in rows], scores)
    for query, *row in rows:
        found = dict(zip(head[1:], (_number(path, value) for value in row)))
        _require_equal(f"{path}: query '{query}'", found, scores[query])


def _check_ranked(path, scores):
    head, *rows = _read_table(path)
    if head != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"{path}: columns {', '.join(head)}, expected {', '.join(COLUMNS)} in every row")
    found: dict[str, list] = {}
    for query, rank, item, score in rows:
        found.setdefault(query, []).append((rank, item, _number(path, score)))
    _require_names(f"{path}: queries", found, scores)
    for query, row in found.items():
        where = f"{path}: query '{query}'"
        if [rank for rank, _, _ in row] != [str(rank) for rank in range(1, len(row) + 1)]:
            raise ValueError(f"{where} has other ranks than 1 to {len(row)} in this order")
        _require_once(f"{where}, item", [item for _, item, _ in row])
        _require_names(f"{where}, items", [item for _, item, _ in row], scores[query])
        if any(later > earlier for (_, _, earlier), (_, _, later) in pairwise(row)):
            raise ValueError(f"{where} has scores that rise with the rank, expected the best item first")
        _require_equal(where, {item: score for _, item, score in row}, scores[query])


def _read_table(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected it beside {SCORES}")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows:
        raise ValueError(f"{path}: empty, expected a table")
    return rows


def _number(path, text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path}: score '{text[:40]}', expected a number") from None


def _require_equal(where, found: Mapping, scores: Mapping):
    _require_names(f"{where}, items", found, scores)
    wrong = [item for item, score in found.items() if score != scores[item]]
    if wrong:
        raise ValueError(
            f"{where}, item '{wrong[0]}' has {found[wrong[0]]}, expected {scores[wrong[0]]} as in {SCORES}"
        )


def _require_once(where, names):
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{where} '{twice[0]}' occurs more than once ({len(twice)} such names)")


def _require_names(where, found, expected):
    """Raises ValueError unless both have the same names."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    for what, names in (("are missing", missing), ("are not in the evaluation set", unknown)):
        if names:
            some = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
            raise ValueError(f"{where}: {len(names)} of {len(set(expected))} {what} ({some})")
