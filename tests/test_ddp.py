"""Two processes on the CPU: disjoint clips, one set of outputs, the metrics of one process, an end by a signal."""

import json

import pytest

from helpers import runs

# Every rank writes down which clips it is given; rank zero gets a signal in its third batch when asked to.
RECORD = """
import json, os, signal
from pathlib import Path
from helpers.mean_teacher import MeanTeacher

rank, trained, tested, steps = os.environ.get("LOCAL_RANK", "0"), MeanTeacher.training_step, MeanTeacher.test_step, []


def record(kind, batch):
    with open(f"{kind}{rank}.jsonl", "a") as file:
        file.write(json.dumps([Path(name).name for name in batch["filename"]]) + "\\n")


def training_step(self, batch, number):
    record("train", batch)
    steps.append(number)
    if len(steps) == STOP_IN_BATCH and rank == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    return trained(self, batch, number)


def test_step(self, batch, number):
    record("test", batch)
    return tested(self, batch, number)


MeanTeacher.training_step, MeanTeacher.test_step = training_step, test_step
"""


TWICE_EACH = {"trainer": {"devices": 2, "max_epochs": 2}, "training": {"batch_sizes": [1, 1, 1, 1, 0]}}


def recorded(stage1, kind):
    """Batches of file names by rank."""
    files = [stage1.folder / f"{kind}{rank}.jsonl" for rank in range(2)]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_two_processes(stage1, monkeypatch):
    del stage1.config["seed"]  # it must reach the other rank, and the run that goes on
    options = TWICE_EACH | {"wandb": {"name": "ddp"}}
    stopped = stage1.process(code=RECORD.replace("STOP_IN_BATCH", "2"), **options)
    assert stopped.returncode == 143, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stage1.checkpoint("ddp")["global_step"] == 2
    seed = stage1.checkpoint("ddp")["config"]["seed"]

    continued = stage1.process("ckpt_path=last", code=RECORD.replace("STOP_IN_BATCH", "None"), **options)
    assert continued.returncode == 0, continued.stderr
    assert "recommended" not in continued.stderr
    assert stage1.checkpoint("ddp")["config"]["seed"] == seed
    assert stage1.checkpoint("ddp")["global_step"] == 6

    # An epoch gives each of the six synthetic clips to one of the ranks, also where it was interrupted.
    first, second = recorded(stage1, "train")
    assert len(first) == len(second) == 6
    epochs = [[clips[2] for clips in (*first[start : start + 3], *second[start : start + 3])] for start in (0, 3)]
    for clips in epochs:
        assert sorted(clips) == [f"synth_train_{i:02d}.wav" for i in range(6)]
    assert epochs[0] != epochs[1]
    tested = [{clip for batch in batches for clip in batch} for batches in recorded(stage1, "test")]
    assert not tested[0] & tested[1]
    assert len(tested[0] | tested[1]) == 24

    assert [folder.name for folder in (stage1.outputs / "tests").iterdir()] == ["ddp"]
    assert continued.stdout.count("tables, figures and checkpoints") == 1
    logged, results = stage1.metrics("ddp", "val/"), stage1.results("ddp")
    assert list(logged) == [2, 5]

    # One process finds the same metrics for the same weights.
    files = stage1.path("ddp") / "checkpoints"
    alone = {"training": {"train": False}}
    stage1.run(ckpt_path=str(files / "best.ckpt"), **alone)
    assert stage1.results("ddp") == pytest.approx(results, abs=1e-6)
    metrics = {}

    def validate(trainer, module, loaders, ckpt_path, **course):
        metrics.update(trainer.validate(module, datamodule=loaders, ckpt_path=ckpt_path, weights_only=True)[0])
        return {}

    monkeypatch.setattr(runs, "course", validate)
    stage1.run(ckpt_path=str(files / "last.ckpt"), **alone)
    assert metrics == pytest.approx(logged[5], abs=1e-6)
