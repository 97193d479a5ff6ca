"""Soundscapes: isolated sounds mixed over a background, with exact strong labels.

    python -m data_util.soundscapes SOURCES OUT --number 1000 --seed 0

mixes the recordings below SOURCES (layouts: :mod:`data_util.recordings`) into ``OUT/audio/*.wav`` (16-bit PCM),
``OUT/soundscapes.tsv`` (filename, onset, offset, event_label in seconds, the format of DESED) and
``OUT/durations.tsv``; ``OUT/labels/*.json`` has what each soundscape was made from. Soundscape i depends on the
seed and on i alone, not on the number of soundscapes or workers; an interrupted run continues where it stopped.

The idea and the terms are those of Scaper (Salamon et al., "Scaper: a library for soundscape synthesis and
augmentation", WASPAA 2017).
"""

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import scipy.fft
from tqdm import tqdm

from data_util.events import EVENT_COLUMNS, WEAK_COLUMNS
from data_util.output import claim, write_audio, write_json, write_table
from data_util.recordings import find_recordings
from helpers.scores import merge_events

PEAK = 0.99  # louder mixtures are scaled down to it
PLACES = 30  # onsets tried for an event before it is shortened


class Sources(Protocol):
    """Where soundscapes get their sounds from. Both methods also name the origin of what they return."""

    labels: tuple[str, ...]

    def event(self, label: str, seconds: float, sample_rate: int, rng) -> tuple[np.ndarray, str]:
        """An isolated sound of a class, [samples] float32, of at most `seconds`."""

    def background(self, seconds: float, sample_rate: int, rng) -> tuple[np.ndarray, str]:
        """A background, [samples] float32, of exactly `seconds`."""

    def describe(self) -> dict:
        """All that the sounds depend on, as plain values."""


