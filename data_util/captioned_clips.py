"""Audio with captions as dict samples to train on, and clips with all captions to evaluate.

A training sample is a dict, and a batch (:func:`collate`) is the same dict with a batch axis:

==================  ==================  =============================================================================
key                 shape               meaning
==================  ==================  =============================================================================
``audio``           [samples] float32   waveform, mono; in a batch padded with zeros at the end
``features``        [frames, bands]     instead, from a cache; padded with zeros, as published
``length``          int64               samples or frames without padding
``text``            str                 the caption
``text_embedding``  [dim] float32       that of the caption; only with a cache of them
``clip``            int64               number of the clip: samples with the same one are not each other's negatives
``caption``         int64               number of the caption among those of all clips
``filename``        str                 path of the audio file
``index``           int64               number of the sample in the data set
==================  ==================  =============================================================================

An evaluation sample is a clip, without ``text``, ``text_embedding`` and ``caption``. Items are asked for as
``pairs[index]`` or ``pairs[index, key]``, see :mod:`data_util.clips`; without a key nothing is random.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from data_util.caption_text import normalised
from data_util.captions import Captioned
from data_util.clips import CROP, generator, index_and_key
from data_util.curate import curated_caption
from data_util.errors import DataMissing, TableError
from data_util.listings import read_csv
from data_util.stand_ins import StandIns
from data_util.tagging_clips import AudioFiles, read_clip
from helpers.files import clip_id
from helpers.text import quoted

logger = logging.getLogger(__name__)

CAPTION = 61  # stream of the draws of captions, beside those of data_util.clips
CAPTIONS = ("all", "one")


# -- what there is ----------------------------------------------------------------------------------------------------
def existing_splits(find: Callable, wanted: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Splits that have a caption table.

    Args:
        find: split -> its table; raises DataMissing where there is none.
        wanted: splits; those without a table are named in the log.
        usual: further ones, that count if they have a table of their own.

    Raises:
        DataMissing: no split has one.
    """
    tables, failures = {}, []
    for split in dict.fromkeys([*wanted, *usual]):
        try:
            table = find(split)
        except DataMissing as error:
            failures += [error] if split in wanted else []
            continue
        if split in wanted or table not in tables.values():
            tables[split] = table
    if not tables:
        raise failures[0]
    for error in failures:
        logger.warning("%s", error)
    return list(tables)


# -- where the audio comes from ---------------------------------------------------------------------------------------
def audio_of(rows: Sequence[Captioned], paths: Sequence, folder, on_missing_audio="raise") -> dict[str, str | None]:
    """Paths of the audio files of clips.

    Args:
        rows: clips.
        paths: of their audio files; None where there is none.
        folder: where they were looked for, for the message.
        on_missing_audio: "raise"; "skip" bears missing files unless all are; "keep" names them in the log.

    Returns:
        clip id -> path or None.

    Raises:
        DataMissing: audio is not there.
    """
    missing = [row.file for row, path in zip(rows, paths) if path is None]
    if len(missing) < len(rows) or not rows:
        message = f"{folder}: {len(missing)} of {len(rows)} audio files are not there: {quoted(missing)}"
        hint = "; data.on_missing_audio=skip goes on without them"
    else:
        found = "none of the audio files is there" if Path(folder).is_dir() else "no such folder of audio"
        message, hint = f"{folder}: {found}, expected {len(rows)} files: {quoted(missing)}", ""
    if missing and on_missing_audio == "keep":
        logger.warning("%s", message)
    elif missing and (on_missing_audio == "raise" or len(missing) == len(rows)):
        raise DataMissing(message + hint)
    return {row.clip: path for row, path in zip(rows, paths)}


