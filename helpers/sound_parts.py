"""Embedding of many sound files: decoded ahead by threads, cut into windows, results kept until all are done."""

import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.inference import Recording, Skipped, process
from helpers.windows import in_samples, sliding

PART_SECONDS = 5.0  # what a killed run repeats at most
BLOCKS = 64  # of a file wait to be used, as the reader cuts them
SHORTEST = 0.1  # share of a window that a rest at the end of a recording must fill to count as one
UNIT = 0.01  # deviation of the norm of a vector from 1, for encoders that compute in 16 bits


@dataclass(frozen=True)
class Cutting:
    """How files are cut; all in seconds.

    Attributes:
        window: length of a window.
        hop: from one window to the next.
        long_files: "windows", or "start" for the first one only.
    """

    window: float
    hop: float
    long_files: str

    @classmethod
    def of(cls, encoder, window=None, hop=None, long_files="windows"):
        """With the defaults of an encoder.

        Raises:
            ValueError: a window that is longer than the encoder takes, or another impossible value.
        """
        window = float(encoder.max_seconds if window is None else window)
        hop = float(window if hop is None else hop)
        if long_files not in ("windows", "start"):
            raise ValueError(f"long_files is {long_files!r}, expected 'windows' or 'start'")
        if window > encoder.max_seconds:
            raise ValueError(f"window is {window:g} s, expected at most the {encoder.max_seconds:g} s of the encoder")
        for name, seconds in (("window", window), ("hop", hop)):
            in_samples(seconds, encoder.sample_rate, name)
        if hop > window:
            raise ValueError(f"hop is {hop:g} s, expected at most the window of {window:g} s")
        return cls(window, hop, long_files)

    def windows(self, blocks, sample_rate, shortest=None):
        """Windows of a recording, see :func:`helpers.windows.sliding`.

        Args:
            blocks: the recording.
            sample_rate: Hz.
            shortest: seconds to which the last window is filled up; None: a whole window.
        """
        size = in_samples(self.window, sample_rate, "window")
        at_least = None if shortest is None else in_samples(shortest, sample_rate, "min_seconds")
        return sliding(blocks, size, in_samples(self.hop, sample_rate, "hop"), at_least)


@dataclass(frozen=True)
class Embedded:
    """A file and its vectors.

    Attributes:
        path: of the file.
        seconds: its length, as far as it was read.
        vectors: [windows, dim] float32.
    """

    path: str
    seconds: float
    vectors: np.ndarray


