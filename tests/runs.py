"""Small runs of the experiments: in this process where that will do, else in one of their own."""

import contextlib
import csv
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sacred.utils import iterate_flattened

import ex_stage1
import ex_stage2
from tests.synthetic import tiny_stage

ROOT = Path(__file__).parents[1]


EXPERIMENTS = {"ex_stage1": ex_stage1.ex, "ex_stage2": ex_stage2.ex}


class Runs:
    """Runs with a common small configuration.

    Args:
        folder: for outputs and whatever else a run writes.
        ex: the experiment.
    """

    def __init__(self, folder, ex):
        self.folder, self.outputs = Path(folder), Path(folder) / "outputs"
        self.ex, self.script, self.config = ex, ex.path, {}

    def file(self, **updates):
        """A config file for the command line: the common configuration with changes (sections may be partial)."""
        config = merged(self.config, updates)
        path = self.folder / "config.json"
        path.write_text(json.dumps(config))
        return str(path)

    def run(self, name="run", command=None, named=(), **updates):
        """A run in this process; its result."""
        updates = merged({"wandb": {"name": name}}, updates)
        with leaving_no_trace():
            run = self.ex.run(command, config_updates=merged(self.config, updates), named_configs=named)
        return run.result

    def command(self, *arguments, command=(), **updates):
        """A run in this process as the command line would start it; the exit status."""
        with leaving_no_trace():
            try:
                self.ex.run_commandline([self.script, *command, "with", self.file(**updates), *arguments])
            except SystemExit as exit:
                return exit.code
        return 0

    def process(self, *arguments, code=None, command=(), environment=None, **updates):
        """A run in a process, and process group, of its own; with ``code``, which is executed first there."""
        start = ["-m", self.script]
        if code:
            script = self.folder / "script.py"
            script.write_text(f"{code}\n\nimport {self.script}\n\n{self.script}.ex.run_commandline()\n")
            start = [str(script)]
        return subprocess.run(
            [sys.executable, *start, *command, "with", self.file(**updates), *arguments],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
            capture_output=True, text=True, timeout=180, start_new_session=True,
        )  # fmt: skip

    def path(self, name="run"):
        """The folder of the run of that name."""
        return self.outputs / "tests" / name

    def checkpoint(self, name="run", file="last"):
        """Contents of a checkpoint."""
        return torch.load(self.path(name) / "checkpoints" / f"{file}.ckpt", weights_only=True)

    def metrics(self, name="run", prefix="train/"):
        """Step -> logged values by name."""
        with open(self.path(name) / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        found = {}
        for row in rows:
            values = {key: float(value) for key, value in row.items() if value and key.startswith(prefix)}
            if values:
                found.setdefault(int(row["step"]), {}).update(values)
        return found

    def results(self, name="run"):
        """(system, metric) -> value of the table of results."""
        with open(self.path(name) / "results.csv") as file:
            return {(row["system"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


class StageRuns(Runs):
    """Runs of a stage on the synthetic data.

    Args:
        folder: see :class:`Runs`.
        paths: ``t4_paths`` of the data.
        seconds: of a clip.
        script: ``ex_stage1`` or ``ex_stage2``.
    """

    def __init__(self, folder, paths, seconds, script="ex_stage1"):
        super().__init__(folder, EXPERIMENTS[script])
        self.config = tiny_stage(paths, seconds, self.outputs, script == "ex_stage2")


class NamedRuns(Runs):
    """Runs of an experiment with named configs: the small configuration stands on the command line, after them.

    Args:
        folder, ex: see :class:`Runs`.
        **config: beside the trainer's.
    """

    def __init__(self, folder, ex, **config):
        super().__init__(folder, ex)
        trainer = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "default_root_dir": str(self.outputs),
            "enable_progress_bar": False,
        }
        self.config = {"trainer": trainer, "wandb": {"project": "tests"}, "seed": 1, **config}

    def words(self, updates):
        """The configuration as words of a command line, where it counts more than named configs."""
        return [f"{name}={value!r}" for name, value in iterate_flattened(merged(self.config, updates))]

    def command(self, *arguments, command=()):
        return super().command(*self.words({}), *arguments, command=command)

    def process(self, *arguments, code=None, command=(), **updates):
        return super().process(*self.words(updates), *arguments, code=code, command=command)


def assert_same(left, right, path=""):
    """Equality of nested containers, tensors bit by bit."""
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for i, pair in enumerate(zip(left, right)):
            assert_same(*pair, f"{path}/{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    else:
        assert left == right, path


def assert_goes_on(runs, start, module, batch, monkeypatch):
    """A run that a signal ends in a training batch, counted over epochs, and that goes on equals one without an end.

    Args:
        runs: :class:`NamedRuns`.
        start: callable (name, **updates) that starts a run.
        module: class whose ``training_step`` is interrupted.
        batch: number, from 1.
        monkeypatch: the fixture.
    """
    start("whole")
    step, seen = module.training_step, []

    def stop(self, *arguments):
        seen.append(arguments)
        if len(seen) == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", stop)
        with pytest.raises(SystemExit):
            start("ended")
    assert len(seen) == batch
    start("ended", ckpt_path="last")
    for prefix in ("train/", "val/"):
        assert runs.metrics("ended", prefix) == runs.metrics("whole", prefix)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same(runs.checkpoint("ended")[key], runs.checkpoint("whole")[key], key)
    assert runs.results("ended") == runs.results("whole")


def merged(config, updates):
    """A config with changes, sections entry by entry."""
    result = dict(config)
    for key, value in updates.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


@contextlib.contextmanager
def leaving_no_trace():
    """Restores what a run changes in the process: log handlers, environment, signal handlers."""
    root = logging.getLogger()
    handlers, level, environment = root.handlers, root.level, dict(os.environ)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in signals.items():
            signal.signal(number, handler)
