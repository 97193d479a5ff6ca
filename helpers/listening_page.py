"""A page on which one hears how a search fails: every query with its true sound and what was found instead."""

import html
import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.qvim_submission import ranking
from helpers.sound_media import played_as, write_wav
from helpers.sound_query import printable

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
section { border: 1px solid #8886; border-radius: 0.5rem; padding: 0.6rem 1rem; margin: 1rem 0; }
h2 { font-size: 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td { padding: 0.2rem 0.6rem 0.2rem 0; overflow-wrap: anywhere; }
td.number { text-align: right; white-space: nowrap; }
tr.true { font-weight: 600; background: #009e7333; }
audio { width: 18rem; max-width: 100%; height: 2.2rem; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Listened:
    """A query and its answers.

    Attributes:
        query: its file.
        target: file of the right sound; None: it has none.
        rank: of the right sound, from 1; None: it is not in the collection.
        score: of the right sound.
        label: class or any other note.
        found: (file, score) of the best sounds, the best first.
    """

    query: Path
    target: Path | None
    rank: int | None
    score: float | None
    label: str
    found: tuple[tuple[Path, float], ...]


def listened(
    similarity: np.ndarray, queries: Sequence, items: Sequence, targets: Sequence, labels: Sequence[str] = (), top=5
) -> list[Listened]:
    """What a page says about every query.

    Args:
        similarity: [queries, items].
        queries: files.
        items: files.
        targets: file of the right sound of each query, or None.
        labels: of the queries; empty: none.
        top: sounds that are shown.

    Raises:
        ValueError: the lengths do not agree.
    """
    similarity = np.asarray(similarity)
    if similarity.shape != (len(queries), len(items)) or len(targets) != len(queries):
        found = f"{similarity.shape} similarities and {len(targets)} right sounds"
        raise ValueError(f"{found}, expected those of {len(queries)} queries and {len(items)} items")
    items = [Path(item) for item in items]
    number = {item: i for i, item in enumerate(items)}
    entries = []
    for i, (row, order) in enumerate(zip(similarity, ranking(similarity))):
        target = None if targets[i] is None else Path(targets[i])
        right = number.get(target)
        rank = None if right is None else int(np.flatnonzero(order == right)[0]) + 1
        score = None if right is None else float(row[right])
        found = tuple((items[j], float(row[j])) for j in order[:top])
        entries.append(Listened(Path(queries[i]), target, rank, score, labels[i] if len(labels) else "", found))
    return entries


def hardest_first(entries: Sequence[Listened]) -> list[Listened]:
    """Right sounds that are not in the collection, then the largest ranks; queries without a right sound are last."""

    def key(entry):
        if entry.target is None:
            return 2, 0, str(entry.query)
        return (0, 0, str(entry.query)) if entry.rank is None else (1, -entry.rank, str(entry.query))

    return sorted(entries, key=key)


def write_listening_page(
    path, entries: Sequence[Listened], title: str = "Listening", limit: int | None = 200, copy: bool = False
) -> Path:
    """Writes the page, the hardest failures first.

    Args:
        path: HTML file.
        entries: see :func:`listened`.
        title: above it.
        limit: queries that are shown; None: all.
        copy: put the sounds into a folder beside the page, as wav where browsers cannot play them, so that both can be
            given away; otherwise the page refers to the files where they are.

    Returns:
        the path.

    Raises:
        ValueError: a sound cannot be read (with ``copy``).
    """
    path = Path(path)
    shown = hardest_first(entries)[:limit]
    address = _Copies(path) if copy else lambda sound: _relative(sound, path.parent)
    ranks = [entry.rank for entry in entries if entry.rank is not None]
    mrr = f"{np.sum(1 / np.array(ranks)) / max(sum(e.target is not None for e in entries), 1):.4f}" if ranks else "–"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{len(entries)} queries, mean reciprocal rank {mrr}. The hardest come first"
        + (f"; {len(shown)} are shown.</p>" if len(shown) < len(entries) else ".</p>"),
        *(_section(entry, address) for entry in shown),
    ]
    page = PAGE.format(title=_text(title), style=STYLE, body="\n".join(parts))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(entry, address):
    note = f" ({_text(entry.label)})" if entry.label else ""
    place = f"right sound at rank {entry.rank}"
    if entry.rank is None:
        place = "no right sound is known" if entry.target is None else "the right sound is not in the collection"
    rows = [_row("query", entry.query, None, address)]
    if entry.target is not None and entry.rank is not None:
        rows.append(_row(f"right: {entry.rank}", entry.target, entry.score, address, True))
    for rank, (sound, score) in enumerate(entry.found, 1):
        rows.append(_row(str(rank), sound, score, address, sound == entry.target))
    return (
        f"<section>\n<h2>{_text(entry.query.name)}{note}: {place}</h2>\n<table>\n"
        + "\n".join(rows)
        + "\n</table>\n</section>"
    )


def _row(head, sound, score, address, true=False):
    value = "" if score is None else f"{score:.4f}"
    player = f'<audio controls preload="none" src="{_text(address(sound))}"></audio>'
    kind = ' class="true"' if true else ""
    return (
        f'<tr{kind}><td class="number">{head}</td><td>{_text(sound.name)}</td><td class="number">{value}</td>'
        f"<td>{player}</td></tr>"
    )


def _text(text):
    return html.escape(printable(str(text)))


def _relative(sound, folder):
    return _url(os.path.relpath(sound, folder).replace(os.sep, "/"))


def _url(path):
    return urllib.parse.quote(os.fsencode(path))


class _Copies:
    """Address of a sound beside the page, where it is put the first time."""

    def __init__(self, page):
        self.folder, self.known = page.with_name(f"{page.stem}_sounds"), {}

    def __call__(self, sound):
        if sound not in self.known:
            as_it_is = played_as(sound) is not None
            name = f"{len(self.known):05}{sound.suffix.lower() if as_it_is else '.wav'}"
            self.folder.mkdir(parents=True, exist_ok=True)
            if as_it_is:
                with replacing(self.folder / name) as temporary:
                    temporary.write_bytes(sound.read_bytes())
            else:
                write_wav(sound, self.folder / name)
            self.known[sound] = f"{_url(self.folder.name)}/{name}"
        return self.known[sound]
