"""Caches of features and embeddings: made once, continued after a kill, read lazily."""

import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from data_util import cache_parts, feature_cache
from data_util.errors import BadAudio, DataMissing, TableError
from data_util.feature_cache import (
    CachedEmbeddings,
    CachedFeatures,
    build_embeddings,
    build_features,
    cache_path,
)

RATE = 8000
SETTINGS = {"front_end": "test", "bands": 4}


def frames(audio):
    """[samples] -> [frames, 4]: frames of 400 samples, in which four numbers stand for the sound."""
    blocks = audio[: len(audio) // 400 * 400].reshape(-1, 4, 100)
    return blocks.mean(axis=2)


@pytest.fixture
def clips(tmp_path):
    """{id: path} of 40 short files whose values and lengths tell them apart."""
    paths = {}
    for number in range(40):
        name = f"Größe {number}"
        paths[name] = str(tmp_path / f"{name}.wav")
        soundfile.write(paths[name], np.full(1600 + 400 * (number % 3), number / 64, np.float32), RATE, subtype="FLOAT")
    return paths


class Counting:
    """Callable that counts, and that stops the work at some call."""

    def __init__(self, function, stop_at=None):
        self.function, self.stop_at, self.calls = function, stop_at, 0

    def __call__(self, value):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return self.function(value)


# -- features ---------------------------------------------------------------------------------------------------------
def test_features_are_stored_as_published(tmp_path, clips):
    path = tmp_path / "sub/x.hdf5"
    built = build_features(path, clips, frames, RATE, SETTINGS, workers=1)
    assert (built.path, built.added, built.kept, built.unreadable) == (str(path), 40, 0, {})
    with h5py.File(path) as file:
        assert set(file) == set(clips)
        assert file["Größe 4"].shape == (5, 4)
    cache = CachedFeatures(path, {**SETTINGS, "sample_rate": RATE, "dtype": "float32"})
    assert len(cache) == 40
    for number, clip in enumerate(clips):
        np.testing.assert_array_equal(cache.read(clip), np.full((4 + number % 3, 4), number / 64, np.float32))
    assert cache.seconds("Größe 2") == 0.3
    assert sorted(os.listdir(tmp_path / "sub")) == ["x.hdf5"]


def test_other_rates_are_resampled_and_dtype_is_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(3200, 0.25, np.float32), 2 * RATE, subtype="FLOAT")
    seen = []
    path = tmp_path / "x.hdf5"
    clips = {"a": str(tmp_path / "a.wav")}
    build_features(path, clips, lambda audio: seen.append(len(audio)) or frames(audio), RATE, SETTINGS, dtype="float16")
    assert seen == [1600]
    with h5py.File(path) as file:
        assert file["a"].dtype == np.float16
    assert CachedFeatures(path).read("a").dtype == np.float32


def test_nothing_is_computed_twice(tmp_path, clips):
    path, few = tmp_path / "x.hdf5", dict(list(clips.items())[:10])
    count = Counting(frames)
    assert build_features(path, few, count, RATE, SETTINGS, workers=1).added == 10
    built = build_features(path, clips, count, RATE, SETTINGS, workers=1)
    assert (built.added, built.kept, count.calls) == (30, 10, 40)
    assert build_features(path, few, count, RATE, SETTINGS, workers=1).kept == 10
    assert count.calls == 40
    assert len(CachedFeatures(path)) == 40

    changed = clips["Größe 3"]
    soundfile.write(changed, np.full(2000, 0.75, np.float32), RATE, subtype="FLOAT")
    os.utime(changed, ns=(1, 1))
    built = build_features(path, clips, count, RATE, SETTINGS, workers=1)
    assert (built.added, built.kept, count.calls) == (1, 39, 41)
    assert CachedFeatures(path).read("Größe 3")[0, 0] == 0.75


def test_interrupted_work_is_continued(tmp_path, clips):
    path = tmp_path / "x.hdf5"
    with pytest.raises(KeyboardInterrupt):
        build_features(path, clips, Counting(frames, stop_at=20), RATE, SETTINGS, workers=1)
    assert not path.exists()
    count = Counting(frames)
    built = build_features(path, clips, count, RATE, SETTINGS, workers=1)
    assert built.added == 40
    assert count.calls == 40 - feature_cache.CLIPS_PER_PART
    np.testing.assert_array_equal(CachedFeatures(path).read("Größe 39"), np.full((4, 4), 39 / 64, np.float32))


