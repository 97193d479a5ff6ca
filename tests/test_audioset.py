"""ex_audioset from end to end on a few seconds of noise: recipes, outputs, going on, processes, weights, bad input."""

import csv
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import configs
import ex_audioset
import models
from data_util import demo_tagging
from data_util.class_tables import class_names
from data_util.tagging import DATASETS, training_set
from helpers.ingredients import plain
from helpers.tagging import TaggingModule
from models.dymn import scheduled_temperature
from tests import tagging_sets
from tests.reference import golden
from tests.runs import NamedRuns, assert_goes_on, merged

SECONDS = 0.5
CLASSES = ["cat", "dog", "owl"]


class TaggingRuns(NamedRuns):
    """Runs of ex_audioset with a network of a few thousand weights on noise."""

    def __init__(self, folder):
        super().__init__(
            folder,
            ex_audioset.ex,
            arch="mn01_as",
            pretrained_name=None,
            data={"root": f"{folder}/data", "clip_length": SECONDS, "batch_size": 4, "num_workers": 0},
            mn_mel={"n_mels": 32, "hopsize": 640},
        )

    def make(self, dataset, **options):
        """Makes a tiny data set in its published layout, unless it is there."""
        folder = self.folder / "data"
        if not folder.exists():
            getattr(tagging_sets, f"make_{dataset}")(folder, **options)
        return self

    def on_folder(self, name="run", **updates):
        """A run on class folders."""
        return self.make("folder").run(name, named=["folder"], **updates)


@pytest.fixture
def tagging(tmp_path, _same_threads):
    torch.set_num_threads(1)
    return TaggingRuns(tmp_path)


# -- recipes ----------------------------------------------------------------------------------------------------------

# Published flag -> our entry. The others have no meaning here (cuda), are commands (train), names (model_width) or
# part of the weights file (pretrain_final_temp).
ENTRIES = {
    "batch_size": "data.batch_size", "num_workers": "data.num_workers", "model_name": "arch", "strides": "mn.strides",
    "head_type": "mn.head_type", "se_dims": "mn.se_dims", "n_epochs": "trainer.max_epochs", "precision":
    "trainer.precision", "num_devices": "trainer.devices", "mixup_alpha": "augment.mixup_alpha", "mixstyle_p":
    "augment.mixstyle_p", "mixstyle_alpha": "augment.mixstyle_alpha", "epoch_len": "data.epoch_len", "roll":
    "data.roll", "wavmix": "data.wavmix", "gain_augment": "data.gain_augment", "adamw": "optimizer.adamw",
    "weight_decay": "optimizer.weight_decay", "max_lr": "optimizer.lr", "lr": "optimizer.lr", "warm_up_len":
    "optimizer.warm_up_len", "ramp_down_start": "optimizer.ramp_down_start", "ramp_down_len":
    "optimizer.ramp_down_len", "last_lr_value": "optimizer.last_lr_value", "teacher_preds": "data.teacher_preds",
    "fname_to_index": "data.fname_to_index", "temperature": "kd.temperature", "kd_lambda": "kd.kd_lambda",
    "resample_rate": "data.sample_rate", "window_size": "mn_mel.win_length", "hop_size": "mn_mel.hopsize", "n_fft":
    "mn_mel.n_fft", "n_mels": "mn_mel.n_mels", "freqm": "mn_mel.freqm", "timem": "mn_mel.timem", "fmin": "mn_mel.fmin",
    "fmax": "mn_mel.fmax", "fmin_aug_range": "mn_mel.fmin_aug_range", "fmax_aug_range": "mn_mel.fmax_aug_range",
    "cache_path": "data.cache_path", "fold": "data.fold", "variable_eval_length": "data.variable_eval_length",
}  # fmt: skip
NO_ENTRY = {"experiment_name", "train", "cuda", "ensemble", "pretrained", "pretrain_final_temp", "model_width"}


