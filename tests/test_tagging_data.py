"""Tagging data sets: their layouts, the clips as samples, and what is missing or wrong in them."""

import logging

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch.utils.data import DataLoader

from data_util import tagging_clips
from data_util.audio import read
from data_util.class_tables import audioset_ids, class_names
from data_util.errors import BadAudio, DataMissing, TableError
from data_util.listings import read_csv
from data_util.loaders import evaluation_loader
from data_util.tagging import DATASETS, evaluation_set, training_set
from data_util.tagging_clips import AudioFiles, TaggingClips, read_clip, report_unreadable
from tests.tagging_sets import (
    RATE,
    audio_bytes,
    make_audioset,
    make_dcase20,
    make_esc50,
    make_folder,
    make_fsd50k,
    make_openmic,
    noise,
    packed_labels,
    write,
    write_packed,
    write_table,
)

KEY = (42, 3, 0)


def active(sample):
    return sample["target"].nonzero().flatten().tolist()


def labels_of(dataset):
    """{end of the file name: names of the active classes} of all clips."""
    found = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        found["/".join(sample["filename"].split("/")[-2:])] = [dataset.classes[number] for number in active(sample)]
    return found


def clips(files, **options):
    targets = packed_labels([[number] for number in range(len(files))], 9)
    return TaggingClips(AudioFiles(files), tuple("abcdefghi"), targets, **options)


# -- classes ---------------------------------------------------------------------------------------
def test_class_lists():
    sizes = {"audioset": 527, "fsd50k": 200, "esc50": 50, "dcase20": 10, "openmic": 20}
    assert {name: len(set(class_names(name))) for name in sizes} == sizes
    audioset = class_names("audioset")
    assert (audioset[0], audioset[137], audioset[526]) == ("Speech", "Music", "Field recording")
    assert audioset[1] == "Male speech, man speaking"
    assert (audioset_ids()[0], audioset_ids()[526]) == ("/m/09x0r", "/m/07hvw1")
    fsd50k = class_names("fsd50k")
    assert (fsd50k[53], fsd50k[69]) == ("Crushing", "Electric_guitar")  # as in the published vocabulary
    assert list(fsd50k) == sorted(fsd50k)
    assert (class_names("esc50")[0], class_names("esc50")[49]) == ("dog", "hand_saw")
    assert class_names("openmic")[9] == "mallet_percussion"
    assert list(class_names("dcase20")) == sorted(class_names("dcase20"))


