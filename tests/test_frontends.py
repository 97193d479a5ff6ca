"""Mel front ends: published values, torchaudio, precision, draws of training mode, bad input."""

import copy

import numpy as np
import pytest
import torch
from torchaudio.compliance.kaldi import fbank
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from models import frontends
from models.frontends import AtstMel, BeatsFbank, CrnnMel, KaldiMel, MnMel, Scaler, amplitude_to_db
from models.registry import defaults
from models.spectrum import MelDraw, power_spectrum
from tests.golden.named_weights import golden_waveform
from tests.reference import golden

ALL = {"crnn": CrnnMel, "atst": AtstMel, "passt": KaldiMel, "beats": BeatsFbank, "mn": MnMel}
PUBLISHED = {
    "crnn_mel": CrnnMel,
    "crnn_log": lambda: lambda audio: amplitude_to_db(CrnnMel()(audio)),
    "crnn_scaled": lambda: lambda audio: Scaler()(amplitude_to_db(CrnnMel()(audio))),
    "atst_mel": AtstMel,
    "passt_mel_default_stage1": KaldiMel,
    "passt_mel_default_stage2": lambda: KaldiMel(fmin_aug_range=10, fmax_aug_range=1000).eval(),
    "passt_mel_readme_commands": lambda: KaldiMel(fmax_aug_range=2000).eval(),
    "beats_fbank": BeatsFbank,
}
# name: (relative, absolute, mean) tolerance
TOLERANCE = {"crnn_mel": (1e-4, 1e-4, 1e-2), "crnn_log": (0, 5e-3, 1e-4), "beats_fbank": (0, 1e-2, 2e-5)}
TOLERANCE |= {name: (0, 2e-4, 2e-5) for name in ("crnn_scaled", "atst_mel")}
LOG_MEL = (0, 5e-3, 2e-5)


def clips(seconds=10.0, batch=2, rate=16000):
    return torch.from_numpy(golden_waveform(seconds, rate, 0, batch))


def noise(samples=16000, batch=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 0.5, (batch, samples)).astype(np.float32))


# --- published values


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_features(name):
    expected = golden("sed/frontends.npz")
    front_end = PUBLISHED[name]()
    x = front_end(clips()).numpy()
    assert list(x.shape) == expected[f"{name}.shape"].tolist()
    assert x.dtype == np.float32
    relative, absolute, mean = TOLERANCE.get(name, LOG_MEL)
    part, difference = expected[name], np.abs(x[..., expected[f"{name}.frames"]] - expected[name])
    assert (difference <= absolute + relative * np.abs(part)).all()
    assert difference.mean() <= mean
    np.testing.assert_allclose(x.mean(-1), expected[f"{name}.time_mean"], rtol=1e-5, atol=2e-5)
    summary = [x.mean(), x.std(), x.min(), x.max()]
    np.testing.assert_allclose(summary, expected[f"{name}.summary"], rtol=1e-4, atol=1e-3)

    short = front_end(clips(5.5, 1)).numpy()
    assert list(short.shape) == expected[f"short.{name}.shape"].tolist()
    summary = [short.mean(), short.std(), short.min(), short.max()]
    np.testing.assert_allclose(summary, expected[f"short.{name}.summary"], rtol=1e-4, atol=1e-3)

    silence = front_end(torch.zeros(1, 160000))
    np.testing.assert_allclose([silence.min(), silence.max()], expected[f"silence.{name}"], atol=1e-6)


def test_the_range_of_a_quiet_clip_hangs_on_its_batch_unless_taken_per_clip():
    expected = golden("sed/frontends.npz")
    frames = expected["atst_mel.frames"]
    audio = clips()
    audio[1] *= 1e-4
    in_batch, alone = AtstMel()(audio)[1], AtstMel()(audio[1:])[0]
    np.testing.assert_allclose(in_batch[..., frames], expected["atst_mel_quiet_in_batch"], atol=2e-4)
    np.testing.assert_allclose(alone[..., frames], expected["atst_mel_quiet_alone"], atol=2e-4)
    assert (in_batch - alone).abs().max() > 0.1
    assert torch.equal(AtstMel(per_clip_range=True)(audio)[1], alone)


