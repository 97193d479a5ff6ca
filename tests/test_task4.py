"""The data sets of the task on a tiny complete tree: order, labels, splits, folders, and what is missing."""

import inspect
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
import torch
from torch.utils.data import DataLoader

from data_util import task4
from data_util.cache import CachedAudio, build_cache
from data_util.classes import CLASSES, DESED_CLASSES, desed_mask, maestro_mask
from data_util.clips import Concat
from data_util.errors import BadAudio, DataMissing, TableError, WrongSampleRate
from data_util.events import FrameGrid, encode_strong, make_events, read_events
from data_util.mixing import DeviceResponse, WavMix
from data_util.samplers import SourceBatchSampler
from data_util.samples import TRAINING_SOURCES, Source
from helpers.scores import events_of_table
from tests.reference import golden
from tests.synthetic import EMPTY, make_task4

SECONDS = 1.5
GRID = FrameGrid(audio_len=SECONDS)
# What keeps an item the same every time.
PLAIN = dict(audio_length=SECONDS, wavmix_p=0.0)


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """Read only: (root, paths)."""
    root = tmp_path_factory.mktemp("task4")
    return root, make_task4(root, seconds=SECONDS, grid=GRID)


@pytest.fixture
def paths(tree):
    return dict(tree[1])


@pytest.fixture
def own(tree, tmp_path):
    """Paths of a copy that a test may damage."""
    shutil.copytree(tree[0], tmp_path / "copy")
    return {key: path.replace(str(tree[0]), str(tmp_path / "copy")) for key, path in tree[1].items()}


def names(dataset):
    return [Path(dataset[i]["filename"]).name for i in range(len(dataset))]


# -- splits ----------------------------------------------------------------------------------------
def test_maestro_split_as_published():
    expected = golden("sed/data_preparation.json")["maestro_split"]
    table = pd.DataFrame({"filename": np.repeat(expected["filenames"], 2), "onset": 0.0})
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    train, valid = task4.split_maestro(table, 0.9, 42)
    assert list(train["filename"].unique()) == expected["train"]
    assert list(valid["filename"].unique()) == [name for name in expected["filenames"] if name not in expected["train"]]
    assert len(train) + len(valid) == len(table)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_weak_split_as_published():
    expected = golden("sed/data_preparation.json")["weak_split"]
    table = pd.DataFrame({"filename": [f"w{i}.wav" for i in range(expected["n"])]})
    train, valid = task4.split_weak(table, expected["frac"], expected["random_state"])
    assert (list(train["filename"]), list(valid["filename"])) == (expected["train"], expected["valid"])


# -- training --------------------------------------------------------------------------------------
def test_training_set(paths):
    data = task4.training_set(GRID, paths, **PLAIN)
    assert [len(part) for part in data.datasets] == [12, 7, 4, 10, 3]
    assert len(data) == 36
    for source, part in zip(TRAINING_SOURCES, data.datasets):
        mask = maestro_mask(True) if source is Source.MAESTRO else desed_mask(True)
        for i in range(len(part)):
            sample = part[i]
            assert sample["source"] == source
            np.testing.assert_array_equal(sample["valid"], mask)
            assert sample["audio"].shape == (24000,)
            assert not (sample["strong"].any(dim=1) & ~sample["valid"]).any()
            assert sample["weak"].any() == (source is not Source.UNLABELED)
            if source is Source.WEAK:
                assert not sample["strong"].any()
            else:
                torch.testing.assert_close(sample["weak"], sample["strong"].amax(dim=1).gt(0).float())
            assert 0 < sample["pseudo"].min() < sample["pseudo"].max() < 1


def test_training_labels(paths):
    data = task4.training_set(GRID, paths, **PLAIN)
    rows = read_events(paths["synth_tsv"])
    for i, name in enumerate(names(data.datasets[2])):
        events = [tuple(row) for row in rows[rows["filename"] == name].itertuples(index=False)]
        aliases = {"Dishes": "cutlery and dishes", "Speech": "people talking"}
        events += [(*row[:3], aliases[row[3]]) for row in events if row[3] in aliases]
        expected = encode_strong(make_events(*zip(*[(label, on, off) for _, on, off, label in events])), GRID)
        np.testing.assert_array_equal(data.datasets[2][i]["strong"], expected)
    soft = data.datasets[0][0]["strong"][:, 2]
    assert soft[CLASSES.index("Dishes")] == soft[CLASSES.index("cutlery and dishes")] > 0
    assert soft[CLASSES.index("Speech")] == soft[CLASSES.index("announcement")] > 0  # the last alias in the list


