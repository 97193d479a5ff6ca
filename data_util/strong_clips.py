"""Clips of AudioSet with strong labels: frame labels at access, and the truth of an evaluation.

Audio is that of AudioSet, packed or in folders (see :mod:`data_util.tagging_parts` and :func:`audio_files`), labels are
the published tables. As videos vanish, some segments of a table have no audio; they are counted and left out.

Samples are those of :mod:`data_util.tagging_clips` with ``strong``, from which ``target`` is made: a class is in a clip
if it is in one of its frames. Where a longer recording is cropped, the labels are those of the excerpt. The published
code crops evaluation clips at random, too, and leaves the labels where they were.
"""

import logging
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_util.class_tables import strong_classes
from data_util.clips import CROP, generator
from data_util.errors import BadAudio, DataMissing
from data_util.hdf5_audio import Hdf5Audio
from data_util.strong_events import read_durations, read_strong, strong_grid
from data_util.tagging_clips import AudioFiles, TaggingClips, read_excerpt
from helpers.files import AUDIO_SUFFIXES, clip_id

logger = logging.getLogger(__name__)

TABLES = {"train": "audioset_train_strong", "test": "audioset_eval_strong"}
DURATIONS = "eval_durations.csv"
FOLDERS = {
    "train": ("train", "balanced_train_segments", "unbalanced_train_segments"),
    "test": ("eval", "eval_segments"),
}
KINDS = ("audio", "mp3", "flac", "wav")  # folders in which those may be
YOUTUBE_ID = 11  # characters


class StrongTruth(NamedTuple):
    """What predictions of an evaluation set are compared with; of whole clips, whatever ``clip_length``.

    Attributes:
        events: {clip: [(onset, offset, class)]} in seconds, clips without events left out.
        durations: {clip: seconds} of the same clips.
        classes: those that count, names.
    """

    events: dict[str, list]
    durations: dict[str, float]
    classes: tuple[str, ...]


class SelectedAudio:
    """Some clips of packed files or folders, in an order of their own.

    Args:
        audio: :class:`data_util.hdf5_audio.Hdf5Audio` or :class:`data_util.tagging_clips.AudioFiles`.
        rows: their numbers in it.
    """

    def __init__(self, audio, rows):
        self.audio, self.rows = audio, np.asarray(rows)

    def __len__(self):
        return len(self.rows)

    def name(self, index):
        """Name of a clip."""
        return self.audio.name(int(self.rows[index]))

    def read(self, index, crop=None):
        """Samples and sample rate of a clip."""
        return self.audio.read(int(self.rows[index]), crop)


class StrongClips(TaggingClips):
    """Clips with frame labels of 40 ms.

    Args:
        audio: as :class:`data_util.tagging_clips.TaggingClips` takes it.
        events: a :class:`data_util.strong_events.StrongEvents` of the same clips.
        durations: {clip or segment: seconds}; of clips that are not in it, the audio is asked when the truth is.
        without_audio: segments of the table that are no clips because they have no audio.
        **options: of :class:`data_util.tagging_clips.TaggingClips`.

    Attributes:
        grid: the label frames.
        random_crop: whether excerpts of longer recordings are drawn; off where something stored belongs to the start.

    Raises:
        ValueError: ``clip_length`` is None: frame labels are those of clips of one length.
    """

    def __init__(self, audio, events, durations=None, without_audio=(), *, clip_length=10.0, **options):
        if clip_length is None:
            raise ValueError("audioset_strong has frame labels, expected data.variable_eval_length=False")
        super().__init__(audio, events.classes, None, clip_length=clip_length, **options)
        self.events, self.durations, self.without_audio = events, durations or {}, list(without_audio)
        self.grid = strong_grid(clip_length)
        self.random_crop = True

    @property
    def listed(self):
        """Segments of the table, with and without audio."""
        return len(self) + len(self.without_audio)

    @cached_property
    def active_frames(self):
        """Active frames as arrays (clip, class, frames), see :meth:`StrongEvents.active_frames`."""
        return self.events.active_frames(self.grid)

    @cached_property
    def truth(self):
        """:class:`StrongTruth` of the 407 classes that are in the training and in the evaluation list.

        Clips are called by their file names without folder and suffix. Events without length are none. A clip that is
        in no table of durations is as long as its audio, and at most as a clip; one that cannot be read is left out.
        """
        classes = strong_classes("train", "evaluation")
        all_events = self.events
        counts = np.isin(self.classes, classes)[all_events.label] & (all_events.offset > all_events.onset)
        columns = (all_events.clip, all_events.onset, all_events.offset, all_events.label)
        events = {}
        for clip, onset, offset, label in zip(*(column[counts].tolist() for column in columns)):
            events.setdefault(clip, []).append((onset, offset, self.classes[label]))
        seconds = {clip: self._seconds(clip) for clip in events}
        known = {clip: clip_id(self.audio.name(clip)) for clip in events if seconds[clip]}
        return StrongTruth(
            {name: events[clip] for clip, name in known.items()},
            {name: seconds[clip] for clip, name in known.items()},
            classes,
        )

    def _seconds(self, index):
        """Length of a clip; None if it cannot be read."""
        segment = self.events.segments[index]
        video = segment.rpartition("_")[0]
        for name in (clip_id(self.audio.name(index)), segment, f"Y{video}", video):
            if name in self.durations:
                return self.durations[name]
        try:
            return min(self._measured(index), self.grid.audio_len)
        except BadAudio as error:
            logger.warning("%s; left out of the truth", error)
            return None

    def _measured(self, index):
        found = []

        def crop(total, rate):
            found.append(total / rate)
            return 0, min(total, rate)  # no more is decoded

        self.audio.read(index, crop)
        return found[0]

    def _read(self, index, key):
        rng = generator(key, CROP) if self.random_crop else None
        return read_excerpt(lambda crop: self.audio.read(index, crop), self.sample_rate, self.samples, rng)

    def _labels(self, index, start):
        strong = self.events.encode(index, self.grid, start / self.sample_rate)
        return {"target": strong.max(axis=1), "strong": strong}


