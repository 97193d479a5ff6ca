"""Time of all metrics of retrieval by captions, on scores as many as those of Clotho's evaluation split, on one core.

    python -m benchmarks.retrieval                                # 5,225 captions x 1,045 clips
    python -m benchmarks.retrieval --clips 3839 --right 4

Random scores, higher for right pairs; five captions for each clip. ``metrics`` are mAP@10, mAP@16 and R@1, 5, 10 of
every query in both directions; with ``ranks and curves`` come the rank of every query and R@k for all k. ``plain`` is
the same metrics as they are commonly written: query by query, all items sorted. ``intervals`` are a bootstrap of 200
resamples over clips. ``write`` and ``read`` are a score file. The best of some rounds counts.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from helpers.caption_metrics import PRECISIONS, RECALLS, caption_values
from helpers.caption_report import Retrieved, write_ranks
from helpers.caption_scores import CaptionScores, caption_id, read_caption_scores
from helpers.evaluation import Bootstrap

CAPTIONS = 5  # of a clip


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


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1045)
    parser.add_argument("--right", type=int, default=1, help="right clips of a caption (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0, help="the processor core to stay on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
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


if __name__ == "__main__":
    main()
