"""Synthesis of isolated sounds for the 27 classes of DESED and MAESTRO Real, and of backgrounds.

Nobody should mistake these for recordings. Each class has the spectrum and the modulation that make the real
sound recognisable (harmonic stacks, formants, chirps, grains, bands of noise), drawn anew for every sound, so
that a detector has something to learn where no recordings are at hand. A sound is audible from its first to its
last sample: what is labelled is what is heard.

Source-filter voices follow the usual model of speech synthesis (Klatt, "Software for a cascade/parallel formant
synthesizer", JASA 67, 1980): harmonics of a gliding fundamental, weighted by moving resonances.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import scipy.fft

from data_util.synthesis import contour, drift, noise, peak_one, pulses, ring, scatter, swell, times, tones, unit

VERSION = 1  # raised whenever a class sounds different than before
CONTROL_RATE = 100  # Hz at which slow contours are drawn before they are interpolated to the sample rate
VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])


def synthesise(label: str, seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One isolated sound of a class, with random parameters.

    Args:
        label: one of :data:`GENERATORS`.
        seconds: its length.
        sample_rate: in Hz; what lies above half of it is left out.
        rng: decides all parameters.

    Returns:
        [samples] float32 with peak 1.

    Raises:
        ValueError: unknown class or no length.
    """
    if label not in GENERATORS:
        raise ValueError(f"no generator for class '{label}' (known: {', '.join(GENERATORS)})")
    samples = round(seconds * sample_rate)
    if samples < 2:
        raise ValueError(f"a sound of class '{label}' cannot last {seconds} s")
    return peak_one(GENERATORS[label](samples, sample_rate, rng))


