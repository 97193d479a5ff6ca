"""Effect of every augmentation of imitations on the demo of ex_qvim: a training with each switch alone, and with all.

    python -m benchmarks.augmentation_vocal
    python -m benchmarks.augmentation_vocal --seeds 1 2 3 4 5 --epochs 40 --out augmentation.png

Every training tests the checkpoint of its highest MRR on the queries that choose it, as the recipe does; so what counts
is the difference to the training without augmentation. A row is the mean over seeds, with the range; ``seconds`` are of
a training. Words such as ``data.duration=2.0`` are settings of all of them.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import time

import numpy as np
from sacred.arg_parser import get_config_updates

import ex_qvim
from helpers.ingredients import plain
from helpers.plots import COLOURS, new_figure, plain_label, save_figure

SWITCHES = {
    "pitch_shift": {"pitch_shift": 2.0},
    "time_stretch": {"time_stretch": 0.2},
    "gain": {"gain_augment": 6.0},
    "crop": {"crop": 0.3},
    "mix": {"mix_p": 0.5},
}
ALL = {name: value for switch in SWITCHES.values() for name, value in switch.items()}
TRAININGS = {"none": {}, **SWITCHES, "all": ALL, "all, references too": {**ALL, "augment_references": True}}
# The schedule of the demo for any number of epochs.
SHARES = {"optimizer.warmup_percent": 0.12, "optimizer.rampdown_percent": 0.8}


def trained(switches, seed, epochs, folder, words):
    """MRR of a training, the expected one of a random ranking, and the seconds it took."""
    updates = {
        "seed": seed, "test_untrained": False, "trainer.max_epochs": epochs, "trainer.default_root_dir": folder,
        "trainer.enable_progress_bar": False, **SHARES, **{f"data.{name}": value for name, value in switches.items()},
        **get_config_updates(words)[0],
    }  # fmt: skip
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        run = ex_qvim.ex.run(config_updates=updates, named_configs=["demo"])
    seconds = time.perf_counter() - start
    chance = ex_qvim.baselines(("random",), ex_qvim.evaluated(plain(run.config)))["random"]
    return run.result["test/mrr"], chance.values()["mrr"], seconds


def plot(values, chance, path):
    """Bars of the means over seeds.

    Args:
        values: name -> MRR of every seed.
        chance: MRR of a random ranking.
        path: PNG file.
    """
    figure = new_figure(7.0, 1.2 + 0.4 * len(values))
    axes = figure.add_subplot()
    for row, (name, found) in enumerate(values.items()):
        axes.barh(row, np.mean(found), color=COLOURS[5] if name == "none" else COLOURS[0], height=0.65)
        axes.plot([min(found), max(found)], [row, row], color="black", linewidth=1.2)
        axes.plot(found, [row] * len(found), "o", color="black", markersize=3)
    axes.axvline(np.mean(values["none"]), color="0.4", linewidth=0.8)
    axes.axvline(chance, color=COLOURS[1], linewidth=1.2, linestyle="--", label="random ranking")
    axes.set_yticks(range(len(values)), [plain_label(name) for name in values])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("MRR on held-out queries of the demo: mean, range and values of the seeds")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_title("Augmentation of imitations", loc="left")
    return save_figure(figure, path)


def main(argv=None):
    """Prints a table row by row, then draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="settings of ex_qvim")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(TRAININGS)[1:], help="switches (default: all)")
    parser.add_argument("--out", default="augmentation_vocal.png", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    print("| augmentation | MRR | lowest | highest | seconds |")
    print("| --- | ---: | ---: | ---: | ---: |")
    values, chance = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("none", *(options.only or list(TRAININGS)[1:])):
            rows = [trained(TRAININGS[name], seed, options.epochs, folder, options.words) for seed in options.seeds]
            values[name], chance, seconds = [row[0] for row in rows], rows[0][1], np.mean([row[2] for row in rows])
            low, high = min(values[name]), max(values[name])
            print(f"| {name} | {np.mean(values[name]):.3f} | {low:.3f} | {high:.3f} | {seconds:.1f} |", flush=True)
    print(f"random ranking: {chance:.3f}; figure: {plot(values, chance, options.out)}")


if __name__ == "__main__":
    main()
