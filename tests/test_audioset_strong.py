"""ex_audioset with audioset_strong from end to end, on seconds of tones: training, evaluation, events, and stage 1."""

import csv
import json
import math
import re
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch

import configs
import strong_stage
from data_util import demo_tagging
from data_util.class_tables import class_names
from data_util.demo_strong import write_demo_strong
from helpers.checkpoints import read
from helpers.event_inference import Detection
from helpers.strong import StrongModule
from models.strong import build_strong, checkpoint_of_run, load_strong
from models.tagging import build_tagger
from tests.reference import golden
from tests.runs import assert_goes_on, assert_same, merged
from tests.test_audioset import TaggingRuns, config_of, entry
from tests.test_audioset_commands import Commands, write_noise
from tests.test_audioset_strong_data import table, write_teacher
from tests.test_strong import STEMS, TINY, published_file

NAME = "audioset_strong"
CLASSES = class_names(NAME)
PITCH = {"Cat": 3000, "Dog": 400}
RATE = 16000
SILENT = "train000006"  # its only event is of the evaluation list alone
VALUES = ("loss", "psds1", "psds1_macro_averaged", "pauroc")
SEQUENCE = {"seq_model_type": "rnn", "rnn_dim": 8, "rnn_layers": 1}
STILL = ("frame_shift_range", "mixup_p", "mixstyle_p", "filter_augment_p", "freq_warp_p")


def make_strong(root):
    """Seven training and four evaluation clips of a second: noise, and but for one clip a tone of 0.4 s."""
    for part, count in (("train", 7), ("eval", 4)):
        rows = []
        for number in range(count):
            name, label, onset = f"{part}{number:0{11 - len(part)}d}", ("Cat", "Dog")[number % 2], 0.12 * (number % 4)
            rows.append((name, onset, onset + 0.4, "Silence" if name == SILENT else label))
            time = np.arange(RATE) / RATE
            heard = (time >= onset) & (time < onset + 0.4) & (name != SILENT)
            noise = 0.005 * np.random.default_rng([count, number]).standard_normal(RATE)
            path = root / "audio" / part / f"Y{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.3 * heard * np.sin(2 * np.pi * PITCH[label] * time) + noise, RATE)
        table(root / f"audioset_{part}_strong.tsv", rows)


class StrongRuns(TaggingRuns):
    """Runs with the smallest frame-wise MobileNet on those clips."""

    def __init__(self, folder):
        super().__init__(folder)
        del self.config["mn_mel"]
        self.config = merged(
            self.config,
            {
                "arch": "frame_mn01",
                "data": {"clip_length": 1.0, "batch_size": 3},
                "strong_optimizer": {"max_lr": 1e-3, "warmup_steps": 2},
                "trainer": {"check_val_every_n_epoch": 1},
            },
        )
        self.kept = self.folder / "pretrained_models" / "atst_as_strong.ckpt"
        make_strong(self.folder / "data")

    def strong(self, name="run", **updates):
        """A run with the recipe."""
        return self.run(name, named=[NAME], **updates)

    def last(self, name="run"):
        """Path of its last checkpoint."""
        return str(self.path(name) / "checkpoints" / "last.ckpt")

    def without_settings(self, *names):
        """The same runs, on a command line that leaves these out."""
        other = object.__new__(StrongRuns)
        other.__dict__ = {**self.__dict__, "config": {k: v for k, v in self.config.items() if k not in names}}
        return other


