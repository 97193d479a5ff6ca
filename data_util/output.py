"""Files that are written complete or not at all, and notes on what a folder was made from."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from helpers.files import replacing


def write_audio(path: Path, audio: np.ndarray, sample_rate: int):
    """Writes [samples] float in [-1, 1] as 16-bit PCM wav."""
    with replacing(path) as temporary:
        soundfile.write(temporary, audio, sample_rate, subtype="PCM_16", format="WAV")


def write_table(path: Path, rows: Iterable[Sequence], columns: Sequence[str]):
    """Writes a tab-separated table; None becomes an empty field."""
    with replacing(path) as temporary:
        pd.DataFrame(list(rows), columns=list(columns)).to_csv(temporary, sep="\t", index=False)


def write_json(path: Path, value):
    """Writes plain values as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))


def claim(path: Path, settings: dict):
    """Notes in the file `path` what its folder is made from, or compares with what was noted before.

    Raises:
        ValueError: the folder was begun with other settings.
    """
    settings = json.loads(json.dumps(settings))  # as they will be read back
    if not path.is_file():
        write_json(path, settings)
        return
    before = json.loads(path.read_text())
    for name in _leaves(settings):
        there, here = (json.dumps(_leaves(kept).get(name)) for kept in (before, settings))
        if there != here:
            raise ValueError(
                f"{path.parent} was made with other settings ({name}: {there[:80]} there, {here[:80]} asked for): "
                "choose another folder or remove it"
            )


def _leaves(nested, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(nested, dict) or not nested:
        return {prefix.rstrip("."): nested}
    return {name: leaf for key, value in nested.items() for name, leaf in _leaves(value, f"{prefix}{key}.").items()}
