"""Data sets of language-based audio retrieval: pairs, evaluation, caches, demo."""

import csv
import inspect
import logging
import pickle

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from data_util import demo_clotho
from data_util.caption_scenes import SOUNDS, Heard, Scene, describe, draw_scene, render, scene_of
from data_util.captioned_clips import AudioCaptions, Captions, collate, draw_captions
from data_util.captions import Captioned, read_captions
from data_util.clotho import caption_loader, evaluation_set, read_collection, training_set
from data_util.demo_clotho import make_demo_clotho, with_demo
from data_util.errors import BadAudio, DataMissing, TableError
from data_util.feature_cache import build_embeddings, build_features
from tests.reference import golden

RATE = 8000
COLUMNS = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
NAMES = ("Größe 1.wav", " leading.wav", "c.wav", "d.wav", "e.wav", "f.wav")


def value(number):
    return (number + 1) / 16


def make(folder, splits=("development", "evaluation"), names=NAMES):
    """Clotho in small: clip i has the constant value (i + 1) / 16 and 0.2 + 0.05 i seconds."""
    for split in splits:
        (folder / split).mkdir(parents=True)
        for number, name in enumerate(names):
            audio = np.full(1600 + 400 * number, value(number), np.float32)
            soundfile.write(folder / split / name.strip(), audio, RATE, subtype="FLOAT")
        with open(folder / f"clotho_captions_{split}.csv", "w", newline="", encoding="utf-8") as file:
            rows = [[name, *(f"{name.strip()}: caption  {k}, echos." for k in range(1, 6))] for name in names]
            csv.writer(file).writerows([COLUMNS, *rows])
    return folder


@pytest.fixture
def clotho(tmp_path):
    return make(tmp_path / "Clotho")


def options(folder, **others):
    return {"dataset": folder, "sample_rate": RATE, **others}


# -- training ---------------------------------------------------------------------------------------------------------
def test_all_pairs(clotho):
    pairs = training_set(**options(clotho))
    assert len(pairs) == 30
    sample = pairs[7]
    assert sorted(sample) == ["audio", "caption", "clip", "filename", "index", "length", "text"]
    assert sample["text"] == "leading.wav: caption  3, echos."
    assert (sample["clip"], sample["caption"], sample["index"], sample["length"]) == (1, 7, 7, 2000)
    assert sample["audio"].dtype == torch.float32
    assert (sample["audio"] == value(1)).all()
    assert sample["filename"] == str(clotho / "development/leading.wav")
    assert pairs.groups.tolist() == [clip for clip in range(6) for _ in range(5)]
    assert pairs[-1]["index"] == 29


