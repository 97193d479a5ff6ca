"""Searches for hyper-parameters: spaces, trials that are shared, killed and pruned, tables, and runs by name."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from helpers import run_names, sweep_agent, sweeps
from helpers.callbacks import LastCheckpoint
from helpers.checkpoints import save
from helpers.ingredients import Scripted, Section
from helpers.locks import holding, is_held
from helpers.pruning import ReportValidation
from helpers.run_names import FREE, differences, resume_or_new
from helpers.sweep_report import Sweep, Trial, position, trials_csv
from helpers.sweep_space import all_keys, from_wandb, nested, read_space, to_wandb, with_changes
from helpers.sweep_study import Settings
from helpers.sweeps import Pruned, sweep

ROOT = Path(__file__).parents[1]
SPACE = {
    "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "model.dropout": {"type": "float", "low": 0.0, "high": 0.5, "also": ["model.last_dropout"]},
    "model.units": {"type": "int", "low": 16, "high": 64},
    "arch": {"type": "categorical", "choices": ["small", "large", None]},
}


def score(changes, report=None):
    """A landscape with its maximum, 1, at a learning rate of 0.001 without dropout."""
    return 1 - abs(math.log10(changes["optimizer.lr"]) + 3) / 4 - changes["model.dropout"]


def finished(found):
    """Values of the trials that are done, in the order in which they were begun."""
    return [(trial.state, trial.value, trial.params) for trial in found.trials if trial.state in ("complete", "pruned")]


# -- spaces -----------------------------------------------------------------------------------------------------------
def test_space_is_completed():
    found = read_space(
        {"lr": {"type": "float", "low": "1e-05", "high": "1e-3"}, "n": {"type": "int", "low": 1, "high": 9.0}}
    )
    assert found["lr"] == {"type": "float", "low": 1e-5, "high": 1e-3, "log": False}
    assert found["n"] == {"type": "int", "low": 1, "high": 9, "log": False}
    assert isinstance(found["n"]["high"], int)
    assert read_space(read_space(SPACE)) == read_space(SPACE)


def test_space_from_lists_and_files(tmp_path):
    listed = [{"key": key, **entry} for key, entry in SPACE.items()]
    (tmp_path / "räume und mehr.json").write_text(json.dumps(SPACE))
    (tmp_path / "space.yaml").write_text("- {key: lr, type: float, low: 1e-5, high: 1}\n")
    assert read_space(listed) == read_space(tmp_path / "räume und mehr.json") == read_space(SPACE)
    assert read_space(str(tmp_path / "space.yaml")) == {"lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": False}}


WRONG = {
    "type is 'real', expected one of float, int, categorical": {"type": "real", "low": 0, "high": 1},
    "type is 3, expected": 3,
    "low=2.0 and high=1.0, expected low below high": {"type": "float", "low": 2, "high": 1},
    "low is None, expected a number": {"type": "float", "high": 1},
    "high is 'much', expected a number": {"type": "float", "low": 0, "high": "much"},
    "high is inf, expected a number": {"type": "float", "low": 0, "high": float("inf")},
    "low is 1.5, expected a whole number": {"type": "int", "low": 1.5, "high": 3},
    "low is True, expected a whole number": {"type": "int", "low": True, "high": 3},
    "low=0.0, expected more than 0 on a logarithmic scale": {"type": "float", "low": 0, "high": 1, "log": True},
    "log is 'yes', expected true or false": {"type": "float", "low": 0, "high": 1, "log": "yes"},
    "choices is None, expected a list of values": {"type": "categorical"},
    "choices is \\[\\], expected a list of values": {"type": "categorical", "choices": []},
    "a choice stands twice": {"type": "categorical", "choices": [1, 2, 1]},
    "the choice \\[1\\] is no number": {"type": "categorical", "choices": [[1]]},
    "'choices' means nothing for type int": {"type": "int", "low": 1, "high": 2, "choices": [1]},
    "also is 'b', expected a list of config keys": {"type": "int", "low": 1, "high": 2, "also": "b"},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_entries_are_named(message):
    with pytest.raises(ValueError, match=f"^search space: a.b: {message}"[:200]) as caught:
        read_space({"a.b": WRONG[message]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing, expected config keys"),
        (3, "found int, expected config keys"),
        ([{"type": "int"}], "entry 0 is .*, expected 'key'"),
        ([{"key": "a", "type": "int", "low": 1, "high": 2}] * 2, "stands twice in the list"),
        ({"a": {"type": "int", "low": 1, "high": 2, "also": ["a"]}}, "a is named 2 times"),
        ({"optimiser.lr": {"type": "int", "low": 1, "high": 2}}, "unknown config key .*did you mean 'optimizer.lr'"),
    ],
)
def test_wrong_spaces_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        read_space(space, known=["a", "optimizer.lr"])


def test_wrong_files_of_spaces(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such file"):
        read_space(tmp_path / "nowhere.json")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(ValueError, match=r"broken\.yaml: no search space \(") as caught:
        read_space(tmp_path / "broken.yaml")
    assert "\n" not in str(caught.value)


def test_changes_reach_all_keys_of_a_config():
    changes = all_keys(read_space(SPACE), {"model.dropout": 0.3, "arch": None})
    assert changes == {"model.dropout": 0.3, "model.last_dropout": 0.3, "arch": None}
    config = {"model": {"dropout": 0.1, "last_dropout": 0.1, "units": 4}, "arch": "small"}
    assert with_changes(config, changes) == {
        "model": {"dropout": 0.3, "last_dropout": 0.3, "units": 4},
        "arch": None,
    }
    assert config["model"]["dropout"] == 0.1
    assert nested(changes) == {"model": {"dropout": 0.3, "last_dropout": 0.3}, "arch": None}
    for key in ("model.width", "arch.width", "nothing"):
        with pytest.raises(ValueError, match=f"the config has no entry '{key}'"):
            with_changes(config, {key: 1})


def test_published_wandb_space():
    parameters = {
        "AdamOptimizer-args-lr": {"distribution": "uniform", "min": "1e-05", "max": "1e-03"},
        "DualEncoderModel-audio_enc-fc_units": {"distribution": "int_uniform", "min": 256, "max": 2048},
        "DualEncoderModel-audio_enc-fc_dropout": {"distribution": "uniform", "min": 0.1, "max": 0.5},
        "DualEncoderModel-audio_enc-conv_fine_tune_from": {"values": [1, 2, 3, 4, 5, 6]},
        "DualEncoderModel-text_enc-fc_units": {"distribution": "int_uniform", "min": 256, "max": 2048},
    }
    names = {
        "AdamOptimizer-args-lr": "optimizer.lr",
        "DualEncoderModel-audio_enc-fc_units": "model.units",
        "DualEncoderModel-audio_enc-fc_dropout": ["model.dropout", "model.last_dropout"],
        "DualEncoderModel-audio_enc-conv_fine_tune_from": "model.freeze",
        "DualEncoderModel-text_enc-fc_units": None,
    }
    assert from_wandb(parameters, names) == {
        "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": False},
        "model.units": {"type": "int", "low": 256, "high": 2048, "log": False},
        "model.dropout": {"type": "float", "low": 0.1, "high": 0.5, "log": False, "also": ["model.last_dropout"]},
        "model.freeze": {"type": "categorical", "choices": [1, 2, 3, 4, 5, 6]},
    }
    with pytest.raises(ValueError, match="nothing here is called 'AdamOptimizer-args-lr'"):
        from_wandb(parameters, {"other": "x"})
    with pytest.raises(ValueError, match=r"wandb sweep: x is \{'distribution': 'beta'"):
        from_wandb({"x": {"distribution": "beta", "min": 0, "max": 1}})


def test_spaces_go_to_wandb_and_back():
    space = read_space({**SPACE, "steps": {"type": "int", "low": 1, "high": 1000, "log": True}})
    for entry in space.values():
        entry.pop("also", None)
    assert from_wandb(to_wandb(space)) == space


# -- studies ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def unplotted(monkeypatch):
    """Sweeps without tables and figures, which take longer than their trials."""
    monkeypatch.setattr(sweeps, "write_sweep", lambda *_: None)


SETTINGS = {"n_trials": 12, "startup_trials": 4, "pruner": None, "seed": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing stopped, and its file."""
    pytest.importorskip("optuna")
    path = tmp_path_factory.mktemp("whole") / "späte suche.db"
    return sweep(score, SPACE, path, **SETTINGS), path


