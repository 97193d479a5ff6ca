"""The data sets of DCASE 2024 task 4, DESED and MAESTRO Real, in their published folders and tables.

Folders and tables arrive as ``paths``, the config section ``t4_paths``. What is missing stops the construction with
one line (:class:`data_util.errors.DataMissing`); sizes are compared with the published ones only by
:func:`check_data`, so that a small data set works like the full one. Where ``paths["audio_cache"]`` names an
existing folder, audio is read from the cache in it (:mod:`data_util.cache`).
"""

import logging
import os
from pathlib import Path

import numpy as np

from data_util.audio import AudioReader
from data_util.cache import CachedAudio
from data_util.classes import CLASSES, DESED_TO_MAESTRO, MAESTRO_TO_DESED, desed_mask, maestro_mask
from data_util.clips import Clips, Concat, PseudoLabels
from data_util.errors import DataMissing
from data_util.events import StrongLabels, WeakLabels, add_aliases, add_weak_aliases, read_table
from data_util.mixing import DeviceResponse, WavMix, load_responses
from data_util.samples import Source
from data_util.task4_files import (
    DATASETS,
    FOLDER_RATE,
    audio_files,
    audio_names,
    check_data,
    config_path,
    expected_clips,
    find_folder,
    folder_keys,
    pseudo_path,
    read_labels,
    split_maestro,
    split_weak,
)
from helpers.files import clip_id

__all__ = [
    "DATASETS",
    "audio_files",
    "check_data",
    "read_labels",
    "split_maestro",
    "split_weak",
    "test_set",
    "training_set",
    "validation_set",
    "wav_set",
    "wav_sets",
]

logger = logging.getLogger(__name__)


def training_set(
    grid,
    paths,
    audio_length=10.0,
    sample_rate=16000,
    weak_split=0.9,
    maestro_split=0.9,
    seed=42,
    use_desed_maestro_alias=True,
    use_maestro_desed_alias=True,
    include_external_strong=True,
    include_desed_test=False,
    include_maestro_test=False,
    exclude_overlapping=True,
    use_pseudo_labels=True,
    wavmix_p=0.5,
    wavmix_target="strong",
    dir_p=0.0,
    dir_desed_strong=True,
    dir_weak=True,
    dir_unlabeled=True,
    dir_maestro=True,
    dir_folder=None,
    on_bad_audio="raise",
):
    """The five training sources; the config section ``training``.

    Args:
        grid: a :class:`data_util.events.FrameGrid`.
        paths: the config section ``t4_paths``.
        audio_length: seconds of a clip; must be the grid's.
        sample_rate: Hz.
        weak_split: share of the weak clips used for training, the others are for validation.
        maestro_split: the same for the recordings of each MAESTRO scene.
        seed: of these two splits.
        use_desed_maestro_alias: DESED events also count as the MAESTRO class of the same meaning.
        use_maestro_desed_alias: and the other way round.
        include_external_strong: add the strongly labelled part of AudioSet to the real clips.
        include_desed_test: add the DESED validation set, on which the challenge system is tested, to the real clips.
        include_maestro_test: add the MAESTRO validation set to the MAESTRO clips.
        exclude_overlapping: leave out clips that are also in the external or evaluation sets.
        use_pseudo_labels: give stored predictions with every clip.
        wavmix_p: probability of mixing a clip with another one of its source.
        wavmix_target: which sources: "strong" (maestro, real, synth), "labeled" (and weak), "all" (and unlabeled).
        dir_p: probability of filtering a clip by a device impulse response.
        dir_desed_strong, dir_weak, dir_unlabeled, dir_maestro: sources to which that applies.
        dir_folder: folder of impulse responses, needed when ``dir_p`` is above 0.
        on_bad_audio: "raise", or "skip" clips that cannot be decoded, see :class:`data_util.clips.Clips`.

    Returns:
        :class:`data_util.clips.Concat` with one entry in ``datasets`` per source, in the order of
        :data:`data_util.samples.TRAINING_SOURCES`.

    Raises:
        DataMissing, TableError: a folder or table is missing or wrong.
        ValueError: an option has a value that is none of those above.
    """
    mixed = _wavmix_sources(wavmix_target)
    build = _Builder(grid, paths, audio_length, sample_rate, on_bad_audio)
    desed = dict(
        valid=desed_mask(use_desed_maestro_alias),
        aliases=DESED_TO_MAESTRO if use_desed_maestro_alias else {},
        pseudo=use_pseudo_labels,
        exclude=exclude_overlapping,
    )
    maestro = dict(
        valid=maestro_mask(use_maestro_desed_alias),
        aliases=MAESTRO_TO_DESED if use_maestro_desed_alias else {},
        pseudo=use_pseudo_labels,
    )
    real_names = ["strong_train", *["external_strong_train"] * include_external_strong]
    real_names += ["devtest"] * include_desed_test
    maestro_table, _ = split_maestro(build.table("maestro_real_train"), maestro_split, seed)
    maestro_sets = [build.clips("maestro_real_train", maestro_table, **maestro)]
    if include_maestro_test:
        maestro_sets.append(build.clips("maestro_real_dev", **maestro))
    weak_table, _ = split_weak(build.table("weak_train"), weak_split, seed)
    sources = {
        Source.MAESTRO: _joined(maestro_sets),
        Source.REAL: _joined([build.clips(name, source=Source.REAL, **desed) for name in real_names]),
        Source.SYNTH: build.clips("synth_train", **desed),
        Source.WEAK: build.clips("weak_train", weak_table, **desed),
        Source.UNLABELED: build.clips("unlabeled_train", **desed),
    }
    if wavmix_p > 0:
        sources.update({source: WavMix(sources[source], wavmix_p) for source in mixed})
    if dir_p > 0:
        responses = load_responses(dir_folder, sample_rate)
        flags = (dir_maestro, dir_desed_strong, dir_desed_strong, dir_weak, dir_unlabeled)  # in the order of sources
        filtered = [source for source, flag in zip(sources, flags) if flag]
        sources.update({source: DeviceResponse(sources[source], dir_p, responses) for source in filtered})
    return Concat(list(sources.values()))


