"""The index of sounds: what it finds, what it repeats after a stop or a change, and what it refuses."""

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data_util.errors import DataMissing
from data_util.streaming import find_audio, stream
from helpers import nearest, sound_parts
from helpers.sound_building import build_index
from helpers.sound_index import load_index
from helpers.sound_query import Silent, as_json, recording_query, table
from tests.sounds import HERTZ, PATHS, RATE, Spectral, make_sounds, tone, write

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sounds(tmp_path):
    return make_sounds(tmp_path / "sounds")


def build(folder, sounds, encoder=None, **options):
    return build_index(folder, sounds, find_audio(sounds), encoder or Spectral(), stream, **options)


def unit(count, dim=16, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# -- what it finds
@pytest.mark.parametrize("sound", PATHS)
@pytest.mark.parametrize(("suffix", "rate"), [("wav", 16000), ("flac", 44100), ("mp3", 48000), ("wav", 8000)])
def test_the_known_sound_is_first(tmp_path, sounds, sound, suffix, rate):
    if sound == "high" and rate == 8000:
        pytest.skip("the tone lies at the end of the band")
    build(tmp_path / "index", sounds)
    query = write(tmp_path / f"hum.{suffix}", tone(HERTZ[sound], rate=rate, seed=1), rate)
    index = load_index(tmp_path / "index", Spectral())
    hits = index.search(recording_query(query, Spectral(), stream).vector, top=3)
    assert hits[0].path == PATHS[sound]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert sorted(hit.path for hit in hits) == sorted(PATHS.values())
    assert hits[0].score > hits[1].score + 0.02
    assert index.path_of(hits[0].number) == sounds.resolve() / PATHS[sound]


def test_vectors_and_config(tmp_path, sounds):
    encoder = Spectral()
    encoder.about = {"arch": "mn10_as"}
    result = build(tmp_path / "index", sounds, encoder)
    index = load_index(tmp_path / "index")
    assert [file.path for file in index.files] == ["high.aiff", "low/a.wav", "mid/a.wav"]
    assert result["files"] == result["windows"] == result["embedded"] == 3
    assert index.config["encoder"] == {
        "identity": "spectral 1", "dim": 48, "sample_rate": RATE, "max_seconds": 2.0, "arch": "mn10_as",
    }  # fmt: skip
    waveform = np.pad(tone(HERTZ["mid"]), (0, RATE // 2))
    pcm = np.rint(waveform * 32768).astype(np.float32) / 32768
    np.testing.assert_allclose(index.vectors[2], Spectral()(pcm[None])[0], atol=2e-3)
    assert index.files[2].seconds == 1.5
    assert index.files[0].size == (sounds / "high.aiff").stat().st_size


def test_long_files_have_a_vector_for_every_window(tmp_path):
    parts = [tone(HERTZ[name], 2.0) for name in ("low", "mid", "high", "low")]
    write(tmp_path / "sounds" / "long.wav", np.concatenate([*parts, np.zeros(1600, np.float32)]))
    write(tmp_path / "sounds" / "short.wav", tone(500))
    build(tmp_path / "index", tmp_path / "sounds")
    index = load_index(tmp_path / "index")
    assert [file.windows for file in index.files] == [4, 1]  # the rest of 0.1 s is no window
    assert index.files[0].seconds == 8.1
    hits = index.search(Spectral()(tone(HERTZ["high"], 2.0, seed=3)[None])[0])
    assert (hits[0].path, hits[0].start) == ("long.wav", 4.0)
    assert len(hits) == 2  # every file once
    build(tmp_path / "half", tmp_path / "sounds", hop=1.0)
    assert [file.windows for file in load_index(tmp_path / "half").files] == [8, 1]
    assert load_index(tmp_path / "half").search(index.vectors[2])[0].start == 4.0


def test_start_of_long_files_only(tmp_path):
    write(tmp_path / "sounds" / "long.wav", np.concatenate([tone(HERTZ["low"], 2.0), tone(HERTZ["high"], 300.0)]))
    read = []

    def counting(path, rate):
        for block in stream(path, rate):
            read.append(len(block))
            yield block

    paths = find_audio(tmp_path / "sounds")
    build_index(tmp_path / "index", tmp_path / "sounds", paths, Spectral(), counting, long_files="start")
    index = load_index(tmp_path / "index")
    assert index.vectors.shape == (1, 48)
    assert sum(read) == 2 * RATE
    np.testing.assert_allclose(index.vectors[0], Spectral()(tone(HERTZ["low"], 2.0)[None])[0], atol=2e-3)


def test_timing_of_threads_changes_nothing(tmp_path):
    for number in range(12):
        write(tmp_path / "sounds" / f"{number}.wav", tone(200 + 100 * number, 0.5 + number % 4))
    for workers, batch_size in ((1, 4), (4, 4)):
        build(tmp_path / f"{workers}", tmp_path / "sounds", workers=workers, batch_size=batch_size)
    one, four = (load_index(tmp_path / name) for name in ("1", "4"))
    np.testing.assert_array_equal(one.vectors, four.vectors)
    assert one.files == four.files


# -- stops and changes
KILLED = """
import os, sys
from pathlib import Path
from data_util.streaming import find_audio, stream
from helpers import sound_parts
from helpers.sound_building import build_index
from tests.sounds import Spectral

class Dies(Spectral):
    def __call__(self, waveforms):
        if self.seen >= 6:
            os._exit(9)
        return super().__call__(waveforms)

sound_parts.PART_SECONDS = 0
build_index(sys.argv[1], sys.argv[2], find_audio(sys.argv[2]), Dies(), stream, batch_size=2)
"""


def test_a_killed_run_goes_on(tmp_path):
    for number in range(10):
        write(tmp_path / "sounds" / f"{number}.wav", tone(200 + 100 * number))
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "index"), str(tmp_path / "sounds")]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == 9
    assert not (tmp_path / "index").exists()
    encoder = Spectral()
    result = build(tmp_path / "index", tmp_path / "sounds", encoder)
    assert encoder.seen == 4  # six of ten were done
    assert (result["files"], result["embedded"], result["kept"]) == (10, 4, 6)
    build(tmp_path / "other", tmp_path / "sounds")
    np.testing.assert_array_equal(load_index(tmp_path / "index").vectors, load_index(tmp_path / "other").vectors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "other", "sounds"]


def test_an_interrupted_run_keeps_what_it_has(tmp_path, sounds):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", sounds, Spectral(fails_after=2), batch_size=1)
    encoder = Spectral()
    build(tmp_path / "index", sounds, encoder)
    assert encoder.seen == 1


def test_parts_of_another_checkpoint_are_not_used(tmp_path, sounds):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", sounds, Spectral(fails_after=2), batch_size=1)
    encoder = Spectral("spectral 2")
    build(tmp_path / "index", sounds, encoder)
    assert encoder.seen == 3


def test_update_embeds_what_is_new(tmp_path, sounds):
    build(tmp_path / "index", sounds)
    write(sounds / "mid" / "a.wav", tone(1000.0))
    write(sounds / "new" / "b.wav", tone(2000.0))
    (sounds / "high.aiff").unlink()
    encoder = Spectral()
    result = build(tmp_path / "index", sounds, encoder)
    assert encoder.seen == 2
    assert (result["embedded"], result["kept"]) == (2, 1)
    index = load_index(tmp_path / "index", encoder)
    assert [file.path for file in index.files] == ["low/a.wav", "mid/a.wav", "new/b.wav"]
    build(tmp_path / "fresh", sounds)
    np.testing.assert_array_equal(index.vectors, load_index(tmp_path / "fresh").vectors)
    vector = Spectral()(np.pad(tone(2000.0, seed=5), (0, RATE // 2))[None])[0]
    assert index.search(vector)[0].path == "new/b.wav"


def test_nothing_new_nothing_written(tmp_path, sounds):
    build(tmp_path / "index", sounds)
    before = (tmp_path / "index" / "index.json").stat().st_mtime_ns
    encoder = Spectral()
    result = build(tmp_path / "index", sounds, encoder)
    assert (encoder.seen, result["kept"]) == (0, 3)
    assert (tmp_path / "index" / "index.json").stat().st_mtime_ns == before


def test_a_stop_between_old_and_new_is_mended(tmp_path, sounds):
    build(tmp_path / "index", sounds)
    os.rename(tmp_path / "index", tmp_path / ".index.old")
    assert len(load_index(tmp_path / "index").files) == 3
    assert not (tmp_path / ".index.old").exists()


HOLDS = """
import sys, time
from helpers.locks import holding
with holding(sys.argv[1]):
    print(1, flush=True)
    time.sleep(600)
"""


def test_one_run_at_a_time(tmp_path, sounds):
    command = [sys.executable, "-c", HOLDS, str(tmp_path / ".index.lock")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(ValueError, match=r"index: another run makes this index, expected one at a time$"):
            build(tmp_path / "index", sounds)
        assert not (tmp_path / "index").exists()
        assert build(tmp_path / "other", sounds)["files"] == 3
    finally:
        process.kill()
        process.communicate()
    assert build(tmp_path / "index", sounds)["files"] == 3


def test_results_that_another_run_has_removed_are_missed(tmp_path, sounds, monkeypatch):
    monkeypatch.setattr(sound_parts, "PART_SECONDS", 0)

    class Disturbed(Spectral):
        def __call__(self, waveforms):
            if self.seen == 2:
                shutil.rmtree(next(tmp_path.glob(".index.*.parts")))
            return super().__call__(waveforms)

    with pytest.raises(ValueError, match=r"vectors of [12] files and 0 skipped, expected 3 together: another run"):
        build(tmp_path / "index", sounds, Disturbed(), batch_size=1, workers=1)
    assert not (tmp_path / "index").exists()
    assert build(tmp_path / "index", sounds)["files"] == 3


def test_folders_at_home(tmp_path, sounds, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(sounds)
    build_index("~/index", "~/sounds", find_audio("~/sounds"), Spectral(), stream)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "sounds"]
    index = load_index("~/index", root="~/sounds")
    assert index.path_of(0) == tmp_path / "sounds" / "high.aiff"
    assert not (sounds / "~").exists()


# -- bad input
def test_sounds_shorter_than_the_others_may_be(tmp_path, sounds):
    write(sounds / "tick.wav", tone(HERTZ["mid"], 0.05))
    write(sounds / "click.wav", tone(HERTZ["mid"], 0.0003, 44100), 44100)
    write(sounds / "empty.wav", np.zeros(0, np.float32))
    assert len(build(tmp_path / "without", sounds)["skipped"]) == 3
    result = build_index(tmp_path / "index", sounds, find_audio(sounds), Spectral(), partial(stream, short=True))
    assert list(result["skipped"]) == [str(sounds / "empty.wav")]
    index = load_index(tmp_path / "index")
    seconds = {file.path: file.seconds for file in index.files}
    assert (seconds["tick.wav"], seconds["click.wav"]) == (0.05, 0.0)
    pcm = np.rint(tone(HERTZ["mid"], 0.05) * 32768).astype(np.float32) / 32768
    expected = Spectral()(np.pad(pcm, (0, 2 * RATE - len(pcm)))[None])[0]
    np.testing.assert_allclose(index.vectors[list(seconds).index("tick.wav")], expected, atol=1e-4)


def test_unreadable_files_are_listed_and_skipped(tmp_path, sounds, caplog):
    (sounds / "broken.wav").write_bytes(b"no sound at all")
    (sounds / "empty.flac").write_bytes(b"")
    write(sounds / "nothing.wav", np.zeros(RATE, np.float32))  # this encoder has no direction for silence
    with caplog.at_level(logging.WARNING):
        result = build(tmp_path / "index", sounds)
    assert (result["files"], len(result["skipped"])) == (3, 3)
    assert "broken.wav: not readable as audio" in result["skipped"][str(sounds / "broken.wav")]
    assert "expected a unit vector" in result["skipped"][str(sounds / "nothing.wav")]
    listed = load_index(tmp_path / "index").config["skipped"]
    assert [entry["path"] for entry in listed] == ["broken.wav", "empty.flac", "nothing.wav"]
    assert sum("skipped: " in record.getMessage() for record in caplog.records) == 3


def test_nothing_to_index(tmp_path):
    (tmp_path / "sounds").mkdir()
    with pytest.raises(DataMissing, match="0 audio files in this folder"):
        find_audio(tmp_path / "sounds")
    with pytest.raises(ValueError, match="0 sound files, expected at least 1"):
        build_index(tmp_path / "index", tmp_path / "sounds", [], Spectral(), stream)
    (tmp_path / "sounds" / "a.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0 of 1 sound files can be indexed; first: .*a\.wav"):
        build(tmp_path / "index", tmp_path / "sounds")
    assert not (tmp_path / "index").exists()


def test_another_checkpoint_is_refused(tmp_path, sounds):
    build(tmp_path / "index", sounds)
    other = Spectral("spectral 2")
    with pytest.raises(ValueError, match=r"made with 'spectral 1', expected 'spectral 2': search with") as error:
        load_index(tmp_path / "index", other)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"made with identity 'spectral 1', expected 'spectral 2': choose"):
        build(tmp_path / "index", sounds, other)
    with pytest.raises(ValueError, match="made with cutting"):
        build(tmp_path / "index", sounds, window=1.0)
    build(tmp_path / "index", sounds, other, overwrite=True)
    assert load_index(tmp_path / "index", other).identity == "spectral 2"


def test_other_folders_are_never_replaced(tmp_path, sounds):
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"sounds: holds 'high\.aiff', expected a new or empty folder"):
            build(sounds, sounds, overwrite=overwrite)
    assert (sounds / "high.aiff").is_file()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file: holds 'file'"):
        build(tmp_path / "file", sounds)
    with pytest.raises(ValueError, match=r"a\.wav: outside of .*low, expected"):
        build_index(tmp_path / "index", sounds / "low", find_audio(sounds / "mid"), Spectral(), stream)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 3.0}, "window is 3 s, expected at most the 2 s of the encoder"),
        ({"hop": 3.0}, "hop is 3 s, expected at most the window of 2 s"),
        ({"window": 0.0}, "window is 0.0 s, expected at least one sample"),
        ({"long_files": "end"}, "long_files is 'end', expected 'windows' or 'start'"),
        ({"approximate": "best"}, "approximate is 'best', expected None, 'ivf' or 'hnsw'"),
        ({"workers": 0}, "workers is 0 and batch_size 8, expected at least 1 of both"),
    ],
)
def test_impossible_settings(tmp_path, sounds, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "index", sounds, **options)


