"""A small but complete data set in the real layout of DESED and MAESTRO Real, made on the spot.

    python -m data_util.demo resources/demo

All sources of DCASE 2024 task 4, in 16 kHz folders: strongly labelled "real" and synthetic clips, external strong
ones, weak, unlabeled, synthetic validation, test, public and private evaluation, MAESTRO clips with soft labels,
pseudo-labels, lists of excluded files and impulse responses of devices. The sounds are synthetic
(:mod:`data_util.procedural`) or, where there are any for a class, real recordings (:mod:`data_util.recordings`);
training and test never share a recording or a random number.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_util.classes import CLASSES, DESED_TO_MAESTRO
from data_util.demo_layout import PATHS, PSEUDO_LABELLED, SAME_AS_16K, SIZES
from data_util.demo_making import command, make_once, with_sizes
from data_util.demo_parts import (
    IMPULSE_STREAM,
    PSEUDO_STREAM,
    SPLIT_STREAM,
    make_desed,
    make_maestro,
    part_number,
    write_impulse_responses,
    write_pseudo_labels,
)
from data_util.procedural import Procedural
from data_util.recordings import Recordings, find_recordings
from data_util.soundscapes import cpus, generator

VERSION = 1  # raised whenever the same settings give other data
TEST_SHARE = 0.4  # of the recordings of a class
ALIASES = {alias: label for label, alias in DESED_TO_MAESTRO.items()}  # MAESTRO classes that DESED recordings serve


def demo_paths(folder) -> dict[str, str]:
    """The entries of the config section ``t4_paths`` for a demo data set in `folder`. Builds nothing."""
    paths = {name: f"{folder}/{path}" for name, path in PATHS.items()}
    return {**paths, **{f"{name}_folder_44k": paths[f"{name}_folder"] for name in SAME_AS_16K}}


def demo_dirs(folder) -> str:
    """The folder of device impulse responses of a demo data set in `folder`."""
    return f"{folder}/dirs"


def demo_folder(root="resources/demo", sources=None, seed=0) -> str:
    """A folder below `root` for each choice of settings, so that several demo data sets can live side by side."""
    if sources is None:
        return f"{root}/seed{seed}"
    path = Path(sources).resolve()
    return f"{root}/seed{seed}-{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def make_demo(folder, sources=None, seed=0, sizes: Mapping[str, int] | None = None, workers=None) -> dict[str, str]:
    """Makes the demo data set, unless it is complete already; a half-made one is continued.

    It is complete when ``demo.json`` exists, which holds the settings it was made with.

    Args:
        folder: where; relative paths in tables and configs follow the public layout below it.
        sources: folder of isolated recordings (layouts: :mod:`data_util.recordings`); classes without any, and all
            without `sources`, are synthetic.
        seed: decides everything.
        sizes: other numbers of clips than :data:`SIZES`, by its names.
        workers: processes; None means one for each processor.

    Returns:
        entries of ``t4_paths``, see :func:`demo_paths`.

    Raises:
        ValueError: `folder` holds a demo of other settings; unknown name in `sizes`; unreadable recording.
        FileNotFoundError: `sources` has no recordings or no backgrounds.
    """
    folder = Path(folder)
    sizes = with_sizes(SIZES, sizes)
    sounds, description = find_sounds(sources, seed)
    settings = {"version": VERSION, "seed": seed, "sizes": sizes, "sources": description}

    def make():
        labels = {
            **make_desed(folder, sounds, seed, sizes, workers or cpus()),
            **make_maestro(folder, sounds, seed, sizes, workers or cpus()),
        }
        for name in PSEUDO_LABELLED:
            path = Path(demo_paths(folder)["pseudo_labels"].format(name))
            write_pseudo_labels(path, labels[name], generator(seed, PSEUDO_STREAM, part_number(name)))
        write_impulse_responses(Path(demo_dirs(folder)), generator(seed, IMPULSE_STREAM))

    make_once(folder, settings, make)
    return demo_paths(folder)


@dataclass(frozen=True)
class Mixed:
    """Recordings where there are any of a class, synthetic sounds for the others."""

    recordings: Recordings
    synthetic: Procedural
    labels: tuple[str, ...] = CLASSES

    def event(self, label, seconds, sample_rate, rng):
        """An isolated sound and its origin."""
        folders = (label.replace("/", "_"), ALIASES.get(label))
        recorded = next((name for name in folders if name in self.recordings.labels), None)
        if recorded is None:
            return self.synthetic.event(label, seconds, sample_rate, rng)
        return self.recordings.event(recorded, seconds, sample_rate, rng)

    def background(self, seconds, sample_rate, rng):
        """A recorded background and its origin."""
        return self.recordings.background(seconds, sample_rate, rng)


def find_sounds(folder, seed):
    """The sounds: {False: for training, True: for testing}, with disjoint recordings, and a description of them."""
    synthetic = Procedural()
    if folder is None:
        return {False: synthetic, True: synthetic}, synthetic.describe()
    recordings = find_recordings(folder)
    sides = (Mixed(side, synthetic) for side in recordings.split(TEST_SHARE, generator(seed, SPLIT_STREAM)))
    return dict(zip((False, True), sides)), {**synthetic.describe(), **recordings.describe()}


def main(arguments=None):
    """The command."""
    command("data_util.demo", "a small data set in the layout of DCASE 2024 task 4", make_demo, arguments)


if __name__ == "__main__":
    main()
