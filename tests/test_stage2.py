"""ex_stage2 from end to end on a few seconds of noise: fine-tuning from stage 1, what trains, seeds, resuming."""

import numpy as np
import pytest
import torch

import stages
from data_util.task4_files import DATASETS
from helpers.mean_teacher import MeanTeacher
from helpers.predictions import StoredPredictions

NO_TEST = {"test": {"test": False}}
SHORT = NO_TEST | {"validation": {"validate": False}}


@pytest.fixture
def from_stage1(stage1, stage2):
    """Entries that start stage 2 from a checkpoint of stage 1, and that checkpoint."""
    stage1.run("first", **SHORT)
    path = stage1.path("first") / "checkpoints" / "last.ckpt"
    return {"t4_wrapper": {"model_init_id": str(path)}}, torch.load(path, weights_only=True)


def tensors(checkpoint, role, part):
    return {name: value for name, value in checkpoint[role].items() if name.startswith(part)}


def test_models_start_as_those_of_stage_1(from_stage1, stage2, monkeypatch):
    entries, before = from_stage1
    seen = {}

    def remember(module):
        seen.update(student=dict(module.student.state_dict()), teacher=dict(module.teacher.state_dict()))
        seen.update({role: {k: v.clone() for k, v in seen[role].items()} for role in seen})

    monkeypatch.setattr(MeanTeacher, "on_fit_start", remember)
    stage2.run(**SHORT, **entries)
    for role in ("student", "teacher"):
        assert all(torch.equal(before[role][name].cpu(), value) for name, value in seen[role].items())
    # The EMA of several steps and one student differ, so the two entries were not mixed up.
    assert not torch.equal(seen["student"]["dense.weight"], seen["teacher"]["dense.weight"])


def test_the_transformer_is_fine_tuned(from_stage1, stage2):
    entries, before = from_stage1
    stage2.run(**SHORT, **entries, optimizer={"pt_lr": 1e-3, "num_warmup_steps": 0})
    after = stage2.checkpoint()
    for part in ("as_model.model.features", "cnn", "rnn"):
        weights = tensors(before, "student", part)
        changed = [n for n, value in weights.items() if not torch.equal(value, after["student"][n])]
        assert changed, part
    # The head around the transformer keeps its values, as published.
    for name, value in tensors(before, "student", "as_model.head_linear_layer").items():
        assert torch.equal(value, after["student"][name])


def test_rates_of_the_layers(stage2):
    stage2.run(**SHORT, optimizer={"pt_lr": 1e-3, "pt_lr_scale": 0.5, "num_warmup_steps": 0, "schedule_mode": "exp"})
    logged = stage2.metrics()[0]
    assert logged["train/cnn_lr"] == pytest.approx(1e-4)
    assert logged["train/rnn_lr"] == pytest.approx(1e-3)
    rates = [logged[f"train/pt{i}_lr"] for i in range(3)]
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])
    assert logged["train/pt_lr"] == rates[0]


def test_interpolation_is_logged_when_clips_were_mixed(stage2):
    stage2.run(**SHORT, mix_augment={"mixup_p": 1.0}, ssl_loss_warmup_steps=1)
    names = {name for values in stage2.metrics().values() for name in values}
    assert any("ict" in name for name in names), sorted(names)
    stage2.run("plain", **SHORT, mix_augment={"mixup_p": 0.0}, ssl_loss_warmup_steps=1)
    names = {name for values in stage2.metrics("plain").values() for name in values}
    assert not any("ict" in name for name in names)


def test_resuming_gives_the_same_run(stage2, task4_tree, tmp_path, monkeypatch):
    options = {"trainer": {"max_epochs": 2}, "mix_augment": {"mixup_p": 1.0}, **NO_TEST}
    stage2.run("whole", **options)
    step = MeanTeacher.training_step

    def stop_in_the_second_epoch(self, *arguments):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MeanTeacher, "training_step", stop_in_the_second_epoch)
        with pytest.raises(SystemExit):
            stage2.run("ended", **options)
    stage2.run("ended", ckpt_path="last", **options)
    expected, found = stage2.checkpoint("whole"), stage2.checkpoint("ended")
    assert found["global_step"] == expected["global_step"] > 1
    for name, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][name]), name


def test_gradient_checkpointing_changes_nothing_but_memory(stage2, monkeypatch):
    """The same losses and weights, with activations computed again in the backward pass."""
    for on in (False, True):
        stage2.run(str(on), **SHORT, grad_checkpointing=on, trainer={"max_epochs": 1})
    off, on = stage2.checkpoint("False"), stage2.checkpoint("True")
    for name, value in off["student"].items():
        torch.testing.assert_close(value, on["student"][name], rtol=1e-4, atol=1e-6)
    assert on["config"]["grad_checkpointing"]


@pytest.mark.parametrize("trainable", [2, "all"])
def test_two_devices_need_no_search_for_unused_parameters(stage2, trainable):
    """Parameters that never get a gradient are frozen before the processes share theirs."""
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    options = {**SHORT, "trainer": trainer, "optimizer": {"pt_trainable_layers": trainable}}
    ended = stage2.process("wandb.name=two", **options)
    assert ended.returncode == 0, ended.stderr
    assert stage2.checkpoint("two")["global_step"] > 1


def test_whole_course(stage2):
    result = stage2.run(trainer={"max_epochs": 1})
    assert result == stage2.results()["student", "test/psds1_sed_scores_eval"]


