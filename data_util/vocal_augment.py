"""Augmentation of vocal imitations while they are loaded: pitch, tempo, level, excerpt, other sounds behind them.

Who imitates a sound hits its pitch, speed and loudness only roughly, in a room with other sounds: so may the training
examples vary. Each function takes a waveform [samples] float32 of any length and a numpy generator; the waveform may
come out shorter or longer.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr
import torch
from torch.utils.data import Dataset

from data_util.audio import pad_or_crop
from data_util.clips import generator, index_and_key
from data_util.streaming import find_audio
from data_util.tagging_clips import AudioFiles, read_clip

HOP_SECONDS, SEARCH_SECONDS = 0.015, 0.008  # of WSOLA: the search spans a period of 62 Hz
COARSE = 4  # samples in a step of its first search
ROLES = ("imitation", "reference")
# Streams of draws, beside those of data_util.clips and data_util.tagging_augment, one per role and kind.
FIRST_STREAM, KINDS = 20, ("crop", "pitch_shift", "time_stretch", "gain", "mix")


def pitch_shift(audio, rng, semitones, sample_rate):
    """Shifts the pitch by up to ``semitones`` to either side; the length stays."""
    return warp(audio, 1.0, rng.uniform(-semitones, semitones), sample_rate)


def time_stretch(audio, rng, share, sample_rate):
    """Changes the length by a factor between ``1 / (1 + share)`` and ``1 + share``; the pitch stays."""
    return warp(audio, _factor(rng, share), 0.0, sample_rate)


def gain(audio, rng, decibel):
    """Amplifies by up to ``decibel`` to either side."""
    return audio * np.float32(10 ** (rng.uniform(-decibel, decibel) / 20))


def crop(audio, rng, share):
    """Cuts off up to ``share`` of the waveform, at random from both ends."""
    kept = round(len(audio) * (1 - rng.uniform(0, share)))
    start = rng.integers(len(audio) - kept + 1)
    return audio[start : start + kept]


def mix(audio, rng, other, snr):
    """Adds another waveform, from a random place, at a signal-to-noise ratio drawn from the range ``snr`` (dB).

    The levels are root mean squares over the two whole waveforms. Where one of them is silent nothing is added.
    """
    level, other_level = (np.sqrt(np.mean(np.square(x, dtype=np.float64))) if len(x) else 0.0 for x in (audio, other))
    decibel, place = rng.uniform(*snr), rng.random()
    if not level or not other_level:
        return audio
    shift = round(place * (len(other) - len(audio)))
    other = other[max(shift, 0) :][: len(audio)]
    added = np.zeros_like(audio)
    start = max(-shift, 0)
    added[start : start + len(other)] = other
    return audio + added * np.float32(level / other_level * 10 ** (-decibel / 20))


def warp(audio, stretch, semitones, sample_rate):
    """Other length, other pitch, or both in one pass: overlapping pieces where they continue each other best.

    WSOLA (Verhelst and Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for high quality
    time-scale modification of speech", ICASSP 1993); pitch by resampling of what is stretched that much more.

    Args:
        audio: [samples] float32.
        stretch: length afterwards over length before.
        semitones: upwards.
        sample_rate: Hz.

    Returns:
        [round(samples * stretch)] float32.
    """
    ratio, samples = 2 ** (semitones / 12), round(len(audio) * stretch)
    audio = _overlap_add(audio, stretch * ratio, sample_rate)
    if ratio != 1 and len(audio):
        audio = soxr.resample(audio, ratio, 1.0, quality="MQ")
    return pad_or_crop(audio, samples)[0]


def _overlap_add(audio, factor, sample_rate):
    """Pieces of two hops, half overlapping, each from within ``search`` samples of its place."""
    hop, search = (round(seconds * sample_rate / COARSE) * COARSE for seconds in (HOP_SECONDS, SEARCH_SECONDS))
    samples, size = round(len(audio) * factor), 2 * hop
    pieces = -(-samples // hop) + 1
    last = round((pieces - 1) * hop / factor)
    padded = np.pad(audio, (search + hop, max(last - len(audio), 0) + 2 * (search + size)))
    coarse = padded[: len(padded) // COARSE * COARSE].reshape(-1, COARSE).mean(axis=1)
    window = (0.5 - 0.5 * np.cos(np.pi * np.arange(size) / hop)).astype(np.float32)
    out, first = np.zeros((pieces + 1) * hop, np.float32), search
    for number in range(pieces):
        if number:
            following = first + hop  # what came after the last piece: the next one should look like it
            earliest = round(number * hop / factor) // COARSE * COARSE
            there = coarse[earliest // COARSE :][: (2 * search + size) // COARSE]
            best = np.correlate(there, coarse[following // COARSE :][: size // COARSE]).argmax()
            earliest = max(earliest + COARSE * int(best) - COARSE, 0)
            there = padded[earliest : earliest + size + 2 * COARSE]
            first = earliest + int(np.correlate(there, padded[following : following + size]).argmax())
        out[number * hop : number * hop + size] += window * padded[first : first + size]
    return out[hop : hop + samples]


def _factor(rng, share):
    return (1 + share) ** rng.uniform(-1, 1)


@dataclass(frozen=True)
class Switches:
    """What is drawn for every imitation; with the defaults nothing is, as published.

    Attributes:
        pitch_shift: semitones to either side.
        time_stretch: share by which a sound may become longer; it may become shorter by the same factor.
        gain_augment: dB to either side.
        crop: share that may be cut off.
        mix_p: probability of another sound behind it.
        mix_snr: range of the signal-to-noise ratio in dB then.
        mix_folder: folder of recordings to mix with; None: the imitations of other pairs.
        augment_references: whether the reference sounds get the same, drawn on their own.

    Raises:
        ValueError: a value out of range.
    """

    pitch_shift: float = 0.0
    time_stretch: float = 0.0
    gain_augment: float = 0.0
    crop: float = 0.0
    mix_p: float = 0.0
    mix_snr: tuple = (5.0, 20.0)
    mix_folder: str | None = None
    augment_references: bool = False

    def __post_init__(self):
        ranges = {"pitch_shift": 24, "time_stretch": 3, "gain_augment": 60, "crop": 0.99, "mix_p": 1}
        for name, most in ranges.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"data.{name} is {getattr(self, name)}, expected 0 (off) to {most}")
        if len(self.mix_snr) != 2 or self.mix_snr[0] > self.mix_snr[1]:
            raise ValueError(f"data.mix_snr is {self.mix_snr}, expected two numbers of dB, the lower one first")

    @property
    def any(self):
        """Whether anything is switched on."""
        return any((self.pitch_shift, self.time_stretch, self.gain_augment, self.crop, self.mix_p))

    def apply(self, audio, sample_rate, draws, other):
        """An augmented waveform.

        Args:
            audio: [samples] float32.
            sample_rate: Hz.
            draws: {kind: generator}, one for each of :data:`KINDS`.
            other: called with a generator, gives a waveform to mix with.
        """
        if self.crop:
            audio = crop(audio, draws["crop"], self.crop)
        if self.pitch_shift or self.time_stretch:
            semitones = draws["pitch_shift"].uniform(-self.pitch_shift, self.pitch_shift)
            audio = warp(audio, _factor(draws["time_stretch"], self.time_stretch), semitones, sample_rate)
        if self.mix_p and draws["mix"].random() < self.mix_p:
            audio = mix(audio, draws["mix"], other(draws["mix"]), self.mix_snr)
        return gain(audio, draws["gain"], self.gain_augment) if self.gain_augment else audio


class AugmentedPairs(Dataset):
    """Pairs whose imitations, and if asked for references, are augmented; items without key are left alone.

    Args:
        dataset: a :class:`data_util.vocal.Pairs`.
        switches: :class:`Switches`.
        sample_rate: Hz.

    Raises:
        DataMissing: no audio file in ``mix_folder``.
    """

    def __init__(self, dataset, switches, sample_rate):
        self.dataset, self.switches, self.sample_rate = dataset, switches, sample_rate
        self.backgrounds = None
        if switches.mix_p and switches.mix_folder is not None:
            self.backgrounds = AudioFiles(find_audio(switches.mix_folder))

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, item):
        sample, key = self.dataset[item], index_and_key(item)[1]
        if key is None:
            return sample
        changed = {}
        for number, role in enumerate(ROLES[: 1 + self.switches.augment_references]):
            first = FIRST_STREAM + number * len(KINDS)
            draws = {kind: generator(key, first + place) for place, kind in enumerate(KINDS)}
            padded = sample[role].numpy()
            other = partial(self._other, role)
            audio = self.switches.apply(sounding(padded), self.sample_rate, draws, other)
            changed[role] = torch.from_numpy(pad_or_crop(audio, len(padded))[0].copy())
        return {**sample, **changed}

    def _other(self, role, rng):
        if self.backgrounds is None:
            return sounding(self.dataset[int(rng.integers(len(self.dataset)))][role].numpy())
        number = int(rng.integers(len(self.backgrounds)))
        samples = self.dataset.references.samples
        return sounding(read_clip(lambda part: self.backgrounds.read(number, part), self.sample_rate, samples, rng))


def sounding(audio):
    """A waveform without the zeros at its end."""
    nonzero = np.flatnonzero(audio)
    return audio[: nonzero[-1] + 1] if len(nonzero) else audio[:0]