def test_sweep_finds_and_stays_in_its_space(whole):
    found, _ = whole
    assert [trial.number for trial in found.trials] == list(range(12))
    assert {trial.state for trial in found.trials} == {"complete"}
    for trial in found.trials:
        assert trial.value == score(trial.params)
        assert 1e-5 <= trial.params["optimizer.lr"] <= 1e-1
        assert isinstance(trial.params["model.units"], int)
        assert 16 <= trial.params["model.units"] <= 64
        assert trial.params["arch"] in ("small", "large", None)
    assert found.best.value == max(trial.value for trial in found.trials)
    assert found.best_changes["model.last_dropout"] == found.best.params["model.dropout"]
    assert set(found.importances) == set(SPACE)
    assert sum(found.importances.values()) == pytest.approx(1)


def test_sweep_writes_tables_figures_and_a_config(whole):
    found, path = whole
    folder = path.with_suffix("")
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [float(row["val/mAP@10"]) for row in rows] == [trial.value for trial in found.trials]
    assert [float(row["optimizer.lr"]) for row in rows] == [trial.params["optimizer.lr"] for trial in found.trials]
    for name in ("history", "parallel", "importances"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    best = json.loads((folder / "best.json").read_text())
    assert best["model"] == {key.removeprefix("model."): v for key, v in found.best_changes.items() if "model." in key}
    ex = Scripted(
        "tried", [Section("optimizer", {"lr": 0.1}), Section("model", {"dropout": 0, "last_dropout": 0, "units": 0})]
    )
    ex.add_config(arch="small")
    ex.main(lambda _config: _config)
    config = ex.run(named_configs=[str(folder / "best.json")]).result
    assert config["optimizer"]["lr"] == found.best.params["optimizer.lr"]
    assert config["arch"] == found.best.params["arch"]


def test_finished_sweep_is_not_repeated(whole, unplotted):
    found, path = whole

    def never(changes, report):
        raise AssertionError("a trial was repeated")

    assert finished(sweep(never, SPACE, path, **SETTINGS)) == finished(found)
    longer = sweep(score, SPACE, path, **{**SETTINGS, "n_trials": 13})
    assert finished(longer)[:12] == finished(found)
    assert len(finished(longer)) == 13


def test_seeds_and_samplers(tmp_path, whole, unplotted):
    same = sweep(score, SPACE, tmp_path / "same.db", **{**SETTINGS, "n_trials": 7})
    assert finished(same) == finished(whole[0])[:7]
    for sampler in ("random", "gp"):
        other = sweep(score, SPACE, tmp_path / f"{sampler}.db", **{**SETTINGS, "sampler": sampler, "n_trials": 6})
        assert len({trial.params["optimizer.lr"] for trial in other.trials}) == 6
    other = sweep(score, SPACE, tmp_path / "other.db", **{**SETTINGS, "seed": 4, "n_trials": 2})
    assert finished(other) != finished(whole[0])[:2]


def test_less_can_be_better(tmp_path, unplotted):
    pytest.importorskip("optuna")
    settings = {**SETTINGS, "direction": "minimize", "metric": "val/loss", "n_trials": 5}
    found = sweep(score, SPACE, tmp_path / "loss.db", **settings)
    assert found.best.value == min(trial.value for trial in found.trials)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"direction": "minimize"}, "was begun with another direction: 'maximize', here it is 'minimize'"),
        ({"metric": "val/R@1"}, "was begun with another metric: 'val/mAP@10'"),
        (
            {"space": {**SPACE, "model.units": {"type": "int", "low": 8, "high": 64}}},
            "another space.model.units.low: 16",
        ),
        ({"space": {"arch": SPACE["arch"]}}, "another space.optimizer.lr.type: 'float', here it is None"),
    ],
)
def test_studies_are_not_mixed(whole, changed, message):
    settings = {"space": SPACE, **SETTINGS, **changed}
    with pytest.raises(ValueError, match=message):
        sweep(score, settings.pop("space"), whole[1], **settings)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"direction": "up"}, "sweep.direction is 'up', expected one of maximize, minimize"),
        ({"sampler": "grid"}, "sweep.sampler is 'grid', expected one of tpe, gp, random"),
        ({"pruner": "mean"}, "sweep.pruner is 'mean', expected one of median, hyperband, None"),
        ({"backend": "ray"}, "sweep.backend is 'ray', expected one of optuna, wandb"),
        ({"n_trials": -1}, "sweep.n_trials is -1, expected a whole number from 0 on"),
        ({"max_failures": 0}, "sweep.max_failures is 0, expected a whole number from 1 on"),
    ],
)
def test_wrong_settings(tmp_path, entry, message):
    with pytest.raises(ValueError, match=message):
        sweep(score, SPACE, tmp_path / "study.db", **entry)


