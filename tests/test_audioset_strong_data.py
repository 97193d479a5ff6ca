"""AudioSet with strong labels: tables, frame labels, sampling, mixing, stored teachers and the truth of evaluations."""

import csv
import hashlib
import logging
import pickle

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from data_util import tagging_augment
from data_util.class_tables import class_names, strong_classes, strong_names
from data_util.clips import CROP, generator
from data_util.demo_strong import write_demo_strong
from data_util.errors import DataMissing, TableError
from data_util.listings import audioset_strong
from data_util.pack import pack
from data_util.strong_clips import StrongClips, match
from data_util.strong_events import StrongEvents, merge, read_durations, read_strong, strong_grid
from data_util.tagging import DATASETS, evaluation_set, training_set
from data_util.tagging_augment import mix_samples
from data_util.tagging_checks import check
from data_util.tagging_clips import clips_of
from data_util.tagging_roles import make_loaders, make_sets
from data_util.tagging_samplers import frame_weights, sampling_weights, training_loader
from data_util.teacher import TeacherLogits
from tests.golden.named_weights import named_array
from tests.reference import golden
from tests.tagging_sets import audio_bytes, noise, packed_labels, write, write_packed, write_table

NAME = "audioset_strong"
PUBLISHED = golden("audioset_strong/data.json")
RATE = 16000
COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
GRID = strong_grid()
IDS = {name: mid for mid, name in strong_names().items()}
CLASSES = class_names(NAME)
CAT, DOG, SPEECH = (CLASSES.index(name) for name in ("Cat", "Dog", "Speech"))
# Five training and three evaluation clips; "Silence" is in the evaluation list alone, "Alert" in the training list.
TRAIN = [
    ("aaaaaaaaaa0", 0.0, 0.2, "Cat"), ("aaaaaaaaaa0", 0.2, 0.41, "Cat"), ("aaaaaaaaaa0", 0.1, 10.0, "Speech"),
    ("Yaaaaaaaaa1", 0.5, 0.5, "Dog"), ("aaaaaaaaaa2", 1.0, 3.0, "Dog"), ("aaaaaaaaaa3", 2.0, 2.04, "Cat"),
    ("aaaaaaaaaa4", 0.0, 10.0, "Silence"),
]  # fmt: skip
TEST = [
    ("eeeeeeeeee0", 0.3, 0.9, "Cat"), ("eeeeeeeeee0", 0.8, 1.0, "Cat"), ("eeeeeeeeee0", 1.5, 2.0, "Speech"),
    ("eeeeeeeeee1", 0.0, 1.0, "Silence"), ("eeeeeeeeee1", 0.0, 1.0, "Alert"),
    ("eeeeeeeeee2", 0.25, 0.5, "Dog"), ("eeeeeeeeee2", 0.75, 0.75, "Cat"),
]  # fmt: skip


def table(path, rows, labels=IDS):
    """A table of (video, onset, offset, class) in the published layout; returns its path."""
    return write_table(path, COLUMNS, [(f"{row[0]}_30000", *row[1:3], labels[row[3]]) for row in rows], "\t")


def videos(rows):
    return list(dict.fromkeys(row[0] for row in rows))


def make(root, form="Y{}.wav", seconds=0.5):
    """Tables, and a file of noise for every clip."""
    for part, rows in (("train", TRAIN), ("eval", TEST)):
        table(root / f"audioset_{part}_strong.tsv", rows)
        for seed, video in enumerate(videos(rows)):
            write(root / "audio" / part / form.format(video), seconds, seed, RATE)
    return root


def training(root, **options):
    return training_set(NAME, root, **{"sample_rate": RATE, **options})


def evaluation(root, **options):
    return evaluation_set(NAME, root, **{"sample_rate": RATE, **options})


def write_teacher(path, names, logits, **entries):
    with h5py.File(path, "w") as file:
        file["filenames"] = [name.encode() for name in names]
        file["strong_logits"] = np.asarray(logits, dtype=np.float16)
        for name, values in entries.items():
            file[name] = values
    return path


def logits_of(clips, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (clips, len(CLASSES), 250)).astype(np.float16)


