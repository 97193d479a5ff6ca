"""Sounds for web pages: what browsers play, wav made of the rest piece by piece, and spectrograms."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from helpers.files import replacing

# Format and encoding, in the words of libsndfile, of what Chromium and Firefox play; None: all encodings.
PLAYED = {
    "WAV": ("audio/wav", {"PCM_16", "PCM_U8", "PCM_24", "FLOAT"}),
    "WAVEX": ("audio/wav", {"PCM_16", "PCM_U8", "PCM_24", "FLOAT"}),
    "FLAC": ("audio/flac", None),
    "OGG": ("audio/ogg", {"VORBIS", "OPUS"}),
    "MP3": ("audio/mpeg", None),
    "MPEG": ("audio/mpeg", None),
}
HEADER = 44  # bytes of a wav file before the samples
LARGEST = 2**32 - 1024  # bytes that its header can count
PIECE = 1 << 16  # frames that are converted at a time

BANDS, COLUMNS, FFT_SECONDS = 96, 480, 0.046
LOWEST, HIGHEST, RANGE_DB = 60.0, 16000.0, 70.0


def played_as(path) -> str | None:
    """MIME type of a file that browsers play as it is, None for others.

    Raises:
        ValueError: no file, or not readable as audio.
    """
    info = _info(path)
    mime, encodings = PLAYED.get(info.format, (None, ()))
    return mime if encodings is None or info.subtype in encodings else None


def _info(path):
    try:
        return soundfile.info(path)
    except soundfile.SoundFileError:
        raise ValueError(f"{path}: not there, or not readable as audio") from None


class WavView:
    """Any sound file in the form of a wav file of 16 bit, of which parts are made when they are asked for.

    Args:
        path: of the file.

    Raises:
        ValueError: no file, or not readable as audio.
    """

    def __init__(self, path):
        info = _info(path)
        self.path, self.sample_rate, self.channels = Path(path), info.samplerate, info.channels
        self.frames = min(info.frames, (LARGEST - HEADER) // (2 * self.channels))

    @property
    def size(self) -> int:
        """Bytes of all."""
        return HEADER + 2 * self.channels * self.frames

    def header(self) -> bytes:
        """The bytes before the samples."""
        width = 2 * self.channels
        chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, self.channels, self.sample_rate, self.sample_rate * width,
                            width, 16)  # fmt: skip
        data = struct.pack("<4sI", b"data", width * self.frames)
        return struct.pack("<4sI4s", b"RIFF", self.size - 8, b"WAVE") + chunk + data

    def part(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from number ``start`` to before ``stop``, in pieces."""
        if start < HEADER:
            yield self.header()[start:stop]
        width, offset = 2 * self.channels, max(start, HEADER) - HEADER
        frame, left = offset // width, stop - max(start, HEADER)
        skip = offset % width
        with soundfile.SoundFile(self.path) as file:
            file.seek(frame)
            while left > 0:
                piece = file.read(PIECE, dtype="float32", always_2d=True)
                if not len(piece):  # the file holds less than its header says
                    piece = np.zeros((min(PIECE, -(-(left + skip) // width)), self.channels), np.float32)
                data = np.clip(np.rint(piece * 32768), -32768, 32767).astype("<i2").tobytes()[skip : skip + left]
                yield data
                left, skip = left - len(data), 0


def write_wav(source, path) -> Path:
    """Writes any sound file as wav of 16 bit, see :class:`WavView`."""
    view = WavView(source)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(view.part(0, view.size))
    return Path(path)


def excerpt(path, start: float, seconds: float) -> tuple[np.ndarray, int]:
    """A part of a sound [samples] float32, the mean of its channels, and its sample rate.

    Raises:
        ValueError: no file, or not readable as audio.
    """
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(max(0, min(round(start * file.samplerate), file.frames - 1)))
            audio = file.read(round(seconds * file.samplerate), dtype="float32", always_2d=True)
            return audio.mean(1), file.samplerate
    except soundfile.SoundFileError:
        raise ValueError(f"{path}: not there, or not readable as audio") from None


def spectrogram(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Power in bands of equal width on a logarithmic frequency axis, in dB below the loudest cell.

    Args:
        audio: [samples] float32.
        sample_rate: Hz.

    Returns:
        levels [bands, columns] in [-70, 0], and edges of the bands [bands + 1] in Hz.
    """
    size = 1 << round(np.log2(FFT_SECONDS * sample_rate))
    audio = np.pad(audio, (size // 2, size // 2 + size))
    starts = np.linspace(0, len(audio) - 2 * size, min(COLUMNS, max(2, len(audio) // (size // 8)))).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[starts] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.geomspace(LOWEST, min(HIGHEST, sample_rate / 2), BANDS + 1)
    bins = np.minimum(np.round(edges * size / sample_rate).astype(int), power.shape[1] - 1)
    bands = np.add.reduceat(power, bins[:-1], axis=1) / np.maximum(np.diff(bins), 1)
    bands[:, -1] = power[:, bins[-2] : bins[-1] + 1].mean(1)  # reduceat would take all to the end
    levels = 10 * np.log10(np.maximum(bands.T, 1e-12))
    return np.clip(levels - max(levels.max(), 0.0), -RANGE_DB, 0), edges  # silence stays dark


def spectrogram_png(path, start: float = 0.0, seconds: float = 10.0) -> bytes:
    """A PNG image of a part of a sound.

    Raises:
        ValueError: see :func:`excerpt`.
    """
    from helpers.plots import new_figure

    audio, sample_rate = excerpt(path, start, seconds)
    levels, edges = spectrogram(audio, sample_rate)
    end = start + max(len(audio), 1) / sample_rate
    figure = new_figure(5.2, 1.7)
    axes = figure.add_subplot()
    axes.imshow(levels, origin="lower", aspect="auto", cmap="magma", vmin=-RANGE_DB, vmax=0, interpolation="nearest",
                extent=(start, end, np.log10(edges[0]), np.log10(edges[-1])))  # fmt: skip
    shown = [hertz for hertz in (100, 1000, 10000) if edges[0] < hertz < edges[-1]]
    axes.set_yticks(np.log10(shown), [f"{hertz / 1000:g}" for hertz in shown], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("time (s)", fontsize=7)
    axes.set_ylabel("kHz", fontsize=7)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=120)
        return file.getvalue()
