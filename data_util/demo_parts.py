"""The parts of the demo data set: audio, tables, soft labels, stored predictions, impulse responses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_util.classes import CLASSES, DESED_CLASSES, DESED_TO_MAESTRO, MAESTRO_TO_DESED
from data_util.demo_layout import (
    CLIP_SECONDS,
    DESED_RECIPE,
    EVENTS_PER_CLIP,
    EXCLUDED,
    EXTERNAL_EVAL,
    MAESTRO_PARTS,
    MAESTRO_RECIPE,
    PARTS,
    PATHS,
    SAMPLE_RATE,
    SCENES,
    Part,
)
from data_util.events import SOFT_COLUMNS, Events, FrameGrid, encode_strong, make_events
from data_util.output import write_audio, write_json, write_table
from data_util.soundscapes import (
    Event,
    Job,
    generator,
    in_parallel,
    make,
    merged,
    mix_soundscape,
    read_notes,
    write_durations,
    write_events,
    write_weak,
)
from helpers.files import replacing

NOTES = ".notes"  # folder of what is known of the clips made so far
SPLIT_STREAM, SOFT_STREAM, PSEUDO_STREAM, IMPULSE_STREAM = range(101, 105)  # entropy beside the numbers of the parts


def part_number(name):
    """A part's number among all parts, from one on."""
    return [*PARTS, *MAESTRO_PARTS].index(name) + 1


