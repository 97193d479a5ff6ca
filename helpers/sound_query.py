"""Queries of an index of sounds: a recording as vector, and the sounds that were found as table and JSON."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.sound_index import Hit, SoundIndex
from helpers.windows import in_samples

SILENCE = 1e-4  # peak, -80 dB of full scale


class Silent(ValueError):
    """A query holds no sound."""


class Query(NamedTuple):
    """A recording as vector.

    Attributes:
        vector: [dim] float32.
        notices: lines that the user should see.
    """

    vector: np.ndarray
    notices: tuple[str, ...]


def recording_query(path, encoder: Callable, read: Callable, name: str | None = None) -> Query:
    """The vector of a recording of any sample rate; no more of it is decoded than the encoder takes.

    Args:
        path: of the recording.
        encoder, read: see :func:`helpers.sound_building.build_index`; the encoder is that of queries.
        name: what messages call the recording; None: its path.

    Raises:
        Silent: there is no sound in the part that is used.
        FileNotFoundError, ValueError: it cannot be read, see ``read``; the encoder gives no vector.
    """
    name = str(path) if name is None else name
    samples = in_samples(encoder.max_seconds, encoder.sample_rate, "max_seconds")
    taken, count = [], 0
    with closing(iter(read(path, encoder.sample_rate))) as blocks:
        for block in blocks:
            taken.append(block)
            count += len(block)
            if count > samples:
                break
    waveform = np.concatenate(taken)[:samples]
    first = f"the first {encoder.max_seconds:g} s"
    peak = float(np.abs(waveform).max())
    if peak < SILENCE:
        raise Silent(f"{name}: {f'{first} are ' if count > samples else ''}silent (peak {peak:.1e}), expected a sound")
    shortest = getattr(encoder, "min_seconds", None)
    least = samples if shortest is None else in_samples(shortest, encoder.sample_rate, "min_seconds")
    vector = encoder(np.pad(waveform, (0, max(least - len(waveform), 0)))[None].astype(np.float32))
    notices = (f"{name}: longer than {encoder.max_seconds:g} s, only {first} are compared",) if count > samples else ()
    return Query(np.asarray(vector, np.float32)[0], notices)


def printable(text: str) -> str:
    """A path whose bytes are no text, as a text that any output takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def table(hits: Sequence[Hit], title: str = ""):
    """The sounds that were found as ``rich.table.Table`` for ``rich.print``."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title=Text(printable(title)), title_justify="left")
    for head, side in (("rank", "right"), ("sound", "left"), ("score", "right"), ("at (s)", "right")):
        result.add_column(head, justify=side)
    for hit in hits:
        row = str(hit.rank), Text(printable(hit.path), overflow="fold"), f"{hit.score:.3f}", f"{hit.start:.1f}"
        result.add_row(*row)
    return result


def as_json(index: SoundIndex, hits: Sequence[Hit], query: str, notices: Sequence[str] = ()) -> dict:
    """The sounds that were found in terms of JSON.

    Returns:
        ``query``, ``notices``, ``sounds`` (folder) and ``results``: ``rank, path, score, start, seconds`` of each.
    """
    results = [
        {"rank": hit.rank, "path": printable(hit.path), "score": round(hit.score, 6), "start": round(hit.start, 3),
         "seconds": hit.seconds}
        for hit in hits
    ]  # fmt: skip
    sounds = printable(Path(index.root).as_posix())
    return {"query": printable(query), "notices": list(notices), "sounds": sounds, "results": results}
