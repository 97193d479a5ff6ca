"""Draws what `python -m ex_qvim search ... out=FILE.json` found: the spectrograms of a query and of the best sounds.

    python -m docs.pictures found.json docs/images/retrieval.png --right "Music and games/drums_12.wav"

The picture of detections beside it in the README is one that `python -m ex_stage2 eval_predictions` leaves.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from helpers.plots import TRUTH, new_figure, save_figure
from helpers.sound_media import RANGE_DB, excerpt, spectrogram

SECONDS = 4.0


def draw(axes, path, title):
    """The spectrogram of the first seconds of a recording."""
    audio, rate = excerpt(path, 0.0, SECONDS)
    levels, edges = spectrogram(audio, rate)
    axes.imshow(
        levels, origin="lower", aspect="auto", cmap="magma", vmin=-RANGE_DB, vmax=0, interpolation="nearest",
        extent=(0, len(audio) / rate, np.log10(edges[0]), np.log10(edges[-1])),
    )  # fmt: skip
    axes.set_yticks(np.log10([100, 1000]), ["0.1", "1"], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_title(title, fontsize=9)


def picture(found, path, shown=5, right=()):
    """A figure of a search, the query on the left.

    Args:
        found: content of the file that ``search`` wrote.
        path: PNG file to write.
        shown: number of sounds.
        right: paths, below the folder of the sounds, that are drawn with a green frame.
    """
    hits = found["results"][:shown]
    figure = new_figure(10, 2.4)
    first, *others = figure.subplots(1, 1 + len(hits), width_ratios=[1.25] + [1] * len(hits))
    draw(first, found["query"], "query: an imitation")
    first.set_ylabel("kHz", fontsize=8)
    for axes, hit in zip(others, hits):
        name = Path(hit["path"]).stem.rsplit("_", 1)[0].replace("_", " ")
        draw(axes, Path(found["sounds"]) / hit["path"], f"{hit['rank']}: {name}\n{hit['score']:.2f}")
        axes.set_yticks([])
        if hit["path"] in right:
            for spine in axes.spines.values():
                spine.set(color=TRUTH, linewidth=3)
    return save_figure(figure, path)


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, help="file that `search` wrote")
    parser.add_argument("out", type=Path, help="PNG file")
    parser.add_argument("--shown", type=int, default=5, help="number of sounds (default: %(default)s)")
    parser.add_argument("--right", nargs="*", default=(), metavar="SOUND", help="gets a green frame")
    options = parser.parse_args(argv)
    found = json.loads(options.found.read_text(encoding="utf-8"))
    print(picture(found, options.out, options.shown, options.right))


if __name__ == "__main__":
    main()
