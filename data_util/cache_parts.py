"""Making of HDF5 files that a killed process leaves half done and the next one completes; a pool to share the work."""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_util.hdf5_audio import Hdf5File
from helpers.files import replacing
from helpers.predictions import SETTINGS, canonical, difference, digest


class Parts:
    """An HDF5 file while it is made: finished parts of it in a hidden folder beside it.

    Args:
        path: of the file.
        settings: what it is made with, in terms of JSON. The folder is named after them.

    Raises:
        ValueError: the file is there and was made with other settings.
    """

    def __init__(self, path, settings):
        self.path = Path(path)
        self.settings = canonical(dict(settings))
        self.folder = self.path.with_name(f".{self.path.name}.{digest(self.settings)}")
        if self.path.is_file():
            with Hdf5File(self.path).open() as file:
                require_settings(self.path, file.attrs.get(SETTINGS), json.loads(self.settings), known=True)

    @contextmanager
    def locked(self):
        """Keeps other processes from building the same file; the lock goes with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"{self.path} is being written by another process") from None
            yield
        if not self._parts():
            shutil.rmtree(self.folder, ignore_errors=True)

    def stamps(self) -> dict[str, list[int]]:
        """Clip id -> stamp of the audio file, of the final file's clips."""
        if not self.path.is_file():
            return {}
        with Hdf5File(self.path).open() as file:
            return {clip: np.atleast_1d(values.attrs.get("stamp", ())).tolist() for clip, values in file.items()}

    def done(self) -> dict[str, list[int] | None]:
        """Name -> stamp of what the finished parts hold."""
        return {name: stamp for part in self._parts() for name, stamp, *_ in _entries(part)}

    def finish(self, write: Callable):
        """Replaces the final file by one that also has the parts, and removes those."""
        import h5py

        with replacing(self.path) as temporary:
            if self.path.is_file():
                shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "a") as file:
                file.attrs[SETTINGS] = self.settings
                write(file, self._read())
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        self.clear()

    def clear(self):
        """Removes the parts."""
        for part in self._parts():
            part.unlink()

    def _parts(self):
        # In the order in which they were written: of two parts with one clip the later one counts.
        return sorted(self.folder.glob("*.npz"), key=lambda part: (part.stat().st_mtime_ns, part.name))

    def _read(self) -> Iterator:
        for part in self._parts():
            with np.load(part, allow_pickle=False) as arrays:
                yield json.loads(str(arrays["entries"])), arrays


def write_part(folder, entries, arrays):
    """Stores arrays and what they are of: (name, stamp, ...), with numbers for arrays of single clips."""
    text = json.dumps(entries)
    with replacing(Path(folder) / f"{digest(text)}.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, entries=np.array(text), **arrays)
        file.flush()
        os.fsync(file.fileno())


def _entries(part):
    with np.load(part, allow_pickle=False) as arrays:
        return json.loads(str(arrays["entries"]))


def require_settings(path, stored, settings, known=False):
    """Raises ValueError where a file was made with other settings, or, if they must be ``known``, does not say so."""
    if stored is None and known:
        raise ValueError(f"{path} does not say what it was made with, so nothing can be added: choose another file")
    change = difference(json.loads(stored), json.loads(canonical(settings))) if stored and settings else None
    if change:
        raise ValueError(f"{path} was made with {change}: choose another file or remove it")


# -- work -------------------------------------------------------------------------------------------------------------
def in_pool(function: Callable, shared, jobs: Sequence, workers: int, processes: bool, title: str) -> Iterator:
    """Results of ``function(shared, job)`` in the order of the jobs, in threads or in processes that are not forked."""
    if workers <= 1 or len(jobs) <= 1:
        yield from (function(shared, job) for job in tqdm(jobs, title, disable=None))
        return
    if processes:
        # Not forked: threads of numerical libraries do not survive that.
        pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), _remember, (function, shared))
        results = pool.map(_call, jobs)
    else:
        pool = ThreadPoolExecutor(min(workers, len(jobs)))
        results = pool.map(lambda job: function(shared, job), jobs)
    try:
        yield from tqdm(results, title, len(jobs), disable=None)
    finally:
        pool.shutdown(cancel_futures=True)


_work = None  # in a worker process: the function and what all its calls share


def _remember(function, shared):
    global _work
    _work = function, shared
    # A killed program cannot stop its workers, and they would wait for work forever.
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _call(job):
    function, shared = _work
    return function(shared, job)