def test_training_without_aliases(paths):
    options = dict(use_desed_maestro_alias=False, use_maestro_desed_alias=False)
    data = task4.training_set(GRID, paths, **PLAIN, **options)
    for source, part in zip(TRAINING_SOURCES, data.datasets):
        mask = maestro_mask() if source is Source.MAESTRO else desed_mask()
        weak = torch.stack([part[i]["weak"] for i in range(len(part))]).amax(dim=0).bool()
        np.testing.assert_array_equal(part[0]["valid"], mask)
        assert not (weak & ~torch.from_numpy(mask)).any()


def test_excluded_files(paths):
    for exclude, counts in ((True, [12, 7, 4, 10, 3]), (False, [12, 8, 4, 11, 4])):
        data = task4.training_set(GRID, paths, **PLAIN, exclude_overlapping=exclude)
        assert [len(part) for part in data.datasets] == counts
        everything = [name for part in data.datasets for name in names(part)]
        listed = {"strong_train_01.wav", "weak_train_01.wav", "unlabeled_train_01.wav"}
        assert listed & set(everything) == (set() if exclude else listed)
        assert names(data.datasets[4]) == sorted(names(data.datasets[4]))


def test_what_is_included(paths):
    data = task4.training_set(GRID, paths, **PLAIN, include_external_strong=False)
    assert [len(part) for part in data.datasets] == [12, 3, 4, 10, 3]
    data = task4.training_set(GRID, paths, **PLAIN, include_desed_test=True, include_maestro_test=True)
    assert [len(part) for part in data.datasets] == [20, 11, 4, 10, 3]
    assert {data.datasets[1][i]["source"] for i in range(11)} == {Source.REAL}
    assert EMPTY in names(data.datasets[1])


def test_without_pseudo_labels(own):
    shutil.rmtree(Path(own["pseudo_labels"]).parent)
    data = task4.training_set(GRID, own, **PLAIN, use_pseudo_labels=False)
    assert not any(data[i]["pseudo"].any() for i in range(0, len(data), 5))
    with pytest.raises(
        DataMissing, match=r"no pseudo-labels t4_paths\.pseudo_labels = .*_train\.hdf5; training\.use_pseu"
    ):
        task4.training_set(GRID, own, **PLAIN)


def test_pseudo_labels_of_another_length(paths):
    with pytest.raises(ValueError, match=r"\.hdf5: strong_logits has shape \(\d+, 23, 27\), expected \(\d+, 11, 27\)"):
        task4.training_set(FrameGrid(audio_len=SECONDS, net_pooling=8), paths, **PLAIN)


def without_pseudo_labels(paths, name, clip):
    """Removes a clip from a file of pseudo-labels."""
    with h5py.File(paths["pseudo_labels"].format(name), "a") as file:
        clips, logits = file["filenames"].asstr()[:], file["strong_logits"][:]
        keep = clips != clip
        assert keep.sum() == len(clips) - 1
        del file["filenames"], file["strong_logits"]
        file["filenames"], file["strong_logits"] = list(clips[keep]), logits[keep]


def test_published_pseudo_labels_lack_clips_without_events(own, caplog):
    caplog.set_level("INFO")
    without_pseudo_labels(own, "devtest", EMPTY[:-4])
    data = task4.training_set(GRID, own, **PLAIN, include_desed_test=True)
    assert EMPTY not in names(data.datasets[1])
    assert len(data.datasets[1]) == 10
    assert "devtest: 1 clips have neither events nor pseudo-labels and are left out" in caplog.text
    assert EMPTY in names(task4.test_set(GRID, own, SECONDS).datasets[1])


def test_clip_with_events_but_without_pseudo_labels(own):
    without_pseudo_labels(own, "synth_train", "synth_train_02")
    with pytest.raises(ValueError, match=r"synth_train\.hdf5: no pseudo-labels for 1 of 4 clips: synth_train_02"):
        task4.training_set(GRID, own, **PLAIN)


@pytest.mark.parametrize(
    ("target", "mixed"),
    [
        ("strong", {Source.MAESTRO, Source.REAL, Source.SYNTH}),
        ("labeled", {Source.MAESTRO, Source.REAL, Source.SYNTH, Source.WEAK}),
        ("all", set(TRAINING_SOURCES)),
    ],
)
def test_wavmix_targets(paths, target, mixed):
    data = task4.training_set(GRID, paths, audio_length=SECONDS, wavmix_p=0.5, wavmix_target=target)
    assert {s for s, part in zip(TRAINING_SOURCES, data.datasets) if isinstance(part, WavMix)} == mixed
    assert all(part.rate == 0.5 for part in data.datasets if isinstance(part, WavMix))
    data[0, (1, 2, 3)]


