"""Mel front ends: waveforms [batch, samples] in, features [batch, 1, bands, frames] out.

Every front end computes in float32, also under autocast (half precision has too little range for a power
spectrum), accepts float or int16 samples, and resamples when its ``input_rate`` says that the audio comes at
another rate. Draws of training mode come from a ``numpy.random.Generator`` that the caller hands in.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.transforms import MelSpectrogram, Resample

from models.spectrum import (
    MelDraw,
    band_blocks,
    draw_ranges,
    kaldi_mel_bank,
    mask,
    mel_power,
    mel_spectrogram,
    reflected,
    require,
    squared_magnitude,
)

SYMMETRIC_WINDOW = {"periodic": False}
WINDOWS = ("hamming_window", "hann_window", "blackman_window", "bartlett_window", "kaiser_window")


def centred_minimum(n_fft):
    """Fewest samples of a centred STFT: reflection needs more samples than half a frame."""
    return n_fft // 2 + 1


class FrontEnd(nn.Module):
    """What all front ends share: checks, sample format, resampling, precision.

    Attributes:
        sample_rate: the rate in Hz at which features are computed.
        input_rate: the rate in Hz of the audio that comes in; None means ``sample_rate``.
        min_samples: fewest samples (at ``sample_rate``) that give a frame.
    """

    sample_rate: int
    min_samples: int
    input_rate = None

    def __init__(self):
        super().__init__()
        # Resamplers live outside the module tree: their kernels are no part of any published state dict.
        self._resamplers = {}

    def forward(self, audio, rng=None):
        """Features of a batch of waveforms.

        Args:
            audio: [batch, samples], floating point in [-1, 1] or int16.
            rng: numpy Generator for the random draws of training mode; without it, or in evaluation mode, the
                features are deterministic.

        Returns:
            [batch, 1, bands, frames] float32 (float64 for a front end that was converted by ``double()``).

        Raises:
            ValueError: wrong number of axes, another sample format, too few samples.
        """
        with torch.autocast(audio.device.type, enabled=False):
            waveform = self._resampled(self._decoded(audio))
            require(
                waveform.shape[-1] >= self.min_samples,
                f"{type(self).__name__} needs at least {self.min_samples} samples at {self.sample_rate} Hz, "
                f"got {waveform.shape[-1]}",
            )
            return self.features(waveform, rng)

    def features(self, waveform, rng=None):
        """[batch, samples] at ``sample_rate`` -> [batch, 1, bands, frames]."""
        raise NotImplementedError

    def _decoded(self, audio):
        name = type(self).__name__
        require(audio.dim() == 2, f"{name} expects audio of shape [batch, samples], got {tuple(audio.shape)}")
        integer = audio.dtype == torch.int16
        require(integer or audio.is_floating_point(), f"{name} expects float or int16 samples, got {audio.dtype}")
        dtype = torch.promote_types(next(self.buffers()).dtype, torch.float32)
        return audio.to(dtype) / 32768 if integer else audio.to(dtype)

    def _resampled(self, waveform):
        if self.input_rate in (None, self.sample_rate):
            return waveform
        require(self.input_rate > 0, f"input_rate must be positive, got {self.input_rate}")
        key = (self.input_rate, waveform.dtype, waveform.device)
        if key not in self._resamplers:
            resampler = Resample(self.input_rate, self.sample_rate, dtype=waveform.dtype)
            self._resamplers[key] = resampler.to(waveform.device)
        return self._resamplers[key](waveform)


class CrnnMel(FrontEnd):
    """Linear mel spectrogram of the CNN branch; the entries are those of torchaudio's ``MelSpectrogram``.

    Linear because its augmentations (filters, mixing) are defined on amplitudes; see :func:`amplitude_to_db`.

    Args:
        window_fn: name of a window function of torch, e.g. ``"hamming_window"``.
        wkwargs: keyword arguments of the window function.

    Raises:
        ValueError: unknown window function, or ``onesided=False``.
    """

    def __init__(
        self,
        sample_rate=16000,
        n_fft=2048,
        win_length=2048,
        hop_length=256,
        f_min=0,
        f_max=8000,
        pad=0,
        n_mels=128,
        window_fn="hamming_window",
        power=1,
        normalized=False,
        wkwargs=SYMMETRIC_WINDOW,
        center=True,
        pad_mode="reflect",
        onesided=None,
        norm=None,
        mel_scale="htk",
    ):
        super().__init__()
        require(window_fn in WINDOWS, f"mel.window_fn: unknown window '{window_fn}' (known: {', '.join(WINDOWS)})")
        require(onesided in (None, True), "mel.onesided: a mel spectrogram needs the one-sided spectrum")
        mel = MelSpectrogram(
            sample_rate=sample_rate,
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            f_min=f_min,
            f_max=f_max,
            pad=pad,
            n_mels=n_mels,
            window_fn=getattr(torch, window_fn),
            power=power,
            normalized=normalized,
            wkwargs=dict(wkwargs or {}),
            center=center,
            pad_mode=pad_mode,
            norm=norm,
            mel_scale=mel_scale,
        )
        # The children sit here directly: published names are `spectrogram.window` and `mel_scale.fb`.
        self.spectrogram, self.mel_scale = mel.spectrogram, mel.mel_scale
        self.sample_rate = sample_rate
        padded = pad_mode in ("reflect", "circular")
        frame = (centred_minimum(n_fft) if padded else 1) if center else n_fft
        self.min_samples = max(1, frame - 2 * pad)

    def features(self, waveform, rng=None):
        return mel_spectrogram(waveform, self.spectrogram, self.mel_scale)[:, None]


def amplitude_to_db(x):
    """Amplitudes to decibels, 20 log10 with floor 1e-5, then clamped to [-50, 80] dB; float32 under autocast."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (20 * torch.log10(x.clamp(min=1e-5))).clamp(-50, 80)


