"""Commands of ex_audioset on recordings: every published name, ensembles, embeddings, ONNX, complexity, bad input."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import configs
import ex_audioset
import models
import taggers
from data_util.class_tables import class_names
from data_util.streaming import stream
from helpers import tagging_inference
from helpers.tagging_results import best
from models.tagging import build_tagger
from tests.golden.named_weights import set_named_weights
from tests.reference import golden
from tests.runs import leaving_no_trace
from tests.test_tagging_inference import METRO

PUBLISHED = {name: entry for name, entry in golden("tagging/models.json")["models"].items()}
ON_AUDIOSET = {name: entry for name, entry in PUBLISHED.items() if entry["trained_on"] == "AudioSet"}
CLASSES = class_names("audioset")


class Commands:
    """Commands of ex_audioset in this process, with weights files in a resources folder of their own."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = Path(folder), capsys

    def publish(self, *archs):
        """Writes the published files of these architectures, with the weights of the stored expectations."""
        for arch in archs:
            _, net = build_tagger(arch, {"dymn": {"temperature": 1.0}})
            set_named_weights(net, 0)
            self.write(arch, {name: t for name, t in net.state_dict().items() if "temperature" not in name})

    def write(self, arch, state):
        path = self.folder / models.get(arch).checkpoint("own").file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path

    def __call__(self, command, **updates):
        """What a command prints."""
        self.capsys.readouterr()
        with leaving_no_trace():
            ex_audioset.ex.run(command, config_updates=updates)
        return self.capsys.readouterr().out

    def error(self, *arguments):
        """The one line with which a command line ends."""
        with leaving_no_trace(), pytest.raises(SystemExit) as exit:
            ex_audioset.ex.run_commandline(["ex_audioset", *arguments])
        assert exit.value.code == 1
        lines = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0].removeprefix("error: ")


@pytest.fixture
def commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(tmp_path))
    monkeypatch.setattr(taggers, "ONNX_FOLDER", str(tmp_path / "onnx"))
    return Commands(tmp_path, capsys)


def write_noise(path, seconds=1.0, rate=32000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)), rate)
    return str(path)


# -- published numbers
def expected_key(entry):
    """Key of the stored outputs of a network with this front end."""
    constructor = {"width_mult": entry["width_mult"]}
    constructor |= {"head_type": entry["head"]} if entry["head"] != "mlp" else {}
    constructor |= {"strides": entry["strides"]} if entry["strides"] != [2, 2, 2, 2] else {}
    constructor |= {"use_dy_blocks": "replace_se"} if entry["manifest"].endswith("replace_se") else {}
    front_end = {key: entry[key] for key, usual in (("hopsize", 320), ("n_mels", 128)) if entry[key] != usual}
    (found,) = (
        config["key"]
        for config in golden("tagging/model_configs.json")
        if config["kind"] == entry["kind"] and config.get("temperature", 1.0) == 1.0
        and config["constructor"] == constructor and config["front_end"] == front_end
    )  # fmt: skip
    return found


@pytest.mark.data
@pytest.mark.parametrize("manifest", sorted({entry["manifest"] for entry in ON_AUDIOSET.values()}))
def test_every_published_name_gives_its_ten_best_classes(commands, real_data, manifest):
    """With the weights of the stored expectations, outputs do not hang on the recording by more than 1e-4."""
    names = [name for name, entry in ON_AUDIOSET.items() if entry["manifest"] == manifest]
    commands.publish(names[0])
    first = commands.folder / models.get(names[0]).checkpoint("own").file
    with leaving_no_trace():
        config = ex_audioset.ex._create_run("inference", {}, ()).config
    for name in names:
        file = commands.folder / models.get(name).checkpoint("own").file
        if not file.exists():
            os.link(first, file)
        runner, classes, multi_label = taggers.runner_of({**config, "arch": name}, {"arch"}, classify=True)
        (found,) = tagging_inference.tag_recordings([real_data / METRO], runner, stream)
        logits = golden("tagging/model_outputs.npz")[f"{expected_key(ON_AUDIOSET[name])}.eval.logits"]
        expected = 1 / (1 + np.exp(-logits))
        assert multi_label
        assert classes == CLASSES
        probabilities = found.probabilities()[0]
        np.testing.assert_allclose(probabilities, expected[0], rtol=0, atol=1e-4, err_msg=name)
        ten = [classes.index(label) for label, _ in best(probabilities, classes)]
        # Places of nearly equal probabilities may be exchanged.
        np.testing.assert_allclose(expected[0][ten], np.sort(expected[0])[::-1][:10], rtol=0, atol=1e-4)


@pytest.mark.data
def test_the_command_prints_the_ten_best_classes(commands, real_data):
    commands.publish("mn10_as")
    out = commands.folder / "a.json"
    printed = commands("inference", arch="mn10_as", audio_path=str(real_data / METRO), out=str(out))
    rows = re.findall(r"^(.+): (\d\.\d{3})$", printed, re.MULTILINE)
    (entry,) = json.loads(out.read_text())["files"]
    assert [label for label, _ in rows] == [tag["label"] for tag in entry["tags"]]
    expected = golden("tagging/inference.npz")["mn10_as.eval.probabilities"]
    for label, value in rows:
        assert float(value) == pytest.approx(expected[CLASSES.index(label)], abs=1e-3)
    assert {label for label, _ in rows[:3]} == {CLASSES[index] for index in np.argsort(-expected)[:3]}


