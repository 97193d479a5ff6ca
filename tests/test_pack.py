"""The packer: what it packs, what it leaves out and lists, and that it survives being killed."""

import io
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile

from data_util import folders
from data_util import pack as pack_module
from data_util.errors import TableError
from data_util.hdf5_audio import Hdf5Audio
from data_util.listings import Listing
from data_util.pack import encode, main, pack, usable_format
from data_util.pack_store import PackStore
from data_util.tagging import evaluation_set, training_set
from data_util.tagging_clips import packed
from data_util.tagging_parts import PACKED
from tests.conftest import REPOSITORY
from tests.tagging_sets import (
    RATE,
    make_audioset,
    make_folder,
    make_fsd50k,
    make_openmic,
    noise,
    write,
)


def listing(files, classes=3):
    names = tuple(f"class {number}" for number in range(classes))
    return Listing(files, names, packed([[number % classes] for number in range(len(files))], classes))


def contents(path):
    """(names, bytes of the clips, targets) of a packed file."""
    with h5py.File(path) as file:
        return file["audio_name"][:].tolist(), [clip.tobytes() for clip in file["mp3"][:]], file["target"][:].tolist()


# -- clips -----------------------------------------------------------------------------------------
def test_clips_become_mono_at_one_rate(tmp_path):
    path = write(tmp_path / "a.wav", 1.0, rate=44100, channels=8, subtype="FLOAT")
    for kind, tolerance in (("flac", 1e-4), ("wav", 1e-4)):
        audio, rate = soundfile.read(io.BytesIO(encode(path, RATE, kind)), dtype="float32")
        assert (rate, audio.shape) == (RATE, (RATE,))
        expected = pack_module.read(path, RATE, resample=True)
        np.testing.assert_allclose(audio, expected, rtol=0, atol=tolerance)
    info = soundfile.info(io.BytesIO(encode(path)))
    assert (info.format, info.channels, info.samplerate, info.frames) == ("MP3", 1, RATE, RATE)


def test_mp3_that_is_right_already_is_packed_as_it_is(tmp_path):
    right, stereo, other = (tmp_path / f"{name}.mp3" for name in ("right", "stereo", "other"))
    write(right)
    write(stereo, channels=2)
    write(other, rate=44100)
    assert encode(right) == right.read_bytes()
    for path in (stereo, other):
        info = soundfile.info(io.BytesIO(encode(path)))
        assert encode(path) != path.read_bytes()
        assert (info.format, info.channels, info.samplerate) == ("MP3", 1, RATE)
    assert soundfile.info(io.BytesIO(encode(right, kind="flac"))).format == "FLAC"


def test_formats():
    everything = {"MP3": "", "FLAC": "", "WAV": ""}
    without = {"FLAC": "", "WAV": ""}
    assert [usable_format("auto", available) for available in (everything, without)] == ["mp3", "flac"]
    assert usable_format("wav", without) == "wav"
    with pytest.raises(
        ValueError, match="format 'mp3' cannot be written by this libsndfile, expected one of flac, wav"
    ):
        usable_format("mp3", without)
    with pytest.raises(ValueError, match="format 'aac' cannot be written"):
        usable_format("aac", everything)


# -- packed files ----------------------------------------------------------------------------------
def test_packed_file(tmp_path):
    files = [write(tmp_path / "clips" / f"{number}.wav", 0.3, seed=number) for number in range(5)]
    path = tmp_path / "out" / "clips.hdf"
    report = pack(listing(files), path, kind="flac", workers=2)
    assert (report.path, report.clips, report.problems) == (path, 5, [])
    assert [item.name for item in path.parent.iterdir()] == ["clips.hdf"]
    with h5py.File(path) as file:
        assert file["audio_name"].dtype == "S20"
        assert file["audio_name"][:].tolist() == [f"{number}.wav".encode() for number in range(5)]
        assert h5py.check_vlen_dtype(file["mp3"].dtype) == np.uint8
        assert file["target"][:].tolist() == [[128], [64], [32], [128], [64]]
    audio = Hdf5Audio([path])
    for number in range(5):
        np.testing.assert_allclose(audio.read(number)[0][:, 0], noise(0.3, seed=number), rtol=0, atol=2 / 2**16)


def test_names_stay_apart(tmp_path):
    files = [write(tmp_path / folder / "1.wav") for folder in ("a", "b")]
    pack(listing(files), tmp_path / "clips.hdf", kind="wav")
    assert contents(tmp_path / "clips.hdf")[0] == [b"a/1.wav", b"b/1.wav"]


