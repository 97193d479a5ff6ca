"""Sound events in recordings: published events, overlapping windows, streaming, results and their files."""

import csv
import json
import weakref

import h5py
import numpy as np
import pytest
import soundfile
import torch

from data_util.streaming import stream
from helpers.event_decoding import close_gaps, cross_fade, fade_weights, find_runs, running_median
from helpers.event_files import Detected, table, write_events, write_labels
from helpers.event_inference import Detection, decoded, detect, detect_recordings
from helpers.event_plots import ROWS, drawn_classes, plot_events
from helpers.frame_runner import FrameRunner
from helpers.inference import Skipped
from helpers.result_files import Unfinished
from helpers.scores import median_filter
from helpers.tagging_runners import Member
from models.strong import build_strong
from tests.golden.named_weights import golden_waveform, named_array
from tests.golden.tagging.calibrate import calibrate_batchnorm
from tests.reference import golden
from tests.strong_parity import built

STORED, ARRAYS = golden("audioset_strong/inference.json"), golden("audioset_strong/inference.npz")
AUDIOSET_STRONG = golden("audioset_strong/class_lists.json")["as_strong_train"]
PUBLISHED = Detection(hop_length=10.0, keep_padding=True)
CLASSES = ("loud", "quiet")


class Levels:
    """Frames of 40 ms: the first class is where the waveform is above one half, the second where it is not.

    Within ``blind`` frames from the borders of a window nothing is found.
    """

    sample_rate, n_classes, min_samples, identity = 100, 2, 10, "levels"
    window_seconds, frame_seconds = 10.0, 0.04

    def __init__(self, blind=0):
        self.blind, self.batches = blind, []

    def __call__(self, waveforms):
        self.batches.append(waveforms.shape)
        level = waveforms.reshape(len(waveforms), -1, 4).mean(2)
        logits = 10 * np.sign(np.stack([level - 0.5, 0.5 - level], 1) + 1e-6).astype(np.float32)
        logits[:, :, : self.blind] = logits[:, :, logits.shape[2] - self.blind :] = -0.1
        return logits, logits.mean(2)


