"""Time and memory of PSDS1 on made-up scores as large as the evaluation set of AudioSet-strong, on one core.

    python -m benchmarks.psds                                     # 16,900 clips x 250 frames x 407 classes
    python -m benchmarks.psds --clips 2000 --classes 50 --scenario psds2 --dtype float32

A random walk per clip and class, higher within events, goes through a sigmoid; events are sparse and long-tailed, 8 per
clip. A second table compares value and time with sed_scores_eval on a few of the clips and classes.
"""

import argparse
import os
import resource
import sys
import time

import numpy as np

from helpers.candidates import Truth
from helpers.fast_metrics import class_psds, psds_of_scores
from helpers.metrics import PSDS1, PSDS2
from helpers.scores import ScoreTable, merge_events

SCENARIOS = {"psds1": PSDS1, "psds2": PSDS2}
SECONDS = 10.0
EVENTS_PER_CLIP = 8


def make_events(clips, classes, rng):
    """Sparse events: few classes are frequent, most are rare; every class has one at least."""
    share = 1.0 / np.arange(1, classes + 1)
    drawn = rng.choice(classes, size=(clips, EVENTS_PER_CLIP), p=share / share.sum())
    drawn.flat[:classes] = np.arange(classes)[: drawn.size]
    length = np.clip(rng.lognormal(0.0, 1.2, drawn.shape), 0.1, SECONDS)
    onset = rng.random(drawn.shape) * (SECONDS - length)
    return {
        f"clip{i:05d}": merge_events(
            (round(on, 3), round(on + duration, 3), f"class{label:03d}")
            for on, duration, label in zip(onset[i].tolist(), length[i].tolist(), drawn[i].tolist())
        )
        for i in range(clips)
    }


def make_scores(events, frames, labels, dtype, rng, chunk=64):
    """[clips, frames, classes] scores that find most events."""
    column = {label: k for k, label in enumerate(labels)}
    scores = np.empty((len(events), frames, len(labels)), dtype=dtype)
    centres = (np.arange(frames) + 0.5) * SECONDS / frames
    clips = list(events)
    for start in range(0, len(clips), chunk):
        part = clips[start : start + chunk]
        steps = rng.standard_normal((len(part), frames, len(labels)), dtype=np.float32)
        walk = np.empty_like(steps)
        walk[:, 0] = 1.5 * steps[:, 0] - 6.0
        for t in range(1, frames):
            walk[:, t] = 0.95 * walk[:, t - 1] + 0.05 * -6.0 + 0.5 * steps[:, t]
        for i, clip in enumerate(part):
            for onset, offset, label in events[clip]:
                walk[i, (centres >= onset) & (centres < offset), column[label]] += 5.0
        scores[start : start + chunk] = 1.0 / (1.0 + np.exp(-walk))
    return scores


def timed(work):
    """Result, wall-clock and processor seconds of ``work()``."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def compare(table, events, durations, criteria, clips, classes):
    """Largest difference to sed_scores_eval in any class or in the mean, and both times in seconds."""
    from sed_scores_eval import intersection_based

    part = table.select(table.clips[:clips])
    found = {clip: [event for event in events[clip] if event[2] in table.labels] for clip in part.clips}
    labels = [label for label in table.labels if any(label == e[2] for kept in found.values() for e in kept)][:classes]
    found = {clip: [event for event in kept if event[2] in labels] for clip, kept in found.items()}
    part = part.select(labels=labels)
    lengths = {clip: durations[clip] for clip in part.clips}
    truth = Truth.of(found, lengths, part.clips, labels)
    ours, our_time, _ = timed(lambda: psds_of_scores(part, truth, criteria))
    frames = part.data_frames()
    (value, single, _, _), their_time, _ = timed(lambda: intersection_based.psds(frames, found, lengths, **criteria))
    differences = [abs(single[label] - area) for label, area in class_psds(ours, labels).items()]
    return max(abs(value - ours.value), *differences), our_time, their_time


def main(argv=None):
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16900)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--classes", type=int, default=407)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--scenario", choices=SCENARIOS, default="psds1")
    parser.add_argument("--core", type=int, default=0, help="the processor core to stay on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", type=int, nargs=2, default=(1000, 10), metavar=("CLIPS", "CLASSES"))
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    rng = np.random.default_rng(options.seed)
    labels = tuple(f"class{k:03d}" for k in range(options.classes))
    events = make_events(options.clips, options.classes, rng)
    scores = make_scores(events, options.frames, labels, options.dtype, rng)
    durations = dict.fromkeys(events, SECONDS)
    table = ScoreTable(tuple(events), scores, np.linspace(0.0, SECONDS, options.frames + 1), labels)
    criteria = SCENARIOS[options.scenario]

    def evaluate():
        return psds_of_scores(table, Truth.of(events, durations, table.clips, labels), criteria)

    roc, wall, processor = timed(evaluate)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    size = " x ".join(f"{n:,}" for n in scores.shape)
    print(f"| {options.dtype} scores | {options.scenario} | s | s of the core | peak GiB | of it the scores |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(f"| {size} | {roc.value:.4f} | {wall:.1f} | {processor:.1f} | {peak:.2f} | {scores.nbytes / 2**30:.2f} |")
    clips, classes = np.minimum(options.compare, (options.clips, options.classes)).tolist()
    difference, ours, theirs = compare(table, events, durations, criteria, clips, classes)
    print("\n| on a part | largest difference to sed_scores_eval | s | s of sed_scores_eval | ratio |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| {clips} clips, {classes} classes | {difference:.1e} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.0f} |")


if __name__ == "__main__":
    main()
