"""Packs folders of audio into the HDF5 files that the tagging data sets are read from.

    python -m data_util.pack audioset data/audioset data/audioset_hdf5
    python -m data_util.pack fsd50k data/FSD50K data/fsd50k_hdf5 --parts val test
    python -m data_util.pack folder my_clips my_clips_packed --workers 8

The first folder has the published tables and audio (see ``data_util/listings.py`` and ``data_util/folders.py``), the
second gets one file per part. Every clip becomes mono mp3 at 32 kHz; mp3 files that are that already are packed as
they are. Where libsndfile cannot write mp3, clips become flac. Files that are missing or cannot be decoded are left out
and listed in ``<packed file>.problems.tsv``.

A packed file appears when it is complete. A run that is stopped, in whatever way, goes on where it was.
"""

import argparse
import io
import itertools
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from data_util import folders, listings
from data_util.audio import read
from data_util.errors import BadAudio
from data_util.output import write_table
from data_util.pack_store import PackStore
from helpers.files import replacing

PARTS = {
    "audioset": (listings.audioset, "{}_mp3.hdf"),
    "fsd50k": (listings.fsd50k, "FSD50K.{}_mp3.hdf"),
    "openmic": (listings.openmic, "openmic_{}.csv_mp3.hdf"),
    "audioset_strong": (listings.audioset_strong, "audioset_strong_{}_mp3.hdf"),
    "folder": (folders.folder, "{}_mp3.hdf"),
}
FORMATS = {"mp3": "MPEG_LAYER_III", "flac": "PCM_16", "wav": "PCM_16"}
BATCH = 64  # clips between two visits to the disk: bounds the memory, and what a stopped run does again
NAME_BYTES = 20  # least width of ``audio_name``, as in the published files


@dataclass(frozen=True)
class Report:
    """What became of one part.

    Attributes:
        path: of the packed file.
        clips: how many it has.
        problems: (file, problem) of those left out.
    """

    path: Path
    clips: int
    problems: list


def usable_format(wanted="auto", available=None):
    """The format that clips are stored in: "mp3", "flac" or "wav".

    Args:
        wanted: one of these, or "auto" for mp3 where libsndfile can write it, else flac.
        available: formats of libsndfile, ``soundfile.available_formats()``.

    Raises:
        ValueError: it cannot be written here.
    """
    available = soundfile.available_formats() if available is None else available
    if wanted == "auto":
        return "mp3" if "MP3" in available else "flac"
    if wanted not in FORMATS or wanted.upper() not in available:
        known = [name for name in FORMATS if name.upper() in available]
        raise ValueError(f"format '{wanted}' cannot be written by this libsndfile, expected one of {', '.join(known)}")
    return wanted


def encode(path, sample_rate=32000, kind="mp3"):
    """A clip's bytes as mono file of one format and rate.

    An mp3 file that is mono and of that rate is taken as it is, after it was decoded once.

    Raises:
        FileNotFoundError, BadAudio: see :func:`data_util.audio.read`.
    """
    audio = read(path, sample_rate, resample=True)
    info = soundfile.info(str(path))
    if kind == "mp3" and (info.format, info.channels, info.samplerate) == ("MP3", 1, sample_rate):
        return Path(path).read_bytes()
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, sample_rate, format=kind.upper(), subtype=FORMATS[kind])
    return buffer.getvalue()


