"""Time of features, of a training epoch, of all metrics of retrieval by captions, and of a sweep, on one core.

    python -m benchmarks.retrieval                          # metrics of 5,225 captions x 1,045 clips
    python -m benchmarks.retrieval --only metrics --clips 3839 --right 4
    python -m benchmarks.retrieval --only features training --channels 64 128 256 512 1024 2048

Features: hours of audio whose log mels (cnn14_clotho, 44.1 kHz) are computed per minute, from wav files of noise of
15 to 30 s, or of the files below ``--audio``, into the cache; beside it, where librosa is installed, its log mels file
by file, as published. Training: an epoch from such a cache with stored sentence embeddings, in batches of 32 pairs, of
CNN14 with the channels of the demo; some steps are timed, and an epoch of Clotho is 600 of them.

Metrics: random scores, higher for right pairs; five captions for each clip. ``metrics`` are mAP@10, mAP@16 and R@1, 5,
10 of every query in both directions; with ``ranks and curves`` come the rank of every query and R@k for all k.
``plain`` is the same metrics as they are commonly written: query by query, all items sorted. ``intervals`` are a
bootstrap of 200 resamples over clips. ``write`` and ``read`` are a score file. The best of some rounds counts. The
sweep is that of ``benchmarks.sweep``.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import sweep
from helpers.caption_metrics import PRECISIONS, RECALLS, caption_values
from helpers.caption_report import Retrieved, write_ranks
from helpers.caption_scores import CaptionScores, caption_id, read_caption_scores
from helpers.evaluation import Bootstrap

CAPTIONS = 5  # of a clip
RATE = 44100  # Hz
STEPS = 600  # of an epoch: 19,195 captions in batches of 32
PARTS = ("features", "training", "metrics", "sweep")


def make_scores(clips, right, rng):
    """Scores of made-up captions and clips; a caption has its own clip and ``right - 1`` others as right ones."""
    owners = np.repeat(np.arange(clips), CAPTIONS)
    relevant = owners[:, None] == np.arange(clips)
    for _ in range(right - 1):
        relevant[np.arange(len(owners)), rng.integers(clips, size=len(owners))] = True
    scores = rng.standard_normal(relevant.shape, dtype=np.float32)
    scores[relevant] += 2
    ids = tuple(caption_id(f"clip {owner}", 1 + number % CAPTIONS) for number, owner in enumerate(owners))
    files = tuple(f"clip {number}.wav" for number in range(clips))
    return CaptionScores("evaluation", files, ids, ids, scores, relevant)


def plain_values(scores, relevant):
    """Means of all metrics in one direction, query by query."""
    sums = {}
    for row, right in zip(scores, relevant):
        ordered = right[np.argsort(-row)]
        for k in PRECISIONS:
            positions = np.flatnonzero(ordered[:k]) + 1
            precisions = np.arange(1, len(positions) + 1) / positions
            sums[f"mAP@{k}"] = sums.get(f"mAP@{k}", 0) + precisions.sum() / right.sum()
        for k in RECALLS:
            sums[f"R@{k}"] = sums.get(f"R@{k}", 0) + ordered[:k].sum() / right.sum()
    return {name: total / len(scores) for name, total in sums.items()}


def plain(stored):
    """The same in both directions."""
    scores, relevant = stored.scores, stored.relevant
    to_text = plain_values(scores.T, relevant.T)
    return plain_values(scores, relevant) | {f"a2t/{name}": value for name, value in to_text.items()}


def ranks_and_curves(stored):
    """All metrics, the rank of every query, and recall curves."""
    found = Retrieved.of(stored)
    ranks = found.to_audio.first_rank(), found.to_text.first_rank()
    return found.values(), ranks, found.to_audio.recall_curve(), found.to_text.recall_curve()


def timed(work, rounds):
    """Result, and the least wall-clock and processor seconds of ``work()``."""
    seconds = []
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        seconds.append((time.perf_counter() - wall, time.process_time() - processor))
    return result, *np.min(seconds, axis=0)


# -- features and training --------------------------------------------------------------------------------------------
def make_clips(folder, clips, rng):
    """Wav files of noise of 15 to 30 s; their paths."""
    import soundfile

    paths = [Path(folder) / f"clip {number}.wav" for number in range(clips)]
    for path in paths:
        soundfile.write(path, rng.normal(0, 0.1, round(rng.uniform(15, 30) * RATE)).clip(-1, 1), RATE)
    return paths


def cached_features(paths, file):
    """Fills the cache as ``ex_clotho`` does, in one thread; what :func:`data_util.feature_cache.build_features` did."""
    import torch

    import models
    from data_util.feature_cache import build_features

    mel = models.build("cnn14_clotho", {"cnn14_clotho": {"channels": (1,) * 6}})[0].eval()

    @torch.inference_mode()
    def log_mel(waveform):
        return mel(torch.from_numpy(waveform)[None])[0, 0].T.numpy()

    clips = {f"{number}": str(path) for number, path in enumerate(paths)}
    return build_features(file, clips, log_mel, RATE, {"benchmark": "features"}, workers=1)


def librosa_features(paths):
    """Log mels file by file with librosa, as published, in memory."""
    import librosa

    found = []
    for path in paths:
        audio, rate = librosa.load(path, sr=None, mono=True)
        mel = librosa.feature.melspectrogram(
            y=audio, sr=rate, n_fft=2048, hop_length=882, win_length=1764, n_mels=64, power=2.0
        )
        found.append(np.log(mel + np.spacing(1)).T)
    return found


def measure_features(options, folder):
    """Rows of the table, and the file of features."""
    paths = sorted(Path(options.audio).expanduser().rglob("*.wav")) if options.audio else None
    paths = paths or make_clips(folder, options.audio_clips, np.random.default_rng(options.seed))
    import soundfile

    hours = sum(soundfile.info(path).duration for path in paths) / 3600
    file = Path(folder) / "features.hdf5"
    cached_features(paths[:1], Path(folder) / "first.hdf5")  # the first use prepares tables and plans
    _, wall, _ = timed(lambda: cached_features(paths, file), 1)
    print(f"| log mels into the cache, h of audio / min | {hours / wall * 60:.2f} |", flush=True)
    try:
        librosa_features(paths[:1])
    except ImportError:
        print("| log mels of librosa | left out: librosa is not installed |")
    else:
        _, wall, _ = timed(lambda: librosa_features(paths), 1)
        print(f"| log mels of librosa, h of audio / min | {hours / wall * 60:.2f} |", flush=True)
    return file


def measure_training(options, file):
    """A row of the table: an epoch of Clotho, from the time of some steps."""
    import torch

    from data_util.captioned_clips import AudioCaptions, Features
    from data_util.captions import Captioned
    from data_util.clotho import caption_loader
    from data_util.feature_cache import CachedFeatures
    from helpers.audio_text import make_optimizer
    from helpers.audio_text_losses import AudioTextLoss
    from models.audio_text import build_audio_text

    cache, rng = CachedFeatures(file), np.random.default_rng(options.seed)
    ids = sorted(cache.ids)
    rows = [Captioned(f"{ids[number % len(ids)]}.wav", ("",) * CAPTIONS) for number in range(32 * options.steps)]
    pairs = AudioCaptions(rows, Features(cache, [row.clip for row in rows]), "one")
    _, model = build_audio_text("cnn14_clotho", {"cnn14_clotho": {"channels": tuple(options.channels)}})
    optimizer, objective = make_optimizer(model.train().trained_parameters()), AudioTextLoss()
    seconds, start = [], time.perf_counter()
    for batch in caption_loader(pairs, 32, options.seed):
        text = model.encode_text(torch.from_numpy(rng.standard_normal((32, 768), dtype=np.float32)))
        audio = model.encode_audio(batch["features"].transpose(1, 2)[:, None])
        objective(text, audio, model.tau, torch.arange(32)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    step = float(np.median(seconds))
    print(
        f"| training, s / step of 32 pairs | {step:.2f} |\n| training, min / epoch | {step * STEPS / 60:.1f} |",
        flush=True,
    )


# -- tables -----------------------------------------------------------------------------------------------------------
def measure_metrics(options):
    """Prints the table of metrics."""
    stored = make_scores(options.clips, options.right, np.random.default_rng(options.seed))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.hdf5"
        work = {
            "metrics": (lambda: caption_values(stored.scores, stored.relevant), options.rounds),
            "with ranks and curves": (lambda: ranks_and_curves(stored), options.rounds),
            "plain": (lambda: plain(stored), 1),
            "intervals": (lambda: Retrieved.of(stored).rows("model", Bootstrap()), 1),
            "ranks as csv": (lambda: write_ranks(Retrieved.of(stored), folder), 1),
            "write": (lambda: stored.write(path), options.rounds),
            "read": (lambda: read_caption_scores(path, "evaluation"), options.rounds),
        }
        size = f"{len(stored.ids):,} captions x {len(stored.files):,} clips"
        print(f"| {size} | s | s of the core |\n| --- | ---: | ---: |")
        results = {}
        for name, (call, rounds) in work.items():
            results[name], wall, processor = timed(call, rounds)
            print(f"| {name} | {wall:.3f} | {processor:.3f} |", flush=True)
    difference = max(abs(value - results["plain"][name]) for name, value in results["metrics"].items())
    print(f"\nLargest difference between both: {difference:.1e}. mAP@10 {results['metrics']['mAP@10']:.4f}.")


def main(argv=None):
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1045)
    parser.add_argument("--right", type=int, default=1, help="right clips of a caption (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0, help="the processor core to stay on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--audio", help="folder of wav files for the features (default: noise)")
    parser.add_argument("--audio-clips", type=int, default=60, help="files of noise (default: %(default)s)")
    parser.add_argument(
        "--channels", nargs=6, type=int, default=[16, 32, 64, 64, 64, 64], help="(default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=5, help="of training that are timed (default: %(default)s)")
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there
    if {"features", "training"} & set(options.only):
        print("| features and training | |\n| --- | ---: |")
        with tempfile.TemporaryDirectory() as folder:
            file = measure_features(options, folder)
            if "training" in options.only:
                measure_training(options, file)
        print()
    if "metrics" in options.only:
        measure_metrics(options)
    if "sweep" in options.only:
        print()
        sweep.main(["--trials", "50"])


if __name__ == "__main__":
    main()
