"""Published configuration files of the retrieval baseline behind ``with``: their entries here, and what is refused."""

import copy

import pytest
import yaml

import ex_clotho
from helpers.baseline_configs import converted, is_published, sweep_space
from helpers.ingredients import plain
from helpers.run_names import flattened
from helpers.sweep_space import read_space
from tests.runs import leaving_no_trace, merged

PARTS = {"train_data": "development", "val_data": "validation", "eval_data": "evaluation"}
LATER = {
    "data_conf": {
        part: {
            "dataset": "./data/Clotho", "audio_data": f"{split}_audio_logmels.hdf5", "text_data": f"{split}_text.csv",
            "text_embeds": "sbert_embeds.pkl", "text_level": "sentence",
        }
        for part, split in PARTS.items()
    },
    "param_conf": {
        "num_epoch": 100, "batch_size": 32, "model": "DualEncoderModel", "criterion": "infonce_loss",
        "optimizer": "AdamOptimizer", "lr_scheduler": "ReduceLROnPlateau", "early_stopper": "EarlyStopping",
    },
    "DualEncoderModel": {
        "name": "DualEncoderModel",
        "out_norm": "L2",
        "audio_enc": {
            "name": "CNN14Encoder", "init": "prior", "weight": "./weights/CNN14_300.pth", "fc_dropout": 0.3,
            "conv_dropout": 0.15, "fc_units": 1457, "conv_fine_tune_from": 4, "out_dim": 256,
        },
        "text_enc": {"name": "SentBERTBaseEncoder", "fc_units": 512, "init": "prior", "out_dim": 256},
    },
    "criteria": {"infonce_loss": {"name": "LogSoftmaxLoss", "args": {"temperature": 0.08, "dist": "dot_product"}}},
    "AdamOptimizer": {"name": "Adam", "args": {"lr": 2e-05, "weight_decay": 0.0}},
    "ReduceLROnPlateau": {
        "name": "ReduceLROnPlateau",
        "args": {"mode": "min", "factor": 0.2, "patience": 4, "threshold": 0.004, "threshold_mode": "abs",
                 "min_lr": 1e-07, "verbose": True},
    },
    "EarlyStopping": {"name": "EarlyStopping", "args": {"patience": 10, "min_delta": 0.001}},
    "wandb_conf": {"project": "best-param-runs"},
}  # fmt: skip
FIRST = {
    **{key: value for key, value in LATER.items() if key not in ("wandb_conf", "EarlyStopping")},
    "param_conf": {key: value for key, value in LATER["param_conf"].items() if key != "early_stopper"},
    "trial_series": "series",
    "trial_base": "trials",
    "ray_conf": {"init_args": {"num_cpus": 1}, "trial_stopper": "TrialPlateauStopper"},
    "DualEncoderModel": {
        "name": "DualEncoderModel",
        "out_norm": "L2",
        "audio_enc": {"name": "CNN14Encoder", "init": "prior", "weight": "w.pth", "trainable": False, "out_dim": 300},
        "text_enc": {"name": "SentBERTBaseEncoder", "init": "prior", "out_dim": 300},
    },
}