def test_damaged_indices(tmp_path, sounds):
    with pytest.raises(FileNotFoundError, match="no index of sounds here"):
        load_index(tmp_path / "nowhere")
    build(tmp_path / "index", sounds)
    config = tmp_path / "index" / "index.json"
    good = json.loads(config.read_text())
    for path in ("../../secret.wav", "/etc/passwd", "low/../../a.wav"):
        config.write_text(json.dumps({**good, "files": [{**good["files"][0], "path": path}, *good["files"][1:]]}))
        with pytest.raises(ValueError, match="leads out of the folder of the sounds"):
            load_index(tmp_path / "index")
    config.write_text(json.dumps({**good, "files": good["files"][:2]}))
    with pytest.raises(ValueError, match=r"embeddings\.npy: float32 \(3, 48\), expected float32 \(2, 48\)"):
        load_index(tmp_path / "index")
    config.write_text(json.dumps({**good, "format": 9}))
    with pytest.raises(ValueError, match="format 9, expected 1"):
        load_index(tmp_path / "index")
    config.write_text("{")
    with pytest.raises(ValueError, match=r"index\.json: damaged"):
        load_index(tmp_path / "index")


def without(*keys):
    def damage(path):
        config = json.loads(path.read_text())
        section = config
        for key in keys[:-1]:
            section = section[key]
        del section[keys[-1]]
        path.write_text(json.dumps(config))

    return damage


