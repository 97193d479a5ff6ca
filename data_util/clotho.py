"""Clotho and data sets like it for language-based audio retrieval: what is there, and the data sets made of it.

The layout is that of Clotho, ``clotho_captions_{split}.csv`` or the curated ``{split}_captions.csv`` beside the folders
``{split}/``; or any other table that :mod:`data_util.captions` reads, with its audio in ``{split}/`` or ``audio/``. The
samples are those of :mod:`data_util.captioned_clips`. The keyword defaults of :func:`training_set` and
:func:`evaluation_set` are the config section ``data``.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from data_util import synthetic
from data_util.captioned_clips import AudioCaptions, Clips, Features, Waveforms, collate, read_relevance
from data_util.captions import Captioned, match_audio, read_captions, require_distinct
from data_util.curate import curate as curated
from data_util.errors import BadAudio, DataMissing
from data_util.feature_cache import CachedEmbeddings, CachedFeatures
from data_util.loaders import SAMPLING, leave_signals_to_parent
from data_util.tagging_samplers import ClipBatchSampler
from data_util.vocal_samplers import PairBatchSampler
from helpers.text import quoted

logger = logging.getLogger(__name__)

SPLITS = ("development", "validation", "evaluation")
TABLES = ("clotho_captions_{split}.csv", "{split}_captions.csv", "{split}.csv", "{split}.json")
FOLDERS = ("{split}", "audio/{split}", "audio")


# -- what there is ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Collection:
    """Clips of a split whose audio is there, or, for the text alone, all of them.

    Attributes:
        rows: the clips.
        paths: of their audio files; None where there is none.
        listed: all clips of the table.
    """

    rows: tuple[Captioned, ...]
    paths: tuple[str | None, ...]
    listed: tuple[Captioned, ...]

    @property
    def missing(self) -> list[str]:
        """File names of the clips without audio."""
        there = {row.file for row, path in zip(self.rows, self.paths) if path is not None}
        return [row.file for row in self.listed if row.file not in there]


def find_table(dataset, split: str, text_data=None) -> Path:
    """The caption table of a split.

    Args:
        dataset: folder of the data set.
        split: name of the part.
        text_data: another name than :data:`TABLES`, which may contain ``{split}``; below ``dataset``, or absolute.

    Raises:
        DataMissing: there is none.
    """
    if dataset is None:
        raise DataMissing("data.dataset is not set, expected the folder with caption tables and audio, such as Clotho")
    root = Path(dataset).expanduser()
    names = [str(text_data)] if text_data else TABLES
    paths = [root / name.replace("{split}", split) for name in names]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        expected = ", ".join(path.name for path in paths)
        raise DataMissing(f"{root}: no caption table of the split '{split}', expected {expected} (data.dataset)")
    return found


def audio_folder(dataset, split: str) -> Path:
    """The folder of a split's audio; the first of :data:`FOLDERS` where there is none."""
    paths = [Path(dataset).expanduser() / name.replace("{split}", split) for name in FOLDERS]
    return next((path for path in paths if path.is_dir()), paths[0])


def read_collection(dataset, split: str, text_data=None, curate=False, on_missing_audio="raise") -> Collection:
    """The clips of a split.

    Args:
        dataset, split, text_data: see :func:`find_table`.
        curate: whether captions and file names are corrected, see :mod:`data_util.curate`.
        on_missing_audio: "raise"; "skip", where clips without audio are named in the log and left out; or "keep" them,
            for the captions alone.

    Raises:
        DataMissing: there is no table, or some, or all, of the audio is missing.
        TableError: see :func:`data_util.captions.read_captions`.
    """
    rows = read_captions(find_table(dataset, split, text_data))
    if curate:
        rows = curated(rows)
        require_distinct(rows)
    folder = audio_folder(dataset, split)
    paths = match_audio(rows, folder)
    found = Collection(tuple(rows), tuple(paths), tuple(rows))
    missing = found.missing
    if missing and on_missing_audio != "keep":
        message = f"{folder}: {len(missing)} of {len(rows)} audio files are not there: {quoted(missing)}"
        if on_missing_audio == "raise" or len(missing) == len(rows):
            hint = "" if len(missing) == len(rows) else "; data.on_missing_audio=skip goes on without them"
            raise DataMissing(message + hint)
        logger.warning("%s; left out", message)
    if on_missing_audio == "skip":
        there = [(row, path) for row, path in zip(rows, paths) if path is not None]
        return Collection(*map(tuple, zip(*there)), found.listed)
    return found