@pytest.mark.parametrize("wavmix_p", [0.0, 0.5])
def test_unknown_wavmix_target(paths, wavmix_p):
    with pytest.raises(ValueError, match=r"training\.wavmix_target is 'weak', expected one of strong, labeled, all"):
        task4.training_set(GRID, paths, audio_length=SECONDS, wavmix_p=wavmix_p, wavmix_target="weak")


def test_device_responses(paths, tmp_path):
    soundfile.write(tmp_path / "mic.wav", np.eye(1, 3200)[0], 16000)
    options = dict(audio_length=SECONDS, dir_p=1.0, dir_folder=tmp_path)
    flags = ["dir_maestro", "dir_desed_strong", "dir_weak", "dir_unlabeled"]
    covered = [{0}, {1, 2}, {3}, {4}]
    for flag, numbers in zip(flags, covered):
        data = task4.training_set(GRID, paths, **options, **{name: name == flag for name in flags})
        assert {i for i, part in enumerate(data.datasets) if isinstance(part, DeviceResponse)} == numbers
    data = task4.training_set(GRID, paths, **options)
    assert isinstance(data.datasets[0].dataset, WavMix)  # mixed first, then recorded by one device
    assert data[0, (1, 2)]["audio"].shape == (24000,)
    with pytest.raises(DataMissing, match=r"dir_folder = .*nowhere, 0 wav files"):
        task4.training_set(GRID, paths, **{**options, "dir_folder": tmp_path / "nowhere"})


def test_options_are_those_of_the_published_config():
    config = golden("config_ex_stage1.json")
    loader = set(inspect.signature(DataLoader).parameters) | {"dataset", "batch_sizes", "train", "validate", "test"}
    ours = {"training": task4.training_set, "validation": task4.validation_set, "test": task4.test_set}
    for section, function in ours.items():
        entries = {k.split(".")[1]: v for k, v in config.items() if k.startswith(f"{section}.")}
        defaults = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
        expected = {name: value for name, value in entries.items() if name not in loader}
        added = {"dir_folder": None, "on_bad_audio": "raise"} if section == "training" else {}
        assert defaults == expected | added


def test_batches_from_loader_processes(paths):
    data = task4.training_set(GRID, paths, audio_length=SECONDS)
    sampler = SourceBatchSampler([len(part) for part in data.datasets], (3, 2, 1, 3, 1))
    runs = []
    for workers in (0, 2):
        sampler.set_epoch(1)
        runs.append(list(DataLoader(data, batch_sampler=sampler, num_workers=workers)))
    assert len(runs[0]) == 3
    assert {key: tuple(value.shape) for key, value in runs[0][0].items() if torch.is_tensor(value)} == {
        "audio": (10, 24000),
        "strong": (10, 27, 23),
        "weak": (10, 27),
        "pseudo": (10, 27, 23),
        "valid": (10, 27),
        "source": (10,),
    }
    for one, two in zip(*runs):
        assert one["source"].tolist() == [0] * 3 + [1] * 2 + [2] + [3] * 3 + [4]
        assert one["filename"] == two["filename"]
        assert all(torch.equal(one[key], two[key]) for key in one if torch.is_tensor(one[key]))
        assert (one["valid"].dtype, one["source"].dtype) == (torch.bool, torch.int64)


# -- evaluation ------------------------------------------------------------------------------------
def test_validation_set(paths):
    data = task4.validation_set(GRID, paths, audio_length=SECONDS)
    assert [len(part) for part in data.datasets] == [4, 4, 1, 4]
    sources = [part[0]["source"] for part in data.datasets]
    assert sources == [Source.SYNTH, Source.REAL, Source.WEAK, Source.MAESTRO]
    masks = [desed_mask()] * 3 + [maestro_mask(True)]
    for part, mask in zip(data.datasets, masks):
        np.testing.assert_array_equal(part[0]["valid"], mask)
    training = task4.training_set(GRID, paths, **PLAIN, exclude_overlapping=False)
    for held_out, source, total in ((2, Source.WEAK, 12), (3, Source.MAESTRO, 16)):
        theirs, ours = set(names(training.datasets[source])), set(names(data.datasets[held_out]))
        assert not theirs & ours
        assert len(theirs | ours) == total