def config_of(*named):
    """The config that named configs make, without a run."""
    return plain(ex_audioset.ex._create_run("print_config", {}, named).config)


def entry(config, name):
    for step in name.split("."):
        config = config[step]
    return config


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("ex_audioset", ["audioset"]),
        ("ex_pl_audioset", ["audioset", "pl_audioset"]),
        ("ex_fsd50k", ["fsd50k"]),
        ("ex_esc50", ["esc50"]),
        ("ex_dcase20", ["dcase20"]),
        ("ex_openmic", ["openmic"]),
    ],
)
def test_published_defaults(script, named):
    config, wrong = config_of(*named), {}
    for flag, default in golden("tagging/flags.json")["scripts"][script].items():
        if flag in NO_ENTRY:
            continue
        if flag.startswith("no_"):
            flag, default = flag.removeprefix("no_"), not default
        value = entry(config, ENTRIES[flag])
        expected = {"precision": "16-mixed"}.get(flag, default)
        if value != expected:
            wrong[flag] = (value, expected)
    assert not wrong
    assert config["dataset"] == named[0]
    # What fine-tunes does so from published weights, which the published scripts need a flag for.
    assert config["pretrained_name"] == (None if "audioset" in named else "own")


def test_every_data_set_has_a_recipe():
    assert set(configs.TAGGING) == set(DATASETS)
    assert config_of("audioset")["data"]["weighted"]
    assert config_of("fsd50k")["validate_on"] == "val"
    assert config_of("esc50")["data"]["clip_length"] == 5


TINY = {
    "audioset": {"clips": (3, 4, 2)}, "fsd50k": {}, "esc50": {}, "dcase20": {}, "openmic": {}, "folder": {},
}  # fmt: skip
NO_TEACHER = {"kd": {"kd_lambda": 0.0}}


@pytest.mark.parametrize("dataset", TINY)
def test_recipes_run(tagging, dataset, capsys):
    tagging.make(dataset, **TINY[dataset]).run(named=[dataset], **NO_TEACHER)
    folder, several = tagging.path(), dataset in ("audioset", "fsd50k", "openmic")
    figures = {"ap_by_class.png"} if several else {"accuracy_by_class.png", "confusion.png"}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tables = {"results.csv", "results.md", "classes.csv", "metrics.csv", "model_summary.txt"}
    assert files == {*figures, *tables, "checkpoints/last.ckpt"}
    names = {"mAP", "ROC", "dprime", "loss"} if several else {"accuracy", "accuracy_macro", "mAP", "loss"}
    results = tagging.results()
    assert set(results) == {("trained", f"test/{name}") for name in names}
    assert {name.removeprefix("val/") for values in tagging.metrics(prefix="val/").values() for name in values} <= names
    steps = tagging.metrics()
    assert all(math.isfinite(values["train/loss"]) for values in steps.values())
    expected = configs.TAGGING[dataset]["optimizer"]["lr"] * math.exp(-5 * (1 - 0.5 / len_of_warm_up(dataset)) ** 2)
    assert steps[0]["train/lr"] == pytest.approx(expected)
    content = tagging.checkpoint()
    assert content["classes"] == (CLASSES if dataset == "folder" else list(class_names(dataset)))
    assert content["config"]["seed"] == 1
    assert set(content["tagger"]) == {name.removeprefix("tagger.") for name in content["state_dict"]}
    shown = capsys.readouterr().out
    assert f"{dataset} test" in shown
    assert str(folder) in shown
    assert len(shown.splitlines()) < 12


def len_of_warm_up(dataset):
    return configs.TAGGING[dataset]["optimizer"].get("warm_up_len", 10)


def test_one_of_several_folds_is_held_out(tagging, monkeypatch):
    seen = []
    monkeypatch.setattr(TaggingModule, "test_step", lambda self, batch, number: seen.extend(batch["filename"]))
    monkeypatch.setattr(ex_audioset, "show", lambda *arguments: None)
    tagging.make("esc50").run(named=["esc50"], data={"fold": 4})
    assert {Path(name).name[0] for name in seen} == {"4"}


