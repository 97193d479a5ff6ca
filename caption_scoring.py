"""Stored similarities of captions and clips for ex_clotho: from a test, of ensembles, their metrics, as a teacher."""

from pathlib import Path

import rich

from helpers.audio_text_losses import SoftTargets
from helpers.caption_report import Retrieved, hardest_table, write_retrieval
from helpers.caption_scores import caption_id, caption_scores, ensemble, read_caption_scores
from helpers.evaluation import Bootstrap
from helpers.evaluation_report import evaluation_table

RESERVED = {"ensemble", "chance"}  # systems of the table that no file is called by


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
    paths = _paths(files)
    members = [read_caption_scores(path, split) for path in paths]
    names = [Path(path).stem for path in paths]
    if len(set(names)) < len(names) or not RESERVED.isdisjoint(names):
        names = [str(path) for path in paths]
    systems = dict(zip(names, members))
    if weights is not None and len(members) == 1:
        raise ValueError("weights are those of an ensemble, expected several files of scores")
    if len(members) > 1:
        systems["ensemble"] = ensemble(members, weights)
    return systems


def soft_targets(entries, pairs):
    """What the mean of stored similarities teaches, or None.

    Args:
        entries: of the config section ``data``; ``teacher_scores`` are one or several files of the training split.
        pairs: the training set, a :class:`data_util.captioned_clips.AudioCaptions`, or None.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_systems`, or there are no similarities of a clip or caption.
    """
    if pairs is None or not entries["teacher_scores"]:
        return None
    members = []
    for path in _paths(entries["teacher_scores"]):
        scores = read_caption_scores(path, entries["train_split"])
        texts = dict(zip(scores.ids, scores.captions))
        for row in pairs.rows:
            for number, text in enumerate(row.captions, start=1):
                if texts.get(name := caption_id(row.clip, number)) != text:
                    found = f"'{texts[name]}'" if name in texts else "not there"
                    raise ValueError(f"data.teacher_scores: {path}: caption '{name}' is {found}, expected '{text}'")
        members.append(scores.matrix_of(pairs.rows))
    return SoftTargets(members)


def _paths(files):
    paths = list(files) if isinstance(files, list | tuple) else [files]
    wrong = [path for path in paths if not isinstance(path, str | Path)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no file of stored scores")
    return paths


def show(systems, folder, split):
    """Tables and figures of systems, the last of which is the one that counts."""
    rows, _ = write_retrieval(systems, folder, Bootstrap(), split)
    rich.print(evaluation_table(rows, f"retrieval on {split}"))
    rich.print(hardest_table(Retrieved.of(list(systems.values())[-1])))
    print(f"tables and figures: {folder}")
