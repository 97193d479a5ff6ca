"""Weights files as safetensors and back: what is kept, what is left out, and who can load the result."""

import re
from pathlib import Path

import pytest
import torch

from helpers.checkpoints import config_of_run, read, save
from helpers.convert import convert, main
from models.tagging import build_tagger, load_tagger

safetensors = pytest.importorskip("safetensors")
CONFIG = {"arch": "mn01_as", "seed": 3, "data": {"classes": None, "sample_rate": 16000, "limits": [0.5, "a"]}}


def of_run():
    """A checkpoint of a run, in which several entries share their tensors."""
    student = {"a.weight": torch.rand(3, 4), "a.half": torch.rand(2).half(), "a.steps": torch.tensor(7)}
    return {
        "epoch": 2,
        "state_dict": {f"student.{name}": tensor for name, tensor in student.items()},
        "student": student,
        "teacher": {"a.weight": torch.rand(4, 3).T, "nothing": torch.zeros(0)},
        "classes": ["Dog", "Glocke"],
        "config": CONFIG,
        "revision": None,
        "metric": {"name": "val/mAP", "mode": "max", "best": 0.5},
        "empty": {},
    }


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right


def test_there_and_back(tmp_path):
    content = of_run()
    training = {"optimizer_states": [{"state": {0: torch.zeros(2)}}], "lr_schedulers": [], "loops": {"fit_loop": {}}}
    save(tmp_path / "run.ckpt", {**content, **training})
    left = convert(tmp_path / "run.ckpt", tmp_path / "run.safetensors")
    assert left == list(training)
    assert_same(read(tmp_path / "run.safetensors"), content)
    assert convert(tmp_path / "run.safetensors", tmp_path / "back.ckpt") == []
    assert_same(read(tmp_path / "back.ckpt"), content)
    assert config_of_run(read(tmp_path / "back.ckpt")) == CONFIG


def test_the_file_is_plain_to_others(tmp_path):
    save(tmp_path / "run.ckpt", of_run())
    convert(tmp_path / "run.ckpt", tmp_path / "run.safetensors")
    with safetensors.safe_open(tmp_path / "run.safetensors", "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    shared = [f"student/a.{name}" for name in ("weight", "half", "steps")]
    stored = [name.replace("student/", "state_dict/student.") for name in shared]
    assert names == {*stored, "teacher/a.weight", "teacher/nothing"}  # each once
    assert re.search(r'"sample_rate": 16000', metadata["config"])
    assert metadata["classes"] == '["Dog", "Glocke"]'


def test_a_bare_state_dict_keeps_its_names(tmp_path):
    state = {"features.0.weight": torch.rand(2, 2), "tied": torch.ones(3)}
    save(tmp_path / "net.pt", {**state, "again": state["tied"]})
    assert convert(tmp_path / "net.pt", tmp_path / "net.safetensors") == []
    assert_same(read(tmp_path / "net.safetensors"), {**state, "again": state["tied"]})
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert set(file.keys()) == set(state)


def test_a_file_of_others_is_a_state_dict(tmp_path):
    from safetensors.torch import save_file

    state = {"a/b": torch.rand(2), "c": torch.rand(1)}
    save_file(state, tmp_path / "other.safetensors", {"format": "pt", "author": "somebody"})
    assert_same(read(tmp_path / "other.safetensors"), state)


def test_taggers_load_it(tmp_path):
    torch.manual_seed(0)
    _, tagger = build_tagger("mn01_as", n_classes=3)
    save(tmp_path / "run.ckpt", {"tagger": tagger.state_dict(), "classes": ["a", "b", "c"], "config": CONFIG})
    save(tmp_path / "bare.pt", tagger.state_dict())
    for name in ("run.ckpt", "bare.pt"):
        path = (tmp_path / name).with_suffix(".safetensors")
        convert(tmp_path / name, path)
        _, other = build_tagger("mn01_as", n_classes=3)
        assert not load_tagger(other, "mn01_as", str(path), tmp_path).left
        assert_same(dict(other.state_dict()), dict(tagger.state_dict()))


def test_what_neither_is_tensors_nor_json_is_left_out(tmp_path, capsys):
    save(tmp_path / "a.ckpt", {"x": torch.zeros(2), "mixed": {"x": torch.zeros(2), "lr": 0.1}, "window": Path("a")})
    assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "a.safetensors")]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path}/a.safetensors (without mixed, window)\n"
    assert read(tmp_path / "a.safetensors").keys() == {"x"}


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a.ckpt", "a.onnx", "a.onnx: unknown format, expected a file called *.safetensors or *.ckpt, *.pt, *.pth"),
        ("a.ckpt", "a.ckpt", "a.ckpt is to be written over itself"),
        ("none.ckpt", "b.safetensors", "none.ckpt: no such weights file"),
        ("bad.safetensors", "b.ckpt", "bad.safetensors is truncated or no weights file"),
        ("damaged.safetensors", "b.ckpt", "damaged.safetensors has damaged metadata"),
        ("empty.ckpt", "b.safetensors", "b.safetensors: there is no tensor to write"),
        ("slash.ckpt", "b.safetensors", "b.safetensors: the name a/b has a '/'"),
    ],
)
def test_mistakes_are_one_line(source, target, message, tmp_path, capsys):
    from safetensors.torch import save_file

    save(tmp_path / "a.ckpt", of_run())
    save(tmp_path / "empty.ckpt", {"config": CONFIG})
    save(tmp_path / "slash.ckpt", {"state_dict": {"a/b": torch.zeros(1)}})
    convert(tmp_path / "a.ckpt", tmp_path / "bad.safetensors")
    (tmp_path / "bad.safetensors").write_bytes((tmp_path / "bad.safetensors").read_bytes()[:-10])
    save_file({"a": torch.zeros(1)}, tmp_path / "damaged.safetensors", {"same": '{"b": "c"}'})
    assert main([str(tmp_path / source), str(tmp_path / target)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.glob("b.*"))
    assert not list(tmp_path.glob(".*"))
