"""The mixer: exact labels, reproducible by seed whatever the workers, resumable, one clear line for bad input."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from data_util.classes import CLASSES, DESED_CLASSES
from data_util.procedural import GENERATORS, Procedural, background, synthesise
from data_util.recordings import find_recordings, fit_length, trim_silence
from data_util.soundscapes import (
    Event,
    Filter,
    Recipe,
    colour,
    generator,
    main,
    merged,
    mix_soundscape,
    write_soundscapes,
)

RATE = 16000
SHORT = Recipe(duration=2.0, sample_rate=8000, events=(1, 3), seconds=(0.3, 0.8))


class Tones:
    """Steady tones over silence: every non-zero sample of a mixture belongs to an event."""

    labels = ("a", "b")

    def event(self, label, seconds, sample_rate, rng):
        frequency = {"a": 440, "b": 1000}[label]
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        return np.sin(2 * np.pi * frequency * time).astype(np.float32), label

    def background(self, seconds, sample_rate, rng):
        return np.zeros(round(seconds * sample_rate), np.float32), "silence"

    def describe(self):
        return {"tones": 1}


@pytest.fixture
def isolated(tmp_path):
    """Two classes of isolated recordings of different rates, channels and formats, and a background."""
    rng = np.random.default_rng(0)
    for label, rate, channels, suffix in (("Dog", 44100, 2, "wav"), ("Cat", 16000, 1, "flac")):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(2):
            sound = 0.1 * rng.standard_normal((round(0.4 * rate), channels))
            soundfile.write(tmp_path / "in" / label / f"{i}.{suffix}", sound, rate)
    (tmp_path / "in" / "backgrounds" / "street").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "backgrounds" / "street" / "b.wav", 0.1 * rng.standard_normal(24000), 48000)
    return tmp_path / "in"


# Labels.


@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_event_sounds_between_its_onset_and_offset_only(rate):
    recipe = Recipe(duration=4, sample_rate=rate, seconds=(0.3, 1.2), filter_p=0.5, bandwidth=7500)
    for seed in range(5):
        audio, (event,) = mix_soundscape(Tones(), recipe, generator(seed), ["a"])
        assert audio.dtype == np.float32
        assert audio.shape == (4 * rate,)
        loud = np.flatnonzero(np.abs(audio) > 1e-7)
        assert event.onset * rate <= loud[0] <= event.onset * rate + 0.005 * rate
        assert event.offset * rate - 0.005 * rate <= loud[-1] + 1 <= event.offset * rate + 1e-6
        inside = np.arange(len(audio)) / rate
        outside = (inside < event.onset - 1e-9) | (inside > event.offset + 1e-9)
        assert np.all(audio[outside] == 0)
        assert (event.onset * 1000) % 1 == pytest.approx(0, abs=1e-6)


def test_level_is_relative_to_the_background():
    recipe = Recipe(duration=4, seconds=(1, 1), snr=(12, 12), background_level=(-40, -40), filter_p=0, fade=0)
    audio, (event,) = mix_soundscape(Tones(), recipe, generator(1), ["b"])
    span = audio[round(event.onset * RATE) : round(event.offset * RATE)]
    assert 10 * np.log10(np.mean(span**2)) == pytest.approx(-28, abs=0.05)
    background_only, _ = mix_soundscape(Procedural(), recipe, generator(1), [])
    assert 10 * np.log10(np.mean(background_only**2)) == pytest.approx(-40, abs=0.01)


def test_loud_mixtures_are_scaled_and_not_clipped():
    recipe = Recipe(duration=2, seconds=(1, 1), snr=(20, 20), background_level=(-5, -5), filter_p=0)
    audio, _ = mix_soundscape(Tones(), recipe, generator(0), ["a", "b"])
    assert np.abs(audio).max() == pytest.approx(0.99, abs=1e-4)


@pytest.mark.parametrize("limit", [1, 2])
def test_overlap_limit(limit):
    recipe = Recipe(duration=3, seconds=(0.4, 1.0), max_overlap=limit, filter_p=0)
    counts = []
    for seed in range(10):
        _, events = mix_soundscape(Tones(), recipe, generator(seed), ["a", "b", "a", "b"])
        time = np.arange(0, 3, 0.001) + 0.0005
        counts.append(max(sum(e.onset <= t < e.offset for e in events) for t in time))
        assert len(events) >= 3 - (limit == 1)
    assert max(counts) == limit


def test_events_that_find_no_place_become_shorter():
    recipe = Recipe(duration=1, seconds=(0.9, 0.9), max_overlap=1, filter_p=0)
    lengths = [
        round(event.offset - event.onset, 3)
        for seed in range(20)
        for event in mix_soundscape(Tones(), recipe, generator(seed), ["a", "b"])[1]
    ]
    assert set(lengths) == {0.9}  # no room beside the first, not even for a quarter: left out
    recipe = replace(recipe, seconds=(0.6, 0.6))
    found = {
        round(event.offset - event.onset, 3)
        for seed in range(20)
        for event in mix_soundscape(Tones(), recipe, generator(seed), ["a", "b"])[1]
    }
    assert found == {0.6, 0.3, 0.15}


def test_same_class_overlaps_are_one_row():
    events = [
        Event("a", 1.0, 2.0, 6, ""),
        Event("a", 1.5, 3.0, 6, ""),
        Event("b", 1.2, 1.4, 6, ""),
        Event("a", 4, 5, 6, ""),
    ]
    assert merged(events) == [(1.0, 3.0, "a"), (1.2, 1.4, "b"), (4, 5, "a")]


def test_number_and_length_of_events_follow_the_recipe():
    recipe = Recipe(
        duration=10, events=(2, 4), seconds=(0.5, 1.5), seconds_of={"b": (2.0, 2.5)}, filter_p=0, max_overlap=9
    )
    seen = set()
    for seed in range(12):
        _, events = mix_soundscape(Tones(), recipe, generator(seed))
        seen.add(len(events))
        for event in events:
            low, high = (2.0, 2.5) if event.label == "b" else (0.5, 1.5)
            assert low - 0.001 <= event.offset - event.onset <= high
            assert 6 <= event.snr <= 20
    assert seen == {2, 3, 4}


# Sound.


def test_filters_do_what_they_say():
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)

    def band(audio, low, high):
        power = np.abs(np.fft.rfft(audio)) ** 2
        frequency = np.fft.rfftfreq(len(audio), 1 / RATE)
        return 10 * np.log10(power[(frequency >= low) & (frequency < high)].mean())

    def change(kind, value, low, high):
        return band(colour(noise, RATE, Filter(kind, value), None), low, high) - band(noise, low, high)

    assert change("lowpass", 1000, 3900, 4100) == pytest.approx(-24, abs=1.5)
    assert change("lowpass", 1000, 100, 200) == pytest.approx(0, abs=0.5)
    assert change("highpass", 400, 95, 105) == pytest.approx(-24, abs=1.5)
    assert change("tilt", 3, 3800, 4200) == pytest.approx(6, abs=0.5)
    limited = colour(noise, RATE, None, 6000)
    assert band(limited, 6100, 8000) < band(limited, 100, 5400) - 40
    assert band(limited, 100, 5400) == pytest.approx(band(noise, 100, 5400), abs=0.05)
    assert colour(noise, RATE, None, None) is noise


def test_short_sounds_repeat_without_gaps_and_long_ones_are_cut():
    rng = np.random.default_rng(0)
    tone = np.sin(np.arange(4000) / 5).astype(np.float32)
    looped = fit_length(tone, 20000, 400, rng)
    level = np.sqrt(np.mean(looped.reshape(-1, 200) ** 2, axis=1))
    assert looped.shape == (20000,)
    assert level.min() > 0.3
    joints = fit_length(np.ones(4000, np.float32), 20000, 400, rng)
    assert np.ptp(joints) == pytest.approx(np.sqrt(2) - 1, abs=1e-3)  # constant power where two copies overlap
    cut = fit_length(tone, 1000, 400, rng)
    assert any(np.array_equal(cut, tone[i : i + 1000]) for i in range(3001))


def test_silence_is_trimmed():
    audio = np.zeros(8000, np.float32)
    audio[2000:4000] = 0.5
    assert np.array_equal(trim_silence(audio, 100, 50), np.full(2000, 0.5, np.float32))


# Synthetic sounds.


def test_every_class_has_a_generator():
    assert tuple(GENERATORS) == CLASSES


@pytest.mark.parametrize("label", CLASSES)
def test_synthetic_sounds_fill_their_time_and_differ(label):
    for rate, seconds in ((16000, 2.0), (8000, 0.3), (44100, 0.05)):
        audio = synthesise(label, seconds, rate, np.random.default_rng(0))
        assert audio.shape == (round(seconds * rate),)
        assert audio.dtype == np.float32
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() == pytest.approx(1, abs=1e-5)
    audio = synthesise(label, 2.0, RATE, np.random.default_rng(0))
    assert np.array_equal(audio, synthesise(label, 2.0, RATE, np.random.default_rng(0)))
    assert not np.allclose(audio, synthesise(label, 2.0, RATE, np.random.default_rng(1)))
    level = 20 * np.log10(np.sqrt(np.mean(audio**2)))
    for end in (audio[: RATE // 10], audio[-RATE // 10 :]):
        assert 20 * np.log10(np.sqrt(np.mean(end**2))) > level - 20


def test_backgrounds_are_steady():
    for seed in range(4):
        audio = background(3.0, RATE, np.random.default_rng(seed))
        level = 10 * np.log10(np.mean(audio.reshape(-1, RATE // 2) ** 2, axis=1))
        assert audio.shape == (3 * RATE,)
        assert np.ptp(level) < 8


def test_desed_classes_are_distinguishable():
    """A nearest class mean on coarse spectra and their fluctuation tells them apart."""

    def features(label, seed):
        audio = synthesise(label, 2.0, RATE, np.random.default_rng(seed))
        power = np.abs(np.fft.rfft(audio.reshape(-1, 400) * np.hanning(400), axis=1)) ** 2
        edges = np.unique(np.geomspace(1, 200, 17).astype(int))
        bands = 10 * np.log10(np.add.reduceat(power[:, 1:], edges - 1, axis=1) + 1e-6)
        flat = bands - bands.mean()
        return np.concatenate([flat.mean(axis=0), 2 * bands.std(axis=0)])

    means = np.stack([np.mean([features(label, seed) for seed in range(6)], axis=0) for label in DESED_CLASSES])
    hits = [
        np.argmin(np.linalg.norm(means - features(label, 100 + seed), axis=1)) == i
        for i, label in enumerate(DESED_CLASSES)
        for seed in range(3)
    ]
    assert np.mean(hits) > 0.85


# Sets.


def read_all(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_set_depends_on_the_seed_alone(isolated, tmp_path):
    sources = find_recordings(isolated)
    for name, workers, number, seed in (("one", 1, 4, 0), ("two", 2, 4, 0), ("other", 1, 4, 1), ("more", 1, 6, 0)):
        write_soundscapes(tmp_path / name, number, sources, SHORT, seed, workers, weak=True)
    one, two, other, more = (read_all(tmp_path / name) for name in ("one", "two", "other", "more"))
    assert one == two
    assert set(one) == set(other)
    first = [name for name in one if name.startswith("audio/")]
    assert len(first) == 4
    assert all(one[name] != other[name] for name in first)
    assert all(one[name] == more[name] for name in first)


def test_tables_and_audio_formats(isolated, tmp_path):
    events = write_soundscapes(tmp_path / "out", 3, find_recordings(isolated), SHORT, workers=1, weak=True)
    for name in events:
        info = soundfile.info(tmp_path / "out" / "audio" / name)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (8000, 1, "PCM_16", 16000)
    table = pd.read_csv(tmp_path / "out" / "soundscapes.tsv", sep="\t")
    assert list(table.columns) == ["filename", "onset", "offset", "event_label"]
    assert set(table["filename"]) == set(events)
    assert set(table["event_label"]) <= {"Cat", "Dog"}
    assert (table["offset"] > table["onset"]).all()
    assert table["offset"].max() <= 2
    durations = pd.read_csv(tmp_path / "out" / "durations.tsv", sep="\t")
    assert list(durations["duration"]) == [2.0] * 3
    weak = pd.read_csv(tmp_path / "out" / "weak.tsv", sep="\t").set_index("filename")["event_labels"]
    for name, rows in table.groupby("filename"):
        assert set(weak[name].split(",")) == set(rows["event_label"])
    notes = json.loads((tmp_path / "out" / "labels" / "soundscape_000000.json").read_text())
    assert notes[0]["origin"].split("/")[0] in ("Cat", "Dog")


def test_clips_without_events_have_a_row(tmp_path):
    write_soundscapes(tmp_path, 2, Tones(), replace(SHORT, events=(0, 0)), workers=1)
    lines = (tmp_path / "soundscapes.tsv").read_text().splitlines()
    assert lines[1:] == ["soundscape_000000.wav\t\t\t", "soundscape_000001.wav\t\t\t"]


def test_an_interrupted_set_continues(tmp_path):
    write_soundscapes(tmp_path, 3, Tones(), SHORT, workers=1)
    before = read_all(tmp_path)
    kept = tmp_path / "audio" / "soundscape_000000.wav"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "audio" / "soundscape_000001.wav").unlink()
    (tmp_path / "labels" / "soundscape_000002.json").unlink()  # written last: without it the audio may be incomplete
    (tmp_path / "audio" / "soundscape_000002.wav").write_bytes(b"half")
    write_soundscapes(tmp_path, 3, Tones(), SHORT, workers=1)
    assert read_all(tmp_path) == before
    assert kept.stat().st_mtime_ns == stamp


def test_the_command(isolated, tmp_path):
    out = tmp_path / "out"
    arguments = [
        str(isolated),
        str(out),
        "--number",
        "2",
        "--duration",
        "1",
        "--seconds",
        "0.2",
        "0.5",
        "--labels",
        "Dog",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "data_util.soundscapes", *arguments, "--workers", "2"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert set(pd.read_csv(out / "soundscapes.tsv", sep="\t")["event_label"]) == {"Dog"}


def processes():
    """{process: its parent} of all that run, without the dead that nobody has collected yet."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # ended while we looked
            continue
        if state != "Z":
            found[int(path.parent.name)] = int(parent)
    return found


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
def test_workers_end_with_a_killed_program(isolated, tmp_path):
    command = [sys.executable, "-m", "data_util.soundscapes", str(isolated), str(tmp_path / "out")]
    program = subprocess.Popen([*command, "--number", "20000", "--workers", "2"], stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: list((tmp_path / "out").rglob("*.wav")))
        workers = {process for process, parent in processes().items() if parent == program.pid}
    finally:
        program.kill()
        program.wait()
    assert len(workers) == 2
    assert wait_for(lambda: not workers & set(processes()))


