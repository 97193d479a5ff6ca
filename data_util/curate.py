"""The published corrections of Clotho's captions and file names, as a step that can be left out.

They are those of the code that trains the DCASE 2023 baseline on synthetic audio (its README, "Caption Corrections"
and "Audio Corrections"):

* "echos" is written "echoes";
* dual blanks become one, and none stay at either end. The published tables do so in the normalised column only;
* doubled words that are slips of the pen ("at at", "the the") are written once. Those that are meant stay, such as
  "Rain Rain go away"; a clock that is "going tick tick" is "ticking";
* file names that begin with a blank lose it, in the table and on the disk. Here the files stay as they are:
  :func:`data_util.captions.match_audio` finds them under either name.

British and American spelling are left as they are.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from data_util.caption_text import normalised
from data_util.captions import Captioned
from helpers.files import replacing

# Words that are doubled by mistake somewhere in Clotho, or that the corrections name.
DOUBLED = ("a", "and", "at", "bicycle", "busy", "click", "in", "of", "on", "the", "then", "to", "turns")
_CORRECTIONS = (
    (re.compile(r"\bgoing tick tick\b"), "ticking"),
    (re.compile(r"\b(e|E)chos\b"), r"\1choes"),
    (re.compile(rf"\b({'|'.join(DOUBLED)})(?: \1\b)+", re.IGNORECASE), r"\1"),
)


class Change(NamedTuple):
    """What a correction changed: the clip's file name in the table, the text before and after."""

    file: str
    before: str
    after: str


def curated_caption(caption: str) -> str:
    """A caption with the corrections, see the module's text."""
    caption = " ".join(caption.split())
    for pattern, replacement in _CORRECTIONS:
        caption = pattern.sub(replacement, caption)
    return caption


def curated_name(file: str) -> str:
    """A file name without blanks before it."""
    return file.lstrip()


def curate(rows: Sequence[Captioned], captions: bool = True, names: bool = True) -> list[Captioned]:
    """Clips with corrected captions and file names. Applied twice, it changes nothing more.

    Args:
        rows: clips, which stay as they are.
        captions, names: what is corrected.
    """
    curated = []
    for row in rows:
        texts = tuple(map(curated_caption, row.captions)) if captions else row.captions
        curated.append(replace(row, file=curated_name(row.file) if names else row.file, captions=texts))
    return curated


def changes(before: Sequence[Captioned], after: Sequence[Captioned]) -> list[Change]:
    """What differs between clips and the same clips after :func:`curate`: file names and captions."""
    found = []
    for old, new in zip(before, after):
        pairs = [(old.file, new.file), *zip(old.captions, new.captions)]
        found += [Change(old.file, *pair) for pair in pairs if pair[0] != pair[1]]
    return found


def write_curated(path, rows: Iterable[Captioned]):
    """Writes a curated table, ``fname, raw_text, text``: a row for each caption, the text in its normal form."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("fname", "raw_text", "text"))
        for row in rows:
            writer.writerows((row.file, caption, normalised(caption)) for caption in row.captions)
