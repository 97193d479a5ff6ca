"""Clips with class labels as dict samples.

A sample is a dict, and a batch is the same dict with a batch axis:

=================  ====================  =========================================================================
key                shape                 meaning
=================  ====================  =========================================================================
``audio``          [samples] float32     the waveform, mono, padded or cropped to the clip length
``target``         [classes] float32     class labels in [0, 1]
``mask``           [classes] float32     1 where a class is annotated; only of OpenMIC
``teacher``        [classes] float32     logits of a teacher; only with one
``teacher_valid``  bool                  whether the teacher knows the clip; the logits are 0 otherwise
``strong``         [classes, frames]     float32, frame labels; only of AudioSet-strong, as are the following two
``pseudo``         [classes, frames]     float32, probabilities of a teacher; only with one
``pseudo_valid``   bool                  whether the teacher knows the clip; the probabilities are 0 otherwise
``filename``       str                   path of the audio file, or its name inside a packed file
``index``          int64                 number of the clip in the data set
=================  ====================  =========================================================================

Items are asked for as ``clips[index]`` or ``clips[index, key]``, see :mod:`data_util.clips`: the key seeds every draw,
and without it nothing is random. So validation always sees the start of a longer recording, where the published code
crops FSD50K at random.
"""

import logging

import numpy as np
import soxr
import torch
from torch.utils.data import Dataset

from data_util.audio import crop_start, decode, pad_or_crop, to_float
from data_util.clips import CROP, generator, index_and_key
from data_util.stand_ins import StandIns

logger = logging.getLogger(__name__)

# Seconds decoded before and after an excerpt that is resampled: more than the filter reaches.
MARGIN = 0.1


class AudioFiles:
    """Clips in files of their own.

    Args:
        paths: of the files.
        cache: a :class:`data_util.cache.CachedAudio`, asked first; it holds the mean of the channels.
    """

    def __init__(self, paths, cache=None):
        self.paths = [str(path) for path in paths]
        self.cache = cache

    def __len__(self):
        return len(self.paths)

    def name(self, index):
        """Path of a clip's file."""
        return self.paths[index]

    def read(self, index, crop=None):
        """Samples [samples, channels] float32 of a clip and their rate; see :func:`data_util.audio.decode`."""
        path = self.paths[index]
        cached = self.cache.read(path) if self.cache is not None else None
        if cached is None:
            return decode(path, crop)
        rate = self.cache.sample_rate
        start, samples = crop(len(cached), rate) if crop else (0, len(cached))
        return to_float(cached[start : start + samples])[:, None], rate


def read_clip(read, sample_rate, samples=None, rng=None):
    """A clip as mono waveform at one sample rate; of a long recording, only what is needed is decoded.

    Channels are averaged. Other sample rates are resampled with a low-pass filter (soxr, high quality), and an excerpt
    has the same samples (to 1e-6) as the same part of the resampled recording.

    Args:
        read: ``read(crop)`` gives samples [samples, channels] and their rate, see :func:`data_util.audio.decode`.
        sample_rate: Hz.
        samples: length; shorter recordings are padded with zeros at the end. None takes all of a recording.
        rng: numpy generator for the place of the excerpt; None takes the start.

    Returns:
        [samples] float32.

    Raises:
        see ``read``.
    """
    return read_excerpt(read, sample_rate, samples, rng)[0]


def read_excerpt(read, sample_rate, samples=None, rng=None):
    """As :func:`read_clip`, and the first sample of the excerpt in the resampled recording."""
    skip = start = 0

    def crop(total, rate):
        nonlocal skip, start
        if samples is None:
            return 0, total
        start = crop_start(-(-total * sample_rate // rate), samples, rng)
        if rate == sample_rate:
            return start, min(samples, total)
        first, count, skip = _resampled_part(start, samples, rate, sample_rate)
        return first, min(count, total - first)

    audio, rate = read(crop)
    audio = audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1)
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate)[skip:]
    return (audio if samples is None else pad_or_crop(audio, samples)[0]), start


