"""Tagging of recordings: published numbers, ensembles, windows, files that cannot be read, results and their files."""

import csv
import json
import os
import tracemalloc

import h5py
import numpy as np
import pytest
import soundfile
import torch

from data_util.class_tables import class_names
from data_util.streaming import find_audio, stream
from helpers.inference import unique_names
from helpers.result_files import Unfinished
from helpers.tagging_inference import Cut, embed, inference, tag_recordings
from helpers.tagging_results import HEADER, Tagged, best, table, write_tags
from helpers.tagging_runners import Ensemble, Member, TorchRunner, fingerprint, make_runner
from models.tagging import build_tagger
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm, rescale_dynamic_convs
from tests.reference import golden

RATE = 32000
GOLDEN = golden("tagging/inference.npz")
METRO = "backgrounds/metro_station/metro_station-paris.wav"


def member(arch, calibrated_on=None):
    """A network with the weights of the stored expectations."""
    mel, net = build_tagger(arch, {"dymn": {"temperature": 1.0}})
    set_named_weights(net, 0)
    if calibrated_on is not None:
        rescale_dynamic_convs(net)
        calibrate_batchnorm(net.eval(), mel.eval()(torch.from_numpy(calibrated_on)[None]), forward=net.tag)
    return Member(arch, mel, net)


def blocks(waveform):
    """A reader that has this recording under any name."""
    return lambda path, sample_rate: np.array_split(waveform, 7)


class Levels:
    """A tagger of two classes: logits are mean and maximum of the waveform, the embedding is its first sample."""

    sample_rate, n_classes, embed_dim, min_samples, identity = 100, 2, 1, 10, "levels"

    def __init__(self):
        self.batches = []

    def __call__(self, waveforms):
        self.batches.append(waveforms.shape)
        return np.stack([waveforms.mean(1), waveforms.max(1)], 1), waveforms[:, :1].copy()


def write(path, seconds, value=0.5, rate=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(seconds * rate), value, np.float32), rate, subtype="FLOAT")
    return path


def tagged(paths, runner=None, **options):
    return list(tag_recordings(paths, runner or Levels(), stream, **options))


# -- published numbers
@pytest.fixture(scope="module")
def recording():
    return golden_waveform(12.3, RATE, 0, 1)[0]


@pytest.fixture(scope="module")
def mn04(recording):
    return TorchRunner(member("mn04_as", recording))


def test_whole_recording(recording, mn04):
    (result,) = tag_recordings(["golden"], mn04, blocks(recording))
    expected = GOLDEN["golden12.3s.mn04_as.cal.probabilities"]
    np.testing.assert_allclose(result.probabilities()[0], expected, rtol=0, atol=1e-4)
    assert (result.spans.tolist(), result.seconds.tolist()) == ([[0, 12.3]], [12.3])


@pytest.mark.parametrize(("size", "hop"), [("10", "2.5"), ("5", "2.5"), ("4", "3"), ("12.3", "1"), ("20", "10")])
def test_windows(recording, mn04, size, hop):
    (result,) = tag_recordings(["golden"], mn04, blocks(recording), Cut(float(size), float(hop)), batch_size=3)
    name = f"golden12.3s.windowed.mn04_as.w{size}_h{hop}.cal"
    np.testing.assert_allclose(result.spans, GOLDEN[f"{name}.start_end"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.probabilities(), GOLDEN[f"{name}.probabilities"], rtol=0, atol=1e-4)


@pytest.mark.data
@pytest.mark.parametrize(("kind", "archs"), [("eval", ["mn10_as"]), ("cal", ["mn04_as", "mn05_as", "dymn04_as"])])
def test_real_recording(real_data, kind, archs):
    path = real_data / METRO
    waveform = np.concatenate(list(stream(path, RATE)))
    np.testing.assert_allclose(waveform[::1000], GOLDEN["metro_waveform_32k_every_1000th"], rtol=0, atol=1e-4)
    runners = {arch: TorchRunner(member(arch, waveform if kind == "cal" else None)) for arch in archs}
    if len(archs) > 1:
        runners["ensemble"] = Ensemble(list(runners.values()))
    labels = class_names("audioset")
    for name in runners.keys() & {"mn04_as", "mn10_as", "dymn04_as", "ensemble"}:
        (result,) = tag_recordings([path], runners[name], stream)
        probabilities, expected = result.probabilities()[0], GOLDEN[f"{name}.{kind}.probabilities"]
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-4)
        # Places of nearly equal probabilities may be exchanged.
        in_order = [labels.index(label) for label, _ in best(probabilities, labels)]
        np.testing.assert_allclose(expected[in_order], expected[GOLDEN[f"{name}.{kind}.top10"]], rtol=0, atol=1e-5)


