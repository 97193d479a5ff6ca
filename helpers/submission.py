"""System output of DCASE 2024 task 4: a table of frame scores for every clip, and a validator.

A system is a folder ``<author>_<affiliation>_task4_<index>``. For every run k (the challenge wants three trainings,
initialised differently) it holds the post-processed scores in ``<system>_run<k>.output`` and those of the model itself
in ``<system>_run<k>_unprocessed.output``, each with one ``<clip>.tsv`` per clip of the evaluation set: ``onset`` and
``offset`` in seconds and a column for each of the 27 classes, as sed_scores_eval reads it. The description of the
system, ``<system>.meta.yaml``, is written by hand [https://dcase.community/challenge2024/submission].
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.scores import ScoreTable

SYSTEM = re.compile(r"[^_/\\]+_[^_/\\]+_task4_\d+")
TIME = "%.6f"  # seconds
SCORE = "%.9g"  # gives float32 back exactly
EVENT_COLUMNS = ("filename", "onset", "offset", "event_label", "confidence")


def output_folders(system, run: int = 1) -> tuple[Path, Path]:
    """Folders of the post-processed and of the unprocessed scores of a run.

    Args:
        system: folder of the system.
        run: counted from 1.

    Raises:
        ValueError: the folder is not named as the challenge demands.
    """
    system = Path(system)
    if not SYSTEM.fullmatch(system.name):
        raise ValueError(f"system '{system.name}' is not named <author>_<affiliation>_task4_<index>")
    return system / f"{system.name}_run{run}.output", system / f"{system.name}_run{run}_unprocessed.output"


def write_submission(
    folder,
    name: str,
    raw: ScoreTable | Mapping,
    processed: ScoreTable | Mapping,
    run: int = 1,
    durations: Mapping[str, float] | None = None,
) -> Path:
    """Writes the scores of one run of a system; what the run had written before is replaced, other runs stay.

    Both folders appear under their names only when both are complete.

    Args:
        folder: where the folder of the system is or shall be.
        name: of the system, ``<author>_<affiliation>_task4_<index>``.
        raw: scores of the model, as a table or as clip id -> score data frame.
        processed: scores after post-processing, of the same clips.
        run: counted from 1.
        durations: seconds of every clip; scores beyond them (a short clip was padded) are cut off. None keeps all.

    Returns:
        the folder of the system.

    Raises:
        ValueError: the name, clips or columns of both that differ, a clip without duration or that is no file name.
    """
    system = Path(folder) / name
    outputs = output_folders(system, run)
    _check_clips(_clips(raw), _clips(processed))
    with _replacing_folder(outputs[0]) as first, _replacing_folder(outputs[1]) as second:
        columns = _write_scores(first, processed, durations, None, f"{name} run {run}")
        _write_scores(second, raw, durations, columns, f"{name} run {run}, unprocessed")
    return system


def _write_scores(folder, scores, durations, columns, title):
    """A file per clip, all with the same columns, which are returned."""
    from tqdm import tqdm

    for clip, names, values in tqdm(_tables(scores), title, len(_clips(scores)), disable=None):
        columns = columns or names
        if names != columns:
            raise ValueError(f"clip '{clip}' has the columns {', '.join(names)}, others have {', '.join(columns)}")
        values[:, :2] = np.round(values[:, :2], 6)
        if durations is not None:
            values = _cut(values, round(_duration(durations, clip), 6))
        line = "\t".join([TIME, TIME, *[SCORE] * (len(names) - 2)]) + "\n"
        text = "\t".join(names) + "\n" + "".join(line % tuple(row) for row in values.tolist())
        (folder / f"{clip}.tsv").write_bytes(text.encode())
    return columns


def _tables(scores):
    """Clip, names of the columns and [frames, columns] values of every clip."""
    if isinstance(scores, ScoreTable):
        times = np.stack([scores.timestamps[:-1], scores.timestamps[1:]], axis=1).astype(np.float64)
        names = ["onset", "offset", *scores.labels]
        for clip, values in zip(scores.clips, scores.scores):
            yield clip, names, np.concatenate([times, values], axis=1)
    else:
        for clip, frame in scores.items():
            yield clip, list(frame.columns), np.array(frame, dtype=np.float64)


def _clips(scores) -> tuple[str, ...]:
    return scores.clips if isinstance(scores, ScoreTable) else tuple(scores)


def _check_clips(raw, processed):
    for clip, count in (Counter(raw) | Counter(processed)).items():
        if count > 1:
            raise ValueError(f"clip '{clip}' is there {count} times")
        if not clip or "/" in clip or "\\" in clip:
            raise ValueError(f"clip '{clip}' cannot be the name of a file")
    for there, absent, kind in ((raw, processed, "processed"), (processed, raw, "unprocessed")):
        lost = set(there) - set(absent)
        if lost:
            raise ValueError(f"clip '{min(lost)}' has no {kind} scores ({len(lost)} of {len(there)} clips have none)")


def _duration(durations, clip):
    if clip not in durations:
        raise ValueError(f"no duration of clip '{clip}' among the {len(durations)} given")
    return float(durations[clip])


def _cut(values, duration):
    """Rows up to the end of the clip, the last of them shortened."""
    values = values[values[:, 0] < duration]
    values[:, 1] = np.minimum(values[:, 1], duration)
    return values


@contextmanager
def _replacing_folder(path):
    """An empty folder beside ``path``, which takes its place when the block ends well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        # A folder that is not empty cannot be renamed over, so the old one steps aside for a moment.
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def validate_submission(
    folder,
    clips: Iterable[str],
    durations: Mapping[str, float],
    labels: Sequence[str],
    runs: int = 1,
    tolerance: float = 0.064,
) -> None:
    """Checks the score files of a system, post-processed and unprocessed.

    Args:
        folder: of the system.
        clips: ids of the clips of the evaluation set.
        durations: seconds of every clip.
        labels: classes, in the order of the columns.
        runs: how many there must be; the challenge wants three.
        tolerance: seconds by which the last frame may miss the end of the clip: one frame.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    from tqdm import tqdm

    clips = list(clips)
    for run in range(1, runs + 1):
        for output in output_folders(folder, run):
            _check_files(output, clips)
            for clip in tqdm(clips, f"check {output.name}", disable=None):
                _check_table(output / f"{clip}.tsv", _duration(durations, clip), labels, tolerance)


def _check_files(folder, clips):
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    expected = {f"{clip}.tsv" for clip in clips}
    found = {path.name for path in folder.iterdir()}
    lost, extra = expected - found, found - expected
    if lost:
        raise ValueError(f"{folder / min(lost)}: missing ({len(lost)} of {len(expected)} clips have no file)")
    if extra:
        raise ValueError(f"{folder / min(extra)}: belongs to no clip of the set ({len(extra)} of {len(found)} files)")


def _check_table(path, duration, labels, tolerance):
    columns, values = _read_scores(path)
    _check_columns(path, columns, labels)
    (onsets, offsets), scores = values[:, :2].T, values[:, 2:]
    if not np.isfinite(values[:, :2]).all():
        raise ValueError(f"{path}: an onset or offset is no finite number")
    if onsets[0] != 0:
        raise ValueError(f"{path}: the first frame starts at {onsets[0]:g} s, expected 0")
    gaps = np.flatnonzero(onsets[1:] != offsets[:-1])
    if gaps.size:
        frame = gaps[0] + 1
        raise ValueError(f"{path}: frame {frame} starts at {onsets[frame]:g} s, the one before ends at "
                         f"{offsets[frame - 1]:g} s")  # fmt: skip
    empty = np.flatnonzero(offsets <= onsets)
    if empty.size:
        frame = empty[0]
        raise ValueError(f"{path}: frame {frame} ends at {offsets[frame]:g} s, not after its start")
    if abs(offsets[-1] - duration) > tolerance + 1e-6:
        raise ValueError(f"{path}: the last frame ends at {offsets[-1]:g} s, the clip at {duration:g} s")
    wrong = np.argwhere(~((scores >= 0) & (scores <= 1)))
    if wrong.size:
        frame, label = wrong[0]
        raise ValueError(f"{path}: score {scores[frame, label]:g} of '{labels[label]}' in frame {frame} is not in 0..1")


def _check_columns(path, columns, labels):
    if columns[:2] != ["onset", "offset"]:
        raise ValueError(f"{path}: the first columns are {', '.join(columns[:2])}, expected onset, offset")
    classes = columns[2:]
    for kind, names in (
        ("twice the", [name for i, name in enumerate(classes) if name in classes[:i]]),
        ("no", [name for name in labels if name not in classes]),
        ("an unknown", [name for name in classes if name not in labels]),
    ):
        if names:
            raise ValueError(f"{path}: {kind} column '{names[0]}'")
    if classes != list(labels):
        raise ValueError(f"{path}: the classes are in another order, starting with '{classes[0]}'")


def _read_scores(path):
    """Names of the columns and [frames, columns] values of a score file."""
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        columns = head.split("\t")
        values = np.loadtxt(lines, delimiter="\t", comments=None, ndmin=2) if any(lines) else np.zeros((0, 0))
    except ValueError as error:
        raise ValueError(f"{path}: unreadable as tsv: {str(error).splitlines()[0]}") from None
    if not values.size:
        raise ValueError(f"{path}: no frames")
    if values.shape[1] != len(columns):
        raise ValueError(f"{path}: rows of {values.shape[1]} values below {len(columns)} columns")
    return columns, values


def write_events(path, boxes: Mapping[str, Iterable[tuple[float, float, str, float]]]) -> Path:
    """Writes boxes as a list of events, with commas for a ``.csv`` and tabs otherwise.

    Columns ``filename, onset, offset, event_label, confidence``, times in seconds to the millisecond, sorted by clip
    and onset. A clip without boxes has a row with its name only.

    Args:
        path: file to write.
        boxes: clip id -> (onset, offset, label, confidence).

    Returns:
        the path.
    """
    import csv

    path = Path(path)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerow(EVENT_COLUMNS)
        for clip in sorted(boxes):
            rows = [(f"{on:.3f}", f"{off:.3f}", label, f"{score:.6f}") for on, off, label, score in sorted(boxes[clip])]
            writer.writerows((f"{clip}.wav", *row) for row in rows or [("", "", "", "")])
    return path
