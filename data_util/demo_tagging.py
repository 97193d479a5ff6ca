"""A small data set of audio tagging as anyone would label their own clips: audio and tables ``file,labels``.

Clips of four seconds with one to three of twenty sounds over a background, mixed like the demo data of sound event
detection (:mod:`data_util.demo`): procedural or, where there are any of a class, real recordings; training and test
never share a recording or a random number.
"""

import csv
import io
from pathlib import Path

from data_util.classes import DESED_CLASSES
from data_util.demo import demo_folder, find_sounds
from data_util.demo_making import make_once
from data_util.demo_parts import NOTES, deal, make_clip, spread
from data_util.demo_strong import write_demo_strong
from data_util.soundscapes import Job, Recipe, cpus, generator, in_parallel
from helpers.files import replacing

VERSION = 1  # raised whenever the same settings give other data
CLASSES = (
    *DESED_CLASSES,
    "birds_singing",
    "brakes_squeaking",
    "car",
    "cash register beeping",
    "coffee machine",
    "door opens/closes",
    "footsteps",
    "large_vehicle",
    "shopping cart",
    "wind_blowing",
)
SECONDS = 4.0
RECIPE = Recipe(duration=SECONDS, sample_rate=16000, seconds=(1.0, 3.0), snr=(8.0, 20.0), max_overlap=2, filter_p=0.3)
SIZES = {"train": 480, "test": 160}
SOUNDS_PER_CLIP = (1, 3)
STREAM = 201  # entropy beside the numbers of the parts of other demo data


def with_demo(dataset, entries, enabled=False, root="resources/demo", sources=None, seed=0) -> dict:
    """Entries of the config section ``data``, with the folder of the demo data where they are asked for.

    Args:
        dataset: "audioset_strong"; the demo of all others is a ``folder``.
        entries: of that section.
        enabled: whether to make the demo data, unless they are there, and to use them.
        root: they go to a folder below its folder ``tagging`` or ``audioset_strong``.
        sources, seed: see :func:`make_demo_tagging` and :func:`data_util.demo_strong.write_demo_strong`.
    """
    if not enabled:
        return dict(entries)
    if dataset == "audioset_strong":
        folder = demo_folder(f"{root}/audioset_strong", sources, seed)
        return {**entries, "root": write_demo_strong(folder, sources=sources, seed=seed)}
    folder = demo_folder(f"{root}/tagging", sources, seed)
    return {**entries, "root": make_demo_tagging(folder, sources, seed)}


def make_demo_tagging(folder, sources=None, seed=0, workers=None) -> str:
    """Makes the data set, unless it is complete already; a half-made one is continued.

    Args:
        folder: where; with ``train.csv``, ``test.csv`` and ``audio/`` it is a ``data.root`` of the data set ``folder``.
        sources: folder of isolated recordings (layouts: :mod:`data_util.recordings`); classes without any, and all
            without ``sources``, are synthetic.
        seed: decides everything.
        workers: processes; None means one for each processor.

    Returns:
        the folder.

    Raises:
        ValueError: ``folder`` holds a demo of other settings; unreadable recording.
        FileNotFoundError: ``sources`` has no recordings or no backgrounds.
    """
    folder = Path(folder)
    sounds, description = find_sounds(sources, seed)
    settings = {"version": VERSION, "seed": seed, "sizes": SIZES, "sources": description}

    def make():
        jobs = [job for number, part in enumerate(SIZES) for job in _jobs(folder, part, (seed, STREAM + number))]
        made = in_parallel(make_clip, sounds, jobs, workers or cpus(), "demo data: clips")
        for part in SIZES:
            events = ((job.audio, listed) for (_, job), listed in zip(jobs, made) if job.audio.parent.name == part)
            _write_table(folder / f"{part}.csv", events)

    make_once(folder, settings, make)
    return str(folder)


def _jobs(folder, part, seed):
    """(whether with sounds for testing, what to mix) for the clips of a part."""
    rng = generator(*seed)
    hands = deal(CLASSES, spread(SOUNDS_PER_CLIP, SIZES[part], rng), rng)
    names = [f"{part}/{number:04d}.wav" for number in range(len(hands))]
    return [
        (part == "test", Job(folder / "audio" / name, folder / NOTES / f"{name}.json", RECIPE, (*seed, i + 1), hand))
        for i, (name, hand) in enumerate(zip(names, hands))
    ]


def _write_table(path, events):
    """``file,labels`` of (path of a clip, its events)."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("file", "labels"))
    for file, listed in events:
        writer.writerow((file.relative_to(path.parent), ";".join(sorted({event.label for event in listed}))))
    with replacing(path) as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")
