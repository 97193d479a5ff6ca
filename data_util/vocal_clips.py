"""Pairs of an imitation and its sound, and single sounds, as dict samples.

A training sample is a dict, and a batch is the same dict with a batch axis:

========================  ====================  ======================================================================
key                       shape                 meaning
========================  ====================  ======================================================================
``imitation``             [samples] float32     waveform, mono, from its start, padded with zeros at the end
``reference``             [samples] float32     of the imitated sound, likewise
``imitation_filename``    str                   path of the file
``reference_filename``    str                   path of the file
``imitation_id``          int64                 number of the imitation; two pairs may have the same
``reference_id``          int64                 number of the sound
``class``                 str                   class of the sound; only where known
``index``                 int64                 number of the pair in the data set
========================  ====================  ======================================================================

A single sound has ``audio`` [samples] float32, ``filename`` and ``index``. Items are asked for as ``pairs[index]`` or
``pairs[index, key]``, see :mod:`data_util.clips`; without a key nothing is random.
"""

import logging
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset

from data_util.audio import MIN_SECONDS, promised_samples, require_finite
from data_util.clips import index_and_key
from data_util.errors import BadAudio
from data_util.stand_ins import StandIns
from data_util.tagging_clips import AudioFiles, read_clip

logger = logging.getLogger(__name__)


class SoundFiles(AudioFiles):
    """Files as waveforms of one length; ``files(index)`` gives [samples] float32, from the start of the file.

    Only what is needed of a file is decoded. A silent file is named once in the log of each process.

    Args:
        paths, cache: see :class:`data_util.tagging_clips.AudioFiles`.
        sample_rate: Hz; other rates are resampled.
        samples: length of a waveform.

    Raises:
        FileNotFoundError, BadAudio: from a call, see :func:`data_util.audio.read`; but files of less than 0.1 s,
            such as the tick of a clock, are sounds like others.
    """

    def __init__(self, paths, sample_rate, samples, cache=None):
        super().__init__(paths, cache)
        self.sample_rate, self.samples = sample_rate, samples
        self._silent = set()

    def __call__(self, index):
        audio = read_clip(lambda crop: self.read(index, crop), self.sample_rate, self.samples)
        if not audio.any() and index not in self._silent:
            self._silent.add(index)
            seconds = self.samples / self.sample_rate
            logger.warning("%s: silent, all of its first %g s are 0", self.paths[index], seconds)
        return audio

    def read(self, index, crop=None):
        """Samples [samples, channels] float32 of a file and their rate."""
        try:
            return super().read(index, crop)
        except BadAudio:
            short = _decode_short(self.paths[index])
            if short is None:
                raise
            return short


class Pairs(Dataset):
    """Pairs of a collection, see the module's text for the samples.

    A pair that cannot be read is named in the log, and the next one stands in for it, with its own ``index``.

    Args:
        collection: a :class:`data_util.vocal_listings.Collection`.
        imitations, references: :class:`SoundFiles` of its queries and its items.
        on_bad_audio: "skip" or "raise".
    """

    def __init__(self, collection, imitations, references, on_bad_audio="skip"):
        self.pairs, self.classes = collection.pairs, collection.classes
        self.imitations, self.references = imitations, references
        self.stand_ins = StandIns(len(self.pairs), on_bad_audio, "data.on_bad_audio")

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, item):
        index, (imitation, reference) = self.stand_ins.read(index_and_key(item)[0], self._read)
        query, sound = self.pairs[index].tolist()
        sample = {
            "imitation": torch.from_numpy(imitation),
            "reference": torch.from_numpy(reference),
            "imitation_filename": self.imitations.name(query),
            "reference_filename": self.references.name(sound),
            "imitation_id": query,
            "reference_id": sound,
            "index": index,
        }
        return sample if self.classes is None else {**sample, "class": self.classes[sound]}

    def _read(self, index):
        query, sound = self.pairs[index]
        return self.imitations(query), self.references(sound)


class Sounds(Dataset):
    """Single sounds, see the module's text for the samples.

    A sound that cannot be read is named in the log, and the next one stands in for it, with its own ``index``: keep
    one result per index.

    Args:
        audio: a :class:`SoundFiles`.
        on_bad_audio: "skip" or "raise".
    """

    def __init__(self, audio, on_bad_audio="skip"):
        self.audio = audio
        self.stand_ins = StandIns(len(audio), on_bad_audio, "data.on_bad_audio")

    def __len__(self):
        return len(self.audio)

    def __getitem__(self, item):
        index, audio = self.stand_ins.read(index_and_key(item)[0], self.audio)
        return {"audio": torch.from_numpy(audio), "filename": self.audio.name(index), "index": index}

    @property
    def names(self):
        """Paths of all sounds."""
        return list(self.audio.paths)

    @property
    def unreadable(self):
        """Paths of the sounds that turned out to be unreadable so far."""
        return [self.audio.name(index) for index in self.stand_ins.bad.nonzero().flatten().tolist()]


@dataclass(frozen=True)
class Retrieval:
    """Queries and the collection that they search.

    Attributes:
        items: :class:`Sounds` of the collection, each file once.
        queries: :class:`Sounds` of the imitations.
        targets: [queries] int64, number of the right item; -1 where there is no ground truth.
        classes: of the items; None without ground truth.
    """

    items: Sounds
    queries: Sounds
    targets: np.ndarray
    classes: tuple | None

    @property
    def truth(self):
        """{path of a query: path of its item}, of the queries with ground truth."""
        pairs = zip(self.queries.names, self.targets)
        return {query: self.items.audio.name(target) for query, target in pairs if target >= 0}

    @property
    def query_classes(self):
        """Class of every query's item; None where not known."""
        return [self.classes[target] if self.classes and target >= 0 else None for target in self.targets]


def pairs_of(dataset):
    """The :class:`Pairs` at the bottom of augmentations, subsets and the like."""
    while not isinstance(dataset, Pairs):
        dataset = dataset.dataset
    return dataset


def _decode_short(path):
    """All of a file of less than :data:`data_util.audio.MIN_SECONDS`; None where that is not what is wrong with it."""
    try:
        with soundfile.SoundFile(path) as file:
            rate, total = file.samplerate, file.frames
            if not 0 < total < MIN_SECONDS * rate or promised_samples(file) > total:
                return None
            return require_finite(path, file.read(dtype="float32", always_2d=True)), rate
    except soundfile.SoundFileError:
        return None
