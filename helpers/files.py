"""Files that are written whole or not at all, and how audio files are called."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".w64"})


def clip_id(path) -> str:
    """File name without folder and audio suffix, by which tables, scores and stored predictions know a clip."""
    name = str(path).replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    # "Yabc_30.000_40.000" has no audio suffix: its last dot belongs to the name.
    return stem if dot and f".{suffix.lower()}" in AUDIO_SUFFIXES else name


def sha256(path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path):
    """A temporary path beside ``path``, which becomes ``path`` when the block ends well and vanishes otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
