"""Features of audio files and embeddings of sentences, computed once and kept in HDF5.

A file of features has one data set [frames, bands] per clip, under the clip's id, as in the published
``{split}_audio_logmels.hdf5``, which can be read like our own. A file of embeddings has ``sentences`` [n] and
``embeddings`` [n, dimensions]. Both say what they were made with; work with other settings never mixes.

While a file is made, finished parts lie in a hidden folder beside it, each written and renamed. A process may be killed
at any moment and the next one computes what is not there yet. What the final file has already, of files that did not
change since, stays.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_util.audio import crop_start, read
from data_util.cache_parts import Parts, in_pool, require_settings, write_part
from data_util.errors import BadAudio, TableError
from data_util.hdf5_audio import Hdf5File
from helpers.downloads import locked
from helpers.predictions import SETTINGS, canonical, digest
from helpers.text import quoted

logger = logging.getLogger(__name__)

CLIPS_PER_PART = 16  # what a killed worker has to do again
SENTENCES_PER_PART = 512
SENTENCES, EMBEDDINGS = "sentences", "embeddings"
FEW = 64  # rows


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        path: of the file.
        added: clips or sentences that were computed, by this call or by one that was stopped.
        kept: those that were there.
        unreadable: clip id -> why it is not in the file.
    """

    path: str
    added: int
    kept: int
    unreadable: Mapping[str, str] = field(default_factory=dict)


def cache_path(folder, name: str, settings: Mapping) -> str:
    """``<folder>/<name>.<digest of the settings>.hdf5``: other settings, another file."""
    return str(Path(folder).expanduser() / f"{name}.{digest(canonical(dict(settings)))}.hdf5")


# -- features ---------------------------------------------------------------------------------------------------------
def build_features(
    path,
    clips: Mapping[str, str | None],
    features: Callable[[np.ndarray], np.ndarray],
    sample_rate: int,
    settings: Mapping,
    workers: int | None = None,
    processes: bool = False,
    dtype: str = "float32",
) -> Built:
    """Computes the features of audio files, as far as the cache lacks them.

    Args:
        path: of the HDF5 file.
        clips: id -> path of the audio file; None where there is none: features from when there was one are removed.
        features: waveform [samples] float32 -> [frames, bands]; called in several threads at once, or, in
            ``processes``, pickled.
        sample_rate: Hz, that ``features`` expects; files of other rates are resampled.
        settings: of all that the features depend on, in terms of JSON, such as name and options of the front end.
        workers: threads or processes; None: one for each processor.
        processes: whether processes do the work, each with its own interpreter, rather than threads.
        dtype: of the features in the file.

    Returns:
        what was done. Files that cannot be read are named in the log and left out; the next call tries them again.

    Raises:
        ValueError: the file was made with other settings, or no clip can be read.
        RuntimeError: another process is building the same file.
    """
    store = Parts(path, {**settings, "sample_rate": sample_rate, "dtype": dtype})
    with store.locked():
        there = store.stamps()
        stamps = {clip: _stamp(file) for clip, file in clips.items() if file is not None}
        fresh = {clip for clip, stamp in stamps.items() if stamp is not None and there.get(clip) == stamp}
        done = {clip for clip, stamp in store.done().items() if stamp is not None and stamps.get(clip) == stamp}
        done -= fresh
        todo = [(clip, clips[clip], stamps[clip]) for clip in stamps if clip not in fresh and clip not in done]
        jobs = [(store.folder, todo[start : start + CLIPS_PER_PART]) for start in range(0, len(todo), CLIPS_PER_PART)]
        unreadable: dict[str, str] = {}
        shared = (features, sample_rate, dtype)
        for failed in in_pool(_make_part, shared, jobs, workers or os.cpu_count() or 1, processes, "features"):
            unreadable.update(failed)
        added = len(done) + len(todo) - len(unreadable)
        if unreadable:
            reasons = "; ".join(f"{clip} ({reason})" for clip, reason in unreadable.items())
            logger.warning("%d of %d clips are not in %s: %s", len(unreadable), len(stamps), path, reasons)
        if unreadable and not added and not fresh:
            raise ValueError(f"none of {len(stamps)} clips can be read: {next(iter(unreadable.values()))}")
        stale = unreadable.keys() | (clips.keys() - stamps.keys())
        if added or stale & there.keys():
            store.finish(partial(_write_features, stale=stale))
        else:
            store.clear()
        return Built(str(path), added, len(fresh), unreadable)