# -- commands
def test_an_ensemble_of_names_and_files(commands):
    commands.publish("mn01_as", "mn02_as")
    path, file = write_noise(commands.folder / "a.wav"), str(commands.folder / "out.npz")
    logits = []
    for chosen in ({"arch": "mn01_as"}, {"arch": "mn02_as"}, {"ensemble": ["mn01_as", "mn02_as"]}):
        commands("inference", audio_path=path, out=file, **chosen)
        found = np.load(file)["probabilities"][0].astype(np.float64)
        logits.append(np.log(found / (1 - found)))
    one, other, both = logits
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-5)


def test_windows_of_a_folder_and_their_figures(commands):
    for name in ("a.wav", "b/c.flac"):
        write_noise(commands.folder / "sounds" / name, 3.0)
    (commands.folder / "sounds" / "broken.wav").write_bytes(b"RIFF")
    out, plot = commands.folder / "tags.csv", commands.folder / "figures"
    commands(
        "inference", arch="mn01_as", pretrained_name=None, audio_path=str(commands.folder / "sounds"), window_size=2.0,
        hop_length=1.0, out=str(out), plot=str(plot),
    )  # fmt: skip
    with open(out) as file:
        rows = list(csv.DictReader(file))
    places = {(Path(row["file"]).name, row["start"], row["end"]) for row in rows}
    assert places == {(name, f"{t}.000", f"{t + 2}.000") for name in ("a.wav", "c.flac") for t in (0, 1)}
    assert {path.name for path in plot.iterdir()} == {"a.png", "c.png"}


def test_embeddings(commands):
    path, out = write_noise(commands.folder / "a.wav", 2.0), commands.folder / "e.npz"
    printed = commands("embed", arch="mn01_as", pretrained_name=None, audio_path=path, window_size=1.0, out=str(out))
    content = np.load(out)
    assert "96 dimensions" in printed
    assert content["embeddings"].shape == (5, 96)
    assert content["embeddings_of_file"].shape == (1, 96)
    np.testing.assert_allclose(content["start"], [0, 0.25, 0.5, 0.75, 1.0])


def test_export_and_backend(commands):
    pytest.importorskip("onnxscript")
    commands.publish("mn01_as")
    path, out = write_noise(commands.folder / "a.wav", 2.0), commands.folder / "mn01.onnx"
    assert str(out) in commands("export", arch="mn01_as", out=str(out))
    import onnxruntime

    waveform = soundfile.read(path, dtype="float32")[0]
    (logits,) = onnxruntime.InferenceSession(out).run(["logits"], {"waveform": waveform[None]})
    found = {}
    for backend in ("torch", "onnx"):
        file = commands.folder / f"{backend}.npz"
        commands("inference", arch="mn01_as", audio_path=path, out=str(file), backend=backend)
        found[backend] = np.load(file)["probabilities"]
    np.testing.assert_allclose(found["onnx"], found["torch"], atol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), found["torch"], atol=1e-4)


def test_complexity(commands):
    printed = commands("complexity", ensemble=["mn04_as", "dymn10_as"])
    rows = {row.split()[0]: row.split()[1:] for row in printed.splitlines() if "_as" in row}
    for name in ("mn04_as", "dymn10_as"):
        assert float(rows[name][0]) == pytest.approx(PUBLISHED[name]["params"] / 1e6, abs=1e-3)
        assert float(rows[name][1]) == pytest.approx(PUBLISHED[name]["macs_billions"] * 1e3, abs=1)


def test_a_checkpoint_of_a_run_names_its_classes(commands):
    _, net = build_tagger("mn01_as", {"mn_mel": {"n_mels": 32}}, 3)
    config = {name: dict(section) for name, section in models.sections().items()}
    config["mn_mel"]["n_mels"] = 32
    data = {"sample_rate": 32000, "clip_length": 2.0}
    run = {"arch": "mn01_as", "pooling": None, "data": data, "dataset": "folder", "demo": {}, **config}
    file = commands.folder / "own.ckpt"
    torch.save({"tagger": net.state_dict(), "classes": ["a", "b", "c"], "multi_label": False, "config": run}, file)
    path, out = write_noise(commands.folder / "a.wav", 2.0), commands.folder / "out.npz"
    commands("inference", pretrained_name=str(file), audio_path=path, out=str(out))
    content = np.load(out)
    assert content["classes"].tolist() == ["a", "b", "c"]
    assert content["probabilities"].sum() == pytest.approx(1)
    commands.publish("mn01_as")
    line = commands.error("inference", "with", f"audio_path={path}", f"ensemble=('mn01_as', '{file}')")
    assert line == "ensemble: own has 3 classes, expected 527 as mn01_as has"


