"""An index of a folder of sounds: embeddings of all files in one directory, made once, brought up to date, searched.

The directory holds

* ``index.json``: format version, encoder, how files were cut, the folder of the sounds, and a list of the files;
* ``embeddings.npy`` [windows, dim] float32, unit vectors, all windows of a file one after the other;
* ``search.faiss``: the FAISS index of the same vectors, where the package was installed.

Nothing in it depends on what queries are made of: any vector of the same space is one. ``identity`` of an encoder
names this space, so that all encoders that were trained together (of imitations, sounds, texts) carry the same one.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from helpers.nearest import AGAIN, searcher

FORMAT = 1
CONFIG, VECTORS, FAISS = "index.json", "embeddings.npy", "search.faiss"
KEYS = {  # of the config, the outermost first, and of its sections
    None: ("encoder", "cutting", "root", "skipped", "search", "files"),
    "encoder": ("identity", "dim"),
    "cutting": ("window", "hop", "long_files"),
    "search": ("kind",),
}


@dataclass(frozen=True)
class IndexedFile:
    """A file of an index.

    Attributes:
        path: below the folder of the sounds, with slashes.
        size: bytes.
        mtime_ns: time stamp.
        seconds: length of what was read.
        windows: number of its vectors.
    """

    path: str
    size: int
    mtime_ns: int
    seconds: float
    windows: int

    @property
    def key(self):
        """What tells a changed file."""
        return self.path, self.size, self.mtime_ns


class Hit(NamedTuple):
    """A sound that was found.

    Attributes:
        rank: from 1.
        number: of the file in the index.
        path: below the folder of the sounds.
        score: inner product with the query, at most 1.
        start: seconds at which its most similar window begins.
        seconds: length of the sound.
    """

    rank: int
    number: int
    path: str
    score: float
    start: float
    seconds: float


@dataclass
class SoundIndex:
    """An index that was made before, see :func:`load_index`.

    Attributes:
        folder: its directory.
        root: folder of the sounds.
        config: content of ``index.json`` without the files.
        files: all files.
        vectors: [windows, dim] float32, memory-mapped.
    """

    folder: Path
    root: Path
    config: dict
    files: list[IndexedFile]
    vectors: np.ndarray

    @property
    def identity(self) -> str:
        """Names the encoders that fit."""
        return self.config["encoder"]["identity"]

    @cached_property
    def first(self) -> np.ndarray:
        """[files + 1] number of the first vector of every file."""
        return np.concatenate([[0], np.cumsum([file.windows for file in self.files], dtype=np.int64)])

    @cached_property
    def nearest(self) -> Callable:
        """The search over single vectors, see :func:`helpers.nearest.searcher`."""
        return searcher(self.vectors, self.folder / FAISS, self.config["search"]["kind"])

    def path_of(self, number: int) -> Path:
        """The file of that number.

        Raises:
            IndexError: there is none.
        """
        if not 0 <= number < len(self.files):
            raise IndexError(f"sound {number}, expected one of {len(self.files)}")
        return self.root / self.files[number].path

    def require(self, encoder):
        """Raises ValueError where queries of an encoder cannot be compared with the sounds."""
        if encoder.identity != self.identity:
            raise ValueError(
                f"{self.folder}: made with '{self.identity}', expected '{encoder.identity}': "
                "search with the checkpoint of the index, or make the index again"
            )

    def search(self, vector: np.ndarray, top: int = 10) -> list[Hit]:
        """The sounds nearest to a query, each once, with its best window.

        Args:
            vector: [dim], of an encoder of the same identity.
            top: at most this many.

        Raises:
            ValueError: another dimension, values that are no finite numbers, or ``top`` below 1.
        """
        vector = np.asarray(vector, np.float32)
        dim = self.vectors.shape[1]
        if vector.shape != (dim,) or not np.isfinite(vector).all():
            raise ValueError(f"query vector of shape {vector.shape}, expected {dim} finite numbers")
        if top < 1:
            raise ValueError(f"top is {top}, expected at least 1")
        total = len(self.vectors)
        asked = top if total == len(self.files) else 4 * top
        while True:
            scores, rows = self.nearest(vector[None], min(asked, total))
            best = self._by_file(scores[0], rows[0])
            if len(best) >= min(top, len(self.files)) or asked >= total:
                return [self._hit(rank, *one) for rank, one in enumerate(best[:top], 1)]
            asked *= 4

    def _by_file(self, scores, rows):
        """(file, window, score) of the best window of every file."""
        found = {}
        for row, score in zip(rows.tolist(), scores.tolist()):
            if row >= 0:  # an approximate search may find fewer
                number = int(np.searchsorted(self.first, row, side="right")) - 1
                found.setdefault(number, (number, row - int(self.first[number]), score))
        return list(found.values())

    def _hit(self, rank, number, window, score):
        file = self.files[number]
        return Hit(rank, number, file.path, score, window * self.config["cutting"]["hop"], file.seconds)


def load_index(folder, encoder=None, root=None) -> SoundIndex:
    """Opens an index; its vectors stay on disk until they are used.

    Args:
        folder: of the index.
        encoder: of the queries; None: it is checked later, see :meth:`SoundIndex.require`.
        root: folder of the sounds, where it has been moved.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged or of another format, or was made with another checkpoint.
    """
    folder = Path(folder).expanduser()
    settle(folder)
    config, files = _read_config(folder)
    for file in files:
        # An index may come from somebody else: no entry reaches beyond the folder of the sounds.
        if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
            raise ValueError(f"{folder / CONFIG}: path {file.path!r} leads out of the folder of the sounds")
    try:
        vectors = np.lib.format.open_memmap(folder / VECTORS, mode="r")
    except Exception:  # what NumPy raises depends on where the file is cut
        raise ValueError(f"{folder / VECTORS}: missing or damaged, {AGAIN}") from None
    expected = (sum(file.windows for file in files), config["encoder"]["dim"])
    if vectors.shape != expected or vectors.dtype != np.float32:
        raise ValueError(f"{folder / VECTORS}: {vectors.dtype} {vectors.shape}, expected float32 {expected}: {AGAIN}")
    index = SoundIndex(folder, Path(root or config["root"]).expanduser(), config, files, vectors)
    if encoder is not None:
        index.require(encoder)
    index.nearest  # noqa: B018  opened now, so that a damaged file shows before the first query
    return index


def _read_config(folder):
    """The content of ``index.json`` without the files, and the files."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no index of sounds here ({CONFIG} is missing)")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = config["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: damaged, {AGAIN}") from None
    if found != FORMAT:
        raise ValueError(f"{path}: format {found}, expected {FORMAT}: {AGAIN}")
    for section, keys in KEYS.items():
        there = config if section is None else config[section]
        missing = [key for key in keys if not isinstance(there, dict) or key not in there]
        if missing:
            name = missing[0] if section is None else f"{section}.{missing[0]}"
            raise ValueError(f"{path}: no '{name}', {AGAIN}")
    try:
        files = [IndexedFile(**entry) for entry in config.pop("files")]
        odd = [file for file in files if not isinstance(file.path, str) or not isinstance(file.windows, int)]
    except TypeError:
        odd = True
    if odd:
        raise ValueError(f"{path}: files are damaged, {AGAIN}")
    return config, files


def settle(folder):
    """Takes back an index that a stopped run has moved away without having put the new one in its place."""
    if not folder.exists() and (retired(folder) / CONFIG).is_file():
        os.replace(retired(folder), folder)


def retired(folder) -> Path:
    """Where an index waits while a new one takes its place."""
    return folder.with_name(f".{folder.name}.old")