def test_stopped_between_the_file_and_the_removal_of_its_parts(tmp_path, clips, monkeypatch):
    path = tmp_path / "x.hdf5"
    with monkeypatch.context() as patch:
        patch.setattr(cache_parts.Parts, "clear", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_features(path, clips, frames, RATE, SETTINGS, workers=1)
    count = Counting(frames)
    built = build_features(path, clips, count, RATE, SETTINGS, workers=1)
    assert (built.added, built.kept, count.calls) == (0, 40, 0)
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


KILLED = """
import sys, time
import numpy as np
from data_util.feature_cache import build_features
calls = []
def slow(audio):
    calls.append(1)
    if len(calls) > 20:
        time.sleep(60)
    return np.zeros((2, 4), np.float32)
folder = sys.argv[1]
clips = {f"Größe {number}": f"{folder}/Größe {number}.wav" for number in range(40)}
build_features(f"{folder}/x.hdf5", clips, slow, 8000, {"front_end": "test", "bands": 4}, workers=1)
"""


def test_killed_process_leaves_work_that_is_taken_up(tmp_path, clips):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[1])
    try:
        while not list(tmp_path.glob(".x.hdf5.*/*.npz")):
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(RuntimeError, match=r"is being written by another process"):
            build_features(tmp_path / "x.hdf5", clips, frames, RATE, SETTINGS)
    finally:
        process.kill()
        process.wait()
    count = Counting(frames)
    assert build_features(tmp_path / "x.hdf5", clips, count, RATE, SETTINGS, workers=1).added == 40
    assert count.calls == 24
    assert len(CachedFeatures(tmp_path / "x.hdf5")) == 40


@pytest.mark.parametrize("processes", [False, True])
def test_workers_make_the_same_file(tmp_path, clips, processes):
    alone, together = tmp_path / "1.hdf5", tmp_path / "2.hdf5"
    build_features(alone, clips, np.vstack if processes else frames, RATE, SETTINGS, workers=1)
    built = build_features(
        together, clips, np.vstack if processes else frames, RATE, SETTINGS, workers=2, processes=processes
    )
    assert built.added == 40
    for clip in clips:
        np.testing.assert_array_equal(CachedFeatures(together).read(clip), CachedFeatures(alone).read(clip))


def test_unreadable_clips_are_listed_and_tried_again(tmp_path, clips, caplog):
    path, broken = tmp_path / "x.hdf5", clips["Größe 7"]
    good = Path(broken).read_bytes()
    Path(broken).write_bytes(b"no audio")
    clips["gone"] = str(tmp_path / "gone.wav")
    with caplog.at_level(logging.WARNING):
        built = build_features(path, clips, frames, RATE, SETTINGS, workers=2)
    assert sorted(built.unreadable) == ["Größe 7", "gone"]
    assert "not readable as audio" in built.unreadable["Größe 7"]
    assert "no such audio file" in built.unreadable["gone"]
    assert (built.added, len(CachedFeatures(path))) == (39, 39)
    assert "2 of 41 clips are not in" in caplog.text
    assert broken in caplog.text
    with pytest.raises(BadAudio, match=r"no features of clip 'gone'"):
        CachedFeatures(path).read("gone")

    Path(broken).write_bytes(good)
    again = build_features(path, clips, frames, RATE, SETTINGS, workers=1)
    assert (again.added, again.kept, sorted(again.unreadable)) == (1, 39, ["gone"])


def test_features_of_a_file_that_was_damaged_later_are_removed(tmp_path, clips):
    build_features(tmp_path / "x.hdf5", clips, frames, RATE, SETTINGS, workers=1)
    name, path = next(iter(clips.items()))
    Path(path).write_bytes(b"no audio")
    built = build_features(tmp_path / "x.hdf5", clips, frames, RATE, SETTINGS, workers=1)
    assert (built.added, built.kept, list(built.unreadable)) == (0, 39, [name])
    assert CachedFeatures(tmp_path / "x.hdf5").ids == set(clips) - {name}