def written(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


def config_of(*named, **updates):
    with leaving_no_trace():
        return dict(flattened(plain(ex_clotho.ex._create_run("print_config", updates, named).config)))


def test_file_of_2024(tmp_path, caplog):
    path = tmp_path / "cap 0 conf.yaml"
    path.write_text(yaml.safe_dump(LATER).replace("2.0e-05", "2e-05"))  # which YAML reads as text
    config = config_of(str(path))
    assert {"optimizer.lr", "pretrained_name", "data.captions"} <= ex_clotho.ex.given
    assert {key: value for key, value in config.items() if value != config_of().get(key) and key != "seed"} == {
        "data.dataset": "./data/Clotho", "data.captions": "one", "trainer.max_epochs": 100,
        "pretrained_name": "./weights/CNN14_300.pth", "cnn14_clotho.fc_dropout": 0.3,
        "cnn14_clotho.last_dropout": 0.3, "cnn14_clotho.dropout": 0.15, "cnn14_clotho.projection": 1457,
        "model.dim": 256, "model.temperature": 0.08, "optimizer.lr": 2e-5, "optimizer.factor": 0.2,
        "optimizer.patience": 4, "optimizer.threshold": 0.004, "optimizer.min_lr": 1e-7,
        "wandb.project": "best-param-runs",
    }  # fmt: skip
    changed = config_of(str(path), optimizer={"lr": 0.5}, arch="mn10_as")
    assert (changed["optimizer.lr"], changed["arch"], changed["optimizer.factor"]) == (0.5, "mn10_as", 0.2)
    best = config_of(str(path), "best")
    assert (best["optimizer.lr"], best["model.dim"]) == (0.0008146651275669621, 256)


def test_file_of_2023(tmp_path):
    config = config_of(written(tmp_path / "conf.yaml", FIRST))
    assert (config["trainer.default_root_dir"], config["wandb.project"]) == ("trials", "series")
    assert (config["data.captions"], config["model.freeze"], config["pretrained_name"]) == ("all", "all", "w.pth")
    assert config["cnn14_clotho.projection"] is None
    entries, left = converted(FIRST)
    assert {"ray_conf", "ReduceLROnPlateau.args.verbose", "data_conf.val_data.text_embeds"} <= set(left)
    assert set(dict(flattened(entries))) <= ex_clotho.ex.known_keys()
    random = merged(FIRST, {"DualEncoderModel": {"audio_enc": {"init": None}}})
    assert converted(random)[0]["pretrained_name"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"param_conf": {"num_epochs": 3}},
         "unknown key 'param_conf.num_epochs', did you mean 'param_conf.num_epoch'?"),
        ({"param_conf": {"criterion": "triplet"}}, "param_conf.criterion is 'triplet', expected 'infonce_loss'"),
        ({"data_conf": {"val_data": {"dataset": "other"}}},
         "data_conf.val_data.dataset is 'other', expected './data/Clotho' as data_conf.train_data.dataset"),
        ({"data_conf": {"val_data": {"text_level": "word"}}}, "text_level is 'word', expected 'sentence'"),
        ({"DualEncoderModel": {"text_enc": {"out_dim": 3}}},
         "text_enc.out_dim is 3, expected 256 as DualEncoderModel.audio_enc.out_dim"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, capfd, changes, message):
    path = written(tmp_path / "old.yaml", merged(copy.deepcopy(LATER), changes))
    with leaving_no_trace(), pytest.raises(SystemExit) as exit:
        ex_clotho.ex.run_commandline(["ex_clotho", "print_config", "with", path])
    assert exit.value.code == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {path}: ")
    assert line.endswith(message)


def test_other_files(tmp_path, capfd):
    own = written(tmp_path / "own.yaml", {"optimizer": {"lr": 0.25}})
    assert config_of(own)["optimizer.lr"] == 0.25
    assert not is_published({"optimizer": {}})
    assert not is_published([1])
    (tmp_path / "broken.yaml").write_text("a: [1")
    with leaving_no_trace(), pytest.raises(SystemExit):
        ex_clotho.ex.run_commandline(["ex_clotho", "print_config", "with", str(tmp_path / "broken.yaml")])
    assert f"error: {tmp_path / 'broken.yaml'}: not readable as YAML" in capfd.readouterr().err


def test_published_sweeps(tmp_path, caplog):
    parameters = {
        "AdamOptimizer-args-lr": {"distribution": "uniform", "min": "1e-05", "max": "1e-03"},
        "DualEncoderModel-audio_enc-fc_dropout": {"distribution": "uniform", "min": 0.1, "max": 0.5},
        "DualEncoderModel-audio_enc-conv_fine_tune_from": {"values": [1, 2, 6]},
        "DualEncoderModel-text_enc-fc_units": {"distribution": "int_uniform", "min": 256, "max": 2048},
        "criteria-infonce_loss-args-temperature": {"distribution": "uniform", "min": 0.03, "max": 0.1},
    }
    path = written(
        tmp_path / "sweep.yaml", {"program": "main_wandb_new.py", "method": "bayes", "parameters": parameters}
    )
    space = read_space(sweep_space(path), ex_clotho.ex.known_keys())
    assert space["optimizer.lr"] == {"type": "float", "low": 1e-5, "high": 1e-3, "log": False}
    assert space["cnn14_clotho.fc_dropout"]["also"] == ["cnn14_clotho.last_dropout"]
    assert space["model.freeze"]["choices"] == [0, 2, 6]
    assert list(space)[-1] == "model.temperature"
    parameters = {"DualEncoderModel-audio_enc-conv_fine_tune_from": {"values": ["conv_block4", "conv_block6"]}}
    path = written(tmp_path / "earlier.yml", {"parameters": parameters})
    assert sweep_space(path)["model.freeze"]["choices"] == [4, 6]
    with pytest.raises(ValueError, match="nothing here is called 'lr'"):
        sweep_space(written(tmp_path / "mine.yaml", {"parameters": {"lr": {"values": [1]}}}))
    parameters = {"param_conf-batch_size": {"values": [16, 32]}}
    goal = {"metric": {"name": "val_obj", "goal": "minimize"}, "parameters": parameters}
    caplog.clear()
    assert sweep_space(written(tmp_path / "goal.yaml", goal))["training.batch_size"]["choices"] == [16, 32]
    (left_out,) = caplog.messages
    assert "goal.yaml: metric: {'goal': 'minimize', 'name': 'val_obj'} is left out" in left_out
    ours = written(tmp_path / "ours.yaml", {"optimizer.lr": {"type": "float", "low": 1, "high": 2}})
    assert sweep_space(ours) == ours
    assert sweep_space([1]) == [1]
