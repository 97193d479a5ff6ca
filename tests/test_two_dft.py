"""The 2DFT baseline: published transforms and similarities, and what it is meant to be blind to."""

import numpy as np
import pytest

from helpers import two_dft
from tests.golden.named_weights import golden_waveform
from tests.reference import golden


@pytest.fixture(scope="module")
def published():
    return golden("qvim/qvim.npz")


@pytest.fixture(scope="module")
def waves():
    return golden_waveform(5, two_dft.RATE, 0, 3)


@pytest.fixture(scope="module")
def longer(waves):
    return np.stack([two_dft.prepared(wave, two_dft.RATE, two_dft.EARLIER_SECONDS) for wave in waves])


def test_constant_q_as_published(published, longer):
    transform = two_dft.constant_q(longer)
    assert list(transform[0].shape) == published["2dft.cqt_shape"].tolist()
    np.testing.assert_allclose(transform[0][:, ::100], published["2dft.cqt_abs_every_100th_frame"], rtol=0, atol=1e-6)
    centres, _ = two_dft.bands(longer.shape[1])
    frequencies = centres * two_dft.RATE / longer.shape[1]
    np.testing.assert_allclose(frequencies, published["2dft.ctr_freqs"], rtol=0, atol=1e-9)


def test_spectrum_as_published(published, longer):
    spectrum = two_dft.spectrum(longer[:1])[0]
    assert spectrum.size == published["2dft.embedding_length"].item()
    middle = spectrum.shape[0] // 2, spectrum.shape[1] // 2
    centre = spectrum[middle[0] - 8 : middle[0] + 9, middle[1] - 8 : middle[1] + 9]
    np.testing.assert_allclose(centre, published["2dft.spectrum_centre"], rtol=5e-6)


@pytest.mark.parametrize("transform", two_dft.TRANSFORMS)
def test_earlier_similarities_as_published(published, longer, transform):
    similarity = two_dft.similarity(longer, longer, transform)
    np.testing.assert_allclose(similarity, published[f"{transform}.similarity"], rtol=0, atol=1e-6)


def test_similarities_of_the_challenge_as_published(published, waves):
    stereo = golden_waveform(4, 44100, 0, 2).T
    resampled = two_dft.prepared(stereo, 44100, 4)
    np.testing.assert_allclose(resampled[::100], published["2dft5s.a_resampled_every_100th"], rtol=0, atol=1e-6)
    clips = [two_dft.prepared(stereo, 44100), two_dft.prepared(golden_waveform(6.5, 16000, 0, 1)[0], 16000)]
    clips += [two_dft.prepared(wave, two_dft.RATE) for wave in waves[:2]]
    np.testing.assert_allclose(two_dft.similarity(clips, clips), published["2dft5s.similarity"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seconds", [1.0, 1.0115])  # an even and an odd number of frames
def test_half_of_the_spectrum_is_enough(waves, seconds):
    clips = np.stack([two_dft.prepared(wave, two_dft.RATE, seconds) for wave in waves])
    whole = two_dft.spectrum(clips).reshape(len(clips), -1).astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(two_dft.similarity(clips, clips), whole @ whole.T, rtol=0, atol=1e-6)


def test_frames_of_those_lengths_are_even_and_odd():
    assert [two_dft.bands(samples)[1].max() % 2 for samples in (8000, 8092)] == [0, 1]


def test_time_does_not_matter(waves):
    late = np.roll(waves[0], 12000)
    assert two_dft.similarity([waves[0]], [late])[0, 0] > 0.999
    assert two_dft.similarity([waves[0]], [late], "cqt")[0, 0] < 0.7


def test_blocks_agree(waves, monkeypatch):
    together = two_dft.unit_vectors(waves)
    monkeypatch.setattr(two_dft, "BLOCK", 2)
    np.testing.assert_array_equal(two_dft.unit_vectors(iter(waves)), together)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_prepared():
    ramp = np.arange(40000) / 40000
    np.testing.assert_array_equal(two_dft.prepared(ramp, 8000, 1.0), ramp[:8000].astype(np.float32))
    short = two_dft.prepared(np.stack([np.ones(100), np.zeros(100)], axis=1), 8000, 0.02)
    np.testing.assert_array_equal(short, np.repeat([0.5, 0], [100, 60]).astype(np.float32))


def test_recordings_of_less_than_a_sample_are_silence(waves):
    tick = two_dft.prepared(np.ones(3), 44100)
    np.testing.assert_array_equal(tick, np.zeros(40000, np.float32))
    whole = [two_dft.prepared(wave, two_dft.RATE) for wave in waves]
    np.testing.assert_array_equal(two_dft.similarity([tick], whole), np.zeros((1, 3)))


def test_silence_and_no_clips(waves):
    silence = np.zeros_like(waves[0])
    np.testing.assert_array_equal(two_dft.similarity([silence], waves), np.zeros((1, 3)))
    assert two_dft.similarity([], waves).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_dft.prepared(np.zeros((1, 2, 3)), 8000), r"expected \[samples\] or \[samples, channels\]"),
        (lambda: two_dft.prepared(np.zeros(0), 8000), "0 samples at 8000 Hz"),
        (lambda: two_dft.constant_q(np.zeros((1, 100))), "100 samples at 8000 Hz are too short"),
        (lambda: two_dft.unit_vectors([np.zeros(8000)], "3dft"), "'3dft' is none of 2dft, cqt"),
        (lambda: two_dft.unit_vectors([np.zeros(8000), np.zeros(8001)]), "got 8000 and 8001 samples"),
        (lambda: two_dft.similarity([np.zeros(8000)], [np.zeros(16000)]), "clips of different lengths"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
