"""Audio files block by block: mono float32 at one sample rate, in memory for one block however long a file is."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

# Shared with the reading of whole files: what counts as broken must not depend on how a file is read.
from data_util.audio import MIN_SECONDS, check_length, promised_samples, reason_of, require_finite, to_mono
from data_util.errors import BadAudio, DataMissing
from data_util.recordings import audio_files

BLOCK_SECONDS = 1.0


class _Sequential(soundfile.SoundFile):
    """A file that is only read from start to end.

    The package seeks after every read, and behind a seek the decoder lacks the bits that mp3 keeps in frames before.
    """

    def seekable(self):
        return False


def stream(
    path, sample_rate: int | None = None, channel="mean", seconds: float = BLOCK_SECONDS, short: bool = False
) -> Iterator[np.ndarray]:
    """The samples that :func:`data_util.audio.read` gives, in blocks.

    Resampling goes on over the borders of blocks, so that the blocks, end to end, are the whole file resampled.

    Args:
        path: a file of any format that libsndfile knows.
        sample_rate: Hz; None takes the file's own.
        channel: "mean" of all channels, or the number of one.
        seconds: length of a block.
        short: whether a whole file of less than 0.1 s, such as the tick of a clock, is a sound like others.

    Yields:
        [samples] float32; the first and the last block may have other lengths than the rest.

    Raises:
        FileNotFoundError: no such file.
        BadAudio: it cannot be decoded, ends before its header says, is shorter than 0.1 s (with ``short``: empty), or
            holds values that are no finite numbers; that may show only after some blocks.
        ValueError: there is no such channel.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        with _Sequential(path) as file:
            rate, expected = file.samplerate, promised_samples(file)
            _check(path, file.frames, rate, expected, short)
            resampler = None
            if sample_rate not in (None, rate):
                resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
            total, samples = 0, max(1, int(seconds * rate))
            while len(block := file.read(samples, dtype="float32", always_2d=True)):
                total += len(block)
                mono = to_mono(path, require_finite(path, block), channel)
                yield mono if resampler is None else resampler.resample_chunk(mono)
            _check(path, total, rate, expected, short)
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    except soundfile.SoundFileError as error:
        raise BadAudio(f"{path}: not readable as audio ({reason_of(error)})") from None


def _check(path, samples, rate, expected, short):
    if not (short and 0 < expected == samples < MIN_SECONDS * rate):
        check_length(path, samples, rate, expected)


def find_audio(paths: str | os.PathLike | Iterable) -> list[Path]:
    """Audio files that are meant by one path or several.

    Args:
        paths: of files, of any name, or of folders, of which all audio files below count, sorted.

    Returns:
        every file once, in the order in which they are named.

    Raises:
        DataMissing: no such file or folder, or no audio file in it.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(path).expanduser()
        if path.is_dir():
            below = audio_files(path)
            if not below:
                raise DataMissing(f"{path}: 0 audio files in this folder, expected at least 1")
            found.update(dict.fromkeys(below))
        elif path.is_file():
            found[path] = None
        else:
            raise DataMissing(f"{path}: no such audio file or folder")
    if not found:
        raise DataMissing("no audio file is named, expected at least 1")
    return list(found)