# -- training ---------------------------------------------------------------------------------------------------------


def tones(folder, classes=("high", "low"), clips=10):
    """Tones of two pitches in noise: something to learn."""
    time = np.arange(round(SECONDS * 32000)) / 32000
    for number, name in enumerate(classes):
        for clip in range(clips):
            rng = np.random.default_rng([number, clip])
            tone = np.sin(2 * np.pi * (3000 if name == "high" else 400) * rng.uniform(0.8, 1.2) * time)
            path = folder / name / f"{clip}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.3 * tone + 0.02 * rng.standard_normal(len(time)), 32000)


def test_it_learns(tagging):
    tones(tagging.folder / "data", clips=24)
    tagging.run(
        named=["folder"],
        test_untrained=True,
        trainer={"max_epochs": 20},
        data={"wavmix": False, "batch_size": 8},
        augment={"mixup_alpha": 0.0},
        optimizer={"lr": 0.005, "warm_up_len": 1, "ramp_down_start": 13, "ramp_down_len": 6},
    )
    results = tagging.results()
    assert results["trained", "test/mAP"] == 1
    assert results["untrained", "test/mAP"] < 0.9
    losses = [values["train/loss"] for values in tagging.metrics().values()]
    assert np.mean(losses[-4:]) < 0.2 * np.mean(losses[:4])


def test_seeds_and_workers(tagging):
    for name, options in {"first": {}, "again": {"data": {"num_workers": 2}}, "other": {"seed": 2}}.items():
        tagging.on_folder(name, trainer={"max_epochs": 2}, **options)
    first, again, other = (tagging.metrics(name) for name in ("first", "again", "other"))
    assert len(first) == 6
    assert again == first
    assert other[0]["train/loss"] != first[0]["train/loss"]


@pytest.mark.parametrize("batch", [2, 5])
def test_stopped_runs_go_on(tagging, monkeypatch, batch):
    start = partial(tagging.on_folder, trainer={"max_epochs": 2}, mn={"dropout": 0.5})
    assert_goes_on(tagging, start, TaggingModule, batch, monkeypatch)


def write_teacher(runs, names, classes=3):
    """Logits for clips of these names, and the entries that name them."""
    logits = np.random.default_rng(0).normal(size=(len(names), classes)).astype(np.float16)
    np.save(runs.folder / "teacher.npy", logits)
    (runs.folder / "rows.json").write_text(json.dumps({name: row for row, name in enumerate(names)}))
    return {"teacher_preds": str(runs.folder / "teacher.npy"), "fname_to_index": str(runs.folder / "rows.json")}


@pytest.mark.parametrize("options", [{"kd_lambda": 0.25}, {"pseudo_labels": True}])
def test_a_teacher(tagging, options):
    names = training_set("folder", tagging.make("folder").folder / "data").names
    data = write_teacher(tagging, [names[0], *names[2:]])  # and one which it does not know
    tagging.on_folder(data=data, kd=options)
    for values in tagging.metrics().values():
        assert ("train/label_loss" in values) == ("kd_lambda" in options)
        parts = [values[name] for name in ("train/label_loss", "train/kd_loss") if name in values]
        assert values["train/loss"] == pytest.approx(sum(parts), rel=1e-5)
    tagging.on_folder("unread", data={**data, "teacher_preds": "none.npy"})  # kd_lambda is 0


def test_dynamic_networks_follow_their_temperature(tagging):
    net = {"arch": "dymn04_as", "trainer": {"max_epochs": 3, "limit_train_batches": 1, "limit_val_batches": 0}}
    tagging.on_folder(**net)
    content = tagging.checkpoint()
    assert float(content["tagger"]["temperature"]) == scheduled_temperature(2) == 28
    del tagging.config["arch"]
    tagging.run("evaluated", command="evaluate", pretrained_name=str(tagging.path() / "checkpoints" / "last.ckpt"))
    assert tagging.results("evaluated") == tagging.results()