def test_wrong_files_of_studies(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    (tmp_path / "notes.db").write_text("no study at all, but text")
    with pytest.raises(ValueError, match=r"notes\.db is no SQLite file"):
        sweep(score, SPACE, tmp_path / "notes.db")
    with pytest.raises(ValueError, match="expected the name of a file with a suffix"):
        sweep(score, SPACE, tmp_path / "study")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a trial of a sweep trains in one process"):
        sweep(score, SPACE, tmp_path / "study.db")


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match="a sweep needs the package optuna: python -m pip install optuna"):
        sweep(score, SPACE, tmp_path / "study.db")


def test_failures_are_noted_and_end_the_sweep_in_a_row(tmp_path, unplotted):
    pytest.importorskip("optuna")
    begun = []

    def fails(changes, report):
        begun.append(changes)
        if len(begun) % 2:
            return float("nan") if len(begun) % 4 == 1 else 1 / 0
        return score(changes)

    found = sweep(fails, SPACE, tmp_path / "study.db", **{**SETTINGS, "n_trials": 3})
    assert [trial.state for trial in found.trials] == ["failed", "complete"] * 3
    assert found.trials[0].error.startswith("ValueError: val/mAP@10 is nan for")
    assert found.trials[2].error == "ZeroDivisionError: division by zero"
    begun.clear()

    def breaks(changes, report):
        begun.append(changes)
        raise FileNotFoundError("data.root: no such folder")

    with pytest.raises(FileNotFoundError, match=r"data\.root: no such folder"):
        sweep(breaks, SPACE, tmp_path / "study.db", **{**SETTINGS, "n_trials": 9, "max_failures": 2})
    assert len(begun) == 2