@pytest.fixture
def runs(tmp_path, _same_threads):
    torch.set_num_threads(1)
    return StrongRuns(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs in whose folder there is one with a sequence head, which is kept. Not to be changed."""
    return kept_run(tmp_path_factory.mktemp("trained"), strong_model=SEQUENCE)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The same with a small transformer, which learns what there is to hear."""
    return kept_run(
        tmp_path_factory.mktemp("learned"),
        arch="atst_frame",
        atst_frame=TINY["atst_frame"],
        trainer={"max_epochs": 30, "check_val_every_n_epoch": 30},
        strong=dict.fromkeys(STILL, 0.0),
        strong_optimizer={"max_lr": 1e-2, "warmup_steps": 3},
        data={"wavmix": False},
    )


def kept_run(folder, **updates):
    """Runs in whose folder there is one, kept under the name of a published file that stage 1 starts from."""
    torch.set_num_threads(1)
    runs = StrongRuns(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "PRETRAINED", str(runs.kept.parent))
        runs.strong(save_as=runs.kept.stem, test_untrained=True, **updates)
    return runs


# -- recipe -----------------------------------------------------------------------------------------------------------

ENTRIES = {
    "batch_size": "data.batch_size", "num_workers": "data.num_workers", "num_devices": "trainer.devices", "precision":
    "trainer.precision", "check_val_every_n_epoch": "trainer.check_val_every_n_epoch", "model_name": "arch",
    "seq_model_type": "strong_model.seq_model_type", "n_epochs": "trainer.max_epochs", "use_balanced_sampler":
    "data.weighted", "distillation_loss_weight": "strong.distillation_loss_weight", "epoch_len": "data.epoch_len",
    "median_window": "strong.median_window", "wavmix_p": "data.wavmix_p", "freq_warp_p": "strong.freq_warp_p",
    "filter_augment_p": "strong.filter_augment_p", "frame_shift_range": "strong.frame_shift_range", "mixup_p":
    "strong.mixup_p", "mixstyle_p": "strong.mixstyle_p", "max_time_mask_size": "strong.max_time_mask_size", "adamw":
    "strong_optimizer.adamw", "weight_decay": "strong_optimizer.weight_decay", "schedule_mode":
    "strong_optimizer.schedule_mode", "max_lr": "strong_optimizer.max_lr", "lr_end": "strong_optimizer.lr_end",
    "warmup_steps": "strong_optimizer.warmup_steps", "pseudo_labels_file": "data.teacher_preds",
}  # fmt: skip
OF_INFERENCE = {"median_window": "detection.median_window"}
NO_ENTRY = {
    "experiment_name",  # wandb.name, free as the project
    "evaluate",  # a command
    "pretrained",  # pretrained_name, whose values are names; see below
    "audio_file",  # audio_path, without a default
    "cuda",  # taken where it is
    "detection_thresholds",  # detection.thresholds, where None means those
}
IN_OUR_WORDS = {("precision", 16): "16-mixed", ("model_name", "ATST-F"): "atst_frame"}


@pytest.mark.parametrize(("script", "entries"), [("ex_audioset_strong", ENTRIES), ("inference", OF_INFERENCE)])
def test_published_defaults(script, entries):
    config, wrong = config_of(NAME), {}
    for flag in golden("audioset_strong/flags.json")[script]:
        name, default = flag["flag"].removeprefix("--"), flag["default"]
        if name in NO_ENTRY or (script == "inference" and name == "model_name"):  # BEATs there, one recipe has one arch
            continue
        expected = default if isinstance(default, list) else IN_OUR_WORDS.get((name, default), default)
        if entry(config, entries[name]) != expected:
            wrong[name] = entry(config, entries[name]), expected
    assert not wrong
    assert config["data"]["wavmix"]
    assert config["data"]["sample_rate"] == RATE
    assert Detection(thresholds=config["detection"]["thresholds"]).levels() == (0.1, 0.2, 0.5)


@pytest.mark.parametrize("arch", [*STEMS, "frame_mn06", "frame_mn10"])
def test_weights_of_the_recipe(arch):
    """--pretrained=weak to train, the published detector to evaluate and to find events; MobileNets have one file."""
    assert config_of(NAME)["pretrained_name"] == "own"
    stem = STEMS.get(arch, arch)
    for trained, kind in ((False, "weak" if arch in STEMS else "strong_1"), (True, "strong_1")):
        file = strong_stage.checkpoint_of(arch, "own", trained).file
        assert file == f"pretrained_models/{stem}_{kind}.pt"


# -- training and evaluation ------------------------------------------------------------------------------------------


def test_what_a_run_leaves(trained):
    folder = trained.path()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "results.csv", "results.md", "classes.csv", "psds1_by_class.png", "metrics.csv", "model_summary.txt",
        "checkpoints/last.ckpt",
    }  # fmt: skip
    steps = trained.metrics()
    assert list(steps) == [0, 1, 2]
    names = {"loss", "strong_supervised_loss", "lr", "epoch"}
    assert all(set(values) == {f"train/{name}" for name in names} for values in steps.values())
    assert [values["train/lr"] for values in steps.values()] == pytest.approx([0, 5e-4, 1e-3])
    (validated,) = trained.metrics(prefix="val/").values()
    assert set(validated) == {f"val/{name}" for name in VALUES}
    systems = ("trained", "untrained")
    assert set(trained.results()) == {(system, f"test/{name}") for system in systems for name in VALUES}
    for name in VALUES:
        assert trained.results()["trained", f"test/{name}"] == pytest.approx(validated[f"val/{name}"], rel=1e-5)
    assert trained.results()["untrained", "test/loss"] > trained.results()["trained", "test/loss"]
    with open(folder / "classes.csv") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert len(rows) == 407
    assert (rows["Cat"]["events"], rows["Speech"]["events"], rows["Speech"]["psds1"]) == ("2", "0", "")