def test_missing_and_corrupt_files_are_listed(tmp_path):
    good = [write(tmp_path / f"good_{number}.wav", 0.3, seed=number) for number in range(2)]
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.mp3").write_bytes(encode(write(tmp_path / "long.wav", 3.0))[:4000])
    write(tmp_path / "short.wav", 0.01)
    bad = [str(tmp_path / name) for name in ("empty.wav", "cut.mp3", "short.wav", "none.wav")]
    bad.append(str(tmp_path / "no_folder" / "a.wav"))
    path = tmp_path / "clips.hdf"
    report = pack(listing([good[0], *bad, good[1]], classes=7), path, kind="wav")
    assert report.clips == 2
    problems = dict(report.problems)
    assert sorted(problems) == sorted(bad)
    assert [problems[file] for file in bad] == [
        "not readable as audio (Format not recognised)", problems[bad[1]],
        "0.010 s long, expected at least 0.1 s", "missing", "missing",
    ]  # fmt: skip
    assert problems[bad[1]].startswith("ends after")
    names, _, targets = contents(path)
    assert names == [b"good_0.wav", b"good_1.wav"]
    assert targets == [[128], [2]]  # classes 0 and 6: labels stay with their clips
    table = pd.read_csv(tmp_path / "clips.hdf.problems.tsv", sep="\t")
    assert dict(zip(table["file"], table["problem"])) == problems
    with pytest.raises(ValueError, match=r"none\.hdf: none of 5 clips can be packed, the first is .*: "):
        pack(listing(bad), tmp_path / "none.hdf")
    assert not (tmp_path / "none.hdf").exists()
    pack(listing(good), path, kind="wav")
    assert not (tmp_path / "clips.hdf.problems.tsv").exists()


# -- interrupted runs ------------------------------------------------------------------------------
def test_killed_packer_goes_on(tmp_path):
    make_folder(tmp_path / "clips", classes=("a", "b"), clips=120)
    arguments = ["-m", "data_util.pack", "folder", str(tmp_path / "clips"), str(tmp_path / "out"), "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *arguments], cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE)
    index = tmp_path / "out" / "train_mp3.hdf.partial" / "index.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and not (index.is_file() and index.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = index.read_bytes().count(b"\n")
    assert 0 < done < 192
    assert not (tmp_path / "out" / "train_mp3.hdf").exists()

    encoded = []
    original = pack_module.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_module, "encode", lambda path, *rest: encoded.append(path) or original(path, *rest))
        main(arguments[2:])
    assert len(encoded) == 240 - done  # nothing is done twice
    clips = folders.folder(tmp_path / "clips")
    for part in ("train", "test"):
        names, blobs, targets = contents(tmp_path / "out" / f"{part}_mp3.hdf")
        assert [str(tmp_path / "clips" / name.decode()) for name in names] == clips[part].files
        assert targets == clips[part].targets.tolist()
        for row in range(0, len(names), 16):
            assert blobs[row] == encode(clips[part].files[row])
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["test_mp3.hdf", "train_mp3.hdf"]