# -- clips -----------------------------------------------------------------------------------------
def test_sample(tmp_path):
    files = [write(tmp_path / f"{seconds}.wav", seconds, subtype="FLOAT") for seconds in (0.5, 1, 2)]
    data = clips(files, clip_length=1.0)
    sample = data[2]
    assert list(sample) == ["audio", "target", "filename", "index"]
    assert (sample["filename"], sample["index"], active(sample)) == (files[2], 2, [2])
    assert sample["audio"].dtype == sample["target"].dtype == torch.float32
    assert sample["target"].shape == (9,)
    np.testing.assert_array_equal(sample["audio"], noise(2)[:RATE])
    np.testing.assert_array_equal(data[1]["audio"], noise(1))
    padded = data[0]["audio"]
    assert len(padded) == RATE
    np.testing.assert_array_equal(padded[: RATE // 2], noise(0.5))
    assert not padded[RATE // 2 :].any()
    np.testing.assert_array_equal(data[-1]["audio"], sample["audio"])


def test_training_crops_by_the_key_and_evaluation_from_the_start(tmp_path):
    whole = noise(2)
    data = clips([write(tmp_path / "a.wav", 2, subtype="FLOAT")], clip_length=1.0)
    starts = set()
    for seed in range(20):
        audio = data[0, (seed,)]["audio"]
        start = int(np.flatnonzero(whole == audio[0].item())[0])
        np.testing.assert_array_equal(audio, whole[start : start + RATE])
        np.testing.assert_array_equal(audio, data[0, (seed,)]["audio"])
        starts.add(start)
    assert len(starts) == 20
    np.testing.assert_array_equal(data[0]["audio"], whole[:RATE])


def test_whole_recordings(tmp_path):
    files = [write(tmp_path / "a.wav", 1.3, rate=44100), write(tmp_path / "b.wav", 0.25)]
    data = clips(files, clip_length=None)
    assert [len(data[index]["audio"]) for index in range(2)] == [round(1.3 * RATE), RATE // 4]


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 44056])
def test_excerpts_are_parts_of_the_resampled_recording(rate):
    # Not a decimation: what lies above the new band is gone, and an excerpt starts nowhere else than the whole does.
    recording = noise(3, rate=rate)
    whole = soxr.resample(recording, rate, RATE)
    asked = []

    def decode(crop):
        start, samples = crop(len(recording), rate)
        asked.append(samples)
        return recording[start : start + samples, None], rate

    starts = set()
    for seed in range(12):
        clip = read_clip(decode, RATE, RATE, np.random.default_rng(seed))
        start = int(np.random.default_rng(seed).integers(-(-len(recording) * RATE // rate) - RATE + 1))
        np.testing.assert_allclose(clip, whole[start : start + RATE], rtol=0, atol=2e-6)
        starts.add(start)
    assert len(starts) == 12
    assert max(asked) < 1.6 * rate
    np.testing.assert_allclose(read_clip(decode, RATE, RATE), whole[:RATE], rtol=0, atol=2e-6)


def test_resampling_keeps_no_aliases():
    time = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 20000 * time).astype(np.float32)[:, None]  # above the new band
    clip = read_clip(lambda crop: (tone, 48000), RATE)
    assert np.abs(clip[1000:-1000]).max() < 1e-3


def test_only_the_excerpt_of_a_long_file_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "long.flac", 60, rate=44100)
    decoded, original = [], tagging_clips.decode
    monkeypatch.setattr(tagging_clips, "decode", lambda *a: decoded.append(original(*a)) or decoded[-1])
    data = clips([path], clip_length=1.0)
    for key in (None, (1,), (2,)):
        data[0 if key is None else (0, key)]
    assert max(len(audio) for audio, _ in decoded) < 1.3 * 44100
    whole = read(path, RATE, resample=True)
    np.testing.assert_allclose(data[0]["audio"], whole[:RATE], rtol=0, atol=2e-6)


def test_channels_are_averaged(tmp_path):
    path = write(tmp_path / "a.wav", 0.5, channels=8, subtype="FLOAT")
    np.testing.assert_allclose(
        clips([path], clip_length=0.5)[0]["audio"], noise(0.5, channels=8).mean(axis=1), rtol=0, atol=1e-7
    )


def test_silence_stays_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(44100), 44100)
    audio = clips([str(tmp_path / "a.wav")])[0]["audio"]
    assert torch.equal(audio, torch.zeros(10 * RATE))


# -- clips that cannot be read ---------------------------------------------------------------------
def broken_files(folder):
    """A good file, an empty one, one of 10 ms, one that is no audio, and another good one."""
    (folder / "1_empty.wav").write_bytes(b"")
    (folder / "3_text.wav").write_text("no audio")
    return [
        write(folder / "0_good.wav"),
        str(folder / "1_empty.wav"),
        write(folder / "2_short.wav", 0.01),
        str(folder / "3_text.wav"),
        write(folder / "4_good.wav", seed=4),
    ]


def test_another_clip_stands_in_for_one_that_cannot_be_read(tmp_path, caplog):
    files = broken_files(tmp_path)
    data = clips(files)
    for index, expected in enumerate((0, 4, 4, 4, 4)):
        for _ in range(2):
            sample = data[index]
            assert (sample["index"], sample["filename"], active(sample)) == (expected, files[expected], [expected])
    assert data.unreadable == files[1:4]
    assert [record.getMessage().split(": ", 1)[1].split(";")[0] for record in caplog.records] == [
        "not readable as audio (Format not recognised)",
        "0.010 s long, expected at least 0.1 s",
        "not readable as audio (Format not recognised)",
    ]
    caplog.clear()
    assert report_unreadable(data) == files[1:4]
    assert f"3 of 5 clips could not be read: {', '.join(files[1:4])}" in caplog.text


def test_loader_processes_share_what_they_found(tmp_path):
    data = clips(broken_files(tmp_path))
    batches = list(evaluation_loader(data, batch_size=2, num_workers=2))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 4, 4, 4, 4]
    assert len(data.unreadable) == 3


def test_unreadable_clips_can_be_errors(tmp_path):
    files = broken_files(tmp_path)
    data = clips(files, on_bad_audio="raise")
    assert data[0]["index"] == 0
    with pytest.raises(BadAudio, match=r"2_short\.wav: 0\.010 s long, expected at least 0\.1 s"):
        data[2]
    with pytest.raises(BadAudio, match="none of the 2 clips can be read"):
        clips(files[1:3])[0]
    with pytest.raises(ValueError, match=r"data\.on_bad_audio is 'ignore', expected 'raise' or 'skip'"):
        clips(files, on_bad_audio="ignore")


# -- layouts ---------------------------------------------------------------------------------------
def test_esc50_folds(tmp_path):
    make_esc50(tmp_path)
    seen = []
    for fold in range(1, 6):
        train = training_set("esc50", tmp_path, clip_length=0.5, fold=fold)
        test = evaluation_set("esc50", tmp_path, clip_length=0.5, fold=fold)
        assert (len(train), len(test)) == (8, 2)
        assert not set(train.names) & set(test.names)
        assert labels_of(test) == {
            f"audio/{fold}-{100 * fold}-A-0.wav": ["dog"],
            f"audio/{fold}-{100 * fold + 1}-A-1.wav": ["rooster"],
        }
        seen += test.names
    assert len(set(seen)) == 10
    assert (test.multi_label, len(test.classes), test[0]["target"].sum()) == (False, 50, 1)
    for fold in (0, 9):
        with pytest.raises(ValueError, match=rf"^data\.fold is {fold}, expected 1 to 5$"):
            training_set("esc50", tmp_path, fold=fold)


def test_esc50_takes_audio_of_the_right_rate(tmp_path):
    make_esc50(tmp_path, per_fold=1)
    for path in (tmp_path / "audio").iterdir():
        write(tmp_path / "audio_32k" / path.name, seed=7)
    np.testing.assert_allclose(
        evaluation_set("esc50", tmp_path, clip_length=0.5)[0]["audio"], noise(seed=7), rtol=0, atol=1e-4
    )
    assert "audio/" in evaluation_set("esc50", tmp_path, 16000).names[0]


def test_dcase20(tmp_path):
    make_dcase20(tmp_path)
    train = training_set("dcase20", tmp_path, clip_length=1.0)
    assert labels_of(train) == {f"audio/{scene}-lisbon-train-a.wav": [scene] for scene in ("tram", "airport", "park")}
    assert len(evaluation_set("dcase20", tmp_path)) == 3
    assert (train.multi_label, active(train[0])) == (False, [9])


def test_fsd50k(tmp_path):
    make_fsd50k(tmp_path)
    train = training_set("fsd50k", tmp_path, clip_length=1.0)
    assert labels_of(train) == {
        "FSD50K.dev_audio/1.wav": ["Bark", "Dog"],
        "FSD50K.dev_audio/2.wav": ["Rain"],
        "FSD50K.dev_audio/4.wav": ["Zipper_(clothing)"],
    }
    val, test = (evaluation_set("fsd50k", tmp_path, split=split) for split in ("val", "test"))
    assert labels_of(val) == {"FSD50K.dev_audio/3.wav": ["Animal", "Cat", "Meow"]}
    assert labels_of(test) == {"FSD50K.eval_audio/5.wav": ["Accordion"], "FSD50K.eval_audio/6.wav": ["Bark"]}
    lengths = [len(sample["audio"]) for sample in evaluation_set("fsd50k", tmp_path, variable_eval_length=True)]
    assert lengths == [round(seconds * RATE) for seconds in (1.5, 1.8)]
    # Validation always hears the start of a long recording, training any part.
    ends = {train[2, (seed,)]["audio"][-1].item() for seed in range(5)}
    assert len(ends) == 5


def test_audioset_from_files(tmp_path, caplog):
    make_audioset(tmp_path, kind="flac")
    train = training_set("audioset", tmp_path, clip_length=0.5)
    assert len(train) == 7
    assert active(train[0]) == [0, 526]
    assert active(train[3]) == [0, 526]  # the unbalanced part follows the balanced one
    assert "unbalanced_train_segments/Yu-_00000000.flac" in train[3]["filename"]
    assert [len(training_set("audioset", tmp_path, subset=name)) for name in ("balanced", "unbalanced")] == [3, 4]
    (tmp_path / "audio" / "eval_segments" / "Ye-_00000001.flac").unlink()
    assert len(evaluation_set("audioset", tmp_path)) == 1
    assert "audioset: 1 of 2 clips of the tables are there" in caplog.text
    with pytest.raises(ValueError, match=r"data\.subset is 'half', expected one of balanced, unbalanced, full"):
        training_set("audioset", tmp_path, subset="half")


@pytest.mark.parametrize("form", ["Y{}", "{}", "Y{}_30.000_40.000", "{}_30.000"])
def test_audioset_file_names(tmp_path, form):
    names = make_audioset(tmp_path, clips=(0, 0, 2), kind="wav")
    for path in (tmp_path / "audio" / "eval_segments").iterdir():
        path.rename(path.with_name(f"{form.format(path.stem[1:])}.wav"))
    data = evaluation_set("audioset", tmp_path)
    assert [name.split("/")[-1] for name in data.names] == [f"{form.format(name)}.wav" for name in names]


def test_packed_files_are_preferred(tmp_path):
    make_audioset(tmp_path)
    for name, seeds in (("balanced_train", (10, 11)), ("unbalanced_train", (12,)), ("eval", (13,))):
        blobs = [audio_bytes(seed=seed) for seed in seeds]
        targets = packed_labels([[seed, 500] for seed in seeds], 527)
        write_packed(tmp_path / "mp3" / f"{name}_segments_mp3.hdf", blobs, targets)
    train = training_set("audioset", tmp_path, clip_length=0.5)
    assert [active(train[index]) for index in range(3)] == [[10, 500], [11, 500], [12, 500]]
    np.testing.assert_allclose(train[2]["audio"], noise(seed=12), rtol=0, atol=1e-4)
    (tmp_path / "mp3" / "unbalanced_train_segments_mp3.hdf").unlink()
    with pytest.raises(DataMissing, match=r"balanced_train_segments_mp3\.hdf is there, but not all of"):
        training_set("audioset", tmp_path)
    assert len(training_set("audioset", tmp_path, subset="balanced")) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_openmic(tmp_path, packed):
    bass, mallets, voice, clarinet, flute, drums = 2, 9, 19, 4, 7, 6
    if packed:
        targets = np.zeros((2, 40), np.float32)
        targets[0, [bass, mallets, voice]], targets[0, [20 + bass, 20 + mallets, 20 + voice]] = (0.9, 0.6, 0.3), 1
        targets[1, clarinet], targets[1, [20 + clarinet, 20 + flute]] = 0.17, 1
        write_packed(tmp_path / "openmic_train.csv_mp3.hdf", [audio_bytes(), audio_bytes()], targets)
        targets = np.eye(1, 40, drums, np.float32) + np.eye(1, 40, 20 + drums, np.float32)
        write_packed(tmp_path / "openmic_test.csv_mp3.hdf", [audio_bytes()], targets)
    else:
        make_openmic(tmp_path)
    train, test = training_set("openmic", tmp_path, clip_length=0.5), evaluation_set("openmic", tmp_path)
    assert active(train[0]) == [bass, mallets]
    assert train[0]["mask"].nonzero().flatten().tolist() == [bass, mallets, voice]
    assert active(train[1]) == []
    assert train[1]["mask"].nonzero().flatten().tolist() == [clarinet, flute]
    assert set(train[0]["target"].tolist()) == {0, 1}
    assert active(test[0]) == [drums]
    assert test[0]["mask"].sum() == 1


# -- own clips -------------------------------------------------------------------------------------
def test_folder_of_classes(tmp_path):
    make_folder(tmp_path, clips=5)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "deeper").mkdir()
    write(tmp_path / "cat" / "deeper" / "5.flac", rate=8000)
    (tmp_path / "cat" / "notes.txt").write_text("no audio")
    train, test = training_set("folder", tmp_path), evaluation_set("folder", tmp_path)
    assert (train.classes, train.multi_label) == (("cat", "dog", "owl"), False)
    assert (len(train), len(test)) == (13, 3)
    assert not set(train.names) & set(test.names)
    assert sorted(labels_of(test).values()) == [["cat"], ["dog"], ["owl"]]  # a fifth of every class
    for path, names in labels_of(train).items():
        assert names == ["cat" if path.startswith("deeper") else path.split("/")[0]]
    assert evaluation_set("folder", tmp_path).names == test.names
    others = {tuple(evaluation_set("folder", tmp_path, split_seed=seed).names) for seed in range(10)}
    assert len(others) > 5
    half = evaluation_set("folder", tmp_path, test_share=0.5)
    assert len(half) == 3 + 2 + 2
    # More clips of one class leave the split of the others as it is.
    kept = {name for name in test.names if "/cat/" not in name}
    write(tmp_path / "cat" / "6.wav")
    assert {name for name in evaluation_set("folder", tmp_path).names if "/cat/" not in name} == kept