def test_the_kept_checkpoint(trained):
    content = read(trained.kept)
    assert content["classes"] == list(CLASSES)
    assert content["config"]["dataset"] == NAME
    assert "optimizer_states" not in content
    assert {name.split(".")[0] for name in content["state_dict"]} == {"net_strong"}
    tensors = {name.split(".")[1] for name in content["state_dict"]}
    assert tensors == {"model", "seq_model", "strong_head", "weak_head"}
    assert_same(dict(content["state_dict"]), dict(trained.checkpoint()["state_dict"]))


@pytest.mark.parametrize("runs", ["trained", "learned"])
def test_a_checkpoint_is_evaluated_as_it_was_trained(runs, request):
    runs = request.getfixturevalue(runs)
    torch.set_num_threads(1)  # as in its training, for the last digit
    expected = {key: value for key, value in runs.results().items() if key[0] == "trained"}
    open_ones = runs.without_settings("arch", "pretrained_name")
    open_ones.strong("recipe", command="evaluate", pretrained_name=str(runs.kept))
    assert runs.results("recipe") == expected
    open_ones.without_settings("data").run("alone", command="evaluate", pretrained_name=runs.last())
    assert runs.results("alone") == expected


def test_a_run_starts_from_another(trained):
    still = {"strong_optimizer": {"max_lr": 0.0}, "trainer": {"limit_train_batches": 1, "limit_val_batches": 0}}
    open_ones = trained.without_settings("arch", "pretrained_name")
    open_ones.strong("tuned", pretrained_name=str(trained.kept), **still)
    first, second = trained.checkpoint(), trained.checkpoint("tuned")
    assert second["config"]["strong_model"]["rnn_dim"] == 8
    for name, tensor in dict(first["state_dict"]).items():
        if not re.search(r"running_|num_batches", name):
            assert torch.equal(second["state_dict"][name], tensor), name


def test_it_learns(learned):
    results = learned.results()
    assert results["trained", "test/psds1"] > 0.9
    assert results["untrained", "test/psds1"] < 0.3
    assert results["trained", "test/loss"] < 0.1 * results["untrained", "test/loss"]
    (validated,) = learned.metrics(prefix="val/").values()
    assert validated["val/psds1"] == pytest.approx(results["trained", "test/psds1"])


@pytest.mark.parametrize("batch", [2, 4])
def test_stopped_runs_go_on(runs, monkeypatch, batch):
    model = {**SEQUENCE, "rnn_layers": 2, "rnn_dropout": 0.5}
    start = partial(runs.strong, trainer={"max_epochs": 2}, strong_model=model)
    assert_goes_on(runs, start, StrongModule, batch, monkeypatch)


