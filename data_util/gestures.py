"""Synthesis of isolated sounds that are easily imitated: each has a gesture of its own in pitch, loudness or rhythm.

They stand beside those of :mod:`data_util.procedural` in the demo data of query by vocal imitation.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from data_util.procedural import Generator
from data_util.synthesis import contour, drift, noise, pulses, ring, scatter, swell, times, tones, unit


def _siren(samples, sample_rate, rng):
    cycle = np.sin(2 * np.pi * rng.uniform(0.5, 2.5) * np.arange(samples) / sample_rate + rng.uniform(0, 6))
    return tones(rng.uniform(500, 900) * 2 ** (rng.uniform(0.3, 0.6) * cycle), [1, 0.5, 0.3], sample_rate, rng)


def _owl(samples, sample_rate, rng):
    size, pitch = round(rng.uniform(0.25, 0.45) * sample_rate), rng.uniform(280, 480)
    hoot = tones(pitch * contour(size, [0.9, 1.1, 0.95]), [1, 0.15], sample_rate, rng) * swell(size, 0.0)
    return scatter(samples, times(samples, sample_rate, rng, rng.uniform(1, 2), size / sample_rate), lambda _: hoot)


def _bee(samples, sample_rate, rng):
    pitch = rng.uniform(150, 260) * drift(samples, sample_rate, rng, 3.0, 0.15)
    return tones(pitch, 1 / np.arange(1, 20), sample_rate, rng) * drift(samples, sample_rate, rng, 2.0, 0.7)


def _frog(samples, sample_rate, rng):
    size = round(rng.uniform(0.15, 0.35) * sample_rate)
    croak = pulses(np.full(size, rng.uniform(30, 60)), sample_rate, 8.0) * tones(
        np.full(size, rng.uniform(300, 600)), [1, 0.8, 0.5], sample_rate, rng
    )
    return scatter(samples, times(samples, sample_rate, rng, rng.uniform(1.5, 3), size / sample_rate), lambda _: croak)


def _doorbell(samples, sample_rate, rng):
    pitch, second = rng.uniform(500, 1000), rng.uniform(0.25, 0.5) * samples
    modes = pitch * np.array([1, 2.76, 5.4])
    return scatter(samples, [0, int(second)], lambda i: ring(1.2, sample_rate, rng, modes * (1, 0.8)[i], 0.35))


def _horn(samples, sample_rate, rng):
    honks = int(rng.integers(1, 4))
    frequency = np.full(samples, rng.uniform(300, 500))
    chord = sum(tones(frequency * step, [1, 0.8, 0.6, 0.5, 0.3], sample_rate, rng) for step in (1, 1.26))
    return chord * (np.arange(samples) / samples * honks % 1 < rng.uniform(0.6, 0.85))


def _engine_start(samples, sample_rate, rng):
    speed = rng.uniform(18, 30) * contour(samples, [0.5, 0.6, 2.5, 1.8, 3.5])
    return pulses(speed, sample_rate, 4.0) * (0.3 + noise(samples, sample_rate, rng, 60, 900) * 20)


def _thunder(samples, sample_rate, rng):
    rumble = unit(noise(samples, sample_rate, rng, 30, 700, slope=-1.5))
    strokes = [0.05, 1, *rng.uniform(0.1, 0.7, 4), 0.05]
    return rumble * contour(samples, strokes)


def _drip(samples, sample_rate, rng):
    size, low = round(0.09 * sample_rate), rng.uniform(500, 1100)
    drop = tones(low * np.linspace(1, rng.uniform(1.6, 2.4), size), [1], sample_rate, rng) * np.hanning(size)
    return scatter(samples, times(samples, sample_rate, rng, rng.uniform(2, 5), 0.09, jitter=0.6), lambda _: drop)


def _whistle(samples, sample_rate, rng):
    melody = rng.uniform(900, 2200, int(rng.integers(3, 7)))
    return tones(contour(samples, melody), [1, 0.05], sample_rate, rng) + 0.05 * rng.standard_normal(samples)


def _clapping(samples, sample_rate, rng):
    size = round(0.05 * sample_rate)
    decay = np.exp(-np.arange(size) / (0.01 * sample_rate))
    starts = times(samples, sample_rate, rng, rng.uniform(2.5, 7), 0.05, jitter=0.1)
    return scatter(samples, starts, lambda _: decay * unit(noise(size, sample_rate, rng, 900, 2500)))


def _flute(samples, sample_rate, rng):
    steps = rng.choice([0, 2, 4, 5, 7, 9, 12], int(rng.integers(4, 9)))
    notes = rng.uniform(350, 550) * 2 ** (steps[np.arange(samples) * len(steps) // samples] / 12)
    attacks = np.abs(np.sin(np.pi * len(steps) * np.arange(samples) / samples)) ** 0.4
    return tones(notes, [1, 0.4, 0.2, 0.05], sample_rate, rng) * attacks


def _drums(samples, sample_rate, rng):
    starts = times(samples, sample_rate, rng, rng.uniform(4, 8), 0.2)
    kinds = rng.integers(0, 2, 4)
    modes = rng.uniform(60, 110) * np.array([1, 1.6, 2.3])

    def stroke(i):
        if kinds[i % 4]:
            return (
                0.7
                * unit(noise(round(0.1 * sample_rate), sample_rate, rng, 1500))
                * np.linspace(1, 0, round(0.1 * sample_rate))
            )
        return ring(0.2, sample_rate, rng, modes, 0.06)

    return scatter(samples, starts, stroke)


def _laser(samples, sample_rate, rng):
    size, high = round(rng.uniform(0.2, 0.4) * sample_rate), rng.uniform(1500, 3000)
    shot = tones(high * np.geomspace(1, 0.08, size), [1, 0.5, 0.3], sample_rate, rng) * np.linspace(1, 0.1, size)
    return scatter(samples, times(samples, sample_rate, rng, rng.uniform(1.5, 3.5), size / sample_rate), lambda _: shot)


def _bouncing_ball(samples, sample_rate, rng):
    gaps = rng.uniform(0.4, 0.6) * rng.uniform(0.75, 0.88) ** np.arange(30)
    starts = (np.concatenate([[0], np.cumsum(gaps)]) * sample_rate).astype(int)
    modes, starts = rng.uniform(150, 350) * np.array([1, 2.1, 3.4]), starts[starts < samples - sample_rate // 20]
    return scatter(samples, starts, lambda i: 0.9**i * ring(0.12, sample_rate, rng, modes, 0.03))


def _sawing(samples, sample_rate, rng):
    stroke = np.abs(np.sin(np.pi * rng.uniform(2, 4.5) * np.arange(samples) / sample_rate))
    low, high = (unit(noise(samples, sample_rate, rng, edge, 2.5 * edge)) for edge in (700, 2200))
    return stroke * (low + stroke**2 * high)


GESTURES: Mapping[str, Generator] = MappingProxyType(
    {
        "siren": _siren, "owl": _owl, "bee": _bee, "frog": _frog, "doorbell": _doorbell, "car horn": _horn,
        "engine start": _engine_start, "thunder": _thunder, "drip": _drip, "whistle": _whistle,
        "clapping": _clapping, "flute": _flute, "drums": _drums, "laser": _laser, "bouncing ball": _bouncing_ball,
        "sawing": _sawing,
    }
)  # fmt: skip
