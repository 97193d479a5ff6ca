"""Which clips make up a part of a data set: names of its packed files, and its listing where nothing is packed."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data_util import folders, listings
from data_util.errors import DataMissing

logger = logging.getLogger(__name__)

AUDIOSET = {
    "train": ("balanced_train_segments_mp3.hdf", "unbalanced_train_segments_mp3.hdf"),
    "test": ("eval_segments_mp3.hdf",),
}
# {data set: {part: packed files}}; those of AudioSet, FSD50K and OpenMIC are called as published.
PACKED = MappingProxyType(
    {
        "audioset": AUDIOSET,
        "fsd50k": {
            "train": ("FSD50K.train_mp3.hdf",),
            "val": ("FSD50K.val_mp3.hdf",),
            "test": ("FSD50K.eval_mp3.hdf",),
        },
        "openmic": {"train": ("openmic_train.csv_mp3.hdf",), "test": ("openmic_test.csv_mp3.hdf",)},
        "folder": {part: (f"{part}_mp3.hdf",) for part in folders.PARTS},
    }
)
SUBSETS = ("balanced", "unbalanced")  # of AudioSet's training part, in the order of its files


@dataclass(frozen=True)
class Choice:
    """The part of a data set that is meant; see :func:`data_util.tagging.training_set` for the attributes."""

    root: Path
    split: str
    sample_rate: int = 32000
    fold: int = 1
    subset: str = "full"
    test_share: float = 0.2
    split_seed: int = 42
    classes: tuple | None = None


def packed_names(name, choice):
    """Names of the packed files of a part; none of a data set that is never packed.

    Raises:
        ValueError: no such subset of AudioSet.
    """
    names = PACKED.get(name, {}).get(choice.split, ())
    if name != "audioset" or choice.split != "train" or choice.subset == "full":
        return names
    if choice.subset not in SUBSETS:
        raise ValueError(f"data.subset is '{choice.subset}', expected one of {', '.join(SUBSETS)}, full")
    return (names[SUBSETS.index(choice.subset)],)


def packed_files(name, choice):
    """Paths of the packed files of a part, in ``root`` or ``root/mp3``; none where nothing is packed.

    Raises:
        DataMissing: only some of them are there.
    """
    names = packed_names(name, choice)
    for folder in (choice.root, choice.root / "mp3"):
        there = [folder / file for file in names if (folder / file).is_file()]
        if there and len(there) < len(names):
            raise DataMissing(f"{name}: {there[0]} is there, but not all of {', '.join(names)}")
        if there:
            return there
    return []


def strong_files(choice):
    """Paths of the packed files of AudioSet-strong: one of its own, or those of AudioSet that are there."""
    own = {"train": "audioset_strong_train_mp3.hdf", "test": "audioset_strong_eval_mp3.hdf"}[choice.split]
    for names in ((own,), AUDIOSET[choice.split]):
        for folder in (choice.root, choice.root / "mp3"):
            there = [folder / name for name in names if (folder / name).is_file()]
            if there:
                return there
    return []


def audioset(choice):
    """Audio files of the segment tables that are there; as videos vanish, some never are."""
    parts = listings.audioset(choice.root)
    wanted = [name.removesuffix("_mp3.hdf") for name in packed_names("audioset", choice)]
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise DataMissing(
            f"audioset: neither {missing[0]}_mp3.hdf nor {missing[0]}.csv in data.root = {choice.root} "
            "(python -m data_util.pack makes the former)"
        )
    listed = joined([parts[name] for name in wanted])
    found = listed.select(~listed.missing())
    if not found.files:
        raise DataMissing(f"audioset: 0 of {len(listed.files)} audio files found below data.root = {choice.root}")
    if len(found.files) < len(listed.files):
        logger.warning("audioset: %d of %d clips of the tables are there", len(found.files), len(listed.files))
    return found


def fsd50k(choice):
    """The ``train``, ``val`` or ``test`` part, from the original tables and wav files."""
    key = "eval" if choice.split == "test" else choice.split
    return _part("fsd50k", listings.fsd50k(choice.root), key, choice, "FSD50K.ground_truth")


def openmic(choice):
    """The ``train`` or ``test`` part, from the original tables and ogg files."""
    return _part("openmic", listings.openmic(choice.root), choice.split, choice, "openmic-2018-aggregated-labels.csv")


def dcase20(choice):
    """The ``train`` or ``test`` part."""
    key = "evaluate" if choice.split == "test" else choice.split
    return _part("dcase20", listings.dcase20(choice.root), key, choice, f"evaluation_setup/fold1_{key}.csv")


def esc50(choice):
    """The fold that is held out as ``test``, the others as ``train``."""
    folds = listings.esc50(choice.root, choice.sample_rate)
    if choice.fold not in folds:
        raise ValueError(f"data.fold is {choice.fold}, expected 1 to {listings.ESC50_FOLDS}")
    return joined([part for fold, part in folds.items() if (fold == choice.fold) == (choice.split == "test")])


def folder(choice):
    """A part of one's own clips."""
    parts = folders.folder(choice.root, choice.test_share, choice.split_seed, choice.classes)
    return _part("folder", parts, choice.split, choice, f"{choice.split}/ or {choice.split}.csv")


def joined(parts):
    """Listings of the same classes, end to end; none of them with masks."""
    files = [file for part in parts for file in part.files]
    targets = np.concatenate([part.targets for part in parts])
    return listings.Listing(files, parts[0].classes, targets, None, parts[0].multi_label)


def _part(name, parts, key, choice, expected):
    if key not in parts:
        raise DataMissing(f"{name}: no {expected} in data.root = {choice.root}, which the {choice.split} part needs")
    return parts[key]