def cut(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("index.json", cut(size)) for size in (0, 1, 300, -3)),
        *(("index.json", without(*keys)) for keys in (["root"], ["files"], ["encoder"], ["encoder", "dim"],
          ["cutting", "hop"], ["search", "kind"], ["files", 0, "windows"])),
        ("index.json", lambda path: path.write_text("[1]")),
        *(("embeddings.npy", cut(size)) for size in (0, 5, 60, -1)),
        ("embeddings.npy", lambda path: path.write_bytes(b"PK garbage" * 99)),
        ("embeddings.npy", Path.unlink),
        *(("search.faiss", cut(size)) for size in (0, 3, 40, -1)),
        ("search.faiss", lambda path: path.write_bytes(b"garbage" * 99)),
    ],
)  # fmt: skip
def test_the_advice_for_damaged_indices_works(tmp_path, sounds, name, damage):
    if name == "search.faiss":
        pytest.importorskip("faiss")
    build(tmp_path / "index", sounds)
    damage(tmp_path / "index" / name)
    for attempt in (load_index, partial(build, sounds=sounds)):
        with pytest.raises(ValueError, match=r"make the index again with index\.overwrite=True$") as error:
            attempt(tmp_path / "index")
        assert str(error.value).startswith(f"{tmp_path / 'index' / name}: ")
        assert "\n" not in str(error.value)
    assert build(tmp_path / "index", sounds, overwrite=True)["files"] == 3
    index = load_index(tmp_path / "index")
    assert index.search(index.vectors[1])[0].path == "low/a.wav"


