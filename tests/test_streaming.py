"""Audio files block by block: the samples of whole-file reading, whatever the format, and the same complaints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.audio import read
from data_util.errors import BadAudio, DataMissing
from data_util.streaming import find_audio, stream

ROOT = Path(__file__).parents[1]
RATE = 32000


def noise(samples, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def write(path, audio, rate=RATE, **options):
    soundfile.write(path, audio, rate, **options)
    return path


# -- samples
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("seconds", [0.013, 0.5, 10.0])
def test_blocks_are_the_whole_file(tmp_path, rate, seconds):
    path = write(tmp_path / "a.wav", noise(int(1.37 * rate)), rate, subtype="FLOAT")
    blocks = list(stream(path, RATE, seconds=seconds))
    whole = read(path, RATE, resample=True)
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64"])
def test_formats(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", 0.3 * np.sin(np.arange(66150) / 20), 44100)
    blocks = np.concatenate(list(stream(path, RATE, seconds=0.1)))
    np.testing.assert_allclose(blocks, read(path, RATE, resample=True), rtol=0, atol=1e-4)
    assert np.abs(blocks).max() > 0.25


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_channels(tmp_path, channels):
    x = noise(RATE, channels)
    path = write(tmp_path / "a.wav", x, subtype="FLOAT")
    np.testing.assert_allclose(np.concatenate(list(stream(path, RATE))), x.mean(1), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(np.concatenate(list(stream(path, channel=channels - 1))), x[:, -1])
    if channels > 1:
        with pytest.raises(ValueError, match=rf"a\.wav: no channel {channels}, expected one of its {channels}"):
            list(stream(path, channel=channels))


def test_silence_stays_silent(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(44100), 44100)
    assert not np.concatenate(list(stream(path, RATE))).any()


# -- memory
PEAK = """
import resource, sys
from data_util.streaming import stream
samples = sum(len(block) for block in stream(sys.argv[1], 32000))
print(samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for minutes in (1, 15):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 16000, 2) as file:
            for _ in range(minutes):
                file.write(np.zeros((60 * 16000, 2), np.int16))
        done = subprocess.run([sys.executable, "-c", PEAK, path], cwd=ROOT, capture_output=True, text=True, check=True)
        samples, peak = map(float, done.stdout.split())
        assert samples == minutes * 60 * RATE
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 8  # MiB; the longer file has 108 MiB of samples more


# -- broken files
def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav: no such audio file"):
        list(stream(tmp_path / "nowhere.wav"))


@pytest.mark.parametrize("content", [b"", b"no audio at all" * 100], ids=["empty", "text"])
def test_not_audio(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadAudio, match=r"a\.wav: not readable as audio"):
        list(stream(tmp_path / "a.wav"))


@pytest.mark.parametrize("samples", [0, 320])
def test_too_short(tmp_path, samples):
    path = write(tmp_path / "a.wav", noise(samples))
    with pytest.raises(BadAudio, match=r"a\.wav: 0\.0[01]0 s long, expected at least 0\.1 s"):
        list(stream(path))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_truncated(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", noise(4 * RATE))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadAudio, match=rf"a\.{suffix}: "):
        list(stream(path))


def test_numbers_that_are_none(tmp_path):
    x = noise(3 * RATE)
    x[2 * RATE + 5] = np.nan
    blocks = stream(write(tmp_path / "a.wav", x, subtype="FLOAT"), seconds=1.0)
    assert len(next(blocks)) == len(next(blocks)) == RATE
    with pytest.raises(BadAudio, match=r"a\.wav: holds values that are no finite numbers"):
        next(blocks)


# -- names of files
def test_files_and_folders(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("a.wav", "b/2.flac", "b/1.wav", "b/c/3.mp3", "b/notes.txt"):
        (tmp_path / name).touch()
    names = ["b/1.wav", "b/2.flac", "b/c/3.mp3"]
    assert find_audio(tmp_path / "b") == [tmp_path / name for name in names]
    assert find_audio(str(tmp_path / "b/notes.txt")) == [tmp_path / "b/notes.txt"]  # it may be audio all the same
    several = find_audio([tmp_path / "b/2.flac", tmp_path, tmp_path / "a.wav"])
    assert several == [tmp_path / name for name in ("b/2.flac", "a.wav", "b/1.wav", "b/c/3.mp3")]


def test_nothing_there(tmp_path):
    with pytest.raises(DataMissing, match=r"nowhere: no such audio file or folder"):
        find_audio(tmp_path / "nowhere")
    with pytest.raises(DataMissing, match=r"0 audio files in this folder, expected at least 1"):
        find_audio(tmp_path)
    with pytest.raises(DataMissing, match="no audio file is named"):
        find_audio([])


@pytest.mark.data
def test_real_recordings(real_data):
    files = find_audio([real_data / "audioset/mp3", real_data / "backgrounds", real_data / "fsd50k"])
    assert len({path.suffix for path in files}) > 1
    for path in files[:12]:
        blocks = np.concatenate(list(stream(path, RATE, seconds=0.37)))
        np.testing.assert_allclose(blocks, read(path, RATE, resample=True), rtol=0, atol=1e-4)
