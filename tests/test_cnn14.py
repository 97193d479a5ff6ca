"""CNN14: layouts and outputs of PANNs and of the retrieval baseline, both front ends, checkpoints, short clips."""

import functools
import re

import numpy as np
import pytest
import torch

import models
from helpers.checkpoints import load_pretrained, rename
from models.cnn14 import ENCODER_NAMES, ClothoEncoder, ClothoMel, Cnn14, PannsMel
from tests.golden.named_weights import golden_waveform, named_array, set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm
from tests.reference import golden

EXPECTED = golden("tagging/cnn14.npz")
MANIFESTS = golden("tagging/cnn14_manifests.json")
FRONT_END = ("spectrogram_extractor.", "logmel_extractor.")  # tensors of the published file that hold the front end
SMALL = {"channels": (4, 4, 8, 8, 8, 16)}


def assert_near(actual, expected, tolerance):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


def shapes(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def encoder_name(name):
    """A name of our state as the retrieval baseline has it."""
    block = re.fullmatch(r"conv_block(\d)\.(conv1|bn1|conv2|bn2)\.(\w+)", name)
    if block:
        position = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}[block[2]]
        return f"cnn.{8 * (int(block[1]) - 1) + position}.{block[3]}"
    for ours, theirs in (("projection.", "fc1."), ("fc1.", "fc.1."), ("fc_audioset.", "fc2.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def named_layer(name, inputs, outputs, seed):
    """Weight and bias of a linear layer under that name of the expectations."""
    arrays = named_array(f"{name}.weight", (outputs, inputs), seed), named_array(f"{name}.bias", (outputs,), seed)
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)


def with_layers(net, state, **layers):
    """Loads a state of which some linear layers are replaced."""
    for name, (weight, bias) in layers.items():
        state = {**state, f"{name}.weight": weight, f"{name}.bias": bias}
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    return net


# -- names and shapes


def test_names_and_shapes_of_panns():
    with torch.device("meta"):
        net = Cnn14()
    published = {name: shape for name, shape in MANIFESTS["panns_cnn14"].items() if not name.startswith(FRONT_END)}
    assert shapes(net) == published


@pytest.mark.parametrize(
    ("layout", "projection"), [("cnn14_encoder_2023_out300", None), ("cnn14_encoder_2024_fc1457", 1457)]
)
def test_names_and_shapes_of_the_retrieval_encoders(layout, projection):
    with torch.device("meta"):
        net = ClothoEncoder(projection=projection)
    assert rename(MANIFESTS[layout], ENCODER_NAMES) == shapes(net)
    assert {encoder_name(name): shape for name, shape in shapes(net).items()} == MANIFESTS[layout]


# -- outputs


@functools.cache
def panns_mel():
    return PannsMel().eval()(torch.from_numpy(golden_waveform(4, 32000, 0, 2)))


def test_outputs_of_panns_and_of_the_encoder_made_from_it():
    torch.manual_seed(0)
    net = Cnn14().eval()
    set_named_weights(net, 0)
    for kind, tolerance in (("eval", 1e-5), ("cal", 1e-3)):
        if kind == "cal":
            calibrate_batchnorm(net, panns_mel())
        with torch.no_grad():
            logits, embedding = net.tag(panns_mel())
        assert_near(logits.sigmoid(), EXPECTED[f"panns.{kind}.clipwise"], tolerance)
        assert_near(embedding, EXPECTED[f"panns.{kind}.embedding"], tolerance)
    encoder = with_layers(ClothoEncoder().eval(), net.state_dict(), fc_audioset=named_layer("fc2", 2048, 300, 50))
    with torch.no_grad():
        output, _ = encoder.tag(torch.from_numpy(EXPECTED["transfer.input"]).transpose(1, 2)[:, None])
    assert_near(output, EXPECTED["transfer.encoder_out"], 1e-3)


def clotho_batch():
    """Two clips of different length, the shorter one padded by 0.0 as in the baseline."""
    audio = torch.from_numpy(golden_waveform(5, 44100, 0, 2))
    mels = ClothoMel().eval()(audio[:1]), ClothoMel().eval()(audio[1:, : int(44100 * 3.7)])
    batch = torch.zeros(2, 1, 64, mels[0].shape[3])
    for row, mel in zip(batch, mels):
        row[:, :, : mel.shape[3]] = mel[0]
    return batch


def test_outputs_of_the_retrieval_encoders():
    torch.manual_seed(0)
    net, batch = ClothoEncoder().eval(), clotho_batch()
    set_named_weights(net, 0, rename=encoder_name)
    maps = []
    for number in range(1, 7):
        getattr(net, f"conv_block{number}").register_forward_hook(lambda _, inputs, output: maps.append(output))
    with torch.no_grad():
        assert_near(net.tag(batch)[0], EXPECTED["cnn14.eval"], 1e-5)
        calibrate_batchnorm(net, batch)
        maps.clear()
        assert_near(net.tag(batch)[0], EXPECTED["cnn14.cal"], 1e-3)
    assert [list(x.shape) for x in maps] == EXPECTED["cnn14.cal.block_shape"].tolist()
    np.testing.assert_allclose([x.mean() for x in maps], EXPECTED["cnn14.cal.block_mean"], atol=1e-4)
    np.testing.assert_allclose([x.std(correction=0) for x in maps], EXPECTED["cnn14.cal.block_std"], atol=1e-4)

    later = ClothoEncoder(projection=1457).eval()
    layers = {"projection": named_layer("fc1", 2048, 1457, 0), "fc_audioset": named_layer("fc2", 1457, 300, 0)}
    with_layers(later, net.state_dict(), **layers)
    with torch.no_grad():
        assert_near(later.tag(batch)[0], EXPECTED["cnn14_2024_fc1457.cal"], 1e-3)


def test_inference_equals_evaluation_with_gradients():
    # without gradients the norms are folded into the kernels
    net, mel = Cnn14(**SMALL), torch.randn(3, 1, 64, 100)
    calibrate_batchnorm(net, mel)
    slow = net.tag(mel)
    with torch.inference_mode():
        for mine, other in zip(net.tag(mel), slow):
            assert_near(mine, other.detach().numpy(), 1e-5)


@pytest.mark.parametrize(("pool_last", "frames"), [(False, (1, 1, 3)), (True, (1, 1, 1))])
def test_short_clips_are_continued_by_their_last_frame(pool_last, frames):
    net = Cnn14(**SMALL, pool_last=pool_last).eval()
    mel = torch.randn(1, 1, 64, 100)
    assert tuple(net(mel[..., :length]).shape[1] for length in (1, 10, 100)) == frames
    needed = 64 if pool_last else 32
    continued = torch.cat([mel[..., :10], mel[..., 9:10].expand(-1, -1, -1, needed - 10)], dim=3)
    assert torch.equal(net(mel[..., :10]), net(continued))


def test_dropout_is_where_it_was_published():
    torch.manual_seed(0)
    net = Cnn14(**SMALL, dropout=0.0, fc_dropout=0.0).train().requires_grad_(False)
    mel = torch.randn(2, 1, 64, 64)
    assert torch.equal(net.tag(mel)[0], net.tag(mel)[0])
    net.last_dropout = 0.5
    (first, embedding), (second, same) = net.tag(mel), net.tag(mel)
    assert torch.equal(embedding, same)
    assert not torch.equal(first, second)
    net.last_dropout, net.fc_dropout = 0.0, 0.5
    assert not torch.equal(net.tag(mel)[1], net.tag(mel)[1])


# -- front ends


def test_mel_of_panns():
    logmel = panns_mel()[:, 0].transpose(1, 2)
    assert_near(logmel[:, ::4], EXPECTED["panns.logmel_every_4th_frame"], 2e-3)  # decibels
    silence = PannsMel().eval()(torch.zeros(1, 3200))
    assert (silence == -100).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 5e-4)])