class Waveforms:
    """Waveforms of audio files.

    Args:
        paths: of the files.
        sample_rate: Hz; other rates are resampled.
        clip_length: seconds that are taken of longer files; None: all.
        cache: a :class:`data_util.cache.CachedAudio`.
    """

    name = "audio"

    def __init__(self, paths, sample_rate=44100, clip_length=None, cache=None):
        self.files, self.sample_rate = AudioFiles(paths, cache), sample_rate
        self.samples = None if clip_length is None else round(clip_length * sample_rate)

    def __len__(self):
        return len(self.files)

    def read(self, index, rng=None):
        """[samples] float32 of a clip, at most those of the clip length; an excerpt's place is drawn from ``rng``."""
        available = 0

        def read(crop):
            def part(total, rate):
                nonlocal available
                available = -(-total * self.sample_rate // rate)
                return crop(total, rate)

            return self.files.read(index, part)

        audio = read_clip(read, self.sample_rate, self.samples, rng)
        return audio if self.samples is None else audio[:available]  # without the zeros of a shorter clip


class Features:
    """Features of clips from a :class:`data_util.feature_cache.CachedFeatures`.

    Args:
        cache: that.
        ids: of the clips.
        clip_length: seconds that are taken of longer clips; None: all.
    """

    name = "features"

    def __init__(self, cache, ids, clip_length=None):
        self.cache, self.ids, self.clip_length = cache, list(ids), clip_length

    def __len__(self):
        return len(self.ids)

    def read(self, index, rng=None):
        """[frames, bands] float32."""
        return self.cache.read(self.ids[index], self.clip_length, rng)


# -- data sets --------------------------------------------------------------------------------------------------------
class Captions:
    """The captions of some clips, one after the other.

    Args:
        rows: clips.

    Attributes:
        texts: all captions.
        clips: [captions] int64, numbers of their clips.
        first: [clips] int64, numbers of the first captions of the clips.
        counts: [clips] int64, captions of a clip.
    """

    def __init__(self, rows: Sequence[Captioned]):
        self.counts = np.array([len(row.captions) for row in rows], dtype=np.int64)
        self.first = np.cumsum(self.counts) - self.counts
        self.clips = np.repeat(np.arange(len(rows)), self.counts)
        self.texts = [caption for row in rows for caption in row.captions]


def draw_captions(counts: Sequence[int], rng) -> np.ndarray:
    """One caption of every clip, uniformly.

    With ``numpy.random.RandomState(24 + seed)``, call after call, and clips in the order of their published ids, these
    are the draws of the published training, which sees one caption of each clip in an epoch.

    Args:
        counts: captions of the clips.
        rng: a numpy Generator or RandomState.

    Returns:
        [clips] int64, 0 for a clip's first caption.
    """
    return np.array([rng.choice(count, 1, replace=False)[0] for count in counts], dtype=np.int64)


class AudioCaptions(Dataset):
    """Audio with captions to train on, see the module's text for the samples.

    A clip that cannot be read is named in the log, and the next one stands in for it, with its own number and caption.

    Args:
        rows: clips.
        source: of their audio, :class:`Waveforms` or :class:`Features`.
        captions: "all": every caption is a sample; "one": every clip is a sample, with one caption, drawn from the
            item's key, or its first without a key.
        embeddings: a :class:`data_util.feature_cache.CachedEmbeddings`; None: samples have the text alone.
        on_bad_audio: "skip" or "raise".

    Attributes:
        rows: the clips.
        captions: :class:`Captions`.

    Raises:
        ValueError: another value of ``captions``; a caption has no embedding.
    """

    def __init__(self, rows, source, captions="all", embeddings=None, on_bad_audio="skip"):
        if captions not in CAPTIONS:
            raise ValueError(f"data.captions is '{captions}', expected 'all' or 'one'")
        self.rows, self.source, self.embeddings = tuple(rows), source, embeddings
        self.captions, self.all_captions = Captions(rows), captions == "all"
        self.stand_ins = StandIns(len(rows), on_bad_audio, "data.on_bad_audio")
        if embeddings is not None:
            embeddings.require(self.captions.texts)

    def __len__(self):
        return len(self.captions.texts) if self.all_captions else len(self.rows)

    @property
    def groups(self) -> np.ndarray:
        """[samples] number of the clip of every sample."""
        return self.captions.clips if self.all_captions else np.arange(len(self.rows))

    def __getitem__(self, item):
        index, key = index_and_key(item)
        index = range(len(self))[index]
        clip = int(self.groups[index])
        place = index - self.captions.first[clip] if self.all_captions else self._draw(clip, key)
        other, values = self.stand_ins.read(clip, lambda number: self.source.read(number, generator(key, CROP)))
        place %= self.captions.counts[other]
        caption = int(self.captions.first[other] + place)
        text = self.captions.texts[caption]
        sample = {**audio_sample(self.source, other, values, self.rows[other]), "text": text, "caption": caption}
        if self.embeddings is not None:
            sample["text_embedding"] = torch.from_numpy(self.embeddings.vectors([text])[0])
        return {**sample, "index": index}

    def _draw(self, clip, key):
        return 0 if key is None else draw_captions([self.captions.counts[clip]], generator(key, CAPTION))[0]


class Clips(Dataset):
    """Clips to evaluate on, each once, and all their captions.

    A clip that cannot be read is named in the log, and the next one stands in for it, with its own number: keep one
    result per ``index``, and see :meth:`readable`.

    Args:
        rows: clips.
        source: of their audio, :class:`Waveforms` or :class:`Features`.
        relevance: [captions, clips] bool, the right clips of every caption; None: its own clip alone.
        embeddings: a :class:`data_util.feature_cache.CachedEmbeddings` of the captions, or None.
        on_bad_audio: "skip" or "raise".

    Attributes:
        rows: the clips.
        captions: :class:`Captions`, the queries.
        relevance: [captions, clips] bool.
        embeddings: as given.

    Raises:
        ValueError: a caption has no embedding.
    """

    def __init__(self, rows, source, relevance=None, embeddings=None, on_bad_audio="skip"):
        self.rows, self.source, self.captions = tuple(rows), source, Captions(rows)
        self.embeddings = embeddings
        if embeddings is not None:
            embeddings.require(self.captions.texts)
        self.relevance = own_clips(self.captions) if relevance is None else np.asarray(relevance, dtype=bool)
        self.stand_ins = StandIns(len(rows), on_bad_audio, "data.on_bad_audio")

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, item):
        index, values = self.stand_ins.read(index_and_key(item)[0], self.source.read)
        return {**audio_sample(self.source, index, values, self.rows[index]), "index": index}

    @property
    def readable(self) -> np.ndarray:
        """[clips] bool, those that did not turn out to be unreadable so far."""
        return ~self.stand_ins.bad.numpy()

    def answerable(self) -> tuple[np.ndarray, np.ndarray]:
        """([captions] bool, [clips] bool): readable clips, and captions with a right one among them.

        Scores and ``relevance`` of an evaluation with unreadable clips are to be cut to these.
        """
        clips = self.readable
        return self.relevance[:, clips].any(axis=1), clips


