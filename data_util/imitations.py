"""Simulated vocal imitations: what a voice makes of any sound that it follows in loudness, pitch and brightness.

A source-filter voice (Fant, "Acoustic theory of speech production", 1960): a train of glottal pulses under vowel
formants and a hiss under one resonance, both moving. As people do, it sings high sounds high but in its own range,
opens the mouth for bright ones, is early, late, too slow or too fast, and is recorded in a room.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft

from data_util.soundscapes import colour, draw_filter
from data_util.synthesis import drift, noise, peak_one, pulses, unit

VERSION = 1  # raised whenever the same settings give another imitation
RATE = 100  # frames per second that a sound is described by
WINDOW_SECONDS = 0.04
PITCH_RANGE = (60.0, 2500.0)  # Hz
# From dark to bright: the first three formants of u, a, e, i in Hz.
VOWELS = np.array([[300, 750, 2300], [730, 1100, 2450], [530, 1840, 2480], [270, 2290, 3010]])
DARK, BRIGHT = 300.0, 5000.0  # Hz, centroids that stand for the first and the last of them
HISS = (900.0, 6500.0)  # Hz, resonance of the hiss for the same


class Gesture(NamedTuple):
    """What a sound does, in frames of 10 ms.

    Attributes:
        level: [frames] root mean square, 1 in the loudest frame.
        pitch: [frames] octaves over 1 Hz; where there is none that of the frame before.
        voicing: [frames] from 0 (noise) to 1 (a clear pitch).
        brightness: [frames] from 0 (dark) to 1 (bright).
    """

    level: np.ndarray
    pitch: np.ndarray
    voicing: np.ndarray
    brightness: np.ndarray


def imitate(audio, sample_rate, rng):
    """An imitation of a sound.

    Args:
        audio: [samples] float32.
        sample_rate: Hz.
        rng: numpy generator; it decides who imitates, how well, and where.

    Returns:
        [samples] float32, 0.75 to 1.3 times as long and up to 0.6 s of room before and behind.
    """
    gesture = performed(follow(audio, sample_rate), rng)
    voice = sing(gesture, sample_rate, rng)
    silence = [np.zeros(int(rng.uniform(0.05, 0.3) * sample_rate)) for _ in range(2)]
    voice = np.concatenate([silence[0], unit(voice), silence[1]])
    room = unit(noise(len(voice), sample_rate, rng, 50, np.inf, slope=-1)) * 10 ** (-rng.uniform(22, 40) / 20)
    recorded = colour(peak_one(voice + room), sample_rate, draw_filter(rng), None)
    return peak_one(recorded) * np.float32(rng.uniform(0.2, 0.9))


def follow(audio, sample_rate):
    """The :class:`Gesture` of a sound [samples]."""
    hop, size = sample_rate // RATE, round(WINDOW_SECONDS * sample_rate)
    padded = np.pad(np.asarray(audio, np.float32), (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: max(2, len(audio) // hop)]
    frames = frames * np.hanning(size).astype(np.float32)
    length = scipy.fft.next_fast_len(2 * size, real=True)
    power = np.abs(scipy.fft.rfft(frames, length)) ** 2
    level = np.sqrt(np.mean(np.square(frames), axis=1))
    octave = np.log2(np.fft.rfftfreq(length, 1 / sample_rate)[1:])
    centroid = power[:, 1:] @ octave / (power[:, 1:].sum(axis=1) + 1e-12)
    brightness = (centroid - np.log2(DARK)) / np.log2(BRIGHT / DARK)
    pitch, strength = _pitch(power, length, size, sample_rate)
    voicing = _smooth(np.clip((strength - 0.35) / 0.4, 0, 1), 5)
    return Gesture(level / (level.max() + 1e-12), _held(pitch, voicing), voicing, np.clip(brightness, 0, 1))


def performed(gesture, rng):
    """The gesture as a person with a voice of their own manages it."""
    frames = len(gesture.level)
    pace = rng.uniform(0.8, 1.25) * drift(frames, RATE, rng, rate=1.0, depth=0.15)
    place = np.interp(np.arange(0, pace.sum()), np.cumsum(pace), np.arange(frames))
    level, pitch, voicing, brightness = (np.interp(place, np.arange(frames), track) for track in gesture)
    count, own = len(place), np.log2(rng.uniform(110, 260))
    middle = np.average(pitch, weights=voicing * level + 1e-6)
    sung = own + np.clip(0.4 * (middle - np.log2(400)), -0.6, 1.2) + rng.uniform(0.6, 0.9) * (pitch - middle)
    sung += rng.uniform(-1, 1) / 12 + drift(count, RATE, rng, rate=4.0, depth=0.03) - 1
    return Gesture(
        _smooth(level, 3) ** rng.uniform(0.7, 1.0),
        np.clip(sung, own - 0.8, own + 2.0),
        np.clip(voicing * rng.uniform(0.85, 1.1), 0.05, 1),
        np.clip(brightness + rng.uniform(-0.1, 0.1), 0, 1),
    )


def sing(gesture, sample_rate, rng):
    """Waveform [samples] of a gesture, by a vocal tract of a random length."""
    samples = len(gesture.level) * sample_rate // RATE
    size, hop = 512, 128
    frames = 1 + -(-samples // hop) + size // hop
    times = np.clip((np.arange(frames) * hop - size // 2) / sample_rate * RATE, 0, len(gesture.level) - 1)
    level, pitch, voicing, brightness = (np.interp(times, np.arange(len(gesture.level)), track) for track in gesture)
    fundamental = 2 ** np.interp(np.arange(frames * hop + size) / hop, np.arange(frames), pitch)
    voiced = unit(np.diff(pulses(fundamental, sample_rate, 60.0), prepend=0.0))
    hissed = rng.standard_normal(len(voiced))
    tract, frequency = rng.uniform(0.9, 1.2), np.fft.rfftfreq(size, 1 / sample_rate)
    formants = tract * np.stack([np.interp(brightness, np.linspace(0, 1, len(VOWELS)), f) for f in VOWELS.T], axis=1)
    vowel = sum(
        strength / (1 + ((frequency - formants[:, [number]]) / width) ** 2)
        for number, (strength, width) in enumerate(((1.0, 90), (0.6, 130), (0.3, 200)))
    )
    centre = tract * HISS[0] * (HISS[1] / HISS[0]) ** brightness[:, None]
    breath = 1 / (1 + ((frequency - centre) / (0.35 * centre)) ** 2)
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    pieces = [
        _spectra(source, frames, size, hop, window) * shape for source, shape in ((voiced, vowel), (hissed, breath))
    ]
    share = voicing[:, None]
    mixed = share * _normalised(pieces[0]) + (1 - share) * _normalised(pieces[1])
    out = np.zeros(frames * hop + size)
    for number, piece in enumerate(np.fft.irfft(_normalised(mixed) * level[:, None], size) * window):
        out[number * hop : number * hop + size] += piece
    return out[size : size + samples]


def _pitch(power, length, size, sample_rate):
    """Octaves over 1 Hz, and the height of the peak of the autocorrelation, [frames] each."""
    window = np.hanning(size)
    taper = scipy.fft.irfft(np.abs(scipy.fft.rfft(window, length)) ** 2, length)
    correlation = scipy.fft.irfft(power, length)
    lags = np.arange(int(sample_rate / PITCH_RANGE[1]), min(int(sample_rate / PITCH_RANGE[0]), int(0.7 * size)))
    normal = correlation[:, lags] / (correlation[:, :1] + 1e-12) / (taper[lags] / taper[0])
    # Multiples of a period match as well as the period itself: the shortest is meant.
    best = (normal * np.linspace(1, 0.85, len(lags))).argmax(axis=1)
    return np.log2(sample_rate / lags[best]), np.take_along_axis(normal, best[:, None], axis=1)[:, 0]


def _held(pitch, voicing):
    """Pitch where there is a clear one, and the last such elsewhere; slips of single frames removed."""
    clear = np.flatnonzero(voicing > 0.3)
    if not len(clear):
        return np.full(len(pitch), np.log2(200.0))
    held = pitch[clear[np.clip(np.searchsorted(clear, np.arange(len(pitch)), side="right") - 1, 0, None)]]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(held, 3, mode="edge"), 7)
    return np.median(around, axis=1)


def _smooth(track, frames):
    return np.convolve(np.pad(track, frames // 2, mode="edge"), np.full(frames, 1 / frames), mode="valid")


def _spectra(source, frames, size, hop, window):
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(source, size)[::hop][:frames] * window)


def _normalised(spectra):
    """Frames scaled to equal power."""
    return spectra / (np.sqrt(np.mean(np.abs(spectra) ** 2, axis=1, keepdims=True)) + 1e-12)