def validation_set(
    grid,
    paths,
    audio_length=10.0,
    sample_rate=16000,
    weak_split=0.9,
    maestro_split=0.9,
    seed=42,
    use_maestro_desed_alias=True,
):
    """What a model is chosen on: synth_val, external_strong_val, and the held-out weak and MAESTRO training clips.

    Arguments and errors as in :func:`training_set`; aliases only say which classes are valid, the labels are those
    of the tables. Clips without events are included.
    """
    build = _Builder(grid, paths, audio_length, sample_rate)
    _, weak_table = split_weak(build.table("weak_train"), weak_split, seed)
    _, maestro_table = split_maestro(build.table("maestro_real_train"), maestro_split, seed)
    desed, maestro = desed_mask(), maestro_mask(use_maestro_desed_alias)
    return Concat(
        [
            build.clips("synth_val", valid=desed),
            build.clips("external_strong_val", valid=desed),
            build.clips("weak_train", weak_table, valid=desed),
            build.clips("maestro_real_train", maestro_table, valid=maestro),
        ]
    )


def test_set(grid, paths, audio_length=10.0, sample_rate=16000, use_maestro_desed_alias=True):  # noqa: PT028 (no test)
    """What a system is tested on: external_strong_val, devtest, maestro_real_dev. See :func:`validation_set`."""
    build = _Builder(grid, paths, audio_length, sample_rate)
    return Concat(
        [
            build.clips("external_strong_val", valid=desed_mask()),
            build.clips("devtest", valid=desed_mask()),
            build.clips("maestro_real_dev", valid=maestro_mask(use_maestro_desed_alias)),
        ]
    )


test_set.__test__ = False  # the name is the config section's; pytest would take it for a test where it is imported


