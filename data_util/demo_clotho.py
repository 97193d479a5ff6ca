"""A small data set in the layout of Clotho: scenes of procedural sounds, each with five captions of what is heard.

Three to five seconds per clip, and captions from a small grammar (:mod:`data_util.caption_scenes`), so that the small
demo finds something to learn: which sounds, how often, how loud, in which order, over what.
"""

import csv
from pathlib import Path

from data_util import caption_scenes, procedural
from data_util.caption_scenes import describe, draw_scene, render
from data_util.demo import demo_folder
from data_util.demo_making import make_once, with_sizes
from data_util.output import write_audio
from data_util.soundscapes import cpus, generator, in_parallel
from helpers.files import replacing

VERSION = 1  # raised whenever the same settings give other data
SAMPLE_RATE = 32000
SECONDS = (3.0, 4.5)
SIZES = {"development": 240, "validation": 40, "evaluation": 60}
COLUMNS = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
STREAM = 221  # entropy beside the numbers of the parts of other demo data


def with_demo(entries, enabled=False, root="resources/demo", seed=0) -> dict:
    """Entries of the config section ``data``, with the folder of the demo data where they are asked for.

    Args:
        entries: of that section.
        enabled: whether to make the demo data, unless they are there, and to use them.
        root: they go to a folder below its folder ``clotho``.
        seed: see :func:`make_demo_clotho`.
    """
    if not enabled:
        return dict(entries)
    return {**entries, "dataset": make_demo_clotho(demo_folder(f"{root}/clotho", None, seed), seed)}


def make_demo_clotho(folder, seed=0, sizes=None, workers=None) -> str:
    """Makes the data set, unless it is complete already; a half-made one is continued.

    Args:
        folder: where; with ``clotho_captions_{split}.csv`` and ``{split}/*.wav`` it is a ``data.dataset``.
        seed: decides everything.
        sizes: other numbers of clips than :data:`SIZES`, by its names.
        workers: processes; None means one for each processor.

    Returns:
        the folder.

    Raises:
        ValueError: ``folder`` holds a demo of other settings, or an unknown name in ``sizes``.
    """
    folder, sizes = Path(folder), with_sizes(SIZES, sizes)
    versions = [VERSION, caption_scenes.VERSION, procedural.VERSION]
    settings = {"version": versions, "seed": seed, "sizes": sizes}

    def make():
        jobs = [
            (folder / split / f"{split} sound {number:03d}.wav", (seed, STREAM + place, number + 1))
            for place, split in enumerate(SIZES)
            for number in range(sizes[split])
        ]
        captions = in_parallel(_make_clip, None, jobs, workers or cpus(), "demo data: clips")
        for split in SIZES:
            rows = [(path.name, *texts) for (path, _), texts in zip(jobs, captions) if path.parent.name == split]
            with replacing(folder / f"clotho_captions_{split}.csv") as temporary:
                with open(temporary, "w", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])

    make_once(folder, settings, make)
    return str(folder)


def _make_clip(_, job):
    """Writes a clip, unless it is there; returns its captions."""
    path, seed = job
    rng = generator(*seed)
    scene = draw_scene(rng)
    captions = describe(scene, rng)
    if not path.is_file():
        write_audio(path, render(scene, rng.uniform(*SECONDS), SAMPLE_RATE, rng), SAMPLE_RATE)
    return captions
