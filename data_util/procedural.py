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
    return _peak_one(GENERATORS[label](samples, sample_rate, rng))


def background(seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Steady noise without events: pink, brown, a band, or a hum, with a slow change of level.

    Returns:
        [samples] float32 with peak 1.
    """
    samples = round(seconds * sample_rate)
    slope = rng.choice([-1.0, -2.0, -0.5])
    low, high = rng.uniform(20, 80), rng.uniform(2000, sample_rate / 2)
    audio = _unit(_noise(samples, sample_rate, rng, low, high, slope))
    if rng.random() < 0.5:
        mains = rng.choice([50.0, 60.0])
        audio += rng.uniform(0.1, 0.5) * _unit(_tones(np.full(samples, mains), 1.0 / np.arange(1, 7), sample_rate, rng))
    return _peak_one(audio * _drift(samples, sample_rate, rng, rate=0.3, depth=0.3))


# Building blocks. All return float arrays [samples]; rates and frequencies are in Hz.


def _unit(audio):
    """Scaled to a root mean square of one."""
    return audio / (np.sqrt(np.mean(np.square(audio))) + 1e-12)


def _peak_one(audio):
    return (audio / (np.abs(audio).max() + 1e-12)).astype(np.float32)


def _noise(samples, sample_rate, rng, low=20.0, high=np.inf, slope=0.0):
    """Gaussian noise between two band edges; its power falls as frequency ** slope. Made from its spectrum."""
    length = scipy.fft.next_fast_len(samples, real=True)
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    frequency[0] = frequency[1]
    edges = (1 + (low / frequency) ** 8) * (1 + (frequency / high) ** 8)
    gain = frequency ** (slope / 2) / np.sqrt(edges)
    spectrum = rng.standard_normal((2, len(frequency)), dtype=np.float32)
    return scipy.fft.irfft(gain * (spectrum[0] + 1j * spectrum[1]), length)[:samples]


def _contour(samples, values):
    """Smooth curve through equally spaced values."""
    position = np.linspace(0, len(values) - 1, samples)
    index = np.minimum(position.astype(int), len(values) - 2)
    step = 0.5 - 0.5 * np.cos(np.pi * (position - index))
    values = np.asarray(values, dtype=float)
    return values[index] + (values[index + 1] - values[index]) * step


def _drift(samples, sample_rate, rng, rate, depth):
    """A curve around one that wanders by +-depth about `rate` times a second."""
    knots = 2 + int(np.ceil(samples / sample_rate * rate))
    return 1 + depth * _contour(samples, rng.uniform(-1, 1, knots))


def _tones(frequency, amplitudes, sample_rate, rng, multiples=None):
    """Sinusoids at multiples of a fundamental [samples]; amplitudes [tones] or [tones, control frames].

    A fundamental too high for the sample rate is held below half of it, a partial is silent above.
    """
    frequency = np.minimum(frequency, 0.45 * sample_rate)
    multiples = np.arange(1, len(amplitudes) + 1) if multiples is None else multiples
    phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
    audio = np.zeros(len(frequency))
    for multiple, amplitude in zip(multiples, amplitudes):
        if multiple * np.min(frequency) >= 0.47 * sample_rate:
            break
        if np.ndim(amplitude):
            amplitude = np.interp(np.linspace(0, 1, len(phase)), np.linspace(0, 1, len(amplitude)), amplitude)
        audible = 1.0 if multiple * np.max(frequency) < 0.47 * sample_rate else multiple * frequency < 0.47 * sample_rate
        audio += amplitude * audible * np.sin(multiple * phase + rng.uniform(0, 2 * np.pi))
    return audio


def _times(samples, sample_rate, rng, rate, length, jitter=0.0):
    """Start samples of grains of `length` seconds, `rate` a second, the first at 0 and the last ending the sound."""
    span = samples - round(length * sample_rate)
    count = max(1, round(max(span, 0) / sample_rate * rate) + 1)
    if span <= 0 or count == 1:
        return np.zeros(1, dtype=int)
    steps = 1 + jitter * rng.uniform(-1, 1, count - 1)
    return np.round(np.concatenate([[0], np.cumsum(steps) / steps.sum() * span])).astype(int)


def _scatter(samples, starts, grain: Callable[[int], np.ndarray]):
    """Sum of grains placed at their start samples; `grain(i)` makes the i-th."""
    audio = np.zeros(samples)
    for i, start in enumerate(starts):
        piece = grain(i)[: samples - start]
        audio[start : start + len(piece)] += piece
    return audio


def _ring(seconds, sample_rate, rng, modes, decay):
    """Struck object: decaying sinusoids at the given modes, `decay` seconds to 1/e."""
    time = np.arange(max(2, round(seconds * sample_rate))) / sample_rate
    modes = np.asarray([mode for mode in modes if mode < 0.47 * sample_rate] or [0.4 * sample_rate])
    weights = rng.uniform(0.3, 1, len(modes))[:, None]
    phases = rng.uniform(0, 2 * np.pi, len(modes))[:, None]
    return np.exp(-time / decay) * np.sum(weights * np.sin(2 * np.pi * modes[:, None] * time + phases), axis=0)


def _pulses(frequency, sample_rate, sharpness):
    """Periodic train of smooth pulses; the higher `sharpness`, the shorter they are."""
    return np.exp(sharpness * (np.cos(2 * np.pi * np.cumsum(frequency) / sample_rate) - 1))


def _swell(samples, floor=0.15):
    """Level that rises to one in the middle and falls again; never below `floor`."""
    return floor + (1 - floor) * np.sin(np.pi * (np.arange(samples) + 0.5) / samples) ** 2


# The ten classes of DESED.


def _alarm(samples, sample_rate, rng):
    if rng.random() < 0.5:  # a struck bell
        pitch = rng.uniform(700, 1300)
        modes = pitch * np.array([1, 2.02, 2.74, 3.76]) * rng.uniform(0.98, 1.02, 4)
        return _scatter(
            samples,
            _times(samples, sample_rate, rng, rng.uniform(9, 18), 0.06),
            lambda _: _ring(0.3, sample_rate, rng, modes, 0.08),
        )
    frequency = np.full(samples, rng.uniform(1100, 2600))
    step = np.arange(samples) / sample_rate * rng.uniform(3, 6) % 1 < 0.5
    frequency[step] *= rng.uniform(1.15, 1.4)
    return _tones(frequency, [1, 0, 0.4, 0, 0.2], sample_rate, rng)


def _motor(samples, sample_rate, rng, pitch, tilt, wobble, noise):
    """Turning machine: harmonics falling as multiple ** -tilt plus a share of noise between two band edges."""
    frequency = rng.uniform(*pitch) * _drift(samples, sample_rate, rng, 2.0, wobble)
    multiples = np.arange(1, int(0.4 * sample_rate / pitch[0]))[:40]
    amplitudes = multiples**-tilt * rng.uniform(0.5, 1, len(multiples))
    share, low, high = noise
    hum = _unit(_tones(frequency, amplitudes, sample_rate, rng))
    return hum + share * _unit(_noise(samples, sample_rate, rng, low, high))


def _blender(samples, sample_rate, rng):
    """A fast motor that speeds up, with a rattle."""
    speed = np.sqrt(np.linspace(rng.uniform(0.5, 0.8), 1, samples))
    frequency = rng.uniform(230, 380) * speed * _drift(samples, sample_rate, rng, 3.0, 0.03)
    whine = _unit(_tones(frequency, rng.uniform(0.3, 1, 16), sample_rate, rng))
    rattle = _pulses(np.full(samples, rng.uniform(22, 38)), sample_rate, 3.0)
    return (whine + 0.9 * _unit(_noise(samples, sample_rate, rng, 900, 4500))) * (0.4 + rattle)


def _cat(samples, sample_rate, rng):
    """Meows: the pitch rises and falls while the mouth opens and closes."""
    length = min(samples / sample_rate, rng.uniform(0.5, 0.9))

    def meow(_):
        size = max(2, round(length * sample_rate))
        pitch = _contour(size, rng.uniform(450, 800) * np.array([0.8, 1.15, 1.1, 0.75]))
        centre = np.interp(np.linspace(0, 1, 40), [0, 0.4, 1], [900, 2200, 1000])
        amplitudes = [1 / (1 + ((k * pitch.mean() - centre) / 500) ** 2) + 0.1 / k for k in range(1, 13)]
        return _tones(pitch, amplitudes, sample_rate, rng) * _swell(size)

    return _scatter(samples, _times(samples, sample_rate, rng, 1 / (length + 0.1), length), meow)


def _dishes(samples, sample_rate, rng):
    """Clinks of glass and china."""
    modes = rng.uniform(1800, 4500) * np.array([1, 1.47, 2.09, 2.56]) * rng.uniform(0.95, 1.05, 4)
    starts = _times(samples, sample_rate, rng, rng.uniform(5, 9), 0.08, jitter=0.7)
    shift = rng.uniform(0.8, 1.25, len(starts))
    level = rng.uniform(0.5, 1, len(starts))
    return _scatter(
        samples, starts, lambda i: level[i] * _ring(0.3, sample_rate, rng, modes * shift[i], rng.uniform(0.03, 0.07))
    )


def _dog(samples, sample_rate, rng):
    """Barks: short, rough, falling in pitch."""
    length = min(samples / sample_rate, rng.uniform(0.14, 0.22))
    size = max(2, round(length * sample_rate))
    pitch = rng.uniform(260, 520) * np.linspace(1.25, 0.8, size)
    amplitudes = [1 / (1 + ((k * pitch.mean() - 1000) / 600) ** 2) for k in range(1, 9)]
    level = np.minimum(1, np.linspace(0, 12, size)) * np.linspace(1, 0.15, size)

    def bark(_):
        voice = _unit(_tones(pitch * rng.uniform(0.95, 1.05), amplitudes, sample_rate, rng))
        return level * (voice + 0.5 * _unit(_noise(size, sample_rate, rng, 500, 2000)))

    return _scatter(samples, _times(samples, sample_rate, rng, rng.uniform(2.8, 4), length, jitter=0.2), bark)


def _shaver(samples, sample_rate, rng):
    """A small oscillating motor: a buzz of many even harmonics, hardly any noise."""
    return _motor(samples, sample_rate, rng, (95, 145), tilt=0.25, wobble=0.01, noise=(0.15, 2000, 7000))


def _frying(samples, sample_rate, rng):
    """Crackling over a hiss."""
    crackle = np.zeros(samples)
    hits = rng.integers(0, samples, max(1, int(samples / sample_rate * rng.uniform(60, 140))))
    crackle[hits] = rng.exponential(1.0, len(hits)) * rng.choice([-1, 1], len(hits))
    burst = np.exp(-np.arange(round(0.006 * sample_rate)) / (0.0015 * sample_rate))
    burst = burst * rng.standard_normal(len(burst))
    length = scipy.fft.next_fast_len(samples + len(burst), real=True)
    crackle = scipy.fft.irfft(scipy.fft.rfft(crackle, length) * scipy.fft.rfft(burst, length), length)[:samples]
    return _unit(crackle) + 0.7 * _unit(_noise(samples, sample_rate, rng, rng.uniform(3000, 4200), np.inf))


def _running_water(samples, sample_rate, rng):
    """A band of noise with bubbles, each a short rising tone."""
    starts = np.sort(rng.integers(0, samples, max(1, int(samples / sample_rate * rng.uniform(30, 60)))))
    size = round(0.03 * sample_rate)
    window = np.hanning(size)

    def bubble(_):
        frequency = rng.uniform(500, 1300) * np.linspace(1, rng.uniform(1.3, 1.8), size)
        return window * np.sin(2 * np.pi * np.cumsum(frequency) / sample_rate)

    rush = _noise(samples, sample_rate, rng, rng.uniform(300, 500), rng.uniform(2200, 3200), slope=-0.5)
    return _unit(_scatter(samples, starts, bubble)) + 0.8 * _unit(rush) * _drift(samples, sample_rate, rng, 6.0, 0.4)


def _vacuum(samples, sample_rate, rng):
    """Rushing air with a high steady whine."""
    air = _noise(samples, sample_rate, rng, 150, rng.uniform(4500, 6500), slope=-0.8)
    pitch = rng.uniform(550, 900) * _drift(samples, sample_rate, rng, 1.0, 0.01)
    return _unit(air) + 0.6 * _unit(_tones(pitch, [1, 0.5, 0.5, 0.2], sample_rate, rng))


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
    frequency = mean * _drift(samples, sample_rate, rng, 3.0, 0.18)
    order = rng.integers(0, len(VOWELS), syllables + 1)
    formants = np.stack([_contour(frames, track) for track in stretch * VOWELS[order].T])
    slow_pitch = np.interp(np.linspace(0, 1, frames), np.linspace(0, 1, samples), frequency)
    amplitudes = []
    for multiple in range(1, int(min(4000 * stretch, 0.45 * sample_rate) / mean)):
        distance = (multiple * slow_pitch - formants) / np.array([90, 120, 180])[:, None]
        amplitudes.append(np.sum(np.array([[1.0], [0.6], [0.3]]) / (1 + distance**2), axis=0))
    cycle = np.cos(2 * np.pi * syllables * np.arange(samples) / samples)
    voiced = _unit(_tones(frequency, amplitudes, sample_rate, rng)) * (0.55 - 0.45 * cycle)
    hiss = _unit(_noise(samples, sample_rate, rng, 2500 * stretch)) * np.maximum(cycle, 0) ** 4
    return voiced + 0.35 * hiss


# The seventeen classes of MAESTRO Real.


def _furniture(samples, sample_rate, rng):
    """Stick and slip of wood on a floor."""
    rate = rng.uniform(28, 55) * _drift(samples, sample_rate, rng, 6.0, 0.4)
    scrape = _noise(samples, sample_rate, rng, 120, 1200, slope=-1)
    return _unit(scrape) * _pulses(rate, sample_rate, 6.0) * _drift(samples, sample_rate, rng, 2.0, 0.6)


def _people(samples, sample_rate, rng):
    return sum(_unit(_voice(samples, sample_rate, rng)) for _ in range(rng.integers(2, 4)))


def _children(samples, sample_rate, rng):
    return _voice(samples, sample_rate, rng, pitch=(300, 450), stretch=1.25)


def _coffee(samples, sample_rate, rng):
    """A pump at mains frequency under a jet of steam."""
    pump = _pulses(np.full(samples, rng.choice([50.0, 60.0])), sample_rate, 4.0)
    pump = pump * _unit(_noise(samples, sample_rate, rng, 80, 700))
    steam = _noise(samples, sample_rate, rng, rng.uniform(4500, 5500), np.inf)
    return _unit(pump) + 0.8 * _unit(steam) * _drift(samples, sample_rate, rng, 1.0, 0.3)


def _footsteps(samples, sample_rate, rng):
    modes = rng.uniform(90, 180) * np.array([1, 1.6, 2.7, 9.0])
    starts = _times(samples, sample_rate, rng, rng.uniform(1.6, 2.3), 0.12, jitter=0.08)
    return _scatter(samples, starts, lambda _: _ring(0.2, sample_rate, rng, modes, rng.uniform(0.02, 0.04)))


def _large_vehicle(samples, sample_rate, rng):
    firing = rng.uniform(24, 40) * _drift(samples, sample_rate, rng, 0.7, 0.12)
    engine = _unit(_tones(firing, np.arange(1, 13) ** -0.3, sample_rate, rng))
    return (engine + 0.4 * _unit(_noise(samples, sample_rate, rng, 40, 450, slope=-1))) * _swell(samples, 0.3)


def _car(samples, sample_rate, rng):
    tyres = _noise(samples, sample_rate, rng, rng.uniform(350, 600), rng.uniform(1300, 1900))
    return _unit(tyres) * _swell(samples, 0.15)


def _brakes(samples, sample_rate, rng):
    frequency = rng.uniform(2600, 4200) * _contour(samples, [1, rng.uniform(0.97, 1.03), 0.93])
    frequency = frequency * (1 + 0.004 * np.sin(2 * np.pi * 30 * np.arange(samples) / sample_rate))
    return _tones(frequency, [1, 0.25], sample_rate, rng) * _drift(samples, sample_rate, rng, 8.0, 0.4)


def _cash_register(samples, sample_rate, rng):
    size = max(2, round(min(0.12 * sample_rate, samples)))
    pitch = np.full(size, rng.uniform(1900, 2300))
    level = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / (0.004 * sample_rate))
    starts = _times(samples, sample_rate, rng, rng.uniform(1.2, 2), 0.12, jitter=0.4)
    return _scatter(samples, starts, lambda _: level * _tones(pitch, [1, 0.1], sample_rate, rng))


def _announcement(samples, sample_rate, rng):
    """A chime, then a voice through a loudspeaker in a hall."""
    chime = min(samples, round(1.0 * sample_rate))
    notes = rng.uniform(500, 700) * np.array([1.0, 0.79])
    gong = _scatter(
        chime,
        np.arange(2) * (chime // 2),
        lambda i: _ring(chime / sample_rate, sample_rate, rng, notes[i] * np.array([1, 2]), 0.4),
    )
    voice = _unit(_voice(samples, sample_rate, rng, pitch=(160, 240)))
    echo, delay = np.zeros(samples), min(samples - 1, round(rng.uniform(0.08, 0.15) * sample_rate))
    echo[delay:] = voice[: samples - delay]
    audio = voice + 0.6 * echo
    audio[:chime] = 0.1 * audio[:chime] + 2 * _unit(gong)
    return audio


def _shopping_cart(samples, sample_rate, rng):
    """Rattling wire over rolling wheels."""
    modes = rng.uniform(900, 1500) * np.array([1, 1.9, 3.1, 3.7])
    starts = _times(samples, sample_rate, rng, rng.uniform(13, 20), 0.03, jitter=0.5)
    rattle = _scatter(samples, starts, lambda _: _ring(0.06, sample_rate, rng, modes, 0.012))
    return _unit(rattle) + 0.5 * _unit(_noise(samples, sample_rate, rng, 150, 600))


def _metro(samples, sample_rate, rng, start, end):
    """A traction motor whose pitch and level go from `start` to `end`, over the rumble of a train."""
    progress = np.linspace(0, 1, samples)
    pitch = rng.uniform(0.9, 1.1) * start[0] * (end[0] / start[0]) ** progress
    level = start[1] + (end[1] - start[1]) * progress
    motor = _unit(_tones(pitch, [1, 0.7, 0.3, 0.5, 0.2], sample_rate, rng))
    return level * (motor + 0.8 * _unit(_noise(samples, sample_rate, rng, 60, 900, slope=-0.7)))


def _metro_leaving(samples, sample_rate, rng):
    return _metro(samples, sample_rate, rng, (180, 1.0), (750, 0.35))


def _metro_approaching(samples, sample_rate, rng):
    return _metro(samples, sample_rate, rng, (1100, 0.35), (220, 1.0))


def _door(samples, sample_rate, rng):
    """A latch, a creak, a thud."""
    creak = _pulses(rng.uniform(40, 70) * _contour(samples, [1, 2, 1.3]), sample_rate, 15.0)
    audio = 0.5 * _unit(creak * _noise(samples, sample_rate, rng, 500, 2000))
    knocks = (0, max(0, samples - round(0.15 * sample_rate)))
    modes = rng.uniform(70, 120) * np.array([1, 2.1, 3.3, 5.2])
    return audio + 5 * _scatter(samples, knocks, lambda _: _ring(0.15, sample_rate, rng, modes, 0.04))


def _wind(samples, sample_rate, rng):
    gusts = _drift(samples, sample_rate, rng, 1.2, 0.75)
    return _unit(_noise(samples, sample_rate, rng, 30, rng.uniform(250, 450), slope=-1)) * gusts


def _birds(samples, sample_rate, rng):
    length = rng.uniform(0.08, 0.14)
    size = max(2, round(length * sample_rate))
    centre = rng.uniform(3200, 4800)

    def chirp(_):
        sweep = centre * (1 + rng.uniform(0.1, 0.25) * np.sin(np.linspace(0, rng.uniform(2, 9), size)))
        return _tones(sweep, [1.0, 0.1], sample_rate, rng) * np.hanning(size)

    return _scatter(samples, _times(samples, sample_rate, rng, rng.uniform(4, 6), length, jitter=0.5), chirp)


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