def test_one_caption_per_clip_and_epoch(clotho):
    clips = training_set(**options(clotho, captions="one"))
    assert (len(clips), clips.groups.tolist()) == (6, list(range(6)))
    assert [clips[index]["caption"] for index in range(6)] == [0, 5, 10, 15, 20, 25]
    drawn = [[clips[index, (7, epoch, index)]["caption"] for index in range(6)] for epoch in range(40)]
    assert drawn[3] == [clips[index, (7, 3, index)]["caption"] for index in range(6)]
    counts = np.bincount(np.array(drawn).ravel() % 5, minlength=5)
    assert counts.sum() == 240
    assert counts.min() > 25
    assert all(caption // 5 == index for row in drawn for index, caption in enumerate(row))


def test_draws_as_published():
    stored = golden("lbar/ids.json")
    frame = stored["text_frames"]["development"]
    ids = sorted({row["fid"] for row in frame})
    rows = [[number for number, row in enumerate(frame) if row["fid"] == fid] for fid in ids]
    state = np.random.RandomState(stored["bootstrap"]["numpy_seed"])
    for call in stored["bootstrap"]["calls"]:
        places = draw_captions([len(own) for own in rows], state)
        assert [[own[place], fid] for own, place, fid in zip(rows, places, ids)] == [[row, fid] for row, _, fid in call]


def test_excerpts_are_seeded_and_shorter_clips_stay_short(clotho):
    audio = np.arange(8000, dtype=np.float32) / 8000
    soundfile.write(clotho / "development/f.wav", audio, RATE, subtype="FLOAT")
    pairs = training_set(**options(clotho, clip_length=0.25))
    assert [pairs[5 * clip]["length"] for clip in range(6)] == [1600, 2000, 2000, 2000, 2000, 2000]
    assert pairs[25]["audio"][0] == 0
    starts = [float(pairs[25, (0, epoch, 25)]["audio"][0]) for epoch in range(8)]
    assert len(set(starts)) == 8
    assert starts[2] == float(pairs[25, (0, 2, 25)]["audio"][0])
    with pytest.raises(ValueError, match=r"data.clip_length is -1"):
        training_set(**options(clotho, clip_length=-1))


def test_other_rates_are_resampled(clotho):
    assert training_set(dataset=clotho, sample_rate=2 * RATE)[0]["length"] == 3200


def test_batches_are_padded_with_zeros(clotho):
    pairs = training_set(**options(clotho))
    batch = collate([pairs[0], pairs[10]])
    assert batch["audio"].shape == (2, 2400)
    assert batch["length"].tolist() == [1600, 2400]
    assert (batch["audio"][0, 1600:] == 0).all()
    assert (batch["audio"][1] == value(2)).all()
    assert batch["clip"].tolist() == [0, 2]
    assert batch["text"][1] == "c.wav: caption  1, echos."


def test_loader_has_every_pair_once_and_is_seeded(clotho):
    pairs = training_set(**options(clotho))

    def epoch(number, **others):
        return [batch["index"].tolist() for batch in caption_loader(pairs, 5, seed=1, epoch=number, **others)]

    first = epoch(0)
    assert sorted(index for batch in first for index in batch) == list(range(30))
    assert first == epoch(0)
    assert first != epoch(1)
    assert epoch(0, start=4) == first[4:]
    for batch in caption_loader(pairs, 6, seed=1, unique_clips=True):
        assert len(set(batch["clip"].tolist())) == len(batch["clip"])
    halves = [[batch["index"].tolist() for batch in caption_loader(pairs, 5, 1, rank, 2)] for rank in range(2)]
    assert sorted(index for half in halves for batch in half for index in batch) == list(range(30))


def test_loader_workers_give_the_same_samples(clotho):
    pairs = training_set(**options(clotho, captions="one", clip_length=0.2))
    alone, others = (list(caption_loader(pairs, 3, seed=5, num_workers=workers)) for workers in (0, 1))
    assert [batch["caption"].tolist() for batch in alone] == [batch["caption"].tolist() for batch in others]


def test_correction_is_a_switch(clotho):
    pairs = training_set(**options(clotho, curate=True))
    assert pairs[7]["text"] == "leading.wav: caption 3, echoes."
    assert pairs.rows[1].file == "leading.wav"
    assert training_set(**options(clotho)).rows[1].file == " leading.wav"


# -- what is missing or broken ----------------------------------------------------------------------------------------
def test_missing_audio_is_listed(clotho, caplog):
    (clotho / "development/c.wav").unlink()
    (clotho / "development/e.wav").unlink()
    with pytest.raises(DataMissing, match=r"2 of 6 audio files are not there: 'c.wav', 'e.wav'; data.on_missing_audio"):
        training_set(**options(clotho))
    with caplog.at_level(logging.WARNING):
        pairs = training_set(**options(clotho, on_missing_audio="skip"))
    assert "'c.wav', 'e.wav'" in caplog.text
    assert [row.file for row in pairs.rows] == ["Größe 1.wav", " leading.wav", "d.wav", "f.wav"]
    assert (pairs[10]["clip"], pairs[10]["audio"][0]) == (2, value(3))
    assert read_collection(clotho, "development", on_missing_audio="keep").paths[2] is None
    with pytest.raises(ValueError, match=r"data.on_missing_audio is 'keep', expected 'raise' or 'skip'"):
        training_set(**options(clotho, on_missing_audio="keep"))


def test_unreadable_audio_is_named_and_replaced(clotho, caplog):
    (clotho / "development/c.wav").write_bytes(b"no audio")
    with pytest.raises(BadAudio, match=r"c.wav: not readable as audio"):
        training_set(**options(clotho, on_bad_audio="raise"))[10]
    pairs = training_set(**options(clotho))
    with caplog.at_level(logging.WARNING):
        sample = pairs[12]
    assert "c.wav: not readable as audio" in caplog.text
    assert (sample["clip"], sample["caption"], sample["text"]) == (3, 17, "d.wav: caption  3, echos.")
    assert sample["index"] == 12
    assert sample["audio"][0] == value(3)


def test_missing_folders_and_tables(clotho, tmp_path):
    with pytest.raises(DataMissing, match=r"data.dataset is not set"):
        training_set()
    with pytest.raises(DataMissing, match=r"no caption table of the split 'test', expected clotho_captions_test.csv"):
        evaluation_set("test", clotho)
    with pytest.raises(
        DataMissing, match=r"no caption table of the split 'development', expected mine_development.json"
    ):
        training_set(dataset=clotho, text_data="mine_{split}.json")
    with pytest.raises(ValueError, match=r"data.captions is 'some'"):
        training_set(**options(clotho, captions="some"))
    for file in (clotho / "evaluation").iterdir():
        file.unlink()
    with pytest.raises(DataMissing, match=r"6 of 6 audio files are not there"):
        evaluation_set("evaluation", **options(clotho, on_missing_audio="skip"))


# -- evaluation -------------------------------------------------------------------------------------------------------
def test_evaluation_has_clips_once_and_all_captions(clotho):
    clips = evaluation_set("evaluation", **options(clotho))
    assert (len(clips), len(clips.captions.texts)) == (6, 30)
    assert clips.captions.texts[5] == "leading.wav: caption  1, echos."
    assert clips.relevance.shape == (30, 6)
    assert clips.relevance.sum() == 30
    assert clips.relevance[5:10, 1].all()
    assert sorted(clips[2]) == ["audio", "clip", "filename", "index", "length"]
    assert (clips[2]["audio"] == value(2)).all()
    batch = next(iter(DataLoader(clips, 6, collate_fn=collate)))
    assert batch["length"].tolist() == [1600, 2000, 2400, 2800, 3200, 3600]
    short = evaluation_set("evaluation", **options(clotho, eval_clip_length=0.3))
    assert [short[clip]["length"] for clip in range(6)] == [1600, 2000, 2400, 2400, 2400, 2400]


def test_unreadable_clips_leave_the_evaluation(clotho):
    (clotho / "evaluation/c.wav").write_bytes(b"no audio")
    clips = evaluation_set("evaluation", **options(clotho))
    assert [clips[index]["index"] for index in range(6)] == [0, 1, 3, 3, 4, 5]
    captions, kept = clips.answerable()
    assert kept.tolist() == [True, True, False, True, True, True]
    assert np.flatnonzero(~captions).tolist() == [10, 11, 12, 13, 14]


def test_several_right_clips_per_caption(clotho):
    table = clotho / "relevance_evaluation.csv"
    text = "c.wav: caption  2, echos."
    table.write_text(
        f'caption,file_name\n"{text}",c.wav\n"{text}",Größe 1.wav\n"d.wav: caption  1, echos.",e.wav\n', "utf-8"
    )
    clips = evaluation_set("evaluation", **options(clotho, relevance="relevance_{split}.csv"))
    assert np.flatnonzero(clips.relevance[11]).tolist() == [0, 2]
    assert np.flatnonzero(clips.relevance[15]).tolist() == [4]
    assert np.flatnonzero(clips.relevance[16]).tolist() == [3]
    assert clips.relevance.sum() == 31
    plain = evaluation_set("development", **options(clotho, relevance="relevance_{split}.csv"))
    assert plain.relevance.sum() == 30
    corrected = evaluation_set("evaluation", **options(clotho, relevance=table, curate=True))
    np.testing.assert_array_equal(corrected.relevance, clips.relevance)
    (clotho / "evaluation/e.wav").unlink()
    fewer = evaluation_set("evaluation", **options(clotho, relevance=table, on_missing_audio="skip"))
    assert not fewer.relevance[15].any()
    assert not fewer.answerable()[0][15]
    table.write_text("caption,file_name\nunknown,c.wav\n")
    with pytest.raises(TableError, match=r"line 2: caption 'unknown' is not in the split"):
        evaluation_set("evaluation", **options(clotho, on_missing_audio="skip", relevance=table))
    table.write_text(f'caption,file_name\n"{text}",z.wav\n')
    with pytest.raises(TableError, match=r"line 2: clip 'z' is not in the split"):
        evaluation_set("evaluation", **options(clotho, on_missing_audio="skip", relevance=table))


# -- caches -----------------------------------------------------------------------------------------------------------
def blocks(audio):
    return audio[: len(audio) // 400 * 400].reshape(-1, 4, 100).mean(axis=2)


def make_cache(folder, split):
    found = read_collection(folder, split, on_missing_audio="keep")
    clips = {row.clip: path for row, path in zip(found.rows, found.paths) if path}
    build_features(folder / f"{split}_logmels.hdf5", clips, blocks, RATE, {"test": 1}, workers=1)


def test_features_and_embeddings_from_caches(clotho):
    make_cache(clotho, "development")
    texts = training_set(**options(clotho)).captions.texts
    build_embeddings(
        clotho / "embeds.hdf5", texts, lambda part: np.array([[len(t), ord(t[0])] for t in part]), {"m": 1}
    )
    pairs = training_set(dataset=clotho, audio_data="{split}_logmels.hdf5", text_embeds="embeds.hdf5")
    sample = pickle.loads(pickle.dumps(pairs))[13]
    assert sorted(sample) == ["caption", "clip", "features", "filename", "index", "length", "text", "text_embedding"]
    assert (sample["features"] == value(2)).all()
    assert sample["features"].shape == (6, 4)
    assert sample["text_embedding"].tolist() == [len(sample["text"]), ord("c")]
    batch = next(iter(caption_loader(pairs, 30, seed=0)))
    assert batch["features"].shape == (30, 9, 4)
    assert batch["text_embedding"].shape == (30, 2)
    row = batch["clip"].tolist().index(0)
    assert batch["length"][row] == 4
    assert (batch["features"][row, 4:] == 0).all()
    cut = training_set(dataset=clotho, audio_data="{split}_logmels.hdf5", clip_length=0.25)
    assert [cut[5 * clip]["length"] for clip in range(6)] == [4, 5, 5, 5, 5, 5]
    clips = evaluation_set("development", clotho, audio_data="{split}_logmels.hdf5", text_embeds="embeds.hdf5")
    assert clips[5]["length"] == 9
    assert clips.embeddings.vectors(clips.captions.texts).shape == (30, 2)
    with pytest.raises(ValueError, match=r"no embeddings of 30 captions"):
        training_set(**options(clotho, text_embeds="embeds.hdf5", curate=True))


def test_clips_without_features_are_named(clotho, caplog):
    (clotho / "development/d.wav").write_bytes(b"no audio")
    make_cache(clotho, "development")
    (clotho / "development/c.wav").unlink()
    cached = options(clotho, audio_data="{split}_logmels.hdf5")
    with caplog.at_level(logging.WARNING):
        pairs = training_set(**cached)
    assert "no features (not computed, or the audio is not readable) of 1 of 6 clips: 'd.wav'" in caplog.text
    assert [row.file for row in pairs.rows] == [name for name in NAMES if name != "d.wav"]
    with pytest.raises(BadAudio, match=r"'d.wav'; data.on_bad_audio=skip goes on without them"):
        training_set(**cached, on_bad_audio="raise")
    (clotho / "development/d.wav").unlink()
    with pytest.raises(DataMissing, match=r"no features and no audio of 1 of 6 clips: 'd.wav'; data.on_missing_audio"):
        training_set(**cached)
    assert len(evaluation_set("development", **cached, on_missing_audio="skip")) == 5


# -- generated audio --------------------------------------------------------------------------------------------------
def test_generated_audio_beside_and_instead_of_originals(clotho, tmp_path):
    folder = tmp_path / "generated"
    folder.mkdir()
    for name in NAMES:
        for column in (1, 2, 3):
            audio = np.full(800, -column / 8, np.float32)
            soundfile.write(folder / f"{name.strip()[:-4]}_cap_{column}.wav", audio, RATE, subtype="FLOAT")
    mixed = training_set(**options(clotho, synthetic_audio=folder, replication_factor=2))
    assert (len(mixed.rows), len(mixed)) == (18, 6 * 5 + 12)
    alone = training_set(**options(clotho, synthetic_audio=folder, replication_factor=2, originals=False))
    assert (len(alone.rows), len(alone)) == (12, 12)
    for index in range(12):
        sample = alone[index]
        column = round(-8 * float(sample["audio"][0]))
        assert sample["text"].endswith(f"caption  {column}, echos.")
        assert f"_cap_{column}" in sample["filename"]
    one = training_set(**options(clotho, synthetic_audio=folder, replication_factor=1, captions="one"))
    assert one.captions.counts.tolist() == [5, 1] * 6
    part = training_set(**options(clotho, synthetic_audio=folder, chunk=2, chunks=3))
    assert {row.captions[0].partition(":")[0] for row in part.rows} == {"c.wav", "d.wav"}
    with pytest.raises(DataMissing, match=r"6 of 6 clips have fewer than data.replication_factor = 4: .*1_cap_4.wav"):
        training_set(**options(clotho, synthetic_audio=folder, replication_factor=4))
    with pytest.raises(ValueError, match=r"data.originals is False, expected a folder"):
        training_set(**options(clotho, originals=False))


def one_caption_table(folder, names):
    """A development split of one caption a clip; every clip is half a second."""
    (folder / "development").mkdir(parents=True)
    for name in names:
        soundfile.write(folder / "development" / name, np.ones(RATE // 2, np.float32), RATE)
    with open(folder / "development_captions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("fname", "raw_text", "text"), *((name, f"of {name}", "x") for name in names)])
    return folder


def test_a_table_may_list_generated_clips(tmp_path):
    """The published folders of mixtures do; other clips may happen to be called so."""
    names = ["bottle_cap_1.wav", "dog.wav", "dog_cap_1.wav", "dog_cap_4.wav", "rain.wav"]
    folder = one_caption_table(tmp_path / "mixed", names)
    assert [row.file for row in training_set(**options(folder)).rows] == names
    generated = tmp_path / "generated"
    generated.mkdir()
    for name in ("bottle_cap_1_cap_1.wav", "dog_cap_1.wav", "dog_cap_4.wav", "rain_cap_1.wav", "rain_cap_2.wav"):
        soundfile.write(generated / name, np.ones(RATE // 2, np.float32), RATE)
    rows = training_set(**options(folder, synthetic_audio=generated, replication_factor=1)).rows
    expected = ["bottle_cap_1.wav", "bottle_cap_1_cap_1.wav", "dog.wav", "dog_cap_1.wav", "rain.wav", "rain_cap_1.wav"]
    assert [row.file for row in rows] == expected  # one caption, so one generated clip, whatever files there are
    assert rows[-1].captions == ("of rain.wav",)
    (generated / "rain_cap_1.wav").unlink()
    with pytest.raises(DataMissing, match=r"3 of 3 clips have fewer than data.replication_factor = 2: 'rain_cap_1"):
        training_set(**options(folder, synthetic_audio=generated, replication_factor=2))


def test_curated_names_are_distinct(tmp_path):
    folder = one_caption_table(tmp_path / "twice", ["rain.wav", "dog.wav"])
    table = folder / "development_captions.csv"
    table.write_text(table.read_text().replace("dog.wav,", " rain.wav,"))
    with pytest.raises(TableError, match=r"line 3: two clips have the id 'rain' \('rain.wav' and 'rain.wav'\)"):
        training_set(**options(folder, curate=True))


# -- config -----------------------------------------------------------------------------------------------------------
def test_defaults_are_plain_and_agree():
    sides = [inspect.signature(function).parameters for function in (training_set, evaluation_set)]
    for name in sides[0].keys() & sides[1].keys():
        assert sides[0][name].default == sides[1][name].default, name
    assert {"dataset", "audio_data", "text_data", "text_embeds"} <= sides[0].keys() & sides[1].keys()


# -- demo -------------------------------------------------------------------------------------------------------------
def test_captions_say_what_is_in_a_scene():
    for seed in range(150):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng)
        captions = describe(scene, rng)
        assert len({*captions}) == 5
        for caption in captions:
            read = scene_of(caption)
            assert read.background == scene.background, caption
            assert [event.sound for event in read.events] == [event.sound for event in scene.events], caption
            for told, event in zip(read.events, scene.events):
                assert told.count in (event.count, 1 if event.count else 0), caption
                assert told.level in (event.level, "plain"), caption


def test_scene_of_other_captions():
    scene = scene_of("Before the car passes, dogs are barking twice and faintly in the rain")
    assert scene == Scene((Heard("dog", 2, "faint"), Heard("car")), "water")
    assert scene_of("Silence.") == Scene(())


def test_scenes_sound_as_described():
    def loudness(count, level, background=None):
        audio = render(Scene((Heard("beep", count, level),), background), 3.0, RATE, np.random.default_rng(4))
        assert np.abs(audio).max() <= 1
        return np.sqrt(np.mean(audio**2)), len(audio)

    loud, samples = loudness(1, "loud")
    assert samples == 3 * RATE
    assert loud == pytest.approx(10 ** (8 / 20) * loudness(1, "plain")[0], rel=0.02)
    assert loudness(3, "loud")[0] == pytest.approx(np.sqrt(3) * loud, rel=0.02)
    over_wind = np.hypot(10 ** (-36 / 20), loudness(1, "faint")[0])
    assert loudness(1, "faint", "wind")[0] == pytest.approx(over_wind, rel=0.02)
    for name in SOUNDS:
        assert np.isfinite(render(Scene((Heard(name, 3, "loud"),)), 0.5, RATE, np.random.default_rng(0))).all()


def test_demo_has_the_layout_of_clotho(tmp_path):
    sizes = {"development": 5, "validation": 2, "evaluation": 3}
    folder = tmp_path / "demo"
    assert make_demo_clotho(folder, seed=3, sizes=sizes, workers=1) == str(folder)
    for split, size in sizes.items():
        rows = read_captions(folder / f"clotho_captions_{split}.csv")
        assert [len(row.captions) for row in rows] == [5] * size
        clips = evaluation_set(split, folder, sample_rate=32000)
        assert all(3.0 <= clips[index]["length"] / 32000 <= 6.0 for index in range(size))
    other = tmp_path / "other"
    make_demo_clotho(other, seed=3, sizes=sizes, workers=2)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert [(folder / file).read_bytes() for file in files] == [(other / file).read_bytes() for file in files]
    before = (folder / files[0]).stat().st_mtime_ns
    make_demo_clotho(folder, seed=3, sizes=sizes)
    assert (folder / files[0]).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"was made with other settings"):
        make_demo_clotho(folder, seed=4, sizes=sizes)
    with pytest.raises(ValueError, match=r"unknown name 'test'"):
        make_demo_clotho(folder, sizes={"test": 1})


def test_demo_is_asked_for(tmp_path, monkeypatch):
    entries = {"dataset": "x", "curate": True}
    assert with_demo(entries) == entries
    monkeypatch.setattr(demo_clotho, "SIZES", {"development": 2, "validation": 1, "evaluation": 1})
    made = with_demo(entries, enabled=True, root=str(tmp_path), seed=7)
    assert made == {"dataset": f"{tmp_path}/clotho/seed7", "curate": True}
    assert len(training_set(made["dataset"], sample_rate=32000)) == 10


# -- real clips -------------------------------------------------------------------------------------------------------
@pytest.mark.data
def test_real_clips(real_data, caplog):
    with caplog.at_level(logging.WARNING):
        clips = evaluation_set("evaluation", real_data / "clotho", on_missing_audio="skip")
    assert "1042 of 1045 audio files are not there" in caplog.text
    assert [row.clip for row in clips.rows] == ["Santa Motor", "Radio Garble", "Blade Big"]
    assert all(15 * 44100 <= clips[index]["length"] <= 30 * 44100 for index in range(3))
    pairs = training_set(real_data / "clotho", "evaluation", captions="one", clip_length=2.0, on_missing_audio="skip")
    assert pairs[1, (0, 0, 1)]["audio"].shape == (88200,)
    caps = evaluation_set("test", real_data / "audiocaps")
    assert (len(caps), len(caps.captions.texts), caps.relevance.sum()) == (7, 35, 35)
    assert caps[0]["length"] == pytest.approx(10 * 44100, rel=0.1)


def test_captions_of_unequal_numbers():
    captions = Captions([Captioned("a", ("x",)), Captioned("b", ("y", "z"))])
    assert captions.clips.tolist() == [0, 1, 1]
    assert captions.first.tolist() == [0, 1]


def test_stand_in_with_fewer_captions(tmp_path):
    class Source:
        name = "audio"

        def read(self, index, rng=None):
            if index == 0:
                raise BadAudio("broken")
            return np.ones(3, np.float32)

    pairs = AudioCaptions([Captioned("a", ("1", "2", "3")), Captioned("b", ("only",))], Source())
    assert (pairs[2]["text"], pairs[2]["clip"]) == ("only", 1)