@pytest.mark.parametrize("hop", [160, 320, 800])
def test_published_features_of_the_mobilenets(hop):
    x = MnMel(hopsize=hop).eval()(clips(3.0, 1, 32000))
    np.testing.assert_allclose(x[0, 0], golden("tagging/mel.npz")[f"hop_{hop}"], atol=1e-4)


def test_published_features_of_the_mobilenets_with_other_bands():
    expected, audio = golden("tagging/mel.npz"), clips(3.0, 1, 32000)
    np.testing.assert_allclose(MnMel(n_mels=256)(audio)[0, 0], expected["mels_256"], atol=1e-4)
    np.testing.assert_allclose(MnMel(fmin=7, fmax=14321)(audio)[0, 0], expected["fmin_7_fmax_14321"], atol=1e-4)
    np.testing.assert_allclose(MnMel(n_mels=64).bank, expected["bank_64"], atol=1e-6)


def test_published_draws_of_training_mode():
    expected = golden("tagging/mel.npz")
    fmin, fmax = expected["train_fmin_fmax"].tolist()
    mel = MnMel(freqm=48, timem=192)
    draw = MelDraw(fmin, fmax, expected["train_freq_mask"], expected["train_time_mask"])
    x = mel.log_mel(mel.padded(clips(10.0, 2, 32000)[:, :96000]), draw)
    np.testing.assert_allclose(x, expected["train_seeded"], atol=1e-4)


@pytest.mark.parametrize("normtype", ["minmax", "standard", "mean"])
def test_published_scaling(normtype):
    expected = golden("sed/augmentations.npz")
    x = torch.from_numpy(expected["scaler.input"])
    np.testing.assert_allclose(Scaler(normtype=normtype)(x), expected[f"scaler.{normtype}"], atol=1e-5)
    assert torch.equal(Scaler(normtype=normtype, statistic=None)(x), x)


# --- torchaudio


def test_beats_fbank_equals_kaldi_clip_by_clip():
    audio = clips(3.0)
    audio[1] *= 0.01
    kaldi = torch.stack([fbank(clip[None] * 2**15, num_mel_bins=128, sample_frequency=16000) for clip in audio])
    expected = (kaldi - BeatsFbank.MEAN) / (2 * BeatsFbank.STD)
    torch.testing.assert_close(BeatsFbank()(audio)[:, 0], expected.transpose(1, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"power": 2, "norm": "slaney", "mel_scale": "slaney"},
        {"normalized": True, "window_fn": "hann_window", "wkwargs": None},
        {"normalized": "frame_length", "power": 1.5},
        {"center": False, "win_length": 1600},
        {"pad": 300, "pad_mode": "constant", "f_min": 50, "f_max": None},
        {"n_fft": 1024, "win_length": None, "hop_length": None, "n_mels": 40},
    ],
)
def test_crnn_mel_equals_torchaudio(options):
    settings = defaults(CrnnMel) | options
    settings.pop("onesided")
    settings["window_fn"] = getattr(torch, settings["window_fn"])
    audio = noise()
    torch.testing.assert_close(CrnnMel(**options)(audio)[:, 0], MelSpectrogram(**settings)(audio))


def test_same_padding_gives_one_frame_per_hop():
    audio = noise(16000)
    mel = KaldiMel(padding="same", preamp=False, win_length=512, hopsize=160)
    padded = torch.nn.functional.pad(audio, (176, 176), mode="reflect")
    expected = torch.stft(padded, 512, 160, window=torch.hann_window(512), center=False, return_complex=True)
    assert mel(audio).shape[-1] == 100
    power = power_spectrum(mel.padded(audio), mel.window, 512, 160)
    torch.testing.assert_close(power, expected.abs().square().transpose(1, 2), rtol=1e-4, atol=1e-4)


# --- what all front ends promise


