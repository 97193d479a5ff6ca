"""Time of tuning bounding boxes by class and PSDS1, on one core and made-up scores as large as the DESED test set.

    python -m benchmarks.csebbs                       # 1,168 clips x 156 frames x 10 classes, 8 x 16 grid points
    python -m benchmarks.csebbs --clips 200 --objective psds2

The scores are those of :mod:`benchmarks.psds`. Beside it, a plain evaluation clip by clip: the same boxes as score
tables through sed_scores_eval, measured at the middle of both kinds of thresholds and extrapolated to the whole grid.
"""

import argparse
import os

import numpy as np

from benchmarks.psds import SECONDS, make_events, make_scores, timed
from helpers.boxes import Parameters, detect
from helpers.metrics import PSDS1, PSDS2, psd_roc
from helpers.scores import ScoreTable
from helpers.tuning import Grid, tune

CRITERIA = {"psds1": PSDS1, "psds2": PSDS2}


def plain_seconds(table, events, durations, grid, criteria):
    """Mean wall-clock and processor seconds of one grid point through score tables and sed_scores_eval."""
    length = grid.step_filter_lengths[len(grid.step_filter_lengths) // 2]
    points = [grid.thresholds[len(grid.thresholds) * i // 4] for i in (1, 3)]
    times = []
    for thresholds in points:
        boxes = detect(table, Parameters(length, *thresholds))
        times.append(timed(lambda boxes=boxes: psd_roc(boxes.score_frames(), events, durations, criteria))[1:])
    return np.mean(times, axis=0)


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1168)
    parser.add_argument("--frames", type=int, default=156)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--objective", choices=CRITERIA, default="psds1")
    parser.add_argument("--core", type=int, default=0, help="the processor core to stay on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    rng = np.random.default_rng(options.seed)
    labels = tuple(f"class{k:03d}" for k in range(options.classes))
    events = make_events(options.clips, options.classes, rng)
    scores = make_scores(events, options.frames, labels, "float32", rng)
    durations = dict.fromkeys(events, SECONDS)
    table = ScoreTable(tuple(events), scores, np.linspace(0.0, SECONDS, options.frames + 1), labels)
    grid = Grid()
    points = len(grid.step_filter_lengths) * len(grid.thresholds)
    tuned, wall, processor = timed(lambda: tune(table, events, durations, grid, objective=options.objective))
    plain_wall, plain_processor = plain_seconds(table, events, durations, grid, CRITERIA[options.objective]) * points
    size = " x ".join(f"{n:,}" for n in scores.shape)
    print(f"| {size}, {points} grid points, {options.objective} | mean | s | s of the core |")
    print("| --- | --- | --- | --- |")
    print(f"| tuning by class | {tuned.value:.4f} | {wall:.1f} | {processor:.1f} |")
    print(f"| score tables and sed_scores_eval, 2 of {points} points x {points / 2:.0f} | | "
          f"{plain_wall:.0f} | {plain_processor:.0f} |")  # fmt: skip
    print(f"| ratio | | {plain_wall / wall:.0f} | {plain_processor / processor:.0f} |")


if __name__ == "__main__":
    main()
