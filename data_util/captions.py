"""Caption tables: which clips there are and what is said of each, and the audio files that they mean.

One reader for the tables that are in use; what a table is, its columns tell:

* ``file_name, caption_1 .. caption_5``: Clotho, ``clotho_captions_{split}.csv``;
* ``file_name, caption``: one caption, or a row for each caption of a clip;
* ``fname, raw_text[, text]``: the curated tables ``{split}_captions.csv``, a row for each caption;
* ``youtube_id, start_time, caption``: AudioCaps, a row for each caption; a file is called ``<id>_<start>.wav``;
* JSON: a list of entries, or ``{"data": [entries]}`` as in WavCaps, with ``file_name``, ``fname``, ``id``, ``audio``
  or ``wav`` for the file and ``caption``, ``captions`` or ``caption_1 ..`` for a text or a list of texts.
"""

import csv
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_util.errors import DataMissing, TableError
from helpers.files import AUDIO_SUFFIXES, clip_id

FILE_KEYS = ("file_name", "fname", "id", "audio", "wav")  # of JSON entries; WavCaps has a placeholder under "audio"
CLOTHO_CAPTIONS = 5
_CAPTION = re.compile(r"caption(_\d+)?")


@dataclass(frozen=True)
class Captioned:
    """A clip and what is said of it.

    Attributes:
        file: name of its audio file, as in the table.
        captions: as in the table.
        where: place in the table, for messages.
    """

    file: str
    captions: tuple[str, ...]
    where: str = ""

    @property
    def clip(self) -> str:
        """The clip's id: the file name without folder and audio suffix."""
        return clip_id(self.file)


def read_captions(path, captions: int | None = None) -> list[Captioned]:
    """Clips of a caption table, in its order.

    Args:
        path: of a csv or JSON file, see the module's text.
        captions: every clip must have so many; None: five where the file is called ``clotho_captions_*``.

    Raises:
        DataMissing: no such file.
        TableError: a column is missing, a caption is empty, two clips have the same id, or a clip has another number
            of captions.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataMissing(f"no caption table {path}")
    if captions is None and path.name.startswith("clotho_captions_"):
        captions = CLOTHO_CAPTIONS
    try:
        rows = _read_json(path) if path.suffix.lower() == ".json" else _read_table(path, captions)
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not readable as UTF-8, first at byte {error.start}") from None
    if not rows:
        raise TableError(f"{path}: 0 clips, expected at least 1")
    _check(rows, captions)
    return rows


# -- layouts ----------------------------------------------------------------------------------------------------------
def _read_table(path, captions):
    from data_util.listings import read_csv  # loads torch, which workers that compute features do without

    with open(path, newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    if "youtube_id" in header or "start_time" in header:
        rows = read_csv(path, ("youtube_id", "start_time", "caption"))
        return _grouped((f"{row['youtube_id']}_{row['start_time']}.wav", row["caption"], row) for row in rows)
    if "fname" in header or "raw_text" in header:
        rows = read_csv(path, ("fname", "raw_text"))
        return _grouped((row["fname"], row["raw_text"], row) for row in rows)
    columns = _caption_columns(path, header, captions)
    rows = read_csv(path, ("file_name", *columns))
    if columns == ["caption"]:
        return _grouped((row["file_name"], row["caption"], row) for row in rows)
    return [Captioned(row["file_name"], tuple(row[name] for name in columns), row["where"]) for row in rows]


def _caption_columns(path, header, captions):
    """Names of the caption columns that a wide table has, or should have."""
    found = [name for name in header if _CAPTION.fullmatch(name)]
    if found == ["caption"]:
        return found
    if "caption" in found:
        raise TableError(f"{path}: columns {', '.join(found)}, expected either caption or caption_1, caption_2, ...")
    numbers = [int(name.partition("_")[2]) for name in found]
    return [f"caption_{number}" for number in range(1, max((captions or 1, *numbers)) + 1)]


def _grouped(rows):
    """(file, caption, row of :func:`read_csv`) -> clips in the order in which they first come."""
    found: dict[str, list] = {}
    for file, caption, row in rows:
        found.setdefault(file, [row["where"]]).append(caption)
    return [Captioned(file, tuple(captions), where) for file, (where, *captions) in found.items()]


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise TableError(f"{path}: not readable as JSON ({error})") from None
    entries = content.get("data") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise TableError(f'{path}: no list of clips, expected [...] or {{"data": [...]}}')
    return [_entry(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, start=1)]


def _entry(entry, where):
    file = next((entry[key] for key in FILE_KEYS if key in entry), None) if isinstance(entry, dict) else None
    if file is None:
        raise TableError(f"{where}: no file, expected one of {', '.join(FILE_KEYS)}")
    columns = sorted((name for name in entry if _CAPTION.fullmatch(name)), key=lambda name: (len(name), name))
    values = [entry[name] for name in (*columns, "captions") if name in entry]
    captions = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if not captions or not all(isinstance(text, str) for text in captions):
        raise TableError(f"{where}: 'caption' of '{file}' is {values}, expected a text or a list of texts")
    return Captioned(str(file), tuple(captions), where)


def _check(rows, captions):
    for row in rows:
        if not row.clip.strip():
            raise TableError(f"{row.where}: no file name")
        for number, caption in enumerate(row.captions, start=1):
            if not caption.strip():
                raise TableError(f"{row.where}: caption {number} of '{row.file}' is empty")
        if captions is not None and len(row.captions) != captions:
            raise TableError(f"{row.where}: '{row.file}' has {len(row.captions)} captions, expected {captions}")
    require_distinct(rows)


def require_distinct(rows: Sequence[Captioned]):
    """Raises TableError where two clips have the same id."""
    first = {}
    for row in rows:
        other = first.setdefault(row.clip, row)
        if other is not row:
            raise TableError(
                f"{row.where}: two clips have the id '{row.clip}' ('{other.file}' and '{row.file}'), expected one"
            )


# -- audio ------------------------------------------------------------------------------------------------------------
def match_audio(rows: Sequence[Captioned], folder) -> list[str | None]:
    """Paths of the clips' audio files in a folder, which is listed once.

    A name counts as the same in another Unicode normal form, with blanks around it (some are lost or gained when
    archives are unpacked), and with another audio suffix or none, unless two files are meant by it then.

    Args:
        rows: the clips.
        folder: of the audio files.

    Returns:
        [clips] paths; None where there is no such file.
    """
    folder = Path(folder).expanduser()
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    names = [name for name in names if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES]
    exact = {_composed(name): name for name in names}
    similar: dict[str, list[str]] = {}
    for name in names:
        similar.setdefault(_composed(clip_id(name)).strip(), []).append(name)
    paths = []
    for row in rows:
        candidates = similar.get(_composed(row.clip).strip(), [])
        name = exact.get(_composed(row.file)) or (candidates[0] if len(candidates) == 1 else None)
        paths.append(None if name is None else str(folder / name))
    return paths


def _composed(name):
    return unicodedata.normalize("NFC", name)
