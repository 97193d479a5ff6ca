"""A small data set in the layout of AudioSet with strong labels: soundscapes whose events are known exactly.

Clips of ten seconds with two to five of ten classes over a background, procedural sounds or, where there are any of a
class, real recordings, as in :mod:`data_util.demo_tagging`; training and evaluation never share a recording or a random
number. Tables have the published columns and machine ids.
"""

from pathlib import Path

from data_util.class_tables import strong_names
from data_util.demo import find_sounds
from data_util.demo_making import make_once
from data_util.demo_parts import NOTES, deal, make_clip, spread
from data_util.output import write_table
from data_util.soundscapes import Job, Recipe, cpus, generator, in_parallel, merged
from data_util.strong_clips import DURATIONS, FOLDERS, TABLES
from data_util.strong_events import COLUMNS
from helpers.files import replacing

VERSION = 1  # raised whenever the same settings give other data
# Sounds of data_util.procedural by the classes of AudioSet that they stand for.
SOUNDS = {
    "Alarm": "Alarm_bell_ringing",
    "Bird vocalization, bird call, bird song": "birds_singing",
    "Blender, food processor": "Blender",
    "Cat": "Cat",
    "Dishes, pots, and pans": "Dishes",
    "Dog": "Dog",
    "Frying (food)": "Frying",
    "Speech": "Speech",
    "Vacuum cleaner": "Vacuum_cleaner",
    "Walk, footsteps": "footsteps",
}
SECONDS = 10.0
RECIPE = Recipe(duration=SECONDS, sample_rate=16000, seconds=(0.8, 4.0), snr=(8.0, 20.0), max_overlap=2, filter_p=0.3)
SOUNDS_PER_CLIP = (2, 5)
START = 30000  # milliseconds at which all clips are said to begin in their videos
STREAM = 211  # entropy beside the numbers of the parts of other demo data


def write_demo_strong(folder, clips=(96, 24), seed=0, sources=None, workers=None) -> str:
    """Makes the data set, unless it is complete already; a half-made one is continued.

    Args:
        folder: where; a ``data.root`` of the data set ``audioset_strong``.
        clips: for training and for evaluation.
        seed: decides everything.
        sources: folder of isolated recordings (layouts: :mod:`data_util.recordings`); classes without any, and all
            without ``sources``, are synthetic.
        workers: processes; None means one for each processor.

    Returns:
        the folder.

    Raises:
        ValueError: ``folder`` holds a demo of other settings; unreadable recording.
        FileNotFoundError: ``sources`` has no recordings or no backgrounds.
    """
    folder = Path(folder)
    sounds, description = find_sounds(sources, seed)
    settings = {"version": VERSION, "seed": seed, "clips": list(clips), "sources": description}

    def make():
        parts = {
            part: _jobs(folder, part, size, (seed, STREAM + i)) for i, (part, size) in enumerate(zip(TABLES, clips))
        }
        tasks = [(part == "test", job) for part, jobs in parts.items() for job in jobs]
        made = iter(in_parallel(make_clip, sounds, tasks, workers or cpus(), "demo data: clips"))
        for part, jobs in parts.items():
            _write_table(folder / "metadata" / f"{TABLES[part]}.tsv", {job.audio.stem: next(made) for job in jobs})
        with replacing(folder / "metadata" / DURATIONS) as temporary:
            temporary.write_text("".join(f"{job.audio.stem},{SECONDS}\n" for job in parts["test"]))

    make_once(folder, settings, make)
    return str(folder)


def _jobs(folder, part, size, seed):
    """What to mix for the clips of a part."""
    rng = generator(*seed)
    hands = deal(tuple(SOUNDS.values()), spread(SOUNDS_PER_CLIP, size, rng), rng)
    where = FOLDERS[part][0]
    names = [f"Ydemo-{where[:2]}{number:04d}" for number in range(size)]  # as long as real ids
    return [
        Job(folder / "audio" / where / f"{name}.wav", folder / NOTES / f"{name}.json", RECIPE, (*seed, i + 1), hand)
        for i, (name, hand) in enumerate(zip(names, hands))
    ]


def _write_table(path, events):
    """The strong labels of {clip: events}."""
    classes = {sound: name for name, sound in SOUNDS.items()}
    ids = {name: mid for mid, name in strong_names().items()}
    rows = [
        (f"{clip[1:]}_{START}", f"{onset:.3f}", f"{offset:.3f}", ids[classes[label]])
        for clip, listed in events.items()
        for onset, offset, label in merged(listed)
    ]
    write_table(path, rows, COLUMNS)
