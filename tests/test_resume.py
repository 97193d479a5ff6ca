"""Runs that are stopped and go on: what follows equals an uninterrupted run."""

import os
import signal

import lightning as L
import pytest
import torch

from helpers.ingredients import keyword_defaults
from helpers.mean_teacher import MeanTeacher
from helpers.runs import make_trainer
from tests.runs import StageRuns, assert_same, merged

STEPS = 5  # of an epoch


def options(accumulate=1, workers=0, every=1):
    trainer = {"accumulate_grad_batches": accumulate, "last_every_n_steps": every, "max_epochs": 2}
    return {"trainer": trainer, "training": {"num_workers": workers}, "test": {"test": False}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, task4_tree):
    """Accumulated batches -> a run that nothing stops."""
    torch.set_num_threads(1)
    runs = StageRuns(tmp_path_factory.mktemp("uninterrupted"), *task4_tree)
    for accumulate in (1, 2):
        runs.run(str(accumulate), **options(accumulate))
        assert len(runs.metrics(str(accumulate))) == 2 * -(-STEPS // accumulate)
    return runs


def assert_continued(stage1, uninterrupted, accumulate=1, name="ended"):
    """The continued run is the uninterrupted one, in what it logged and in its checkpoints."""
    whole = str(accumulate)
    for prefix in ("train/", "val/"):
        expected, logged = uninterrupted.metrics(whole, prefix), stage1.metrics(name, prefix)
        assert list(logged) == list(expected)
        for step, values in expected.items():
            assert_same(values, logged[step], f"{prefix} step {step}")
    for file in ("last", "best"):
        first, second = uninterrupted.checkpoint(whole, file), stage1.checkpoint(name, file)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert_same(first[key], second[key], f"{file} {key}")


def in_batch(monkeypatch, number, act):
    """Does something in a training batch, counted over epochs from 1."""
    seen = []
    original = MeanTeacher.training_step

    def step(self, *arguments):
        seen.append(arguments[-1])
        if len(seen) == number:
            act()
        return original(self, *arguments)

    monkeypatch.setattr(MeanTeacher, "training_step", step)


def send(number, times=1):
    for _ in range(times):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "batch", "accumulate", "workers"),
    [
        (signal.SIGTERM, 2, 1, 0),
        (signal.SIGINT, 7, 1, 2),
        (signal.SIGTERM, 5, 1, 0),  # the last batch of an epoch, whose validation must not be left out
        (signal.SIGTERM, 3, 2, 2),  # halfway to an optimizer step
    ],
)
def test_stopped_by_a_signal(stage1, uninterrupted, monkeypatch, number, batch, accumulate, workers):
    with monkeypatch.context() as patch:
        in_batch(patch, batch, lambda: send(number))
        with pytest.raises(SystemExit) as exit:
            stage1.run("ended", **options(accumulate, workers, every=100))
    assert exit.value.code == 128 + number
    stage1.run("ended", ckpt_path="last", **options(accumulate, workers, every=100))
    assert_continued(stage1, uninterrupted, accumulate)


def fail():
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("batch", "every", "act", "error"),
    [
        (6, 0, fail, RuntimeError),  # the first of an epoch
        (9, 3, lambda: send(signal.SIGINT, times=2), SystemExit),  # two steps after the last save
    ],
)
def test_ended_in_mid_step(stage1, uninterrupted, monkeypatch, batch, every, act, error):
    with monkeypatch.context() as patch:
        in_batch(patch, batch, act)
        with pytest.raises(error):
            stage1.run("ended", **options(every=every))
    stage1.run("ended", ckpt_path="last", **options())
    assert_continued(stage1, uninterrupted)


END = """
import os, signal, subprocess
from helpers.mean_teacher import MeanTeacher

original, batches = MeanTeacher.training_step, []


def step(self, *arguments):
    batches.append(arguments)
    if len(batches) == {batch}:
        # from another process, as it comes in life: workers obey the SIGTERM of the process that trains
        subprocess.Popen(["kill", f"-{{signal.{name}:d}}", "--", f"{send}{{os.getpid()}}"]).wait()
    return original(self, *arguments)


MeanTeacher.training_step = step
"""


