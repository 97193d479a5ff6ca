"""What taggers say about recordings: tables on the console and files of several kinds."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.files import replacing
from helpers.result_files import Hdf5Arrays, NpzArrays, require_suffix

TOP, TOP_OF_WINDOW = 10, 5  # classes that are shown, as published
HEADER = "*" * 13 + " Acoustic Event Detected: " + "*" * 17
TABLES, ARRAYS = (".csv", ".json"), (".npz", ".h5", ".hdf", ".hdf5")


@dataclass(frozen=True)
class Tagged:
    """What was found in one recording.

    Attributes:
        path: of the recording.
        spans: [windows, 2] start and end of every window in seconds; the last end may lie behind the recording's.
        seconds: [windows] how much of each belongs to the recording.
        logits: [windows, classes] float32.
        embeddings: [windows, dim] float32.
    """

    path: str
    spans: np.ndarray
    seconds: np.ndarray
    logits: np.ndarray
    embeddings: np.ndarray

    def probabilities(self, multi_label: bool = True) -> np.ndarray:
        """[windows, classes]: each class by itself, or one of all classes."""
        if multi_label:
            return np.exp(-np.logaddexp(0, -self.logits))
        shifted = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def of_recording(self, values: np.ndarray) -> np.ndarray:
        """[windows, ...] -> [...]: the mean of all windows, each counted by its seconds."""
        return np.average(values, axis=0, weights=self.seconds).astype(values.dtype)


def best(probabilities: np.ndarray, classes: Sequence[str], count: int = TOP) -> list[tuple[str, float]]:
    """The most probable classes, the best first."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(classes[index], float(probabilities[index])) for index in order]


def table(tagged: Tagged, classes: Sequence[str], multi_label: bool = True) -> str:
    """What the console shows of a recording: its ten best classes as published, or the five best of every window."""
    probabilities = tagged.probabilities(multi_label)
    if len(tagged.spans) == 1:
        lines = [f"{label}: {value:.3f}" for label, value in best(probabilities[0], classes)]
        return "\n".join([HEADER, *lines, "*" * len(HEADER)])
    return "\n".join(
        f"{start:8.1f} to {end:8.1f} s: "
        + ", ".join(f"{label} {value:.3f}" for label, value in best(row, classes, TOP_OF_WINDOW))
        for (start, end), row in zip(tagged.spans, probabilities)
    )


# -- files ------------------------------------------------------------------------------------------------------------
def write_tags(
    path, results: Iterable[Tagged], classes: Sequence[str], skipped: Mapping[str, str], multi_label: bool = True
) -> Path:
    """Writes the ten best classes of every window as CSV (``file, start, end, label, probability``) or JSON.

    The JSON also has the ten best classes of every recording and the files that could not be read. Suffixes of
    array files are those of :func:`write_arrays`, which gets all probabilities.

    Args:
        path: the file; its suffix says what it is.
        results: of the recordings.
        classes: names of the classes.
        skipped: file -> why it could not be read.
        multi_label: see :meth:`Tagged.probabilities`.

    Raises:
        ValueError: unknown suffix.
    """
    require_suffix(path, TABLES + ARRAYS)
    if Path(path).suffix.lower() in ARRAYS:
        return write_arrays(path, results, "probabilities", lambda tagged: tagged.probabilities(multi_label), classes)
    write = _write_csv if Path(path).suffix.lower() == ".csv" else _write_json
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write(file, results, classes, skipped, multi_label)
    return Path(path)


def _write_csv(file, results, classes, skipped, multi_label):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", "start", "end", "label", "probability"])
    for tagged in results:
        for (start, end), row in zip(tagged.spans, tagged.probabilities(multi_label)):
            for label, value in best(row, classes):
                writer.writerow([tagged.path, f"{start:.3f}", f"{end:.3f}", label, f"{value:.6f}"])


def _write_json(file, results, classes, skipped, multi_label):
    def tags(row):
        return [{"label": label, "probability": round(value, 6)} for label, value in best(row, classes)]

    file.write('{"files": [')
    for number, tagged in enumerate(results):
        rows = tagged.probabilities(multi_label)
        windows = [
            {"start": round(float(start), 3), "end": round(float(end), 3), "tags": tags(row)}
            for (start, end), row in zip(tagged.spans, rows)
        ]
        entry = {"file": tagged.path, "tags": tags(tagged.of_recording(rows)), "windows": windows}
        file.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))
    missing = [{"file": path, "reason": reason} for path, reason in skipped.items()]
    file.write(f'],\n"skipped": {json.dumps(missing, ensure_ascii=False)}}}\n')


def write_arrays(
    path, results: Iterable[Tagged], name: str, values: Callable[[Tagged], np.ndarray], classes: Sequence[str] = ()
) -> Path:
    """Writes arrays of all windows of all recordings, as HDF5 or npz.

    Entries: ``filenames`` [files]; per window ``file_index`` (its number among them), ``start`` and ``end`` in seconds,
    and ``name`` [windows, ...]; per file ``<name>_of_file`` [files, ...], the mean of its windows weighted by how
    much of them belongs to the recording; ``classes`` where given. An HDF5 file is written recording by recording.

    Args:
        path: the file.
        results: of the recordings.
        name: of the values.
        values: gives them, [windows, ...] float32.
        classes: names of the classes.

    Raises:
        ValueError: unknown suffix.
    """
    require_suffix(path, ARRAYS)
    collect = NpzArrays if Path(path).suffix.lower() == ".npz" else Hdf5Arrays
    with replacing(path) as temporary, collect(temporary) as file:
        for number, tagged in enumerate(results):
            rows = np.asarray(values(tagged), dtype=np.float32)
            file.append("filenames", [tagged.path])
            file.append("file_index", np.full(len(rows), number, dtype=np.int64))
            file.append("start", tagged.spans[:, 0].astype(np.float64))
            file.append("end", tagged.spans[:, 1].astype(np.float64))
            file.append(name, rows)
            file.append(f"{name}_of_file", tagged.of_recording(rows)[None])
        if len(classes):
            file.append("classes", list(classes))
    return Path(path)