def test_folder_with_parts(tmp_path):
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        make_folder(tmp_path / part, clips=count)
    assert len(training_set("folder", tmp_path)) == 9
    assert [len(evaluation_set("folder", tmp_path, split=split)) for split in ("val", "test")] == [3, 6]
    write(tmp_path / "test" / "fox" / "0.wav")
    with pytest.raises(TableError, match=r"test/fox: unknown class 'fox', expected one of cat, dog, owl$"):
        evaluation_set("folder", tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    make_folder(tmp_path, classes=("bus", "train", "tram"), clips=2)
    assert training_set("folder", tmp_path).classes == ("bus", "train", "tram")


def test_table_of_clips(tmp_path):
    for number in range(6):
        write(tmp_path / "audio" / f"{number}.wav", seed=number)
    rows = [(f"audio/{number}.wav", labels) for number, labels in enumerate(("b,a", "c", "", "a", " c , a ", "b"))]
    write_table(tmp_path / "labels.csv", ("file", "labels"), rows)
    for root in (tmp_path, tmp_path / "labels.csv"):
        train, test = training_set("folder", root), evaluation_set("folder", root)
        assert (train.classes, train.multi_label, test.multi_label) == (("a", "b", "c"), True, True)
        found = {**labels_of(train), **labels_of(test)}
        assert found == {
            f"audio/{n}.wav": labels for n, labels in enumerate((["a", "b"], ["c"], [], ["a"], ["a", "c"], ["b"]))
        }
    assert training_set("folder", tmp_path, classes=["c", "b", "a"]).classes == ("c", "b", "a")


def test_tables_of_two_parts(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.wav")
    write_table(
        tmp_path / "train.csv", ("file", "labels"), [("0.wav", "Speech; Male speech, man speaking"), ("1.wav", "Dog")]
    )
    write_table(tmp_path / "test.csv", ("file", "labels"), [("2.wav", "Male speech, man speaking;Dog")])
    assert labels_of(training_set("folder", tmp_path)).popitem()[1] == ["Dog"]
    assert training_set("folder", tmp_path).classes == ("Dog", "Male speech, man speaking", "Speech")
    assert labels_of(evaluation_set("folder", tmp_path)).popitem()[1] == ["Dog", "Male speech, man speaking"]
    write_table(tmp_path / "test.csv", ("file", "labels"), [("2.wav", "Male speech,Dog")])
    with pytest.raises(TableError, match=r"test\.csv, line 2: unknown class 'Male speech' \(did you mean 'Male sp"):
        evaluation_set("folder", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,labels\na.wav,x\n", r"labels\.csv: no column 'file' \(expected file, labels; found name, labels\)"),
        ("file,labels\na.wav,x,y\n", r"labels\.csv, line 2: 3 fields, expected 2; several labels stand in quotes"),
        ("file,labels\na.wav\n", r"labels\.csv, line 2: 1 fields, expected 2"),
        ("file,labels\na.wav,x\na.wav,y\n", r"labels\.csv, line 3: a\.wav is there twice"),
        ("file,labels\n ,x\n", r"labels\.csv, line 2: the file is empty"),
        ("file,labels\na.wav,\nb.wav,\n", r"no clip has a label"),
        ("file,labels\na.wav,x\nb.wav,y\n", r"every class has one clip, expected two or more"),
        ("file,labels\n", r"labels\.csv: 0 clips, expected at least 1"),
    ],
)
def test_wrong_tables(tmp_path, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises((TableError, DataMissing), match=message):
        training_set("folder", tmp_path)


# -- what is missing or wrong ----------------------------------------------------------------------
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("build", [training_set, evaluation_set])
def test_missing_data_names_the_config_entry(tmp_path, name, build):
    with pytest.raises(DataMissing, match=rf"^{name}: no folder data\.root = None$"):
        build(name)
    with pytest.raises(DataMissing, match=rf"^{name}: no folder data\.root = {tmp_path}/none$"):
        build(name, tmp_path / "none")
    with pytest.raises(DataMissing, match=str(tmp_path)):
        build(name, tmp_path)


def test_missing_files_are_counted(tmp_path):
    make_esc50(tmp_path)
    (tmp_path / "audio" / "2-200-A-0.wav").unlink()
    with pytest.raises(DataMissing, match=r"^esc50: 7 of 8 audio files of the train part .*missing: .*2-200-A-0\.wav$"):
        training_set("esc50", tmp_path)
    assert len(evaluation_set("esc50", tmp_path)) == 2


def test_unknown_names(tmp_path):
    make_esc50(tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'esc10', expected one of audioset, fsd50k, esc50"):
        training_set("esc10", tmp_path)
    with pytest.raises(ValueError, match="esc50 has no part 'val', expected one of train, test"):
        evaluation_set("esc50", tmp_path, split="val")
    with pytest.raises(ValueError, match=r"data\.clip_length is None"):
        training_set("esc50", tmp_path, clip_length=None)
    with pytest.raises(ValueError, match=r"data\.clip_length is 0, expected a number of seconds above 0"):
        evaluation_set("esc50", tmp_path, clip_length=0)
    with pytest.raises(ValueError, match=r"data\.gain_augment is 2\.5, expected whole dB, or 0 for none"):
        training_set("esc50", tmp_path, gain_augment=2.5)
    with pytest.raises(ValueError, match=r"data\.test_share is 1\.5"):
        training_set("folder", tmp_path, test_share=1.5)


FSD50K_TABLE, OPENMIC_TABLE = "FSD50K.ground_truth/dev.csv", "openmic-2018-aggregated-labels.csv"


@pytest.mark.parametrize(
    ("make", "name", "table", "old", "new", "message"),
    [
        (make_esc50, "esc50", "meta/esc50.csv", "rooster", "roster", r"line 3: unknown class 'roster' \(did you mean"),
        (make_esc50, "esc50", "meta/esc50.csv", ",0,dog", ",7,dog", r"line 2: target 7 and fold 1, expected 0"),
        (make_esc50, "esc50", "meta/esc50.csv", ",1,0,dog", ",9,0,dog", r"line 2: target 0 and fold 9, .* and 1 to 5"),
        (make_esc50, "esc50", "meta/esc50.csv", ",1,0,dog", ",0,0,dog", r"line 2: target 0 and fold 0, .* and 1 to 5"),
        (
            make_dcase20,
            "dcase20",
            "evaluation_setup/fold1_train.csv",
            "\tpark",
            "\tpar",
            r"line 4: unknown class 'par'",
        ),
        (make_fsd50k, "fsd50k", FSD50K_TABLE, "Rain", "Rein", r"line 3: unknown class 'Rein' .*200 classes"),
        (
            make_audioset,
            "audioset",
            "balanced_train_segments.csv",
            "/m/09x0r",
            "/m/no",
            r"line 4: unknown class '/m/no'",
        ),
        (make_openmic, "openmic", OPENMIC_TABLE, "0.17", "some", r"line 2: relevance is 'some'"),
    ],
)
def test_wrong_labels(tmp_path, make, name, table, old, new, message):
    make(tmp_path)
    path = tmp_path / table
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(TableError, match=rf"{path.name}, {message}"):
        training_set(name, tmp_path)


@pytest.mark.parametrize("text", ["file,labels\na.wav,Geräusch\n", "file,labels\n" + "a.wav,x\n" * 20000 + "é,x\n"])
def test_tables_of_another_encoding(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(TableError, match=r"labels\.csv: byte 0xe[49] is not UTF-8, expected a table of that encoding"):
        read_csv(tmp_path / "labels.csv", ("file", "labels"))


def test_wrong_label_counts(tmp_path):
    path = tmp_path / "FSD50K.train_mp3.hdf"
    write_packed(path, [audio_bytes()], packed_labels([[3]], 527))
    with pytest.raises(TableError, match=r"shape \(1, 66\), expected 25 columns of packed bits for 200 classes"):
        training_set("fsd50k", tmp_path)
    path = tmp_path / "balanced_train_segments_mp3.hdf"
    write_packed(path, [audio_bytes()] * 2, packed_labels([[3], [527]], 528))
    with pytest.raises(TableError, match=r"row 1 has a label beyond the 527 classes"):
        training_set("audioset", tmp_path, subset="balanced")
    write_packed(tmp_path / "openmic_train.csv_mp3.hdf", [audio_bytes()], np.zeros((1, 20)))
    with pytest.raises(TableError, match=r"shape \(1, 20\), expected 40 columns"):
        training_set("openmic", tmp_path)


# -- cache -----------------------------------------------------------------------------------------
def test_cache_gives_the_same_samples(tmp_path, monkeypatch):
    make_dcase20(tmp_path / "data")
    options = dict(root=tmp_path / "data", clip_length=0.3)
    plain = training_set("dcase20", **options)
    cached = training_set("dcase20", **options, cache_path=tmp_path / "cache")
    expected = [[plain[item]["audio"] for item in (index, (index, KEY))] for index in range(3)]
    monkeypatch.setattr(tagging_clips, "decode", lambda *_: pytest.fail("the file was decoded"))
    for index in range(3):
        for item, audio in zip((index, (index, KEY)), expected[index]):
            np.testing.assert_allclose(cached[item]["audio"], audio, rtol=0, atol=2e-6)
    monkeypatch.setattr("data_util.cache._decode", lambda *_: pytest.fail("the cache was built again"))
    training_set("dcase20", **options, cache_path=tmp_path / "cache")


def test_two_processes_share_one_cache(tmp_path, caplog):
    import fcntl
    import threading

    caplog.set_level(logging.INFO)
    make_dcase20(tmp_path / "data")
    training_set("dcase20", tmp_path / "data", cache_path=tmp_path / "cache")
    with open(next((tmp_path / "cache").rglob("*.pcm")), "ab") as pcm:
        fcntl.flock(pcm, fcntl.LOCK_EX)
        threading.Timer(0.2, lambda: fcntl.flock(pcm, fcntl.LOCK_UN)).start()
        assert len(training_set("dcase20", tmp_path / "data", cache_path=tmp_path / "cache")) == 3
    assert "waiting: " in caplog.text


def test_packed_clips_are_not_cached(tmp_path):
    write_packed(tmp_path / "FSD50K.train_mp3.hdf", [audio_bytes()], packed_labels([[3]], 200))
    with pytest.raises(ValueError, match=r"data\.cache_path .* is packed: leave it out"):
        training_set("fsd50k", tmp_path, cache_path=tmp_path)


# -- real recordings -------------------------------------------------------------------------------
@pytest.mark.data
def test_real_recordings(real_data):
    esc50 = evaluation_set("esc50", real_data / "esc50", clip_length=5.0, fold=3)
    batch = next(iter(DataLoader(esc50, batch_size=10)))
    assert batch["audio"].shape == (10, 5 * RATE)
    assert batch["target"].sum(dim=1).tolist() == [1] * 10
    assert batch["audio"].abs().amax(dim=1).min() > 0.01
    assert len(training_set("esc50", real_data / "esc50", fold=3)) == 40
    assert labels_of(training_set("fsd50k", real_data / "fsd50k")) == {
        "FSD50K.dev_audio/64760.wav": sorted(
            ["Electric_guitar", "Guitar", "Plucked_string_instrument", "Musical_instrument", "Music"]
        )
    }
    scenes = evaluation_set("dcase20", real_data / "tau_mobile", clip_length=1.0)
    assert {labels[0] for labels in labels_of(scenes).values()} == set(scenes.classes)