def test_names_that_are_no_text(tmp_path):
    path = write(tmp_path / "sounds" / "a.wav", tone(300))
    try:
        os.rename(path, os.fsencode(path.parent) + b"/\xff\xfe.wav")
    except OSError:
        pytest.skip("this file system wants text")
    write(tmp_path / "sounds" / "gr\u00fcn \U0001f426.wav", tone(300))
    result = build(tmp_path / "index", tmp_path / "sounds")
    assert [reason.rpartition("/")[2] for reason in result["skipped"].values()] == [
        "??.wav: the name is no text, expected one in UTF-8"
    ]
    index = load_index(tmp_path / "index")
    hits = index.search(index.vectors[0])
    assert hits[0].path == "gr\u00fcn \U0001f426.wav"
    odd = [hits[0]._replace(path="\udcff [bold].wav")]
    assert as_json(index, odd, "hum.wav")["results"][0]["path"] == "? [bold].wav"
    console = Console(width=80, record=True, file=open(os.devnull, "w", encoding="utf-8"))
    console.print(table(odd, "\udcff"))
    assert "? [bold].wav" in console.export_text()


def test_query_vectors_are_checked(tmp_path, sounds):
    build(tmp_path / "index", sounds)
    index = load_index(tmp_path / "index")
    for vector in (np.zeros(47), np.full(48, np.nan)):
        with pytest.raises(ValueError, match="expected 48 finite numbers"):
            index.search(vector)
    with pytest.raises(ValueError, match="top is 0"):
        index.search(index.vectors[0], top=0)
    assert len(index.search(index.vectors[0], top=1000)) == 3


