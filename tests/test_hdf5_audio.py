"""Audio files packed into HDF5: decoding, partial reads, processes, and files that are broken."""

import logging
import os
import pickle
import types

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_util import hdf5_audio
from data_util.audio import decode
from data_util.class_tables import class_names
from data_util.errors import BadAudio, DataMissing, TableError
from data_util.hdf5_audio import Hdf5Audio, decode_bytes
from data_util.tagging import evaluation_set
from data_util.tagging_clips import TaggingClips, read_clip, report_unreadable
from tests.tagging_sets import RATE, audio_bytes, noise, packed_labels, write_packed


@pytest.fixture(params=["soundfile", "minimp3"])
def decoder(request, monkeypatch):
    """Both ways of decoding mp3, where minimp3py is installed."""
    if request.param == "minimp3":
        pytest.importorskip("minimp3py")
    else:
        monkeypatch.setattr(hdf5_audio, "minimp3", lambda: None)
    return request.param


def pack(folder, blobs, **options):
    return write_packed(folder / "clips.hdf", blobs, packed_labels([[n] for n in range(len(blobs))], 9), **options)


def tagging(path, **options):
    audio = Hdf5Audio([path])
    return TaggingClips(audio, tuple("abcdefghi"), audio.targets, **options)


# -- decoding --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_lossless_bytes(tmp_path, kind):
    audio = Hdf5Audio([pack(tmp_path, [audio_bytes(kind, seed=seed) for seed in range(3)])])
    assert (len(audio), audio.name(1), audio.targets.dtype) == (3, "Yid000000001.mp3", np.uint8)
    for seed in range(3):
        samples, rate = audio.read(seed)
        assert (samples.shape, samples.dtype, rate) == ((RATE // 2, 1), np.float32, RATE)
        np.testing.assert_allclose(samples[:, 0], noise(seed=seed), rtol=0, atol=2 / 2**16)


def test_mp3_as_the_file_gives_it(tmp_path, decoder):
    blob = audio_bytes("MP3", seconds=2, channels=2, rate=44100)
    (tmp_path / "a.mp3").write_bytes(blob)
    expected, rate = decode(tmp_path / "a.mp3")
    samples, found = Hdf5Audio([pack(tmp_path, [blob])]).read(0)
    assert (found, samples.shape) == (rate, expected.shape) == (44100, (2 * 44100, 2))
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-4)


def test_parts_of_an_mp3(tmp_path, decoder):
    audio = Hdf5Audio([pack(tmp_path, [audio_bytes("MP3", seconds=20)])])
    whole, _ = audio.read(0)
    for start in (0, 1, 1151, 1152, 100000, 20 * RATE - 5000):
        part, _ = audio.read(0, lambda total, rate, start=start: (start, 5000))
        np.testing.assert_allclose(part, whole[start : start + 5000], rtol=0, atol=1e-6)


def test_excerpts_of_a_long_mp3(tmp_path, decoder):
    audio = Hdf5Audio([pack(tmp_path, [audio_bytes("MP3", seconds=10, rate=44100)])])
    whole = read_clip(lambda crop: audio.read(0, crop), RATE)
    for seed in range(4):
        clip = read_clip(lambda crop: audio.read(0, crop), RATE, RATE, np.random.default_rng(seed))
        start = int(np.random.default_rng(seed).integers(9 * RATE + 1))
        np.testing.assert_allclose(clip, whole[start : start + RATE], rtol=0, atol=2e-6)


def test_minimp3_decodes_only_what_is_asked_for(monkeypatch):
    calls = []
    x = noise(3)[:, None]

    def read(data, start, length):
        calls.append((data, start, length))
        if data == b"ID3 broken":
            raise RuntimeError("Decoding error -3")
        return x[start : start + length], RATE

    fake = types.SimpleNamespace(probe=lambda data: (len(x), 1, RATE), read=read)
    monkeypatch.setattr(hdf5_audio, "minimp3", lambda: fake)
    samples, rate = decode_bytes("a.mp3", b"ID3 frames", lambda total, rate: (total - 4000, 4000))
    np.testing.assert_array_equal(samples, x[-4000:])
    assert rate == RATE
    assert calls == [(b"ID3 frames", 3 * RATE - 4000, 4000)]
    np.testing.assert_array_equal(decode_bytes("a.mp3", b"\xff\xfb\x90frames")[0], x)
    with pytest.raises(BadAudio, match=r"a\.mp3: not readable as audio \(Decoding error -3\)"):
        decode_bytes("a.mp3", b"ID3 broken")
    fake.read = lambda data, start, length: (x[: 2 * RATE], RATE)
    with pytest.raises(BadAudio, match=r"a\.mp3: ends after 2\.00 s, expected 3\.00 s"):
        decode_bytes("a.mp3", b"ID3 frames")
    assert len(decode_bytes("a.flac", audio_bytes("FLAC"))[0]) == RATE // 2  # by libsndfile: it is no mp3


def test_several_files_end_to_end(tmp_path):
    paths = [
        write_packed(
            tmp_path / f"{n}.hdf", [audio_bytes(seed=10 * n + i) for i in range(n)], packed_labels([[n]] * n, 9)
        )
        for n in (2, 1, 3)
    ]
    audio = Hdf5Audio(paths)
    assert len(audio) == 6
    assert np.unpackbits(audio.targets, axis=1).argmax(axis=1).tolist() == [2, 2, 1, 3, 3, 3]
    for index, seed in enumerate((20, 21, 10, 30, 31, 32)):
        np.testing.assert_allclose(audio.read(index)[0][:, 0], noise(seed=seed), rtol=0, atol=2 / 2**16)


# -- processes -------------------------------------------------------------------------------------
def test_one_handle_per_process(tmp_path, monkeypatch):
    audio = Hdf5Audio([pack(tmp_path, [audio_bytes(seed=seed) for seed in range(4)])])
    opened, original = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda *a, **k: opened.append(os.getpid()) or original(*a, **k))
    for index in (0, 3, 1):
        audio.read(index)
    assert opened == [os.getpid()]  # not one per item
    monkeypatch.setattr(hdf5_audio.os, "getpid", lambda: 1)
    audio.read(0)
    assert len(opened) == 2  # as after a fork
    copy = pickle.loads(pickle.dumps(audio))
    np.testing.assert_array_equal(copy.read(2)[0], audio.read(2)[0])
    assert len(opened) == 3