def active(strong):
    """{class: active frames} of frame labels."""
    return {CLASSES[row]: np.flatnonzero(strong[row]).tolist() for row in np.flatnonzero(np.any(strong, axis=1))}


# -- classes ---------------------------------------------------------------------------------------
def test_class_lists():
    lists = {name: strong_classes(name) for name in ("train", "evaluation", "weak")}
    assert [len(names) for names in lists.values()] == [447, 416, 527]
    digests = [hashlib.sha256("\n".join(names).encode()).hexdigest()[:12] for names in lists.values()]
    assert digests == ["db048a1f22e9", "bc6e8dd24649", "48a50a1311af"]
    assert CLASSES == lists["train"]
    assert len(strong_classes("train", "evaluation")) == 407
    assert len(set(lists["train"]) | set(lists["evaluation"])) == len(strong_names()) == 456
    assert strong_names()["/m/0j6m2"] == "Stream, river"  # AudioSet itself has "Stream"
    assert set(lists["weak"]) ^ set(class_names("audioset")) == set()


# -- frame labels ----------------------------------------------------------------------------------
@pytest.mark.parametrize("labels", [IDS, {name: name for name in IDS}])
@pytest.mark.parametrize("case", range(3))
def test_labels_are_those_of_the_published_code(tmp_path, case, labels):
    expected = PUBLISHED["labels"]["cases"][case]
    path = table(tmp_path / "t.tsv", [("aaaaaaaaaaa", *event) for event in expected["events"]], labels)
    events = read_strong(path)
    assert active(events.encode(0, GRID)) == expected["active"]
    assert events.encode(0, GRID).shape == (447, 250)
    merged = {(onset, offset, CLASSES[label]) for onset, offset, label, _ in zip(*events.of(0))}
    assert merged == {tuple(event) for event in expected["merged"] if event[2] in CLASSES}


def random_events(rng, clips=20, classes=6, count=400):
    columns = rng.integers(clips, size=count), rng.integers(classes, size=count)
    onset = np.round(rng.uniform(0, 10, count), 2)
    return *columns, onset, np.round(onset + rng.exponential(0.5, count), 2)


@pytest.mark.parametrize("seed", range(3))
def test_merging_keeps_what_is_covered_and_counts_frames(seed):
    rng = np.random.default_rng(seed)
    clip, label, onset, offset = random_events(rng)
    events = StrongEvents([f"{i}_0" for i in range(20)], "abcdef", clip, label, onset, offset)
    dense = np.zeros((20, 6, 250))
    for row in range(len(clip)):
        first, last = (time * 16000 / 160 / 4 for time in (onset[row], offset[row]))
        dense[clip[row], label[row], int(first) : int(np.ceil(last))] = 1
    for number in range(20):
        np.testing.assert_array_equal(events.encode(number, GRID), dense[number])
    counts = np.zeros((20, 6))
    where_clip, where_label, frames = events.active_frames(GRID)
    np.add.at(counts, (where_clip, where_label), frames)
    np.testing.assert_array_equal(counts, dense.sum(axis=2))
    same = (np.diff(events.clip) == 0) & (np.diff(events.label) == 0)
    assert (events.onset[1:][same] > events.offset[:-1][same]).all()
    assert len(events.onset) < 400
    chosen = events.select(np.array([7, 3, 11]))
    for position, number in enumerate((7, 3, 11)):
        np.testing.assert_array_equal(chosen.encode(position, GRID), dense[number])
    assert chosen.segments == ["7_0", "3_0", "11_0"]


def test_merging_of_nothing():
    empty = np.zeros(0, dtype=int)
    assert [len(column) for column in merge(empty, empty, empty, empty)] == [0] * 4


def test_times_are_read_exactly(tmp_path):
    # A parser that is off in the last place would put these on the other side of the border.
    rows = [("aaaaaaaaaaa", frame / 25, (frame + 1) / 25, "Cat") for frame in range(0, 250, 2)]
    assert active(read_strong(table(tmp_path / "t.tsv", rows)).encode(0, GRID)) == {"Cat": list(range(0, 250, 2))}