def wav_set(grid, paths, name, audio_length=10.0, sample_rate=16000):
    """Clips without labels, every class valid, for predictions.

    Args:
        grid, paths, audio_length, sample_rate: see :func:`training_set`.
        name: one of :data:`DATASETS` (all clips of its table, or of its folder if it has none), or any folder.

    Raises:
        DataMissing: the data set is not there.
        ValueError: the name is neither.
    """
    build = _Builder(grid, paths, audio_length, sample_rate)
    valid = np.ones(len(CLASSES), dtype=bool)
    if name in DATASETS:
        table = build.table(name)
        files = build.files(name, None if table is None else list(table["filename"].unique()))
        return build.unlabelled(files, DATASETS[name].source, valid, build.reader(name))
    if not Path(name).is_dir():
        raise ValueError(f"'{name}' is neither a folder nor a data set, expected one of {', '.join(DATASETS)}")
    files = [os.path.join(name, file) for file in sorted(audio_names(name))]
    if not files:
        raise DataMissing(f"0 audio files in {name}, expected at least 1")
    return build.unlabelled(files, Source.UNLABELED, valid, build.make_reader(resample=True))


def wav_sets(grid, paths, names=None, audio_length=10.0, sample_rate=16000):
    """Name -> :func:`wav_set` of the data sets and folders that are named.

    Args:
        names: or a single name; None: all of :data:`DATASETS` that are there, and the others are named in the log.
        grid, paths, audio_length, sample_rate: see :func:`training_set`.

    Raises:
        DataMissing, ValueError: as for :func:`wav_set`; where none is named, no data set is there at all.
    """
    found, missing = {}, []
    for name in [names] if isinstance(names, str) else names or DATASETS:
        try:
            found[name] = wav_set(grid, paths, name, audio_length, sample_rate)
        except DataMissing as error:
            if names:
                raise
            missing.append(error)
    if not found:
        raise missing[0]
    for error in missing:
        logger.info("left out: %s", error)
    return found


