"""Sounds, vocal imitations of them, and which belong together, as the published folders and tables say.

=====================  ==============================================================================================
layout                 what is in the folder
=====================  ==============================================================================================
VimSketch              ``reference_file_names.csv`` and ``vocal_imitation_file_names.csv`` (no header, one name per
                       line), audio in ``references/`` and ``vocal_imitations/``; an imitation belongs to the reference
                       whose name agrees after the first underscore
AES development set    ``DEV Dataset.csv`` (one line before the header; columns Class, Items, Query 1, Query 2, Query
                       3), audio in ``Items/<Class>/`` and ``Queries/<Class>/``
AES evaluation set     audio anywhere below ``Items/`` and ``Queries/``; no ground truth
VocalSketch            ``meta.csv`` (separated by tabs; columns filename, positive_pair, negative_pair) with paths
                       below the folder: the "fine grained" lists of QBV (Greif et al., 2024)
=====================  ==============================================================================================

Sounds are known by their paths, so that equal names in two class folders are two sounds.
"""

import csv
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_util.errors import DataMissing, TableError
from data_util.listings import read_csv, table_text
from data_util.recordings import audio_files

logger = logging.getLogger(__name__)

VIMSKETCH, DEVELOPMENT = "Vim_Sketch_Dataset", "qvim-dev"  # folders below data.dataset_path, as published
REFERENCES, IMITATIONS = "reference_file_names.csv", "vocal_imitation_file_names.csv"
DEV_TABLE, DEV_COLUMNS = "DEV Dataset.csv", ("Class", "Items", "Query 1", "Query 2", "Query 3")
META_TABLE, META_COLUMNS = "meta.csv", ("filename", "positive_pair")
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Collection:
    """What one folder holds.

    Attributes:
        root: the folder.
        items: paths of the sounds, each once.
        classes: of the items; None: not known.
        queries: paths of the imitations, each once.
        pairs: [pairs, 2] int64, numbers of a query and of an item that belong together.
    """

    root: Path
    items: tuple
    classes: tuple | None
    queries: tuple
    pairs: np.ndarray

    @property
    def targets(self):
        """[queries] int64, the right item of every query, the first if there are several; -1: not known."""
        targets = np.full(len(self.queries), -1, np.int64)
        targets[self.pairs[::-1, 0]] = self.pairs[::-1, 1]
        return targets

    def select(self, items, queries):
        """The items and queries that two [...] bool arrays select, and the pairs of both."""
        pairs = self.pairs[items[self.pairs[:, 1]] & queries[self.pairs[:, 0]]]
        places = [np.cumsum(kept) - 1 for kept in (queries, items)]
        pairs = np.stack([place[column] for place, column in zip(places, pairs.T)], axis=1)
        classes = self.classes and _where(self.classes, items)
        return Collection(self.root, _where(self.items, items), classes, _where(self.queries, queries), pairs)


def read_collection(root):
    """The collection in a folder, of any of the layouts, as far as its files are there.

    Files that a table names but that are not there are counted and named in the log and left out, and so are queries
    whose right item is not there.

    Args:
        root: the folder, or one that holds ``Vim_Sketch_Dataset``.

    Raises:
        DataMissing: none of the layouts; or no item, or no query, is there.
        TableError: a table cannot be used.
    """
    root = Path(root).expanduser()
    for holds, read in LAYOUTS.items():
        if (root / holds).exists():
            return existing(read(root))
    if (root / VIMSKETCH).is_dir():
        return read_collection(root / VIMSKETCH)
    expected = ", ".join(LAYOUTS)
    raise DataMissing(f"{root}: {'no such folder' if not root.is_dir() else f'expected one of {expected} in it'}")