# -- clips -----------------------------------------------------------------------------------------
def test_sample(tmp_path):
    data = training(make(tmp_path))
    assert isinstance(data, StrongClips)
    assert len(data) == 5
    sample = data[0]
    assert list(sample) == ["audio", "target", "strong", "filename", "index"]
    assert sample["audio"].shape == (10 * RATE,)
    assert sample["strong"].shape == (447, 250)
    assert {value.dtype for value in sample.values() if torch.is_tensor(value)} == {torch.float32}
    assert active(sample["strong"].numpy()) == {"Cat": list(range(11)), "Speech": list(range(2, 250))}
    assert sample["target"].nonzero().flatten().tolist() == [CAT, SPEECH]
    assert active(data[1]["strong"].numpy()) == {"Dog": [12]}  # without length, but inside a frame
    assert not data[4]["strong"].any()
    assert evaluation(tmp_path)[0]["strong"].sum() == 18 + 13
    assert default_collate([data[0], data[1]])["strong"].shape == (2, 447, 250)


def test_labels_follow_the_excerpt(tmp_path):
    make(tmp_path, seconds=4)
    data = training(tmp_path, clip_length=1.0)
    whole = data.events.encode(2, strong_grid(4.0))
    assert np.flatnonzero(whole[DOG]).tolist() == list(range(25, 75))
    starts = set()
    for seed in range(12):
        sample, start = data[2, (seed,)], int(generator((seed,), CROP).integers(3 * RATE + 1))
        np.testing.assert_allclose(sample["audio"], noise(4, 2, RATE)[start : start + RATE], atol=1e-4)
        frames = sample["strong"][DOG].nonzero().flatten().tolist()
        middles = start / RATE + 0.04 * np.arange(25) + 0.02
        sounding = np.flatnonzero((middles > 1.021) & (middles < 2.979)).tolist()
        assert set(sounding) <= set(frames) <= set(range(25))
        assert len(frames) <= len(sounding) + 2
        starts.add(start)
    assert len(starts) == 12
    assert not evaluation(tmp_path, clip_length=1.0)[0, None]["strong"][SPEECH].any()  # begins after its start


@pytest.mark.parametrize("form", ["Y{}.wav", "{}.flac", "Y{}_30.000_40.000.wav", "{}_30000.wav", "Y{}_30.wav"])
def test_file_names(tmp_path, form):
    make(tmp_path, form)
    data = training(tmp_path)
    assert [name.split("/")[-1] for name in data.names] == [form.format(video) for video in videos(TRAIN)]
    assert data[2]["strong"][DOG].sum() == 50


def test_two_segments_of_one_video():
    segments = ["aaaaaaaaaaa_30000", "aaaaaaaaaaa_90000", "bbbbbbbbbbb_0"]
    assert match(["Yaaaaaaaaaaa.mp3", "other.wav"], segments).tolist() == [0, -1, -1]
    assert match(["bbbbbbbbbbb.mp3", "aaaaaaaaaaa_90000.mp3"], segments).tolist() == [-1, 1, 0]


def test_clips_without_audio_are_counted(tmp_path, caplog):
    make(tmp_path)
    (tmp_path / "audio" / "train" / "Yaaaaaaaaaa2.wav").unlink()
    data = training(tmp_path)
    assert "4 of 5 clips of" in caplog.text
    assert (data.without_audio, data.listed) == (["aaaaaaaaaa2_30000"], 5)
    assert data[2]["strong"][CAT].nonzero().flatten().tolist() == [50]
    for path in (tmp_path / "audio" / "eval").iterdir():
        path.unlink()
    with pytest.raises(
        DataMissing, match=r"^audioset_strong: 0 of 3 clips of .*_eval_strong\.tsv found in folders eval,"
    ):
        evaluation(tmp_path)


def packed_audioset(root, part, seeds, names, classes=527):
    blobs = [audio_bytes(seed=seed, rate=RATE) for seed in seeds]
    targets = packed_labels([[0]] * len(blobs), classes)
    return write_packed(root / "mp3" / f"{part}_mp3.hdf", blobs, targets, [f"Y{name}.mp3" for name in names])


