"""What training adds to tagging clips: augmentation, sampling by rarity, and a teacher's logits."""

import json
import pickle

import h5py
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import Dataset

from data_util.clips import CROP, PARTNER, WAVMIX, generator
from data_util.errors import DataMissing, TableError
from data_util.mixing import apply_impulse_response, draw_mix_weight
from data_util.tagging import training_set
from data_util.tagging_augment import (
    GAIN,
    MIX_BETA,
    ROLL,
    Gain,
    Hardened,
    Roll,
    WaveformMixup,
    WithTeacher,
    mix_logits,
    mix_samples,
)
from data_util.tagging_clips import clips_of, packed, unpacked
from data_util.tagging_samplers import ClipBatchSampler, label_weights, training_loader
from data_util.teacher import TeacherLogits
from tests.reference import golden
from tests.tagging_sets import make_esc50, make_folder, make_openmic, noise

KEY = (3, 1, 4)


@pytest.fixture(scope="module")
def published():
    return golden("tagging/training.npz")


class Noise(Dataset):
    """Six samples; item i has class i; it remembers how it was asked."""

    def __init__(self, extra=None):
        self.asked, self.extra = [], extra or {}

    def __len__(self):
        return 6

    def __getitem__(self, item):
        index, key = item if isinstance(item, tuple) else (item, None)
        self.asked.append((index, key))
        audio = torch.from_numpy(noise(0.01, seed=index) + 0.1)
        extra = {name: values[index] for name, values in self.extra.items()}
        return {"audio": audio, "target": torch.eye(6)[index], "filename": f"{index}.wav", "index": index, **extra}


# -- augmentation ----------------------------------------------------------------------------------
def test_streams_of_draws_differ():
    assert len({CROP, WAVMIX, PARTNER, GAIN, ROLL}) == 5


class Fixed:
    """A generator whose every integer is the same."""

    def __init__(self, value):
        self.integers = lambda *_, **__: value


class Waveform(Noise):
    """One published waveform."""

    def __init__(self, audio):
        super().__init__()
        self.audio = torch.from_numpy(audio)

    def __getitem__(self, item):
        return {"audio": self.audio}


def test_gain_and_roll_as_published(published, monkeypatch):
    data = Waveform(published["wave.x"][0])
    monkeypatch.setattr("data_util.tagging_augment.generator", lambda *_: Fixed(int(published["wave.gain_db"])))
    np.testing.assert_allclose(Gain(data)[0, KEY]["audio"], published["wave.gain_out"][0], rtol=0, atol=1e-6)
    for shift in (-123, 0, 250, 599):
        monkeypatch.setattr("data_util.tagging_augment.generator", lambda *_, shift=shift: Fixed(shift))
        np.testing.assert_array_equal(Roll(data)[0, KEY]["audio"], published[f"wave.roll_{shift}"][0])


def test_gains_drawn():
    plain, data = Noise()[2]["audio"], Gain(Noise(), 12)
    gains = [20 * np.log10(float(data[2, (seed,)]["audio"].norm() / plain.norm())) for seed in range(400)]
    np.testing.assert_allclose(gains, np.rint(gains), atol=1e-4)
    assert {round(gain) for gain in gains} == set(range(-12, 12))  # as published: never +12 dB


def test_shifts_drawn():
    audio = np.zeros(10001, np.float32)
    audio[5000] = 1
    shifts = [int(Roll(Waveform(audio))[0, (seed,)]["audio"].argmax()) - 5000 for seed in range(200)]
    assert -4000 <= min(shifts) < -3800
    assert 3800 < max(shifts) <= 4000
    assert abs(np.mean(shifts)) < 500


