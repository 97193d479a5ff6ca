"""ex_stage1 from end to end on a few seconds of noise: the public commands, its outputs, seeds, commands, options."""

import csv
import math
import shlex
from pathlib import Path

import pytest

import configs
import ex_stage1
import stages
from helpers import logger
from helpers.mean_teacher import MeanTeacher
from tests.reference import golden
from tests.runs import merged

ATST = """arch=atst_frame loss_weights="(0.5, 0.25, 0.12, 0.1, 0.1, 1.5)" trainer.max_epochs=200
optimizer.crnn_lr=0.0005 filter_augment.apply=0 mix_augment.apply_mixstyle=0 ssl_no_class_mask=1
wandb.name=s1.i2,atst"""
FPASST = """arch=fpasst loss_weights="(0.5, 0.25, 0.12, 0.1, 0.1, 1.5)" trainer.max_epochs=200
optimizer.crnn_lr=0.0005 filter_augment.apply=0 exclude_maestro_weak_ssl=1 t4_wrapper.embed_pool=int
t4_wrapper.interpolation_mode=nearest-exact mix_augment.apply_mixstyle=0 passt_mel.fmax_aug_range=2000
wandb.name=s1.i2,pfasst"""
BEATS = """arch=beats loss_weights="(0.5, 0.25, 0.08, 0.1, 0.1, 1.5)" trainer.max_epochs=200
optimizer.crnn_lr=0.0005 filter_augment.apply=0 t4_wrapper.no_wrapper=1 ssl_no_class_mask=1
trainer.accumulate_grad_batches=4 "training.batch_sizes=(3, 3, 3, 5, 5)" t4_wrapper.embed_pool=int
t4_wrapper.interpolation_mode=nearest-exact wandb.name=s1.i2,beats"""
MN = "arch=mn10_as wandb.name=mn10"

# What the lines leave to be set for time and place: short clips, shallow networks, one step.
SIZE = {
    ATST: ["atst_frame.depth=2", "training.batch_sizes=(2, 2, 2, 2, 2)"],
    FPASST: ["fpasst.depth=2", "training.batch_sizes=(2, 2, 2, 2, 2)"],
    BEATS: ["beats.encoder_layers=2"],
    MN: ["training.batch_sizes=(2, 2, 2, 2, 2)"],
}
MISSING = {
    ATST: ("atst_as_strong.ckpt", "python download_resources.py --only atst_as_strong"),
    FPASST: ("passt_as_strong.ckpt", "python download_resources.py --only passt_as_strong"),
    BEATS: ("beats_as.pt", "python download_resources.py --only beats_as"),
    MN: ("mn10_as_mAP_471.pt", "python download_resources.py --only mn10_as_mAP_471"),
}
lines = pytest.mark.parametrize("line", SIZE, ids=["atst", "fpasst", "beats", "mn10"])
NO_TEST = {"test": {"test": False}}
NO_EVALUATION = NO_TEST | {"validation": {"validate": False}}


@pytest.fixture
def line_of_issue(stage1, monkeypatch):
    """Function: exit status of a public command line on the synthetic data, which `demo` finds in place of its own."""
    for entry in ("t4_wrapper", "arch", "mn"):
        del stage1.config[entry]
    del stage1.config["training"]["batch_sizes"]
    paths = stage1.config["t4_paths"]
    monkeypatch.setattr(stages.demo_set, "make_demo", lambda folder, sources=None, seed=0: paths)
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(stage1.folder / "resources"))

    def run(line, *more):
        short = ("trainer.limit_train_batches=2", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1")
        return stage1.command(*more, *shlex.split(line), *SIZE[line], *short)

    return run


def assert_outputs(stage1, name, capsys):
    """Everything that a run leaves."""
    folder = stage1.path(name)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "model_summary.txt", "results.csv",
        "results.md", "psd_roc.png", "psds_by_class.png", "clips/devtest_00.png",
    }  # fmt: skip
    for file in files:
        assert (folder / file).stat().st_size > (1000 if file.endswith("png") else 0)
    expected = golden("sed/evaluation.json")
    with open(folder / "metrics.csv") as file:
        logged = set(next(csv.reader(file)))
    assert set(expected["validation"]) <= logged
    tested = set(expected["test"]) - {"test/tot_energy_kWh"}  # which not every machine can measure
    assert tested <= logged
    of_role = {tuple(name.split("/")[1:]) for name in tested}
    assert {(role, name.removeprefix("test/")) for role, name in stage1.results(name) if role != "untrained"} >= of_role
    shown = capsys.readouterr().out
    assert "student" in shown
    assert "PSDS1" in shown
    assert str(folder) in shown
    assert len(shown.splitlines()) < 15


@lines
def test_public_lines(line_of_issue, stage1, caplog, capsys, line):
    assert line_of_issue(line, "demo", "wandb.project=tests") == 0
    random = [record for record in caplog.records if "random" in record.getMessage()]
    assert [record.levelname for record in random] == ["WARNING"]
    for part in MISSING[line]:
        assert part in random[0].getMessage()
    name = shlex.split(line)[-1].removeprefix("wandb.name=")
    assert_outputs(stage1, name, capsys)
    assert ("untrained", "test/psds1_sed_scores_eval") in stage1.results(name)
    assert len(stage1.metrics(name)) == (1 if line == BEATS else 2)


@lines
def test_missing_weights_are_an_error_outside_the_demo(line_of_issue, stage1, capsys, line):
    capsys.readouterr()
    assert line_of_issue(line) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: {stage1.folder / 'resources' / 'pretrained_models'}")
    for part in MISSING[line]:
        assert part in message