def test_packed_files_of_audioset(tmp_path):
    names = videos(TRAIN)
    table(tmp_path / "metadata" / "audioset_train_strong.tsv", TRAIN)
    packed_audioset(tmp_path, "balanced_train_segments", (8, 9), ("zzzzzzzzzzz", names[2]))
    data = training(tmp_path, clip_length=0.5)
    assert (data.names, data.listed) == ([f"Y{names[2]}.mp3"], 5)
    packed_audioset(tmp_path, "unbalanced_train_segments", (4, 5, 6), (names[3], "yyyyyyyyyyy", names[0]))
    data = training(tmp_path, clip_length=0.5)
    assert data.names == [f"Y{names[i]}.mp3" for i in (0, 2, 3)]  # in the order of the table
    for index, seed in enumerate((6, 9, 4)):
        np.testing.assert_allclose(data[index]["audio"], noise(0.5, seed, RATE), atol=1e-4)
    assert data[2]["filename"] == f"Y{names[3]}.mp3"
    with pytest.raises(ValueError, match=r"data\.cache_path .* is packed: leave it out"):
        training(tmp_path, cache_path=tmp_path)
    packed_audioset(tmp_path, "eval_segments", (1,), ("xxxxxxxxxxx",))
    table(tmp_path / "metadata" / "audioset_eval_strong.tsv", TEST)
    with pytest.raises(DataMissing, match=r"0 of 3 clips of .* found in eval_segments_mp3\.hdf below data\.root"):
        evaluation(tmp_path)


def test_packed_from_a_listing(tmp_path):
    make(tmp_path)
    (tmp_path / "audio" / "train" / "Yaaaaaaaaaa3.wav").unlink()
    parts = audioset_strong(tmp_path)
    assert {part: len(listing.files) for part, listing in parts.items()} == {"train": 5, "eval": 3}
    assert parts["train"].missing().tolist() == [False, False, False, True, False]
    report = pack(parts["train"], tmp_path / "packed" / "audioset_strong_train_mp3.hdf", RATE, "flac", workers=1)
    assert report.clips == 4
    with h5py.File(report.path) as file:
        hot = np.unpackbits(file["target"][:], axis=1)[:, :447]
    assert [np.flatnonzero(row).tolist() for row in hot] == [[CAT, SPEECH], [DOG], [DOG], []]
    table(tmp_path / "packed" / "audioset_train_strong.tsv", TRAIN)
    data = training(tmp_path / "packed", clip_length=0.5)
    assert data.names == [f"Yaaaaaaaaaa{i}.wav" if i != 1 else "YYaaaaaaaaa1.wav" for i in (0, 1, 2, 4)]
    np.testing.assert_allclose(data[2]["audio"], noise(0.5, 2, RATE), atol=1e-4)


def test_cache(tmp_path):
    make(tmp_path)
    plain, cached = training(tmp_path), training(tmp_path, cache_path=tmp_path / "cache")
    np.testing.assert_allclose(cached[3]["audio"], plain[3]["audio"], atol=1e-6)


def test_corrupt_clips_are_skipped_and_listed(tmp_path):
    names = videos(TRAIN)[:3]
    table(tmp_path / "audioset_train_strong.tsv", TRAIN[:5])
    blobs = [audio_bytes(rate=RATE), b"\xff\xfb broken", audio_bytes(seed=2, rate=RATE)]
    targets = packed_labels([[0]] * 3, 447)
    packed = [f"Y{name}.mp3" for name in names]
    write_packed(tmp_path / "audioset_strong_train_mp3.hdf", blobs, targets, packed)
    data = training(tmp_path, clip_length=0.5)
    sample = data[1]
    assert (sample["index"], active(sample["strong"].numpy())) == (2, {})  # the event begins after the clip
    assert data.unreadable == [packed[1]]


# -- truth -----------------------------------------------------------------------------------------
def test_truth(tmp_path):
    make(tmp_path)
    (tmp_path / "eval_durations.csv").write_text("Yeeeeeeeeee0,10.01\nYxxxxxxxxxxx,3.0\n")
    truth = evaluation(tmp_path).truth
    assert truth.events == {
        "Yeeeeeeeeee0": [(0.3, 1.0, "Cat"), (1.5, 2.0, "Speech")],
        "Yeeeeeeeeee2": [(0.25, 0.5, "Dog")],
    }
    assert truth.durations == {"Yeeeeeeeeee0": 10.01, "Yeeeeeeeeee2": 0.5}  # the latter from the audio
    assert truth.classes == strong_classes("train", "evaluation")