@pytest.mark.parametrize("name", ALL)
def test_clips_do_not_depend_on_their_batch(name):
    mel = AtstMel(per_clip_range=True) if name == "atst" else ALL[name]()
    audio = noise(8000) * torch.tensor([[1.0], [0.1], [1e-3]])
    whole = mel(audio)
    assert whole.shape[:2] == (3, 1)
    for clip, features in zip(audio, whole):
        torch.testing.assert_close(mel(clip[None])[0], features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_features_are_float32_under_autocast(name):
    mel, audio = ALL[name](), noise()
    expected = mel(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mel(audio), expected)
        assert torch.equal(mel(audio.double()), expected)
    assert expected.dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_float32_is_enough(name):
    audio = noise(32000)
    mel = ALL[name]()
    single, double = mel(audio), copy.deepcopy(mel).double()(audio.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("name", ALL)
def test_int16_samples_are_scaled(name):
    audio = (noise() * 32768).to(torch.int16)
    mel = ALL[name]()
    assert torch.equal(mel(audio), mel(audio.float() / 32768))


@pytest.mark.parametrize("name", ALL)
def test_audio_of_another_rate_is_resampled(name):
    mel, audio = ALL[name](), noise(22050)
    expected = mel(resample(audio, 44100, mel.sample_rate))
    names = list(mel.state_dict())
    mel.input_rate = 44100
    torch.testing.assert_close(mel(audio), expected)
    torch.testing.assert_close(copy.deepcopy(mel)(audio), expected)
    assert list(mel.state_dict()) == names
    mel.input_rate = mel.sample_rate
    direct = noise(mel.sample_rate)
    assert torch.equal(mel(direct), ALL[name]()(direct))


def test_names_in_the_state_dict_are_the_published_ones():
    assert list(CrnnMel().state_dict()) == ["spectrogram.window", "mel_scale.fb"]
    assert list(AtstMel().state_dict()) == ["mel_transform.spectrogram.window", "mel_transform.mel_scale.fb"]
    assert not KaldiMel().state_dict()
    assert not BeatsFbank().state_dict()
    for arch, prefix in (("atst_frame", "crnn_mel."), ("atst_frame", "mel."), ("beats", "crnn_mel.")):
        shapes = golden(f"sed/state_dict_t4_{arch}.json")["shapes"]
        mel = CrnnMel() if prefix == "crnn_mel." else AtstMel()
        expected = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        assert {name: list(tensor.shape) for name, tensor in mel.state_dict().items()} == expected


def test_config_entries_are_the_published_ones():
    mel = "center f_max f_min hop_length mel_scale n_fft n_mels norm normalized onesided pad pad_mode power"
    assert set(defaults(CrnnMel)) == {*mel.split(), "sample_rate", "win_length", "window_fn", "wkwargs"}
    passt = "fast_norm fmax fmax_aug_range fmin fmin_aug_range freqm hopsize htk n_fft n_mels norm padding"
    passt += " periodic_window preamp sr timem trainable win_length"
    assert set(defaults(KaldiMel)) == set(passt.split())


# --- draws of training mode


def test_draws_need_a_generator_and_training_mode():
    audio = noise()
    mel = KaldiMel(fmin_aug_range=100, fmax_aug_range=2000, freqm=20, timem=20)
    evaluation = mel.eval()(audio)
    assert torch.equal(mel(audio, np.random.default_rng(0)), evaluation)
    mel.train()
    assert torch.equal(mel(audio), evaluation)
    first = mel(audio, np.random.default_rng(0))
    assert torch.equal(mel(audio, np.random.default_rng(0)), first)
    assert not torch.equal(first, evaluation)
    assert not torch.equal(mel(audio, np.random.default_rng(1)), first)


def test_drawn_edges_cover_their_ranges():
    mel = MnMel(fmin=20, fmin_aug_range=3, fmax_aug_range=5)
    assert mel.edges == (20, 15998, None, None)
    rng = np.random.default_rng(0)
    draws = [mel.draw(rng, 1, 10) for _ in range(200)]
    assert {draw.fmin for draw in draws} == {20, 21, 22}
    assert {draw.fmax for draw in draws} == {15996, 15997, 15998, 15999, 16000}


def test_drawn_masks_are_one_range_per_clip():
    mel = KaldiMel(freqm=30, timem=40)
    features = mel(noise(16000, batch=50), np.random.default_rng(0))[:, 0]
    masked = features == 0.9
    widest = {1: 30, 2: 40}
    for axis in (1, 2):
        widths = masked.all(axis).sum(-1)
        assert 0 < widths.max() < widest[3 - axis]
        assert len(widths.unique()) > 10
    draw = mel.draw(np.random.default_rng(0), 50, 100)
    assert (draw.frames[:, 1] <= 100).all()
    assert (draw.bands >= 0).all()


def test_the_bank_is_built_once_for_evaluation_and_per_draw_in_training(monkeypatch):
    built = []
    bank = frontends.kaldi_mel_bank
    monkeypatch.setattr(frontends, "kaldi_mel_bank", lambda *edges: built.append(edges) or bank(*edges))
    mel, audio, rng = KaldiMel(fmax_aug_range=2000).eval(), noise(), np.random.default_rng(0)
    for _ in range(3):
        mel(audio, rng)
    assert len(built) == 1
    assert mel.bank.device == audio.device
    mel.train()
    mel(audio, rng)
    assert len(built) == 2


# --- bad input


@pytest.mark.parametrize("name", ALL)
def test_audio_of_another_shape_or_kind_is_refused(name):
    mel = ALL[name]()
    cls = type(mel).__name__
    with pytest.raises(ValueError, match=rf"{cls} expects audio of shape \[batch, samples\], got \(16000,\)"):
        mel(noise()[0])
    with pytest.raises(ValueError, match=rf"{cls} expects float or int16 samples, got torch.int64"):
        mel(torch.zeros(1, 16000, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"{cls} needs at least {mel.min_samples} samples at {mel.sample_rate} Hz"):
        mel(torch.zeros(1, mel.min_samples - 1))
    assert mel(torch.zeros(1, mel.min_samples)).shape[-1] >= 1
    mel.input_rate = -1
    with pytest.raises(ValueError, match="input_rate must be positive, got -1"):
        mel(noise())


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({"center": False}, 2048),
        ({"pad": 100}, 825),
        ({"pad_mode": "constant"}, 1),
    ],
)
def test_shortest_input_of_the_cnn_branch(options, samples):
    mel = CrnnMel(**options)
    assert mel.min_samples == samples
    assert mel(torch.zeros(1, samples)).shape[-1] >= 1


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (CrnnMel, {"window_fn": "hamming"}, r"mel\.window_fn: unknown window 'hamming' \(known: hamming_window"),
        (CrnnMel, {"onesided": False}, r"mel\.onesided"),
        (Scaler, {"statistic": "dataset"}, r"scaler\.statistic: 'dataset'"),
        (Scaler, {"normtype": "max"}, r"scaler\.normtype: 'max'"),
        (KaldiMel, {"htk": True}, "htk"),
        (KaldiMel, {"norm": 2}, "norm: .* got 2"),
        (KaldiMel, {"trainable": True}, "trainable"),
        (KaldiMel, {"padding": "valid"}, "padding: 'valid' is neither"),
        (KaldiMel, {"win_length": 600}, "win_length: 600 samples do not fit into n_fft=512"),
        (KaldiMel, {"hopsize": 0}, "hopsize: 0"),
        (KaldiMel, {"freqm": -1}, "freqm, timem"),
        (KaldiMel, {"fmax_aug_range": 0}, "fmax_aug_range: 1 is no augmentation"),
        (KaldiMel, {"fmax": 7900, "fmax_aug_range": 1000}, r"fmax: with fmax_aug_range .* 8400 Hz"),
        (KaldiMel, {"fmin": 9000}, "mel bank: edges 9000 and 8000 Hz"),
        (MnMel, {"fmin": -1}, "mel bank: edges -1 and"),
    ],
)
def test_options_without_meaning_are_refused(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)