# -- queries
def test_silent_query(tmp_path):
    path = write(tmp_path / "hum.wav", np.zeros(RATE))
    with pytest.raises(Silent, match=r"hum\.wav: silent \(peak 0\.0e\+00\), expected a sound"):
        recording_query(path, Spectral(), stream)
    path = write(tmp_path / "late.wav", np.concatenate([np.zeros(3 * RATE), tone(300)]))
    with pytest.raises(Silent, match=r"late\.wav: the first 2 s are silent"):
        recording_query(path, Spectral(), stream)


def test_long_query_is_decoded_in_part(tmp_path):
    half_an_hour = np.tile(tone(HERTZ["mid"], 10.0, 8000), 180)
    path, read = write(tmp_path / "hum.flac", half_an_hour, 8000), []

    def counting(path, rate):
        for block in stream(path, rate):
            read.append(len(block))
            yield block

    query = recording_query(path, Spectral(), counting)
    assert sum(read) < 5 * RATE
    assert query.notices == (f"{path}: longer than 2 s, only the first 2 s are compared",)
    short = recording_query(write(tmp_path / "short.wav", half_an_hour[:16000], 8000), Spectral(), stream)
    assert short.notices == ()
    np.testing.assert_allclose(query.vector, short.vector, atol=0.05)


def test_results_as_table_and_json(tmp_path, sounds):
    build(tmp_path / "index", sounds)
    index = load_index(tmp_path / "index")
    hits = index.search(index.vectors[1], top=2)
    found = as_json(index, hits, "hum.wav", ["a notice"])
    assert found["results"][0] == {"rank": 1, "path": "low/a.wav", "score": 1.0, "start": 0.0, "seconds": 1.5}
    assert (found["query"], found["notices"], len(found["results"])) == ("hum.wav", ["a notice"], 2)
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    console.print(table(hits, "hum.wav"))
    assert "low/a.wav" in console.export_text()