def _resampled_part(start, samples, rate, sample_rate):
    """First sample and count to decode at ``rate``, and samples to drop at ``sample_rate`` after resampling.

    The part begins where both rates have a sample, so that the resampled values are those of the whole recording.
    """
    common = np.gcd(rate, sample_rate)
    step, new_step = int(rate // common), int(sample_rate // common)
    margin = int(np.ceil(MARGIN * rate / step))
    first = max(start // new_step - margin, 0)
    last = -(-(start + samples) // new_step) + margin
    return first * step, (last - first) * step, start - first * new_step


class TaggingClips(Dataset):
    """Clips of one data set, see the module's text for the samples.

    A clip that cannot be read is named in the log, and the next one stands in for it, with its own ``index``: an
    evaluation that keeps one result per index counts no clip twice.

    Args:
        audio: :class:`AudioFiles` or :class:`data_util.hdf5_audio.Hdf5Audio`.
        classes: names of the classes.
        targets: [clips, columns] uint8, packed bits; or [clips, classes] float32.
        mask: [clips, classes] float32 or None.
        multi_label: whether a clip may have none or several of the classes.
        sample_rate: Hz.
        clip_length: seconds; None for recordings at their full lengths, one per batch.
        on_bad_audio: "raise" or "skip", see :class:`data_util.stand_ins.StandIns`.

    Raises:
        FileNotFoundError, BadAudio: from item access, see :func:`data_util.audio.read`.
    """

    def __init__(
        self,
        audio,
        classes,
        targets,
        mask=None,
        multi_label=True,
        sample_rate=32000,
        clip_length=10.0,
        on_bad_audio="skip",
    ):
        self.audio, self.classes, self.targets, self.mask = audio, tuple(classes), targets, mask
        self.multi_label = multi_label
        self.sample_rate = sample_rate
        self.samples = None if clip_length is None else round(clip_length * sample_rate)
        self.stand_ins = StandIns(len(audio), on_bad_audio, "data.on_bad_audio")

    def __len__(self):
        return len(self.audio)

    def __getitem__(self, item):
        index, key = index_and_key(item)
        index, (audio, start) = self.stand_ins.read(index, lambda clip: self._read(clip, key))
        labels = {name: torch.from_numpy(values) for name, values in self._labels(index, start).items()}
        return {"audio": torch.from_numpy(audio), **labels, "filename": self.audio.name(index), "index": index}

    @property
    def names(self):
        """File names of all clips."""
        return [self.audio.name(index) for index in range(len(self))]

    @property
    def unreadable(self):
        """File names of the clips that turned out to be unreadable so far."""
        return [self.audio.name(index) for index in self.stand_ins.bad.nonzero().flatten().tolist()]

    def _read(self, index, key):
        """Waveform of a clip, and its first sample in the recording."""
        rng = generator(key, CROP)
        return read_excerpt(lambda crop: self.audio.read(index, crop), self.sample_rate, self.samples, rng)

    def _labels(self, index, start):
        """Labels by name, of a clip that begins at a sample of the recording."""
        labels = {"target": unpacked(self.targets[index], len(self.classes))}
        return labels if self.mask is None else {**labels, "mask": self.mask[index].copy()}


def packed(rows, classes):
    """Class numbers per clip -> [clips, columns] uint8, packed bits."""
    hot = np.zeros((len(rows), classes), dtype=bool)
    for row, numbers in zip(hot, rows):
        row[list(numbers)] = True
    return np.packbits(hot, axis=-1)


def unpacked(targets, classes):
    """Packed bits (uint8) [..., columns] -> labels [..., classes] float32; floats are only copied."""
    if targets.dtype != np.uint8:
        return targets.astype(np.float32)
    return np.unpackbits(targets, axis=-1)[..., :classes].astype(np.float32)


def clips_of(dataset):
    """The :class:`TaggingClips` at the bottom of augmentations, subsets and the like."""
    while not isinstance(dataset, TaggingClips):
        dataset = dataset.dataset
    return dataset


def report_unreadable(dataset):
    """Logs how many clips could not be read, and which; returns their names."""
    clips = clips_of(dataset)
    names = clips.unreadable
    if names:
        logger.warning("%d of %d clips could not be read: %s", len(names), len(clips), ", ".join(names))
    return names