def complete_features(folder, clips: Mapping[str, Mapping[str, str | None]], features, sample_rate, settings) -> str:
    """Completes the features of several splits; other processes that want the same file wait.

    Args:
        folder: of the files ``{split}_audio_logmels.<digest of the settings>.hdf5``.
        clips: split -> clips, see :func:`build_features`. A split without any audio is left as it is.
        features, sample_rate, settings: see there. The settings also tell the folders of the audio: clips of other
            audio may have the same ids.

    Returns:
        absolute path of the files, with ``{split}``.
    """
    path = cache_path(folder, "{split}_audio_logmels", settings)
    for split, files in clips.items():
        file = Path(path.replace("{split}", split))
        if any(files.values()):
            with locked(file):
                build_features(file, files, features, sample_rate, settings)
    return str(Path(path).resolve())


def _make_part(shared, job):
    """Computes and stores the features of some clips; returns id -> reason of those that cannot be read."""
    (features, sample_rate, dtype), (folder, clips) = shared, job
    arrays, entries, failed = {}, [], {}
    for clip, path, stamp in clips:
        try:
            audio = read(path, sample_rate, resample=True)
            values = np.asarray(features(audio), dtype=dtype)
            if values.ndim != 2 or not np.isfinite(values).all():
                raise BadAudio(f"{path}: features {values.shape}, expected finite numbers of frames and bands")
        except (BadAudio, ValueError, OSError) as error:
            failed[clip] = str(error).splitlines()[0]
            continue
        arrays[str(len(entries))] = values
        entries.append((clip, stamp, len(audio) / sample_rate))
    if entries:
        write_part(folder, entries, arrays)
    return failed


def _write_features(file, parts, stale):
    """Adds what was computed, and removes what was there of files that cannot be read any more."""
    for clip in stale & file.keys():
        del file[clip]
    for entries, arrays in parts:
        for number, (clip, stamp, seconds) in enumerate(entries):
            if clip in stale:
                continue
            if clip in file:
                del file[clip]
            values = file.create_dataset(clip, data=arrays[str(number)], track_times=False)
            values.attrs["stamp"], values.attrs["seconds"] = stamp, seconds


class CachedFeatures:
    """Features of clips, read when they are asked for.

    Objects may be pickled and used after a fork: every process opens the file for itself.

    Args:
        path: of the file.
        settings: that it must have been made with; None, or a published file, which says nothing: any.

    Attributes:
        settings: that it was made with, as JSON; None where it does not say.

    Raises:
        DataMissing: no such file.
        TableError: it is no HDF5 file.
        ValueError: it was made with other settings.
    """

    def __init__(self, path, settings: Mapping | None = None):
        self.file = Hdf5File(path)
        with self.file.open() as opened:
            self.ids = frozenset(opened)
            self.settings = opened.attrs.get(SETTINGS)
        self.check(settings)

    def check(self, settings: Mapping | None):
        """Raises ValueError where the file says that it was made with other settings."""
        require_settings(self.file.path, self.settings, settings)

    def __len__(self):
        return len(self.ids)

    def __contains__(self, clip):
        return clip in self.ids

    def seconds(self, clip: str) -> float | None:
        """Length of the clip's audio; None where the file does not say."""
        seconds = self.file[clip].attrs.get("seconds")
        return None if seconds is None else float(seconds)

    def read(self, clip: str, seconds: float | None = None, rng=None) -> np.ndarray:
        """Features [frames, bands] float32.

        Args:
            clip: its id.
            seconds: at most so much of it; None: all.
            rng: numpy generator for the place of the excerpt; None takes the start.

        Raises:
            BadAudio: there are none of this clip, or the file is damaged there.
            ValueError: an excerpt of a clip whose length the file does not say.
        """
        if clip not in self.ids:
            raise BadAudio(f"{self.file.path}: no features of clip '{clip}'")
        try:
            stored = self.file[clip]
            total = frames = stored.shape[0]
            if seconds is not None:
                length = self.seconds(clip)
                if length is None:
                    raise ValueError(f"{self.file.path} does not say how long clips are: data.clip_length must be None")
                frames = min(total, max(1, round(total * seconds / length)))
            start = crop_start(total, frames, rng)
            return stored[start : start + frames].astype(np.float32, copy=False)
        except (OSError, RuntimeError, KeyError) as error:  # no such key: another process removed it meanwhile
            raise BadAudio(f"{self.file.path}, clip '{clip}': {str(error).splitlines()[0]}") from None