def test_evaluation_labels_have_no_aliases(paths):
    data = task4.validation_set(GRID, paths, audio_length=SECONDS)
    for part in data.datasets[:2]:
        active = torch.stack([part[i]["weak"] for i in range(len(part))]).sum(dim=0)
        np.testing.assert_array_equal(active > 0, [name in DESED_CLASSES for name in CLASSES])
    maestro = torch.stack([data.datasets[3][i]["weak"] for i in range(4)]).sum(dim=0)
    np.testing.assert_array_equal(maestro > 0, maestro_mask())


def test_test_set(paths):
    data = task4.test_set(GRID, paths, audio_length=SECONDS)
    assert [len(part) for part in data.datasets] == [4, 4, 8]
    assert [part[0]["source"] for part in data.datasets] == [Source.REAL, Source.DEVTEST, Source.MAESTRO]
    assert EMPTY in names(data.datasets[1])  # clips without events are part of the set
    truth = events_of_table(data.datasets[1].table)
    assert truth == events_of_table(read_events(paths["test_tsv"]))
    assert truth[EMPTY[:-4]] == []
    assert list(truth) == data.datasets[1].clip_ids


def test_evaluation_sets_are_deterministic(paths):
    for data in (task4.validation_set(GRID, paths, SECONDS), task4.test_set(GRID, paths, SECONDS)):
        torch.testing.assert_close(data[0]["audio"], data[0]["audio"], rtol=0, atol=0)
        batch = next(iter(DataLoader(data, batch_size=len(data))))
        assert len(batch["filename"]) == len(data)


@pytest.mark.parametrize("name", task4.DATASETS)
def test_wav_set(paths, name):
    data = task4.wav_set(GRID, paths, name, audio_length=SECONDS)
    expected = {"weak_train": 12, "maestro_real_train": 16, "maestro_real_dev": 8}.get(name, 4)
    assert len(data) == expected
    sample = data[0]
    assert sample["valid"].all()
    assert not sample["strong"].any()
    assert sample["source"] == task4.DATASETS[name].source
    if name.startswith("external"):  # one folder, two tables
        assert all(clip.startswith(name) for clip in data.clip_ids)


def test_wav_set_of_any_folder(paths, tmp_path):
    for name, rate in (("b.wav", 16000), ("a.flac", 44100)):
        soundfile.write(tmp_path / name, np.full(rate, 0.1), rate)
    (tmp_path / "notes.txt").write_text("no audio")
    data = task4.wav_set(GRID, paths, str(tmp_path), audio_length=SECONDS)
    assert data.clip_ids == ["a", "b"]
    assert data[0]["audio"].shape == (24000,)
    with pytest.raises(ValueError, match="'nowhere' is neither a folder nor a data set, expected one of strong_train"):
        task4.wav_set(GRID, paths, "nowhere", audio_length=SECONDS)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataMissing, match=r"0 audio files in .*none"):
        task4.wav_set(GRID, paths, str(tmp_path / "none"), audio_length=SECONDS)


# -- folders and sample rates ----------------------------------------------------------------------
def test_original_sample_rate_is_resampled(tmp_path, caplog):
    caplog.set_level("INFO")
    paths = make_task4(tmp_path, clips=2, seconds=SECONDS, sample_rate=44100, grid=GRID)
    data = task4.test_set(GRID, paths, SECONDS)
    sample = data.datasets[1][1]
    assert sample["filename"].startswith(paths["test_folder_44k"])
    original, rate = soundfile.read(sample["filename"], dtype="float32")
    assert rate == 44100
    np.testing.assert_array_equal(sample["audio"], soxr.resample(original, 44100, 16000))
    assert (
        f"devtest: reading t4_paths.test_folder_44k = {paths['test_folder_44k']}, resampled to 16000 Hz" in caplog.text
    )


def test_other_sample_rates(paths, tmp_path):
    data = task4.test_set(GRID, paths, SECONDS, sample_rate=32000)
    sample = data.datasets[1][1]
    assert sample["audio"].shape == (48000,)
    assert sample["strong"].shape == (27, 23)
    original, _ = soundfile.read(sample["filename"], dtype="float32")
    np.testing.assert_array_equal(sample["audio"], soxr.resample(original, 16000, 32000))
    originals = str(tmp_path / "originals")
    shutil.copytree(paths["test_folder"], originals)
    for rate, folder in ((16000, paths["test_folder"]), (32000, originals)):  # the higher rate where there are both
        data = task4.test_set(GRID, {**paths, "test_folder_44k": originals}, SECONDS, sample_rate=rate)
        assert Path(data.datasets[1].files[0]).parent == Path(folder)


