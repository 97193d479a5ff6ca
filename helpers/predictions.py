"""Stored predictions: files in the published HDF5 layout, and the work that leads to one.

A file has ``filenames`` [clips] (clip ids) and ``strong_logits`` [clips, frames, classes]. It is written whole or not
at all, and the same logits give the same bytes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.scores import ScoreTable

BLOCK = 64  # clips that are read at once
SETTINGS = "settings"  # attribute of a file, JSON
SETTINGS_LIMIT = 60_000  # bytes; HDF5 keeps attributes of up to 64 KiB


class StoredPredictions:
    """A file of predictions; the logits stay in it until they are asked for.

    Objects may be pickled and used after a fork: every process opens the file for itself.

    Args:
        path: the HDF5 file.
        n_frames: the file must have as many frames; None takes any number.
        n_classes: and as many classes.
        hint: what stands behind the expected numbers, for the error message.

    Attributes:
        path: as a string.
        clips: clip ids.
        shape: (clips, frames, classes).
        dtype: of the logits in the file.
        settings: what the file was stored with (:class:`Partial`), None where that is not known.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as HDF5, lacks an entry, names a clip twice, or has another shape.
    """

    kind = "predictions"  # what messages call the contents

    def __init__(self, path, n_frames=None, n_classes=None, hint=""):
        self.path = str(path)
        self._file, self._process = None, None
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"no file of {self.kind} {self.path}")
        with self._errors(), self._open() as file:
            for name in ("filenames", "strong_logits"):
                if name not in file:
                    raise ValueError(f"{self.path}: no entry '{name}', expected 'filenames' and 'strong_logits'")
            self.clips = tuple(file["filenames"].asstr()[:])
            self.shape, self.dtype = file["strong_logits"].shape, file["strong_logits"].dtype
            settings = file.attrs.get(SETTINGS)
        self.settings = None if settings is None else json.loads(settings)
        self.require(n_frames, n_classes, hint)
        self._rows = {clip: row for row, clip in enumerate(self.clips)}
        if len(self._rows) < len(self.clips):
            raise ValueError(f"{self.path}: clip '{first_duplicate(self.clips)}' is there twice")

    def __len__(self):
        return len(self.clips)

    def __contains__(self, clip):
        return clip in self._rows

    def require(self, n_frames=None, n_classes=None, hint=""):
        """Raises ValueError unless there is a row of so many frames and classes for every clip."""
        frames, classes = self.shape[1:] if len(self.shape) == 3 else (None, None)
        expected = (len(self.clips), n_frames or frames, n_classes or classes)
        if self.shape != expected:
            raise ValueError(
                f"{self.path}: strong_logits has shape {self.shape}, expected {expected}: clips, frames, classes{hint}"
            )

    def rows(self, clips):
        """Positions of these clips in the file.

        Raises:
            ValueError: a clip is not in the file.
        """
        missing = [clip for clip in clips if clip not in self._rows]
        if missing:
            raise ValueError(f"{self.path}: no {self.kind} for {len(missing)} of {len(clips)} clips: {missing[0]}")
        return np.array([self._rows[clip] for clip in clips], dtype=np.int64)

    def logits(self, rows):
        """Logits [n, frames, classes] float32 of the clips at these positions, or in this slice of them.

        Raises:
            ValueError: one of them is no finite number, or the file is broken there.
        """
        rows = np.arange(len(self.clips))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        ascending, back = np.unique(rows, return_inverse=True)  # HDF5 reads no other order
        together = ascending.size and ascending[-1] - ascending[0] == ascending.size - 1
        selected = slice(ascending[0], ascending[-1] + 1) if together else ascending
        # A handle that was opened before a fork must not be used after it.
        if self._file is None or self._process != os.getpid():
            self._file, self._process = self._open(), os.getpid()
        with self._errors():
            logits = self._file["strong_logits"][selected].astype(np.float32)[back]
        finite = np.isfinite(logits).all((1, 2))
        if not finite.all():
            clip = self.clips[rows[finite.argmin()]]
            raise ValueError(f"{self.path}: NaN or infinite logits, first in clip '{clip}'")
        return logits

    def table(self, timestamps, labels: Sequence[str], clips: Sequence[str] | None = None) -> ScoreTable:
        """Probabilities, float32, of all clips or of those named, in that order.

        Args:
            timestamps: [frames + 1] frame boundaries in seconds.
            labels: names of the classes.
            clips: clip ids.

        Raises:
            ValueError: a clip is not in the file, its logits are no finite numbers, or timestamps and labels are
                others than the frames and classes of the file.
        """
        from scipy.special import expit

        timestamps, clips = np.asarray(timestamps, dtype=np.float64), self.clips if clips is None else tuple(clips)
        self.require(len(timestamps) - 1, len(labels))
        rows = self.rows(clips)
        scores = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            expit(self.logits(rows[block]), out=scores[block])
        return ScoreTable(clips, scores, timestamps, tuple(labels))

    def _open(self):
        import h5py  # only those who use stored predictions pay for the import

        with self._errors():
            return h5py.File(self.path, "r")

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise ValueError(f"{self.path}: not readable as HDF5 ({str(error).splitlines()[0]})") from None

    def __getstate__(self):
        return {**self.__dict__, "_file": None, "_process": None}


class Partial:
    """Predictions of a data set while they are made, batch by batch; a process may be killed at any moment.

    Batch b holds the clips b * batch_size and following, whoever computes it and in whatever order. A batch is a file
    of its own, written and renamed, in a hidden folder beside the final file. Several processes may store batches at
    once, also the same ones. The folder is named after all that decides on the contents, so work that was done with
    other settings is never taken up.

    Args:
        path: the final file.
        clips: clip ids of the data set, in the order of its items.
        shape_per_clip: (frames, classes).
        dtype: of the logits in the file; those beyond its range (65,504 for float16) are clipped.
        settings: of whatever the logits depend on, in terms of JSON; stored in the file.
        batch_size: clips.
        overwrite: replace a file that is none of these predictions; one that is stays, its bytes would be the same.

    Raises:
        ValueError: a clip has the name of another, or (unless ``overwrite``) the final file is there but cannot be
            read or was stored with other settings.
    """

    def __init__(
        self,
        path,
        clips: Sequence[str],
        shape_per_clip: tuple[int, int],
        dtype=np.float16,
        *,
        settings: Mapping,
        batch_size: int,
        overwrite: bool = False,
    ):
        self.path, self.clips = Path(path), tuple(clips)
        if len(set(self.clips)) < len(self.clips):
            raise ValueError(f"{self.path}: two clips are called '{first_duplicate(self.clips)}'")
        self.shape_per_clip, self.dtype = tuple(shape_per_clip), np.dtype(dtype)
        self.batch_size, self.overwrite = batch_size, overwrite
        self.n_batches = -(-len(self.clips) // batch_size)
        self.settings = canonical({
            **settings, "batch_size": batch_size, "dtype": self.dtype.name, "shape_per_clip": self.shape_per_clip,
            "clips": f"{len(self.clips)} (sha256 {digest(canonical(self.clips))})",
        })  # fmt: skip
        if len(self.settings) > SETTINGS_LIMIT:
            raise ValueError(f"{self.path}: settings of {len(self.settings)} bytes, at most {SETTINGS_LIMIT} fit in")
        self.folder = self.path.with_name(f".{self.path.name}.{digest(self.settings)}")
        self.complete()

    def complete(self) -> bool:
        """Whether the final file is there; ValueError if that is another one and shall not be replaced."""
        if not self.path.is_file():
            return False
        try:
            there = StoredPredictions(self.path).settings
            if there is None:
                raise ValueError(f"{self.path} does not say what it was stored with")
            change = difference(there, json.loads(self.settings))
            if change:
                raise ValueError(f"{self.path} was stored with {change}")
        except ValueError as error:
            if self.overwrite:
                return False
            raise ValueError(f"{error}; choose another out_name, or overwrite=True") from None
        return True

    def batch(self, number: int) -> range:
        """Positions of the clips of a batch."""
        return range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.clips)))

    def todo(self) -> list[int]:
        """Numbers of the batches that are not stored yet."""
        try:
            done = set(os.listdir(self.folder))
        except FileNotFoundError:
            done = set()
        # Only now: another process may be finishing, and makes the file before it removes the batches.
        if self.complete():
            return []
        return [number for number in range(self.n_batches) if self._file(number).name not in done]

    def put(self, number: int, rows):
        """Stores a batch of logits [n, frames, classes], which is safe when this returns.

        Raises:
            ValueError: another shape than that of the batch, or a logit that is no number.
        """
        rows, clips = np.asarray(rows, dtype=np.float64), self.batch(number)
        expected = (len(clips), *self.shape_per_clip)
        if rows.shape != expected:
            raise ValueError(f"{self.path}: logits of batch {number} have shape {rows.shape}, expected {expected}")
        broken = np.isnan(rows).any((1, 2))
        if broken.any():
            raise ValueError(f"{self.path}: the model predicts NaN for clip '{self.clips[clips[broken.argmax()]]}'")
        largest = float(np.finfo(self.dtype).max)
        with replacing(self._file(number)) as temporary, open(temporary, "wb") as file:
            file.write(rows.clip(-largest, largest).astype(self.dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def finish(self):
        """Makes the final file of all batches and removes them.

        Raises:
            ValueError: batches are missing.
        """
        missing = self.todo()
        if missing:
            raise ValueError(f"{self.path}: {len(missing)} of {self.n_batches} batches are not stored yet")
        if not self.complete():
            # In the folder, so that a process killed here leaves nothing behind that the next one does not remove.
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f"{os.getpid()}.hdf5"
            with new_file(temporary, self.clips, self.shape_per_clip, self.dtype, self.settings) as logits:
                for number in range(self.n_batches):
                    clips = self.batch(number)
                    rows = np.fromfile(self._file(number), dtype=self.dtype)
                    logits[clips.start : clips.stop] = rows.reshape(len(clips), *self.shape_per_clip)
            os.replace(temporary, self.path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number):
        return self.folder / f"{number:06d}.rows"


@contextmanager
def new_file(path, clips: Sequence[str], shape_per_clip, dtype, settings: str | None = None):
    """Creates a file of predictions; gives its ``strong_logits`` [clips, frames, classes] to be filled.

    Old format, fixed-length names and no time stamps: the same contents are the same bytes.
    """
    import h5py

    names = [clip.encode() for clip in clips]
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        name_type = h5py.string_dtype("utf-8", max(map(len, names), default=1))
        file.create_dataset("filenames", data=np.array(names, dtype=name_type), track_times=False)
        logits = file.create_dataset("strong_logits", (len(names), *shape_per_clip), dtype, track_times=False)
        if settings is not None:
            file.attrs.create(SETTINGS, settings.encode(), dtype=h5py.string_dtype("utf-8", len(settings.encode())))
        yield logits
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def canonical(values) -> str:
    """JSON that depends on nothing but the values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """What tells one text from others."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(there, here, name="") -> str | None:
    """The first entry in which two nested settings differ, in words; None if they are the same."""
    if isinstance(there, dict) and isinstance(here, dict):
        below = (difference(there.get(key), here.get(key), f"{name}.{key}") for key in sorted({*there, *here}))
        return next((found for found in below if found), None)
    return None if there == here else f"{name.lstrip('.')}={there!r}, this run has {here!r}"


def first_duplicate(names: Sequence[str]) -> str:
    """The first name that was there before."""
    seen = set()
    return next(name for name in names if name in seen or seen.add(name))