def test_truth_leaves_out_what_cannot_be_read(tmp_path, caplog):
    make(tmp_path)
    (tmp_path / "audio" / "eval" / "Yeeeeeeeeee2.wav").write_text("no audio")
    data = evaluation(tmp_path)
    assert list(data.truth.events) == list(data.truth.durations) == ["Yeeeeeeeeee0"]
    assert "left out of the truth" in caplog.text


def test_durations_of_long_clips_end_with_the_clip(tmp_path):
    make(tmp_path, seconds=3)
    assert evaluation(tmp_path, clip_length=2.0).truth.durations == {"Yeeeeeeeeee0": 2.0, "Yeeeeeeeeee2": 2.0}


@pytest.mark.parametrize("line", ["Yabc", "Yabc,many", "Yabc,0", "Yabc,1,2"])
def test_wrong_durations(tmp_path, line):
    (tmp_path / "eval_durations.csv").write_text(f"Yab,10.0\n{line}\n")
    with pytest.raises(TableError, match=r"eval_durations\.csv, line 2: .*expected a"):
        read_durations(tmp_path / "eval_durations.csv")


# -- sampling --------------------------------------------------------------------------------------
def test_weights_are_those_of_the_published_code():
    expected = PUBLISHED["sampler"]
    counts = np.array(expected["event_count"])
    clip, label = np.nonzero(counts)
    weights = frame_weights(clip, label, counts[clip, label], *counts.shape)
    np.testing.assert_allclose(weights, expected["weights"]["30"], rtol=1e-6)


def test_weighted_loader_draws_rare_frames_without_replacement(tmp_path):
    make(tmp_path)
    data = training(tmp_path)
    counts = {"Cat": 11 + 1, "Dog": 1 + 50, "Speech": 248}
    rarity = {name: 1000 / (30 + count) for name, count in counts.items()}
    expected = [11 * rarity["Cat"] + 248 * rarity["Speech"], rarity["Dog"], 50 * rarity["Dog"], rarity["Cat"], 0]
    np.testing.assert_allclose(sampling_weights(data), expected, rtol=1e-12)
    drawn = []
    for epoch in range(30):
        batches = list(training_loader(data, 2, 1, epoch=epoch, weighted=True, epoch_len=3).batch_sampler)
        drawn.append([index for batch in batches for index, _ in batch])
    assert all(len(set(epoch)) == 3 for epoch in drawn)
    often = np.bincount(np.concatenate(drawn), minlength=5)
    assert often[4] == 0  # it has no event
    assert often[[0, 2]].min() >= 29
    assert often[3] > often[1]


def test_loaders_of_all_roles(tmp_path):
    make(tmp_path)
    entry = DATASETS[NAME]
    assert dict(entry.published) == {"wavmix": True, "wavmix_p": 0.8}
    assert entry.sampling["epoch_len"] == 100000
    common = {"root": tmp_path, "sample_rate": RATE, "clip_length": 1.0, "batch_size": 2, "num_workers": 0}
    rest = {"teacher_preds": None, "variable_eval_length": False, "weighted": True}
    entries = {**common, **rest, **entry.published, **entry.sampling}
    sets = make_sets(NAME, entries)
    assert clips_of(sets["train"]).events.segments[0] == "aaaaaaaaaa0_30000"
    train, _, test = make_loaders(sets, entries, seed=3)
    assert [len(batch["index"]) for batch in train(0, 1, 0, 0)] == [2]  # no other has events in its first second
    assert [batch["strong"].shape for batch in test(0, 1)] == [(2, 447, 25), (1, 447, 25)]
    with pytest.raises(ValueError, match=r"data\.variable_eval_length=False"):
        make_sets(NAME, {**entries, "variable_eval_length": True}, train=False)