def test_two_processes(runs):
    options = {"trainer": {"devices": 2}, "data": {"batch_size": 2, "weighted": True}}
    done = runs.process(NAME, "wandb.name=ddp", **options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("tables, figures and checkpoints") == 1
    runs.strong("alone", command="evaluate", pretrained_name=runs.last("ddp"))
    assert set(runs.results("alone")) == {("trained", f"test/{name}") for name in VALUES}
    assert runs.results("alone") == pytest.approx(runs.results("ddp"), abs=1e-6)


@pytest.mark.parametrize(("validate_on", "split"), [("train", "test"), ("test", "train")])
def test_validation_and_test_have_truths_of_their_own(runs, validate_on, split):
    runs.strong(validate_on=validate_on, data={"split": split})
    (validated,) = runs.metrics(prefix="val/").values()
    assert validated["val/loss"] != runs.results()["trained", "test/loss"]


def test_a_teacher(runs):
    names = [f"Ytrain{number:06d}" for number in (5, 3, 2, 0)]
    logits = np.random.default_rng(0).normal(size=(4, 447, 25))
    file = write_teacher(runs.folder / "teacher.hdf5", names, logits)
    data = {"teacher_preds": str(file)}
    runs.strong("taught", strong={"distillation_loss_weight": 0.75}, data=data)
    runs.strong("plain")
    taught, plain = runs.metrics("taught"), runs.metrics("plain")
    for values in taught.values():
        parts = 0.25 * values["train/strong_supervised_loss"] + 0.75 * values["train/strong_distillation_loss"]
        assert values["train/loss"] == pytest.approx(parts, rel=1e-5)
    first = "train/strong_supervised_loss"
    assert taught[0][first] == plain[0][first]  # the same clips and draws, before a step at a rate above 0
    assert taught[2][first] != plain[2][first]
    runs.strong("unread", data={"teacher_preds": "none.hdf5"})
    assert runs.metrics("unread") == plain


def test_balanced_sampling(runs, monkeypatch):
    seen = []
    step = StrongModule.training_step

    def recorded(self, batch, number):
        seen.append(batch["filename"])
        return step(self, batch, number)

    monkeypatch.setattr(StrongModule, "training_step", recorded)
    common = {"limit_val_batches": 0, "limit_test_batches": 1}
    for weighted, sizes in ((True, [3, 2] * 3), (False, [3, 3, 1])):
        seen.clear()
        epoch_len, epochs = (5, 3) if weighted else (100000, 1)
        runs.strong(trainer={**common, "max_epochs": epochs}, data={"weighted": weighted, "epoch_len": epoch_len})
        assert list(map(len, seen)) == sizes
        clips = [name for batch in seen for name in batch]
        assert any(SILENT in name for name in clips) != weighted
    assert len(set(clips)) == 7


@pytest.mark.parametrize(
    "updates",
    [
        {"strong_model": {"head_type": "attention"}, "strong_optimizer": {"adamw": True, "weight_decay": 0.01}},
        {"strong": {"max_time_mask_size": 0.2, "mixup_p": 1.0}, "trainer": {"precision": "bf16-mixed"}},
        {"arch": "mn01_as", "strong_optimizer": {"schedule_mode": "exp"}, "test_checkpoint": "best"},
        {"data": {"cache_path": "cache"}, "trainer": {"accumulate_grad_batches": 2}, "strong": {"median_window": 1}},
    ],
)
def test_options(runs, monkeypatch, updates):
    monkeypatch.chdir(runs.folder)
    result = runs.strong(**merged({"trainer": {"limit_train_batches": 2}}, updates))
    assert 0 <= result["test/psds1"] <= 1
    assert all(math.isfinite(values["train/loss"]) for values in runs.metrics().values())


def test_demo(runs, monkeypatch):
    monkeypatch.chdir(runs.folder)
    made = []

    def few(folder, **options):
        made.append(write_demo_strong(folder, clips=(4, 2), **options))
        return made[-1]

    monkeypatch.setattr(demo_tagging, "write_demo_strong", few)
    open_ones = runs.without_settings("arch", "data")
    result = open_ones.run(named=["demo_strong"])
    assert set(result) == {f"test/{name}" for name in VALUES}
    assert made == ["resources/demo/audioset_strong/seed0"]
    assert ("untrained", "test/psds1") in runs.results()
    # What the file was trained on need not be said again.
    again = open_ones.without_settings("pretrained_name")
    again.run("again", command="evaluate", pretrained_name=runs.last())
    for name, value in result.items():
        assert runs.results("again")["trained", name] == pytest.approx(value, rel=1e-5)
    assert made == ["resources/demo/audioset_strong/seed0"] * 2


# -- weights ----------------------------------------------------------------------------------------------------------


def with_sections(arch, **updates):
    """The recipe's config with a tiny network."""
    return merged(config_of(NAME), {**TINY, "arch": arch, **updates})


@pytest.mark.parametrize("arch", [*STEMS, "frame_mn06", "frame_mn10"])
def test_every_published_file_is_loaded(arch, tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(tmp_path))
    config = with_sections(arch)
    _, source, nothing = strong_stage.make_model(config, None, 447)
    assert nothing is None
    published_file(tmp_path, arch, f"{STEMS.get(arch, arch)}_strong_1", source)
    checkpoint = strong_stage.checkpoint_of(arch, "own", trained=True)
    _, model, loaded = strong_stage.make_model(config, checkpoint, 447)
    assert not loaded.left
    assert all((tensor == 0.5).all() for tensor in model.state_dict().values() if tensor.is_floating_point())
    by_path = strong_stage.checkpoint_of(arch, str(tmp_path / checkpoint.file), trained=True)
    config = merged(config, {"strong_model": SEQUENCE})
    _, model, loaded = strong_stage.make_model(config, by_path, 447)
    assert {name.split(".")[0] for name in loaded.left} == {"seq_model", "strong_head", "weak_head"}
    with pytest.raises(ValueError, match=rf"{by_path.file} was trained for other classes than the 447 of {NAME}"):
        strong_stage.require_trained(by_path, loaded, {}, CLASSES)


def test_features_are_those_of_the_weights_also_later(runs, monkeypatch):
    """The published fPaSST knows other features than the defaults; so does what is trained from it."""
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(runs.folder))
    config = with_sections("fpasst")
    published_file(runs.folder, "fpasst", "fpasst_weak", strong_stage.make_model(config, None, 447)[1])
    assert config["passt_mel"]["fmax_aug_range"] != 2000
    open_ones = runs.without_settings("pretrained_name")
    tiny = {"arch": "fpasst", "fpasst": TINY["fpasst"], "trainer": {"limit_train_batches": 1}}
    open_ones.strong(**tiny)
    kept = runs.checkpoint()["config"]["passt_mel"]
    assert (kept["fmin_aug_range"], kept["fmax_aug_range"]) == (10, 2000)
    open_ones.without_settings("arch").strong("same", command="evaluate", pretrained_name=runs.last())
    assert runs.results("same") == runs.results()
    tiny["passt_mel"] = {"fmax_aug_range": 1000}
    open_ones.strong("asked", **tiny)
    assert runs.checkpoint("asked")["config"]["passt_mel"]["fmax_aug_range"] == 1000


