"""Where a packer keeps what it has done until all of it is there: bytes in one file, what they are in another.

A store is a folder with ``clips.bin``, which only ever grows, and ``index.jsonl``, a line per clip that is written
after the clip's bytes. A packer that is killed at any moment continues where the last whole line ends.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

from data_util.output import claim


class PackStore:
    """Bytes by name, on the disk; a context manager.

    Args:
        folder: of the store, made if it is not there.
        settings: what the bytes depend on; a store that was begun with others is refused.

    Raises:
        RuntimeError: another process is writing to it.
        ValueError: it was begun with other settings.
    """

    def __init__(self, folder, settings):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bytes = open(self.folder / "clips.bin", "a+b")
        try:
            fcntl.flock(self._bytes, fcntl.LOCK_EX | fcntl.LOCK_NB)
            claim(self.folder / "settings.json", settings)
        except BlockingIOError:
            self._bytes.close()
            raise RuntimeError(f"{self.folder} is being written by another process") from None
        except ValueError:
            self._bytes.close()
            raise
        self._entries, end = _read_index(self.folder / "index.jsonl", os.path.getsize(self.folder / "clips.bin"))
        # What came after the last whole line is cut off: bytes without a line, and half a line.
        self._bytes.truncate(max((offset + size for offset, size, _ in self._entries.values()), default=0))
        self._index = open(self.folder / "index.jsonl", "ab")
        self._index.truncate(end)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._index.close()
        self._bytes.close()

    def has(self, name, stamp):
        """Whether a clip is there, from a file with that stamp."""
        return name in self._entries and self._entries[name][2] == stamp

    def add(self, clips):
        """Adds (name, stamp, bytes) of some clips; they are on the disk afterwards."""
        self._bytes.seek(0, os.SEEK_END)
        for name, stamp, data in clips:
            self._entries[name] = (self._bytes.tell(), len(data), stamp)
            self._bytes.write(data)
        _to_disk(self._bytes)
        for name, _, _ in clips:
            self._index.write(json.dumps([name, *self._entries[name]]).encode() + b"\n")
        _to_disk(self._index)

    def __getitem__(self, name):
        offset, size, _ = self._entries[name]
        self._bytes.seek(offset)
        return self._bytes.read(size)

    def remove(self):
        """Deletes the store."""
        shutil.rmtree(self.folder)


def _read_index(path, available):
    """{name: (offset, size, stamp)} of all whole lines whose bytes are there, and where the last of them ends."""
    entries, end = {}, 0
    if not path.is_file():
        return entries, end
    with open(path, "rb") as file:
        for line in file:
            try:
                name, offset, size, stamp = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or offset + size > available:
                break
            entries[name] = (offset, size, stamp)
            end += len(line)
    return entries, end


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())