def test_mel_of_the_retrieval_baseline(dtype, tolerance):
    front_end = ClothoMel().to(dtype).eval()
    audio = torch.from_numpy(golden_waveform(5, 44100, 0, 2)).to(dtype)
    for name, clip in (("item0", audio[:1]), ("item1_3.7s", audio[1:, : int(44100 * 3.7)])):
        assert_near(front_end(clip)[0, 0].T[::4], EXPECTED[f"logmel.{name}_every_4th_frame"], tolerance)
    silence = front_end(torch.zeros(1, 900, dtype=dtype))[0, 0].T
    assert_near(silence, EXPECTED["logmel.silence"], 1e-5)
    assert_near(front_end.bank[:, ::8], EXPECTED["logmel.bank_every_8th_bin"], 1e-8)


# -- checkpoints


def test_published_file_of_panns_loads(tmp_path):
    torch.manual_seed(0)
    source = Cnn14(**SMALL)
    checkpoint = models.get("cnn14").checkpoint("own")
    path = tmp_path / checkpoint.file
    path.parent.mkdir()
    extra = {f"{FRONT_END[0]}stft.conv_real.weight": torch.zeros(2), f"{FRONT_END[1]}melW": torch.zeros(2)}
    torch.save({"iteration": 600000, "model": {**extra, **source.state_dict()}, "sampler": {}}, path)
    net = Cnn14(**SMALL)
    assert not load_pretrained(net, checkpoint, tmp_path, prefix="model.").left
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in net.state_dict().items())
    loaded = load_pretrained(Cnn14(**SMALL, num_classes=50), checkpoint, tmp_path, prefix="model.")
    assert loaded.left == ["fc_audioset.weight", "fc_audioset.bias"]


def test_both_files_load_into_the_retrieval_encoder(tmp_path):
    torch.manual_seed(0)
    source = ClothoEncoder(**SMALL, projection=12)
    checkpoint = models.get("cnn14_clotho").checkpoint("own")
    path = tmp_path / checkpoint.file
    path.parent.mkdir()
    torch.save({encoder_name(name): tensor for name, tensor in source.state_dict().items()}, path)
    net = ClothoEncoder(**SMALL, projection=12)
    assert not load_pretrained(net, checkpoint, tmp_path, prefix="model.").left
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in net.state_dict().items())

    panns = Cnn14(**SMALL)
    torch.save({"model": panns.state_dict()}, path)
    net = ClothoEncoder(**SMALL)
    loaded = load_pretrained(net, checkpoint, tmp_path, prefix="model.")
    assert len(loaded.restored) == 79
    assert loaded.left == ["fc_audioset.weight", "fc_audioset.bias"]
    assert torch.equal(net.fc1.weight, panns.fc1.weight)


# -- bad input


def test_bad_sizes_say_what_is_expected():
    with pytest.raises(ValueError, match=r"cnn14.channels: \(4, 8\) are not 6 numbers"):
        Cnn14(channels=(4, 8))
    with pytest.raises(ValueError, match=r"cnn14 expects 64 mel bands, got 128: set cnn14\.n_mels"):
        Cnn14(**SMALL)(torch.zeros(1, 1, 128, 100))
    with pytest.raises(ValueError, match=r"mel edges 50 and 20000 Hz are not in order within 0 and 16000.0 Hz"):
        PannsMel(fmax=20000)
    with pytest.raises(ValueError, match="win_length: 2048 samples do not fit into n_fft=1024"):
        PannsMel(win_length=2048)