class Stored:
    """A network that gives stored logits [classes, frames], window by window."""

    sample_rate, min_samples, identity = 16000, 1, "stored"
    window_seconds, frame_seconds = 10.0, 0.04

    def __init__(self, logits):
        self.n_classes, self.windows = len(logits), np.split(logits, logits.shape[1] // 250, axis=1)
        self.last_samples = []

    def __call__(self, waveforms):
        self.last_samples += [int(np.flatnonzero(waveform)[-1]) + 1 for waveform in waveforms]
        return (np.stack([self.windows.pop(0) for _ in waveforms]),)


def reader(waveform, parts=7):
    """A reader that has this recording under any name."""
    return lambda path, sample_rate: np.array_split(np.asarray(waveform, np.float32), parts)


def pulses(seconds, *spans):
    """A recording at 100 Hz that is 1 in these spans (s) and 0 elsewhere."""
    waveform = np.zeros(round(seconds * 100), np.float32)
    for onset, offset in spans:
        waveform[round(onset * 100) : round(offset * 100)] = 1
    return waveform


def write(path, seconds, *spans, rate=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, pulses(seconds, *spans), rate, subtype="FLOAT")
    return path


def loud(waveform, settings, runner=None, **options):
    """(onset, offset) of the events of the first class in a recording."""
    (result,) = detect_recordings(["x"], runner or Levels(), reader(waveform), settings, **options)
    return [(event.onset, event.offset) for event in result.events(CLASSES) if event.label == "loud"]


def rows(detected, classes, threshold):
    """The events of a threshold in the order of classes and times."""
    own = detected.threshold == threshold
    columns = (detected.label[own], detected.onset[own].tolist(), detected.offset[own].tolist())
    return [[classes[label], onset, offset] for label, onset, offset in zip(*columns)]


# -- published numbers
def recipe(name, shape):
    return named_array(name, shape, 0) * np.sqrt(np.prod(shape[1:]))


@pytest.mark.parametrize("case", STORED["cases"])
def test_events_of_stored_logits(case, tmp_path):
    stored = STORED["cases"][case]
    classes, frames = stored["logits_shape"]
    coarse = recipe(f"{stored['logits_name']}.coarse", (classes, -(-frames // 10)))
    fine = recipe(f"{stored['logits_name']}.fine", (classes, frames))
    logits = (-6.5 + 2 * np.repeat(coarse, 10, axis=1)[:, :frames] + 0.5 * fine).astype(np.float32)
    runner, texts, path = Stored(logits), [], tmp_path / f"{stored['score_key']}.wav"
    read = reader(np.ones(stored["samples"]))
    detect([path], runner, read, AUDIOSET_STRONG, PUBLISHED, scores=tmp_path, show=texts.append)
    assert runner.last_samples == [last for _, last in stored["chunks"]]
    with h5py.File(tmp_path / f"{stored['score_key']}.h5") as file:
        scores, timestamps = file["scores"][:], file["timestamps"][:]
        assert list(file["classes"].asstr()) == AUDIOSET_STRONG
    np.testing.assert_allclose(scores.T[::16, ::10], ARRAYS[f"{case}.raw"], rtol=0, atol=1e-6)
    filtered = median_filter(scores, np.full(classes, 9))
    np.testing.assert_allclose(filtered.T[::16, ::10], ARRAYS[f"{case}.post"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(timestamps[-4:-1], stored["onset_tail"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(timestamps[-3:], stored["offset_tail"], rtol=0, atol=1e-6)
    (result,) = detect_recordings([path], Stored(logits), read, PUBLISHED)
    for threshold, expected in stored["events"].items():
        found = rows(result, AUDIOSET_STRONG, float(threshold))
        assert [event[0] for event in found] == [event[0] for event in expected]
        times = [[row[1:3] for row in each] for each in (found, expected)]
        np.testing.assert_allclose(*times, rtol=0, atol=1e-6)
        own = result.threshold == float(threshold)
        assert (result.onset == result.offset)[own].sum() == stored["events_of_no_length"][threshold]
    printed = texts[0].split("threshold 0.2: ")[1].split("\nthreshold")[0].splitlines()
    assert printed[0] == f"{stored['event_counts']['0.2']} events"
    shown = [(float(line[:10]), line[23:].rsplit(maxsplit=2)[0].strip()) for line in printed[2:]]
    first = [(onset, label) for label, onset in stored["printed_order_0.2"]]
    assert [onset for onset, _ in shown[: len(first)]] == [round(onset, 2) for onset, _ in first]
    assert {label for onset, label in shown if onset < first[-1][0]} == {
        label for onset, label in first if onset < first[-1][0]
    }


@pytest.mark.parametrize("case", [case for case in STORED["small"] if case.startswith("audio_len")])
@pytest.mark.parametrize("blocks", [1, 4, 50])
def test_events_of_stored_scores(case, blocks):
    seconds, window = (part.split("=")[1] for part in case.split(","))
    length, found = 1 if window == "None" else int(window), {}
    for clip, scores in zip(STORED["small_keys"], ARRAYS["small.scores"]):
        filtered = list(running_median(np.array_split(scores.T, blocks), length))
        np.testing.assert_allclose(
            np.concatenate(filtered).T, ARRAYS[f"small.post.{window}"][len(found)], rtol=0, atol=1e-7
        )
        settings = Detection(thresholds=[float(threshold) for threshold in STORED["small"][case]])
        runs = find_runs(filtered, settings.levels())
        found[clip] = decoded(runs, clip, float(seconds), 0.04, settings)
    for threshold, expected in STORED["small"][case].items():
        events = [
            [*row, f"{clip}.wav"]
            for clip, detected in found.items()
            for row in rows(detected, STORED["small_labels"], float(threshold))
        ]
        assert events == expected


def test_network_to_events(tmp_path):
    mel, model = built("frame_mn06")
    with torch.no_grad():
        calibrate_batchnorm(model, mel(torch.from_numpy(golden_waveform(10.0, 16000, 0, 2))))
    stored, waveform = STORED["chain"], golden_waveform(23.4, 16000, 0, 1)[0]
    settings = Detection(hop_length=10, keep_padding=True, thresholds=[float(t) for t in stored["event_counts"]])
    runner, scores = FrameRunner(Member("frame_mn06", mel, model)), []

    class Keep:
        def __init__(self, path):
            pass

        def __enter__(self):
            return lambda block, borders: scores.append(block)

        def __exit__(self, *error):
            pass

    (result,) = detect_recordings(["clip.wav"], runner, reader(waveform), settings, keep_scores=Keep)
    scores = np.concatenate(scores)
    assert scores.shape[::-1] == tuple(ARRAYS["chain.probabilities.shape"])
    np.testing.assert_allclose(scores.T[::8, ::5], ARRAYS["chain.probabilities"], rtol=0, atol=2e-3)
    filtered = median_filter(scores, np.full(447, 9))
    np.testing.assert_allclose(filtered.T[::8, ::5], ARRAYS["chain.post"], rtol=0, atol=2e-3)
    for threshold, count in stored["event_counts"].items():
        assert (result.threshold == float(threshold)).sum() == pytest.approx(count, rel=0.02)
    expected = [event[:3] for event in stored["events_0_9"]]
    found = rows(result, AUDIOSET_STRONG, 0.9)
    assert len(expected) * 0.9 < len([event for event in expected if event in found])


# -- decoding
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 10])
def test_running_median_is_that_of_the_whole(length):
    rng = np.random.default_rng(length)
    for frames in (1, 2, 5, 9, 40):
        scores = rng.random((frames, 3), dtype=np.float32)
        expected = median_filter(scores, np.full(3, length))
        for parts in (1, 2, 3, frames):
            blocks = list(running_median(np.array_split(scores, parts), length))
            np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_runs_do_not_depend_on_blocks():
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.random((60, 4)), 3, axis=0)
    whole = find_runs([scores], (0.3, 0.7))
    assert len(whole.start) > 40
    for parts in (2, 7, 180):
        for one, other in zip(whole, find_runs(np.array_split(scores, parts), (0.3, 0.7))):
            np.testing.assert_allclose(one, other, rtol=1e-12)
    for threshold, label, start, stop, frames, total, peak in zip(*whole):
        own, level = scores[start:stop, label], (0.3, 0.7)[threshold]
        assert (own > level).all()
        assert start == 0 or scores[start - 1, label] <= level
        assert stop == len(scores) or scores[stop, label] <= level
        assert (frames, total, peak) == (stop - start, pytest.approx(own.sum()), own.max())
    assert [(whole.threshold == number).sum() for number in (0, 1)] == [
        (np.diff((scores > level).astype(int), axis=0, prepend=0) == 1).sum() for level in (0.3, 0.7)
    ]


def test_strictly_above():
    scores = np.array([[0.5], [0.75], [0.5], [0.25]])
    assert find_runs([scores], (0.5,)).start.tolist() == [1]
    assert find_runs([scores], (0.25,)).stop.tolist() == [3]
    assert find_runs([scores], (0.75,)).start.tolist() == []
    assert find_runs([], (0.5,)).start.tolist() == []


def test_gaps_and_durations():
    waveform = pulses(10, (1, 2), (2.4, 3), (3.8, 4), (7, 7.2))
    every = [(1, 2), (2.4, 3), (3.8, 4), (7, 7.2)]

    def found(**options):
        return loud(waveform, Detection(median_window=1, thresholds=0.5, **options))

    assert found() == every
    assert found(min_gap=0.4) == every
    assert found(min_gap=0.44) == [(1, 3), *every[2:]]
    assert found(min_gap=0.84) == [(1, 4), every[3]]
    assert found(min_duration=0.2) == every
    assert found(min_duration=0.24) == every[:2]
    assert found(min_gap=0.84, min_duration=0.24) == [(1, 4)]
    runs = close_gaps(find_runs([np.array([[0.6, 0.1], [0.2, 0.9], [0.8, 0.1]])], (0.5,)), 2)
    assert [column.tolist() for column in runs[1:4]] == [[0, 1], [0, 1], [3, 2]]
    np.testing.assert_allclose(runs.total / runs.frames, [0.7, 0.9])
    assert runs.peak.tolist() == [0.8, 0.9]


# -- overlapping windows
def test_fade_weights():
    assert fade_weights(4, 4).tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(fade_weights(4, 2), [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(fade_weights(6, 4), [0.25, 0.75, 1, 1, 0.75, 0.25])
    for frames, hop in ((250, 125), (250, 200), (10, 7)):
        weights, overlap = fade_weights(frames, hop), frames - hop
        np.testing.assert_allclose(weights[:overlap] + weights[hop:], 1, rtol=1e-6)


@pytest.mark.parametrize(("frames", "hop"), [(8, 8), (8, 4), (8, 6), (8, 3), (8, 1), (1, 1)])
def test_cross_fade_is_the_weighted_mean(frames, hop):
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((5, 3, frames)).astype(np.float32)
    blocks = list(cross_fade(iter(windows), hop))
    assert [len(block) for block in blocks] == [hop] * 4 + [frames]
    total, weight = np.zeros((4 * hop + frames, 3)), np.zeros((4 * hop + frames, 1))
    for number, window in enumerate(windows):
        place = slice(number * hop, number * hop + frames)
        total[place] += fade_weights(frames, hop)[:, None] * window.T
        weight[place] += fade_weights(frames, hop)[:, None]
    np.testing.assert_allclose(np.concatenate(blocks), total / weight, rtol=0, atol=1e-5)
    if hop == frames:
        np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate(windows, axis=1).T)


def test_an_event_over_the_border_of_a_window_is_one():
    waveform, runner = pulses(25, (8, 12), (14.52, 15.48)), Levels(blind=10)
    apart, overlapping = (Detection(hop_length=hop, median_window=1, thresholds=0.5) for hop in (10, 5))
    assert loud(waveform, apart, runner) == [(8, 9.6), (10.4, 12), (14.52, 15.48)]
    assert loud(waveform, overlapping, runner) == [(8, 12), (14.52, 15.48)]


def test_hop_and_batches_change_nothing_where_windows_agree():
    spans = [(0, 0.4), (3.2, 6.8), (9.8, 10.2), (19.92, 20.4), (33, 34.56)]
    waveform, runner = pulses(34.56, *spans), Levels()
    for hop in (10, 5, 2.52, 0.4):
        for batch_size in (1, 3):
            settings = Detection(hop_length=hop, thresholds=0.5)
            assert loud(waveform, settings, runner, batch_size=batch_size) == spans
    assert loud(waveform, Detection(window_size=4, hop_length=3, thresholds=[0.5]), runner) == spans
    assert runner.batches[-1] == (4, 400)


def test_padding_is_no_sound():
    (kept,) = detect_recordings(["x"], Levels(), reader(pulses(3)), PUBLISHED)
    (gone,) = detect_recordings(["x"], Levels(), reader(pulses(3)))
    for detected in (kept, gone):
        assert [event[:3] for event in detected.events(CLASSES, 0.5)] == [(0, 3, "quiet")]
    waveform = np.ones(1201)  # the last frame of the sound holds one sample
    (kept,) = detect_recordings(["x"], Levels(), reader(waveform), Detection(hop_length=10, keep_padding=True))
    (gone,) = detect_recordings(["x"], Levels(), reader(waveform), Detection(hop_length=10))
    assert [event[:3] for event in kept.events(CLASSES, 0.5)] == [(0, 12, "loud"), (12, 12.01, "quiet")]
    assert [event[:3] for event in gone.events(CLASSES, 0.5)] == [(0, 12.01, "loud")]


# -- streaming
def test_an_hour_needs_no_more_memory_than_a_minute():
    alive, most = set(), {"blocks": 0, "logits": 0}

    def watched(array, kind):
        key = (kind, len(alive), object())
        alive.add(key)
        weakref.finalize(array, alive.discard, key)
        most[kind] = max(most[kind], sum(other[0] == kind for other in alive))
        return array

    class Watching(Levels):
        def __call__(self, waveforms):
            ahead.append(read[0] - 5 * sum(size for size, _ in self.batches))
            logits, weak = super().__call__(waveforms)
            return watched(logits, "logits"), weak

    def hour(path, sample_rate):
        for second in range(3600):
            read[0] = second
            yield watched(np.full(sample_rate, second % 60 < 30, np.float32), "blocks")

    ahead, read, runner = [], [0], Watching()
    (result,) = detect_recordings(["hour"], runner, hour, batch_size=4)
    assert sum(size for size, _ in runner.batches) == 719
    assert most["blocks"] <= 3
    assert most["logits"] <= 3
    assert max(ahead) <= 60 + 2 * 60  # two batches wait, one is being read, one computed
    events = list(result.events(CLASSES, 0.5))
    assert len(events) == 120
    assert events[-1][:3] == (3570.0, 3600.0, "quiet")


def test_recordings_share_batches(tmp_path):
    paths = [write(tmp_path / f"{number}.wav", 4 + 8 * number, (1, 2)) for number in range(4)]
    runner = Levels()
    results = list(detect_recordings(paths, runner, stream, batch_size=3))
    assert [result.path for result in results] == [str(path) for path in paths]
    assert runner.batches == [(3, 1000)] * 3 + [(2, 1000)]  # 1 + 2 + 3 + 5 windows
    for number, result in enumerate(results):
        assert float(result.seconds) == 4 + 8 * number
        assert [event[:3] for event in result.events(CLASSES, 0.5)][:2] == [(0, 1, "quiet"), (1, 2, "loud")]


# -- networks
CONFIG = {"atst_frame": {"embed_dim": 32, "depth": 1, "num_heads": 2}}


def tiny(**options):
    torch.manual_seed(0)
    mel, model = build_strong("atst_frame", CONFIG, 5, **options)
    return Member("atst_frame", mel, model)


def test_frames_have_one_length():
    member = tiny()
    waveforms = golden_waveform(10.0, 16000, 0, 2)
    runner = FrameRunner(member)
    strong, weak = runner(waveforms)
    assert (strong.shape, weak.shape, strong.dtype) == ((2, 5, 250), (2, 5), np.float32)
    assert runner(waveforms[:, :80000])[0].shape == (2, 5, 125)
    assert runner(waveforms[:, :640])[0].shape == (2, 5, 1)
    assert member.net.seq_len == 250
    with torch.no_grad():
        expected = member.net(member.mel(torch.from_numpy(waveforms))).strong
    np.testing.assert_allclose(strong, expected.numpy(), rtol=0, atol=1e-5)
    assert FrameRunner(tiny(seq_len=500)).frame_seconds == 0.02


@pytest.mark.parametrize("options", [{}, {"seq_model_type": "rnn", "rnn_dim": 8}, {"head_type": "attention"}])
def test_reduced_precision_and_workers(options):
    waveforms = golden_waveform(2.0, 16000, 0, 3)
    full = FrameRunner(tiny(**options))(waveforms)[0]
    np.testing.assert_allclose(FrameRunner(tiny(**options), workers=3)(waveforms)[0], full, rtol=0, atol=1e-5)
    reduced = FrameRunner(tiny(**options), precision="bf16")(waveforms)[0]
    assert reduced.dtype == np.float32
    assert 0 < np.abs(full - reduced).max() < 0.1


def test_networks_that_do_not_do():
    with pytest.raises(ValueError, match="atst_frame has head_type=None, expected a model with a head"):
        FrameRunner(tiny(head_type=None))
    with pytest.raises(ValueError, match="precision is 'f16', expected one of f32, bf16"):
        FrameRunner(tiny(), precision="f16")
    with pytest.raises(ValueError, match="device is 'foo', expected one that is there: cpu"):
        FrameRunner(tiny(), device="foo")


def test_a_network_of_patches_says_how_short_a_window_may_be():
    mel, model = build_strong("asit", {"asit": {"embed_dim": 16, "depth": 1, "num_heads": 2}}, 5)
    runner = FrameRunner(Member("asit", mel, model))
    assert runner.min_samples == 2800
    assert runner(golden_waveform(0.2, 16000, 0, 1))[0].shape == (1, 5, 5)
    with pytest.raises(ValueError, match=r"window_size is 0\.16 s, expected at least the 0\.175 s that the network"):
        Detection(window_size=0.16).require(runner)


@pytest.mark.parametrize("arch", ["atst_frame", "frame_mn06"])
def test_silence_gives_numbers(arch, tmp_path):
    mel, model = build_strong(arch, CONFIG, 5)
    runner = FrameRunner(Member(arch, mel, model))
    out, classes = tmp_path / "out.json", list("abcde")
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(1600), 16000)
    detect([path], runner, stream, classes, out=out, plot=tmp_path, scores=tmp_path, show=lambda text: None)
    with h5py.File(tmp_path / "silence.h5") as file:
        assert file["scores"].shape == (3, 5)
        assert np.isfinite(file["scores"][:]).all()
        assert file["timestamps"][:].tolist() == [0, 0.04, 0.08, 0.1]
    assert json.loads(out.read_text())["files"][0]["seconds"] == 0.1


@pytest.mark.data
def test_real_recording(real_data):
    mel, model = build_strong("frame_mn06", {}, 5)
    path = real_data / "backgrounds/metro_station/metro_station-paris.wav"
    (result,) = detect_recordings([path], FrameRunner(Member("frame_mn06", mel, model)), stream)
    assert result.seconds == pytest.approx(soundfile.info(path).duration, abs=1e-3)
    assert (result.offset <= result.seconds + 1e-6).all()


# -- bad input
def test_recordings_that_cannot_be_read(tmp_path, caplog):
    (tmp_path / "empty.wav").touch()
    write(tmp_path / "short.wav", 0.01)
    write(tmp_path / "cut.wav", 30, (1, 2))
    content = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    good = write(tmp_path / "good.wav", 3, (1, 2))
    paths, folder = sorted(tmp_path.glob("*.wav")), tmp_path / "scores"
    summary = detect(paths, Levels(), stream, CLASSES, scores=folder, out=tmp_path / "out.json", show=lambda text: None)
    assert summary["detected"] == 1
    reasons = {path.rpartition("/")[2]: reason for path, reason in summary["skipped"].items()}
    assert reasons["empty.wav"].startswith(f"{tmp_path}/empty.wav: not readable as audio")
    assert reasons["short.wav"] == f"{tmp_path}/short.wav: 0.010 s long, expected at least 0.1 s"
    assert reasons["cut.wav"].startswith(f"{tmp_path}/cut.wav: ends after 1")
    assert [path.name for path in folder.iterdir()] == ["good.h5"]
    content = json.loads((tmp_path / "out.json").read_text())
    assert [entry["file"] for entry in content["files"]] == [str(good)]
    assert {entry["file"]: entry["reason"] for entry in content["skipped"]} == summary["skipped"]
    with pytest.raises(ValueError, match=r"0 of 3 recordings can be read; first: .*cut\.wav"):
        detect([path for path in paths if path != good], Levels(), stream, CLASSES)
    (nothing,) = detect_recordings(["x"], Levels(), lambda *_: [])
    assert nothing == Skipped("x", "x: no samples, expected at least 1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_size": 1.03}, r"window_size is 1\.03 s, expected a multiple of the 0\.04 s of a frame"),
        ({"window_size": 0.04}, r"window_size is 0\.04 s, expected at least the 0\.1 s that the network needs"),
        ({"window_size": "abc"}, r"window_size is 'abc', expected a number of seconds"),
        ({"hop_length": 0}, r"hop_length is 0 s, expected a multiple of the 0\.04 s of a frame"),
        ({"window_size": 4, "hop_length": 5}, r"hop_length is 5 s, expected at most the 4 s of a window"),
        ({"median_window": 2.5}, r"median_window is 2\.5, expected a whole number of frames from 1 on"),
        ({"median_window": 0}, r"median_window is 0, expected a whole number of frames from 1 on"),
        ({"thresholds": 1.5}, r"thresholds is 1\.5, expected one number in \[0, 1\) or several"),
        ({"thresholds": []}, r"thresholds is \[\], expected one number"),
        ({"thresholds": "0.5"}, r"thresholds is '0\.5', expected one number"),
        ({"min_gap": -1}, r"min_gap is -1 s, expected 0 or more"),
        ({"min_duration": "x"}, r"min_duration is x s, expected 0 or more"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        detect(["a.wav"], Levels(), stream, CLASSES, Detection(**settings))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_impossible_batches(batch_size):
    with pytest.raises(ValueError, match=f"inference_batch_size is {batch_size}, expected a whole number"):
        detect_recordings(["a.wav"], Levels(), stream, batch_size=batch_size)


def test_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="the model has 2 classes, expected the 3 that are named"):
        detect(["a.wav"], Levels(), stream, "abc")
    with pytest.raises(ValueError, match=r"a\.txt: unknown kind of file, expected one of \.csv, \.tsv, \.json"):
        detect(["a.wav"], Levels(), stream, CLASSES, out=tmp_path / "a.txt")


# -- results
def result(path="one, two.wav", thresholds=(0.1, 0.5)):
    scores = np.full((100, 2), 0.05)
    scores[50:75, 0], scores[25:30, 1], scores[60:70, 1] = 0.25, 0.75, 0.875
    settings = Detection(thresholds=thresholds)
    return decoded(find_runs([scores], settings.levels()), path, 4.0, 0.04, settings)


def test_table_by_onset():
    assert table(result(), CLASSES, (0.1, 0.5)).splitlines() == [
        "threshold 0.1: 3 events",
        "     onset     offset  event   mean   peak",
        "      1.00       1.20  quiet  0.750  0.750",
        "      2.00       3.00  loud   0.250  0.250",
        "      2.40       2.80  quiet  0.875  0.875",
        "threshold 0.5: 2 events",
        "     onset     offset  event   mean   peak",
        "      1.00       1.20  quiet  0.750  0.750",
        "      2.40       2.80  quiet  0.875  0.875",
    ]
    assert table(result(thresholds=0.9), CLASSES, (0.9,)) == "threshold 0.9: 0 events"


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_rows(tmp_path, suffix, delimiter):
    path = write_events(tmp_path / f"a.{suffix}", [result(), result("ü.wav", 0.9)], CLASSES, {"b.wav": "broken"})
    with open(path, encoding="utf-8", newline="") as file:
        content = list(csv.reader(file, delimiter=delimiter))
    assert content[0] == "file onset offset event_label threshold mean_probability peak_probability".split()
    assert content[1] == ["one, two.wav", "1.000000", "1.200000", "quiet", "0.1", "0.750000", "0.750000"]
    assert len(content) == 1 + 5
    assert [row[4] for row in content[1:]] == ["0.1"] * 3 + ["0.5"] * 2


def test_json(tmp_path):
    path = write_events(tmp_path / "a.json", [result(), result("ü.wav", 0.9)], CLASSES, {"b.wav": "broken"})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["skipped"] == [{"file": "b.wav", "reason": "broken"}]
    assert content["files"][1] == {"file": "ü.wav", "seconds": 4.0, "events": []}
    assert content["files"][0]["events"][1] == {
        "onset": 2.0, "offset": 3.0, "event_label": "loud", "threshold": 0.1,
        "mean_probability": 0.25, "peak_probability": 0.25,
    }  # fmt: skip
    assert json.loads(write_events(tmp_path / "b.json", [], CLASSES, {}).read_text()) == {"files": [], "skipped": []}


def test_labels(tmp_path):
    low, high = write_labels(tmp_path / "labels", "x", result(), CLASSES, (0.1, 0.5))
    assert (low.name, high.name) == ("x-0.1.txt", "x-0.5.txt")
    assert high.read_text() == "1.000000\t1.200000\tquiet\n2.400000\t2.800000\tquiet\n"
    assert low.read_text().splitlines()[1] == "2.000000\t3.000000\tloud"
    (path,) = write_labels(tmp_path, "x", result(thresholds=0.9), CLASSES, (0.9,))
    assert (path.name, path.read_text()) == ("x.txt", "")


def test_all_files_of_several_recordings(tmp_path):
    paths = [write(tmp_path / folder / "x.wav", 4, (1, 2)) for folder in "ab"]
    folders = {name: tmp_path / name for name in ("labels", "plot", "scores")}
    texts = []
    options = {"out": tmp_path / "out.tsv", **folders, "show": texts.append}
    assert detect(paths, Levels(), stream, CLASSES, Detection(thresholds=0.5), **options) == {
        "detected": 2,
        "skipped": {},
    }
    names = {name: sorted(path.name for path in folder.iterdir()) for name, folder in folders.items()}
    assert names == {
        "labels": ["x-2.txt", "x.txt"],
        "plot": ["x-2.png", "x.png"],
        "scores": ["x-2.h5", "x.h5"],
    }
    assert texts[0] == f"\n{paths[0]}"
    assert texts[1].splitlines()[0] == "threshold 0.5: 3 events"
    assert len((tmp_path / "out.tsv").read_text().splitlines()) == 1 + 2 * 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class Stopping(Levels):
    """Fails in a later batch."""

    def __call__(self, waveforms):
        if len(self.batches) == 3:
            raise KeyboardInterrupt
        return super().__call__(waveforms)


def test_a_stopped_run_goes_on(tmp_path):
    paths = [write(tmp_path / f"{number}.wav", 4, (number / 5, 2)) for number in range(6)]
    options = {"batch_size": 1, "out": tmp_path / "out.csv", "labels": tmp_path, "show": lambda text: None}
    with pytest.raises(KeyboardInterrupt):
        detect(paths, Stopping(), stream, CLASSES, **options)
    assert not (tmp_path / "out.csv").exists()
    resumed, anew = Levels(), Levels()
    assert detect(paths, resumed, stream, CLASSES, **options)["detected"] == 6
    assert len(resumed.batches) == 3
    content = (tmp_path / "out.csv").read_text()
    detect(paths, anew, stream, CLASSES, **options)
    assert len(anew.batches) == 6
    assert (tmp_path / "out.csv").read_text() == content


def test_kept_results_are_the_same(tmp_path):
    path = write(tmp_path / "x.wav", 4)
    kept = Unfinished(tmp_path / "out.csv", ["any"], Detected)
    kept.put(result(str(path)))
    (found,) = kept.results([path])
    assert list(found.events(CLASSES)) == list(result().events(CLASSES))
    assert (found.path, float(found.seconds)) == (str(path), 4.0)


# -- figures
def test_figures(tmp_path):
    for name, each, thresholds in (("a", result(), (0.1, 0.5)), ("b", result(thresholds=0.9), (0.9,))):
        path = plot_events(each, CLASSES, thresholds, tmp_path / f"{name}.png")
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size > 5000


def test_classes_with_the_highest_probabilities_are_drawn():
    many = ROWS + 6
    peak, zeros = np.linspace(0.2, 0.9, many), np.zeros(many)
    detected = Detected("x", 100.0, np.arange(many), np.arange(many)[::-1] * 1.0, zeros + 50, zeros + 0.1, peak, peak)
    assert drawn_classes(detected).tolist() == list(range(many))[: -ROWS - 1 : -1]
    assert drawn_classes(result()).tolist() == [1, 0]


def test_defaults_are_published_but_for_windows():
    assert Detection().median_window == 9
    assert Detection().levels() == (0.1, 0.2, 0.5)
    assert Detection().sizes(Levels()) == (250, 125)
    assert PUBLISHED.sizes(Levels()) == (250, 250)
