"""Clips as samples, stored predictions as labels, and clips that cannot be read."""

import pickle

import h5py
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from data_util.audio import AudioReader
from data_util.classes import desed_mask
from data_util.clips import CROP, WAVMIX, Clips, Concat, PseudoLabels, generator
from data_util.errors import BadAudio, DataMissing, WrongSampleRate
from data_util.events import FrameGrid, StrongLabels, clip_id, read_events
from data_util.samples import Source

RATE = 16000
GRID = FrameGrid(audio_len=1)  # 15 label frames
READER = AudioReader(RATE, 1.0)


@pytest.fixture
def files(tmp_path):
    """Four clips: 0.5, 1, 2 and 3 s of noise."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"clip_{i}.wav") for i in range(4)]
    for path, seconds in zip(paths, (0.5, 1, 2, 3)):
        soundfile.write(path, rng.uniform(-0.5, 0.5, int(seconds * RATE)), RATE, subtype="FLOAT")
    return paths


def write_pseudo(path, names, frames=GRID.n_frames, classes=27):
    logits = np.random.default_rng(0).standard_normal((len(names), frames, classes)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["filenames"] = names
        file["strong_logits"] = logits
    return logits


def clips(files, **options):
    return Clips(files, Source.REAL, desed_mask(), READER, GRID, **options)


def break_file(path):
    with open(path, "wb") as file:
        file.write(b"broken")


# -- samples ---------------------------------------------------------------------------------------
def test_sample_without_labels(files):
    sample = clips(files)[0]
    assert list(sample) == ["audio", "strong", "weak", "pseudo", "valid", "source", "filename"]
    shapes = {key: (tuple(sample[key].shape), sample[key].dtype) for key in list(sample)[:5]}
    assert shapes == {
        "audio": ((RATE,), torch.float32),
        "strong": ((27, 15), torch.float32),
        "weak": ((27,), torch.float32),
        "pseudo": ((27, 15), torch.float32),
        "valid": ((27,), torch.bool),
    }
    assert (sample["source"], type(sample["source"]), sample["filename"]) == (1, int, files[0])
    assert not sample["strong"].any()
    assert not sample["pseudo"].any()
    assert not sample["audio"][RATE // 2 :].any()
    assert sample["audio"][: RATE // 2].abs().max() > 0.4
    np.testing.assert_array_equal(sample["valid"], desed_mask())


def test_labels_move_with_the_crop(files, tmp_path):
    (tmp_path / "t.tsv").write_text(f"filename\tonset\toffset\tevent_label\n{files[3]}\t1.25\t1.5\tCat\n")
    labels = StrongLabels(read_events(tmp_path / "t.tsv"), GRID)
    data = clips([files[3]], labels=labels)
    whole, _ = soundfile.read(files[3], dtype="float32")
    assert not data[0]["weak"].any()  # evaluation takes the first second, the cat comes later
    seen = set()
    for seed in range(12):
        sample = data[0, (seed,)]
        first = int(np.flatnonzero(whole == sample["audio"][0].item())[0])
        np.testing.assert_array_equal(sample["audio"], whole[first : first + RATE])
        strong, weak = labels(0, first / RATE)
        np.testing.assert_array_equal(sample["strong"], strong)
        np.testing.assert_array_equal(sample["weak"], weak)
        seen.add(bool(weak.any()))
    assert seen == {True, False}


def test_key_alone_decides_the_draws(files):
    data = clips(files)
    first, again, other = data[3, (1, 2, 3)], data[3, (1, 2, 3)], data[3, (1, 2, 4)]
    torch.testing.assert_close(first["audio"], again["audio"], rtol=0, atol=0)
    assert not torch.equal(first["audio"], other["audio"])
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    data[3, (9,)]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_streams_are_independent():
    draws = [
        generator(key, stream).random() for key in ((1, 2), (1, 2, 0), (2, 1), (1, 2, 1)) for stream in (CROP, WAVMIX)
    ]
    assert len(set(draws)) == len(draws) - 2  # (1, 2) and (1, 2, 0) are one key to a seed sequence
    assert generator(None, CROP) is None


def test_negative_index(files):
    data = clips(files)
    assert data[-1]["filename"] == files[3]
    joined = Concat([data, clips(files[:2])])
    assert joined[-1]["filename"] == files[1]
    with pytest.raises(IndexError):
        joined[6]


def test_concat_passes_keys_on(files):
    parts = [clips(files[:1]), clips(files[3:]), clips(files[:2])]
    joined = Concat([Concat(parts[:2]), parts[2]])
    assert len(joined) == 4
    assert [joined[i]["filename"] for i in range(4)] == [files[0], files[3], files[0], files[1]]
    torch.testing.assert_close(joined[1, (7,)]["audio"], parts[1][0, (7,)]["audio"], rtol=0, atol=0)


# -- pseudo-labels ---------------------------------------------------------------------------------
def test_pseudo_labels(files, tmp_path):
    names = [clip_id(path) for path in reversed(files)]
    logits = write_pseudo(tmp_path / "p.hdf5", names)
    data = clips(files, pseudo=PseudoLabels(tmp_path / "p.hdf5", GRID))
    for i in range(4):
        expected = 1 / (1 + np.exp(-logits[3 - i].T.astype(np.float64)))
        np.testing.assert_allclose(data[i]["pseudo"], expected, rtol=0, atol=1e-6)


def test_pseudo_labels_belong_to_the_start_of_a_clip(files, tmp_path):
    write_pseudo(tmp_path / "p.hdf5", [clip_id(path) for path in files])
    data = clips(files, pseudo=PseudoLabels(tmp_path / "p.hdf5", GRID))
    torch.testing.assert_close(data[3, (5,)]["audio"], data[3]["audio"], rtol=0, atol=0)


def test_fixed_length_names_and_half_precision(files, tmp_path):
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["filenames"] = np.array([clip_id(path) for path in files], dtype="S20")
        file["strong_logits"] = np.zeros((4, GRID.n_frames, 27), dtype=np.float16)
    assert (clips(files, pseudo=PseudoLabels(tmp_path / "p.hdf5", GRID))[2]["pseudo"] == 0.5).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_pseudo_labels_travel_to_loader_processes(files, tmp_path, workers):
    logits = write_pseudo(tmp_path / "p.hdf5", [clip_id(path) for path in files])
    data = clips(files, pseudo=PseudoLabels(tmp_path / "p.hdf5", GRID))
    data[0]  # leaves the file open in this process
    data = pickle.loads(pickle.dumps(data))
    data[0]
    batch = next(iter(DataLoader(data, batch_size=4, num_workers=workers)))
    np.testing.assert_allclose(batch["pseudo"], 1 / (1 + np.exp(-logits.swapaxes(1, 2))), rtol=0, atol=1e-6)
    assert batch["filename"] == files
    assert batch["source"].tolist() == [1] * 4


def test_file_handle_of_another_process_is_not_used(tmp_path, monkeypatch):
    write_pseudo(tmp_path / "p.hdf5", ["a"])
    pseudo = PseudoLabels(tmp_path / "p.hdf5", GRID)
    opened = []
    open_file = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *args: opened.append(args) or open_file(*args))
    pseudo.read(0)
    pseudo.read(0)
    assert len(opened) == 1
    monkeypatch.setattr("os.getpid", lambda: -1)  # as after a fork
    pseudo.read(0)
    assert len(opened) == 2


def test_pseudo_labels_of_another_length(tmp_path):
    write_pseudo(tmp_path / "p.hdf5", ["a"], frames=250)
    with pytest.raises(ValueError, match=r"p\.hdf5: strong_logits has shape \(1, 250, 27\), expected \(1, 15, 27\)"):
        PseudoLabels(tmp_path / "p.hdf5", GRID)


def test_pseudo_labels_of_other_classes(tmp_path):
    write_pseudo(tmp_path / "p.hdf5", ["a"], classes=10)
    with pytest.raises(ValueError, match=r"p\.hdf5: strong_logits has shape \(1, 15, 10\), expected \(1, 15, 27\)"):
        PseudoLabels(tmp_path / "p.hdf5", GRID)


def test_clip_without_pseudo_labels(files, tmp_path):
    write_pseudo(tmp_path / "p.hdf5", ["clip_0", "clip_2"])
    with pytest.raises(ValueError, match=r"p\.hdf5: no pseudo-labels for 2 of 4 clips: clip_1"):
        clips(files, pseudo=PseudoLabels(tmp_path / "p.hdf5", GRID))


def test_bad_pseudo_label_files(tmp_path):
    with pytest.raises(DataMissing, match=r"no file of pseudo-labels .*p\.hdf5"):
        PseudoLabels(tmp_path / "p.hdf5", GRID)
    (tmp_path / "p.hdf5").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"p\.hdf5: not readable as HDF5"):
        PseudoLabels(tmp_path / "p.hdf5", GRID)
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["filenames"] = ["a"]
    with pytest.raises(ValueError, match=r"p\.hdf5: no entry 'strong_logits'"):
        PseudoLabels(tmp_path / "p.hdf5", GRID)


# -- bad audio -------------------------------------------------------------------------------------
def test_bad_audio_is_fatal_by_default(files):
    break_file(files[1])
    data = clips(files)
    data[0]
    with pytest.raises(BadAudio, match=r"clip_1\.wav: not readable as audio"):
        data[1]


def test_bad_audio_is_skipped_and_named_once(files, caplog):
    break_file(files[3])
    data = clips(files, on_bad_audio="skip")
    for _ in range(3):
        assert data[3, (1,)]["filename"] == files[0]  # the next one, from the beginning again
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [files[3]]
    break_file(files[0])
    assert data[3]["filename"] == files[1]
    assert data[0]["filename"] == files[1]
    assert len(caplog.records) == 2


def test_stand_in_has_its_own_labels(files, tmp_path):
    rows = "".join(f"{path}\t0\t1\t{label}\n" for path, label in zip(files, ("Cat", "Dog", "Blender", "Speech")))
    (tmp_path / "t.tsv").write_text("filename\tonset\toffset\tevent_label\n" + rows)
    write_pseudo(tmp_path / "p.hdf5", [clip_id(path) for path in files])
    options = dict(labels=StrongLabels(read_events(tmp_path / "t.tsv"), GRID), on_bad_audio="skip")
    data = clips(files, pseudo=PseudoLabels(tmp_path / "p.hdf5", GRID), **options)
    expected = data[2]
    break_file(files[1])
    for key, value in data[1].items():
        assert torch.equal(value, expected[key]) if torch.is_tensor(value) else value == expected[key]


def test_nothing_can_be_read(files):
    for path in files:
        break_file(path)
    with pytest.raises(BadAudio, match=r"none of the 4 clips can be read, among them .*clip_2\.wav"):
        clips(files, on_bad_audio="skip")[2]


def test_wrong_sample_rate_is_never_skipped(files):
    soundfile.write(files[0], np.zeros(32000), 32000)
    with pytest.raises(WrongSampleRate, match=r"clip_0\.wav: sample rate 32000 Hz, expected 16000 Hz"):
        clips(files, on_bad_audio="skip")[0]


def test_unknown_policy(files):
    with pytest.raises(ValueError, match=r"training\.on_bad_audio is 'ignore', expected 'raise' or 'skip'"):
        clips(files, on_bad_audio="ignore")