# -- mixing ----------------------------------------------------------------------------------------
class FourClips(torch.utils.data.Dataset):
    """The four clips of the golden mixes, of 400 samples, 5 classes and 6 frames."""

    def __len__(self):
        return 4

    def __getitem__(self, item):
        index = item[0] if isinstance(item, tuple) else item
        shapes = {"wav": (1, 400), "wavlab": (5, 6), "wavps": (5, 6)}
        drawn = {
            name: torch.from_numpy(named_array(f"{name}.{index}", shape, 0) * np.sqrt(np.prod(shape[1:]))).float()
            for name, shape in shapes.items()
        }
        strong = (drawn["wavlab"] > 0.3).float()
        return {
            "audio": 0.1 * drawn["wav"][0] + 0.02 * index,
            "target": strong.amax(dim=1),
            "strong": strong,
            "pseudo": torch.sigmoid(drawn["wavps"]),
            "pseudo_valid": torch.tensor(index != 3),
            "filename": f"f{index}",
            "index": index,
        }


@pytest.mark.parametrize("number", range(6))
def test_mixes_are_those_of_the_published_code(number):
    settings, arrays = PUBLISHED["wavmix"], golden("audioset_strong/data.npz")
    item, clips = settings["items"][number], FourClips()
    sample, draws = clips[item["index"]], {name: values[0] for name, values in item["draws"]}
    assert (draws["rand"] < settings["rate"]) == ("beta" in draws)
    if "beta" in draws:
        sample = mix_samples(sample, clips[int(draws["randint"])], max(draws["beta"], 1 - draws["beta"]))
    assert sample["filename"] == item["filename"]
    for name in ("audio", "strong", "pseudo"):
        np.testing.assert_allclose(sample[name], arrays[f"wavmix.{number}.{name}"], rtol=0, atol=1e-6)


def test_mixing_at_the_published_rate():
    data = tagging_augment.WaveformMixup(FourClips(), 0.8)
    mixed = [data[0, (seed,)] for seed in range(300)]
    changed = [sample for sample in mixed if not torch.equal(sample["audio"], FourClips()[0]["audio"])]
    assert 0.74 < len(changed) / 300 < 0.86
    assert {sample["filename"] for sample in mixed} == {"f0"}
    unknown = [not sample["pseudo_valid"] for sample in changed]  # mixed with the clip that the teacher does not know
    assert 0.15 < np.mean(unknown) < 0.35


def test_wavmix_of_the_data_set(tmp_path):
    make(tmp_path)
    plain, data = training(tmp_path), training(tmp_path, wavmix=True, wavmix_p=1.0)
    soft = 0
    for seed in range(5):
        sample = data[2, (seed,)]
        share = sample["strong"][DOG, 30].item()
        assert 0.5 <= share <= 1
        assert sample["index"] == 2
        soft += share < 1
        assert sample["target"].max() <= 1
    assert soft >= 2
    torch.testing.assert_close(data[2]["strong"], plain[2]["strong"])  # nothing is random without a key


# -- a teacher -------------------------------------------------------------------------------------
def test_teacher(tmp_path):
    make(tmp_path)
    logits = logits_of(3)
    write_teacher(tmp_path / "t.hdf5", ["Yaaaaaaaaaa2", "Yaaaaaaaaaa0.mp3", "Yother"], logits)
    data = training(tmp_path, teacher_preds=tmp_path / "t.hdf5")
    for index, row in ((0, 1), (2, 0)):
        sample = data[index]
        expected = 1 / (1 + np.exp(-logits[row].astype(np.float64)))
        np.testing.assert_allclose(sample["pseudo"], expected, rtol=1e-5, atol=1e-7)
        assert sample["pseudo"].dtype == torch.float32
        assert sample["pseudo_valid"]
    unknown = data[1]
    assert not unknown["pseudo_valid"]
    assert not unknown["pseudo"].any()
    assert "teacher" not in unknown
    again = pickle.loads(pickle.dumps(data))
    torch.testing.assert_close(again[2]["pseudo"], data[2]["pseudo"])
    batches = list(DataLoader(data, batch_size=2, num_workers=2))
    assert torch.cat([batch["pseudo_valid"] for batch in batches]).tolist() == [True, False, True, False, False]
    torch.testing.assert_close(batches[1]["pseudo"][0], data[2]["pseudo"])


def test_with_a_teacher_nothing_is_cropped_at_random(tmp_path):
    make(tmp_path, seconds=4)
    path = write_teacher(tmp_path / "t.hdf5", ["Yaaaaaaaaaa0"], logits_of(1)[..., :25])
    data = training(tmp_path, clip_length=1.0, teacher_preds=path)
    for seed in range(3):
        torch.testing.assert_close(data[0, (seed,)]["audio"], data[0]["audio"])