def test_published_layout_of_checkpoints(stage1):
    """What later stages and other programs look for."""
    stage1.run(**NO_EVALUATION)
    content = stage1.checkpoint()
    assert content["config"]["arch"] == "mn01_as"
    assert content["config"]["seed"] == 1
    for role in ("student", "teacher"):
        prefix = f"{role}."
        inside = {name.removeprefix(prefix) for name in content["state_dict"] if name.startswith(prefix)}
        assert set(content[role]) == inside
    assert {name.split(".")[0] for name in content["state_dict"]} <= {"student", "teacher", "crnn_mel", "mel"}


# -- seeds and draws --------------------------------------------------------------------------------------------------


def test_seeds(stage1):
    stage1.run("first", **NO_EVALUATION)
    stage1.run("again", **NO_EVALUATION, training={"num_workers": 2})
    stage1.run("other", **NO_EVALUATION, seed=2)
    first, again, other = (stage1.metrics(name) for name in ("first", "again", "other"))
    assert len(first) == 5
    assert again == first
    for step, values in first.items():
        assert values["train/student/total_loss"] != other[step]["train/student/total_loss"]


@pytest.mark.parametrize(("reload", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_every_epoch_has_another_order(stage1, monkeypatch, reload, workers):
    clips = []
    step = MeanTeacher.training_step

    def recorded(self, batch, number):
        clips.append([Path(name).name for name in batch["filename"]])
        return step(self, batch, number)

    monkeypatch.setattr(MeanTeacher, "training_step", recorded)
    trainer = {"max_epochs": 3, "reload_dataloaders_every_epoch": reload}
    stage1.run(trainer=trainer, training={"num_workers": workers}, **NO_EVALUATION)
    epochs = [clips[start : start + 5] for start in (0, 5, 10)]
    for column in range(5):  # one clip of each source
        for epoch in epochs:
            assert len({batch[column] for batch in epoch}) == 5
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


# -- commands and options ---------------------------------------------------------------------------------------------


def test_cached_audio_gives_the_same_run(stage1, capsys, caplog):
    cache = {"t4_paths": {"audio_cache": str(stage1.folder / "cache")}}
    stage1.run("files", **NO_EVALUATION)
    stage1.run(command="cache_audio", **cache)
    assert list(stage1.folder.rglob("cache/16000/*.pcm"))
    stage1.run("cached", **cache, **NO_EVALUATION)
    assert any("audio is read from the cache" in message for message in caplog.messages)
    assert stage1.metrics("cached") == stage1.metrics("files")


def test_cache_needs_a_folder(stage1):
    with pytest.raises(ValueError, match=r"t4_paths.audio_cache is not set"):
        stage1.run(command="cache_audio")


def test_check_data(stage1, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    stage1.run(command="check_data")
    table = capsys.readouterr().out.splitlines()
    (row,) = (line for line in table if "synth_train" in line)
    assert "6 clips, the published set has 10000" in row
    (row,) = (line for line in table if "external_strong_val" in line)
    assert "ok" in row


def test_demo_can_be_configured(capsys):
    defaults = ex_stage1.ex.defaults()
    ex_stage1.ex.run("print_config", named_configs=["demo"], config_updates={"trainer": {"max_epochs": 3}})
    shown = capsys.readouterr().out
    assert "max_epochs = 3" in shown  # the command line wins
    assert "enabled = True" in shown
    assert f"batch_sizes = {list(defaults['training.batch_sizes'])}" not in shown


@pytest.mark.parametrize(
    "updates",
    [
        {"trainer": {"precision": "bf16-mixed"}},
        {"trainer": {"precision": "16-mixed"}},  # 32 bits on a CPU, which has no 16-bit floats
        {"optimizer": {"pt_trainable_layers": "all", "pt_lr": 1e-4, "schedule_mode": "linear"}},
        {"gain_augment": 7, "time_augment": {"apply_mask": 1, "apply_shift": 1}, "pseudo_strong_no_class_mask": True},
        {"training": {"batch_sizes": [0, 2, 1, 0, 2], "use_pseudo_labels": False, "wavmix_target": "all"}},
        {
            "compile": False,
            "loss_weights": [1, 1, 1, 1, 1, 1],
            "ssl_loss_warmup_steps": 0,
            "val_thresholds": [0.3, 0.5],
        },
        {"t4_wrapper": {"no_wrapper": True, "attention": False, "embed_pool": "int"}, "plots": 0},
    ],
)
def test_options(stage1, updates):
    result = stage1.run(**merged({"trainer": {"limit_train_batches": 2}}, updates))
    assert 0 <= result <= 1
    losses = [values["train/student/total_loss"] for values in stage1.metrics().values()]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)


def test_runs_of_one_name_have_folders_of_their_own(stage1):
    updates = {"trainer": {"limit_train_batches": 1}, **NO_EVALUATION}
    for _ in range(3):
        stage1.run("same", **updates)
    stage1.run("same-but-longer", **updates)
    folders = sorted((stage1.outputs / "tests").iterdir())
    assert len(folders) == 4
    newest = logger.last_checkpoint(stage1.outputs, "tests", "same")
    assert newest.parts[-3] != "same-but-longer"
    assert newest == max(
        (folder / "checkpoints" / "last.ckpt" for folder in folders if folder.name != "same-but-longer"),
        key=lambda path: path.stat().st_mtime,
    )