@pytest.mark.parametrize(
    "updates",
    [
        {"pooling": "attention", "optimizer": {"adamw": True, "weight_decay": 0.01}},
        {"augment": {"mixstyle_p": 0.5}, "mn_mel": {"freqm": 8, "timem": 4}, "trainer": {"precision": "bf16-mixed"}},
        {"arch": "frame_mn06", "frame_mn": {"width_mult": 0.1}, "data": {"sample_rate": 32000}},
        {"data": {"variable_eval_length": True}, "validate_on": "train", "test_checkpoint": "best"},
        {"trainer": {"accumulate_grad_batches": 2, "precision": "16-mixed"}, "data": {"cache_path": "cache"}},
    ],
)
def test_options(tagging, monkeypatch, updates):
    monkeypatch.chdir(tagging.folder)
    if "frame_mn" in updates:
        updates = {key: value for key, value in updates.items() if key != "frame_mn"}
    result = tagging.on_folder(**merged({"trainer": {"limit_train_batches": 2}}, updates))
    assert 0 <= result["test/accuracy"] <= 1
    assert all(math.isfinite(values["train/loss"]) for values in tagging.metrics().values())


def test_a_frozen_choice_of_checkpoint_is_said_to_be_optimistic(tagging, caplog):
    tagging.on_folder(test_checkpoint="best", trainer={"max_epochs": 2})
    assert any("chosen on the very clips that it is tested on" in message for message in caplog.messages)
    best = tagging.checkpoint(file="best")
    accuracies = [values["val/accuracy"] for values in tagging.metrics(prefix="val/").values()]
    assert best["epoch"] == int(np.argmax(accuracies))
    assert tagging.results()["trained", "test/accuracy"] == pytest.approx(max(accuracies))


def test_two_processes(tagging):
    tagging.make("folder")
    options = {"trainer": {"devices": 2, "max_epochs": 2}, "data": {"batch_size": 2}}
    done = tagging.process("folder", "wandb.name=ddp", **options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("tables, figures and checkpoints") == 1
    file = tagging.path("ddp") / "checkpoints" / "last.ckpt"
    tagging.run("alone", command="evaluate", pretrained_name=str(file))
    assert tagging.results("alone") == pytest.approx(tagging.results("ddp"), abs=1e-6)
    last = list(tagging.metrics("ddp", "val/").values())[-1]
    for name, value in last.items():
        assert tagging.results("alone")["trained", name.replace("val/", "test/")] == pytest.approx(value, abs=1e-6)


# -- weights ----------------------------------------------------------------------------------------------------------


def publish(runs, monkeypatch, arch="mn01_as"):
    """Puts random weights where published ones would be."""
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(runs.folder / "resources"))
    monkeypatch.setattr(configs, "PRETRAINED", str(runs.folder / "resources" / "pretrained_models"))
    path = runs.folder / "resources" / models.get(arch).checkpoint("own").file
    path.parent.mkdir(parents=True)
    torch.manual_seed(5)
    torch.save(models.build(arch)[1].state_dict(), path)
    return path


def test_published_weights_are_evaluated(tagging, monkeypatch):
    path = publish(tagging, monkeypatch)
    tagging.make("audioset", **TINY["audioset"])
    del tagging.config["pretrained_name"]
    for name, weights in (("recipe", {}), ("named", "own"), ("file", str(path))):
        given = {"pretrained_name": weights} if weights else {}
        tagging.run(name, command="evaluate", named=["audioset"], **given)
    assert tagging.results("recipe") == tagging.results("named") == tagging.results("file")
    assert 0 < tagging.results("recipe")["trained", "test/mAP"] < 1
    with open(tagging.path("recipe") / "classes.csv") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert len(rows) == 527
    assert rows["Speech"]["clips"] == "1"
    assert rows["Throat clearing"]["AP"] == ""


