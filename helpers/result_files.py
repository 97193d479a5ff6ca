"""Files of results: kinds by suffix, arrays that grow, and storage of a run that is not finished."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from helpers.files import replacing


def require_suffix(path, suffixes: Sequence[str]):
    """Raises ValueError unless a file has one of these suffixes."""
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"{path}: unknown kind of file, expected one of {', '.join(suffixes)}")


class NpzArrays:
    """Arrays that grow along their first axis, in an npz file when the block ends."""

    def __init__(self, path):
        self.path, self.parts = path, {}

    def append(self, name, rows):
        """Adds rows, an array or a list of texts."""
        self.parts.setdefault(name, []).append(np.asarray(rows))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            with open(self.path, "wb") as file:  # np.savez would add a suffix to the temporary name
                np.savez_compressed(file, **{name: np.concatenate(parts) for name, parts in self.parts.items()})


class Hdf5Arrays:
    """The same in an HDF5 file, which holds them from the first row on."""

    def __init__(self, path):
        import h5py

        self.file = h5py.File(path, "w")
        self.text = h5py.string_dtype()

    def append(self, name, rows):
        """See :class:`NpzArrays`."""
        rows = np.array(rows, dtype=self.text) if isinstance(rows, list) else rows
        if name not in self.file:
            self.file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]), chunks=True)
            return
        entry = self.file[name]
        entry.resize(len(entry) + len(rows), axis=0)
        entry[len(entry) - len(rows) :] = rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


class Unfinished:
    """Results beside the file that they will be in, one per recording: a run that was stopped goes on from there.

    They lie in a hidden folder named after all that decides on them, each under a name that also hangs on the size and
    time stamp of its recording: nothing is taken up that would come out differently now.

    Args:
        out: the final file.
        settings: whatever the results depend on, in terms of JSON.
        kind: class of the results: a path, and arrays as further attributes.
    """

    def __init__(self, out, settings, kind: Callable):
        self.out, self.kind = Path(out), kind
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = self.out.with_name(f".{self.out.name}.{digest}")

    def __contains__(self, path) -> bool:
        return os.path.isfile(path) and self._file(path).is_file()

    def put(self, result):
        """Keeps the result of a recording."""
        arrays = {name: value for name, value in vars(result).items() if name != "path"}
        with replacing(self._file(result.path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def results(self, paths: Iterable) -> Iterator:
        """The results that are there, in the order of the recordings."""
        for path in paths:
            if path in self:
                with np.load(self._file(path)) as content:
                    yield self.kind(str(path), **content)

    @contextmanager
    def finishing(self):
        """Removes the folder when the block ends well."""
        yield self
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, path):
        status = os.stat(path)
        key = f"{path}|{status.st_size}|{status.st_mtime_ns}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
