"""The data sets of audio tagging, one entry of :data:`DATASETS` each, as training and evaluation sets.

What is missing stops the construction with one line that names the config entry. The keyword defaults of
:func:`training_set` and :func:`evaluation_set` are the config section ``data``; what a published recipe sets
differently stands in the entry.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data_util import tagging_parts as parts
from data_util.cache import complete_cache
from data_util.class_tables import class_names
from data_util.errors import DataMissing, TableError
from data_util.hdf5_audio import Hdf5Audio, check_packed
from data_util.mixing import DeviceResponse, load_responses
from data_util.strong_clips import StrongClips, strong_clips
from data_util.tagging_augment import Gain, Hardened, Roll, WaveformMixup, WithPseudoLabels, WithTeacher
from data_util.tagging_clips import AudioFiles, TaggingClips
from data_util.teacher import TeacherLogits

logger = logging.getLogger(__name__)

MIXED = MappingProxyType({"gain_augment": 12, "roll": True, "wavmix": True})


@dataclass(frozen=True)
class Tagging:
    """A data set.

    Attributes:
        listing: ``listing(choice)`` gives the clips and labels of a part where they are not packed; None: the clips are
            those of :mod:`data_util.strong_clips`.
        splits: names of the parts.
        published: entries of the config section ``data`` in which the published recipe differs from the defaults.
        sampling: the same for :func:`data_util.tagging_samplers.training_loader`.
    """

    listing: Callable | None
    splits: tuple = ("train", "test")
    published: Mapping = field(default_factory=dict)
    sampling: Mapping = field(default_factory=dict)


DATASETS = MappingProxyType(
    {
        "audioset": Tagging(parts.audioset, sampling={"weighted": True, "epoch_len": 100000}),
        "fsd50k": Tagging(parts.fsd50k, splits=("train", "val", "test"), published=MIXED),
        "esc50": Tagging(parts.esc50, published={**MIXED, "clip_length": 5.0}),
        "dcase20": Tagging(parts.dcase20, published=MIXED),
        "openmic": Tagging(parts.openmic, published=MIXED),
        "folder": Tagging(parts.folder, splits=("train", "val", "test"), published=MIXED),
        "audioset_strong": Tagging(None, published={"wavmix": True, "wavmix_p": 0.8}, sampling={"epoch_len": 100000}),
    }
)


def training_set(
    name,
    root=None,
    sample_rate=32000,
    clip_length=10.0,
    fold=1,
    subset="full",
    test_share=0.2,
    split_seed=42,
    classes=None,
    cache_path=None,
    on_bad_audio="skip",
    gain_augment=0,
    roll=False,
    wavmix=False,
    wavmix_p=0.5,
    dir_p=0.0,
    dir_folder=None,
    teacher_preds=None,
    fname_to_index=None,
):
    """Training clips of a data set, see :mod:`data_util.tagging_clips` for the samples.

    Args:
        name: one of :data:`DATASETS`.
        root: folder of the data set, or table of ``folder`` (:mod:`data_util.folders`).
        sample_rate: Hz; other rates are resampled.
        clip_length: seconds; longer clips are cropped at random.
        fold: of ESC-50, 1 to 5: held out for evaluation.
        subset: of AudioSet: "balanced", "unbalanced" or "full" (balanced before unbalanced).
        test_share, split_seed, classes: of ``folder``, see :func:`data_util.folders.folder`.
        cache_path: folder in which decoded and resampled audio files are kept; None decodes them in every epoch.
        on_bad_audio: "skip" clips that cannot be decoded, or "raise", see :class:`data_util.stand_ins.StandIns`.
        gain_augment: dB, from minus this up to one less, as published; 0: none.
        roll: shift clips cyclically by up to 4000 samples; not those with frame labels.
        wavmix, wavmix_p: mix clips with others of the set, with that probability.
        dir_p, dir_folder: probability of filtering a clip by a device impulse response, and their folder.
        teacher_preds, fname_to_index: a teacher's logits and their index, see :class:`data_util.teacher.TeacherLogits`.

    Raises:
        DataMissing, TableError: a folder, file or table is missing or wrong.
        ValueError: an option has a value that is none of those above.
    """
    if clip_length is None:
        raise ValueError("data.clip_length is None, expected the seconds of a training clip")
    choice = parts.Choice(_root(name, root), "train", sample_rate, fold, subset, test_share, split_seed, classes)
    clips = _clips(name, choice, clip_length, cache_path, on_bad_audio)
    dataset = clips if teacher_preds is None else _with_teacher(clips, teacher_preds, fname_to_index)
    if gain_augment:
        dataset = Gain(dataset, gain_augment)
    if roll and isinstance(clips, StrongClips):
        raise ValueError(f"data.roll would move the sounds of {name} away from their frame labels: leave it out")
    if roll:
        dataset = Roll(dataset)
    if wavmix:
        dataset = WaveformMixup(dataset, wavmix_p)
    if dir_p > 0:
        dataset = DeviceResponse(dataset, dir_p, load_responses(dir_folder, sample_rate))
    return Hardened(dataset) if clips.mask is not None else dataset


def evaluation_set(
    name,
    root=None,
    sample_rate=32000,
    clip_length=10.0,
    split="test",
    fold=1,
    test_share=0.2,
    split_seed=42,
    classes=None,
    cache_path=None,
    on_bad_audio="skip",
    variable_eval_length=False,
):
    """Clips that a network is evaluated on; of longer ones the first ``clip_length`` seconds.

    Arguments and errors as in :func:`training_set`, and

    Args:
        split: "test", or "val" of FSD50K and of a ``folder`` with that part.
        variable_eval_length: clips at their full lengths, for batches of one.
    """
    choice = parts.Choice(_root(name, root), split, sample_rate, fold, "full", test_share, split_seed, classes)
    length = None if variable_eval_length else clip_length
    clips = _clips(name, choice, length, cache_path, on_bad_audio)
    return Hardened(clips) if clips.mask is not None else clips


def _with_teacher(clips, path, index):
    if not isinstance(clips, StrongClips):
        return WithTeacher(clips, TeacherLogits(path, index, len(clips.classes)), clips.names)
    clips.random_crop = False
    return WithPseudoLabels(clips, TeacherLogits(path, index, len(clips.classes), clips.grid.n_frames), clips.names)


# -- building ---------------------------------------------------------------------------------------------------------
def _root(name, root):
    if name not in DATASETS:
        raise ValueError(f"unknown data set '{name}', expected one of {', '.join(DATASETS)}")
    path = Path(root).expanduser() if root else None
    if path is None or not path.exists():
        raise DataMissing(f"{name}: no folder data.root = {root}")
    return path


def _clips(name, choice, clip_length, cache_path, on_bad_audio):
    entry = DATASETS[name]
    if choice.split not in entry.splits:
        raise ValueError(f"{name} has no part '{choice.split}', expected one of {', '.join(entry.splits)}")
    if clip_length is not None and clip_length <= 0:
        raise ValueError(f"data.clip_length is {clip_length}, expected a number of seconds above 0")
    options = dict(sample_rate=choice.sample_rate, clip_length=clip_length, on_bad_audio=on_bad_audio)

    def cached(files):
        return None if cache_path is None else complete_cache(files, cache_path, choice.sample_rate)

    strong = entry.listing is None
    packed = parts.strong_files(choice) if strong else parts.packed_files(name, choice)
    if packed and cache_path is not None:
        raise ValueError(f"data.cache_path keeps decoded audio files, but {packed[0]} is packed: leave it out")
    if strong:
        return strong_clips(choice.root, choice.split, packed, cached, **options)
    if packed:
        return _packed_clips(name, packed, options)
    listing = entry.listing(choice)
    missing = listing.missing()
    if missing.any():
        raise DataMissing(
            f"{name}: {(~missing).sum()} of {len(missing)} audio files of the {choice.split} part found below "
            f"data.root = {choice.root}; first missing: {listing.files[int(missing.argmax())]}"
        )
    if not listing.files:
        raise DataMissing(f"{name}: the {choice.split} part in data.root = {choice.root} has 0 clips")
    audio = AudioFiles(listing.files, cached(listing.files))
    return TaggingClips(audio, listing.classes, listing.targets, listing.mask, listing.multi_label, **options)


def _packed_clips(name, paths, options):
    audio = Hdf5Audio(paths)
    if not len(audio):
        raise DataMissing(f"{paths[0]} has 0 clips, expected at least 1")
    multi_label = bool(audio.attributes.get("multi_label", True))
    if name == "folder":
        classes = json.loads(audio.attributes.get("classes", "[]"))
        if not classes:
            raise TableError(f"{paths[0]}: no attribute 'classes', which files of data_util.pack have")
    else:
        classes = class_names(name)
    if name != "openmic":
        check_packed(audio.targets, len(classes), paths[0])
        return TaggingClips(audio, classes, audio.targets, multi_label=multi_label, **options)
    if audio.targets.ndim != 2 or audio.targets.shape[1] != 2 * len(classes):
        expected = f"{2 * len(classes)} columns, likelihoods before masks"
        raise TableError(f"{paths[0]}: target has shape {audio.targets.shape}, expected {expected}")
    likelihood, mask = np.split(audio.targets.astype(np.float32), 2, axis=1)
    return TaggingClips(audio, classes, likelihood, mask, **options)