def beginning(blocks: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Blocks of the first samples of a recording; the rest is not read."""
    with closing(iter(blocks)) as blocks:
        for block in blocks:
            yield block[:samples]
            samples -= len(block)
            if samples <= 0:
                return


class ReadAhead:
    """A reader of recordings that several threads decode before they are asked for, which must be in their order.

    In memory are ``BLOCKS`` blocks of each of the recordings on their way, however long these are.

    Args:
        paths: of the recordings.
        read: callable (path, sample rate) -> blocks.
        sample_rate: Hz.
        workers: threads.
        files: recordings on their way.
    """

    def __init__(self, paths: Iterable, read: Callable, sample_rate: int, workers: int, files: int):
        self.paths, self.read, self.sample_rate = iter(paths), read, sample_rate
        self.files, self.waiting = max(files, workers), deque()
        self.stop, self.pool = threading.Event(), ThreadPoolExecutor(workers, "decode")

    def __call__(self, path, sample_rate):
        while len(self.waiting) < self.files and (other := next(self.paths, None)) is not None:
            line = queue.Queue(BLOCKS)
            self.waiting.append((str(other), line))
            self.pool.submit(self._decode, other, line)
        expected, line = self.waiting.popleft()
        if (expected, self.sample_rate) != (str(path), sample_rate):
            raise RuntimeError(f"{path} at {sample_rate} Hz is read before {expected} at {self.sample_rate} Hz")
        while (item := line.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _decode(self, path, line):
        try:
            with closing(iter(self.read(path, self.sample_rate))) as blocks:
                for block in blocks:
                    if not self._offer(line, block):
                        return
        except OSError as error:
            self._offer(line, ValueError(str(error) if error.strerror is None else f"{path}: {error.strerror}"))
        except UnicodeError:  # libsndfile is given names as UTF-8
            name = str(path).encode("utf-8", "replace").decode("utf-8")
            self._offer(line, ValueError(f"{name}: the name is no text, expected one in UTF-8"))
        except Exception as error:  # raised again where the recording is used
            self._offer(line, error)
        self._offer(line, None)

    def _offer(self, line, item):
        while not self.stop.is_set():
            try:
                line.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)


class _Runner:
    """An encoder in the form of :func:`helpers.inference.process`."""

    def __init__(self, encoder):
        self.encoder, self.sample_rate = encoder, encoder.sample_rate

    def __call__(self, waveforms):
        vectors = np.asarray(self.encoder(waveforms), np.float32)
        expected = (len(waveforms), self.encoder.dim)
        if vectors.shape != expected:
            raise ValueError(f"encoder '{self.encoder.identity}' gives {vectors.shape}, expected {expected}")
        return (vectors,)


def embed_files(
    paths: Sequence, encoder, read: Callable, cutting: Cutting, batch_size: int = 8, workers: int | None = None
) -> Iterator[Embedded | Skipped]:
    """Vectors of all windows of files; what is computed does not depend on the timing of the threads.

    Args:
        paths: of the files.
        encoder, read: see :func:`helpers.sound_index.build_index`.
        cutting: the windows.
        batch_size: windows in a batch.
        workers: threads that decode; None: one per core, at most 8.

    Yields:
        the result of every file in its turn.

    Raises:
        ValueError: the encoder does not keep its promises.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if min(workers, batch_size) < 1:
        raise ValueError(f"workers is {workers} and batch_size {batch_size}, expected at least 1 of both")
    rate = encoder.sample_rate
    size, shortest = in_samples(cutting.window, rate, "window"), getattr(encoder, "min_seconds", None)

    def part(path, sample_rate):
        blocks = read(path, sample_rate)
        return blocks if cutting.long_files == "windows" else beginning(blocks, size)

    def make(recording: Recording, outputs) -> Embedded | Skipped:
        vectors = []
        for window, (vector,) in outputs:
            if window.start == 0 or window.valid >= SHORTEST * size:
                vectors.append(vector)
        vectors = np.stack(vectors)
        deviation = np.abs(np.linalg.norm(vectors, axis=1) - 1).max()
        if not deviation < UNIT:  # also where it is no number
            reason = f"{recording.path}: embedding deviates from norm 1 by {deviation:.3g}, expected a unit vector"
            return Skipped(recording.path, reason)
        return Embedded(recording.path, recording.samples / rate, vectors)

    with ReadAhead(paths, part, rate, workers, files=batch_size + workers) as ahead:
        runner = _Runner(encoder)
        yield from process(
            paths, runner, ahead, lambda blocks: cutting.windows(blocks, rate, shortest), make, batch_size
        )


class Parts:
    """Results beside the directory that they will be in, written every few seconds and when the block ends.

    Args:
        folder: the directory.
        settings: whatever the vectors depend on, in terms of JSON.
        kind: dataclass of the entries of files, with ``key`` and ``windows``.
    """

    def __init__(self, folder, settings, kind: Callable):
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(folder).with_name(f".{Path(folder).name}.{digest}.parts")
        self.kind, self.entries, self.vectors = kind, [], []
        self.number = sum(1 for _ in self.folder.glob("*.json"))

    def put(self, entry, vectors: np.ndarray):
        """Keeps the vectors [windows, dim] of a file."""
        self.entries.append(entry)
        self.vectors.append(vectors)
        if time.monotonic() >= self.due:
            self.write()

    def write(self):
        """Writes what has come since the last time."""
        if self.entries:
            part = self.folder / f"{self.number:06}-{os.getpid()}-{time.time_ns()}"
            with replacing(part.with_suffix(".npy")) as temporary, open(temporary, "wb") as file:
                np.save(file, np.concatenate(self.vectors))
            with replacing(part.with_suffix(".json")) as temporary:  # last: only now the part counts
                temporary.write_text(json.dumps([asdict(entry) for entry in self.entries]))
            self.number += 1
        self.entries, self.vectors, self.due = [], [], time.monotonic() + PART_SECONDS

    def sources(self) -> dict:
        """Key of a file -> its entry, an array with its vectors, and the first row."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            vectors, row = np.load(path.with_suffix(".npy"), mmap_mode="r"), 0
            for entry in map(lambda fields: self.kind(**fields), json.loads(path.read_text())):
                found[entry.key] = entry, vectors, row
                row += entry.windows
        return found

    def remove(self):
        """Deletes the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        self.due = time.monotonic() + PART_SECONDS
        return self

    def __exit__(self, *_):
        self.write()
