"""Stored logits of a teacher, by which a small network learns from a large one.

Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation", 2023, and "Effective
Pre-Training of Audio Transformers for Sound Event Detection", 2025, where the teacher is an ensemble.
"""

import json
import logging
import os
import pickle
from collections import Counter

import numpy as np

from data_util.errors import DataMissing, TableError
from data_util.hdf5_audio import Hdf5File
from helpers.files import clip_id

logger = logging.getLogger(__name__)

HDF5_SUFFIXES = (".hdf5", ".hdf", ".h5")
YOUTUBE_ID = 11  # characters; AudioSet's files have a "Y" before it, the public index has not


class TeacherLogits:
    """Logits per clip, in the public layout (``.npy`` and an index) or as HDF5 with ``filenames`` and ``logits``.

    The numbers stay on the disk until a clip is asked for. Objects may be pickled and used after a fork.

    Args:
        path: ``.npy`` [clips, classes], or HDF5; the config entry ``teacher_preds``.
        index: of ``.npy``: ``.pkl`` or ``.json`` with {file name: row}; the config entry ``fname_to_index``.
        classes: the file must have as many.
        frames: of a teacher of frame-wise networks, [clips, classes, frames], which is called ``strong_logits`` in
            HDF5; the file must have as many.

    Attributes:
        shape: of the logits of a clip.

    Raises:
        DataMissing: a file is not there, or no index was given.
        TableError: a file cannot be read, has another number of classes or frames, or the index names a row that is not
            there.
    """

    def __init__(self, path, index=None, classes=527, frames=None):
        self.path = os.path.expanduser(str(path))
        self.entry, self.shape = ("logits", (classes,)) if frames is None else ("strong_logits", (classes, frames))
        self.packed = self.path.lower().endswith(HDF5_SUFFIXES)
        if not os.path.isfile(self.path):
            raise DataMissing(f"no teacher logits data.teacher_preds = {path}")
        self._hdf5, self._memory = Hdf5File(self.path), None
        shape = self._logits().shape
        if shape[1:] != self.shape:
            expected = ", ".join(map(str, ("clips", *self.shape)))
            raise TableError(f"{self.path}: {self.entry} have shape {shape}, expected ({expected})")
        self._rows = _filenames(self._hdf5, self.entry) if self.packed else _read_index(index)
        self._hdf5 = Hdf5File(self.path)  # closed here, so that no process inherits it
        last = max(self._rows.values(), default=-1)
        if last >= shape[0]:
            raise TableError(f"{index}: names row {last}, but {self.path} has {shape[0]}")

    def rows(self, names):
        """[clips] row of every clip, -1 where the teacher does not know it.

        Names may have a folder, an audio suffix and, before a YouTube id, a "Y", as in AudioSet. Frame-wise, the file
        may also have the latter as the published code shortens them: without any of the letters ".mp3" at the end.
        Where clips of several folders are called alike, the file must name them with their folders.

        Raises:
            ValueError: it knows none of them.
            TableError: clips of several folders would share a row.
        """
        rows = np.array([self._row(name) for name in names], dtype=np.int64)
        self._require_apart(names, rows)
        unknown = int((rows < 0).sum())
        if unknown == len(rows):
            raise ValueError(f"{self.path}: no logits for any of the {len(rows)} clips, the first is {names[0]}")
        if unknown:
            logger.info("%d of %d clips have no teacher logits in %s", unknown, len(rows), self.path)
        return rows

    def __getitem__(self, row):
        """[classes], or [classes, frames], float32 of that row."""
        return np.array(self._logits()[row], dtype=np.float32)

    def __getstate__(self):
        # A memory map would travel to other processes as a copy of all it holds; rows are known by then.
        return {**self.__dict__, "_memory": None, "_rows": {}}

    def _require_apart(self, names, rows):
        first = {}
        for name, row in zip(names, rows.tolist()):
            other = first.setdefault((row, clip_id(name)), name)
            if row >= 0 and other != name:
                raise TableError(f"{self.path}: row {row} is both {other} and {name}, expected both with their folders")

    def _row(self, name):
        stem = clip_id(name)
        places = str(name).replace("\\", "/").split("/")
        candidates = [name, *("/".join(places[first:]) for first in range(1, len(places))), stem]
        if stem.startswith("Y") and len(stem) == YOUTUBE_ID + 1:
            candidates.append(stem[1:])
            if self.entry == "strong_logits":
                candidates.append(stem.rstrip(".mp3"))
        return next((self._rows[candidate] for candidate in candidates if candidate in self._rows), -1)

    def _logits(self):
        if self.packed:
            return _entry(self._hdf5, self.entry, self.entry)
        if self._memory is None:
            try:
                self._memory = np.load(self.path, mmap_mode="r")
            except (ValueError, OSError) as error:
                raise TableError(f"{self.path}: not readable as .npy ({str(error).splitlines()[0]})") from None
        return self._memory


class _PlainUnpickler(pickle.Unpickler):
    """Of containers, text and numbers: a downloaded index needs no more, and a pickle could run anything."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"holds {module}.{name}, expected a plain dict")


def _entry(file, name, logits):
    try:
        return file[name]
    except KeyError:
        raise TableError(f"{file.path}: no entry '{name}', expected 'filenames' and '{logits}'") from None


def _filenames(file, logits):
    """{name: row}, of whole names, and of bare ones that are there once."""
    names = _entry(file, "filenames", logits).asstr()[:]
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        raise TableError(f"{file.path}: {len(names) - len(rows)} file names are there twice")
    bare = [clip_id(name) for name in names]
    count = Counter(bare)
    return {**{name: row for row, name in enumerate(bare) if count[name] == 1}, **rows}


def _read_index(path):
    if path is None or not os.path.isfile(os.path.expanduser(str(path))):
        raise DataMissing(f"no index of the teacher logits data.fname_to_index = {path}")
    path = os.path.expanduser(str(path))
    try:
        with open(path, "rb") as file:
            rows = json.load(file) if path.endswith(".json") else _PlainUnpickler(file).load()
        return {str(name): int(row) for name, row in rows.items()}
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, AttributeError) as error:
        raise TableError(f"{path}: no index from file names to rows ({error})") from None
