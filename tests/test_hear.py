"""Taggers under the interface of HEAR: sizes, time stamps, windows as published, and files."""

import numpy as np
import pytest
import torch

from helpers.checkpoints import save
from models import hear
from models.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from models.tagging import RUN_ENTRY, build_tagger
from tests.golden.named_weights import golden_waveform


class Mel(torch.nn.Module):
    sample_rate, min_samples = 1000, 10

    def forward(self, audio):
        assert audio.shape[1] >= self.min_samples
        return audio


class Moments(torch.nn.Module):
    """The embedding of a sound is its mean, its first and its last sample."""

    embed_dim = 3

    def __init__(self):
        super().__init__()
        self.calls = []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def tag(self, mel):
        self.calls.append(tuple(mel.shape))
        return None, torch.stack([mel.mean(1), mel[:, 0], mel[:, -1]], 1)


@pytest.fixture
def moments():
    return HearModel(Mel(), Moments())


@pytest.fixture
def mn01():
    torch.manual_seed(0)
    return HearModel(*build_tagger("mn01_as", n_classes=5))


def ramp(samples, sounds=1):
    return torch.arange(samples, dtype=torch.float32).repeat(sounds, 1) + torch.arange(sounds)[:, None] * 1000


# -- time stamps
def test_time_stamps_as_published(moments):
    embeddings, stamps = get_timestamp_embeddings(ramp(500, 2), moments)
    assert stamps.tolist() == [[50.0 * number for number in range(11)]] * 2
    assert embeddings.shape == (2, 11, 3)
    # 160 ms around 250 ms, and 80 ms of reflection at the start
    assert embeddings[0, 5].tolist() == [pytest.approx(249.5), 170, 329]
    assert embeddings[1, 5].tolist() == [pytest.approx(1249.5), 1170, 1329]
    assert embeddings[0, 0].tolist()[1:] == [80, 79]