def background(seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Steady noise without events: pink, brown, a band, or a hum, with a slow change of level.

    Returns:
        [samples] float32 with peak 1.
    """
    samples = round(seconds * sample_rate)
    slope = rng.choice([-1.0, -2.0, -0.5])
    low, high = rng.uniform(20, 80), rng.uniform(2000, sample_rate / 2)
    audio = unit(noise(samples, sample_rate, rng, low, high, slope))
    if rng.random() < 0.5:
        mains = rng.choice([50.0, 60.0])
        audio += rng.uniform(0.1, 0.5) * unit(tones(np.full(samples, mains), 1.0 / np.arange(1, 7), sample_rate, rng))
    return peak_one(audio * drift(samples, sample_rate, rng, rate=0.3, depth=0.3))


class Procedural:
    """Synthetic sounds as the sources of soundscapes; see :class:`data_util.soundscapes.Sources`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order."""
        return tuple(GENERATORS)

    def event(self, label, seconds, sample_rate, rng):
        """An isolated sound of exactly `seconds`, [samples] float32, and its origin."""
        return synthesise(label, seconds, sample_rate, rng), "procedural"

    def background(self, seconds, sample_rate, rng):
        """A background of exactly `seconds`, [samples] float32, and its origin."""
        return background(seconds, sample_rate, rng), "procedural"

    def describe(self):
        """What soundscapes depend on, as plain values."""
        return {"procedural": VERSION}


# The ten classes of DESED.


def _alarm(samples, sample_rate, rng):
    if rng.random() < 0.5:  # a struck bell
        pitch = rng.uniform(700, 1300)
        modes = pitch * np.array([1, 2.02, 2.74, 3.76]) * rng.uniform(0.98, 1.02, 4)
        return scatter(
            samples,
            times(samples, sample_rate, rng, rng.uniform(9, 18), 0.06),
            lambda _: ring(0.3, sample_rate, rng, modes, 0.08),
        )
    frequency = np.full(samples, rng.uniform(1100, 2600))
    step = np.arange(samples) / sample_rate * rng.uniform(3, 6) % 1 < 0.5
    frequency[step] *= rng.uniform(1.15, 1.4)
    return tones(frequency, [1, 0, 0.4, 0, 0.2], sample_rate, rng)


def _blender(samples, sample_rate, rng):
    """A fast motor that speeds up, with a rattle."""
    speed = np.sqrt(np.linspace(rng.uniform(0.5, 0.8), 1, samples))
    frequency = rng.uniform(230, 380) * speed * drift(samples, sample_rate, rng, 3.0, 0.03)
    whine = unit(tones(frequency, rng.uniform(0.3, 1, 16), sample_rate, rng))
    rattle = pulses(np.full(samples, rng.uniform(22, 38)), sample_rate, 3.0)
    return (whine + 0.9 * unit(noise(samples, sample_rate, rng, 900, 4500))) * (0.4 + rattle)


def _cat(samples, sample_rate, rng):
    """Meows: the pitch rises and falls while the mouth opens and closes."""
    length = min(samples / sample_rate, rng.uniform(0.5, 0.9))

    def meow(_):
        size = max(2, round(length * sample_rate))
        pitch = contour(size, rng.uniform(450, 800) * np.array([0.8, 1.15, 1.1, 0.75]))
        centre = np.interp(np.linspace(0, 1, 40), [0, 0.4, 1], [900, 2200, 1000])
        amplitudes = [1 / (1 + ((k * pitch.mean() - centre) / 500) ** 2) + 0.1 / k for k in range(1, 13)]
        return tones(pitch, amplitudes, sample_rate, rng) * swell(size)

    return scatter(samples, times(samples, sample_rate, rng, 1 / (length + 0.1), length), meow)


def _dishes(samples, sample_rate, rng):
    """Clinks of glass and china."""
    modes = rng.uniform(1800, 4500) * np.array([1, 1.47, 2.09, 2.56]) * rng.uniform(0.95, 1.05, 4)
    starts = times(samples, sample_rate, rng, rng.uniform(5, 9), 0.08, jitter=0.7)
    shift = rng.uniform(0.8, 1.25, len(starts))
    level = rng.uniform(0.5, 1, len(starts))
    return scatter(
        samples, starts, lambda i: level[i] * ring(0.3, sample_rate, rng, modes * shift[i], rng.uniform(0.03, 0.07))
    )


def _dog(samples, sample_rate, rng):
    """Barks: short, rough, falling in pitch."""
    length = min(samples / sample_rate, rng.uniform(0.14, 0.22))
    size = max(2, round(length * sample_rate))
    pitch = rng.uniform(260, 520) * np.linspace(1.25, 0.8, size)
    amplitudes = [1 / (1 + ((k * pitch.mean() - 1000) / 600) ** 2) for k in range(1, 9)]
    level = np.minimum(1, np.linspace(0, 12, size)) * np.linspace(1, 0.15, size)

    def bark(_):
        voice = unit(tones(pitch * rng.uniform(0.95, 1.05), amplitudes, sample_rate, rng))
        return level * (voice + 0.5 * unit(noise(size, sample_rate, rng, 500, 2000)))

    return scatter(samples, times(samples, sample_rate, rng, rng.uniform(2.8, 4), length, jitter=0.2), bark)


def _shaver(samples, sample_rate, rng):
    """A small oscillating motor: a buzz of many harmonics with hardly any noise."""
    pitch = rng.uniform(95, 145) * drift(samples, sample_rate, rng, 2.0, 0.01)
    amplitudes = np.arange(1, 41) ** -0.25 * rng.uniform(0.5, 1, 40)
    return unit(tones(pitch, amplitudes, sample_rate, rng)) + 0.15 * unit(noise(samples, sample_rate, rng, 2000, 7000))


def _frying(samples, sample_rate, rng):
    """Crackling over a hiss."""
    crackle = np.zeros(samples)
    hits = rng.integers(0, samples, max(1, int(samples / sample_rate * rng.uniform(60, 140))))
    crackle[hits] = rng.exponential(1.0, len(hits)) * rng.choice([-1, 1], len(hits))
    burst = np.exp(-np.arange(round(0.006 * sample_rate)) / (0.0015 * sample_rate))
    burst = burst * rng.standard_normal(len(burst))
    length = scipy.fft.next_fast_len(samples + len(burst), real=True)
    crackle = scipy.fft.irfft(scipy.fft.rfft(crackle, length) * scipy.fft.rfft(burst, length), length)[:samples]
    return unit(crackle) + 0.7 * unit(noise(samples, sample_rate, rng, rng.uniform(3000, 4200), np.inf))


def _running_water(samples, sample_rate, rng):
    """A band of noise with bubbles, each a short rising tone."""
    starts = np.sort(rng.integers(0, samples, max(1, int(samples / sample_rate * rng.uniform(30, 60)))))
    size = round(0.03 * sample_rate)
    window = np.hanning(size)

    def bubble(_):
        frequency = rng.uniform(500, 1300) * np.linspace(1, rng.uniform(1.3, 1.8), size)
        return window * np.sin(2 * np.pi * np.cumsum(frequency) / sample_rate)

    rush = noise(samples, sample_rate, rng, rng.uniform(300, 500), rng.uniform(2200, 3200), slope=-0.5)
    return unit(scatter(samples, starts, bubble)) + 0.8 * unit(rush) * drift(samples, sample_rate, rng, 6.0, 0.4)


def _vacuum(samples, sample_rate, rng):
    """Rushing air with a high steady whine."""
    air = noise(samples, sample_rate, rng, 150, rng.uniform(4500, 6500), slope=-0.8)
    pitch = rng.uniform(550, 900) * drift(samples, sample_rate, rng, 1.0, 0.01)
    return unit(air) + 0.6 * unit(tones(pitch, [1, 0.5, 0.5, 0.2], sample_rate, rng))


def _voice(samples, sample_rate, rng, pitch=(95, 220), stretch=1.0):
    """Syllables: harmonics under three moving formants, with hissed consonants between them.

    Args:
        pitch: range of the mean fundamental in Hz.
        stretch: factor on the formants, above one for small heads.
    """
    seconds = samples / sample_rate
    frames = max(4, round(seconds * CONTROL_RATE))
    syllables = max(1, round(seconds * rng.uniform(3.5, 5.5)))
    mean = rng.uniform(*pitch)
    frequency = mean * drift(samples, sample_rate, rng, 3.0, 0.18)
    order = rng.integers(0, len(VOWELS), syllables + 1)
    formants = np.stack([contour(frames, track) for track in stretch * VOWELS[order].T])
    slow_pitch = np.interp(np.linspace(0, 1, frames), np.linspace(0, 1, samples), frequency)
    amplitudes = []
    for multiple in range(1, int(min(4000 * stretch, 0.45 * sample_rate) / mean)):
        distance = (multiple * slow_pitch - formants) / np.array([90, 120, 180])[:, None]
        amplitudes.append(np.sum(np.array([[1.0], [0.6], [0.3]]) / (1 + distance**2), axis=0))
    cycle = np.cos(2 * np.pi * syllables * np.arange(samples) / samples)
    voiced = unit(tones(frequency, amplitudes, sample_rate, rng)) * (0.55 - 0.45 * cycle)
    hiss = unit(noise(samples, sample_rate, rng, 2500 * stretch)) * np.maximum(cycle, 0) ** 4
    return voiced + 0.35 * hiss


# The seventeen classes of MAESTRO Real.


def _furniture(samples, sample_rate, rng):
    """Stick and slip of wood on a floor."""
    rate = rng.uniform(28, 55) * drift(samples, sample_rate, rng, 6.0, 0.4)
    scrape = noise(samples, sample_rate, rng, 120, 1200, slope=-1)
    return unit(scrape) * pulses(rate, sample_rate, 6.0) * drift(samples, sample_rate, rng, 2.0, 0.6)


def _people(samples, sample_rate, rng):
    return sum(unit(_voice(samples, sample_rate, rng)) for _ in range(rng.integers(2, 4)))


def _children(samples, sample_rate, rng):
    return _voice(samples, sample_rate, rng, pitch=(300, 450), stretch=1.25)


def _coffee(samples, sample_rate, rng):
    """A pump at mains frequency under a jet of steam."""
    pump = pulses(np.full(samples, rng.choice([50.0, 60.0])), sample_rate, 4.0)
    pump = pump * unit(noise(samples, sample_rate, rng, 80, 700))
    steam = noise(samples, sample_rate, rng, rng.uniform(4500, 5500), np.inf)
    return unit(pump) + 0.8 * unit(steam) * drift(samples, sample_rate, rng, 1.0, 0.3)


def _footsteps(samples, sample_rate, rng):
    modes = rng.uniform(90, 180) * np.array([1, 1.6, 2.7, 9.0])
    starts = times(samples, sample_rate, rng, rng.uniform(1.6, 2.3), 0.12, jitter=0.08)
    return scatter(samples, starts, lambda _: ring(0.2, sample_rate, rng, modes, rng.uniform(0.02, 0.04)))


def _large_vehicle(samples, sample_rate, rng):
    firing = rng.uniform(24, 40) * drift(samples, sample_rate, rng, 0.7, 0.12)
    engine = unit(tones(firing, np.arange(1, 13) ** -0.3, sample_rate, rng))
    return (engine + 0.4 * unit(noise(samples, sample_rate, rng, 40, 450, slope=-1))) * swell(samples, 0.3)


def _car(samples, sample_rate, rng):
    tyres = noise(samples, sample_rate, rng, rng.uniform(350, 600), rng.uniform(1300, 1900))
    return unit(tyres) * swell(samples, 0.15)


def _brakes(samples, sample_rate, rng):
    frequency = rng.uniform(2600, 4200) * contour(samples, [1, rng.uniform(0.97, 1.03), 0.93])
    frequency = frequency * (1 + 0.004 * np.sin(2 * np.pi * 30 * np.arange(samples) / sample_rate))
    return tones(frequency, [1, 0.25], sample_rate, rng) * drift(samples, sample_rate, rng, 8.0, 0.4)


def _cash_register(samples, sample_rate, rng):
    size = max(2, round(min(0.12 * sample_rate, samples)))
    pitch = np.full(size, rng.uniform(1900, 2300))
    level = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / (0.004 * sample_rate))
    starts = times(samples, sample_rate, rng, rng.uniform(1.2, 2), 0.12, jitter=0.4)
    return scatter(samples, starts, lambda _: level * tones(pitch, [1, 0.1], sample_rate, rng))


def _announcement(samples, sample_rate, rng):
    """A chime, then a voice through a loudspeaker in a hall."""
    chime = min(samples, round(1.0 * sample_rate))
    notes = rng.uniform(500, 700) * np.array([1.0, 0.79])
    gong = scatter(
        chime,
        np.arange(2) * (chime // 2),
        lambda i: ring(chime / sample_rate, sample_rate, rng, notes[i] * np.array([1, 2]), 0.4),
    )
    voice = unit(_voice(samples, sample_rate, rng, pitch=(160, 240)))
    echo, delay = np.zeros(samples), min(samples - 1, round(rng.uniform(0.08, 0.15) * sample_rate))
    echo[delay:] = voice[: samples - delay]
    audio = voice + 0.6 * echo
    audio[:chime] = 0.1 * audio[:chime] + 2 * unit(gong)
    return audio


def _shopping_cart(samples, sample_rate, rng):
    """Rattling wire over rolling wheels."""
    modes = rng.uniform(900, 1500) * np.array([1, 1.9, 3.1, 3.7])
    starts = times(samples, sample_rate, rng, rng.uniform(13, 20), 0.03, jitter=0.5)
    rattle = scatter(samples, starts, lambda _: ring(0.06, sample_rate, rng, modes, 0.012))
    return unit(rattle) + 0.5 * unit(noise(samples, sample_rate, rng, 150, 600))


def _metro(samples, sample_rate, rng, start, end):
    """A traction motor whose pitch and level go from `start` to `end`, over the rumble of a train."""
    progress = np.linspace(0, 1, samples)
    pitch = rng.uniform(0.9, 1.1) * start[0] * (end[0] / start[0]) ** progress
    level = start[1] + (end[1] - start[1]) * progress
    motor = unit(tones(pitch, [1, 0.7, 0.3, 0.5, 0.2], sample_rate, rng))
    return level * (motor + 0.8 * unit(noise(samples, sample_rate, rng, 60, 900, slope=-0.7)))


def _metro_leaving(samples, sample_rate, rng):
    return _metro(samples, sample_rate, rng, (180, 1.0), (750, 0.35))


def _metro_approaching(samples, sample_rate, rng):
    return _metro(samples, sample_rate, rng, (1100, 0.35), (220, 1.0))


def _door(samples, sample_rate, rng):
    """A latch, a creak, a thud."""
    creak = pulses(rng.uniform(40, 70) * contour(samples, [1, 2, 1.3]), sample_rate, 15.0)
    audio = 0.5 * unit(creak * noise(samples, sample_rate, rng, 500, 2000))
    knocks = (0, max(0, samples - round(0.15 * sample_rate)))
    modes = rng.uniform(70, 120) * np.array([1, 2.1, 3.3, 5.2])
    return audio + 5 * scatter(samples, knocks, lambda _: ring(0.15, sample_rate, rng, modes, 0.04))


def _wind(samples, sample_rate, rng):
    gusts = drift(samples, sample_rate, rng, 1.2, 0.75)
    return unit(noise(samples, sample_rate, rng, 30, rng.uniform(250, 450), slope=-1)) * gusts


def _birds(samples, sample_rate, rng):
    length = rng.uniform(0.08, 0.14)
    size = max(2, round(length * sample_rate))
    centre = rng.uniform(3200, 4800)

    def chirp(_):
        sweep = centre * (1 + rng.uniform(0.1, 0.25) * np.sin(np.linspace(0, rng.uniform(2, 9), size)))
        return tones(sweep, [1.0, 0.1], sample_rate, rng) * np.hanning(size)

    return scatter(samples, times(samples, sample_rate, rng, rng.uniform(4, 6), length, jitter=0.5), chirp)


Generator = Callable[[int, int, np.random.Generator], np.ndarray]
GENERATORS: Mapping[str, Generator] = MappingProxyType(
    {
        "Alarm_bell_ringing": _alarm,
        "Blender": _blender,
        "Cat": _cat,
        "Dishes": _dishes,
        "Dog": _dog,
        "Electric_shaver_toothbrush": _shaver,
        "Frying": _frying,
        "Running_water": _running_water,
        "Speech": _voice,
        "Vacuum_cleaner": _vacuum,
        "cutlery and dishes": _dishes,
        "furniture dragging": _furniture,
        "people talking": _people,
        "children voices": _children,
        "coffee machine": _coffee,
        "footsteps": _footsteps,
        "large_vehicle": _large_vehicle,
        "car": _car,
        "brakes_squeaking": _brakes,
        "cash register beeping": _cash_register,
        "announcement": _announcement,
        "shopping cart": _shopping_cart,
        "metro leaving": _metro_leaving,
        "metro approaching": _metro_approaching,
        "door opens/closes": _door,
        "wind_blowing": _wind,
        "birds_singing": _birds,
    }
)
