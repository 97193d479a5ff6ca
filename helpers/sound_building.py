"""Making the index of a folder of sounds, and bringing it up to date, see :mod:`helpers.sound_index`."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from helpers.inference import Skipped
from helpers.locks import holding
from helpers.nearest import chosen, write_faiss
from helpers.sound_index import CONFIG, FAISS, FORMAT, VECTORS, IndexedFile, load_index, retired, settle
from helpers.sound_parts import Cutting, Parts, embed_files

log = logging.getLogger(__name__)


def build_index(
    folder,
    root,
    paths: Sequence,
    encoder: Callable,
    read: Callable,
    *,
    window: float | None = None,
    hop: float | None = None,
    long_files: str = "windows",
    approximate: str | None = None,
    approximate_from: int = 100_000,
    batch_size: int = 8,
    workers: int | None = None,
    overwrite: bool = False,
) -> dict:
    """Makes the index of a folder of sounds, or brings it up to date: only new and changed files are embedded.

    A run that was stopped goes on where it was. The old index stays until the new one is complete.

    Args:
        folder: of the index.
        root: folder of the sounds.
        paths: of the sounds, all below ``root``.
        encoder: callable waveforms [B, samples] float32 -> [B, dim] float32 unit vectors, with attributes
            ``sample_rate``, ``dim``, ``identity`` (text that tells weights and settings) and ``max_seconds``; where it
            has ``about`` (such as architecture and checkpoint, in terms of JSON), that is written, too; where it has
            ``min_seconds``, shorter sounds are filled up to these alone.
        read: callable (path, sample rate) -> blocks of a mono recording, [samples] float32.
        window: seconds of a window; shorter sounds are filled up with zeros. None: ``max_seconds`` of the encoder.
        hop: seconds from one window to the next; None: ``window``.
        long_files: "windows" (a vector for every window) or "start" (of the first window only).
        approximate: "ivf" or "hnsw": approximate search from ``approximate_from`` vectors on; None: always exact.
        approximate_from: see ``approximate``.
        batch_size: windows in a batch.
        workers: threads that decode; None: one per core, at most 8.
        overwrite: replace an index that was made with another checkpoint or cut otherwise.

    Returns:
        ``files``, ``windows``, ``embedded`` and ``kept`` (numbers), ``skipped`` (path -> reason), ``search``.

    Raises:
        ValueError: no file, none that can be read, settings that are impossible, an index that is damaged or of other
            settings, or another run that makes this index.
    """
    folder, root = Path(folder).expanduser(), Path(root).expanduser()
    cutting = Cutting.of(encoder, window, hop, long_files)
    chosen(approximate, approximate_from, 0)  # a mistake shows before hours of work
    if not paths:
        raise ValueError(f"{root}: 0 sound files, expected at least 1")

    def embed(todo):
        return embed_files(todo, encoder, read, cutting, batch_size, workers)

    kind_of = partial(chosen, approximate, approximate_from)
    with holding(folder.with_name(f".{folder.name}.lock")) as ours:
        if not ours:
            raise ValueError(f"{folder}: another run makes this index, expected one at a time")
        return _made(folder, root, paths, encoder, cutting, embed, kind_of, overwrite)


def _made(folder, root, paths, encoder, cutting, embed, kind_of, overwrite):
    """The work of :func:`build_index`; ``embed`` gives the results of paths, ``kind_of`` the search of so many vectors.

    Raises:
        ValueError: see there.
    """
    _require_place(folder)
    there = [IndexedFile(_below(path, root), *_status(path), 0.0, 0) for path in sorted(set(map(Path, paths)))]
    settings = {"identity": encoder.identity, "dim": encoder.dim, "cutting": asdict(cutting)}
    old = None if overwrite else _old(folder, settings)
    parts = Parts(folder, settings, IndexedFile)
    known = {} if old is None else _sources(old)
    todo = {str(root / file.path): file for file in there if file.key not in known | parts.sources()}
    skipped = _embed(todo, embed(list(todo)), parts)
    known |= parts.sources()
    found = [known[file.key] for file in there if file.key in known]
    if len(found) + len(skipped) != len(there):
        raise ValueError(
            f"{folder}: vectors of {len(found)} files and {len(skipped)} skipped, expected {len(there)} together: "
            "another run has removed the rest, start again"
        )
    if not found:
        reason = next(iter(skipped.values()))
        raise ValueError(f"{root}: 0 of {len(there)} sound files can be indexed; first: {reason}")
    config = {
        "format": FORMAT, "encoder": _described(encoder), "cutting": asdict(cutting),
        "root": str(root.resolve()),
        "skipped": [{"path": todo[path].path, "reason": reason} for path, reason in skipped.items()],
    }  # fmt: skip
    windows = sum(file.windows for file, _, _ in found)
    kind = kind_of(windows)
    if old is not None and _unchanged(old, found, config, kind):
        search = old.config["search"]
    else:
        search = _write(folder, config, found, windows, kind)
    parts.remove()
    embedded = len(todo) - len(skipped)
    return {
        "files": len(found), "windows": windows, "embedded": embedded, "kept": len(found) - embedded,
        "skipped": skipped, "search": search,
    }  # fmt: skip


def _described(encoder):
    names = ("identity", "dim", "sample_rate", "max_seconds")
    return {name: getattr(encoder, name) for name in names} | getattr(encoder, "about", {})


def _below(path, root):
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        raise ValueError(f"{path}: outside of {root}, expected all sounds below the folder that is indexed") from None


def _status(path):
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _require_place(folder):
    """Raises ValueError where a folder holds anything but an index: it would be lost."""
    settle(folder)
    if folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        if not names <= {CONFIG, VECTORS, FAISS}:
            other = min(names - {CONFIG, VECTORS, FAISS})
            raise ValueError(f"{folder}: holds '{other}', expected a new or empty folder, or an index of sounds")


def _sources(index):
    """Key of a file -> the file, an array with its vectors, and the first row."""
    return {file.key: (file, index.vectors, int(row)) for file, row in zip(index.files, index.first)}


def _old(folder, settings):
    """The index that is there, None where there is none.

    Raises:
        ValueError: it was made otherwise, or is damaged.
    """
    if not (folder / CONFIG).is_file():
        return None
    old = load_index(folder)
    encoder = old.config["encoder"]
    there = {"identity": encoder["identity"], "dim": encoder["dim"], "cutting": old.config["cutting"]}
    for name, value in settings.items():
        if there[name] != value:
            raise ValueError(
                f"{folder}: made with {name} '{there[name]}', expected '{value}': "
                "choose another folder, or index.overwrite=True to make it again"
            )
    return old


def _embed(todo, results, parts):
    """Puts the results of files (path -> entry) into parts; returns path -> reason of those that cannot be used."""
    from tqdm import tqdm

    skipped = {}
    with parts, tqdm(total=len(todo), desc="index", unit="file", disable=None) as progress:
        for result in results:
            progress.update()
            if isinstance(result, Skipped):
                skipped[result.path] = result.reason
                log.warning("skipped: %s", result.reason)
            else:
                file = replace(todo[result.path], seconds=round(result.seconds, 3), windows=len(result.vectors))
                parts.put(file, result.vectors)
    return skipped


def _unchanged(old, found, config, kind):
    """Whether the index that is there says all of it already."""
    same = all(old.config[name] == value for name, value in config.items())
    kinds = ("flat", "numpy") if kind == "flat" else (kind,)
    return same and old.config["search"]["kind"] in kinds and old.files == [file for file, _, _ in found]


def _write(folder, config, found, windows, kind):
    """Writes a complete index beside the folder and puts it in its place; returns what its search is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        shape = (windows, config["encoder"]["dim"])
        vectors = np.lib.format.open_memmap(new / VECTORS, mode="w+", dtype=np.float32, shape=shape)
        row = 0
        for file, array, first in found:
            vectors[row : row + file.windows] = array[first : first + file.windows]
            row += file.windows
        vectors.flush()
        search = write_faiss(new / FAISS, vectors, kind)
        with open(new / CONFIG, "w", encoding="utf-8") as out:
            head = json.dumps({**config, "search": search}, indent=1)
            rows = ",\n".join(json.dumps(asdict(file)) for file, _, _ in found)
            out.write(f'{head[:-2]},\n "files": [\n{rows}\n]}}\n')
        _replace(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return search


def _replace(folder, new):
    """Puts a new directory in the place of another one; a stop in between is mended by :func:`_settle`."""
    old = retired(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
