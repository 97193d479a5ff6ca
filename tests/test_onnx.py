"""Taggers as ONNX files and in OpenVINO: what they compute for any batch and length, and what is said on failure."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import tagging as benchmark
from data_util.streaming import stream
from helpers import onnx_export
from helpers.onnx_export import OnnxRunner, export, exported, read_metadata, required, split_dft
from helpers.tagging_inference import Cut, inference, tag_recordings
from helpers.tagging_runners import Member, TorchRunner, make_runner
from models.tagging import build_tagger
from tests.golden.named_weights import golden_waveform
from tests.golden.tagging.calibrate import calibrate_batchnorm

ROOT = Path(__file__).parents[1]
MODELS = {
    "mn01_as": {},
    "dymn04_replace_se_as": {"dymn": {"temperature": 1.0}},
    "cnn14": {"cnn14": {"channels": [4, 4, 8, 8, 8, 16]}},
    "mn01_as fully_convolutional": {"mn": {"head_type": "fully_convolutional", "strides": (2, 2, 1, 1)}},
    "mn01_as multihead_attention_pooling": {"mn": {"head_type": "multihead_attention_pooling", "se_dims": "cf"}},
}


def sounds(seconds, sample_rate, batch):
    """Tones and bursts, every second one in noise."""
    waveforms = golden_waveform(seconds, sample_rate, 0, batch)
    noise = np.random.default_rng(batch).standard_normal(waveforms[1::2].shape)
    waveforms[1::2] += 0.1 * noise.astype(np.float32)
    return waveforms


def member(model, n_classes=20):
    """A small network whose outputs depend on the input; its logits have a standard deviation of 1 at most."""
    torch.manual_seed(0)
    mel, net = build_tagger(model.split()[0], MODELS[model], n_classes)
    features = mel.eval()(torch.from_numpy(sounds(3.0, mel.sample_rate, 4)))
    calibrate_batchnorm(net.eval(), features, forward=net.tag)
    with torch.no_grad():
        alone = mel(torch.from_numpy(sounds(1.5, mel.sample_rate, 1)))  # other levels than those of the calibration
        spread = max(net.tag(each)[0].std() for each in (features, alone))
        if "fully_convolutional" in model:
            net.classifier[1].weight /= spread
        else:
            [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1].weight /= spread
    return Member(model, mel, net)


def assert_same(found, wanted):
    """Logits and embeddings of both runners; the networks amplify rounding, so embeddings may differ a little more."""
    probabilities = [torch.sigmoid(torch.from_numpy(logits)).numpy() for logits in (found[0], wanted[0])]
    assert np.ptp(probabilities[1]) > 0.05
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-3 * np.abs(wanted[1]).max())


# -- the Fourier transform in two products
@pytest.mark.parametrize("size", [1, 7, 8, 12, 15, 400, 512, 1024])
def test_split_transform(size):
    first, twiddle, second, place, sign = split_dft(size)
    r, s = first.shape[1], twiddle.shape[1]
    assert r * s == size
    x = np.random.default_rng(size).standard_normal(size)
    inner = (first @ x.reshape(r, s)).reshape(-1, 2, s)
    inner = (inner[:, 0] + 1j * inner[:, 1]) * twiddle
    flat = (np.concatenate([inner.real, inner.imag], 1) @ second).ravel()
    found = flat[place] * sign
    np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], np.fft.rfft(x), rtol=0, atol=1e-11)


def test_split_transform_is_cheap():
    first, twiddle, second, *_ = split_dft(1024)
    products = first.size * twiddle.shape[1] + twiddle.shape[0] * second.size
    assert products < 1024 * 1026 / 10


# -- what is not installed
@pytest.mark.parametrize(
    ("backend", "package"),
    [("onnx", "onnx"), ("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino")],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, backend, package):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if name != package and name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, object())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package}: python -m pip install {package}$"):
        make_runner([Member("mn01_as", *build_tagger("mn01_as"))], backend, onnx_folder=tmp_path)


def test_required_gives_the_module():
    assert required("json", "nothing") is sys.modules["json"]


def test_onnxruntime_has_no_reduced_precision(tmp_path):
    with pytest.raises(ValueError, match="precision=bf16: backend=onnx computes in f32, backend=openvino also in bf16"):
        make_runner([Member("mn01_as", *build_tagger("mn01_as"))], "onnx", "bf16", onnx_folder=tmp_path)


# -- ONNX
@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Exports a model once: (path, its member)."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def file(model):
        if model not in made:
            made[model] = member(model)
            export(made[model], folder / f"{model}.onnx", [f"class {number}" for number in range(20)])
        return folder / f"{model}.onnx", made[model]

    return file


@pytest.mark.parametrize("model", MODELS)
def test_the_file_computes_what_torch_does(files, model):
    path, network = files(model)
    runner, expected = OnnxRunner(path), TorchRunner(network)
    assert (runner.sample_rate, runner.n_classes, runner.embed_dim) == (
        expected.sample_rate,
        expected.n_classes,
        expected.embed_dim,
    )
    for batch, seconds in ((1, 1.5), (3, 2.7), (2, 5.003)):
        waveforms = sounds(seconds, runner.sample_rate, batch)
        assert_same(runner(waveforms), expected(waveforms))


def test_shortest_waveform_and_silence(files):
    path, network = files("mn01_as")
    runner = OnnxRunner(path)
    shortest = golden_waveform(1.0, runner.sample_rate, 0, 1)[:, : runner.min_samples]
    for waveforms in (shortest, np.zeros((1, runner.sample_rate), np.float32)):
        logits, embeddings = runner(waveforms)
        assert np.isfinite(embeddings).all()
        np.testing.assert_allclose(logits, TorchRunner(network)(waveforms)[0], rtol=0, atol=1e-4)


def test_metadata(files):
    path, _ = files("mn01_as")
    entries = read_metadata(path)
    assert (entries["name"], entries["sample_rate"], entries["min_samples"]) == ("mn01_as", 32000, 514)
    assert entries["classes"][19] == "class 19"


def test_several_workers(files):
    path, _ = files("mn01_as")
    waveforms = golden_waveform(1.0, 32000, 0, 3)
    for one, other in zip(OnnxRunner(path)(waveforms), OnnxRunner(path, workers=2)(waveforms)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_file_is_made_once(files, tmp_path, monkeypatch):
    path, network = files("mn01_as")
    (tmp_path / "mn01_as.onnx").write_bytes(path.read_bytes())
    monkeypatch.setattr(onnx_export, "export", lambda member, path: f"made {path.name}")
    assert exported(network, tmp_path) == tmp_path / "mn01_as.onnx"
    assert exported(Member("runs/mine (2).ckpt", network.mel, network.net), tmp_path) == "made mine_2_.ckpt.onnx"
    with torch.no_grad():
        other = member("mn01_as")
        other.net.classifier[5].bias += 1
    assert exported(other, tmp_path) == "made mn01_as.onnx"


def test_a_wrong_file_is_not_left(files, tmp_path, monkeypatch):
    path, network = files("mn01_as")
    other = member("mn01_as")
    with torch.no_grad():
        other.net.classifier[5].bias[7] += 0.01
    monkeypatch.setattr(onnx_export, "_write", lambda model, example, out: out.write_bytes(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.onnx: probabilities differ from those of torch by 2\.\de-03$"):
        export(other, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
    assert export(network, tmp_path / "a.onnx") == tmp_path / "a.onnx"


def test_a_network_that_cannot_be_exported(files, tmp_path):
    _, network = files("mn01_as")

    class Counting(torch.nn.Module):
        n_classes, embed_dim = 2, 1

        def tag(self, mel):
            return torch.full((len(mel), 2), float(mel.mean())), mel.mean((1, 2, 3))[:, None]

    with pytest.raises(ValueError, match=r"^.*a\.onnx: mine cannot be exported to ONNX \(.+\)$"):
        export(Member("mine", network.mel, Counting()), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_files_that_are_none(files, tmp_path, content):
    import onnx

    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.onnx: (not readable as ONNX|no metadata 'tagger')"):
        OnnxRunner(tmp_path / "a.onnx")
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"b\.onnx: no metadata 'tagger', expected a file that `export` has written"):
        OnnxRunner(tmp_path / "b.onnx")


def test_inference_by_onnx(files, tmp_path):
    path, network = files("mn01_as")
    (tmp_path / "mn01_as.onnx").write_bytes(path.read_bytes())
    soundfile.write(tmp_path / "a.wav", golden_waveform(3.3, 44100, 0, 1)[0], 44100)
    runner = make_runner([network], "onnx", onnx_folder=tmp_path)
    (found,) = tag_recordings([tmp_path / "a.wav"], runner, stream, Cut(1.0, 0.5))
    (wanted,) = tag_recordings([tmp_path / "a.wav"], TorchRunner(network), stream, Cut(1.0, 0.5))
    np.testing.assert_allclose(found.probabilities(), wanted.probabilities(), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.spans, wanted.spans)
    shown = []
    inference([tmp_path / "a.wav"], runner, stream, read_metadata(path)["classes"], show=shown.append)
    assert shown[0].count("class ") == 10


# -- OpenVINO
@pytest.mark.parametrize("model", ["mn01_as", "dymn04_replace_se_as", "cnn14"])
def test_openvino_computes_what_torch_does(model):
    pytest.importorskip("openvino", reason="openvino is not installed")
    network = member(model)
    expected = TorchRunner(network)
    runner = make_runner([network], "openvino", workers=2)
    for batch, seconds in ((1, 1.5), (3, 2.7)):
        waveforms = sounds(seconds, 32000, batch)
        assert_same(runner(waveforms), expected(waveforms))


def test_openvino_in_reduced_precision():
    pytest.importorskip("openvino", reason="openvino is not installed")
    network, waveforms = member("mn01_as"), sounds(2.0, 32000, 2)
    wanted = TorchRunner(network)(waveforms)[0]
    for workers in (1, 2):
        found = make_runner([network], "openvino", "bf16", workers)(waveforms)[0]
        assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.98


RELEASED = """
import faulthandler, os, signal, threading
from helpers.tagging_runners import make_runner
from tests.test_onnx import member, sounds

faulthandler.enable()  # as a signal is handled on a stack of its own
made = [make_runner([member("mn01_as")], "openvino", workers=1)]
made[0](sounds(1.0, 32000, 1))
thread = threading.Thread(target=made.clear)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_after_a_network_was_released_by_another_thread():
    pytest.importorskip("openvino", reason="openvino is not installed")
    ended = subprocess.run([sys.executable, "-c", RELEASED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_ten_best_classes_in_reduced_precision(backend):
    """They are the same but for those that are hardly less probable, on a network whose outputs are as if trained."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    network = Member("mn04_as", *benchmark.network("mn04_as"))
    wanted = TorchRunner(network)(benchmark.clips())[0]
    found = make_runner([network], backend, "bf16")(benchmark.clips())[0]
    probabilities = [1 / (1 + np.exp(-np.asarray(each, dtype=np.float64))) for each in (wanted, found)]
    _, common, exchange = benchmark.agreement(*probabilities)
    assert common >= 9
    assert 0 <= exchange < 0.02
    assert wanted.shape == (benchmark.CLIPS, 527)