def strong_clips(root, part, packed, cached, **options):
    """Clips of a part, from packed files where there are any, else from folders.

    Args:
        root: of the data; tables are in it or in ``root/metadata``.
        part: "train" or "test".
        packed: paths of packed files.
        cached: called with paths of audio files, gives a :class:`data_util.cache.CachedAudio` or None.
        **options: of :class:`StrongClips`.

    Raises:
        DataMissing: there is no table, or no segment has audio.
        TableError: see :func:`data_util.strong_events.read_strong`.
    """
    table = find_table(root, part)
    events = read_strong(table)
    audio, there = _audio(root, part, packed, cached, events.segments)
    if not len(audio):
        places = ", ".join(path.name for path in packed) or f"folders {', '.join(FOLDERS[part])}"
        raise DataMissing(
            f"audioset_strong: 0 of {len(events)} clips of {table} found in {places} below data.root = {root}"
        )
    missing = [events.segments[number] for number in np.setdiff1d(np.arange(len(events)), there)]
    if missing:
        logger.warning("audioset_strong: %d of %d clips of %s are there", len(there), len(events), table)
    durations = next((read_durations(path) for path in _places(root, DURATIONS) if path.is_file()), None)
    return StrongClips(audio, events.select(there), durations, missing, **options)


def _audio(root, part, packed, cached, segments):
    """Audio of the segments that have any, and their numbers."""
    if packed:
        audio = Hdf5Audio(packed)
        audio.targets = None  # of up to two million clips, while labels come from the table
        rows = match((audio.name(row) for row in range(len(audio))), segments)
        there = np.flatnonzero(rows >= 0)
        return SelectedAudio(audio, rows[there]), there
    files = audio_files(root, part)
    rows = match(files, segments)
    there = np.flatnonzero(rows >= 0)
    files = [files[row] for row in rows[there]]
    return AudioFiles(files, cached(files) if files else None), there


def find_table(root, part):
    """Path of the table of a part, "train" or "test".

    Raises:
        DataMissing: it is not there.
    """
    names = [f"{TABLES[part]}{suffix}" for suffix in (".tsv", ".csv")]
    found = next((path for name in names for path in _places(root, name) if path.is_file()), None)
    if found is None:
        raise DataMissing(f"audioset_strong: no {names[0]} in data.root = {root} or its folder metadata")
    return found


def _places(root, name):
    return Path(root) / name, Path(root) / "metadata" / name


def audio_files(root, part):
    """Paths of all audio files in the folders of a part, which are in ``root`` or ``root/{audio,mp3,flac,wav}``."""
    found = []
    for base in (Path(root), *(Path(root) / kind for kind in KINDS)):
        for folder in (base / name for name in FOLDERS[part]):
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            found += [str(path) for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
    return found


def match(names, segments):
    """[segments] number of the audio of every segment in ``names``, -1 where there is none.

    A file is called by the segment or its YouTube id, with or without a "Y" before it and times behind it. Of several
    segments of one video, the id alone means the first.
    """
    number = {}
    for position, segment in enumerate(segments):
        number.setdefault(segment.rpartition("_")[0], position)
    number |= {segment: position for position, segment in enumerate(segments)}
    found = np.full(len(segments), -1)
    for row, name in enumerate(names):
        stem = clip_id(name)
        # An id may itself begin with a "Y": both readings are tried.
        for key in (stem, stem.removeprefix("Y"), stem[:YOUTUBE_ID], stem[1 : YOUTUBE_ID + 1]):
            position = number.get(key)
            if position is not None and found[position] < 0:
                found[position] = row
                break
    return found