# -- runners
def test_ensemble_is_the_mean_of_logits(recording):
    members = [member("mn01_as", recording), member("mn02_as", recording)]
    clip = recording[None, : 2 * RATE]
    one, two = (make_runner([each], workers=1)(clip) for each in members)
    both = make_runner(members, workers=1)(clip)
    np.testing.assert_allclose(both[0], (one[0] + two[0]) / 2, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(both[1], np.concatenate([one[1], two[1]], 1))


def test_members_at_their_own_sample_rates(recording):
    runner = make_runner([member("mn01_as"), member("frame_mn06")])
    assert [each.sample_rate for each in runner.runners] == [RATE, RATE]
    assert runner.runners[1].mel.sample_rate == 16000
    logits, embeddings = runner(recording[None, :RATE])
    assert logits.shape == (1, 527)
    assert embeddings.shape == (1, runner.embed_dim) == (1, 96 + 576)


def test_workers_change_nothing(recording):
    clips = np.stack([recording[start * RATE : (start + 1) * RATE] for start in (0, 5, 7)])
    threads = torch.get_num_threads()
    alone, several = (make_runner([member("mn01_as", recording)], workers=n)(clips) for n in (1, 3))
    assert torch.get_num_threads() == threads
    for one, other in zip(alone, several):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_reduced_precision(recording):
    members = [member("mn01_as", recording)]
    full, reduced = (
        make_runner(members, precision=precision)(recording[None, :RATE])[0] for precision in ("f32", "bf16")
    )
    assert 0 < np.abs(full - reduced).max() < 0.1
    assert np.corrcoef(full[0], reduced[0])[0, 1] > 0.98


def test_identity_tells_weights_and_settings_apart():
    one, other = (build_tagger("mn01_as") for _ in range(2))
    other[1].load_state_dict(one[1].state_dict())
    assert fingerprint(*one) == fingerprint(*other)
    with torch.no_grad():
        other[1].classifier[5].bias[3] += 1e-3
    assert fingerprint(*one) != fingerprint(*other)
    hops = [fingerprint(build_tagger("mn01_as", {"mn_mel": {"hopsize": hop}})[0]) for hop in (320, 400)]
    assert hops[0] != hops[1]


def test_a_clip_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    config = {"atst_frame": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
    runner = make_runner([Member("atst_frame", *build_tagger("atst_frame", config, 4))], workers=1)
    clips = golden_waveform(1.0, 16000, 0, 2) * np.array([[1.0], [1e-4]], np.float32)
    np.testing.assert_allclose(runner(clips)[0][1:], runner(clips[1:])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["mn01_as", "dymn04_as", "cnn14", "frame_mn06", "mn10_as_fc"])
def test_silence_gives_numbers(arch):
    runner = make_runner([Member(arch, *build_tagger(arch))], workers=1)
    (result,) = tag_recordings(["silence"], runner, lambda *_: [np.zeros(int(0.1 * runner.sample_rate), np.float32)])
    assert np.isfinite(result.probabilities()).all()
    assert np.isfinite(result.embeddings).all()


# -- many recordings
def test_recordings_share_batches(tmp_path):
    paths = [write(tmp_path / f"{number}.wav", 1 + number, number / 10) for number in range(5)]
    runner = Levels()
    results = tagged(paths, runner, cut=Cut(1.0, 1.0), batch_size=4)
    assert [result.path for result in results] == [str(path) for path in paths]
    assert runner.batches == [(4, 100)] * 3 + [(3, 100)]
    for number, result in enumerate(results):
        assert len(result.spans) == number + 1
        np.testing.assert_allclose(result.logits, number / 10, rtol=0, atol=1e-6)


def test_default_hop_is_a_quarter_of_the_window(tmp_path):
    (result,) = tagged([write(tmp_path / "a.wav", 3)], cut=Cut(2.0))
    assert result.spans.tolist() == [[0, 2], [0.5, 2.5], [1, 3]]


def test_long_recordings_are_tagged_in_parts(tmp_path):
    paths = [write(tmp_path / "a.wav", 2), write(tmp_path / "b.wav", 4.5), write(tmp_path / "c.wav", 2.05)]
    a, b, c = tagged(paths, cut=Cut(whole_seconds=2.0))
    assert (a.spans.tolist(), a.seconds.tolist()) == ([[0, 2]], [2])
    assert (b.spans.tolist(), b.seconds.tolist()) == ([[0, 2], [2, 4], [4, 4.5]], [2, 2, 0.5])
    assert c.seconds.tolist() == pytest.approx([2, 0.05])
    assert c.spans[1].tolist() == pytest.approx([2, 2.1])  # filled up to the shortest that the tagger takes
    np.testing.assert_allclose(c.of_recording(c.logits), [(2 * 0.5 + 0.05 * 0.25) / 2.05, 0.5], rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_recording():
    def hours(path, sample_rate):
        return (np.zeros(sample_rate * 10, np.float32) for _ in range(6 * int(path)))

    class Fast(Levels):
        sample_rate = 4000

    peaks = []
    for minutes in ("10", "60"):
        tracemalloc.start()
        (result,) = tag_recordings([minutes], Fast(), hours, Cut(10.0, 10.0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(result.spans) == 6 * int(minutes)
    assert peaks[1] - peaks[0] < 4e6  # there are 48 MB of samples more


def test_the_reader_ends_with_its_user(tmp_path):
    taken = []

    def read(path, sample_rate):
        taken.append(path)
        return [np.zeros(100, np.float32)]

    results = tag_recordings(range(1000), Levels(), read, batch_size=1)
    next(results)
    results.close()
    assert len(taken) < 20


def test_an_error_of_the_tagger_is_raised(tmp_path):
    class Broken(Levels):
        def __call__(self, waveforms):
            raise ValueError("no such length")

    with pytest.raises(ValueError, match="no such length"):
        tagged([write(tmp_path / "a.wav", 1)], Broken())


def test_an_error_of_the_reader_is_raised():
    def read(path, sample_rate):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        list(tag_recordings(["a"], Levels(), read))


# -- bad input
def bad_files(folder):
    """Name -> (file that cannot be read, what is said about it)."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio at all")
    write(folder / "short.wav", 0.01, rate=RATE)
    write(folder / "cut.wav", 3.0, rate=RATE)
    content = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(content[: len(content) // 2])
    return {
        "empty": r"empty\.wav: not readable as audio",
        "text": r"text\.wav: not readable as audio",
        "short": r"short\.wav: 0\.010 s long, expected at least 0\.1 s",
        "cut": r"cut\.wav: ends after 1\.50 s, expected 3\.00 s",
    }


def test_one_line_per_file_that_cannot_be_read(tmp_path, caplog):
    reasons = bad_files(tmp_path)
    good = [write(tmp_path / "a.wav", 1), write(tmp_path / "z.wav", 3)]
    shown = []
    summary = inference(find_audio(tmp_path), Levels(), stream, ("mean", "max"), Cut(1.0, 1.0), show=shown.append)
    assert summary["tagged"] == 2
    assert [path.rpartition("/")[2] for path in summary["skipped"]] == ["cut.wav", "empty.wav", "short.wav", "text.wav"]
    for name, reason in reasons.items():
        path = str(tmp_path / f"{name}.wav")
        with pytest.raises(ValueError, match=reason):
            inference([path], Levels(), stream, ("mean", "max"))
        assert "\n" not in summary["skipped"][path]
    assert sum(record.getMessage().startswith("skipped: ") for record in caplog.records) == 8
    assert [line for line in shown if str(tmp_path) in line] == [f"\n{path}" for path in good]
    with pytest.raises(ValueError, match=r"0 of 4 recordings can be read; first: .*cut\.wav: ends after"):
        inference(list(summary["skipped"]), Levels(), stream, ("mean", "max"))
    with pytest.raises(ValueError, match=r"nowhere\.wav: no such audio file"):
        inference([tmp_path / "nowhere.wav"], Levels(), stream, ("mean", "max"))


def test_eight_channels(tmp_path):
    x = np.random.default_rng(0).uniform(0, 1, (300, 8)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", x, 100, subtype="FLOAT")
    (result,) = tagged([tmp_path / "a.wav"])
    np.testing.assert_allclose(result.logits, [[x.mean(), x.mean(1).max()]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("arch", ["beats", "asit"])
def test_a_network_of_patches_says_how_short_a_clip_may_be(arch):
    """16 frames: 25 ms, and 15 times 10 ms."""
    small = {"beats": {"encoder_layers": 1}, "asit": {"depth": 1}}
    mel, net = build_tagger(arch, small)
    runner = TorchRunner(Member(arch, mel, net), sample_rate=32000)
    assert runner.min_samples == 5600
    (result,) = tag_recordings(["x"], runner, lambda *_: [golden_waveform(0.15, 32000, 0, 1)[0]])
    assert (result.logits.shape, result.seconds.tolist()) == ((1, 527), [0.15])
    assert np.isfinite(result.logits).all()


def test_names_are_unique():
    for stems, expected in (
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2", "a"], ["a", "a-3", "a-2", "a-4"]),
        (["a", "a-2", "a-2", "a"], ["a", "a-2", "a-2-2", "a-3"]),
    ):
        paths = [f"{folder}/{stem}.wav" for folder, stem in enumerate(stems)]
        assert unique_names(paths) == dict(zip(paths, expected))


def test_a_name_that_is_no_text(tmp_path, caplog):
    good, bad = write(tmp_path / "a.wav", 1), tmp_path / os.fsdecode(b"\xff\xe9.wav")
    good.rename(bad)
    write(good, 1)
    out = tmp_path / "out.json"
    summary = inference(find_audio(tmp_path), Levels(), stream, ("a", "b"), out=out, show=lambda text: text.encode())
    shown = str(tmp_path / r"\xff\xe9.wav")
    assert summary == {"tagged": 1, "skipped": {shown: f"{shown}: the name of the file is not UTF-8"}}
    content = json.loads(out.read_text())
    assert [entry["file"] for entry in content["files"]] == [str(good)]
    assert [entry["file"] for entry in content["skipped"]] == [shown]
    assert "not UTF-8" in caplog.text


def test_impossible_settings(tmp_path):
    path = write(tmp_path / "a.wav", 1)
    with pytest.raises(
        ValueError, match=r"window_size is 0\.05 s, expected at least the 0\.1 s that the network needs"
    ):
        tagged([path], cut=Cut(0.05))
    with pytest.raises(ValueError, match=r"hop_length is 0\.0 s, expected at least one sample"):
        tagged([path], cut=Cut(1.0, 0.0))
    with pytest.raises(ValueError, match=r"^window_size is 'abc', expected a number of seconds$"):
        tagged([path], cut=Cut("abc"))
    with pytest.raises(ValueError, match=r"^hop_length is 1\.0 s, but window_size is not set, expected both"):
        tagged([path], cut=Cut(None, 1.0))
    for batch_size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"inference_batch_size is {batch_size}, expected a whole number"):
            tagged([path], batch_size=batch_size)
    with pytest.raises(ValueError, match="the tagger has 2 classes, expected the 3 that are named"):
        inference([path], Levels(), stream, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"a\.txt: unknown kind of file, expected one of \.csv, \.json, \.npz"):
        inference([path], Levels(), stream, ("a", "b"), out=tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"a\.csv: unknown kind of file, expected one of \.npz, \.h5"):
        embed([path], Levels(), stream, tmp_path / "a.csv")


def test_members_that_do_not_go_together():
    members = [Member("mn01_as", *build_tagger("mn01_as")), Member("mine.ckpt", *build_tagger("mn01_as", {}, 50))]
    with pytest.raises(ValueError, match=r"^ensemble: mine\.ckpt has 50 classes, expected 527 as mn01_as has$"):
        make_runner(members)
    with pytest.raises(ValueError, match="an ensemble needs at least 1 tagger, got none"):
        make_runner([])
    with pytest.raises(ValueError, match="backend is 'tensorrt', expected one of torch, onnx, openvino"):
        make_runner(members[:1], backend="tensorrt")
    with pytest.raises(ValueError, match="precision is 'f16', expected one of f32, bf16"):
        make_runner(members[:1], precision="f16")


# -- results
CLASSES = ("a", "b", "c")


def result(path="x.wav", windows=1):
    logits = np.arange(3 * windows, dtype=np.float32).reshape(windows, 3) - 1
    spans = np.stack([np.arange(windows) * 2.0, np.arange(windows) * 2.0 + 3], 1)
    seconds = np.full(windows, 3.0)
    seconds[-1] = 1.5
    return Tagged(path, spans, seconds, logits, -logits[:, :2])


def test_probabilities():
    logits = np.array([[-200.0, 0.0, 200.0]], np.float32)
    each = Tagged("x", np.zeros((1, 2)), np.ones(1), logits, logits)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(each.probabilities(), [[0, 0.5, 1]], rtol=0, atol=1e-7)
        np.testing.assert_allclose(each.probabilities(multi_label=False), [[0, 0, 1]], rtol=0, atol=1e-7)
    probabilities = result().probabilities(multi_label=False)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(probabilities[0, 1] / probabilities[0, 0], np.e, rtol=1e-6)


def test_table_as_published():
    lines = table(result(), CLASSES).splitlines()
    assert lines == [HEADER, "c: 0.731", "b: 0.500", "a: 0.269", "*" * 56]
    assert len(HEADER) == 56
    assert table(result(windows=2), CLASSES).splitlines() == [
        "     0.0 to      3.0 s: c 0.731, b 0.500, a 0.269",
        "     2.0 to      5.0 s: c 0.982, b 0.953, a 0.881",
    ]
    assert len(best(np.arange(20.0), [str(number) for number in range(20)])) == 10


def test_csv_and_json(tmp_path):
    results = [result("one, two.wav"), result("ü.wav", windows=2)]
    rows = list(csv.reader(open(write_tags(tmp_path / "a.csv", results, CLASSES, {}), encoding="utf-8")))
    assert rows[:3] == [
        ["file", "start", "end", "label", "probability"],
        ["one, two.wav", "0.000", "3.000", "c", "0.731059"],
        ["one, two.wav", "0.000", "3.000", "b", "0.500000"],
    ]
    assert len(rows) == 1 + 3 * 3
    assert rows[-1] == ["ü.wav", "2.000", "5.000", "a", "0.880797"]
    content = json.loads(write_tags(tmp_path / "a.json", results, CLASSES, {"b.wav": "broken"}).read_text())
    assert content["skipped"] == [{"file": "b.wav", "reason": "broken"}]
    assert [entry["file"] for entry in content["files"]] == ["one, two.wav", "ü.wav"]
    second = content["files"][1]
    assert second["windows"][1] == {
        "start": 2.0,
        "end": 5.0,
        "tags": [
            {"label": "c", "probability": 0.982014},
            {"label": "b", "probability": 0.952574},
            {"label": "a", "probability": 0.880797},
        ],
    }
    assert second["tags"][0] == {"label": "c", "probability": pytest.approx((2 * 0.731059 + 0.982014) / 3, abs=2e-6)}
    assert json.loads(write_tags(tmp_path / "b.json", [], CLASSES, {}).read_text()) == {"files": [], "skipped": []}


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_arrays(tmp_path, suffix):
    paths = [write(tmp_path / "a.wav", 1, 0.25), write(tmp_path / "ü.wav", 2.5, 0.5)]
    out = tmp_path / f"out.{suffix}"
    assert embed(paths, Levels(), stream, out, Cut(1.0, 1.0)) == {"tagged": 2, "skipped": {}}
    content = np.load(out) if suffix == "npz" else h5py.File(out)
    assert set(content) == {"filenames", "file_index", "start", "end", "embeddings", "embeddings_of_file"}
    names = content["filenames"][:] if suffix == "npz" else content["filenames"].asstr()[:]
    assert list(names) == [str(path) for path in paths]
    assert content["file_index"][:].tolist() == [0, 1, 1, 1]
    assert content["start"][:].tolist() == [0, 0, 1, 2]
    assert content["end"][:].tolist() == [1, 1, 2, 3]
    assert content["embeddings"][:].tolist() == [[0.25], [0.5], [0.5], [0.5]]
    assert content["embeddings_of_file"][:].tolist() == [[0.25], [0.5]]
    inference(paths, Levels(), stream, ("mean", "max"), Cut(1.0, 1.0), out=out, show=lambda text: None)
    content = np.load(out) if suffix == "npz" else h5py.File(out)
    assert content["probabilities"].shape == (4, 2)
    labels = content["classes"][:] if suffix == "npz" else content["classes"].asstr()[:]
    assert list(labels) == ["mean", "max"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# -- resuming
class Stopping(Levels):
    """Fails in a later batch."""

    def __call__(self, waveforms):
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return super().__call__(waveforms)


def test_a_stopped_run_goes_on(tmp_path):
    paths = [write(tmp_path / f"{number}.wav", 1, number / 10) for number in range(5)]
    out, options = tmp_path / "out.csv", dict(batch_size=1, show=lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        inference(paths, Stopping(), stream, ("mean", "max"), out=out, **options)
    assert not out.exists()
    other, runner = Levels(), Levels()
    write(paths[1], 2, 0.9)  # changed since
    assert inference(paths, runner, stream, ("mean", "max"), out=out, **options)["tagged"] == 5
    assert len(runner.batches) == 4
    resumed = out.read_text()
    inference(paths, other, stream, ("mean", "max"), out=out, **options)
    assert len(other.batches) == 5
    assert out.read_text() == resumed


def test_other_settings_start_anew(tmp_path):
    path = write(tmp_path / "a.wav", 1)
    kept = Unfinished(tmp_path / "out.csv", ["tagger", None], Tagged)
    kept.put(tagged([path])[0])
    assert path in kept
    assert path not in Unfinished(tmp_path / "out.csv", ["tagger", 2.0], Tagged)
    assert path not in Unfinished(tmp_path / "other.csv", ["tagger", None], Tagged)
    assert tmp_path / "nowhere.wav" not in kept
    (found,) = kept.results([path, tmp_path / "nowhere.wav"])
    assert found.path == str(path)
    np.testing.assert_array_equal(found.logits, tagged([path])[0].logits)


# -- figures
def test_figures(tmp_path):
    from helpers.tagging_plots import boundaries

    paths = [write(tmp_path / "a" / "x.wav", 1), write(tmp_path / "b" / "x.wav", 4)]
    inference(paths, Levels(), stream, ("mean", "max"), Cut(1.0, 0.5), plot=tmp_path / "p", show=lambda text: None)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["x-2.png", "x.png"]
    for path in (tmp_path / "p").iterdir():
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size > 5000
    assert boundaries(np.array([[0, 2], [1, 3], [2, 4]]), 3.5).tolist() == [0, 1.5, 2.375, 3.5]