def test_names_of_a_teacher(tmp_path):
    published = PUBLISHED["pseudo_label_file_name_strip"]
    path = write_teacher(tmp_path / "t.hdf5", published.values(), logits_of(len(published))[:, :3, :4])
    with pytest.raises(TableError, match="file names are there twice"):  # two of them are shortened to "Y"
        TeacherLogits(path, None, 3, 4)
    names = {"Yabc.mp3": "Yabc", "Yaaaaaaaaab3.mp3": "Yaaaaaaaaab", "Yaaaaaaaaamp.mp3": "Yaaaaaaaaamp.mp3"}
    path = write_teacher(tmp_path / "t2.hdf5", names.values(), logits_of(3)[:, :3, :4])
    teacher = TeacherLogits(path, None, 3, 4)
    assert teacher.rows([f"folder/{name}" for name in names]).tolist() == [0, 1, 2]
    assert teacher.rows(["Yaaaaaaaaamp.wav", "Yabc3.mp3", "Yaaaaaaaabc.mp3"]).tolist() == [2, -1, -1]
    assert teacher[1].shape == (3, 4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 447, 156), r"strong_logits have shape \(2, 447, 156\), expected \(clips, 447, 250\)"),
        ((2, 456, 250), r"strong_logits have shape \(2, 456, 250\), expected \(clips, 447, 250\)"),
        ((2, 447), r"strong_logits have shape \(2, 447\), expected \(clips, 447, 250\)"),
    ],
)
def test_teachers_of_other_shapes(tmp_path, shape, message):
    make(tmp_path)
    path = write_teacher(tmp_path / "t.hdf5", ["Yaaaaaaaaaa0", "Yb"], np.zeros(shape))
    with pytest.raises(TableError, match=rf"t\.hdf5: {message}$"):
        training(tmp_path, teacher_preds=path)


def test_wrong_teachers(tmp_path):
    make(tmp_path)
    with pytest.raises(DataMissing, match=r"no teacher logits data\.teacher_preds = .*none\.hdf5"):
        training(tmp_path, teacher_preds=tmp_path / "none.hdf5")
    with h5py.File(tmp_path / "clipwise.hdf5", "w") as file:
        file["filenames"], file["logits"] = [b"Yaaaaaaaaaa0"], np.zeros((1, 447))
    with pytest.raises(TableError, match=r"no entry 'strong_logits', expected 'filenames' and 'strong_logits'$"):
        training(tmp_path, teacher_preds=tmp_path / "clipwise.hdf5")
    path = write_teacher(tmp_path / "others.hdf5", ["Yb"], logits_of(1))
    with pytest.raises(ValueError, match=r"no logits for any of the 5 clips, the first is .*Yaaaaaaaaaa0\.wav"):
        training(tmp_path, teacher_preds=path)


# -- what is missing or wrong ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("segment_id", "segment"), r"no column 'segment_id' \(expected segment_id, .*; found segment, start"),
        (("\tlabel", "\tclass"), r"no column 'label'"),
        (("0.41", "0.19"), r"row 3 \(aaaaaaaaaa0_30000\): it ends before it starts"),
        (("0.41", "x"), r"row 3 \(aaaaaaaaaa0_30000\): end_time_seconds is 'x', expected seconds from 0 on"),
        (
            ("\t0.1\t", "\t-0.1\t"),
            r"row 4 \(aaaaaaaaaa0_30000\): start_time_seconds is '-0\.1', expected seconds from 0",
        ),
        (("\t10.0\t", "\tinf\t"), r"row 4 \(aaaaaaaaaa0_30000\): end_time_seconds is 'inf'"),
        (("aaaaaaaaaa2_30000", ""), r"row 6 \(\): the segment_id is empty"),
        (("\t0.2\t", "\t0.2\t0\t0\t0\t"), r"not readable as a table"),
    ],
)
def test_wrong_tables(tmp_path, change, message):
    path = make(tmp_path) / "audioset_train_strong.tsv"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(TableError, match=rf"audioset_train_strong\.tsv[:,] .*{message}|{message}"):
        training(tmp_path)