def pack(listing, path, sample_rate=32000, kind="auto", workers=None):
    """Packs the clips of a listing into one file, in their order.

    Args:
        listing: a :class:`data_util.listings.Listing`.
        path: of the file; what is done so far is kept beside it, in ``<path>.partial/``.
        sample_rate: Hz.
        kind: see :func:`usable_format`.
        workers: threads; None: as many as there are cores.

    Returns:
        :class:`Report`

    Raises:
        ValueError: no clip can be packed, or a stopped run had other settings.
        RuntimeError: another process is packing the same file.
    """
    path, kind = Path(path), usable_format(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with PackStore(f"{path}.partial", {"sample_rate": sample_rate, "format": kind}) as store:
        for left in path.parent.glob(f".{path.name}.*.partial"):  # of a run that was killed while it wrote the end
            left.unlink()
        problems = _encode_all(listing, store, sample_rate, kind, workers or os.cpu_count())
        keep = np.array([file not in problems for file in listing.files], dtype=bool)
        if not keep.any():
            file, problem = next(iter(problems.items()))
            raise ValueError(f"{path}: none of {len(keep)} clips can be packed, the first is {file}: {problem}")
        _write(listing.select(keep), path, store)
        _list_problems(path, problems)
        store.remove()
    return Report(path, int(keep.sum()), list(problems.items()))


def _encode_all(listing, store, sample_rate, kind, workers):
    """Puts into the store what it does not have; returns {file: problem} of what cannot be had."""
    missing = listing.missing()
    problems = {file: "missing" for file, absent in zip(listing.files, missing) if absent}
    there = list(itertools.compress(listing.files, ~missing))
    todo = [file for file in there if not store.has(file, _stamp(file))]
    progress = tqdm(total=len(there), initial=len(there) - len(todo), unit="clip", disable=None)
    with ThreadPoolExecutor(workers) as pool, progress:
        for first in range(0, len(todo), BATCH):
            batch = todo[first : first + BATCH]
            done = []
            for file, (stamp, data, problem) in zip(batch, pool.map(lambda f: _try(f, sample_rate, kind), batch)):
                if problem:
                    problems[file] = problem
                else:
                    done.append((file, stamp, data))
            store.add(done)
            progress.update(len(batch))
    return problems


def _try(file, sample_rate, kind):
    """(stamp, bytes, "") of a clip, or (None, None, problem)."""
    try:
        stamp = _stamp(file)
        return stamp, encode(file, sample_rate, kind), ""
    except (BadAudio, OSError, soundfile.SoundFileError) as error:
        return None, None, str(error).removeprefix(f"{file}: ")


def _write(listing, path, store):
    """Writes the packed file from the store."""
    import h5py

    names = np.array([name.encode() for name in _names(listing.files)])
    targets = listing.targets if listing.mask is None else np.concatenate([listing.targets, listing.mask], axis=1)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["audio_name"] = names.astype(f"S{max(NAME_BYTES, names.dtype.itemsize)}")
        file["target"] = targets
        audio = file.create_dataset("mp3", (len(names),), dtype=h5py.vlen_dtype(np.uint8))
        for row, clip in enumerate(listing.files):
            audio[row] = np.frombuffer(store[clip], dtype=np.uint8)
        file.attrs["multi_label"] = listing.multi_label
        file.attrs["classes"] = json.dumps(listing.classes)


def _names(files):
    """File names; with as much of the folders as is needed where two are the same."""
    names = [os.path.basename(file) for file in files]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([os.path.abspath(file) for file in files])
    return [os.path.relpath(os.path.abspath(file), common) for file in files]


def _list_problems(path, problems):
    table = path.with_name(f"{path.name}.problems.tsv")
    if problems:
        write_table(table, problems.items(), ("file", "problem"))
    else:
        table.unlink(missing_ok=True)


def _stamp(file):
    """Size and time of modification: what tells a changed file from an unchanged one."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]


def main(argv=None):
    """The command line, see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(PARTS), help="data set")
    parser.add_argument("root", type=Path, help="folder with its tables and audio; for folder, also a table")
    parser.add_argument("out", type=Path, help="folder of the packed files")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="which (default: all that have a table)")
    parser.add_argument("--sample-rate", type=int, default=32000, help="Hz (default: %(default)s)")
    parser.add_argument("--format", choices=("auto", *FORMATS), default="auto", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads (default: as many as there are cores)")
    parser.add_argument("--overwrite", action="store_true", help="also make files that are there already")
    options = parser.parse_args(argv)
    try:
        _main(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _main(options):
    read_parts, file_name = PARTS[options.name]
    parts = read_parts(options.root.expanduser().resolve())
    if not parts:
        raise ValueError(f"no tables of {options.name} in {options.root}")
    for part in options.parts or parts:
        if part not in parts:
            raise ValueError(f"{options.name} has no part '{part}', expected one of {', '.join(parts)}")
        listing, path = parts[part], options.out.expanduser() / file_name.format(part)
        if path.exists() and not options.overwrite:
            print(f"{path} is there already (--overwrite makes it again)")
            continue
        report = pack(listing, path, options.sample_rate, options.format, options.workers)
        print(f"{report.path}: {report.clips} of {len(listing.files)} clips")
        for file, problem in report.problems[:10]:
            print(f"  left out: {file}: {problem}")
        if len(report.problems) > 10:
            print(f"  ... all {len(report.problems)} in {report.path.name}.problems.tsv")


if __name__ == "__main__":
    main()
