"""Data of query by vocal imitation: published layouts, pairs, batches, augmentation, demo."""

import csv
import inspect
import logging
import os
import shutil
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from data_util import demo_vocal, vocal_augment
from data_util.demo_vocal import CLASSES, make_demo_vocal, with_demo
from data_util.errors import BadAudio, DataMissing, TableError
from data_util.gestures import GESTURES
from data_util.imitations import follow, imitate
from data_util.synthesis import tones
from data_util.vocal import evaluation_pairs, pair_loader, training_pairs
from data_util.vocal_augment import Switches
from data_util.vocal_clips import pairs_of
from data_util.vocal_listings import _category, read_collection, restrict
from data_util.vocal_samplers import PairBatchSampler, groups_of
from tests.reference import golden
from tests.tagging_sets import noise, write

RATE = 8000
SHORT = {"sample_rate": RATE, "duration": 0.5}


def make_vimsketch(root, references, imitations, audio=True, rate=RATE):
    """Tables as given; audio of every name, the loudness telling them apart."""
    root.mkdir(parents=True, exist_ok=True)
    for table, folder, names in (
        ("reference_file_names.csv", "references", references),
        ("vocal_imitation_file_names.csv", "vocal_imitations", imitations),
    ):
        (root / table).write_text("".join(f"{name}\n" for name in names))
        for number, name in enumerate(dict.fromkeys(names)):
            if audio and name:
                (root / folder).mkdir(exist_ok=True)
                level = (number + 1) / 100 * (-1 if folder == "references" else 1)
                soundfile.write(root / folder / name, np.full(round(0.3 * rate), level), rate)
    return root


