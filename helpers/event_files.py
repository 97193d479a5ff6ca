"""Sound events of recordings: a table on the console, CSV, TSV and JSON files, labels of Audacity."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.files import replacing
from helpers.result_files import require_suffix

TABLES = (".csv", ".tsv", ".json")
COLUMNS = ("file", "onset", "offset", "event_label", "threshold", "mean_probability", "peak_probability")


class Event(NamedTuple):
    """A sound event: seconds, class, and the mean and the highest probability of its frames above the threshold."""

    onset: float
    offset: float
    label: str
    threshold: float
    mean: float
    peak: float


@dataclass(frozen=True)
class Detected:
    """The events of one recording, ordered by threshold, class and time.

    Attributes:
        path: of the recording.
        seconds: its length.
        label: [events] numbers of the classes.
        onset, offset: [events] seconds.
        threshold: [events] above which their probabilities lie.
        mean, peak: [events] mean and maximum of their probabilities behind the median filter.
    """

    path: str
    seconds: float
    label: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    threshold: np.ndarray
    mean: np.ndarray
    peak: np.ndarray

    def events(self, classes: Sequence[str], threshold: float | None = None) -> Iterator[Event]:
        """The events by onset, those of one threshold or of all; at the same time in the order of the classes."""
        # The thresholds stay in their order.
        place = np.cumsum(np.diff(self.threshold, prepend=self.threshold[:1]) != 0)
        for index in np.lexsort((self.label, self.onset, place)):
            if threshold is None or self.threshold[index] == threshold:
                values = (float(column[index]) for column in (self.threshold, self.mean, self.peak))
                yield Event(float(self.onset[index]), float(self.offset[index]), classes[self.label[index]], *values)


def table(detected: Detected, classes: Sequence[str], thresholds: Sequence[float]) -> str:
    """What the console shows of a recording: its events by onset, for every threshold."""
    lines = []
    for threshold in thresholds:
        events = list(detected.events(classes, threshold))
        lines.append(f"threshold {threshold:g}: {len(events)} event{'s' * (len(events) != 1)}")
        if events:
            width = max(len(event.label) for event in events)
            lines.append(f"{'onset':>10} {'offset':>10}  {'event':<{width}}  {'mean':>5}  {'peak':>5}")
        lines += [
            f"{event.onset:10.2f} {event.offset:10.2f}  {event.label:<{width}}  {event.mean:.3f}  {event.peak:.3f}"
            for event in events
        ]
    return "\n".join(lines)


def write_events(path, results: Iterable[Detected], classes: Sequence[str], skipped: Mapping[str, str]) -> Path:
    """Writes the events of all recordings: a row each, or JSON.

    The JSON also names the recordings without events, with their lengths, and the files that could not be read.

    Args:
        path: the file; its suffix is one of ``TABLES``.
        results: of the recordings.
        classes: names of the classes.
        skipped: file -> why it could not be read.

    Raises:
        ValueError: unknown suffix.
    """
    require_suffix(path, TABLES)
    suffix = Path(path).suffix.lower()
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        if suffix == ".json":
            _write_json(file, results, classes, skipped)
        else:
            _write_rows(file, results, classes, "\t" if suffix == ".tsv" else ",")
    return Path(path)


def _write_rows(file, results, classes, delimiter):
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(COLUMNS)
    for detected in results:
        for event in detected.events(classes):
            times, probabilities = (event.onset, event.offset), (event.mean, event.peak)
            writer.writerow(
                [detected.path, *(f"{time:.6f}" for time in times), event.label, f"{event.threshold:g}"]
                + [f"{probability:.6f}" for probability in probabilities]
            )


def _write_json(file, results, classes, skipped):
    file.write('{"files": [')
    for number, detected in enumerate(results):
        events = [
            dict(zip(COLUMNS[1:], (*event[:4], round(event.mean, 6), round(event.peak, 6))))
            for event in detected.events(classes)
        ]
        entry = {"file": detected.path, "seconds": round(float(detected.seconds), 6), "events": events}
        file.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))
    missing = [{"file": path, "reason": reason} for path, reason in skipped.items()]
    file.write(f'],\n"skipped": {json.dumps(missing, ensure_ascii=False)}}}\n')


def write_labels(
    folder, name: str, detected: Detected, classes: Sequence[str], thresholds: Sequence[float]
) -> list[Path]:
    """Writes label tracks that Audacity imports: ``onset, offset, label`` in seconds, separated by tabs.

    Args:
        folder: of the files.
        name: of the recording; the file is ``<name>.txt``, or with several thresholds one for each,
            ``<name>-<threshold>.txt``.
        detected: the result.
        classes: names of the classes.
        thresholds: of all recordings.
    """
    written = []
    for threshold in thresholds:
        path = Path(folder) / (f"{name}.txt" if len(thresholds) == 1 else f"{name}-{threshold:g}.txt")
        events = detected.events(classes, threshold)
        rows = [f"{event.onset:.6f}\t{event.offset:.6f}\t{event.label}\n" for event in events]
        with replacing(path) as temporary:
            temporary.write_text("".join(rows), encoding="utf-8")
        written.append(path)
    return written
