"""Clips as dict samples (see :mod:`data_util.samples`), and stored predictions that serve as labels.

Items are asked for by number, ``clips[index]``, or by number and key, ``clips[index, key]``. The key, a tuple of
non-negative integers, seeds every random draw for this item; without a key nothing is random. So an item depends on
its key alone, not on the process that happens to load it.
"""

import logging
import os

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset

from data_util.errors import DataMissing
from data_util.events import N_CLASSES
from data_util.stand_ins import StandIns
from helpers.files import clip_id
from helpers.predictions import StoredPredictions

logger = logging.getLogger(__name__)

# Every kind of draw has its own stream, so that switching one off leaves the others as they are.
CROP, WAVMIX, PARTNER, RESPONSE = range(1, 5)


def index_and_key(item):
    """What ``dataset[item]`` was called with: (index, key), the key None when only an index was given."""
    return item if isinstance(item, tuple) else (item, None)


def generator(key, stream):
    """numpy generator of one kind of draw for the item that ``key`` stands for; None without a key."""
    return None if key is None else np.random.default_rng(np.random.SeedSequence(key, spawn_key=(stream,)))


class PseudoLabels(StoredPredictions):
    """Stored predictions of a data set, in the published HDF5 layout, read clip by clip.

    Args:
        path: the HDF5 file.
        grid: the label frames; the file must have as many.
        n_classes: and as many classes.

    Raises:
        DataMissing: no such file.
        ValueError: see :class:`helpers.predictions.StoredPredictions`.
    """

    kind = "pseudo-labels"

    def __init__(self, path, grid, n_classes=N_CLASSES):
        if not os.path.isfile(path):
            raise DataMissing(f"no file of pseudo-labels {path}")
        hint = f" (frames: {grid.n_frames} of {grid.frame_seconds:g} s for {grid.audio_len:g} s)"
        super().__init__(path, grid.n_frames, n_classes, hint)

    def read(self, row):
        """Probabilities [classes, frames] float32 of the clip at that position."""
        return torch.sigmoid(torch.from_numpy(self.logits([row])[0])).T.contiguous()


class Clips(Dataset):
    """Clips of one source.

    Args:
        files: paths of the audio files.
        source: the :class:`data_util.samples.Source`.
        valid: [classes] bool, the classes that the source annotates.
        reader: a :class:`data_util.audio.AudioReader`.
        grid: the label frames.
        labels: ``labels(index, start)`` gives strong [classes, frames] and weak [classes] labels, see
            :class:`data_util.events.StrongLabels`; None: all zero.
        pseudo: :class:`PseudoLabels`; None: all zero. They belong to the start of a clip, so with them a longer file
            is never cropped at random.
        on_bad_audio: "raise", or "skip": the clip is named once in the log, and the next good one stands in for it.
        table: the rows that the labels come from, for whoever needs the ground truth.

    Raises:
        ValueError: an unknown ``on_bad_audio``; a clip has no pseudo-labels.
        FileNotFoundError, BadAudio, WrongSampleRate: from item access, see :func:`data_util.audio.read`.
    """

    def __init__(self, files, source, valid, reader, grid, labels=None, pseudo=None, on_bad_audio="raise", table=None):
        self.files = list(files)
        self.source = int(source)
        self.valid = torch.as_tensor(valid)
        self.reader = reader
        self.grid = grid
        self.labels = labels
        self.pseudo = pseudo
        self.stand_ins = StandIns(len(self.files), on_bad_audio, "training.on_bad_audio")
        self.table = table
        self._pseudo_rows = pseudo.rows(self.clip_ids) if pseudo is not None else None

    @property
    def clip_ids(self):
        """Names of the clips in tables and stored predictions, in the order of the items."""
        return [clip_id(path) for path in self.files]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, item):
        index, key = index_and_key(item)

        def read(clip):
            return self.reader(self.files[clip], generator(key, CROP) if self.pseudo is None else None)

        index, (audio, start) = self.stand_ins.read(index, read, self.files[index])
        strong, weak = self._targets(index, start)
        pseudo = self.pseudo.read(self._pseudo_rows[index]) if self.pseudo is not None else torch.zeros_like(strong)
        return {
            "audio": torch.from_numpy(audio),
            "strong": strong,
            "weak": weak,
            "pseudo": pseudo,
            "valid": self.valid.clone(),
            "source": self.source,
            "filename": self.files[index],
        }

    def _targets(self, index, start):
        if self.labels is None:
            classes = len(self.valid)
            return torch.zeros(classes, self.grid.n_frames), torch.zeros(classes)
        strong, weak = self.labels(index, start)
        return torch.from_numpy(strong), torch.from_numpy(weak)


class Concat(ConcatDataset):
    """Data sets end to end, for items with keys."""

    def __getitem__(self, item):
        index, key = index_and_key(item)
        index = range(len(self))[index]
        part = int(np.searchsorted(self.cumulative_sizes, index, side="right"))
        index -= self.cumulative_sizes[part - 1] if part else 0
        return self.datasets[part][index if key is None else (index, key)]