def test_windows_are_those_of_an_unfolded_sound(mn01):
    audio = torch.from_numpy(golden_waveform(0.4, 32000, 0, 2))
    embeddings, stamps = get_timestamp_embeddings(audio, mn01)
    size, hop = 5120, 1600
    padded = torch.nn.functional.pad(audio, (size // 2, size // 2), mode="reflect")
    windows = padded.unfold(1, size, hop)
    assert embeddings.shape == (2, windows.shape[1], 96) == (2, 9, mn01.timestamp_embedding_size)
    with torch.no_grad():
        expected = mn01.tagger.tag(mn01.mel(windows[1]))[1]
    torch.testing.assert_close(embeddings[1], expected, rtol=1e-4, atol=1e-5)
    assert stamps[0, -1] == 400


def test_few_windows_at_once(moments):
    get_timestamp_embeddings(ramp(200000), moments)
    assert max(sounds * samples for sounds, samples in moments.tagger.calls) <= hear.BATCH_SAMPLES


def test_own_windows():
    model = HearModel(Mel(), Moments(), window=20, hop=10)
    embeddings, stamps = get_timestamp_embeddings(ramp(100), model)
    assert stamps[0].tolist() == [10.0 * number for number in range(11)]
    assert embeddings[0, 3].tolist() == [pytest.approx(29.5), 20, 39]


def test_a_sound_shorter_than_half_a_window(moments):
    embeddings, stamps = get_timestamp_embeddings(torch.ones(1, 30), moments)
    assert stamps.tolist() == [[0]]
    assert embeddings[0, 0].tolist() == [pytest.approx(30 / 160), 0, 0]


# -- scenes
def test_scene_is_one_pass(moments):
    assert get_scene_embeddings(ramp(10000, 2), moments)[1].tolist() == [pytest.approx(5999.5), 1000, 10999]
    assert moments.tagger.calls == [(2, 10000)]


def test_long_scene_is_the_mean_of_windows(moments):
    audio = ramp(12600)
    found = get_scene_embeddings(audio, moments)
    padded = torch.nn.functional.pad(audio, (5000, 5000), mode="reflect").unfold(1, 10000, 2500)
    assert padded.shape[1] == 6
    expected = torch.stack([padded.mean(2), padded[..., 0], padded[..., -1]], 2).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert {samples for _, samples in moments.tagger.calls} == {10000}


def test_short_scene_is_filled_up(moments):
    assert get_scene_embeddings(torch.ones(3, 4), moments)[2].tolist() == [pytest.approx(0.4), 1, 0]


def test_windows_of_a_network_of_patches_are_filled_up():
    """Those of 160 ms have 14 frames, ASiT takes 16."""
    torch.manual_seed(0)
    model = HearModel(*build_tagger("asit", {"asit": {"embed_dim": 16, "depth": 1, "num_heads": 2}}))
    audio = torch.from_numpy(golden_waveform(0.15, 16000, 0, 1))
    with torch.no_grad():
        expected = model.tagger.tag(model.mel(torch.nn.functional.pad(audio, (0, 400))))[1]
    torch.testing.assert_close(get_scene_embeddings(audio, model), expected)
    assert get_timestamp_embeddings(audio, model)[0].shape == (1, 4, 16)


def test_embeddings_are_plain_tensors(mn01):
    audio = torch.zeros(2, 16000)
    scene, (stamped, stamps) = get_scene_embeddings(audio, mn01), get_timestamp_embeddings(audio, mn01)
    for tensor in (scene, stamped, stamps):
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    assert scene.shape == (2, mn01.scene_embedding_size)
    torch.testing.assert_close(scene[0], scene[1])


# -- files
def test_a_run(tmp_path):
    torch.manual_seed(0)
    config = {"arch": "mn01_as", "pooling": "attention", "mn_mel": {"n_mels": 64}}
    mel, tagger = build_tagger("mn01_as", config, 3, "attention")
    path = tmp_path / "run.ckpt"
    save(path, {RUN_ENTRY: tagger.state_dict(), "classes": ["a", "b", "c"], "config": config})
    model = load_model(str(path))
    assert (model.sample_rate, model.scene_embedding_size, model.mel.n_mels) == (32000, 96, 64)
    audio = torch.from_numpy(golden_waveform(0.5, 32000, 0, 1))
    with torch.no_grad():
        expected = tagger.eval().tag(mel.eval()(audio))[1]
    torch.testing.assert_close(get_scene_embeddings(audio, model), expected)


def test_a_frame_wise_model(tmp_path):
    path = tmp_path / "strong.ckpt"
    config = {"arch": "mn01_as", "dataset": "audioset_strong"}
    save(path, {"state_dict": {"net_strong.x": torch.zeros(1)}, "classes": ["a", "b"], "config": config})
    line = f"^{path} holds a frame-wise model of audioset_strong, expected a tagger$"
    with pytest.raises(ValueError, match=line):
        load_model(str(path))


def test_a_published_file_is_known_by_its_name(tmp_path):
    _, tagger = build_tagger("mn04_as")
    path = tmp_path / "mn04_as_mAP_432.pt"
    torch.save(tagger.state_dict(), path)
    model = load_model(str(path), window=320, hop=100)
    assert model.tagger.plans[-1].out_channels == tagger.plans[-1].out_channels
    torch.testing.assert_close(model.tagger.classifier[5].bias, tagger.classifier[5].bias)
    assert (model.window, model.hop) == (320, 100)
    with pytest.raises(ValueError, match="does not fit"):
        load_model(str(path), arch="mn10_as")


def test_without_a_file_the_published_one_is_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mn10_as_mAP_471\.pt.*download_resources"):
        load_model()
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt: no such weights file"):
        load_model("nowhere.pt")


# -- bad input
def test_bad_sounds(moments):
    for shape in ((100,), (0, 100), (2, 0), (1, 1, 100)):
        for embed in (get_scene_embeddings, get_timestamp_embeddings):
            with pytest.raises(ValueError, match=r"audio has shape .*, expected \[sounds, samples\]"):
                embed(torch.zeros(shape), moments)


@pytest.mark.parametrize(("window", "hop"), [(9, 50), (160, 0), (160, 0.5)])
def test_bad_windows(window, hop):
    with pytest.raises(
        ValueError, match=rf"windows of {window} ms every {hop} ms, expected windows of at least 10\.0 ms"
    ):
        HearModel(Mel(), Moments(), window, hop)


@pytest.mark.data
def test_real_sound(real_data, mn01):
    import soundfile

    sound, rate = soundfile.read(
        real_data / "audioset/mp3/balanced_train_segments/Yf62-S-v2swA.mp3", dtype="float32", always_2d=True
    )
    assert rate == mn01.sample_rate
    audio = torch.from_numpy(np.ascontiguousarray(sound.mean(1)[None, : 3 * rate]))
    embeddings, stamps = get_timestamp_embeddings(audio, mn01)
    assert stamps[0, -1] == 3000
    assert embeddings.std(1).mean() > 0