def assert_backbone(stage1, runs):
    """The backbone of a stage-1 run, which does not train it, is that of the kept checkpoint."""
    prefixes = {"as_model.model.": stage1.checkpoint()["student"], "net_strong.model.": read(runs.kept)["state_dict"]}
    found, expected = (
        {name.removeprefix(prefix): tensor for name, tensor in sorted(state.items()) if name.startswith(prefix)}
        for prefix, state in prefixes.items()
    )
    assert len(expected) > 10
    assert_same(found, expected)


ONE_STEP = {"trainer": {"limit_train_batches": 1}, "validation": {"validate": False}, "test": {"test": False}}


def test_stage_one_starts_from_a_run(stage1, trained):
    stage1.run(arch="frame_mn01", frame_mn={"pretrained_name": str(trained.kept)}, **ONE_STEP)
    assert_backbone(stage1, trained)


def test_stage_one_starts_from_a_run_by_a_published_name(stage1, learned, monkeypatch):
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(learned.folder))
    stage1.run(arch="atst_frame", atst_frame=TINY["atst_frame"], **ONE_STEP)
    assert_backbone(stage1, learned)


# -- events of recordings ---------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(tmp_path))
    return Commands(tmp_path, capsys)


def that_hears(trained, path, label="Cat"):
    """A copy of the kept checkpoint, sure of one class and against all others."""
    content = read(trained.kept)
    bias = torch.full((len(CLASSES),), -8.0)
    bias[CLASSES.index(label)] = 8.0
    torch.save({**content, "state_dict": {**content["state_dict"], "net_strong.strong_head.bias": bias}}, path)
    return str(path)