class Scaler(nn.Module):
    """Scales each feature map by statistics of its own.

    Args:
        statistic: "instance" (each item of the batch by itself), or None for no scaling.
        normtype: "minmax" to [-1, 1], "standard" to zero mean and unit (unbiased) deviation, "mean" to zero
            mean, or None for no scaling.
        dims: axes over which the statistics are taken.

    Raises:
        ValueError: unknown ``statistic`` or ``normtype``.
    """

    EPS = 1e-8

    def __init__(self, statistic="instance", normtype="minmax", dims=(2, 3)):
        super().__init__()
        require(statistic in ("instance", None), f"scaler.statistic: '{statistic}' is not one of 'instance', None")
        known = ("minmax", "standard", "mean", None)
        require(normtype in known, f"scaler.normtype: '{normtype}' is not one of {', '.join(map(repr, known))}")
        self.normtype = normtype if statistic else None
        self.dims = tuple(dims)

    def forward(self, x):
        """Scaled features, same shape."""
        if self.normtype == "minmax":
            low, high = x.amin(self.dims, keepdim=True), x.amax(self.dims, keepdim=True)
            return 2 * (x - low) / (high - low + self.EPS) - 1
        if self.normtype == "standard":
            centred = x - x.mean(self.dims, keepdim=True)
            return centred / (x.std(self.dims, keepdim=True) + self.EPS)
        if self.normtype == "mean":
            return x - x.mean(self.dims, keepdim=True)
        return x


class CnnInput(nn.Module):
    """What the CNN branch sees of a linear mel spectrogram: decibels, scaled; float32 also under autocast.

    Args:
        scaler: the :class:`Scaler`.
    """

    def __init__(self, scaler):
        super().__init__()
        self.scaler = scaler

    def forward(self, mel):
        """Scaled log mel, same shape."""
        with torch.autocast(mel.device.type, enabled=False):
            return self.scaler(amplitude_to_db(mel))


class AtstMel(FrontEnd):
    """Log mel of ATST-Frame (Li et al., 2024, https://arxiv.org/abs/2306.04186): 64 bands, 60 to 7800 Hz.

    Args:
        per_clip_range: cut each clip 80 dB below its own loudest bin. By default the range hangs on the loudest
            bin of the whole batch, as in the published code, so a quiet clip's features depend on its batch mates.
    """

    LOW, HIGH = -79.6482, 50.6842  # dB, extremes of the features in pre-training
    RANGE = 80.0

    def __init__(self, per_clip_range=False):
        super().__init__()
        self.sample_rate = 16000
        self.min_samples = centred_minimum(1024)
        self.per_clip_range = per_clip_range
        self.mel_transform = MelSpectrogram(
            self.sample_rate, n_fft=1024, hop_length=160, f_min=60, f_max=7800, n_mels=64
        )

    def features(self, waveform, rng=None):
        mel = mel_spectrogram(waveform, self.mel_transform.spectrogram, self.mel_transform.mel_scale)
        level = 10 * mel.clamp(min=1e-10).log10()
        loudest = level.amax((1, 2), keepdim=True) if self.per_clip_range else level.amax()
        level = torch.maximum(level, loudest - self.RANGE).clamp(-50, 80)
        return (2 * (level - self.LOW) / (self.HIGH - self.LOW) - 1)[:, None]