def test_features_without_audio_are_removed(tmp_path, clips):
    """Also those that only a part of stopped work has; other clips of the file stay."""
    path, few = tmp_path / "x.hdf5", dict(list(clips.items())[:4])
    build_features(path, few, frames, RATE, SETTINGS, workers=1)
    with pytest.raises(KeyboardInterrupt):
        build_features(path, clips, Counting(frames, stop_at=20), RATE, SETTINGS, workers=1)
    count, absent = Counting(frames), dict.fromkeys(("Größe 0", "Größe 4", "none"))
    built = build_features(path, absent, count, RATE, SETTINGS, workers=1)
    assert (built.added, built.kept, built.unreadable, count.calls) == (0, 0, {}, 0)
    there = range(4 + feature_cache.CLIPS_PER_PART)
    assert CachedFeatures(path).ids == {f"Größe {number}" for number in there} - absent.keys()


def test_a_front_end_that_refuses_every_clip_is_an_error(tmp_path, clips):
    with pytest.raises(
        ValueError, match=r"none of 40 clips can be read: .*expected finite numbers of frames and bands"
    ):
        build_features(tmp_path / "x.hdf5", clips, lambda audio: audio, RATE, SETTINGS)
    with pytest.raises(ValueError, match=r"none of 40 clips"):
        build_features(tmp_path / "x.hdf5", clips, lambda audio: frames(audio) * np.nan, RATE, SETTINGS)


def test_other_settings_are_refused(tmp_path, clips):
    path = tmp_path / "x.hdf5"
    build_features(path, clips, frames, RATE, SETTINGS)
    with pytest.raises(ValueError, match=r"was made with bands=4, this run has 8: choose another file or remove it"):
        build_features(path, clips, frames, RATE, {**SETTINGS, "bands": 8})
    with pytest.raises(ValueError, match=r"sample_rate=8000, this run has 16000"):
        build_features(path, clips, frames, 2 * RATE, SETTINGS)
    with pytest.raises(ValueError, match=r"bands=4"):
        CachedFeatures(path, {"bands": 8})
    names = {cache_path("cache", "development", {**SETTINGS, "bands": bands}) for bands in (4, 8)}
    assert len(names) == 2
    assert cache_path("a", "b", {"x": 1, "y": 2}) == cache_path("a", "b", {"y": 2, "x": 1})


def test_published_files_can_be_read_but_not_extended(tmp_path, clips):
    path = tmp_path / "development_audio_logmels.hdf5"
    with h5py.File(path, "w") as file:
        file["747ce71b"] = np.arange(12.0).reshape(3, 4)
    cache = CachedFeatures(path, SETTINGS)
    np.testing.assert_array_equal(cache.read("747ce71b"), np.arange(12, dtype=np.float32).reshape(3, 4))
    assert cache.seconds("747ce71b") is None
    with pytest.raises(ValueError, match=r"does not say how long clips are"):
        cache.read("747ce71b", seconds=1.0)
    with pytest.raises(ValueError, match=r"does not say what it was made with"):
        build_features(path, clips, frames, RATE, SETTINGS)


def test_excerpts(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(8000, dtype=np.float32) / 8000, RATE, subtype="FLOAT")
    path = tmp_path / "x.hdf5"
    build_features(path, {"a": str(tmp_path / "a.wav")}, frames, RATE, SETTINGS)
    cache, whole = CachedFeatures(path), CachedFeatures(path).read("a")
    assert whole.shape == (20, 4)
    np.testing.assert_array_equal(cache.read("a", seconds=0.25), whole[:5])
    np.testing.assert_array_equal(cache.read("a", seconds=2.0), whole)
    starts = {int(cache.read("a", 0.25, np.random.default_rng(seed))[0, 0] * 20 + 0.5) for seed in range(60)}
    assert starts >= {0, 15}
    assert max(starts) == 15


def test_readers_open_files_late_and_travel(tmp_path, clips):
    path = tmp_path / "x.hdf5"
    build_features(path, clips, frames, RATE, SETTINGS)
    cache = CachedFeatures(path)
    assert cache.file._entries == {}
    expected = cache.read("Größe 5")
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.file._entries == {}
    np.testing.assert_array_equal(copy.read("Größe 5"), expected)


def test_a_reader_stays_with_its_file(tmp_path, clips):
    """Whoever replaces the file meanwhile does not change what is read; a reader that comes later sees the new one."""
    path, other = tmp_path / "x.hdf5", tmp_path / "other.hdf5"
    build_features(path, clips, frames, RATE, SETTINGS)
    build_features(other, dict(list(clips.items())[:2]), lambda audio: frames(audio) + 1, RATE, SETTINGS)
    cache = CachedFeatures(path)
    late = CachedFeatures(path)
    cache.read("Größe 0")
    os.replace(other, path)
    np.testing.assert_array_equal(cache.read("Größe 1"), np.full((5, 4), 1 / 64, np.float32))
    np.testing.assert_array_equal(cache.read("Größe 39"), np.full((4, 4), 39 / 64, np.float32))
    np.testing.assert_array_equal(late.read("Größe 1"), np.full((5, 4), 65 / 64, np.float32))
    with pytest.raises(BadAudio, match=r"x\.hdf5, clip 'Größe 39': "):
        late.read("Größe 39")


