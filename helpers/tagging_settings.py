"""Taggers of our own runs: their settings, and whether their classes are those of a data set."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from helpers.checkpoints import Loaded, config_of_run, read
from helpers.run_settings import taken_over


def content_of_run(name) -> dict:
    """What the weights file ``name`` of one of our runs holds; empty where it is none."""
    if name is None or not Path(name).is_file():
        return {}
    content = read(name)
    return content if "classes" in content and config_of_run(content) else {}


def with_settings_of_run(
    config: Mapping, given: Collection[str], content: Mapping, sections: Collection[str], train: bool = False
) -> dict:
    """A config in which all that the user left open is as the tagger of a run was trained.

    That is: the architecture, its sections and the sample rate; to evaluate it also the length of clips, the classes
    of a ``folder`` and, where no data set is chosen, the data.

    Args:
        config: of this run.
        given: dotted names of the entries that the user set.
        content: of the weights file, see :func:`content_of_run`; empty leaves everything as it is.
        sections: names of the sections of all architectures; that of frame-wise heads, ``strong_model``, is one more.
        train: whether that tagger is where a training starts.

    Returns:
        the config; ``config`` is left as it is.

    Raises:
        ValueError: another architecture is asked for than that of the file.
    """
    theirs = config_of_run(content)
    entries = ["arch", "pooling", *sections, "strong_model", "data.sample_rate"]
    if not train:
        entries.append("data.clip_length")
        if config["dataset"] == "folder":
            theirs = theirs and {**theirs, "data": {**theirs["data"], "classes": content["classes"]}}
            entries.append("data.classes")
        elif config["dataset"] is None:
            entries += ["dataset", "demo", "data"]
    return taken_over(theirs, config["pretrained_name"], config, given, entries)


def require_classes(name, loaded: Loaded | None, content: Mapping, classes: Sequence[str], dataset: str):
    """Raises ValueError where a tagger to be evaluated was not trained for the classes of a data set.

    Args:
        name: of the weights.
        loaded: what was loaded of them.
        content: see :func:`content_of_run`.
        classes: of the data set.
        dataset: its name.
    """
    if loaded is None:
        raise ValueError("pretrained_name is None, expected the weights that are to be evaluated")
    theirs = content.get("classes", classes)
    if loaded.left or len(theirs) != len(classes):
        raise ValueError(f"{name} was trained for other classes than the {len(classes)} of {dataset}")
    for number, (one, other) in enumerate(zip(theirs, classes)):
        if one != other:
            raise ValueError(f"{name}: class {number} is '{one}', but '{other}' in {dataset}")