# -- pruning ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_bad_trials_are_pruned(tmp_path, pruner, unplotted):
    pytest.importorskip("optuna")
    last = {}

    def train(changes, report):
        for step in range(6):
            last[report.name] = step
            report(step, score(changes) * (step + 1) / 6)
        return score(changes)

    settings = {"n_trials": 12, "startup_trials": 3, "warmup_steps": 2, "max_steps": 6, "pruner": pruner}
    found = sweep(train, SPACE, tmp_path / "study.db", **settings)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert len(finished(found)) == 12
    assert 0 < len(pruned) < 10
    for trial in found.trials:
        steps = last[f"trial{trial.number}"]
        assert sorted(trial.steps) == list(range(steps + 1))
        assert (steps < 5) == (trial.state == "pruned")
    for trial in pruned:
        assert trial.value == trial.steps[max(trial.steps)]
        assert max(trial.steps) >= 1
    values = [trial.value for trial in found.trials if trial.state == "complete"]
    assert np.mean([score(trial.params) for trial in pruned]) < np.mean(values)


class Line(L.LightningModule):
    """One number, whose validation values are given."""

    def __init__(self, values):
        super().__init__()
        self.weight, self.values = torch.nn.Parameter(torch.zeros(1)), values

    def training_step(self, batch, batch_idx):
        return (self.weight - 1).square().sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/score", torch.tensor(self.values[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, report, metric="val/score", values=(0.1, 0.2, 0.3, 0.4)):
    loader = DataLoader(torch.zeros(2, 1))
    trainer = L.Trainer(
        max_epochs=len(values), accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder,
        callbacks=[LastCheckpoint(folder), ReportValidation(report, metric)],
    )  # fmt: skip
    trainer.fit(Line(values), loader, loader)
    return trainer


