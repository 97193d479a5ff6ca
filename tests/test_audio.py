"""Reading of audio files: formats, channels, lengths, sample rates, and files that are broken."""

import types

import numpy as np
import pytest
import soundfile
import soxr

from data_util import audio as audio_module
from data_util.audio import AudioReader, decode, pad_or_crop, read
from data_util.cache import CachedAudio, build_cache
from data_util.errors import BadAudio, WrongSampleRate
from tests.reference import golden

RATE = 16000


def noise(samples, seed=0, channels=None):
    shape = (samples,) if channels is None else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def write(path, audio, rate=RATE, subtype="PCM_16"):
    soundfile.write(path, audio, rate, subtype=subtype)
    return str(path)


def truncated(path, keep):
    """The file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return str(path)


# -- reading ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT")]
)
def test_lossless_formats(tmp_path, suffix, subtype):
    x = noise(RATE)
    result = read(write(tmp_path / f"a.{suffix}", x, subtype=subtype), RATE)
    assert result.dtype == np.float32
    assert result.shape == x.shape
    np.testing.assert_allclose(result, x, rtol=0, atol=2 / 2**16 if subtype == "PCM_16" else 2e-7)


def test_mp3(tmp_path):
    time = np.arange(2 * RATE) / RATE
    x = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    soundfile.write(tmp_path / "a.mp3", x, RATE)
    result = read(tmp_path / "a.mp3", RATE)
    assert abs(len(result) - len(x)) < 2 * 1152
    assert np.argmax(np.abs(np.fft.rfft(result[: 2 * RATE]))) == pytest.approx(880, abs=2)


def test_channels(tmp_path):
    x = noise(RATE, channels=3)
    path = write(tmp_path / "a.wav", x, subtype="FLOAT")
    np.testing.assert_allclose(read(path), x.mean(axis=1), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(read(path, channel=2), x[:, 2])
    np.testing.assert_array_equal(read(path, channel="random"), x[:, 0])
    picks = [read(path, channel="random", rng=np.random.default_rng(seed)) for seed in range(20)]
    found = {int(np.argmin(np.abs(x - pick[:, None]).sum(axis=0))) for pick in picks}
    assert found == {0, 1, 2}  # the last channel, too
    with pytest.raises(ValueError, match=r"a\.wav: no channel 3, expected one of its 3"):
        read(path, channel=3)


def test_sample_rate(tmp_path):
    x = noise(44100)
    path = write(tmp_path / "a.wav", x, rate=44100, subtype="FLOAT")
    with pytest.raises(WrongSampleRate, match=r"a\.wav: sample rate 44100 Hz, expected 16000 Hz"):
        read(path, RATE)
    with pytest.raises(WrongSampleRate, match=r"a\.wav: sample rate 44100 Hz, expected 16000 Hz"):
        AudioReader(RATE, 0.5)(path)
    np.testing.assert_array_equal(read(path, RATE, resample=True), soxr.resample(x, 44100, RATE))
    np.testing.assert_array_equal(read(path), x)


# -- length ----------------------------------------------------------------------------------------
def test_pad_as_published():
    expected = golden("sed/data_preparation.json")["pad"]
    padded, start = pad_or_crop(np.array(expected["input"], dtype=np.float32), expected["target_len"])
    assert (padded.tolist(), start) == (expected["output"], 0)


def test_crop():
    x = np.arange(10, dtype=np.float32)
    assert pad_or_crop(x, 4)[0].tolist() == [0, 1, 2, 3]  # evaluation: the start
    starts = set()
    for seed in range(100):
        cropped, start = pad_or_crop(x, 4, np.random.default_rng(seed))
        assert cropped.tolist() == x[start : start + 4].tolist()
        starts.add(start)
    assert starts == set(range(7))
    assert pad_or_crop(x, 10, np.random.default_rng(0)) == (pytest.approx(x), 0)


@pytest.mark.parametrize("resample", [False, True])
def test_reader_crops_and_pads(tmp_path, resample):
    x = noise(3 * RATE)
    reader = AudioReader(RATE, 2.0, resample=resample)
    path = write(tmp_path / "long.wav", x, subtype="FLOAT")
    audio, start = reader(path)
    assert start == 0
    np.testing.assert_array_equal(audio, x[: 2 * RATE])
    audio, start = reader(path, np.random.default_rng(3))
    first = round(start * RATE)
    assert 0 < first <= RATE
    np.testing.assert_array_equal(audio, x[first : first + 2 * RATE])
    audio, start = reader(write(tmp_path / "short.wav", x[:RATE], subtype="FLOAT"), np.random.default_rng(3))
    assert start == 0
    np.testing.assert_array_equal(audio, np.concatenate([x[:RATE], np.zeros(RATE, dtype=np.float32)]))


def test_an_excerpt_has_the_same_samples_however_it_is_read(tmp_path):
    path = write(tmp_path / "a.flac", noise(3 * RATE))
    excerpts = [AudioReader(RATE, 1.0, resample=r)(path, np.random.default_rng(1)) for r in (False, True)]
    np.testing.assert_array_equal(excerpts[0][0], excerpts[1][0])
    assert excerpts[0][1] == excerpts[1][1]


# -- broken files ----------------------------------------------------------------------------------
def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav: no such audio file"):
        read(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("content", [b"", b"no audio at all" * 100], ids=["empty", "text"])
def test_not_audio(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadAudio, match=r"a\.wav: not readable as audio"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(4 * RATE), RATE)
    read(path)
    truncated(path, 0.5)
    with pytest.raises(BadAudio, match=rf"a\.{suffix}: "):
        read(path)


def test_message_of_a_truncated_wav(tmp_path):
    write(tmp_path / "a.wav", noise(4 * RATE))
    with pytest.raises(BadAudio, match=r"a\.wav: ends after 1\.00 s, expected 4\.00 s"):
        read(truncated(tmp_path / "a.wav", 0.25))


def test_a_few_missing_samples_are_common(tmp_path):
    write(tmp_path / "a.wav", noise(4 * RATE))
    assert len(read(truncated(tmp_path / "a.wav", 0.99))) > 3.9 * RATE


def test_streamed_wav_has_no_size_in_its_header(tmp_path):
    x = noise(RATE)
    path = tmp_path / "a.wav"
    write(path, x)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read(path)) == RATE


@pytest.mark.parametrize("samples", [0, 100])
def test_too_short(tmp_path, samples):
    path = write(tmp_path / "a.wav", noise(samples))
    with pytest.raises(BadAudio, match=r"a\.wav: 0\.\d+ s long, expected at least 0\.1 s"):
        read(path)


def test_header_without_samples(tmp_path):
    write(tmp_path / "a.wav", noise(RATE))
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:44])
    with pytest.raises(BadAudio, match=r"a\.wav: 0\.000 s long"):
        read(tmp_path / "a.wav")


def test_values_that_are_no_numbers(tmp_path):
    x = noise(RATE)
    x[5] = np.nan
    with pytest.raises(BadAudio, match=r"a\.wav: holds values that are no finite numbers"):
        read(write(tmp_path / "a.wav", x, subtype="FLOAT"))


# -- minimp3 ---------------------------------------------------------------------------------------
def test_minimp3_is_used_when_it_is_there(tmp_path, monkeypatch):
    x = noise(2 * RATE)
    calls = []

    def decode_bytes(content):
        calls.append(content)
        if content == b"broken":
            raise RuntimeError("no frames")
        return x[:, None], RATE

    monkeypatch.setattr(audio_module, "minimp3", lambda: types.SimpleNamespace(read=decode_bytes))
    path = tmp_path / "a.mp3"
    path.write_bytes(b"frames")
    np.testing.assert_array_equal(read(path, RATE), x)
    np.testing.assert_array_equal(AudioReader(RATE, 0.5)(path)[0], x[: RATE // 2])
    assert calls == [b"frames", b"frames"]
    path.write_bytes(b"broken")
    with pytest.raises(BadAudio, match=r"a\.mp3: not readable as audio \(no frames\)"):
        read(path)


def test_minimp3_decodes_to_the_same_samples(tmp_path):
    minimp3py = pytest.importorskip("minimp3py")
    soundfile.write(tmp_path / "a.mp3", noise(2 * RATE), RATE)
    with soundfile.SoundFile(tmp_path / "a.mp3") as file:
        expected = file.read(dtype="float32", always_2d=True)
    result, rate = minimp3py.read((tmp_path / "a.mp3").read_bytes())
    assert rate == RATE
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


# -- cache -----------------------------------------------------------------------------------------
@pytest.fixture
def recordings(tmp_path):
    """Files of every kind: 16 bit, stereo, 24 bit, another rate, another folder."""
    one, two = tmp_path / "one", tmp_path / "two" / "one"
    one.mkdir()
    two.mkdir(parents=True)
    return [
        write(one / "a.wav", noise(3 * RATE, 1)),
        write(one / "b.wav", noise(RATE, 2, channels=2)),
        write(one / "c.wav", noise(RATE + 1, 3), subtype="PCM_24"),
        write(one / "d.wav", noise(44100, 4), rate=44100),
        write(two / "a.wav", noise(RATE, 5)),
    ]


def pcm_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.pcm"))


def test_cache_gives_the_same_samples(tmp_path, recordings):
    assert build_cache(recordings, tmp_path / "cache", RATE, workers=2) == 5
    cache = CachedAudio(tmp_path / "cache", RATE)
    assert [cache.read(path).dtype for path in recordings] == [np.int16, *[np.float32] * 3, np.int16]
    for path in recordings:
        for seed in (None, 0, 1):
            rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
            plain, start = AudioReader(RATE, 2.0, resample=True)(path, rngs[0])
            cached, cached_start = AudioReader(RATE, 2.0, resample=True, cache=cache)(path, rngs[1])
            np.testing.assert_array_equal(cached, plain)
            assert cached.dtype == np.float32
            assert cached_start == start
    assert cache.read(tmp_path / "one" / "other.wav") is None
    assert CachedAudio(tmp_path / "cache", 32000).read(recordings[0]) is None


def test_cache_is_really_read(tmp_path, recordings, monkeypatch):
    build_cache(recordings, tmp_path / "cache", RATE)
    reader = AudioReader(RATE, 2.0, cache=CachedAudio(tmp_path / "cache", RATE))
    decoded = AudioReader(RATE, 2.0)(recordings[0])[0]
    monkeypatch.setattr(audio_module, "decode", lambda *_: pytest.fail("the file was decoded"))
    np.testing.assert_array_equal(reader(recordings[0])[0], decoded)


def test_cache_keeps_what_it_has(tmp_path, recordings):
    folder = tmp_path / "cache"
    assert build_cache(recordings[:2], folder, RATE) == 2
    size = pcm_bytes(folder)
    assert build_cache(recordings, folder, RATE) == 3
    assert build_cache(recordings, folder, RATE) == 0
    assert pcm_bytes(folder) > size
    np.testing.assert_array_equal(CachedAudio(folder, RATE).read(recordings[1]), read(recordings[1], RATE))


def test_interrupted_build_continues(tmp_path, recordings):
    folder = tmp_path / "cache"
    build_cache(recordings[:1], folder, RATE)
    assert pcm_bytes(folder) == 2 * 3 * RATE
    with open(next(folder.rglob("*.pcm")), "ab") as pcm:  # written, but no index tells of it
        pcm.write(b"half a clip")
    assert build_cache(recordings[:4], folder, RATE) == 3
    for path in recordings[:4]:
        plain = AudioReader(RATE, 2.0, resample=True)(path)[0]
        cached = AudioReader(RATE, 2.0, resample=True, cache=CachedAudio(folder, RATE))(path)[0]
        np.testing.assert_array_equal(cached, plain)


def test_changed_file_is_not_read_from_the_cache(tmp_path, recordings, caplog):
    folder = tmp_path / "cache"
    build_cache(recordings, folder, RATE)
    x = noise(2 * RATE, 9)
    write(tmp_path / "one" / "a.wav", x)
    cache = CachedAudio(folder, RATE)
    assert cache.read(recordings[0]) is None
    assert cache.read(recordings[0]) is None
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "one/a.wav changed since it was cached" in messages[0]
    np.testing.assert_array_equal(AudioReader(RATE, 2.0, cache=cache)(recordings[0])[0], read(recordings[0]))
    assert build_cache(recordings, folder, RATE) == 1
    np.testing.assert_array_equal(
        CachedAudio(folder, RATE).read(recordings[0]) / np.float32(32768), read(recordings[0])
    )


def test_damaged_cache_is_ignored(tmp_path, recordings, caplog):
    folder = tmp_path / "cache"
    build_cache(recordings[:1], folder, RATE)
    pcm, index = next(folder.rglob("*.pcm")), next(folder.rglob("*.json"))
    pcm.write_bytes(pcm.read_bytes()[:1000])
    assert CachedAudio(folder, RATE).read(recordings[0]) is None
    assert "is shorter than its index says" in caplog.text
    assert build_cache(recordings[:1], folder, RATE) == 1
    index.write_text("{")
    assert CachedAudio(folder, RATE).read(recordings[0]) is None
    assert "is no index of cached audio" in caplog.text


def test_broken_files_are_left_out_of_the_cache(tmp_path, recordings, caplog):
    write(tmp_path / "one" / "bad.wav", noise(RATE))
    bad = truncated(tmp_path / "one" / "bad.wav", 0.3)
    assert build_cache([bad, *recordings], tmp_path / "cache", RATE) == 5
    assert "bad.wav: ends after" in caplog.text
    assert CachedAudio(tmp_path / "cache", RATE).read(bad) is None


def test_one_builder_at_a_time(tmp_path, recordings):
    import fcntl

    folder = tmp_path / "cache"
    build_cache(recordings[:1], folder, RATE)
    with open(next(folder.rglob("*.pcm")), "ab") as pcm:
        fcntl.flock(pcm, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"\.pcm is being written by another process"):
            build_cache(recordings, folder, RATE)


@pytest.mark.data
def test_real_recordings(real_data):
    files = [real_data / "maestro/development_audio/cafe_restaurant/cafe_restaurant_14.wav"]
    files += sorted((real_data / "events").rglob("*.wav"))[::10] + sorted((real_data / "audioset/mp3").rglob("*.mp3"))
    assert len(files) > 5
    for path in files:
        audio, rate = decode(path)
        whole = read(path, RATE, resample=True)
        assert len(whole) == pytest.approx(len(audio) * RATE / rate, abs=2)
        assert 0 < np.abs(whole).max() < 1.5