# Bad input.


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (lambda d: None, ["--labels", "Dgo"], ["no class 'Dgo'", "did you mean 'Dog'", "Cat, Dog"]),
        (lambda d: (d / "Bird").mkdir(), [], ["Bird", "no audio file"]),
        (lambda d: (d / "Dog" / "0.wav").write_bytes(b"no audio"), [], ["Dog/0.wav", "not readable"]),
        (lambda d: (d / "backgrounds" / "street" / "b.wav").unlink(), [], ["no background", "backgrounds"]),
        (lambda d: None, ["--backgrounds", "nowhere"], ["no background", "nowhere"]),
        (lambda d: None, ["--snr", "9", "3"], ["snr", "empty"]),
        (lambda d: None, ["--loop", "Cow"], ["Cow", "Cat, Dog"]),
        (lambda d: None, ["--duration", "0"], ["duration", "positive"]),
    ],
)
def test_bad_input_is_one_line(isolated, tmp_path, capsys, spoil, arguments, words):
    spoil(isolated)
    with pytest.raises(SystemExit) as exit_:
        main([str(isolated), str(tmp_path / "out"), "--workers", "1", "--number", "1", *arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


def test_damage_inside_a_recording_names_the_file(isolated, tmp_path):
    soundfile.write(isolated / "Dog" / "0.wav", np.zeros(8000), 16000)
    (isolated / "Dog" / "1.wav").unlink()
    sources = find_recordings(isolated, labels=["Dog"])
    with pytest.raises(ValueError, match=r"Dog/0\.wav: silent"):
        write_soundscapes(tmp_path / "out", 2, sources, SHORT, workers=2)


def test_other_settings_need_another_folder(tmp_path):
    write_soundscapes(tmp_path, 1, Tones(), SHORT, workers=1)
    with pytest.raises(ValueError, match=r"other settings \(recipe.snr: \[6.0, 20.0\] there, \[0.0, 1.0\] asked for\)"):
        write_soundscapes(tmp_path, 1, Tones(), replace(SHORT, snr=(0.0, 1.0)), workers=1)
    with pytest.raises(ValueError, match=r"seed: 0 there, 5 asked for"):
        write_soundscapes(tmp_path, 1, Tones(), SHORT, seed=5, workers=1)


def test_classes_with_a_slash_and_other_layouts(isolated):
    (isolated / "Dog").rename(isolated / "door opens_closes")
    assert find_recordings(isolated, labels=["door opens/closes"]).labels == ("door opens/closes",)
    (isolated / "events").mkdir()
    for name in ("Cat", "door opens_closes"):
        (isolated / name).rename(isolated / "events" / name)
    assert find_recordings(isolated).labels == ("Cat", "door opens_closes")
    assert find_recordings(isolated / "events").backgrounds == find_recordings(isolated).backgrounds


def test_long_recordings_are_read_in_parts(isolated):
    rate = 8000
    ramp = np.repeat(np.arange(1, 41) / 50, rate).astype(np.float32)  # second k has the value k / 50
    soundfile.write(isolated / "backgrounds" / "street" / "b.wav", ramp, rate, subtype="FLOAT")
    audio, _ = find_recordings(isolated).background(2.0, rate, np.random.default_rng(0))
    assert audio.shape == (2 * rate,)
    assert 0.02 < audio.mean()
    assert np.ptp(audio) < 0.05


def test_split_is_disjoint(isolated):
    train, test = find_recordings(isolated).split(0.4, generator(0))
    for label in ("Cat", "Dog"):
        assert len(train.files[label]) == len(test.files[label]) == 1
        assert train.files[label] != test.files[label]


@pytest.mark.data
def test_real_recordings(real_data, tmp_path):
    sources = find_recordings(real_data)
    assert sources.labels == DESED_CLASSES
    assert len(sources.backgrounds) == 8
    assert find_recordings(real_data / "events").describe() == sources.describe()
    recipe = Recipe(duration=5.0, seconds=(0.5, 2.0), bandwidth=7500.0)
    events = write_soundscapes(tmp_path, 6, sources, recipe, workers=2)
    assert sum(map(len, events.values())) >= 6
    for name in events:
        audio, rate = soundfile.read(tmp_path / "audio" / name)
        power = np.abs(np.fft.rfft(audio)) ** 2
        frequency = np.fft.rfftfreq(len(audio), 1 / rate)
        assert power[frequency > 7600].mean() < 1e-4 * power[frequency < 7000].mean()
