"""Front ends of the two published CNN14."""

import numpy as np
import torch
import torch.nn.functional as F

from models.frontends import FrontEnd, centred_minimum
from models.spectrum import band_blocks, mel_power, require


def slaney_mel_bank(n_mels, n_fft, sample_rate, fmin, fmax):
    """Triangles of equal area, linear on the mel scale of Slaney's Auditory Toolbox (1998).

    Built in float64: logarithms of weak bands show every rounding of the narrow triangles.

    Returns:
        float64 array [n_mels, n_fft // 2 + 1].
    """
    knee, per_mel, ratio = 1000.0, 200 / 3, np.log(6.4) / 27  # linear up to the knee, a factor per mel above it

    def to_mel(hertz):
        return hertz / per_mel if hertz < knee else knee / per_mel + np.log(hertz / knee) / ratio

    mels = np.linspace(to_mel(fmin), to_mel(fmax), n_mels + 2)
    corners = np.minimum(mels * per_mel, knee) * np.exp(np.maximum(mels - knee / per_mel, 0) * ratio)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(min=0)
    return triangles * 2 / (right - left)


class SlaneyMel(FrontEnd):
    """Log mel as librosa computes it: power spectrogram of centred frames, triangles of equal area on Slaney's scale.

    Args:
        n_mels: number of bands.
        sr: sample rate in Hz.
        win_length: samples of the Hann window, in the middle of the FFT frame.
        hopsize: samples between frames.
        n_fft: FFT size.
        fmin, fmax: edges in Hz; ``fmax=None`` means ``sr / 2``.
    """

    padding = "reflect"

    def __init__(self, n_mels, sr, win_length, hopsize, n_fft, fmin, fmax):
        super().__init__()
        fmax = sr / 2 if fmax is None else fmax
        require(0 <= fmin < fmax <= sr / 2, f"mel edges {fmin} and {fmax} Hz are not in order within 0 and {sr / 2} Hz")
        require(0 < win_length <= n_fft, f"win_length: {win_length} samples do not fit into n_fft={n_fft}")
        self.n_mels, self.sample_rate, self.n_fft, self.hopsize = n_mels, sr, n_fft, hopsize
        self.min_samples = centred_minimum(n_fft) if self.padding == "reflect" else 1
        bank = torch.from_numpy(slaney_mel_bank(n_mels, n_fft, sr, fmin, fmax))
        window = torch.hann_window(win_length, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("bank", bank.float(), persistent=False)
        self._blocks = band_blocks(self.bank)

    def features(self, waveform, rng=None):
        waveform = F.pad(waveform, (self.n_fft // 2,) * 2, mode=self.padding)
        mel = mel_power(waveform, self.window, self.n_fft, self.hopsize, self.bank, self._blocks)
        return self.log(mel).transpose(1, 2)[:, None]

    @staticmethod
    def log(mel):
        """Logarithm with the floor of these features."""
        raise NotImplementedError


class PannsMel(SlaneyMel):
    """Log mel of PANNs (Kong et al., IEEE/ACM TASLP 2020) at 32 kHz, in decibels. Arguments as :class:`SlaneyMel`."""

    def __init__(self, n_mels=64, sr=32000, win_length=1024, hopsize=320, n_fft=1024, fmin=50, fmax=14000):
        super().__init__(n_mels, sr, win_length, hopsize, n_fft, fmin, fmax)

    @staticmethod
    def log(mel):
        return 10 * mel.clamp(min=1e-10).log10()


class ClothoMel(SlaneyMel):
    """Log mel of the retrieval baseline of DCASE 2023, task 6b: windows of 40 ms every 20 ms, natural logarithm.

    Arguments as :class:`SlaneyMel`; the signal is continued by zeros at both ends.
    """

    padding = "constant"

    def __init__(self, n_mels=64, sr=44100, win_length=1764, hopsize=882, n_fft=2048, fmin=0, fmax=None):
        super().__init__(n_mels, sr, win_length, hopsize, n_fft, fmin, fmax)

    @staticmethod
    def log(mel):
        return (mel + torch.finfo(torch.float64).eps).log()
