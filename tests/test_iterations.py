"""Two iterations of the published system by its command lines, with shallow networks on a few seconds of noise."""

import re
import shlex

import pytest
import torch

import configs
import stages
from data_util.task4_files import DATASETS
from helpers.predictions import StoredPredictions
from tests.runs import StageRuns

ATST = """arch=atst_frame trainer.accumulate_grad_batches=8 loss_weights="(12, 3, 0.25, 1, 60, 0)"
t4_wrapper.model_init_id=atst_stage1 optimizer.pt_lr_scale=0.5 optimizer.cnn_lr=1e-5 optimizer.rnn_lr=1e-4
freq_warp.include_maestro=1 optimizer.adamw=1 optimizer.weight_decay=1e-3 wandb.name=s2.i2,atst"""
FPASST = """arch=fpasst trainer.accumulate_grad_batches=8 loss_weights="(12, 3, 0.25, 1, 60, 0)"
t4_wrapper.model_init_id=passt_stage1 freq_warp.apply=0 optimizer.adamw=1 optimizer.weight_decay=1e-3
passt_mel.fmin_aug_range=1 passt_mel.fmax_aug_range=2000 optimizer.cnn_lr=5e-5 optimizer.rnn_lr=5e-4
exclude_maestro_weak_ssl=1 t4_wrapper.embed_pool=int t4_wrapper.interpolation_mode=nearest-exact
wandb.name=s2.i2,passt"""
BEATS = """arch=beats loss_weights="(12, 3, 0.25, 1, 60, 0)" trainer.accumulate_grad_batches=36
"training.batch_sizes=(3, 2, 2, 3, 3)" t4_wrapper.model_init_id=beats_stage1 freq_warp.include_maestro=1
optimizer.adamw=1 optimizer.weight_decay=1e-3 t4_wrapper.no_wrapper=1 optimizer.cnn_lr=5e-5 optimizer.rnn_lr=5e-4
t4_wrapper.embed_pool=int t4_wrapper.interpolation_mode=nearest-exact exclude_maestro_weak_ssl=1
wandb.name=s2.i2,beats"""
STORE = {
    "atst": "arch=atst_frame t4_wrapper.model_init_id=atst_stage2",
    "passt": "arch=fpasst pretrained_name=passt_stage2",
    "beats": "arch=beats t4_wrapper.no_wrapper=1 pretrained_name=beats_stage2",
}
# Shallow networks, short batches.
SIZE = {"atst": "atst_frame.depth=2", "passt": "fpasst.depth=2", "beats": "beats.encoder_layers=2"}
# What the command line of stage 1 says about the network.
NETWORK = {
    "atst": "arch=atst_frame",
    "passt": "arch=fpasst t4_wrapper.embed_pool=int t4_wrapper.interpolation_mode=nearest-exact "
    "passt_mel.fmax_aug_range=2000",
    "beats": "arch=beats t4_wrapper.no_wrapper=1 t4_wrapper.embed_pool=int t4_wrapper.interpolation_mode=nearest-exact",
}
SHORT = ("trainer.limit_train_batches=2", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1")


@pytest.fixture
def command(tmp_path, task4_tree, monkeypatch, _same_threads):
    """Function: a command line of a script with `demo`, which finds the synthetic data in place of its own."""
    torch.set_num_threads(1)
    paths, _ = task4_tree
    runs = {script: StageRuns(tmp_path, *task4_tree, script=script) for script in ("ex_stage1", "ex_stage2")}
    for of_script in runs.values():
        for entry in ("t4_wrapper", "arch", "mn"):
            del of_script.config[entry]
        del of_script.config["training"]["batch_sizes"]
    monkeypatch.setattr(stages.demo_set, "make_demo", lambda folder, sources=None, seed=0: paths)
    for name, folder in (("RESOURCES_PATH", ""), ("PRETRAINED", "/models"), ("PREDICTIONS", "/predictions")):
        monkeypatch.setattr(configs, name, f"{tmp_path}/resources{folder}")

    def run(script, line, *more, command=()):
        return runs[script].command("demo", *shlex.split(line), *more, command=command)

    run.runs, run.resources = runs, tmp_path / "resources"
    return run


def test_two_iterations(command, capsys):
    for name, line in {"atst": ATST, "passt": FPASST, "beats": BEATS}.items():
        size, clips = [SIZE[name], *SHORT], ["training.batch_sizes=(2, 2, 2, 2, 2)"]
        untested = ("test.test=False", "test_untrained=False")
        assert command("ex_stage1", NETWORK[name], *size, *clips, *untested, f"save_as={name}_stage1") == 0
        clips = [] if name == "beats" else clips  # its line has sizes of its own
        assert command("ex_stage2", line, *size, *clips, *untested, f"save_as={name}_stage2") == 0
        assert command("ex_stage2", STORE[name], "batch_size=5", command=["store_predictions"]) == 0
    store = command.resources / "predictions"
    for name in STORE:
        assert {path.stem for path in (store / f"{name}_stage2").iterdir()} == set(DATASETS)

    line = """pretrained_names='("atst_stage2", "passt_stage2", "beats_stage2")' out_name="ensemble_3" """
    assert command("ex_stage2", line, command=["ensemble_predictions"]) == 0
    members = [StoredPredictions(store / f"{name}_stage2" / "devtest.hdf5").logits(slice(None)) for name in STORE]
    mean = StoredPredictions(store / "ensemble_3" / "devtest.hdf5").logits(slice(None))
    assert abs(mean - sum(members) / 3).max() < 1e-5
    assert abs(members[0] - members[1]).max() > 1e-3

    capsys.readouterr()
    line = 'arch=atst_frame pretrained_name="ensemble_3" bootstrap=5'
    assert command("ex_stage2", line, command=["eval_predictions"]) == 0
    printed = capsys.readouterr().out
    for name in ("maestro_real_dev mpAUC", "devtest psds1", "devtest psds1_csebbs", "eval_public psds1_csebbs"):
        assert re.search(rf"^{name}: \d\.\d+$", printed, re.MULTILINE), name

    # Iteration 2: the ensemble's predictions are the pseudo-labels. A set that is not there says that they are read.
    labels = f"t4_paths.pseudo_labels={store}/ensemble_3/{{}}.hdf5"
    size = [SIZE["atst"], *SHORT, "training.batch_sizes=(2, 2, 2, 2, 2)", "test_untrained=False"]
    assert command("ex_stage1", NETWORK["atst"], labels, *size, "save_as=atst_stage1_i2") == 0
    (store / "ensemble_3" / "weak_train.hdf5").unlink()
    assert command("ex_stage1", NETWORK["atst"], labels, *size) == 1
    assert f"no pseudo-labels t4_paths.pseudo_labels = {store}/ensemble_3/weak_train" in capsys.readouterr().err


def test_settings_of_a_checkpoint_are_used_unless_others_are_given(command, caplog):
    size = [SIZE["passt"], *SHORT, "training.batch_sizes=(2, 2, 2, 2, 2)", "test.test=False", "test_untrained=False"]
    assert command("ex_stage1", NETWORK["passt"], *size, "save_as=mine") == 0
    entries = ("pretrained_name=mine", 'datasets=("devtest",)', "batch_size=5")
    with caplog.at_level("INFO"):
        assert command("ex_stage2", "arch=fpasst", *entries, command=["store_predictions"]) == 0
        assert any("t4_wrapper.embed_pool='int' of mine.ckpt" in message for message in caplog.messages)
        caplog.clear()
        given = ("t4_wrapper.embed_pool=aap", "out_name=other")
        assert command("ex_stage2", "arch=fpasst", *entries, *given, command=["store_predictions"]) == 0
        assert any("t4_wrapper.embed_pool='aap' as given" in message for message in caplog.messages)
    store = command.resources / "predictions"
    ours, others = (StoredPredictions(store / name / "devtest.hdf5").logits(slice(None)) for name in ("mine", "other"))
    assert abs(ours - others).max() > 1e-4


def test_mistakes(command, capsys):
    size = [SIZE["atst"], *SHORT, "training.batch_sizes=(2, 2, 2, 2, 2)", "test.test=False", "test_untrained=False"]
    assert command("ex_stage1", NETWORK["atst"], *size, "save_as=mine") == 0
    path = command.resources / "models" / "mine.ckpt"
    capsys.readouterr()
    mistakes = {
        "arch=beats pretrained_name=mine": f"{path} is for arch=atst_frame, but arch=beats is asked for",
        "pretrained_name=none": "python download_resources.py --only none",
        "pretrained_name=mine mode=mean": "mode: 'mean', expected 'student' or 'teacher'",
        f"pretrained_name={path}": f"out_name is not set, expected a name for the predictions of {path}",
        "pretrained_name=mine datasets=nowhere": "'nowhere' is neither a folder nor a data set",
    }
    for line, expected in mistakes.items():
        assert command("ex_stage2", line, command=["store_predictions"]) == 1, line
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), error
        assert expected in error
    assert not (command.resources / "predictions").exists()