def test_waveform_mixup_as_published(published):
    samples = [
        {"audio": torch.from_numpy(x[0]), "target": torch.from_numpy(y)}
        for x, y in zip(published["wavemix.x"], published["wavemix.targets"])
    ]
    mixed = mix_samples(samples[0], samples[1], 0.7)
    np.testing.assert_allclose(mixed["audio"], published["wavemix.forced_x"][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed["target"], published["wavemix.forced_y"], rtol=0, atol=1e-6)
    partner, weight = int(published["wavemix.partner"]), float(published["wavemix.lambda"])
    mixed = mix_samples(samples[0], samples[partner], max(weight, 1 - weight))
    np.testing.assert_allclose(mixed["audio"], published["wavemix.out_x"][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed["target"], published["wavemix.out_y"], rtol=0, atol=1e-6)


def test_masked_mixup_as_published(published):
    samples = [
        {"audio": torch.zeros(8), "target": torch.from_numpy(row[:20]), "mask": torch.from_numpy(row[20:])}
        for row in published["openmic_mix.targets"]
    ]
    mixed = mix_samples(*samples, 0.7)
    np.testing.assert_allclose(mixed["target"], published["openmic_mix.forced_y"][:20], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mixed["mask"], published["openmic_mix.forced_y"][20:])


def test_waveform_mixup_draws():
    data = WaveformMixup(Noise(), rate=1.0)
    rng = generator(KEY, WAVMIX)
    rng.random()
    partner, weight = int(rng.integers(6)), draw_mix_weight(rng, MIX_BETA)
    sample = data[4, KEY]
    assert data.dataset.asked == [(4, KEY), (partner, (*KEY, PARTNER))]
    assert partner != 4  # else this test shows little
    expected = mix_samples(Noise()[4], Noise()[partner], weight)
    torch.testing.assert_close(sample["audio"], expected["audio"])
    torch.testing.assert_close(sample["target"], weight * torch.eye(6)[4] + (1 - weight) * torch.eye(6)[partner])
    assert (sample["filename"], sample["index"]) == ("4.wav", 4)
    mixed = sum(WaveformMixup(Noise(), rate=0.5)[0, (seed,)]["target"][0] < 1 for seed in range(300))
    assert mixed == pytest.approx(300 * 0.5 * 5 / 6, abs=30)  # a clip may draw itself


@pytest.mark.parametrize("wrap", [Gain, Roll, WaveformMixup, Hardened])
def test_nothing_is_drawn_without_key(wrap):
    data, plain = wrap(Noise()), Noise()[3]
    assert len(data) == 6
    assert torch.equal(data[3]["audio"], plain["audio"])
    assert torch.equal(data[3]["target"], plain["target"])
    assert set(data.dataset.asked) == {(3, None)}


def test_training_set_chains_them(tmp_path):
    make_esc50(tmp_path / "esc50")
    (tmp_path / "dirs").mkdir()
    response = noise(0.001, seed=9)
    soundfile.write(tmp_path / "dirs" / "phone.wav", np.pad(response, (0, 4000)), 32000, subtype="FLOAT")
    options = dict(root=tmp_path / "esc50", clip_length=0.5)
    plain = training_set("esc50", **options)
    full = training_set(
        "esc50",
        **options,
        gain_augment=12,
        roll=True,
        wavmix=True,
        wavmix_p=1.0,
        dir_p=1.0,
        dir_folder=tmp_path / "dirs",
    )

    def alone(index, key):
        db = int(generator(key, GAIN).integers(-12, 12))
        shift = int(generator(key, ROLL).integers(-4000, 4000, endpoint=True))
        return {**plain[index], "audio": torch.roll(plain[index]["audio"] * 10 ** (db / 20), shift)}

    rng = generator(KEY, WAVMIX)
    rng.random()
    partner, weight = int(rng.integers(8)), draw_mix_weight(rng, MIX_BETA)
    expected = mix_samples(alone(2, KEY), alone(partner, (*KEY, PARTNER)), weight)
    filtered = apply_impulse_response(expected["audio"], torch.from_numpy(np.pad(response, (0, 4000))))
    sample = full[2, KEY]
    torch.testing.assert_close(sample["audio"], filtered, rtol=0, atol=1e-5)
    torch.testing.assert_close(sample["target"], expected["target"])
    assert torch.equal(full[2]["audio"], plain[2]["audio"])
    assert clips_of(full).names == plain.names
    with pytest.raises(DataMissing, match="needs impulse responses"):
        training_set("esc50", **options, dir_p=1.0)


def test_openmic_labels_are_hard_after_mixing(tmp_path):
    make_openmic(tmp_path)
    data = training_set("openmic", tmp_path, clip_length=0.5, wavmix=True, wavmix_p=1.0)
    seen = set()
    for seed in range(40):
        sample = data[0, (seed,)]
        assert set(sample["target"].tolist()) <= {0, 1}
        seen.add((sample["target"].sum().item(), sample["mask"].sum().item()))
    # bass 0.9 and mallets 0.6 alone; mixed with the other clip, both may fall below one half
    assert (2.0, 3.0) in seen
    assert {active for active, masked in seen if masked == 5} == {0.0, 1.0, 2.0}


# -- sampling --------------------------------------------------------------------------------------
def test_weights_as_published(published):
    labels = published["sampler.labels_packed"]
    np.testing.assert_allclose(label_weights(labels, 527), published["sampler.weights"], rtol=1e-6)
    np.testing.assert_allclose(label_weights(labels, 527, "max"), published["sampler.weights_max"], rtol=1e-6)
    np.testing.assert_allclose(label_weights(unpacked(labels, 527), 527), published["sampler.weights"], rtol=1e-6)
    with pytest.raises(ValueError, match="reduce is 'mean', expected 'sum' or 'max'"):
        label_weights(labels, 527, "mean")


def test_weights_by_blocks(monkeypatch):
    labels = packed([[0], [0, 1], [1, 2], [], [2]], 3)
    whole = label_weights(labels, 3)
    per_class = 1000 / 102
    np.testing.assert_allclose(whole, [per_class, 2 * per_class, 2 * per_class, 0, per_class], rtol=1e-6)
    monkeypatch.setattr("data_util.tagging_samplers.BLOCK", 2)
    np.testing.assert_array_equal(label_weights(labels, 3), whole)


def drawn(sampler, epoch=0):
    """Batches of clip numbers."""
    sampler.set_epoch(epoch)
    return [[index for index, _ in batch] for batch in sampler]


def flat(batches):
    return [clip for batch in batches for clip in batch]


def test_plain_epochs():
    sampler = ClipBatchSampler(10, 4, seed=5)
    batches = drawn(sampler)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(sampler) == 3
    assert sorted(flat(batches)) == list(range(10))
    assert drawn(sampler) == batches
    assert len({tuple(flat(drawn(sampler, epoch))) for epoch in range(5)}) == 5
    sampler.set_epoch(2)
    assert [key for _, key in next(iter(sampler))] == [(5, 2, index) for index in drawn(sampler, 2)[0]]
    sampler.start = 1
    assert [[index for index, _ in batch] for batch in sampler] == drawn(ClipBatchSampler(10, 4, seed=5), 2)[1:]
    assert [len(batch) for batch in drawn(ClipBatchSampler(10, 4, epoch_len=5))] == [4, 1]


def test_weighted_draws_are_without_replacement_and_follow_the_weights():
    weights = np.array([0.0, 1, 1, 2, 4, 0, 1, 3, 8, 1])
    sampler = ClipBatchSampler(10, 1, weights=weights, epoch_len=1)
    counts = np.bincount([drawn(sampler, epoch)[0][0] for epoch in range(4000)], minlength=10)
    np.testing.assert_allclose(counts / 4000, weights / weights.sum(), atol=0.02)
    sampler = ClipBatchSampler(10, 3, weights=weights, epoch_len=5)
    for epoch in range(50):
        clips = flat(drawn(sampler, epoch))
        assert len(set(clips)) == len(clips) == 5
        assert not {0, 5} & set(clips)


def test_heavy_clips_do_not_come_first():
    weights = np.r_[np.full(50, 100.0), np.ones(50)]
    sampler = ClipBatchSampler(100, 10, weights=weights)
    places = [np.flatnonzero(np.array(flat(drawn(sampler, epoch))) < 50) for epoch in range(20)]
    assert np.mean(places) == pytest.approx(49.5, abs=2)


def test_an_epoch_cannot_be_longer_than_what_can_be_drawn(caplog):
    sampler = ClipBatchSampler(10, 4, weights=np.r_[np.ones(7), 0, 0, 0], epoch_len=100000)
    assert "an epoch has 7 clips, not epoch_len = 100000" in caplog.text
    assert sorted(flat(drawn(sampler))) == list(range(7))


@pytest.mark.parametrize("weights", [None, np.arange(1, 24)])
@pytest.mark.parametrize("epoch_len", [None, 20, 17])
def test_processes_share_an_epoch(weights, epoch_len):
    def of(rank, world_size, batch_size):
        return ClipBatchSampler(23, batch_size, 7, rank, world_size, weights, epoch_len)

    for epoch in range(3):
        ranks = [drawn(of(rank, 3, 2), epoch) for rank in range(3)]
        assert [[len(batch) for batch in batches] for batches in ranks[1:]] == [[len(batch) for batch in ranks[0]]] * 2
        together = [flat(batches) for batches in zip(*ranks)]
        clips = flat(together)
        assert len(set(clips)) == len(clips) == (epoch_len or 23) // 3 * 3
        alone = drawn(of(0, 1, 6), epoch)  # one process with the threefold batch
        assert clips == flat(alone)[: len(clips)]


def test_samplers_refuse_nonsense():
    for options in (dict(batch_size=0), dict(batch_size=1, epoch_len=0)):
        with pytest.raises(ValueError, match="expected positive numbers"):
            ClipBatchSampler(5, **options)
    with pytest.raises(ValueError, match=r"1 clips can be drawn, expected at least 1 for each of 2 processes"):
        ClipBatchSampler(5, 2, world_size=2, weights=[0, 0, 3, 0, 0])


def test_loader(tmp_path):
    make_folder(tmp_path, classes=("cat", "dog"), clips=5)
    data = training_set("folder", tmp_path, clip_length=0.3, gain_augment=12, roll=True, wavmix=True)
    loader = training_loader(data, 3, seed=1, epoch=2, shuffle=True, drop_last=True)  # the sampler has its own way
    batches = list(loader)
    assert [len(batch["index"]) for batch in batches] == [3, 3, 2]
    for batch in batches:
        for index, audio in zip(batch["index"].tolist(), batch["audio"]):
            assert torch.equal(data[index, (1, 2, index)]["audio"], audio)
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(8))
    assert len(list(training_loader(data, 3, seed=1, epoch=2, start=2))) == 1
    rare = training_loader(data, 2, seed=1, weighted=True, epoch_len=4)
    np.testing.assert_array_equal(rare.batch_sampler.weights, label_weights(clips_of(data).targets, 2))
    assert sum(len(batch["index"]) for batch in rare) == 4


# -- teacher ---------------------------------------------------------------------------------------
LOGITS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
NAMES = ["Yf62-S-v2swA.mp3", "folder/abc.wav", "unknown.mp3", "-0DLPzsiXXE"]
ROWS = {"f62-S-v2swA": 2, "abc": 0, "-0DLPzsiXXE": 3, "other": 1}


def teacher(folder, kind):
    if kind == "hdf5":
        with h5py.File(folder / "teacher.hdf5", "w") as file:
            file["filenames"] = [name for name, _ in sorted(ROWS.items(), key=lambda item: item[1])]
            file["logits"] = LOGITS
        return TeacherLogits(folder / "teacher.hdf5", classes=6)
    np.save(folder / "teacher.npy", LOGITS)
    if kind == "json":
        (folder / "rows.json").write_text(json.dumps(ROWS))
    else:
        (folder / "rows.pkl").write_bytes(pickle.dumps(ROWS))
    return TeacherLogits(folder / "teacher.npy", folder / f"rows.{kind}", classes=6)


@pytest.mark.parametrize("kind", ["pkl", "json", "hdf5"])
def test_teacher_logits(tmp_path, kind):
    logits = teacher(tmp_path, kind)
    rows = logits.rows(NAMES)
    assert rows.tolist() == [2, 0, -1, 3]
    for source in (logits, pickle.loads(pickle.dumps(logits))):
        np.testing.assert_array_equal(source[2], LOGITS[2].astype(np.float32))
    data = WithTeacher(Noise(), logits, [*NAMES, "f62-S-v2swA.mp3", "none"])
    found = [data[index] for index in range(6)]
    assert [bool(sample["teacher_valid"]) for sample in found] == [True, True, False, True, True, False]
    np.testing.assert_array_equal(found[0]["teacher"], LOGITS[2].astype(np.float32))
    assert not found[2]["teacher"].any()  # and to be left out of the loss, not to count as zeros
    with pytest.raises(ValueError, match="no logits for any of the 2 clips, the first is x"):
        logits.rows(["x", "y"])


def test_teacher_of_clips_that_are_called_alike(tmp_path):
    def teacher_of(*names):
        with h5py.File(tmp_path / "alike.hdf5", "w") as file:
            file["filenames"], file["logits"] = names, LOGITS[: len(names)]
        return TeacherLogits(tmp_path / "alike.hdf5", classes=6)

    logits = teacher_of("cat/0.wav", "dog/0.wav", "dog/1.wav")
    assert logits.rows(["dog/0.wav", "cat/0.wav", "dog/1.wav", "dog/1.wav"]).tolist() == [1, 0, 2, 2]
    assert logits.rows(["/data/dog/0.wav", "/data/cat/0.wav", "1.mp3", "0.wav"]).tolist() == [1, 0, 2, -1]
    for name in ("0", "0.wav"):
        with pytest.raises(TableError, match=r"row 0 is both cat/0\.wav and dog/0\.wav, expected both with"):
            teacher_of(name).rows(["cat/0.wav", "dog/0.wav"])
    with pytest.raises(TableError, match="1 file names are there twice"):
        teacher_of("cat/0.wav", "cat/0.wav")


def test_wrong_teachers(tmp_path):
    teacher(tmp_path, "pkl")
    npy, index = tmp_path / "teacher.npy", tmp_path / "rows.pkl"
    with pytest.raises(TableError, match=r"teacher\.npy: logits have shape \(4, 6\), expected \(clips, 527\)"):
        TeacherLogits(npy, index)
    with pytest.raises(DataMissing, match=r"data\.teacher_preds = none\.npy"):
        TeacherLogits("none.npy", index)
    with pytest.raises(DataMissing, match=r"data\.fname_to_index = None"):
        TeacherLogits(npy, classes=6)
    index.write_bytes(pickle.dumps({"a": 9}))
    with pytest.raises(TableError, match=r"rows\.pkl: names row 9, but .*teacher\.npy has 4"):
        TeacherLogits(npy, index, classes=6)
    npy.write_bytes(b"no array")
    with pytest.raises(TableError, match=r"teacher\.npy: not readable as \.npy"):
        TeacherLogits(npy, index, classes=6)
    with h5py.File(tmp_path / "teacher.hdf5", "w") as file:
        file["strong_logits"] = LOGITS
    with pytest.raises(TableError, match=r"teacher\.hdf5: no entry 'logits', expected 'filenames' and 'logits'"):
        TeacherLogits(tmp_path / "teacher.hdf5", classes=6)


def test_an_index_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("it ran",))

    teacher(tmp_path, "pkl")
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(TableError, match=r"rows\.pkl: no index from file names to rows \(holds "):
        TeacherLogits(tmp_path / "teacher.npy", tmp_path / "rows.pkl", classes=6)
    assert not (tmp_path / "ran").exists()