@dataclass(frozen=True)
class Recipe:
    """What a soundscape is drawn from; ranges are uniform and include both ends.

    Attributes:
        duration: length in seconds.
        sample_rate: in Hz.
        events: range of the number of events.
        seconds: range of an event's length.
        seconds_of: the same for single classes.
        snr: range of an event's level over the background's, both as root mean square, in dB.
        background_level: range of the background's level in dB of full scale.
        max_overlap: how many events may sound at the same time.
        filter_p: probability that an event passes a random low-pass, high-pass or tilt.
        bandwidth: everything above this many Hz is removed from every source; None keeps it.
        fade: seconds over which an event fades in and out.
    """

    duration: float = 10.0
    sample_rate: int = 16000
    events: tuple[int, int] = (1, 4)
    seconds: tuple[float, float] = (0.5, 5.0)
    seconds_of: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    snr: tuple[float, float] = (6.0, 20.0)
    background_level: tuple[float, float] = (-45.0, -35.0)
    max_overlap: int = 2
    filter_p: float = 0.5
    bandwidth: float | None = None
    fade: float = 0.01

    def __post_init__(self):
        ranges = {name: getattr(self, name) for name in ("events", "seconds", "snr", "background_level")}
        for name, (low, high) in {**ranges, **self.seconds_of}.items():
            if low > high:
                raise ValueError(f"{name}: the range {low} to {high} is empty")
        for name in ("duration", "sample_rate", "max_overlap"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.events[0] < 0 or self.seconds[0] <= 0:
            raise ValueError("events and seconds: expected no negative numbers and no events without length")


class Filter(NamedTuple):
    """A random change of colour: a second-order slope at `value` Hz, or a tilt of `value` dB per octave."""

    kind: str
    value: float

    def gain(self, frequency):
        """Amplitude factor at each frequency in Hz."""
        frequency = np.maximum(frequency, 1.0)
        if self.kind == "tilt":  # around 1 kHz, without end: limited to what speech and music span
            return 10 ** (self.value / 20 * np.log2(np.clip(frequency, 60, 16000) / 1000))
        ratio = frequency / self.value if self.kind == "lowpass" else self.value / frequency
        return 1 / np.sqrt(1 + ratio**4)


@dataclass(frozen=True)
class Event:
    """One sound in a soundscape: where it is, in seconds, and how it was made."""

    label: str
    onset: float
    offset: float
    snr: float
    origin: str
    filter: Filter | None = None


def draw_filter(rng: np.random.Generator) -> Filter:
    """A low-pass (1.5 to 6 kHz), a high-pass (80 to 500 Hz) or a tilt (up to 3 dB per octave)."""
    kind = str(rng.choice(["lowpass", "highpass", "tilt"]))
    if kind == "tilt":
        return Filter(kind, float(rng.uniform(-3, 3)))
    low, high = (1500, 6000) if kind == "lowpass" else (80, 500)
    return Filter(kind, float(low * (high / low) ** rng.random()))


def colour(audio: np.ndarray, sample_rate: int, change: Filter | None, bandwidth: float | None) -> np.ndarray:
    """Applies a filter and a band limit without delay. Same length; the ring at either end is cut off."""
    if change is None and bandwidth is None:
        return audio
    length = scipy.fft.next_fast_len(len(audio) + round(0.05 * sample_rate), real=True)
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    gain = np.ones_like(frequency) if change is None else change.gain(frequency)
    if bandwidth is not None:  # a raised cosine over the last twelfth: short ring, nothing above
        gain = gain * (0.5 + 0.5 * np.cos(np.pi * np.clip(12 * frequency / bandwidth - 11, 0, 1)))
    spectrum = scipy.fft.rfft(audio, length) * gain.astype(audio.dtype)
    return scipy.fft.irfft(spectrum, length)[: len(audio)]


def mix_soundscape(
    sources: Sources, recipe: Recipe, rng: np.random.Generator, labels: Sequence[str] | None = None
) -> tuple[np.ndarray, list[Event]]:
    """One soundscape.

    Args:
        sources: the sounds.
        recipe: what to draw from.
        rng: decides everything.
        labels: classes of the events in drawing order; None draws their number and their classes.

    Returns:
        [samples] float32 in [-1, 1], and the events by onset. An event is zero outside its [onset, offset], both
        whole milliseconds. One that finds no place under `max_overlap` is shortened to a half or a quarter, and
        left out when that does not help.
    """
    rate = recipe.sample_rate
    floor = rng.uniform(*recipe.background_level)
    audio, _ = sources.background(recipe.duration, rate, rng)
    audio = _to_level(colour(np.asarray(audio), rate, None, recipe.bandwidth), floor)
    if labels is None:
        labels = rng.choice(sources.labels, rng.integers(recipe.events[0], recipe.events[1] + 1))
    events = []
    for label in map(str, labels):
        low, high = recipe.seconds_of.get(label, recipe.seconds)
        sound, origin = sources.event(label, min(rng.uniform(low, high), recipe.duration), rate, rng)
        change = draw_filter(rng) if rng.random() < recipe.filter_p else None
        snr = rng.uniform(*recipe.snr)
        place = _find_place(events, len(sound) / rate, recipe, rng)
        if place is None:
            continue
        onset, offset = place
        # Labels are whole milliseconds, so the sound may lose a sample at either end to stay inside them.
        start, stop = int(np.ceil(onset * rate - 1e-6)), int(np.floor(offset * rate + 1e-6))
        sound = _fade(colour(np.asarray(sound)[: stop - start], rate, change, recipe.bandwidth), recipe.fade * rate)
        audio[start : start + len(sound)] += _to_level(sound, floor + snr)
        events.append(Event(label, onset, offset, float(snr), origin, change))
    peak = np.abs(audio).max()
    return audio * min(1.0, PEAK / max(peak, 1e-12)), sorted(events, key=lambda event: (event.onset, event.label))


def _to_level(audio, decibel):
    """Scaled to a root mean square in dB of full scale; silence stays silence."""
    power = np.mean(np.square(audio, dtype=np.float64))
    return audio * np.float32(10 ** (decibel / 20) / np.sqrt(power)) if power > 0 else np.array(audio)


def _fade(audio, samples):
    samples = min(round(samples), len(audio) // 2)
    if samples == 0:
        return audio
    ramp = np.sin(np.linspace(0, np.pi / 2, samples, endpoint=False, dtype=audio.dtype)) ** 2
    audio = audio.copy()
    audio[:samples] *= ramp
    audio[-samples:] *= ramp[::-1]
    return audio


def _find_place(events, seconds, recipe, rng):
    """Onset and offset in whole milliseconds at which not too many events overlap, or None."""
    for length in (int(seconds * share * 1000 + 1e-6) / 1000 for share in (1, 0.5, 0.25)):
        latest = int((recipe.duration - length) * 1000 + 1e-6)
        for onset in rng.integers(0, latest, PLACES, endpoint=True) / 1000:
            if length > 0 and _busiest(events, onset, onset + length) < recipe.max_overlap:
                return float(onset), round(float(onset) + length, 3)
    return None


def _busiest(events, onset, offset):
    """The largest number of events that sound at once in a span."""
    rivals = [event for event in events if event.onset < offset and event.offset > onset]
    starts = [max(onset, event.onset) for event in rivals]  # it is largest where one of them starts
    return max((sum(event.onset <= start < event.offset for event in rivals) for start in starts), default=0)


def merged(events: Iterable[Event]) -> list[tuple[float, float, str]]:
    """(onset, offset, label) by onset; events of one class that overlap or touch are one."""
    return sorted(merge_events([(event.onset, event.offset, event.label) for event in events]))


# Sets of soundscapes.


def write_events(path: Path, events: Mapping[str, Iterable[Event]]):
    """Strong labels in the format of DESED; a file without events has one row with its name alone."""
    rows = []
    for name, listed in events.items():
        found = [(name, f"{onset:.3f}", f"{offset:.3f}", label) for onset, offset, label in merged(listed)]
        rows += found or [(name, None, None, None)]
    write_table(path, rows, EVENT_COLUMNS)


def write_weak(path: Path, events: Mapping[str, Iterable[Event]]):
    """Clip labels in the format of DESED: the classes of each file, separated by commas."""
    labels = {name: sorted({event.label for event in listed}) for name, listed in events.items()}
    write_table(path, ((name, ",".join(found)) for name, found in labels.items()), WEAK_COLUMNS)


def write_durations(path: Path, durations: Mapping[str, float]):
    """Length of each file in seconds."""
    write_table(path, durations.items(), ("filename", "duration"))


def generator(*entropy: int) -> np.random.Generator:
    """The random numbers that belong to a tuple of integers, such as (seed, number of the soundscape).

    Tuples that differ only in zeros at their end are the same.
    """
    return np.random.default_rng(np.random.SeedSequence(entropy))


@dataclass(frozen=True)
class Job:
    """One soundscape to make: its files, what it is drawn from and the entropy of its random numbers."""

    audio: Path
    notes: Path
    recipe: Recipe
    seed: tuple[int, ...]
    labels: tuple[str, ...] | None = None


def make(sources: Sources, job: Job) -> list[Event]:
    """Mixes and writes one soundscape, or reads the notes of one that is complete."""
    if job.audio.is_file() and job.notes.is_file():
        return read_notes(job.notes)
    audio, events = mix_soundscape(sources, job.recipe, generator(*job.seed), job.labels)
    write_audio(job.audio, audio, job.recipe.sample_rate)
    write_json(
        job.notes, [asdict(event) for event in events]
    )  # after the audio: notes mean that the soundscape is complete
    return events


def read_notes(path: Path) -> list[Event]:
    """Events as :func:`make` noted them."""
    entries = json.loads(path.read_text())
    return [Event(**{**entry, "filter": entry["filter"] and Filter(*entry["filter"])}) for entry in entries]


def in_parallel(function: Callable, shared, items: Sequence, workers: int, title: str) -> list:
    """`[function(shared, item) for item in items]` in processes, with a progress bar on a terminal."""
    if workers <= 1 or len(items) <= 1:
        return [function(shared, item) for item in tqdm(items, title, disable=None)]
    # Forked workers inherit what is imported; started anew, each would import the whole calling program.
    context = get_context("fork" if sys.platform == "linux" else None)
    with ProcessPoolExecutor(min(workers, len(items)), context, _remember, (shared,)) as pool:
        futures = {pool.submit(_call, function, item): i for i, item in enumerate(items)}
        results = [None] * len(items)
        try:
            for future in tqdm(as_completed(futures), title, len(items), disable=None):
                results[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


_shared = None  # in a worker process: what all its calls share, sent once


def _remember(shared):
    global _shared
    _shared = shared
    # A killed program cannot stop its workers, and they would wait for work forever.
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _call(function, item):
    return function(_shared, item)


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_soundscapes(
    out, number: int, sources: Sources, recipe: Recipe, seed: int = 0, workers: int | None = None, weak: bool = False
) -> dict[str, list[Event]]:
    """Makes a strongly labelled set: ``audio/``, ``soundscapes.tsv``, ``durations.tsv``, with `weak` ``weak.tsv``.

    Soundscapes that are complete already are kept, so an interrupted call continues and a larger `number` extends.

    Args:
        out: folder; made when it is missing.
        number: how many soundscapes.
        sources: the sounds.
        recipe: what to draw from.
        seed: soundscape i depends on (seed, i) alone.
        workers: processes; None means one for each processor.
        weak: also write the clip labels.

    Returns:
        file name -> events.

    Raises:
        ValueError: `out` holds soundscapes of other settings, or a recording cannot be read.
    """
    out = Path(out)
    claim(out / "settings.json", {"seed": seed, "recipe": asdict(recipe), "sources": sources.describe()})
    names = [f"soundscape_{i:06d}" for i in range(number)]
    jobs = [
        Job(out / "audio" / f"{name}.wav", out / "labels" / f"{name}.json", recipe, (seed, i))
        for i, name in enumerate(names)
    ]
    made = in_parallel(make, sources, jobs, workers or cpus(), "soundscapes")
    events = {job.audio.name: listed for job, listed in zip(jobs, made)}
    write_events(out / "soundscapes.tsv", events)
    write_durations(out / "durations.tsv", dict.fromkeys(events, recipe.duration))
    if weak:
        write_weak(out / "weak.tsv", events)
    return events


# Command line.


def _parser():
    default = {entry.name: entry.default for entry in fields(Recipe)}
    parser = argparse.ArgumentParser(
        prog="python -m data_util.soundscapes",
        description="Mixes isolated recordings into strongly labelled soundscapes.",
    )

    def add(option, text, **settings):
        settings.setdefault("default", default.get(option.strip("-").replace("-", "_")))
        shown = "" if settings["default"] is None or settings["default"] is False else " [%(default)s]"
        parser.add_argument(option, help=text + shown, **settings)

    parser.add_argument("sources", help="folder with <class>/*.wav (or events/<class>/*.wav) and backgrounds/")
    parser.add_argument("out", help="folder for audio/, soundscapes.tsv and durations.tsv")
    add("--number", "how many soundscapes", type=int, default=100)
    add("--seed", "soundscape i depends on the seed and on i alone", type=int, default=0)
    add("--labels", "classes to use; every class folder if not given", nargs="+", metavar="CLASS")
    add("--backgrounds", "folder of the backgrounds, when it lies elsewhere")
    add("--workers", "processes; one for each processor if not given", type=int)
    add("--weak", "also write weak.tsv, the classes of each soundscape", action="store_true", default=False)
    add("--duration", "length of a soundscape in seconds", type=float)
    add("--sample-rate", "in Hz", type=int)
    for option, kind, text in (
        ("--events", int, "range of the number of events"),
        ("--seconds", float, "range of an event's length in seconds"),
        ("--snr", float, "range of an event's level over the background in dB"),
        ("--background-level", float, "range of the background's level in dB of full scale"),
    ):
        add(option, text, type=kind, nargs=2, metavar=("LOW", "HIGH"))
    add("--max-overlap", "how many events may sound at once", type=int)
    add("--filter-p", "probability that an event passes a random low-pass, high-pass or tilt", type=float)
    add("--bandwidth", "remove all above so many Hz", type=float)
    add("--fade", "seconds over which an event fades in and out", type=float)
    add("--loop", "classes whose short recordings may be repeated; all if not given", nargs="*", metavar="CLASS")
    add("--trim-db", "cut silence so far below the loudest moment off both ends", type=float, default=50.0)
    return parser


def main(arguments: Sequence[str] | None = None):
    """The command; bad input ends it with one line."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    entries = {entry.name: given[entry.name] for entry in fields(Recipe) if entry.name in given}
    try:
        recipe = Recipe(**{name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()})
        sources = find_recordings(
            given["sources"], given["backgrounds"], given["labels"], loop=given["loop"], trim_db=given["trim_db"]
        )
        write_soundscapes(
            given["out"], given["number"], sources, recipe, given["seed"], given["workers"], given["weak"]
        )
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
