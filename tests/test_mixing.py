"""Wav mixing and device impulse responses against the published numbers and by hand."""

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import Dataset

from data_util.clips import PARTNER, WAVMIX, generator
from data_util.errors import DataMissing
from data_util.mixing import (
    DeviceResponse,
    WavMix,
    apply_impulse_response,
    draw_mix_weight,
    load_responses,
    mix_labels,
    mix_waveforms,
)
from tests.reference import golden

SAMPLES = 400


class Noise(Dataset):
    """Ten samples; item i has class i active, and remembers the key that it was asked for with."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 10

    def __getitem__(self, item):
        index, key = item if isinstance(item, tuple) else (item, None)
        self.asked.append((index, key))
        rng = torch.Generator().manual_seed(index)
        strong = torch.zeros(27, 5)
        strong[index, 1:3] = 1
        return {
            "audio": torch.rand(SAMPLES, generator=rng) + 0.1,
            "strong": strong,
            "weak": strong.amax(dim=1),
            "pseudo": torch.rand(27, 5, generator=rng),
            "valid": torch.arange(27) < 10,
            "source": 2,
            "filename": f"{index}.wav",
        }


@pytest.fixture(scope="module")
def numbers():
    return {key: torch.from_numpy(np.atleast_1d(value)) for key, value in golden("sed/augmentations.npz").items()}


def test_wavmix_as_published(numbers):
    a, b, wave, beta = (numbers[f"wavmix.{key}"] for key in ("wave1", "wave2", "wave", "beta"))
    weight = max(beta.item(), 1 - beta.item())
    torch.testing.assert_close(mix_waveforms(a, b, weight), wave, rtol=0, atol=1e-6)
    for kind in ("labels", "pseudo"):
        a, b, mixed = (numbers[f"wavmix.{kind}{suffix}"] for suffix in ("1", "2", ""))
        torch.testing.assert_close(mix_labels(a, b, weight), mixed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", ["odd", "even"])
def test_impulse_response_as_published(numbers, length):
    expected = numbers[f"impulse_response.{length}.wave"]
    response = numbers[f"impulse_response.{length}.response"][0]
    result = apply_impulse_response(numbers["wavmix.wave1"], response)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("taps", [1, 2, 7, 8, 601])
def test_impulse_response_against_direct_convolution(taps):
    rng = np.random.default_rng(taps)
    x, h = rng.standard_normal(300), rng.standard_normal(taps)
    padded = np.pad(x, taps // 2)
    expected = np.array([padded[i : i + taps] @ h[::-1] for i in range(len(padded) - taps + 1)])[:300]
    result = apply_impulse_response(torch.from_numpy(x), torch.from_numpy(h))
    assert len(result) == 300
    np.testing.assert_allclose(result[: len(expected)], expected, rtol=0, atol=1e-10)


def test_weights_favour_the_first_clip():
    weights = [draw_mix_weight(np.random.default_rng(seed)) for seed in range(2000)]
    assert 0.5 <= min(weights) <= max(weights) <= 1
    # Mean of max(b, 1 - b) for Beta(0.2, 0.2), by numerical integration.
    assert np.mean(weights) == pytest.approx(0.8934, abs=0.01)


def test_mixed_sample():
    plain = Noise()
    data = WavMix(Noise(), rate=1.0)
    key = (3, 1, 4)
    rng = generator(key, WAVMIX)
    rng.random()
    partner, weight = int(rng.integers(10)), draw_mix_weight(rng)
    sample, a, b = data[4, key], plain[4], plain[partner]
    assert partner != 4  # else this test shows little
    assert data.dataset.asked == [(4, key), (partner, (*key, PARTNER))]
    torch.testing.assert_close(sample["audio"], mix_waveforms(a["audio"], b["audio"], weight))
    for name in ("strong", "pseudo"):
        torch.testing.assert_close(sample[name], weight * a[name] + (1 - weight) * b[name])
    assert sample["weak"].nonzero().flatten().tolist() == sorted({4, partner})
    assert sample["weak"].max() == 1
    assert torch.equal(sample["valid"], a["valid"])
    assert sample["valid"].dtype == torch.bool
    assert (sample["source"], sample["filename"]) == (2, "4.wav")


def test_nothing_is_mixed_without_key_or_rate():
    for data, item in (
        (WavMix(Noise(), 1.0), 4),
        (WavMix(Noise(), 0.0), (4, (1, 2))),
        (DeviceResponse(Noise(), 1.0, []), 4),
    ):
        sample, expected = data[item], Noise()[4]
        assert all(torch.equal(sample[name], expected[name]) for name in ("audio", "strong", "weak", "pseudo"))
        assert len(data.dataset.asked) == 1


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_rates(rate):
    plain = Noise()
    mix = WavMix(Noise(), rate)
    filtered = DeviceResponse(Noise(), rate, [torch.tensor([0.5])])
    for data in (mix, filtered):
        changed = [not torch.equal(data[3, (7, n)]["audio"], plain[3]["audio"]) for n in range(1, 401)]
        assert np.mean(changed) == pytest.approx(rate, abs=0.08)


def test_device_response():
    responses = [torch.tensor([float(gain)]) for gain in (2, 3, 4)]
    data = DeviceResponse(Noise(), 1.0, responses)
    plain = Noise()[5]
    gains = set()
    for n in range(1, 30):
        sample, again = data[5, (1, n)], data[5, (1, n)]
        assert torch.equal(sample["audio"], again["audio"])
        gain = round((sample["audio"] / plain["audio"]).mean().item())
        torch.testing.assert_close(sample["audio"], gain * plain["audio"], rtol=1e-5, atol=1e-5)
        assert torch.equal(sample["strong"], plain["strong"])
        gains.add(gain)
    assert gains == {2, 3, 4}


def test_load_responses(tmp_path):
    (tmp_path / "b").mkdir()
    for name, gain, rate in (("b/2.wav", 0.25, 16000), ("a.wav", 0.5, 16000), ("b/1.wav", 0.125, 32000)):
        soundfile.write(tmp_path / name, np.full(4000, gain), rate, subtype="FLOAT")
    (tmp_path / "notes.txt").write_text("no audio")
    responses = load_responses(tmp_path, 16000)
    assert [len(h) for h in responses] == [4000, 2000, 4000]
    assert [round(h[1000].item(), 3) for h in responses] == [0.5, 0.125, 0.25]
    assert all(h.dtype == torch.float32 for h in responses)


@pytest.mark.parametrize("folder", ["nowhere", "", None])
def test_missing_responses(tmp_path, folder):
    with pytest.raises(DataMissing, match=r"^dir_p > 0 needs impulse responses: dir_folder = .*0 wav"):
        load_responses(tmp_path / folder if folder else folder, 16000)
