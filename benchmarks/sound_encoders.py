"""Encoders of sounds for ``benchmarks.search``: the network of the published baseline, random weights, 10 s at 32 kHz.

    python -m benchmarks.search --sizes --encoder benchmarks.sound_encoders:ours \\
        --plain-encoder benchmarks.sound_encoders:Plain
"""

from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F

from helpers.sound_encoder import SoundEncoder
from models.retrieval import build_dual

ARCH, RATE, SECONDS = "mn10_as", 32000, 10.0


def ours():
    """The encoder of sounds that ``index`` uses."""
    torch.manual_seed(0)
    mel, dual = build_dual(ARCH)
    return SoundEncoder(mel, dual, partial(dual, side="reference"), dual.embed_dim, RATE, SECONDS)


class Plain:
    """The same as it is commonly written: torch.stft, every layer by itself, channels first, all threads on a batch."""

    sample_rate, max_seconds, identity = RATE, SECONDS, "plain PyTorch"

    def __init__(self):
        torch.manual_seed(0)
        self.mel, dual = build_dual(ARCH)
        self.net, self.dim = dual.eval().reference_encoder, dual.embed_dim

    @torch.inference_mode()
    def __call__(self, waveforms):
        x = self.features(torch.from_numpy(waveforms))
        with mock.patch("models.convolutions.folds", return_value=False):
            for layer in self.net.features:
                x = layer(x)
        return F.normalize(x.mean((2, 3)), dim=1).numpy()

    def features(self, waveforms):
        """Log mels of waveforms."""
        mel = self.mel.eval()
        emphasised = F.conv1d(waveforms[:, None], torch.tensor([[[-0.97, 1.0]]]))[:, 0]
        spectrum = torch.stft(emphasised, mel.n_fft, mel.hopsize, len(mel.window), mel.window, return_complex=True)
        return (((mel.bank @ spectrum.abs().square() + 1e-5).log() + 4.5) / 5)[:, None]
