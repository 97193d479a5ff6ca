"""Detectors from stage checkpoints: stored logits, both models in every layout, settings, and files that do not fit."""

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

import models
from helpers import checkpoints
from helpers.checkpoints import save, stage_file
from models import registry
from models.crnn import Task4CRNN
from models.frontends import CrnnMel
from models.sed import build_detector, build_detectors, build_model
from models.settings import with_settings_of
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.reference import golden

PUBLISHED = {"atst_frame": "atst_stage2", "fpasst": "passt_stage2", "beats": "beats_stage2"}
SMALL_CRNN = {"n_RNN_cell": 8, "nb_filters": (2, 2, 4, 4, 4, 4, 4), "audioset_classes": 9}
# Part of the config that a run of our own stores.
RUN = {
    "arch": "fpasst",
    "sample_rate": 16000,
    "audio_len": 5,
    "loss_weights": [1, 2],
    "fpasst": {"embed_dim": 32, "depth": 2, "num_heads": 2, "n_classes": 9, "pretrained": False, "wandb_id": "x"},
    "passt_mel": {"fmax_aug_range": 500},
    "mel": {"f_max": 7000, "wkwargs": {"periodic": True}},
    "scaler": {"normtype": "standard"},
    "encoder": {"audio_len": 5, "net_pooling": 4},
    "test": {"audio_length": 5, "batch_size": 3},
    "t4_wrapper": {**SMALL_CRNN, "embed_pool": "int", "dropout": 0.1, "model_init_id": "y", "pretrained_name": "z"},
}


def defaults(arch):
    """The config without any change: sections with all their entries."""
    return {
        "arch": arch,
        "sample_rate": 16000,
        "audio_len": 10,
        **models.sections(),
        "mel": registry.defaults(CrnnMel),
        "t4_wrapper": {**registry.defaults(Task4CRNN), "model_init_id": None},
        "encoder": {"audio_len": 10, "net_pooling": 4},
        "test": {"audio_length": 10, "batch_size": 20},
    }


def module_state(config=RUN):
    """State of a whole module, as the published checkpoints name it: student, teacher, front ends."""
    state = {}
    for seed, role in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        model, mel = build_model(config["arch"], config)
        state |= {f"{role}.{name}": tensor for name, tensor in model.state_dict().items()}
    for prefix, front_end in (("crnn_mel", CrnnMel(**config.get("mel", {}))), ("mel", mel)):
        state |= {f"{prefix}.{name}": tensor for name, tensor in front_end.state_dict().items()}
    return state


def of_role(state, role):
    return {name.removeprefix(f"{role}."): tensor for name, tensor in state.items() if name.startswith(f"{role}.")}


def write(path, state, **entries):
    """A stage checkpoint with the entries that published ones have."""
    save(path, {"state_dict": state, **{role: of_role(state, role) for role in ("student", "teacher")}, **entries})
    return path


@pytest.fixture(scope="module")
def state():
    return module_state()


@pytest.fixture
def stage(tmp_path, state):
    """A stage checkpoint of a run of our own."""
    return write(tmp_path / "mine.ckpt", state, config=RUN)


def noise(seconds=1.0, rate=16000):
    values = np.random.default_rng(0).standard_normal((2, int(seconds * rate)))
    return torch.from_numpy(0.1 * values.astype(np.float32))


def has_state(model, expected):
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


# -- detectors --------------------------------------------------------------------------------------------------------


