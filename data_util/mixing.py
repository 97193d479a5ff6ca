"""Augmentation of waveforms while they are loaded: mixing two clips, and device impulse responses.

A data set goes in and a data set of the same samples comes out; see :mod:`data_util.clips` for items with keys.
"""

from pathlib import Path

import torch
from torch.utils.data import Dataset

from data_util.audio import read
from data_util.clips import PARTNER, RESPONSE, WAVMIX, generator, index_and_key
from data_util.errors import DataMissing


def mix_waveforms(a, b, weight):
    """Weighted sum of two waveforms [samples], each without its mean, and again without mean.

    Args:
        a: gets the share ``weight``.
        b: gets the share ``1 - weight``.
        weight: in [0, 1].
    """
    mixed = weight * (a - a.mean()) + (1 - weight) * (b - b.mean())
    return mixed - mixed.mean()


def mix_labels(a, b, weight):
    """Weighted sum of two label tensors of the same shape."""
    return weight * a + (1 - weight) * b


def apply_impulse_response(x, h):
    """Waveform [samples] filtered by an impulse response [taps], delayed by half its length less, cut to the input."""
    size = len(x) + len(h) - 1
    full = torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(h, size), size)
    first = len(h) - 1 - len(h) // 2
    return full[first : first + len(x)]


def draw_mix_weight(rng, beta=0.2):
    """Share of the first clip: a draw from Beta(beta, beta), turned so that the first clip has the larger one."""
    weight = rng.beta(beta, beta)
    return float(max(weight, 1 - weight))


class Augmented(Dataset):
    """A data set whose samples are those of another one, changed."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)


class WavMix(Augmented):
    """Mixes a clip with another one of the same data set: waveforms, frame labels and pseudo-labels alike.

    A clip label is active in the mix if it is in either clip. Both clips are of one source, so the classes that it
    annotates stay as they are. Items without key are left alone.

    Args:
        dataset: of samples.
        rate: probability for an item to be mixed; the config entry ``wavmix_p``.
        beta: parameter of the Beta distribution of the shares.
    """

    def __init__(self, dataset, rate, beta=0.2):
        super().__init__(dataset)
        self.rate, self.beta = rate, beta

    def __getitem__(self, item):
        sample = self.dataset[item]
        _, key = index_and_key(item)
        rng = generator(key, WAVMIX)
        if rng is None or rng.random() >= self.rate:
            return sample
        partner = self.dataset[int(rng.integers(len(self.dataset))), (*key, PARTNER)]
        return self.mixed(sample, partner, draw_mix_weight(rng, self.beta))

    def mixed(self, a, b, weight):
        """Sample ``a`` with the share ``weight`` in its mix with ``b``."""
        mixed = {name: mix_labels(a[name], b[name], weight) for name in ("strong", "weak", "pseudo")}
        mixed["weak"] = (mixed["weak"] > 0).float()
        return {**a, **mixed, "audio": mix_waveforms(a["audio"], b["audio"], weight)}


class DeviceResponse(Augmented):
    """Filters clips by a randomly chosen impulse response of a recording device. Items without key are left alone.

    Morocutti et al., "Device-Robust Acoustic Scene Classification via Impulse Response Augmentation", 2023.

    Args:
        dataset: of samples.
        rate: probability for an item to be filtered; the config entry ``dir_p``.
        responses: waveforms [taps], see :func:`load_responses`.
    """

    def __init__(self, dataset, rate, responses):
        super().__init__(dataset)
        self.rate, self.responses = rate, responses

    def __getitem__(self, item):
        sample = self.dataset[item]
        rng = generator(index_and_key(item)[1], RESPONSE)
        if rng is None or rng.random() >= self.rate:
            return sample
        response = self.responses[int(rng.integers(len(self.responses)))]
        return {**sample, "audio": apply_impulse_response(sample["audio"], response)}


def load_responses(folder, sample_rate):
    """Impulse responses [taps] of all wav files below ``folder``, in the order of their paths, at ``sample_rate`` Hz.

    Raises:
        DataMissing: no folder, or no wav file in it.
        BadAudio: a file cannot be read.
    """
    folder = Path(folder).expanduser() if folder else None
    files = sorted(folder.rglob("*.wav")) if folder else []
    if not files:
        raise DataMissing(f"dir_p > 0 needs impulse responses: dir_folder = {folder}, 0 wav files found there")
    return [torch.from_numpy(read(path, sample_rate, resample=True)) for path in files]
