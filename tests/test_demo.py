"""The demo data set: complete in the public layout, exact, reproducible, resumable, readable by the data sets."""

import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile

from data_util import demo
from data_util.classes import CLASSES, DESED_CLASSES, MAESTRO_CLASSES
from data_util.demo import demo_dirs, demo_folder, demo_paths, find_sounds, main, make_demo
from data_util.demo_layout import MAESTRO_PARTS, PARTS, PSEUDO_LABELLED, SCENES, SIZES
from data_util.demo_parts import deal, desed_jobs, maestro_jobs, part_number
from data_util.events import SOFT_COLUMNS, FrameGrid, StrongLabels, durations, read_events, read_weak
from data_util.soundscapes import generator
from data_util.task4 import split_maestro, training_set, validation_set
from data_util.task4 import test_set as load_test_set
from helpers.scores import events_of_table

# The public entries of t4_paths, without those for MAESTRO Synth, which nothing reads.
PUBLIC_NAMES = """
external_strong_dur external_strong_folder external_strong_train_tsv external_strong_val_tsv pseudo_labels
real_maestro_train_folder real_maestro_train_folder_44k real_maestro_train_tsv real_maestro_val_dur
real_maestro_val_folder real_maestro_val_folder_44k real_maestro_val_tsv strong_folder strong_folder_44k strong_tsv
strong_tsv_exclude synth_folder synth_folder_44k synth_tsv synth_val_dur synth_val_folder synth_val_folder_44k
synth_val_tsv test_dur test_folder test_folder_44k test_tsv unlabeled_folder unlabeled_folder_44k
unlabeled_tsv_exclude weak_folder weak_folder_44k weak_tsv weak_tsv_exclude
eval_private_dur eval_private_folder eval_public_dur eval_public_folder eval_public_tsv
""".split()
TINY = dict.fromkeys(PARTS, 4) | {
    "synth_train": 15,
    "weak_train": 10,
    "devtest": 5,
    "maestro_real_train": 2,
    "maestro_real_dev": 1,
}
GRID = FrameGrid()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny demo data set and the processor time it took."""
    folder = tmp_path_factory.mktemp("demo")
    start = time.process_time()
    make_demo(folder, sizes=TINY, workers=1)
    return folder, time.process_time() - start


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_public_path_is_there(tiny):
    folder, _ = tiny
    paths = demo_paths(folder)
    assert set(paths) == set(PUBLIC_NAMES)
    for name, path in paths.items():
        assert path.startswith(str(folder))
        if name != "pseudo_labels":
            assert Path(path).is_dir() if "_folder" in name else Path(path).is_file(), name
    assert len(names(demo_dirs(folder))) >= 3
    assert not (folder / "demo.partial.json").exists()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_the_public_layout_is_kept():
    paths = demo_paths("BASE")
    assert paths["strong_tsv"] == "BASE/metadata/train/audioset_strong.tsv"
    assert paths["synth_val_folder"] == "BASE/audio/validation/synthetic21_validation/soundscapes_16k/"
    assert paths["external_strong_dur"] == "BASE/external_strong_split/external_audioset_strong_dur.tsv"
    assert paths["eval_public_folder"] == "BASE/eval/desed_public_eval/audio/eval/public_16k"
    assert paths["test_folder_44k"] == paths["test_folder"]


def test_tables_name_exactly_the_files(tiny):
    paths = demo_paths(tiny[0])
    for kind in ("synth", "strong", "synth_val", "test", "eval_public", "real_maestro_train", "real_maestro_val"):
        assert sorted(set(read_events(paths[f"{kind}_tsv"])["filename"])) == names(paths[f"{kind}_folder"])
    external = [set(read_events(paths[f"external_strong_{side}_tsv"])["filename"]) for side in ("train", "val")]
    assert not external[0] & external[1]
    assert sorted(external[0] | external[1]) == names(paths["external_strong_folder"])
    weak = read_weak(paths["weak_tsv"])
    assert sorted(weak["filename"]) == names(paths["weak_folder"])
    assert (weak["event_labels"] != "").all()
    for kind in ("strong", "weak", "unlabeled"):
        excluded = pd.read_csv(paths[f"{kind}_tsv_exclude"], sep="\t")["filename"]
        assert 0 < len(excluded) < len(names(paths[f"{kind}_folder"]))
        assert set(excluded) <= set(names(paths[f"{kind}_folder"]))
    for kind in ("synth_val", "test", "eval_public", "eval_private"):
        seconds = durations(paths[f"{kind}_dur"])
        assert {f"{name}.wav": 10.0 for name in seconds} == dict.fromkeys(names(paths[f"{kind}_folder"]), 10.0)
        assert set(seconds.values()) == {10.0}


def test_audio_is_ten_seconds_at_16_khz(tiny):
    files = [path for path in tiny[0].rglob("*.wav") if path.parent.name != "dirs"]
    assert len(files) > 60
    for path in files:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 160000), path


def test_labels_of_each_set_are_its_own_classes(tiny):
    paths = demo_paths(tiny[0])
    for table in ("synth", "strong", "synth_val", "test", "eval_public"):
        assert set(read_events(paths[f"{table}_tsv"])["event_label"].dropna()) <= set(DESED_CLASSES)
    maestro = read_events(paths["real_maestro_train_tsv"])
    assert set(maestro["event_label"]) <= set(MAESTRO_CLASSES)
    assert ((maestro["offset"] - maestro["onset"]) == 1).all()
    assert maestro["confidence"].between(0, 1).all()
    assert (maestro["confidence"] > 0.5).any() and (maestro["confidence"] < 0.5).any()  # noqa: PT018


def test_two_test_clips_have_no_events(tiny):
    paths = demo_paths(tiny[0])
    truth = events_of_table(read_events(paths["test_tsv"]))
    assert sum(not events for events in truth.values()) == 2
    assert set(truth) == set(durations(paths["test_dur"]))


def test_events_are_heard_where_they_are_labelled(tiny):
    paths = demo_paths(tiny[0])
    gains = []
    for name, events in events_of_table(read_events(paths["synth_tsv"])).items():
        audio, rate = soundfile.read(Path(paths["synth_folder"]) / f"{name}.wav")
        active = np.zeros(len(audio), dtype=bool)
        for onset, offset, _ in events:
            active[round(onset * rate) : round(offset * rate)] = True
        gains.append(10 * np.log10(np.mean(audio[active] ** 2) / np.mean(audio[~active] ** 2)))
    assert min(gains) > 4


def test_maestro_clips_are_cut_from_recordings_every_second(tiny):
    paths = demo_paths(tiny[0])
    folder = Path(paths["real_maestro_train_folder"])
    clips = [f"cafe_restaurant_00-{100 * start}-{100 * (start + 10)}.wav" for start in range(3)]
    assert [name for name in names(folder) if name.startswith("cafe_restaurant_00")] == clips
    first, second = (soundfile.read(folder / clip)[0] for clip in clips[:2])
    assert np.array_equal(first[16000:], second[:-16000])
    labels = StrongLabels(read_events(paths["real_maestro_train_tsv"]), FrameGrid(frame_hop=4000))
    one, two = (labels(labels.filenames.index(clip))[0] for clip in clips[:2])
    assert one.any()
    assert np.array_equal(one[:, 1:], two[:, :-1])
    seconds = durations(paths["real_maestro_val_dur"])
    recordings = {
        name.split("-")[0] for kind in ("train", "val") for name in names(paths[f"real_maestro_{kind}_folder"])
    }
    assert seconds == dict.fromkeys(recordings, 12.0)
    assert len(recordings) == 3 * len(SCENES)


def test_every_maestro_class_can_be_scored_in_every_split(tiny):
    paths = demo_paths(tiny[0])
    train, valid = split_maestro(read_events(paths["real_maestro_train_tsv"], SOFT_COLUMNS), 0.9, 42)
    for table in (train, valid, read_events(paths["real_maestro_val_tsv"], SOFT_COLUMNS)):
        sure = table[table["confidence"] > 0.5]
        assert set(sure["event_label"]) == set(MAESTRO_CLASSES)
        assert sure.groupby("event_label")["filename"].size().max() < 10 * table["filename"].nunique()


def test_pseudo_labels_are_useful_but_not_perfect(tiny):
    folder, _ = tiny
    paths = demo_paths(folder)
    assert sorted(path.stem for path in (folder / "pseudo-labels").iterdir()) == sorted(PSEUDO_LABELLED)
    with h5py.File(paths["pseudo_labels"].format("synth_train")) as file:
        logits, stored = file["strong_logits"][:], list(file["filenames"].asstr())
    assert logits.shape == (TINY["synth_train"], GRID.n_frames, len(CLASSES))
    assert logits.dtype == np.float32
    labels = StrongLabels(read_events(paths["synth_tsv"]), GRID)
    strong = np.stack([labels(labels.filenames.index(f"{name}.wav"))[0].T for name in stored])
    decided, strong = logits[..., :10] > 0, strong[..., :10] > 0.5
    recall, precision = (decided & strong).sum() / strong.sum(), (decided & strong).sum() / decided.sum()
    assert 0.7 < recall < 0.999
    assert precision > 0.85
    speech = CLASSES.index("Speech"), CLASSES.index("people talking")
    assert np.corrcoef(*(logits[..., label].ravel() > 0 for label in speech))[0, 1] > 0.8


def test_the_data_sets_read_it(tiny):
    folder, _ = tiny
    paths = demo_paths(folder)
    training = training_set(GRID, paths, dir_p=1.0, dir_folder=demo_dirs(folder), wavmix_p=1.0)
    assert all(len(part) > 0 for part in training.datasets)
    for part in (*training.datasets, validation_set(GRID, paths), load_test_set(GRID, paths)):
        clip = part[0]
        assert clip["audio"].shape == (160000,)
        assert clip["strong"].shape == clip["pseudo"].shape == (27, 156)


def test_it_depends_on_the_seed_and_not_on_the_workers(tiny, tmp_path):
    sizes = dict.fromkeys(SIZES, 1)
    for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 2, 1)):
        make_demo(tmp_path / name, seed=seed, sizes=sizes, workers=workers)
    one, two, other = (content(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert not {value for name, value in one.items() if name.endswith(".wav")} & set(other.values())


def test_a_half_made_one_continues(tmp_path, monkeypatch):
    sizes = dict.fromkeys(SIZES, 1)
    make_demo(tmp_path / "whole", sizes=sizes, workers=1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "make_maestro", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_demo(tmp_path / "half", sizes=sizes, workers=1)
    assert not (tmp_path / "half" / "demo.json").exists()
    kept = tmp_path / "half" / "dcase_synth/audio/train/synthetic21_train/soundscapes_16k/0.wav"
    stamp = kept.stat().st_mtime_ns
    with pytest.raises(ValueError, match="seed: 0 there, 3 asked for"):
        make_demo(tmp_path / "half", seed=3, sizes=sizes, workers=1)
    make_demo(tmp_path / "half", sizes=sizes, workers=1)
    assert kept.stat().st_mtime_ns == stamp
    assert content(tmp_path / "half") == content(tmp_path / "whole")


def test_a_complete_one_is_kept(tiny):
    folder, _ = tiny
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert make_demo(folder, sizes=TINY) == demo_paths(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps
    with pytest.raises(ValueError, match=r"sizes.synth_train: 15 there, 160 asked for"):
        make_demo(folder)


def test_it_is_made_quickly(tiny):
    assert tiny[1] < 20  # seconds of processor time, for about a fifth of the demo


def test_classes_are_balanced():
    for name, part in PARTS.items():
        jobs = desed_jobs(part, Path("audio"), Path("notes"), (0, part_number(name)), SIZES[name])
        count = Counter(label for job in jobs for label in job.labels)
        assert max(count.values()) - min(count.values()) <= 2
        assert all(len(set(job.labels)) == len(job.labels) for job in jobs)
        assert len({job.audio.name for job in jobs}) == len({job.seed for job in jobs}) == SIZES[name]
        if name in ("devtest", "strong_train", "synth_train"):
            assert min(count[label] for label in DESED_CLASSES) >= 6
    paths = {name: Path("audio") for name in ("real_maestro_train_folder", "real_maestro_val_folder")}
    for name in MAESTRO_PARTS:
        jobs = maestro_jobs(name, paths, Path("notes"), 0, SIZES)
        assert {label for job in jobs for label in job.labels} == set(MAESTRO_CLASSES)


def test_deal():
    hands = deal(list("abc"), [2, 3, 1, 0, 2, 1], generator(0))
    assert [len(hand) for hand in hands] == [2, 3, 1, 0, 2, 1]
    assert set(Counter(label for hand in hands for label in hand).values()) == {3}
    assert all(len(set(hand)) == len(hand) for hand in hands)


def test_each_choice_of_settings_has_its_folder(tmp_path):
    folders = {demo_folder("demo"), demo_folder("demo", seed=1), demo_folder("demo", tmp_path)}
    assert len(folders) == 3
    assert all(folder.startswith("demo/") for folder in folders)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [({"weak": 3}, "unknown name 'weak'.*weak_train"), ({"weak_train": 0}, "weak_train is 0, expected at least 1")],
)
def test_bad_sizes(tmp_path, sizes, words):
    with pytest.raises(ValueError, match=words):
        make_demo(tmp_path, sizes=sizes)


def test_the_command_names_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "demo"), "--sources", str(tmp_path / "nowhere")])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: no folder of isolated recordings at {tmp_path / 'nowhere'}\n"


def test_recordings_serve_the_classes_they_have(tmp_path, caplog):
    tone = np.sin(np.arange(8000) / 5)
    for name in ("Speech", "door opens_closes", "backgrounds"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "1.wav", tone, 16000)
    sides, _ = find_sounds(tmp_path, seed=0)
    assert "class Speech has one recording only" in caplog.text
    origins = {label: sides[True].event(label, 0.5, 16000, generator(0))[1] for label in CLASSES}
    recorded = {label: origin for label, origin in origins.items() if origin != "procedural"}
    assert recorded == {
        "Speech": "Speech/1.wav",
        "people talking": "Speech/1.wav",
        "door opens/closes": "door opens_closes/1.wav",
    }


@pytest.mark.data
def test_real_recordings(real_data, tmp_path):
    sides, description = find_sounds(real_data, seed=0)
    assert description["labels"] == list(DESED_CLASSES)
    train, test = sides[False].recordings, sides[True].recordings
    for label in DESED_CLASSES:
        assert (len(train.files[label]), len(test.files[label])) == (3, 2)
        assert not set(train.files[label]) & set(test.files[label])
    assert not set(train.backgrounds) & set(test.backgrounds)
    origins = {label: sides[False].event(label, 1.0, 16000, generator(0))[1] for label in CLASSES}
    assert {label for label, origin in origins.items() if origin == "procedural"} == set(MAESTRO_CLASSES) - {
        "cutlery and dishes",
        "people talking",
    }
    make_demo(tmp_path / "demo", sources=real_data, sizes=dict.fromkeys(SIZES, 1), workers=2)
    assert (tmp_path / "demo" / "demo.json").is_file()