def test_mixed_logits():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(0, 4, 50)) for _ in range(2))
    for weight in (0.5, 0.8, 1.0):
        expected = weight * a.sigmoid() + (1 - weight) * b.sigmoid()
        torch.testing.assert_close(mix_logits(a, b, weight).sigmoid(), expected, rtol=0, atol=1e-6)
    extreme = torch.tensor([80.0, -80.0, 80.0])
    assert torch.isfinite(mix_logits(extreme, -extreme, 0.7)).all()


def test_a_teacher_knows_the_mix_if_it_knows_both_clips():
    known = torch.tensor([True, True, False, True, True, True])
    extra = {"teacher": torch.randn(6, 6, generator=torch.manual_seed(0)), "teacher_valid": known}
    samples = [Noise(extra)[index] for index in range(6)]
    mixed = mix_samples(samples[0], samples[1], 0.6)
    assert mixed["teacher_valid"]
    expected = 0.6 * samples[0]["teacher"].sigmoid() + 0.4 * samples[1]["teacher"].sigmoid()
    torch.testing.assert_close(mixed["teacher"].sigmoid(), expected)
    assert not mix_samples(samples[0], samples[2], 0.6)["teacher_valid"]
    assert not mix_samples(samples[2], samples[0], 0.6)["teacher_valid"]


def test_training_set_with_teacher(tmp_path):
    make_esc50(tmp_path)
    names = [f"{fold}-{100 * fold + target}-A-{target}" for fold in (2, 3) for target in (0, 1)]
    logits = np.random.default_rng(1).normal(size=(4, 50)).astype(np.float32)
    np.save(tmp_path / "teacher.npy", logits)
    (tmp_path / "rows.json").write_text(json.dumps({name: row for row, name in enumerate(names)}))
    data = training_set(
        "esc50",
        tmp_path,
        clip_length=0.5,
        teacher_preds=tmp_path / "teacher.npy",
        fname_to_index=tmp_path / "rows.json",
    )
    for index in range(len(data)):
        sample = data[index, (1, 0, index)]
        name = sample["filename"].rpartition("/")[2].removesuffix(".wav")
        assert bool(sample["teacher_valid"]) == (name in names)
        if name in names:
            np.testing.assert_array_equal(sample["teacher"], logits[names.index(name)])