def audio_sample(source, clip: int, values, row: Captioned) -> dict:
    """The entries of a sample that come with its audio."""
    paths = getattr(getattr(source, "files", None), "paths", None)
    return {
        source.name: torch.from_numpy(np.ascontiguousarray(values)),
        "length": len(values),
        "clip": clip,
        "filename": row.file if paths is None else paths[clip],
    }


def own_clips(captions: Captions) -> np.ndarray:
    """[captions, clips] bool: the clip that a caption was written for is its only right one, as until 2024."""
    return captions.clips[:, None] == np.arange(len(captions.counts))


def read_relevance(path, known: Sequence[Captioned], rows: Sequence[Captioned]) -> np.ndarray:
    """Right clips of every caption where there are several, as in the challenge since 2025.

    Args:
        path: table ``caption, file_name``: a row for each right clip of a caption. A caption that is in it has these
            clips and no others; one that is not has its own. Captions are compared in their corrected normal form.
        known: all clips of the split.
        rows: those of the evaluation.

    Returns:
        [captions, clips] bool, of the evaluation.

    Raises:
        DataMissing: no such table.
        TableError: a caption or a clip of it is not in the split.
    """
    captions = Captions(rows)
    relevance = own_clips(captions)
    clips = {row.clip.strip(): number for number, row in enumerate(rows)}
    names, texts = {row.clip.strip() for row in known}, {_form(text) for row in known for text in row.captions}
    annotated: dict[str, list[int]] = {}
    for row in read_csv(path, ("caption", "file_name")):
        text, clip = _form(row["caption"]), clip_id(row["file_name"]).strip()
        if text not in texts or clip not in names:
            what = f"caption '{row['caption']}'" if text not in texts else f"clip '{clip}'"
            raise TableError(f"{row['where']}: {what} is not in the split that is evaluated (data.relevance)")
        annotated.setdefault(text, []).extend([clips[clip]] if clip in clips else [])
    for number, text in enumerate(captions.texts):
        if _form(text) in annotated:
            relevance[number] = False
            relevance[number, annotated[_form(text)]] = True
    return relevance


def _form(caption):
    return normalised(curated_caption(caption))


def collate(samples: Sequence[dict]) -> dict:
    """A batch; audio and features are padded with zeros to the longest of it."""
    name = next(name for name in (Waveforms.name, Features.name) if name in samples[0])
    longest = max(len(sample[name]) for sample in samples)
    padded = samples[0][name].new_zeros((len(samples), longest, *samples[0][name].shape[1:]))
    for row, sample in zip(padded, samples):
        row[: len(sample[name])] = sample[name]
    rest = [{key: value for key, value in sample.items() if key != name} for sample in samples]
    return {name: padded, **default_collate(rest)}