def existing(collection):
    """The part of a collection whose files are there, see :func:`read_collection`."""
    root, kept = collection.root, []
    for kind, paths in (("sounds", collection.items), ("imitations", collection.queries)):
        there = _are_there(paths)
        if not there.any():
            first = f"; first missing: {paths[0]}" if paths else ""
            raise DataMissing(f"{root}: 0 of {len(paths)} {kind} are there, expected at least 1{first}")
        _report(root, kind, "not there", _where(paths, ~there), len(paths))
        kept.append(there)
    items, queries = kept
    targets = collection.targets
    orphans = queries & (targets >= 0) & ~items[targets]
    _report(root, "imitations", "without their sound", _where(collection.queries, orphans), len(queries))
    return collection.select(items, queries & ~orphans)


# -- layouts ----------------------------------------------------------------------------------------------------------
def vimsketch(root):
    """VimSketch. What the published code does with a join of the tables, without its faults.

    An imitation without reference is left out. A key of several references stays: there is a pair with each.
    """
    root = Path(root)
    references = _by_key(root, "references", root / REFERENCES)
    imitations = _by_key(root, "vocal_imitations", root / IMITATIONS)
    found: dict[str, list] = {}
    for path, key in references.items():
        found.setdefault(key, []).append(path)
    unmatched = [path for path, key in imitations.items() if key not in found]
    _report(root, "imitations", "without reference", unmatched, len(imitations))
    doubled = [path for paths in found.values() for path in paths if len(paths) > 1]
    _report(root, "references", "of the same key as others", doubled, len(references), "kept, each of a key a pair")
    pairs = [(path, item) for path, key in imitations.items() for item in found.get(key, ())]
    classes = [_category(key) for key in references.values()]
    return _collection(root, references, classes, dict.fromkeys(query for query, _ in pairs), pairs)


def development(root):
    """The AES QVIM development set: all first queries, then all second, then all third, as published."""
    root, path = Path(root), Path(root) / DEV_TABLE
    rows = _dev_rows(path)
    classes, pairs, owner = {}, [], {}
    for where, row in rows:
        if not row["Class"] or not row["Items"]:
            raise TableError(f"{where}: Class is '{row['Class']}', Items is '{row['Items']}', expected names")
        classes[str(root / "Items" / row["Class"] / row["Items"])] = row["Class"]
    for column in DEV_COLUMNS[2:]:
        for _, row in rows:
            if row[column]:
                query = str(root / "Queries" / row["Class"] / row[column])
                item = str(root / "Items" / row["Class"] / row["Items"])
                if owner.setdefault(query, item) == item:
                    pairs.append((query, item))
    named = sum(bool(row[column]) for column in DEV_COLUMNS[2:] for _, row in rows)
    if named > len(owner):
        logger.warning("%s: %d of %d queries are named again; the first counts", path, named - len(owner), named)
    return _collection(root, classes, list(classes.values()), owner, list(dict.fromkeys(pairs)))


def evaluation(root):
    """The AES QVIM evaluation set, or any two folders ``Items`` and ``Queries``."""
    root = Path(root)
    for folder in ("Items", "Queries"):
        if not (root / folder).is_dir():
            raise DataMissing(f"{root}: no folder {folder}, expected Items and Queries")
    items, queries = ([str(path) for path in audio_files(root / folder)] for folder in ("Items", "Queries"))
    return _collection(root, items, None, queries, [])


def vocalsketch(root):
    """The "fine grained" lists of QBV; the negative examples are further sounds of the collection."""
    root, path = Path(root), Path(root) / META_TABLE
    rows = read_csv(path, META_COLUMNS, delimiter="\t")
    pairs = dict.fromkeys((str(root / row["filename"]), str(root / row["positive_pair"])) for row in rows)
    others = (str(root / row["negative_pair"]) for row in rows if row.get("negative_pair"))
    items = dict.fromkeys([item for _, item in pairs])
    items.update(dict.fromkeys(others))
    classes = [Path(item).stem for item in items]
    return _collection(root, items, classes, dict.fromkeys(query for query, _ in pairs), list(pairs))


LAYOUTS = {DEV_TABLE: development, IMITATIONS: vimsketch, REFERENCES: vimsketch, META_TABLE: vocalsketch,
           "Items": evaluation, "Queries": evaluation}  # fmt: skip