@pytest.mark.parametrize("dataset", [NAME, None])
def test_events(trained, commands, dataset):
    """All that the file says about its network need not be said again."""
    file = that_hears(trained, commands.folder / "own.ckpt")
    audio = write_noise(commands.folder / "a.wav", 2.5, RATE)
    folders = {name: str(commands.folder / name) for name in ("plot", "labels", "scores")}
    options = {"audio_path": audio, "pretrained_name": file, "window_size": 1.0, "hop_length": 1.0}
    options |= {"dataset": dataset} if dataset else {}
    printed = commands("inference", out=str(commands.folder / "events.json"), **folders, **options)
    assert re.findall(r"threshold (\S+): 1 event$", printed, re.MULTILINE) == ["0.1", "0.2", "0.5"]
    assert re.search(r"^ +0\.00 +2\.50  Cat +1\.000  1\.000$", printed, re.MULTILINE)
    (found,) = json.loads((commands.folder / "events.json").read_text())["files"]
    assert {(event["onset"], event["offset"], event["event_label"]) for event in found["events"]} == {(0.0, 2.5, "Cat")}
    commands("inference", out=str(commands.folder / "events.csv"), **options)
    with open(commands.folder / "events.csv") as table_of_events:
        assert [row["event_label"] for row in csv.DictReader(table_of_events)] == ["Cat"] * 3
    assert (commands.folder / "plot" / "a.png").stat().st_size > 1000
    assert any("Cat" in path.read_text() for path in (commands.folder / "labels").iterdir())

    mel, model = build_strong("frame_mn01", n_classes=447, seq_len=25, **SEQUENCE)
    load_strong(model, checkpoint_of_run(file), "")
    waveform = torch.from_numpy(soundfile.read(audio, dtype="float32")[0])[None, :RATE]
    with torch.no_grad(), h5py.File(commands.folder / "scores" / "a.h5") as scores:
        expected = model.eval().predict(mel.eval()(waveform)).strong[0].T
        np.testing.assert_allclose(scores["scores"][:25], expected, atol=1e-5)
        assert scores["scores"].shape == (63, 447)


def test_published_weights_find_events(commands):
    torch.manual_seed(0)
    _, source, _ = strong_stage.make_model(with_sections("frame_mn06"), None, 447)
    checkpoint = published_file(commands.folder, "frame_mn06", "frame_mn06_strong_1", source)
    state = source.state_dict()
    state["strong_head.bias"] -= 8
    state["strong_head.bias"][CLASSES.index("Dog")] = 8
    torch.save(state, commands.folder / checkpoint.file)
    audio = write_noise(commands.folder / "a.wav", 1.0)
    printed = commands("inference", dataset=NAME, arch="frame_mn06", audio_path=audio, detection={"thresholds": [0.5]})
    assert re.search(r"^ +0\.00 +1\.00  Dog", printed, re.MULTILINE)
    assert printed.startswith("threshold 0.5: 1 event\n")


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tagger(commands):
    """A file of a run that tags clips."""
    _, net = build_tagger("mn01_as", {}, 2)
    config = {**config_of("folder"), "arch": "mn01_as"}
    path = commands.folder / "tagger.ckpt"
    torch.save({"tagger": net.state_dict(), "classes": ["a", "b"], "multi_label": False, "config": config}, path)
    return path