def test_store_forgets_what_is_not_whole(tmp_path):
    settings = {"format": "mp3"}
    with PackStore(tmp_path / "store", settings) as store:
        store.add([("a", [1, 2], b"aaaa"), ("b", [3, 4], b"bb")])
        store.add([("c", [5, 6], b"cccccc")])
    blob, index = tmp_path / "store" / "clips.bin", tmp_path / "store" / "index.jsonl"
    whole = blob.read_bytes(), index.read_bytes()
    assert whole[0] == b"aaaabbcccccc"
    for bytes_left, index_left, kept in (
        (whole[0] + b"d" * 5, whole[1], "abc"),  # bytes without their line
        (whole[0], whole[1][:-3], "ab"),  # half a line
        (whole[0], whole[1][:-1], "ab"),  # a line without its end may be half a number
        (whole[0][:-1], whole[1], "ab"),  # a line whose bytes never arrived
        (b"", whole[1], ""),
    ):
        blob.write_bytes(bytes_left)
        index.write_bytes(index_left)
        with PackStore(tmp_path / "store", settings) as store:
            stamps = {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
            assert "".join(name for name in stamps if store.has(name, stamps[name])) == kept
            assert not store.has("a", [1, 3])  # another file by now
            store.add([("e", [7, 8], b"eee")])
            assert store["e"] == b"eee"
            assert [store[name] for name in kept] == [{"a": b"aaaa", "b": b"bb", "c": b"cccccc"}[n] for n in kept]
        with PackStore(tmp_path / "store", settings) as store:
            assert store.has("e", [7, 8])
            assert store["e"] == b"eee"


def test_changed_clips_are_packed_again(tmp_path):
    file = write(tmp_path / "a.wav", 0.3, seed=1)
    path = tmp_path / "clips.hdf"
    with PackStore(f"{path}.partial", {"sample_rate": RATE, "format": "wav"}) as store:
        store.add([(file, pack_module._stamp(file), encode(file, kind="wav"))])
    write(tmp_path / "a.wav", 0.4, seed=2)
    pack(listing([file]), path, kind="wav")
    np.testing.assert_allclose(Hdf5Audio([path]).read(0)[0][:, 0], noise(0.4, seed=2), rtol=0, atol=2 / 2**16)


def test_remains_of_a_killed_end_are_removed(tmp_path):
    (tmp_path / ".clips.hdf.12345.partial").write_bytes(b"half")
    pack(listing([write(tmp_path / "a.wav")]), tmp_path / "clips.hdf")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.wav", "clips.hdf"]


def test_one_packer_at_a_time_with_one_setting(tmp_path):
    files, path = [write(tmp_path / "a.wav")], tmp_path / "clips.hdf"
    with PackStore(f"{path}.partial", {"sample_rate": RATE, "format": "wav"}):
        with pytest.raises(RuntimeError, match=r"clips\.hdf\.partial is being written by another process"):
            pack(listing(files), path, kind="wav")
    with pytest.raises(ValueError, match=r"clips\.hdf\.partial was made with other settings \(format: "):
        pack(listing(files), path, kind="flac")
    pack(listing(files), path, kind="wav")


# -- data sets -------------------------------------------------------------------------------------
def same_clips(plain, packed_set, atol):
    assert len(plain) == len(packed_set)
    for index in range(len(plain)):
        one, two = plain[index], packed_set[index]
        assert one["filename"].endswith(two["filename"])
        np.testing.assert_array_equal(one["target"], two["target"])
        assert ("mask" in one) == ("mask" in two)
        if "mask" in one:
            np.testing.assert_array_equal(one["mask"], two["mask"])
        np.testing.assert_allclose(one["audio"].clip(-1, 1), two["audio"], rtol=0, atol=atol)  # PCM ends at 1


@pytest.mark.parametrize(
    ("make", "name", "splits"),
    [
        (make_audioset, "audioset", ("test",)),
        (make_fsd50k, "fsd50k", ("val", "test")),
        (make_openmic, "openmic", ("test",)),
        (make_folder, "folder", ("test",)),
    ],
)
def test_packed_data_sets_are_those_of_the_tables(tmp_path, make, name, splits, capsys):
    make(tmp_path / "data")
    main([name, str(tmp_path / "data"), str(tmp_path / "packed"), "--format", "wav"])
    expected = sorted(file for split in ("train", *splits) for file in PACKED[name][split])
    assert sorted(item.name for item in (tmp_path / "packed").iterdir()) == expected
    plain, from_packed = (training_set(name, tmp_path / folder, clip_length=0.4) for folder in ("data", "packed"))
    same_clips(plain, from_packed, 1e-4)
    assert getattr(plain, "classes", None) == getattr(from_packed, "classes", None)
    assert getattr(plain, "multi_label", None) == getattr(from_packed, "multi_label", None)
    for split in splits:
        same_clips(*(evaluation_set(name, tmp_path / folder, split=split) for folder in ("data", "packed")), 1e-4)
    assert "clips" in capsys.readouterr().out
    main([name, str(tmp_path / "data"), str(tmp_path / "packed")])
    assert capsys.readouterr().out.count("is there already (--overwrite makes it again)") == len(expected)


def test_parts_and_mistakes(tmp_path, capsys):
    make_fsd50k(tmp_path / "data")
    command = ["fsd50k", str(tmp_path / "data"), str(tmp_path / "packed")]
    main([*command, "--parts", "val"])
    assert [item.name for item in (tmp_path / "packed").iterdir()] == ["FSD50K.val_mp3.hdf"]
    with pytest.raises(SystemExit, match=r"error: fsd50k has no part 'test', expected one of train, val, eval"):
        main([*command, "--parts", "test"])
    with pytest.raises(SystemExit, match=r"error: no tables of openmic in"):
        main(["openmic", *command[1:]])
    path = tmp_path / "packed" / "FSD50K.val_mp3.hdf"
    before = path.read_bytes()
    write(tmp_path / "data" / "FSD50K.dev_audio" / "3.wav", seed=99)
    main([*command, "--parts", "val", "--overwrite"])
    assert path.read_bytes() != before
    with h5py.File(path, "a") as file:
        del file["mp3"]
    with pytest.raises(TableError, match="no entry 'mp3'"):
        evaluation_set("fsd50k", tmp_path / "packed", split="val")


@pytest.mark.data
def test_real_folders(real_data, tmp_path):
    main(["audioset", str(real_data / "audioset"), str(tmp_path), "--parts", "balanced_train_segments"])
    path = tmp_path / "balanced_train_segments_mp3.hdf"
    with h5py.File(path) as file, h5py.File(real_data / "audioset" / "hdf5" / "sample_mp3.hdf") as sample:
        for name in ("audio_name", "target"):
            np.testing.assert_array_equal(file[name][:], sample[name][:1])
            assert file[name].dtype == sample[name].dtype
        np.testing.assert_array_equal(file["mp3"][0], sample["mp3"][0])
    problems = pd.read_csv(f"{path}.problems.tsv", sep="\t")
    assert len(problems) == 22159
    assert set(problems["problem"]) == {"missing"}
