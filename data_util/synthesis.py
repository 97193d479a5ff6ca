"""Building blocks of synthetic sounds.

All return float arrays [samples]; frequencies and rates are in Hz, `rng` is a numpy generator.
"""

from collections.abc import Callable

import numpy as np
import scipy.fft


def unit(audio):
    """Scaled to a root mean square of one."""
    return audio / (np.sqrt(np.mean(np.square(audio))) + 1e-12)


def peak_one(audio):
    """Scaled to a largest magnitude of one, float32."""
    return (audio / (np.abs(audio).max() + 1e-12)).astype(np.float32)


def noise(samples, sample_rate, rng, low=20.0, high=np.inf, slope=0.0):
    """Gaussian noise between two band edges; its power falls as frequency ** slope. Made from its spectrum."""
    length = scipy.fft.next_fast_len(samples, real=True)
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    frequency[0] = frequency[1]
    edges = (1 + (low / frequency) ** 8) * (1 + (frequency / high) ** 8)
    gain = frequency ** (slope / 2) / np.sqrt(edges)
    spectrum = rng.standard_normal((2, len(frequency)), dtype=np.float32)
    return scipy.fft.irfft(gain * (spectrum[0] + 1j * spectrum[1]), length)[:samples]


def contour(samples, values):
    """Smooth curve through equally spaced values."""
    position = np.linspace(0, len(values) - 1, samples)
    index = np.minimum(position.astype(int), len(values) - 2)
    step = 0.5 - 0.5 * np.cos(np.pi * (position - index))
    values = np.asarray(values, dtype=float)
    return values[index] + (values[index + 1] - values[index]) * step


def drift(samples, sample_rate, rng, rate, depth):
    """A curve around one that wanders by +-depth about `rate` times a second."""
    knots = 2 + int(np.ceil(samples / sample_rate * rate))
    return 1 + depth * contour(samples, rng.uniform(-1, 1, knots))


def tones(frequency, amplitudes, sample_rate, rng):
    """Sinusoids at all multiples of a fundamental [samples]; amplitudes [tones] or [tones, slow frames].

    A fundamental too high for the sample rate is held below half of it, a partial is silent above.
    """
    frequency = np.minimum(frequency, 0.45 * sample_rate)
    phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
    audio = np.zeros(len(frequency))
    for multiple, amplitude in enumerate(amplitudes, 1):
        audible = multiple * frequency < 0.47 * sample_rate
        if not audible.any():
            break
        if np.ndim(amplitude):
            amplitude = np.interp(np.linspace(0, 1, len(phase)), np.linspace(0, 1, len(amplitude)), amplitude)
        audio += amplitude * audible * np.sin(multiple * phase + rng.uniform(0, 2 * np.pi))
    return audio


def times(samples, sample_rate, rng, rate, length, jitter=0.0):
    """Start samples of grains of `length` seconds, `rate` a second, the first at 0 and the last ending the sound."""
    span = samples - round(length * sample_rate)
    if span <= 0:
        return np.zeros(1, dtype=int)
    count = max(2, round(span / sample_rate * rate) + 1)
    steps = 1 + jitter * rng.uniform(-1, 1, count - 1)
    return np.round(np.concatenate([[0], np.cumsum(steps) / steps.sum() * span])).astype(int)


def scatter(samples, starts, grain: Callable[[int], np.ndarray]):
    """Sum of grains placed at their start samples; `grain(i)` makes the i-th."""
    audio = np.zeros(samples)
    for i, start in enumerate(starts):
        piece = grain(i)[: samples - start]
        audio[start : start + len(piece)] += piece
    return audio


def ring(seconds, sample_rate, rng, modes, decay):
    """Struck object: decaying sinusoids at the given modes, `decay` seconds to 1/e."""
    time = np.arange(max(2, round(seconds * sample_rate))) / sample_rate
    modes = np.asarray([mode for mode in modes if mode < 0.47 * sample_rate] or [0.4 * sample_rate])
    weights = rng.uniform(0.3, 1, len(modes))[:, None]
    phases = rng.uniform(0, 2 * np.pi, len(modes))[:, None]
    return np.exp(-time / decay) * np.sum(weights * np.sin(2 * np.pi * modes[:, None] * time + phases), axis=0)


def pulses(frequency, sample_rate, sharpness):
    """Periodic train of smooth pulses; the higher `sharpness`, the shorter they are."""
    return np.exp(sharpness * (np.cos(2 * np.pi * np.cumsum(frequency) / sample_rate) - 1))


def swell(samples, floor=0.15):
    """Level that rises to one in the middle and falls again; never below `floor`."""
    return floor + (1 - floor) * np.sin(np.pi * (np.arange(samples) + 0.5) / samples) ** 2