class _Builder:
    """What the data sets of one section have in common: grid, paths, length and rate of the clips."""

    def __init__(self, grid, paths, audio_length, sample_rate, on_bad_audio="raise"):
        if audio_length != grid.audio_len:
            raise ValueError(f"audio_length is {audio_length} s, but encoder.audio_len is {grid.audio_len} s")
        self.grid, self.paths = grid, paths
        self.audio_length, self.sample_rate = audio_length, sample_rate
        self.on_bad_audio = on_bad_audio
        self._names = {}
        self._cache = None
        folder = config_path(paths, "audio_cache")
        if folder and os.path.isdir(folder):
            logger.info("audio is read from the cache t4_paths.audio_cache = %s where it has it", folder)
            self._cache = CachedAudio(folder, sample_rate)

    def clips(self, name, table=None, valid=None, source=None, aliases=None, pseudo=False, exclude=False):
        """Labelled clips of a data set: all of its table, or the rows of ``table``."""
        entry = DATASETS[name]
        source = entry.source if source is None else source
        pseudo = self._pseudo(name) if pseudo else None
        left_out = self._excluded(name) if exclude else set()
        if entry.table is None:
            files = [path for path in self.files(name) if os.path.basename(path) not in left_out]
            return self.unlabelled(files, source, valid, self.reader(name), pseudo)
        table = self.table(name) if table is None else table
        table = table[~table["filename"].isin(left_out)]
        if entry.source is Source.WEAK:
            labels = WeakLabels(add_weak_aliases(table, aliases or {}), self.grid)
        else:
            table = table if pseudo is None else _with_events_or_pseudo(name, table, pseudo)
            labels = StrongLabels(add_aliases(table, aliases or {}), self.grid)
        files = self.files(name, labels.filenames)
        reader = self.reader(name)
        return Clips(files, source, valid, reader, self.grid, labels, pseudo, self.on_bad_audio, table)

    def unlabelled(self, files, source, valid, reader, pseudo=None):
        """Clips of which only the audio is known."""
        return Clips(files, source, valid, reader, self.grid, pseudo=pseudo, on_bad_audio=self.on_bad_audio)

    def table(self, name):
        """Labels of a data set."""
        return read_labels(self.paths, name)

    def files(self, name, needed=None):
        """Paths of the needed files of a data set, or of all in its folder.

        Raises:
            DataMissing: no folder, nothing in it, or not all that is needed.
        """
        entry = DATASETS[name]
        folder, key = find_folder(self.paths, entry.folder, self.sample_rate)
        count = entry.expected if needed is None else len(needed)
        if folder is None:
            keys = folder_keys(entry.folder, self.sample_rate)
            tried = ", ".join(f"t4_paths.{key} = {config_path(self.paths, key)}" for key in keys)
            raise DataMissing(f"{name}: 0 audio files found, no such folder ({tried}){expected_clips(count)}")
        if folder not in self._names:
            self._names[folder] = audio_names(folder)
        there = self._names[folder]
        if needed is None:
            needed = sorted(there)
            if not needed:
                raise DataMissing(f"{name}: 0 audio files found in t4_paths.{key} = {folder}{expected_clips(count)}")
        missing = [file for file in needed if file not in there]
        if missing:
            table = f"t4_paths.{entry.table} = {config_path(self.paths, entry.table)}"
            raise DataMissing(
                f"{name}: {len(needed) - len(missing)} audio files found in t4_paths.{key} = {folder}, "
                f"{len(needed)} expected by {table}; first missing: {missing[0]}"
            )
        return [os.path.join(folder, file) for file in needed]

    def reader(self, name):
        """Reads the data set's audio; resamples when its folder has another rate by its name."""
        folder, key = find_folder(self.paths, DATASETS[name].folder, self.sample_rate)
        resample = key.endswith("_44k") or self.sample_rate != FOLDER_RATE
        if resample:
            logger.info("%s: reading t4_paths.%s = %s, resampled to %d Hz", name, key, folder, self.sample_rate)
        return self.make_reader(resample)

    def make_reader(self, resample):
        """An :class:`AudioReader` of this section's clips."""
        return AudioReader(self.sample_rate, self.audio_length, resample=resample, cache=self._cache)

    def _pseudo(self, name):
        path = pseudo_path(self.paths, name)
        if not os.path.isfile(path):
            raise DataMissing(
                f"{name}: no pseudo-labels t4_paths.pseudo_labels = {path}; "
                "training.use_pseudo_labels=False does without"
            )
        return PseudoLabels(path, self.grid)

    def _excluded(self, name):
        """File names on the data set's list of overlapping clips."""
        key = DATASETS[name].exclude
        if key is None:
            return set()
        path = config_path(self.paths, key)
        if path is None or not os.path.isfile(path):
            raise DataMissing(
                f"{name}: no list t4_paths.{key} = {path}; training.exclude_overlapping=False does without"
            )
        return set(read_table(path, ("filename",))["filename"])


def _with_events_or_pseudo(name, table, pseudo):
    """Leaves out clips that have neither events nor pseudo-labels: the published files of those lack them."""
    unknown = table["event_label"].isna() & ~table["filename"].map(lambda file: clip_id(file) in pseudo).astype(bool)
    if unknown.any():
        logger.info("%s: %d clips have neither events nor pseudo-labels and are left out", name, unknown.sum())
    return table[~unknown]


def _joined(datasets):
    return datasets[0] if len(datasets) == 1 else Concat(datasets)


def _wavmix_sources(target):
    strong = {Source.MAESTRO, Source.REAL, Source.SYNTH}
    targets = {
        "strong": strong,
        "labeled": strong | {Source.WEAK},
        "all": strong | {Source.WEAK, Source.UNLABELED},
    }
    if target not in targets:
        raise ValueError(f"training.wavmix_target is '{target}', expected one of {', '.join(targets)}")
    return targets[target]
