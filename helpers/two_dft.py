"""The 2DFT baseline of query by vocal imitation: the 2-D Fourier transform of a constant-Q spectrogram.

Its magnitude does not change when a sound is moved in time or transposed. Pishdadian et al., "On the Transferability of
Representations in Query by Vocal Imitation" (2019), in the version of the AES AIMLA Challenge 2025 (:data:`SECONDS`)
and an earlier one (:data:`EARLIER_SECONDS`). The constant-Q transform is a non-stationary Gabor transform on
overlapping bands [Velasco et al., "Constructing an Invertible Constant-Q Transform with Nonstationary Gabor Frames",
DAFx 2011].
"""

from collections.abc import Iterable, Iterator

import numpy as np

RATE = 8000  # Hz
SECONDS = 5.0
EARLIER_SECONDS = 15.4
BINS_PER_OCTAVE = 12
LOWEST, HIGHEST = 55.0, 2090.0  # Hz
SHORTEST_WINDOW = 4  # FFT bins
EPS = 1e-17  # of the cosine, so that silence is like nothing
BLOCK = 8  # clips transformed at a time
DIMENSIONS = 4096  # of a dot product in float32; a longer one would lose the sixth digit
TRANSFORMS = ("2dft", "cqt")


def prepared(audio, rate: int, seconds: float = SECONDS) -> np.ndarray:
    """What the transform sees of a recording: mono, 8 kHz by Fourier resampling, cut or filled up with zeros.

    A recording that is shorter than a sample at 8 kHz is silence.

    Args:
        audio: [samples] or [samples, channels].
        rate: in Hz.
        seconds: length of the result.

    Returns:
        [samples] float32.

    Raises:
        ValueError: another number of axes, or no sample.
    """
    from scipy.signal import resample

    audio = np.asarray(audio, dtype=np.float64)
    if audio.ndim not in (1, 2):
        raise ValueError(f"audio has shape {audio.shape}, expected [samples] or [samples, channels]")
    mono = audio if audio.ndim == 1 else audio.mean(axis=1)
    if len(mono) == 0:
        raise ValueError(f"a recording of 0 samples at {rate} Hz, expected at least 1")
    result = np.zeros(round(seconds * RATE), dtype=np.float32)
    length = int(len(mono) * RATE / rate)
    if length == 0:
        return result
    if rate != RATE:
        mono = resample(mono, length)
    result[: len(mono)] = mono[: len(result)]
    return result


def bands(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and widths of all bands in bins of the FFT of a signal of that many samples at 8 kHz.

    Raises:
        ValueError: too few samples for the lowest band.
    """
    octaves = np.log2(HIGHEST / LOWEST)
    frequencies = LOWEST * 2.0 ** (np.arange(int(octaves * BINS_PER_OCTAVE) + 1) / BINS_PER_OCTAVE)
    width = 2 ** (1 / BINS_PER_OCTAVE) - 2 ** (-1 / BINS_PER_OCTAVE)
    centres = np.floor(frequencies * samples / RATE).astype(int)
    widths = np.maximum(np.round(width * frequencies * samples / RATE).astype(int), SHORTEST_WINDOW)
    if centres[0] < widths[0] // 2:
        raise ValueError(f"{samples} samples at {RATE} Hz are too short for the constant-Q transform")
    return centres, widths


def constant_q(waveforms) -> np.ndarray:
    """Magnitudes of the constant-Q transform.

    Args:
        waveforms: [clips, samples] at 8 kHz.

    Returns:
        [clips, 63 bands, frames]; there are as many frames as the widest band has bins.
    """
    from scipy import fft

    waveforms = np.asarray(waveforms)
    samples = waveforms.shape[1]
    centres, widths = bands(samples)
    spectrum = fft.rfft(waveforms, axis=1)
    pieces = np.zeros((len(waveforms), len(centres), widths.max()), dtype=spectrum.dtype)
    for band, (centre, width) in enumerate(zip(centres, widths)):
        offset = np.arange(width) - width // 2
        window = (0.5 + 0.5 * np.cos(2 * np.pi * offset / width)).astype(waveforms.dtype)
        pieces[:, band, :width] = spectrum[:, centre + offset] * window
    # Where a piece of the spectrum stands in its band only turns phases.
    return np.abs(fft.ifft(pieces, axis=2, overwrite_x=True)) * float(2 * widths.max() / samples)


def spectrum(waveforms) -> np.ndarray:
    """Magnitudes of the 2-D Fourier transform of :func:`constant_q`, same shape, frequency zero in the middle."""
    from scipy import fft

    return fft.fftshift(np.abs(fft.fft2(constant_q(waveforms))), axes=(1, 2))


def unit_vectors(waveforms: Iterable, transform: str = "2dft") -> np.ndarray:
    """Vectors whose dot products are the cosine similarities of the transforms.

    Args:
        waveforms: clips [samples] of one length, e.g. from :func:`prepared`.
        transform: ``2dft``, or ``cqt`` for the constant-Q transform itself.

    Returns:
        [clips, dimensions] float32; zeros for a silent clip. The 2-D spectrum of a real image is symmetric: one half of
        it is here, with weights.

    Raises:
        ValueError: unknown transform, or clips of different lengths.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"transform: '{transform}' is none of {', '.join(TRANSFORMS)}")
    parts = []
    for block in _blocks(waveforms):
        image = constant_q(block)
        vectors = (_half_spectrum(image) if transform == "2dft" else image).reshape(len(block), -1)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        parts.append(vectors / (norms + np.float32(EPS)))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def similarity(queries: Iterable, items: Iterable, transform: str = "2dft") -> np.ndarray:
    """[queries, items] float64 cosine similarities of all pairs at once; arguments as for :func:`unit_vectors`."""
    left, right = unit_vectors(queries, transform), unit_vectors(items, transform)
    if len(left) and len(right) and left.shape[1] != right.shape[1]:
        raise ValueError("queries and items have clips of different lengths")
    result = np.zeros((len(left), len(right)))
    for start in range(0, left.shape[1], DIMENSIONS):
        part = slice(start, start + DIMENSIONS)
        result += left[:, part] @ right[:, part].T
    return result


def _half_spectrum(image):
    from scipy import fft

    half = np.abs(fft.rfft2(image))
    twice = slice(1, (image.shape[2] + 1) // 2)  # columns whose mirror image is in the other half
    half[:, :, twice] *= np.sqrt(np.float32(2))
    return half


def _blocks(waveforms) -> Iterator[np.ndarray]:
    block = []
    for waveform in waveforms:
        block.append(np.asarray(waveform, dtype=np.float32))
        if len(block[-1]) != len(block[0]):
            raise ValueError(f"clips of one length expected, got {len(block[0])} and {len(block[-1])} samples")
        if len(block) == BLOCK:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)
