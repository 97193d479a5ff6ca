"""A small data set of query by vocal imitation: synthetic sounds and simulated imitations in the published layouts.

    python -m data_util.demo_vocal resources/demo/vocal/seed0

To train on, ``Vim_Sketch_Dataset`` with sounds of forty kinds and several imitations of each; to search, ``qvim-dev``
with other sounds, of a part of these kinds, and up to three queries each by other voices. The sounds are those of
:mod:`data_util.procedural` and :mod:`data_util.gestures`; where real recordings are given, they take the place of the
former. Imitations are those of :mod:`data_util.imitations`.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data_util import imitations
from data_util.demo import demo_folder, find_sounds
from data_util.demo_making import command, make_once, with_sizes
from data_util.gestures import GESTURES
from data_util.output import write_audio
from data_util.soundscapes import cpus, generator, in_parallel
from data_util.synthesis import peak_one
from data_util.vocal_listings import DEV_TABLE, DEVELOPMENT, IMITATIONS, REFERENCES, VIMSKETCH
from helpers.files import replacing

VERSION = 1  # raised whenever the same settings give other data
SAMPLE_RATE = 16000
SECONDS = (1.8, 2.6)
SIZES = MappingProxyType({"references": 40, "imitations": 3, "items": 30, "queries": 3})
STREAM = 301  # entropy beside the numbers of the parts of other demo data
TRAIN, TEST = range(2)
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        label: kind
        for kind, labels in {
            "Alarms": ("Alarm_bell_ringing", "cash register beeping", "siren", "doorbell", "car horn"),
            "Animals": ("Cat", "Dog", "birds_singing", "owl", "bee", "frog"),
            "Household": ("Blender", "Dishes", "Electric_shaver_toothbrush", "Frying", "Vacuum_cleaner",
                          "coffee machine", "door opens/closes", "furniture dragging"),
            "Human": ("Speech", "children voices", "footsteps", "whistle", "clapping"),
            "Music and games": ("flute", "drums", "laser", "bouncing ball"),
            "Nature": ("Running_water", "wind_blowing", "thunder", "drip"),
            "Traffic and tools": ("brakes_squeaking", "car", "large_vehicle", "metro approaching", "metro leaving",
                                  "shopping cart", "engine start", "sawing"),
        }.items()
        for label in labels
    }
)  # fmt: skip


def with_demo(entries, enabled=False, root="resources/demo", sources=None, seed=0) -> dict:
    """Entries of the config section ``data``, with the folder of the demo data where they are asked for.

    Args:
        entries: of that section.
        enabled: whether to make the demo data, unless they are there, and to use them.
        root: they go to a folder below its folder ``vocal``.
        sources, seed: see :func:`make_demo_vocal`.
    """
    if not enabled:
        return dict(entries)
    folder = make_demo_vocal(demo_folder(f"{root}/vocal", sources, seed), sources, seed)
    return {**entries, "dataset_path": folder, "train_root": None, "test_root": None}


def make_demo_vocal(folder, sources=None, seed=0, sizes: Mapping[str, int] | None = None, workers=None) -> str:
    """Makes the data set, unless it is complete already; a half-made one is continued.

    Args:
        folder: where; a ``data.dataset_path``.
        sources: folder of isolated recordings (layouts: :mod:`data_util.recordings`), which replace the synthetic
            sounds of their classes; training and test share none.
        seed: decides everything.
        sizes: other numbers than :data:`SIZES`: sounds to train on, imitations of each, sounds to search, queries of
            each at most.
        workers: processes; None means one for each processor.

    Returns:
        the folder.

    Raises:
        ValueError: ``folder`` holds a demo of other settings; an unknown or unusable size; unreadable recording.
        FileNotFoundError: ``sources`` has no recordings or no backgrounds.
    """
    folder, sizes = Path(folder), with_sizes(SIZES, sizes)
    if sizes["queries"] > 3:
        raise ValueError(f"demo sizes: queries is {sizes['queries']}, expected at most 3")
    sounds, description = find_sounds(sources, seed)
    settings = {"version": [VERSION, imitations.VERSION], "seed": seed, "sizes": sizes, "sources": description}

    def make():
        parts = {TRAIN: _training(folder, seed, sizes), TEST: _development(folder, seed, sizes)}
        jobs = [(bool(part), *job) for part, listed in parts.items() for job in listed]
        in_parallel(_make, sounds, jobs, workers or cpus(), "demo data: imitations")
        _write_training_tables(folder / VIMSKETCH, parts[TRAIN])
        _write_development_table(folder / DEVELOPMENT, parts[TEST])

    make_once(folder, settings, make)
    return str(folder)


# -- what there is ----------------------------------------------------------------------------------------------------
def _training(folder, seed, sizes):
    """(label, path of the sound, paths of its imitations, entropy), named as in VimSketch."""
    root, jobs = folder / VIMSKETCH, []
    for number, label in enumerate(_labels(sizes["references"], generator(seed, STREAM))):
        key = f"{number:03d}{CLASSES[label]}_{_file_name(label)}.wav"
        first = number * sizes["imitations"] + 1
        names = [f"{first + take:05d}_{key}" for take in range(sizes["imitations"])]
        paths = [root / "vocal_imitations" / name for name in names]
        jobs.append((label, root / "references" / f"{number + 1:03d}_{key}", paths, (seed, STREAM, number + 1)))
    return jobs


def _development(folder, seed, sizes):
    """The same, named as in the AES development set; a sound in three has a query less than the others."""
    root, jobs = folder / DEVELOPMENT, []
    for number, label in enumerate(_labels(sizes["items"], generator(seed, STREAM + 1))):
        name, kind = _file_name(label), CLASSES[label]
        queries = max(1, sizes["queries"] - (number % 3 == 2))
        paths = [root / "Queries" / kind / f"{name} imitation {take + 1}_{number}.wav" for take in range(queries)]
        jobs.append((label, root / "Items" / kind / f"{name}_{number}.wav", paths, (seed, STREAM + 1, number + 1)))
    return jobs


def _labels(count, rng):
    """Labels in random order; every one is used before any is used again."""
    rounds = [rng.permutation(list(CLASSES)) for _ in range(-(-count // len(CLASSES)))]
    return [str(label) for label in np.concatenate(rounds)[:count]]


def _file_name(label):
    return label.replace("/", " ").replace("_", " ")


def _make(sounds, job):
    """Writes a sound and its imitations, unless they are there."""
    test, label, path, takes, entropy = job
    if all(file.is_file() for file in (path, *takes)):
        return
    rng = generator(*entropy)
    seconds = rng.uniform(*SECONDS)
    if label in GESTURES:
        sound = peak_one(GESTURES[label](round(seconds * SAMPLE_RATE), SAMPLE_RATE, rng))
    else:
        sound, _ = sounds[test].event(label, seconds, SAMPLE_RATE, rng)
    for number, take in enumerate(takes, start=1):
        write_audio(take, imitations.imitate(sound, SAMPLE_RATE, generator(*entropy, number)), SAMPLE_RATE)
    write_audio(path, peak_one(np.asarray(sound)) * 0.9, SAMPLE_RATE)


def _write_training_tables(root, jobs):
    for name, files in (
        (REFERENCES, [job[1] for job in jobs]),
        (IMITATIONS, [take for job in jobs for take in job[2]]),
    ):
        _write_csv(root / name, [(file.name,) for file in files])


def _write_development_table(root, jobs):
    rows = [("DEV set", *[""] * 5), ("Label", "Class", "Items", "Query 1", "Query 2", "Query 3")]
    for label, item, takes, _ in jobs:
        names = [take.name for take in takes]
        rows.append((label, CLASSES[label], item.name, *names, *[""] * (3 - len(names))))
    _write_csv(root / DEV_TABLE, rows)


def _write_csv(path, rows):
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")


def main(arguments=None):
    """The command."""
    command("data_util.demo_vocal", "a small data set of query by vocal imitation", make_demo_vocal, arguments)


if __name__ == "__main__":
    main()
