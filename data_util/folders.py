"""Anyone's own clips: a folder with one sub-folder per class, or a table ``file,labels``.

What the config entry ``data.root`` may be:

* a folder of class folders, split at random into training and test clips;
* a folder with ``train/`` and ``test/`` (and perhaps others, such as ``val/``), each with class folders;
* a table ``labels.csv`` with the columns ``file`` and ``labels`` (or its folder), split at random;
* a folder with ``train.csv`` and ``test.csv`` of these columns.

Labels of one clip are separated by ``;``, or by ``,`` where no ``;`` occurs in the column. Paths count from the table's
folder.
"""

import os
from pathlib import Path

import numpy as np

from data_util.errors import DataMissing, TableError
from data_util.listings import Listing, class_numbers, is_audio, read_csv
from data_util.tagging_clips import packed

PARTS = ("train", "val", "test")
COLUMNS = ("file", "labels")


def folder(root, test_share=0.2, split_seed=42, classes=None):
    """Parts of a set of own clips, see the module's text.

    Args:
        root: the folder or table.
        test_share: of the clips of each class (that of their first label), where they are split at random. At least
            one clip of every class stays for training.
        split_seed: of that split. What is drawn for a class depends on its clips alone.
        classes: names in the order of the outputs; None: all that the training clips have, sorted.

    Returns:
        {part: :class:`data_util.listings.Listing`}; the parts agree in ``multi_label``, which is whether any clip of
        any part has none or several classes.

    Raises:
        DataMissing: nothing is there, or there is no part beside ``train``.
        TableError: a table cannot be used, or a test clip's class is not among those of the training clips.
        ValueError: ``test_share`` is not between 0 and 1.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"data.test_share is {test_share}, expected a number between 0 and 1")
    labelled = _labelled(Path(root))
    if "train" in labelled:
        if len(labelled) == 1:
            raise DataMissing(f"data.root = {root} has a training part, expected a test part beside it")
    else:
        labelled = _split(labelled[""], test_share, split_seed)
    names = [row["labels"] for row in labelled["train"]]
    classes = tuple(classes) if classes else tuple(sorted({label for labels in names for label in labels}))
    if not classes:
        raise TableError(f"data.root = {root}: no clip has a label")
    multi_label = any(len(set(row["labels"])) != 1 for rows in labelled.values() for row in rows)
    return {part: _listing(rows, classes, multi_label) for part, rows in labelled.items()}


def _labelled(root):
    """{part: rows of ``file`` (path), ``labels`` (names) and ``where`` they are from}; one part "" if none is given."""
    if root.suffix.lower() == ".csv":
        return {"": _table(root)}
    tables = {part: root / f"{part}.csv" for part in PARTS}
    if tables["train"].is_file():
        return {part: _table(path) for part, path in tables.items() if path.is_file()}
    if (root / "labels.csv").is_file():
        return {"": _table(root / "labels.csv")}
    if not root.is_dir():
        raise DataMissing(f"no folder or table data.root = {root}")
    # A class may be called "train", too: that folder has audio files in it, not folders.
    if _subfolders(root / "train") and not any(is_audio(name) for name in os.listdir(root / "train")):
        return {part: _class_folders(root / part) for part in PARTS if (root / part).is_dir()}
    return {"": _class_folders(root)}


def _table(path):
    rows = read_csv(path, COLUMNS)
    separator = ";" if any(";" in row["labels"] for row in rows) else ","
    seen = set()
    for row in rows:
        if not row["file"].strip():
            raise TableError(f"{row['where']}: the file is empty, expected a path")
        if row["file"] in seen:
            raise TableError(f"{row['where']}: {row['file']} is there twice")
        seen.add(row["file"])
        row["file"] = str(path.parent / row["file"].strip())
        row["labels"] = [label.strip() for label in row["labels"].split(separator) if label.strip()]
    if not rows:
        raise DataMissing(f"{path}: 0 clips, expected at least 1")
    return rows


def _class_folders(root):
    rows = []
    for name in _subfolders(root):
        for parent, folders, files in os.walk(root / name):
            folders.sort()
            paths = [os.path.join(parent, file) for file in sorted(files) if is_audio(file) and file[0] != "."]
            rows += [{"file": path, "labels": [name], "where": str(root / name)} for path in paths]
    if not rows:
        raise DataMissing(f"0 audio files in sub-folders of data.root = {root}, expected one sub-folder per class")
    return rows


def _subfolders(root):
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")


def _split(rows, test_share, seed):
    """Rows of every class, drawn at random into "train" and "test"; the order of rows stays."""
    by_class = {}
    for number, row in enumerate(rows):
        by_class.setdefault(row["labels"][0] if row["labels"] else "", []).append(number)
    test = set()
    for name in sorted(by_class):
        numbers = by_class[name]
        rng = np.random.default_rng([seed, *name.encode()])
        wanted = min(max(round(test_share * len(numbers)), 1), len(numbers) - 1)
        test.update(rng.permutation(numbers)[:wanted].tolist())
    parts = {"train": [], "test": []}
    for number, row in enumerate(rows):
        parts["test" if number in test else "train"].append(row)
    if not parts["test"]:
        raise DataMissing(f"{rows[0]['where']}: every class has one clip, expected two or more to split off test clips")
    return parts


def _listing(rows, classes, multi_label):
    numbers = class_numbers(rows, [row["labels"] for row in rows], classes)
    return Listing([row["file"] for row in rows], classes, packed(numbers, len(classes)), None, multi_label)