def test_training_reports_every_epoch_and_stops_when_pruned(tmp_path):
    told, before = [], signal.getsignal(signal.SIGTERM)
    fit(tmp_path, lambda *pair: told.append(pair))
    assert told == [(0, pytest.approx(0.1)), (1, pytest.approx(0.2)), (2, pytest.approx(0.3)), (3, pytest.approx(0.4))]
    told.clear()

    def prune(step, value):
        told.append(step)
        if step == 1:
            raise Pruned("below the others")

    with pytest.raises(Pruned, match="below the others"):
        fit(tmp_path, prune)
    assert told == [0, 1]
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ValueError, match="the validation gives no 'val/mAP@10', expected one of val/score"):
        fit(tmp_path, prune, metric="val/mAP@10")


def test_trials_train_in_one_process():
    callback = ReportValidation(print, "val/score")
    with pytest.raises(ValueError, match=r"trains in one process, found 2: set trainer\.devices=1"):
        callback.on_fit_start(types.SimpleNamespace(world_size=2), None)


# -- several processes ------------------------------------------------------------------------------------------------
SCRIPT = """
import json, math, os, sys, time
from pathlib import Path
from helpers.sweeps import sweep

folder, mode, space, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])

def run(changes, report):
    with open(folder / "begun", "a") as file:
        file.write(f"{os.getpid()} {report.name}\\n")
    begun = (folder / "begun").read_text().splitlines()
    if mode == "stuck" and len(begun) == 6:
        report(0, 0.5)
        time.sleep(600)
    while mode == "both" and len({line.split()[0] for line in begun}) < 2:
        time.sleep(0.01)
        begun = (folder / "begun").read_text().splitlines()
    return 1 - abs(math.log10(changes["optimizer.lr"]) + 3) / 4 - changes["model.dropout"]

sweep(run, space, folder / "study.db", **settings)
"""


def start(folder, mode):
    command = [sys.executable, "-c", SCRIPT, str(folder), mode, json.dumps(SPACE), json.dumps(SETTINGS)]
    return subprocess.Popen(command, cwd=ROOT)


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def begun_in(folder):
    file = folder / "begun"
    return file.read_text().splitlines() if file.is_file() else []


def test_killed_sweep_goes_on_as_if_nothing_had_been(tmp_path, whole, unplotted):
    process = start(tmp_path, "stuck")
    wait_for(lambda: len(begun_in(tmp_path)) == 6, process)
    worker = next((tmp_path / "study" / ".running").iterdir())
    assert is_held(worker)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    names = []

    def run(changes, report):
        names.append(report.name)
        return score(changes, report)

    found = sweep(run, SPACE, tmp_path / "study.db", **SETTINGS)
    assert names == ["trial5", "trial7", "trial8", "trial9", "trial10", "trial11", "trial12"]
    assert [trial.state for trial in found.trials] == ["complete"] * 5 + ["killed"] + ["complete"] * 7
    assert found.trials[6].redo_of == 5
    assert found.trials[6].params == found.trials[5].params
    assert finished(found) == finished(whole[0])[:12]
    assert not list((tmp_path / "study" / ".running").iterdir())


def test_processes_share_a_study(tmp_path):
    pytest.importorskip("optuna")
    processes = [start(tmp_path, "both") for _ in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    lines = [line.split() for line in begun_in(tmp_path)]
    found = sweep(score, SPACE, tmp_path / "study.db", **SETTINGS)
    assert sorted(name for _, name in lines) == sorted(f"trial{number}" for number in range(12))
    assert {pid for pid, _ in lines} == {str(process.pid) for process in processes}
    assert len({trial.params["optimizer.lr"] for trial in found.trials}) == 12
    assert {trial.state for trial in found.trials} == {"complete"}
    rows = list(csv.DictReader((tmp_path / "study" / "trials.csv").open()))
    assert len({row["worker"] for row in rows}) == 2


def test_stopped_trials_are_taken_up_and_killers_given_up(tmp_path, unplotted):
    optuna = pytest.importorskip("optuna")
    settings = {**SETTINGS, "n_trials": 2}

    def stops(changes, report):
        raise KeyboardInterrupt

    for _ in range(4):  # a user may do that as often as they like
        with pytest.raises(KeyboardInterrupt):
            sweep(stops, SPACE, tmp_path / "study.db", **settings)
    found = sweep(score, SPACE, tmp_path / "study.db", **settings)
    assert [trial.state for trial in found.trials] == ["killed"] * 4 + ["complete"] * 2
    assert len({str(trial.params) for trial in found.trials[:5]}) == 1
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'study.db'}")
    for attempt in range(4):  # as a process leaves it that dies in mid-trial
        if attempt:
            last = study.trials[-1]
            history = {"redo_of": last.number, "first": 6, "attempt": attempt + 1}
            study.enqueue_trial(last.params, user_attrs=history)
        study.ask().set_user_attr("worker", "a process of the past")
        if attempt == 2:
            found = sweep(score, SPACE, tmp_path / "study.db", **{**settings, "n_trials": 3})
            break
    assert [trial.state for trial in found.trials[6:]] == ["killed"] * 3 + ["complete"]
    assert found.trials[9].redo_of is None