def restrict(collection, table):
    """The imitations that a split list of QBV names (tab-separated, column ``filename``), and all sounds.

    Raises:
        DataMissing: none of them is in the collection.
        TableError: the list cannot be used.
    """
    names = {os.path.basename(row["filename"]) for row in read_csv(table, ("filename",), delimiter="\t")}
    chosen = np.array([os.path.basename(path) in names for path in collection.queries], bool)
    if not chosen.any():
        raise DataMissing(
            f"{table}: 0 of its {len(names)} imitations are among the {len(chosen)} of {collection.root}, "
            "expected at least 1"
        )
    return collection.select(np.ones(len(collection.items), bool), chosen)


# -- parts ------------------------------------------------------------------------------------------------------------
def _collection(root, items, classes, queries, pairs):
    items, queries = tuple(items), tuple(queries)
    item_of, query_of = ({path: number for number, path in enumerate(paths)} for paths in (items, queries))
    numbers = np.array([(query_of[query], item_of[item]) for query, item in pairs], np.int64).reshape(-1, 2)
    return Collection(Path(root), items, None if classes is None else tuple(classes), queries, numbers)


def _by_key(root, folder, table):
    """{path: key} of the names in a table without header, each once."""
    if not table.is_file():
        raise DataMissing(f"no file {table}")
    keys, repeated = {}, []
    with table_text(table, "utf-8-sig") as file:
        for line, row in enumerate(csv.reader(file), start=1):
            name = ",".join(row).strip()
            number, underscore, key = name.partition("_")
            if name and not (number and underscore and key):
                raise TableError(f"{table}, line {line}: '{name}', expected a name such as 001_<what it is of>.wav")
            path = str(root / folder / name)
            if name and path in keys:
                repeated.append(path)
            elif name:
                keys[path] = key
    _report(root, folder, f"there again in {table.name}", repeated, len(keys), "the first counts")
    return keys


def _category(key):
    """Class of a VimSketch sound: the top of its path in the AudioSet ontology, or its part of VocalSketch.

    "008Animal_Cat_Meow.wav" is an animal and "066-duck_quacking-everyday.wav" everyday; what is called otherwise is
    a class of its own.
    """
    stem = os.path.splitext(key)[0]
    sketch = re.fullmatch(r"\d{3}-.+-([^-]+)", stem)
    ontology = re.match(r"\d{3}([A-Za-z][^_]*)", stem)
    return sketch[1] if sketch else ontology[1] if ontology else stem


def _dev_rows(path):
    """(place, row) of the table; its header is in the second line, or in the first if somebody removed that."""
    with table_text(path, "utf-8-sig") as file:
        lines = [[field.strip() for field in row] for row in csv.reader(file)]
    missing = [[column for column in DEV_COLUMNS if column not in line] for line in lines[:2]] or [DEV_COLUMNS]
    if all(missing):
        fewest = min(missing, key=len)
        number = missing.index(fewest) if len(fewest) < len(DEV_COLUMNS) else len(missing) - 1
        found = ", ".join(filter(None, lines[number])) if lines else "nothing"
        raise TableError(f"{path}: no column '{missing[number][0]}' (expected {', '.join(DEV_COLUMNS)}; found {found})")
    first = missing.index([])
    rows = [
        (f"{path}, line {number}", {column: dict(zip(lines[first], line)).get(column, "") for column in DEV_COLUMNS})
        for number, line in enumerate(lines[first + 1 :], start=first + 2)
    ]
    return [(where, row) for where, row in rows if any(row.values())]


def _are_there(paths):
    """[paths] bool; each folder is listed once."""
    listed = {}
    for folder in {os.path.dirname(path) for path in paths}:
        listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return np.array([os.path.basename(path) in listed[os.path.dirname(path)] for path in paths], bool)


def _where(values, keep):
    return tuple(value for value, kept in zip(values, keep) if kept)


def _report(root, kind, what, paths, total, consequence="left out"):
    if paths:
        names = ", ".join(os.path.basename(path) for path in paths[:SHOWN])
        names += f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        logger.warning("%s: %d of %d %s are %s (%s): %s", root, len(paths), total, kind, what, consequence, names)