def test_an_ensemble_is_evaluated(tagging, monkeypatch):
    path = publish(tagging, monkeypatch)
    other = tagging.folder / "other.pt"
    state = torch.load(path)
    state["classifier.5.bias"] += 1
    torch.save(state, other)
    tagging.make("audioset", **TINY["audioset"])
    members = {"one": [str(path)], "twice": ["mn01_as", str(path)], "both": ["mn01_as", str(other)]}
    del tagging.config["pretrained_name"]
    for name, ensemble in members.items():
        tagging.run(name, command="evaluate", named=["audioset"], ensemble=ensemble)
    loss = {name: tagging.results(name)["trained", "test/loss"] for name in members}
    assert loss["one"] == pytest.approx(loss["twice"], abs=1e-7)
    assert loss["both"] == pytest.approx(math.log1p(math.exp(0.5)), abs=1e-2)  # few labels; others are at 0 and 1
    with pytest.raises(ValueError, match="ensemble: several networks are not trained at once"):
        tagging.run("trained", named=["audioset"], ensemble=["mn01_as"])


def test_fine_tuning_starts_from_published_weights(tagging, monkeypatch):
    publish(tagging, monkeypatch)
    still = {"optimizer": {"lr": 0.0}, "trainer": {"limit_train_batches": 1}}
    tagging.on_folder(pretrained_name="own", save_as="mine", **still)
    source = torch.load(tagging.folder / "resources" / models.get("mn01_as").checkpoint("own").file)
    tuned = tagging.checkpoint()["tagger"]
    assert torch.equal(tuned["features.3.block.0.0.weight"], source["features.3.block.0.0.weight"])
    assert tuned["classifier.5.weight"].shape == (3, 128)
    kept = torch.load(tagging.folder / "resources" / "pretrained_models" / "mine.ckpt", weights_only=True)
    assert "optimizer_states" not in kept
    assert kept["classes"] == CLASSES
    for name, tensor in tuned.items():
        assert torch.equal(kept["tagger"][name], tensor), name


def test_a_run_is_evaluated_with_its_own_settings(tagging):
    tagging.on_folder("trained", mn_mel={"n_mels": 40}, data={"sample_rate": 16000})
    file = str(tagging.path("trained") / "checkpoints" / "last.ckpt")
    del tagging.config["mn_mel"], tagging.config["arch"], tagging.config["data"]
    tagging.run("same", command="evaluate", pretrained_name=file)
    assert tagging.results("same") == tagging.results("trained")
    del tagging.config["pretrained_name"]
    root = {"root": str(tagging.folder / "data"), "num_workers": 0}
    tagging.run("asked", command="evaluate", named=["folder"], pretrained_name=file, data=root)
    assert tagging.results("asked") == pytest.approx(tagging.results("trained"), abs=1e-6)
    tagging.run("other", command="evaluate", pretrained_name=file, mn_mel={"n_mels": 32})
    assert tagging.results("other") != tagging.results("trained")


def test_five_folds(tagging, capsys, monkeypatch):
    tagging.make("esc50", per_fold=2)
    with monkeypatch.context() as patch:
        patch.setattr(ex_audioset, "ESC50_FOLDS", 1)
        tagging.run("cv", command="esc50_cv", named=["esc50"])
    capsys.readouterr()
    first = tagging.results("cv-fold1")
    accuracy = tagging.run("cv", command="esc50_cv", named=["esc50"], ckpt_path="last")
    assert tagging.results("cv-fold1") == first
    assert len(tagging.metrics("cv-fold1")) == 2  # tested again, not trained again
    folds = [tagging.results(f"cv-fold{fold}")["trained", "test/accuracy"] for fold in range(1, 6)]
    (folder,) = (path for path in tagging.path().parent.glob("cv-*") if "fold" not in path.name)
    table = tagging.results(folder.name)
    assert accuracy == table["mean", "test/accuracy"] == pytest.approx(np.mean(folds))
    assert table["deviation", "test/accuracy"] == pytest.approx(np.std(folds))
    assert [table[f"fold {fold}", "test/accuracy"] for fold in range(1, 6)] == folds
    assert [tagging.checkpoint(f"cv-fold{fold}")["config"]["data"]["fold"] for fold in range(1, 6)] == [1, 2, 3, 4, 5]
    assert "ESC-50, cross-validation" in capsys.readouterr().out


