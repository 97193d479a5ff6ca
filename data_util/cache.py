"""A cache of decoded audio: one memory-mapped PCM file and one index per folder of audio files.

Training reads every file again in every epoch; from the cache that is a copy of memory pages instead of opening and
decoding (and resampling) a file. Samples are those that :func:`data_util.audio.read` gives: 16-bit mono files of
the right sample rate are stored as they are, all others as float32.

A cache folder has ``<sample rate>/<name>.pcm`` and ``<name>.json``. The PCM file only ever grows, and the index
replaces its predecessor when it is complete, so a build that is stopped continues where the last index ends, and
readers never see half of anything.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from data_util.audio import read
from data_util.errors import BadAudio

logger = logging.getLogger(__name__)

FIELDS = ("offset", "samples", "bytes_per_sample", "size", "mtime_ns")
TYPES = {2: np.dtype("<i2"), 4: np.dtype("<f4")}
ALIGNMENT = 4
BATCH = 64  # files decoded at a time: bounds the memory, whatever the disk's speed
BATCHES_PER_INDEX = 32


def build_cache(files, folder, sample_rate=16000, workers=None):
    """Adds audio files to a cache; those that it already has and that did not change are left alone.

    Args:
        files: paths of audio files.
        folder: of the cache.
        sample_rate: Hz; files of other rates are resampled.
        workers: threads that decode; None: as many as there are cores.

    Returns:
        number of files that were added. Files that cannot be read are named in the log and left out.

    Raises:
        RuntimeError: another process is building the same cache.
    """
    by_parent = {}
    for path in files:
        by_parent.setdefault(_parent(path), []).append(os.path.basename(path))
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return sum(_build_one(parent, names, folder, sample_rate, pool) for parent, names in by_parent.items())


class CachedAudio:
    """Reads waveforms from a cache.

    Args:
        folder: of the cache.
        sample_rate: Hz.
    """

    def __init__(self, folder, sample_rate=16000):
        self.folder, self.sample_rate = str(folder), sample_rate
        self._open = {}
        self._warned = set()

    def read(self, path):
        """Waveform [samples] of an audio file, int16 or float32, memory-mapped.

        Returns:
            None when the cache does not have the file as it is now; a file that changed since is named in the log.
        """
        parent = _parent(path)
        if parent not in self._open:
            self._open[parent] = self._map(parent)
        pcm, entries = self._open[parent]
        entry = entries.get(os.path.basename(path))
        if entry is None:
            return None
        offset, samples, width, *stamp = entry
        if stamp != _stamp(path):
            if parent not in self._warned:
                self._warned.add(parent)
                logger.warning("%s changed since it was cached in %s; build the cache again", path, self.folder)
            return None
        return pcm[offset : offset + samples * width].view(TYPES[width])

    def _map(self, parent):
        """Bytes and entries of one audio folder; empty ones when the cache does not have it."""
        pcm_path, index_path = _paths(self.folder, self.sample_rate, parent)
        entries = _read_index(index_path)
        if not entries or not pcm_path.is_file():
            return None, {}
        if os.path.getsize(pcm_path) < _end(entries):
            logger.warning("%s is shorter than its index says; build the cache again", pcm_path)
            return None, {}
        return np.memmap(pcm_path, dtype=np.uint8, mode="r"), entries

    def __getstate__(self):
        # A memory map would travel to other processes as a copy of all it holds.
        return {**self.__dict__, "_open": {}}


def _build_one(parent, names, folder, sample_rate, pool):
    """Caches files of one audio folder; returns how many were added."""
    pcm_path, index_path = _paths(folder, sample_rate, parent)
    pcm_path.parent.mkdir(parents=True, exist_ok=True)
    with open(pcm_path, "ab") as pcm:
        try:
            fcntl.flock(pcm, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{pcm_path} is being written by another process") from None
        entries = _read_index(index_path)
        if pcm.tell() < _end(entries):  # the PCM file was cut: nothing in it can be trusted
            entries = {}
        pcm.seek(pcm.truncate(_end(entries)))
        todo = [name for name in dict.fromkeys(names) if not _fresh(entries, parent, name)]
        added = 0
        for number, first in enumerate(range(0, len(todo), BATCH)):
            batch = todo[first : first + BATCH]
            for name, decoded in zip(batch, pool.map(lambda name: _decode(parent, name, sample_rate), batch)):
                if decoded is not None:
                    entries[name] = _append(pcm, *decoded)
                    added += 1
            if number % BATCHES_PER_INDEX == BATCHES_PER_INDEX - 1:
                _write_index(index_path, pcm, parent, entries)
        if added:
            _write_index(index_path, pcm, parent, entries)
    return added


def _decode(parent, name, sample_rate):
    """Samples and stamp of a file; None if it cannot be read."""
    path = os.path.join(parent, name)
    try:
        stamp = _stamp(path)
        audio = read(path, sample_rate, resample=True)
        info = soundfile.info(path)
    except (BadAudio, OSError, soundfile.SoundFileError) as error:
        logger.warning("%s; left out of the cache", error)
        return None
    if (info.subtype, info.channels, info.samplerate) == ("PCM_16", 1, sample_rate):
        audio = (audio * 32768).astype(np.int16)  # exact: these floats are multiples of 1 / 32768
    return audio, stamp


def _append(pcm, audio, stamp):
    """Writes samples at the end; returns their index entry."""
    pcm.write(bytes(-pcm.tell() % ALIGNMENT))
    offset = pcm.tell()
    pcm.write(audio.astype(TYPES[audio.itemsize], copy=False).tobytes())
    return [offset, len(audio), audio.itemsize, *stamp]


def _write_index(path, pcm, parent, entries):
    """Replaces the index, after what it describes is on the disk."""
    pcm.flush()
    os.fsync(pcm.fileno())
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps({"folder": parent, "fields": FIELDS, "files": entries}))
    os.replace(temporary, path)


def _read_index(path):
    """Entries by file name: lists in the order of :data:`FIELDS`; none if there is no index that can be read."""
    try:
        return json.loads(path.read_text())["files"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError):
        logger.warning("%s is no index of cached audio; build the cache again", path)
        return {}


def _fresh(entries, parent, name):
    path = os.path.join(parent, name)
    return name in entries and os.path.isfile(path) and entries[name][-2:] == _stamp(path)


def _end(entries):
    """Bytes of the PCM file that the entries describe."""
    return max((offset + samples * width for offset, samples, width, *_ in entries.values()), default=0)


def _stamp(path):
    """Size and time of modification: what tells a changed file from an unchanged one."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _parent(path):
    return os.path.dirname(os.path.abspath(path))


def _paths(folder, sample_rate, parent):
    """PCM and index file of an audio folder. Its name alone would not do: many are called "train"."""
    name = f"{os.path.basename(parent)}-{hashlib.sha1(parent.encode()).hexdigest()[:8]}"
    base = Path(folder).expanduser() / str(sample_rate)
    return base / f"{name}.pcm", base / f"{name}.json"


def complete_cache(files, folder, sample_rate):
    """The cache of these files, complete; of several processes of a run one builds it, the others wait."""
    folder = os.path.expanduser(str(folder))
    while True:
        try:
            build_cache(files, folder, sample_rate)
            return CachedAudio(folder, sample_rate)
        except RuntimeError as error:
            if "another process" not in str(error):
                raise
            logger.info("waiting: %s", error)
            time.sleep(1)