# -- building ---------------------------------------------------------------------------------------------------------
def training_set(
    dataset=None,
    train_split="development",
    text_data=None,
    audio_data=None,
    text_embeds=None,
    curate=False,
    captions="all",
    sample_rate=44100,
    clip_length=None,
    synthetic_audio=None,
    replication_factor=1,
    synthetic_seed=24,
    originals=True,
    chunk=None,
    chunks=synthetic.CHUNKS,
    on_missing_audio="raise",
    on_bad_audio="skip",
) -> AudioCaptions:
    """Pairs of audio and captions.

    Args:
        dataset: folder of the data set.
        train_split: part to train on.
        text_data: caption table, see :func:`find_table`.
        audio_data: HDF5 file of features, see :mod:`data_util.feature_cache`; None: waveforms. It may contain
            ``{split}``; below ``dataset``, or absolute.
        text_embeds: HDF5 file of sentence embeddings, likewise; None: captions alone.
        curate: whether captions and file names are corrected, see :mod:`data_util.curate`.
        captions: "all" captions of all clips in an epoch, as in 2023, or "one" of each clip, as in 2024.
        sample_rate: Hz of waveforms.
        clip_length: seconds that are taken of longer clips, at random; None: all.
        synthetic_audio: folder of generated audio, see :func:`data_util.synthetic.find_generated`; None: none but
            what the table lists.
        replication_factor: generated clips for each original, 1 to 5.
        synthetic_seed: of their draws.
        originals: whether there are originals beside generated clips.
        chunk, chunks: train on one (from 1) of so many consecutive parts of the clips; None: all.
        on_missing_audio: "raise", or "skip": what is not there is named in the log and left out.
        on_bad_audio: "raise", or "skip": another clip stands in for one that cannot be read, and one that has no
            features is left out.

    Raises:
        DataMissing, TableError, ValueError: something is missing or wrong, in one line that names the config entry.
    """
    cache, found = _found(dataset, train_split, text_data, audio_data, curate, on_missing_audio)
    rows, paths = training_clips(
        found, train_split, synthetic_audio, replication_factor, synthetic_seed, originals, chunk, chunks,
        on_missing_audio,
    )  # fmt: skip
    if cache is not None:
        rows, paths = _with_features(rows, paths, cache, on_missing_audio, on_bad_audio)
    source = _source(rows, paths, cache, sample_rate, clip_length)
    return AudioCaptions(rows, source, captions, _embeddings(dataset, train_split, text_embeds), on_bad_audio)


def training_clips(
    found: Collection,
    train_split,
    synthetic_audio=None,
    replication_factor=1,
    synthetic_seed=24,
    originals=True,
    chunk=None,
    chunks=synthetic.CHUNKS,
    on_missing_audio="raise",
):
    """Clips to train on, originals and generated ones, and paths of their audio.

    Args:
        found: the originals.
        train_split, synthetic_audio, replication_factor, synthetic_seed, originals, chunk, chunks, on_missing_audio:
            see :func:`training_set`.

    Raises:
        DataMissing, ValueError: as there.
    """
    rows, paths = list(found.rows), list(found.paths)
    if synthetic_audio is not None:
        rows, paths = synthetic.without_generated(rows, paths)
    if chunk is not None:
        rows, paths = (synthetic.chunk(values, chunk, chunks) for values in (rows, paths))
    if synthetic_audio is None:
        if not originals:
            raise ValueError("data.originals is False, expected a folder of generated audio in data.synthetic_audio")
        return rows, paths
    generated = synthetic.find_generated(rows, synthetic_audio, train_split)
    synthetic.require_generated(rows, generated, replication_factor, synthetic_audio, on_missing_audio)
    mixture = synthetic.mix(rows, paths, generated, replication_factor, synthetic_seed, originals)
    return [clip.row for clip in mixture], [clip.path for clip in mixture]