def deal(labels: Sequence[str], counts: Sequence[int], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Hands of different classes, dealt from shuffled decks: all classes occur equally often, up to one or two.

    Args:
        labels: the deck.
        counts: size of each hand, at most the deck's.
        rng: shuffles.
    """
    queue: list[str] = []
    hands = []
    for count in counts:
        hand: list[str] = []
        while len(hand) < count:
            fresh = next((label for label in queue if label not in hand), None)
            if fresh is None:
                queue += [str(label) for label in rng.permutation(labels)]
            else:
                queue.remove(fresh)
                hand.append(fresh)
        hands.append(tuple(hand))
    return hands


def spread(bounds, number, rng):
    """`number` integers, each value between the bounds (inclusive) about equally often, in random order."""
    return rng.permutation(np.resize(np.arange(bounds[0], bounds[1] + 1), number))


# The parts of DESED.


def make_desed(folder, sources, seed, sizes, workers):
    """Writes audio and tables of all parts of DESED.

    Returns:
        part -> file name -> events.
    """
    paths = {name: folder / path for name, path in PATHS.items()}
    jobs = [
        (part.test, job)
        for name, part in PARTS.items()
        for job in desed_jobs(part, paths[part.folder], folder / NOTES / name, (seed, part_number(name)), sizes[name])
    ]
    made = in_parallel(make_clip, sources, jobs, workers, "demo data: DESED")
    events: dict[str, dict[str, list[Event]]] = {name: {} for name in PARTS}
    for (_, job), listed in zip(jobs, made):
        events[job.notes.parent.name][job.audio.name] = listed
    write_desed_tables(paths, events)
    return {name: {file: _rows(listed) for file, listed in files.items()} for name, files in events.items()}


def make_clip(sources, task):
    test, job = task
    return make(sources[test], job)


def desed_jobs(part: Part, audio: Path, notes: Path, seed, number) -> list[Job]:
    """What to mix for one part. Clip i has the random numbers (*seed, i + 1), the plan of the part those of `seed`."""
    rng = generator(*seed)
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    names = [part.names.format(number=i, id="".join(rng.choice(letters, 11))) for i in range(number)]
    empty = min(part.empty, number)
    hands = deal(DESED_CLASSES, spread(EVENTS_PER_CLIP, number - empty, rng), rng) + [()] * empty
    return [
        Job(audio / name, notes / f"{name}.json", DESED_RECIPE, (*seed, i + 1), hand)
        for i, (name, hand) in enumerate(zip(names, hands))
    ]


def _rows(events):
    """(onset, offset, label, confidence) of certain events."""
    return [(*event, 1.0) for event in merged(events)]


def write_desed_tables(paths, events):
    """Labels, durations and lists of excluded files, from part -> file name -> events."""
    evaluated = {"synth_val": "synth_val", "devtest": "test", "eval_public": "eval_public"}
    for name, table in {"synth_train": "synth", "strong_train": "strong", **evaluated}.items():
        write_events(paths[f"{table}_tsv"], events[name])
    also = {"eval_private": "eval_private", "external_strong_train": "external_strong"}
    for name, table in {**evaluated, **also}.items():
        write_durations(paths[f"{table}_dur"], dict.fromkeys(events[name], float(CLIP_SECONDS)))
    external = list(events["external_strong_train"].items())
    pivot = len(external) - max(1, len(external) // EXTERNAL_EVAL)
    write_events(paths["external_strong_train_tsv"], dict(external[:pivot]))
    write_events(paths["external_strong_val_tsv"], dict(external[pivot:]))
    write_weak(paths["weak_tsv"], events["weak_train"])
    for name, table in (("strong_train", "strong"), ("weak_train", "weak"), ("unlabeled_train", "unlabeled")):
        excluded = [(file,) for file in list(events[name])[: min(EXCLUDED, len(events[name]) // 4)]]
        write_table(paths[f"{table}_tsv_exclude"], excluded, ("filename",))


# MAESTRO Real.


def make_maestro(folder, sources, seed, sizes, workers):
    """Writes audio, soft labels and durations of MAESTRO: clips of 10 s cut from longer recordings every second.

    Returns:
        part -> file name -> (onset, offset, label, confidence) rows.
    """
    paths = {name: folder / path for name, path in PATHS.items()}
    jobs = [
        (test, job)
        for name, test in MAESTRO_PARTS.items()
        for job in maestro_jobs(name, paths, folder / NOTES / name, seed, sizes)
    ]
    made = in_parallel(_make_recording, sources, jobs, workers, "demo data: MAESTRO")
    rows: dict[str, dict[str, list]] = {name: {} for name in MAESTRO_PARTS}
    for (_, job), events in zip(jobs, made):
        confidence = soft_labels(events, SCENES[_scene(job.audio)], generator(*job.seed, SOFT_STREAM))
        for clip, start in maestro_clips(job.audio):
            rows[job.notes.parent.name][clip.name] = soft_rows(confidence[start : start + CLIP_SECONDS])
    for name, table in (("maestro_real_train", "real_maestro_train_tsv"), ("maestro_real_dev", "real_maestro_val_tsv")):
        write_table(paths[table], [(file, *row) for file, listed in rows[name].items() for row in listed], SOFT_COLUMNS)
    durations = {job.audio.name: float(MAESTRO_RECIPE.duration) for _, job in jobs}
    write_durations(paths["real_maestro_val_dur"], durations)
    return rows


def _scene(recording: Path):
    """ "metro_station_02.wav" -> "metro_station"."""
    return recording.stem.rpartition("_")[0]


def maestro_jobs(name, paths, notes, seed, sizes):
    """What to mix for one part: recordings numbered through both parts, so that a name means one recording."""
    folder = paths["real_maestro_val_folder" if MAESTRO_PARTS[name] else "real_maestro_train_folder"]
    first = sizes["maestro_real_train"] if MAESTRO_PARTS[name] else 0
    jobs = []
    for k, (scene, classes) in enumerate(SCENES.items(), 1):
        rng = generator(seed, part_number(name), k)
        for i in range(sizes[name]):
            hand = tuple(str(label) for label in rng.permutation(classes))
            audio = folder / f"{scene}_{first + i:02d}.wav"
            entropy = (seed, part_number(name), k, i + 1)
            jobs.append(Job(audio, notes / f"{audio.name}.json", MAESTRO_RECIPE, entropy, hand))
    return jobs


def maestro_clips(recording: Path) -> list[tuple[Path, int]]:
    """(path, first second) of the clips of a recording; names have start and end in hundredths of a second."""
    starts = range(int(MAESTRO_RECIPE.duration) - CLIP_SECONDS + 1)
    return [
        (recording.with_name(f"{recording.stem}-{100 * start}-{100 * (start + CLIP_SECONDS)}.wav"), start)
        for start in starts
    ]


def _make_recording(sources, task):
    """Like :func:`data_util.soundscapes.make`, but writes the clips of a recording instead of itself."""
    test, job = task
    clips = maestro_clips(job.audio)
    if job.notes.is_file() and all(path.is_file() for path, _ in clips):
        return read_notes(job.notes)
    audio, events = mix_soundscape(sources[test], job.recipe, generator(*job.seed), job.labels)
    for path, start in clips:
        write_audio(path, audio[start * SAMPLE_RATE : (start + CLIP_SECONDS) * SAMPLE_RATE], SAMPLE_RATE)
    write_json(job.notes, [asdict(event) for event in events])
    return events


def soft_labels(events: Sequence[Event], classes: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """What several annotators of one recording would agree on, [seconds, all classes] in [0, 1].

    The more of a second an event fills, the surer they are; now and then somebody hears a class that is not there.
    """
    seconds = np.arange(int(MAESTRO_RECIPE.duration))
    filled = np.zeros((len(seconds), len(CLASSES)))
    for event in events:
        overlap = np.minimum(event.offset, seconds + 1) - np.maximum(event.onset, seconds)
        column = filled[:, CLASSES.index(event.label)]
        np.maximum(column, np.clip(overlap, 0, 1), out=column)
    heard = np.clip(0.05 + 0.9 * filled + 0.05 * rng.standard_normal(filled.shape), 0.01, 1)
    possible = np.isin(CLASSES, classes)
    mistaken = possible * (rng.random(filled.shape) < 0.1) * rng.uniform(0.02, 0.3, filled.shape)
    return np.round(np.where(filled > 0.05, heard, mistaken), 3)


def soft_rows(confidence):
    """(onset, offset, label, confidence) rows of [seconds, classes], in steps of one second."""
    return [
        (float(second), float(second + 1), CLASSES[label], float(confidence[second, label]))
        for label, second in zip(*np.nonzero(confidence.T))
    ]


# Files that training reads beside the clips.


def write_pseudo_labels(path: Path, rows: Mapping[str, Sequence], rng: np.random.Generator):
    """Stored predictions in the public layout, ``filenames`` [N] and ``strong_logits`` [N, frames, classes].

    They are the labels, of both data sets' classes, as a fair detector would predict them: smeared over time,
    never quite sure, some events missed, noise everywhere.
    """
    import h5py

    grid = FrameGrid(audio_len=CLIP_SECONDS, fs=SAMPLE_RATE)
    strong = np.stack([encode_strong(_with_aliases(listed), grid) for listed in rows.values()])
    heard = np.where(rng.random(strong.shape[:2]) < 0.07, 0.25, rng.uniform(0.85, 1.0, strong.shape[:2]))
    smeared = np.apply_along_axis(np.convolve, -1, strong, np.full(5, 0.2), "same") * heard[..., None]
    probability = 0.02 + 0.95 * smeared
    noise = rng.normal(0, 0.5, strong.shape)
    logits = np.log(probability / (1 - probability)) + noise
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["filenames"] = [name.removesuffix(".wav") for name in rows]
        file["strong_logits"] = logits.transpose(0, 2, 1).astype(np.float32)


def _with_aliases(rows) -> Events:
    """Events of (onset, offset, label, confidence) rows, each also under the class that it stands for elsewhere."""
    aliases = {**DESED_TO_MAESTRO, **MAESTRO_TO_DESED}
    rows = [(*row[:2], aliases[row[2]], row[3]) for row in rows if row[2] in aliases] + list(rows)
    onset, offset, label, confidence = zip(*rows) if rows else ((), (), (), ())
    return make_events(label, onset, offset, confidence)


def write_impulse_responses(folder: Path, rng: np.random.Generator, number=4):
    """A few short responses of small loudspeakers and microphones: a resonance, a roll-off, early reflections."""
    for i in range(number):
        time = np.arange(round(0.125 * SAMPLE_RATE)) / SAMPLE_RATE
        ringing = np.sin(2 * np.pi * rng.uniform(300, 3000) * time) * np.exp(-time / rng.uniform(0.001, 0.004))
        reflections = rng.standard_normal(len(time)) * np.exp(-time / rng.uniform(0.004, 0.012)) * 0.1
        response = rng.uniform(0.2, 0.6) * ringing + reflections
        response[0] += 1
        write_audio(folder / f"device_{i:02d}.wav", 0.9 * response / np.abs(response).max(), SAMPLE_RATE)