# -- bad input
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "audio_path is not set, expected a recording, a folder of them, or a list of both"),
        (["audio_path=none.wav"], "none.wav: no such audio file or folder"),
        (["audio_path={wav}", "arch=mn11_as"], r"unknown arch 'mn11_as', did you mean .*"),
        (["audio_path={wav}", "ensemble=('mn01_as', 'mn11_as')"], r"unknown arch 'mn11_as', did you mean .*"),
        (["audio_path={wav}", "backend=tvm"], "backend is 'tvm', expected one of .*"),
        (["audio_path={wav}", "window_size=0.0"], "window_size .*"),
        (["audio_path={wav}", "window_size=abc"], "window_size is 'abc', expected a number of seconds"),
        (["audio_path={wav}", "hop_length=1"], "hop_length is 1 s, but window_size is not set, .*"),
        (["audio_path={wav}", "inference_batch_size=0"], "inference_batch_size is 0, expected a whole number .*"),
        (["audio_path={wav}", "device=foo"], "device is 'foo', expected one that is there: cpu.*"),
        (["audio_path={wav}", "arch=mn01_im"], "the weights of mn01_im know no classes: .*"),
        (["audio_path={wav}", "arch=mn02_as"], r".*mn02_as_mAP_378.pt: no such weights file.*"),
    ],
)
def test_one_line_says_what_is_wrong(commands, words, message):
    commands.publish("mn01_as")
    _, net = build_tagger("mn01_im", n_classes=1000)
    commands.write("mn01_im", net.state_dict())
    wav = write_noise(commands.folder / "a.wav")
    words = [word.format(wav=wav) for word in ["arch=mn01_as", *words]]
    assert re.fullmatch(message, commands.error("inference", "with", *words))


@pytest.mark.parametrize("command", ["embed", "export", "complexity"])
def test_frame_wise_models_are_not_taken_for_taggers(commands, command):
    wav = write_noise(commands.folder / "a.wav")
    words = ("audioset_strong", "arch=frame_mn06", "pretrained_name=None", f"audio_path={wav}")
    line = commands.error(command, "with", *words)
    assert line == f"{command} knows taggers only, not the frame-wise models of audioset_strong"


def test_export_needs_a_classifier(commands):
    _, net = build_tagger("mn01_im", n_classes=1000)
    commands.write("mn01_im", net.state_dict())
    line = commands.error("export", "with", "arch=mn01_im", f"out={commands.folder / 'a.onnx'}")
    assert line == "the weights of mn01_im know no classes: expected those of a trained tagger"


def test_exports_of_files_that_are_called_alike(commands, monkeypatch):
    written = []
    monkeypatch.setattr(taggers.onnx_export, "export", lambda member, path, classes: written.append(path))
    _, net = build_tagger("mn01_as")
    for folder in "ab":
        (commands.folder / folder).mkdir()
        torch.save(net.state_dict(), commands.folder / folder / "best.pt")
    commands("export", arch="mn01_as", ensemble=[str(commands.folder / folder / "best.pt") for folder in "ab"])
    assert written == ["best.onnx", "best-2.onnx"]


@pytest.mark.parametrize("length", ["None", "0"])
def test_complexity_needs_a_length(commands, length):
    line = commands.error("complexity", "with", "arch=mn01_as", f"data.clip_length={length}")
    assert re.fullmatch(rf"data\.clip_length is {length}, expected the seconds of a clip, more than 0", line)


@pytest.mark.parametrize("seconds", [0.01, 0.0])
def test_a_recording_that_is_too_short(commands, seconds):
    path = write_noise(commands.folder / "short.wav", seconds)
    line = commands.error("inference", "with", "arch=mn01_as", "pretrained_name=None", f"audio_path={path}")
    assert line.startswith(path)
    assert "expected" in line


def test_silence_and_eight_channels(commands):
    path, out = commands.folder / "silence.wav", commands.folder / "out.npz"
    soundfile.write(path, np.zeros((32000, 8)), 32000)
    commands("inference", arch="mn01_as", pretrained_name=None, audio_path=str(path), out=str(out))
    assert np.isfinite(np.load(out)["probabilities"]).all()


# -- downloads
def test_weights_that_are_not_there_are_fetched_once(commands, monkeypatch, tmp_path):
    commands.publish("mn01_as")
    path = commands.folder / models.get("mn01_as").checkpoint("own").file
    served = tmp_path / "served"
    served.mkdir()
    path.rename(served / path.name)
    monkeypatch.setenv("RESOURCES_URL", served.as_uri())
    wav, out = write_noise(commands.folder / "a.wav"), commands.folder / "out.npz"
    commands("inference", arch="mn01_as", audio_path=wav, out=str(out))
    assert path.read_bytes() == (served / path.name).read_bytes()
    noted = json.loads((path.parent / "downloads.json").read_text())[path.name]
    assert noted["checksum"].startswith("sha256:")
    path.unlink()
    (served / path.name).write_bytes(b"other weights")
    line = commands.error("inference", "with", "arch=mn01_as", f"audio_path={wav}")
    assert "checksum" in line
    assert noted["checksum"] in line
    assert not path.exists()