def evaluation_set(
    split,
    dataset=None,
    text_data=None,
    audio_data=None,
    text_embeds=None,
    curate=False,
    sample_rate=44100,
    eval_clip_length=None,
    relevance=None,
    on_missing_audio="raise",
    on_bad_audio="skip",
) -> Clips:
    """Clips and captions of a split. Arguments and errors as in :func:`training_set`, and

    Args:
        split: name of the part.
        eval_clip_length: seconds that are taken from the start of longer clips; None: all.
        relevance: table of several right clips per caption, see :func:`data_util.captioned_clips.read_relevance`; it
            may contain ``{split}``, and splits without such a table have one right clip per caption then.
    """
    cache, found = _found(dataset, split, text_data, audio_data, curate, on_missing_audio)
    rows, paths = found.rows, found.paths
    if cache is not None:
        rows, paths = _with_features(rows, paths, cache, on_missing_audio, on_bad_audio)
    source = _source(rows, paths, cache, sample_rate, eval_clip_length)
    truth = None
    if relevance is not None:
        path = below(dataset, split, relevance)
        if path.is_file() or "{split}" not in str(relevance):
            truth = read_relevance(path, found.listed, rows)
    return Clips(rows, source, truth, _embeddings(dataset, split, text_embeds), on_bad_audio)


def below(dataset, split: str, name) -> Path:
    """A file of a data set: ``name`` with the split's name for ``{split}``, below its folder, or absolute."""
    return Path(dataset).expanduser() / Path(str(name).replace("{split}", split)).expanduser()


def _found(dataset, split, text_data, audio_data, curate, on_missing_audio):
    """The cache of features, or None, and the clips: with a cache also those without audio."""
    if on_missing_audio not in ("raise", "skip"):
        raise ValueError(f"data.on_missing_audio is '{on_missing_audio}', expected 'raise' or 'skip'")
    policy = on_missing_audio if audio_data is None else "keep"
    found = read_collection(dataset, split, text_data, curate, policy)
    return None if audio_data is None else CachedFeatures(below(dataset, split, audio_data)), found


def _embeddings(dataset, split, text_embeds):
    return None if text_embeds is None else CachedEmbeddings(below(dataset, split, text_embeds))


def _source(rows, paths, cache, sample_rate, clip_length):
    if clip_length is not None and clip_length <= 0:
        raise ValueError(f"data.clip_length is {clip_length}, expected a number of seconds above 0")
    if cache is None:
        return Waveforms(paths, sample_rate, clip_length)
    return Features(cache, [row.clip for row in rows], clip_length)


def _with_features(rows, paths, cache, on_missing_audio, on_bad_audio):
    """Clips that have features, and their paths; the others are named."""
    absent = [(row, path) for row, path in zip(rows, paths) if row.clip not in cache]
    without_audio = [row.file for row, path in absent if path is None]
    without_features = [row.file for row, path in absent if path is not None]
    reasons = (
        (without_audio, "and no audio", on_missing_audio, DataMissing, "data.on_missing_audio"),
        (without_features, "(not computed, or the audio is not readable)", on_bad_audio, BadAudio, "data.on_bad_audio"),
    )
    for names, why, policy, error, key in reasons:
        message = f"{cache.file.path}: no features {why} of {len(names)} of {len(rows)} clips: {quoted(names)}"
        if names and (policy == "raise" or len(absent) == len(rows)):
            raise error(f"{message}; {key}=skip goes on without them")
        if names:
            logger.warning("%s; left out", message)
    kept = [(row, path) for row, path in zip(rows, paths) if row.clip in cache]
    return [row for row, _ in kept], [path for _, path in kept]


# -- loading ----------------------------------------------------------------------------------------------------------
def caption_loader(
    dataset, batch_size, seed, rank=0, world_size=1, epoch=0, start=0, unique_clips=False, **options
) -> DataLoader:
    """Training batches.

    Args:
        dataset: an :class:`AudioCaptions`.
        batch_size: samples in a batch of one rank.
        seed: of the order of samples and of the draws of every sample.
        rank, world_size: this process, and how many share the epoch.
        epoch, start: the first batch is number ``start`` of that epoch.
        unique_clips: whether captions of one clip never meet in a batch.
        **options: further options of the DataLoader.
    """
    position = (batch_size, seed, rank, world_size)
    if unique_clips:
        sampler = PairBatchSampler(dataset.groups, *position)
    else:
        sampler = ClipBatchSampler(len(dataset), *position)
    sampler.set_epoch(epoch)
    sampler.start = start
    options = {key: value for key, value in options.items() if key not in (*SAMPLING, "collate_fn")}
    options["worker_init_fn"] = options.get("worker_init_fn") or leave_signals_to_parent
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **options)