# -- nearest vectors
def test_exact_search_of_blocks_with_ties(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 7)
    vectors = np.concatenate([unit(20)] * 3)
    scores, rows = nearest.exact(vectors, vectors[:4], 9)
    expected = np.argsort(-(vectors[:4] @ vectors.T).round(6), axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores[:, :3], 1, atol=1e-6)
    assert nearest.exact(vectors, vectors[:1], 1000)[1].shape == (1, 60)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_faiss_finds_what_is_nearest(tmp_path, kind):
    pytest.importorskip("faiss")
    vectors = unit(3000)
    about = nearest.write_faiss(tmp_path / "x.faiss", vectors, kind)
    assert about["kind"] == kind
    assert about["recall"] >= 0.95
    queries = unit(50, seed=1)
    truth = nearest.exact(vectors, queries, 10)
    scores, rows = nearest.searcher(vectors, tmp_path / "x.faiss", kind)(queries, 10)
    recall = nearest.recall_of(rows, truth[1])
    assert recall == 1 if kind == "flat" else recall > 0.85
    found = rows == truth[1]
    np.testing.assert_allclose(scores[found], truth[0][found], atol=1e-5)
    with pytest.raises(ValueError, match="3000 x 16 vectors, expected 2999 x 16"):
        nearest.searcher(vectors[1:], tmp_path / "x.faiss", kind)


def test_recall():
    truth = np.array([[0, 1, 2], [3, 4, 5]])
    found = np.array([[0, 1, 9], [9, 9, 5]])
    assert nearest.recall_of(found, truth) == pytest.approx(0.5)
    assert nearest.recall_of(found, truth, themselves=np.array([0, 3])) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_approximate_from_a_size_on(tmp_path, sounds):
    pytest.importorskip("faiss")
    result = build(tmp_path / "index", sounds, approximate="hnsw", approximate_from=4)
    assert result["search"] == {"kind": "flat", "recall": 1.0}
    result = build(tmp_path / "index", sounds, approximate="hnsw", approximate_from=3)
    assert (result["search"]["kind"], result["search"]["recall"], result["kept"]) == ("hnsw", 1.0, 3)
    index = load_index(tmp_path / "index")
    assert index.search(index.vectors[0])[0].number == 0


def test_without_faiss(tmp_path, sounds, monkeypatch):
    build(tmp_path / "with", sounds)
    with_faiss = load_index(tmp_path / "with").search(unit(1, 48)[0])
    monkeypatch.setattr(nearest, "faiss_module", lambda: None)
    result = build(tmp_path / "without", sounds)
    assert result["search"] == {"kind": "numpy"}
    assert not (tmp_path / "without" / "search.faiss").exists()
    for name in ("with", "without"):
        hits = load_index(tmp_path / name).search(unit(1, 48)[0])
        assert [hit.path for hit in hits] == [hit.path for hit in with_faiss]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in with_faiss], atol=1e-6)
    with pytest.raises(ValueError, match="approximate=ivf needs the package faiss: pip install faiss-cpu"):
        build(tmp_path / "ivf", sounds, approximate="ivf")


# -- reading ahead
def test_memory_is_bounded_by_blocks(monkeypatch):
    monkeypatch.setattr(sound_parts, "BLOCKS", 4)
    produced = []

    def endless(path, rate):
        for number in range(1000):
            produced.append(path)
            yield np.full(10, number, np.float32)

    with sound_parts.ReadAhead(["a", "b", "c"], endless, 100, workers=2, files=2) as read:
        blocks = read("a", 100)
        first = [next(blocks)[0] for _ in range(3)]
        assert first == [0, 1, 2]
    assert len(produced) < 30
    assert "c" not in produced


def test_an_encoder_that_breaks_its_promise(tmp_path, sounds):
    class Wide(Spectral):
        dim = 47

    with pytest.raises(ValueError, match=r"encoder 'spectral 1' gives \(3, 48\), expected \(3, 47\)"):
        build(tmp_path / "index", sounds, Wide())