class KaldiMel(FrontEnd):
    """Log mel of PaSST (Koutini et al., Interspeech 2022): pre-emphasis, power STFT, Kaldi triangles, log.

    Args:
        n_mels: number of bands.
        sr: sample rate in Hz.
        win_length: samples of the Hann window, in the middle of the FFT frame; None means ``n_fft``.
        hopsize: samples between frames.
        n_fft: FFT size.
        freqm: most bands that one frequency mask of training mode covers, 0 for none.
        timem: most frames that one time mask of training mode covers, 0 for none.
        htk: only False, the bank is Kaldi's.
        fmin: lower edge in Hz.
        fmax: upper edge in Hz; None means ``sr // 2 - fmax_aug_range // 2``. So in evaluation, too, the features
            depend on ``fmax_aug_range``: published checkpoints must be used with the value of their training.
        norm: only 1.
        fmin_aug_range: the lower edge of training mode is ``fmin + randint(fmin_aug_range)``, 1 for none.
        fmax_aug_range: the upper edge of training mode is ``fmax + fmax_aug_range // 2 -
            randint(fmax_aug_range)``, 1 for none.
        fast_norm: shift and scale the log mel by ``(x + 4.5) / 5``.
        preamp: pre-emphasis, ``x[t + 1] - 0.97 x[t]`` without padding: one sample is lost.
        trainable: only False, the bank has no parameters.
        padding: "center" (frame t is centred on sample t * hop) or "same" (frames inside the padded window).
        periodic_window: Hann window for spectral analysis (True) or the symmetric one (False).

    Raises:
        ValueError: an option without meaning for these features, or sizes that do not fit together.
    """

    def __init__(
        self,
        n_mels=128,
        sr=16000,
        win_length=400,
        hopsize=160,
        n_fft=512,
        freqm=0,
        timem=0,
        htk=False,
        fmin=0.0,
        fmax=None,
        norm=1,
        fmin_aug_range=1,
        fmax_aug_range=1,
        fast_norm=True,
        preamp=True,
        trainable=False,
        padding="center",
        periodic_window=True,
    ):
        super().__init__()
        win_length = n_fft if win_length is None else win_length
        require(not htk, "htk: the mel bank is Kaldi's, there is no HTK variant of it")
        require(norm == 1, f"norm: the mel bank has one normalisation, 1, got {norm}")
        require(not trainable, "trainable: the mel bank has no parameters to train")
        require(padding in ("center", "same"), f"padding: '{padding}' is neither 'center' nor 'same'")
        require(0 < win_length <= n_fft, f"win_length: {win_length} samples do not fit into n_fft={n_fft}")
        require(0 < hopsize <= win_length, f"hopsize: {hopsize} is not between 1 and win_length={win_length}")
        require(min(freqm, timem) >= 0, f"freqm, timem: mask widths are at least 0, got {freqm}, {timem}")
        require(
            min(fmin_aug_range, fmax_aug_range) >= 1,
            f"fmin_aug_range, fmax_aug_range: 1 is no augmentation, got {fmin_aug_range}, {fmax_aug_range}",
        )
        self.n_mels, self.sample_rate, self.n_fft, self.hopsize = n_mels, sr, n_fft, hopsize
        self.freqm, self.timem = freqm, timem
        self.fmin_aug_range, self.fmax_aug_range = fmin_aug_range, fmax_aug_range
        self.fast_norm, self.preamp, self.padding = fast_norm, preamp, padding
        self.edges = MelDraw(fmin, sr // 2 - fmax_aug_range // 2 if fmax is None else fmax)
        highest = self.edges.fmax + fmax_aug_range // 2
        require(highest <= sr / 2, f"fmax: with fmax_aug_range the upper edge reaches {highest} Hz of {sr / 2} Hz")
        margin = (win_length - hopsize) // 2
        frame = centred_minimum(n_fft) if padding == "center" else max(margin + 1, n_fft - 2 * margin)
        self.min_samples = frame + bool(preamp)
        self.register_buffer("window", torch.hann_window(win_length, periodic=periodic_window), persistent=False)
        self.register_buffer("bank", self._bank(self.edges), persistent=False)
        self._blocks = band_blocks(self.bank)

    def features(self, waveform, rng=None):
        waveform = self.padded(waveform)
        frames = (waveform.shape[1] - self.n_fft) // self.hopsize + 1
        return self.log_mel(waveform, self.draw(rng, waveform.shape[0], frames))[:, None]

    def draw(self, rng, batch, frames):
        """Band edges (one pair per call) and masks (one per clip); those of evaluation without ``rng``."""
        if rng is None or not self.training:
            return self.edges
        fmin = self.edges.fmin + int(rng.integers(self.fmin_aug_range))
        fmax = self.edges.fmax + self.fmax_aug_range // 2 - int(rng.integers(self.fmax_aug_range))
        bands = draw_ranges(rng, batch, self.n_mels, self.freqm)
        return MelDraw(fmin, fmax, bands, draw_ranges(rng, batch, frames, self.timem))

    def padded(self, waveform):
        """[batch, samples] with pre-emphasis, and mirrored at both ends for the first and last frames."""
        if self.preamp:
            waveform = waveform[:, 1:] - 0.97 * waveform[:, :-1]
        margin = self.n_fft // 2 if self.padding == "center" else (len(self.window) - self.hopsize) // 2
        return reflected(waveform, margin)

    def log_mel(self, waveform, draw):
        """Log mel [batch, bands, frames] of a padded waveform with given draws."""
        bank, blocks = self.bank, self._blocks
        if draw[:2] != self.edges[:2]:
            bank = self._bank(draw)
            bank, blocks = bank.to(waveform.device), band_blocks(bank)
        mel = mel_power(waveform, self.window, self.n_fft, self.hopsize, bank, blocks)
        x = self.log(mel).transpose(1, 2)
        # Before the shift and scale, as in the published code: masked cells end up as 0.9.
        x = mask(mask(x, draw.bands, axis=1), draw.frames, axis=2)
        return (x + 4.5) / 5 if self.fast_norm else x

    @staticmethod
    def log(mel):
        """Logarithm with the floor of these features."""
        return mel.clamp(min=1e-7).log()

    def _bank(self, draw):
        return kaldi_mel_bank(self.n_mels, self.n_fft, self.sample_rate, draw.fmin, draw.fmax)


class MnMel(KaldiMel):
    """Log mel of the MobileNets (Schmid et al., ICASSP 2023) at 32 kHz: :class:`KaldiMel` with a symmetric Hann
    window and ``log(x + 1e-5)``. Arguments as there."""

    def __init__(
        self,
        n_mels=128,
        sr=32000,
        win_length=800,
        hopsize=320,
        n_fft=1024,
        freqm=0,
        timem=0,
        fmin=0.0,
        fmax=None,
        fmin_aug_range=10,
        fmax_aug_range=2000,
    ):
        super().__init__(
            n_mels=n_mels,
            sr=sr,
            win_length=win_length,
            hopsize=hopsize,
            n_fft=n_fft,
            freqm=freqm,
            timem=timem,
            fmin=fmin,
            fmax=fmax,
            fmin_aug_range=fmin_aug_range,
            fmax_aug_range=fmax_aug_range,
            periodic_window=False,
        )

    @staticmethod
    def log(mel):
        return (mel + 1e-5).log()


class BeatsFbank(FrontEnd):
    """Kaldi filter bank of BEATs (Chen et al., ICML 2023): 128 bands, frames of 25 ms every 10 ms.

    Equal to ``torchaudio.compliance.kaldi.fbank`` with its defaults and no dither, for the whole batch at once:
    frames only where they fit, mean removed and pre-emphasis within the frame, Povey window.
    """

    MEAN, STD = 15.41663, 6.55582  # of the features in pre-training
    FRAME, HOP, N_FFT = 400, 160, 512

    def __init__(self):
        super().__init__()
        self.sample_rate = 16000
        self.min_samples = self.FRAME
        povey = torch.hann_window(self.FRAME, periodic=False).pow(0.85)
        self.register_buffer("window", povey, persistent=False)
        self.register_buffer("bank", kaldi_mel_bank(128, self.N_FFT, self.sample_rate, 20, 8000), persistent=False)

    def features(self, waveform, rng=None):
        frames = (waveform * 2**15).unfold(1, self.FRAME, self.HOP)
        frames = frames - frames.mean(2, keepdim=True)
        # In place: allocating arrays of this size costs more than the arithmetic. The first sample of a frame has
        # no predecessor, and no weight in the window either.
        frames[..., 1:].sub_(0.97 * frames[..., :-1])
        frames.mul_(self.window.to(frames.dtype))
        power = squared_magnitude(torch.fft.rfft(frames, n=self.N_FFT))
        floor = torch.finfo(torch.float32).eps
        log_mel = F.linear(power, self.bank.to(power.dtype)).clamp(min=floor).log()
        return ((log_mel - self.MEAN) / (2 * self.STD)).transpose(1, 2)[:, None]
