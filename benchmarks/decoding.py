"""Clips per second that one core reads, and reads and turns into mel spectrograms, from every kind of storage.

    python -m benchmarks.decoding
    python -m benchmarks.decoding --audio recording.wav --clips 100

Clips of 10 s are read as training reads them: one by one from a tagging data set, decoded, averaged to mono, resampled
to 32 kHz where needed. The mel front end is that of the MobileNets, on batches of 8. Times are processor seconds of
one thread, so other work on the machine hardly counts, and medians over repetitions after a warm-up; every row is also
given relative to the first, which is what carries over to another machine.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from data_util.cache import CachedAudio, build_cache
from data_util.hdf5_audio import Hdf5Audio
from data_util.listings import Listing
from data_util.pack import pack, usable_format
from data_util.tagging_clips import AudioFiles, TaggingClips, packed

SECONDS, RATE, BATCH = 10, 32000, 8
LONG = 60  # clips in a long recording


def processor_seconds(work, repetitions):
    """Median processor time of ``work()`` after a warm-up."""
    durations = []
    for _ in range(repetitions + 1):
        start = time.process_time()
        work()
        durations.append(time.process_time() - start)
    return float(np.median(durations[1:]))


def recording(path=None, seed=0):
    """10 s of a file, or tones in noise whose level rises and falls, [samples] float32 at 32 kHz."""
    if path:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return np.resize(soxr.resample(audio.mean(axis=1), rate, RATE), SECONDS * RATE)
    rng = np.random.default_rng(seed)
    instants = np.arange(SECONDS * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * f * instants) / n for n, f in enumerate(rng.uniform(100, 8000, 20), start=1))
    noise = np.cumsum(rng.normal(0, 0.05, len(instants))) % 1 - 0.5
    level = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * instants)
    return (0.1 * level * (tones + noise)).astype(np.float32)


def storages(folder, clips, audio):
    """(name, audio of :class:`TaggingClips`) of every kind of storage of the same clips."""
    waveforms = [audio if audio is not None else recording(seed=seed) for seed in range(clips)]

    def files(name, suffix, rate=RATE, waveforms=waveforms):
        paths = [folder / name / f"{number}.{suffix}" for number in range(len(waveforms))]
        paths[0].parent.mkdir()
        for path, waveform in zip(paths, waveforms):
            soundfile.write(path, waveform if rate == RATE else soxr.resample(waveform, RATE, rate), rate)
        return [str(path) for path in paths]

    wav = files("wav", "wav")
    listing = Listing(wav, ("any",), packed([[0]] * clips, 1))
    for kind in dict.fromkeys((usable_format(), "flac")):
        path = pack(listing, folder / f"{kind}.hdf", RATE, kind).path
        yield f"{kind} in HDF5", Hdf5Audio([path])
    yield "wav, 16 bit", AudioFiles(wav)
    yield "flac", AudioFiles(files("flac", "flac"))
    yield "wav at 44.1 kHz", AudioFiles(files("wav44", "wav", 44100))
    build_cache(wav, folder / "cache", RATE)
    yield "cache of waveforms", AudioFiles(wav, CachedAudio(folder / "cache", RATE))
    whole = np.concatenate([waveforms[number % clips] for number in range(LONG)])
    long = files("long", "flac", waveforms=[whole])
    yield f"flac of {LONG * SECONDS // 60} min, an excerpt", AudioFiles(long * clips)


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="a recording that every clip is made of (default: tones and noise)")
    parser.add_argument("--clips", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    import models

    torch.set_num_threads(1)
    mel = models.build("mn10_as")[0].eval()
    mel.input_rate = RATE
    audio = recording(options.audio) if options.audio else None
    print("| 10 s clips | read, clips/s | relative | read + mel, clips/s | relative |")
    print("| --- | --- | --- | --- | --- |")
    first = None
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name, source in storages(Path(folder), options.clips, audio):
            data = TaggingClips(source, ("any",), packed([[0]] * len(source), 1), sample_rate=RATE, clip_length=SECONDS)

            def read(data=data):
                return [data[index, (0, 0, index)]["audio"] for index in range(len(data))]

            def read_and_mel(read=read):
                for batch in torch.stack(read()).split(BATCH):
                    mel(batch)

            speeds = [len(data) / processor_seconds(work, options.repetitions) for work in (read, read_and_mel)]
            first = first or speeds
            columns = (f"{speed:.0f} | {speed / reference:.2f}" for speed, reference in zip(speeds, first))
            print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
