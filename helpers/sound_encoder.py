"""A trained network as an encoder of sounds for an index, see :func:`helpers.sound_building.build_index`.

On a CPU a batch is worked off clip by clip, see :mod:`helpers.tagging_runners`; a single clip has all threads.
"""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import nn

from helpers.tagging_runners import fingerprint, single_threaded


class SoundEncoder:
    """Waveforms [B, samples] float32 -> unit vectors [B, dim] float32.

    Args:
        mel: front end; it is set to the sample rate of the waveforms.
        net: the network, in whose weights ``identity`` lies: encoders with the same net share one space.
        embed: callable log mels -> unit vectors, a part of ``net``.
        dim: of the vectors.
        sample_rate: Hz.
        max_seconds: longest waveform.
        min_seconds: to which shorter recordings are filled up with zeros; None: to ``max_seconds``.
        about: of the network, in terms of JSON.
        device: of torch.

    Attributes:
        identity: text that tells weights and settings from others.
    """

    def __init__(
        self,
        mel: nn.Module,
        net: nn.Module,
        embed: Callable,
        dim: int,
        sample_rate: int,
        max_seconds: float,
        about: Mapping | None = None,
        device="cpu",
        min_seconds: float | None = None,
    ):
        self.mel, self.net, self.embed = mel.eval().to(device), net.eval().to(device), embed
        mel.input_rate = sample_rate
        if hasattr(mel, "per_clip_range"):
            mel.per_clip_range = True  # what a sound gets must not depend on its neighbours
        self.dim, self.sample_rate, self.max_seconds, self.min_seconds = dim, sample_rate, max_seconds, min_seconds
        self.about, self.device = dict(about or {}), device
        self.identity = f"{sample_rate} Hz, {max_seconds:g} s, {fingerprint(mel, net)}"

    def __call__(self, waveforms: np.ndarray) -> np.ndarray:
        if len(waveforms) == 1 or self._threads is None:
            return self._embedded(waveforms)
        return np.concatenate(list(self._threads.map(self._embedded, np.split(waveforms, len(waveforms)))))

    @cached_property
    def _threads(self):
        """One thread per clip; None where the device takes a batch at once."""
        workers = torch.get_num_threads() if torch.device(self.device).type == "cpu" else 1
        return single_threaded(workers) if workers > 1 else None

    @torch.inference_mode()
    def _embedded(self, waveforms):
        return self.embed(self.mel(torch.from_numpy(waveforms).to(self.device))).float().cpu().numpy()