def test_a_checkpoint_is_kept_under_a_name(stage1, stage2, monkeypatch):
    """``save_as`` gives what ``t4_wrapper.model_init_id`` takes, and never replaces a file that is not from a run."""
    monkeypatch.setattr(stages.configs, "RESOURCES_PATH", str(stage1.folder))
    monkeypatch.setattr(stages.configs, "PRETRAINED", str(stage1.folder / "pretrained_models"))
    stage1.run("first", save_as="mine", **NO_TEST)
    kept = torch.load(stage1.folder / "pretrained_models" / "mine.ckpt", weights_only=True)
    assert "optimizer_states" not in kept
    best = stage1.checkpoint("first", "best")
    assert all(torch.equal(kept["teacher"][name], value) for name, value in best["teacher"].items())
    stage2.run(**SHORT, t4_wrapper={"model_init_id": "mine"}, save_as="mine")
    again = torch.load(stage1.folder / "pretrained_models" / "mine.ckpt", weights_only=True)
    assert not torch.equal(again["student"]["cat_tf.weight"], kept["student"]["cat_tf.weight"])
    del again["config"]
    torch.save(again, stage1.folder / "pretrained_models" / "mine.ckpt")
    with pytest.raises(ValueError, match=r"mine\.ckpt is there already and not from a run"):
        stage2.run(**SHORT, save_as="mine")


# -- stored predictions -----------------------------------------------------------------------------------------------
@pytest.fixture
def trained(stage1, tmp_path, monkeypatch):
    """A folder with two checkpoints of tiny runs, ``one.ckpt`` and ``two.ckpt``."""
    monkeypatch.setattr(stages.configs, "PRETRAINED", str(tmp_path / "models"))
    for seed, name in enumerate(("one", "two")):
        stage1.run(name, save_as=name, seed=seed, **SHORT)
    return tmp_path / "models"


def test_store_ensemble_evaluate(trained, stage2, capsys):
    folder = stage2.folder / "predictions"
    entries = {
        "model_path": str(trained), "output_path": str(folder), "preds_path": str(folder), "batch_size": 4,
        "bootstrap": 5,
    }  # fmt: skip
    for name in ("one", "two"):
        stage2.run(command="store_predictions", pretrained_name=name, **entries)
    stage2.run(command="ensemble_predictions", pretrained_names=["one", "two"], out_name="both", **entries)
    both, one, two = (StoredPredictions(folder / name / "devtest.hdf5") for name in ("both", "one", "two"))
    expected = (one.logits(slice(None)) + two.logits(slice(None))) / 2
    assert np.allclose(both.logits(slice(None)), expected, atol=1e-6)
    assert {path.stem for path in (folder / "both").iterdir()} == set(DATASETS)
    capsys.readouterr()
    stage2.run(command="eval_predictions", pretrained_name="both", **entries)
    lines = capsys.readouterr().out.splitlines()
    printed = [line.rpartition(":")[0] for line in lines if ": 0." in line or line.endswith((": 0", ": 1.0"))]
    assert printed[:6] == [
        "maestro_real_dev mpAUC", "maestro_real_dev mpAUC_csebbs (should be the same)", "devtest psds1",
        "devtest psds1_csebbs", "eval_public psds1", "eval_public psds1_csebbs",
    ]  # fmt: skip


def test_two_devices_store_the_same_bytes(trained, stage2):
    entries = {"model_path": str(trained), "batch_size": 4, "datasets": ["devtest", "maestro_real_dev"]}
    for name, devices in (("one", 1), ("two", 2)):
        trainer = {"accelerator": "cpu", "devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
        output = {"output_path": str(stage2.folder / name), "pretrained_name": "one", "trainer": trainer}
        ended = stage2.process(command=["store_predictions"], **entries, **output)
        assert ended.returncode == 0, ended.stderr
    for dataset in entries["datasets"]:
        one, two = (stage2.folder / name / "one" / f"{dataset}.hdf5" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_killed_and_continued_by_the_same_command(trained, stage2):
    """What was stored before a kill is not computed again; random moments are those of test_storing."""
    code = """
import os, signal
from helpers.predictions import Partial

put, allowed = Partial.put, int(os.environ["BATCHES"])
calls = []


def counted(self, number, rows):
    if len(calls) == allowed:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(number)
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{self.path.stem} {number}\\n")
    put(self, number, rows)


Partial.put = counted
"""
    entries = {"model_path": str(trained), "pretrained_name": "one", "batch_size": 2}
    entries["datasets"] = ["devtest", "maestro_real_dev"]
    calls = stage2.folder / "calls.txt"
    environment = {"CALLS": str(calls)}

    def run(output, batches):
        options = {**entries, "output_path": str(stage2.folder / output)}
        return stage2.process(
            command=["store_predictions"], code=code, environment={**environment, "BATCHES": str(batches)}, **options
        )

    assert run("whole", 99).returncode == 0
    done = calls.read_text().split("\n")[:-1]
    assert len(done) == 9  # 6 clips and 12, two in a batch
    calls.unlink()
    for batches in (1, 4):
        assert run("killed", batches).returncode == -9
    assert run("killed", 99).returncode == 0
    assert sorted(calls.read_text().split("\n")[:-1]) == sorted(done)
    for dataset in entries["datasets"]:
        whole, killed = (stage2.folder / name / "one" / f"{dataset}.hdf5" for name in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()
