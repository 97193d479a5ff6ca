"""Generated audio beside, or instead of, the recordings of a caption data set, mixed by the published rules.

A generator makes one clip of each caption: caption ``k`` of ``rain.wav`` becomes ``rain_cap_<k>.wav``, and that clip
has this caption only. With replication factor ``r`` every original, in the order of file names, gets ``r`` of its
generated clips: they are shuffled and the first ``r`` taken. The published selection followed the order in which the
file system lists files, so it cannot be had back on another machine; the order of names is the one that can.

Rules and seeds (24; 42 and 88 for the comparison of seeds) are those of the code that trains the DCASE 2023 baseline on
audio of AudioGen and EzAudio.
"""

import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_util.captions import Captioned, match_audio
from data_util.errors import DataMissing
from helpers.files import clip_id
from helpers.text import quoted

logger = logging.getLogger(__name__)

COLUMNS = (1, 2, 3, 4, 5)
CHUNKS = 10
_GENERATED = re.compile(r"_cap_\d+$")


@dataclass(frozen=True)
class Mixed:
    """A clip of a mixture.

    Attributes:
        row: the clip; a generated one has one caption.
        path: of its audio file; None where there is none.
        original: number of the clip that it is, or was generated from.
        column: number of the caption that it was generated from; 0 for an original.
    """

    row: Captioned
    path: str | None
    original: int
    column: int = 0


def generated_name(file: str, column: int) -> str:
    """Name of the audio file that is generated from a caption of a clip."""
    return f"{clip_id(file)}_cap_{column}.wav"


def without_generated(rows: Sequence[Captioned], paths: Sequence) -> tuple[list[Captioned], list]:
    """Clips, with the paths of their audio, but for those that were generated from another one of them."""
    clips = {row.clip for row in rows}
    originals = [
        (row, path)
        for row, path in zip(rows, paths)
        if not (found := _GENERATED.search(row.clip)) or row.clip[: found.start()] not in clips
    ]
    if len(originals) < len(rows):
        logger.info("%d of %d clips were generated, their originals are taken", len(rows) - len(originals), len(rows))
    return [row for row, _ in originals], [path for _, path in originals]


def find_generated(rows: Sequence[Captioned], folder, split="development") -> list[dict[int, str]]:
    """The generated audio files that are there.

    Args:
        rows: originals.
        folder: of the audio, or with ``{column}`` in its name one for each caption, as in the published
            ``Clotho_caption_{column}``; the files are in it or in its folder of the split's name.
        split: see there.

    Returns:
        for each clip, number of one of its captions -> path.

    Raises:
        DataMissing: there is no such folder.
    """
    found: list[dict[int, str]] = [{} for _ in rows]
    folders = {column: Path(str(folder).replace("{column}", str(column))).expanduser() for column in COLUMNS}
    if not any(path.is_dir() for path in folders.values()):
        raise DataMissing(f"no folder of generated audio {folder}")
    for column, path in folders.items():
        names = [Captioned(generated_name(row.file, column), ()) for row in rows]
        for place in (path, path / split):
            for row, own, file in zip(rows, found, match_audio(names, place)):
                if file is not None and column <= len(row.captions):
                    own.setdefault(column, file)
    return found


def missing_generated(rows: Sequence[Captioned], generated: Sequence[Mapping[int, str]]) -> list[str]:
    """Names of the generated audio files that are not there, of all captions."""
    return [
        generated_name(row.file, column)
        for row, own in zip(rows, generated)
        for column in range(1, len(row.captions) + 1)
        if column not in own
    ]


def mix(
    rows: Sequence[Captioned],
    paths: Sequence[str | None],
    generated: Sequence[Mapping[int, str]],
    replication_factor: int = 1,
    seed: int = 24,
    originals: bool = True,
) -> list[Mixed]:
    """Originals, by file name, each followed by its generated clips that were drawn.

    An original with fewer generated clips than asked for gets all of them.

    Args:
        rows: originals.
        paths: of their audio.
        generated: of :func:`find_generated`.
        replication_factor: generated clips per original, 1 to 5.
        seed: of the draws.
        originals: whether the originals are in the mixture.

    Raises:
        ValueError: another replication factor.
    """
    if replication_factor not in COLUMNS:
        raise ValueError(f"data.replication_factor is {replication_factor}, expected 1 to {COLUMNS[-1]}")
    draws, mixture = random.Random(seed), []
    for number in sorted(range(len(rows)), key=lambda number: rows[number].file):
        row = rows[number]
        if originals:
            mixture.append(Mixed(row, paths[number], number))
        columns = sorted(generated[number])
        draws.shuffle(columns)
        for column in columns[:replication_factor]:
            copy = replace(row, file=generated_name(row.file, column), captions=(row.captions[column - 1],))
            mixture.append(Mixed(copy, generated[number][column], number, column))
    return mixture


def require_generated(rows, generated, replication_factor, folder, on_missing="raise") -> list[str]:
    """Names the generated audio files that are not there.

    Args:
        rows, generated, replication_factor: see :func:`mix`.
        folder: for the message.
        on_missing: "raise", or "skip": originals with too few generated clips get fewer, as published.

    Returns:
        names of the missing files.

    Raises:
        DataMissing: an original has fewer generated clips than the replication factor asks for.
    """
    missing = missing_generated(rows, generated)
    short = sum(len(own) < replication_factor for own in generated)
    if not missing:
        return missing
    message = (
        f"{folder}: {len(missing)} generated audio files are not there, and {short} of {len(rows)} clips have fewer "
        f"than data.replication_factor = {replication_factor}: {quoted(missing)}"
    )
    if short and on_missing == "raise":
        raise DataMissing(message)
    logger.warning("%s", message)
    return missing


def chunk(rows: Sequence, number: int, chunks: int = CHUNKS) -> list:
    """One of some consecutive parts of about equal size, larger ones first, as in the published comparison of seeds.

    Args:
        rows: whatever is to be cut.
        number: 1 to ``chunks``.
        chunks: number of parts.

    Raises:
        ValueError: there is no such part.
    """
    if not 1 <= number <= chunks:
        raise ValueError(f"data.chunk is {number}, expected 1 to {chunks}")
    return [rows[index] for index in np.array_split(np.arange(len(rows)), chunks)[number - 1]]