@pytest.mark.parametrize(
    ("number", "send", "batch", "status", "step"),
    [
        (signal.SIGKILL, "", 8, -9, 6),
        (signal.SIGINT, "-", 3, 130, 3),  # a terminal sends it to the processes that load data, too
        (signal.SIGTERM, "-", 7, 143, 7),  # as job schedulers do
    ],
)
def test_processes(stage1, uninterrupted, number, send, batch, status, step):
    """What a shell sees of a run that ends early; the next one goes on from the last save, as if nothing happened."""
    code = END.format(batch=batch, send=send, name=number.name)
    ended = stage1.process("wandb.name=ended", code=code, **options(workers=2, every=3 if number == 9 else 0))
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    assert stage1.checkpoint("ended")["global_step"] == step
    stage1.run("ended", ckpt_path="last", **options(workers=2))
    assert_continued(stage1, uninterrupted)


def test_checkpoints_bring_their_settings(stage1):
    """Whoever tests a checkpoint, or goes on from it, need not repeat what its networks are."""
    stage1.run("first", arch="mn02_as", mn_mel={"n_mels": 64}, test_untrained=False)
    for entry in ("arch", "t4_wrapper"):
        del stage1.config[entry]
    results, file = stage1.results("first"), stage1.path("first") / "checkpoints" / "best.ckpt"
    (stage1.path("first") / "results.csv").unlink()
    stage1.run(ckpt_path=str(file), training={"train": False})
    assert stage1.results("first") == results
    stage1.run("first", ckpt_path="last", trainer={"max_epochs": 2})
    assert stage1.checkpoint("first")["config"]["arch"] == "mn02_as"
    assert len(stage1.metrics("first")) == 2 * STEPS


def test_finished(stage1):
    """To go on from the end is to test again."""
    stage1.run("finished")
    results, last = stage1.results("finished"), stage1.checkpoint("finished")
    stage1.run("finished", ckpt_path="last")
    assert stage1.results("finished") == results
    assert_same(stage1.checkpoint("finished")["state_dict"], last["state_dict"])
    assert len(stage1.metrics("finished")) == STEPS


def test_goes_on_from_the_best_checkpoint(stage1, uninterrupted):
    """It is written after the validation of its epoch, which is not done again."""
    stage1.run("first", **merged(options(), {"trainer": {"max_epochs": 1}}))
    best = stage1.path("first") / "checkpoints" / "best.ckpt"
    stage1.run(ckpt_path=str(best), **options())
    assert_continued(stage1, uninterrupted, name="first")


class Scored(L.LightningModule):
    """Its validation has the score of its epoch, from a list; a signal may come in the last batch of an epoch."""

    headline = ("val/mAP", "max")

    def __init__(self, scores, ends_in=None):
        super().__init__()
        self.layer, self.scores, self.ends_in = torch.nn.Linear(1, 1), scores, ends_in

    def training_step(self, batch, batch_idx):
        if batch_idx == 1 and self.current_epoch == self.ends_in:
            send(signal.SIGTERM)
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/mAP", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("ends_in", [None, 1], ids=["finished", "by a signal"])
def test_the_best_checkpoint_is_known_after_the_end(tmp_path, ends_in):
    """A run that goes on with a worse epoch keeps the best of before."""
    clips = torch.utils.data.DataLoader(torch.ones(2, 1))
    files = tmp_path / "checkpoints"

    def fit(module, epochs, ckpt_path=None):
        entries = {"max_epochs": epochs, "accelerator": "cpu", "enable_progress_bar": False}
        entries = {**keyword_defaults(L.Trainer), "num_sanity_val_steps": 0, **entries}
        trainer = make_trainer(entries, tmp_path, [], module.headline)
        trainer.fit(module, clips, clips, ckpt_path=ckpt_path, weights_only=False)
        return torch.load(files / "best.ckpt", weights_only=False)["epoch"]

    scores = [0.1, 0.9, 0.5]
    if ends_in is None:
        assert fit(Scored(scores), 2) == 1
    else:
        with pytest.raises(SystemExit):
            fit(Scored(scores, ends_in), 3)
    assert fit(Scored(scores), 3, files / "last.ckpt") == 1