def test_a_tagger_finds_no_events(trained, commands, tagger):
    root = f"data.root={trained.folder / 'data'}"
    line = f"{tagger} holds a tagger, expected a frame-wise model: the checkpoint of a run on {NAME}"
    where = f"wandb.name=bad trainer.default_root_dir={commands.folder} trainer.accelerator=cpu".split()
    audio = f"audio_path={write_noise(commands.folder / 'a.wav')}"
    assert commands.error("inference", "with", NAME, f"pretrained_name={tagger}", audio) == line
    for command in (["evaluate"], []):
        assert commands.error(*command, "with", NAME, f"pretrained_name={tagger}", root, *where) == line


@pytest.mark.parametrize("command", ["train", "inference", "embed"])
def test_a_frame_wise_model_tags_nothing(trained, commands, command):
    (commands.folder / "data" / "a").mkdir(parents=True)
    for name in "abc":
        for number in range(3):
            write_noise(commands.folder / "data" / name / f"{number}.wav", 0.2)
    words = ["folder", f"pretrained_name={trained.kept}", f"data.root={commands.folder / 'data'}"]
    words += [f"audio_path={commands.folder / 'data'}", "trainer.accelerator=cpu"]
    words += [f"trainer.default_root_dir={commands.folder}"]
    line = commands.error(*([command] if command != "train" else []), "with", *words)
    assert line == f"{trained.kept} holds a frame-wise model of {NAME}, expected a tagger"


def test_other_classes_are_not_evaluated(trained, commands):
    content = read(trained.kept)
    other = commands.folder / "other.ckpt"
    names = ["Kat", *content["classes"][1:]]
    torch.save({**content, "classes": names}, other)
    words = [f"pretrained_name={other}", f"data.root={trained.folder / 'data'}", "trainer.accelerator=cpu"]
    line = commands.error("evaluate", "with", NAME, *words, f"trainer.default_root_dir={commands.folder}")
    assert line == f"{other}: class 0 is 'Kat', but '{CLASSES[0]}' in {NAME}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strong.mixup_p=2"], r"strong\.mixup_p is 2, expected a probability"),
        (["strong.distillation_loss_weight=0.5"], r"data\.teacher_preds is not set, expected the logits .*"),
        (["strong.median_window=0"], r"strong\.median_window is 0, expected frames, .*"),
        (["strong_model.head_type=None"], r"strong_model\.head_type is None, expected .*"),
        (["strong_model.seq_model_type=gru"], r"seq_model_type: 'gru' is none of 'rnn', None"),
        (["strong_optimizer.weight_decay=0.1"], r"strong_optimizer\.weight_decay is 0\.1, which needs .*adamw=True"),
        (["strong_head.rnn_dim=8"], r"unknown config key 'strong_head\.rnn_dim', did you mean .*"),
        (["pretrained_name=own", "arch=frame_mn06"], r".*frame_mn06_strong_1\.pt: no such weights file.*"),
        (["pretrained_name=ATST-F_strong_2"], r".*'ATST-F_strong_2' is no checkpoint of frame_mn01 .*"),
        (["data.root=none"], r"audioset_strong: no folder data\.root = none"),
        (["data.roll=True"], r"data\.roll would move the sounds .*"),
        (["ensemble=frame_mn06"], r"ensemble: several networks are not trained at once, expected one arch"),
    ],
)
def test_one_line_says_what_is_wrong(runs, commands, words, message):
    assert re.fullmatch(message, commands.error("with", NAME, *runs.words({}), *words))
    assert not list(runs.outputs.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("evaluate", ["ensemble=('frame_mn06', 'frame_mn10')"], rf"{NAME} takes one arch and backend=torch, leave .*"),
        ("evaluate", ["pretrained_name=None"], r"pretrained_name is None, expected the weights that are to be .*"),
        ("inference", ["backend=onnx"], rf"{NAME} takes one arch and backend=torch, leave .*"),
        ("inference", ["detection.thresholds=(0.5, 1)"], r"thresholds is \[0\.5, 1\], expected one number .*"),
        ("inference", ["window_size=0.05"], r"window_size is 0\.05 s, expected a multiple .*"),
        ("inference", ["strong_model.head_type=None"], r".*head_type=None, expected a model with a head .*"),
    ],
)
def test_commands_refuse(runs, commands, command, words, message):
    audio = f"audio_path={write_noise(commands.folder / 'a.wav')}"
    assert re.fullmatch(message, commands.error(command, "with", NAME, *runs.words({}), audio, *words))