def test_tables_that_are_none(tmp_path):
    with pytest.raises(
        DataMissing, match=r"^audioset_strong: no audioset_train_strong\.tsv in data\.root = .* metadata$"
    ):
        training(tmp_path)
    path = table(tmp_path / "audioset_train_strong.tsv", [])
    with pytest.raises(TableError, match="0 events, expected at least 1"):
        training(tmp_path)
    table(path, [("aaaaaaaaaa0", 0, 1, "x")], {"x": "/m/none"})
    with pytest.raises(
        TableError, match=r"none of 1 labels is one of the 447 classes, the first is '/m/none', expected"
    ):
        training(tmp_path)


def test_labels_outside_the_list_are_reported(tmp_path, caplog):
    make(tmp_path)
    rows = [*TRAIN, ("aaaaaaaaaa0", 0, 1, "x"), ("aaaaaaaaaa0", 2, 3, "x"), ("aaaaaaaaaa5", 2, 3, "y")]
    table(tmp_path / "audioset_train_strong.tsv", rows, {**IDS, "x": "/m/none", "y": "Kat"})
    write(tmp_path / "audio" / "train" / "Yaaaaaaaaaa5.wav", rate=RATE)
    caplog.set_level(logging.INFO)
    data = training(tmp_path)
    assert "3 events left out, their classes are unknown: '/m/none' (2), 'Kat' (1)" in caplog.text
    assert "1 events left out, their classes are of the evaluation list alone: 'Silence' (1)" in caplog.text
    assert active(data[0]["strong"].numpy()).keys() == {"Cat", "Speech"}
    assert (len(data), data[5]["strong"].sum()) == (6, 0)  # a clip without known class stays one


def test_options_that_make_no_sense(tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=r"data\.roll would move the sounds of audioset_strong away"):
        training(tmp_path, roll=True)


def test_check(tmp_path):
    make(tmp_path)
    (tmp_path / "audio" / "eval" / "Yeeeeeeeeee1.wav").unlink()
    train, test = check(NAME, tmp_path, sample_rate=RATE)
    assert (train.name, train.found, train.listed, train.expected) == ("audioset_strong train", 5, 5, 103463)
    assert train.problem == "5 clips, the published set has 103463"
    assert (test.found, test.listed, test.expected) == (2, 3, 16996)
    assert test.problem.endswith("; 1 have no audio, the first is eeeeeeeeee1_30000")


# -- demo, real tables -----------------------------------------------------------------------------
def test_demo(tmp_path):
    root = write_demo_strong(tmp_path / "demo", clips=(4, 2), workers=1)
    train, test = training(root), evaluation(root)
    assert (len(train), len(test), train.without_audio) == (4, 2, [])
    assert len(test.truth.events) == 2
    assert set(test.truth.durations.values()) == {10.0}
    for index in range(4):
        sample = train[index]
        loud = sample["audio"].reshape(250, -1).square().mean(dim=1)
        sounding = sample["strong"].amax(dim=0) > 0
        assert loud[sounding].mean() > 2 * loud[~sounding].mean()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.wav")}
    assert write_demo_strong(tmp_path / "demo", clips=(4, 2)) == root
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.wav")} == before
    with pytest.raises(ValueError, match="was made with other settings"):
        write_demo_strong(tmp_path / "demo", clips=(4, 3))


@pytest.mark.data
def test_real_tables(real_data, tmp_path):
    metadata = real_data / "audioset" / "metadata" / "strong"
    durations = read_durations(metadata / "eval_durations.csv")
    assert (len(durations), min(durations.values()), max(durations.values())) == (16935, 1.0, 10.00984375)
    with open(metadata / "class_labels_indices_strong.csv", newline="") as file:
        assert dict(csv.reader(file)) == strong_names()
    table(tmp_path / "audioset_train_strong.tsv", [("f62-S-v2swA", 0, 10, "Music"), ("f62-S-v2swA", 1, 2.5, "Speech")])
    (tmp_path / "mp3").symlink_to(real_data / "audioset" / "mp3")
    sample = training(tmp_path)[0]
    assert sample["audio"].abs().max() > 0.05
    assert sample["strong"].sum() == 250 + 38