# -- demo -------------------------------------------------------------------------------------------------------------


def test_demo(tagging, monkeypatch):
    monkeypatch.chdir(tagging.folder)
    monkeypatch.setattr(demo_tagging, "SIZES", {"train": 24, "test": 12})
    for entry in ("arch", "data", "mn_mel"):
        del tagging.config[entry]
    result = tagging.run(named=["demo"])
    assert set(result) == {"test/mAP", "test/ROC", "test/dprime", "test/loss"}
    assert ("untrained", "test/mAP") in tagging.results()
    folder = tagging.folder / "resources" / "demo" / "tagging" / "seed0"
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.wav")}
    assert len(made) == 36
    assert not (folder / ".notes").exists()
    with open(folder / "test.csv") as file:
        labels = [row["labels"].split(";") for row in csv.DictReader(file)]
    assert {len(found) for found in labels} == {1, 2, 3}
    assert {label for found in labels for label in found} == set(demo_tagging.CLASSES)
    tagging.run("again", named=["demo"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.wav")} == made
    assert tagging.metrics("again") == tagging.metrics()


def test_demo_data_depend_on_the_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_tagging, "SIZES", {"train": 3, "test": 2})
    for name, options in {"a": {"workers": 1}, "b": {"workers": 2}, "c": {"seed": 1}}.items():
        demo_tagging.make_demo_tagging(tmp_path / name, **options)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.wav"))
    one, same, other = ([(tmp_path / name / file).read_bytes() for file in files] for name in "abc")
    assert one == same
    assert not set(one) & set(other)
    with pytest.raises(ValueError, match="was made with other settings"):
        demo_tagging.make_demo_tagging(tmp_path / "a", seed=3)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mistake(tagging, capfd):
    """Function: arguments of a command -> the one line on stderr that its exit with status 1 leaves."""

    def run(*arguments, command=()):
        capfd.readouterr()
        assert tagging.command(*arguments, command=command) == 1
        stderr = capfd.readouterr().err
        assert "Traceback" not in stderr
        (line,) = [line for line in stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]
        return line.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "dataset is not set, expected one of audioset, fsd50k, esc50, dcase20, openmic, folder, audioset_strong"),
        (["dataset=esc10"], "unknown data set 'esc10', expected one of audioset"),
        (["esc10"], "unknown named config 'esc10', did you mean 'esc50'?"),
        (["esc50", "data.fold=9"], "data.fold is 9, expected 1 to 5"),
        (["folder", "arch=mn01"], "unknown arch 'mn01', did you mean"),
        (["folder", "data.root=none"], "folder: no folder data.root = none"),
        (["folder", "pretrained_name=own"], "mn01_as_mAP_298.pt: no such weights file"),
        (["folder", "pretrained_name=mn99_as"], "'mn99_as' is no checkpoint of mn01_as"),
        (["folder", "kd.kd_lambda=0.1"], "data.teacher_preds is not set, expected the logits of a teacher"),
        (["folder", "kd.kd_lambda=2"], "kd.kd_lambda is 2, expected a weight"),
        (["folder", "kd.lambda=2"], "unknown config key 'kd.lambda', did you mean 'kd.kd_lambda'?"),
        (["folder", "loss.masked_mean=all"], "loss.masked_mean is 'all', expected one of annotated, published"),
        (["folder", "test_checkpoint=first"], "test_checkpoint is 'first', expected 'last' or 'best'"),
        (["folder", "validate_on=dev"], "folder has no part 'dev', expected one of train, val, test"),
        (["folder", "pooling=max"], "pooling: 'max' is none of mean, attention"),
        (["folder", "ckpt_path=last"], "ckpt_path=last: there is no"),
        (["folder", "data.batch_size=0"], "batch_size is 0"),
        (["folder", "data.gain_augment=0.5"], "data.gain_augment is 0.5, expected whole dB"),
    ],
)
def test_config(tagging, mistake, monkeypatch, arguments, message):
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(tagging.folder / "resources"))
    tagging.make("esc50" if "esc50" in arguments else "folder")
    assert message in mistake(*arguments)
    assert not list(tagging.outputs.rglob("*.ckpt"))


