"""Reading of audio files: mono float32 at one sample rate, padded or cropped to the length of a clip."""

import functools
import importlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_util.errors import BadAudio, WrongSampleRate

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.1  # what is shorter holds no event that could be annotated; it is the rest of a failed download
# What libsndfile says of a wav file whose header promises more bytes than there are.
PROMISED_BYTES = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAM_BYTES = 0x7FFF0000  # written instead of a size by programs that stream into a pipe


def read(path, sample_rate=None, channel="mean", resample=False, rng=None):
    """A whole file as mono waveform [samples] float32.

    Args:
        path: a file of any format that libsndfile knows.
        sample_rate: Hz; None takes the file's own.
        channel: "mean" of all channels (as published), "random" for one drawn from ``rng`` (the first without), or
            a channel's number.
        resample: whether a file of another sample rate is resampled (soxr, high quality) or refused.
        rng: numpy generator for ``channel="random"``.

    Raises:
        FileNotFoundError: no such file.
        BadAudio: it cannot be decoded, ends before its header says, or is shorter than 0.1 s.
        WrongSampleRate: another sample rate, and ``resample`` is off.
        ValueError: there is no such channel.
    """
    audio, rate = decode(path)
    audio = to_mono(path, audio, channel, rng)
    if sample_rate in (None, rate):
        return audio
    if not resample:
        raise WrongSampleRate(f"{path}: sample rate {rate} Hz, expected {sample_rate} Hz")
    return soxr.resample(audio, rate, sample_rate)


def decode(path, crop=None):
    """All channels [samples, channels] float32, and the sample rate.

    Args:
        path: the audio file.
        crop: called with the file's samples and sample rate, returns (first sample, samples) of the part to decode.

    Raises:
        FileNotFoundError, BadAudio: see :func:`read`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    if minimp3() and str(path).lower().endswith(".mp3"):
        return _decode_mp3(path, crop)
    return decode_by_soundfile(path, path, crop)


def decode_by_soundfile(name, source, crop=None):
    """As :func:`decode`, whatever the format.

    Args:
        name: what messages call it.
        source: path, or an open binary file.
        crop: see :func:`decode`.

    Raises:
        BadAudio: it cannot be decoded, ends early, or is shorter than 0.1 s.
    """
    try:
        with soundfile.SoundFile(source) as file:
            rate, total = file.samplerate, file.frames
            check_length(name, total, rate, promised_samples(file))
            start, samples = crop(total, rate) if crop else (0, total)
            if start:
                file.seek(start)
            audio = file.read(samples, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise BadAudio(f"{name}: not readable as audio ({reason_of(error)})") from None
    check_length(name, start + len(audio), rate, start + samples)
    return require_finite(name, audio), rate


def to_mono(path, audio, channel="mean", rng=None):
    """[samples, channels] -> [samples]; see :func:`read`."""
    channels = audio.shape[1]
    if channels == 1:
        return audio[:, 0]
    if channel == "mean":
        return audio.mean(axis=1)
    if channel == "random":
        channel = rng.integers(channels) if rng is not None else 0
    if not 0 <= channel < channels:
        raise ValueError(f"{path}: no channel {channel}, expected one of its {channels}")
    return np.ascontiguousarray(audio[:, channel])


def crop_start(total, samples, rng=None):
    """First sample of an excerpt of ``samples``: drawn uniformly when a generator is given, else 0."""
    return int(rng.integers(total - samples + 1)) if rng is not None and total > samples else 0


def pad_or_crop(audio, samples, rng=None):
    """Exactly ``samples`` samples: zeros at the end, or an excerpt (see :func:`crop_start`).

    Returns:
        the waveform, and the first sample of the excerpt.
    """
    start = crop_start(len(audio), samples, rng)
    audio = audio[start : start + samples]
    return np.pad(audio, (0, samples - len(audio))) if len(audio) < samples else audio, start


@dataclass
class AudioReader:
    """Reads clips of one length: ``reader(path, rng)`` gives (waveform [samples] float32, start in seconds).

    With a generator, a longer file is cropped at random (training); without, its start is taken (evaluation).

    Args:
        sample_rate: Hz.
        seconds: length of a clip.
        channel, resample: see :func:`read`.
        cache: a :class:`data_util.cache.CachedAudio`, asked first; it holds the mean of the channels.

    Raises:
        see :func:`read`.
    """

    sample_rate: int = 16000
    seconds: float = 10.0
    channel: str | int = "mean"
    resample: bool = False
    cache: object = None

    @property
    def samples(self):
        """Samples of a clip."""
        return int(self.seconds * self.sample_rate)

    def __call__(self, path, rng=None):
        audio = self.cache.read(path) if self.cache is not None and self.channel == "mean" else None
        if audio is not None:
            start = crop_start(len(audio), self.samples, rng)
            audio = to_float(audio[start : start + self.samples])
        elif self.resample:
            # The whole file, so that an excerpt has the same samples wherever it starts.
            whole = read(path, self.sample_rate, self.channel, resample=True, rng=rng)
            start = crop_start(len(whole), self.samples, rng)
            audio = whole[start : start + self.samples]
        else:
            start, audio = self._excerpt(path, rng)
        return pad_or_crop(audio, self.samples)[0], start / self.sample_rate

    def _excerpt(self, path, rng):
        """Decodes only the samples that are used: recordings may be hours long."""
        start = 0

        def crop(total, rate):
            nonlocal start
            if rate != self.sample_rate:
                raise WrongSampleRate(f"{path}: sample rate {rate} Hz, expected {self.sample_rate} Hz")
            start = crop_start(total, self.samples, rng)
            return start, min(self.samples, total)

        audio, _ = decode(path, crop)
        return start, to_mono(path, audio, self.channel, rng)


def to_float(audio):
    """PCM of 16 bit -> float32 in [-1, 1), as audio libraries read it; float32 is only copied."""
    if audio.dtype == np.int16:
        return audio.astype(np.float32) / 32768
    return np.array(audio, dtype=np.float32)


def promised_samples(file):
    """Samples that the header of an open file promises."""
    match = PROMISED_BYTES.search(file.extra_info)
    if not match or int(match[1]) >= STREAM_BYTES or int(match[1]) <= int(match[2]):
        return file.frames
    return round(file.frames * int(match[1]) / max(int(match[2]), 1))


def check_length(path, samples, rate, expected):
    """Refuses files that end early (a few samples less than announced are common) or hold next to nothing."""
    if samples < expected - MIN_SECONDS * rate:
        raise BadAudio(f"{path}: ends after {samples / rate:.2f} s, expected {expected / rate:.2f} s")
    if samples < MIN_SECONDS * rate:
        raise BadAudio(f"{path}: {samples / rate:.3f} s long, expected at least {MIN_SECONDS} s")


def require_finite(path, audio):
    """Float formats can hold values that are no numbers."""
    if not np.isfinite(audio).all():
        raise BadAudio(f"{path}: holds values that are no finite numbers")
    return audio


def reason_of(error):
    """libsndfile's message without the path that it repeats."""
    return str(error).strip().rpartition(": ")[2].rstrip(".")


@functools.cache
def minimp3():
    """The module minimp3py, or None; it decodes to the same samples as libsndfile."""
    try:
        return importlib.import_module("minimp3py")
    except ImportError:
        return None


def _decode_mp3(path, crop):
    try:
        audio, rate = minimp3().read(Path(path).read_bytes())
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadAudio(f"{path}: not readable as audio ({error})") from None
    check_length(path, len(audio), rate, len(audio))
    start, samples = crop(len(audio), rate) if crop else (0, len(audio))
    return require_finite(path, audio[start : start + samples]), rate
