"""Captions as text: normal form, words, the published ids of clips and captions, and what a set of captions holds.

Ids are those of the code that trains the DCASE 2023 baseline on synthetic audio: MD5 of a path and of a caption. They
are the same in every run, but a path is part of them: data in another folder have other ids.
"""

import csv
import hashlib
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from data_util.captions import Captioned
from helpers.files import replacing

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(caption: str) -> str:
    """A caption without ASCII punctuation, in lower case, with single blanks, as published."""
    return " ".join(caption.translate(_NO_PUNCTUATION).lower().split())


def published_clip_id(path) -> str:
    """MD5 of a path as it is written, such as ``./data/Clotho/development/x.wav``; 32 hex digits."""
    return hashlib.md5(str(path).encode()).hexdigest()


def published_caption_id(clip: str, caption: str) -> str:
    """MD5 of a clip's id and a caption's normal form: equal captions of a clip share one id."""
    return hashlib.md5((clip + normalised(caption)).encode()).hexdigest()


class TextRow(NamedTuple):
    """A caption in the columns of the published ``{split}_text.csv``."""

    tid: str
    fid: str
    fname: str
    raw_text: str
    text: str
    tokens: list[str]


def text_rows(rows: Sequence[Captioned], ids: Sequence[str]) -> list[TextRow]:
    """The id table of clips: one row per caption, in order.

    Args:
        rows: clips.
        ids: of the clips, such as :func:`published_clip_id` of their paths.
    """
    table = []
    for row, fid in zip(rows, ids):
        for caption in row.captions:
            text = normalised(caption)
            tid = published_caption_id(fid, caption)
            table.append(TextRow(tid, fid, row.file, caption, text, text.split()))
    return table


def write_text_rows(path, table: Sequence[TextRow]):
    """Writes an id table as the published ``{split}_text.csv``, tokens with blanks between them."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TextRow._fields)
        writer.writerows((*row[:-1], " ".join(row.tokens)) for row in table)


def text_report(
    splits: Mapping[str, Sequence[Captioned]], tokenize: Callable[[list[str]], Sequence[Sequence[int]]] | None = None
) -> dict:
    """What the captions of some splits hold: words, vocabulary, duplicates, and tokens of a text model.

    Captions are compared, and words counted, in their normal form (:func:`normalised`).

    Args:
        splits: name -> clips. The first is the one for training: ``unseen`` words are those that it lacks.
        tokenize: captions -> ids of their tokens, as a text model reads them; None counts none.

    Returns:
        plain values: ``splits`` (name -> ``clips``, ``captions``, ``words``, ``vocabulary``, ``unseen``,
        ``once`` (words that occur once), ``words_per_caption`` (least, mean, most), ``distinct`` captions,
        ``repeated_in_clip`` (captions that their clip has before), ``shared`` (captions that other clips have), and
        with ``tokenize`` ``tokens`` and ``tokens_per_caption``), ``vocabulary`` of all splits, ``clips_in_two_splits``
        (ids), ``captions_in_two_splits`` (their number).
    """
    report, vocabulary, training = {}, Counter(), None
    clips, captions = Counter(), Counter()
    for name, rows in splits.items():
        described, words, texts = _describe(rows)
        training = words if training is None else training
        described["unseen"] = len(words.keys() - training.keys())
        if tokenize is not None:
            lengths = [len(ids) for ids in tokenize([caption for row in rows for caption in row.captions])]
            described.update(tokens=sum(lengths), tokens_per_caption=_spread(lengths))
        report[name] = described
        vocabulary.update(words)
        clips.update({row.clip for row in rows})
        captions.update(texts)
    return {
        "splits": report,
        "vocabulary": len(vocabulary),
        "clips_in_two_splits": sorted(clip for clip, count in clips.items() if count > 1),
        "captions_in_two_splits": sum(count > 1 for count in captions.values()),
    }


def _describe(rows):
    """Statistics of one split, its words with their counts, and its different captions."""
    texts = [[normalised(caption) for caption in row.captions] for row in rows]
    words = Counter(word for own in texts for text in own for word in text.split())
    owners = Counter(text for own in texts for text in set(own))
    lengths = [len(text.split()) for own in texts for text in own]
    described = {
        "clips": len(rows),
        "captions": len(lengths),
        "words": sum(lengths),
        "words_per_caption": _spread(lengths),
        "vocabulary": len(words),
        "once": sum(count == 1 for count in words.values()),
        "distinct": len(owners),
        "repeated_in_clip": sum(len(own) - len(set(own)) for own in texts),
        "shared": sum(count for count in owners.values() if count > 1),
    }
    return described, words, set(owners)


def _spread(lengths):
    return [min(lengths, default=0), sum(lengths) / max(len(lengths), 1), max(lengths, default=0)]
