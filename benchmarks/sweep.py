"""What a sweep costs per trial, beside the training: choosing, storing, reporting and pruning.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --trials 50 500 --steps 20 --processes 1 4

Trials train nothing. They report a value per step, as a training does after every epoch, and their value depends on
the hyper-parameters, which are those of the published search. ``begin``: importing Optuna, and making or opening the
file. ``per trial``: all between two trials and within them, divided by their number; with several processes, which
share the study, the time during which each of them is kept from training. Most of it is waiting for the disk, which
makes every step safe; ``processor`` is the rest.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPACE = {
    "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-3},
    "encoder.fc_dropout": {"type": "float", "low": 0.1, "high": 0.5},
    "encoder.dropout": {"type": "float", "low": 0.1, "high": 0.5},
    "encoder.units": {"type": "int", "low": 256, "high": 2048},
    "encoder.freeze": {"type": "categorical", "choices": [1, 2, 3, 4, 5, 6]},
    "temperature": {"type": "float", "low": 0.03, "high": 0.1},
}
SAMPLERS = ("random", "tpe", "gp")


def measure(path, trials, steps, sampler, pruner):
    """Seconds of one process: to begin, and in its trials; and how many they were."""
    start = time.perf_counter()
    from helpers.sweep_space import read_space
    from helpers.sweep_study import Settings
    from helpers.sweeps import Worker

    done = []

    def run(changes, report):
        done.append(changes)
        final = -math.log10(changes["optimizer.lr"]) - changes["encoder.dropout"]
        for step in range(steps):
            report(step, final * (step + 1) / steps)
        return final

    settings = Settings(n_trials=trials, sampler=sampler, pruner=pruner)
    worker = Worker(run, read_space(SPACE), Path(path), settings)
    begun, processor = time.perf_counter(), time.process_time()
    worker.work()
    seconds, processor = time.perf_counter() - begun, time.process_time() - processor
    return {"begin": begun - start, "trials": len(done), "seconds": seconds, "processor": processor}


def in_processes(count, *arguments):
    """The same in ``count`` processes of their own at once."""
    command = [sys.executable, "-m", "benchmarks.sweep", "--measure", json.dumps(arguments)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def main(argv=None):
    """Prints a row per kind of sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="+", type=int, default=[20, 100], help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="reports of a trial (default: %(default)s)")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2], help="(default: %(default)s)")
    parser.add_argument(
        "--samplers", nargs="+", choices=SAMPLERS, default=["random", "tpe"], help="(default: %(default)s)"
    )
    parser.add_argument("--folder", help="of the studies; its file system counts (default: a temporary one)")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    print(
        f"| sampler | pruner, {options.steps} reports | processes | trials | begin, s | per trial, ms | processor, ms |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for sampler in options.samplers:
        for pruner, steps in ((None, 0), ("median", options.steps)):
            for processes in options.processes:
                for trials in options.trials:
                    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                        path = str(Path(folder) / "study.db")
                        found = in_processes(processes, path, trials, steps, sampler, pruner)
                    print(
                        f"| {sampler} | {pruner or 'none, no report'} | {processes} | {trials} {cells(found)}",
                        flush=True,
                    )


def cells(found):
    """The end of a row, from what the processes measured."""
    begin, trials = max(one["begin"] for one in found), sum(one["trials"] for one in found)
    each, processor = (1000 * sum(one[name] for one in found) / trials for name in ("seconds", "processor"))
    return f"| {begin:.1f} | {each:.0f} | {processor:.0f} |"


if __name__ == "__main__":
    main()