def make_dev(root, rows, header=("Label", "Class", "Items", "Query 1", "Query 2", "Query 3"), title=("DEV set",)):
    """Table and audio of (label, class, item, queries...)."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "DEV Dataset.csv", "w", newline="") as file:
        csv.writer(file).writerows([*([title] if title else []), header, *rows])
    for _, kind, item, *queries in rows:
        write(root / "Items" / kind / item, 0.3, rate=RATE)
        for number, query in enumerate(filter(None, queries)):
            write(root / "Queries" / kind / query, 0.3, seed=number + 1, rate=RATE)
    return root


@pytest.fixture
def vimsketch(tmp_path):
    """Four sounds with two imitations each."""
    names = [f"{number:03d}Animal_{animal}.wav" for number, animal in enumerate(("cat", "dog", "owl", "frog"))]
    references = [f"{number + 1:03d}_{name}" for number, name in enumerate(names)]
    imitations = [f"{number:05d}_{names[number % 4]}" for number in range(8)]
    return make_vimsketch(tmp_path / "Vim_Sketch_Dataset", references, imitations)


def names_of(pairs):
    """(imitation, reference) of all pairs, without folders."""
    samples = [pairs[index] for index in range(len(pairs))]
    return [
        [sample[f"{role}_filename"].rpartition("/")[2] for role in ("imitation", "reference")] for sample in samples
    ]


# -- layouts ----------------------------------------------------------------------------------------------------------
def test_vimsketch_pairs_are_the_published_ones(tmp_path, caplog):
    table = golden("qvim/datasets.json")["vimsketch"]
    names = [table[key].splitlines() for key in ("reference_file_names_csv", "vocal_imitation_file_names_csv")]
    pairs = training_pairs(train_root=make_vimsketch(tmp_path / "set", *names), **SHORT)
    assert names_of(pairs) == [pair for pair in table["pairs"] if pair[1] is not None]
    assert "1 of 8 imitations are without reference (left out): 00099_999No such reference.wav" in caplog.text


def test_development_pairs_are_the_published_ones(tmp_path):
    table = golden("qvim/datasets.json")["aes_dev"]
    rows = list(csv.reader(table["dev_dataset_csv"].splitlines()))
    root = make_dev(tmp_path / "dev", [row[:6] for row in rows[2:]])
    (root / "DEV Dataset.csv").write_text(table["dev_dataset_csv"])
    sets = evaluation_pairs(test_root=root, **SHORT)
    pairs = training_pairs(train_root=root, **SHORT)
    assert [[*pair, pairs[number]["class"]] for number, pair in enumerate(names_of(pairs))] == table["pairs"]
    last = [[path.rpartition("/")[2] for path in pair] for pair in sets.truth.items()]
    assert [[*pair, kind] for pair, kind in zip(last, sets.query_classes)] == table["pairs"]
    assert len(sets.items) == 4  # each once
    assert sets.classes == ("Animals", "Household", "Sci-fi", "Animals")


def test_equal_names_in_two_class_folders_are_two_sounds(tmp_path):
    rows = [("bell", kind, "bell_0.wav", "bell imitation 1_0.wav") for kind in ("Alarms", "Music")]
    sets = evaluation_pairs(test_root=make_dev(tmp_path, rows), **SHORT)
    assert (len(sets.items), len(sets.queries), sets.targets.tolist()) == (2, 2, [0, 1])
    assert sets.query_classes == ["Alarms", "Music"]


def test_query_named_again_counts_once(tmp_path, caplog):
    rows = [("a", "A", "a.wav", "q.wav", "q.wav"), ("b", "A", "b.wav", "q.wav", "p.wav")]
    sets = evaluation_pairs(test_root=make_dev(tmp_path, rows), **SHORT)
    assert sets.targets.tolist() == [0, 1]
    assert "2 of 4 queries are named again" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_tables_in_another_encoding(tmp_path, encoding):
    rows = [("a", "Gr\u00fcn", "a.wav", "q.wav", "")]
    dev = make_dev(tmp_path / "dev", rows) / "DEV Dataset.csv"
    sketch = make_vimsketch(tmp_path / "sketch", ["001_000Gr\u00fcn.wav"], ["00001_000Gr\u00fcn.wav"])
    meta = tmp_path / "meta" / "meta.csv"
    meta.parent.mkdir()
    meta.write_text("filename\tpositive_pair\nq.wav\tgr\u00fcn.wav\n", encoding="utf-8")
    for table in (dev, sketch / "vocal_imitation_file_names.csv", meta):
        table.write_text(table.read_text(encoding="utf-8"), encoding=encoding)
        with pytest.raises(TableError, match=r"byte 0xf[fc] is not UTF-8, expected a table of that") as error:
            read_collection(table.parent)
        assert str(error.value).startswith(f"{table}: ")


def test_evaluation_set_without_ground_truth(tmp_path):
    for name in ("Items/b/2.wav", "Items/a.wav", "Queries/deep/er/q.wav"):
        write(tmp_path / name, 0.3, rate=RATE)
    sets = evaluation_pairs(test_root=tmp_path, **SHORT)
    assert [name[len(str(tmp_path)) + 1 :] for name in sets.items.names] == ["Items/a.wav", "Items/b/2.wav"]
    assert (sets.targets.tolist(), sets.truth, sets.classes, sets.query_classes) == ([-1], {}, None, [None])
    with pytest.raises(DataMissing, match="1 imitations and 0 pairs"):
        training_pairs(train_root=tmp_path, **SHORT)


def test_vocalsketch_lists(tmp_path):
    rows = [(0, "imi/a - 1.wav", "rec/a.wav", "rec/b.wav"), (1, "imi/a - 1.wav", "rec/a.wav", "rec/c.wav"),
            (2, "imi/b - 2.wav", "rec/b.wav", "rec/a.wav")]  # fmt: skip
    with open(tmp_path / "meta.csv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("", "filename", "positive_pair", "negative_pair"), *rows])
    for name in {name for row in rows for name in row[1:]}:
        write(tmp_path / name, 0.3, rate=RATE)
    sets = evaluation_pairs(test_root=tmp_path, **SHORT)
    assert (sets.classes, sets.targets.tolist()) == (("a", "b", "c"), [0, 1])


def test_reference_key_of_two_sounds_makes_two_pairs(tmp_path, caplog):
    root = make_vimsketch(tmp_path, ["1_a.wav", "2_b.wav", "3_a.wav"], ["7_a.wav", "8_b.wav"])
    pairs = training_pairs(train_root=root, **SHORT)
    assert names_of(pairs) == [["7_a.wav", "1_a.wav"], ["7_a.wav", "3_a.wav"], ["8_b.wav", "2_b.wav"]]
    assert [pairs[number]["imitation_id"] for number in range(3)] == [0, 0, 1]
    assert "2 of 3 references are of the same key as others" in caplog.text
    assert evaluation_pairs(test_root=root, **SHORT).targets.tolist() == [0, 1]


def test_name_listed_twice_counts_once(tmp_path, caplog):
    root = make_vimsketch(tmp_path, ["1_a.wav", "1_a.wav"], ["7_a.wav", "", "7_a.wav"])
    assert names_of(training_pairs(train_root=root, **SHORT)) == [["7_a.wav", "1_a.wav"]]
    assert caplog.text.count("there again in") == 2


def test_name_with_a_comma(tmp_path):
    root = make_vimsketch(tmp_path, ["1_a, b.wav"], ["7_a, b.wav"])
    (root / "reference_file_names.csv").write_text('"1_a, b.wav"\n')
    assert names_of(training_pairs(train_root=root, **SHORT)) == [["7_a, b.wav", "1_a, b.wav"]]


@pytest.mark.parametrize(
    ("key", "category"),
    [
        ("008Animal_Domestic animals_pets_Cat.wav", "Animal"),
        ("246Sounds of things_Tools_Sanding.wav", "Sounds of things"),
        ("066-duck_quacking-everyday.wav", "everyday"),
        ("162-subsynth_2007-single_synthesizer.wav", "single_synthesizer"),
        ("unnamed-04.wav", "unnamed-04"),
    ],
)
def test_class_of_a_vimsketch_sound(key, category):
    assert _category(key) == category


def test_split_list(vimsketch, tmp_path):
    table = tmp_path / "val.csv"
    table.write_text("\tfilename\tscene_label\n0\tvocal_imitations/00001_001Animal_dog.wav\t001A\n0\tx/9_y.wav\t9y\n")
    sets = evaluation_pairs(test_root=vimsketch, test_list=table, **SHORT)
    assert (len(sets.items), len(sets.queries), sets.targets.tolist()) == (4, 1, [1])
    pairs = training_pairs(train_root=vimsketch, train_list=table, **SHORT)
    assert names_of(pairs) == [["00001_001Animal_dog.wav", "002_001Animal_dog.wav"]]
    table.write_text("\tfilename\n0\tvocal_imitations/nobody.wav\n")
    with pytest.raises(DataMissing, match=r"val\.csv: 0 of its 1 imitations are among the 8"):
        restrict(read_collection(vimsketch), table)


# -- bad tables and files ---------------------------------------------------------------------------------------------
def test_missing_files_are_counted_and_named(vimsketch, caplog):
    (vimsketch / "references" / "002_001Animal_dog.wav").unlink()
    (vimsketch / "vocal_imitations" / "00000_000Animal_cat.wav").unlink()
    sets = evaluation_pairs(test_root=vimsketch, **SHORT)
    assert (len(sets.items), len(sets.queries)) == (3, 5)
    assert len(training_pairs(train_root=vimsketch, **SHORT)) == 5
    assert {query.rpartition("_")[2]: item.rpartition("_")[2] for query, item in sets.truth.items()} == {
        name: name for name in ("cat.wav", "owl.wav", "frog.wav")
    }
    assert "1 of 4 sounds are not there (left out): 002_001Animal_dog.wav" in caplog.text
    assert "1 of 8 imitations are not there (left out): 00000_000Animal_cat.wav" in caplog.text
    assert "2 of 8 imitations are without their sound (left out)" in caplog.text


def test_all_files_missing_is_fatal(vimsketch):
    shutil.rmtree(vimsketch / "references")
    with pytest.raises(DataMissing, match=r"0 of 4 sounds are there.*first missing: .*001_000Animal_cat\.wav"):
        evaluation_pairs(test_root=vimsketch, **SHORT)


def test_missing_column_is_named(tmp_path):
    row = ("a", "A", "a.wav", "q.wav")
    root = make_dev(tmp_path, [row], header=("Label", "Class", "Item", "Query 1", "Query 2", "Query 3"))
    with pytest.raises(
        TableError, match=r"DEV Dataset\.csv: no column 'Items' \(expected .* found Label, Class, Item,"
    ):
        read_collection(root)
    (root / "DEV Dataset.csv").write_text("")
    with pytest.raises(TableError, match="found nothing"):
        read_collection(root)


def test_header_in_the_first_line(tmp_path):
    root = make_dev(tmp_path, [("a", "A", "a.wav", "q.wav", "", "")], title=None)
    assert read_collection(root).targets.tolist() == [0]


def test_incomplete_row_and_wrong_name(tmp_path):
    root = make_dev(tmp_path / "dev", [("a", "A", "a.wav", "q.wav"), ("b", "", "b.wav", "p.wav")])
    with pytest.raises(TableError, match=r"DEV Dataset\.csv, line 4: Class is ''"):
        read_collection(root)
    root = make_vimsketch(tmp_path / "vim", ["a.wav"], ["1_a.wav"])
    with pytest.raises(TableError, match=r"reference_file_names\.csv, line 1: 'a\.wav'"):
        read_collection(root)
    (root / "reference_file_names.csv").unlink()
    with pytest.raises(DataMissing, match=r"no file .*reference_file_names\.csv"):
        read_collection(root)


def test_no_layout(tmp_path):
    with pytest.raises(DataMissing, match=r"expected one of DEV Dataset\.csv, vocal_imitation_file_names\.csv"):
        read_collection(tmp_path)
    with pytest.raises(DataMissing, match=r"no folder data\.test_root = .*nowhere"):
        evaluation_pairs(test_root=tmp_path / "nowhere")


# -- samples ----------------------------------------------------------------------------------------------------------
def test_sample(vimsketch):
    sample = training_pairs(dataset_path=vimsketch.parent, **SHORT)[5]
    expected = torch.zeros(RATE // 2)
    expected[: round(0.3 * RATE)] = 6 / 100
    torch.testing.assert_close(sample["imitation"], expected, atol=1e-4, rtol=0)
    expected[: round(0.3 * RATE)] = -2 / 100
    torch.testing.assert_close(sample["reference"], expected, atol=1e-4, rtol=0)
    assert {key: sample[key] for key in ("imitation_id", "reference_id", "index", "class")} == {
        "imitation_id": 5, "reference_id": 1, "index": 5, "class": "Animal",
    }  # fmt: skip
    assert sample["imitation_filename"] == str(vimsketch / "vocal_imitations" / "00005_001Animal_dog.wav")


def test_other_rate_and_channels(vimsketch):
    stereo = noise(1.0, rate=44100, channels=2)
    path = vimsketch / "vocal_imitations" / "00000_000Animal_cat.wav"
    soundfile.write(path, stereo, 44100, subtype="FLOAT")
    audio = training_pairs(train_root=vimsketch, **SHORT)[0]["imitation"].numpy()
    np.testing.assert_allclose(audio, soxr.resample(stereo.mean(axis=1), 44100, RATE)[: RATE // 2], atol=1e-6)


def test_defaults_are_the_published_ones(vimsketch):
    sample = training_pairs(train_root=vimsketch)[0]
    assert sample["imitation"].shape == (320000,)
    torch.testing.assert_close(sample["imitation"], training_pairs(train_root=vimsketch)[0, (1, 2, 0)]["imitation"])
    given = inspect.signature(training_pairs).parameters
    published = {"dataset_path": "data", "sample_rate": 32000, "duration": 10.0, "gain_augment": 0}
    assert {name: given[name].default for name in published} == published


def test_sound_shorter_than_a_tenth_of_a_second(vimsketch):
    tick = noise(0.05, rate=RATE)
    soundfile.write(vimsketch / "references" / "001_000Animal_cat.wav", tick, RATE, subtype="FLOAT")
    audio = evaluation_pairs(test_root=vimsketch, **SHORT).items[0]["audio"].numpy()
    np.testing.assert_allclose(audio, np.pad(tick, (0, RATE // 2 - len(tick))), atol=1e-7)


def test_of_a_long_query_only_the_start_is_decoded(vimsketch, monkeypatch):
    path = vimsketch / "vocal_imitations" / "00000_000Animal_cat.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(30):
            file.write(np.full(60 * RATE, 0.5, np.float32))
    decoded, read = [], soundfile.SoundFile.read

    def counted(file, frames=-1, *args, **kwargs):
        audio = read(file, frames, *args, **kwargs)
        decoded.append(len(audio))
        return audio

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    sets = evaluation_pairs(test_root=vimsketch, sample_rate=16000, duration=0.5)
    audio = sets.queries[0]["audio"]
    assert audio.shape == (8000,)
    assert audio[100:-100].mean() == pytest.approx(0.5, abs=1e-3)
    assert sum(decoded) < RATE


def test_silent_query_is_named_once(vimsketch, caplog):
    soundfile.write(vimsketch / "vocal_imitations" / "00000_000Animal_cat.wav", np.zeros(RATE), RATE)
    queries = evaluation_pairs(test_root=vimsketch, **SHORT).queries
    assert not queries[0]["audio"].any()
    assert queries[0]["index"] == 0
    assert caplog.text.count("00000_000Animal_cat.wav: silent") == 1


def test_unreadable_sound_has_a_stand_in(vimsketch, caplog):
    bad = vimsketch / "references" / "001_000Animal_cat.wav"
    bad.write_bytes(b"RIFF no audio")
    pairs = training_pairs(train_root=vimsketch, **SHORT)
    assert pairs[0]["index"] == pairs[0, (1, 2, 0)]["index"] == 1
    assert caplog.text.count("001_000Animal_cat.wav: not readable as audio") == 1
    sets = evaluation_pairs(test_root=vimsketch, **SHORT)
    assert sets.items[0]["index"] == 1
    assert sets.items.unreadable == [str(bad)]
    with pytest.raises(BadAudio, match="001_000Animal_cat"):
        training_pairs(train_root=vimsketch, on_bad_audio="raise", **SHORT)[0]
    bad.write_bytes(b"")
    with pytest.raises(BadAudio, match="001_000Animal_cat"):
        evaluation_pairs(test_root=vimsketch, on_bad_audio="raise", **SHORT).items[0]


def test_cache_has_the_same_samples(vimsketch, tmp_path):
    options = {"train_root": vimsketch, "sample_rate": 16000, "duration": 0.5}
    plain = training_pairs(**options)
    cached = training_pairs(**options, cache_path=tmp_path / "cache")
    assert list((tmp_path / "cache" / "16000").glob("vocal_imitations-*.pcm"))
    wanted, path = plain[0]["imitation"], vimsketch / "vocal_imitations" / "00000_000Animal_cat.wav"
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))  # still as long and as old, but no audio
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert torch.equal(cached[0]["imitation"], wanted)


@pytest.mark.parametrize("entries", [{"duration": 0}, {"sample_rate": -1}, {"on_bad_audio": "ignore"}])
def test_wrong_entries(vimsketch, entries):
    with pytest.raises(ValueError, match=r"data\."):
        training_pairs(train_root=vimsketch, **{**SHORT, **entries})


# -- first use --------------------------------------------------------------------------------------------------------
def test_first_use_downloads(vimsketch, tmp_path):
    with zipfile.ZipFile(tmp_path / "served.zip", "w") as archive:
        for path in sorted(vimsketch.rglob("*")):
            archive.write(path, path.relative_to(vimsketch.parent))
    where = {"dataset_path": tmp_path / "data", "train_url": (tmp_path / "served.zip").as_uri(), **SHORT}
    assert len(training_pairs(**where)) == 8
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["Vim_Sketch_Dataset", "downloads.json"]
    assert len(training_pairs(**{**where, "train_url": "http://127.0.0.1:9/x.zip"})) == 8


def test_offline_is_one_line(tmp_path):
    with pytest.raises(DataMissing, match=r"no folder .*qvim-dev.*refused.*: put x\.zip .* into .*, or its content"):
        evaluation_pairs(dataset_path=tmp_path, test_url="http://127.0.0.1:9/x.zip")
    with pytest.raises(DataMissing, match=r"put Vim_Sketch_Dataset\.zip \(https://zenodo\.org/records/2596911"):
        training_pairs(dataset_path=tmp_path, download=False)


# -- batches ----------------------------------------------------------------------------------------------------------
def test_loader(vimsketch):
    loader = pair_loader(training_pairs(train_root=vimsketch, **SHORT), 3, seed=1)
    batches = list(loader)
    assert [len(batch["index"]) for batch in batches] == [3, 3, 2]
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(8))
    assert batches[0]["imitation"].shape == (3, RATE // 2)
    later = pair_loader(training_pairs(train_root=vimsketch, **SHORT), 3, seed=1, start=1)
    assert [batch["index"].tolist() for batch in later] == [batch["index"].tolist() for batch in batches[1:]]


def test_unique_references_in_batches(vimsketch):
    pairs = training_pairs(train_root=vimsketch, **SHORT)
    for epoch in range(3):
        batches = list(pair_loader(pairs, 4, seed=1, epoch=epoch, unique_references=True))
        assert [sorted(batch["reference_id"].tolist()) for batch in batches] == [[0, 1, 2, 3]] * 2
    plain = [batch for seed in range(5) for batch in pair_loader(pairs, 4, seed)]
    assert any(len(set(batch["reference_id"].tolist())) < 4 for batch in plain)


def batches_of(groups, batch_size, epoch=0, rank=0, world_size=1, seed=3):
    sampler = PairBatchSampler(groups, batch_size, seed, rank, world_size)
    sampler.set_epoch(epoch)
    batches = [[index for index, _ in batch] for batch in sampler]
    assert len(batches) == len(sampler)
    return batches


def test_sampler_deals_all_pairs_evenly():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 500)
    seen = []
    for epoch in range(3):
        batches = batches_of(groups, 16, epoch)
        assert sorted(chain(*batches)) == list(range(500))
        assert {len(batch) for batch in batches} <= {15, 16}
        assert all(len(set(groups[batch])) == len(batch) for batch in batches)
        seen.append(batches)
    assert seen[0] != seen[1]
    assert seen[1] == batches_of(groups, 16, epoch=1)
    assert seen[0] != batches_of(groups, 16, seed=4)


def test_ranks_have_disjoint_parts_of_equal_size():
    groups = np.random.default_rng(1).integers(0, 40, 205)
    parts = [batches_of(groups, 8, rank=rank, world_size=2) for rank in range(2)]
    for own, other, single in zip(*parts, batches_of(groups, 16)):
        assert len(own) == len(other) in (7, 8)
        assert own + other == single[: 2 * len(own)]
        assert len(set(groups[own + other])) == 2 * len(own)
    keys = [key for batch in PairBatchSampler(groups, 8, 3, 1, 2) for key in batch]
    assert keys[0] == (parts[1][0][0], (3, 0, parts[1][0][0]))


def test_group_larger_than_the_number_of_batches(caplog):
    groups = [0] * 10 + [1, 2, 3, 4, 5, 6]
    epochs = [batches_of(groups, 4, epoch) for epoch in range(20)]
    assert "10 of 16 pairs" in caplog.text
    assert all(len(list(chain(*batches))) == 10 for batches in epochs)
    assert {index for batches in epochs for index in chain(*batches)} == set(range(16))
    with pytest.raises(ValueError, match="2 sounds with 10 pairs make batches of 2 pairs"):
        PairBatchSampler([0] * 5 + [1] * 5, 1, world_size=3)


def test_groups_join_over_imitations_and_references():
    groups = groups_of(np.array([[0, 0], [1, 1], [0, 2], [2, 2], [3, 3], [4, 1]]))
    assert groups[0] == groups[2] == groups[3]
    assert groups[1] == groups[5]
    assert len(set(groups.tolist())) == 3


# -- augmentation -----------------------------------------------------------------------------------------------------
def tone(hertz, seconds=1.0, rate=32000):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def peak_of(audio, rate=32000):
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 8 * len(audio)))
    return spectrum.argmax() * rate / 8 / len(audio)


def level_of(audio):
    return np.sqrt(np.mean(np.square(audio, dtype=np.float64)))


@pytest.mark.parametrize(("stretch", "semitones"), [(1, 4), (1, -7), (1.3, 0), (0.7, 0), (1.2, -3)])
def test_warp_changes_length_and_pitch_alone(stretch, semitones):
    warped = vocal_augment.warp(tone(440), stretch, semitones, 32000)
    assert len(warped) == round(32000 * stretch)
    assert warped.dtype == np.float32
    inner = warped[2000:-2000]
    assert peak_of(inner) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)
    assert level_of(inner) == pytest.approx(level_of(tone(440)), rel=0.01)


@pytest.mark.parametrize("length", [0, 1, 7, 300, 5000])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_warp_of_short_sounds(length, rate):
    warped = vocal_augment.warp(np.full(length, 0.5, np.float32), 1.5, 3, rate)
    assert len(warped) == round(1.5 * length)
    assert np.isfinite(warped).all()


def test_warp_of_nothing_is_the_sound():
    audio = noise(0.5, rate=32000)
    np.testing.assert_allclose(vocal_augment.warp(audio, 1.0, 0.0, 32000), audio, atol=1e-6)


def test_draws_stay_in_their_ranges():
    audio, pitches, lengths, gains = tone(500, 0.3), [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gains.append(20 * np.log10(level_of(vocal_augment.gain(audio, rng, 6)) / level_of(audio)))
        lengths.append(len(vocal_augment.time_stretch(audio, rng, 0.25, 32000)) / len(audio))
        if seed < 15:
            pitches.append(12 * np.log2(peak_of(vocal_augment.pitch_shift(audio, rng, 2, 32000)[800:-800]) / 500))
    assert -6 <= min(gains) < -4
    assert 4 < max(gains) <= 6
    assert 0.8 <= min(lengths) < 0.85
    assert 1.15 < max(lengths) <= 1.25
    assert -2.1 < min(pitches) < -1
    assert 1 < max(pitches) < 2.1


def test_crop_is_an_excerpt():
    audio = np.arange(1, 1001, dtype=np.float32)
    lengths = []
    for seed in range(50):
        part = vocal_augment.crop(audio, np.random.default_rng(seed), 0.4)
        np.testing.assert_array_equal(part, audio[int(part[0]) - 1 :][: len(part)])
        lengths.append(len(part))
    assert 600 <= min(lengths) < 650
    assert 950 < max(lengths) <= 1000


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.5])
def test_mix_has_the_ratio_asked_for(seconds):
    audio, other = tone(300), noise(seconds, seed=1, rate=32000)
    added = vocal_augment.mix(audio, np.random.default_rng(2), other, (10, 10)) - audio
    assert len(added) == len(audio)
    assert level_of(added[added != 0]) == pytest.approx(level_of(audio) / 10**0.5, rel=0.02)
    silence = np.zeros(100, np.float32)
    np.testing.assert_array_equal(vocal_augment.mix(audio, np.random.default_rng(2), silence, (10, 10)), audio)
    np.testing.assert_array_equal(vocal_augment.mix(silence, np.random.default_rng(2), audio, (10, 10)), silence)


ALL_ON = {"pitch_shift": 2.0, "time_stretch": 0.2, "gain_augment": 6.0, "crop": 0.3, "mix_p": 1.0}


@pytest.mark.parametrize("name", ALL_ON)
def test_each_switch_changes_imitations_alone_and_only_with_a_key(vimsketch, name):
    plain = training_pairs(train_root=vimsketch, **SHORT)
    changed = training_pairs(train_root=vimsketch, **{name: ALL_ON[name]}, **SHORT)
    key = (1, 0, 3)
    first, again, other = changed[3, key], changed[3, key], changed[3, (1, 1, 3)]
    assert torch.equal(first["imitation"], again["imitation"])
    assert not torch.equal(first["imitation"], plain[3]["imitation"])
    assert not torch.equal(first["imitation"], other["imitation"])
    assert torch.equal(first["reference"], plain[3]["reference"])
    assert torch.equal(changed[3]["imitation"], plain[3]["imitation"])
    assert first["imitation"].shape == plain[3]["imitation"].shape
    assert first["index"] == 3


def test_references_are_augmented_on_their_own(vimsketch):
    pairs = training_pairs(train_root=vimsketch, gain_augment=6.0, augment_references=True, **SHORT)
    plain, changed = pairs_of(pairs)[3], pairs[3, (1, 0, 3)]
    factors = [float(changed[role][100] / plain[role][100]) for role in ("imitation", "reference")]
    assert 0.5 < min(factors) < max(factors) < 2
    assert abs(factors[0] - factors[1]) > 0.01
    assert len(pairs) == 8


def test_switches_do_not_change_each_others_draws(vimsketch):
    both = training_pairs(train_root=vimsketch, gain_augment=6.0, crop=0.3, **SHORT)[2, (1, 0, 2)]["imitation"]
    alone = training_pairs(train_root=vimsketch, gain_augment=6.0, **SHORT)[2, (1, 0, 2)]["imitation"]
    assert both[10] == alone[10]
    assert both.count_nonzero() < alone.count_nonzero()


def test_mixing_with_a_folder(vimsketch, tmp_path):
    write(tmp_path / "rooms" / "hum.wav", 3.0, rate=16000)
    options = {"mix_p": 1.0, "mix_snr": (10, 10), "mix_folder": str(tmp_path / "rooms"), **SHORT}
    added = training_pairs(train_root=vimsketch, **options)[1, (1, 0, 1)]["imitation"].numpy() - 2 / 100
    assert level_of(added[: round(0.3 * RATE)]) == pytest.approx(2 / 100 / 10**0.5, rel=0.1)
    with pytest.raises(DataMissing, match="nowhere"):
        training_pairs(train_root=vimsketch, **{**options, "mix_folder": str(tmp_path / "nowhere")})


def test_silent_imitation_can_be_augmented(vimsketch):
    soundfile.write(vimsketch / "vocal_imitations" / "00000_000Animal_cat.wav", np.zeros(RATE), RATE)
    sample = training_pairs(train_root=vimsketch, **ALL_ON, **SHORT)[0, (1, 0, 0)]
    assert sample["imitation"].shape == (RATE // 2,)
    assert not sample["imitation"].any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("pitch_shift", -1), ("crop", 1.0), ("mix_p", 1.5), ("time_stretch", -0.1), ("mix_snr", (20, 5))],
)
def test_wrong_switches(name, value):
    with pytest.raises(ValueError, match=rf"data\.{name} is "):
        Switches(**{name: value})


# -- demo -------------------------------------------------------------------------------------------------------------
SIZES = {"references": 6, "imitations": 2, "items": 10, "queries": 3}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo_vocal(tmp_path_factory.mktemp("demo"), sizes=SIZES, workers=1)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_demo_has_the_published_layouts(demo):
    pairs = training_pairs(dataset_path=demo, sample_rate=16000, duration=4.0)
    sets = evaluation_pairs(dataset_path=demo, sample_rate=16000, duration=4.0)
    assert (len(pairs), len(set(pairs.pairs[:, 1].tolist()))) == (12, 6)
    assert len(sets.items) == 10
    assert np.bincount(sets.targets).tolist() == [3, 3, 2, 3, 3, 2, 3, 3, 2, 3]
    assert set(sets.classes) <= set(CLASSES.values())
    for sample in (pairs[number] for number in range(12)):
        assert sample["class"] in sample["reference_filename"]
        for role in ("imitation", "reference"):
            assert 0.05 < sample[role].abs().max() < 1
    seconds = [soundfile.info(name).duration for name in sets.items.names]
    assert all(1.7 < length < 2.7 for length in seconds)


def test_demo_is_decided_by_its_seed(demo, tmp_path, caplog):
    again = make_demo_vocal(tmp_path / "again", sizes=SIZES, workers=2)
    assert contents(Path(again)) == contents(Path(demo))
    with pytest.raises(ValueError, match="made with other settings"):
        make_demo_vocal(demo, sizes=SIZES, seed=1)
    caplog.set_level(logging.INFO)
    caplog.clear()
    make_demo_vocal(demo, sizes=SIZES)
    assert "making" not in caplog.text


def test_half_made_demo_is_continued(demo, tmp_path):
    folder = Path(shutil.copytree(demo, tmp_path / "half"))
    (folder / "demo.json").rename(folder / "demo.partial.json")
    victim = next(folder.rglob("vocal_imitations/*.wav"))
    victim.unlink()
    make_demo_vocal(folder, sizes=SIZES, workers=1)
    assert contents(folder) == contents(Path(demo))


def test_entries_with_demo(demo, monkeypatch):
    monkeypatch.setattr(demo_vocal, "make_demo_vocal", lambda folder, *_: folder)
    entries = {"dataset_path": "data", "train_root": "mine", "duration": 3.0}
    assert with_demo(entries) == entries
    made = with_demo(entries, enabled=True, root="here", seed=5)
    assert made == {"dataset_path": "here/vocal/seed5", "train_root": None, "test_root": None, "duration": 3.0}


@pytest.mark.parametrize("sizes", [{"items": 0}, {"queries": 4}, {"songs": 1}])
def test_wrong_sizes(tmp_path, sizes):
    with pytest.raises(ValueError, match="demo sizes"):
        make_demo_vocal(tmp_path, sizes=sizes)


@pytest.mark.parametrize("label", GESTURES)
def test_sounds_differ_and_are_audible(label):
    sounds = [GESTURES[label](16000, 16000, np.random.default_rng(seed)) for seed in range(2)]
    assert all(len(sound) == 16000 and np.isfinite(sound).all() and level_of(sound) > 1e-3 for sound in sounds)
    assert not np.allclose(sounds[0], sounds[1])
    assert label in CLASSES


def test_gesture_of_a_glide_and_of_noise():
    rng = np.random.default_rng(0)
    glide = tones(np.geomspace(200, 400, 32000), [1, 0.5, 0.3], 16000, rng)
    gesture = follow(np.concatenate([glide, np.zeros(8000)]), 16000)
    assert len(gesture.level) == 250
    np.testing.assert_allclose(gesture.pitch[20:180], np.log2(np.geomspace(200, 400, 200)[20:180]), atol=0.03)
    assert gesture.voicing[20:180].min() > 0.8
    assert gesture.level[20:180].min() > 0.8
    assert gesture.level[210:].max() < 0.01
    hiss = follow(rng.standard_normal(16000), 16000)
    assert np.mean(hiss.voicing) < 0.3
    assert np.mean(hiss.brightness) > np.mean(gesture.brightness[:200])


def test_imitation_follows_the_sound():
    rng = np.random.default_rng(1)
    rhythm = np.arange(32000) // 4000 % 2 == 0
    sound = tones(np.full(32000, 300.0), [1, 0.5], 16000, rng) * rhythm
    levels = []
    for seed in range(4):
        heard = follow(imitate(sound, 16000, np.random.default_rng(seed)), 16000).level
        inner = np.interp(np.linspace(0, 1, 200), np.linspace(0, 1, len(heard)), heard)
        levels.append(np.abs(np.fft.rfft(inner - inner.mean()))[:12].argmax())
    assert all(3 <= cycles <= 5 for cycles in levels)


def test_demo_queries_find_their_sounds_better_than_chance(demo):
    sets = evaluation_pairs(dataset_path=demo, sample_rate=16000, duration=4.0)

    def modulation(sample):
        level = follow(sample["audio"].numpy(), 16000).level
        spectrum = np.abs(np.fft.rfft(level - level.mean(), 1024))[:100]
        return spectrum / np.linalg.norm(spectrum)

    items, queries = (np.stack([modulation(sample) for sample in part]) for part in (sets.items, sets.queries))
    similarity = (queries - items.mean(axis=0)) @ (items - items.mean(axis=0)).T
    right = similarity[np.arange(len(queries)), sets.targets]
    reciprocal = 1 / (1 + (similarity > right[:, None]).sum(axis=1))
    chance = np.mean(1 / np.arange(1, 11))
    assert 1.5 * chance < reciprocal.mean() < 0.95


# -- real recordings --------------------------------------------------------------------------------------------------
@pytest.mark.data
def test_real_recordings(real_data):
    sets = evaluation_pairs(test_root=real_data / "vocal", sample_rate=16000, duration=2.0)
    assert (len(sets.items), len(sets.queries)) == (31, 6)
    for part in (sets.items, sets.queries):
        assert all(sample["audio"].abs().max() > 0.01 for sample in (part[number] for number in range(len(part))))
        assert part.unreadable == []
    for query, item in sets.truth.items():
        assert query.rpartition("/")[2].partition("_")[2] == item.rpartition("/")[2].partition("_")[2]
    lists = real_data / "vocal" / "qbv_splits"
    with pytest.raises(DataMissing, match="0 of its 1213 imitations"):
        evaluation_pairs(test_root=real_data / "vocal", test_list=lists / "coarse_grained" / "fold0" / "test.csv")
    with pytest.raises(DataMissing, match="0 of 120 sounds"):
        evaluation_pairs(test_root=lists / "fine_grained")
