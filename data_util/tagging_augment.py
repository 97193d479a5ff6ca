"""Augmentation of tagging clips while they are loaded: gain, roll, mixing of two waveforms; and a teacher's logits.

A data set goes in and a data set of the same samples comes out (see :mod:`data_util.tagging_clips`). Items without key
are left alone. Device impulse responses are those of :class:`data_util.mixing.DeviceResponse`.
"""

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from data_util.clips import RESPONSE, generator, index_and_key
from data_util.mixing import Augmented, WavMix, mix_labels, mix_waveforms

GAIN, ROLL = RESPONSE + 1, RESPONSE + 2  # streams of draws, beside those of data_util.clips
MAX_ROLL = 4000  # samples, whatever the sample rate, as published
MIX_BETA = 2.0
FRAME_LABELS = ("strong", "pseudo")


class Gain(Augmented):
    """Amplifies by whole dB from ``-gain`` up to, but not including, ``gain``: -12 to +11 dB for 12, as published.

    Raises:
        ValueError: ``gain`` is no positive whole number.
    """

    def __init__(self, dataset, gain=12):
        super().__init__(dataset)
        if gain != int(gain) or gain < 1:
            raise ValueError(f"data.gain_augment is {gain}, expected whole dB, or 0 for none")
        self.gain = gain

    def __getitem__(self, item):
        sample = self.dataset[item]
        rng = generator(index_and_key(item)[1], GAIN)
        if rng is None:
            return sample
        db = int(rng.integers(-self.gain, self.gain))
        return {**sample, "audio": sample["audio"] * 10 ** (db / 20)}


class Roll(Augmented):
    """Shifts cyclically by up to ``max_roll`` samples to either side."""

    def __init__(self, dataset, max_roll=MAX_ROLL):
        super().__init__(dataset)
        self.max_roll = max_roll

    def __getitem__(self, item):
        sample = self.dataset[item]
        rng = generator(index_and_key(item)[1], ROLL)
        if rng is None:
            return sample
        shift = int(rng.integers(-self.max_roll, self.max_roll, endpoint=True))
        return {**sample, "audio": torch.roll(sample["audio"], shift)}


class WaveformMixup(WavMix):
    """Mixes a clip with another one: waveforms without their means, and labels, with the same weights.

    Args:
        dataset: of samples.
        rate: probability for an item to be mixed.
        beta: both parameters of the Beta distribution of weights; the clip itself gets the larger one.
    """

    def __init__(self, dataset, rate=0.5, beta=MIX_BETA):
        super().__init__(dataset, rate, beta)

    def mixed(self, a, b, weight):
        """See :func:`mix_samples`."""
        return mix_samples(a, b, weight)


class Hardened(Augmented):
    """Likelihoods above one half become 1, all others 0; after mixing, as published for OpenMIC."""

    def __getitem__(self, item):
        sample = self.dataset[item]
        return {**sample, "target": (sample["target"] > 0.5).float()}


class WithTeacher(Augmented):
    """Adds a teacher's logits to every clip.

    Args:
        dataset: of samples.
        teacher: a :class:`data_util.teacher.TeacherLogits`.
        names: file names of the clips, in their order.
    """

    def __init__(self, dataset, teacher, names):
        super().__init__(dataset)
        self.teacher = teacher
        self.rows = teacher.rows(names)

    def __getitem__(self, item):
        sample = self.dataset[item]
        logits, valid = self.logits(sample["index"])
        return {**sample, "teacher": logits, "teacher_valid": valid}

    def logits(self, index):
        """Logits of a clip and whether the teacher knows it; zeros otherwise."""
        row = int(self.rows[index])
        logits = self.teacher[row] if row >= 0 else np.zeros(self.teacher.shape, np.float32)
        return torch.from_numpy(logits), torch.tensor(row >= 0)


class WithPseudoLabels(WithTeacher):
    """Adds the probabilities of a frame-wise teacher, which mix like labels."""

    def __getitem__(self, item):
        sample = self.dataset[item]
        logits, valid = self.logits(sample["index"])
        return {**sample, "pseudo": torch.sigmoid(logits) * valid, "pseudo_valid": valid}


def mix_samples(a, b, weight):
    """Mixes sample ``b`` into ``a``, which keeps its name and index.

    Where classes are masked (OpenMIC), the labels of one that a clip does not annotate count as 0, and a class that
    either clip annotates is annotated in the mix. A teacher is taken to mix like the labels, and knows the mix if it
    knows both clips.

    Args:
        a, b: samples.
        weight: share of ``a``, in [0, 1].
    """
    targets = [sample["target"] * sample["mask"] if "mask" in sample else sample["target"] for sample in (a, b)]
    mixed = {"audio": mix_waveforms(a["audio"], b["audio"], weight), "target": mix_labels(*targets, weight)}
    mixed |= {name: mix_labels(a[name], b[name], weight) for name in FRAME_LABELS if name in a}
    if "pseudo" in a:
        mixed["pseudo_valid"] = a["pseudo_valid"] & b["pseudo_valid"]
    if "mask" in a:
        mixed["mask"] = torch.maximum(a["mask"], b["mask"])
    if "teacher" in a:
        mixed["teacher"] = mix_logits(a["teacher"], b["teacher"], weight)
        mixed["teacher_valid"] = a["teacher_valid"] & b["teacher_valid"]
    return {**a, **mixed}


def mix_logits(a, b, weight):
    """Logits of the mixed probabilities ``weight sigmoid(a) + (1 - weight) sigmoid(b)``."""
    own, other = torch.tensor(weight).log(), torch.tensor(1 - weight).log()
    active = torch.logaddexp(own + logsigmoid(a), other + logsigmoid(b))
    inactive = torch.logaddexp(own + logsigmoid(-a), other + logsigmoid(-b))
    return active - inactive