def test_odd_clips(runs, caplog):
    """Corrupt, empty, very short, silent, many channels: counted or heard, and never a number that is none."""
    audio = runs.folder / "data" / "audio"
    (audio / "train" / "Ytrain000000.wav").write_bytes(b"RIFF" + bytes(300))
    (audio / "train" / "Ytrain000001.wav").write_bytes(b"")
    soundfile.write(audio / "train" / "Ytrain000002.wav", np.full(160, 0.1), RATE)  # 10 ms
    soundfile.write(audio / "train" / "Ytrain000003.wav", np.zeros(RATE), RATE)
    soundfile.write(audio / "train" / "Ytrain000004.wav", np.full((44100, 8), 0.1), 44100)
    (audio / "eval" / "Yeval0000000.wav").write_bytes(b"")
    soundfile.write(audio / "eval" / "Yeval0000001.wav", np.zeros(RATE), RATE)
    result = runs.strong()
    assert all(math.isfinite(value) for value in result.values())
    assert all(math.isfinite(values["train/loss"]) for values in runs.metrics().values())
    counted = [message for message in caplog.messages if "could not be read" in message]
    assert any("3 of 7 clips could not be read" in message for message in counted)
    assert any("1 of 4 clips could not be read" in message for message in counted)


def test_odd_recordings(trained, commands):
    sounds, out = commands.folder / "sounds", commands.folder / "events.json"
    file = that_hears(trained, commands.folder / "own.ckpt")
    sounds.mkdir()
    (sounds / "broken.wav").write_bytes(b"RIFF")
    (sounds / "empty.wav").write_bytes(b"")
    soundfile.write(sounds / "eight.flac", np.zeros((44100, 8)), 44100)
    soundfile.write(sounds / "short.wav", np.full(160, 0.1), RATE)
    commands("inference", audio_path=str(sounds), pretrained_name=file, window_size=1.0, out=str(out))
    content = json.loads(out.read_text())
    found = {Path(entry["file"]).name: entry["events"] for entry in content["files"]}
    assert [(event["onset"], event["offset"]) for event in found["eight.flac"]] == [(0.0, 1.0)] * 3
    assert all(event["peak_probability"] > 0.9 for event in found["eight.flac"])
    assert list(found) == ["eight.flac"]
    skipped = {Path(entry["file"]).name: entry["reason"] for entry in content["skipped"]}
    assert set(skipped) == {"broken.wav", "empty.wav", "short.wav"}
    assert "0.010 s long, expected at least" in skipped["short.wav"]


def test_random_weights_are_said_to_be(commands, caplog):
    audio = write_noise(commands.folder / "a.wav", 1.0)
    commands("inference", dataset=NAME, arch="frame_mn01", pretrained_name=None, audio_path=audio, window_size=1.0)
    assert "pretrained_name=None: frame_mn01 has random weights" in caplog.text