def test_wrong_sample_rate(own):
    path = Path(own["test_folder"]) / EMPTY
    soundfile.write(path, np.zeros(22050), 22050)
    data = task4.test_set(GRID, own, SECONDS)
    with pytest.raises(WrongSampleRate, match=rf"{EMPTY}: sample rate 22050 Hz, expected 16000 Hz"):
        [data[i] for i in range(len(data))]


def test_home_folder(paths, monkeypatch):
    root = os.path.commonpath([paths["test_folder"], paths["strong_tsv_exclude"]])
    monkeypatch.setenv("HOME", root)
    data = task4.test_set(GRID, {key: path.replace(root, "~") for key, path in paths.items()}, SECONDS)
    assert len(data) == 16


def test_audio_length_is_that_of_the_grid(paths):
    with pytest.raises(ValueError, match=r"audio_length is 10\.0 s, but encoder\.audio_len is 1\.5 s"):
        task4.test_set(GRID, paths)


def test_folders_are_listed_and_files_left_alone(paths, monkeypatch):
    looked_at = []
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_at.append(str(path)) or isfile(path))
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_: pytest.fail("a constructor opened a file"))
    task4.training_set(GRID, paths, **PLAIN)
    assert not [path for path in looked_at if path.endswith(".wav")]


def test_bad_audio(own, caplog):
    folder = Path(own["synth_folder"])
    (folder / "synth_train_02.wav").write_bytes(b"broken")
    data = task4.training_set(GRID, own, **PLAIN).datasets[2]
    with pytest.raises(BadAudio, match=r"synth_train_02\.wav: not readable as audio"):
        data[2]
    data = task4.training_set(GRID, own, **PLAIN, on_bad_audio="skip").datasets[2]
    assert names(data) == [f"synth_train_{i:02d}.wav" for i in (0, 1, 3, 3)]
    assert sum("synth_train_02.wav" in record.getMessage() for record in caplog.records) == 1


# -- cache -----------------------------------------------------------------------------------------
def test_cached_audio(paths, tmp_path, monkeypatch):
    files = task4.audio_files(paths)
    assert len(files) == len(set(files)) == 9 * 4 + 12 + 16 + 8
    assert build_cache(files, tmp_path / "cache") == len(files)
    plain, cached = (
        task4.training_set(GRID, p, audio_length=SECONDS) for p in (paths, {**paths, "audio_cache": tmp_path / "cache"})
    )
    read = CachedAudio.read
    hits = []
    monkeypatch.setattr(CachedAudio, "read", lambda self, path: hits.append(path) or read(self, path))
    for i in range(0, len(plain), 3):
        assert torch.equal(plain[i, (1, 2, i)]["audio"], cached[i, (1, 2, i)]["audio"])
    assert len(hits) >= len(plain) / 3
    assert all(read(CachedAudio(tmp_path / "cache"), path) is not None for path in hits)


# -- what is missing -------------------------------------------------------------------------------
def build_everything(paths):
    task4.training_set(GRID, paths, **PLAIN)
    task4.validation_set(GRID, paths, SECONDS)
    task4.test_set(GRID, paths, SECONDS)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "weak_folder",
            r"weak_train: 0 audio files found, no such folder \(t4_paths\.weak_folder = .*weak_16k/?, .*, 10 exp",
        ),
        (
            "unlabeled_folder",
            r"unlabeled_train: 0 audio files found, no such .*t4_paths\.unlabeled_folder.*, 14412 expected",
        ),
        ("test_folder", r"devtest: 0 audio files found, no such folder \(t4_paths\.test_folder = .*, 4 expected"),
        (
            "real_maestro_val_folder",
            r"maestro_real_dev: 0 audio files found, .*t4_paths\.real_maestro_val_folder.*, 8 expe",
        ),
    ],
)
def test_missing_folder(own, key, message):
    shutil.rmtree(own[key])
    with pytest.raises(DataMissing, match=message) as error:
        build_everything(own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("synth_tsv", r"synth_train: no table t4_paths\.synth_tsv = .*soundscapes\.tsv, 10000 expected"),
        ("real_maestro_train_tsv", r"maestro_real_train: no table t4_paths\.real_maestro_train_tsv = .*\.tsv"),
        (
            "weak_tsv_exclude",
            r"weak_train: no list t4_paths\.weak_tsv_exclude = .*; training\.exclude_overlapping=False",
        ),
    ],
)
def test_missing_table(own, key, message):
    os.remove(own[key])
    with pytest.raises(DataMissing, match=message):
        build_everything(own)
    with pytest.raises(DataMissing, match=message.split(" = ")[0] + " = None"):
        build_everything({name: path for name, path in own.items() if name != key})


