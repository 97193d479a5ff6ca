"""Stored similarities of captions and clips for ex_clotho: from a tested model, ensembles, and what they are worth."""

from pathlib import Path

import rich

from helpers.caption_report import Retrieved, hardest_table, write_retrieval
from helpers.caption_scores import caption_scores, ensemble, read_caption_scores
from helpers.evaluation import Bootstrap
from helpers.evaluation_report import evaluation_table


def scores_of(metrics, clips, config):
    """The similarities of a test.

    Args:
        metrics: :class:`helpers.caption_metrics.CaptionMetrics` after it.
        clips: of the test.
        config: of the run.
    """
    scores, captions, numbers = metrics.scores()
    about = {"arch": config["arch"], "weights": str(config["pretrained_name"]), "text": config["text"]["model"]}
    return caption_scores(config["test_on"], clips.rows, scores, captions, numbers, clips.relevance, about)


def read_systems(files, split, weights=None):
    """Name -> scores of every file, and of their ensemble where there are several.

    Args:
        files: one path or several.
        split: what they must be of.
        weights: of the members; None: all alike.

    Raises:
        FileNotFoundError, ValueError: a file that is not there, is damaged or of another split, or does not fit.
    """
    paths = [files] if isinstance(files, str) else list(files)
    members = [read_caption_scores(path, split) for path in paths]
    names = [Path(path).stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    systems = dict(zip(names, members))
    if len(members) > 1:
        systems["ensemble"] = ensemble(members, weights)
    return systems


def show(systems, folder, split):
    """Tables and figures of systems, the last of which is the one that counts."""
    rows, _ = write_retrieval(systems, folder, Bootstrap(), split)
    rich.print(evaluation_table(rows, f"retrieval on {split}"))
    rich.print(hardest_table(Retrieved.of(list(systems.values())[-1])))
    print(f"tables and figures: {folder}")