def test_files_that_are_no_caches(tmp_path):
    with pytest.raises(DataMissing, match=r"no HDF5 file"):
        CachedFeatures(tmp_path / "none.hdf5")
    (tmp_path / "x.hdf5").write_text("text")
    with pytest.raises(TableError, match=r"not readable as HDF5"):
        CachedFeatures(tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "y.hdf5", "w") as file:
        file["a"] = np.zeros((2, 2))
    with pytest.raises(TableError, match=r"no entries 'sentences' and 'embeddings'"):
        CachedEmbeddings(tmp_path / "y.hdf5")


# -- sentences --------------------------------------------------------------------------------------------------------
MODEL = {"text_model": "letters", "sha256": "0"}


def letters(texts):
    """[n, 3]: length, first letter, number of blanks."""
    return np.array([(len(text), ord(text[0]), text.count(" ")) for text in texts], np.float64)


def test_embeddings_are_computed_once_per_sentence(tmp_path):
    path, texts = tmp_path / "x.hdf5", ["A dog barks.", "Größe", "Rain", "A dog barks."]
    count = Counting(letters)
    built = build_embeddings(path, texts, count, MODEL)
    assert (built.added, built.kept, count.calls) == (3, 0, 1)
    built = build_embeddings(path, [*texts, "New one"], count, MODEL)
    assert (built.added, built.kept, count.calls) == (1, 3, 2)
    build_embeddings(path, texts, count, MODEL)
    assert count.calls == 2
    cache = CachedEmbeddings(path, MODEL)
    assert (len(cache), cache.dim, "Rain" in cache, "rain" in cache) == (4, 3, True, False)
    asked = ["Rain", "New one", "Rain", "A dog barks."]
    np.testing.assert_array_equal(cache.vectors(asked), letters(asked))
    assert cache.vectors(asked).dtype == np.float32
    many = asked * 20
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).vectors(many), letters(many))
    assert cache.vectors([]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"no embeddings of 2 captions: 'x' and 1 more"):
        cache.vectors(["x", "Rain", "y"])


def test_interrupted_embeddings_are_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SENTENCES_PER_PART", 4)
    texts = [f"sentence number {number}" for number in range(22)]
    with pytest.raises(KeyboardInterrupt):
        build_embeddings(tmp_path / "x.hdf5", texts, Counting(letters, stop_at=4), MODEL)
    seen = []
    built = build_embeddings(tmp_path / "x.hdf5", texts, lambda part: seen.extend(part) or letters(part), MODEL)
    assert (built.added, len(seen)) == (22, 10)
    np.testing.assert_array_equal(CachedEmbeddings(tmp_path / "x.hdf5").vectors(texts), letters(texts))


def test_sentences_of_a_call_are_of_similar_length(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SENTENCES_PER_PART", 2)
    calls = []
    texts = ["a" * 9, "b", "c" * 8, "dd"]
    build_embeddings(tmp_path / "x.hdf5", texts, lambda part: calls.append(part) or letters(part), MODEL)
    assert calls == [["b", "dd"], ["c" * 8, "a" * 9]]


@pytest.mark.parametrize("answer", [np.zeros((1, 3)), np.zeros(2), np.full((2, 3), np.nan)])
def test_wrong_answers_of_a_text_model(tmp_path, answer):
    with pytest.raises(ValueError, match=r"of 2 sentences, expected 2 rows of finite numbers"):
        build_embeddings(tmp_path / "x.hdf5", ["a", "b"], lambda texts: answer, MODEL)
    assert not (tmp_path / "x.hdf5").exists()


def test_embeddings_of_another_model_are_refused(tmp_path):
    build_embeddings(tmp_path / "x.hdf5", ["a"], letters, MODEL)
    with pytest.raises(ValueError, match=r"was made with sha256='0', this run has '1'"):
        build_embeddings(tmp_path / "x.hdf5", ["a"], letters, {**MODEL, "sha256": "1"})