def assert_stored(value, stored, name, tolerance=1e-3):
    np.testing.assert_allclose(value.numpy(), stored[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("arch", PUBLISHED)
@torch.no_grad()
def test_stored_outputs_of_a_published_checkpoint(arch, tmp_path):
    """From the waveform on, and with nothing named but the architecture."""
    name = PUBLISHED[arch]
    wrapper = registry.get(arch).checkpoints[name].wrapper
    with torch.device("meta"):
        model = Task4CRNN(registry.get(arch).net(), **wrapper)
    set_named_weights(model.to_empty(device="cpu"), 0)
    save(tmp_path / f"{name}.ckpt", {"student": model.state_dict(), "epoch": 3})
    del model
    config, _ = with_settings_of(defaults(arch), {"arch"}, name, tmp_path)
    detector = build_detector(config, name, tmp_path)
    (tmp_path / f"{name}.ckpt").unlink()  # a third of a gigabyte
    seen, model = {}, detector.model
    for part in (model.cnn, model.as_model, model.rnn):
        part.register_forward_hook(lambda module, inputs, output: seen.update({module: output}))
    logits = detector(torch.from_numpy(golden_waveform(10.0, 16000, seed=0, batch=2)))

    stored = golden(f"sed/model_{arch}.npz")
    assert_stored(seen[model.cnn][:, ::4, ::5, 0], stored, "t4.cnn")
    assert_stored(seen[model.as_model][:, ::31, ::8], stored, "t4.as_model")
    assert_stored(seen[model.rnn][:, ::15, ::8], stored, "t4.rnn")
    assert_stored(logits, stored, "t4.logits")
    free = model.head(seen[model.rnn])
    masked = model.head(seen[model.rnn], torch.from_numpy(stored["t4.classes_mask"]))
    for predictions, suffix in ((free, ""), (masked, "_masked")):
        assert_stored(predictions.strong, stored, f"t4.strong{suffix}", 1e-4)
        assert_stored(predictions.weak, stored, f"t4.weak{suffix}", 1e-4)


@pytest.mark.parametrize("mode", ["student", "teacher"])
@pytest.mark.parametrize("layout", ["entries", "state_dict"])
def test_one_model_of_every_layout(tmp_path, state, mode, layout):
    entries = {role: of_role(state, role) for role in ("student", "teacher")}
    save(tmp_path / "a.ckpt", entries if layout == "entries" else {"state_dict": state})
    detector = build_detector(RUN, "a", tmp_path, mode)
    assert has_state(detector.model, of_role(state, mode))


def test_a_detector_is_the_model_on_its_features(stage):
    detector, audio = build_detector(RUN, stage, "unused"), noise()
    x = detector.crnn_mel(audio)
    assert x.shape == (2, 1, 128, 63)
    decibels = (20 * torch.log10(x.clamp(min=1e-5))).clamp(-50, 80)
    scaled = (decibels - decibels.mean((2, 3), keepdim=True)) / decibels.std((2, 3), keepdim=True)
    hidden = detector.model.hidden(scaled, detector.model.as_model(detector.mel(audio)))
    torch.testing.assert_close(detector(audio), detector.model.dense(hidden), rtol=0, atol=1e-5)
    assert detector(audio).shape == (2, 15, 27)


@pytest.mark.parametrize("per_clip_range", [False, True])
def test_a_clip_depends_on_its_batch_mates_only_as_published(tmp_path, per_clip_range):
    """By the 80 dB of ATST's front end, which hang on the loudest clip of a batch unless told otherwise."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    config = {"arch": "atst_frame", "atst_frame": sizes, "atst_mel": {"per_clip_range": per_clip_range}}
    config["t4_wrapper"] = SMALL_CRNN
    path = write(tmp_path / "a.ckpt", module_state(config), config=config)
    detector, audio = build_detector(config, path, ""), noise() * torch.tensor([[10.0], [1e-3]])
    change = (detector(audio)[1] - detector(audio[1:])[0]).abs().max()
    assert (change < 1e-6) if per_clip_range else (change > 1e-3)


def test_a_detector_stays_in_evaluation_mode(stage):
    detector, audio = build_detector(RUN, stage, ""), noise()
    expected = detector(audio)
    assert not expected.requires_grad
    detector.train()
    assert not any(module.training for module in detector.modules())
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    assert torch.equal(detector(audio), expected)


def test_features_and_logits_are_float32_under_autocast(stage):
    detector, audio, seen = build_detector(RUN, stage, ""), noise(), []
    for front_end in (detector.crnn_mel, detector.mel, detector.to_cnn):
        front_end.register_forward_hook(lambda module, inputs, output: seen.append(output))
    expected = detector(audio)
    with torch.autocast("cpu", torch.bfloat16):
        logits = detector(audio)
    assert len(seen) == 6
    assert all(torch.equal(under, plain) for plain, under in zip(seen[:3], seen[3:]))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.1)


def test_audio_of_another_rate_is_resampled(stage):
    audio = noise(rate=32000)
    expected = build_detector(RUN, stage, "")(resample(audio, 32000, 16000))
    torch.testing.assert_close(build_detector({**RUN, "sample_rate": 32000}, stage, "")(audio), expected)


def test_no_other_weights_are_read(stage, monkeypatch):
    files, load = [], torch.load
    monkeypatch.setattr(checkpoints.torch, "load", lambda path, **options: files.append(path) or load(path, **options))
    section = {**RUN["fpasst"], "pretrained": True, "pretrained_name": "passt_as_strong", "wandb_id": None}
    build_detector({**RUN, "fpasst": section}, stage, "")
    build_detectors("fpasst", {**RUN, "t4_wrapper": {**SMALL_CRNN, "model_init_id": str(stage)}}, "", frozen=False)
    assert set(files) == {stage}


def test_files_are_found_by_id_and_by_path(stage):
    assert stage_file("mine", stage.parent) == stage
    assert stage_file("s2.i2,atst", "folder").name == "s2.i2,atst.ckpt"
    assert stage_file(stage, "elsewhere") == stage_file(str(stage), "elsewhere") == stage
    assert str(stage_file("outputs/missing.ckpt", "elsewhere")) == "outputs/missing.ckpt"


# -- stage 2 starts from stage 1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("mode", ["student", "teacher"])
def test_student_and_teacher_start_from_their_own(tmp_path, state, mode, published):
    path = write(tmp_path / "pretrained_models" / "passt_stage1.ckpt", state, **({} if published else {"config": RUN}))
    wrapper = {**RUN["t4_wrapper"], "model_init_mode": mode}
    for name in ("passt_stage1", str(path)):
        config = {**RUN, "t4_wrapper": {**wrapper, "model_init_id": name}}
        student, teacher, *_ = build_detectors("fpasst", config, tmp_path, frozen=False)
        assert student.as_model is not teacher.as_model
        assert has_state(student, of_role(state, "student"))
        assert has_state(teacher, of_role(state, mode))


BUILDERS = {
    "train": lambda arch, name, folder: build_detectors(arch, {"t4_wrapper": {"model_init_id": name}}, folder),
    "predict": lambda arch, name, folder: build_detector({"arch": arch}, name, folder / "pretrained_models"),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine", r"mine\.ckpt is for arch=fpasst, but arch=mn01_as is asked for$"),
        ("passt_stage1", r"passt_stage1\.ckpt is for arch=fpasst, but arch=mn01_as is asked for$"),
        ("unknown", r"unknown\.ckpt does not fit Task4CRNN: .* missing .* unexpected .* different "),
        ("cut", r"cut\.ckpt is truncated or no weights file"),
        ("absent", r"absent\.ckpt: no such weights file.*python download_resources\.py --only absent$"),
        ("tagger", r"tagger\.ckpt has no entry 'student' with tensors \(it has: model\)"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, state, build, name, message):
    folder = tmp_path / "pretrained_models"
    write(folder / "mine.ckpt", state, config=RUN)
    for published in ("passt_stage1", "unknown"):
        write(folder / f"{published}.ckpt", state)
    whole = (folder / "mine.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    save(folder / "tagger.ckpt", {"model": {}})
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        build("mn01_as", name, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_mode_is_named(stage):
    with pytest.raises(ValueError, match=r"^mode: 'both', expected 'student' or 'teacher'$"):
        build_detector(RUN, stage, "", mode="both")


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_of_a_run(stage):
    before = defaults("fpasst")
    config, notes = with_settings_of(before, {"arch"}, "mine", stage.parent)
    assert before == defaults("fpasst")
    expected = {
        ("", "audio_len"): 5,
        ("fpasst", "embed_dim"): 32,
        ("fpasst", "depth"): 2,
        ("fpasst", "num_heads"): 2,
        ("fpasst", "n_classes"): 9,
        ("passt_mel", "fmax_aug_range"): 500,
        ("mel", "f_max"): 7000,
        ("mel", "wkwargs"): {"periodic": True},
        ("scaler", "normtype"): "standard",
        ("encoder", "audio_len"): 5,
        ("test", "audio_length"): 5,
        **{("t4_wrapper", entry): RUN["t4_wrapper"][entry] for entry in (*SMALL_CRNN, "embed_pool", "dropout")},
    }
    for (section, entry), value in expected.items():
        assert (config[section] if section else config)[entry] == value, (section, entry)
    unchanged = defaults("fpasst")
    for section, entry in expected:
        (unchanged.setdefault(section, {}) if section else unchanged)[entry] = expected[section, entry]
    assert config == unchanged  # nothing else has changed, above all not what says what is loaded
    assert len(notes) == len(expected)
    assert "t4_wrapper.embed_pool='int' of mine.ckpt instead of 'aap'" in notes
    detector = build_detector(config, "mine", stage.parent)
    assert detector.crnn_mel.mel_scale.f_max == 7000
    assert detector.mel.edges.fmax == 7750
    assert detector.model.embed_pool == "int"


def test_what_the_user_gives_stays(stage):
    given = {"t4_wrapper.embed_pool", "mel.wkwargs.periodic", "audio_len"}
    before = defaults("fpasst")
    config, notes = with_settings_of(before, given, "mine", stage.parent)
    assert config["t4_wrapper"]["embed_pool"] == "aap"
    assert config["mel"]["wkwargs"] == before["mel"]["wkwargs"]
    assert config["audio_len"] == 10
    assert config["mel"]["f_max"] == 7000
    assert "t4_wrapper.embed_pool='aap' as given, mine.ckpt was trained with 'int'" in notes
    same = {**before, "t4_wrapper": {**before["t4_wrapper"], "embed_pool": "int"}}
    _, notes = with_settings_of(same, given, "mine", stage.parent)
    assert not any("embed_pool" in note for note in notes)


def test_the_architecture_is_that_of_the_run_unless_it_is_given(stage):
    config, notes = with_settings_of(defaults("atst_frame"), set(), stage, "")
    assert config["arch"] == "fpasst"
    assert config["fpasst"]["depth"] == 2
    assert notes[0] == "arch=fpasst of mine.ckpt instead of atst_frame"
    build_detector(config, stage, "")
    with pytest.raises(ValueError, match=r"mine\.ckpt is for arch=fpasst, but arch=atst_frame is asked for$"):
        with_settings_of(defaults("atst_frame"), {"arch"}, stage, "")


TOKENS = {"t4_wrapper.embed_pool": "int", "t4_wrapper.interpolation_mode": "nearest-exact"}
TABLE = {
    "atst_stage2": ("atst_frame", {"arch"}, {}),
    "passt_stage2": ("fpasst", {"arch"}, {**TOKENS, "passt_mel.fmax_aug_range": 2000}),
    "beats_stage2": ("beats", {"arch", "t4_wrapper.no_wrapper"}, TOKENS),
}


@pytest.mark.parametrize("name", TABLE)
def test_settings_of_a_published_checkpoint(tmp_path, name):
    """With what the published commands give."""
    arch, given, changed = TABLE[name]
    save(tmp_path / f"{name}.ckpt", {"student": {}, "epoch": 1})
    before = defaults(arch)
    if "t4_wrapper.no_wrapper" in given:
        before["t4_wrapper"]["no_wrapper"] = True
    config, notes = with_settings_of(before, given, name, tmp_path)
    assert {note.partition(" of ")[0] for note in notes} == {f"{key}={value!r}" for key, value in changed.items()}
    for key, value in changed.items():
        section, entry = key.split(".")
        assert config[section][entry] == value
    with pytest.raises(ValueError, match=rf"{name}\.ckpt is for arch={arch}, but arch=mn01_as is asked for"):
        with_settings_of(defaults("mn01_as"), {"arch"}, name, tmp_path)
    assert with_settings_of(defaults("mn01_as"), set(), name, tmp_path)[0]["arch"] == arch


def test_a_file_that_says_nothing_about_its_settings(tmp_path):
    save(tmp_path / "other.ckpt", {"student": {}})
    config, notes = with_settings_of(defaults("beats"), set(), "other", tmp_path)
    assert config == defaults("beats")
    assert notes == ["other.ckpt says nothing about its settings, those of the config are used"]


def test_settings_of_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"atst_stage2\.ckpt: no such .*--only atst_stage2$"):
        with_settings_of(defaults("atst_frame"), set(), "atst_stage2", "nowhere")