def test_loader_processes(tmp_path):
    data = tagging(pack(tmp_path, [audio_bytes(seed=seed) for seed in range(6)]), clip_length=0.5)
    data[0]  # opens the file before the fork
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")
    found = torch.cat([batch["audio"] for batch in loader])
    np.testing.assert_allclose(found, np.stack([noise(seed=seed) for seed in range(6)]), rtol=0, atol=2 / 2**16)


# -- broken files ----------------------------------------------------------------------------------
def broken_mp3s():
    """Name -> bytes that are no mp3 file (any more)."""
    good = audio_bytes("MP3", seconds=3)
    noisy = np.random.default_rng(0).bytes(len(good) // 3)
    return {
        "empty.mp3": b"",
        "no_audio.mp3": b"this is no audio" * 100,
        "cut.mp3": good[: len(good) // 2],
        "head.mp3": good[:200],
        "noisy.mp3": good[: len(good) // 3] + noisy + good[2 * len(good) // 3 :],
        "short.mp3": audio_bytes("MP3", seconds=0.01),
    }


@pytest.mark.parametrize("name", broken_mp3s())
def test_broken_mp3_is_named(tmp_path, name, decoder):
    audio = Hdf5Audio([pack(tmp_path, [broken_mp3s()[name]], names=[name])])
    with pytest.raises(BadAudio, match=rf"clips\.hdf, {name}: (not readable as audio|ends after|.* long, expected)"):
        audio.read(0)


def test_corrupt_mp3s_are_skipped_counted_and_listed(tmp_path, caplog):
    broken = broken_mp3s()
    names = ["good_0.mp3", *broken, "good_1.mp3"]
    blobs = [audio_bytes("MP3", seed=0), *broken.values(), audio_bytes("MP3", seed=1)]
    data = tagging(pack(tmp_path, blobs, names=names), clip_length=3.0)  # what is cut off later does no harm
    loader = DataLoader(data, batch_size=3, num_workers=2)
    for _ in range(2):
        batches = list(loader)
        assert [name for batch in batches for name in batch["filename"]] == ["good_0.mp3"] + ["good_1.mp3"] * 7
        assert torch.cat([batch["index"] for batch in batches]).tolist() == [0] + [7] * 7
        assert torch.cat([batch["target"] for batch in batches]).argmax(dim=1).tolist() == [0] + [7] * 7
    assert data.unreadable == list(broken)
    caplog.set_level(logging.WARNING)
    report_unreadable(data)
    assert f"6 of 8 clips could not be read: {', '.join(broken)}" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.__delitem__("mp3"), "no entry 'mp3' .*found audio_name, target"),
        (
            lambda file: _replace(file, "mp3", np.zeros(2, np.uint8)),
            "mp3 holds uint8, expected uint8 of variable length",
        ),
        (lambda file: _replace(file, "target", np.zeros((3, 2), np.uint8)), "2 names, 2 audio files and 3 targets"),
    ],
)
def test_files_of_another_layout(tmp_path, spoil, message):
    path = pack(tmp_path, [audio_bytes()] * 2)
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(TableError, match=rf"clips\.hdf: {message}"):
        Hdf5Audio([path])


def _replace(file, name, value):
    del file[name]
    file[name] = value


def test_no_hdf5_file(tmp_path):
    with pytest.raises(DataMissing, match=r"no HDF5 file .*none\.hdf"):
        Hdf5Audio([tmp_path / "none.hdf"])
    (tmp_path / "text.hdf").write_text("no HDF5")
    with pytest.raises(TableError, match=r"text\.hdf: not readable as HDF5"):
        Hdf5Audio([tmp_path / "text.hdf"])
    path = pack(tmp_path, [audio_bytes()] * 2)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(TableError, match=r"clips\.hdf: not readable as HDF5"):
        Hdf5Audio([path])


# -- real recordings -------------------------------------------------------------------------------
@pytest.mark.data
def test_real_packed_file(real_data, tmp_path, decoder):
    packed = real_data / "audioset" / "hdf5" / "sample_mp3.hdf"
    audio = Hdf5Audio([packed])
    names = [audio.name(index) for index in range(len(audio))]
    assert names == ["Yf62-S-v2swA.mp3", "21914.mp3", "64760.mp3", "99.mp3"]
    folders = {"Yf62-S-v2swA.mp3": "balanced_train_segments"}
    for index, name in enumerate(names):
        samples, rate = audio.read(index)
        expected, _ = decode(real_data / "audioset" / "mp3" / folders.get(name, "fsd50k") / name)
        assert rate == RATE
        np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-4)
    (tmp_path / "eval_segments_mp3.hdf").symlink_to(packed)
    sample = evaluation_set("audioset", tmp_path)[0]
    classes = [class_names("audioset")[number] for number in sample["target"].nonzero().flatten()]
    assert classes == ["Speech", "Music", "Ukulele"]
    assert sample["audio"].shape == (10 * RATE,)
