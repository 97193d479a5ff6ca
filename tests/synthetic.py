"""A tiny complete DESED + MAESTRO tree: noise clips, all tables, pseudo-labels and lists of excluded files."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import soundfile

from configs import T4_EVAL_PATHS, T4_PATHS
from data_util.classes import CLASSES, DESED_CLASSES, MAESTRO_CLASSES
from data_util.events import EVENT_COLUMNS, SOFT_COLUMNS, WEAK_COLUMNS, FrameGrid, clip_id
from data_util.task4 import DATASETS

STRONG = (
    "strong_train",
    "synth_train",
    "external_strong_train",
    "synth_val",
    "external_strong_val",
    "devtest",
    "eval_public",
)
SCENES = {"maestro_real_train": ("cafe_restaurant", "city_center"), "maestro_real_dev": ("metro_station",)}
EMPTY = "devtest_00.wav"  # a clip without events


def make_task4(root, clips=4, seconds=1.5, sample_rate=16000, grid=None, seed=0):
    """Writes the tree and returns its ``t4_paths``.

    Every labelled set has all classes of its kind. One clip each of ``strong_train``, ``weak_train`` and
    ``unlabeled_train`` (number 01) is on the list of excluded files.

    Args:
        root: folder, made if it is not there.
        clips: per set; MAESTRO: recordings per scene, of two overlapping clips each; weak: at least 12.
        seconds: of a clip, at least 1.
        sample_rate: Hz. 16000 writes the folders ``*_16k``, any other rate those without.
        grid: of the pseudo-labels; None: the default :class:`FrameGrid`.
        seed: of the noise.
    """
    tree = _Tree(root, seconds, sample_rate, grid or FrameGrid(), np.random.default_rng(seed))
    for name in STRONG:
        tree.strong(name, [f"{name}_{i:02d}.wav" for i in range(clips)])
    for name, scenes in SCENES.items():
        tree.maestro(name, [f"{scene}_{i:02d}" for scene in scenes for i in range(clips)])
    tree.weak([f"weak_train_{i:02d}.wav" for i in range(max(clips, 12))])
    tree.unlabelled("unlabeled_train", [f"unlabeled_train_{i:02d}.wav" for i in range(clips)])
    tree.unlabelled("eval_private", [f"eval_private_{i:02d}.wav" for i in range(clips)])
    for name in ("strong_train", "weak_train", "unlabeled_train"):
        tree.table(DATASETS[name].exclude, ("filename",), [(f"{name}_01.wav",)])
    responses_of(tree.paths).mkdir(parents=True, exist_ok=True)
    soundfile.write(responses_of(tree.paths) / "phone.wav", np.geomspace(0.5, 1e-4, sample_rate // 10), sample_rate)
    return tree.paths


def responses_of(paths):
    """Folder of impulse responses beside such a tree."""
    return Path(paths["pseudo_labels"]).parents[1] / "dirs"


class _Tree:
    """Writer of files below one root."""

    def __init__(self, root, seconds, sample_rate, grid, rng):
        everything = {**T4_PATHS, **T4_EVAL_PATHS}
        self.paths = {key: str(Path(root) / path.replace("{base_path}", "dataset")) for key, path in everything.items()}
        self.suffix = "" if sample_rate == 16000 else "_44k"
        self.seconds, self.sample_rate, self.grid, self.rng = seconds, sample_rate, grid, rng

    def strong(self, name, files):
        classes = np.array_split(DESED_CLASSES, len(files) - (EMPTY in files))
        rows = [(EMPTY, None, None, None)] if EMPTY in files else []
        for file, labels in zip([file for file in files if file != EMPTY], classes):
            rows += [(file, *self._times(), label) for label in labels]
        self.table(DATASETS[name].table, EVENT_COLUMNS, rows)
        self._finish(name, files)

    def maestro(self, name, recordings):
        files, rows = [], []
        for recording in recordings:
            for start in (0, 1):
                file = f"{recording}-{100 * start}-{100 * (start + 10)}.wav"
                files.append(file)
                for second in range(int(self.seconds)):
                    # Every class is present (above 0.5) in every other second of a recording.
                    present = (np.arange(len(MAESTRO_CLASSES)) + start + second) % 2
                    confidence = (0.55 * present + self.rng.uniform(0.05, 0.45, len(present))).round(3)
                    rows += [(file, second, second + 1, label, c) for label, c in zip(MAESTRO_CLASSES, confidence)]
        self.table(DATASETS[name].table, SOFT_COLUMNS, rows)
        self._finish(name, files, [f"{recording}.wav" for recording in recordings], self.seconds + 1)

    def weak(self, files):
        labels = [",".join(DESED_CLASSES[(3 * i + j) % 10] for j in range(3)) for i in range(len(files))]
        self.table("weak_tsv", WEAK_COLUMNS, zip(files, labels))
        self._finish("weak_train", files)

    def unlabelled(self, name, files):
        self._finish(name, files)

    def table(self, key, columns, rows):
        path = Path(self.paths[key])
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(list(rows), columns=list(columns)).to_csv(path, sep="\t", index=False)

    def _times(self):
        onset = self.rng.uniform(0, self.seconds / 2)
        return round(onset, 3), round(self.rng.uniform(onset + self.seconds / 4, self.seconds), 3)

    def _finish(self, name, files, recordings=None, duration=None):
        """Audio, durations and pseudo-labels."""
        entry = DATASETS[name]
        folder = Path(self.paths[entry.folder + self.suffix])
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            noise = 0.1 * self.rng.standard_normal(int(self.seconds * self.sample_rate))
            soundfile.write(folder / file, noise, self.sample_rate, subtype="PCM_16")
        if entry.durations:
            rows = [(file, duration or self.seconds) for file in recordings or files]
            self.table(entry.durations, ("filename", "duration"), rows)
        path = Path(self.paths["pseudo_labels"].format(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as stored:
            stored["filenames"] = [clip_id(file) for file in files]
            shape = (len(files), self.grid.n_frames, len(CLASSES))
            stored["strong_logits"] = self.rng.standard_normal(shape).astype(np.float16)


def tiny_stage(paths, seconds, outputs, evaluation_sets=False):
    """Config of a stage for such a tree: a network of a few thousand weights on the CPU, every step logged."""
    length = {"audio_length": seconds, "num_workers": 0}
    return {
        "arch": "mn01_as",
        "audio_len": seconds,
        "encoder": {"audio_len": seconds},
        "t4_paths": {key: path for key, path in paths.items() if key in T4_PATHS or evaluation_sets},
        "training": {**length, "batch_sizes": [1, 1, 1, 1, 1], "dir_folder": str(responses_of(paths))},
        "validation": dict(length),
        "test": dict(length),
        "t4_wrapper": {"nb_filters": [8] * 7, "n_RNN_cell": 16, "n_layers_RNN": 1},
        "mn": {"pretrained_name": None},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_epochs": 1,
            "check_val_every_n_epoch": 1,
            "log_every_n_steps": 1,
            "default_root_dir": str(outputs),
            "enable_progress_bar": False,
        },
        "wandb": {"project": "tests"},
        "plots": 1,
        "seed": 1,
    }
