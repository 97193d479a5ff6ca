"""Folders of isolated recordings as the sources of soundscapes.

Accepted layouts, all with any number of further sub-folders below a class::

    DIR/<class>/*.wav          and  DIR/backgrounds/
    DIR/events/<class>/*.wav   and  DIR/backgrounds/     (or Scaper's names: foreground, background)
    DIR/<class>/*.wav          and  the sibling DIR/../backgrounds/

A class whose name holds a slash has its folder under the name with underscores ("door opens_closes"). Recordings
may have any rate, any number of channels (averaged) and any format that libsndfile reads.
"""

import difflib
import hashlib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_util.audio import decode, to_mono
from data_util.errors import BadAudio, DataMissing
from helpers.files import AUDIO_SUFFIXES

logger = logging.getLogger(__name__)

EVENT_FOLDERS = ("events", "foreground")
BACKGROUND_FOLDERS = ("backgrounds", "background")
WHOLE_FILE_SECONDS = 30  # longer recordings are read piece by piece
CROSSFADE_SECONDS = 0.05  # at the joints of a looped recording
SUFFIXES = AUDIO_SUFFIXES | {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"}  # has no header


def audio_files(folder: Path) -> list[Path]:
    """All audio files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


@dataclass(frozen=True)
class Recordings:
    """Isolated recordings by class, and recordings of backgrounds.

    Attributes:
        files: class -> its recordings.
        backgrounds: the background recordings.
        loop: classes whose recordings may be repeated when they are shorter than asked for; None means all.
        trim_db: silence at both ends this much below the loudest moment is cut off; None leaves it.
    """

    files: Mapping[str, Sequence[Path]]
    backgrounds: Sequence[Path]
    loop: Collection[str] | None = None
    trim_db: float | None = 50.0

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order."""
        return tuple(self.files)

    def event(self, label, seconds, sample_rate, rng):
        """An isolated sound of at most `seconds`: a random part of a random recording, repeated when allowed.

        Returns:
            [samples] float32 and the recording's folder and name.
        """
        path = self.files[label][rng.integers(len(self.files[label]))]
        audio = read_part(path, seconds, sample_rate, rng, self.trim_db)
        samples = round(seconds * sample_rate)
        if len(audio) > samples or self.loop is None or label in self.loop:
            audio = fit_length(audio, samples, round(CROSSFADE_SECONDS * sample_rate), rng)
        return audio, f"{path.parent.name}/{path.name}"

    def background(self, seconds, sample_rate, rng):
        """A background of exactly `seconds` from a random recording, repeated when it is shorter.

        Returns:
            [samples] float32 and the recording's folder and name.
        """
        path = self.backgrounds[rng.integers(len(self.backgrounds))]
        audio = read_part(path, seconds, sample_rate, rng, None)
        audio = fit_length(audio, round(seconds * sample_rate), round(CROSSFADE_SECONDS * sample_rate), rng)
        return audio, f"{path.parent.name}/{path.name}"

    def split(self, share: float, rng: np.random.Generator) -> tuple["Recordings", "Recordings"]:
        """Two disjoint sets of recordings, the second with about `share` of every class and of the backgrounds.

        A class with a single recording has it in both, with a warning.
        """
        for label, paths in self.files.items():
            if len(paths) < 2:
                logger.warning("class %s has one recording only: both sides of the split use it", label)
        parts = {label: _divide(paths, share, rng) for label, paths in self.files.items()}
        backgrounds = _divide(self.backgrounds, share, rng)
        return tuple(
            replace(self, files={label: part[side] for label, part in parts.items()}, backgrounds=backgrounds[side])
            for side in (0, 1)
        )

    def describe(self) -> dict:
        """What soundscapes depend on, as plain values: classes and a hash of all file names and sizes."""
        digest = hashlib.sha256()
        for label, paths in (*self.files.items(), ("", self.backgrounds)):
            for path in paths:
                digest.update(f"{label}/{path.name}:{path.stat().st_size}\n".encode())
        loop = None if self.loop is None else sorted(self.loop)
        return {"labels": list(self.labels), "files": digest.hexdigest(), "loop": loop, "trim_db": self.trim_db}


def find_recordings(folder, backgrounds=None, labels: Sequence[str] | None = None, **options) -> Recordings:
    """Reads the layout of a folder of isolated recordings.

    Args:
        folder: see the layouts above.
        backgrounds: folder of the backgrounds, when it lies elsewhere.
        labels: the classes to use; None means every class folder.
        options: `loop` and `trim_db` of :class:`Recordings`.

    Raises:
        DataMissing: no such folder, no class folder, a class folder without audio, no backgrounds.
        BadAudio: a file's header cannot be read.
        ValueError: unknown class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataMissing(f"no folder of isolated recordings at {folder}")
    events = next((folder / name for name in EVENT_FOLDERS if (folder / name).is_dir()), folder)
    folders = {
        path.name: path
        for path in sorted(events.iterdir())
        if path.is_dir() and path.name not in BACKGROUND_FOLDERS and not path.name.startswith(".")
    }
    if not folders:
        raise DataMissing(f"{events} has no class folders (expected {events}/<class>/*.wav)")
    files = {label: _class_files(label, folders, events) for label in (folders if labels is None else labels)}
    places = [backgrounds] if backgrounds else [top / name for top in (folder, events.parent, folder.parent)
                                                for name in BACKGROUND_FOLDERS]  # fmt: skip
    found = next((paths for place in places if Path(place).is_dir() and (paths := audio_files(Path(place)))), None)
    if found is None:
        raise DataMissing(f"no background recordings in {places[0]} (expected audio files there or below)")
    unknown = set(options.get("loop") or ()) - set(files)
    if unknown:
        raise ValueError(f"cannot loop '{sorted(unknown)[0]}': no such class (known: {', '.join(files)})")
    for path in (path for paths in (*files.values(), found) for path in paths):
        _seconds(path)
    return Recordings(files, found, **options)


def _class_files(label, folders, events):
    name = label.replace("/", "_")
    if name not in folders:
        near = difflib.get_close_matches(name, folders, n=1, cutoff=0.4)
        hint = f", did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"no class '{label}' in {events}{hint} (known: {', '.join(folders)})")
    found = audio_files(folders[name])
    if not found:
        raise DataMissing(f"class folder {folders[name]} holds no audio file")
    return found


def _seconds(path):
    """Length by the header."""
    try:
        return soundfile.info(path).duration
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition(": ")[2]
        raise BadAudio(f"{path}: not readable as audio ({reason})") from None


def _divide(paths, share, rng):
    """Splits a list at random; the second part has about `share` of it and at least one."""
    order = [paths[i] for i in rng.permutation(len(paths))]
    if len(order) < 2:
        return order, order
    pivot = len(order) - max(1, round(share * len(order)))
    return sorted(order[:pivot]), sorted(order[pivot:])


def read_part(path, seconds, sample_rate, rng, trim_db):
    """A recording as mono at `sample_rate`; of a long one only a random part of `seconds`.

    Raises:
        BadAudio: not readable, or silent; the message names the file.
    """
    if _seconds(path) <= WHOLE_FILE_SECONDS:
        return _whole(path, sample_rate, trim_db)

    def crop(total, rate):
        samples = min(total, math.ceil(seconds * rate))
        return int(rng.integers(total - samples + 1)), samples

    return _prepare(path, *decode(path, crop), sample_rate)


@lru_cache(maxsize=64)
def _whole(path, sample_rate, trim_db):
    audio = _prepare(path, *decode(path), sample_rate)
    if trim_db is not None:
        audio = trim_silence(audio, round(0.01 * sample_rate), trim_db)
    if not np.any(audio):
        raise BadAudio(f"{path}: silent from beginning to end")
    audio.flags.writeable = False  # the cache hands the same array to every caller
    return audio


def _prepare(path, audio, rate, sample_rate):
    audio = to_mono(path, audio)
    return audio if rate == sample_rate else soxr.resample(audio, rate, sample_rate)


def trim_silence(audio, frame, below_db):
    """Cuts off both ends where frames of `frame` samples are more than `below_db` under the loudest one."""
    frames = np.pad(audio, (0, -len(audio) % frame)).reshape(-1, frame)
    level = np.mean(np.square(frames, dtype=np.float64), axis=1)
    loud = np.flatnonzero(level > level.max() * 10 ** (-below_db / 10))
    return audio if len(loud) == 0 else audio[loud[0] * frame : (loud[-1] + 1) * frame]


def fit_length(audio, samples, crossfade, rng):
    """A random part of `samples`, or the audio repeated until it has so many.

    Repetitions overlap by `crossfade` samples, faded with constant power.
    """
    if len(audio) >= samples:
        start = rng.integers(len(audio) - samples + 1)
        return audio[start : start + samples]
    crossfade = min(crossfade, len(audio) // 2)
    hop = len(audio) - crossfade
    angle = np.linspace(0, np.pi / 2, crossfade, dtype=audio.dtype)
    result = np.zeros(samples + hop + len(audio), dtype=audio.dtype)
    for start in range(0, samples, hop):
        piece = audio.copy()
        if start and crossfade:
            piece[:crossfade] *= np.sin(angle)
        if crossfade:
            piece[-crossfade:] *= np.cos(angle)
        result[start : start + len(audio)] += piece
    return result[:samples]