def test_weights_of_other_classes_are_not_evaluated(tagging, mistake, monkeypatch):
    publish(tagging, monkeypatch)
    tagging.on_folder("trained")
    file = str(tagging.path("trained") / "checkpoints" / "last.ckpt")
    line = mistake("folder", "pretrained_name=own", command=["evaluate"])
    assert line == "mn01_as was trained for other classes than the 3 of folder"
    tagging_sets.make_folder(tagging.folder / "birds", classes=("owl", "raven", "wren"))
    line = mistake("folder", f"data.root={tagging.folder / 'birds'}", f"pretrained_name={file}", command=["evaluate"])
    assert "raven" in line
    line = mistake("folder", f"pretrained_name={file}", "arch=mn02_as", command=["evaluate"])
    assert line == f"{file} is for arch=mn01_as, but arch=mn02_as is asked for"


def test_folds_need_their_data_set(tagging, mistake):
    tagging.make("folder")
    assert "expected `esc50_cv with esc50`" in mistake("folder", command=["esc50_cv"])


def test_odd_clips(tagging, caplog):
    """Corrupt, very short, silent, many channels: counted or heard, and never a number that is none."""
    tagging.make("folder")
    folder = tagging.folder / "data"
    (folder / "cat" / "corrupt.mp3").write_bytes(b"ID3" + bytes(500))
    (folder / "cat" / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "dog" / "short.wav", np.full(320, 0.1), 32000)  # 10 ms
    soundfile.write(folder / "dog" / "rather_short.wav", np.full(3200, 0.1), 32000)
    soundfile.write(folder / "dog" / "silent.wav", np.zeros(16000), 32000)
    soundfile.write(folder / "owl" / "eight.wav", 0.1 * np.random.default_rng(0).standard_normal((9000, 8)), 44100)
    updates = {"validate_on": "train", "data": {"split": "train", "variable_eval_length": True, "batch_size": 3}}
    result = tagging.on_folder(trainer={"max_epochs": 2}, **updates)
    assert all(math.isfinite(value) for value in result.values())
    assert all(math.isfinite(values["train/loss"]) for values in tagging.metrics().values())
    unreadable = [message for message in caplog.messages if "could not be read" in message]
    assert any("3 of 17 clips could not be read" in message for message in unreadable)
    for name in ("corrupt.mp3", "empty.wav", "/short.wav"):
        assert any(name in message for message in unreadable)


def test_check_data(tagging, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    tagging.make("esc50").run(command="check_data", named=["esc50"])
    train, test = (line for line in capsys.readouterr().out.splitlines() if "esc50 " in line)
    assert "8 clips, the published set has 1600" in train
    assert "2 clips, the published set has 400" in test
    next((tagging.folder / "data" / "audio").iterdir()).unlink()
    tagging.run(command="check_data", named=["esc50"])
    assert "audio files of the" in capsys.readouterr().out


# -- real recordings --------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_esc50(tagging, real_data):
    tagging.config["data"] |= {"root": str(real_data / "esc50"), "clip_length": 5.0}
    tagging.run(named=["esc50"], trainer={"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 2})
    assert 0 <= tagging.results()["trained", "test/accuracy"] <= 1