def test_locks_end_with_their_process(tmp_path):
    code = """if True:
        import sys, time
        from helpers.locks import holding
        with holding(sys.argv[1]):
            print(1, flush=True)
            time.sleep(600)"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"1\n"
    with holding(tmp_path / "lock") as ours:
        assert not ours
    assert is_held(tmp_path / "lock")
    process.kill()
    process.communicate()
    assert not is_held(tmp_path / "lock")
    with holding(tmp_path / "lock") as ours:
        assert ours
    assert not (tmp_path / "lock").exists()


# -- tables -----------------------------------------------------------------------------------------------------------
def test_ranks_and_table_of_all_states():
    trials = [
        Trial(0, "complete", 0.2, {"a": 1}, 2.0, {0: 0.1, 1: 0.2}, worker="host-1"),
        Trial(1, "pruned", 0.05, {"a": 2}, 1.0, {0: 0.05}),
        Trial(2, "failed", None, {"a": 3}, 1.0, error='ValueError: no, "never"'),
        Trial(3, "killed", None, {}),
        Trial(4, "complete", 0.2, {"a": 4}, redo_of=3),
        Trial(5, "complete", 0.3, {"a": 5}),
    ]
    found = Sweep(trials, {"a": {"type": "int", "low": 1, "high": 5, "log": False}}, "val/loss", False)
    assert [trial.number for trial in found.ranked()] == [0, 4, 5]
    rows = list(csv.reader(trials_csv(found).splitlines()))
    assert rows[0] == ["trial", "state", "val/loss", "a", "seconds", "steps", "redo of", "worker", "error"]
    assert rows[1] == ["0", "complete", "0.2", "1", "2.000", "2", "", "host-1", ""]
    assert rows[3] == ["2", "failed", "", "3", "1.000", "0", "", "", 'ValueError: no, "never"']
    assert rows[4] == ["3", "killed", "", "", "", "0", "", "", ""]
    assert rows[5][6] == "3"


def test_positions_on_the_axes():
    space = read_space(SPACE)
    assert position(space["optimizer.lr"], 1e-3) == pytest.approx(0.5)
    assert position(space["model.units"], 40) == 0.5
    assert [position(space["arch"], choice) for choice in ("small", "large", None)] == [0, 0.5, 1]
    assert np.isnan(position(space["model.units"], None))
    mixed = {"type": "categorical", "choices": [0, False]}
    assert [position(mixed, choice) for choice in (0, False)] == [0, 1]


# -- wandb ------------------------------------------------------------------------------------------------------------
class FakeWandb(types.ModuleType):
    """What the agent uses of wandb, with two trials."""

    def __init__(self):
        super().__init__("wandb")
        self.sweeps, self.logged, self.trials = [], [], [0.001, 0.1]

    def sweep(self, configuration, project):
        self.sweeps.append((configuration, project))
        return "abc"

    def agent(self, sweep_id, function, project):
        assert (sweep_id, project) == ("abc", "audio_retrieval")
        for rate in self.trials:
            self.rate = rate
            function()

    def init(self):
        return self

    def __enter__(self):
        config = {"optimizer.lr": self.rate, "model.dropout": 0.0, "model.units": 16, "arch": None}
        return types.SimpleNamespace(id=f"run{self.rate}", config=config, log=self.logged.append)

    def __exit__(self, *_):
        return False


def test_agent_of_a_wandb_sweep(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(sweep_agent, "logged_in", lambda: True)

    def run(changes, report):
        report(0, 0.1)
        return score(changes)

    settings = {"backend": "wandb", "n_trials": 2, "pruner": "hyperband", "warmup_steps": 4}
    for _ in range(2):  # the second takes part in the sweep of the first
        found = sweep(run, SPACE, tmp_path / "study.db", **settings)
    ((configuration, project),) = fake.sweeps
    assert project == "audio_retrieval"
    assert configuration == {
        "method": "bayes",
        "metric": {"name": "val/mAP@10", "goal": "maximize"},
        "parameters": to_wandb(read_space(SPACE)),
        "run_cap": 2,
        "early_terminate": {"type": "hyperband", "min_iter": 4},
    }
    assert [trial.value for trial in found.trials] == [1.0, 0.5]
    assert fake.logged[:2] == [{"val/mAP@10": 0.1}, {"val/mAP@10": 1.0}]
    assert found.best_changes["model.last_dropout"] == 0.0
    with pytest.raises(ValueError, match="the sweep was begun with run_cap=2, here it is 5"):
        sweep(run, SPACE, tmp_path / "study.db", **{**settings, "n_trials": 5})


def test_wandb_needs_an_account(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    monkeypatch.setattr(sweep_agent, "logged_in", lambda: False)
    with pytest.raises(ValueError, match=r"sweep\.backend=wandb needs an account: run 'wandb login'"):
        sweep(score, SPACE, tmp_path / "study.db", backend="wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"sweep\.backend=wandb needs the package wandb"):
        sweep(score, SPACE, tmp_path / "study.db", backend="wandb")


# -- runs by name -----------------------------------------------------------------------------------------------------
CONFIG = {
    "seed": 1, "ckpt_path": None, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}, "wandb": {"name": "base", "tags": []},
    "trainer": {"max_epochs": 5, "precision": "32-true"}, "data": {"num_workers": 2, "batch_size": 8},
}  # fmt: skip


def test_differences_of_configs():
    now = {**CONFIG, "optimizer": {"lr": 0.2, "betas": [0.9, 0.99], "new": 1}, "wandb": {"name": "x"}}
    assert [str(found) for found in differences(CONFIG, now, FREE)] == ["optimizer.lr was 0.1 and is 0.2"]
    assert [found.key for found in differences(CONFIG, now)] == ["optimizer.lr", "wandb.name"]


def checkpoint_of(folder, config, when):
    path = folder / "checkpoints" / "last.ckpt"
    save(path, {"config": config, "state_dict": {"w": torch.zeros(1)}})
    os.utime(path, (when, when))
    return path


def test_second_start_continues_the_first(tmp_path):
    def again(config=CONFIG, **options):
        return resume_or_new(tmp_path, "clotho", "base", config, **options)

    assert again() is None
    checkpoint_of(tmp_path / "clotho" / "base", CONFIG, 1000)
    newest = checkpoint_of(tmp_path / "clotho" / "base-20240101-120000", CONFIG, 2000)
    checkpoint_of(tmp_path / "clotho" / "base2", CONFIG, 3000)
    assert again() == newest
    free = {
        **CONFIG,
        "seed": 2,
        "trainer": {"max_epochs": 9, "precision": "32-true"},
        "wandb": {"name": "base", "tags": [1]},
    }
    assert again(free) == newest
    with pytest.raises(ValueError, match="run 'base' was begun with another config: seed was 1 and is 2; take another"):
        again(free, given=["seed"])
    changed = {**CONFIG, "optimizer": {"lr": 0.2, "betas": [0.9, 0.9]}}
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.1 and is 0\.2 \(and 1 more\)") as caught:
        again(changed)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"the run has no name, expected one, such as wandb\.name=baseline"):
        run_names.resume_or_new(tmp_path, "clotho", None, CONFIG)


def test_settings_are_plain_defaults():
    section = Section("sweep", Settings)
    assert section.entries["n_trials"] == 100
    assert section.entries["metric"] == "val/mAP@10"
