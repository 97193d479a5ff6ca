"""What a user gets wrong ends a run with exit status 1 and one line, which names the file or key."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from data_util.classes import CLASSES
from data_util.events import FrameGrid
from tests.runs import StageRuns
from tests.synthetic import make_task4

SECONDS = 1.28


@pytest.fixture
def broken(tmp_path, _same_threads):
    """Runs on data of their own, which may be spoilt."""
    torch.set_num_threads(1)
    paths = make_task4(tmp_path / "task4", clips=6, seconds=SECONDS, grid=FrameGrid(audio_len=SECONDS))
    return StageRuns(tmp_path, paths, SECONDS)


@pytest.fixture
def mistake(capfd):
    """Function: arguments of a command -> the one line on stderr that its exit with status 1 leaves."""

    def run(runs, *arguments, **updates):
        capfd.readouterr()
        assert runs.command(*arguments, **updates) == 1
        stderr = capfd.readouterr().err
        assert "Traceback" not in stderr
        (line,) = stderr.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("arch=mn01", "unknown arch 'mn01', did you mean mn01_im or mn01_as or"),
        ("trainer.max_epoch=3", "unknown config key 'trainer.max_epoch', did you mean 'trainer.max_epochs'?"),
        ("demoo", "unknown named config 'demoo', did you mean 'demo'?"),
        ("ckpt_path=last", "ckpt_path=last: there is no"),
        ("ckpt_path=none.ckpt", "ckpt_path=none.ckpt: no such file"),
        ("audio_len=10", "encoder.audio_len=1.28 differs from audio_len=10: set both"),
        ("loss_weights=(1, 1, 1, 1, 1)", "loss_weights: six numbers"),
        ("loss_weights=half", "loss_weights is 'half', expected a list"),
        ("loss.maestro_type=CELoss", "loss.maestro_type: unknown loss 'CELoss'"),
        ("optimizer.schedule_mode=step", "optimizer.schedule_mode: 'step', expected one of"),
        ("optimizer.pt_trainable_layers=99", "optimizer.pt_trainable_layers: 99, expected"),
        ("training.batch_sizes=(1, 1, 1)", "training.batch_sizes has 3 entries, expected 5"),
        ("training.batch_sizes=7", "training.batch_sizes is 7, expected a list"),
        ("training.batch_sizes=(1, 1, 99, 1, 1)", "source synth has 6 clips, but training.batch_sizes asks for 99"),
        ("training.on_bad_audio=ignore", "training.on_bad_audio is 'ignore', expected 'raise' or 'skip'"),
        ("mix_augment.mixup_p=often", "mix_augment.mixup_p is 'often', expected a number"),
        ("time_augment.mask_target=weak", "time_augment.mask_target: unknown target 'weak'"),
        ("t4_wrapper.embed_pool=max", "t4_wrapper.embed_pool"),
        ("median_window=[3, 5]", "median_window"),
        ("trainer.precision=17", "trainer: "),
        ("trainer.weights_summary=all", "trainer.weights_summary: 'full', 'top' or None expected, got 'all'"),
    ],
)
def test_config(stage1, mistake, argument, message):
    assert message in mistake(stage1, argument)
    assert not list(stage1.outputs.rglob("*.c*"))


def spoil_folder(paths):
    folder = Path(paths["strong_folder"])
    folder.rename(f"{folder}_away")
    return f"strong_train: 0 audio files found, no such folder (t4_paths.strong_folder = {paths['strong_folder']}"


def spoil_column(paths):
    table = pd.read_csv(paths["synth_tsv"], sep="\t").drop(columns="offset")
    table.to_csv(paths["synth_tsv"], sep="\t", index=False)
    return paths["synth_tsv"], "offset"


def spoil_class(paths):
    table = pd.read_csv(paths["test_tsv"], sep="\t").replace("Dog", "Dgo")
    table.to_csv(paths["test_tsv"], sep="\t", index=False)
    return paths["test_tsv"], "Dgo"


def spoil_rate(paths):
    for file in Path(paths["weak_folder"]).iterdir():
        soundfile.write(file, np.zeros(8000), 8000)
    return paths["weak_folder"], "8000", "16000"


def spoil_pseudo_labels(paths):
    path = paths["pseudo_labels"].format("synth_train")
    with h5py.File(path, "r+") as file:
        del file["strong_logits"]
        file["strong_logits"] = np.zeros((6, 156, len(CLASSES)), np.float16)
    return path, "(6, 156, 27)", "20 of 0.064 s for 1.28 s"


@pytest.mark.parametrize("spoil", [spoil_folder, spoil_column, spoil_class, spoil_rate, spoil_pseudo_labels])
def test_data(broken, mistake, spoil):
    expected = spoil(broken.config["t4_paths"])
    line = mistake(broken)
    for part in (expected,) if isinstance(expected, str) else expected:
        assert part in line


def spoil_audio(broken, n=None):
    """Makes the first n clips of the synthetic set unreadable; their paths."""
    files = sorted(Path(broken.config["t4_paths"]["synth_folder"]).iterdir())[:n]
    for file in files:
        file.write_bytes(b"RIFF" + bytes(1000))
    return files


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_audio(broken, mistake, workers):
    spoil_audio(broken)
    line = mistake(broken, f"training.num_workers={workers}")
    assert broken.config["t4_paths"]["synth_folder"] in line
    assert line.count(str(broken.folder)) == 1


def test_corrupt_audio_is_skipped(broken, caplog):
    files = spoil_audio(broken, 2)
    assert broken.command("training.on_bad_audio=skip", "training.wavmix_p=0", test={"test": False}) == 0
    warnings = [message for message in caplog.messages if "another clip stands in for it" in message]
    assert len(warnings) == 2
    for file in files:
        assert sum(str(file) in line for line in warnings) == 1
    assert len(broken.metrics(next((broken.outputs / "tests").iterdir()).name)) == 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, task4_tree):
    """last.ckpt of a run."""
    torch.set_num_threads(1)
    runs = StageRuns(tmp_path_factory.mktemp("trained"), *task4_tree)
    runs.run(test={"test": False}, validation={"validate": False})
    return runs.path() / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("entry", ["ckpt_path", "t4_wrapper.model_init_id"])
def test_truncated_checkpoint(stage1, mistake, checkpoint, entry):
    path = stage1.folder / "half.ckpt"
    path.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    assert f"{path} is truncated or no weights file" in mistake(stage1, f"{entry}={path}")


@pytest.mark.parametrize("entry", ["ckpt_path", "t4_wrapper.model_init_id"])
def test_checkpoint_of_another_architecture(stage1, mistake, checkpoint, entry):
    message = f"{checkpoint} is for arch=mn01_as, but arch=mn02_as is asked for"
    assert message in mistake(stage1, f"{entry}={checkpoint}", "arch=mn02_as")


def test_checkpoint_of_another_size(stage1, mistake, checkpoint):
    assert f"{checkpoint} does not fit" in mistake(stage1, f"ckpt_path={checkpoint}", "t4_wrapper.n_RNN_cell=24")


def test_weights_alone_are_no_place_to_go_on_from(stage1, mistake):
    path = stage1.folder / "weights.ckpt"
    torch.save({"state_dict": {}, "global_step": 3}, path)
    assert f"ckpt_path: {path} has no entry 'config'" in mistake(stage1, f"ckpt_path={path}")