def test_some_files_missing(own):
    for number in (2, 3):
        os.remove(Path(own["external_strong_folder"]) / f"external_strong_train_{number:02d}.wav")
    message = (
        r"external_strong_train: 2 audio files found in t4_paths\.external_strong_folder = \S+, 4 expected by "
        r"t4_paths\.external_strong_train_tsv = \S+; first missing: external_strong_train_02\.wav"
    )
    with pytest.raises(DataMissing, match=message):
        task4.training_set(GRID, own, **PLAIN)


def test_empty_folder(own):
    for path in Path(own["unlabeled_folder"]).iterdir():
        path.unlink()
    message = r"unlabeled_train: 0 audio files found in t4_paths\.unlabeled_folder = .*, 14412 expected"
    with pytest.raises(DataMissing, match=message):
        task4.training_set(GRID, own, **PLAIN)


def test_wrong_table(own):
    table = Path(own["strong_tsv"])
    table.write_text(table.read_text().replace("Frying", "Fryng"))
    with pytest.raises(
        TableError, match=r"audioset_strong\.tsv, row \d+ .*unknown class 'Fryng' \(did you mean 'Frying'"
    ):
        task4.training_set(GRID, own, **PLAIN)


def test_maestro_table_without_confidence(own):
    table = pd.read_csv(own["real_maestro_val_tsv"], sep="\t").drop(columns="confidence")
    table.to_csv(own["real_maestro_val_tsv"], sep="\t", index=False)
    with pytest.raises(TableError, match=r"maestro_real_validation\.tsv: no column 'confidence'"):
        task4.test_set(GRID, own, SECONDS)


# -- check_data ------------------------------------------------------------------------------------
def test_check_data(own):
    rows = {row.name: row for row in task4.check_data(own, use_pseudo_labels=True)}
    assert list(rows) == list(task4.DATASETS)
    weak, maestro, unlabeled = rows["weak_train"], rows["maestro_real_dev"], rows["unlabeled_train"]
    assert (weak.found, weak.listed, weak.expected, weak.ok) == (12, 12, 1578, False)
    assert weak.problem == "12 clips, the published set has 1578"
    assert (maestro.found, maestro.listed, maestro.expected, maestro.ok) == (8, 8, None, True)
    assert (unlabeled.found, unlabeled.listed, unlabeled.expected) == (4, None, 14412)
    assert maestro.folder == own["real_maestro_val_folder"]


def test_check_data_names_problems(own):
    shutil.rmtree(own["real_maestro_val_folder"])
    os.remove(Path(own["external_strong_folder"]) / "external_strong_val_00.wav")
    os.remove(own["external_strong_dur"])
    os.remove(own["test_tsv"])
    os.remove(own["pseudo_labels"].format("maestro_real_train"))
    Path(own["synth_tsv"]).write_text("filename\n")
    rows = {row.name: row for row in task4.check_data(own, use_pseudo_labels=True)}
    assert (rows["maestro_real_dev"].found, rows["maestro_real_dev"].listed) == (0, 8)
    assert rows["maestro_real_dev"].problem == "no such folder"
    first, second = rows["external_strong_val"].problem.split("; ")
    assert first == "1 files of the table are missing, first external_strong_val_00.wav"
    assert second.startswith("no file t4_paths.external_strong_dur = ")
    assert rows["external_strong_val"].found == 3
    assert rows["devtest"].problem.startswith("devtest: no table t4_paths.test_tsv = ")
    assert rows["maestro_real_train"].problem.startswith("no file t4_paths.pseudo_labels = ")
    assert "no column 'onset'" in rows["synth_train"].problem
    assert rows["external_strong_train"].ok


def test_check_data_leaves_out_what_the_config_does_not_name(paths):
    known = {key: path for key, path in paths.items() if not key.startswith("eval_")}
    assert [row.name for row in task4.check_data(known)] == list(task4.DATASETS)[:-2]


def test_concatenations_are_keyed(paths):
    data = task4.training_set(GRID, paths, audio_length=SECONDS)
    assert isinstance(data, Concat)
    assert isinstance(data.datasets[1].dataset, Concat)