# -- sentences --------------------------------------------------------------------------------------------------------
def build_embeddings(
    path, sentences: Sequence[str], embed: Callable[[list[str]], np.ndarray], settings: Mapping
) -> Built:
    """Computes the embeddings of sentences, each once, as far as the cache lacks them.

    Args:
        path: of the HDF5 file.
        sentences: as the text model is to read them.
        embed: some sentences -> [n, dimensions]; a call has sentences of about equal length.
        settings: what the embeddings depend on, such as the identity of the text model.

    Returns:
        what was done.

    Raises:
        ValueError: the file was made with other settings; the model's answer has another shape or is not finite.
        RuntimeError: another process is building the same file.
    """
    store = Parts(path, settings)
    with store.locked():
        unique = list(dict.fromkeys(sentences))
        there, done = CachedEmbeddings(path).rows if os.path.isfile(path) else {}, store.done()
        kept = sum(sentence in there for sentence in unique)
        todo = sorted((text for text in unique if text not in there and text not in done), key=len)
        for start in tqdm(range(0, len(todo), SENTENCES_PER_PART), "embeddings", disable=None):
            texts = todo[start : start + SENTENCES_PER_PART]
            vectors = np.asarray(embed(texts), dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
                found = f"embeddings {vectors.shape} of {len(texts)} sentences"
                raise ValueError(f"{path}: {found}, expected {len(texts)} rows of finite numbers")
            write_part(store.folder, [(text, None) for text in texts], {EMBEDDINGS: vectors})
        if len(unique) > kept:
            store.finish(_write_embeddings)
        else:
            store.clear()
        return Built(str(path), len(unique) - kept, kept)


def complete_embeddings(folder, sentences: Sequence[str], embed: Callable, settings: Mapping) -> str:
    """Completes ``<folder>/captions.<digest of the settings>.hdf5``, see :func:`build_embeddings`; others wait.

    Returns:
        absolute path of the file.
    """
    path = Path(cache_path(folder, "captions", settings))
    with locked(path):
        build_embeddings(path, sentences, embed, settings)
    return str(path.resolve())


def _write_embeddings(file, parts):
    import h5py

    texts = [file[SENTENCES].asstr()[:].tolist()] if SENTENCES in file else []
    vectors = [file[EMBEDDINGS][:]] if SENTENCES in file else []
    for entries, arrays in parts:
        texts.append([text for text, _ in entries])
        vectors.append(arrays[EMBEDDINGS])
    for name in (SENTENCES, EMBEDDINGS):
        if name in file:
            del file[name]
    texts = [text for part in texts for text in part]
    file.create_dataset(SENTENCES, data=texts, dtype=h5py.string_dtype("utf-8"), track_times=False)
    file.create_dataset(EMBEDDINGS, data=np.concatenate(vectors), track_times=False)


class CachedEmbeddings:
    """Embeddings of sentences, read when they are asked for; may be pickled, as :class:`CachedFeatures`.

    Args:
        path, settings: see :class:`CachedFeatures`.

    Attributes:
        dim: dimensions.

    Raises:
        DataMissing, TableError, ValueError: as there.
    """

    def __init__(self, path, settings: Mapping | None = None):
        self.file = Hdf5File(path)
        with self.file.open() as opened:
            if SENTENCES not in opened or EMBEDDINGS not in opened:
                raise TableError(f"{path}: no entries '{SENTENCES}' and '{EMBEDDINGS}', expected a cache of embeddings")
            self.dim = opened[EMBEDDINGS].shape[1]
            self.settings = opened.attrs.get(SETTINGS)
        self.check(settings)

    def check(self, settings: Mapping | None):
        """Raises ValueError where the file says that it was made with other settings."""
        require_settings(self.file.path, self.settings, settings)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Sentence -> number of its row."""
        return {text: row for row, text in enumerate(self.file[SENTENCES].asstr()[:])}

    def __len__(self):
        return len(self.rows)

    def __contains__(self, sentence):
        return sentence in self.rows

    def require(self, sentences: Sequence[str]):
        """Raises ValueError unless all these sentences are there."""
        missing = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.rows]
        if missing:
            raise ValueError(f"{self.file.path}: no embeddings of {len(missing)} captions: {quoted(missing, 1)}")

    def vectors(self, sentences: Sequence[str]) -> np.ndarray:
        """[n, dimensions] float32.

        Raises:
            ValueError: a sentence is not there.
        """
        self.require(sentences)
        numbers = np.array([self.rows[sentence] for sentence in sentences], dtype=np.int64)
        if len(numbers) > FEW:  # HDF5 picks single rows slowly
            return self.file[EMBEDDINGS][:][numbers]
        return np.array([self.file[EMBEDDINGS][number] for number in numbers], np.float32).reshape(-1, self.dim)


def _stamp(path):
    """Size and time of modification, by which a changed file is known; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
