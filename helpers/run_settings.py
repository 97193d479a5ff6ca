"""Settings that a network was trained with, taken over from the checkpoint of its run."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from helpers.checkpoints import config_of_run, read


def with_settings_of(name, config: Mapping, given: Collection[str], entries: Sequence[str]) -> dict:
    """A config in which what the user left open is as in the run that wrote the weights.

    Args:
        name: the config's ``pretrained_name``; anything but a checkpoint of a run leaves the config as it is.
        config: of this run.
        given: dotted names of the entries that the user set.
        entries: what is taken over: entries, sections, or entries of a section by their dotted names. Those that
            the other run does not have are left.

    Returns:
        the config; ``config`` is left as it is.

    Raises:
        ValueError: another architecture is asked for than that of the run; the file is damaged.
    """
    theirs = config_of_run(read(name)) if name is not None and Path(name).is_file() else {}
    return taken_over(theirs, name, config, given, entries)


def taken_over(theirs: Mapping, name, config: Mapping, given: Collection[str], entries: Sequence[str]) -> dict:
    """The same for the config ``theirs`` of that run; empty where there was none."""
    if not theirs:
        return dict(config)
    if "arch" in given and config["arch"] != theirs["arch"]:
        raise ValueError(f"{name} is for arch={theirs['arch']}, but arch={config['arch']} is asked for")
    result = dict(config)
    for entry in entries:
        section, _, key = entry.partition(".")
        if section not in theirs or section not in config:
            continue
        if not isinstance(config[section], Mapping):
            result[section] = config[section] if entry in given else theirs[section]
            continue
        found = {key: theirs[section][key]} if key and key in theirs[section] else {} if key else theirs[section]
        kept = {key: value for key, value in found.items() if f"{section}.{key}" not in given}
        result[section] = {**result[section], **kept}
    return result
